//! Sessions that open and close.

use belay_protocol::WorkloadName;
use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{CloseReason, Notice, RunId, RunnerId, Welcome};

use super::{DISPATCH_BACK_OFF, Hub, RunTimer};
use crate::core::bindings::{Session, SessionId};
use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Effect, HostOrder};
use crate::core::now::Now;
use crate::core::run::Phase;
use crate::core::tale::Happening;

impl Hub {
    pub(super) fn connected(
        &mut self,
        session: SessionId,
        runner: &RunnerId,
        workload: WorkloadName,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let held = self.bindings.run_of(runner);
        let of_run = held.and_then(|id| self.runs.get(&id)).map(|run| &run.submission.workload);
        if of_run.is_some_and(|of_run| *of_run != workload) {
            fx.push(Effect::Close { session, reason: CloseReason::WrongWorkload });
            return;
        }
        // Its process is not here: what is on the disk of it leaves, or is another node's.
        if matches!(
            held.and_then(|id| self.phase(id)),
            Some(Phase::Leaving { .. } | Phase::Moved { .. })
        ) {
            fx.push(Effect::Close { session, reason: CloseReason::RunnerGone });
            return;
        }
        if let Some(older) = self.bindings.session_of(runner) {
            self.unidle(older);
        }
        let opened = Session { runner: runner.clone(), workload: workload.clone() };
        if let Some(older) = self.bindings.open(session, opened) {
            fx.push(Effect::Close { session: older, reason: CloseReason::Replaced });
        }
        let welcome = Welcome { runner: runner.clone(), workload, run: held };
        fx.push(Effect::Tell { session, notice: Notice::Welcome(welcome) });
        match held {
            Some(id) => self.rebind(id, now, fx),
            None => self.watch_runner(runner, now),
        }
    }

    /// Binds a run to the new session of the runner that holds it.
    fn rebind(&mut self, id: RunId, now: &Now, fx: &mut Vec<Effect>) {
        let of_before = self.ticket(id);
        self.stop_timer(id, RunTimer::Lost, now);
        if self.next_epoch(id).is_none() {
            return;
        }
        match self.phase(id) {
            Some(Phase::Waiting { .. }) => self.rearm(id, now, fx),
            Some(Phase::Restoring { .. }) => {
                self.restored(id, now);
                self.tell(id, Happening::Resumed, fx);
            }
            Some(Phase::Suspended { .. }) => {
                // Nobody ordered it back, and yet it runs: what was stored of it is worth nothing.
                self.surface(id, now);
                if let Some(ticket) = of_before {
                    let order = HostOrder::PutBack(ticket.clone());
                    let stage = Stage::PuttingBack;
                    self.dispatch.begin(Flight { ticket, stage, failures: 0, exit: None });
                    let delay = self.lane_of(id).map(|lane| lane.snapshot_delay());
                    self.arm(id, delay.unwrap_or_default(), 0, now);
                    self.save(id, now, fx);
                    fx.push(Effect::Host(order));
                }
            }
            Some(
                Phase::Assigned
                | Phase::Executing { .. }
                | Phase::Leaving { .. }
                | Phase::Moved { .. }
                | Phase::Queued { .. }
                | Phase::Ended { .. },
            )
            | None => {}
        }
        self.save(id, now, fx);
        self.tell_state(id, fx);
    }

    /// The suspension goes on in a new epoch, and so does what is left of its snapshot's delay.
    fn rearm(&mut self, id: RunId, now: &Now, fx: &mut Vec<Effect>) {
        if let Some((pending, left)) = self.snapshots.take(id, now.moment) {
            self.arm(id, left, pending.failures, now);
        }
        // What is being taken was of the epoch before.
        let failures = self.dispatch.get(id).map_or(0, |flight| flight.failures);
        if let Some(ticket) = self.dispatch.abort(id) {
            self.counts.cancelled(SnapshotUnwanted::Rebound);
            self.tell(id, Happening::Unwanted(SnapshotUnwanted::Rebound), fx);
            fx.push(Effect::Host(HostOrder::AbortSnapshot(ticket)));
            self.arm(id, DISPATCH_BACK_OFF, failures, now);
        }
    }

    fn restored(&mut self, id: RunId, now: &Now) {
        let left = self.stop_timer(id, RunTimer::Restore, now);
        if let Some(left) = left {
            let took = self.policy.restore_timeout.saturating_sub(left);
            if let Some(lane) = self.lane_of(id) {
                lane.measure_restore(took);
            }
        }
        self.surface(id, now);
    }

    /// The runner of a suspended or restoring run is there.
    fn surface(&mut self, id: RunId, now: &Now) {
        if let Some(binding) = self.bindings.holder(id) {
            let runner = binding.runner.clone();
            self.admission.swap_in(&runner);
        }
        if let Some(lane) = self.lane_of(id) {
            lane.restores.remove(&id);
        }
        self.change(id, |run| run.surface(now).expect("the caller has looked at its phase"));
        self.time_attempt(id, now);
    }

    pub(super) fn disconnected(&mut self, session: SessionId, now: &Now) {
        let was_idle = self.unidle(session);
        let Some(closed) = self.bindings.close(session) else { return };
        self.away(&closed.runner, now);
        if was_idle {
            self.expect(&closed.runner, self.policy.handover, now);
        }
    }

    /// A runner has no session any more.
    pub(super) fn away(&mut self, runner: &RunnerId, now: &Now) {
        match self.bindings.run_of(runner) {
            Some(id) => {
                self.snapshots.hold(id, now.moment, self.policy.reconnect_grace);
                self.watch_run(id, now);
            }
            None => self.watch_runner(runner, now),
        }
    }
}
