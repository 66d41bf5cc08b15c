//! Whether a publish of this workload may begin.

use belay_engine::Liveness;
use belay_protocol::{Problem, ProblemCode, SyncRole};
use belay_sync::SyncHandle;

use super::state::State;
use crate::core::machine::WindowDemand;
use crate::core::standing::{self, Process};

impl State {
    /// The way to the sync task, if a publish may begin now; otherwise what speaks against it.
    /// Nothing is changed either way.
    pub(crate) fn publish_handle(&self) -> Result<SyncHandle, Problem> {
        let Some(known) = &self.known else { return Err(self.unknown()) };
        match &known.spec.sync {
            Some(sync) if sync.role == SyncRole::Provider => {}
            Some(_) => {
                return Err(Problem::new(
                    ProblemCode::NoSync,
                    format!("{} is a consumer of its key and publishes nothing", self.name),
                    "publish on the node whose workload is the provider",
                ));
            }
            None => {
                return Err(Problem::new(
                    ProblemCode::NoSync,
                    format!("{} has no volume-sync", self.name),
                    "add a [sync] table with role = \"provider\" and a key to its spec and deploy it",
                ));
            }
        }
        if let Some(problem) = self.not_running() {
            return Err(problem);
        }
        if self.sync.as_ref().is_some_and(|sync| sync.status.borrow().paused.is_some()) {
            return Err(super::sync_acts::is_paused(&self.name));
        }
        self.sync.as_ref().map(|sync| sync.handle.clone()).ok_or_else(|| {
            Problem::new(
                ProblemCode::Busy,
                format!("volume-sync of {} has not begun yet", self.name),
                "try again in a few seconds",
            )
        })
    }

    /// What speaks against an act that needs the workload to run; `None` when it runs.
    pub(crate) fn not_running(&self) -> Option<Problem> {
        let known = self.known.as_ref()?;
        let process = match (&self.seen, self.target()) {
            (None, _) => Process::Untold,
            (Some(_), None) => Process::None,
            (Some(_), Some(target)) => match target.state.liveness() {
                Liveness::Running => Process::Runs,
                Liveness::Stopped => Process::None,
                Liveness::Unknown => Process::Untold,
            },
        };
        let window = if self.window.is_some() || self.window_request.is_some() {
            WindowDemand::Open
        } else {
            WindowDemand::Closed
        };
        let standing = standing::standing(&known.record, process, window);
        standing::refusal(standing, &self.name, &known.record, self.phase, &self.reason)
    }
}
