//! Runs in containers, with a real belayd and a real runner: from their submission to their result,
//! over the disk and over deaths.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use belay_harness::{Node, NodeOptions, RunBench, binary, until};
use belay_protocol::runner::{CheckpointStatus, RunId, RunState, SnapshotStatus};
use belay_protocol::{LogLine, LogStream};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// `runner` are lines of the table `runner`.
async fn bench(options: NodeOptions, memory: &str, runner: &str) -> RunBench {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_test-runner"));
    let bench = RunBench::new(Node::start(options).await, &program);
    bench.deploy(&format!("[limits]\nmemory = \"{memory}\"\n[runner]\n{runner}")).await;
    bench
}

async fn output(bench: &RunBench, run: RunId) -> Value {
    bench.is(run, RunState::Finished).await.output.expect("it has a result")
}

/// What a run wrote.
async fn wrote(bench: &RunBench, run: RunId) -> Result<Vec<String>, String> {
    let sent = bench.http.get(format!("http://belay/v1/runs/{run}/logs")).send().await;
    let answer = sent.map_err(|error| format!("{error:?}"))?;
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    let lines: Result<Vec<LogLine>, _> = text.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| format!("{error}: {text}"))?;
    let written = lines.into_iter().filter(|line| line.stream == LogStream::Stdout);
    Ok(written.map(|line| line.text).collect())
}

