//! The one machine: bindings, runs, snapshots and room, composed.
//!
//! [`Hub::handle`] takes one event to its end: it changes its state, and says in order what is to be
//! done about it. Whatever an event ends, it ends the pending snapshot first.

mod asks;
mod host;
mod placing;
mod requests;
mod restart;
mod sessions;
mod time;
mod travel;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use belay_protocol::WorkloadName;
use belay_protocol::event::SnapshotUnwanted;
use belay_protocol::runner::{
    Again, Epoch, NextForRun, Notice, ReleaseReason, Released, RunId, RunStanding, RunnerId,
    SnapshotAnswer, SnapshotOmission, TravelId, WaitRequest, WaitpointId,
};
use belay_timer_wheel::{Moment, TimerWheel};
use jiff::Timestamp;

use crate::core::admission::{Admission, Fate};
use crate::core::bindings::{Binding, Bindings};
use crate::core::counts::Counts;
use crate::core::dispatch::{Dispatch, Flight, Stage};
use crate::core::event::{
    Effect, Event, HostEvent, HostOrder, Origin, Owner, PendingRecord, RunRecord,
};
use crate::core::lane::{Lane, WorkloadPolicy};
use crate::core::now::Now;
use crate::core::run::{Failure, Phase, Run};
use crate::core::snapshots::{Pending, Snapshots, Ticket};
use crate::core::tale::{Happening, Tale};

pub use restart::Hosted;
pub use views::{RunProgress, RunStints};

/// How often a snapshot of one suspension is dispatched.
const MAX_DISPATCHES: u32 = 3;
/// The pause before a snapshot is dispatched again; it doubles.
const DISPATCH_BACK_OFF: Duration = Duration::from_secs(5);

/// What the node grants and how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubPolicy {
    /// Memory for containers of runners, in bytes.
    pub memory: u64,
    /// Runs that are kept, the ended ones included.
    pub max_runs: usize,
    /// Snapshots that are in the engine's hands at a time.
    pub dispatches: usize,
    /// Whether the engine can snapshot at all.
    pub snapshots: Snapshotting,
    /// The least delay of a snapshot that a request may ask for.
    pub min_snapshot_delay: Duration,
    /// The greatest.
    pub max_snapshot_delay: Duration,
    /// How long a pending snapshot is kept for a runner that is away.
    pub reconnect_grace: Duration,
    /// How long a runner may be away before it loses its run.
    pub lost_after: Duration,
    /// How long an assigned run may take to be started.
    pub start_timeout: Duration,
    /// How long a restored runner may take to connect.
    pub restore_timeout: Duration,
    /// How long a container without a run may take to ask for one.
    pub linger: Duration,
    /// How long a container may ask in vain.
    pub idle_timeout: Duration,
    /// How long a run waits for a container that has just let go of another one, before a new
    /// container is made for it.
    pub handover: Duration,
    /// How long an ended run is remembered.
    pub retention: Duration,
}

/// Whether the engine can snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshotting {
    /// It can, by whichever means.
    Supported,
    /// It cannot.
    Unsupported,
}

impl Default for HubPolicy {
    fn default() -> Self {
        Self {
            memory: u64::MAX,
            max_runs: 100_000,
            dispatches: 4,
            snapshots: Snapshotting::Supported,
            min_snapshot_delay: Duration::ZERO,
            max_snapshot_delay: Duration::MAX,
            reconnect_grace: Duration::from_secs(10),
            lost_after: Duration::from_secs(60),
            start_timeout: Duration::from_secs(60),
            restore_timeout: Duration::from_secs(120),
            linger: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            handover: Duration::from_secs(1),
            retention: Duration::from_secs(24 * 3600),
        }
    }
}

