//! Taking what is asked of a workload.

use belay_protocol::event::{AskedVerb, ContentWaitEnd, HaltCleared};
use belay_protocol::{
    ContentRule, DesiredState, OperationOutcome, Problem, ProblemCode, PublishRequest, VolumeFate,
};
use belay_sync::PublishCommand;

use super::command::WorkloadCommand;
use super::pending::PendingKind;
use super::state::{Fetch, FetchDone, FetchPurpose, State};
use crate::core::machine::Renewal;
use crate::core::record::Interruption;
use crate::problems;
use crate::reporter::{Progress, Reporter};

/// Entries of the sync history that are shown.
const HISTORY: usize = 200;

impl State {
    /// Takes one command that has all it needs. What it asks for is done by the steps that follow.
    pub(crate) async fn take_now(&mut self, command: WorkloadCommand) {
        match command {
            WorkloadCommand::Deploy { declaration, spec, reporter } => {
                self.deploy(declaration, spec, reporter).await;
            }
            WorkloadCommand::Declare { declaration, spec, occasion } => {
                self.declare(declaration, spec, occasion).await;
            }
            WorkloadCommand::Undeclare => self.undeclare().await,
            WorkloadCommand::Start { content, reporter } => {
                self.ask_start(content, reporter).await;
            }
            WorkloadCommand::Stop { reporter } => self.ask_stop(reporter).await,
            WorkloadCommand::Restart { reporter } => self.ask_restart(reporter).await,
            WorkloadCommand::Remove { volumes, reporter } => {
                self.ask_remove(volumes, reporter).await;
            }
            WorkloadCommand::ClearOverrides { reporter } => self.clear_overrides(reporter).await,
            WorkloadCommand::Publish { request, reporter } => self.ask_publish(request, reporter),
            WorkloadCommand::Import { pieces, reporter } => self.ask_import(pieces, reporter),
            WorkloadCommand::Takeover { reporter } => self.ask_takeover(reporter),
            WorkloadCommand::CheckPublish { reply } => {
                let _ = reply.send(self.publish_handle().map(drop));
            }
            WorkloadCommand::Volume { volume, act, look, reporter } => {
                self.act_on_volume(volume, act, &look, reporter).await;
            }
            WorkloadCommand::Sync { act, reporter } => self.act_on_sync(act, reporter).await,
            WorkloadCommand::AskSync { question, reply } => self.ask_sync(question, reply),
            WorkloadCommand::History { reply } => self.history(reply),
            WorkloadCommand::OpenWindow { purpose, reply } => self.ask_window(purpose, reply).await,
            WorkloadCommand::AskReadiness { reply } => {
                let _ = reply.send(self.readiness());
            }
            WorkloadCommand::Cancel { reply } => {
                let _ = reply.send(self.cancel().await);
            }
            WorkloadCommand::Nudge => self.stale(),
        }
    }

    pub(crate) fn unknown(&self) -> Problem {
        Problem::new(
            ProblemCode::NoSuchWorkload,
            format!("there is no workload {}", self.name),
            "belay ps lists those that there are",
        )
    }

    /// The problem of a command that came after the end.
    pub(crate) fn gone(&self) -> Problem {
        if self.context.shutdown.is_cancelled() {
            let detail = format!("belayd is ending and takes no command for {}", self.name);
            return Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs");
        }
        let detail = format!("{} has just been removed", self.name);
        Problem::new(ProblemCode::NoSuchWorkload, detail, "deploy it anew: belay deploy FILE")
    }

