//! The table `runner` of a spec: the workload takes runs.

use std::time::Duration;

use super::NetworkMode;
use crate::core::keys::Keys;

/// What makes a workload one that takes runs: a template of which belayd makes a container for each
/// runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerSpec {
    /// Runs that may be at work at a time.
    pub max_concurrent: u32,
    /// How long a run waits before its runner is snapshotted.
    pub snapshot_delay: Duration,
}

/// Keys that say something of the one container of an ordinary workload.
const OF_ONE_CONTAINER: [&str; 13] = [
    "app_requests",
    "depends_on",
    "live",
    "ports",
    "pre_stop",
    "ready",
    "restart",
    "restart_limit",
    "rollback_window",
    "secrets",
    "sync",
    "system_volume",
    "volumes",
];

/// Longest delay of a snapshot, ten years.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads it; `memory` is the limit of each of its runners.
pub(super) fn read(
    keys: &mut Keys<'_>,
    network: NetworkMode,
    memory: Option<u64>,
) -> Option<RunnerSpec> {
    let mut table = keys.table("runner")?;
    let max_concurrent = table
        .integer("max_concurrent", 1..=10_000)
        .map_or(1, |most| u32::try_from(most).expect("bounded just above"));
    let snapshot_delay = table
        .duration("snapshot_delay", Duration::ZERO..=LONGEST_DELAY)
        .unwrap_or(Duration::from_secs(30));
    table.finish();
    for key in OF_ONE_CONTAINER.into_iter().filter(|key| keys.has(key)) {
        let expected = "nothing: a workload with [runner] has a container for each runner, and \
                        this is of one container";
        keys.fault(key, "it", expected);
    }
    if network == NetworkMode::None {
        keys.fault("network", "\"none\"", "bridge or host: a runner talks to belayd");
    }
    if memory.is_none() {
        let expected = "the memory of one runner, such as \"256M\": the node counts it";
        keys.fault_at("limits", "limits.memory", "nothing", expected);
    }
    Some(RunnerSpec { max_concurrent, snapshot_delay })
}
