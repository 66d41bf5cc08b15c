//! The port for immutable objects.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;

use belay_protocol::Cid;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// The bytes of a blob in order, in pieces of the engine's choice.
pub type BlobReader = BoxStream<'static, Result<Bytes, BlobError>>;

/// Immutable objects, each named by the content id of its bytes.
pub trait BlobStore: Send + Sync + 'static {
    /// Stores the bytes of `source` from its beginning, `size` of them, under `id`; when it
    /// returns they are durable. The engine checks that they hash to `id`.
    fn put_if_absent(
        &self,
        id: Cid,
        source: File,
        size: u64,
    ) -> impl Future<Output = Result<PutOutcome, BlobError>> + Send;

    /// Reads a blob, or the part of it in `range`. What it yields is not verified: the reader
    /// hashes, since the bytes may have been damaged after they were stored.
    fn get(
        &self,
        id: Cid,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<BlobReader, BlobError>> + Send;

    /// The size of a blob in bytes, or none if it is not there.
    fn has(&self, id: Cid) -> impl Future<Output = Result<Option<u64>, BlobError>> + Send;

    /// Removes a blob; false if it was not there.
    fn delete(&self, id: Cid) -> impl Future<Output = Result<bool, BlobError>> + Send;

    /// At most `limit` blobs whose ids follow `after`, in the order of their ids.
    fn list(
        &self,
        after: Option<Cid>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<BlobEntry>, BlobError>> + Send;
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The blob was stored.
    Stored,
    /// It was there already.
    Present,
}

/// One blob of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its id.
    pub id: Cid,
    /// Its size, in bytes.
    pub size: u64,
}

/// Why a blob operation failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("the store has no object {id}")]
    Absent {
        /// The id asked for.
        id: Cid,
    },
    /// The bytes given are not those the id names.
    #[error("the bytes offered as {id} are not what that id names")]
    Mismatch {
        /// The id they were offered as.
        id: Cid,
    },
    /// The range lies outside the blob.
    #[error("the range {start}..{end} is outside the {size} bytes of {id}")]
    Range {
        /// The blob.
        id: Cid,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Size of the blob, in bytes.
        size: u64,
    },
    /// The store has no space left.
    #[error("the store is full")]
    Full,
    /// The store could not be read or written.
    #[error("the store could not {action}")]
    Io {
        /// What it was asked to do.
        action: &'static str,
        /// Why it could not.
        #[source]
        source: io::Error,
    },
}

impl BlobError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Full | Self::Io { .. } => true,
            Self::Mismatch { .. } | Self::Range { .. } => false,
        }
    }

    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { action, source },
        }
    }
}
