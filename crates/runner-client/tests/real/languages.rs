//! The runners of the documentation, as they stand there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use belay_protocol::runner::{RunState, RunnerToken};
use serde_json::json;
use tokio::time::Instant;

use super::node::{Node, PATIENCE};

/// A runner of the documentation, in a process of its own.
struct Process(Child);

impl Process {
    fn start(file: &str, url: &str, token: &RunnerToken) -> Self {
        let file = documentation().join(file);
        let program = match file.extension().and_then(|extension| extension.to_str()) {
            Some("py") => "/usr/bin/python3",
            Some("js") => "/usr/bin/node",
            other => panic!("nothing runs {other:?}"),
        };
        let child = Command::new(program)
            .arg(file)
            // Where Debian puts packages of Node, which its own Node looks in anyway.
            .env("NODE_PATH", "/usr/share/nodejs")
            .env("BELAY_RUNNER_URL", url)
            .env("BELAY_RUNNER_TOKEN", token.expose())
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}; run cargo xtask setup")))
    }

    /// Waits for its end by itself.
    async fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("it is a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn documentation() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runners")
}

fn soon() -> String {
    (jiff::Timestamp::now() + Duration::from_secs(1)).to_string()
}

/// What a runner must be able to do, in whatever language.
async fn is_a_runner(file: &str) {
    let lines = std::fs::read_to_string(documentation().join(file)).expect("it is there");
    assert!(lines.lines().count() < 80, "{file} has {} lines", lines.lines().count());

    let node = Node::start().await;
    let token = node.token("one").await;
    let process = Process::start(file, &node.url(), &token);
    // It executes, waits, and executes again.
    for _ in 0..2 {
        let until = soon();
        let run = node.submit(json!({"until": until})).await;
        let detail = node.reaches(run, RunState::Finished).await;
        assert_eq!(detail.output, Some(json!({"waited": until})), "{file}");
    }
    // What its work cannot do is a failed attempt, and the process goes on.
    let run = node.submit_with(json!({"payload": {"until": "noon"}, "max_attempts": 1})).await;
    let detail = node.reaches(run, RunState::Failed).await;
    assert_eq!(detail.status.attempt.get(), 1, "{file}");
    // A run that is cancelled while it waits is dropped.
    let run = node.submit(json!({"until": "2096-01-01T00:00:00Z"})).await;
    node.reaches(run, RunState::Waiting).await;
    node.handle.cancel(run).await.expect("is cancelled");

    // A wait goes on over the end of the connection, in another epoch.
    let until = (jiff::Timestamp::now() + Duration::from_secs(4)).to_string();
    let run = node.submit(json!({"until": until})).await;
    node.reaches(run, RunState::Waiting).await;
    let node = node.restart().await;
    let detail = node.reaches(run, RunState::Finished).await;
    assert_eq!(detail.output, Some(json!({"waited": until})), "{file}");
    assert_eq!(detail.status.attempt.get(), 1, "{file}");
    assert!(detail.status.epoch.get() >= 2, "{file}");

    // An attempt of a process that was killed is followed by another, of the next process.
    let run = node.submit(json!({"until": soon()})).await;
    node.reaches(run, RunState::Waiting).await;
    drop(process);
    let process = Process::start(file, &node.url(), &token);
    let detail = node.reaches(run, RunState::Finished).await;
    assert_eq!(detail.status.attempt.get(), 2, "{file}");

    // Another under its name ends it.
    let another = Process::start(file, &node.url(), &token);
    assert!(process.ended().await.is_some(), "{file}");
    drop(another);
    // And so does a token that is worthless.
    node.handle.revoke("one".parse().expect("a name")).await.expect("is revoked");
    let refused = Process::start(file, &node.url(), &token);
    assert_eq!(refused.ended().await, Some(1), "{file}");
    node.stop().await;
}

#[tokio::test]
async fn the_runner_in_python_is_one() {
    is_a_runner("runner.py").await;
}

#[tokio::test]
async fn the_runner_in_node_is_one() {
    is_a_runner("runner.js").await;
}
