//! Captures in the `tree` format: what they build on, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_packs::{Keys, PackNumber};
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Encryption, Manifest};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::capturing::{Facts, resolve};
use crate::context::{Stopped, blocking};
use crate::core::root::{RootFault, StoredPack};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::packing::{Base, Packed, Packing, Walked};
use crate::remembered::{MANIFEST, SEEN};
use crate::sealing::Seal;
use crate::spool::Spooled;
use crate::state::{CaptureFacts, PublishJournal};
use crate::volume::Volumes;
use crate::window::OfflineWindow;

/// What a capture builds on.
struct Ground {
    base: Base,
    /// The file of its manifest, if that was fetched; it goes with this.
    fetched: Option<Spooled>,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Reads the tree while the app runs, then what changed since while it is stopped. The window
    /// closes as soon as that is read.
    pub(super) async fn capture_tree(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let context = Arc::clone(&self.context);
        context.show("validating");
        let (paths, look_layout) = (journal.request.archive_paths.clone(), layout.clone());
        let roots = blocking(Stage::Validation, move || resolve(&look_layout, &paths)).await?;
        let seal = self.seal().await?;
        let is_open = seal.envelopes.is_empty();
        let encryption = if is_open { Encryption::None } else { Encryption::Members };
        let ground = self.ground(&seal.keys).await?;
        context.show("reading");
        let (look_layout, look_roots) = (layout.clone(), roots.clone());
        let spool = context.spool.clone();
        let packing = blocking(Stage::Validation, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
            let volumes = Volumes::open(&look_layout).map_err(|error| fail(&error))?;
            let dir = spool.create_dir().map_err(|error| fail(&error))?;
            let (base, fetched) = match ground {
                Some(Ground { base, fetched }) => (Some(base), fetched),
                None => (None, None),
            };
            let mut packing =
                Packing::begin(seal, dir, &volumes, base).map_err(|error| fail(&error))?;
            packing.look(&volumes, &look_roots).map_err(|error| fail(&error))?;
            Ok((packing, fetched))
        });
        let (mut packing, fetched) = packing.await?;

        let window = self.open_capture_window().await?;
        context.show("capturing");
        let at = Timestamp::now();
        let (capture_layout, capture_roots) = (layout.clone(), roots.clone());
        let walked = blocking(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&capture_layout).map_err(|error| fail(&error))?;
            let walked = packing.capture(&volumes, &capture_roots).map_err(|error| fail(&error))?;
            reached(Point::Captured);
            Ok((packing, walked, volumes))
        })
        .await;
        drop(fetched);
        // The rest is done while the container is coming up again.
        let finished = async {
            let (packing, walked, volumes) = walked?;
            blocking(Stage::ArchiveBuild, move || {
                let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
                // A power cut can leave a file its new date and its old content. What is remembered
                // by its date must be on the disk before that.
                for volume in &volumes.all {
                    volume.private.sync_file_system().map_err(|error| fail(&error))?;
                }
                let mut packed = packing.finish().map_err(|error| fail(&error))?;
                let name = packed.dir.keep().map_err(|error| fail(&error))?;
                Ok((name, packed, walked))
            })
            .await
        };
        let (downtime, finished) = tokio::join!(self.close_capture_window(window), finished);
        reached(Point::WindowClosed);
        let (name, packed, walked) = finished?;
        Ok((name, tree_facts(at, &roots, &packed, walked, encryption, downtime)))
    }

    /// What the trees of this workload are sealed with.
    async fn seal(&self) -> Result<Seal, Stopped> {
        let sealing = self.context.spec.sealing.clone();
        let directory = self.context.state.path().to_owned();
        blocking(Stage::Validation, move || match sealing {
            None => Ok(Seal::none()),
            Some(sealing) => {
                sealing.seal(&directory).map_err(|error| Stopped::at(Stage::Validation, &error))
            }
        })
        .await
    }

    /// What the next capture may build on: the tree that the head names, if the store has it whole.
    async fn ground(&self, keys: &Keys) -> Result<Option<Ground>, Stopped> {
        let Some((_, head)) = self.head(Stage::Upload).await? else { return Ok(None) };
        let manifest = head.manifest;
        if manifest.archive_format != ArchiveFormat::Tree {
            return Ok(None);
        }
        let (blob, opening) = (manifest.blob, keys.clone());
        let remembered = self.context.stored(move |state| {
            let remembered = state.remembered();
            Ok(remembered.root(blob, &opening).map(|root| (root, remembered.dir().to_owned())))
        });
        let remembered = remembered.await.unwrap_or_else(|error| {
            tracing::warn!(workload = %self.context.workload, %error,
                "what is remembered of the last publish could not be read");
            None
        });
        let ground = match remembered {
            Some((root, dir)) => {
                let (manifest, seen) = (dir.join(MANIFEST), Some(dir.join(SEEN)));
                Ground { base: Base { root, manifest, seen }, fetched: None }
            }
            None => match self.fetched_ground(&manifest, keys).await {
                Ok(Some(ground)) => ground,
                // It was sealed under another key, so nothing of it is of use.
                Ok(None) => return Ok(None),
                Err(Stopped::Shutdown) => return Err(Stopped::Shutdown),
                Err(stopped) => {
                    tracing::warn!(workload = %self.context.workload, ?stopped,
                        "the tree of the head could not be read, and everything is stored again");
                    return Ok(None);
                }
            },
        };
        if self.has_packs(&ground.base.root.packs).await? { Ok(Some(ground)) } else { Ok(None) }
    }

    /// The tree of the head as the store has it, for a provider that does not remember it.
    async fn fetched_ground(
        &self,
        head: &Manifest,
        keys: &Keys,
    ) -> Result<Option<Ground>, Stopped> {
        let stage = Stage::Upload;
        let root = self.context.fetch_root(head.blob, head.blob_bytes(), stage).await?;
        let root = match root.open(keys) {
            Ok(root) => root,
            Err(RootFault::Seal) => return Ok(None),
            Err(fault) => return Err(Stopped::at(stage, &fault)),
        };
        let manifest = self.context.fetch_manifest(&root, keys, stage).await?;
        let base = Base { root, manifest: manifest.path().to_owned(), seen: None };
        Ok(Some(Ground { base, fetched: Some(manifest) }))
    }

    /// Whether the store has every pack of a root.
    pub(super) async fn has_packs(
        &self,
        packs: &BTreeMap<PackNumber, StoredPack>,
    ) -> Result<bool, Stopped> {
        for pack in packs.values() {
            if self.size_of(pack.id).await? != Some(u64::from(pack.size)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn tree_facts(
    at: Timestamp,
    roots: &[crate::core::path::ContainerPath],
    packed: &Packed,
    walked: Walked,
    encryption: Encryption,
    downtime_ms: Option<u64>,
) -> CaptureFacts {
    let Walked { tree, skipped } = walked;
    Facts { at, roots, tree, skipped, encryption, downtime_ms }.of(
        ArchiveFormat::Tree,
        packed.blob,
        packed.stored_bytes,
        Some(packed.root_bytes),
    )
}
