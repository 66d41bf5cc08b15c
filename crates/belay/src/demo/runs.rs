//! The runner part of the demo: a wait that ends before its snapshot, and one that does not.

use std::path::PathBuf;
use std::time::Instant;

use belay_protocol::runner::{
    CompleteWaitpoint, Empty, RunDetail, RunId, RunState, SnapshotStatus, SubmitRequest, Submitted,
    WaitpointState,
};
use belay_protocol::{Event, EventDetails, EventPage, NodeStatus};
use reqwest::Method;
use serde_json::{Value, json};

use super::narrator::Narrator;
use super::node::Node;
use super::story::{Stage, broken, milliseconds};
use super::{image, tool};
use crate::client::Document;
use crate::core::human;
use crate::core::stage::{self, HELD_MIB, Role, SNAPSHOT_DELAY};
use crate::failure::{self, Ending, Failure};

impl Stage<'_> {
    /// Two runs, each of which waits for a word.
    pub(super) async fn runs(&self, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let node = self.node(Role::Provider);
        let image = self.place().runner_image();
        let program = std::env::current_exe()
            .map_err(|error| Failure::local("cannot find this program", &error, ""))?;
        image::write_runner(&image, &program).await?;
        let outcome = node.deploy_runner(&stage::runner_spec(&image)).await?;
        let what =
            format!("{}; a run that waits for {SNAPSHOT_DELAY} is snapshotted", outcome.summary);
        narrator.say("runs", &what)?;
        self.short_wait(node, narrator).await?;
        self.long_wait(node, narrator).await
    }

    async fn short_wait(&self, node: &Node, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let began = Instant::now();
        let run = self.submit(node, json!({ "hold_mib": 0 })).await?;
        let waiting = self.run_is(node, run, RunState::Waiting).await?;
        let Some(SnapshotStatus::Pending { .. }) = waiting.status.snapshot else {
            return Err(broken(format!("no snapshot is pending: {:?}", waiting.status.snapshot)));
        };
        let time = human::milliseconds(milliseconds(began.elapsed()));
        let what = format!(
            "{run} was accepted, got a container and waits after {time}, its snapshot pending"
        );
        narrator.say("runs", &what)?;
        answer(node, &waiting, "soon").await?;
        let ended = self.run_is(node, run, RunState::Finished).await?;
        if ended.status.snapshot.is_some() || !checkpoints(node).await?.is_empty() {
            return Err(broken(format!("{run} was snapshotted, though its wait had ended")));
        }
        narrator.say("proof", "the wait ended first: the snapshot was cancelled, none was taken")
    }

    async fn long_wait(&self, node: &Node, narrator: &Narrator<'_>) -> Result<(), Ending> {
        let run = self.submit(node, json!({ "hold_mib": HELD_MIB })).await?;
        self.run_is(node, run, RunState::Waiting).await?;
        let before = memory(node).await?;
        let what = format!("{run} waits, its runner holds {} of memory", human::size(before));
        narrator.say("runs", &what)?;
        let suspended = self.run_is(node, run, RunState::Suspended).await?;
        let after = memory(node).await?;
        match suspended.status.snapshot {
            Some(SnapshotStatus::Checkpointed {}) => {
                let told = checkpoints(node).await?;
                let Some((bytes, took)) = told.last().and_then(written) else {
                    return Err(broken("no event tells of the checkpoint".to_owned()));
                };
                let what = format!(
                    "nobody came: checkpointed to the disk in {took}, {}; its runner holds {} of memory now",
                    human::size(bytes),
                    human::size(after)
                );
                narrator.say("runs", &what)?;
            }
            Some(SnapshotStatus::Paused {}) => {
                let status: NodeStatus = node.client().get("/v1/status").await?;
                let what = format!(
                    "nobody came: frozen, with its {} of memory; {} {} here has no checkpoints",
                    human::size(after),
                    status.engine.kind,
                    status.engine.version
                );
                narrator.say("runs", &what)?;
            }
            other => {
                return Err(broken(format!("{run} is suspended without a snapshot: {other:?}")));
            }
        }
        let began = Instant::now();
        answer(node, &suspended, "at last").await?;
        let ended = self.run_is(node, run, RunState::Finished).await?;
        let time = human::milliseconds(milliseconds(began.elapsed()));
        let output = ended.output.unwrap_or_default();
        if output != json!({ "heard": "at last", "whole": true }) || ended.status.attempt.get() != 1
        {
            return Err(broken(format!("{run} came back otherwise than it went: {output}")));
        }
        let what = format!("somebody came: restored, answered and finished in {time}");
        narrator.say("runs", &what)?;
        narrator.say(
            "proof",
            &format!("the same process, its {HELD_MIB} MiB whole, in its first attempt"),
        )
    }

    async fn submit(&self, node: &Node, payload: Value) -> Result<RunId, Ending> {
        let request = SubmitRequest {
            workload: stage::RUNS.parse().expect("a constant name"),
            payload,
            idempotency_key: None,
            priority: 0,
            delay_ms: 0,
            timeout_ms: None,
            max_attempts: 1,
        };
        // The runner server begins a moment after the node is ready.
        self.patiently("the runner server does not take a run", async || {
            let sent = node.client().send(Method::POST, "/v1/runs", Document::of(&request));
            sent.await.ok().map(|submitted: Submitted| submitted.run)
        })
        .await
    }

    async fn run_is(&self, node: &Node, run: RunId, state: RunState) -> Result<RunDetail, Ending> {
        let path = format!("/v1/runs/{run}");
        let mut failed = None;
        let found = self
            .patiently(&format!("{run} did not come to be {state}"), async || {
                let detail: RunDetail = node.client().get(&path).await.ok()?;
                if detail.status.state.is_ended() && detail.status.state != state {
                    failed.clone_from(&detail.status.failure);
                    return Some(detail);
                }
                (detail.status.state == state).then_some(detail)
            })
            .await?;
        if found.status.state == state {
            return Ok(found);
        }
        let why = failed.unwrap_or_else(|| "it does not say why".to_owned());
        Err(broken(format!("{run} is {} instead of {state}: {why}", found.status.state)))
    }
}

