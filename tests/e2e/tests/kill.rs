//! kill -9 of belayd at random moments of what matters; then everything is whole.
#![expect(clippy::print_stdout, reason = "how many writes were met is worth a look")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use belay_harness::{
    Client, Leavings, Ledger, Node, NodeOptions, Refusal, free_port, is_full, sync_spec, until,
    web_spec,
};
use belay_protocol::{
    DesiredState, NodeReadiness, ProblemCode, VolumeFate, WorkloadPhase, WorkloadStatus,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);

/// Kills per test: the gate's, and those of `--full`.
fn rounds() -> u32 {
    if is_full() { 100 } else { 10 }
}

/// Random moments that can be repeated: the seed is in every message.
struct Moments {
    seed: u64,
    state: u64,
}

impl Moments {
    fn new() -> Self {
        let seed = std::env::var("BELAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos())
        });
        Self { seed, state: seed | 1 }
    }

    /// A time below `longest`.
    fn next(&mut self, longest: Duration) -> Duration {
        let share = self.number() % 1_000;
        longest.mul_f64(f64::from(u32::try_from(share).expect("below a thousand")) / 1_000.0)
    }

    /// A number, by splitmix64.
    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A workload that does nothing, in one of two versions that differ, and ends at once when told to.
fn small_spec(name: &str, version: u64) -> String {
    format!(
        "name = \"{name}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
         command = [\"/bin/sh\", \"-c\", \"echo started >> /data/starts; exec sleep 10000{version}\"]\n\
         [volumes.data]\nsize = \"16M\"\nmount = \"/data\"\nthin = true\n\
         [sync]\nrole = \"provider\"\nkey = \"{name}\"\n\
         [ready]\ninterval = \"100ms\"\n"
    )
}

const QUIET: [&str; 3] = ["quiet-1", "quiet-2", "quiet-3"];
const CHURNING: [&str; 4] = ["churn-1", "churn-2", "churn-3", "churn-4"];

/// One operation on one workload, chosen by `pick`. Whether it is heard of does not matter here:
/// belayd may be killed at any moment of it.
async fn churn(client: &Client, directory: &Path, name: &str, pick: u64) -> Result<(), Refusal> {
    match pick % 8 {
        0 | 1 => client.deploy(&small_spec(name, pick / 8 % 2), directory).await.map(drop),
        2 | 3 => client.act("stop", name).await.map(drop),
        4 => client.act("restart", name).await.map(drop),
        5 => client.publish(name, &["/data"]).await.map(drop),
        _ => client.act("start", name).await.map(drop),
    }
}

/// Id and start of every quiet container.
async fn quiet_ones(node: &Node) -> Vec<Option<belay_protocol::ContainerStatus>> {
    let mut found = Vec::new();
    for name in QUIET {
        let status = node.client().wait_for(name, WorkloadPhase::Ready, SOON).await;
        assert_eq!(status.restarts, 0, "{name}");
        found.push(status.container);
    }
    found
}

/// Waits until every workload is as it was asked to be last.
async fn converged(node: &Node, seed: u64) {
    for name in CHURNING {
        until(&format!("{name} to be as it was asked (seed {seed})"), SOON, || async {
            let found = node.client().workload(name).await?;
            match (found.desired, found.phase) {
                (DesiredState::Running, WorkloadPhase::Ready)
                | (DesiredState::Stopped, WorkloadPhase::Stopped) => Ok(()),
                other => Err(format!("{other:?}: {}; {:?}", found.reason, found.last_fault)),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_hundred_kills_under_churn_touch_nothing_that_is_quiet_and_lose_nothing_that_was_asked() {
    let kills = if is_full() { 500 } else { 100 };
    let mut moments = Moments::new();
    let seed = moments.seed;
    let mut node = Node::start(NodeOptions::default()).await;
    for name in QUIET.into_iter().chain(CHURNING) {
        node.client().deploy(&small_spec(name, 0), node.directory()).await.expect("deploys");
    }
    let before = quiet_ones(&node).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut churners = tokio::task::JoinSet::new();
    for (number, name) in CHURNING.into_iter().enumerate() {
        let (client, directory) = (node.client().clone(), node.directory().to_owned());
        let stopped = stopped.clone();
        let mut picks = Moments { seed, state: seed ^ (number as u64 + 1) };
        churners.spawn(async move {
            let mut heard = 0_u32;
            while !*stopped.borrow() {
                match churn(&client, &directory, name, picks.number()).await {
                    Ok(()) => heard += 1,
                    // Refused, or belayd is dead at the moment: it is asked again a little later.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
            heard
        });
    }
    for kill in 0..kills {
        // Most come while it works, the others while it is still finding its feet.
        let longest = if kill % 3 == 2 { 250 } else { 1_000 };
        tokio::time::sleep(moments.next(Duration::from_millis(longest))).await;
        node.kill();
        node.spawn();
        if kill % 25 == 24 {
            node.ready().await;
            assert_eq!(quiet_ones(&node).await, before, "seed {seed}, kill {kill}");
        }
    }
    stop.send_replace(true);
    node.ready().await;
    let mut heard = 0;
    while let Some(ended) = churners.join_next().await {
        heard += ended.expect("a churner lives");
    }
    assert!(heard > 0, "seed {seed}: nothing was ever done, so nothing was shown");
    converged(&node, seed).await;
    assert_eq!(quiet_ones(&node).await, before, "seed {seed}");
    for name in QUIET {
        let starts = node.volume(name, "data").await.join("starts");
        let starts = std::fs::read_to_string(starts).expect("it counts its starts");
        assert_eq!(starts.lines().count(), 1, "seed {seed}: {name} was started again");
    }
    // What is asked after the last kill is done as ever.
    let mut running = QUIET.len();
    for (number, name) in CHURNING.into_iter().enumerate() {
        if number % 2 == 0 {
            node.client().act("stop", name).await.expect("stops");
        } else {
            node.client().act("start", name).await.expect("starts");
            running += 1;
        }
    }
    until("one container a running workload", SOON, || {
        std::future::ready(containers_are(&node, running))
    })
    .await;
    node.end().await;
}

/// Kills belayd as soon as the ledger was written for the `nth` time from now on. Says whether
/// there was such a write before `done`.
fn kill_at_write(node: &mut Node, nth: u32, done: &AtomicBool) -> bool {
    let log = node.directory().join("state/belay.db-wal");
    let stamp = || std::fs::metadata(&log).map(|data| (data.modified().ok(), data.len())).ok();
    let mut last = stamp();
    let mut writes = 0;
    loop {
        let now = stamp();
        if now != last {
            last = now;
            writes += 1;
        }
        if writes == nth {
            node.kill();
            return true;
        }
        if done.load(Ordering::Acquire) {
            return false;
        }
        // Short against the milliseconds that the act behind a write takes.
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What is done to the subject while belayd is killed, and what must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Deploy,
    Stop,
    Start,
    Restart,
    Publish,
    Remove,
}

impl Act {
    const ALL: [Self; 6] =
        [Self::Deploy, Self::Stop, Self::Start, Self::Restart, Self::Publish, Self::Remove];

    /// Brings the subject into the state that the act begins from.
    async fn prepare(self, client: &Client, directory: &Path) {
        let deployed = client.workload(SUBJECT).await.is_ok();
        if !deployed {
            client.deploy(&small_spec(SUBJECT, 0), directory).await.expect("deploys");
        }
        let verb = if self == Self::Start { "stop" } else { "start" };
        client.act(verb, SUBJECT).await.expect("is prepared");
    }

    async fn ask(self, client: &Client, directory: &Path, round: u32) -> Result<(), Refusal> {
        match self {
            // Another version each time.
            Self::Deploy => {
                client.deploy(&small_spec(SUBJECT, u64::from(round) + 1), directory).await.map(drop)
            }
            Self::Stop => client.act("stop", SUBJECT).await.map(drop),
            Self::Start => client.act("start", SUBJECT).await.map(drop),
            Self::Restart => client.act("restart", SUBJECT).await.map(drop),
            Self::Publish => published(client).await,
            Self::Remove => client.remove(SUBJECT, VolumeFate::Delete).await.map(drop),
        }
    }

    /// What it leaves when nothing comes between.
    fn end(self) -> End {
        match self {
            Self::Deploy | Self::Start | Self::Restart | Self::Publish => End::Ready,
            Self::Stop => End::Stopped,
            Self::Remove => End::Gone,
        }
    }
}

/// Publishes once nothing else is at it: a publish that was cut off is made by itself at the next start.
async fn published(client: &Client) -> Result<(), Refusal> {
    until("the subject to be free", SOON, || async {
        match client.publish(SUBJECT, &["/data"]).await {
            Err(Refusal::Problem(problem)) if problem.code == ProblemCode::Busy => {
                Err(problem.detail)
            }
            answered => Ok(answered.map(drop)),
        }
    })
    .await
}

/// How the subject must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ready,
    Stopped,
    Gone,
}

impl End {
    /// What a ledger that belayd was killed over holds it to.
    fn of(record: Option<&Value>) -> Self {
        match record {
            None => Self::Gone,
            Some(record) if !record["removing"].is_null() => Self::Gone,
            Some(record) if record["run"] == "stopped" => Self::Stopped,
            Some(_) => Self::Ready,
        }
    }

    fn is_met(self, found: Option<&WorkloadStatus>) -> bool {
        let state = found.map(|found| (found.desired, found.phase));
        match self {
            Self::Ready => state == Some((DesiredState::Running, WorkloadPhase::Ready)),
            Self::Stopped => state == Some((DesiredState::Stopped, WorkloadPhase::Stopped)),
            Self::Gone => state.is_none(),
        }
    }

    /// Containers that are left, the quiet one's with them.
    fn containers(self) -> usize {
        match self {
            Self::Ready => 2,
            Self::Stopped | Self::Gone => 1,
        }
    }
}

const SUBJECT: &str = "subject";

/// Every write of the ledger is an intent or its end: belayd is killed after each of them, in each
/// act, until the act has no further one. What the ledger says then is what must come of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_durable_write_of_each_act_it_converges() {
    let mut node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&small_spec("quiet-1", 0), node.directory()).await.expect("deploys");
    let quiet = node.client().workload("quiet-1").await.expect("is there").container;
    for act in Act::ALL {
        let (mut kills, mut intents) = (0, 0);
        for nth in 1..=20_u32 {
            act.prepare(node.client(), node.directory()).await;
            let (client, directory) = (node.client().clone(), node.directory().to_owned());
            let done = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&done);
            let asked = tokio::spawn(async move {
                let heard = act.ask(&client, &directory, nth).await;
                told.store(true, Ordering::Release);
                heard
            });
            let killed = tokio::task::block_in_place(|| kill_at_write(&mut node, nth, &done));
            let heard = asked.await.expect("the caller lives");
            let record = Ledger::of(&node).find(SUBJECT);
            let end = if killed { End::of(record.as_ref()) } else { act.end() };
            let generation = record.and_then(|record| record["generation"].as_u64());
            if killed {
                kills += 1;
                intents += u32::from(end == act.end());
                node.launch().await;
            } else {
                heard.as_ref().unwrap_or_else(|refusal| panic!("{act:?} was refused: {refusal:?}"));
            }
            let what = format!("{act:?}, write {nth}, {end:?}, heard {heard:?}");
            let found = until(&format!("it to converge after {what}"), SOON, || async {
                let status = node.client().status().await?;
                let mut all = status.workloads.into_iter();
                let found = all.find(|found| found.name.as_str() == SUBJECT);
                if end.is_met(found.as_ref()) { Ok(found) } else { Err(format!("{found:?}")) }
            })
            .await;
            if let (Some(generation), Some(found)) = (generation, found) {
                assert_eq!(found.generation, generation, "{what}: the version that was in force");
            }
            until(&format!("one container a workload after {what}"), SOON, || {
                std::future::ready(containers_are(&node, end.containers()))
            })
            .await;
            let still = node.client().workload("quiet-1").await.expect("is there").container;
            assert_eq!(still, quiet, "{what}");
            if !killed {
                break;
            }
        }
        println!("{act:?}: killed after {kills} writes, {intents} of them with its intent");
        assert!(intents >= 1, "{act:?}: no intent was met, the test looks in the wrong place");
    }
    node.end().await;
}

fn containers_are(node: &Node, count: usize) -> Result<(), String> {
    let found = Leavings::find(node.name(), node.directory()).containers;
    if found.len() == count { Ok(()) } else { Err(format!("{} containers", found.len())) }
}

#[tokio::test]
async fn killed_during_a_deploy_it_comes_to_one_ready_version() {
    let mut moments = Moments::new();
    let seed = moments.seed;
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "v0"), node.directory()).await.expect("deploys");
    let data = node.volume("web", "data").await;
    std::fs::write(data.join("kept"), "through everything").expect("writes");
    for round in 1..=rounds() {
        let client = node.client().clone();
        let (spec, directory) = (web_spec(port, &format!("v{round}")), node.directory().to_owned());
        let deploy = tokio::spawn(async move { client.deploy(&spec, &directory).await });
        tokio::time::sleep(moments.next(Duration::from_millis(2_500))).await;
        node.kill();
        // What the caller heard, if anything, must hold.
        let heard = deploy.await.expect("the caller lives").is_ok();
        node.launch().await;
        let found = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
        let text = until("the port to serve", SOON, || async {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let got = client.get(format!("http://127.0.0.1:{port}/index.html")).send().await;
            let got = got.map_err(|error| error.to_string())?;
            got.text().await.map_err(|error| error.to_string())
        })
        .await;
        if heard {
            assert_eq!(text.trim(), format!("v{round}"), "seed {seed}, round {round}: {found:?}");
        }
        until("one container", SOON, || std::future::ready(containers_are(&node, 1))).await;
        let kept = node.volume("web", "data").await.join("kept");
        let kept = std::fs::read_to_string(kept).expect("the volume is whole");
        assert_eq!(kept, "through everything", "seed {seed}, round {round}");
    }
    node.end().await;
}

#[tokio::test]
async fn killed_at_rest_it_touches_nothing() {
    let mut moments = Moments::new();
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "v0"), node.directory()).await.expect("deploys");
    let before = node.client().workload("web").await.expect("is there").container;
    for round in 0..rounds() {
        node.kill();
        node.spawn();
        // Killed again while it is still finding its feet.
        tokio::time::sleep(moments.next(Duration::from_millis(1_500))).await;
        node.kill();
        node.launch().await;
        let found = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
        assert_eq!(found.container, before, "seed {}, round {round}", moments.seed);
    }
    node.end().await;
}

/// Writes a state of forty files that all say the same number.
fn write_state(data: &Path, number: u32) {
    let directory = data.join("state");
    std::fs::create_dir_all(&directory).expect("makes");
    for file in 0..40 {
        std::fs::write(directory.join(format!("f{file}")), number.to_string()).expect("writes");
    }
}

/// The number that all files say.
fn read_state(data: &Path) -> Result<u32, String> {
    let mut numbers = Vec::new();
    for file in 0..40 {
        let text = std::fs::read_to_string(data.join(format!("state/f{file}")));
        numbers.push(text.map_err(|error| error.to_string())?);
    }
    numbers.dedup();
    match numbers.as_slice() {
        [one] => one.parse().map_err(|error| format!("{error}: {one:?}")),
        mixed => Err(format!("a mix: {mixed:?}")),
    }
}

#[tokio::test]
async fn killed_during_publish_and_apply_every_replica_is_whole() {
    let mut moments = Moments::new();
    let seed = moments.seed;
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let mut provider = Node::start(options()).await;
    let mut consumer = Node::start(options()).await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    let mut last = 0;
    for round in 1..=rounds() {
        write_state(&provider.volume("app", "data").await, round);
        let client = provider.client().clone();
        let publish = tokio::spawn(async move { client.publish("app", &["/data"]).await });
        tokio::time::sleep(moments.next(Duration::from_millis(1_200))).await;
        // Turn by turn, the one that publishes and the one that applies.
        let victim = if round % 2 == 0 { &mut provider } else { &mut consumer };
        victim.kill();
        victim.launch().await;
        let heard = publish.await.expect("the caller lives").is_ok();
        for node in [&provider, &consumer] {
            let found = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
            assert!(found.last_fault.is_none(), "seed {seed}, round {round}: {found:?}");
        }
        let data = consumer.volume("app", "data").await;
        last = until("the replica to be whole", SOON, || async {
            if !data.join("state").exists() && last == 0 && !heard {
                return Ok(0);
            }
            let found = read_state(&data)?;
            if heard && found != round {
                return Err(format!("still {found}"));
            }
            Ok(found)
        })
        .await;
        assert!(last <= round, "seed {seed}, round {round}: {last}");
        let own = read_state(&provider.volume("app", "data").await).expect("the provider's own");
        assert_eq!(own, round, "seed {seed}: the provider's volume is its own");
    }
    // After the last kill a publish still gets through.
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    let cid = outcome.publish.expect("says what").cid;
    until("the last state to arrive", SOON, || async {
        let found = consumer.client().workload("app").await?;
        let applied = found.sync.and_then(|sync| sync.last_apply).map(|apply| apply.cid);
        if applied == Some(cid) { Ok(()) } else { Err(format!("{applied:?}")) }
    })
    .await;
    let status = consumer.client().status().await.expect("answers");
    assert_eq!(status.ready, NodeReadiness::Ready);
    provider.end().await;
    consumer.end().await;
}
