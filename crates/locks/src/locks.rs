//! The handle of a process on its locks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::chance::chance;
use crate::core::holder::Holder;
use crate::core::identity::Identity;
use crate::core::name::{self, Folder, LockName, LockSet};
use crate::core::poll::{Pauses, Tellings};
use crate::core::record::{Found, Record, Role};
use crate::directory::{Directories, Directory};
use crate::error::{AcquireError, BreakError, HeldError, Unusable};
use crate::guard::{Guard, Held};
use crate::kernel;
use crate::lock_file::{self, Absent, Attempt};
use crate::process::{self, Pidfd};
use crate::queue::{Queue, Turn};

/// How long a lock may take to be free once its holder has ended.
const FREED_WITHIN: Duration = Duration::from_secs(5);

/// How long a holder may take to end once it was killed.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Where locks lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// The runtime directory, on a file system that is empty after a boot.
    pub run: PathBuf,
    /// The state directory, which holds the instance lock itself: the lock is then the same
    /// whatever the directory is called, and whatever the runtime directory is.
    pub state: PathBuf,
}

/// What a lock is taken for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The operation, as in `deploy`.
    pub operation: String,
    /// What kind of program takes it.
    pub role: Role,
    /// Generation of the workload; 0 where there is none.
    pub generation: u64,
    /// What is done first.
    pub phase: String,
    /// How long that should take.
    pub deadline: Option<Duration>,
    /// More, for people.
    pub hint: String,
}

impl Claim {
    /// For an operation of this kind of program.
    pub fn new(role: Role, operation: &str) -> Self {
        Self {
            operation: operation.to_owned(),
            role,
            generation: 0,
            phase: String::new(),
            deadline: None,
            hint: String::new(),
        }
    }
}

/// What somebody who waits is told.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// For which lock.
    pub lock: &'a LockName,
    /// Who has it, in words.
    pub line: &'a str,
}

/// A lock that is held, or was left by an operation that was cut short.
#[derive(Debug, Clone)]
pub struct Look {
    /// What it locks; `None` when its file's name is a hash.
    pub name: Option<LockName>,
    /// The same in words.
    pub lock: String,
    /// The workload that it is about, where it is about one and that can be told.
    pub workload: Option<String>,
    /// Who has it; `None` when nobody has.
    pub holder: Option<Holder>,
    /// The record of an operation that was cut short under it, where nobody has it.
    pub before: Option<Box<Record>>,
    /// Who has it, or what was cut short, in words.
    pub line: String,
    /// Whether this process has it.
    pub own: bool,
}

/// How a lock came to be free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// Nobody held it.
    WasFree,
    /// Its holder ended when it was asked to.
    Ended {
        /// Who it was.
        pid: u32,
    },
    /// Its holder was killed.
    Killed {
        /// Who it was.
        pid: u32,
    },
}

/// Where one lock file lies.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) directory: Arc<Directory>,
    pub(crate) file: String,
}

/// The locks of a node, as one process uses them. Clones share their turns.
///
/// Waiting for a lock needs tokio's io and time drivers.
#[derive(Debug, Clone)]
pub struct Locks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Places,
    me: Identity,
    queue: Queue,
    opened: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    run: Option<Arc<Directories>>,
    state: Option<Arc<Directory>>,
}

impl Locks {
    /// Locks in these places. Nothing is touched yet.
    pub fn new(places: Places) -> Self {
        let opened = Mutex::default();
        Self(Arc::new(Inner { places, me: process::myself(), queue: Queue::default(), opened }))
    }

    /// Makes the directories in the runtime directory and shows that locks are kept there. Done by
    /// the first acquisition otherwise; what failed is tried again by each.
    pub fn prepare(&self) -> Result<(), Unusable> {
        self.directories().map(drop)
    }

