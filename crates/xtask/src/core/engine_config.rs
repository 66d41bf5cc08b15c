//! The drop-in for `containers.conf` that lets Podman run on this host.
//!
//! A Debian host with systemd and full capabilities needs next to nothing. A host inside a
//! container, a build machine or a virtual machine without systemd does: Podman's defaults ask for
//! a systemd cgroup manager, for the journal, and for limits only `CAP_SYS_RESOURCE` can grant.

use std::fmt::Write as _;

/// Where Podman reads the drop-in.
pub(crate) const PATH: &str = "/etc/containers/containers.conf.d/50-belay.conf";

/// The first line of a drop-in that is ours to rewrite or remove.
pub(crate) const MARKER: &str = "# Managed by `cargo xtask setup` of Belay.";

/// Podman's own default for `nofile`; asking for more than it would is never needed.
const PODMAN_NOFILE: u64 = 1_048_576;
/// Podman's own default for `nproc`.
const PODMAN_NPROC: u64 = 4_194_304;

/// The OCI runtimes of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crun {
    /// No `crun` on the host.
    Absent,
    /// A `crun` that was built without checkpoint support, as Debian 12 ships it.
    WithoutCheckpoint,
    /// A `crun` that can checkpoint.
    WithCheckpoint,
}

/// What runs the host's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceManager {
    /// systemd is process 1.
    Systemd,
    /// Anything else: no systemd cgroups, no journal.
    Other,
}

/// Whether a container may be given limits above ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// `CAP_SYS_RESOURCE` is held, so Podman's defaults work.
    Raisable,
    /// It is not held: the hard limits are the ceiling. `None` means unlimited.
    Fixed { nofile: Option<u64>, nproc: Option<u64> },
}

/// What the drop-in depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EngineFacts {
    pub(crate) crun: Crun,
    pub(crate) service_manager: ServiceManager,
    pub(crate) limits: Limits,
    /// `kernel.pid_max`, above which the kernel refuses an `nproc`.
    pub(crate) pid_max: u64,
}

/// The drop-in's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DropIn {
    Absent,
    /// A regular file that opens with [`MARKER`], and its text.
    Ours(String),
    /// Somebody else's file, link or directory.
    Foreign,
}

/// What to do with the drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DropInStep {
    /// The file is as it should be, or is not needed and not there.
    Keep,
    Write(String),
    /// Ours, and no longer needed.
    Remove,
    /// Needed, but the place is taken; the text that would have been written.
    LeaveForeign(String),
}

/// The settings this host needs, or `None` when Podman's defaults work as they are.
pub(crate) fn wanted(facts: &EngineFacts) -> Option<String> {
    let mut containers = String::new();
    if let Limits::Fixed { nofile, nproc } = facts.limits {
        let nofile = nofile.unwrap_or(u64::MAX).min(PODMAN_NOFILE);
        let nproc = nproc.unwrap_or(u64::MAX).min(PODMAN_NPROC).min(facts.pid_max);
        let _ = write!(
            containers,
            "# Without CAP_SYS_RESOURCE no limit can be raised above the hard limits here.\n\
             default_ulimits = [\"nofile={nofile}:{nofile}\", \"nproc={nproc}:{nproc}\"]\n"
        );
    }

    let mut engine = String::new();
    match facts.crun {
        Crun::WithCheckpoint => {}
        Crun::Absent | Crun::WithoutCheckpoint => engine.push_str(
            "# The crun of Debian 12 cannot checkpoint; runc can, there and on Debian 13.\n\
             runtime = \"runc\"\n",
        ),
    }
    match facts.service_manager {
        ServiceManager::Systemd => {}
        ServiceManager::Other => engine.push_str(
            "# There is no systemd to make cgroups, and no journal to log to.\n\
             cgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\n",
        ),
    }

    if containers.is_empty() && engine.is_empty() {
        return None;
    }
    let mut text = format!(
        "{MARKER}\n\
         # It is rewritten to fit the host. Delete the first line to keep a version of your own.\n"
    );
    for (table, body) in [("containers", containers), ("engine", engine)] {
        if !body.is_empty() {
            let _ = write!(text, "\n[{table}]\n{body}");
        }
    }
    Some(text)
}

