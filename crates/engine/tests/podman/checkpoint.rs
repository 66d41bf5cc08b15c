//! Containers to disk and back. These need CRIU.

use std::fs::File;
use std::time::Duration;

use belay_engine::{
    CheckpointError, ContainerState, EngineError, ExecSpec, Liveness, LogOptions, Removal,
};
use futures_util::StreamExt;

use crate::world::{World, eventually, proc_path};

/// Counts aloud, and would begin at 1 again if it were started afresh.
const COUNTER: &[&str] =
    &["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"];

async fn count(world: &World, container: &str) -> u32 {
    let options = LogOptions { follow: false, tail: Some(1), since: None };
    let lines: Vec<_> = world.engine.logs(container, &options).collect().await;
    let last = lines.into_iter().filter_map(Result::ok).next_back();
    last.and_then(|line| line.text().trim().parse().ok()).unwrap_or(0)
}

async fn counts_past(world: &World, container: &str, least: u32) -> u32 {
    eventually("the counter goes on", || async {
        let found = count(world, container).await;
        (found > least).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_container_has_no_process_and_goes_on_where_it_stood() {
    let world = World::new().await;
    let engine = &world.engine;
    let spec = world.spec("counter", COUNTER);
    let id = world.run(&spec).await;
    counts_past(&world, &spec.name, 5).await;
    let pid = engine.inspect(&id).await.expect("looked up").expect("there").state.incarnation();
    let pid = pid.expect("it runs").pid;
    assert_eq!(engine.is_suspended(&id).await.expect("asked"), Some(false));

    let report = engine.checkpoint(&id).await.expect("suspended");
    assert!(report.frozen > Duration::ZERO && report.frozen < report.total, "{report:?}");
    assert!(report.pages_written > 0, "{report:?}");
    assert!(!proc_path(pid).exists(), "its memory is free");
    let suspended = engine.inspect(&id).await.expect("looked up").expect("there");
    assert_eq!(suspended.state.liveness(), Liveness::Stopped);
    assert_eq!(engine.is_suspended(&id).await.expect("asked"), Some(true));
    let stood = count(&world, &spec.name).await;
    let again = engine.checkpoint(&id).await.expect_err("it does not run");
    assert!(matches!(again, CheckpointError::Engine(EngineError::Conflict { .. })), "{again:?}");

    let report = engine.restore(&id).await.expect("restored");
    assert!(report.pages_restored > 0 && report.restoring > Duration::ZERO, "{report:?}");
    let went_on = counts_past(&world, &spec.name, stood).await;
    assert!(went_on > stood, "it goes on from {stood}, and says {went_on}");
    assert_eq!(engine.is_suspended(&id).await.expect("asked"), Some(false));
    let again = engine.restore(&id).await.expect_err("it runs");
    assert!(matches!(again, CheckpointError::Engine(EngineError::Conflict { .. })), "{again:?}");

    assert_eq!(engine.is_suspended(world.named("absent")).await.expect("asked"), None);
    let absent = engine.checkpoint(world.named("absent")).await.expect_err("absent");
    assert!(matches!(absent, CheckpointError::Engine(EngineError::Absent { .. })), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_checkpoint_comes_back_under_another_name() {
    let world = World::new().await;
    let engine = &world.engine;
    let spec = world.spec("origin", COUNTER);
    let id = world.run(&spec).await;
    counts_past(&world, &spec.name, 5).await;
    let path = world.dir.path().join("checkpoint.tar");
    let file = File::create_new(&path).expect("a new file");
    let size = engine.export_checkpoint(&id, file).await.expect("exported");
    assert_eq!(std::fs::metadata(&path).expect("is there").len(), size);
    let stood = count(&world, &spec.name).await;

    let taken = engine.import_checkpoint(&path, &spec.name).await.expect_err("the name is taken");
    assert!(matches!(taken, CheckpointError::Engine(EngineError::Conflict { .. })), "{taken:?}");
    engine.remove(&id, Removal::Stopped).await.expect("removed");
    let other = world.named("other");
    let (copy, _report) = engine.import_checkpoint(&path, &other).await.expect("restored");
    assert_ne!(copy, id);
    counts_past(&world, &other, stood).await;
    let found = engine.inspect(&copy).await.expect("looked up").expect("there");
    assert_eq!(found.labels, spec.labels, "it is found by the same labels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_archive_is_refused_and_leaves_no_container() {
    let world = World::new().await;
    let engine = &world.engine;
    let spec = world.spec("origin", COUNTER);
    let id = world.run(&spec).await;
    counts_past(&world, &spec.name, 2).await;
    let path = world.dir.path().join("checkpoint.tar");
    let file = File::create_new(&path).expect("a new file");
    engine.export_checkpoint(&id, file).await.expect("exported");
    engine.remove(&id, Removal::Stopped).await.expect("removed");

    // The memory is damaged, not the tar around it.
    let mut bytes = std::fs::read(&path).expect("reads");
    let core = bytes.windows(17).position(|it| it == b"checkpoint/core-1").expect("a core image");
    bytes[core + 512..core + 1024].fill(0xff);
    let damaged = world.dir.path().join("damaged.tar");
    std::fs::write(&damaged, bytes).expect("writes");
    let name = world.named("copy");
    let refused = engine.import_checkpoint(&damaged, &name).await.expect_err("it is damaged");
    assert!(!matches!(refused, CheckpointError::Archive { .. }), "{refused:?}");
    assert_eq!(engine.inspect(&name).await.expect("looked up"), None, "after {refused}");

    std::fs::write(&damaged, "nonsense").expect("writes");
    engine.import_checkpoint(&damaged, &name).await.expect_err("no archive");
    assert_eq!(engine.inspect(&name).await.expect("looked up"), None);
    let absent = world.dir.path().join("absent.tar");
    let refused = engine.import_checkpoint(&absent, &name).await.expect_err("no file");
    assert!(matches!(refused, CheckpointError::Archive { .. }), "{refused:?}");

    engine.import_checkpoint(&path, &name).await.expect("the whole one still comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_is_named_and_the_container_runs_on() {
    let world = World::new().await;
    let engine = &world.engine;
    // A deleted file that is still open has to go into the image; there is a limit for that.
    let script = "exec 3<>/tmp/big; dd if=/dev/zero of=/tmp/big bs=1M count=80 2>/dev/null; \
                  rm /tmp/big; echo ready; while :; do sleep 0.05; done";
    let spec = world.spec("ghost", &["/bin/sh", "-c", script]);
    let id = world.run(&spec).await;
    eventually("the file is deleted", || async {
        let options = LogOptions { follow: false, tail: None, since: None };
        let lines: Vec<_> = engine.logs(&id, &options).collect().await;
        lines.into_iter().any(|line| line.is_ok_and(|it| it.text() == "ready")).then_some(())
    })
    .await;
    let before = engine.inspect(&id).await.expect("looked up").expect("there");
    let refused = engine.checkpoint(&id).await.expect_err("it cannot be carried");
    let CheckpointError::Refused { reason, .. } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("ghost file"), "{reason}");
    assert!(refused.is_outcome_known() && refused.is_retryable());
    let after = engine.inspect(&id).await.expect("looked up").expect("there");
    assert_eq!(after.state, before.state, "it runs on");
    assert_eq!(engine.is_suspended(&id).await.expect("asked"), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_closed_and_do_not_stand_in_the_way() {
    let world = World::new().await;
    let engine = &world.engine;
    // An open FIFO keeps both ends quiet and open.
    let script = "mkfifo /tmp/quiet; nc -l -p 9000 <>/tmp/quiet >/dev/null & sleep 0.3; \
                  nc 127.0.0.1 9000 <>/tmp/quiet >/dev/null; echo closed; \
                  while :; do sleep 0.05; done";
    let spec = world.spec("tcp", &["/bin/sh", "-c", script]);
    let id = world.run(&spec).await;
    let connected = ExecSpec::new(["/bin/grep", "-q", ":2328 01 ", "/proc/net/tcp"]);
    eventually("the connection is open", || async {
        let looked = engine.exec(&id, &connected).await.ok()?;
        (looked.exit_code == 0).then_some(())
    })
    .await;
    engine.checkpoint(&id).await.expect("suspended with an open connection");
    engine.restore(&id).await.expect("restored");
    eventually("the process sees its connection closed", || async {
        let options = LogOptions { follow: false, tail: None, since: None };
        let lines: Vec<_> = engine.logs(&id, &options).collect().await;
        lines.into_iter().any(|line| line.is_ok_and(|it| it.text() == "closed")).then_some(())
    })
    .await;
    let found = engine.inspect(&id).await.expect("looked up").expect("there");
    assert!(matches!(found.state, ContainerState::Running { .. }), "{:?}", found.state);
}
