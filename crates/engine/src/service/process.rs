//! One process of the service, and the way to its socket.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::{PODMAN, SETPRIV, ServiceError};

/// What of our environment the service sees. Not `NOTIFY_SOCKET` and `LISTEN_FDS`, which are
/// belayd's own and would be taken for the service's, or handed to containers.
const ENVIRONMENT: &[&str] = &[
    "HOME",
    "TMPDIR",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
const SHELL: &str = "/bin/sh";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Goes on as what it is given, if its parent is still the one that it is given. The signal on a
/// parent's death is armed only once the child runs: a parent that died before sends none, and what
/// it had begun would run for ever.
const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$1" ] || exit 3; shift; exec "$@""#;
/// Last words kept of a service that died, in lines.
const LAST_WORDS: usize = 4;
/// Longest of these, in bytes.
const LINE_MAX: u64 = 4096;

/// A service of a belayd that died was told to end at that moment and needs up to 3 s. After this
/// it is told again, and after as long once more it is killed.
const PREDECESSOR_GRACE: Duration = Duration::from_secs(6);
const PREDECESSOR_POLL: Duration = Duration::from_millis(50);

pub(super) struct Process {
    child: Child,
    words: Option<JoinHandle<VecDeque<String>>>,
}

impl Process {
    /// Starts the service as a child that ends with the calling thread.
    pub(super) fn spawn(socket: &Path) -> Result<Self, ServiceError> {
        let mut child = command(socket, std::process::id())
            .spawn()
            .map_err(|source| ServiceError::Spawn { what: SETPRIV, source })?;
        let stderr = child.stderr.take().expect("standard error was asked for as a pipe");
        let words = std::thread::Builder::new()
            .name("podman-words".to_owned())
            .spawn(move || copy_words(stderr));
        match words {
            Ok(words) => Ok(Self { child, words: Some(words) }),
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ServiceError::Spawn { what: "a thread", source })
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the end and leaves the process id taken, so that a signal on its way cannot meet
    /// another process.
    pub(super) fn wait_unreaped(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(self.pid()), flags) == Err(Errno::EINTR) {}
    }

    /// Frees the process id; gives the exit status and the last words.
    pub(super) fn reap(&mut self) -> String {
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => format!("its exit status is lost: {error}"),
        };
        // The reader ends with the pipe: conmon, which outlives the service, has /dev/null there.
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        let words = Vec::from(words).join("; ");
        if words.is_empty() { status } else { format!("{status}: {words}") }
    }
}

/// The service as a child of `parent`, which ends with the calling thread of it.
fn command(socket: &Path, parent: u32) -> Command {
    let mut url = std::ffi::OsString::from("unix://");
    url.push(socket);
    let kept = ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut command = Command::new(SETPRIV);
    command
        .args(["--pdeathsig", "TERM", "--", SHELL, "-c", UNLESS_ORPHANED, "podman"])
        .arg(parent.to_string())
        .args([PODMAN, "system", "service", "--time=0"])
        .arg(url)
        .env_clear()
        .envs(kept)
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C at a terminal is for belayd, which needs the engine to shut
        // down in order.
        .process_group(0);
    command
}

/// Puts what the service says on its standard error into our log, and keeps the last of it.
fn copy_words(stderr: impl Read) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return last,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if text.is_empty() {
                    continue;
                }
                tracing::debug!(target: "podman", "{text}");
                if last.len() == LAST_WORDS {
                    last.pop_front();
                }
                last.push_back(text);
            }
        }
    }
}

/// Makes the socket path free: waits for the service of a belayd that died, ends it if it stays,
/// removes a socket on which nothing answers. One that belongs to a living process is an error.
pub(super) fn make_way(socket: &Path, is_ending: impl Fn() -> bool) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::Socket { socket: socket.to_owned(), source };
    let begun = Instant::now();
    let mut told = None;
    loop {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return match std::fs::remove_file(socket) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                    _ => Ok(()),
                };
            }
            Err(error) => return Err(failed(error)),
        };
        if is_ending() {
            return Ok(());
        }
        let waited = begun.elapsed();
        let signal = if waited < PREDECESSOR_GRACE {
            None
        } else if waited < PREDECESSOR_GRACE * 2 {
            Some(Signal::SIGTERM)
        } else {
            Some(Signal::SIGKILL)
        };
        if let Some(signal) = signal.filter(|&signal| told != Some(signal)) {
            let peer =
                getsockopt(&stream, PeerCredentials).map_err(|errno| failed(errno.into()))?;
            end_orphan(socket, Pid::from_raw(peer.pid()), signal)?;
            told = Some(signal);
        }
        drop(stream);
        std::thread::sleep(PREDECESSOR_POLL);
    }
}

/// Signals the process that listens on our socket, if it is a Podman service on this very path and
/// its parent, the belayd that started it, is gone.
fn end_orphan(socket: &Path, pid: Pid, signal: Signal) -> Result<(), ServiceError> {
    let parent = parent_of(pid);
    let orphan = parent == Some(1) || parent == Some(std::process::id().cast_signed());
    if !orphan || !serves(pid, socket) {
        return Err(ServiceError::SocketTaken {
            socket: socket.to_owned(),
            pid: pid.as_raw(),
            parent: parent.unwrap_or(0),
        });
    }
    tracing::warn!(%pid, %signal, "ending the Podman service of a belayd that is gone");
    let _ = kill(pid, signal);
    Ok(())
}

fn parent_of(pid: Pid) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn serves(pid: Pid, socket: &Path) -> bool {
    let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut url = b"unix://".to_vec();
    url.extend_from_slice(socket.as_os_str().as_encoded_bytes());
    let mut arguments = arguments.split(|&c| c == 0);
    let is_podman = arguments.next() == Some(PODMAN.as_bytes());
    is_podman && arguments.any(|argument| argument == url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_whose_belayd_died_before_it_could_be_told_does_not_begin() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("podman.sock");
        // The first process of the host is nobody's belayd.
        let ended = command(&socket, 1).output().expect("it can be started");
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        assert!(!socket.exists(), "nothing listens");
    }
}
