//! The state that a capture reads at leisure: clones of the volumes, taken at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::VolumeName;
use belay_protocol::control::Stage;
use belay_protocol::record::Capture;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use crate::clones::{App, CloneAnswer, CloneRefused};
use crate::context::Stopped;
use crate::core::path::ContainerPath;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::packing::clock;
use crate::volume::mount_table;
use crate::window::{OfflineWindow, WindowPurpose};

/// Longest wait for what concerns clones. A freeze ends by itself long before.
const CLONE_PATIENCE: Duration = Duration::from_secs(30);

/// Volumes as they were at one moment.
pub(super) struct Moment {
    /// The workload, with clones in the place of the volumes that are captured.
    pub(super) layout: SyncLayout,
    cloned: Vec<VolumeName>,
    /// When, to be told.
    pub(super) at: Timestamp,
    /// No later than the moment, by the clock that dates files.
    pub(super) since: i128,
    pub(super) capture: Capture,
}

impl Moment {
    /// A state that lies in the volumes of `layout`, which no app knows of.
    pub(super) fn of_import(layout: SyncLayout) -> Self {
        Self {
            layout,
            cloned: Vec::new(),
            at: Timestamp::now(),
            since: clock(),
            capture: Capture::Imported,
        }
    }
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Says whether the volumes that these paths reach can be kept at one moment; if not, why.
    pub(super) async fn may_keep(
        &self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
    ) -> Result<Result<Vec<VolumeName>, String>, Stopped> {
        let reached = volumes_of(layout, roots)?;
        let prepared = patiently(layout.clones.prepare(reached.clone())).await;
        Ok(prepared.map(|()| reached).map_err(|refused| refused.reason))
    }

    /// Keeps these volumes as they are at one moment: between a stop and a start, or beside the
    /// running app. If that cannot be done, says why.
    pub(super) async fn keep_moment(
        &mut self,
        layout: &SyncLayout,
        volumes: Vec<VolumeName>,
        capture: Capture,
    ) -> Result<Result<Moment, String>, Stopped> {
        let context = Arc::clone(&self.context);
        let (window, app) = match capture {
            Capture::Stopped => (self.open_capture_window().await?, App::Stopped),
            Capture::Atomic | Capture::Live | Capture::Imported => {
                (self.open_window(WindowPurpose::Beside).await?, App::Runs)
            }
        };
        context.show("capturing");
        let (at, since, began) = (Timestamp::now(), clock(), Instant::now());
        let taken = patiently(layout.clones.take(volumes.clone(), app)).await;
        tracing::debug!(workload = %context.workload, took = ?began.elapsed(), "clones were asked for");
        reached(Point::Cloned);
        self.close_capture_window(window).await;
        let opened = match taken {
            Ok(()) => opened(layout, &volumes).await,
            Err(refused) => Err(refused),
        };
        match opened {
            Ok(layout) => {
                let cloned = volumes;
                Ok(Ok(Moment { layout, cloned, at, since, capture }))
            }
            Err(refused) => {
                self.discard_clones(layout, &volumes).await;
                Ok(Err(refused.reason))
            }
        }
    }

    /// Lets go of what was kept.
    pub(super) async fn release(&self, moment: Moment) {
        self.discard_clones(&moment.layout, &moment.cloned).await;
    }

    async fn discard_clones(&self, layout: &SyncLayout, volumes: &[VolumeName]) {
        for volume in volumes {
            if let Err(error) = patiently(layout.clones.discard(volume.clone())).await {
                // The next capture lets go of it, or the next start of the daemon.
                tracing::warn!(workload = %self.context.workload, %volume, %error,
                    "the clone of a volume could not be given back");
            }
        }
    }
}

/// The volumes that hold what is at or below these paths.
fn volumes_of(layout: &SyncLayout, roots: &[ContainerPath]) -> Result<Vec<VolumeName>, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let mounts = mount_table(layout).map_err(|error| fail(&error))?;
    let mut indexes = std::collections::BTreeSet::new();
    for root in roots {
        indexes.insert(mounts.resolve(root).map_err(|error| fail(&error))?.mount);
        indexes.extend(mounts.nested(root).into_iter().map(|(mount, _)| mount));
    }
    Ok(indexes.into_iter().map(|index| layout.mounts[index].volume.clone()).collect())
}

/// The layout with clones in the place of these volumes.
async fn opened(layout: &SyncLayout, volumes: &[VolumeName]) -> Result<SyncLayout, CloneRefused> {
    let mut opened = layout.clone();
    for mount in &mut opened.mounts {
        if volumes.contains(&mount.volume) {
            mount.data = patiently(layout.clones.open(mount.volume.clone())).await?;
        }
    }
    Ok(opened)
}

async fn patiently<T>(answer: CloneAnswer<T>) -> Result<T, CloneRefused> {
    tokio::time::timeout(CLONE_PATIENCE, answer).await.unwrap_or_else(|_| {
        let reason = "the clones of its volumes did not come in time".to_owned();
        Err(CloneRefused { reason })
    })
}
