//! What goes wrong around a publish or an apply, and what must not come of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use belay_protocol::record::{SyncRecord, UNSIGNED_SCHEMA};
use belay_protocol::{Cid, SyncRole};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::failpoint::Point;
use belay_sync::{
    PublishCommand, SyncSpec, WindowRefused, clear_halt, is_recovery_needed, recover,
};
use rustix::fs::{IFlags, XattrFlags};
use serde_json::{Map, Value, json};

pub(crate) use crate::commands::applied;
use crate::faulty::{Faulty, Reading, Setting};
use crate::kill::killed_at;
use crate::scene::{
    Place, Running, VOLUMES, eventually, fill, spec, start, start_on, start_with, trees,
};
use crate::stored::records;

pub(crate) struct Scene {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) provider: Place,
    pub(crate) consumer: Place,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        fill(&provider, "first");
        fs::create_dir(provider.sync_file("")).expect("creates");
        Self { temp, provider, consumer }
    }

    pub(crate) fn store_path(&self) -> std::path::PathBuf {
        self.temp.path().join("store")
    }

    pub(crate) fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    pub(crate) fn faulty(&self) -> Faulty {
        Faulty::open(&self.store_path())
    }

    pub(crate) fn provide(&self) -> Running {
        start(&self.provider, &self.store_path(), SyncRole::Provider)
    }

    pub(crate) fn provide_on(&self, store: &Faulty) -> Running {
        start_on(&self.provider, &VOLUMES, store.clone(), spec(SyncRole::Provider))
    }

    pub(crate) fn consume(&self, spec: SyncSpec) -> Running {
        let spec = SyncSpec { role: SyncRole::Consumer, ..spec };
        start_with(&self.consumer, &VOLUMES, &self.store_path(), spec)
    }

    pub(crate) fn consume_on(&self, store: &Faulty) -> Running {
        start_on(&self.consumer, &VOLUMES, store.clone(), spec(SyncRole::Consumer))
    }

    pub(crate) async fn records(&self) -> Vec<SyncRecord> {
        records(&self.store_path()).await
    }

    /// Sets a changed copy of the head under a key, as from before records were signed.
    pub(crate) async fn forge(
        &self,
        key: &str,
        record: &SyncRecord,
        change: impl FnOnce(&mut Value),
    ) {
        let unsigned = SyncRecord { signer: None, signature: None, ..record.clone() };
        let mut record = serde_json::to_value(unsigned).expect("serialises");
        record["schema"] = json!(UNSIGNED_SCHEMA);
        record["key"] = json!(key);
        change(&mut record);
        let (store, key) = (self.store(), key.parse().expect("a key"));
        let head = store.head(&key).await.expect("reads").map(|head| head.revision);
        store.compare_and_set(&key, head, record.to_string().into()).await.expect("sets");
    }
}

pub(crate) async fn publish(running: &Running, paths: &[&str]) -> Cid {
    let command = PublishCommand {
        archive_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        metadata: Map::new(),
    };
    running.handle.publish(command).await.expect("publishes").cid
}

pub(crate) async fn answer(place: &Place) -> Value {
    let response = eventually("an answer", || place.json("response.json")).await;
    eventually("the end of the request", || {
        let over = !place.sync_file("request.json.processing").exists()
            && !place.state().join("sync/publish.json").exists();
        over.then_some(())
    })
    .await;
    fs::remove_file(place.sync_file("response.json")).expect("removes");
    response
}

/// A directory in which nothing can be renamed, until this is dropped.
pub(crate) struct Immutable(fs::File);

impl Immutable {
    pub(crate) fn make(path: &Path) -> Self {
        let dir = fs::File::open(path).expect("opens");
        rustix::fs::ioctl_setflags(&dir, IFlags::IMMUTABLE).expect("root, on ext4, btrfs or xfs");
        Self(dir)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        rustix::fs::ioctl_setflags(&self.0, IFlags::empty()).expect("lifts it again");
    }
}

fn staged(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in VOLUMES {
        for entry in fs::read_dir(place.private(name)).expect("lists") {
            let entry = entry.expect("reads").file_name().into_string().expect("text");
            if entry.starts_with("staging-") {
                found.push(format!("{name}/{entry}"));
            }
        }
    }
    found
}

