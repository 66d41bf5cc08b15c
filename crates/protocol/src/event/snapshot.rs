//! What becomes of snapshots of runners.

use serde::{Deserialize, Serialize};

/// Why a snapshot is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotUnwanted {
    /// The attempt was completed.
    Completed,
    /// The attempt ended in another way: time-out, death, loss, a stop.
    AttemptEnded,
    /// The runner left the wait: it continued, or showed that it executes.
    Left,
    /// The wait is over.
    WaitOver,
    /// The run was cancelled.
    RunCancelled,
    /// The runner suspended anew.
    SuspendedAnew,
    /// The runner was away for longer than the grace.
    Away,
    /// Another session of the runner came while it was being taken.
    Rebound,
}

impl SnapshotUnwanted {
    /// The word used in JSON and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::AttemptEnded => "attempt-ended",
            Self::Left => "left",
            Self::WaitOver => "wait-over",
            Self::RunCancelled => "run-cancelled",
            Self::SuspendedAnew => "suspended-anew",
            Self::Away => "away",
            Self::Rebound => "rebound",
        }
    }
}

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotMeans {
    /// The runner is on the disk, and its memory is free.
    Checkpoint,
    /// The runner is frozen in memory.
    Pause,
}
