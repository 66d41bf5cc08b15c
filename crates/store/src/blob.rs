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

    /// Removes a blob at once, whoever relies on it; false if it was not there. What somebody may
    /// come to rely on meanwhile is set aside first.
    fn delete(&self, id: Cid) -> impl Future<Output = Result<bool, BlobError>> + Send;

    /// Takes a blob out of its place; none if it is not there. From when this returns `has` and
    /// `list` do not tell of it and a put stores it anew, until it is put back; `get` reads it all
    /// the while. Each call makes an [`Aside`] of its own.
    fn set_aside(&self, id: Cid) -> impl Future<Output = Result<Option<Aside>, BlobError>> + Send;

    /// Puts back what was set aside, unless it was stored anew or somebody else did this or removed
    /// it.
    fn put_back(&self, aside: &Aside) -> impl Future<Output = Result<(), BlobError>> + Send;

    /// Removes what was set aside, and nothing that was put back or stored anew. Nothing happens if
    /// it is not there.
    fn remove_aside(&self, aside: &Aside) -> impl Future<Output = Result<(), BlobError>> + Send;

    /// At most `limit` of what is set aside, in no order.
    fn asides(&self, limit: usize) -> impl Future<Output = Result<Vec<Aside>, BlobError>> + Send;

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

/// A blob that was taken out of its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aside {
    id: Cid,
    mark: String,
}

impl Aside {
    /// A blob that an engine keeps aside under this mark, which no other has.
    pub fn new(id: Cid, mark: String) -> Self {
        Self { id, mark }
    }

    /// Its id.
    pub fn id(&self) -> Cid {
        self.id
    }

    /// What tells it from the same blob set aside another time.
    pub fn mark(&self) -> &str {
        &self.mark
    }
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
