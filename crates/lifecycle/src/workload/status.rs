//! What a workload says of itself.

use std::collections::BTreeMap;

use belay_engine::{Container, ContainerState};
use belay_protocol::{
    BackOffStatus, ContainerStatus, DesiredState, ExitStatus, PortStatus, ProbeCounts, ProbeStatus,
    ProbeVerdict, VolumeName, WorkloadPhase, WorkloadStatus,
};
use belay_volumes::SYSTEM_VOLUME;

use super::state::State;
use crate::checks::{Brought, GateOutcome, Question};
use crate::core::liveness::Health;
use crate::core::machine::{StartFact, Step};
use crate::core::observation::Counts;
use crate::core::providers;

impl State {
    /// The phase that a step belongs to, with its reason; `None` keeps the present one.
    pub(crate) fn phase_of(&self, step: &Step) -> Option<(WorkloadPhase, String)> {
        use WorkloadPhase as P;
        let known = self.known.as_ref()?;
        let record = &known.record;
        let ending = || {
            if record.removing.is_some() {
                P::Removing
            } else if self.window_request.is_some() {
                P::PausedForSync
            } else {
                P::Stopping
            }
        };
        let some = |phase, reason: &str| Some((phase, reason.to_owned()));
        let clears =
            self.is_template() && record.run == DesiredState::Running && record.removing.is_none();
        match step {
            Step::Stop { .. } | Step::Remove { .. } | Step::ReleaseVolumes if clears => {
                some(P::Starting, "what a version before left is cleared away")
            }
            Step::Look => {
                let reason = self.engine_fault.clone();
                let reason = reason.unwrap_or_else(|| "a container is in transition".to_owned());
                Some((P::Unknown, reason))
            }
            Step::Stop { .. } => match &self.ailing {
                Some(ailing) => Some((P::Stopping, ailing.problem.detail.clone())),
                None => some(ending(), "its container is asked to end"),
            },
            Step::Remove { .. } if record.run == DesiredState::Stopped => {
                some(ending(), "its container is removed")
            }
            Step::Remove { .. } | Step::SettleDeploy => None,
            Step::ReleaseVolumes => some(ending(), "its volumes are unmounted"),
            Step::Forget => some(P::Removing, "nothing of it runs any more"),
            Step::FetchImage => some(P::FetchingImage, "its image is looked for"),
            Step::ProvideVolumes | Step::RecoverVolumes => {
                some(P::ProvidingVolumes, "its volumes are mounted")
            }
            Step::ResetVolumes => {
                some(P::ProvidingVolumes, "volumes are emptied, as the app asked for")
            }
            Step::Create | Step::Start { .. } => some(P::Starting, "its container is started"),
            // One that an earlier belayd found ready stays so until that is disproved.
            Step::Probe { .. } if self.was_ready() => None,
            Step::Probe { .. } => some(P::Probing, "it runs; whether it is ready is being asked"),
            Step::Wait => self.template_phase_or_resting(),
        }
    }

    fn template_phase_or_resting(&self) -> Option<(WorkloadPhase, String)> {
        if self.is_template()
            && let Some(phase) = self.template_phase()
        {
            return Some(phase);
        }
        self.resting_phase()
    }

    fn resting_phase(&self) -> Option<(WorkloadPhase, String)> {
        use WorkloadPhase as P;
        let known = self.known.as_ref()?;
        let record = &known.record;
        let some = |phase, reason: &str| Some((phase, reason.to_owned()));
        if record.run == DesiredState::Stopped {
            return some(P::Stopped, "an operator stopped it");
        }
        if let Some(reason) = &record.halted {
            return some(P::Halted, reason);
        }
        if let Some(reason) = &record.failed {
            return some(P::Failed, reason);
        }
        if self.window.is_some() || self.window_request.is_some() {
            return some(P::PausedForSync, "its volumes are being captured or replaced");
        }
        if self.running_incarnation().is_some() {
            if self.is_ready() {
                return match self.checks.liveness().map(|live| (live.health(), live.report())) {
                    Some((Health::Unhealthy, report)) => {
                        Some((P::Unready, format!("it is unhealthy: {report}")))
                    }
                    Some((Health::Unknown, report)) => {
                        let reason = "it was ready; for a minute its liveness could not be told";
                        Some((P::Ready, format!("{reason}: {report}")))
                    }
                    Some((Health::Unasked | Health::Alive, _)) | None => {
                        some(P::Ready, "it runs and is ready")
                    }
                };
            }
            if self.has_missed() {
                let fault = self.last_fault.as_ref().map(|fault| fault.message.clone());
                return Some((P::Unready, fault.unwrap_or_else(|| "its probe fails".to_owned())));
            }
            return some(P::Probing, "it runs; whether it is ready is being asked");
        }
        match self.start_state() {
            StartFact::Completed => {
                let code = self.target().and_then(exit_of).map_or(0, |exit| exit.code);
                if code == 0 {
                    some(P::Completed, "it ran to its end with exit code 0")
                } else {
                    Some((P::Stopped, format!("it ended with exit code {code}, restart is never")))
                }
            }
            StartFact::Allowed if self.fetch.is_some() => {
                some(P::FetchingImage, "its image is being fetched")
            }
            StartFact::Allowed if !self.awaited.is_empty() => {
                Some((P::Waiting, providers::sentence(&self.awaited)))
            }
            StartFact::Allowed if self.awaits_content() => {
                Some((P::Waiting, self.content_sentence()))
            }
            StartFact::BackingOff if self.phase != P::BackOff => {
                let failures = record.failures;
                Some((P::BackOff, format!("{failures} failures in a row before belayd looked")))
            }
            StartFact::Allowed | StartFact::BackingOff => None,
        }
    }

