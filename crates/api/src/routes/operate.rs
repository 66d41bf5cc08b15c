//! Pages that change something: each names an [`Operation`] and answers with its events.

use axum::Extension;
use axum::extract::{FromRequest as _, Request, State};
use axum::response::Response;
use belay_protocol::{
    BreakRequest, CheckRequest, DeployRequest, ExecRequest, GrowRequest, ImageAct, ImageRequest,
    LoadRequest, Operation, PruneRequest, PublishAllRequest, PublishRequest, RollbackRequest,
    VolumeAct,
};

use super::extract::{Document, Named, NamedVolume, Pairs, Patience};
use crate::answer::Refusal;
use crate::core::query;
use crate::exec;
use crate::operation::carry_out;
use crate::state::{ApiState, Caller};

pub(crate) async fn deploy(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<DeployRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Deploy(request)).await
}

pub(crate) async fn start(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let content = query::start(&pairs)?;
    let wait = query::wait(&pairs)?;
    Ok(carry_out(&state, caller, wait, Operation::Start { workload, content }).await)
}

pub(crate) async fn stop(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Named(workload): Named,
) -> Response {
    carry_out(&state, caller, wait, Operation::Stop { workload }).await
}

pub(crate) async fn restart(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Named(workload): Named,
) -> Response {
    carry_out(&state, caller, wait, Operation::Restart { workload }).await
}

pub(crate) async fn remove(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    Pairs(pairs): Pairs,
) -> Result<Response, Refusal> {
    let (volumes, dependants) = query::removal(&pairs)?;
    let wait = query::wait(&pairs)?;
    Ok(carry_out(&state, caller, wait, Operation::Remove { workload, volumes, dependants }).await)
}

pub(crate) async fn clear_overrides(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
) -> Response {
    carry_out(&state, caller, None, Operation::ClearOverrides { workload }).await
}

pub(crate) async fn publish(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    Document(request): Document<PublishRequest>,
) -> Response {
    carry_out(&state, caller, None, Operation::Publish { workload, request }).await
}

pub(crate) async fn exec(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    mut request: Request,
) -> Result<Response, Refusal> {
    let offer = exec::offer(&mut request)?;
    let Document(request) = Document::<ExecRequest>::from_request(request, &state).await?;
    exec::begin(&state, caller, workload, request, offer).await
}

pub(crate) async fn break_lock(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
    Document(request): Document<BreakRequest>,
) -> Response {
    let operation = Operation::BreakLock { workload, mode: request.mode };
    carry_out(&state, caller, None, operation).await
}

pub(crate) async fn publish_all(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Document(request): Document<PublishAllRequest>,
) -> Response {
    carry_out(&state, caller, None, Operation::PublishAll(request)).await
}

pub(crate) async fn take_over(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Named(workload): Named,
) -> Response {
    carry_out(&state, caller, None, Operation::Takeover { workload }).await
}

pub(crate) async fn signing_key(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
) -> Response {
    carry_out(&state, caller, None, Operation::SigningKey).await
}

pub(crate) async fn grow(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
    Document(request): Document<GrowRequest>,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Grow(request)).await
}

pub(crate) async fn check(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
    Document(request): Document<CheckRequest>,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Check(request)).await
}

pub(crate) async fn reset(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Reset).await
}

pub(crate) async fn rollback(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
    Document(request): Document<RollbackRequest>,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Rollback(request)).await
}

pub(crate) async fn adopt(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Adopt).await
}

pub(crate) async fn trim(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Trim).await
}

pub(crate) async fn remove_volume(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    patience: Patience,
    volume: NamedVolume,
) -> Response {
    act(&state, caller, patience, volume, VolumeAct::Remove).await
}

async fn act(
    state: &ApiState,
    caller: Caller,
    Patience(wait): Patience,
    NamedVolume { workload, volume }: NamedVolume,
    act: VolumeAct,
) -> Response {
    carry_out(state, caller, wait, Operation::Volume { workload, volume, act }).await
}

pub(crate) async fn load_image(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<LoadRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Image { act: ImageAct::Load(request) }).await
}

pub(crate) async fn prune_images(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<PruneRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Image { act: ImageAct::Prune(request) }).await
}

pub(crate) async fn pin_image(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<ImageRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Image { act: ImageAct::Pin(request) }).await
}

pub(crate) async fn unpin_image(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<ImageRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Image { act: ImageAct::Unpin(request) }).await
}

pub(crate) async fn remove_image(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Patience(wait): Patience,
    Document(request): Document<ImageRequest>,
) -> Response {
    carry_out(&state, caller, wait, Operation::Image { act: ImageAct::Remove(request) }).await
}
