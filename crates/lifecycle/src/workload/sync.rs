//! Volume-sync of a workload: its task, its windows, its recovery.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Container, Liveness};
use belay_protocol::event::HaltCleared;
use belay_protocol::{DesiredState, EventDetails, Problem, ProblemCode, WorkloadName};
use belay_sync::{
    AnswerPlace, ControlVolume, FoundState, MountPoint, OfflineWindow, PublishError, Ready,
    Require, SyncLayout, SyncNode, SyncSpec, Window, WindowClosed, WindowOutcome, WindowPurpose,
    WindowRefused, WindowReply,
};
use belay_volumes::{MountedVolume, SYSTEM_VOLUME};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clones::WorkloadClones;
use super::command::WorkloadCommand;
use super::state::{Closing, Known, OpenWindow, RunningSync, State, WindowRequest, WindowReturn};
use crate::core::liveness::Health;
use crate::core::machine::VolumesFact;
use crate::core::record::{Found, Interruption};
use crate::core::spec::WorkloadSpec;
use crate::problems;

/// Pause before a sync task that ended by itself is started again.
const SYNC_RETRY: Duration = Duration::from_secs(10);

/// The way from a workload's sync task back to the workload.
///
/// It gives up with the sync task's own token: the workload waits for that task at its end and
/// takes no command meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct WindowPort {
    commands: mpsc::Sender<WorkloadCommand>,
    ending: CancellationToken,
}

impl OfflineWindow for WindowPort {
    async fn open(&self, purpose: WindowPurpose) -> Result<Window, WindowRefused> {
        let (reply, answer) = oneshot::channel();
        let opened = async {
            let ask = self.commands.send(WorkloadCommand::OpenWindow { purpose, reply });
            ask.await.map_err(|_| WindowRefused::ShuttingDown)?;
            answer.await.unwrap_or(Err(WindowRefused::ShuttingDown))
        };
        tokio::select! {
            opened = opened => opened,
            () = self.ending.cancelled() => Err(WindowRefused::ShuttingDown),
        }
    }

    async fn readiness(&self) -> Option<Ready> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(WorkloadCommand::AskReadiness { reply }).await.ok()?;
            answer.await.ok()?
        };
        tokio::select! {
            ready = asked => ready,
            () = self.ending.cancelled() => None,
        }
    }
}

/// Writes answers with what a system volume keeps back for them.
#[derive(Debug)]
struct ReservedAnswers {
    /// The volume's own directory of root.
    private: PathBuf,
    reserve_uid: u32,
}

impl AnswerPlace for ReservedAnswers {
    fn place(&self, directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
        belay_volumes::place(&self.private, directory, name, content, 0o644, self.reserve_uid)
    }
}

impl State {
    pub(crate) fn system_volume(&self) -> Option<&MountedVolume> {
        self.mounted.iter().find(|volume| volume.id.volume.as_str() == SYSTEM_VOLUME)
    }

    pub(crate) fn layout(&self) -> Option<SyncLayout> {
        let known = self.known.as_ref()?;
        let system = self.system_volume()?;
        let mounts = self
            .mounted
            .iter()
            .filter_map(|volume| {
                let declared = known.spec.volumes.get(&volume.id.volume)?;
                Some(MountPoint {
                    volume: volume.id.volume.clone(),
                    container_path: declared.mount.clone(),
                    data: volume.data.clone(),
                    private: volume.private.clone(),
                    size: volume.size.as_u64(),
                })
            })
            .collect();
        Some(SyncLayout {
            mounts,
            clones: Arc::new(WorkloadClones {
                workload: self.name.clone(),
                volumes: self.context.volumes.clone(),
            }),
            control: ControlVolume {
                data: system.data.clone(),
                container_path: known.spec.system_mount.clone(),
                answers: Arc::new(ReservedAnswers {
                    private: system.private.clone(),
                    reserve_uid: self.context.volumes.reserve_uid(),
                }),
            },
        })
    }

