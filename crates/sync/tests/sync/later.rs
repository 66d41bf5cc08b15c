//! A later publish is killed, or loses its power, where a first one has nothing to lose: between the
//! objects that it stores, around what it remembers, and among what it retires.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{Cid, SyncRole};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::SyncSpec;
use belay_sync::failpoint::Point;
use serde_json::{Value, json};

use crate::acks::forge;
use crate::commands::{applied, publish};
use crate::disk::{Disk, End};
use crate::kill::{killed_as, killed_at};
use crate::scene::{
    DEADLINE, FORMATS, Place, Running, VOLUMES, eventually, fill, provide_as, spec, start,
    start_with, trees,
};

/// How often a directory or the store is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A provider that soon looks for what was left set aside.
pub(crate) fn sweeping() -> SyncSpec {
    SyncSpec { sweep_grace: Duration::from_secs(2), ..spec(SyncRole::Provider) }
}

/// A provider of one key, its store, and the disks on which they lie if its power is to go.
struct Scene {
    /// Before the directory that they are mounted in.
    disks: Vec<Disk>,
    temp: tempfile::TempDir,
    place: Place,
    format: ArchiveFormat,
}

impl Scene {
    /// One that has published two generations, and is asked for a third one.
    async fn asked_for_a_third(format: ArchiveFormat, end: End) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path().join("provider");
        let disks = end.disks(&[&root, &temp.path().join("store")]);
        let scene = Self { disks, place: Place::new(&root, &VOLUMES), temp, format };
        let running = scene.provide();
        for generation in 1..=2 {
            scene.write_anew(generation);
            publish(&running).await.expect("publishes");
        }
        running.stop().await;
        scene.write_anew(3);
        scene.place.request(&json!({"archive_paths": ["/app"], "request_id": "third"}));
        scene
    }

    fn store_path(&self) -> std::path::PathBuf {
        self.temp.path().join("store")
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    fn provide(&self) -> Running {
        provide_as(&self.place, &self.store_path(), self.format)
    }

    /// Content of which no piece was there before, so that each generation has objects of its own.
    fn write_anew(&self, generation: u8) {
        for (name, _) in VOLUMES {
            let mut content = vec![0; 100_000];
            let seed = [name.as_bytes(), &[generation]].concat();
            blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut content);
            fs::write(self.place.data(name).join("content"), content).expect("writes");
        }
        fs::create_dir_all(self.place.data("app").join("data")).expect("creates");
    }

    /// A process ends at this point.
    fn ends(&self, role: &str, point: Point) {
        self.disks.iter().for_each(Disk::sync);
        killed_as(self.format, role, point, self.temp.path());
        Disk::cut(&self.disks);
    }

    /// All records, newest first.
    async fn records(&self) -> Vec<SyncRecord> {
        let log = self.store().history(&"models".parse().expect("a key"), 10).await;
        let log = log.expect("reads");
        log.iter().map(|stored| serde_json::from_slice(&stored.bytes).expect("a record")).collect()
    }

    /// All objects that are in their place.
    async fn objects(&self) -> BTreeSet<Cid> {
        let listed = self.store().list(None, 100).await.expect("lists");
        listed.into_iter().map(|object| object.id).collect()
    }

    async fn asides(&self) -> usize {
        self.store().asides(100).await.expect("lists").len()
    }

    /// The objects of each generation: an archive, or a root and the pack that it names.
    fn objects_of_each(&self) -> usize {
        match self.format {
            ArchiveFormat::TarGz => 1,
            ArchiveFormat::Tree => 2,
        }
    }

    /// What its history says of deletions, oldest first.
    fn deletions(&self) -> Vec<Option<bool>> {
        let sent = fs::read_dir(self.place.state().join("sync_history/sent")).expect("lists");
        let entries = sent.map(|entry| {
            let text = fs::read_to_string(entry.expect("reads").path()).expect("reads");
            serde_json::from_str::<Value>(&text).expect("an entry")
        });
        let mut entries: Vec<Value> = entries.collect();
        entries.sort_by_key(|entry| entry["seq"].as_u64());
        entries.into_iter().map(|entry| entry["deletion"]["deletion_succeeded"].as_bool()).collect()
    }

    /// The next process brings the third publish to its end.
    async fn goes_on(&self, running: &Running, case: &str) {
        let response = eventually("the answer", || self.place.json("response.json")).await;
        self.publish_ended().await;
        assert_eq!(response["status"], "ok", "{case}: {response}");
        assert_eq!(response["request_id"], "third", "{case}");
        running.looked().await;
        let records = self.records().await;
        assert_eq!(records.len(), 3, "{case}: one record for each");
        assert_eq!(response["cid"], records[0].cid.to_string(), "{case}");
    }

    async fn publish_ended(&self) {
        let left = [
            self.place.sync_file("request.json"),
            self.place.sync_file("request.json.processing"),
            self.place.state().join("sync/publish.json"),
        ];
        eventually("the end", || left.iter().all(|path| !path.exists()).then_some(())).await;
    }

    /// A provider sweeps until nothing is set aside any more.
    async fn swept(&self, case: &str) {
        let running = start_with(
            &self.place,
            &VOLUMES,
            &self.store_path(),
            SyncSpec { format: self.format, ..sweeping() },
        );
        let end = tokio::time::Instant::now() + DEADLINE;
        while self.asides().await > 0 {
            assert!(tokio::time::Instant::now() < end, "{case}: something stays set aside");
            tokio::time::sleep(POLL).await;
        }
        running.stop().await;
    }
}

