//! A container's processes on disk: what a checkpoint and a restore cost, and why one failed.

use std::time::Duration;

use crate::error::{EngineError, Object, Operation};

/// What a checkpoint cost, as the engine and CRIU measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The runtime's whole work.
    pub total: Duration,
    /// How long the processes stood still.
    pub frozen: Duration,
    /// How long it took to make them stand still, before that.
    pub freezing: Duration,
    /// Pages of memory written, of 4 KiB each.
    pub pages_written: u64,
}

/// What a restore cost, as the engine and CRIU measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreReport {
    /// The runtime's whole work.
    pub total: Duration,
    /// CRIU's part of it.
    pub restoring: Duration,
    /// Pages of memory read, of 4 KiB each.
    pub pages_restored: u64,
}

/// Why a container was not checkpointed or restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// This engine has no checkpoints, or CRIU is absent, too old or of no use on this kernel.
    #[error("cannot {operation} {object}: {detail}")]
    Unsupported {
        /// Which of the two.
        operation: Operation,
        /// Which container.
        object: Object,
        /// What is missing.
        detail: String,
    },
    /// CRIU refused. After a refused checkpoint the container runs on; after a refused restore it
    /// is as suspended as before, with its image whole.
    #[error("cannot {operation} {object}: {reason}")]
    Refused {
        /// Which of the two.
        operation: Operation,
        /// Which container.
        object: Object,
        /// CRIU's words.
        reason: String,
    },
    /// The archive of a checkpoint could not be written or read.
    #[error("cannot {operation} {object}: its archive cannot be used")]
    Archive {
        /// Which of the two.
        operation: Operation,
        /// Which container.
        object: Object,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The engine did not do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl CheckpointError {
    /// Whether the same call may work later without anybody changing anything. What CRIU refuses
    /// depends on what the processes hold at that moment.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unsupported { .. } => false,
            Self::Refused { .. } | Self::Archive { .. } => true,
            Self::Engine(error) => error.is_retryable(),
        }
    }

    /// Whether it is known that the container is as it was before.
    pub fn is_outcome_known(&self) -> bool {
        match self {
            Self::Unsupported { .. } | Self::Refused { .. } => true,
            Self::Archive { .. } => false,
            Self::Engine(error) => error.is_outcome_known(),
        }
    }
}
