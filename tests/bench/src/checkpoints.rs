//! A runner to the disk and back by belayd, beside Podman's own commands on the same container.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use belay_harness::{Node, NodeOptions, binary, program_image, until};
use belay_protocol::EventDetails;
use belay_protocol::runner::{RunDetail, RunId, RunState, Submitted};
use serde_json::{Value, json};

use crate::lifecycle::{Finding, finding, median};

const PODMAN: &str = "/usr/bin/podman";
/// What a run holds while it waits.
const HELD: u64 = 48;
const SOON: Duration = Duration::from_secs(90);

/// What one way there and back takes, in milliseconds.
#[derive(Default)]
struct Times {
    frozen: Vec<f64>,
    checkpoint: Vec<f64>,
    restore: Vec<f64>,
}

/// So many times each.
pub(crate) async fn run(rounds: usize) -> Result<Vec<Finding>> {
    let mut node = Node::start(NodeOptions::default()).await;
    program_image(node.directory(), &binary("belay"))?;
    let spec = "name = \"work\"\nimage = \"file:belay.tar\"\ncommand = [\"/belay\", \"demo\", \"--as-runner\"]\n\
                stop_grace = \"0s\"\n[limits]\nmemory = \"256M\"\n[runner]\nsnapshot_delay = \"2s\"\n";
    let deployed = node.client().deploy(spec, node.directory()).await;
    deployed.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let http = reqwest::Client::builder().unix_socket(node.socket()).build()?;
    let runs = Runs { node: &node, http };
    let mut ours = Times::default();
    for round in 1..=rounds {
        let run = runs.submit().await?;
        runs.go_on_once(run, RunState::Suspended).await?;
        runs.is(run, RunState::Finished).await;
        ours = runs.told(round).await?;
    }
    // The same runner, with the same memory, waiting the same way, and nobody to act on it.
    let last = runs.submit().await?;
    runs.is(last, RunState::Waiting).await;
    let container = runs.container()?;
    drop(runs);
    node.kill();
    let podmans = by_hand(&container, rounds);
    node.launch().await;
    let podmans = podmans?;
    let http = reqwest::Client::builder().unix_socket(node.socket()).build()?;
    let runs = Runs { node: &node, http };
    runs.go_on_once(last, RunState::Suspended).await?;
    let ended = runs.is(last, RunState::Finished).await;
    ensure!(ended.output.is_some_and(|output| output["whole"] == true), "its memory is whole");
    node.end().await;
    Ok(compare(ours, podmans))
}

fn compare(mut ours: Times, mut podmans: Times) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut beside = |what: &str, ours: &mut [f64], podmans: &mut [f64]| {
        let (ours, podmans) = (median(ours), median(podmans));
        findings.push(finding(
            format!("{what}, belayd beside Podman"),
            ours / podmans,
            "times",
            Some(1.3),
        ));
        findings.push(finding(format!("{what}, belayd"), ours, "ms", None));
        findings.push(finding(format!("{what}, as podman reports"), podmans, "ms", None));
    };
    beside("time frozen", &mut ours.frozen, &mut podmans.frozen);
    beside("checkpoint", &mut ours.checkpoint, &mut podmans.checkpoint);
    beside("restore", &mut ours.restore, &mut podmans.restore);
    findings
}

struct Runs<'n> {
    node: &'n Node,
    http: reqwest::Client,
}

impl Runs<'_> {
    async fn submit(&self) -> Result<RunId> {
        let wish = json!({ "workload": "work", "payload": { "hold_mib": HELD } });
        let sent = self.http.post("http://belay/v1/runs").json(&wish).send().await?;
        let text = sent.text().await?;
        let taken: Submitted = serde_json::from_str(&text).context(text)?;
        Ok(taken.run)
    }

    async fn run(&self, run: RunId) -> Result<RunDetail, String> {
        let sent = self.http.get(format!("http://belay/v1/runs/{run}")).send().await;
        let text = sent.map_err(|error| error.to_string())?.text().await;
        let text = text.map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    async fn is(&self, run: RunId, state: RunState) -> RunDetail {
        until(&format!("{run} to be {}", state.as_str()), SOON, || async {
            let found = self.run(run).await?;
            if found.status.state == state { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    }

    /// Lets the run go on once it is there.
    async fn go_on_once(&self, run: RunId, state: RunState) -> Result<()> {
        self.is(run, state).await;
        let listed = self.http.get("http://belay/v1/waitpoints").send().await?.text().await?;
        let page: Value = serde_json::from_str(&listed)?;
        let waitpoints = page["waitpoints"].as_array().context(listed.clone())?;
        let own = waitpoints.iter().find(|one| one["run"] == run.to_string());
        let name = own.and_then(|one| one["waitpoint"].as_str()).context(listed.clone())?;
        let path = format!("http://belay/v1/waitpoints/{name}/complete");
        let sent = self.http.post(path).json(&json!({ "output": "go on" })).send().await?;
        ensure!(sent.status().is_success(), "{}", sent.text().await?);
        Ok(())
    }

    /// What belayd has told of its own work so far.
    async fn told(&self, rounds: usize) -> Result<Times> {
        let mut times = Times::default();
        let page = self.node.client().events("workload=work&limit=1000").await;
        for event in page.map_err(anyhow::Error::msg)?.events {
            match event.details {
                EventDetails::RunnerCheckpointed {
                    frozen_ms: Some(frozen),
                    took_ms: Some(took),
                    ..
                } => {
                    times.frozen.push(millis(frozen));
                    times.checkpoint.push(millis(took));
                }
                EventDetails::RunnerRestored { took_ms, .. } => times.restore.push(millis(took_ms)),
                _ => {}
            }
        }
        ensure!(times.restore.len() == rounds, "{} restores", times.restore.len());
        Ok(times)
    }

    /// The one runner's container.
    fn container(&self) -> Result<String> {
        let filter = format!("label=io.belay.node={}", self.node.name());
        let listed = podman(&["ps", "--quiet", "--no-trunc", "--filter", &filter])?;
        ensure!(listed.lines().count() == 1, "one runner: {listed}");
        Ok(listed)
    }
}

/// To the disk and back with the engine's own command.
fn by_hand(container: &str, rounds: usize) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..rounds {
        let report = podman(&["container", "checkpoint", "--print-stats", container])?;
        let report: Value = serde_json::from_str(&report).context(report.clone())?;
        let criu = &report["container_statistics"][0]["criu_statistics"];
        times.frozen.push(micros(&criu["freezing_time"])? + micros(&criu["frozen_time"])?);
        times.checkpoint.push(micros(&report["podman_checkpoint_duration"])?);
        let report = podman(&["container", "restore", "--print-stats", container])?;
        let report: Value = serde_json::from_str(&report).context(report.clone())?;
        times.restore.push(micros(&report["podman_restore_duration"])?);
    }
    Ok(times)
}

fn podman(arguments: &[&str]) -> Result<String> {
    let output = Command::new(Path::new(PODMAN)).args(arguments).output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "podman {arguments:?}: {words}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn micros(value: &Value) -> Result<f64> {
    Ok(value.as_f64().with_context(|| format!("{value} is no number"))? / 1000.0)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of one act")]
fn millis(value: u64) -> f64 {
    value as f64
}
