//! Doing one job about one runner.

mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use belay_engine::{Container, ContainerState, Engine, EngineError, Liveness, Removal};
use belay_lifecycle::core::container::declaration_of;
use belay_lifecycle::core::spec;
use belay_lifecycle::core::template::Standing;
use belay_lifecycle::{Template, keep_last_lines};
use belay_protocol::runner::RunnerId;
use belay_protocol::{NodeId, WorkloadName};
use belay_runner::Exit;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::checkpoint::Versions;
use crate::core::container::{self, HOST, Identity};
use crate::core::job::{Booking, Job, Progress, Step, Told, next_step};
use crate::core::sight::{Maker, Sight, Stored, sight};
use crate::grants::{Door, Grants};
use crate::kept_logs::KeptLogs;
use crate::run_logs::{Harvest, harvest};
use crate::store::CheckpointStore;
use crate::travel::Arriving;

/// First pause before something that did not work is tried again; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Grace of a runner whose spec cannot be read any more.
const GRACE: Duration = Duration::from_secs(10);
/// Containers that are started or restored at a time.
const STARTS: usize = 4;

/// What jobs are done with. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Tools<G> {
    pub(crate) engine: Engine,
    pub(crate) store: CheckpointStore,
    pub(crate) kept_logs: KeptLogs,
    pub(crate) templates: watch::Receiver<std::collections::BTreeMap<WorkloadName, Template>>,
    pub(crate) grants: G,
    pub(crate) door: Door,
    pub(crate) node: NodeId,
    /// The installation.
    pub(crate) host: String,
    pub(crate) boot_id: String,
    pub(crate) versions: Versions,
    /// Directory with one directory for each workload, where logs are kept.
    pub(crate) workloads_dir: PathBuf,
    pub(crate) means: Mutex<Keeping>,
    pub(crate) starts: Semaphore,
    pub(crate) arriving: Arriving,
    pub(crate) ending: CancellationToken,
}

/// How a snapshotted runner is kept on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeping {
    /// On the disk.
    Checkpoint,
    /// Frozen in memory, for this reason.
    Pause {
        /// Why there are no checkpoints.
        reason: String,
    },
}

/// What a job came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) runner: RunnerId,
    pub(crate) job: Job,
    pub(crate) told: Vec<Told>,
    pub(crate) measured: Vec<Measured>,
    /// What there is of the runner now.
    pub(crate) sight: Sight,
    pub(crate) identity: Option<Identity>,
}

/// Something that took time or space, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Measured {
    Started { took: Duration },
    Checkpointed { frozen: Duration, took: Duration },
    Booked { bytes: u64 },
    Paused { took: Duration },
    NotSnapshotted { reason: String },
    Restored { took: Duration },
    Thawed { took: Duration },
    NotRestored { reason: String },
    Ended { exit: Exit },
}

/// What was seen of a runner.
struct Seen {
    sight: Sight,
    container: Option<Container>,
}

/// A job on its way.
struct Doing {
    runner: RunnerId,
    job: Job,
    /// Cancelled when its end is not worth waiting for any more.
    hurry: CancellationToken,
    progress: Progress,
    measured: Vec<Measured>,
    pause: Duration,
}

/// Whether a step could be carried out.
enum Outcome {
    Carried,
    /// Not now: look again after a pause.
    Later(String),
}

impl<G: Grants> Tools<G> {
    /// Does a job to its end. None when belayd ends before.
    pub(crate) async fn run(
        self: Arc<Self>,
        runner: RunnerId,
        job: Job,
        hurry: CancellationToken,
    ) -> Option<Done> {
        let mut doing = Doing {
            runner,
            job,
            hurry,
            progress: Progress::default(),
            measured: Vec::new(),
            pause: PAUSE,
        };
        let mut identity = None;
        loop {
            let seen = match self.look(&doing.runner).await {
                Ok(seen) => seen,
                Err(error) => {
                    self.pause(&mut doing, &with_causes(&error)).await?;
                    continue;
                }
            };
            if let Some(found) = &seen.container {
                identity = container::identity(found, &self.host).or(identity);
            }
            let step = next_step(&doing.job, seen.sight, &doing.progress);
            if let Step::Tell(told) = step {
                let Doing { runner, job, measured, .. } = doing;
                return Some(Done { runner, job, told, measured, sight: seen.sight, identity });
            }
            match self.carry_out(step, &seen, &mut doing).await {
                Outcome::Carried => doing.pause = PAUSE,
                Outcome::Later(why) => self.pause(&mut doing, &why).await?,
            }
        }
    }

