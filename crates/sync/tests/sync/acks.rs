//! What consumers acknowledge, who sees it, and what stays for them.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use belay_protocol::record::SyncRecord;
use belay_protocol::{
    ACK_SCHEMA, AckPlace, AckState, Cid, ConsumerId, PublisherKey, SyncAck, SyncConsumer, SyncKey,
    SyncRole,
};
use belay_store::{
    Aside, BlobEntry, BlobError, BlobReader, BlobStore, LocalStore, PutOutcome, RecordError,
    RecordStore, RecordWatch, Revision, StoredAck, StoredRecord,
};
use belay_sync::failpoint::Point;
use belay_sync::{ApplyTimes, Ready, SyncSpec, recover};
use bytes::Bytes;
use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::commands::{Scene, applied};
use crate::faulty::{Faulty, Reading};
use crate::kill::killed_at;
use crate::scene::{
    DEADLINE, Now, Place, Running, VOLUMES, eventually, spec, start_named, start_on, start_with,
    unready,
};

const HOUR: Duration = Duration::from_hours(1);

async fn consumer(providing: &Running, what: &str, wanted: impl Fn(&SyncConsumer) -> bool) {
    providing
        .status(what, |status| {
            let fleet = status.fleet.as_ref();
            fleet.is_some_and(|fleet| fleet.consumers.iter().any(&wanted))
        })
        .await;
}

/// Dates what a consumer acknowledged, as the store does.
fn aged(scene: &Scene, name: &str, age: Duration) {
    let path = scene.store_path().join("records/models/acks").join(name);
    let file = File::options().write(true).open(path).expect("is there");
    file.set_modified(SystemTime::now() - age).expect("dates");
}

async fn record_of(scene: &Scene, cid: Cid) -> SyncRecord {
    let key = "models".parse().expect("a key");
    let log = scene.store().history(&key, 64).await.expect("reads");
    let records = log.iter().map(|stored| serde_json::from_slice(&stored.bytes).expect("a record"));
    let mut records = records.filter(|record: &SyncRecord| record.cid == cid);
    records.next().expect("is in the log")
}

async fn is_stored(scene: &Scene, cid: Cid) -> bool {
    let blob = record_of(scene, cid).await.manifest.blob;
    scene.store().has(blob).await.expect("has").is_some()
}

#[tokio::test]
async fn a_provider_shows_who_has_what_and_how_far_behind_they_are() {
    let scene = Scene::new();
    let providing = scene.provide();
    scene.publish(&providing, "one").await;
    let consuming = scene.consume();
    consumer(&providing, "it holds the newest", |one| {
        (one.state, one.behind, one.live) == (AckState::Applied, Some(0), true)
    })
    .await;
    consuming.handle.pause().await.expect("pauses");
    scene.publish(&providing, "two").await;
    scene.publish(&providing, "three").await;
    consumer(&providing, "it is paused behind two", |one| {
        (one.state, one.behind) == (AckState::Paused, Some(2))
            && one.record.is_some_and(|record| record.seq == 3)
    })
    .await;
    consuming.handle.resume().await.expect("goes on");
    consumer(&providing, "it caught up", |one| one.behind == Some(0)).await;
    consuming.stop().await;

    // Another node takes nothing of whom it does not know, and says so.
    let place = Place::new(&scene.temp.path().join("strict"), &VOLUMES);
    let strict = SyncSpec { publishers: Some(Vec::new()), ..spec(SyncRole::Consumer) };
    let strict = start_named("strict", &place, &VOLUMES, scene.store(), strict);
    consumer(&providing, "it refuses", |one| {
        one.node.as_str() == "strict" && one.state == AckState::Refused && one.holds.is_none()
    })
    .await;
    strict.stop().await;
    aged(&scene, "strict.app", HOUR * 25);
    consumer(&providing, "it is silent", |one| one.node.as_str() == "strict" && !one.live).await;
    providing.stop().await;
}

