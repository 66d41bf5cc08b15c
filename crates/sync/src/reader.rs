//! Reads what is published under a workload's key, beside its sync task and also while that does
//! not run. Nothing is changed by it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use belay_packs::PackNumber;
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{
    Cid, CidPrefix, GenerationStanding, GenerationStored, NodeId, SyncGeneration, SyncKey,
    VolumeName, WorkloadName,
};
use belay_store::{BlobError, BlobStore, RecordError, RecordStore};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Stopped, with_causes};
use crate::core::path::Mounts;
use crate::core::record::{AcceptedRecord, judge};
use crate::core::root::{StoredPack, StoredRoot};
use crate::history::History;
use crate::layout::{SyncLayout, SyncSpec};
use crate::spool::Spool;
use crate::state::StateDir;
use crate::task::first_status;
use crate::volume::Volumes;

mod diff;
mod export;
mod live;
mod opened;
mod verify;

pub use diff::{Against, Diff};
pub use export::Export;
pub use verify::Held;

/// Records of a key that are looked through; a store keeps no more.
const LOG_MAX: usize = 64;

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nothing was published under the key.
    #[error("nothing is published under {key}")]
    Nothing {
        /// The key.
        key: SyncKey,
    },
    /// No record of the key's log is of that content.
    #[error("the log of {key} has no record of {cid}")]
    Unknown {
        /// The key.
        key: SyncKey,
        /// What was asked for.
        cid: CidPrefix,
    },
    /// Several contents begin so.
    #[error("{cid} is the beginning of several contents: {}", .found.iter().map(Cid::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        cid: CidPrefix,
        /// They.
        found: Vec<Cid>,
    },
    /// It is sealed, and not for this workload.
    #[error("{reason}")]
    Sealed {
        /// Why it cannot be opened.
        reason: String,
    },
    /// What is stored is not what the record says, or the record is none.
    #[error("{reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
    /// The store does not answer, or something of this host does not.
    #[error("{reason}")]
    Unavailable {
        /// What does not.
        reason: String,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl From<Stopped> for AskError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(failure) => Self::Damaged { reason: failure.reason },
            Stopped::Unreachable(failure) => Self::Unavailable { reason: failure.reason },
            Stopped::Later { reason } => Self::Unavailable { reason },
            Stopped::Shutdown => Self::ShuttingDown,
        }
    }
}

/// Reads what is published under one workload's key.
pub struct SyncReader<S> {
    pub(crate) context: Context<S, ()>,
}

