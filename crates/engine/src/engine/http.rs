//! Plain HTTP over the engine's socket, for what the Docker client has no call for or reads too
//! strictly: it refuses a whole body over one state name it does not know.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fault::refused;
use crate::error::{EngineError, Object, Operation};

/// Largest body that is read. An inspect is some 10 KiB; a list of a thousand containers 2 MiB.
const BODY_MAX: usize = 32 << 20;
/// The API version in the path. Podman takes any; Docker refuses one that is newer than itself.
const DOCKER_API: &str = "v1.40";

pub(crate) struct Http {
    client: reqwest::Client,
}

/// Which of the two APIs of Podman's socket.
#[derive(Clone, Copy)]
pub(crate) enum Api {
    Docker,
    Libpod,
}

/// What both engines send with a refusal.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Http {
    pub(crate) fn new(socket: &Path) -> Result<Self, EngineError> {
        let client = reqwest::Client::builder()
            .unix_socket(socket.to_owned())
            // A kept connection would be dead after a restart of the service, and would hold up
            // the end of ours.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .map_err(|error| EngineError::Unreachable {
                operation: Operation::Ping,
                object: Object::Engine(socket.to_owned()),
                source: Box::new(error),
            })?;
        Ok(Self { client })
    }

    /// GET of the Docker API; `query` is encoded here.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        operation: Operation,
        object: Object,
        after: Duration,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, EngineError> {
        let request = self.request(reqwest::Method::GET, Api::Docker, path).query(query);
        self.json(operation, object, after, request).await
    }

    pub(crate) fn request(
        &self,
        method: reqwest::Method,
        api: Api,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let prefix = match api {
            Api::Docker => DOCKER_API,
            Api::Libpod => "v4.0.0/libpod",
        };
        self.client.request(method, format!("http://engine/{prefix}{path}"))
    }

    /// Sends a request and gives the answer before its body, which the caller reads.
    pub(crate) async fn open(
        &self,
        operation: Operation,
        object: Object,
        after: Duration,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, EngineError> {
        let exchange = async {
            let response = request.send().await.map_err(|error| EngineError::Unreachable {
                operation,
                object: object.clone(),
                source: Box::new(error),
            })?;
            if response.status().is_success() {
                return Ok(response);
            }
            let status = response.status().as_u16();
            let body = read(operation, &object, response).await?;
            Err(refused(operation, object.clone(), Some(status), &message(&body)))
        };
        match tokio::time::timeout(after, exchange).await {
            Ok(result) => result,
            Err(_) => Err(EngineError::TimedOut { operation, object: object.clone(), after }),
        }
    }

    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        operation: Operation,
        object: Object,
        after: Duration,
        request: reqwest::RequestBuilder,
    ) -> Result<T, EngineError> {
        let exchange = async {
            let response = request.send().await.map_err(|error| EngineError::Unreachable {
                operation,
                object: object.clone(),
                source: Box::new(error),
            })?;
            let status = response.status();
            let body = read(operation, &object, response).await?;
            if !status.is_success() {
                let message = message(&body);
                return Err(refused(operation, object.clone(), Some(status.as_u16()), &message));
            }
            serde_json::from_slice(&body).map_err(|error| EngineError::Unknown {
                operation,
                object: object.clone(),
                status: Some(status.as_u16()),
                detail: format!("the answer cannot be read: {error}"),
            })
        };
        match tokio::time::timeout(after, exchange).await {
            Ok(result) => result,
            Err(_) => Err(EngineError::TimedOut { operation, object: object.clone(), after }),
        }
    }

    /// A refusal in the engine's words. The body is read up to a bound and without a deadline of its
    /// own.
    pub(crate) async fn refusal(
        &self,
        operation: Operation,
        object: Object,
        response: reqwest::Response,
    ) -> EngineError {
        let status = response.status().as_u16();
        match read(operation, &object, response).await {
            Ok(body) => refused(operation, object, Some(status), &message(&body)),
            Err(error) => error,
        }
    }
}

/// The whole body of an answer, up to a bound.
async fn read(
    operation: Operation,
    object: &Object,
    response: reqwest::Response,
) -> Result<Vec<u8>, EngineError> {
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| EngineError::Unreachable {
            operation,
            object: object.clone(),
            source: Box::new(error),
        })?;
        body.extend_from_slice(&chunk);
        if body.len() > BODY_MAX {
            return Err(EngineError::Unknown {
                operation,
                object: object.clone(),
                status: Some(status.as_u16()),
                detail: format!("the answer is larger than {BODY_MAX} bytes"),
            });
        }
    }
    Ok(body)
}

/// The words of a refusal.
pub(super) fn message(body: &[u8]) -> String {
    serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |it| it.message)
}
