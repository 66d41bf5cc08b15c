//! What to create: the part of a workload's specification that an engine needs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// A container to be created.
///
/// Some things are the same for all of them and have no field: the engine's restart policy is
/// `no` (belayd restarts), no process gains privileges (`no-new-privileges`), bind mounts are
/// `rprivate`, and no resource limit of the `ulimit` kind is sent, because Podman replaces its
/// whole configured list by whatever single one a request carries.
#[derive(Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, unique in the engine.
    pub name: String,
    /// Image reference or id.
    pub image: String,
    /// Arguments; `None` keeps the image's.
    pub command: Option<Vec<String>>,
    /// Entry point; `None` keeps the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Environment, added to the image's. Later entries win.
    pub env: Vec<(String, String)>,
    /// Labels; see [`crate::labels`].
    pub labels: BTreeMap<String, String>,
    /// Host directories or files to mount.
    pub mounts: Vec<BindMount>,
    /// Ports to publish; ignored by the engine for [`Network::Host`] and [`Network::None`].
    pub ports: Vec<PortBinding>,
    /// User, as `name`, `uid` or `uid:gid`; `None` keeps the image's.
    pub user: Option<String>,
    /// Working directory; `None` keeps the image's.
    pub working_dir: Option<String>,
    /// Host name inside; `None` is the engine's default (the short id).
    pub hostname: Option<String>,
    /// Resource limits.
    pub limits: Limits,
    /// Network.
    pub network: Network,
    /// Whether the root file system can be written.
    pub root: RootAccess,
    /// Signal that [`crate::Engine::stop`] sends first; `None` keeps the image's, else `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Capabilities to take away, as `ALL` or `NET_RAW`.
    pub cap_drop: Vec<String>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Whether the engine runs a small init as process 1.
    pub init: Init,
    /// Bound on what the engine keeps of the container's output.
    pub log: LogLimit,
    /// In-memory file systems, by path inside the container.
    pub tmpfs: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// A container of this name and image with the image's own command and no extras.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            command: None,
            entrypoint: None,
            env: Vec::new(),
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            ports: Vec::new(),
            user: None,
            working_dir: None,
            hostname: None,
            limits: Limits::default(),
            network: Network::Bridge,
            root: RootAccess::ReadWrite,
            stop_signal: None,
            cap_drop: Vec::new(),
            cap_add: Vec::new(),
            init: Init::Absent,
            log: LogLimit::default(),
            tmpfs: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for ContainerSpec {
    /// Leaves the values of the environment out: secrets travel there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ContainerSpec")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("command", &self.command)
            .field("entrypoint", &self.entrypoint)
            .field("env", &env)
            .field("labels", &self.labels)
            .field("mounts", &self.mounts)
            .field("ports", &self.ports)
            .field("user", &self.user)
            .field("limits", &self.limits)
            .field("network", &self.network)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A host path shown inside the container, mounted `rprivate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Absolute path on the host. It must exist: the engine makes no directory for it.
    pub source: PathBuf,
    /// Absolute path inside the container.
    pub target: String,
    /// Whether the container may write.
    pub access: Access,
}

/// What the container may do with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only.
    ReadOnly,
}

/// A container port published on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortBinding {
    /// Host address; unspecified (`0.0.0.0`) means every address.
    pub host_ip: IpAddr,
    /// Host port; 0 lets the engine choose, and inspect tells which.
    pub host_port: u16,
    /// Port inside the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Resource limits; `None` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory, in bytes. Swap is limited to the same sum, so that it cannot be used to get around.
    pub memory: Option<u64>,
    /// Processor time, in billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// Network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The engine's default bridge; published ports are forwarded.
    Bridge,
    /// The host's own.
    Host,
    /// Loopback only.
    None,
}

/// Whether the root file system of the container can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootAccess {
    /// Written to a layer that goes with the container.
    ReadWrite,
    /// Not at all; mounts and tmpfs stay writable by their own rule.
    ReadOnly,
}

/// Whether the engine puts a small init in front of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// The command is process 1 itself. It must handle the stop signal and reap its children.
    Absent,
    /// The engine's init (Podman: catatonit, Docker: tini) is process 1.
    Engine,
}

/// What the engine keeps of a container's output.
///
/// Docker keeps so many files and drops the oldest. Podman 4.3 keeps one file of the sum of them and
/// begins it anew when it is full, so that right after that nothing older is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit {
    /// Bytes per file.
    pub bytes: u64,
    /// Files.
    pub files: u32,
}

impl Default for LogLimit {
    /// Five times 10 MiB.
    fn default() -> Self {
        Self { bytes: 10 << 20, files: 5 }
    }
}
