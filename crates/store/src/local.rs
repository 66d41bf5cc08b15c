//! Both ports in one directory.
//!
//! ```text
//! blobs/<last 2 characters>/<cid>    immutable, fsynced before they have their name
//! records/<key>/<10-digit number>    created once, never rewritten; the highest is the head
//! records/<key>/lock                 held while a record is added or old ones are pruned
//! records/<key>/acks/<node>.<workload>   what a consumer acknowledged, replaced by a rename
//! aside/<cid>.<mark>                 blobs that were taken out of their place
//! tmp/                               files on their way to a name; swept when older than a day
//! ```
//!
//! Several processes may use one directory. A name is given by `link`, which fails if it exists;
//! that, and not the lock, decides who wins. The lock keeps a slow writer from taking a number that
//! was pruned behind its back.

mod acks;
mod aside;
mod blobs;
mod records;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A temporary file this old belongs to no writer that still lives.
const STALE_AFTER: Duration = Duration::from_hours(24);

/// A store in a directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<Path>,
}

/// Why a local store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the local store at {} could not be opened", root.display())]
pub struct OpenError {
    /// Its directory.
    pub root: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl LocalStore {
    /// Opens the store at `root`, creating it (mode 0700) if it is absent. Blocking.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let prepare = || -> io::Result<()> {
            make_dir(root)?;
            for part in ["blobs", "records", "aside", "tmp"] {
                make_dir(&root.join(part))?;
            }
            sweep(&root.join("tmp"))
        };
        match prepare() {
            Ok(()) => Ok(Self { root: root.into() }),
            Err(source) => Err(OpenError { root: root.to_owned(), source }),
        }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A new file in `tmp` under a name no other writer has.
    fn new_file(&self) -> io::Result<Unnamed> {
        loop {
            // Process numbers repeat across hosts that share a directory; create_new decides.
            let path = self.root.join("tmp").join(new_name());
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Unnamed { file, path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A name that no other call in this process gets, and hardly one in another.
fn new_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{count}", std::process::id(), stamp.as_nanos())
}

/// A file that has no lasting name yet; removed on drop.
struct Unnamed {
    file: File,
    path: PathBuf,
}

impl Unnamed {
    /// Makes the content durable and gives it `name`, unless that exists. True if it was given.
    fn name_it(self, name: &Path) -> io::Result<bool> {
        self.file.sync_all()?;
        let given = match fs::hard_link(&self.path, name) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        // Also when it existed: the writer that made it may not have come this far.
        sync_parent(name)?;
        Ok(given)
    }

    /// Makes the content durable and gives it `name`, whatever had that before.
    fn replace(self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, name)?;
        sync_parent(name)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // A leftover is swept by a later open.
        let _ = fs::remove_file(&self.path);
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) => {
                make_dir(parent)?;
                make_dir(path)
            }
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn sweep(tmp: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for entry in fs::read_dir(tmp)? {
        let entry = entry?;
        // Another process may remove its file while this one looks.
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        if metadata.is_file() && age.is_some_and(|age| age > STALE_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
