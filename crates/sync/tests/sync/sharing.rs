//! Files that the new state has as the present one does: they are not written again, and whatever an
//! app does to them meanwhile, the new state is what its record says. What is applied here goes on no
//! trial, but for where that is said.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use belay_protocol::SyncRole;
use belay_protocol::record::ArchiveFormat;
use belay_sync::{OnUnready, PublishCommand, SyncSpec};
use serde_json::Map;

use crate::commands::{applied, publish};
use crate::content::noise;
use crate::disk::Disk;
use crate::scene::{
    FORMATS, LastAct, Place, Running, VOLUMES, eventually, provide_as, spec, start_with, trees,
};

const MIB: u64 = 1024 * 1024;

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
    consumer: Place,
    publishing: Running,
    running: Running,
}

impl Scene {
    /// A consumer that has applied `files`, and nothing but waits for what comes next.
    async fn new(format: ArchiveFormat, files: &[(&str, Vec<u8>)]) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        Self::with(temp, consumer, format, OnUnready::Keep, files).await
    }

    async fn with(
        temp: tempfile::TempDir,
        consumer: Place,
        format: ArchiveFormat,
        rule: OnUnready,
        files: &[(&str, Vec<u8>)],
    ) -> Self {
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        fs::create_dir(provider.data("app").join("data")).expect("creates");
        for (name, content) in files {
            fs::write(provider.data("app").join(name), content).expect("writes");
        }
        let store = temp.path().join("store");
        let publishing = provide_as(&provider, &store, format);
        let spec = SyncSpec { on_unready: rule, ..spec(SyncRole::Consumer) };
        let running = start_with(&consumer, &VOLUMES, &store, spec);
        let scene = Self { temp, provider, consumer, publishing, running };
        scene.carry().await;
        scene
    }

    /// Publishes, and waits until the consumer is what the provider is.
    async fn carry(&self) {
        let cid = publish(&self.publishing).await.expect("publishes");
        applied(&self.running, cid).await;
        // The old tree goes last, and with it the second names.
        eventually("the old tree to go", || {
            let left = fs::read_dir(self.consumer.private("app")).expect("lists");
            let mut names = left.map(|entry| entry.expect("an entry").file_name());
            (!names.any(|name| name.to_string_lossy().starts_with("staging-"))).then_some(())
        })
        .await;
        assert_eq!(trees(&self.consumer), trees(&self.provider));
        let links = |place: &Place| {
            let listed = fs::read_dir(place.data("app")).expect("lists");
            let found = listed.map(|entry| entry.expect("an entry"));
            let files = found.filter(|entry| entry.file_type().expect("is told").is_file());
            files
                .map(|entry| (entry.file_name(), entry.metadata().expect("is there").nlink()))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(links(&self.consumer), links(&self.provider));
    }

    fn sent(&self, name: &str) -> std::path::PathBuf {
        self.provider.data("app").join(name)
    }

    fn inode(&self, name: &str) -> u64 {
        fs::metadata(self.consumer.data("app").join(name)).expect("is there").ino()
    }

    /// Ends both nodes, and then takes the disk away before the directory that it is mounted in goes.
    async fn end_on(self, disk: Disk) {
        let temp = self.stopped().await;
        drop(disk);
        temp.close().expect("removes");
    }

    async fn end(self) {
        self.stopped().await.close().expect("removes");
    }

    async fn stopped(self) -> tempfile::TempDir {
        self.publishing.stop().await;
        self.running.stop().await;
        self.temp
    }
}

/// Changes a byte and lets neither size nor time tell of it.
fn change_in_secret(path: &Path) {
    let found = fs::metadata(path).expect("is there");
    let mut file = File::options().write(true).open(path).expect("opens");
    file.write_all(b"!").expect("writes");
    let times = FileTimes::new().set_modified(found.modified().expect("a time"));
    file.set_times(times).expect("sets");
}

#[tokio::test]
async fn what_did_not_change_is_the_same_file_as_before() {
    for format in FORMATS {
        let scene =
            Scene::new(format, &[("kept", noise(1, 3_000)), ("changed", noise(2, 3_000))]).await;
        let (kept, changed) = (scene.inode("kept"), scene.inode("changed"));
        fs::write(scene.sent("changed"), noise(3, 3_000)).expect("writes");
        scene.carry().await;
        assert_eq!(scene.inode("kept"), kept, "{format:?}");
        assert_ne!(scene.inode("changed"), changed, "{format:?}");
        assert_eq!(scene.running.window.events().len(), 4, "two applies, a stop each");
        scene.end().await;
    }
}

