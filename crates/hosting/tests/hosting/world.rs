//! A host with a Podman service of its own, an image of its own, and nothing left afterwards. The
//! hub's side is played by the test.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belay_engine::{Container, ContainerState, Engine, Image, PodmanService, connect_own};
use belay_events::EventsTask;
use belay_hosting::core::checkpoint::Bounds;
use belay_hosting::{Door, Grants, Host, HostConfig, HostHandle, NotTold};
use belay_ledger::Ledger;
use belay_lifecycle::core::record::{Declaration, Source};
use belay_lifecycle::core::spec::parse;
use belay_lifecycle::core::template::Standing;
use belay_lifecycle::{Template, Templates};
use belay_protocol::runner::{Epoch, RunId, RunnerActivity, RunnerId, SuspensionId};
use belay_protocol::{NodeId, WorkloadName};
use belay_runner::{
    HostEvent, HostFound, HostLink, HostOrder, RunProgress, RunStints, Stint, Ticket,
    WorkloadPolicy,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take on a laden machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What those who serve runs would know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    pub(crate) policies: Arc<Mutex<BTreeMap<WorkloadName, WorkloadPolicy>>>,
    pub(crate) revoked: Arc<Mutex<Vec<RunnerId>>>,
    pub(crate) stints: Arc<Mutex<Vec<(RunId, Stint)>>>,
}

impl Grants for Served {
    async fn token(&self, runner: &RunnerId, _: &WorkloadName) -> Result<String, String> {
        Ok(format!("token-of-{runner}"))
    }

    async fn revoke(&self, runner: &RunnerId) {
        self.revoked.lock().expect("whole").push(runner.clone());
    }

    async fn declare(&self, workload: &WorkloadName, policy: Option<WorkloadPolicy>) -> bool {
        let mut policies = self.policies.lock().expect("whole");
        match policy {
            Some(policy) => policies.insert(workload.clone(), policy),
            None => policies.remove(workload),
        };
        true
    }

    async fn runners(&self) -> Option<Vec<(RunnerId, RunnerActivity)>> {
        None
    }

    async fn stints_of(&self, runner: &RunnerId) -> Option<Vec<(RunId, Stint)>> {
        let stints = self.stints.lock().expect("whole");
        Some(stints.iter().filter(|(_, stint)| stint.runner == *runner).cloned().collect())
    }

    async fn run_stints(&self, run: RunId) -> Result<Option<RunStints>, NotTold> {
        let stints = self.stints.lock().expect("whole");
        let stints = stints.iter().filter(|(of, _)| *of == run).map(|(_, stint)| stint.clone());
        Ok(Some(RunStints { stints: stints.collect(), progress: RunProgress::Over }))
    }

    async fn forgotten(&self, _: Vec<RunId>) -> Option<Vec<RunId>> {
        Some(Vec::new())
    }
}

/// What outlives a host.
pub(crate) struct World {
    pub(crate) engine: Engine,
    /// Ends with this.
    _service: PodmanService,
    pub(crate) image: Image,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) templates: Templates,
    pub(crate) name: String,
    pub(crate) bounds: Bounds,
    pub(crate) boot_id: String,
}

/// A host that runs, and the hub's end of its port.
pub(crate) struct Running {
    pub(crate) orders: mpsc::Sender<HostOrder>,
    pub(crate) events: mpsc::Receiver<HostEvent>,
    pub(crate) handle: HostHandle<Served>,
    pub(crate) found: HostFound,
    pub(crate) served: Served,
    ending: CancellationToken,
    task: JoinHandle<()>,
    telling: JoinHandle<()>,
}

pub(crate) fn workload() -> WorkloadName {
    "work".parse().expect("a name")
}

pub(crate) fn runner(name: &str) -> RunnerId {
    name.parse().expect("a name")
}

