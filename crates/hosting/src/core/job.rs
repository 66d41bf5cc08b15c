//! What is to be done about one runner, step by step, until there is something to tell.
//!
//! [`next_step`] decides from what is seen now and from what this job has done so far, so that a job
//! that is begun again by the next belayd goes on from wherever the one before it was.

use belay_protocol::WorkloadName;
use belay_runner::{Exit, HostEvent, HostOrder, Means, SnapshotOutcome, Ticket};

use super::sight::Sight;

/// Something to be done about one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Start it.
    Start {
        /// Of this workload.
        workload: WorkloadName,
    },
    /// End it, whatever there is of it.
    Stop,
    /// End its process, if it has one; what is on the disk stays.
    Quiet,
    /// Snapshot it.
    Take(Ticket),
    /// Say what became of a snapshot that an earlier belayd began.
    Find(Ticket),
    /// Make it run as it did before its snapshot.
    PutBack(Ticket),
    /// Remove its snapshot with its container.
    Drop(Ticket),
    /// Bring it back from its snapshot.
    Restore(Ticket),
    /// See whether it has ended.
    Look,
}

impl Job {
    /// The job of an order; none for an abort, which is about the job under way.
    pub fn of(order: HostOrder) -> Option<Self> {
        match order {
            HostOrder::StartRunner { workload, .. } => Some(Self::Start { workload }),
            HostOrder::StopRunner { .. } => Some(Self::Stop),
            HostOrder::TakeSnapshot(ticket) => Some(Self::Take(ticket)),
            HostOrder::FindSnapshot(ticket) => Some(Self::Find(ticket)),
            HostOrder::PutBack(ticket) => Some(Self::PutBack(ticket)),
            HostOrder::Drop(ticket) => Some(Self::Drop(ticket)),
            HostOrder::Restore(ticket) => Some(Self::Restore(ticket)),
            HostOrder::AbortSnapshot(_) => None,
        }
    }

    /// What a log calls it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop | Self::Quiet => "stop",
            Self::Take(_) => "snapshot",
            Self::Find(_) => "find the snapshot of",
            Self::PutBack(_) => "put back",
            Self::Drop(_) => "drop",
            Self::Restore(_) => "restore",
            Self::Look => "look at",
        }
    }
}

/// What a job has done and learnt so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How its process ended, once that was seen.
    pub exit: Option<Exit>,
    /// Why the job cannot come to what it is for.
    pub failure: Option<String>,
    /// Whether its container was started or restored by this job.
    pub started: bool,
    /// How far its checkpoint is with the store.
    pub booking: Booking,
}

/// How far a checkpoint is with the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Booking {
    /// It is not in its books.
    #[default]
    Open,
    /// It is.
    Booked,
    /// There is no room for it; with the reason.
    NoRoom(String),
    /// There is no room, and its process does not come back either: it is kept all the same.
    Stranded,
}

/// Whether the store may refuse a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may, for want of room.
    Asked,
    /// It may not: the process has nowhere else to be.
    Forced,
}

/// What to do next about a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make its container.
    Create,
    /// Start its container, which was never started.
    Start,
    /// Checkpoint it, or freeze it where that cannot be had.
    Snapshot,
    /// Put its checkpoint into the store's books.
    Book(Room),
    /// Bring its process back from the disk.
    Restore,
    /// Thaw it.
    Thaw,
    /// End its process.
    Stop,
    /// Remove its container, which has no process, and what is stored of it.
    Remove {
        /// How its process ended, if it had one.
        exit: Option<Exit>,
    },
    /// Look again in a moment.
    Wait,
    /// It is done, and this is to be told.
    Tell(Vec<Told>),
}

/// Something to be told about a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Its process has ended.
    Exited(Exit),
    /// It was not started, and nothing is left of it.
    NotStarted(String),
    /// What became of its snapshot.
    Snapshot(SnapshotOutcome),
    /// It was put back or dropped.
    Settled,
    /// It was not restored.
    NotRestored(String),
}

