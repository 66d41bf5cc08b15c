//! A node whose belayd is the test: its status is set, its commands are taken by hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use belay_api::{
    ApiState, Command, EventFeed, Limits, ReadEvents, RunFeed, RunnerCommand, ServeReport,
    bind_tcp, bind_unix, observer_router, operator_router, serve_tcp, serve_unix,
};
use belay_protocol::runner::{HostTally, RunnerTally};
use belay_protocol::{EventTally, NodeReadiness, NodeStatus};
use reqwest::{Method, Response};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

/// Limits that let a test see them reached.
pub(crate) fn quick_limits() -> Limits {
    Limits {
        connections: 4,
        header_bytes: 16 * 1024,
        header_time: Duration::from_millis(400),
        stall_time: Duration::from_secs(2),
        drain: Duration::from_millis(700),
    }
}

/// The status of a node with one workload and one volume.
pub(crate) fn status() -> NodeStatus {
    serde_json::from_value(serde_json::json!({
        "schema_version": 2, "node": "north", "version": "0.1.0",
        "started_at": "2026-01-01T00:00:00Z",
        "ready": {"state": "ready"},
        "engine": {"kind": "podman", "version": "4.3.1", "socket": "/run/x", "reachable": true,
                   "snapshot": "freeze"},
        "workloads": [
            {"name": "web", "desired": "running", "phase": "ready",
             "since": "2026-01-01T00:00:00Z", "reason": "three good probes", "source": "api",
             "image": "file:/x.tar", "spec_hash": "0123456789ab", "generation": 1,
             "container": null, "restarts": 0, "back_off": null, "last_fault": null, "ports": [],
             "volumes": ["data"], "mounts": {"data": "/data"},
             "sync": {"role": "provider", "key": "page", "stage": "idle", "last_publish": null,
                      "last_apply": null, "head": null, "last_failure": null, "quarantine": {},
                      "halted": null}},
            {"name": "plain", "desired": "stopped", "phase": "stopped",
             "since": "2026-01-01T00:00:00Z", "reason": "asked for", "source": "api",
             "image": "file:/x.tar", "spec_hash": "0123456789ab", "generation": 1,
             "container": null, "restarts": 0, "back_off": null, "last_fault": null, "ports": [],
             "volumes": [], "mounts": {}, "sync": null},
        ],
        "volumes": [
            {"workload": "web", "name": "data", "size_bytes": 1024, "allocated_bytes": 512,
             "file_system": "ext4", "mounted": false, "mount": null, "device": null,
             "container_path": "/data", "usage": null, "orphan": false, "fault": null},
        ],
        "refused_specs": [],
    }))
    .expect("the shape of a status")
}

/// Both listeners, served.
pub(crate) struct TestNode {
    state: ApiState,
    status: watch::Sender<Arc<NodeStatus>>,
    commands: mpsc::Receiver<Command>,
    runners: mpsc::Receiver<RunnerCommand>,
    tally: watch::Sender<EventTally>,
    reads: Option<mpsc::Receiver<ReadEvents>>,
    shutdown: CancellationToken,
    unix: Option<JoinHandle<ServeReport>>,
    tcp: Option<JoinHandle<ServeReport>>,
    socket: PathBuf,
    address: SocketAddr,
    _directory: TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("belay.sock");
        let bound = bind_unix(&socket, None).await.expect("binds");
        assert_eq!(bound.path(), socket);
        let listener = bind_tcp("127.0.0.1:0".parse().expect("an address")).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (status, watched) = watch::channel(Arc::new(status()));
        let (sender, commands) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let (tally, tallied) = watch::channel(EventTally::default());
        let (asking, reads) = mpsc::channel(4);
        let feed = EventFeed { tally: tallied, reads: asking };
        let (asks, runners) = mpsc::channel(4);
        let (_, counted) = watch::channel(RunnerTally::default());
        let (_, host_tally) = watch::channel(HostTally::default());
        let state = ApiState::new(watched, sender, feed, shutdown.clone()).with_runs(RunFeed {
            tally: counted,
            host_tally,
            asks,
        });
        let limits = quick_limits();
        let unix = serve_unix(bound, operator_router(state.clone()), limits, shutdown.clone());
        let tcp = serve_tcp(listener, observer_router(state.clone()), limits, shutdown.clone());
        Self {
            state,
            status,
            commands,
            runners,
            tally,
            reads: Some(reads),
            shutdown,
            unix: Some(tokio::spawn(unix)),
            tcp: Some(tokio::spawn(tcp)),
            socket,
            address,
            _directory: directory,
        }
    }

    pub(crate) fn unix(&self) -> Base {
        let client = reqwest::Client::builder().unix_socket(self.socket.clone());
        Base { client: client.build().expect("a client"), base: "http://belay".to_owned() }
    }

    pub(crate) fn tcp(&self) -> Base {
        let client = reqwest::Client::builder().no_proxy();
        let base = format!("http://{}", self.address);
        Base { client: client.build().expect("a client"), base }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn state(&self) -> &ApiState {
        &self.state
    }

    pub(crate) fn set_ready(&self, ready: NodeReadiness) {
        self.status.send_replace(Arc::new(NodeStatus { ready, ..status() }));
    }

    pub(crate) async fn command(&mut self) -> Command {
        let command = tokio::time::timeout(PATIENCE, self.commands.recv());
        command.await.expect("a command arrives").expect("the API holds its end")
    }

    pub(crate) async fn runner_command(&mut self) -> RunnerCommand {
        let command = tokio::time::timeout(PATIENCE, self.runners.recv());
        command.await.expect("a command arrives").expect("the API holds its end")
    }

    pub(crate) fn close_runners(&mut self) {
        self.runners.close();
    }

    /// What is asked about events; the test answers it.
    pub(crate) fn event_reads(&mut self) -> mpsc::Receiver<ReadEvents> {
        self.reads.take().expect("taken once")
    }

    pub(crate) fn set_tally(&self, tally: EventTally) {
        self.tally.send_replace(tally);
    }

    pub(crate) fn no_command(&mut self) -> bool {
        self.commands.try_recv().is_err()
    }

    pub(crate) fn close_commands(&mut self) {
        self.commands.close();
    }

    /// Ends both listeners; the report is the Unix socket's.
    pub(crate) async fn stop(&mut self) -> ServeReport {
        self.shutdown.cancel();
        let tcp = self.tcp.take().expect("stopped once").await.expect("no panic");
        assert_eq!(tcp.cut, 0);
        let report = self.unix.take().expect("stopped once").await.expect("no panic");
        assert!(!self.socket.exists(), "the socket goes with its server");
        report
    }

    /// [`Self::stop`], with no operation left.
    pub(crate) async fn end(mut self) -> ServeReport {
        let report = self.stop().await;
        assert!(self.state.finish(PATIENCE).await, "no operation is left");
        report
    }
}

/// One listener, asked over HTTP.
pub(crate) struct Base {
    client: reqwest::Client,
    base: String,
}

impl Base {
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str) -> Response {
        self.send_body(method, path, Vec::new()).await
    }

    pub(crate) async fn send_stream(
        &self,
        method: Method,
        path: &str,
        body: reqwest::Body,
    ) -> reqwest::Result<Response> {
        let request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        request.timeout(PATIENCE).send().await
    }

    pub(crate) async fn send_body(&self, method: Method, path: &str, body: Vec<u8>) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        request.timeout(PATIENCE).send().await.expect("an answer")
    }
}
