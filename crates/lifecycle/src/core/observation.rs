//! What a probe saw of a running process.

use std::collections::VecDeque;
use std::fmt;

/// Observations kept for reports.
const KEPT: usize = 3;

/// What an observation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It serves.
    Good,
    /// A definite "no": refused, a status that says so, an exit code that is not 0.
    Failing,
    /// It could not be told: no answer in time, an engine error, want of something of our own.
    Inconclusive,
    /// Asking again can never give another answer.
    Never,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What it means.
    pub class: Class,
    /// What was seen, in a few words.
    pub seen: String,
}

impl Observation {
    /// An observation of this class.
    pub fn new(class: Class, seen: impl Into<String>) -> Self {
        Self { class, seen: seen.into() }
    }
}

/// How often each class was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Good.
    pub good: u64,
    /// Failing, while a wait for readiness "not yet".
    pub failing: u64,
    /// Inconclusive, or never to be told.
    pub inconclusive: u64,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, class: Class) {
        let count = match class {
            Class::Good => &mut self.good,
            Class::Failing => &mut self.failing,
            Class::Inconclusive | Class::Never => &mut self.inconclusive,
        };
        *count += 1;
    }
}

/// The last few observations, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recent(VecDeque<Observation>);

impl Recent {
    /// Adds one; the oldest goes.
    pub fn add(&mut self, observation: Observation) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(observation);
    }

    /// The newest.
    pub fn last(&self) -> Option<&Observation> {
        self.0.back()
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "; last seen: ";
        for observation in &self.0 {
            write!(f, "{separator}{}", observation.seen)?;
            separator = ", ";
        }
        Ok(())
    }
}
