//! How many events of one kind a subject may have.

use std::collections::HashMap;
use std::time::Duration;

use belay_protocol::{EventKind, EventSubject};

/// Events of one kind that a subject may have at once.
const BURST: u32 = 120;

/// After that, one for each of these. A workload that keeps failing has five of a kind in a minute
/// at most, so that only what flaps without a pause meets this.
const REFILL: Duration = Duration::from_secs(6);

/// Subjects that are followed at once; beyond, those that rest are forgotten.
const FOLLOWED: usize = 1024;

/// Lets through what is not too much.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: HashMap<(EventSubject, EventKind), Bucket>,
}

/// What is left of a burst.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    /// Up to when what was used has been given back.
    refilled: Duration,
}

impl Bucket {
    fn refill(&mut self, now: Duration) {
        let steps = now.saturating_sub(self.refilled).as_nanos() / REFILL.as_nanos();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(steps).min(BURST);
        self.refilled = self.refilled.saturating_add(REFILL.saturating_mul(steps)).min(now);
    }
}

impl Limiter {
    /// Whether an event may be told at a time that only grows.
    pub(crate) fn admit(&mut self, now: Duration, subject: &EventSubject, kind: EventKind) -> bool {
        if self.buckets.len() >= FOLLOWED {
            self.buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST
            });
        }
        if self.buckets.len() >= FOLLOWED {
            // More subjects than a node can have are at it: nothing new is told of until one rests.
            return false;
        }
        let bucket = self
            .buckets
            .entry((subject.clone(), kind))
            .or_insert(Bucket { left: BURST, refilled: now });
        bucket.refill(now);
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(n: usize) -> EventSubject {
        EventSubject::Workload { workload: format!("web-{n}").parse().expect("a name") }
    }

    fn admitted(limiter: &mut Limiter, from: u64, seconds: u64, every: Duration) -> u32 {
        let mut count = 0;
        let mut at = Duration::from_secs(from);
        while at < Duration::from_secs(from + seconds) {
            count += u32::from(limiter.admit(at, &web(0), EventKind::PhaseChanged));
            at += every;
        }
        count
    }

    #[test]
    fn what_flaps_without_a_pause_is_bounded() {
        let mut limiter = Limiter::default();
        let told = admitted(&mut limiter, 0, 3600, Duration::from_millis(100));
        assert_eq!(told, BURST + 3600 / 6 - 1, "a burst, then one each six seconds");
    }

    #[test]
    fn what_backs_off_is_told_whole() {
        let mut limiter = Limiter::default();
        // Five of a kind with each of the starts, which come every 48 s at the least.
        for start in 0..1000 {
            for step in 0..5 {
                let at = Duration::from_millis(start * 48_000 + step * 100);
                assert!(limiter.admit(at, &web(0), EventKind::PhaseChanged), "{start} {step}");
            }
        }
    }

    #[test]
    fn one_that_is_loud_does_not_silence_another() {
        let mut limiter = Limiter::default();
        admitted(&mut limiter, 0, 60, Duration::from_millis(10));
        let now = Duration::from_millis(59_995);
        assert!(!limiter.admit(now, &web(0), EventKind::PhaseChanged));
        assert!(limiter.admit(now, &web(0), EventKind::Crashed), "another kind");
        assert!(limiter.admit(now, &web(1), EventKind::PhaseChanged), "another subject");
    }

    #[test]
    fn what_rests_is_forgotten_and_memory_is_bounded() {
        let mut limiter = Limiter::default();
        for n in 0..10_000 {
            limiter.admit(Duration::from_secs(1), &web(n), EventKind::Crashed);
        }
        assert!(limiter.buckets.len() <= FOLLOWED);
        assert!(!limiter.admit(Duration::from_secs(2), &web(20_000), EventKind::Crashed));
        assert!(limiter.admit(Duration::from_secs(10), &web(20_000), EventKind::Crashed));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
