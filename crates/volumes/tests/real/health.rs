//! What goes wrong inside a volume is seen, said, and mended by the next start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use belay_volumes::{
    ByteSize, CheckOutcome, EnsureError, FileSystem, HealthTracker, Refusal, VolumeEvent, Volumes,
};

use crate::scratch::{Scratch, spec};

async fn events(tracker: &mut HealthTracker, at: u64, volumes: &Volumes) -> Vec<VolumeEvent> {
    let list = volumes.list().await.expect("a list");
    tracker.observe(Duration::from_secs(at), &list)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_stopped_writing_is_an_event_and_is_checked_at_the_next_start() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(16));
    let id = wanted.id.clone();
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    fs::write(mounted.data.join("file"), "content").expect("a file");
    let synced = std::process::Command::new("sync").arg("-f").arg(&mounted.data).status();
    assert!(synced.expect("sync").success());
    volumes.idle().await;
    let mut tracker = HealthTracker::default();
    assert_eq!(events(&mut tracker, 0, &volumes).await, []);
    let before = volumes.list().await.expect("a list");

    let device = mounted.device.file_name().expect("a device name");
    let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
    fs::write(trigger, "a test breaks it").expect("the kernel has the trigger");
    let again = volumes.look_again(before).await.expect("a look");
    assert_eq!(again, volumes.list().await.expect("a list"), "it sees what a list sees");
    let seen = tracker.observe(Duration::from_secs(1), &again);
    assert!(seen.contains(&VolumeEvent::Failed { id: id.clone() }), "{seen:?}");
    assert!(seen.contains(&VolumeEvent::Errors { id: id.clone(), new: 1 }), "{seen:?}");
    let error = volumes.ensure(&wanted).await.expect_err("it takes no writes");
    assert!(matches!(error, EnsureError::Refused { refusal: Refusal::ReadOnly, .. }), "{error}");
    assert!(error.is_retryable());

    volumes.release(&id).await.expect("released");
    let released = volumes.look_again(again).await.expect("a look");
    assert_eq!(released, volumes.list().await.expect("a list"), "what is unmounted is listed anew");
    let again = volumes.ensure(&wanted).await.expect("checked and mounted");
    let mounted = volumes.look_again(released).await.expect("a look");
    assert_eq!(mounted, volumes.list().await.expect("a list"), "and what is mounted");
    assert_eq!(fs::read(again.data.join("file")).expect("the file"), b"content");
    fs::write(again.data.join("file"), "new").expect("it takes writes");
    let list = volumes.list().await.expect("a list");
    let check = list[0].last_check.clone().expect("it was checked");
    assert!(matches!(check.outcome, CheckOutcome::Clean | CheckOutcome::Repaired), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xfs_that_shut_itself_down_is_an_event_and_is_whole_after_the_next_start() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let mut wanted = spec("web/store", ByteSize::mib(300));
    wanted.file_system = FileSystem::Xfs;
    let id = wanted.id.clone();
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    let file = mounted.data.join("file");
    fs::write(&file, "content").expect("a file");
    fs::File::open(&file).and_then(|file| file.sync_all()).expect("synced");
    volumes.idle().await;
    let mut tracker = HealthTracker::default();
    assert_eq!(events(&mut tracker, 0, &volumes).await, []);

    // What a failing journal leads to; the journal keeps what was synced.
    let shut = std::process::Command::new("/usr/sbin/xfs_io")
        .args(["-x", "-c", "shutdown"])
        .arg(mounted.data.parent().expect("the root of the volume"))
        .status();
    assert!(shut.expect("xfs_io runs").success());
    let seen = events(&mut tracker, 1, &volumes).await;
    assert!(seen.contains(&VolumeEvent::Failed { id: id.clone() }), "{seen:?}");
    let error = volumes.ensure(&wanted).await.expect_err("it takes no writes");
    assert!(error.is_retryable(), "{error}");

    volumes.release(&id).await.expect("released");
    let again = volumes.ensure(&wanted).await.expect("mounted");
    assert_eq!(fs::read(again.data.join("file")).expect("the file"), b"content");
    fs::write(again.data.join("file"), "new").expect("it takes writes");
    let seen = events(&mut tracker, 2, &volumes).await;
    assert!(seen.contains(&VolumeEvent::Restored { id: id.clone() }), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_fills_passes_the_thresholds() {
    let scratch = Scratch::new();
    let volumes = scratch.open().await;
    let wanted = spec("web/store", ByteSize::mib(64));
    let mounted = volumes.ensure(&wanted).await.expect("a volume");
    volumes.idle().await;
    let mut tracker = HealthTracker::default();
    assert_eq!(events(&mut tracker, 0, &volumes).await, []);
    let available = volumes.list().await.expect("a list")[0]
        .mounted
        .as_ref()
        .expect("mounted")
        .available
        .as_u64();
    let share = |percent: u64| usize::try_from(available * percent / 100).expect("it fits");
    fs::write(mounted.data.join("most"), vec![1; share(85)]).expect("written");
    let seen = events(&mut tracker, 20, &volumes).await;
    assert!(matches!(seen[..], [VolumeEvent::Bytes { percent: 80..=94, .. }]), "{seen:?}");
    fs::write(mounted.data.join("rest"), vec![1; share(12)]).expect("written");
    let seen = events(&mut tracker, 40, &volumes).await;
    assert!(
        matches!(seen[..], [VolumeEvent::Bytes { percent: 95.., time_to_full: Some(_), .. }]),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_a_range_of_loop_devices() {
    let (one, other) = (Scratch::new(), Scratch::new());
    let mut config = other.config();
    config.minors = one.config().minors;
    let daemons = [one.open().await, Volumes::open(config).await.expect("a second daemon")];
    let mut running = Vec::new();
    for volumes in &daemons {
        for number in 0..8 {
            let volumes = volumes.clone();
            let wanted = spec(&format!("web/v{number}"), ByteSize::mib(8));
            running.push(tokio::spawn(async move {
                volumes.ensure(&wanted).await.expect("a volume");
                volumes.release(&wanted.id).await.expect("released");
                volumes.ensure(&wanted).await.expect("a volume again")
            }));
        }
    }
    let mut devices = Vec::new();
    for task in running {
        devices.push(task.await.expect("no panic").device);
    }
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 16, "no device serves two volumes");
    for volumes in &daemons {
        for volume in volumes.list().await.expect("a list") {
            volumes.release(&volume.id).await.expect("released");
        }
        volumes.idle().await;
    }
    one.assert_nothing_held();
}
