use belay_protocol::runner::{Epoch, RunId, SuspensionId};
use belay_runner::MemoryFate;

use super::*;

const SIGHTS: [Sight; 8] = [
    Sight::Absent,
    Sight::Foreign,
    Sight::Created,
    Sight::Running,
    Sight::Paused,
    Sight::Suspended,
    Sight::Ended(CRASHED),
    Sight::Unknown,
];

const CRASHED: Exit = Exit { code: Some(3), memory: MemoryFate::Enough };

fn ticket() -> Ticket {
    Ticket {
        run: RunId::after(None, 1, 2),
        runner: "r1".parse().expect("a name"),
        epoch: Epoch::default(),
        suspension: SuspensionId::default(),
    }
}

fn jobs() -> Vec<Job> {
    vec![
        Job::Start { workload: "work".parse().expect("a name") },
        Job::Stop,
        Job::Quiet,
        Job::Take(ticket()),
        Job::Find(ticket()),
        Job::PutBack(ticket()),
        Job::Drop(ticket()),
        Job::Restore(ticket()),
        Job::Look,
    ]
}

/// How steps that are carried out go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// They do not.
    Kind,
    /// Nothing can be started, snapshotted or restored, and there is no room.
    Harsh,
}

/// Runs a job to its end in a world that does what it is told.
fn run(job: &Job, mut sight: Sight, world: World) -> (Vec<Step>, Vec<Told>, Sight) {
    let mut progress = Progress::default();
    let mut steps = Vec::new();
    let refuse = |progress: &mut Progress| progress.failure = Some("no".into());
    for _ in 0..20 {
        let step = next_step(job, sight, &progress);
        steps.push(step.clone());
        match (step, world) {
            (Step::Tell(told), _) => return (steps, told, sight),
            (Step::Wait, _) => sight = Sight::Absent,
            (Step::Create, World::Kind) => sight = Sight::Created,
            (Step::Start | Step::Restore, World::Kind) => {
                progress.started = true;
                sight = Sight::Running;
            }
            (Step::Create | Step::Start | Step::Snapshot, World::Harsh) => refuse(&mut progress),
            (Step::Restore, World::Harsh) => match progress.booking {
                Booking::NoRoom(_) => progress.booking = Booking::Stranded,
                Booking::Open | Booking::Booked | Booking::Stranded => refuse(&mut progress),
            },
            (Step::Snapshot, World::Kind) => sight = Sight::Suspended,
            (Step::Book(Room::Asked), World::Harsh) => {
                progress.booking = Booking::NoRoom("full".into());
            }
            (Step::Book(_), _) => progress.booking = Booking::Booked,
            (Step::Thaw, _) => sight = Sight::Running,
            (Step::Stop, _) => sight = Sight::Ended(Exit::default()),
            (Step::Remove { exit }, _) => {
                progress.exit = progress.exit.or(exit);
                sight = Sight::Absent;
            }
        }
    }
    panic!("{job:?} does not end: {steps:?}");
}

/// Whether a job has told what the hub waits for, exactly once.
fn has_its_end(job: &Job, told: &[Told]) -> bool {
    let count = |is: fn(&Told) -> bool| told.iter().filter(|told| is(told)).count();
    let snapshots = count(|told| matches!(told, Told::Snapshot(_)));
    let settled = count(|told| matches!(told, Told::Settled));
    let exits = count(|told| matches!(told, Told::Exited(_)));
    let failures = count(|told| matches!(told, Told::NotStarted(_) | Told::NotRestored(_)));
    match job {
        // A connection is the other end of these.
        Job::Start { .. } | Job::Restore(_) => snapshots + settled == 0 && exits + failures <= 1,
        Job::Stop => (exits, snapshots + settled + failures) == (1, 0),
        Job::Quiet | Job::Look => exits <= 1 && snapshots + settled + failures == 0,
        Job::Take(_) | Job::Find(_) => snapshots == 1 && settled + failures == 0 && exits <= 1,
        Job::PutBack(_) | Job::Drop(_) => settled == 1 && snapshots + failures == 0 && exits <= 1,
    }
}

#[test]
fn every_job_ends_from_everything_that_can_be_seen_and_tells_its_end_once() {
    for job in jobs() {
        for sight in SIGHTS {
            for world in [World::Kind, World::Harsh] {
                let (steps, told, after) = run(&job, sight, world);
                assert!(has_its_end(&job, &told), "{job:?} at {sight:?} ({world:?}): {told:?}");
                if told.iter().any(|told| matches!(told, Told::Exited(_) | Told::NotStarted(_)))
                    && sight != Sight::Foreign
                    && sight != Sight::Suspended
                {
                    assert_eq!(after, Sight::Absent, "{job:?} at {sight:?}: {steps:?}");
                }
            }
        }
    }
}

