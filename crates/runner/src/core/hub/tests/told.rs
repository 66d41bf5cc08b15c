//! What is told of runs and snapshots as events.

use std::time::Duration;

use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{Again, Attempt, RunId, SnapshotOmission, WaitRequest};
use serde_json::json;

use super::rig::{Rig, dispatching, failed, foreign, name, ordered, place, submission, suspended};
use crate::core::event::{Effect, Event, HostEvent, HostOrder};
use crate::core::hub::HubPolicy;
use crate::core::run::Means;
use crate::core::tale::{Happening, Tale};

/// What effects tell of a run, in order.
fn told(effects: &[Effect], run: RunId) -> Vec<Happening> {
    let tales = effects.iter().filter_map(|effect| match effect {
        Effect::Happened(tale) if tale.run == run => Some(tale.what.clone()),
        _ => None,
    });
    tales.collect()
}

#[test]
fn a_run_is_told_from_its_submission_to_its_result() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    let attempt = Attempt::new(1);
    assert_eq!(
        told(&rig.effects, held.run),
        [Happening::Started { attempt, runner: held.runner.clone() }]
    );
    let waitpoint = rig.waitpoint(&held);
    assert_eq!(told(&rig.effects, held.run), [], "no message is told, but what changes a run");
    let wait = WaitRequest::Token { waitpoint };
    rig.suspend(&held, wait, None).expect("it executes");
    let scheduled = Happening::Scheduled { delay_ms: 30_000 };
    assert_eq!(told(&rig.effects, held.run), [Happening::Suspended { wait }, scheduled]);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    assert_eq!(
        told(&rig.effects, held.run),
        [Happening::Unwanted(SnapshotUnwanted::WaitOver), Happening::Resumed]
    );
    rig.finish(&held).expect("it executes");
    assert_eq!(told(&rig.effects, held.run), [Happening::Finished { attempt }]);
    rig.finish(&held).expect("it is answered again");
    assert_eq!(told(&rig.effects, held.run), [], "once");

    let run = rig.submit(submission("mail"));
    assert_eq!(told(&rig.effects, run), [Happening::Submitted]);
    rig.cancel(run).expect("it has not ended");
    assert_eq!(told(&rig.effects, run), [Happening::Cancelled]);
    rig.cancel(run).expect("it is cancelled");
    assert_eq!(told(&rig.effects, run), [], "once");
}

