//! Runs, runners and waitpoints.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use belay_protocol::Problem;
use belay_protocol::runner::{
    CompleteWaitpoint, Empty, RunId, RunnerId, TokenRequest, WaitpointId,
};
use tokio::sync::oneshot;

use super::ask::replied;
use super::extract::{Document, OfPath, Pairs, PathName, SubmittedRun};
use crate::answer::{self, Refusal};
use crate::core::query;
use crate::runs::{RunnerCommand, RunnerReply};
use crate::state::ApiState;

/// Pages about runs, which carry what apps put in them, and about tokens: the operator's alone.
pub(crate) const OPERATOR_PAGES: [&str; 8] = [
    "/v1/runs",
    "/v1/runs/{run}",
    "/v1/runs/{run}/cancel",
    "/v1/runs/{run}/logs",
    "/v1/waitpoints",
    "/v1/waitpoints/{waitpoint}/complete",
    "/v1/runners/tokens",
    "/v1/runners/{runner}/tokens",
];

/// What those pages do; `limit` is of the body of a submission.
pub(crate) fn operator_routes(limit: usize) -> Router<ApiState> {
    let [all, one, cancelled, logged, all_waitpoints, completed, issued, revoked] = OPERATOR_PAGES;
    Router::new()
        .route(all, get(runs).post(submit).layer(DefaultBodyLimit::max(limit)))
        .route(one, get(run))
        .route(cancelled, post(cancel))
        .route(logged, get(logs))
        .route(all_waitpoints, get(waitpoints))
        .route(completed, post(complete_waitpoint))
        .route(issued, post(issue_token))
        .route(revoked, delete(revoke_tokens))
}

impl PathName for RunId {
    const NEXT: &'static str = "name the run as belay run ls shows it";
}

impl PathName for WaitpointId {
    const NEXT: &'static str = "name the waitpoint as belay waitpoint ls shows it";
}

impl PathName for RunnerId {
    const NEXT: &'static str = "name the runner as belay runner ls shows it";
}

pub(crate) async fn submit(
    State(state): State<ApiState>,
    SubmittedRun(request): SubmittedRun,
) -> Result<Response, Refusal> {
    let submitted = asked(&state, |reply| RunnerCommand::Submit { request, reply }).await?;
    Ok(answer::json(&submitted))
}

pub(crate) async fn runs(
    State(state): State<ApiState>,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let query = query::runs::runs(&pairs)?;
    let page = asked(&state, |reply| RunnerCommand::Runs { query, reply }).await?;
    Ok(answer::json(&page))
}

pub(crate) async fn run(
    State(state): State<ApiState>,
    OfPath(run): OfPath<RunId>,
) -> Result<Response, Refusal> {
    let detail = asked(&state, |reply| RunnerCommand::Run { run, reply }).await?;
    Ok(answer::json(&detail))
}

pub(crate) async fn logs(
    State(state): State<ApiState>,
    OfPath(run): OfPath<RunId>,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let query = query::runs::logs(&pairs)?;
    let lines = asked(&state, |reply| RunnerCommand::Logs { run, query, reply }).await?;
    Ok(answer::log(lines, state.shutdown()))
}

pub(crate) async fn cancel(
    State(state): State<ApiState>,
    OfPath(run): OfPath<RunId>,
) -> Result<Response, Refusal> {
    asked(&state, |reply| RunnerCommand::Cancel { run, reply }).await?;
    Ok(answer::json(&Empty {}))
}

pub(crate) async fn runners(State(state): State<ApiState>) -> Result<Response, Refusal> {
    let runners = asked(&state, |reply| RunnerCommand::Runners { reply }).await?;
    Ok(answer::json(&runners))
}

pub(crate) async fn waitpoints(
    State(state): State<ApiState>,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let query = query::runs::waitpoints(&pairs)?;
    let page = asked(&state, |reply| RunnerCommand::Waitpoints { query, reply }).await?;
    Ok(answer::json(&page))
}

pub(crate) async fn complete_waitpoint(
    State(state): State<ApiState>,
    OfPath(waitpoint): OfPath<WaitpointId>,
    Document(completion): Document<CompleteWaitpoint>,
) -> Result<Response, Refusal> {
    let command = |reply| RunnerCommand::CompleteWaitpoint { waitpoint, completion, reply };
    asked(&state, command).await?;
    Ok(answer::json(&Empty {}))
}

pub(crate) async fn issue_token(
    State(state): State<ApiState>,
    Document(request): Document<TokenRequest>,
) -> Result<Response, Refusal> {
    let issued = asked(&state, |reply| RunnerCommand::IssueToken { request, reply }).await?;
    Ok(answer::json(&issued))
}

pub(crate) async fn revoke_tokens(
    State(state): State<ApiState>,
    OfPath(runner): OfPath<RunnerId>,
) -> Result<Response, Refusal> {
    asked(&state, |reply| RunnerCommand::RevokeTokens { runner, reply }).await?;
    Ok(answer::json(&Empty {}))
}

pub(super) async fn asked<T>(
    state: &ApiState,
    command: impl FnOnce(RunnerReply<T>) -> RunnerCommand,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel::<Result<T, Problem>>();
    state.ask_runners(command(reply)).await?;
    replied(answer).await
}