#[tokio::test]
async fn what_is_no_acknowledgement_is_named_and_keeps_nothing() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let acks = scene.store_path().join("records/models/acks");
    let consuming = scene.consume();
    applied(&consuming, first).await;
    eventually("an acknowledgement", || acks.join("node-a.app").exists().then_some(())).await;
    consuming.stop().await;
    let honest = fs::read(acks.join("node-a.app")).expect("reads");
    // Another's, one that was changed, noise, a large one, and names that no consumer has.
    fs::write(acks.join("node-b.app"), &honest).expect("writes");
    let changed = String::from_utf8_lossy(&honest).replace("\"seq\":1", "\"seq\":9");
    fs::write(acks.join("node-a.app"), changed).expect("writes");
    fs::write(acks.join("node-c.app"), b"noise").expect("writes");
    File::create(acks.join("node-d.app")).and_then(|file| file.set_len(1 << 30)).expect("writes");
    for name in ["..", "node-e", "UPPER.app"] {
        let _ = fs::write(acks.join(name), b"noise");
    }
    fs::create_dir(acks.join("node-f.app")).expect("creates");
    let status = providing
        .status("the refusals", |status| {
            status.fleet.as_ref().is_some_and(|fleet| fleet.refused.len() == 4)
        })
        .await;
    let fleet = status.fleet.expect("a fleet");
    assert!(fleet.consumers.is_empty(), "{fleet:?}");
    for (consumer, words) in [
        ("node-a.app", "not what its signer signed"),
        ("node-b.app", "of another consumer"),
        ("node-c.app", "no acknowledgement"),
        ("node-d.app", "more than 4096 bytes"),
    ] {
        let named = |line: &&String| line.contains(consumer) && line.contains(words);
        assert!(fleet.refused.iter().any(|line| named(&line)), "{:?}", fleet.refused);
    }
    for state in ["two", "three", "four"] {
        scene.publish(&providing, state).await;
    }
    assert!(!is_stored(&scene, first).await, "nobody is believed to need it");
    providing.stop().await;
}

#[tokio::test]
async fn what_a_live_consumer_holds_stays_until_its_word_is_old() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let consuming = scene.consume();
    consumer(&providing, "it holds it", |one| one.behind == Some(0)).await;
    consuming.stop().await;
    let mut later = Vec::new();
    for number in 0..8 {
        later.push(scene.publish(&providing, &format!("later-{number}")).await);
    }
    assert!(is_stored(&scene, first).await, "it may be gone back to");
    assert!(!is_stored(&scene, later[0]).await, "what nobody needs is retired");
    aged(&scene, "node-a.app", HOUR * 23);
    scene.publish(&providing, "nine").await;
    assert!(is_stored(&scene, first).await);
    aged(&scene, "node-a.app", HOUR * 25);
    scene.publish(&providing, "ten").await;
    assert!(!is_stored(&scene, first).await, "a consumer that is dead fills no store");
    providing.stop().await;
}

#[tokio::test]
async fn what_a_slow_consumer_fetches_stays_while_others_publish() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let store = Faulty::open(&scene.store_path());
    store.with(|faults| faults.reads = Reading::Silent);
    let slow = SyncSpec { store_timeout: DEADLINE, ..spec(SyncRole::Consumer) };
    let consuming = start_on(&scene.consumer, &VOLUMES, store.clone(), slow);
    consumer(&providing, "it fetches", |one| one.state == AckState::Fetching).await;
    for number in 0..5 {
        scene.publish(&providing, &format!("later-{number}")).await;
    }
    assert!(is_stored(&scene, first).await);
    consuming.stop().await;
    providing.stop().await;
}

