//! What an inspect body says.
//!
//! The shapes are our own and read states as text: an engine that reports a state from the future,
//! or from Podman's longer list, gives `Unknown` and not an unreadable body.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;

use crate::container::{
    Container, ContainerId, ContainerState, ListedContainer, MountSeen, RestartPolicy,
};
use crate::event::Health;
use crate::spec::{Access, Limits, PortBinding, Protocol};

/// Body of `/containers/{name}/json`. Only what is needed; unknown fields are let through, because
/// every engine release adds some.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InspectBody {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    created: String,
    state: StateBody,
    #[serde(default)]
    image: String,
    #[serde(default)]
    host_config: HostBody,
    #[serde(default)]
    config: ConfigBody,
    #[serde(default)]
    mounts: Option<Vec<MountBody>>,
    #[serde(default)]
    network_settings: NetworkBody,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateBody {
    status: String,
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    finished_at: String,
    #[serde(default)]
    health: Option<HealthBody>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthBody {
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostBody {
    restart_policy: RestartBody,
    memory: i64,
    nano_cpus: i64,
    pids_limit: Option<i64>,
    port_bindings: Option<BTreeMap<String, Option<Vec<BindingBody>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartBody {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigBody {
    image: String,
    stop_signal: String,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<HealthcheckBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthcheckBody {
    test: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MountBody {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(default)]
    source: PathBuf,
    destination: String,
    #[serde(rename = "RW", default)]
    writable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkBody {
    #[serde(rename = "IPAddress")]
    address: String,
    ports: Option<BTreeMap<String, Option<Vec<BindingBody>>>>,
    networks: Option<BTreeMap<String, EndpointBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointBody {
    #[serde(rename = "IPAddress")]
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct BindingBody {
    host_ip: String,
    host_port: String,
}

/// One row of `/containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListRow {
    pub(crate) id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl ListRow {
    pub(crate) fn into_listed(self) -> ListedContainer {
        ListedContainer {
            id: ContainerId::new(self.id),
            labels: self.labels.unwrap_or_default(),
            status: self.state,
        }
    }
}

/// Whether a list that gives this status agrees with a state that inspect found. What is passed
/// through quickly, or is unknown, never does.
pub(crate) fn agrees(status: &str, state: &ContainerState) -> bool {
    match state {
        ContainerState::Created => matches!(status, "created" | "configured" | "initialized"),
        ContainerState::Running { .. } => status == "running",
        ContainerState::Paused { .. } => status == "paused",
        ContainerState::Exited { .. } => matches!(status, "exited" | "stopped"),
        ContainerState::Stopping | ContainerState::Removing | ContainerState::Unknown(_) => false,
    }
}

impl InspectBody {
    pub(crate) fn into_container(self) -> Container {
        let settings = self.network_settings;
        // The running network tells the chosen host ports; before the first start only the request
        // is there.
        let ports = ports(settings.ports.as_ref())
            .or_else(|| ports(self.host_config.port_bindings.as_ref()))
            .unwrap_or_default();
        let address = std::iter::once(settings.address.as_str())
            .chain(settings.networks.iter().flatten().map(|(_, end)| end.address.as_str()))
            .find_map(|text| text.parse().ok());
        Container {
            id: ContainerId::new(self.id),
            name: self.name.trim_start_matches('/').to_owned(),
            image_id: self.image,
            image: self.config.image,
            labels: self.config.labels.unwrap_or_default(),
            healthcheck: self.config.healthcheck.and_then(|check| command_of(&check.test?)),
            created: moment(&self.created),
            health: self.state.health.as_ref().and_then(|health| health_of(&health.status)),
            started_at: began(&self.state, &self.created),
            state: state(&self.state, &self.created),
            ports,
            mounts: self.mounts.into_iter().flatten().filter_map(bind).collect(),
            restart_policy: match self.host_config.restart_policy.name.as_str() {
                "" | "no" => RestartPolicy::No,
                other => RestartPolicy::Other(other.to_owned()),
            },
            limits: Limits {
                memory: positive(self.host_config.memory),
                nano_cpus: positive(self.host_config.nano_cpus),
                pids: self.host_config.pids_limit.and_then(positive),
            },
            address,
            stop_signal: Some(self.config.stop_signal).filter(|signal| !signal.is_empty()),
        }
    }
}

/// When a container was started; when it was created if it has a process, or had one, that was
/// restored and never started: Podman says "never" of that one.
fn began(body: &StateBody, created: &str) -> Option<Timestamp> {
    match body.status.as_str() {
        "created" | "configured" | "initialized" => moment(&body.started_at),
        _ => moment(&body.started_at).or_else(|| moment(created)),
    }
}

fn state(body: &StateBody, created: &str) -> ContainerState {
    let process = || {
        let pid = u32::try_from(body.pid).ok().filter(|&pid| pid != 0)?;
        Some((pid, began(body, created)?))
    };
    let unknown = || ContainerState::Unknown(body.status.clone());
    match body.status.as_str() {
        "created" | "configured" | "initialized" => ContainerState::Created,
        "running" => process()
            .map_or_else(unknown, |(pid, started_at)| ContainerState::Running { pid, started_at }),
        "paused" => process()
            .map_or_else(unknown, |(pid, started_at)| ContainerState::Paused { pid, started_at }),
        "stopping" => ContainerState::Stopping,
        // Podman's "stopped" is a process that ended and a clean-up that has not run yet. That waits
        // for a process of its own and may take longer than all the rest; a start or a removal does
        // it itself. Podman can say so before it has the exit code.
        "stopped" if !is_end_recorded(body) => ContainerState::Stopping,
        "exited" | "stopped" => ContainerState::Exited {
            exit_code: i32::try_from(body.exit_code).unwrap_or(-1),
            oom_killed: body.oom_killed,
            finished_at: moment(&body.finished_at),
            error: (!body.error.is_empty()).then(|| body.error.clone()),
        },
        "removing" | "dead" => ContainerState::Removing,
        _ => unknown(),
    }
}

/// Whether what is told of an end is of the last run.
fn is_end_recorded(body: &StateBody) -> bool {
    let (began, ended) = (moment(&body.started_at), moment(&body.finished_at));
    body.pid == 0 && ended.is_some_and(|ended| began.is_some_and(|began| ended >= began))
}

/// Reads a time; the year 1 is how both engines say "never".
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|time| time.as_second() > 0)
}

/// Reads a health status; "none" and "" are how engines say that there is no check.
pub(crate) fn health_of(status: &str) -> Option<Health> {
    match status {
        "starting" => Some(Health::Starting),
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        _ => None,
    }
}

/// The command of a health check: `["CMD", program, ...]` or `["CMD-SHELL", line]`. `["NONE"]` and an
/// empty list are none.
fn command_of(test: &[String]) -> Option<Vec<String>> {
    match test {
        [kind, command @ ..] if kind == "CMD" && !command.is_empty() => Some(command.to_vec()),
        [kind, line] if kind == "CMD-SHELL" => {
            Some(["/bin/sh", "-c", line].map(str::to_owned).to_vec())
        }
        _ => None,
    }
}

fn positive<T: TryFrom<i64>>(number: i64) -> Option<T> {
    (number > 0).then(|| T::try_from(number).ok()).flatten()
}

fn bind(body: MountBody) -> Option<MountSeen> {
    (body.kind == "bind").then_some(MountSeen {
        source: body.source,
        target: body.destination,
        access: if body.writable { Access::ReadWrite } else { Access::ReadOnly },
    })
}

/// Reads `{"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}`; `None` when nothing is bound.
fn ports(map: Option<&BTreeMap<String, Option<Vec<BindingBody>>>>) -> Option<Vec<PortBinding>> {
    let mut found: Vec<PortBinding> = map?
        .iter()
        .flat_map(|(port, bindings)| bindings.iter().flatten().map(move |one| (port, one)))
        .filter_map(|(port, binding)| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some(PortBinding {
                host_ip: match binding.host_ip.as_str() {
                    "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    text => text.parse().ok()?,
                },
                host_port: binding.host_port.parse().ok()?,
                container_port: number.parse().ok()?,
                protocol: match protocol {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    _ => return None,
                },
            })
        })
        .collect();
    found.sort_unstable();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests;
