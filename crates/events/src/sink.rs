//! Telling what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use belay_ledger::{Entry, Journal};
use belay_protocol::event::LossCause;
use belay_protocol::{Event, EventDetails, EventKind, EventSeq, EventSubject, EventText};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::limiter::Limiter;

/// Held by whoever has something to tell. Clones tell the same log.
#[derive(Debug, Clone)]
pub struct EventSink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Journal,
    born: Instant,
    /// Held for the moment of a decision, never while anything is waited for. A task between
    /// telling and staging would be simpler and would lose what matters: that an event which is
    /// told before a record is put goes to the disk with it.
    counts: Mutex<Counts>,
    poke: Notify,
}

/// What was told and what was not.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    limiter: Limiter,
    pub(crate) told: BTreeMap<EventKind, u64>,
    pub(crate) lost: u64,
    /// Lost and not told yet, by cause.
    behind: u64,
    too_many: u64,
}

impl Counts {
    /// Whether losses wait to be told.
    pub(crate) fn untold(&self) -> bool {
        self.behind > 0 || self.too_many > 0
    }
}

impl EventSink {
    pub(crate) fn new(journal: Journal) -> Self {
        Self(Arc::new(Shared {
            journal,
            born: Instant::now(),
            counts: Mutex::default(),
            poke: Notify::new(),
        }))
    }

    /// Tells that something happened to `subject`: one line for people, and the kind with what
    /// belongs to it.
    ///
    /// It waits for nothing and cannot fail. What is told before a record is put is on the disk
    /// with that record; anything else is within a moment. An event that there is no room for is
    /// counted, and the count is told.
    pub fn emit(
        &self,
        subject: impl Into<EventSubject>,
        message: impl Into<EventText>,
        details: EventDetails,
    ) {
        let event = Event {
            seq: EventSeq::START,
            at: Timestamp::now(),
            severity: details.severity(),
            subject: subject.into(),
            message: message.into(),
            details,
        };
        let kind = event.details.kind();
        self.counting(|counts| {
            if !counts.limiter.admit(self.0.born.elapsed(), &event.subject, kind) {
                counts.too_many += 1;
                counts.lost += 1;
            } else if self.0.journal.stage(entry(&event)).is_err() {
                counts.behind += 1;
                counts.lost += 1;
            } else {
                *counts.told.entry(kind).or_default() += 1;
            }
        });
        self.0.poke.notify_one();
    }

    /// [`Self::emit`] about the node itself.
    pub fn emit_of_node(&self, message: impl Into<EventText>, details: EventDetails) {
        self.emit(EventSubject::Node, message, details);
    }

    /// Waits until something was told.
    pub(crate) async fn told(&self) {
        self.0.poke.notified().await;
    }

    pub(crate) fn counting<T>(&self, count: impl FnOnce(&mut Counts) -> T) -> T {
        // Counts are whole between any two of their changes.
        count(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells how many events were lost since this was last told; says whether there were any.
    pub(crate) fn tell_losses(&self) -> bool {
        let (behind, too_many) = self.counting(|counts| {
            (std::mem::take(&mut counts.behind), std::mem::take(&mut counts.too_many))
        });
        if behind > 0 {
            let message = format!("{behind} events were lost: the ledger could not be written");
            let cause = LossCause::LedgerBehind;
            self.emit_of_node(message, EventDetails::EventsLost { count: behind, cause });
        }
        if too_many > 0 {
            let message = format!("{too_many} events were not kept: too many of one kind");
            let cause = LossCause::TooMany;
            self.emit_of_node(message, EventDetails::EventsLost { count: too_many, cause });
        }
        behind > 0 || too_many > 0
    }
}

fn entry(event: &Event) -> Entry {
    Entry {
        at: event.at.as_millisecond(),
        topic: event.subject.workload().map(ToString::to_string).unwrap_or_default(),
        kind: event.details.kind().as_str().to_owned(),
        body: serde_json::to_string(event).expect("an event has derived serializers"),
    }
}
