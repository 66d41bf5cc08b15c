//! Containers that carry this installation's label and belong to no workload: which of them may go,
//! and when.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_engine::Liveness;

/// A container of ours without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its id.
    pub id: String,
    /// Whether a process of it may write.
    pub liveness: Liveness,
}

/// What to do with an orphan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SweepStep {
    /// It is dead and nobody has claimed it: remove it.
    Remove {
        /// Which.
        id: String,
    },
    /// It runs: tell the operator, once.
    Report {
        /// Which.
        id: String,
    },
}

/// Remembers since when an orphan is one.
#[derive(Debug, Default)]
pub struct Sweep {
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    since: Duration,
    reported: bool,
}

impl Sweep {
    /// Takes a look that the engine answered in full at `now`, a monotonic time. What was an orphan
    /// at every look for `grace` is due: a container is made before its record can be read by
    /// everyone, and a store that is restored takes its time.
    pub fn look(&mut self, now: Duration, grace: Duration, orphans: &[Orphan]) -> Vec<SweepStep> {
        self.seen.retain(|id, _| orphans.iter().any(|orphan| orphan.id == *id));
        let mut steps = Vec::new();
        for orphan in orphans {
            let id = orphan.id.clone();
            let first = Seen { since: now, reported: false };
            let seen = self.seen.entry(id.clone()).or_insert(first);
            if now.saturating_sub(seen.since) < grace {
                continue;
            }
            match orphan.liveness {
                Liveness::Stopped => steps.push(SweepStep::Remove { id }),
                Liveness::Running if !seen.reported => {
                    seen.reported = true;
                    steps.push(SweepStep::Report { id });
                }
                Liveness::Running | Liveness::Unknown => {}
            }
        }
        steps
    }

    /// The engine could not say: what was seen before counts for nothing.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(300);

    fn orphan(id: &str, liveness: Liveness) -> Orphan {
        Orphan { id: id.into(), liveness }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_dead_go_after_the_grace_and_the_running_are_told_of_once() {
        let mut sweep = Sweep::default();
        let found = [
            orphan("dead", Liveness::Stopped),
            orphan("runs", Liveness::Running),
            orphan("odd", Liveness::Unknown),
        ];
        assert_eq!(sweep.look(at(10), GRACE, &found), []);
        assert_eq!(sweep.look(at(309), GRACE, &found), []);
        let due =
            [SweepStep::Remove { id: "dead".into() }, SweepStep::Report { id: "runs".into() }];
        assert_eq!(sweep.look(at(310), GRACE, &found), due);
        assert_eq!(sweep.look(at(400), GRACE, &found), due[..1], "a removal is tried again");
    }

    #[test]
    fn one_that_found_an_owner_meanwhile_begins_anew() {
        let mut sweep = Sweep::default();
        let found = [orphan("dead", Liveness::Stopped)];
        sweep.look(at(0), GRACE, &found);
        sweep.look(at(200), GRACE, &[]);
        assert_eq!(sweep.look(at(310), GRACE, &found), []);
        assert_eq!(sweep.look(at(610), GRACE, &found).len(), 1);
    }

    #[test]
    fn an_engine_that_was_away_gives_everything_a_new_grace() {
        let mut sweep = Sweep::default();
        let found = [orphan("dead", Liveness::Stopped)];
        sweep.look(at(0), GRACE, &found);
        sweep.forget();
        assert_eq!(sweep.look(at(310), GRACE, &found), []);
    }
}
