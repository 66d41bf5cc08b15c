//! What the hub is told, and what it wants done.

use belay_protocol::runner::{
    CloseReason, Epoch, Notice, Reply, RequestId, RunId, RunnerError, RunnerId, RunnerNote,
    RunnerRequest, SuspensionId, TravelId, WaitpointId,
};
use belay_protocol::{NodeId, WorkloadName};
use jiff::Timestamp;
use serde_json::Value;

use crate::core::bindings::SessionId;
use crate::core::dispatch::Flight;
use crate::core::lane::WorkloadPolicy;
use crate::core::run::{Departure, Exit, Means, Run, Submission};
use crate::core::snapshots::Ticket;
use crate::core::tale::Tale;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A runner's socket is open, and its token was found good.
    Connected {
        /// The socket.
        session: SessionId,
        /// Who the token says it is.
        runner: RunnerId,
        /// Whose runs it takes.
        workload: WorkloadName,
    },
    /// A socket is closed, by whichever side.
    Disconnected {
        /// The socket.
        session: SessionId,
    },
    /// A runner wants something.
    Request {
        /// Through this socket.
        session: SessionId,
        /// To be named by the answer.
        id: RequestId,
        /// What it wants.
        request: RunnerRequest,
    },
    /// A runner tells something.
    Note {
        /// Through this socket.
        session: SessionId,
        /// What it tells.
        note: RunnerNote,
    },
    /// Somebody else wants something.
    Ask {
        /// To be named by the answer.
        id: AskId,
        /// What they want.
        ask: Ask,
    },
    /// The engine's side has something to say.
    Host(HostEvent),
    /// A workload is declared, or its policy has changed.
    Declared {
        /// Which.
        workload: WorkloadName,
        /// What it is granted.
        policy: WorkloadPolicy,
    },
    /// A workload takes no runs any more; those that a runner is at go on.
    Withdrawn {
        /// Which.
        workload: WorkloadName,
    },
    /// Time has passed.
    Tick,
    /// belayd is ending: nothing new is assigned or dispatched.
    Drain,
}

/// A question from outside the sockets, numbered by whoever relays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What operators and apps ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A run.
    Submit(Submission),
    /// The end of a run.
    Cancel {
        /// Which.
        run: RunId,
    },
    /// The end of a checkpoint, and of the attempt that waits in it.
    Discard {
        /// Of this runner.
        runner: RunnerId,
    },
    /// That what is on the disk of a runner leaves for another node. It is not restored until that
    /// is called off; what was given up to the same node before may leave again.
    Leave {
        /// This runner.
        runner: RunnerId,
        /// For this node.
        to: NodeId,
    },
    /// That a runner does not leave after all; one that does not leave this way is left alone.
    Stay {
        /// Which.
        runner: RunnerId,
        /// This way.
        travel: TravelId,
    },
    /// That the run of a runner that leaves is the other node's from now on.
    GiveUp {
        /// Of this runner.
        runner: RunnerId,
        /// This way.
        travel: TravelId,
    },
    /// The return of a run that was given up. Who asks vouches that nobody took it.
    Reclaim {
        /// Of this runner.
        runner: RunnerId,
    },
    /// Whether a run that another node gave up may come.
    MayCome(Traveller),
    /// That it comes.
    Admit(Box<Arrival>),
    /// The end of a wait.
    CompleteWaitpoint {
        /// Which.
        waitpoint: WaitpointId,
        /// What the run is told.
        output: Value,
    },
}

/// A run on its way from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traveller {
    /// The way.
    pub travel: TravelId,
    /// From this node.
    pub from: NodeId,
    /// The run.
    pub run: RunId,
    /// Its runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// Until when it is taken.
    pub until: Timestamp,
}

/// A run that another node gave up, with all that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Who comes.
    pub traveller: Traveller,
    /// The run as it was when it was given up.
    pub record: RunRecord,
}

/// What the engine's side tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A runner that was ordered could not be started; nothing of it is left.
    StartFailed {
        /// Which.
        runner: RunnerId,
        /// What the engine said.
        reason: String,
    },
    /// A runner's container has ended.
    Exited {
        /// Which.
        runner: RunnerId,
        /// How.
        exit: Exit,
    },
    /// What became of a snapshot that was ordered or asked after.
    Snapshot {
        /// Which.
        ticket: Ticket,
        /// What.
        outcome: SnapshotOutcome,
    },
    /// A container was put back or dropped.
    Settled {
        /// By this order.
        ticket: Ticket,
    },
    /// A container could not be restored.
    RestoreFailed {
        /// From this.
        ticket: Ticket,
        /// What the engine said.
        reason: String,
    },
}

/// What became of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// It is stored, and the process does not run.
    Taken(Means),
    /// There is none, and the container is as it was.
    NotTaken {
        /// What the engine said, or that it was aborted.
        reason: String,
    },
}

/// Something to be done. The order of effects is the order in which they must be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the record. Nothing behind it may be done before it is on the disk.
    Save(Box<RunRecord>),
    /// Remove the record.
    Forget(RunId),
    /// Write down that a run has come this way, until then.
    Remember(TravelId, Timestamp),
    /// Forget that.
    ForgetTravel(TravelId),
    /// Answer a runner.
    Reply {
        /// Through this socket.
        session: SessionId,
        /// This request.
        id: RequestId,
        /// So.
        result: Result<Reply, RunnerError>,
    },
    /// Tell a runner.
    Tell {
        /// Through this socket.
        session: SessionId,
        /// This.
        notice: Notice,
    },
    /// Close a socket. The hub has forgotten it already.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// Answer a question.
    Answer {
        /// Which.
        id: AskId,
        /// So.
        result: Result<Answer, Refusal>,
    },
    /// Order something of the engine's side.
    Host(HostOrder),
    /// Tell that something happened, with the next records that are written.
    Happened(Tale),
}

