//! The capture: what the container is stopped for.

use std::sync::Arc;
use std::time::Instant;

use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Encryption};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use crate::capture::{Captured, Skipped, capture, survey};
use crate::context::{Stopped, blocking, millis};
use crate::core::path::{ContainerPath, minimal};
use crate::core::tree::TreeSummary;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::state::{CaptureFacts, PublishJournal};
use crate::volume::{Volumes, mount_table};
use crate::window::{
    FoundState, OfflineWindow, Require, Window, WindowClosed, WindowOutcome, WindowPurpose,
    WindowRefused,
};

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Captures in the form that is asked for. What is captured lies in the spool under the name
    /// that is returned.
    pub(super) async fn capture(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
    ) -> Result<(String, CaptureFacts), Stopped> {
        match self.context.spec.format {
            ArchiveFormat::TarGz => self.capture_archive(layout, journal).await,
            ArchiveFormat::Tree => self.capture_tree(layout, journal).await,
        }
    }

    /// Validates while the app runs, then captures while it is stopped. The window closes as soon
    /// as the archive is in the spool.
    async fn capture_archive(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let context = Arc::clone(&self.context);
        context.show("validating");
        let paths = journal.request.archive_paths.clone();
        let (look_layout, spool) = (layout.clone(), context.spool.clone());
        let roots =
            blocking(Stage::Validation, move || validate(&look_layout, &paths, &spool)).await?;

        let window = self.open_capture_window().await?;
        context.show("capturing");
        let at = Timestamp::now();
        let (capture_layout, capture_roots) = (layout.clone(), roots.clone());
        let spool = context.spool.clone();
        let captured = blocking(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&capture_layout).map_err(|error| fail(&error))?;
            let spooled = spool.create().map_err(|error| fail(&error))?;
            let captured =
                capture(&volumes, &capture_roots, &spooled.file).map_err(|error| fail(&error))?;
            reached(Point::Captured);
            Ok((spooled, captured))
        })
        .await;
        let kept = async {
            let (mut spooled, captured) = captured?;
            blocking(Stage::ArchiveBuild, move || {
                let name =
                    spooled.keep().map_err(|error| Stopped::at(Stage::ArchiveBuild, &error))?;
                Ok((name, captured))
            })
            .await
        };
        // The archive is made durable while the container is coming up again.
        let (downtime_ms, kept) = tokio::join!(self.close_capture_window(window), kept);
        reached(Point::WindowClosed);
        let (name, Captured { tree, blob, size, skipped }) = kept?;
        let encryption = Encryption::None;
        let facts = Facts { at, roots: &roots, tree, skipped, encryption, downtime_ms };
        Ok((name, facts.of(ArchiveFormat::TarGz, blob, size, None)))
    }

    pub(super) async fn open_capture_window(&mut self) -> Result<Window, Stopped> {
        self.context.show("stopping");
        let window = self.open_window(WindowPurpose::Publish { require: Require::Any }).await?;
        reached(Point::WindowOpened);
        self.last_capture = Some(Instant::now());
        Ok(window)
    }

    /// Closes the window and returns for how many milliseconds the container was down.
    pub(super) async fn close_capture_window(&self, window: Window) -> Option<u64> {
        let closed = close(window, &self.context.spec).await?;
        (closed.found == FoundState::Running).then(|| millis(closed.downtime))
    }

    async fn open_window(&self, purpose: WindowPurpose) -> Result<Window, Stopped> {
        let opening = self.context.window.open(purpose);
        let timed = tokio::time::timeout(self.context.spec.window_timeout, opening);
        tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => Err(Stopped::Shutdown),
            opened = timed => match opened {
                Ok(Ok(window)) => Ok(window),
                // The journal takes it up again after the next start.
                Ok(Err(WindowRefused::ShuttingDown)) => Err(Stopped::Shutdown),
                Ok(Err(refused)) => Err(Stopped::at(Stage::RuntimeStop, &refused)),
                Err(_) => Err(Stopped::because(
                    Stage::RuntimeStop,
                    "the container did not stop in time",
                )),
            },
        }
    }
}

/// The declared paths, in order, if this workload has them.
pub(super) fn resolve(
    layout: &SyncLayout,
    paths: &[String],
) -> Result<Vec<ContainerPath>, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let mounts = mount_table(layout).map_err(|error| fail(&error))?;
    let mut roots = Vec::new();
    for path in paths {
        let path = ContainerPath::parse(path).map_err(|error| fail(&error))?;
        mounts.resolve(&path).map_err(|error| fail(&error))?;
        roots.push(path);
    }
    Ok(minimal(roots))
}

/// Everything that can be known before the container is stopped.
fn validate(
    layout: &SyncLayout,
    paths: &[String],
    spool: &crate::spool::Spool,
) -> Result<Vec<ContainerPath>, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let roots = resolve(layout, paths)?;
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let found = survey(&volumes, &roots).map_err(|error| fail(&error))?;
    // Headers take at most a few blocks each and compress well; content may not compress at all.
    let needed = found.content.saturating_add(found.members.saturating_mul(2_048));
    let room = spool.room().map_err(|error| fail(&error))?;
    if needed > room {
        let reason = format!(
            "the archive may take {needed} bytes and the host's state directory has {room} to spare"
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    Ok(roots)
}

async fn close(window: Window, spec: &crate::layout::SyncSpec) -> Option<WindowClosed> {
    let closing = window.close(WindowOutcome::Unchanged);
    // Stop and readiness have a budget each.
    match tokio::time::timeout(spec.window_timeout * 2, closing).await {
        Ok(Ok(closed)) => Some(closed),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the window was not answered");
            None
        }
        Err(_) => {
            tracing::warn!("the window was not answered in time");
            None
        }
    }
}

/// What a capture came to, in whatever form.
pub(super) struct Facts<'f> {
    pub(super) at: Timestamp,
    pub(super) roots: &'f [ContainerPath],
    pub(super) tree: TreeSummary,
    pub(super) skipped: Skipped,
    pub(super) encryption: Encryption,
    pub(super) downtime_ms: Option<u64>,
}

impl Facts<'_> {
    pub(super) fn of(
        self,
        format: ArchiveFormat,
        blob: Cid,
        archive_size_bytes: u64,
        root_bytes: Option<u64>,
    ) -> CaptureFacts {
        CaptureFacts {
            at: self.at,
            roots: self.roots.iter().map(ToString::to_string).collect(),
            cid: self.tree.cid,
            members: self.tree.members,
            content_bytes: self.tree.content,
            format,
            encryption: self.encryption,
            blob,
            archive_size_bytes,
            root_bytes,
            skipped: self.skipped.named,
            skipped_count: self.skipped.count,
            downtime_ms: self.downtime_ms,
        }
    }
}
