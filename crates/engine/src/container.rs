//! What an engine says of a container.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::spec::{Access, Limits, PortBinding};

/// Full id of a container, as the engine gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve characters, as people see them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container as inspect found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Id.
    pub id: ContainerId,
    /// Name, without the leading slash of the API.
    pub name: String,
    /// Id of the image it was made from.
    pub image_id: String,
    /// Image reference as asked for at creation.
    pub image: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// State.
    pub state: ContainerState,
    /// Last start, also of one that has ended since.
    pub started_at: Option<Timestamp>,
    /// Ports as published; after a start with host port 0 these are the chosen ones.
    pub ports: Vec<PortBinding>,
    /// Bind mounts.
    pub mounts: Vec<MountSeen>,
    /// The engine's own restart policy.
    pub restart_policy: RestartPolicy,
    /// Limits as the engine recorded them.
    pub limits: Limits,
    /// Address on the engine's network, while it runs.
    pub address: Option<IpAddr>,
    /// Signal that asks it to end, by name or number, where the engine names one.
    pub stop_signal: Option<String>,
    /// The command of the health check that the image declares, with a shell in front where the
    /// image wants one.
    pub healthcheck: Option<Vec<String>>,
    /// The engine's own health check, when the image or the specification has one.
    pub health: Option<crate::event::Health>,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// A process runs.
    Running {
        /// Process id of process 1, in the host's numbering.
        pid: u32,
        /// Start of this incarnation.
        started_at: Timestamp,
    },
    /// A process exists and is frozen.
    Paused {
        /// Process id of process 1, in the host's numbering.
        pid: u32,
        /// Start of this incarnation.
        started_at: Timestamp,
    },
    /// The engine is stopping it; the process may still write.
    Stopping,
    /// It ran, and no process is left.
    Exited {
        /// Exit code; 128 plus the signal number when a signal ended it.
        exit_code: i32,
        /// Whether the kernel ended it for want of memory.
        oom_killed: bool,
        /// When.
        finished_at: Option<Timestamp>,
        /// What the engine says went wrong, such as a start that failed.
        error: Option<String>,
    },
    /// The engine is removing it, or failed half way.
    Removing,
    /// A state this program does not know. It counts as running wherever that is the safe guess.
    Unknown(String),
}

/// What a list says of a container, which costs an engine far less than to inspect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    pub(crate) status: String,
}

impl ListedContainer {
    /// Whether the list agrees with a state that was found earlier. It does not tell one process of
    /// a container from the next one.
    pub fn agrees_with(&self, state: &ContainerState) -> bool {
        crate::core::state::agrees(&self.status, state)
    }
}

/// The question that decides over volumes: may a process of this container write?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// A process exists.
    Running,
    /// No process exists.
    Stopped,
    /// It cannot be told. Treat as running.
    Unknown,
}

/// One run of a container's process 1. Two equal ones are the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// Process id of process 1, in the host's numbering.
    pub pid: u32,
    /// Start.
    pub started_at: Timestamp,
}

impl ContainerState {
    /// Whether a process exists.
    pub fn liveness(&self) -> Liveness {
        match self {
            Self::Running { .. } | Self::Paused { .. } => Liveness::Running,
            Self::Created | Self::Exited { .. } => Liveness::Stopped,
            Self::Stopping | Self::Removing | Self::Unknown(_) => Liveness::Unknown,
        }
    }

    /// The process that runs or is frozen.
    pub fn incarnation(&self) -> Option<Incarnation> {
        match self {
            Self::Running { pid, started_at } | Self::Paused { pid, started_at } => {
                Some(Incarnation { pid: *pid, started_at: *started_at })
            }
            Self::Created
            | Self::Stopping
            | Self::Exited { .. }
            | Self::Removing
            | Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Running { .. } => f.write_str("running"),
            Self::Paused { .. } => f.write_str("paused"),
            Self::Stopping => f.write_str("stopping"),
            Self::Exited { exit_code, oom_killed: true, .. } => {
                write!(f, "exited with {exit_code}, out of memory")
            }
            Self::Exited { exit_code, .. } => write!(f, "exited with {exit_code}"),
            Self::Removing => f.write_str("being removed"),
            Self::Unknown(status) => write!(f, "unknown ({status:?})"),
        }
    }
}

/// A bind mount as the engine recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSeen {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside the container.
    pub target: String,
    /// Whether the container may write.
    pub access: Access,
}

/// The engine's own restart policy of a container. belayd's containers have [`Self::No`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartPolicy {
    /// The engine never restarts it.
    No,
    /// Any other policy, by the engine's name.
    Other(String),
}
