//! kill -9 of belayd at random moments of what matters; then everything is whole.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use belay_harness::{Leavings, Node, NodeOptions, free_port, is_full, sync_spec, until, web_spec};
use belay_protocol::{NodeReadiness, WorkloadPhase};

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

    /// A time below `longest`, by splitmix64.
    fn next(&mut self, longest: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (z ^ (z >> 31)) % 1_000;
        longest.mul_f64(f64::from(u32::try_from(share).expect("below a thousand")) / 1_000.0)
    }
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
