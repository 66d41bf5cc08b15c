//! Tells those who serve runs what workloads are granted, as the templates change.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_lifecycle::Template;
use belay_lifecycle::core::template::Standing;
use belay_protocol::WorkloadName;
use belay_runner::{RunnerSource, WorkloadPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::grants::Grants;

/// Pause before something that was not taken is said again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a template is granted; none while it takes no runs.
pub fn policy(template: &Template) -> Option<WorkloadPolicy> {
    let runner = template.spec.runner?;
    let max_concurrent = match template.standing {
        Standing::Taking => runner.max_concurrent,
        // Its image is on its way: runs are taken, and wait for it.
        Standing::Resting => 0,
        Standing::Stopped | Standing::Removed => return None,
    };
    Some(WorkloadPolicy {
        max_concurrent,
        runners: RunnerSource::Hosted { memory: template.spec.limits.memory.unwrap_or(0) },
        snapshot_delay: runner.snapshot_delay,
    })
}

/// What all of them are granted.
pub fn policies(
    templates: &BTreeMap<WorkloadName, Template>,
) -> BTreeMap<WorkloadName, WorkloadPolicy> {
    let granted =
        |(name, template): (&WorkloadName, &Template)| Some((name.clone(), policy(template)?));
    templates.iter().filter_map(granted).collect()
}

/// Says every change until the token is cancelled. `said` is what is known already.
pub(crate) async fn follow<G: Grants>(
    mut templates: watch::Receiver<BTreeMap<WorkloadName, Template>>,
    grants: G,
    mut said: BTreeMap<WorkloadName, WorkloadPolicy>,
    ending: CancellationToken,
) {
    loop {
        let wanted = policies(&templates.borrow_and_update());
        let mut is_behind = false;
        let names: Vec<_> = said.keys().chain(wanted.keys()).cloned().collect();
        for name in names {
            let policy = wanted.get(&name).copied();
            if said.get(&name).copied() == policy {
                continue;
            }
            if grants.declare(&name, policy).await {
                match policy {
                    Some(policy) => said.insert(name, policy),
                    None => said.remove(&name),
                };
            } else {
                is_behind = true;
            }
        }
        tokio::select! {
            changed = templates.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if is_behind => {}
            () = ending.cancelled() => return,
        }
    }
}
