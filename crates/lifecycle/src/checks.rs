//! Asks a running process: until it is ready, and for as long as it runs after that.
//!
//! One incarnation at a time. Everything that waits is in [`Checks::next`], so that whoever owns the
//! checks stays free to stop the process while a question is under way; an answer that comes after
//! its time, or about another incarnation, is dropped.

use std::time::Duration;

use belay_protocol::ProbeSeen;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::gate::{Gate, GateReport, GateRules, GateVerdict};
use crate::core::liveness::{Health, LiveRules, Liveness, Past};
use crate::core::observation::{Class, Counts, Observation};
use crate::probe::{Prober, Target};

/// Pause between two looks at a process that is up and not ready, after its wait has ended.
const UNREADY_INTERVAL: Duration = Duration::from_secs(10);

/// Within this time a process that an earlier belayd found ready is asked again.
const FIRST_AGAIN: Duration = Duration::from_secs(2);

/// How long questions that are under way may take once belayd ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Questions under way, those that are past their time included. A command that the engine is slow
/// to end is not joined by ever more of them.
const UNDER_WAY: usize = 3;

/// What is asked of an incarnation.
#[derive(Debug, Clone)]
pub(crate) struct CheckPlan {
    pub(crate) ready: Ask,
    pub(crate) gate: GateRules,
    pub(crate) live: Option<(Ask, LiveRules)>,
}

/// A question, and how long its answer may take.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) target: Target,
    pub(crate) limit: Duration,
}

/// What an incarnation brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brought {
    /// Nothing: it is new, or not known.
    Nothing,
    /// A belayd before this one found it ready.
    Ready,
    /// A belayd before this one found it unhealthy.
    Unhealthy,
}

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Ready,
    Live,
}

/// What happened to the checks.
#[derive(Debug)]
pub(crate) enum CheckEvent {
    /// A question was answered, or its time has passed.
    Answered(Answer),
    /// The wait for readiness has come to its cap.
    GateEnded,
}

/// An answer that is still wanted.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) question: Question,
    pub(crate) observation: Observation,
}

/// How a wait for readiness stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateOutcome {
    /// Under way.
    Open,
    /// An earlier belayd found it ready, and nothing has disproved it since.
    Kept,
    /// Ready.
    Ready,
    /// Not ready in time, left running and asked at leisure.
    Missed,
}

/// The checks of one workload.
#[derive(Debug)]
pub(crate) struct Checks<P> {
    prober: P,
    born: Instant,
    watched: Option<Watched>,
    tasks: JoinSet<(u64, Observation)>,
    newest_ticket: u64,
    ready: Tally,
    live: Tally,
}

/// What was answered to one question.
#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    last: Option<ProbeSeen>,
}

#[derive(Debug)]
struct Watched {
    plan: CheckPlan,
    began: Duration,
    gate: Gate,
    outcome: GateOutcome,
    gate_next: Next,
    live: Option<LiveRun>,
    /// What the wait saw that ended without readiness.
    missed: Option<GateReport>,
}

#[derive(Debug)]
struct LiveRun {
    liveness: Liveness,
    next: Next,
}

/// What comes next of a question.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// It is asked at this time.
    AskAt(Instant),
    /// It is under way under this ticket, and its time ends then.
    Asked { ticket: u64, until: Instant, limit: Duration },
    /// It is not asked any more, and the wait ends then.
    EndsAt(Instant),
    /// Nothing.
    Rest,
}

impl<P: Prober> Checks<P> {
    pub(crate) fn new(prober: P) -> Self {
        Self {
            prober,
            born: Instant::now(),
            watched: None,
            tasks: JoinSet::new(),
            newest_ticket: 0,
            ready: Tally::default(),
            live: Tally::default(),
        }
    }

    /// Monotonic time since these checks began to exist.
    pub(crate) fn clock(&self) -> Duration {
        self.born.elapsed()
    }

