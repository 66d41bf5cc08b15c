//! Whether a publish of this workload may begin.

use belay_engine::Liveness;
use belay_protocol::{
    EventDetails, OperationOutcome, Problem, ProblemCode, SyncRole, WorkloadName,
};
use belay_sync::{SyncHandle, Takeover, TakeoverError};

use super::state::State;
use crate::core::machine::WindowDemand;
use crate::core::standing::{self, Process};
use crate::problems;
use crate::reporter::Reporter;

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

    /// Hands a takeover to the sync task. It needs mounted volumes and no running app: the standby
    /// that becomes the provider may be waiting for just that.
    pub(crate) fn ask_takeover(&mut self, reporter: Reporter) {
        let Some(known) = &self.known else { return reporter.finish(Err(self.unknown())) };
        let name = self.name.clone();
        if known.spec.sync.as_ref().is_none_or(|sync| sync.role != SyncRole::Provider) {
            return reporter.finish(Err(Problem::new(
                ProblemCode::NoSync,
                format!("{name} is no provider"),
                "give its spec a [sync] table with role = \"provider\" and the key, and deploy it",
            )));
        }
        let Some(handle) = self.sync.as_ref().map(|sync| sync.handle.clone()) else {
            return reporter.finish(Err(Problem::new(
                ProblemCode::NotRunning,
                format!("the volumes of {name} are not mounted"),
                format!("belay start {name}"),
            )));
        };
        let teller = self.sync_teller();
        self.answers.spawn(async move {
            reporter.progress("takeover", "who publishes now is being looked up");
            reporter.finish(match handle.take_over().await {
                Ok(taken) => {
                    let summary = told(&name, &taken);
                    match taken {
                        Takeover::Taken { epoch, seq, cid, from } => {
                            let from = from.as_str().into();
                            let details = EventDetails::SyncTakenOver { cid, epoch, seq, from };
                            teller.tell(summary.as_str(), details);
                        }
                        Takeover::Already { .. } => {}
                    }
                    Ok(OperationOutcome { summary, publish: None })
                }
                Err(error) => Err(takeover_problem(&name, &error)),
            });
        });
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

fn told(name: &WorkloadName, taken: &Takeover) -> String {
    match taken {
        Takeover::Taken { epoch, seq, cid, from } => format!(
            "{name} publishes from now on, in the place of {from}: record {seq} of epoch {epoch}, \
             with {cid} as it was"
        ),
        Takeover::Already { epoch, seq } => {
            format!("{name} is the one who publishes already, by record {seq} of epoch {epoch}")
        }
    }
}

fn takeover_problem(name: &WorkloadName, error: &TakeoverError) -> Problem {
    let detail = format!("{name}: {}", problems::with_causes(error));
    match error {
        TakeoverError::NothingPublished => Problem::new(
            ProblemCode::TakeoverRefused,
            detail,
            format!("belay sync publish {name} PATH, if nobody published here before"),
        ),
        TakeoverError::AnyMayPublish => Problem::new(
            ProblemCode::TakeoverRefused,
            detail,
            format!("belay sync publish {name} PATH"),
        ),
        TakeoverError::NotProvider => Problem::new(
            ProblemCode::NoSync,
            detail,
            "give its spec a [sync] table with role = \"provider\" and deploy it",
        ),
        TakeoverError::Failed { code, .. } => Problem::new(
            code.unwrap_or(ProblemCode::PublishFailed),
            detail,
            "nothing was taken over; whoever published goes on",
        ),
        TakeoverError::Unknown { .. } => Problem::new(
            ProblemCode::Unconfirmed,
            detail,
            format!("belay sync takeover {name} --yes, once the store answers"),
        ),
        TakeoverError::Busy => {
            Problem::new(ProblemCode::Busy, detail, "wait for the publish under way")
        }
        TakeoverError::NoVolumes => {
            Problem::new(ProblemCode::NotRunning, detail, format!("belay start {name}"))
        }
        TakeoverError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_takeover_is_told_with_what_to_do_next() {
        let name = "web".parse().expect("a name");
        let already = told(&name, &Takeover::Already { epoch: 2, seq: 5 });
        assert_eq!(already, "web is the one who publishes already, by record 5 of epoch 2");
        let problem = |error| takeover_problem(&name, &error);
        let nothing = problem(TakeoverError::NothingPublished);
        assert_eq!(nothing.code, ProblemCode::TakeoverRefused);
        assert!(nothing.next.starts_with("belay sync publish web"), "{nothing:?}");
        let any = problem(TakeoverError::AnyMayPublish);
        assert!(any.detail.contains("publisher = \"any\""), "{any:?}");
        let unknown = problem(TakeoverError::Unknown { reason: "no reply".to_owned() });
        assert_eq!(unknown.code, ProblemCode::Unconfirmed);
        assert!(unknown.next.contains("belay sync takeover web --yes"), "{unknown:?}");
    }
}
