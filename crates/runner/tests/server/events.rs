//! Events of runs: on the disk with the records that they tell of, and no more than the journal bears.

use belay_protocol::{EventDetails, EventKind, EventPage, EventQuery, EventStart};
use belay_runner::SocketLimits;
use serde_json::json;

use super::rig::{Rig, Setup, name, soon, success};

async fn read(rig: &Rig) -> EventPage {
    let query = EventQuery {
        start: EventStart::After(belay_protocol::EventSeq::START),
        workload: Some(name("mailer")),
        kinds: Vec::new(),
        limit: 10_000,
    };
    rig.log.read(&query).await.expect("reads")
}

#[tokio::test]
async fn what_was_answered_is_told_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let run = rig.submit(json!(1)).await;
    // It is answered, so it is on the disk, and what it tells is too: nobody waits for it here.
    let first = read(&rig).await.events;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0].details, EventDetails::RunSubmitted { run });
    let held = runner.take_run().await;
    let answer = runner.call("complete", held.with(success(json!("done")))).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    rig.stop().await;

    let rig = Rig::start(dir.path()).await;
    let events = read(&rig).await.events;
    let kinds: Vec<EventKind> = events.iter().map(|event| event.details.kind()).collect();
    assert_eq!(kinds, [EventKind::RunSubmitted, EventKind::RunStarted, EventKind::RunFinished]);
    let EventDetails::RunStarted { runner, .. } = &events[1].details else { panic!("{events:?}") };
    assert_eq!(runner.as_str(), "mailer-1");
    assert!(events[2].message.as_str().contains("is finished"), "{events:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_flood_of_runs_does_not_push_everything_else_out_of_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let setup = Setup { limits: SocketLimits::default(), ..Setup::default() };
    let rig = Rig::with(dir.path(), setup).await;
    let submitted = futures_util::future::join_all((0..500).map(|n| rig.submit(json!(n))));
    soon("the runs", submitted).await;
    let kept = read(&rig).await.events.len();
    assert!((120..130).contains(&kept), "{kept} of 500");
    rig.stop().await;
}