/// Completes what a run waits for.
async fn answer(node: &Node, run: &RunDetail, word: &str) -> Result<(), Ending> {
    let awaited = run.waitpoints.iter().find(|point| point.state == WaitpointState::Awaited);
    let Some(awaited) = awaited else {
        return Err(broken(format!("{} waits for nothing", run.status.run)));
    };
    let path = format!("/v1/waitpoints/{}/complete", awaited.waitpoint);
    let request = CompleteWaitpoint { output: word.into() };
    let _: Empty = node.client().send(Method::POST, &path, Document::of(&request)).await?;
    Ok(())
}

async fn checkpoints(node: &Node) -> Result<Vec<Event>, Ending> {
    let page: EventPage = node.client().get("/v1/events?kind=runner-checkpointed&limit=10").await?;
    Ok(page.events)
}

/// Bytes on the disk, and the time until they were there.
fn written(event: &Event) -> Option<(u64, String)> {
    match &event.details {
        EventDetails::RunnerCheckpointed { bytes, took_ms, .. } => {
            Some((*bytes, took_ms.map_or("an unknown time".to_owned(), human::milliseconds)))
        }
        _ => None,
    }
}

/// Memory of the runners' processes, without what they share with files, in bytes.
async fn memory(node: &Node) -> Result<u64, Ending> {
    let missing = || {
        let next = "apt-get install podman";
        Failure::new(failure::UNAVAILABLE, "neither podman nor docker is there", next)
    };
    let engine = ["podman", "docker"].into_iter().find_map(tool::find);
    let engine: PathBuf = engine.ok_or_else(missing)?;
    let of_runs = format!("label=io.belay.runner-of={}", stage::RUNS);
    let of_node = format!("label=io.belay.node={}", node.role.node());
    let list = ["ps", "--quiet", "--no-trunc", "--filter", &of_runs, "--filter", &of_node];
    let mut sum = 0;
    for id in tool::run(&engine, &list).await?.lines() {
        let pid = tool::run(&engine, &["inspect", "--format", "{{.State.Pid}}", id]).await?;
        // A process that has just gone has no memory.
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        let line = status.unwrap_or_default();
        let kib = line.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = kib.and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok());
        sum += kib.unwrap_or_default() * 1024;
    }
    Ok(sum)
}
