//! What is shown of every volume.

use std::path::PathBuf;

use super::metadata::LastCheck;
use super::size::ByteSize;
use super::spec::{Allocation, FileSystem, VolumeId, VolumeRole};

/// One volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Which volume.
    pub id: VolumeId,
    /// Whether a workload names it. One that none names is kept and reported.
    pub configured: bool,
    /// What it is for, as far as its metadata can be read.
    pub role: Option<VolumeRole>,
    /// The file system inside, as far as its metadata can be read.
    pub file_system: Option<FileSystem>,
    /// Whether its space was taken in advance, as far as its metadata can be read.
    pub allocation: Option<Allocation>,
    /// The length of the image: what was promised.
    pub size: ByteSize,
    /// What the image takes on the host.
    pub allocated: ByteSize,
    /// How it is mounted, if it is.
    pub mounted: Option<MountStatus>,
    /// The last check of its file system.
    pub last_check: Option<LastCheck>,
    /// Why it cannot be read as a volume, in words.
    pub fault: Option<String>,
}

impl VolumeStatus {
    /// Whether no workload names it.
    pub fn is_orphan(&self) -> bool {
        !self.configured
    }
}

/// A mounted volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStatus {
    /// Where.
    pub target: PathBuf,
    /// The loop device under it.
    pub device: PathBuf,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether reads and writes go past the host's page cache.
    pub direct_io: bool,
    /// Bytes that the file system can hold.
    pub total: ByteSize,
    /// Bytes that are taken.
    pub used: ByteSize,
    /// Bytes that the workload can still take.
    pub available: ByteSize,
    /// Files that the file system can hold; zero where it sets no limit.
    pub inodes: u64,
    /// Files that can still be made.
    pub inodes_available: u64,
    /// Errors that the file system counted since it was made, where it counts them (ext4).
    pub errors: u64,
    /// Whether the file system answers with an i/o error.
    pub failed: bool,
}

impl MountStatus {
    /// How much of what the workload can have is taken, in percent, rounded up.
    pub fn bytes_percent(&self) -> u8 {
        let used = self.used.as_u64();
        percent(used, used.saturating_add(self.available.as_u64()))
    }

    /// How many of the files that can exist do, in percent, rounded up.
    pub fn inodes_percent(&self) -> u8 {
        percent(self.inodes.saturating_sub(self.inodes_available), self.inodes)
    }
}

fn percent(part: u64, whole: u64) -> u8 {
    if whole == 0 {
        return 0;
    }
    let rounded_up = (u128::from(part) * 100).div_ceil(u128::from(whole)).min(100);
    u8::try_from(rounded_up).expect("it is at most 100")
}

/// The host's file system under the images, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostStatus {
    /// Bytes that it can still give.
    pub available: ByteSize,
    /// Bytes that the volumes were promised.
    pub promised: ByteSize,
    /// Bytes of the promises that are not allocated yet.
    pub missing: ByteSize,
}

impl HostStatus {
    /// Whether the host could not keep all promises at once.
    pub fn is_overcommitted(&self) -> bool {
        self.missing > self.available
    }
}