#[tokio::test]
async fn a_consumer_killed_after_it_said_what_it_fetches_keeps_that_for_its_return() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    killed_at("apply", Point::Leased, scene.temp.path());
    for number in 0..5 {
        scene.publish(&providing, &format!("later-{number}")).await;
    }
    assert!(is_stored(&scene, first).await);
    let consuming = scene.consume();
    consumer(&providing, "it caught up", |one| one.behind == Some(0)).await;
    consuming.stop().await;
    scene.publish(&providing, "last").await;
    assert!(!is_stored(&scene, first).await, "nobody needs it any more");
    providing.stop().await;
}

#[tokio::test]
async fn a_store_that_takes_no_acknowledgements_is_no_reason_not_to_apply() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    fs::write(scene.store_path().join("records/models/acks"), b"in the way").expect("writes");
    let consuming = scene.consume();
    applied(&consuming, first).await;
    consuming.stop().await;
    // What cannot be read may hold anything: nothing is retired then.
    for state in ["two", "three", "four"] {
        scene.publish(&providing, state).await;
    }
    assert!(is_stored(&scene, first).await);
    providing.stop().await;
}

/// Leaves an acknowledgement that a key of its own signed, as anyone can who may write to the store.
pub(crate) fn forge(store: &Path, name: &str, record: &SyncRecord) -> PublisherKey {
    let key = SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes());
    let signer = PublisherKey::from_bytes(key.verifying_key().to_bytes());
    let ack = SyncAck {
        schema: ACK_SCHEMA,
        key: "models".parse().expect("a key"),
        consumer: name.parse().expect("a consumer"),
        state: AckState::Fetching,
        record: Some(AckPlace { epoch: record.epoch, seq: record.seq, cid: record.cid }),
        holds: None,
        at: record.timestamp,
        signer,
        signature: None,
    };
    let text = serde_json::to_string(&ack).expect("serialises");
    let text = text.strip_suffix('}').expect("an object");
    let signature = key.sign(format!("belay sync ack 1\n{text}").as_bytes()).to_bytes();
    let text = format!("{text},\"signature\":\"{}\"}}", BASE64.encode(&signature));
    let acks = store.join("records/models/acks");
    fs::create_dir_all(&acks).expect("creates");
    fs::write(acks.join(name), text).expect("writes");
    signer
}

#[tokio::test]
async fn strangers_are_heard_by_name_and_cost_no_more_than_is_bounded() {
    let scene = Scene::new();
    // It looks when it is told to.
    let rare = SyncSpec { poll_interval: HOUR, ..spec(SyncRole::Provider) };
    let providing = start_with(&scene.provider, &VOLUMES, &scene.store_path(), rare);
    let first = scene.publish(&providing, "one").await;
    let record = record_of(&scene, first).await;
    let signer = forge(&scene.store_path(), "edge-7.app", &record);
    let mut published = vec![first, scene.publish(&providing, "two").await];
    providing.handle.check();
    consumer(&providing, "the stranger", |one| {
        (one.node.as_str(), one.state, one.signer) == ("edge-7", AckState::Fetching, signer)
    })
    .await;
    // Theirs is every generation there ever was.
    for number in 0..6 {
        let cid = scene.publish(&providing, &format!("later-{number}")).await;
        forge(&scene.store_path(), &format!("a{number}.app"), &record_of(&scene, cid).await);
        published.push(cid);
    }
    let last = scene.publish(&providing, "last").await;
    published.push(last);
    let mut stored = Vec::new();
    for (index, &cid) in published.iter().enumerate() {
        if is_stored(&scene, cid).await {
            stored.push(index);
        }
    }
    // Of the nine the newest two, and four more of the seven that are asked for.
    assert_eq!(stored, [3, 4, 5, 6, 7, 8]);
    providing.handle.check();
    consumer(&providing, "another stranger", |one| one.node.as_str() == "a5").await;

    // A consumer beside them is served all the same.
    let place = Place::new(&scene.temp.path().join("zz"), &VOLUMES);
    let honest = start_named("zz", &place, &VOLUMES, scene.store(), spec(SyncRole::Consumer));
    applied(&honest, last).await;
    let newer = scene.publish(&providing, "newer").await;
    applied(&honest, newer).await;
    honest.stop().await;
    // A day later nothing stays for them.
    for entry in fs::read_dir(scene.store_path().join("records/models/acks")).expect("lists") {
        let name = entry.expect("reads").file_name();
        aged(&scene, name.to_str().expect("text"), HOUR * 25);
    }
    scene.publish(&providing, "newest").await;
    for &cid in &published {
        assert!(!is_stored(&scene, cid).await);
    }
    providing.stop().await;
}

