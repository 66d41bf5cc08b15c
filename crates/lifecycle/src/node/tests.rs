use belay_protocol::OperationEvent;

use super::*;

fn handle(places: usize) -> (WorkloadHandle, mpsc::Receiver<WorkloadCommand>) {
    let (commands, receiver) = mpsc::channel(places);
    let (_, status) = watch::channel(None);
    (WorkloadHandle { name: "web".parse().expect("a name"), commands, status }, receiver)
}

fn stop() -> (WorkloadCommand, mpsc::Receiver<OperationEvent>) {
    let (events, told) = mpsc::channel(2);
    (WorkloadCommand::Stop { reporter: Reporter::new(events) }, told)
}

fn refusal(told: &mut mpsc::Receiver<OperationEvent>) -> Option<Problem> {
    match told.try_recv() {
        Ok(OperationEvent::Failed(problem)) => Some(problem),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[test]
fn a_command_for_a_workload_that_has_too_many_is_refused_at_once() {
    let (handle, mut waiting) = handle(1);
    let (first, mut of_first) = stop();
    let (second, mut of_second) = stop();
    deliver(&handle, first);
    deliver(&handle, second);
    assert_eq!(refusal(&mut of_first), None, "it waits for its turn");
    let problem = refusal(&mut of_second).expect("there is no room for it");
    assert_eq!(problem.code, ProblemCode::Busy);
    assert_eq!(problem.detail, "web has more commands waiting than it takes");
    waiting.try_recv().expect("the first is there");
    assert!(waiting.try_recv().is_err(), "and the second is not");
}

#[test]
fn a_command_for_a_workload_that_has_just_gone_is_refused() {
    let (handle, waiting) = handle(1);
    drop(waiting);
    let (command, mut told) = stop();
    deliver(&handle, command);
    let problem = refusal(&mut told).expect("nobody takes it");
    assert_eq!(problem.code, ProblemCode::NoSuchWorkload);
    assert_eq!(problem.detail, "web has just been removed");
}
