//! When an event happened.

use std::time::Duration;

use belay_timer_wheel::Moment;
use jiff::Timestamp;

/// What the world says about the instant of an event.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On the monotonic clock, which every delay follows.
    pub moment: Moment,
    /// On the wall clock, which survives a restart.
    pub wall: Timestamp,
    /// Fresh and random, for the ids that the event makes.
    pub entropy: u64,
}

impl Now {
    /// The wall clock's time this long from now; the last there is if that is too far away.
    pub(crate) fn later(&self, delay: Duration) -> Timestamp {
        let delay = i128::try_from(delay.as_nanos()).unwrap_or(i128::MAX);
        let nanos = self.wall.as_nanosecond().saturating_add(delay);
        Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
    }

    /// How long it is until then, zero if that is past.
    pub(crate) fn until(&self, then: Timestamp) -> Duration {
        let nanos = then.as_nanosecond().saturating_sub(self.wall.as_nanosecond());
        Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    /// The deadline this long from now.
    pub(crate) fn deadline(&self, delay: Duration) -> Moment {
        self.moment.saturating_add(delay)
    }

    /// Milliseconds since 1970, zero before.
    pub(crate) fn unix_millis(&self) -> u64 {
        u64::try_from(self.wall.as_millisecond()).unwrap_or(0)
    }
}
