//! What a host must have installed, and which Debian package brings it.

use std::collections::BTreeSet;

/// The Debian releases that can be prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Bookworm,
    Trixie,
}

impl Release {
    /// The release that `/etc/os-release` names, if it is one of ours.
    pub(crate) fn parse(os_release: &str) -> Option<Self> {
        let value = |key: &str| {
            os_release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches('"'))
        };
        match (value("ID")?, value("VERSION_ID")?) {
            ("debian", "12") => Some(Self::Bookworm),
            ("debian", "13") => Some(Self::Trixie),
            _ => None,
        }
    }
}

/// How to see on disk that something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A program of this name in one of the system's program directories.
    Program(&'static str),
    /// A file of this absolute path.
    File(&'static str),
    /// The shared libclang that bindgen loads.
    Libclang,
}

/// Who needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Running and building belayd.
    Run,
    /// Running every test.
    Test,
}

/// One thing the host must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) probe: Probe,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
    purpose: Purpose,
    /// The release it is for; `None` is every release.
    release: Option<Release>,
}

const fn need(probe: Probe, package: &'static str, why: &'static str) -> Need {
    Need { probe, package, why, purpose: Purpose::Run, release: None }
}

const NEEDS: &[Need] = &[
    need(Probe::Program("podman"), "podman", "runs the containers"),
    // One runtime on both releases: a checkpoint made by runc cannot be restored by crun.
    need(Probe::Program("runc"), "runc", "the runtime below Podman"),
    need(Probe::Program("iptables"), "iptables", "published ports of containers"),
    Need {
        release: Some(Release::Trixie),
        ..need(Probe::Program("nft"), "nftables", "the container network of Debian 13")
    },
    Need {
        release: Some(Release::Trixie),
        ..need(Probe::File("/usr/lib/podman/netavark"), "netavark", "the container network")
    },
    need(
        Probe::File("/etc/ssl/certs/ca-certificates.crt"),
        "ca-certificates",
        "pulling images over TLS",
    ),
    need(Probe::Program("busybox"), "busybox-static", "the images of the demo and the tests"),
    need(Probe::Program("mkfs.ext4"), "e2fsprogs", "ext4 volumes"),
    need(Probe::Program("mkfs.xfs"), "xfsprogs", "xfs volumes"),
    need(Probe::Program("mount"), "mount", "volumes"),
    need(Probe::Program("fsfreeze"), "util-linux", "volumes"),
    need(Probe::Program("modprobe"), "kmod", "kernel modules for loop devices"),
    need(Probe::Program("kill"), "procps", "reloading the service"),
    need(Probe::Program("cc"), "gcc", "building SQLite"),
    need(Probe::File("/usr/include/stdio.h"), "libc6-dev", "building SQLite"),
    need(Probe::Libclang, "libclang-dev", "building the loop device bindings"),
    Need {
        purpose: Purpose::Test,
        ..need(Probe::Program("systemd-analyze"), "systemd", "checking the service file")
    },
    Need {
        purpose: Purpose::Test,
        ..need(Probe::Program("mkfs.btrfs"), "btrfs-progs", "btrfs volumes, which are optional")
    },
    Need {
        purpose: Purpose::Test,
        ..need(
            Probe::File("/usr/lib/python3/dist-packages/websocket/__init__.py"),
            "python3-websocket",
            "the runner in Python",
        )
    },
    Need { purpose: Purpose::Test, ..need(Probe::Program("node"), "nodejs", "the runner in Node") },
    Need {
        purpose: Purpose::Test,
        ..need(Probe::File("/usr/share/nodejs/ws/package.json"), "node-ws", "the runner in Node")
    },
];

/// The needs for `purpose` on `release` that `present` does not find, in the order of the table.
///
/// An unknown release is asked for everything that is not particular to one.
pub(crate) fn missing(
    purpose: Purpose,
    release: Option<Release>,
    present: impl Fn(Probe) -> bool,
) -> Vec<Need> {
    NEEDS
        .iter()
        .filter(|need| need.purpose <= purpose)
        .filter(|need| need.release.is_none() || need.release == release)
        .filter(|need| !present(need.probe))
        .copied()
        .collect()
}

/// The packages that bring `needs`, each once.
pub(crate) fn packages(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().map(|need| need.package).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_supported_releases_are_recognised() {
        let os_release = |id: &str, version: &str| {
            Release::parse(&format!("NAME=\"x\"\nID={id}\nVERSION_ID=\"{version}\"\n"))
        };
        assert_eq!(os_release("debian", "12"), Some(Release::Bookworm));
        assert_eq!(os_release("debian", "13"), Some(Release::Trixie));
        assert_eq!(os_release("debian", "11"), None);
        assert_eq!(os_release("ubuntu", "12"), None);
        assert_eq!(Release::parse("ID=debian\n"), None);
    }

    #[test]
    fn a_bare_host_is_asked_for_everything_once() {
        let needs = missing(Purpose::Run, Some(Release::Bookworm), |_| false);
        let packages = packages(&needs);
        for package in ["podman", "runc", "busybox-static", "libclang-dev", "e2fsprogs"] {
            assert!(packages.contains(&package), "{package} is missing from {packages:?}");
        }
        assert!(!packages.contains(&"systemd"), "only the tests need systemd-analyze");
        assert!(!packages.contains(&"nftables"), "only Debian 13 needs nftables");
    }

    #[test]
    fn the_tests_need_what_the_daemon_needs_and_more() {
        let run = missing(Purpose::Run, Some(Release::Trixie), |_| false);
        let test = missing(Purpose::Test, Some(Release::Trixie), |_| false);
        assert!(run.iter().all(|need| test.contains(need)));
        assert!(packages(&test).contains(&"systemd"));
    }

    #[test]
    fn what_is_there_is_not_asked_for() {
        let needs = missing(Purpose::Test, Some(Release::Bookworm), |probe| {
            probe != Probe::Program("mkfs.ext4")
        });
        assert_eq!(packages(&needs), ["e2fsprogs"]);
        assert_eq!(missing(Purpose::Test, Some(Release::Trixie), |_| true), []);
    }
}
