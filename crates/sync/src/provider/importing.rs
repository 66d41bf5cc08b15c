//! Publishes an archive that an operator gives, in the place of what the volumes hold.

use belay_protocol::control::{AppRequest, Stage};
use belay_protocol::record::RuntimeWishes;
use belay_protocol::{ProblemCode, PublishOutcome};
use belay_store::{BlobStore, RecordStore};
use serde_json::Map;

use super::Provider;
use super::moment::Moment;
use crate::command::PublishError;
use crate::context::{Stopped, blocking};
use crate::failpoint::{Point, reached};
use crate::importing::{UnpackError, Unpacked, unpack};
use crate::layout::SyncLayout;
use crate::state::{CaptureFacts, Origin, PublishStep};
use crate::upload::Upload;
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Publishes what an archive holds. Until all of it is captured nothing is written down: a
    /// process that ends before leaves nothing, and one that ends after leaves a publish.
    pub(crate) async fn import(
        &mut self,
        layout: &SyncLayout,
        archive: Upload,
    ) -> Result<PublishOutcome, PublishError> {
        if !self.settle(layout).await {
            return Err(PublishError::Busy);
        }
        let captured = self.capture_import(layout, archive).await;
        let (spool, capture) = captured.map_err(|stopped| {
            self.context.show_rest();
            if let Stopped::Failed(failure) | Stopped::Unreachable(failure) = &stopped {
                self.context.show_failure(failure);
            }
            PublishError::from(stopped)
        })?;
        let request = AppRequest {
            archive_paths: capture.roots.clone(),
            metadata: Map::new(),
            runtime: RuntimeWishes::default(),
            request_id: None,
        };
        let mut journal = self.new_journal(Origin::Import, request);
        journal.step = PublishStep::Captured { spool, capture };
        Ok(self.work(layout, journal).await?)
    }

    async fn capture_import(
        &self,
        layout: &SyncLayout,
        archive: Upload,
    ) -> Result<(String, CaptureFacts), Stopped> {
        self.context.show("validating");
        self.publisher(Stage::Validation).await?;
        self.look_who_publishes().await?;
        let form = self.form().await?;
        self.context.show("unpacking");
        let Unpacked { layout, roots, skipped, scratch } = self.unpack(layout, archive).await?;
        reached(Point::Unpacked);
        let captured = self.capture_kept(&Moment::of_import(layout), &roots, form).await;
        let removed = blocking(Stage::ArchiveBuild, move || {
            drop(scratch);
            Ok(())
        });
        removed.await?;
        let (spool, mut facts) = captured?;
        (facts.skipped, facts.skipped_count) = (skipped.named, skipped.count);
        Ok((spool, facts))
    }

    async fn unpack(&self, layout: &SyncLayout, archive: Upload) -> Result<Unpacked, Stopped> {
        let (layout, spool) = (layout.clone(), self.context.spool.clone());
        let shutdown = self.context.shutdown.clone();
        blocking(Stage::Validation, move || {
            let scratch = spool.create_dir().map_err(UnpackError::Spool);
            let unpacked = scratch.and_then(|scratch| {
                unpack(archive.into_file(), &layout, scratch, || shutdown.is_cancelled())
            });
            unpacked.map_err(|error| match error {
                UnpackError::Ending => Stopped::Shutdown,
                error if error.is_of_the_archive() => Stopped::coded(
                    Stage::Validation,
                    ProblemCode::ImportRefused,
                    format!("the archive is refused: {}", error.in_words()),
                ),
                error => Stopped::because(Stage::Validation, error.in_words()),
            })
        })
        .await
    }
}
