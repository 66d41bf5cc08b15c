//! What is deleted in a store while others publish, and what is nobody's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{Cid, ProblemCode, SyncKey, SyncRole};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::{PublishCommand, PublishError, SyncSpec};
use serde_json::{Map, json};

use crate::acks::forge;
use crate::faults::{Scene, applied, publish};
use crate::faulty::{Faulty, Gate};
use crate::scene::{
    FORMATS, Place, Running, VOLUMES, eventually, fill, spec, start_on, start_with, trees,
};

/// Two nodes that share a store. The second one provides another key, with the content that the
/// first one published first.
struct Neighbours {
    scene: Scene,
    other: Place,
    first: (Running, Faulty),
    second: (Running, Faulty),
}

fn provider(key: &str, format: ArchiveFormat) -> SyncSpec {
    SyncSpec { key: key.parse().expect("a key"), format, ..spec(SyncRole::Provider) }
}

fn copied(from: &Place, to: &Place) {
    for (name, _) in VOLUMES {
        fs::remove_dir_all(to.data(name)).expect("removes");
        let copy = std::process::Command::new("/bin/cp")
            .arg("-a")
            .args([from.data(name), to.data(name)])
            .status();
        assert!(copy.expect("cp runs").success());
    }
}

impl Neighbours {
    /// The first one has published twice, and the next publish retires what it published first.
    async fn new(format: ArchiveFormat) -> Self {
        let scene = Scene::new();
        let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
        copied(&scene.provider, &other);
        let (one, two) = (scene.faulty(), scene.faulty());
        let first = start_on(&scene.provider, &VOLUMES, one.clone(), provider("models", format));
        publish(&first, &["/app"]).await;
        fill(&scene.provider, "second");
        publish(&first, &["/app"]).await;
        fill(&scene.provider, "third");
        let second = start_on(&other, &VOLUMES, two.clone(), provider("others", format));
        Self { scene, other, first: (first, one), second: (second, two) }
    }

    /// What the second one published can be applied, and the store holds what is named and no more.
    async fn ends_whole(self, cid: Cid, format: ArchiveFormat) {
        let consumer = Place::new(&self.scene.temp.path().join("taker"), &VOLUMES);
        let spec = SyncSpec { role: SyncRole::Consumer, ..provider("others", format) };
        let taking = start_with(&consumer, &VOLUMES, &self.scene.store_path(), spec);
        applied(&taking, cid).await;
        assert_eq!(trees(&consumer), trees(&self.other));
        taking.stop().await;
        self.first.0.stop().await;
        self.second.0.stop().await;
        assert_eq!(self.scene.store().asides(9).await.expect("lists"), []);
    }
}

fn ask(running: &Running) -> tokio::task::JoinHandle<Result<Cid, PublishError>> {
    let handle = running.handle.clone();
    tokio::spawn(async move {
        let archive_paths = vec!["/app".to_owned()];
        let asked = handle.publish(PublishCommand { archive_paths, metadata: Map::new() }).await;
        asked.map(|outcome| outcome.cid)
    })
}

#[tokio::test]
async fn what_somebody_publishes_while_it_is_deleted_stays() {
    for format in FORMATS {
        for gate in [Gate::SetAside, Gate::EndAside] {
            let neighbours = Neighbours::new(format).await;
            let (first, one) = &neighbours.first;
            let (second, two) = &neighbours.second;
            let mut held = one.shut(gate);
            let third = ask(first);
            held.reached().await;
            let cid = publish(second, &["/app"]).await;
            let stored = two.with(|faults| faults.stored.len());
            // At the first gate it finds everything there, at the second one it stores it anew.
            assert_eq!(stored == 0, gate == Gate::SetAside, "{format:?} {gate:?}: {stored}");
            held.open();
            third.await.expect("does not panic").expect("publishes");
            neighbours.ends_whole(cid, format).await;
        }
    }
}

