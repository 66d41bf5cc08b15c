//! The task that owns the runners in containers: it takes orders, has each runner's jobs done one
//! after the other, and tells how they ended.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belay_engine::{Container, ContainerState, Engine, EngineError, Liveness, Removal};
use belay_events::EventSink;
use belay_lifecycle::core::template::{RunnersSeen, Standing};
use belay_lifecycle::{Template, Templates};
use belay_protocol::runner::{CheckpointStatus, HostTally, RunnerActivity, RunnerId};
use belay_protocol::{NodeId, WorkloadName};
use belay_runner::{
    HostEvent, HostFound, HostLink, HostOrder, Hosted, RunnerHandle, SnapshotOutcome, Snapshotting,
    WorkloadPolicy,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act::{Done, Keeping, Tools, places};
use crate::core::checkpoint::{Bounds, Versions};
use crate::core::container::{HOST, Identity, identity};
use crate::core::job::Job;
use crate::core::queue::{Aborted, Pushed, Queues};
use crate::core::sight::Sight;
use crate::grants::{Door, Grants};
use crate::kept_logs::KeptLogs;
use crate::run_logs::RunLogs;
use crate::store::{CheckpointStore, StoreError};
use crate::travel::{Arriving, Doors, Travels};
use crate::{measure, policies, run_logs, tally, telling, watch as engine_watch};

/// How often the engine is asked for all runners, should an event have been lost.
const RELIST: Duration = Duration::from_secs(30);
/// How long a container that no run and no runner is known of is left alone.
const STRANGER: Duration = Duration::from_secs(60);
/// Jobs that may wait; beyond that orders wait.
const WAITING: usize = 1024;
/// How long jobs under way may take once belayd ends. The engine finishes what it was told.
const ENDING: Duration = Duration::from_secs(5);

/// What runners are hosted with.
#[derive(Debug)]
pub struct HostConfig {
    /// The container engine.
    pub engine: Engine,
    /// Name of the node.
    pub node: NodeId,
    /// Id of the installation.
    pub host: String,
    /// Id of the host's present boot.
    pub boot_id: String,
    /// Directory of the books of checkpoints.
    pub checkpoints: PathBuf,
    /// Directory of what runs wrote.
    pub run_logs: PathBuf,
    /// What the store takes.
    pub bounds: Bounds,
    /// Directory with one directory for each workload.
    pub workloads_dir: PathBuf,
    /// How runners find belayd.
    pub door: Door,
    /// The workloads that take runs.
    pub templates: Templates,
    /// Where what happens is told.
    pub events: EventSink,
    /// Cancelled when belayd ends.
    pub ending: CancellationToken,
}

/// Why runners cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The books of the checkpoints cannot be used.
    #[error("cannot use the checkpoint store")]
    Store(#[from] StoreError),
    /// Opening them was cut short.
    #[error("opening the checkpoint store was cut short")]
    Cut(#[source] tokio::task::JoinError),
    /// The engine does not say which runners there are.
    #[error("cannot list the runners' containers")]
    Engine(#[from] EngineError),
}

/// A host that has looked at the node and waits for its orders.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    store: CheckpointStore,
    kept_logs: KeptLogs,
    present: BTreeMap<RunnerId, Present>,
    /// Runners that have ended while no belayd ran.
    ended: Vec<RunnerId>,
}

/// Held by whoever shows what the host does.
#[derive(Debug, Clone)]
pub struct HostHandle<G> {
    /// What was done.
    pub tally: watch::Receiver<HostTally>,
    /// How snapshotted runners are kept.
    pub keeping: watch::Receiver<Keeping>,
    /// The checkpoints.
    pub store: CheckpointStore,
    /// The same, as they are shown.
    pub checkpoints: Checkpoints,
    /// What runs wrote.
    pub run_logs: RunLogs<G>,
    tools: Arc<Tools<G>>,
}

impl HostHandle<RunnerHandle> {
    /// What exports and imports checkpoints. `key` is the file of the travel key.
    pub fn travels(&self, doors: Arc<dyn Doors>, key: Option<PathBuf>) -> Travels {
        Travels::new(Arc::clone(&self.tools), doors, key)
    }
}

/// The runners that are on the disk, and what they would be restored with.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    store: CheckpointStore,
    now: Versions,
}

impl Checkpoints {
    /// Everything that is on the disk, by the runners' names.
    pub fn list(&self) -> Vec<CheckpointStatus> {
        self.store.all().into_iter().map(|record| record.shown(&self.now)).collect()
    }
}

/// A runner with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    workload: WorkloadName,
    generation: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has a process, or is about to.
    Memory,
    Disk,
}

