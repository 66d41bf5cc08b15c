//! What a workload's task knows, and the view that the machine decides from.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use belay_engine::{Container, ContainerState, Image};
use belay_protocol::{
    DesiredState, EventDetails, Fault, NodeStatus, Problem, WorkloadName, WorkloadPhase,
    WorkloadStatus,
};
use belay_sync::{SyncHandle, Window, WindowOutcome, WindowOwner, WindowRefused, WindowReply};
use belay_volumes::MountedVolume;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Beginning;
use super::app_requests::AppRequests;
use super::check::Ailing;
use super::command::WorkloadCommand;
use super::locking::Locking;
use super::pending::Pending;
use super::providers::ProviderWait;
use super::template::RunnerCounts;
use crate::checks::{Brought, Checks, GateOutcome};
use crate::context::Context;
use crate::core::exit::{self, ExitMeaning};
use crate::core::machine::{
    Desired, Facts, GateFact, Goal, ImageFact, Renewal, ResetFact, StartFact, Step, VolumesFact,
    WindowDemand,
};
use crate::core::providers::Providers;
use crate::core::record::{Declaration, Found, Interruption, WorkloadRecord};
use crate::core::spec::{self, WorkloadSpec};
use crate::core::stuck::StuckRemoval;
use crate::core::{back_off, container};
use crate::first_look::FirstLook;
use crate::images::{Fetched, ImageLease};
use crate::probe::NodeProber;

/// Everything the task of one workload knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) context: Arc<Context>,
    pub(crate) name: WorkloadName,
    /// Given to what acts on the workload from outside, such as its sync task.
    pub(crate) own_commands: mpsc::Sender<WorkloadCommand>,
    pub(crate) published: watch::Sender<Option<WorkloadStatus>>,
    /// Asks the process that runs.
    pub(crate) checks: Checks<NodeProber>,

    /// What the ledger holds, with its spec parsed; `None` until the first deploy.
    pub(crate) known: Option<Known>,
    /// Newest generation of a record whose spec does not parse any more, else 0.
    pub(crate) unreadable_generation: u64,
    /// Used up by the first look.
    pub(crate) first_look: Option<Arc<FirstLook>>,
    /// Containers as last listed; `None` when the engine could not say.
    pub(crate) seen: Option<Vec<Container>>,
    pub(crate) looked_at: Option<Instant>,
    /// When they were last inspected, one by one.
    pub(crate) inspected_at: Option<Instant>,
    /// Set while what is known is to be compared with the engine.
    pub(crate) comparing: bool,
    pub(crate) engine_fault: Option<String>,
    /// Image of the spec in force, once looked up.
    pub(crate) image: Option<Image>,
    /// Keeps that image from being removed while no container is made of it.
    pub(crate) lease: Option<ImageLease>,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) mounted: Vec<MountedVolume>,
    pub(crate) volumes: VolumesFact,
    pub(crate) renewal: Renewal,
    /// The node's page, followed for the workloads that this one depends on.
    pub(crate) page: watch::Receiver<Arc<NodeStatus>>,
    /// Those workloads, as last seen there.
    pub(crate) providers: Providers,
    /// What a start waits for among them.
    pub(crate) awaited: BTreeMap<WorkloadName, String>,
    /// A start that waits for them.
    pub(crate) wait: Option<ProviderWait>,
    /// The runners of the node.
    pub(crate) runner_counts: RunnerCounts,
    /// Set while its container is stopped for being unhealthy.
    pub(crate) ailing: Option<Ailing>,
    pub(crate) window: Option<OpenWindow>,
    /// A window that is granted once the container is shown to be stopped.
    pub(crate) window_request: Option<WindowRequest>,
    /// Alive while a window is open that stops nothing.
    pub(crate) beside: Weak<()>,
    /// A closed window whose closer waits until the workload is back.
    pub(crate) window_return: Option<WindowReturn>,
    pub(crate) sync: Option<RunningSync>,
    /// Looks at what the app asks for in its system volume.
    pub(crate) requests: AppRequests,
    pub(crate) pending: Option<Pending>,
    pub(crate) locking: Locking,
    /// A spec from `workloads.d` that is to replace the one in force.
    pub(crate) wish: Option<Wish>,
    pub(crate) stuck: StuckRemoval,
    /// Whether the record in memory is ahead of the ledger, which refused it.
    pub(crate) unwritten: bool,
    /// A step that failed is not tried again before this time.
    pub(crate) retry_at: Option<Instant>,
    /// When the sync task is started again after it ended by itself.
    pub(crate) sync_due: Option<Instant>,
    /// Answers that go on beside the task: logs, publishes.
    pub(crate) answers: JoinSet<()>,
    /// Room for questions about volume-sync.
    pub(crate) questions: Arc<tokio::sync::Semaphore>,
    pub(crate) forgotten: bool,

    pub(crate) phase: WorkloadPhase,
    pub(crate) phase_since: Timestamp,
    pub(crate) reason: String,
    pub(crate) last_fault: Option<Fault>,
    pub(crate) restarts: u32,
    /// Generation that was deployed and of which it was not told yet that it is up.
    pub(crate) coming_up: Option<u64>,
    /// When its limits were last read back.
    pub(crate) limits_look: Option<super::limits::LimitsLook>,
    /// A process of it that could not be killed.
    pub(crate) unkillable: Option<u32>,
    /// When the running incarnation was first seen ready.
    pub(crate) healthy_since: Option<Instant>,
}

