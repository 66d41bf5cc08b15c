use std::sync::Arc;
use std::time::Duration;

use belay_protocol::runner::{Again, NextForRun, RunId, TravelId, WaitRequest, WaitResult};
use belay_timer_wheel::Moment;
use jiff::Timestamp;
use serde_json::json;

use super::{
    Departure, Failure, Means, Phase, Run, Submission, SuspendedWait, WrongState, back_off,
};
use crate::core::now::Now;

fn now() -> Now {
    let wall = Timestamp::from_second(1_795_330_800).expect("a time");
    Now { moment: Moment::ORIGIN, wall, entropy: 7 }
}

fn fresh(max_attempts: u32) -> Run {
    let submission = Submission {
        workload: "mail".parse().expect("a name"),
        payload: json!(null),
        idempotency_key: None,
        priority: 0,
        delay: Duration::ZERO,
        timeout: Some(Duration::from_secs(60)),
        max_attempts,
    };
    Run::new(RunId::after(None, 1, 2), Arc::new(submission), &now())
}

fn wait() -> WaitRequest {
    WaitRequest::Timer { until: Timestamp::MAX }
}

fn departure() -> Departure {
    Departure { travel: TravelId::after(None, 3, 4), to: "b".parse().expect("a name") }
}

/// Steps that exist, and where they lead.
type Exits = &'static [(&'static str, &'static str)];

type Step = fn(&mut Run) -> Result<(), WrongState>;

const ASSIGN: Step = |run| run.assign();
const START: Step = |run| run.start(&now());
const SUSPEND: Step = |run| run.suspend(wait(), Some(Duration::from_secs(9))).map(|_| ());
const RESUME: Step = |run| run.resume(None, &now());
const TAKEN: Step = |run| run.set_suspended(Means::Pause);
const END_WAIT: Step = |run| run.end_wait(WaitResult::Elapsed {});
const RESTORE: Step = |run| run.restore();
const SURFACE: Step = |run| run.surface(&now());
const FINISH: Step = |run| run.finish(json!(1), &now()).map(|_| ());
const FAIL: Step = |run| run.fail_attempt(Failure::Lost, Again::Retry, None, &now()).map(|_| ());
const FAIL_START: Step = |run| run.fail_start(Failure::NotStarted, &now()).map(|_| ());
const CANCEL: Step = |run| run.cancel(&now());

const STORED: Step = |run| run.set_suspended(Means::Checkpoint);
const LEAVE: Step = |run| run.leave(departure());
const STAY: Step = |run| run.stay();
const GIVE_UP: Step = |run| run.give_up(Timestamp::MAX);
const LET_GO: Step = |run| run.let_go(&now());

const STEPS: [(&str, Step); 16] = [
    ("leave", LEAVE),
    ("stay", STAY),
    ("give up", GIVE_UP),
    ("let go", LET_GO),
    ("assign", ASSIGN),
    ("start", START),
    ("suspend", SUSPEND),
    ("resume", RESUME),
    ("taken", TAKEN),
    ("end wait", END_WAIT),
    ("restore", RESTORE),
    ("surface", SURFACE),
    ("finish", FINISH),
    ("fail", FAIL),
    ("fail start", FAIL_START),
    ("cancel", CANCEL),
];

fn reached(steps: &[Step]) -> Run {
    let mut run = fresh(3);
    for step in steps {
        step(&mut run).expect("the way there exists");
    }
    run
}

