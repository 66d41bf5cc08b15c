//! Fixed-size loopback volumes: a file with a file system in it, attached to a loop device and
//! mounted, so that a workload has exactly the space it was promised and never takes the host's.
//!
//! `core` decides: sizes, places, and which steps lead from what is to what should be. The rest
//! looks and acts: ioctls, mounts, and the tools that make and check file systems. [`Volumes`] is
//! the handle. It starts no task of its own; an operation runs on a blocking thread to its end,
//! also when its caller is gone, one at a time for each volume and a bounded number in all.

mod care;
mod core;
mod ensure;
mod error;
mod failpoint;
mod freeze;
mod generation;
mod holders;
mod image;
mod ioctl;
mod loop_device;
mod observe;
mod pool;
mod release;
mod reserve;
mod root;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod tool;
mod volumes;

pub use care::{CheckMode, CheckReport};
pub use core::file_system::{SpecFault, check_spec};
pub use core::generation::GenerationName;
pub use core::health::{HealthTracker, Level, Thresholds, VolumeEvent};
pub use core::layout::{MountPointFault, check_mount_points};
pub use core::metadata::{CheckOutcome, LastCheck};
pub use core::owner::{OwnerFault, image_owner};
pub use core::plan::Refusal;
pub use core::size::{ByteSize, InvalidSize};
pub use core::spec::{
    Allocation, Execution, FileSystem, InvalidFileSystem, InvalidVolumeId, MountedVolume, Origin,
    Owner, SYSTEM_VOLUME, SYSTEM_VOLUME_SIZE, VolumeId, VolumeRole, VolumeSpec,
};
pub use core::status::{HostStatus, MountStatus, VolumeStatus};
pub use core::superblock::{FileSystemId, InvalidFileSystemId};
pub use error::{
    CareError, EnsureError, GenerationError, IoFault, ListError, OpenError, ReleaseError,
    RemoveError, ToolError,
};
pub use freeze::{Watchdog, thaw_watchdog};
pub use generation::{Cloning, Generation, MountedGeneration};
pub use holders::{Hold, Holder};
pub use reserve::place;
pub use volumes::{Recovered, Volumes, VolumesConfig};
