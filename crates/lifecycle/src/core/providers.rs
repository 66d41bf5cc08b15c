//! The workloads that one depends on, as its task sees them: whether it may start, and which
//! values it takes from them.
//!
//! What is seen comes from the node's page; no task looks into another.

use std::collections::BTreeMap;
use std::net::IpAddr;

use belay_protocol::{
    DependencyState, NodeStatus, PortStatus, WorkloadName, WorkloadPhase, WorkloadStatus,
};

use super::dependencies::Graph;
use super::spec::{AddressPart, NetworkMode, ProviderRestart, WorkloadSpec};

/// The name of the host inside a container with a network of its own. Podman knows it by itself,
/// Docker is told.
pub const HOST_NAME: &str = "host.containers.internal";

/// A workload that another depends on, as the node's page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Where it is.
    pub phase: WorkloadPhase,
    /// Why it is there.
    pub reason: String,
    /// Names the present run of its process; none while it has none.
    pub incarnation: Option<String>,
    /// Its published ports.
    pub ports: Vec<PortStatus>,
}

impl Provider {
    fn of(status: &WorkloadStatus) -> Self {
        let runs = matches!(
            status.phase,
            WorkloadPhase::Probing | WorkloadPhase::Ready | WorkloadPhase::Unready
        );
        let container = status.container.as_ref().filter(|_| runs);
        Self {
            phase: status.phase,
            reason: status.reason.clone(),
            incarnation: container
                .and_then(|container| Some(format!("{}@{}", container.id, container.started_at?))),
            ports: status.ports.clone(),
        }
    }

    /// Whether it is as far as a dependant wants it.
    fn has_come_to(&self, until: DependencyState) -> bool {
        match self.phase {
            WorkloadPhase::Ready | WorkloadPhase::Completed => true,
            WorkloadPhase::Probing | WorkloadPhase::Unready => until == DependencyState::Started,
            WorkloadPhase::Pending
            | WorkloadPhase::FetchingImage
            | WorkloadPhase::ProvidingVolumes
            | WorkloadPhase::Waiting
            | WorkloadPhase::Starting
            | WorkloadPhase::Stopping
            | WorkloadPhase::Stopped
            | WorkloadPhase::PausedForSync
            | WorkloadPhase::BackOff
            | WorkloadPhase::Halted
            | WorkloadPhase::Failed
            | WorkloadPhase::Unknown
            | WorkloadPhase::Removing => false,
        }
    }
}

/// All workloads that a spec depends on; absent where the node has none of the name.
pub type Providers = BTreeMap<WorkloadName, Option<Provider>>;

/// What the node's page shows of the workloads that a spec depends on.
pub fn seen(spec: &WorkloadSpec, page: &NodeStatus) -> Providers {
    let find = |name: &WorkloadName| page.workloads.iter().find(|found| found.name == *name);
    spec.depends_on.keys().map(|name| (name.clone(), find(name).map(Provider::of))).collect()
}

/// Who depends on whom, as the node's page shows it. Workloads under removal are left out.
pub fn graph(page: &NodeStatus) -> Graph {
    let there = page.workloads.iter().filter(|found| found.phase != WorkloadPhase::Removing);
    there
        .map(|found| {
            let needs = found.depends_on.iter().map(|needed| needed.workload.clone());
            (found.name.clone(), needs.collect())
        })
        .collect()
}

/// What a start still waits for, by workload; empty when it may go on.
pub fn awaited(spec: &WorkloadSpec, providers: &Providers) -> BTreeMap<WorkloadName, String> {
    let mut awaited = BTreeMap::new();
    for (name, dependency) in &spec.depends_on {
        let Some(provider) = providers.get(name).and_then(Option::as_ref) else {
            awaited.insert(name.clone(), "there is no such workload".to_owned());
            continue;
        };
        if !provider.has_come_to(dependency.until) {
            let why = format!("{}, {}", provider.phase.as_str(), provider.reason);
            awaited.insert(name.clone(), why);
        }
    }
    for source in spec.env_from.values() {
        let provider = providers.get(&source.from).and_then(Option::as_ref);
        if provider.is_some_and(|provider| published(provider, source.port).is_none()) {
            let why = format!("it does not publish its port {} over tcp", source.port);
            awaited.entry(source.from.clone()).or_insert(why);
        }
    }
    awaited
}

/// One line on what is awaited.
pub fn sentence(awaited: &BTreeMap<WorkloadName, String>) -> String {
    let each: Vec<_> = awaited.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    format!("waiting-for {}", each.join("; "))
}

