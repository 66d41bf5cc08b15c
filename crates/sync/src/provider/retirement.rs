//! Deletes what was superseded long enough ago, and what failed publishes left.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_protocol::{Cid, ProblemCode, SyncFailure, SyncKey};
use belay_store::{BlobStore, RecordError, RecordStore, StoredRecord};
use jiff::Timestamp;

use super::Provider;
use super::deleting::{Deleted, Roots};
use super::storing::LOOK_BACK;
use crate::context::Stopped;
use crate::core::record::{Named, Order, named};
use crate::core::retention::{Generation, NEEDED_MAX, Retirement, retirable};
use crate::failpoint::{Point, reached};
use crate::fetching::FoundRoot;
use crate::history::{self, Deletion, SentEntry};
use crate::window::OfflineWindow;

/// Failed publishes whose objects are remembered; more means a store that refuses everything.
const ORPHANS_MAX: usize = 256;
/// Keys of one listing.
const PAGE: usize = 1_000;

/// For what it is asked which objects are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// For the key's own superseded generations.
    Retirement,
    /// For what failed publishes left.
    Orphans,
    /// For what nobody owns.
    Sweep,
}

impl Asking {
    /// How many of a key's newest records count. The generations of other keys are for their own
    /// providers to retire, who may keep more of them than this one does.
    fn newest(self, is_own_key: bool, keep: usize) -> usize {
        match self {
            Self::Retirement => keep,
            Self::Orphans => LOOK_BACK,
            Self::Sweep => {
                if is_own_key {
                    keep
                } else {
                    LOOK_BACK
                }
            }
        }
    }
}

/// The generations that this node published.
struct Superseded {
    sent: Vec<(PathBuf, SentEntry)>,
    /// Places in `sent` of those that may go.
    retired: Vec<usize>,
    /// Objects of those that stay, whoever published them.
    kept: BTreeSet<Cid>,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Deletes what was superseded long enough ago, earlier failures included.
    pub(super) async fn retire(&self) {
        if let Err(stopped) = self.retire_superseded().await {
            untold(&stopped);
        }
        self.remove_orphans().await;
    }

    async fn retire_superseded(&self) -> Result<(), Stopped> {
        for (key, sent) in self.sent_by_key().await {
            self.retire_of(&key, sent).await?;
        }
        Ok(())
    }

    /// What this node published and remembers. Places in the order are of their key alone.
    async fn sent_by_key(&self) -> BTreeMap<SyncKey, Vec<(PathBuf, SentEntry)>> {
        let context = Arc::clone(&self.context);
        let listed = tokio::task::spawn_blocking(move || context.history.all_sent()).await;
        let mut by_key = BTreeMap::<SyncKey, Vec<(PathBuf, SentEntry)>>::new();
        for (path, entry) in listed.unwrap_or_default() {
            let key = entry.key_or(&self.context.spec.key).clone();
            by_key.entry(key).or_default().push((path, entry));
        }
        by_key
    }

    async fn retire_of(
        &self,
        key: &SyncKey,
        sent: Vec<(PathBuf, SentEntry)>,
    ) -> Result<(), Stopped> {
        let mut roots = Roots::new();
        let Superseded { sent, retired, kept } = self.superseded(key, sent).await?;
        if retired.is_empty() {
            return Ok(());
        }
        // Objects are the store's and not a key's: the same content may be someone else's.
        let named = self.named(Asking::Retirement, kept, &mut roots).await?;
        let retired: Vec<&(PathBuf, SentEntry)> = retired
            .into_iter()
            .map(|index| &sent[index])
            .filter(|(_, entry)| !named.contains(&entry.manifest.blob))
            .collect();
        let blobs: Vec<Cid> = retired.iter().map(|(_, entry)| entry.manifest.blob).collect();
        let deleted = self.delete_all(&blobs, &named, Asking::Retirement, &mut roots).await?;
        for ((path, entry), deleted) in retired.into_iter().zip(deleted) {
            let deleted = match deleted {
                Deleted::Gone => Deletion {
                    deleted_at: Some(Timestamp::now()),
                    deletion_succeeded: Some(true),
                    deletion_error: None,
                },
                Deleted::Needed => continue,
                Deleted::Failed(error) => Deletion {
                    deleted_at: None,
                    deletion_succeeded: Some(false),
                    deletion_error: Some(error),
                },
            };
            let (path, entry) = (path.clone(), entry.clone());
            let noted = self.context.stored(move |_| history::retired(&path, entry, deleted));
            if let Err(error) = noted.await {
                tracing::warn!(%error, "a retirement could not be written down");
            }
            reached(Point::RetirementWritten);
        }
        Ok(())
    }

