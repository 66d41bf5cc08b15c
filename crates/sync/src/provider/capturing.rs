//! The capture: what the container is stopped or held back for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, Capture, Encryption, SyncRecord};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::moment::Moment;
use super::packing::Form;
use crate::capture::{Captured, Skipped, Survey, capture, survey};
use crate::context::{Stopped, blocking, blocking_beside, millis};
use crate::core::capturing::plan;
use crate::core::path::{ContainerPath, minimal};
use crate::core::tree::TreeSummary;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::packing::Packed;
use crate::spool::{Spool, Spooled};
use crate::state::{CaptureFacts, PublishJournal};
use crate::volume::{Volumes, mount_table};
use crate::window::{
    OfflineWindow, Require, Window, WindowClosed, WindowOutcome, WindowPurpose, WindowRefused,
};

/// Longest wait for the start of a container before what was captured of it is read.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

/// What is there to be published.
pub(super) enum Taken {
    /// It lies in the spool under this name.
    Spooled(String, CaptureFacts),
    /// This record says it already.
    Said(CaptureFacts, Box<SyncRecord>),
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Captures in the form that is asked for, beside the running app where that is permitted and
    /// wished, unless a look at the tree says that there is no need.
    pub(super) async fn capture(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
    ) -> Result<Taken, Stopped> {
        let context = Arc::clone(&self.context);
        context.show("validating");
        self.refuse_while_halted()?;
        let (paths, look_layout) = (journal.request.archive_paths.clone(), layout.clone());
        let roots = blocking(Stage::Validation, move || resolve(&look_layout, &paths)).await?;
        let form = self.form().await?;
        if let Some((facts, head)) = self.says_already(layout, journal, &roots, &form).await? {
            return Ok(Taken::Said(facts, Box::new(head)));
        }
        let plan = plan(context.spec.capture, journal.request.runtime.provider_capture);
        let kept = match self.may_keep(layout, &roots).await? {
            Ok(volumes) => {
                self.validate(layout, &roots, &form).await?;
                self.keep_moment(layout, volumes, plan.kept).await?
            }
            Err(reason) => Err(reason),
        };
        let reason = match kept {
            Ok(moment) => {
                let captured = self.capture_kept(&moment, &roots, form).await;
                self.release(moment).await;
                let (name, facts) = captured?;
                return Ok(Taken::Spooled(name, facts));
            }
            Err(reason) => reason,
        };
        tracing::debug!(workload = %context.workload, %reason, "captured without clones");
        let captured = match (plan.otherwise, form) {
            (Capture::Live, Form::Tree(form)) => self.capture_live(layout, &roots, *form).await,
            (_, Form::Tree(form)) => self.capture_tree(layout, &roots, *form).await,
            // An archive is written in one go, which takes a tree that stands still.
            (_, Form::Archive) => {
                self.validate(layout, &roots, &Form::Archive).await?;
                self.capture_archive(layout, &roots).await
            }
        };
        let (name, mut facts) = captured?;
        facts.fallback = (facts.capture != plan.kept).then_some(reason);
        Ok(Taken::Spooled(name, facts))
    }

    /// What a halt holds the workload for must not be published. A window that stops nothing would
    /// not say so for a container that is not running.
    fn refuse_while_halted(&self) -> Result<(), Stopped> {
        match self.context.state.halt() {
            Some(halt) => {
                let refused = WindowRefused::Halted { reason: halt.reason };
                Err(Stopped::at(Stage::RuntimeStop, &refused))
            }
            None => Ok(()),
        }
    }

