//! What was captured into the store, then the record that names it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Manifest, OWNED_SCHEMA, SyncRecord};
use belay_protocol::{Cid, ProblemCode, PublisherKey, SyncKey};
use belay_store::{BlobError, BlobStore, PutOutcome, RecordError, RecordStore, Revision};
use jiff::Timestamp;

use super::Provider;
use super::putting_off::not_done;
use crate::context::{Failure, Stopped, blocking, version, with_causes};
use crate::core::record::Order;
use crate::core::root::StoredRoot;
use crate::core::signature::{is_signed_by, signed};
use crate::failpoint::{Point, reached};
use crate::node_key::NodeKeyError;
use crate::packing::pack_file;
use crate::remembered::{BASE_ROOT, ROOT};
use crate::state::{CaptureFacts, Origin, PublishJournal, PublishStep, Unchanged};
use crate::window::OfflineWindow;

/// Records looked through for our own publish id.
pub(super) const LOOK_BACK: usize = 64;
/// Lost races for the head before a publish gives up.
pub(super) const RACES_MAX: u32 = 5;

fn unreachable(stage: Stage, error: &dyn std::error::Error) -> Stopped {
    Stopped::Unreachable(Failure::new(stage, with_causes(error)))
}

fn unusable(stage: Stage, error: &NodeKeyError) -> Stopped {
    Stopped::coded(stage, ProblemCode::SigningKeyUnusable, with_causes(error))
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Stores what was captured unless the head already names this content, and prepares the
    /// record. None if it is no longer whole in the spool.
    pub(super) async fn upload(
        &self,
        journal: &mut PublishJournal,
        spool: &str,
        capture: &CaptureFacts,
    ) -> Result<Option<PublishStep>, Stopped> {
        self.context.show("uploading");
        let head = self.head(Stage::Upload).await?.map(|(_, record)| record);
        self.may_publish(Stage::Upload, head.as_ref()).await?;
        let same = head.filter(|head| {
            // One that nobody signed is announced again, signed.
            head.signer.is_some()
                && head.cid == capture.cid
                && head.manifest.archive_paths == capture.roots
                && head.manifest.archive_format == capture.format
        });
        if let Some(head) = same
            && self.is_stored(&head.manifest, spool, capture).await?
        {
            // Equal content is stored once, and announced again only with other words.
            let says_the_same = match journal.origin {
                // An archive comes without words.
                Origin::Import => true,
                Origin::App | Origin::Command | Origin::Schedule => {
                    head.metadata == journal.request.metadata
                        && head.runtime == journal.request.runtime
                }
            };
            if says_the_same {
                self.remember(spool, &head.manifest).await;
                self.discard(spool.to_owned()).await;
                return Ok(Some(PublishStep::Published {
                    capture: capture.clone(),
                    record: Box::new(head),
                    at: Timestamp::now(),
                    unchanged: Unchanged::SameRecord,
                }));
            }
            let record = self.record(journal, capture, head.manifest).await?;
            return Ok(Some(PublishStep::Publishing {
                spool: spool.to_owned(),
                capture: capture.clone(),
                record: Box::new(record),
            }));
        }
        let found = self.size_of(capture.blob).await?;
        if found.is_none() && journal.uploaded.is_none() {
            // Written down first, so that what a failure leaves in the store can be found.
            journal.uploaded = Some(capture.blob);
            self.write_down(journal, Stage::Upload).await?;
        }
        if !self.put(spool, capture).await? {
            return Ok(None);
        }
        reached(Point::Uploaded);
        let manifest = Manifest {
            schema_version: if capture.owned {
                OWNED_SCHEMA
            } else {
                capture.format.manifest_schema()
            },
            archive_paths: capture.roots.clone(),
            archive_format: capture.format,
            archive_size_bytes: capture.archive_size_bytes,
            encryption: capture.encryption,
            blob: capture.blob,
            root_bytes: capture.root_bytes,
            content_bytes: capture.content_bytes,
            members: capture.members,
            skipped_special: capture.skipped_count,
        };
        let record = self.record(journal, capture, manifest).await?;
        Ok(Some(PublishStep::Publishing {
            spool: spool.to_owned(),
            capture: capture.clone(),
            record: Box::new(record),
        }))
    }

    /// Whether the store has all that the head of this content needs. What the capture made too is
    /// put again: of the right size it may still be damaged, and this makes it whole.
    async fn is_stored(
        &self,
        head: &Manifest,
        spool: &str,
        capture: &CaptureFacts,
    ) -> Result<bool, Stopped> {
        let mended = head.blob == capture.blob && self.put(spool, capture).await?;
        Ok(mended || (self.is_sealed_so(head, spool).await? && self.has(head).await?))
    }

    /// Whether the head is sealed for whom the tree in the spool is, under the same key.
    async fn is_sealed_so(&self, head: &Manifest, spool: &str) -> Result<bool, Stopped> {
        if head.archive_format != ArchiveFormat::Tree {
            return Ok(true);
        }
        let (spools, name) = (self.context.spool.clone(), spool.to_owned());
        let captured = blocking(Stage::Upload, move || {
            let read = || fs::read(spools.kept_dir(&name).ok()?.path().join(ROOT)).ok();
            Ok(read().and_then(|bytes| StoredRoot::decode(&bytes).ok()))
        });
        let Some(captured) = captured.await? else { return Ok(false) };
        let (blob, size) = (head.blob, head.blob_bytes());
        match self.context.fetch_root(blob, size, Stage::Upload).await {
            Ok(root) => Ok(root.envelopes == captured.envelopes),
            // It is not there, or damaged.
            Err(Stopped::Failed(_)) => Ok(false),
            Err(stopped) => Err(stopped),
        }
    }

    /// Stores what was captured; false if it is not in the spool as it was captured.
    async fn put(&self, spool: &str, capture: &CaptureFacts) -> Result<bool, Stopped> {
        match capture.format {
            ArchiveFormat::TarGz => self.put_archive(spool, capture).await,
            ArchiveFormat::Tree => self.put_tree(spool, capture).await,
        }
    }

    async fn put_archive(&self, spool: &str, capture: &CaptureFacts) -> Result<bool, Stopped> {
        let (spools, name) = (self.context.spool.clone(), spool.to_owned());
        let reopened = blocking(Stage::Upload, move || {
            let Ok(mut spooled) = spools.reopen(&name) else { return Ok(None) };
            // A failed or interrupted upload finds it again.
            spooled.keep().map_err(|error| Stopped::at(Stage::Upload, &error))?;
            Ok(Some(spooled))
        });
        let Some(mut spooled) = reopened.await? else { return Ok(false) };
        let whole =
            self.put_object(capture.blob, capture.archive_size_bytes, &spooled.file).await?;
        if !whole {
            spooled.release();
        }
        Ok(whole)
    }

    /// Stores the root, then the packs that were made. In that order, since it is by the root that
    /// the packs of a publish which ends early are found again.
    async fn put_tree(&self, spool: &str, capture: &CaptureFacts) -> Result<bool, Stopped> {
        let (spools, name, blob) = (self.context.spool.clone(), spool.to_owned(), capture.blob);
        let reopened = blocking(Stage::Upload, move || {
            let read = || {
                let dir = spools.kept_dir(&name)?;
                let bytes = fs::read(dir.path().join(ROOT))?;
                let whole = blake3::hash(&bytes) == *blob.digest();
                let root = StoredRoot::decode(&bytes).map_err(io::Error::other)?;
                let file = File::open(dir.path().join(ROOT))?;
                Ok::<_, io::Error>(whole.then_some((dir.path().to_owned(), root, file)))
            };
            // Whatever is wrong with it, it is not as it was captured.
            Ok(read().ok().flatten())
        });
        let Some((dir, root, file)) = reopened.await? else { return Ok(false) };
        let size = capture.root_bytes.unwrap_or(0);
        let mut whole = self.put_object(capture.blob, size, &file).await?;
        reached(Point::RootStored);
        for (number, pack) in &root.packs {
            if !whole {
                break;
            }
            let path = pack_file(&dir, *number);
            let opened = blocking(Stage::Upload, move || Ok(File::open(path).ok())).await?;
            let size = u64::from(pack.size);
            whole = match opened {
                Some(file) => self.put_object(pack.id, size, &file).await?,
                // It was not made for this tree, and the store had it when the capture began.
                None => self.size_of(pack.id).await? == Some(size),
            };
            reached(Point::PackStored);
        }
        if !whole {
            self.discard(spool.to_owned()).await;
        }
        Ok(whole)
    }

    /// Remembers the tree that was captured, if it is the one that the record names or differs from
    /// it in nothing but times.
    pub(super) async fn remember(&self, spool: &str, published: &Manifest) {
        if published.archive_format != ArchiveFormat::Tree {
            return;
        }
        let (spools, name, blob) = (self.context.spool.clone(), spool.to_owned(), published.blob);
        let remembered = self.context.stored(move |state| {
            let Ok(mut dir) = spools.kept_dir(&name) else { return Ok(()) };
            let (root, base) = (dir.path().join(ROOT), dir.path().join(BASE_ROOT));
            let is_published = |path: &Path| {
                fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes) == *blob.digest())
            };
            if !is_published(&root) {
                if !is_published(&base) {
                    return Ok(());
                }
                fs::rename(&base, &root)?;
            }
            // What was remembered before is in its place then.
            dir.release();
            let taken = state.remembered().take(&dir);
            reached(Point::Remembered);
            taken
        });
        if let Err(error) = remembered.await {
            tracing::warn!(workload = %self.context.workload, %error,
                "a publish could not be remembered; the next one reads everything");
        }
    }

    /// Stores one object; false if the file is not what the id names.
    async fn put_object(&self, id: Cid, size: u64, file: &File) -> Result<bool, Stopped> {
        let stored = self
            .context
            .transfer(size, Stage::Upload, BlobError::is_retryable, || async {
                let source = file
                    .try_clone()
                    .map_err(|source| BlobError::Io { action: "read the archive", source })?;
                self.context.store.put_if_absent(id, source, size).await
            })
            .await?;
        match stored {
            Ok(PutOutcome::Stored) => {
                self.stored.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Ok(PutOutcome::Present) => Ok(true),
            Err(BlobError::Mismatch { .. }) => Ok(false),
            Err(error) => Err(not_done(&error)),
        }
    }

    /// Whether the store has all that a record needs.
    pub(super) async fn has(&self, manifest: &Manifest) -> Result<bool, Stopped> {
        if self.size_of(manifest.blob).await? != Some(manifest.blob_bytes()) {
            return Ok(false);
        }
        match manifest.archive_format {
            ArchiveFormat::TarGz => Ok(true),
            ArchiveFormat::Tree => {
                let root = self
                    .context
                    .fetch_root(manifest.blob, manifest.blob_bytes(), Stage::Upload)
                    .await;
                match root {
                    Ok(root) => self.has_packs(&root.packs).await,
                    // Of the right size, and damaged.
                    Err(Stopped::Failed(_)) => Ok(false),
                    Err(stopped) => Err(stopped),
                }
            }
        }
    }

    pub(super) async fn size_of(&self, blob: Cid) -> Result<Option<u64>, Stopped> {
        self.context
            .exchange(Stage::Upload, BlobError::is_retryable, || self.context.store.has(blob))
            .await?
            .map_err(|error| not_done(&error))
    }

    /// Looks, now that the record is set, whether the store has what it names, and stores again what
    /// somebody deleted before it was named. What is there now is not deleted any more: who would
    /// do so looks for records after taking it out of its place.
    pub(super) async fn keep_stored(
        &self,
        record: &SyncRecord,
        spool: &str,
        capture: &CaptureFacts,
    ) -> Result<(), Stopped> {
        let manifest = &record.manifest;
        if self.has(manifest).await? {
            return Ok(());
        }
        // What was stored again is looked for too: only packs that were made for this tree lie in the
        // spool.
        if manifest.blob == capture.blob
            && self.put(spool, capture).await?
            && self.has(manifest).await?
        {
            return Ok(());
        }
        let reason = format!(
            "somebody deleted what {} needs while its record was set; publish again, which stores \
             it all",
            record.cid
        );
        Err(Stopped::coded(Stage::RecordPublish, ProblemCode::PublishedLost, reason))
    }

    /// The head of the key. One that this version cannot read is a failure: it must not be
    /// replaced by guess.
    pub(super) async fn head(
        &self,
        stage: Stage,
    ) -> Result<Option<(Revision, SyncRecord)>, Stopped> {
        let key = &self.context.spec.key;
        let stored = self
            .context
            .exchange(stage, RecordError::is_retryable, || self.context.store.head(key))
            .await?
            .map_err(|error| unreachable(stage, &error))?;
        let Some(stored) = stored else { return Ok(None) };
        let record: SyncRecord = serde_json::from_slice(&stored.bytes).map_err(|error| {
            Stopped::because(
                stage,
                format!("the head of {key} is no record this version reads: {error}"),
            )
        })?;
        // What follows from it would be signed.
        if record.signer.is_some_and(|signer| !is_signed_by(&stored.bytes, &signer)) {
            let reason = format!("the head of {key} is not what its signer signed");
            return Err(Stopped::coded(stage, ProblemCode::RecordForged, reason));
        }
        Ok(Some((stored.revision, record)))
    }

    async fn record(
        &self,
        journal: &PublishJournal,
        capture: &CaptureFacts,
        manifest: Manifest,
    ) -> Result<SyncRecord, Stopped> {
        let head = self.head(Stage::RecordPublish).await?.map(|(_, record)| record);
        let after = self.next_place(head.as_ref()).await?;
        Ok(SyncRecord {
            schema: capture.capture.record_schema(),
            key: self.context.spec.key.clone(),
            epoch: after.epoch,
            seq: after.seq,
            cid: capture.cid,
            parent_cid: head.map(|head| head.cid),
            node_id: self.context.node.clone(),
            publish_id: journal.publish_id.clone(),
            version: version(capture.at),
            timestamp: capture.at,
            capture: capture.capture,
            metadata: journal.request.metadata.clone(),
            runtime: journal.request.runtime,
            manifest,
            signer: Some(self.publisher(Stage::RecordPublish).await?),
            // It is signed as it is sent.
            signature: None,
        })
    }

    /// Who signs what this node publishes.
    pub(super) async fn publisher(&self, stage: Stage) -> Result<PublisherKey, Stopped> {
        let key = self.key.clone();
        blocking(stage, move || key.publisher().map_err(|error| unusable(stage, &error))).await
    }

    /// The record as it is stored.
    pub(super) async fn signed(&self, record: &SyncRecord) -> Result<Vec<u8>, Stopped> {
        let (key, record, stage) = (self.key.clone(), record.clone(), Stage::RecordPublish);
        blocking(stage, move || {
            let key = key.load().map_err(|error| unusable(stage, &error))?;
            signed(&record, &key).map_err(|error| Stopped::at(stage, &error))
        })
        .await
    }

    /// The place after the head. Where the store lost its records, the place after the last one
    /// this node published: consumers remember that.
    async fn next_place(&self, head: Option<&SyncRecord>) -> Result<Order, Stopped> {
        self.may_publish(Stage::RecordPublish, head).await?;
        let sent = self.sent_orders(Stage::RecordPublish).await?.into_iter().max();
        let last = head.map(Order::of).max(sent).unwrap_or(Order { epoch: 1, seq: 0 });
        last.next().ok_or_else(|| {
            let reason = format!(
                "no record can follow number {} of epoch {}; publish under another key",
                last.seq, last.epoch
            );
            Stopped::because(Stage::RecordPublish, reason)
        })
    }

    /// The places of what this node published under the key.
    pub(super) async fn sent_orders(&self, stage: Stage) -> Result<Vec<Order>, Stopped> {
        let (history, key) = (self.context.history.clone(), self.context.spec.key.clone());
        blocking(stage, move || {
            let sent = history.all_sent();
            let ours = sent.iter().filter(|(_, entry)| *entry.key_or(&key) == key);
            Ok(ours.map(|(_, entry)| Order { epoch: entry.epoch, seq: entry.seq }).collect())
        })
        .await
    }

    /// Makes the record the head: the commit point of a publish.
    pub(super) async fn set_record(
        &self,
        journal: &mut PublishJournal,
        capture: &CaptureFacts,
        mut record: SyncRecord,
    ) -> Result<SyncRecord, Stopped> {
        self.context.show("publishing");
        let stage = Stage::RecordPublish;
        let key = &self.context.spec.key;
        for _ in 0..RACES_MAX {
            if let Some(ours) = self.published_before(key, &journal.publish_id).await? {
                return Ok(ours);
            }
            let head = self.head(stage).await?;
            let place = self.next_place(head.as_ref().map(|(_, record)| record)).await?;
            let parent = head.as_ref().map(|(_, record)| record.cid);
            if (Order::of(&record), record.parent_cid) != (place, parent) {
                record = self.record(journal, capture, record.manifest).await?;
                continue;
            }
            let bytes = self.signed(&record).await?;
            let expected = head.map(|(revision, _)| revision);
            let set = tokio::time::timeout(
                self.context.spec.store_timeout,
                self.context.store.compare_and_set(key, expected, bytes.into()),
            );
            let error = match set.await {
                Ok(Ok(_)) => {
                    reached(Point::RecordSet);
                    return Ok(record);
                }
                // Someone else was first, or it is unknown whether we were: the next look tells.
                Ok(Err(RecordError::Conflict { .. })) => continue,
                Ok(Err(
                    error @ (RecordError::TooLarge { .. } | RecordError::AckTooLarge { .. }),
                )) => {
                    return Err(Stopped::at(stage, &error));
                }
                Ok(Err(
                    error @ (RecordError::Busy { .. } | RecordError::Full | RecordError::Io { .. }),
                )) => with_causes(&error),
                Err(_) => "the store did not answer in time".to_owned(),
            };
            tracing::warn!(workload = %self.context.workload, %error, "a record may not be set");
            if let Some(ours) = self.published_before(key, &journal.publish_id).await? {
                return Ok(ours);
            }
            // It is not there, and may come yet.
            let reason = format!("it is not known whether the record was set: {error}");
            return Err(Stopped::Later { reason });
        }
        Err(Stopped::because(stage, "others kept publishing under this key"))
    }

    /// The record of an act of publishing under this key, which need not be the workload's.
    pub(super) async fn published_before(
        &self,
        key: &SyncKey,
        publish_id: &str,
    ) -> Result<Option<SyncRecord>, Stopped> {
        let history = self
            .context
            .exchange(Stage::RecordPublish, RecordError::is_retryable, || {
                self.context.store.history(key, LOOK_BACK)
            })
            .await?
            .map_err(|error| unreachable(Stage::RecordPublish, &error))?;
        let records = history
            .iter()
            .filter_map(|stored| serde_json::from_slice::<SyncRecord>(&stored.bytes).ok());
        Ok(records.into_iter().find(|record| record.publish_id == publish_id))
    }
}
