//! What callers ask of a sync task, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_protocol::{
    Cid, CidPrefix, HistoryEntry, NodeId, ProblemCode, PublishOutcome, SyncStatus, SyncUpload,
};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::context::with_causes;
use crate::layout::SyncLayout;
use crate::spool::Spool;
use crate::upload::{self, Upload, UploadError, take_in};

/// A publish asked for by an operator or a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishCommand {
    /// Container paths to capture.
    pub archive_paths: Vec<String>,
    /// Free data that travels in the record.
    pub metadata: Map<String, Value>,
}

/// Why a publish asked for by command did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It failed at a stage; nothing was published.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage.
        stage: Stage,
        /// What kind of failure it is, where the documentation has a paragraph on it.
        code: Option<ProblemCode>,
        /// What failed and why.
        reason: String,
    },
    /// It is captured, and goes on by itself.
    #[error("it is captured and goes on by itself: {reason}")]
    GoesOn {
        /// What it waits for.
        reason: String,
    },
    /// The workload is a consumer.
    #[error("the workload is a consumer of this key and publishes nothing")]
    NotProvider,
    /// An operator paused it.
    #[error("volume-sync of the workload is paused")]
    Paused,
    /// Another archive is coming in.
    #[error("another import is under way")]
    Importing,
    /// Too many commands wait already.
    #[error("other publishes are waiting")]
    Busy,
    /// The volumes are not mounted.
    #[error("the volumes of the workload are not mounted")]
    NoVolumes,
    /// The task ended, or the daemon is shutting down. What was captured is finished after its
    /// next start.
    #[error("sync of the workload is shutting down")]
    ShuttingDown,
}

impl PublishError {
    /// Whether the same command may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { stage, .. } => match stage {
                Stage::RuntimeStop | Stage::Upload | Stage::RecordPublish => true,
                Stage::Validation
                | Stage::ArchiveBuild
                | Stage::Download
                | Stage::Extract
                | Stage::Commit
                | Stage::Readiness => false,
            },
            Self::Busy | Self::Importing | Self::NoVolumes | Self::ShuttingDown => true,
            // It would be another one.
            Self::GoesOn { .. } | Self::NotProvider | Self::Paused => false,
        }
    }
}

/// What a takeover came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takeover {
    /// This node publishes from now on.
    Taken {
        /// Epoch of the record that says so.
        epoch: u64,
        /// Its number.
        seq: u64,
        /// The content published so far, which stays.
        cid: Cid,
        /// Who published before.
        from: NodeId,
    },
    /// It does already.
    Already {
        /// Epoch of the head.
        epoch: u64,
        /// Its number.
        seq: u64,
    },
}

/// Why a node did not take over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverError {
    /// There is no record under the key.
    #[error("nothing is published under the key")]
    NothingPublished,
    /// The spec lets any provider publish.
    #[error("its spec says publisher = \"any\", so it publishes without taking over")]
    AnyMayPublish,
    /// The workload is a consumer.
    #[error("the workload is a consumer of this key")]
    NotProvider,
    /// It failed at a stage; whoever published goes on.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage.
        stage: Stage,
        /// What kind of failure it is, where the documentation has a paragraph on it.
        code: Option<ProblemCode>,
        /// What failed and why.
        reason: String,
    },
    /// The store does not say whether it happened.
    #[error("it is not known whether it happened: {reason}")]
    Unknown {
        /// What the store said.
        reason: String,
    },
    /// A publish is not settled yet, or too many commands wait.
    #[error("a publish is under way")]
    Busy,
    /// The volumes are not mounted.
    #[error("the volumes of the workload are not mounted")]
    NoVolumes,
    /// The task ended, or the daemon is shutting down.
    #[error("sync of the workload is shutting down")]
    ShuttingDown,
}

/// Why the history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The directory could not be read.
    #[error("the sync history could not be read")]
    Read(#[source] std::io::Error),
}

/// A consumer that went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    /// What it went back to.
    pub cid: Cid,
    /// Epoch of the last record that is held back.
    pub left_epoch: u64,
    /// Number of the last record that is held back.
    pub left_seq: u64,
    /// How long the container was down; none if it did not run or nothing had to be changed.
    pub downtime: Option<Duration>,
}

/// What an operator's wish to apply now came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliedNow {
    /// The head took the place of what was there.
    Applied {
        /// The content.
        cid: Cid,
        /// How long the container was down; none if it did not run.
        downtime: Option<Duration>,
    },
    /// It did, and whether the workload is ready on it is not known yet.
    OnTrial {
        /// The content.
        cid: Cid,
    },
    /// The volumes held the head already.
    Holds {
        /// The content.
        cid: Cid,
    },
}

