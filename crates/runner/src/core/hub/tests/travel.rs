//! Runs that go from one node to another: executable on one of them, and never lost.

use std::time::Duration;

use belay_protocol::NodeId;
use belay_protocol::runner::{CloseReason, RunId, RunState, RunnerId, TravelId, WaitpointId};
use proptest::prelude::*;
use serde_json::json;

use super::rig::{Held, Rig, listed, suspended, workload};
use crate::core::event::{Answer, Ask, Effect, HostOrder, Refusal, Traveller};
use crate::core::hub::HubPolicy;
use crate::core::run::{Departure, Run};
use crate::core::tokens::TokenHash;
use crate::records::Passage;

const WEEK: u64 = 7 * 24 * 3600;

fn node(name: &str) -> NodeId {
    name.parse().expect("a test names nodes well")
}

/// A rig whose numbers, and so whose ids, are not those of others.
fn another() -> Rig {
    let mut rig = Rig::hosted();
    for _ in 0..1000 {
        rig.number();
    }
    rig
}

fn leave(rig: &mut Rig, runner: &RunnerId, to: &str) -> Result<TravelId, Refusal> {
    match rig.ask(Ask::Leave { runner: runner.clone(), to: node(to) })? {
        Answer::Leaves { departure: Departure { travel, .. }, .. } => Ok(travel),
        other => panic!("{other:?}"),
    }
}

/// Gives a run up, and has it written and read as it travels.
fn give_up(rig: &mut Rig, runner: &RunnerId, travel: TravelId) -> Result<Passage, Refusal> {
    match rig.ask(Ask::GiveUp { runner: runner.clone(), travel })? {
        Answer::GivenUp(record) => {
            let tokens = vec![TokenHash([3; 32])];
            let passage = Passage::of(&node("a"), *record, tokens).expect("it was given up");
            let read = Passage::from_bytes(&passage.to_bytes()).expect("it reads");
            assert_eq!(read, passage);
            Ok(read)
        }
        other => panic!("{other:?}"),
    }
}

fn admit(rig: &mut Rig, passage: &Passage) -> Result<Answer, Refusal> {
    rig.ask(Ask::Admit(Box::new(passage.arrival.clone())))
}

fn exported(a: &mut Rig) -> (Held, WaitpointId, Passage) {
    let (held, waitpoint) = suspended(a);
    let travel = leave(a, &held.runner, "b").expect("it is on the disk");
    let passage = give_up(a, &held.runner, travel).expect("it leaves");
    (held, waitpoint, passage)
}

fn restores(rig: &Rig) -> usize {
    rig.orders().iter().filter(|order| matches!(order, HostOrder::Restore(_))).count()
}

#[test]
fn a_run_that_was_given_up_goes_on_where_it_came() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let (held, waitpoint, passage) = exported(&mut a);
    assert_eq!(a.state_of(held.run), "moved");
    assert_eq!(admit(&mut b, &passage), Ok(Answer::Admitted));
    assert_eq!(b.state_of(held.run), "suspended");
    let came = b.hub.run(held.run).expect("it came");
    assert!(came.epoch > held.epoch && came.attempt.get() == 1);
    b.complete_waitpoint(waitpoint, json!("hello")).expect("it waits for it");
    assert_eq!(restores(&b), 1, "{:#?}", b.effects);
    let back = b.connect(&held.runner, "mail");
    let state = b.state(back).expect("its run is told");
    let held = Held { epoch: state.epoch, session: back, ..held };
    b.finish(&held).expect("it executes");
    assert_eq!(b.state_of(held.run), "finished");
}

#[test]
fn what_leaves_is_not_restored_and_its_wait_travels() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let (held, waitpoint) = suspended(&mut a);
    let travel = leave(&mut a, &held.runner, "b").expect("it is on the disk");
    assert_eq!(leave(&mut a, &held.runner, "b"), Err(Refusal::Leaving(held.runner.clone())));
    a.complete_waitpoint(waitpoint, json!("early")).expect("it waits for it");
    a.seconds(1000);
    assert_eq!((restores(&a), a.state_of(held.run)), (0, "suspended"));
    let passage = give_up(&mut a, &held.runner, travel).expect("it leaves");
    admit(&mut b, &passage).expect("it comes");
    assert_eq!(restores(&b), 1, "its wait is over");
}