/// An apply that was cut off between the exchanges of its two volumes. The old state was applied
/// before; returns what the new one is.
async fn half_exchanged(scene: &Scene) -> Cid {
    let publishing = scene.provide();
    fill(&scene.provider, "old");
    let old = publish(&publishing, &["/app"]).await;
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Consumer);
    applied(&running, old).await;
    running.stop().await;
    fill(&scene.provider, "new");
    let new = publish(&publishing, &["/app"]).await;
    publishing.stop().await;
    killed_at("apply", Point::FirstExchange, scene.temp.path());
    new
}

#[tokio::test]
async fn a_retry_that_fails_leaves_what_an_unfinished_apply_needs() {
    let scene = Scene::new();
    half_exchanged(&scene).await;
    let before = staged(&scene.consumer);
    assert_eq!(before.len(), 2, "{before:?}");

    // It can neither be finished nor, since the object is gone, be done anew.
    let immutable = Immutable::make(&scene.consumer.root.join("volumes/data"));
    let blob = scene.records().await[0].manifest.blob;
    assert!(scene.store().delete(blob).await.expect("deletes"));
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Consumer);
    let failed = |status: &belay_protocol::SyncStatus| {
        status.last_failure.as_ref().is_some_and(|failure| failure.stage == "download")
    };
    let status = running.status("the failed retry", failed).await;
    assert!(status.halted.is_some());
    assert_eq!(running.window.events(), ["stop for apply", "stay down"]);
    running.stop().await;
    assert_eq!(staged(&scene.consumer), before);

    drop(immutable);
    let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider), "it could still be finished");
}

#[tokio::test]
async fn an_apply_that_fails_after_an_unfinished_one_leaves_that_in_the_journal() {
    let scene = Scene::new();
    half_exchanged(&scene).await;
    let journal = fs::read(scene.consumer.state().join("sync/apply.json")).expect("reads");
    let journal: Value = serde_json::from_slice(&journal).expect("JSON");
    let immutable = Immutable::make(&scene.consumer.root.join("volumes/data"));
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Consumer);
    let status = running.status("quarantine", |status| !status.quarantine.is_empty()).await;
    let error = status.last_failure.expect("a failure").error;
    assert!(error.contains("came to no certain end"), "{error}");
    assert!(status.halted.is_some());
    let stopped = ["stop for apply", "stay down"];
    assert_eq!(running.window.events(), [stopped, stopped].concat());
    running.stop().await;
    let now = fs::read(scene.consumer.state().join("sync/apply.json")).expect("reads");
    let now: Value = serde_json::from_slice(&now).expect("JSON");
    assert_eq!(now, journal);

    drop(immutable);
    let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
}

