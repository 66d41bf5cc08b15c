//! The books of the checkpoints on this node: one directory for each, readable by root alone.
//!
//! The images themselves lie beside their containers, in the engine's storage. What is written here
//! says what each was taken with and what it takes, and it outlives a start of the host, after which
//! the engine does not know of any container that it is suspended.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use belay_protocol::runner::RunnerId;

use crate::core::checkpoint::{Bounds, CheckpointRecord, Full, Held, SCHEMA, admit};
use crate::core::job::Room;

/// What is written down, below the directory of a checkpoint.
const RECORD: &str = "checkpoint.json";
const PARTIAL: &str = "partial";
/// Longest record that is read; one is less than 2 KiB.
const RECORD_MAX: u64 = 64 << 10;
/// Bytes that are read of an image at a time.
const PIECE: usize = 256 << 10;

/// The books. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct CheckpointStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    bounds: Bounds,
    /// Held for the moment of a decision, never while anything is waited for.
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    records: BTreeMap<RunnerId, CheckpointRecord>,
    /// Bytes of checkpoints that are being taken.
    promised: BTreeMap<RunnerId, u64>,
}

impl Books {
    /// What is held and promised, apart from this runner.
    fn held_beside(&self, runner: &RunnerId) -> Held {
        let records = self.records.values().filter(|record| record.runner != *runner);
        let records = records.map(|record| record.bytes);
        let promised = self.promised.iter().filter(|(other, _)| *other != runner);
        let promised = promised.map(|(_, bytes)| *bytes);
        records.chain(promised).fold(Held::default(), |held, bytes| Held {
            count: held.count + 1,
            bytes: held.bytes.saturating_add(bytes),
        })
    }
}

/// Why the books cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub struct StoreError {
    what: &'static str,
    path: String,
    source: io::Error,
}

/// Why a checkpoint is not in the books.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError { what, path, source }
}