#[test]
fn attempts_and_starts_that_fail_are_told_with_the_next_and_the_last_as_the_end_of_the_run() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    let attempt = Attempt::new(1);
    rig.complete(&held, failed(Again::Retry)).expect("it executes");
    let [Happening::AttemptFailed { attempt: first, cause, next_try_at: Some(_) }] =
        &told(&rig.effects, held.run)[..]
    else {
        panic!("{:?}", rig.effects)
    };
    assert_eq!((*first, cause.as_str()), (attempt, "the mail server is away"));

    let mut rig = Rig::hosted();
    let held = rig.executing();
    rig.complete(&held, failed(Again::GiveUp)).expect("it executes");
    let cause = || "the mail server is away".to_owned();
    assert_eq!(
        told(&rig.effects, held.run),
        [
            Happening::AttemptFailed { attempt, cause: cause(), next_try_at: None },
            Happening::Failed { attempts: attempt, cause: cause() },
        ]
    );

    let mut rig = Rig::hosted();
    let run = rig.submit(submission("mail"));
    for failures in 1..=5 {
        let runner = rig.hub.holder(run).expect("it is assigned").clone();
        rig.host(HostEvent::StartFailed { runner, reason: "no room".to_owned() });
        let tales = told(&rig.effects, run);
        let next = match &tales[0] {
            Happening::NotStarted { cause, next_try_at } => {
                assert_eq!(cause, "no runner could be started: no room");
                *next_try_at
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(next.is_none(), failures == 5);
        assert_eq!(matches!(tales[1..], [Happening::Failed { .. }]), failures == 5, "{tales:?}");
        rig.seconds(60);
    }
}

#[test]
fn a_snapshot_is_told_from_its_schedule_to_its_end() {
    let mut rig = Rig::hosted();
    let (held, waitpoint, ticket) = dispatching(&mut rig);
    let lag = Duration::ZERO;
    let runner = held.runner.clone();
    assert_eq!(
        told(&rig.effects, held.run),
        [Happening::Dispatched { runner: runner.clone(), lag }]
    );
    rig.not_taken(&ticket);
    let cause = "the engine said no".to_owned();
    assert_eq!(told(&rig.effects, held.run), [Happening::NotTaken { cause, failures: 1 }]);
    let ticket = ordered(&rig.seconds(5)).pop().expect("it is tried again");
    rig.taken(&ticket);
    let means = Means::Checkpoint;
    assert_eq!(told(&rig.effects, held.run), [Happening::Taken { runner, means }]);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    assert_eq!(told(&rig.effects, held.run), [], "it is not back yet");
    rig.reconnect(&held);
    assert_eq!(told(&rig.effects, held.run), [Happening::Resumed]);

    let (held, _, ticket) = dispatching(&mut rig);
    rig.cancel(held.run).expect("it waits");
    let unwanted = Happening::Unwanted(SnapshotUnwanted::RunCancelled);
    assert_eq!(told(&rig.effects, held.run), [unwanted, Happening::Cancelled]);
    rig.taken(&ticket);
    assert_eq!(told(&rig.effects, held.run), [], "what is put away was told to be unwanted");

    suspended(&mut rig);
}

#[test]
fn a_snapshot_that_waited_for_a_place_is_told_to_be_late() {
    let policy = HubPolicy { dispatches: 1, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", super::rig::hosted(10))]);
    let (first, _) = rig.waiting();
    let (second, _) = rig.waiting();
    let ticket = ordered(&rig.seconds(30)).pop().expect("one is due and has the place");
    let waits = if ticket.run == first.run { &second } else { &first };
    rig.seconds(2);
    rig.taken(&ticket);
    let lag = Duration::from_secs(2);
    let runner = waits.runner.clone();
    assert_eq!(
        told(&rig.effects, waits.run),
        [Happening::Dispatched { runner, lag }, Happening::Late { lag }]
    );
}

#[test]
fn a_suspension_without_a_snapshot_is_told_with_its_reason() {
    let mut rig = Rig::new(HubPolicy::default(), &[("far", foreign(10))]);
    let run = rig.submit(submission("far"));
    let session = rig.connect(&name("laptop"), "far");
    rig.ready(session).expect("is welcome");
    let epoch = rig.state(session).expect("its run is told").epoch;
    let held = super::rig::Held { run, epoch, runner: name("laptop"), session };
    rig.start(&held).expect("it is assigned");
    let wait = rig.timer(3600);
    rig.suspend(&held, wait, None).expect("it executes");
    let refused = Happening::Refused(SnapshotOmission::ForeignRunner);
    assert_eq!(told(&rig.effects, run), [Happening::Suspended { wait }, refused]);
    let over = rig.timer(0);
    rig.suspend(&held, over, None).expect("it waits");
    assert_eq!(told(&rig.effects, run), [Happening::Refused(SnapshotOmission::WaitOver)]);
}

#[test]
fn what_is_told_comes_before_the_record_that_it_tells_of_and_holds_no_order_up() {
    let mut rig = Rig::hosted();
    let (held, _, _) = dispatching(&mut rig);
    rig.finish(&held).expect("it waits");
    let save = place(&rig.effects, |e| matches!(e, Effect::Save(_)));
    let abort = place(&rig.effects, |e| matches!(e, Effect::Host(HostOrder::AbortSnapshot(_))));
    let tales: Vec<usize> = rig
        .effects
        .iter()
        .enumerate()
        .filter(|(_, effect)| matches!(effect, Effect::Happened(_)))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(tales.len(), 2);
    assert!(tales.iter().all(|at| *at < save) && abort < save, "{:#?}", rig.effects);
}

#[test]
fn a_runner_that_is_away_for_too_long_loses_its_snapshot_and_that_is_told() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.event(Event::Disconnected { session: held.session });
    assert_eq!(told(&rig.effects, held.run), []);
    let effects = rig.seconds(10);
    let away = Happening::Unwanted(SnapshotUnwanted::Away);
    assert_eq!(told(&effects, held.run), [away]);
    let Some(Effect::Happened(Tale { workload, .. })) =
        effects.iter().find(|effect| matches!(effect, Effect::Happened(_)))
    else {
        panic!("{effects:#?}")
    };
    assert_eq!(workload.as_str(), "mail");
}
