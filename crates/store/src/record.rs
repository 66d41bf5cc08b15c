//! The port for records.

use std::future::Future;
use std::io;
use std::time::Duration;

use belay_protocol::{ConsumerId, SyncKey};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};

/// Largest record, in bytes. Every engine takes this much.
pub const RECORD_MAX: usize = 64 * 1024;

/// Names one record in the log of its key; later records have larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A record as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its revision.
    pub revision: Revision,
    /// Its bytes, as they were given.
    pub bytes: Bytes,
}

/// Largest acknowledgement, in bytes. Every engine takes this much.
pub const ACK_MAX: usize = 4 * 1024;

/// What a consumer acknowledged, as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAck {
    /// Under whose name it lies.
    pub consumer: ConsumerId,
    /// Its bytes, as they were given; of one that is larger than [`ACK_MAX`], which the store did
    /// not take, one byte more than that.
    pub bytes: Bytes,
    /// How long ago it was written, as the store knows it.
    pub age: Duration,
}

/// Small records under keys, each key with one head.
pub trait RecordStore: Send + Sync + 'static {
    /// The head, or none.
    fn head(
        &self,
        key: &SyncKey,
    ) -> impl Future<Output = Result<Option<StoredRecord>, RecordError>> + Send;

    /// Makes `bytes` the head if the head is still `expected` (none: if there is no head), and
    /// returns its revision once it is durable. Of any number of concurrent calls with the same
    /// `expected` at most one succeeds.
    fn compare_and_set(
        &self,
        key: &SyncKey,
        expected: Option<Revision>,
        bytes: Bytes,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send;

    /// Hints that the head may have changed. Hints may be lost and may be spurious.
    fn watch(&self, key: &SyncKey)
    -> impl Future<Output = Result<RecordWatch, RecordError>> + Send;

    /// At most `limit` keys that have a record and follow `after`, in their order.
    fn keys(
        &self,
        after: Option<&SyncKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SyncKey>, RecordError>> + Send;

    /// Records still held, newest first, at most `limit`.
    fn history(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StoredRecord>, RecordError>> + Send;

    /// Replaces what a consumer acknowledged under a key, whole or not at all. Of what was not
    /// replaced for a month nothing need be kept.
    fn acknowledge(
        &self,
        key: &SyncKey,
        consumer: &ConsumerId,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// At most `limit` of what consumers acknowledged under a key, in the order of their names.
    fn acknowledgements(
        &self,
        key: &SyncKey,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StoredAck>, RecordError>> + Send;
}

/// What a [`RecordWatch`] is made of: one item for each hint.
pub type WatchStream = BoxStream<'static, ()>;

/// Hints about one key.
pub struct RecordWatch(WatchStream);

impl RecordWatch {
    /// A watch over the hints of `stream`, which ends when the watch is lost.
    pub fn new(stream: WatchStream) -> Self {
        Self(stream)
    }

    /// Waits for the next hint. None means that the watch is lost and must be asked for again.
    pub async fn changed(&mut self) -> Option<()> {
        self.0.next().await
    }
}

impl std::fmt::Debug for RecordWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordWatch")
    }
}

/// Why a record operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The head is not the one expected; nothing was written.
    #[error("the head of {key} is another record than expected")]
    Conflict {
        /// The key.
        key: SyncKey,
        /// The head that was found, none if there is none.
        head: Option<Revision>,
    },
    /// The record is larger than [`RECORD_MAX`].
    #[error("a record of {found} bytes is larger than {RECORD_MAX}")]
    TooLarge {
        /// Its size, in bytes.
        found: usize,
    },
    /// The acknowledgement is larger than [`ACK_MAX`].
    #[error("an acknowledgement of {found} bytes is larger than {ACK_MAX}")]
    AckTooLarge {
        /// Its size, in bytes.
        found: usize,
    },
    /// Another process holds the key for longer than a write takes.
    #[error("{key} is being written by another process")]
    Busy {
        /// The key.
        key: SyncKey,
    },
    /// The store has no space left.
    #[error("the store is full")]
    Full,
    /// The store could not be read or written. After a compare-and-set it is unknown whether the
    /// record was written: read the head and compare.
    #[error("the store could not {action}")]
    Io {
        /// What it was asked to do.
        action: &'static str,
        /// Why it could not.
        #[source]
        source: io::Error,
    },
}

impl RecordError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Full | Self::Io { .. } => true,
            Self::Conflict { .. } | Self::TooLarge { .. } | Self::AckTooLarge { .. } => false,
        }
    }

    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { action, source },
        }
    }
}
