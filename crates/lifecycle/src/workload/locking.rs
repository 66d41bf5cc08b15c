//! The locks of a workload: what needs them, what waits for them, when they are let go of.
//!
//! They are held while something is under way, not while the workload is only watched. Nothing in
//! here blocks the task: what cannot have the locks yet waits beside it, and is tried again.

use std::collections::VecDeque;
use std::time::Duration;

use belay_locks::core::poll::{Pauses, Tellings};
use belay_locks::{AcquireError, Claim, Guard, LockName, LockSet, Role};
use belay_protocol::{Problem, ProblemCode, VolumeName, WorkloadPhase};
use belay_sync::{WindowPurpose, WindowRefused};
use tokio::time::Instant;

use super::command::WorkloadCommand;
use super::pending::PendingKind;
use super::state::State;
use crate::core::lock_phase::lock_phase;
use crate::core::machine::{Step, VolumesFact};
use crate::core::stop::StopLadder;
use crate::problems;
use crate::reporter::Reporter;

/// How long a deploy waits for its turn and its locks.
const DEPLOY_PATIENCE: Duration = Duration::from_secs(300);

/// How long other commands do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long volume-sync does: the next look at its request or its key comes by itself.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);

/// Pauses before work that nobody waits for is tried again.
const REQUEUE: Duration = Duration::from_secs(1);
const REQUEUE_MAX: Duration = Duration::from_secs(10);

/// Commands that may wait for one workload's locks.
const WAITING: usize = 16;

/// The locks of one workload, and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Locking {
    guard: Option<Guard>,
    waiting: VecDeque<Waiting>,
    /// Set while a step cannot have its locks.
    blocked: Option<Blocked>,
    pauses: Pauses,
}

/// A command that waits for its turn or for the locks.
#[derive(Debug)]
struct Waiting {
    command: WorkloadCommand,
    need: Need,
    since: Instant,
    tellings: Tellings,
}

/// A step that waits for the locks.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Instant,
    pause: Duration,
}

/// What a command wants of the locks.
#[derive(Debug, Clone)]
struct Need {
    operation: &'static str,
    /// What is done first.
    phase: &'static str,
    patience: Duration,
    /// Volumes besides those of the spec in force.
    volumes: Vec<VolumeName>,
    turn: Turn,
}

/// Whether a command waits until the operation under way is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waits,
    /// It ends what is under way, or goes on beside it.
    Taken,
}

/// Whether a step may be carried out.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Yes.
    Go,
    /// What was known may be wrong: an operation was cut short under these locks.
    LookAgain,
    /// Not before this time: somebody else has the locks.
    Until(Instant),
}

/// How the locks were had.
#[derive(Debug, PartialEq, Eq)]
enum Had {
    /// Whoever had them last left in order.
    Clean,
    /// An operation was cut short under them.
    Interrupted,
}

impl Locking {
    /// Forgets what waits for its turn and is wanted by nobody any more.
    fn forget_abandoned(&mut self) {
        self.waiting.retain(|waiting| !waiting.command.is_abandoned());
    }
}