impl Host {
    /// Looks at what is on the node. Containers that were made and never started are removed: the
    /// order to start them is not given again.
    pub async fn look(config: HostConfig) -> Result<(HostFound, Self), HostError> {
        let (directory, bounds) = (config.checkpoints.clone(), config.bounds);
        let run_logs = config.run_logs.clone();
        let open = move || {
            let store = CheckpointStore::open(&directory, bounds)?;
            Ok::<_, StoreError>((store, KeptLogs::open(&run_logs)))
        };
        let (store, kept_logs) =
            tokio::task::spawn_blocking(open).await.map_err(HostError::Cut)??;
        let label = format!("{HOST}={}", config.host);
        let listed = config.engine.list(&[label]).await?;
        let (mut present, mut ended, mut hosted) = (BTreeMap::new(), Vec::new(), Vec::new());
        for found in &listed {
            let Some(Identity { runner, workload, generation }) = identity(found, &config.host)
            else {
                tracing::warn!(container = %found.name, "carries this node's label and cannot be \
                    read; it is left alone");
                continue;
            };
            let is_booked = store.get(&runner).is_some();
            let place = match found.state.liveness() {
                _ if found.state == ContainerState::Created && !is_booked => {
                    config.engine.remove(&found.id, Removal::Stopped).await?;
                    continue;
                }
                Liveness::Running | Liveness::Unknown => Place::Memory,
                Liveness::Stopped => {
                    let suspended = config.engine.is_suspended(&found.id).await? == Some(true);
                    if !suspended && !is_booked {
                        ended.push(runner.clone());
                    }
                    Place::Disk
                }
            };
            hosted.push(Hosted { runner: runner.clone(), workload: workload.clone() });
            present.insert(runner, Present { workload, generation, place });
        }
        let abilities = &config.engine.info().abilities;
        let snapshots = if abilities.checkpoint || abilities.freeze {
            Snapshotting::Supported
        } else {
            Snapshotting::Unsupported
        };
        Ok((HostFound { hosted, snapshots }, Self { config, store, kept_logs, present, ended }))
    }

    /// What the workloads that take runs are granted now.
    pub fn policies(&self) -> BTreeMap<WorkloadName, WorkloadPolicy> {
        policies::policies(&self.config.templates.follow().borrow())
    }

    /// Begins to take orders. `said` is what those who serve runs know of what workloads are
    /// granted. The task ends when belayd ends or when nobody gives orders any more.
    pub async fn spawn<G: Grants>(
        self,
        link: HostLink,
        grants: G,
        said: BTreeMap<WorkloadName, WorkloadPolicy>,
    ) -> (HostHandle<G>, JoinHandle<()>) {
        let Self { config, store, kept_logs, present, ended } = self;
        let HostConfig { engine, templates, ending, .. } = config;
        let keeping = if engine.info().abilities.checkpoint {
            Keeping::Checkpoint
        } else {
            Keeping::Pause { reason: format!("{} has no checkpoints to use", engine.info().kind) }
        };
        let versions = measure::versions(engine.info()).await;
        let (kept, shown_keeping) = watch::channel(keeping.clone());
        let (counted, tally) = watch::channel(HostTally::default());
        let run_logs = RunLogs::new(
            engine.clone(),
            config.node.clone(),
            kept_logs.clone(),
            grants.clone(),
            ending.clone(),
        );
        let collecting = run_logs::collect(kept_logs.clone(), grants.clone(), ending.clone());
        let tools = Arc::new(Tools {
            engine: engine.clone(),
            store,
            kept_logs,
            templates: templates.follow(),
            grants: grants.clone(),
            door: config.door,
            node: config.node,
            host: config.host.clone(),
            boot_id: config.boot_id,
            versions,
            workloads_dir: config.workloads_dir,
            means: Mutex::new(keeping),
            starts: places(),
            arriving: Arriving::default(),
            ending: ending.clone(),
        });
        let handle = HostHandle {
            tally,
            keeping: shown_keeping,
            store: tools.store.clone(),
            checkpoints: Checkpoints { store: tools.store.clone(), now: tools.versions.clone() },
            run_logs,
            tools: Arc::clone(&tools),
        };
        let (hints, watching) = engine_watch::spawn(engine, &config.host, ending.clone());
        let said = policies::follow(templates.follow(), grants, said, ending.clone());
        let task = HostTask {
            tools,
            link,
            followed: templates.follow(),
            templates,
            events: config.events,
            kept,
            counted,
            hints,
            queues: Queues::default(),
            jobs: JoinSet::new(),
            hurries: BTreeMap::new(),
            listings: JoinSet::new(),
            outbox: VecDeque::new(),
            present,
            strangers: BTreeMap::new(),
            ending,
        };
        let task = tokio::spawn(async move {
            let policies = tokio::spawn(said);
            let collecting = tokio::spawn(collecting);
            task.run(ended).await;
            for ended in [watching.await, policies.await, collecting.await] {
                if let Err(error) = ended {
                    tracing::error!("a task beside the host of runners failed: {error}");
                }
            }
        });
        (handle, task)
    }
}

