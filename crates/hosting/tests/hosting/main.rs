//! Runners in real containers of a real Podman. The checkpoints need CRIU.

mod snapshots;
mod world;

use std::time::Duration;

use belay_engine::{ContainerState, labels};
use belay_lifecycle::core::template::Standing;
use belay_runner::{Exit, HostEvent, HostOrder, MemoryFate, RunnerSource, SnapshotOutcome};

use world::{DEADLINE, World, runner, ticket, workload};

/// Counts aloud, and would begin at 1 again if it were started afresh.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// How the runner of this event ended.
fn exited(event: &HostEvent) -> Exit {
    let HostEvent::Exited { exit, .. } = event else { panic!("{event:?}") };
    *exit
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_is_started_with_its_token_and_stopped_with_its_log_kept() {
    let world = World::new().await;
    world.declare(
        "echo token: $BELAY_RUNNER_TOKEN at $BELAY_RUNNER_URL; exec sleep 1000",
        Standing::Taking,
    );
    let mut running = world.host().await;
    assert_eq!(running.found.hosted, []);
    running.start(&world, "r1").await;
    let found = world.container("r1").await.expect("is there");
    assert_eq!(found.limits.memory, Some(64 << 20));
    let ordinary = [format!("{}={}", labels::INSTANCE, world.name)];
    assert_eq!(world.engine.list(&ordinary).await.expect("lists"), [], "it is no workload's");
    let policy = belay_harness::until("the workload to be declared", DEADLINE, || async {
        let policies = running.served.policies.lock().expect("whole");
        policies.get(&workload()).copied().ok_or_else(|| format!("{policies:?}"))
    });
    let policy = policy.await;
    assert_eq!((policy.max_concurrent, policy.snapshot_delay), (4, Duration::from_secs(30)));
    assert_eq!(policy.runners, RunnerSource::Hosted { memory: 64 << 20 });

    // The order a second time changes nothing; the container is the same.
    running.start(&world, "r1").await;
    assert_eq!(world.container("r1").await.expect("is there").id, found.id);
    running.order(HostOrder::StopRunner { runner: runner("r1") }).await;
    assert_eq!(exited(&running.event().await).code, Some(137), "it had no grace");
    assert_eq!(world.container("r1").await, None);
    running.order(HostOrder::StopRunner { runner: runner("r1") }).await;
    assert_eq!(exited(&running.event().await), Exit::default(), "there was none");
    assert_eq!(*running.served.revoked.lock().expect("whole"), [runner("r1")]);

    let logs = world.dir.path().join("workloads").join("work").join("logs");
    let names: Vec<_> = std::fs::read_dir(&logs).expect("is there").flatten().collect();
    assert_eq!(names.len(), 1);
    let text = std::fs::read_to_string(names[0].path()).expect("reads");
    assert!(text.contains("token: token-of-r1 at ws://bridge"), "{text}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_at_once_with_its_code() {
    let world = World::new().await;
    world.declare("sleep 1; exit 3", Standing::Taking);
    let mut running = world.host().await;
    let began = std::time::Instant::now();
    running.start(&world, "r1").await;
    assert_eq!(exited(&running.event().await).code, Some(3));
    assert!(began.elapsed() < Duration::from_secs(25), "an event told it, not the next list");
    assert_eq!(world.container("r1").await, None);
    let tally = *running.handle.tally.borrow();
    assert_eq!((tally.started, tally.ended, tally.out_of_memory), (1, 1, 0));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_memory_is_told_apart() {
    let world = World::new().await;
    // The shell doubles a text until it does not fit 64 MiB.
    world.declare("x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", Standing::Taking);
    let mut running = world.host().await;
    running.order(HostOrder::StartRunner { runner: runner("r1"), workload: workload() }).await;
    let exit = exited(&running.event().await);
    assert_eq!(exit, Exit { code: Some(137), memory: MemoryFate::Killed });
    assert_eq!(running.handle.tally.borrow().out_of_memory, 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_cannot_be_started_is_told_with_the_reason_and_leaves_nothing() {
    let world = World::new().await;
    let mut running = world.host().await;
    running.order(HostOrder::StartRunner { runner: runner("r1"), workload: workload() }).await;
    let HostEvent::StartFailed { reason, .. } = running.event().await else { panic!("no failure") };
    assert_eq!(reason, "work takes no runs now");

    world.declare("true", Standing::Taking);
    let mut spec =
        belay_engine::ContainerSpec::new(format!("belay-{}-r2", world.name), &world.image.id);
    spec.command = Some(vec!["/bin/true".into()]);
    spec.labels.insert("io.belay.host".into(), "somebody".into());
    let theirs = world.engine.create(&spec).await.expect("made");
    running.order(HostOrder::StartRunner { runner: runner("r2"), workload: workload() }).await;
    let HostEvent::StartFailed { reason, .. } = running.event().await else { panic!("no failure") };
    assert!(reason.contains("did not make has its name"), "{reason}");
    world.engine.remove(&theirs, belay_engine::Removal::Stopped).await.expect("is still there");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_workload_ends_its_runners_and_a_removed_one_all_that_is_left() {
    let world = World::new().await;
    world.declare(COUNTER, Standing::Taking);
    let mut running = world.host().await;
    running.start(&world, "r1").await;
    running.start(&world, "r2").await;
    running.order(HostOrder::TakeSnapshot(ticket("r2"))).await;
    let taken = running.event().await;
    assert!(
        matches!(&taken, HostEvent::Snapshot { outcome: SnapshotOutcome::Taken(_), .. }),
        "{taken:?}"
    );
    world.declare(COUNTER, Standing::Stopped);
    let HostEvent::Exited { runner: ended, .. } = running.event().await else { panic!("no exit") };
    assert_eq!(ended, runner("r1"));
    assert!(running.handle.store.get(&runner("r2")).is_some(), "what is on the disk stays");
    assert!(world.container("r2").await.is_some());
    world.declare(COUNTER, Standing::Removed);
    let HostEvent::Exited { runner: ended, .. } = running.event().await else { panic!("no exit") };
    assert_eq!(ended, runner("r2"));
    assert_eq!(world.container("r2").await, None);
    assert_eq!(running.handle.store.all(), []);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_no_belayd_ran_is_found_with_its_code() {
    let world = World::new().await;
    world.declare("sleep 2; exit 9", Standing::Taking);
    let running = world.host().await;
    running.start(&world, "r1").await;
    running.drop_dead();
    belay_harness::until("the runner to end", DEADLINE, || async {
        match world.container("r1").await.map(|found| found.state) {
            Some(ContainerState::Exited { .. }) => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    let mut spec =
        belay_engine::ContainerSpec::new(format!("belay-{}-r2", world.name), &world.image.id);
    spec.command = Some(vec!["/bin/true".into()]);
    let labels = [
        ("io.belay.host", world.name.as_str()),
        ("io.belay.runner", "r2"),
        ("io.belay.runner-of", "work"),
        ("io.belay.generation", "1"),
    ];
    spec.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    world.engine.create(&spec).await.expect("made, and never started");
    let mut running = world.host().await;
    let hosted: Vec<_> = running.found.hosted.iter().map(|found| found.runner.clone()).collect();
    assert_eq!(hosted, [runner("r1")], "the one that was never started is gone");
    assert_eq!(exited(&running.event().await).code, Some(9));
    assert_eq!(world.container("r2").await, None);
    running.end().await;
}