#[tokio::test]
async fn a_retry_finishes_an_unfinished_apply_before_anything_else() {
    let scene = Scene::new();
    let new = half_exchanged(&scene).await;
    let store = scene.faulty();
    let running = scene.consume_on(&store);
    applied(&running, new).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    running.looked().await;
    assert_eq!(running.window.events(), ["stop for apply", "start applied"]);
    assert_eq!(store.with(|faults| faults.gets), 0, "nothing was fetched");
    assert_eq!(staged(&scene.consumer), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn recovery_waits_for_a_commit_and_ends_the_halt_of_one_that_was_made() {
    let scene = Scene::new();
    half_exchanged(&scene).await;
    let state = scene.consumer.state();
    let layout = scene.consumer.layout(&VOLUMES);
    let lock = fs::File::open(state.join("sync/lock")).expect("opens");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    let busy = recover(&state, &layout).await;
    assert!(matches!(busy, Err(belay_sync::RecoverError::Busy)), "{busy:?}");
    drop(lock);

    recover(&state, &layout).await.expect("recovers");
    let halt = json!({"reason": "from before the commit", "since": null}).to_string();
    fs::write(state.join("sync/halt.json"), halt).expect("writes");
    let recovery = recover(&state, &layout).await.expect("recovers");
    assert_eq!(recovery.halt, None);
    assert!(!state.join("sync/halt.json").exists());

    // A workload that becomes a provider keeps nothing of it.
    assert!(!staged(&scene.consumer).is_empty() && state.join("sync/apply.json").exists());
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Provider);
    eventually("the end of the apply", || {
        let over = staged(&scene.consumer).is_empty() && !state.join("sync/apply.json").exists();
        over.then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn an_operators_word_ends_an_apply_whose_halt_could_not_be_written_down() {
    let scene = Scene::new();
    half_exchanged(&scene).await;
    let state = scene.consumer.state();
    assert!(is_recovery_needed(&state).await && !state.join("sync/halt.json").exists());
    clear_halt(&state).await.expect("clears");
    assert!(!is_recovery_needed(&state).await);
    let before = trees(&scene.consumer);
    let recovery = recover(&state, &scene.consumer.layout(&VOLUMES)).await.expect("recovers");
    assert_eq!((recovery.halt, recovery.finished), (None, None));
    assert_eq!(trees(&scene.consumer), before, "the volumes are taken as they are");
}

#[tokio::test]
async fn leftovers_of_any_number_go() {
    let scene = Scene::new();
    let private = scene.consumer.private("data");
    for number in 0..2_500 {
        fs::create_dir_all(private.join(format!("staging-{number}"))).expect("creates");
    }
    let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None);
    assert_eq!(fs::read_dir(&private).expect("lists").count(), 0);
}

#[tokio::test]
async fn an_object_that_another_record_names_is_not_retired() {
    let scene = Scene::new();
    let running = scene.provide();
    let mut blobs = Vec::new();
    for state in ["one", "two", "three"] {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
        let head = scene.records().await.remove(0);
        blobs.push(head.manifest.blob);
        match state {
            // The same content is also what another key is at.
            "one" => scene.forge("other", &head, |_| {}).await,
            // Another provider of this key announces what was superseded, before it is retired.
            "two" => {
                scene
                    .forge("models", &head, |record| {
                        record["seq"] = json!(3);
                        record["publish_id"] = json!("of another");
                    })
                    .await;
            }
            _ => {}
        }
    }
    fill(&scene.provider, "four");
    publish(&running, &["/app"]).await;
    fill(&scene.provider, "five");
    publish(&running, &["/app"]).await;
    running.handle.history(1).await.expect("the task is idle again");
    running.looked().await;
    let store = scene.store();
    assert!(store.has(blobs[0]).await.expect("has").is_some(), "another key names it");
    assert_eq!(store.has(blobs[1]).await.expect("has"), None, "superseded twice");
    running.stop().await;
}

#[tokio::test]
async fn what_another_provider_of_the_key_announced_last_is_not_retired() {
    let scene = Scene::new();
    let running = scene.provide();
    fill(&scene.provider, "one");
    publish(&running, &["/app"]).await;
    let one = scene.records().await.remove(0);
    for state in ["two", "three"] {
        fill(&scene.provider, state);
        if state == "three" {
            scene
                .forge("models", &one, |record| {
                    record["seq"] = json!(3);
                    record["publish_id"] = json!("of another");
                })
                .await;
        }
        publish(&running, &["/app"]).await;
    }
    running.looked().await;
    let kept = scene.store().has(one.manifest.blob).await.expect("has");
    assert!(kept.is_some(), "it is the newest but one");
    running.stop().await;
}

#[tokio::test]
async fn an_object_deleted_before_its_record_was_set_is_stored_again() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = scene.provide_on(&store);
    // The archive's id is known once it is stored; the same content gives the same archive.
    publish(&running, &["/app"]).await;
    let blob = scene.records().await[0].manifest.blob;
    running.stop().await;
    fs::remove_dir_all(scene.store_path()).expect("removes");
    let store = scene.faulty();
    store.with(|faults| faults.retire_before_set = Some(blob));
    let running = scene.provide_on(&store);
    publish(&running, &["/app"]).await;
    assert_eq!(scene.records().await[0].manifest.blob, blob);
    assert_eq!(store.with(|faults| faults.retire_before_set), None);
    assert!(store.has(blob).await.expect("has").is_some());
    running.stop().await;
}

#[tokio::test]
async fn memory_stays_readable_whatever_a_record_says_and_is_kept_when_it_is_not() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    let store = scene.faulty();
    let running = scene.consume_on(&store);
    applied(&running, cid).await;
    let head = scene.records().await.remove(0);
    scene
        .forge("models", &head, |record| {
            record["seq"] = json!(2);
            record["manifest"]["archive_paths"] = json!(vec![0; 25_000]);
        })
        .await;
    running.status("the refusal", |status| !status.quarantine.is_empty()).await;
    running.stop().await;
    let path = scene.consumer.state().join("sync/consumer.json");
    let text = fs::read_to_string(&path).expect("reads");
    assert!(text.len() < 16 * 1024, "{} bytes", text.len());
    let memory: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(memory["highest"]["order"]["seq"], 1);

    fs::write(&path, "{").expect("damages");
    scene.forge("models", &head, |record| record["seq"] = json!(3)).await;
    let running = scene.consume_on(&store);
    let told = running.status("the failure", |status| {
        status.last_failure.as_ref().is_some_and(|failure| failure.error.contains("unknown"))
    });
    told.await;
    running.looked().await;
    assert_eq!(fs::read_to_string(&path).expect("reads"), "{", "nothing is put in its place");
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_record_that_proves_nothing_does_not_raise_what_is_accepted() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    let head = scene.records().await.remove(0);
    scene
        .forge("models", &head, |record| {
            record["seq"] = json!(1_000_000);
            record["cid"] = json!(Cid::from_digest([9; 32]).to_string());
        })
        .await;
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Consumer);
    running.status("the refusal", |status| !status.quarantine.is_empty()).await;
    scene.forge("models", &head, |record| record["seq"] = json!(2)).await;
    applied(&running, cid).await;
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_or_is_silent_is_not_held_against_the_content() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    for fault in [Reading::Fails, Reading::Silent] {
        let consumer = Place::new(&scene.temp.path().join(format!("{fault:?}")), &VOLUMES);
        let store = scene.faulty();
        store.with(|faults| faults.reads = fault);
        let mut impatient = spec(SyncRole::Consumer);
        impatient.store_timeout = Duration::from_millis(300);
        let running = start_on(&consumer, &VOLUMES, store.clone(), impatient);
        let failed = |status: &belay_protocol::SyncStatus| {
            status.last_failure.as_ref().is_some_and(|failure| failure.stage == "download")
        };
        let status = running.status("the failure", failed).await;
        assert_eq!(status.quarantine.len(), 0);
        assert!(!consumer.state().join("sync/consumer.json").exists());
        store.with(|faults| faults.reads = Reading::Works);
        applied(&running, cid).await;
        assert_eq!(running.handle.status().borrow().last_failure, None);
        running.stop().await;
    }
    publishing.stop().await;
}

