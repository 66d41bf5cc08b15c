//! The node's durable state: one SQLite file, one writer.
//!
//! A [`Ledger`] is a handle; behind it a thread owns the file and is its only user. Requests reach
//! it over a bounded channel; whatever has queued up is written in one transaction (group commit),
//! and a write is answered only after the commit is on the disk. A record that does not read back
//! costs that record: it is moved aside and reported. A file that SQLite cannot use is renamed and
//! a fresh one begun, so that a damaged disk never becomes a boot loop.

mod batch;
mod journal;
mod ledger;
mod writer;

pub use batch::Batch;
pub use journal::{
    Entry, Journal, JournalPage, JournalQuery, Numbered, ReadFrom, Retention, StagingFull,
};
pub use ledger::{Ledger, LedgerError, Loaded, OpenError, Opening, SetAside};
