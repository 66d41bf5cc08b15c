//! Holding back the writers of a volume for the moment of a clone, with a watchdog in a process of
//! its own that lets them go on when this process does not.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{major, minor};
use nix::unistd::syncfs;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::core::mount_table::DeviceNumber;
use crate::error::IoFault;
use crate::ioctl;

/// How long a volume may stay frozen before the watchdog thaws it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait for the watchdog to be ready.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long a watchdog waits for a volume to guard: longer than a container takes to stop.
const IDLE: Duration = Duration::from_mins(2);

/// Most watchdogs that are started in advance.
const READY_MAX: usize = 8;

/// How long a watchdog goes on trying: a freeze that was under way may complete late.
const PERSISTENCE: Duration = Duration::from_secs(30);

/// How the watchdog is started: a program whose `main` calls [`thaw_watchdog`] when it is given
/// these arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// An absolute path; `/proc/self/exe` is this program itself.
    pub program: PathBuf,
    /// What makes it the watchdog.
    pub arguments: Vec<String>,
}

/// Why a volume was not frozen, or not to the end.
#[derive(Debug)]
pub(crate) enum FreezeFault {
    Io(IoFault),
    NotItsDevice,
    TooLong,
}

impl From<IoFault> for FreezeFault {
    fn from(fault: IoFault) -> Self {
        Self::Io(fault)
    }
}

/// The root of a mounted volume that is on the device it should be on.
#[derive(Debug)]
pub(crate) struct Freezable {
    pub(crate) mount: PathBuf,
    pub(crate) root: File,
}

/// Opens the root of a mounted volume and confirms that it is on this loop device: a freeze of
/// another file system could stop the host.
pub(crate) fn open_root(mount: &Path, device: u32) -> Result<Freezable, FreezeFault> {
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(mount)
        .map_err(IoFault::on("open", mount))?;
    let on = root.metadata().map_err(IoFault::on("query", mount))?.dev();
    let ours = DeviceNumber::of_loop(device);
    if major(on) == u64::from(ours.major) && minor(on) == u64::from(ours.minor) {
        Ok(Freezable { mount: mount.to_owned(), root })
    } else {
        Err(FreezeFault::NotItsDevice)
    }
}

/// Runs work while nothing writes to any of these volumes, and returns how long that was. When a
/// watchdog had to step in, what the work saw was not of one moment, and that is an error. Errors
/// say at which of the volumes they occurred.
pub(crate) fn while_frozen<T>(
    watchdog: &Watchdog,
    ready: &Guards,
    volumes: &[&Freezable],
    work: impl FnOnce() -> T,
) -> Result<(T, Duration), (usize, FreezeFault)> {
    let mut guards = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        // Most of what is to be written is written before anybody has to wait for it.
        let synced = syncfs(&volume.root).map_err(IoFault::on("sync", &volume.mount));
        let guard = synced.and_then(|()| ready.guard(watchdog, volume));
        guards.push(guard.map_err(|fault| (index, fault.into()))?);
    }
    let began = Instant::now();
    let mut frozen = 0;
    let mut fault = None;
    for (index, Freezable { mount, root }) in volumes.iter().enumerate() {
        match ioctl::freeze(root).map_err(IoFault::on("freeze", mount)) {
            Ok(()) => frozen += 1,
            Err(source) => {
                fault = Some((index, source.into()));
                break;
            }
        }
    }
    let done = if fault.is_none() { Some(work()) } else { None };
    // Each is thawed, whatever came of the others.
    for (index, Freezable { mount, root }) in volumes.iter().enumerate().take(frozen).rev() {
        let thawed = match ioctl::thaw(root) {
            Ok(()) => continue,
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                FreezeFault::TooLong
            }
            Err(error) => IoFault::new("thaw", mount, error).into(),
        };
        fault.get_or_insert((index, thawed));
    }
    let stall = began.elapsed();
    for (index, guard) in guards.iter_mut().enumerate() {
        if guard.end() {
            fault.get_or_insert((index, FreezeFault::TooLong));
        }
    }
    match (fault, done) {
        (None, Some(done)) => Ok((done, stall)),
        (Some(fault), _) => Err(fault),
        (None, None) => unreachable!("the work is left out after a fault alone"),
    }
}

/// Lets the writers of a volume go on that a killed daemon left frozen.
pub(crate) fn thaw_leftover(mount: &Path, device: u32) -> bool {
    open_root(mount, device).is_ok_and(|opened| ioctl::thaw(&opened.root).is_ok())
}

/// A watchdog in its process. It guards nothing until it is given the volume.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    /// A word each way, and the volume to it. It also tells it that this process is gone.
    line: UnixStream,
    ended: bool,
}

