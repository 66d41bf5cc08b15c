//! What is told of runs and their snapshots as events.

use std::time::Duration;

use belay_protocol::event::{SnapshotMeans, SnapshotUnwanted};
use belay_protocol::runner::{Attempt, RunId, RunnerId, SnapshotOmission, TravelId, WaitRequest};
use belay_protocol::{EventDetails, NodeId, WorkloadName};
use jiff::Timestamp;

use crate::core::run::{Departure, Means};

/// Something about a run that is worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tale {
    /// The run.
    pub run: RunId,
    /// Its workload.
    pub workload: WorkloadName,
    /// What happened.
    pub what: Happening,
}

/// What happened to a run or to its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It was accepted.
    Submitted,
    /// An attempt has begun.
    Started {
        /// Which.
        attempt: Attempt,
        /// Who is at it.
        runner: RunnerId,
    },
    /// It waits.
    Suspended {
        /// For this.
        wait: WaitRequest,
    },
    /// It executes again.
    Resumed,
    /// An assignment ended before the start.
    NotStarted {
        /// Why.
        cause: String,
        /// When it may be assigned again, if it may.
        next_try_at: Option<Timestamp>,
    },
    /// An attempt ended without a result.
    AttemptFailed {
        /// Which.
        attempt: Attempt,
        /// Why.
        cause: String,
        /// When the next may begin, if there is one.
        next_try_at: Option<Timestamp>,
    },
    /// It has its result.
    Finished {
        /// The attempt that brought it.
        attempt: Attempt,
    },
    /// It has failed for good.
    Failed {
        /// Attempts that have begun.
        attempts: Attempt,
        /// Why the last one failed.
        cause: String,
    },
    /// It was given up to another node.
    Exported(Departure),
    /// It came from another node.
    Imported {
        /// This one.
        from: NodeId,
        /// This way.
        travel: TravelId,
    },
    /// It is this node's again.
    Reclaimed(Departure),
    /// An operator ended it.
    Cancelled,
    /// A snapshot is armed.
    Scheduled {
        /// For then.
        delay_ms: u64,
    },
    /// None is.
    Refused(SnapshotOmission),
    /// It is not wanted any more.
    Unwanted(SnapshotUnwanted),
    /// The engine has it.
    Dispatched {
        /// Of this runner.
        runner: RunnerId,
        /// So long after it fell due.
        lag: Duration,
    },
    /// The engine has it too late.
    Late {
        /// So long after it fell due.
        lag: Duration,
    },
    /// It counts.
    Taken {
        /// Of this runner.
        runner: RunnerId,
        /// What it is.
        means: Means,
    },
    /// The engine did not take it.
    NotTaken {
        /// Why.
        cause: String,
        /// How often in this suspension.
        failures: u32,
    },
}

impl Tale {
    /// As an event: one line, and what belongs to it.
    pub(crate) fn told(self) -> (String, EventDetails) {
        use EventDetails as D;
        let run = self.run;
        match self.what {
            Happening::Submitted => (format!("{run} is submitted"), D::RunSubmitted { run }),
            Happening::Started { attempt, runner } => (
                format!("{runner} is at {run}, attempt {attempt}"),
                D::RunStarted { run, attempt, runner },
            ),
            Happening::Suspended { wait } => {
                let what = match wait {
                    WaitRequest::Timer { until } => format!("{run} waits until {until}"),
                    WaitRequest::Token { waitpoint } => format!("{run} waits for {waitpoint}"),
                };
                (what, D::RunSuspended { run, wait })
            }
            Happening::Resumed => (format!("{run} executes again"), D::RunResumed { run }),
            Happening::NotStarted { cause, next_try_at } => (
                format!("{run} was not started: {cause}"),
                D::RunNotStarted { run, cause: cause.into(), next_try_at },
            ),
            Happening::AttemptFailed { attempt, cause, next_try_at } => (
                format!("attempt {attempt} of {run} failed: {cause}"),
                D::RunAttemptFailed { run, attempt, cause: cause.into(), next_try_at },
            ),
            Happening::Finished { attempt } => {
                (format!("{run} is finished"), D::RunFinished { run, attempt })
            }
            Happening::Failed { attempts, cause } => (
                format!("{run} has failed: {cause}"),
                D::RunFailed { run, attempts, cause: cause.into() },
            ),
            Happening::Exported(Departure { travel, to }) => {
                (format!("{run} has moved to {to}"), D::RunExported { run, to, travel })
            }
            Happening::Imported { from, travel } => (
                format!("{run} has come from {from} and is suspended"),
                D::RunImported { run, from, travel },
            ),
            Happening::Reclaimed(Departure { travel, to }) => (
                format!("{run} was taken back; it had moved to {to}"),
                D::RunReclaimed { run, to, travel },
            ),
            Happening::Cancelled => (format!("{run} is cancelled"), D::RunCancelled { run }),
            Happening::Scheduled { delay_ms } => (
                format!("the runner of {run} is snapshotted if it waits for {delay_ms} ms"),
                D::SnapshotScheduled { run, delay_ms },
            ),
            Happening::Refused(cause) => (
                format!("the runner of {run} is not snapshotted: {}", why_not(cause)),
                D::SnapshotRefused { run, cause },
            ),
            Happening::Unwanted(cause) => (
                format!("no snapshot of the runner of {run}: {}", cause.as_str()),
                D::SnapshotCancelled { run, cause },
            ),
            Happening::Dispatched { runner, lag } => (
                format!("{runner}, which waits in {run}, is being snapshotted"),
                D::SnapshotDispatched { run, runner, lag_ms: millis(lag) },
            ),
            Happening::Late { lag } => (
                format!("the snapshot for {run} was {} ms late", millis(lag)),
                D::SnapshotLate { run, lag_ms: millis(lag) },
            ),
            Happening::Taken { runner, means } => {
                let (words, means) = match means {
                    Means::Checkpoint => ("checkpointed", SnapshotMeans::Checkpoint),
                    Means::Pause => ("paused", SnapshotMeans::Pause),
                };
                let message = format!("{run} is suspended, {runner} is {words}");
                (message, D::SnapshotTaken { run, runner, means })
            }
            Happening::NotTaken { cause, failures } => (
                format!("the runner of {run} was not snapshotted: {cause}"),
                D::SnapshotFailed { run, cause: cause.into(), failures },
            ),
        }
    }
}

fn why_not(omission: SnapshotOmission) -> &'static str {
    match omission {
        SnapshotOmission::WaitOver => "its wait is over already",
        SnapshotOmission::ShortWait => "its wait is too short for that",
        SnapshotOmission::ForeignRunner => "belayd did not start it",
        SnapshotOmission::Unsupported => "this node's engine cannot",
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
