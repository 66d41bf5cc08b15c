//! Captures in the `tree` format: what they build on, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_packs::{Keys, PackNumber};
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Capture, Encryption, Manifest, SyncRecord};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::bases::StoredBases;
use super::capturing::Facts;
use super::moment::Moment;
use crate::context::{Stopped, blocking, blocking_beside};
use crate::core::path::ContainerPath;
use crate::core::root::{Root, RootFault, StoredPack};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::packing::{Base, BaseContents, Packed, Packing, Walked};
use crate::remembered::{MANIFEST, SEEN};
use crate::sealing::Seal;
use crate::spool::{Spool, Spooled};
use crate::state::CaptureFacts;
use crate::volume::Volumes;
use crate::window::OfflineWindow;

/// The form in which a capture is made.
pub(super) enum Form {
    Archive,
    Tree(Box<TreeForm>),
}

/// What a capture of a tree needs beside the volumes.
pub(super) struct TreeForm {
    pub(super) seal: Seal,
    pub(super) encryption: Encryption,
    ground: Option<Ground>,
}

impl TreeForm {
    /// The head, if it is a publish of which is remembered what its files looked like.
    pub(super) fn remembered_head(&self) -> Option<&SyncRecord> {
        let ground = self.ground.as_ref().filter(|ground| ground.base.seen.is_some())?;
        Some(&ground.head)
    }

    /// Begins a capture in the spool, and returns the file that what it builds on needs while it
    /// lasts.
    pub(super) fn begin(
        self,
        spool: &Spool,
        volumes: &Volumes,
        stage: Stage,
    ) -> Result<(Packing, Option<Spooled>), Stopped> {
        let Self { seal, ground, .. } = self;
        let dir = spool.create_dir().map_err(|error| Stopped::at(stage, &error))?;
        let (base, fetched) =
            ground.map_or((None, None), |ground| (Some(ground.base), ground.fetched));
        let packing = Packing::begin(seal, dir, volumes, base);
        Ok((packing.map_err(|error| Stopped::at(stage, &error))?, fetched))
    }
}

/// Ends a capture. What it made outlives this process under the name that is returned.
pub(super) fn finish(packing: Packing) -> Result<(String, Packed), Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
    let mut packed = packing.finish().map_err(|error| fail(&error))?;
    let name = packed.dir.keep().map_err(|error| fail(&error))?;
    Ok((name, packed))
}

/// What a capture builds on.
struct Ground {
    base: Base,
    /// The file of its manifest, if that was fetched; it goes with this.
    fetched: Option<Spooled>,
    /// The record that names it.
    head: Box<SyncRecord>,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// The form in which this workload is published, with all that can be fetched and judged for it
    /// while the app runs.
    pub(super) async fn form(&self) -> Result<Form, Stopped> {
        match self.context.spec.format {
            ArchiveFormat::TarGz => Ok(Form::Archive),
            ArchiveFormat::Tree => {
                let seal = self.seal().await?;
                let is_open = seal.envelopes.is_empty();
                let encryption = if is_open { Encryption::None } else { Encryption::Members };
                let ground = self.ground(&seal.keys).await?;
                Ok(Form::Tree(Box::new(TreeForm { seal, encryption, ground })))
            }
        }
    }

    /// Reads a tree that stands still.
    pub(super) async fn tree_of(
        &self,
        moment: &Moment,
        roots: &[ContainerPath],
        form: TreeForm,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let Moment { at, since, capture, .. } = *moment;
        let (layout, all) = (moment.layout.clone(), roots.to_vec());
        let spool = self.context.spool.clone();
        let encryption = form.encryption;
        let captured = blocking_beside(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&layout).map_err(|error| fail(&error))?;
            let (mut packing, _fetched) = form.begin(&spool, &volumes, Stage::ArchiveBuild)?;
            let walked =
                packing.capture_kept(&volumes, &all, since).map_err(|error| fail(&error))?;
            reached(Point::Captured);
            let (name, packed) = finish(packing)?;
            Ok((name, packed, walked))
        });
        let (name, packed, Walked { tree, skipped }) = captured.await?;
        let facts = Facts { at, roots, tree, skipped, encryption, capture };
        Ok((name, facts.of_tree(&packed)))
    }

    /// Reads the tree while the app runs, then what changed since while it is stopped. The window
    /// closes as soon as that is read.
    pub(super) async fn capture_tree(
        &mut self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
        form: TreeForm,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let context = Arc::clone(&self.context);
        let encryption = form.encryption;
        context.show("reading");
        let (look_layout, look_roots) = (layout.clone(), roots.to_vec());
        let spool = context.spool.clone();
        let packing = blocking_beside(Stage::Validation, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
            let volumes = Volumes::open(&look_layout).map_err(|error| fail(&error))?;
            let (mut packing, fetched) = form.begin(&spool, &volumes, Stage::Validation)?;
            packing.look(&volumes, &look_roots).map_err(|error| fail(&error))?;
            Ok((packing, fetched))
        });
        let (mut packing, fetched) = packing.await?;

        let window = self.open_capture_window().await?;
        context.show("capturing");
        let at = Timestamp::now();
        let (capture_layout, capture_roots) = (layout.clone(), roots.to_vec());
        let walked = blocking(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&capture_layout).map_err(|error| fail(&error))?;
            let walked = packing.capture(&volumes, &capture_roots).map_err(|error| fail(&error))?;
            reached(Point::Captured);
            Ok((packing, walked, volumes))
        })
        .await;
        drop(fetched);
        self.close_capture_window(window).await;
        let (packing, walked, volumes) = walked?;
        let finished = blocking_beside(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            // A power cut can leave a file its new date and its old content. What is remembered
            // by its date must be on the disk before that.
            for volume in &volumes.all {
                volume.private.sync_file_system().map_err(|error| fail(&error))?;
            }
            let (name, packed) = finish(packing)?;
            Ok((name, packed, walked))
        });
        let (name, packed, Walked { tree, skipped }) = finished.await?;
        let capture = Capture::Stopped;
        let facts = Facts { at, roots, tree, skipped, encryption, capture };
        Ok((name, facts.of_tree(&packed)))
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
        let manifest = &head.manifest;
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
                let contents = self.contents(&root, keys);
                let base = Base { root, manifest, seen, contents };
                Ground { base, fetched: None, head: Box::new(head) }
            }
            None => match self.fetched_ground(&head, keys).await {
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
        head: &SyncRecord,
        keys: &Keys,
    ) -> Result<Option<Ground>, Stopped> {
        let stage = Stage::Upload;
        let Manifest { blob, .. } = head.manifest;
        let root = self.context.fetch_root(blob, head.manifest.blob_bytes(), stage).await?;
        let root = match root.open(keys) {
            Ok(root) => root,
            Err(RootFault::Seal) => return Ok(None),
            Err(fault) => return Err(Stopped::at(stage, &fault)),
        };
        let manifest = self.context.fetch_manifest(&root, keys, stage).await?;
        let contents = self.contents(&root, keys);
        let base = Base { root, manifest: manifest.path().to_owned(), seen: None, contents };
        Ok(Some(Ground { base, fetched: Some(manifest), head: Box::new(head.clone()) }))
    }

    /// What the chunks of a stored tree contain.
    fn contents(&self, root: &Root, keys: &Keys) -> Box<dyn BaseContents> {
        Box::new(StoredBases::new(Arc::clone(&self.context), root.clone(), keys))
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