#[tokio::test]
async fn content_on_trial_is_acknowledged_as_such_until_there_is_a_verdict() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let consuming = scene.consume();
    applied(&consuming, first).await;
    let on_trial = |running: &Running| {
        let mut container = running.window.0.lock().expect("not poisoned");
        container.on_applied = Some(Ready::NotStarted);
        container.now = Now::Said(None);
    };
    on_trial(&consuming);
    let second = scene.publish(&providing, "two").await;
    let tried = |one: &SyncConsumer| {
        let holds = one.holds.is_some_and(|holds| holds.cid == second);
        one.state == AckState::OnTrial && holds && one.record.is_some_and(|r| r.seq == 2)
    };
    consumer(&providing, "it is on trial", tried).await;
    consuming.stop().await;
    // A process that begins within a trial says so, whatever was said before.
    let acks = scene.store_path().join("records/models/acks");
    fs::remove_file(acks.join("node-a.app")).expect("removes");
    let consuming = scene.consume();
    on_trial(&consuming);
    consumer(&providing, "it still is", tried).await;
    consuming.window.0.lock().expect("not poisoned").now = Now::Said(Some(unready()));
    consumer(&providing, "it did not stay", |one| {
        one.state == AckState::Failed && one.holds.is_some_and(|holds| holds.cid == first)
    })
    .await;
    on_trial(&consuming);
    scene.publish(&providing, "three").await;
    consumer(&providing, "another trial", |one| one.state == AckState::OnTrial).await;
    consuming.window.0.lock().expect("not poisoned").now = Now::Ready;
    consumer(&providing, "it stays", |one| (one.state, one.behind) == (AckState::Applied, Some(0)))
        .await;
    consuming.stop().await;
    providing.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_time_and_what_is_uncertain_is_acknowledged_as_that() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let times = ApplyTimes { min_interval: HOUR, ..ApplyTimes::default() };
    let late = SyncSpec { apply_times: times, ..spec(SyncRole::Consumer) };
    let consuming = start_with(&scene.consumer, &VOLUMES, &scene.store_path(), late);
    applied(&consuming, first).await;
    let second = scene.publish(&providing, "two").await;
    consumer(&providing, "it waits", |one| {
        (one.state, one.behind) == (AckState::Waiting, Some(1))
            && one.record.is_some_and(|record| record.cid == second)
    })
    .await;
    consuming.handle.apply_now().await.expect("applies");
    consumer(&providing, "it has it", |one| {
        (one.state, one.behind) == (AckState::Applied, Some(0))
    })
    .await;
    consuming.stop().await;

    // A journal that names what neither place holds, and content that cannot end the halt.
    let third = scene.publish(&providing, "three").await;
    let record = record_of(&scene, third).await;
    let journal = json!({
        "record": record, "directory": "staging-gone",
        "steps": [{"volume": "data", "below": "", "slot": "u0",
                   "staged": {"inode": 1, "born": null}, "replaced": {"inode": 2, "born": null}}],
        "untouched": [], "phase": {"phase": "applying"},
    });
    let state = scene.consumer.state();
    fs::write(state.join("sync/apply.json"), journal.to_string()).expect("writes");
    let recovery = recover(&state, &scene.consumer.layout(&VOLUMES)).await.expect("recovers");
    assert!(recovery.halt.is_some());
    scene.store().delete(record.manifest.blob).await.expect("deletes");
    let consuming = scene.consume();
    consumer(&providing, "it is halted", |one| one.state == AckState::Halted).await;
    consuming.stop().await;
    providing.stop().await;
}