/// The task.
struct HostTask<G> {
    tools: Arc<Tools<G>>,
    link: HostLink,
    templates: Templates,
    followed: watch::Receiver<BTreeMap<WorkloadName, Template>>,
    events: EventSink,
    kept: watch::Sender<Keeping>,
    counted: watch::Sender<HostTally>,
    hints: mpsc::Receiver<engine_watch::Hint>,
    queues: Queues,
    jobs: JoinSet<Option<Done>>,
    /// By which the jobs under way are told that they need not be patient.
    hurries: BTreeMap<RunnerId, CancellationToken>,
    listings: JoinSet<Option<Listing>>,
    /// What the hub has not been told yet.
    outbox: VecDeque<HostEvent>,
    present: BTreeMap<RunnerId, Present>,
    /// Containers that nobody knows, and since when.
    strangers: BTreeMap<RunnerId, Instant>,
    ending: CancellationToken,
}

/// What the engine and those who serve runs say of all runners.
struct Listing {
    containers: Vec<(Identity, Liveness)>,
    known: Option<BTreeMap<RunnerId, RunnerActivity>>,
}

impl<G: Grants> HostTask<G> {
    async fn run(mut self, ended: Vec<RunnerId>) {
        for runner in ended {
            self.push(&runner, Job::Look);
        }
        self.count();
        self.end_unwanted();
        let mut relist = Instant::now() + RELIST;
        let events = self.link.events.clone();
        loop {
            tokio::select! {
                order = self.link.orders.recv(), if self.queues.waiting() < WAITING => match order {
                    Some(order) => self.obey(order),
                    None => break,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(Some(done)) => self.done(&done),
                    Ok(None) => {}
                    Err(error) => tracing::error!("a job about a runner failed: {error}"),
                },
                room = events.reserve(), if !self.outbox.is_empty() => match room {
                    Ok(room) => {
                        if let Some(event) = self.outbox.pop_front() {
                            room.send(event);
                        }
                    }
                    Err(_) => break,
                },
                Some(hint) = self.hints.recv() => match hint {
                    engine_watch::Hint::One(runner) => {
                        if self.present.contains_key(&runner) {
                            self.push(&runner, Job::Look);
                        }
                    }
                    engine_watch::Hint::All => relist = Instant::now(),
                },
                changed = self.followed.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.end_unwanted();
                    relist = Instant::now();
                }
                Some(listing) = self.listings.join_next() => {
                    if let Ok(Some(listing)) = listing {
                        self.compare(&listing);
                    }
                }
                () = tokio::time::sleep_until(relist), if self.listings.is_empty() => {
                    relist = Instant::now() + RELIST;
                    self.listings.spawn(list(Arc::clone(&self.tools)));
                }
                () = self.ending.cancelled() => break,
            }
        }
        self.ending.cancelled().await;
        self.end().await;
    }

    /// Waits for what is under way, within bounds.
    async fn end(&mut self) {
        self.listings.shutdown().await;
        let over = async {
            while let Some(done) = self.jobs.join_next().await {
                if let Ok(Some(done)) = done {
                    self.queues.finish(&done.runner);
                    for event in events_of(&done) {
                        // The hub may have ended before: it finds out at its next start.
                        let _ = self.link.events.try_send(event);
                    }
                }
            }
        };
        let _ = tokio::time::timeout(ENDING, over).await;
        self.jobs.shutdown().await;
    }

    fn obey(&mut self, order: HostOrder) {
        let runner = runner_of(&order).clone();
        if let HostOrder::AbortSnapshot(ticket) = order {
            match self.queues.abort(&ticket) {
                Aborted::Withdrawn => {
                    let reason = "it was aborted before it began".to_owned();
                    let outcome = SnapshotOutcome::NotTaken { reason };
                    self.outbox.push_back(HostEvent::Snapshot { ticket, outcome });
                }
                Aborted::UnderWay => self.hurry(&runner),
                Aborted::Nothing => {}
            }
            return;
        }
        if let Some(job) = Job::of(order) {
            self.push(&runner, job);
        }
    }

    fn push(&mut self, runner: &RunnerId, job: Job) {
        match self.queues.push(runner, job.clone()) {
            Pushed::Begin => self.begin(runner, job),
            Pushed::Waits => {}
            Pushed::Hurries => self.hurry(runner),
        }
    }

    fn hurry(&self, runner: &RunnerId) {
        if let Some(hurry) = self.hurries.get(runner) {
            hurry.cancel();
        }
    }

    fn begin(&mut self, runner: &RunnerId, job: Job) {
        if let Job::Start { workload } = &job {
            let generation = self.followed.borrow().get(workload).map(|found| found.generation);
            let (workload, generation) = (workload.clone(), generation.unwrap_or(0));
            let present = Present { workload, generation, place: Place::Memory };
            self.present.insert(runner.clone(), present);
            self.count();
        }
        let hurry = CancellationToken::new();
        self.hurries.insert(runner.clone(), hurry.clone());
        self.jobs.spawn(Arc::clone(&self.tools).run(runner.clone(), job, hurry));
    }

    fn done(&mut self, done: &Done) {
        self.outbox.extend(events_of(done));
        let workload = self.present.get(&done.runner).map(|present| present.workload.clone());
        let workload = done.identity.as_ref().map(|found| found.workload.clone()).or(workload);
        if let Some(workload) = workload {
            for event in telling::tell(done) {
                self.events.emit(&workload, event.message, event.details);
            }
        }
        if !done.measured.is_empty() {
            self.counted.send_modify(|counted| {
                for measured in &done.measured {
                    tally::count(counted, measured);
                }
            });
        }
        let keeping = self.tools.keeping();
        self.kept.send_if_modified(|kept| {
            let changed = *kept != keeping;
            *kept = keeping;
            changed
        });
        self.place(done);
        self.hurries.remove(&done.runner);
        while let Some(next) = self.queues.finish(&done.runner).cloned() {
            // An event of what this job did itself says nothing new.
            if next == Job::Look && !self.present.contains_key(&done.runner) {
                continue;
            }
            self.begin(&done.runner, next);
            break;
        }
        self.count();
        self.end_unwanted();
    }

    /// Notes where a runner is now.
    fn place(&mut self, done: &Done) {
        let place = match done.sight {
            Sight::Absent | Sight::Foreign => {
                self.present.remove(&done.runner);
                return;
            }
            Sight::Suspended => Place::Disk,
            Sight::Created | Sight::Running | Sight::Paused | Sight::Ended(_) | Sight::Unknown => {
                Place::Memory
            }
        };
        match (self.present.get_mut(&done.runner), &done.identity) {
            (Some(present), _) => present.place = place,
            (None, Some(Identity { workload, generation, .. })) => {
                let (workload, generation) = (workload.clone(), *generation);
                self.present.insert(done.runner.clone(), Present { workload, generation, place });
            }
            (None, None) => {}
        }
    }

    /// Shows how many runners there are of each workload.
    fn count(&self) {
        let mut counts: BTreeMap<WorkloadName, RunnersSeen> = BTreeMap::new();
        for present in self.present.values() {
            let seen = counts.entry(present.workload.clone()).or_default();
            seen.all += 1;
            match present.place {
                Place::Memory => seen.alive += 1,
                Place::Disk => {}
            }
        }
        self.templates.count(counts);
    }

    /// Ends the runners of workloads that are stopped or removed.
    fn end_unwanted(&mut self) {
        let templates = self.followed.borrow_and_update().clone();
        let mut unwanted = Vec::new();
        for (runner, present) in &self.present {
            let standing = templates.get(&present.workload).map(|template| template.standing);
            let job = match (standing, present.place) {
                (Some(Standing::Stopped), Place::Memory) => Job::Quiet,
                (Some(Standing::Removed), Place::Memory | Place::Disk) => Job::Stop,
                (Some(Standing::Stopped), Place::Disk)
                | (Some(Standing::Taking | Standing::Resting) | None, _) => continue,
            };
            if !self.queues.is_busy(runner) {
                unwanted.push((runner.clone(), job));
            }
        }
        for (runner, job) in unwanted {
            self.push(&runner, job);
        }
    }

    /// Compares what the engine lists with what is known.
    fn compare(&mut self, listing: &Listing) {
        let now = Instant::now();
        let mut jobs = Vec::new();
        for (identity, liveness) in &listing.containers {
            let runner = &identity.runner;
            let present = self.present.entry(runner.clone()).or_insert_with(|| Present {
                workload: identity.workload.clone(),
                generation: identity.generation,
                place: Place::Memory,
            });
            if *liveness == Liveness::Stopped && present.place == Place::Memory {
                jobs.push((runner.clone(), Job::Look));
            }
        }
        let listed = |runner: &RunnerId| {
            listing.containers.iter().any(|(identity, _)| identity.runner == *runner)
        };
        // Whoever removed it did not tell.
        jobs.extend(
            self.present
                .keys()
                .filter(|runner| !listed(runner))
                .map(|runner| (runner.clone(), Job::Look)),
        );
        if let Some(known) = &listing.known {
            self.strangers.retain(|runner, _| !known.contains_key(runner) && listed(runner));
            for (identity, _) in &listing.containers {
                let runner = &identity.runner;
                match known.get(runner) {
                    None => {
                        let since = *self.strangers.entry(runner.clone()).or_insert(now);
                        if now.duration_since(since) >= STRANGER {
                            tracing::warn!(%runner, "no run and nobody knows it; it is ended");
                            jobs.push((runner.clone(), Job::Stop));
                        }
                    }
                    Some(RunnerActivity::Idle | RunnerActivity::Unready)
                        if self.is_outdated(identity) =>
                    {
                        jobs.push((runner.clone(), Job::Quiet));
                    }
                    Some(_) => {}
                }
            }
        }
        for (runner, job) in jobs {
            if !self.queues.is_busy(&runner) {
                self.push(&runner, job);
            }
        }
        self.count();
    }

    /// Whether a runner was made of a version of its workload that is not in force any more.
    fn is_outdated(&self, identity: &Identity) -> bool {
        let templates = self.followed.borrow();
        let template = templates.get(&identity.workload);
        template.is_some_and(|template| {
            template.standing == Standing::Taking && template.generation != identity.generation
        })
    }
}

