//! Looking at the engine, and judging what ended.

use std::time::Duration;

use belay_engine::{Container, ContainerId, ContainerState, ListedContainer, labels};
use belay_protocol::{DesiredState, EventDetails, Problem, ProblemCode, WorkloadPhase};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::state::{State, incarnation_of};
use crate::checks::GateOutcome;
use crate::context::Context;
use crate::core::back_off;
use crate::core::exit::{self, ExitMeaning};
use crate::core::machine::Renewal;
use crate::core::record::Interruption;
use crate::core::watch;

/// How often the containers are inspected, however little a list shows to have changed.
const INSPECT: Duration = Duration::from_mins(10);

/// Whether a process is there and in a control group of the container, whose name has its id with
/// every engine.
fn is_process_of(pid: u32, container: &ContainerId) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|groups| groups.contains(container.as_str()))
}

impl State {
    /// Asks the engine for the workload's containers, if what is known is stale.
    pub(crate) async fn refresh(&mut self) {
        if self.known.is_none() {
            return;
        }
        let comparing = std::mem::take(&mut self.comparing);
        if self.looked_at.is_some() && self.seen.is_some() {
            if !comparing {
                return;
            }
            if self.is_as_seen().await {
                self.looked_at = Some(Instant::now());
                return;
            }
        }
        if let Some(shared) = self.first_look.take() {
            let Context { engine, instance, .. } = &*self.context;
            if let Some(seen) = shared.of(engine, instance, &self.name).await {
                self.seen = Some(seen);
                self.looked_at = Some(Instant::now());
                self.inspected_at = self.looked_at;
                return;
            }
        }
        let filter = [
            format!("{}={}", labels::INSTANCE, self.context.instance),
            format!("{}={}", labels::WORKLOAD, self.name),
        ];
        match self.context.engine.list(&filter).await {
            Ok(seen) => {
                self.engine_fault = None;
                self.seen = Some(seen);
            }
            Err(error) => {
                self.engine_fault = Some(crate::problems::with_causes(&error));
                self.seen = None;
            }
        }
        self.looked_at = Some(Instant::now());
        self.inspected_at = self.looked_at;
    }

    /// Whether the engine's list and the kernel agree with what was seen of the workload's
    /// containers.
    async fn is_as_seen(&self) -> bool {
        let inspected = self.inspected_at.is_some_and(|at| at.elapsed() < INSPECT);
        let (Some(seen), true) = (&self.seen, inspected) else { return false };
        let Some(listed) = self.context.roll.call(&self.context.engine).await else { return false };
        let own = |listed: &&ListedContainer| {
            listed.labels.get(labels::WORKLOAD).is_some_and(|name| name == self.name.as_str())
        };
        let own: Vec<_> = listed.iter().filter(own).collect();
        let is_listed = |container: &Container| {
            own.iter().any(|row| row.id == container.id && row.agrees_with(&container.state))
        };
        if own.len() != seen.len() || !seen.iter().all(is_listed) {
            return false;
        }
        let processes = seen.iter().filter_map(|container| {
            Some((container.id.clone(), container.state.incarnation()?.pid))
        });
        let processes: Vec<_> = processes.collect();
        let same = move || processes.iter().all(|(id, pid)| is_process_of(*pid, id));
        tokio::task::spawn_blocking(same).await.unwrap_or(false)
    }

    /// Looks at the target alone, which costs the engine far less than a list.
    pub(crate) async fn look_at_target(&mut self) {
        let target = self.target().map(|target| target.id.clone());
        let found = match &target {
            Some(id) => self.context.engine.inspect(id).await,
            None => Ok(None),
        };
        let (Ok(Some(found)), Some(seen)) = (found, &mut self.seen) else {
            self.stale();
            self.refresh().await;
            return;
        };
        if let Some(old) = seen.iter_mut().find(|old| old.id == found.id) {
            *old = found;
        }
    }