    /// Whether the process that runs is not asked yet and was found ready by a belayd before.
    fn was_ready(&self) -> bool {
        let incarnation = self.running_incarnation();
        incarnation.is_some_and(|incarnation| self.brought(&incarnation) != Brought::Nothing)
    }

    fn ready_status(&self) -> Option<ProbeStatus> {
        let known = self.known.as_ref()?;
        let verdict = match self.checks.outcome()? {
            GateOutcome::Open => ProbeVerdict::Waiting,
            GateOutcome::Kept | GateOutcome::Ready => ProbeVerdict::Good,
            GateOutcome::Missed => ProbeVerdict::Failing,
        };
        Some(ProbeStatus {
            probe: known.spec.ready.probe.to_string(),
            verdict,
            in_a_row: self.checks.good(),
            counts: counts(self.checks.counts(Question::Ready)),
            last: self.checks.seen(Question::Ready).cloned(),
        })
    }

    fn live_status(&self) -> Option<ProbeStatus> {
        let probe = &self.known.as_ref()?.spec.live.as_ref()?.probe;
        let liveness = self.checks.liveness()?;
        let verdict = match liveness.health() {
            Health::Unasked => ProbeVerdict::Waiting,
            Health::Alive => ProbeVerdict::Good,
            Health::Unhealthy => ProbeVerdict::Failing,
            Health::Unknown => ProbeVerdict::Unknown,
        };
        Some(ProbeStatus {
            probe: probe.to_string(),
            verdict,
            in_a_row: liveness.in_a_row(),
            counts: counts(self.checks.counts(Question::Live)),
            last: self.checks.seen(Question::Live).cloned(),
        })
    }

    /// Publishes the status, if it changed.
    pub(crate) fn publish_status(&self) {
        let status = self.status();
        self.published.send_if_modified(|published| {
            let changed = *published != status;
            if !changed {
                return false;
            }
            self.context.board.show_workload(&self.name, status.clone());
            // An answer as the one before is shown, and is no reason to look at the whole node.
            let told = without_checks(published.as_ref()) != without_checks(status.as_ref());
            *published = status;
            told
        });
    }

    fn status(&self) -> Option<WorkloadStatus> {
        let known = self.known.as_ref()?;
        let record = &known.record;
        let mut mounts: BTreeMap<VolumeName, String> = known
            .spec
            .volumes
            .iter()
            .map(|(name, declared)| (name.clone(), declared.mount.clone()))
            .collect();
        if let Ok(system) = SYSTEM_VOLUME.parse() {
            mounts.insert(system, known.spec.system_mount.clone());
        }
        Some(WorkloadStatus {
            name: self.name.clone(),
            desired: record.run,
            phase: self.phase,
            since: self.phase_since,
            reason: self.reason.clone(),
            source: match record.declaration.source {
                crate::core::record::Source::File => record.declaration.file.clone(),
                crate::core::record::Source::Api => "api".to_owned(),
            },
            image: known.spec.image.to_string(),
            image_id: record.image.as_ref().map(|image| image.id.clone()),
            image_digest: record.image.as_ref().and_then(|image| image.digest.clone()),
            spec_hash: record.declaration.hash().chars().take(12).collect(),
            generation: record.generation,
            container: self.target().map(|container| ContainerStatus {
                id: container.id.to_string(),
                name: container.name.clone(),
                started_at: container.state.incarnation().map(|running| running.started_at),
                exit: exit_of(container),
                oom_kills: self.oom_kills(),
            }),
            restarts: self.restarts,
            back_off: record
                .next_try_at
                .filter(|_| self.phase == WorkloadPhase::BackOff)
                .map(|next_try_at| BackOffStatus { failures: record.failures, next_try_at }),
            last_fault: self.last_fault.clone(),
            ready: self.ready_status(),
            live: self.live_status(),
            ports: known
                .spec
                .ports
                .iter()
                .map(|port| PortStatus {
                    host_address: port.address.to_string(),
                    host_port: port.host,
                    container_port: port.container,
                    protocol: port.transport.as_str().to_owned(),
                })
                .collect(),
            depends_on: self.dependencies(known),
            volumes: mounts.keys().cloned().collect(),
            mounts,
            overrides: record.overrides.keys().cloned().collect(),
            sync: self.sync.as_ref().map(|sync| {
                let mut status = sync.status.borrow().clone();
                status.halted.clone_from(&record.halted);
                status.first = self.content_status();
                status
            }),
        })
    }
}

fn counts(counts: Counts) -> ProbeCounts {
    let Counts { good, failing, inconclusive } = counts;
    ProbeCounts { good, failing, inconclusive }
}

fn without_checks(status: Option<&WorkloadStatus>) -> Option<WorkloadStatus> {
    status.map(|status| WorkloadStatus { ready: None, live: None, ..status.clone() })
}

fn exit_of(container: &Container) -> Option<ExitStatus> {
    match &container.state {
        ContainerState::Exited { exit_code, oom_killed, finished_at, .. } => Some(ExitStatus {
            code: i64::from(*exit_code),
            out_of_memory: *oom_killed,
            at: *finished_at,
        }),
        ContainerState::Created
        | ContainerState::Running { .. }
        | ContainerState::Paused { .. }
        | ContainerState::Stopping
        | ContainerState::Removing
        | ContainerState::Unknown(_) => None,
    }
}