    /// The objects that are needed now.
    pub(super) async fn needed(
        &self,
        asking: Asking,
        roots: &mut Roots,
    ) -> Result<BTreeSet<Cid>, Stopped> {
        let kept = match asking {
            Asking::Retirement | Asking::Sweep => {
                let mut by_key = self.sent_by_key().await;
                by_key.entry(self.context.spec.key.clone()).or_default();
                let mut kept = BTreeSet::new();
                for (key, sent) in by_key {
                    kept.append(&mut self.superseded(&key, sent).await?.kept);
                }
                kept
            }
            Asking::Orphans => BTreeSet::new(),
        };
        self.named(asking, kept, roots).await
    }

    /// What of a key was superseded long enough ago, and what of it stays.
    async fn superseded(
        &self,
        key: &SyncKey,
        sent: Vec<(PathBuf, SentEntry)>,
    ) -> Result<Superseded, Stopped> {
        let now = Timestamp::now();
        let mut generations: Vec<Generation> = sent
            .iter()
            .map(|(_, entry)| Generation {
                order: Order { epoch: entry.epoch, seq: entry.seq },
                blob: entry.manifest.blob,
                age: age(now, entry.published_timestamp),
                stored: entry.deletion.deleted_at.is_none(),
                needed: false,
            })
            .collect();
        let log = self.log(key, LOOK_BACK).await?;
        // After the log: who saw a record as the newest, after it had said that it fetches it, is
        // heard here before that record can be taken for superseded.
        let needed = self.acks(key).await?.needed(self.context.spec.ack_grace);
        for (generation, (_, entry)) in generations.iter_mut().zip(&sent) {
            // What was deleted cannot be kept, and takes the place of nothing that can.
            generation.needed =
                generation.stored && needed.contains(&(generation.order, entry.cid));
        }
        // Others publish under this key too. What they announced is theirs to delete, and keeps
        // what it names, for as long as if it were ours.
        let others = log.iter().filter_map(|stored| {
            let record: SyncRecord = serde_json::from_slice(&stored.bytes).ok()?;
            let ours = sent.iter().any(|(_, entry)| entry.publish_id == record.publish_id);
            (!ours).then(|| Generation {
                order: Order::of(&record),
                blob: record.manifest.blob,
                age: age(now, record.timestamp),
                stored: false,
                needed: needed.contains(&(Order::of(&record), record.cid)),
            })
        });
        generations.extend(others);
        let spec = &self.context.spec;
        let Retirement { kept, retired } =
            retirable(&generations, self.kept_at_least(), spec.retire_grace);
        Ok(Superseded { sent, retired, kept })
    }

    fn kept_at_least(&self) -> usize {
        self.context.spec.keep_generations.max(2)
    }

    /// Remembers an object that a failed publish stored.
    pub(super) async fn add_orphan(&self, blob: Cid) {
        let added = self.context.stored(move |state| {
            let mut orphans = state.orphans()?;
            if orphans.len() < ORPHANS_MAX {
                orphans.insert(blob);
            }
            state.set_orphans(&orphans)
        });
        if let Err(error) = added.await {
            tracing::warn!(%error, %blob, "an object of a failed publish may stay in the store");
        }
    }

