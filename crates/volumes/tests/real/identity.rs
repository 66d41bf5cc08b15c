//! An image is what it was made as, or it is refused and left as it is.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use belay_volumes::{ByteSize, EnsureError, FileSystem, Refusal, VolumeSpec, Volumes};

use crate::scratch::{Scratch, spec};

/// A volume that exists and is released.
async fn existing(volumes: &Volumes, scratch: &Scratch) -> VolumeSpec {
    let wanted = spec("web/store", ByteSize::mib(16));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(mounted.data.join("file"), "content").expect("a file");
    volumes.release(&wanted.id).await.expect("released");
    scratch.assert_nothing_held();
    wanted
}

fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a digest").to_owned()
}

/// Asserts that the volume is refused for this reason, with the image as it was and nothing held.
async fn refused(
    volumes: &Volumes,
    scratch: &Scratch,
    wanted: &VolumeSpec,
    expected: impl Fn(&Refusal) -> bool,
) -> String {
    let image = scratch.image("web/store");
    let before = digest(&image);
    let error = volumes.ensure(wanted).await.expect_err("it is refused");
    let EnsureError::Refused { refusal, .. } = &error else { panic!("{error:?}") };
    assert!(expected(refusal), "{error}");
    assert_eq!(digest(&image), before, "the image is untouched");
    scratch.assert_nothing_held();
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_holds_nothing_known_is_never_formatted() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let mut image = File::options().write(true).open(scratch.image("web/store")).expect("image");
    image.write_all(&vec![0x5a; 128 * 1024]).expect("somebody's data");
    drop(image);
    refused(&volumes, &scratch, &wanted, |why| *why == Refusal::Unrecognised).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_made_by_somebody_else_is_refused() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let image = scratch.image("web/store");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().expect("mkfs");
    assert!(made.success());
    refused(&volumes, &scratch, &wanted, |why| matches!(why, Refusal::OtherImage { .. })).await;
    fs::remove_file(scratch.root().join("images/web/store/volume.json")).expect("metadata");
    refused(&volumes, &scratch, &wanted, |why| *why == Refusal::Unmarked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_image_is_refused_with_both_sizes() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let image = File::options().write(true).open(scratch.image("web/store")).expect("image");
    image.set_len(12 << 20).expect("truncated");
    drop(image);
    let text =
        refused(&volumes, &scratch, &wanted, |why| matches!(why, Refusal::Truncated { .. })).await;
    assert!(text.contains("12Mi") && text.contains("16Mi"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_system_than_specified_is_refused() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let other = VolumeSpec { file_system: FileSystem::Xfs, size: ByteSize::mib(300), ..wanted };
    refused(&volumes, &scratch, &other, |why| matches!(why, Refusal::OtherFileSystem { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_size_is_refused_with_both_numbers() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let smaller = VolumeSpec { size: ByteSize::mib(12), ..wanted };
    let text =
        refused(&volumes, &scratch, &smaller, |why| matches!(why, Refusal::Shrink { .. })).await;
    assert!(text.contains("12Mi") && text.contains("16Mi"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_place_of_the_image_is_refused_and_not_followed() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let elsewhere = scratch.directory.join("elsewhere.img");
    fs::rename(scratch.image("web/store"), &elsewhere).expect("moved away");
    std::os::unix::fs::symlink(&elsewhere, scratch.image("web/store")).expect("a link");
    let before = digest(&elsewhere);
    let error = volumes.ensure(&wanted).await.expect_err("it is refused");
    assert!(error.to_string().contains("not a plain file"), "{error}");
    assert_eq!(digest(&elsewhere), before);
    scratch.assert_nothing_held();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_or_corrupt_metadata_is_written_again_from_an_image_with_our_mark() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let metadata = scratch.root().join("images/web/store/volume.json");
    let original = fs::read(&metadata).expect("metadata");
    for damage in [None, Some("{ not json"), Some("")] {
        match damage {
            None => fs::remove_file(&metadata).expect("removed"),
            Some(text) => fs::write(&metadata, text).expect("damaged"),
        }
        let mounted = volumes.ensure(&wanted).await.expect("the mark in the image is enough");
        assert_eq!(fs::read(mounted.data.join("file")).expect("the file"), b"content");
        assert_eq!(fs::read(&metadata).expect("metadata"), original);
        volumes.release(&wanted.id).await.expect("released");
    }
    scratch.assert_nothing_held();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_mount_in_the_volumes_place_is_neither_used_nor_unmounted() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let target = scratch.root().join("mounts/web/store");
    fs::create_dir_all(&target).expect("the mount point");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "somebodys"])
        .arg(&target)
        .status()
        .expect("mount");
    assert!(mounted.success());
    let error = volumes.ensure(&wanted).await.expect_err("the place is taken");
    assert!(error.to_string().contains("tmpfs from somebodys"), "{error}");
    assert!(error.is_retryable());
    volumes.release(&wanted.id).await.expect_err("it is not ours to unmount");
    assert_eq!(scratch.mounts(), [target]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_another_loop_device_holds_is_mounted_through_that_one() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let device = scratch.attach_foreign(&scratch.image("web/store"));
    let mounted = volumes.ensure(&wanted).await.expect("the volume");
    assert_eq!(mounted.device, device, "a second device would corrupt it");
    assert_eq!(scratch.devices(), [device.to_str().expect("ASCII")]);
    let limit = Path::new("/sys/block")
        .join(mounted.device.file_name().expect("a device name"))
        .join("queue/discard_max_bytes");
    let limit = fs::read_to_string(limit).expect("the limit");
    assert_ne!(limit.trim(), "0", "a limit would stay with somebody else's device for good");
    volumes.release(&wanted.id).await.expect("released");
    assert_eq!(scratch.devices(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclean_file_system_is_checked_before_it_is_mounted_and_the_result_is_kept() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = existing(&volumes, &scratch).await;
    let image = scratch.image("web/store");
    // What a power cut leaves: the flag that the file system was not unmounted.
    let mut file = File::options().write(true).open(&image).expect("image");
    file.seek(SeekFrom::Start(1024 + 0x3a)).expect("the state field");
    file.write_all(&[0, 0]).expect("not clean");
    drop(file);
    let checksum = Command::new("debugfs")
        .args(["-w", "-R", "set_super_value state 0"])
        .arg(&image)
        .output()
        .expect("debugfs");
    assert!(checksum.status.success());
    let mounted = volumes.ensure(&wanted).await.expect("checked and mounted");
    assert_eq!(fs::read(mounted.data.join("file")).expect("the file"), b"content");
    let list = volumes.list().await.expect("a list");
    assert!(list[0].last_check.is_some(), "{:?}", list[0]);
}
