//! What the routes hold: the watched status, the way to belayd, and the end of both.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::{
    ExecInput, ExecOutput, ExecRequest, HistoryEntry, LogLine, LogQuery, NodeStatus, Operation,
    OperationEvent, Problem, ProblemCode, WorkloadName,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a command waits for room in belayd's queue before the caller is told to come back.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// What the API asks of belayd.
#[derive(Debug)]
pub enum Command {
    /// Carry an operation out.
    Operate {
        /// What to do.
        operation: Operation,
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
    shutdown: CancellationToken,
    operations: TaskTracker,
}

impl ApiState {
    /// `shutdown` ends followed logs; operations under way are not ended by it, belayd ends them.
    pub fn new(
        status: watch::Receiver<Arc<NodeStatus>>,
        commands: mpsc::Sender<Command>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { status, commands, shutdown, operations: TaskTracker::new() }
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

    pub(crate) async fn send(&self, command: Command) -> Result<(), Box<Problem>> {
        match self.commands.send_timeout(command, QUEUE_PATIENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Box::new(Problem::new(
                ProblemCode::Busy,
                "belayd has more commands waiting than it takes",
                "try again in a few seconds",
            ))),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(shutting_down().into()),
        }
    }
}

pub(crate) fn shutting_down() -> Problem {
    Problem::new(
        ProblemCode::ShuttingDown,
        "belayd is ending and takes no more commands; workloads keep running",
        "wait until belayd is back, then repeat the command",
    )
}
