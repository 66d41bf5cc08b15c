//! What differs between file systems: how small they can be, how they are made and mounted.

use super::size::ByteSize;
use super::spec::{Allocation, Execution, FileSystem, VolumeSpec};
use super::superblock::{FileSystemId, LABEL};

/// The unit that sizes of images are rounded up to: one block of every file system used here, and
/// what direct I/O asks for on disks with 4 KiB sectors.
pub(crate) const BLOCK: u64 = 4096;

/// The largest size asked for without looking at the host: what ext4 of 4 KiB blocks can hold.
pub(crate) const LARGEST: ByteSize = ByteSize::bytes(1 << 44);

/// What the installed `mkfs.ext4` can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ext4Tools {
    /// e2fsprogs 1.47 or later: a zeroed image needs no inode tables written.
    AssumesZeroes,
    /// Earlier ones: the inode tables are written now, because writing them after the mount would
    /// punch the image empty.
    WritesZeroes,
}

/// Reads the first line of `mkfs.ext4 -V`, such as `mke2fs 1.47.0 (5-Feb-2023)`.
pub(crate) fn ext4_tools(version: &str) -> Ext4Tools {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) >= (1, 47) { Ext4Tools::AssumesZeroes } else { Ext4Tools::WritesZeroes }
}

/// The smallest image that the file system is made on.
pub(crate) const fn minimum(file_system: FileSystem) -> ByteSize {
    match file_system {
        // 2048 blocks are the least that get a journal.
        FileSystem::Ext4 => ByteSize::mib(8),
        FileSystem::Xfs => ByteSize::mib(300),
        // It could be made on less, but the kernel resizes none that is smaller.
        FileSystem::Btrfs => ByteSize::mib(256),
    }
}

/// The share of the file system, in percent, and the user that it is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserve {
    pub(crate) percent: u8,
    pub(crate) uid: u32,
}

/// The command line that makes the file system, without the image's path, which comes last.
pub(crate) fn mkfs_arguments(
    file_system: FileSystem,
    size: ByteSize,
    id: FileSystemId,
    reserve: Reserve,
    tools: Ext4Tools,
) -> Vec<String> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match file_system {
        FileSystem::Ext4 => {
            // Small volumes hold small files: more inodes per byte.
            let bytes_per_inode = if size <= ByteSize::mib(64) { 8192 } else { 16384 };
            let zeroes = match tools {
                Ext4Tools::AssumesZeroes => "nodiscard,assume_storage_prezeroed=1",
                Ext4Tools::WritesZeroes => "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            };
            words(&format!(
                "-q -F -b {BLOCK} -m {} -i {bytes_per_inode} -O metadata_csum_seed -U {id} -L \
                 {LABEL} -e remount-ro -E {zeroes},root_owner=0:0",
                reserve.percent
            ))
        }
        // An image with shared blocks takes direct I/O in units of 4 KiB only, and so does its device:
        // a file system of smaller sectors could no longer be mounted.
        FileSystem::Xfs => words(&format!("-q -K -s size={BLOCK} -m uuid={id} -L {LABEL}")),
        FileSystem::Btrfs => words(&format!("-q -K -m single -d single -U {id} -L {LABEL}")),
    }
}

/// The file system's own mount options.
pub(crate) fn mount_data(file_system: FileSystem, reserve: Reserve) -> String {
    match file_system {
        FileSystem::Ext4 => format!("errors=remount-ro,resuid={}", reserve.uid),
        FileSystem::Xfs => String::new(),
        // Asynchronous discard is on by default there and would punch the image empty.
        FileSystem::Btrfs => "nodiscard".to_owned(),
    }
}

/// Why a specification is refused before anything is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecFault {
    /// The file system needs more.
    #[error(
        "volume {volume}: {size} is too small for {file_system}, which needs at least {minimum}"
    )]
    TooSmall {
        /// The volume's name.
        volume: String,
        /// What was asked for.
        size: ByteSize,
        /// The file system.
        file_system: FileSystem,
        /// The least it takes.
        minimum: ByteSize,
    },
    /// No file system here is that large.
    #[error("volume {volume}: {size} is more than a volume can have ({LARGEST})")]
    TooLarge {
        /// The volume's name.
        volume: String,
        /// What was asked for.
        size: ByteSize,
    },
}

