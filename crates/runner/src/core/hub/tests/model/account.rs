//! What must hold, kept apart from the hub: who waits since when, and what was promised to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::runner::{Attempt, Epoch, RunId, RunnerId, SuspensionId, WaitpointId};
use serde_json::Value;

use crate::core::event::RunRecord;
use crate::core::hub::{Hub, HubPolicy};
use crate::core::run::{Phase, RunEnd};
use crate::core::snapshots::Ticket;

/// What was said about a run, and may never be unsaid.
#[derive(Debug, Default)]
pub(super) struct Promise {
    pub(super) epoch: Epoch,
    pub(super) attempt: Attempt,
    pub(super) suspension: SuspensionId,
    pub(super) waitpoints: BTreeMap<WaitpointId, Option<Value>>,
    pub(super) end: Option<&'static str>,
    pub(super) output: Option<Value>,
}

/// A runner that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) plan: Plan,
    pub(super) failures: u32,
    /// Since when its runner is away.
    pub(super) away: Option<Duration>,
    /// For how long the plan outlives that.
    pub(super) grace: Duration,
    /// Whether nothing but the rule of short waits lets the snapshot be left out.
    pub(super) is_long: bool,
}

/// What is to become of a waiting runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// It stays in memory.
    Stay,
    /// It is snapshotted at this time, while it is connected.
    At(Duration),
    /// It is snapshotted with this much left of the delay, when it is back.
    Left(Duration),
    /// It is snapshotted when it is back, at a time that the restart of belayd has blurred.
    Blurred,
    /// The engine has it in its hands.
    Taking,
    /// It is snapshotted.
    Stored,
}

/// The account of the node.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) promises: BTreeMap<RunId, Promise>,
    pub(super) waiting: BTreeMap<RunId, Waiting>,
    /// What the engine was ordered to take and not told to abort.
    pub(super) taking: BTreeMap<RunId, Ticket>,
    looks: u64,
}

impl Account {
    /// The run shows that it does not wait any more.
    pub(super) fn moved_on(&mut self, run: RunId) {
        self.waiting.remove(&run);
    }

    pub(super) fn away(&mut self, runner: &RunnerId, now: Duration, grace: Duration) {
        for waiting in self.waiting.values_mut().filter(|w| w.ticket.runner == *runner) {
            if let Plan::At(at) = waiting.plan {
                waiting.plan = Plan::Left(at.saturating_sub(now));
                waiting.away = Some(now);
                waiting.grace = grace;
            } else if waiting.plan == Plan::Blurred && waiting.away.is_none() {
                waiting.away = Some(now);
                waiting.grace = grace;
            }
        }
    }

    /// The runner of a run is there, in this epoch.
    pub(super) fn back(&mut self, run: RunId, epoch: Epoch, now: Duration) {
        let Some(waiting) = self.waiting.get_mut(&run) else { return };
        if waiting.ticket.epoch == epoch {
            return;
        }
        waiting.ticket.epoch = epoch;
        waiting.away = None;
        waiting.plan = match waiting.plan {
            Plan::Left(left) => Plan::At(now + left),
            Plan::Taking => Plan::At(now + Duration::from_secs(5)),
            // It was stored and runs all the same: the delay begins anew.
            Plan::Stored => Plan::At(now + Duration::from_secs(30)),
            plan @ (Plan::At(_) | Plan::Blurred | Plan::Stay) => plan,
        };
    }

    /// What was kept for a runner that was away too long is not wanted any more.
    pub(super) fn tick(&mut self, now: Duration) {
        for waiting in self.waiting.values_mut() {
            let lapsed = waiting.away.is_some_and(|away| now >= away + waiting.grace);
            if lapsed && matches!(waiting.plan, Plan::Left(_) | Plan::Blurred) {
                waiting.plan = Plan::Stay;
            }
        }
    }

    /// The engine is told to take a snapshot.
    pub(super) fn ordered(&mut self, ticket: &Ticket, is_connected: bool, now: Duration) {
        let waiting = self.waiting.get_mut(&ticket.run);
        let waiting =
            waiting.unwrap_or_else(|| panic!("a snapshot of a run that moved on: {ticket:?}"));
        assert_eq!(waiting.ticket, *ticket, "a snapshot of another suspension");
        assert!(is_connected, "a snapshot of a runner that is away: {ticket:?}");
        match waiting.plan {
            Plan::At(at) => assert!(at <= now, "a snapshot too early: {ticket:?}"),
            Plan::Blurred => {}
            plan => panic!("a snapshot that is not wanted, {plan:?}: {ticket:?}"),
        }
        waiting.plan = Plan::Taking;
        assert!(
            self.taking.insert(ticket.run, ticket.clone()).is_none(),
            "two at a time: {ticket:?}"
        );
    }

    pub(super) fn aborted(&mut self, ticket: &Ticket) {
        assert_eq!(self.taking.remove(&ticket.run).as_ref(), Some(ticket), "nothing to abort");
    }

    /// The engine has failed to take a snapshot that is still wanted.
    pub(super) fn failed(
        &mut self,
        ticket: &Ticket,
        is_connected: bool,
        now: Duration,
        policy: &HubPolicy,
    ) {
        if self.taking.remove(&ticket.run).is_none() {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&ticket.run) else { return };
        waiting.failures += 1;
        let pause = Duration::from_secs(5) * 2_u32.pow(waiting.failures - 1);
        waiting.plan = match (waiting.failures < 3, is_connected) {
            (false, _) => Plan::Stay,
            (true, true) => Plan::At(now + pause),
            (true, false) => {
                waiting.away = Some(now);
                waiting.grace = policy.reconnect_grace;
                Plan::Left(pause)
            }
        };
    }

