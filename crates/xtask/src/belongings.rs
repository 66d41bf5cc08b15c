//! Looks for what Belay's tests may leave on a host.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::core::leaks::{Belongings, Territory};
use crate::probe;
use crate::process::{Call, CallError};

/// How long the kernel and the engine may take to let go after the last test.
const SETTLE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(250);

/// Everything of ours that is on the host now.
pub(crate) fn scan(territory: &Territory) -> Result<Belongings, CallError> {
    let mut found = BTreeSet::new();
    loop_devices(territory, &mut found);
    mounts(territory, &mut found);
    processes(territory, &mut found);
    containers(&mut found)?;
    files(territory, &mut found);
    Ok(Belongings(found))
}

/// What is left of a run, once everything that ends by itself has ended.
pub(crate) fn leaks(territory: &Territory, before: &Belongings) -> Result<Vec<String>, CallError> {
    let started = Instant::now();
    loop {
        let leaks = scan(territory)?.since(before);
        if leaks.is_empty() || started.elapsed() > SETTLE {
            return Ok(leaks);
        }
        thread::sleep(POLL);
    }
}

fn loop_devices(territory: &Territory, found: &mut BTreeSet<String>) {
    for device in probe::entries(Path::new("/sys/block")) {
        let Ok(backing) = fs::read_to_string(device.join("loop/backing_file")) else { continue };
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        if territory.owns_path(backing.trim_end()) {
            found.insert(format!("loop device /dev/{name} on {}", backing.trim_end()));
        }
    }
}

fn mounts(territory: &Territory, found: &mut BTreeSet<String>) {
    for mount in probe::mounts() {
        if territory.owns_path(&mount.point) || territory.owns_path(&mount.source) {
            found.insert(format!("mount of {} at {}", mount.source, mount.point));
        }
    }
}

fn processes(territory: &Territory, found: &mut BTreeSet<String>) {
    for pid in probe::processes() {
        let Some(arguments) = probe::command_line(pid) else { continue };
        let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if territory.owns_process(&executable.to_string_lossy(), &arguments) {
            found.insert(format!("process {pid}: {}", arguments.join(" ")));
        }
    }
}

fn containers(found: &mut BTreeSet<String>) -> Result<(), CallError> {
    let Some(podman) = probe::program("podman") else { return Ok(()) };
    let list = Call::new(podman, Duration::from_mins(1))
        .args(["ps", "--all", "--format", "{{.ID}} {{.Names}} {{.Labels}}"])
        .capture()?;
    for line in list.stdout.lines() {
        if let Some((container, _)) =
            line.split_once(" map[").filter(|_| line.contains("io.belay."))
        {
            found.insert(format!("container {container}"));
        }
    }
    Ok(())
}

fn files(territory: &Territory, found: &mut BTreeSet<String>) {
    for path in probe::entries(Path::new(&territory.scratch)) {
        found.insert(format!("file {}", path.display()));
    }
}
