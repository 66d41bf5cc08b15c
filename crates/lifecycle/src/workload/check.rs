//! Asking the process that runs, and what follows from its answers.

use std::time::Duration;

use belay_protocol::{DesiredState, EventDetails, Problem, ProblemCode};
use tokio::time::Instant;

use super::observe::{Climb, chance};
use super::state::State;
use crate::checks::{Answer, Ask, CheckEvent, CheckPlan, GateOutcome, Question};
use crate::core::gate::{GateRules, GateVerdict};
use crate::core::liveness::{Health, LiveRules, Liveness};
use crate::core::machine::Renewal;
use crate::core::record::{Found, Interruption, Verdict};
use crate::core::spec::LiveAction;
use crate::probe::Target;

/// A container that is stopped for being unhealthy.
#[derive(Debug)]
pub(crate) struct Ailing {
    /// Why.
    pub(crate) problem: Problem,
    /// Pause before it is started again, from its end on.
    pub(crate) delay: Duration,
}

impl State {
    /// Begins to ask the target's process, if it runs.
    pub(crate) fn begin_checks(&mut self) {
        let Some(incarnation) = self.running_incarnation() else { return };
        let (Some(known), Some(container)) = (&self.known, self.target()) else { return };
        let spec = &known.spec;
        let ask = |probe, limit| Ask { target: Target::of(spec, probe, container), limit };
        let ready = &spec.ready;
        let plan = CheckPlan {
            ready: ask(&ready.probe, ready.probe_timeout),
            gate: GateRules {
                consecutive: ready.consecutive,
                interval: ready.interval,
                stable: ready.stable,
                budget: ready.timeout,
            },
            live: spec.live.as_ref().map(|live| {
                let rules = LiveRules {
                    interval: live.interval,
                    failures: live.failures,
                    successes: live.successes,
                    start_period: live.start_period,
                };
                (ask(&live.probe, live.probe_timeout), rules)
            }),
        };
        let brought = self.brought(&incarnation);
        self.checks.watch(plan, incarnation, brought, chance());
        if self.is_ready() {
            self.healthy_since = Some(Instant::now());
        }
    }

    /// Takes what happened to the checks.
    pub(crate) async fn checked(&mut self, event: CheckEvent) {
        match event {
            CheckEvent::Answered(Answer { question: Question::Ready, observation }) => {
                // The process may have gone while it was asked; then the answer was another's.
                self.look_at_target().await;
                let running = match (&self.seen, self.running_incarnation()) {
                    (Some(_), Some(running)) if self.checks.incarnation() == Some(&running) => {
                        running
                    }
                    // What was asked is gone, or cannot be told from what took its place.
                    (Some(_) | None, _) => {
                        self.checks.ask_again();
                        return;
                    }
                };
                self.progress("wait until ready", observation.seen.clone());
                if self.checks.take_ready(observation, &running) == Some(GateVerdict::Ready) {
                    self.became_ready(running).await;
                }
            }
            CheckEvent::GateEnded => {
                self.checks.take_end();
            }
            CheckEvent::Answered(Answer { question: Question::Live, observation }) => {
                let before = self.health();
                if let Some(health) = self.checks.take_live(observation, chance()) {
                    self.turned(before, health).await;
                }
            }
        }
    }

    async fn became_ready(&mut self, incarnation: String) {
        self.healthy_since.get_or_insert_with(Instant::now);
        self.last_fault = None;
        self.checks.begin_liveness(chance());
        let was_unhealthy = self.health() == Some(Health::Unhealthy);
        let found = if was_unhealthy { Found::Unhealthy } else { Found::Ready };
        let verdict = Some(Verdict { incarnation, found });
        self.keep(|record| record.verdict = verdict).await;
    }

    /// What is known of the liveness of the process that runs; `None` where it is not asked for.
    pub(crate) fn health(&self) -> Option<Health> {
        self.checks.liveness().map(Liveness::health)
    }

    /// Takes a change of what is known of a process that runs.
    async fn turned(&mut self, before: Option<Health>, health: Health) {
        let before_is_known = before != Some(Health::Unasked);
        let Some(liveness) = self.checks.liveness() else { return };
        let incarnation = liveness.incarnation().to_owned();
        let report = liveness.report().to_string();
        let found = match health {
            Health::Unhealthy => {
                self.healthy_since = None;
                let problem = self.unhealthy();
                tracing::warn!(workload = %self.name, "{}", problem.detail);
                let cause = problem.detail.as_str().into();
                self.tell(problem.detail.clone(), EventDetails::Unhealthy { cause });
                self.set_fault(&problem);
                Found::Unhealthy
            }
            Health::Alive => {
                tracing::info!(workload = %self.name, "it is alive: {report}");
                if before_is_known {
                    self.tell(format!("{} is alive", self.name), EventDetails::Alive {});
                }
                let code = ProblemCode::Unhealthy.as_str();
                self.last_fault.take_if(|fault| fault.code == code);
                if self.is_ready() {
                    self.healthy_since.get_or_insert_with(Instant::now);
                }
                Found::Ready
            }
            Health::Unknown => {
                let words = format!("{} could not be told alive or not: {report}", self.name);
                tracing::warn!(workload = %self.name, "{words}");
                let cause = words.as_str().into();
                self.tell(words, EventDetails::LivenessUnknown { cause });
                return;
            }
            Health::Unasked => return,
        };
        self.keep(|record| {
            // One that was never ready is not called so for being alive.
            if let Some(verdict) = record.verdict.as_mut()
                && verdict.incarnation == incarnation
            {
                verdict.found = found;
            }
        })
        .await;
    }