    /// What must hold after every event.
    pub(super) fn check(&mut self, hub: &Hub, now: Duration, after: After) {
        for ticket in self.taking.values() {
            let waiting = self.waiting.get(&ticket.run).map(|waiting| &waiting.ticket);
            assert_eq!(waiting, Some(ticket), "a snapshot goes on though the run moved on");
        }
        for (&run, waiting) in &mut self.waiting {
            let found = hub.run(run).map(|run| &run.phase);
            match found {
                Some(Phase::Waiting { suspension, .. }) => {
                    assert_eq!(*suspension, waiting.ticket.suspension);
                    assert_ne!(waiting.plan, Plan::Stored, "{run} is not suspended any more");
                }
                Some(Phase::Suspended { suspension, .. }) => {
                    assert_eq!(*suspension, waiting.ticket.suspension);
                    assert_eq!(waiting.plan, Plan::Stored, "{run} is suspended by nobody");
                }
                found => panic!("{run} waits, and is {found:?}"),
            }
            let is_wanted = matches!(waiting.plan, Plan::At(_) | Plan::Left(_) | Plan::Blurred)
                && waiting.is_long;
            if is_wanted {
                let pending = hub.snapshots.get(run).map(|pending| &pending.ticket);
                let right = pending.is_some_and(|ticket| {
                    // While the runner is away its old epoch is kept.
                    ticket.suspension == waiting.ticket.suspension
                        && (waiting.away.is_some() || ticket.epoch == waiting.ticket.epoch)
                });
                assert!(right, "the snapshot of {run} is lost: {waiting:?}, {pending:?}");
            }
            let is_due = matches!(waiting.plan, Plan::At(at) if at <= now) && waiting.is_long;
            let is_free = hub.dispatch.has_place()
                && hub.flight_of(&waiting.ticket.runner).is_none()
                && !hub.is_draining;
            assert!(
                !(is_due && is_free && after == After::Tick),
                "{run} is due and left: {waiting:?}"
            );
        }
        // What is over stays so; a look now and then is enough.
        self.looks += 1;
        let all = self.looks.is_multiple_of(32);
        for (&run, promise) in self.promises.iter().filter(|(_, p)| all || p.end.is_none()) {
            let Some(found) = hub.run(run) else {
                assert!(promise.end.is_some(), "{run} is lost");
                continue;
            };
            assert!(found.epoch >= promise.epoch, "an epoch of {run} is forgotten");
            assert!(found.attempt >= promise.attempt, "an attempt of {run} is forgotten");
            assert!(found.suspension >= promise.suspension, "a suspension of {run} is forgotten");
            for (waitpoint, output) in &promise.waitpoints {
                let held = found.waitpoints.get(waitpoint);
                assert!(held.is_some(), "{waitpoint} of {run} is lost");
                assert!(output.is_none() || held == Some(output), "{waitpoint} is not completed");
            }
            if let Some(end) = promise.end {
                assert_eq!(found.state(), end, "{run} had ended");
            }
            if let (Some(output), Phase::Ended { end: RunEnd::Finished { output: held }, .. }) =
                (&promise.output, &found.phase)
            {
                assert_eq!(held, output, "{run} had another result");
            }
        }
    }

    /// The next belayd has this in its ledger: nothing of what was promised may be missing, and what
    /// was not yet said counts as not happened.
    pub(super) fn restarted(
        &mut self,
        records: &BTreeMap<RunId, RunRecord>,
        now: Duration,
        policy: &HubPolicy,
    ) {
        let before = std::mem::take(&mut self.waiting);
        self.taking.clear();
        for (&run, record) in records {
            let suspension = match &record.run.phase {
                Phase::Waiting { suspension, .. } | Phase::Suspended { suspension, .. } => {
                    *suspension
                }
                _ => continue,
            };
            let owner = record.owner.clone().expect("a run that waits is held");
            let ticket = Ticket { run, runner: owner.runner, epoch: record.run.epoch, suspension };
            let known = before.get(&run).filter(|before| before.ticket.suspension == suspension);
            let is_taking = record
                .flight
                .as_ref()
                .is_some_and(|flight| flight.stage == crate::core::dispatch::Stage::Taking);
            let plan = match &record.run.phase {
                Phase::Suspended { .. } => Plan::Stored,
                _ if is_taking => Plan::Taking,
                _ if record.pending.is_some() => Plan::Blurred,
                _ => Plan::Stay,
            };
            if let Some(known) = known
                && known.is_long
            {
                let wanted = !matches!(known.plan, Plan::Stay);
                assert!(!wanted || plan != Plan::Stay, "the restart lost the snapshot of {run}");
            }
            if plan == Plan::Taking {
                self.taking.insert(run, ticket.clone());
            }
            let failures = match (&record.flight, &record.pending) {
                (Some(flight), _) if is_taking => flight.failures,
                (_, Some(pending)) => pending.failures,
                _ => 0,
            };
            let is_long = known.is_some_and(|known| known.is_long);
            let (away, grace) = (Some(now), policy.lost_after);
            self.waiting.insert(run, Waiting { ticket, plan, failures, away, grace, is_long });
        }
    }
}

/// What the hub was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Tick,
    Event,
}
