//! Changes that belong together.

use serde::Serialize;

use crate::ledger::LedgerError;

/// Records to be written and removed together: all of it is on the disk after the commit, or none.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<BatchedChange>,
}

/// One change of a batch.
#[derive(Debug)]
pub(crate) struct BatchedChange {
    pub(crate) table: &'static str,
    pub(crate) key: String,
    /// `None` removes.
    pub(crate) body: Option<String>,
}

impl Batch {
    /// Adds a record.
    pub fn put<T: Serialize>(
        &mut self,
        table: &'static str,
        key: impl Into<String>,
        value: &T,
    ) -> Result<(), LedgerError> {
        let key = key.into();
        match serde_json::to_string(value) {
            Ok(body) => {
                self.changes.push(BatchedChange { table, key, body: Some(body) });
                Ok(())
            }
            Err(source) => Err(LedgerError::Encode { table, key, source }),
        }
    }

    /// Adds the removal of a record; an absent one is no error.
    pub fn remove(&mut self, table: &'static str, key: impl Into<String>) {
        self.changes.push(BatchedChange { table, key: key.into(), body: None });
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes are in it.
    pub fn len(&self) -> usize {
        self.changes.len()
    }
}
