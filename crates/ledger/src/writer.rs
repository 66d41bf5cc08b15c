//! The thread that owns the file.

mod entries;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{mpsc, oneshot, watch};

use crate::batch::Batch;
use crate::journal::{Entry, JournalPage, JournalQuery, Retention};
use crate::ledger::{LedgerError, OpenError, Opening};

/// Most writes that share one transaction, so that a flood cannot delay an answer without end.
const GROUP: usize = 512;

/// Most entries of the journal that one commit carries.
const CARRIED: usize = 512;

/// Raised when an older belayd could not use the tables any more.
const LAYOUT: i64 = 1;

pub(crate) enum Request {
    Write {
        table: &'static str,
        key: String,
        /// `None` removes.
        body: Option<String>,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Batch {
        batch: Arc<Batch>,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    SetAside {
        table: &'static str,
        key: String,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Load {
        table: &'static str,
        reply: oneshot::Sender<Result<Vec<(String, String)>, LedgerError>>,
    },
    Flush {
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    ReadJournal {
        query: JournalQuery,
        reply: oneshot::Sender<Result<JournalPage, LedgerError>>,
    },
}

pub(crate) fn open(path: &Path) -> Result<(Connection, Opening), OpenError> {
    let existed = path.try_exists().map_err(|source| io(path, source))?;
    match connect(path) {
        Ok(connection) if existed => Ok((connection, Opening::Existing)),
        Ok(connection) => Ok((connection, Opening::Fresh)),
        Err(error) if existed && is_damage(&error) => {
            let kept = set_file_aside(path).map_err(|source| io(path, source))?;
            let begun = connect(path).and_then(|connection| {
                entries::begin_above(&connection, entries::floor_after_loss())?;
                Ok(connection)
            });
            let connection =
                begun.map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
            Ok((connection, Opening::Replaced { kept, reason: error.to_string() }))
        }
        Err(source) => Err(OpenError::Sqlite { path: path.to_owned(), source }),
    }
}

/// Whether the file itself is at fault. A full or failing disk, a lock or a missing permission is
/// not: the ledger is whole then, and putting it aside would forget what must be remembered.
fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn io(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    // FULL makes a commit durable in WAL mode; NORMAL would lose the last ones at a power cut.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // Bounds the log that an idle node keeps on its flash.
    connection.pragma_update(None, "journal_size_limit", 1024 * 1024)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(failure(rusqlite::ffi::SQLITE_CORRUPT, verdict));
    }
    if layout > LAYOUT {
        let reason = format!(
            "it was written by a newer belayd (layout {layout}, this one knows {LAYOUT}); install \
             that version again"
        );
        return Err(failure(rusqlite::ffi::SQLITE_MISMATCH, reason));
    }
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS record (
             tbl TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
             PRIMARY KEY (tbl, key)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS set_aside (
             tbl TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL);",
    )?;
    connection.execute_batch(entries::TABLES)?;
    connection.pragma_update(None, "user_version", LAYOUT)?;
    Ok(connection)
}

fn failure(code: i32, reason: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(reason))
}

/// Renames the file and its log to the first free numbered name beside it.
fn set_file_aside(path: &Path) -> std::io::Result<PathBuf> {
    let with = |from: &Path, suffix: &str| {
        let mut name = from.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut number = 1_u32;
    let kept = loop {
        let candidate = with(path, &format!(".unusable-{number}"));
        if !candidate.try_exists()? {
            break candidate;
        }
        number += 1;
    };
    std::fs::rename(path, &kept)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(with(path, suffix), with(&kept, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(kept)
}

/// Number of the newest entry of the journal.
pub(crate) fn newest(connection: &Connection) -> Result<u64, rusqlite::Error> {
    entries::newest(connection)
}

pub(crate) fn run(mut writer: Writer, mut queue: mpsc::Receiver<Request>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        writer.serve(&mut group);
    }
    // What was staged after the last commit; whoever would be told of a failure has gone.
    let _ = writer.commit_all(&[]);
}

/// What the thread owns.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) retention: Retention,
    pub(crate) staged: mpsc::Receiver<Entry>,
    /// Taken from `staged` and not on the disk yet.
    pub(crate) held: VecDeque<Entry>,
    pub(crate) newest: watch::Sender<u64>,
    /// Groups of writes so far.
    pub(crate) changes: Arc<AtomicU64>,
}

impl Writer {
    /// Writes a group in one transaction and answers each of its writes with the fate of the
    /// commit.
    fn serve(&mut self, group: &mut Vec<Request>) {
        let mut waiting = Vec::with_capacity(group.len());
        let mut hurried = Vec::new();
        let mut writes = Vec::with_capacity(group.len());
        let mut loads = Vec::new();
        let mut reads = Vec::new();
        for request in group.drain(..) {
            match request {
                Request::Write { table, key, body, reply } => {
                    writes.push(Change::Put { table, key, body });
                    waiting.push(reply);
                }
                Request::Batch { batch, reply } => {
                    writes.push(Change::Batch(batch));
                    waiting.push(reply);
                }
                Request::SetAside { table, key, reply } => {
                    writes.push(Change::SetAside { table, key });
                    waiting.push(reply);
                }
                Request::Load { table, reply } => loads.push((table, reply)),
                Request::Flush { reply } => hurried.push(reply),
                Request::ReadJournal { query, reply } => reads.push((query, reply)),
            }
        }
        if !writes.is_empty() || !hurried.is_empty() {
            let (records, entries) = self.commit_all(&writes);
            // Also after a failure, which may have got through.
            if !writes.is_empty() {
                self.changes.fetch_add(1, Ordering::Release);
            }
            // A caller that went away does not undo its write.
            for reply in waiting {
                let _ = reply.send(answer(&records));
            }
            for reply in hurried {
                let _ = reply.send(answer(&entries));
            }
        }
        for (table, reply) in loads {
            let rows = read(&self.connection, table)
                .map_err(|error| LedgerError::Read { reason: error.to_string() });
            let _ = reply.send(rows);
        }
        for (query, reply) in reads {
            let page = entries::read(&self.connection, &query)
                .map_err(|error| LedgerError::Read { reason: error.to_string() });
            let _ = reply.send(page);
        }
    }

    /// Commits changes of records together with what is staged for the journal, and says what
    /// became of each of the two. Entries that the disk refused are held for the next commit.
    fn commit_all(&mut self, mut changes: &[Change]) -> (Fate, Fate) {
        loop {
            while self.held.len() < CARRIED
                && let Ok(entry) = self.staged.try_recv()
            {
                self.held.push_back(entry);
            }
            if changes.is_empty() && self.held.is_empty() {
                return (Ok(()), Ok(()));
            }
            match self.commit(changes, &self.held) {
                Ok(newest) => {
                    self.newest.send_if_modified(|told| std::mem::replace(told, newest) != newest);
                    changes = &[];
                    self.held.clear();
                }
                Err(error) => {
                    let reason = error.to_string();
                    // The entries may be what the last free blocks have no room for; a record must
                    // not be refused for their sake.
                    let alone = error.sqlite_error_code() == Some(ErrorCode::DiskFull)
                        && !self.held.is_empty();
                    let written = if changes.is_empty() {
                        Ok(())
                    } else if alone {
                        let written = self.commit(changes, &VecDeque::new());
                        written.map(|_| ()).map_err(|error| error.to_string())
                    } else {
                        Err(reason.clone())
                    };
                    return (written, Err(reason));
                }
            }
        }
    }

    fn commit(
        &self,
        changes: &[Change],
        entries: &VecDeque<Entry>,
    ) -> Result<u64, rusqlite::Error> {
        let transaction = self.connection.unchecked_transaction()?;
        for change in changes {
            change.make(&transaction)?;
        }
        let newest = if entries.is_empty() {
            entries::newest(&transaction)?
        } else {
            entries::append(&transaction, entries.iter(), self.retention)?
        };
        transaction.commit()?;
        Ok(newest)
    }
}

/// What became of a write, with what SQLite said against it.
type Fate = Result<(), String>;

fn answer(fate: &Fate) -> Result<(), LedgerError> {
    fate.clone().map_err(|reason| LedgerError::Write { reason })
}

enum Change {
    Batch(Arc<Batch>),
    Put { table: &'static str, key: String, body: Option<String> },
    SetAside { table: &'static str, key: String },
}

impl Change {
    fn make(&self, transaction: &rusqlite::Transaction<'_>) -> Result<(), rusqlite::Error> {
        match self {
            Self::Batch(batch) => {
                for change in &batch.changes {
                    put(transaction, change.table, &change.key, change.body.as_deref())?;
                }
            }
            Self::Put { table, key, body } => put(transaction, table, key, body.as_deref())?,
            Self::SetAside { table, key } => {
                transaction.execute(
                    "INSERT INTO set_aside SELECT tbl, key, body FROM record
                     WHERE tbl = ?1 AND key = ?2",
                    params![table, key],
                )?;
                transaction.execute(
                    "DELETE FROM record WHERE tbl = ?1 AND key = ?2",
                    params![table, key],
                )?;
            }
        }
        Ok(())
    }
}

/// Writes a record; `None` removes it.
fn put(
    transaction: &rusqlite::Transaction<'_>,
    table: &str,
    key: &str,
    body: Option<&str>,
) -> Result<(), rusqlite::Error> {
    let changed = match body {
        Some(body) => transaction
            .prepare_cached(
                "INSERT INTO record (tbl, key, body) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tbl, key) DO UPDATE SET body = excluded.body",
            )?
            .execute(params![table, key, body]),
        None => transaction
            .prepare_cached("DELETE FROM record WHERE tbl = ?1 AND key = ?2")?
            .execute(params![table, key]),
    };
    changed.map(|_| ())
}

fn read(connection: &Connection, table: &str) -> Result<Vec<(String, String)>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT key, body FROM record WHERE tbl = ?1 ORDER BY key")?
        .query_map(params![table], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

#[cfg(test)]
mod tests;