/// Environment that comes from other workloads, in the order in which it is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exports {
    /// Under names of belayd's, for each workload in `depends_on`.
    pub named: Vec<(String, String)>,
    /// Under the names that the spec gives.
    pub chosen: Vec<(String, String)>,
}

impl Exports {
    /// Names these values; none where there are none. A container carries it, so that a change is
    /// seen without reading its environment.
    pub fn digest(&self) -> Option<String> {
        super::environment::digest(self.named.iter().chain(&self.chosen))
    }
}

/// The values that a workload takes from those that it depends on.
pub fn exports(spec: &WorkloadSpec, providers: &Providers) -> Exports {
    let mut exports = Exports::default();
    for (name, provider) in providers {
        let Some(provider) = provider else { continue };
        let prefix = format!("BELAY_DEP_{}", name.as_str().to_ascii_uppercase().replace('-', "_"));
        exports.named.push((format!("{prefix}_NAME"), name.to_string()));
        let tcp = provider.ports.iter().filter(|port| port.protocol == "tcp");
        for (number, port) in tcp.enumerate() {
            let (host, published) = (reached(port, spec.network), port.host_port.to_string());
            if number == 0 {
                exports.named.push((format!("{prefix}_HOST"), host.clone()));
                exports.named.push((format!("{prefix}_PORT"), published.clone()));
            }
            let inner = port.container_port;
            exports.named.push((format!("{prefix}_HOST_{inner}"), host));
            exports.named.push((format!("{prefix}_PORT_{inner}"), published));
        }
    }
    for (name, source) in &spec.env_from {
        let provider = providers.get(&source.from).and_then(Option::as_ref);
        let Some(port) = provider.and_then(|provider| published(provider, source.port)) else {
            continue;
        };
        let host = reached(port, spec.network);
        let value = match source.part {
            AddressPart::Host => host,
            AddressPart::Port => port.host_port.to_string(),
            AddressPart::Address if host.contains(':') => format!("[{host}]:{}", port.host_port),
            AddressPart::Address => format!("{host}:{}", port.host_port),
        };
        exports.chosen.push((name.clone(), value));
    }
    exports
}

fn published(provider: &Provider, container_port: u16) -> Option<&PortStatus> {
    let mut ports = provider.ports.iter();
    ports.find(|port| port.protocol == "tcp" && port.container_port == container_port)
}

/// The host under which a container with this network reaches a published port.
fn reached(port: &PortStatus, network: NetworkMode) -> String {
    let address = port.host_address.parse::<IpAddr>();
    match (address, network) {
        (Ok(address), NetworkMode::Bridge) if address.is_unspecified() => HOST_NAME.to_owned(),
        (Ok(IpAddr::V4(address)), _) if address.is_unspecified() => "127.0.0.1".to_owned(),
        (Ok(IpAddr::V6(address)), _) if address.is_unspecified() => "::1".to_owned(),
        (Ok(_) | Err(_), _) => port.host_address.clone(),
    }
}

/// The workloads of `depends_on` whose published ports a container of this spec cannot reach: they
/// are bound to the host's loopback, and the container has a network of its own.
pub fn unreachable(spec: &WorkloadSpec, providers: &Providers) -> Vec<WorkloadName> {
    let is_loopback = |port: &PortStatus| {
        port.host_address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let all_loopback =
        |provider: &Provider| !provider.ports.is_empty() && provider.ports.iter().all(is_loopback);
    if spec.network == NetworkMode::Host {
        return Vec::new();
    }
    providers
        .iter()
        .filter(|(_, provider)| provider.as_ref().is_some_and(all_loopback))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The runs of the providers that a workload is to be started anew with.
pub fn followed(spec: &WorkloadSpec, providers: &Providers) -> BTreeMap<WorkloadName, String> {
    let incarnation = |name: &WorkloadName| providers.get(name)?.as_ref()?.incarnation.clone();
    spec.depends_on
        .iter()
        .filter(|(_, dependency)| dependency.restart == ProviderRestart::Followed)
        .filter_map(|(name, _)| Some((name.clone(), incarnation(name)?)))
        .collect()
}

/// The first provider that runs anew since the workload was started with `started`. One that was
/// not known then says nothing.
pub fn restarted<'p>(
    started: &BTreeMap<WorkloadName, String>,
    followed: &'p BTreeMap<WorkloadName, String>,
) -> Option<&'p WorkloadName> {
    let anew = |(name, now): &(&'p WorkloadName, &'p String)| {
        started.get(*name).is_some_and(|then| then != *now)
    };
    followed.iter().find(anew).map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