#[tokio::test]
async fn a_busy_workload_does_not_make_the_tree_be_fetched_again() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    let store = scene.faulty();
    let running = scene.consume_on(&store);
    let refuse = |refused| running.window.0.lock().expect("not poisoned").refuse = refused;
    refuse(Some(WindowRefused::Busy { reason: "a deploy is under way".into() }));
    running.status("the head", |status| status.head.is_some()).await;
    running.looked().await;
    let fetched = store.with(|faults| faults.gets);
    assert!(fetched > 0, "it is fetched while the workload is busy");
    running.looked().await;
    refuse(None);
    applied(&running, cid).await;
    assert_eq!(store.with(|faults| faults.gets), fetched);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    assert_eq!(staged(&scene.consumer), Vec::<String>::new());
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn attributes_of_any_name_travel() {
    let scene = Scene::new();
    let file = fs::File::open(scene.provider.data("data").join("state")).expect("opens");
    for name in ["user.a=b", "user.100%", "user.%3D=%25"] {
        rustix::fs::fsetxattr(&file, name, b"v=1", XattrFlags::CREATE).expect("attributes");
    }
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    let running = start(&scene.consumer, &scene.store_path(), SyncRole::Consumer);
    applied(&running, cid).await;
    let file = fs::File::open(scene.consumer.data("data").join("state")).expect("opens");
    for name in ["user.a=b", "user.100%", "user.%3D=%25"] {
        let mut value = [0_u8; 8];
        let count = rustix::fs::fgetxattr(&file, name, &mut value[..]).expect("attributes");
        assert_eq!(&value[..count], b"v=1");
    }
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn names_of_one_file_stay_links_where_they_can_and_are_whole_copies_where_they_cannot() {
    let scene = Scene::new();
    let data = scene.provider.data("data");
    fs::create_dir(data.join("other")).expect("creates");
    let mut sparse = vec![0_u8; 1 << 20];
    sparse.extend_from_slice(b"end");
    fs::write(data.join("a"), &sparse).expect("writes");
    let file = fs::File::open(data.join("a")).expect("opens");
    rustix::fs::fsetxattr(&file, "user.note", b"kept", XattrFlags::CREATE).expect("attributes");
    for name in ["other/b", "sub/c", "sub/d"] {
        fs::hard_link(data.join("a"), data.join(name)).expect("links");
    }
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app/data/a", "/app/data/other", "/app/data/sub"]).await;
    publishing.stop().await;

    let finer = [("app", "/app"), ("sub", "/app/data/sub")];
    let place = Place::new(&scene.temp.path().join("finer"), &finer);
    let running = start_with(&place, &finer, &scene.store_path(), spec(SyncRole::Consumer));
    applied(&running, cid).await;
    let stat = |path: std::path::PathBuf| fs::metadata(path).expect("exists");
    let (outer, inner) = (place.data("app").join("data"), place.data("sub"));
    let (a, b) = (stat(outer.join("a")), stat(outer.join("other/b")));
    let (c, d) = (stat(inner.join("c")), stat(inner.join("d")));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2), "two roots of one volume");
    assert_eq!((c.ino(), c.nlink()), (d.ino(), 2), "one copy for both");
    assert_ne!(a.ino(), c.ino());
    assert_eq!(fs::read(inner.join("c")).expect("reads"), sparse);
    assert!(c.blocks() * 512 < 1 << 20, "a hole stays a hole");
    assert_eq!((c.mode(), c.mtime(), c.mtime_nsec()), (a.mode(), a.mtime(), a.mtime_nsec()));
    let copy = fs::File::open(inner.join("c")).expect("opens");
    let mut value = [0_u8; 8];
    let count = rustix::fs::fgetxattr(&copy, "user.note", &mut value[..]).expect("attributes");
    assert_eq!(&value[..count], b"kept");
    running.stop().await;
}

