//! Listening for runners: the handshake, and the sockets that come of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use belay_protocol::runner::SUBPROTOCOL;
use belay_protocol::{PROBLEM_MEDIA_TYPE, Problem, ProblemCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::core::bindings::SessionId;
use crate::core::handshake::{self, Fault};
use crate::core::tokens::TokenHash;
use crate::socket::{self, SocketStart};
use crate::task::{HubDoor, Inbound, Pass};

/// Where runners connect.
pub const CONNECT_PATH: &str = "/v1/runners/connect";

/// Handshakes that are under way at one time; others wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 8 * 1024;
/// How long the hub may take to look at a token.
const KNOCK_TIME: Duration = Duration::from_secs(5);
/// How long the change of protocols may take after it was granted.
const UPGRADE_TIME: Duration = Duration::from_secs(5);
/// How long accepting rests after the kernel refused it for want of files or memory.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Bounds on sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketLimits {
    /// Sockets at one time, on all listeners together.
    pub connections: usize,
    /// How long a runner may be silent before it is asked for a pong.
    pub ping_after: Duration,
    /// How long the pong may take, or any other message.
    pub pong_within: Duration,
    /// How long a frame may take to be written to a runner that does not read.
    pub stall: Duration,
    /// How long a runner that is told to go has to take leave.
    pub farewell: Duration,
}

