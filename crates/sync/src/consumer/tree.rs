//! Preparation in the `tree` format: fetch what the volumes lack, stage from both.

use std::{fs, io};

use belay_packs::ChunkRef;
use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_store::{BlobStore, RecordStore};

use super::Consumer;
use super::preparation::stage_blocking;
use crate::assembly::{Assembly, Present, examine};
use crate::context::{Failure, Stopped, blocking};
use crate::core::apply::{Unit, units};
use crate::core::path::ContainerPath;
use crate::core::record::AcceptedRecord;
use crate::durable;
use crate::failpoint::{Point, reached};
use crate::fetching::Frames;
use crate::layout::SyncLayout;
use crate::looks::{self, Known, StagedFiles};
use crate::manifest_file::ManifestError;
use crate::manifest_pieces::HeldPieces;
use crate::sealing::keys_of;
use crate::sharing::{Sharer, Sharing};
use crate::spool::{Spool, Spooled};
use crate::stage::{StageError, Staged, Staging, stage};
use crate::state::StateDir;
use crate::volume::Volumes;
use crate::window::OfflineWindow;

const STAGED_MANIFEST: &str = "staged";
const APPLIED_MANIFEST: &str = "applied";
/// Beside the manifests: everything in their directory is one.
const LOOKS: &str = "applied-looks";

/// Times that a tree is staged from what the volumes hold. An app that keeps changing what it was
/// given must not keep the tree from being staged: after these everything is fetched.
const FROM_PRESENT: u32 = 3;

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Fetches what the present state lacks of a record's tree, and stages it.
    pub(super) async fn prepare_tree(
        &self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        sharing: Sharing,
    ) -> Result<Staged, Stopped> {
        let context = &self.context;
        let facts = &accepted.record.manifest;
        let root = context.fetch_root(facts.blob, facts.blob_bytes(), Stage::Download).await?;
        let sealing = context.spec.sealing.clone();
        let (root, keys) = blocking(Stage::Validation, move || {
            let keys = keys_of(sealing.as_ref(), &root);
            let keys = keys.map_err(|error| Stopped::at(Stage::Validation, &error))?;
            let root = root.open(&keys).map_err(|fault| {
                Stopped::because(Stage::Download, format!("the root is refused: {fault}"))
            })?;
            Ok((root, keys))
        })
        .await?;
        let (state, wanted, opening) = (context.state.clone(), root.manifest.clone(), keys.clone());
        let held = blocking(Stage::Download, move || {
            Ok(HeldPieces::read(&state.manifests(), &wanted, &opening))
        });
        let held = held.await?;
        let manifest = context.fetch_manifest_beside(held, &root, &keys, Stage::Download).await?;

        let (examined, judged, known) = (manifest, accepted.clone(), root.clone());
        let (state, spool) = (context.state.clone(), context.spool.clone());
        let (mut manifest, mut present, mut wanted) = blocking(Stage::Download, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Download, error);
            let present = Present::read(&state.manifests());
            let file = examined.file.try_clone().map_err(|error| fail(&error))?;
            let wanted = examine(file, &known, &judged, &present).map_err(|error| fail(&error))?;
            check_spool(&spool, &wanted)?;
            Ok((examined, present, wanted))
        })
        .await?;
        let mut frames = context.new_frames(Stage::Download).await?;
        for round in 1.. {
            frames = context.fetch_frames(&root, wanted, frames, Stage::Download).await?;
            reached(Point::Downloaded);
            context.show("staging");
            if round > FROM_PRESENT {
                present = Present::default();
            }
            let (layout, accepted) = (layout.clone(), accepted.clone());
            let (state, keys) = (context.state.clone(), keys.clone());
            let policy = context.spec.ownership;
            let staged = blocking(Stage::Extract, move || {
                let mut lost = Vec::new();
                let build = |volumes: &Volumes, units: &[Unit], name: &str, sharing| {
                    let file = manifest.file.try_clone().map_err(ManifestError::Io)?;
                    let mut assembly =
                        Assembly::new(file, &keys, &frames, &present, volumes, units)?;
                    let units = units.to_vec();
                    let sharer = Sharer::new(sharing, known_looks(&state, volumes));
                    let how = Staging { sharer, policy };
                    let staged = stage(volumes, units, &accepted, &mut assembly, name, how);
                    if let Err(StageError::Lost { .. }) = staged {
                        lost = assembly.lost();
                    }
                    staged
                };
                let staged = stage_blocking(&layout, &state, &accepted, sharing, build);
                match staged {
                    Ok(staged) => {
                        keep_manifest(&state, manifest);
                        Ok(Round::Staged(staged))
                    }
                    Err(_) if !lost.is_empty() => {
                        Ok(Round::Again { manifest, frames, present, lost })
                    }
                    Err(stopped) => Err(stopped),
                }
            });
            match staged.await? {
                Round::Staged(staged) => return Ok(staged),
                Round::Again { manifest: same, frames: fetched, present: before, lost } => {
                    (manifest, frames, present, wanted) = (same, fetched, before, lost);
                }
            }
        }
        unreachable!("a round without anything of the present state loses nothing")
    }
}

