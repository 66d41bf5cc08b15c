//! How long failed content waits.

use std::time::Duration;

const FIRST: Duration = Duration::from_mins(1);
const LAST: Duration = Duration::from_hours(1);

/// Bytes of a reason that are kept: what is remembered must stay small enough to be read again.
const REASON_MAX: usize = 4 * 1024;

/// A reason, cut where it becomes too long to be kept.
pub(crate) fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_MAX));
        reason.push_str("...");
    }
    reason
}

/// Whether content still waits, by how far ahead its next try lies. A try that lies further ahead
/// than any wait was written by another clock.
pub(crate) fn waits(ahead: Duration) -> bool {
    !ahead.is_zero() && ahead <= LAST
}

/// The wait after the n-th failure in a row: 60 s, doubling, at most an hour.
pub(crate) fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_from_a_minute_to_an_hour_and_stays() {
        let seconds: Vec<u64> = (1..=9).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(seconds, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        assert_eq!(delay(u32::MAX), LAST);
        assert_eq!(delay(0), FIRST);
    }

    #[test]
    fn a_try_further_ahead_than_any_wait_is_due() {
        assert!(waits(Duration::from_secs(1)) && waits(LAST));
        assert!(!waits(Duration::ZERO) && !waits(LAST + Duration::from_secs(1)));
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(bounded("short".into()), "short");
        let cut = bounded("é".repeat(REASON_MAX));
        assert!(cut.len() <= REASON_MAX + 3 && cut.ends_with("é..."));
    }
}
