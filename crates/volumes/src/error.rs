//! What can go wrong, one type per operation.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::generation::GenerationName;
use crate::core::plan::Refusal;
use crate::core::size::ByteSize;
use crate::core::spec::{FileSystem, VolumeId};
use crate::holders::Holder;

/// An operation of the operating system that failed, on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", subject.display())]
pub struct IoFault {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On what.
    pub subject: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl IoFault {
    pub(crate) fn new(
        action: &'static str,
        subject: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self { action, subject: subject.into(), source: source.into() }
    }

    /// For `map_err`.
    pub(crate) fn on<E: Into<io::Error>>(
        action: &'static str,
        subject: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::new(action, subject, source)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// A tool that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed where it is expected.
    #[error("{} is not installed; install the package {package}", tool.display())]
    Missing {
        /// Its path.
        tool: PathBuf,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It could not be started or waited for.
    #[error("cannot run {}", tool.display())]
    Run {
        /// Its path.
        tool: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("{} {subject}: {status}: {output}", tool.display())]
    Failed {
        /// Its path.
        tool: PathBuf,
        /// What it worked on.
        subject: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// It took too long and was killed.
    #[error("{} {subject} took more than {}s and was killed", tool.display(), limit.as_secs())]
    TimedOut {
        /// Its path.
        tool: PathBuf,
        /// What it worked on.
        subject: String,
        /// The limit.
        limit: Duration,
    },
}

/// Why the directory of volumes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} belongs to another running daemon", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There are no loop devices.
    #[error("loop devices are not available; load the module with 'modprobe loop'")]
    NoLoopDevices(#[source] IoFault),
    /// The configured range of loop devices is empty.
    #[error("the range of loop device numbers is empty")]
    NoMinors,
    /// The pool's image cannot be used as it is, and was not touched.
    #[error("pool: {0}")]
    Pool(Refusal),
    /// The host has not enough space for the pool.
    #[error("the pool needs {needed} on the host, which has {available} to give")]
    PoolTooLarge {
        /// What it needs.
        needed: ByteSize,
        /// What there is beyond what is kept free.
        available: ByteSize,
    },
    /// A tool that every volume needs is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoFault),
}

/// Why a volume could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// Nothing was touched, and the state of things is why.
    #[error("volume {id}: {refusal}")]
    Refused {
        /// Which volume.
        id: VolumeId,
        /// Why.
        refusal: Refusal,
    },
    /// The host has not enough space for it.
    #[error(
        "volume {id} needs {needed} on the host, {} has {available} to give; free space, or ask \
         for less",
        directory.display()
    )]
    HostFull {
        /// Which volume.
        id: VolumeId,
        /// What it needs.
        needed: ByteSize,
        /// What there is beyond what is kept free.
        available: ByteSize,
        /// Where.
        directory: PathBuf,
    },
    /// The file system needs a person.
    #[error("volume {id}: its file system is damaged and was not mounted: {report}")]
    Damaged {
        /// Which volume.
        id: VolumeId,
        /// What the check wrote last.
        report: String,
    },
    /// No loop device of the configured range is free.
    #[error("volume {id}: all {count} loop devices of the range are taken")]
    NoFreeDevice {
        /// Which volume.
        id: VolumeId,
        /// How many were tried.
        count: u32,
    },
    /// A tool failed.
    #[error("volume {id}")]
    Tool {
        /// Which volume.
        id: VolumeId,
        /// How.
        #[source]
        source: Box<ToolError>,
    },
    /// The system refused.
    #[error("volume {id}")]
    Io {
        /// Which volume.
        id: VolumeId,
        /// What.
        #[source]
        source: IoFault,
    },
}

impl EnsureError {
    /// Whether trying again later, with nothing changed by a person, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => match refusal {
                Refusal::MountPointTaken { .. }
                | Refusal::SeveralDevices { .. }
                | Refusal::OtherUse { .. }
                | Refusal::ReadOnly
                | Refusal::InUse { .. } => true,
                Refusal::Spec(_)
                | Refusal::NotAFile
                | Refusal::Unrecognised
                | Refusal::OtherFileSystem { .. }
                | Refusal::OtherImage { .. }
                | Refusal::Unmarked
                | Refusal::Truncated { .. }
                | Refusal::Shrink { .. }
                | Refusal::GrowthNeedsRelease { .. }
                | Refusal::NoVolume => false,
            },
            Self::HostFull { .. } | Self::NoFreeDevice { .. } | Self::Io { .. } => true,
            Self::Tool { source, .. } => match **source {
                ToolError::Missing { .. } => false,
                ToolError::Run { .. } | ToolError::Failed { .. } | ToolError::TimedOut { .. } => {
                    true
                }
            },
            Self::Damaged { .. } => false,
        }
    }
}

/// Why a volume is not released yet.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Nothing was touched, and the state of things is why.
    #[error("volume {id}: {refusal}")]
    Refused {
        /// Which volume.
        id: VolumeId,
        /// Why.
        refusal: Refusal,
    },
    /// Processes use it.
    #[error("volume {id} is busy: {}", describe(holders))]
    Busy {
        /// Which volume.
        id: VolumeId,
        /// Who uses it.
        holders: Vec<Holder>,
    },
    /// It is unmounted here, but the kernel still has the image in use.
    #[error("volume {id} is unmounted, but /dev/loop{minor} still holds it: {}", describe(holders))]
    StillAttached {
        /// Which volume.
        id: VolumeId,
        /// Which loop device.
        minor: u32,
        /// Who sees a mount of it.
        holders: Vec<Holder>,
    },
    /// The system refused.
    #[error("volume {id}")]
    Io {
        /// Which volume.
        id: VolumeId,
        /// What.
        #[source]
        source: IoFault,
    },
}

