//! Cases in which delayed snapshots go wrong elsewhere, numbered as in `docs/runner.md`.

use std::time::Duration;

use belay_protocol::runner::{
    Again, CloseReason, Completed, Continued, MAX_PAYLOAD, NextForRun, Notice, Reply,
    RunnerErrorCode, Standing, SuspensionId, WaitRequest, WaitResult, WaitpointId,
};
use serde_json::json;

use super::rig::{
    Held, Rig, armed, dispatching, failed, foreign, hosted, is_waiting, listed, name, ordered,
    place, submission, suspended, workload,
};
use crate::core::event::{Ask, Effect, Event, HostEvent, HostOrder, Refusal};
use crate::core::hub::HubPolicy;
use crate::core::run::{Exit, Failure, MemoryFate};
use crate::core::snapshots::Ticket;

// 1
#[test]
fn a_run_that_resumed_and_keeps_running_is_never_snapshotted() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = rig.waiting();
    rig.seconds(29);
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it waits");
    assert_eq!(ordered(&rig.seconds(3600)), []);
    assert_eq!(rig.state_of(held.run), "executing");

    // The runner left the wait by itself, and the only sign of it is that it works.
    let (held, _) = rig.waiting();
    rig.seconds(29);
    rig.progress(&held);
    assert_eq!(rig.hub.pending_snapshots(), 0);
    assert_eq!(ordered(&rig.seconds(3600)), []);

    // Or that it creates another waitpoint.
    let (held, _) = rig.waiting();
    rig.waitpoint(&held);
    assert_eq!(rig.state_of(held.run), "executing");
    assert_eq!(ordered(&rig.seconds(3600)), []);
}

// 2
#[test]
fn what_does_not_show_that_the_run_goes_on_leaves_the_snapshot_armed() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    let stale = Held { epoch: belay_protocol::runner::Epoch::new(0), ..held.clone() };
    rig.progress(&stale);
    assert_eq!(rig.start(&held), Err(RunnerErrorCode::WrongState));
    assert_eq!(rig.continue_run(&held, 7), Err(RunnerErrorCode::StaleSuspension));
    let nowhere = WaitRequest::Token { waitpoint: WaitpointId::after(None, 0, 0) };
    assert_eq!(rig.suspend(&held, nowhere, None), Err(RunnerErrorCode::UnknownWaitpoint));
    let tickets = ordered(&rig.seconds(30));
    assert_eq!(tickets.len(), 1, "it is taken all the same");
    assert_eq!(tickets[0].suspension, SuspensionId::new(1));
}

// 3
#[test]
fn of_a_completion_and_a_deadline_in_one_instant_the_first_counts() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.elapsed += Duration::from_secs(30);
    rig.finish(&held).expect("it is bound");
    assert_eq!(ordered(&rig.seconds(0)), [], "completed first: nothing is ordered");

    let (held, _) = rig.waiting();
    let tickets = ordered(&rig.seconds(30));
    assert_eq!(tickets.len(), 1, "due first: ordered");
    rig.finish(&held).expect("it is bound");
    let effects = &rig.effects;
    let abort = place(effects, |e| matches!(e, Effect::Host(HostOrder::AbortSnapshot(_))));
    let save = place(effects, |e| matches!(e, Effect::Save(_)));
    let reply = place(effects, |e| matches!(e, Effect::Reply { .. }));
    assert!(abort < save && save < reply, "cancelled, then recorded, then answered: {effects:#?}");
}

// 4
#[test]
fn a_completion_that_is_asked_again_is_answered_again_and_recorded_once() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    let answer = rig.complete(&held, failed(Again::Retry)).expect("it is bound");
    assert!(matches!(&answer, Reply::Complete(Completed { next: NextForRun::Retried { .. } })));
    // The answer was lost with the socket.
    rig.disconnect(held.session);
    let session = rig.connect(&held.runner, "mail");
    let again = Held { session, ..held.clone() };
    assert_eq!(rig.complete(&again, failed(Again::Retry)), Ok(answer));
    assert!(!rig.effects.iter().any(|effect| matches!(effect, Effect::Save(_))));
    // Nobody else gets the answer.
    let stranger = rig.connect(&name("stranger"), "mail");
    let other = Held { session: stranger, ..held };
    assert_eq!(rig.finish(&other), Err(RunnerErrorCode::NotBound));
}

