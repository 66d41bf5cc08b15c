//! The readiness gate: N good observations in a row of one incarnation, under one hard cap.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Observations kept for the report.
const KEPT: usize = 3;

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It serves.
    Good,
    /// A definite "not yet": refused, or a status that says so. Starts the count again.
    NotYet,
    /// It could not be told: a time-out, an engine error. Starts the count again.
    Inconclusive,
}

/// One observation of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What it means.
    pub class: Class,
    /// What was seen, in a few words.
    pub seen: String,
}

/// What the gate needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateRules {
    /// Good observations in a row that are needed.
    pub consecutive: u32,
    /// Pause between two observations.
    pub interval: Duration,
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
    counts: [u32; 3],
    restarts: u32,
    last: VecDeque<Observation>,
}

/// Where a wait stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateVerdict {
    /// Observe again at this time; an observation may take no longer than until the cap.
    ProbeAt(Duration),
    /// Ready.
    Ready,
    /// The cap has passed.
    TimedOut,
}

impl Gate {
    /// A wait that began at `now` for this incarnation.
    pub fn new(rules: GateRules, now: Duration, incarnation: String) -> Self {
        Self {
            rules,
            began: now,
            incarnation,
            good: 0,
            counts: [0; 3],
            restarts: 0,
            last: VecDeque::new(),
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

    /// Takes an observation of `incarnation` that was complete at `now`.
    pub fn observe(
        &mut self,
        now: Duration,
        incarnation: &str,
        observation: Observation,
    ) -> GateVerdict {
        if incarnation != self.incarnation {
            incarnation.clone_into(&mut self.incarnation);
            self.restarts += 1;
            self.good = 0;
        }
        self.counts[observation.class as usize] += 1;
        self.good = match observation.class {
            Class::Good => self.good + 1,
            Class::NotYet | Class::Inconclusive => 0,
        };
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(observation);
        if self.good >= self.rules.consecutive && now <= self.cap() {
            return GateVerdict::Ready;
        }
        let next = now + self.rules.interval;
        if next >= self.cap() { GateVerdict::TimedOut } else { GateVerdict::ProbeAt(next) }
    }

    /// What was seen so far, for people.
    pub fn report(&self, now: Duration) -> GateReport {
        GateReport {
            rules: self.rules,
            waited: now.saturating_sub(self.began),
            good: self.good,
            counts: self.counts,
            restarts: self.restarts,
            last: self.last.iter().cloned().collect(),
        }
    }
}

/// What a wait saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateReport {
    rules: GateRules,
    waited: Duration,
    good: u32,
    counts: [u32; 3],
    restarts: u32,
    last: Vec<Observation>,
}

impl fmt::Display for GateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [good, not_yet, inconclusive] = self.counts;
        write!(
            f,
            "{} of {} good observations in a row after {:.1} s of {} s ({good} good, {not_yet} \
             not yet, {inconclusive} inconclusive",
            self.good,
            self.rules.consecutive,
            self.waited.as_secs_f64(),
            self.rules.budget.as_secs()
        )?;
        if self.restarts > 0 {
            write!(f, ", {} restarts", self.restarts)?;
        }
        f.write_str(")")?;
        let mut separator = "; last seen: ";
        for observation in &self.last {
            write!(f, "{separator}{}", observation.seen)?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: GateRules = GateRules {
        consecutive: 3,
        interval: Duration::from_millis(500),
        budget: Duration::from_secs(30),
    };

    fn seen(class: Class) -> Observation {
        Observation { class, seen: format!("{class:?}") }
    }

    /// Feeds a script of observations, each taking `cost`, and says how it ended and when.
    fn run(script: &[(&str, Class)], cost: Duration) -> (GateVerdict, Duration, Gate) {
        let mut now = Duration::from_secs(100);
        let mut gate = Gate::new(RULES, now, "a".into());
        let mut script = script.iter().cycle();
        loop {
            let (incarnation, class) = script.next().expect("a script is not empty");
            now += cost;
            match gate.observe(now, incarnation, seen(*class)) {
                GateVerdict::ProbeAt(at) => now = at,
                verdict => return (verdict, now.saturating_sub(Duration::from_secs(100)), gate),
            }
        }
    }

    #[test]
    fn three_good_in_a_row_are_ready_after_one_second() {
        let (verdict, after, _) = run(&[("a", Class::Good)], Duration::ZERO);
        assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(1)));
    }

    #[test]
    fn anything_else_starts_the_count_again() {
        use Class::{Good, Inconclusive, NotYet};
        let script: Vec<_> = [Good, Good, NotYet, Good, Good, Inconclusive, Good, Good, Good]
            .map(|class| ("a", class))
            .into();
        let (verdict, after, _) = run(&script, Duration::ZERO);
        assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(4)));
    }

    #[test]
    fn a_restart_during_the_wait_starts_the_count_again() {
        let script = [("a", Class::Good), ("a", Class::Good), ("b", Class::Good)];
        let mut gate = Gate::new(RULES, Duration::ZERO, "a".into());
        for (incarnation, class) in script {
            gate.observe(Duration::from_secs(1), incarnation, seen(class));
        }
        assert_eq!(gate.good, 1);
        assert!(gate.report(Duration::from_secs(2)).to_string().contains("1 restarts"));
    }

    #[test]
    fn the_cap_is_hard_even_when_every_probe_hangs() {
        let (verdict, after, gate) = run(&[("a", Class::Inconclusive)], Duration::from_secs(2));
        assert_eq!(verdict, GateVerdict::TimedOut);
        assert!(after <= Duration::from_secs(30), "{after:?}");
        let report = gate.report(Duration::from_secs(130)).to_string();
        assert!(
            report.starts_with("0 of 3 good observations in a row after 30.0 s of 30 s"),
            "{report}"
        );
        assert!(
            report.ends_with("last seen: Inconclusive, Inconclusive, Inconclusive"),
            "{report}"
        );
    }

    #[test]
    fn two_good_and_one_not_for_ever_is_never_ready() {
        let script = [("a", Class::Good), ("a", Class::Good), ("a", Class::NotYet)];
        assert_eq!(run(&script, Duration::ZERO).0, GateVerdict::TimedOut);
    }

    #[test]
    fn good_after_the_cap_is_not_ready() {
        let mut gate = Gate::new(RULES, Duration::ZERO, "a".into());
        let late = Duration::from_secs(31);
        for _ in 0..5 {
            assert_eq!(gate.observe(late, "a", seen(Class::Good)), GateVerdict::TimedOut);
        }
    }
}