/// Everything that the node knows about runs.
#[derive(Debug)]
pub struct Hub {
    policy: HubPolicy,
    is_draining: bool,
    runs: BTreeMap<RunId, Run>,
    lanes: BTreeMap<WorkloadName, Lane>,
    bindings: Bindings,
    snapshots: Snapshots,
    dispatch: Dispatch,
    counts: Counts,
    admission: Admission,
    timers: TimerWheel<TimerKey, ()>,
    /// Runs that wait for the end of a runner.
    fences: HashMap<RunnerId, RunId>,
    waitpoints: HashMap<WaitpointId, RunId>,
    keys: HashMap<(WorkloadName, String), RunId>,
    /// The ways by which runs came from other nodes, each until nothing can come by it any more.
    travels: BTreeMap<TravelId, Timestamp>,
    last_run: Option<RunId>,
    last_waitpoint: Option<WaitpointId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TimerKey {
    Run(RunId, RunTimer),
    /// A container without a run.
    Runner(RunnerId),
    /// A container without a run that is about to ask for one.
    Expected(RunnerId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RunTimer {
    /// It becomes eligible.
    Ready,
    /// It was not started in time.
    Start,
    /// Its attempt took too long.
    Attempt,
    /// Its wait is over.
    Wait,
    /// Its runner has been away too long.
    Lost,
    /// Its runner did not come back from its snapshot.
    Restore,
    /// It is forgotten.
    Retention,
}

impl Hub {
    /// A hub that knows nothing yet.
    pub fn new(policy: HubPolicy) -> Self {
        Self {
            policy,
            is_draining: false,
            runs: BTreeMap::new(),
            lanes: BTreeMap::new(),
            bindings: Bindings::default(),
            snapshots: Snapshots::default(),
            dispatch: Dispatch::new(policy.dispatches),
            counts: Counts::default(),
            admission: Admission::new(policy.memory),
            timers: TimerWheel::new(),
            fences: HashMap::new(),
            waitpoints: HashMap::new(),
            keys: HashMap::new(),
            travels: BTreeMap::new(),
            last_run: None,
            last_waitpoint: None,
        }
    }

    /// Takes in an event, and says what is to be done about it, in order.
    #[must_use = "an effect that is not carried out breaks every promise"]
    pub fn handle(&mut self, event: Event, now: &Now) -> Vec<Effect> {
        let mut fx = Vec::new();
        match event {
            Event::Connected { session, runner, workload } => {
                self.connected(session, &runner, workload, now, &mut fx);
            }
            Event::Disconnected { session } => self.disconnected(session, now),
            Event::Request { session, id, request } => {
                self.requested(session, id, request, now, &mut fx);
            }
            Event::Note { session, note } => self.noted(session, note, now, &mut fx),
            Event::Ask { id, ask } => self.asked(id, ask, now, &mut fx),
            Event::Host(event) => self.host(event, now, &mut fx),
            Event::Declared { workload, policy } => self.declared(&workload, policy),
            Event::Withdrawn { workload } => self.withdrawn(&workload, &mut fx),
            Event::Tick => self.tick(now, &mut fx),
            Event::Drain => self.is_draining = true,
        }
        self.settle(now, &mut fx);
        fx
    }

    /// When to hand in the next [`Event::Tick`].
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.timers.next_deadline(), self.snapshots.next_deadline()].into_iter().flatten().min()
    }

    /// A run that is remembered.
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(&id)
    }

    /// Runs that are remembered, in the order of their creation.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Who holds a run.
    pub fn holder(&self, id: RunId) -> Option<&RunnerId> {
        self.bindings.holder(id).map(|binding| &binding.runner)
    }

    /// Snapshots that are scheduled, held or due.
    pub fn pending_snapshots(&self) -> usize {
        self.snapshots.len()
    }

    /// Snapshots in the engine's hands.
    pub fn flights(&self) -> usize {
        self.dispatch.len()
    }

    /// Memory that containers hold or were promised, in bytes.
    pub fn reserved_memory(&self) -> u64 {
        self.admission.reserved()
    }

    fn host(&mut self, event: HostEvent, now: &Now, fx: &mut Vec<Effect>) {
        match event {
            HostEvent::StartFailed { runner, reason } => {
                self.runner_gone(&runner, Failure::NoRunner { reason }, now, fx);
            }
            HostEvent::Exited { runner, exit } => self.exited(&runner, exit, now, fx),
            HostEvent::Snapshot { ticket, outcome } => self.snapshot(&ticket, outcome, now, fx),
            HostEvent::Settled { ticket } => self.put_away(&ticket, now, fx),
            HostEvent::RestoreFailed { ticket, reason } => {
                self.restore_failed(&ticket, reason, now, fx);
            }
        }
    }