/// What is ordered of the engine's side. Every order can be repeated, and those for one runner are
/// obeyed in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostOrder {
    /// Start a runner. It ends with its connection, or with [`HostEvent::StartFailed`].
    StartRunner {
        /// Under this name.
        runner: RunnerId,
        /// Of this workload.
        workload: WorkloadName,
    },
    /// Stop a runner. It ends with [`HostEvent::Exited`], also if there was none.
    StopRunner {
        /// Which.
        runner: RunnerId,
    },
    /// Snapshot a runner. It ends with [`HostEvent::Snapshot`].
    TakeSnapshot(Ticket),
    /// Do not, if that can still be. The order to take it ends as before.
    AbortSnapshot(Ticket),
    /// Say by [`HostEvent::Snapshot`] what became of an order that an earlier belayd gave; take
    /// none.
    FindSnapshot(Ticket),
    /// Make the container run as it did before. It ends with [`HostEvent::Settled`].
    PutBack(Ticket),
    /// Remove the snapshot and the container. It ends with [`HostEvent::Settled`].
    Drop(Ticket),
    /// Bring a runner back. It ends with its connection, or with [`HostEvent::RestoreFailed`].
    Restore(Ticket),
}

/// How a question was granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The run is accepted.
    Submitted {
        /// Its id.
        run: RunId,
        /// Whether this was the first time.
        whether: WhetherNew,
    },
    /// The run is cancelled.
    Cancelled,
    /// The checkpoint is given up.
    Discarded {
        /// The run that waited in it.
        run: RunId,
    },
    /// The runner leaves, or left before.
    Leaves {
        /// Its run.
        run: RunId,
        /// Its way.
        departure: Departure,
    },
    /// It does not leave.
    Stays,
    /// The run is the other node's.
    GivenUp(Box<RunRecord>),
    /// The run is this node's again.
    Reclaimed {
        /// Which.
        run: RunId,
    },
    /// It may come.
    MayCome,
    /// It has come.
    Admitted,
    /// The waitpoint is completed.
    WaitpointCompleted,
}

/// Whether a submission made a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhetherNew {
    /// It did.
    New,
    /// The run was there already, under the same idempotency key.
    Known,
}

/// Why a question was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such workload takes runs.
    #[error("no workload {0} takes runs")]
    UnknownWorkload(WorkloadName),
    /// Another submission has the key.
    #[error("{run} was submitted under the same idempotency key with other content")]
    KeyTaken {
        /// What it became.
        run: RunId,
    },
    /// A run is worth one attempt at least.
    #[error("max_attempts must be at least 1")]
    NoAttempts,
    /// The payload, or the result of a waitpoint, is too large.
    #[error("{size} bytes of JSON are more than {limit}")]
    TooLarge {
        /// In bytes of compact JSON.
        size: usize,
        /// The most.
        limit: usize,
    },
    /// The node keeps as many runs as it may.
    #[error("the node keeps {limit} runs, which is as many as it may")]
    Full {
        /// How many.
        limit: usize,
    },
    /// A token was asked for a name that is not the asker's to give.
    #[error(
        "{0} is a name as belayd gives them to its own runners: choose one that does not begin \
         with \"run-\""
    )]
    ReservedName(RunnerId),
    /// belayd is ending.
    #[error("belayd is ending")]
    Draining,
    /// There is no such run.
    #[error("there is no {0}")]
    UnknownRun(RunId),
    /// The run is over.
    #[error("{run} is {state}")]
    Ended {
        /// Which.
        run: RunId,
        /// How.
        state: &'static str,
    },
    /// There is no such waitpoint.
    #[error("there is no {0}")]
    UnknownWaitpoint(WaitpointId),
    /// The runner is not on the disk.
    #[error("{0} is not on the disk")]
    NoCheckpoint(RunnerId),
    /// The runner is being copied for another node.
    #[error("{0} is being exported")]
    Leaving(RunnerId),
    /// The runner does not leave this way, or does not any more.
    #[error("{0} is not being exported any more")]
    NotLeaving(RunnerId),
    /// The run was given up.
    #[error("{run} has moved to {to}")]
    Moved {
        /// Which.
        run: RunId,
        /// To this node.
        to: NodeId,
    },
    /// The runner was not given up.
    #[error("{0} was not exported")]
    NotMoved(RunnerId),
    /// The run came this way before.
    #[error("what came by {0} was imported here before")]
    CameBefore(TravelId),
    /// The run, or one that shares something with it, is here.
    #[error("{0} is on this node already")]
    RunHere(RunId),
    /// A container of the runner's name is here, and about to be removed.
    #[error("what is left of {0} is being removed")]
    Lingers(RunnerId),
    /// It comes too late.
    #[error("it could be imported until {0}")]
    TooLate(Timestamp),
    /// The waitpoint was completed with something else.
    #[error("{0} was completed with another result")]
    CompletedOtherwise(WaitpointId),
}

/// What the ledger keeps of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The run.
    pub run: Run,
    /// Who holds it.
    pub owner: Option<Owner>,
    /// Its pending snapshot.
    pub pending: Option<PendingRecord>,
    /// Its snapshot in the engine's hands.
    pub flight: Option<Flight>,
}

/// Who holds a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub runner: RunnerId,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a runner comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// belayd started its container.
    Hosted,
    /// From elsewhere.
    Foreign,
}

/// A pending snapshot, as it outlives belayd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRecord {
    /// The epoch it was armed in.
    pub epoch: Epoch,
    /// The suspension it is of.
    pub suspension: SuspensionId,
    /// When it falls due.
    pub at: Timestamp,
    /// How often it was dispatched and failed.
    pub failures: u32,
}
