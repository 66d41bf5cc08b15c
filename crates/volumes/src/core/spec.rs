//! What a volume should be, and the refusals that need no look at the host.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use belay_protocol::{VolumeName, WorkloadName};
use serde::{Deserialize, Serialize};

use super::size::ByteSize;

/// The reserved name of the volume that carries the control files of a workload.
pub const SYSTEM_VOLUME: &str = "system";

/// The size of the system volume.
pub const SYSTEM_VOLUME_SIZE: ByteSize = ByteSize::mib(10);

/// Names one volume on this node. Its text form is `workload/volume`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId {
    /// The workload that the volume belongs to.
    pub workload: WorkloadName,
    /// The volume's name within the workload.
    pub volume: VolumeName,
}

/// A text that does not name a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVolumeId {
    /// There is no slash, or more than one.
    #[error("{found:?} does not name a volume: expected workload/volume")]
    Shape {
        /// The text as found, cut to 140 characters.
        found: String,
    },
    /// One of the two names is wrong.
    #[error(transparent)]
    Name(#[from] belay_protocol::InvalidName),
}

impl VolumeId {
    /// The id of the workload's system volume.
    ///
    /// # Panics
    /// Never: the reserved name is a valid one.
    pub fn system(workload: WorkloadName) -> Self {
        let volume = SYSTEM_VOLUME.parse().expect("the reserved name is a volume name");
        Self { workload, volume }
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workload, self.volume)
    }
}

impl FromStr for VolumeId {
    type Err = InvalidVolumeId;
    fn from_str(text: &str) -> Result<Self, InvalidVolumeId> {
        let shape = || InvalidVolumeId::Shape { found: text.chars().take(140).collect() };
        let (workload, volume) = text.split_once('/').ok_or_else(shape)?;
        if volume.contains('/') {
            return Err(shape());
        }
        Ok(Self { workload: workload.parse()?, volume: volume.parse()? })
    }
}

impl TryFrom<String> for VolumeId {
    type Error = InvalidVolumeId;
    fn try_from(text: String) -> Result<Self, InvalidVolumeId> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> String {
        id.to_string()
    }
}

/// The file system inside a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// The default: any size from 8 MiB on, exact free space, a reserve that containers cannot use.
    #[default]
    Ext4,
    /// From 300 MiB on; copies files by reference.
    Xfs,
    /// From 256 MiB on; its free space is a promise with exceptions.
    Btrfs,
}

impl FileSystem {
    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no known file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a file system for volumes: use ext4, xfs or btrfs")]
pub struct InvalidFileSystem {
    /// The text as found, cut to 40 characters.
    pub found: String,
}

impl FromStr for FileSystem {
    type Err = InvalidFileSystem;
    fn from_str(text: &str) -> Result<Self, InvalidFileSystem> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            other => Err(InvalidFileSystem { found: other.chars().take(40).collect() }),
        }
    }
}

/// Whether the host's space is taken when the volume is made, or as it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// Every block is allocated and stays so: the size is a promise.
    #[default]
    Full,
    /// Blocks are allocated as they are written and given back by a trim: the host can run out.
    Thin,
}

/// Who owns the root of a volume's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeRole {
    /// Holds what the workload stores.
    #[default]
    Data,
    /// Carries the control files between the workload and this daemon.
    System,
}

/// Whether programs on the volume may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Execution {
    /// They may.
    #[default]
    Allowed,
    /// The volume is mounted noexec.
    Denied,
}

/// What a volume should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Which volume.
    pub id: VolumeId,
    /// Its size; rounded up to whole blocks of 4 KiB.
    pub size: ByteSize,
    /// The file system inside.
    pub file_system: FileSystem,
    /// Whether the host's space is taken in advance.
    pub allocation: Allocation,
    /// Who owns the root of the data; root when absent.
    pub owner: Option<Owner>,
    /// What it is for.
    pub role: VolumeRole,
    /// Whether programs on it may be run.
    pub execution: Execution,
}

impl VolumeSpec {
    /// A fully allocated ext4 volume for data, owned by root.
    pub fn data(id: VolumeId, size: ByteSize) -> Self {
        Self {
            id,
            size,
            file_system: FileSystem::Ext4,
            allocation: Allocation::Full,
            owner: None,
            role: VolumeRole::Data,
            execution: Execution::Allowed,
        }
    }

    /// The system volume of a workload: 10 MiB, owned by root, nothing on it can be run.
    pub fn system(workload: WorkloadName) -> Self {
        Self {
            id: VolumeId::system(workload),
            size: SYSTEM_VOLUME_SIZE,
            file_system: FileSystem::Ext4,
            allocation: Allocation::Full,
            owner: None,
            role: VolumeRole::System,
            execution: Execution::Denied,
        }
    }
}

/// How a mounted volume came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This call made it: it is empty.
    Created,
    /// It existed before.
    Existing,
}

/// A volume that is ready to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// Which volume.
    pub id: VolumeId,
    /// Where its file system is mounted on the host.
    pub mount: PathBuf,
    /// The directory to give to the container.
    pub data: PathBuf,
    /// A directory of root's own on the same file system, invisible to the container.
    pub private: PathBuf,
    /// The loop device under it. Valid while it is mounted and not to be remembered beyond.
    pub device: PathBuf,
    /// The size of the image.
    pub size: ByteSize,
    /// Whether this call made it.
    pub origin: Origin,
}
