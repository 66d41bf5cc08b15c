//! The world that a hub lives in: containers, processes, operators, a clock, and an end without
//! warning between any two effects.

mod engine;
mod heard;
mod judged;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    Again, Attempt, AttemptOutcome, CompleteRequest, ContinueRequest, Empty, Epoch, Notice,
    Progress, Reply, RequestId, RunId, RunReference, RunnerId, RunnerNote, RunnerRequest,
    SuspendRequest, SuspensionId, WaitRequest, WaitpointId,
};
use belay_timer_wheel::Moment;
use jiff::Timestamp;
use serde_json::json;

use self::judged::order;
use super::account::{Account, After, Promise};
use super::{Dice, Tally};
use crate::core::bindings::SessionId;
use crate::core::event::{Ask, AskId, Effect, Event, HostOrder, RunRecord};
use crate::core::hub::tests::rig::{BEGIN_SECONDS, foreign, hosted, name, submission, workload};
use crate::core::hub::{Hosted, Hub, HubPolicy};
use crate::core::lane::WorkloadPolicy;
use crate::core::now::Now;
use crate::core::run::{Means, Phase};
use crate::core::snapshots::Ticket;

/// Runs that are not over at a time.
const MOST_RUNS: usize = 8;

/// A process that speaks for a runner.
#[derive(Debug, Clone)]
struct Process {
    runner: RunnerId,
    workload: WorkloadName,
    session: Option<SessionId>,
    work: Option<Work>,
}

/// What a process believes it is at.
#[derive(Debug, Clone)]
struct Work {
    run: RunId,
    epoch: Epoch,
    attempt: Attempt,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Assigned,
    Executing,
    Waiting(SuspensionId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Container {
    Running,
    Frozen { means: Means, by: Ticket },
}

/// A snapshot that the engine was ordered to take.
#[derive(Debug, Clone)]
enum Call {
    Ordered(Ticket),
    /// The process is frozen; the engine has not answered yet.
    Frozen(Ticket, Means),
}

/// One thing that happened.
#[derive(Debug)]
enum Line {
    Event(Event),
    Effect(Effect),
    Obeyed(HostOrder),
    Frozen(RunnerId),
    Killed { after: usize },
}

/// Lines of the story that are kept.
const STORY: usize = 200;

/// Whether things go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Rough,
    Calm,
}

/// What a reply and an answer are to.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    run: Option<RunId>,
    waitpoint: Option<WaitpointId>,
}