#[test]
fn every_transition_exists_from_where_it_should_and_from_nowhere_else() {
    let stored: &[Step] = &[ASSIGN, START, SUSPEND, TAKEN];
    // How to reach a state, and what each step that exists leads to.
    let matrix: &[(&[Step], Exits)] = &[
        (&[], &[("assign", "assigned"), ("cancel", "cancelled")]),
        (&[ASSIGN], &[("start", "executing"), ("fail start", "queued"), ("cancel", "cancelled")]),
        (
            &[ASSIGN, START],
            &[
                ("suspend", "waiting"),
                ("finish", "finished"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND],
            &[
                ("suspend", "waiting"),
                ("resume", "executing"),
                ("taken", "suspended"),
                ("finish", "finished"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            stored,
            &[
                ("end wait", "suspended"),
                ("surface", "waiting"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND, TAKEN, END_WAIT],
            &[
                ("restore", "restoring"),
                ("surface", "executing"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND, TAKEN, END_WAIT, RESTORE],
            &[("surface", "executing"), ("fail", "queued"), ("cancel", "cancelled")],
        ),
        (
            &[ASSIGN, START, SUSPEND, STORED],
            &[
                ("leave", "suspended"),
                ("end wait", "suspended"),
                ("surface", "waiting"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND, STORED, LEAVE],
            &[
                ("stay", "suspended"),
                ("give up", "moved"),
                ("end wait", "suspended"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND, STORED, LEAVE, END_WAIT],
            &[
                ("stay", "suspended"),
                ("give up", "moved"),
                ("fail", "queued"),
                ("cancel", "cancelled"),
            ],
        ),
        (
            &[ASSIGN, START, SUSPEND, STORED, LEAVE, GIVE_UP],
            &[("stay", "suspended"), ("let go", "moved")],
        ),
        (&[ASSIGN, START, SUSPEND, STORED, LEAVE, GIVE_UP, LET_GO], &[]),
        (&[ASSIGN, START, FINISH], &[]),
        (&[CANCEL], &[]),
    ];
    for (way, exits) in matrix {
        for (name, step) in STEPS {
            let mut run = reached(way);
            let (before, from) = (run.clone(), run.state());
            let led = step(&mut run).map(|()| run.state());
            let expected = exits.iter().find(|(exit, _)| *exit == name).map(|(_, to)| *to);
            assert_eq!(led, expected.ok_or(WrongState { found: from }), "{name} from {from}");
            if expected.is_none() {
                assert_eq!(run, before, "a refused {name} changes nothing");
            }
        }
    }
}

#[test]
fn a_run_that_waits_for_the_end_of_a_runner_is_not_assigned() {
    let mut run = reached(&[ASSIGN, START]);
    let fence = Some("old".parse().expect("a name"));
    run.fail_attempt(Failure::Lost, Again::Retry, fence, &now()).expect("it executes");
    assert_eq!(run.assign(), Err(WrongState { found: "queued" }));
}

#[test]
fn the_last_attempt_and_one_that_gives_up_end_the_run() {
    let mut run = reached(&[ASSIGN, START]);
    let next = run.fail_attempt(Failure::Lost, Again::GiveUp, None, &now());
    assert_eq!((next, run.state()), (Ok(NextForRun::Failed {}), "failed"));

    let mut run = fresh(2);
    for expected in ["queued", "failed"] {
        for step in [ASSIGN, START, FAIL] {
            step(&mut run).expect("it may");
        }
        assert_eq!(run.state(), expected);
    }
}

#[test]
fn assignments_without_a_start_cost_no_attempt_and_end_after_five() {
    let mut run = fresh(1);
    for _ in 0..4 {
        ASSIGN(&mut run).expect("it is queued");
        FAIL_START(&mut run).expect("it is assigned");
    }
    ASSIGN(&mut run).expect("it is queued");
    START(&mut run).expect("it is assigned");
    assert_eq!((run.attempt.get(), run.failed_starts), (1, 0));
    let mut run = fresh(1);
    for _ in 0..5 {
        ASSIGN(&mut run).expect("it is queued");
        FAIL_START(&mut run).expect("it is assigned");
    }
    assert_eq!(run.state(), "failed");
}

#[test]
fn the_time_of_an_attempt_stands_still_while_it_waits() {
    let left = Some(Duration::from_secs(9));
    for way in [
        &[ASSIGN, START, SUSPEND, RESUME][..],
        &[ASSIGN, START, SUSPEND, SUSPEND, RESUME],
        &[ASSIGN, START, SUSPEND, TAKEN, SURFACE, RESUME],
        &[ASSIGN, START, SUSPEND, TAKEN, END_WAIT, SURFACE],
        &[ASSIGN, START, SUSPEND, TAKEN, END_WAIT, RESTORE, SURFACE],
    ] {
        let Phase::Executing { until: Some(until), .. } = reached(way).phase else {
            panic!("it executes")
        };
        assert_eq!(Some(now().until(until)), left);
    }
}

#[test]
fn what_a_restored_run_is_told_is_the_suspension_that_ended() {
    let run = reached(&[ASSIGN, START, SUSPEND, RESUME, SUSPEND, TAKEN, END_WAIT]);
    let Phase::Suspended { suspension, wait: SuspendedWait::Over(_), .. } = &run.phase else {
        panic!("its wait is over")
    };
    assert_eq!((suspension.get(), run.suspension.get()), (2, 2));
}

#[test]
fn pauses_double_to_a_minute_and_spread_by_a_fifth() {
    let mut spread = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for (failures, plain) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (u32::MAX, 60)]
        {
            let pause = back_off(failures, seed).as_millis();
            let plain = plain * 1000;
            assert!(pause >= plain * 8 / 10 && pause <= plain * 12 / 10, "{failures}: {pause} ms");
        }
        spread.insert(back_off(1, seed));
    }
    assert!(spread.len() > 100, "only {} different pauses", spread.len());
}
