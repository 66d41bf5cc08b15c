//! What is counted and shown, and workloads that are withdrawn.

use belay_protocol::runner::{
    CancelledSnapshots, OmittedSnapshots, RunState, RunnerActivity, RunnerLink, RunnerOrigin,
    SnapshotStatus, WaitRequest, WaitpointQuery, WaitpointState,
};
use serde_json::json;

use super::rig::{
    Held, Rig, dispatching, foreign, hosted, name, ordered, submission, suspended, workload,
};
use crate::core::event::{Ask, Event, HostOrder, Refusal};
use crate::core::hub::HubPolicy;
use crate::core::lane::RunnerSource;

fn activity(rig: &Rig, held: &Held) -> (RunnerActivity, RunnerLink) {
    let runners = rig.hub.runner_list();
    let found = runners.iter().find(|found| found.runner == held.runner).expect("is listed");
    assert_eq!(found.origin, RunnerOrigin::Hosted);
    (found.activity, found.link)
}

#[test]
fn the_end_of_each_pending_snapshot_is_counted_once_by_its_reason() {
    let mut rig = Rig::hosted();
    let (held, _) = rig.waiting();
    rig.finish(&held).expect("it waits");
    let (_, waitpoint) = rig.waiting();
    rig.complete_waitpoint(waitpoint, json!(1)).expect("it is awaited");
    let (held, _) = rig.waiting();
    rig.progress(&held);
    let (held, _) = rig.waiting();
    rig.cancel(held.run).expect("it waits");
    let (held, waitpoint) = rig.waiting();
    rig.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it waits");
    rig.disconnect(held.session);
    rig.seconds(10);
    let (held, _) = rig.waiting();
    rig.stop(&held).expect("it is bound");
    let counted = rig.hub.tally().snapshots;
    assert_eq!(counted.scheduled, 7);
    let cancelled = CancelledSnapshots {
        completed: 1,
        wait_over: 1,
        left: 1,
        run_cancelled: 1,
        suspended_anew: 1,
        away: 1,
        attempt_ended: 1,
        rebound: 0,
    };
    assert_eq!(counted.cancelled, cancelled);
    assert_eq!((counted.dispatched, counted.taken, rig.hub.pending_snapshots()), (0, 0, 0));
}

#[test]
fn suspensions_without_a_snapshot_are_counted_by_their_reason() {
    let mut rig = Rig::new(HubPolicy::default(), &[("mail", hosted(10)), ("far", foreign(10))]);
    let held = rig.executing();
    let short = rig.timer(30);
    rig.suspend(&held, short, None).expect("it executes");
    let over = rig.timer(0);
    rig.suspend(&held, over, None).expect("it waits");
    rig.submit(submission("far"));
    let session = rig.connect(&name("laptop"), "far");
    rig.ready(session).expect("is welcome");
    let state = rig.state(session).expect("its run is told");
    let held = Held { run: state.run, epoch: state.epoch, runner: name("laptop"), session };
    rig.start(&held).expect("it is assigned");
    let long = rig.timer(3600);
    rig.suspend(&held, long, None).expect("it executes");
    let omitted =
        OmittedSnapshots { short_wait: 1, wait_over: 1, foreign_runner: 1, unsupported: 0 };
    assert_eq!(rig.hub.tally().snapshots.omitted, omitted);
    assert_eq!(rig.hub.tally().snapshots.scheduled, 0);
}

#[test]
fn what_the_engine_makes_of_snapshots_is_counted() {
    let mut rig = Rig::hosted();
    suspended(&mut rig);
    let (held, _, ticket) = dispatching(&mut rig);
    rig.cancel(held.run).expect("it waits");
    rig.taken(&ticket);
    let (_, _, mut ticket) = dispatching(&mut rig);
    for pause in [5, 10] {
        rig.not_taken(&ticket);
        ticket = ordered(&rig.seconds(pause)).pop().expect("it is tried again");
    }
    rig.not_taken(&ticket);
    let counted = rig.hub.tally().snapshots;
    assert_eq!((counted.scheduled, counted.dispatched), (3, 5));
    assert_eq!((counted.taken, counted.discarded), (1, 1));
    assert_eq!((counted.failed, counted.given_up), (3, 1));
    assert_eq!(counted.cancelled, CancelledSnapshots { run_cancelled: 1, ..counted.cancelled });
    assert_eq!((counted.late, counted.lag_ms), (0, 0));
}