impl<S> std::fmt::Debug for SyncReader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncReader").field("workload", &self.context.workload).finish()
    }
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// A reader for the workload whose own directory is `state_dir`, which is the one given to
    /// [`crate::spawn`], as `spec` and `store` are.
    ///
    /// # Errors
    /// Those of the state directory.
    pub fn open(
        workload: WorkloadName,
        node: NodeId,
        spec: SyncSpec,
        state_dir: &Path,
        store: Arc<S>,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let state = StateDir::open(state_dir)?.under(&spec.key);
        let (status, _) = tokio::sync::watch::channel(first_status(&spec, &state));
        let context = Context {
            workload,
            node,
            spec,
            spool: Spool::open(state_dir)?,
            history: History::new(state_dir),
            state,
            store,
            window: (),
            status,
            shutdown,
        };
        Ok(Self { context })
    }

    /// What there is to say of one generation; the newest where none is named. `layout` is none
    /// while the volumes are not mounted.
    ///
    /// # Errors
    /// When there is no such generation or the store does not answer.
    pub async fn show(
        &self,
        cid: Option<&CidPrefix>,
        layout: Option<SyncLayout>,
    ) -> Result<SyncGeneration, AskError> {
        let (AcceptedRecord { record, .. }, standing) = self.find(cid).await?;
        let (stored, root) = self.look(&record).await?;
        let history = self.context.history.clone();
        let (publish_id, wanted) = (record.publish_id.clone(), record.cid);
        let looked = tokio::task::spawn_blocking(move || {
            let told = history.told_of(&publish_id);
            (told, layout.map(|layout| volumes_with(&layout, wanted)).unwrap_or_default())
        });
        let unavailable = |error| AskError::Unavailable { reason: with_causes(&error) };
        let ((published_at, applied_at), volumes) = looked.await.map_err(unavailable)?;
        Ok(SyncGeneration {
            standing,
            stored,
            packs: root.as_ref().map(|root| root.packs.len() as u64),
            members: root.as_ref().and_then(|root| match root.envelopes.len() as u64 {
                0 => None,
                members => Some(members),
            }),
            published_at,
            applied_at,
            volumes,
            record,
        })
    }

    /// The record of the generation that is asked for, the newest of its content.
    pub(crate) async fn find(
        &self,
        cid: Option<&CidPrefix>,
    ) -> Result<(AcceptedRecord, GenerationStanding), AskError> {
        let key = &self.context.spec.key;
        let log = self.log().await?;
        let head = log.first().ok_or_else(|| AskError::Nothing { key: key.clone() })?;
        let Some(cid) = cid else {
            return Ok((head.clone()?, GenerationStanding::Head));
        };
        // What cannot be read is no record of any content.
        let named = log.iter().enumerate().filter_map(|(place, found)| {
            let found = found.as_ref().ok()?;
            cid.begins(&found.record.cid).then_some((place, found))
        });
        let named: Vec<_> = named.collect();
        let Some(&(place, accepted)) = named.first() else {
            return Err(AskError::Unknown { key: key.clone(), cid: cid.clone() });
        };
        let mut contents: Vec<Cid> = named.iter().map(|(_, found)| found.record.cid).collect();
        contents.sort_unstable_by_key(|cid| *cid.digest());
        contents.dedup();
        if contents.len() > 1 {
            return Err(AskError::Ambiguous { cid: cid.clone(), found: contents });
        }
        let standing =
            if place == 0 { GenerationStanding::Head } else { GenerationStanding::Superseded };
        Ok((accepted.clone(), standing))
    }

    /// The records of the key, newest first, each judged.
    pub(crate) async fn log(&self) -> Result<Vec<Result<AcceptedRecord, AskError>>, AskError> {
        let key = &self.context.spec.key;
        let store = &self.context.store;
        let log = self
            .context
            .exchange(Stage::Download, RecordError::is_retryable, || store.history(key, LOG_MAX))
            .await?
            .map_err(|error| AskError::Unavailable { reason: with_causes(&error) })?;
        let mounts = Mounts::of_everything();
        let publishers = self.context.spec.publishers.as_deref();
        Ok(log
            .iter()
            .map(|stored| {
                judge(&stored.bytes, key, &mounts, publishers).map_err(|refused| {
                    AskError::Damaged {
                        reason: format!(
                            "a record of {key} is refused: {}",
                            refused.reasons.join("; ")
                        ),
                    }
                })
            })
            .collect())
    }

    /// Whether the store has what a record names, without reading it, and the root of a tree.
    async fn look(
        &self,
        record: &SyncRecord,
    ) -> Result<(GenerationStored, Option<StoredRoot>), AskError> {
        let manifest = &record.manifest;
        if self.size_of(manifest.blob).await? != Some(manifest.blob_bytes()) {
            return Ok((GenerationStored::Gone, None));
        }
        if manifest.archive_format == ArchiveFormat::TarGz {
            return Ok((GenerationStored::Whole, None));
        }
        let (blob, size) = (manifest.blob, manifest.blob_bytes());
        match self.context.fetch_root(blob, size, Stage::Download).await {
            Ok(root) => Ok((self.look_at_packs(&root.packs).await?, Some(root))),
            Err(Stopped::Failed(_)) => Ok((GenerationStored::Gone, None)),
            Err(stopped) => Err(stopped.into()),
        }
    }

    async fn look_at_packs(
        &self,
        packs: &BTreeMap<PackNumber, StoredPack>,
    ) -> Result<GenerationStored, AskError> {
        for pack in packs.values() {
            if self.size_of(pack.id).await? != Some(u64::from(pack.size)) {
                return Ok(GenerationStored::Incomplete);
            }
        }
        Ok(GenerationStored::Whole)
    }

    pub(crate) async fn size_of(&self, blob: Cid) -> Result<Option<u64>, AskError> {
        let store = &self.context.store;
        let found = self
            .context
            .exchange(Stage::Download, BlobError::is_retryable, || store.has(blob))
            .await?;
        found.map_err(|error| AskError::Unavailable { reason: with_causes(&error) })
    }
}

/// The volumes that carry the mark of a content. One that cannot be read carries none.
fn volumes_with(layout: &SyncLayout, cid: Cid) -> Vec<VolumeName> {
    let Ok(volumes) = Volumes::open(layout) else { return Vec::new() };
    let marked = volumes
        .all
        .iter()
        .filter(|volume| volume.mark().ok().flatten().is_some_and(|mark| mark.cid == cid));
    marked.map(|volume| volume.name.clone()).collect()
}
