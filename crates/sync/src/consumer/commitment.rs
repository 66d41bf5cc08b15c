//! The window: the staged tree takes its place, and what that came to.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::{Applied, Consumer, Haste, Waiting};
use crate::commit::{self, CommitError, Term};
use crate::context::{Stopped, blocking};
use crate::core::record::AcceptedRecord;
use crate::core::trial::{OnUnready, Verdict, Wish, is_tried, verdict};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::sharing::Sharing;
use crate::stage::Staged;
use crate::state::{ApplyJournal, ApplyPhase, Halt, StateDir};
use crate::volume::Volumes;
use crate::window::{OfflineWindow, Ready, Window, WindowOutcome, WindowPurpose, WindowRefused};

/// What became of an apply that an earlier attempt left without a certain end.
enum Earlier {
    None,
    /// It is whole now.
    Finished(Box<Applied>),
    /// It cannot be finished. What it needs stays until something else is committed.
    Stands(Box<ApplyJournal>),
}

/// A window that was closed after its commit.
pub(super) struct Closed {
    pub(super) journal: ApplyJournal,
    /// How long the container was down.
    pub(super) downtime: Option<Duration>,
    /// What became of it; none if that is not known.
    ready: Option<Ready>,
}

impl Closed {
    fn applied(self) -> Applied {
        let Self { journal, downtime, ready } = self;
        let verdict =
            if journal.trial.is_some() { verdict(ready.as_ref()) } else { Verdict::Stands };
        match verdict {
            Verdict::Stands => Applied::Committed(Box::new(journal), downtime),
            Verdict::Open => Applied::OnTrial,
            Verdict::Refused { reason } => Applied::Refused(Box::new(journal), reason),
        }
    }
}

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Prepares while the app runs, then commits while it is stopped.
    pub(super) async fn apply(
        &mut self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        wish: Wish,
        haste: Haste,
    ) -> Result<Applied, Stopped> {
        let context = Arc::clone(&self.context);
        let locked = context.stored(StateDir::lock).await;
        let locked = locked.map_err(|error| Stopped::at(Stage::Validation, &error))?;
        let Some(_lock) = locked else {
            return Err(Stopped::Later { reason: "recovery is still at work".to_owned() });
        };
        let earlier = match self.settle(layout).await? {
            Earlier::None => None,
            Earlier::Finished(applied) => return Ok(*applied),
            Earlier::Stands(journal) => Some(*journal),
        };
        let first = match (&earlier, context.spec.on_unready, wish) {
            // What an unfinished apply left is no state to take anything from.
            (Some(_), _, _) => Sharing::Nothing,
            // The old state may have to come back as it is now.
            (None, OnUnready::Rollback, Wish::Publisher) => Sharing::Clones,
            (None, OnUnready::Rollback | OnUnready::Keep, _) => Sharing::ClonesAndLinks,
        };
        for sharing in [first, Sharing::Nothing] {
            let mut staged = match self.waited(layout, accepted, sharing).await {
                Some(staged) => staged,
                None => self.prepare(layout, accepted, sharing).await?,
            };
            reached(Point::Staged);
            self.accept(&accepted.record).await?;
            if let Some(hold) = self.hold(layout, wish, haste).await {
                let (layout, record) = (layout.clone(), accepted.record.clone());
                self.waiting = Some(Waiting { layout, record, sharing, staged });
                return Ok(Applied::Held(hold));
            }

            let cid = accepted.record.cid;
            let mut window = match self.open_window(cid).await {
                Ok(window) => window,
                Err(stopped @ Stopped::Later { .. }) => {
                    // It is whole and verified, and so it need not be fetched again.
                    let (layout, record) = (layout.clone(), accepted.record.clone());
                    self.waiting = Some(Waiting { layout, record, sharing, staged });
                    return Err(stopped);
                }
                Err(stopped) => {
                    self.sweep(layout).await;
                    return Err(stopped);
                }
            };
            reached(Point::ApplyWindowOpened);
            context.show("committing");
            window.mutating();
            let (record, earlier) = (accepted.record.clone(), earlier.clone());
            let tried =
                is_tried(context.spec.on_unready, window.found(), wish) && earlier.is_none();
            let term = if tried { Term::OnTrial } else { Term::Final };
            let now = Timestamp::now();
            self.files = Some((cid, std::mem::take(&mut staged.files)));
            let committed = self
                .change(layout, move |volumes, state| {
                    commit::commit(volumes, state, &record, &staged, earlier, term, now)
                })
                .await;
            match self.close(window, cid, committed).await {
                Ok(closed) => return Ok(closed.applied()),
                Err(error @ CommitError::Changed { .. }) if sharing != Sharing::Nothing => {
                    tracing::info!(workload = %context.workload, %error,
                        "the app wrote until it was stopped; every file of the new state is written");
                    self.sweep(layout).await;
                }
                Err(error @ (CommitError::Unchanged { .. } | CommitError::Changed { .. })) => {
                    self.sweep(layout).await;
                    return Err(Stopped::at(Stage::Commit, &error));
                }
                Err(CommitError::Uncertain { reason }) => return Ok(Applied::Uncertain(reason)),
            }
        }
        unreachable!("what shares nothing is changed by nobody")
    }

    /// Finishes an apply that came to no certain end, if that can be done now.
    async fn settle(&self, layout: &SyncLayout) -> Result<Earlier, Stopped> {
        let journal = self.context.stored(StateDir::apply).await.map_err(|error| {
            Stopped::because(
                Stage::Commit,
                format!("what an earlier apply has come to cannot be read: {error}"),
            )
        })?;
        let Some(journal) = journal.filter(|journal| journal.phase.is_half_way()) else {
            return Ok(Earlier::None);
        };
        let cid = journal.record.cid;
        let mut window = self.open_window(cid).await?;
        window.mutating();
        let resumed = journal.clone();
        let finished = self
            .change(layout, move |volumes, state| match resumed.phase {
                ApplyPhase::TakingBack { .. } => commit::take_back(volumes, state, resumed),
                ApplyPhase::Applying
                | ApplyPhase::Committed { .. }
                | ApplyPhase::TakenBack { .. } => {
                    commit::resume(volumes, state, resumed, Timestamp::now())
                }
            })
            .await;
        // Nothing is put back here, so whatever it is, it is not the old state.
        let finished = finished.map_err(|error| CommitError::Uncertain {
            reason: crate::context::with_causes(&error),
        });
        match self.close(window, cid, finished).await {
            Ok(Closed { journal, downtime, .. }) => {
                Ok(Earlier::Finished(Box::new(Applied::Earlier(Box::new(journal), downtime))))
            }
            // Two that stand are enough: each holds a tree in the volumes.
            Err(error) if journal.earlier.is_some() => Err(Stopped::at(Stage::Commit, &error)),
            Err(_) => Ok(Earlier::Stands(Box::new(journal))),
        }
    }

    pub(super) async fn open_window(&self, cid: Cid) -> Result<Window, Stopped> {
        let context = &self.context;
        context.show("stopping");
        let opening = context.window.open(WindowPurpose::Apply { cid });
        let timed = tokio::time::timeout(context.spec.window_timeout, opening);
        tokio::select! {
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
        }
    }

    /// Changes the volumes, with the window open.
    pub(super) async fn change(
        &self,
        layout: &SyncLayout,
        work: impl FnOnce(&Volumes, &StateDir) -> Result<ApplyJournal, CommitError> + Send + 'static,
    ) -> Result<ApplyJournal, CommitError> {
        let (layout, state) = (layout.clone(), self.context.state.clone());
        let done = tokio::task::spawn_blocking(move || {
            let volumes = Volumes::open(&layout).map_err(|error| CommitError::Unchanged {
                what: "the volumes cannot be used".to_owned(),
                source: std::io::Error::other(error),
            })?;
            work(&volumes, &state)
        });
        done.await.unwrap_or_else(|error| {
            Err(CommitError::Uncertain { reason: format!("the commit ended early: {error}") })
        })
    }

    /// Closes the window with what the commit came to, and returns how long the container was down.
    pub(super) async fn close(
        &self,
        window: Window,
        cid: Cid,
        committed: Result<ApplyJournal, CommitError>,
    ) -> Result<Closed, CommitError> {
        let context = &self.context;
        let outcome = match &committed {
            Ok(journal) => {
                self.lift_halt().await;
                match journal.phase {
                    ApplyPhase::TakenBack { .. } => WindowOutcome::TakenBack { cid },
                    ApplyPhase::Applying
                    | ApplyPhase::Committed { .. }
                    | ApplyPhase::TakingBack { .. } => WindowOutcome::Applied { cid },
                }
            }
            Err(CommitError::Unchanged { .. } | CommitError::Changed { .. }) => {
                WindowOutcome::Unchanged
            }
            Err(CommitError::Uncertain { reason }) => {
                self.halt(reason).await;
                WindowOutcome::Uncertain { reason: reason.clone() }
            }
        };
        // Stop and readiness have a budget each.
        let closing = window.close(outcome);
        let closed = tokio::time::timeout(context.spec.window_timeout * 2, closing).await;
        reached(Point::ApplyWindowClosed);
        let (downtime, ready) = match closed {
            Ok(Ok(closed)) => {
                if let Ready::NotReady { reason } = &closed.ready {
                    tracing::warn!(workload = %context.workload, %reason,
                        "the workload is not ready on what its volumes hold now");
                }
                (closed.found.ran().then_some(closed.downtime), Some(closed.ready))
            }
            Ok(Err(error)) => {
                tracing::warn!(workload = %context.workload, %error, "the window was not answered");
                (None, None)
            }
            Err(_) => {
                tracing::warn!(workload = %context.workload, "the window was not answered in time");
                (None, None)
            }
        };
        committed.map(|journal| Closed { journal, downtime, ready })
    }

    /// A tree that was staged before, if it is this record's and still lies where it was.
    async fn waited(
        &mut self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
        sharing: Sharing,
    ) -> Option<Staged> {
        let waiting = self.waiting.take()?;
        let is_same = waiting.record == accepted.record && waiting.layout == *layout;
        if !is_same || waiting.sharing != sharing {
            return None;
        }
        let Waiting { layout, staged, .. } = waiting;
        blocking(Stage::Commit, move || {
            let volumes =
                Volumes::open(&layout).map_err(|error| Stopped::at(Stage::Commit, &error))?;
            let changed = |error| Stopped::at(Stage::Commit, &error);
            commit::check(&volumes, &staged).map_err(changed)?;
            commit::plan(&volumes, &staged).map_err(changed)?;
            Ok(staged)
        })
        .await
        .ok()
    }

    pub(super) async fn sweep(&self, layout: &SyncLayout) {
        let layout = layout.clone();
        let swept = self.context.stored(move |state| sweep_blocking(&layout, state)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "a staged tree could not be cleared away");
        }
    }

    async fn halt(&self, reason: &str) {
        tracing::error!(workload = %self.context.workload, %reason,
            "the state of the volumes is uncertain; the workload is halted");
        let halt = Halt { reason: reason.to_owned(), since: Some(Timestamp::now()) };
        if let Err(error) = self.context.stored(move |state| state.set_halt(&halt)).await {
            // The journal still says that an apply had begun; recovery comes to the same verdict.
            tracing::error!(%error, "the halt could not be written down");
        }
        self.show_halt().await;
    }

    /// A verified apply is what ends a halt.
    async fn lift_halt(&self) {
        if let Err(error) = self.context.stored(StateDir::clear_halt).await {
            tracing::warn!(%error, "a halt could not be lifted");
        }
        self.show_halt().await;
    }

    pub(super) async fn show_halt(&self) {
        let halted = self.context.stored(|state| Ok(state.halt())).await;
        let halted = halted
            .map_or_else(|error| Some(error.to_string()), |halt| halt.map(|halt| halt.reason));
        self.context.status.send_modify(|status| status.halted = halted);
    }
}

/// Removes staged trees, but for those that an apply without a certain end needs.
pub(super) fn sweep_blocking(layout: &SyncLayout, state: &StateDir) -> std::io::Result<()> {
    let volumes = Volumes::open(layout).map_err(std::io::Error::other)?;
    commit::sweep(&volumes, &commit::kept(state)?)
}