impl Need {
    fn of(command: &WorkloadCommand) -> Option<Self> {
        let need = |operation, phase, patience, turn| {
            Some(Self { operation, phase, patience, volumes: Vec::new(), turn })
        };
        let need = match command {
            WorkloadCommand::Deploy { spec, .. } => Some(Self {
                operation: "deploy",
                phase: "fetching",
                patience: DEPLOY_PATIENCE,
                volumes: spec.volumes.keys().cloned().collect(),
                turn: Turn::Waits,
            }),
            WorkloadCommand::Start { .. } => need("start", "deciding", PATIENCE, Turn::Waits),
            WorkloadCommand::Restart { .. } => need("restart", "deciding", PATIENCE, Turn::Waits),
            WorkloadCommand::Stop { .. } => need("stop", "deciding", PATIENCE, Turn::Taken),
            WorkloadCommand::Remove { .. } => need("rm", "deciding", PATIENCE, Turn::Taken),
            WorkloadCommand::Volume { volume, act, .. } => Some(Self {
                operation: "volume",
                phase: act.verb(),
                patience: PATIENCE,
                volumes: vec![volume.clone()],
                turn: Turn::Waits,
            }),
            WorkloadCommand::OpenWindow {
                purpose: WindowPurpose::Publish { .. } | WindowPurpose::Apply { .. },
                ..
            } => need("sync", "stopping", SYNC_PATIENCE, Turn::Taken),
            // A publish takes them when its window opens; the others change nothing by themselves.
            WorkloadCommand::OpenWindow { purpose: WindowPurpose::Beside, .. }
            | WorkloadCommand::Publish { .. }
            | WorkloadCommand::Import { .. }
            | WorkloadCommand::Takeover { .. }
            | WorkloadCommand::ClearOverrides { .. }
            | WorkloadCommand::Declare { .. }
            | WorkloadCommand::Undeclare
            | WorkloadCommand::History { .. }
            | WorkloadCommand::Sync { .. }
            | WorkloadCommand::AskSync { .. }
            | WorkloadCommand::AskReadiness { .. }
            | WorkloadCommand::Cancel { .. }
            | WorkloadCommand::CheckPublish { .. }
            | WorkloadCommand::Nudge => None,
        };
        let said = command.reporter().and_then(Reporter::patience);
        need.map(|need| Self { patience: said.unwrap_or(need.patience), ..need })
    }
}

impl State {
    /// Takes one command, or has it wait for its turn and its locks.
    pub(crate) async fn take(&mut self, command: WorkloadCommand) {
        if command.is_abandoned() {
            return;
        }
        let Some(need) = Need::of(&command) else {
            self.take_now(command).await;
            return;
        };
        // Whoever waits already comes first, but what ends an operation overtakes those who wait
        // for it to end.
        let overtakes = need.turn == Turn::Taken;
        let obstacle = if self.locking.waiting.is_empty() || overtakes {
            self.obstacle(&command, &need)
        } else {
            Some(self.queued())
        };
        match obstacle {
            None => self.take_now(command).await,
            Some(problem) if need.patience.is_zero() || self.locking.waiting.len() >= WAITING => {
                give_up(command, problem);
            }
            Some(problem) => {
                let mut waiting =
                    Waiting { command, need, since: Instant::now(), tellings: Tellings::default() };
                waiting.tell(&problem);
                self.locking.pauses = Pauses::default();
                self.locking.waiting.push_back(waiting);
            }
        }
    }

    /// Takes the commands whose turn has come, in their order, and gives up those that have waited
    /// for too long.
    pub(crate) async fn take_deferred(&mut self) {
        self.locking.forget_abandoned();
        let mut first_waits = false;
        for _ in 0..self.locking.waiting.len() {
            let Some(mut next) = self.locking.waiting.pop_front() else { return };
            let problem = if first_waits {
                Some(self.queued())
            } else {
                self.obstacle(&next.command, &next.need)
            };
            let Some(problem) = problem else {
                self.take_now(next.command).await;
                continue;
            };
            if next.since.elapsed() >= next.need.patience {
                let waited = next.since.elapsed().as_secs();
                let detail = format!("{}; waited {waited} s", problem.detail);
                give_up(next.command, Problem { detail, ..problem });
                continue;
            }
            next.tell(&problem);
            self.locking.waiting.push_back(next);
            first_waits = true;
        }
    }

    /// Refuses every command that waits: the workload's task ends.
    pub(crate) fn refuse_deferred(&mut self) {
        for waiting in std::mem::take(&mut self.locking.waiting) {
            waiting.command.refuse(self.gone());
        }
    }

    /// When something that waits is tried again.
    pub(crate) fn deferred_wake(&mut self) -> Option<Instant> {
        let waits = !self.locking.waiting.is_empty();
        // No chance in it: two workloads of one node never want the same lock.
        waits.then(|| Instant::now() + self.locking.pauses.next(0.5))
    }

