//! Counts of what was done about runners.

use std::time::Duration;

use belay_runner::{Exit, MemoryFate};

use crate::act::Measured;

/// What was done since belayd started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spans {
    /// How often.
    pub count: u64,
    /// All of it together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Spans {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.total += took;
        self.longest = self.longest.max(took);
    }
}

impl HostTally {
    pub(crate) fn count(&mut self, measured: &Measured) {
        match measured {
            Measured::Started { .. } => self.started += 1,
            Measured::Checkpointed { frozen, took } => {
                self.checkpointed.add(*took);
                self.frozen.add(*frozen);
            }
            Measured::Booked { bytes } => self.checkpoint_bytes += bytes,
            Measured::Paused { took } => self.paused.add(*took),
            Measured::NotSnapshotted { .. } => self.snapshot_failures += 1,
            Measured::Restored { took } => self.restored.add(*took),
            Measured::Thawed { took } => self.thawed.add(*took),
            Measured::NotRestored { .. } => self.restore_failures += 1,
            Measured::Ended { exit: Exit { memory, .. } } => {
                self.ended += 1;
                match memory {
                    MemoryFate::Killed => self.out_of_memory += 1,
                    MemoryFate::Enough => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_where_it_belongs() {
        let mut tally = HostTally::default();
        let ms = Duration::from_millis;
        let killed = Exit { code: Some(137), memory: MemoryFate::Killed };
        for measured in [
            Measured::Started { took: ms(9) },
            Measured::Checkpointed { frozen: ms(2), took: ms(5) },
            Measured::Checkpointed { frozen: ms(1), took: ms(7) },
            Measured::Booked { bytes: 3 },
            Measured::Restored { took: ms(4) },
            Measured::NotRestored { reason: String::new() },
            Measured::Ended { exit: Exit::default() },
            Measured::Ended { exit: killed },
        ] {
            tally.count(&measured);
        }
        assert_eq!((tally.started, tally.ended, tally.out_of_memory), (1, 2, 1));
        assert_eq!(tally.checkpointed, Spans { count: 2, total: ms(12), longest: ms(7) });
        assert_eq!(tally.frozen, Spans { count: 2, total: ms(3), longest: ms(2) });
        assert_eq!((tally.checkpoint_bytes, tally.restored.count), (3, 1));
        assert_eq!((tally.restore_failures, tally.paused.count), (1, 0));
    }
}
