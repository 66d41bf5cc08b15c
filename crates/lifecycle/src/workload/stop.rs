//! Ending a container: a hook, a signal, a grace, a kill, and proof that no process is left.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use belay_engine::{
    ContainerState, EngineError, ExecSpec, FirstProcess, Incarnation, Operation, Survivor,
};
use belay_protocol::{EventDetails, Problem, ProblemCode};
use tokio::time::Instant;

use super::state::State;
use super::steps::RETRY;
use crate::core::container;
use crate::core::machine::Renewal;
use crate::core::spec::{self, WorkloadSpec};
use crate::core::stop::{KILL_WITHIN, PreStop, StopLadder, UNKILLABLE_RETRY};
use crate::problems;

/// Why a stop is not confirmed.
enum Unconfirmed {
    /// The engine failed, or did not say.
    Engine(EngineError),
    /// A process is there after `SIGKILL`.
    Survived(Survivor),
}

impl From<EngineError> for Unconfirmed {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl State {
    pub(super) async fn stop(&mut self, id: &str) {
        // Durable before the first signal, so that the end is never taken for a crash.
        if let Err(problem) = self.note_interruption().await {
            self.set_fault(&problem);
            self.pause(RETRY);
            return;
        }
        let made_of = self.made_of(id);
        let ladder = StopLadder::of(made_of.as_deref());
        let signal = made_of.as_ref().and_then(|spec| spec.stop_signal.clone());
        if let Some(request) = &mut self.window_request {
            request.asked_at = Instant::now();
        }
        let stopped = self.descend(id, &ladder, signal).await;
        match stopped {
            Ok(state) => {
                self.saw(id, state);
                self.unkillable = None;
                self.renewal = Renewal::None;
                self.checks.end();
                self.healthy_since = None;
                self.rest_after_ailing().await;
            }
            Err(unconfirmed) => {
                self.stale();
                match unconfirmed {
                    Unconfirmed::Engine(error) => {
                        let problem = problems::stop(&self.name, &error);
                        self.give_stop_up(problem, RETRY);
                    }
                    Unconfirmed::Survived(survivor) => self.report_survivor(&survivor),
                }
            }
        }
    }

    /// Takes the state that a container has ended with, if the engine told one.
    fn saw(&mut self, id: &str, state: Option<ContainerState>) {
        let mut seen = self.seen.iter_mut().flatten();
        match (state, seen.find(|container| container.id.as_str() == id)) {
            (Some(state), Some(container)) => container.state = state,
            (Some(_) | None, _) => self.stale(),
        }
    }

    fn give_stop_up(&mut self, problem: Problem, pause: Duration) {
        tracing::warn!(workload = %self.name, "{}", problem.detail);
        self.set_fault(&problem);
        self.refuse_window(&problem.detail);
        // Whoever waits is told after the status, so that what they look at next agrees.
        self.publish_status();
        self.fail_pending(problem);
        self.pause(pause);
    }

    /// Says what cannot be killed, and tries again later: nothing else is done to the workload before.
    fn report_survivor(&mut self, survivor: &Survivor) {
        let Survivor { pid, state, waits_in } = survivor;
        let waits = waits_in.as_ref().map_or_else(String::new, |at| format!(", waits in {at}"));
        let detail = format!(
            "{}: process {pid} is there {} s after SIGKILL (state {state}{waits})",
            self.name,
            KILL_WITHIN.as_secs()
        );
        if self.unkillable != Some(*pid) {
            self.unkillable = Some(*pid);
            let event = EventDetails::Unkillable { pid: (*pid).into() };
            self.context.events.emit(&self.name, detail.clone(), event);
        }
        let next = "see what its disk or network file system waits for; it is killed by itself as \
                    soon as that answers, and its volumes are left mounted until then";
        self.give_stop_up(Problem::new(ProblemCode::Unkillable, detail, next), UNKILLABLE_RETRY);
    }

    /// The spec that a container was made of, which need not be the one in force: hook, signal and
    /// grace are those of the version that ends.
    pub(super) fn made_of(&self, id: &str) -> Option<Cow<'_, WorkloadSpec>> {
        let known = self.known.as_ref()?;
        let seen = self.seen.iter().flatten().find(|container| container.id.as_str() == id);
        let declaration = seen.and_then(container::declaration_of);
        let made_of = declaration.filter(|declared| *declared != known.record.declaration);
        let made_of = made_of.and_then(|declared| {
            let directory = Path::new(&declared.directory);
            spec::parse(&declared.spec, &declared.file, directory).ok()
        });
        Some(made_of.map_or(Cow::Borrowed(&known.spec), Cow::Owned))
    }

