//! Check, repair and adoption, and answers that get through on a full system volume.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use belay_volumes::{
    ByteSize, CareError, CheckMode, CheckOutcome, EnsureError, FileSystem, Refusal, VolumeSpec,
    Volumes, place,
};

use crate::lifecycle::fill;
use crate::scratch::{Scratch, spec};

async fn released(volumes: &Volumes, file_system: FileSystem, mib: u64) -> VolumeSpec {
    let wanted = VolumeSpec { file_system, ..spec("web/store", ByteSize::mib(mib)) };
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(mounted.data.join("file"), "content").expect("a file");
    volumes.release(&wanted.id).await.expect("released");
    wanted
}

/// Loses the inode of a directory that is not empty, which e2fsck does not repair on its own.
fn damage(scratch: &Scratch) {
    let image = scratch.image("web/store");
    for command in ["clri data", "set_super_value state 2"] {
        let done = Command::new("debugfs").args(["-w", "-R", command]).arg(&image).output();
        assert!(done.expect("debugfs").status.success(), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_sound_file_systems_sound_and_keeps_the_result() {
    for (file_system, mib) in
        [(FileSystem::Ext4, 16), (FileSystem::Xfs, 300), (FileSystem::Btrfs, 256)]
    {
        let scratch = Scratch::new();
        let volumes = scratch.open().await;
        let wanted = released(&volumes, file_system, mib).await;
        let report = volumes.check(&wanted.id, CheckMode::Report).await.expect("checked");
        assert_eq!(report.outcome, CheckOutcome::Clean, "{file_system}: {}", report.report);
        let kept = volumes.list().await.expect("a list")[0].last_check.clone().expect("kept");
        assert_eq!(kept.outcome, CheckOutcome::Clean);
        let mounted = volumes.ensure(&wanted).await.expect("and it still mounts");
        assert_eq!(fs::read(mounted.data.join("file")).expect("the file"), b"content");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_volume_is_not_checked() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    volumes.ensure(&wanted).await.expect("a volume");
    for mode in [CheckMode::Report, CheckMode::Repair] {
        let error = volumes.check(&wanted.id, mode).await.expect_err("it is mounted");
        assert!(
            matches!(error, CareError::Refused { refusal: Refusal::InUse { .. }, .. }),
            "{error}"
        );
    }
    let nothing = "web/nothing".parse().expect("an id");
    let error = volumes.check(&nothing, CheckMode::Report).await.expect_err("it is not there");
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_system_is_not_mounted_until_it_is_repaired() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = released(&volumes, FileSystem::Ext4, 16).await;
    damage(&scratch);
    let error = volumes.ensure(&wanted).await.expect_err("it is damaged");
    let EnsureError::Damaged { report, .. } = &error else { panic!("{error:?}") };
    assert!(!report.is_empty() && !error.is_retryable());
    scratch.assert_nothing_held();
    let kept = volumes.list().await.expect("a list")[0].last_check.clone().expect("kept");
    assert_eq!(kept.outcome, CheckOutcome::Damaged);
    let report = volumes.check(&wanted.id, CheckMode::Report).await.expect("looked at");
    assert_eq!(report.outcome, CheckOutcome::Damaged, "{}", report.report);
    let repaired = volumes.check(&wanted.id, CheckMode::Repair).await.expect("repaired");
    assert_eq!(repaired.outcome, CheckOutcome::Repaired, "{}", repaired.report);
    volumes.ensure(&wanted).await.expect("and mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_somebody_else_is_a_volume_once_it_is_adopted() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = released(&volumes, FileSystem::Ext4, 16).await;
    let image = scratch.image("web/store");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().expect("mkfs");
    assert!(made.success());
    volumes.ensure(&wanted).await.expect_err("it is another image");
    volumes.adopt(&wanted.id).await.expect("the operator means it");
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    assert!(mounted.data.is_dir());
    let error = volumes.adopt(&wanted.id).await.expect_err("it is mounted");
    assert!(matches!(error, CareError::Refused { refusal: Refusal::InUse { .. }, .. }), "{error}");
    volumes.release(&wanted.id).await.expect("released");
    File::options()
        .write(true)
        .open(&image)
        .and_then(|file| file.set_len(12 << 20))
        .expect("truncated");
    let error = volumes.adopt(&wanted.id).await.expect_err("it is truncated");
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_gets_through_on_a_system_volume_filled_to_the_last_block_and_file() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = VolumeSpec::system("web".parse().expect("a name"));
    let mounted = volumes.ensure(&wanted).await.expect("the system volume");
    let control = mounted.data.join("volume-sync");
    fill(&control.join("everything"));
    let mut files = 0;
    while File::create(control.join(format!("f{files}"))).is_ok() {
        files += 1;
    }
    assert!(files > 100, "{files}");
    let error = File::create(control.join("one-more")).expect_err("nothing is left");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    let directory = File::open(&control).expect("the directory");
    let answer = vec![b'a'; 64 * 1024];
    // A rename over an existing name needs no room in the directory.
    let name = "f2";
    place(&mounted.private, directory.as_fd(), name, &answer, 0o644, volumes.reserve_uid())
        .expect("the answer gets through");
    let found = fs::symlink_metadata(control.join(name)).expect("the answer");
    assert_eq!(
        (found.permissions().mode() & 0o7777, found.uid(), found.gid(), found.len()),
        (0o644, 0, 0, 64 * 1024)
    );
    assert_eq!(fs::read(control.join(name)).expect("the answer"), answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_replaces_a_link_and_does_not_follow_it() {
    let scratch = Scratch::new();
    let outside = scratch.directory.join("outside");
    fs::write(&outside, "untouched").expect("a file of the host");
    let volumes = scratch.open().await;
    let wanted = VolumeSpec::system("web".parse().expect("a name"));
    let mounted = volumes.ensure(&wanted).await.expect("the system volume");
    let control = mounted.data.join("volume-sync");
    symlink(&outside, control.join("response.json")).expect("a link");
    let directory = File::open(&control).expect("the directory");
    let private = &mounted.private;
    place(private, directory.as_fd(), "response.json", b"{}", 0o644, volumes.reserve_uid())
        .expect("placed");
    assert_eq!(fs::read(&outside).expect("the file"), b"untouched");
    assert!(control.join("response.json").symlink_metadata().expect("a file").is_file());
    for name in ["", ".", "..", "a/b"] {
        place(private, directory.as_fd(), name, b"", 0o644, volumes.reserve_uid())
            .expect_err("no name");
    }
}