async fn list<G: Grants>(tools: Arc<Tools<G>>) -> Option<Listing> {
    let label = format!("{HOST}={}", tools.host);
    // Asked first: a runner that is known and not listed is looked at, and one that is started
    // between the two is known too late to be a stranger for long.
    let known = tools.grants.runners().await;
    let listed: Vec<Container> = tools.engine.list(&[label]).await.ok()?;
    let mut containers = Vec::new();
    for found in &listed {
        let Some(identity) = identity(found, &tools.host) else { continue };
        if tools.arriving.has(&identity.runner) {
            continue;
        }
        let liveness = found.state.liveness();
        if liveness == Liveness::Running {
            tools.keep_over(&identity.runner, found.id.as_str()).await;
        }
        containers.push((identity, liveness));
    }
    Some(Listing { containers, known: known.map(|known| known.into_iter().collect()) })
}

fn events_of(done: &Done) -> Vec<HostEvent> {
    let told = done.told.iter().cloned();
    told.map(|told| told.into_event(&done.runner, &done.job)).collect()
}

fn runner_of(order: &HostOrder) -> &RunnerId {
    match order {
        HostOrder::StartRunner { runner, .. } | HostOrder::StopRunner { runner } => runner,
        HostOrder::TakeSnapshot(ticket)
        | HostOrder::AbortSnapshot(ticket)
        | HostOrder::FindSnapshot(ticket)
        | HostOrder::PutBack(ticket)
        | HostOrder::Drop(ticket)
        | HostOrder::Restore(ticket) => &ticket.runner,
    }
}
