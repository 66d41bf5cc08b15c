//! What the hub promises beside the numbered cases: snapshots and restores, admission, restarts.

use std::time::Duration;

use belay_protocol::runner::{
    CloseReason, MAX_WAITPOINTS, Notice, ReleaseReason, Reply, RunnerErrorCode, RunnerRequest,
    SnapshotAnswer, SnapshotOmission, WaitRequest, WaitpointId,
};
use serde_json::json;

use super::rig::{
    Held, Rig, armed, dispatching, foreign, hosted, listed, name, ordered, place, submission,
    suspended, workload,
};
use crate::core::event::{
    Answer, Ask, Effect, HostEvent, HostOrder, Origin, Refusal, SnapshotOutcome, WhetherNew,
};
use crate::core::hub::{HubPolicy, Snapshotting};
use crate::core::run::{Exit, Failure, Means, Phase, RunEnd};

#[test]
fn no_snapshot_is_armed_for_a_wait_that_ends_before_it_would_pay_off() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    // The delay of 30 s and a restore that counts as 1 s.
    for (seconds, expected) in
        [(30, SnapshotAnswer::Omitted { reason: SnapshotOmission::ShortWait }), (31, armed(30_000))]
    {
        let wait = rig.timer(seconds);
        assert_eq!(rig.suspend(&held, wait, None).expect("it executes").snapshot, expected);
    }
    // Restores of 20 s were measured: 3/4 of 1 s and 1/4 of 20 s.
    let (other, waitpoint) = suspended(&mut rig);
    rig.complete_waitpoint(waitpoint, json!(0)).expect("it waits");
    rig.seconds(20);
    rig.reconnect(&other);
    let held = rig.executing();
    for (seconds, is_armed) in [(35, false), (36, true)] {
        let wait = rig.timer(seconds);
        let answer = rig.suspend(&held, wait, None).expect("it executes").snapshot;
        assert_eq!(answer == armed(30_000), is_armed, "{seconds} s");
    }
}

#[test]
fn only_a_container_of_belayd_is_snapshotted_and_only_where_the_engine_can() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", foreign(10))]);
    rig.submit(submission("mail"));
    let session = rig.connect(&name("laptop"), "mail");
    rig.ready(session).expect("it may");
    let state = rig.state(session).expect("it is assigned");
    let held = Held { run: state.run, epoch: state.epoch, runner: name("laptop"), session };
    rig.start(&held).expect("it is bound");
    let wait = rig.timer(1000);
    let omitted = |reason| SnapshotAnswer::Omitted { reason };
    let answer = rig.suspend(&held, wait, None).expect("it executes");
    assert_eq!(answer.snapshot, omitted(SnapshotOmission::ForeignRunner));

    let policy = HubPolicy { snapshots: Snapshotting::Unsupported, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", hosted(10))]);
    let held = rig.executing();
    let wait = rig.timer(1000);
    let answer = rig.suspend(&held, wait, None).expect("it executes");
    assert_eq!(answer.snapshot, omitted(SnapshotOmission::Unsupported));
    assert_eq!(ordered(&rig.seconds(999)), []);
}

#[test]
fn a_wait_that_is_over_already_is_answered_and_told_at_once() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    let waitpoint = rig.waitpoint(&held);
    rig.complete_waitpoint(waitpoint, json!(5)).expect("it is there");
    let answer = rig.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it executes");
    let over = SnapshotAnswer::Omitted { reason: SnapshotOmission::WaitOver };
    assert_eq!(answer.snapshot, over);
    let reply = place(&rig.effects, |effect| matches!(effect, Effect::Reply { .. }));
    let told = place(&rig.effects, |effect| matches!(effect, Effect::Tell { .. }));
    assert!(reply < told, "the suspension is known before its end is told");
    let wait = rig.timer(-5);
    assert_eq!(rig.suspend(&held, wait, None).expect("it executes").snapshot, over);
    assert_eq!(rig.state_of(held.run), "executing");
}

