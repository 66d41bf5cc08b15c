//! What runs live through, from the submission to the end.

use std::time::Duration;

use belay_protocol::runner::{
    Acceptance, CompleteWaitpoint, RunQuery, RunState, RunnerActivity, RunnerLink, WaitpointQuery,
    WaitpointState,
};
use belay_runner::{
    AskError, HostEvent, HostOrder, Means, Refusal, RunnerSource, SnapshotOutcome, TokenLife,
};
use serde_json::json;

use super::rig::{Held, Rig, Setup, name, submission, success};

#[tokio::test]
async fn a_run_is_taken_by_a_runner_that_asks_and_ends_with_its_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let run = rig.submit(json!({"invoice": 17})).await;
    assert_eq!(rig.state(run).await, "queued");
    assert_eq!(runner.call("ready", json!({})).await["type"], "ok");
    let held = runner.assigned().await;
    assert_eq!(held.id(), run);
    let started = runner.call("start", held.body()).await;
    assert_eq!(started["body"]["payload"], json!({"invoice": 17}));
    let runners = rig.handle.runners().await.expect("is answered");
    assert_eq!(runners.len(), 1);
    assert_eq!(runners[0].activity, RunnerActivity::Executing);
    assert_eq!(runners[0].link, RunnerLink::Connected);
    let answer = runner.call("complete", held.with(success(json!({"sent": true})))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished");
    let detail = rig.handle.run(run).await.expect("is answered").expect("is known");
    assert_eq!(detail.output, Some(json!({"sent": true})));
    assert_eq!(detail.payload, json!({"invoice": 17}));
    assert_eq!(detail.status.state, RunState::Finished);
    rig.stop().await;
}

#[tokio::test]
async fn equal_submissions_under_one_key_are_one_run_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let first = rig.handle.submit(submission(json!(1), Some("order 1"))).await.expect("is taken");
    assert_eq!(first.acceptance, Acceptance::New);
    rig.stop().await;

    let rig = Rig::start(dir.path()).await;
    let again = rig.handle.submit(submission(json!(1), Some("order 1"))).await.expect("is taken");
    assert_eq!((again.run, again.acceptance), (first.run, Acceptance::Known));
    let other = rig.handle.submit(submission(json!(2), Some("order 1"))).await;
    let run = first.run;
    assert_eq!(other, Err(AskError::Refused(Refusal::KeyTaken { run })));
    rig.stop().await;
}

#[tokio::test]
async fn a_runner_is_told_of_its_run_after_a_restart_of_belayd_and_finishes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let token = rig.token("mailer-1").await;
    let mut runner = rig.connect(&token).await.expect("is let in");
    assert_eq!(runner.next().await["type"], "welcome");
    let run = rig.submit(json!(null)).await;
    let held = runner.take_run().await;
    rig.stop().await;
    assert_eq!(runner.closed().await, (1001, "draining".to_owned()));

    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.connect(&token).await.expect("the token is kept");
    let welcome = runner.next().await;
    assert_eq!(welcome["body"]["run"], run.to_string(), "{welcome}");
    let again = Held::of(&runner.next().await);
    assert_eq!(again.id(), run);
    assert!(again.epoch > held.epoch);
    let stale = runner.call("complete", held.with(success(json!(1)))).await;
    assert_eq!(stale["body"]["code"], "stale-epoch");
    let answer = runner.call("complete", again.with(success(json!(2)))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished");
    let detail = rig.handle.run(run).await.expect("is answered").expect("is known");
    assert_eq!(detail.output, Some(json!(2)));
    rig.stop().await;
}

#[tokio::test]
async fn a_waitpoint_wakes_the_run_that_waits_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    rig.submit(json!(null)).await;
    let held = runner.take_run().await;
    let created = runner.call("waitpoint", held.body()).await;
    let waitpoint = created["body"]["waitpoint"].as_str().expect("an id").to_owned();
    let wait = held.with(json!({"wait": {"on": "token", "waitpoint": waitpoint}}));
    let answer = runner.call("suspend", wait).await;
    let foreign = json!({"plan": "omitted", "reason": "foreign-runner"});
    assert_eq!(answer["body"]["snapshot"], foreign, "{answer}");
    let page = rig.handle.waitpoints(WaitpointQuery::default()).await.expect("is answered");
    assert_eq!(page.waitpoints[0].state, WaitpointState::Awaited);
    let completion = CompleteWaitpoint { output: json!({"approved": true}) };
    let waitpoint = waitpoint.parse().expect("an id");
    let complete = rig.handle.complete_waitpoint(waitpoint, completion.clone()).await;
    complete.expect("is taken");
    let state = runner.next().await;
    let resumed = &state["body"]["standing"]["resumed"]["result"];
    assert_eq!(resumed["output"], json!({"approved": true}), "{state}");
    rig.handle.complete_waitpoint(waitpoint, completion).await.expect("the same again");
    let other = CompleteWaitpoint { output: json!(false) };
    let refused = rig.handle.complete_waitpoint(waitpoint, other).await;
    assert_eq!(refused, Err(AskError::Refused(Refusal::CompletedOtherwise(waitpoint))));
    rig.stop().await;
}

