//! A runner server on a TCP port of its own, with a ledger in a directory of its own.

use std::net::SocketAddr;
use std::time::Duration;

use belay_events::EventsTask;
use belay_ledger::Ledger;
use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    CompleteWaitpoint, RunDetail, RunId, RunState, RunnerToken, SubmitRequest, WaitpointId,
    WaitpointQuery, WaitpointState,
};
use belay_runner::{
    HostFound, HostLink, HubPolicy, HubStart, IssueToken, RunnerHandle, RunnerServer, RunnerSource,
    RunningHub, Snapshotting, SocketLimits, TokenLife, WorkloadPolicy, link,
};
use belay_runner_client::{Endpoint, RunnerConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The server, and the end of it.
pub(crate) struct Node {
    pub(crate) handle: RunnerHandle,
    pub(crate) address: SocketAddr,
    directory: TempDir,
    shutdown: CancellationToken,
    server: RunnerServer,
    hub: JoinHandle<Result<(), belay_ledger::LedgerError>>,
    listening: JoinHandle<()>,
    telling: JoinHandle<()>,
    _host: HostLink,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        Self::begin(listener, tempfile::tempdir().expect("a directory")).await
    }

    async fn begin(listener: TcpListener, directory: TempDir) -> Self {
        let (ledger, _) = Ledger::open(&directory.path().join("belay.db")).expect("opens");
        let (port, host) = link();
        let shutdown = CancellationToken::new();
        let policy = WorkloadPolicy {
            max_concurrent: 10,
            runners: RunnerSource::Foreign,
            snapshot_delay: Duration::from_secs(30),
        };
        let (events, _, telling) = EventsTask::spawn(&ledger, shutdown.clone());
        let hub = RunningHub::start(HubStart {
            ledger,
            events,
            policy: HubPolicy::default(),
            workloads: vec![(workload(), policy)],
            host: port,
            found: HostFound { hosted: Vec::new(), snapshots: Snapshotting::Supported },
            shutdown: shutdown.clone(),
        })
        .await
        .expect("the ledger is read");
        let server = RunnerServer::new(hub.door, SocketLimits::default(), shutdown.clone());
        let address = listener.local_addr().expect("has an address");
        let accepting = server.clone();
        let listening = tokio::spawn(async move { accepting.serve_tcp(listener).await });
        Self {
            handle: hub.handle,
            address,
            directory,
            shutdown,
            server,
            hub: hub.task,
            listening,
            telling,
            _host: host,
        }
    }

    /// Ends it in order, which leaves its ledger.
    pub(crate) async fn stop(self) -> (SocketAddr, TempDir) {
        self.shutdown.cancel();
        let ended = async {
            self.hub.await.expect("no panic").expect("the ledger was there");
            self.telling.await.expect("no panic");
            self.listening.await.expect("no panic");
            self.server.drained().await;
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
        (self.address, self.directory)
    }

    /// Ends it, and begins another on the same ledger and port.
    pub(crate) async fn restart(self) -> Self {
        let (address, directory) = self.stop().await;
        Self::start_at(address, directory).await
    }

    /// Begins another on the ledger and port of one that was stopped.
    pub(crate) async fn start_at(address: SocketAddr, directory: TempDir) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free again");
        Self::begin(listener, directory).await
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) async fn token(&self, runner: &str) -> RunnerToken {
        let asked = IssueToken {
            runner: runner.parse().expect("a name"),
            workload: workload(),
            life: TokenLife::Limited(Duration::from_secs(3600)),
        };
        self.handle.issue(asked).await.expect("issued").token
    }

    pub(crate) async fn config(&self, runner: &str) -> RunnerConfig {
        let endpoint: Endpoint = self.url().parse().expect("an endpoint");
        RunnerConfig { endpoint, token: self.token(runner).await }
    }

    pub(crate) async fn submit(&self, payload: Value) -> RunId {
        self.submit_with(json!({"payload": payload})).await
    }

    pub(crate) async fn submit_with(&self, mut request: Value) -> RunId {
        request["workload"] = json!(workload());
        let request: SubmitRequest = serde_json::from_value(request).expect("a submission");
        self.handle.submit(request).await.expect("is accepted").run
    }

    pub(crate) async fn run(&self, run: RunId) -> RunDetail {
        self.handle.run(run).await.expect("is answered").expect("is known")
    }

    /// Waits until a run is in a state.
    pub(crate) async fn reaches(&self, run: RunId, state: RunState) -> RunDetail {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let detail = self.run(run).await;
            if detail.status.state == state {
                return detail;
            }
            let found = detail.status;
            assert!(Instant::now() < deadline, "it is not {state}: {found:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a run waits for a waitpoint, and completes it.
    pub(crate) async fn complete_waitpoint(&self, run: RunId, output: Value) -> WaitpointId {
        let query = WaitpointQuery {
            run: Some(run),
            states: vec![WaitpointState::Awaited],
            ..WaitpointQuery::default()
        };
        let deadline = Instant::now() + PATIENCE;
        let waitpoint = loop {
            let page = self.handle.waitpoints(query.clone()).await.expect("is answered");
            if let Some(found) = page.waitpoints.first() {
                break found.waitpoint;
            }
            assert!(Instant::now() < deadline, "{run} waits for nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let completion = CompleteWaitpoint { output };
        self.handle.complete_waitpoint(waitpoint, completion).await.expect("is completed");
        waitpoint
    }
}

fn workload() -> WorkloadName {
    "mailer".parse().expect("a name")
}
