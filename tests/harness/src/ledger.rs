//! belayd's ledger from outside: read, changed while belayd is down, and held so that nothing can be
//! written.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde_json::Value;

use crate::Node;

/// How long this side waits for belayd's own short transactions.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ledger of a node.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
}

/// Keeps belayd from writing, until it is dropped.
#[derive(Debug)]
pub struct HeldLedger(Connection);

impl Drop for HeldLedger {
    fn drop(&mut self) {
        // Closing the connection lets go of the lock as well.
        let _ = self.0.execute_batch("ROLLBACK");
    }
}

impl Ledger {
    /// The ledger of this node.
    pub fn of(node: &Node) -> Self {
        Self { path: node.directory().join("state/belay.db") }
    }

    fn open(&self) -> Connection {
        self.open_with(OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn open_with(&self, flags: OpenFlags) -> Connection {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).expect("it can be opened");
        connection.busy_timeout(PATIENCE).expect("it can wait");
        connection
    }

    /// Takes the write lock: every write of belayd fails until what is returned is dropped.
    ///
    /// # Panics
    /// When the lock is not had within seconds.
    pub fn hold(&self) -> HeldLedger {
        let connection = self.open();
        connection.execute_batch("BEGIN IMMEDIATE").expect("the lock is free between two writes");
        HeldLedger(connection)
    }

    /// A workload's record, as it is on the disk.
    ///
    /// # Panics
    /// When there is none.
    pub fn record(&self, workload: &str) -> Value {
        self.find(workload).expect("it has a record")
    }

    /// A workload's record, if it has one on the disk.
    ///
    /// # Panics
    /// When the ledger cannot be read.
    pub fn find(&self, workload: &str) -> Option<Value> {
        let query = "SELECT body FROM record WHERE tbl = 'workload' AND key = ?1";
        // One that may write would tidy up after a belayd that was killed, and hide what it left.
        let connection = self.open_with(OpenFlags::SQLITE_OPEN_READ_ONLY);
        let body = connection.query_row(query, params![workload], |row| row.get::<_, String>(0));
        let body = body.optional().expect("the ledger can be read")?;
        Some(serde_json::from_str(&body).expect("a record is JSON"))
    }

    /// Changes a workload's record while belayd is down.
    ///
    /// # Panics
    /// When there is none, or it cannot be written.
    pub fn change(&self, workload: &str, change: impl FnOnce(&mut Value)) {
        let mut record = self.record(workload);
        change(&mut record);
        let update = "UPDATE record SET body = ?1 WHERE tbl = 'workload' AND key = ?2";
        let written = self.open().execute(update, params![record.to_string(), workload]);
        assert_eq!(written.expect("it can be written"), 1);
    }
}
