//! What the engine's side tells.

use belay_protocol::runner::{Again, CloseReason, RunId, RunnerId};

use super::{DISPATCH_BACK_OFF, EndedAttempt, Hub, MAX_DISPATCHES, RunTimer};
use crate::core::admission::Fate;
use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Effect, HostOrder, SnapshotOutcome};
use crate::core::now::Now;
use crate::core::run::{Exit, Failure, Means, Phase};
use crate::core::snapshots::{Pending, Ticket};
use crate::core::tale::Happening;

impl Hub {
    pub(super) fn exited(
        &mut self,
        runner: &RunnerId,
        exit: Exit,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let flight = self.flight_of(runner).map(|flight| (flight.ticket.clone(), flight.stage));
        if let Some((ticket, Stage::Taking | Stage::Aborting)) = flight {
            // Perhaps the snapshot's own doing; its result says.
            if let Some(flight) = self.dispatch.of(&ticket) {
                flight.exit = Some(exit);
            }
            return;
        }
        let held = self.bindings.run_of(runner);
        let is_stored = matches!(
            held.and_then(|id| self.phase(id)),
            Some(
                Phase::Suspended { means: Means::Checkpoint, .. }
                    | Phase::Leaving { .. }
                    | Phase::Moved { .. }
            )
        );
        if !is_stored {
            self.runner_gone(runner, Failure::Died(exit), now, fx);
        }
    }

    /// Nothing is left of a runner's process.
    pub(super) fn runner_gone(
        &mut self,
        runner: &RunnerId,
        failure: Failure,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        if let Some(session) = self.bindings.session_of(runner) {
            self.unidle(session);
            self.bindings.close(session);
            fx.push(Effect::Close { session, reason: CloseReason::RunnerGone });
        }
        self.unexpect(runner);
        self.admission.remove(runner);
        if let Some(run) = self.bindings.run_of(runner) {
            let ended = EndedAttempt { run, failure, again: Again::Retry, fate: Fate::Stays };
            self.end_attempt(ended, now, fx);
        }
        self.watch_runner(runner, now);
        if let Some(run) = self.fences.remove(runner) {
            self.change(run, |run| {
                if let Phase::Queued { fence, .. } = &mut run.phase {
                    *fence = None;
                }
            });
            self.after_attempt(run, now);
        }
    }

    pub(super) fn snapshot(
        &mut self,
        ticket: &Ticket,
        outcome: SnapshotOutcome,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let id = ticket.run;
        let Some(flight) = self.dispatch.of(ticket) else { return };
        match (flight.stage, outcome) {
            (Stage::Taking, SnapshotOutcome::Taken(means)) if self.is_wanted(ticket) => {
                self.dispatch.end(id);
                self.counts.taken();
                self.suspended(ticket, means, now, fx);
            }
            (Stage::Taking | Stage::Aborting, SnapshotOutcome::Taken(_)) => {
                self.undo(ticket, now, fx);
            }
            (Stage::Taking | Stage::Aborting, SnapshotOutcome::NotTaken { reason }) => {
                let Some(flight) = self.dispatch.end(id) else { return };
                match flight.exit {
                    Some(exit) => {
                        self.save(id, now, fx);
                        self.runner_gone(&ticket.runner, Failure::Died(exit), now, fx);
                    }
                    None => self.not_taken(&flight, reason, now, fx),
                }
            }
            (Stage::PuttingBack | Stage::Dropping, _) => {}
        }
    }

    fn suspended(&mut self, ticket: &Ticket, means: Means, now: &Now, fx: &mut Vec<Effect>) {
        let id = ticket.run;
        self.stop_timer(id, RunTimer::Lost, now);
        self.change(id, |run| run.set_suspended(means).expect("a wanted snapshot is of a wait"));
        match means {
            Means::Checkpoint => self.admission.swap_out(&ticket.runner),
            Means::Pause => {}
        }
        self.tell(id, Happening::Taken { runner: ticket.runner.clone(), means }, fx);
        self.save(id, now, fx);
        if let Some(session) = self.bindings.session_of(&ticket.runner) {
            self.bindings.close(session);
            fx.push(Effect::Close { session, reason: CloseReason::Suspended });
        }
    }

