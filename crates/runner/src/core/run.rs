//! A run and the states it may be in.
//!
//! Each transition is a method that refuses, with the state found, where it does not exist.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::runner::{
    Again, Attempt, Completed, Epoch, NextForRun, Resumed, RunId, RunState, RunnerId, Standing,
    SuspensionId, TravelId, WaitRequest, WaitResult, WaitpointId,
};
use belay_protocol::{NodeId, WorkloadName};
use jiff::Timestamp;
use serde_json::Value;

use crate::core::event::Origin;
use crate::core::now::Now;

/// Assignments in a row that may end before the run was started.
const MAX_FAILED_STARTS: u32 = 5;
/// Stints of a run that are remembered.
const MAX_STINTS: usize = 16;
/// The first pause before another attempt; it doubles.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The longest.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// What a run was submitted with. It never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Whose runners take it.
    pub workload: WorkloadName,
    /// What it is about.
    pub payload: Value,
    /// Equal submissions of one workload under one key are one run.
    pub idempotency_key: Option<String>,
    /// Greater ones go first.
    pub priority: i32,
    /// How long it waits before it is eligible.
    pub delay: Duration,
    /// How long an attempt may execute, its waits apart.
    pub timeout: Option<Duration>,
    /// How many attempts it is worth, at least one.
    pub max_attempts: u32,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What it was submitted with.
    pub submission: Arc<Submission>,
    /// How often it was bound.
    pub epoch: Epoch,
    /// The last attempt that has begun, 0 if none has.
    pub attempt: Attempt,
    /// The last suspension, 0 if there was none.
    pub suspension: SuspensionId,
    /// Assignments since the last start that ended before one.
    pub failed_starts: u32,
    /// Its waitpoints, with what they were completed with.
    pub waitpoints: BTreeMap<WaitpointId, Option<Value>>,
    /// How it stands.
    pub phase: Phase,
    /// The last completion, to be answered again.
    pub settled: Option<Settled>,
    /// Why the last attempt or assignment failed.
    pub failure: Option<Failure>,
    /// Why the last snapshot of the last suspension was not taken.
    pub snapshot_failure: Option<String>,
    /// The last times that runners had it, the oldest first.
    pub stints: Vec<Stint>,
}

/// A time that a runner had a run, from its assignment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stint {
    /// The epoch it began in; no two stints of a run have one.
    pub epoch: Epoch,
    /// The attempt that it was for.
    pub attempt: Attempt,
    /// Who had it.
    pub runner: RunnerId,
    /// Where that one comes from.
    pub origin: Origin,
    /// Since then.
    pub from: Timestamp,
    /// Until then; none while it has it.
    pub until: Option<Timestamp>,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// It waits for a runner.
    Queued {
        /// Not before this.
        not_before: Timestamp,
        /// The runner that may still execute an earlier attempt; it must have ended before.
        fence: Option<RunnerId>,
    },
    /// A runner is to start it.
    Assigned,
    /// A runner is at it.
    Executing {
        /// When the attempt has taken too long.
        until: Option<Timestamp>,
        /// The last wait that ended without the runner's doing.
        resumed: Option<Resumed>,
    },
    /// Its runner waits, in memory.
    Waiting {
        /// In this suspension.
        suspension: SuspensionId,
        /// For this.
        wait: WaitRequest,
        /// What is left of the attempt's time.
        left: Option<Duration>,
    },
    /// Its runner is snapshotted.
    Suspended {
        /// In this suspension.
        suspension: SuspensionId,
        /// For this, or no longer.
        wait: SuspendedWait,
        /// What is left of the attempt's time.
        left: Option<Duration>,
        /// How the runner is kept.
        means: Means,
    },
    /// Its runner is on the disk and is being copied for another node; it is not restored meanwhile.
    Leaving {
        /// Where to.
        departure: Departure,
        /// What it waits for.
        stored: Stored,
    },
    /// It was given up to another node. What is on the disk stays, to be copied again.
    Moved {
        /// Where to.
        departure: Departure,
        /// What it waited for when it was given up.
        stored: Stored,
        /// Until when it stays.
        until: Timestamp,
    },
    /// Its runner is on its way back.
    Restoring {
        /// The wait that ended.
        resumed: Resumed,
        /// What is left of the attempt's time.
        left: Option<Duration>,
    },
    /// It is over.
    Ended {
        /// How.
        end: RunEnd,
        /// Since when.
        at: Timestamp,
    },
}