#[tokio::test]
async fn a_copy_across_volumes_that_would_fill_one_is_refused() {
    let scene = Scene::new();
    let data = scene.provider.data("data");
    // Each is half of a volume's 64 MiB, and mostly holes.
    for file in ["a", "b", "c"] {
        fs::File::create_new(data.join(file)).expect("creates").set_len(30 << 20).expect("grows");
        fs::hard_link(data.join(file), data.join("sub").join(file)).expect("links");
    }
    let publishing = scene.provide();
    publish(&publishing, &["/app/data"]).await;
    publishing.stop().await;
    let finer = [("app", "/app"), ("sub", "/app/data/sub")];
    let place = Place::new(&scene.temp.path().join("finer"), &finer);
    let running = start_with(&place, &finer, &scene.store_path(), spec(SyncRole::Consumer));
    let status = running.status("the refusal", |status| status.last_failure.is_some()).await;
    let failure = status.last_failure.expect("waited for");
    assert!(failure.error.contains("no room"), "{}", failure.error);
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn a_file_with_many_names_counts_once() {
    let scene = Scene::new();
    let data = scene.provider.data("data");
    fs::File::create_new(data.join("a")).expect("creates").set_len(50 << 20).expect("grows");
    for name in ["b", "c"] {
        fs::hard_link(data.join("a"), data.join(name)).expect("links");
    }
    let publishing = scene.provide();
    publish(&publishing, &["/app/data"]).await;
    publishing.stop().await;
}

#[tokio::test]
async fn words_that_no_record_holds_are_refused_before_the_stop() {
    let scene = Scene::new();
    let running = scene.provide();
    let mut long = "/app".to_owned();
    while long.len() < 3_900 {
        long.push('/');
        long.push_str(&"x".repeat(200));
    }
    let paths: Vec<String> = (0..15).map(|n| format!("{long}{n}")).collect();
    let metadata = json!({"m": "y".repeat(4_000)});
    scene.provider.request(&json!({"archive_paths": paths, "metadata": metadata}));
    let answer = answer(&scene.provider).await;
    assert_eq!(answer["stage"], "validation");
    let error = answer["error"].as_str().expect("text");
    assert!(error.contains("together"), "{error}");
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn a_path_too_long_to_travel_is_found_before_the_stop() {
    let scene = Scene::new();
    let name = "x".repeat(250);
    let mut dir = fs::File::open(scene.provider.data("data")).expect("opens");
    for _ in 0..17 {
        rustix::fs::mkdirat(&dir, &*name, rustix::fs::Mode::RWXU).expect("creates");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let next = rustix::fs::openat(&dir, &*name, flags, rustix::fs::Mode::empty());
        dir = next.expect("opens").into();
    }
    let running = scene.provide();
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    let answer = answer(&scene.provider).await;
    assert_eq!(answer["stage"], "validation", "{answer}");
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn a_failed_publish_leaves_no_object() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = scene.provide_on(&store);
    store.with(|faults| faults.set = Setting::Refused);
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    let failed = answer(&scene.provider).await;
    assert_eq!(failed["stage"], "record_publish", "{failed}");
    eventually("an empty store", || {
        let blobs = scene.store_path().join("blobs");
        let shards = fs::read_dir(blobs).expect("lists").map(|shard| shard.expect("reads").path());
        let count: usize = shards.map(|shard| fs::read_dir(shard).expect("lists").count()).sum();
        (count == 0).then_some(())
    })
    .await;

    // What is named meanwhile stays.
    publish(&running, &["/app"]).await;
    let named = store.list(None, 10).await.expect("lists");
    fs::write(scene.provider.data("data").join("state"), "other").expect("writes");
    store.with(|faults| faults.set = Setting::Refused);
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    assert_eq!(answer(&scene.provider).await["stage"], "record_publish");
    running.looked().await;
    assert_eq!(store.list(None, 10).await.expect("lists"), named);
    running.stop().await;
}

#[tokio::test]
async fn a_publish_of_unknown_outcome_is_answered_when_it_is_known() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = scene.provide_on(&store);
    store.with(|faults| faults.set = Setting::LostReply);
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "r"}));
    running.status("the doubt", |status| status.last_failure.is_some()).await;
    running.looked().await;
    assert!(scene.provider.json("response.json").is_none(), "nothing is known yet");
    store.with(|faults| faults.log_down = false);
    let answer = answer(&scene.provider).await;
    assert_eq!((&answer["status"], &answer["request_id"]), (&json!("ok"), &json!("r")));
    assert_eq!(scene.records().await.len(), 1);
    assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);
    running.stop().await;
}