    fn declared(&mut self, workload: &WorkloadName, policy: WorkloadPolicy) {
        self.lane(workload).policy = Some(policy);
    }

    /// Takes back what a workload was granted. What is under way goes on.
    fn withdrawn(&mut self, workload: &WorkloadName, fx: &mut Vec<Effect>) {
        if let Some(lane) = self.lanes.get_mut(workload) {
            lane.policy = None;
        }
        let residents = self.admission.residents();
        let idle: Vec<RunnerId> = residents
            .filter(|(_, resident)| resident.workload == *workload)
            .map(|(runner, _)| runner.clone())
            .filter(|runner| {
                self.bindings.run_of(runner).is_none() && self.flight_of(runner).is_none()
            })
            .collect();
        for runner in idle {
            self.stop_runner(&runner, fx);
        }
    }

    fn lane(&mut self, workload: &WorkloadName) -> &mut Lane {
        self.lanes.entry(workload.clone()).or_insert_with(Lane::undeclared)
    }

    /// Changes a run, and keeps count of the places.
    fn change<T>(&mut self, id: RunId, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let run = self.runs.get_mut(&id)?;
        let before = run.holds_place();
        let result = change(run);
        let workload = &run.submission.workload;
        match (before, run.holds_place()) {
            (false, true) => self.admission.take_place(workload),
            (true, false) => self.admission.give_place(workload),
            (true, true) | (false, false) => {}
        }
        Some(result)
    }

    fn save(&self, id: RunId, now: &Now, fx: &mut Vec<Effect>) {
        fx.extend(self.record(id, now).map(|record| Effect::Save(Box::new(record))));
    }

    /// What the ledger keeps of a run.
    fn record(&self, id: RunId, now: &Now) -> Option<RunRecord> {
        let run = self.runs.get(&id)?;
        let owner = self.bindings.holder(id).map(|binding| Owner {
            runner: binding.runner.clone(),
            origin: self.origin(&binding.runner),
        });
        let pending = self.snapshots.get(id).map(|pending| PendingRecord {
            epoch: pending.ticket.epoch,
            suspension: pending.ticket.suspension,
            at: now.later(self.snapshots.left(id, now.moment).unwrap_or_default()),
            failures: pending.failures,
        });
        let flight = self.dispatch.get(id).cloned();
        Some(RunRecord { run: run.clone(), owner, pending, flight })
    }

    /// Says what happened to a run, for the journal.
    fn tell(&self, run: RunId, what: Happening, fx: &mut Vec<Effect>) {
        if let Some(workload) = self.runs.get(&run).map(|run| run.submission.workload.clone()) {
            fx.push(Effect::Happened(Tale { run, workload, what }));
        }
    }

    fn origin(&self, runner: &RunnerId) -> Origin {
        match self.admission.resident(runner) {
            Some(_) => Origin::Hosted,
            None => Origin::Foreign,
        }
    }

    fn lane_of(&mut self, id: RunId) -> Option<&mut Lane> {
        self.lanes.get_mut(&self.runs.get(&id)?.submission.workload)
    }

    fn start_timer(&mut self, id: RunId, timer: RunTimer, delay: Duration, now: &Now) {
        self.timers.insert(TimerKey::Run(id, timer), now.deadline(delay), ());
    }

    /// Stops a timer and says how long it would have had.
    fn stop_timer(&mut self, id: RunId, timer: RunTimer, now: &Now) -> Option<Duration> {
        let pending = self.timers.cancel(&TimerKey::Run(id, timer))?;
        Some(pending.deadline.saturating_since(now.moment))
    }

    fn stop_timers(&mut self, id: RunId, now: &Now) {
        use RunTimer::{Attempt, Lost, Ready, Restore, Start, Wait};
        for timer in [Ready, Start, Attempt, Wait, Lost, Restore] {
            self.stop_timer(id, timer, now);
        }
    }

    /// Starts the timer of an attempt that executes.
    fn time_attempt(&mut self, id: RunId, now: &Now) {
        if let Some(Phase::Executing { until: Some(until), .. }) = self.phase(id) {
            let left = now.until(*until);
            self.start_timer(id, RunTimer::Attempt, left, now);
        }
    }

