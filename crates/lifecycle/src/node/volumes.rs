//! Looking at the volumes of the node, and acting on those that no workload names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use belay_locks::{AcquireError, Claim, LockName, LockSet, Role};
use belay_protocol::{
    EventSubject, GenerationStorage, OperationOutcome, Problem, ProblemCode, SpaceStatus,
    VolumeAct, VolumeName, WorkloadName,
};
use belay_volumes::{Cloning, ListError, VolumeId, VolumeStatus, Volumes};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::NodeTask;
use crate::context::Context;
use crate::core::volume_health::{Urgency, VolumeChange, VolumeHealth};
use crate::problems::with_causes;
use crate::reporter::Reporter;
use crate::volume_act;
use crate::workload::WorkloadCommand;

/// How often the volumes are glanced at: what refuses writes is told within 10 s.
pub(super) const GLANCE: Duration = Duration::from_secs(5);

/// Looks that may be asked for at once.
pub(super) const LOOKS: usize = 16;

/// How long an answer waits for the page to agree with it.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How long an act waits for another process that is at work on the volume.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How long the generations of all volumes may take to be listed. A volume that is being worked on
/// is not waited for; what was known of it stays.
const GENERATIONS_LIMIT: Duration = Duration::from_secs(1);

/// Has the node look at its volumes and show them.
#[derive(Debug, Clone)]
pub struct VolumesLook(mpsc::Sender<oneshot::Sender<()>>);

impl VolumesLook {
    pub(super) fn channel() -> (Self, mpsc::Receiver<oneshot::Sender<()>>) {
        let (sender, asked) = mpsc::channel(LOOKS);
        (Self(sender), asked)
    }

    /// Returns once the page shows the volumes as they are now, or the node has other things to do:
    /// then it shows them at its next look.
    pub(crate) async fn now(&self) {
        let (shown, wait) = oneshot::channel();
        let looked = async {
            if self.0.send(shown).await.is_ok() {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(LOOK_LIMIT, looked).await;
    }
}

/// What is known of the volumes from look to look.
#[derive(Debug)]
pub(super) struct VolumesWatch {
    born: Instant,
    health: VolumeHealth,
    generations: BTreeMap<VolumeId, Vec<String>>,
    /// As last seen; empty before the first look and after one that failed.
    seen: Vec<VolumeStatus>,
    /// Found out once: the directory of the images does not change.
    kept: Option<GenerationStorage>,
    /// Why the last look failed, so that it is told once.
    fault: Option<String>,
}

impl VolumesWatch {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            health: VolumeHealth::new(Timestamp::now().as_second().unsigned_abs()),
            generations: BTreeMap::new(),
            seen: Vec::new(),
            kept: None,
            fault: None,
        }
    }

    /// Looks at what changes by itself in the volumes that are mounted. Nothing is written to any
    /// disk.
    pub(super) async fn glance(&mut self, context: &Context) {
        let seen = context.volumes.look_again(std::mem::take(&mut self.seen)).await;
        self.show(context, seen);
    }

    fn show(&mut self, context: &Context, listed: Result<Vec<VolumeStatus>, ListError>) {
        let Some(listed) = self.taken(listed) else { return };
        for change in self.health.observe(self.born.elapsed(), &listed) {
            tell(context, &change);
        }
        let shown = listed.iter().map(|volume| {
            let level = self.health.level(&volume.id);
            let time_to_full = self.health.time_to_full(volume);
            let generations = self.generations.get(&volume.id).cloned().unwrap_or_default();
            crate::board::volume_status(volume, level, time_to_full, generations)
        });
        context.board.show_volumes(shown.collect());
        self.seen = listed;
    }

    /// Looks at everything: the volumes, the host's disk and the generations.
    pub(super) async fn look(&mut self, context: &Context) {
        if self.kept.is_none() {
            self.kept = match context.volumes.cloning().await {
                Ok(Cloning::ByReference) => Some(GenerationStorage::Shared),
                Ok(Cloning::Unsupported) => Some(GenerationStorage::Copied),
                Err(error) => {
                    tracing::warn!("{}", with_causes(&error));
                    None
                }
            };
        }
        let host = context.volumes.host().await;
        if let Some(host) = self.taken(host) {
            if let Some(change) = self.health.observe_host(&host) {
                tell(context, &change);
            }
            context.board.show_space(SpaceStatus {
                available_bytes: host.available.as_u64(),
                promised_bytes: host.promised.as_u64(),
                missing_bytes: host.missing.as_u64(),
                overcommitted: host.is_overcommitted(),
                generations: self.kept,
            });
        }
        // Cut off, it keeps what it has listed so far.
        let listing = self.list_generations(&context.volumes);
        let _ = tokio::time::timeout(GENERATIONS_LIMIT, listing).await;
        let listed = context.volumes.list().await;
        self.show(context, listed);
    }

    async fn list_generations(&mut self, volumes: &Volumes) {
        let Ok(listed) = volumes.list().await else { return };
        self.generations.retain(|id, _| listed.iter().any(|found| found.id == *id));
        for found in listed {
            if let Ok(names) = volumes.generations(&found.id).await {
                let names = names.iter().map(ToString::to_string).collect();
                self.generations.insert(found.id, names);
            }
        }
    }

