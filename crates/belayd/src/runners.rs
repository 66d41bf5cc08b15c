//! The runner server and the host of its runners: their beginning, their end, and another beginning
//! should they fail.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use belay_hosting::{
    Checkpoints, Door, Host, HostConfig, HostHandle, Keeping, RunLogs, Travels, known_doors,
};
use belay_ledger::Ledger;
use belay_lifecycle::{Context, StatusBoard};
use belay_protocol::runner::{HostTally, RunnerTally};
use belay_runner::{HubStart, RunnerHandle, RunnerServer, RunningHub};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::RunnersConfig;
use crate::runner_door::{self, FurtherPorts, RunnerDoor};

/// Pause before runs are served again after that failed; it doubles.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long a server must have run for a failure to count as the first.
const WELL: Duration = Duration::from_secs(300);

/// Why the node is not ready at first.
pub(crate) const NOT_YET: &str = "runners are not listened for yet";

/// What is shown of the runner server to those who do not have to know it.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Through which others ask, while runs are served.
    pub served: watch::Sender<Option<Served>>,
    /// Its counts.
    pub count: watch::Sender<RunnerTally>,
    /// Those of the host of its runners.
    pub host_count: watch::Sender<HostTally>,
}

/// The ways to those who serve runs.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// To the runs.
    pub runs: RunnerHandle,
    /// To what they wrote.
    pub logs: RunLogs<RunnerHandle>,
    /// To the runners that are on the disk.
    pub checkpoints: Checkpoints,
    /// To those that go to another node, or come from one.
    pub travels: Travels,
}

