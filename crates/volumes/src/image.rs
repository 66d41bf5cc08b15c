//! The files that are a volume: image and metadata, in a directory that appears whole.

use std::fs::TryLockError;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::libc;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use crate::core::layout::Layout;
use crate::core::metadata::{self, FoundMetadata, Metadata};
use crate::core::plan::ObservedImage;
use crate::core::size::ByteSize;
use crate::core::spec::Allocation;
use crate::core::superblock::{self, FileSystemId};
use crate::error::IoFault;
use crate::ioctl;

/// How long to wait for a tool of an earlier daemon to let go of an image.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Makes a directory for root alone, and those above it. Present ones are left as they are.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<(), IoFault> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(IoFault::on("create", path))
}

/// Makes a directory for an image. On btrfs, blocks of an image are promised only when they are
/// overwritten in place; files take that over from their directory.
pub(crate) fn make_image_directory(path: &Path) -> Result<(), IoFault> {
    make_directory(path, 0o700)?;
    let kind = statfs(path).map_err(IoFault::on("query", path))?.filesystem_type();
    if kind != BTRFS_SUPER_MAGIC {
        return Ok(());
    }
    let directory = File::open(path).map_err(IoFault::on("open", path))?;
    ioctl::overwrite_in_place(&directory).map_err(IoFault::on("set the flags of", path))
}

/// Deletes a directory with everything in it. An absent one is fine.
pub(crate) fn delete_directory(path: &Path) -> Result<(), IoFault> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(IoFault::on("delete", path)),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), IoFault> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(IoFault::on("sync", path))
}

/// A new identity for a file system.
pub(crate) fn new_file_system_id() -> Result<FileSystemId, IoFault> {
    let source = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(source).map_err(IoFault::on("read", source))?;
    text.trim().parse().map_err(|error| IoFault::new("read", source, io::Error::other(error)))
}

/// An image that is open and locked against other users of this crate, in whatever process. The
/// lock is not given back but ends with the last copy of the descriptor: one may be with a tool
/// that could not be killed yet.
#[derive(Debug)]
pub(crate) struct LockedImage(File);

impl Deref for LockedImage {
    type Target = File;
    fn deref(&self) -> &File {
        &self.0
    }
}

/// Creates the image of a volume that is being built.
pub(crate) fn create(path: &Path) -> Result<LockedImage, IoFault> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(IoFault::on("create", path))?;
    lock(path, file)
}

/// Opens and locks an existing image. Waits for a tool that an earlier daemon left at work on it.
pub(crate) fn open(path: &Path) -> Result<LockedImage, IoFault> {
    lock(path, open_unlocked(path)?)
}

/// Opens an existing image with a descriptor of its own.
pub(crate) fn open_unlocked(path: &Path) -> Result<File, IoFault> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(IoFault::on("open", path))
}

fn lock(path: &Path, file: File) -> Result<LockedImage, IoFault> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(LockedImage(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(IoFault::new("lock", path, io::Error::from(error))),
        }
    }
}

/// Gives the image its length, and its blocks when they are promised.
pub(crate) fn extend(
    path: &Path,
    image: &File,
    size: ByteSize,
    allocation: Allocation,
) -> Result<(), IoFault> {
    match allocation {
        Allocation::Full => allocate(path, image, size, FallocateFlags::empty()),
        Allocation::Thin => image.set_len(size.as_u64()).map_err(IoFault::on("extend", path)),
    }
}

/// Allocates every block of the image that is missing, and leaves its length alone.
pub(crate) fn reserve(path: &Path, image: &File, size: ByteSize) -> Result<(), IoFault> {
    let done = allocate(path, image, size, FallocateFlags::FALLOC_FL_KEEP_SIZE);
    let allocated = image.metadata().map_err(IoFault::on("query", path))?.blocks() * 512;
    match done {
        Ok(()) if allocated >= size.as_u64() => Ok(()),
        Ok(()) => {
            let missing = size.as_u64() - allocated;
            let error = io::Error::other(format!("{missing} bytes are not allocated"));
            Err(IoFault::new("reserve", path, error))
        }
        // XFS wants room for the whole length before it looks at what is allocated already.
        Err(fault) if fault.is_full() && allocated >= size.as_u64() => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn allocate(
    path: &Path,
    image: &File,
    size: ByteSize,
    flags: FallocateFlags,
) -> Result<(), IoFault> {
    let length = i64::try_from(size.as_u64())
        .map_err(|error| IoFault::new("allocate", path, io::Error::other(error)))?;
    loop {
        match fallocate(image, flags, 0, length) {
            Err(Errno::EINTR) => {}
            done => return done.map_err(IoFault::on("allocate", path)),
        }
    }
}

/// Bytes that the file system of this directory can still give.
pub(crate) fn available(directory: &Path) -> Result<ByteSize, IoFault> {
    let found = statvfs(directory).map_err(IoFault::on("query", directory))?;
    Ok(ByteSize::bytes(found.blocks_available().saturating_mul(found.fragment_size())))
}

/// Gives the built volume its name. Fails when the name is taken.
pub(crate) fn publish(building: &Path, volume: &Path, workload: &Path) -> Result<(), IoFault> {
    sync_directory(building)?;
    renameat2(AT_FDCWD, building, AT_FDCWD, volume, RenameFlags::RENAME_NOREPLACE)
        .map_err(IoFault::on("rename", building))?;
    sync_directory(workload)?;
    match workload.parent() {
        Some(images) => sync_directory(images),
        None => Ok(()),
    }
}

/// Looks at the image without changing anything.
pub(crate) fn observe(path: &Path) -> Result<(ObservedImage, Option<fs::Metadata>), IoFault> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((ObservedImage::Absent, None));
        }
        Err(error) => return Err(IoFault::new("query", path, error)),
    };
    if !found.is_file() {
        return Ok((ObservedImage::NotAFile, None));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(IoFault::on("open", path))?;
    let mut head = vec![0; superblock::HEAD];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(IoFault::new("read", path, error)),
        }
    }
    head.truncate(filled);
    let image =
        ObservedImage::Present { size: found.len(), superblock: superblock::recognise(&head) };
    Ok((image, Some(found)))
}

/// Reads the metadata beside an image. What cannot be read as metadata is reported as such.
pub(crate) fn read_metadata(path: &Path) -> Result<FoundMetadata, IoFault> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FoundMetadata::Absent),
        Err(error) => return Ok(FoundMetadata::Corrupt(error.to_string())),
    };
    let mut content = Vec::new();
    match file.take(metadata::LIMIT).read_to_end(&mut content) {
        Ok(_) => Ok(FoundMetadata::read(&content)),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Ok(FoundMetadata::Corrupt(error.to_string()))
        }
        Err(error) => Err(IoFault::new("read", path, error)),
    }
}

/// Writes the metadata of the volume in this directory: whole or not at all.
pub(crate) fn write_metadata(directory: &Path, metadata: &Metadata) -> Result<(), IoFault> {
    let path = Layout::metadata_in(directory);
    let temporary = path.with_extension("json.new");
    let mut content = serde_json::to_vec_pretty(metadata)
        .map_err(|error| IoFault::new("encode", &path, io::Error::other(error)))?;
    content.push(b'\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)
        .map_err(IoFault::on("create", &temporary))?;
    file.write_all(&content)
        .and_then(|()| file.sync_all())
        .map_err(IoFault::on("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(IoFault::on("rename", &temporary))?;
    sync_directory(directory)
}
