//! Commands in a workload, by the `belay` command, with a real belayd and a real container.

use std::process::{Output, Stdio};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, until};
use belay_protocol::WorkloadPhase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

const SOON: Duration = Duration::from_secs(60);

/// A workload `app` that does nothing.
const APP: &str = r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sleep", "100000"]
stop_grace = "0s"
[ready]
interval = "100ms"
"#;

async fn node_with_app() -> Node {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(APP, node.directory()).await.expect("deploys");
    node
}

fn belay(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("belay"));
    command.arg("--socket").arg(node.socket()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn ran(node: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = belay(node, arguments).output();
    parts(tokio::time::timeout(SOON, output).await.expect("in time").expect("runs"))
}

fn parts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Processes of the host whose arguments are exactly these.
fn processes(arguments: &[&str]) -> Vec<i32> {
    let wanted: Vec<u8> =
        arguments.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect();
    let listed = std::fs::read_dir("/proc").expect("the kernel lists processes");
    listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted)
        })
        .collect()
}

/// A time to sleep that no other test on this host has.
fn own_seconds(of: u32) -> String {
    (1_000_000 + std::process::id() * 10 + of).to_string()
}

/// Begins a command that says `up` and sleeps in two processes, and waits until it does.
async fn sleeper(node: &Node, seconds: &str) -> Child {
    let script = format!("echo up; sleep {seconds} & sleep {seconds}");
    let mut child =
        belay(node, &["exec", "app", "--", "/bin/sh", "-c", &script]).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("in time");
    assert_eq!(line.expect("read").as_deref(), Some("up"));
    until("both to sleep", SOON, || async {
        match processes(&["sleep", seconds]).len() {
            2 => Ok(()),
            others => Err(format!("{others} of 2")),
        }
    })
    .await;
    child
}

