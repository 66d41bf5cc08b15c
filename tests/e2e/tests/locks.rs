//! Locks that other processes hold, against a real belayd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use belay_harness::{Node, NodeOptions, binary, free_port, until, web_spec};
use belay_locks::{Claim, Guard, LockName, LockSet, Locks, Places, Role};
use belay_protocol::{ProblemCode, WorkloadPhase};

const SOON: Duration = Duration::from_secs(60);

fn locks_of(node: &Node) -> Locks {
    Locks::new(Places { run: node.directory().join("run"), state: node.directory().join("state") })
}

/// What a tool that works by hand would hold.
async fn hold(node: &Node, name: LockName) -> Guard {
    let mut claim = Claim::new(Role::Rescue, "mend");
    "looking".clone_into(&mut claim.phase);
    claim.deadline = Some(Duration::from_secs(300));
    let set = LockSet::one(name);
    locks_of(node).acquire(&set, &claim, SOON, |_| {}).await.expect("belayd lets go of it")
}

fn kill_container(id: &str) {
    let killed = std::process::Command::new("/usr/bin/podman")
        .args(["kill", "--signal", "KILL", id])
        .output()
        .expect("podman can be run");
    assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
}

#[tokio::test]
async fn a_lock_of_another_process_holds_belayd_off_while_status_and_logs_answer() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let before = node.client().workload("web").await.expect("is there").container;
    let guard = hold(&node, LockName::workload("web")).await;

    // A command waits.
    let client = node.client().clone();
    let restart = tokio::spawn(async move { client.act("restart", "web").await });
    // Reconciling waits too: a container that died is not started meanwhile.
    let id = before.as_ref().expect("it runs").id.clone();
    kill_container(&id);
    let found = until("belayd to say who has the lock", SOON, || async {
        let found = node.client().workload("web").await?;
        let told = found.reason.contains("mend (rescue, pid ");
        if told { Ok(found) } else { Err(found.reason) }
    })
    .await;
    assert!(found.reason.contains("workload web is locked by mend"), "{}", found.reason);
    let fault = found.last_fault.expect("it is a fault");
    assert_eq!(fault.code, ProblemCode::LockHeld.as_str());
    assert!(fault.message.contains("looking for ") && fault.message.contains("to end within "));
    assert!(!restart.is_finished(), "it waits for the lock");
    let began = Instant::now();
    for _ in 0..20 {
        node.client().status().await.expect("status answers while the lock is held");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    guard.finish();
    let found = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    restart.await.expect("no panic").expect("it was its turn");
    assert!(found.last_fault.is_none(), "{:?}", found.last_fault);
    node.end().await;
}

#[tokio::test]
async fn the_lock_of_a_volume_holds_off_what_would_change_it() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let guard = hold(&node, LockName::volume("web", "data")).await;
    let client = node.client().clone();
    let stop = tokio::spawn(async move { client.act("stop", "web").await });
    // Nothing may happen for a while.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!stop.is_finished(), "it waits for the lock");
    let found = node.client().workload("web").await.expect("answers");
    assert_eq!(found.phase, WorkloadPhase::Ready, "nothing was changed: {}", found.reason);
    guard.finish();
    stop.await.expect("no panic").expect("stops once it can");
    node.end().await;
}

#[tokio::test]
async fn two_deploys_of_one_workload_are_serialised_and_the_second_changes_nothing() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = web_spec(free_port(), "one");
    let (one, two) = tokio::join!(
        node.client().deploy(&spec, node.directory()),
        node.client().deploy(&spec, node.directory()),
    );
    let summaries = [one.expect("deploys").summary, two.expect("deploys").summary];
    assert!(summaries.contains(&"web is deployed and ready".to_owned()), "{summaries:?}");
    assert!(summaries.contains(&"web is started and ready".to_owned()), "{summaries:?}");
    let found = node.client().workload("web").await.expect("is there");
    assert_eq!((found.generation, found.restarts), (1, 0));
    node.end().await;
}

