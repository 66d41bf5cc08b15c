//! What the routes hold: the watched status, the way to belayd, and the end of both.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::runner::{HostTally, RunnerTally};
use belay_protocol::{
    EventPage, EventQuery, EventTally, ExecInput, ExecOutput, ExecRequest, HistoryEntry,
    LockStatus, LogLine, LogQuery, NodeStatus, Operation, OperationEvent, Problem, ProblemCode,
    SyncPiece, SyncQuestion, SyncUpload, WorkloadName,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runs::RunnerCommand;

/// How long a command waits for room in belayd's queue before the caller is told to come back.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// Clients that follow the events at one time. Each keeps a connection, of which each listener has
/// twice as many: whoever follows leaves room for whoever operates.
const FOLLOWERS: usize = 64;

/// Where the events of the node come from.
#[derive(Debug, Clone)]
pub struct EventFeed {
    /// How many there were; changes when there is a new one.
    pub tally: watch::Receiver<EventTally>,
    /// Takes questions. Each is answered through the channel that it carries.
    pub reads: mpsc::Sender<ReadEvents>,
}

/// Where runs, runners and waitpoints come from.
#[derive(Debug, Clone)]
pub struct RunFeed {
    /// Counts, changed when they change.
    pub tally: watch::Receiver<RunnerTally>,
    /// Counts of the runners' containers.
    pub host_tally: watch::Receiver<HostTally>,
    /// Takes questions. Each is answered through the channel that it carries.
    pub asks: mpsc::Sender<RunnerCommand>,
}

/// Asks for events that are on the disk.
#[derive(Debug)]
pub struct ReadEvents {
    /// Which.
    pub query: EventQuery,
    /// The page, or why there is none.
    pub reply: oneshot::Sender<Result<EventPage, Problem>>,
}

/// What the API asks of belayd.
#[derive(Debug)]
pub enum Command {
    /// Carry an operation out.
    Operate {
        /// What to do.
        operation: Operation,
        /// How long the caller waits for its turn and for locks; belayd's own time when absent.
        wait: Option<Duration>,
        /// Takes progress and exactly one `Done` or `Failed`. It is always read, however slow the
        /// client is, and it is closed after the end; a client that goes away cancels nothing.
        events: mpsc::Sender<OperationEvent>,
    },
    /// Read a workload's log.
    Logs {
        /// Whose.
        workload: WorkloadName,
        /// Which lines.
        query: LogQuery,
        /// The lines in order, or why there are none. A slow client is felt here as a full channel,
        /// one that went away as a closed one.
        reply: oneshot::Sender<Result<mpsc::Receiver<LogLine>, Problem>>,
    },
    /// Run a command in a workload.
    Exec {
        /// Whose.
        workload: WorkloadName,
        /// What to run.
        request: ExecRequest,
        /// What the client sends; closed when it went away, and the command is to be ended then.
        input: mpsc::Receiver<ExecInput>,
        /// Takes what the command writes and exactly one `Exited` or `Failed` at the end. A slow
        /// client is felt here as a full channel, one that went away as a closed one.
        output: mpsc::Sender<ExecOutput>,
        /// Whether the command is accepted; nothing is sent on `output` before.
        reply: oneshot::Sender<Result<(), Problem>>,
    },
    /// Say which locks are held.
    Locks {
        /// All of them, or why that cannot be told.
        reply: oneshot::Sender<Result<Vec<LockStatus>, Problem>>,
    },
    /// Answer a question about what is published under a workload's key.
    AskSync {
        /// Whose.
        workload: WorkloadName,
        /// What is asked.
        question: SyncQuestion,
        /// The pieces of the answer in order, or why there is none. A slow client is felt here as a
        /// full channel, one that went away as a closed one.
        reply: oneshot::Sender<Result<mpsc::Receiver<SyncPiece>, Problem>>,
    },
    /// Publish an archive in the place of what a workload's volumes hold.
    Import {
        /// Whose.
        workload: WorkloadName,
        /// The archive; closed without an end when the client went away. Once belayd takes no more
        /// of it this is closed from the other side.
        pieces: mpsc::Receiver<SyncUpload>,
        /// As those of an operation.
        events: mpsc::Sender<OperationEvent>,
    },
    /// Read a workload's sync history, newest first.
    History {
        /// Whose.
        workload: WorkloadName,
        /// The entries, or why there are none.
        reply: oneshot::Sender<Result<Vec<HistoryEntry>, Problem>>,
    },
}

/// Who asked, as the kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine, through the Unix socket.
    Local {
        /// User id when it connected.
        uid: u32,
        /// Process id when it connected, where the kernel tells.
        pid: Option<i32>,
    },
    /// Something that reached the TCP port.
    Network,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Network => f.write_str("the network"),
        }
    }
}

