//! The handle: what a caller sees of the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::Batch;
use crate::journal::{Journal, Retention, STAGED};
use crate::writer::{self, Request, Writer};

/// Requests that may wait for the writer; callers beyond that wait for a place.
const QUEUE: usize = 256;

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file's directory or the file itself cannot be used.
    #[error("cannot open the ledger {path}")]
    Io {
        /// The ledger's file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite cannot use the file, which is not damaged: the disk, a lock, a permission, or a
    /// newer belayd that wrote it.
    #[error("cannot use the ledger {path}")]
    Sqlite {
        /// The ledger's file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// Why a request of an open ledger failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The value is not representable as JSON.
    #[error("cannot encode {table}/{key}")]
    Encode {
        /// Table of the record.
        table: &'static str,
        /// Key of the record.
        key: String,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The disk or SQLite refused the write; nothing of it is kept.
    #[error("cannot write to the ledger: {reason}")]
    Write {
        /// What SQLite said.
        reason: String,
    },
    /// The records could not be read.
    #[error("cannot read the ledger: {reason}")]
    Read {
        /// What SQLite said.
        reason: String,
    },
    /// The writer has ended.
    #[error("the ledger is closed")]
    Closed,
}

impl LedgerError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Read { .. } => true,
            Self::Encode { .. } | Self::Closed => false,
        }
    }
}

/// How a ledger was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// There was none; an empty one was made.
    Fresh,
    /// It was there and whole.
    Existing,
    /// It was there and unusable; it was kept under this name and an empty one begun.
    Replaced {
        /// Where the unusable file lies now.
        kept: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
}

/// Records of one table, by key, with those that did not read back.
#[derive(Debug)]
pub struct Loaded<T> {
    /// Records that read back.
    pub records: BTreeMap<String, T>,
    /// Records that did not; each was moved out of the way and stays in the file for an operator.
    pub set_aside: Vec<SetAside>,
}

/// A record that did not read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its key.
    pub key: String,
    /// Why it did not read back.
    pub reason: String,
}

/// Handle on the node's ledger. Clones share the one writer.
#[derive(Debug, Clone)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    journal: Journal,
    changes: Arc<AtomicU64>,
}

impl Ledger {
    /// Opens the ledger at `path`, making it if it is absent and replacing it if it is unusable.
    ///
    /// Blocks on the disk for as long as SQLite needs to check the file. The writer ends when the
    /// last clone of the handle is dropped.
    pub fn open(path: &Path) -> Result<(Self, Opening), OpenError> {
        Self::open_keeping(path, Retention::default())
    }

    /// [`Self::open`], with so much of the journal kept.
    pub fn open_keeping(path: &Path, retention: Retention) -> Result<(Self, Opening), OpenError> {
        let (connection, opening) = writer::open(path)?;
        let newest = writer::newest(&connection)
            .map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let (staging, staged) = mpsc::channel(STAGED);
        let (told, newest) = watch::channel(newest);
        let changes = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            connection,
            retention,
            staged,
            held: VecDeque::new(),
            newest: told,
            changes: Arc::clone(&changes),
        };
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer::run(writer, queue))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let journal = Journal { staged: staging, requests: requests.clone(), newest };
        Ok((Self { requests, journal, changes }, opening))
    }

    /// The journal that this ledger keeps beside its records.
    pub fn journal(&self) -> Journal {
        self.journal.clone()
    }

    /// Counts the writes of records by this process: what was loaded after it was asked for is still
    /// so while it does not change. Entries of the journal do not count.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Writes a record; it is on the disk when this returns.
    pub async fn put<T: Serialize>(
        &self,
        table: &'static str,
        key: &str,
        value: &T,
    ) -> Result<(), LedgerError> {
        let body = serde_json::to_string(value).map_err(|source| LedgerError::Encode {
            table,
            key: key.to_owned(),
            source,
        })?;
        self.write(table, key, Some(body)).await
    }

    /// Removes a record; it is gone from the disk when this returns. An absent one is no error.
    pub async fn remove(&self, table: &'static str, key: &str) -> Result<(), LedgerError> {
        self.write(table, key, None).await
    }

    /// Writes a batch; all of it is on the disk when this returns, or none of it is if it fails.
    /// A batch can be tried again.
    pub async fn commit(&self, batch: &Arc<Batch>) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Batch { batch: Arc::clone(batch), reply }).await?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Reads every record of a table.
    pub async fn load<T: DeserializeOwned>(
        &self,
        table: &'static str,
    ) -> Result<Loaded<T>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Load { table, reply }).await?;
        let rows = answer.await.map_err(|_| LedgerError::Closed)??;
        let mut loaded = Loaded { records: BTreeMap::new(), set_aside: Vec::new() };
        for (key, body) in rows {
            match serde_json::from_str(&body) {
                Ok(record) => {
                    loaded.records.insert(key, record);
                }
                Err(error) => {
                    let (reply, answer) = oneshot::channel();
                    self.send(Request::SetAside { table, key: key.clone(), reply }).await?;
                    answer.await.map_err(|_| LedgerError::Closed)??;
                    loaded.set_aside.push(SetAside { key, reason: error.to_string() });
                }
            }
        }
        Ok(loaded)
    }

    async fn write(
        &self,
        table: &'static str,
        key: &str,
        body: Option<String>,
    ) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Write { table, key: key.to_owned(), body, reply }).await?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    async fn send(&self, request: Request) -> Result<(), LedgerError> {
        self.requests.send(request).await.map_err(|_| LedgerError::Closed)
    }
}
