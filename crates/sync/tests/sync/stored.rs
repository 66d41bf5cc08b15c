//! What lies in a store.

use std::path::Path;

use belay_protocol::record::SyncRecord;
use belay_store::{BlobStore, LocalStore, RecordStore};

/// The records of the key, newest first.
pub(crate) async fn records(store: &Path) -> Vec<SyncRecord> {
    let store = LocalStore::open(store).expect("opens");
    let key = "models".parse().expect("a key");
    let history = store.history(&key, 100).await.expect("reads");
    let records = history.iter().map(|stored| serde_json::from_slice(&stored.bytes));
    records.map(|record| record.expect("a record")).collect()
}

/// What is published under the key now.
pub(crate) async fn head(store: &Path) -> SyncRecord {
    records(store).await.into_iter().next().expect("a head")
}

/// Bytes of all objects.
pub(crate) async fn bytes(store: &Path) -> u64 {
    let store = LocalStore::open(store).expect("opens");
    store.list(None, 10_000).await.expect("lists").iter().map(|blob| blob.size).sum()
}