    /// Begins to ask this incarnation. Whatever was asked of another one is forgotten.
    ///
    /// `chance` is a number from 0 to 1; by it the workloads of a node that started together are not
    /// asked all at once.
    pub(crate) fn watch(
        &mut self,
        plan: CheckPlan,
        incarnation: String,
        brought: Brought,
        chance: f64,
    ) {
        if let Some(watched) = &mut self.watched
            && watched.outcome == GateOutcome::Open
            && brought == Brought::Nothing
        {
            // Restarted by somebody else while it was waited for: the cap of the wait stays.
            watched.gate.restarted(&incarnation);
            watched.plan = plan;
            watched.gate_next = Next::AskAt(Instant::now());
            return;
        }
        let began = self.clock();
        let now = Instant::now();
        let delay = match brought {
            Brought::Nothing => Duration::ZERO,
            Brought::Ready | Brought::Unhealthy => FIRST_AGAIN.mul_f64(chance.clamp(0.0, 1.0)),
        };
        let soon = now + delay;
        let gate = Gate::new(plan.gate, began + delay, incarnation.clone());
        let (outcome, gate_next) = match brought {
            Brought::Nothing => (GateOutcome::Open, Next::AskAt(soon)),
            // There is nothing to ask about: the same process is the answer.
            Brought::Ready | Brought::Unhealthy if plan.ready.target == Target::Process => {
                (GateOutcome::Ready, Next::Rest)
            }
            Brought::Ready | Brought::Unhealthy => (GateOutcome::Kept, Next::AskAt(soon)),
        };
        let past = match brought {
            Brought::Nothing => None,
            Brought::Ready => Some(Past::Ready),
            Brought::Unhealthy => Some(Past::Unhealthy),
        };
        let live = plan.live.as_ref().zip(past).map(|((_, rules), past)| LiveRun {
            liveness: Liveness::new(*rules, began, incarnation, past),
            next: Next::AskAt(soon),
        });
        self.ready.last = None;
        self.live.last = None;
        self.watched = Some(Watched { plan, began, gate, outcome, gate_next, live, missed: None });
    }

    /// Asks nothing any more: the process is gone, or is about to be.
    pub(crate) fn end(&mut self) {
        self.watched = None;
    }

    /// The incarnation that is asked.
    pub(crate) fn incarnation(&self) -> Option<&str> {
        self.watched.as_ref().map(|watched| watched.gate.incarnation())
    }

    /// How the wait for this incarnation's readiness stands.
    pub(crate) fn outcome(&self) -> Option<GateOutcome> {
        self.watched.as_ref().map(|watched| watched.outcome)
    }

    /// The liveness of this incarnation, if it is asked for.
    pub(crate) fn liveness(&self) -> Option<&Liveness> {
        Some(&self.watched.as_ref()?.live.as_ref()?.liveness)
    }

    /// What came of the wait for this incarnation's readiness so far.
    pub(crate) fn verdict(&self) -> Option<GateVerdict> {
        self.watched.as_ref().map(|watched| watched.gate.verdict())
    }

    /// What the wait for readiness saw.
    pub(crate) fn report(&self) -> Option<GateReport> {
        let watched = self.watched.as_ref()?;
        let now = || watched.gate.report(self.clock());
        Some(watched.missed.clone().unwrap_or_else(now))
    }

    /// What was answered since these checks began to exist, of every incarnation.
    pub(crate) fn counts(&self, question: Question) -> Counts {
        self.tally(question).counts
    }

    /// What was seen last of this incarnation.
    pub(crate) fn seen(&self, question: Question) -> Option<&ProbeSeen> {
        self.tally(question).last.as_ref()
    }

    /// Good answers in a row about readiness.
    pub(crate) fn good(&self) -> u32 {
        self.watched.as_ref().map_or(0, |watched| watched.gate.good())
    }

    fn tally(&self, question: Question) -> &Tally {
        match question {
            Question::Ready => &self.ready,
            Question::Live => &self.live,
        }
    }

