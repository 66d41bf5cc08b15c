//! Messages that are wrong, and runners that are slow or hostile: each has a named outcome, and none
//! has an effect on others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use belay_runner::{IssueToken, SocketLimits, TokenLife};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::rig::{Rig, Runner, Setup, name, soon, success};

/// Whether a runner is served: it is answered.
async fn is_well(runner: &mut Runner) {
    let unknown = json!({"run": "run_06cp9m2k2g000f0e1d2c3b4a50", "epoch": 1});
    let answer = runner.call("start", unknown).await;
    assert_eq!(answer["body"]["code"], "unknown-run", "{answer}");
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_refused_by_name_and_the_session_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let run = json!({"run": "run_06cp9m2k2g000f0e1d2c3b4a50"});
    for (sent, id, code) in [
        ("nonsense".to_owned(), Value::Null, "malformed-frame"),
        ("[]".to_owned(), Value::Null, "malformed-frame"),
        ("\"x\"".to_owned(), Value::Null, "malformed-frame"),
        (r#"{"id": 7, "type": "ready", "extra": 1}"#.to_owned(), json!(7), "malformed-frame"),
        (r#"{"id": 7, "type": "sing"}"#.to_owned(), json!(7), "unknown-type"),
        (r#"{"type": "ready"}"#.to_owned(), Value::Null, "wrong-kind"),
        (json!({"id": 8, "type": "start", "body": run}).to_string(), json!(8), "invalid-body"),
        (r#"{"id": 9, "type": "start"}"#.to_owned(), json!(9), "invalid-body"),
        ("[".repeat(100_000), Value::Null, "malformed-frame"),
    ] {
        runner.send(sent.clone()).await;
        let answer = runner.next().await;
        assert_eq!(answer["body"]["code"], code, "{sent:.80}");
        assert_eq!(answer["id"], id, "{sent:.80}");
        assert!(answer["body"]["next"].is_string());
    }
    is_well(&mut runner).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_message_about_a_run_that_is_not_the_runners_has_no_effect() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut owner = rig.runner("mailer-1").await;
    let mut other = rig.runner("mailer-2").await;
    let run = rig.submit(json!(null)).await;
    let held = owner.take_run().await;
    for kind in ["start", "waitpoint", "stop"] {
        let answer = other.call(kind, held.body()).await;
        assert_eq!(answer["body"]["code"], "bound-elsewhere", "{kind}");
    }
    let answer = other.call("complete", held.with(success(json!("stolen")))).await;
    assert_eq!(answer["body"]["code"], "bound-elsewhere");
    let late = json!({"run": held.run, "epoch": held.epoch + 1});
    assert_eq!(owner.call("stop", late).await["body"]["code"], "stale-epoch");
    owner
        .send(json!({"type": "progress", "body": {"run": held.run, "epoch": 99}}).to_string())
        .await;
    assert_eq!(owner.next().await["type"], "refused");
    assert_eq!(rig.state(run).await, "executing");
    let answer = owner.call("complete", held.with(success(json!("mine")))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished");
    rig.stop().await;
}

#[tokio::test]
async fn what_is_no_frame_of_the_protocol_ends_its_socket_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut well = rig.runner("well").await;
    let large = "x".repeat(1024 * 1024 + 1);
    for (message, code) in [(Message::text(large), 1009), (Message::binary(vec![1, 2, 3]), 1003)] {
        let mut runner = rig.runner("bad").await;
        // The server may have closed before all of it was written.
        let _ = runner.ws.send(message).await;
        let (found, _) = runner.closed().await;
        assert_eq!(found, code);
    }
    is_well(&mut well).await;
    rig.stop().await;
}

#[tokio::test]
async fn the_largest_frame_that_is_allowed_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let run = rig.submit(json!(null)).await;
    let held = runner.take_run().await;
    let around = json!({"id": 3, "type": "complete", "body": held.with(success(json!("")))});
    let room = 1024 * 1024 - around.to_string().len();
    let answer = runner.call("complete", held.with(success(json!("x".repeat(room))))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished", "{answer}");
    let detail = rig.handle.run(run).await.expect("is answered").expect("is known");
    assert_eq!(detail.output.and_then(|output| output.as_str().map(str::len)), Some(room));
    rig.stop().await;
}

#[tokio::test]
async fn of_two_runners_with_one_name_the_newer_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut well = rig.runner("well").await;
    let mut older = rig.runner("mailer-1").await;
    let mut newer = rig.runner("mailer-1").await;
    assert_eq!(older.closed().await, (4001, "replaced".to_owned()));
    is_well(&mut newer).await;
    is_well(&mut well).await;
    assert_eq!(rig.handle.runners().await.expect("is answered").len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_token_of_another_workload_does_not_reach_the_runners_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut owner = rig.runner("mailer-1").await;
    let run = rig.submit(json!(null)).await;
    let held = owner.take_run().await;
    let asked = IssueToken {
        runner: "mailer-1".parse().expect("a name"),
        workload: name("printer"),
        life: TokenLife::Limited(Duration::from_secs(60)),
    };
    let foreign = rig.handle.issue(asked).await.expect("is issued").token;
    let mut other = rig.connect(&foreign).await.expect("the token is good");
    assert_eq!(other.closed().await, (4006, "wrong-workload".to_owned()));
    let answer = owner.call("complete", held.with(success(json!(1)))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished", "the owner's session is the same");
    assert_eq!(rig.state(run).await, "finished");
    rig.stop().await;
}

/// Messages of a flood.
const FLOOD: usize = 1_000;

#[tokio::test]
async fn a_runner_that_floods_is_read_slowly_and_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut well = rig.runner("well").await;
    let flooder = rig.runner("flooder").await;
    let (mut sink, mut stream) = flooder.ws.split();
    let began = Instant::now();
    // More than the burst of 400, so that the last of them are paced at 200 a second.
    let sent = tokio::spawn(async move {
        for _ in 0..FLOOD {
            sink.send(Message::text("flood")).await.expect("is sent");
        }
        sink
    });
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let read = tokio::spawn(async move {
        for _ in 0..FLOOD {
            let refused = soon("a refusal", stream.next()).await.expect("is there").expect("reads");
            assert!(refused.is_text(), "{refused:?}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
        stream
    });
    for _ in 0..50 {
        is_well(&mut well).await;
    }
    let refused = refusals.load(Ordering::Relaxed);
    assert!(refused < FLOOD, "the other was served only when the flood was over");
    let stream = soon("the flood to be read", read).await.expect("no panic");
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    let sink = soon("the flood", sent).await.expect("no panic");
    drop((sink, stream));
    is_well(&mut well).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_runner_that_never_reads_is_closed_as_slow_and_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = SocketLimits { stall: Duration::from_millis(300), ..SocketLimits::default() };
    let rig = Rig::with(dir.path(), Setup { limits, ..Setup::default() }).await;
    let mut well = rig.runner("well").await;
    let mut deaf = rig.runner("deaf").await;
    let run = rig.submit(json!("x".repeat(1024 * 1024 - 2))).await;
    let held = deaf.take_run().await;
    // Each asks for the payload again, until the kernel's buffers are full of it.
    let again = json!({"id": 100, "type": "start", "body": held.body()}).to_string();
    let deadline = Instant::now() + super::rig::PATIENCE;
    loop {
        let _ = tokio::time::timeout(
            Duration::from_millis(50),
            deaf.ws.send(Message::text(again.clone())),
        )
        .await;
        is_well(&mut well).await;
        let runners = rig.handle.runners().await.expect("is answered");
        if runners.iter().all(|runner| runner.runner.as_str() != "deaf") {
            break;
        }
        assert!(Instant::now() < deadline, "it is never closed");
    }
    assert_eq!(rig.state(run).await, "executing", "it may come back for it");
    let mut back = rig.runner("deaf").await;
    assert_eq!(back.next().await["body"]["standing"]["state"], "executing");
    rig.stop().await;
}

#[tokio::test]
async fn a_runner_that_is_silent_is_asked_and_then_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = SocketLimits {
        ping_after: Duration::from_millis(100),
        pong_within: Duration::from_millis(200),
        ..SocketLimits::default()
    };
    let rig = Rig::with(dir.path(), Setup { limits, ..Setup::default() }).await;
    let answering = rig.runner("answering").await;
    let gone = rig.runner("gone").await;
    // Who reads answers pings by that; who does not is as one that vanished.
    let (_sink, mut stream) = answering.ws.split();
    let reading = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                return;
            }
        }
    });
    let deadline = Instant::now() + super::rig::PATIENCE;
    loop {
        let runners = rig.handle.runners().await.expect("is answered");
        if runners.len() == 1 {
            assert_eq!(runners[0].runner.as_str(), "answering");
            break;
        }
        assert!(Instant::now() < deadline, "it is never closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let Runner { ws: mut late, .. } = gone;
    let mut seen = Vec::new();
    while let Some(Ok(message)) = soon("what was written to it", late.next()).await {
        seen.push(message);
    }
    assert!(matches!(seen.first(), Some(Message::Ping(_))), "{seen:?}");
    let Some(Message::Close(Some(frame))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4003, "silent"));
    assert!(!reading.is_finished(), "who answers stays");
    rig.stop().await;
    soon("the reader's end", reading).await.expect("no panic");
}
