//! A hub with a clock, a ledger and words for what tests do with it.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    Again, AttemptOutcome, CompleteRequest, ContinueRequest, Empty, Epoch, Notice, Progress, Reply,
    RequestId, RunId, RunReference, RunStanding, RunnerErrorCode, RunnerId, RunnerNote,
    RunnerRequest, SnapshotAnswer, Standing, SuspendRequest, Suspended, SuspensionId, TravelId,
    WaitRequest, WaitpointId,
};
use belay_timer_wheel::Moment;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::core::bindings::SessionId;
use crate::core::event::{
    Answer, Ask, AskId, Effect, Event, HostEvent, HostOrder, Refusal, RunRecord, SnapshotOutcome,
};
use crate::core::hub::{Hosted, Hub, HubPolicy};
use crate::core::lane::{RunnerSource, WorkloadPolicy};
use crate::core::now::Now;
use crate::core::run::{Exit, Means, Submission};
use crate::core::snapshots::Ticket;

/// 2026-11-22T07:00:00Z.
pub(super) const BEGIN_SECONDS: i64 = 1_795_330_800;

pub(super) fn name(text: &str) -> RunnerId {
    text.parse().expect("a test names runners well")
}

pub(super) fn workload(text: &str) -> WorkloadName {
    text.parse().expect("a test names workloads well")
}

pub(super) fn submission(of: &str) -> Submission {
    Submission {
        workload: workload(of),
        payload: json!({"job": 1}),
        idempotency_key: None,
        priority: 0,
        delay: Duration::ZERO,
        timeout: None,
        max_attempts: 3,
    }
}

pub(super) fn hosted(max_concurrent: u32) -> WorkloadPolicy {
    WorkloadPolicy {
        max_concurrent,
        runners: RunnerSource::Hosted { memory: 100 },
        snapshot_delay: Duration::from_secs(30),
    }
}

pub(super) fn foreign(max_concurrent: u32) -> WorkloadPolicy {
    WorkloadPolicy { runners: RunnerSource::Foreign, ..hosted(max_concurrent) }
}

/// The hub and its surroundings.
pub(super) struct Rig {
    pub(super) hub: Hub,
    policy: HubPolicy,
    workloads: Vec<(WorkloadName, WorkloadPolicy)>,
    /// Nanoseconds since the rig began.
    pub(super) elapsed: Duration,
    /// Seconds by which the wall clock was stepped.
    pub(super) stepped: i64,
    pub(super) ledger: BTreeMap<RunId, RunRecord>,
    /// The ways by which runs came, in the ledger.
    pub(super) travels: BTreeMap<TravelId, Timestamp>,
    /// What the last call led to.
    pub(super) effects: Vec<Effect>,
    numbers: u64,
}

/// A run at a runner.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) run: RunId,
    pub(super) epoch: Epoch,
    pub(super) runner: RunnerId,
    pub(super) session: SessionId,
}

impl Rig {
    pub(super) fn new(policy: HubPolicy, workloads: &[(&str, WorkloadPolicy)]) -> Self {
        let mut hub = Hub::new(policy);
        let workloads: Vec<_> =
            workloads.iter().map(|&(name, policy)| (workload(name), policy)).collect();
        for (workload, policy) in workloads.clone() {
            let at = Now {
                moment: Moment::ORIGIN,
                wall: Timestamp::from_second(BEGIN_SECONDS).expect("a time"),
                entropy: 0,
            };
            assert_eq!(hub.handle(Event::Declared { workload, policy }, &at), []);
        }
        Self {
            hub,
            policy,
            workloads,
            elapsed: Duration::ZERO,
            stepped: 0,
            ledger: BTreeMap::new(),
            travels: BTreeMap::new(),
            effects: Vec::new(),
            numbers: 0,
        }
    }

    /// With one hosted workload, `mail`.
    pub(super) fn hosted() -> Self {
        Self::new(HubPolicy::default(), &[("mail", hosted(10))])
    }

