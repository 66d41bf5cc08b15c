//! Reads what the store keeps of a key, and what the volumes hold, and tells whether it is whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{
    Cid, Damage, SyncLine, SyncPiece, SyncRole, VerifyProgress, VerifySum, VolumeName,
};
use belay_store::{BlobError, BlobStore, RecordError, RecordStore};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::live::told;
use super::{AskError, SyncReader};
use crate::capture::{CaptureError, Links, limits};
use crate::context::{Failure, Stopped, blocking, with_causes};
use crate::core::difference::Told;
use crate::core::path::ContainerPath;
use crate::core::record::{AcceptedRecord, Named, named};
use crate::core::tree::{TreeIndex, TreeSummary};
use crate::fetching::{FoundRoot, lacking};
use crate::layout::SyncLayout;
use crate::volume::Volumes;
use crate::walk::{Met, Vanished, io_fault, walk};

/// Bytes that are read between two words on how far it is.
const TELL_EVERY: u64 = 64 * 1024 * 1024;

/// Keys of one listing.
const KEYS: usize = 1_000;

/// What of the volumes is looked at.
#[derive(Debug)]
pub enum Held {
    /// Nothing: they are not mounted.
    Nothing,
    /// Which generation each says it holds.
    Marks(SyncLayout),
    /// That, and whether it does. What an app has written since is a difference.
    Content(SyncLayout),
}

/// What is told while it is verified.
struct Telling<'t> {
    pieces: &'t mpsc::Sender<SyncPiece>,
    sum: VerifySum,
    told: u64,
    total: u64,
}

/// Why an object was not read to its end.
enum Unread {
    /// It is not there, or not what its id names.
    Damaged(String),
    Failed(AskError),
    /// Nobody takes what is found any more.
    Gone,
}

