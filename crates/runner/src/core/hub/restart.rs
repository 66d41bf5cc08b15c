//! What the next process makes of what it finds.

use std::collections::HashSet;
use std::sync::Arc;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{Again, RunId, RunnerId, WaitRequest};

use super::{EndedAttempt, Hub, HubPolicy, RunTimer};
use crate::core::admission::Fate;
use crate::core::bindings::Binding;
use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Effect, HostOrder, Origin, RunRecord};
use crate::core::lane::{RunnerSource, WorkloadPolicy};
use crate::core::now::Now;
use crate::core::run::{Exit, Failure, Means, Phase, SuspendedWait};
use crate::core::snapshots::{Pending, Ticket};

/// A container of a runner that was found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosted {
    /// Its name.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
}

impl Hub {
    /// The hub of a process that finds these records in the ledger and these containers running or
    /// frozen on the node; containers that are checkpointed may be among them or not.
    #[must_use = "an effect that is not carried out breaks every promise"]
    pub fn restart(
        policy: HubPolicy,
        workloads: impl IntoIterator<Item = (WorkloadName, WorkloadPolicy)>,
        records: impl IntoIterator<Item = RunRecord>,
        hosted: &[Hosted],
        now: &Now,
    ) -> (Self, Vec<Effect>) {
        let mut hub = Self::new(policy);
        let mut fx = Vec::new();
        for (workload, policy) in workloads {
            hub.declared(&workload, policy);
        }
        for Hosted { runner, workload } in hosted {
            hub.adopt(runner, workload);
        }
        // A container in the engine's hands may be stored, and seen by nobody. The flight may be of
        // another run than the one that its runner is at by now.
        let records: Vec<RunRecord> = records.into_iter().collect();
        let listed = hosted.iter().map(|found| &found.runner);
        let flying =
            records.iter().filter_map(|record| Some(&record.flight.as_ref()?.ticket.runner));
        let seen = Seen { listed: listed.cloned().collect(), flying: flying.cloned().collect() };
        let mut gone = Vec::new();
        for record in records {
            let id = record.run.id;
            if hub.take_in(record, &seen, now, &mut fx) == Found::Gone {
                gone.push(id);
            }
        }
        for run in gone {
            let failure = Failure::Died(Exit::default());
            let ended = EndedAttempt { run, failure, again: Again::Retry, fate: Fate::Stays };
            hub.end_attempt(ended, now, &mut fx);
        }
        let residents: Vec<_> = hub.admission.residents().map(|(name, _)| name.clone()).collect();
        for runner in residents {
            hub.watch_runner(&runner, now);
            hub.expect(&runner, policy.reconnect_grace, now);
        }
        let runs: Vec<RunId> = hub.runs.keys().copied().collect();
        for run in runs {
            hub.watch_run(run, now);
        }
        hub.settle(now, &mut fx);
        (hub, fx)
    }

    pub(super) fn adopt(&mut self, runner: &RunnerId, workload: &WorkloadName) {
        let policy = self.lanes.get(workload).and_then(|lane| lane.policy);
        let memory = match policy.map(|policy| policy.runners) {
            Some(RunnerSource::Hosted { memory }) => memory,
            Some(RunnerSource::Foreign) | None => 0,
        };
        if self.admission.resident(runner).is_none() {
            self.admission.adopt(runner, workload, memory);
        }
    }

