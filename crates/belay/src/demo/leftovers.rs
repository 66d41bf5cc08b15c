//! What a demo has on the host beside its directory: processes, containers, mounts, loop devices.
//!
//! Each is known by something that only a demo's has: the recorded process, the label with the
//! demo's node, the mount point and the backing file in the demo's directory. Nothing else is
//! touched.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{Place, ProcessRecord, mounts_below};
use super::tool;
use crate::core::stage::Role;
use crate::core::{host, human};
use crate::failure::{self, Ending, Failure};

/// How long a process may take to end after it was asked, and again after it was killed.
const END: Duration = Duration::from_secs(10);

/// How long a mount or loop device may stay busy once its container is gone.
const RELEASE: Duration = Duration::from_secs(10);

/// How long an orderly end may take to be seen: the kernel lets go of a loop device when its last
/// user is gone, which may be a moment after the unmount.
const SETTLE: Duration = Duration::from_secs(3);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Engines whose containers a demo may have made.
const ENGINES: [&str; 2] = ["podman", "docker"];

/// A container or an image, and the engine that keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    engine: PathBuf,
    id: String,
}

/// Everything that is there.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    processes: Vec<ProcessRecord>,
    containers: Vec<Kept>,
    mounts: Vec<PathBuf>,
    loops: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks.
    pub(crate) async fn find(place: &Place) -> Result<Self, Ending> {
        Ok(Self {
            processes: processes(place),
            containers: containers().await?,
            mounts: mounts_below(place.directory())?,
            loops: loop_devices(place.directory()),
        })
    }

    /// Looks until nothing is there, or for [`SETTLE`].
    pub(crate) async fn find_settled(place: &Place) -> Result<Self, Ending> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let found = Self::find(place).await?;
            if found.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let Self { processes, containers, mounts, loops } = self;
        processes.is_empty() && containers.is_empty() && mounts.is_empty() && loops.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.processes.len(), "process"),
            (self.containers.len(), "container"),
            (self.mounts.len(), "mount"),
            (self.loops.len(), "loop device"),
        ];
        let mut words: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, noun)| match (count, noun) {
                (2.., "process") => format!("{count} processes"),
                (count, noun) => human::count(count, noun),
            })
            .collect();
        match words.pop() {
            None => f.write_str("its files"),
            Some(last) if words.is_empty() => f.write_str(&last),
            Some(last) => write!(f, "{} and {last}", words.join(", ")),
        }
    }
}

/// Removes everything, in the order in which each holds the next: processes first, so that nobody
/// starts a container again, then containers, mounts, loop devices.
pub(crate) async fn sweep(place: &Place) -> Result<(), Ending> {
    for process in processes(place) {
        end(&process, END).await?;
    }
    let images = Images::of_containers().await?;
    for Kept { engine, id } in containers().await? {
        tool::run(&engine, &["rm", "--force", &id]).await?;
    }
    images.remove().await;
    release("unmount", || async {
        for mount in mounts_below(place.directory())?.iter().rev() {
            // A busy one is tried again; what is left at the end is reported by name.
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::UMOUNT_NOFOLLOW);
        }
        mounts_below(place.directory())
    })
    .await?;
    release("detach", || async {
        for device in loop_devices(place.directory()) {
            let losetup = tool::find("losetup").ok_or_else(|| {
                let what = "losetup is not there, so loop devices cannot be detached";
                Failure::new(failure::UNAVAILABLE, what, "apt-get install mount")
            })?;
            let _ = tool::run(&losetup, &[OsStr::new("--detach"), device.as_os_str()]).await;
        }
        Ok(loop_devices(place.directory()))
    })
    .await
}

/// The images that the demo's containers run, which belayd keeps loaded.
#[derive(Debug)]
pub(crate) struct Images(Vec<Kept>);

impl Images {
    /// Looks them up, while there are containers to ask.
    pub(crate) async fn of_containers() -> Result<Self, Ending> {
        let mut images: Vec<Kept> = Vec::new();
        for Kept { engine, id } in containers().await? {
            let inspect = ["inspect", "--format", "{{.Image}}", &id];
            // A container may be removed in between.
            let Ok(image) = tool::run(&engine, &inspect).await else { continue };
            let image = Kept { engine, id: image.trim().to_owned() };
            if !images.contains(&image) {
                images.push(image);
            }
        }
        Ok(Self(images))
    }

