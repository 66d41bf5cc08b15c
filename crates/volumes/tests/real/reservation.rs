//! What was promised stays allocated, and a filled host does not reach into a volume.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use belay_volumes::{
    Allocation, ByteSize, EnsureError, FileSystem, MountedVolume, VolumeSpec, Volumes,
};

use crate::lifecycle::fill;
use crate::scratch::{Scratch, spec};

fn run(tool: &str, arguments: &[&str], subject: &Path) -> Output {
    Command::new(tool).args(arguments).arg(subject).output().expect(tool)
}

fn succeeds(tool: &str, arguments: &[&str], subject: &Path) {
    let output = run(tool, arguments, subject);
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

fn allocated(image: &Path) -> u64 {
    fs::metadata(image).expect("the image").blocks() * 512
}

fn sizes() -> [(FileSystem, ByteSize); 3] {
    [
        (FileSystem::Ext4, ByteSize::mib(64)),
        (FileSystem::Xfs, ByteSize::mib(300)),
        (FileSystem::Btrfs, ByteSize::mib(256)),
    ]
}

async fn volume(volumes: &Volumes, file_system: FileSystem, size: ByteSize) -> MountedVolume {
    let wanted = VolumeSpec { file_system, ..spec("web/store", size) };
    volumes.ensure(&wanted).await.expect("a volume")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_is_allocated_after_mkfs_use_trim_and_a_discard_remount() {
    for (file_system, size) in sizes() {
        let scratch = Scratch::new();
        let volumes = scratch.open().await;
        let mounted = volume(&volumes, file_system, size).await;
        let image = scratch.image("web/store");
        let holds = |when: &str| {
            let found = allocated(&image);
            assert!(found >= size.as_u64(), "{file_system} {when}: {found} of {size}");
        };
        holds("after mkfs");
        volumes.idle().await;
        fs::write(mounted.data.join("big"), vec![1; 20 << 20]).expect("a file");
        File::open(&mounted.mount).and_then(|root| root.sync_all()).expect("synced");
        fs::remove_file(mounted.data.join("big")).expect("deleted");
        let trimmed = run("fstrim", &[], &mounted.mount);
        assert!(!trimmed.status.success(), "{file_system}: the device refuses discards");
        holds("after a trim");
        // The option may be refused or accepted; the device has the last word.
        let _either = run("mount", &["-o", "remount,discard"], &mounted.mount);
        fs::write(mounted.data.join("big"), vec![2; 20 << 20]).expect("a file");
        File::open(&mounted.mount).and_then(|root| root.sync_all()).expect("synced");
        fs::remove_file(mounted.data.join("big")).expect("deleted");
        succeeds("sync", &["-f"], &mounted.mount);
        holds("after a discard remount");
        volumes.release(&mounted.id).await.expect("released");
        holds("after the release");
        scratch.assert_nothing_held();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_for_lazy_initialisation_to_punch_out() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let mounted = volume(&volumes, FileSystem::Ext4, ByteSize::mib(512)).await;
    let output = run("dumpe2fs", &[], &mounted.device);
    let text = String::from_utf8_lossy(&output.stdout);
    let groups: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("Group ") && line.contains("(Blocks"))
        .collect();
    assert!(groups.len() >= 4, "{text}");
    for group in groups {
        assert!(group.contains("ITABLE_ZEROED"), "{group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_was_punched_out_is_asserted_again() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let size = ByteSize::mib(64);
    let mounted = volume(&volumes, FileSystem::Ext4, size).await;
    volumes.release(&mounted.id).await.expect("released");
    let image = scratch.image("web/store");
    // What any program with a loop device of its own could do to an image.
    let elsewhere = scratch.directory.join("elsewhere");
    fs::create_dir(&elsewhere).expect("a mount point");
    let device = scratch.attach_foreign(&image);
    let mount = Command::new("mount").args([&device, &elsewhere]).status();
    assert!(mount.expect("mount").success());
    succeeds("fstrim", &[], &elsewhere);
    succeeds("umount", &[], &elsewhere);
    succeeds("losetup", &["-d"], &device);
    assert!(allocated(&image) < size.as_u64() / 2, "the test punched it");
    volume(&volumes, FileSystem::Ext4, size).await;
    assert!(allocated(&image) >= size.as_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_volume_takes_what_it_holds_and_a_trim_gives_it_back() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted =
        VolumeSpec { allocation: Allocation::Thin, ..spec("web/store", ByteSize::mib(256)) };
    let mounted = volumes.ensure(&wanted).await.expect("a thin volume");
    let image = scratch.image("web/store");
    let empty = allocated(&image);
    assert!(empty < 16 << 20, "{empty}");
    fs::write(mounted.data.join("big"), vec![1; 64 << 20]).expect("a file");
    succeeds("sync", &["-f"], &mounted.mount);
    assert!(allocated(&image) >= empty + (64 << 20));
    let host = volumes.host().await.expect("the host");
    assert_eq!(host.missing.as_u64(), (256 << 20) - allocated(&image));
    fs::remove_file(mounted.data.join("big")).expect("deleted");
    succeeds("sync", &["-f"], &mounted.mount);
    let given_back = volumes.trim(&wanted.id).await.expect("trimmed");
    assert!(given_back >= ByteSize::mib(64), "{given_back}");
    assert!(allocated(&image) < empty + (8 << 20), "{}", allocated(&image));
    let full = VolumeSpec { allocation: Allocation::Full, ..wanted.clone() };
    volumes.ensure(&full).await.expect("made full");
    assert!(allocated(&image) >= 256 << 20, "the promise is kept from now on");
    let refused = volumes.trim(&wanted.id).await.expect_err("a full volume is not trimmed");
    assert!(refused.to_string().contains("fully allocated"), "{refused}");
}

/// Takes the block that a deleted file gave back.
fn fill_rest(directory: &Path) {
    let mut taken = 0;
    while fs::write(directory.join(format!("rest-{taken}")), vec![1; 4096]).is_ok() {
        taken += 1;
    }
}

/// A small file system that plays the host: mounted in the scratch directory, gone with it.
fn small_host(scratch: &Scratch, mib: u64) {
    host(scratch, mib, "mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0"]);
}

fn host(scratch: &Scratch, mib: u64, mkfs: &str, arguments: &[&str]) {
    let image = scratch.directory.join("host.img");
    File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
    succeeds(mkfs, arguments, &image);
    fs::create_dir(scratch.root()).expect("the mount point");
    let device = scratch.attach_foreign(&image);
    let mounted = Command::new("mount").args([&device, &scratch.root()]).status().expect("mount");
    assert!(mounted.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_filled_host_the_volume_ends_at_its_own_limit_without_an_error() {
    for (file_system, size) in sizes() {
        let scratch = Scratch::new();
        small_host(&scratch, 640);
        let mut config = scratch.config();
        config.keep_free = ByteSize::mib(1);
        let volumes = Volumes::open(config).await.expect("a directory of volumes");
        let mounted = volume(&volumes, file_system, size).await;

        let filler = fill(&scratch.root().join("filler"));
        assert!(filler > 100 << 20, "the host had room: {filler}");
        let promised = volumes.list().await.expect("a list")[0].mounted.clone().expect("mounted");
        // It must say StorageFull at the end; an i/o error fails within.
        let written = fill(&mounted.data.join("everything"));
        let promised = promised.available.as_u64();
        // Btrfs promises more than it gives; that it says so in order is what counts there.
        let least =
            if file_system == FileSystem::Btrfs { promised / 2 } else { promised * 98 / 100 };
        assert!(written >= least, "{file_system}: {written} of {promised}");
        let now = volumes.list().await.expect("a list")[0].mounted.clone().expect("mounted");
        assert!(!now.read_only, "{file_system}");
        fs::remove_file(mounted.data.join("everything")).expect("deleted");
        // XFS and btrfs free in the background; a sync waits for it.
        succeeds("sync", &["-f"], &mounted.mount);
        // A btrfs that was full may have no room left for metadata, on whatever disk.
        if file_system != FileSystem::Btrfs {
            fs::write(mounted.data.join("after"), vec![7; 1 << 20]).expect("it takes data again");
        }
        volume(&volumes, file_system, size).await;
        volumes.release(&mounted.id).await.expect("released");
        let again = volume(&volumes, file_system, size).await;
        assert!(again.data.is_dir(), "{file_system}: a full host does not keep it from starting");
        volumes.release(&mounted.id).await.expect("released");
        if file_system == FileSystem::Ext4 {
            // Not even after an unclean stop and with its metadata lost.
            let image = scratch.image("web/store");
            succeeds("debugfs", &["-w", "-R", "set_super_value state 0"], &image);
            fs::remove_file(image.with_file_name("volume.json")).expect("lost");
            fill_rest(&scratch.root());
            volume(&volumes, file_system, size).await;
            volumes.release(&mounted.id).await.expect("released");
            succeeds("e2fsck", &["-f", "-n"], &scratch.image("web/store"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filled_xfs_or_btrfs_host_keeps_its_promise_too() {
    let hosts = [("mkfs.xfs", vec!["-q", "-K"]), ("mkfs.btrfs", vec!["-q", "-K", "-m", "single"])];
    for (mkfs, arguments) in hosts {
        let scratch = Scratch::new();
        host(&scratch, 1024, mkfs, &arguments);
        let volumes = scratch.open().await;
        let mounted = volume(&volumes, FileSystem::Ext4, ByteSize::mib(128)).await;
        volumes.idle().await;
        fill(&scratch.root().join("filler"));
        let before = volumes.list().await.expect("a list")[0].mounted.clone().expect("mounted");
        // Twice: the second time every block is an overwritten one.
        for round in 0..2 {
            let written = fill(&mounted.data.join("everything"));
            let promised = before.available.as_u64();
            assert!(written >= promised * 98 / 100, "{mkfs} {round}: {written} of {promised}");
            fs::remove_file(mounted.data.join("everything")).expect("deleted");
            succeeds("sync", &["-f"], &mounted.mount);
        }
        let now = volumes.list().await.expect("a list")[0].mounted.clone().expect("mounted");
        assert!(!now.read_only && now.errors == 0, "{mkfs}");
        volume(&volumes, FileSystem::Ext4, ByteSize::mib(128)).await;
        volumes.release(&mounted.id).await.expect("released");
        volume(&volumes, FileSystem::Ext4, ByteSize::mib(128)).await;
        volumes.release(&mounted.id).await.expect("released");
        succeeds("e2fsck", &["-f", "-n"], &scratch.image("web/store"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_room_refuses_with_numbers_and_keeps_nothing() {
    let scratch = Scratch::new();
    small_host(&scratch, 128);
    let volumes = scratch.open().await;
    let error = volumes
        .ensure(&spec("web/store", ByteSize::mib(100)))
        .await
        .expect_err("64 MiB are kept free");
    let EnsureError::HostFull { needed, available, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*needed, ByteSize::mib(100));
    assert!(*available < ByteSize::mib(64) && *available > ByteSize::mib(32), "{available}");
    assert!(error.is_retryable());
    assert_eq!(volumes.list().await.expect("a list"), []);
    volumes.ensure(&spec("web/store", ByteSize::mib(32))).await.expect("a smaller one fits");
    volumes.release(&"web/store".parse().expect("an id")).await.expect("released");
}