async fn gone(seconds: &str) {
    until("the command to be gone", SOON, || async {
        let left = processes(&["sleep", seconds]);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn outputs_input_environment_and_exit_code_are_the_commands_own() {
    let node = node_with_app().await;
    let script = "echo $A; pwd; echo err >&2; exit 64";
    let (code, out, err) =
        ran(&node, &["exec", "-e", "A=x y", "-w", "/tmp", "app", "--", "sh", "-c", script]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (Some(64), "x y\n/tmp\n", "err\n"));

    // More than any buffer on the way holds, in both directions at once.
    let mut child = belay(&node, &["exec", "-i", "app", "--", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("runs");
    let sent: Vec<u8> =
        (0..5_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut stdin = child.stdin.take().expect("piped");
    let feed = sent.clone();
    let feeding = tokio::spawn(async move {
        stdin.write_all(&feed).await.expect("written");
        stdin.shutdown().await.expect("closed");
    });
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("in time");
    let output = output.expect("runs");
    feeding.await.expect("fed");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == sent, "{} of {} bytes came back", output.stdout.len(), sent.len());

    let log = node.log_text();
    assert!(
        log.contains("operation=\"exec\"") && log.contains("program=\"sh\""),
        "it is on record"
    );
    assert!(!log.contains("x y") && !log.contains("echo $A"), "its words are not");
    let status = node.client().workload("app").await.expect("is there");
    assert_eq!((status.phase, status.generation), (WorkloadPhase::Ready, 1), "nothing has changed");
    node.end().await;
}

#[tokio::test]
async fn failures_around_a_command_have_codes_and_words_of_their_own() {
    let node = node_with_app().await;
    let (code, _, err) = ran(&node, &["exec", "app", "--", "/no/such/program"]).await;
    assert_eq!(code, Some(127), "{err}");
    let (code, _, err) =
        ran(&node, &["exec", "--timeout", "700ms", "app", "--", "sleep", "1234567"]).await;
    assert_eq!(code, Some(124), "{err}");
    assert!(err.contains("longer than 700 ms"), "{err}");
    let (code, _, err) = ran(&node, &["exec", "nobody", "--", "true"]).await;
    assert_eq!(code, Some(125), "{err}");
    assert!(err.contains("there is no workload nobody"), "{err}");
    let (code, _, err) = ran(&node, &["exec", "-t", "app", "--", "true"]).await;
    assert_eq!(code, Some(64), "{err}");

    node.client().act("stop", "app").await.expect("stops");
    let (code, out, err) = ran(&node, &["exec", "app", "--", "true"]).await;
    assert_eq!((code, out.as_str()), (Some(125), ""), "{err}");
    assert!(err.contains("app is stopped: an operator stopped it"), "{err}");
    assert!(err.contains("belay start app"), "{err}");
    let status = node.client().workload("app").await.expect("is there");
    assert_eq!(status.phase, WorkloadPhase::Stopped, "a command starts nothing");
    node.end().await;
}

#[tokio::test]
async fn a_command_dies_with_its_client_and_with_belayd() {
    let mut node = node_with_app().await;
    let [first, second, third] = [1, 2, 3].map(own_seconds);

    let mut child = sleeper(&node, &first).await;
    child.kill().await.expect("killed");
    gone(&first).await;

    let child = sleeper(&node, &second).await;
    assert!(node.terminate().await.success());
    gone(&second).await;
    let (code, _, err) = parts(child.wait_with_output().await.expect("ends"));
    assert_eq!(code, Some(125), "{err}");
    assert!(err.contains("belayd"), "{err}");

    node.launch().await;
    let child = sleeper(&node, &third).await;
    node.kill();
    let (code, _, err) = parts(child.wait_with_output().await.expect("ends"));
    assert_eq!(code, Some(125), "{err}");
    assert_eq!(processes(&["sleep", &third]).len(), 2, "nobody is there to end it");
    node.launch().await;
    gone(&third).await;
    let status = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    assert_eq!(status.restarts, 0, "the workload itself ran on");
    node.end().await;
}

#[tokio::test]
async fn signals_reach_the_command() {
    let node = node_with_app().await;
    let script = "trap 'echo caught; exit 7' INT; echo up; sleep 1000 & wait";
    let mut child = belay(&node, &["exec", "app", "--", "sh", "-c", script]).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next_line().await.expect("read").as_deref(), Some("up"));
    let pid = Pid::from_raw(i32::try_from(child.id().expect("runs")).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("interrupts");
    assert_eq!(lines.next_line().await.expect("read").as_deref(), Some("caught"));
    let ended = tokio::time::timeout(SOON, child.wait()).await.expect("in time").expect("ends");
    assert_eq!(ended.code(), Some(7));

    // One that does not listen is left at the second.
    let seconds = own_seconds(4);
    let script = format!("trap '' INT; echo up; sleep {seconds}");
    let mut child =
        belay(&node, &["exec", "app", "--", "sh", "-c", &script]).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next_line().await.expect("read").as_deref(), Some("up"));
    let pid = Pid::from_raw(i32::try_from(child.id().expect("runs")).expect("a pid"));
    let ended = until("the command to be left", SOON, || {
        let _ = kill(pid, Signal::SIGINT);
        let ended = child.try_wait().expect("can be waited for");
        std::future::ready(ended.ok_or_else(|| "it runs".to_owned()))
    })
    .await;
    assert_eq!(ended.code(), Some(130));
    gone(&seconds).await;
    node.end().await;
}

#[tokio::test]
async fn a_terminal_is_the_clients_own() {
    let node = node_with_app().await;
    // `script` gives the command a terminal as a person has one.
    let line = format!(
        "stty rows 31 cols 117; {} --socket {} exec -it app -- /bin/busybox stty size; echo code $?",
        binary("belay").display(),
        node.socket().display()
    );
    let mut command = Command::new("/usr/bin/script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(SOON, command.output()).await.expect("in time");
    let (_, out, err) = parts(output.expect("runs"));
    assert!(out.contains("31 117") && out.contains("code 0"), "{out:?} {err}");
    node.end().await;
}
