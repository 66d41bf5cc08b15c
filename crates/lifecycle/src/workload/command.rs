//! What can be asked of a workload.

use belay_protocol::{
    ContentRule, HistoryEntry, Problem, PublishRequest, SyncAct, SyncPiece, SyncQuestion,
    SyncUpload, VolumeAct, VolumeFate, VolumeName,
};
use belay_sync::{Ready, Window, WindowPurpose, WindowRefused};
use tokio::sync::{mpsc, oneshot};

use crate::core::record::Declaration;
use crate::core::spec::WorkloadSpec;
use crate::node::VolumesLook;
use crate::reporter::Reporter;

/// Why the files of `workloads.d` are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// belayd starts.
    Start,
    /// An operator asked for it.
    Reload,
}

/// A message to a workload's task.
#[derive(Debug)]
pub enum WorkloadCommand {
    /// Replace the spec, start it, wait until it is ready.
    Deploy {
        /// The spec as given.
        declaration: Declaration,
        /// The same, parsed.
        spec: Box<WorkloadSpec>,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// The spec that its file in `workloads.d` now has.
    Declare {
        /// The spec as given.
        declaration: Declaration,
        /// The same, parsed.
        spec: Box<WorkloadSpec>,
        /// Why it is read now.
        occasion: Occasion,
    },
    /// Its file in `workloads.d` is gone.
    Undeclare,
    /// Make it run.
    Start {
        /// Whether it waits for content that its spec has it wait for.
        content: ContentRule,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Stop it, and remember that it was asked for.
    Stop {
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Stop it and start it.
    Restart {
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Stop it and let go of it.
    Remove {
        /// What becomes of its volumes.
        volumes: VolumeFate,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// End every override of its environment that the app asked for.
    ClearOverrides {
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Publish paths of it.
    Publish {
        /// What to publish.
        request: PublishRequest,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Publish an archive in the place of what its volumes hold.
    Import {
        /// The archive.
        pieces: mpsc::Receiver<SyncUpload>,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Have it publish in the place of who does.
    Takeover {
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Say whether a publish of it would be taken now. Nothing is changed.
    CheckPublish {
        /// What speaks against it, if anything does.
        reply: oneshot::Sender<Result<(), Problem>>,
    },
    /// Act on one of its volumes.
    Volume {
        /// Which.
        volume: VolumeName,
        /// What to do.
        act: VolumeAct,
        /// Shows what came of it before it is answered.
        look: VolumesLook,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Act on its volume-sync.
    Sync {
        /// What to do.
        act: SyncAct,
        /// Whom to tell.
        reporter: Reporter,
    },
    /// Answer a question about what is published under its key.
    AskSync {
        /// What is asked.
        question: SyncQuestion,
        /// Where the pieces of the answer will come from.
        reply: oneshot::Sender<Result<mpsc::Receiver<SyncPiece>, Problem>>,
    },
    /// Read its sync history.
    History {
        /// The entries, newest first.
        reply: oneshot::Sender<Result<Vec<HistoryEntry>, Problem>>,
    },
    /// Stop it for a capture or an apply.
    OpenWindow {
        /// What for.
        purpose: WindowPurpose,
        /// The window, once the container is shown to be stopped.
        reply: oneshot::Sender<Result<Window, WindowRefused>>,
    },
    /// Say whether it is ready on what its volumes hold.
    AskReadiness {
        /// Whether it is; none while that is not known.
        reply: oneshot::Sender<Option<Ready>>,
    },
    /// End what is under way, and say what that was.
    Cancel {
        /// What was ended, or why nothing was.
        reply: oneshot::Sender<Result<String, Problem>>,
    },
    /// Something happened in the engine: look.
    Nudge,
}

impl WorkloadCommand {
    /// Whom to tell what becomes of it, where somebody waits.
    pub(crate) fn reporter(&self) -> Option<&Reporter> {
        match self {
            Self::Deploy { reporter, .. }
            | Self::Start { reporter, .. }
            | Self::Stop { reporter }
            | Self::Restart { reporter }
            | Self::ClearOverrides { reporter }
            | Self::Remove { reporter, .. }
            | Self::Takeover { reporter }
            | Self::Publish { reporter, .. }
            | Self::Import { reporter, .. }
            | Self::Sync { reporter, .. }
            | Self::Volume { reporter, .. } => Some(reporter),
            Self::History { .. }
            | Self::AskSync { .. }
            | Self::CheckPublish { .. }
            | Self::OpenWindow { .. }
            | Self::AskReadiness { .. }
            | Self::Cancel { .. }
            | Self::Declare { .. }
            | Self::Undeclare
            | Self::Nudge => None,
        }
    }

    /// Whether nobody waits for what it asks for, and it would only do harm. An operation goes on
    /// without its caller; a window that nobody holds stops the container for nothing.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::OpenWindow { reply, .. } => reply.is_closed(),
            Self::Deploy { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Remove { .. }
            | Self::Takeover { .. }
            | Self::Publish { .. }
            | Self::Import { .. }
            | Self::Volume { .. }
            | Self::ClearOverrides { .. }
            | Self::Sync { .. }
            | Self::AskSync { .. }
            | Self::History { .. }
            | Self::AskReadiness { .. }
            | Self::Cancel { .. }
            | Self::CheckPublish { .. }
            | Self::Declare { .. }
            | Self::Undeclare
            | Self::Nudge => false,
        }
    }

    /// Answers a command that nobody takes any more.
    pub(crate) fn refuse(self, problem: Problem) {
        match self {
            Self::Deploy { reporter, .. }
            | Self::Start { reporter, .. }
            | Self::Stop { reporter }
            | Self::Restart { reporter }
            | Self::ClearOverrides { reporter }
            | Self::Remove { reporter, .. }
            | Self::Takeover { reporter }
            | Self::Publish { reporter, .. }
            | Self::Import { reporter, .. }
            | Self::Sync { reporter, .. }
            | Self::Volume { reporter, .. } => reporter.finish(Err(problem)),
            Self::AskSync { reply, .. } => {
                let _ = reply.send(Err(problem));
            }
            Self::History { reply } => {
                let _ = reply.send(Err(problem));
            }
            Self::CheckPublish { reply } => {
                let _ = reply.send(Err(problem));
            }
            Self::OpenWindow { reply, .. } => {
                let _ = reply.send(Err(WindowRefused::ShuttingDown));
            }
            Self::AskReadiness { reply } => {
                let _ = reply.send(None);
            }
            Self::Cancel { reply } => {
                let _ = reply.send(Err(problem));
            }
            Self::Declare { .. } | Self::Undeclare | Self::Nudge => {}
        }
    }
}