#[test]
fn a_wait_that_ends_while_the_snapshot_is_taken_undoes_it() {
    let mut rig = Rig::hosted();
    let (held, waitpoint, ticket) = dispatching(&mut rig);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    let abort = place(&rig.effects, |e| matches!(e, Effect::Host(HostOrder::AbortSnapshot(_))));
    let answer = place(&rig.effects, |e| matches!(e, Effect::Answer { .. }));
    let told = place(&rig.effects, |e| matches!(e, Effect::Tell { .. }));
    assert!(abort < answer && answer < told);
    // Too late: the process is frozen already, and its socket with it.
    rig.disconnect(held.session);
    rig.seconds(300);
    assert_eq!(rig.hub.holder(held.run), Some(&held.runner), "the engine has it in its hands");
    rig.taken(&ticket);
    assert_eq!(rig.orders(), [HostOrder::PutBack(ticket.clone())]);
    assert_eq!(rig.state_of(held.run), "executing");
    rig.settled(&ticket);
    rig.reconnect(&held);
    assert_eq!(rig.hub.flights(), 0);
}

#[test]
fn a_run_that_finished_meanwhile_is_never_brought_back() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.finish(&held).expect("it is bound");
    rig.taken(&ticket);
    assert_eq!(rig.orders(), [HostOrder::PutBack(ticket.clone())], "the container, not the run");
    rig.settled(&ticket);
    assert_eq!(rig.state_of(held.run), "finished");
    // The container has no run, and is stopped when nobody asks for one.
    rig.seconds(30);
    assert_eq!(rig.orders(), [HostOrder::StopRunner { runner: held.runner }]);
}

#[test]
fn a_cancelled_suspension_is_dropped_with_its_container() {
    let mut rig = Rig::hosted();
    let (held, _) = suspended(&mut rig);
    assert_eq!(rig.hub.reserved_memory(), 0, "its memory is on the disk");
    rig.cancel(held.run).expect("it is not over");
    let [HostOrder::Drop(ticket)] = &rig.orders()[..] else { panic!("{:?}", rig.orders()) };
    let ticket = ticket.clone();
    // Killed before it was dropped: the next process orders it again.
    rig.restart(&[]);
    assert_eq!(rig.orders(), [HostOrder::Drop(ticket.clone())]);
    rig.settled(&ticket);
    assert_eq!(rig.ledger[&held.run].flight, None);
    rig.restart(&[]);
    assert_eq!(rig.effects, []);
    assert_eq!(rig.state_of(held.run), "cancelled");
}

#[test]
fn a_socket_that_closes_while_the_engine_has_the_container_ends_nothing() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.disconnect(held.session);
    assert_eq!(rig.effects, []);
    rig.exited(&held.runner, 0);
    assert_eq!(rig.effects, [], "perhaps the snapshot's own doing");
    rig.taken(&ticket);
    assert_eq!(rig.state_of(held.run), "suspended");
    assert_eq!(rig.hub.holder(held.run), Some(&held.runner));
}

#[test]
fn an_exit_during_a_snapshot_that_fails_was_the_runners_own() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.exited(&held.runner, 1);
    rig.not_taken(&ticket);
    assert_eq!(rig.state_of(held.run), "queued");
    let failure = rig.hub.run(held.run).and_then(|run| run.failure.clone());
    assert_eq!(failure, Some(Failure::Died(Exit { code: Some(1), ..Exit::default() })));
}

#[test]
fn a_runner_that_reconnects_during_its_snapshot_is_snapshotted_in_the_new_epoch_only() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    let back = rig.reconnect(&held);
    assert_eq!(rig.orders(), [HostOrder::AbortSnapshot(ticket.clone())]);
    rig.not_taken(&ticket);
    let next = ordered(&rig.seconds(5));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].epoch, back.epoch);
}

