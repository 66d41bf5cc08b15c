//! What goes wrong beside a workload: a ledger that takes nothing, a mount that is held, a host that
//! went down, a file that came back too soon. Each is mended by itself once its cause is gone.

use std::process::Command;
use std::time::Duration;

use belay_harness::{Ledger, Node, NodeOptions, until};
use belay_protocol::{DesiredState, ProblemCode, VolumeFate, WorkloadPhase};

const SOON: Duration = Duration::from_secs(90);

/// A workload `job` that runs `script`; `more` is added to its top level.
fn job(script: &str, more: &str) -> String {
    format!(
        "name = \"job\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n{more}\n\
         command = [\"/bin/sh\", \"-c\", \"{script}\"]\n\
         [volumes.data]\nsize = \"16M\"\nmount = \"/data\"\nthin = true\n\
         [ready]\ninterval = \"100ms\"\n"
    )
}

/// The only workload's container, killed behind belayd's back.
fn kill_container(node: &Node) {
    let filter = format!("label=io.belay.node={}", node.name());
    let listed = Command::new("/usr/bin/podman").args(["ps", "-q", "--filter", &filter]).output();
    let listed = String::from_utf8(listed.expect("podman runs").stdout).expect("ids are text");
    let killed = Command::new("/usr/bin/podman").args(["kill", listed.trim()]).output();
    assert!(killed.expect("podman runs").status.success(), "{listed:?}");
}

#[tokio::test]
async fn a_back_off_holds_while_the_ledger_takes_nothing_and_is_written_once_it_does() {
    let mut node = Node::start(NodeOptions::default()).await;
    // It crashes when it is told to.
    let script = "while [ ! -e /data/fail ]; do sleep 0.1; done; exit 3";
    node.client().deploy(&job(script, ""), node.directory()).await.expect("deploys");
    let data = node.volume("job", "data").await;
    let ledger = Ledger::of(&node);
    let held = ledger.hold();
    std::fs::write(data.join("fail"), "").expect("tells it to fail");
    // Each write waits for the lock until its time is over, so the back-off itself may be over when
    // it could be seen in the status.
    until("a back-off that is not written", SOON, || async {
        let log = node.log_text();
        let counted =
            log.contains("failure 2 in a row") && log.contains("cannot write to the ledger");
        if counted { Ok(()) } else { Err(format!("{:?}", node.client().workload("job").await)) }
    })
    .await;
    assert_eq!(ledger.record("job")["failures"], 0, "nothing of it could be written");
    drop(held);
    until("the back-off to be written", SOON, || async {
        let written = ledger.record("job")["failures"].as_u64().unwrap_or_default();
        if written >= 2 { Ok(()) } else { Err(format!("{written}")) }
    })
    .await;
    node.kill();
    node.launch().await;
    let after = until("the ladder to be remembered", SOON, || async {
        let found = node.client().workload("job").await?;
        found.back_off.clone().ok_or_else(|| format!("{found:?}"))
    })
    .await;
    assert!(after.failures >= 2, "{after:?}");
    node.end().await;
}

#[tokio::test]
async fn a_clock_that_was_years_ahead_holds_nothing_back() {
    let mut node = Node::start(NodeOptions::default()).await;
    let script = "while [ ! -e /data/fail ]; do sleep 0.1; done; rm /data/fail; exit 3";
    node.client().deploy(&job(script, ""), node.directory()).await.expect("deploys");
    std::fs::write(node.volume("job", "data").await.join("fail"), "").expect("tells it to fail");
    node.client().wait_for("job", WorkloadPhase::BackOff, SOON).await;
    node.kill();
    // What a belayd wrote whose clock was set right afterwards.
    Ledger::of(&node).change("job", |record| {
        record["failures"] = 9.into();
        record["next_try_at"] = "2120-01-01T00:00:00Z".into();
    });
    node.launch().await;
    node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}

#[tokio::test]
async fn nothing_is_stopped_while_the_ledger_cannot_take_the_intent() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let before = node.client().workload("job").await.expect("is there");
    let ledger = Ledger::of(&node);
    let held = ledger.hold();
    let refusals = [
        node.client().act("stop", "job").await,
        node.client().act("restart", "job").await,
        node.client().remove("job", VolumeFate::Delete).await,
        node.client().deploy(&job("exec sleep 99999", ""), node.directory()).await,
    ];
    for refused in refusals {
        let problem = refused.expect_err("cannot be written").problem();
        assert_eq!(problem.code, ProblemCode::Internal, "{problem:?}");
        assert!(problem.detail.contains("cannot write to the ledger"), "{problem:?}");
        assert!(problem.next.contains("nothing was changed"), "{problem:?}");
    }
    let after = node.client().workload("job").await.expect("is there");
    assert_eq!((after.desired, after.phase), (DesiredState::Running, WorkloadPhase::Ready));
    assert_eq!((after.container, after.generation), (before.container, before.generation));
    drop(held);
    node.client().act("stop", "job").await.expect("stops once it can be written");
    node.end().await;
}