    fn queued(&self) -> Problem {
        Problem::new(
            ProblemCode::Busy,
            format!("other operations on {} wait for their turn", self.name),
            format!("belay status {}", self.name),
        )
    }

    /// Why a command cannot be taken yet; `None` when it has all it needs.
    fn obstacle(&mut self, command: &WorkloadCommand, need: &Need) -> Option<Problem> {
        if self.context.shutdown.is_cancelled() {
            // It is refused where it is taken, without waiting for anybody.
            return None;
        }
        if need.turn == Turn::Waits
            && let Some(pending) = &self.pending
        {
            return Some(self.busy(pending.kind));
        }
        match self.hold(need.operation, need.phase, &need.volumes) {
            // What was cut short is put in order by the steps that follow; an act on a volume looks
            // at it itself, so it comes after them.
            Ok(Had::Interrupted) if matches!(command, WorkloadCommand::Volume { .. }) => {
                Some(Problem::new(
                    ProblemCode::Busy,
                    format!("what was cut short on {} is put in order first", self.name),
                    format!("belay status {}", self.name),
                ))
            }
            Ok(Had::Clean | Had::Interrupted) => None,
            Err(error) => Some(self.lock_problem(need.operation, &error)),
        }
    }

    /// Whether a step may be carried out now; takes the locks for it if need be.
    pub(crate) fn hold_for(&mut self, step: &Step) -> Hold {
        if self.known.is_none() {
            return Hold::Go;
        }
        let made_of = if let Step::Stop { id } = step { self.made_of(id) } else { None };
        let Some(phase) = lock_phase(step, &StopLadder::of(made_of.as_deref())) else {
            self.note_watching();
            return Hold::Go;
        };
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            // It is not carried out before its time.
            return Hold::Go;
        }
        let operation = self.pending.as_ref().map_or("reconcile", |pending| pending.kind.verb());
        match self.hold(operation, phase.name, &[]) {
            Ok(had) => {
                if let Some(guard) = &mut self.locking.guard {
                    guard.phase(phase.name, phase.within);
                }
                self.unblock();
                if had == Had::Clean { Hold::Go } else { Hold::LookAgain }
            }
            Err(error) => self.block(operation, &error),
        }
    }

    /// Says in the record that the locks are held for something that goes on by itself.
    fn note_watching(&mut self) {
        let phase = if self.window.is_some() {
            ("paused-for-sync", None)
        } else if self.fetch.is_some() {
            ("fetching", None)
        } else if self.running_incarnation().is_some() {
            ("probing", self.known.as_ref().map(|known| known.spec.ready.timeout))
        } else {
            return;
        };
        if let Some(guard) = &mut self.locking.guard {
            guard.phase(phase.0, phase.1);
        }
    }

    fn block(&mut self, operation: &str, error: &AcquireError) -> Hold {
        let problem = self.lock_problem(operation, error);
        let now = Instant::now();
        let blocked = self.locking.blocked;
        let mut blocked = blocked.unwrap_or(Blocked { since: now, pause: REQUEUE });
        if self.locking.blocked.is_none() {
            tracing::warn!(workload = %self.name, "{}", problem.detail);
            self.set_fault(&problem);
        }
        let wake = now + blocked.pause;
        blocked.pause = (blocked.pause * 2).min(REQUEUE_MAX);
        self.locking.blocked = Some(blocked);
        // It was looked at: the node need not wait for whoever has the locks.
        let phase = match self.phase {
            WorkloadPhase::Pending => WorkloadPhase::Unknown,
            phase => phase,
        };
        self.enter_phase(phase, problem.detail.clone());
        if blocked.since.elapsed() >= PATIENCE {
            self.fail_pending(problem);
        }
        self.stale();
        Hold::Until(wake)
    }

    fn unblock(&mut self) {
        if self.locking.blocked.take().is_some() {
            let codes =
                [ProblemCode::LockHeld, ProblemCode::LocksUnusable].map(ProblemCode::as_str);
            self.last_fault.take_if(|fault| codes.contains(&fault.code.as_str()));
        }
    }

    /// Has the locks of the workload and of its volumes, or says who has them.
    fn hold(
        &mut self,
        operation: &str,
        phase: &str,
        volumes: &[VolumeName],
    ) -> Result<Had, AcquireError> {
        let generation = self.known.as_ref().map_or(0, |known| known.record.generation);
        let own = self.volume_specs().into_iter().map(|spec| spec.id.volume);
        let wanted: LockSet = own
            .chain(volumes.iter().cloned())
            .map(|volume| LockName::volume(&self.name, volume))
            .chain([LockName::workload(&self.name)])
            .collect();
        let mut set = wanted.clone();
        if let Some(mut guard) = self.locking.guard.take() {
            let in_place = guard.is_in_place();
            if in_place && guard.set().covers(&wanted) {
                guard.operation(operation, generation);
                self.locking.guard = Some(guard);
                return Ok(Had::Clean);
            }
            if in_place {
                // More than before is needed. The order allows no more to be taken, so all are let
                // go of and taken anew: between two steps nothing is half done.
                set = guard.set().iter().chain(wanted.iter()).cloned().collect();
                guard.finish();
            } else {
                tracing::error!(workload = %self.name, "its lock files were removed; nothing is done until they can be had again");
            }
        }
        let mut claim = Claim::new(Role::Daemon, operation);
        claim.generation = generation;
        phase.clone_into(&mut claim.phase);
        claim.hint = format!("node {}", self.context.node);
        let guard = self.context.locks.try_acquire(&set, &claim)?;
        let mut had = Had::Clean;
        for before in guard.interrupted() {
            tracing::warn!(workload = %self.name, lock = %before.lock, "{}; what it left is put in order first", before.line());
            had = Had::Interrupted;
        }
        if had == Had::Interrupted {
            // Neither the containers nor the mounts need be as they were known.
            self.stale();
            self.volumes = VolumesFact::Partial;
        }
        self.locking.guard = Some(guard);
        Ok(had)
    }

    /// Lets go of the locks if nothing is under way that needs them.
    pub(crate) fn rest_locks(&mut self) {
        let half_done = self.known.as_ref().is_some_and(|known| {
            known.record.previous.is_some() || known.record.removing.is_some()
        });
        let under_way = self.pending.is_some()
            || self.fetch.is_some()
            || self.window.is_some()
            || self.window_request.is_some()
            || self.window_return.is_some()
            || !self.locking.waiting.is_empty();
        if !under_way
            && !half_done
            && let Some(guard) = self.locking.guard.take()
        {
            guard.finish();
        }
    }

    /// Lets go of the locks at the end of the task. What is not over is left to be found.
    pub(crate) fn end_locks(&mut self) {
        self.rest_locks();
        self.locking.guard = None;
    }

    /// Ends what is under way, on an operator's word, and says what that was. It comes between two
    /// steps; what should be stays as it was asked for.
    pub(crate) async fn cancel(&mut self) -> Result<String, Problem> {
        let name = self.name.clone();
        let kind = self.pending.as_ref().map(|pending| pending.kind);
        let verb = kind.map_or("deploy", PendingKind::verb);
        let ended = Problem::new(
            ProblemCode::Busy,
            format!("{verb} of {name} was ended by belay lock break"),
            format!("belay status {name}"),
        );
        let deploying = self.known.as_ref().is_some_and(|known| known.record.previous.is_some());
        match kind {
            Some(PendingKind::PrepareDeploy) => {
                self.abandon_fetch().await;
                self.refuse_deploy(ended);
                Ok(format!("deploy of {name} is ended; nothing was changed"))
            }
            Some(PendingKind::Deploy) | None if deploying => {
                self.roll_back(ended).await;
                Ok(format!("deploy of {name} is ended; the version before is restored"))
            }
            Some(
                PendingKind::Deploy
                | PendingKind::Start
                | PendingKind::Restart
                | PendingKind::Stop
                | PendingKind::Remove,
            ) => {
                self.fail_pending(ended);
                Ok(format!(
                    "{verb} of {name} is ended; what was asked for stays, and goes on by itself"
                ))
            }
            None => {
                // A step may have come to its end just before this.
                self.rest_locks();
                match self.locking.guard {
                    None => Ok(format!("the locks of {name} were let go of meanwhile")),
                    Some(_) => Err(self.cannot_cancel()),
                }
            }
        }
    }

    /// What belayd does by itself would only begin anew, and the window of volume-sync holds a volume
    /// that may be half changed.
    fn cannot_cancel(&self) -> Problem {
        let name = &self.name;
        let (what, next) = if self.window.is_some() {
            (
                "volume-sync is at work on",
                format!("it ends by its own deadlines: belay sync history {name}"),
            )
        } else {
            ("belayd itself is at work on", format!("end that: belay stop {name}"))
        };
        Problem::new(ProblemCode::Busy, format!("{what} {name}, and nobody waits for it"), next)
    }

    fn lock_problem(&self, operation: &str, error: &AcquireError) -> Problem {
        let name = &self.name;
        match error {
            AcquireError::Held(held) => {
                problems::lock_held(&format!("{operation} of {name}"), held)
            }
            AcquireError::Unusable(_) | AcquireError::OutOfOrder(_) => {
                problems::locks_unusable(&format!("{operation} of {name}"), error)
            }
        }
    }
}

