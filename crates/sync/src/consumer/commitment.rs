//! The window: the staged tree takes its place, and what that came to.

use std::sync::Arc;

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::preparation::{check_bounds, stage_blocking};
use super::{Applied, Consumer};
use crate::commit::{self, CommitError};
use crate::context::{Stopped, blocking};
use crate::core::record::AcceptedRecord;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::stage::Staged;
use crate::state::{ApplyJournal, Halt};
use crate::volume::Volumes;
use crate::window::{
    FoundState, OfflineWindow, Ready, WindowOutcome, WindowPurpose, WindowRefused,
};

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Prepares while the app runs, then commits while it is stopped.
    pub(super) async fn apply(
        &self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
    ) -> Result<Applied, Stopped> {
        let context = Arc::clone(&self.context);
        let _lock =
            context
                .state
                .lock()
                .map_err(|error| Stopped::at(Stage::Validation, &error))?
                .ok_or_else(|| Stopped::because(Stage::Validation, "recovery is still at work"))?;
        context.show("downloading");
        let (room_layout, room_accepted) = (layout.clone(), accepted.clone());
        let spool = context.spool.clone();
        blocking(Stage::Validation, move || check_bounds(&room_layout, &room_accepted, &spool))
            .await?;
        let archive = self.download(&accepted.record).await?;
        reached(Point::Downloaded);

        context.show("staging");
        let (stage_layout, stage_accepted) = (layout.clone(), accepted.clone());
        let staged = blocking(Stage::Extract, move || {
            stage_blocking(&stage_layout, &stage_accepted, &archive)
        })
        .await?;
        reached(Point::Staged);

        context.show("stopping");
        let cid = accepted.record.cid;
        let opening = context.window.open(WindowPurpose::Apply { cid });
        let timed = tokio::time::timeout(context.spec.window_timeout, opening);
        let opened = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => Err(Stopped::Shutdown),
            opened = timed => match opened {
                Ok(Ok(window)) => Ok(window),
                Ok(Err(WindowRefused::ShuttingDown)) => Err(Stopped::Shutdown),
                Ok(Err(WindowRefused::Busy { reason })) => Err(Stopped::Later { reason }),
                Ok(Err(refused)) => Err(Stopped::at(Stage::RuntimeStop, &refused)),
                Err(_) => {
                    Err(Stopped::because(Stage::RuntimeStop, "the container did not stop in time"))
                }
            },
        };
        let mut window = match opened {
            Ok(window) => window,
            Err(stopped) => {
                self.sweep(layout).await;
                return Err(stopped);
            }
        };
        reached(Point::ApplyWindowOpened);
        context.show("committing");
        window.mutating();
        let (commit_layout, record) = (layout.clone(), accepted.record.clone());
        let committing = Arc::clone(&context);
        let committed = tokio::task::spawn_blocking(move || {
            commit_blocking(&commit_layout, &committing.state, &record, &staged)
        })
        .await
        .unwrap_or_else(|error| {
            Err(CommitError::Uncertain { reason: format!("the commit ended early: {error}") })
        });
        let outcome = match &committed {
            Ok(_) => WindowOutcome::Applied { cid },
            Err(CommitError::Unchanged { .. }) => WindowOutcome::Unchanged,
            Err(CommitError::Uncertain { reason }) => {
                self.halt(reason);
                WindowOutcome::Uncertain { reason: reason.clone() }
            }
        };
        if committed.is_ok() {
            self.lift_halt();
        }
        // Stop and readiness have a budget each.
        let closing = window.close(outcome);
        let closed = tokio::time::timeout(context.spec.window_timeout * 2, closing).await;
        reached(Point::ApplyWindowClosed);
        let downtime = match closed {
            Ok(Ok(closed)) => {
                if let Ready::NotReady { reason } = &closed.ready {
                    tracing::warn!(workload = %context.workload, %reason,
                        "the workload is not ready on the state it took over");
                }
                (closed.found == FoundState::Running).then_some(closed.downtime)
            }
            Ok(Err(error)) => {
                tracing::warn!(workload = %context.workload, %error, "the window was not answered");
                None
            }
            Err(_) => {
                tracing::warn!(workload = %context.workload, "the window was not answered in time");
                None
            }
        };
        match committed {
            Ok(journal) => Ok(Applied::Committed(Box::new(journal), downtime)),
            Err(error @ CommitError::Unchanged { .. }) => {
                self.sweep(layout).await;
                Err(Stopped::at(Stage::Commit, &error))
            }
            Err(CommitError::Uncertain { reason }) => Ok(Applied::Uncertain(reason)),
        }
    }

    pub(super) async fn sweep(&self, layout: &SyncLayout) {
        let layout = layout.clone();
        let swept = tokio::task::spawn_blocking(move || sweep_blocking(&layout)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "a staged tree could not be cleared away");
        }
    }

    pub(super) fn halt(&self, reason: &str) {
        tracing::error!(workload = %self.context.workload, %reason,
            "the state of the volumes is uncertain; the workload is halted");
        let halt = Halt { reason: reason.to_owned(), since: Some(Timestamp::now()) };
        if let Err(error) = self.context.state.set_halt(&halt) {
            // The journal still says that an apply had begun; recovery comes to the same verdict.
            tracing::error!(%error, "the halt could not be written down");
        }
        self.show_halt();
    }

    /// A verified apply is what ends a halt.
    pub(super) fn lift_halt(&self) {
        if let Err(error) = self.context.state.clear_halt() {
            tracing::warn!(%error, "a halt could not be lifted");
        }
        self.show_halt();
    }

    pub(super) fn show_halt(&self) {
        let halted = self.context.state.halt().map(|halt| halt.reason);
        self.context.status.send_modify(|status| status.halted = halted);
    }
}

fn commit_blocking(
    layout: &SyncLayout,
    state: &crate::state::StateDir,
    record: &SyncRecord,
    staged: &Staged,
) -> Result<ApplyJournal, CommitError> {
    let volumes = Volumes::open(layout).map_err(|error| CommitError::Unchanged {
        what: "the volumes cannot be used".to_owned(),
        source: std::io::Error::other(error),
    })?;
    commit::commit(&volumes, state, record, staged, Timestamp::now())
}

pub(super) fn sweep_blocking(layout: &SyncLayout) -> std::io::Result<()> {
    let volumes = Volumes::open(layout).map_err(std::io::Error::other)?;
    commit::sweep(&volumes, None)
}
