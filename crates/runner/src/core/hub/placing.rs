//! Who goes next: runs to runners, snapshots to the engine.

use belay_protocol::WorkloadName;
use belay_protocol::runner::{RunId, RunnerId};

use super::{Hub, RunTimer, TimerKey};
use crate::core::bindings::{Binding, SessionId};
use crate::core::counts::LATE;
use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Effect, HostOrder};
use crate::core::lane::RunnerSource;
use crate::core::now::Now;
use crate::core::snapshots::{Pending, Ticket};
use crate::core::tale::Happening;

/// What a workload's lane allows next.
enum Placement {
    Restore(RunId),
    Warm(RunId, SessionId),
    Cold(RunId, RunnerId),
}

impl Hub {
    /// Uses the room that an event has made.
    pub(super) fn settle(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        if self.is_draining {
            return;
        }
        let waiting: Vec<WorkloadName> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.first().is_some() || !lane.restores.is_empty())
            .map(|(workload, _)| workload.clone())
            .collect();
        for workload in waiting {
            while let Some(placement) = self.next_placement(&workload) {
                match placement {
                    Placement::Restore(run) => self.order_restore(run, now, fx),
                    Placement::Warm(run, session) => self.assign_warm(run, session, now, fx),
                    Placement::Cold(run, runner) => self.assign_cold(run, &runner, now, fx),
                }
            }
        }
        self.dispatch_due(now, fx);
    }

    /// What may be placed next, with its room reserved.
    fn next_placement(&mut self, workload: &WorkloadName) -> Option<Placement> {
        let lane = self.lanes.get(workload)?;
        if self.admission.active(workload) >= lane.max_concurrent() {
            return None;
        }
        if let Some(&run) = lane.restores.first() {
            let runner = &self.bindings.holder(run)?.runner;
            if self.admission.may_swap_in(runner) {
                return Some(Placement::Restore(run));
            }
        }
        let run = lane.first()?;
        if let Some(&session) = lane.idle.last() {
            return Some(Placement::Warm(run, session));
        }
        match lane.policy?.runners {
            // Memory goes to those that wait to be restored before it goes to new containers, and a
            // runner that is between two runs is there sooner than a container is made.
            RunnerSource::Hosted { memory }
                if lane.restores.is_empty() && lane.outnumbers_expected() =>
            {
                let runner = self.cold_name(run)?;
                let has_room = self.admission.reserve(&runner, workload, memory);
                has_room.then_some(Placement::Cold(run, runner))
            }
            RunnerSource::Hosted { .. } | RunnerSource::Foreign => None,
        }
    }

    /// The name of a new runner for a run. No epoch comes twice, so no name does.
    fn cold_name(&self, id: RunId) -> Option<RunnerId> {
        let run = self.runs.get(&id)?;
        let body = id.to_string().replace('_', "-");
        let name = format!("{body}-{}", run.epoch.next());
        Some(name.parse().expect("an id and a number are within the alphabet and the length"))
    }

    fn order_restore(&mut self, id: RunId, now: &Now, fx: &mut Vec<Effect>) {
        let Some(ticket) = self.ticket(id) else { return };
        if let Some(lane) = self.lane_of(id) {
            lane.restores.remove(&id);
        }
        self.admission.swap_in(&ticket.runner);
        self.change(id, |run| run.restore().expect("its wait is over"));
        self.start_timer(id, RunTimer::Restore, self.policy.restore_timeout, now);
        self.save(id, now, fx);
        fx.push(Effect::Host(HostOrder::Restore(ticket)));
    }

    fn assign_warm(&mut self, id: RunId, session: SessionId, now: &Now, fx: &mut Vec<Effect>) {
        self.unidle(session);
        let Some(open) = self.bindings.session(session) else { return };
        let runner = open.runner.clone();
        self.assign(id, &runner, now, fx);
        self.tell_state(id, fx);
    }

    fn assign_cold(&mut self, id: RunId, runner: &RunnerId, now: &Now, fx: &mut Vec<Effect>) {
        let Some(workload) = self.runs.get(&id).map(|run| run.submission.workload.clone()) else {
            return;
        };
        self.assign(id, runner, now, fx);
        fx.push(Effect::Host(HostOrder::StartRunner { runner: runner.clone(), workload }));
    }

    fn assign(&mut self, id: RunId, runner: &RunnerId, now: &Now, fx: &mut Vec<Effect>) {
        let priority = self.runs.get(&id).map(|run| run.submission.priority);
        if let (Some(priority), Some(lane)) = (priority, self.lane_of(id)) {
            lane.unqueue(priority, id);
        }
        self.timers.cancel(&TimerKey::Runner(runner.clone()));
        self.change(id, |run| run.assign().expect("only queued runs without a fence are ready"));
        let epoch = self.next_epoch(id).expect("the run is known");
        let bound = self.bindings.bind(id, Binding { runner: runner.clone(), epoch });
        bound.expect("an idle runner and a queued run are free");
        let origin = self.origin(runner);
        self.change(id, |run| run.begin_stint(runner.clone(), origin, now));
        self.start_timer(id, RunTimer::Start, self.policy.start_timeout, now);
        self.save(id, now, fx);
    }

    /// Hands snapshots that are due to the engine, as long as it has a place.
    fn dispatch_due(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        while self.dispatch.has_place() {
            // A container is in the engine's hands for one snapshot at a time.
            let flights = &self.dispatch;
            let is_free = |wanted: &Ticket| {
                flights.iter().all(|Flight { ticket, .. }| {
                    ticket.run != wanted.run && ticket.runner != wanted.runner
                })
            };
            let Some((pending, due_at)) = self.snapshots.next_due(is_free) else { return };
            let Pending { ticket, failures } = pending;
            // Every event that ends a snapshot has taken it out; this is the last look.
            let is_connected = self.bindings.session_of(&ticket.runner).is_some();
            if !is_connected || !self.is_wanted(&ticket) {
                continue;
            }
            let lag = now.moment.saturating_since(due_at);
            self.counts.dispatched(lag);
            let runner = ticket.runner.clone();
            self.tell(ticket.run, Happening::Dispatched { runner, lag }, fx);
            if lag > LATE {
                self.tell(ticket.run, Happening::Late { lag }, fx);
            }
            let stage = Stage::Taking;
            self.dispatch.begin(Flight { ticket: ticket.clone(), stage, failures, exit: None });
            self.save(ticket.run, now, fx);
            fx.push(Effect::Host(HostOrder::TakeSnapshot(ticket)));
        }
    }
}
