//! Blobs and records: where published state lies between a provider and its consumers.
//!
//! Two narrow ports. A [`BlobStore`] keeps immutable objects named by the BLAKE3 of their bytes; a
//! [`RecordStore`] keeps, under each sync key, a log of small records whose newest is the head and
//! is replaced only by compare-and-set. A watch is a hint and never the truth: whoever watches also
//! polls. [`LocalStore`] is both in one directory, safe to be shared by several processes.
//!
//! There are no tasks here. Blocking calls run on the runtime's blocking threads.

mod blob;
#[cfg(feature = "contract")]
pub mod contract;
mod directory_watch;
mod local;
mod record;

pub use blob::{Aside, BlobEntry, BlobError, BlobReader, BlobStore, PutOutcome};
pub use directory_watch::DirectoryWatch;
pub use local::{LocalStore, OpenError};
pub use record::{
    ACK_MAX, RECORD_MAX, RecordError, RecordStore, RecordWatch, Revision, StoredAck, StoredRecord,
    WatchStream,
};
