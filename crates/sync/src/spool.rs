//! Files of belayd's own, outside every volume, for an archive on its way.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable;

/// Space on the host's disk that no archive may take.
const RESERVE: u64 = 64 * 1024 * 1024;

/// Refuses a write that would leave the host's disk less than it needs itself. A look beforehand
/// does not suffice: others write to it too.
pub(crate) fn keep_reserve(file: &File, bytes: usize) -> io::Result<()> {
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
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{count}.archive", std::process::id());
            let path = self.root.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => return Ok(Spooled { file, path, keep: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a file that an earlier process kept.
    pub(crate) fn reopen(&self, name: &str) -> io::Result<Spooled> {
        if name.contains('/') || name.starts_with('.') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = self.root.join(name);
        Ok(Spooled { file: File::open(&path)?, path, keep: false })
    }

    /// Removes every file but the one of this name.
    pub(crate) fn sweep(&self, but: Option<&str>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if but.is_none_or(|kept| entry.file_name() != kept) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Bytes an archive may take.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize).saturating_sub(RESERVE))
    }
}

impl Spooled {
    /// Makes the file outlive this value and, synced, a power cut; returns its name.
    pub(crate) fn keep(&mut self) -> io::Result<String> {
        self.file.sync_all()?;
        if let Some(parent) = self.path.parent() {
            File::open(parent)?.sync_all()?;
        }
        self.keep = true;
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.ok_or_else(|| io::ErrorKind::InvalidInput.into())
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
