//! What consumers acknowledge, in a directory beside a key's records.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use belay_protocol::{ConsumerId, SyncKey};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::{LocalStore, make_dir};
use crate::record::{ACK_MAX, RecordError, StoredAck};

/// What was not written anew for this long is nobody's.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);
/// Hosts whose clocks a shared file system follows may differ by this much.
const SKEW: Duration = Duration::from_hours(1);
/// Names that are looked at. Where there are more somebody fills the directory, and which of them are
/// found is as the file system has it.
const NAMES_MAX: usize = 16 * 1024;

impl LocalStore {
    pub(super) fn acknowledge_blocking(
        &self,
        key: &SyncKey,
        consumer: &ConsumerId,
        bytes: &Bytes,
    ) -> Result<(), RecordError> {
        if bytes.len() > ACK_MAX {
            return Err(RecordError::AckTooLarge { found: bytes.len() });
        }
        let dir = self.acks_dir(key);
        let write = || {
            make_dir(&dir)?;
            let mut file = self.new_file()?;
            file.file.write_all(bytes)?;
            let now = file.file.metadata()?.modified()?;
            file.replace(&dir.join(consumer.to_string()))?;
            Ok(now)
        };
        let now = write().map_err(|error| RecordError::io("write an acknowledgement", error))?;
        forget(&dir, now);
        Ok(())
    }

    pub(super) fn acknowledgements_blocking(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> Result<Vec<StoredAck>, RecordError> {
        let dir = self.acks_dir(key);
        let read = || {
            let consumers = consumers(&dir, limit)?;
            let mut found = Vec::new();
            if consumers.is_empty() {
                return Ok(found);
            }
            // The clock of the file system, as in the times of its files: that of this host is of
            // no matter where several share a directory.
            let now = self.new_file()?.file.metadata()?.modified()?;
            for consumer in consumers {
                found.extend(read(&dir, consumer, now)?);
            }
            Ok(found)
        };
        read().map_err(|error| RecordError::io("read acknowledgements", error))
    }

    fn acks_dir(&self, key: &SyncKey) -> PathBuf {
        self.key_dir(key).join("acks")
    }
}

/// The `limit` first names: memory follows what is asked for, and not what lies there.
fn consumers(dir: &Path, limit: usize) -> io::Result<BTreeSet<ConsumerId>> {
    let mut first = BTreeSet::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(first),
        Err(error) => return Err(error),
    };
    for entry in entries.take(NAMES_MAX) {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = entry.file_name();
        let Some(consumer) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        first.insert(consumer);
        if first.len() > limit {
            first.pop_last();
        }
    }
    Ok(first)
}

fn read(dir: &Path, consumer: ConsumerId, now: SystemTime) -> io::Result<Option<StoredAck>> {
    // Neither a link is followed nor a pipe waited for, whatever somebody put there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(dir.join(consumer.to_string()), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // Forgotten since the listing, or a link or a socket in its place.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let age = age(metadata.modified()?, now);
    let mut bytes = Vec::new();
    file.take(ACK_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(StoredAck { consumer, bytes: bytes.into(), age }))
}

/// What was written by a clock far ahead is as old as can be, and not young for ever.
fn age(written: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(written).unwrap_or_else(|ahead| {
        if ahead.duration() > SKEW { Duration::MAX } else { Duration::ZERO }
    })
}

/// Removes what nobody wrote anew; what cannot be removed is tried again next time. What is of a clock
/// ahead stays until that time has come: it may be this one that is behind.
fn forget(dir: &Path, now: SystemTime) {
    let entries = fs::read_dir(dir).into_iter().flatten().take(NAMES_MAX);
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let old = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        if old.is_some_and(|old| old > FORGOTTEN_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_renewed_is_forgotten_and_a_clock_ahead_keeps_nothing_young() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let store = LocalStore::open(temp.path()).expect("opens");
        let key = "models".parse().expect("a key");
        let put = |name: &str| {
            let consumer = name.parse().expect("a consumer");
            store.acknowledge_blocking(&key, &consumer, &Bytes::from("x")).expect("is written");
            temp.path().join("records/models/acks").join(name)
        };
        let date = |path: &Path, at: SystemTime| {
            File::options().write(true).open(path).and_then(|f| f.set_modified(at)).expect("dates");
        };
        let now = SystemTime::now();
        let old = put("a.app");
        let ahead = put("b.app");
        date(&old, now - FORGOTTEN_AFTER / 2);
        date(&ahead, now + SKEW / 2);
        let ages = || {
            let found = store.acknowledgements_blocking(&key, 10).expect("reads");
            found.iter().map(|ack| ack.age).collect::<Vec<_>>()
        };
        assert!(ages()[0] >= FORGOTTEN_AFTER / 2);
        assert_eq!(ages()[1], Duration::ZERO);
        date(&ahead, now + SKEW * 3);
        assert_eq!(ages()[1], Duration::MAX);
        date(&old, now - FORGOTTEN_AFTER * 2);
        put("c.app");
        assert!(!old.exists() && ahead.exists());
        assert_eq!(ages().len(), 2);
    }

    #[test]
    fn what_is_no_file_is_not_read_and_holds_nobody_up() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let store = LocalStore::open(temp.path()).expect("opens");
        let key = "models".parse().expect("a key");
        let consumer = "d.app".parse().expect("a consumer");
        store.acknowledge_blocking(&key, &consumer, &Bytes::from("x")).expect("is written");
        let acks = temp.path().join("records/models/acks");
        let secret = temp.path().join("secret");
        fs::write(&secret, "secret").expect("writes");
        std::os::unix::fs::symlink(&secret, acks.join("a.app")).expect("links");
        let mode = Mode::RUSR | Mode::WUSR;
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, acks.join("b.app"), pipe, mode, 0).expect("a pipe");
        fs::create_dir(acks.join("c.app")).expect("creates");
        let _socket = std::os::unix::net::UnixListener::bind(acks.join("e.app")).expect("binds");
        let found = store.acknowledgements_blocking(&key, 10).expect("reads");
        assert_eq!(found.iter().map(|ack| &ack.consumer).collect::<Vec<_>>(), [&consumer]);
        assert_eq!(&found[0].bytes[..], b"x");
        // Nor if it came into the place of a file after the listing.
        for name in ["a.app", "b.app", "c.app", "e.app", "f.app"] {
            let consumer = name.parse().expect("a consumer");
            assert_eq!(read(&acks, consumer, SystemTime::now()).expect(name), None, "{name}");
        }
        assert_eq!(fs::read_dir(temp.path().join("tmp")).expect("lists").count(), 0);
    }

    #[test]
    fn a_directory_that_somebody_fills_takes_no_longer() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        for number in 0..NAMES_MAX + 100 {
            File::create(temp.path().join(format!("n{number}.app"))).expect("creates");
        }
        let all = consumers(temp.path(), usize::MAX).expect("lists");
        assert_eq!(all.len(), NAMES_MAX);
        let first = consumers(temp.path(), 3).expect("lists");
        assert_eq!(first, all.into_iter().take(3).collect());
    }
}