    /// Finishes or undoes an apply that was cut short. No container runs.
    pub(crate) async fn recover_volumes(&mut self) {
        let Some(layout) = self.layout() else { return };
        let state_dir = self.context.state_dir(&self.name);
        match belay_sync::recover(&state_dir, &layout).await {
            Ok(recovery) => {
                if let Some(cid) = recovery.finished {
                    tracing::info!(workload = %self.name, %cid, "an apply that was cut short is finished");
                    let message = format!("the apply of {cid} on {} is finished", self.name);
                    self.tell(message, EventDetails::ApplyFinished { cid });
                }
                match recovery.halt {
                    Some(reason) => {
                        let known = self.known.as_ref().and_then(|k| k.record.halted.as_ref());
                        if known != Some(&reason) {
                            self.halt(reason).await;
                        }
                    }
                    None => self.clear_halt(HaltCleared::Recovery).await,
                }
                self.volumes = VolumesFact::Whole;
                self.run_sync();
            }
            Err(error) => {
                let problem = Problem::new(
                    ProblemCode::VolumeUnavailable,
                    format!("{}: {}", self.name, problems::with_causes(&error)),
                    "see that the state directory can be read and written; it is tried again",
                );
                self.failed(problem, None).await;
            }
        }
    }

    /// Whether an apply stands in the journal that was never finished.
    pub(crate) async fn apply_was_cut_short(&self) -> bool {
        let state_dir = self.context.state_dir(&self.name);
        belay_sync::is_recovery_needed(&state_dir).await
    }

    /// Holds the workload until an operator or a verified apply clears it.
    pub(crate) async fn halt(&mut self, reason: String) {
        tracing::error!(workload = %self.name, "halted: {reason}");
        let details = EventDetails::Halted { cause: reason.as_str().into() };
        self.tell(format!("{} is held: {reason}", self.name), details);
        // Held in memory even where the ledger cannot take it: a start would write on ruins.
        self.keep(|record| record.halted = Some(reason.clone())).await;
        let problem = self.halted(&reason);
        self.set_fault(&problem);
        self.fail_pending(problem);
    }

