//! Finding an engine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use crate::deadline;
use crate::engine::{Engine, EngineKind};
use crate::error::EngineError;
use crate::service::{PODMAN, PodmanService, ServiceError, ServiceStatus};

/// Where systemd's `podman.socket` listens.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
/// Where Docker listens. The second is the older name of the first and differs where `/var/run` is
/// a directory of its own.
const DOCKER_SOCKETS: [&str; 2] = ["/run/docker.sock", "/var/run/docker.sock"];
/// How long our own service may take until it answers. Its first start on a machine makes the
/// storage.
const SERVICE_WITHIN: Duration = Duration::from_mins(1);

/// How long a service may take to end that did not come up.
const GIVEN_UP_GRACE: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// The configured socket; when it is set nothing else is looked at.
    pub socket: Option<PathBuf>,
    /// Directory for the socket of our own `podman system service`; it exists, and is ours.
    pub runtime_dir: PathBuf,
    /// Which engines are wanted.
    pub kind: EngineChoice,
}

/// Which engines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// Podman where it is installed, else Docker.
    #[default]
    Auto,
    /// Podman only.
    Podman,
    /// Docker only.
    Docker,
}

impl EngineChoice {
    /// Whether an engine of this kind will do.
    pub(crate) fn takes(self, kind: EngineKind) -> bool {
        match self {
            Self::Auto => true,
            Self::Podman => kind == EngineKind::Podman,
            Self::Docker => kind == EngineKind::Docker,
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on the configured socket.
    #[error("no engine answers on the configured socket {socket}")]
    NotListening {
        /// The socket.
        socket: PathBuf,
        /// How the connection failed.
        source: io::Error,
    },
    /// The engine there is not the one that is wanted.
    #[error("the engine on {socket} is {found}, which the configuration excludes")]
    WrongKind {
        /// The socket.
        socket: PathBuf,
        /// What listens there.
        found: EngineKind,
    },
    /// No engine is installed.
    #[error("no container engine found: no socket answers ({}) and {PODMAN} is not installed; install the packages podman and runc", list(.looked_at))]
    NoEngine {
        /// Sockets that were tried.
        looked_at: Vec<PathBuf>,
    },
    /// Our own Podman service did not come up.
    #[error("cannot start the Podman service")]
    Service(#[from] ServiceError),
    /// An engine is there and the first request failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ConnectError {
    /// Whether it may work later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotListening { .. } => true,
            Self::WrongKind { .. } | Self::NoEngine { .. } => false,
            Self::Service(error) => error.is_retryable(),
            Self::Engine(error) => error.is_retryable(),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What there is to connect to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// An engine listens here.
    Socket(PathBuf),
    /// Podman is installed and no service of it listens: start our own.
    OwnService,
    /// Nothing.
    Nothing { looked_at: Vec<PathBuf> },
}

/// Finds the engine to use: the configured socket, else Podman's, else our own Podman service, else
/// Docker's.
///
/// The order does not depend on which service happens to run: where Podman is installed Docker is
/// never taken instead, because containers made in one engine are not seen in the other. The
/// service is given when it was started here, and is to be ended by its owner.
pub async fn connect(
    options: EngineOptions,
) -> Result<(Engine, Option<PodmanService>), ConnectError> {
    if let Some(socket) = options.socket {
        if let Err(source) = answers(&socket).await {
            return Err(ConnectError::NotListening { socket, source });
        }
        return Ok((open(&socket, options.kind).await?, None));
    }
    match choose(options.kind).await {
        Choice::Socket(socket) => Ok((open(&socket, options.kind).await?, None)),
        Choice::OwnService => {
            let (engine, service) = connect_own(&options.runtime_dir).await?;
            Ok((engine, Some(service)))
        }
        Choice::Nothing { looked_at } => Err(ConnectError::NoEngine { looked_at }),
    }
}

/// Starts a Podman service of our own, whatever else runs on the machine, and waits until it
/// answers.
pub async fn connect_own(runtime_dir: &Path) -> Result<(Engine, PodmanService), ConnectError> {
    let service = PodmanService::start(runtime_dir)?;
    match wait_for(&service).await {
        Ok(engine) => Ok((engine, service)),
        Err(error) => {
            service.shutdown(GIVEN_UP_GRACE).await;
            Err(error)
        }
    }
}

pub(crate) async fn choose(kind: EngineChoice) -> Choice {
    let mut looked_at = Vec::new();
    if kind.takes(EngineKind::Podman) {
        let socket = PathBuf::from(PODMAN_SOCKET);
        if answers(&socket).await.is_ok() {
            return Choice::Socket(socket);
        }
        looked_at.push(socket);
        if Path::new(PODMAN).exists() {
            return Choice::OwnService;
        }
    }
    if kind.takes(EngineKind::Docker) {
        for socket in DOCKER_SOCKETS.map(PathBuf::from) {
            if answers(&socket).await.is_ok() {
                return Choice::Socket(socket);
            }
            looked_at.push(socket);
        }
    }
    Choice::Nothing { looked_at }
}

/// Whether something accepts connections on a socket.
pub(crate) async fn answers(socket: &Path) -> io::Result<()> {
    match tokio::time::timeout(deadline::PING, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn open(socket: &Path, kind: EngineChoice) -> Result<Engine, ConnectError> {
    let engine = Engine::open(socket).await?;
    let found = engine.info().kind;
    if kind.takes(found) {
        Ok(engine)
    } else {
        Err(ConnectError::WrongKind { socket: socket.to_owned(), found })
    }
}

/// Waits until our own service answers, or has died, or time is up.
async fn wait_for(service: &PodmanService) -> Result<Engine, ConnectError> {
    let end = tokio::time::Instant::now() + SERVICE_WITHIN;
    let mut status = service.status();
    loop {
        let seen = status.borrow_and_update().clone();
        let error = match seen {
            // What answers before ours runs is the service of a belayd that died, about to end.
            ServiceStatus::Starting => None,
            ServiceStatus::Running { .. } => match Engine::open(service.socket()).await {
                Ok(engine) => return Ok(engine),
                Err(error) => Some(error),
            },
            ServiceStatus::Down { why, .. } => return Err(ServiceError::Died { why }.into()),
            ServiceStatus::Ended => {
                return Err(ServiceError::Died { why: "it was told to".to_owned() }.into());
            }
        };
        if tokio::time::Instant::now() >= end {
            return Err(match error {
                Some(error) => error.into(),
                None => ServiceError::NotStarted { after: SERVICE_WITHIN }.into(),
            });
        }
        // It makes its socket when it is ready; nothing tells when.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_takes_what_it_names() {
        for (choice, podman, docker) in [
            (EngineChoice::Auto, true, true),
            (EngineChoice::Podman, true, false),
            (EngineChoice::Docker, false, true),
        ] {
            assert_eq!(choice.takes(EngineKind::Podman), podman, "{choice:?}");
            assert_eq!(choice.takes(EngineKind::Docker), docker, "{choice:?}");
        }
    }
}
