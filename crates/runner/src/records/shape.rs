//! The records as they lie on the disk. What is added later has a default; nothing is renamed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::runner::{
    Attempt, Completed, Epoch, Resumed, RunId, RunnerId, SuspensionId, TravelId, WaitRequest,
    WaitResult, WaitpointId,
};
use belay_protocol::{NodeId, WorkloadName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Origin, Owner, PendingRecord, RunRecord};
use crate::core::run::{
    Departure, Exit, Failure, Means, MemoryFate, Phase, Run, RunEnd, Settled, Stint, Stored,
    Submission, SuspendedWait,
};
use crate::core::snapshots::Ticket;
use crate::core::tokens::Grant;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubmissionShape {
    workload: WorkloadName,
    payload: Value,
    idempotency_key: Option<String>,
    priority: i32,
    delay: Duration,
    timeout: Option<Duration>,
    max_attempts: u32,
}

impl SubmissionShape {
    pub(super) fn of(submission: &Submission) -> Self {
        Self {
            workload: submission.workload.clone(),
            payload: submission.payload.clone(),
            idempotency_key: submission.idempotency_key.clone(),
            priority: submission.priority,
            delay: submission.delay,
            timeout: submission.timeout,
            max_attempts: submission.max_attempts,
        }
    }
}

