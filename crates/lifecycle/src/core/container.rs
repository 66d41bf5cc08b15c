//! From a spec to the container that the engine is asked for, and back by its labels.

use std::collections::BTreeMap;
use std::path::PathBuf;

use belay_engine::{
    Access, BindMount, Container, ContainerSpec, Limits, Liveness, Network, PortBinding, Protocol,
    RootAccess, labels,
};
use belay_protocol::{NodeId, WorkloadName};

use super::environment::{Layers, environment};
use super::machine::{Fit, Member, MemberState};
use super::record::{Declaration, Source};
use super::spec::{Confinement, NetworkMode, RootMode, Transport, WorkloadSpec};

/// The label that carries the spec's text, from which a lost ledger is rebuilt.
pub const DECLARATION: &str = "io.belay.declaration";
/// The label that carries what errors call the spec.
pub const DECLARED_IN: &str = "io.belay.declared-in";
/// The label that carries the directory of the spec's relative paths.
pub const DECLARED_AT: &str = "io.belay.declared-at";

/// A directory of the host to be seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Directory on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: String,
    /// Whether the container may write there.
    pub access: Access,
}

/// Name of the container of one generation of a workload on a node.
pub fn container_name(node: &NodeId, workload: &WorkloadName, generation: u64) -> String {
    format!("belay-{node}-{workload}-{generation}")
}

/// The label that names the values taken from other workloads; see [`super::providers::Exports::digest`].
pub const DEPENDENCIES: &str = "io.belay.dependencies";
/// The label that names the app's own overrides of its environment.
pub const OVERRIDES: &str = "io.belay.overrides";

/// What of a container's environment changes without its spec: two digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentPrint {
    /// Of the values taken from other workloads.
    pub dependencies: Option<String>,
    /// Of the app's own overrides.
    pub overrides: Option<String>,
}

impl EnvironmentPrint {
    /// The one that belongs to these layers.
    pub fn of(layers: Layers<'_>) -> Self {
        let overrides: Vec<_> = layers.overrides.clone().into_iter().collect();
        Self {
            dependencies: layers.exports.digest(),
            overrides: super::environment::digest(overrides.iter()),
        }
    }

    /// The one that a container was made with.
    pub fn carried_by(container: &Container) -> Self {
        let label = |name| container.labels.get(name).cloned();
        Self { dependencies: label(DEPENDENCIES), overrides: label(OVERRIDES) }
    }
}

/// The container of a spec. `image` is the id of the image, so that what was checked is what runs.
pub fn container_spec(
    spec: &WorkloadSpec,
    declaration: &Declaration,
    generation: u64,
    layers: Layers<'_>,
    instance: &str,
    image: &str,
    binds: &[Bind],
) -> ContainerSpec {
    let node = layers.node;
    let mut binds = binds.to_vec();
    // An outer mount must be made before one inside it, or it would cover it.
    binds.sort_by(|a, b| a.target.cmp(&b.target));
    let mut container = ContainerSpec::new(container_name(node, &spec.name, generation), image);
    container.command.clone_from(&spec.command);
    container.entrypoint.clone_from(&spec.entrypoint);
    container.env = environment(spec, layers);
    container.labels = container_labels(spec, declaration, generation, node, instance);
    let print = EnvironmentPrint::of(layers);
    let prints = [(DEPENDENCIES, print.dependencies), (OVERRIDES, print.overrides)];
    for (label, digest) in prints {
        container.labels.extend(digest.map(|digest| (label.to_owned(), digest)));
    }
    container.mounts = binds
        .into_iter()
        .map(|bind| BindMount { source: bind.source, target: bind.target, access: bind.access })
        .collect();
    container.ports = spec
        .ports
        .iter()
        .map(|port| PortBinding {
            host_ip: port.address,
            host_port: port.host,
            container_port: port.container,
            protocol: match port.transport {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
            },
        })
        .collect();
    apply_spec(&mut container, spec);
    container
}

/// The file systems in memory of a container, as the engine is asked for them.
fn container_tmpfs(confinement: &Confinement) -> BTreeMap<String, String> {
    let options = |size: u64| format!("rw,nosuid,nodev,noexec,mode=1777,size={size}");
    confinement.tmpfs.iter().map(|(path, size)| (path.clone(), options(size.as_u64()))).collect()
}