// 5
#[test]
fn a_snapshot_that_waits_for_a_place_can_still_be_cancelled() {
    let policy = HubPolicy { dispatches: 1, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", hosted(10))]);
    let (first, _) = rig.waiting();
    let (second, _) = rig.waiting();
    let (third, _) = rig.waiting();
    let hung = ordered(&rig.seconds(31));
    assert_eq!(hung.len(), 1, "one place");
    assert_eq!(hung[0].run, first.run);
    assert_eq!(rig.hub.pending_snapshots(), 2);
    rig.finish(&second).expect("it is bound");
    assert_eq!(rig.hub.pending_snapshots(), 1);
    rig.taken(&hung[0]);
    let next = ordered(&rig.effects);
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].run, third.run, "the second is never ordered");
}

// 6
#[test]
fn a_stale_runner_ends_nothing_of_the_fresh_one() {
    let policy = HubPolicy::default();
    let mut rig = Rig::new(policy, &[("mail", foreign(10))]);
    let run = rig.submit(submission("mail"));
    let session = rig.connect(&name("old"), "mail");
    rig.ready(session).expect("it may");
    let state = rig.state(session).expect("it is assigned");
    let old = Held { run, epoch: state.epoch, runner: name("old"), session };
    rig.start(&old).expect("it is bound");
    // It is lost; a container takes the next attempt.
    rig.disconnect(session);
    rig.seconds(60);
    rig.event(Event::Declared { workload: workload("mail"), policy: hosted(10) });
    rig.seconds(2);
    let runner = rig.started_runner();
    let session = rig.connect(&runner, "mail");
    let state = rig.state(session).expect("it is assigned");
    let fresh = Held { run, epoch: state.epoch, runner, session };
    rig.start(&fresh).expect("it is bound");
    let waitpoint = rig.waitpoint(&fresh);
    rig.suspend(&fresh, WaitRequest::Token { waitpoint }, None).expect("it executes");

    let back = rig.connect(&old.runner, "mail");
    assert_eq!(rig.state(back), None, "it holds nothing");
    let ghost = Held { session: back, ..old.clone() };
    assert_eq!(rig.finish(&ghost), Err(RunnerErrorCode::BoundElsewhere));
    assert_eq!(rig.continue_run(&ghost, 1), Err(RunnerErrorCode::BoundElsewhere));
    assert_eq!(rig.stop(&ghost), Err(RunnerErrorCode::BoundElsewhere));
    rig.progress(&ghost);
    rig.disconnect(back);
    rig.disconnect(old.session);
    let tickets = ordered(&rig.seconds(30));
    assert_eq!(tickets.len(), 1);
    assert_eq!(tickets[0].runner, fresh.runner);
}

// 8
#[test]
fn a_new_suspension_replaces_the_snapshot_and_begins_the_delay_anew() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = rig.waiting();
    rig.seconds(20);
    let again = rig.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it waits");
    assert_eq!((again.suspension, again.snapshot), (SuspensionId::new(2), armed(30_000)));
    assert_eq!(ordered(&rig.seconds(29)), []);
    let tickets = ordered(&rig.seconds(1));
    assert_eq!(tickets.len(), 1);
    assert_eq!(tickets[0].suspension, SuspensionId::new(2));

    // Also when the old one is in the engine's hands.
    let again = rig.suspend(&held, WaitRequest::Token { waitpoint }, Some(0)).expect("it waits");
    assert_eq!(rig.orders(), [HostOrder::AbortSnapshot(tickets[0].clone())]);
    assert_eq!(ordered(&rig.seconds(5)), [], "one container, one engine call");
    rig.not_taken(&tickets[0]);
    let next = ordered(&rig.effects);
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].suspension, again.suspension);
}

