//! A store that fails where a test wants it to.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use belay_protocol::{Cid, ConsumerId, SyncKey};
use belay_store::{
    Aside, BlobEntry, BlobError, BlobReader, BlobStore, LocalStore, PutOutcome, RecordError,
    RecordStore, RecordWatch, Revision, StoredAck, StoredRecord,
};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::scene::DEADLINE;

/// What fails, and what was asked.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) reads: Reading,
    /// Puts that are taken before no more are.
    pub(crate) puts: Option<u32>,
    /// What was stored and was not there before, in order.
    pub(crate) stored: Vec<Cid>,
    /// Every archive is said to be damaged.
    pub(crate) damaged: bool,
    /// The log cannot be read.
    pub(crate) log_down: bool,
    /// The object of the next record is deleted just before it is set.
    pub(crate) retire_before_set: Option<Cid>,
    /// What the next set says.
    pub(crate) set: Setting,
    pub(crate) gets: u32,
    /// How often the head of a key was asked for.
    pub(crate) heads: u32,
    pub(crate) deletes: Deleting,
    /// How often an object was to be set aside, removed or deleted.
    pub(crate) deletions: u32,
    /// Calls that are answered before the store is gone.
    pub(crate) answers: Option<u32>,
    /// Bytes asked for in parts of objects.
    pub(crate) fetched: u64,
    /// How acknowledgements are written.
    pub(crate) acks: Reading,
    /// Watches that are given out from now on never say anything.
    pub(crate) deaf: bool,
    pub(crate) watches: u32,
    /// Every set that was asked for, also one that was lost on its way.
    pub(crate) asked: Vec<(Option<Revision>, Bytes)>,
    shut: Option<Shut>,
}

/// A place in the work of a store at which a test holds it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Before an object is taken out of its place.
    SetAside,
    /// Before it is put back or removed.
    EndAside,
    /// Before a record is set.
    Set,
}

/// A gate that is shut: who comes says so and waits.
#[derive(Debug)]
struct Shut {
    gate: Gate,
    comes: oneshot::Sender<()>,
    opened: oneshot::Receiver<()>,
}

/// The test's side of it.
pub(crate) struct Held {
    comes: oneshot::Receiver<()>,
    open: oneshot::Sender<()>,
}

impl Held {
    /// Waits until somebody stands at the gate.
    pub(crate) async fn reached(&mut self) {
        let comes = tokio::time::timeout(DEADLINE, &mut self.comes).await;
        comes.expect("somebody comes in time").expect("the gate is there");
    }

    pub(crate) fn open(self) {
        self.open.send(()).expect("somebody waits");
    }
}

/// How reads of objects and the like go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    #[default]
    Works,
    Fails,
    /// Nothing ever comes.
    Silent,
}

/// How deletions of objects go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Deleting {
    #[default]
    Works,
    Fails,
}

/// How a set ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    #[default]
    AsItIs,
    /// The record is set, but the reply is lost and the log is not readable after it.
    LostReply,
    /// The request is lost, which its sender cannot tell from a lost reply.
    LostRequest,
    /// Nothing is set, and that is certain.
    Refused,
}

#[derive(Clone)]
pub(crate) struct Faulty {
    inner: LocalStore,
    pub(crate) faults: Arc<Mutex<Faults>>,
}

impl Faulty {
    pub(crate) fn open(path: &Path) -> Self {
        Self { inner: LocalStore::open(path).expect("opens"), faults: Arc::default() }
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.faults.lock().expect("no test panics while it holds this"))
    }
}

impl Faulty {
    /// Shuts a gate for the next who comes.
    pub(crate) fn shut(&self, gate: Gate) -> Held {
        let (comes, comes_seen) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        self.with(|faults| faults.shut = Some(Shut { gate, comes, opened }));
        Held { comes: comes_seen, open }
    }

    async fn pass(&self, gate: Gate) {
        let shut = self.with(|faults| faults.shut.take_if(|shut| shut.gate == gate));
        if let Some(Shut { comes, opened, .. }) = shut {
            comes.send(()).expect("the test waits");
            opened.await.expect("the test opens it");
        }
    }

    /// The store, for a call that takes an object away.
    fn deleting(&self, action: &'static str) -> Result<&LocalStore, BlobError> {
        let fails = self.with(|faults| {
            faults.deletions += 1;
            faults.deletes == Deleting::Fails
        });
        if fails {
            return Err(BlobError::Io { action, source: broken() });
        }
        self.blobs(action)
    }

    /// Whether this call comes after the store is gone.
    fn is_gone(&self) -> bool {
        self.with(|faults| match &mut faults.answers {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        })
    }

    fn blobs(&self, action: &'static str) -> Result<&LocalStore, BlobError> {
        if self.is_gone() {
            return Err(BlobError::Io { action, source: broken() });
        }
        Ok(&self.inner)
    }

    fn records(&self, action: &'static str) -> Result<&LocalStore, RecordError> {
        if self.is_gone() {
            return Err(RecordError::Io { action, source: broken() });
        }
        Ok(&self.inner)
    }
}

fn broken() -> std::io::Error {
    std::io::Error::other("the store is broken")
}

