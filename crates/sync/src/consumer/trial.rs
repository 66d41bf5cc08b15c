//! An apply on trial: it stays once the workload is ready on it, and is taken back if it does not
//! become so.
//!
//! The trial stands in the journal of the apply, whose staging directories hold the old state until
//! it is over. What came of it is written there before anything follows from it.

use std::time::{Duration, Instant};

use belay_protocol::control::Stage;
use belay_protocol::{AckState, ProblemCode};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::commitment::{Closed, sweep_blocking};
use super::{Consumer, Rest};
use crate::command::RollbackError;
use crate::commit::{self, CommitError};
use crate::context::{Failure, Stopped, with_causes};
use crate::core::quarantine::bounded;
use crate::core::trial::{Verdict, verdict};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::state::{ApplyJournal, ApplyPhase, Refusal, StateDir};
use crate::window::OfflineWindow;

/// Pause between two looks at a workload that is not known to be ready or not.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// Longest pause between two stops that are asked for on the way back: content that does not serve
/// is in place until one succeeds.
const STOP_MAX: Duration = Duration::from_mins(1);

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Takes an apply on trial, or one that is being taken back, as far as it goes now. Returns how
    /// long to wait before the next look if it did not come to its end; nothing else is applied
    /// before that.
    pub(super) async fn judge_trial(&mut self, layout: &SyncLayout) -> Option<Duration> {
        // A journal that cannot be read is told of by the next apply.
        let journal = self.context.stored(StateDir::apply).await.ok()??;
        match journal.phase.clone() {
            ApplyPhase::Applying => None,
            ApplyPhase::Committed { at } => {
                journal.trial.as_ref()?;
                match self.ask_workload().await {
                    Verdict::Open => {
                        self.context.show("on-trial");
                        self.stands(AckState::OnTrial, &journal.record);
                        Some(LOOK)
                    }
                    Verdict::Stands => {
                        self.end_trial(layout, &journal, at).await;
                        None
                    }
                    Verdict::Refused { reason } => self.take_back(layout, journal, reason).await,
                }
            }
            // A later apply goes over it, as over any other that came to no certain end.
            ApplyPhase::TakingBack { .. } if self.is_halted() => None,
            ApplyPhase::TakingBack { .. } => match self.left_to_return() {
                Some(left) => Some(left),
                None => self.put_back(layout, journal).await,
            },
            ApplyPhase::TakenBack { refused } => {
                self.conclude_refusal(layout, &journal, refused).await;
                None
            }
        }
    }

    /// Ends a trial on an operator's word: they decide over what the volumes hold.
    pub(super) async fn leave_trial(&mut self, layout: &SyncLayout) -> Result<(), RollbackError> {
        let busy = |reason: String| RollbackError::Busy { reason };
        let journal = self.context.stored(StateDir::apply).await;
        let journal = journal.map_err(|error| {
            busy(format!("the journal of the last apply cannot be read: {error}"))
        })?;
        let Some(journal) = journal else { return Ok(()) };
        if let ApplyPhase::Committed { at } = journal.phase {
            if journal.trial.is_some() {
                self.end_trial(layout, &journal, at).await;
            }
            return Ok(());
        }
        // Whoever asks does not want to wait for the next try.
        self.returning = None;
        match self.judge_trial(layout).await {
            None => Ok(()),
            Some(_) => Err(busy("an apply is being taken back".to_owned())),
        }
    }

    async fn ask_workload(&self) -> Verdict {
        let asked = self.context.window.readiness();
        let within = self.context.spec.window_timeout;
        tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => Verdict::Open,
            ready = tokio::time::timeout(within, asked) => verdict(ready.ok().flatten().as_ref()),
        }
    }

    async fn end_trial(&mut self, layout: &SyncLayout, journal: &ApplyJournal, at: Timestamp) {
        self.conclude(layout, journal, at).await;
        let took = Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
        self.show_apply(journal, at, None, took);
        self.context.show_rest();
    }

    /// Takes back an apply on which the workload did not become ready. The verdict is written down
    /// first: it is given once, whatever happens then.
    pub(super) async fn take_back(
        &mut self,
        layout: &SyncLayout,
        mut journal: ApplyJournal,
        reason: String,
    ) -> Option<Duration> {
        let ApplyPhase::Committed { at: committed } = journal.phase else { return None };
        tracing::warn!(workload = %self.context.workload, cid = %journal.record.cid, %reason,
            "the workload did not become ready on what was applied, which is taken back");
        let refused = Refusal { at: Timestamp::now(), reason: bounded(reason) };
        journal.phase = ApplyPhase::TakingBack { committed, refused };
        self.stands(AckState::Failed, &journal.record);
        let written = journal.clone();
        if let Err(error) = self.context.stored(move |state| state.set_apply(&written)).await {
            tracing::warn!(workload = %self.context.workload, %error,
                "that an apply is taken back could not be written down; it is judged again");
            return Some(LOOK);
        }
        reached(Point::RefusalJournalled);
        self.put_back(layout, journal).await
    }

    /// How long the workload is not asked to stop yet, since it did not before.
    fn left_to_return(&self) -> Option<Duration> {
        let left = self.returning.as_ref()?.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    async fn put_back(&mut self, layout: &SyncLayout, journal: ApplyJournal) -> Option<Duration> {
        let context = std::sync::Arc::clone(&self.context);
        let Ok(Some(lock)) = context.stored(StateDir::lock).await else { return Some(LOOK) };
        let cid = journal.record.cid;
        let mut window = match self.open_window(cid).await {
            Ok(window) => window,
            Err(stopped) => {
                tracing::info!(workload = %context.workload, ?stopped, "the way back waits");
                let failures = match stopped {
                    // Nothing was asked of the workload.
                    Stopped::Later { .. } => 1,
                    Stopped::Failed(_) | Stopped::Unreachable(_) | Stopped::Shutdown => {
                        self.returning.take().map_or(1, |rest| rest.failures.saturating_add(1))
                    }
                };
                let pause = LOOK.saturating_mul(1 << (failures - 1).min(16)).min(STOP_MAX);
                self.returning = Some(Rest { failures, until: Instant::now() + pause });
                return Some(pause);
            }
        };
        self.returning = None;
        reached(Point::TakeBackWindowOpened);
        context.show("taking-back");
        window.mutating();
        let done = self
            .change(layout, move |volumes, state| commit::take_back(volumes, state, journal))
            .await;
        let done = done.map_err(|error| CommitError::Uncertain { reason: with_causes(&error) });
        let closed = self.close(window, cid, done).await;
        drop(lock);
        match closed {
            Ok(Closed { journal, .. }) => match journal.phase.clone() {
                ApplyPhase::TakenBack { refused } => {
                    self.conclude_refusal(layout, &journal, refused).await;
                }
                ApplyPhase::Committed { at } => {
                    self.end_trial(layout, &journal, at).await;
                    let reason = "the workload did not become ready on it, and it stays, since \
                                  what was there before is gone";
                    let stage = Stage::Readiness;
                    let code = Some(ProblemCode::UnreadyAfterApply);
                    context.show_failure(&Failure { code, ..Failure::new(stage, reason) });
                    let shown = context.status.borrow().last_failure.clone();
                    self.stays = shown.map(|failure| (cid, failure));
                }
                ApplyPhase::Applying | ApplyPhase::TakingBack { .. } => {}
            },
            Err(error) => {
                let failure = Failure::new(Stage::Commit, with_causes(&error));
                self.quarantine(layout, Some(cid), cid.to_string(), failure).await;
            }
        }
        context.show_rest();
        None
    }

    /// Holds the content back, tells of it, clears it away, and ends the journal.
    async fn conclude_refusal(
        &self,
        layout: &SyncLayout,
        journal: &ApplyJournal,
        refused: Refusal,
    ) {
        let Refusal { at, reason } = refused;
        let code = Some(ProblemCode::UnreadyAfterApply);
        let reason = format!("the workload did not become ready, and it was taken back: {reason}");
        let failure = Failure { code, ..Failure::new(Stage::Readiness, reason) };
        let cid = journal.record.cid;
        self.quarantine_at(layout, Some(cid), cid.to_string(), failure, at).await;
        let layout = layout.clone();
        let cleared = self.context.stored(move |state| {
            state.note_stop(at)?;
            sweep_blocking(&layout, state)?;
            reached(Point::RefusedStateRemoved);
            state.clear_apply()
        });
        if let Err(error) = cleared.await {
            tracing::warn!(workload = %self.context.workload, %error,
                "what was taken back could not be cleared away");
        }
    }
}
