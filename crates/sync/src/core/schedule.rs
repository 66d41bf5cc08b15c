//! When a provider publishes by itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::quarantine;

/// What a provider publishes by itself, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// From the begin of one publish to the next.
    pub every: Duration,
    /// Container paths to capture.
    pub paths: Vec<String>,
    /// What is done where nothing looks changed.
    pub if_unchanged: IfUnchanged,
}

/// What a publish by schedule does where no file looks changed since the last publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfUnchanged {
    /// It ends there, and stops nothing.
    #[default]
    Skip,
    /// It captures all the same, for an app that writes what it has when it is stopped.
    Capture,
}

/// How far a schedule is; kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// The interval by which `next` was chosen, in milliseconds.
    pub(crate) every_ms: u64,
    /// When the last publish began; none before the first.
    pub(crate) last: Option<Timestamp>,
    /// When the next one begins.
    pub(crate) next: Timestamp,
    /// Failures in a row.
    pub(crate) failures: u32,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly,
}

impl Schedule {
    fn every_ms(&self) -> u64 {
        u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX)
    }

    /// Where nothing was published yet: soon, but not on every node at once. `chance` is from 0 to 1.
    pub(crate) fn first(&self, now: Timestamp, chance: f64) -> Scheduled {
        let wait = self.every.min(Duration::from_mins(1)).mul_f64(chance.clamp(0.0, 1.0));
        Scheduled { every_ms: self.every_ms(), last: None, next: later(now, wait), failures: 0 }
    }

    /// What is known of it, under the interval of now.
    pub(crate) fn known(&self, known: Scheduled) -> Scheduled {
        if known.every_ms == self.every_ms() {
            return known;
        }
        let next = known.last.map_or(known.next, |last| later(last, self.every));
        Scheduled { every_ms: self.every_ms(), next, ..known }
    }

    /// How long to wait for the next publish. A time that lies further ahead than any wait was
    /// written by another clock, and has come.
    pub(crate) fn left(&self, known: &Scheduled, now: Timestamp) -> Duration {
        let left = Duration::try_from(known.next.duration_since(now)).unwrap_or_default();
        let longest = self.every.max(quarantine::delay(known.failures)).mul_f64(1.1);
        if left > longest { Duration::ZERO } else { left }
    }

    /// After a publish that began at `began`. One that is told of twice counts once. The next is a
    /// twentieth earlier or later than the interval says, so that nodes drift apart; after a failure
    /// it is tried again after 60 s, doubled to an hour.
    pub(crate) fn after(
        &self,
        known: &Scheduled,
        began: Timestamp,
        ended: Ended,
        chance: f64,
    ) -> Scheduled {
        if known.last == Some(began) {
            return known.clone();
        }
        let spread = 0.95 + 0.1 * chance.clamp(0.0, 1.0);
        let (failures, wait) = match ended {
            Ended::Well => (0, self.every),
            Ended::Badly => {
                let failures = known.failures.saturating_add(1);
                (failures, quarantine::delay(failures))
            }
        };
        let next = later(began, wait.mul_f64(spread));
        Scheduled { every_ms: self.every_ms(), last: Some(began), next, failures }
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn every(minutes: u64) -> Schedule {
        Schedule {
            every: Duration::from_mins(minutes),
            paths: vec!["/data".to_owned()],
            if_unchanged: IfUnchanged::Skip,
        }
    }

    #[test]
    fn the_first_is_soon_and_the_next_about_an_interval_later() {
        let schedule = every(15);
        assert_eq!(schedule.first(at(1_000), 0.0).next, at(1_000));
        assert_eq!(schedule.first(at(1_000), 1.0).next, at(1_060));
        let first = schedule.first(at(1_000), 0.5);
        for (chance, next) in [(0.0, 1_855), (0.5, 1_900), (1.0, 1_945)] {
            let after = schedule.after(&first, at(1_000), Ended::Well, chance);
            assert_eq!(after.next, at(next));
            assert_eq!(
                schedule.left(&after, at(1_000)).as_secs(),
                u64::try_from(next - 1_000).expect("ahead")
            );
            assert_eq!(schedule.left(&after, at(5_000)), Duration::ZERO, "it was missed");
            assert_eq!(schedule.after(&after, at(1_000), Ended::Badly, 0.3), after, "told twice");
        }
    }

    #[test]
    fn failures_in_a_row_wait_longer_up_to_an_hour_and_a_success_ends_that() {
        let schedule = every(15);
        let mut known = schedule.first(at(0), 0.0);
        let mut waits = Vec::new();
        for round in 1..=8_i64 {
            let began = at(round * 100_000);
            known = schedule.after(&known, began, Ended::Badly, 0.5);
            waits.push(schedule.left(&known, began).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        known = schedule.after(&known, at(900_000), Ended::Well, 0.5);
        assert_eq!((known.failures, known.next), (0, at(900_900)));
    }

    #[test]
    fn another_interval_counts_from_the_last_publish() {
        let known = every(15).after(&every(15).first(at(0), 0.0), at(1_000), Ended::Well, 0.5);
        assert_eq!(every(15).known(known.clone()), known);
        assert_eq!(every(5).known(known.clone()).next, at(1_300));
        assert_eq!(every(60).known(known.clone()).next, at(4_600));
        assert_eq!(every(60).known(known).last, Some(at(1_000)));
    }

    proptest! {
        #[test]
        fn no_clock_keeps_it_waiting_for_longer_than_its_interval(
            minutes in 1..2_000_u64,
            began in 0..4_000_000_000_i64,
            now in 0..4_000_000_000_i64,
            chance in 0.0..=1.0_f64,
            failures in 0..12_u32,
        ) {
            let schedule = every(minutes);
            let known = Scheduled { failures, ..schedule.first(at(began), chance) };
            let ended = if failures % 2 == 0 { Ended::Well } else { Ended::Badly };
            let after = schedule.after(&known, at(began), ended, chance);
            let left = schedule.left(&after, at(now));
            prop_assert!(left <= schedule.every.max(Duration::from_hours(1)).mul_f64(1.1));
            if now == began {
                prop_assert!(left > Duration::ZERO, "not twice at once");
            }
        }
    }
}