    /// Removes those that no container uses any more; the engine refuses the others.
    pub(crate) async fn remove(self) {
        for Kept { engine, id } in self.0 {
            let _ = tool::run(&engine, &["rmi", &id]).await;
        }
    }
}

/// Repeats `attempt`, which gives what is left, until nothing is.
async fn release<F, A>(verb: &str, mut attempt: A) -> Result<(), Ending>
where
    A: FnMut() -> F,
    F: Future<Output = Result<Vec<PathBuf>, Ending>>,
{
    let deadline = Instant::now() + RELEASE;
    loop {
        let left = attempt().await?;
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() > deadline {
            let what = format!("cannot {verb} {}: it stays in use", first.display());
            let next = format!("find its user with: fuser -vm {}", first.display());
            return Err(Failure::new(failure::SOFTWARE, what, next).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks a process to end, and after `patience` makes it.
pub(crate) async fn end(process: &ProcessRecord, patience: Duration) -> Result<(), Ending> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if !process.runs() {
            return Ok(());
        }
        // It may end between the look and the signal.
        let _ = kill(Pid::from_raw(process.pid), signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !process.runs() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let what = format!("process {} does not end, not even by SIGKILL", process.pid);
    Err(Failure::new(failure::SOFTWARE, what, "see what it waits for: ps -o stat,wchan").into())
}

/// Recorded processes, and those that serve a node of the demo by their arguments.
fn processes(place: &Place) -> Vec<ProcessRecord> {
    let mut found = place.recorded();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if host::serves(&cmdline, place.directory())
            && let Some(process) = ProcessRecord::of(pid)
            && !found.contains(&process)
        {
            found.push(process);
        }
    }
    found
}

async fn containers() -> Result<Vec<Kept>, Ending> {
    let mut found = Vec::new();
    for engine in ENGINES.into_iter().filter_map(tool::find) {
        for role in Role::BOTH {
            let filter = format!("label=io.belay.node={}", role.node());
            let list = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter];
            let ids = match tool::run(&engine, &list).await {
                Ok(ids) => ids,
                // Docker's client without its daemon has no containers to list.
                Err(_) if engine.ends_with("docker") => continue,
                Err(error) => return Err(error),
            };
            let ids = ids.lines().filter(|id| !id.is_empty());
            found.extend(ids.map(|id| Kept { engine: engine.clone(), id: id.to_owned() }));
        }
    }
    Ok(found)
}

fn loop_devices(directory: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = devices.filter(|device| {
        let backing = fs::read(device.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(OsStr::from_bytes(&backing)).starts_with(directory)
    });
    backed.map(|device| Path::new("/dev").join(device.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_in_words() {
        let process = ProcessRecord { pid: 1, start_ticks: 1 };
        let mut left = Leftovers::default();
        assert!(left.is_empty());
        assert_eq!(left.to_string(), "its files");
        left.processes = vec![process.clone(), process];
        left.loops = vec![PathBuf::from("/dev/loop0")];
        assert_eq!(left.to_string(), "2 processes and 1 loop device");
        left.mounts = vec![PathBuf::from("/a"), PathBuf::from("/b")];
        assert_eq!(left.to_string(), "2 processes, 2 mounts and 1 loop device");
        assert!(!left.is_empty());
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_and_a_stranger_is_not() {
        let mut stubborn = std::process::Command::new("/bin/busybox")
            .args(["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("busybox-static is installed");
        let mut trap_is_set = [0];
        let stdout = stubborn.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(stdout, &mut trap_is_set).expect("it says so");
        let pid = i32::try_from(stubborn.id()).expect("a pid");
        let record = ProcessRecord::of(pid).expect("it runs");
        let stranger = ProcessRecord { start_ticks: record.start_ticks + 1, ..record.clone() };
        end(&stranger, Duration::ZERO).await.expect("it is not there");
        assert!(record.runs(), "a process with another start time is another process");
        end(&record, Duration::from_millis(300)).await.expect("it is killed");
        stubborn.wait().expect("reaped");
    }
}
