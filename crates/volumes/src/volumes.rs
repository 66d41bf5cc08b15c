//! The handle on the volumes of one directory.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, oneshot};
use tokio::task::JoinError;

use crate::care::{CheckMode, CheckReport};
use crate::core::file_system::{Ext4Tools, Reserve, ext4_tools};
use crate::core::generation::GenerationName;
use crate::core::layout::Layout;
use crate::core::size::ByteSize;
use crate::core::spec::{MountedVolume, VolumeId, VolumeSpec};
use crate::core::status::{HostStatus, VolumeStatus};
use crate::error::{
    CareError, EnsureError, GenerationError, IoFault, ListError, OpenError, ReleaseError,
    RemoveError,
};
use crate::freeze::{Guards, Watchdog};
use crate::generation::{Cloning, Generation, MountedGeneration, Writers};
use crate::loop_device::{self, Minors};
use crate::pool::Provider;
use crate::tool::Subject;
use crate::{care, ensure, generation, image, observe, pool, release, status, tool};

/// How long an owner that is on its way out may take.
const OWNER_PATIENCE: Duration = Duration::from_secs(1);

/// Where volumes live and what they may take.
#[derive(Debug, Clone)]
pub struct VolumesConfig {
    /// The directory of all volumes, for example `/var/lib/belay/volumes`.
    pub root: PathBuf,
    /// Keeps all images in one xfs image of this size. Needed for clones where the host's file
    /// system has none; chosen before the first volume is made, because images are not moved.
    pub pool: Option<ByteSize>,
    /// What is kept free on the host when an image is allocated.
    pub keep_free: ByteSize,
    /// The share of an ext4 data volume, in percent, that its container cannot use and an update
    /// can. A system volume keeps at least a tenth.
    pub reserve_percent: u8,
    /// The user that the reserve is kept for. No process may run under it.
    pub reserve_uid: u32,
    /// Numbers of the loop devices that are added and removed here. Daemons may share a range.
    pub minors: Range<u32>,
    /// What thaws a volume when this process cannot. Without it a mounted volume is never frozen.
    pub watchdog: Option<Watchdog>,
    /// Extents of an image beyond which a mounted volume is not cloned. Cloning takes some 15 us for
    /// each, and the writers wait for it.
    pub extents_max: u32,
    /// How many operations run at once.
    pub parallel: usize,
    /// How long making a file system may take.
    pub make_limit: Duration,
    /// How long checking or growing a file system may take.
    pub check_limit: Duration,
}

impl VolumesConfig {
    /// The defaults, in this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            pool: None,
            keep_free: ByteSize::mib(64),
            reserve_percent: 5,
            reserve_uid: 4_200_000_000,
            minors: 4096..8192,
            watchdog: None,
            extents_max: 50_000,
            parallel: 8,
            make_limit: Duration::from_mins(2),
            check_limit: Duration::from_mins(10),
        }
    }
}

/// What an earlier run left and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Volumes found mounted; they stay so.
    pub mounted: Vec<VolumeId>,
    /// Volumes found mounted whose image was deleted: they end with their last user.
    pub deleted: Vec<VolumeId>,
    /// Volumes that were left frozen; their writers go on.
    pub thawed: Vec<VolumeId>,
    /// Loop devices that nothing used, detached and removed.
    pub detached: Vec<PathBuf>,
    /// Volumes that were never finished, or not wholly deleted, and clones that were being read, now
    /// gone.
    pub discarded: Vec<PathBuf>,
}

/// The volumes of one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

/// What every operation needs.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: VolumesConfig,
    pub(crate) layout: Layout,
    pub(crate) minors: Minors,
    pub(crate) runtime: Handle,
    pub(crate) ext4_tools: Ext4Tools,
    pub(crate) configured: Mutex<BTreeSet<VolumeId>>,
    /// Numbers of devices that could not be removed when their volume was released.
    pub(crate) lingering: Mutex<BTreeSet<u32>>,
    /// Watchdogs that wait for volumes to guard.
    pub(crate) guards: Guards,
    recovered: Recovered,
    locks: Mutex<HashMap<VolumeId, Arc<AsyncMutex<()>>>>,
    permits: Arc<Semaphore>,
    _owner: File,
}

impl Inner {
    /// What is kept back of this volume's file system.
    pub(crate) fn reserve_of(&self, spec: &VolumeSpec) -> Reserve {
        let percent = match spec.role {
            crate::VolumeRole::Data => self.config.reserve_percent,
            crate::VolumeRole::System => self.config.reserve_percent.max(10),
        };
        Reserve { percent: percent.min(50), uid: self.config.reserve_uid }
    }
}