    fn taken<T>(&mut self, looked: Result<T, ListError>) -> Option<T> {
        match looked {
            Ok(looked) => {
                self.fault = None;
                Some(looked)
            }
            Err(error) => {
                let fault = with_causes(&error);
                if self.fault.as_ref() != Some(&fault) {
                    tracing::warn!("the volumes cannot be looked at: {fault}");
                    self.fault = Some(fault);
                }
                None
            }
        }
    }
}

fn tell(context: &Context, change: &VolumeChange) {
    let subject = change.volume.as_ref().map_or(EventSubject::Node, volume_act::subject);
    let message = match &change.volume {
        Some(id) => format!("{id}: {}", change.text),
        None => change.text.clone(),
    };
    context.events.emit(subject, message, change.details.clone());
    let volume = change.volume.as_ref().map_or_else(|| "host".to_owned(), ToString::to_string);
    let text = &change.text;
    match change.urgency {
        Urgency::Relief => tracing::info!(%volume, "volume: {text}"),
        Urgency::Warning => tracing::warn!(%volume, "volume: {text}"),
        Urgency::Alarm => tracing::error!(%volume, "volume: {text}"),
    }
}

impl NodeTask {
    /// Takes an act on a volume: it is its workload's to do, or, without one, a task's of its own.
    pub(super) fn act_on_volume(
        &mut self,
        workload: WorkloadName,
        volume: VolumeName,
        act: VolumeAct,
        reporter: Reporter,
    ) {
        let look = self.measure.look.clone();
        // One that shows nothing was removed a moment ago, or nothing was deployed of it yet.
        let deployed =
            self.handles.get(&workload).filter(|handle| handle.status.borrow().is_some());
        if let Some(handle) = deployed {
            let command = WorkloadCommand::Volume { volume, act, look, reporter };
            super::deliver(handle, command);
            return;
        }
        if !self.adopted {
            reporter.finish(Err(Problem::new(
                ProblemCode::NodeNotReady,
                format!("whether a container of {workload} exists is not known yet"),
                "try again once belay status says ready",
            )));
            return;
        }
        let id = VolumeId { workload, volume };
        let context = Arc::clone(&self.context);
        self.acts.spawn(async move {
            let done = act_under_locks(&context, &id, &act, &reporter).await;
            if let Ok(summary) = &done {
                tracing::info!(volume = %id, act = act.verb(), "{summary}");
                volume_act::tell_done(&context.events, &id, &act, summary);
            }
            look.now().await;
            reporter.finish(done.map(|summary| OperationOutcome { summary, publish: None }));
        });
    }
}

/// Acts once no other process is at work on the volume.
async fn act_under_locks(
    context: &Context,
    id: &VolumeId,
    act: &VolumeAct,
    reporter: &Reporter,
) -> Result<String, Problem> {
    let set: LockSet =
        [LockName::volume(&id.workload, &id.volume), LockName::workload(&id.workload)]
            .into_iter()
            .collect();
    let mut claim = Claim::new(Role::Daemon, "volume");
    act.verb().clone_into(&mut claim.phase);
    claim.hint = format!("node {}", context.node);
    let patience = reporter.patience().unwrap_or(LOCK_PATIENCE);
    let progress = reporter.progress_end();
    let acquired = context.locks.acquire(&set, &claim, patience, |waiting| {
        progress.say("wait", format!("{} is locked by {}", waiting.lock, waiting.line));
    });
    let acquired = tokio::select! {
        acquired = acquired => acquired,
        () = context.shutdown.cancelled() => return Err(Problem::new(
            ProblemCode::ShuttingDown,
            format!("belayd ends; nothing was done to {id}"),
            "try again once belayd runs",
        )),
    };
    let wanted = format!("{} of {id}", act.verb());
    let guard = acquired.map_err(|error| match &error {
        AcquireError::Held(held) => crate::problems::lock_held(&wanted, held),
        AcquireError::Unusable(_) | AcquireError::OutOfOrder(_) => {
            crate::problems::locks_unusable(&wanted, &error)
        }
    })?;
    let done = act_on_orphan(&context.volumes, id, act).await;
    guard.finish();
    done
}

async fn act_on_orphan(
    volumes: &Volumes,
    id: &VolumeId,
    act: &VolumeAct,
) -> Result<String, Problem> {
    let listed = volumes.list().await.map_err(|error| {
        let next = "belay doctor shows what the host lacks";
        Problem::new(ProblemCode::VolumeUnavailable, with_causes(&error), next)
    })?;
    if !listed.iter().any(|found| found.id == *id) {
        return Err(volume_act::absent(id, &format!(", and no workload {}", id.workload)));
    }
    match act {
        VolumeAct::Check(request) => volume_act::check(volumes, id, request.mode).await,
        VolumeAct::Adopt => volume_act::adopt(volumes, id).await,
        VolumeAct::Remove => volume_act::remove(volumes, id).await,
        VolumeAct::Grow(_) | VolumeAct::Reset | VolumeAct::Rollback(_) | VolumeAct::Trim => {
            Err(Problem::new(
                ProblemCode::VolumeRefused,
                format!("no workload names {id}, and {} needs one", act.verb()),
                format!(
                    "deploy a workload {} that names it, or delete it: belay volume rm {id}",
                    id.workload
                ),
            ))
        }
    }
}
