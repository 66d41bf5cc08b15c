//! The power goes at each journalled point of a publish and of an apply.
//!
//! Directories lie on file systems of their own, whose images are copied the moment the process is dead,
//! still mounted: the copies hold what was written through and nothing of what the kernel still meant to
//! write. They take the place of the originals, as a host finds its disks after a power cut.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belay_protocol::SyncRole;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_store::{LocalStore, RecordStore};
use belay_sync::failpoint::Point;
use belay_sync::{PublishCommand, recover};
use serde_json::{Map, json};

use crate::kill::killed_as;
use crate::scene::{Place, VOLUMES, eventually, fill, provide_as, start, trees};

/// A file system in a file, mounted while this lives.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    options: &'static str,
}

fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

impl Disk {
    /// A new one, with what its mount point holds.
    pub(crate) fn new(mount: &Path, size: u64) -> Self {
        fs::create_dir_all(mount).expect("creates");
        let image = mount.with_extension("disk");
        fs::File::create(&image).and_then(|file| file.set_len(size)).expect("an image");
        let plain = ["-q", "-F", "-m", "0"].map(OsStr::new);
        run("mkfs.ext4", &[&plain[..], &[image.as_ref()]].concat());
        // The kernel writes only when it is told to, or after minutes.
        let disk = Self { image, mount: mount.to_owned(), options: "loop,commit=600" };
        disk.attach();
        disk
    }

    /// A new one whose file system clones files.
    pub(crate) fn cloning(mount: &Path) -> Self {
        fs::create_dir_all(mount).expect("creates");
        let image = mount.with_extension("disk");
        fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("an image");
        run("mkfs.xfs", &["-q".as_ref(), image.as_ref()]);
        let disk = Self { image, mount: mount.to_owned(), options: "loop" };
        disk.attach();
        disk
    }

    fn attach(&self) {
        let options = self.options.as_ref();
        run("mount", &["-o".as_ref(), options, self.image.as_ref(), self.mount.as_ref()]);
    }

    fn detach(&self) -> bool {
        let unmounted = Command::new("umount").arg(&self.mount).status();
        unmounted.is_ok_and(|status| status.success())
    }

    /// Writes everything through.
    pub(crate) fn sync(&self) {
        let mount = fs::File::open(&self.mount).expect("opens");
        rustix::fs::syncfs(&mount).expect("syncs");
    }

    /// The power goes, for all of these at one time.
    fn cut(disks: &[Disk]) {
        for disk in disks {
            let cut = disk.image.with_extension("cut");
            run("cp", &["--sparse=always".as_ref(), disk.image.as_ref(), cut.as_ref()]);
        }
        for disk in disks {
            assert!(disk.detach(), "{} is still in use", disk.mount.display());
            fs::rename(disk.image.with_extension("cut"), &disk.image).expect("renames");
            disk.attach();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.detach() {
            // A test that failed may have left a task that holds it.
            let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        }
    }
}

const MIB: u64 = 1024 * 1024;
/// A host keeps 64 MiB to itself.
const HOST: u64 = 96 * MIB;

#[tokio::test]
async fn a_disk_that_is_cut_keeps_what_was_synced_and_nothing_else() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let disks = [Disk::new(&temp.path().join("disk"), 16 * MIB)];
    let path = |name: &str| disks[0].mount.join(name);
    fs::write(path("kept"), "kept").expect("writes");
    disks[0].sync();
    fs::write(path("lost"), "lost").expect("writes");
    fs::write(path("kept"), "changed").expect("writes");
    Disk::cut(&disks);
    assert!(!path("lost").exists(), "the kernel had not been told to write it");
    let kept = fs::read_to_string(path("kept")).expect("reads");
    assert_ne!(kept, "changed", "nor this");
}

#[tokio::test]
async fn a_publish_cut_off_anywhere_is_answered_and_published_once() {
    for point in Point::PUBLISH {
        publish_cut_off(point, ArchiveFormat::Tree).await;
    }
}

#[tokio::test]
async fn a_publish_cut_off_anywhere_is_answered_and_published_once_as_an_archive() {
    for point in Point::PUBLISH {
        publish_cut_off(point, ArchiveFormat::TarGz).await;
    }
}

