//! Who keeps a file system busy, for the error that says so.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::core::mount_table::{self, DeviceNumber};

/// At most this many are named.
const NAMED: usize = 8;

/// A process that keeps a file system busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// Its name, as the kernel keeps it (15 characters at most).
    pub command: String,
    /// How it holds the file system.
    pub hold: Hold,
}

/// How a process holds a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It has this file or directory open, or runs it, or works in it.
    File(PathBuf),
    /// It sees a mount of it at this place, in another mount namespace.
    Mount(PathBuf),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, command, hold } = self;
        match hold {
            Hold::File(path) => write!(f, "process {pid} ({command}) uses {}", path.display()),
            Hold::Mount(path) => {
                write!(f, "process {pid} ({command}) sees it mounted at {}", path.display())
            }
        }
    }
}

/// Looks through all processes for holders of the file system on these devices, or of the one that
/// this path is on. Processes that end meanwhile are left out.
pub(crate) fn find(mounted: &[DeviceNumber], on: Option<&Path>) -> Vec<Holder> {
    // The files of a btrfs carry another number than its mounts.
    let on = on.and_then(|path| fs::metadata(path).ok()).map(|found| number(found.dev()));
    let devices: Vec<DeviceNumber> = mounted.iter().copied().chain(on).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let own_namespace = fs::read_link("/proc/self/ns/mnt").ok();
    let mut namespaces: Vec<_> = own_namespace.into_iter().collect();
    let mut found = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let directory = process.path();
        if found.len() == NAMED {
            break;
        }
        let hold = open_file(&directory, &devices).map(Hold::File).or_else(|| {
            let namespace = fs::read_link(directory.join("ns/mnt")).ok()?;
            if namespaces.contains(&namespace) {
                return None;
            }
            namespaces.push(namespace);
            mount(&directory, &devices).map(Hold::Mount)
        });
        if let Some(hold) = hold {
            let command = fs::read_to_string(directory.join("comm")).unwrap_or_default();
            found.push(Holder { pid, command: command.trim_end().to_owned(), hold });
        }
    }
    found
}

fn number(device: u64) -> DeviceNumber {
    let narrow = |part| u32::try_from(part).unwrap_or(u32::MAX);
    DeviceNumber { major: narrow(major(device)), minor: narrow(minor(device)) }
}

fn open_file(process: &Path, devices: &[DeviceNumber]) -> Option<PathBuf> {
    let fixed = ["cwd", "root", "exe"].map(|name| process.join(name));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    fixed.into_iter().chain(open.map(|entry| entry.path())).find_map(|link| {
        let on = number(fs::metadata(&link).ok()?.dev());
        if devices.contains(&on) { fs::read_link(&link).ok() } else { None }
    })
}

fn mount(process: &Path, devices: &[DeviceNumber]) -> Option<PathBuf> {
    let table = fs::read(process.join("mountinfo")).ok()?;
    mount_table::parse(&table)
        .into_iter()
        .find(|entry| devices.contains(&entry.device))
        .map(|entry| entry.target)
}