    fn phase(&self, id: RunId) -> Option<&Phase> {
        self.runs.get(&id).map(|run| &run.phase)
    }

    /// Ends the pending snapshot of a run, wherever it is.
    fn end_snapshot(&mut self, id: RunId, why: SnapshotUnwanted, fx: &mut Vec<Effect>) {
        if self.snapshots.cancel(id).is_some() {
            self.counts.cancelled(why);
            self.tell(id, Happening::Unwanted(why), fx);
        }
        if let Some(ticket) = self.dispatch.abort(id) {
            self.counts.cancelled(why);
            self.tell(id, Happening::Unwanted(why), fx);
            fx.push(Effect::Host(HostOrder::AbortSnapshot(ticket)));
        }
    }

    /// What a snapshot of a waiting or suspended run is of.
    fn ticket(&self, id: RunId) -> Option<Ticket> {
        let run = self.runs.get(&id)?;
        let binding = self.bindings.holder(id)?;
        Some(Ticket {
            run: id,
            runner: binding.runner.clone(),
            epoch: binding.epoch,
            suspension: run.suspension,
        })
    }

    /// Whether all that a ticket says still holds, and the run waits.
    fn is_wanted(&self, ticket: &Ticket) -> bool {
        let waits = matches!(self.phase(ticket.run), Some(Phase::Waiting { .. }));
        waits && self.ticket(ticket.run).as_ref() == Some(ticket)
    }

