//! Logs that outlive restarts, deploys, belayd and their container.

use std::process::Stdio;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, until};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

fn spec(script: &str) -> String {
    format!(
        r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "{script}"]
stop_grace = "0s"
[ready]
interval = "100ms"
"#
    )
}

fn belay(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("belay"));
    command.arg("--socket").arg(node.socket()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn logs(node: &Node, arguments: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let output = belay(node, &[&["logs"], arguments].concat()).output();
    let output = tokio::time::timeout(SOON, output).await.expect("in time").expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = text(&output.stdout).lines().map(str::to_owned).collect();
    (output.status.code(), lines, text(&output.stderr))
}

#[tokio::test]
async fn what_a_container_wrote_is_kept_when_it_is_removed() {
    let node = Node::start(NodeOptions::default()).await;
    let client = node.client();
    let first = spec("echo first; echo also >&2; exec sleep 100000");
    client.deploy(&first, node.directory()).await.expect("deploys");
    let (code, _, err) = logs(&node, &["--previous", "app"]).await;
    assert_eq!(code, Some(69), "{err}");
    assert!(err.contains("no log of an earlier run is kept"), "{err}");

    client
        .deploy(&spec("echo second; exec sleep 100000"), node.directory())
        .await
        .expect("deploys");
    until("the log of the version before", SOON, || async {
        let (_, mut lines, _) = logs(&node, &["--previous", "app"]).await;
        lines.sort();
        if lines == ["also", "first"] { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
    let (_, lines, _) = logs(&node, &["app"]).await;
    assert_eq!(lines, ["second"]);

    client.act("stop", "app").await.expect("stops");
    let (code, lines, err) = logs(&node, &["app"]).await;
    assert_eq!((code, lines), (Some(0), vec!["second".to_owned()]), "{err}");
    let (_, mut lines, _) = logs(&node, &["-p", "app"]).await;
    lines.sort();
    assert_eq!(lines, ["also", "first"]);
    let (_, lines, _) =
        logs(&node, &["--tail", "1", "--since", "2099-01-01T00:00:00Z", "app"]).await;
    assert_eq!(lines, [""; 0]);
    let (_, lines, _) = logs(&node, &["--since", "1h", "app"]).await;
    assert_eq!(lines, ["second"]);

    client.remove("app", belay_protocol::VolumeFate::Keep).await.expect("removed");
    let saved = node.directory().join("state/workloads/app/logs");
    assert!(!saved.exists(), "it goes with its workload");
    node.end().await;
}

#[tokio::test]
async fn a_flood_that_is_removed_leaves_a_bounded_end() {
    let node = Node::start(NodeOptions::default()).await;
    let script = "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 6000000; echo; echo last; exec sleep 100000";
    node.client().deploy(&spec(script), node.directory()).await.expect("deploys");
    until("the flood to be over", SOON, || async {
        let (_, lines, _) = logs(&node, &["--tail", "1", "app"]).await;
        if lines == ["last"] { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
    for _ in 0..2 {
        node.client().act("stop", "app").await.expect("stops");
        node.client().act("start", "app").await.expect("starts");
    }
    node.client().act("stop", "app").await.expect("stops");
    let (_, lines, _) = logs(&node, &["app"]).await;
    assert!(lines.len() > 100, "{} lines are kept", lines.len());
    let saved = std::fs::read_dir(node.directory().join("state/workloads/app/logs"));
    let sizes: Vec<u64> = saved
        .expect("it is there")
        .map(|entry| entry.expect("an entry").metadata().expect("looked at").len())
        .collect();
    assert_eq!(sizes.len(), 2, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 1 << 20), "{sizes:?}");
    node.end().await;
}

#[tokio::test]
async fn a_followed_log_goes_on_with_what_comes_after() {
    let node = Node::start(NodeOptions::default()).await;
    let client = node.client();
    client.deploy(&spec("echo one; exec sleep 100000"), node.directory()).await.expect("deploys");
    let mut follower = belay(&node, &["logs", "-f", "app"]).spawn().expect("runs");
    let mut out = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut err = BufReader::new(follower.stderr.take().expect("piped")).lines();
    let mut line = async || {
        let line = tokio::time::timeout(SOON, out.next_line()).await.expect("in time");
        line.expect("read").expect("a line")
    };
    let mut notice = async || {
        let line = tokio::time::timeout(SOON, err.next_line()).await.expect("in time");
        line.expect("read").expect("a line")
    };
    assert_eq!(line().await, "one");
    client.act("restart", "app").await.expect("restarts");
    assert_eq!(notice().await, "belay: app was started again");
    assert_eq!(line().await, "one", "the second start's, and the first is not repeated");
    client.deploy(&spec("echo two; exec sleep 100000"), node.directory()).await.expect("deploys");
    assert_eq!(notice().await, "belay: app runs in another container now");
    assert_eq!(line().await, "two");
    client.act("stop", "app").await.expect("stops");
    client.act("start", "app").await.expect("starts");
    assert_eq!(notice().await, "belay: app runs in another container now");
    assert_eq!(line().await, "two");
    follower.kill().await.expect("killed");
    node.end().await;
}

#[tokio::test]
async fn nothing_is_lost_while_belayd_is_away() {
    let mut node = Node::start(NodeOptions::default()).await;
    let script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.02; done; echo done; exec sleep 100000";
    node.client().deploy(&spec(script), node.directory()).await.expect("deploys");
    node.kill();
    node.launch().await;
    let lines = until("all of it", SOON, || async {
        let (_, lines, _) = logs(&node, &["app"]).await;
        if lines.last().is_some_and(|line| line == "done") {
            Ok(lines)
        } else {
            Err(format!("{}", lines.len()))
        }
    })
    .await;
    let expected: Vec<String> =
        (0..400).map(|n: u32| n.to_string()).chain(["done".to_owned()]).collect();
    assert_eq!(lines, expected);
    node.end().await;
}

/// `belay logs -f`, whose lines are read one by one.
struct Follower {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Follower {
    fn start(node: &Node) -> Self {
        let mut child = belay(node, &["logs", "-f", "app"]).spawn().expect("runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await.expect("in time");
        line.expect("read").expect("a line")
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it takes signals");
    }
}

#[tokio::test]
async fn a_followed_log_goes_on_over_every_end_of_belayd_without_a_hole_or_a_repetition() {
    let mut node = Node::start(NodeOptions::default()).await;
    let script = "i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo done; exec sleep 100000";
    node.client().deploy(&spec(script), node.directory()).await.expect("deploys");
    let mut follower = Follower::start(&node);
    let mut read = vec![follower.line().await];
    for _ in 0..3 {
        node.kill();
        node.launch().await;
        // It is being followed again before the next end.
        read.push(follower.line().await);
    }
    node.terminate().await;
    node.launch().await;
    while read.last().is_some_and(|line| line != "done") {
        read.push(follower.line().await);
    }
    let wanted: Vec<_> =
        (0..1000).map(|number| number.to_string()).chain(["done".into()]).collect();
    assert_eq!(read, wanted);
    node.client().remove("app", belay_protocol::VolumeFate::Delete).await.expect("is removed");
    let ended = tokio::time::timeout(SOON, follower.child.wait()).await.expect("in time");
    assert!(ended.expect("waited for").success(), "it ends with its workload");
    node.end().await;
}

#[tokio::test]
async fn what_a_container_wrote_before_it_was_replaced_is_had_by_a_follower_that_was_away() {
    use nix::sys::signal::Signal;
    let mut node = Node::start(NodeOptions::default()).await;
    let script =
        "echo one; while [ ! -e /belay/late ]; do sleep 0.1; done; echo late; exec sleep 100000";
    node.client().deploy(&spec(script), node.directory()).await.expect("deploys");
    let mut follower = Follower::start(&node);
    assert_eq!(follower.line().await, "one");
    let system = node.volume("app", "system").await;
    follower.signal(Signal::SIGSTOP);
    node.kill();
    std::fs::write(system.join("late"), "").expect("written");
    node.launch().await;
    until("its last line", SOON, || async {
        let (_, lines, _) = logs(&node, &["app"]).await;
        if lines == ["one", "late"] { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
    let next = spec("echo two; exec sleep 100000");
    node.client().deploy(&next, node.directory()).await.expect("deploys");
    follower.signal(Signal::SIGCONT);
    assert_eq!(follower.line().await, "late");
    assert_eq!(follower.line().await, "two");
    follower.child.kill().await.expect("killed");
    node.end().await;
}
