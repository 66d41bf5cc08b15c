//! Which page does what, on which listener.

mod ask;
mod checkpoints;
mod events;
mod extract;
mod operate;
mod runs;
mod sync;
mod upload;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use belay_protocol::ProblemCode;

use crate::answer::Refusal;
use crate::core::host;
use crate::state::ApiState;

/// Longest body of a request; a spec is a few hundred bytes.
const BODY_LIMIT: usize = 1024 * 1024;

/// Longest body of a submission: a payload of 1 MiB of compact JSON, written less tightly.
const RUN_LIMIT: usize = 2 * BODY_LIMIT;

/// Pages that change something, or show what a workload wrote. A method router answers on each of
/// them for the operator, a refusal for the observer.
const ACTS: [&str; 20] = [
    "/v1/workloads/{name}/start",
    "/v1/workloads/{name}/stop",
    "/v1/workloads/{name}/restart",
    "/v1/workloads/{name}/env",
    "/v1/workloads/{name}/sync/publish",
    "/v1/sync/publish",
    "/v1/workloads/{name}/sync/history",
    "/v1/workloads/{name}/logs",
    "/v1/workloads/{name}/exec",
    "/v1/volumes/{workload}/{volume}/grow",
    "/v1/volumes/{workload}/{volume}/check",
    "/v1/volumes/{workload}/{volume}/reset",
    "/v1/volumes/{workload}/{volume}/rollback",
    "/v1/volumes/{workload}/{volume}/adopt",
    "/v1/volumes/{workload}/{volume}/trim",
    "/v1/images/load",
    "/v1/images/prune",
    "/v1/images/pin",
    "/v1/images/unpin",
    "/v1/images/rm",
];

/// Has a workload publish in the place of who does.
const TAKEOVER: &str = "/v1/workloads/{name}/sync/takeover";

/// Says the key by which this node signs what it publishes.
const KEYGEN: &str = "/v1/sync/keygen";

/// Frees the locks of a workload.
const BREAK: &str = "/v1/workloads/{name}/lock/break";

/// Every page, for those whom the Unix socket's mode lets in.
pub fn operator_router(state: ApiState) -> Router {
    let [
        start,
        stop,
        restart,
        env,
        publish,
        publish_all,
        history,
        logs,
        exec,
        grow,
        check,
        reset,
        rollback,
        adopt,
        trim,
        load_image,
        prune_images,
        pin_image,
        unpin_image,
        remove_image,
    ] = ACTS;
    questions()
        .route("/v1/workloads", post(operate::deploy))
        .route("/v1/locks", get(ask::locks))
        .route(BREAK, post(operate::break_lock))
        .route("/v1/workloads/{name}", delete(operate::remove))
        .route(start, post(operate::start))
        .route(stop, post(operate::stop))
        .route(restart, post(operate::restart))
        .route(env, delete(operate::clear_overrides))
        .route(publish, post(operate::publish))
        .route(publish_all, post(operate::publish_all))
        .route(TAKEOVER, post(operate::take_over))
        .route(KEYGEN, post(operate::signing_key))
        .route(history, get(ask::history))
        .route(logs, get(ask::logs))
        .route(exec, post(operate::exec))
        .route("/v1/volumes/{workload}/{volume}", delete(operate::remove_volume))
        .route(grow, post(operate::grow))
        .route(check, post(operate::check))
        .route(reset, post(operate::reset))
        .route(rollback, post(operate::rollback))
        .route(adopt, post(operate::adopt))
        .route(trim, post(operate::trim))
        .route(load_image, post(operate::load_image))
        .route(prune_images, post(operate::prune_images))
        .route(pin_image, post(operate::pin_image))
        .route(unpin_image, post(operate::unpin_image))
        .route(remove_image, post(operate::remove_image))
        .merge(runs::operator_routes(RUN_LIMIT))
        .merge(checkpoints::operator_routes())
        .merge(sync::operator_routes())
        .fallback(no_such_resource)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::map_response(with_common_headers))
        .with_state(state)
}

/// The pages that only answer questions, for whoever reaches the loopback port under a loopback
/// name. Everything else is refused with `read-only-listener`.
pub fn observer_router(state: ApiState) -> Router {
    ACTS.into_iter()
        .chain(["/v1/locks", BREAK, KEYGEN, TAKEOVER])
        .chain(runs::OPERATOR_PAGES)
        .chain(checkpoints::OPERATOR_PAGES)
        .chain(sync::OPERATOR_PAGES)
        .fold(questions(), |router, path| router.route(path, any(read_only)))
        .fallback(refuse_or_not_found)
        .method_not_allowed_fallback(read_only)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(loopback_names_only))
        .layer(middleware::map_response(with_common_headers))
        .with_state(state)
}

fn questions() -> Router<ApiState> {
    Router::new()
        .route("/healthz", get(ask::healthz))
        .route("/readyz", get(ask::readyz))
        .route("/v1/status", get(ask::status))
        .route("/v1/workloads", get(ask::workloads))
        .route("/v1/workloads/{name}", get(ask::workload))
        .route("/v1/volumes", get(ask::volumes))
        .route("/v1/volumes/{workload}/{volume}", get(ask::volume))
        .route("/v1/events", get(events::events))
        .route("/v1/images", get(ask::images))
        .route("/metrics", get(ask::metrics))
        .route("/v1/sync", get(ask::sync))
        .route("/v1/runners", get(runs::runners))
}

async fn no_such_resource(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal::new(
        ProblemCode::NoSuchResource,
        format!("there is no page {path}"),
        "docs/api.md lists every page",
    )
}

async fn method_not_allowed(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal::new(
        ProblemCode::MethodNotAllowed,
        format!("{path} does not answer {}", request.method()),
        "docs/api.md lists every page with its methods",
    )
}

async fn read_only() -> Refusal {
    Refusal::new(
        ProblemCode::ReadOnlyListener,
        "operations, runs, histories and logs are served on belayd's Unix socket only",
        "use the belay command on the node, as root or a member of the socket's group",
    )
}

async fn refuse_or_not_found(request: Request) -> Refusal {
    match *request.method() {
        Method::GET | Method::HEAD => no_such_resource(request).await,
        _ => read_only().await,
    }
}

async fn loopback_names_only(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter();
    let mut names = hosts.map(|name| name.to_str().unwrap_or_default());
    let target = request.uri().authority().is_none_or(|name| host::is_loopback(name.as_str()));
    let here =
        matches!((names.next(), names.next()), (Some(name), None) if host::is_loopback(name));
    if target && here {
        return next.run(request).await;
    }
    Refusal::new(
        ProblemCode::ForeignHost,
        "the request's Host is not a loopback name, so it may come from a foreign web page",
        "ask for localhost or 127.0.0.1",
    )
    .into_response()
}

async fn with_common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