pub(crate) fn ticket(name: &str) -> Ticket {
    Ticket {
        run: RunId::after(None, 1, 2),
        runner: runner(name),
        epoch: Epoch::default(),
        suspension: SuspensionId::default(),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("h{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (engine, service) = connect_own(dir.path()).await.expect("Podman comes up");
        let tar = belay_harness::busybox_image(dir.path()).expect("an image");
        let image = engine.load(&tar).await.expect("the image loads");
        Self {
            engine,
            _service: service,
            image,
            dir,
            templates: Templates::default(),
            name,
            bounds: Bounds::default(),
            boot_id: "boot-1".into(),
        }
    }

    /// Declares the workload, with this shell script as its runner.
    pub(crate) fn declare(&self, script: &str, standing: Standing) {
        let text = format!(
            "name = \"work\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
             command = [\"/bin/sh\", \"-c\", {}]\n[limits]\nmemory = \"64M\"\n[runner]\n\
             max_concurrent = 4\n",
            serde_json::Value::from(script)
        );
        let template = Template {
            spec: Arc::new(parse(&text, "work.toml", Path::new("/etc")).expect("a good spec")),
            declaration: Declaration {
                spec: text,
                file: "work.toml".into(),
                directory: "/etc".into(),
                source: Source::Api,
            },
            generation: 1,
            image: Some(self.image.clone()),
            standing,
        };
        self.templates.show(&workload(), Some(template));
    }

    pub(crate) fn node(&self) -> NodeId {
        self.name.parse().expect("a name")
    }

    /// Begins to host.
    pub(crate) async fn host(&self) -> Running {
        let ending = CancellationToken::new();
        let ledger = Ledger::open(&self.dir.path().join("belay.db")).expect("a ledger").0;
        let (events, _log, telling) = EventsTask::spawn(&ledger, ending.clone());
        let config = HostConfig {
            engine: self.engine.clone(),
            node: self.node(),
            host: self.name.clone(),
            boot_id: self.boot_id.clone(),
            checkpoints: self.dir.path().join("checkpoints"),
            run_logs: self.dir.path().join("run-logs"),
            bounds: self.bounds,
            workloads_dir: self.dir.path().join("workloads"),
            door: Door { bridge: Some("ws://bridge".into()), host: "ws://host".into() },
            templates: self.templates.clone(),
            events,
            ending: ending.clone(),
        };
        let (found, host) = Host::look(config).await.expect("it looks");
        let (orders, ordered) = mpsc::channel(16);
        let (tell, events) = mpsc::channel(16);
        let host_link = HostLink { orders: ordered, events: tell };
        let served = Served::default();
        let (handle, task) = host.spawn(host_link, served.clone(), BTreeMap::new()).await;
        Running { orders, events, handle, found, served, ending, task, telling }
    }

    pub(crate) async fn container(&self, name: &str) -> Option<Container> {
        let name = format!("belay-{}-{name}", self.name);
        self.engine.inspect(name).await.expect("looked up")
    }

    pub(crate) async fn pid(&self, name: &str) -> u32 {
        let found = self.container(name).await.expect("is there");
        found.state.incarnation().expect("it runs").pid
    }

    /// The newest line that a runner wrote, as a number.
    pub(crate) async fn count(&self, name: &str) -> u32 {
        let options = belay_engine::LogOptions { follow: false, tail: Some(1), since: None };
        let name = format!("belay-{}-{name}", self.name);
        let lines = self.engine.logs(name, &options);
        let lines: Vec<_> = futures_util::StreamExt::collect(lines).await;
        let last = lines.into_iter().filter_map(Result::ok).next_back();
        last.and_then(|line| line.text().trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until a runner has counted past this.
    pub(crate) async fn counts_past(&self, name: &str, least: u32) -> u32 {
        belay_harness::until("the runner to count", DEADLINE, || async {
            match self.count(name).await {
                found if found > least => Ok(found),
                found => Err(found.to_string()),
            }
        })
        .await
    }

    /// Waits until a runner's container runs.
    pub(crate) async fn runs(&self, name: &str) -> Container {
        belay_harness::until("the runner to run", DEADLINE, || async {
            match self.container(name).await {
                Some(found) if matches!(found.state, ContainerState::Running { .. }) => Ok(found),
                found => Err(format!("{:?}", found.map(|found| found.state))),
            }
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let podman = |arguments: &[&str]| {
            Command::new("/usr/bin/podman").args(arguments).output().expect("podman").stdout
        };
        let filter = format!("label=io.belay.host={}", self.name);
        let ids = podman(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        for id in String::from_utf8_lossy(&ids).lines() {
            podman(&["kill", id]);
            podman(&["rm", "--force", id]);
        }
    }
}

impl Running {
    pub(crate) async fn order(&self, order: HostOrder) {
        self.orders.send(order).await.expect("the host runs");
    }

    pub(crate) async fn start(&self, world: &World, name: &str) {
        self.order(HostOrder::StartRunner { runner: runner(name), workload: workload() }).await;
        world.runs(name).await;
    }

    pub(crate) async fn event(&mut self) -> HostEvent {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        event.expect("within the deadline").expect("the host runs")
    }

    /// Ends the host as belayd's end does.
    pub(crate) async fn end(self) {
        self.ending.cancel();
        self.task.await.expect("it ends in order");
        self.telling.await.expect("it ends in order");
    }

    /// Ends the host as a kill does: whatever is under way is dropped.
    pub(crate) fn drop_dead(self) {
        self.task.abort();
        self.telling.abort();
    }
}
