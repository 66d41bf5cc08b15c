//! What a provider knows of its consumers, and keeps for them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use belay_harness::{Node, NodeOptions, binary, sync_spec, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// Publishes a state, and returns the object that holds it and its record's number.
async fn publish(provider: &Node, store: &Path, state: &str) -> (PathBuf, u64) {
    let data = provider.volume("app", "data").await;
    fs::write(data.join("state"), state).expect("writes");
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    let cid = outcome.publish.expect("says what it published").cid.to_string();
    let sent = sent(provider).into_iter().map(|(_, entry)| entry);
    let entry = sent.max_by_key(|entry| entry["seq"].as_u64()).expect("is in the history");
    assert_eq!(entry["cid"], cid);
    let blob = entry["manifest"]["blob"].as_str().expect("an object");
    let object = store.join("blobs").join(&blob[blob.len() - 2..]).join(blob);
    assert!(object.is_file(), "{}", object.display());
    (object, entry["seq"].as_u64().expect("a number"))
}

/// The history of the provider's publishes.
fn sent(provider: &Node) -> Vec<(PathBuf, Value)> {
    let directory = provider.directory().join("state/workloads/app/sync_history/sent");
    let files = fs::read_dir(directory).expect("lists");
    let files = files.map(|file| file.expect("an entry").path());
    files
        .map(|path| {
            let text = fs::read(&path).expect("reads");
            (path, serde_json::from_slice(&text).expect("JSON"))
        })
        .collect()
}

/// Makes what was published hours old: ten minutes are kept for anyone.
fn age_history(provider: &Node) {
    for (path, mut entry) in sent(provider) {
        entry["published_timestamp"] = json!("2020-01-01T00:00:00Z");
        fs::write(path, entry.to_string()).expect("writes");
    }
}

async fn serves(consumer: &Node, state: &str) {
    until(&format!("the consumer to have {state}"), SOON, || async {
        let data = consumer.volume("app", "data").await;
        match fs::read_to_string(data.join("state")) {
            Ok(found) if found == state => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

fn status(node: &Node, more: &[&str]) -> String {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .args(["sync", "status"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("belay runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until the provider's table says of the consumer what is wanted, in one line.
async fn says(provider: &Node, consumer: &Node, words: &str) -> String {
    let who = format!("app on {}", consumer.name());
    until(&format!("{who} to be said to be: {words}"), SOON, || async {
        let table = status(provider, &[]);
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let mut lines = lines.filter(|line| line.contains(&who) && line.contains(words));
        lines.next().ok_or(table)
    })
    .await
}

/// A belayd that does nothing, and goes on at the end.
struct Stopped(Pid);

impl Stopped {
    fn new(node: &Node) -> Self {
        let pid = Pid::from_raw(node.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).expect("stops");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[tokio::test]
async fn a_provider_shows_who_has_what_and_keeps_it_for_the_slow_and_not_for_the_dead() {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let mut consumer = Node::start(options()).await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    assert!(!status(&provider, &[]).contains("CONSUMER"), "nobody told of itself");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    let (first, _) = publish(&provider, store.path(), "one").await;
    serves(&consumer, "one").await;
    let line = says(&provider, &consumer, "applied").await;
    assert!(line.starts_with("app app on") && line.contains(" 0 "), "{line}");

    let key = consumer.client().post("/v1/sync/keygen").await.expect("has a key").summary;

    // It stands still, and is four generations behind.
    let stopped = Stopped::new(&consumer);
    let mut later = Vec::new();
    for number in 0..4 {
        later.push(publish(&provider, store.path(), &format!("later-{number}")).await);
        age_history(&provider);
    }
    let (last, seq) = publish(&provider, store.path(), "last").await;
    assert!(first.exists(), "a slow consumer may go back to it, or fetch from it");
    assert!(!later[0].0.exists() && !later[1].0.exists(), "nobody needs them");
    let line = says(&provider, &consumer, &format!(" {} ", seq - 1)).await;
    assert!(!line.contains("silent"), "{line}");
    let fleet: Value = serde_json::from_str(&status(&provider, &["-o", "json"])).expect("JSON");
    let one = &fleet["app"]["fleet"]["consumers"][0];
    assert_eq!((&one["node"], &one["behind"]), (&json!(consumer.name()), &json!(seq - 1)));
    assert!(key.contains(one["signer"].as_str().expect("a key")), "{key}: {one}");
    let metrics = provider.client().metrics().await.expect("metrics");
    let labels = format!("{{workload=\"app\",key=\"state\",node=\"{}\"", consumer.name());
    assert!(metrics.contains(&format!("belay_sync_consumer_behind_records{labels}")), "{metrics}");

    // It goes on, has the newest, and needs nothing older.
    drop(stopped);
    serves(&consumer, "last").await;
    says(&provider, &consumer, " 0 ").await;
    age_history(&provider);
    let (held, _) = publish(&provider, store.path(), "next").await;
    serves(&consumer, "next").await;
    assert!(!first.exists(), "it went on");

    // It dies, and a day goes by in which it says nothing.
    says(&provider, &consumer, " 0 ").await;
    consumer.kill();
    let acks = store.path().join("records/state/acks");
    let ack = acks.join(format!("{}.app", consumer.name()));
    let file = File::options().write(true).open(ack).expect("it told of itself");
    let days = Duration::from_hours(25);
    file.set_modified(SystemTime::now() - days).expect("dates");
    for number in 0..3 {
        age_history(&provider);
        publish(&provider, store.path(), &format!("after-{number}")).await;
    }
    assert!(!held.exists() && !last.exists(), "what is dead fills no store");
    let objects =
        sent(&provider).iter().filter(|(_, e)| e["deletion"]["deleted_at"].is_null()).count();
    assert_eq!(objects, 2, "the newest two");
    says(&provider, &consumer, "silent since").await;
    consumer.launch().await;
    serves(&consumer, "after-2").await;
    says(&provider, &consumer, " 0 ").await;
    provider.end().await;
    consumer.end().await;
}