    /// Starts the sync task if the spec wants one, and shows it the volumes.
    pub(crate) fn run_sync(&mut self) {
        let Some(known) = &self.known else { return };
        let Some(spec) = sync_spec(&known.spec) else { return };
        let layout = self.layout();
        if let Some(sync) = &self.sync {
            sync.layout.send_replace(layout);
            return;
        }
        let (layout, layouts) = watch::channel(layout);
        let token = CancellationToken::new();
        let spawned = belay_sync::spawn(
            self.name.clone(),
            SyncNode { id: self.context.node.clone(), key: self.context.signing_key.clone() },
            spec,
            &self.context.state_dir(&self.name),
            Arc::clone(&self.context.store),
            layouts,
            WindowPort { commands: self.own_commands.clone(), ending: token.clone() },
            token.clone(),
        );
        let (handle, task) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                let error = problems::with_causes(&error);
                self.sync_is_down(&format!("did not begin: {error}"));
                return;
            }
        };
        let status = handle.status();
        // What it remembers of earlier runs was told then.
        let told = status.borrow().clone();
        self.sync = Some(RunningSync { handle, status, told, task, token, layout });
    }

    /// The volumes are about to be unmounted or replaced.
    pub(crate) fn hide_layout(&mut self) {
        if let Some(sync) = &self.sync {
            sync.layout.send_replace(None);
        }
    }

    pub(crate) fn cancel_sync(&mut self) {
        if let Some(sync) = &self.sync {
            sync.token.cancel();
        }
    }

    /// Ends the sync task and waits for it. A window that it holds is closed by that.
    pub(crate) async fn end_sync(&mut self) {
        self.refuse_window("volume-sync of the workload ends");
        // It may be waiting for this answer before it can end.
        self.answer_window_return(Ready::NotStarted);
        let Some(sync) = &mut self.sync else { return };
        sync.token.cancel();
        if let Err(error) = (&mut sync.task).await
            && !error.is_cancelled()
        {
            tracing::error!(workload = %self.name, "its sync task failed: {error}");
        }
        self.tell_sync();
        self.sync = None;
    }

    pub(crate) fn sync_changed(&mut self, alive: bool) {
        if !alive {
            // It ended by itself, which only its cancellation should do; it is not left so.
            let ended = self.sync.take().map(|sync| sync.task);
            if self.context.shutdown.is_cancelled() {
                return;
            }
            self.sync_is_down(match ended {
                Some(task) if task.is_finished() => "ended by itself",
                Some(_) | None => "does not answer",
            });
        }
    }

    fn sync_is_down(&mut self, what: &str) {
        let problem = Problem::new(
            ProblemCode::Internal,
            format!("volume-sync of {} {what}", self.name),
            "see belayd's log; it is started again by itself",
        );
        tracing::error!(workload = %self.name, "{}", problem.detail);
        self.set_fault(&problem);
        self.sync_due = Some(Instant::now() + SYNC_RETRY);
    }

    /// Starts a sync task that ended by itself, when it is time.
    pub(crate) fn run_sync_if_due(&mut self) {
        if self.volumes == VolumesFact::Whole
            && self.sync_due.take_if(|due| *due <= Instant::now()).is_some()
        {
            self.run_sync();
        }
    }

    /// Takes the wish for a window. It is granted once the container is shown to be stopped.
    pub(crate) async fn ask_window(
        &mut self,
        purpose: WindowPurpose,
        reply: oneshot::Sender<Result<Window, WindowRefused>>,
    ) {
        if let Some(refusal) = self.window_refusal(purpose) {
            let _ = reply.send(Err(refusal));
            return;
        }
        self.refresh().await;
        let running = self
            .seen
            .as_ref()
            .map(|seen| seen.iter().any(|c| c.state.liveness() != Liveness::Stopped));
        let found = match running {
            None => {
                let reason = self.engine_fault.clone().unwrap_or_default();
                let _ = reply.send(Err(WindowRefused::NotConfirmed { reason }));
                return;
            }
            Some(running) if self.served(running) => FoundState::Ready,
            Some(true) => FoundState::Running,
            Some(false) => FoundState::Stopped,
        };
        if found == FoundState::Stopped
            && purpose == (WindowPurpose::Publish { require: Require::Running })
        {
            let _ = reply.send(Err(WindowRefused::NotRunning));
            return;
        }
        if purpose == WindowPurpose::Beside {
            self.grant_beside(found, reply);
            return;
        }
        if found.ran()
            && let Err(problem) = self.note_interruption().await
        {
            let _ = reply.send(Err(WindowRefused::NotConfirmed { reason: problem.detail }));
            return;
        }
        let asked_at = Instant::now();
        self.window_request = Some(WindowRequest { found, asked_at, reply });
        self.grant_window();
    }

    /// Whether it was ready, or was so when belayd itself ended it and nothing was found out since:
    /// a belayd that was killed while a window was open knows of it by the record alone.
    fn served(&self, running: bool) -> bool {
        if self.is_ready() {
            return self.health() != Some(Health::Unhealthy);
        }
        let Some(Known { record, .. }) = &self.known else { return false };
        let ready = record.verdict.as_ref().is_some_and(|verdict| verdict.found == Found::Ready);
        // One that waits for its first content serves nobody.
        if self.awaits_content() {
            return false;
        }
        let untold = running && !self.has_missed();
        let interrupted = !running && record.interruption == Interruption::Planned;
        ready
            && (untold || interrupted)
            && record.run == DesiredState::Running
            && record.failures == 0
            && record.failed.is_none()
    }

    /// Grants a window that stops nothing. While it is open nothing is emptied for the app.
    fn grant_beside(
        &mut self,
        found: FoundState,
        reply: oneshot::Sender<Result<Window, WindowRefused>>,
    ) {
        let (window, owner) = Window::pair(found);
        if reply.send(Ok(window)).is_err() {
            return;
        }
        let open = Arc::new(());
        self.beside = Arc::downgrade(&open);
        self.answers.spawn(async move {
            let (_, reply) = owner.closed().await;
            drop(open);
            let ready = Ready::Ready;
            reply.send(Ok(WindowClosed { found, ready, downtime: Duration::ZERO }));
        });
    }

    fn window_refusal(&self, purpose: WindowPurpose) -> Option<WindowRefused> {
        let busy = |reason: &str| Some(WindowRefused::Busy { reason: reason.to_owned() });
        let Some(known) = &self.known else { return busy("nothing is deployed") };
        if self.context.shutdown.is_cancelled() {
            return Some(WindowRefused::ShuttingDown);
        }
        if self.window.is_some() || self.window_request.is_some() || self.is_read_beside() {
            return busy("another window is open");
        }
        if known.record.removing.is_some() {
            return busy("it is being removed");
        }
        // A version that waits for content takes force with the apply that brings it.
        if known.record.previous.is_some() && !self.awaits_content() {
            return busy("a deploy is under way");
        }
        if known.record.reset.is_some() {
            return busy("volumes are being emptied, as its app asked for");
        }
        if self.volumes != VolumesFact::Whole {
            return busy("its volumes are not mounted");
        }
        match (&known.record.halted, purpose) {
            (Some(reason), WindowPurpose::Publish { .. } | WindowPurpose::Beside) => {
                Some(WindowRefused::Halted { reason: reason.clone() })
            }
            (Some(_), WindowPurpose::Apply { .. }) | (None, _) => None,
        }
    }

    /// Whether its volumes are captured while it runs.
    pub(crate) fn is_read_beside(&self) -> bool {
        self.beside.strong_count() > 0
    }

    /// Grants the window that was asked for, if nothing runs any more.
    pub(crate) fn grant_window(&mut self) {
        self.grant_window_beside(None);
    }

    /// Grants it once all is stopped but the container with the id `ended`, of which the kernel shows
    /// that nothing is left.
    pub(crate) fn grant_window_beside(&mut self, ended: Option<&str>) {
        let is_over = |container: &Container| {
            container.state.liveness() == Liveness::Stopped || Some(container.id.as_str()) == ended
        };
        if !self.seen.as_ref().is_some_and(|seen| seen.iter().all(is_over)) {
            return;
        }
        let Some(request) = self.window_request.take() else { return };
        let (window, owner) = Window::pair(request.found);
        if request.reply.send(Ok(window)).is_err() {
            // Nobody waits for it any more; the next step starts the container again.
            return;
        }
        self.window = Some(OpenWindow {
            closing: Closing::of(owner),
            found: request.found,
            stopped_at: request.asked_at,
        });
    }

    pub(crate) fn refuse_window(&mut self, reason: &str) {
        if let Some(request) = self.window_request.take() {
            let refusal = if self.context.shutdown.is_cancelled() {
                WindowRefused::ShuttingDown
            } else {
                WindowRefused::NotConfirmed { reason: reason.to_owned() }
            };
            let _ = request.reply.send(Err(refusal));
        }
    }

    /// Takes the end of a window: the container goes back to the state it was found in.
    pub(crate) async fn window_closed(&mut self, outcome: WindowOutcome, reply: WindowReply) {
        let Some(window) = self.window.take() else { return };
        self.stale();
        match outcome {
            WindowOutcome::Unchanged => {}
            WindowOutcome::Applied { cid } => {
                tracing::info!(workload = %self.name, %cid, "applied");
                self.clear_halt(HaltCleared::Apply).await;
            }
            WindowOutcome::TakenBack { cid } => {
                tracing::info!(workload = %self.name, %cid, "taken back");
                self.clear_halt(HaltCleared::Apply).await;
                // It failed on what is gone now.
                self.keep(|record| {
                    record.failures = 0;
                    record.next_try_at = None;
                    record.failed = None;
                })
                .await;
            }
            WindowOutcome::Uncertain { reason } => self.halt(reason).await,
        }
        self.window_return = Some(WindowReturn {
            found: window.found,
            stopped_at: window.stopped_at,
            started_at: None,
            reply,
        });
        let runs = self.known.as_ref().is_some_and(|known| {
            known.record.run == DesiredState::Running
                && known.record.halted.is_none()
                && known.record.failed.is_none()
        });
        if !runs || window.found == FoundState::Stopped {
            // What was not running is brought up by its own desired state, not by sync.
            self.answer_window_return(Ready::NotStarted);
        }
    }
}

