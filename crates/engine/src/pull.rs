//! Pulling: how far it is, how long it may be silent, why it failed.

use std::time::Duration;

pub use crate::core::pull_fault::PullFault;
use crate::deadline;
use crate::error::EngineError;

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that the engine has named.
    pub layers: usize,
    /// Those of them that are on the host.
    pub layers_here: usize,
    /// Bytes of layers that came.
    pub bytes_done: u64,
    /// Bytes in all, of the layers whose size is known.
    pub bytes_total: u64,
}

/// How long a pull may go without getting anywhere. There is no limit on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullPatience {
    /// While something is still to come over the network.
    pub silence: Duration,
    /// Once everything has come and the engine unpacks it.
    pub unpack: Duration,
}

impl Default for PullPatience {
    fn default() -> Self {
        Self { silence: deadline::PULL_SILENCE, unpack: deadline::PULL_UNPACK }
    }
}

/// Why a pull gave no image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry or the engine refused, or the way to the registry failed.
    #[error("cannot pull image {reference}: {detail}")]
    Refused {
        /// The image.
        reference: String,
        /// What kind of refusal it is.
        fault: PullFault,
        /// The engine's words.
        detail: String,
    },
    /// Nothing came for too long.
    #[error("cannot pull image {reference}: nothing came for {after:?}")]
    Stalled {
        /// The image.
        reference: String,
        /// For how long nothing came.
        after: Duration,
    },
    /// The engine itself could not be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl PullError {
    /// Whether the same pull may work later without anybody changing anything here.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { fault, .. } => match fault {
                PullFault::Network
                | PullFault::RateLimited
                | PullFault::DiskFull
                | PullFault::Digest
                | PullFault::Other => true,
                PullFault::Denied
                | PullFault::NotFound
                | PullFault::Architecture
                | PullFault::Reference => false,
            },
            Self::Stalled { .. } => true,
            Self::Engine(error) => error.is_retryable(),
        }
    }
}
