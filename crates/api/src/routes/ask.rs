//! Pages that answer questions.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use belay_protocol::{NodeReadiness, Problem, ProblemCode};
use tokio::sync::oneshot;

use super::extract::{Named, NamedVolume, Pairs};
use crate::answer::{self, Refusal};
use crate::core::{metrics, page, query};
use crate::state::{ApiState, Command, shutting_down};

/// Longest wait for belayd's reply; it has its own, shorter deadlines towards the engine and disk.
const REPLY: Duration = Duration::from_mins(1);

pub(crate) async fn healthz(State(state): State<ApiState>) -> Response {
    answer::json(&page::health(&state.status()))
}

pub(crate) async fn readyz(State(state): State<ApiState>) -> Result<Response, Refusal> {
    match &state.status().ready {
        ready @ NodeReadiness::Ready => Ok(answer::json(ready)),
        NodeReadiness::NotReady { reason } => Err(Refusal::new(
            ProblemCode::NodeNotReady,
            reason,
            "belay status shows the node; belay doctor shows what its host lacks",
        )),
    }
}

pub(crate) async fn status(State(state): State<ApiState>) -> Response {
    answer::json(&*state.status())
}

pub(crate) async fn workloads(State(state): State<ApiState>) -> Response {
    answer::json(&state.status().workloads)
}

pub(crate) async fn workload(
    State(state): State<ApiState>,
    Named(name): Named,
) -> Result<Response, Refusal> {
    Ok(answer::json(page::workload(&state.status(), &name)?))
}

pub(crate) async fn volumes(State(state): State<ApiState>) -> Response {
    answer::json(&state.status().volumes)
}

pub(crate) async fn volume(
    State(state): State<ApiState>,
    NamedVolume { workload, volume }: NamedVolume,
) -> Result<Response, Refusal> {
    Ok(answer::json(page::volume(&state.status(), &workload, &volume)?))
}

pub(crate) async fn images(State(state): State<ApiState>) -> Response {
    answer::json(&state.status().images.clone().unwrap_or_default())
}

pub(crate) async fn metrics(State(state): State<ApiState>) -> Response {
    let tally = state.tally().borrow().clone();
    answer::metrics(metrics::page(&state.status(), &tally, &state.runs(), &state.hosted()))
}

pub(crate) async fn sync(State(state): State<ApiState>) -> Response {
    answer::json(&page::sync(&state.status()))
}

pub(crate) async fn locks(State(state): State<ApiState>) -> Result<Response, Refusal> {
    let (reply, locks) = oneshot::channel();
    state.send(Command::Locks { reply }).await?;
    Ok(answer::json(&replied(locks).await?))
}

pub(crate) async fn history(
    State(state): State<ApiState>,
    Named(workload): Named,
) -> Result<Response, Refusal> {
    let (reply, entries) = oneshot::channel();
    state.send(Command::History { workload, reply }).await?;
    Ok(answer::json(&replied(entries).await?))
}

pub(crate) async fn logs(
    State(state): State<ApiState>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let query = query::logs(&pairs)?;
    let (reply, lines) = oneshot::channel();
    state.send(Command::Logs { workload, query, reply }).await?;
    let lines = replied(lines).await?;
    Ok(answer::log(lines, state.shutdown()))
}

/// The reply to a command, or what its absence means.
pub(super) async fn replied<T>(reply: oneshot::Receiver<Result<T, Problem>>) -> Result<T, Refusal> {
    replied_within(REPLY, reply).await
}

/// The same, for a reply that takes its time.
pub(super) async fn replied_within<T>(
    patience: Duration,
    reply: oneshot::Receiver<Result<T, Problem>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(patience, reply).await {
        Ok(Ok(reply)) => reply.map_err(Refusal::from),
        Ok(Err(_dropped)) => Err(shutting_down().into()),
        Err(_late) => Err(Refusal::new(
            ProblemCode::Internal,
            format!("belayd did not answer within {} s", patience.as_secs()),
            "look into belayd's log; belay doctor shows what its host lacks",
        )),
    }
}
