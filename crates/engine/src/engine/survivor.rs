//! Processes of a container, as the host sees them.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Engine, EngineKind};
use crate::blocking;
use crate::container::Container;
use crate::core::process;
use crate::error::EngineError;

/// A process that is there although its container should have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its id, in the host's numbering.
    pub pid: u32,
    /// Its state as the kernel writes it: `D` waits and takes no signal.
    pub state: char,
    /// The kernel's function that it waits in, where that is shown.
    pub waits_in: Option<String>,
}

impl Engine {
    /// A process of this container, found on the host by its control group and not by asking the
    /// engine; `None` when there is none. What has ended and is only waited for does not count.
    pub async fn survivor(&self, container: impl AsRef<str>) -> Option<Survivor> {
        // A name says nothing in a control group; an id does.
        let id = container.as_ref().to_owned();
        blocking::run(move || find(&id)).await
    }

    /// Kills a process of a container that the engine does not know any more, and gives that
    /// container's id; `None` when it is no such process, which is left alone.
    ///
    /// Podman that is ended between the making of a container's first process and its own note of
    /// it forgets the process: a removal of the container then leaves it waiting for its start for
    /// ever, with every mount.
    pub async fn end_forgotten(&self, pid: i32) -> Result<Option<String>, EngineError> {
        let engine = self.info().kind;
        let Some(id) = blocking::run(move || container_of(pid, engine)).await else {
            return Ok(None);
        };
        if self.inspect(&id).await?.is_some() {
            return Ok(None);
        }
        let ended = blocking::run({
            let id = id.clone();
            move || kill(pid, &id, engine)
        });
        Ok(ended.await.then_some(id))
    }
}

impl Engine {
    /// The first process of a container that runs; `None` where the kernel shows no such process.
    pub async fn first_process(&self, container: &Container) -> Option<FirstProcess> {
        let pid = i32::try_from(container.state.incarnation()?.pid).ok()?;
        let (id, engine) = (container.id.as_str().to_owned(), self.info().kind);
        let held = blocking::run(move || held(pid, &id, engine)).await?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe only for types whose descriptor may change; an \
                      OwnedFd keeps one open for as long as it lives"
        )]
        AsyncFd::with_interest(held, Interest::READABLE).ok().map(FirstProcess)
    }
}

/// The first process of a container, whatever else gets its number later.
#[derive(Debug)]
pub struct FirstProcess(AsyncFd<OwnedFd>);

impl FirstProcess {
    /// Returns once it has ended, by the kernel's word. The engine may have yet to hear of it.
    pub async fn ended(&self) {
        // A descriptor that cannot be waited for is looked at again by the caller.
        let _ = self.0.readable().await;
    }
}

/// A process, if it is one of this container.
fn held(pid: i32, id: &str, engine: EngineKind) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
    // Only now is it settled which process the descriptor means.
    (container_of(pid, engine).as_deref() == Some(id)).then_some(fd)
}

fn container_of(pid: i32, engine: EngineKind) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    process::container_of(&groups, engine).map(str::to_owned)
}

/// Kills a process if it is still one of this container. Says whether it was told to end.
fn kill(pid: i32, id: &str, engine: EngineKind) -> bool {
    held(pid, id, engine).is_some_and(|fd| pidfd_send_signal(&fd, Signal::KILL).is_ok())
}

fn find(id: &str) -> Option<Survivor> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| process::is_in_container(&groups, id))
        })
        .find_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            let state = process::state_of(&String::from_utf8_lossy(&line))?;
            let waits_in = std::fs::read_to_string(format!("/proc/{pid}/wchan")).ok();
            let waits_in = waits_in.filter(|name| !name.is_empty() && name != "0");
            Some(Survivor { pid, state, waits_in })
        })
}
