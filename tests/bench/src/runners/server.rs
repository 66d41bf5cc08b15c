//! The runner server with a ledger on the disk, and an engine's side that starts nothing.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use belay_events::EventsTask;
use belay_ledger::Ledger;
use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    PAGE_LIMIT, RunId, RunQuery, RunState, RunnerId, RunnerTally, SubmitRequest,
};
use belay_runner::{
    Exit, HostEvent, HostFound, HostLink, HostOrder, HubPolicy, HubStart, IssueToken, RunnerHandle,
    RunnerServer, RunnerSource, RunningHub, Snapshotting, SocketLimits, TokenLife, WorkloadPolicy,
    link,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Submissions that are under way at a time.
const AT_ONCE: usize = 64;
/// Containers that were ordered and are not looked at yet.
const STARTS: usize = 65_536;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn run(directory: &Path) -> Result<()> {
    let (ledger, _) = Ledger::open(&directory.join("belay.db"))?;
    let shutdown = CancellationToken::new();
    let (port, link) = link();
    let policy = |runners| WorkloadPolicy {
        max_concurrent: 100_000,
        runners,
        snapshot_delay: Duration::from_secs(3600),
    };
    let (events, _, telling) = EventsTask::spawn(&ledger, shutdown.clone());
    let hub = RunningHub::start(HubStart {
        ledger,
        events,
        policy: HubPolicy {
            // A snapshot of a runner that is away is given up at once, and not kept for its return,
            // so that it can be counted.
            reconnect_grace: Duration::ZERO,
            // All are ordered before the first connects.
            start_timeout: Duration::from_secs(3600),
            ..HubPolicy::default()
        },
        workloads: vec![
            (name("foreign")?, policy(RunnerSource::Foreign)),
            (name("hosted")?, policy(RunnerSource::Hosted { memory: 1 })),
        ],
        host: port,
        found: HostFound { hosted: Vec::new(), snapshots: Snapshotting::Supported },
        shutdown: shutdown.clone(),
    })
    .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string())?;
    let limits = SocketLimits { connections: 20_000, ..SocketLimits::default() };
    let server = RunnerServer::new(hub.door, limits, shutdown.clone());
    let (started, mut starts) = mpsc::channel(STARTS);
    let mut tasks = JoinSet::new();
    let accepting = server.clone();
    tasks.spawn(async move { accepting.serve_tcp(listener).await });
    tasks.spawn(obey(link, started));

    let handle = hub.handle;
    let mut tally = handle.tally();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: usize = number.parse()?;
        match word {
            "foreign" => {
                let names = (0..number).map(|index| Ok(format!("runner-{index}").parse()?));
                let names = names.collect::<Result<Vec<RunnerId>>>()?;
                let life = TokenLife::Limited(Duration::from_secs(3600));
                say(&tokens(&handle, "foreign", names, life).await?)?;
            }
            "hosted" => {
                submit(&handle, "hosted", number).await?;
                let mut names = Vec::new();
                for _ in 0..number {
                    names.push(starts.recv().await.context("the hub orders containers")?);
                }
                say(&tokens(&handle, "hosted", names, TokenLife::Container).await?)?;
            }
            "pending" => {
                reaches(&mut tally, |tally| tally.pending_snapshots == number).await?;
                say("pending")?;
            }
            "gone" => {
                reaches(&mut tally, |tally| tally.connections + tally.pending_snapshots == 0)
                    .await?;
                say("gone")?;
            }
            "execute" => {
                let commit = commit_alone(directory)?;
                let (submitted, executed, finished) = execute(&handle, number).await?;
                let ms = |time: Duration| time.as_secs_f64() * 1000.0;
                let (submitted, executed) = (ms(submitted), ms(executed));
                say(&format!("executed {finished} {submitted} {executed} {}", ms(commit)))?;
            }
            _ => bail!("the server knows no {word:?}"),
        }
    }
    shutdown.cancel();
    hub.task.await??;
    telling.await?;
    server.drained().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn name(text: &str) -> Result<WorkloadName> {
    Ok(text.parse()?)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The engine's side: every container starts by connecting, and stops at once.
async fn obey(mut link: HostLink, started: mpsc::Sender<RunnerId>) {
    while let Some(order) = link.orders.recv().await {
        let told = match order {
            HostOrder::StartRunner { runner, .. } => {
                let _ = started.send(runner).await;
                continue;
            }
            HostOrder::StopRunner { runner } => HostEvent::Exited { runner, exit: Exit::default() },
            HostOrder::PutBack(ticket) | HostOrder::Drop(ticket) => HostEvent::Settled { ticket },
            HostOrder::TakeSnapshot(_)
            | HostOrder::AbortSnapshot(_)
            | HostOrder::FindSnapshot(_)
            | HostOrder::Restore(_) => continue,
        };
        if link.events.send(told).await.is_err() {
            return;
        }
    }
}

/// Makes tokens, one a line, with an empty line behind them.
async fn tokens(
    handle: &RunnerHandle,
    workload: &str,
    runners: Vec<RunnerId>,
    life: TokenLife,
) -> Result<String> {
    let workload = name(workload)?;
    let (mut text, mut tasks) = (String::new(), JoinSet::new());
    let mut left = runners.into_iter();
    loop {
        while tasks.len() < AT_ONCE
            && let Some(runner) = left.next()
        {
            let (handle, workload) = (handle.clone(), workload.clone());
            let issued = async move { handle.issue(IssueToken { runner, workload, life }).await };
            tasks.spawn(issued);
        }
        let Some(issued) = tasks.join_next().await else { return Ok(text) };
        text.push_str(&issued??.token.expose());
        text.push('\n');
    }
}

async fn reaches(
    tally: &mut watch::Receiver<RunnerTally>,
    wanted: impl FnMut(&RunnerTally) -> bool,
) -> Result<()> {
    tokio::time::timeout(PATIENCE, tally.wait_for(wanted)).await.context("it takes too long")??;
    Ok(())
}

async fn submit(handle: &RunnerHandle, workload: &str, number: usize) -> Result<HashSet<RunId>> {
    let (mut ids, mut tasks) = (HashSet::new(), JoinSet::new());
    for index in 0..number {
        while tasks.len() >= AT_ONCE {
            ids.insert(joined(tasks.join_next().await)?);
        }
        let payload = json!({"workload": workload, "payload": {"index": index}});
        let request: SubmitRequest = serde_json::from_value(payload)?;
        let handle = handle.clone();
        tasks.spawn(async move { Ok(handle.submit(request).await?.run) });
    }
    while !tasks.is_empty() {
        ids.insert(joined(tasks.join_next().await)?);
    }
    Ok(ids)
}

fn joined(ended: Option<Result<Result<RunId>, tokio::task::JoinError>>) -> Result<RunId> {
    ended.context("a task is left")??
}

/// Submits runs and waits for their end: the time until all were accepted, until all were over, and
/// how many of them are finished.
async fn execute(handle: &RunnerHandle, number: usize) -> Result<(Duration, Duration, usize)> {
    let began = Instant::now();
    let ids = submit(handle, "foreign", number).await?;
    let submitted = began.elapsed();
    let open = RunQuery {
        states: RunState::ALL.iter().copied().filter(|state| !state.is_ended()).collect(),
        limit: Some(1),
        ..RunQuery::default()
    };
    while !handle.runs(open.clone()).await?.runs.is_empty() {
        if began.elapsed() > PATIENCE {
            bail!("the runs are not executed");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let executed = began.elapsed();
    let mut finished = 0;
    let mut query = RunQuery { states: vec![RunState::Finished], ..RunQuery::default() };
    loop {
        let page = handle.runs(query.clone()).await?;
        finished += page.runs.iter().filter(|run| ids.contains(&run.run)).count();
        match page.next {
            Some(next) if page.runs.len() == PAGE_LIMIT => query.before = Some(next),
            Some(_) | None => return Ok((submitted, executed, finished)),
        }
    }
}

/// The median time of a write that is on the disk when it returns.
fn commit_alone(scratch: &Path) -> Result<Duration> {
    let mut file = std::fs::File::create(scratch.join("floor"))?;
    let mut took = Vec::new();
    for _ in 0..101 {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort();
    Ok(took[took.len() / 2])
}