/// The settings of volume-sync as a spec declares them; none where it declares no sync.
pub(crate) fn sync_spec(spec: &WorkloadSpec) -> Option<SyncSpec> {
    let declared = spec.sync.clone()?;
    let mut settings = SyncSpec::new(declared.role, declared.key);
    settings.poll_interval = declared.poll_interval;
    settings.format = declared.format;
    settings.sealing = declared.sealing;
    settings.capture = declared.capture;
    settings.publishers = declared.publishers;
    settings.publisher = declared.publisher;
    settings.on_unready = declared.on_unready;
    settings.ownership = declared.ownership;
    settings.apply_times = declared.apply_times;
    settings.schedule = declared.schedule;
    Some(settings)
}

/// The problem of a publish that was asked for by an operator.
pub(crate) fn publish_problem(name: &WorkloadName, error: &PublishError) -> Problem {
    let detail = format!("{name}: {}", problems::with_causes(error));
    match error {
        PublishError::NotProvider => Problem::new(
            ProblemCode::NoSync,
            detail,
            "publish on the node whose workload is the provider",
        ),
        PublishError::Paused => super::sync_acts::is_paused(name),
        PublishError::Importing => {
            Problem::new(ProblemCode::Busy, detail, "wait for the import under way")
        }
        PublishError::Busy => {
            Problem::new(ProblemCode::Busy, detail, "wait for the publish under way")
        }
        PublishError::GoesOn { .. } => Problem::new(
            ProblemCode::PublishGoesOn,
            detail,
            format!(
                "nothing; the workload runs, and belay sync status {name} shows how it goes on"
            ),
        ),
        PublishError::NoVolumes => {
            Problem::new(ProblemCode::NotRunning, detail, format!("belay start {name}"))
        }
        PublishError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
        PublishError::Failed { code: Some(code), .. } => {
            Problem::new(*code, detail, next_after(*code, name))
        }
        PublishError::Failed { code: None, .. } => Problem::new(
            ProblemCode::PublishFailed,
            detail,
            format!("the workload is as it was; belay sync status {name} shows the stage"),
        ),
    }
}