#[tokio::test]
async fn a_store_that_says_nothing_to_an_acknowledgement_holds_up_no_apply_and_no_shutdown() {
    let scene = Scene::new();
    let providing = scene.provide();
    let first = scene.publish(&providing, "one").await;
    let store = Faulty::open(&scene.store_path());
    store.with(|faults| faults.acks = Reading::Silent);
    let brief = SyncSpec { store_timeout: Duration::from_secs(2), ..spec(SyncRole::Consumer) };
    let consuming = start_on(&scene.consumer, &VOLUMES, store.clone(), brief);
    applied(&consuming, first).await;
    consuming.stop().await;
    let second = scene.publish(&providing, "two").await;
    let patient = SyncSpec { store_timeout: DEADLINE * 10, ..spec(SyncRole::Consumer) };
    let consuming = start_on(&scene.consumer, &VOLUMES, store, patient);
    consuming
        .status("the record", |status| status.head.as_ref().is_some_and(|head| head.cid == second))
        .await;
    // In time, although nothing comes of what it says.
    consuming.stop().await;
    providing.stop().await;
}

/// A local store whose objects are read as slowly as a test wants, and which keeps count of those
/// that were gone when they were wanted.
#[derive(Clone)]
struct Slow {
    inner: LocalStore,
    /// Reads that may begin.
    reads: Arc<Semaphore>,
    missed: Arc<AtomicU32>,
}

impl BlobStore for Slow {
    async fn put_if_absent(
        &self,
        id: Cid,
        source: File,
        size: u64,
    ) -> Result<PutOutcome, BlobError> {
        self.inner.put_if_absent(id, source, size).await
    }

    async fn get(&self, id: Cid, range: Option<Range<u64>>) -> Result<BlobReader, BlobError> {
        self.reads.acquire().await.expect("is never closed").forget();
        let got = self.inner.get(id, range).await;
        if matches!(got, Err(BlobError::Absent { .. })) {
            self.missed.fetch_add(1, Ordering::SeqCst);
        }
        got
    }

    async fn has(&self, id: Cid) -> Result<Option<u64>, BlobError> {
        self.inner.has(id).await
    }

    async fn delete(&self, id: Cid) -> Result<bool, BlobError> {
        self.inner.delete(id).await
    }

    async fn set_aside(&self, id: Cid) -> Result<Option<Aside>, BlobError> {
        self.inner.set_aside(id).await
    }

    async fn put_back(&self, aside: &Aside) -> Result<(), BlobError> {
        self.inner.put_back(aside).await
    }

    async fn remove_aside(&self, aside: &Aside) -> Result<(), BlobError> {
        self.inner.remove_aside(aside).await
    }

    async fn asides(&self, limit: usize) -> Result<Vec<Aside>, BlobError> {
        self.inner.asides(limit).await
    }

    async fn list(&self, after: Option<Cid>, limit: usize) -> Result<Vec<BlobEntry>, BlobError> {
        self.inner.list(after, limit).await
    }
}

impl RecordStore for Slow {
    async fn head(&self, key: &SyncKey) -> Result<Option<StoredRecord>, RecordError> {
        self.inner.head(key).await
    }

    async fn compare_and_set(
        &self,
        key: &SyncKey,
        expected: Option<Revision>,
        bytes: Bytes,
    ) -> Result<Revision, RecordError> {
        self.inner.compare_and_set(key, expected, bytes).await
    }

    async fn watch(&self, key: &SyncKey) -> Result<RecordWatch, RecordError> {
        self.inner.watch(key).await
    }

