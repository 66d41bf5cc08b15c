//! What a provider knows of the consumers of its key.

use std::time::{Duration, Instant};

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_protocol::{AckPlace, SyncKey};
use belay_store::{BlobStore, RecordError, RecordStore, StoredAck};

use super::Provider;
use crate::context::{Stopped, blocking};
use crate::core::ack::{Acks, CONSUMERS_MAX};
use crate::window::OfflineWindow;

/// Least time between two looks that nothing but time asks for.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Longest wait for what is only shown.
const PATIENCE: Duration = Duration::from_secs(5);

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Shows what consumers acknowledge, looked up anew where that was long ago.
    pub(super) async fn show_fleet(&mut self) {
        let every = LOOK_EVERY.min(self.context.spec.poll_interval.saturating_mul(3));
        if self.fleet_seen.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.fleet_seen = Some(Instant::now());
        let (store, key) = (&self.context.store, &self.context.spec.key);
        let read = async {
            let head = store.head(key).await?;
            Ok::<_, RecordError>((head, store.acknowledgements(key, CONSUMERS_MAX + 1).await?))
        };
        // Asked once and not for long: nobody waits for it, and apps do for what follows.
        let (head, acks) = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(read)) => read,
            // What is shown stays; what the store does not tell now it tells at the next look.
            Ok(Err(error)) => {
                tracing::debug!(workload = %self.context.workload, %error,
                    "what consumers acknowledge is unknown");
                return;
            }
            Err(_) => return,
        };
        let head = head.and_then(|head| serde_json::from_slice::<SyncRecord>(&head.bytes).ok());
        let head = head.map(|head| AckPlace { epoch: head.epoch, seq: head.seq, cid: head.cid });
        let Ok(acks) = judged(acks, key).await else { return };
        let fleet = acks.fleet(head, self.context.spec.ack_grace);
        let fleet = (!fleet.consumers.is_empty() || !fleet.refused.is_empty()).then_some(fleet);
        self.context.status.send_if_modified(|status| {
            let changed = status.fleet != fleet;
            status.fleet = fleet;
            changed
        });
    }

    /// What is acknowledged under a key.
    pub(super) async fn acks(&self, key: &SyncKey) -> Result<Acks, Stopped> {
        let stage = Stage::RecordPublish;
        let stored = self
            .context
            .exchange(stage, RecordError::is_retryable, || {
                self.context.store.acknowledgements(key, CONSUMERS_MAX + 1)
            })
            .await?
            .map_err(|error| Stopped::at(stage, &error))?;
        judged(stored, key).await
    }
}

/// Signatures of many consumers take a processor's time.
async fn judged(stored: Vec<StoredAck>, key: &SyncKey) -> Result<Acks, Stopped> {
    let key = key.clone();
    blocking(Stage::RecordPublish, move || Ok(Acks::new(&stored, &key))).await
}
