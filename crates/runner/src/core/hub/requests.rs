//! What runners ask for and tell.

use std::time::Duration;

use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{
    Again, AttemptOutcome, CompleteRequest, Completed, ContinueRequest, Continued, Empty, Epoch,
    MAX_WAITPOINTS, NextForRun, Notice, Reply, RequestId, RunId, RunReference, RunnerError,
    RunnerErrorCode, RunnerId, RunnerNote, RunnerRequest, SnapshotAnswer, SnapshotOmission,
    Started, SuspendRequest, Suspended, WaitRequest, WaitResult, WaitpointCreated, WaitpointId,
};

use super::{EndedAttempt, Hub, RunTimer};
use crate::core::admission::Fate;
use crate::core::bindings::SessionId;
use crate::core::event::Effect;
use crate::core::now::Now;
use crate::core::run::{Failure, Phase, Settled, WrongState};
use crate::core::tale::Happening;

impl Hub {
    pub(super) fn requested(
        &mut self,
        session: SessionId,
        id: RequestId,
        request: RunnerRequest,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let mut told = None;
        let result = match request {
            RunnerRequest::Ready(Empty {}) => self.ready(session, now, fx),
            RunnerRequest::Start(asked) => self.start(session, asked, now, fx),
            RunnerRequest::Waitpoint(asked) => self.waitpoint(session, asked, now, fx),
            RunnerRequest::Suspend(asked) => {
                told = Some(asked.run);
                self.suspend(session, &asked, now, fx)
            }
            RunnerRequest::Continue(asked) => self.leave_wait(session, asked, now, fx),
            RunnerRequest::Complete(asked) => self.complete(session, asked, now, fx),
            RunnerRequest::Stop(asked) => self.stop(session, asked, now, fx),
        };
        let is_over = matches!(
            &result,
            Ok(Reply::Suspend(Suspended {
                snapshot: SnapshotAnswer::Omitted { reason: SnapshotOmission::WaitOver },
                ..
            }))
        );
        fx.push(Effect::Reply { session, id, result });
        if let Some(run) = told.filter(|_| is_over) {
            self.tell_state(run, fx);
        }
    }

    pub(super) fn noted(
        &mut self,
        session: SessionId,
        note: RunnerNote,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) {
        let RunnerNote::Progress(progress) = note;
        match self.authorise(session, progress.run, progress.epoch) {
            Ok(_) => {
                if self.leave(progress.run, now, fx) {
                    self.save(progress.run, now, fx);
                }
            }
            // A session that was replaced is being closed and hears nothing more.
            Err(error) if error.code == RunnerErrorCode::SessionReplaced => {}
            Err(error) => fx.push(Effect::Tell { session, notice: Notice::Refused(error) }),
        }
    }

    fn authorise(
        &self,
        session: SessionId,
        id: RunId,
        epoch: Epoch,
    ) -> Result<RunnerId, RunnerError> {
        self.bindings.authorise(session, id, epoch).map_err(|code| {
            let Some(run) = self.runs.get(&id) else {
                let code = match code {
                    RunnerErrorCode::SessionReplaced => code,
                    _ => RunnerErrorCode::UnknownRun,
                };
                return RunnerError::new(code, format!("{id} is not known"));
            };
            RunnerError::new(
                code,
                match code {
                    RunnerErrorCode::StaleEpoch => format!("{id} is in epoch {}", run.epoch),
                    RunnerErrorCode::BoundElsewhere => format!("{id} is bound to another runner"),
                    RunnerErrorCode::SessionReplaced => {
                        "a newer session of this runner has taken its place".to_owned()
                    }
                    _ => format!("{id} is {} and bound to nobody", run.state()),
                },
            )
        })
    }

    fn ready(
        &mut self,
        session: SessionId,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let Some(open) = self.bindings.session(session).cloned() else {
            return Err(RunnerError::new(
                RunnerErrorCode::SessionReplaced,
                "a newer session of this runner has taken its place",
            ));
        };
        if let Some(held) = self.bindings.run_of(&open.runner) {
            self.let_go(held, now, fx);
        }
        let fate = self.admission.resident(&open.runner).map(|resident| resident.fate);
        if fate == Some(Fate::Stopping) {
            let message = format!("{} is being stopped", open.runner);
            return Err(RunnerError::new(RunnerErrorCode::RunnerStopping, message));
        }
        self.unexpect(&open.runner);
        self.lane(&open.workload).idle.insert(session);
        self.watch_runner(&open.runner, now);
        Ok(Reply::Ready(Empty {}))
    }