#[test]
fn a_job_that_is_begun_again_where_it_ended_does_nothing_more() {
    for job in jobs() {
        for sight in SIGHTS {
            let (_, first, after) = run(&job, sight, World::Kind);
            let (steps, second, same) = run(&job, after, World::Kind);
            assert_eq!(same, after, "{job:?} at {sight:?}");
            let acts = steps.iter().filter(|step| !matches!(step, Step::Tell(_) | Step::Book(_)));
            let fresh = matches!(job, Job::Start { .. }) && after == Sight::Absent;
            assert!(fresh || acts.count() == 0, "{job:?} at {sight:?}: {steps:?}");
            assert!(has_its_end(&job, &second), "{job:?} at {sight:?}: {first:?}, {second:?}");
        }
    }
}

#[test]
fn a_checkpointed_runner_is_never_begun_afresh() {
    for job in jobs() {
        for world in [World::Kind, World::Harsh] {
            let (steps, ..) = run(&job, Sight::Suspended, world);
            let begun = steps.iter().any(|step| matches!(step, Step::Start | Step::Create));
            assert!(!begun, "{job:?}: {steps:?}");
        }
    }
    let begun = run(&jobs()[0], Sight::Suspended, World::Kind);
    assert!(matches!(&begun.1[..], [Told::NotStarted(reason)] if reason.contains("checkpointed")));
}

#[test]
fn what_others_made_is_left_alone() {
    for job in jobs() {
        let (steps, ..) = run(&job, Sight::Foreign, World::Kind);
        assert_eq!(steps.len(), 1, "{job:?}: {steps:?}");
    }
}

#[test]
fn a_snapshot_without_room_is_put_back_and_says_so() {
    let (steps, told, after) = run(&Job::Take(ticket()), Sight::Suspended, World::Harsh);
    assert_eq!(after, Sight::Suspended, "it can neither stay nor come back: it stays");
    assert_eq!(told, [Told::Snapshot(SnapshotOutcome::Taken(Means::Checkpoint))], "{steps:?}");

    let full = Progress { booking: Booking::NoRoom("full".into()), ..Progress::default() };
    assert_eq!(next_step(&Job::Take(ticket()), Sight::Suspended, &full), Step::Restore);
    let told = next_step(&Job::Take(ticket()), Sight::Running, &full);
    let reason = SnapshotOutcome::NotTaken { reason: "full".into() };
    assert_eq!(told, Step::Tell(vec![Told::Snapshot(reason)]));
}

#[test]
fn a_snapshot_whose_call_failed_counts_by_what_is_seen() {
    let failed = Progress { failure: Some("timed out".into()), ..Progress::default() };
    let take = Job::Take(ticket());
    assert_eq!(next_step(&take, Sight::Suspended, &failed), Step::Book(Room::Asked));
    let reason = SnapshotOutcome::NotTaken { reason: "timed out".into() };
    let not_taken = Step::Tell(vec![Told::Snapshot(reason)]);
    assert_eq!(next_step(&take, Sight::Running, &failed), not_taken);
}

#[test]
fn an_exit_is_told_before_the_end_of_the_order_with_its_code() {
    for job in [Job::Take(ticket()), Job::Find(ticket()), Job::PutBack(ticket())] {
        let (_, told, _) = run(&job, Sight::Ended(CRASHED), World::Kind);
        assert_eq!(told.len(), 2, "{job:?}: {told:?}");
        assert_eq!(told[0], Told::Exited(CRASHED), "{job:?}");
    }
    let (_, told, _) = run(&Job::Look, Sight::Ended(CRASHED), World::Kind);
    assert_eq!(told, [Told::Exited(CRASHED)]);
}

#[test]
fn a_stopped_workload_keeps_what_is_on_the_disk() {
    let (steps, told, after) = run(&Job::Quiet, Sight::Suspended, World::Kind);
    assert_eq!((steps.len(), told.len(), after), (1, 0, Sight::Suspended));
    let (_, told, _) = run(&Job::Stop, Sight::Suspended, World::Kind);
    assert_eq!(told, [Told::Exited(Exit::default())]);
}