    pub(super) fn now(&mut self) -> Now {
        let wall = Timestamp::from_second(BEGIN_SECONDS + self.stepped).expect("a time");
        let elapsed = i128::try_from(self.elapsed.as_nanos()).expect("a test is short");
        Now {
            moment: Moment::at(self.elapsed),
            wall: Timestamp::from_nanosecond(wall.as_nanosecond() + elapsed).expect("a time"),
            entropy: self.number(),
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Hands in an event, and keeps what it leads to, in the ledger too.
    pub(super) fn event(&mut self, event: Event) -> &[Effect] {
        let now = self.now();
        self.effects = self.hub.handle(event, &now);
        self.carry_out();
        &self.effects
    }

    fn carry_out(&mut self) {
        for effect in &self.effects {
            match effect {
                Effect::Save(record) => {
                    self.ledger.insert(record.run.id, (**record).clone());
                }
                Effect::Forget(run) => {
                    self.ledger.remove(run);
                }
                Effect::Remember(travel, until) => {
                    self.travels.insert(*travel, *until);
                }
                Effect::ForgetTravel(travel) => {
                    self.travels.remove(travel);
                }
                Effect::Reply { .. }
                | Effect::Tell { .. }
                | Effect::Close { .. }
                | Effect::Answer { .. }
                | Effect::Host(_)
                | Effect::Happened(_) => {}
            }
        }
    }

    /// Lets time pass, with a tick at every deadline on the way; returns all effects.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.elapsed + time;
        let mut all = Vec::new();
        while let Some(next) = self.hub.next_deadline()
            && next.since_origin() <= end
        {
            self.elapsed = self.elapsed.max(next.since_origin());
            all.extend_from_slice(self.event(Event::Tick));
        }
        self.elapsed = end;
        all.extend_from_slice(self.event(Event::Tick));
        self.effects.clone_from(&all);
        all
    }

    pub(super) fn seconds(&mut self, seconds: u64) -> Vec<Effect> {
        self.pass(Duration::from_secs(seconds))
    }

    /// The process is killed and begins anew on its ledger.
    pub(super) fn restart(&mut self, hosted: &[Hosted]) {
        let now = self.now();
        let records: Vec<RunRecord> = self.ledger.values().cloned().collect();
        let (hub, effects) =
            Hub::restart(self.policy, self.workloads.clone(), records, hosted, &now);
        self.hub = hub;
        self.hub.recall(self.travels.clone());
        self.effects = effects;
        self.carry_out();
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Result<Answer, Refusal> {
        let id = AskId(self.number());
        self.event(Event::Ask { id, ask });
        let answer = self.effects.iter().find_map(|effect| match effect {
            Effect::Answer { id: answered, result } if *answered == id => Some(result.clone()),
            _ => None,
        });
        answer.expect("every question is answered")
    }

    pub(super) fn submit(&mut self, submission: Submission) -> RunId {
        match self.ask(Ask::Submit(submission)) {
            Ok(Answer::Submitted { run, .. }) => run,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(super) fn connect(&mut self, runner: &RunnerId, of: &str) -> SessionId {
        let session = SessionId(self.number());
        let event = Event::Connected { session, runner: runner.clone(), workload: workload(of) };
        self.event(event);
        session
    }

    pub(super) fn disconnect(&mut self, session: SessionId) {
        self.event(Event::Disconnected { session });
    }

    pub(super) fn request(
        &mut self,
        session: SessionId,
        request: RunnerRequest,
    ) -> Result<Reply, RunnerErrorCode> {
        let id = RequestId::new(self.number());
        self.event(Event::Request { session, id, request });
        let mut answers = self.effects.iter().filter_map(|effect| match effect {
            Effect::Reply { id: answered, result, .. } if *answered == id => Some(result.clone()),
            _ => None,
        });
        let answer = answers.next().expect("every request is answered");
        assert!(answers.next().is_none(), "once");
        answer.map_err(|error| error.code)
    }

    pub(super) fn ready(&mut self, session: SessionId) -> Result<Reply, RunnerErrorCode> {
        self.request(session, RunnerRequest::Ready(Empty {}))
    }

    /// The last `state` that a session was told.
    pub(super) fn state(&self, session: SessionId) -> Option<RunStanding> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Tell { session: told, notice: Notice::State(state) } if *told == session => {
                Some(state.clone())
            }
            _ => None,
        })
    }

    pub(super) fn orders(&self) -> Vec<HostOrder> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::Host(order) => Some(order.clone()),
            _ => None,
        });
        orders.collect()
    }

    /// The container that was just ordered.
    pub(super) fn started_runner(&self) -> RunnerId {
        let started = self.orders().into_iter().find_map(|order| match order {
            HostOrder::StartRunner { runner, .. } => Some(runner),
            _ => None,
        });
        started.expect("a container was ordered")
    }

    /// Submits a run of `mail`, and starts it on a container.
    pub(super) fn executing(&mut self) -> Held {
        let run = self.submit(submission("mail"));
        if self.hub.holder(run).is_none() {
            // A container that has just finished another run is waited for, and does not ask.
            self.pass(self.policy.handover);
        }
        let runner = self.started_runner();
        let session = self.connect(&runner, "mail");
        let state = self.state(session).expect("its run is told");
        assert_eq!(state.run, run);
        let held = Held { run, epoch: state.epoch, runner, session };
        let started = self.start(&held);
        assert!(matches!(started, Ok(Reply::Start(_))), "{started:?}");
        held
    }

    /// The same, with the run waiting on a token.
    pub(super) fn waiting(&mut self) -> (Held, WaitpointId) {
        let held = self.executing();
        let waitpoint = self.waitpoint(&held);
        self.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it executes");
        (held, waitpoint)
    }

    pub(super) fn reference(held: &Held) -> RunReference {
        RunReference { run: held.run, epoch: held.epoch }
    }

    pub(super) fn start(&mut self, held: &Held) -> Result<Reply, RunnerErrorCode> {
        self.request(held.session, RunnerRequest::Start(Self::reference(held)))
    }

    pub(super) fn stop(&mut self, held: &Held) -> Result<Reply, RunnerErrorCode> {
        self.request(held.session, RunnerRequest::Stop(Self::reference(held)))
    }

    pub(super) fn waitpoint(&mut self, held: &Held) -> WaitpointId {
        let request = RunnerRequest::Waitpoint(Self::reference(held));
        match self.request(held.session, request) {
            Ok(Reply::Waitpoint(created)) => created.waitpoint,
            other => panic!("no waitpoint: {other:?}"),
        }
    }

    pub(super) fn suspend(
        &mut self,
        held: &Held,
        wait: WaitRequest,
        snapshot_delay_ms: Option<u64>,
    ) -> Result<Suspended, RunnerErrorCode> {
        let asked = SuspendRequest { run: held.run, epoch: held.epoch, wait, snapshot_delay_ms };
        match self.request(held.session, RunnerRequest::Suspend(asked)) {
            Ok(Reply::Suspend(suspended)) => Ok(suspended),
            Ok(other) => panic!("a suspension is answered by {other:?}"),
            Err(code) => Err(code),
        }
    }

    /// A timer that ends this many seconds from now.
    pub(super) fn timer(&mut self, seconds: i64) -> WaitRequest {
        let nanos = self.now().wall.as_nanosecond() + i128::from(seconds) * 1_000_000_000;
        WaitRequest::Timer { until: Timestamp::from_nanosecond(nanos).expect("a time") }
    }

    pub(super) fn continue_run(
        &mut self,
        held: &Held,
        suspension: u64,
    ) -> Result<Reply, RunnerErrorCode> {
        let suspension = SuspensionId::new(suspension);
        let asked = ContinueRequest { run: held.run, epoch: held.epoch, suspension };
        self.request(held.session, RunnerRequest::Continue(asked))
    }

    pub(super) fn progress(&mut self, held: &Held) {
        let note = RunnerNote::Progress(Progress { run: held.run, epoch: held.epoch });
        self.event(Event::Note { session: held.session, note });
    }

    pub(super) fn complete(
        &mut self,
        held: &Held,
        outcome: AttemptOutcome,
    ) -> Result<Reply, RunnerErrorCode> {
        let attempt = self.hub.run(held.run).expect("the run is remembered").attempt;
        let asked = CompleteRequest { run: held.run, epoch: held.epoch, attempt, outcome };
        self.request(held.session, RunnerRequest::Complete(asked))
    }

    pub(super) fn finish(&mut self, held: &Held) -> Result<Reply, RunnerErrorCode> {
        self.complete(held, AttemptOutcome::Succeeded { output: json!("done") })
    }

    pub(super) fn complete_waitpoint(
        &mut self,
        waitpoint: WaitpointId,
        output: Value,
    ) -> Result<Answer, Refusal> {
        self.ask(Ask::CompleteWaitpoint { waitpoint, output })
    }

    pub(super) fn cancel(&mut self, run: RunId) -> Result<Answer, Refusal> {
        self.ask(Ask::Cancel { run })
    }

    pub(super) fn host(&mut self, event: HostEvent) {
        self.event(Event::Host(event));
    }

    pub(super) fn exited(&mut self, runner: &RunnerId, code: i64) {
        let exit = Exit { code: Some(code), ..Exit::default() };
        self.host(HostEvent::Exited { runner: runner.clone(), exit });
    }

    pub(super) fn taken(&mut self, ticket: &Ticket) {
        let outcome = SnapshotOutcome::Taken(Means::Checkpoint);
        self.host(HostEvent::Snapshot { ticket: ticket.clone(), outcome });
    }

    pub(super) fn not_taken(&mut self, ticket: &Ticket) {
        let outcome = SnapshotOutcome::NotTaken { reason: "the engine said no".to_owned() };
        self.host(HostEvent::Snapshot { ticket: ticket.clone(), outcome });
    }

    pub(super) fn settled(&mut self, ticket: &Ticket) {
        self.host(HostEvent::Settled { ticket: ticket.clone() });
    }

    pub(super) fn state_of(&self, run: RunId) -> &'static str {
        self.hub.run(run).expect("the run is remembered").state()
    }

    /// The runner is back on a new socket, and is told its run.
    pub(super) fn reconnect(&mut self, held: &Held) -> Held {
        let session = self.connect(&held.runner, "mail");
        let state = self.state(session).expect("its run is told");
        assert_eq!(state.run, held.run);
        assert!(state.epoch > held.epoch, "every binding has its epoch");
        Held { epoch: state.epoch, session, ..held.clone() }
    }
}

