//! `belay run`, `belay runner` and `belay waitpoint`.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    Acceptance, CheckpointStatus, CompleteWaitpoint, Empty, IssuedToken, RemovedCheckpoint,
    RunDetail, RunId, RunLogQuery, RunPage, RunState, RunnerStatus, SubmitRequest, Submitted,
    TokenRequest, WaitpointPage,
};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::logs::{self, Stamps};
use super::travel;
use crate::cli::{CheckpointVerb, Format, Listing, NewRun, RunVerb, RunnerVerb, WaitpointVerb};
use crate::client::{Client, Document};
use crate::core::view::runs as view;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// Longest payload file that is read; belayd takes 1 MiB of compact JSON.
const LONGEST_PAYLOAD: u64 = 2 * 1024 * 1024;
/// Pause before a run is looked at again, doubled up to the longest.
const LOOK: Duration = Duration::from_millis(100);
/// Longest pause before a run is looked at again.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A run that was waited for failed or was cancelled.
const RUN_FAILED: u8 = 1;
/// A wait that was given up (`EX_TEMPFAIL`).
const NOT_NOW: u8 = 75;

pub(crate) async fn run(
    client: &Client,
    verb: RunVerb,
    output: &Output,
) -> Result<ExitCode, Ending> {
    match verb {
        RunVerb::Submit { workload, run, wait } => {
            let id = submit(client, workload, run, output).await?;
            if wait {
                return wait_for(client, id, None, output).await;
            }
            output.text(&format!("{id}\n"))?;
        }
        RunVerb::Ls { workload, states, limit, listing } => {
            let mut query = Query::default();
            query.add("workload", workload.as_ref());
            for state in &states {
                query.add("state", Some(state));
            }
            query.add("limit", limit.as_ref());
            let page: RunPage = client.get(&query.of("/v1/runs")).await?;
            show(listing, output, &page, || view::runs(&page, Timestamp::now(), output.style()))?;
        }
        RunVerb::Show { run, listing } => {
            let detail = detail(client, run).await?;
            let now = Timestamp::now();
            show(listing, output, &detail, || view::run(&detail, now, output.style()))?;
        }
        RunVerb::Logs { run, follow, tail, timestamps } => {
            let stamps = if timestamps { Stamps::Shown } else { Stamps::Hidden };
            let query = RunLogQuery { follow, tail, after: None };
            logs::run_of(client, run, query, stamps, output).await?;
        }
        RunVerb::Cancel { run } => {
            let path = format!("/v1/runs/{run}/cancel");
            let _: Empty = client.send(Method::POST, &path, Document::none()).await?;
            output.text(&format!("{run} is cancelled\n"))?;
        }
        RunVerb::Wait { run, timeout } => return wait_for(client, run, timeout, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn submit(
    client: &Client,
    workload: WorkloadName,
    run: NewRun,
    output: &Output,
) -> Result<RunId, Ending> {
    let payload = match (run.payload, &run.payload_file) {
        (Some(payload), _) => payload,
        (None, Some(file)) => read_payload(file)?,
        (None, None) => Value::Null,
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let request = SubmitRequest {
        workload,
        payload,
        idempotency_key: run.key,
        priority: run.priority,
        delay_ms: run.delay.map_or(0, millis),
        timeout_ms: run.attempt_timeout.map(millis),
        max_attempts: run.max_attempts,
    };
    let submitted: Submitted =
        client.send(Method::POST, "/v1/runs", Document::of(&request)).await?;
    if submitted.acceptance == Acceptance::Known {
        output.notice("this run was submitted before, under the same key");
    }
    Ok(submitted.run)
}

fn read_payload(file: &Path) -> Result<Value, Ending> {
    let name = if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let unusable = |why: String| {
        Failure::new(failure::NO_INPUT, format!("cannot use {name}: {why}"), "name a file of JSON")
    };
    let mut text = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST_PAYLOAD + 1).read_to_end(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(LONGEST_PAYLOAD + 1).read_to_end(&mut text))
    };
    let length = read.map_err(|error| unusable(error.to_string()))?;
    if length as u64 > LONGEST_PAYLOAD {
        return Err(unusable("it is longer than 2 MiB".to_owned()).into());
    }
    serde_json::from_slice(&text).map_err(|error| unusable(format!("not JSON: {error}")).into())
}

async fn detail(client: &Client, run: RunId) -> Result<RunDetail, Ending> {
    client.get(&format!("/v1/runs/{run}")).await
}

/// Waits for the end of a run; its result is the output, a failure the exit code.
async fn wait_for(
    client: &Client,
    run: RunId,
    timeout: Option<Duration>,
    output: &Output,
) -> Result<ExitCode, Ending> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut pause = LOOK;
    loop {
        let detail = detail(client, run).await?;
        let status = &detail.status;
        let failure = status.failure.as_deref().unwrap_or("it did not say why");
        match status.state {
            RunState::Finished => {
                output.json(detail.output.as_ref().unwrap_or(&Value::Null))?;
                return Ok(ExitCode::SUCCESS);
            }
            RunState::Failed => {
                let what = format!("{run} failed after {} attempts: {failure}", status.attempt);
                let next = format!("belay run show {run}");
                return Err(Failure::new(RUN_FAILED, what, next).into());
            }
            RunState::Cancelled => {
                let what = format!("{run} was cancelled");
                let next = format!("belay run show {run}");
                return Err(Failure::new(RUN_FAILED, what, next).into());
            }
            RunState::Moved => {
                let to = status.departure.as_ref().map(|departure| departure.to.to_string());
                let to = to.unwrap_or_else(|| "another node".to_owned());
                let next = format!("belay run wait {run}, on {to}");
                return Err(
                    Failure::new(RUN_FAILED, format!("{run} has moved to {to}"), next).into()
                );
            }
            RunState::Queued
            | RunState::Assigned
            | RunState::Executing
            | RunState::Waiting
            | RunState::Suspended
            | RunState::Restoring => {}
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let what = format!("{run} is still {}", status.state);
            return Err(Failure::new(NOT_NOW, what, format!("belay run show {run}")).into());
        }
        tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

pub(crate) async fn runner(
    client: &Client,
    verb: RunnerVerb,
    output: &Output,
) -> Result<(), Ending> {
    match verb {
        RunnerVerb::Ls(listing) => {
            let runners: Vec<RunnerStatus> = client.get("/v1/runners").await?;
            show(listing, output, &runners, || view::runners(&runners, output.style()))
        }
        RunnerVerb::Token { runner, workload, ttl, listing } => {
            let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let request = Document::of(&TokenRequest { runner, workload, ttl_ms });
            let issued: IssuedToken =
                client.send(Method::POST, "/v1/runners/tokens", request).await?;
            if listing.output == Format::Table
                && let Some(until) = issued.expires_at
            {
                let until = crate::core::human::clock(until);
                output.notice(&format!(
                    "{} may connect with it until {until}; it is not shown again",
                    issued.runner
                ));
            }
            show(listing, output, &issued, || format!("{}\n", issued.token.expose()))
        }
        RunnerVerb::Revoke { runner } => {
            let path = format!("/v1/runners/{runner}/tokens");
            let _: Empty = client.send(Method::DELETE, &path, Document::none()).await?;
            output.text(&format!("no token of {runner} lets it connect any more\n"))
        }
    }
}

pub(crate) async fn checkpoint(
    client: &Client,
    verb: CheckpointVerb,
    output: &Output,
) -> Result<(), Ending> {
    match verb {
        CheckpointVerb::Ls(listing) => {
            let kept: Vec<CheckpointStatus> = client.get("/v1/checkpoints").await?;
            let now = Timestamp::now();
            show(listing, output, &kept, || view::checkpoints(&kept, now, output.style()))
        }
        CheckpointVerb::Export { runner, to, file } => {
            travel::export(client, &runner, &to, file.as_deref(), output).await
        }
        CheckpointVerb::Import { file, check, listing } => {
            let imported = travel::import(client, &file, check).await?;
            show(listing, output, &imported, || view::imported(&imported))
        }
        CheckpointVerb::Reclaim { runner, yes } => {
            travel::reclaim(client, &runner, yes, output).await
        }
        CheckpointVerb::Rm { runner } => {
            let path = format!("/v1/checkpoints/{runner}");
            let removed: RemovedCheckpoint =
                client.send(Method::DELETE, &path, Document::none()).await?;
            let run = removed.run;
            output.text(&format!(
                "the checkpoint of {runner} goes; {run} does not wait in it any more\n"
            ))
        }
    }
}

pub(crate) async fn waitpoint(
    client: &Client,
    verb: WaitpointVerb,
    output: &Output,
) -> Result<(), Ending> {
    match verb {
        WaitpointVerb::Ls { workload, run, states, limit, listing } => {
            let mut query = Query::default();
            query.add("workload", workload.as_ref());
            query.add("run", run.as_ref());
            for state in &states {
                query.add("state", Some(&state.as_str()));
            }
            query.add("limit", limit.as_ref());
            let page: WaitpointPage = client.get(&query.of("/v1/waitpoints")).await?;
            let now = Timestamp::now();
            show(listing, output, &page, || view::waitpoints(&page, now, output.style()))
        }
        WaitpointVerb::Complete { waitpoint, output: result } => {
            let completion = CompleteWaitpoint { output: result.unwrap_or_default() };
            let path = format!("/v1/waitpoints/{waitpoint}/complete");
            let _: Empty = client.send(Method::POST, &path, Document::of(&completion)).await?;
            output.text(&format!("{waitpoint} is completed\n"))
        }
    }
}

fn show<T: serde::Serialize>(
    listing: Listing,
    output: &Output,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Ending> {
    match listing.output {
        Format::Json => output.json(value),
        Format::Table => output.text(&table()),
    }
}

/// A query string of words that need no escaping: names, ids, states, numbers.
#[derive(Debug, Default)]
struct Query(String);

impl Query {
    fn add<T: std::fmt::Display>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            let mark = if self.0.is_empty() { '?' } else { '&' };
            let _ = write!(self.0, "{mark}{key}={value}");
        }
    }

    fn of(&self, page: &str) -> String {
        format!("{page}{}", self.0)
    }
}
