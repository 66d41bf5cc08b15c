//! Counting what was done about runners.

use belay_protocol::runner::HostTally;
use belay_runner::{Exit, MemoryFate};

use crate::act::Measured;

/// Counts one thing that was done.
pub(crate) fn count(tally: &mut HostTally, measured: &Measured) {
    match measured {
        Measured::Started { .. } => tally.started += 1,
        Measured::Checkpointed { frozen, took } => {
            tally.checkpointed.add(*took);
            tally.frozen.add(*frozen);
        }
        Measured::Booked { bytes } => tally.checkpoint_bytes += bytes,
        Measured::Paused { took } => tally.paused.add(*took),
        Measured::NotSnapshotted { .. } => tally.snapshot_failures += 1,
        Measured::Restored { took } => tally.restored.add(*took),
        Measured::Thawed { took } => tally.thawed.add(*took),
        Measured::NotRestored { .. } => tally.restore_failures += 1,
        Measured::Ended { exit: Exit { memory, .. } } => {
            tally.ended += 1;
            match memory {
                MemoryFate::Killed => tally.out_of_memory += 1,
                MemoryFate::Enough => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use belay_protocol::runner::Spans;

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
            count(&mut tally, &measured);
        }
        assert_eq!((tally.started, tally.ended, tally.out_of_memory), (1, 2, 1));
        assert_eq!(tally.checkpointed, Spans { count: 2, total_ms: 12, longest_ms: 7 });
        assert_eq!(tally.frozen, Spans { count: 2, total_ms: 3, longest_ms: 2 });
        assert_eq!((tally.checkpoint_bytes, tally.restored.count), (3, 1));
        assert_eq!((tally.restore_failures, tally.paused.count), (1, 0));
    }
}