    /// Counts an end that has not been counted yet, and forgets failures after a healthy while.
    pub(crate) async fn judge_exit(&mut self) {
        let Some(known) = &self.known else { return };
        let healthy = back_off::healthy_period(known.record.failures);
        let recovered = known.record.failures > 0
            && self.healthy_since.is_some_and(|since| since.elapsed() >= healthy);
        if recovered {
            let failures = known.record.failures;
            let message = format!("{} runs well; its failures are forgotten", self.name);
            self.tell(message, EventDetails::Recovered { failures });
            self.keep(|record| record.failures = 0).await;
        }
        self.forget_interruption().await;
        self.end_watch().await;
        let Some(known) = &self.known else { return };
        let Some(container) = self.target() else { return };
        let ContainerState::Exited { exit_code, oom_killed, error, .. } = &container.state else {
            return;
        };
        let key = exit_key(container);
        if known.record.judged_exit.as_deref() == Some(&key) {
            return;
        }
        let meaning = exit::judge(*exit_code, self.interruption(&key), known.spec.restart);
        let mut what = format!("{} exited with {exit_code}", self.name);
        if *oom_killed {
            what.push_str(", ended by the kernel for want of memory");
        }
        if let Some(error) = error.as_deref().filter(|error| !error.is_empty()) {
            what.push_str(": ");
            what.push_str(error);
        }
        let (exit_code, out_of_memory) = (i64::from(*exit_code), *oom_killed);
        self.healthy_since = None;
        let waited = self.checks.outcome() == Some(GateOutcome::Open);
        if waited
            && meaning == ExitMeaning::Failed
            && let Some(report) = self.checks.report()
        {
            what = format!("{what}, before it was ready ({report})");
        }
        self.checks.end();
        // Each is told before the record that says so: then both are on the disk, or neither.
        match meaning {
            ExitMeaning::Planned => {}
            ExitMeaning::Completed => {
                self.tell(what.as_str(), EventDetails::Ended { exit_code, out_of_memory });
                self.keep(|record| record.judged_exit = Some(key)).await;
            }
            ExitMeaning::GivenUp => {
                self.tell(what.as_str(), EventDetails::Ended { exit_code, out_of_memory });
                self.keep(|record| record.judged_exit = Some(key)).await;
                let next = format!("its restart policy is never; belay start {}", self.name);
                let problem = Problem::new(ProblemCode::StartFailed, what, next);
                if self.known.as_ref().is_some_and(|known| known.record.previous.is_some()) {
                    self.roll_back(problem).await;
                } else {
                    self.set_fault(&problem);
                    self.fail_pending(problem);
                }
            }
            ExitMeaning::Failed => {
                self.tell(what.as_str(), EventDetails::Crashed { exit_code, out_of_memory });
                let next = format!("see what it wrote: belay logs {}", self.name);
                self.failed(Problem::new(ProblemCode::StartFailed, what, next), Some(key)).await;
            }
        }
    }

    /// Takes a failure of the target: a deploy goes back to the version before, anything else
    /// climbs the ladder.
    pub(crate) async fn failed(&mut self, problem: Problem, judged: Option<String>) {
        tracing::warn!(workload = %self.name, code = problem.code.as_str(), "{}", problem.detail);
        self.set_fault(&problem);
        if judged.is_none() {
            let details = EventDetails::StartFailed {
                code: problem.code.as_str().into(),
                cause: problem.detail.as_str().into(),
            };
            self.tell(problem.detail.as_str(), details);
        }
        let Some(known) = &self.known else { return };
        if known.record.previous.is_some() {
            self.roll_back(problem).await;
            return;
        }
        let climbed = self.climb();
        if self.gives_way(climbed.as_ref()) {
            self.give_way(problem).await;
            return;
        }
        let Some(step) = climbed else {
            let problem = self.spent(problem);
            self.fail_for_good(problem, judged).await;
            return;
        };
        self.back_off(&step, &problem);
        self.keep(|record| {
            record.failures = step.failures;
            record.next_try_at = step.due;
            // A start that failed says nothing about the end before it.
            if judged.is_some() {
                record.interruption = Interruption::None;
                record.judged_exit = judged;
            }
        })
        .await;
        self.fail_pending(problem);
    }

    /// Shows and tells that the next start waits, before the record that says so.
    pub(crate) fn back_off(&mut self, step: &Climb, problem: &Problem) {
        let reason = back_off_reason(step.failures, step.delay, problem);
        self.tell(
            format!("{}: {reason}", self.name),
            EventDetails::BackingOff {
                failures: step.failures,
                delay_ms: u64::try_from(step.delay.as_millis()).unwrap_or(u64::MAX),
                next_try_at: step.due,
            },
        );
        self.enter_phase(WorkloadPhase::BackOff, reason);
    }

    /// The next step of the ladder; `None` once the restarts that the spec allows are spent.
    pub(crate) fn climb(&self) -> Option<Climb> {
        let known = self.known.as_ref()?;
        let failures = known.record.failures.saturating_add(1);
        if known.spec.restart_limit.is_some_and(|limit| failures > limit) {
            return None;
        }
        let delay = back_off::delay(failures, chance());
        Some(Climb { failures, delay, due: after(delay) })
    }

    /// The problem of a failure after which no restart is left.
    pub(crate) fn spent(&self, problem: Problem) -> Problem {
        let limit = self.known.as_ref().and_then(|known| known.spec.restart_limit).unwrap_or(0);
        Problem {
            detail: format!(
                "{}; {limit} restarts in a row did not help, its restart_limit is spent",
                problem.detail
            ),
            next: format!("{}; then belay start {}", problem.next, self.name),
            ..problem
        }
    }

