use std::time::Duration;

use belay_protocol::runner::{Epoch, RunId, SuspensionId};
use belay_timer_wheel::Moment;

use super::{Pending, Snapshots, Ticket};

fn pending(run: u64) -> Pending {
    let ticket = Ticket {
        run: RunId::after(None, run, 0),
        runner: format!("r{run}").parse().expect("a name"),
        epoch: Epoch::new(1),
        suspension: SuspensionId::new(1),
    };
    Pending { ticket, failures: 0 }
}

fn at(seconds: u64) -> Moment {
    Moment::at(Duration::from_secs(seconds))
}

const GRACE: Duration = Duration::from_secs(10);

/// Three snapshots: one scheduled, one held, one due.
fn each() -> (Snapshots, [RunId; 3]) {
    let mut snapshots = Snapshots::default();
    for run in 1..=3 {
        snapshots.arm(pending(run), at(run * 10));
    }
    let runs = [3, 2, 1].map(|run| pending(run).ticket.run);
    snapshots.hold(runs[1], at(5), GRACE);
    assert_eq!(snapshots.expire(at(10)), []);
    (snapshots, runs)
}

#[test]
fn whatever_is_pending_can_be_cancelled() {
    let (mut snapshots, runs) = each();
    assert_eq!(snapshots.len(), 3);
    for (run, left) in runs.into_iter().zip([20, 15, 0]) {
        assert_eq!(snapshots.left(run, at(10)), Some(Duration::from_secs(left)));
        assert_eq!(snapshots.get(run).map(|found| found.ticket.run), Some(run));
        assert!(snapshots.cancel(run).is_some());
        assert_eq!((snapshots.cancel(run), snapshots.left(run, at(10))), (None, None));
    }
    assert_eq!(snapshots.next_due(|_| true), None);
    assert_eq!(snapshots.len(), 0);
}

#[test]
fn whatever_is_pending_can_be_replaced() {
    let (mut snapshots, runs) = each();
    for run in 1..=3 {
        snapshots.arm(pending(run), at(100));
    }
    assert_eq!(snapshots.next_due(|_| true), None);
    assert_eq!(snapshots.len(), 3);
    assert_eq!(snapshots.expire(at(99)), []);
    assert_eq!(snapshots.next_due(|_| true), None);
    snapshots.expire(at(100));
    let order = [1, 2, 3].map(|run| pending(run).ticket.run);
    assert_ne!(order, runs);
    for run in order {
        assert_eq!(snapshots.next_due(|_| true).map(|(found, _)| found.ticket.run), Some(run));
    }
}

#[test]
fn what_is_held_never_falls_due_and_is_dropped_when_the_grace_is_over() {
    let mut snapshots = Snapshots::default();
    snapshots.arm(pending(1), at(3));
    let run = pending(1).ticket.run;
    snapshots.hold(run, at(1), GRACE);
    // Held again, the runner having come and gone: what is left stays.
    snapshots.hold(run, at(2), GRACE);
    assert_eq!(snapshots.left(run, at(9)), Some(Duration::from_secs(2)));
    assert_eq!(snapshots.expire(at(11)), []);
    assert_eq!(snapshots.next_due(|_| true), None);
    assert_eq!(snapshots.expire(at(12)), [pending(1)]);
    assert_eq!(snapshots.len(), 0);
}

#[test]
fn what_may_not_go_yet_keeps_its_turn() {
    let mut snapshots = Snapshots::default();
    for run in 1..=2 {
        snapshots.arm(pending(run), at(run));
    }
    snapshots.expire(at(9));
    let [first, second] = [1, 2].map(|run| pending(run).ticket.run);
    let found = snapshots.next_due(|ticket| ticket.run != first);
    assert_eq!(found.map(|(found, since)| (found.ticket.run, since)), Some((second, at(2))));
    assert_eq!(snapshots.next_due(|_| true).map(|(found, _)| found.ticket.run), Some(first));
}
