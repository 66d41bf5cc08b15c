//! Snapshots that are pending: scheduled, held while their runner is away, or due.
//!
//! A run has at most one. From the moment it is dispatched it is a flight, see
//! [`Dispatch`](crate::core::dispatch::Dispatch).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use belay_protocol::runner::{Epoch, RunId, RunnerId, SuspensionId};
use belay_timer_wheel::{Moment, TimerWheel};

/// What a snapshot is of. It is wanted only while all of this holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The run.
    pub run: RunId,
    /// Who holds it.
    pub runner: RunnerId,
    /// Since this binding.
    pub epoch: Epoch,
    /// And waits in this suspension.
    pub suspension: SuspensionId,
}

/// A snapshot that is wanted and not dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) ticket: Ticket,
    /// How often it was dispatched and failed.
    pub(crate) failures: u32,
}

#[derive(Debug)]
struct Timed {
    pending: Pending,
    on_expiry: OnExpiry,
}

/// A snapshot whose delay is over.
#[derive(Debug)]
struct Due {
    pending: Pending,
    since: Moment,
}

#[derive(Debug)]
enum OnExpiry {
    FallDue,
    /// The runner is away; `left` of the delay is kept for it.
    Drop {
        left: Duration,
    },
}

/// The pending snapshots of the node.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    timed: TimerWheel<RunId, Timed>,
    /// In the order in which they fell due.
    due: BTreeMap<u64, Due>,
    turns: HashMap<RunId, u64>,
    next_turn: u64,
}

impl Snapshots {
    /// Schedules a snapshot, in the place of any other of its run.
    pub(crate) fn arm(&mut self, pending: Pending, deadline: Moment) {
        let run = pending.ticket.run;
        self.cancel(run);
        self.timed.insert(run, deadline, Timed { pending, on_expiry: OnExpiry::FallDue });
    }

    /// Ends the pending snapshot of a run, if there is one.
    pub(crate) fn cancel(&mut self, run: RunId) -> Option<Pending> {
        if let Some(turn) = self.turns.remove(&run) {
            return self.due.remove(&turn).map(|due| due.pending);
        }
        self.timed.cancel(&run).map(|timed| timed.value.pending)
    }

    /// Keeps the pending snapshot for a runner that is away, until `grace` has passed.
    pub(crate) fn hold(&mut self, run: RunId, now: Moment, grace: Duration) {
        let Some(left) = self.left(run, now) else { return };
        let Some(pending) = self.cancel(run) else { return };
        self.hold_with(pending, left, now.saturating_add(grace));
    }

    /// Keeps a snapshot with this much left of its delay.
    pub(crate) fn hold_with(&mut self, pending: Pending, left: Duration, until: Moment) {
        let run = pending.ticket.run;
        self.cancel(run);
        self.timed.insert(run, until, Timed { pending, on_expiry: OnExpiry::Drop { left } });
    }

    /// Takes out what is pending for a runner that is back, with what is left of the delay.
    pub(crate) fn take(&mut self, run: RunId, now: Moment) -> Option<(Pending, Duration)> {
        let left = self.left(run, now)?;
        Some((self.cancel(run)?, left))
    }

    /// What is left of the delay of a run's pending snapshot.
    pub(crate) fn left(&self, run: RunId, now: Moment) -> Option<Duration> {
        if self.turns.contains_key(&run) {
            return Some(Duration::ZERO);
        }
        let timed = self.timed.peek(&run)?;
        Some(match timed.value.on_expiry {
            OnExpiry::FallDue => timed.deadline.saturating_since(now),
            OnExpiry::Drop { left } => left,
        })
    }

    /// What is pending for a run.
    pub(crate) fn get(&self, run: RunId) -> Option<&Pending> {
        match self.turns.get(&run) {
            Some(turn) => self.due.get(turn).map(|due| &due.pending),
            None => self.timed.peek(&run).map(|timed| &timed.value.pending),
        }
    }

    /// Lets what is scheduled fall due, and drops what was held too long. Returns the latter.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<Pending> {
        let mut dropped = Vec::new();
        for expired in self.timed.expire(now) {
            let Timed { pending, on_expiry } = expired.value;
            match on_expiry {
                OnExpiry::FallDue => {
                    self.turns.insert(expired.key, self.next_turn);
                    let since = expired.deadline;
                    self.due.insert(self.next_turn, Due { pending, since });
                    self.next_turn += 1;
                }
                OnExpiry::Drop { .. } => dropped.push(pending),
            }
        }
        dropped
    }

    /// Takes out the first that is due of those that `may_go`, and says since when it is.
    pub(crate) fn next_due(
        &mut self,
        may_go: impl Fn(&Ticket) -> bool,
    ) -> Option<(Pending, Moment)> {
        let (&turn, _) = self.due.iter().find(|(_, due)| may_go(&due.pending.ticket))?;
        let Due { pending, since } = self.due.remove(&turn)?;
        self.turns.remove(&pending.ticket.run);
        Some((pending, since))
    }

    /// When to let [`expire`](Self::expire) look again.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.timed.next_deadline()
    }

    /// How many are pending.
    pub(crate) fn len(&self) -> usize {
        self.timed.len() + self.due.len()
    }
}

#[cfg(test)]
mod tests;