/// Lets runners in. Clones share the sockets and their bounds.
#[derive(Debug, Clone)]
pub struct RunnerServer {
    inbound: mpsc::Sender<Inbound>,
    limits: SocketLimits,
    clock: Clock,
    room: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    sessions: Arc<AtomicU64>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl RunnerServer {
    /// A server that lets runners in to a hub until `shutdown`. The hub ends the sockets.
    pub fn new(door: HubDoor, limits: SocketLimits, shutdown: CancellationToken) -> Self {
        Self {
            inbound: door.inbound,
            limits,
            clock: Clock::begin(),
            room: Arc::new(Semaphore::new(limits.connections)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            sessions: Arc::new(AtomicU64::new(0)),
            tasks: TaskTracker::new(),
            shutdown,
        }
    }

    /// Accepts on a TCP port until the shutdown.
    pub async fn serve_tcp(&self, listener: TcpListener) {
        self.serve(|| async {
            let (stream, _) = listener.accept().await?;
            // Messages are short and answers awaited; without it each would wait for the last one's
            // acknowledgement.
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .await;
    }

    /// Waits until every socket is closed, after the shutdown and the hub's end.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn serve<S, F>(&self, mut accept: impl FnMut() -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>>,
    {
        let router = Router::new()
            .route(CONNECT_PATH, get(connect))
            .fallback(no_such_page)
            .with_state(self.clone());
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.handshakes).acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                accept().await.map(|stream| (stream, permit))
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = self.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, permit)) => {
                    self.tasks.spawn(shake_hands(stream, router.clone(), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a runner");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    async fn knock(&self, hash: TokenHash) -> Result<Pass, Refused> {
        let (reply, answer) = oneshot::channel();
        let knocked = async {
            self.inbound.send(Inbound::Knock { hash, reply }).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(KNOCK_TIME, knocked).await {
            Ok(Some(Ok(pass))) => Ok(pass),
            Ok(Some(Err(denial))) => Err(Refused::token(&denial.to_string())),
            Ok(None) => Err(Refused::ending()),
            Err(_) => Err(Refused::behind()),
        }
    }
}

/// One request and its answer; a socket that comes of it has a task of its own.
async fn shake_hands<S>(stream: S, router: Router, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    // What is written to somebody who does not read is a refusal of a few hundred bytes: it is in
    // the kernel's hands at once.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a handshake ended early");
    }
    drop(permit);
}

async fn connect(State(server): State<RunnerServer>, mut request: Request) -> Response {
    match let_in(&server, &mut request).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn let_in(server: &RunnerServer, request: &mut Request) -> Result<Response, Refused> {
    let asked = handshake::read(request.headers()).map_err(Refused::fault)?;
    if server.shutdown.is_cancelled() {
        return Err(Refused::ending());
    }
    let pass = server.knock(TokenHash::of(&asked.token)).await?;
    let place = Arc::clone(&server.room).try_acquire_owned();
    let place = place.map_err(|_| Refused::full(server.limits.connections))?;
    let upgrade = hyper::upgrade::on(request);
    let start = SocketStart {
        session: SessionId(server.sessions.fetch_add(1, Ordering::Relaxed)),
        pass,
        inbound: server.inbound.clone(),
        limits: server.limits,
        clock: server.clock,
    };
    server.tasks.spawn(async move {
        match tokio::time::timeout(UPGRADE_TIME, upgrade).await {
            Ok(Ok(upgraded)) => socket::serve(TokioIo::new(upgraded), start).await,
            Ok(Err(error)) => tracing::debug!(%error, "a runner left in its handshake"),
            Err(_) => tracing::debug!("a runner was lost in its handshake"),
        }
        drop(place);
    });
    let accept = derive_accept_key(&asked.key);
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Body::empty());
    Ok(response.expect("every header is plain text"))
}

async fn no_such_page() -> Response {
    let problem = Problem::new(
        ProblemCode::NoSuchResource,
        "runners connect here and nothing else is served",
        format!("connect to {CONNECT_PATH}; everything else is on belayd's own socket"),
    );
    Refused { problem, retry_after: None }.into_response()
}

/// A handshake that is refused.
struct Refused {
    problem: Problem,
    /// Seconds after which it may be tried again.
    retry_after: Option<u16>,
}

impl Refused {
    fn fault(fault: Fault) -> Self {
        match fault {
            Fault::NoUpgrade | Fault::OtherSubprotocol => Self {
                problem: Problem::new(
                    ProblemCode::InvalidRequest,
                    fault.to_string(),
                    format!("ask for a WebSocket with the subprotocol {SUBPROTOCOL}"),
                ),
                retry_after: None,
            },
            Fault::NoToken | Fault::NotAToken => Self::token(&fault.to_string()),
        }
    }

    fn token(why: &str) -> Self {
        let problem = Problem::new(
            ProblemCode::RunnerTokenRefused,
            why,
            "get a token with belay runner token, and send it as Authorization: Bearer",
        );
        Self { problem, retry_after: None }
    }

    fn full(connections: usize) -> Self {
        let problem = Problem::new(
            ProblemCode::TooManyRunners,
            format!("{connections} runners are connected, which is as many as this node takes"),
            "try again later, or raise runner.connections in belayd.toml",
        );
        Self { problem, retry_after: Some(10) }
    }

    fn ending() -> Self {
        let problem = Problem::new(
            ProblemCode::ShuttingDown,
            "belayd is ending and lets no runner in",
            "connect again in a second",
        );
        Self { problem, retry_after: Some(1) }
    }

    fn behind() -> Self {
        let problem = Problem::new(
            ProblemCode::NodeNotReady,
            "belayd is behind with its runs and could not look at the token in time",
            "connect again in a second",
        );
        Self { problem, retry_after: Some(1) }
    }

    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).expect("a problem is plain data");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.problem.status)
            .expect("every code of a problem has a status");
        let headers = response.headers_mut();
        // One request, one connection: a place among the handshakes is not for waiting in.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(door: HubDoor) -> RunnerServer {
        RunnerServer::new(door, SocketLimits::default(), CancellationToken::new())
    }

    async fn refused(server: &RunnerServer) -> (u16, Option<HeaderValue>, Problem) {
        let response = match server.knock(TokenHash([1; 32])).await {
            Ok(pass) => panic!("{pass:?} is let in"),
            Err(refused) => refused.into_response(),
        };
        let (status, headers) = (response.status().as_u16(), response.headers());
        let retry = headers.get(RETRY_AFTER).cloned();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("it is short");
        (status, retry, serde_json::from_slice(&body).expect("a problem"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_does_not_answer_in_time_and_one_that_has_ended_are_not_waited_for() {
        let (inbound, brought) = mpsc::channel(1);
        let server = server(HubDoor { inbound });
        let asked = tokio::time::Instant::now();
        let (status, retry, problem) = refused(&server).await;
        assert_eq!(asked.elapsed(), KNOCK_TIME);
        assert_eq!((status, problem.code), (503, ProblemCode::NodeNotReady));
        assert!(problem.detail.contains("could not look at the token in time"), "{problem:?}");
        assert_eq!(retry.expect("when to come back"), "1");

        drop(brought);
        let (status, retry, problem) = refused(&server).await;
        assert_eq!((status, problem.code), (503, ProblemCode::ShuttingDown));
        assert_eq!(retry.expect("when to come back"), "1");
    }
}
