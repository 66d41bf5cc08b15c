//! Time that has passed.

use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{Again, ReleaseReason, RunId, RunnerId, WaitResult};

use super::{EndedAttempt, Hub, RunTimer, TimerKey};
use crate::core::admission::Fate;
use crate::core::event::Effect;
use crate::core::now::Now;
use crate::core::run::{Failure, Phase};
use crate::core::tale::Happening;

impl Hub {
    pub(super) fn tick(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        // Waits end before snapshots fall due: of two in one instant the wait counts.
        while let Some(expired) = {
            let mut due = self.timers.expire(now.moment);
            due.next()
        } {
            match expired.key {
                TimerKey::Run(id, timer) => self.run_timer(id, timer, now, fx),
                TimerKey::Runner(runner) => self.runner_timer(&runner, fx),
                TimerKey::Expected(runner) => self.unexpect(&runner),
            }
        }
        for dropped in self.snapshots.expire(now.moment) {
            self.counts.cancelled(SnapshotUnwanted::Away);
            self.tell(dropped.ticket.run, Happening::Unwanted(SnapshotUnwanted::Away), fx);
            self.save(dropped.ticket.run, now, fx);
        }
    }

    fn run_timer(&mut self, id: RunId, timer: RunTimer, now: &Now, fx: &mut Vec<Effect>) {
        match timer {
            RunTimer::Ready => self.queue(id),
            RunTimer::Start => {
                self.take_away(id, Failure::NotStarted, Some(ReleaseReason::NotStarted), now, fx);
            }
            RunTimer::Attempt => {
                self.take_away(id, Failure::TimedOut, Some(ReleaseReason::TimedOut), now, fx);
            }
            RunTimer::Lost => self.take_away(id, Failure::Lost, None, now, fx),
            RunTimer::Restore => {
                let reason = "it did not connect in time".to_owned();
                self.take_away(id, Failure::NotRestored { reason }, None, now, fx);
            }
            RunTimer::Wait => {
                let mut after = Vec::new();
                self.end_wait(id, WaitResult::Elapsed {}, now, fx, &mut after);
                fx.append(&mut after);
            }
            RunTimer::Retention => self.forget(id, now, fx),
        }
    }

    /// Takes a run from a runner that had its time. The runner may still be at it, so its container
    /// is stopped.
    fn take_away(
        &mut self,
        run: RunId,
        failure: Failure,
        told: Option<ReleaseReason>,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let binding = self.bindings.holder(run).cloned();
        let ended = EndedAttempt { run, failure, again: Again::Retry, fate: Fate::Stopping };
        self.end_attempt(ended, now, fx);
        if let (Some(binding), Some(reason)) = (binding, told) {
            self.tell_released(&binding, run, reason, fx);
        }
    }

    /// A container without a run has had its time.
    fn runner_timer(&mut self, runner: &RunnerId, fx: &mut Vec<Effect>) {
        if self.bindings.run_of(runner).is_none() && self.flight_of(runner).is_none() {
            self.stop_runner(runner, fx);
        }
    }

    fn forget(&mut self, id: RunId, now: &Now, fx: &mut Vec<Effect>) {
        if self.dispatch.get(id).is_some() {
            // Its record is what an order to the engine is repeated from.
            self.start_timer(id, RunTimer::Retention, self.policy.lost_after, now);
            return;
        }
        if let Some(Phase::Moved { .. }) = self.phase(id) {
            let mut after = Vec::new();
            self.forget_moved(id, now, fx, &mut after);
            fx.append(&mut after);
            return;
        }
        let is_ended = matches!(self.phase(id), Some(Phase::Ended { .. }));
        if !is_ended {
            return;
        }
        if let Some(run) = self.runs.remove(&id) {
            for waitpoint in run.waitpoints.keys() {
                self.waitpoints.remove(waitpoint);
            }
            if let Some(key) = &run.submission.idempotency_key {
                self.keys.remove(&(run.submission.workload.clone(), key.clone()));
            }
            fx.push(Effect::Forget(id));
        }
    }
}
