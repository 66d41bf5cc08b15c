//! Files of belayd's own, outside every volume, for an archive or a tree on its way.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable;

/// Space on the host's disk that no archive may take.
const RESERVE: u64 = 64 * 1024 * 1024;

/// Refuses a write that would leave the host's disk less than it needs itself. A look beforehand
/// does not suffice: others write to it too.
pub(crate) fn keep_reserve(file: impl AsFd, bytes: usize) -> io::Result<()> {
    let found = rustix::fs::fstatvfs(file)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < RESERVE + bytes as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// The spool of one workload.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    root: PathBuf,
}

/// An archive on its way. Its file goes when this does, unless it is kept by name.
#[derive(Debug)]
pub(crate) struct Spooled {
    pub(crate) file: File,
    path: PathBuf,
    keep: bool,
}

impl Spool {
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("sync").join("spool");
        durable::make_dir(&root)?;
        Ok(Self { root })
    }

    /// A new file under a name that was never used.
    pub(crate) fn create(&self) -> io::Result<Spooled> {
        loop {
            let path = self.root.join(new_name("archive"));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => return Ok(Spooled { file, path, keep: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A new file without a name, which goes with its last descriptor.
    pub(crate) fn create_unnamed(&self) -> io::Result<File> {
        // It is unlinked before anything is in it: a kill leaves an empty file to the next sweep.
        self.create()?.file.try_clone()
    }

    /// Opens a file that an earlier process kept.
    pub(crate) fn reopen(&self, name: &str) -> io::Result<Spooled> {
        let path = self.path_of(name)?;
        Ok(Spooled { file: File::open(&path)?, path, keep: false })
    }

    /// A new directory under a name that was never used.
    pub(crate) fn create_dir(&self) -> io::Result<SpooledDir> {
        loop {
            let path = self.root.join(new_name("tree"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(SpooledDir { path, keep: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory of this name, which an earlier process kept and which stays.
    pub(crate) fn kept_dir(&self, name: &str) -> io::Result<SpooledDir> {
        let path = self.path_of(name)?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(SpooledDir { path, keep: true })
    }

    /// Removes what has this name; nothing may have it.
    pub(crate) fn discard(&self, name: &str) -> io::Result<()> {
        remove(&self.path_of(name)?)
    }

    /// Removes everything but what has this name.
    pub(crate) fn sweep(&self, but: Option<&str>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if but.is_none_or(|kept| entry.file_name() != kept) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        if name.contains('/') || name.starts_with('.') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.root.join(name))
    }

    /// Bytes an archive may take.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize).saturating_sub(RESERVE))
    }
}

/// A captured tree on its way. Its directory goes when this does, unless it is kept by name.
#[derive(Debug)]
pub(crate) struct SpooledDir {
    path: PathBuf,
    keep: bool,
}

impl SpooledDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory and the files in it outlive this value and a power cut; returns its name.
    pub(crate) fn keep(&mut self) -> io::Result<String> {
        for entry in fs::read_dir(&self.path)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(&self.path)?.sync_all()?;
        durable::sync_parent(&self.path)?;
        self.keep = true;
        name_of(&self.path)
    }

    /// Lets the directory go with this value again.
    pub(crate) fn release(&mut self) {
        self.keep = false;
    }
}

impl Drop for SpooledDir {
    fn drop(&mut self) {
        if !self.keep {
            // A leftover is swept when the task starts again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn new_name(kind: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}.{kind}", std::process::id())
}

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Spooled {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file another name outside of the spool, durably.
    pub(crate) fn move_to(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.keep = true;
        durable::sync_parent(path)
    }

    /// Makes the file outlive this value and, synced, a power cut; returns its name.
    pub(crate) fn keep(&mut self) -> io::Result<String> {
        self.file.sync_all()?;
        durable::sync_parent(&self.path)?;
        self.keep = true;
        name_of(&self.path)
    }

    /// Lets the file go with this value again.
    pub(crate) fn release(&mut self) {
        self.keep = false;
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !self.keep {
            // A leftover is swept when the task starts again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b27_each_file_and_directory_has_a_name_of_its_own_and_is_found_by_it_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let [ours, theirs] = ["ours", "theirs"].map(|workload| temp.path().join(workload));
        let (ours, theirs) =
            (Spool::open(&ours).expect("opens"), Spool::open(&theirs).expect("opens"));
        // At one time, from several threads, in both.
        let made: Vec<PathBuf> = std::thread::scope(|scope| {
            let spools = [&ours, &theirs, &ours, &theirs];
            let threads = spools.map(|spool| {
                scope.spawn(move || {
                    let mut made = Vec::new();
                    for _ in 0..50 {
                        let mut file = spool.create().expect("creates");
                        file.keep = true;
                        made.push(file.path.clone());
                        let mut dir = spool.create_dir().expect("creates");
                        dir.keep = true;
                        made.push(dir.path.clone());
                    }
                    made
                })
            });
            threads.into_iter().flat_map(|thread| thread.join().expect("joins")).collect()
        });
        let different: std::collections::BTreeSet<_> = made.iter().collect();
        assert_eq!((different.len(), made.len()), (400, 400));
        assert!(made.iter().all(|path| path.exists()), "none took the place of another");
    }
}
