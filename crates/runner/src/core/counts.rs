//! What became of delayed snapshots, counted since the start.

use std::time::Duration;

use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{SnapshotOmission, SnapshotTally};

/// Later than this after it fell due, a snapshot is late.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    tally: SnapshotTally,
}

impl Counts {
    pub(crate) fn scheduled(&mut self) {
        self.tally.scheduled += 1;
    }

    pub(crate) fn omitted(&mut self, why: SnapshotOmission) {
        let omitted = &mut self.tally.omitted;
        *match why {
            SnapshotOmission::WaitOver => &mut omitted.wait_over,
            SnapshotOmission::ShortWait => &mut omitted.short_wait,
            SnapshotOmission::ForeignRunner => &mut omitted.foreign_runner,
            SnapshotOmission::Unsupported => &mut omitted.unsupported,
        } += 1;
    }

    pub(crate) fn cancelled(&mut self, why: SnapshotUnwanted) {
        let cancelled = &mut self.tally.cancelled;
        *match why {
            SnapshotUnwanted::Completed => &mut cancelled.completed,
            SnapshotUnwanted::AttemptEnded => &mut cancelled.attempt_ended,
            SnapshotUnwanted::Left => &mut cancelled.left,
            SnapshotUnwanted::WaitOver => &mut cancelled.wait_over,
            SnapshotUnwanted::RunCancelled => &mut cancelled.run_cancelled,
            SnapshotUnwanted::SuspendedAnew => &mut cancelled.suspended_anew,
            SnapshotUnwanted::Away => &mut cancelled.away,
            SnapshotUnwanted::Rebound => &mut cancelled.rebound,
        } += 1;
    }

    /// One was handed to the engine, this long after it fell due.
    pub(crate) fn dispatched(&mut self, lag: Duration) {
        self.tally.dispatched += 1;
        if lag > LATE {
            self.tally.late += 1;
        }
        let lag = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        self.tally.lag_ms = self.tally.lag_ms.saturating_add(lag);
        self.tally.longest_lag_ms = self.tally.longest_lag_ms.max(lag);
    }

    pub(crate) fn taken(&mut self) {
        self.tally.taken += 1;
    }

    /// One was taken that nobody wanted any more.
    pub(crate) fn discarded(&mut self) {
        self.tally.discarded += 1;
    }

    pub(crate) fn failed(&mut self) {
        self.tally.failed += 1;
    }

    /// One failed as often as it may: the run stays in memory.
    pub(crate) fn given_up(&mut self) {
        self.tally.given_up += 1;
    }

    pub(crate) fn tally(&self) -> SnapshotTally {
        self.tally
    }
}
