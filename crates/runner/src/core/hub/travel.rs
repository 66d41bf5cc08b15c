//! Runs that leave for another node, and runs that come from one.
//!
//! A run is executable on one node: the one that has it in another phase than [`Phase::Moved`]. Its
//! record is given out only once that it has moved is in the ledger, and what came by one way is let
//! in once.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::NodeId;
use belay_protocol::runner::{RunId, RunnerId, TravelId};
use jiff::Timestamp;

use super::{Hub, RunTimer};
use crate::core::bindings::Binding;
use crate::core::event::{Answer, Arrival, Effect, Origin, Refusal, Traveller};
use crate::core::lane::RunnerSource;
use crate::core::now::Now;
use crate::core::run::{Departure, Means, Phase, RunEnd, Stint, Stored};
use crate::core::tale::Happening;

/// How long what was given up can be copied again, and taken by the other node.
const GIVEN_UP_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much longer the other node remembers what came: its clock may be behind this one's.
const SKEW: Duration = Duration::from_secs(24 * 3600);

impl Hub {
    pub(super) fn depart(
        &mut self,
        runner: RunnerId,
        to: NodeId,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        let Some(id) = self.bindings.run_of(&runner) else {
            return Err(Refusal::NoCheckpoint(runner));
        };
        match self.phase(id) {
            Some(Phase::Suspended { means: Means::Checkpoint, .. })
                if self.dispatch.get(id).is_none() =>
            {
                let travel = TravelId::after(None, now.unix_millis(), now.entropy);
                let departure = Departure { travel, to };
                if let Some(lane) = self.lane_of(id) {
                    lane.restores.remove(&id);
                }
                let leaves = departure.clone();
                self.change(id, |run| run.leave(leaves).expect("it is on the disk"));
                self.save(id, now, fx);
                Ok(Answer::Leaves { run: id, departure })
            }
            Some(Phase::Leaving { .. }) => Err(Refusal::Leaving(runner)),
            Some(Phase::Moved { departure, .. }) if departure.to == to => {
                Ok(Answer::Leaves { run: id, departure: departure.clone() })
            }
            Some(Phase::Moved { departure, .. }) => {
                Err(Refusal::Moved { run: id, to: departure.to.clone() })
            }
            Some(
                Phase::Queued { .. }
                | Phase::Assigned
                | Phase::Executing { .. }
                | Phase::Waiting { .. }
                | Phase::Suspended { .. }
                | Phase::Restoring { .. }
                | Phase::Ended { .. },
            )
            | None => Err(Refusal::NoCheckpoint(runner)),
        }
    }

