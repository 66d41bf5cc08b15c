//! What an engine tells of its own accord.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::container::ContainerId;

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// To which container.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What.
    pub action: Action,
}

/// What happened, in words that mean the same with every engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Made.
    Created,
    /// Process 1 runs.
    Started,
    /// Process 1 ended.
    Died {
        /// Exit code, where the engine tells it.
        exit_code: Option<i32>,
    },
    /// The kernel ended a process for want of memory. Podman does not tell; inspect does.
    Oom,
    /// Removed.
    Removed,
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// Given another name.
    Renamed,
    /// A checkpoint was taken.
    Checkpointed,
    /// Restored from a checkpoint.
    Restored,
    /// The engine's own health check changed its mind, or ran.
    Health(Health),
    /// Anything else, by the engine's name.
    Other(String),
}

/// Verdict of the engine's own health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// No verdict yet.
    Starting,
    /// Good.
    Healthy,
    /// Bad.
    Unhealthy,
}

/// A place in the event stream from which to go on.
///
/// A marker holds the time of the newest event seen and the identity of those shortly before it:
/// an engine writes its events from several processes and may give them slightly out of order, so
/// a stream is resumed a little earlier ([`EventMarker::OVERLAP_SECONDS`]) and what was given before is
/// left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMarker {
    pub(crate) newest: Timestamp,
    pub(crate) recent: BTreeSet<(Timestamp, String, String)>,
}

impl EventMarker {
    /// How far before the newest event a stream is resumed.
    pub const OVERLAP_SECONDS: i64 = 5;

    /// From this time on. Events of the overlap before it come too.
    pub fn at(time: Timestamp) -> Self {
        Self { newest: time, recent: BTreeSet::new() }
    }

    /// From now on.
    pub fn now() -> Self {
        Self::at(Timestamp::now())
    }
}