    fn start(
        &mut self,
        session: SessionId,
        asked: RunReference,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let RunReference { run: id, epoch } = asked;
        let runner = self.authorise(session, id, epoch)?;
        if let Some(Phase::Executing { .. }) = self.phase(id) {
            return self.started(id);
        }
        self.change(id, |run| run.start(now)).ok_or_else(|| unknown(id))?.map_err(wrong_state)?;
        if let Some(attempt) = self.runs.get(&id).map(|run| run.attempt) {
            self.tell(id, Happening::Started { attempt, runner }, fx);
        }
        self.stop_timer(id, RunTimer::Start, now);
        self.time_attempt(id, now);
        self.save(id, now, fx);
        self.started(id)
    }

    fn started(&self, id: RunId) -> Result<Reply, RunnerError> {
        let run = self.runs.get(&id).ok_or_else(|| unknown(id))?;
        let timeout_ms = run.submission.timeout.map(millis);
        let payload = run.submission.payload.clone();
        Ok(Reply::Start(Started { attempt: run.attempt, payload, timeout_ms }))
    }

    fn waitpoint(
        &mut self,
        session: SessionId,
        asked: RunReference,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let RunReference { run: id, epoch } = asked;
        self.authorise(session, id, epoch)?;
        self.leave(id, now, fx);
        let run = self.runs.get_mut(&id).ok_or_else(|| unknown(id))?;
        let Phase::Executing { .. } = run.phase else {
            return Err(wrong_state(WrongState { found: run.state() }));
        };
        if run.waitpoints.len() >= MAX_WAITPOINTS {
            let message = format!("{id} has {MAX_WAITPOINTS} waitpoints");
            self.save(id, now, fx);
            return Err(RunnerError::new(RunnerErrorCode::TooManyWaitpoints, message));
        }
        let waitpoint = WaitpointId::after(self.last_waitpoint, now.unix_millis(), now.entropy);
        self.last_waitpoint = Some(waitpoint);
        run.waitpoints.insert(waitpoint, None);
        self.waitpoints.insert(waitpoint, id);
        self.save(id, now, fx);
        Ok(Reply::Waitpoint(WaitpointCreated { waitpoint }))
    }

    fn suspend(
        &mut self,
        session: SessionId,
        asked: &SuspendRequest,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let SuspendRequest { run: id, epoch, wait, snapshot_delay_ms } = *asked;
        self.authorise(session, id, epoch)?;
        let run = self.runs.get(&id).ok_or_else(|| unknown(id))?;
        let over = match wait {
            WaitRequest::Timer { until } => (until <= now.wall).then_some(WaitResult::Elapsed {}),
            WaitRequest::Token { waitpoint } => {
                let held = run.waitpoints.get(&waitpoint).ok_or_else(|| {
                    let message = format!("{id} has no {waitpoint}");
                    RunnerError::new(RunnerErrorCode::UnknownWaitpoint, message)
                })?;
                held.clone().map(|output| WaitResult::Completed { output })
            }
        };
        match run.phase {
            Phase::Executing { .. } | Phase::Waiting { .. } => {}
            _ => return Err(wrong_state(WrongState { found: run.state() })),
        }
        self.end_snapshot(id, SnapshotUnwanted::SuspendedAnew, fx);
        let left = self.stop_timer(id, RunTimer::Attempt, now);
        self.stop_timer(id, RunTimer::Wait, now);
        let suspension = self.change(id, |run| run.suspend(wait, left));
        let suspension = suspension.ok_or_else(|| unknown(id))?.map_err(wrong_state)?;
        let snapshot = if over.is_some() {
            self.resume(id, over, now);
            self.counts.omitted(SnapshotOmission::WaitOver);
            self.tell(id, Happening::Refused(SnapshotOmission::WaitOver), fx);
            SnapshotAnswer::Omitted { reason: SnapshotOmission::WaitOver }
        } else {
            if let WaitRequest::Timer { until } = wait {
                self.start_timer(id, RunTimer::Wait, now.until(until), now);
            }
            self.tell(id, Happening::Suspended { wait }, fx);
            let delay = self.snapshot_delay(id, snapshot_delay_ms);
            let answer = self.arm(id, delay, 0, now);
            let what = match answer {
                SnapshotAnswer::Armed { delay_ms } => {
                    self.counts.scheduled();
                    Happening::Scheduled { delay_ms }
                }
                SnapshotAnswer::Omitted { reason } => {
                    self.counts.omitted(reason);
                    Happening::Refused(reason)
                }
            };
            self.tell(id, what, fx);
            answer
        };
        self.save(id, now, fx);
        Ok(Reply::Suspend(Suspended { suspension, snapshot }))
    }

    fn snapshot_delay(&mut self, id: RunId, asked_ms: Option<u64>) -> Duration {
        let usual = self.lane_of(id).map(|lane| lane.snapshot_delay());
        let delay = asked_ms.map(Duration::from_millis).or(usual).unwrap_or_default();
        delay.max(self.policy.min_snapshot_delay).min(self.policy.max_snapshot_delay)
    }