#[tokio::test]
async fn a_record_that_did_not_reach_the_store_is_set_again() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = scene.provide_on(&store);
    store.with(|faults| faults.set = Setting::LostRequest);
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    assert_eq!(answer(&scene.provider).await["status"], "ok");
    assert_eq!(store.with(|faults| faults.set), Setting::AsItIs, "it was lost once");
    assert_eq!(scene.records().await.len(), 1);
    assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);
    running.stop().await;
}

#[tokio::test]
async fn a_failure_that_was_answered_stays_the_answer_after_a_kill() {
    for point in Point::FAILURE {
        let scene = Scene::new();
        scene.provider.request(&json!({"archive_paths": ["/app/data/late"], "request_id": "r"}));
        killed_at("publish", point, scene.temp.path());
        let told = scene.provider.json("response.json");
        // What failed would succeed now.
        fs::write(scene.provider.data("data").join("late"), "here").expect("writes");
        let running = scene.provide();
        let answer = answer(&scene.provider).await;
        assert_eq!((&answer["status"], &answer["request_id"]), (&json!("error"), &json!("r")));
        assert!(told.is_none_or(|told| told == answer), "{point:?}: the same answer");
        assert_eq!(scene.records().await.len(), 0, "{point:?}");
        assert!(!scene.provider.sync_file("request.json").exists());
        running.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_left_is_left_later_and_the_request_is_not_run_again() {
    let scene = Scene::new();
    let in_the_way = |name: &str| scene.provider.sync_file(name).join("x");
    fs::create_dir_all(in_the_way("response.json")).expect("creates");
    for number in 0..8 {
        fs::create_dir_all(in_the_way(&format!("response.json.unsafe.{number}"))).expect("creates");
    }
    let mut slow = spec(SyncRole::Provider);
    slow.poll_interval = Duration::from_hours(1);
    let start = || start_with(&scene.provider, &VOLUMES, &scene.store_path(), slow.clone());
    let running = start();
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "r"}));
    running.status("the publish", |status| status.last_publish.is_some()).await;
    running.looked().await;
    assert!(!scene.provider.sync_file("request.json.processing").exists());
    assert!(scene.provider.state().join("sync/publish.json").exists());
    running.stop().await;

    fs::remove_dir_all(scene.provider.sync_file("response.json")).expect("clears the way");
    let running = start();
    let answer = answer(&scene.provider).await;
    assert_eq!((&answer["status"], &answer["request_id"]), (&json!("ok"), &json!("r")));
    assert_eq!(scene.records().await.len(), 1);
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn an_archive_that_is_damaged_each_time_is_given_up() {
    let scene = Scene::new();
    let store = scene.faulty();
    store.with(|faults| faults.damaged = true);
    let running = scene.provide_on(&store);
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    let answer = answer(&scene.provider).await;
    assert_eq!(answer["stage"], "archive_build", "{answer}");
    assert_eq!(running.window.events().len(), 6, "three captures");
    running.stop().await;
}