    fn unhealthy(&self) -> Problem {
        let report = self.checks.liveness().map(|liveness| liveness.report().to_string());
        Problem::new(
            ProblemCode::Unhealthy,
            format!("{} is unhealthy: {}", self.name, report.unwrap_or_default()),
            format!("see what it wrote: belay logs {}", self.name),
        )
    }

    /// Deals with a wait for readiness that has ended without it. It is looked at again and again,
    /// so that a rollback that could not be written down is tried again.
    pub(crate) async fn settle_gate(&mut self) {
        let over =
            matches!(self.checks.verdict(), Some(GateVerdict::TimedOut | GateVerdict::Never));
        let open = self.checks.outcome() == Some(GateOutcome::Open);
        let of_running = self.checks.incarnation() == self.running_incarnation().as_deref();
        let paused = self.retry_at.is_some_and(|at| at > Instant::now());
        if !over || !open || !of_running || paused {
            return;
        }
        let problem = self.not_ready();
        let deploying = self.known.as_ref().is_some_and(|known| known.record.previous.is_some());
        if deploying {
            self.roll_back(problem).await;
            return;
        }
        tracing::warn!(workload = %self.name, "{}", problem.detail);
        self.set_fault(&problem);
        // It is left running and asked again at leisure: a slow start must not be killed for it.
        self.checks.leave_unready();
        self.fail_pending(problem);
    }

    /// Does what the spec says about a process that is unhealthy, unless something else has the
    /// workload in hand.
    pub(crate) async fn act_on_liveness(&mut self) {
        let failed = self.checks.liveness().is_some_and(Liveness::is_failed);
        if !failed || self.is_in_hand() {
            return;
        }
        let Some(live) = self.known.as_ref().and_then(|known| known.spec.live.as_ref()) else {
            return;
        };
        let action = live.action;
        if action == LiveAction::None {
            return;
        }
        // Only the process that was asked is held to its answers.
        self.stale();
        self.refresh().await;
        let running = self.running_incarnation();
        if running.is_none() || self.checks.incarnation() != running.as_deref() {
            return;
        }
        let problem = self.unhealthy();
        match action {
            LiveAction::None => {}
            LiveAction::Restart => self.restart_unhealthy(problem).await,
            LiveAction::Stop => {
                let problem = Problem {
                    detail: format!("{}; its spec says stop", problem.detail),
                    next: format!("{}; then belay start {}", problem.next, self.name),
                    ..problem
                };
                self.fail_for_good(problem, None).await;
            }
        }
    }

    /// Whether a deploy, an operator's wish or volume-sync decides over the container just now.
    fn is_in_hand(&self) -> bool {
        let Some(known) = &self.known else { return true };
        let record = &known.record;
        record.run == DesiredState::Stopped
            || record.removing.is_some()
            || record.halted.is_some()
            || record.failed.is_some()
            || record.previous.is_some()
            || self.window.is_some()
            || self.window_request.is_some()
            || self.renewal == Renewal::Wanted
            || self.context.shutdown.is_cancelled()
    }

    /// Has an unhealthy process stopped and started again, on the ladder of crashes.
    async fn restart_unhealthy(&mut self, problem: Problem) {
        tracing::warn!(workload = %self.name, code = problem.code.as_str(), "restarted: {}", problem.detail);
        let climbed = self.climb();
        if self.gives_way(climbed.as_ref()) {
            self.give_way(problem).await;
            return;
        }
        let Some(step) = climbed else {
            let problem = self.spent(problem);
            self.fail_for_good(problem, None).await;
            return;
        };
        self.set_fault(&problem);
        // Durable before the stop: a belayd that dies between the two does not forget the failure.
        self.keep(|record| {
            record.failures = step.failures;
            record.next_try_at = step.due;
            record.interruption = Interruption::Planned;
        })
        .await;
        self.renewal = Renewal::Wanted;
        self.ailing = Some(Ailing { problem, delay: step.delay });
    }

    /// The container of an unhealthy process has ended: the pause begins.
    pub(crate) async fn rest_after_ailing(&mut self) {
        let Some(Ailing { problem, delay }) = self.ailing.take() else { return };
        if self.is_in_hand() {
            // An operator wants something else of it by now.
            return;
        }
        let failures = self.known.as_ref().map_or(0, |known| known.record.failures);
        let step = Climb { failures, delay, due: super::observe::after(delay) };
        self.back_off(&step, &problem);
        self.keep(|record| record.next_try_at = step.due).await;
    }
}