/// Gives a container what its spec says of its process: who it is, its limits, its network, and what
/// it is kept from. Every container that is made of a spec goes through here.
pub fn apply_spec(container: &mut ContainerSpec, spec: &WorkloadSpec) {
    container.user.clone_from(&spec.user);
    container.working_dir.clone_from(&spec.working_dir);
    container.hostname = match spec.network {
        NetworkMode::Host => None,
        NetworkMode::Bridge | NetworkMode::None => {
            Some(spec.hostname.clone().unwrap_or_else(|| spec.name.to_string()))
        }
    };
    container.limits = Limits {
        memory: spec.limits.memory,
        nano_cpus: spec.limits.nano_cpus,
        pids: Some(spec.limits.pids),
    };
    container.network = match spec.network {
        NetworkMode::Bridge => Network::Bridge,
        NetworkMode::Host => Network::Host,
        NetworkMode::None => Network::None,
    };
    container.root = match spec.root {
        RootMode::Writable => RootAccess::ReadWrite,
        RootMode::ReadOnly => RootAccess::ReadOnly,
    };
    container.stop_signal.clone_from(&spec.stop_signal);
    container.cap_drop = spec.confinement.dropped();
    container.cap_add = spec.confinement.cap_add.iter().cloned().collect();
    container.tmpfs = container_tmpfs(&spec.confinement);
}

fn container_labels(
    spec: &WorkloadSpec,
    declaration: &Declaration,
    generation: u64,
    node: &NodeId,
    instance: &str,
) -> BTreeMap<String, String> {
    [
        (labels::NODE, node.to_string()),
        (labels::INSTANCE, instance.to_owned()),
        (labels::WORKLOAD, spec.name.to_string()),
        (labels::SPEC, declaration.hash()),
        (labels::GENERATION, generation.to_string()),
        (DECLARATION, declaration.spec.clone()),
        (DECLARED_IN, declaration.file.clone()),
        (DECLARED_AT, declaration.directory.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The container as the machine sees it; `None` when its generation label cannot be read. `print` is
/// what it should have been made with, or `None` where that cannot be told.
pub fn member(container: &Container, print: Option<&EnvironmentPrint>) -> Option<Member> {
    let generation = container.labels.get(labels::GENERATION)?.parse().ok()?;
    let state = match (container.state.liveness(), &container.state) {
        (Liveness::Running, _) => MemberState::Running,
        (Liveness::Unknown, _) => MemberState::Unknown,
        (Liveness::Stopped, belay_engine::ContainerState::Created) => MemberState::Created,
        (Liveness::Stopped, _) => MemberState::Exited,
    };
    let fit = match print {
        Some(print) if *print != EnvironmentPrint::carried_by(container) => Fit::Stale,
        Some(_) | None => Fit::Current,
    };
    Some(Member { id: container.id.to_string(), generation, state, fit })
}

/// The declaration that a container was made from, read back from its labels.
pub fn declaration_of(container: &Container) -> Option<Declaration> {
    let label = |name| container.labels.get(name).cloned();
    Some(Declaration {
        spec: label(DECLARATION)?,
        file: label(DECLARED_IN)?,
        directory: label(DECLARED_AT)?,
        source: Source::Api,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::providers::Exports;
    use super::super::spec::parse;
    use super::*;

    #[test]
    fn a_container_carries_its_declaration_and_its_mounts_outermost_first() {
        let text = "name = \"web\"\nimage = \"x\"\n[limits]\nmemory = \"64M\"\n";
        let spec = parse(text, "web.toml", Path::new("/etc")).expect("a good spec");
        let declaration = Declaration {
            spec: text.into(),
            file: "web.toml".into(),
            directory: "/etc".into(),
            source: Source::Api,
        };
        let node = "n1".parse().expect("a node name");
        let bind = |target: &str| Bind {
            source: "/v".into(),
            target: target.into(),
            access: Access::ReadWrite,
        };
        let binds = [bind("/data/in"), bind("/belay"), bind("/data")];
        let (exports, overrides) = (Exports::default(), [("A".into(), "1".into())].into());
        let layers = Layers { node: &node, exports: &exports, overrides: &overrides };
        let container = container_spec(&spec, &declaration, 7, layers, "i1", "sha256:1", &binds);
        assert_eq!(container.name, "belay-n1-web-7");
        let targets: Vec<_> = container.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/belay", "/data", "/data/in"]);
        assert_eq!(container.limits.memory, Some(64 << 20));
        assert_eq!(container.labels[labels::GENERATION], "7");
        assert_eq!(container.labels[DECLARATION], text);
        assert_eq!(container.labels[labels::SPEC], declaration.hash());
        assert!(container.env.contains(&("A".into(), "1".into())));
        assert_eq!(container.labels.get(DEPENDENCIES), None);
        assert_eq!(container.labels[OVERRIDES].len(), 64);
    }
}
