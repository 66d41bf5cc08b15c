//! What a node has made on this host, found without asking the node.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything on the host that carries a node's name or lies below its directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leavings {
    /// Ids of containers with the node's label.
    pub containers: Vec<String>,
    /// Mounts below the directory, innermost first.
    pub mounts: Vec<PathBuf>,
    /// Loop devices whose backing file lies below the directory.
    pub loops: Vec<PathBuf>,
    /// Processes whose command line names the directory.
    pub processes: Vec<u32>,
}

impl Leavings {
    /// Looks for them.
    ///
    /// # Panics
    /// When the host cannot be searched: then nothing is known to be clean.
    pub fn find(node: &str, directory: &Path) -> Self {
        Self {
            containers: containers(node),
            mounts: mounts(directory),
            loops: loops(directory),
            processes: processes(directory),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Removes all of it: the node that made it is a test's own.
    pub fn remove(node: &str, directory: &Path) {
        for pid in processes(directory) {
            // It may have gone between the look and the signal.
            if let Ok(pid) = i32::try_from(pid) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        for id in containers(node) {
            run("/usr/bin/podman", &["rm", "--force", "--time", "0", "--volumes", &id]);
        }
        for mount in mounts(directory) {
            run("/usr/bin/umount", &[&mount.display().to_string()]);
        }
        for device in loops(directory) {
            run("/usr/sbin/losetup", &["--detach", &device.display().to_string()]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    if let Ok(output) = Command::new(program).args(arguments).output()
        && !output.status.success()
    {
        let words = String::from_utf8_lossy(&output.stderr);
        let mut err = std::io::stderr().lock();
        let _ =
            std::io::Write::write_fmt(&mut err, format_args!("{program} {arguments:?}: {words}"));
    }
}

fn containers(node: &str) -> Vec<String> {
    let filter = format!("label=io.belay.node={node}");
    let output = Command::new("/usr/bin/podman")
        .args(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])
        .output()
        .expect("podman can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn mounts(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel lists mounts");
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|target| target.starts_with(directory))
        .collect();
    mounts.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    mounts
}

fn loops(directory: &Path) -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/sys/block").expect("the kernel lists block devices");
    devices
        .filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim_end()).starts_with(directory))
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

/// Processes that name the directory in their arguments, but for this one and its own kin.
fn processes(directory: &Path) -> Vec<u32> {
    let needle = directory.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    let listed = std::fs::read_dir("/proc").expect("the kernel lists processes");
    listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // A container's own processes see other paths; conmon names only the engine's.
            line.windows(needle.len()).any(|part| part == needle)
        })
        .collect()
}