/// The way of a run to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The way.
    pub travel: TravelId,
    /// The node.
    pub to: NodeId,
}

/// What a run that is on its way to another node is suspended in.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// In this suspension.
    pub suspension: SuspensionId,
    /// For this, or no longer.
    pub wait: SuspendedWait,
    /// What is left of the attempt's time.
    pub left: Option<Duration>,
}

/// The wait of a suspended run.
#[derive(Debug, Clone, PartialEq)]
pub enum SuspendedWait {
    /// It goes on.
    Pending(WaitRequest),
    /// It is over, and the run waits to be restored.
    Over(WaitResult),
}

/// How a suspended runner is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Its memory is on the disk and free.
    Checkpoint,
    /// It is frozen where it is.
    Pause,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEnd {
    /// With a result.
    Finished {
        /// The result.
        output: Value,
    },
    /// Without one; [`Run::failure`] says why.
    Failed,
    /// An operator ended it.
    Cancelled,
    /// It goes on at another node, and nothing of it is left here.
    Moved {
        /// Where to.
        departure: Departure,
    },
}

/// A completion that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Who completed.
    pub runner: RunnerId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The answer.
    pub answer: Completed,
}

/// How a runner's process ended, as the engine told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// Its code, if the engine knows it.
    pub code: Option<i64>,
    /// What the kernel did to it.
    pub memory: MemoryFate,
}

/// Whether want of memory ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryFate {
    /// No.
    #[default]
    Enough,
    /// It was killed for it.
    Killed,
}

/// Why an attempt or an assignment failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The runner said so.
    #[error("{error}")]
    Reported {
        /// In its words.
        error: String,
    },
    /// The runner's process ended.
    #[error("the runner ended {0}")]
    Died(Exit),
    /// The runner was not heard of in time.
    #[error("the runner was lost")]
    Lost,
    /// The attempt took longer than it may.
    #[error("the attempt took too long")]
    TimedOut,
    /// The runner gave the run up.
    #[error("the runner gave the run up")]
    LetGo,
    /// No runner could be started.
    #[error("no runner could be started: {reason}")]
    NoRunner {
        /// What the engine said.
        reason: String,
    },
    /// The runner did not start the run in time.
    #[error("the runner did not start the run")]
    NotStarted,
    /// An operator removed the checkpoint of its runner.
    #[error("an operator removed the checkpoint of its runner")]
    Discarded,
    /// The snapshotted runner could not be brought back.
    #[error("the runner could not be restored: {reason}")]
    NotRestored {
        /// What the engine said.
        reason: String,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "with code {code}")?,
            None => f.write_str("with an unknown code")?,
        }
        match self.memory {
            MemoryFate::Enough => Ok(()),
            MemoryFate::Killed => f.write_str(", killed for want of memory"),
        }
    }
}

/// A transition that does not exist from where the run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run is {found}")]
pub struct WrongState {
    /// How it stands.
    pub found: &'static str,
}

impl Run {
    /// A run as it is submitted.
    pub(crate) fn new(id: RunId, submission: Arc<Submission>, now: &Now) -> Self {
        let not_before = now.later(submission.delay);
        Self {
            id,
            submission,
            epoch: Epoch::default(),
            attempt: Attempt::default(),
            suspension: SuspensionId::default(),
            failed_starts: 0,
            waitpoints: BTreeMap::new(),
            phase: Phase::Queued { not_before, fence: None },
            settled: None,
            failure: None,
            snapshot_failure: None,
            stints: Vec::new(),
        }
    }

