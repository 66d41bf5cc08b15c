//! What can go wrong with an engine, told apart by what a caller can do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Asking whether the engine is there.
    Ping,
    /// Looking an image up.
    Image,
    /// Pulling an image.
    Pull,
    /// Loading an image from a file.
    Load,
    /// Creating a container.
    Create,
    /// Starting it.
    Start,
    /// Stopping it.
    Stop,
    /// Sending it a signal.
    Kill,
    /// Removing it.
    Remove,
    /// Renaming it.
    Rename,
    /// Looking it up.
    Inspect,
    /// Listing containers or images.
    List,
    /// Following events.
    Events,
    /// Waiting for its end.
    Wait,
    /// Reading its output.
    Logs,
    /// Running a command in it.
    Exec,
    /// Freezing it.
    Pause,
    /// Thawing it.
    Unpause,
    /// Writing its processes to disk.
    Checkpoint,
    /// Bringing them back.
    Restore,
    /// Reading files out of it.
    ArchiveOut,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "ping",
            Self::Image => "look up",
            Self::Pull => "pull",
            Self::Load => "load",
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "signal",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Inspect => "inspect",
            Self::List => "list",
            Self::Events => "follow the events of",
            Self::Wait => "wait for",
            Self::Logs => "read the output of",
            Self::Exec => "run a command in",
            Self::Pause => "freeze",
            Self::Unpause => "thaw",
            Self::Checkpoint => "checkpoint",
            Self::Restore => "restore",
            Self::ArchiveOut => "read files of",
        })
    }
}

/// What it was done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The engine itself, by its socket.
    Engine(PathBuf),
    /// A container, by name or id as the caller gave it.
    Container(String),
    /// The containers of a listing.
    Containers,
    /// An image, by reference.
    Image(String),
    /// The images of a listing.
    Images,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(socket) => write!(f, "the engine at {}", socket.display()),
            Self::Container(name) => write!(f, "container {name}"),
            Self::Containers => f.write_str("containers"),
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::Images => f.write_str("images"),
        }
    }
}

/// An engine call that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The object, or one that it names such as its image, does not exist.
    #[error("cannot {operation} {object}: it does not exist ({detail})")]
    Absent {
        /// What was being done.
        operation: Operation,
        /// What is absent.
        object: Object,
        /// The engine's words.
        detail: String,
    },
    /// The object's name is taken, or its state forbids the operation.
    #[error("cannot {operation} {object}: {detail}")]
    Conflict {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// The engine's words.
        detail: String,
    },
    /// Something that the object needs is in use by another: a port, a mount, a lock.
    #[error("cannot {operation} {object}: something it needs is in use: {detail}")]
    Busy {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// The engine's words.
        detail: String,
    },
    /// The request can never work as it is.
    #[error("cannot {operation} {object}: {detail}")]
    Invalid {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// What is wrong with it.
        detail: String,
    },
    /// The registry or the engine wants other credentials.
    #[error("cannot {operation} {object}: not authorised: {detail}")]
    Denied {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// The engine's words.
        detail: String,
    },
    /// This engine cannot do it.
    #[error("cannot {operation} {object}: this engine does not support it: {detail}")]
    Unsupported {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// The engine's words.
        detail: String,
    },
    /// Nothing answers on the socket, or the connection broke. The outcome is not known.
    #[error("cannot {operation} {object}: the engine cannot be reached")]
    Unreachable {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// How the connection failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The deadline passed. The outcome is not known.
    #[error("cannot {operation} {object}: no answer within {after:?}")]
    TimedOut {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// The deadline.
        after: Duration,
    },
    /// The engine failed, or gave an answer that cannot be read. The outcome is not known.
    #[error("cannot {operation} {object}: {detail}")]
    Unknown {
        /// What was being done.
        operation: Operation,
        /// To what.
        object: Object,
        /// HTTP status, when there was one.
        status: Option<u16>,
        /// The engine's words, or what could not be read.
        detail: String,
    },
}

impl EngineError {
    /// Whether the same call may work later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Unknown { .. } => true,
            Self::Absent { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::Denied { .. }
            | Self::Unsupported { .. } => false,
        }
    }

    /// Whether it is known that the engine did nothing.
    pub fn is_outcome_known(&self) -> bool {
        match self {
            Self::Absent { .. }
            | Self::Conflict { .. }
            | Self::Busy { .. }
            | Self::Invalid { .. }
            | Self::Denied { .. }
            | Self::Unsupported { .. } => true,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unknown { .. } => false,
        }
    }

    /// Whether the object does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Absent { operation, .. }
            | Self::Conflict { operation, .. }
            | Self::Busy { operation, .. }
            | Self::Invalid { operation, .. }
            | Self::Denied { operation, .. }
            | Self::Unsupported { operation, .. }
            | Self::Unreachable { operation, .. }
            | Self::TimedOut { operation, .. }
            | Self::Unknown { operation, .. } => *operation,
        }
    }
}

/// Why a file did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the image file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not something that an image can be made of.
    #[error(
        "{path} is not an image: {found}; expected a tar, plain or gzip, of a root file system or of an image as saved by podman or docker"
    )]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The file holds more than one image, so that it is not clear which is meant.
    #[error("{path} holds several images ({}); save one by itself", .images.join(", "))]
    SeveralImages {
        /// The file.
        path: PathBuf,
        /// What it holds.
        images: Vec<String>,
    },
    /// The file changed while it was being read.
    #[error("{path} changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl LoadError {
    /// Whether the same file may load later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { .. } | Self::NotAnImage { .. } | Self::SeveralImages { .. } => false,
            Self::Changed { .. } => true,
            Self::Engine(error) => error.is_retryable(),
        }
    }
}