impl Volumes {
    /// Takes the directory, clears away what an interrupted run left half done, and adopts what is
    /// mounted. Nothing that is mounted is touched.
    pub async fn open(config: VolumesConfig) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        blocking(move || Self::open_blocking(config, runtime)).await
    }

    fn open_blocking(config: VolumesConfig, runtime: Handle) -> Result<Self, OpenError> {
        if config.minors.is_empty() {
            return Err(OpenError::NoMinors);
        }
        loop_device::open_control().map_err(OpenError::NoLoopDevices)?;
        for tool in [tool::MKFS_EXT4, tool::E2FSCK, tool::RESIZE2FS] {
            tool.require()?;
        }
        let version = tool::run(
            &runtime,
            tool::MKFS_EXT4,
            &["-V".to_owned()],
            Subject::None,
            config.make_limit,
        )?;
        image::make_directory(&config.root, 0o711)?;
        let root = config.root.canonicalize().map_err(IoFault::on("resolve", &config.root))?;
        let layout = match config.pool {
            Some(_) => Layout::in_pool(root),
            None => Layout::new(root),
        };
        let owner = take(&layout)?;
        let minors = Minors::new(config.minors.clone());
        match config.pool {
            Some(size) => {
                let (layout, config, minors, runtime) = (&layout, &config, &minors, &runtime);
                Provider { layout, config, minors, runtime }.provide(size)?;
            }
            None => image::make_directory(layout.images(), 0o700)?,
        }
        image::make_directory(&layout.mounts(), 0o711)?;
        let recovered = observe::recover(&layout, &minors)?;
        Ok(Self {
            inner: Arc::new(Inner {
                layout,
                minors,
                runtime,
                ext4_tools: ext4_tools(&version.output),
                configured: Mutex::default(),
                lingering: Mutex::default(),
                guards: Guards::default(),
                recovered,
                locks: Mutex::default(),
                permits: Arc::new(Semaphore::new(config.parallel.max(1))),
                _owner: owner,
                config,
            }),
        })
    }

    /// What was found and done when the directory was opened.
    pub fn recovered(&self) -> &Recovered {
        &self.inner.recovered
    }

    /// The user that the reserve of every volume is kept for, as [`place`](crate::place) asks for.
    pub fn reserve_uid(&self) -> u32 {
        self.inner.config.reserve_uid
    }

    /// Says which volumes the workloads name. Those that exist beside them are shown as orphans.
    pub fn set_configured(&self, ids: BTreeSet<VolumeId>) {
        *self.inner.configured.lock().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    /// Brings the volume into being and mounts it, or finds that it is. An unclean file system is
    /// checked before it is mounted, and a larger size grows it.
    pub async fn ensure(&self, spec: &VolumeSpec) -> Result<MountedVolume, EnsureError> {
        let (id, spec) = (spec.id.clone(), spec.clone());
        let work = move |inner: &Inner| match ensure::ensure(inner, &spec) {
            Ok((mounted, settling)) => (Ok(mounted), settling),
            Err(error) => (Err(error), None),
        };
        self.exclusively_then(id, work, |inner, settling| {
            if let Some(settling) = settling {
                ensure::settle(inner, settling);
            }
        })
        .await
    }

    /// Unmounts the volume and confirms that the kernel no longer holds its image. The caller
    /// guarantees that no container uses it. Releasing a released volume succeeds.
    pub async fn release(&self, id: &VolumeId) -> Result<(), ReleaseError> {
        let id = id.clone();
        let work = {
            let id = id.clone();
            move |inner: &Inner| match release::release(inner, &id) {
                Ok(idle) => (Ok(()), idle),
                Err(error) => (Err(error), Vec::new()),
            }
        };
        self.exclusively_then(id, work, release::settle).await
    }

    /// Deletes the volume with its data. Refused while anything holds it; a volume that does not
    /// exist is no error.
    pub async fn remove(&self, id: &VolumeId) -> Result<(), RemoveError> {
        let id = id.clone();
        self.exclusively(id.clone(), move |inner| release::remove(inner, &id)).await
    }

    /// Every volume that exists here, mounted or not, in the order of ids.
    pub async fn list(&self) -> Result<Vec<VolumeStatus>, ListError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || status::list(&inner)).await.map_err(ListError)
    }

    /// The volumes that were listed before, with what changes by itself in those that are mounted:
    /// how full they are, errors, whether they refuse writes. That costs far less than a list. What
    /// else may have changed is seen by the next list; when something was mounted or unmounted
    /// since, this is one.
    pub async fn look_again(
        &self,
        before: Vec<VolumeStatus>,
    ) -> Result<Vec<VolumeStatus>, ListError> {
        let inner = Arc::clone(&self.inner);
        let looked = blocking(move || match status::again(&inner, before)? {
            Some(found) => Ok(found),
            None => status::list(&inner),
        });
        looked.await.map_err(ListError)
    }

    /// What the host's file system has and what the volumes were promised of it.
    pub async fn host(&self) -> Result<HostStatus, ListError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || status::host(&inner)).await.map_err(ListError)
    }

    /// Gives the free space of a thin, mounted volume back to the host; returns how much.
    pub async fn trim(&self, id: &VolumeId) -> Result<ByteSize, CareError> {
        let id = id.clone();
        self.exclusively(id.clone(), move |inner| care::trim(inner, &id)).await
    }

    /// Checks the file system of a released volume and keeps the result. Refused while anything
    /// holds it.
    pub async fn check(&self, id: &VolumeId, mode: CheckMode) -> Result<CheckReport, CareError> {
        let id = id.clone();
        self.exclusively(id.clone(), move |inner| care::check(inner, &id, mode)).await
    }

    /// Takes the image that lies in the volume's place for the volume's own, whoever made it. Its
    /// file system must be known, whole and without faults. Refused while anything holds it.
    pub async fn adopt(&self, id: &VolumeId) -> Result<(), CareError> {
        let id = id.clone();
        self.exclusively(id.clone(), move |inner| care::adopt(inner, &id)).await
    }

    /// Whether the file system under the images clones by reference.
    pub async fn cloning(&self) -> Result<Cloning, ListError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || generation::cloning(inner.layout.images())).await.map_err(ListError)
    }

    /// Keeps the volume's state of this moment under a name, and replaces what had the name. A
    /// mounted volume is frozen for it: its writers wait, and see nothing of it.
    ///
    /// # Panics
    /// Never: what is kept of one volume is one generation.
    pub async fn keep_generation(
        &self,
        id: &VolumeId,
        name: &GenerationName,
    ) -> Result<Generation, GenerationError> {
        let mut kept = self.keep_generations(BTreeSet::from([id.clone()]), name).await?;
        Ok(kept.pop().expect("each volume that was named was kept"))
    }

    /// Keeps the state that these volumes have at one moment under a name. The writers of those that
    /// are mounted wait together. In the order of ids.
    pub async fn keep_generations(
        &self,
        ids: BTreeSet<VolumeId>,
        name: &GenerationName,
    ) -> Result<Vec<Generation>, GenerationError> {
        let (all, name) = (ids.iter().cloned().collect::<Vec<_>>(), name.clone());
        let kept = move |inner: &Inner| generation::keep(inner, &all, &name, Writers::Anybody);
        self.all_exclusively(ids, kept).await
    }

    /// The same of volumes that nobody writes to, which takes less time. A write that reaches one of
    /// them meanwhile is noticed, and then writers are held back all the same.
    pub async fn keep_generations_at_rest(
        &self,
        ids: BTreeSet<VolumeId>,
        name: &GenerationName,
    ) -> Result<Vec<Generation>, GenerationError> {
        let (all, name) = (ids.iter().cloned().collect::<Vec<_>>(), name.clone());
        let kept = move |inner: &Inner| generation::keep(inner, &all, &name, Writers::Nobody);
        self.all_exclusively(ids, kept).await
    }

    /// Whether the state of these volumes can be kept now. What they have to write is written, so
    /// that keeping it is quick.
    pub async fn prepare_generations(
        &self,
        ids: BTreeSet<VolumeId>,
        name: &GenerationName,
    ) -> Result<(), GenerationError> {
        let (all, name) = (ids.iter().cloned().collect::<Vec<_>>(), name.clone());
        self.all_exclusively(ids, move |inner| generation::prepare(inner, &all, &name)).await
    }

    /// The generations kept of a volume.
    pub async fn generations(&self, id: &VolumeId) -> Result<Vec<GenerationName>, GenerationError> {
        let id = id.clone();
        self.exclusively(id.clone(), move |inner| generation::list(inner, &id)).await
    }

    /// Mounts a generation read-only.
    pub async fn mount_generation(
        &self,
        id: &VolumeId,
        name: &GenerationName,
    ) -> Result<MountedGeneration, GenerationError> {
        let (id, name) = (id.clone(), name.clone());
        self.exclusively(id.clone(), move |inner| generation::mount(inner, &id, &name)).await
    }

    /// Unmounts a generation.
    pub async fn unmount_generation(
        &self,
        id: &VolumeId,
        name: &GenerationName,
    ) -> Result<(), GenerationError> {
        let (id, name) = (id.clone(), name.clone());
        self.exclusively(id.clone(), move |inner| generation::unmount(inner, &id, &name)).await
    }

    /// Deletes a generation. Refused while it is mounted.
    pub async fn delete_generation(
        &self,
        id: &VolumeId,
        name: &GenerationName,
    ) -> Result<(), GenerationError> {
        let (id, name) = (id.clone(), name.clone());
        self.exclusively(id.clone(), move |inner| generation::delete(inner, &id, &name)).await
    }

    /// Puts a generation in the place of the volume's image, which becomes the generation. The
    /// volume must be released. Doing it again takes it back.
    pub async fn swap_generation(
        &self,
        id: &VolumeId,
        name: &GenerationName,
    ) -> Result<(), GenerationError> {
        let (id, name) = (id.clone(), name.clone());
        self.exclusively(id.clone(), move |inner| generation::swap(inner, &id, &name)).await
    }

    /// Unmounts the pool, for a host that gives up its volumes. Fails while any of them is mounted,
    /// and without a pool does nothing.
    pub async fn release_pool(&self) -> Result<(), ListError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || pool::release(&inner.layout, &inner.minors)).await.map_err(ListError)
    }

    /// Waits until no operation is under way, answered ones that are settling included.
    ///
    /// # Panics
    /// Never: the semaphore that it waits for is not closed.
    pub async fn idle(&self) {
        let all = u32::try_from(self.inner.config.parallel.max(1)).unwrap_or(u32::MAX);
        let _all = self
            .inner
            .permits
            .acquire_many(all)
            .await
            .expect("the semaphore lives as long as the handle and is never closed");
    }

    /// Runs one operation on a volume to its end, also when the caller does not wait for it.
    async fn exclusively<T: Send + 'static>(
        &self,
        id: VolumeId,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> T {
        self.exclusively_then(id, |inner| (work(inner), ()), |_, ()| {}).await
    }

    /// The same for several volumes at once.
    async fn all_exclusively<T: Send + 'static>(
        &self,
        ids: BTreeSet<VolumeId>,
        work: impl FnOnce(&Inner) -> T + Send + 'static,
    ) -> T {
        let mut turns = Vec::new();
        // In the order of ids, so that two of these do not wait for each other.
        for id in ids {
            turns.push(self.turn(id).await);
        }
        self.run_then(turns, |inner| (work(inner), ()), |_, ()| {}).await
    }

    /// Runs one operation on a volume, with work that comes after the answer. The next operation on
    /// the volume waits for that, too.
    async fn exclusively_then<T: Send + 'static, S: 'static>(
        &self,
        id: VolumeId,
        work: impl FnOnce(&Inner) -> (T, S) + Send + 'static,
        after: impl FnOnce(&Inner, S) + Send + 'static,
    ) -> T {
        let turn = self.turn(id).await;
        self.run_then(vec![turn], work, after).await
    }

    /// Waits until nothing else is done with this volume.
    async fn turn(&self, id: VolumeId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(id).or_default())
        };
        lock.lock_owned().await
    }

    async fn run_then<T: Send + 'static, S: 'static>(
        &self,
        turns: Vec<OwnedMutexGuard<()>>,
        work: impl FnOnce(&Inner) -> (T, S) + Send + 'static,
        after: impl FnOnce(&Inner, S) + Send + 'static,
    ) -> T {
        let permit = Arc::clone(&self.inner.permits)
            .acquire_owned()
            .await
            .expect("the semaphore lives as long as the handle and is never closed");
        let inner = Arc::clone(&self.inner);
        let (answer, answered) = oneshot::channel();
        let running = tokio::task::spawn_blocking(move || {
            // Given back in this order: who finds the volume free also finds the directory free.
            let held = (inner, turns, permit);
            let (done, rest) = work(&held.0);
            // A caller that is gone has no use for the answer; the work counts.
            let _unheard = answer.send(done);
            after(&held.0, rest);
        });
        match answered.await {
            Ok(done) => done,
            Err(_) => pass_on(running.await),
        }
    }
}

/// Passes on the panic of work that gave no answer.
fn pass_on<T>(ended: Result<(), JoinError>) -> T {
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Ok(()) | Err(Err(_)) => {
            unreachable!("work is cancelled only with the runtime, and then nobody waits")
        }
    }
}

/// Runs blocking work off the async threads, and passes a panic on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => {
                unreachable!("work is cancelled only with the runtime, and then nobody waits")
            }
        },
    }
}

/// Locks the directory for this process. The lock ends with the process, however it ends.
fn take(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(IoFault::on("open", &path))?;
    let deadline = Instant::now() + OWNER_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path }),
            Err(TryLockError::Error(error)) => {
                return Err(OpenError::Io(IoFault::new("lock", path, error)));
            }
        }
    }
}