#[test]
fn a_snapshot_that_fails_is_tried_three_times_and_then_the_run_stays() {
    let mut rig = Rig::hosted();
    let (held, waitpoint, mut ticket) = dispatching(&mut rig);
    for pause in [5, 10] {
        rig.not_taken(&ticket);
        assert_eq!(ordered(&rig.seconds(pause - 1)), []);
        let next = ordered(&rig.seconds(1));
        assert_eq!(next.len(), 1, "after {pause} s");
        ticket = next[0].clone();
    }
    rig.not_taken(&ticket);
    assert_eq!(ordered(&rig.seconds(86_000)), []);
    assert_eq!(rig.state_of(held.run), "waiting");
    let why = rig.ledger[&held.run].run.snapshot_failure.clone();
    assert_eq!(why.as_deref(), Some("the engine said no"), "its record says so");
    rig.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it waits");
    assert_eq!(rig.ledger[&held.run].run.snapshot_failure, None);
}

#[test]
fn a_paused_runner_keeps_its_memory_and_a_checkpointed_one_does_not() {
    for (means, memory) in [(Means::Pause, 100), (Means::Checkpoint, 0)] {
        let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(1))]);
        let (held, _, ticket) = dispatching(&mut rig);
        let outcome = SnapshotOutcome::Taken(means);
        rig.host(HostEvent::Snapshot { ticket, outcome });
        assert_eq!(rig.hub.reserved_memory(), memory, "{means:?}");
        let kept = rig.ledger[&held.run].run.phase.clone();
        assert!(matches!(kept, Phase::Suspended { means: kept, .. } if kept == means));
        rig.submit(submission("mail"));
        assert_eq!(rig.orders().len(), 1, "its place among the runs is free in either case");
    }
}

#[test]
fn a_suspended_run_is_restored_before_new_ones_when_there_is_room() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(1))]);
    let (held, waitpoint) = suspended(&mut rig);
    let other = rig.executing();
    let queued = rig.submit(crate::Submission { priority: 9, ..submission("mail") });
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    assert_eq!(rig.state_of(held.run), "suspended", "no place");
    rig.finish(&other).expect("it is bound");
    assert_eq!((rig.state_of(held.run), rig.state_of(queued)), ("restoring", "queued"));
}

#[test]
fn a_restore_that_fails_fails_the_attempt_and_fences_its_container() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = suspended(&mut rig);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    let [HostOrder::Restore(ticket)] = &rig.orders()[..] else { panic!("{:?}", rig.orders()) };
    let ticket = ticket.clone();
    rig.host(HostEvent::RestoreFailed { ticket: ticket.clone(), reason: "damaged".to_owned() });
    assert_eq!(rig.orders(), [HostOrder::Drop(ticket.clone())]);
    rig.seconds(100);
    assert_eq!(rig.state_of(held.run), "queued");
    // Killed before it was dropped: a container that is stored is not among those found.
    rig.restart(&[]);
    assert_eq!(rig.orders(), [HostOrder::Drop(ticket.clone())]);
    rig.seconds(100);
    assert_eq!(rig.state_of(held.run), "queued");
    rig.settled(&ticket);
    assert_eq!(rig.state_of(held.run), "assigned");

    // One that never connects is the same.
    let mut rig = Rig::hosted();
    let (held, waitpoint) = suspended(&mut rig);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    rig.seconds(120);
    assert!(matches!(&rig.orders()[..], [HostOrder::Drop(ticket)] if ticket.runner == held.runner));

    // Nor does one whose run is cancelled meanwhile leave anything.
    let (held, waitpoint) = suspended(&mut rig);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    rig.cancel(held.run).expect("it is not over");
    assert!(matches!(&rig.orders()[..], [HostOrder::Drop(ticket)] if ticket.runner == held.runner));
}

#[test]
fn a_runner_that_appears_though_it_is_suspended_takes_its_run_back() {
    let mut rig = Rig::hosted();
    let (held, _) = suspended(&mut rig);
    let back = rig.reconnect(&held);
    assert_eq!(rig.state_of(held.run), "waiting");
    let [HostOrder::PutBack(ticket)] = &rig.orders()[..] else { panic!("{:?}", rig.orders()) };
    let ticket = ticket.clone();
    assert_eq!(ticket.epoch, held.epoch);
    rig.settled(&ticket);
    let next = ordered(&rig.seconds(30));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].epoch, back.epoch);
}