// 9
#[test]
fn a_suspension_that_comes_too_late_arms_nothing() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = rig.waiting();
    rig.finish(&held).expect("it is bound");
    let wait = WaitRequest::Token { waitpoint };
    assert_eq!(rig.suspend(&held, wait, None), Err(RunnerErrorCode::NotBound));

    let (held, waitpoint) = rig.waiting();
    let wait = WaitRequest::Token { waitpoint };
    rig.disconnect(held.session);
    assert_eq!(rig.suspend(&held, wait, None), Err(RunnerErrorCode::SessionReplaced));
    // It was in the pipe when the runner came back.
    let back = rig.reconnect(&held);
    let late = Held { session: back.session, ..held.clone() };
    assert_eq!(rig.suspend(&late, wait, Some(0)), Err(RunnerErrorCode::StaleEpoch));
    assert_eq!(ordered(&rig.seconds(29)), []);
    assert_eq!(ordered(&rig.seconds(1)).len(), 1, "the one of before has its old delay");
}

// 10
#[test]
fn delays_follow_the_monotonic_clock() {
    for step in [3600, -3600] {
        let mut rig = Rig::hosted();
        let (held, _) = rig.waiting();
        let timer = rig.timer(600);
        let other = rig.executing();
        rig.suspend(&other, timer, None).expect("it executes");
        rig.seconds(10);
        rig.stepped += step;
        assert_eq!(ordered(&rig.seconds(19)), [], "clock stepped by {step} s");
        assert_eq!(ordered(&rig.seconds(1)).len(), 2, "clock stepped by {step} s");
        assert_eq!(rig.state_of(held.run), "waiting");
    }
    // A host that slept catches up at once, and nothing else is stretched.
    let mut rig = Rig::hosted();
    rig.waiting();
    let (later, _) = rig.waiting();
    let waitpoint = rig.waitpoint(&later);
    rig.suspend(&later, WaitRequest::Token { waitpoint }, Some(60_000)).expect("it executes");
    rig.elapsed += Duration::from_secs(50);
    assert_eq!(ordered(rig.event(Event::Tick)).len(), 1);
    assert_eq!(ordered(&rig.seconds(9)), []);
    assert_eq!(ordered(&rig.seconds(1)).len(), 1);
}

// 11
#[test]
fn a_delay_may_be_anything() {
    for delay_ms in [0, 1, 61_000, 6 * 3_600_000] {
        let mut rig = Rig::hosted();
        let held = rig.executing();
        let waitpoint = rig.waitpoint(&held);
        let wait = WaitRequest::Token { waitpoint };
        let answer = rig.suspend(&held, wait, Some(delay_ms)).expect("it executes");
        assert_eq!(answer.snapshot, armed(delay_ms));
        if let Some(before) = delay_ms.checked_sub(1) {
            assert_eq!(ordered(&rig.pass(Duration::from_millis(before))), []);
            assert_eq!(ordered(&rig.pass(Duration::from_millis(1))).len(), 1);
        } else {
            assert_eq!(ordered(&rig.pass(Duration::ZERO)).len(), 1);
        }
    }
    let idle = Rig::hosted();
    assert_eq!(idle.hub.next_deadline(), None, "nothing to do, nothing to wake up for");
}

#[test]
fn a_requested_delay_is_held_within_the_nodes_bounds() {
    let policy = HubPolicy {
        min_snapshot_delay: Duration::from_secs(2),
        max_snapshot_delay: Duration::from_secs(40),
        ..HubPolicy::default()
    };
    let mut rig = Rig::new(policy, &[("mail", hosted(10))]);
    let (held, waitpoint) = rig.waiting();
    for (asked, given) in [(0, 2_000), (7_000, 7_000), (99_000, 40_000)] {
        let wait = WaitRequest::Token { waitpoint };
        let answer = rig.suspend(&held, wait, Some(asked)).expect("it waits");
        assert_eq!(answer.snapshot, armed(given));
    }
}

