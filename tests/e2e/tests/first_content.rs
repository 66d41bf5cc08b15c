//! A consumer that waits for the first content of its key, with real containers.

use std::process::{Command, Stdio};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, sync_spec, until};
use belay_protocol::event::ContentWaitEnd;
use belay_protocol::{EventDetails, EventPage, FirstContentStatus, WorkloadPhase, WorkloadStatus};

const SOON: Duration = Duration::from_secs(90);

/// A consumer that writes down at each start what it finds, with more in its table of volume-sync.
fn consumer_spec(sync: &str) -> String {
    let app =
        r#"["/bin/sh", "-c", "cat /data/state >> /belay/starts 2>&1; exec /bin/sleep 100000"]"#;
    sync_spec("consumer")
        .replace(r#"["/bin/sleep", "100000"]"#, app)
        .replace("poll_interval", &format!("{sync}\npoll_interval"))
}

async fn nodes() -> (Node, Node, tempfile::TempDir) {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    (provider, consumer, store)
}

async fn publish(provider: &Node, state: &str) {
    if provider.client().workload("app").await.is_err() {
        let spec = sync_spec("provider");
        provider.client().deploy(&spec, provider.directory()).await.expect("deploys");
    }
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("state"), format!("{state}\n")).expect("writes");
    provider.client().publish("app", &["/data"]).await.expect("publishes");
}

