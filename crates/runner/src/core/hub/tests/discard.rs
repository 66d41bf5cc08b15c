//! Checkpoints that an operator gives up.

use super::rig::{Rig, dispatching, listed, place, suspended};
use crate::core::event::{Answer, Ask, Effect, HostEvent, HostOrder, Refusal, SnapshotOutcome};
use crate::core::run::{Failure, Means};

#[test]
fn a_run_whose_checkpoint_is_given_up_is_tried_again_when_its_container_is_gone() {
    let mut rig = Rig::hosted();
    let (held, _) = suspended(&mut rig);
    let runner = held.runner.clone();
    let answer = rig.ask(Ask::Discard { runner: runner.clone() });
    assert_eq!(answer, Ok(Answer::Discarded { run: held.run }));
    let save = place(&rig.effects, |e| matches!(e, Effect::Save(_)));
    let answered = place(&rig.effects, |e| matches!(e, Effect::Answer { .. }));
    let dropped = place(&rig.effects, |e| matches!(e, Effect::Host(HostOrder::Drop(_))));
    assert!(save < answered && answered < dropped, "{:#?}", rig.effects);
    let Effect::Host(HostOrder::Drop(ticket)) = rig.effects[dropped].clone() else { panic!() };
    assert_eq!((&ticket.runner, ticket.run), (&held.runner, held.run));
    assert_eq!(rig.hub.run(held.run).expect("is known").failure, Some(Failure::Discarded));
    assert_eq!(rig.state_of(held.run), "queued");

    // Neither time nor another order brings another attempt before the container is gone.
    rig.seconds(100);
    assert_eq!(rig.state_of(held.run), "queued");
    let again = rig.ask(Ask::Discard { runner: runner.clone() });
    assert_eq!(again, Err(Refusal::NoCheckpoint(runner)));
    rig.settled(&ticket);
    rig.seconds(2);
    assert_eq!(rig.state_of(held.run), "assigned");
    assert_ne!(rig.hub.holder(held.run), Some(&held.runner));
}

#[test]
fn a_kill_after_it_was_recorded_orders_it_again() {
    let mut rig = Rig::hosted();
    let (held, _) = suspended(&mut rig);
    rig.ask(Ask::Discard { runner: held.runner.clone() }).expect("it is on the disk");
    rig.restart(&listed(&[&held]));
    let orders = rig.orders();
    assert!(
        orders
            .iter()
            .any(|order| matches!(order, HostOrder::Drop(ticket) if ticket.runner == held.runner)),
        "{orders:?}"
    );
    assert_eq!(rig.state_of(held.run), "queued");
}

#[test]
fn what_is_not_on_the_disk_is_not_given_up() {
    let mut rig = Rig::hosted();
    let refused = |rig: &mut Rig, runner: &belay_protocol::runner::RunnerId| {
        let answer = rig.ask(Ask::Discard { runner: runner.clone() });
        assert_eq!(answer, Err(Refusal::NoCheckpoint(runner.clone())));
    };
    refused(&mut rig, &super::rig::name("run-unknown"));
    let held = rig.executing();
    refused(&mut rig, &held.runner);
    let (waiting, _) = rig.waiting();
    refused(&mut rig, &waiting.runner);

    // Nor what is frozen in memory, nor what is on its way back.
    let mut rig = Rig::hosted();
    let (held, waitpoint, ticket) = dispatching(&mut rig);
    let outcome = SnapshotOutcome::Taken(Means::Pause);
    rig.host(HostEvent::Snapshot { ticket, outcome });
    assert_eq!(rig.state_of(held.run), "suspended");
    refused(&mut rig, &held.runner);
    rig.complete_waitpoint(waitpoint, serde_json::json!(1)).expect("it waits");
    assert_eq!(rig.state_of(held.run), "restoring");
    refused(&mut rig, &held.runner);
}