    async fn ask_start(&mut self, content: ContentRule, reporter: Reporter) {
        let Some(known) = &self.known else {
            reporter.finish(Err(self.unknown()));
            return;
        };
        if known.record.removing.is_some() {
            reporter.finish(Err(self.busy(PendingKind::Remove)));
            return;
        }
        if let Some(reason) = known.record.halted.clone() {
            reporter.progress("start", format!("the halt is cleared: {reason}"));
            let state_dir = self.context.state_dir(&self.name);
            if let Err(error) = belay_sync::clear_halt(&state_dir).await {
                reporter.finish(Err(Problem::new(
                    ProblemCode::Halted,
                    format!("{}: the halt could not be cleared: {error}", self.name),
                    "see that the state directory can be written",
                )));
                return;
            }
        }
        if !self.begin(PendingKind::Start, reporter) {
            return;
        }
        let running = self.running_incarnation().is_some();
        let was_held = self.known.as_ref().is_some_and(|known| known.record.halted.is_some());
        let ignored = match content {
            ContentRule::Await => None,
            ContentRule::Ignore => self.content_ignored(),
        };
        let waited = self.awaits_content();
        let without = ignored.clone();
        let written = self
            .change(|record| {
                if without.is_some() {
                    record.content_wait = without;
                }
                record.run = DesiredState::Running;
                record.halted = None;
                record.failed = None;
                record.failures = 0;
                record.next_try_at = None;
                // A one-shot that is complete, or one that gave up, is meant to run once more. One
                // that runs is left alone, and its end would be its own.
                if !running {
                    record.interruption = Interruption::Planned;
                }
            })
            .await;
        self.restarts = 0;
        let cleared = was_held && written.is_ok();
        let given_up = ignored.filter(|_| waited && written.is_ok());
        self.settle_write(AskedVerb::Start, written);
        if let Some(wait) = given_up {
            self.tell_content_wait_ended(&wait, ContentWaitEnd::Operator);
        }
        if cleared {
            self.tell_halt_cleared(HaltCleared::Operator);
        }
    }

    async fn ask_stop(&mut self, reporter: Reporter) {
        if self.known.is_none() {
            reporter.finish(Err(self.unknown()));
            return;
        }
        self.abandon_fetch().await;
        self.supersede(PendingKind::Stop, reporter);
        let written = self
            .change(|record| {
                record.run = DesiredState::Stopped;
                record.content_wait = None;
                // A deploy under way ends with the version that it brought.
                record.previous = None;
                record.watched = None;
                record.failed = None;
                record.failures = 0;
                record.next_try_at = None;
                record.interruption = Interruption::Planned;
            })
            .await;
        self.renewal = Renewal::None;
        self.ailing = None;
        self.settle_write(AskedVerb::Stop, written);
    }

    async fn ask_restart(&mut self, reporter: Reporter) {
        let Some(known) = &self.known else {
            reporter.finish(Err(self.unknown()));
            return;
        };
        if known.spec.runner.is_some() {
            reporter.finish(Err(self.many_containers("restart")));
            return;
        }
        if known.record.run == DesiredState::Stopped {
            let detail = format!("{} is stopped, as it was asked to be", self.name);
            let next = format!("belay start {}", self.name);
            reporter.finish(Err(Problem::new(ProblemCode::NotRunning, detail, next)));
            return;
        }
        if let Some(reason) = &known.record.halted {
            let problem = self.halted(reason);
            reporter.finish(Err(problem));
            return;
        }
        if !self.begin(PendingKind::Restart, reporter) {
            return;
        }
        let written = self
            .change(|record| {
                record.failed = None;
                record.failures = 0;
                record.next_try_at = None;
                record.interruption = Interruption::Planned;
            })
            .await;
        self.restarts = 0;
        self.ailing = None;
        // While the engine cannot say, it may be running: the start that follows clears this.
        if written.is_ok() && (self.seen.is_none() || self.running_incarnation().is_some()) {
            self.renewal = Renewal::Wanted;
        }
        self.settle_write(AskedVerb::Restart, written);
    }

    async fn ask_remove(&mut self, volumes: VolumeFate, reporter: Reporter) {
        if self.known.is_none() {
            reporter.finish(Err(self.unknown()));
            return;
        }
        self.abandon_fetch().await;
        self.supersede(PendingKind::Remove, reporter);
        let written = self
            .change(|record| {
                record.removing = Some(volumes);
                record.interruption = Interruption::Planned;
            })
            .await;
        self.settle_write(AskedVerb::Rm, written);
    }

    /// Tells what was asked for once it is written down, and fails it otherwise.
    fn settle_write(&mut self, asked: AskedVerb, written: Result<(), Problem>) {
        self.stale();
        match written {
            Ok(()) => self.tell_asked(asked),
            Err(problem) => {
                self.set_fault(&problem);
                self.fail_pending(problem);
            }
        }
    }