impl ReleaseError {
    /// Whether trying again later, with nothing changed by a person, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::Busy { .. } | Self::StillAttached { .. } | Self::Io { .. } => true,
        }
    }

    /// The processes that hold it, as far as they were found.
    pub fn holders(&self) -> &[Holder] {
        match self {
            Self::Busy { holders, .. } | Self::StillAttached { holders, .. } => holders,
            Self::Refused { .. } | Self::Io { .. } => &[],
        }
    }
}

/// Why a volume was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Nothing was touched, and the state of things is why.
    #[error("volume {id}: {refusal}")]
    Refused {
        /// Which volume.
        id: VolumeId,
        /// Why.
        refusal: Refusal,
    },
    /// The system refused.
    #[error("volume {id}")]
    Io {
        /// Which volume.
        id: VolumeId,
        /// What.
        #[source]
        source: IoFault,
    },
}

impl RemoveError {
    /// Whether trying again later, with nothing changed by a person, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => matches!(refusal, Refusal::InUse { .. }),
            Self::Io { .. } => true,
        }
    }
}

/// Why the volumes could not be listed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ListError(#[from] pub(crate) IoFault);

/// Why an existing volume could not be cared for.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// Nothing was touched, and the state of things is why.
    #[error("volume {id}: {refusal}")]
    Refused {
        /// Which volume.
        id: VolumeId,
        /// Why.
        refusal: Refusal,
    },
    /// Its space is promised and stays allocated.
    #[error("volume {id} is fully allocated and is not trimmed; only thin volumes are")]
    FullyAllocated {
        /// Which volume.
        id: VolumeId,
    },
    /// There is no tool that may be trusted with it.
    #[error("volume {id}: {file_system} is not repaired automatically; follow its own manual")]
    NoRepair {
        /// Which volume.
        id: VolumeId,
        /// Its file system.
        file_system: FileSystem,
    },
    /// Its file system is damaged.
    #[error("volume {id}: its file system is damaged: {report}")]
    Damaged {
        /// Which volume.
        id: VolumeId,
        /// What the check wrote last.
        report: String,
    },
    /// A tool failed.
    #[error("volume {id}")]
    Tool {
        /// Which volume.
        id: VolumeId,
        /// How.
        #[source]
        source: Box<ToolError>,
    },
    /// It has to be mounted for this.
    #[error("volume {id} is not mounted")]
    NotMounted {
        /// Which volume.
        id: VolumeId,
    },
    /// The system refused.
    #[error("volume {id}")]
    Io {
        /// Which volume.
        id: VolumeId,
        /// What.
        #[source]
        source: IoFault,
    },
}

/// Why a generation of a volume could not be kept, read or put in place.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// Nothing was touched, and the state of things is why.
    #[error("volume {id}: {refusal}")]
    Refused {
        /// Which volume.
        id: VolumeId,
        /// Why.
        refusal: Refusal,
    },
    /// There is no generation of this name.
    #[error("volume {id} has no generation {name}")]
    NoGeneration {
        /// Which volume.
        id: VolumeId,
        /// Which generation.
        name: GenerationName,
    },
    /// The file system of the images cannot clone by reference.
    #[error(
        "volume {id}: its images lie on a file system that cannot clone by reference; use xfs or          btrfs there, or a pool"
    )]
    NotCloning {
        /// Which volume.
        id: VolumeId,
    },
    /// Later writes to the volume might find no space on the host.
    #[error(
        "volume {id}: a generation may come to need {needed}, and {available} are not committed;          delete generations or free space"
    )]
    NoRoom {
        /// Which volume.
        id: VolumeId,
        /// What it may need.
        needed: ByteSize,
        /// What there is for it.
        available: ByteSize,
    },
    /// A mounted volume is not frozen without a watchdog.
    #[error("volume {id} is mounted, and no watchdog is configured to thaw it")]
    NoWatchdog {
        /// Which volume.
        id: VolumeId,
    },
    /// What is mounted in the volume's place does not show that it is on the volume's device: btrfs
    /// never does.
    #[error("volume {id} cannot be seen to be on its own device and was not frozen; release it")]
    NotMountedHere {
        /// Which volume.
        id: VolumeId,
    },
    /// Its writers would be held back for too long.
    #[error(
        "volume {id}: its image lies in {extents} pieces, and cloning it would hold its writers \
         back for too long"
    )]
    Scattered {
        /// Which volume.
        id: VolumeId,
        /// In how many pieces.
        extents: u32,
    },
    /// The watchdog thawed the volume before the clone was complete.
    #[error("volume {id} was frozen for too long and was thawed; nothing was kept")]
    TooLong {
        /// Which volume.
        id: VolumeId,
    },
    /// The system refused.
    #[error("volume {id}")]
    Io {
        /// Which volume.
        id: VolumeId,
        /// What.
        #[source]
        source: IoFault,
    },
}

fn describe(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "by a process that could not be found".to_owned();
    }
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
