//! A workload that takes runs: it shows its template, and waits for its runners to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_protocol::{Problem, ProblemCode, WorkloadName, WorkloadPhase};
use tokio::sync::watch;

use super::state::State;
use crate::core::machine::{self, Desired, Facts, Goal, Step};
use crate::core::template::{self, RunnersSeen};
use crate::templates::Template;

/// The runners of the node, as their host counts them.
pub(crate) type RunnerCounts = watch::Receiver<Option<BTreeMap<WorkloadName, RunnersSeen>>>;

/// Waits until the count of this workload's runners has changed; for ever while it has none.
pub(crate) async fn runners_changed(counts: &mut RunnerCounts, is_template: bool) {
    if !is_template || counts.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl State {
    /// Whether the spec in force is of a workload that takes runs.
    pub(crate) fn is_template(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.spec.runner.is_some())
    }

    /// The next step, for one container or for a template.
    pub(crate) fn decide(&self, desired: &Desired, facts: &Facts) -> Step {
        if self.is_template() {
            template::next_step(desired, facts, self.runners())
        } else {
            machine::next_step(desired, facts)
        }
    }

    /// The containers of its runners; `None` before their host has looked.
    pub(crate) fn runners(&self) -> Option<RunnersSeen> {
        let counts = self.runner_counts.borrow();
        counts.as_ref().map(|counts| counts.get(&self.name).copied().unwrap_or_default())
    }

    /// Whether no runner of it has a process.
    pub(crate) fn has_no_runner_alive(&self) -> bool {
        !self.is_template() || self.runners().is_some_and(|runners| runners.alive == 0)
    }

    /// Whether it takes runs.
    pub(crate) fn takes_runs(&self) -> bool {
        let in_force = self.known.as_ref().is_some_and(|known| known.record.previous.is_none());
        let goal = self.view().map(|(desired, _)| desired.goal);
        self.is_template() && in_force && self.image.is_some() && goal == Some(Goal::Running)
    }

    /// Shows the template in force to the host of its runners, or that there is none.
    pub(crate) fn show_template(&self) {
        let template = self.known.as_ref().filter(|known| known.spec.runner.is_some());
        let template = template.zip(self.view()).map(|(known, (desired, facts))| Template {
            spec: Arc::new(known.spec.clone()),
            declaration: known.record.declaration.clone(),
            generation: known.record.generation,
            image: self.image.clone(),
            standing: template::standing(desired.goal, facts.image),
        });
        self.context.templates.show(&self.name, template);
    }

    /// The workload's task ends: of one that is forgotten there is no template any more.
    pub(crate) fn withdraw_template(&self) {
        if self.known.is_none() {
            self.context.templates.show(&self.name, None);
        }
    }

    /// Forgets failures once the image is there: nothing else of a template can fail.
    pub(crate) async fn settle_template(&mut self) {
        let failed = self.known.as_ref().is_some_and(|known| known.record.failures > 0);
        if failed && self.takes_runs() {
            self.keep(|record| {
                record.failures = 0;
                record.next_try_at = None;
            })
            .await;
        }
    }

    /// The phase of a template with nothing to do but wait.
    pub(crate) fn template_phase(&self) -> Option<(WorkloadPhase, String)> {
        let runners = self.runners().unwrap_or_default();
        let (phase, reason) = match self.view()?.0.goal {
            Goal::Running if self.image.is_some() => {
                (WorkloadPhase::Ready, "it takes runs".to_owned())
            }
            Goal::Running | Goal::Halted => return None,
            Goal::Stopped if self.has_no_runner_alive() => {
                (WorkloadPhase::Stopped, "an operator stopped it; its runs wait".to_owned())
            }
            Goal::Stopped => {
                (WorkloadPhase::Stopping, format!("{} of its runners are to end", runners.alive))
            }
            Goal::Removed(_) => {
                (WorkloadPhase::Removing, format!("{} of its runners are to go", runners.all))
            }
        };
        Some((phase, reason))
    }

    /// The problem of an act on the one container that a template does not have.
    pub(crate) fn many_containers(&self, verb: &str) -> Problem {
        Problem::new(
            ProblemCode::RunnerWorkload,
            format!("{} takes runs: it has no container of its own to {verb}", self.name),
            format!("belay stop {0} ends its runners, belay start {0} has it take runs", self.name),
        )
    }
}