    /// A runner has it from now on.
    pub(crate) fn begin_stint(&mut self, runner: RunnerId, origin: Origin, now: &Now) {
        if self.stints.len() >= MAX_STINTS {
            self.stints.remove(0);
        }
        let (epoch, attempt) = (self.epoch, self.attempt.next());
        self.stints.push(Stint { epoch, attempt, runner, origin, from: now.wall, until: None });
    }

    /// Nobody has it from now on.
    pub(crate) fn end_stint(&mut self, now: &Now) {
        if let Some(last) = self.stints.last_mut() {
            last.until.get_or_insert(now.wall);
        }
    }

    /// How it stands, in a word.
    pub fn run_state(&self) -> RunState {
        match &self.phase {
            Phase::Queued { .. } => RunState::Queued,
            Phase::Assigned => RunState::Assigned,
            Phase::Executing { .. } => RunState::Executing,
            Phase::Waiting { .. } => RunState::Waiting,
            Phase::Suspended { .. } | Phase::Leaving { .. } => RunState::Suspended,
            Phase::Moved { .. } | Phase::Ended { end: RunEnd::Moved { .. }, .. } => RunState::Moved,
            Phase::Restoring { .. } => RunState::Restoring,
            Phase::Ended { end: RunEnd::Finished { .. }, .. } => RunState::Finished,
            Phase::Ended { end: RunEnd::Failed, .. } => RunState::Failed,
            Phase::Ended { end: RunEnd::Cancelled, .. } => RunState::Cancelled,
        }
    }