#[tokio::test]
async fn a_tree_of_more_than_half_of_its_volume_takes_a_change() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().join("consumer");
    let disk = Disk::new(&root.join("volumes/app"), 32 * MIB);
    let consumer = Place::new(&root, &VOLUMES);
    let files = [("large", noise(1, 18 * MIB)), ("small", noise(2, 3_000))];
    let scene = Scene::with(temp, consumer, ArchiveFormat::Tree, OnUnready::Keep, &files).await;
    fs::write(scene.sent("small"), noise(3, 3_000)).expect("writes");
    scene.carry().await;
    scene.end_on(disk).await;
}

#[tokio::test]
async fn a_tree_of_more_than_half_of_the_inodes_of_its_volume_takes_a_change() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().join("consumer");
    let disk = Disk::with_inodes(&root.join("volumes"), 16 * MIB, 256);
    let consumer = Place::new(&root, &VOLUMES);
    let names: Vec<String> = (0..210).map(|number| format!("file-{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| (&name[..], noise(1, 100))).collect();
    let scene = Scene::with(temp, consumer, ArchiveFormat::Tree, OnUnready::Keep, &files).await;
    let found = rustix::fs::statvfs(root.join("volumes")).expect("is told");
    // Each of the two volumes counts what is free for itself.
    assert!(found.f_ffree * 2 < 210, "{} of {} free", found.f_ffree, found.f_files);
    fs::write(scene.sent("file-7"), noise(3, 3_000)).expect("writes");
    scene.carry().await;
    scene.end_on(disk).await;
}

#[tokio::test]
async fn a_file_whose_content_alone_was_changed_is_not_taken_for_unchanged() {
    for format in FORMATS {
        let files = [("secret", noise(1, 300_000)), ("changed", noise(2, 3_000))];
        let scene = Scene::new(format, &files).await;
        change_in_secret(&scene.consumer.data("app").join("secret"));
        fs::write(scene.sent("changed"), noise(3, 3_000)).expect("writes");
        scene.carry().await;
        assert_eq!(scene.running.window.events().len(), 4, "it is found before the stop");
        scene.end().await;
    }
}

/// Bytes that this process has read so far, whoever had them.
fn bytes_read() -> u64 {
    let counted = fs::read_to_string("/proc/self/io").expect("is told");
    let line = counted.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.expect("reads are counted").parse().expect("a number")
}

#[tokio::test]
async fn what_nobody_touched_is_not_read_again() {
    const LARGE: u64 = 48 * MIB;
    let files = [("large", noise(1, LARGE)), ("changed", noise(2, 3_000))];
    let scene = Scene::new(ArchiveFormat::Tree, &files).await;
    let large = scene.consumer.data("app").join("large");
    // What an app reads is nobody's change.
    assert_eq!(fs::read(&large).expect("reads").len() as u64, LARGE);
    let mut read = Vec::new();
    for seed in 3..8 {
        fs::write(scene.sent("changed"), noise(seed, 3_000)).expect("writes");
        if seed == 6 {
            change_in_secret(&large);
        }
        let before = bytes_read();
        let cid = publish(&scene.publishing).await.expect("publishes");
        applied(&scene.running, cid).await;
        read.push(bytes_read() - before);
        assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    }
    // The provider reads what was new to it at its second look.
    assert!(read[1] < LARGE / 4, "as it was written: {read:?}");
    assert!(read[2] < LARGE / 4, "with the name that it got then: {read:?}");
    assert!(read[3] > LARGE, "it looks changed: {read:?}");
    assert!(read[4] < LARGE / 4, "and was written again: {read:?}");
    // What is remembered is not needed.
    let looks = scene.consumer.state().join("sync/applied-looks");
    fs::write(&looks, &fs::read(&looks).expect("remembered")[..200]).expect("writes");
    change_in_secret(&large);
    fs::write(scene.sent("changed"), noise(9, 3_000)).expect("writes");
    scene.carry().await;
    scene.end().await;
}

#[tokio::test]
async fn a_file_that_is_changed_until_the_stop_is_written_anew() {
    for format in FORMATS {
        let files = [("secret", noise(1, 300_000)), ("changed", noise(2, 3_000))];
        let scene = Scene::new(format, &files).await;
        let secret = scene.consumer.data("app").join("secret");
        scene.running.window.0.lock().expect("not poisoned").last_act =
            Some(LastAct { act: change_in_secret, on: secret });
        fs::write(scene.sent("changed"), noise(3, 3_000)).expect("writes");
        scene.carry().await;
        let events = scene.running.window.events();
        let again = ["stop for apply", "start unchanged", "stop for apply", "start applied"];
        assert_eq!(events[2..], again, "{format:?}");
        scene.end().await;
    }
}

#[tokio::test]
async fn what_is_known_of_a_file_counts_as_its_content_does() {
    let names = ["mode", "linked", "attribute", "replaced", "gone"];
    let files: Vec<_> = (1..).zip(names).map(|(seed, name)| (name, noise(seed, 3_000))).collect();
    for format in FORMATS {
        let scene = Scene::new(format, &files).await;
        let data = scene.consumer.data("app");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(data.join("mode"), mode).expect("modes");
        fs::hard_link(data.join("linked"), data.join("another")).expect("links");
        let empty = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(data.join("attribute"), "user.x", b"y", empty).expect("sets");
        fs::remove_file(data.join("replaced")).expect("removes");
        std::os::unix::fs::symlink("mode", data.join("replaced")).expect("links");
        fs::remove_file(data.join("gone")).expect("removes");
        fs::write(scene.sent("more"), "more").expect("writes");
        scene.carry().await;
        scene.end().await;
    }
}

#[tokio::test]
async fn links_that_the_new_state_makes_of_a_file_that_had_none_are_links_of_that_file() {
    for format in FORMATS {
        let scene =
            Scene::new(format, &[("first", noise(1, 3_000)), ("other", noise(2, 10))]).await;
        fs::hard_link(scene.sent("first"), scene.sent("second")).expect("links");
        scene.carry().await;
        assert_eq!(scene.inode("first"), scene.inode("second"));
        fs::remove_file(scene.sent("second")).expect("removes");
        fs::write(scene.sent("second"), noise(1, 3_000)).expect("writes");
        scene.carry().await;
        assert_ne!(scene.inode("first"), scene.inode("second"));
        scene.end().await;
    }
}

#[tokio::test]
async fn a_file_that_is_published_by_itself_takes_the_place_of_one_that_is_equal() {
    let scene = Scene::new(ArchiveFormat::Tree, &[("one", noise(1, 3_000))]).await;
    let before = scene.inode("one");
    let paths = vec!["/app/one".to_owned()];
    let command = PublishCommand { archive_paths: paths, metadata: Map::new() };
    let cid = scene.publishing.handle.publish(command).await.expect("publishes").cid;
    applied(&scene.running, cid).await;
    let one = scene.consumer.data("app").join("one");
    assert_eq!(fs::read(one).expect("reads"), noise(1, 3_000));
    // Two names of one file cannot be exchanged.
    assert_ne!(scene.inode("one"), before);
    scene.end().await;
}

#[tokio::test]
async fn a_file_system_that_clones_holds_two_states_in_little_more_than_the_room_of_one() {
    for (rule, format) in [(OnUnready::Rollback, FORMATS[0]), (OnUnready::Keep, FORMATS[1])] {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path().join("consumer");
        let disk = Disk::cloning(&root.join("volumes/app"));
        let consumer = Place::new(&root, &VOLUMES);
        let files = [("large", noise(1, 18 * MIB)), ("small", noise(2, 3_000))];
        let scene = Scene::with(temp, consumer, format, rule, &files).await;
        let large = scene.inode("large");
        note_room(&root);
        let before = noted_room(&root);
        scene.running.window.0.lock().expect("not poisoned").last_act =
            Some(LastAct { act: note_room, on: root.clone() });
        fs::write(scene.sent("small"), noise(3, 3_000)).expect("writes");
        scene.carry().await;
        let staged = before - noted_room(&root);
        assert!(staged < 4 * MIB, "{rule:?}: {staged} bytes beside the old state");
        assert_ne!(scene.inode("large"), large, "a file of its own");
        scene.end_on(disk).await;
    }
}

/// Writes down how much of the volume is free.
fn note_room(root: &Path) {
    let found = rustix::fs::statvfs(root.join("volumes/app")).expect("is told");
    fs::write(root.join("room"), (found.f_bfree * found.f_frsize).to_string()).expect("writes");
}

fn noted_room(root: &Path) -> u64 {
    fs::read_to_string(root.join("room")).expect("reads").parse().expect("a number")
}

#[tokio::test]
async fn on_trial_no_file_is_in_both_states() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
    let files = [("kept", noise(1, 3_000)), ("changed", noise(2, 3_000))];
    let scene = Scene::with(temp, consumer, ArchiveFormat::Tree, OnUnready::Rollback, &files).await;
    let kept = scene.inode("kept");
    fs::write(scene.sent("changed"), noise(3, 3_000)).expect("writes");
    scene.carry().await;
    assert_ne!(scene.inode("kept"), kept);
    scene.end().await;
}
