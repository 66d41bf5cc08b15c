//! What this host has, and what a container uses of it.

use std::path::Path;

use belay_lifecycle::core::limits;

use crate::core::checkpoint::Versions;

/// Memory that the control group of a process uses, in bytes; none when it cannot be read.
pub(crate) fn memory_in_use(pid: u32) -> Option<u64> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (mount, controller, file) = if unified {
        ("/sys/fs/cgroup", "", "memory.current")
    } else {
        ("/sys/fs/cgroup/memory", "memory", "memory.usage_in_bytes")
    };
    let group = limits::group(&table, controller)?;
    let path = Path::new(mount).join(group.trim_start_matches('/')).join(file);
    limits::number(&std::fs::read_to_string(path).ok()?)
}

/// Bytes that can be written on the file system of a directory; none when it cannot be told.
pub(crate) fn free(directory: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(directory).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// What checkpoints are taken and restored with on this host.
pub(crate) async fn versions(engine: &belay_engine::EngineInfo) -> Versions {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Versions {
        engine: engine.kind.to_string().to_ascii_lowercase(),
        engine_version: engine.version.to_string(),
        runtime: engine.abilities.runtime.clone(),
        criu: belay_engine::criu_version().await,
        kernel: kernel.trim().to_owned(),
    }
}
