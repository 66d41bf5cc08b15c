//! Every verb in every state: what it answers, what it changes, and above all what it leaves alone.

mod states;

use std::time::Duration;

use belay_harness::{Client, EngineGate, Node, NodeOptions, Refusal, until};
use belay_protocol::{
    DesiredState, OperationOutcome, ProblemCode, VolumeFate, WorkloadPhase, WorkloadStatus,
};
use states::{SOON, State, Subject};
use tokio::task::JoinSet;

/// What must be the same before and after a verb that does not own the lifecycle.
#[derive(Debug, PartialEq, Eq)]
struct Lifecycle {
    desired: DesiredState,
    phase: WorkloadPhase,
    container: Option<(String, Option<String>)>,
    restarts: u32,
    failures: Option<u32>,
    since: String,
    generation: u64,
}

fn lifecycle(status: &WorkloadStatus) -> Lifecycle {
    Lifecycle {
        desired: status.desired,
        phase: status.phase,
        container: container(status),
        restarts: status.restarts,
        failures: status.back_off.as_ref().map(|back_off| back_off.failures),
        since: status.since.to_string(),
        generation: status.generation,
    }
}

/// Id and start of the container.
fn container(status: &WorkloadStatus) -> Option<(String, Option<String>)> {
    let found = status.container.as_ref()?;
    Some((found.id.clone(), found.started_at.map(|at| at.to_string())))
}