impl Told {
    /// The event of it, for the hub.
    pub fn into_event(self, runner: &belay_protocol::runner::RunnerId, job: &Job) -> HostEvent {
        let runner = runner.clone();
        let ticket = match job {
            Job::Take(ticket)
            | Job::Find(ticket)
            | Job::PutBack(ticket)
            | Job::Drop(ticket)
            | Job::Restore(ticket) => Some(ticket.clone()),
            Job::Start { .. } | Job::Stop | Job::Quiet | Job::Look => None,
        };
        match (self, ticket) {
            (Self::Exited(exit), _) => HostEvent::Exited { runner, exit },
            (Self::Snapshot(outcome), Some(ticket)) => HostEvent::Snapshot { ticket, outcome },
            (Self::Settled, Some(ticket)) => HostEvent::Settled { ticket },
            (Self::NotRestored(reason), Some(ticket)) => {
                HostEvent::RestoreFailed { ticket, reason }
            }
            (Self::NotStarted(reason) | Self::NotRestored(reason), _) => {
                HostEvent::StartFailed { runner, reason }
            }
            (Self::Snapshot(_) | Self::Settled, None) => {
                unreachable!("only jobs with a ticket tell of snapshots")
            }
        }
    }
}

/// The next step of a job.
pub fn next_step(job: &Job, sight: Sight, progress: &Progress) -> Step {
    if sight == Sight::Unknown {
        return Step::Wait;
    }
    match job {
        Job::Start { .. } => start(sight, progress),
        Job::Stop => stop(sight, progress),
        Job::Quiet => match sight {
            Sight::Suspended => Step::Tell(Vec::new()),
            _ => stop(sight, progress),
        },
        Job::Look => match sight {
            Sight::Ended(exit) => Step::Remove { exit: Some(exit) },
            Sight::Absent | Sight::Foreign => gone(progress, None),
            Sight::Created | Sight::Running | Sight::Paused | Sight::Suspended | Sight::Unknown => {
                Step::Tell(Vec::new())
            }
        },
        Job::Take(_) => take(sight, progress, Attempt::New),
        Job::Find(_) => take(sight, progress, Attempt::Past),
        Job::PutBack(_) => put_back(sight, progress),
        Job::Drop(_) => match sight {
            Sight::Absent | Sight::Foreign => Step::Tell(vec![Told::Settled]),
            Sight::Running | Sight::Paused => Step::Stop,
            Sight::Created | Sight::Suspended | Sight::Unknown => Step::Remove { exit: None },
            Sight::Ended(exit) => Step::Remove { exit: Some(exit) },
        },
        Job::Restore(_) => restore(sight, progress),
    }
}

/// Tells that a process is gone, and what follows from it.
fn gone(progress: &Progress, then: Option<Told>) -> Step {
    let exited = Told::Exited(progress.exit.unwrap_or_default());
    Step::Tell([Some(exited), then].into_iter().flatten().collect())
}

fn start(sight: Sight, progress: &Progress) -> Step {
    let not_started = |reason: &str| Step::Tell(vec![Told::NotStarted(reason.to_owned())]);
    match (sight, &progress.failure) {
        (Sight::Foreign, _) => not_started("a container that belayd did not make has its name"),
        (Sight::Suspended, _) => not_started("it is checkpointed, and is not begun afresh"),
        (Sight::Absent, Some(reason)) => not_started(reason),
        (Sight::Created | Sight::Unknown, Some(_)) => Step::Remove { exit: None },
        (Sight::Absent, None) if progress.started => gone(progress, None),
        (Sight::Absent, None) => Step::Create,
        (Sight::Created | Sight::Unknown, None) => Step::Start,
        // It may have ended by itself after it was started.
        (Sight::Ended(exit), _) => Step::Remove { exit: Some(exit) },
        (Sight::Paused, _) => Step::Thaw,
        (Sight::Running, _) => Step::Tell(Vec::new()),
    }
}

