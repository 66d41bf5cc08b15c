//! Deletes what was superseded long enough ago.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::record::SyncRecord;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use crate::context::with_causes;
use crate::core::record::Order;
use crate::core::retention::{Generation, retirable};
use crate::history::{self, Deletion};
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Deletes what was superseded long enough ago, earlier failures included.
    pub(super) async fn retire(&self, head: &SyncRecord) {
        let context = Arc::clone(&self.context);
        let now = Timestamp::now();
        let listed = tokio::task::spawn_blocking(move || context.history.all_sent()).await;
        let sent = listed.unwrap_or_default();
        let generations: Vec<Generation> = sent
            .iter()
            .map(|(_, entry)| Generation {
                order: Order { epoch: entry.epoch, seq: entry.seq },
                blob: entry.manifest.blob,
                age: Duration::try_from(now.duration_since(entry.published_timestamp))
                    .unwrap_or_default(),
                stored: entry.deletion.deleted_at.is_none(),
            })
            .collect();
        let spec = &self.context.spec;
        for index in retirable(&generations, spec.keep_generations.max(2), spec.retire_grace) {
            let (path, entry) = &sent[index];
            if entry.manifest.blob == head.manifest.blob {
                continue;
            }
            let call = self.context.store.delete(entry.manifest.blob);
            let deleted = match tokio::time::timeout(spec.store_timeout, call).await {
                Ok(Ok(_)) => Deletion {
                    deleted_at: Some(Timestamp::now()),
                    deletion_succeeded: Some(true),
                    deletion_error: None,
                },
                Ok(Err(error)) => failed_deletion(with_causes(&error)),
                Err(_) => failed_deletion("the store did not answer in time".to_owned()),
            };
            if let Err(error) = history::retired(path, entry.clone(), deleted) {
                tracing::warn!(%error, "a retirement could not be written down");
            }
        }
    }
}

fn failed_deletion(error: String) -> Deletion {
    Deletion { deleted_at: None, deletion_succeeded: Some(false), deletion_error: Some(error) }
}
