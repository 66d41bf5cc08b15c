//! The checks against a scripted prober, on a paused clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;

const RULES: GateRules = GateRules {
    consecutive: 3,
    interval: Duration::from_millis(500),
    stable: Duration::from_secs(1),
    budget: Duration::from_secs(30),
};

const LIVE: LiveRules = LiveRules {
    interval: Duration::from_secs(10),
    failures: 3,
    successes: 1,
    start_period: Duration::from_secs(300),
};

/// What a scripted process answers, and when.
#[derive(Debug, Clone, Copy)]
enum Reply {
    After(u64, Class),
    /// Nothing comes for as long as is waited.
    Hangs,
    /// Nothing comes, and the question cannot be ended either.
    Stuck,
}

use Class::{Failing, Good, Inconclusive, Never};
use Reply::{After, Hangs, Stuck};

/// Answers from a script, the last reply for ever, and notes when it was asked with which limit.
#[derive(Debug, Clone)]
struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<(Instant, Duration)>>>,
}

impl Script {
    fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies = Arc::new(Mutex::new(replies.into_iter().collect()));
        Self { replies, asked: Arc::default() }
    }

    fn asked(&self) -> Vec<(Instant, Duration)> {
        self.asked.lock().expect("nobody panics with it").clone()
    }
}

impl Prober for Script {
    fn ask(
        &self,
        _: Target,
        limit: Duration,
    ) -> impl Future<Output = Observation> + Send + 'static {
        self.asked.lock().expect("nobody panics with it").push((Instant::now(), limit));
        let mut replies = self.replies.lock().expect("nobody panics with it");
        let reply = *replies.front().expect("a script is not empty");
        if replies.len() > 1 {
            replies.pop_front();
        }
        async move {
            match reply {
                After(milliseconds, class) => {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    Observation::new(class, format!("{class:?}"))
                }
                Hangs => {
                    tokio::time::sleep(limit).await;
                    no_answer(limit)
                }
                Stuck => std::future::pending().await,
            }
        }
    }
}

fn plan(live: Option<LiveRules>) -> CheckPlan {
    let address = "127.0.0.1:1".parse().expect("an address");
    let ask = Ask { target: Target::Tcp { address }, limit: Duration::from_secs(2) };
    CheckPlan { ready: ask.clone(), gate: RULES, live: live.map(|rules| (ask, rules)) }
}

fn new(script: &Script) -> Checks<Script> {
    let mut checks = Checks::new(script.clone());
    checks.watch(plan(None), "a".into(), Brought::Nothing, 0.5);
    checks
}

/// Runs a wait to its end, as the workload's task does, while `running` says which process runs.
async fn gate(checks: &mut Checks<Script>, running: impl Fn() -> &'static str) -> GateVerdict {
    loop {
        let verdict = match checks.next().await {
            CheckEvent::GateEnded => checks.take_end(),
            CheckEvent::Answered(answer) => {
                assert_eq!(answer.question, Question::Ready);
                let running = running();
                if checks.incarnation() != Some(running) {
                    checks.watch(plan(None), running.into(), Brought::Nothing, 0.5);
                    continue;
                }
                checks.take_ready(answer.observation, running)
            }
        };
        if let Some(end @ (GateVerdict::Ready | GateVerdict::TimedOut | GateVerdict::Never)) =
            verdict
        {
            return end;
        }
    }
}

/// How a script ends, and after how long.
async fn end_of(script: impl IntoIterator<Item = Reply>) -> (GateVerdict, Duration) {
    let began = Instant::now();
    let verdict = gate(&mut new(&Script::new(script)), || "a").await;
    (verdict, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn three_good_in_a_row_of_one_process_are_ready() {
    let (verdict, after) = end_of([After(0, Good)]).await;
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(1)));
    let script = [After(0, Good), After(0, Good), After(0, Failing), After(0, Good)];
    let (verdict, after) = end_of(script).await;
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_millis(2500)));
    let script = [After(0, Good), After(0, Good), Hangs, After(0, Good)];
    let (verdict, after) = end_of(script).await;
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_millis(4500)));
}