fn give_up(command: WorkloadCommand, problem: Problem) {
    match command {
        WorkloadCommand::OpenWindow { reply, .. } => {
            let _ = reply.send(Err(WindowRefused::Busy { reason: problem.detail }));
        }
        WorkloadCommand::Deploy { .. }
        | WorkloadCommand::Declare { .. }
        | WorkloadCommand::Undeclare
        | WorkloadCommand::Start { .. }
        | WorkloadCommand::Stop { .. }
        | WorkloadCommand::Restart { .. }
        | WorkloadCommand::ClearOverrides { .. }
        | WorkloadCommand::Remove { .. }
        | WorkloadCommand::Publish { .. }
        | WorkloadCommand::Import { .. }
        | WorkloadCommand::Takeover { .. }
        | WorkloadCommand::Volume { .. }
        | WorkloadCommand::Sync { .. }
        | WorkloadCommand::AskSync { .. }
        | WorkloadCommand::AskReadiness { .. }
        | WorkloadCommand::History { .. }
        | WorkloadCommand::Cancel { .. }
        | WorkloadCommand::CheckPublish { .. }
        | WorkloadCommand::Nudge => command.refuse(problem),
    }
}

impl Waiting {
    /// Tells whoever waits what for, if there is anything new to say.
    fn tell(&mut self, problem: &Problem) {
        let now = self.since.elapsed();
        // The age in the words changes all the time; who it is comes before it.
        let gist = problem.detail.split(" for ").next().unwrap_or_default();
        if self.tellings.is_due(now, gist)
            && let Some(reporter) = self.command.reporter()
        {
            reporter.progress("wait", problem.detail.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use belay_sync::{Require, WindowPurpose};
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::reporter::Reporter;

    fn waiting(command: WorkloadCommand) -> Waiting {
        let need = Need::of(&command).expect("it wants locks");
        Waiting { command, need, since: Instant::now(), tellings: Tellings::default() }
    }

    #[tokio::test]
    async fn a_window_that_nobody_waits_for_any_more_is_not_opened() {
        let (gone, _) = oneshot::channel();
        let (wanted, _asker) = oneshot::channel();
        let (events, _) = mpsc::channel(2);
        let window = |reply| WorkloadCommand::OpenWindow {
            purpose: WindowPurpose::Publish { require: Require::Any },
            reply,
        };
        let mut locking = Locking::default();
        locking.waiting.extend(
            [
                window(gone),
                WorkloadCommand::Stop { reporter: Reporter::new(events) },
                window(wanted),
            ]
            .map(waiting),
        );
        locking.forget_abandoned();
        let left: Vec<_> = locking.waiting.iter().map(|waiting| waiting.need.operation).collect();
        assert_eq!(left, ["stop", "sync"], "an operation goes on without its caller");
    }
}
