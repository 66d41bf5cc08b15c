//! Content that failed, and how long it waits.

use std::time::Duration;

use belay_protocol::control::{APPLY_ERROR_FILE, ApplyError, Stage};
use belay_protocol::{Cid, SyncFailure, SyncTakenBack};
use belay_store::{BlobStore, RecordStore};
use jiff::{SignedDuration, Timestamp};

use super::Consumer;
use crate::context::Failure;
use crate::control::ControlDir;
use crate::core::quarantine;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::state::{ConsumerMemory, Quarantined, StateDir};
use crate::window::OfflineWindow;

/// Failed contents remembered; the oldest failure is forgotten for a new one.
const QUARANTINED_MAX: usize = 64;

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(super) async fn is_quarantined(&self, key: &str) -> bool {
        self.quarantined(key).await.is_some()
    }

    /// Why this content, or this record, is not tried now.
    pub(super) async fn quarantined(&self, key: &str) -> Option<String> {
        // Memory that cannot be read is a failure of its own, told by `is_due`.
        let mut memory = self.context.stored(StateDir::consumer).await.unwrap_or_default();
        let entry = memory.quarantine.remove(key)?;
        let Quarantined { stage, error, next_retry_after: next, .. } = entry;
        let ahead = next.duration_since(Timestamp::now());
        let waits = quarantine::waits(Duration::try_from(ahead).unwrap_or_default());
        waits
            .then(|| format!("it failed in stage {stage}, {error}; it is tried again at {next:.0}"))
    }

    pub(super) async fn quarantine(
        &self,
        layout: &SyncLayout,
        cid: Option<Cid>,
        key: String,
        failure: Failure,
    ) {
        self.quarantine_at(layout, cid, key, failure, Timestamp::now()).await;
    }

    /// The same for a failure of that time, which counts once however often it is written down.
    pub(super) async fn quarantine_at(
        &self,
        layout: &SyncLayout,
        cid: Option<Cid>,
        key: String,
        mut failure: Failure,
        now: Timestamp,
    ) {
        failure.reason = quarantine::bounded(failure.reason);
        // Memory that cannot be read is not replaced: it holds the highest record accepted, and
        // without that an old one could be played again.
        let read = self.context.stored(StateDir::consumer).await;
        let readable = read.is_ok();
        let mut memory = read.unwrap_or_default();
        let earlier = memory.quarantine.get(&key);
        let failures = match earlier {
            Some(entry) if entry.last_failed == now => entry.failure_count,
            Some(entry) => entry.failure_count.saturating_add(1),
            None => 1,
        };
        let first = earlier.map_or(now, |entry| entry.first_failed);
        let wait = SignedDuration::try_from(quarantine::delay(failures)).unwrap_or_default();
        let entry = Quarantined {
            cid,
            stage: failure.stage,
            code: failure.code,
            error: failure.reason.clone(),
            failure_count: failures,
            first_failed: first,
            last_failed: now,
            next_retry_after: now.checked_add(wait).unwrap_or(now),
        };
        let notice = ApplyError {
            cid,
            stage: failure.stage,
            code: failure.code,
            error: failure.reason.clone(),
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
        self.show_quarantine(&memory);
        self.context.show_failure(&failure);
        if readable
            && let Err(error) = self.context.stored(move |state| state.set_consumer(&memory)).await
        {
            tracing::warn!(%error, "a quarantine could not be written down");
        }
        reached(Point::RefusalRemembered);
        let control = layout.control.clone();
        let told = tokio::task::spawn_blocking(move || {
            ControlDir::open(&control)?
                .ok_or(std::io::ErrorKind::NotFound)?
                .write(APPLY_ERROR_FILE, &notice)
        });
        if let Ok(Err(error)) = told.await {
            tracing::warn!(%error, "a failed apply could not be told to the app");
        }
        reached(Point::RefusalTold);
    }

    /// Holds nothing back by this key any more. `failure` is what is shown from now on.
    pub(super) async fn clear_quarantine(&self, key: &str, failure: Option<SyncFailure>) {
        let key = key.to_owned();
        let cleared = self.context.stored(move |state| {
            let mut memory = state.consumer()?;
            if memory.quarantine.remove(&key).is_some() {
                state.set_consumer(&memory)?;
            }
            Ok(memory)
        });
        match cleared.await {
            Ok(memory) => self.show_quarantine(&memory),
            Err(error) => {
                tracing::warn!(%error, "an ended quarantine could not be written down");
            }
        }
        self.context.status.send_modify(|status| status.last_failure = failure);
    }

    fn show_quarantine(&self, memory: &ConsumerMemory) {
        let waiting = memory
            .quarantine
            .iter()
            .map(|(key, entry)| (key.clone(), entry.next_retry_after))
            .collect();
        let back = taken_back(memory);
        self.context.status.send_modify(|status| {
            status.quarantine = waiting;
            status.taken_back = back;
        });
    }
}

/// The content that was taken back last, as the status shows it.
pub(crate) fn taken_back(memory: &ConsumerMemory) -> Option<SyncTakenBack> {
    let back = memory.quarantine.values().filter(|entry| entry.stage == Stage::Readiness);
    let last = back.max_by_key(|entry| entry.last_failed)?;
    Some(SyncTakenBack {
        cid: last.cid?,
        at: last.last_failed,
        reason: last.error.clone(),
        failures: last.failure_count,
    })
}
