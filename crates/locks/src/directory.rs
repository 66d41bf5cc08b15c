//! The directories that lock files lie in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};

use crate::core::name::Folder;
use crate::core::semantics::{self, Try};
use crate::error::Unusable;
use crate::lock_file;

/// Whoever belongs to the group may look, nobody else.
const MODE: Mode = Mode::from_raw_mode(0o750);

/// One directory, held open so that it cannot be taken away unnoticed.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    id: (u64, u64),
}

/// Device and inode: what a file is, whatever it is called.
pub(crate) fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Directory {
    /// Opens a directory that is there.
    pub(crate) fn open(path: &Path) -> Result<Self, Unusable> {
        Self::open_it(path).map_err(Unusable::io(path))
    }

    /// Opens a directory, and makes it first if need be.
    fn ensure(path: &Path) -> Result<Self, Unusable> {
        match rustix::fs::mkdirat(CWD, path, MODE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Self::open(path),
            Err(errno) => Err(Unusable::io(path)(errno.into())),
        }
    }

    fn open_it(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let id = id(&rustix::fs::fstat(&fd)?);
        Ok(Self { path: path.to_owned(), fd, id })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> impl AsFd {
        self.fd.as_fd()
    }

    /// Whether its path still leads to it.
    pub(crate) fn check_in_place(&self) -> Result<(), Unusable> {
        match rustix::fs::statat(CWD, &self.path, AtFlags::empty()) {
            Ok(found) if id(&found) == self.id => Ok(()),
            Ok(_) | Err(_) => Err(Unusable::Replaced { path: self.path.clone() }),
        }
    }

    /// Shows that two opens of one file there exclude one another, and that closing lets go.
    pub(crate) fn test(&self) -> Result<(), Unusable> {
        let tried = lock_file::try_twice(&self.fd).map_err(Unusable::io(&self.path))?;
        let (first, second, after) = tried;
        let as_try = |got: bool| if got { Try::Got } else { Try::Refused };
        semantics::judge(as_try(first), as_try(second), as_try(after))
            .map_err(|source| Unusable::Semantics { path: self.path.clone(), source })
    }

    /// Names of the files in it, those that are hidden apart.
    pub(crate) fn files(&self) -> Result<Vec<String>, Unusable> {
        let listed = std::fs::read_dir(&self.path).map_err(Unusable::io(&self.path))?;
        let mut names: Vec<String> = listed
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// `locks` in the runtime directory, with its folders.
#[derive(Debug)]
pub(crate) struct Directories {
    pub(crate) locks: Arc<Directory>,
    volumes: Arc<Directory>,
    workloads: Arc<Directory>,
}

impl Directories {
    /// Makes what is missing and shows that locks are kept there.
    pub(crate) fn ensure(run: &Path) -> Result<Self, Unusable> {
        let path = run.join("locks");
        let locks = Directory::ensure(&path)?;
        let volumes = Directory::ensure(&path.join(Folder::Volumes.as_str()))?;
        let workloads = Directory::ensure(&path.join(Folder::Workloads.as_str()))?;
        locks.test()?;
        let [locks, volumes, workloads] = [locks, volumes, workloads].map(Arc::new);
        Ok(Self { locks, volumes, workloads })
    }

    pub(crate) fn folder(&self, folder: Folder) -> &Arc<Directory> {
        match folder {
            Folder::Volumes => &self.volumes,
            Folder::Workloads => &self.workloads,
        }
    }

    pub(crate) fn check_in_place(&self) -> Result<(), Unusable> {
        self.locks.check_in_place()?;
        self.volumes.check_in_place()?;
        self.workloads.check_in_place()
    }
}
