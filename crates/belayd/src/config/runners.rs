//! The settings of the runner server.

use std::net::SocketAddr;

use belay_lifecycle::core::keys::Keys;
use belay_volumes::ByteSize;

/// Most runners that are let in unless it is set.
const CONNECTIONS: usize = 10_000;

/// What is configured about runners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunnerConfig {
    /// Loopback addresses where runners connect, besides the socket that containers get.
    pub listen: Vec<SocketAddr>,
    /// Most runners that are connected at one time.
    pub connections: usize,
    /// Memory for containers of runners; three quarters of the host's where none is set.
    pub memory: Option<ByteSize>,
}

/// What one piece says of runners; nothing where it is silent.
#[derive(Debug, Default)]
pub(super) struct SaidOfRunners {
    listen: Option<Vec<SocketAddr>>,
    connections: Option<usize>,
    memory: Option<ByteSize>,
}

impl SaidOfRunners {
    pub(super) fn overlaid_by(self, later: Self) -> Self {
        Self {
            listen: later.listen.or(self.listen),
            connections: later.connections.or(self.connections),
            memory: later.memory.or(self.memory),
        }
    }

    pub(super) fn with_defaults(self) -> RunnerConfig {
        RunnerConfig {
            listen: self.listen.unwrap_or_default(),
            connections: self.connections.unwrap_or(CONNECTIONS),
            memory: self.memory,
        }
    }
}

/// Reads the section `runner`.
pub(super) fn read(keys: &mut Keys<'_>, said: &mut SaidOfRunners) {
    said.listen = super::read_listen(keys);
    let connections = keys.integer("connections", 1..=100_000);
    said.connections = connections.and_then(|count| usize::try_from(count).ok());
    said.memory = keys.parsed("memory", "a size such as \"8G\"");
}