impl From<SubmissionShape> for Submission {
    fn from(shape: SubmissionShape) -> Self {
        Self {
            workload: shape.workload,
            payload: shape.payload,
            idempotency_key: shape.idempotency_key,
            priority: shape.priority,
            delay: shape.delay,
            timeout: shape.timeout,
            max_attempts: shape.max_attempts,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunShape {
    epoch: Epoch,
    attempt: Attempt,
    suspension: SuspensionId,
    failed_starts: u32,
    waitpoints: BTreeMap<WaitpointId, WaitpointShape>,
    pub(super) phase: PhaseShape,
    settled: Option<SettledShape>,
    failure: Option<FailureShape>,
    snapshot_failure: Option<String>,
    owner: Option<OwnerShape>,
    pending: Option<PendingShape>,
    flight: Option<FlightShape>,
    #[serde(default)]
    stints: Vec<StintShape>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StintShape {
    epoch: Epoch,
    attempt: Attempt,
    runner: RunnerId,
    origin: OriginShape,
    from: Timestamp,
    until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WaitpointShape {
    Open,
    /// What it was completed with is a record of its own.
    Completed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum PhaseShape {
    Queued {
        not_before: Timestamp,
        fence: Option<RunnerId>,
    },
    Assigned {},
    Executing {
        until: Option<Timestamp>,
        resumed: Option<Resumed>,
    },
    Waiting {
        suspension: SuspensionId,
        wait: WaitRequest,
        left: Option<Duration>,
    },
    Suspended {
        suspension: SuspensionId,
        wait: SuspendedWaitShape,
        left: Option<Duration>,
        means: MeansShape,
    },
    Leaving {
        travel: TravelId,
        to: NodeId,
        suspension: SuspensionId,
        wait: SuspendedWaitShape,
        left: Option<Duration>,
    },
    Moved {
        travel: TravelId,
        to: NodeId,
        suspension: SuspensionId,
        wait: SuspendedWaitShape,
        left: Option<Duration>,
        until: Timestamp,
    },
    Restoring {
        resumed: Resumed,
        left: Option<Duration>,
    },
    /// The result is a record of its own.
    Finished {
        at: Timestamp,
    },
    Failed {
        at: Timestamp,
    },
    Cancelled {
        at: Timestamp,
    },
    /// It moved, and nothing of it is left.
    Gone {
        travel: TravelId,
        to: NodeId,
        at: Timestamp,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SuspendedWaitShape {
    Pending(WaitRequest),
    Over(WaitResult),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MeansShape {
    Checkpoint,
    Pause,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettledShape {
    runner: RunnerId,
    attempt: Attempt,
    answer: Completed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case", deny_unknown_fields)]
enum FailureShape {
    Reported { error: String },
    Died { exit: ExitShape },
    Lost {},
    TimedOut {},
    LetGo {},
    NoRunner { reason: String },
    NotStarted {},
    Discarded {},
    NotRestored { reason: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExitShape {
    code: Option<i64>,
    memory: MemoryShape,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MemoryShape {
    Enough,
    Killed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerShape {
    runner: RunnerId,
    origin: OriginShape,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OriginShape {
    Hosted,
    Foreign,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingShape {
    epoch: Epoch,
    suspension: SuspensionId,
    at: Timestamp,
    failures: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlightShape {
    run: RunId,
    runner: RunnerId,
    epoch: Epoch,
    suspension: SuspensionId,
    stage: StageShape,
    failures: u32,
    exit: Option<ExitShape>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StageShape {
    Taking,
    Aborting,
    PuttingBack,
    Dropping,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenShape {
    runner: RunnerId,
    workload: WorkloadName,
    origin: OriginShape,
    expires_at: Option<Timestamp>,
}

impl RunShape {
    pub(super) fn of(record: &RunRecord) -> Self {
        let RunRecord { run, owner, pending, flight } = record;
        let completion = |output: &Option<Value>| match output {
            Some(_) => WaitpointShape::Completed,
            None => WaitpointShape::Open,
        };
        Self {
            epoch: run.epoch,
            attempt: run.attempt,
            suspension: run.suspension,
            failed_starts: run.failed_starts,
            waitpoints: run.waitpoints.iter().map(|(&id, it)| (id, completion(it))).collect(),
            phase: PhaseShape::of(&run.phase),
            settled: run.settled.as_ref().map(|settled| SettledShape {
                runner: settled.runner.clone(),
                attempt: settled.attempt,
                answer: settled.answer.clone(),
            }),
            failure: run.failure.as_ref().map(FailureShape::of),
            snapshot_failure: run.snapshot_failure.clone(),
            owner: owner.as_ref().map(|owner| OwnerShape {
                runner: owner.runner.clone(),
                origin: owner.origin.into(),
            }),
            pending: pending.as_ref().map(|pending| PendingShape {
                epoch: pending.epoch,
                suspension: pending.suspension,
                at: pending.at,
                failures: pending.failures,
            }),
            flight: flight.as_ref().map(FlightShape::of),
            stints: run.stints.iter().cloned().map(StintShape::from).collect(),
        }
    }

    /// The record of the run, with what lies beside it. `completed` gives what a waitpoint was
    /// completed with.
    pub(super) fn into_record(
        self,
        id: RunId,
        submission: Arc<Submission>,
        output: Option<Value>,
        mut completed: impl FnMut(WaitpointId) -> Option<Value>,
    ) -> Result<RunRecord, String> {
        let mut waitpoints = BTreeMap::new();
        for (waitpoint, shape) in self.waitpoints {
            let output = match shape {
                WaitpointShape::Open => None,
                WaitpointShape::Completed => Some(
                    completed(waitpoint)
                        .ok_or_else(|| format!("what completed {waitpoint} is missing"))?,
                ),
            };
            waitpoints.insert(waitpoint, output);
        }
        let run = Run {
            id,
            submission,
            epoch: self.epoch,
            attempt: self.attempt,
            suspension: self.suspension,
            failed_starts: self.failed_starts,
            waitpoints,
            phase: self.phase.into_phase(output),
            settled: self.settled.map(|settled| Settled {
                runner: settled.runner,
                attempt: settled.attempt,
                answer: settled.answer,
            }),
            failure: self.failure.map(Failure::from),
            snapshot_failure: self.snapshot_failure,
            stints: self.stints.into_iter().map(Stint::from).collect(),
        };
        let owner =
            self.owner.map(|owner| Owner { runner: owner.runner, origin: owner.origin.into() });
        let pending = self.pending.map(|pending| PendingRecord {
            epoch: pending.epoch,
            suspension: pending.suspension,
            at: pending.at,
            failures: pending.failures,
        });
        Ok(RunRecord { run, owner, pending, flight: self.flight.map(Flight::from) })
    }
}

impl PhaseShape {
    fn of(phase: &Phase) -> Self {
        match phase.clone() {
            Phase::Queued { not_before, fence } => Self::Queued { not_before, fence },
            Phase::Assigned => Self::Assigned {},
            Phase::Executing { until, resumed } => Self::Executing { until, resumed },
            Phase::Waiting { suspension, wait, left } => Self::Waiting { suspension, wait, left },
            Phase::Leaving { departure: Departure { travel, to }, stored } => {
                let Stored { suspension, wait, left } = stored;
                Self::Leaving { travel, to, suspension, wait: wait.into(), left }
            }
            Phase::Moved { departure: Departure { travel, to }, stored, until } => {
                let Stored { suspension, wait, left } = stored;
                Self::Moved { travel, to, suspension, wait: wait.into(), left, until }
            }
            Phase::Suspended { suspension, wait, left, means } => {
                let wait = wait.into();
                let means = match means {
                    Means::Checkpoint => MeansShape::Checkpoint,
                    Means::Pause => MeansShape::Pause,
                };
                Self::Suspended { suspension, wait, left, means }
            }
            Phase::Restoring { resumed, left } => Self::Restoring { resumed, left },
            Phase::Ended { end, at } => match end {
                RunEnd::Finished { .. } => Self::Finished { at },
                RunEnd::Failed => Self::Failed { at },
                RunEnd::Cancelled => Self::Cancelled { at },
                RunEnd::Moved { departure: Departure { travel, to } } => {
                    Self::Gone { travel, to, at }
                }
            },
        }
    }

    fn into_phase(self, output: Option<Value>) -> Phase {
        let ended = |end, at| Phase::Ended { end, at };
        match self {
            Self::Queued { not_before, fence } => Phase::Queued { not_before, fence },
            Self::Assigned {} => Phase::Assigned,
            Self::Executing { until, resumed } => Phase::Executing { until, resumed },
            Self::Waiting { suspension, wait, left } => Phase::Waiting { suspension, wait, left },
            Self::Leaving { travel, to, suspension, wait, left } => {
                let stored = Stored { suspension, wait: wait.into(), left };
                Phase::Leaving { departure: Departure { travel, to }, stored }
            }
            Self::Moved { travel, to, suspension, wait, left, until } => {
                let stored = Stored { suspension, wait: wait.into(), left };
                Phase::Moved { departure: Departure { travel, to }, stored, until }
            }
            Self::Suspended { suspension, wait, left, means } => {
                let wait = wait.into();
                let means = match means {
                    MeansShape::Checkpoint => Means::Checkpoint,
                    MeansShape::Pause => Means::Pause,
                };
                Phase::Suspended { suspension, wait, left, means }
            }
            Self::Restoring { resumed, left } => Phase::Restoring { resumed, left },
            Self::Finished { at } => {
                ended(RunEnd::Finished { output: output.unwrap_or_default() }, at)
            }
            Self::Failed { at } => ended(RunEnd::Failed, at),
            Self::Cancelled { at } => ended(RunEnd::Cancelled, at),
            Self::Gone { travel, to, at } => {
                ended(RunEnd::Moved { departure: Departure { travel, to } }, at)
            }
        }
    }
}

impl From<SuspendedWait> for SuspendedWaitShape {
    fn from(wait: SuspendedWait) -> Self {
        match wait {
            SuspendedWait::Pending(wait) => Self::Pending(wait),
            SuspendedWait::Over(result) => Self::Over(result),
        }
    }
}

impl From<SuspendedWaitShape> for SuspendedWait {
    fn from(shape: SuspendedWaitShape) -> Self {
        match shape {
            SuspendedWaitShape::Pending(wait) => Self::Pending(wait),
            SuspendedWaitShape::Over(result) => Self::Over(result),
        }
    }
}

impl FailureShape {
    fn of(failure: &Failure) -> Self {
        match failure.clone() {
            Failure::Reported { error } => Self::Reported { error },
            Failure::Died(exit) => Self::Died { exit: exit.into() },
            Failure::Lost => Self::Lost {},
            Failure::TimedOut => Self::TimedOut {},
            Failure::LetGo => Self::LetGo {},
            Failure::NoRunner { reason } => Self::NoRunner { reason },
            Failure::NotStarted => Self::NotStarted {},
            Failure::Discarded => Self::Discarded {},
            Failure::NotRestored { reason } => Self::NotRestored { reason },
        }
    }
}

impl From<FailureShape> for Failure {
    fn from(shape: FailureShape) -> Self {
        match shape {
            FailureShape::Reported { error } => Self::Reported { error },
            FailureShape::Died { exit } => Self::Died(exit.into()),
            FailureShape::Lost {} => Self::Lost,
            FailureShape::TimedOut {} => Self::TimedOut,
            FailureShape::LetGo {} => Self::LetGo,
            FailureShape::NoRunner { reason } => Self::NoRunner { reason },
            FailureShape::NotStarted {} => Self::NotStarted,
            FailureShape::Discarded {} => Self::Discarded,
            FailureShape::NotRestored { reason } => Self::NotRestored { reason },
        }
    }
}

impl From<Exit> for ExitShape {
    fn from(exit: Exit) -> Self {
        let memory = match exit.memory {
            MemoryFate::Enough => MemoryShape::Enough,
            MemoryFate::Killed => MemoryShape::Killed,
        };
        Self { code: exit.code, memory }
    }
}

impl From<ExitShape> for Exit {
    fn from(shape: ExitShape) -> Self {
        let memory = match shape.memory {
            MemoryShape::Enough => MemoryFate::Enough,
            MemoryShape::Killed => MemoryFate::Killed,
        };
        Self { code: shape.code, memory }
    }
}

impl From<Origin> for OriginShape {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Hosted => Self::Hosted,
            Origin::Foreign => Self::Foreign,
        }
    }
}

impl From<OriginShape> for Origin {
    fn from(shape: OriginShape) -> Self {
        match shape {
            OriginShape::Hosted => Self::Hosted,
            OriginShape::Foreign => Self::Foreign,
        }
    }
}

impl FlightShape {
    fn of(flight: &Flight) -> Self {
        let Ticket { run, runner, epoch, suspension } = flight.ticket.clone();
        let stage = match flight.stage {
            Stage::Taking => StageShape::Taking,
            Stage::Aborting => StageShape::Aborting,
            Stage::PuttingBack => StageShape::PuttingBack,
            Stage::Dropping => StageShape::Dropping,
        };
        let exit = flight.exit.map(ExitShape::from);
        Self { run, runner, epoch, suspension, stage, failures: flight.failures, exit }
    }
}

impl From<FlightShape> for Flight {
    fn from(shape: FlightShape) -> Self {
        let FlightShape { run, runner, epoch, suspension, stage, failures, exit } = shape;
        let stage = match stage {
            StageShape::Taking => Stage::Taking,
            StageShape::Aborting => Stage::Aborting,
            StageShape::PuttingBack => Stage::PuttingBack,
            StageShape::Dropping => Stage::Dropping,
        };
        let ticket = Ticket { run, runner, epoch, suspension };
        Self { ticket, stage, failures, exit: exit.map(Exit::from) }
    }
}

impl From<Stint> for StintShape {
    fn from(stint: Stint) -> Self {
        let Stint { epoch, attempt, runner, origin, from, until } = stint;
        Self { epoch, attempt, runner, origin: origin.into(), from, until }
    }
}

impl From<StintShape> for Stint {
    fn from(shape: StintShape) -> Self {
        let StintShape { epoch, attempt, runner, origin, from, until } = shape;
        Self { epoch, attempt, runner, origin: origin.into(), from, until }
    }
}

impl From<Grant> for TokenShape {
    fn from(grant: Grant) -> Self {
        Self {
            runner: grant.runner,
            workload: grant.workload,
            origin: grant.origin.into(),
            expires_at: grant.expires_at,
        }
    }
}

impl From<TokenShape> for Grant {
    fn from(shape: TokenShape) -> Self {
        Self {
            runner: shape.runner,
            workload: shape.workload,
            origin: shape.origin.into(),
            expires_at: shape.expires_at,
        }
    }
}