#[tokio::test]
async fn the_lock_dir_removed_under_belayd_changes_nothing_and_status_answers() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let before = node.client().workload("web").await.expect("is there").container;
    std::fs::remove_dir_all(node.directory().join("run/locks")).expect("it is the test's");
    let client = node.client().clone();
    let restart = tokio::spawn(async move { client.act("restart", "web").await });
    // Nothing may happen for a while.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!restart.is_finished(), "it waits");
    let found = node.client().workload("web").await.expect("status answers");
    assert_eq!((found.phase, found.container), (WorkloadPhase::Ready, before));
    let ended = node.terminate().await;
    assert!(ended.success(), "{ended}");
    restart.await.expect("no panic").expect_err("belayd ended before it could");
    node.launch().await;
    node.client().act("restart", "web").await.expect("a new belayd has new locks");
    node.end().await;
}

#[tokio::test]
async fn the_next_belayd_says_which_operation_died_in_which_phase() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    // It never becomes ready, so the deploy is under way for long.
    let spec = web_spec(port, "one")
        .replace("/index.html\" }", "/absent\" }")
        .replace("interval", "timeout = \"60s\"\ninterval");
    let (client, directory) = (node.client().clone(), node.directory().to_owned());
    let deploy = tokio::spawn(async move { client.deploy(&spec, &directory).await });
    node.client().wait_for("web", WorkloadPhase::Probing, SOON).await;
    let locks = locks_of(&node);
    until("the lock to say what is done", SOON, || {
        let holder = locks.holder(&LockName::workload("web")).expect("can be looked at");
        let line = holder.map(|holder| locks.line(&holder)).unwrap_or_default();
        let told = line.starts_with("deploy (daemon, pid ") && line.contains(", probing for ");
        std::future::ready(if told { Ok(()) } else { Err(line) })
    })
    .await;
    node.kill();
    deploy.await.expect("no panic").expect_err("belayd died");
    node.launch().await;
    let stop = node.client().act("stop", "web").await;
    stop.expect("the lock of the dead belayd is free");
    let log = node.log_text();
    assert!(log.contains("died in probing"), "{log}");
    assert!(log.contains("the belayd before did not end in order"), "{log}");
    node.end().await;
}

/// Processes other than `daemon` that have a lock of this node open, with what they have.
fn holders(directory: &Path, daemon: u32) -> Vec<(u32, PathBuf)> {
    let (locks, instance) = (directory.join("run/locks"), directory.join("state/instance.lock"));
    let processes = std::fs::read_dir("/proc").expect("the kernel lists processes");
    let mut found = Vec::new();
    for pid in processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
        // A process may end while it is looked at.
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        if pid == daemon || pid == std::process::id() {
            continue;
        }
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let ours = |target: &PathBuf| target.starts_with(&locks) || *target == instance;
        found.extend(targets.filter(ours).map(|target| (pid, target)));
    }
    found
}

#[tokio::test]
async fn no_child_of_belayd_has_a_lock_open() {
    let node = Node::start(NodeOptions::default()).await;
    let instance = locks_of(&node).holder(&LockName::Instance).expect("can be looked at");
    let daemon = instance.expect("belayd holds it").record().expect("it reads").pid;
    let end = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let (end, directory) = (Arc::clone(&end), node.directory().to_owned());
        move || {
            let mut found = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let first = holders(&directory, daemon);
                std::thread::sleep(Duration::from_millis(if first.is_empty() { 5 } else { 50 }));
                // A child has everything open between its fork and its exec; what it still has
                // after that, it keeps.
                if !first.is_empty() {
                    let again = holders(&directory, daemon);
                    found.extend(again.into_iter().filter(|holder| first.contains(holder)));
                }
            }
            found
        }
    });
    // mkfs, fsck, the engine's service, monitors and containers all come and go in here.
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    node.client().act("stop", "web").await.expect("stops");
    node.client().act("start", "web").await.expect("starts");
    end.store(true, Ordering::Relaxed);
    let found = watch.join().expect("no panic");
    assert!(found.is_empty(), "{found:?}");
    node.end().await;
}

#[tokio::test]
async fn a_command_that_does_not_wait_gives_up_at_once_with_the_holder() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let guard = hold(&node, LockName::workload("web")).await;
    for (seconds, least) in [(0, Duration::ZERO), (2, Duration::from_secs(2))] {
        let began = Instant::now();
        let refused = node.client().act_within("stop", "web", seconds).await;
        let problem = refused.expect_err("held").problem();
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        assert_eq!(problem.code, ProblemCode::LockHeld, "{problem:?}");
        let told = format!("workload web is locked by mend (rescue, pid {})", std::process::id());
        assert!(problem.detail.contains(&told), "{}", problem.detail);
        assert!(problem.detail.contains("alive and inside its deadline"), "{}", problem.detail);
        assert!(problem.next.ends_with("belay lock break web --force"), "{}", problem.next);
    }
    let found = node.client().workload("web").await.expect("answers");
    assert_eq!(found.desired, belay_protocol::DesiredState::Running, "nothing was changed");
    guard.finish();
    node.end().await;
}

