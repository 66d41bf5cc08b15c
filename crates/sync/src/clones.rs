//! The port through which sync has the state of volumes kept at one moment.

use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use belay_protocol::VolumeName;

/// An answer that is worked on.
pub type CloneAnswer<T> = Pin<Box<dyn Future<Output = Result<T, CloneRefused>> + Send>>;

/// Keeps the state of a workload's volumes for the time of one capture, at a cost that does not grow
/// with what is in them. Implemented by what provides volumes.
///
/// There is one clone of a volume at a time. It does not outlive the process that had it made.
pub trait VolumeClones: Debug + Send + Sync {
    /// Says whether [`Self::take`] would do, and writes out what it would have to wait for. The
    /// app runs meanwhile.
    fn prepare(&self, volumes: Vec<VolumeName>) -> CloneAnswer<()>;

    /// Keeps the state that these volumes have at one moment, in which nothing writes to any of
    /// them. The moment lies between the call and the answer.
    fn take(&self, volumes: Vec<VolumeName>, app: App) -> CloneAnswer<()>;

    /// Makes a kept state readable, and only that. Returns the directory that the container has as
    /// the volume; it is on a file system of its own.
    fn open(&self, volume: VolumeName) -> CloneAnswer<PathBuf>;

    /// Lets go of a kept state. One that does not exist is fine.
    fn discard(&self, volume: VolumeName) -> CloneAnswer<()>;
}

/// What the app does while the state of its volumes is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// It writes, and must be held back.
    Runs,
    /// It is stopped.
    Stopped,
}

/// Why the state of volumes is not kept. A capture is then made in another way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CloneRefused {
    /// What speaks against it, for an operator.
    pub reason: String,
}

/// What there is where no volume can be cloned.
#[derive(Debug)]
pub struct NoClones;

impl NoClones {
    fn refuse<T: Send + 'static>() -> CloneAnswer<T> {
        let reason = "these volumes cannot be cloned".to_owned();
        Box::pin(std::future::ready(Err(CloneRefused { reason })))
    }
}

impl VolumeClones for NoClones {
    fn prepare(&self, _: Vec<VolumeName>) -> CloneAnswer<()> {
        Self::refuse()
    }

    fn take(&self, _: Vec<VolumeName>, _: App) -> CloneAnswer<()> {
        Self::refuse()
    }

    fn open(&self, _: VolumeName) -> CloneAnswer<PathBuf> {
        Self::refuse()
    }

    fn discard(&self, _: VolumeName) -> CloneAnswer<()> {
        Self::refuse()
    }
}