    /// Looks over what is to be captured while the app runs. Nothing of it is read.
    async fn validate(
        &self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
        form: &Form,
    ) -> Result<(), Stopped> {
        let (layout, roots, spool) = (layout.clone(), roots.to_vec(), self.context.spool.clone());
        let takes_all = match form {
            Form::Archive => true,
            // Of a tree, what the store has is not stored again.
            Form::Tree(_) => false,
        };
        blocking(Stage::Validation, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
            let volumes = Volumes::open(&layout).map_err(|error| fail(&error))?;
            let found = survey(&volumes, &roots).map_err(|error| fail(&error))?;
            if takes_all { room(&found, &spool) } else { Ok(()) }
        })
        .await
    }

    /// Reads volumes that were kept. The app knows nothing of it.
    pub(super) async fn capture_kept(
        &self,
        moment: &Moment,
        roots: &[ContainerPath],
        form: Form,
    ) -> Result<(String, CaptureFacts), Stopped> {
        self.context.show("reading");
        match form {
            Form::Tree(form) => self.tree_of(moment, roots, *form).await,
            Form::Archive => {
                let reading = archive_of(&self.context.spool, &moment.layout, roots);
                let captured = blocking_beside(Stage::ArchiveBuild, reading).await?;
                let (name, captured) = self.keep_archive(captured).await?;
                let Moment { at, capture, .. } = *moment;
                Ok((name, archive_facts(at, roots, captured, capture)))
            }
        }
    }

    /// Captures an archive while the container is stopped. The window closes as soon as it is in
    /// the spool.
    async fn capture_archive(
        &mut self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
    ) -> Result<(String, CaptureFacts), Stopped> {
        let window = self.open_capture_window().await?;
        self.context.show("capturing");
        let at = Timestamp::now();
        let reading = archive_of(&self.context.spool, layout, roots);
        let captured = blocking(Stage::ArchiveBuild, reading).await;
        self.close_capture_window(window).await;
        let (name, captured) = self.keep_archive(captured?).await?;
        Ok((name, archive_facts(at, roots, captured, Capture::Stopped)))
    }

    async fn keep_archive(
        &self,
        (mut spooled, captured): (Spooled, Captured),
    ) -> Result<(String, Captured), Stopped> {
        blocking(Stage::ArchiveBuild, move || {
            let name = spooled.keep().map_err(|error| Stopped::at(Stage::ArchiveBuild, &error))?;
            Ok((name, captured))
        })
        .await
    }

    pub(super) async fn open_capture_window(&mut self) -> Result<Window, Stopped> {
        self.context.show("stopping");
        let window = self.open_window(WindowPurpose::Publish { require: Require::Any }).await?;
        reached(Point::WindowOpened);
        self.last_capture = Some(Instant::now());
        Ok(window)
    }

    /// Closes the window and returns once the container was started. What follows would hold the
    /// engine up before that, and goes on while the app gets ready.
    pub(super) async fn close_capture_window(&mut self, mut window: Window) {
        let context = Arc::clone(&self.context);
        let restart = window.restart();
        self.coming_up = Some(tokio::spawn(async move {
            let closed = close(window, &context.spec).await;
            reached(Point::WindowClosed);
            closed.filter(|closed| closed.found.ran()).map(|closed| millis(closed.downtime))
        }));
        let restarted = tokio::time::timeout(RESTART_PATIENCE, restart.done());
        tokio::select! {
            () = self.context.shutdown.cancelled() => {}
            // What was captured can be read whether the container runs or not.
            _ = restarted => {}
        }
    }

    /// Waits until the container of the last capture is up again, and returns for how many
    /// milliseconds it was down.
    pub(super) async fn came_up(&mut self) -> Option<u64> {
        let closing = self.coming_up.take()?;
        if !closing.is_finished() {
            self.context.show("starting");
        }
        closing.await.unwrap_or_else(|error| {
            tracing::error!(workload = %self.context.workload, %error, "a window was lost");
            None
        })
    }

    pub(super) async fn open_window(&mut self, purpose: WindowPurpose) -> Result<Window, Stopped> {
        // A capture before it may have been of no use.
        self.came_up().await;
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

/// Reads an archive of these paths into the spool.
fn archive_of(
    spool: &Spool,
    layout: &SyncLayout,
    roots: &[ContainerPath],
) -> impl FnOnce() -> Result<(Spooled, Captured), Stopped> + Send + use<> {
    let (spool, layout, roots) = (spool.clone(), layout.clone(), roots.to_vec());
    move || {
        let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
        let volumes = Volumes::open(&layout).map_err(|error| fail(&error))?;
        let spooled = spool.create().map_err(|error| fail(&error))?;
        let captured = capture(&volumes, &roots, &spooled.file).map_err(|error| fail(&error))?;
        reached(Point::Captured);
        Ok((spooled, captured))
    }
}

/// The declared paths, in order, if this workload has them.
fn resolve(layout: &SyncLayout, paths: &[String]) -> Result<Vec<ContainerPath>, Stopped> {
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

/// Refuses an archive that the spool may have no room for.
fn room(found: &Survey, spool: &Spool) -> Result<(), Stopped> {
    // Headers take at most a few blocks each and compress well; content may not compress at all.
    let needed = found.content.saturating_add(found.members.saturating_mul(2_048));
    let room = spool.room().map_err(|error| Stopped::at(Stage::Validation, &error))?;
    if needed > room {
        let reason = format!(
            "the archive may take {needed} bytes and the host's state directory has {room} to spare"
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    Ok(())
}

fn archive_facts(
    at: Timestamp,
    roots: &[ContainerPath],
    captured: Captured,
    capture: Capture,
) -> CaptureFacts {
    let Captured { tree, blob, size, skipped } = captured;
    let encryption = Encryption::None;
    let facts = Facts { at, roots, tree, skipped, encryption, capture };
    facts.of(ArchiveFormat::TarGz, blob, size, None)
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
    pub(super) capture: Capture,
}

impl Facts<'_> {
    fn of(
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
            owned: self.tree.owned,
            format,
            encryption: self.encryption,
            blob,
            archive_size_bytes,
            root_bytes,
            skipped: self.skipped.named,
            skipped_count: self.skipped.count,
            downtime_ms: None,
            capture: self.capture,
            fallback: None,
        }
    }

    pub(super) fn of_tree(self, packed: &Packed) -> CaptureFacts {
        self.of(ArchiveFormat::Tree, packed.blob, packed.stored_bytes, Some(packed.root_bytes))
    }
}