/// Serves runs until belayd ends.
pub(crate) async fn serve(
    config: &RunnersConfig,
    state_dir: &Path,
    context: &Context,
    shown: &Shown,
) {
    let mut pause = AGAIN;
    while !context.shutdown.is_cancelled() {
        let began = tokio::time::Instant::now();
        let served = match Serving::begin(config, state_dir, context).await {
            Ok(serving) => {
                context.board.serve_runs();
                let runs = serving.handle.clone();
                let logs = serving.run_logs.clone();
                let checkpoints = serving.checkpoints.clone();
                let travels = serving.travels.clone();
                shown.served.send_replace(Some(Served { runs, logs, checkpoints, travels }));
                let counting = pass_on(serving.handle.tally(), &shown.count);
                let keeping = show_keeping(serving.keeping.clone(), &context.board);
                let host_counting = pass_on(serving.host_tally.clone(), &shown.host_count);
                let (served, (), (), ()) =
                    tokio::join!(serving.run(&context.shutdown), counting, host_counting, keeping);
                shown.served.send_replace(None);
                served
            }
            Err(error) => Err(error),
        };
        let Err(error) = served else { return };
        if began.elapsed() >= WELL {
            pause = AGAIN;
        }
        context.board.hold_runs(&format!("runs are not served: {error:#}"));
        tracing::error!("runs are not served for now: {error:#}; belayd keeps trying");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

/// Runs are served.
struct Serving {
    handle: RunnerHandle,
    run_logs: RunLogs<RunnerHandle>,
    checkpoints: Checkpoints,
    travels: Travels,
    further: FurtherPorts,
    keeping: watch::Receiver<Keeping>,
    host_tally: watch::Receiver<HostTally>,
    hub: JoinHandle<Result<(), belay_ledger::LedgerError>>,
    host: JoinHandle<()>,
    server: RunnerServer,
    listening: JoinSet<()>,
    ending: CancellationToken,
}

impl Serving {
    async fn begin(
        config: &RunnersConfig,
        state_dir: &Path,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let RunnerDoor { mut listeners, door, addresses, port } =
            runner_door::open(&context.engine, state_dir, config.port).await?;
        let mut ports = known_ports(&door, context).await?;
        ports.remove(&port);
        for &known in &ports {
            listeners.extend(runner_door::bind_all(&addresses, known).with_context(|| {
                format!("a runner that came from another node looks for belayd on port {known}")
            })?);
        }
        ports.insert(port);
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(
                listener.with_context(|| format!("runner.listen: cannot listen on {address}"))?,
            );
        }
        let ending = context.shutdown.child_token();
        let ledger: Ledger = context.ledger.clone();
        let look = Host::look(HostConfig {
            engine: context.engine.clone(),
            node: context.node.clone(),
            host: context.instance.clone(),
            boot_id: context.boot_id.clone(),
            checkpoints: state_dir.join("checkpoints"),
            run_logs: state_dir.join("run-logs"),
            bounds: config.checkpoints,
            workloads_dir: context.workloads_dir.clone(),
            door,
            templates: context.templates.clone(),
            events: context.events.clone(),
            ending: ending.clone(),
        });
        let (found, host) = look.await.context("the runners' host cannot begin")?;
        // Those that are declared by now; the host says later changes itself.
        let policies = host.policies();
        let (host_port, link) = belay_runner::link();
        let hub = RunningHub::start(HubStart {
            ledger,
            policy: config.policy(),
            workloads: policies.clone().into_iter().collect(),
            events: context.events.clone(),
            host: host_port,
            found,
            shutdown: ending.clone(),
        });
        let RunningHub { handle, door, task } =
            hub.await.context("the runs cannot be read from the ledger")?;
        let (hosting, host) = host.spawn(link, handle.clone(), policies).await;
        let server = RunnerServer::new(door, config.limits(), ending.clone());
        let further = FurtherPorts::new(addresses, ports, server.clone());
        let travels = hosting.travels(Arc::new(further.clone()), config.travel_key.clone());
        let mut listening = JoinSet::new();
        for listener in listeners {
            tracing::info!(address = ?listener.local_addr().ok(), "listens for runners");
            let server = server.clone();
            listening.spawn(async move { server.serve_tcp(listener).await });
        }
        let HostHandle { tally: host_tally, keeping, checkpoints, run_logs, .. } = hosting;
        Ok(Self {
            handle,
            run_logs,
            checkpoints,
            travels,
            further,
            keeping,
            host_tally,
            hub: task,
            host,
            server,
            listening,
            ending,
        })
    }

    /// Goes on until the shutdown, or until the hub fails; either way everything has ended then.
    async fn run(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let hub = tokio::select! {
            ended = &mut self.hub => Some(ended),
            () = shutdown.cancelled() => None,
        };
        let failed = hub.is_some() && !shutdown.is_cancelled();
        self.ending.cancel();
        let ended = match hub {
            Some(ended) => ended,
            None => self.hub.await,
        };
        self.host.await.context("the runners' host failed")?;
        while self.listening.join_next().await.is_some() {}
        self.further.ended().await;
        self.server.drained().await;
        ended.context("the hub of runs failed")?.context("the ledger does not take runs")?;
        anyhow::ensure!(!failed, "the hub of runs ended by itself");
        Ok(())
    }
}

/// The ports on which runners look for belayd that came from other nodes. They know no other place,
/// so nothing is served before they are listened on.
async fn known_ports(own: &Door, context: &Context) -> anyhow::Result<BTreeSet<u16>> {
    let known = known_doors(&context.engine, &context.instance).await;
    let known = known.context("the engine does not say where runners look for belayd")?;
    let others = known.iter().filter(|url| **url != own.host && own.bridge.as_ref() != Some(*url));
    let address = |url: &String| url.strip_prefix("ws://")?.parse::<SocketAddr>().ok();
    Ok(others.filter_map(address).map(|address| address.port()).collect())
}

/// Shows how snapshotted runners are kept, until their host ends.
async fn show_keeping(mut keeping: watch::Receiver<Keeping>, board: &StatusBoard) {
    loop {
        let kind = match *keeping.borrow_and_update() {
            Keeping::Checkpoint => "checkpoint",
            Keeping::Pause { .. } => "pause",
        };
        board.show_snapshots(kind);
        if keeping.changed().await.is_err() {
            board.show_snapshots("none");
            return;
        }
    }
}

/// Shows counts until whoever counts ends.
async fn pass_on<T: Copy>(mut tally: watch::Receiver<T>, count: &watch::Sender<T>) {
    loop {
        count.send_replace(*tally.borrow_and_update());
        if tally.changed().await.is_err() {
            return;
        }
    }
}