    async fn keys(
        &self,
        after: Option<&SyncKey>,
        limit: usize,
    ) -> Result<Vec<SyncKey>, RecordError> {
        self.inner.keys(after, limit).await
    }

    async fn history(&self, key: &SyncKey, limit: usize) -> Result<Vec<StoredRecord>, RecordError> {
        self.inner.history(key, limit).await
    }

    async fn acknowledge(
        &self,
        key: &SyncKey,
        consumer: &ConsumerId,
        bytes: Bytes,
    ) -> Result<(), RecordError> {
        self.inner.acknowledge(key, consumer, bytes).await
    }

    async fn acknowledgements(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> Result<Vec<StoredAck>, RecordError> {
        self.inner.acknowledgements(key, limit).await
    }
}

/// One consumer of the race.
struct Runner {
    place: Place,
    store: Slow,
    running: Option<Running>,
}

impl Runner {
    fn new(scene: &Scene, name: &str) -> Self {
        let place = Place::new(&scene.temp.path().join(name), &VOLUMES);
        let store = Slow {
            inner: scene.store(),
            reads: Arc::new(Semaphore::new(0)),
            missed: Arc::default(),
        };
        Self { place, store, running: None }
    }

    fn start(&mut self, name: &str) {
        let spec = SyncSpec { store_timeout: DEADLINE * 4, ..spec(SyncRole::Consumer) };
        let store = self.store.clone();
        self.running = Some(start_named(name, &self.place, &VOLUMES, store, spec));
    }
}

/// Equal numbers for equal seeds.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below this.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("it is below one")
    }
}

/// What every object of the newest two generations is asked for.
async fn newest_are_whole(scene: &Scene, seed: u64) {
    let key = "models".parse().expect("a key");
    let store = scene.store();
    for stored in store.history(&key, 2).await.expect("reads") {
        let record: SyncRecord = serde_json::from_slice(&stored.bytes).expect("a record");
        let found = store.has(record.manifest.blob).await.expect("has");
        assert_eq!(found, Some(record.manifest.blob_bytes()), "seed {seed}: record {}", record.seq);
    }
}

async fn race(seed: u64) {
    let scene = Scene::new();
    let providing = scene.provide();
    let mut dice = Dice::new(seed);
    let names = ["edge-a", "edge-b"];
    let mut runners = names.map(|name| Runner::new(&scene, name));
    let mut head = scene.publish(&providing, "state-0").await;
    for (runner, name) in runners.iter_mut().zip(names) {
        runner.start(name);
    }
    for step in 1..30 {
        let which = dice.below(2);
        match dice.below(6) {
            0..=2 => head = scene.publish(&providing, &format!("state-{}", step % 17)).await,
            3 => {
                runners[which].store.reads.add_permits(dice.below(4));
            }
            4 => {
                if let Some(running) = &runners[which].running {
                    running.handle.check();
                }
            }
            _ => match runners[which].running.take() {
                Some(running) => running.stop().await,
                None => runners[which].start(names[which]),
            },
        }
        newest_are_whole(&scene, seed).await;
    }
    for (runner, name) in runners.iter_mut().zip(names) {
        runner.store.reads.add_permits(100_000);
        if runner.running.is_none() {
            runner.start(name);
        }
        let running = runner.running.take().expect("was started");
        running.handle.check();
        let state = |place: &Place| fs::read(place.data("app").join("state")).ok();
        let wanted = state(&scene.provider);
        let (place, what) = (runner.place.clone(), format!("seed {seed}: {name} at {head}"));
        eventually(&what, || (state(&place) == wanted).then_some(())).await;
        running.stop().await;
        let missed = runner.store.missed.load(Ordering::SeqCst);
        assert_eq!(missed, 0, "seed {seed}: what {name} fetched was deleted");
    }
    providing.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_fetched_is_deleted_whoever_publishes_meanwhile() {
    let full = std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full");
    for seed in 1..=if full { 50 } else { 3 } {
        race(seed).await;
    }
}
