//! A workload without a container: volumes in a temporary directory, a window that keeps count.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{SyncRole, SyncStatus, VolumeName};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::{
    AnswerPlace, App, CloneAnswer, CloneRefused, ControlVolume, FoundState, MountPoint, NodeKey,
    OfflineWindow, PublishCommand, Ready, SyncHandle, SyncLayout, SyncNode, SyncSpec, VolumeClones,
    Window, WindowClosed, WindowOutcome, WindowPurpose, WindowRefused, spawn,
};
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; reached only by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Volumes of the usual workload: one inside the other, as their containers see them.
pub(crate) const VOLUMES: [(&str, &str); 2] = [("app", "/app"), ("data", "/app/data")];

/// The directories of one node's workload.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    /// What its host clones: nothing, unless a test gives it something.
    pub(crate) clones: FakeClones,
}

impl Place {
    /// One that is there already.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), clones: FakeClones::new(root) }
    }

    pub(crate) fn new(root: &Path, volumes: &[(&str, &str)]) -> Self {
        let place = Self::at(root);
        for (name, _) in volumes {
            fs::create_dir_all(place.data(name)).expect("creates a volume");
        }
        fs::create_dir_all(place.control()).expect("creates a control volume");
        place
    }

    pub(crate) fn data(&self, volume: &str) -> PathBuf {
        self.root.join("volumes").join(volume).join("data")
    }

    pub(crate) fn private(&self, volume: &str) -> PathBuf {
        self.root.join("volumes").join(volume).join(".belay")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("system/data")
    }

    pub(crate) fn sync_file(&self, name: &str) -> PathBuf {
        self.control().join("volume-sync").join(name)
    }

    pub(crate) fn key(&self) -> NodeKey {
        NodeKey::new(&self.root)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn layout(&self, volumes: &[(&str, &str)]) -> SyncLayout {
        let mount = |(name, path): &(&str, &str)| MountPoint {
            volume: name.parse().expect("a volume name"),
            container_path: (*path).to_owned(),
            data: self.data(name),
            private: self.private(name),
            size: 64 * 1024 * 1024,
        };
        SyncLayout {
            mounts: volumes.iter().map(mount).collect(),
            control: ControlVolume {
                data: self.control(),
                container_path: "/belay".to_owned(),
                answers: Arc::new(PlainAnswers { private: self.root.clone() }),
            },
            clones: Arc::new(self.clones.clone()),
        }
    }

    /// Writes a request the way a careful app does.
    pub(crate) fn request(&self, body: &Value) {
        let next = self.sync_file("next");
        fs::write(&next, body.to_string()).expect("writes a request");
        fs::rename(&next, self.sync_file("request.json")).expect("hands a request in");
    }

    pub(crate) fn json(&self, name: &str) -> Option<Value> {
        let text = fs::read_to_string(self.sync_file(name)).ok()?;
        Some(serde_json::from_str(&text).expect("a result is never seen half-written"))
    }
}

/// Puts answers where a plain write can, which is all that a directory needs.
#[derive(Debug)]
struct PlainAnswers {
    private: PathBuf,
}

impl AnswerPlace for PlainAnswers {
    fn place(&self, directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
        let next = self.private.join("answer");
        fs::write(&next, content)?;
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644))?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(next, format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?;
        fs::File::from(directory.try_clone_to_owned()?).sync_all()
    }
}

/// Clones that are copies, where a test wants any.
#[derive(Debug, Clone)]
pub(crate) struct FakeClones {
    root: PathBuf,
    state: Arc<Mutex<Clones>>,
}

/// What the fake clones were made to do, and what they refuse.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    pub(crate) events: Vec<String>,
    pub(crate) host: CloningHost,
    /// Is called when clones were taken.
    pub(crate) taken: Option<fn(&Path)>,
}

/// How far clones get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CloningHost {
    #[default]
    Refuses,
    RefusesToTake,
    RefusesToOpen,
    Clones,
}