/// A workload that something was deployed of.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: WorkloadRecord,
    pub(crate) spec: WorkloadSpec,
}

/// A spec that its file asks for and that is not in force yet.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) declaration: Declaration,
    pub(crate) spec: Box<WorkloadSpec>,
    /// Not tried before this time.
    pub(crate) due: Instant,
}

/// An image on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) purpose: FetchPurpose,
    pub(crate) task: JoinHandle<Result<Fetched, Problem>>,
}

/// What an image is fetched for.
#[derive(Debug)]
pub(crate) enum FetchPurpose {
    /// The spec in force needs it.
    Target,
    /// A spec that takes force once it is there.
    Deploy(Declaration, Box<WorkloadSpec>),
}

/// A fetch that has ended.
pub(crate) struct FetchDone {
    pub(crate) purpose: FetchPurpose,
    pub(crate) result: Result<Fetched, Problem>,
}

impl FetchDone {
    /// Waits for the fetch under way; for ever when there is none.
    pub(crate) async fn of(fetch: &mut Option<Fetch>) -> Self {
        let Some(running) = fetch else { return std::future::pending().await };
        let result = (&mut running.task).await;
        let purpose = fetch.take().expect("it was there").purpose;
        let result = result.unwrap_or_else(|error| {
            Err(Problem::new(
                belay_protocol::ProblemCode::Internal,
                format!("fetching the image failed: {error}"),
                "try again; if it happens again, see belayd's log",
            ))
        });
        Self { purpose, result }
    }
}

/// A window that is open.
#[derive(Debug)]
pub(crate) struct OpenWindow {
    pub(crate) closing: Closing,
    pub(crate) found: belay_sync::FoundState,
    pub(crate) stopped_at: Instant,
}

/// Completes when the window is closed or dropped; keeps its place over cancelled waits.
pub(crate) struct Closing(
    Pin<Box<dyn Future<Output = (WindowOutcome, WindowReply)> + Send + Sync>>,
);

impl Closing {
    pub(crate) fn of(owner: WindowOwner) -> Self {
        Self(Box::pin(owner.closed()))
    }
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closing")
    }
}

/// A window that was asked for.
#[derive(Debug)]
pub(crate) struct WindowRequest {
    pub(crate) found: belay_sync::FoundState,
    pub(crate) asked_at: Instant,
    pub(crate) reply: oneshot::Sender<Result<Window, WindowRefused>>,
}

/// A closed window whose closer is answered once the workload is back.
#[derive(Debug)]
pub(crate) struct WindowReturn {
    pub(crate) found: belay_sync::FoundState,
    pub(crate) stopped_at: Instant,
    pub(crate) started_at: Option<Instant>,
    pub(crate) reply: WindowReply,
}

/// The sync task of this workload.
#[derive(Debug)]
pub(crate) struct RunningSync {
    pub(crate) handle: SyncHandle,
    pub(crate) status: watch::Receiver<belay_protocol::SyncStatus>,
    /// What of its status was told as events.
    pub(crate) told: belay_protocol::SyncStatus,
    pub(crate) task: JoinHandle<()>,
    pub(crate) token: CancellationToken,
    pub(crate) layout: watch::Sender<Option<belay_sync::SyncLayout>>,
}