async fn writes(bench: &RunBench, run: RunId, lines: &[&str]) {
    until(&format!("{run} to have written {lines:?}"), SOON, || async {
        let found = wrote(bench, run).await?;
        if found == lines { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_has_what_it_wrote_also_when_its_runner_had_others_and_is_gone() {
    let mut bench = bench(NodeOptions::default(), "64M", "max_concurrent = 1\n").await;
    let say = |word: &str| json!({ "say": [format!("{word}, one"), format!("{word}, two")] });
    let first = bench.submit(say("first"), 3).await;
    let second = bench.submit(say("second"), 3).await;
    assert_eq!(output(&bench, first).await["runs"], 1);
    assert_eq!(output(&bench, second).await["runs"], 2, "its runner was warm");
    writes(&bench, first, &["first, one", "first, two"]).await;
    writes(&bench, second, &["second, one", "second, two"]).await;

    // One that is followed ends with its run.
    let mut wish = say("third");
    wish["wait_ms"] = 1500.into();
    let third = bench.submit(wish, 3).await;
    let following = tokio::process::Command::new(binary("belay"))
        .arg("--socket")
        .arg(bench.node.socket())
        .args(["run", "logs", "--follow", &third.to_string()])
        .output();
    let followed =
        tokio::time::timeout(SOON, following).await.expect("it ends").expect("belay runs");
    let (shown, said) =
        (String::from_utf8_lossy(&followed.stdout), String::from_utf8_lossy(&followed.stderr));
    assert!(followed.status.success(), "{said}");
    assert_eq!(shown, "third, one\nthird, two\n");
    assert!(said.contains("attempt 1, run-"), "{said}");
    assert_eq!(bench.run(third).await.expect("is there").status.state, RunState::Finished);

    // Its container dies while nobody looks.
    let containers = bench.containers();
    bench.node.kill();
    for container in &containers {
        let killed = Command::new("/usr/bin/podman").args(["kill", container]).output();
        assert!(killed.expect("podman kills").status.success());
    }
    bench.node.launch().await;
    until("the container to be gone", SOON, || async {
        let left = bench.containers();
        if containers.iter().any(|gone| left.contains(gone)) {
            Err(format!("{left:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    writes(&bench, first, &["first, one", "first, two"]).await;
    writes(&bench, second, &["second, one", "second, two"]).await;
    writes(&bench, third, &["third, one", "third, two"]).await;

    // An attempt that ends with its runner's life has what it wrote before.
    let mut wish = say("last words");
    wish["exit"] = 7.into();
    let dying = bench.submit(wish, 2).await;
    bench.is(dying, RunState::Failed).await;
    let twice = ["last words, one", "last words, two", "last words, one", "last words, two"];
    writes(&bench, dying, &twice).await;
    bench.node.kill();
    bench.node.launch().await;
    writes(&bench, dying, &twice).await;
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_for_room_and_go_to_a_runner_that_is_there() {
    let bench = bench(NodeOptions::default(), "64M", "max_concurrent = 1\n").await;
    let (first, second) =
        (bench.submit(json!({ "wait_ms": 1500 }), 3).await, bench.submit(json!({}), 3).await);
    bench.is(first, RunState::Waiting).await;
    assert_eq!(bench.run(second).await.expect("is there").status.state, RunState::Queued);
    assert_eq!(output(&bench, first).await["runs"], 1);
    output(&bench, second).await;
    let there = bench.containers().len();
    let third = bench.submit(json!({}), 3).await;
    assert!(output(&bench, third).await["runs"].as_u64() > Some(1), "its runner was warm");
    assert_eq!(bench.containers().len(), there);
    assert_eq!(bench.told("runner-checkpointed").await, Vec::<Value>::new(), "a short wait");
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_bounds_how_many_runners_there_are() {
    let config = "[runner]\nmemory = \"100M\"\n".to_owned();
    let options = NodeOptions { config, ..NodeOptions::default() };
    let bench = bench(options, "64M", "max_concurrent = 4\n").await;
    let long = bench.submit(json!({ "wait_ms": 4000 }), 3).await;
    let next = bench.submit(json!({}), 3).await;
    bench.is(long, RunState::Waiting).await;
    assert_eq!(bench.run(next).await.expect("is there").status.state, RunState::Queued);
    assert_eq!(bench.containers().len(), 1);
    output(&bench, long).await;
    output(&bench, next).await;
    assert_eq!(bench.containers().len(), 1);
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_fails_its_attempt_at_once_with_the_reason() {
    let bench = bench(NodeOptions::default(), "64M", "max_concurrent = 1\n").await;
    let began = Instant::now();
    let ended = bench.submit(json!({ "exit": 7 }), 1).await;
    let failed = bench.is(ended, RunState::Failed).await;
    assert_eq!(failed.status.failure.as_deref(), Some("the runner ended with code 7"));
    assert!(began.elapsed() < Duration::from_secs(45), "long before it would count as lost");
    let hog = bench.submit(json!({ "hog": true }), 1).await;
    let failed = bench.is(hog, RunState::Failed).await;
    let reason = "the runner ended with code 137, killed for want of memory";
    assert_eq!(failed.status.failure.as_deref(), Some(reason));
    assert_eq!(output(&bench, bench.submit(json!({}), 1).await).await["runs"], 1);
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_goes_to_the_disk_and_frees_its_memory_and_the_run_goes_on() {
    let runner = "max_concurrent = 1\nsnapshot_delay = \"0s\"\n";
    let mut bench = bench(NodeOptions::default(), "128M", runner).await;
    let run = bench.submit(json!({ "hold_mib": 48, "wait_ms": 12_000 }), 1).await;
    let suspended = bench.is(run, RunState::Suspended).await;
    assert_eq!(suspended.status.snapshot, Some(SnapshotStatus::Checkpointed {}));
    let status = bench.node.client().status().await.expect("belayd answers");
    assert_eq!(status.engine.snapshot, "checkpoint");
    let told = bench.told("runner-checkpointed").await;
    assert!(told[0]["details"]["bytes"].as_u64() > Some(48 << 20), "{told:?}");
    let metrics = bench.node.client().metrics().await.expect("belayd answers");
    assert!(metrics.contains("belay_runner_reserved_bytes 0"), "{metrics}");
    // Over a death of belayd as well.
    bench.node.kill();
    bench.node.launch().await;
    let output = output(&bench, run).await;
    assert_eq!((&output["held"], &output["whole"]), (&json!(48 << 20), &json!(true)));
    assert_eq!(bench.run(run).await.expect("is there").status.attempt.get(), 1);
    for kind in [
        "run-submitted",
        "run-suspended",
        "snapshot-scheduled",
        "snapshot-dispatched",
        "snapshot-taken",
        "run-resumed",
        "run-finished",
    ] {
        let told = bench.told(kind).await;
        assert_eq!(told.len(), 1, "{kind}: {told:?}");
        assert_eq!(told[0]["details"]["run"], json!(run), "{kind}");
    }
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_shown_and_its_removal_begins_the_run_anew() {
    let runner = "max_concurrent = 1\nsnapshot_delay = \"0s\"\n";
    let bench = bench(NodeOptions::default(), "64M", runner).await;
    let run = bench.submit(json!({ "wait_ms": 3_600_000 }), 1).await;
    bench.is(run, RunState::Suspended).await;
    let kept = bench.http.get("http://belay/v1/checkpoints").send().await.expect("belayd answers");
    let kept: Vec<CheckpointStatus> = kept.json().await.expect("the documented shape");
    let [checkpoint] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((checkpoint.run, &checkpoint.incompatible), (run, &None));
    assert!(checkpoint.bytes > 0 && checkpoint.taken_with.criu.is_some(), "{checkpoint:?}");
    let containers = bench.containers();
    assert_eq!(containers.len(), 1, "{containers:?}");

    let remove = |name: String| {
        let path = format!("http://belay/v1/checkpoints/{name}");
        bench.http.delete(path).send()
    };
    let unknown = remove("run-unknown".to_owned()).await.expect("belayd answers");
    assert_eq!(unknown.status().as_u16(), 404);
    let removed = remove(checkpoint.runner.to_string()).await.expect("belayd answers");
    assert_eq!(removed.status().as_u16(), 200);
    let failed = bench.is(run, RunState::Failed).await;
    let why = "an operator removed the checkpoint of its runner";
    assert_eq!(failed.status.failure.as_deref(), Some(why));
    until("its container to be gone", SOON, || async {
        let left = bench.containers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let none = bench.http.get("http://belay/v1/checkpoints").send().await.expect("belayd answers");
    assert_eq!(none.text().await.expect("a body"), "[]");
    bench.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_belayd_around_a_checkpoint_loses_no_run() {
    let runner = "max_concurrent = 1\nsnapshot_delay = \"0s\"\n";
    let mut bench = bench(NodeOptions::default(), "64M", runner).await;
    for delay in [0, 150, 400] {
        let run = bench.submit(json!({ "hold_mib": 8, "wait_ms": 9000 }), 1).await;
        until("the wait to begin", SOON, || async {
            let found = bench.run(run).await?;
            match found.status.state {
                RunState::Waiting | RunState::Suspended => Ok(()),
                state => Err(format!("{state:?}")),
            }
        })
        .await;
        // The moment of the death is what is tried out.
        tokio::time::sleep(Duration::from_millis(delay)).await;
        bench.node.kill();
        bench.node.launch().await;
        let output = output(&bench, run).await;
        assert_eq!(output["whole"], true, "killed after {delay} ms");
    }
    bench.node.end().await;
}

/// An engine that ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_criu_a_runner_is_frozen_and_that_is_said() {
    let place = tempfile::tempdir().expect("a directory");
    let socket = place.path().join("podman.sock");
    // CRIU lies in /usr/local/sbin alone: this engine does not find it.
    let service = Command::new("/usr/bin/podman")
        .args(["system", "service", "--time=0", &format!("unix://{}", socket.display())])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .expect("the engine starts");
    let _service = Service(service);
    until("the engine to listen", SOON, || async {
        if socket.exists() { Ok(()) } else { Err("no socket".to_owned()) }
    })
    .await;
    let config = format!("[engine]\nsocket = \"{}\"\n", socket.display());
    let options = NodeOptions { config, ..NodeOptions::default() };
    let runner = "max_concurrent = 1\nsnapshot_delay = \"0s\"\n";
    let bench = bench(options, "64M", runner).await;
    let run = bench.submit(json!({ "wait_ms": 6000 }), 1).await;
    let suspended = bench.is(run, RunState::Suspended).await;
    assert_eq!(suspended.status.snapshot, Some(SnapshotStatus::Paused {}));
    assert_eq!(bench.told("runner-paused").await.len(), 1);
    let status = bench.node.client().status().await.expect("belayd answers");
    assert_eq!(status.engine.snapshot, "pause");
    assert_eq!(bench.told("runner-checkpointed").await, Vec::<Value>::new());
    assert_eq!(output(&bench, run).await["runs"], 1);
    bench.node.end().await;
}