    /// Returns the state that the container has then, or none if it is gone.
    async fn descend(
        &mut self,
        id: &str,
        ladder: &StopLadder,
        signal: Option<String>,
    ) -> Result<Option<ContainerState>, Unconfirmed> {
        let engine = self.context.engine.clone();
        let Some(found) = engine.inspect(id).await? else { return Ok(None) };
        let paused = matches!(found.state, ContainerState::Paused { .. });
        if paused {
            // What is frozen takes no signal but the last one.
            engine.unpause(id).await?;
        }
        let Some(Incarnation { pid, .. }) = found.state.incarnation() else {
            return self.confirm(id, None, KILL_WITHIN).await;
        };
        let process = engine.first_process(&found).await;
        let process = process.as_ref();
        // One that has survived the last step has had all others.
        if self.unkillable != Some(pid) {
            self.progress("stop", ladder.to_string());
            if let Some(hook) = &ladder.pre_stop {
                self.run_hook(id, hook).await;
            }
            if ladder.grace > Duration::ZERO {
                let signal = signal.or(found.stop_signal).unwrap_or_else(|| "SIGTERM".to_owned());
                ended_already(engine.kill(id, &signal).await)?;
                match self.ended(id, process, ladder.grace).await {
                    Err(EngineError::TimedOut { .. }) => {
                        self.progress("stop", "it did not end by itself and is killed");
                    }
                    ended @ (Ok(_) | Err(EngineError::Absent { .. })) => {
                        return self.nothing_is_left(id, ended).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.kill(id, process).await
    }

    /// Kills it, and waits for the end meanwhile: Podman answers the kill only after its own wait for
    /// the end, of which it takes a look four times a second, and calls it an error when none came.
    async fn kill(
        &mut self,
        id: &str,
        process: Option<&FirstProcess>,
    ) -> Result<Option<ContainerState>, Unconfirmed> {
        let engine = self.context.engine.clone();
        let killing = engine.kill(id, "SIGKILL");
        let confirming = self.confirm(id, process, KILL_WITHIN);
        tokio::pin!(killing, confirming);
        let killed = tokio::select! {
            biased;
            killed = &mut killing => ended_already(killed),
            confirmed = &mut confirming => return confirmed,
        };
        match (confirming.await, killed) {
            (Err(Unconfirmed::Engine(_)), Err(error)) => Err(error.into()),
            (confirmed, _) => confirmed,
        }
    }

    /// Waits for the end, at most so long, and gives the state that the engine has written down then.
    ///
    /// Who waits for a window gets it as soon as the kernel shows that no process is left. The engine
    /// takes a while longer to notice and to clear up, and touches no volume by that.
    async fn ended(
        &mut self,
        id: &str,
        process: Option<&FirstProcess>,
        within: Duration,
    ) -> Result<ContainerState, EngineError> {
        let Some(process) = process else { return self.context.engine.wait(id, within).await };
        let begun = Instant::now();
        let is_over = tokio::time::timeout(within, process.ended()).await.is_ok();
        if is_over && self.nothing_survives(id).await.is_ok() {
            self.grant_window_beside(Some(id));
        }
        let within = if is_over { KILL_WITHIN } else { within.saturating_sub(begun.elapsed()) };
        self.context.engine.wait(id, within).await
    }

    /// Runs the hook in the container. Whatever comes of it, the stop goes on.
    async fn run_hook(&self, id: &str, hook: &PreStop) {
        self.progress("pre_stop", hook.command.first().cloned().unwrap_or_default());
        let mut spec = ExecSpec::new(hook.command.iter().cloned());
        spec.deadline = hook.timeout;
        spec.output_max = 1024;
        let what = match self.context.engine.exec(id, &spec).await {
            Ok(output) if output.exit_code == 0 => return,
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                format!("its pre_stop ended with exit code {}: {words}", output.exit_code)
            }
            Err(error) => format!("its pre_stop: {}", problems::with_causes(&error)),
        };
        tracing::warn!(workload = %self.name, "{what}");
        self.progress("pre_stop", what);
    }

    async fn confirm(
        &mut self,
        id: &str,
        process: Option<&FirstProcess>,
        within: Duration,
    ) -> Result<Option<ContainerState>, Unconfirmed> {
        let ended = self.ended(id, process, within).await;
        self.nothing_is_left(id, ended).await
    }

    /// The engine's word is not enough: no process of the container may be left on the host.
    async fn nothing_is_left(
        &self,
        id: &str,
        ended: Result<ContainerState, EngineError>,
    ) -> Result<Option<ContainerState>, Unconfirmed> {
        self.nothing_survives(id).await?;
        match ended {
            Ok(state) => Ok(Some(state)),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn nothing_survives(&self, id: &str) -> Result<(), Unconfirmed> {
        let survivor = self.context.engine.survivor(id).await;
        survivor.map_or(Ok(()), |survivor| Err(Unconfirmed::Survived(survivor)))
    }
}

/// A signal that finds no process has come too late to be needed.
fn ended_already(sent: Result<(), EngineError>) -> Result<(), EngineError> {
    match sent {
        Err(error) if error.is_absent() || matches!(error, EngineError::Conflict { .. }) => {
            debug_assert_eq!(error.operation(), Operation::Kill);
            Ok(())
        }
        other => other,
    }
}