    /// The word for its state.
    pub fn state(&self) -> &'static str {
        self.run_state().as_str()
    }

    /// Whether it counts against its workload's `max_concurrent`.
    pub(crate) fn holds_place(&self) -> bool {
        match self.phase {
            Phase::Assigned
            | Phase::Executing { .. }
            | Phase::Waiting { .. }
            | Phase::Restoring { .. } => true,
            Phase::Queued { .. }
            | Phase::Suspended { .. }
            | Phase::Leaving { .. }
            | Phase::Moved { .. }
            | Phase::Ended { .. } => false,
        }
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// What its runner is told, while it has one that can listen.
    pub(crate) fn standing(&self) -> Option<Standing> {
        match &self.phase {
            Phase::Assigned => Some(Standing::Assigned { attempt: self.attempt.next() }),
            Phase::Executing { resumed, .. } => {
                Some(Standing::Executing { attempt: self.attempt, resumed: resumed.clone() })
            }
            Phase::Waiting { suspension, wait, .. } => Some(Standing::Waiting {
                attempt: self.attempt,
                suspension: *suspension,
                wait: *wait,
            }),
            Phase::Queued { .. }
            | Phase::Suspended { .. }
            | Phase::Leaving { .. }
            | Phase::Moved { .. }
            | Phase::Restoring { .. }
            | Phase::Ended { .. } => None,
        }
    }

    fn wrong<T>(&self) -> Result<T, WrongState> {
        Err(WrongState { found: self.state() })
    }

    /// queued → assigned.
    pub(crate) fn assign(&mut self) -> Result<(), WrongState> {
        match self.phase {
            Phase::Queued { fence: None, .. } => {
                self.phase = Phase::Assigned;
                Ok(())
            }
            _ => self.wrong(),
        }
    }

    /// assigned → executing, in a new attempt.
    pub(crate) fn start(&mut self, now: &Now) -> Result<(), WrongState> {
        let Phase::Assigned = self.phase else { return self.wrong() };
        self.attempt = self.attempt.next();
        self.failed_starts = 0;
        let until = self.submission.timeout.map(|timeout| now.later(timeout));
        self.phase = Phase::Executing { until, resumed: None };
        Ok(())
    }

    /// executing or waiting → waiting, in a new suspension. `left` is what is left of the time of an
    /// attempt that executes.
    pub(crate) fn suspend(
        &mut self,
        wait: WaitRequest,
        left: Option<Duration>,
    ) -> Result<SuspensionId, WrongState> {
        let left = match &self.phase {
            Phase::Executing { .. } => left,
            Phase::Waiting { left, .. } => *left,
            _ => return self.wrong(),
        };
        self.snapshot_failure = None;
        self.suspension = self.suspension.next();
        self.phase = Phase::Waiting { suspension: self.suspension, wait, left };
        Ok(self.suspension)
    }

    /// waiting → executing; `result` if the wait is over, none if the runner left it.
    pub(crate) fn resume(
        &mut self,
        result: Option<WaitResult>,
        now: &Now,
    ) -> Result<(), WrongState> {
        let Phase::Waiting { suspension, left, .. } = &self.phase else { return self.wrong() };
        let resumed = result.map(|result| Resumed { suspension: *suspension, result });
        let until = left.map(|left| now.later(left));
        self.phase = Phase::Executing { until, resumed };
        Ok(())
    }

    /// waiting → suspended.
    pub(crate) fn set_suspended(&mut self, means: Means) -> Result<(), WrongState> {
        let Phase::Waiting { suspension, wait, left } = &self.phase else { return self.wrong() };
        self.phase = Phase::Suspended {
            suspension: *suspension,
            wait: SuspendedWait::Pending(*wait),
            left: *left,
            means,
        };
        Ok(())
    }

    /// The wait of a suspended run is over.
    pub(crate) fn end_wait(&mut self, result: WaitResult) -> Result<(), WrongState> {
        match &mut self.phase {
            Phase::Suspended { wait: wait @ SuspendedWait::Pending(_), .. }
            | Phase::Leaving {
                stored: Stored { wait: wait @ SuspendedWait::Pending(_), .. },
                ..
            } => {
                *wait = SuspendedWait::Over(result);
                Ok(())
            }
            _ => self.wrong(),
        }
    }

    /// suspended → restoring, when the wait is over.
    pub(crate) fn restore(&mut self) -> Result<(), WrongState> {
        match &self.phase {
            Phase::Suspended { suspension, wait: SuspendedWait::Over(result), left, .. } => {
                let resumed = Resumed { suspension: *suspension, result: result.clone() };
                self.phase = Phase::Restoring { resumed, left: *left };
                Ok(())
            }
            _ => self.wrong(),
        }
    }

    /// suspended, on the disk → leaving.
    pub(crate) fn leave(&mut self, departure: Departure) -> Result<(), WrongState> {
        let Phase::Suspended { suspension, wait, left, means: Means::Checkpoint } = &self.phase
        else {
            return self.wrong();
        };
        let stored = Stored { suspension: *suspension, wait: wait.clone(), left: *left };
        self.phase = Phase::Leaving { departure, stored };
        Ok(())
    }

    /// leaving → moved.
    pub(crate) fn give_up(&mut self, until: Timestamp) -> Result<(), WrongState> {
        let Phase::Leaving { departure, stored } = &self.phase else { return self.wrong() };
        let (departure, stored) = (departure.clone(), stored.clone());
        self.phase = Phase::Moved { departure, stored, until };
        Ok(())
    }

    /// leaving or moved → suspended: it stays where the checkpoint is.
    pub(crate) fn stay(&mut self) -> Result<(), WrongState> {
        let (Phase::Leaving { stored, .. } | Phase::Moved { stored, .. }) = &self.phase else {
            return self.wrong();
        };
        let Stored { suspension, wait, left } = stored.clone();
        self.phase = Phase::Suspended { suspension, wait, left, means: Means::Checkpoint };
        Ok(())
    }

    /// moved → over: nothing of it is kept any more.
    pub(crate) fn let_go(&mut self, now: &Now) -> Result<(), WrongState> {
        let Phase::Moved { departure, .. } = &self.phase else { return self.wrong() };
        let departure = departure.clone();
        self.end(RunEnd::Moved { departure }, now);
        Ok(())
    }

    /// The runner of a suspended or restoring run is there: it waits on, or executes.
    pub(crate) fn surface(&mut self, now: &Now) -> Result<(), WrongState> {
        let executing = |resumed: Resumed, left: Option<Duration>| Phase::Executing {
            until: left.map(|left| now.later(left)),
            resumed: Some(resumed),
        };
        self.phase = match &self.phase {
            Phase::Restoring { resumed, left } => executing(resumed.clone(), *left),
            Phase::Suspended { suspension, wait, left, .. } => match wait {
                SuspendedWait::Pending(wait) => {
                    Phase::Waiting { suspension: *suspension, wait: *wait, left: *left }
                }
                SuspendedWait::Over(result) => {
                    let resumed = Resumed { suspension: *suspension, result: result.clone() };
                    executing(resumed, *left)
                }
            },
            _ => return self.wrong(),
        };
        Ok(())
    }

    /// The attempt ended with a result.
    pub(crate) fn finish(&mut self, output: Value, now: &Now) -> Result<NextForRun, WrongState> {
        match self.phase {
            Phase::Executing { .. } | Phase::Waiting { .. } => {
                self.end(RunEnd::Finished { output }, now);
                Ok(NextForRun::Finished {})
            }
            _ => self.wrong(),
        }
    }

    /// The attempt ended without one: another follows, or the run has failed.
    pub(crate) fn fail_attempt(
        &mut self,
        failure: Failure,
        again: Again,
        fence: Option<RunnerId>,
        now: &Now,
    ) -> Result<NextForRun, WrongState> {
        match self.phase {
            Phase::Executing { .. }
            | Phase::Waiting { .. }
            | Phase::Suspended { .. }
            | Phase::Leaving { .. }
            | Phase::Restoring { .. } => {}
            _ => return self.wrong(),
        }
        self.failure = Some(failure);
        let is_last = self.attempt.get() >= self.submission.max_attempts;
        if is_last || again == Again::GiveUp {
            self.end(RunEnd::Failed, now);
            return Ok(NextForRun::Failed {});
        }
        Ok(self.queue_again(self.attempt.get(), fence, now))
    }

    /// The assignment ended before the run was started.
    pub(crate) fn fail_start(
        &mut self,
        failure: Failure,
        now: &Now,
    ) -> Result<NextForRun, WrongState> {
        let Phase::Assigned = self.phase else { return self.wrong() };
        self.failure = Some(failure);
        self.failed_starts += 1;
        if self.failed_starts >= MAX_FAILED_STARTS {
            self.end(RunEnd::Failed, now);
            return Ok(NextForRun::Failed {});
        }
        Ok(self.queue_again(self.failed_starts, None, now))
    }

    /// An operator ended it.
    pub(crate) fn cancel(&mut self, now: &Now) -> Result<(), WrongState> {
        if self.is_ended() || matches!(self.phase, Phase::Moved { .. }) {
            return self.wrong();
        }
        self.end(RunEnd::Cancelled, now);
        Ok(())
    }

    fn end(&mut self, end: RunEnd, now: &Now) {
        self.phase = Phase::Ended { end, at: now.wall };
    }

    fn queue_again(&mut self, failures: u32, fence: Option<RunnerId>, now: &Now) -> NextForRun {
        let not_before = now.later(back_off(failures, self.id.entropy()));
        self.phase = Phase::Queued { not_before, fence };
        NextForRun::Retried { not_before }
    }
}

/// How long to wait after this many failures, more or less 20 percent so that runs which failed
/// together do not come back together.
fn back_off(failures: u32, seed: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(6);
    let plain = (BACK_OFF * 2_u32.pow(doublings)).min(MAX_BACK_OFF);
    // The finaliser of splitmix64: each failure of each run gets another place in the span.
    let mut mixed = seed.wrapping_add(u64::from(failures).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let permille = 800 + (mixed ^ (mixed >> 31)) % 401;
    plain * u32::try_from(permille).unwrap_or(1000) / 1000
}

#[cfg(test)]
mod tests;
