//! Volume-sync of one workload, beside publishing.

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use belay_protocol::{Operation, SyncAct, SyncPiece, SyncQuestion, WorkloadName};
use tokio::sync::{mpsc, oneshot};

use super::ask::replied;
use super::extract::{Named, Pairs};
use crate::answer::{self, Refusal};
use crate::core::query;
use crate::operation::carry_out;
use crate::state::{ApiState, Caller, Command, shutting_down};

/// Pages that act on volume-sync, or show what apps put into it: the operator's alone.
pub(crate) const OPERATOR_PAGES: [&str; 3] = [
    "/v1/workloads/{name}/sync/pause",
    "/v1/workloads/{name}/sync/resume",
    "/v1/workloads/{name}/sync/generation",
];

/// What those pages do.
pub(crate) fn operator_routes() -> Router<ApiState> {
    let [paused, resumed, shown] = OPERATOR_PAGES;
    Router::new()
        .route(paused, post(pause))
        .route(resumed, post(resume))
        .route(shown, get(generation))
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

async fn generation(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let cid = query::sync::generation(&pairs)?;
    let mut pieces = ask(&state, workload, SyncQuestion::Show { cid }).await?;
    match pieces.recv().await {
        Some(SyncPiece::Generation(generation)) => Ok(answer::json(&*generation)),
        None => Err(shutting_down().into()),
    }
}

async fn ask(
    state: &ApiState,
    workload: WorkloadName,
    question: SyncQuestion,
) -> Result<mpsc::Receiver<SyncPiece>, Refusal> {
    let (reply, pieces) = oneshot::channel();
    state.send(Command::AskSync { workload, question, reply }).await?;
    replied(pieces).await
}