    /// Arms the snapshot of a waiting run whose runner is connected, if it pays off.
    fn arm(&mut self, id: RunId, delay: Duration, failures: u32, now: &Now) -> SnapshotAnswer {
        let omitted = |reason| SnapshotAnswer::Omitted { reason };
        if self.policy.snapshots == Snapshotting::Unsupported {
            return omitted(SnapshotOmission::Unsupported);
        }
        let Some(ticket) = self.ticket(id) else { return omitted(SnapshotOmission::WaitOver) };
        if self.origin(&ticket.runner) == Origin::Foreign {
            return omitted(SnapshotOmission::ForeignRunner);
        }
        let cost = self.lane_of(id).map_or(Duration::ZERO, |lane| lane.restore_cost);
        match self.phase(id) {
            Some(Phase::Waiting { wait: WaitRequest::Timer { .. }, .. }) => {
                let left = self.timers.peek(&TimerKey::Run(id, RunTimer::Wait));
                let left = left.map(|timer| timer.deadline.saturating_since(now.moment));
                if left.is_none_or(|left| left < delay.saturating_add(cost)) {
                    return omitted(SnapshotOmission::ShortWait);
                }
            }
            Some(Phase::Waiting { wait: WaitRequest::Token { .. }, .. }) => {}
            Some(_) | None => return omitted(SnapshotOmission::WaitOver),
        }
        self.snapshots.arm(Pending { ticket, failures }, now.deadline(delay));
        SnapshotAnswer::Armed { delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The flight that has a runner in its hands.
    fn flight_of(&self, runner: &RunnerId) -> Option<&Flight> {
        self.dispatch.iter().find(|flight| flight.ticket.runner == *runner)
    }

    /// Takes a run from its runner.
    fn unbind(&mut self, id: RunId, now: &Now) -> Option<Binding> {
        self.stop_timers(id, now);
        let binding = self.bindings.release(id)?;
        self.change(id, |run| run.end_stint(now));
        self.watch_runner(&binding.runner, now);
        Some(binding)
    }

    /// Times a runner that holds a run and is not connected, unless the engine has it in its hands.
    fn watch_run(&mut self, id: RunId, now: &Now) {
        let at_work =
            matches!(self.phase(id), Some(Phase::Executing { .. } | Phase::Waiting { .. }));
        let Some(binding) = self.bindings.holder(id) else { return };
        let is_away = self.bindings.session_of(&binding.runner).is_none();
        if at_work && is_away && self.flight_of(&binding.runner).is_none() {
            let key = TimerKey::Run(id, RunTimer::Lost);
            if self.timers.peek(&key).is_none() {
                self.timers.insert(key, now.deadline(self.policy.lost_after), ());
            }
        }
    }

    /// Times a container that has no run: it lingers, or is idle.
    fn watch_runner(&mut self, runner: &RunnerId, now: &Now) {
        let key = TimerKey::Runner(runner.clone());
        self.timers.cancel(&key);
        let Some(resident) = self.admission.resident(runner) else { return };
        let has_run = self.bindings.run_of(runner).is_some();
        if resident.fate == Fate::Stopping || has_run || self.flight_of(runner).is_some() {
            return;
        }
        let session = self.bindings.session_of(runner);
        let lane = self.lanes.get(&resident.workload);
        let is_idle =
            session.is_some_and(|session| lane.is_some_and(|lane| lane.idle.contains(&session)));
        let patience = if is_idle { self.policy.idle_timeout } else { self.policy.linger };
        self.timers.insert(key, now.deadline(patience), ());
    }

    /// A container without a run is about to ask for one: as many runs as are expected for wait so
    /// long for theirs.
    fn expect(&mut self, runner: &RunnerId, patience: Duration, now: &Now) {
        let Some(resident) = self.admission.resident(runner) else { return };
        let is_free = self.bindings.run_of(runner).is_none() && self.flight_of(runner).is_none();
        if resident.fate == Fate::Stays
            && is_free
            && let Some(lane) = self.lanes.get_mut(&resident.workload)
        {
            lane.expected.insert(runner.clone());
            let until = now.deadline(patience);
            self.timers.insert(TimerKey::Expected(runner.clone()), until, ());
        }
    }

    /// A container has asked, or is not expected to any more.
    fn unexpect(&mut self, runner: &RunnerId) {
        self.timers.cancel(&TimerKey::Expected(runner.clone()));
        if let Some(resident) = self.admission.resident(runner)
            && let Some(lane) = self.lanes.get_mut(&resident.workload)
        {
            lane.expected.remove(runner);
        }
    }

    fn stop_runner(&mut self, runner: &RunnerId, fx: &mut Vec<Effect>) {
        if self.admission.begin_stop(runner) {
            self.unexpect(runner);
            self.timers.cancel(&TimerKey::Runner(runner.clone()));
            if let Some(session) = self.bindings.session_of(runner) {
                self.unidle(session);
            }
            fx.push(Effect::Host(HostOrder::StopRunner { runner: runner.clone() }));
        }
    }

    /// A session gets no run any more; says whether it had asked for one.
    fn unidle(&mut self, session: crate::core::bindings::SessionId) -> bool {
        let Some(open) = self.bindings.session(session) else { return false };
        let lane = self.lanes.get_mut(&open.workload);
        lane.is_some_and(|lane| lane.idle.remove(&session))
    }

    /// Ends the assignment or the attempt of a bound run without a result.
    fn end_attempt(
        &mut self,
        ended: EndedAttempt,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Option<NextForRun> {
        let EndedAttempt { run: id, failure, again, fate } = ended;
        self.end_snapshot(id, SnapshotUnwanted::AttemptEnded, fx);
        let stored = match (self.phase(id), fate) {
            (
                Some(Phase::Suspended { .. } | Phase::Leaving { .. } | Phase::Restoring { .. }),
                Fate::Stopping,
            ) => self.ticket(id),
            _ => None,
        };
        let binding = self.unbind(id, now)?;
        if let Some(lane) = self.lane_of(id) {
            lane.restores.remove(&id);
        }
        let hosted = self.admission.resident(&binding.runner).is_some();
        let fence = (fate == Fate::Stopping && hosted).then(|| binding.runner.clone());
        let cause = failure.to_string();
        let was_started = !matches!(self.phase(id), Some(Phase::Assigned));
        let next = self.change(id, |run| match run.phase {
            Phase::Assigned => run.fail_start(failure, now),
            _ => run.fail_attempt(failure, again, fence, now),
        });
        let next = next?.ok();
        if let Some(next) = &next {
            self.tell_failure(id, was_started, &cause, next, fx);
        }
        self.after_attempt(id, now);
        let dropped = stored.map(|ticket| self.drop_stored(ticket));
        self.save(id, now, fx);
        match (dropped, fate) {
            (Some(order), _) => fx.push(order),
            (None, Fate::Stopping) => self.stop_runner(&binding.runner, fx),
            (None, Fate::Stays) => {}
        }
        next
    }

    /// Tells of an assignment or an attempt that failed, and of the run if that was its last.
    fn tell_failure(
        &self,
        id: RunId,
        was_started: bool,
        cause: &str,
        next: &NextForRun,
        fx: &mut Vec<Effect>,
    ) {
        let Some(attempt) = self.runs.get(&id).map(|run| run.attempt) else { return };
        let next_try_at = match next {
            NextForRun::Retried { not_before } => Some(*not_before),
            NextForRun::Finished {} | NextForRun::Failed {} => None,
        };
        let told = || cause.to_owned();
        let what = if was_started {
            Happening::AttemptFailed { attempt, cause: told(), next_try_at }
        } else {
            Happening::NotStarted { cause: told(), next_try_at }
        };
        self.tell(id, what, fx);
        if let NextForRun::Failed {} = next {
            self.tell(id, Happening::Failed { attempts: attempt, cause: told() }, fx);
        }
    }

    /// Has a snapshot removed with its container. The flight is in the run's record until that is
    /// done, because a container that is stored is seen by nobody.
    fn drop_stored(&mut self, ticket: Ticket) -> Effect {
        self.admission.begin_stop(&ticket.runner);
        self.unexpect(&ticket.runner);
        self.timers.cancel(&TimerKey::Runner(ticket.runner.clone()));
        let order = Effect::Host(HostOrder::Drop(ticket.clone()));
        let stage = Stage::Dropping;
        self.dispatch.begin(Flight { ticket, stage, failures: 0, exit: None });
        order
    }

    /// Finds the place of a run that nobody holds any more.
    fn after_attempt(&mut self, id: RunId, now: &Now) {
        match self.phase(id) {
            Some(Phase::Queued { fence: Some(runner), .. }) => {
                self.fences.insert(runner.clone(), id);
            }
            Some(Phase::Queued { not_before, fence: None }) => match now.until(*not_before) {
                Duration::ZERO => self.queue(id),
                delay => self.start_timer(id, RunTimer::Ready, delay, now),
            },
            Some(Phase::Ended { .. }) => {
                self.start_timer(id, RunTimer::Retention, self.policy.retention, now);
            }
            Some(_) | None => {}
        }
    }

    /// A run is eligible.
    fn queue(&mut self, id: RunId) {
        let priority = self.runs.get(&id).map(|run| run.submission.priority);
        if let (Some(priority), Some(lane)) = (priority, self.lane_of(id)) {
            lane.queue(priority, id);
        }
    }

    /// Tells the runner of a run how it stands, if it can be told.
    fn tell_state(&self, id: RunId, fx: &mut Vec<Effect>) {
        let Some(session) = self.bindings.session_of_run(id) else { return };
        let Some(run) = self.runs.get(&id) else { return };
        let Some(standing) = run.standing() else { return };
        let notice = Notice::State(RunStanding { run: id, epoch: run.epoch, standing });
        fx.push(Effect::Tell { session, notice });
    }

    fn tell_released(
        &self,
        binding: &Binding,
        run: RunId,
        reason: ReleaseReason,
        fx: &mut Vec<Effect>,
    ) {
        if let Some(session) = self.bindings.session_of(&binding.runner) {
            let released = Released { run, epoch: binding.epoch, reason };
            fx.push(Effect::Tell { session, notice: Notice::Released(released) });
        }
    }

    /// Gives a run a new epoch and notes it in its binding.
    fn next_epoch(&mut self, id: RunId) -> Option<Epoch> {
        let run = self.runs.get_mut(&id)?;
        run.epoch = run.epoch.next();
        let epoch = run.epoch;
        self.bindings.rebind(id, epoch);
        Some(epoch)
    }
}

/// An assignment or attempt that ended without a result.
struct EndedAttempt {
    run: RunId,
    failure: Failure,
    again: Again,
    /// What becomes of a container that held it.
    fate: Fate,
}

#[cfg(test)]
mod tests;
