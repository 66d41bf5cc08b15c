//! The pauses between two tries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(250);
const GROWTH: f64 = 1.5;
/// Share by which a pause is shorter or longer, so that waiters do not come in step.
const JITTER: f64 = 0.2;

/// 10 ms, each half as long again as the one before, 250 ms at most, plus or minus 20 percent.
#[derive(Debug, Clone, PartialEq)]
pub struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pauses {
    /// The next pause; `chance` is a number from 0 to 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let share = 1.0 + JITTER * (chance.clamp(0.0, 1.0) * 2.0 - 1.0);
        let pause = self.next.mul_f64(share);
        self.next = self.next.mul_f64(GROWTH).min(LONGEST);
        pause
    }
}

/// Least time between two things said to somebody who waits.
const QUIET: Duration = Duration::from_secs(1);
/// After so long the same is said again, with its new age.
const AGAIN: Duration = Duration::from_secs(15);

/// When somebody who waits is told who holds the lock: at once, then when that changes, and again
/// after a while.
#[derive(Debug, Clone, Default)]
pub struct Tellings {
    last: Option<(Duration, String)>,
}

impl Tellings {
    /// Whether to say it now. `gist` is what makes one holder differ from another.
    pub fn is_due(&mut self, now: Duration, gist: &str) -> bool {
        let due = self.last.as_ref().is_none_or(|(at, said)| {
            let since = now.saturating_sub(*at);
            since >= AGAIN || (said != gist && since >= QUIET)
        });
        if due {
            self.last = Some((now, gist.to_owned()));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_told_at_once_and_of_every_change() {
        let at = Duration::from_millis;
        let mut tellings = Tellings::default();
        assert!(tellings.is_due(at(0), "a"));
        assert!(!tellings.is_due(at(500), "b"), "not twice within a second");
        assert!(tellings.is_due(at(1_000), "b"));
        assert!(!tellings.is_due(at(15_999), "b"));
        assert!(tellings.is_due(at(16_000), "b"));
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_a_second() {
        let mut pauses = Pauses::default();
        let found: Vec<_> = (0..10).map(|_| pauses.next(0.5).as_millis()).collect();
        assert_eq!(found, [10, 15, 22, 33, 50, 75, 113, 170, 250, 250]);
    }

    #[test]
    fn jitter_is_a_fifth_either_way() {
        assert_eq!(Pauses::default().next(0.0), Duration::from_millis(8));
        assert_eq!(Pauses::default().next(1.0), Duration::from_millis(12));
        assert_eq!(Pauses::default().next(7.0), Duration::from_millis(12));
    }
}
