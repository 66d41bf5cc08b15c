//! A runner server on a real socket with a real ledger, and runners that are raw sockets.

use std::path::Path;
use std::time::Duration;

use belay_events::{EventLog, EventsTask};
use belay_ledger::Ledger;
use belay_protocol::WorkloadName;
use belay_protocol::runner::{RunId, RunnerToken, SubmitRequest};
use belay_runner::{
    CONNECT_PATH, HostEvent, HostFound, HostLink, HostOrder, HubPolicy, HubStart, IssueToken,
    RunnerHandle, RunnerServer, RunnerSource, RunningHub, Snapshotting, SocketLimits, TokenLife,
    WorkloadPolicy, link,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> WorkloadName {
    text.parse().expect("a name")
}

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: did not come within {} s", PATIENCE.as_secs()))
}

/// How a server is set up.
pub(crate) struct Setup {
    pub(crate) limits: SocketLimits,
    pub(crate) source: RunnerSource,
    pub(crate) found: HostFound,
    pub(crate) snapshot_delay: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: SocketLimits::default(),
            source: RunnerSource::Foreign,
            found: HostFound { hosted: Vec::new(), snapshots: Snapshotting::Supported },
            snapshot_delay: Duration::from_secs(30),
        }
    }
}

/// A server that runs.
pub(crate) struct Rig {
    pub(crate) handle: RunnerHandle,
    pub(crate) server: RunnerServer,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) host: HostLink,
    pub(crate) shutdown: CancellationToken,
    /// What was told.
    pub(crate) log: EventLog,
    hub: JoinHandle<Result<(), belay_ledger::LedgerError>>,
    telling: JoinHandle<()>,
    listening: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start(ledger: &Path) -> Self {
        Self::with(ledger, Setup::default()).await
    }

    pub(crate) async fn with(ledger: &Path, setup: Setup) -> Self {
        let (ledger, _) = Ledger::open(&ledger.join("belay.db")).expect("opens");
        let (port, host) = link();
        let shutdown = CancellationToken::new();
        let policy = WorkloadPolicy {
            max_concurrent: 10_000,
            runners: setup.source,
            snapshot_delay: setup.snapshot_delay,
        };
        let (events, log, telling) = EventsTask::spawn(&ledger, shutdown.clone());
        let hub = RunningHub::start(HubStart {
            ledger,
            events,
            policy: HubPolicy::default(),
            workloads: vec![(name("mailer"), policy)],
            host: port,
            found: setup.found,
            shutdown: shutdown.clone(),
        })
        .await
        .expect("the ledger is read");
        let server = RunnerServer::new(hub.door, setup.limits, shutdown.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let accepting = server.clone();
        let listening = tokio::spawn(async move { accepting.serve_tcp(listener).await });
        Self {
            handle: hub.handle,
            server,
            address,
            host,
            shutdown,
            log,
            hub: hub.task,
            telling,
            listening,
        }
    }

    /// Ends the server in order, and waits for its end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon("the hub's end", self.hub).await.expect("no panic").expect("the ledger was there");
        soon("the events' end", self.telling).await.expect("no panic");
        soon("the listener's end", self.listening).await.expect("no panic");
        soon("the sockets' end", self.server.drained()).await;
    }

    pub(crate) async fn token(&self, runner: &str) -> RunnerToken {
        self.token_for(runner, TokenLife::Limited(Duration::from_secs(3600))).await
    }

    pub(crate) async fn token_for(&self, runner: &str, life: TokenLife) -> RunnerToken {
        let runner = runner.parse().expect("a name");
        let asked = IssueToken { runner, workload: name("mailer"), life };
        self.handle.issue(asked).await.expect("issued").token
    }

    /// A runner that is connected and welcome.
    pub(crate) async fn runner(&self, runner: &str) -> Runner {
        let token = self.token(runner).await;
        let mut connected = self.connect(&token).await.expect("is let in");
        let welcome = connected.next().await;
        assert_eq!(welcome["type"], "welcome");
        assert_eq!(welcome["body"]["runner"], runner);
        connected
    }

    pub(crate) async fn connect(&self, token: &RunnerToken) -> Result<Runner, Error> {
        let url = format!("ws://{}{CONNECT_PATH}", self.address);
        let mut request = url.into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", "belay.runner.v1".parse().expect("text"));
        let bearer = format!("Bearer {}", token.expose());
        headers.insert("authorization", bearer.parse().expect("text"));
        let stream = TcpStream::connect(self.address).await.expect("connects");
        stream.set_nodelay(true).expect("sets");
        let opened = soon("the handshake", tokio_tungstenite::client_async(request, stream)).await;
        opened.map(|(ws, _)| Runner { ws, asked: 0 })
    }

    /// Sends a request by hand, and reads the status and the problem of its answer.
    pub(crate) async fn refusal(&self, head: &str) -> (u16, Value, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        soon("the refusal", stream.read_to_end(&mut answer)).await.expect("reads");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        assert!(head.contains("application/problem+json"), "{head}");
        (status, serde_json::from_str(body).expect("a problem"), head.to_owned())
    }

    pub(crate) async fn submit(&self, payload: Value) -> RunId {
        let request = submission(payload, None);
        self.handle.submit(request).await.expect("is accepted").run
    }

    pub(crate) async fn state(&self, run: RunId) -> String {
        let detail = self.handle.run(run).await.expect("is answered").expect("is known");
        detail.status.state.as_str().to_owned()
    }

    /// The next order to the engine's side.
    pub(crate) async fn order(&mut self) -> HostOrder {
        soon("an order", self.host.orders.recv()).await.expect("the hub is there")
    }

    pub(crate) async fn tell(&self, event: HostEvent) {
        self.host.events.send(event).await.expect("the hub is there");
    }
}