/// What a process that ends at this point leaves set aside, of the objects of one generation.
fn left_aside(point: Point, objects: usize) -> usize {
    let all = [Point::ObjectsSetAside, Point::LookedAgain];
    // Of a root and its pack: the pack, which is set aside first, or the root, which is ended last.
    let one = [Point::FirstSetAside, Point::FirstAsideEnded];
    if all.contains(&point) { objects } else { usize::from(one.contains(&point)) }
}

/// The third publish of a key ends at `point`; the next process ends it, and makes a fourth.
async fn cut_off(role: &str, point: Point, format: ArchiveFormat, end: End) {
    let case = format!("{role} {point:?} {format:?} {end:?}");
    let scene = Scene::asked_for_a_third(format, end).await;
    scene.ends(role, point);
    let aside = left_aside(point, scene.objects_of_each());
    assert_eq!(scene.asides().await, aside, "{case}: set aside by who ended");

    let running = scene.provide();
    scene.goes_on(&running, &case).await;
    // What it remembers serves the next one, and what is owed of the retirement is made up for.
    scene.write_anew(4);
    let fourth = publish(&running).await.expect("publishes");
    running.stop().await;
    let left = scene.objects().await;
    let newest_two = 2 * scene.objects_of_each();
    assert_eq!(left.len(), newest_two, "{case}: the newest two and nothing else: {left:?}");
    let records = scene.records().await;
    assert!(records[..2].iter().all(|kept| left.contains(&kept.manifest.blob)), "{case}");
    let gone = [Some(true), Some(true), None, None];
    assert_eq!(scene.deletions(), gone, "{case}: it is written down, and each publish once");
    let spool = fs::read_dir(scene.place.state().join("sync/spool")).expect("lists").count();
    assert_eq!(spool, 0, "{case}: an empty spool");
    consumed(&scene, fourth, &case).await;

    assert_eq!(scene.asides().await, aside, "{case}: looked at by who sweeps");
    if aside > 0 {
        scene.swept(&case).await;
        assert_eq!(scene.objects().await, left, "{case}: nothing comes back, and nothing goes");
    }
}

/// A consumer that never was here gets it exactly.
async fn consumed(scene: &Scene, cid: Cid, case: &str) {
    let consumer = Place::new(&scene.temp.path().join("consumer"), &VOLUMES);
    let running = start(&consumer, &scene.store_path(), SyncRole::Consumer);
    applied(&running, cid).await;
    assert_eq!(trees(&consumer), trees(&scene.place), "{case}");
    running.stop().await;
}

/// The points that a later publish reaches besides. An archive is one object, which is remembered
/// by nobody, and of one object the first is all.
fn reached_by(format: ArchiveFormat) -> impl Iterator<Item = Point> {
    let of_trees = [
        Point::RootStored,
        Point::PackStored,
        Point::Remembered,
        Point::FirstSetAside,
        Point::FirstAsideEnded,
    ];
    Point::LATER.into_iter().filter(move |point| match format {
        ArchiveFormat::TarGz => !of_trees.contains(point),
        ArchiveFormat::Tree => true,
    })
}

#[tokio::test]
async fn b9_a_later_publish_killed_anywhere_is_answered_once() {
    // A first publish shows the same of an archive.
    for point in Point::PUBLISH {
        cut_off("publish", point, ArchiveFormat::Tree, End::Kill).await;
    }
}

