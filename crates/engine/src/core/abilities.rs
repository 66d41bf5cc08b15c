//! What an engine is and can do, from what it says of itself.

use serde::Deserialize;

use super::version::Version;

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Podman.
    Podman,
    /// Docker Engine.
    Docker,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Podman => "Podman",
            Self::Docker => "Docker",
        })
    }
}

/// Body of `/version`. Engines add fields, so unknown ones are let through.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct VersionBody {
    pub(crate) version: String,
    pub(crate) api_version: String,
    #[serde(default)]
    components: Option<Vec<Component>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

impl VersionBody {
    pub(crate) fn kind(&self) -> EngineKind {
        let podman = |component: &Component| component.name == "Podman Engine";
        if self.components.iter().flatten().any(podman) {
            EngineKind::Podman
        } else {
            EngineKind::Docker
        }
    }
}

/// Body of `/info`, the part that is the same for both engines.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent facts")]
pub(crate) struct InfoBody {
    driver: String,
    memory_limit: bool,
    swap_limit: bool,
    pids_limit: bool,
    cpu_cfs_quota: bool,
    cgroup_driver: String,
    default_runtime: String,
    live_restore_enabled: bool,
    pub(crate) docker_root_dir: String,
    pub(crate) architecture: String,
}

/// Go's word for an architecture, which images carry, from the kernel's or Go's.
pub(crate) fn go_architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i386" | "i686" => "386",
        other => other,
    }
}

/// What an engine on this machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent facts")]
pub struct Abilities {
    /// Checkpoint and restore of a container through the engine's API, by the engine's side. A
    /// CRIU that works on this kernel is needed too.
    pub checkpoint: bool,
    /// Freezing all processes of a container.
    pub freeze: bool,
    /// Memory limits.
    pub memory_limit: bool,
    /// Swap limits.
    pub swap_limit: bool,
    /// Limits on the number of processes.
    pub pids_limit: bool,
    /// Limits on processor time.
    pub cpu_limit: bool,
    /// Containers live on when the engine's own service ends.
    pub containers_outlive_engine: bool,
    /// Program that runs the containers.
    pub runtime: String,
    /// How control groups are made: `systemd`, `cgroupfs`.
    pub cgroup_driver: String,
    /// Storage driver.
    pub storage_driver: String,
}

/// Reads abilities. crun before 1.9 as Debian 12 builds it has no checkpoint, which only its own
/// version tells, so that crun counts as able here and a real attempt decides.
pub(crate) fn abilities(kind: EngineKind, version: &Version, info: &InfoBody) -> Abilities {
    Abilities {
        checkpoint: match kind {
            EngineKind::Podman => version.at_least(3, 0),
            EngineKind::Docker => false,
        },
        freeze: true,
        memory_limit: info.memory_limit,
        swap_limit: info.swap_limit,
        pids_limit: info.pids_limit,
        cpu_limit: info.cpu_cfs_quota,
        containers_outlive_engine: match kind {
            EngineKind::Podman => true,
            EngineKind::Docker => info.live_restore_enabled,
        },
        runtime: info.default_runtime.clone(),
        cgroup_driver: info.cgroup_driver.clone(),
        storage_driver: info.driver.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(body: &str) -> VersionBody {
        serde_json::from_str(body).expect("a version body")
    }

    const PODMAN: &str = include_str!("../../tests/bodies/podman-4.3.1/version.json");
    const PODMAN_INFO: &str = include_str!("../../tests/bodies/podman-4.3.1/info.json");

    const DOCKER: &str = include_str!("../../tests/bodies/docker-20.10.24/version.json");
    const DOCKER_INFO: &str = include_str!("../../tests/bodies/docker-20.10.24/info.json");

    #[test]
    fn podman_is_told_by_its_component() {
        let body = version(PODMAN);
        assert_eq!(body.kind(), EngineKind::Podman);
        assert_eq!((body.version.as_str(), body.api_version.as_str()), ("4.3.1", "1.41"));
    }

    #[test]
    fn docker_is_what_is_not_podman() {
        let body = version(DOCKER);
        assert_eq!(body.kind(), EngineKind::Docker);
        assert_eq!((body.version.as_str(), body.api_version.as_str()), ("20.10.24+dfsg1", "1.41"));
        assert_eq!(
            version(r#"{"Version":"1","ApiVersion":"1.41","Components":null}"#).kind(),
            EngineKind::Docker
        );
    }

    #[test]
    fn abilities_of_the_captured_podman() {
        let info: InfoBody = serde_json::from_str(PODMAN_INFO).expect("an info body");
        let found = abilities(EngineKind::Podman, &Version::parse("4.3.1"), &info);
        assert!(found.checkpoint && found.freeze && found.containers_outlive_engine);
        assert!(found.memory_limit && found.pids_limit && found.cpu_limit);
        assert_eq!(found.cgroup_driver, "cgroupfs");
        assert_eq!(found.storage_driver, "overlay");
    }

    #[test]
    fn abilities_of_the_captured_docker() {
        let info: InfoBody = serde_json::from_str(DOCKER_INFO).expect("an info body");
        let found = abilities(EngineKind::Docker, &Version::parse("20.10.24"), &info);
        assert!(found.memory_limit && found.pids_limit && found.cpu_limit && found.freeze);
        assert!(!found.checkpoint && !found.containers_outlive_engine);
        assert_eq!((found.runtime.as_str(), found.storage_driver.as_str()), ("runc", "overlay2"));
    }

    #[test]
    fn live_restore_keeps_containers_of_docker() {
        let info = InfoBody { live_restore_enabled: true, ..InfoBody::default() };
        let found = abilities(EngineKind::Docker, &Version::parse("20.10.24"), &info);
        assert!(found.containers_outlive_engine && !found.checkpoint);
    }
}