// 12
#[test]
fn pending_snapshots_survive_a_drain_and_a_restart() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.seconds(20);
    rig.event(Event::Drain);
    assert_eq!(ordered(&rig.seconds(5)), []);
    assert_eq!(rig.ask(Ask::Submit(submission("mail"))), Err(Refusal::Draining));
    rig.restart(&listed(&[&held]));
    assert_eq!(ordered(&rig.seconds(2)), [], "its runner is not back");
    let back = rig.reconnect(&held);
    // 20 and 5 seconds had passed when it was killed; 2 more while it was held.
    assert_eq!(ordered(&rig.seconds(4)), []);
    let tickets = ordered(&rig.seconds(1));
    assert_eq!(tickets.len(), 1);
    assert_eq!((tickets[0].run, tickets[0].epoch), (held.run, back.epoch));
}

#[test]
fn a_draining_hub_dispatches_nothing() {
    let mut rig = Rig::hosted();
    rig.waiting();
    rig.event(Event::Drain);
    assert_eq!(ordered(&rig.seconds(3600)), []);
}

// 13
#[test]
fn the_newest_session_takes_over_and_the_older_ones_end_changes_nothing() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.seconds(10);
    let newer = rig.reconnect(&held);
    let close = Effect::Close { session: held.session, reason: CloseReason::Replaced };
    assert!(rig.effects.contains(&close), "{:#?}", rig.effects);
    rig.disconnect(held.session);
    assert_eq!(rig.effects, []);
    assert_eq!(rig.stop(&held), Err(RunnerErrorCode::SessionReplaced));
    assert_eq!(rig.hub.holder(held.run), Some(&held.runner));
    assert_eq!(ordered(&rig.seconds(19)), []);
    let tickets = ordered(&rig.seconds(1));
    assert_eq!(tickets.len(), 1, "what was left of the delay went on");
    assert_eq!(tickets[0].epoch, newer.epoch);
}

// 14
#[test]
fn another_runner_never_takes_a_bound_run() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", foreign(1))]);
    let run = rig.submit(submission("mail"));
    let first = rig.connect(&name("first"), "mail");
    rig.ready(first).expect("it may");
    let epoch = rig.state(first).expect("it is assigned").epoch;
    let held = Held { run, epoch, runner: name("first"), session: first };
    rig.start(&held).expect("it is bound");
    let second = rig.connect(&name("second"), "mail");
    rig.ready(second).expect("it may");
    let thief = Held { session: second, ..held.clone() };
    assert_eq!(rig.start(&thief), Err(RunnerErrorCode::BoundElsewhere));
    // Away is not lost.
    rig.disconnect(first);
    rig.seconds(59);
    assert_eq!(rig.hub.holder(run), Some(&name("first")));
    rig.seconds(1);
    assert_eq!(rig.hub.holder(run), None);
    rig.seconds(2);
    assert_eq!(rig.hub.holder(run), Some(&name("second")));
}

// 15
#[test]
fn a_runner_that_is_back_within_the_grace_is_bound_told_and_snapshotted() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = rig.waiting();
    rig.seconds(25);
    rig.disconnect(held.session);
    assert_eq!(ordered(&rig.seconds(9)), [], "held while it is away");
    let back = rig.reconnect(&held);
    let state = rig.state(back.session).expect("it is told");
    assert!(is_waiting(&state.standing), "{state:?}");
    assert_eq!(ordered(&rig.seconds(4)), []);
    assert_eq!(ordered(&rig.seconds(1)).len(), 1, "5 s were left");

    // What it missed while it was away it is told as well.
    let (held, waitpoint_2) = rig.waiting();
    assert_ne!(waitpoint, waitpoint_2);
    rig.disconnect(held.session);
    rig.complete_waitpoint(waitpoint_2, json!("yes")).expect("it waits");
    let back = rig.reconnect(&held);
    let state = rig.state(back.session).expect("it is told");
    let Standing::Executing { resumed: Some(resumed), .. } = state.standing else {
        panic!("{state:?}")
    };
    assert_eq!(resumed.result, WaitResult::Completed { output: json!("yes") });
}