    /// Waits before something is tried again; none when belayd ends.
    async fn pause(&self, doing: &mut Doing, why: &str) -> Option<()> {
        tracing::warn!(runner = %doing.runner, "cannot {} it yet: {why}", doing.job.verb());
        if doing.hurry.is_cancelled() && doing.progress.failure.is_none() {
            doing.progress.failure = Some(why.to_owned());
        }
        let hurried = doing.hurry.is_cancelled();
        tokio::select! {
            () = tokio::time::sleep(doing.pause) => {}
            () = doing.hurry.cancelled(), if !hurried => {}
            () = self.ending.cancelled() => return None,
        }
        doing.pause = (doing.pause * 2).min(PAUSE_MAX);
        Some(())
    }

    fn name(&self, runner: &RunnerId) -> String {
        container::name(&self.node, runner)
    }

    async fn look(&self, runner: &RunnerId) -> Result<Seen, EngineError> {
        let container = self.engine.inspect(self.name(runner)).await?;
        let Some(found) = container else {
            return Ok(Seen { sight: sight(None, Stored::Nothing), container: None });
        };
        let maker = match found.labels.get(HOST) {
            Some(host) if *host == self.host => Maker::Us,
            Some(_) | None => Maker::Other,
        };
        let stored = match (maker, found.state.liveness()) {
            (Maker::Us, Liveness::Stopped) => self.stored(runner, &found).await?,
            (Maker::Us | Maker::Other, _) => Stored::Nothing,
        };
        let sight = sight(Some((&found.state, maker)), stored);
        Ok(Seen { sight, container: Some(found) })
    }

    /// What there is of a checkpoint of a container without a process.
    async fn stored(&self, runner: &RunnerId, found: &Container) -> Result<Stored, EngineError> {
        let Some(image) = self.engine.checkpoint_image(&found.id).await? else {
            return Ok(Stored::Nothing);
        };
        let booked = self.store.get(runner);
        let is_booked = booked.is_some_and(|record| record.container == found.id.as_str());
        if is_booked || self.engine.is_suspended(&found.id).await? == Some(true) {
            return Ok(Stored::Image);
        }
        // An engine that was killed after CRIU had ended the processes did not note it.
        let started = found.started_at;
        let written = tokio::task::spawn_blocking(move || written(&image)).await.ok().flatten();
        let is_newer = written.zip(started).is_some_and(|(written, started)| written > started);
        Ok(if is_newer { Stored::Image } else { Stored::Stale })
    }

    async fn carry_out(&self, step: Step, seen: &Seen, doing: &mut Doing) -> Outcome {
        match step {
            Step::Wait => Outcome::Later("its container is in transition".to_owned()),
            Step::Tell(_) => Outcome::Carried,
            Step::Create => self.create(doing).await,
            Step::Start => self.start(doing).await,
            Step::Snapshot => self.snapshot(seen, doing).await,
            Step::Book(room) => self.book(seen, room, doing).await,
            Step::Restore => self.restore(doing).await,
            Step::Thaw => self.thaw(doing).await,
            Step::Stop => self.stop(seen, doing).await,
            Step::Remove { exit } => self.remove(seen, exit, doing).await,
        }
    }

    async fn create(&self, doing: &mut Doing) -> Outcome {
        let Job::Start { workload } = &doing.job else { return Outcome::Carried };
        let template = self.templates.borrow().get(workload).cloned();
        let taking = template.as_ref().filter(|template| template.standing == Standing::Taking);
        let ready = taking.and_then(|template| Some((template, template.image.as_ref()?)));
        let Some((template, image)) = ready else {
            doing.progress.failure = Some(format!("{workload} takes no runs now"));
            return Outcome::Carried;
        };
        let token = match self.grants.token(&doing.runner, workload).await {
            Ok(token) => token,
            Err(why) => {
                doing.progress.failure = Some(format!("it has no token: {why}"));
                return Outcome::Carried;
            }
        };
        let identity = Identity {
            runner: doing.runner.clone(),
            workload: workload.clone(),
            generation: template.generation,
        };
        let Some(reach) = self.door.reach(template.spec.network, token) else {
            let failure = "there is no way from its network to belayd: the engine has no bridge";
            doing.progress.failure = Some(failure.to_owned());
            return Outcome::Carried;
        };
        let wanted =
            container::spec(template, &identity, &self.node, &self.host, &image.id, &reach);
        if let Err(error) = self.engine.create(&wanted).await {
            doing.progress.failure = Some(with_causes(&error));
        }
        Outcome::Carried
    }

