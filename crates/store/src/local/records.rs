//! Records in a directory.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belay_protocol::{ConsumerId, SyncKey};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use rustix::fs::{FlockOperation, flock};

use super::{LocalStore, make_dir};
use crate::directory_watch::DirectoryWatch;
use crate::record::{
    RECORD_MAX, RecordError, RecordStore, RecordWatch, Revision, StoredAck, StoredRecord,
};

/// Records kept under one key. Publishers look back this far for their own lost replies.
const KEPT: u64 = 64;
/// A write takes milliseconds; a holder of the lock for this long is stuck or stopped.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(5);

impl RecordStore for LocalStore {
    async fn head(&self, key: &SyncKey) -> Result<Option<StoredRecord>, RecordError> {
        Ok(self.history(key, 1).await?.pop())
    }

    async fn compare_and_set(
        &self,
        key: &SyncKey,
        expected: Option<Revision>,
        bytes: Bytes,
    ) -> Result<Revision, RecordError> {
        if bytes.len() > RECORD_MAX {
            return Err(RecordError::TooLarge { found: bytes.len() });
        }
        let (store, key) = (self.clone(), key.clone());
        blocking("write a record", move || store.set_blocking(&key, expected, &bytes)).await
    }

    async fn watch(&self, key: &SyncKey) -> Result<RecordWatch, RecordError> {
        let dir = self.key_dir(key);
        let io = |error| RecordError::io("watch a key", error);
        let made = dir.clone();
        blocking("watch a key", move || make_dir(&made).map_err(io)).await?;
        let watch = DirectoryWatch::new(&dir).map_err(io)?;
        let hints = stream::unfold(watch, |mut watch| async move {
            watch.changed().await.map(|()| ((), watch))
        });
        Ok(RecordWatch::new(hints.boxed()))
    }

    async fn keys(
        &self,
        after: Option<&SyncKey>,
        limit: usize,
    ) -> Result<Vec<SyncKey>, RecordError> {
        let (records, after) = (self.root.join("records"), after.cloned());
        blocking("list keys", move || {
            list_keys(&records, after.as_ref(), limit)
                .map_err(|error| RecordError::io("list keys", error))
        })
        .await
    }

    async fn history(&self, key: &SyncKey, limit: usize) -> Result<Vec<StoredRecord>, RecordError> {
        let dir = self.key_dir(key);
        blocking("read records", move || {
            read_newest(&dir, limit).map_err(|error| RecordError::io("read records", error))
        })
        .await
    }

    async fn acknowledge(
        &self,
        key: &SyncKey,
        consumer: &ConsumerId,
        bytes: Bytes,
    ) -> Result<(), RecordError> {
        let (store, key, consumer) = (self.clone(), key.clone(), consumer.clone());
        blocking("write an acknowledgement", move || {
            store.acknowledge_blocking(&key, &consumer, &bytes)
        })
        .await
    }

    async fn acknowledgements(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> Result<Vec<StoredAck>, RecordError> {
        let (store, key) = (self.clone(), key.clone());
        blocking("read acknowledgements", move || store.acknowledgements_blocking(&key, limit))
            .await
    }
}

impl LocalStore {
    pub(super) fn key_dir(&self, key: &SyncKey) -> PathBuf {
        self.root.join("records").join(key.as_str())
    }

    fn set_blocking(
        &self,
        key: &SyncKey,
        expected: Option<Revision>,
        bytes: &[u8],
    ) -> Result<Revision, RecordError> {
        let io = |error| RecordError::io("write a record", error);
        let dir = self.key_dir(key);
        make_dir(&dir).map_err(io)?;
        let _lock = lock(&dir, key)?;
        let conflict = |head| RecordError::Conflict { key: key.clone(), head };
        let head = revisions(&dir).map_err(io)?.pop();
        if head != expected {
            return Err(conflict(head));
        }
        let next = Revision(expected.map_or(0, |revision| revision.0) + 1);
        let mut file = self.new_file().map_err(io)?;
        file.file.write_all(bytes).map_err(io)?;
        if !file.name_it(&dir.join(file_name(next))).map_err(io)? {
            let head = revisions(&dir).map_err(io)?.pop();
            return Err(conflict(head));
        }
        prune(&dir, next);
        Ok(next)
    }
}

fn list_keys(records: &Path, after: Option<&SyncKey>, limit: usize) -> io::Result<Vec<SyncKey>> {
    // The `limit` smallest: memory follows the page, not the store.
    let mut smallest = BTreeSet::new();
    for entry in fs::read_dir(records)? {
        let entry = entry?;
        let Some(key) = entry.file_name().to_str().and_then(|name| name.parse::<SyncKey>().ok())
        else {
            continue;
        };
        if !entry.file_type()?.is_dir() {
            continue;
        }
        // A watch makes the directory of a key that nobody wrote to yet.
        if after.is_some_and(|after| key <= *after) || revisions(&entry.path())?.is_empty() {
            continue;
        }
        smallest.insert(key);
        if smallest.len() > limit {
            smallest.pop_last();
        }
    }
    Ok(smallest.into_iter().collect())
}

fn file_name(revision: Revision) -> String {
    format!("{:010}", revision.0)
}

/// The revisions in a directory, ascending; none if the directory is absent.
fn revisions(dir: &Path) -> io::Result<Vec<Revision>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number =
            name.to_str().filter(|name| name.len() >= 10).and_then(|name| name.parse().ok());
        found.extend(number.map(Revision));
    }
    found.sort_unstable();
    Ok(found)
}

fn read_newest(dir: &Path, limit: usize) -> io::Result<Vec<StoredRecord>> {
    let mut records = Vec::new();
    for revision in revisions(dir)?.into_iter().rev().take(limit) {
        let file = match File::open(dir.join(file_name(revision))) {
            Ok(file) => file,
            // Pruned since the listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        // A file that is larger than any record was put there by someone else; its reader will
        // refuse what fits of it.
        file.take(RECORD_MAX as u64).read_to_end(&mut bytes)?;
        records.push(StoredRecord { revision, bytes: bytes.into() });
    }
    Ok(records)
}

/// Old records are only worth their space; one that cannot be removed is tried again next time.
fn prune(dir: &Path, head: Revision) {
    for revision in revisions(dir).unwrap_or_default() {
        if revision.0 + KEPT <= head.0 {
            let _ = fs::remove_file(dir.join(file_name(revision)));
        }
    }
}

fn lock(dir: &Path, key: &SyncKey) -> Result<File, RecordError> {
    let io = |error| RecordError::io("lock a key", error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))
        .map_err(io)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io(error.into())),
        }
        if Instant::now() >= deadline {
            return Err(RecordError::Busy { key: key.clone() });
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
) -> Result<T, RecordError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(RecordError::Io { action, source: io::Error::other(error) }))
}