#[test]
fn a_timer_ends_on_the_way() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let held = a.executing();
    let wait = a.timer(600);
    a.suspend(&held, wait, Some(0)).expect("it executes");
    let taken = super::rig::ordered(&a.seconds(1)).pop().expect("it is due");
    a.taken(&taken);
    let travel = leave(&mut a, &held.runner, "b").expect("it is on the disk");
    let passage = give_up(&mut a, &held.runner, travel).expect("it leaves");
    a.seconds(700);
    assert_eq!((restores(&a), a.state_of(held.run)), (0, "moved"));
    b.seconds(800);
    admit(&mut b, &passage).expect("it comes");
    b.seconds(0);
    assert_eq!(b.state_of(held.run), "restoring");
}

#[test]
fn an_export_that_is_called_off_or_killed_leaves_the_run_where_it_is() {
    for is_killed in [false, true] {
        let mut a = Rig::hosted();
        let (held, waitpoint) = suspended(&mut a);
        let travel = leave(&mut a, &held.runner, "b").expect("it is on the disk");
        a.complete_waitpoint(waitpoint, json!(1)).expect("it waits for it");
        if is_killed {
            a.restart(&listed(&[&held]));
        } else {
            a.ask(Ask::Stay { runner: held.runner.clone(), travel }).expect("it may");
        }
        assert_eq!((restores(&a), a.state_of(held.run)), (1, "restoring"), "killed: {is_killed}");
        let late = give_up(&mut a, &held.runner, travel);
        assert_eq!(late, Err(Refusal::NotLeaving(held.runner.clone())));
    }
}

#[test]
fn whoever_asks_for_a_run_that_moved_is_told_where_it_is() {
    let mut a = Rig::hosted();
    let (held, waitpoint, passage) = exported(&mut a);
    for _ in 0..2 {
        let moved = Refusal::Moved { run: held.run, to: node("b") };
        assert_eq!(a.cancel(held.run), Err(moved.clone()));
        assert_eq!(a.complete_waitpoint(waitpoint, json!(1)), Err(moved.clone()));
        assert_eq!(leave(&mut a, &held.runner, "c"), Err(moved));
        let again = leave(&mut a, &held.runner, "b").expect("to the same node");
        assert_eq!(again, passage.travel());
        assert_eq!(give_up(&mut a, &held.runner, again).expect("it was"), passage);
        // Its process is not here, whoever says so.
        let session = a.connect(&held.runner, "mail");
        assert_eq!(
            a.effects,
            [Effect::Close { session, reason: CloseReason::RunnerGone }],
            "it is let in nowhere"
        );
        let shown = a.hub.departures();
        assert_eq!(shown[&held.runner].to, node("b"));
        a.restart(&listed(&[&held]));
    }
}

#[test]
fn what_came_does_not_come_again() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let (held, _, passage) = exported(&mut a);
    admit(&mut b, &passage).expect("it comes");
    for _ in 0..2 {
        let again = admit(&mut b, &passage);
        assert_eq!(again, Err(Refusal::CameBefore(passage.travel())));
        b.restart(&listed(&[&held]));
        assert_eq!(b.state_of(held.run), "suspended");
    }
    b.cancel(held.run).expect("it is here");
    let ticket = b.orders().into_iter().find_map(|order| match order {
        HostOrder::Drop(ticket) => Some(ticket),
        _ => None,
    });
    b.settled(&ticket.expect("it is dropped"));
    b.seconds(2 * 24 * 3600);
    assert!(b.hub.run(held.run).is_none(), "it is forgotten");
    assert_eq!(admit(&mut b, &passage), Err(Refusal::CameBefore(passage.travel())));
    b.seconds(WEEK);
    assert!(matches!(admit(&mut b, &passage), Err(Refusal::CameBefore(_) | Refusal::TooLate(_))));
}

