//! When a pull that failed is tried again.

use std::time::Duration;

/// First delay.
const FIRST: Duration = Duration::from_secs(10);

/// Longest delay before jitter.
const LONGEST: Duration = Duration::from_secs(300);

/// Jitter, as a share of the delay on either side.
const JITTER: f64 = 0.2;

/// The delay after `failures` failed pulls in a row (at least one): 10 s, doubled with each, at most
/// 300 s, plus or minus 20 percent by `chance`, a number from 0 to 1. Nodes that lost their registry
/// together do not come back to it together.
pub fn delay(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let base = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    base.mul_f64(1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
}

/// Failures of one image in a row, shared by all who want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// Failed pulls in a row.
    pub failures: u32,
    /// Not tried before this time, on the caller's monotonic clock.
    pub due: Duration,
}

impl Ladder {
    /// One failure more.
    #[must_use]
    pub fn failed(before: Option<&Self>, now: Duration, chance: f64) -> Self {
        let failures = before.map_or(0, |ladder| ladder.failures).saturating_add(1);
        Self { failures, due: now + delay(failures, chance) }
    }

    /// How long is left, if it is not due.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.due.checked_sub(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes() {
        let mut ladder = None;
        let mut now = Duration::ZERO;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Ladder::failed(ladder.as_ref(), now, 0.5);
            delays.push(next.left(now).expect("it is not due").as_secs());
            now = next.due;
            assert_eq!(next.left(now), None);
            ladder = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn an_image_that_cannot_be_had_costs_at_most_one_pull_in_four_minutes() {
        assert!((0..=10).all(|n| delay(50, f64::from(n) / 10.0) >= Duration::from_secs(240)));
        assert!((0..=10).all(|n| delay(50, f64::from(n) / 10.0) <= Duration::from_secs(360)));
    }
}
