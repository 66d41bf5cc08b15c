//! The workloads that this one depends on: waiting for them, taking their values, following their
//! restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_protocol::{
    DependencyStatus, DesiredState, NodeStatus, Problem, ProblemCode, WorkloadName,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::state::{Known, State};
use crate::core::container::EnvironmentPrint;
use crate::core::dependencies;
use crate::core::environment::Layers;
use crate::core::machine::{ProvidersFact, Renewal};
use crate::core::providers::{self, Exports, Providers};

/// A start that waits for other workloads.
#[derive(Debug)]
pub(crate) struct ProviderWait {
    since: Instant,
    /// What was last said of it.
    told: String,
    /// Whether it was reported as a failure already.
    failed: bool,
}

/// What became of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// There is none, or it may go on.
    Kept,
    /// It was given up and something else is in force now.
    Lost,
}

/// Waits until the page shows other things of the workloads that this one depends on; for ever when
/// there are none.
pub(crate) async fn changed(
    page: &mut watch::Receiver<Arc<NodeStatus>>,
    known: Option<&Known>,
    last: &Providers,
) {
    if let Some(known) = known.filter(|known| !known.spec.depends_on.is_empty()) {
        while page.changed().await.is_ok() {
            if providers::seen(&known.spec, &page.borrow_and_update()) != *last {
                return;
            }
        }
    }
    std::future::pending::<()>().await;
}

impl State {
    /// Takes from the node's page what it shows of the workloads that this one depends on.
    pub(crate) fn see_providers(&mut self) {
        let Some(known) = &self.known else { return };
        self.providers = if known.spec.depends_on.is_empty() {
            Providers::new()
        } else {
            providers::seen(&known.spec, &self.page.borrow_and_update())
        };
        self.awaited = providers::awaited(&known.spec, &self.providers);
    }

    pub(crate) fn providers_fact(&self) -> ProvidersFact {
        if self.awaited.is_empty() { ProvidersFact::There } else { ProvidersFact::Awaited }
    }

    pub(crate) fn exports(&self, known: &Known) -> Exports {
        providers::exports(&known.spec, &self.providers)
    }

    pub(crate) fn layers<'a>(&'a self, known: &'a Known, exports: &'a Exports) -> Layers<'a> {
        Layers { node: &self.context.node, exports, overrides: &known.record.overrides }
    }

    /// What the target's container should have been made with; none while its providers, and with
    /// them their values, are not there.
    pub(crate) fn environment_print(&self) -> Option<EnvironmentPrint> {
        let known = self.known.as_ref().filter(|_| self.awaited.is_empty())?;
        let exports = self.exports(known);
        Some(EnvironmentPrint::of(self.layers(known, &exports)))
    }

    /// Has a container that runs started anew when a value that it takes from another workload is
    /// another one now, or when a workload whose restarts it follows was started anew.
    pub(crate) fn follow_providers(&mut self) {
        let Some(known) = &self.known else { return };
        let record = &known.record;
        let settled = self.pending.is_none()
            && self.window.is_none()
            && self.window_request.is_none()
            && self.renewal == Renewal::None
            && record.run == DesiredState::Running
            && record.previous.is_none()
            && record.removing.is_none()
            && record.halted.is_none();
        if !settled || known.spec.depends_on.is_empty() || !self.awaited.is_empty() {
            return;
        }
        let Some(target) = self.target() else { return };
        if self.running_incarnation().is_none() {
            return;
        }
        let values = self.exports(known).digest();
        let followed = providers::followed(&known.spec, &self.providers);
        let why = if values != EnvironmentPrint::carried_by(target).dependencies {
            "what it takes from another workload has changed".to_owned()
        } else if let Some(provider) = providers::restarted(&record.started_with, &followed) {
            format!("{provider} was started anew")
        } else {
            return;
        };
        tracing::info!(workload = %self.name, "it is started anew: {why}");
        self.renewal = Renewal::Wanted;
    }

    /// The runs of the providers whose restarts are followed, as they are now.
    pub(crate) fn followed_providers(&self) -> BTreeMap<WorkloadName, String> {
        let followed = |known: &Known| providers::followed(&known.spec, &self.providers);
        self.known.as_ref().map(followed).unwrap_or_default()
    }

    /// When a start that waits for others is to be told as a failure.
    pub(crate) fn wait_due(&self) -> Option<Instant> {
        let wait = self.wait.as_ref().filter(|wait| !wait.failed)?;
        let spec = &self.known.as_ref()?.spec;
        let timeouts = self.awaited.keys().filter_map(|name| spec.depends_on.get(name));
        Some(wait.since + timeouts.map(|dependency| dependency.timeout).min()?)
    }

    /// Says what a start waits for, and ends the patience of whoever waits for the start. The start
    /// itself goes on waiting, but for a deploy, which goes back to the version before.
    pub(crate) async fn judge_wait(&mut self) -> Patience {
        if self.phase != belay_protocol::WorkloadPhase::Waiting || self.awaited.is_empty() {
            self.wait = None;
            return Patience::Kept;
        }
        let now = Instant::now();
        let sentence = providers::sentence(&self.awaited);
        let wait = self.wait.get_or_insert_with(|| ProviderWait {
            since: now,
            told: String::new(),
            failed: false,
        });
        if wait.told != sentence {
            wait.told.clone_from(&sentence);
            self.progress("wait", sentence.clone());
        }
        if self.wait_due().is_none_or(|due| due > now) {
            return Patience::Kept;
        }
        let Some(wait) = &mut self.wait else { return Patience::Kept };
        wait.failed = true;
        let waited = wait.since.elapsed().as_secs();
        let first = self.awaited.keys().next().map(ToString::to_string).unwrap_or_default();
        let problem = Problem::new(
            ProblemCode::DependencyNotReady,
            format!("{}: {sentence}; for {waited} s now", self.name),
            format!("belay explain {first}; {} starts by itself once it is there", self.name),
        );
        let deploying = self.known.as_ref().is_some_and(|known| known.record.previous.is_some());
        if deploying {
            self.wait = None;
            self.roll_back(problem).await;
            return Patience::Lost;
        }
        tracing::warn!(workload = %self.name, "{}", problem.detail);
        self.set_fault(&problem);
        self.fail_pending(problem);
        Patience::Kept
    }

    /// What is shown of the workloads that this one depends on.
    pub(crate) fn dependencies(&self, known: &Known) -> Vec<DependencyStatus> {
        let waits = self.wait.is_some();
        let status = |(name, dependency): (&WorkloadName, &crate::core::spec::Dependency)| {
            let awaited = self.awaited.get(name).filter(|_| waits).cloned();
            DependencyStatus { workload: name.clone(), until: dependency.until, awaited }
        };
        known.spec.depends_on.iter().map(status).collect()
    }

    /// Words for the end of an answer: who depends on this workload. Nothing when nobody does.
    pub(crate) fn those_who_depend(&self) -> String {
        let graph = providers::graph(&self.context.board.page());
        let names = dependencies::dependants(&graph, &self.name);
        let names: Vec<_> = names.iter().map(WorkloadName::as_str).collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => format!("; {one} depends on it and is left as it is"),
            several => format!("; {} depend on it and are left as they are", several.join(", ")),
        }
    }
}