    fn leave_wait(
        &mut self,
        session: SessionId,
        asked: ContinueRequest,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let ContinueRequest { run: id, epoch, suspension } = asked;
        self.authorise(session, id, epoch)?;
        let run = self.runs.get(&id).ok_or_else(|| unknown(id))?;
        if run.suspension != suspension {
            let message = format!("the last suspension of {id} is {}", run.suspension);
            return Err(RunnerError::new(RunnerErrorCode::StaleSuspension, message));
        }
        let result = match &run.phase {
            Phase::Executing { resumed, .. } => {
                let resumed = resumed.as_ref().filter(|resumed| resumed.suspension == suspension);
                resumed.map(|resumed| resumed.result.clone())
            }
            Phase::Waiting { .. } => {
                self.leave(id, now, fx);
                self.save(id, now, fx);
                None
            }
            _ => return Err(wrong_state(WrongState { found: run.state() })),
        };
        Ok(Reply::Continue(Continued { result }))
    }

    /// A runner that waits shows that it executes; says whether it had been waiting.
    fn leave(&mut self, id: RunId, now: &Now, fx: &mut Vec<Effect>) -> bool {
        let waits = matches!(self.phase(id), Some(Phase::Waiting { .. }));
        if waits {
            self.end_snapshot(id, SnapshotUnwanted::Left, fx);
            self.stop_timer(id, RunTimer::Wait, now);
            self.resume(id, None, now);
            self.tell(id, Happening::Resumed, fx);
        }
        waits
    }

    /// waiting → executing. The caller has ended the snapshot.
    pub(super) fn resume(&mut self, id: RunId, result: Option<WaitResult>, now: &Now) {
        let resumed = self.change(id, |run| run.resume(result, now));
        debug_assert_eq!(resumed, Some(Ok(())), "the caller has looked at its phase");
        self.time_attempt(id, now);
    }

    fn complete(
        &mut self,
        session: SessionId,
        asked: CompleteRequest,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let CompleteRequest { run: id, epoch, attempt, outcome } = asked;
        let known = self.runs.get(&id).and_then(|run| run.settled.as_ref());
        let sender = self.bindings.session(session).map(|session| &session.runner);
        if let Some(settled) = known
            && sender == Some(&settled.runner)
            && settled.attempt == attempt
        {
            return Ok(Reply::Complete(settled.answer.clone()));
        }
        let runner = self.authorise(session, id, epoch)?;
        let run = self.runs.get(&id).ok_or_else(|| unknown(id))?;
        match run.phase {
            Phase::Executing { .. } | Phase::Waiting { .. } => {}
            _ => return Err(wrong_state(WrongState { found: run.state() })),
        }
        if run.attempt != attempt {
            let message = format!("{id} is in attempt {}", run.attempt);
            return Err(RunnerError::new(RunnerErrorCode::StaleAttempt, message));
        }
        self.end_snapshot(id, SnapshotUnwanted::Completed, fx);
        self.unbind(id, now);
        self.expect(&runner, self.policy.handover, now);
        let failed = match &outcome {
            AttemptOutcome::Succeeded { .. } => None,
            AttemptOutcome::Failed { error, .. } => Some(error.clone()),
        };
        let next = self.change(id, |run| {
            let next = match outcome {
                AttemptOutcome::Succeeded { output } => run.finish(output, now)?,
                AttemptOutcome::Failed { error, again } => {
                    run.fail_attempt(Failure::Reported { error }, again, None, now)?
                }
            };
            run.settled = Some(Settled { runner, attempt, answer: Completed { next } });
            Ok::<NextForRun, WrongState>(next)
        });
        let next = next.ok_or_else(|| unknown(id))?.map_err(wrong_state)?;
        match failed {
            None => self.tell(id, Happening::Finished { attempt }, fx),
            Some(cause) => self.tell_failure(id, true, &cause, &next, fx),
        }
        self.after_attempt(id, now);
        self.save(id, now, fx);
        Ok(Reply::Complete(Completed { next }))
    }

    fn stop(
        &mut self,
        session: SessionId,
        asked: RunReference,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<Reply, RunnerError> {
        let runner = self.authorise(session, asked.run, asked.epoch)?;
        self.let_go(asked.run, now, fx);
        self.expect(&runner, self.policy.handover, now);
        Ok(Reply::Stop(Empty {}))
    }

    /// The runner itself gives a run up, so it is not at it any more.
    fn let_go(&mut self, run: RunId, now: &Now, fx: &mut Vec<Effect>) {
        let failure = Failure::LetGo;
        let ended = EndedAttempt { run, failure, again: Again::Retry, fate: Fate::Stays };
        self.end_attempt(ended, now, fx);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unknown(id: RunId) -> RunnerError {
    RunnerError::new(RunnerErrorCode::UnknownRun, format!("{id} is not known"))
}

fn wrong_state(found: WrongState) -> RunnerError {
    RunnerError::new(RunnerErrorCode::WrongState, found.to_string())
}
