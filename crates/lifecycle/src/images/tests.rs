use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use belay_engine::{
    EngineError, ImageEntry, LoadError, Object, Operation, PullError, PullFault, PullProgress,
    RegistryCredentials,
};
use belay_events::{EventLog, EventsTask};
use belay_protocol::{
    Event, EventDetails, EventKind, EventQuery, EventSeq, EventStart, ImageRequest, ImagesStatus,
    LoadRequest, NodeStatus, OperationEvent, PruneRequest,
};
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::core::images::collection::Space;
use crate::core::record::{Declaration, Source, TABLE, WorkloadRecord};

const SOON: Duration = Duration::from_secs(20);

/// What a pull gives.
#[derive(Debug, Clone)]
enum Offer {
    Image(Box<Image>),
    Fault(PullFault),
}

#[derive(Debug)]
struct World {
    images: Vec<Image>,
    in_containers: Option<BTreeSet<String>>,
    offers: BTreeMap<String, Offer>,
    pulls: Vec<String>,
    removed: Vec<String>,
    /// Names whose removal fails.
    stuck: BTreeSet<String>,
    space: Space,
    /// Bytes that each removal gives back.
    freed: u64,
}

/// A store of images that does as it is told.
#[derive(Debug, Clone)]
struct Fake {
    world: Arc<Mutex<World>>,
    /// A pull ends only when it gets one of these.
    gate: Arc<Semaphore>,
}

impl Fake {
    fn new() -> Self {
        let world = World {
            images: Vec::new(),
            in_containers: Some(BTreeSet::new()),
            offers: BTreeMap::new(),
            pulls: Vec::new(),
            removed: Vec::new(),
            stuck: BTreeSet::new(),
            space: Space { free: 1 << 40, total: 2 << 40 },
            freed: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), gate: Arc::new(Semaphore::new(1000)) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics while it holds this")
    }

    fn offer(&self, reference: &str, id: &str) {
        let image = image(id, &[reference]);
        self.world().offers.insert(reference.to_owned(), Offer::Image(Box::new(image)));
    }
}

fn image(id: &str, names: &[&str]) -> Image {
    Image {
        id: id.to_owned(),
        tags: names.iter().map(|&name| name.to_owned()).collect(),
        digests: Vec::new(),
        user: None,
        command: Vec::new(),
        entrypoint: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        size: 10,
        architecture: "amd64".to_owned(),
    }
}

fn unreachable(object: Object) -> EngineError {
    let source = std::io::Error::other("no engine").into();
    EngineError::Unreachable { operation: Operation::List, object, source }
}

