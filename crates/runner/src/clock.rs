//! The two clocks and the randomness that the decisions are given.

use std::time::Duration;

use belay_timer_wheel::Moment;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::core::now::Now;

/// Farther ahead than this nobody sleeps; whoever wakes early finds nothing due and sleeps again.
const HORIZON: Duration = Duration::from_secs(24 * 3600);

/// Where moments are counted from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn begin() -> Self {
        Self { origin: Instant::now() }
    }

    /// What the world says now.
    pub(crate) fn now(&self) -> Now {
        let moment = Moment::at(self.origin.elapsed());
        Now { moment, wall: Timestamp::now(), entropy: u64::from_ne_bytes(random()) }
    }

    /// When to wake for a deadline.
    pub(crate) fn wake_at(&self, deadline: Moment) -> Instant {
        let left = deadline.saturating_since(Moment::at(self.origin.elapsed()));
        Instant::now() + left.min(HORIZON)
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("a kernel that runs containers has getrandom");
    bytes
}
