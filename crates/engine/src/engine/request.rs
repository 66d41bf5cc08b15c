//! From a [`ContainerSpec`] to the body of a create request. Pure.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, PortBinding as PortBody, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::core::abilities::EngineKind;
use crate::spec::{Access, ContainerSpec, Init, LogLimit, Network, RootAccess};

/// A number that the API has no room for. Only sizes of more than 8 EiB are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge(pub(crate) &'static str);

pub(crate) fn create_body(
    spec: &ContainerSpec,
    kind: EngineKind,
) -> Result<ContainerCreateBody, TooLarge> {
    let signed = |what, number: u64| i64::try_from(number).map_err(|_| TooLarge(what));
    let memory = spec.limits.memory.map(|bytes| signed("the memory limit", bytes)).transpose()?;
    let nano_cpus =
        spec.limits.nano_cpus.map(|cpus| signed("the processor limit", cpus)).transpose()?;
    // Published ports mean nothing without a network of the container's own; Docker refuses them.
    let ports = match spec.network {
        Network::Bridge => spec.ports.as_slice(),
        Network::Host | Network::None => &[],
    };
    let mut bindings: HashMap<String, Option<Vec<PortBody>>> = HashMap::new();
    for port in ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        bindings.entry(key).or_default().get_or_insert_default().push(PortBody {
            host_ip: Some(port.host_ip.to_string()),
            host_port: Some(port.host_port.to_string()),
        });
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    exposed.sort_unstable();
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        hostname: spec.hostname.clone(),
        stop_signal: spec.stop_signal.clone(),
        exposed_ports: Some(exposed),
        host_config: Some(HostConfig {
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            mounts: Some(spec.mounts.iter().map(mount).collect()),
            port_bindings: Some(bindings),
            network_mode: Some(
                match spec.network {
                    Network::Bridge => "bridge",
                    Network::Host => "host",
                    Network::None => "none",
                }
                .to_owned(),
            ),
            // Podman gives the host this name by itself.
            extra_hosts: (kind == EngineKind::Docker && spec.network == Network::Bridge)
                .then(|| vec!["host.containers.internal:host-gateway".to_owned()]),
            memory,
            // The sum of memory and swap: equal means no swap.
            memory_swap: memory,
            nano_cpus,
            pids_limit: spec.limits.pids.map(i64::from),
            readonly_rootfs: Some(spec.root == RootAccess::ReadOnly),
            cap_add: some(&spec.cap_add),
            cap_drop: some(&spec.cap_drop),
            init: match spec.init {
                Init::Absent => None,
                Init::Engine => Some(true),
            },
            tmpfs: (!spec.tmpfs.is_empty()).then(|| spec.tmpfs.clone().into_iter().collect()),
            log_config: Some(HostConfigLogConfig {
                // Podman's name for the same format; under "json-file" it ignores the size.
                typ: Some(
                    match kind {
                        EngineKind::Podman => "k8s-file",
                        EngineKind::Docker => "json-file",
                    }
                    .to_owned(),
                ),
                config: Some(log_config(spec.log, kind)),
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    })
}

fn log_config(limit: LogLimit, kind: EngineKind) -> HashMap<String, String> {
    let option = |name: &str, value: String| (name.to_owned(), value);
    match kind {
        // It has one file only.
        EngineKind::Podman => {
            let bytes = limit.bytes.saturating_mul(limit.files.into());
            HashMap::from([option("max-size", bytes.to_string())])
        }
        EngineKind::Docker => HashMap::from([
            option("max-size", limit.bytes.to_string()),
            option("max-file", limit.files.to_string()),
        ]),
    }
}

fn mount(mount: &crate::spec::BindMount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.access == Access::ReadOnly),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests;