#[test]
fn a_snapshot_that_waits_for_a_place_is_late_by_what_it_waited() {
    let policy = HubPolicy { dispatches: 1, ..HubPolicy::default() };
    let mut rig = Rig::new(policy, &[("mail", hosted(10))]);
    rig.waiting();
    rig.waiting();
    let tickets = ordered(&rig.seconds(30));
    assert_eq!(tickets.len(), 1, "there is one place");
    rig.seconds(5);
    rig.taken(&tickets[0]);
    let counted = rig.hub.tally().snapshots;
    assert_eq!((counted.dispatched, counted.late), (2, 1));
    assert_eq!((counted.lag_ms, counted.longest_lag_ms), (5000, 5000));
}

#[test]
fn a_run_and_its_runner_are_shown_as_they_stand() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    assert_eq!(activity(&rig, &held), (RunnerActivity::Executing, RunnerLink::Connected));
    let waitpoint = rig.waitpoint(&held);
    rig.suspend(&held, WaitRequest::Token { waitpoint }, None).expect("it executes");
    let now = rig.now();
    let shown = rig.hub.run_detail(held.run, &now).expect("is known");
    assert_eq!(shown.status.state, RunState::Waiting);
    assert_eq!(shown.status.runner, Some(held.runner.clone()));
    assert_eq!(shown.payload, json!({"job": 1}));
    let due_at = now.later(std::time::Duration::from_secs(30));
    assert_eq!(shown.status.snapshot, Some(SnapshotStatus::Pending { due_at, failures: 0 }));
    let wait = shown.status.wait.expect("it waits");
    assert_eq!(wait.wait, Some(WaitRequest::Token { waitpoint }));
    assert_eq!(shown.waitpoints[0].state, WaitpointState::Awaited);

    let ticket = ordered(&rig.seconds(30)).pop().expect("it is due");
    let now = rig.now();
    let snapshot =
        |rig: &Rig| rig.hub.run_detail(held.run, &now).expect("is known").status.snapshot;
    assert_eq!(snapshot(&rig), Some(SnapshotStatus::Dispatching {}));
    rig.taken(&ticket);
    assert_eq!(snapshot(&rig), Some(SnapshotStatus::Checkpointed {}));
    assert_eq!(activity(&rig, &held), (RunnerActivity::Suspended, RunnerLink::Away));
    rig.complete_waitpoint(waitpoint, json!("go")).expect("it is awaited");
    assert_eq!(activity(&rig, &held), (RunnerActivity::Restoring, RunnerLink::Away));
    let back = rig.reconnect(&held);
    rig.finish(&back).expect("it executes");
    assert_eq!(activity(&rig, &held), (RunnerActivity::Unready, RunnerLink::Connected));
    rig.ready(back.session).expect("is welcome");
    assert_eq!(activity(&rig, &held), (RunnerActivity::Idle, RunnerLink::Connected));
    let now = rig.now();
    let shown = rig.hub.run_detail(held.run, &now).expect("is known");
    assert_eq!((shown.status.state, shown.output), (RunState::Finished, Some(json!("done"))));
    let query = WaitpointQuery { states: vec![WaitpointState::Open], ..WaitpointQuery::default() };
    assert!(rig.hub.waitpoint_page(&query).waitpoints.is_empty());
}

#[test]
fn a_withdrawn_workload_keeps_what_is_at_work_and_stops_the_rest() {
    let mut rig = Rig::hosted();
    let busy = rig.executing();
    let idle = rig.executing();
    rig.finish(&idle).expect("it executes");
    rig.ready(idle.session).expect("is welcome");
    rig.event(Event::Withdrawn { workload: workload("mail") });
    assert_eq!(rig.orders(), [HostOrder::StopRunner { runner: idle.runner }]);
    let refused = rig.ask(Ask::Submit(submission("mail")));
    assert_eq!(refused, Err(Refusal::UnknownWorkload(workload("mail"))));
    rig.finish(&busy).expect("it goes on");
    assert_eq!(rig.state_of(busy.run), "finished");

    let policy = hosted(10);
    assert_eq!(policy.runners, RunnerSource::Hosted { memory: 100 });
    rig.event(Event::Declared { workload: workload("mail"), policy });
    let run = rig.submit(submission("mail"));
    rig.ready(busy.session).expect("is welcome");
    assert_eq!(rig.state(busy.session).map(|state| state.run), Some(run));
}
