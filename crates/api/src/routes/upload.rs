//! Requests whose body is an archive, which is passed on as it comes.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use belay_protocol::SyncUpload;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::extract::Named;
use crate::operation::command;
use crate::state::{ApiState, Caller, Command};

/// Pieces that belayd has not taken yet.
const PIECES: usize = 8;
/// Longest pause of a client: what it sends may be made while it is sent.
const PAUSE: Duration = Duration::from_mins(5);

pub(crate) async fn import(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    body: Body,
) -> Response {
    tracing::info!(%caller, operation = "sync import", %workload, "asked for");
    let (sender, pieces) = mpsc::channel(PIECES);
    // It goes on beside the answer, which may come before the body has ended.
    state.operations().spawn(pass_on(body, sender, state.shutdown().clone()));
    command(&state, |events| Command::Import { workload, pieces, events }).await
}

/// Passes a body on. What belayd does not take is read all the same: a client that is still sending
/// would otherwise find its connection cut instead of the answer.
async fn pass_on(body: Body, pieces: mpsc::Sender<SyncUpload>, shutdown: CancellationToken) {
    let mut body = body.into_data_stream();
    loop {
        let next = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            next = tokio::time::timeout(PAUSE, body.next()) => next,
        };
        let piece = match next {
            Ok(Some(Ok(bytes))) => SyncUpload::Bytes(bytes.into()),
            Ok(None) => {
                let _ = pieces.send(SyncUpload::End).await;
                return;
            }
            // The client went away, or is as good as gone. Without an end it is no archive.
            Ok(Some(Err(_))) | Err(_) => return,
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = pieces.send(piece) => {}
        }
    }
}
