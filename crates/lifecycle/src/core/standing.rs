//! Whether a workload may be acted on by what needs it to run and never changes whether it runs.

use belay_protocol::{DesiredState, Problem, ProblemCode, WorkloadName, WorkloadPhase};

use super::machine::WindowDemand;
use super::record::WorkloadRecord;

/// What the engine said of the process last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It runs.
    Runs,
    /// There is none.
    None,
    /// It could not say.
    Untold,
}

/// How a workload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It runs, and is meant to.
    Runs,
    /// It is down for volume-sync and comes back by itself.
    Paused,
    /// It runs no more, or will not in a moment: what was asked of it wins over what is left.
    Down,
    /// Whether it runs cannot be told, so nothing may count on it.
    Untold,
}

/// How a workload stands. What should be is asked first: one that is being stopped still runs, and
/// an act that began now would meet its end.
pub fn standing(record: &WorkloadRecord, process: Process, window: WindowDemand) -> Standing {
    let meant_to_run =
        record.run == DesiredState::Running && record.removing.is_none() && record.halted.is_none();
    match (meant_to_run, window, process) {
        (false, _, _) | (true, WindowDemand::Closed, Process::None) => Standing::Down,
        (true, WindowDemand::Open, _) => Standing::Paused,
        (true, WindowDemand::Closed, Process::Runs) => Standing::Runs,
        (true, WindowDemand::Closed, Process::Untold) => Standing::Untold,
    }
}

/// Refuses an act for how the workload stands; `None` when it runs. The refusal names the state,
/// the reason and the command that changes it.
pub fn refusal(
    standing: Standing,
    name: &WorkloadName,
    record: &WorkloadRecord,
    phase: WorkloadPhase,
    reason: &str,
) -> Option<Problem> {
    let start = format!("start it and try again: belay start {name}");
    // The phase follows what was asked by a step, and may still be the one before it.
    let told = match phase {
        WorkloadPhase::Ready | WorkloadPhase::Unready | WorkloadPhase::Probing => {
            match (&record.removing, &record.halted, record.run) {
                (Some(_), _, _) => "removing: an operator removed it".to_owned(),
                (None, _, DesiredState::Stopped) => "stopping: an operator stopped it".to_owned(),
                (None, Some(halt), DesiredState::Running) => format!("halted: {halt}"),
                (None, None, DesiredState::Running) => "ending: its process is gone".to_owned(),
            }
        }
        WorkloadPhase::Pending
        | WorkloadPhase::Waiting
        | WorkloadPhase::FetchingImage
        | WorkloadPhase::ProvidingVolumes
        | WorkloadPhase::Starting
        | WorkloadPhase::Stopping
        | WorkloadPhase::Stopped
        | WorkloadPhase::Completed
        | WorkloadPhase::PausedForSync
        | WorkloadPhase::BackOff
        | WorkloadPhase::Failed
        | WorkloadPhase::Halted
        | WorkloadPhase::Removing
        | WorkloadPhase::Unknown => format!("{}: {reason}", phase.as_str()),
    };
    let detail = format!("{name} is {told}");
    match standing {
        Standing::Runs => None,
        Standing::Paused => Some(Problem::new(
            ProblemCode::Busy,
            format!("{name} is paused for sync and comes back by itself"),
            format!("try again in a moment; belay status {name} shows when it is back"),
        )),
        Standing::Down if record.removing.is_some() => Some(Problem::new(
            ProblemCode::NotRunning,
            detail,
            "deploy it anew once it is gone: belay deploy FILE",
        )),
        Standing::Down => Some(Problem::new(ProblemCode::NotRunning, detail, start)),
        Standing::Untold => Some(Problem::new(
            ProblemCode::NotRunning,
            detail,
            format!(
                "see what the engine lacks: belay doctor; once it answers, and if it does not run, \
                 {start}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
