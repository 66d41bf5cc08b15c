//! Directories that are only ever entered downwards.
//!
//! A container's root user may change everything below a volume's root at any moment. So nothing
//! there is opened by a path from above: each access starts at a held descriptor, may not leave it,
//! follows no link, crosses no mount, and never opens what is not known to be a regular file or a
//! directory, since opening a FIFO can block and opening a device can act.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat, Statx,
    StatxFlags, Timespec, Timestamps, Uid,
};

use crate::core::apply::Identity;

/// A directory by its descriptor.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

/// One name in a directory: never empty, `.`, `..`, or with a slash in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a>(&'a OsStr);

impl<'a> Name<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> io::Result<Self> {
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a single name"));
        }
        Ok(Self(OsStr::from_bytes(bytes)))
    }

    /// The last name of a path below a directory, and what precedes it.
    pub(crate) fn split(path: &'a [u8]) -> io::Result<(&'a [u8], Self)> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        Ok((parent, Self::new(name)?))
    }
}

/// A listing that would take too much memory.
#[derive(Debug, thiserror::Error)]
#[error("a directory has more than {entries} entries, or their names take more than {bytes} bytes")]
pub(crate) struct TooManyEntries {
    entries: usize,
    bytes: usize,
}

/// Memory that a name takes in a listing.
pub(crate) fn name_bytes(name: &OsStr) -> usize {
    name.len() + size_of::<OsString>()
}

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV
}

const IDENTITY: StatxFlags = StatxFlags::INO.union(StatxFlags::BTIME);

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether a listing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    GoOn,
    Enough,
}