/// Why nothing was applied on an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyNowError {
    /// The workload is a provider.
    #[error("the workload is the provider of this key and takes nothing over")]
    NotConsumer,
    /// An operator paused it.
    #[error("volume-sync of the workload is paused")]
    Paused,
    /// There is nothing that could be applied.
    #[error("{reason}")]
    Nothing {
        /// Why not.
        reason: String,
    },
    /// It failed at a stage; what was there before is there, or the workload is halted.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage.
        stage: Stage,
        /// What kind of failure it is, where the documentation has a paragraph on it.
        code: Option<ProblemCode>,
        /// What failed and why.
        reason: String,
    },
    /// Something else is under way; nothing was changed.
    #[error("{reason}")]
    Busy {
        /// What.
        reason: String,
    },
    /// The store does not answer; nothing was changed.
    #[error("{reason}")]
    Store {
        /// What it does not.
        reason: String,
    },
    /// The volumes are not mounted.
    #[error("the volumes of the workload are not mounted")]
    NoVolumes,
    /// The task ended, or the daemon is shutting down.
    #[error("sync of the workload is shutting down")]
    ShuttingDown,
}

impl ApplyNowError {
    /// Whether the same command may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Store { .. } | Self::NoVolumes | Self::ShuttingDown => true,
            Self::NotConsumer | Self::Paused | Self::Nothing { .. } | Self::Failed { .. } => false,
        }
    }
}

/// Why a consumer did not go back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// The workload is a provider.
    #[error("the workload is the provider of this key and takes nothing over")]
    NotConsumer,
    /// There is no such generation, or none that was here before.
    #[error("{reason}")]
    Target {
        /// What there is not.
        reason: String,
    },
    /// It is the newest generation, which needs no rollback.
    #[error("{reason}")]
    Newest {
        /// Which.
        reason: String,
    },
    /// It failed at a stage; nothing was changed, or the workload is halted.
    #[error("{stage}: {reason}")]
    Failed {
        /// The stage.
        stage: Stage,
        /// What failed and why.
        reason: String,
    },
    /// The workload is in the hands of another operation; nothing was changed.
    #[error("{reason}")]
    Busy {
        /// Of which.
        reason: String,
    },
    /// The store does not answer; nothing was changed.
    #[error("{reason}")]
    Store {
        /// What it does not.
        reason: String,
    },
    /// The volumes are not mounted.
    #[error("the volumes of the workload are not mounted")]
    NoVolumes,
    /// The task ended, or the daemon is shutting down. What had begun is finished after its next
    /// start.
    #[error("sync of the workload is shutting down")]
    ShuttingDown,
}

impl RollbackError {
    /// Whether the same command may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Store { .. } | Self::NoVolumes | Self::ShuttingDown => true,
            Self::NotConsumer | Self::Target { .. } | Self::Newest { .. } | Self::Failed { .. } => {
                false
            }
        }
    }
}

/// Why sync could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The state directory could not be written.
    #[error("the pause could not be written down")]
    State(#[source] std::io::Error),
    /// Too many commands wait already.
    #[error("other commands are waiting")]
    Busy,
    /// The task ended, or the daemon is shutting down.
    #[error("sync of the workload is shutting down")]
    ShuttingDown,
}

pub(crate) enum Command {
    Publish {
        command: PublishCommand,
        reply: oneshot::Sender<Result<PublishOutcome, PublishError>>,
    },
    /// Publish an archive.
    Import {
        archive: Upload,
        reply: oneshot::Sender<Result<PublishOutcome, PublishError>>,
    },
    /// Publish and apply nothing from now on.
    Pause {
        reply: oneshot::Sender<std::io::Result<Timestamp>>,
    },
    /// End a pause.
    Resume {
        reply: oneshot::Sender<std::io::Result<()>>,
    },
    Takeover {
        reply: oneshot::Sender<Result<Takeover, TakeoverError>>,
    },
    /// Go back to an earlier generation.
    Rollback {
        cid: Option<CidPrefix>,
        reply: oneshot::Sender<Result<RolledBack, RollbackError>>,
    },
    /// Apply the head, whatever holds it back.
    Apply {
        reply: oneshot::Sender<Result<AppliedNow, ApplyNowError>>,
    },
    /// Asks for a look at the record now.
    Check,
}

/// Held by whoever talks to a workload's sync task.
#[derive(Debug, Clone)]
pub struct SyncHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<SyncStatus>,
    pub(crate) history: crate::history::History,
    pub(crate) layout: watch::Receiver<Option<SyncLayout>>,
    pub(crate) spool: Spool,
    /// The place of the one archive that may be coming in.
    pub(crate) imports: Arc<Semaphore>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Publish { .. } => "Publish",
            Self::Import { .. } => "Import",
            Self::Takeover { .. } => "Takeover",
            Self::Pause { .. } => "Pause",
            Self::Resume { .. } => "Resume",
            Self::Rollback { .. } => "Rollback",
            Self::Apply { .. } => "Apply",
            Self::Check => "Check",
        })
    }
}

impl SyncHandle {
    /// Publishes and waits for the confirmed record. The work goes on if the caller goes away.
    pub async fn publish(&self, command: PublishCommand) -> Result<PublishOutcome, PublishError> {
        let (busy, ended) = (PublishError::Busy, PublishError::ShuttingDown);
        self.ask(|reply| Command::Publish { command, reply }, busy, ended).await
    }