/// What turns `present` into `wanted` without touching anybody else's file.
pub(crate) fn step(present: &DropIn, wanted: Option<String>) -> DropInStep {
    match (present, wanted) {
        (DropIn::Absent | DropIn::Foreign, None) => DropInStep::Keep,
        (DropIn::Ours(_), None) => DropInStep::Remove,
        (DropIn::Ours(old), Some(text)) if *old == text => DropInStep::Keep,
        (DropIn::Absent | DropIn::Ours(_), Some(text)) => DropInStep::Write(text),
        (DropIn::Foreign, Some(text)) => DropInStep::LeaveForeign(text),
    }
}

/// Whether a file with this text is ours.
pub(crate) fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: EngineFacts = EngineFacts {
        crun: Crun::WithCheckpoint,
        service_manager: ServiceManager::Systemd,
        limits: Limits::Raisable,
        pid_max: 4_194_304,
    };

    #[test]
    fn an_ordinary_debian_13_host_needs_no_drop_in() {
        assert_eq!(wanted(&PLAIN), None);
    }

    #[test]
    fn an_ordinary_debian_12_host_needs_the_runtime_only() {
        let text = wanted(&EngineFacts { crun: Crun::Absent, ..PLAIN }).expect("runc is pinned");
        assert!(text.starts_with(MARKER), "{text}");
        assert!(text.contains("[engine]") && text.contains("runtime = \"runc\""), "{text}");
        assert!(!text.contains("[containers]") && !text.contains("cgroup_manager"), "{text}");
    }

    #[test]
    fn a_host_without_systemd_gets_cgroupfs_and_file_events() {
        let facts = EngineFacts { service_manager: ServiceManager::Other, ..PLAIN };
        let text = wanted(&facts).expect("the managers are set");
        assert!(text.contains("cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\""), "{text}");
        assert!(!text.contains("runtime"), "{text}");
    }

    #[test]
    fn fixed_limits_stay_within_the_hard_limits_and_pid_max() {
        let with = |nofile, nproc| {
            let facts =
                EngineFacts { limits: Limits::Fixed { nofile, nproc }, pid_max: 32_768, ..PLAIN };
            wanted(&facts).expect("limits are set")
        };
        assert!(with(Some(20_000), Some(96_365)).contains("nofile=20000:20000"));
        assert!(with(Some(20_000), Some(96_365)).contains("nproc=32768:32768"));
        assert!(with(Some(20_000), Some(1_000)).contains("nproc=1000:1000"));
        assert!(with(None, None).contains("nofile=1048576:1048576"));
    }

    #[test]
    fn only_a_file_of_ours_is_rewritten_or_removed() {
        let text = || Some("new".to_owned());
        let ours = DropIn::Ours("old".to_owned());
        assert_eq!(step(&DropIn::Absent, text()), DropInStep::Write("new".to_owned()));
        assert_eq!(step(&ours, text()), DropInStep::Write("new".to_owned()));
        assert_eq!(step(&ours, Some("old".to_owned())), DropInStep::Keep);
        assert_eq!(step(&ours, None), DropInStep::Remove);
        assert_eq!(step(&DropIn::Foreign, text()), DropInStep::LeaveForeign("new".to_owned()));
        assert_eq!(step(&DropIn::Foreign, None), DropInStep::Keep);
        assert_eq!(step(&DropIn::Absent, None), DropInStep::Keep);
    }

    #[test]
    fn the_marker_counts_only_as_the_first_line() {
        assert!(is_ours(&format!("{MARKER}\n[engine]\n")));
        assert!(!is_ours(&format!("[engine]\n{MARKER}\n")));
        assert!(!is_ours(""));
    }
}