// 16
#[test]
fn a_runner_that_stays_away_loses_first_its_snapshot_then_its_run() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.disconnect(held.session);
    rig.seconds(10);
    assert_eq!(rig.hub.pending_snapshots(), 0);
    assert_eq!(rig.ledger[&held.run].pending, None, "gone from the ledger too");
    rig.seconds(49);
    assert_eq!(rig.hub.holder(held.run), Some(&held.runner));
    rig.seconds(1);
    assert_eq!(rig.orders(), [HostOrder::StopRunner { runner: held.runner.clone() }]);
    assert_eq!(rig.hub.run(held.run).and_then(|run| run.failure.clone()), Some(Failure::Lost));
    assert_eq!(ordered(&rig.seconds(3600)), []);
    // Until its process has ended nobody else is at it.
    assert_eq!(rig.state_of(held.run), "queued");
    rig.exited(&held.runner, 143);
    assert_eq!(rig.state_of(held.run), "assigned");
}

#[test]
fn a_runner_that_is_back_after_the_grace_waits_on_without_a_snapshot() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = rig.waiting();
    rig.disconnect(held.session);
    rig.seconds(11);
    let back = rig.reconnect(&held);
    assert_eq!(ordered(&rig.seconds(3600)), []);
    assert_eq!(rig.state_of(held.run), "waiting");
    rig.suspend(&back, WaitRequest::Token { waitpoint }, None).expect("it waits");
    assert_eq!(ordered(&rig.seconds(30)).len(), 1, "it may ask for one again");
}

// 17
#[test]
fn the_end_of_a_container_counts_at_once_though_its_socket_is_open() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    let exit = Exit { code: Some(137), memory: MemoryFate::Killed };
    rig.host(HostEvent::Exited { runner: held.runner.clone(), exit });
    let close = Effect::Close { session: held.session, reason: CloseReason::RunnerGone };
    assert!(rig.effects.contains(&close));
    assert_eq!(rig.hub.holder(held.run), None);
    assert_eq!(rig.hub.pending_snapshots(), 0);
    let run = rig.hub.run(held.run).expect("it is remembered");
    assert_eq!(run.failure, Some(Failure::Died(exit)));
    assert_eq!(
        run.failure.as_ref().map(ToString::to_string).as_deref(),
        Some("the runner ended with code 137, killed for want of memory")
    );
    assert_eq!(rig.hub.reserved_memory(), 0);
}

// 18
#[test]
fn stop_counts_from_the_bound_session_only() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    let other = rig.executing();
    let crossed = Held { session: other.session, ..held.clone() };
    assert_eq!(rig.stop(&crossed), Err(RunnerErrorCode::BoundElsewhere));
    let unknown = Held { run: belay_protocol::runner::RunId::after(None, 1, 1), ..held.clone() };
    assert_eq!(rig.stop(&unknown), Err(RunnerErrorCode::UnknownRun));
    assert_eq!(rig.effects.len(), 1, "nothing but the answer");
    assert_eq!((rig.state_of(held.run), rig.state_of(other.run)), ("waiting", "executing"));
    assert_eq!(rig.hub.pending_snapshots(), 1);
    rig.stop(&held).expect("it is bound");
    assert_eq!((rig.state_of(held.run), rig.hub.pending_snapshots()), ("queued", 0));
}