impl FakeClones {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), state: Arc::default() }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Clones) -> T) -> T {
        work(&mut self.state.lock().expect("no test panics while it holds this"))
    }

    fn kept(&self, volume: &VolumeName) -> PathBuf {
        self.root.join("clones").join(volume.as_str())
    }

    fn answer<T: Send + 'static>(
        &self,
        event: &str,
        refusing: &[CloningHost],
        done: impl FnOnce() -> T,
    ) -> CloneAnswer<T> {
        let refuses = self.with(|clones| {
            clones.events.push(event.to_owned());
            refusing.contains(&clones.host)
        });
        let reason = format!("{event} is refused");
        let answer = if refuses { Err(CloneRefused { reason }) } else { Ok(done()) };
        Box::pin(std::future::ready(answer))
    }
}

fn names(volumes: &[VolumeName]) -> String {
    volumes.iter().map(VolumeName::as_str).collect::<Vec<_>>().join(" ")
}

impl VolumeClones for FakeClones {
    fn prepare(&self, volumes: Vec<VolumeName>) -> CloneAnswer<()> {
        self.answer(&format!("prepare {}", names(&volumes)), &[CloningHost::Refuses], || ())
    }

    fn take(&self, volumes: Vec<VolumeName>, _: App) -> CloneAnswer<()> {
        let refusing = [CloningHost::Refuses, CloningHost::RefusesToTake];
        self.answer(&format!("take {}", names(&volumes)), &refusing, || {
            for volume in &volumes {
                let kept = self.kept(volume);
                fs::create_dir_all(&kept).expect("creates");
                let data = self.root.join("volumes").join(volume.as_str()).join("data");
                let copied =
                    std::process::Command::new("/bin/cp").arg("-a").args([&data, &kept]).status();
                assert!(copied.expect("cp runs").success());
            }
            if let Some(taken) = self.with(|clones| clones.taken) {
                taken(&self.root);
            }
        })
    }

    fn open(&self, volume: VolumeName) -> CloneAnswer<PathBuf> {
        let refusing = [CloningHost::RefusesToOpen];
        self.answer(&format!("open {volume}"), &refusing, || self.kept(&volume).join("data"))
    }

    fn discard(&self, volume: VolumeName) -> CloneAnswer<()> {
        self.answer(&format!("discard {volume}"), &[], || {
            let kept = self.kept(&volume);
            if kept.exists() {
                fs::remove_dir_all(kept).expect("removes");
            }
        })
    }
}

/// What the fake container was made to do, and what it does next.
#[derive(Debug, Default)]
pub(crate) struct Container {
    pub(crate) events: Vec<String>,
    pub(crate) refuse: Option<WindowRefused>,
    /// How often it refused.
    pub(crate) refused: u32,
    pub(crate) last_act: Option<LastAct>,
    pub(crate) halted: bool,
    /// Set where the workload was not ready before.
    pub(crate) unready_before: bool,
    /// Set where its container did not run.
    pub(crate) down: bool,
    /// What it does on content that is applied; ready unless told.
    pub(crate) on_applied: Option<Ready>,
    /// What it is, when it is asked.
    pub(crate) now: Now,
    /// What the engine waits for before it starts it again.
    pub(crate) starts: Option<Arc<Notify>>,
    /// What it waits for before it is up again.
    pub(crate) comes_up: Option<Arc<Notify>>,
}

/// What the fake container says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) enum Now {
    #[default]
    Ready,
    Said(Option<Ready>),
}

/// The last that the app does before it is stopped.
#[derive(Debug, Clone)]
pub(crate) struct LastAct {
    pub(crate) act: fn(&Path),
    pub(crate) on: PathBuf,
}

#[derive(Clone, Default)]
pub(crate) struct FakeWindow(pub(crate) Arc<Mutex<Container>>);

impl FakeWindow {
    pub(crate) fn note(&self, event: impl Into<String>) {
        self.0.lock().expect("no test panics while it holds this").events.push(event.into());
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().expect("no test panics while it holds this").events.clone()
    }
}

