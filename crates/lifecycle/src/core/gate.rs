//! The readiness gate: N good observations in a row of one incarnation, under one hard cap.

use std::fmt;
use std::time::Duration;

use super::observation::{Class, Counts, Observation, Recent};

/// What the gate needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateRules {
    /// Good observations in a row that are needed.
    pub consecutive: u32,
    /// Pause between two observations.
    pub interval: Duration,
    /// Least time between the first and the last of them.
    pub stable: Duration,
    /// Longest the wait may take, from the start of the process on.
    pub budget: Duration,
}

/// A wait for readiness under way. Times are durations since any fixed origin of a monotonic clock.
#[derive(Debug, Clone)]
pub struct Gate {
    rules: GateRules,
    began: Duration,
    incarnation: String,
    good: u32,
    first_good: Option<Duration>,
    counts: Counts,
    restarts: u32,
    recent: Recent,
    verdict: GateVerdict,
}

/// Where a wait stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateVerdict {
    /// Observe again at this time; an observation may take no longer than until the cap.
    ProbeAt(Duration),
    /// No further observation fits; without one the wait ends at this time, its cap.
    EndsAt(Duration),
    /// Ready.
    Ready,
    /// The cap has passed.
    TimedOut,
    /// It can never become ready: waiting on is of no use.
    Never,
}

impl Gate {
    /// A wait that began at `now` for this incarnation; it is to be observed at once.
    pub fn new(rules: GateRules, now: Duration, incarnation: String) -> Self {
        Self {
            rules,
            began: now,
            incarnation,
            good: 0,
            first_good: None,
            counts: Counts::default(),
            restarts: 0,
            recent: Recent::default(),
            verdict: GateVerdict::ProbeAt(now),
        }
    }

    /// The incarnation that is being waited for.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// When the wait ends at the latest.
    pub fn cap(&self) -> Duration {
        self.began + self.rules.budget
    }

    /// How it stands.
    pub fn verdict(&self) -> GateVerdict {
        self.verdict
    }

    /// Good observations in a row so far.
    pub fn good(&self) -> u32 {
        self.good
    }

    /// Another process runs: the count begins again, the wait goes on.
    pub fn restarted(&mut self, incarnation: &str) {
        incarnation.clone_into(&mut self.incarnation);
        self.restarts += 1;
        self.good = 0;
    }

    /// Takes an observation of `incarnation` that was complete at `now`.
    pub fn observe(
        &mut self,
        now: Duration,
        incarnation: &str,
        observation: Observation,
    ) -> GateVerdict {
        if incarnation != self.incarnation {
            self.restarted(incarnation);
        }
        self.counts.add(observation.class);
        let class = observation.class;
        self.recent.add(observation);
        match class {
            Class::Good => {
                if self.good == 0 {
                    self.first_good = Some(now);
                }
                self.good += 1;
            }
            Class::Failing | Class::Inconclusive => self.good = 0,
            Class::Never => {
                self.good = 0;
                self.verdict = GateVerdict::Never;
                return self.verdict;
            }
        }
        let stable =
            self.first_good.is_some_and(|first| now.saturating_sub(first) >= self.rules.stable);
        let next = now + self.rules.interval;
        self.verdict = if now > self.cap() {
            GateVerdict::TimedOut
        } else if self.good >= self.rules.consecutive && stable {
            GateVerdict::Ready
        } else if now == self.cap() {
            GateVerdict::TimedOut
        } else if next >= self.cap() {
            GateVerdict::EndsAt(self.cap())
        } else {
            GateVerdict::ProbeAt(next)
        };
        self.verdict
    }

    /// Ends the wait if its cap has passed.
    pub fn expire(&mut self, now: Duration) -> GateVerdict {
        let under_way = matches!(self.verdict, GateVerdict::ProbeAt(_) | GateVerdict::EndsAt(_));
        if under_way && now >= self.cap() {
            self.verdict = GateVerdict::TimedOut;
        }
        self.verdict
    }

    /// What was seen so far, for people.
    pub fn report(&self, now: Duration) -> GateReport {
        GateReport {
            rules: self.rules,
            verdict: self.verdict,
            waited: now.saturating_sub(self.began),
            good: self.good,
            counts: self.counts,
            restarts: self.restarts,
            recent: self.recent.clone(),
            incarnation: self.incarnation.clone(),
        }
    }
}

/// What a wait saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateReport {
    rules: GateRules,
    verdict: GateVerdict,
    waited: Duration,
    good: u32,
    counts: Counts,
    restarts: u32,
    recent: Recent,
    incarnation: String,
}

impl fmt::Display for GateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            GateVerdict::ProbeAt(_) | GateVerdict::EndsAt(_) => "not ready yet",
            GateVerdict::Ready => "ready",
            GateVerdict::TimedOut => "not ready in time",
            GateVerdict::Never => "it can never become ready",
        })?;
        let Counts { good, failing, inconclusive } = self.counts;
        write!(
            f,
            ": {} of {} good observations in a row after {:.1} s of {} s ({good} good, {failing} \
             not yet, {inconclusive} inconclusive",
            self.good,
            self.rules.consecutive,
            self.waited.as_secs_f64(),
            self.rules.budget.as_secs()
        )?;
        if self.restarts > 0 {
            write!(f, ", {} restarts", self.restarts)?;
        }
        write!(f, "){}; process {}", self.recent, brief(&self.incarnation))
    }
}

/// An incarnation as people see it: the container's id is cut to its usual twelve characters.
pub fn brief(incarnation: &str) -> String {
    match incarnation.split_once('@') {
        Some((id, rest)) => format!("{}@{rest}", id.get(..12).unwrap_or(id)),
        None => incarnation.to_owned(),
    }
}

#[cfg(test)]
mod tests;
