//! Serving: connections with bounds on their number, their headers and their patience, and a drain
//! at the end.

mod stall;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::stall::StallGuard;
use crate::bind::BoundSocket;
use crate::state::Caller;

/// How long accepting rests after the kernel refused it for want of files or memory.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Bounds on what clients can make a listener hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time; others wait in the kernel's queue.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// How long a request's head may take, and a connection idle between two.
    pub header_time: Duration,
    /// How long a client may leave written bytes unread before its connection is cut.
    pub stall_time: Duration,
    /// How long connections may take to finish once shutdown began; then they are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            header_bytes: 16 * 1024,
            header_time: Duration::from_secs(15),
            stall_time: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeReport {
    /// Connections accepted in all.
    pub accepted: u64,
    /// Connections that were cut because the drain's time was up.
    pub cut: usize,
}

/// Serves `router` on the Unix socket until `shutdown`, then drains. The socket's file goes first,
/// so that new clients are told at once.
pub async fn serve_unix(
    socket: BoundSocket,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> ServeReport {
    let mut served = Served::new(limits);
    loop {
        let Some(permit) = served.permit(&shutdown).await else { break };
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) => {
                    let caller = Caller::Local { uid: peer.uid(), pid: peer.pid() };
                    served.spawn(stream, router.clone(), caller, permit, &shutdown);
                }
                Err(error) => tracing::debug!(%error, "a client left before it was looked at"),
            },
            Err(error) => rest_after(&error).await,
        }
    }
    drop(socket);
    served.drain().await
}

/// Serves `router` on a TCP port until `shutdown`, then drains.
pub async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> ServeReport {
    let mut served = Served::new(limits);
    loop {
        let Some(permit) = served.permit(&shutdown).await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                served.spawn(stream, router.clone(), Caller::Network, permit, &shutdown);
            }
            Err(error) => rest_after(&error).await,
        }
    }
    drop(listener);
    served.drain().await
}

async fn rest_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_REST).await;
}

/// The connections of one listener.
struct Served {
    limits: Limits,
    room: Arc<Semaphore>,
    connections: JoinSet<()>,
    accepted: u64,
}

impl Served {
    fn new(limits: Limits) -> Self {
        let room = Arc::new(Semaphore::new(limits.connections));
        Self { limits, room, connections: JoinSet::new(), accepted: 0 }
    }

    /// Room for one more connection, or `None` once shutdown began. Joins those that ended.
    async fn permit(&mut self, shutdown: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        while let Some(ended) = self.connections.try_join_next() {
            report_panic(ended);
        }
        tokio::select! {
            permit = self.room.clone().acquire_owned() => {
                Some(permit.expect("the semaphore is never closed"))
            }
            () = shutdown.cancelled() => None,
        }
    }

    fn spawn<S>(
        &mut self,
        stream: S,
        router: Router,
        caller: Caller,
        permit: OwnedSemaphorePermit,
        shutdown: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.accepted += 1;
        let connection = connection(stream, router, caller, self.limits, shutdown.clone());
        self.connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    async fn drain(mut self) -> ServeReport {
        let all = async {
            while let Some(ended) = self.connections.join_next().await {
                report_panic(ended);
            }
        };
        let cut = match tokio::time::timeout(self.limits.drain, all).await {
            Ok(()) => 0,
            Err(_) => self.connections.len(),
        };
        self.connections.shutdown().await;
        ServeReport { accepted: self.accepted, cut }
    }
}

async fn connection<S>(
    stream: S,
    router: Router,
    caller: Caller,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(StallGuard::new(stream, limits.stall_time));
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_header_size(limits.header_bytes)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match served {
        Ok(()) => {}
        Err(error) if is_stalled(&error) => {
            let patience = limits.stall_time.as_secs();
            tracing::info!(%caller, "a client was cut: it read nothing for {patience} s");
        }
        Err(error) => tracing::debug!(%error, %caller, "a connection ended early"),
    }
}

/// Whether the connection ended because its client did not read what it was sent.
fn is_stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request panicked; its connection was closed");
    }
}
