//! Captures that read the volumes while the app writes to them.

use std::sync::Arc;

use belay_protocol::control::Stage;
use belay_protocol::record::Capture;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::capturing::Facts;
use super::packing::{TreeForm, finish};
use crate::context::{Stopped, blocking_beside};
use crate::core::path::ContainerPath;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::state::CaptureFacts;
use crate::volume::Volumes;
use crate::window::{OfflineWindow, WindowPurpose};

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Reads the tree beside the running app, and once more what changed under the reading.
    pub(super) async fn capture_live(
        &mut self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
        form: TreeForm,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let window = self.open_window(WindowPurpose::Beside).await?;
        self.context.show("capturing");
        let at = Timestamp::now();
        let (layout, all) = (layout.clone(), roots.to_vec());
        let spool = self.context.spool.clone();
        let workload = Arc::clone(&self.context);
        let encryption = form.encryption;
        let captured = blocking_beside(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&layout).map_err(|error| fail(&error))?;
            let (mut packing, _fetched) = form.begin(&spool, &volumes, Stage::ArchiveBuild)?;
            let (walked, unsteady) =
                packing.capture_live(&volumes, &all).map_err(|error| fail(&error))?;
            if unsteady > 0 {
                tracing::info!(workload = %workload.workload, files = unsteady,
                    "files kept changing while they were read");
            }
            reached(Point::Captured);
            // As it is remembered it must be on the disk.
            for volume in &volumes.all {
                volume.private.sync_file_system().map_err(|error| fail(&error))?;
            }
            let (name, packed) = finish(packing)?;
            Ok((name, packed, walked))
        })
        .await;
        self.close_capture_window(window).await;
        let (name, packed, walked) = captured?;
        let facts = Facts {
            at,
            roots,
            tree: walked.tree,
            skipped: walked.skipped,
            encryption,
            capture: Capture::Live,
        };
        Ok((name, facts.of_tree(&packed)))
    }
}
