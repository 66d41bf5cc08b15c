//! Containers that are in the way: one that holds a name that is needed, one whose removal is stuck.

use belay_engine::{Container, ContainerState, EngineError, Liveness, Removal, labels};
use belay_protocol::{Problem, ProblemCode};

use super::state::State;
use crate::problems;

/// What came of a name that was taken.
pub(crate) enum NameConflict {
    /// It is free now.
    Freed,
    /// Somebody has it, who is named.
    Held(Problem),
}

impl State {
    /// Removes a stopped container of ours that holds a name we need and that the listing did not
    /// show, as one whose creation was cut short. Any other is left alone, and named.
    pub(crate) async fn free_name(&self, name: &str, conflict: &EngineError) -> NameConflict {
        let untold = || NameConflict::Held(problems::start(&self.name, conflict));
        let found = match self.context.engine.inspect(name).await {
            Ok(Some(found)) => found,
            // It went away between the two.
            Ok(None) => return NameConflict::Freed,
            Err(_) => return untold(),
        };
        if self.is_ours(&found) && found.state.liveness() == Liveness::Stopped {
            return match self.context.engine.remove(&found.id, Removal::Stopped).await {
                Ok(()) => NameConflict::Freed,
                Err(_) => untold(),
            };
        }
        let id = found.id.short();
        let tool = self.context.engine.info().kind.to_string().to_ascii_lowercase();
        NameConflict::Held(Problem::new(
            ProblemCode::StartFailed,
            format!(
                "{}: the name {name} is held by container {id}, which {} and is {}",
                self.name,
                self.owner(&found),
                found.state
            ),
            format!(
                "if it is not needed, remove it: {tool} rm {id}; otherwise rename it; the start is \
                 tried again by itself"
            ),
        ))
    }

    fn is_ours(&self, container: &Container) -> bool {
        let instance = container.labels.get(labels::INSTANCE);
        instance.is_some_and(|instance| *instance == self.context.instance)
    }

    fn owner(&self, container: &Container) -> String {
        let label = |name| container.labels.get(name).map_or("?", String::as_str);
        if self.is_ours(container) {
            format!("is of workload {} of this node", label(labels::WORKLOAD))
        } else if container.labels.contains_key(labels::INSTANCE) {
            format!("is of another belayd, node {}", label(labels::NODE))
        } else {
            "is not belayd's".to_owned()
        }
    }

    /// Finishes a removal that has been under way for far too long. Says whether it acted.
    ///
    /// Only a container of this workload is in the listing, and only one whose removal somebody had
    /// begun is removed: what it held is lost to it already.
    pub(crate) async fn end_stuck_removal(&mut self) -> bool {
        let removing = self.seen.as_ref().and_then(|seen| {
            seen.iter().find(|found| found.state == ContainerState::Removing && self.is_ours(found))
        });
        let removing = removing.map(|found| found.id.to_string());
        let now = self.checks.clock();
        let Some(id) = self.stuck.look(removing.as_deref(), now) else { return false };
        let found = self.context.engine.inspect(&id).await;
        let still = matches!(
            &found, Ok(Some(found)) if found.state == ContainerState::Removing && self.is_ours(found)
        );
        self.stale();
        if !still {
            return true;
        }
        match self.context.engine.remove(&id, Removal::Force).await {
            Ok(()) => tracing::warn!(
                workload = %self.name, container = %id, "its removal was stuck and is finished"
            ),
            Err(error) => {
                let problem = problems::stop(&self.name, &error);
                tracing::warn!(workload = %self.name, container = %id, "{}", problem.detail);
                self.set_fault(&problem);
            }
        }
        true
    }
}
