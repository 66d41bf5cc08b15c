use belay_protocol::runner::{Epoch, RunId, RunnerErrorCode, RunnerId};

use super::{AlreadyBound, Binding, Bindings, Session, SessionId};

fn name(text: &str) -> RunnerId {
    text.parse().expect("a name")
}

fn run(number: u64) -> RunId {
    RunId::after(None, number, 0)
}

fn session(of: &str) -> Session {
    Session { runner: name(of), workload: "mail".parse().expect("a name") }
}

fn bound() -> Bindings {
    let mut bindings = Bindings::default();
    assert_eq!(bindings.open(SessionId(1), session("a")), None);
    let binding = Binding { runner: name("a"), epoch: Epoch::new(1) };
    bindings.bind(run(1), binding).expect("both are free");
    bindings
}

#[test]
fn only_the_newest_session_of_the_holder_in_the_present_epoch_is_heard() {
    let mut bindings = bound();
    bindings.open(SessionId(2), session("b"));
    let ask = |bindings: &Bindings, session, run, epoch| {
        bindings.authorise(SessionId(session), run, Epoch::new(epoch))
    };
    assert_eq!(ask(&bindings, 1, run(1), 1), Ok(name("a")));
    assert_eq!(ask(&bindings, 1, run(1), 0), Err(RunnerErrorCode::StaleEpoch));
    assert_eq!(ask(&bindings, 1, run(1), 2), Err(RunnerErrorCode::StaleEpoch));
    assert_eq!(ask(&bindings, 1, run(2), 1), Err(RunnerErrorCode::NotBound));
    assert_eq!(ask(&bindings, 2, run(1), 1), Err(RunnerErrorCode::BoundElsewhere));
    assert_eq!(ask(&bindings, 9, run(1), 1), Err(RunnerErrorCode::SessionReplaced));

    assert_eq!(bindings.open(SessionId(3), session("a")), Some(SessionId(1)));
    bindings.rebind(run(1), Epoch::new(2));
    assert_eq!(ask(&bindings, 1, run(1), 1), Err(RunnerErrorCode::SessionReplaced));
    assert_eq!(ask(&bindings, 1, run(1), 2), Err(RunnerErrorCode::SessionReplaced));
    assert_eq!(ask(&bindings, 3, run(1), 2), Ok(name("a")));
}

#[test]
fn an_older_session_closes_without_a_trace() {
    let mut bindings = bound();
    bindings.open(SessionId(2), session("a"));
    assert_eq!(bindings.close(SessionId(1)), None);
    assert_eq!(bindings.session_of_run(run(1)), Some(SessionId(2)));
    assert_eq!(bindings.close(SessionId(2)), Some(session("a")));
    assert_eq!(bindings.session_of_run(run(1)), None);
    assert_eq!(bindings.holder(run(1)).map(|binding| &binding.runner), Some(&name("a")));
}

#[test]
fn a_run_has_one_runner_and_a_runner_one_run() {
    let mut bindings = bound();
    let other = Binding { runner: name("b"), epoch: Epoch::new(2) };
    assert_eq!(bindings.bind(run(1), other.clone()), Err(AlreadyBound));
    let second = Binding { runner: name("a"), epoch: Epoch::new(1) };
    assert_eq!(bindings.bind(run(2), second), Err(AlreadyBound));
    assert_eq!(bindings.run_of(&name("a")), Some(run(1)));
    assert!(bindings.release(run(1)).is_some());
    assert_eq!(bindings.release(run(1)), None);
    bindings.bind(run(1), other).expect("both are free");
    assert_eq!(bindings.run_of(&name("a")), None);
}