/// Waits until the open window is closed; for ever when none is open.
pub(crate) async fn window_closed(window: &mut Option<OpenWindow>) -> (WindowOutcome, WindowReply) {
    match window {
        Some(window) => (&mut window.closing.0).await,
        None => std::future::pending().await,
    }
}

/// Waits until the sync task has something new to say; for ever when there is none.
pub(crate) async fn sync_changed(sync: &mut Option<RunningSync>) -> bool {
    match sync {
        Some(sync) => sync.status.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

impl State {
    pub(crate) fn new(
        context: Arc<Context>,
        name: WorkloadName,
        beginning: Beginning,
        own_commands: mpsc::Sender<WorkloadCommand>,
        published: watch::Sender<Option<WorkloadStatus>>,
    ) -> Self {
        let page = context.board.subscribe();
        let runner_counts = context.templates.follow_runners();
        let checks = Checks::new(context.prober.clone());
        let mut state = Self {
            context,
            name,
            own_commands,
            published,
            checks,
            known: None,
            unreadable_generation: 0,
            first_look: None,
            seen: None,
            looked_at: None,
            inspected_at: None,
            comparing: false,
            engine_fault: None,
            image: None,
            lease: None,
            fetch: None,
            mounted: Vec::new(),
            volumes: VolumesFact::Partial,
            renewal: Renewal::None,
            page,
            providers: Providers::new(),
            awaited: BTreeMap::new(),
            wait: None,
            runner_counts,
            ailing: None,
            window: None,
            window_request: None,
            beside: Weak::new(),
            window_return: None,
            sync: None,
            requests: AppRequests::default(),
            pending: None,
            locking: Locking::default(),
            wish: None,
            stuck: StuckRemoval::default(),
            unwritten: false,
            retry_at: None,
            sync_due: None,
            answers: JoinSet::new(),
            questions: super::sync_acts::questions(),
            forgotten: false,
            phase: WorkloadPhase::Pending,
            phase_since: Timestamp::now(),
            reason: "belayd has just started".to_owned(),
            last_fault: None,
            restarts: 0,
            coming_up: None,
            limits_look: None,
            unkillable: None,
            healthy_since: None,
        };
        if let Beginning::Known(record, first_look) = beginning {
            state.first_look = Some(first_look);
            state.adopt(*record);
        }
        state
    }

    /// Takes over what the ledger knows. A spec that does not parse any more (an older version was
    /// more lenient) leaves the workload as it is and says so.
    fn adopt(&mut self, record: WorkloadRecord) {
        let declaration = &record.declaration;
        let directory = std::path::Path::new(&declaration.directory);
        match spec::parse(&declaration.spec, &declaration.file, directory) {
            Ok(spec) => {
                self.coming_up = record.previous.as_ref().map(|_| record.generation);
                self.known = Some(Known { record, spec });
            }
            Err(faults) => {
                self.unreadable_generation = record.newest_generation;
                let list: Vec<_> = faults.iter().map(ToString::to_string).collect();
                let problem = Problem::new(
                    belay_protocol::ProblemCode::InvalidSpec,
                    format!("{}: the stored spec is refused: {}", self.name, list.join("; ")),
                    "deploy a corrected spec; until then its container is left as it is",
                );
                tracing::error!(workload = %self.name, "{}", problem.detail);
                self.set_fault(&problem);
            }
        }
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// What should be and what is, as the machine wants to see it.
    pub(crate) fn view(&self) -> Option<(Desired, Facts)> {
        let known = self.known.as_ref()?;
        let record = &known.record;
        let held = record.halted.as_ref().or(record.failed.as_ref());
        let goal = match (&record.removing, held, record.run) {
            (Some(fate), _, _) => Goal::Removed(*fate),
            (None, _, DesiredState::Stopped) => Goal::Stopped,
            (None, Some(_), DesiredState::Running) => Goal::Halted,
            (None, None, DesiredState::Running) => Goal::Running,
        };
        let window = if self.window.is_some() || self.window_request.is_some() {
            WindowDemand::Open
        } else {
            WindowDemand::Closed
        };
        let desired = Desired {
            goal,
            target: record.generation,
            previous: record.previous.as_ref().map(|previous| previous.generation),
            window,
            renewal: self.renewal,
        };
        let print = self.environment_print();
        let members = self
            .seen
            .as_ref()
            .map(|seen| seen.iter().filter_map(|c| container::member(c, print.as_ref())).collect());
        let image = match (&self.image, &self.fetch) {
            (Some(_), _) => ImageFact::Present,
            (None, Some(Fetch { purpose: FetchPurpose::Target, .. })) => ImageFact::Fetching,
            (None, _) => ImageFact::Missing,
        };
        let facts = Facts {
            members,
            image,
            volumes: self.volumes,
            reset: match &record.reset {
                Some(_) => ResetFact::Wanted,
                None => ResetFact::None,
            },
            providers: self.providers_fact(),
            content: self.content_fact(),
            start: self.start_state(),
            gate: self.gate_fact(),
        };
        Some((desired, facts))
    }

    pub(crate) fn start_state(&self) -> StartFact {
        let Some(known) = &self.known else { return StartFact::Completed };
        let now = Timestamp::now();
        let due = known.record.next_try_at;
        if due.is_some_and(|due| !back_off::left(due, now).is_zero()) {
            return StartFact::BackingOff;
        }
        let ended = self.target().and_then(|container| match &container.state {
            ContainerState::Exited { exit_code, .. } => Some(*exit_code),
            _ => None,
        });
        let interruption = self.target().map_or(known.record.interruption, |container| {
            self.interruption(&super::observe::exit_key(container))
        });
        let meaning = ended.map(|code| exit::judge(code, interruption, known.spec.restart));
        match meaning {
            Some(ExitMeaning::Completed | ExitMeaning::GivenUp) => StartFact::Completed,
            Some(ExitMeaning::Planned | ExitMeaning::Failed) | None => StartFact::Allowed,
        }
    }

    fn gate_fact(&self) -> GateFact {
        let incarnation = self.running_incarnation();
        match self.checks.outcome() {
            Some(outcome) if self.checks.incarnation() == incarnation.as_deref() => match outcome {
                GateOutcome::Open | GateOutcome::Missed => GateFact::Waiting,
                GateOutcome::Kept | GateOutcome::Ready => GateFact::Settled,
            },
            // A new process, or one that belayd has not seen yet.
            Some(_) | None => GateFact::Due,
        }
    }

    /// The container of the generation in force.
    pub(crate) fn target(&self) -> Option<&Container> {
        let generation = self.known.as_ref()?.record.generation;
        self.seen.as_ref()?.iter().find(|container| {
            container::member(container, None).is_some_and(|member| member.generation == generation)
        })
    }

    /// Whether the target runs and was found ready.
    pub(crate) fn is_ready(&self) -> bool {
        let incarnation = self.running_incarnation();
        let ready = matches!(self.checks.outcome(), Some(GateOutcome::Ready | GateOutcome::Kept));
        ready && self.checks.incarnation() == incarnation.as_deref()
    }

    /// Whether the target was not ready in time, and is left running.
    pub(crate) fn has_missed(&self) -> bool {
        self.checks.outcome() == Some(GateOutcome::Missed)
    }

    /// What the record tells of a process.
    pub(crate) fn brought(&self, incarnation: &str) -> Brought {
        let verdict = self.known.as_ref().and_then(|known| known.record.verdict.as_ref());
        match verdict.filter(|verdict| verdict.incarnation == incarnation) {
            Some(verdict) => match verdict.found {
                Found::Ready => Brought::Ready,
                Found::Unhealthy => Brought::Unhealthy,
            },
            None => Brought::Nothing,
        }
    }

    /// When to look again while there is nothing to do.
    pub(crate) fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = self.next_look(self.looked_at.unwrap_or(now));
        let in_force = self.known.as_ref().map(|known| &known.record);
        if let Some(due) = in_force.and_then(|record| record.next_try_at) {
            wake = wake.min(now + back_off::left(due, Timestamp::now()));
        }
        if let Some(watched) = in_force.and_then(|record| record.watched.as_ref()) {
            let left = Duration::try_from(watched.until.duration_since(Timestamp::now()));
            wake = wake.min(now + left.unwrap_or(Duration::ZERO));
        }
        if let Some(wish) = &self.wish
            && self.fetch.is_none()
            && self.pending.is_none()
        {
            wake = wake.min(wish.due);
        }
        wake = self.requests_due().map_or(wake, |due| wake.min(due));
        wake = self.wait_due().map_or(wake, |due| wake.min(due));
        wake = self.content_due().map_or(wake, |due| wake.min(due));
        wake = self.sync_due.map_or(wake, |due| wake.min(due));
        wake = self.retry_at.filter(|at| *at > now).map_or(wake, |at| wake.min(at));
        // A time that has just passed must not spin the task.
        wake.max(now + Duration::from_millis(5))
    }

    /// Has the engine asked again before the next decision.
    pub(crate) fn stale(&mut self) {
        self.looked_at = None;
    }

    /// When what was looked at then is looked at again, if nothing happens.
    pub(crate) fn next_look(&self, looked_at: Instant) -> Instant {
        self.context.roll.next_look(&self.name, looked_at)
    }

    /// Has what is known compared with the engine if it is time.
    pub(crate) fn compare_if_due(&mut self) {
        self.comparing |= self.looked_at.is_some_and(|at| self.next_look(at) <= Instant::now());
    }

    /// Writes the record; nothing that depends on it may be done before this returned well.
    pub(crate) async fn write(&mut self, record: WorkloadRecord) -> Result<(), Problem> {
        let table = crate::core::record::TABLE;
        let written = self.context.ledger.put(table, self.name.as_str(), &record).await;
        written.map_err(|error| crate::problems::ledger(&error))?;
        if let Some(known) = &mut self.known {
            known.record = record;
        }
        Ok(())
    }

    /// Changes the record, durably.
    pub(crate) async fn change(
        &mut self,
        change: impl FnOnce(&mut WorkloadRecord),
    ) -> Result<(), Problem> {
        let Some(known) = &self.known else { return Ok(()) };
        let mut record = known.record.clone();
        change(&mut record);
        if record == known.record { Ok(()) } else { self.write(record).await }
    }

    /// Changes the record in memory in any case, and durably if the ledger takes it; if not, it is
    /// written as soon as it does. For what must hold even on a full disk: a halt, a back-off.
    pub(crate) async fn keep(&mut self, change: impl FnOnce(&mut WorkloadRecord)) {
        let Some(known) = &mut self.known else { return };
        let before = known.record.clone();
        change(&mut known.record);
        if known.record != before || self.unwritten {
            self.write_again().await;
        }
    }

    /// Writes what the ledger refused before.
    pub(crate) async fn write_again(&mut self) {
        let Some(known) = &self.known else { return };
        let record = known.record.clone();
        let written = self.write(record).await;
        self.unwritten = written.is_err();
        self.note(written);
    }

    /// Notes durably that belayd itself is about to end the container.
    pub(crate) async fn note_interruption(&mut self) -> Result<(), Problem> {
        self.change(|record| record.interruption = Interruption::Planned).await
    }

    pub(crate) fn set_fault(&mut self, problem: &Problem) {
        self.last_fault = Some(Fault {
            code: problem.code.as_str().to_owned(),
            message: problem.detail.clone(),
            next: problem.next.clone(),
            at: Timestamp::now(),
        });
    }

    /// Changes the phase, with its cause.
    pub(crate) fn enter_phase(&mut self, phase: WorkloadPhase, reason: impl Into<String>) {
        self.reason = reason.into();
        if phase == self.phase {
            return;
        }
        tracing::info!(workload = %self.name, from = self.phase.as_str(), to = phase.as_str(), cause = %self.reason, "phase");
        let details = EventDetails::PhaseChanged {
            from: self.phase,
            to: phase,
            cause: self.reason.as_str().into(),
        };
        self.tell(format!("{} is {}: {}", self.name, phase.as_str(), self.reason), details);
        self.phase = phase;
        self.phase_since = Timestamp::now();
    }

    /// The phase that a step belongs to.
    pub(crate) fn enter(&mut self, step: &Step) {
        if let Some((phase, reason)) = self.phase_of(step) {
            self.enter_phase(phase, reason);
        }
    }
}

/// Names one run of a container's process, so that a restart is not taken for the same one.
pub(crate) fn incarnation_of(container: &Container) -> Option<String> {
    let incarnation = container.state.incarnation()?;
    Some(format!("{}@{}/{}", container.id, incarnation.started_at, incarnation.pid))
}