    /// Deletes the objects of failed publishes, unless a record names them by now. What cannot be
    /// deleted is tried again after the next publish.
    pub(super) async fn remove_orphans(&self) {
        let orphans = match self.context.stored(crate::state::StateDir::orphans).await {
            Ok(orphans) if orphans.is_empty() => return,
            Ok(orphans) => orphans,
            Err(error) => {
                tracing::warn!(%error, "objects of failed publishes may stay in the store");
                return;
            }
        };
        let orphans: Vec<Cid> = orphans.into_iter().collect();
        let left = match self.delete_orphans(&orphans).await {
            Ok(left) => left,
            Err(stopped) => return untold(&stopped),
        };
        if let Err(error) = self.context.stored(move |state| state.set_orphans(&left)).await {
            tracing::warn!(%error, "deleted objects could not be written down");
        }
    }

    /// Those of the objects that are neither gone nor needed.
    async fn delete_orphans(&self, orphans: &[Cid]) -> Result<BTreeSet<Cid>, Stopped> {
        let mut roots = Roots::new();
        let named = self.named(Asking::Orphans, BTreeSet::new(), &mut roots).await?;
        let orphans: Vec<Cid> =
            orphans.iter().copied().filter(|blob| !named.contains(blob)).collect();
        let deleted = self.delete_all(&orphans, &named, Asking::Orphans, &mut roots).await?;
        let mut left = BTreeSet::new();
        for (blob, deleted) in orphans.into_iter().zip(deleted) {
            match deleted {
                Deleted::Gone | Deleted::Needed => {}
                Deleted::Failed(error) => {
                    tracing::warn!(%error, %blob,
                        "an object of a failed publish stays in the store");
                    left.insert(blob);
                }
            }
        }
        Ok(left)
    }

    /// The objects that `kept` and records need, and why that cannot be told if it cannot.
    pub(super) async fn named(
        &self,
        asking: Asking,
        kept: BTreeSet<Cid>,
        roots: &mut Roots,
    ) -> Result<BTreeSet<Cid>, Stopped> {
        let named = self.all_named(asking, kept, roots).await;
        self.show_retirement(named.as_ref().err());
        named
    }

    async fn all_named(
        &self,
        asking: Asking,
        kept: BTreeSet<Cid>,
        roots: &mut Roots,
    ) -> Result<BTreeSet<Cid>, Stopped> {
        let mut needed = BTreeSet::new();
        let mut after = None;
        loop {
            let keys = self
                .context
                .exchange(Stage::RecordPublish, RecordError::is_retryable, || {
                    self.context.store.keys(after.as_ref(), PAGE)
                })
                .await?
                .map_err(|error| Stopped::at(Stage::RecordPublish, &error))?;
            let Some(last) = keys.last() else { break };
            after = Some(last.clone());
            for key in &keys {
                let newest = asking.newest(*key == self.context.spec.key, self.kept_at_least());
                let mut log = self.log(key, newest).await?;
                log.extend(self.needed_of(key, &log).await?);
                for stored in log {
                    match named(&stored.bytes) {
                        Named::Nothing => {}
                        Named::Archive(blob) => {
                            needed.insert(blob);
                        }
                        Named::Root(blob) => {
                            let found = self.need(blob, &mut needed, roots).await;
                            found.map_err(|stopped| held_up(&of_record(key, &stored), stopped))?;
                        }
                        Named::Unknown => {
                            let reason = "it is of a later version of belayd";
                            let stopped = Stopped::because(Stage::RecordPublish, reason);
                            return Err(held_up(&of_record(key, &stored), stopped));
                        }
                    }
                }
            }
        }
        for blob in kept {
            if !needed.contains(&blob) {
                // It may be an archive, which is all that it needs.
                let found = self.need_kept(blob, &mut needed, roots).await;
                found.map_err(|stopped| held_up(&format!("the generation {blob}"), stopped))?;
            }
        }
        Ok(needed)
    }