    async fn start(&self, doing: &mut Doing) -> Outcome {
        let _place = self.starts.acquire().await;
        let began = Instant::now();
        match self.engine.start(self.name(&doing.runner)).await {
            Ok(()) => {
                doing.progress.started = true;
                doing.measured.push(Measured::Started { took: began.elapsed() });
            }
            Err(error) => doing.progress.failure = Some(with_causes(&error)),
        }
        Outcome::Carried
    }

    async fn stop(&self, seen: &Seen, doing: &Doing) -> Outcome {
        let Some(found) = &seen.container else { return Outcome::Carried };
        if matches!(found.state, ContainerState::Paused { .. })
            && let Err(error) = self.engine.unpause(&found.id).await
        {
            tracing::debug!(runner = %doing.runner, "it is killed frozen: {}", with_causes(&error));
        }
        match self.engine.stop(&found.id, grace(found)).await {
            Ok(()) => Outcome::Carried,
            Err(error) => Outcome::Later(with_causes(&error)),
        }
    }

    async fn remove(&self, seen: &Seen, exit: Option<Exit>, doing: &mut Doing) -> Outcome {
        let Some(found) = &seen.container else { return Outcome::Carried };
        if let Some(exit) = exit
            && doing.progress.exit.is_none()
        {
            let (runner, container) = (&doing.runner, found.id.as_str());
            let (engine, kept) = (&self.engine, &self.kept_logs);
            match harvest(engine, kept, &self.grants, (runner, container), Harvest::All).await {
                Ok(true) => {}
                Ok(false) => return Outcome::Later("its runs cannot be told".to_owned()),
                // A full disk must not keep the container.
                Err(error) => tracing::warn!(%runner, "what its runs wrote is not kept: {error}"),
            }
            doing.progress.exit = Some(exit);
            doing.measured.push(Measured::Ended { exit });
            if let Some(identity) = container::identity(found, &self.host) {
                let state_dir = self.workloads_dir.join(identity.workload.as_str());
                let kept =
                    keep_last_lines(&self.engine, found.id.as_str(), &state_dir, &doing.runner);
                if let Err(error) = kept.await {
                    // A full disk must not keep the container.
                    tracing::warn!(runner = %doing.runner, "its last lines are not kept: {error}");
                }
            }
        }
        if let Err(error) = self.engine.remove(&found.id, Removal::Stopped).await {
            return Outcome::Later(with_causes(&error));
        }
        self.forget(&doing.runner).await;
        self.grants.revoke(&doing.runner).await;
        Outcome::Carried
    }

    /// Keeps what runs that are over wrote, before the engine begins the log of their runner anew.
    pub(crate) async fn keep_over(&self, runner: &RunnerId, container: &str) {
        let (engine, kept) = (&self.engine, &self.kept_logs);
        let kept = harvest(engine, kept, &self.grants, (runner, container), Harvest::Over).await;
        if let Err(error) = kept {
            tracing::warn!(%runner, "what its runs wrote is not kept yet: {error}");
        }
    }

    /// Lets go of what the store has of a runner. What stays is let go of by the next look.
    pub(crate) async fn forget(&self, runner: &RunnerId) {
        let (store, gone) = (self.store.clone(), runner.clone());
        let forgotten = tokio::task::spawn_blocking(move || store.forget(&gone)).await;
        match forgotten {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%runner, "{}", with_causes(&error)),
            Err(error) => tracing::error!(%runner, "letting go of its checkpoint failed: {error}"),
        }
    }

    /// How snapshotted runners are kept now.
    pub(crate) fn keeping(&self) -> Keeping {
        self.means.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_by(&self, keeping: Keeping) {
        *self.means.lock().unwrap_or_else(PoisonError::into_inner) = keeping;
    }
}

/// Places for starts.
pub(crate) fn places() -> Semaphore {
    Semaphore::new(STARTS)
}

/// When an image was written.
fn written(image: &Path) -> Option<jiff::Timestamp> {
    let modified = std::fs::metadata(image.join("inventory.img")).ok()?.modified().ok()?;
    jiff::Timestamp::try_from(modified).ok()
}

/// How long a container may take to stop, as the spec it was made of says.
fn grace(container: &Container) -> Duration {
    let declaration = declaration_of(container);
    let spec = declaration.and_then(|declaration| {
        let directory = Path::new(&declaration.directory);
        spec::parse(&declaration.spec, &declaration.file, directory).ok()
    });
    spec.map_or(GRACE, |spec| spec.stop_grace)
}

/// An error with all that caused it, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