    pub(super) fn stay(
        &mut self,
        runner: &RunnerId,
        travel: TravelId,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Answer {
        let held = self.bindings.run_of(runner);
        let leaving = held.filter(|id| match self.phase(*id) {
            Some(Phase::Leaving { departure, .. }) => departure.travel == travel,
            Some(_) | None => false,
        });
        if let Some(id) = leaving {
            self.suspend_here(id, now);
            self.save(id, now, fx);
        }
        Answer::Stays
    }

    pub(super) fn give_up(
        &mut self,
        runner: RunnerId,
        travel: TravelId,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let held = self.bindings.run_of(&runner);
        let Some(id) = held else { return Err(Refusal::NotLeaving(runner)) };
        match self.phase(id) {
            Some(Phase::Leaving { departure, .. }) if departure.travel == travel => {
                let departure = departure.clone();
                self.stop_timer(id, RunTimer::Wait, now);
                let until = now.later(GIVEN_UP_FOR);
                self.change(id, |run| run.give_up(until).expect("it leaves"));
                self.start_timer(id, RunTimer::Retention, GIVEN_UP_FOR, now);
                self.tell(id, Happening::Exported(departure), fx);
                self.save(id, now, fx);
            }
            Some(Phase::Moved { departure, .. }) if departure.travel == travel => {}
            Some(_) | None => return Err(Refusal::NotLeaving(runner)),
        }
        let record = self.record(id, now).expect("the run is known");
        Ok(Answer::GivenUp(Box::new(record)))
    }

    pub(super) fn reclaim(
        &mut self,
        runner: RunnerId,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let held = self.bindings.run_of(&runner);
        let moved = held.and_then(|id| match self.phase(id) {
            Some(Phase::Moved { departure, .. }) => Some((id, departure.clone())),
            Some(_) | None => None,
        });
        let Some((id, departure)) = moved else { return Err(Refusal::NotMoved(runner)) };
        self.stop_timer(id, RunTimer::Retention, now);
        // What the other node may have seen of it is of an older epoch.
        self.next_epoch(id);
        self.suspend_here(id, now);
        self.tell(id, Happening::Reclaimed(departure), fx);
        self.save(id, now, fx);
        Ok(Answer::Reclaimed { run: id })
    }

    /// A run that leaves or has moved is suspended here again.
    fn suspend_here(&mut self, id: RunId, now: &Now) {
        self.stop_timer(id, RunTimer::Wait, now);
        self.change(id, |run| run.stay().expect("it leaves or has moved"));
        if let Some(Phase::Suspended { wait, .. }) = self.phase(id) {
            let wait = wait.clone();
            self.resume_wait(id, &wait, now);
        }
    }

    /// Nothing of a run that has moved is kept any more. What is recorded goes to `fx`, what is
    /// ordered to `after`.
    pub(super) fn forget_moved(
        &mut self,
        id: RunId,
        now: &Now,
        fx: &mut Vec<Effect>,
        after: &mut Vec<Effect>,
    ) {
        let ticket = self.ticket(id);
        self.unbind(id, now);
        self.change(id, |run| run.let_go(now).expect("it has moved"));
        self.after_attempt(id, now);
        after.extend(ticket.map(|ticket| self.drop_stored(ticket)));
        self.save(id, now, fx);
    }

    /// Whether a run that another node gave up may come.
    pub(crate) fn may_come(&self, traveller: &Traveller, now: &Now) -> Result<(), Refusal> {
        let Traveller { travel, run, runner, workload, until, .. } = traveller;
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        if self.travels.contains_key(travel) {
            return Err(Refusal::CameBefore(*travel));
        }
        if *until <= now.wall {
            return Err(Refusal::TooLate(*until));
        }
        let known = self.runs.get(run).map(|run| &run.phase);
        let has_left = matches!(known, Some(Phase::Ended { end: RunEnd::Moved { .. }, .. }));
        let is_here = known.is_some() && !(has_left && self.dispatch.get(*run).is_none());
        if is_here || self.bindings.run_of(runner).is_some() {
            return Err(Refusal::RunHere(*run));
        }
        if self.admission.resident(runner).is_some() || self.bindings.session_of(runner).is_some() {
            return Err(Refusal::Lingers(runner.clone()));
        }
        let policy = self.lanes.get(workload).and_then(|lane| lane.policy);
        match policy.map(|policy| policy.runners) {
            Some(RunnerSource::Hosted { .. }) => {}
            Some(RunnerSource::Foreign) | None => {
                return Err(Refusal::UnknownWorkload(workload.clone()));
            }
        }
        if known.is_none() && self.runs.len() >= self.policy.max_runs {
            return Err(Refusal::Full { limit: self.policy.max_runs });
        }
        Ok(())
    }

    /// The same, once all of the run is known.
    pub(crate) fn may_admit(&self, arrival: &Arrival, now: &Now) -> Result<(), Refusal> {
        let Arrival { traveller, record } = arrival;
        self.may_come(traveller, now)?;
        let submission = &record.run.submission;
        let key = submission.idempotency_key.clone().map(|key| (submission.workload.clone(), key));
        if let Some(&run) = key.and_then(|key| self.keys.get(&key))
            && run != traveller.run
        {
            return Err(Refusal::KeyTaken { run });
        }
        let waitpoints = record.run.waitpoints.keys();
        let mut held = waitpoints.filter_map(|waitpoint| self.waitpoints.get(waitpoint));
        match held.find(|run| **run != traveller.run) {
            Some(&run) => Err(Refusal::RunHere(run)),
            None => Ok(()),
        }
    }

    pub(super) fn admit(
        &mut self,
        arrival: Arrival,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        self.may_admit(&arrival, now)?;
        let Arrival { traveller, record } = arrival;
        let Traveller { travel, from, run: id, runner, workload, until } = traveller;
        let mut run = record.run;
        let Phase::Moved { stored: Stored { suspension, wait, left }, .. } = run.phase else {
            return Err(Refusal::NotMoved(runner));
        };
        self.stop_timer(id, RunTimer::Retention, now);
        let means = Means::Checkpoint;
        run.phase = Phase::Suspended { suspension, wait: wait.clone(), left, means };
        run.epoch = run.epoch.next();
        let (epoch, attempt, origin) = (run.epoch, run.attempt, Origin::Hosted);
        let at = now.wall;
        // What it wrote before is where it was written.
        run.stints =
            vec![Stint { epoch, attempt, runner: runner.clone(), origin, from: at, until: None }];
        self.last_run = self.last_run.max(Some(id));
        for &waitpoint in run.waitpoints.keys() {
            self.last_waitpoint = self.last_waitpoint.max(Some(waitpoint));
            self.waitpoints.insert(waitpoint, id);
        }
        let submission = Arc::clone(&run.submission);
        if let Some(key) = &submission.idempotency_key {
            self.keys.insert((workload.clone(), key.clone()), id);
        }
        self.runs.insert(id, run);
        let bound = self.bindings.bind(id, Binding { runner: runner.clone(), epoch });
        bound.expect("neither the run nor the runner was here");
        self.adopt(&runner, &workload);
        self.admission.swap_out(&runner);
        self.resume_wait(id, &wait, now);
        self.tell(id, Happening::Imported { from, travel }, fx);
        self.save(id, now, fx);
        self.remember(travel, until, now, fx);
        Ok(Answer::Admitted)
    }

    /// Remembers what came, and forgets what cannot come any more.
    fn remember(&mut self, travel: TravelId, until: Timestamp, now: &Now, fx: &mut Vec<Effect>) {
        let over: Vec<TravelId> = self
            .travels
            .iter()
            .filter(|(_, until)| **until < now.wall)
            .map(|(&it, _)| it)
            .collect();
        for travel in over {
            self.travels.remove(&travel);
            fx.push(Effect::ForgetTravel(travel));
        }
        let until = until.checked_add(SKEW).unwrap_or(Timestamp::MAX);
        self.travels.insert(travel, until);
        fx.push(Effect::Remember(travel, until));
    }

    /// Takes in what an earlier process remembered of runs that came.
    pub(crate) fn recall(&mut self, travels: impl IntoIterator<Item = (TravelId, Timestamp)>) {
        self.travels.extend(travels);
    }
}
