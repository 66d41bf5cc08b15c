//! Whether a process that was ready still serves: thresholds over continuous observations.

use std::fmt;
use std::time::Duration;

use super::gate::brief;
use super::observation::{Class, Counts, Observation, Recent};

/// After this long of nothing but inconclusive observations, it is said that nothing is known.
pub const UNKNOWN_AFTER: Duration = Duration::from_secs(60);

/// Jitter, as a share of the interval on either side.
const JITTER: f64 = 0.1;

/// What liveness needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveRules {
    /// Pause between two observations.
    pub interval: Duration,
    /// Failing observations in a row that make it unhealthy.
    pub failures: u32,
    /// Good observations in a row that make it well again.
    pub successes: u32,
    /// From the start of the process on: until it has passed, a process that never was good is not
    /// called unhealthy.
    pub start_period: Duration,
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing was observed yet.
    Unasked,
    /// It serves.
    Alive,
    /// It failed as often in a row as makes it so.
    Unhealthy,
    /// For a minute it could not be told. What was known last decides: see [`Liveness::is_failed`].
    Unknown,
}

/// The liveness of one incarnation. Times are durations since any fixed origin of a monotonic clock.
#[derive(Debug, Clone)]
pub struct Liveness {
    rules: LiveRules,
    incarnation: String,
    /// Until when a process that was never good is not called unhealthy; none once it was.
    shielded_until: Option<Duration>,
    known: Health,
    /// When a definite observation was made last.
    told: Duration,
    unknown: bool,
    good: u32,
    failing: u32,
    counts: Counts,
    recent: Recent,
}

/// What an incarnation brings along when its liveness is first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// It was found ready.
    Ready,
    /// It was not ready so far; its process began at this time.
    Starting(Duration),
    /// It was found unhealthy by a belayd before this one.
    Unhealthy,
}

impl Liveness {
    /// The liveness of this incarnation, from `now` on.
    pub fn new(rules: LiveRules, now: Duration, incarnation: String, past: Past) -> Self {
        let (known, shielded_until) = match past {
            Past::Ready => (Health::Alive, None),
            Past::Starting(began) => (Health::Unasked, Some(began + rules.start_period)),
            Past::Unhealthy => (Health::Unhealthy, None),
        };
        Self {
            rules,
            incarnation,
            shielded_until,
            known,
            told: now,
            unknown: false,
            good: 0,
            failing: 0,
            counts: Counts::default(),
            recent: Recent::default(),
        }
    }

    /// The incarnation that is asked about.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// What is known.
    pub fn health(&self) -> Health {
        if self.unknown { Health::Unknown } else { self.known }
    }

    /// Whether its action is due: it is unhealthy, and the last observation said so too. What a
    /// belayd before this one found is confirmed first.
    pub fn is_failed(&self) -> bool {
        self.known == Health::Unhealthy && !self.unknown && self.failing > 0
    }

    /// It was found ready meanwhile: nothing shields it any more.
    pub fn was_ready(&mut self) {
        self.shielded_until = None;
        if self.known == Health::Unasked {
            self.known = Health::Alive;
        }
    }

    /// The last observation.
    pub fn last(&self) -> Option<&Observation> {
        self.recent.last()
    }

    /// Observations in a row that agree with the last one, if it was definite.
    pub fn in_a_row(&self) -> u32 {
        self.good.max(self.failing)
    }

    /// Takes an observation that was complete at `now`, and says whether what is known changed.
    pub fn observe(&mut self, now: Duration, observation: Observation) -> Option<Health> {
        let before = self.health();
        let class = observation.class;
        self.counts.add(class);
        self.recent.add(observation);
        match class {
            Class::Good => {
                self.tell(now);
                self.failing = 0;
                self.good = self.good.saturating_add(1);
                self.shielded_until = None;
                if self.known != Health::Unhealthy || self.good >= self.rules.successes {
                    self.known = Health::Alive;
                }
            }
            Class::Failing => {
                self.tell(now);
                self.good = 0;
                if self.shielded_until.is_none_or(|until| now >= until) {
                    self.failing = self.failing.saturating_add(1);
                    if self.failing >= self.rules.failures {
                        self.known = Health::Unhealthy;
                    }
                }
            }
            // A probe that cannot be carried out says nothing about the process. It neither counts
            // nor starts a count again: a slow moment must not hide a server that refuses.
            Class::Inconclusive | Class::Never => {
                self.unknown |= now.saturating_sub(self.told) >= UNKNOWN_AFTER;
            }
        }
        let after = self.health();
        (after != before).then_some(after)
    }

    fn tell(&mut self, now: Duration) {
        self.told = now;
        self.unknown = false;
    }

    /// When to observe again after an observation at `now`. `chance` is a number from 0 to 1; by it
    /// workloads that were observed together drift apart.
    pub fn next(&self, now: Duration, chance: f64) -> Duration {
        now + self.rules.interval.mul_f64(1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
    }

    /// What was seen, for people.
    pub fn report(&self) -> LiveReport<'_> {
        LiveReport(self)
    }
}

/// What liveness saw.
#[derive(Debug)]
pub struct LiveReport<'a>(&'a Liveness);

impl fmt::Display for LiveReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.0;
        let Counts { good, failing, inconclusive } = live.counts;
        write!(
            f,
            "{} failures in a row, {} make it unhealthy ({good} good, {failing} failing, \
             {inconclusive} inconclusive){}; process {}",
            live.failing,
            live.rules.failures,
            live.recent,
            brief(&live.incarnation)
        )
    }
}

#[cfg(test)]
mod tests;