pub(super) struct World {
    dice: Dice,
    hub: Hub,
    policy: HubPolicy,
    workloads: Vec<(WorkloadName, WorkloadPolicy)>,
    now: Duration,
    ledger: BTreeMap<RunId, RunRecord>,
    processes: Vec<Process>,
    containers: BTreeMap<RunnerId, Container>,
    calls: Vec<Call>,
    orders: Vec<HostOrder>,
    /// Sessions that are no more.
    closed: Vec<(SessionId, RunnerId)>,
    numbers: u64,
    account: Account,
    weather: Weather,
    /// The last of what happened, as it is told when a promise breaks.
    story: VecDeque<(Duration, Line)>,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(dice: Dice) -> Self {
        let policy = HubPolicy {
            memory: 350,
            dispatches: 2,
            retention: Duration::from_secs(1_000_000),
            ..HubPolicy::default()
        };
        let workloads = vec![(workload("mail"), hosted(3)), (workload("news"), foreign(2))];
        let (hub, effects) =
            Hub::restart(policy, workloads.clone(), [], &[], &at(Duration::ZERO, 0));
        assert_eq!(effects, []);
        let process = |runner: &str| Process {
            runner: name(runner),
            workload: workload("news"),
            session: None,
            work: None,
        };
        // Two processes with one name are a runner that somebody started twice.
        let processes = ["f1", "f2", "f2", "f3"].map(process).to_vec();
        Self {
            dice,
            hub,
            policy,
            workloads,
            now: Duration::ZERO,
            ledger: BTreeMap::new(),
            processes,
            containers: BTreeMap::new(),
            calls: Vec::new(),
            orders: Vec::new(),
            closed: Vec::new(),
            numbers: 0,
            account: Account::default(),
            weather: Weather::Rough,
            story: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Lets one thing happen.
    pub(super) fn step(&mut self) {
        self.tally.steps += 1;
        match self.dice.below(40) {
            0..=1 => self.submit(),
            2..=6 => self.connect(),
            7 => self.disconnect(),
            8..=20 => self.work(),
            21..=22 => self.speak_late(),
            23..=31 => self.engine(),
            32 if self.dice.one_in(3) => self.die(),
            33 if self.dice.one_in(3) => self.cancel(),
            34 if self.dice.one_in(2) => self.complete_waitpoint(),
            35 if self.dice.one_in(8) => self.crash(usize::MAX),
            _ => self.pass(),
        }
    }

    fn tell(&mut self, line: Line) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back((self.now, line));
    }

    /// The last of what happened.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        for (now, line) in &self.story {
            let _ = match line {
                Line::Effect(Effect::Save(record)) => writeln!(
                    story,
                    "      Save {} {} epoch {} {:?} {:?} {:?}",
                    record.run.id,
                    record.run.state(),
                    record.run.epoch,
                    record.owner.as_ref().map(|owner| &owner.runner),
                    record.pending,
                    record.flight
                ),
                Line::Effect(effect) => writeln!(story, "      {effect:?}"),
                Line::Event(event) => writeln!(story, "  {now:?} {event:?}"),
                Line::Obeyed(order) => writeln!(story, "  {now:?} obeyed: {order:?}"),
                Line::Frozen(runner) => writeln!(story, "  {now:?} {runner} is frozen"),
                Line::Killed { after } => writeln!(story, "  {now:?} killed after {after} effects"),
            };
        }
        story
    }

    /// Whether something goes wrong, once in so many times.
    fn fails(&mut self, times: u64) -> bool {
        self.weather == Weather::Rough && self.dice.one_in(times)
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Hands in an event, carries out what it leads to, and looks whether all is well; or the power
    /// goes half way through.
    fn event(&mut self, event: Event, about: About) -> Vec<Effect> {
        let tick = if event == Event::Tick { After::Tick } else { After::Event };
        self.tell(Line::Event(event.clone()));
        let entropy = self.number();
        let effects = self.hub.handle(event, &at(self.now, entropy));
        for effect in &effects {
            self.tell(Line::Effect(effect.clone()));
        }
        order(&effects, about);
        let done = if self.fails(200) {
            usize::try_from(self.dice.next() % 8).expect("it is small")
        } else {
            usize::MAX
        };
        let (executed, lost) = effects.split_at(done.min(effects.len()));
        for effect in executed {
            self.carry_out(effect, about);
        }
        if lost.is_empty() {
            self.audit();
            self.account.check(&self.hub, self.now, tick);
            return effects;
        }
        let executed = executed.to_vec();
        self.crash(done);
        executed
    }

    fn carry_out(&mut self, effect: &Effect, about: About) {
        match effect {
            Effect::Save(record) => {
                // What is saved is kept, even if nobody was told yet.
                self.account.promises.entry(record.run.id).or_default();
                self.ledger.insert(record.run.id, (**record).clone());
                let waits =
                    matches!(record.run.phase, Phase::Waiting { .. } | Phase::Suspended { .. });
                if !waits {
                    // Time, loss and death end waits too, without anybody being told.
                    self.account.moved_on(record.run.id);
                }
            }
            Effect::Forget(run) => panic!("{run} is forgotten within its retention"),
            Effect::Remember(..) | Effect::ForgetTravel(_) => {
                panic!("nothing comes to this world from another")
            }
            Effect::Reply { session, result, .. } => self.replied(*session, result, about),
            Effect::Tell { session, notice } => self.told(*session, notice),
            Effect::Close { session, .. } => self.close(*session),
            Effect::Answer { result, .. } => self.answered(result, about),
            Effect::Host(order) => self.ordered(order),
            Effect::Happened(_) => {}
        }
    }

    fn process(&mut self, session: SessionId) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.session == Some(session))
    }

    /// The newest open session of a runner.
    fn session_of(&self, runner: &RunnerId) -> Option<SessionId> {
        let of = self.processes.iter().filter(|process| process.runner == *runner);
        of.filter_map(|process| process.session).max()
    }

    fn close(&mut self, session: SessionId) {
        if let Some(process) = self.process(session) {
            process.session = None;
            let runner = process.runner.clone();
            self.closed.push((session, runner));
        }
    }

    fn promise(&mut self, run: RunId) -> &mut Promise {
        self.account.promises.get_mut(&run).expect("it was accepted")
    }

    fn submit(&mut self) {
        let live = self.account.promises.values().filter(|promise| promise.end.is_none()).count();
        if live >= MOST_RUNS {
            return;
        }
        let of = if self.dice.one_in(4) { "news" } else { "mail" };
        let mut asked = submission(of);
        asked.delay = Duration::from_secs(self.dice.pick(&[0, 0, 0, 20]).unwrap_or_default());
        asked.timeout = self.dice.pick(&[None, Some(Duration::from_secs(90))]).flatten();
        asked.priority = i32::try_from(self.dice.below(3)).expect("it is small");
        let id = AskId(self.number());
        self.event(Event::Ask { id, ask: Ask::Submit(asked) }, About::default());
    }

    /// A process can act unless its container is frozen.
    fn is_awake(&self, process: &Process) -> bool {
        process.workload == workload("news")
            || self.containers.get(&process.runner) == Some(&Container::Running)
    }

    fn connect(&mut self) {
        let awake: Vec<usize> = (0..self.processes.len())
            .filter(|&at| self.is_awake(&self.processes[at]))
            // Now and then one connects though it is connected.
            .filter(|&at| self.processes[at].session.is_none() || self.numbers.is_multiple_of(7))
            .collect();
        if let Some(at) = self.dice.pick(&awake) {
            self.connect_process(at);
        }
    }

    fn connect_process(&mut self, at: usize) {
        let session = SessionId(self.number());
        let Process { runner, workload, session: before, .. } = self.processes[at].clone();
        if let Some(before) = before {
            self.closed.push((before, runner.clone()));
        }
        self.processes[at].session = Some(session);
        self.event(Event::Connected { session, runner, workload }, About::default());
    }

    fn disconnect(&mut self) {
        let open: Vec<SessionId> =
            self.processes.iter().filter_map(|process| process.session).collect();
        if self.dice.one_in(5)
            && let Some((session, _)) = self.dice.pick(&self.closed)
        {
            // The end of a session that was replaced is told late.
            let effects = self.event(Event::Disconnected { session }, About::default());
            assert_eq!(effects, [], "the end of a stale session");
            self.tally.stale += 1;
            return;
        }
        if let Some(session) = self.dice.pick(&open) {
            self.disconnect_session(session);
        }
    }

    fn disconnect_session(&mut self, session: SessionId) {
        let Some(process) = self.process(session) else { return };
        let runner = process.runner.clone();
        let is_newest = self.session_of(&runner) == Some(session);
        self.close(session);
        if is_newest {
            self.account.away(&runner, self.now, self.policy.reconnect_grace);
        }
        self.event(Event::Disconnected { session }, About::default());
    }

    fn work(&mut self) {
        let able: Vec<usize> = (0..self.processes.len())
            .filter(|&at| {
                self.processes[at].session.is_some() && self.is_awake(&self.processes[at])
            })
            .collect();
        let Some(at) = self.dice.pick(&able) else { return };
        let process = self.processes[at].clone();
        let session = process.session.expect("it is connected");
        // Who waits is mostly quiet, and so is who has nothing to do.
        let is_busy = matches!(&process.work, Some(work) if !matches!(work.mode, Mode::Waiting(_)));
        if !is_busy && !self.dice.one_in(3) {
            return;
        }
        let Some(work) = process.work else {
            self.send(session, RunnerRequest::Ready(Empty {}));
            return;
        };
        let reference = RunReference { run: work.run, epoch: work.epoch };
        let choice = self.dice.below(20);
        let request = match (work.mode, choice) {
            (_, 0) if self.dice.one_in(3) => {
                self.processes[at].work = None;
                RunnerRequest::Ready(Empty {})
            }
            (_, 1) if self.dice.one_in(3) => {
                self.processes[at].work = None;
                RunnerRequest::Stop(reference)
            }
            (Mode::Assigned, _) => RunnerRequest::Start(reference),
            (Mode::Executing | Mode::Waiting(_), 7) => {
                self.progress(session, reference);
                return;
            }
            (Mode::Executing, 2..=5) => RunnerRequest::Waitpoint(reference),
            (Mode::Executing, 6..=16) | (Mode::Waiting(_), 2..=3) => {
                RunnerRequest::Suspend(self.suspension(reference))
            }
            (Mode::Waiting(suspension), 5..=6) => RunnerRequest::Continue(ContinueRequest {
                run: work.run,
                epoch: work.epoch,
                suspension,
            }),
            (Mode::Executing, 17..) | (Mode::Waiting(_), 16) => {
                self.processes[at].work = None;
                self.completion(&work)
            }
            _ => return,
        };
        self.send(session, request);
    }

    fn suspension(&mut self, reference: RunReference) -> SuspendRequest {
        let known: Vec<WaitpointId> =
            self.promise(reference.run).waitpoints.keys().copied().collect();
        let wait = match self.dice.pick(&known) {
            Some(waitpoint) if !self.dice.one_in(4) => WaitRequest::Token { waitpoint },
            _ => {
                let seconds = self.dice.pick(&[-1, 3, 40, 36_000]).unwrap_or_default();
                let until = at(self.now, 0).wall.as_nanosecond() + seconds * 1_000_000_000;
                WaitRequest::Timer { until: Timestamp::from_nanosecond(until).expect("a time") }
            }
        };
        let snapshot_delay_ms = self.dice.pick(&[None, Some(0), Some(2_000), Some(100_000)]);
        SuspendRequest {
            run: reference.run,
            epoch: reference.epoch,
            wait,
            snapshot_delay_ms: snapshot_delay_ms.flatten(),
        }
    }

    fn completion(&mut self, work: &Work) -> RunnerRequest {
        let outcome = match self.dice.below(4) {
            0 => AttemptOutcome::Failed { error: "no".to_owned(), again: Again::Retry },
            1 if self.dice.one_in(4) => {
                AttemptOutcome::Failed { error: "never".to_owned(), again: Again::GiveUp }
            }
            _ => AttemptOutcome::Succeeded { output: json!(work.run.to_string()) },
        };
        let Work { run, epoch, attempt, .. } = *work;
        RunnerRequest::Complete(CompleteRequest { run, epoch, attempt, outcome })
    }

    fn progress(&mut self, session: SessionId, reference: RunReference) -> Vec<Effect> {
        let RunReference { run, epoch } = reference;
        if !self.is_stale(session, run, epoch) {
            self.account.moved_on(run);
            self.executes(session, run);
        }
        let note = RunnerNote::Progress(Progress { run, epoch });
        self.event(Event::Note { session, note }, About { run: Some(run), waitpoint: None })
    }

    fn send(&mut self, session: SessionId, request: RunnerRequest) -> Vec<Effect> {
        let id = RequestId::new(self.number());
        let run = match &request {
            RunnerRequest::Ready(_) => {
                // Whatever its runner holds it lets go of.
                let runner = self.runner_of(session);
                let held = self.held_by(runner.as_ref());
                if self.is_newest(session)
                    && let Some(run) = held
                {
                    self.account.moved_on(run);
                }
                None
            }
            RunnerRequest::Start(asked)
            | RunnerRequest::Waitpoint(asked)
            | RunnerRequest::Stop(asked) => Some(asked.run),
            RunnerRequest::Suspend(asked) => Some(asked.run),
            RunnerRequest::Continue(asked) => Some(asked.run),
            RunnerRequest::Complete(asked) => Some(asked.run),
        };
        let waitpoint = match &request {
            RunnerRequest::Suspend(SuspendRequest {
                wait: WaitRequest::Token { waitpoint },
                ..
            }) => Some(*waitpoint),
            _ => None,
        };
        self.event(Event::Request { session, id, request }, About { run, waitpoint })
    }

    fn runner_of(&self, session: SessionId) -> Option<RunnerId> {
        let open = self.processes.iter().find(|process| process.session == Some(session));
        open.map(|process| process.runner.clone())
    }

    fn held_by(&self, runner: Option<&RunnerId>) -> Option<RunId> {
        let held = |record: &&RunRecord| {
            runner.is_some() && record.owner.as_ref().map(|owner| &owner.runner) == runner
        };
        self.ledger.values().find(held).map(|record| record.run.id)
    }

    fn is_newest(&self, session: SessionId) -> bool {
        self.runner_of(session).is_some_and(|runner| self.session_of(&runner) == Some(session))
    }

    /// Whether a message can have no effect, whatever it says.
    fn is_stale(&self, session: SessionId, run: RunId, epoch: Epoch) -> bool {
        let Some(record) = self.ledger.get(&run) else { return true };
        let holder = record.owner.as_ref().map(|owner| &owner.runner);
        !self.is_newest(session)
            || holder != self.runner_of(session).as_ref()
            || record.run.epoch != epoch
    }

    /// A message of somebody who lost the run, or never had it.
    fn speak_late(&mut self) {
        let mut sessions: Vec<SessionId> =
            self.closed.iter().map(|(session, _)| *session).collect();
        sessions.extend(self.processes.iter().filter_map(|process| process.session));
        let runs: Vec<RunId> = self.ledger.keys().copied().collect();
        let (Some(session), Some(run)) = (self.dice.pick(&sessions), self.dice.pick(&runs)) else {
            return;
        };
        let record = &self.ledger[&run];
        let (attempt, last) = (record.run.attempt, record.run.epoch.get());
        let epoch = Epoch::new(last.saturating_sub(self.dice.below(3)));
        if !self.is_stale(session, run, epoch) {
            return;
        }
        let settled = self.ledger[&run].run.settled.clone();
        let reference = RunReference { run, epoch };
        let work = Work { run, epoch, attempt, mode: Mode::Executing };
        let request = match self.dice.below(6) {
            0 => RunnerRequest::Start(reference),
            1 => RunnerRequest::Stop(reference),
            2 => RunnerRequest::Suspend(self.suspension(reference)),
            3 => {
                let suspension = self.ledger[&run].run.suspension;
                RunnerRequest::Continue(ContinueRequest { run, epoch, suspension })
            }
            4 => self.completion(&work),
            _ => {
                let effects = self.progress(session, reference);
                let is_refusal = |effect: &Effect| {
                    matches!(effect, Effect::Tell { notice: Notice::Refused(_), .. })
                };
                assert!(effects.iter().all(is_refusal), "a stale note had effects: {effects:#?}");
                return;
            }
        };
        let is_repeated = matches!(request, RunnerRequest::Complete(_))
            && settled.is_some_and(|settled| {
                settled.attempt == attempt && self.runner_of(session) == Some(settled.runner)
            });
        let effects = self.send(session, request);
        self.tally.stale += 1;
        match &effects[..] {
            [Effect::Reply { result: Err(_), .. }] | [] => {}
            [Effect::Reply { result: Ok(Reply::Complete(_)), .. }] if is_repeated => {}
            effects => panic!("a stale request had effects: {effects:#?}"),
        }
    }

    fn cancel(&mut self) {
        let runs: Vec<RunId> = self.account.promises.keys().copied().collect();
        let Some(run) = self.dice.pick(&runs) else { return };
        if self.account.promises[&run].end.is_some() && !self.dice.one_in(10) {
            return;
        }
        let id = AskId(self.number());
        let about = About { run: Some(run), waitpoint: None };
        self.event(Event::Ask { id, ask: Ask::Cancel { run } }, about);
    }

    fn complete_waitpoint(&mut self) {
        let known: Vec<(RunId, WaitpointId)> = self
            .account
            .promises
            .iter()
            .flat_map(|(run, promise)| promise.waitpoints.keys().map(|found| (*run, *found)))
            .collect();
        if let Some((run, waitpoint)) = self.dice.pick(&known) {
            self.complete_one(run, waitpoint);
        }
    }

    fn complete_one(&mut self, run: RunId, waitpoint: WaitpointId) {
        let id = AskId(self.number());
        let output = json!(waitpoint.to_string());
        let about = About { run: Some(run), waitpoint: Some(waitpoint) };
        self.event(Event::Ask { id, ask: Ask::CompleteWaitpoint { waitpoint, output } }, about);
    }

    fn pass(&mut self) {
        let next = self.hub.next_deadline().map(Moment::since_origin);
        self.now = match (self.dice.below(3), next) {
            (0, Some(next)) if next < self.now + Duration::from_secs(3600) => next.max(self.now),
            (1, _) => self.now + Duration::from_secs(self.dice.below(40)),
            _ => self.now + Duration::from_millis(self.dice.below(3000)),
        };
        self.tick();
    }

    fn tick(&mut self) {
        self.account.tick(self.now);
        self.event(Event::Tick, About::default());
    }

    /// belayd is killed, and begins anew on what is in the ledger.
    fn crash(&mut self, done: usize) {
        self.tell(Line::Killed { after: done });
        self.tally.crashes += 1;
        self.orders.clear();
        for call in std::mem::take(&mut self.calls) {
            // Calls that were under way end by themselves, one way or the other.
            if let Call::Ordered(ticket) = call
                && self.containers.get(&ticket.runner) == Some(&Container::Running)
                && self.dice.one_in(2)
            {
                let means = Means::Checkpoint;
                let runner = ticket.runner.clone();
                self.containers.insert(runner, Container::Frozen { means, by: ticket });
            }
        }
        let open: Vec<SessionId> =
            self.processes.iter().filter_map(|process| process.session).collect();
        for session in open {
            self.close(session);
        }
        self.account.restarted(&self.ledger, self.now, &self.policy);
        let mut listed = Vec::new();
        for (runner, container) in &self.containers {
            let is_stored = matches!(container, Container::Frozen { means: Means::Checkpoint, .. });
            if !is_stored || self.dice.one_in(2) {
                listed.push(Hosted { runner: runner.clone(), workload: workload("mail") });
            }
        }
        let records: Vec<RunRecord> = self.ledger.values().cloned().collect();
        let entropy = self.number();
        let now = at(self.now, entropy);
        let (hub, effects) =
            Hub::restart(self.policy, self.workloads.clone(), records, &listed, &now);
        self.hub = hub;
        for effect in &effects {
            self.tell(Line::Effect(effect.clone()));
            self.carry_out(effect, About::default());
        }
        self.audit();
        self.account.check(&self.hub, self.now, After::Event);
    }

    /// Nothing goes wrong any more: every run that was accepted ends.
    pub(super) fn calm_down(&mut self) {
        self.weather = Weather::Calm;
        for round in 0..400_u64 {
            let all_over = self.hub.runs().all(crate::Run::is_ended);
            if all_over && self.hub.flights() == 0 && self.orders.is_empty() {
                for (runner, container) in &self.containers {
                    let is_known = self.hub.admission.resident(runner).is_some();
                    assert!(is_known, "{runner} is {container:?} and nobody's");
                    assert_eq!(*container, Container::Running, "{runner} is nobody's");
                }
                return;
            }
            for order in std::mem::take(&mut self.orders) {
                self.obey(order);
            }
            for call in std::mem::take(&mut self.calls) {
                self.call_goes_on(call);
            }
            for at in 0..self.processes.len() {
                let Some(process) = self.processes.get(at).cloned() else { break };
                if !self.is_awake(&process) {
                    continue;
                }
                // Of a runner that was started twice one has been told not to come back.
                let is_second = self.processes[..at].iter().any(|p| p.runner == process.runner);
                match process.session {
                    None if is_second => {}
                    None => self.connect_process(at),
                    Some(session) => self.finish(session, process.work),
                }
            }
            let open: Vec<(RunId, WaitpointId)> = self
                .account
                .promises
                .iter()
                .filter(|(_, promise)| promise.end.is_none())
                .flat_map(|(run, promise)| {
                    let open = promise.waitpoints.iter().filter(|(_, output)| output.is_none());
                    open.map(|(waitpoint, _)| (*run, *waitpoint))
                })
                .collect();
            for (run, waitpoint) in open {
                self.complete_one(run, waitpoint);
            }
            // Waits of hours end too.
            self.now += Duration::from_secs(if round < 100 { 5 } else { 3600 });
            self.tick();
        }
        let left: Vec<_> = self.hub.runs().filter(|run| !run.is_ended()).collect();
        panic!("these never end: {left:#?}, orders {:?}, calls {:?}", self.orders, self.calls);
    }

    fn finish(&mut self, session: SessionId, work: Option<Work>) {
        let Some(work) = work else {
            self.send(session, RunnerRequest::Ready(Empty {}));
            return;
        };
        let Work { run, epoch, attempt, mode } = work;
        let request = match mode {
            Mode::Assigned => RunnerRequest::Start(RunReference { run, epoch }),
            Mode::Waiting(suspension) => {
                RunnerRequest::Continue(ContinueRequest { run, epoch, suspension })
            }
            Mode::Executing => {
                if let Some(process) = self.process(session) {
                    process.work = None;
                }
                let outcome = AttemptOutcome::Succeeded { output: json!(run.to_string()) };
                RunnerRequest::Complete(CompleteRequest { run, epoch, attempt, outcome })
            }
        };
        self.send(session, request);
    }
}

fn at(elapsed: Duration, entropy: u64) -> Now {
    let begin = Timestamp::from_second(BEGIN_SECONDS).expect("a time").as_nanosecond();
    let nanos = begin + i128::try_from(elapsed.as_nanos()).expect("a world is short");
    let wall = Timestamp::from_nanosecond(nanos).expect("a time");
    Now { moment: Moment::at(elapsed), wall, entropy }
}

fn runner_of(order: &HostOrder) -> &RunnerId {
    match order {
        HostOrder::StartRunner { runner, .. } | HostOrder::StopRunner { runner } => runner,
        HostOrder::TakeSnapshot(ticket)
        | HostOrder::AbortSnapshot(ticket)
        | HostOrder::FindSnapshot(ticket)
        | HostOrder::PutBack(ticket)
        | HostOrder::Drop(ticket)
        | HostOrder::Restore(ticket) => &ticket.runner,
    }
}