#[tokio::test]
async fn a_timer_ends_a_wait() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    rig.submit(json!(null)).await;
    let held = runner.take_run().await;
    let until = jiff::Timestamp::now() + Duration::from_millis(50);
    let wait = held.with(json!({"wait": {"on": "timer", "until": until}}));
    assert_eq!(runner.call("suspend", wait).await["type"], "ok");
    let state = runner.next().await;
    assert_eq!(state["body"]["standing"]["resumed"]["result"]["wait"], "elapsed", "{state}");
    rig.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_is_taken_from_its_runner() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let run = rig.submit(json!(null)).await;
    let held = runner.take_run().await;
    rig.handle.cancel(run).await.expect("is cancelled");
    let released = runner.next().await;
    assert_eq!(released["body"]["reason"], "cancelled", "{released}");
    let late = runner.call("complete", held.with(success(json!(1)))).await;
    assert_eq!(late["body"]["code"], "not-bound");
    let query = RunQuery { states: vec![RunState::Cancelled], ..RunQuery::default() };
    let page = rig.handle.runs(query).await.expect("is answered");
    assert_eq!(page.runs.iter().map(|run| run.run).collect::<Vec<_>>(), [run]);
    rig.stop().await;
}

#[tokio::test]
async fn runs_are_listed_in_pages_the_newest_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runs = Vec::new();
    for n in 0..5 {
        runs.push(rig.submit(json!(n)).await);
    }
    runs.reverse();
    let mut query = RunQuery { limit: Some(2), ..RunQuery::default() };
    let mut listed = Vec::new();
    loop {
        let page = rig.handle.runs(query.clone()).await.expect("is answered");
        listed.extend(page.runs.iter().map(|run| run.run));
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(listed, runs);
    rig.stop().await;
}

#[tokio::test]
async fn orders_reach_the_engines_side_after_their_records_and_its_word_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = RunnerSource::Hosted { memory: 1 << 20 };
    let setup = Setup { source, snapshot_delay: Duration::ZERO, ..Setup::default() };
    let mut rig = Rig::with(dir.path(), setup).await;
    let run = rig.submit(json!(null)).await;
    let HostOrder::StartRunner { runner, workload } = rig.order().await else { panic!("a start") };
    assert_eq!(workload, name("mailer"));
    assert_eq!(rig.state(run).await, "assigned");

    // The container connects with the token that it was given.
    let token = rig.token_for(runner.as_str(), TokenLife::Container).await;
    let mut container = rig.connect(&token).await.expect("is let in");
    assert_eq!(container.next().await["body"]["run"], run.to_string());
    let held = container.assigned().await;
    container.call("start", held.body()).await;
    let created = container.call("waitpoint", held.body()).await;
    let waitpoint = created["body"]["waitpoint"].as_str().expect("an id").to_owned();
    let wait = held.with(json!({"wait": {"on": "token", "waitpoint": waitpoint}}));
    let answer = container.call("suspend", wait).await;
    assert_eq!(answer["body"]["snapshot"]["plan"], "armed", "{answer}");
    let HostOrder::TakeSnapshot(ticket) = rig.order().await else { panic!("a snapshot") };
    let outcome = SnapshotOutcome::Taken(Means::Checkpoint);
    rig.tell(HostEvent::Snapshot { ticket: ticket.clone(), outcome }).await;
    assert_eq!(container.closed().await, (4005, "suspended".to_owned()));
    assert_eq!(rig.state(run).await, "suspended");

    // The end of the wait orders it back, and it comes with the same token.
    let waitpoint = waitpoint.parse().expect("an id");
    let completion = CompleteWaitpoint { output: json!(1) };
    rig.handle.complete_waitpoint(waitpoint, completion).await.expect("is taken");
    assert_eq!(rig.order().await, HostOrder::Restore(ticket));
    let mut container = rig.connect(&token).await.expect("is let in");
    assert_eq!(container.next().await["type"], "welcome");
    let state = container.next().await;
    assert_eq!(state["body"]["standing"]["resumed"]["result"]["output"], 1, "{state}");
    rig.handle.revoke(runner).await.expect("is revoked");
    assert!(rig.connect(&token).await.is_err(), "the token is worth nothing any more");
    rig.stop().await;
}

#[tokio::test]
async fn a_workload_that_is_withdrawn_takes_no_runs_and_keeps_those_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let run = rig.submit(json!(1)).await;
    rig.handle.withdraw(name("mailer")).await.expect("is withdrawn");
    let refused = rig.handle.submit(submission(json!(2), None)).await;
    assert_eq!(refused, Err(AskError::Refused(Refusal::UnknownWorkload(name("mailer")))));
    let mut runner = rig.runner("mailer-1").await;
    assert_eq!(runner.call("ready", json!({})).await["type"], "ok");
    assert_eq!(rig.state(run).await, "queued");
    let policy = belay_runner::WorkloadPolicy {
        max_concurrent: 1,
        runners: RunnerSource::Foreign,
        snapshot_delay: Duration::ZERO,
    };
    rig.handle.declare(name("mailer"), policy).await.expect("is declared");
    assert_eq!(runner.assigned().await.id(), run);
    rig.stop().await;
}