impl Guard {
    /// Starts one. That takes a program to be loaded, and is done before anybody waits.
    pub(crate) fn start(watchdog: &Watchdog) -> Result<Self, IoFault> {
        let program = &watchdog.program;
        let started = || {
            let (line, theirs) = UnixStream::pair()?;
            let child = Command::new(program)
                .args(&watchdog.arguments)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Ok::<_, io::Error>(Self { child, line, ended: false })
        };
        let mut guard = started().map_err(IoFault::on("start the watchdog", program))?;
        guard.hear().map_err(IoFault::on("await the watchdog", program))?;
        Ok(guard)
    }

    /// Whether it can still be given a volume.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Gives it the volume that it guards from now on.
    fn arm(&mut self, root: &File) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut handed = SendAncillaryBuffer::new(&mut space);
        let handles = [root.as_fd()];
        if !handed.push(SendAncillaryMessage::ScmRights(&handles)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(&self.line, &[IoSlice::new(b"g")], &mut handed, SendFlags::NOSIGNAL)?;
        self.hear()
    }

    /// Waits for a word of it.
    fn hear(&mut self) -> io::Result<()> {
        if !wait_for(self.line.as_fd(), PollFlags::POLLIN, START_PATIENCE)?
            .contains(PollFlags::POLLIN)
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.line.read_exact(&mut [0])
    }

    /// Ends the watchdog and tells whether it had thawed the volume.
    fn end(&mut self) -> bool {
        self.ended = true;
        let acted = self.child.try_wait().is_ok_and(|status| status.is_some());
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
        acted
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// Watchdogs that were started before anybody waits for them.
#[derive(Debug, Default)]
pub(crate) struct Guards(Mutex<Vec<Guard>>);

impl Guards {
    /// Sees to it that so many are ready, no more than [`READY_MAX`].
    pub(crate) fn prepare(&self, watchdog: &Watchdog, count: usize) -> Result<(), IoFault> {
        let mut ready = self.taken();
        ready.retain_mut(Guard::is_ready);
        ready.truncate(READY_MAX);
        while ready.len() < count.min(READY_MAX) {
            ready.push(Guard::start(watchdog)?);
        }
        self.ready().extend(ready);
        Ok(())
    }

    /// Has this volume guarded by one that is ready, or by a new one.
    fn guard(&self, watchdog: &Watchdog, volume: &Freezable) -> Result<Guard, IoFault> {
        loop {
            let ready = self.ready().pop();
            let is_last = ready.is_none();
            let mut guard = ready.map_or_else(|| Guard::start(watchdog), Ok)?;
            match guard.arm(&volume.root) {
                Ok(()) => return Ok(guard),
                Err(error) if is_last => {
                    return Err(IoFault::new("arm the watchdog of", &volume.mount, error));
                }
                // It waited too long for a volume, and has ended.
                Err(_) => {}
            }
        }
    }

    fn taken(&self) -> Vec<Guard> {
        std::mem::take(&mut self.ready())
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Guard>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

fn wait_for(line: BorrowedFd<'_>, flags: PollFlags, limit: Duration) -> io::Result<PollFlags> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(line, flags)];
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(polled[0].revents().unwrap_or(PollFlags::empty())),
        }
    }
}

/// What the watchdog's process does: it says that it is ready and waits for the volume, says that it
/// has it and waits until its starter is gone or too slow, and then thaws it. Its starter ends it
/// before. Its standard input is the line to its starter; if no volume comes it ends by itself.
pub fn thaw_watchdog() -> ExitCode {
    let Ok(line) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut line = UnixStream::from(line);
    let root = match line.write_all(b"r").and_then(|()| given(&line)) {
        Ok(Some(root)) => root,
        Ok(None) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    };
    // Who does not hear this does not freeze, or is gone after it: then the wait is over at once.
    let _heard = line.write_all(b"g");
    // Nothing more ever comes: what ends the wait is its end, or time.
    let _either = wait_for(line.as_fd(), PollFlags::empty(), DEADLINE);
    let give_up = Instant::now() + PERSISTENCE;
    while Instant::now() < give_up {
        if ioctl::thaw(&root).is_ok() {
            return ExitCode::SUCCESS;
        }
        // Not frozen: not yet, or not any more.
        std::thread::sleep(Duration::from_millis(20));
    }
    ExitCode::FAILURE
}

/// The volume that the starter gives; none if it is gone, or takes too long.
fn given(line: &UnixStream) -> io::Result<Option<File>> {
    if !wait_for(line.as_fd(), PollFlags::POLLIN, IDLE)?.contains(PollFlags::POLLIN) {
        return Ok(None);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut handed = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let mut words = [IoSliceMut::new(&mut word)];
    rustix::net::recvmsg(line, &mut words, &mut handed, RecvFlags::CMSG_CLOEXEC)?;
    let root = handed.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut handles) => handles.next(),
        _ => None,
    });
    Ok(root.map(File::from))
}
