//! `belay sync` against real nodes: what an operator asks of volume-sync beside a publish.

use std::process::{Command, Stdio};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, sync_spec, until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        String::from_utf8(self.out).expect("text")
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("JSON")
    }

    #[track_caller]
    fn refused(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(words), "{}", self.err);
    }
}

/// Runs `belay sync` against the node.
fn sync(node: &Node, arguments: &[&str]) -> Ended {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .arg("sync")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("belay runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ended { code: output.status.code(), out: output.stdout, err }
}

async fn pair() -> (Node, Node, tempfile::TempDir) {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    (provider, consumer, store)
}

/// Publishes a state that a mix with another can be told from, and returns its content id.
async fn publish(provider: &Node, state: &str) -> String {
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("state"), state).expect("writes");
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    outcome.publish.expect("says what it published").cid.to_string()
}

async fn serves(consumer: &Node, state: &str) {
    until(&format!("the consumer to have {state}"), SOON, || async {
        let data = consumer.volume("app", "data").await;
        match std::fs::read_to_string(data.join("state")) {
            Ok(found) if found == state => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_published_while_a_consumer_is_paused_waits_over_a_kill() {
    let (provider, mut consumer, _store) = pair().await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let said = sync(&consumer, &["pause", "app"]).done();
    assert!(said.contains("new records wait for belay sync resume app"), "{said}");
    let second = publish(&provider, "two").await;
    consumer.kill();
    consumer.launch().await;
    let status = until("the record that waits", SOON, || async {
        let status = sync(&consumer, &["status", "-o", "json"]).json();
        if status["app"]["waits"].is_string() { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status["app"]["stage"], "paused");
    assert_eq!(status["app"]["head"]["cid"], *second);
    let table = sync(&consumer, &["status"]).done();
    assert!(table.contains("by an operator; record 2 of epoch 1 waits"), "{table}");
    serves(&consumer, "one").await;

    // A provider refuses what is asked of it meanwhile, and says what to type.
    sync(&provider, &["pause", "app"]).done();
    sync(&provider, &["publish", "app", "/data"]).refused(75, "belay sync resume app");
    sync(&provider, &["resume", "app"]).done();
    sync(&provider, &["publish", "app", "/data"]).done();

    sync(&consumer, &["resume", "app"]).done();
    serves(&consumer, "two").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_generation_is_shown_by_workload_and_by_content() {
    let (provider, consumer, _store) = pair().await;
    sync(&consumer, &["show", "app"]).refused(66, "nothing is published under state");
    let first = publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let second = publish(&provider, "two").await;
    serves(&consumer, "two").await;
    until("the history entry", SOON, || async {
        let shown = sync(&consumer, &["show", "app", "-o", "json"]).json();
        if shown["applied_at"].is_string() { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let shown = sync(&consumer, &["show", "app", "-o", "json"]).json();
    assert_eq!(shown["record"]["cid"], *second);
    assert_eq!((&shown["standing"], &shown["stored"]), (&"head".into(), &"whole".into()));
    assert_eq!(shown["volumes"], serde_json::json!(["data"]));
    let page = sync(&provider, &["show", &first[..12]]).done();
    assert!(page.contains(&first) && page.contains(", superseded\n"), "{page}");
    assert!(page.contains("published here: "), "{page}");
    sync(&provider, &["show", "app", "bafkr4iaaaa"]).refused(66, "has no record of bafkr4iaaaa");
    sync(&provider, &["show", "bafkr4iaaaa"]).refused(66, "no key of a workload");
    sync(&provider, &["show", "app", "short"]).refused(64, "at least 10 characters");
    provider.end().await;
    consumer.end().await;
}