    /// Takes locks, in their order, waiting for each as long as the patience lasts. `on_wait` hears
    /// who has the one that is waited for: at once, when that changes, and every 15 seconds.
    ///
    /// A caller that stops waiting has nothing and leaves nothing behind.
    pub async fn acquire(
        &self,
        set: &LockSet,
        claim: &Claim,
        patience: Duration,
        mut on_wait: impl FnMut(&Waiting<'_>) + Send,
    ) -> Result<Guard, AcquireError> {
        let registration = self.0.queue.register(set)?;
        let mut waiter = Waiter {
            locks: self,
            since: Instant::now(),
            patience,
            tellings: Tellings::default(),
            on_wait: &mut on_wait,
        };
        let mut held = Vec::new();
        for name in set.iter() {
            held.push(waiter.take(name).await?);
        }
        Ok(Guard::begin(held, set.clone(), &self.0.me, claim, registration))
    }

    /// Takes locks if all of them are free.
    pub fn try_acquire(&self, set: &LockSet, claim: &Claim) -> Result<Guard, AcquireError> {
        let registration = self.0.queue.register(set)?;
        let mut held = Vec::new();
        for name in set.iter() {
            let busy = || AcquireError::Held(Box::new(self.held_error(name, Duration::ZERO)));
            let turn = self.0.queue.line(name).try_lock_owned().map_err(|_| busy())?;
            held.push(self.attempt(name, turn)?.map_err(|_| busy())?);
        }
        Ok(Guard::begin(held, set.clone(), &self.0.me, claim, registration))
    }

    /// Tries one lock once; gives the turn back when somebody else has it.
    fn attempt(&self, name: &LockName, turn: Turn) -> Result<Result<Held, Turn>, Unusable> {
        let spot = self.spot(name)?;
        spot.directory.check_in_place()?;
        let path = || spot.directory.path().join(&spot.file);
        match lock_file::attempt(spot.directory.fd(), &spot.file, Absent::Make) {
            Ok(Attempt::Busy) => Ok(Err(turn)),
            Ok(Attempt::Got(file)) => {
                let before = file.read().map_err(Unusable::io(path()))?;
                Ok(Ok(Held::new(name.clone(), file, spot, before, turn)))
            }
            Err(error) => Err(Unusable::io(path())(error)),
        }
    }

    /// Who holds a lock; `None` when nobody does.
    pub fn holder(&self, name: &LockName) -> Result<Option<Holder>, Unusable> {
        self.holder_at(&self.spot(name)?, self.0.queue.has_turn(name))
    }

    /// Who holds a lock, in words.
    pub fn line(&self, holder: &Holder) -> String {
        holder.line(&process::moment(&self.0.me.boot_id))
    }

    fn holder_at(&self, spot: &Spot, own: bool) -> Result<Option<Holder>, Unusable> {
        let failed = |error| Unusable::io(spot.directory.path().join(&spot.file))(error);
        let Some(stat) = lock_file::stat(spot.directory.fd(), &spot.file).map_err(failed)? else {
            return Ok(None);
        };
        // The kernel's list is asked instead of the lock: to try it would refuse it to others.
        let kernel = kernel::flock_owner(&stat);
        if kernel.is_none() && !own {
            return Ok(None);
        }
        let found = lock_file::read(spot.directory.fd(), &spot.file).map_err(failed)?;
        Ok(Some(self.judge(found, kernel)))
    }

    fn judge(&self, found: Found, kernel: Option<u32>) -> Holder {
        let boot_id = &self.0.me.boot_id;
        let now = process::moment(boot_id);
        let alive = |record: &Record| process::is_alive(&record.identity(), boot_id);
        Holder::judge(found, &now, alive, kernel)
    }

    /// Who has a lock that was just refused.
    fn refuser(&self, name: &LockName) -> Holder {
        let own = self.0.queue.has_turn(name);
        let asked = self.spot(name).and_then(|spot| {
            let found = lock_file::read(spot.directory.fd(), &spot.file);
            let found = found.map_err(Unusable::io(spot.directory.path()))?;
            Ok(match self.holder_at(&spot, own)? {
                Some(holder) => holder,
                // The kernel does not list it for us, as from within another namespace.
                None => self.judge(found, None),
            })
        });
        asked.unwrap_or(Holder::Unnamed { pid: None })
    }

    fn held_error(&self, name: &LockName, waited: Duration) -> HeldError {
        let holder = self.refuser(name);
        let line = self.line(&holder);
        HeldError { lock: name.clone(), holder, line, waited }
    }

    /// Every lock that is held or was left by an operation that was cut short. No lock is tried.
    pub fn list(&self) -> Result<Vec<Look>, Unusable> {
        let directories = self.directories()?;
        let mut spots = vec![(
            Some(LockName::Instance),
            Spot { directory: self.state()?, file: LockName::Instance.file() },
        )];
        let gc = Spot { directory: Arc::clone(&directories.locks), file: LockName::Gc.file() };
        spots.push((Some(LockName::Gc), gc));
        for folder in [Folder::Volumes, Folder::Workloads] {
            let directory = directories.folder(folder);
            for file in directory.files()? {
                let lock = name::of_file(folder, &file);
                spots.push((lock, Spot { directory: Arc::clone(directory), file }));
            }
        }
        let mut looks = Vec::new();
        for (lock, spot) in spots {
            if let Some(look) = self.look(lock.as_ref(), &spot)? {
                looks.push(look);
            }
        }
        Ok(looks)
    }

    fn look(&self, lock: Option<&LockName>, spot: &Spot) -> Result<Option<Look>, Unusable> {
        let own = lock.is_some_and(|name| self.0.queue.has_turn(name));
        let holder = self.holder_at(spot, own)?;
        let found = lock_file::read(spot.directory.fd(), &spot.file)
            .map_err(Unusable::io(spot.directory.path().join(&spot.file)))?;
        let line = match (&holder, &found) {
            (Some(holder), _) => self.line(holder),
            (None, Found::Nothing) => return Ok(None),
            (None, Found::Unreadable) => crate::core::holder::interrupted_line(None, true),
            (None, Found::Record(record)) => {
                let dead = !process::is_alive(&record.identity(), &self.0.me.boot_id);
                crate::core::holder::interrupted_line(Some(record), dead)
            }
        };
        let before = match &found {
            Found::Record(record) if holder.is_none() => Some(record.clone()),
            Found::Record(_) | Found::Nothing | Found::Unreadable => None,
        };
        let in_words = match (lock, found) {
            (Some(lock), _) => lock.to_string(),
            (None, Found::Record(record)) => record.lock,
            (None, Found::Nothing | Found::Unreadable) => spot.file.clone(),
        };
        let workload = lock.and_then(LockName::about).map(str::to_owned);
        let name = lock.cloned();
        Ok(Some(Look { name, lock: in_words, workload, holder, before, line, own }))
    }

    /// Deletes the files of locks that belong to nothing, are free and have nothing to say. Gives
    /// their number; 0 when somebody else is at it.
    pub fn prune(&self, keep: &LockSet) -> Result<usize, AcquireError> {
        let mut claim = Claim::new(Role::Daemon, "prune");
        claim.deadline = Some(Duration::from_secs(10));
        let gc = match self.try_acquire(&LockSet::one(LockName::Gc), &claim) {
            Ok(gc) => gc,
            Err(AcquireError::Held(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let directories = self.directories()?;
        let mut pruned = 0;
        for folder in [Folder::Volumes, Folder::Workloads] {
            let directory = directories.folder(folder);
            for file in directory.files()? {
                let kept =
                    keep.iter().any(|name| folder_of(name) == Some(folder) && name.file() == file);
                if !kept && prune_one(directory, &file).map_err(Unusable::io(directory.path()))? {
                    pruned += 1;
                }
            }
        }
        gc.finish();
        Ok(pruned)
    }

    /// Ends the process that holds a lock: asked first, killed after `grace`. Only one that is shown
    /// to be the very process that took it is ever signalled.
    pub async fn break_lock(
        &self,
        name: &LockName,
        grace: Duration,
        mut on_step: impl FnMut(&str) + Send,
    ) -> Result<Broken, BreakError> {
        let spot = self.spot(name)?;
        if self.0.queue.has_turn(name) {
            return Err(BreakError::Own(name.clone()));
        }
        let Some(holder) = self.holder_at(&spot, false)? else { return Ok(Broken::WasFree) };
        let unproved = |locks: &Self| BreakError::Unproved {
            lock: name.clone(),
            line: locks.line(&holder),
            file: spot.directory.path().join(&spot.file),
        };
        let Some(record) = holder.record() else { return Err(unproved(self)) };
        let stat = lock_file::stat(spot.directory.fd(), &spot.file);
        let stat = stat.map_err(Unusable::io(spot.directory.path()))?;
        let kernel = stat.as_ref().and_then(kernel::flock_owner);
        if kernel != Some(record.pid) {
            return Err(unproved(self));
        }
        let Some(process) = Pidfd::open(&record.identity(), &self.0.me.boot_id) else {
            return Err(unproved(self));
        };
        let pid = record.pid;
        let signal = |signal| {
            let failed = |source| BreakError::Signal { lock: name.clone(), pid, source };
            process.signal(signal).map_err(failed)
        };
        on_step(&format!("asking {} to end", self.line(&holder)));
        signal(Signal::TERM)?;
        let mut broken = Broken::Ended { pid };
        if tokio::time::timeout(grace, process.ended()).await.is_err() {
            on_step(&format!("pid {pid} did not end within {} s; killing it", grace.as_secs()));
            signal(Signal::KILL)?;
            let killed = tokio::time::timeout(KILLED_WITHIN, process.ended()).await;
            killed.map_err(|_| BreakError::Survived { lock: name.clone(), pid })?;
            broken = Broken::Killed { pid };
        }
        let end = Instant::now() + FREED_WITHIN;
        let mut pauses = Pauses::default();
        while let Some(left) = self.holder_at(&spot, false)? {
            let same = left.record().is_some_and(|found| found.pid == pid);
            if same && Instant::now() >= end {
                return Err(unproved(self));
            }
            if !same {
                // Somebody else has it already.
                break;
            }
            tokio::time::sleep(pauses.next(chance())).await;
        }
        Ok(broken)
    }

    fn spot(&self, name: &LockName) -> Result<Spot, Unusable> {
        let directory = match (name, folder_of(name)) {
            (LockName::Instance, _) => self.state()?,
            (_, Some(folder)) => Arc::clone(self.directories()?.folder(folder)),
            (_, None) => Arc::clone(&self.directories()?.locks),
        };
        Ok(Spot { directory, file: name.file() })
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Opened> {
        // Nothing in here is half done when a thread panics.
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directories in the runtime directory. Once opened they are the same ones for ever: if
    /// they were made anew under those who hold locks, others would get the same locks beside them.
    fn directories(&self) -> Result<Arc<Directories>, Unusable> {
        let mut opened = self.opened();
        if let Some(directories) = &opened.run {
            directories.check_in_place()?;
            return Ok(Arc::clone(directories));
        }
        let directories = Arc::new(Directories::ensure(&self.0.places.run)?);
        opened.run = Some(Arc::clone(&directories));
        Ok(directories)
    }

    fn state(&self) -> Result<Arc<Directory>, Unusable> {
        let mut opened = self.opened();
        if let Some(state) = &opened.state {
            return Ok(Arc::clone(state));
        }
        let state = Directory::open(&self.0.places.state)?;
        state.test()?;
        let state = Arc::new(state);
        opened.state = Some(Arc::clone(&state));
        Ok(state)
    }

    /// The runtime directory that these locks lie in.
    pub fn run(&self) -> &Path {
        &self.0.places.run
    }
}

fn folder_of(name: &LockName) -> Option<Folder> {
    match name {
        LockName::Instance | LockName::Gc => None,
        LockName::Volume { .. } => Some(Folder::Volumes),
        LockName::Workload(_) => Some(Folder::Workloads),
    }
}

fn prune_one(directory: &Directory, file: &str) -> std::io::Result<bool> {
    let lock = match lock_file::attempt(directory.fd(), file, Absent::Leave) {
        Ok(Attempt::Got(lock)) => lock,
        Ok(Attempt::Busy) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if lock.read()? != Found::Nothing {
        return Ok(false);
    }
    // Under the file's own lock: whoever waits for it finds, once it is had, that it is not the
    // file there any more, and opens the next one.
    rustix::fs::unlinkat(directory.fd(), file, AtFlags::empty())?;
    Ok(true)
}

/// One caller on its way to a set of locks.
struct Waiter<'a, F> {
    locks: &'a Locks,
    since: Instant,
    patience: Duration,
    tellings: Tellings,
    on_wait: &'a mut F,
}

impl<F: FnMut(&Waiting<'_>) + Send> Waiter<'_, F> {
    async fn take(&mut self, name: &LockName) -> Result<Held, AcquireError> {
        let mut turn = self.turn(name).await?;
        let mut pauses = Pauses::default();
        let mut watched: Option<(u32, Option<Pidfd>)> = None;
        loop {
            turn = match self.locks.attempt(name, turn)? {
                Ok(held) => return Ok(held),
                Err(turn) => turn,
            };
            let holder = self.tell(name);
            let left = self.left(name)?;
            // Its end is felt at once; a lock that is let go of is noticed at the next try.
            if let Some(record) = holder.record()
                && watched.as_ref().is_none_or(|(pid, _)| *pid != record.pid)
            {
                let process = Pidfd::open(&record.identity(), &self.locks.0.me.boot_id);
                watched = Some((record.pid, process));
            }
            let pause = pauses.next(chance()).min(left);
            let ended = tokio::time::timeout(pause, async {
                match &watched {
                    Some((_, Some(process))) => process.ended().await,
                    Some((_, None)) | None => std::future::pending().await,
                }
            })
            .await
            .is_ok();
            if ended {
                // Felt once: a child of it may still hold the lock.
                watched = watched.map(|(pid, _)| (pid, None));
            }
        }
    }

    /// Stands in line behind the other tasks of this process.
    async fn turn(&mut self, name: &LockName) -> Result<Turn, AcquireError> {
        let line = self.locks.0.queue.line(name);
        if let Ok(turn) = Arc::clone(&line).try_lock_owned() {
            return Ok(turn);
        }
        let mut pauses = Pauses::default();
        let waiting = line.lock_owned();
        tokio::pin!(waiting);
        loop {
            self.tell(name);
            let pause = pauses.next(chance()).min(self.left(name)?);
            if let Ok(turn) = tokio::time::timeout(pause, &mut waiting).await {
                return Ok(turn);
            }
        }
    }

    fn tell(&mut self, name: &LockName) -> Holder {
        let holder = self.locks.refuser(name);
        if self.tellings.is_due(self.since.elapsed(), &holder.gist()) {
            let line = self.locks.line(&holder);
            (self.on_wait)(&Waiting { lock: name, line: &line });
        }
        holder
    }

    /// What is left of the patience, if anything is.
    fn left(&self, name: &LockName) -> Result<Duration, AcquireError> {
        let waited = self.since.elapsed();
        match self.patience.checked_sub(waited) {
            Some(left) if !left.is_zero() => Ok(left),
            Some(_) | None => {
                Err(AcquireError::Held(Box::new(self.locks.held_error(name, waited))))
            }
        }
    }
}