#[tokio::test]
async fn what_is_deleted_before_it_is_named_is_stored_again() {
    for format in FORMATS {
        let neighbours = Neighbours::new(format).await;
        let (first, _) = &neighbours.first;
        let (second, two) = &neighbours.second;
        let mut held = two.shut(Gate::Set);
        let published = ask(second);
        held.reached().await;
        assert_eq!(two.with(|faults| faults.stored.len()), 0, "it relies on what is there");
        publish(first, &["/app"]).await;
        held.open();
        let cid = published.await.expect("does not panic").expect("publishes");
        assert!(two.with(|faults| !faults.stored.is_empty()), "and had to store it");
        neighbours.ends_whole(cid, format).await;
    }
}

#[tokio::test]
async fn what_cannot_be_stored_again_is_not_said_to_be_published() {
    let format = ArchiveFormat::Tree;
    let neighbours = Neighbours::new(format).await;
    let (first, _) = &neighbours.first;
    let (second, two) = &neighbours.second;
    let mut held = two.shut(Gate::Set);
    let published = ask(second);
    held.reached().await;
    publish(first, &["/app"]).await;
    let spool = neighbours.other.state().join("sync/spool");
    for entry in fs::read_dir(spool).expect("lists") {
        fs::remove_dir_all(entry.expect("reads").path()).expect("removes");
    }
    held.open();
    let refused = published.await.expect("does not panic").expect_err("it is lost");
    let PublishError::Failed { stage, code, reason } = refused else { panic!("{refused:?}") };
    assert_eq!((stage, code), (Stage::RecordPublish, Some(ProblemCode::PublishedLost)));
    assert!(reason.contains("publish again"), "{reason}");
    // Which stores it all.
    let cid = publish(second, &["/app"]).await;
    neighbours.ends_whole(cid, format).await;
}

#[tokio::test]
async fn what_a_consumer_comes_to_need_while_it_is_deleted_is_put_back() {
    for format in FORMATS {
        let scene = Scene::new();
        let store = scene.faulty();
        let running =
            start_on(&scene.provider, &VOLUMES, store.clone(), provider("models", format));
        publish(&running, &["/app"]).await;
        let first = record(&scene.store(), "models").await.remove(0);
        let needed = objects(&scene.store()).await;
        fill(&scene.provider, "second");
        publish(&running, &["/app"]).await;
        fill(&scene.provider, "third");
        let mut held = store.shut(Gate::SetAside);
        let third = ask(&running);
        held.reached().await;
        // After the first look and before the second one.
        forge(&scene.store_path(), "late.app", &first);
        held.open();
        third.await.expect("does not panic").expect("publishes");
        running.stop().await;
        assert!(needed.is_subset(&objects(&scene.store()).await), "{format:?}");
        assert_eq!(scene.store().asides(9).await.expect("lists"), []);
    }
}

/// The ids of all objects.
async fn objects(store: &LocalStore) -> BTreeSet<Cid> {
    store.list(None, 100).await.expect("lists").into_iter().map(|entry| entry.id).collect()
}

fn sweeping() -> SyncSpec {
    SyncSpec { sweep_grace: Duration::from_millis(1_500), ..spec(SyncRole::Provider) }
}

/// What the records of a key name, newest first, with all that it needs.
async fn record(store: &LocalStore, key: &str) -> Vec<SyncRecord> {
    let key: SyncKey = key.parse().expect("a key");
    let log = store.history(&key, 100).await.expect("reads");
    log.iter().map(|stored| serde_json::from_slice(&stored.bytes).expect("a record")).collect()
}

