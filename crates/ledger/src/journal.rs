//! The handle on the journal: entries in the order of their writing, numbered, kept in bounds.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::LedgerError;
use crate::writer::Request;

/// Entries that may wait for a commit. What does not fit is the caller's to count.
pub(crate) const STAGED: usize = 1024;

/// How much of a journal is kept. What is beyond goes when something is written, never by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most entries that are kept. Up to 128 more may be there: they are deleted together.
    pub entries: u64,
    /// Oldest that an entry may become. A clock that jumps must not empty the journal, so the
    /// newest 1000 are kept at any age.
    pub age: Duration,
}

impl Default for Retention {
    /// 10,000 entries, 30 days.
    fn default() -> Self {
        Self { entries: 10_000, age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// Something to be written to the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in milliseconds since 1970. It orders nothing.
    pub at: i64,
    /// What it is about, to find it by; may be empty.
    pub topic: String,
    /// Its kind, to find it by.
    pub kind: String,
    /// All of it.
    pub body: String,
}

/// An entry that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Its number: larger than all before it, never given twice.
    pub number: u64,
    /// The entry.
    pub entry: Entry,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The first after this number.
    After(u64),
    /// As many as are asked for before the end.
    End,
}

/// Which entries are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalQuery {
    /// Where to begin.
    pub from: ReadFrom,
    /// Only those of this topic.
    pub topic: Option<String>,
    /// Only those of these kinds; all when empty.
    pub kinds: Vec<String>,
    /// At most so many.
    pub limit: usize,
}

/// Entries that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPage {
    /// Number of the oldest that is kept; `None` while there is none.
    pub first: Option<u64>,
    /// Number of the newest; where there is none, the number before the next one.
    pub newest: u64,
    /// The entries, oldest first.
    pub entries: Vec<Numbered>,
}

/// The commit has no room for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{STAGED} entries wait for the ledger already")]
pub struct StagingFull;

/// Handle on the journal of a ledger. Clones share it.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(crate) staged: mpsc::Sender<Entry>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) newest: watch::Receiver<u64>,
}

impl Journal {
    /// Hands an entry over at once, without waiting for anything. It is written with the next
    /// commit, whatever that is for; [`Self::flush`] makes one where none comes.
    ///
    /// What was staged before a record is put is on the disk when the put is answered.
    pub fn stage(&self, entry: Entry) -> Result<(), StagingFull> {
        // A ledger that has ended takes nothing either: the caller counts it as lost.
        self.staged.try_send(entry).map_err(|_| StagingFull)
    }

    /// Writes what is staged; it is on the disk when this returns. What the disk refuses stays
    /// staged.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Flush { reply }).await?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Reads entries that are on the disk.
    pub async fn read(&self, query: JournalQuery) -> Result<JournalPage, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::ReadJournal { query, reply }).await?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Number of the newest entry, changed after each commit that has any; 0 before the first.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    async fn send(&self, request: Request) -> Result<(), LedgerError> {
        self.requests.send(request).await.map_err(|_| LedgerError::Closed)
    }
}
