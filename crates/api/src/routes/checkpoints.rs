//! Runners that are on the disk, on their way to another node and from one.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{delete, get, post};
use belay_protocol::Problem;
use belay_protocol::runner::{ReclaimedCheckpoint, RemovedCheckpoint, RunnerId};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::ask::replied_within;
use super::extract::{OfPath, Pairs};
use super::runs::asked;
use crate::answer::{self, Refusal};
use crate::core::query;
use crate::runs::RunnerCommand;
use crate::state::ApiState;

/// Pages about checkpoints: the operator's alone, as memory and environment of runners go through
/// them.
pub(crate) const OPERATOR_PAGES: [&str; 4] = [
    "/v1/checkpoints",
    "/v1/checkpoints/{runner}",
    "/v1/checkpoints/{runner}/export",
    "/v1/checkpoints/{runner}/reclaim",
];

/// Pieces of an archive that may wait for whoever takes it in.
const PIECES: usize = 8;
/// How long the answer to an export may take to begin: the engine is asked what the runner wrote.
const BEGINS: Duration = Duration::from_secs(90);
/// How long the answer to an import may take once all of the archive came: its container is made,
/// and the disk takes its files.
const TAKES: Duration = Duration::from_mins(10);

/// What those pages do.
pub(crate) fn operator_routes() -> Router<ApiState> {
    let [all, one, exported, reclaimed] = OPERATOR_PAGES;
    Router::new()
        .route(all, get(checkpoints).post(import))
        .route(one, delete(remove_checkpoint))
        .route(exported, post(export))
        .route(reclaimed, post(reclaim))
}

async fn checkpoints(State(state): State<ApiState>) -> Result<Response, Refusal> {
    let kept = asked(&state, |reply| RunnerCommand::Checkpoints { reply }).await?;
    Ok(answer::json(&kept))
}

async fn remove_checkpoint(
    State(state): State<ApiState>,
    OfPath(runner): OfPath<RunnerId>,
) -> Result<Response, Refusal> {
    let run = asked(&state, |reply| RunnerCommand::RemoveCheckpoint { runner, reply }).await?;
    Ok(answer::json(&RemovedCheckpoint { run }))
}

async fn export(
    State(state): State<ApiState>,
    OfPath(runner): OfPath<RunnerId>,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let to = query::runs::export(&pairs)?;
    let (reply, answer) = oneshot::channel::<Result<mpsc::Receiver<Bytes>, Problem>>();
    state.ask_runners(RunnerCommand::ExportCheckpoint { runner, to, reply }).await?;
    let pieces = replied_within(BEGINS, answer).await?;
    let bytes = stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(bytes) if bytes.is_empty() => None,
            Some(bytes) => Some((Ok(bytes), Some(pieces))),
            // The connection is cut, so that nobody takes what came for the whole.
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    });
    Ok(answer::sealed(bytes))
}

async fn import(
    State(state): State<ApiState>,
    Pairs(pairs): Pairs,
    body: Body,
) -> Result<Response, Refusal> {
    let mode = query::runs::import(&pairs)?;
    let (sender, pieces) = mpsc::channel(PIECES);
    let (reply, answer) = oneshot::channel();
    state.ask_runners(RunnerCommand::ImportCheckpoint { mode, pieces, reply }).await?;
    let mut body = body.into_data_stream();
    let feeding = async move {
        // What is refused early is read to its end all the same, so that whoever sends it gets to
        // hear why.
        while let Some(piece) = body.next().await {
            let failed = piece.is_err();
            let _ = sender.send(piece.map_err(|error| error.to_string())).await;
            if failed {
                return;
            }
        }
    };
    feeding.await;
    let imported = replied_within(TAKES, answer).await?;
    Ok(answer::json(&imported))
}

async fn reclaim(
    State(state): State<ApiState>,
    OfPath(runner): OfPath<RunnerId>,
) -> Result<Response, Refusal> {
    let run = asked(&state, |reply| RunnerCommand::ReclaimCheckpoint { runner, reply }).await?;
    Ok(answer::json(&ReclaimedCheckpoint { run }))
}