    /// Asks what is due and waits for the next answer; for ever when nothing is asked. May be
    /// dropped at any time and called again.
    pub(crate) async fn next(&mut self) -> CheckEvent {
        loop {
            self.ask_what_is_due();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => {
                    // A question that failed for a fault of its own is one without an answer.
                    if let Ok((ticket, observation)) = done
                        && let Some(question) = self.question_of(ticket)
                    {
                        return CheckEvent::Answered(Answer { question, observation });
                    }
                }
                () = sleep_until(wake) => {
                    if let Some(event) = self.passed() {
                        return event;
                    }
                }
            }
        }
    }

    /// Waits for the questions under way, so that the commands among them are ended.
    pub(crate) async fn drain(&mut self) {
        self.end();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    /// Takes an answer about readiness while `running` is the process that runs.
    pub(crate) fn take_ready(&mut self, answer: Observation, running: &str) -> Option<GateVerdict> {
        let now = self.clock();
        self.ready.add(&answer);
        let at = |at: Duration| Next::AskAt(self.born + at);
        let watched = self.watched.as_mut()?;
        let class = answer.class;
        let verdict = watched.gate.observe(now, running, answer);
        watched.gate_next = match verdict {
            GateVerdict::ProbeAt(next) => at(next),
            GateVerdict::EndsAt(cap) => Next::EndsAt(self.born + cap),
            GateVerdict::Ready | GateVerdict::TimedOut | GateVerdict::Never => Next::Rest,
        };
        match (watched.outcome, verdict, class) {
            (_, GateVerdict::Ready, _) => self.is_ready(),
            (GateOutcome::Missed, _, Class::Failing | Class::Inconclusive | Class::Never)
            | (GateOutcome::Missed, GateVerdict::TimedOut, Class::Good) => {
                self.look_at_leisure();
                return None;
            }
            // It is disproved: it has to show again that it is ready.
            (GateOutcome::Kept, _, Class::Failing | Class::Never) => {
                watched.outcome = GateOutcome::Open;
            }
            (GateOutcome::Kept, GateVerdict::TimedOut, Class::Good | Class::Inconclusive) => {
                return self.keep();
            }
            (
                GateOutcome::Open | GateOutcome::Kept | GateOutcome::Ready | GateOutcome::Missed,
                GateVerdict::ProbeAt(_)
                | GateVerdict::EndsAt(_)
                | GateVerdict::TimedOut
                | GateVerdict::Never,
                Class::Good | Class::Failing | Class::Inconclusive | Class::Never,
            ) => {}
        }
        Some(verdict)
    }

    /// Asks about readiness once more: the last answer was of no use.
    pub(crate) fn ask_again(&mut self) {
        if let Some(watched) = &mut self.watched {
            let wait = watched.gate.expire(self.born.elapsed());
            let over = matches!(wait, GateVerdict::TimedOut | GateVerdict::Never);
            watched.gate_next = match watched.outcome {
                GateOutcome::Open if over => Next::Rest,
                GateOutcome::Open
                | GateOutcome::Kept
                | GateOutcome::Ready
                | GateOutcome::Missed => Next::AskAt(Instant::now() + watched.plan.gate.interval),
            };
        }
    }

    /// Takes the end of the wait for readiness.
    pub(crate) fn take_end(&mut self) -> Option<GateVerdict> {
        let now = self.clock();
        let watched = self.watched.as_mut()?;
        let verdict = watched.gate.expire(now);
        match watched.outcome {
            GateOutcome::Missed => {
                self.look_at_leisure();
                None
            }
            GateOutcome::Kept if verdict == GateVerdict::TimedOut => self.keep(),
            GateOutcome::Open | GateOutcome::Kept | GateOutcome::Ready => Some(verdict),
        }
    }

    /// Takes an answer about liveness, and says whether what is known changed.
    pub(crate) fn take_live(&mut self, answer: Observation, chance: f64) -> Option<Health> {
        let now = self.clock();
        self.live.add(&answer);
        let run = self.watched.as_mut()?.live.as_mut()?;
        let turn = run.liveness.observe(now, answer);
        run.next = Next::AskAt(self.born + run.liveness.next(now, chance));
        turn
    }

    /// The wait has ended without readiness, and the process is left running: it is asked again at
    /// leisure, and its liveness is asked for from now on.
    pub(crate) fn leave_unready(&mut self) {
        let now = self.clock();
        let Some(watched) = &mut self.watched else { return };
        watched.outcome = GateOutcome::Missed;
        watched.missed = Some(watched.gate.report(now));
        if watched.live.is_none() {
            let past = Past::Starting(watched.began);
            watched.live = LiveRun::begin(&watched.plan, now, watched.gate.incarnation(), past);
            if let Some(run) = &mut watched.live {
                run.next = Next::AskAt(Instant::now());
            }
        }
        self.look_at_leisure();
    }

    /// The process is ready. Its liveness is first asked for within an interval, at a time of its
    /// own by `chance`.
    pub(crate) fn begin_liveness(&mut self, chance: f64) {
        let now = self.clock();
        let Some(watched) = &mut self.watched else { return };
        if let Some(run) = &mut watched.live {
            run.liveness.was_ready();
            return;
        }
        let incarnation = watched.gate.incarnation();
        watched.live = LiveRun::begin(&watched.plan, now, incarnation, Past::Ready);
        if let (Some(run), Some((_, rules))) = (&mut watched.live, &watched.plan.live) {
            let first = rules.interval.mul_f64(chance.clamp(0.0, 1.0));
            run.next = Next::AskAt(Instant::now() + first);
        }
    }

    fn is_ready(&mut self) {
        if let Some(watched) = &mut self.watched {
            watched.outcome = GateOutcome::Ready;
            watched.missed = None;
        }
    }

    /// Nothing could be told for a whole wait: what an earlier belayd found stays.
    fn keep(&mut self) -> Option<GateVerdict> {
        self.is_ready();
        if let Some(watched) = &mut self.watched {
            watched.gate_next = Next::Rest;
        }
        None
    }

    fn look_at_leisure(&mut self) {
        let now = self.clock();
        let Some(watched) = &mut self.watched else { return };
        let incarnation = watched.gate.incarnation().to_owned();
        // A fresh wait, so that its report tells of what was seen lately; it begins when it is asked
        // again.
        let begins = now + UNREADY_INTERVAL;
        watched.gate = Gate::new(watched.plan.gate, begins, incarnation);
        watched.gate_next = Next::AskAt(self.born + begins);
    }

    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let Some(watched) = &mut self.watched else { return };
        if let Next::AskAt(at) = watched.gate_next
            && at <= now
        {
            // No question outlives the wait that it is for.
            let left = watched.gate.cap().saturating_sub(now.duration_since(self.born));
            let ask = &watched.plan.ready;
            let limit = ask.limit.min(left);
            let target = ask.target.clone();
            self.newest_ticket += 1;
            let ticket = self.newest_ticket;
            watched.gate_next = Next::Asked { ticket, until: now + limit, limit };
            ask_one(&mut self.tasks, &self.prober, target, limit, ticket);
        }
        if let Some(run) = &mut watched.live
            && let Next::AskAt(at) = run.next
            && at <= now
            && let Some((ask, _)) = &watched.plan.live
        {
            self.newest_ticket += 1;
            let ticket = self.newest_ticket;
            run.next = Next::Asked { ticket, until: now + ask.limit, limit: ask.limit };
            let target = ask.target.clone();
            ask_one(&mut self.tasks, &self.prober, target, ask.limit, ticket);
        }
    }

    fn question_of(&self, ticket: u64) -> Option<Question> {
        let watched = self.watched.as_ref()?;
        let is =
            |next: &Next| matches!(next, Next::Asked { ticket: asked, .. } if *asked == ticket);
        if is(&watched.gate_next) {
            return Some(Question::Ready);
        }
        watched.live.as_ref().is_some_and(|run| is(&run.next)).then_some(Question::Live)
    }

    fn next_wake(&self) -> Option<Instant> {
        let watched = self.watched.as_ref()?;
        let live = watched.live.as_ref().and_then(|run| run.next.at());
        watched.gate_next.at().into_iter().chain(live).min()
    }

    /// What has come to its time without an answer.
    fn passed(&mut self) -> Option<CheckEvent> {
        let now = Instant::now();
        let watched = self.watched.as_mut()?;
        if let Next::EndsAt(at) = watched.gate_next
            && at <= now
        {
            return Some(CheckEvent::GateEnded);
        }
        let (question, limit) = if let Some(limit) = watched.gate_next.take_passed(now) {
            (Question::Ready, limit)
        } else {
            (Question::Live, watched.live.as_mut()?.next.take_passed(now)?)
        };
        Some(CheckEvent::Answered(Answer { question, observation: no_answer(limit) }))
    }
}

