//! Runs that wait go to runners that are there, or about to be, before containers are made for them.

use std::time::Duration;

use super::rig::{Held, Rig, hosted, listed, submission};
use crate::core::event::{Effect, HostOrder};
use crate::core::hub::HubPolicy;

/// Containers that the effects order.
fn made(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Host(HostOrder::StartRunner { .. }))).count()
}

fn rig(max_concurrent: u32) -> Rig {
    Rig::new(HubPolicy::default(), &[("mail", hosted(max_concurrent))])
}

/// The container has finished its run, and has not asked for another yet.
fn between(rig: &mut Rig) -> Held {
    let held = rig.executing();
    rig.finish(&held).expect("it is bound");
    held
}

#[test]
fn a_queued_run_waits_for_the_runner_that_has_just_finished_another() {
    let mut rig = rig(1);
    let held = rig.executing();
    let queued = rig.submit(submission("mail"));
    assert_eq!(made(&rig.effects), 0, "there is one place");
    rig.finish(&held).expect("it is bound");
    assert_eq!(made(&rig.effects), 0, "its runner is about to ask");
    rig.ready(held.session).expect("it may");
    assert_eq!(rig.hub.holder(queued), Some(&held.runner));
    assert_eq!(made(&rig.effects), 0);
}

#[test]
fn a_runner_that_does_not_ask_in_time_is_not_waited_for() {
    let mut rig = rig(10);
    let held = between(&mut rig);
    let queued = rig.submit(submission("mail"));
    assert_eq!(made(&rig.effects), 0);
    assert_eq!(made(&rig.pass(Duration::from_millis(999))), 0);
    assert_eq!(made(&rig.pass(Duration::from_millis(1))), 1);
    assert_ne!(rig.hub.holder(queued), Some(&held.runner));
    // It is still worth a run when it asks at last.
    rig.ready(held.session).expect("it may");
    let next = rig.submit(submission("mail"));
    assert_eq!(rig.hub.holder(next), Some(&held.runner));
}

#[test]
fn containers_are_made_for_those_runs_only_that_are_more_than_the_runners_that_are_about_to_ask() {
    let mut rig = rig(10);
    let held = between(&mut rig);
    let runs: Vec<_> = (0..3).map(|_| rig.submit(submission("mail"))).collect();
    let bound = runs.iter().filter(|run| rig.hub.holder(**run).is_some()).count();
    assert_eq!(bound, 2, "two of three have containers of their own");
    rig.ready(held.session).expect("it may");
    assert!(runs.iter().all(|run| rig.hub.holder(*run).is_some()));
    assert_eq!(made(&rig.effects), 0);
}

#[test]
fn a_runner_that_is_gone_or_stopped_is_not_waited_for() {
    let mut rig = rig(10);
    let held = between(&mut rig);
    rig.submit(submission("mail"));
    assert_eq!(made(&rig.effects), 0);
    rig.exited(&held.runner, 0);
    assert_eq!(made(&rig.effects), 1);

    let mut rig = self::rig(1);
    let held = rig.executing();
    rig.submit(submission("mail"));
    rig.stop(&held).expect("it may");
    assert_eq!(made(&rig.effects), 0, "who stops a run goes on to another");
}

#[test]
fn an_idle_runner_whose_socket_broke_and_one_that_a_restart_found_are_waited_for() {
    let mut rig = rig(10);
    let held = between(&mut rig);
    rig.ready(held.session).expect("it may");
    rig.disconnect(held.session);
    let run = rig.submit(submission("mail"));
    assert_eq!(made(&rig.effects), 0);
    let session = rig.connect(&held.runner, "mail");
    rig.ready(session).expect("it may");
    assert_eq!(rig.hub.holder(run), Some(&held.runner));

    let mut rig = self::rig(10);
    let held = between(&mut rig);
    rig.restart(&listed(&[&held]));
    rig.submit(submission("mail"));
    assert_eq!(made(&rig.effects), 0);
    assert_eq!(made(&rig.seconds(9)), 0);
    assert_eq!(made(&rig.seconds(1)), 1, "as long as a pending snapshot is kept for one");
}
