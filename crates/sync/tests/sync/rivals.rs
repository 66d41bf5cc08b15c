//! Several nodes that provide one key, over a store whose requests and replies are lost, come late,
//! and come again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use belay_protocol::record::SyncRecord;
use belay_protocol::{Cid, ProblemCode, PublisherKey, SyncKey, SyncRole};
use belay_store::{LocalStore, RecordError, RecordStore, Revision};
use belay_sync::{PublishCommand, PublishError, PublisherRule, SyncSpec};
use bytes::Bytes;
use serde_json::Map;

use crate::acks::Dice;
use crate::faulty::{Faulty, Setting};
use crate::scene::{Place, Running, VOLUMES, fill, spec, start_named};

/// Steps of one world; with what is published at its end less than a store keeps records.
const STEPS: usize = 36;
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// One provider, and its way to the store.
struct Rival {
    name: &'static str,
    place: Place,
    store: Faulty,
    rule: PublisherRule,
    running: Option<Running>,
}

impl Rival {
    fn new(name: &'static str, root: &std::path::Path, rule: PublisherRule) -> Self {
        let place = Place::new(&root.join(name), &VOLUMES);
        let store = Faulty::open(&root.join("store"));
        let mut rival = Self { name, place, store, rule, running: None };
        rival.start();
        rival
    }

    fn start(&mut self) {
        let spec = SyncSpec { publisher: self.rule, ..spec(SyncRole::Provider) };
        let store = self.store.clone();
        self.running = Some(start_named(self.name, &self.place, &VOLUMES, store, spec));
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it is started again at once")
    }

    async fn restart(&mut self) {
        self.running.take().expect("runs").stop().await;
        self.start();
    }

    fn signer(&self) -> PublisherKey {
        self.place.key().publisher().expect("a key")
    }

    async fn publish(&self, state: &str) -> Result<Cid, PublishError> {
        fill(&self.place, state);
        let command = PublishCommand { archive_paths: vec!["/app".into()], metadata: Map::new() };
        self.running().handle.publish(command).await.map(|outcome| outcome.cid)
    }

    fn is_cut_off(&self) -> bool {
        self.store.with(|faults| faults.answers.is_some())
    }

    /// The line to the store is whole again, whatever was wrong with it.
    fn heal(&self) {
        self.store.with(|faults| {
            faults.answers = None;
            faults.log_down = false;
            faults.set = Setting::AsItIs;
        });
    }
}

/// The log as a bystander knows it, who forgets nothing.
struct Bystander {
    store: LocalStore,
    key: SyncKey,
    seen: BTreeMap<Revision, Bytes>,
}

impl Bystander {
    /// Reads the log, and holds it against what must be so of every log.
    async fn look(&mut self, world: &str) -> Vec<SyncRecord> {
        for stored in self.store.history(&self.key, 64).await.expect("reads") {
            let before = self.seen.insert(stored.revision, stored.bytes.clone());
            assert!(before.is_none_or(|bytes| bytes == stored.bytes), "{world}: it was rewritten");
        }
        let read = |bytes: &Bytes| serde_json::from_slice(bytes).expect("a record");
        let records: Vec<SyncRecord> = self.seen.values().map(read).collect();
        for pair in records.windows(2) {
            let places = pair.iter().map(|record| (record.epoch, record.seq)).collect::<Vec<_>>();
            assert!(places[0] < places[1], "{world}: two records at one place: {places:?}");
            assert_eq!(pair[1].parent_cid, Some(pair[0].cid), "{world}: {places:?}");
        }
        let mut ids: Vec<_> = records.iter().map(|record| &record.publish_id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all, "{world}: something was published twice");
        records
    }
}

/// Says again what was said before, as a network does that was slow: it is taken only if it could be
/// the first time that it is heard.
async fn replay(rivals: &[Rival], dice: &mut Dice, bystander: &Bystander, world: &str) {
    let asked: Vec<_> =
        rivals.iter().flat_map(|rival| rival.store.with(|faults| faults.asked.clone())).collect();
    if asked.is_empty() {
        return;
    }
    let (expected, bytes) = asked[dice.below(asked.len())].clone();
    let (store, key) = (&bystander.store, &bystander.key);
    let head = store.head(key).await.expect("reads").map(|stored| stored.revision);
    match store.compare_and_set(key, expected, bytes.clone()).await {
        Ok(_) => {
            assert_eq!(head, expected, "{world}: what is stale was taken");
            let known = bystander.seen.values().any(|seen| *seen == bytes);
            assert!(!known, "{world}: one record was taken twice");
        }
        Err(RecordError::Conflict { .. }) => assert_ne!(head, expected, "{world}"),
        Err(error) => panic!("{world}: {error}"),
    }
}