    /// A snapshot was taken that nobody wants any more.
    fn undo(&mut self, ticket: &Ticket, now: &Now, fx: &mut Vec<Effect>) {
        self.counts.discarded();
        let fate = self.admission.resident(&ticket.runner).map(|resident| resident.fate);
        let (stage, order) = match fate {
            Some(Fate::Stopping) => (Stage::Dropping, HostOrder::Drop(ticket.clone())),
            Some(Fate::Stays) | None => (Stage::PuttingBack, HostOrder::PutBack(ticket.clone())),
        };
        if let Some(flight) = self.dispatch.of(ticket) {
            flight.stage = stage;
        }
        self.save(ticket.run, now, fx);
        fx.push(Effect::Host(order));
    }

    /// A snapshot was not taken, and the container is as it was.
    fn not_taken(&mut self, flight: &Flight, reason: String, now: &Now, fx: &mut Vec<Effect>) {
        let Flight { ticket, stage, failures, .. } = flight;
        let id = ticket.run;
        if *stage == Stage::Taking {
            let (cause, failures) = (reason.clone(), failures + 1);
            self.tell(id, Happening::NotTaken { cause, failures }, fx);
            self.retry(ticket, failures, reason, now);
        }
        self.save(id, now, fx);
        self.released(&ticket.runner, now);
    }

    fn retry(&mut self, ticket: &Ticket, failures: u32, reason: String, now: &Now) {
        let id = ticket.run;
        self.change(id, |run| run.snapshot_failure = Some(reason));
        self.counts.failed();
        if failures >= MAX_DISPATCHES {
            self.counts.given_up();
        }
        if failures >= MAX_DISPATCHES || !self.is_wanted(ticket) {
            return;
        }
        let delay = DISPATCH_BACK_OFF * 2_u32.pow(failures - 1);
        if self.bindings.session_of(&ticket.runner).is_some() {
            self.arm(id, delay, failures, now);
        } else {
            let until = now.deadline(self.policy.reconnect_grace);
            self.snapshots.hold_with(Pending { ticket: ticket.clone(), failures }, delay, until);
        }
    }

    /// The engine has let go of a runner: it is timed again.
    fn released(&mut self, runner: &RunnerId, now: &Now) {
        match self.bindings.run_of(runner) {
            Some(id) => self.watch_run(id, now),
            None => self.watch_runner(runner, now),
        }
    }

    /// A container was put back, or dropped.
    pub(super) fn put_away(&mut self, ticket: &Ticket, now: &Now, fx: &mut Vec<Effect>) {
        let Some(flight) = self.dispatch.of(ticket) else { return };
        let stage = flight.stage;
        match stage {
            Stage::Taking | Stage::Aborting => {}
            Stage::PuttingBack => {
                self.dispatch.end(ticket.run);
                self.save(ticket.run, now, fx);
                self.released(&ticket.runner, now);
            }
            Stage::Dropping => {
                self.dispatch.end(ticket.run);
                self.save(ticket.run, now, fx);
                let exit = Failure::Died(Exit::default());
                self.runner_gone(&ticket.runner, exit, now, fx);
            }
        }
    }

    pub(super) fn restore_failed(
        &mut self,
        ticket: &Ticket,
        reason: String,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let run: RunId = ticket.run;
        let is_restoring = matches!(self.phase(run), Some(Phase::Restoring { .. }));
        if is_restoring && self.ticket(run).as_ref() == Some(ticket) {
            let failure = Failure::NotRestored { reason };
            let ended = EndedAttempt { run, failure, again: Again::Retry, fate: Fate::Stopping };
            self.end_attempt(ended, now, fx);
        }
    }
}
