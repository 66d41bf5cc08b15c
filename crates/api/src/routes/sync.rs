//! Volume-sync of one workload, beside publishing.

use std::io;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use belay_protocol::{
    Operation, SyncAct, SyncLine, SyncPiece, SyncQuestion, SyncRollbackRequest, WorkloadName,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::ask::replied_within;
use super::extract::{Document, Named, Pairs};
use super::upload;
use crate::answer::{self, Refusal};
use crate::core::query;
use crate::operation::carry_out;
use crate::state::{ApiState, Caller, Command, shutting_down};

/// Longest wait until an answer begins: a large tree's manifest is fetched and verified first.
const READY: Duration = Duration::from_mins(10);

/// Pages that act on volume-sync, or show what apps put into it: the operator's alone.
pub(crate) const OPERATOR_PAGES: [&str; 9] = [
    "/v1/workloads/{name}/sync/pause",
    "/v1/workloads/{name}/sync/resume",
    "/v1/workloads/{name}/sync/apply",
    "/v1/workloads/{name}/sync/rollback",
    "/v1/workloads/{name}/sync/generation",
    "/v1/workloads/{name}/sync/export",
    "/v1/workloads/{name}/sync/diff",
    "/v1/workloads/{name}/sync/verify",
    "/v1/workloads/{name}/sync/import",
];

/// What those pages do.
pub(crate) fn operator_routes() -> Router<ApiState> {
    let [paused, resumed, applied, rolled_back, shown, exported, compared, verified, imported] =
        OPERATOR_PAGES;
    Router::new()
        .route(paused, post(pause))
        .route(resumed, post(resume))
        .route(applied, post(apply))
        .route(rolled_back, post(rollback))
        .route(shown, get(generation))
        .route(exported, get(export))
        .route(compared, get(diff))
        .route(verified, get(verify))
        .route(imported, post(upload::import))
}

async fn pause(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
) -> Response {
    let operation = Operation::Sync { workload, act: SyncAct::Pause };
    carry_out(&state, caller, None, operation).await
}

async fn resume(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
) -> Response {
    let operation = Operation::Sync { workload, act: SyncAct::Resume };
    carry_out(&state, caller, None, operation).await
}

async fn apply(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
) -> Response {
    let operation = Operation::Sync { workload, act: SyncAct::Apply };
    carry_out(&state, caller, None, operation).await
}

async fn rollback(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    Document(request): Document<SyncRollbackRequest>,
) -> Response {
    let operation = Operation::Sync { workload, act: SyncAct::Rollback(request) };
    carry_out(&state, caller, None, operation).await
}

async fn generation(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let cid = query::sync::generation(&pairs)?;
    let mut pieces = ask(&state, workload, SyncQuestion::Show { cid }).await?;
    match pieces.recv().await {
        Some(SyncPiece::Generation(generation)) => Ok(answer::json(&*generation)),
        Some(SyncPiece::Failed(problem)) => Err(problem.into()),
        Some(SyncPiece::Bytes(_) | SyncPiece::Line(_) | SyncPiece::End) | None => {
            Err(shutting_down().into())
        }
    }
}

async fn export(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let cid = query::sync::generation(&pairs)?;
    let mut pieces = ask(&state, workload, SyncQuestion::Export { cid }).await?;
    // What fails before the first byte can still be told in words.
    let first = match pieces.recv().await {
        Some(SyncPiece::Bytes(bytes)) => Ok(bytes),
        Some(SyncPiece::Failed(problem)) => return Err(problem.into()),
        Some(SyncPiece::Generation(_) | SyncPiece::Line(_) | SyncPiece::End) | None => {
            return Err(shutting_down().into());
        }
    };
    let bytes = stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(SyncPiece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(SyncPiece::End) => None,
            // The connection is cut, so that nobody takes what came for the whole.
            Some(SyncPiece::Failed(problem)) => Some((Err(io::Error::other(*problem)), None)),
            Some(SyncPiece::Generation(_) | SyncPiece::Line(_)) | None => {
                Some((Err(io::ErrorKind::UnexpectedEof.into()), None))
            }
        }
    });
    let shutdown = state.shutdown().clone();
    let bytes = stream::once(std::future::ready(first)).chain(bytes);
    Ok(answer::archive(cut_by(bytes, shutdown)))
}

async fn diff(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let (from, to) = query::sync::diff(&pairs)?;
    let pieces = ask(&state, workload, SyncQuestion::Diff { from, to }).await?;
    Ok(lines(&state, pieces))
}

async fn verify(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let depth = query::sync::verify(&pairs)?;
    let pieces = ask(&state, workload, SyncQuestion::Verify { depth }).await?;
    Ok(lines(&state, pieces))
}

/// The lines of a list, the last of which says that it is whole or why it is not.
fn lines(state: &ApiState, pieces: mpsc::Receiver<SyncPiece>) -> Response {
    let lines = stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(SyncPiece::Line(line)) => Some((line, Some(pieces))),
            Some(SyncPiece::End) => None,
            Some(SyncPiece::Failed(problem)) => Some((SyncLine::Failed(problem), None)),
            Some(SyncPiece::Generation(_) | SyncPiece::Bytes(_)) | None => {
                Some((SyncLine::Failed(Box::new(shutting_down())), None))
            }
        }
    });
    answer::lines(lines.take_until(state.shutdown().clone().cancelled_owned()))
}

/// The same pieces, and a failure in the place of those that were still to come at the end of
/// belayd.
fn cut_by(
    pieces: impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static {
    stream::unfold((Some(Box::pin(pieces)), shutdown), |(pieces, shutdown)| async move {
        let mut pieces = pieces?;
        let next = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                return Some((Err(io::ErrorKind::ConnectionAborted.into()), (None, shutdown)));
            }
            next = pieces.next() => next,
        };
        next.map(|next| (next, (Some(pieces), shutdown)))
    })
}

async fn ask(
    state: &ApiState,
    workload: WorkloadName,
    question: SyncQuestion,
) -> Result<mpsc::Receiver<SyncPiece>, Refusal> {
    let (reply, pieces) = oneshot::channel();
    state.send(Command::AskSync { workload, question, reply }).await?;
    replied_within(READY, pieces).await
}