    /// Publishes the archive that comes in by `pieces`, in the place of what the volumes hold, and
    /// waits for the confirmed record. Neither volumes nor container are touched. Once the archive is
    /// here the work goes on if the caller goes away.
    pub async fn import(
        &self,
        pieces: mpsc::Receiver<SyncUpload>,
    ) -> Result<PublishOutcome, PublishError> {
        let place = Arc::clone(&self.imports).try_acquire_owned();
        let _place = place.map_err(|_| PublishError::Importing)?;
        let limit = self.layout.borrow().as_ref().map(upload::limit);
        let limit = limit.ok_or(PublishError::NoVolumes)?;
        let spool = self.spool.clone();
        let taken = tokio::task::spawn_blocking(move || take_in(&spool, pieces, limit)).await;
        let archive = match taken {
            Ok(Ok(archive)) => archive,
            Ok(Err(error)) => return Err(not_taken(&error)),
            Err(_) => return Err(PublishError::ShuttingDown),
        };
        let (busy, ended) = (PublishError::Busy, PublishError::ShuttingDown);
        self.ask(|reply| Command::Import { archive, reply }, busy, ended).await
    }

    /// Has nothing published or applied until [`SyncHandle::resume`], by no process. What is under
    /// way comes to its end first. Returns since when it is paused.
    pub async fn pause(&self) -> Result<Timestamp, PauseError> {
        self.pausing(|reply| Command::Pause { reply }).await
    }

    /// Takes a consumer back to an earlier generation: that before the present one where none is
    /// named. Records up to the newest of now are held back until a later one comes, or
    /// [`SyncHandle::resume`]. It goes on if the caller goes away.
    pub async fn roll_back(&self, cid: Option<CidPrefix>) -> Result<RolledBack, RollbackError> {
        let busy = RollbackError::Busy { reason: "other commands are waiting".to_owned() };
        self.ask(|reply| Command::Rollback { cid, reply }, busy, RollbackError::ShuttingDown).await
    }

    /// Applies the head now: no window, no interval and no earlier failure holds it back, and a
    /// rollback is over. It goes on if the caller goes away.
    pub async fn apply_now(&self) -> Result<AppliedNow, ApplyNowError> {
        let busy = ApplyNowError::Busy { reason: "other commands are waiting".to_owned() };
        self.ask(|reply| Command::Apply { reply }, busy, ApplyNowError::ShuttingDown).await
    }

    /// Ends a pause, and what a rollback holds back, and has a look at what waited.
    pub async fn resume(&self) -> Result<(), PauseError> {
        self.pausing(|reply| Command::Resume { reply }).await
    }

    async fn pausing<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<std::io::Result<T>>) -> Command,
    ) -> Result<T, PauseError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PauseError::Busy,
            mpsc::error::TrySendError::Closed(_) => PauseError::ShuttingDown,
        })?;
        answer.await.map_err(|_| PauseError::ShuttingDown)?.map_err(PauseError::State)
    }

    /// Makes this node the one who publishes under the key, in the place of who did. It comes to its
    /// end if the caller goes away.
    pub async fn take_over(&self) -> Result<Takeover, TakeoverError> {
        let (busy, ended) = (TakeoverError::Busy, TakeoverError::ShuttingDown);
        self.ask(|reply| Command::Takeover { reply }, busy, ended).await
    }

    /// Has the task carry out a command: `busy` if it has too many already, `ended` if it has ended.
    async fn ask<T, E>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
        busy: E,
        ended: E,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(command(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(ended)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ended),
        }
    }

    /// Asks for a look at the head record now instead of at the next notice.
    pub fn check(&self) {
        // A full queue already holds what will make the task look.
        let _ = self.commands.try_send(Command::Check);
    }

    /// What the task does and did last.
    pub fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }

    /// Entries of the history, newest first, at most `limit`.
    pub async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, HistoryError> {
        let history = self.history.clone();
        tokio::task::spawn_blocking(move || history.list(limit))
            .await
            .map_err(|error| HistoryError::Read(std::io::Error::other(error)))?
    }
}

fn not_taken(error: &UploadError) -> PublishError {
    let code = match error {
        UploadError::CutShort | UploadError::TooLarge { .. } => Some(ProblemCode::ImportRefused),
        UploadError::Io(_) => None,
    };
    PublishError::Failed { stage: Stage::Validation, code, reason: with_causes(error) }
}

/// What [`crate::recover`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Set when the volumes may hold neither an old nor a new state: the workload must not start.
    pub halt: Option<String>,
    /// An apply that had begun and is now whole.
    pub finished: Option<Cid>,
}

/// Why recovery could not tell the state of the volumes. The workload must not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The workload's sync task is committing an apply at this moment.
    #[error("an apply is being committed")]
    Busy,
    /// The journal or the halt could not be read or written.
    #[error("the state directory of sync could not be used")]
    State(#[source] std::io::Error),
}

/// Why a halt could not be lifted.
#[derive(Debug, thiserror::Error)]
pub enum ClearHaltError {
    /// An apply is under way.
    #[error("an apply is under way")]
    Busy,
    /// The journal or the halt could not be removed.
    #[error("the state directory of sync could not be used")]
    State(#[source] std::io::Error),
}

impl ClearHaltError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::State(_) => false,
        }
    }
}