#[tokio::test]
async fn b9_one_killed_while_it_stores_and_retires_leaves_nothing_for_ever() {
    for format in FORMATS {
        for point in reached_by(format) {
            cut_off("publish", point, format, End::Kill).await;
        }
    }
}

#[tokio::test]
async fn a_later_publish_that_loses_its_power_leaves_nothing_for_ever() {
    for format in FORMATS {
        for point in reached_by(format) {
            cut_off("publish", point, format, End::PowerCut).await;
        }
    }
}

#[tokio::test]
async fn so_does_one_that_loses_it_while_it_has_clones() {
    for point in Point::CLONES {
        cut_off("publish-clones", point, ArchiveFormat::Tree, End::PowerCut).await;
    }
}

#[tokio::test]
async fn a_sweep_that_ends_among_what_was_set_aside_is_made_up_for() {
    for end in [End::Kill, End::PowerCut] {
        let scene = Scene::asked_for_a_third(ArchiveFormat::Tree, end).await;
        scene.ends("publish", Point::ObjectsSetAside);
        assert_eq!(scene.asides().await, 2);
        // It was answered, so that nothing is left to do but what a sweep finds.
        scene.publish_ended().await;
        scene.ends("sweep", Point::FirstAsideEnded);
        assert_eq!(scene.asides().await, 1, "{end:?}");
        scene.swept("a second one").await;
        assert_eq!(scene.objects().await.len(), 4, "{end:?}: those of the newest two");
    }
}

#[tokio::test]
async fn what_was_set_aside_by_who_ended_is_put_back_for_who_came_to_need_it() {
    for format in FORMATS {
        for end in [End::Kill, End::PowerCut] {
            let scene = Scene::asked_for_a_third(format, end).await;
            let before = scene.objects().await;
            scene.ends("publish", Point::ObjectsSetAside);
            let first = scene.records().await.pop().expect("there are three");
            forge(&scene.store_path(), "late.app", &first);
            // What is needed is not retired, and stays aside for a sweep to find.
            let running = scene.provide();
            scene.goes_on(&running, "needed").await;
            running.stop().await;
            scene.swept("needed").await;
            let objects = scene.objects().await;
            assert_eq!(objects.len(), 3 * scene.objects_of_each(), "{format:?} {end:?}");
            assert!(before.is_subset(&objects), "{format:?} {end:?}: {before:?} {objects:?}");

            // Once nobody needs it, it goes with what the next publish retires.
            let acks = scene.store_path().join("records/models/acks");
            fs::remove_dir_all(acks).expect("removes");
            let running = scene.provide();
            scene.write_anew(4);
            publish(&running).await.expect("publishes");
            running.stop().await;
            let left = scene.objects().await;
            assert_eq!(left.len(), 2 * scene.objects_of_each(), "{format:?} {end:?}: {left:?}");
            assert!(!left.contains(&first.manifest.blob), "{format:?} {end:?}");
        }
    }
}

#[tokio::test]
async fn a_failure_that_loses_its_power_is_answered_once_whatever_is_there_by_then() {
    for point in Point::FAILURE {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (root, store) = (temp.path().join("provider"), temp.path().join("store"));
        let disks = End::PowerCut.disks(&[&root, &store]);
        let place = Place::new(&root, &VOLUMES);
        fill(&place, "one");
        fs::create_dir(place.sync_file("")).expect("creates");
        place.request(&json!({"archive_paths": ["/app/data/late"], "request_id": "r"}));
        disks.iter().for_each(Disk::sync);
        killed_at("publish", point, temp.path());
        Disk::cut(&disks);
        // What failed would succeed now.
        fs::write(place.data("data").join("late"), "here").expect("writes");
        fails_once(&place, &store, point).await;
    }
}

async fn fails_once(place: &Place, store: &Path, point: Point) {
    let running = provide_as(place, store, ArchiveFormat::Tree);
    let response = eventually("the answer", || place.json("response.json")).await;
    assert_eq!((&response["status"], &response["request_id"]), (&json!("error"), &json!("r")));
    eventually("the end", || {
        let over = !place.sync_file("request.json.processing").exists()
            && !place.state().join("sync/publish.json").exists();
        over.then_some(())
    })
    .await;
    running.looked().await;
    running.stop().await;
    let records = LocalStore::open(store).expect("opens");
    let history = records.history(&"models".parse().expect("a key"), 10).await.expect("reads");
    assert_eq!(history.len(), 0, "{point:?}");
}
