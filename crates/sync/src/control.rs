//! The directory in which an app and belayd exchange files.
//!
//! The app may own it, fill it, and put anything under any name at any moment; so it is opened
//! anew for each look, from above what the app can change, and nothing in it is trusted to stay
//! what it was.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;

use belay_protocol::control::{CONTROL_DIR, PROCESSING_FILE, REQUEST_FILE};
use rustix::fs::{FileType, Stat};
use serde::Serialize;

use crate::beneath::{Dir, Name, file_type};
use crate::core::request::REQUEST_MAX;
use crate::layout::{AnswerPlace, ControlVolume};

/// Mode of the directory: everyone may write a request, nobody may replace another's file.
const DIR_MODE: u32 = 0o1777;
/// What stands in the way is moved aside this many times; then it stays and is complained of.
const ASIDE_MAX: u32 = 8;

/// A control directory, for one look.
#[derive(Debug)]
pub struct ControlDir {
    dir: Dir,
    answers: Arc<dyn AnswerPlace>,
}

/// What lies where a request would.
#[derive(Debug)]
pub enum Pending {
    /// Nothing.
    Nothing,
    /// Something that is no file; it was taken away.
    Unsafe {
        /// What it was.
        what: &'static str,
    },
    /// A file.
    Request {
        /// Its bytes: at most 64 KiB, or one more where it has more.
        bytes: Vec<u8>,
        /// Tells whether it is written to after this look.
        print: Fingerprint,
    },
}

/// Tells whether a file was written to between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

impl ControlDir {
    /// Opens volume-sync's own directory; none if it is absent.
    pub(crate) fn open(control: &ControlVolume) -> io::Result<Option<Self>> {
        Self::open_in(control, CONTROL_DIR)
    }

    /// Opens the directory of this name in the system volume's data; none if it is absent. Blocks
    /// the thread, as everything here does.
    pub fn open_in(control: &ControlVolume, directory: &str) -> io::Result<Option<Self>> {
        let data = Dir::open(&control.data)?;
        match data.open_child(Name::new(directory.as_bytes())?) {
            Ok(dir) => Ok(Some(Self { dir, answers: Arc::clone(&control.answers) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the directory, after putting a real one with its mode where there is none.
    pub(crate) fn ensure(control: &ControlVolume) -> io::Result<Self> {
        let data = Dir::open(&control.data)?;
        let name = Name::new(CONTROL_DIR.as_bytes())?;
        match data.stat(name)? {
            Some(stat) if file_type(&stat) == FileType::Directory => {}
            Some(_) => {
                data.remove_file(name)?;
                data.make_dir(name)?;
            }
            None => data.make_dir(name)?,
        }
        let dir = data.open_child(name)?;
        if dir.stat_self()?.st_mode & 0o7777 != DIR_MODE {
            dir.set_mode(DIR_MODE)?;
        }
        Ok(Self { dir, answers: Arc::clone(&control.answers) })
    }

    /// A path to this very directory for as long as this value lives.
    pub fn pinned_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/.", self.dir.descriptor().as_raw_fd()).into()
    }

    /// Whether something lies where a request would. It is neither read nor touched.
    pub(crate) fn has_request(&self) -> io::Result<bool> {
        Ok(self.dir.stat(Name::new(REQUEST_FILE.as_bytes())?)?.is_some())
    }

    /// Looks at the request without touching it, unless it is no file.
    pub fn pending(&self) -> io::Result<Pending> {
        let name = Name::new(REQUEST_FILE.as_bytes())?;
        let Some(stat) = self.dir.stat(name)? else { return Ok(Pending::Nothing) };
        if file_type(&stat) != FileType::RegularFile {
            self.clear(REQUEST_FILE)?;
            return Ok(Pending::Unsafe { what: kind(&stat) });
        }
        match self.read(REQUEST_FILE) {
            Ok((bytes, print)) => Ok(Pending::Request { bytes, print }),
            // Gone or replaced since the look; the next look sees what it is.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(Pending::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the request: from here the app may write another. Returns what was taken.
    pub fn claim(&self) -> io::Result<Vec<u8>> {
        let (from, to) =
            (Name::new(REQUEST_FILE.as_bytes())?, Name::new(PROCESSING_FILE.as_bytes())?);
        if let Some(stat) = self.dir.stat(to)?
            && file_type(&stat) == FileType::Directory
        {
            self.clear(PROCESSING_FILE)?;
        }
        self.dir.rename(from, &self.dir, to)?;
        Ok(self.read(PROCESSING_FILE)?.0)
    }

    /// Makes a request that an earlier process took and did not journal a request again. False if
    /// there is none, if the app wrote another meanwhile, or if it is no file.
    pub fn unclaim(&self) -> io::Result<bool> {
        let (from, to) =
            (Name::new(PROCESSING_FILE.as_bytes())?, Name::new(REQUEST_FILE.as_bytes())?);
        match self.dir.stat(from)? {
            None => Ok(false),
            Some(stat) if file_type(&stat) == FileType::RegularFile => {
                match self.dir.rename_new(from, &self.dir, to) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Some(_) => self.clear(PROCESSING_FILE).map(|()| false),
        }
    }

    /// Removes what has this name. A directory that is not empty is moved aside, never emptied: the
    /// app could fill it faster.
    pub fn clear(&self, file: &str) -> io::Result<()> {
        let name = Name::new(file.as_bytes())?;
        let Some(stat) = self.dir.stat(name)? else { return Ok(()) };
        if file_type(&stat) != FileType::Directory {
            return self.dir.remove_file(name);
        }
        if self.dir.remove_empty_dir(name).is_ok() {
            return Ok(());
        }
        for number in 0..ASIDE_MAX {
            let aside = format!("{file}.unsafe.{number}");
            match self.dir.rename_new(name, &self.dir, Name::new(aside.as_bytes())?) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(io::Error::other(format!("a directory is in the way of {file}")))
    }

    /// Puts a file, whole, in the place of whatever has its name: mode 0644, owned by belayd.
    pub fn write<T: Serialize>(&self, file: &str, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        if let Some(stat) = self.dir.stat(Name::new(file.as_bytes())?)?
            && file_type(&stat) == FileType::Directory
        {
            self.clear(file)?;
        }
        self.answers.place(self.dir.descriptor().as_fd(), file, &text)
    }

    fn read(&self, file: &str) -> io::Result<(Vec<u8>, Fingerprint)> {
        let (file, stat) = self.dir.open_file(Name::new(file.as_bytes())?)?;
        let mut bytes = Vec::new();
        file.take(REQUEST_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes, fingerprint(&stat)))
    }
}

fn fingerprint(stat: &Stat) -> Fingerprint {
    Fingerprint {
        inode: stat.st_ino,
        size: stat.st_size,
        modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

fn kind(stat: &Stat) -> &'static str {
    match file_type(stat) {
        FileType::Symlink => "a symlink",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        FileType::RegularFile => "a file",
        FileType::Unknown => "of no known type",
    }
}

#[cfg(test)]
mod tests;
