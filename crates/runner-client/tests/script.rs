//! The client against a belayd that follows a script: what it sends, and what it does when the
//! connection is lost, refused or closed.

use std::path::PathBuf;
use std::time::Duration;

use belay_protocol::runner::{
    CloseReason, Notice, Reply, RequestId, RunId, RunnerFrame, RunnerRequest, RunnerToken,
    SUBPROTOCOL, ServerFrame, WaitRequest,
};
use belay_runner_client::{
    Endpoint, Failure, Loss, Run, RunError, Runner, RunnerConfig, RunnerEnd, serve,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

const PATIENCE: Duration = Duration::from_secs(20);

/// What would be belayd.
struct Script {
    _dir: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Script {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("runner.sock");
        let listener = UnixListener::bind(&path).expect("a new path");
        Self { _dir: dir, path, listener }
    }

    fn config(&self) -> RunnerConfig {
        RunnerConfig { endpoint: Endpoint::Unix(self.path.clone()), token: token() }
    }

    /// Lets the next connection in.
    async fn accept(&self) -> Socket {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("it connects");
        let (stream, _) = accepted.expect("a connection");
        let socket = accept_hdr_async(stream, greet).await.expect("a handshake");
        Socket(socket)
    }

    /// Refuses the next connection.
    async fn refuse(&self, status: u16, body: &str) {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("it connects");
        let (stream, _) = accepted.expect("a connection");
        let refusal = ErrorResponse::new(Some(body.to_owned()));
        let (mut parts, body) = refusal.into_parts();
        parts.status = StatusCode::from_u16(status).expect("a status");
        let refusal = ErrorResponse::from_parts(parts, body);
        let refused = accept_hdr_async(stream, |_: &Request, _| Err::<Response, _>(refusal)).await;
        assert!(refused.is_err());
    }
}

fn token() -> RunnerToken {
    RunnerToken::from_entropy([9; 32])
}

#[expect(clippy::unnecessary_wraps, reason = "the shape is tungstenite's")]
fn greet(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    assert_eq!(request.uri().path(), "/v1/runners/connect");
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header(header::AUTHORIZATION), Some(&*format!("Bearer {}", token().expose())));
    assert_eq!(header(header::SEC_WEBSOCKET_PROTOCOL), Some(SUBPROTOCOL));
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(response)
}

struct Socket(WebSocketStream<UnixStream>);

impl Socket {
    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("it is open");
    }

    async fn welcome(&mut self, run: Option<RunId>) {
        let mut body = json!({"runner": "r", "workload": "w"});
        if let Some(run) = run {
            body["run"] = json!(run);
        }
        self.say(json!({"type": "welcome", "body": body})).await;
    }

    async fn state(&mut self, epoch: u64, standing: Value) {
        let body = json!({"run": run(), "epoch": epoch, "standing": standing});
        self.say(json!({"type": "state", "body": body})).await;
    }

    /// The next request, which must be of this name.
    async fn request(&mut self, name: &str) -> (RequestId, RunnerRequest) {
        let message = timeout(PATIENCE, self.0.next()).await.expect("it says something");
        let Some(Ok(Message::Text(text))) = message else { panic!("{message:?}") };
        match RunnerFrame::parse(&text) {
            Ok(RunnerFrame::Request { id, request }) if request.name() == name => (id, request),
            other => panic!("{name} is not {other:?}"),
        }
    }

    /// Waits for a request and grants it.
    async fn grant(&mut self, name: &str, body: Value) -> RunnerRequest {
        let (id, request) = self.request(name).await;
        self.say(json!({"id": id, "type": "ok", "body": body})).await;
        request
    }

    /// Lets the runner have a run in epoch 1.
    async fn begin(&mut self) {
        self.welcome(None).await;
        self.grant("ready", json!({})).await;
        self.state(1, json!({"state": "assigned", "attempt": 1})).await;
        self.grant("start", json!({"attempt": 1, "payload": {"n": 7}, "timeout_ms": 5000})).await;
    }

    async fn close(mut self, reason: CloseReason) {
        let frame = CloseFrame { code: reason.code().into(), reason: reason.as_str().into() };
        self.0.send(Message::Close(Some(frame))).await.expect("it is open");
    }
}