impl OfflineWindow for FakeWindow {
    async fn open(&self, purpose: WindowPurpose) -> Result<Window, WindowRefused> {
        {
            let mut container = self.0.lock().expect("not poisoned");
            if let Some(refused) = container.refuse.clone() {
                container.refused += 1;
                return Err(refused);
            }
        }
        let last_act = self.0.lock().expect("not poisoned").last_act.clone();
        if let Some(LastAct { act, on }) = last_act {
            act(&on);
        }
        self.note(match purpose {
            WindowPurpose::Publish { .. } => "stop for publish",
            WindowPurpose::Beside => "look on",
            WindowPurpose::Apply { .. } => "stop for apply",
        });
        let found = {
            let container = self.0.lock().expect("not poisoned");
            match (container.down, container.unready_before) {
                (true, _) => FoundState::Stopped,
                (false, true) => FoundState::Running,
                (false, false) => FoundState::Ready,
            }
        };
        let (window, owner) = Window::pair(found);
        let this = self.clone();
        tokio::spawn(async move {
            let (outcome, mut reply) = owner.closed().await;
            let starts = this.0.lock().expect("not poisoned").starts.clone();
            if let Some(starts) = starts {
                starts.notified().await;
            }
            reply.started();
            let comes_up = this.0.lock().expect("not poisoned").comes_up.clone();
            if let Some(comes_up) = comes_up {
                comes_up.notified().await;
            }
            let ready = match outcome {
                WindowOutcome::Unchanged => {
                    this.note(match purpose {
                        WindowPurpose::Beside => "look away",
                        WindowPurpose::Publish { .. } | WindowPurpose::Apply { .. } => {
                            "start unchanged"
                        }
                    });
                    Ready::Ready
                }
                WindowOutcome::Applied { .. } => {
                    this.note("start applied");
                    let container = this.0.lock().expect("not poisoned");
                    container.on_applied.clone().unwrap_or(Ready::Ready)
                }
                WindowOutcome::TakenBack { .. } => {
                    this.note("start as before");
                    Ready::Ready
                }
                WindowOutcome::Uncertain { .. } => {
                    this.note("stay down");
                    this.0.lock().expect("not poisoned").halted = true;
                    Ready::NotStarted
                }
            };
            let downtime = match purpose {
                WindowPurpose::Beside => Duration::ZERO,
                WindowPurpose::Publish { .. } | WindowPurpose::Apply { .. } => {
                    Duration::from_millis(7)
                }
            };
            reply.send(Ok(WindowClosed { found, ready, downtime }));
        });
        Ok(window)
    }

    async fn readiness(&self) -> Option<Ready> {
        let now = self.0.lock().expect("not poisoned").now.clone();
        match now {
            Now::Ready => Some(Ready::Ready),
            Now::Said(said) => said,
        }
    }
}

/// What a workload says that does not serve.
pub(crate) fn unready() -> Ready {
    Ready::NotReady { reason: "3 of 3 answers were bad".to_owned() }
}

/// A running sync task.
pub(crate) struct Running {
    pub(crate) handle: SyncHandle,
    pub(crate) window: FakeWindow,
    layout: watch::Sender<Option<SyncLayout>>,
    shutdown: CancellationToken,
    join: JoinHandle<()>,
}

/// Both forms in which a tree is published.
pub(crate) const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::Tree, ArchiveFormat::TarGz];

pub(crate) fn spec(role: SyncRole) -> SyncSpec {
    SyncSpec {
        poll_interval: Duration::from_millis(200),
        min_publish_interval: Duration::ZERO,
        request_grace: Duration::from_millis(300),
        retire_grace: Duration::ZERO,
        // A test that sweeps says so.
        sweep_grace: Duration::from_hours(24),
        ..SyncSpec::new(role, "models".parse().expect("a key"))
    }
}

pub(crate) fn start_with(
    place: &Place,
    volumes: &[(&str, &str)],
    store: &Path,
    spec: SyncSpec,
) -> Running {
    start_on(place, volumes, LocalStore::open(store).expect("opens the store"), spec)
}

pub(crate) fn start_on<S: BlobStore + RecordStore>(
    place: &Place,
    volumes: &[(&str, &str)],
    store: S,
    spec: SyncSpec,
) -> Running {
    start_named("node-a", place, volumes, store, spec)
}

/// The same workload on a node of this name.
pub(crate) fn start_named<S: BlobStore + RecordStore>(
    node: &str,
    place: &Place,
    volumes: &[(&str, &str)],
    store: S,
    spec: SyncSpec,
) -> Running {
    let window = FakeWindow::default();
    let (layout, seen) = watch::channel(Some(place.layout(volumes)));
    let shutdown = CancellationToken::new();
    let (handle, join) = spawn(
        "app".parse().expect("a workload name"),
        SyncNode { id: node.parse().expect("a node name"), key: place.key() },
        spec,
        &place.state(),
        Arc::new(store),
        seen,
        window.clone(),
        shutdown.clone(),
    )
    .expect("spawns");
    Running { handle, window, layout, shutdown, join }
}

