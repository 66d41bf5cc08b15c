//! Holding back the writers of a volume for the moment of a clone, with a watchdog in a process of
//! its own that lets them go on when this process does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{major, minor};
use nix::unistd::syncfs;

use crate::core::mount_table::DeviceNumber;
use crate::error::IoFault;
use crate::ioctl;

/// How long a volume may stay frozen before the watchdog thaws it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait for the watchdog to be ready.
const START_PATIENCE: Duration = Duration::from_secs(5);

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
    volumes: &[&Freezable],
    work: impl FnOnce() -> T,
) -> Result<(T, Duration), (usize, FreezeFault)> {
    let mut guards = Vec::new();
    for (index, Freezable { mount, root }) in volumes.iter().enumerate() {
        // Most of what is to be written is written before anybody has to wait for it.
        let synced = syncfs(root).map_err(IoFault::on("sync", mount));
        let guard = synced.and_then(|()| Guard::start(watchdog, root));
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

struct Guard {
    child: Child,
    ended: bool,
}

impl Guard {
    fn start(watchdog: &Watchdog, root: &File) -> Result<Self, IoFault> {
        let program = &watchdog.program;
        let handle = root.try_clone().map_err(IoFault::on("share", program))?;
        let child = Command::new(program)
            .args(&watchdog.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(handle))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(IoFault::on("start the watchdog", program))?;
        let mut guard = Self { child, ended: false };
        guard.wait_until_ready().map_err(IoFault::on("await the watchdog", program))?;
        Ok(guard)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let pipe = self.child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if !wait_for(pipe.as_fd(), PollFlags::POLLIN, START_PATIENCE)?.contains(PollFlags::POLLIN) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut ready = [0];
        pipe.read_exact(&mut ready)
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

fn wait_for(pipe: BorrowedFd<'_>, flags: PollFlags, limit: Duration) -> io::Result<PollFlags> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(pipe, flags)];
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(polled[0].revents().unwrap_or(PollFlags::empty())),
        }
    }
}

/// What the watchdog's process does: it says that it is ready, waits until its starter is gone or
/// too slow, and thaws the file system that its standard input is on. Its starter ends it before.
pub fn thaw_watchdog() -> ExitCode {
    let root = io::stdin();
    let mut starter = io::stdout();
    if starter.write_all(b"r").and_then(|()| starter.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    // Nothing is ever read from the pipe again: what ends the wait is an error, or time.
    let _either = wait_for(starter.as_fd(), PollFlags::empty(), DEADLINE);
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