#[tokio::test]
async fn an_end_that_came_with_the_host_is_no_crash() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = job("exec sleep 100000", "");
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    for (boot, failures) in [(Some("another-boot"), 0), (None, 1)] {
        node.kill();
        kill_container(&node);
        if let Some(boot) = boot {
            // As if the host had been booted since the container was started.
            Ledger::of(&node).change("job", |record| record["started_in_boot"] = boot.into());
        }
        node.launch().await;
        let found = node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
        assert_eq!(found.restarts, failures, "{boot:?}: {found:?}");
        let crashed = node.log_text().contains("job exited with 137");
        assert_eq!(crashed, failures > 0, "{boot:?}: {}", node.log_text());
    }
    node.end().await;
}

#[tokio::test]
async fn a_halt_outlives_belayd_and_refuses_a_deploy() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = belay_harness::sync_spec("consumer");
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    node.client().act("stop", "app").await.expect("stops");
    let halt = node.directory().join("state/workloads/app/sync/halt.json");
    std::fs::write(&halt, "{\"reason\": \"torn by the test\"}").expect("writes");
    node.client().act("start", "app").await.expect_err("it is halted");
    node.kill();
    node.launch().await;
    let found = node.client().wait_for("app", WorkloadPhase::Halted, SOON).await;
    assert_eq!(found.reason, "torn by the test");
    let deployed = node.client().deploy(&spec, node.directory()).await;
    assert_eq!(deployed.expect_err("is refused").problem().code, ProblemCode::Halted);
    // What can mend it is at work: its volumes are mounted and volume-sync looks for a record.
    node.volume("app", "data").await;
    until("volume-sync to look", SOON, || async {
        let found = node.client().workload("app").await?;
        match &found.sync {
            Some(sync) if sync.halted.is_some() && sync.stage != "waiting-for-volumes" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let provider = belay_harness::sync_spec("provider").replace("\"app\"", "\"source\"");
    node.client().deploy(&provider, node.directory()).await.expect("deploys");
    node.client().publish("source", &["/data"]).await.expect("publishes");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    assert!(!halt.exists(), "the apply mended it");
    node.end().await;
}

fn write_declared(node: &Node, spec: &str) {
    let spec = spec.replace("file:busybox.tar", "file:../busybox.tar");
    std::fs::write(node.directory().join("workloads.d/job.toml"), spec).expect("writes");
}

#[tokio::test]
async fn a_version_that_was_given_up_is_not_tried_again_after_a_restart() {
    let mut node = Node::start(NodeOptions::default()).await;
    write_declared(&node, &job("exec sleep 100000", ""));
    node.reload();
    node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
    write_declared(&node, &job("exit 4", ""));
    node.reload();
    until("the bad version to be given up", SOON, || async {
        let found = node.client().workload("job").await?;
        let back =
            found.phase == WorkloadPhase::Ready && node.log_text().contains("deploy given up");
        if back { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let given_up = || node.log_text().matches("deploy given up").count();
    assert_eq!(given_up(), 1);
    let before = node.client().workload("job").await.expect("is there");
    assert_eq!(before.generation, 1);
    node.kill();
    node.launch().await;
    until("the file to be read", SOON, || async {
        let known = node.log_text().contains("its file still has the spec that was given up");
        if known { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let after = node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
    assert_eq!((after.container, after.generation), (before.container, 1));
    assert_eq!(node.log_text().matches("deploy given up").count(), 1, "once and not again");
    // An edited file is another version, and is tried.
    write_declared(&node, &job("exec sleep 99999", ""));
    node.reload();
    until("the third version", SOON, || async {
        let found = node.client().workload("job").await?;
        let done = found.generation == 3 && found.phase == WorkloadPhase::Ready;
        if done { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_file_that_comes_back_during_the_removal_begins_anew_after_it() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = job("trap '' TERM; while :; do sleep 0.1; done", "").replace("\"0s\"", "\"3s\"");
    write_declared(&node, &spec);
    node.reload();
    let before = node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
    let kept = node.volume("job", "data").await.join("kept");
    std::fs::write(&kept, "still here").expect("writes");
    std::fs::remove_file(node.directory().join("workloads.d/job.toml")).expect("removes");
    node.reload();
    node.client().wait_for("job", WorkloadPhase::Removing, SOON).await;
    write_declared(&node, &spec);
    node.reload();
    let after = until("it to begin anew", SOON, || async {
        let found = node.client().workload("job").await?;
        let new = found.phase == WorkloadPhase::Ready && found.container != before.container;
        if new { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await;
    let ids = [&before, &after].map(|status| status.container.as_ref().map(|c| c.id.clone()));
    assert_ne!(ids[0], ids[1], "another container");
    let kept = node.volume("job", "data").await.join("kept");
    assert_eq!(std::fs::read_to_string(kept).expect("the volume is kept"), "still here");
    node.end().await;
}

#[tokio::test]
async fn a_step_that_fails_is_tried_again_until_it_works() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let data = node.volume("job", "data").await;
    let held = std::fs::File::create(data.join("held")).expect("can be opened");
    let client = node.client().clone();
    let stop = tokio::spawn(async move { client.act("stop", "job").await });
    let stuck = until("the release to fail", SOON, || async {
        let found = node.client().workload("job").await?;
        match &found.last_fault {
            Some(fault) if fault.code == "volume-unavailable" => Ok(found.clone()),
            other => Err(format!("{:?} {other:?}", found.phase)),
        }
    })
    .await;
    assert_eq!(stuck.phase, WorkloadPhase::Stopping, "it does not count as stopped");
    assert!(stuck.container.is_none(), "its container is gone already");
    assert!(!stop.is_finished(), "and whoever asked is not told otherwise");
    drop(held);
    stop.await.expect("ends").expect("stops once nothing holds the volume");
    node.client().wait_for("job", WorkloadPhase::Stopped, SOON).await;
    node.end().await;
}

/// A process in a control group of a container that Podman does not know, with a view of every
/// mount of its own, as Podman leaves one whose making was cut off.
struct Forgotten {
    process: std::process::Child,
    group: std::path::PathBuf,
}

impl Forgotten {
    fn start() -> Self {
        let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let mount = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/freezer" };
        let id = format!("{:064x}", std::process::id());
        let group = std::path::Path::new(mount).join(format!("libpod-{id}"));
        std::fs::create_dir(&group).expect("a control group");
        let process = Command::new("/usr/bin/unshare")
            .args(["--mount", "--propagation", "private", "/bin/sleep", "100000"])
            .spawn()
            .expect("unshare runs");
        std::fs::write(group.join("cgroup.procs"), process.id().to_string()).expect("moved");
        Self { process, group }
    }
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir(&self.group);
    }
}

#[tokio::test]
async fn a_process_of_a_container_that_podman_forgot_does_not_hold_a_volume_for_ever() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let mut forgotten = Forgotten::start();
    let pid = forgotten.process.id();
    // Only once it is what it was started for does it have a view that no unmount reaches.
    until("it to have a view of its own", SOON, || {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        std::future::ready(if comm.trim() == "sleep" { Ok(()) } else { Err(comm) })
    })
    .await;
    node.client().act("stop", "job").await.expect("stops");
    node.client().wait_for("job", WorkloadPhase::Stopped, SOON).await;
    let ended = forgotten.process.try_wait().expect("it is ours");
    assert!(ended.is_some(), "it was killed");
    let log = node.log_text();
    assert!(log.contains("its container is gone from the engine, and it is killed"), "{log}");
    drop(forgotten);
    node.end().await;
}

#[tokio::test]
async fn volume_sync_that_could_not_begin_begins_later() {
    let node = Node::start(NodeOptions::default()).await;
    let sync = node.directory().join("state/workloads/app/sync");
    std::fs::create_dir_all(&sync).expect("makes");
    // A file where its directory of archives should be.
    std::fs::write(sync.join("spool"), "in the way").expect("writes");
    let spec = belay_harness::sync_spec("provider");
    node.client().deploy(&spec, node.directory()).await.expect("the workload runs without it");
    let refused = node.client().publish("app", &["/data"]).await.expect_err("cannot yet").problem();
    assert_eq!(refused.code, ProblemCode::Busy, "{refused:?}");
    assert!(refused.detail.contains("volume-sync of app has not begun"), "{refused:?}");
    assert!(node.log_text().contains("volume-sync of app did not begin"));
    std::fs::remove_file(sync.join("spool")).expect("removes");
    until("volume-sync to begin", SOON, || async {
        let found = node.client().workload("app").await?;
        if found.sync.is_some() { Ok(()) } else { Err(format!("{:?}", found.last_fault)) }
    })
    .await;
    node.client().publish("app", &["/data"]).await.expect("publishes");
    node.end().await;
}

/// Runs podman as an operator would.
fn podman(arguments: &[&str]) -> String {
    let output = Command::new("/usr/bin/podman").args(arguments).output().expect("podman runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "podman {arguments:?}: {words}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A container that is none of belayd's, removed in any case.
struct Foreign(String);

impl Foreign {
    fn create(name: &str, image: &str, labels: &[String]) -> Self {
        let mut arguments = vec!["create", "--name", name];
        for label in labels {
            arguments.extend(["--label", label]);
        }
        arguments.extend([image, "/bin/sleep", "100000"]);
        Self(podman(&arguments))
    }

    fn state(&self) -> String {
        podman(&["inspect", "--format", "{{.Id}} {{.State.Status}} {{.State.Pid}}", &self.0])
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = Command::new("/usr/bin/podman").args(["rm", "-f", "-t", "0", &self.0]).output();
    }
}

fn image_of(node: &Node) -> String {
    let filter = format!("label=io.belay.node={}", node.name());
    let id = podman(&["ps", "-aq", "--filter", &filter]);
    podman(&["inspect", "--format", "{{.Image}}", id.lines().next().expect("a container")])
}

#[tokio::test]
async fn a_name_that_somebody_elses_container_has_is_refused_with_its_owner() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let foreign = Foreign::create(&format!("belay-{}-web-1", node.name()), &image_of(&node), &[]);
    let before = foreign.state();
    let spec = job("exec sleep 100000", "").replace("\"job\"", "\"web\"");
    let problem =
        node.client().deploy(&spec, node.directory()).await.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::StartFailed, "{problem:?}");
    let short = &foreign.0[..12];
    let owner = format!("is held by container {short}, which is not belayd's");
    assert!(problem.detail.contains(&owner), "{problem:?}");
    assert!(problem.next.contains(&format!("podman rm {short}")), "{problem:?}");
    assert_eq!(foreign.state(), before, "it is not touched");
    drop(foreign);
    node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}

#[tokio::test]
async fn a_container_of_another_installation_is_left_alone() {
    let mut node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let labels = [
        format!("io.belay.node={}-other", node.name()),
        "io.belay.instance=11111111-2222-3333-4444-555555555555".to_owned(),
        "io.belay.workload=job".to_owned(),
        "io.belay.generation=9".to_owned(),
    ];
    let foreign = Foreign::create(&format!("{}-foreign", node.name()), &image_of(&node), &labels);
    podman(&["start", &foreign.0]);
    let before =
        (foreign.state(), node.client().workload("job").await.expect("is there").container);
    node.kill();
    node.launch().await;
    let found = node.client().wait_for("job", WorkloadPhase::Ready, SOON).await;
    assert_eq!((foreign.state(), found.container), before);
    node.client().act("restart", "job").await.expect("restarts");
    node.client().act("stop", "job").await.expect("stops");
    assert_eq!(foreign.state(), before.0);
    node.end().await;
}

#[tokio::test]
async fn what_is_ours_dead_and_without_a_record_is_swept_after_its_grace() {
    let config = "[engine]\norphan_grace = \"2s\"\n".to_owned();
    let node = Node::start(NodeOptions { config, ..NodeOptions::default() }).await;
    node.client().deploy(&job("exec sleep 100000", ""), node.directory()).await.expect("deploys");
    let instance = std::fs::read_to_string(node.directory().join("state/instance-id"));
    let mine = |workload: &str| {
        vec![
            format!("io.belay.node={}", node.name()),
            format!("io.belay.instance={}", instance.as_ref().expect("an id").trim()),
            format!("io.belay.workload={workload}"),
            "io.belay.generation=1".to_owned(),
        ]
    };
    // One that a call made which was given up on, one of them running, one that has a record.
    let image = image_of(&node);
    let dead = Foreign::create(&format!("{}-dead", node.name()), &image, &mine("gone"));
    let alive = Foreign::create(&format!("{}-alive", node.name()), &image, &mine("gone-too"));
    podman(&["start", &alive.0]);
    let before = (alive.state(), node.client().workload("job").await.expect("is there").container);
    until("the dead one to be swept", SOON, || async {
        let exists =
            Command::new("/usr/bin/podman").args(["container", "exists", &dead.0]).status();
        match exists.map(|status| status.code()) {
            Ok(Some(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // It was made after the dead one, and its grace ends later.
    until("the one that runs to be told of", SOON, || async {
        let log = node.log_text();
        let told = ["is removed", "runs; it is left alone"]
            .map(|what| log.contains(&format!("belongs to no workload and {what}")));
        if told == [true, true] { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    let found = node.client().workload("job").await.expect("is there");
    assert_eq!((alive.state(), found.container), before, "nothing else is touched");
    drop(alive);
    node.end().await;
}