async fn publish_cut_off(point: Point, format: ArchiveFormat) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let store = temp.path().join("store");
    let disks = [Disk::new(&temp.path().join("provider"), HOST), Disk::new(&store, HOST)];
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "one");
    fs::create_dir(place.sync_file("")).expect("creates");
    place.request(&json!({"archive_paths": ["/app"], "request_id": "once"}));
    disks.iter().for_each(Disk::sync);
    killed_as(format, "publish", point, temp.path());
    Disk::cut(&disks);

    let running = provide_as(&place, &store, format);
    let response = eventually("the answer", || place.json("response.json")).await;
    eventually("the end", || {
        let over = !place.sync_file("request.json.processing").exists()
            && !place.sync_file("request.json").exists()
            && !place.state().join("sync/publish.json").exists();
        over.then_some(())
    })
    .await;
    assert_eq!(response["status"], "ok", "{point:?} {format:?}: {response}");
    assert_eq!(response["request_id"], "once", "{point:?} {format:?}");
    running.stop().await;
    let records = LocalStore::open(&store).expect("opens");
    let history = records.history(&"models".parse().expect("a key"), 10).await.expect("reads");
    assert_eq!(history.len(), 1, "{point:?}: one record");
    let record: SyncRecord = serde_json::from_slice(&history[0].bytes).expect("a record");
    assert_eq!(response["cid"], record.cid.to_string(), "{point:?}");

    // All that it needs is there: another node takes it over.
    let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
    let running = start(&consumer, &store, SyncRole::Consumer);
    running.status("the apply", |status| status.last_apply.is_some()).await;
    assert_eq!(trees(&consumer), trees(&place), "{point:?} {format:?}");
    running.stop().await;
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_leaves_the_old_state_or_the_new_one() {
    for point in Point::APPLY {
        apply_cut_off("apply", point, ArchiveFormat::Tree).await;
    }
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_leaves_the_old_state_or_the_new_one_from_an_archive() {
    for point in Point::APPLY {
        apply_cut_off("apply", point, ArchiveFormat::TarGz).await;
    }
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_whose_states_have_files_in_common_is_whole_too() {
    for point in Point::APPLY {
        apply_cut_off("share", point, ArchiveFormat::Tree).await;
    }
}

async fn apply_cut_off(role: &str, point: Point, format: ArchiveFormat) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let store = temp.path().join("store");
    let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
    // Each volume and the host lose what they lose alone.
    let root = temp.path().join("consumer");
    let volume = |name: &str| root.join("volumes").join(name);
    let disks = [root.join("state"), volume("app"), volume("data")];
    let disks = disks.map(|mount| Disk::new(&mount, HOST));
    let consumer = Place::new(&root, &VOLUMES);
    let publishing = provide_as(&provider, &store, format);
    let publish = || {
        let archive_paths = vec!["/app".into()];
        publishing.handle.publish(PublishCommand { archive_paths, metadata: Map::new() })
    };
    fill(&provider, "old");
    let old_cid = publish().await.expect("publishes").cid;
    let old = trees(&provider);
    let running = start(&consumer, &store, SyncRole::Consumer);
    running
        .status("the old state", |status| {
            status.last_apply.as_ref().is_some_and(|last| last.cid == old_cid)
        })
        .await;
    running.stop().await;
    assert_eq!(trees(&consumer), old);
    disks.iter().for_each(Disk::sync);
    fill(&provider, "new");
    let new_cid = publish().await.expect("publishes").cid;
    let new = trees(&provider);
    killed_as(format, role, point, temp.path());
    Disk::cut(&disks);

    let recovery = recover(&consumer.state(), &consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None, "{point:?}");
    let found = trees(&consumer);
    let begun = Point::APPLY.iter().position(|p| *p == point)
        >= Point::APPLY.iter().position(|p| *p == Point::ApplyJournalled);
    let wanted = if begun { &new } else { &old };
    assert_eq!(&found, wanted, "{point:?} {format:?}: whole, and forward once journalled");

    let running = start(&consumer, &store, SyncRole::Consumer);
    eventually("the end", || {
        let told = consumer.json("last_apply.json");
        let over = told.is_some_and(|last| last["cid"] == new_cid.to_string())
            && !consumer.state().join("sync/apply.json").exists();
        over.then_some(())
    })
    .await;
    assert_eq!(trees(&consumer), new, "{point:?}");
    running.stop().await;
    publishing.stop().await;
}