pub(crate) fn submission(payload: impl Into<Value>, key: Option<&str>) -> SubmitRequest {
    let mut request = json!({"workload": "mailer", "payload": payload.into()});
    if let Some(key) = key {
        request["idempotency_key"] = key.into();
    }
    serde_json::from_value(request).expect("a submission")
}

/// A runner's end of a socket.
pub(crate) struct Runner {
    pub(crate) ws: WebSocketStream<TcpStream>,
    asked: u64,
}

impl Runner {
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        soon("sending", self.ws.send(Message::text(text))).await.expect("is sent");
    }

    /// Sends a request and returns its id.
    pub(crate) async fn ask(&mut self, kind: &str, body: Value) -> u64 {
        self.asked += 1;
        let frame = json!({"id": self.asked, "type": kind, "body": body});
        self.send(frame.to_string()).await;
        self.asked
    }

    /// Sends a request and reads its answer, which is the next message.
    pub(crate) async fn call(&mut self, kind: &str, body: Value) -> Value {
        let id = self.ask(kind, body).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// The next message that is text.
    pub(crate) async fn next(&mut self) -> Value {
        match soon("a message", self.next_frame()).await {
            Ok(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no text: {other:?}"),
        }
    }

    /// The code and the reason with which the socket is closed; what comes before is read over.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match soon("the end", self.next_frame()).await {
                Ok(Message::Close(Some(frame))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Ok(Message::Text(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }

    async fn next_frame(&mut self) -> Result<Message, Error> {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(message) => return message,
                None => return Err(Error::ConnectionClosed),
            }
        }
    }

    /// Asks for a run, and begins the one that it is told.
    pub(crate) async fn take_run(&mut self) -> Held {
        let answer = self.call("ready", json!({})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
        let held = self.assigned().await;
        let started = self.call("start", held.body()).await;
        assert_eq!(started["type"], "ok", "{started}");
        held
    }

    /// The assignment that is the next message.
    pub(crate) async fn assigned(&mut self) -> Held {
        let state = self.next().await;
        assert_eq!(state["body"]["standing"]["state"], "assigned", "{state}");
        Held::of(&state)
    }
}

/// A run that a runner holds.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) run: String,
    pub(crate) epoch: u64,
}

impl Held {
    pub(crate) fn of(state: &Value) -> Self {
        assert_eq!(state["type"], "state", "{state}");
        let run = state["body"]["run"].as_str().expect("a run").to_owned();
        Self { run, epoch: state["body"]["epoch"].as_u64().expect("an epoch") }
    }

    pub(crate) fn body(&self) -> Value {
        json!({"run": self.run, "epoch": self.epoch})
    }

    /// The body with more fields.
    pub(crate) fn with(&self, more: Value) -> Value {
        let mut body = self.body();
        let fields = body.as_object_mut().expect("an object");
        let Value::Object(more) = more else { panic!("no object") };
        fields.extend(more);
        body
    }

    pub(crate) fn id(&self) -> RunId {
        self.run.parse().expect("an id")
    }
}

pub(crate) fn success(output: impl Into<Value>) -> Value {
    json!({"attempt": 1, "outcome": {"end": "succeeded", "output": output.into()}})
}