/// What the app found at each of its starts.
async fn starts(consumer: &Node) -> Vec<String> {
    let written = consumer.volume("app", "system").await.join("starts");
    let text = std::fs::read_to_string(written).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn podman(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("/usr/bin/podman").args(arguments).output().expect("podman runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What the engine ever did with containers of a node: those made, and those started.
fn made_and_started(node: &Node) -> (usize, usize) {
    let ours = format!("label=io.belay.node={}", node.name());
    let of = |event: &str| {
        let event = format!("event={event}");
        let all = ["events", "--stream=false", "--format", "{{.ID}}"];
        podman(&[&all[..], &["--filter", &ours, "--filter", &event]].concat()).len()
    };
    (of("create"), of("start"))
}

fn belay(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("belay runs");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// Waits until it waits, for this reason.
async fn waits(node: &Node, why: &str) -> (WorkloadStatus, FirstContentStatus) {
    until(&format!("a wait since {why}"), SOON, || async {
        let workload = node.client().workload("app").await?;
        let first = workload.sync.as_ref().and_then(|sync| sync.first.clone());
        match first {
            Some(first) if workload.phase == WorkloadPhase::Waiting && first.why.contains(why) => {
                Ok((workload, first))
            }
            _ => Err(format!("{}: {}, {first:?}", workload.phase.as_str(), workload.reason)),
        }
    })
    .await
}

async fn is_ready(node: &Node) {
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
}

async fn ends(node: &Node) -> Vec<ContentWaitEnd> {
    let query = "after=0&limit=1000&kind=content-wait-ended";
    let EventPage { events, .. } = node.client().events(query).await.expect("events");
    let by = events.iter().filter_map(|event| match &event.details {
        EventDetails::ContentWaitEnded { by, .. } => Some(*by),
        _ => None,
    });
    by.collect()
}

const NOTHING: &str = "nothing is published under state";

#[tokio::test]
async fn its_container_is_never_made_before_the_first_apply_over_kills_of_belayd() {
    let (provider, mut consumer, _store) = nodes().await;
    let spec = consumer_spec("wait_for_first = true");
    let said = consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    assert!(said.summary.contains("app is deployed and not running yet"), "{}", said.summary);
    let (workload, first) = waits(&consumer, NOTHING).await;
    let sentence = format!("waiting-for the first content of state: {NOTHING}");
    assert_eq!((workload.reason, first.until), (sentence, None));
    assert_eq!(workload.container, None);
    for arguments in [["status", "app"], ["explain", "app"], ["sync", "status"]] {
        let (_, text) = belay(&consumer, &arguments);
        let shown = text.contains("for the first of state since") && text.contains(NOTHING);
        assert!(shown, "{arguments:?}: {text}");
    }
    for _ in 0..2 {
        consumer.kill();
        consumer.launch().await;
        let (_, again) = waits(&consumer, NOTHING).await;
        assert_eq!(again.since, first.since, "it is the same wait");
    }
    // A restart changes nothing about it, and what depends on it sees that it does not run.
    let said = consumer.client().act("restart", "app").await.expect("is taken");
    assert!(said.summary.contains("not running yet"), "{}", said.summary);
    assert_eq!(made_and_started(&consumer), (0, 0), "no container was ever made");

    // A record that the consumer does not take is no content, and the reason is told.
    let stranger = belay_protocol::PublisherKey::from_bytes([9; 32]);
    let picky = format!("wait_for_first = true\npublishers = [\"{stranger}\"]");
    let spec = consumer_spec(&picky);
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    publish(&provider, "one").await;
    let (_, refused) = waits(&consumer, "the head").await;
    assert!(refused.why.contains("stage validation"), "{}", refused.why);
    assert_eq!(refused.since, first.since, "another version goes on with it");
    assert_eq!((made_and_started(&consumer), starts(&consumer).await), ((0, 0), vec![]));

    let spec = consumer_spec("wait_for_first = true");
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    is_ready(&consumer).await;
    assert_eq!(starts(&consumer).await, ["one"]);
    assert_eq!(made_and_started(&consumer), (1, 1));
    let status = consumer.client().workload("app").await.expect("there");
    assert_eq!(status.sync.expect("configured").first, None);

    // What is carried is not waited for; what was reset is, and has its state back.
    consumer.client().act("restart", "app").await.expect("restarts");
    assert_eq!(starts(&consumer).await, ["one", "one"]);
    for arguments in [
        &["sync", "pause", "app"][..],
        &["stop", "app"][..],
        &["volume", "reset", "app/data"][..],
        &["start", "app"][..],
    ] {
        let (code, text) = belay(&consumer, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    }
    waits(&consumer, "an operator paused volume-sync").await;
    assert_eq!(starts(&consumer).await, ["one", "one"]);
    let (code, text) = belay(&consumer, &["sync", "resume", "app"]);
    assert_eq!(code, Some(0), "{text}");
    is_ready(&consumer).await;
    assert_eq!(starts(&consumer).await, ["one", "one", "one"]);
    // So it is where its app has them emptied.
    let (code, text) = belay(&consumer, &["sync", "pause", "app"]);
    assert_eq!(code, Some(0), "{text}");
    let requests = consumer.volume("app", "system").await.join("reset");
    std::fs::write(requests.join("next"), r#"{"schema_version": 1}"#).expect("writes");
    std::fs::rename(requests.join("next"), requests.join("request.json")).expect("asks");
    waits(&consumer, "an operator paused volume-sync").await;
    let (code, text) = belay(&consumer, &["sync", "resume", "app"]);
    assert_eq!(code, Some(0), "{text}");
    is_ready(&consumer).await;
    assert_eq!(starts(&consumer).await, ["one", "one", "one", "one"]);
    assert_eq!(ends(&consumer).await, []);
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn it_is_started_without_after_its_time_over_a_kill_and_takes_what_comes_later() {
    let (provider, mut consumer, _store) = nodes().await;
    let spec = consumer_spec("wait_for_first = \"8s\"");
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    let (_, first) = waits(&consumer, NOTHING).await;
    let end = first.until.expect("its time is known");
    assert_eq!(end.duration_since(first.since).as_secs(), 8);
    consumer.kill();
    consumer.launch().await;
    is_ready(&consumer).await;
    let missing = "cat: can't open '/data/state': No such file or directory";
    assert_eq!(starts(&consumer).await, [missing]);
    assert_eq!(ends(&consumer).await, [ContentWaitEnd::Time]);
    // It is not waited for again after a crash, nor after a restart of belayd.
    let container =
        podman(&["ps", "-q", "--filter", &format!("label=io.belay.node={}", consumer.name())]);
    podman(&["kill", &container[0]]);
    consumer.kill();
    consumer.launch().await;
    until("another start", SOON, || async {
        let starts = starts(&consumer).await;
        if starts.len() == 2 { Ok(()) } else { Err(format!("{starts:?}")) }
    })
    .await;
    publish(&provider, "one").await;
    until("a start on the content", SOON, || async {
        let starts = starts(&consumer).await;
        if starts == [missing, missing, "one"] { Ok(()) } else { Err(format!("{starts:?}")) }
    })
    .await;
    is_ready(&consumer).await;
    assert_eq!(ends(&consumer).await, [ContentWaitEnd::Time], "told once");
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn an_operator_starts_it_without_until_it_is_stopped() {
    let (provider, consumer, _store) = nodes().await;
    // A version that runs serves on while the next one waits, and gives way to the apply.
    let spec = consumer_spec("");
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    is_ready(&consumer).await;
    let spec = consumer_spec("wait_for_first = true");
    let said = consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    assert!(said.summary.contains("generation 1 stays until then"), "{}", said.summary);
    waits(&consumer, NOTHING).await;
    assert_eq!(made_and_started(&consumer), (1, 1));
    consumer.client().act("stop", "app").await.expect("stops");
    let said = consumer.client().act("start", "app").await.expect("starts");
    assert!(said.summary.contains("belay start app --without-content"), "{}", said.summary);
    waits(&consumer, NOTHING).await;
    let (code, said) = belay(&consumer, &["start", "app", "--without-content"]);
    assert_eq!(code, Some(0), "{said}");
    is_ready(&consumer).await;
    assert_eq!(ends(&consumer).await, [ContentWaitEnd::Operator]);
    let starts_without = starts(&consumer).await.len();
    consumer.client().act("stop", "app").await.expect("stops");
    consumer.client().act("start", "app").await.expect("starts");
    waits(&consumer, NOTHING).await;
    assert_eq!(starts(&consumer).await.len(), starts_without);
    publish(&provider, "one").await;
    is_ready(&consumer).await;
    assert_eq!(starts(&consumer).await.last().map(String::as_str), Some("one"));
    provider.end().await;
    consumer.end().await;
}