    pub(crate) fn halted(&self, reason: &str) -> Problem {
        Problem::new(
            ProblemCode::Halted,
            format!("{} is halted: {reason}", self.name),
            format!(
                "look at its volumes first; belay start {} clears the halt and starts it",
                self.name
            ),
        )
    }

    /// Hands a publish to the sync task; the answer goes back from there, so that this task stays
    /// free to stop and start the container for it.
    fn ask_publish(&mut self, request: PublishRequest, reporter: Reporter) {
        let handle = match self.publish_handle() {
            Ok(handle) => handle,
            Err(problem) => {
                reporter.finish(Err(problem));
                return;
            }
        };
        let name = self.name.clone();
        let command = PublishCommand {
            archive_paths: request.archive_paths,
            metadata: request.metadata.into_iter().collect(),
        };
        self.answers.spawn(async move {
            reporter.progress("publish", "what was asked for is being checked");
            reporter.finish(match handle.publish(command).await {
                Ok(outcome) => Ok(OperationOutcome {
                    summary: if outcome.unchanged {
                        format!("{name} has published {} already: unchanged", outcome.cid)
                    } else {
                        format!(
                            "{name} published {} ({} bytes, down for {} ms)",
                            outcome.cid, outcome.bytes, outcome.downtime_ms
                        )
                    },
                    publish: Some(outcome),
                }),
                Err(error) => Err(super::sync::publish_problem(&name, &error)),
            });
        });
    }

    fn history(
        &mut self,
        reply: tokio::sync::oneshot::Sender<Result<Vec<belay_protocol::HistoryEntry>, Problem>>,
    ) {
        let refused = match &self.known {
            None => Some(self.unknown()),
            Some(known) if known.spec.sync.is_none() => Some(Problem::new(
                ProblemCode::NoSync,
                format!("{} has no volume-sync", self.name),
                "add a [sync] table to its spec and deploy it",
            )),
            Some(_) => None,
        };
        if let Some(problem) = refused {
            let _ = reply.send(Err(problem));
            return;
        }
        // Read from the directory: a workload that is stopped has its history too.
        let history = belay_sync::History::new(&self.context.state_dir(&self.name));
        self.answers.spawn(async move {
            let read = tokio::task::spawn_blocking(move || history.list(HISTORY)).await;
            let Ok(entries) = read else { return };
            let _ = reply.send(entries.map_err(|error| {
                Problem::new(
                    ProblemCode::Internal,
                    problems::with_causes(&error),
                    "see that the state directory can be read",
                )
            }));
        });
    }

    pub(crate) fn progress_end(&self) -> Progress {
        self.pending.as_ref().map_or_else(Progress::unheard, |p| p.reporter.progress_end())
    }

    /// Refuses an operation that has not changed anything yet: belayd is ending.
    pub(crate) fn refuse_new_work(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.reporter.finish(Err(Problem::new(
                ProblemCode::ShuttingDown,
                format!(
                    "belayd ends; what {} of {} has begun is finished at its next start",
                    pending.kind.verb(),
                    self.name
                ),
                format!("belay status {}, once belayd runs again", self.name),
            )));
        }
        self.refuse_window("belayd is ending");
    }

    /// Ends a fetch under way, if any.
    pub(crate) async fn abandon_fetch(&mut self) {
        if let Some(Fetch { task, .. }) = self.fetch.take() {
            task.abort();
            // An aborted fetch has changed nothing but the engine's store of images.
            let _ = task.await;
        }
    }

    /// Takes a fetch that has ended.
    pub(crate) async fn fetched(&mut self, done: FetchDone) {
        self.stale();
        match (done.purpose, done.result) {
            (FetchPurpose::Target, Ok(fetched)) => self.target_fetched(fetched).await,
            (FetchPurpose::Target, Err(problem)) => self.failed(problem, None).await,
            (FetchPurpose::Deploy(declaration, spec), Ok(fetched)) => {
                self.deploy_fetched(declaration, spec, fetched).await;
            }
            (FetchPurpose::Deploy(..), Err(problem)) => self.refuse_deploy(problem),
        }
    }
}
