//! Goes back to an earlier generation on an operator's word, and holds the later ones back.
//!
//! What it goes back to is written down before anything is changed, and from then on it is what the
//! consumer is to hold: a process that is killed meanwhile, or a volume that is reset later, comes to
//! it by the way of any other apply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::control::Stage;
use belay_protocol::{AckState, Cid, CidPrefix, SyncHeld};
use belay_store::{BlobStore, RecordError, RecordStore, StoredRecord};
use jiff::Timestamp;

use super::acks::place;
use super::preparation::is_applied;
use super::{Applied, Consumer, Haste};
use crate::command::{RollbackError, RolledBack};
use crate::context::{Stopped, blocking, with_causes};
use crate::core::ack::Standing;
use crate::core::path::Mounts;
use crate::core::record::{AcceptedRecord, Order, judge};
use crate::core::rollback::{Logged, NoTarget, Seen, target};
use crate::core::trial::Wish;
use crate::layout::SyncLayout;
use crate::state::{ConsumerMemory, Pinned, StateDir};
use crate::volume::{Volumes, mount_table};
use crate::window::OfflineWindow;

/// Records of a key that are looked through; a store keeps no more.
const LOG_MAX: usize = 64;

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Applies an earlier generation, and holds back every record up to the newest of now.
    pub(crate) async fn roll_back(
        &mut self,
        layout: &SyncLayout,
        wanted: Option<&CidPrefix>,
    ) -> Result<RolledBack, RollbackError> {
        let started = Instant::now();
        self.leave_trial(layout).await?;
        let (pinned, accepted) = self.choose(layout, wanted).await?;
        let (cid, left) = (accepted.record.cid, pinned.left);
        let before = self.pin(Some(pinned)).await.map_err(|error| unknown(&error))?;
        // It is asked for now, whatever came of it before.
        self.clear_quarantine(&cid.to_string(), None).await;
        match self.apply_pinned(layout, &accepted, started).await {
            Ok(downtime) => {
                self.stands(AckState::Applied, &accepted.record);
                Ok(RolledBack { cid, left_epoch: left.epoch, left_seq: left.seq, downtime })
            }
            // What was chosen is carried out after the next start, or when the halt is over.
            Err(Stopped::Shutdown) => Err(RollbackError::ShuttingDown),
            Err(stopped) if self.is_halted() => Err(told(stopped)),
            Err(stopped) => {
                // A staged tree would wait in vain for a workload that is busy.
                if self.waiting.take().is_some() {
                    self.sweep(layout).await;
                }
                if let Err(error) = self.pin(before).await {
                    tracing::warn!(workload = %self.context.workload, %error,
                        "a rollback that failed could not be taken back; it is tried again");
                }
                Err(told(stopped))
            }
        }
    }

    async fn apply_pinned(
        &mut self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        started: Instant,
    ) -> Result<Option<Duration>, Stopped> {
        let (look_layout, look) = (layout.clone(), accepted.clone());
        let policy = self.context.spec.ownership;
        let holds =
            blocking(Stage::Validation, move || is_applied(&look_layout, &look, policy)).await?;
        let certain = !self.context.stored(super::is_uncertain).await.unwrap_or(true);
        if holds && certain {
            return Ok(None);
        }
        let record = Some(place(&accepted.record));
        self.acknowledge(layout, Standing { state: AckState::Fetching, record }).await;
        // The first may finish an apply before it that had come to no certain end.
        for _ in 0..2 {
            match self.apply(layout, accepted, Wish::Operator, Haste::AtOnce).await? {
                Applied::Committed(journal, downtime) => {
                    self.finish(layout, &journal, downtime, started).await;
                    return Ok(downtime);
                }
                Applied::Earlier(journal, downtime) => {
                    if journal.trial.is_none() {
                        self.finish(layout, &journal, downtime, started).await;
                    }
                    let left = self.leave_trial(layout).await;
                    left.map_err(|error| Stopped::Later { reason: error.to_string() })?;
                }
                // What an operator asks for is not judged.
                Applied::Held(_) | Applied::OnTrial | Applied::Refused(..) => break,
                Applied::Uncertain(reason) => {
                    return Err(Stopped::because(Stage::Commit, reason));
                }
            }
        }
        Err(Stopped::because(Stage::Commit, "an apply before it came to no end"))
    }

    /// What to go back to, and what is held back then.
    async fn choose(
        &self,
        layout: &SyncLayout,
        wanted: Option<&CidPrefix>,
    ) -> Result<(Pinned, AcceptedRecord), RollbackError> {
        let memory = self.context.stored(StateDir::consumer).await;
        let memory = memory.map_err(|error| unknown(&error))?;
        let stored = self.log().await?;
        let (look_layout, context) = (layout.clone(), Arc::clone(&self.context));
        let looked = tokio::task::spawn_blocking(move || {
            (present(&look_layout, &context.spec.key), context.history.all_received())
        });
        let (present, received) = looked.await.map_err(|error| unknown(&error))?;
        let present = present.or(memory.highest.map(|highest| (highest.order, highest.cid)));
        let present =
            present.ok_or(RollbackError::Target { reason: NoTarget::Nothing.to_string() })?;
        let everywhere = Mounts::of_everything();
        let publishers = self.context.spec.publishers.as_deref();
        let key = &self.context.spec.key;
        let readable = stored.iter().filter_map(|stored| {
            let record = judge(&stored.bytes, key, &everywhere, publishers).ok()?.record;
            let here = received.iter().any(|entry| entry.publish_id == record.publish_id);
            let seen = if here { Seen::Here } else { Seen::Nowhere };
            Some((stored, Logged { order: Order::of(&record), cid: record.cid, seen }))
        });
        let (stored, log): (Vec<&StoredRecord>, Vec<Logged>) = readable.unzip();
        let chosen = target(&log, present, wanted).map_err(|none| match none {
            NoTarget::Newest { .. } => RollbackError::Newest { reason: none.to_string() },
            NoTarget::Nothing | NoTarget::Unknown { .. } | NoTarget::Ambiguous { .. } => {
                RollbackError::Target { reason: none.to_string() }
            }
        })?;
        let bytes = &stored[chosen].bytes;
        let mounts = mount_table(layout).map_err(|error| unknown(&error))?;
        let accepted = judge(bytes, key, &mounts, publishers).map_err(|refused| {
            RollbackError::Failed { stage: Stage::Validation, reason: refused.reasons.join("; ") }
        })?;
        let newest = log.iter().map(|found| found.order).max().unwrap_or(present.0);
        let left = memory.highest.map_or(newest, |highest| highest.order.max(newest));
        let record = String::from_utf8_lossy(bytes).into_owned();
        Ok((Pinned { record, left, since: Timestamp::now() }, accepted))
    }

    async fn log(&self) -> Result<Vec<StoredRecord>, RollbackError> {
        let context = &self.context;
        let key = &context.spec.key;
        let log = context
            .exchange(Stage::Download, RecordError::is_retryable, || {
                context.store.history(key, LOG_MAX)
            })
            .await
            .map_err(told)?;
        log.map_err(|error| RollbackError::Store { reason: with_causes(&error) })
    }

    /// Replaces what is pinned and returns what was.
    pub(super) async fn pin(&self, pinned: Option<Pinned>) -> std::io::Result<Option<Pinned>> {
        let changed = self.context.stored(move |state| {
            let mut memory = state.consumer()?;
            let before = std::mem::replace(&mut memory.pinned, pinned);
            state.set_consumer(&memory)?;
            Ok((memory, before))
        });
        let (memory, before) = changed.await?;
        self.context.show_held(&memory);
        Ok(before)
    }

    pub(super) fn is_halted(&self) -> bool {
        self.context.status.borrow().halted.is_some()
    }

    /// The record that an operator went back to, while no later one than those held back is the
    /// head.
    pub(super) async fn pinned(&self, head: Order, mounts: &Mounts) -> Option<AcceptedRecord> {
        // Memory that cannot be read is a failure of its own, told by `is_due`.
        let memory = self.context.stored(StateDir::consumer).await.unwrap_or_default();
        let pinned = memory.pinned.filter(|pinned| head <= pinned.left)?;
        let spec = &self.context.spec;
        judge(pinned.record.as_bytes(), &spec.key, mounts, spec.publishers.as_deref()).ok()
    }
}

