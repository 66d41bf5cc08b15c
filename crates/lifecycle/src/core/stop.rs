//! How a container is asked to end, and how long each part of that may take.

use std::fmt;
use std::time::Duration;

use super::spec::WorkloadSpec;

/// How long a process may take to be gone after `SIGKILL`. The kernel needs milliseconds; one that
/// takes longer waits for a disk or a network file system and cannot be killed now.
pub const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Pause before one that could not be killed is tried again. Its signal is pending, so that it ends
/// by itself as soon as what it waits for comes.
pub const UNKILLABLE_RETRY: Duration = Duration::from_secs(15);

/// A command that is run in the container before it is asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreStop {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// The parts of a stop with their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopLadder {
    /// Run first, if the spec has one.
    pub pre_stop: Option<PreStop>,
    /// How long the container has after the signal.
    pub grace: Duration,
}

impl StopLadder {
    /// The ladder of a workload; of one whose spec is not known, ten seconds.
    pub fn of(spec: Option<&WorkloadSpec>) -> Self {
        match spec {
            Some(spec) => Self { pre_stop: spec.pre_stop.clone(), grace: spec.stop_grace },
            None => Self { pre_stop: None, grace: Duration::from_secs(10) },
        }
    }

    /// Longest that all of it takes, the engine's own answers apart.
    pub fn bound(&self) -> Duration {
        let hook = self.pre_stop.as_ref().map_or(Duration::ZERO, |hook| hook.timeout);
        hook + self.grace + KILL_WITHIN
    }
}

impl fmt::Display for StopLadder {
    /// What is about to happen, with its bound.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hook) = &self.pre_stop {
            write!(f, "{} s for its pre_stop, ", hook.timeout.as_secs_f64())?;
        }
        write!(
            f,
            "{} s to end by itself, {} s to be killed: {} s at most",
            self.grace.as_secs_f64(),
            KILL_WITHIN.as_secs_f64(),
            self.bound().as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_stop_is_known_before_it_begins() {
        let plain = StopLadder::of(None);
        assert_eq!(plain.to_string(), "10 s to end by itself, 10 s to be killed: 20 s at most");
        let hook =
            PreStop { command: vec!["drain".to_owned()], timeout: Duration::from_millis(1500) };
        let ladder = StopLadder { pre_stop: Some(hook), grace: Duration::from_secs(3) };
        assert_eq!(ladder.bound(), Duration::from_millis(14_500));
        assert_eq!(
            ladder.to_string(),
            "1.5 s for its pre_stop, 3 s to end by itself, 10 s to be killed: 14.5 s at most"
        );
    }
}
