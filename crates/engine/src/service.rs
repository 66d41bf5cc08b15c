//! Our own `podman system service`, for machines where nobody else runs one.
//!
//! Podman has no daemon: containers live on without the service, which only answers the API. So it
//! may be started, lost and ended at any time. It must not outlive belayd, not even after a
//! `kill -9`: `setpriv` arms the kernel's parent death signal before it becomes podman. That signal
//! comes when the *thread* ends that started the process, which is why one thread does nothing else
//! for as long as the service is wanted.

mod process;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::core::restart::ServiceBackoff;
use process::{Process, make_way};

/// The program. Never searched for: belayd is root.
pub(crate) const PODMAN: &str = "/usr/bin/podman";
/// Arms the parent death signal.
pub(crate) const SETPRIV: &str = "/usr/bin/setpriv";
/// Name of the socket in the runtime directory.
const SOCKET: &str = "podman.sock";

/// Why the service cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A program that it needs is not there.
    #[error("{program} is not installed; install the package {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package.
        package: &'static str,
    },
    /// Somebody else listens on our socket.
    #[error("{socket} belongs to process {pid}, whose parent {parent} lives")]
    SocketTaken {
        /// The socket.
        socket: PathBuf,
        /// Who listens.
        pid: i32,
        /// Whose child that is.
        parent: i32,
    },
    /// The socket path cannot be used.
    #[error("cannot use the socket {socket}")]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread or the process cannot be made.
    #[error("cannot start {what}")]
    Spawn {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The socket did not come free.
    #[error("the service before it has not ended within {after:?}")]
    NotStarted {
        /// The time given.
        after: Duration,
    },
    /// It ended before it answered.
    #[error("it ended at once: {why}")]
    Died {
        /// Exit status and its last words.
        why: String,
    },
}

impl ServiceError {
    /// Whether it may work later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::SocketTaken { .. } => false,
            Self::Socket { .. }
            | Self::Spawn { .. }
            | Self::NotStarted { .. }
            | Self::Died { .. } => true,
        }
    }
}

/// How the service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceStatus {
    /// About to be started for the first time.
    Starting,
    /// The process runs.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// It died or could not be started, and will be started again.
    Down {
        /// Exit status and its last words.
        why: String,
        /// Deaths in a row.
        deaths: u32,
        /// Pause before the next start.
        retry_in: Duration,
    },
    /// Ended for good.
    Ended,
}

/// A running service of ours. Dropping it asks the service to end and does not wait;
/// [`PodmanService::shutdown`] waits.
#[derive(Debug)]
pub struct PodmanService {
    socket: PathBuf,
    control: Arc<Control>,
    status: watch::Receiver<ServiceStatus>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<ControlState>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct ControlState {
    /// The process, as long as it has not been reaped: a signal cannot meet a successor in its id.
    pid: Option<Pid>,
    ending: bool,
}

impl PodmanService {
    /// Starts the service on `podman.sock` in this directory. That the service answers yet is not
    /// promised.
    pub(crate) fn start(runtime_dir: &Path) -> Result<Self, ServiceError> {
        for (program, package) in [(PODMAN, "podman"), (SETPRIV, "util-linux")] {
            if !Path::new(program).exists() {
                return Err(ServiceError::Missing { program, package });
            }
        }
        let socket = runtime_dir.join(SOCKET);
        let control = Arc::new(Control::default());
        let (tell, status) = watch::channel(ServiceStatus::Starting);
        let thread = {
            let (socket, control) = (socket.clone(), Arc::clone(&control));
            std::thread::Builder::new()
                .name("podman-service".to_owned())
                .spawn(move || keep_running(&socket, &control, &tell))
                .map_err(|source| ServiceError::Spawn { what: "a thread", source })?
        };
        Ok(Self { socket, control, status, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How it is, now and later.
    pub fn status(&self) -> watch::Receiver<ServiceStatus> {
        self.status.clone()
    }

    /// Ends the service: asks with `SIGTERM`, kills after `grace`, waits until it is gone.
    /// Containers run on.
    pub async fn shutdown(mut self, grace: Duration) {
        self.control.end();
        let gone = self.status.wait_for(|status| *status == ServiceStatus::Ended);
        if tokio::time::timeout(grace, gone).await.is_err() {
            tracing::warn!(?grace, "the Podman service did not end when asked; it is killed");
            self.control.signal(Signal::SIGKILL);
        }
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the thread of the Podman service panicked");
            }
        }
    }
}

impl Drop for PodmanService {
    fn drop(&mut self) {
        self.control.end();
    }
}

impl Control {
    fn end(&self) {
        self.lock().ending = true;
        self.wake.notify_all();
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.lock().pid {
            // It can be dead and not reaped, which is as good.
            let _ = kill(pid, signal);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ControlState> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Waits, unless the end comes first.
    fn pause(&self, delay: Duration) {
        let waiting = self.wake.wait_timeout_while(self.lock(), delay, |state| !state.ending);
        drop(waiting.expect("no holder of this lock can panic"));
    }
}

/// The thread: start, wait for the end, pause, again.
fn keep_running(socket: &Path, control: &Control, tell: &watch::Sender<ServiceStatus>) {
    let mut backoff = ServiceBackoff::default();
    while !control.is_ending() {
        let started = Instant::now();
        let why = match run_once(socket, control, tell) {
            Ok(why) => why,
            Err(error) => in_full(&error),
        };
        if control.is_ending() {
            break;
        }
        let retry_in = backoff.died(started.elapsed());
        tracing::warn!(%why, ?retry_in, deaths = backoff.deaths(), "the Podman service ended");
        tell.send_replace(ServiceStatus::Down { why, deaths: backoff.deaths(), retry_in });
        control.pause(retry_in);
    }
    tell.send_replace(ServiceStatus::Ended);
}

/// One life of the process; gives what it ended with.
fn run_once(
    socket: &Path,
    control: &Control,
    tell: &watch::Sender<ServiceStatus>,
) -> Result<String, ServiceError> {
    make_way(socket, || control.is_ending())?;
    let mut process = Process::spawn(socket)?;
    let pid = process.pid();
    {
        let mut state = control.lock();
        state.pid = Some(pid);
        if state.ending {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
    tell.send_replace(ServiceStatus::Running { pid: pid.as_raw().unsigned_abs() });
    tracing::info!(%pid, socket = %socket.display(), "the Podman service runs");
    process.wait_unreaped();
    control.lock().pid = None;
    Ok(process.reap())
}

/// An error with its sources, for a log line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
