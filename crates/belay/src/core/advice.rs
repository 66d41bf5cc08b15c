//! What to type next, from what a workload is in.

use belay_protocol::{WorkloadPhase, WorkloadStatus};

/// The next command for a workload that is not as it should be; `None` where all is well or
/// belayd is at work by itself.
pub(crate) fn next(workload: &WorkloadStatus) -> Option<String> {
    let name = &workload.name;
    match workload.phase {
        WorkloadPhase::Waiting => {
            let first = workload.depends_on.iter().find(|needed| needed.awaited.is_some());
            let without = || {
                let waits = workload.sync.as_ref().is_some_and(|sync| sync.first.is_some());
                waits.then(|| format!("belay start {name} --without-content starts it as it is"))
            };
            first.map(|needed| format!("belay explain {}", needed.workload)).or_else(without)
        }
        WorkloadPhase::Pending
        | WorkloadPhase::FetchingImage
        | WorkloadPhase::ProvidingVolumes
        | WorkloadPhase::Starting
        | WorkloadPhase::Probing
        | WorkloadPhase::Ready
        | WorkloadPhase::Stopping
        | WorkloadPhase::Completed
        | WorkloadPhase::PausedForSync
        | WorkloadPhase::Removing => None,
        WorkloadPhase::Stopped => Some(format!("belay start {name}")),
        WorkloadPhase::Unready | WorkloadPhase::BackOff | WorkloadPhase::Failed => {
            Some(match &workload.last_fault {
                Some(fault) if !fault.next.is_empty() => fault.next.clone(),
                Some(_) | None => format!("belay logs {name}"),
            })
        }
        WorkloadPhase::Halted => Some(match &workload.last_fault {
            Some(fault) if !fault.next.is_empty() => fault.next.clone(),
            Some(_) | None => format!(
                "look at its volumes first; belay start {name} clears the halt and starts it"
            ),
        }),
        WorkloadPhase::Unknown => Some("belay doctor".to_owned()),
    }
}