#[test]
fn what_cannot_be_let_in_is_refused_by_name_and_changes_nothing() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let (held, _, passage) = exported(&mut a);
    let here = admit(&mut a, &passage);
    assert_eq!(here, Err(Refusal::RunHere(held.run)), "it is still here");
    let none = admit(&mut Rig::new(HubPolicy::default(), &[]), &passage);
    assert_eq!(none, Err(Refusal::UnknownWorkload(workload("mail"))));
    let policy = HubPolicy { max_runs: 0, ..HubPolicy::default() };
    let full = admit(&mut Rig::new(policy, &[("mail", super::rig::hosted(1))]), &passage);
    assert_eq!(full, Err(Refusal::Full { limit: 0 }));
    b.connect(&held.runner, "mail");
    assert_eq!(admit(&mut b, &passage), Err(Refusal::Lingers(held.runner.clone())));
    let mut late = another();
    late.seconds(WEEK + 60);
    let until = passage.traveller().until;
    assert_eq!(admit(&mut late, &passage), Err(Refusal::TooLate(until)));
    let may_come = late.ask(Ask::MayCome(Traveller {
        until: jiff::Timestamp::MAX,
        ..passage.traveller().clone()
    }));
    assert_eq!(may_come, Ok(Answer::MayCome));
    assert!(late.hub.run(held.run).is_none() && late.ledger.is_empty());
}

#[test]
fn what_nobody_took_is_taken_back_in_a_new_epoch() {
    let mut a = Rig::hosted();
    let (held, waitpoint) = suspended(&mut a);
    let reclaim = Ask::Reclaim { runner: held.runner.clone() };
    assert_eq!(a.ask(reclaim.clone()), Err(Refusal::NotMoved(held.runner.clone())));
    let travel = leave(&mut a, &held.runner, "b").expect("it is on the disk");
    assert_eq!(a.ask(reclaim.clone()), Err(Refusal::NotMoved(held.runner.clone())));
    give_up(&mut a, &held.runner, travel).expect("it leaves");
    let before = a.hub.run(held.run).expect("is there").epoch;
    assert_eq!(a.ask(reclaim), Ok(Answer::Reclaimed { run: held.run }));
    assert!(a.hub.run(held.run).expect("is there").epoch > before);
    // It does not end with the time that it would have been kept for.
    a.seconds(2 * WEEK);
    a.complete_waitpoint(waitpoint, json!(1)).expect("it waits for it");
    assert_eq!(restores(&a), 1);
}

#[test]
fn what_was_given_up_is_dropped_when_it_is_removed_and_after_a_week() {
    for is_removed in [true, false] {
        let mut a = Rig::hosted();
        let (held, ..) = exported(&mut a);
        if is_removed {
            let answer = a.ask(Ask::Discard { runner: held.runner.clone() });
            assert_eq!(answer, Ok(Answer::Discarded { run: held.run }));
        } else {
            a.seconds(WEEK - 10);
            a.restart(&listed(&[&held]));
            a.seconds(5);
            assert_eq!(a.orders(), [], "not before");
            a.seconds(10);
        }
        let Some(HostOrder::Drop(ticket)) = a.orders().pop() else { panic!("{:?}", a.orders()) };
        assert_eq!(a.state_of(held.run), "moved");
        a.restart(&[]);
        assert!(matches!(&a.orders()[..], [HostOrder::Drop(again)] if *again == ticket));
        a.settled(&ticket);
        assert_eq!((a.hub.departures().len(), a.state_of(held.run)), (0, "moved"));
        a.seconds(2 * 24 * 3600);
        assert!(a.hub.run(held.run).is_none());
    }
}

#[test]
fn a_run_comes_back_to_where_it_was() {
    let (mut a, mut b) = (Rig::hosted(), another());
    let (held, waitpoint, passage) = exported(&mut a);
    admit(&mut b, &passage).expect("it comes");
    a.ask(Ask::Discard { runner: held.runner.clone() }).expect("it moved");
    let Some(HostOrder::Drop(dropped)) = a.orders().pop() else { panic!("{:?}", a.orders()) };
    let travel = leave(&mut b, &held.runner, "a").expect("it is on the disk");
    let back = give_up(&mut b, &held.runner, travel).expect("it leaves");
    assert_eq!(admit(&mut a, &back), Err(Refusal::RunHere(held.run)), "it is being dropped");
    a.settled(&dropped);
    admit(&mut a, &back).expect("it comes back");
    a.complete_waitpoint(waitpoint, json!(1)).expect("it waits for it");
    assert_eq!(restores(&a), 1);
}