/// What a provider was told of a publish must be so.
fn holds(world: &str, rival: &Rival, told: &Result<Cid, PublishError>, records: &[SyncRecord]) {
    match told {
        Ok(cid) => {
            let ours = |record: &&SyncRecord| record.cid == *cid;
            let record = records.iter().find(ours).unwrap_or_else(|| panic!("{world}: no record"));
            assert_eq!(record.signer, Some(rival.signer()), "{world}");
        }
        Err(PublishError::Failed { code: Some(ProblemCode::Fenced), .. }) => {
            assert_eq!(rival.rule, PublisherRule::One, "{world}");
            let shown = rival.running().handle.status().borrow().fenced.clone();
            let by = shown.unwrap_or_else(|| panic!("{world}: the fence is not shown")).signer;
            assert_ne!(by, Some(rival.signer()), "{world}");
        }
        // Lost, unknown, or held up by one before it of which nothing is known.
        Err(_) => {}
    }
}

async fn world(seed: u64, rule: PublisherRule) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root: PathBuf = temp.path().to_owned();
    let mut rivals = NODES.map(|name| Rival::new(name, &root, rule));
    let store = LocalStore::open(&root.join("store")).expect("opens");
    let key = "models".parse().expect("a key");
    let mut bystander = Bystander { store, key, seen: BTreeMap::new() };
    let mut dice = Dice::new(seed);
    for step in 0..STEPS {
        let world = format!("seed {seed}, {rule:?}, step {step}");
        let (one, other) = (dice.below(3), dice.below(3));
        let lost = [Setting::AsItIs, Setting::LostReply, Setting::LostRequest][dice.below(3)];
        rivals[one].store.with(|faults| faults.set = lost);
        let state = |name: &str| format!("{step} of {name}");
        match dice.below(10) {
            0..=2 => {
                let told = rivals[one].publish(&state("one")).await;
                holds(&world, &rivals[one], &told, &bystander.look(&world).await);
            }
            3 | 4 if one != other => {
                let (state, others) = (state("one"), state("other"));
                let (told, others) =
                    tokio::join!(rivals[one].publish(&state), rivals[other].publish(&others));
                let records = bystander.look(&world).await;
                holds(&world, &rivals[one], &told, &records);
                holds(&world, &rivals[other], &others, &records);
            }
            3..=5 => {
                let state = state("one");
                let (told, _) = tokio::join!(
                    rivals[one].publish(&state),
                    rivals[other].running().handle.take_over()
                );
                let records = bystander.look(&world).await;
                // One that took over itself shows no fence any more.
                if one != other {
                    holds(&world, &rivals[one], &told, &records);
                }
            }
            6 if rivals[one].is_cut_off() => rivals[one].heal(),
            6 => rivals[one].store.with(|faults| faults.answers = Some(0)),
            7 => rivals[one].heal(),
            8 => rivals[one].restart().await,
            _ => replay(&rivals, &mut dice, &bystander, &world).await,
        }
        bystander.look(&world).await;
    }
    settled(&rivals, &mut bystander, &format!("seed {seed}, {rule:?}, at the end")).await;
    for rival in &mut rivals {
        rival.running.take().expect("runs").stop().await;
    }
}

/// Once all is whole one of them publishes, and the others say that they are fenced; or all do.
async fn settled(rivals: &[Rival], bystander: &mut Bystander, world: &str) {
    for rival in rivals {
        rival.heal();
    }
    // What nobody knew the outcome of is asked for first, one after the other.
    for rival in rivals.iter().chain(rivals) {
        rival.running().looked().await;
    }
    let records = bystander.look(world).await;
    let first = records.last().map_or(rivals[0].signer(), |head| head.signer.expect("signed"));
    let (publishes, others): (Vec<_>, Vec<_>) =
        rivals.iter().partition(|rival| rival.signer() == first);
    for rival in publishes.into_iter().chain(others) {
        let told = rival.publish(&format!("last of {}", rival.name)).await;
        holds(world, rival, &told, &bystander.look(world).await);
        let fenced =
            matches!(&told, Err(PublishError::Failed { code: Some(ProblemCode::Fenced), .. }));
        if rival.signer() == first || rival.rule == PublisherRule::Any {
            told.unwrap_or_else(|error| panic!("{world}: {}: {error}", rival.name));
        } else {
            assert!(fenced, "{world}: {}: {told:?}", rival.name);
        }
    }
}

async fn worlds(rule: PublisherRule) {
    let full = std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full");
    for seed in 1..=if full { 100 } else { 2 } {
        Box::pin(world(seed, rule)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_records_have_one_place_whatever_is_lost_or_comes_late_and_losers_say_so() {
    worlds(PublisherRule::One).await;
}

#[tokio::test(start_paused = true)]
async fn providers_by_turns_have_one_place_each_whatever_is_lost_or_comes_late() {
    worlds(PublisherRule::Any).await;
}
