//! What an operator may choose of volume-sync: when and on what terms a consumer applies, and when a
//! provider publishes by itself.

use std::process::{Command, Stdio};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, sync_spec, until};
use belay_protocol::{EventDetails, EventKind, EventPage, SyncStatus, WorkloadPhase};

const SOON: Duration = Duration::from_secs(90);

/// Two nodes over one store. The consumer has more in its table of volume-sync and after it.
async fn pair(sync: &str, more: &str) -> (Node, Node, tempfile::TempDir) {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    let spec = spec_with("consumer", sync, more);
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    (provider, consumer, store)
}

/// The usual spec, with more in its table of volume-sync and in that of its readiness.
fn spec_with(role: &str, sync: &str, ready: &str) -> String {
    let spec = sync_spec(role).replace("poll_interval", &format!("{sync}\npoll_interval"));
    format!("{spec}{ready}\n")
}

/// Publishes a state that a mix with another can be told from, and returns its content id.
async fn publish(provider: &Node, state: &str) -> String {
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("state"), state).expect("writes");
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    outcome.publish.expect("says what it published").cid.to_string()
}

async fn held(node: &Node) -> Option<String> {
    std::fs::read_to_string(node.volume("app", "data").await.join("state")).ok()
}

async fn serves(consumer: &Node, state: &str) {
    until(&format!("the consumer to have {state}"), SOON, || async {
        let found = held(consumer).await;
        if found.as_deref() == Some(state) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn sync_shows(node: &Node, what: &str, wanted: impl Fn(&SyncStatus) -> bool) -> SyncStatus {
    until(what, SOON, || async {
        let workload = node.client().workload("app").await?;
        let status = workload.sync.ok_or("volume-sync has not begun")?;
        if wanted(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

async fn is_ready(node: &Node) {
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
}

async fn told(node: &Node, wanted: impl Fn(&EventDetails) -> bool) -> usize {
    let EventPage { events, .. } =
        node.client().events("after=0&limit=1000").await.expect("events");
    events.iter().filter(|event| wanted(&event.details)).count()
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

/// An app that serves unless its state says that it is bad.
const PROBE: &str = r#"
exec = { command = ["/bin/sh", "-c", "! grep -q bad /data/state"] }
timeout = "4s"
"#;

#[tokio::test]
async fn content_on_which_an_app_is_not_ready_is_taken_back() {
    let (provider, consumer, _store) = pair("", PROBE).await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    is_ready(&consumer).await;
    let bad = publish(&provider, "bad").await;
    let status = sync_shows(&consumer, "that it was taken back", |s| s.taken_back.is_some()).await;
    let back = status.taken_back.expect("waited for");
    assert_eq!((back.cid.to_string(), back.failures), (bad.clone(), 1));
    assert!(back.reason.contains("not ready in time"), "{}", back.reason);
    serves(&consumer, "one").await;
    is_ready(&consumer).await;
    let (_, table) = belay(&consumer, &["sync", "status"]);
    assert!(table.contains("(failure 1 in a row)"), "{table}");
    let taken = |details: &EventDetails| matches!(details, EventDetails::ApplyTakenBack { .. });
    until("the event", SOON, || async {
        let told = told(&consumer, taken).await;
        if told == 1 { Ok(()) } else { Err(format!("{told} events")) }
    })
    .await;
    let control = consumer.volume("app", "system").await.join("volume-sync");
    let error = std::fs::read_to_string(control.join("apply_error.json")).expect("the app is told");
    assert!(error.contains("unready-after-apply") && error.contains(&bad), "{error}");
    // What comes next does not wait for it.
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    is_ready(&consumer).await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn an_app_that_ends_on_new_content_has_the_old_one_back_over_kills_of_belayd() {
    let (provider, mut consumer, _store) = pair("", "").await;
    let spec = spec_with("consumer", "", "").replace(
        r#"["/bin/sleep", "100000"]"#,
        r#"["/bin/sh", "-c", "grep -q bad /data/state && exit 3; exec /bin/sleep 100000"]"#,
    );
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    is_ready(&consumer).await;
    let bad = publish(&provider, "bad").await;
    for round in 0..4_u64 {
        // Anywhere from the fetch to the end of the way back.
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
        consumer.kill();
        consumer.launch().await;
    }
    let status = sync_shows(&consumer, "that it was taken back", |s| s.taken_back.is_some()).await;
    let back = status.taken_back.expect("waited for");
    assert_eq!((back.cid.to_string(), back.failures), (bad, 1), "one verdict");
    serves(&consumer, "one").await;
    is_ready(&consumer).await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn an_app_that_was_not_ready_before_is_not_held_against_what_comes() {
    let (provider, consumer, _store) = pair("on_unready = \"rollback\"", PROBE).await;
    let data = consumer.volume("app", "data").await;
    std::fs::write(data.join("state"), "bad by itself").expect("writes");
    consumer.client().act("restart", "app").await.expect_err("it is not ready");
    let bad = publish(&provider, "bad too").await;
    let status = sync_shows(&consumer, "the apply", |status| status.last_apply.is_some()).await;
    assert_eq!(status.last_apply.expect("waited for").cid.to_string(), bad);
    assert_eq!((status.taken_back, status.quarantine.len()), (None, 0));
    serves(&consumer, "bad too").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_record_waits_for_its_window_over_a_kill_and_not_for_an_operator() {
    let second = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Half an hour that begins in half a day.
    let hour = (second.expect("after 1970").as_secs() / 3600 + 12) % 24;
    let window = format!("window = \"{hour:02}:00-{hour:02}:30\"");
    let (provider, mut consumer, _store) = pair(&window, "").await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    is_ready(&consumer).await;
    let two = publish(&provider, "two").await;
    let is_held = |status: &SyncStatus| status.waits.is_some() && status.waits_until.is_some();
    let status = sync_shows(&consumer, "what waits", is_held).await;
    assert!(
        status.waits.expect("waited for").starts_with("record 2 of epoch 1 waits for its window")
    );
    consumer.kill();
    consumer.launch().await;
    sync_shows(&consumer, "what waits", is_held).await;
    let (_, table) = belay(&consumer, &["sync", "status"]);
    assert!(table.contains("(belay sync apply does it now)"), "{table}");
    assert_eq!(held(&consumer).await.as_deref(), Some("one"));
    is_ready(&consumer).await;
    let (code, said) = belay(&consumer, &["sync", "apply", "app"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&two) && said.contains("down for"), "{said}");
    serves(&consumer, "two").await;
    let (code, said) = belay(&provider, &["sync", "apply", "app"]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is the provider of this key"), "{said}");
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn what_an_operator_does_with_volume_sync_is_told_as_events() {
    let (provider, consumer, _store) = pair("", "").await;
    for state in ["one", "two"] {
        publish(&provider, state).await;
        serves(&consumer, state).await;
    }
    for verb in ["pause", "rollback", "resume"] {
        let (code, said) = belay(&consumer, &["sync", verb, "app"]);
        assert_eq!(code, Some(0), "{verb}: {said}");
    }
    let query = "after=0&limit=1000&kind=sync-paused&kind=sync-rolled-back&kind=sync-resumed";
    let wanted = [EventKind::SyncPaused, EventKind::SyncRolledBack, EventKind::SyncResumed];
    until("each event once, in their order", SOON, || async {
        let EventPage { events, .. } = consumer.client().events(query).await?;
        let kinds: Vec<_> = events.iter().map(|event| event.details.kind()).collect();
        if kinds == wanted { Ok(()) } else { Err(format!("{kinds:?}")) }
    })
    .await;
    serves(&consumer, "two").await;

    consumer.client().act("stop", "app").await.expect("stops");
    let standby = sync_spec("provider");
    consumer.client().deploy(&standby, consumer.directory()).await.expect("deploys");
    let (code, said) = belay(&consumer, &["sync", "takeover", "app", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let taken = |details: &EventDetails| {
        matches!(details, EventDetails::SyncTakenOver { epoch: 2, from, .. }
            if from.as_str() == provider.name())
    };
    until("the takeover to be told", SOON, || async {
        let told = told(&consumer, taken).await;
        if told == 1 { Ok(()) } else { Err(format!("{told} events")) }
    })
    .await;
    provider.end().await;
    consumer.end().await;
}

/// When a provider published last, other than `after`, and since when its container runs.
async fn turn(node: &Node, after: Option<&str>) -> (String, String) {
    until("a turn of the schedule", SOON, || async {
        let workload = node.client().workload("app").await?;
        let last = workload.sync.and_then(|sync| sync.last_publish).ok_or("nothing published")?;
        let container = workload.container.ok_or("no container")?;
        let (at, since) = (last.at.to_string(), format!("{:?}", container.started_at));
        if workload.phase != WorkloadPhase::Ready || after == Some(at.as_str()) {
            return Err(format!("{}, last {at}", workload.phase.as_str()));
        }
        Ok((at, since))
    })
    .await
}

#[tokio::test]
async fn a_provider_publishes_by_itself_and_goes_on_after_a_kill() {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let mut provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    let spec = spec_with("provider", "every = \"10s\"\npaths = [\"/data\"]", "");
    provider.client().deploy(&spec, provider.directory()).await.expect("deploys");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("state"), "one").expect("writes");
    serves(&consumer, "one").await;
    let (_, said) = belay(&provider, &["status", "app"]);
    assert!(said.contains("publishes by itself"), "{said}");
    // What had just been written when it was read is read once more; then nothing is stopped.
    let mut before = turn(&provider, None).await;
    let mut runs_on = false;
    for _ in 0..3 {
        let after = turn(&provider, Some(&before.0)).await;
        runs_on = after.1 == before.1;
        before = after;
        if runs_on {
            break;
        }
    }
    assert!(runs_on, "it is stopped again and again although nothing has changed");
    provider.kill();
    std::fs::write(data.join("state"), "two").expect("writes");
    provider.launch().await;
    serves(&consumer, "two").await;
    provider.end().await;
    consumer.end().await;
}
