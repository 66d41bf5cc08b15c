//! How long failed content waits.

use std::time::Duration;

const FIRST: Duration = Duration::from_mins(1);
const LAST: Duration = Duration::from_hours(1);

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
}