// 19
#[test]
fn a_runner_that_asks_for_another_run_lets_go_of_the_one_it_has() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(2))]);
    let (held, _) = rig.waiting();
    let full = rig.executing();
    let next = rig.submit(submission("mail"));
    assert_eq!(rig.state_of(next), "queued");
    rig.ready(held.session).expect("it may");
    let saved = |effect: &Effect, run| matches!(effect, Effect::Save(r) if r.run.id == run);
    let let_go = place(&rig.effects, |effect| saved(effect, held.run));
    let reply = place(&rig.effects, |effect| matches!(effect, Effect::Reply { .. }));
    let bound = place(&rig.effects, |effect| saved(effect, next));
    let told = place(
        &rig.effects,
        |effect| matches!(effect, Effect::Tell { notice: Notice::State(state), .. } if state.run == next),
    );
    assert!(let_go < reply && reply < bound && bound < told);
    assert_eq!(rig.hub.holder(next), Some(&held.runner));
    assert_eq!(rig.hub.holder(held.run), None);
    assert_eq!(ordered(&rig.seconds(40)), [], "its snapshot went with it");
    assert_eq!(rig.state_of(full.run), "executing");
}

// 21
#[test]
fn a_restored_runner_has_a_new_epoch_and_its_disconnect_ends_the_right_snapshot() {
    let mut rig = Rig::hosted();
    let (held, waitpoint) = suspended(&mut rig);
    rig.disconnect(held.session);
    rig.complete_waitpoint(waitpoint, json!("go")).expect("it waits");
    assert_eq!(rig.state_of(held.run), "restoring");
    assert!(matches!(rig.orders()[..], [HostOrder::Restore(_)]), "{:?}", rig.orders());
    let back = rig.reconnect(&held);
    assert_eq!(rig.state_of(held.run), "executing");
    let result = Some(WaitResult::Completed { output: json!("go") });
    assert_eq!(rig.continue_run(&back, 1), Ok(Reply::Continue(Continued { result })));

    let waitpoint = rig.waitpoint(&back);
    rig.suspend(&back, WaitRequest::Token { waitpoint }, None).expect("it executes");
    assert_eq!(rig.finish(&held), Err(RunnerErrorCode::SessionReplaced));
    assert_eq!(rig.hub.pending_snapshots(), 1);
    rig.disconnect(back.session);
    assert_eq!(ordered(&rig.seconds(3600)), []);
}

// 22
#[test]
fn a_payload_travels_whole_and_within_its_bound() {
    let mut rig = Rig::hosted();
    let payload = json!({"text": "\u{1f980}ß\u{0}", "anything": [1, {"deep": null}]});
    rig.submit(crate::Submission { payload: payload.clone(), ..submission("mail") });
    let runner = rig.started_runner();
    let session = rig.connect(&runner, "mail");
    let state = rig.state(session).expect("it is assigned");
    let held = Held { run: state.run, epoch: state.epoch, runner, session };
    let Ok(Reply::Start(started)) = rig.start(&held) else { panic!("it is bound") };
    assert_eq!(started.payload, payload);
    // Two quotes around it are the rest of the limit.
    let most =
        crate::Submission { payload: json!("x".repeat(MAX_PAYLOAD - 2)), ..submission("mail") };
    rig.submit(most);
    let more =
        crate::Submission { payload: json!("x".repeat(MAX_PAYLOAD - 1)), ..submission("mail") };
    let refused = Refusal::TooLarge { size: MAX_PAYLOAD + 1, limit: MAX_PAYLOAD };
    assert_eq!(rig.ask(Ask::Submit(more)), Err(refused));
}

// 23
#[test]
fn a_start_that_lost_is_refused_by_name_and_changes_nothing() {
    let mut rig = Rig::hosted();
    rig.submit(submission("mail"));
    let runner = rig.started_runner();
    let session = rig.connect(&runner, "mail");
    let state = rig.state(session).expect("it is assigned");
    let held = Held { run: state.run, epoch: state.epoch, runner, session };
    let back = rig.reconnect(&held);
    let late = Held { session: back.session, ..held };
    assert_eq!(rig.start(&late), Err(RunnerErrorCode::StaleEpoch));
    assert_eq!(rig.effects.len(), 1);
    let first = rig.start(&back).expect("it is bound");
    assert_eq!(rig.start(&back), Ok(first), "asked twice, it is the same attempt");
}

