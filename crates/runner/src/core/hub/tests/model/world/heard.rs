//! What the hub says, as the world hears it.

use std::time::Duration;

use belay_protocol::runner::{
    NextForRun, Notice, ReleaseReason, Reply, RunId, RunnerError, RunnerErrorCode, SnapshotAnswer,
    SnapshotOmission, Standing,
};
use serde_json::json;

use super::super::account::{Plan, Waiting};
use super::{About, Mode, Work, World};
use crate::core::bindings::SessionId;
use crate::core::event::{Answer, HostOrder};
use crate::core::snapshots::Ticket;

impl World {
    pub(super) fn replied(
        &mut self,
        session: SessionId,
        result: &Result<Reply, RunnerError>,
        about: About,
    ) {
        let now = self.now;
        let held = self.process(session).and_then(|process| process.work.clone());
        match result {
            Err(error) => {
                let lost = matches!(
                    error.code,
                    RunnerErrorCode::NotBound
                        | RunnerErrorCode::BoundElsewhere
                        | RunnerErrorCode::UnknownRun
                );
                if let Some(process) = self.process(session)
                    && lost
                    && process.work.as_ref().map(|work| work.run) == about.run
                {
                    process.work = None;
                }
            }
            Ok(Reply::Ready(_)) => {}
            Ok(Reply::Start(started)) => {
                let run = about.run.expect("a start is about a run");
                self.only_one_executes(session, run);
                let promise = self.promise(run);
                promise.attempt = promise.attempt.max(started.attempt);
                if let Some(process) = self.process(session)
                    && let Some(work) = &mut process.work
                    && work.run == run
                {
                    work.attempt = started.attempt;
                    work.mode = Mode::Executing;
                }
            }
            Ok(Reply::Waitpoint(created)) => {
                let run = about.run.expect("a waitpoint is a run's");
                self.account.moved_on(run);
                self.promise(run).waitpoints.insert(created.waitpoint, None);
                self.executes(session, run);
            }
            Ok(Reply::Suspend(suspended)) => {
                let run = about.run.expect("a suspension is a run's");
                self.account.moved_on(run);
                let promise = self.promise(run);
                promise.suspension = promise.suspension.max(suspended.suspension);
                let is_over = SnapshotAnswer::Omitted { reason: SnapshotOmission::WaitOver };
                if suspended.snapshot == is_over {
                    self.executes(session, run);
                    return;
                }
                let process = self.process(session).expect("it asked");
                let work = process.work.as_mut().expect("it asked in the run's name");
                work.mode = Mode::Waiting(suspended.suspension);
                let ticket = Ticket {
                    run,
                    runner: process.runner.clone(),
                    epoch: held.expect("it asked in the run's name").epoch,
                    suspension: suspended.suspension,
                };
                let plan = match suspended.snapshot {
                    SnapshotAnswer::Armed { delay_ms } => {
                        assert!(
                            self.containers.contains_key(&ticket.runner),
                            "a runner from elsewhere"
                        );
                        Plan::At(now + Duration::from_millis(delay_ms))
                    }
                    SnapshotAnswer::Omitted { .. } => Plan::Stay,
                };
                let is_long = about.waitpoint.is_some() && plan != Plan::Stay;
                let hosted = self.containers.contains_key(&ticket.runner);
                assert!(is_long || about.waitpoint.is_none() || !hosted, "a long wait is armed");
                let waiting = Waiting {
                    ticket,
                    plan,
                    failures: 0,
                    away: None,
                    grace: self.policy.reconnect_grace,
                    is_long,
                };
                self.account.waiting.insert(run, waiting);
            }
            Ok(Reply::Continue(_)) => {
                let run = about.run.expect("a wait is a run's");
                self.account.moved_on(run);
                self.executes(session, run);
            }
            Ok(Reply::Complete(completed)) => {
                let run = about.run.expect("a completion is a run's");
                self.account.moved_on(run);
                let promise = self.promise(run);
                match completed.next {
                    NextForRun::Finished {} => {
                        promise.end = Some("finished");
                        promise.output = Some(json!(run.to_string()));
                        self.tally.finished += 1;
                    }
                    NextForRun::Failed {} => promise.end = Some("failed"),
                    NextForRun::Retried { .. } => {}
                }
            }
            Ok(Reply::Stop(_)) => self.account.moved_on(about.run.expect("a stop is of a run")),
        }
    }