pub(crate) fn start(place: &Place, store: &Path, role: SyncRole) -> Running {
    start_with(place, &VOLUMES, store, spec(role))
}

/// A provider in this form.
pub(crate) fn provide_as(place: &Place, store: &Path, format: ArchiveFormat) -> Running {
    start_with(place, &VOLUMES, store, SyncSpec { format, ..spec(SyncRole::Provider) })
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.join)
            .await
            .expect("the task ends in time")
            .expect("the task does not panic");
        drop(self.layout);
    }

    /// Makes the task look now, and returns once it has.
    pub(crate) async fn looked(&self) {
        self.handle.check();
        // Commands are taken one after the other, and this one is refused without any work.
        let nowhere =
            PublishCommand { archive_paths: vec!["nowhere".to_owned()], metadata: Map::new() };
        self.handle.publish(nowhere).await.expect_err("no one publishes that");
    }

    pub(crate) fn set_layout(&self, layout: Option<SyncLayout>) {
        self.layout.send_replace(layout);
    }

    pub(crate) async fn status(
        &self,
        what: &str,
        mut wanted: impl FnMut(&SyncStatus) -> bool,
    ) -> SyncStatus {
        let mut status = self.handle.status();
        let seen = tokio::time::timeout(DEADLINE, status.wait_for(|status| wanted(status))).await;
        match seen {
            Ok(Ok(status)) => status.clone(),
            _ => panic!("{what}: {:#?}", self.handle.status().borrow().clone()),
        }
    }
}

/// Polls until `found` finds something.
pub(crate) async fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything under a directory that travels, by relative path. The names of a file that are told are
/// those in the directory: while two states lie in a volume, both may have the file.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    let (mut found, mut files) = (BTreeMap::new(), BTreeMap::<u64, Vec<String>>::new());
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).expect("a listed entry exists");
        let relative = path.strip_prefix(root).expect("below").display().to_string();
        let mode = metadata.permissions().mode() & 0o7777;
        let time = (metadata.mtime(), metadata.mtime_nsec());
        let shown = if metadata.is_symlink() {
            format!("link to {}", fs::read_link(&path).expect("reads").display())
        } else if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("lists").map(|e| e.expect("reads").path()));
            format!("dir {mode:o} {time:?}")
        } else if metadata.is_file() {
            let content = fs::read(&path).expect("reads");
            let hash = blake3::hash(&content).to_hex();
            files.entry(metadata.ino()).or_default().push(relative.clone());
            format!("file {mode:o} {time:?} {}", &hash[..8])
        } else {
            "special".to_owned()
        };
        found.insert(relative, shown);
    }
    for names in files.into_values() {
        for name in &names {
            let shown = found.get_mut(name).expect("was found");
            write!(shown, " links {}", names.len()).expect("writes into memory");
        }
    }
    found
}

/// What the two usual volumes hold.
pub(crate) type State = Vec<BTreeMap<String, String>>;

/// The trees of the two usual volumes together, but for the directory that the inner one hides.
pub(crate) fn trees(place: &Place) -> State {
    let mut trees: Vec<_> = VOLUMES.iter().map(|(name, _)| tree(&place.data(name))).collect();
    assert!(trees[0].remove("data").is_some(), "the outer volume keeps a mount point");
    trees
}

/// A state that a mix with another can be told from: every volume says which it is.
pub(crate) fn fill(place: &Place, state: &str) {
    for (name, _) in VOLUMES {
        let data = place.data(name);
        for entry in fs::read_dir(&data).expect("lists") {
            let path = entry.expect("reads").path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                .expect("clears");
        }
        fs::create_dir(data.join("sub")).expect("creates");
        fs::write(data.join("state"), state).expect("writes");
        fs::write(data.join("sub").join(state), vec![b'x'; 100_000]).expect("writes");
        // The same in every state, which a consumer may take from the one before.
        fs::write(data.join("always"), vec![b'a'; 50_000]).expect("writes");
        let always = fs::File::options().write(true).open(data.join("always")).expect("opens");
        always.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1)).expect("sets");
    }
    // The outer volume keeps the place where the inner one is mounted.
    fs::create_dir(place.data("app").join("data")).expect("creates");
}