// 24
#[test]
fn a_snapshots_result_counts_once_and_for_its_own_ticket() {
    let mut rig = Rig::hosted();
    let (held, _, ticket) = dispatching(&mut rig);
    let (other, _) = rig.waiting();
    let forged = [
        Ticket { run: other.run, ..ticket.clone() },
        Ticket { runner: other.runner.clone(), ..ticket.clone() },
        Ticket { epoch: ticket.epoch.next(), ..ticket.clone() },
        Ticket { suspension: ticket.suspension.next(), ..ticket.clone() },
    ];
    for forged in &forged {
        rig.taken(forged);
        assert_eq!(rig.effects, [], "{forged:?}");
        rig.not_taken(forged);
        assert_eq!(rig.effects, [], "{forged:?}");
    }
    rig.taken(&ticket);
    assert_eq!(rig.state_of(held.run), "suspended");
    let record = rig.ledger[&held.run].clone();
    rig.taken(&ticket);
    rig.not_taken(&ticket);
    rig.settled(&ticket);
    assert_eq!(rig.effects, []);
    assert_eq!(rig.ledger[&held.run], record);
}

// 25
#[test]
fn a_runner_that_does_not_start_or_dies_is_told_with_its_reason_and_leaves_nothing() {
    let mut rig = Rig::hosted();
    let run = rig.submit(submission("mail"));
    let mut names = Vec::new();
    for round in 1..=5_u32 {
        let runner = rig.started_runner();
        assert!(!names.contains(&runner), "no name comes twice");
        names.push(runner.clone());
        assert_eq!(rig.hub.reserved_memory(), 100);
        rig.host(HostEvent::StartFailed { runner, reason: "no such image".to_owned() });
        assert_eq!(rig.hub.reserved_memory(), 0);
        let failure = rig.hub.run(run).and_then(|run| run.failure.clone());
        assert_eq!(
            failure.map(|f| f.to_string()).as_deref(),
            Some("no runner could be started: no such image")
        );
        if round < 5 {
            rig.seconds(20);
        }
    }
    assert_eq!(rig.state_of(run), "failed");

    // A process that ends fails its attempt; another follows, until there were enough.
    let run = rig.submit(submission("mail"));
    for attempt in 1..=3 {
        let runner = rig.started_runner();
        let session = rig.connect(&runner, "mail");
        let epoch = rig.state(session).expect("it is assigned").epoch;
        rig.start(&Held { run, epoch, runner: runner.clone(), session }).expect("it is bound");
        assert_eq!(rig.hub.run(run).map(|run| run.attempt.get()), Some(attempt));
        rig.exited(&runner, 137);
        if attempt < 3 {
            rig.seconds(10);
        }
    }
    assert_eq!(rig.state_of(run), "failed");
    assert_eq!(rig.hub.reserved_memory(), 0);
}

// 26
#[test]
fn of_two_runs_for_the_last_place_one_is_let_in() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(1))]);
    let held = rig.executing();
    let second = rig.submit(submission("mail"));
    assert_eq!((rig.state_of(second), rig.hub.reserved_memory()), ("queued", 100));
    rig.finish(&held).expect("it is bound");
    rig.ready(held.session).expect("is welcome");
    assert_eq!(rig.state_of(second), "assigned");

    let policy = HubPolicy { memory: 199, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", hosted(10)), ("news", hosted(10))]);
    let first = rig.submit(submission("mail"));
    let second = rig.submit(submission("news"));
    assert_eq!((rig.state_of(first), rig.state_of(second)), ("assigned", "queued"));
    rig.cancel(first).expect("it is not over");
    let [HostOrder::StopRunner { runner }] = &rig.orders()[..] else {
        panic!("{:?}", rig.orders())
    };
    let runner = runner.clone();
    assert_eq!(rig.state_of(second), "queued", "its memory is not free before it has ended");
    rig.exited(&runner, 0);
    assert_eq!(rig.state_of(second), "assigned");
}
