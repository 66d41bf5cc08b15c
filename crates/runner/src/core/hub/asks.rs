//! What operators and apps ask for.

use std::io;
use std::sync::Arc;

use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{
    Again, MAX_PAYLOAD, MAX_WAIT_OUTPUT, ReleaseReason, RunId, RunnerId, WaitRequest, WaitResult,
    WaitpointId,
};
use serde_json::Value;

use super::{EndedAttempt, Hub, RunTimer};
use crate::core::admission::Fate;
use crate::core::event::{Answer, Ask, AskId, Effect, Refusal, WhetherNew};
use crate::core::now::Now;
use crate::core::run::{Failure, Means, Phase, Run, RunEnd, Stored, Submission, SuspendedWait};
use crate::core::tale::Happening;

impl Hub {
    pub(super) fn asked(&mut self, id: AskId, ask: Ask, now: &Now, fx: &mut Vec<Effect>) {
        // The answer follows what must be durable for it, and comes before what follows from it.
        let mut after = Vec::new();
        let result = match ask {
            Ask::Submit(submission) => self.submit(submission, now, fx),
            Ask::Cancel { run } => self.cancel(run, now, fx, &mut after),
            Ask::Discard { runner } => self.discard(runner, now, fx, &mut after),
            Ask::Leave { runner, to } => self.depart(runner, to, now, fx),
            Ask::Stay { runner, travel } => Ok(self.stay(&runner, travel, now, fx)),
            Ask::GiveUp { runner, travel } => self.give_up(runner, travel, now, fx),
            Ask::Reclaim { runner } => self.reclaim(runner, now, fx),
            Ask::MayCome(traveller) => self.may_come(&traveller, now).map(|()| Answer::MayCome),
            Ask::Admit(arrival) => self.admit(*arrival, now, fx),
            Ask::CompleteWaitpoint { waitpoint, output } => {
                self.complete_waitpoint(waitpoint, output, now, fx, &mut after)
            }
        };
        fx.push(Effect::Answer { id, result });
        fx.append(&mut after);
    }

    fn submit(
        &mut self,
        submission: Submission,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let workload = &submission.workload;
        let key = submission.idempotency_key.clone().map(|key| (workload.clone(), key));
        if let Some(&run) = key.as_ref().and_then(|key| self.keys.get(key)) {
            let known = self.runs.get(&run).is_some_and(|run| *run.submission == submission);
            return if known {
                Ok(Answer::Submitted { run, whether: WhetherNew::Known })
            } else {
                Err(Refusal::KeyTaken { run })
            };
        }
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        if self.lanes.get(workload).is_none_or(|lane| lane.policy.is_none()) {
            return Err(Refusal::UnknownWorkload(workload.clone()));
        }
        if submission.max_attempts == 0 {
            return Err(Refusal::NoAttempts);
        }
        check_size(&submission.payload, MAX_PAYLOAD)?;
        if self.runs.len() >= self.policy.max_runs {
            return Err(Refusal::Full { limit: self.policy.max_runs });
        }
        let id = RunId::after(self.last_run, now.unix_millis(), now.entropy);
        self.last_run = Some(id);
        if let Some(key) = key {
            self.keys.insert(key, id);
        }
        self.runs.insert(id, Run::new(id, Arc::new(submission), now));
        self.after_attempt(id, now);
        self.tell(id, Happening::Submitted, fx);
        self.save(id, now, fx);
        Ok(Answer::Submitted { run: id, whether: WhetherNew::New })
    }

    fn cancel(
        &mut self,
        id: RunId,
        now: &Now,
        fx: &mut Vec<Effect>,
        after: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let run = self.runs.get(&id).ok_or(Refusal::UnknownRun(id))?;
        let was = run.phase.clone();
        match &was {
            Phase::Ended { end: RunEnd::Cancelled, .. } => return Ok(Answer::Cancelled),
            Phase::Moved { departure, .. } => {
                return Err(Refusal::Moved { run: id, to: departure.to.clone() });
            }
            Phase::Ended { .. } => return Err(Refusal::Ended { run: id, state: run.state() }),
            Phase::Queued { .. }
            | Phase::Assigned
            | Phase::Executing { .. }
            | Phase::Waiting { .. }
            | Phase::Suspended { .. }
            | Phase::Leaving { .. }
            | Phase::Restoring { .. } => {}
        }
        let (workload, priority) = (run.submission.workload.clone(), run.submission.priority);
        self.end_snapshot(id, SnapshotUnwanted::RunCancelled, fx);
        let ticket = self.ticket(id);
        let binding = self.unbind(id, now);
        self.stop_timers(id, now);
        if let Some(lane) = self.lanes.get_mut(&workload) {
            lane.unqueue(priority, id);
            lane.restores.remove(&id);
        }
        self.fences.retain(|_, fenced| *fenced != id);
        self.change(id, |run| run.cancel(now).expect("it has not ended"));
        self.after_attempt(id, now);
        if let (
            Phase::Suspended { .. } | Phase::Leaving { .. } | Phase::Restoring { .. },
            Some(ticket),
        ) = (&was, ticket)
        {
            after.push(self.drop_stored(ticket));
        }
        self.tell(id, Happening::Cancelled, fx);
        self.save(id, now, fx);
        if let Some(binding) = binding {
            self.tell_released(&binding, id, ReleaseReason::Cancelled, after);
            let is_absent = self.bindings.session_of(&binding.runner).is_none();
            // A container that is only on its way to this run has no other purpose.
            if is_absent && matches!(was, Phase::Assigned) {
                self.stop_runner(&binding.runner, after);
            }
        }
        Ok(Answer::Cancelled)
    }