fn run() -> RunId {
    RunId::after(None, 1, 1)
}

fn far_away() -> WaitRequest {
    WaitRequest::Timer { until: "2096-01-01T00:00:00Z".parse().expect("a time") }
}

fn finished() -> Value {
    json!({"next": {"run": "finished"}})
}

#[tokio::test]
async fn a_function_works_on_runs_and_outlives_the_connection_in_its_wait() {
    let script = Script::new();
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        let suspended = json!({"suspension": 1, "snapshot": {"plan": "armed", "delay_ms": 1000}});
        socket.grant("suspend", suspended).await;
        // The runner is snapshotted, and comes back in another epoch with its wait over.
        socket.close(CloseReason::Suspended).await;
        let mut socket = script.accept().await;
        socket.welcome(Some(run())).await;
        let resumed = json!({"suspension": 1, "result": {"wait": "elapsed"}});
        socket.state(2, json!({"state": "executing", "attempt": 1, "resumed": resumed})).await;
        let completed = socket.grant("complete", finished()).await;
        let RunnerRequest::Complete(completed) = completed else { panic!("{completed:?}") };
        assert_eq!(completed.epoch.get(), 2);
        let outcome = serde_json::to_value(completed.outcome).expect("plain data");
        assert_eq!(outcome, json!({"end": "succeeded", "output": {"n": 7}}));
        let (id, _) = socket.request("ready").await;
        let error =
            json!({"code": "runner-stopping", "message": "r is being stopped", "next": "-"});
        socket.say(json!({"id": id, "type": "error", "body": error})).await;
    };
    let work = serve(script.config(), async |run: &mut Run| {
        assert_eq!(run.timeout(), Some(Duration::from_secs(5)));
        run.suspend(far_away(), None).await?;
        Ok(run.payload().clone())
    });
    let (ended, ()) = tokio::join!(work, server);
    assert_eq!(ended, Ok(()));
}

#[tokio::test]
async fn a_function_is_dropped_when_its_run_is_cancelled_and_the_next_run_comes() {
    let script = Script::new();
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        let body = json!({"run": run(), "epoch": 1, "reason": "cancelled"});
        socket.say(json!({"type": "released", "body": body})).await;
        socket.grant("ready", json!({})).await;
        socket.state(3, json!({"state": "assigned", "attempt": 1})).await;
        socket.grant("start", json!({"attempt": 1, "payload": "again"})).await;
        let completed = socket.grant("complete", finished()).await;
        let RunnerRequest::Complete(completed) = completed else { panic!("{completed:?}") };
        let outcome = serde_json::to_value(completed.outcome).expect("plain data");
        assert_eq!(outcome, json!({"end": "failed", "error": "no", "again": "give-up"}));
        socket.close(CloseReason::RunnerGone).await;
    };
    let work = serve(script.config(), async |run: &mut Run| {
        if *run.payload() == json!("again") {
            return Err(Failure::for_good("no"));
        }
        std::future::pending().await
    });
    let (ended, ()) = tokio::join!(work, server);
    assert_eq!(ended, Err(RunnerEnd::Gone));
}

#[tokio::test]
async fn what_was_asked_before_the_connection_was_lost_is_asked_again() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        socket.request("complete").await;
        drop(socket);
        // The completion was heard, its answer was not.
        let mut socket = script.accept().await;
        socket.welcome(None).await;
        socket.grant("complete", finished()).await;
        socket
    };
    let client = async {
        let run = runner.next().await.expect("it goes on").expect("a run");
        run.complete(json!(1)).await
    };
    let (completed, _socket) = tokio::join!(client, server);
    completed.expect("it was told");
    runner.shut_down().await;
}