async fn swept_to(store: &LocalStore, left: usize) -> BTreeSet<Cid> {
    let end = tokio::time::Instant::now() + crate::scene::DEADLINE;
    loop {
        let found = objects(store).await;
        if found.len() == left {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{left} objects are to be left: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_lost_provider_left_is_swept() {
    let scene = Scene::new();
    let store = scene.store();
    let running = scene.provide();
    for state in ["first", "second"] {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
    }
    running.stop().await;
    let first = record(&store, "models").await[1].manifest.blob;
    // Its state is lost, and with it what is its to retire; and somebody left an object of no record.
    fs::remove_dir_all(scene.provider.state()).expect("removes");
    fs::create_dir(scene.provider.state()).expect("creates");
    let nobodys = put(&store, scene.temp.path(), b"nobody's").await;

    let running = start_on(&scene.provider, &VOLUMES, scene.faulty(), sweeping());
    for state in ["third", "fourth"] {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
    }
    // The newest two generations are a root and a pack each, at least; nothing else is left.
    let named = {
        let mut named = BTreeSet::new();
        for record in &record(&store, "models").await[..2] {
            named.insert(record.manifest.blob);
        }
        named
    };
    eventually("the sweep", || {
        let gone = |id: Cid| !blob_path(&scene.store_path(), id).exists();
        (gone(first) && gone(nobodys)).then_some(())
    })
    .await;
    let left = objects(&store).await;
    assert!(named.is_subset(&left), "{named:?} {left:?}");
    let consuming = scene.consume(sweeping());
    applied(&consuming, record(&store, "models").await[0].cid).await;
    consuming.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_publish_of_which_no_history_was_written_is_retired_all_the_same() {
    let scene = Scene::new();
    let store = scene.store();
    let running = start_on(&scene.provider, &VOLUMES, scene.faulty(), sweeping());
    // A file in the place of the directory of the history.
    let sent = scene.provider.state().join("sync_history/sent");
    fs::create_dir_all(sent.parent().expect("below another")).expect("creates");
    fs::write(&sent, "").expect("blocks");
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    let told = crate::faults::answer(&scene.provider).await;
    assert!(told["history_error"].is_string(), "{told}");
    fs::remove_file(&sent).expect("removes");
    let first = record(&store, "models").await[0].manifest.blob;
    for state in ["second", "third"] {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
    }
    eventually("the sweep", || (!blob_path(&scene.store_path(), first).exists()).then_some(()))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn what_is_being_published_and_what_others_keep_is_not_swept() {
    let scene = Scene::new();
    let store = scene.store();
    // Another key, whose provider keeps more than this one would.
    let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
    let keeps = SyncSpec { keep_generations: 4, ..provider("others", ArchiveFormat::Tree) };
    let keeping = start_on(&other, &VOLUMES, scene.faulty(), keeps);
    for state in ["a", "b", "c", "d"] {
        fill(&other, state);
        publish(&keeping, &["/app"]).await;
    }
    // A publish that was stored and is not named yet.
    let under_way = scene.faulty();
    let another = Place::new(&scene.temp.path().join("another"), &VOLUMES);
    fill(&another, "slow");
    let slow =
        start_on(&another, &VOLUMES, under_way.clone(), provider("slow", ArchiveFormat::Tree));
    let mut held = under_way.shut(Gate::Set);
    let published = ask(&slow);
    held.reached().await;
    let before = objects(&store).await;

    let grace = Duration::from_secs(4);
    let sweeps = SyncSpec { sweep_grace: grace, ..spec(SyncRole::Provider) };
    let running = start_on(&scene.provider, &VOLUMES, scene.faulty(), sweeps);
    let nobodys = put(&store, scene.temp.path(), b"nobody's").await;
    // It is seen, with what is not named yet, and is given its time.
    let seen = eventually("a look", || {
        let text = fs::read_to_string(scene.provider.state().join("sync/unnamed.json")).ok()?;
        text.contains(&nobodys.to_string()).then_some(text)
    })
    .await;
    let unnamed = under_way.with(|faults| faults.stored.clone());
    assert!(unnamed.iter().all(|id| seen.contains(&id.to_string())), "{seen}");
    held.open();
    let cid = published.await.expect("does not panic").expect("publishes");
    eventually("the sweep", || (!blob_path(&scene.store_path(), nobodys).exists()).then_some(()))
        .await;
    assert_eq!(swept_to(&store, before.len()).await, before, "nothing else went");
    let consumer = Place::new(&scene.temp.path().join("taker"), &VOLUMES);
    let takes = SyncSpec { role: SyncRole::Consumer, ..provider("slow", ArchiveFormat::Tree) };
    let taking = start_with(&consumer, &VOLUMES, &scene.store_path(), takes);
    applied(&taking, cid).await;
    for running in [taking, running, slow, keeping] {
        running.stop().await;
    }
}

#[tokio::test]
async fn what_a_process_that_ended_had_set_aside_is_put_back_if_it_is_needed() {
    let scene = Scene::new();
    let store = scene.store();
    let running = scene.provide();
    let cid = publish(&running, &["/app"]).await;
    running.stop().await;
    let nobodys = put(&store, scene.temp.path(), b"nobody's").await;
    let all = objects(&store).await;
    for id in &all {
        store.set_aside(*id).await.expect("sets aside").expect("it is there");
    }
    // Consumers do not miss it.
    let consuming = scene.consume(spec(SyncRole::Consumer));
    applied(&consuming, cid).await;
    consuming.stop().await;

    let running = start_on(&scene.provider, &VOLUMES, scene.faulty(), sweeping());
    let left = swept_to(&store, all.len() - 1).await;
    assert!(!left.contains(&nobodys));
    running.stop().await;
    assert_eq!(store.asides(9).await.expect("lists"), []);
}

#[tokio::test]
async fn a_damaged_root_of_another_key_stops_all_deletion_and_says_so() {
    let scene = Scene::new();
    let store = scene.store();
    let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
    fill(&other, "other");
    let running =
        start_on(&other, &VOLUMES, scene.faulty(), provider("others", ArchiveFormat::Tree));
    publish(&running, &["/app"]).await;
    running.stop().await;
    let root = record(&store, "others").await[0].manifest.blob;
    let path = blob_path(&scene.store_path(), root);
    let whole = fs::read(&path).expect("reads");
    // One byte of its head, after which it does not look like a root, and one of its body.
    for place in [0, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&path, damaged).expect("damages");
        let running = scene.provide();
        let before = objects(&store).await.len();
        for state in ["one", "two", "three"] {
            fill(&scene.provider, &format!("{state}-{place}"));
            publish(&running, &["/app"]).await;
        }
        assert!(objects(&store).await.len() >= before + 6, "nothing is deleted");
        let status = running.handle.status().borrow().clone();
        let told = status.retirement.expect("it is said");
        assert_eq!(told.code, Some(ProblemCode::NothingDeleted));
        let begins = "what record 1 of key others needs cannot be told: the stored object";
        assert!(told.error.starts_with(begins), "{}", told.error);
        assert_eq!(status.last_failure, None, "the publish is none the worse");

        fs::write(&path, &whole).expect("mends");
        fill(&scene.provider, &format!("four-{place}"));
        publish(&running, &["/app"]).await;
        assert_eq!(running.handle.status().borrow().retirement, None);
        running.stop().await;
        let newest = record(&store, "models").await;
        let is_there =
            |record: &SyncRecord| blob_path(&scene.store_path(), record.manifest.blob).exists();
        assert!(newest[..2].iter().all(is_there), "the newest two stay");
        assert!(!newest[2..].iter().any(is_there), "what was held up is made up for");
    }
}

async fn put(store: &LocalStore, dir: &Path, bytes: &[u8]) -> Cid {
    let id = Cid::from_digest(*blake3::hash(bytes).as_bytes());
    let path = dir.join("object");
    fs::write(&path, bytes).expect("writes");
    let file = fs::File::open(path).expect("opens");
    store.put_if_absent(id, file, bytes.len() as u64).await.expect("puts");
    id
}

fn blob_path(store: &Path, id: Cid) -> std::path::PathBuf {
    let text = id.to_string();
    store.join("blobs").join(&text[text.len() - 2..]).join(text)
}
