//! Asking for events, and what is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Event, EventKind, EventSeq};
use crate::WorkloadName;

/// Which events are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Where to begin.
    pub start: EventStart,
    /// Only those that concern this workload, its volumes and its volume-sync.
    pub workload: Option<WorkloadName>,
    /// Only those of these kinds; all when empty.
    pub kinds: Vec<EventKind>,
    /// At most so many.
    pub limit: usize,
}

/// Where events are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStart {
    /// The first after this number.
    After(EventSeq),
    /// As many as are asked for before the end.
    Last,
}

/// A page of events (`GET /v1/events`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// Number of the oldest event that is kept; absent while there is none.
    pub first: Option<EventSeq>,
    /// Number of the newest event; 0 before the first.
    pub newest: EventSeq,
    /// Set when events after the number asked for are not kept any more.
    pub gap: Option<EventGap>,
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// The number to go on after.
    pub next: EventSeq,
}

/// Events that were asked for and cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventGap {
    /// The number that was asked for.
    pub after: EventSeq,
    /// Number of the first event that can be given. It may be lower than `after`: then the numbers
    /// began anew with a new ledger.
    pub first: EventSeq,
}

/// How many events there were, as far as belayd has counted since it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventTally {
    /// Number of the newest event that is on the disk; 0 before the first.
    pub newest: EventSeq,
    /// Events by kind.
    pub told: BTreeMap<EventKind, u64>,
    /// Events that were given up.
    pub lost: u64,
}
