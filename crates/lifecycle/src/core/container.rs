//! From a spec to the container that the engine is asked for, and back by its labels.

use std::collections::BTreeMap;
use std::path::PathBuf;

use belay_engine::{
    Access, BindMount, Container, ContainerSpec, Limits, Liveness, Network, PortBinding, Protocol,
    RootAccess, labels,
};
use belay_protocol::{NodeId, WorkloadName};

use super::environment::environment;
use super::machine::{Member, MemberState};
use super::record::{Declaration, Source};
use super::spec::{NetworkMode, RootMode, Transport, WorkloadSpec};

/// The label that carries the spec's text, from which a lost ledger is rebuilt.
pub const DECLARATION: &str = "io.belay.declaration";
/// The label that carries what errors call the spec.
pub const DECLARED_IN: &str = "io.belay.declared-in";
/// The label that carries the directory of the spec's relative paths.
pub const DECLARED_AT: &str = "io.belay.declared-at";

/// Capabilities that no workload is given; what is left suffices to change owners and to bind low
/// ports.
const DROPPED: [&str; 4] = ["MKNOD", "NET_RAW", "AUDIT_WRITE", "SETFCAP"];

/// A directory of the host to be seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Directory on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: String,
}

/// Name of the container of one generation of a workload on a node.
pub fn container_name(node: &NodeId, workload: &WorkloadName, generation: u64) -> String {
    format!("belay-{node}-{workload}-{generation}")
}

/// The container of a spec. `image` is the id of the image, so that what was checked is what runs.
pub fn container_spec(
    spec: &WorkloadSpec,
    declaration: &Declaration,
    generation: u64,
    node: &NodeId,
    instance: &str,
    image: &str,
    binds: &[Bind],
) -> ContainerSpec {
    let mut binds = binds.to_vec();
    // An outer mount must be made before one inside it, or it would cover it.
    binds.sort_by(|a, b| a.target.cmp(&b.target));
    let mut container = ContainerSpec::new(container_name(node, &spec.name, generation), image);
    container.command.clone_from(&spec.command);
    container.entrypoint.clone_from(&spec.entrypoint);
    container.env = environment(spec, node);
    container.labels = container_labels(spec, declaration, generation, node, instance);
    container.mounts = binds
        .into_iter()
        .map(|bind| BindMount {
            source: bind.source,
            target: bind.target,
            access: Access::ReadWrite,
        })
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
    container.cap_drop = DROPPED.map(str::to_owned).to_vec();
    container
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

/// The container as the machine sees it; `None` when its generation label cannot be read.
pub fn member(container: &Container) -> Option<Member> {
    let generation = container.labels.get(labels::GENERATION)?.parse().ok()?;
    let state = match (container.state.liveness(), &container.state) {
        (Liveness::Running, _) => MemberState::Running,
        (Liveness::Unknown, _) => MemberState::Unknown,
        (Liveness::Stopped, belay_engine::ContainerState::Created) => MemberState::Created,
        (Liveness::Stopped, _) => MemberState::Exited,
    };
    Some(Member { id: container.id.to_string(), generation, state })
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
        let bind = |target: &str| Bind { source: "/v".into(), target: target.into() };
        let binds = [bind("/data/in"), bind("/belay"), bind("/data")];
        let container = container_spec(&spec, &declaration, 7, &node, "i1", "sha256:1", &binds);
        assert_eq!(container.name, "belay-n1-web-7");
        let targets: Vec<_> = container.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/belay", "/data", "/data/in"]);
        assert_eq!(container.limits.memory, Some(64 << 20));
        assert_eq!(container.labels[labels::GENERATION], "7");
        assert_eq!(container.labels[DECLARATION], text);
        assert_eq!(container.labels[labels::SPEC], declaration.hash());
    }
}
