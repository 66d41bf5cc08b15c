//! The commands about runs and runners, with a real belayd and a runner from elsewhere.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, until};
use belay_protocol::runner::{RunnerActivity, RunnerLink, RunnerOrigin, RunnerStatus};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

async fn belay(node: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary("belay"));
    command.arg("--socket").arg(node.socket()).args(arguments).stdin(Stdio::null());
    let output = tokio::time::timeout(SOON, command.kill_on_drop(true).output());
    let output = output.await.expect("in time").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn runners(node: &Node) -> Vec<RunnerStatus> {
    let (code, listed, error) = belay(node, &["runner", "ls", "-o", "json"]).await;
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&listed).expect("the shape of the page")
}

/// Waits until the one runner of a node is connected or not there.
async fn reaches(node: &Node, what: &str, wanted: impl Fn(&[RunnerStatus]) -> bool) {
    until(what, SOON, || async {
        let found = runners(node).await;
        if wanted(&found) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_runner_from_elsewhere_connects_with_its_token_and_comes_back_after_a_restart() {
    // belayd binds the port itself; that nobody else takes it meanwhile is the kernel's habit of
    // giving new ports in turn.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr());
    let address = port.expect("a free port");
    let config = format!("[runner]\nlisten = [\"{address}\"]\n");
    let mut node = Node::start(NodeOptions { config, ..NodeOptions::default() }).await;

    let arguments = ["runner", "token", "laptop", "--workload", "mailer", "--ttl", "1h"];
    let (code, token, error) = belay(&node, &arguments).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(token.starts_with("belay_runner_"), "{token}");
    assert!(error.contains("it is not shown again"), "{error}");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runners/runner.py");
    let mut runner = Command::new("/usr/bin/python3")
        .arg(file)
        .env("BELAY_RUNNER_URL", format!("ws://{address}"))
        .env("BELAY_RUNNER_TOKEN", token.trim())
        .kill_on_drop(true)
        .spawn()
        .expect("the runner in Python starts");
    let is_idle = |found: &[RunnerStatus]| {
        matches!(found, [runner] if runner.runner.as_str() == "laptop"
            && runner.origin == RunnerOrigin::Foreign
            && (runner.activity, runner.link) == (RunnerActivity::Idle, RunnerLink::Connected))
    };
    reaches(&node, "the runner to be idle", is_idle).await;

    // The token is in the ledger, and the runner comes back by itself.
    node.kill();
    node.launch().await;
    reaches(&node, "the runner to be back", is_idle).await;
    assert!(node.terminate().await.success(), "{}", node.log_text());
    node.launch().await;
    reaches(&node, "the runner to be back after an end in order", is_idle).await;

    let (code, told, error) = belay(&node, &["runner", "revoke", "laptop"]).await;
    assert_eq!(
        (code, &*told),
        (Some(0), "no token of laptop lets it connect any more\n"),
        "{error}"
    );
    node.kill();
    node.launch().await;
    let ended = tokio::time::timeout(SOON, runner.wait()).await.expect("it is refused for good");
    assert_eq!(ended.expect("it is a child").code(), Some(1));
    reaches(&node, "nobody to be there", <[RunnerStatus]>::is_empty).await;
    node.end().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_can_be_done() {
    let node = Node::start(NodeOptions::default()).await;
    let run = "run_06cp9m2k2g000f0e1d2c3b4a50";
    let waitpoint = "wait_06cp9m34hg000vqtrs6e5c4b20";
    for (arguments, code, words) in [
        (&["run", "submit", "mailer"][..], 69, "no workload mailer takes runs"),
        (&["run", "show", run], 66, "there is no run_06cp9m2k2g000f0e1d2c3b4a50"),
        (&["run", "cancel", run], 66, "belay run ls"),
        (&["run", "wait", run], 66, "there is no run_06cp9m2k2g000f0e1d2c3b4a50"),
        (&["waitpoint", "complete", waitpoint], 66, "belay waitpoint ls"),
        (&["runner", "token", "run-7", "--workload", "mailer"], 64, "does not begin with \"run-\""),
    ] {
        let (found, told, error) = belay(&node, arguments).await;
        assert_eq!((found, &*told), (Some(code), ""), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    for (arguments, page) in [
        (["run", "ls"], "no runs\n"),
        (["runner", "ls"], "no runners\n"),
        (["waitpoint", "ls"], "no waitpoints\n"),
    ] {
        let (code, told, error) = belay(&node, &arguments).await;
        assert_eq!((code, &*told), (Some(0), page), "{error}");
    }
    node.end().await;
}
