//! Deploy, stop, restart, failure and re-attach, with a real belayd and real containers.

use std::time::Duration;

use belay_harness::{Leavings, Node, NodeOptions, binary, free_port, until, web_spec};
use belay_protocol::{DesiredState, EventDetails, ProblemCode, VolumeFate, WorkloadPhase};

const SOON: Duration = Duration::from_secs(60);

async fn fetch(port: u16) -> Result<String, String> {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client
        .get(format!("http://127.0.0.1:{port}/index.html"))
        .timeout(Duration::from_secs(2))
        .send()
        .await
        .map_err(|error| error.to_string())?;
    Ok(answer.text().await.map_err(|error| error.to_string())?.trim().to_owned())
}

#[tokio::test]
async fn a_deployed_workload_serves_and_a_stop_leaves_nothing_behind() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let outcome =
        node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    assert_eq!(outcome.summary, "web is deployed and ready");
    assert_eq!(fetch(port).await.as_deref(), Ok("one"));
    let status = node.client().workload("web").await.expect("is there");
    assert_eq!(status.phase, WorkloadPhase::Ready);

    node.client().act("stop", "web").await.expect("stops");
    let left = Leavings::find(node.name(), node.directory());
    assert!(
        left.containers.is_empty() && left.mounts.is_empty() && left.loops.is_empty(),
        "{left:?}"
    );
    let status = node.client().workload("web").await.expect("is still known");
    assert_eq!((status.phase, status.desired), (WorkloadPhase::Stopped, DesiredState::Stopped));

    node.client().act("start", "web").await.expect("starts");
    assert_eq!(fetch(port).await.as_deref(), Ok("one"));
    let data = node.volume("web", "data").await;
    let starts = std::fs::read_to_string(data.join("starts")).expect("the volume kept it");
    assert_eq!(starts.lines().count(), 2);
    node.end().await;
}

#[tokio::test]
async fn a_deploy_that_does_not_become_ready_restores_the_version_before() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "good"), node.directory()).await.expect("deploys");
    let bad = web_spec(port, "bad")
        .replace("/index.html\" }", "/absent\" }")
        .replace("interval", "timeout = \"3s\"\ninterval");
    let problem = node.client().deploy(&bad, node.directory()).await.expect_err("fails").problem();
    assert_eq!(problem.code, ProblemCode::NotReady, "{problem:?}");
    assert!(problem.detail.contains("last seen: HTTP 404"), "{}", problem.detail);
    assert!(
        problem.detail.ends_with("generation 1 was restored and is ready"),
        "{}",
        problem.detail
    );
    assert_eq!(fetch(port).await.as_deref(), Ok("good"));
    let status = node.client().workload("web").await.expect("is there");
    assert_eq!(status.generation, 1);

    let next = node.client().deploy(&web_spec(port, "better"), node.directory()).await;
    next.expect("a good one deploys");
    assert_eq!(fetch(port).await.as_deref(), Ok("better"));
    until("the version before to be gone", SOON, || async {
        let left = Leavings::find(node.name(), node.directory()).containers;
        if left.len() == 1 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    node.end().await;
}

/// [`web_spec`] with a process that ends with 7 as soon as there is a file `ill` in its volume.
fn ailing_spec(port: u16, text: &str) -> String {
    let ails = "httpd -p 8080 -h /tmp; while [ ! -e /data/ill ]; do sleep 0.1; done; exit 7";
    web_spec(port, text).replace("exec httpd -f -p 8080 -h /tmp", ails)
}

#[tokio::test]
async fn a_version_that_fails_again_and_again_soon_after_it_was_ready_gives_way_once() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "good"), node.directory()).await.expect("deploys");
    node.client().deploy(&ailing_spec(port, "bad"), node.directory()).await.expect("is ready");
    assert_eq!(fetch(port).await.as_deref(), Ok("bad"));

    // The watch outlives belayd.
    node.kill();
    node.launch().await;
    node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    std::fs::write(node.volume("web", "data").await.join("ill"), "").expect("makes it ill");
    until("the version before to serve again", SOON, || async {
        let found = node.client().workload("web").await?;
        let back = found.generation == 1 && found.phase == WorkloadPhase::Ready;
        if back { Ok(()) } else { Err(format!("{}: {}", found.generation, found.reason)) }
    })
    .await;
    assert_eq!(fetch(port).await.as_deref(), Ok("good"));
    let told = node.client().events("kind=deploy-rolled-back&last=10").await.expect("answers");
    let [event] = &told.events[..] else { panic!("{told:?}") };
    let EventDetails::DeployRolledBack { generation: 2, restored: 1, cause } = &event.details
    else {
        panic!("{event:?}")
    };
    let cause = cause.as_str();
    assert!(cause.starts_with("web exited with 7"), "{cause}");
    assert!(cause.contains("it failed again and again soon after"), "{cause}");
    let crashed = node.client().events("kind=crashed&last=10").await.expect("answers");
    assert_eq!(crashed.events.len(), 3, "{crashed:?}");
    node.end().await;
}

