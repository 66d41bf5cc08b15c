//! The handle: one engine, by its socket.

mod archive;
mod checkpoint;
mod containers;
mod events;
mod exec;
mod fault;
mod http;
mod images;
mod load;
mod logs;
mod network;
mod oom;
mod request;
mod session;
mod survivor;
mod timed_log;
mod transplant;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;

pub use crate::core::abilities::{Abilities, EngineKind};
pub use crate::core::version::Version;
pub use containers::Removal;
pub use events::Events;
pub use exec::{ExecOutput, ExecSpec};
pub use logs::{LogLine, LogOptions, LogStream};
pub use session::{
    Session, SessionInput, SessionOutput, SessionPiece, SessionSignal, SessionSpec, Stdin, Terminal,
};
pub use survivor::{FirstProcess, Survivor};
pub use timed_log::TimedLog;
pub use transplant::CheckpointPlace;

use crate::core::abilities::{InfoBody, VersionBody, abilities, go_architecture};
use crate::core::image_name;
use crate::deadline;
use crate::error::{EngineError, Object, Operation};
use http::Http;

/// A container engine. A clone is the same engine; it holds no connection, so that a restart of the
/// engine's service needs no new handle.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    docker: Docker,
    http: Http,
    info: EngineInfo,
}

/// What an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Which one.
    pub kind: EngineKind,
    /// Its version.
    pub version: Version,
    /// Version of the Docker API that it speaks.
    pub api: Version,
    /// Its socket.
    pub socket: PathBuf,
    /// What it can do.
    pub abilities: Abilities,
    /// Directory that holds its images.
    pub storage: PathBuf,
    /// Architecture of the machine that it runs on, in the words of Go: `amd64`, `arm64`.
    pub architecture: String,
}

/// Oldest Docker API that has everything used here.
pub(crate) const OLDEST_API: (u32, u32) = (1, 40);

impl Engine {
    /// A handle on the engine that listens on `socket`, after it has answered.
    pub(crate) async fn open(socket: &Path) -> Result<Self, EngineError> {
        let object = || Object::Engine(socket.to_owned());
        let fail = |error| fault::from_bollard(Operation::Ping, object(), error);
        let http = Http::new(socket)?;
        let info = probe(&http, socket).await?;
        let path = socket.to_str().ok_or_else(|| EngineError::Invalid {
            operation: Operation::Ping,
            object: object(),
            detail: "the path of the socket is not UTF-8".to_owned(),
        })?;
        // The client's own limit is on the wait for the head of an answer. It must be longer than
        // the longest deadline here, which are kept outside of it.
        let longest = deadline::LOAD + Duration::from_mins(1);
        let docker =
            Docker::connect_with_unix(path, longest.as_secs(), bollard::API_DEFAULT_VERSION)
                .map_err(fail)?;
        let docker = tokio::time::timeout(deadline::ABOUT, docker.negotiate_version())
            .await
            .map_err(|_| EngineError::TimedOut {
                operation: Operation::Ping,
                object: object(),
                after: deadline::ABOUT,
            })?
            .map_err(fail)?;
        Ok(Self { shared: Arc::new(Shared { docker, http, info }) })
    }

    /// What the engine was when it was connected to.
    pub fn info(&self) -> &EngineInfo {
        &self.shared.info
    }

    /// Asks whether the engine answers, which costs it nothing. Deadline: [`deadline::PING`].
    pub async fn is_there(&self) -> Result<(), EngineError> {
        let object = Object::Engine(self.shared.info.socket.clone());
        let request = self.http().request(reqwest::Method::GET, http::Api::Docker, "/_ping");
        let answered = self.http().open(Operation::Ping, object, deadline::PING, request);
        answered.await.map(drop)
    }

    /// Asks the engine what it is now. Deadline: [`deadline::ABOUT`] for each of two requests.
    pub async fn ping(&self) -> Result<EngineInfo, EngineError> {
        probe(&self.shared.http, &self.shared.info.socket).await
    }

    fn docker(&self) -> &Docker {
        &self.shared.docker
    }

    fn http(&self) -> &Http {
        &self.shared.http
    }

    /// Runs a call of the Docker client under a deadline.
    async fn call<T>(
        &self,
        operation: Operation,
        object: Object,
        after: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(after, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(fault::from_bollard(operation, object, error)),
            Err(_) => Err(EngineError::TimedOut { operation, object, after }),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("info", &self.shared.info).finish_non_exhaustive()
    }
}

async fn probe(http: &Http, socket: &Path) -> Result<EngineInfo, EngineError> {
    let object = || Object::Engine(socket.to_owned());
    let version: VersionBody =
        http.get(Operation::Ping, object(), deadline::ABOUT, "/version", &[]).await?;
    let info: InfoBody = http.get(Operation::Ping, object(), deadline::ABOUT, "/info", &[]).await?;
    let kind = version.kind();
    let api = Version::parse(&version.api_version);
    if !api.at_least(OLDEST_API.0, OLDEST_API.1) {
        return Err(EngineError::Unsupported {
            operation: Operation::Ping,
            object: object(),
            detail: format!("its API is {api}, {}.{} is needed", OLDEST_API.0, OLDEST_API.1),
        });
    }
    let version = Version::parse(&version.version);
    let abilities = abilities(kind, &version, &info);
    Ok(EngineInfo {
        kind,
        version,
        api,
        socket: socket.to_owned(),
        abilities,
        storage: PathBuf::from(info.docker_root_dir),
        architecture: go_architecture(&info.architecture).to_owned(),
    })
}

/// A container's name or id as it goes into a path of the API.
fn reference(operation: Operation, name: &str) -> Result<&str, EngineError> {
    if image_name::is_container_name(name) {
        return Ok(name);
    }
    Err(EngineError::Invalid {
        operation,
        object: Object::Container(name.chars().take(80).collect()),
        detail: "a container's name is made of letters, digits, '_', '.' and '-'".to_owned(),
    })
}

/// An image reference as it goes into a path of the API.
fn image_reference(operation: Operation, name: &str) -> Result<&str, EngineError> {
    if image_name::is_image_reference(name) {
        return Ok(name);
    }
    Err(EngineError::Invalid {
        operation,
        object: Object::Image(name.chars().take(80).collect()),
        detail: "this is not an image reference".to_owned(),
    })
}
