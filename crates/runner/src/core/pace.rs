//! How fast a socket may bring messages.
//!
//! A virtual clock runs ahead of the real one by what the messages cost; who is ahead by more than
//! the burst waits (the generic cell rate algorithm, ITU-T I.371). Nothing is counted and nothing
//! wakes up for it.

use std::time::Duration;

use belay_timer_wheel::Moment;

/// Messages of a second, in the long run.
const PER_SECOND: u32 = 200;
/// What may come at once after a silence: that many seconds' worth.
const BURST: Duration = Duration::from_secs(2);
/// Bytes that cost as much as one more message.
const BYTES: usize = 16 * 1024;

/// The pace of one socket.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    paid_until: Moment,
}

impl Pace {
    /// Counts a message, and says how long to read no further one.
    pub(crate) fn take(&mut self, bytes: usize, now: Moment) -> Duration {
        let cost = 1 + u32::try_from(bytes / BYTES).unwrap_or(u32::MAX - 1);
        let price = (Duration::from_secs(1) / PER_SECOND).saturating_mul(cost);
        self.paid_until = self.paid_until.max(now).saturating_add(price);
        self.paid_until.saturating_since(now.saturating_add(BURST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_pace_never_waits() {
        let mut pace = Pace::default();
        for n in 0..10_000_u64 {
            let now = Moment::at(Duration::from_millis(5 * n));
            assert_eq!(pace.take(100, now), Duration::ZERO);
        }
    }

    #[test]
    fn a_burst_is_taken_and_a_flood_is_held_to_the_pace() {
        let mut pace = Pace::default();
        let mut now = Moment::ORIGIN;
        let mut taken_at_once = 0;
        for _ in 0..10_000 {
            let pause = pace.take(0, now);
            if pause.is_zero() && now == Moment::ORIGIN {
                taken_at_once += 1;
            }
            now = now.saturating_add(pause);
        }
        assert_eq!(taken_at_once, 400);
        let took = now.since_origin();
        assert_eq!(took, Duration::from_secs(10_000 / 200 - 2));
    }

    #[test]
    fn large_frames_cost_more() {
        let mut pace = Pace::default();
        let pauses = (0..8).map(|_| pace.take(1024 * 1024, Moment::ORIGIN));
        let waited = pauses.filter(|pause| !pause.is_zero()).count();
        assert_eq!(waited, 2, "six of a mebibyte at once, and the others wait");
    }
}
