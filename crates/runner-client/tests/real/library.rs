//! The library against the real server.

use std::time::Duration;

use belay_protocol::runner::{NextForRun, RunState};
use belay_runner_client::{
    Again, Failure, Loss, ReleaseReason, Run, RunError, Runner, RunnerEnd, serve,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::node::{Node, PATIENCE};

async fn next(runner: &mut Runner) -> Run {
    timeout(PATIENCE, runner.next()).await.expect("a run comes").expect("goes on").expect("a run")
}

#[tokio::test]
async fn runs_are_executed_one_after_the_other_with_their_results() {
    let node = Node::start().await;
    let config = node.config("one").await;
    let serving =
        tokio::spawn(serve(config, async |run: &mut Run| match run.payload()["fail"].as_str() {
            Some("always") => Err(Failure::for_good("it cannot be")),
            Some("once") if run.attempt().get() == 1 => Err(Failure::passing("not yet")),
            Some(_) | None => Ok(json!({"echo": run.payload(), "attempt": run.attempt()})),
        }));
    let runs = [
        node.submit(json!({"n": 1})).await,
        node.submit(json!({"fail": "once"})).await,
        node.submit(json!({"fail": "always"})).await,
    ];
    let first = node.reaches(runs[0], RunState::Finished).await;
    assert_eq!(first.output, Some(json!({"echo": {"n": 1}, "attempt": 1})));
    let second = node.reaches(runs[1], RunState::Finished).await;
    assert_eq!(second.output, Some(json!({"echo": {"fail": "once"}, "attempt": 2})));
    let third = node.reaches(runs[2], RunState::Failed).await;
    assert_eq!(
        (third.status.attempt.get(), third.status.failure.as_deref()),
        (1, Some("it cannot be"))
    );
    serving.abort();
    node.stop().await;
}

#[tokio::test]
async fn a_run_waits_for_a_timer_and_for_somebody() {
    let node = Node::start().await;
    let mut runner = Runner::start(node.config("one").await);
    let (id, workload) = runner.connected().await.expect("it is let in");
    assert_eq!((id.as_str(), workload.as_str()), ("one", "mailer"));
    let submitted = node.submit(Value::Null).await;
    let mut run = next(&mut runner).await;
    assert_eq!(run.id(), submitted);
    run.progress().await;
    let soon = jiff::Timestamp::now() + Duration::from_millis(200);
    timeout(PATIENCE, run.sleep_until(soon)).await.expect("it wakes").expect("goes on");
    assert!(jiff::Timestamp::now() >= soon, "not before its time");
    // A moment that is past is no wait.
    run.sleep_until(soon).await.expect("goes on");

    let waitpoint = run.waitpoint().await.expect("it executes");
    let (output, completed) = tokio::join!(
        timeout(PATIENCE, run.wait(waitpoint)),
        node.complete_waitpoint(submitted, json!({"approved": true})),
    );
    assert_eq!(completed, waitpoint);
    assert_eq!(output.expect("it wakes"), Ok(json!({"approved": true})));
    // It is over, so it is told at once.
    assert_eq!(run.wait(waitpoint).await, Ok(json!({"approved": true})));
    let next = run.complete(json!("done")).await.expect("it is told");
    assert_eq!(next, NextForRun::Finished {});
    runner.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_is_lost_and_the_next_one_comes() {
    let node = Node::start().await;
    let mut runner = Runner::start(node.config("one").await);
    let cancelled = node.submit(json!(1)).await;
    let mut run = next(&mut runner).await;
    let waits = async {
        node.reaches(cancelled, RunState::Waiting).await;
        node.handle.cancel(cancelled).await.expect("is cancelled");
    };
    let waitpoint = run.waitpoint().await.expect("it executes");
    let (woken, ()) = tokio::join!(timeout(PATIENCE, run.wait(waitpoint)), waits);
    let lost = RunError::Lost(Loss::Released(ReleaseReason::Cancelled));
    assert_eq!(woken.expect("it is told"), Err(lost.clone()));
    assert_eq!(run.lost().await, lost);
    drop(run);

    let following = node.submit(json!(2)).await;
    let run = next(&mut runner).await;
    assert_eq!(run.id(), following);
    run.fail("no more", Again::GiveUp).await.expect("it is told");
    node.reaches(following, RunState::Failed).await;
    runner.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_lost() {
    let node = Node::start().await;
    let mut runner = Runner::start(node.config("one").await);
    let submitted = node.submit_with(json!({"timeout_ms": 200, "max_attempts": 1})).await;
    let run = next(&mut runner).await;
    assert_eq!(run.timeout(), Some(Duration::from_millis(200)));
    let lost = timeout(PATIENCE, run.lost()).await.expect("it is told");
    assert_eq!(lost, RunError::Lost(Loss::Released(ReleaseReason::TimedOut)));
    node.reaches(submitted, RunState::Failed).await;
    runner.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn a_run_goes_on_over_a_restart_of_the_server() {
    let node = Node::start().await;
    let mut runner = Runner::start(node.config("one").await);
    let submitted = node.submit(Value::Null).await;
    let mut run = next(&mut runner).await;
    let waitpoint = run.waitpoint().await.expect("it executes");
    let restarted = async {
        node.reaches(submitted, RunState::Waiting).await;
        let node = node.restart().await;
        node.complete_waitpoint(submitted, json!("after")).await;
        node
    };
    let (output, node) = tokio::join!(timeout(PATIENCE, run.wait(waitpoint)), restarted);
    assert_eq!(output.expect("it wakes"), Ok(json!("after")));
    // What is asked while nobody is there is asked again when somebody is.
    let (address, directory) = node.stop().await;
    let completing = tokio::spawn(run.complete(json!("done")));
    let node = Node::start_at(address, directory).await;
    let completed = timeout(PATIENCE, completing).await.expect("it is told").expect("no panic");
    assert_eq!(completed, Ok(NextForRun::Finished {}));
    let detail = node.run(submitted).await;
    assert_eq!((detail.status.attempt.get(), detail.output), (1, Some(json!("done"))));
    runner.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn a_run_that_is_dropped_is_tried_again_and_one_of_an_earlier_process_too() {
    let node = Node::start().await;
    let config = node.config("one").await;
    let submitted = node.submit(Value::Null).await;
    let mut runner = Runner::start(config.clone());
    drop(next(&mut runner).await);
    let run = next(&mut runner).await;
    assert_eq!((run.id(), run.attempt().get()), (submitted, 2));
    // The process is killed, and another begins under its name.
    std::mem::forget(run);
    let mut another = Runner::start(config);
    let run = next(&mut another).await;
    assert_eq!((run.id(), run.attempt().get()), (submitted, 3));
    run.complete(Value::Null).await.expect("it is told");
    let replaced = timeout(PATIENCE, runner.next()).await.expect("it is told");
    assert_eq!(replaced.expect_err("no runs"), RunnerEnd::Replaced);
    runner.shut_down().await;
    another.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn a_runner_whose_token_is_worthless_says_so() {
    let node = Node::start().await;
    let config = node.config("one").await;
    node.handle.revoke("one".parse().expect("a name")).await.expect("is revoked");
    let mut runner = Runner::start(config);
    let refused = timeout(PATIENCE, runner.next()).await.expect("it is told");
    let Err(RunnerEnd::Refused { status: 401, said }) = refused else { panic!("{refused:?}") };
    assert!(said.contains("token"), "{said}");
    runner.shut_down().await;
    node.stop().await;
}

#[tokio::test]
async fn a_runner_that_shuts_down_gives_its_run_back_at_once() {
    let node = Node::start().await;
    let submitted = node.submit(Value::Null).await;
    let mut runner = Runner::start(node.config("one").await);
    let run = next(&mut runner).await;
    runner.shut_down().await;
    node.reaches(submitted, RunState::Queued).await;
    drop(run);
    node.stop().await;
}
