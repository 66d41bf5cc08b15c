//! Answers: JSON, problem documents, and lines of JSON that are sent as they come.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use belay_protocol::{LogLine, PROBLEM_MEDIA_TYPE, Problem, ProblemCode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const GZIP: HeaderValue = HeaderValue::from_static("application/gzip");
/// The exposition format that every Prometheus of the last ten years reads.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PROBLEM: HeaderValue = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);

/// A problem on its way out, so that handlers and extractors can end with `?`.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    /// A refusal with this code; `detail` and `next` as in [`Problem::new`].
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>, next: &str) -> Self {
        Self(Box::new(Problem::new(code, detail, next)))
    }
}

impl Refusal {
    /// What failed, on what, and why.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }
}

impl From<Box<Problem>> for Refusal {
    fn from(problem: Box<Problem>) -> Self {
        Self(problem)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status)
            .expect("a problem's status comes from the table of codes");
        with_type(status, PROBLEM, serialized(&self.0))
    }
}

/// `value` as one JSON document.
pub(crate) fn json<T: Serialize>(value: &T) -> Response {
    with_type(StatusCode::OK, JSON, serialized(value))
}

/// A page for Prometheus.
pub(crate) fn metrics(page: String) -> Response {
    with_type(StatusCode::OK, METRICS, page)
}

/// An archive, sent as it is made. A failure cuts the connection.
pub(crate) fn archive(
    pieces: impl Stream<Item = std::io::Result<Vec<u8>>> + Send + 'static,
) -> Response {
    with_type(StatusCode::OK, GZIP, Body::from_stream(pieces))
}

/// Sealed bytes, sent as they are made. A failure cuts the connection.
pub(crate) fn sealed(
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Response {
    with_type(StatusCode::OK, BYTES, Body::from_stream(pieces))
}

/// One JSON document a line, each sent as soon as it is there.
pub(crate) fn lines<T: Serialize>(values: impl Stream<Item = T> + Send + 'static) -> Response {
    let chunks = values.map(|value| {
        let mut line = serialized(&value);
        line.push(b'\n');
        Ok::<Bytes, Infallible>(line.into())
    });
    with_type(StatusCode::OK, LINES, Body::from_stream(chunks))
}

/// Lines of a log as they come. One that is followed has no end of its own: `shutdown` ends it, or
/// the drain would wait for it in vain.
pub(crate) fn log(lines: mpsc::Receiver<LogLine>, shutdown: &CancellationToken) -> Response {
    let coming = stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    self::lines(coming.take_until(shutdown.clone().cancelled_owned()))
}

/// A refusal of a request that does not have the documented shape.
pub(crate) fn invalid(detail: impl Into<String>, next: &str) -> Refusal {
    Refusal::new(ProblemCode::InvalidRequest, detail, next)
}

fn serialized<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("wire shapes have string keys and derived serializers")
}

fn with_type(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body.into()).into_response()
}