impl BlobStore for Faulty {
    async fn put_if_absent(
        &self,
        id: Cid,
        source: File,
        size: u64,
    ) -> Result<PutOutcome, BlobError> {
        if self.with(|faults| faults.damaged) {
            return Err(BlobError::Mismatch { id });
        }
        let takes = self.with(|faults| match &mut faults.puts {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        });
        if !takes {
            return Err(BlobError::Io { action: "write an object", source: broken() });
        }
        let put = self.blobs("write an object")?.put_if_absent(id, source, size).await?;
        if put == PutOutcome::Stored {
            self.with(|faults| faults.stored.push(id));
        }
        Ok(put)
    }

    async fn get(&self, id: Cid, range: Option<Range<u64>>) -> Result<BlobReader, BlobError> {
        let reads = self.with(|faults| {
            faults.gets += 1;
            faults.fetched += range.as_ref().map_or(0, |range| range.end - range.start);
            faults.reads
        });
        match reads {
            Reading::Works => self.blobs("read an object")?.get(id, range).await,
            Reading::Fails => Err(BlobError::Io { action: "read an object", source: broken() }),
            Reading::Silent => Ok(Box::pin(futures_util::stream::pending())),
        }
    }

    async fn has(&self, id: Cid) -> Result<Option<u64>, BlobError> {
        self.blobs("look for an object")?.has(id).await
    }

    async fn delete(&self, id: Cid) -> Result<bool, BlobError> {
        self.deleting("delete an object")?.delete(id).await
    }

    async fn set_aside(&self, id: Cid) -> Result<Option<Aside>, BlobError> {
        self.pass(Gate::SetAside).await;
        self.deleting("set an object aside")?.set_aside(id).await
    }

    async fn put_back(&self, aside: &Aside) -> Result<(), BlobError> {
        self.pass(Gate::EndAside).await;
        self.blobs("put an object back")?.put_back(aside).await
    }

    async fn remove_aside(&self, aside: &Aside) -> Result<(), BlobError> {
        self.pass(Gate::EndAside).await;
        self.deleting("remove an object")?.remove_aside(aside).await
    }

    async fn asides(&self, limit: usize) -> Result<Vec<Aside>, BlobError> {
        self.blobs("list what is set aside")?.asides(limit).await
    }

    async fn list(&self, after: Option<Cid>, limit: usize) -> Result<Vec<BlobEntry>, BlobError> {
        self.blobs("list objects")?.list(after, limit).await
    }
}

impl RecordStore for Faulty {
    async fn head(&self, key: &SyncKey) -> Result<Option<StoredRecord>, RecordError> {
        self.with(|faults| faults.heads += 1);
        self.records("read records")?.head(key).await
    }

    async fn compare_and_set(
        &self,
        key: &SyncKey,
        expected: Option<Revision>,
        bytes: Bytes,
    ) -> Result<Revision, RecordError> {
        self.pass(Gate::Set).await;
        if let Some(blob) = self.with(|faults| faults.retire_before_set.take()) {
            self.inner.delete(blob).await.expect("deletes");
        }
        let set = self.with(|faults| {
            faults.asked.push((expected, bytes.clone()));
            std::mem::take(&mut faults.set)
        });
        match set {
            Setting::AsItIs => {
                self.records("write a record")?.compare_and_set(key, expected, bytes).await
            }
            Setting::LostReply => {
                self.inner.compare_and_set(key, expected, bytes).await?;
                self.with(|faults| faults.log_down = true);
                Err(RecordError::Io { action: "write a record", source: broken() })
            }
            Setting::LostRequest => {
                Err(RecordError::Io { action: "write a record", source: broken() })
            }
            Setting::Refused => Err(RecordError::TooLarge { found: bytes.len() }),
        }
    }

    async fn watch(&self, key: &SyncKey) -> Result<RecordWatch, RecordError> {
        let deaf = self.with(|faults| {
            faults.watches += 1;
            faults.deaf
        });
        if deaf {
            return Ok(RecordWatch::new(Box::pin(futures_util::stream::pending())));
        }
        self.records("watch records")?.watch(key).await
    }

    async fn keys(
        &self,
        after: Option<&SyncKey>,
        limit: usize,
    ) -> Result<Vec<SyncKey>, RecordError> {
        self.records("list keys")?.keys(after, limit).await
    }

    async fn history(&self, key: &SyncKey, limit: usize) -> Result<Vec<StoredRecord>, RecordError> {
        if self.with(|faults| faults.log_down) {
            return Err(RecordError::Io { action: "read records", source: broken() });
        }
        self.records("read records")?.history(key, limit).await
    }

    async fn acknowledge(
        &self,
        key: &SyncKey,
        consumer: &ConsumerId,
        bytes: Bytes,
    ) -> Result<(), RecordError> {
        let action = "write an acknowledgement";
        match self.with(|faults| faults.acks) {
            Reading::Works => self.records(action)?.acknowledge(key, consumer, bytes).await,
            Reading::Fails => Err(RecordError::Io { action, source: broken() }),
            Reading::Silent => std::future::pending().await,
        }
    }

    async fn acknowledgements(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> Result<Vec<StoredAck>, RecordError> {
        self.records("read acknowledgements")?.acknowledgements(key, limit).await
    }
}
