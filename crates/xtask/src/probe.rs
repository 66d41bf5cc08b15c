//! Reads the host: what it is, what it can do, what runs on it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::engine_config::{self, Crun, DropIn, EngineFacts, Limits, ServiceManager};
use crate::core::host::{Cgroups, HostFacts, KERNEL_FEATURES, KernelFeature, LoopControl, Space};
use crate::core::needs::{Probe, Release};
use crate::process::Call;

/// Where a system keeps its programs; `PATH` is the caller's and is not asked.
const PROGRAM_DIRECTORIES: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// `CAP_SYS_RESOURCE` in the capability masks of `/proc`.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The file of a system program.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Whether what `probe` looks for is there.
pub(crate) fn present(probe: Probe) -> bool {
    match probe {
        Probe::Program(name) => program(name).is_some(),
        Probe::File(path) => Path::new(path).is_file(),
        Probe::Libclang => libclang(),
    }
}

/// Debian keeps it below `/usr/lib/llvm-*/lib`, with a link among the system's libraries.
fn libclang() -> bool {
    let named = |dir: &Path| {
        entries(dir).iter().any(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang.so"))
        })
    };
    entries(Path::new("/usr/lib"))
        .iter()
        .filter(|dir| {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("llvm-")
        })
        .any(|dir| {
            // The headers of the compiler itself are a package of their own.
            named(&dir.join("lib")) && dir.join("lib/clang").is_dir()
        })
}

/// The entries of a directory; none when it cannot be read.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The Debian release, if it is a supported one, and how the host calls itself.
pub(crate) fn release() -> (Option<Release>, String) {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("an unnamed system", |name| name.trim_matches('"'));
    (Release::parse(&text), name.to_owned())
}

/// Everything about the host that cannot be installed.
pub(crate) fn host(spaces: &[(&Path, &'static str, u64)]) -> HostFacts {
    HostFacts {
        effective_uid: effective_uid(),
        loop_control: loop_control(),
        cgroups: cgroups(),
        kernel: KERNEL_FEATURES.iter().map(|&name| (name, kernel_feature(name))).collect(),
        space: spaces
            .iter()
            .filter_map(|&(place, what, required_bytes)| {
                let place = nearest_existing(place);
                let available_bytes = available_bytes(&place)?;
                Some(Space {
                    place: place.display().to_string(),
                    what,
                    available_bytes,
                    required_bytes,
                })
            })
            .collect(),
    }
}

fn effective_uid() -> u32 {
    status_field("Uid:")
        .and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(u32::MAX)
}

fn status_field(key: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(key))?.trim().to_owned())
}

fn loop_control() -> LoopControl {
    match OpenOptions::new().read(true).write(true).open("/dev/loop-control") {
        Ok(_) => LoopControl::Ready,
        Err(error) if error.kind() == io::ErrorKind::NotFound => LoopControl::Absent,
        Err(_) => LoopControl::Denied,
    }
}

fn cgroups() -> Cgroups {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").is_file() {
        return Cgroups::Unified;
    }
    let controllers: Vec<String> = mounts()
        .into_iter()
        .filter(|mount| mount.kind == "cgroup")
        .flat_map(|mount| mount.options.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    if controllers.is_empty() { Cgroups::Absent } else { Cgroups::Legacy(controllers) }
}

/// A mount of this namespace.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) source: String,
    pub(crate) point: String,
    pub(crate) kind: String,
    pub(crate) options: String,
}

/// The mounts of this namespace, as the kernel escapes them.
pub(crate) fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').map(str::to_owned);
            Some(Mount {
                source: fields.next()?,
                point: fields.next()?,
                kind: fields.next()?,
                options: fields.next()?,
            })
        })
        .collect()
}

fn kernel_feature(name: &str) -> KernelFeature {
    let loaded = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if loaded.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        return KernelFeature::Ready;
    }
    let Ok(kernel) = fs::read_to_string("/proc/sys/kernel/osrelease") else {
        return KernelFeature::Absent;
    };
    let modules = Path::new("/lib/modules").join(kernel.trim());
    let file = format!("/{name}.ko");
    let known = ["modules.dep", "modules.builtin"]
        .iter()
        .any(|list| fs::read_to_string(modules.join(list)).is_ok_and(|list| list.contains(&file)));
    if known { KernelFeature::Module } else { KernelFeature::Absent }
}

fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// The standard library cannot ask a file system for its space; `df` can.
fn available_bytes(place: &Path) -> Option<u64> {
    let captured = Call::new("/bin/df", Duration::from_secs(20))
        .args(["--block-size=1", "--output=avail", "--"])
        .arg(place)
        .capture()
        .ok()?;
    captured.stdout.lines().nth(1)?.trim().parse().ok()
}

/// What the container engine's configuration depends on.
pub(crate) fn engine() -> EngineFacts {
    EngineFacts {
        crun: crun(),
        service_manager: if Path::new("/run/systemd/system").is_dir() {
            ServiceManager::Systemd
        } else {
            ServiceManager::Other
        },
        limits: limits(),
        pid_max: fs::read_to_string("/proc/sys/kernel/pid_max")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            // The smallest the kernel gives any host.
            .unwrap_or(32_768),
    }
}

fn crun() -> Crun {
    let Some(crun) = program("crun") else { return Crun::Absent };
    match Call::new(crun, Duration::from_secs(20)).arg("--help").capture() {
        Ok(help) if help.stdout.contains("checkpoint") => Crun::WithCheckpoint,
        Ok(_) | Err(_) => Crun::WithoutCheckpoint,
    }
}

fn limits() -> Limits {
    let effective = status_field("CapEff:")
        .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
        .unwrap_or_default();
    if effective & CAP_SYS_RESOURCE != 0 {
        return Limits::Raisable;
    }
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // "Max open files  1024  20000  files": the hard limit is the second number.
    let hard = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Limits::Fixed { nofile: hard("Max open files"), nproc: hard("Max processes") }
}

/// The drop-in as it is.
pub(crate) fn drop_in(path: &Path) -> DropIn {
    let Ok(metadata) = fs::symlink_metadata(path) else { return DropIn::Absent };
    if !metadata.is_file() {
        return DropIn::Foreign;
    }
    match fs::read_to_string(path) {
        Ok(text) if engine_config::is_ours(&text) => DropIn::Ours(text),
        Ok(_) | Err(_) => DropIn::Foreign,
    }
}

/// The ids of all processes.
pub(crate) fn processes() -> Vec<u32> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect()
}

/// The parent of a process that is still there.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The arguments of a process that is still there.
pub(crate) fn command_line(pid: u32) -> Option<Vec<String>> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw);
    Some(text.split_terminator('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_parent_and_its_arguments() {
        let own = std::process::id();
        assert!(processes().contains(&own));
        assert_eq!(parent_of(own), Some(std::os::unix::process::parent_id()));
        let line = command_line(own).expect("this process is there");
        assert!(line[0].contains("xtask"), "{line:?}");
    }

    #[test]
    fn space_is_read_of_the_nearest_directory_that_exists() {
        let place = nearest_existing(Path::new("/tmp/belay-not-there/at/all"));
        assert_eq!(place, Path::new("/tmp"));
        assert!(available_bytes(&place).is_some());
    }

    #[test]
    fn a_drop_in_that_is_a_link_or_lacks_the_marker_is_foreign() {
        let dir = std::env::temp_dir().join(format!("belay-xtask-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let ours = dir.join("ours.conf");
        let link = dir.join("link.conf");
        let other = dir.join("other.conf");
        let text = format!("{}\n[engine]\n", engine_config::MARKER);
        fs::write(&ours, &text).expect("the directory is there");
        fs::write(&other, "[engine]\n").expect("the directory is there");
        std::os::unix::fs::symlink(&ours, &link).expect("the directory is there");
        let found = [&ours, &link, &other, &dir.join("none")].map(|path| drop_in(path));
        fs::remove_dir_all(&dir).expect("it was made above");
        assert_eq!(found, [DropIn::Ours(text), DropIn::Foreign, DropIn::Foreign, DropIn::Absent]);
    }
}
