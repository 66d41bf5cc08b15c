//! How long to wait before the next start.

use std::time::Duration;

use jiff::Timestamp;

/// First delay.
const FIRST: Duration = Duration::from_secs(1);

/// Longest delay before jitter.
const LONGEST: Duration = Duration::from_secs(60);

/// Jitter, as a share of the delay on either side.
const JITTER: f64 = 0.2;

/// The delay before the start that follows `failures` failures in a row (at least one).
///
/// 1 s, doubled with each failure, at most 60 s, plus or minus 20 percent by `chance`, which is a
/// number from 0 to 1. A node full of workloads that failed together spreads their starts by it.
pub fn delay(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let base = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    base.mul_f64(1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
}

/// How much of the pause until `due` is left at `now`, by the wall clock, as a pause outlives belayd
/// and the host. More than the longest pause there is was written by a clock that was ahead, and is
/// over: a workload must not lie still for years because a clock was set right.
pub fn left(due: Timestamp, now: Timestamp) -> Duration {
    let left = Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
    if left > LONGEST.mul_f64(1.0 + JITTER) { Duration::ZERO } else { left }
}

/// How long a workload must have run well before its failures are forgotten.
///
/// Twice the delay that led to this start, at least a minute: one that fails every eleven seconds
/// climbs to the cap and stays there.
pub fn healthy_period(failures: u32) -> Duration {
    delay(failures, 0.5).saturating_mul(2).max(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let seconds: Vec<_> = (1..=9).map(|n| delay(n, 0.5).as_secs_f64()).collect();
        assert_eq!(seconds, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        assert_eq!(delay(u32::MAX, 0.5), Duration::from_secs(60));
        assert_eq!(delay(0, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn a_pause_is_over_when_it_is_due_or_was_written_by_a_clock_that_was_ahead() {
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).expect("a time");
        assert_eq!(left(at(60), at(0)), Duration::from_secs(60));
        assert_eq!(left(at(72), at(0)), Duration::from_secs(72));
        assert_eq!(left(at(0), at(0)), Duration::ZERO);
        assert_eq!(left(at(0), at(60)), Duration::ZERO);
        assert_eq!(left(at(73), at(0)), Duration::ZERO);
        assert_eq!(left(at(315_360_000), at(0)), Duration::ZERO);
    }

    proptest::proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(failures in 0_u32..100, chance in 0.0_f64..=1.0) {
            let middle = delay(failures, 0.5).as_secs_f64();
            let found = delay(failures, chance).as_secs_f64();
            assert!(found >= middle * 0.799 && found <= middle * 1.201);
        }
    }

    /// Lives a workload that runs for `life` and then fails, on the clock of a simulation, and
    /// gives its failures in a row and its delays.
    fn live(life: Duration, times: u32, chance: impl Fn(u32) -> f64) -> (u32, Vec<Duration>) {
        let (mut failures, mut delays) = (0, Vec::new());
        for time in 0..times {
            if failures > 0 && life >= healthy_period(failures) {
                failures = 0;
            }
            failures += 1;
            delays.push(delay(failures, chance(time)));
        }
        (failures, delays)
    }

    #[test]
    fn a_crash_every_eleven_seconds_reaches_the_cap_and_stays_there() {
        let jitter = |time: u32| f64::from(time * 7919 % 1000) / 999.0;
        let (failures, delays) = live(Duration::from_secs(11), 500, jitter);
        assert_eq!(failures, 500);
        let (climb, top) = delays.split_at(6);
        assert!(climb.is_sorted(), "{climb:?}");
        let cap = Duration::from_secs(48)..=Duration::from_secs(72);
        assert!(top.iter().all(|delay| cap.contains(delay)));
    }

    #[test]
    fn what_runs_long_enough_between_two_failures_begins_anew() {
        let middle = |_| 0.5;
        let (failures, _) = live(Duration::from_secs(59), 50, middle);
        assert_eq!(failures, 50, "a minute at least");
        let (failures, delays) = live(Duration::from_secs(60), 50, middle);
        assert_eq!((failures, delays[49]), (1, FIRST));
        // At the cap twice its delay is what counts.
        assert_eq!(healthy_period(20), Duration::from_secs(120));
    }
}
