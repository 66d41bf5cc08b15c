//! What of a host cannot be installed, and must be right before anything is changed.

use std::fmt;

/// How much space a purpose takes, at the place that takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) place: String,
    /// What lies there.
    pub(crate) what: &'static str,
    pub(crate) available_bytes: u64,
    pub(crate) required_bytes: u64,
}

/// Whether a kernel feature can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelFeature {
    /// Built in or loaded.
    Ready,
    /// A module of the running kernel that is loaded on first use.
    Module,
    /// Neither.
    Absent,
}

/// Whether loop devices can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopControl {
    Ready,
    /// `/dev/loop-control` is not there.
    Absent,
    /// It is there and may not be opened.
    Denied,
}

/// Which control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    Unified,
    /// Version 1 or hybrid: the controllers that are mounted.
    Legacy(Vec<String>),
    Absent,
}

/// The host as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostFacts {
    pub(crate) effective_uid: u32,
    pub(crate) loop_control: LoopControl,
    pub(crate) cgroups: Cgroups,
    pub(crate) kernel: Vec<(&'static str, KernelFeature)>,
    pub(crate) space: Vec<Space>,
}

/// The file systems and drivers the kernel must offer.
pub(crate) const KERNEL_FEATURES: &[&str] = &["ext4", "overlay"];

/// The controllers of a legacy hierarchy that limits and pausing need.
const CONTROLLERS: &[&str] = &["memory", "pids", "freezer"];

/// A reason to stop before anything is changed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocker {
    pub(crate) found: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n      {}", self.found, self.remedy)
    }
}

/// Everything about the host that stands in the way, all at once.
pub(crate) fn blockers(facts: &HostFacts) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut block = |found: String, remedy: &str| {
        blockers.push(Blocker { found, remedy: remedy.to_owned() });
    };

    if facts.effective_uid != 0 {
        block(
            format!("this runs as user {}, not as root", facts.effective_uid),
            "Mounting volumes and running containers takes root: use `sudo -E env \
             \"PATH=$PATH\" cargo xtask ...`.",
        );
    }
    match facts.loop_control {
        LoopControl::Ready => {}
        LoopControl::Absent => block(
            "/dev/loop-control is not there, so no volume can be attached".to_owned(),
            "Run `modprobe loop`; inside a container, start it with the host's loop devices.",
        ),
        LoopControl::Denied => block(
            "/dev/loop-control may not be opened, so no volume can be attached".to_owned(),
            "Inside a container, allow device 10:237 and the block major 7.",
        ),
    }
    match &facts.cgroups {
        Cgroups::Unified => {}
        Cgroups::Legacy(mounted) => {
            let absent: Vec<_> = CONTROLLERS
                .iter()
                .copied()
                .filter(|controller| !mounted.iter().any(|m| m == controller))
                .collect();
            if !absent.is_empty() {
                block(
                    format!("the cgroup controllers {} are not mounted", absent.join(", ")),
                    "Boot with `systemd.unified_cgroup_hierarchy=1`, or mount them below \
                     /sys/fs/cgroup.",
                );
            }
        }
        Cgroups::Absent => block(
            "no control groups are mounted at /sys/fs/cgroup".to_owned(),
            "Run `mount -t cgroup2 cgroup2 /sys/fs/cgroup`.",
        ),
    }
    for (name, feature) in &facts.kernel {
        match feature {
            KernelFeature::Ready | KernelFeature::Module => {}
            KernelFeature::Absent => block(
                format!("the kernel has no {name}, neither built in nor as a module"),
                "Install Debian's kernel (`linux-image-amd64` or your architecture's), or one \
                 that has it.",
            ),
        }
    }
    for space in &facts.space {
        if space.available_bytes < space.required_bytes {
            block(
                format!(
                    "{} has {} free, and {} takes up to {}",
                    space.place,
                    gibibytes(space.available_bytes),
                    space.what,
                    gibibytes(space.required_bytes)
                ),
                "Make room there, or point CARGO_TARGET_DIR at a larger file system.",
            );
        }
    }
    blockers
}

/// Bytes as tenths of a gibibyte, rounded down so that a shortage never looks like enough.
fn gibibytes(bytes: u64) -> String {
    let tenths = bytes / (1 << 30) * 10 + bytes % (1 << 30) * 10 / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> HostFacts {
        HostFacts {
            effective_uid: 0,
            loop_control: LoopControl::Ready,
            cgroups: Cgroups::Unified,
            kernel: vec![("ext4", KernelFeature::Ready), ("overlay", KernelFeature::Module)],
            space: vec![Space {
                place: "/var".to_owned(),
                what: "the build",
                available_bytes: 6 << 30,
                required_bytes: 5 << 30,
            }],
        }
    }

    #[test]
    fn a_good_host_has_no_blockers() {
        assert_eq!(blockers(&good()), []);
    }

    #[test]
    fn every_blocker_is_named_at_once_with_a_remedy() {
        let mut facts = good();
        facts.effective_uid = 1000;
        facts.loop_control = LoopControl::Denied;
        facts.cgroups = Cgroups::Legacy(vec!["memory".to_owned(), "freezer".to_owned()]);
        facts.kernel[0].1 = KernelFeature::Absent;
        facts.space[0].available_bytes = (5 << 30) - 1;
        let found = blockers(&facts);
        let expected = ["user 1000", "may not be opened", "controllers pids", "no ext4", "4.9 GiB"];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (blocker, words) in found.iter().zip(expected) {
            assert!(blocker.found.contains(words), "{blocker} does not say {words}");
            assert!(blocker.remedy.ends_with('.'), "{blocker} has no whole remedy");
        }
    }

    #[test]
    fn legacy_cgroups_with_the_needed_controllers_do() {
        let mut facts = good();
        facts.cgroups =
            Cgroups::Legacy(CONTROLLERS.iter().map(|&controller| controller.to_owned()).collect());
        assert_eq!(blockers(&facts), []);
        facts.cgroups = Cgroups::Absent;
        assert_eq!(blockers(&facts).len(), 1);
    }
}
