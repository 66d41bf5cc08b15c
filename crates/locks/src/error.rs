//! Why a lock was not had, and why one could not be broken.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::holder::Holder;
use crate::core::name::{LockName, OutOfOrder};
use crate::core::semantics::Broken;

/// A lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// Somebody else has it, and the caller's patience is over.
    #[error(transparent)]
    Held(#[from] Box<HeldError>),
    /// The place where the locks lie cannot be used. Nobody gets a lock, so nothing is changed.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The caller holds a lock that comes after it: a fault of the program.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
}

/// Who has a lock that was not had.
#[derive(Debug, thiserror::Error)]
#[error("{lock} is locked by {line}; {verdict}", verdict = holder.verdict())]
pub struct HeldError {
    /// The lock.
    pub lock: LockName,
    /// Who has it.
    pub holder: Holder,
    /// The same in words.
    pub line: String,
    /// How long it was waited for.
    pub waited: Duration,
}

/// Why the locks cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A file or directory cannot be made or opened.
    #[error("the locks in {path} cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is not the one that it was when this process began.
    #[error(
        "the lock directory {path} was removed or replaced; who holds what can be told only after \
         a restart of whoever uses it"
    )]
    Replaced {
        /// Which.
        path: PathBuf,
    },
    /// The file system does not keep locks.
    #[error("the file system of {path} does not keep locks as flock(2) says")]
    Semantics {
        /// The directory.
        path: PathBuf,
        /// What it does instead.
        source: Broken,
    },
}

impl Unusable {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// A lock could not be broken.
#[derive(Debug, thiserror::Error)]
pub enum BreakError {
    /// Its holder is this process.
    #[error("{0} is held by this process itself")]
    Own(LockName),
    /// Who holds it cannot be proved, so nobody is ended.
    #[error(
        "who holds the lock of {lock} cannot be proved, so nobody was ended: {line}; {file} shows \
         it to `fuser`"
    )]
    Unproved {
        /// The lock.
        lock: LockName,
        /// What is known.
        line: String,
        /// Its file.
        file: PathBuf,
    },
    /// Its holder did not end.
    #[error("pid {pid}, which holds the lock of {lock}, did not end")]
    Survived {
        /// The lock.
        lock: LockName,
        /// Who holds it.
        pid: u32,
    },
    /// A signal could not be sent.
    #[error("cannot signal pid {pid}, which holds the lock of {lock}")]
    Signal {
        /// The lock.
        lock: LockName,
        /// Who holds it.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The locks cannot be looked at.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}