impl ImageStore for Fake {
    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let world = self.world();
        let found = world
            .images
            .iter()
            .find(|image| image.id == reference || image.tags.iter().any(|name| name == reference));
        Ok(found.cloned())
    }

    async fn images(&self) -> Result<Vec<ImageEntry>, EngineError> {
        let entry = |image: &Image| ImageEntry {
            id: image.id.clone(),
            tags: image.tags.clone(),
            digests: Vec::new(),
            size: image.size,
        };
        Ok(self.world().images.iter().map(entry).collect())
    }

    async fn in_containers(&self) -> Result<BTreeSet<String>, EngineError> {
        self.world().in_containers.clone().ok_or_else(|| unreachable(Object::Containers))
    }

    async fn pull(
        &self,
        reference: &str,
        credentials: Option<&RegistryCredentials>,
        _patience: PullPatience,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, PullError> {
        self.world().pulls.push(reference.to_owned());
        let half = PullProgress { layers: 2, layers_here: 1, bytes_done: 5, bytes_total: 10 };
        progress.send_replace(half);
        self.gate.acquire().await.expect("never closed").forget();
        let mut world = self.world();
        match world.offers.get(reference).cloned() {
            Some(Offer::Image(image)) => {
                for other in &mut world.images {
                    other.tags.retain(|name| !image.tags.contains(name));
                }
                world.images.retain(|other| other.id != image.id);
                world.images.push((*image).clone());
                Ok(*image)
            }
            offer => {
                let fault = match offer {
                    Some(Offer::Fault(fault)) => fault,
                    Some(Offer::Image(_)) | None => PullFault::NotFound,
                };
                // An engine that repeats what it should not.
                let detail =
                    format!("refused {credentials:?} {:?}", credentials.map(|c| &c.password));
                Err(PullError::Refused { reference: reference.to_owned(), fault, detail })
            }
        }
    }

    async fn load(&self, path: &Path) -> Result<Image, LoadError> {
        let name = format!("localhost/belay/{}", path.file_name().expect("a file").display());
        self.world().pulls.push(path.display().to_string());
        self.gate.acquire().await.expect("never closed").forget();
        let loaded = image("loaded", &[&name]);
        let mut world = self.world();
        if !world.images.iter().any(|image| image.id == loaded.id) {
            world.images.push(loaded.clone());
        }
        Ok(loaded)
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let mut world = self.world();
        if world.stuck.contains(name) {
            return Err(unreachable(Object::Image(name.to_owned())));
        }
        world.removed.push(name.to_owned());
        let freed = world.freed;
        world.space.free += freed;
        world.images.retain_mut(|image| {
            let named = image.tags.iter().any(|tag| tag == name);
            image.tags.retain(|tag| tag != name);
            image.id != name && !(named && image.tags.is_empty())
        });
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        "/var/lib/containers/storage".into()
    }

    fn architecture(&self) -> String {
        "amd64".to_owned()
    }

    async fn space(&self) -> std::io::Result<Space> {
        Ok(self.world().space)
    }
}

/// A task over a fake store, with a real ledger.
struct Scene {
    fake: Fake,
    directory: tempfile::TempDir,
    ledger: Ledger,
    handle: ImagesHandle,
    status: watch::Receiver<Arc<NodeStatus>>,
    log: EventLog,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    /// Ends after the task, which tells of its own end.
    telling: (CancellationToken, JoinHandle<()>),
}

impl Scene {
    async fn new() -> Self {
        Self::with(Fake::new(), |_| {}).await
    }