/// What to do about a failure of volume-sync that has a code of its own.
fn next_after(code: ProblemCode, name: &WorkloadName) -> String {
    if code == ProblemCode::SigningKeyUnusable {
        return crate::node::SIGNING_KEY_NEXT.to_owned();
    }
    if code == ProblemCode::ImportRefused {
        return "nothing was published; give a tar.gz of container paths on the workload's volumes, \
                as belay sync export writes it"
            .to_owned();
    }
    if code == ProblemCode::PublishedLost {
        return format!(
            "belay sync publish {name} PATH, which stores all of it; the workload is as it was"
        );
    }
    if code == ProblemCode::Fenced {
        return format!(
            "publish there; or belay sync takeover {name} --yes, once it is certain that nobody \
             publishes there any more"
        );
    }
    format!("the workload is as it was; belay sync status shows the head of {name}'s key")
}

#[cfg(test)]
mod tests {
    use belay_protocol::control::Stage;

    use super::*;

    #[test]
    fn a_publish_that_goes_on_by_itself_is_told_so() {
        let name = "web".parse().expect("a name");
        let reason = "the store does not take it: the store is full".to_owned();
        let problem = publish_problem(&name, &PublishError::GoesOn { reason });
        assert_eq!(problem.code, ProblemCode::PublishGoesOn);
        assert_eq!(
            problem.detail,
            "web: it is captured and goes on by itself: the store does not take it: the store is full"
        );
        assert!(problem.next.contains("belay sync status web"), "{problem:?}");

        let (stage, code) = (Stage::RecordPublish, Some(ProblemCode::PublishedLost));
        let lost = PublishError::Failed { stage, code, reason: "somebody deleted it".to_owned() };
        let problem = publish_problem(&name, &lost);
        assert_eq!(problem.detail, "web: record_publish: somebody deleted it");
        assert!(problem.next.starts_with("belay sync publish web PATH"), "{problem:?}");
    }
}