/// The place and content of what the volumes hold of a key, the latest where they differ.
fn present(layout: &SyncLayout, key: &belay_protocol::SyncKey) -> Option<(Order, Cid)> {
    let volumes = Volumes::open(layout).ok()?;
    let marks = volumes.all.iter().filter_map(|volume| volume.mark().ok().flatten());
    marks
        .filter(|mark| mark.key == *key)
        .map(|mark| (mark.order, mark.cid))
        .max_by_key(|(order, _)| *order)
}

/// What is held back, as the status shows it.
pub(crate) fn held(memory: &ConsumerMemory) -> Option<SyncHeld> {
    let pinned = memory.pinned.as_ref()?;
    let record: belay_protocol::record::SyncRecord = serde_json::from_str(&pinned.record).ok()?;
    Some(SyncHeld {
        cid: record.cid,
        seq: record.seq,
        left_epoch: pinned.left.epoch,
        left_seq: pinned.left.seq,
        since: pinned.since,
    })
}

fn unknown(error: &dyn std::error::Error) -> RollbackError {
    let reason = format!("what the volumes hold is not known: {}", with_causes(error));
    RollbackError::Failed { stage: Stage::Validation, reason }
}

fn told(stopped: Stopped) -> RollbackError {
    match stopped {
        Stopped::Failed(failure) => {
            RollbackError::Failed { stage: failure.stage, reason: failure.reason }
        }
        Stopped::Unreachable(failure) => RollbackError::Store { reason: failure.reason },
        Stopped::Later { reason } => RollbackError::Busy { reason },
        Stopped::Shutdown => RollbackError::ShuttingDown,
    }
}
