//! To the disk and back.

use std::path::PathBuf;

use belay_engine::{ContainerState, Liveness};
use belay_hosting::Keeping;
use belay_hosting::core::checkpoint::Bounds;
use belay_lifecycle::core::template::Standing;
use belay_runner::{Exit, HostEvent, HostOrder, Means, SnapshotOutcome};

use crate::COUNTER;
use crate::world::{Running, World, runner, ticket};

/// What became of a snapshot.
fn outcome(event: HostEvent) -> SnapshotOutcome {
    let HostEvent::Snapshot { outcome, .. } = event else { panic!("{event:?}") };
    outcome
}

const CHECKPOINTED: SnapshotOutcome = SnapshotOutcome::Taken(Means::Checkpoint);

/// A world with a runner that counts, and how far it had come.
async fn counting(world: &World) -> (Running, u32) {
    world.declare(COUNTER, Standing::Taking);
    let running = world.host().await;
    running.start(world, "r1").await;
    let count = world.counts_past("r1", 3).await;
    (running, count)
}

fn process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_goes_to_the_disk_and_comes_back_where_it_stood() {
    let world = World::new().await;
    let (mut running, _) = counting(&world).await;
    let pid = world.pid("r1").await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    assert!(!process(pid).exists(), "its memory is free");
    let stood = world.count("r1").await;
    let record = running.handle.store.get(&runner("r1")).expect("it is in the books");
    assert!(record.bytes > 0 && record.digest.len() == 64, "{record:?}");
    assert_eq!((record.run, record.workload.as_str()), (ticket("r1").run, "work"));
    assert_eq!(record.image, world.image.id);
    assert!(record.versions.criu.is_some() && !record.versions.kernel.is_empty(), "{record:?}");
    let tally = *running.handle.tally.borrow();
    assert!(tally.frozen.longest_ms <= tally.checkpointed.longest_ms, "{tally:?}");
    assert_eq!((tally.checkpointed.count, tally.checkpoint_bytes), (1, record.bytes));
    assert_eq!(*running.handle.keeping.borrow(), Keeping::Checkpoint);

    running.order(HostOrder::Restore(ticket("r1"))).await;
    let went_on = world.counts_past("r1", stood).await;
    assert!(went_on > stood);
    assert_eq!(running.handle.store.all(), []);
    // Orders a second time.
    running.order(HostOrder::Restore(ticket("r1"))).await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    running.order(HostOrder::FindSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    for _ in 0..2 {
        running.order(HostOrder::PutBack(ticket("r1"))).await;
        assert_eq!(running.event().await, HostEvent::Settled { ticket: ticket("r1") });
    }
    world.counts_past("r1", went_on).await;
    for _ in 0..2 {
        running.order(HostOrder::Drop(ticket("r1"))).await;
        assert_eq!(running.event().await, HostEvent::Settled { ticket: ticket("r1") });
    }
    assert_eq!(world.container("r1").await, None);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_for_one_runner_are_obeyed_in_their_order() {
    let world = World::new().await;
    let (mut running, _) = counting(&world).await;
    for _ in 0..2 {
        running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
        running.order(HostOrder::PutBack(ticket("r1"))).await;
    }
    for _ in 0..2 {
        assert_eq!(outcome(running.event().await), CHECKPOINTED);
        assert_eq!(running.event().await, HostEvent::Settled { ticket: ticket("r1") });
    }
    // A stop does not wait for a snapshot that has not begun.
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    running.order(HostOrder::StopRunner { runner: runner("r1") }).await;
    outcome(running.event().await);
    assert!(matches!(running.event().await, HostEvent::Exited { .. }));
    assert_eq!((world.container("r1").await, running.handle.store.all()), (None, Vec::new()));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_waits_is_aborted_and_the_runner_runs_on() {
    let world = World::new().await;
    let (mut running, count) = counting(&world).await;
    running.order(HostOrder::PutBack(ticket("r1"))).await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    running.order(HostOrder::AbortSnapshot(ticket("r1"))).await;
    let (mut settled, mut ended) = (0, None);
    while settled == 0 || ended.is_none() {
        match running.event().await {
            HostEvent::Settled { .. } => settled += 1,
            HostEvent::Snapshot { outcome, .. } => ended = Some(outcome),
            other => panic!("{other:?}"),
        }
    }
    match ended.expect("it has an end") {
        SnapshotOutcome::NotTaken { reason } => assert!(reason.contains("aborted"), "{reason}"),
        // It had begun: then the hub has it put back.
        SnapshotOutcome::Taken(_) => {
            running.order(HostOrder::PutBack(ticket("r1"))).await;
            running.event().await;
        }
    }
    world.counts_past("r1", count).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_leaves_the_runner_in_memory_and_says_so() {
    let mut world = World::new().await;
    world.bounds = Bounds { bytes: 1, ..Bounds::default() };
    let (mut running, count) = counting(&world).await;
    let before = world.pid("r1").await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    let SnapshotOutcome::NotTaken { reason } = outcome(running.event().await) else {
        panic!("there was no room")
    };
    assert!(reason.contains("the checkpoint store is full"), "{reason}");
    assert_eq!(world.pid("r1").await, before, "it was not touched");
    world.counts_past("r1", count).await;
    assert_eq!(running.handle.tally.borrow().snapshot_failures, 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_belayd_finds_what_is_on_the_disk() {
    let world = World::new().await;
    let (mut running, _) = counting(&world).await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    let stood = world.count("r1").await;
    running.drop_dead();
    let mut running = world.host().await;
    assert_eq!(running.found.hosted.len(), 1);
    assert!(running.handle.store.get(&runner("r1")).is_some());
    running.order(HostOrder::FindSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    running.order(HostOrder::Restore(ticket("r1"))).await;
    world.counts_past("r1", stood).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_in_the_middle_of_a_checkpoint_leaves_one_or_none() {
    let world = World::new().await;
    world.declare(COUNTER, Standing::Taking);
    let mut running = world.host().await;
    running.start(&world, "r1").await;
    let mut count = world.counts_past("r1", 3).await;
    for delay in [0, 20, 100, 250, 500] {
        running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
        // The moment of the death is what is tried out.
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        running.drop_dead();
        running = world.host().await;
        running.order(HostOrder::FindSnapshot(ticket("r1"))).await;
        let found = outcome(running.event().await);
        let alive = world.container("r1").await.expect("is there").state.liveness();
        match &found {
            SnapshotOutcome::Taken(_) => {
                assert_eq!(alive, Liveness::Stopped);
                running.order(HostOrder::Restore(ticket("r1"))).await;
            }
            SnapshotOutcome::NotTaken { .. } => assert_eq!(alive, Liveness::Running, "{found:?}"),
        }
        count = world.counts_past("r1", count).await;
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_of_the_host_damage_is_seen_before_a_restore() {
    let mut world = World::new().await;
    let (mut running, _) = counting(&world).await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    running.end().await;
    let id = world.container("r1").await.expect("is there").id;
    let image = world.engine.checkpoint_image(&id).await.expect("asked").expect("is there");
    let pages = image.join("pages-1.img");
    let whole = std::fs::read(&pages).expect("reads");
    let mut torn = whole.clone();
    let half = torn.len() / 2;
    torn[half..].fill(0);
    std::fs::write(&pages, &torn).expect("writes");

    world.boot_id = "boot-2".into();
    let mut running = world.host().await;
    running.order(HostOrder::Restore(ticket("r1"))).await;
    let HostEvent::RestoreFailed { reason, .. } = running.event().await else {
        panic!("it is damaged")
    };
    assert_eq!(reason, "its files are not those that were written");
    assert_eq!(running.handle.tally.borrow().restore_failures, 1);
    let found = world.container("r1").await.expect("is there");
    assert_eq!(found.state.liveness(), Liveness::Stopped, "it was not begun afresh");

    std::fs::write(&pages, &whole).expect("writes");
    let stood = world.count("r1").await;
    running.order(HostOrder::Restore(ticket("r1"))).await;
    world.counts_past("r1", stood).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removed_is_told_and_not_restored() {
    let world = World::new().await;
    let (mut running, _) = counting(&world).await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    assert_eq!(outcome(running.event().await), CHECKPOINTED);
    let id = world.container("r1").await.expect("is there").id;
    world.engine.remove(&id, belay_engine::Removal::Stopped).await.expect("removed");
    running.order(HostOrder::Restore(ticket("r1"))).await;
    let (mut exits, mut failures) = (0, 0);
    while failures == 0 {
        match running.event().await {
            HostEvent::Exited { exit, .. } => {
                assert_eq!(exit, Exit::default());
                exits += 1;
            }
            HostEvent::RestoreFailed { reason, .. } => {
                assert_eq!(reason, "its container is gone");
                failures += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(exits <= 1, "the look after the event may have told it first");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_before_its_snapshot_has_its_exit_told_first() {
    let world = World::new().await;
    world.declare("sleep 1; exit 4", Standing::Taking);
    let mut running = world.host().await;
    running.start(&world, "r1").await;
    belay_harness::until("the runner to end", crate::world::DEADLINE, || async {
        match world.container("r1").await.map(|found| found.state) {
            None | Some(ContainerState::Exited { .. }) => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    running.order(HostOrder::TakeSnapshot(ticket("r1"))).await;
    let HostEvent::Exited { exit, .. } = running.event().await else { panic!("no exit") };
    assert_eq!(exit.code, Some(4));
    loop {
        match running.event().await {
            HostEvent::Exited { .. } => {}
            HostEvent::Snapshot { outcome, .. } => {
                assert!(matches!(outcome, SnapshotOutcome::NotTaken { .. }), "{outcome:?}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    running.end().await;
}