    /// The records of a key, beyond these newest ones, that its consumers need.
    async fn needed_of(
        &self,
        key: &SyncKey,
        newest: &[StoredRecord],
    ) -> Result<Vec<StoredRecord>, Stopped> {
        let needed = self.acks(key).await?.needed(self.context.spec.ack_grace);
        if needed.is_empty() {
            return Ok(Vec::new());
        }
        let mut log = self.log(key, LOOK_BACK).await?;
        log.retain(|stored| {
            let record: Option<SyncRecord> = serde_json::from_slice(&stored.bytes).ok();
            let is_needed =
                record.is_some_and(|record| needed.contains(&(Order::of(&record), record.cid)));
            is_needed && newest.iter().all(|known| known.revision != stored.revision)
        });
        log.truncate(NEEDED_MAX);
        Ok(log)
    }

    /// Adds a root and its packs. What is not there needs nothing; what is there and is no root may
    /// have needed anything.
    async fn need(
        &self,
        blob: Cid,
        needed: &mut BTreeSet<Cid>,
        roots: &mut Roots,
    ) -> Result<(), Stopped> {
        if !needed.insert(blob) {
            return Ok(());
        }
        if let Entry::Vacant(unread) = roots.entry(blob) {
            match self.context.find_root(blob, Stage::RecordPublish).await? {
                FoundRoot::Absent => return Ok(()),
                FoundRoot::Other => {
                    let reason = format!("the stored object {blob} is not the root that it was");
                    return Err(Stopped::because(Stage::RecordPublish, reason));
                }
                FoundRoot::Root(root) => {
                    unread.insert(root.packs.values().map(|pack| pack.id).collect());
                }
            }
        }
        needed.extend(roots.get(&blob).into_iter().flatten());
        Ok(())
    }

    async fn need_kept(
        &self,
        blob: Cid,
        needed: &mut BTreeSet<Cid>,
        roots: &mut Roots,
    ) -> Result<(), Stopped> {
        if let Entry::Vacant(unread) = roots.entry(blob) {
            let found = self.context.find_root(blob, Stage::RecordPublish).await?;
            if let Some(root) = found.into_root() {
                unread.insert(root.packs.values().map(|pack| pack.id).collect());
            }
        }
        needed.insert(blob);
        needed.extend(roots.get(&blob).into_iter().flatten());
        Ok(())
    }

    /// Shows that nothing is deleted, and why, until that is over. A store that is away now is no
    /// reason to say so.
    fn show_retirement(&self, stopped: Option<&Stopped>) {
        let held_up = match stopped {
            None => None,
            Some(Stopped::Failed(failure)) => Some(failure),
            Some(Stopped::Unreachable(_) | Stopped::Later { .. } | Stopped::Shutdown) => return,
        };
        self.context.status.send_if_modified(|status| {
            let said = |failure: &SyncFailure| Some((failure.code, failure.error.clone()));
            let changed = status.retirement.as_ref().and_then(said)
                != held_up.map(|failure| (failure.code, failure.reason.clone()));
            if changed {
                status.retirement = held_up.map(|failure| SyncFailure {
                    stage: failure.stage.to_string(),
                    code: failure.code,
                    error: failure.reason.clone(),
                    at: Timestamp::now(),
                });
            }
            changed
        });
    }

    async fn log(&self, key: &SyncKey, newest: usize) -> Result<Vec<StoredRecord>, Stopped> {
        self.context
            .exchange(Stage::RecordPublish, RecordError::is_retryable, || {
                self.context.store.history(key, newest)
            })
            .await?
            .map_err(|error| Stopped::at(Stage::RecordPublish, &error))
    }
}

fn age(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn of_record(key: &SyncKey, stored: &StoredRecord) -> String {
    format!("record {} of key {key}", stored.revision.0)
}

/// That nothing is deleted for the sake of this.
fn held_up(what: &str, stopped: Stopped) -> Stopped {
    match stopped {
        Stopped::Failed(failure) => Stopped::coded(
            failure.stage,
            ProblemCode::NothingDeleted,
            format!("what {what} needs cannot be told: {}", failure.reason),
        ),
        stopped @ (Stopped::Unreachable(_) | Stopped::Later { .. } | Stopped::Shutdown) => stopped,
    }
}

/// What is superseded stays until the next publish.
fn untold(stopped: &Stopped) {
    tracing::warn!(?stopped, "the store does not say what is still named; nothing is deleted");
}