    pub(super) fn executes(&mut self, session: SessionId, run: RunId) {
        if let Some(process) = self.process(session)
            && let Some(work) = &mut process.work
            && work.run == run
        {
            work.mode = Mode::Executing;
        }
    }

    /// No container but this one may still be at the run.
    fn only_one_executes(&mut self, session: SessionId, run: RunId) {
        let this = self.process(session).expect("it is told").runner.clone();
        for process in &self.processes {
            let at_it = process
                .work
                .as_ref()
                .is_some_and(|work| work.run == run && work.mode != Mode::Assigned);
            let alive = self.containers.contains_key(&process.runner);
            assert!(
                !(at_it && alive && process.runner != this),
                "{run} executes in {} and in {this}",
                process.runner
            );
        }
    }

    pub(super) fn told(&mut self, session: SessionId, notice: &Notice) {
        match notice {
            Notice::Welcome(_) | Notice::Refused(_) => {}
            Notice::State(state) => {
                let run = state.run;
                let promise = self.promise(run);
                promise.epoch = promise.epoch.max(state.epoch);
                let (attempt, mode) = match &state.standing {
                    Standing::Assigned { attempt } => (*attempt, Mode::Assigned),
                    Standing::Executing { attempt, .. } => (*attempt, Mode::Executing),
                    Standing::Waiting { attempt, suspension, .. } => {
                        (*attempt, Mode::Waiting(*suspension))
                    }
                };
                match mode {
                    Mode::Waiting(_) => self.account.back(run, state.epoch, self.now),
                    Mode::Assigned | Mode::Executing => self.account.moved_on(run),
                }
                if self.process(session).is_none() {
                    return;
                }
                if mode != Mode::Assigned {
                    self.only_one_executes(session, run);
                }
                let work = Work { run, epoch: state.epoch, attempt, mode };
                if let Some(process) = self.process(session) {
                    process.work = Some(work);
                }
            }
            Notice::Released(released) => {
                if released.reason == ReleaseReason::Cancelled {
                    assert_eq!(self.promise(released.run).end, Some("cancelled"), "told before");
                }
                self.account.moved_on(released.run);
                if let Some(process) = self.process(session)
                    && process.work.as_ref().is_some_and(|work| work.run == released.run)
                {
                    process.work = None;
                }
            }
        }
    }

    pub(super) fn answered(&mut self, result: &Result<Answer, crate::Refusal>, about: About) {
        match result {
            Ok(Answer::Submitted { run, .. }) => {
                self.account.promises.entry(*run).or_default();
            }
            Ok(Answer::Cancelled) => {
                let run = about.run.expect("one run is cancelled");
                self.account.moved_on(run);
                self.promise(run).end = Some("cancelled");
            }
            Ok(Answer::WaitpointCompleted) => {
                let run = about.run.expect("a waitpoint is a run's");
                let waitpoint = about.waitpoint.expect("it was named");
                let output = Some(json!(waitpoint.to_string()));
                self.promise(run).waitpoints.insert(waitpoint, output);
            }
            Ok(
                Answer::Discarded { .. }
                | Answer::Leaves { .. }
                | Answer::Stays
                | Answer::GivenUp(_)
                | Answer::Reclaimed { .. }
                | Answer::MayCome
                | Answer::Admitted,
            ) => unreachable!("no operator of this world asks for it"),
            Err(_) => {}
        }
    }

    pub(super) fn ordered(&mut self, order: &HostOrder) {
        match order {
            HostOrder::TakeSnapshot(ticket) => {
                self.tally.ordered += 1;
                let is_connected = self.session_of(&ticket.runner).is_some();
                self.account.ordered(ticket, is_connected, self.now);
            }
            HostOrder::AbortSnapshot(ticket) => {
                self.tally.aborted += 1;
                self.account.aborted(ticket);
            }
            HostOrder::PutBack(_) => self.tally.undone += 1,
            HostOrder::Restore(ticket) => {
                self.tally.restored += 1;
                let kept = self.containers.get(&ticket.runner);
                assert!(kept.is_some(), "a restore of nothing: {ticket:?}");
            }
            HostOrder::StartRunner { .. }
            | HostOrder::StopRunner { .. }
            | HostOrder::FindSnapshot(_)
            | HostOrder::Drop(_) => {}
        }
        self.orders.push(order.clone());
    }
}
