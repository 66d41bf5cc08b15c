//! The operation that somebody waits for.

use belay_protocol::{OperationOutcome, Problem, ProblemCode, WorkloadPhase};
use belay_sync::{Ready, WindowClosed};

use super::state::State;
use crate::core::machine::VolumesFact;
use crate::reporter::Reporter;

/// An operation under way, and whom to tell.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: PendingKind,
    pub(crate) reporter: Reporter,
    /// Set when it has failed and what was before is being restored.
    pub(crate) failure: Option<Problem>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingKind {
    /// Its image is fetched; nothing has changed yet.
    PrepareDeploy,
    /// The new version is to become ready.
    Deploy,
    Start,
    Restart,
    Stop,
    Remove,
}

impl PendingKind {
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::PrepareDeploy | Self::Deploy => "deploy",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Remove => "rm",
        }
    }
}

/// What became of a workload.
fn how(kind: PendingKind) -> &'static str {
    match kind {
        PendingKind::Deploy => "deployed",
        PendingKind::Restart => "restarted",
        PendingKind::PrepareDeploy
        | PendingKind::Start
        | PendingKind::Stop
        | PendingKind::Remove => "started",
    }
}

impl State {
    /// Begins an operation, or says that another is under way.
    pub(crate) fn begin(&mut self, kind: PendingKind, reporter: Reporter) -> bool {
        if let Some(pending) = &self.pending {
            reporter.finish(Err(self.busy(pending.kind)));
            return false;
        }
        self.pending = Some(Pending { kind, reporter, failure: None });
        true
    }

    /// Begins an operation that ends any other: a stop or a removal.
    pub(crate) fn supersede(&mut self, kind: PendingKind, reporter: Reporter) {
        if let Some(old) = self.pending.take() {
            let detail = format!(
                "{} of {} was ended by a later {}",
                old.kind.verb(),
                self.name,
                kind.verb()
            );
            old.reporter.finish(Err(Problem::new(
                ProblemCode::Busy,
                detail,
                format!("belay status {}", self.name),
            )));
        }
        self.pending = Some(Pending { kind, reporter, failure: None });
    }

    pub(crate) fn busy(&self, under_way: PendingKind) -> Problem {
        Problem::new(
            ProblemCode::Busy,
            format!("{} of {} is under way", under_way.verb(), self.name),
            format!("wait for it, or end it: belay stop {}", self.name),
        )
    }

    pub(crate) fn progress(&self, step: &str, detail: impl Into<String>) {
        if let Some(pending) = &self.pending {
            pending.reporter.progress(step, detail);
        }
    }

    /// Ends the operation under way with a failure.
    pub(crate) fn fail_pending(&mut self, problem: Problem) {
        self.answer_window_return(Ready::NotReady { reason: problem.detail.clone() });
        if let Some(pending) = self.pending.take() {
            pending.reporter.finish(Err(match pending.failure {
                Some(first) => {
                    let detail = format!(
                        "{}; the version before failed too: {}",
                        first.detail, problem.detail
                    );
                    Problem { detail, ..first }
                }
                None => problem,
            }));
        }
    }

    /// Ends the operation under way if it has come to what it is waiting for.
    pub(crate) fn settle_pending(&mut self) {
        self.settle_window_return();
        let Some(pending) = &self.pending else { return };
        let Some(known) = &self.known else { return };
        let gone =
            self.seen.as_ref().is_some_and(Vec::is_empty) && self.volumes == VolumesFact::Released;
        let gone = gone && self.has_no_runner_alive();
        let in_force = known.record.previous.is_none();
        let up = in_force && self.renewal == crate::core::machine::Renewal::None;
        let summary = match pending.kind {
            PendingKind::Stop if gone => {
                format!("{} is stopped{}", self.name, self.those_who_depend())
            }
            PendingKind::PrepareDeploy | PendingKind::Remove | PendingKind::Stop => return,
            PendingKind::Deploy | PendingKind::Start | PendingKind::Restart => {
                let takes_runs = self.takes_runs() && self.phase == WorkloadPhase::Ready;
                if self.rests_for_content() && self.renewal == crate::core::machine::Renewal::None {
                    self.rest_summary(how(pending.kind))
                } else if up && (self.is_ready() || takes_runs) {
                    self.ready_summary(pending.kind)
                } else if up && self.phase == WorkloadPhase::Completed {
                    format!("{} ran to its end with exit code 0", self.name)
                } else if up && self.has_missed() {
                    let problem = self.not_ready();
                    self.fail_pending(problem);
                    return;
                } else {
                    return;
                }
            }
        };
        let Some(pending) = self.pending.take() else { return };
        pending.reporter.finish(match pending.failure {
            Some(problem) => {
                let state = if self.rests_for_content() { "waits for content" } else { "is ready" };
                let detail = format!(
                    "{}; generation {} was restored and {state}",
                    problem.detail, known.record.generation
                );
                Err(Problem { detail, ..problem })
            }
            None => Ok(OperationOutcome { summary, publish: None }),
        });
    }

    fn ready_summary(&self, kind: PendingKind) -> String {
        let how = how(kind);
        let Some(known) = &self.known else { return format!("{} is {how}", self.name) };
        if known.spec.runner.is_some() {
            return format!("{} is {how} and takes runs", self.name);
        }
        if known.spec.ready.probe == crate::core::spec::ProbeSpec::Process {
            format!(
                "{} is {how}; its process stays up (no probe is configured, so whether it serves \
                 is not known)",
                self.name
            )
        } else {
            format!("{} is {how} and ready", self.name)
        }
    }

    /// The problem of a target that is not ready within its budget.
    pub(crate) fn not_ready(&self) -> Problem {
        let report = self.checks.report().map(|report| report.to_string());
        Problem::new(
            ProblemCode::NotReady,
            format!("{}: {}", self.name, report.unwrap_or_default()),
            format!("see what it wrote: belay logs {}", self.name),
        )
    }

    /// Answers the closer of a window once the workload is back, or is known not to come back.
    fn settle_window_return(&mut self) {
        if self.window_return.is_some()
            && let Some(ready) = self.readiness()
        {
            self.answer_window_return(ready);
        }
    }

    /// Whether it is ready on what its volumes hold; none while that is being found out.
    pub(crate) fn readiness(&self) -> Option<Ready> {
        let record = &self.known.as_ref()?.record;
        let wanted = record.run == belay_protocol::DesiredState::Running
            && record.halted.is_none()
            && record.removing.is_none();
        if !wanted || self.awaits_content() {
            return Some(Ready::NotStarted);
        }
        if let Some(reason) = &record.failed {
            return Some(Ready::NotReady { reason: reason.clone() });
        }
        if record.previous.is_some() {
            // The version that is being deployed decides about itself first.
            return None;
        }
        // A one-shot that ran to its end is as good as one that is ready.
        if self.phase == WorkloadPhase::Completed || self.is_ready() {
            return Some(Ready::Ready);
        }
        if self.has_missed() {
            return Some(Ready::NotReady { reason: self.not_ready().detail });
        }
        (self.phase == WorkloadPhase::BackOff)
            .then(|| Ready::NotReady { reason: self.reason.clone() })
    }

    pub(crate) fn answer_window_return(&mut self, ready: Ready) {
        if let Some(back) = self.window_return.take() {
            let downtime = back
                .started_at
                .unwrap_or_else(tokio::time::Instant::now)
                .saturating_duration_since(back.stopped_at);
            back.reply.send(Ok(WindowClosed { found: back.found, ready, downtime }));
        }
    }
}