impl From<AskError> for Unread {
    fn from(error: AskError) -> Self {
        Self::Failed(error)
    }
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// Reads every object of the generations that the key keeps, each once, then what the volumes
    /// hold, and tells what is damaged as it is found. Damage is no error of this: it is told, and
    /// counted in the last line.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn verify(self, held: Held, pieces: mpsc::Sender<SyncPiece>) -> Result<(), AskError> {
        let mut telling = Telling { pieces: &pieces, sum: VerifySum::default(), told: 0, total: 0 };
        match self.verify_all(held, &mut telling).await {
            Ok(()) => {
                let sum = telling.sum;
                // Whoever goes away now needs no sum.
                let _ = pieces.send(SyncPiece::Line(SyncLine::Verified(sum))).await;
                Ok(())
            }
            Err(Unread::Gone) => Ok(()),
            Err(Unread::Damaged(reason)) => Err(AskError::Damaged { reason }),
            Err(Unread::Failed(error)) => Err(error),
        }
    }

    async fn verify_all(&self, held: Held, telling: &mut Telling<'_>) -> Result<(), Unread> {
        let log = self.log().await?;
        let mut records: Vec<AcceptedRecord> = Vec::new();
        for found in log {
            match found {
                Ok(accepted) => records.push(accepted),
                Err(AskError::Damaged { reason }) => {
                    telling.damage(Damage::Record { reason }).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let keep = self.context.spec.keep_generations.max(2);
        let kept = kept(&records, keep);
        telling.total = kept.iter().map(|found| found.record.manifest.archive_size_bytes).sum();
        let mut read = HashSet::new();
        for accepted in kept {
            telling.sum.generations += 1;
            self.verify_generation(accepted, &mut read, telling).await?;
        }
        self.verify_held(held, &records, telling).await?;
        match self.context.spec.role {
            SyncRole::Provider => self.verify_others(telling).await,
            SyncRole::Consumer => Ok(()),
        }
    }

    /// Looks at the roots of the other keys: while one cannot be read, a provider deletes nothing.
    async fn verify_others(&self, telling: &mut Telling<'_>) -> Result<(), Unread> {
        let (stage, keep) = (Stage::Download, self.context.spec.keep_generations.max(2));
        let fails = |error: RecordError| Unread::from(AskError::from(lost(stage, &error)));
        let mut after = None;
        loop {
            let listed = self.context.exchange(stage, RecordError::is_retryable, || {
                self.context.store.keys(after.as_ref(), KEYS)
            });
            let keys = listed.await.map_err(AskError::from)?.map_err(fails)?;
            let Some(last) = keys.last() else { return Ok(()) };
            after = Some(last.clone());
            for key in keys.iter().filter(|key| **key != self.context.spec.key) {
                let read = self.context.exchange(stage, RecordError::is_retryable, || {
                    self.context.store.history(key, keep)
                });
                let log = read.await.map_err(AskError::from)?.map_err(fails)?;
                for stored in log {
                    let Some(reason) = self.hold_up(&stored.bytes).await? else { continue };
                    let reason = format!(
                        "record {} of key {key}, for whose sake nothing is deleted in the store: \
                         {reason}",
                        stored.revision.0
                    );
                    telling.damage(Damage::Record { reason }).await?;
                }
            }
        }
    }

    /// Why it cannot be told what a record needs, if it cannot.
    async fn hold_up(&self, record: &[u8]) -> Result<Option<String>, Unread> {
        let blob = match named(record) {
            Named::Nothing | Named::Archive(_) => return Ok(None),
            Named::Unknown => return Ok(Some("it is of a later version of belayd".to_owned())),
            Named::Root(blob) => blob,
        };
        match self.context.find_root(blob, Stage::Download).await {
            Ok(FoundRoot::Absent | FoundRoot::Root(_)) => Ok(None),
            Ok(FoundRoot::Other) => {
                Ok(Some(format!("the stored object {blob} is not the root that it was")))
            }
            Err(Stopped::Failed(failure)) => Ok(Some(failure.reason)),
            Err(stopped) => Err(AskError::from(stopped).into()),
        }
    }

    async fn verify_generation(
        &self,
        accepted: &AcceptedRecord,
        read: &mut HashSet<Cid>,
        telling: &mut Telling<'_>,
    ) -> Result<(), Unread> {
        let record = &accepted.record;
        let manifest = &record.manifest;
        if !self.verify_object(record, manifest.blob, manifest.blob_bytes(), read, telling).await? {
            return Ok(());
        }
        if manifest.archive_format == ArchiveFormat::TarGz {
            return Ok(());
        }
        let (blob, size) = (manifest.blob, manifest.blob_bytes());
        let root = match self.context.fetch_root(blob, size, Stage::Download).await {
            Ok(root) => root,
            Err(stopped) => return telling.stopped(record.cid, blob, stopped).await,
        };
        let mut whole = true;
        for pack in root.packs.values() {
            let size = u64::from(pack.size);
            whole &= self.verify_object(record, pack.id, size, read, telling).await?;
        }
        if !whole {
            return Ok(());
        }
        // Its packs are what they should be; whether they are those of the tree its manifest tells.
        match self.open_tree(accepted).await {
            // Who has no key can tell no more than that.
            Ok(_) | Err(AskError::Sealed { .. }) => Ok(()),
            Err(AskError::Damaged { reason }) => {
                telling
                    .damage(Damage::Object { generation: record.cid, object: blob, reason })
                    .await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one object, unless it was read before; false if it is damaged.
    async fn verify_object(
        &self,
        record: &SyncRecord,
        object: Cid,
        size: u64,
        read: &mut HashSet<Cid>,
        telling: &mut Telling<'_>,
    ) -> Result<bool, Unread> {
        if !read.insert(object) {
            return Ok(true);
        }
        telling.sum.objects += 1;
        match self.read_object(object, size, telling).await {
            Ok(()) => Ok(true),
            Err(Unread::Damaged(reason)) => {
                // Met again in another generation it is told of for that one too.
                read.remove(&object);
                telling.damage(Damage::Object { generation: record.cid, object, reason }).await?;
                Ok(false)
            }
            Err(unread) => Err(unread),
        }
    }

    async fn read_object(
        &self,
        object: Cid,
        size: u64,
        telling: &mut Telling<'_>,
    ) -> Result<(), Unread> {
        let stall = self.context.spec.store_timeout;
        let stalled = |_| BlobError::Io {
            action: "go on with an object",
            source: io::ErrorKind::TimedOut.into(),
        };
        let opened = tokio::time::timeout(stall, self.context.store.get(object, None)).await;
        let opened = opened.map_err(stalled).and_then(|opened| opened);
        let mut stored = opened.map_err(|error| unread(&error))?;
        let mut hasher = blake3::Hasher::new();
        loop {
            let next = tokio::select! {
                biased;
                () = self.context.shutdown.cancelled() => {
                    return Err(AskError::ShuttingDown.into());
                }
                next = tokio::time::timeout(stall, stored.next()) => next,
            };
            let Some(piece) = next.map_err(|late| unread(&stalled(late)))? else { break };
            let piece = piece.map_err(|error| unread(&error))?;
            hasher.update(&piece);
            telling.read(piece.len() as u64).await?;
        }
        if hasher.count() != size {
            let found = hasher.count();
            return Err(Unread::Damaged(format!("it has {found} bytes, and should have {size}")));
        }
        if hasher.finalize().as_bytes() != object.digest() {
            return Err(Unread::Damaged("its bytes are not what its id names".to_owned()));
        }
        Ok(())
    }

    async fn verify_held(
        &self,
        held: Held,
        records: &[AcceptedRecord],
        telling: &mut Telling<'_>,
    ) -> Result<(), Unread> {
        let (layout, rehash) = match held {
            Held::Nothing => return Ok(()),
            Held::Marks(layout) => (layout, false),
            Held::Content(layout) => (layout, true),
        };
        let key = self.context.spec.key.clone();
        let looked = layout.clone();
        let marks = blocking(Stage::Validation, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
            let volumes = Volumes::open(&looked).map_err(|error| fail(&error))?;
            let mut marks = Vec::new();
            for volume in &volumes.all {
                let mark = volume.mark().map_err(|error| fail(&error))?;
                let mark = mark.filter(|mark| mark.key == key);
                marks.extend(mark.map(|mark| (volume.name.clone(), mark)));
            }
            Ok(marks)
        });
        let marks = marks.await.map_err(AskError::from)?;
        telling.sum.marked = marks.len() as u64;
        let contents: BTreeMap<String, Cid> =
            marks.iter().map(|(_, mark)| (mark.cid.to_string(), mark.cid)).collect();
        for cid in contents.into_values().filter(|_| rehash) {
            let of_it = || marks.iter().filter(|(_, mark)| mark.cid == cid);
            let volumes: Vec<VolumeName> = of_it().map(|(volume, _)| volume.clone()).collect();
            let untouched: BTreeSet<VolumeName> =
                of_it().flat_map(|(_, mark)| mark.untouched.clone()).collect();
            // Where a policy altered something, that is what they hold.
            let held = of_it().find_map(|(_, mark)| mark.ownership).map_or(cid, |of| of.holds);
            let logged = records.iter().find(|found| found.record.cid == cid);
            let Some(accepted) = logged else {
                let reason = "the log of the key has no record of it any more".to_owned();
                telling.damage(Damage::Content { generation: cid, volumes, reason }).await?;
                continue;
            };
            let (layout, roots) = (layout.clone(), accepted.roots.clone());
            let found = tokio::task::spawn_blocking(move || rehashed(&layout, &roots, &untouched));
            let found = found.await;
            let reason = match found {
                Ok(Ok(tree)) if tree.cid == held => {
                    telling.sum.rehashed += volumes.len() as u64;
                    continue;
                }
                Ok(Ok(tree)) => format!("they hold {} instead", tree.cid),
                Ok(Err(error)) => with_causes(&error),
                Err(error) => with_causes(&error),
            };
            telling.damage(Damage::Content { generation: cid, volumes, reason }).await?;
        }
        Ok(())
    }
}

/// The records of the newest objects that a key keeps, each object once.
fn kept(records: &[AcceptedRecord], keep: usize) -> Vec<&AcceptedRecord> {
    let mut newest: Vec<&AcceptedRecord> = Vec::new();
    for accepted in records {
        let blob = accepted.record.manifest.blob;
        if newest.iter().any(|found| found.record.manifest.blob == blob) {
            continue;
        }
        if newest.len() == keep {
            break;
        }
        newest.push(accepted);
    }
    newest
}

fn lost(stage: Stage, error: &RecordError) -> Stopped {
    Stopped::Unreachable(Failure::new(stage, with_causes(error)))
}

fn unread(error: &BlobError) -> Unread {
    match lacking(Stage::Download, error) {
        Stopped::Failed(failure) => Unread::Damaged(failure.reason),
        stopped @ (Stopped::Later { .. } | Stopped::Unreachable(_) | Stopped::Shutdown) => {
            Unread::Failed(stopped.into())
        }
    }
}

impl Telling<'_> {
    async fn line(&self, line: SyncLine) -> Result<(), Unread> {
        self.pieces.send(SyncPiece::Line(line)).await.map_err(|_| Unread::Gone)
    }

    async fn damage(&mut self, damage: Damage) -> Result<(), Unread> {
        self.sum.damaged += 1;
        self.line(SyncLine::Damaged(damage)).await
    }

    async fn stopped(
        &mut self,
        generation: Cid,
        object: Cid,
        stopped: Stopped,
    ) -> Result<(), Unread> {
        match stopped {
            Stopped::Failed(failure) => {
                self.damage(Damage::Object { generation, object, reason: failure.reason }).await
            }
            other => Err(AskError::from(other).into()),
        }
    }

    async fn read(&mut self, bytes: u64) -> Result<(), Unread> {
        self.sum.bytes += bytes;
        if self.sum.bytes >= self.told + TELL_EVERY {
            self.told = self.sum.bytes;
            let progress = VerifyProgress { done_bytes: self.sum.bytes, total_bytes: self.total };
            self.line(SyncLine::Verifying(progress)).await?;
        }
        Ok(())
    }
}

/// The tree that the volumes hold under these paths, but for volumes of which it says nothing.
fn rehashed(
    layout: &SyncLayout,
    roots: &[ContainerPath],
    untouched: &BTreeSet<VolumeName>,
) -> Result<TreeSummary, CaptureError> {
    let volumes = Volumes::open(layout)
        .map_err(|error| CaptureError::from(io_fault(b"", io::Error::other(error))))?;
    let mut index = TreeIndex::new(roots, limits(&volumes));
    let mut links = Links::default();
    walk(&volumes, roots, Vanished::Skip, &mut |met: &Met<'_>| {
        if untouched.contains(&volumes.all[met.mount].name) {
            return Ok(());
        }
        if let Some(Told { member, digest }) = told(met, &mut links)? {
            index.admit(&member)?;
            index.record(&member, &digest.unwrap_or_default());
        }
        Ok::<_, CaptureError>(())
    })?;
    Ok(index.finish()?)
}