#[test]
fn an_attempt_that_takes_too_long_is_ended_and_its_waits_do_not_count() {
    let mut rig = Rig::hosted();
    let timeout = Some(Duration::from_secs(100));
    let run = rig.submit(crate::Submission { timeout, ..submission("mail") });
    let runner = rig.started_runner();
    let session = rig.connect(&runner, "mail");
    let epoch = rig.state(session).expect("it is assigned").epoch;
    let held = Held { run, epoch, runner: runner.clone(), session };
    let Ok(Reply::Start(started)) = rig.start(&held) else { panic!("it is bound") };
    assert_eq!(started.timeout_ms, Some(100_000));
    rig.seconds(60);
    let waitpoint = rig.waitpoint(&held);
    rig.suspend(&held, WaitRequest::Token { waitpoint }, Some(9_999_000)).expect("it executes");
    rig.seconds(5000);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    rig.seconds(39);
    assert_eq!(rig.state_of(run), "executing");
    let effects = rig.seconds(1);
    assert_eq!(rig.orders(), [HostOrder::StopRunner { runner: runner.clone() }]);
    place(&effects, |effect| {
        matches!(effect, Effect::Tell { notice: Notice::Released(released), .. }
            if released.reason == ReleaseReason::TimedOut)
    });
    assert_eq!(rig.finish(&held), Err(RunnerErrorCode::NotBound), "its result comes too late");
    assert_eq!(rig.ready(session), Err(RunnerErrorCode::RunnerStopping));
}

#[test]
fn cancelling_ends_the_snapshot_first_and_tells_the_runner_last() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    assert_eq!(rig.cancel(held.run), Ok(Answer::Cancelled));
    let effects = &rig.effects;
    let abort = place(effects, |e| *e == Effect::Host(HostOrder::AbortSnapshot(ticket.clone())));
    let save = place(effects, |e| matches!(e, Effect::Save(_)));
    let answer = place(effects, |e| matches!(e, Effect::Answer { .. }));
    let told = place(effects, |e| matches!(e, Effect::Tell { .. }));
    assert!(abort < save && save < answer && answer < told, "{effects:#?}");
    assert_eq!(rig.cancel(held.run), Ok(Answer::Cancelled), "asked twice");
    let done = rig.executing();
    rig.finish(&done).expect("it is bound");
    let refused = Refusal::Ended { run: done.run, state: "finished" };
    assert_eq!(rig.cancel(done.run), Err(refused));
}

#[test]
fn runs_go_by_priority_then_by_creation_and_to_the_warmest_runner() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", foreign(9))]);
    let low = rig.submit(crate::Submission { priority: -1, ..submission("mail") });
    let first = rig.submit(submission("mail"));
    let second = rig.submit(submission("mail"));
    let high = rig.submit(crate::Submission { priority: 5, ..submission("mail") });
    let late =
        rig.submit(crate::Submission { delay: Duration::from_secs(9), ..submission("mail") });
    for (runner, run) in [("a", high), ("b", first), ("c", second), ("d", low)] {
        let session = rig.connect(&name(runner), "mail");
        rig.ready(session).expect("it may");
        assert_eq!(rig.state(session).map(|state| state.run), Some(run));
    }
    for runner in ["cold", "warm"] {
        let session = rig.connect(&name(runner), "mail");
        rig.ready(session).expect("it may");
        assert_eq!(rig.state(session), None);
    }
    rig.seconds(9);
    assert_eq!(rig.hub.holder(late), Some(&name("warm")));
}

