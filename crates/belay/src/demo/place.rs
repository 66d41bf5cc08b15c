//! Where a demo lies on disk, and the record by which a later one finds what it left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::core::host;
use crate::core::stage::Role;
use crate::failure::{self, Ending, Failure};

/// Everything of a demo. One place, so that a demo that was killed is found by the next.
const DIRECTORY: &str = "/var/lib/belay-demo";

/// Held by a running demo. It is never deleted, so that its lock means the same to everybody.
const LOCK: &str = "/run/belay-demo.lock";

/// A process, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

impl ProcessRecord {
    /// A record of a process that runs now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_ticks: host::start_ticks(&stat)? })
    }

    /// Whether this very process still runs.
    pub(crate) fn runs(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// The processes that a demo started, in one boot of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    boot_id: String,
    processes: Vec<ProcessRecord>,
}

/// The directory, held by this demo alone.
#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Place {
    /// Takes the place for this process, or says who has it.
    pub(crate) fn claim() -> Result<Self, Ending> {
        Self::claim_at(Path::new(DIRECTORY), Path::new(LOCK))
    }

    fn claim_at(directory: &Path, lock: &Path) -> Result<Self, Ending> {
        let failed = |error: &dyn std::error::Error| {
            Failure::local(format!("cannot lock {}", lock.display()), error, "")
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC).open(lock);
        let file = file.map_err(|error| failed(&error))?;
        let mut held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(Failure::new(
                    failure::UNAVAILABLE,
                    format!("a demo is running already (process {})", holder.trim()),
                    "end that one with Ctrl-C, then try again",
                )
                .into());
            }
            Err((_, errno)) => return Err(failed(&errno).into()),
        };
        // For people only; whether the lock is held is the kernel's to say.
        let _ = held
            .set_len(0)
            .and_then(|()| held.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { directory: directory.to_owned(), _lock: held })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn exists(&self) -> bool {
        self.directory.symlink_metadata().is_ok()
    }

    /// Home of one node.
    pub(crate) fn home(&self, role: Role) -> PathBuf {
        self.directory.join(role.word())
    }

    /// The store that both nodes share.
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// The image's root file system.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("image.tar")
    }

    /// The root file system of the runners.
    pub(crate) fn runner_image(&self) -> PathBuf {
        self.directory.join("runner.tar")
    }

    /// Makes the directories. The place itself must not be there.
    pub(crate) fn create(&self) -> Result<(), Ending> {
        let make = |directory: &Path| {
            DirBuilder::new().mode(0o700).create(directory).map_err(|error| {
                let what = format!("cannot make {}", directory.display());
                Failure::local(what, &error, "")
            })
        };
        make(&self.directory)?;
        make(&self.store())?;
        for role in Role::BOTH {
            let home = self.home(role);
            make(&home)?;
            make(&home.join("workloads.d"))?;
        }
        self.write(&Record { boot_id: boot_id(), processes: Vec::new() })
    }

    /// Writes down a process before anything depends on it.
    pub(crate) fn record(&self, process: ProcessRecord) -> Result<(), Ending> {
        let mut record = self.read();
        record.processes.push(process);
        self.write(&record)
    }

    /// The recorded processes that still run, none if the host was booted since.
    pub(crate) fn recorded(&self) -> Vec<ProcessRecord> {
        let Record { boot_id: recorded_boot, processes } = self.read();
        if recorded_boot == boot_id() {
            processes.into_iter().filter(ProcessRecord::runs).collect()
        } else {
            Vec::new()
        }
    }

    /// Removes the directory. It refuses while something is mounted below it.
    pub(crate) fn remove(&self) -> Result<(), Ending> {
        let directory = self.directory.display();
        let metadata = match self.directory.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(
                    Failure::local(format!("cannot look at {directory}"), &error, "").into()
                );
            }
        };
        let foreign = !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw();
        let mounts = mounts_below(&self.directory)?;
        if foreign || !mounts.is_empty() {
            let what = match mounts.first() {
                Some(mount) => format!("{} is still mounted", mount.display()),
                None => format!("{directory} is not a directory of root"),
            };
            let next = format!("look at {directory} and remove it");
            return Err(Failure::new(failure::SOFTWARE, what, next).into());
        }
        fs::remove_dir_all(&self.directory).map_err(|error| {
            Failure::local(format!("cannot remove {directory}"), &error, "").into()
        })
    }

    fn record_path(&self) -> PathBuf {
        self.directory.join("demo.json")
    }

    /// A record that is not there or was cut names no process; they are found by their arguments.
    fn read(&self) -> Record {
        let text = fs::read(self.record_path()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, record: &Record) -> Result<(), Ending> {
        let path = self.record_path();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec(record).expect("a record is plain data");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).map_err(|error| {
            Failure::local(format!("cannot write {}", path.display()), &error, "").into()
        })
    }
}

/// Mount points at or below a directory, in the order they were made.
pub(crate) fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>, Ending> {
    let mountinfo = fs::read("/proc/self/mountinfo")
        .map_err(|error| Failure::local("cannot read /proc/self/mountinfo", &error, ""))?;
    Ok(host::mounts_below(&mountinfo, directory))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> Result<Place, Ending> {
        Place::claim_at(&directory.join("demo"), &directory.join("lock"))
    }

    #[test]
    fn one_demo_has_the_place() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = place(directory.path()).expect("free");
        let Err(Ending::Failed(failure)) = place(directory.path()) else {
            panic!("it is taken");
        };
        assert!(failure.what.contains(&std::process::id().to_string()), "{}", failure.what);
        drop(first);
        place(directory.path()).expect("free again");
    }

    #[test]
    fn processes_are_known_again_and_strangers_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path()).expect("free");
        assert!(!place.exists());
        assert!(place.recorded().is_empty(), "a place that is not there names nothing");
        place.create().expect("makes it");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let this = ProcessRecord::of(own).expect("it runs");
        place.record(this.clone()).expect("writes");
        let later = ProcessRecord { start_ticks: this.start_ticks + 1, ..this.clone() };
        place.record(later).expect("writes");
        assert_eq!(place.recorded(), [this]);

        let mut record = place.read();
        record.boot_id = "another boot".to_owned();
        place.write(&record).expect("writes");
        assert!(place.recorded().is_empty());
        fs::write(place.record_path(), b"{\"boot").expect("writes");
        assert!(place.recorded().is_empty());
        place.remove().expect("removes");
        assert!(!place.exists());
    }

    #[test]
    fn a_place_that_is_a_link_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path()).expect("free");
        let target = directory.path().join("precious");
        fs::create_dir(&target).expect("makes it");
        std::os::unix::fs::symlink(&target, place.directory()).expect("links");
        assert!(place.create().is_err());
        assert!(place.remove().is_err());
        assert!(target.exists());
    }
}
