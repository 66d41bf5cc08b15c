//! The settings of runs and their runners.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use belay_hosting::core::checkpoint::Bounds;
use belay_lifecycle::core::keys::Keys;
use belay_runner::{HubPolicy, SocketLimits};
use belay_volumes::ByteSize;

/// Share of the host's memory that containers of runners get unless it is said, in percent.
const MEMORY_PERCENT: u64 = 75;

/// What the node grants runs and their runners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunnersConfig {
    /// Loopback addresses for runners that belayd does not start.
    pub listen: Vec<SocketAddr>,
    /// Memory for containers of runners, in bytes; a share of the host's where it is not said.
    pub memory: Option<u64>,
    /// Port for runners in containers; chosen once and kept where it is not said.
    pub port: Option<u16>,
    /// What the checkpoint store takes.
    pub checkpoints: Bounds,
    /// How long an ended run is remembered.
    pub retention: Duration,
    /// Sockets of runners at a time.
    pub connections: usize,
    /// File of the key under which checkpoints travel.
    pub travel_key: Option<PathBuf>,
}

impl RunnersConfig {
    /// What the hub goes by.
    pub(crate) fn policy(&self) -> HubPolicy {
        let memory = self.memory.or_else(share_of_host).unwrap_or(u64::MAX);
        HubPolicy { memory, retention: self.retention, ..HubPolicy::default() }
    }

    /// What sockets go by.
    pub(crate) fn limits(&self) -> SocketLimits {
        SocketLimits { connections: self.connections, ..SocketLimits::default() }
    }
}

fn share_of_host() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    total(&text).map(|bytes| bytes / 100 * MEMORY_PERCENT)
}

/// The host's memory in bytes, from `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What one piece says of runners; nothing where it is silent.
#[derive(Debug, Default)]
pub(super) struct SaidOfRunners {
    listen: Option<Vec<SocketAddr>>,
    memory: Option<ByteSize>,
    port: Option<u16>,
    size: Option<ByteSize>,
    count: Option<u64>,
    reserve: Option<ByteSize>,
    retention: Option<Duration>,
    connections: Option<u64>,
    travel_key: Option<PathBuf>,
}

impl SaidOfRunners {
    pub(super) fn overlaid_by(self, later: Self) -> Self {
        Self {
            listen: later.listen.or(self.listen),
            memory: later.memory.or(self.memory),
            port: later.port.or(self.port),
            size: later.size.or(self.size),
            count: later.count.or(self.count),
            reserve: later.reserve.or(self.reserve),
            retention: later.retention.or(self.retention),
            connections: later.connections.or(self.connections),
            travel_key: later.travel_key.or(self.travel_key),
        }
    }

    pub(super) fn with_defaults(self) -> RunnersConfig {
        let usual = Bounds::default();
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        RunnersConfig {
            listen: self.listen.unwrap_or_default(),
            memory: self.memory.map(ByteSize::as_u64),
            port: self.port,
            checkpoints: Bounds {
                count: self.count.map_or(usual.count, number),
                bytes: self.size.map_or(usual.bytes, ByteSize::as_u64),
                reserve: self.reserve.map_or(usual.reserve, ByteSize::as_u64),
            },
            retention: self.retention.unwrap_or(HubPolicy::default().retention),
            connections: self.connections.map_or(SocketLimits::default().connections, number),
            travel_key: self.travel_key,
        }
    }
}

/// Reads `[runner]`.
pub(super) fn read(keys: &mut Keys<'_>, said: &mut SaidOfRunners) {
    const SIZE: &str = "a size such as \"4G\"";
    said.listen = super::read_listen(keys);
    said.memory = keys.parsed("memory", SIZE);
    said.port = keys.port("port");
    said.size = keys.parsed("checkpoints_size", SIZE);
    said.count = keys.integer("checkpoints_count", 0..=100_000);
    said.reserve = keys.parsed("checkpoints_reserve", SIZE);
    let day = Duration::from_secs(24 * 3600);
    said.retention = keys.duration("retention", Duration::from_secs(60)..=day * 366);
    said.connections = keys.integer("connections", 1..=100_000);
    said.travel_key = super::directory(keys, "travel_key");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_is_read() {
        let text = "MemTotal:       24689432 kB\nMemFree:        18689432 kB\n";
        assert_eq!(total(text), Some(24_689_432 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let host = share_of_host().expect("this host has memory");
        assert!(host > 64 << 20, "{host}");
        let said = RunnersConfig { memory: Some(5), ..SaidOfRunners::default().with_defaults() };
        assert_eq!(said.policy().memory, 5);
    }
}