#[test]
fn a_key_makes_one_run_of_equal_submissions_and_refuses_others() {
    let mut rig = Rig::hosted();
    let keyed = crate::Submission { idempotency_key: Some("k".to_owned()), ..submission("mail") };
    let run = rig.submit(keyed.clone());
    let known = Answer::Submitted { run, whether: WhetherNew::Known };
    assert_eq!(rig.ask(Ask::Submit(keyed.clone())), Ok(known.clone()));
    rig.restart(&[]);
    assert_eq!(rig.ask(Ask::Submit(keyed.clone())), Ok(known));
    let other = crate::Submission { priority: 1, ..keyed.clone() };
    assert_eq!(rig.ask(Ask::Submit(other)), Err(Refusal::KeyTaken { run }));
    // When the run is forgotten the key is free.
    rig.cancel(run).expect("it is not over");
    rig.seconds(24 * 3600);
    assert!(rig.hub.run(run).is_none() && !rig.ledger.contains_key(&run));
    assert_ne!(rig.submit(keyed), run);
}

#[test]
fn questions_that_cannot_be_granted_are_refused_by_name() {
    let policy = HubPolicy { max_runs: 1, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", hosted(1))]);
    let unknown = Refusal::UnknownWorkload(workload("news"));
    assert_eq!(rig.ask(Ask::Submit(submission("news"))), Err(unknown));
    let none = crate::Submission { max_attempts: 0, ..submission("mail") };
    assert_eq!(rig.ask(Ask::Submit(none)), Err(Refusal::NoAttempts));
    let held = rig.executing();
    assert_eq!(rig.ask(Ask::Submit(submission("mail"))), Err(Refusal::Full { limit: 1 }));
    let nobody = WaitpointId::after(None, 9, 9);
    assert_eq!(rig.complete_waitpoint(nobody, json!(1)), Err(Refusal::UnknownWaitpoint(nobody)));
    let waitpoint = rig.waitpoint(&held);
    let large = json!("x".repeat(256 * 1024));
    assert!(matches!(rig.complete_waitpoint(waitpoint, large), Err(Refusal::TooLarge { .. })));
    assert_eq!(rig.complete_waitpoint(waitpoint, json!(1)), Ok(Answer::WaitpointCompleted));
    assert_eq!(rig.complete_waitpoint(waitpoint, json!(1)), Ok(Answer::WaitpointCompleted));
    let otherwise = Refusal::CompletedOtherwise(waitpoint);
    assert_eq!(rig.complete_waitpoint(waitpoint, json!(2)), Err(otherwise));
    for _ in 1..MAX_WAITPOINTS {
        rig.waitpoint(&held);
    }
    let one_more = RunnerRequest::Waitpoint(Rig::reference(&held));
    assert_eq!(rig.request(held.session, one_more), Err(RunnerErrorCode::TooManyWaitpoints));
}

#[test]
fn a_runner_with_the_token_of_another_workload_is_turned_away() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(1)), ("news", hosted(1))]);
    let held = rig.executing();
    let session = rig.connect(&held.runner, "news");
    assert_eq!(rig.effects, [Effect::Close { session, reason: CloseReason::WrongWorkload }]);
    rig.finish(&held).expect("its own session is as it was");
}

#[test]
fn after_a_restart_every_run_is_where_it_was() {
    let mut rig = Rig::hosted();
    let (stored, stored_token) = suspended(&mut rig);
    let executing = rig.executing();
    let (waiting, token) = rig.waiting();
    let timed = rig.executing();
    let wait = rig.timer(600);
    rig.suspend(&timed, wait, Some(9_000_000)).expect("it executes");
    let done = rig.executing();
    rig.finish(&done).expect("it is bound");
    rig.restart(&listed(&[&executing, &waiting, &timed]));
    assert_eq!(rig.orders(), []);
    let states = [&executing, &waiting, &timed, &stored, &done].map(|held| rig.state_of(held.run));
    assert_eq!(states, ["executing", "waiting", "waiting", "suspended", "finished"]);
    let executing = rig.reconnect(&executing);
    let waiting = rig.reconnect(&waiting);
    rig.reconnect(&timed);
    rig.finish(&executing).expect("it is bound");
    rig.complete_waitpoint(token, json!(1)).expect("it waits");
    assert!(rig.state(waiting.session).is_some());
    rig.seconds(600);
    assert_eq!(rig.state_of(timed.run), "executing");
    rig.complete_waitpoint(stored_token, json!(2)).expect("it waits");
    rig.reconnect(&stored);
    assert_eq!(rig.state_of(stored.run), "executing");
    let Phase::Ended { end: RunEnd::Finished { output }, .. } =
        &rig.hub.run(done.run).expect("it is remembered").phase
    else {
        panic!("it had finished")
    };
    assert_eq!(*output, json!("done"));
}

