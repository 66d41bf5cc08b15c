//! What holds an apply back by the spec, and an operator who does not want to wait for that.

use std::time::Instant;

use belay_protocol::ProblemCode;
use belay_protocol::control::Stage;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::{Consumer, Haste, Took};
use crate::carried::is_carried;
use crate::command::{AppliedNow, ApplyNowError};
use crate::context::{Stopped, blocking};
use crate::core::maintenance::{ApplyTimes, Hold};
use crate::core::trial::Wish;
use crate::layout::SyncLayout;
use crate::state::StateDir;
use crate::window::OfflineWindow;

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Why an apply has to wait now. A workload that holds nothing yet, or that is halted for want
    /// of a whole state, has nothing to lose by a stop.
    pub(super) async fn hold(&self, layout: &SyncLayout, wish: Wish, haste: Haste) -> Option<Hold> {
        let spec = &self.context.spec;
        let asked = wish == Wish::Operator || haste == Haste::AtOnce;
        if asked || spec.apply_times == ApplyTimes::default() || self.is_halted() {
            return None;
        }
        let (layout, key) = (layout.clone(), spec.key.clone());
        let holds = blocking(Stage::Validation, move || {
            is_carried(&layout, &key).map_err(|error| Stopped::at(Stage::Validation, &error))
        });
        if !holds.await.unwrap_or(true) {
            return None;
        }
        // Memory that cannot be read is a failure of its own.
        let memory = self.context.stored(StateDir::consumer).await.unwrap_or_default();
        spec.apply_times.hold(Timestamp::now(), memory.applied)
    }

    /// Applies the head on an operator's word, and ends a rollback with it.
    pub(crate) async fn apply_now(
        &mut self,
        layout: &SyncLayout,
    ) -> Result<AppliedNow, ApplyNowError> {
        let started = Instant::now();
        let busy = |reason: &str| Err(ApplyNowError::Busy { reason: reason.to_owned() });
        // Whoever asks does not want to wait for the next try.
        self.returning = None;
        if self.judge_trial(layout).await.is_some() {
            return busy("the workload is not known yet to be ready on what was applied last");
        }
        if let Err(error) = self.pin(None).await {
            let reason = format!("what was accepted before is unknown: {error}");
            return Err(ApplyNowError::Failed { stage: Stage::Validation, code: None, reason });
        }
        // The first look may finish an apply that had come to no certain end.
        for _ in 0..2 {
            let result = self.take_over(layout, started, Haste::AtOnce).await;
            self.context.show_rest();
            let took = match result {
                Ok(took) => took,
                Err(failed) => return Err(told(self.failed(layout, failed).await)),
            };
            self.show_hold(&took);
            match took {
                Took::Nothing(reason) => return Err(ApplyNowError::Nothing { reason }),
                Took::Store(reason) => return Err(ApplyNowError::Store { reason }),
                Took::Holds(cid) => return Ok(AppliedNow::Holds { cid }),
                Took::Applied(cid, downtime) => return Ok(AppliedNow::Applied { cid, downtime }),
                Took::OnTrial(cid) => return Ok(AppliedNow::OnTrial { cid }),
                Took::TakenBack(reason, _) => {
                    let (stage, code) = (Stage::Readiness, Some(ProblemCode::UnreadyAfterApply));
                    return Err(ApplyNowError::Failed { stage, code, reason });
                }
                Took::Held(..) => return busy("it is ready, and waits for its time"),
                Took::Again => {
                    if self.judge_trial(layout).await.is_some() {
                        return busy("an apply before it is not at its end");
                    }
                }
            }
        }
        busy("an apply before it came to no end")
    }
}

fn told(stopped: Stopped) -> ApplyNowError {
    match stopped {
        Stopped::Failed(failure) => ApplyNowError::Failed {
            stage: failure.stage,
            code: failure.code,
            reason: failure.reason,
        },
        Stopped::Unreachable(failure) => ApplyNowError::Store { reason: failure.reason },
        Stopped::Later { reason } => ApplyNowError::Busy { reason },
        Stopped::Shutdown => ApplyNowError::ShuttingDown,
    }
}
