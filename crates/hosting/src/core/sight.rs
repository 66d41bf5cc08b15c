//! What the engine and the checkpoint store show of one runner.

use belay_engine::{ContainerState, Liveness};
use belay_runner::{Exit, MemoryFate};

/// What there is of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// No container.
    Absent,
    /// A container of its name that this installation did not make.
    Foreign,
    /// A container that was never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process is on the disk.
    Suspended,
    /// Its process has ended.
    Ended(Exit),
    /// It cannot be told, and may be told soon.
    Unknown,
}

/// What there is of a checkpoint of a container without a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// No image.
    Nothing,
    /// An image that is not of the last thing the container did.
    Stale,
    /// An image of how the container stood when its process was last there.
    Image,
}

/// Who made a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// This installation.
    Us,
    /// Somebody else.
    Other,
}

/// Puts together what is known of a runner's container.
pub fn sight(found: Option<(&ContainerState, Maker)>, stored: Stored) -> Sight {
    let Some((state, maker)) = found else { return Sight::Absent };
    if maker == Maker::Other {
        return Sight::Foreign;
    }
    match (state.liveness(), state) {
        (Liveness::Unknown, _) => Sight::Unknown,
        (Liveness::Running, ContainerState::Paused { .. }) => Sight::Paused,
        (Liveness::Running, _) => Sight::Running,
        // After a start of the host the engine does not say of any container that it is suspended.
        (Liveness::Stopped, _) if stored == Stored::Image => Sight::Suspended,
        (Liveness::Stopped, ContainerState::Created) => Sight::Created,
        (Liveness::Stopped, state) => Sight::Ended(exit_of(state)),
    }
}

fn exit_of(state: &ContainerState) -> Exit {
    match state {
        ContainerState::Exited { exit_code, oom_killed, .. } => Exit {
            code: Some(i64::from(*exit_code)),
            memory: if *oom_killed { MemoryFate::Killed } else { MemoryFate::Enough },
        },
        ContainerState::Created
        | ContainerState::Running { .. }
        | ContainerState::Paused { .. }
        | ContainerState::Stopping
        | ContainerState::Removing
        | ContainerState::Unknown(_) => Exit::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(exit_code: i32, oom_killed: bool) -> ContainerState {
        ContainerState::Exited { exit_code, oom_killed, finished_at: None, error: None }
    }

    const PID: u32 = 7;
    const AT: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    #[test]
    fn each_state_is_told_apart() {
        let look = |state: ContainerState, stored| sight(Some((&state, Maker::Us)), stored);
        assert_eq!(sight(None, Stored::Image), Sight::Absent);
        assert_eq!(look(ContainerState::Created, Stored::Nothing), Sight::Created);
        for stored in [Stored::Nothing, Stored::Stale, Stored::Image] {
            let runs = ContainerState::Running { pid: PID, started_at: AT };
            assert_eq!(look(runs, stored), Sight::Running, "a process is there");
            let paused = ContainerState::Paused { pid: PID, started_at: AT };
            assert_eq!(look(paused, stored), Sight::Paused);
            assert_eq!(look(ContainerState::Stopping, stored), Sight::Unknown);
            assert_eq!(look(ContainerState::Unknown("x".into()), stored), Sight::Unknown);
        }
        assert_eq!(look(exited(0, false), Stored::Image), Sight::Suspended);
        let killed = Exit { code: Some(137), memory: MemoryFate::Killed };
        assert_eq!(look(exited(137, true), Stored::Nothing), Sight::Ended(killed));
        let ended = Exit { code: Some(0), memory: MemoryFate::Enough };
        assert_eq!(look(exited(0, false), Stored::Stale), Sight::Ended(ended));
    }

    #[test]
    fn what_another_installation_made_is_foreign() {
        let runs = ContainerState::Running { pid: PID, started_at: AT };
        assert_eq!(sight(Some((&runs, Maker::Other)), Stored::Nothing), Sight::Foreign);
    }
}