/// How one staging of a tree ended.
enum Round {
    Staged(Staged),
    /// These chunks were not where they had been.
    Again {
        manifest: Spooled,
        frames: Frames,
        present: Present,
        lost: Vec<ChunkRef>,
    },
}

fn check_spool(spool: &Spool, wanted: &[ChunkRef]) -> Result<(), Stopped> {
    let needed: u64 = wanted.iter().map(|chunk| u64::from(chunk.stored)).sum();
    let room = spool.room().map_err(|error| Stopped::at(Stage::Download, &error))?;
    if needed > room {
        let reason = format!(
            "{needed} bytes must be fetched and the host's state directory has {room} to spare"
        );
        // The content is not to blame for it.
        return Err(Stopped::Unreachable(Failure::new(Stage::Download, reason)));
    }
    Ok(())
}

/// Keeps the manifest of a staged tree, which says what the volumes hold once it is applied.
fn keep_manifest(state: &StateDir, manifest: Spooled) {
    let directory = state.manifests();
    let kept = durable::make_dir(&directory)
        .and_then(|()| manifest.move_to(&directory.join(STAGED_MANIFEST)));
    if let Err(error) = kept {
        tracing::warn!(%error, "a manifest could not be kept; the next apply fetches more");
    }
}

/// Notes that the tree which was staged last is what the volumes hold.
pub(super) fn manifest_applied(state: &StateDir) -> io::Result<()> {
    let directory = state.manifests();
    match fs::rename(directory.join(STAGED_MANIFEST), directory.join(APPLIED_MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// What is known of the files that were applied last.
fn known_looks(state: &StateDir, volumes: &Volumes) -> Option<Known> {
    Known::open(&state.manifests().join(APPLIED_MANIFEST), &state.path().join(LOOKS), volumes)
}

/// Remembers what the files of an applied tree look like.
pub(super) fn remember_looks(
    layout: &SyncLayout,
    state: &StateDir,
    record: &SyncRecord,
    staged: &StagedFiles,
) {
    let remembered = (|| {
        let volumes = Volumes::open(layout).map_err(io::Error::other)?;
        let roots = record.manifest.archive_paths.iter();
        let roots: Result<Vec<_>, _> = roots.map(|path| ContainerPath::parse(path)).collect();
        let roots = roots.map_err(io::Error::other)?;
        let units = units(&roots, &volumes.mounts).map_err(io::Error::other)?;
        let manifest = state.manifests().join(APPLIED_MANIFEST);
        looks::remember(&volumes, &units, &manifest, staged, &state.path().join(LOOKS))
            .map_err(io::Error::other)
    })();
    if let Err(error) = remembered {
        tracing::warn!(%error, "the next apply reads every file again");
    }
}
