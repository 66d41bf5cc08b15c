//! What the API asks of the runner server.

use belay_protocol::runner::{
    CheckpointStatus, CompleteWaitpoint, ImportedCheckpoint, IssuedToken, RunDetail, RunId,
    RunLogQuery, RunPage, RunQuery, RunnerId, RunnerStatus, SubmitRequest, Submitted, TokenRequest,
    WaitpointId, WaitpointPage, WaitpointQuery,
};
use belay_protocol::{LogLine, NodeId, Problem};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Where the answer goes.
pub type RunnerReply<T> = oneshot::Sender<Result<T, Problem>>;

/// Whether an archive is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// It is.
    Take,
    /// It is only looked at.
    Check,
}

/// A question for the runner server. Each is answered on its own: one that waits for the disk holds
/// up no other.
#[derive(Debug)]
pub enum RunnerCommand {
    /// Accept a run.
    Submit {
        /// It.
        request: SubmitRequest,
        /// Its id, once it is on the disk.
        reply: RunnerReply<Submitted>,
    },
    /// Cancel a run.
    Cancel {
        /// Which.
        run: RunId,
        /// Once that is on the disk.
        reply: RunnerReply<()>,
    },
    /// Show a run with its payload and result.
    Run {
        /// Which.
        run: RunId,
        /// All of it.
        reply: RunnerReply<RunDetail>,
    },
    /// Show what a run wrote.
    Logs {
        /// Which.
        run: RunId,
        /// What of it.
        query: RunLogQuery,
        /// The lines, until the receiver is dropped.
        reply: RunnerReply<mpsc::Receiver<LogLine>>,
    },
    /// List runs.
    Runs {
        /// Which.
        query: RunQuery,
        /// A page of them.
        reply: RunnerReply<RunPage>,
    },
    /// List runners.
    Runners {
        /// All of them.
        reply: RunnerReply<Vec<RunnerStatus>>,
    },
    /// List the runners that are on the disk.
    Checkpoints {
        /// All of them.
        reply: RunnerReply<Vec<CheckpointStatus>>,
    },
    /// Remove a runner that is on the disk.
    RemoveCheckpoint {
        /// Which.
        runner: RunnerId,
        /// The run that waited in it, once that it is given up is on the disk.
        reply: RunnerReply<RunId>,
    },
    /// Export a runner that is on the disk to another node.
    ExportCheckpoint {
        /// Which.
        runner: RunnerId,
        /// The node.
        to: NodeId,
        /// The archive in pieces; an empty one says that it was whole.
        reply: RunnerReply<mpsc::Receiver<Bytes>>,
    },
    /// Take in what another node exported.
    ImportCheckpoint {
        /// Whether it is taken.
        mode: ImportMode,
        /// The archive in pieces, or why no more of them come.
        pieces: mpsc::Receiver<Result<Bytes, String>>,
        /// What came of it, once that is on the disk.
        reply: RunnerReply<ImportedCheckpoint>,
    },
    /// Take back a run that was exported.
    ReclaimCheckpoint {
        /// Whose.
        runner: RunnerId,
        /// The run, once that is on the disk.
        reply: RunnerReply<RunId>,
    },
    /// List waitpoints.
    Waitpoints {
        /// Which.
        query: WaitpointQuery,
        /// A page of them.
        reply: RunnerReply<WaitpointPage>,
    },
    /// Complete a waitpoint.
    CompleteWaitpoint {
        /// Which.
        waitpoint: WaitpointId,
        /// With what.
        completion: CompleteWaitpoint,
        /// Once that is on the disk.
        reply: RunnerReply<()>,
    },
    /// Make a token for a runner that belayd does not start.
    IssueToken {
        /// For whom.
        request: TokenRequest,
        /// The token, which is shown this once.
        reply: RunnerReply<IssuedToken>,
    },
    /// Make all tokens of a runner worthless for connecting.
    RevokeTokens {
        /// Whose.
        runner: RunnerId,
        /// Once that is on the disk.
        reply: RunnerReply<()>,
    },
}
