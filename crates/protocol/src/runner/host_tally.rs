//! Counts of what was done about the containers of runners.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What was done about runners in containers since belayd started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTally {
    /// Runners that were started.
    pub started: u64,
    /// Runners that ended.
    pub ended: u64,
    /// Those of them that the kernel ended for want of memory.
    pub out_of_memory: u64,
    /// Checkpoints that were taken.
    pub checkpointed: Spans,
    /// Of those, how long the processes stood still.
    pub frozen: Spans,
    /// Bytes of the checkpoints that were written.
    pub checkpoint_bytes: u64,
    /// Runners that were frozen instead.
    pub paused: Spans,
    /// Snapshots that were not taken.
    pub snapshot_failures: u64,
    /// Restores from checkpoints.
    pub restored: Spans,
    /// Runners that were thawed.
    pub thawed: Spans,
    /// Restores that failed.
    pub restore_failures: u64,
}

/// How often something was done, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spans {
    /// How often.
    pub count: u64,
    /// Milliseconds of all together.
    pub total_ms: u64,
    /// Milliseconds of the longest.
    pub longest_ms: u64,
}

impl Spans {
    /// Counts one more.
    pub fn add(&mut self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.count += 1;
        self.total_ms = self.total_ms.saturating_add(took);
        self.longest_ms = self.longest_ms.max(took);
    }
}