fn stop(sight: Sight, progress: &Progress) -> Step {
    match sight {
        Sight::Absent | Sight::Foreign => gone(progress, None),
        Sight::Running | Sight::Paused => Step::Stop,
        Sight::Created | Sight::Suspended | Sight::Unknown => Step::Remove { exit: None },
        Sight::Ended(exit) => Step::Remove { exit: Some(exit) },
    }
}

/// Which snapshot is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// One that is taken now.
    New,
    /// One that an earlier belayd may have taken.
    Past,
}

fn take(sight: Sight, progress: &Progress, attempt: Attempt) -> Step {
    let told = |outcome| Told::Snapshot(outcome);
    let not_taken = |reason: &str| told(SnapshotOutcome::NotTaken { reason: reason.to_owned() });
    let failure = match &progress.booking {
        Booking::NoRoom(reason) => Some(reason),
        Booking::Open | Booking::Booked | Booking::Stranded => progress.failure.as_ref(),
    };
    match sight {
        Sight::Running => match (failure, attempt) {
            (Some(reason), _) => Step::Tell(vec![not_taken(reason)]),
            (None, Attempt::New) => Step::Snapshot,
            (None, Attempt::Past) => {
                Step::Tell(vec![not_taken("belayd ended before it was taken")])
            }
        },
        // It was frozen, whatever went wrong besides.
        Sight::Paused => Step::Tell(vec![told(SnapshotOutcome::Taken(Means::Pause))]),
        Sight::Suspended => match progress.booking {
            Booking::Open => Step::Book(Room::Asked),
            Booking::Stranded => Step::Book(Room::Forced),
            Booking::Booked => Step::Tell(vec![told(SnapshotOutcome::Taken(Means::Checkpoint))]),
            // Its process comes back.
            Booking::NoRoom(_) => Step::Restore,
        },
        Sight::Created | Sight::Unknown => Step::Remove { exit: None },
        Sight::Ended(exit) => Step::Remove { exit: Some(exit) },
        Sight::Absent | Sight::Foreign => gone(progress, Some(not_taken("its container is gone"))),
    }
}

fn put_back(sight: Sight, progress: &Progress) -> Step {
    match (sight, &progress.failure) {
        (Sight::Suspended, None) => Step::Restore,
        // It cannot be brought back: then it is lost, and that is told.
        (Sight::Suspended, Some(_)) | (Sight::Created | Sight::Unknown, _) => {
            Step::Remove { exit: None }
        }
        (Sight::Paused, _) => Step::Thaw,
        (Sight::Running, _) => Step::Tell(vec![Told::Settled]),
        (Sight::Ended(exit), _) => Step::Remove { exit: Some(exit) },
        (Sight::Absent | Sight::Foreign, _) => gone(progress, Some(Told::Settled)),
    }
}

fn restore(sight: Sight, progress: &Progress) -> Step {
    let not_restored = |reason: &str| Step::Tell(vec![Told::NotRestored(reason.to_owned())]);
    match (sight, &progress.failure) {
        (Sight::Running, _) => Step::Tell(Vec::new()),
        (Sight::Paused, _) => Step::Thaw,
        (Sight::Suspended, None) => Step::Restore,
        (Sight::Suspended, Some(reason)) => not_restored(reason),
        // It came back, and ended by itself.
        (Sight::Ended(exit), _) if progress.started => Step::Remove { exit: Some(exit) },
        (Sight::Absent | Sight::Foreign, _) if progress.started => gone(progress, None),
        (Sight::Ended(_), _) => not_restored("its container has ended and nothing is stored of it"),
        (Sight::Absent | Sight::Foreign | Sight::Created | Sight::Unknown, _) => {
            not_restored("its container is gone")
        }
    }
}

#[cfg(test)]
mod tests;