    /// Gives up what is on the disk of a runner: its run is tried again, if it may be.
    fn discard(
        &mut self,
        runner: RunnerId,
        now: &Now,
        fx: &mut Vec<Effect>,
        after: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let held = self.bindings.run_of(&runner);
        if let Some(run) = held.filter(|id| matches!(self.phase(*id), Some(Phase::Moved { .. }))) {
            self.forget_moved(run, now, fx, after);
            return Ok(Answer::Discarded { run });
        }
        let is_stored = |phase: &Phase| {
            matches!(
                phase,
                Phase::Suspended { means: Means::Checkpoint, .. } | Phase::Leaving { .. }
            )
        };
        let stored = held.filter(|id| self.phase(*id).is_some_and(is_stored));
        let Some(run) = stored else { return Err(Refusal::NoCheckpoint(runner)) };
        let mut done = Vec::new();
        let (failure, again) = (Failure::Discarded, Again::Retry);
        self.end_attempt(
            EndedAttempt { run, failure, again, fate: Fate::Stopping },
            now,
            &mut done,
        );
        // What is recorded comes before the answer, what is ordered after it.
        for effect in done {
            match effect {
                Effect::Host(_) => after.push(effect),
                effect => fx.push(effect),
            }
        }
        Ok(Answer::Discarded { run })
    }

    fn complete_waitpoint(
        &mut self,
        waitpoint: WaitpointId,
        output: Value,
        now: &Now,
        fx: &mut Vec<Effect>,
        after: &mut Vec<Effect>,
    ) -> Result<Answer, Refusal> {
        let unknown = Refusal::UnknownWaitpoint(waitpoint);
        let Some(&id) = self.waitpoints.get(&waitpoint) else { return Err(unknown) };
        let Some(run) = self.runs.get_mut(&id) else { return Err(unknown) };
        let (is_ended, state) = (run.is_ended(), run.state());
        let moved = match &run.phase {
            Phase::Moved { departure, .. }
            | Phase::Ended { end: RunEnd::Moved { departure }, .. } => Some(departure.to.clone()),
            _ => None,
        };
        match run.waitpoints.get(&waitpoint) {
            Some(Some(held)) if *held == output => return Ok(Answer::WaitpointCompleted),
            Some(Some(_)) => return Err(Refusal::CompletedOtherwise(waitpoint)),
            Some(None) if let Some(to) = moved => return Err(Refusal::Moved { run: id, to }),
            Some(None) if is_ended => return Err(Refusal::Ended { run: id, state }),
            Some(None) => {}
            None => return Err(unknown),
        }
        check_size(&output, MAX_WAIT_OUTPUT)?;
        run.waitpoints.insert(waitpoint, Some(output.clone()));
        let waited = match &run.phase {
            Phase::Waiting { wait, .. }
            | Phase::Suspended { wait: SuspendedWait::Pending(wait), .. }
            | Phase::Leaving {
                stored: Stored { wait: SuspendedWait::Pending(wait), .. }, ..
            } => *wait == (WaitRequest::Token { waitpoint }),
            _ => false,
        };
        if waited {
            self.end_wait(id, WaitResult::Completed { output }, now, fx, after);
        } else {
            self.save(id, now, fx);
        }
        Ok(Answer::WaitpointCompleted)
    }

    /// The wait of a waiting or suspended run is over.
    pub(super) fn end_wait(
        &mut self,
        id: RunId,
        result: WaitResult,
        now: &Now,
        fx: &mut Vec<Effect>,
        after: &mut Vec<Effect>,
    ) {
        self.stop_timer(id, RunTimer::Wait, now);
        match self.phase(id) {
            Some(Phase::Waiting { .. }) => {
                self.end_snapshot(id, SnapshotUnwanted::WaitOver, fx);
                self.resume(id, Some(result), now);
                self.tell(id, Happening::Resumed, fx);
                self.save(id, now, fx);
                self.tell_state(id, after);
            }
            Some(Phase::Suspended { wait: SuspendedWait::Pending(_), .. }) => {
                self.change(id, |run| run.end_wait(result).expect("its wait is pending"));
                if let Some(lane) = self.lane_of(id) {
                    lane.restores.insert(id);
                }
                self.save(id, now, fx);
            }
            // It is noted, and travels with the run; nothing is restored meanwhile.
            Some(Phase::Leaving {
                stored: Stored { wait: SuspendedWait::Pending(_), .. }, ..
            }) => {
                self.change(id, |run| run.end_wait(result).expect("its wait is pending"));
                self.save(id, now, fx);
            }
            Some(_) | None => {}
        }
    }
}

/// Refuses JSON of more than `limit` bytes, without writing it anywhere.
fn check_size(value: &Value, limit: usize) -> Result<(), Refusal> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value)
        .expect("a JSON value is JSON, and counting never fails");
    if count.0 > limit { Err(Refusal::TooLarge { size: count.0, limit }) } else { Ok(()) }
}