/// The size of the image that holds the volume, or why there is none.
pub(crate) fn image_size(spec: &VolumeSpec) -> Result<ByteSize, SpecFault> {
    let volume = || spec.id.volume.to_string();
    let (size, file_system) = (spec.size, spec.file_system);
    let rounded = size
        .round_up(BLOCK)
        .filter(|&rounded| rounded <= LARGEST)
        .ok_or_else(|| SpecFault::TooLarge { volume: volume(), size })?;
    let minimum = minimum(file_system);
    if rounded < minimum {
        return Err(SpecFault::TooSmall { volume: volume(), size, file_system, minimum });
    }
    Ok(rounded)
}

/// Checks a specification without looking at the host, for configuration that is read before
/// anything runs.
pub fn check_spec(spec: &VolumeSpec) -> Result<(), SpecFault> {
    image_size(spec).map(|_| ())
}

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) file_system: FileSystem,
    pub(crate) execution: Execution,
    pub(crate) data: String,
}

/// How this volume is mounted.
pub(crate) fn mount_options(spec: &VolumeSpec, reserve: Reserve) -> MountOptions {
    MountOptions {
        file_system: spec.file_system,
        execution: spec.execution,
        data: mount_data(spec.file_system, reserve),
    }
}

/// Whether the device under a volume may pass discards on to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discard {
    /// It may: that is how a thin volume gives space back.
    Passed,
    /// It may not: the reservation would leak away.
    Refused,
}

impl From<Allocation> for Discard {
    fn from(allocation: Allocation) -> Self {
        match allocation {
            Allocation::Full => Self::Refused,
            Allocation::Thin => Self::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: ByteSize, file_system: FileSystem) -> VolumeSpec {
        VolumeSpec { file_system, ..VolumeSpec::data("web/store".parse().expect("an id"), size) }
    }

    #[test]
    fn sizes_are_rounded_up_to_whole_blocks() {
        let odd = spec(ByteSize::bytes(ByteSize::mib(10).as_u64() + 1), FileSystem::Ext4);
        assert_eq!(image_size(&odd).map(ByteSize::as_u64), Ok(10 * 1024 * 1024 + 4096));
    }

    #[test]
    fn a_size_below_the_file_systems_least_is_refused_with_both_numbers() {
        for (file_system, least) in
            [(FileSystem::Ext4, "8Mi"), (FileSystem::Xfs, "300Mi"), (FileSystem::Btrfs, "256Mi")]
        {
            for size in [ByteSize::ZERO, minimum(file_system).saturating_sub(ByteSize::kib(4))] {
                let error =
                    image_size(&spec(size, file_system)).expect_err("too small").to_string();
                assert!(error.contains(least) && error.contains(&size.to_string()), "{error}");
            }
            assert!(image_size(&spec(minimum(file_system), file_system)).is_ok());
        }
    }

    #[test]
    fn a_size_beyond_the_largest_is_refused_and_does_not_overflow() {
        for size in [u64::MAX, (1 << 44) + 1] {
            assert!(matches!(
                image_size(&spec(ByteSize::bytes(size), FileSystem::Ext4)),
                Err(SpecFault::TooLarge { .. })
            ));
        }
    }

    #[test]
    fn the_version_of_the_tools_decides_who_zeroes() {
        assert_eq!(ext4_tools("mke2fs 1.47.0 (5-Feb-2023)"), Ext4Tools::AssumesZeroes);
        assert_eq!(ext4_tools("mke2fs 1.47.1-rc1"), Ext4Tools::AssumesZeroes);
        assert_eq!(ext4_tools("mke2fs 2.0"), Ext4Tools::AssumesZeroes);
        assert_eq!(ext4_tools("mke2fs 1.46.6 (1-Feb-2023)"), Ext4Tools::WritesZeroes);
        assert_eq!(ext4_tools(""), Ext4Tools::WritesZeroes);
    }

    #[test]
    fn no_mkfs_is_allowed_to_discard() {
        let id = "00112233-4455-6677-8899-aabbccddeeff".parse().expect("an id");
        let reserve = Reserve { percent: 5, uid: 1 };
        for tools in [Ext4Tools::AssumesZeroes, Ext4Tools::WritesZeroes] {
            for (file_system, flag) in [
                (FileSystem::Ext4, "nodiscard"),
                (FileSystem::Xfs, "-K"),
                (FileSystem::Btrfs, "-K"),
            ] {
                let arguments =
                    mkfs_arguments(file_system, ByteSize::mib(512), id, reserve, tools).join(" ");
                assert!(arguments.contains(flag), "{arguments}");
                assert!(arguments.contains(&id.to_string()), "{arguments}");
            }
        }
    }
}
