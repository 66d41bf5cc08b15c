//! One queue for each runner: its jobs are done in their order, one at a time.

use std::collections::{BTreeMap, VecDeque};

use belay_protocol::runner::RunnerId;
use belay_runner::Ticket;

use super::job::Job;

/// The jobs of all runners.
#[derive(Debug, Default)]
pub struct Queues {
    lanes: BTreeMap<RunnerId, Lane>,
}

#[derive(Debug)]
struct Lane {
    under_way: Job,
    waiting: VecDeque<Job>,
}

/// What to do about a job that was put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Begin it: the runner has no other.
    Begin,
    /// It waits, or one like it does.
    Waits,
    /// It waits, and the one under way has nothing to be patient for any more.
    Hurries,
}

/// What became of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aborted {
    /// The snapshot was not begun and will not be.
    Withdrawn,
    /// It is under way: it ends by itself.
    UnderWay,
    /// There is no such snapshot.
    Nothing,
}

impl Queues {
    /// Puts in a job for a runner.
    pub fn push(&mut self, runner: &RunnerId, job: Job) -> Pushed {
        let Some(lane) = self.lanes.get_mut(runner) else {
            let lane = Lane { under_way: job, waiting: VecDeque::new() };
            self.lanes.insert(runner.clone(), lane);
            return Pushed::Begin;
        };
        // Nobody waits for the end of these, and one of them sees all there is to see.
        let is_own = matches!(job, Job::Look | Job::Quiet);
        if is_own && lane.waiting.contains(&job) {
            return Pushed::Waits;
        }
        let ends = matches!(job, Job::Stop | Job::Drop(_));
        lane.waiting.push_back(job);
        if ends { Pushed::Hurries } else { Pushed::Waits }
    }

    /// Takes back a snapshot that was not begun.
    pub fn abort(&mut self, ticket: &Ticket) -> Aborted {
        let Some(lane) = self.lanes.get_mut(&ticket.runner) else { return Aborted::Nothing };
        let is_meant = |job: &Job| matches!(job, Job::Take(taken) if taken == ticket);
        if let Some(at) = lane.waiting.iter().position(is_meant) {
            lane.waiting.remove(at);
            return Aborted::Withdrawn;
        }
        if is_meant(&lane.under_way) { Aborted::UnderWay } else { Aborted::Nothing }
    }

    /// Ends the job under way, and says which is to begin.
    pub fn finish(&mut self, runner: &RunnerId) -> Option<&Job> {
        let lane = self.lanes.get_mut(runner)?;
        let Some(next) = lane.waiting.pop_front() else {
            self.lanes.remove(runner);
            return None;
        };
        lane.under_way = next;
        self.lanes.get(runner).map(|lane| &lane.under_way)
    }

    /// Jobs that wait, of all runners.
    pub fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    /// Whether something is under way for a runner.
    pub fn is_busy(&self, runner: &RunnerId) -> bool {
        self.lanes.contains_key(runner)
    }
}

#[cfg(test)]
mod tests {
    use belay_protocol::runner::{Epoch, RunId, SuspensionId};

    use super::*;

    fn runner() -> RunnerId {
        "r1".parse().expect("a name")
    }

    fn ticket(run: u64) -> Ticket {
        Ticket {
            run: RunId::after(None, run, 0),
            runner: runner(),
            epoch: Epoch::default(),
            suspension: SuspensionId::default(),
        }
    }

    #[test]
    fn jobs_of_one_runner_go_one_after_the_other() {
        let mut queues = Queues::default();
        assert_eq!(queues.push(&runner(), Job::Take(ticket(1))), Pushed::Begin);
        assert_eq!(queues.push(&runner(), Job::PutBack(ticket(1))), Pushed::Waits);
        assert_eq!(queues.push(&runner(), Job::Stop), Pushed::Hurries);
        assert_eq!(queues.push(&"r2".parse().expect("a name"), Job::Look), Pushed::Begin);
        assert_eq!(queues.waiting(), 2);
        assert_eq!(queues.finish(&runner()), Some(&Job::PutBack(ticket(1))));
        assert_eq!(queues.finish(&runner()), Some(&Job::Stop));
        assert!(queues.is_busy(&runner()));
        assert_eq!(queues.finish(&runner()), None);
        assert!(!queues.is_busy(&runner()));
        assert_eq!(queues.push(&runner(), Job::Look), Pushed::Begin);
    }

    #[test]
    fn orders_are_kept_each_and_looks_once() {
        let mut queues = Queues::default();
        queues.push(&runner(), Job::Take(ticket(1)));
        for _ in 0..3 {
            queues.push(&runner(), Job::Look);
        }
        queues.push(&runner(), Job::Stop);
        queues.push(&runner(), Job::Stop);
        assert_eq!(queues.waiting(), 3, "each order has an end of its own");
    }

    #[test]
    fn a_snapshot_that_waits_is_taken_back_and_one_under_way_is_not() {
        let mut queues = Queues::default();
        assert_eq!(queues.abort(&ticket(1)), Aborted::Nothing);
        queues.push(&runner(), Job::PutBack(ticket(1)));
        queues.push(&runner(), Job::Take(ticket(2)));
        assert_eq!(queues.abort(&ticket(1)), Aborted::Nothing);
        assert_eq!(queues.abort(&ticket(2)), Aborted::Withdrawn);
        queues.push(&runner(), Job::Take(ticket(3)));
        queues.finish(&runner());
        assert_eq!(queues.abort(&ticket(3)), Aborted::UnderWay);
        assert_eq!(queues.finish(&runner()), None);
    }
}