#[tokio::test]
async fn a_request_that_fails_counts_for_the_least_interval() {
    let scene = Scene::new();
    let mut slow = spec(SyncRole::Provider);
    slow.min_publish_interval = Duration::from_hours(1);
    let running = start_with(&scene.provider, &VOLUMES, &scene.store_path(), slow);
    scene.provider.request(&json!({"archive_paths": ["/app/absent"]}));
    assert_eq!(answer(&scene.provider).await["stage"], "validation");
    scene.provider.request(&json!({"archive_paths": ["/app/absent"]}));
    running.looked().await;
    running.looked().await;
    assert!(scene.provider.sync_file("request.json").exists(), "it waits");
    running.stop().await;
}

#[tokio::test]
async fn so_does_what_is_no_request_and_is_told_once() {
    let scene = Scene::new();
    let mut slow = spec(SyncRole::Provider);
    slow.min_publish_interval = Duration::from_hours(1);
    let running = start_with(&scene.provider, &VOLUMES, &scene.store_path(), slow);
    let request = scene.provider.sync_file("request.json");
    scene.provider.request(&json!([]));
    assert_eq!(answer(&scene.provider).await["stage"], "validation");
    for round in 0..10 {
        if round % 2 == 0 {
            scene.provider.request(&json!([]));
        } else {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &request, fifo, 0o644.into(), 0).expect("makes");
        }
        running.looked().await;
        running.looked().await;
        fs::remove_file(&request).expect("it waits where it is");
        assert_eq!(scene.provider.json("response.json"), None, "round {round}: one answer");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_object_is_made_whole_by_the_next_equal_publish() {
    let scene = Scene::new();
    let running = scene.provide();
    let cid = publish(&running, &["/app"]).await;
    let blob = scene.records().await[0].manifest.blob.to_string();
    let stored = scene.store_path().join("blobs").join(&blob[57..]).join(&blob);
    let whole = fs::read(&stored).expect("reads");
    fs::write(&stored, vec![0; whole.len()]).expect("damages");
    assert_eq!(publish(&running, &["/app"]).await, cid);
    assert_eq!(fs::read(&stored).expect("reads"), whole);
    assert_eq!(scene.records().await.len(), 1);
    running.stop().await;
}
