//! Everything that is done before the container is stopped.

use std::collections::BTreeSet;
use std::io::{BufReader, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};

use belay_protocol::control::Stage;
use belay_protocol::record::ArchiveFormat;
use belay_store::{BlobStore, RecordStore};
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::Consumer;
use crate::archive::{ArchiveReader, ReadError};
use crate::commit;
use crate::context::{Failure, Stopped, blocking};
use crate::core::apply::{Unit, units};
use crate::core::ownership::OwnershipPolicy;
use crate::core::record::AcceptedRecord;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::sealing::SealingError;
use crate::sharing::{Sharer, Sharing};
use crate::stage::{STAGING_PREFIX, StageError, Staged, Staging, check_room, stage};
use crate::state::StateDir;
use crate::volume::Volumes;
use crate::window::OfflineWindow;

/// Bytes of an archive beyond its contents: headers, before compression, for each entry.
const HEADERS_MAX: u64 = 4_096;

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Fetches and stages a record's tree; the container runs on.
    pub(super) async fn prepare(
        &self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        sharing: Sharing,
    ) -> Result<Staged, Stopped> {
        let context = &self.context;
        context.show("downloading");
        let (room_layout, room_accepted) = (layout.clone(), accepted.clone());
        let spool = context.spool.clone();
        blocking(Stage::Validation, move || {
            check_bounds(&room_layout, &room_accepted, &spool, sharing)
        })
        .await?;
        match accepted.record.manifest.archive_format {
            ArchiveFormat::TarGz if context.spec.sealing.is_some() => {
                Err(Stopped::at(Stage::Validation, &SealingError::NotSealed))
            }
            ArchiveFormat::TarGz => self.prepare_archive(layout, accepted, sharing).await,
            ArchiveFormat::Tree => self.prepare_tree(layout, accepted, sharing).await,
        }
    }

    async fn prepare_archive(
        &self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        sharing: Sharing,
    ) -> Result<Staged, Stopped> {
        let context = &self.context;
        let archive = context.fetch_archive(&accepted.record, Stage::Download).await?;
        reached(Point::Downloaded);

        context.show("staging");
        let (layout, accepted) = (layout.clone(), accepted.clone());
        let (state, policy) = (context.state.clone(), context.spec.ownership);
        blocking(Stage::Extract, move || {
            stage_blocking(
                &layout,
                &state,
                &accepted,
                sharing,
                |volumes, units, directory, sharing| {
                    let io = |error| StageError::Read(ReadError::Io(error));
                    let mut file = archive.file.try_clone().map_err(io)?;
                    file.seek(SeekFrom::Start(0)).map_err(io)?;
                    let file = BufReader::with_capacity(256 * 1024, file);
                    let mut source = ArchiveReader::new(MultiGzDecoder::new(file));
                    let how = Staging { sharer: Sharer::new(sharing, None), policy };
                    stage(volumes, units.to_vec(), &accepted, &mut source, directory, how)
                },
            )
        })
        .await
    }
}

/// Whether every volume the record touches says that it holds this content, with owners and set-id
/// bits as `policy` has them.
pub(super) fn is_applied(
    layout: &SyncLayout,
    accepted: &AcceptedRecord,
    policy: OwnershipPolicy,
) -> Result<bool, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    let mut untouched = BTreeSet::new();
    let mut unmarked = BTreeSet::new();
    for unit in units {
        let volume = &volumes.all[unit.mount];
        let mark = volume.mark().map_err(|error| fail(&error))?;
        match mark {
            Some(mark)
                if mark.cid == accepted.record.cid
                    && mark.key == accepted.record.key
                    && mark.ownership.is_none_or(|settled| settled.policy == policy) =>
            {
                untouched.extend(mark.untouched);
            }
            _ => {
                unmarked.insert(volume.name.clone());
            }
        }
    }
    Ok(unmarked.is_subset(&untouched))
}

fn record_units(volumes: &Volumes, accepted: &AcceptedRecord) -> Result<Vec<Unit>, Stopped> {
    units(&accepted.roots, &volumes.mounts)
        .map_err(|reason| Stopped::because(Stage::Validation, reason))
}

/// Refuses what cannot fit or cannot be true, before anything is fetched.
fn check_bounds(
    layout: &SyncLayout,
    accepted: &AcceptedRecord,
    spool: &crate::spool::Spool,
    sharing: Sharing,
) -> Result<(), Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    let manifest = &accepted.record.manifest;
    check_room(&volumes, &units, manifest, sharing).map_err(|error| fail(&error))?;
    if manifest.archive_format == ArchiveFormat::Tree {
        // How much of it must be fetched is known when its manifest is.
        return Ok(());
    }
    let headers = manifest.members.saturating_mul(HEADERS_MAX);
    let most = manifest.content_bytes.saturating_add(headers).saturating_add(1 << 20);
    if manifest.archive_size_bytes > most {
        let reason = format!(
            "an archive of {} bytes is more than {} bytes in {} entries can take",
            manifest.archive_size_bytes, manifest.content_bytes, manifest.members
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    let room = spool.room().map_err(|error| fail(&error))?;
    if manifest.archive_size_bytes > room {
        let reason = format!(
            "the archive has {} bytes and the host's state directory has {room} to spare",
            manifest.archive_size_bytes
        );
        // The content is not to blame for it.
        return Err(Stopped::Unreachable(Failure::new(Stage::Validation, reason)));
    }
    Ok(())
}

/// Stages a tree by `build`, which is given the volumes, where each part of the tree goes, a name
/// for the directories in which it is staged, and whether it may share files; if one of those was
/// changed meanwhile, once more without.
pub(super) fn stage_blocking(
    layout: &SyncLayout,
    state: &StateDir,
    accepted: &AcceptedRecord,
    sharing: Sharing,
    mut build: impl FnMut(&Volumes, &[Unit], &str, Sharing) -> Result<Staged, StageError>,
) -> Result<Staged, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Extract, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    // What an earlier attempt left takes room that this one needs.
    let kept = commit::kept(state).map_err(|error| fail(&error))?;
    commit::sweep(&volumes, &kept).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    let directory = || format!("{STAGING_PREFIX}{}-{}", accepted.record.cid.short(), nonce());
    let mut staged = build(&volumes, &units, &directory(), sharing);
    if let Err(StageError::Shared(changed)) = &staged {
        tracing::info!(%changed, "every file of the new state is written");
        commit::sweep(&volumes, &kept).map_err(|error| fail(&error))?;
        staged = build(&volumes, &units, &directory(), Sharing::Nothing);
    }
    let staged = staged
        .map_err(|error| {
            // What was fetched is verified when it is used.
            let is_chunk = matches!(error, StageError::Chunk { .. });
            Stopped::at(if is_chunk { Stage::Download } else { Stage::Extract }, &error)
        })
        // A look at every place now finds what would fail after the stop.
        .and_then(|staged| {
            commit::plan(&volumes, &staged).map_err(|error| Stopped::at(Stage::Commit, &error))?;
            Ok(staged)
        });
    if staged.is_err()
        && let Err(error) = commit::sweep(&volumes, &kept)
    {
        tracing::warn!(%error, "a staged tree could not be cleared away");
    }
    staged
}

/// No two attempts share a name, so that what one left is never taken for what another made.
fn nonce() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count:x}", Timestamp::now().as_nanosecond(), std::process::id())
}