#[test]
fn what_ended_while_belayd_was_down_is_found() {
    let mut rig = Rig::hosted();
    let gone = rig.executing();
    let assigned = rig.submit(submission("mail"));
    rig.restart(&[]);
    assert_eq!((rig.state_of(gone.run), rig.state_of(assigned)), ("queued", "queued"));
    assert_eq!(rig.hub.reserved_memory(), 0);
    // A snapshot whose fate nobody knows is asked after.
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.restart(&[]);
    assert_eq!(rig.orders(), [HostOrder::FindSnapshot(ticket.clone())]);
    rig.taken(&ticket);
    assert_eq!(rig.state_of(held.run), "suspended");
    // If there is none, and no container either, it has died.
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.restart(&[]);
    rig.not_taken(&ticket);
    assert_eq!(rig.state_of(held.run), "queued");
    // A runner that was to be stopped is stopped again before the run goes on.
    let mut rig = Rig::hosted();
    let held = rig.executing();
    rig.disconnect(held.session);
    rig.seconds(60);
    rig.restart(&listed(&[&held]));
    assert_eq!(rig.orders(), [HostOrder::StopRunner { runner: held.runner.clone() }]);
    rig.seconds(20);
    assert_eq!(rig.state_of(held.run), "queued");
    rig.exited(&held.runner, 0);
    assert_eq!(rig.state_of(held.run), "assigned");
}

#[test]
fn a_runner_that_is_stored_by_a_late_call_of_its_last_run_is_not_taken_for_gone() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    rig.finish(&held).expect("it is bound");
    rig.ready(held.session).expect("it may");
    let next = rig.submit(submission("mail"));
    assert_eq!(rig.hub.holder(next), Some(&held.runner));
    let epoch = rig.state(held.session).expect("it is assigned").epoch;
    rig.start(&Held { run: next, epoch, ..held.clone() }).expect("it is bound");
    rig.restart(&[]);
    assert_eq!(rig.orders(), [HostOrder::FindSnapshot(ticket.clone())]);
    assert_eq!(rig.state_of(next), "executing");
    rig.taken(&ticket);
    rig.settled(&ticket);
    rig.reconnect(&Held { run: next, epoch, ..held });
}

#[test]
fn a_hosted_runner_belongs_to_belayd_in_the_record() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    let owner = rig.ledger[&held.run].owner.clone().expect("it is held");
    assert_eq!((owner.runner, owner.origin), (held.runner, Origin::Hosted));
}

#[test]
fn a_welcome_says_whether_the_state_of_a_run_follows() {
    let told = |effects: &[Effect]| -> Vec<Notice> {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::Tell { notice, .. } => Some(notice.clone()),
            _ => None,
        });
        told.collect()
    };
    let mut rig = Rig::hosted();
    let free = name("free");
    rig.connect(&free, "mail");
    let [Notice::Welcome(welcome)] = &told(&rig.effects)[..] else { panic!("{:?}", rig.effects) };
    assert_eq!(welcome.run, None);

    // Assigned before its container had connected, and held when it connects again.
    let run = rig.submit(submission("mail"));
    let runner = rig.started_runner();
    for _ in 0..2 {
        rig.connect(&runner, "mail");
        let [Notice::Welcome(welcome), Notice::State(state)] = &told(&rig.effects)[..] else {
            panic!("{:?}", rig.effects);
        };
        assert_eq!((welcome.run, state.run), (Some(run), run));
    }
}
