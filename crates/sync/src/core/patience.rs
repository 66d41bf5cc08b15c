//! How often, and for how long, what was captured is offered to a store that does not take it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Longest pause between two offers.
const LONGEST: Duration = Duration::from_mins(1);

/// The pause after the n-th offer in vain: `first`, doubling, at most a minute.
pub(crate) fn pause(offers: u32, first: Duration) -> Duration {
    let doublings = offers.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(LONGEST)
}

/// When the store has been away for too long. By the clock of this node alone, which a restart of
/// belayd does not stop.
pub(crate) fn end(away_since: Timestamp, patience: Duration) -> Timestamp {
    let patience = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX);
    away_since.checked_add(patience).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_minute_and_stays() {
        let first = Duration::from_secs(10);
        let seconds: Vec<u64> = (1..=5).map(|offers| pause(offers, first).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 60, 60]);
        assert_eq!(pause(u32::MAX, first), LONGEST);
        assert_eq!(pause(1, Duration::from_mins(5)), LONGEST);
    }

    #[test]
    fn patience_ends_and_the_longest_never_does() {
        let since: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let hour = end(since, Duration::from_hours(1));
        assert_eq!(hour, "2026-03-01T13:00:00Z".parse().expect("a time"));
        assert_eq!(end(since, Duration::MAX), Timestamp::MAX);
    }
}