/// The snapshots that effects order.
pub(super) fn ordered(effects: &[Effect]) -> Vec<Ticket> {
    let tickets = effects.iter().filter_map(|effect| match effect {
        Effect::Host(HostOrder::TakeSnapshot(ticket)) => Some(ticket.clone()),
        _ => None,
    });
    tickets.collect()
}

pub(super) fn failed(again: Again) -> AttemptOutcome {
    AttemptOutcome::Failed { error: "the mail server is away".to_owned(), again }
}

pub(super) fn armed(delay_ms: u64) -> SnapshotAnswer {
    SnapshotAnswer::Armed { delay_ms }
}

/// Where the first effect that is like this stands.
pub(super) fn place(effects: &[Effect], like: impl Fn(&Effect) -> bool) -> usize {
    effects.iter().position(like).unwrap_or_else(|| panic!("not among {effects:#?}"))
}

pub(super) fn is_waiting(standing: &Standing) -> bool {
    matches!(standing, Standing::Waiting { .. })
}

/// The hosted runners of a rig that run.
pub(super) fn listed(held: &[&Held]) -> Vec<Hosted> {
    held.iter()
        .map(|held| Hosted { runner: held.runner.clone(), workload: workload("mail") })
        .collect()
}

/// A waiting run whose snapshot is in the engine's hands.
pub(super) fn dispatching(rig: &mut Rig) -> (Held, WaitpointId, Ticket) {
    let (held, waitpoint) = rig.waiting();
    let mut tickets = ordered(&rig.seconds(30));
    tickets.retain(|ticket| ticket.run == held.run);
    let ticket = tickets.pop().expect("it is due");
    assert_eq!(tickets, []);
    (held, waitpoint, ticket)
}

/// A run whose runner is checkpointed.
pub(super) fn suspended(rig: &mut Rig) -> (Held, WaitpointId) {
    let (held, waitpoint, ticket) = dispatching(rig);
    rig.taken(&ticket);
    assert_eq!(rig.state_of(held.run), "suspended");
    (held, waitpoint)
}
