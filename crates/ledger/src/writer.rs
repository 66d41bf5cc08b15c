//! The thread that owns the file.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::ledger::{LedgerError, OpenError, Opening};

/// Most writes that share one transaction, so that a flood cannot delay an answer without end.
const GROUP: usize = 512;

/// Raised with the layout of the tables.
const LAYOUT: i64 = 1;

pub(crate) enum Request {
    Write {
        table: &'static str,
        key: String,
        /// `None` removes.
        body: Option<String>,
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
}

pub(crate) fn open(path: &Path) -> Result<(Connection, Opening), OpenError> {
    let existed = path.try_exists().map_err(|source| io(path, source))?;
    match connect(path) {
        Ok(connection) if existed => Ok((connection, Opening::Existing)),
        Ok(connection) => Ok((connection, Opening::Fresh)),
        Err(error) if existed && is_damage(&error) => {
            let kept = set_file_aside(path).map_err(|source| io(path, source))?;
            let connection = connect(path)
                .map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
            Ok((connection, Opening::Replaced { kept, reason: error.to_string() }))
        }
        Err(source) => Err(OpenError::Sqlite { path: path.to_owned(), source }),
    }
}

/// Whether the file itself is at fault. A full or failing disk, a lock or a missing permission is
/// not: the ledger is whole then, and putting it aside would forget what must be remembered.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
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

pub(crate) fn run(mut connection: Connection, mut queue: mpsc::Receiver<Request>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        serve(&mut connection, &mut group);
    }
}

/// Writes a group in one transaction and answers each of its writes with the fate of the commit.
fn serve(connection: &mut Connection, group: &mut Vec<Request>) {
    let mut waiting = Vec::with_capacity(group.len());
    let mut writes = Vec::with_capacity(group.len());
    let mut loads = Vec::new();
    for request in group.drain(..) {
        match request {
            Request::Write { table, key, body, reply } => {
                writes.push(Change::Put { table, key, body });
                waiting.push(reply);
            }
            Request::SetAside { table, key, reply } => {
                writes.push(Change::SetAside { table, key });
                waiting.push(reply);
            }
            Request::Load { table, reply } => loads.push((table, reply)),
        }
    }
    if !writes.is_empty() {
        let result = commit(connection, &writes).map_err(|error| error.to_string());
        for reply in waiting {
            // A caller that went away does not undo its write.
            let _ = reply.send(result.clone().map_err(|reason| LedgerError::Write { reason }));
        }
    }
    for (table, reply) in loads {
        let rows = read(connection, table)
            .map_err(|error| LedgerError::Read { reason: error.to_string() });
        let _ = reply.send(rows);
    }
}

enum Change {
    Put { table: &'static str, key: String, body: Option<String> },
    SetAside { table: &'static str, key: String },
}

fn commit(connection: &mut Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Change::Put { table, key, body: Some(body) } => {
                transaction
                    .prepare_cached(
                        "INSERT INTO record (tbl, key, body) VALUES (?1, ?2, ?3)
                         ON CONFLICT (tbl, key) DO UPDATE SET body = excluded.body",
                    )?
                    .execute(params![table, key, body])?;
            }
            Change::Put { table, key, body: None } => {
                transaction
                    .prepare_cached("DELETE FROM record WHERE tbl = ?1 AND key = ?2")?
                    .execute(params![table, key])?;
            }
            Change::SetAside { table, key } => {
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
    }
    transaction.commit()
}

fn read(connection: &Connection, table: &str) -> Result<Vec<(String, String)>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT key, body FROM record WHERE tbl = ?1 ORDER BY key")?
        .query_map(params![table], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
