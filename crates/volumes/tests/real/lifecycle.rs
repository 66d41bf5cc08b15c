//! A volume's life: made, used, released, found again, deleted.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use belay_volumes::{
    ByteSize, EnsureError, Execution, OpenError, Origin, Owner, Refusal, ReleaseError, RemoveError,
    VolumeSpec, Volumes,
};

use crate::scratch::{Scratch, spec};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it exists").permissions().mode() & 0o7777
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).expect("it exists");
    (found.uid(), found.gid())
}

fn mount_line(target: &Path) -> String {
    let target = target.to_str().expect("an ASCII path");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(target));
    line.expect("the volume is in the mount table").to_owned()
}

/// Writes until the volume is full, as root in a container does, and returns how many bytes went in.
pub(crate) fn fill(path: &Path) -> u64 {
    // Containers do not have the capability with which root may use a reserve.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_resource", "--", "dd", "if=/dev/zero", "bs=64k", "conv=fsync"])
        .arg(format!("of={}", path.display()))
        .env("LC_ALL", "C")
        .output()
        .expect("setpriv and dd");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("No space left on device"), "a full volume says so: {said}");
    assert!(!said.contains("Input/output error"), "{said}");
    fs::metadata(path).expect("what went in").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_volume_is_mounted_with_its_two_directories() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = VolumeSpec {
        owner: Some(Owner { uid: 1000, gid: 2000 }),
        ..spec("web/store", ByteSize::mib(16))
    };
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    assert_eq!(mounted.origin, Origin::Created);
    assert_eq!(mounted.size, ByteSize::mib(16));
    assert_eq!((mode(&mounted.data), owner(&mounted.data)), (0o755, (1000, 2000)));
    assert_eq!((mode(&mounted.private), owner(&mounted.private)), (0o700, (0, 0)));
    assert_eq!((mode(&mounted.mount), owner(&mounted.mount)), (0o711, (0, 0)));
    assert_eq!(fs::read_dir(&mounted.data).expect("the data").count(), 0, "it is empty");
    let line = mount_line(&mounted.mount);
    for option in ["nosuid", "nodev", "noatime", "resuid=4200000000"] {
        assert!(line.contains(option), "{option}: {line}");
    }
    assert!(!line.contains("noexec"), "{line}");
    assert!(!line.contains("shared:"), "it is a private mount: {line}");
    volumes.release(&wanted.id).await.expect("released");
    scratch.assert_nothing_held();
}