    /// Whether the version in force is given up for the one before: it has failed often enough in a
    /// row, or its restarts are spent, which is a step that is not there.
    pub(crate) fn gives_way(&self, climbed: Option<&Climb>) -> bool {
        let failures = climbed.map_or(watch::FAILURES, |step| step.failures);
        let watched = self.known.as_ref().and_then(|known| known.record.watched.as_ref());
        failures >= watch::FAILURES && watched.is_some_and(|w| w.goes_on(Timestamp::now()))
    }

    /// Goes back from a version that became ready and then failed again and again.
    pub(crate) async fn give_way(&mut self, problem: Problem) {
        let detail = format!(
            "{}; it failed again and again soon after it had become ready, and the version before \
             is restored",
            problem.detail
        );
        let next = format!("{}; then deploy a corrected version", problem.next);
        self.roll_back(Problem { detail, next, ..problem }).await;
    }

    /// Trusts the version in force once its watch is over.
    async fn end_watch(&mut self) {
        let watched = self.known.as_ref().and_then(|known| known.record.watched.as_ref());
        if watched.is_some_and(|watched| !watched.goes_on(Timestamp::now())) {
            self.keep(|record| record.watched = None).await;
        }
    }

    /// Starts it no more before an operator acts. Its container and volumes stay to be looked at.
    pub(crate) async fn fail_for_good(&mut self, problem: Problem, judged: Option<String>) {
        tracing::error!(workload = %self.name, code = problem.code.as_str(), "given up: {}", problem.detail);
        let cause = problem.detail.as_str().into();
        self.tell(problem.detail.clone(), EventDetails::GivenUp { cause });
        self.set_fault(&problem);
        let reason = problem.detail.clone();
        self.keep(|record| {
            record.failed = Some(reason);
            record.next_try_at = None;
            if judged.is_some() {
                record.interruption = Interruption::None;
                record.judged_exit = judged;
            }
        })
        .await;
        self.fail_pending(problem);
    }

    /// Who caused the end of the target's container that `key` names.
    ///
    /// One that the host took down with itself, by a reboot or a power cut, was not the container's
    /// own, unless it had been judged before.
    pub(crate) fn interruption(&self, key: &str) -> Interruption {
        let Some(known) = &self.known else { return Interruption::None };
        let judged = known.record.judged_exit.as_deref() == Some(key);
        let booted_since = known
            .record
            .started_in_boot
            .as_deref()
            .is_some_and(|boot| boot != self.context.boot_id);
        if booted_since && !judged { Interruption::Planned } else { known.record.interruption }
    }

    /// Forgets a planned stop that did not come: the next end is the container's own.
    async fn forget_interruption(&mut self) {
        let planned = self.known.as_ref().is_some_and(|known| {
            known.record.interruption == Interruption::Planned
                && known.record.run == DesiredState::Running
                && known.record.removing.is_none()
        });
        let wanted = self.window.is_some()
            || self.window_request.is_some()
            || self.renewal == Renewal::Wanted;
        if planned && !wanted && self.running_incarnation().is_some() {
            self.keep(|record| record.interruption = Interruption::None).await;
        }
    }

    /// A write that failed leaves the workload as it is; the step is tried again.
    pub(crate) fn note(&mut self, result: Result<(), Problem>) {
        if let Err(problem) = result {
            tracing::error!(workload = %self.name, "{}", problem.detail);
            self.set_fault(&problem);
        }
    }

    /// Names the process that runs, to tell a restart from the same one.
    pub(crate) fn running_incarnation(&self) -> Option<String> {
        self.target().and_then(incarnation_of)
    }
}

/// Names one end of a container.
pub(crate) fn exit_key(container: &Container) -> String {
    let at = match &container.state {
        ContainerState::Exited { finished_at, .. } => finished_at.map(|at| at.to_string()),
        _ => None,
    };
    format!("{}@{}", container.id, at.unwrap_or_default())
}

/// A step of the ladder of restarts.
#[derive(Debug)]
pub(crate) struct Climb {
    /// Failures in a row, this one included.
    pub(crate) failures: u32,
    /// Pause before the next start.
    pub(crate) delay: Duration,
    /// When that is, from now.
    pub(crate) due: Option<Timestamp>,
}

/// The time after this pause.
pub(crate) fn after(delay: Duration) -> Option<Timestamp> {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::from_secs(60));
    Timestamp::now().checked_add(delay).ok()
}

/// Why it waits for its next start.
fn back_off_reason(failures: u32, delay: Duration, problem: &Problem) -> String {
    format!(
        "failure {failures} in a row, next start in {:.1} s: {}",
        delay.as_secs_f64(),
        problem.detail
    )
}

/// A number from 0 to 1 that differs between workloads and moments, for jitter only.
pub(crate) fn chance() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    #[expect(clippy::cast_precision_loss, reason = "32 bits fit an f64 exactly")]
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    share
}
