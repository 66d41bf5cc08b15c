//! The messages, each with its body.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::WorkloadName;
use crate::runner::{Attempt, Epoch, RunId, RunnerError, RunnerId, SuspensionId, WaitpointId};

/// What a runner asks for. Each is answered by `ok` with the reply of the same name, or by `error`.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerRequest {
    /// It has nothing to do and takes a run. If it is bound to one, it lets go of it.
    Ready(Empty),
    /// It begins the attempt that it was assigned.
    Start(RunReference),
    /// It wants something that somebody outside completes.
    Waitpoint(RunReference),
    /// It has nothing to do but wait.
    Suspend(SuspendRequest),
    /// It does not wait any longer.
    Continue(ContinueRequest),
    /// The attempt has ended.
    Complete(CompleteRequest),
    /// It gives up the run without a result.
    Stop(StopRequest),
}

/// What a runner tells without waiting for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerNote {
    /// It executes.
    Progress(Progress),
}

/// How a request was granted. Its body depends on what was asked, so reading one takes the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To `ready`: a run follows in a `state` when there is one.
    Ready(Empty),
    /// To `start`.
    Start(Started),
    /// To `waitpoint`.
    Waitpoint(WaitpointCreated),
    /// To `suspend`.
    Suspend(Suspended),
    /// To `continue`.
    Continue(Continued),
    /// To `complete`.
    Complete(Completed),
    /// To `stop`.
    Stop(Empty),
}

/// What belayd tells a runner.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The first message on a socket.
    Welcome(Welcome),
    /// How a run stands that is bound to this session: after each binding, and after each change
    /// that the runner did not ask for.
    State(RunStanding),
    /// A run is not bound to this session any more.
    Released(Released),
    /// A frame without an id was refused.
    Refused(RunnerError),
}

/// A body without fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// A run and the epoch in which the runner holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunReference {
    /// The run.
    pub run: RunId,
    /// The epoch of the last `state`.
    pub epoch: Epoch,
}

/// Body of `stop`.
pub type StopRequest = RunReference;

/// Body of `suspend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendRequest {
    /// The run.
    pub run: RunId,
    /// The epoch of the last `state`.
    pub epoch: Epoch,
    /// What it waits for.
    pub wait: WaitRequest,
    /// Milliseconds until the runner is snapshotted, instead of the workload's; held within the
    /// node's bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_delay_ms: Option<u64>,
}

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WaitRequest {
    /// A moment.
    Timer {
        /// When it is over.
        until: Timestamp,
    },
    /// Somebody.
    Token {
        /// The waitpoint to be completed.
        waitpoint: WaitpointId,
    },
}

/// Body of `continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContinueRequest {
    /// The run.
    pub run: RunId,
    /// The epoch of the last `state`.
    pub epoch: Epoch,
    /// The suspension that it leaves.
    pub suspension: SuspensionId,
}

/// Body of `complete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteRequest {
    /// The run.
    pub run: RunId,
    /// The epoch of the last `state`.
    pub epoch: Epoch,
    /// The attempt that has ended.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: AttemptOutcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AttemptOutcome {
    /// The run has its result.
    Succeeded {
        /// The result.
        output: Value,
    },
    /// It has none.
    Failed {
        /// Why, for people.
        error: String,
        /// Whether another attempt may do better.
        again: Again,
    },
}

/// Whether another attempt may do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Again {
    /// It may succeed another time.
    Retry,
    /// It never will.
    GiveUp,
}

/// Body of `progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The run.
    pub run: RunId,
    /// The epoch of the last `state`.
    pub epoch: Epoch,
}

/// Answer to `start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The attempt that has begun.
    pub attempt: Attempt,
    /// What the run was submitted with.
    pub payload: Value,
    /// Milliseconds that the attempt may execute, its waits apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Answer to `waitpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitpointCreated {
    /// The waitpoint, to be handed to whoever completes it.
    pub waitpoint: WaitpointId,
}

/// Answer to `suspend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspended {
    /// The suspension, to be named by `continue`.
    pub suspension: SuspensionId,
    /// Whether the runner will be snapshotted.
    pub snapshot: SnapshotAnswer,
}

/// Whether a suspended runner will be snapshotted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SnapshotAnswer {
    /// Unless the wait ends before.
    Armed {
        /// Milliseconds until then.
        delay_ms: u64,
    },
    /// It stays in memory.
    Omitted {
        /// Why.
        reason: SnapshotOmission,
    },
}

/// Why a suspended runner is not snapshotted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotOmission {
    /// The wait is over already.
    WaitOver,
    /// The wait ends before a snapshot would have paid off.
    ShortWait,
    /// belayd did not start this runner.
    ForeignRunner,
    /// The node's engine can neither checkpoint nor pause.
    Unsupported,
}

/// Answer to `continue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continued {
    /// The result of the wait, if it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<WaitResult>,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "wait", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WaitResult {
    /// The moment has come.
    Elapsed {},
    /// Somebody completed the waitpoint.
    Completed {
        /// With this.
        output: Value,
    },
}

/// Answer to `complete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed {
    /// What becomes of the run.
    pub next: NextForRun,
}

/// What becomes of a run after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "run", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NextForRun {
    /// It has its result.
    Finished {},
    /// It has failed for good.
    Failed {},
    /// It is tried again, by whichever runner takes it.
    Retried {
        /// Not before this.
        not_before: Timestamp,
    },
}

/// Body of `welcome`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Who the token says the runner is.
    pub runner: RunnerId,
    /// Whose runs it takes.
    pub workload: WorkloadName,
    /// The run that is bound to it; the next message is its `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// Body of `state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunStanding {
    /// The run.
    pub run: RunId,
    /// The epoch that every message about it must name from now on.
    pub epoch: Epoch,
    /// How it stands.
    pub standing: Standing,
}

/// How a bound run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Standing {
    /// The runner is to send `start`.
    Assigned {
        /// The attempt that would begin.
        attempt: Attempt,
    },
    /// The runner is at work.
    Executing {
        /// At this attempt.
        attempt: Attempt,
        /// The last wait that ended without the runner's doing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumed: Option<Resumed>,
    },
    /// The runner waits.
    Waiting {
        /// In this attempt.
        attempt: Attempt,
        /// In this suspension.
        suspension: SuspensionId,
        /// For this.
        wait: WaitRequest,
    },
}

/// A wait that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    /// The suspension that is over.
    pub suspension: SuspensionId,
    /// How it ended.
    pub result: WaitResult,
}

/// Body of `released`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// The run.
    pub run: RunId,
    /// The epoch that has ended.
    pub epoch: Epoch,
    /// Why.
    pub reason: ReleaseReason,
}

/// Why a run was taken from its runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseReason {
    /// The run was cancelled.
    Cancelled,
    /// The attempt took longer than it may.
    TimedOut,
    /// The runner did not send `start` in time.
    NotStarted,
}