    async fn with(fake: Fake, change: impl FnOnce(&mut ImagesConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (ledger, _) = Ledger::open(&directory.path().join("belay.db")).expect("a ledger");
        Self::over(fake, directory, ledger, change).await
    }

    async fn over(
        fake: Fake,
        directory: tempfile::TempDir,
        ledger: Ledger,
        change: impl FnOnce(&mut ImagesConfig),
    ) -> Self {
        let mut config = ImagesConfig {
            patience: PullPatience::default(),
            floor: 100,
            marks: Marks { low_bytes: 0, low_percent: 0, high_bytes: 1000, high_percent: 0 },
            rules: Rules { keep: 1, grace: Duration::from_hours(1) },
            logins: Vec::new(),
            auth_file: None,
        };
        change(&mut config);
        let (board, status) = StatusBoard::new("node".parse().expect("a name"));
        let (shutdown, ending) = (CancellationToken::new(), CancellationToken::new());
        let (events, log, telling) = EventsTask::spawn(&ledger, ending.clone());
        let (store, own) = (fake.clone(), ledger.clone());
        let (handle, task) =
            ImagesTask::spawn(store, own, events, board, config, shutdown.clone()).await;
        let telling = (ending, telling);
        Self { fake, directory, ledger, handle, status, log, shutdown, task, telling }
    }

    fn want(workload: &str, reference: &str) -> Want {
        Want {
            workload: workload.parse().expect("a name"),
            source: ImageSource::Registry(reference.to_owned()),
            policy: PullPolicy::Missing,
            auth_file: None,
            exact: None,
            urgency: Urgency::Own,
        }
    }

    async fn fetch(&self, want: Want) -> Result<Fetched, Problem> {
        let fetch = self.handle.fetch(want, Progress::unheard());
        tokio::time::timeout(SOON, fetch).await.expect("an answer")
    }

    /// Brings an image and has a workload use it.
    async fn run_on(&self, workload: &str, reference: &str, id: &str) {
        self.fake.offer(reference, id);
        let mut want = Self::want(workload, reference);
        want.policy = PullPolicy::Always;
        let fetched = self.fetch(want).await.expect("had");
        assert_eq!(fetched.image.id, id);
        self.handle.used(&workload.parse().expect("a name"), id);
    }

    /// Writes a record of a workload, as its task does.
    async fn know(&self, workload: &str, reference: &str, image: Option<&str>) {
        let declaration = Declaration {
            spec: format!("name = \"{workload}\"\nimage = \"{reference}\"\n"),
            file: "w.toml".into(),
            directory: "/".into(),
            source: Source::Api,
        };
        let mut record = WorkloadRecord::first(declaration);
        record.image =
            image.map(|id| crate::core::record::ImageInForce { id: id.to_owned(), digest: None });
        self.ledger.put(TABLE, workload, &record).await.expect("written");
    }

    async fn act(&self, act: ImageAct) -> (Vec<String>, Result<String, Problem>) {
        let (sender, mut events) = mpsc::channel(64);
        self.handle.act(act, Reporter::new(sender));
        let mut lines = Vec::new();
        loop {
            let event = tokio::time::timeout(SOON, events.recv()).await.expect("an answer");
            match event.expect("an end") {
                OperationEvent::Progress(step) => {
                    lines.push(format!("{}: {}", step.step, step.detail));
                }
                OperationEvent::Done(outcome) => return (lines, Ok(outcome.summary)),
                OperationEvent::Failed(problem) => return (lines, Err(problem)),
            }
        }
    }

    async fn prune(&self, dry_run: bool) -> (Vec<String>, Result<String, Problem>) {
        self.act(ImageAct::Prune(PruneRequest { dry_run })).await
    }

    fn held(&self) -> Vec<String> {
        let mut ids: Vec<_> =
            self.fake.world().images.iter().map(|image| image.id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    async fn shown(&mut self, what: impl Fn(&ImagesStatus) -> bool) -> ImagesStatus {
        let mut status = self.status.clone();
        let shown = status.wait_for(|status| status.images.as_ref().is_some_and(&what));
        let shown = tokio::time::timeout(SOON, shown).await.expect("shown in time");
        shown.expect("the board lives").images.clone().expect("there are images")
    }

    async fn end(self) -> (Fake, tempfile::TempDir, Ledger) {
        self.shutdown.cancel();
        self.task.await.expect("it ends well");
        let (ending, telling) = self.telling;
        ending.cancel();
        telling.await.expect("the events end well");
        (self.fake, self.directory, self.ledger)
    }
}

/// What was told, once there are so many.
async fn told(log: &EventLog, count: usize) -> Vec<Event> {
    let everything = async {
        let mut tally = log.tally();
        let query = EventQuery {
            start: EventStart::After(EventSeq::START),
            workload: None,
            kinds: Vec::new(),
            limit: 100,
        };
        loop {
            let page = log.read(&query).await.expect("read");
            if page.events.len() >= count {
                return page.events;
            }
            tally.changed().await.expect("events are written");
        }
    };
    tokio::time::timeout(SOON, everything).await.expect("told in time")
}

async fn until(what: &str, held: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !held() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pin(image: &str) -> ImageRequest {
    ImageRequest { image: image.to_owned() }
}

#[tokio::test]
async fn two_workloads_that_want_one_image_cost_one_pull() {
    let fake = Fake { gate: Arc::new(Semaphore::new(0)), ..Fake::new() };
    fake.offer("r/app:1", "a");
    let mut scene = Scene::with(fake, |_| {}).await;
    let (one, two) = (scene.handle.clone(), scene.handle.clone());
    let one =
        tokio::spawn(
            async move { one.fetch(Scene::want("one", "r/app:1"), Progress::unheard()).await },
        );
    let (sender, mut events) = mpsc::channel(16);
    let two = tokio::spawn(async move {
        let progress = Reporter::new(sender).progress_end();
        two.fetch(Scene::want("two", "r/app:1"), progress).await
    });
    let pull = scene.shown(|images| images.pulls.iter().any(|pull| pull.layers == 2)).await;
    assert_eq!((pull.pulls[0].image.as_str(), pull.pulls[0].done_bytes), ("r/app:1", 5));
    let heard = tokio::time::timeout(SOON, async {
        loop {
            if let Some(OperationEvent::Progress(step)) = events.recv().await
                && step.done_bytes == Some(5)
            {
                return step.detail;
            }
        }
    });
    assert_eq!(heard.await.expect("progress is passed on"), "1 of 2 layers");
    scene.fake.gate.add_permits(1);
    for fetched in [one, two] {
        let fetched = tokio::time::timeout(SOON, fetched).await.expect("in time");
        assert_eq!(fetched.expect("no panic").expect("had").image.id, "a");
    }
    assert_eq!(scene.fake.world().pulls, ["r/app:1"]);
    scene.end().await;
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_is_ended() {
    let fake = Fake { gate: Arc::new(Semaphore::new(0)), ..Fake::new() };
    fake.offer("r/app:1", "a");
    let mut scene = Scene::with(fake, |_| {}).await;
    let handle = scene.handle.clone();
    let waiting = tokio::spawn(async move {
        drop(handle.fetch(Scene::want("web", "r/app:1"), Progress::unheard()).await);
    });
    scene.shown(|images| !images.pulls.is_empty()).await;
    waiting.abort();
    scene.shown(|images| images.pulls.is_empty()).await;
    scene.fake.gate.add_permits(10);
    let again = scene.fetch(Scene::want("web", "r/app:1")).await.expect("a later one works");
    assert_eq!(again.image.id, "a");
    assert_eq!(scene.fake.world().pulls.len(), 2);
    scene.end().await;
}

#[tokio::test]
async fn pulls_and_removals_are_told_of_by_the_name_that_specs_use() {
    use EventKind::{ImagePullBegun, ImagePullEnded, ImagePullFailed, ImagePulled, ImageRemoved};
    let fake = Fake { gate: Arc::new(Semaphore::new(0)), ..Fake::new() };
    let mut scene = Scene::with(fake, |_| {}).await;
    scene.fake.world().offers.insert("r/app:1".into(), Offer::Fault(PullFault::Network));
    scene.fake.gate.add_permits(1);
    scene.fetch(Scene::want("web", "r/app:1")).await.expect_err("away");
    scene.fake.offer("r/app:1", "a");
    scene.fake.gate.add_permits(1);
    let mut operator = Scene::want("web", "r/app:1");
    operator.urgency = Urgency::Operator;
    drop(scene.fetch(operator).await.expect("had"));
    scene.prune(false).await.1.expect("removed");
    // Loads are no pulls, and what is on the host already is told of by nobody.
    scene.fake.gate.add_permits(1);
    scene.act(ImageAct::Load(LoadRequest { file: "/srv/page.tar".into() })).await.1.expect("done");
    let handle = scene.handle.clone();
    let unwanted = tokio::spawn(async move {
        drop(handle.fetch(Scene::want("web", "r/slow:1"), Progress::unheard()).await);
    });
    scene.shown(|images| images.pulls.iter().any(|pull| pull.image == "r/slow:1")).await;
    unwanted.abort();

    let told = told(&scene.log, 7).await;
    let kinds: Vec<_> = told.iter().map(|event| event.details.kind()).collect();
    let pulled = [ImagePullBegun, ImagePullFailed, ImagePullBegun, ImagePulled];
    assert_eq!(kinds[..4], pulled);
    assert_eq!(kinds[4..], [ImageRemoved, ImagePullBegun, ImagePullEnded]);
    let subjects: Vec<_> = told.iter().map(|event| event.subject.to_string()).collect();
    assert_eq!(subjects[..5], ["image r/app:1"; 5]);
    assert_eq!(subjects[5..], ["image r/slow:1"; 2]);
    let EventDetails::ImagePullFailed { code, failures, delay_ms, .. } = &told[1].details else {
        panic!("{told:?}")
    };
    assert_eq!((code.as_str(), *failures), ("registry-unreachable", 1));
    assert!(*delay_ms > 0, "{told:?}");
    let EventDetails::ImageRemoved { id, bytes, by } = &told[4].details else { panic!("{told:?}") };
    let by_operator = belay_protocol::event::ImageRemoved::Operator;
    assert_eq!((id.as_str(), *bytes, *by), ("a", 10, by_operator));
    assert!(told[6].message.as_str().ends_with("nobody wants it any more"), "{told:?}");
    scene.end().await;
}

#[tokio::test]
async fn failures_hold_belayd_back_for_all_and_never_an_operator() {
    let scene = Scene::new().await;
    scene.fake.world().offers.insert("r/app:1".into(), Offer::Fault(PullFault::Network));
    let first = scene.fetch(Scene::want("one", "r/app:1")).await.expect_err("away");
    assert_eq!(first.code, ProblemCode::RegistryUnreachable);
    assert!(first.detail.starts_with("one: cannot pull image r/app:1: "), "{}", first.detail);
    let second = scene.fetch(Scene::want("two", "r/app:1")).await.expect_err("held back");
    assert_eq!(second.code, ProblemCode::RegistryUnreachable);
    assert!(second.detail.contains("two: ") && second.detail.contains("not tried again for"));
    assert_eq!(scene.fake.world().pulls.len(), 1, "two workloads, one try");

    scene.fake.offer("r/app:1", "a");
    let mut operator = Scene::want("two", "r/app:1");
    operator.urgency = Urgency::Operator;
    assert_eq!(scene.fetch(operator).await.expect("at once").image.id, "a");
    assert_eq!(scene.fetch(Scene::want("one", "r/app:1")).await.expect("there").image.id, "a");
    scene.end().await;
}

#[tokio::test]
async fn what_is_on_the_host_serves_while_the_registry_is_away() {
    let mut scene = Scene::new().await;
    scene.run_on("web", "r/app:1", "a").await;
    scene.fake.world().offers.insert("r/app:1".into(), Offer::Fault(PullFault::Network));
    for _ in 0..2 {
        let mut want = Scene::want("web", "r/app:1");
        want.policy = PullPolicy::Always;
        let (sender, mut events) = mpsc::channel(16);
        let progress = Reporter::new(sender).progress_end();
        let fetched = scene.handle.fetch(want, progress).await.expect("falls back");
        assert_eq!(fetched.image.id, "a");
        let mut said = Vec::new();
        while let Ok(OperationEvent::Progress(step)) = events.try_recv() {
            said.push(step.detail);
        }
        assert!(said.iter().any(|text| text.starts_with("using the one on this host")), "{said:?}");
    }
    assert_eq!(scene.fake.world().pulls.len(), 2, "the second waits for its turn");
    let waiting = scene.shown(|images| !images.pulls.is_empty()).await;
    assert!(waiting.pulls[0].next_try_at.is_some() && waiting.pulls[0].failures == 1);

    // What runs is started again on the very image, whatever its name points at by now.
    let mut exact = Scene::want("web", "r/app:1");
    exact.exact = Some("a".into());
    scene.fake.world().images[0].tags.clear();
    assert_eq!(scene.fetch(exact).await.expect("by id").image.id, "a");
    let mut never = Scene::want("web", "r/other:1");
    never.policy = PullPolicy::Never;
    let problem = scene.fetch(never).await.expect_err("is not there");
    assert!(problem.detail.ends_with("is not on this host and pull is never"), "{problem:?}");
    scene.end().await;
}

#[tokio::test]
async fn no_pull_begins_below_the_floor_and_what_nobody_needs_goes_first() {
    let scene = Scene::new().await;
    scene.run_on("gone", "r/old:1", "old").await;
    scene.fake.offer("r/app:1", "a");
    {
        let mut world = scene.fake.world();
        (world.space.free, world.space.total, world.freed) = (50, 10_000, 20);
    }
    let problem = scene.fetch(Scene::want("web", "r/app:1")).await.expect_err("too little");
    assert_eq!(problem.code, ProblemCode::ImageStorageFull);
    assert_eq!(
        problem.detail,
        "web: image r/app:1 is not pulled: /var/lib/containers/storage has 90 free of 10000, and \
         a pull begins only with 100 free"
    );
    assert_eq!(scene.held(), [""; 0], "what nobody needed was removed for it");
    scene.fake.world().space.free = 100;
    scene.fetch(Scene::want("web", "r/app:1")).await.expect("room enough");
    scene.end().await;
}

#[tokio::test]
async fn a_prune_removes_what_its_dry_run_names_and_nothing_of_anybody_else() {
    let mut scene = Scene::new().await;
    scene.fake.world().images.push(image("foreign", &["docker.io/library/alpine:3"]));
    scene.fake.world().images.push(image("theirs", &["r/theirs:1"]));
    for (reference, id) in [("r/web:1", "w1"), ("r/web:2", "w2"), ("r/web:3", "w3")] {
        scene.run_on("web", reference, id).await;
    }
    scene.run_on("old", "r/old:1", "o1").await;
    scene.run_on("old", "r/kept:1", "o2").await;
    scene.run_on("old", "r/run:1", "o3").await;
    // Pulled by an operator before, and again by belayd: still theirs.
    scene.run_on("old", "r/theirs:1", "theirs").await;
    scene.know("web", "r/web:3", Some("w3")).await;
    scene.act(ImageAct::Pin(pin("r/kept:1"))).await.1.expect("pinned");
    scene.fake.world().in_containers = Some(BTreeSet::from(["o3".to_owned(), "w3".to_owned()]));
    let shown = scene.shown(|images| images.images.len() == 6).await;
    let stays =
        |id: &str| shown.images.iter().find(|image| image.id == id).expect("shown").stays.clone();
    assert_eq!(stays("o2").as_deref(), Some("it is pinned"));
    assert_eq!(shown.foreign, 2);

    let (would, dry) = scene.prune(true).await;
    assert_eq!(would, ["would remove: r/web:1 (10)", "would remove: r/old:1 (10)"]);
    assert_eq!(
        dry.expect("decided"),
        "2 images of 20 with the layers that they share would be removed; nothing was changed"
    );
    assert_eq!(scene.held().len(), 8);
    let (did, real) = scene.prune(false).await;
    assert_eq!(did, ["remove: r/web:1 (10)", "remove: r/old:1 (10)"]);
    assert_eq!(real.expect("done"), "2 images of 20 with the layers that they share removed");
    assert_eq!(scene.held(), ["foreign", "o2", "o3", "theirs", "w2", "w3"]);

    let (_, again) = scene.prune(false).await;
    assert!(again.expect("done").starts_with("0 images"), "it is idempotent");
    scene.fake.world().in_containers = None;
    let problem = scene.prune(false).await.1.expect_err("unknown");
    assert_eq!(problem.detail, "nothing is removed: the engine does not list its containers");
    scene.end().await;
}

#[tokio::test]
async fn a_collection_that_was_cut_short_is_gone_on_with_by_the_next_belayd() {
    let scene = Scene::new().await;
    let two_names = Offer::Image(Box::new(image("a", &["r/a:1", "r/a:2"])));
    scene.fake.world().offers.insert("r/a:1".into(), two_names);
    scene.fetch(Scene::want("gone", "r/a:1")).await.expect("had");
    scene.run_on("gone", "r/b:1", "b").await;
    scene.fake.world().stuck.insert("r/a:2".into());
    let (lines, done) = scene.prune(false).await;
    assert!(lines.iter().any(|line| line.starts_with("not removed: a: ")), "{lines:?}");
    assert!(done.expect("the other went").starts_with("1 image"));
    assert_eq!(scene.held(), ["a"]);
    assert_eq!(scene.fake.world().images[0].tags, ["r/a:2"], "one of its names is gone");

    let (fake, directory, ledger) = scene.end().await;
    fake.world().stuck.clear();
    let scene = Scene::over(fake, directory, ledger, |_| {}).await;
    // A name that somebody gave meanwhile holds it.
    scene.fake.world().images[0].tags.push("r/a:mine".into());
    assert!(scene.prune(false).await.1.expect("done").starts_with("0 images"));
    scene.fake.world().images[0].tags.pop();
    assert!(scene.prune(false).await.1.expect("done").starts_with("1 image"));
    assert_eq!(scene.held(), [""; 0]);
    scene.end().await;
}

#[tokio::test]
async fn an_image_that_came_while_belayd_died_is_known_for_its_own() {
    let fake = Fake::new();
    fake.world().images = vec![image("before", &["r/old:1"]), image("came", &["r/app:1"])];
    let directory = tempfile::tempdir().expect("a directory");
    let (ledger, _) = Ledger::open(&directory.path().join("belay.db")).expect("a ledger");
    let before = BTreeSet::from(["before".to_owned()]);
    for source in ["r/app:1", "r/old:1", "r/never:1"] {
        let intent = FetchIntent { before: before.clone() };
        ledger.put(FETCHES, source, &intent).await.expect("written");
    }
    let mut scene = Scene::over(fake, directory, ledger, |_| {}).await;
    let shown = scene.shown(|images| !images.images.is_empty()).await;
    let ids: Vec<_> = shown.images.iter().map(|image| image.id.as_str()).collect();
    assert_eq!((ids, shown.foreign), (vec!["came"], 1));
    let left = scene.ledger.load::<FetchIntent>(FETCHES).await.expect("read");
    assert!(left.records.is_empty(), "each is settled once");
    scene.end().await;
}

#[tokio::test]
async fn a_leased_image_stays_until_the_lease_is_let_go() {
    let scene = Scene::new().await;
    scene.fake.offer("r/app:1", "a");
    let fetched = scene.fetch(Scene::want("web", "r/app:1")).await.expect("had");
    assert!(scene.prune(false).await.1.expect("done").starts_with("0 images"));
    let problem = scene.act(ImageAct::Remove(pin("r/app:1"))).await.1.expect_err("leased");
    assert_eq!(problem.code, ProblemCode::ImageInUse);
    assert_eq!(problem.detail, "r/app:1 is not removed: it is about to be used");
    drop(fetched);
    assert!(scene.prune(false).await.1.expect("done").starts_with("1 image"));
    scene.end().await;
}

#[tokio::test]
async fn superseded_images_are_tidied_up_after_deploys() {
    let fake = Fake::new();
    let scene = Scene::with(fake, |config| config.rules.grace = Duration::ZERO).await;
    scene.know("web", "r/web:1", None).await;
    for id in ["w1", "w2", "w3"] {
        scene.run_on("web", "r/web:1", id).await;
    }
    // A turn of the task is caused by anything that is asked of it.
    scene.act(ImageAct::Pin(pin("r/web:1"))).await.1.expect("pinned");
    until("the oldest to be gone", || scene.held() == ["w2", "w3"]).await;
    scene.end().await;
}

#[tokio::test]
async fn secrets_reach_the_engine_and_nobody_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let password = directory.path().join("password");
    std::fs::write(&password, "hunter2\n").expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(&password, mode(0o600)).expect("set");
    let login = RegistryLogin {
        server: "r.example".into(),
        username: "me".into(),
        password_file: password.clone(),
    };
    let mut scene = Scene::with(Fake::new(), |config| config.logins.push(login)).await;
    scene.fake.world().offers.insert("r.example/app:1".into(), Offer::Fault(PullFault::Denied));
    let problem = scene.fetch(Scene::want("web", "r.example/app:1")).await.expect_err("denied");
    assert_eq!(problem.code, ProblemCode::ImageDenied);
    assert!(problem.detail.contains("***"), "the engine had it: {}", problem.detail);
    assert!(problem.next.contains(&password.display().to_string()), "{}", problem.next);
    let shown = scene.shown(|images| !images.pulls.is_empty()).await;
    for said in [format!("{problem:?}"), format!("{shown:?}")] {
        assert!(!said.contains("hunter2"), "{said}");
    }
    let ledger = std::fs::read(scene.directory.path().join("belay.db")).expect("read");
    assert!(!ledger.windows(7).any(|part| part == b"hunter2"));

    std::fs::set_permissions(&password, mode(0o644)).expect("set");
    let mut operator = Scene::want("web", "r.example/app:1");
    operator.urgency = Urgency::Operator;
    let problem = scene.fetch(operator).await.expect_err("exposed");
    assert_eq!(problem.code, ProblemCode::RegistryCredentials);
    assert!(problem.detail.contains("can be read by every user of this host"), "{problem:?}");
    assert_eq!(scene.fake.world().pulls.len(), 1, "the registry was not asked");
    scene.end().await;
}

#[tokio::test]
async fn an_image_that_is_not_what_was_wanted_is_refused() {
    let scene = Scene::new().await;
    let mut foreign = image("arm", &["r/arm:1"]);
    foreign.architecture = "mips".into();
    let digest = format!("sha256:{}", "a".repeat(64));
    let pinned = format!("r/pinned@{digest}");
    {
        let mut world = scene.fake.world();
        world.offers.insert("r/arm:1".into(), Offer::Image(Box::new(foreign)));
        world.offers.insert(pinned.clone(), Offer::Image(Box::new(image("other", &[]))));
    }
    for (reference, code, words) in [
        ("r/arm:1", ProblemCode::ImageArchitecture, "is built for mips, this machine is amd64"),
        (&pinned, ProblemCode::ImageDigestMismatch, "with other digests"),
        ("R/x", ProblemCode::InvalidImageReference, "capital letters"),
    ] {
        let problem = scene.fetch(Scene::want("web", reference)).await.expect_err(reference);
        assert_eq!(problem.code, code);
        assert!(problem.detail.contains(words), "{}", problem.detail);
    }
    let mut right = image("right", &[]);
    right.digests.push(format!("r/pinned@{digest}"));
    scene.fake.world().offers.insert(pinned.clone(), Offer::Image(Box::new(right)));
    let fetched = scene.fetch(Scene::want("web", &pinned)).await.expect("the right one");
    assert_eq!(fetched.digest, Some(digest));
    scene.end().await;
}

#[tokio::test]
async fn what_an_operator_loads_is_pinned_and_removed_only_after_an_unpin() {
    let scene = Scene::new().await;
    let load = |file: &str| ImageAct::Load(LoadRequest { file: file.to_owned() });
    let problem = scene.act(load("page.tar")).await.1.expect_err("relative");
    assert_eq!(problem.code, ProblemCode::InvalidRequest);
    let done = scene.act(load("/srv/page.tar")).await.1.expect("loaded");
    assert_eq!(done, "loaded as localhost/belay/page.tar (image loaded) and pinned");
    assert!(scene.prune(false).await.1.expect("done").starts_with("0 images"));
    let name = "localhost/belay/page.tar";
    let problem = scene.act(ImageAct::Remove(pin(name))).await.1.expect_err("pinned");
    assert_eq!(problem.next, format!("belay image unpin {name}"));
    scene.act(ImageAct::Unpin(pin(name))).await.1.expect("unpinned");
    scene.act(ImageAct::Remove(pin(name))).await.1.expect("removed");
    assert_eq!(scene.held(), [""; 0]);

    scene.fake.world().images.push(image("theirs", &["r/theirs:1"]));
    for act in [ImageAct::Pin, ImageAct::Unpin, ImageAct::Remove] {
        let problem = scene.act(act(pin("r/theirs:1"))).await.1.expect_err("not ours");
        assert_eq!(problem.code, ProblemCode::NoSuchImage);
        assert_eq!(
            problem.detail,
            "belayd brought no image r/theirs:1 to this host; others it never removes"
        );
    }
    scene.end().await;
}
