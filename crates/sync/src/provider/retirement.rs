//! Deletes what was superseded long enough ago, and what failed publishes left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_protocol::{Cid, SyncKey};
use belay_store::{BlobStore, RecordError, RecordStore, StoredRecord};
use jiff::Timestamp;

use super::Provider;
use super::storing::LOOK_BACK;
use crate::context::{Stopped, with_causes};
use crate::core::record::{Named, Order, named};
use crate::core::retention::{Generation, NEEDED_MAX, Retirement, retirable};
use crate::core::root::{ROOT_HEAD, ROOT_MAX, StoredRoot};
use crate::history::{self, Deletion, SentEntry};
use crate::window::OfflineWindow;

/// Failed publishes whose objects are remembered; more means a store that refuses everything.
const ORPHANS_MAX: usize = 256;
/// Keys of one listing.
const PAGE: usize = 1_000;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Deletes what was superseded long enough ago, earlier failures included.
    pub(super) async fn retire(&self) {
        let context = Arc::clone(&self.context);
        let listed = tokio::task::spawn_blocking(move || context.history.all_sent()).await;
        let mut by_key = BTreeMap::<SyncKey, Vec<(PathBuf, SentEntry)>>::new();
        for (path, entry) in listed.unwrap_or_default() {
            let key = entry.key_or(&self.context.spec.key).clone();
            by_key.entry(key).or_default().push((path, entry));
        }
        for (key, sent) in by_key {
            if let Err(stopped) = self.retire_of(&key, sent).await {
                return untold(&stopped);
            }
        }
        self.remove_orphans().await;
    }

    /// Does so for what was published under one key. Places in the order are of their key alone.
    async fn retire_of(
        &self,
        key: &SyncKey,
        sent: Vec<(PathBuf, SentEntry)>,
    ) -> Result<(), Stopped> {
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
        let keep = spec.keep_generations.max(2);
        let Retirement { kept, retired } = retirable(&generations, keep, spec.retire_grace);
        if !retired.is_empty() {
            // Objects are the store's and not a key's: the same content may be someone else's.
            let named = self.named(keep, kept).await?;
            for index in retired {
                let (path, entry) = &sent[index];
                if named.contains(&entry.manifest.blob) {
                    continue;
                }
                let deleted = match self.delete(entry.manifest.blob, &named).await {
                    Ok(()) => Deletion {
                        deleted_at: Some(Timestamp::now()),
                        deletion_succeeded: Some(true),
                        deletion_error: None,
                    },
                    Err(error) => Deletion {
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
            }
        }
        Ok(())
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
        let named = match self.named(LOOK_BACK, BTreeSet::new()).await {
            Ok(named) => named,
            Err(stopped) => return untold(&stopped),
        };
        let mut left = BTreeSet::new();
        for blob in orphans {
            if !named.contains(&blob)
                && let Err(error) = self.delete(blob, &named).await
            {
                tracing::warn!(%error, %blob, "an object of a failed publish stays in the store");
                left.insert(blob);
            }
        }
        if let Err(error) = self.context.stored(move |state| state.set_orphans(&left)).await {
            tracing::warn!(%error, "deleted objects could not be written down");
        }
    }

    /// Deletes an object, and if it is the root of a tree the packs that only it names before it:
    /// while the root is there, what is left of its packs can be found.
    async fn delete(&self, blob: Cid, named: &BTreeSet<Cid>) -> Result<(), String> {
        let root = match self.root_at(blob).await {
            Ok(root) => root,
            Err(stopped) => return Err(format!("{stopped:?}")),
        };
        for pack in root.iter().flat_map(|root| root.packs.values()) {
            if !named.contains(&pack.id) {
                self.delete_object(pack.id).await?;
            }
        }
        self.delete_object(blob).await
    }

    async fn delete_object(&self, blob: Cid) -> Result<(), String> {
        let call = self.context.store.delete(blob);
        match tokio::time::timeout(self.context.spec.store_timeout, call).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_) => Err("the store did not answer in time".to_owned()),
        }
    }

    /// The root of this id; none if the object is something else, or is not there.
    async fn root_at(&self, blob: Cid) -> Result<Option<StoredRoot>, Stopped> {
        let head = ROOT_HEAD.len() as u64;
        let size = match self.size_of(blob).await? {
            Some(size) if (head..=ROOT_MAX).contains(&size) => size,
            Some(_) | None => return Ok(None),
        };
        let begins = self.context.fetch_range(blob, 0..head, Stage::RecordPublish).await?;
        if begins != ROOT_HEAD {
            return Ok(None);
        }
        self.context.fetch_root(blob, size, Stage::RecordPublish).await.map(Some)
    }

    /// The objects that `kept` and the newest `keep` records of every key of the store need.
    async fn named(&self, keep: usize, kept: BTreeSet<Cid>) -> Result<BTreeSet<Cid>, Stopped> {
        let mut needed = BTreeSet::new();
        for blob in kept {
            self.need(blob, &mut needed).await?;
        }
        let mut after = None;
        loop {
            let keys = self
                .context
                .exchange(Stage::RecordPublish, RecordError::is_retryable, || {
                    self.context.store.keys(after.as_ref(), PAGE)
                })
                .await?
                .map_err(|error| Stopped::at(Stage::RecordPublish, &error))?;
            let Some(last) = keys.last() else { return Ok(needed) };
            after = Some(last.clone());
            for key in &keys {
                let mut log = self.log(key, keep).await?;
                log.extend(self.needed_of(key, &log).await?);
                for stored in log {
                    match named(&stored.bytes) {
                        Named::Nothing => {}
                        Named::Archive(blob) => {
                            needed.insert(blob);
                        }
                        Named::Root(blob) => self.need(blob, &mut needed).await?,
                        Named::Unknown => {
                            return Err(Stopped::because(
                                Stage::RecordPublish,
                                format!("a record of {key} is of a later version"),
                            ));
                        }
                    }
                }
            }
        }
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

    /// Adds an object, and if it is a root its packs.
    async fn need(&self, blob: Cid, needed: &mut BTreeSet<Cid>) -> Result<(), Stopped> {
        if needed.insert(blob) {
            let root = self.root_at(blob).await?;
            let packs = root.iter().flat_map(|root| root.packs.values());
            needed.extend(packs.map(|pack| pack.id));
        }
        Ok(())
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

/// What is superseded stays until the next publish.
fn untold(stopped: &Stopped) {
    tracing::warn!(?stopped, "the store does not say what is still named; nothing is deleted");
}
