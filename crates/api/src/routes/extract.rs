//! What handlers take from a request, parsed at the edge and refused with a problem document.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use belay_protocol::{ProblemCode, VolumeName, WorkloadName};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::answer::{Refusal, invalid};
use crate::core::query;

/// How long a request's body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The workload that the path names.
pub(crate) struct Named(pub(crate) WorkloadName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|error: PathRejection| {
            invalid(error.body_text(), "name the workload as belay ps shows it")
        })?;
        match name.parse() {
            Ok(name) => Ok(Self(name)),
            Err(error) => Err(invalid(error.to_string(), "name the workload as belay ps shows it")),
        }
    }
}

/// The volume that the path names.
pub(crate) struct NamedVolume {
    pub(crate) workload: WorkloadName,
    pub(crate) volume: VolumeName,
}

impl<S: Send + Sync> FromRequestParts<S> for NamedVolume {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        const NEXT: &str = "name the workload and its volume as belay volume ls shows them";
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((workload, volume)) =
            path.map_err(|error: PathRejection| invalid(error.body_text(), NEXT))?;
        let workload = workload.parse();
        let volume = volume.parse();
        match (workload, volume) {
            (Ok(workload), Ok(volume)) => Ok(Self { workload, volume }),
            (Err(error), _) | (Ok(_), Err(error)) => Err(invalid(error.to_string(), NEXT)),
        }
    }
}

/// The query as pairs, in order.
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(invalid(error.body_text(), "correct the query")),
        }
    }
}

/// How long the caller waits for its turn and for locks.
pub(crate) struct Patience(pub(crate) Option<Duration>);

impl<S: Send + Sync> FromRequestParts<S> for Patience {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Pairs(pairs) = Pairs::from_request_parts(parts, state).await?;
        Ok(Self(query::only_wait(&pairs)?))
    }
}

/// The body as one JSON document of the shape `T`.
pub(crate) struct Document<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Document<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let arrival = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await;
        let body = match arrival {
            Ok(Ok(body)) => body,
            Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(Refusal::new(
                    ProblemCode::RequestTooLarge,
                    "the body is longer than 1 MiB",
                    "send a spec, not what it names",
                ));
            }
            Ok(Err(error)) => return Err(invalid(error.body_text(), "send the request again")),
            Err(_late) => {
                let detail = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
                return Err(invalid(detail, "send the request again"));
            }
        };
        match serde_json::from_slice(&body) {
            Ok(document) => Ok(Self(document)),
            Err(error) => {
                let detail = format!("the body is not the JSON that this page takes: {error}");
                Err(invalid(detail, "docs/api.md shows the shape"))
            }
        }
    }
}