#[tokio::test(flavor = "multi_thread")]
async fn providing_it_again_changes_nothing() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    let first = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(first.data.join("file"), "content").expect("a file");
    let again = volumes.ensure(&wanted).await.expect("the same volume");
    assert_eq!(again.origin, Origin::Existing);
    assert_eq!((again.device, again.mount.clone()), (first.device, first.mount));
    assert_eq!(fs::read(again.data.join("file")).expect("the file"), b"content");
    assert_eq!((scratch.devices().len(), scratch.mounts().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_owner_survive_a_release() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let mut wanted = spec("web/store", ByteSize::mib(16));
    let first = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(first.data.join("file"), "content").expect("a file");
    volumes.release(&wanted.id).await.expect("released");
    scratch.assert_nothing_held();
    volumes.release(&wanted.id).await.expect("releasing it again is no error");
    wanted.owner = Some(Owner { uid: 7, gid: 8 });
    let again = volumes.ensure(&wanted).await.expect("the volume");
    assert_eq!(again.origin, Origin::Existing);
    assert_eq!(fs::read(again.data.join("file")).expect("the file"), b"content");
    assert_eq!(owner(&again.data), (7, 8), "the owner is applied at each fresh mount");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_denies_execution_is_mounted_noexec() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted =
        VolumeSpec { execution: Execution::Denied, ..spec("web/store", ByteSize::mib(16)) };
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    assert!(mount_line(&mounted.mount).contains("noexec"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_says_so_and_keeps_a_reserve() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(64));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let before = volumes.list().await.expect("a list").remove(0).mounted.expect("mounted");
    let written = fill(&mounted.data.join("everything"));
    let promised = before.available.as_u64();
    assert!(
        written <= promised && promised - written < 1024 * 1024,
        "{written} of {promised} promised bytes went in"
    );
    let after = volumes.list().await.expect("a list").remove(0).mounted.expect("mounted");
    let reserved = after.total.as_u64() - after.used.as_u64();
    assert!(reserved > 2 * 1024 * 1024, "{reserved} bytes are kept for updates");
    assert!(!after.read_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_volume_is_not_deleted() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    volumes.ensure(&wanted).await.expect("a volume");
    let error = volumes.remove(&wanted.id).await.expect_err("it is mounted");
    assert!(
        matches!(error, RemoveError::Refused { refusal: Refusal::InUse { .. }, .. }),
        "{error}"
    );
    assert!(scratch.image("web/store").exists());
    volumes.release(&wanted.id).await.expect("released");
    volumes.remove(&wanted.id).await.expect("deleted");
    assert!(!scratch.root().join("images/web").exists());
    assert!(!scratch.root().join("mounts/web").exists());
    volumes.remove(&wanted.id).await.expect("deleting it again is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_volume_is_not_released_and_the_holder_is_named() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let open = File::create(mounted.data.join("file")).expect("a file");
    let error = volumes.release(&wanted.id).await.expect_err("it is busy");
    assert!(error.is_retryable());
    let ReleaseError::Busy { holders, .. } = &error else { panic!("{error}") };
    let me = i32::try_from(std::process::id()).expect("a process id");
    assert!(holders.iter().any(|holder| holder.pid == me), "{error}");
    assert_eq!(scratch.mounts().len(), 1, "it stays mounted");
    drop(open);
    volumes.release(&wanted.id).await.expect("released");
    scratch.assert_nothing_held();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_promise_and_allocation() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let first = spec("web/store", ByteSize::mib(16));
    volumes.ensure(&spec("api/logs", ByteSize::mib(32))).await.expect("a volume");
    volumes.ensure(&first).await.expect("a volume");
    volumes.release(&first.id).await.expect("released");
    volumes.set_configured([first.id.clone()].into());
    let list = volumes.list().await.expect("a list");
    let ids: Vec<_> = list.iter().map(|volume| volume.id.to_string()).collect();
    assert_eq!(ids, ["api/logs", "web/store"]);
    for volume in &list {
        assert!(volume.allocated >= volume.size, "{volume:?}");
        assert_eq!(volume.fault, None);
    }
    let (logs, store) = (&list[0], &list[1]);
    assert_eq!((logs.size, logs.is_orphan()), (ByteSize::mib(32), true));
    assert_eq!((store.size, store.is_orphan()), (ByteSize::mib(16), false));
    assert!(store.mounted.is_none());
    let mounted = logs.mounted.as_ref().expect("it is mounted");
    assert!(mounted.direct_io, "the host's file system can do direct io");
    assert!(mounted.inodes_available > 1000, "{mounted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_owner() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let error = Volumes::open(scratch.config()).await.expect_err("it has an owner");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(volumes);
    Volumes::open(scratch.config()).await.expect("the owner is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_larger_than_the_host_is_refused_with_both_numbers() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let error = volumes
        .ensure(&spec("web/store", "15T".parse().expect("a size")))
        .await
        .expect_err("no test host has as much");
    let EnsureError::HostFull { needed, available, .. } = &error else { panic!("{error}") };
    assert!(needed > available, "{error}");
    assert!(error.to_string().contains("15Ti"), "{error}");
    assert!(!scratch.root().join("images/web/store").exists());
    assert!(!scratch.root().join("images/web/.store.new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_volumes_are_provided_and_released_at_once() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let specs: Vec<_> =
        (0..16).map(|n| spec(&format!("w{}/v{n}", n % 4), ByteSize::mib(8))).collect();
    let start = |wanted: &VolumeSpec| {
        let (volumes, wanted) = (volumes.clone(), wanted.clone());
        tokio::spawn(async move { volumes.ensure(&wanted).await })
    };
    let running: Vec<_> = specs.iter().map(start).collect();
    for task in running {
        volumes.list().await.expect("what is under way does not disturb a list");
        task.await.expect("no panic").expect("a volume");
    }
    assert_eq!(scratch.devices().len(), 16);
    let stop = |wanted: &VolumeSpec| {
        let (volumes, id) = (volumes.clone(), wanted.id.clone());
        tokio::spawn(async move { volumes.release(&id).await })
    };
    let running: Vec<_> = specs.iter().map(stop).collect();
    for task in running {
        volumes.list().await.expect("what is under way does not disturb a list");
        task.await.expect("no panic").expect("released");
    }
    scratch.assert_nothing_held();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_ends_also_when_its_caller_is_gone() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    {
        let ensure = volumes.ensure(&wanted);
        let mut ensure = std::pin::pin!(ensure);
        // One poll starts the work; the future is dropped before it is done.
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(ensure.as_mut().poll(context).is_ready())
        });
        assert!(!polled.await, "a file system is not made in no time");
    }
    // The next operation on the same volume waits for the abandoned one.
    volumes.release(&wanted.id).await.expect("released");
    let list = volumes.list().await.expect("a list");
    assert_eq!(list.len(), 1, "the abandoned operation was carried through");
    assert_eq!(list[0].fault, None);
    scratch.assert_nothing_held();
}