    fn take_in(
        &mut self,
        record: RunRecord,
        seen: &Seen,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Found {
        let RunRecord { mut run, owner, pending, flight } = record;
        let id = run.id;
        // Nobody copies it any more, and nobody can import what was copied of it.
        let was_leaving = matches!(run.phase, Phase::Leaving { .. });
        if was_leaving {
            run.stay().expect("it was leaving");
        }
        let submission = Arc::clone(&run.submission);
        let workload = &submission.workload;
        self.lane(workload);
        self.last_run = self.last_run.max(Some(id));
        for &waitpoint in run.waitpoints.keys() {
            self.last_waitpoint = self.last_waitpoint.max(Some(waitpoint));
            self.waitpoints.insert(waitpoint, id);
        }
        if let Some(key) = &submission.idempotency_key {
            self.keys.insert((workload.clone(), key.clone()), id);
        }
        if run.holds_place() {
            self.admission.take_place(workload);
        }
        let (epoch, suspension, phase) = (run.epoch, run.suspension, run.phase.clone());
        self.runs.insert(id, run);

        let mut found = Found::There;
        if let Some(owner) = &owner {
            let binding = Binding { runner: owner.runner.clone(), epoch };
            // A ledger in which two runs have one runner was not written by a hub.
            if self.bindings.bind(id, binding).is_err() {
                return Found::There;
            }
            if owner.origin == Origin::Hosted {
                let is_stored = matches!(
                    phase,
                    Phase::Suspended { means: Means::Checkpoint, .. }
                        | Phase::Moved { .. }
                        | Phase::Restoring { .. }
                );
                let is_seen = seen.listed.contains(&owner.runner);
                if is_seen || is_stored || seen.flying.contains(&owner.runner) {
                    self.adopt(&owner.runner, workload);
                } else {
                    found = Found::Gone;
                }
            }
            if let Some(pending) = pending {
                let runner = owner.runner.clone();
                let ticket = Ticket { run: id, runner, epoch, suspension };
                let left = now.until(pending.at);
                let until = now.deadline(self.policy.lost_after);
                let pending = Pending { ticket, failures: pending.failures };
                self.snapshots.hold_with(pending, left, until);
            }
        }
        if let Some(flight) = flight {
            self.adopt(&flight.ticket.runner, workload);
            self.resume_flight(flight, seen, fx);
        }
        self.resume_phase(id, phase, now, fx);
        if was_leaving {
            self.save(id, now, fx);
        }
        found
    }

    fn resume_flight(&mut self, flight: Flight, seen: &Seen, fx: &mut Vec<Effect>) {
        let ticket = flight.ticket.clone();
        let order = match flight.stage {
            Stage::Taking | Stage::Aborting => HostOrder::FindSnapshot(ticket.clone()),
            Stage::PuttingBack => HostOrder::PutBack(ticket.clone()),
            Stage::Dropping => {
                self.admission.begin_stop(&ticket.runner);
                HostOrder::Drop(ticket.clone())
            }
        };
        // If no snapshot was taken, a container that is not there has ended.
        let exit = (!seen.listed.contains(&ticket.runner)).then(Exit::default);
        self.dispatch.begin(Flight { exit, ..flight });
        fx.push(Effect::Host(order));
    }

    fn resume_phase(&mut self, id: RunId, phase: Phase, now: &Now, fx: &mut Vec<Effect>) {
        match phase {
            Phase::Queued { fence: Some(runner), .. } => {
                // Whether anything is left of it, its exit says; a container that is stored would
                // not be among those found.
                if let Some(workload) =
                    self.runs.get(&id).map(|run| run.submission.workload.clone())
                {
                    self.adopt(&runner, &workload);
                }
                self.stop_runner(&runner, fx);
                self.after_attempt(id, now);
            }
            Phase::Queued { fence: None, .. } | Phase::Ended { .. } => self.after_attempt(id, now),
            Phase::Assigned => {
                self.start_timer(id, RunTimer::Start, self.policy.start_timeout, now);
            }
            Phase::Executing { .. } => self.time_attempt(id, now),
            Phase::Waiting { wait, .. } => self.time_wait(id, &wait, now),
            Phase::Suspended { wait, means, .. } => {
                if let (Means::Checkpoint, Some(binding)) = (means, self.bindings.holder(id)) {
                    let runner = binding.runner.clone();
                    self.admission.swap_out(&runner);
                }
                self.resume_wait(id, &wait, now);
            }
            Phase::Moved { until, .. } => {
                if let Some(binding) = self.bindings.holder(id) {
                    let runner = binding.runner.clone();
                    self.admission.swap_out(&runner);
                }
                self.start_timer(id, RunTimer::Retention, now.until(until), now);
            }
            Phase::Leaving { .. } => unreachable!("nobody leaves over a restart"),
            Phase::Restoring { .. } => {
                self.start_timer(id, RunTimer::Restore, self.policy.restore_timeout, now);
                if let Some(ticket) = self.ticket(id) {
                    fx.push(Effect::Host(HostOrder::Restore(ticket)));
                }
            }
        }
    }

    /// The wait of a suspended run goes on, or its restore is due.
    pub(super) fn resume_wait(&mut self, id: RunId, wait: &SuspendedWait, now: &Now) {
        match wait {
            SuspendedWait::Pending(wait) => self.time_wait(id, wait, now),
            SuspendedWait::Over(_) => {
                if let Some(lane) = self.lane_of(id) {
                    lane.restores.insert(id);
                }
            }
        }
    }

    fn time_wait(&mut self, id: RunId, wait: &WaitRequest, now: &Now) {
        if let WaitRequest::Timer { until } = wait {
            self.start_timer(id, RunTimer::Wait, now.until(*until), now);
        }
    }
}

/// Which runners there may be.
struct Seen {
    listed: HashSet<RunnerId>,
    flying: HashSet<RunnerId>,
}

/// Whether the runner of a run is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    There,
    Gone,
}
