//! Events, also over a gap and over the loss of the service.

use std::time::Duration;

use belay_engine::{Action, EngineError, EngineEvent, EventMarker, Events, Removal, ServiceStatus};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, eventually};

async fn next(events: &mut Events) -> Result<EngineEvent, EngineError> {
    tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("an event within 20 s")
        .expect("the stream goes on")
}

/// Reads up to and with the first event of a kind; gives all but those nobody named.
async fn until(events: &mut Events, last: &Action) -> Vec<Action> {
    let mut seen = Vec::new();
    loop {
        let event = next(events).await.expect("the engine is there");
        if !matches!(event.action, Action::Other(_)) {
            seen.push(event.action.clone());
        }
        if event.action == *last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_after_a_gap_without_loss_or_repetition() {
    let world = World::new().await;
    let engine = &world.engine;
    let mut events = engine.events(EventMarker::now(), &world.label());
    let spec = world.obedient("gap");
    let id = world.run(&spec).await;
    let first = next(&mut events).await.expect("an event");
    assert_eq!((&first.container, &first.name, &first.action), (&id, &spec.name, &Action::Created));
    assert_eq!(first.labels, spec.labels, "labels and nothing else");
    assert_eq!(until(&mut events, &Action::Started).await, [Action::Started]);
    let marker = events.marker();
    drop(events);

    engine.pause(&id).await.expect("frozen");
    engine.unpause(&id).await.expect("thawed");
    engine.stop(&id, Duration::from_secs(10)).await.expect("stopped");

    let mut events = engine.events(marker, &world.label());
    let died = Action::Died { exit_code: Some(3) };
    assert_eq!(until(&mut events, &died).await, [Action::Paused, Action::Unpaused, died]);
    engine.remove(&id, Removal::Stopped).await.expect("removed");
    assert_eq!(until(&mut events, &Action::Removed).await, [Action::Removed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_containers_with_the_label_are_seen() {
    let world = World::new().await;
    let other = World::new().await;
    let mut events = world.engine.events(EventMarker::now(), &world.label());
    other.run(&other.obedient("other")).await;
    let id = world.run(&world.obedient("mine")).await;
    let first = next(&mut events).await.expect("an event");
    assert_eq!(first.container, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_service_costs_no_container_and_no_event() {
    let world = World::new().await;
    let service = world.service.as_ref().expect("our own service");
    let mut status = service.status();
    let ServiceStatus::Running { pid } = status.borrow_and_update().clone() else {
        panic!("it runs: {:?}", service.status().borrow());
    };
    let mut events = world.engine.events(EventMarker::now(), &world.label());
    let kept = world.run(&world.obedient("kept")).await;
    let lost = world.run(&world.obedient("lost")).await;
    until(&mut events, &Action::Started).await;
    until(&mut events, &Action::Started).await;

    let before = world.engine.inspect(&kept).await.expect("looked up").expect("there");
    let victim = world.engine.inspect(&lost).await.expect("looked up").expect("there");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("killed");
    let victim = victim.state.incarnation().expect("it runs").pid.cast_signed();
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");

    let error = loop {
        match next(&mut events).await {
            Ok(event) => assert!(matches!(event.action, Action::Other(_)), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    assert!(events.next().await.is_none(), "the error is the last item");

    eventually("the service answers again", || async { world.engine.ping().await.ok() }).await;
    let now = status.borrow_and_update().clone();
    assert!(matches!(now, ServiceStatus::Running { pid: new } if new != pid), "{now:?}");
    let after = world.engine.inspect(&kept).await.expect("looked up").expect("there");
    assert_eq!(before.state, after.state, "the container did not notice");
    let mut events = world.engine.events(events.marker(), &world.label());
    let died = Action::Died { exit_code: Some(137) };
    assert_eq!(until(&mut events, &died).await, [died], "the death in the gap, and only that");
}