#[tokio::test(start_paused = true)]
async fn the_cap_is_exact_whatever_is_answered_and_whenever() {
    let scripts = [
        After(0, Failing),
        After(1, Inconclusive),
        After(799, Failing),
        After(1999, Failing),
        Hangs,
    ];
    for reply in scripts {
        let (verdict, after) = end_of([reply]).await;
        assert_eq!((verdict, after), (GateVerdict::TimedOut, RULES.budget), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_is_cut_at_its_limit_or_at_what_is_left() {
    let script = Script::new([Hangs]);
    let began = Instant::now();
    assert_eq!(gate(&mut new(&script), || "a").await, GateVerdict::TimedOut);
    let asked = script.asked();
    assert_eq!(asked.len(), 12, "30 s of 2 s and a pause of 0.5 s each");
    for (at, limit) in asked {
        let left = RULES.budget.saturating_sub(at.duration_since(began));
        assert_eq!(limit, left.min(Duration::from_secs(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_never_counts() {
    let pairs = (0..200).flat_map(|_| [After(0, Good), After(0, Good), After(0, Inconclusive)]);
    let (verdict, after) = end_of(pairs).await;
    assert_eq!((verdict, after), (GateVerdict::TimedOut, RULES.budget));
}

#[tokio::test(start_paused = true)]
async fn what_can_never_become_ready_ends_the_wait_with_that_answer() {
    let script = Script::new([After(0, Good), After(100, Never)]);
    let began = Instant::now();
    assert_eq!(gate(&mut new(&script), || "a").await, GateVerdict::Never);
    assert_eq!((began.elapsed(), script.asked().len()), (Duration::from_millis(600), 2));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_replaced_has_to_be_good_anew_under_the_same_cap() {
    let began = Instant::now();
    let mut checks = new(&Script::new([After(0, Good)]));
    let running = || if began.elapsed() < Duration::from_millis(800) { "a" } else { "b" };
    assert_eq!(gate(&mut checks, running).await, GateVerdict::Ready);
    // Its third answer came from the other process, which then was good three times.
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert!(checks.report().expect("a wait").to_string().contains(", 1 restarts)"));

    let began = Instant::now();
    let mut checks = new(&Script::new([After(0, Good)]));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let running = || names[usize::try_from(began.elapsed().as_millis() / 700).expect("small") % 8];
    assert_eq!(gate(&mut checks, running).await, GateVerdict::TimedOut);
    assert_eq!(began.elapsed(), RULES.budget, "a process that restarts does not move the cap");
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_a_process_that_is_gone_is_dropped() {
    let script = Script::new([After(1500, Good)]);
    let mut checks = new(&script);
    // The question is under way.
    assert!(tokio::time::timeout(Duration::from_secs(1), checks.next()).await.is_err());
    checks.end();
    let nothing = tokio::time::timeout(Duration::from_secs(100), checks.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    assert_eq!(checks.counts(Question::Ready), Counts::default());
}

/// Feeds liveness for as long as given and collects its turns with the seconds they came after.
async fn live(checks: &mut Checks<Script>, during: Duration) -> Vec<(u64, Health)> {
    let began = Instant::now();
    let mut turns = Vec::new();
    while let Ok(event) = tokio::time::timeout_at(began + during, checks.next()).await {
        match event {
            CheckEvent::Answered(Answer { question: Question::Live, observation }) => {
                let turn = checks.take_live(observation, 0.5);
                turns.extend(turn.map(|health| (began.elapsed().as_secs(), health)));
            }
            CheckEvent::Answered(Answer { question: Question::Ready, observation }) => {
                let running = checks.incarnation().expect("is watched").to_owned();
                checks.take_ready(observation, &running);
            }
            CheckEvent::GateEnded => {
                checks.take_end();
            }
        }
    }
    turns
}

fn ready(script: &Script) -> Checks<Script> {
    let mut checks = Checks::new(script.clone());
    checks.watch(plan(Some(LIVE)), "a".into(), Brought::Ready, 0.5);
    checks.watched.as_mut().expect("is watched").gate_next = Next::Rest;
    checks
}

#[tokio::test(start_paused = true)]
async fn liveness_is_asked_every_interval_and_fails_at_its_threshold() {
    let script = Script::new([After(0, Good), After(0, Good), After(0, Failing)]);
    let mut checks = ready(&script);
    let turns = live(&mut checks, Duration::from_secs(60)).await;
    // Asked at 1 s, 11 s, then failing at 21, 31 and 41 s.
    assert_eq!(turns, [(41, Health::Unhealthy)]);
    assert!(checks.liveness().is_some_and(Liveness::is_failed));
    assert_eq!(checks.counts(Question::Live), Counts { good: 2, failing: 4, inconclusive: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_becomes_unknown_and_nothing_more() {
    let script = Script::new([After(0, Good), Hangs]);
    let mut checks = ready(&script);
    let turns = live(&mut checks, Duration::from_secs(3600)).await;
    assert!(matches!(turns[..], [(61..75, Health::Unknown)]), "{turns:?}");
    assert!(!checks.liveness().is_some_and(Liveness::is_failed));
}

#[tokio::test(start_paused = true)]
async fn questions_that_cannot_be_ended_do_not_pile_up() {
    let script = Script::new([Stuck]);
    let mut checks = ready(&script);
    let turns = live(&mut checks, Duration::from_secs(600)).await;
    assert!(matches!(turns[..], [(60..75, Health::Unknown)]), "{turns:?}");
    assert_eq!((script.asked().len(), checks.tasks.len()), (UNDER_WAY, UNDER_WAY));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_belayd_found_ready_stays_so_until_it_is_disproved() {
    for chance in [0.0, 0.3, 1.0] {
        let script = Script::new([After(0, Good)]);
        let mut checks = Checks::new(script.clone());
        let began = Instant::now();
        checks.watch(plan(Some(LIVE)), "a".into(), Brought::Ready, chance);
        assert_eq!(checks.outcome(), Some(GateOutcome::Kept));
        live(&mut checks, Duration::from_secs(5)).await;
        assert_eq!(checks.outcome(), Some(GateOutcome::Ready));
        let first = script.asked()[0].0.duration_since(began);
        assert!(first <= FIRST_AGAIN, "{first:?}");
    }
    let mut checks = Checks::new(Script::new([After(0, Good), After(0, Failing)]));
    checks.watch(plan(None), "a".into(), Brought::Ready, 0.0);
    live(&mut checks, Duration::from_millis(400)).await;
    assert_eq!(checks.outcome(), Some(GateOutcome::Kept));
    live(&mut checks, Duration::from_millis(200)).await;
    assert_eq!(checks.outcome(), Some(GateOutcome::Open), "it is disproved");

    let mut checks = Checks::new(Script::new([Hangs]));
    checks.watch(plan(None), "a".into(), Brought::Ready, 0.0);
    live(&mut checks, Duration::from_secs(29)).await;
    assert_eq!(checks.outcome(), Some(GateOutcome::Kept));
    live(&mut checks, Duration::from_secs(100)).await;
    assert_eq!(checks.outcome(), Some(GateOutcome::Ready), "nothing spoke against it");
}

#[tokio::test(start_paused = true)]
async fn one_that_missed_its_wait_is_asked_at_leisure_and_can_still_become_ready() {
    let script = Script::new([After(0, Failing)]);
    let mut checks = Checks::new(script.clone());
    checks.watch(plan(Some(LIVE)), "a".into(), Brought::Nothing, 0.5);
    assert_eq!(gate(&mut checks, || "a").await, GateVerdict::TimedOut);
    checks.leave_unready();
    let before = script.asked().len();
    let turns = live(&mut checks, Duration::from_secs(100)).await;
    assert_eq!(turns, [], "its start period shields it");
    // Ten questions of each kind: the failing ones of the wait are ten seconds apart.
    let asked = script.asked().len() - before;
    assert!((18..=22).contains(&asked), "{asked}");
    let report = checks.report().expect("a wait").to_string();
    assert!(report.starts_with("not ready in time: 0 of 3"), "{report}");

    *script.replies.lock().expect("nobody panics with it") = [After(0, Good)].into();
    let turns = live(&mut checks, Duration::from_secs(20)).await;
    assert_eq!(checks.outcome(), Some(GateOutcome::Ready));
    assert!(matches!(turns[..], [(_, Health::Alive)]), "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn workloads_that_became_ready_together_are_not_asked_together() {
    let scripts: Vec<_> = (0..50).map(|_| Script::new([After(0, Good)])).collect();
    let mut all: Vec<_> = scripts.iter().map(new_ready).collect();
    for (number, checks) in all.iter_mut().enumerate() {
        checks.begin_liveness(f64::from(u8::try_from(number).expect("small")) / 49.0);
    }
    let began = Instant::now();
    let asked = futures_util::future::join_all(
        all.iter_mut().map(|checks| live(checks, Duration::from_millis(9_999))),
    );
    asked.await;
    let mut per_second = [0_u32; 10];
    for (at, _) in scripts.iter().flat_map(Script::asked) {
        per_second[usize::try_from(at.duration_since(began).as_secs()).expect("small")] += 1;
    }
    assert!(per_second.iter().all(|&asked| asked <= 6), "{per_second:?}");
    assert!(all.iter().all(|checks| checks.tasks.is_empty()), "no question is left over");
}

fn new_ready(script: &Script) -> Checks<Script> {
    let mut checks = ready(script);
    let watched = checks.watched.as_mut().expect("is watched");
    watched.live = None;
    watched.outcome = GateOutcome::Ready;
    checks
}