impl CheckpointStore {
    /// Opens the books in a directory, which is made if it is not there. What cannot be read, as
    /// after a kill in the middle of a write, is let go of: the engine knows of its checkpoints as
    /// long as the host runs. Blocks.
    pub fn open(directory: &Path, bounds: Bounds) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).map_err(failed("make", directory))?;
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))
            .map_err(failed("close to others", directory))?;
        let mut books = Books::default();
        for entry in std::fs::read_dir(directory).map_err(failed("list", directory))? {
            let path = entry.map_err(failed("list", directory))?.path();
            match read(&path) {
                Ok(record) => {
                    books.records.insert(record.runner.clone(), record);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), "no record of a checkpoint, and removed: {error}");
                    remove(&path)?;
                }
            }
        }
        let directory = directory.to_owned();
        Ok(Self(Arc::new(Shared { directory, bounds, books: Mutex::new(books) })))
    }

    /// Whether there would be room for so many bytes.
    pub(crate) fn admits(&self, bytes: u64, free: Option<u64>) -> Result<(), Full> {
        self.books(|books| {
            let held = books.records.values().map(|record| record.bytes);
            let held = held.chain(books.promised.values().copied());
            let held = held.fold(Held::default(), |held, bytes| Held {
                count: held.count + 1,
                bytes: held.bytes.saturating_add(bytes),
            });
            admit(self.0.bounds, held, bytes, free)
        })
    }

    /// Promises room for a checkpoint that is about to be taken; `free` is what the disk has.
    pub fn promise(&self, runner: &RunnerId, bytes: u64, free: Option<u64>) -> Result<(), Full> {
        self.books(|books| {
            admit(self.0.bounds, books.held_beside(runner), bytes, free)?;
            books.promised.insert(runner.clone(), bytes);
            Ok(())
        })
    }

    /// Takes back a promise; nothing is taken.
    pub fn withdraw(&self, runner: &RunnerId) {
        self.books(|books| books.promised.remove(runner));
    }

    /// Writes down a checkpoint that was taken. It is on the disk when this returns. Blocks.
    pub fn book(&self, record: CheckpointRecord, room: Room) -> Result<(), BookError> {
        let runner = record.runner.clone();
        self.books(|books| {
            books.promised.remove(&runner);
            match room {
                // What it took of the disk it has already.
                Room::Asked => admit(self.0.bounds, books.held_beside(&runner), record.bytes, None),
                Room::Forced => Ok(()),
            }
        })?;
        let directory = self.0.directory.join(runner.as_str());
        write(&directory, &record).map_err(failed("write", &directory))?;
        sync(&self.0.directory).map_err(failed("write", &self.0.directory))?;
        self.books(|books| books.records.insert(runner, record));
        Ok(())
    }

    /// Lets go of a checkpoint that was restored or removed; one that is not there is no error.
    /// Blocks.
    pub fn forget(&self, runner: &RunnerId) -> Result<(), StoreError> {
        let known = self.books(|books| {
            books.promised.remove(runner);
            books.records.remove(runner)
        });
        if known.is_none() {
            return Ok(());
        }
        remove(&self.0.directory.join(runner.as_str()))
    }

    /// What is written down of a runner's checkpoint.
    pub fn get(&self, runner: &RunnerId) -> Option<CheckpointRecord> {
        self.books(|books| books.records.get(runner).cloned())
    }

    /// Everything that is written down.
    pub fn all(&self) -> Vec<CheckpointRecord> {
        self.books(|books| books.records.values().cloned().collect())
    }

    fn books<T>(&self, act: impl FnOnce(&mut Books) -> T) -> T {
        // The books are whole between any two of their changes.
        act(&mut self.0.books.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(directory: &Path) -> io::Result<CheckpointRecord> {
    let mut text = Vec::new();
    File::open(directory.join(RECORD))?.take(RECORD_MAX).read_to_end(&mut text)?;
    let record: CheckpointRecord = serde_json::from_slice(&text)?;
    let is_its = directory.file_name().is_some_and(|name| name == record.runner.as_str());
    if record.schema != SCHEMA || !is_its {
        return Err(io::Error::other("it is of another version or of another runner"));
    }
    Ok(record)
}

fn write(directory: &Path, record: &CheckpointRecord) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let partial = directory.join(PARTIAL);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&serde_json::to_vec(record).expect("a record is plain data"))?;
    file.sync_all()?;
    std::fs::rename(&partial, directory.join(RECORD))?;
    sync(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What an image on the disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImagePrint {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// BLAKE3 over the names and the contents of its files, in the order of the names.
    pub(crate) digest: String,
}

/// Reads an image, and has the disk take all of it before this returns. Blocks.
pub(crate) fn print(directory: &Path) -> io::Result<ImagePrint> {
    let mut names: Vec<_> = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut hasher = ImageHasher::default();
    let mut bytes = 0;
    let mut piece = vec![0; PIECE];
    for name in names {
        let mut file = File::open(directory.join(&name))?;
        let size = file.metadata()?.len();
        hasher.begin(name.as_encoded_bytes(), size);
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
        }
        file.sync_all()?;
        bytes += size;
    }
    sync(directory)?;
    Ok(ImagePrint { bytes, digest: hasher.finish() })
}

/// Makes the digest of an image of its files, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct ImageHasher(blake3::Hasher);

impl ImageHasher {
    /// A file begins.
    pub(crate) fn begin(&mut self, name: &[u8], bytes: u64) {
        self.0.update(name).update(&[0]).update(&bytes.to_le_bytes());
    }

    /// Its content goes on.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest, in hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use belay_protocol::runner::RunId;
    use jiff::Timestamp;

    use super::*;
    use crate::core::checkpoint::Versions;

    fn record(runner: &str, bytes: u64) -> CheckpointRecord {
        CheckpointRecord {
            schema: SCHEMA,
            runner: runner.parse().expect("a name"),
            workload: "work".parse().expect("a name"),
            run: RunId::after(None, 1, 2),
            container: "c1".into(),
            image: "sha256:1".into(),
            taken_at: Timestamp::UNIX_EPOCH,
            boot_id: "b1".into(),
            bytes,
            digest: "d1".into(),
            versions: Versions {
                engine: "podman".into(),
                engine_version: "4.3.1".into(),
                runtime: "runc".into(),
                criu: None,
                kernel: "6.1".into(),
            },
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
    }

    #[test]
    fn what_is_booked_is_there_after_a_restart_and_closed_to_others() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("checkpoints");
        let open = || CheckpointStore::open(&directory, Bounds::default()).expect("opens");
        let (one, two) = (record("r1", 5), record("r2", 6));
        let store = open();
        store.book(one.clone(), Room::Asked).expect("booked");
        store.book(two.clone(), Room::Asked).expect("booked");
        store.forget(&two.runner).expect("forgotten");
        store.forget(&two.runner).expect("forgotten twice");
        assert_eq!(open().all(), std::slice::from_ref(&one));
        assert_eq!(open().get(&one.runner), Some(one));
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("r1")), 0o700);
        assert_eq!(mode(&directory.join("r1").join(RECORD)), 0o600);
    }

    #[test]
    fn what_a_kill_left_behind_is_let_go_of() {
        let place = tempfile::tempdir().expect("a directory");
        let good = record("r1", 5);
        let store = CheckpointStore::open(place.path(), Bounds::default()).expect("opens");
        store.book(good.clone(), Room::Asked).expect("booked");
        for (name, file, text) in [
            ("cut", PARTIAL, "{\"schema\""),
            ("torn", RECORD, "{\"schema\":1"),
            ("empty", RECORD, ""),
            ("moved", RECORD, &*serde_json::to_string(&good).expect("plain data")),
        ] {
            std::fs::create_dir(place.path().join(name)).expect("a directory");
            std::fs::write(place.path().join(name).join(file), text).expect("written");
        }
        std::fs::write(place.path().join("stray"), "x").expect("written");
        let again = CheckpointStore::open(place.path(), Bounds::default()).expect("opens");
        assert_eq!(again.all(), [good]);
        assert_eq!(std::fs::read_dir(place.path()).expect("lists").count(), 1);
    }

    #[test]
    fn room_is_promised_once() {
        let place = tempfile::tempdir().expect("a directory");
        let bounds = Bounds { count: 10, bytes: 100, reserve: 0 };
        let store = CheckpointStore::open(place.path(), bounds).expect("opens");
        let names: Vec<RunnerId> =
            ["r1", "r2"].iter().map(|name| name.parse().expect("a name")).collect();
        store.promise(&names[0], 60, None).expect("there is room");
        store.promise(&names[0], 60, None).expect("it is the same one");
        store.promise(&names[1], 60, None).expect_err("it is promised already");
        store.withdraw(&names[0]);
        store.promise(&names[1], 60, None).expect("there is room again");
        let large = store.book(record("r1", 60), Room::Asked);
        assert!(matches!(large, Err(BookError::Full(Full::Bytes { .. }))), "{large:?}");
        store.book(record("r1", 60), Room::Forced).expect("it has nowhere else to be");
        store.book(record("r2", 60), Room::Asked).expect_err("now there is none");
    }

    #[test]
    fn a_print_is_of_names_and_contents() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("a"), "12").expect("written");
        std::fs::write(path("b"), "3").expect("written");
        let first = print(place.path()).expect("reads");
        assert_eq!((first.bytes, first.digest.len()), (3, 64));
        assert_eq!(print(place.path()).expect("reads"), first);
        std::fs::write(path("b"), "4").expect("written");
        assert_ne!(print(place.path()).expect("reads").digest, first.digest);
        std::fs::write(path("a"), "1").expect("written");
        std::fs::write(path("b"), "23").expect("written");
        let moved = print(place.path()).expect("reads");
        assert_eq!(moved.bytes, first.bytes);
        assert_ne!(moved.digest, first.digest, "where a file ends counts");
    }
}
