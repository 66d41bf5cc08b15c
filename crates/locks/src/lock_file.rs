//! One lock file: opened, tried, read, written.
//!
//! These calls are made where they are needed, not on threads for blocking calls: the files lie in
//! memory, none of the calls waits for anybody, and together they take microseconds.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat, flock};

use crate::chance;
use crate::core::record::{Found, RECORD_BYTES, Record};
use crate::directory::id;

/// Whoever belongs to the group may read who holds it.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// Times that a file is opened anew because the one opened was not the one there any more.
const REOPENS: u32 = 8;

/// The lock on a file. Closing it, and nothing else, lets go.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    id: (u64, u64),
}

/// What a try came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The lock is had.
    Got(LockFile),
    /// Somebody has it.
    Busy,
}

/// Whether a file is made when it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    Make,
    Leave,
}

/// Opens the file afresh and tries its lock once. A file of this process that is open already
/// would share its lock; one that is truncated would lose its holder's record.
pub(crate) fn attempt(directory: impl AsFd, name: &str, absent: Absent) -> io::Result<Attempt> {
    for _ in 0..REOPENS {
        let file = open(&directory, name, absent)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Attempt::Busy),
            Err(errno) => return Err(errno.into()),
        }
        let lock = LockFile { id: id(&rustix::fs::fstat(&file)?), file };
        // Between the open and the lock the file may have been pruned: then somebody else can lock
        // the one that is there now.
        if lock.is_in_place(&directory, name) {
            return Ok(Attempt::Got(lock));
        }
    }
    Ok(Attempt::Busy)
}

fn open(directory: impl AsFd, name: &str, absent: Absent) -> io::Result<File> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    if absent == Absent::Make {
        flags |= OFlags::CREATE;
    }
    let file = File::from(rustix::fs::openat(directory, name, flags, MODE)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// What is there under a name; `None` when nothing is.
pub(crate) fn stat(directory: impl AsFd, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The record in a file, without touching its lock.
pub(crate) fn read(directory: impl AsFd, name: &str) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => read_record(&File::from(fd)),
        Err(rustix::io::Errno::NOENT) => Ok(Found::Nothing),
        Err(errno) => Err(errno.into()),
    }
}

fn read_record(file: &File) -> io::Result<Found> {
    // One byte more, so that a longer file does not pass for a record.
    let mut bytes = [0; RECORD_BYTES + 1];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(Record::parse(&bytes[..length]))
}

/// Tries three times on a file of its own: a first open, a second one meanwhile, and that one again
/// after the first was closed.
pub(crate) fn try_twice(directory: impl AsFd) -> io::Result<(bool, bool, bool)> {
    let name = format!(".self-test-{}-{}", std::process::id(), chance::id());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    let first = rustix::fs::openat(&directory, &name, flags, MODE)?;
    let second = open(&directory, &name, Absent::Leave);
    rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
    let second = second?;
    let got = |fd: &dyn AsFd| match flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(io::Error::from(errno)),
    };
    let one = got(&first)?;
    let meanwhile = got(&second)?;
    drop(first);
    Ok((one, meanwhile, got(&second)?))
}

impl LockFile {
    /// Whether the name still leads to this file.
    pub(crate) fn is_in_place(&self, directory: impl AsFd, name: &str) -> bool {
        stat(directory, name).is_ok_and(|found| found.is_some_and(|found| id(&found) == self.id))
    }

    pub(crate) fn read(&self) -> io::Result<Found> {
        read_record(&self.file)
    }

    /// Writes a record over the one before.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        self.file.write_all_at(&record.encode(), 0)?;
        // What an older version or a vandal left behind it.
        self.file.set_len(RECORD_BYTES as u64)
    }

    /// Says that everything was left in order.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}