#[tokio::test]
async fn without_a_rollback_window_a_version_that_was_ready_stays_in_force() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "good"), node.directory()).await.expect("deploys");
    let spec =
        ailing_spec(port, "bad").replace("stop_grace", "rollback_window = \"0s\"\nstop_grace");
    node.client().deploy(&spec, node.directory()).await.expect("is ready");
    std::fs::write(node.volume("web", "data").await.join("ill"), "").expect("makes it ill");
    until("the fourth failure in a row", SOON, || async {
        let found = node.client().workload("web").await?;
        let failures = found.back_off.as_ref().map_or(0, |back_off| back_off.failures);
        if failures >= 4 { Ok(()) } else { Err(found.reason) }
    })
    .await;
    let found = node.client().workload("web").await.expect("is there");
    assert_eq!(found.generation, 2);
    node.end().await;
}

#[tokio::test]
async fn a_spec_with_faults_changes_nothing_and_lists_all() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"web\"\nimgae = \"x\"\nrestart = \"sometimes\"\n[volumes.data]\nsize = \"1 potato\"\nmount = \"/d\"\n";
    let refused = node.client().deploy(spec, node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::InvalidSpec);
    let keys: Vec<_> = problem.faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["image", "imgae", "restart", "volumes.data.size"]);
    assert!(node.client().workload("web").await.is_err());

    let missing = "name = \"web\"\nimage = \"file:nowhere.tar\"\n";
    let refused = node.client().deploy(missing, node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::ImageUnavailable, "{problem:?}");
    until("the refused workload to be forgotten", SOON, || async {
        node.client().workload("web").await.map_or(Ok(()), |found| Err(format!("{found:?}")))
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_taken_port_is_named_before_anything_is_changed() {
    let node = Node::start(NodeOptions::default()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("is bound").port();
    let refused = node.client().deploy(&web_spec(port, "x"), node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::PortTaken, "{problem:?}");
    assert!(problem.detail.contains(&port.to_string()), "{}", problem.detail);
    let holder = format!("(pid {})", std::process::id());
    assert!(problem.detail.contains(&holder), "{}", problem.detail);
    drop(taken);

    node.client()
        .deploy(&web_spec(port, "x"), node.directory())
        .await
        .expect("deploys once it is free");
    let second = web_spec(port, "y").replace("name = \"web\"", "name = \"other\"");
    let refused = node.client().deploy(&second, node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert!(problem.detail.contains("published by workload web"), "{}", problem.detail);
    node.end().await;
}

#[tokio::test]
async fn the_end_of_belayd_touches_no_container() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let before = node.client().workload("web").await.expect("is there").container;

    node.kill();
    assert_eq!(fetch(port).await.as_deref(), Ok("one"), "serves while belayd is dead");
    node.launch().await;
    let after = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    assert_eq!(after.container, before, "the same process of the same container");

    assert!(node.terminate().await.success());
    assert_eq!(fetch(port).await.as_deref(), Ok("one"), "serves while belayd is away");
    node.launch().await;
    let after = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    assert_eq!(after.container, before);
    let data = node.volume("web", "data").await;
    let starts = std::fs::read_to_string(data.join("starts")).expect("the volume is mounted");
    assert_eq!(starts.lines().count(), 1, "started once in all");
    node.end().await;
}

#[tokio::test]
async fn a_lost_ledger_is_rebuilt_from_what_runs() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let before = node.client().workload("web").await.expect("is there");
    node.kill();
    for file in ["belay.db", "belay.db-wal", "belay.db-shm"] {
        let path = node.directory().join("state").join(file);
        if path.exists() {
            std::fs::write(path, b"the disk ate it").expect("damages it");
        }
    }
    node.launch().await;
    let after = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    assert_eq!(after.container, before.container, "left running");
    assert_eq!((after.generation, after.spec_hash), (before.generation, before.spec_hash));
    node.end().await;
}

#[tokio::test]
async fn a_crash_is_started_again_after_a_delay_that_survives_belayd() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"crash\"\nimage = \"file:busybox.tar\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 3\"]\n";
    let failed = node.client().deploy(spec, node.directory()).await;
    let problem = failed.expect_err("does not stay up").problem();
    assert!(problem.detail.contains("crash exited with 3"), "{problem:?}");
    let climbing = until("three failures", SOON, || async {
        let found = node.client().workload("crash").await?;
        match &found.back_off {
            Some(back_off) if back_off.failures >= 3 => Ok(back_off.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    node.kill();
    node.launch().await;
    let after = until("the ladder to be remembered", SOON, || async {
        let found = node.client().workload("crash").await?;
        found.back_off.clone().ok_or_else(|| format!("{found:?}"))
    })
    .await;
    assert!(after.failures >= climbing.failures, "{after:?} after {climbing:?}");
    let found = node.client().workload("crash").await.expect("is there");
    let fault = found.last_fault.map(|fault| fault.next).unwrap_or_default();
    assert!(fault.is_empty() || fault.contains("belay logs crash"), "{fault}");
    node.end().await;
}

#[tokio::test]
async fn a_one_shot_that_is_done_is_not_started_again() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"job\"\nimage = \"file:busybox.tar\"\nrestart = \"on-failure\"\ncommand = [\"/bin/sh\", \"-c\", \"echo ran >> /data/runs\"]\n[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n";
    node.client().deploy(spec, node.directory()).await.expect("runs");
    node.client().wait_for("job", WorkloadPhase::Completed, SOON).await;
    let runs = node.volume("job", "data").await.join("runs");
    assert_eq!(std::fs::read_to_string(&runs).expect("it wrote").lines().count(), 1);
    node.client().act("start", "job").await.expect("an operator may run it again");
    until("a second run", SOON, || async {
        let text = std::fs::read_to_string(&runs).unwrap_or_default();
        if text.lines().count() == 2 { Ok(()) } else { Err(text) }
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_second_belayd_on_the_same_state_ends_with_the_holder_named() {
    let node = Node::start(NodeOptions::default()).await;
    let second = tokio::task::spawn_blocking({
        let config = node.config();
        move || std::process::Command::new(binary("belayd")).arg("--config").arg(config).output()
    });
    let second = second.await.expect("joins").expect("runs");
    assert_eq!(second.status.code(), Some(73));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains(&format!("node {}) for ", node.name())), "{words}");
    assert!(node.client().status().await.is_ok(), "the first is untouched");
    node.end().await;
}

#[tokio::test]
async fn workloads_d_declares_and_undeclares() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let file = node.directory().join("workloads.d/web.toml");
    let spec = web_spec(port, "declared").replace("file:busybox.tar", "file:../busybox.tar");
    std::fs::write(&file, &spec).expect("writes");
    node.reload();
    node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;

    let by_hand = node.client().deploy(&web_spec(port, "other"), node.directory()).await;
    assert_eq!(by_hand.expect_err("refused").problem().code, ProblemCode::OwnedByFile);
    let by_hand = node.client().remove("web", VolumeFate::Keep).await;
    assert_eq!(by_hand.expect_err("refused").problem().code, ProblemCode::OwnedByFile);

    std::fs::write(&file, spec.replace("declared", "edited")).expect("writes");
    node.reload();
    until("the edited spec to serve", SOON, || async {
        match fetch(port).await {
            Ok(text) if text == "edited" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    std::fs::write(&file, "name = \"web\"\nimgae = 1").expect("writes nonsense");
    node.reload();
    until("the nonsense to be refused", SOON, || async {
        let status = node.client().status().await?;
        if status.refused_specs.len() == 1 {
            Ok(())
        } else {
            Err(format!("{:?}", status.refused_specs))
        }
    })
    .await;
    assert_eq!(fetch(port).await.as_deref(), Ok("edited"), "nonsense ends nothing");

    std::fs::remove_file(&file).expect("removes");
    node.reload();
    until("the workload to be gone", SOON, || async {
        node.client().workload("web").await.map_or(Ok(()), |found| Err(format!("{found:?}")))
    })
    .await;
    let status = node.client().status().await.expect("answers");
    assert!(status.volumes.iter().any(|volume| volume.orphan), "its volumes are kept and shown");
    let kept: Vec<_> = status.volumes.iter().map(|v| v.name.to_string()).collect();
    assert_eq!(kept, ["data", "system"]);
    node.end().await;
}

#[tokio::test]
async fn a_start_of_what_runs_already_does_not_hide_its_next_end() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"job\"\nimage = \"file:busybox.tar\"\nrestart = \"never\"\ncommand = [\"/bin/sh\", \"-c\", \"echo ran >> /data/runs; while [ ! -e /data/end ]; do sleep 0.1; done\"]\n[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n[ready]\ninterval = \"100ms\"\n";
    node.client().deploy(spec, node.directory()).await.expect("deploys");
    node.client().act("start", "job").await.expect("is running already");
    node.client().deploy(spec, node.directory()).await.expect("is in force already");
    let data = node.volume("job", "data").await;
    std::fs::write(data.join("end"), "").expect("tells it to end");
    node.client().wait_for("job", WorkloadPhase::Completed, SOON).await;
    let runs = std::fs::read_to_string(data.join("runs")).expect("it wrote");
    assert_eq!(runs.lines().count(), 1, "it is done once");
    node.end().await;
}

#[tokio::test]
async fn a_one_shot_that_replaces_another_version_settles() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = |script: &str| {
        format!(
            "name = \"job\"\nimage = \"file:busybox.tar\"\nrestart = \"never\"\nstop_grace = \"0s\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n[ready]\ninterval = \"100ms\"\n"
        )
    };
    node.client().deploy(&spec("exec sleep 100000"), node.directory()).await.expect("deploys");
    let done = node.client().deploy(&spec("exit 0"), node.directory()).await;
    assert!(done.expect("runs to its end").summary.contains("ran to its end"));
    let found = node.client().workload("job").await.expect("is there");
    assert_eq!((found.phase, found.generation), (WorkloadPhase::Completed, 2));

    node.client().deploy(&spec("exec sleep 100000"), node.directory()).await.expect("deploys");
    let failed = node.client().deploy(&spec("exit 4"), node.directory()).await;
    let problem = failed.expect_err("fails").problem();
    assert!(problem.detail.contains("generation 3 was restored"), "{problem:?}");
    node.end().await;
}

#[tokio::test]
async fn a_file_that_went_away_while_belayd_was_down_ends_its_workload() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let file = node.directory().join("workloads.d/web.toml");
    let spec = web_spec(port, "declared").replace("file:busybox.tar", "file:../busybox.tar");
    std::fs::write(&file, &spec).expect("writes");
    node.reload();
    node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;

    // What an operator stopped stays so, also when its file is edited.
    node.client().act("stop", "web").await.expect("stops");
    std::fs::write(&file, spec.replace("declared", "edited")).expect("edits");
    node.reload();
    node.client().wait_for("web", WorkloadPhase::Stopped, SOON).await;
    assert!(fetch(port).await.is_err());
    node.client().act("start", "web").await.expect("starts");
    until("the edited spec to serve", SOON, || async {
        match fetch(port).await {
            Ok(text) if text == "edited" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    node.kill();
    std::fs::remove_file(&file).expect("removes");
    node.launch().await;
    until("the workload to be gone", SOON, || async {
        node.client().workload("web").await.map_or(Ok(()), |found| Err(format!("{found:?}")))
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_lost_ledger_does_not_replace_what_a_file_declares() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let file = node.directory().join("workloads.d/web.toml");
    let spec = web_spec(port, "one").replace("file:busybox.tar", "file:../busybox.tar");
    std::fs::write(&file, &spec).expect("writes");
    node.reload();
    node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    std::fs::write(&file, spec.replace("one", "two")).expect("edits");
    node.reload();
    until("generation 2", SOON, || async {
        let found = node.client().workload("web").await?;
        let settled = found.generation == 2 && found.phase == WorkloadPhase::Ready;
        if settled { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let before = node.client().workload("web").await.expect("is there");
    node.kill();
    for file in ["belay.db", "belay.db-wal", "belay.db-shm"] {
        let _ = std::fs::remove_file(node.directory().join("state").join(file));
    }
    node.launch().await;
    let after = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    assert_eq!((after.container, after.generation), (before.container, 2));
    assert!(after.source.ends_with("web.toml"), "it is the file's again: {}", after.source);
    node.end().await;
}
