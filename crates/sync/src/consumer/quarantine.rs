//! Content that failed, and how long it waits.

use belay_protocol::Cid;
use belay_protocol::control::{APPLY_ERROR_FILE, ApplyError};
use belay_store::{BlobStore, RecordStore};
use jiff::{SignedDuration, Timestamp};

use super::Consumer;
use crate::context::Failure;
use crate::control::ControlDir;
use crate::core::quarantine;
use crate::layout::SyncLayout;
use crate::state::{ConsumerMemory, Quarantined};
use crate::window::OfflineWindow;

/// Failed contents remembered; the oldest failure is forgotten for a new one.
const QUARANTINED_MAX: usize = 64;
impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(super) fn is_quarantined(&self, key: &str) -> bool {
        // Memory that cannot be read is a failure of its own, told by `is_due`.
        let memory = self.context.state.consumer().unwrap_or_default();
        memory.quarantine.get(key).is_some_and(|entry| Timestamp::now() < entry.next_retry_after)
    }

    pub(super) async fn quarantine(
        &self,
        layout: &SyncLayout,
        cid: Option<Cid>,
        key: String,
        failure: Failure,
    ) {
        self.context.show_failure(&failure);
        let now = Timestamp::now();
        let mut memory = self.context.state.consumer().unwrap_or_default();
        let earlier = memory.quarantine.get(&key);
        let failures = earlier.map_or(0, |entry| entry.failure_count).saturating_add(1);
        let first = earlier.map_or(now, |entry| entry.first_failed);
        let wait = SignedDuration::try_from(quarantine::delay(failures)).unwrap_or_default();
        let entry = Quarantined {
            cid,
            stage: failure.stage,
            error: failure.reason.clone(),
            failure_count: failures,
            first_failed: first,
            last_failed: now,
            next_retry_after: now.checked_add(wait).unwrap_or(now),
        };
        let notice = ApplyError {
            cid,
            stage: failure.stage,
            error: failure.reason,
            failed_timestamp: now,
            failure_count: failures,
            next_retry_after: entry.next_retry_after,
        };
        memory.quarantine.insert(key, entry);
        while memory.quarantine.len() > QUARANTINED_MAX {
            let oldest = memory
                .quarantine
                .iter()
                .min_by_key(|(_, entry)| entry.last_failed)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                memory.quarantine.remove(&oldest);
            }
        }
        if let Err(error) = self.context.state.set_consumer(&memory) {
            tracing::warn!(%error, "a quarantine could not be written down");
        }
        self.show_quarantine(&memory);
        let control = layout.control.clone();
        let told = tokio::task::spawn_blocking(move || {
            ControlDir::open(&control)?
                .ok_or(std::io::ErrorKind::NotFound)?
                .write(APPLY_ERROR_FILE, &notice)
        });
        if let Ok(Err(error)) = told.await {
            tracing::warn!(%error, "a failed apply could not be told to the app");
        }
    }

    pub(super) fn clear_quarantine(&self, key: &str) {
        let Ok(mut memory) = self.context.state.consumer() else { return };
        if memory.quarantine.remove(key).is_some()
            && let Err(error) = self.context.state.set_consumer(&memory)
        {
            tracing::warn!(%error, "an ended quarantine could not be written down");
        }
        self.show_quarantine(&memory);
        self.context.status.send_modify(|status| status.last_failure = None);
    }

    pub(super) fn show_quarantine(&self, memory: &ConsumerMemory) {
        let waiting = memory
            .quarantine
            .iter()
            .map(|(key, entry)| (key.clone(), entry.next_retry_after))
            .collect();
        self.context.status.send_modify(|status| status.quarantine = waiting);
    }
}