impl Tally {
    fn add(&mut self, answer: &Observation) {
        self.counts.add(answer.class);
        self.last = Some(ProbeSeen { text: answer.seen.clone(), at: Timestamp::now() });
    }
}

impl LiveRun {
    fn begin(plan: &CheckPlan, now: Duration, incarnation: &str, past: Past) -> Option<Self> {
        let (_, rules) = plan.live.as_ref()?;
        let liveness = Liveness::new(*rules, now, incarnation.to_owned(), past);
        Some(Self { liveness, next: Next::Rest })
    }
}

impl Next {
    fn at(&self) -> Option<Instant> {
        match self {
            Self::AskAt(at) | Self::Asked { until: at, .. } | Self::EndsAt(at) => Some(*at),
            Self::Rest => None,
        }
    }

    /// The limit of a question whose time has passed; its answer is not waited for any more.
    fn take_passed(&mut self, now: Instant) -> Option<Duration> {
        match *self {
            Self::Asked { until, limit, .. } if until <= now => {
                *self = Self::Rest;
                Some(limit)
            }
            Self::Asked { .. } | Self::AskAt(_) | Self::EndsAt(_) | Self::Rest => None,
        }
    }
}

fn ask_one<P: Prober>(
    tasks: &mut JoinSet<(u64, Observation)>,
    prober: &P,
    target: Target,
    limit: Duration,
    ticket: u64,
) {
    if tasks.len() >= UNDER_WAY {
        let seen = "questions before it have not ended";
        tasks.spawn(async move { (ticket, Observation::new(Class::Inconclusive, seen)) });
        return;
    }
    let asked = prober.ask(target, limit);
    tasks.spawn(async move { (ticket, asked.await) });
}

/// The observation of a question whose time has passed.
pub(crate) fn no_answer(limit: Duration) -> Observation {
    Observation::new(Class::Inconclusive, format!("no answer within {:.1} s", limit.as_secs_f64()))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