/// Something that operators, time and deaths do.
#[derive(Debug, Clone, Copy)]
enum Act {
    Leave,
    Stay,
    GiveUp,
    Deliver,
    Reclaim,
    Remove,
    Complete,
    KillA,
    KillB,
    Pass,
}

fn executable(rig: &Rig, run: RunId) -> bool {
    rig.hub.run(run).is_some_and(|run| !run.run_state().is_ended())
}

proptest! {
    #[test]
    fn of_two_nodes_one_at_most_can_execute_a_run_and_it_is_not_lost(acts in proptest::collection::vec(
        prop_oneof![
            3 => Just(Act::Leave), 1 => Just(Act::Stay), 3 => Just(Act::GiveUp),
            3 => Just(Act::Deliver), 1 => Just(Act::Reclaim), 1 => Just(Act::Remove),
            1 => Just(Act::Complete), 2 => Just(Act::KillA), 2 => Just(Act::KillB),
            1 => Just(Act::Pass),
        ],
        1..60,
    )) {
        let (mut a, mut b) = (Rig::hosted(), another());
        let (held, waitpoint) = suspended(&mut a);
        let (run, runner) = (held.run, held.runner.clone());
        let (mut travel, mut archive): (Option<TravelId>, Option<Passage>) = (None, None);
        let mut is_given_away = false;
        for act in acts {
            match act {
                Act::Leave => travel = leave(&mut a, &runner, "b").ok().or(travel),
                Act::Stay => {
                    if let Some(travel) = travel {
                        a.ask(Ask::Stay { runner: runner.clone(), travel }).expect("always");
                    }
                }
                Act::GiveUp => {
                    if let Some(passage) =
                        travel.and_then(|travel| give_up(&mut a, &runner, travel).ok())
                    {
                        archive = Some(passage);
                    }
                }
                Act::Deliver => {
                    if let Some(passage) = &archive {
                        let _ = admit(&mut b, passage);
                    }
                }
                // The operator vouches, and destroys the archive.
                Act::Reclaim => {
                    if b.hub.run(run).is_none()
                        && a.ask(Ask::Reclaim { runner: runner.clone() }).is_ok()
                    {
                        archive = None;
                    }
                }
                // The operator gives up what is there: nothing has to come of it any more.
                Act::Remove => {
                    let moved = a.hub.run(run).map(Run::run_state) == Some(RunState::Moved);
                    if moved && a.ask(Ask::Discard { runner: runner.clone() }).is_ok() {
                        is_given_away = archive.is_none();
                    }
                }
                Act::Complete => {
                    let _ = a.complete_waitpoint(waitpoint, json!(1));
                    let _ = b.complete_waitpoint(waitpoint, json!(1));
                }
                Act::KillA => a.restart(&listed(&[&held])),
                Act::KillB => {
                    let there = if b.hub.holder(run).is_some() { listed(&[&held]) } else { vec![] };
                    b.restart(&there);
                }
                Act::Pass => {
                    a.pass(Duration::from_secs(20));
                    b.pass(Duration::from_secs(20));
                }
            }
            prop_assert!(!(executable(&a, run) && executable(&b, run)), "on both after {act:?}");
            let is_somewhere = executable(&a, run) || b.hub.run(run).is_some();
            let may_come = archive.is_some() || travel.is_some_and(|travel| {
                give_up(&mut a, &runner, travel).is_ok()
            });
            let is_over = a.hub.run(run).is_some_and(|run| {
                matches!(run.run_state(), RunState::Finished | RunState::Failed)
            });
            prop_assert!(
                is_somewhere || may_come || is_given_away || is_over,
                "it is lost after {act:?}"
            );
        }
    }
}