#[tokio::test]
async fn a_run_that_is_dropped_is_given_up_and_one_that_is_lost_says_why() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        socket.grant("stop", json!({})).await;
        socket.grant("ready", json!({})).await;
        socket.state(2, json!({"state": "assigned", "attempt": 2})).await;
        socket.grant("start", json!({"attempt": 2, "payload": null})).await;
        let body = json!({"run": run(), "epoch": 2, "reason": "timed-out"});
        socket.say(json!({"type": "released", "body": body})).await;
        socket
    };
    let client = async {
        drop(runner.next().await.expect("it goes on").expect("a run"));
        let mut run = runner.next().await.expect("it goes on").expect("a run");
        assert_eq!(run.attempt().get(), 2);
        let lost = run.lost().await;
        assert_eq!(lost.to_string(), "the run is lost: its attempt took longer than it may");
        let late = run.waitpoint().await;
        assert_eq!(late, Err(RunError::Lost(Loss::TakenAway)));
    };
    let ((), _socket) = tokio::join!(client, server);
    runner.shut_down().await;
}

#[tokio::test]
async fn a_wait_that_is_given_up_is_left() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let (suspended, is_suspended) = oneshot::channel();
    let (left, is_left) = oneshot::channel();
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        let answer = json!({"suspension": 1, "snapshot": {"plan": "armed", "delay_ms": 1000}});
        socket.grant("suspend", answer).await;
        suspended.send(()).expect("the client waits for it");
        let request = socket.grant("continue", json!({})).await;
        let RunnerRequest::Continue(request) = request else { panic!("{request:?}") };
        assert_eq!(request.suspension.get(), 1);
        left.send(()).expect("the client waits for it");
        socket.grant("complete", finished()).await;
        socket
    };
    let client = async {
        let mut run = runner.next().await.expect("it goes on").expect("a run");
        tokio::select! {
            ended = run.suspend(far_away(), None) => panic!("{ended:?}"),
            asked = is_suspended => asked.expect("the server says so"),
        }
        is_left.await.expect("the server says so");
        run.complete(Value::Null).await.expect("it was told");
    };
    let ((), _socket) = tokio::join!(client, server);
    runner.shut_down().await;
}

#[tokio::test]
async fn a_runner_that_shuts_down_gives_its_run_back_and_closes() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let server = async {
        let mut socket = script.accept().await;
        socket.begin().await;
        socket.grant("stop", json!({})).await;
        let last = timeout(PATIENCE, socket.0.next()).await.expect("it says good-bye");
        assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
    };
    let client = async {
        let run = runner.next().await.expect("it goes on").expect("a run");
        runner.shut_down().await;
        assert_eq!(run.lost().await, RunError::Lost(Loss::TakenAway));
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_runner_and_a_passing_one_does_not() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let server = async {
        script.refuse(503, "").await;
        script.refuse(401, r#"{"detail": "the token has expired"}"#).await;
    };
    let (ended, ()) = tokio::join!(runner.next(), server);
    let said = "the token has expired".to_owned();
    assert_eq!(ended.expect_err("no runs"), RunnerEnd::Refused { status: 401, said });
    // And says so as often as it is asked.
    assert!(matches!(runner.connected().await, Err(RunnerEnd::Refused { status: 401, .. })));
    assert!(matches!(runner.next().await, Err(RunnerEnd::Refused { status: 401, .. })));
    runner.shut_down().await;
}

#[tokio::test]
async fn a_replaced_runner_does_not_come_back() {
    let script = Script::new();
    let mut runner = Runner::start(script.config());
    let server = async {
        let mut socket = script.accept().await;
        socket.welcome(None).await;
        socket.request("ready").await;
        socket.close(CloseReason::Replaced).await;
    };
    let (ended, ()) = tokio::join!(runner.next(), server);
    assert_eq!(ended.expect_err("no runs"), RunnerEnd::Replaced);
    runner.shut_down().await;
}

#[test]
fn a_frame_of_the_script_is_a_frame_of_the_protocol() {
    let welcome = json!({"type": "welcome", "body": {"runner": "r", "workload": "w"}});
    let parsed = ServerFrame::parse(&welcome.to_string(), |_| None).expect("a frame");
    assert!(matches!(parsed, ServerFrame::Notice(Notice::Welcome(_))));
    let granted = json!({"id": 1, "type": "ok", "body": finished()});
    let parsed = ServerFrame::parse(&granted.to_string(), |_| Some("complete")).expect("a frame");
    assert!(matches!(parsed, ServerFrame::Ok { reply: Reply::Complete(_), .. }));
}