impl Dir {
    /// Opens a directory that belayd made, by a path no container can change.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// Opens a directory below; the empty path is this one.
    pub(crate) fn open_dir(&self, below: &[u8]) -> io::Result<Self> {
        let below = if below.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(below) };
        Ok(Self(rustix::fs::openat2(&self.0, below, DIRECTORY, Mode::empty(), resolve())?))
    }

    /// Opens the directory of this name.
    pub(crate) fn open_child(&self, name: Name<'_>) -> io::Result<Self> {
        self.open_dir(name.0.as_bytes())
    }

    /// Opens a regular file for reading. Anything else is refused unopened.
    pub(crate) fn open_file(&self, name: Name<'_>) -> io::Result<(File, Stat)> {
        let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat2(&self.0, name.0, path, Mode::empty(), resolve())?;
        let stat = rustix::fs::fstat(&held)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        // The descriptor is pinned to what was just looked at; its entry in /proc opens that.
        let pinned = format!("/proc/self/fd/{}", held.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok((File::from(rustix::fs::open(pinned, flags, Mode::empty())?), stat))
    }

    /// What has this name, or none; links are not followed.
    pub(crate) fn stat(&self, name: Name<'_>) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, name.0, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What tells the entry of this name from every other, or none.
    pub(crate) fn identity_of(&self, name: Name<'_>) -> io::Result<Option<Identity>> {
        match rustix::fs::statx(&self.0, name.0, AtFlags::SYMLINK_NOFOLLOW, IDENTITY) {
            Ok(found) => Ok(Some(identity(&found))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What tells this directory from every other.
    pub(crate) fn identity(&self) -> io::Result<Identity> {
        Ok(identity(&rustix::fs::statx(&self.0, "", AtFlags::EMPTY_PATH, IDENTITY)?))
    }

    /// This directory itself.
    pub(crate) fn stat_self(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// The names in this directory, in the order of their bytes.
    pub(crate) fn names(&self, entries: usize, bytes: usize) -> io::Result<Vec<OsString>> {
        let mut left = bytes;
        self.list(|name, names: &mut Vec<OsString>| {
            let taken = left.checked_sub(name_bytes(name));
            left = taken
                .filter(|_| names.len() < entries)
                .ok_or_else(|| io::Error::other(TooManyEntries { entries, bytes }))?;
            names.push(name.to_owned());
            Ok(Listing::GoOn)
        })
        .map(|mut names| {
            names.sort_unstable();
            names
        })
    }

    /// At most `most` names that are `wanted`, in no order.
    pub(crate) fn some_names(
        &self,
        most: usize,
        wanted: impl Fn(&OsStr) -> bool,
    ) -> io::Result<Vec<OsString>> {
        self.list(|name, names: &mut Vec<OsString>| {
            if wanted(name) {
                names.push(name.to_owned());
            }
            Ok(if names.len() < most { Listing::GoOn } else { Listing::Enough })
        })
    }

    fn list(
        &self,
        mut take: impl FnMut(&OsStr, &mut Vec<OsString>) -> io::Result<Listing>,
    ) -> io::Result<Vec<OsString>> {
        // A descriptor of its own, since listing moves the offset that descriptors share.
        let listed = self.open_dir(b"")?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&listed.0, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if take(OsStr::from_bytes(name), &mut names)? == Listing::Enough {
                break;
            }
        }
        Ok(names)
    }

    /// The target of a symlink, as it is written.
    pub(crate) fn read_link(&self, name: Name<'_>) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name.0, Vec::new())?.into_bytes())
    }

    /// Creates a directory, readable by its owner alone until it is given its mode.
    pub(crate) fn make_dir(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name.0, Mode::RWXU)?)
    }

    /// Creates a file that was not there.
    pub(crate) fn create_new(&self, name: Name<'_>) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(rustix::fs::openat2(&self.0, name.0, flags, mode, resolve())?))
    }

    pub(crate) fn make_symlink(&self, name: Name<'_>, target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), &self.0, name.0)?)
    }

    /// Gives what this descriptor holds a name in this directory, whatever names it has by now.
    pub(crate) fn link_held(&self, name: Name<'_>, held: &File) -> io::Result<()> {
        let pinned = format!("/proc/self/fd/{}", held.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, pinned, &self.0, name.0, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Gives the regular file `from` of another directory a name in this one.
    pub(crate) fn link(&self, name: Name<'_>, source: &Dir, from: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::linkat(&source.0, from.0, &self.0, name.0, AtFlags::empty())?)
    }

    pub(crate) fn remove_file(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name.0, AtFlags::empty())?)
    }

    pub(crate) fn remove_empty_dir(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name.0, AtFlags::REMOVEDIR)?)
    }

    /// Moves a name, replacing what a plain rename replaces.
    pub(crate) fn rename(&self, from: Name<'_>, to_dir: &Dir, to: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from.0, &to_dir.0, to.0)?)
    }

    /// Moves a name to where nothing is.
    pub(crate) fn rename_new(&self, from: Name<'_>, to_dir: &Dir, to: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.0, from.0, &to_dir.0, to.0, RenameFlags::NOREPLACE)?)
    }

    /// Exchanges two names in one step, whatever they are.
    pub(crate) fn exchange(
        &self,
        one: Name<'_>,
        other_dir: &Dir,
        other: Name<'_>,
    ) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.0, one.0, &other_dir.0, other.0, RenameFlags::EXCHANGE)?)
    }

    /// Gives what has this name, link or not, an owner.
    pub(crate) fn chown(&self, name: Name<'_>, uid: u32, gid: u32) -> io::Result<()> {
        Ok(rustix::fs::chownat(
            &self.0,
            name.0,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Sets the modification time of what has this name, link or not.
    pub(crate) fn set_mtime(&self, name: Name<'_>, mtime: Timespec) -> io::Result<()> {
        Ok(rustix::fs::utimensat(
            &self.0,
            name.0,
            &Timestamps { last_access: mtime, last_modification: mtime },
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Sets the mode of this directory.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Makes this directory's names durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes the whole file system durable.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }
}

fn identity(found: &Statx) -> Identity {
    let born = StatxFlags::from_bits_retain(found.stx_mask)
        .contains(StatxFlags::BTIME)
        .then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
    Identity { inode: found.stx_ino, born }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Removes whatever has this name, a tree of any depth included, without recursion.
///
/// Directories that are not empty are moved up beside the one being emptied, so that two
/// descriptors suffice for a tree deeper than any path can name.
pub(crate) fn remove_tree(parent: &Dir, name: Name<'_>) -> io::Result<()> {
    let Some(stat) = parent.stat(name)? else { return Ok(()) };
    if file_type(&stat) != FileType::Directory {
        return parent.remove_file(name);
    }
    let mut waiting = vec![name.0.to_owned()];
    let mut moved = 0_u64;
    while let Some(current) = waiting.pop() {
        let current_name = Name(&current);
        let dir = parent.open_dir(current.as_bytes())?;
        loop {
            // Page by page: a directory may hold more names than memory should.
            let page = dir.some_names(1_000, |_| true)?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                let entry = Name(&entry);
                let Some(stat) = dir.stat(entry)? else { continue };
                if file_type(&stat) != FileType::Directory {
                    dir.remove_file(entry)?;
                } else if dir.remove_empty_dir(entry).is_err() {
                    let aside = loop {
                        let aside = OsString::from(format!(".removing-{moved}"));
                        moved += 1;
                        match dir.rename_new(entry, parent, Name(&aside)) {
                            Ok(()) => break aside,
                            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                            Err(error) => return Err(error),
                        }
                    };
                    waiting.push(aside);
                }
            }
        }
        parent.remove_empty_dir(current_name)?;
    }
    Ok(())
}

/// Removes everything in a directory and keeps the directory itself, with its owner and mode; no
/// link is followed and no other mount is entered. What is removed is so durably when this returns.
/// Ends early, as interrupted, once `is_ending` says so. Returns how many names were removed. Blocks
/// the thread.
pub fn empty_directory(path: &Path, is_ending: impl Fn() -> bool) -> io::Result<u64> {
    let dir = Dir::open(path)?;
    let mut removed = 0;
    loop {
        let page = dir.some_names(1_000, |_| true)?;
        if page.is_empty() {
            break;
        }
        for name in page {
            if is_ending() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            remove_tree(&dir, Name(&name))?;
            removed += 1;
        }
    }
    dir.sync_file_system()?;
    Ok(removed)
}

#[cfg(test)]
mod tests;
