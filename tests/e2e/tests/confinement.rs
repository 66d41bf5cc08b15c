//! What a container is kept from, its limits, and how it is stopped, looked at from inside and from
//! the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use belay_harness::{Leavings, Node, NodeOptions, free_port, until};
use belay_protocol::{ProblemCode, WorkloadPhase};

const SOON: Duration = Duration::from_secs(60);

fn spec(name: &str, script: &str, more: &str) -> String {
    format!(
        r#"
name = "{name}"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "{script}"]
{more}
[volumes.data]
size = "16M"
mount = "/data"
[ready]
interval = "100ms"
"#
    )
}

/// What the first process of the container wrote about itself to its volume.
async fn written(node: &Node, name: &str, file: &str) -> String {
    let path = node.volume(name, "data").await.join(file);
    until("the container to have written", SOON, || async {
        match std::fs::read_to_string(&path) {
            Ok(text) if text.ends_with("end\n") => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Process 1 of the workload's container, in the host's numbering.
fn process(node: &Node) -> u32 {
    let [id] = Leavings::find(node.name(), node.directory()).containers.try_into().expect("one");
    let output = Command::new("/usr/bin/podman")
        .args(["inspect", "--format", "{{.State.Pid}}", &id])
        .output()
        .expect("podman runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a pid")
}

fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line");
    u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
}

/// Bits of the kernel's numbering.
const NET_RAW: u64 = 1 << 13;
const MKNOD: u64 = 1 << 27;
const AUDIT_WRITE: u64 = 1 << 29;
const SETFCAP: u64 = 1 << 31;
const SYS_ADMIN: u64 = 1 << 21;
const NET_BIND_SERVICE: u64 = 1 << 10;

const LOOK: &str = "cat /proc/self/status > /data/look; cat /proc/self/mountinfo >> /data/look; \
                    echo end >> /data/look; exec sleep 100000";

#[tokio::test]
async fn a_container_is_confined_as_seen_from_inside() {
    let node = Node::start(NodeOptions::default()).await;
    let wanted = spec("plain", LOOK, "stop_grace = \"0s\"");
    node.client().deploy(&wanted, node.directory()).await.expect("deploys");
    let look = written(&node, "plain", "look").await;
    assert!(look.contains("NoNewPrivs:\t1"), "{look}");
    let held = capabilities(&look);
    assert_eq!(held & (NET_RAW | MKNOD | AUDIT_WRITE | SETFCAP | SYS_ADMIN), 0, "{held:#x}");
    let mount = look.lines().find(|line| line.contains(" /data ")).expect("its volume is mounted");
    assert!(!mount.contains("shared:") && !mount.contains("master:"), "{mount}");
    node.client().remove("plain", belay_protocol::VolumeFate::Delete).await.expect("removed");

    let tight = "stop_grace = \"0s\"\nread_only = true\ncap_drop = [\"ALL\"]\n\
                 cap_add = [\"NET_BIND_SERVICE\"]\ntmpfs = { \"/tmp\" = \"1M\" }";
    let script = "touch /x || echo refused >> /data/look; dd if=/dev/zero of=/tmp/f bs=1024 count=4096; \
                  ls -l /tmp/f >> /data/look; cat /proc/self/status >> /data/look; \
                  cat /proc/self/mountinfo >> /data/look; echo end >> /data/look; exec sleep 100000";
    node.client().deploy(&spec("tight", script, tight), node.directory()).await.expect("deploys");
    let look = written(&node, "tight", "look").await;
    assert!(look.starts_with("refused\n"), "its root file system cannot be written: {look}");
    assert!(look.contains(" 1048576 "), "the file system in memory is full at its size: {look}");
    assert_eq!(capabilities(&look), NET_BIND_SERVICE);
    let mount = look.lines().find(|line| line.contains(" /tmp ")).expect("it is mounted");
    assert!(
        mount.contains("nosuid") && mount.contains("nodev") && mount.contains("noexec"),
        "{mount}"
    );

    let refused =
        spec("bad", "true", "cap_add = [\"SYS_ADMIN\"]\ntmpfs = { \"/data/x\" = \"1M\" }");
    let refused = node.client().deploy(&refused, node.directory()).await;
    let keys: Vec<_> =
        refused.expect_err("refused").problem().faults.into_iter().map(|fault| fault.key).collect();
    assert_eq!(keys, ["cap_add", "tmpfs./data/x"]);
    node.end().await;
}

#[tokio::test]
async fn limits_hold_in_the_kernel_and_one_that_is_changed_is_a_fault() {
    let node = Node::start(NodeOptions::default()).await;
    let limits = "stop_grace = \"0s\"\nlimits = { memory = \"64M\", cpus = 0.5, pids = 77 }";
    let wanted = spec("app", "exec sleep 100000", limits);
    node.client().deploy(&wanted, node.directory()).await.expect("deploys");
    let pid = process(&node);
    let file = |controller: &str, old: &str, new: &str| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let wanted = if unified { "" } else { controller };
        let group = table.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let names = parts.next()?.split(',').any(|name| name == wanted);
            parts.next().filter(|_| names).map(str::to_owned)
        });
        let group = group.expect("it has a group");
        let (mount, name) = if unified { ("", new) } else { (controller, old) };
        PathBuf::from(format!("/sys/fs/cgroup/{mount}{group}/{name}"))
    };
    let read = |path: &Path| std::fs::read_to_string(path).expect("it is there").trim().to_owned();
    assert_eq!(
        read(&file("memory", "memory.limit_in_bytes", "memory.max")),
        (64 << 20).to_string()
    );
    let pids = file("pids", "pids.max", "pids.max");
    assert_eq!(read(&pids), "77");
    let status = node.client().workload("app").await.expect("is there");
    assert_eq!(status.last_fault, None, "what holds is no fault");

    std::fs::write(&pids, "78").expect("root may change it");
    let fault = until("the difference to be reported", SOON, || async {
        node.client().workload("app").await?.last_fault.ok_or_else(|| "no fault".to_owned())
    })
    .await;
    assert_eq!(fault.code, ProblemCode::LimitNotApplied.as_str());
    assert!(fault.message.contains("pids should be 77 and is 78 in the kernel"), "{fault:?}");
    std::fs::write(&pids, "77").expect("root may change it back");
    until("the report to be taken back", SOON, || async {
        match node.client().workload("app").await?.last_fault {
            None => Ok(()),
            Some(fault) => Err(format!("{fault:?}")),
        }
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_stop_runs_its_hook_then_signals_then_kills() {
    let node = Node::start(NodeOptions::default()).await;
    let script =
        "trap 'echo term >> /data/order; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let more = "stop_grace = \"5s\"\n\
                pre_stop = { command = [\"/bin/sh\", \"-c\", \"echo hook >> /data/order\"] }";
    node.client().deploy(&spec("kind", script, more), node.directory()).await.expect("deploys");
    let order = node.volume("kind", "data").await.join("order");
    node.client().act("restart", "kind").await.expect("restarts");
    assert_eq!(std::fs::read_to_string(&order).expect("it wrote"), "hook\nterm\n");

    // A version that replaces it has neither; the one that ends keeps its own.
    node.client()
        .deploy(&spec("kind", "sleep 100000", "stop_grace = \"0s\""), node.directory())
        .await
        .expect("deploys");
    assert_eq!(std::fs::read_to_string(&order).expect("it wrote"), "hook\nterm\nhook\nterm\n");

    // Neither its hook nor it listens: both are cut at their time.
    let more = "stop_grace = \"1s\"\n\
                pre_stop = { command = [\"/bin/sleep\", \"1000\"], timeout = \"1s\" }";
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    node.client().deploy(&spec("deaf", script, more), node.directory()).await.expect("deploys");
    let began = std::time::Instant::now();
    node.client().act("stop", "deaf").await.expect("stops");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "both had their time: {took:?}");
    node.end().await;
}

/// A file system that takes no write until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(mount: PathBuf) -> Self {
        let frozen = Command::new("/usr/sbin/fsfreeze").arg("--freeze").arg(&mount).status();
        assert!(frozen.expect("fsfreeze runs").success());
        Self(mount)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_process_that_cannot_be_killed_is_reported_and_tried_again() {
    let node = Node::start(NodeOptions::default()).await;
    let script = "while :; do echo x > /data/file; done";
    node.client()
        .deploy(&spec("stuck", script, "stop_grace = \"0s\""), node.directory())
        .await
        .expect("deploys");
    let data = node.volume("stuck", "data").await;
    let frozen = Frozen::new(data.parent().expect("its mount").to_owned());
    let pid = process(&node);
    until("it to wait for its disk", SOON, || async {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if line.contains(") D ") { Ok(()) } else { Err(line) }
    })
    .await;

    let began = std::time::Instant::now();
    let refused =
        node.client().act("stop", "stuck").await.expect_err("cannot be stopped").problem();
    assert_eq!(refused.code, ProblemCode::Unkillable, "{refused:?}");
    assert!(refused.detail.contains(&format!("process {pid} is there")), "{}", refused.detail);
    assert!(began.elapsed() < Duration::from_secs(45), "bounded: {:?}", began.elapsed());
    let status = node.client().workload("stuck").await.expect("answers");
    assert_eq!(status.last_fault.expect("shown").code, ProblemCode::Unkillable.as_str());
    assert!(node.client().volume("stuck", "data").await.expect("is there").mounted, "left mounted");

    drop(frozen);
    node.client().wait_for("stuck", WorkloadPhase::Stopped, SOON).await;
    let left = Leavings::find(node.name(), node.directory());
    assert!(left.containers.is_empty() && left.mounts.is_empty(), "{left:?}");
    node.end().await;
}

#[tokio::test]
async fn a_stop_wins_over_a_deploy_and_outlives_its_client() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let more = format!("stop_grace = \"2s\"\n[[ports]]\ncontainer = 80\nhost = {port}");
    let never = spec("late", "trap '' TERM; while :; do sleep 0.1; done", &more)
        .replace("interval", "timeout = \"60s\"\ntcp = { port = 80 }\ninterval");
    let client = node.client().clone();
    let directory = node.directory().to_owned();
    let deploying = tokio::spawn(async move { client.deploy(&never, &directory).await });
    node.client().wait_for("late", WorkloadPhase::Probing, SOON).await;
    let client = node.client().clone();
    let stopping = tokio::spawn(async move { client.act("stop", "late").await });
    node.client().wait_for("late", WorkloadPhase::Stopping, SOON).await;
    stopping.abort();
    let ended = deploying.await.expect("joins").expect_err("ended").problem();
    assert!(ended.detail.contains("was ended by a later stop"), "{ended:?}");
    node.client().wait_for("late", WorkloadPhase::Stopped, SOON).await;
    node.end().await;
}