/// Waits for tasks, each of which panics where it finds a fault.
async fn all(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// What a publish answers in a state; `None` where it is done.
fn publish_refusal(state: State) -> Option<(ProblemCode, &'static str)> {
    match state {
        State::Ready | State::Unready => None,
        State::Stopped => Some((ProblemCode::NotRunning, "is stopped: an operator stopped it")),
        State::Stopping => Some((ProblemCode::NotRunning, "is stop")),
        State::BackOff => Some((ProblemCode::NotRunning, "exited with 3")),
        State::Completed => {
            Some((ProblemCode::NotRunning, "is completed: it ran to its end with exit code 0"))
        }
        State::Halted => Some((ProblemCode::NotRunning, "is halted: torn by the test")),
        State::PausedForSync => {
            Some((ProblemCode::Busy, "is paused for sync and comes back by itself"))
        }
    }
}

/// Makes the time until the next start long enough for everything that is asked meanwhile.
async fn settle(subject: &Subject) {
    if subject.state == State::BackOff {
        until("four failures", SOON, || async {
            let found = subject.status().await;
            match (found.phase, &found.back_off) {
                (WorkloadPhase::BackOff, Some(back_off)) if back_off.failures >= 4 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// The cells of one state and the verbs that only ask: status, logs, history, publish.
async fn ask_everything(subject: Subject) {
    let state = subject.state;
    let passing = subject.enter().await;
    settle(&subject).await;
    let before = subject.status().await;
    assert_eq!(before.phase, state.phase(), "status answers in {state:?}");

    let published = subject.client.publish(&subject.name, &["/data"]).await;
    match (publish_refusal(state), published) {
        (None, published) => {
            published.unwrap_or_else(|refusal| panic!("publish in {state:?}: {refusal:?}"));
            let after = subject.client.wait_for(&subject.name, state.phase(), SOON).await;
            assert_eq!((after.desired, after.restarts), (before.desired, before.restarts));
            let ids = [&before, &after].map(|status| container(status).map(|(id, _)| id));
            assert_eq!(ids[0], ids[1], "{state:?}: the container is the same");
        }
        (Some((code, words)), refused) => {
            let problem = refused.expect_err("is refused").problem();
            assert_eq!(problem.code, code, "{state:?}: {problem:?}");
            assert!(problem.detail.starts_with(&subject.name), "{problem:?}");
            assert!(problem.detail.contains(words), "{state:?}: {problem:?}");
            let start = format!("belay start {}", subject.name);
            let wait = format!("belay status {}", subject.name);
            let next = if code == ProblemCode::Busy { wait } else { start };
            assert!(problem.next.contains(&next), "{state:?}: {problem:?}");
        }
    }

    // What a container wrote is kept when it is removed.
    let lines = subject.client.logs(&subject.name).await;
    let lines = lines.unwrap_or_else(|refusal| panic!("logs in {state:?}: {refusal:?}"));
    assert!(lines.contains("started"), "{state:?}: {lines:?}");
    let history = subject.client.history(&subject.name).await.expect("a history is always read");
    if !state.passes() {
        assert_eq!(history.len(), usize::from(publish_refusal(state).is_none()), "{state:?}");
    }

    if state.passes() {
        passing.expect("it passes").await.expect("it ends");
        let after = subject.status().await;
        let held =
            if state == State::Stopping { DesiredState::Stopped } else { DesiredState::Running };
        assert_eq!(after.desired, held, "{state:?}");
    } else if publish_refusal(state).is_some() {
        assert_eq!(lifecycle(&subject.status().await), lifecycle(&before), "{state:?}");
    }
}

#[tokio::test]
async fn what_only_asks_changes_nothing_in_any_state() {
    let node = Node::start(NodeOptions::default()).await;
    let mut tasks = JoinSet::new();
    for state in State::ALL {
        let subject = Subject::new(node.client(), node.directory(), state, "provider");
        tasks.spawn(ask_everything(subject));
    }
    all(tasks).await;
    for refused in [
        node.client().publish("absent", &["/data"]).await.err(),
        node.client().logs("absent").await.err(),
        node.client().history("absent").await.err(),
    ] {
        let problem = refused.expect("there is none").problem();
        assert_eq!(problem.code, ProblemCode::NoSuchWorkload);
        assert!(problem.detail.contains("there is no workload absent"), "{problem:?}");
    }
    assert!(node.client().workload("absent").await.is_err(), "asking makes none");
    node.end().await;
}

/// A new record reaches consumers in every state that stays: those that run are paused and come
/// back, those that do not are not started by it.
#[tokio::test]
async fn an_apply_starts_nothing_that_it_did_not_stop() {
    let node = Node::start(NodeOptions::default()).await;
    let source = "name = \"source\"\nimage = \"file:busybox.tar\"\ncommand = [\"/bin/sleep\", \"100000\"]\nstop_grace = \"0s\"\n[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n[sync]\nrole = \"provider\"\nkey = \"tick\"\n[ready]\ninterval = \"100ms\"\n";
    node.client().deploy(source, node.directory()).await.expect("deploys");
    let mut before = Vec::new();
    for state in State::ALL.into_iter().filter(|state| !state.passes()) {
        let subject = Subject::new(node.client(), node.directory(), state, "consumer");
        subject.enter().await;
        settle(&subject).await;
        before.push((subject.status().await, subject));
    }
    let data = node.volume("source", "data").await;
    std::fs::write(data.join("state"), "new").expect("writes");
    let published = node.client().publish("source", &["/data"]).await.expect("publishes");
    let cid = published.publish.expect("says what").cid;
    for (before, subject) in &before {
        let state = subject.state;
        let applied = || async {
            let found = subject.status().await;
            let last = found.sync.as_ref().and_then(|sync| sync.last_apply.as_ref());
            if last.is_some_and(|apply| apply.cid == cid) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        };
        match state {
            State::Stopped => {}
            State::Ready | State::Unready | State::BackOff | State::Completed | State::Halted => {
                until(&format!("{state:?} to apply"), SOON, applied).await;
            }
            State::Stopping | State::PausedForSync => unreachable!("they pass"),
        }
        let expected = if state == State::Halted { WorkloadPhase::Ready } else { state.phase() };
        let after = node.client().wait_for(&subject.name, expected, SOON).await;
        assert_eq!(after.desired, before.desired, "{state:?}");
        match state {
            State::Stopped => {
                assert_eq!(lifecycle(&after), lifecycle(before), "{state:?} was touched");
            }
            // It is shown as paused while its volumes are replaced, and nothing of it ran.
            State::Completed => {
                let kept = Lifecycle { since: before.since.to_string(), ..lifecycle(&after) };
                assert_eq!(kept, lifecycle(before), "{state:?} was touched");
            }
            State::Ready | State::Unready => {
                let (was, is) = (container(before), container(&after));
                assert_eq!(is.as_ref().map(|c| &c.0), was.as_ref().map(|c| &c.0), "the same one");
                assert_ne!(is, was, "{state:?}: it was down for the apply");
                assert_eq!(after.restarts, before.restarts, "a pause is no crash");
            }
            // An apply that mends is what ends a halt.
            State::Halted => assert!(container(&after).is_some(), "{after:?}"),
            State::BackOff => {
                let failures =
                    |status: &WorkloadStatus| status.back_off.as_ref().map(|b| b.failures);
                assert!(failures(&after) >= failures(before), "the ladder is not forgotten");
            }
            State::Stopping | State::PausedForSync => unreachable!("they pass"),
        }
    }
    node.end().await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Deploy,
    Start,
    Restart,
    Stop,
    Remove,
}

impl Verb {
    const ALL: [Self; 5] = [Self::Deploy, Self::Start, Self::Restart, Self::Stop, Self::Remove];

    async fn ask(self, subject: &Subject) -> Result<OperationOutcome, Refusal> {
        match self {
            Self::Deploy => subject.deploy().await,
            Self::Start => subject.client.act("start", &subject.name).await,
            Self::Restart => subject.client.act("restart", &subject.name).await,
            Self::Stop => subject.client.act("stop", &subject.name).await,
            Self::Remove => subject.client.remove(&subject.name, VolumeFate::Keep).await,
        }
    }
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// The same one, or still none.
    Same,
    /// Another one, of the same container or of a new one.
    Another,
    /// Not looked at: it comes and goes by itself.
    Any,
}

/// How a verb that owns the lifecycle ends, and what holds then.
struct Cell {
    answer: Result<&'static str, (ProblemCode, &'static str)>,
    desired: DesiredState,
    phase: WorkloadPhase,
    process: Process,
}

#[expect(clippy::match_same_arms, reason = "a table is read by its rows")]
fn cell(state: State, verb: Verb) -> Cell {
    use DesiredState::{Running, Stopped};
    use Process::{Another, Any, Same};
    use WorkloadPhase as P;
    let done = |words, desired, phase, process| Cell { answer: Ok(words), desired, phase, process };
    let refused = |code, words, desired, phase, process| Cell {
        answer: Err((code, words)),
        desired,
        phase,
        process,
    };
    let crash = || refused(ProblemCode::StartFailed, "exited with 3", Running, P::BackOff, Any);
    match (state, verb) {
        (_, Verb::Remove) => done("is removed", Stopped, P::Removing, Any),
        (_, Verb::Stop) => done("is stopped", Stopped, P::Stopped, Any),

        (State::Ready, Verb::Deploy | Verb::Start) => done("is started", Running, P::Ready, Same),
        (State::Ready, Verb::Restart) => done("is restarted", Running, P::Ready, Another),

        (State::Unready, Verb::Deploy | Verb::Start) => {
            refused(ProblemCode::NotReady, "good observations", Running, P::Unready, Same)
        }
        (State::Unready, Verb::Restart) => {
            refused(ProblemCode::NotReady, "good observations", Running, P::Unready, Another)
        }

        (State::Stopped, Verb::Deploy | Verb::Start) => {
            done("is started", Running, P::Ready, Another)
        }
        (State::Stopped, Verb::Restart) => refused(
            ProblemCode::NotRunning,
            "is stopped, as it was asked to be",
            Stopped,
            P::Stopped,
            Same,
        ),

        // They wait for their turn, and find it stopped.
        (State::Stopping, Verb::Deploy | Verb::Start) => {
            done("is started", Running, P::Ready, Another)
        }
        (State::Stopping, Verb::Restart) => {
            refused(ProblemCode::NotRunning, "as it was asked to be", Stopped, P::Stopped, Any)
        }

        (State::BackOff, Verb::Deploy | Verb::Start | Verb::Restart) => crash(),

        (State::Completed, Verb::Deploy | Verb::Start | Verb::Restart) => {
            done("ran to its end with exit code 0", Running, P::Completed, Any)
        }

        (State::Halted, Verb::Deploy | Verb::Restart) => {
            refused(ProblemCode::Halted, "is halted: torn by the test", Running, P::Halted, Same)
        }
        (State::Halted, Verb::Start) => done("is started", Running, P::Ready, Another),

        (State::PausedForSync, Verb::Deploy | Verb::Start) => {
            done("is started", Running, P::Ready, Another)
        }
        (State::PausedForSync, Verb::Restart) => done("is restarted", Running, P::Ready, Another),
    }
}

/// The cells of one state and the verbs that own the lifecycle.
async fn own_everything(subject: Subject) {
    let state = subject.state;
    for verb in Verb::ALL {
        let passing = subject.enter().await;
        let before = subject.status().await;
        let expected = cell(state, verb);
        let what = format!("{verb:?} in {state:?}");
        let answer = verb.ask(&subject).await;
        match (expected.answer, answer) {
            (Ok(words), Ok(outcome)) => {
                assert!(outcome.summary.contains(words), "{what}: {outcome:?}");
            }
            (Err((code, words)), Err(refusal)) => {
                let problem = refusal.problem();
                assert_eq!(problem.code, code, "{what}: {problem:?}");
                assert!(problem.detail.contains(words), "{what}: {problem:?}");
                assert!(!problem.next.is_empty(), "{what}: {problem:?}");
            }
            (expected, answer) => panic!("{what}: {answer:?}, expected {expected:?}"),
        }
        if let Some(passing) = passing {
            passing.await.expect("it ends");
        }
        if verb == Verb::Remove {
            assert!(subject.client.workload(&subject.name).await.is_err(), "{what}");
            continue;
        }
        let after = subject.client.wait_for(&subject.name, expected.phase, SOON).await;
        assert_eq!(after.desired, expected.desired, "{what}");
        match expected.process {
            Process::Same => assert_eq!(container(&after), container(&before), "{what}"),
            Process::Another => assert_ne!(container(&after), container(&before), "{what}"),
            Process::Any => {}
        }
    }
}

#[tokio::test]
async fn what_owns_the_lifecycle_does_what_it_says_in_every_state() {
    let node = Node::start(NodeOptions::default()).await;
    let mut tasks = JoinSet::new();
    for state in State::ALL {
        let subject = Subject::new(node.client(), node.directory(), state, "provider");
        tasks.spawn(own_everything(subject));
    }
    all(tasks).await;
    for verb in ["start", "stop", "restart"] {
        let problem = node.client().act(verb, "absent").await.expect_err("there is none").problem();
        assert_eq!(problem.code, ProblemCode::NoSuchWorkload, "{verb}");
    }
    let refused = node.client().remove("absent", VolumeFate::Delete).await;
    assert_eq!(refused.expect_err("there is none").problem().code, ProblemCode::NoSuchWorkload);
    node.end().await;
}

async fn ask(verb: Verb, subject: Subject) -> Result<OperationOutcome, Refusal> {
    verb.ask(&subject).await
}

/// While the engine is away nothing is known, so nothing is done; what was asked is done once it is
/// back.
#[tokio::test]
async fn while_the_engine_is_away_every_verb_waits_or_is_refused() {
    let gate = EngineGate::start().await;
    let options = NodeOptions { engine: Some(gate.socket()), ..NodeOptions::default() };
    let node = Node::start(options).await;
    let subject = Subject::new(node.client(), node.directory(), State::Ready, "provider");
    for verb in Verb::ALL {
        subject.enter().await;
        let before = subject.status().await;
        gate.shut();
        subject.client.wait_for(&subject.name, WorkloadPhase::Unknown, SOON).await;
        // Only what asks: it is refused, and the way out is named.
        let problem = subject.client.publish(&subject.name, &["/data"]).await;
        let problem = problem.expect_err("is refused").problem();
        assert_eq!(problem.code, ProblemCode::NotRunning, "{problem:?}");
        assert!(problem.detail.contains("is unknown: "), "{problem:?}");
        let start = format!("belay start {}", subject.name);
        assert!(problem.next.contains("belay doctor") && problem.next.contains(&start));
        subject.client.history(&subject.name).await.expect("a history needs no engine");

        let asked = tokio::spawn(ask(verb, subject.clone()));
        // To show that nothing is done: time passes, several looks at the engine long.
        tokio::time::sleep(Duration::from_secs(3)).await;
        if verb == Verb::Deploy {
            // Its image is a file, which may have changed, and only the engine could load it.
            let refused = asked.await.expect("ends").expect_err("cannot be looked at").problem();
            assert!(!refused.next.is_empty(), "{refused:?}");
            gate.open();
            let after = subject.client.wait_for(&subject.name, WorkloadPhase::Ready, SOON).await;
            assert_eq!(container(&after), container(&before), "{refused:?}: nothing was changed");
            continue;
        }
        assert!(!asked.is_finished(), "{verb:?} waits for the engine");
        let during = subject.status().await;
        assert_eq!(during.phase, WorkloadPhase::Unknown, "{verb:?}");
        assert_eq!(during.restarts, before.restarts);
        gate.open();
        let done = asked.await.expect("ends");
        done.unwrap_or_else(|refusal| panic!("{verb:?} once it is back: {refusal:?}"));
        match verb {
            Verb::Start => {
                let after =
                    subject.client.wait_for(&subject.name, WorkloadPhase::Ready, SOON).await;
                assert_eq!(container(&after), container(&before), "{verb:?} had nothing to do");
            }
            Verb::Restart => {
                let after =
                    subject.client.wait_for(&subject.name, WorkloadPhase::Ready, SOON).await;
                assert_ne!(container(&after), container(&before), "restarted once it could be");
            }
            Verb::Stop => {
                subject.client.wait_for(&subject.name, WorkloadPhase::Stopped, SOON).await;
            }
            Verb::Deploy => unreachable!("it was refused"),
            Verb::Remove => assert!(subject.client.workload(&subject.name).await.is_err()),
        }
    }
    node.end().await;
    gate.end().await;
}

async fn sync_state(client: &Client, name: &str) -> (Lifecycle, bool) {
    let found = client.workload(name).await.expect("is there");
    let published = found.sync.as_ref().is_some_and(|sync| sync.last_publish.is_some());
    (lifecycle(&found), published)
}

#[tokio::test]
async fn a_publish_of_several_checks_all_before_any_begins() {
    let node = Node::start(NodeOptions::default()).await;
    let client = node.client();
    let one = Subject::new(client, node.directory(), State::Ready, "provider");
    let two = Subject::new(client, node.directory(), State::Stopped, "provider");
    one.enter().await;
    two.enter().await;
    let (first, second) = (one.name.as_str(), two.name.as_str());
    let before = [sync_state(client, first).await, sync_state(client, second).await];
    let paths: &[&str] = &["/data"];
    let refused = client.publish_all(&[(first, paths), (second, paths), ("absent", paths)]).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::NotRunning, "{problem:?}");
    assert_eq!(
        problem.detail,
        "nothing was published: provider-stopped is stopped: an operator stopped it; there is no \
         workload absent"
    );
    assert!(problem.next.contains("belay start provider-stopped"), "{problem:?}");
    let after = [sync_state(client, first).await, sync_state(client, second).await];
    assert_eq!(after, before, "not a step of any of them");

    client.act("start", second).await.expect("starts");
    let outcome = client.publish_all(&[(first, paths), (second, paths)]).await.expect("publishes");
    assert_eq!(outcome.summary.lines().count(), 2, "{outcome:?}");
    for name in [first, second] {
        assert!(outcome.summary.contains(&format!("{name} published")), "{outcome:?}");
        assert!(sync_state(client, name).await.1, "{name}");
        client.wait_for(name, WorkloadPhase::Ready, SOON).await;
    }
    node.end().await;
}