/// What every route needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiState {
    status: watch::Receiver<Arc<NodeStatus>>,
    commands: mpsc::Sender<Command>,
    events: EventFeed,
    runs: RunFeed,
    followers: Arc<Semaphore>,
    shutdown: CancellationToken,
    operations: TaskTracker,
}

impl ApiState {
    /// `shutdown` ends followed logs and events; operations under way are not ended by it, belayd ends them.
    pub fn new(
        status: watch::Receiver<Arc<NodeStatus>>,
        commands: mpsc::Sender<Command>,
        events: EventFeed,
        shutdown: CancellationToken,
    ) -> Self {
        let followers = Arc::new(Semaphore::new(FOLLOWERS));
        let operations = TaskTracker::new();
        let (_, tally) = watch::channel(RunnerTally::default());
        let (_, host_tally) = watch::channel(HostTally::default());
        let (asks, _) = mpsc::channel(1);
        let runs = RunFeed { tally, host_tally, asks };
        Self { status, commands, events, runs, followers, shutdown, operations }
    }

    /// The same, with the runner server; without, nothing is counted, and what is asked about runs
    /// is refused.
    #[must_use]
    pub fn with_runs(mut self, runs: RunFeed) -> Self {
        self.runs = runs;
        self
    }

    /// Waits until the answers of all operations under way were read to their end. Call it after
    /// the listeners ended and belayd has ended its operations; says whether that was in time.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.operations.close();
        tokio::time::timeout(deadline, self.operations.wait()).await.is_ok()
    }

    pub(crate) fn status(&self) -> Arc<NodeStatus> {
        self.status.borrow().clone()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    pub(crate) fn operations(&self) -> &TaskTracker {
        &self.operations
    }

    pub(crate) fn runs(&self) -> RunnerTally {
        *self.runs.tally.borrow()
    }

    pub(crate) fn hosted(&self) -> HostTally {
        *self.runs.host_tally.borrow()
    }

    pub(crate) fn tally(&self) -> watch::Receiver<EventTally> {
        self.events.tally.clone()
    }

    /// A place among those who follow the events, if there is one.
    pub(crate) fn follower(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.followers).try_acquire_owned().ok()
    }

    pub(crate) async fn read_events(&self, read: ReadEvents) -> Result<(), Box<Problem>> {
        send_to(&self.events.reads, read).await
    }

    pub(crate) async fn ask_runners(&self, command: RunnerCommand) -> Result<(), Box<Problem>> {
        send_to(&self.runs.asks, command).await
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Box<Problem>> {
        send_to(&self.commands, command).await
    }
}

async fn send_to<T>(queue: &mpsc::Sender<T>, request: T) -> Result<(), Box<Problem>> {
    match queue.send_timeout(request, QUEUE_PATIENCE).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Box::new(Problem::new(
            ProblemCode::Busy,
            "belayd has more commands waiting than it takes",
            "try again in a few seconds",
        ))),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(shutting_down().into()),
    }
}

pub(crate) fn shutting_down() -> Problem {
    Problem::new(
        ProblemCode::ShuttingDown,
        "belayd is ending and takes no more commands; workloads keep running",
        "wait until belayd is back, then repeat the command",
    )
}
