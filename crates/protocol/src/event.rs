//! What happened on a node: numbered, in order, kept for a while.

mod kind;
mod page;
mod severity;
mod snapshot;
mod text;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{SyncKey, VolumeName, WorkloadName};

pub use kind::{
    AskedVerb, ContentWaitEnd, EventDetails, EventKind, HaltCleared, ImageRemoved,
    InvalidEventKind, LastEnd, LossCause, VolumeMeasure, VolumeVerb,
};
pub use page::{EventGap, EventPage, EventQuery, EventStart, EventTally};
pub use snapshot::{SnapshotMeans, SnapshotUnwanted};
pub use text::EventText;

/// Number of an event on its node. Each is larger than all before it, and none is given twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EventSeq(u64);

impl EventSeq {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The event of this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for EventSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventSeq {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Event {
    /// Its number: what orders events.
    pub seq: EventSeq,
    /// When, by the clock of the node. For people: a clock may be wrong and may jump.
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub subject: EventSubject,
    /// One line on it.
    pub message: EventText,
    /// Its kind, with what belongs to it.
    pub details: EventDetails,
}

/// An event as it is written: its kind stands beside its details.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    seq: EventSeq,
    at: Timestamp,
    kind: EventKind,
    severity: Severity,
    subject: EventSubject,
    message: EventText,
    details: Value,
}

impl From<Event> for Written {
    fn from(event: Event) -> Self {
        let details = serde_json::to_value(&event.details)
            .expect("details have derived serializers and keys that are text");
        Self {
            seq: event.seq,
            at: event.at,
            kind: event.details.kind(),
            severity: event.severity,
            subject: event.subject,
            message: event.message,
            details: details["details"].clone(),
        }
    }
}

impl TryFrom<Written> for Event {
    type Error = serde_json::Error;

    fn try_from(written: Written) -> Result<Self, serde_json::Error> {
        let details = json!({"kind": written.kind, "details": written.details});
        Ok(Self {
            seq: written.seq,
            at: written.at,
            severity: written.severity,
            subject: written.subject,
            message: written.message,
            details: serde_json::from_value(details)?,
        })
    }
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// It will harm if it goes on, or it mended itself.
    Warning,
    /// It harms, or needs a person.
    Alarm,
}

impl Severity {
    /// The word used in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EventSubject {
    /// The node: belayd, its engine, its disk.
    Node,
    /// A workload.
    Workload {
        /// Its name.
        workload: WorkloadName,
    },
    /// A volume.
    Volume {
        /// The workload that it belongs to.
        workload: WorkloadName,
        /// Its name.
        volume: VolumeName,
    },
    /// An image on this host.
    Image {
        /// As specs name it.
        image: EventText,
    },
    /// What a workload publishes or applies.
    Sync {
        /// The workload.
        workload: WorkloadName,
        /// The key that it shares with other nodes.
        key: SyncKey,
    },
}

impl EventSubject {
    /// The workload that it concerns, if it concerns one.
    pub fn workload(&self) -> Option<&WorkloadName> {
        match self {
            Self::Workload { workload }
            | Self::Volume { workload, .. }
            | Self::Sync { workload, .. } => Some(workload),
            Self::Node | Self::Image { .. } => None,
        }
    }
}

impl From<&WorkloadName> for EventSubject {
    fn from(workload: &WorkloadName) -> Self {
        Self::Workload { workload: workload.clone() }
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Workload { workload } => write!(f, "{workload}"),
            Self::Volume { workload, volume } => write!(f, "{workload}/{volume}"),
            Self::Image { image } => write!(f, "image {image}"),
            Self::Sync { workload, key } => write!(f, "{workload} sync {key}"),
        }
    }
}

#[cfg(test)]
mod tests;
