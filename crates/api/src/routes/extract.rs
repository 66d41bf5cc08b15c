//! What handlers take from a request, parsed at the edge and refused with a problem document.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use belay_protocol::runner::SubmitRequest;
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

/// What a path names by one word.
pub(crate) trait PathName: FromStr<Err: Display> {
    /// What to do about a word that names nothing.
    const NEXT: &'static str;
}

/// What the path names.
pub(crate) struct OfPath<T>(pub(crate) T);

impl<S: Send + Sync, T: PathName> FromRequestParts<S> for OfPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|error| invalid(error.body_text(), T::NEXT))?;
        name.parse().map(Self).map_err(|error: T::Err| invalid(error.to_string(), T::NEXT))
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
        let too_large = || {
            let detail = "the body is longer than 1 MiB";
            Refusal::new(ProblemCode::RequestTooLarge, detail, "send a spec, not what it names")
        };
        read(request, state, too_large).await.map(Self)
    }
}

/// The body as a submission, which may be longer than any other.
pub(crate) struct SubmittedRun(pub(crate) SubmitRequest);

impl<S: Send + Sync> FromRequest<S> for SubmittedRun {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let too_large = || {
            Refusal::new(
                ProblemCode::RequestTooLarge,
                "the body is longer than 2 MiB, and a payload is 1 MiB of compact JSON at most",
                "store what is that large elsewhere, and submit where it lies",
            )
        };
        read(request, state, too_large).await.map(Self)
    }
}

async fn read<S: Send + Sync, T: DeserializeOwned>(
    request: Request,
    state: &S,
    too_large: impl FnOnce() -> Refusal,
) -> Result<T, Refusal> {
    let arrival = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await;
    let body = match arrival {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return Err(too_large());
        }
        Ok(Err(error)) => return Err(invalid(error.body_text(), "send the request again")),
        Err(_late) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return Err(invalid(detail, "send the request again"));
        }
    };
    serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not the JSON that this page takes: {error}");
        invalid(detail, "docs/api.md shows the shape")
    })
}