/// Runs `belay` against a node.
async fn belay(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(binary("belay"));
    command.arg("--socket").arg(node.socket()).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("joins").expect("it can be run");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
#[ignore = "the other process of the tests that end a holder"]
async fn the_other_holder() {
    let root = PathBuf::from(std::env::var_os("BELAY_LOCKS_ROOT").expect("started by a test"));
    let locks = Locks::new(Places { run: root.join("run"), state: root.join("state") });
    let claim = Claim::new(Role::Rescue, "mend");
    let set = LockSet::one(LockName::workload("web"));
    let _guard = locks.acquire(&set, &claim, SOON, |_| {}).await.expect("its turn comes");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_foreign_holder_is_shown_and_ended_only_by_force() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    let (_, listed) = belay(&node, &["lock", "ls"]).await;
    assert!(listed.contains("instance") && !listed.contains("workload web"), "{listed}");
    let mut other = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "the_other_holder", "--ignored"])
        .env("BELAY_LOCKS_ROOT", node.directory())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("can be started");
    let pid = format!("mend (rescue, pid {})", other.id());
    until("the holder to be shown", SOON, || async {
        let (_, shown) = belay(&node, &["lock", "ls"]).await;
        if shown.contains(&pid) { Ok(()) } else { Err(shown) }
    })
    .await;
    let began = Instant::now();
    for look in [&["ps"][..], &["logs", "web"], &["status"], &["sync", "status"]] {
        let (code, shown) = belay(&node, look).await;
        assert_eq!(code, Some(0), "{look:?} answers while the lock is held: {shown}");
    }
    for page in ["explain", "status"] {
        let (code, shown) = belay(&node, &[page, "web"]).await;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains(&pid) && shown.contains("workload web  held"), "{page}: {shown}");
    }
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    let (code, refused) = belay(&node, &["restart", "web", "--no-wait"]).await;
    assert_eq!(code, Some(75), "{refused}");
    assert!(refused.contains(&pid), "{refused}");
    let (code, refused) = belay(&node, &["lock", "break", "web"]).await;
    assert_eq!(code, Some(75), "{refused}");
    assert!(refused.contains("nobody was ended") && refused.contains("--force"), "{refused}");
    assert!(other.try_wait().expect("it is ours").is_none(), "it lives");
    let (code, broken) = belay(&node, &["lock", "break", "web", "--force"]).await;
    assert_eq!(code, Some(0), "{broken}");
    assert!(broken.contains(&format!("pid {} has ended", other.id())), "{broken}");
    other.wait().expect("it is ours");
    let (code, done) = belay(&node, &["restart", "web"]).await;
    assert_eq!(code, Some(0), "{done}");
    assert!(node.log_text().contains("was cut short") || node.log_text().contains("died in"));
    node.end().await;
}

#[tokio::test]
async fn an_operation_of_belayd_itself_is_ended_between_two_steps() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&web_spec(port, "good"), node.directory()).await.expect("deploys");
    let endless = web_spec(port, "bad")
        .replace("/index.html\" }", "/absent\" }")
        .replace("interval", "timeout = \"80s\"\ninterval");
    let (client, directory) = (node.client().clone(), node.directory().to_owned());
    let deploy = tokio::spawn(async move { client.deploy(&endless, &directory).await });
    until("the new version to be asked", SOON, || async {
        let found = node.client().workload("web").await?;
        let asked = found.generation == 2 && found.phase == WorkloadPhase::Probing;
        if asked { Ok(()) } else { Err(found.reason) }
    })
    .await;
    let (code, broken) = belay(&node, &["lock", "break", "web", "--force"]).await;
    assert_eq!(code, Some(0), "{broken}");
    assert!(broken.contains("deploy of web is ended"), "{broken}");
    let problem = deploy.await.expect("no panic").expect_err("ended").problem();
    assert!(problem.detail.contains("was ended by belay lock break"), "{}", problem.detail);
    let found = node.client().wait_for("web", WorkloadPhase::Ready, SOON).await;
    assert_eq!(found.generation, 1, "the version before is restored");
    node.end().await;
}
