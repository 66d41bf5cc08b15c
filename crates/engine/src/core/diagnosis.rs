//! What a doctor's look at the engine means for somebody who has to act on it.

use std::path::{Path, PathBuf};

use super::abilities::EngineKind;
use super::version::Version;
use crate::engine::EngineInfo;

/// Bit of `CAP_SYS_RESOURCE`, see capabilities(7).
pub(crate) const CAP_SYS_RESOURCE: u32 = 24;

/// Oldest Podman whose API has been tried.
const OLDEST_PODMAN: (u32, u32) = (4, 3);

/// How much a finding matters. Ordered by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// belayd or its containers cannot work.
    Fault,
    /// Something is missing that only some workloads need.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable name, explained in the documentation of the engine.
    pub code: &'static str,
    /// What was found.
    pub what: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
}

/// What the look at the machine gave.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent observations")]
pub(crate) struct Machine {
    pub(crate) is_root: bool,
    pub(crate) has_sys_resource: bool,
    pub(crate) has_systemd: bool,
    pub(crate) has_setpriv: bool,
    pub(crate) has_runc: bool,
    pub(crate) has_crun: bool,
    pub(crate) has_conmon: bool,
    pub(crate) has_criu: bool,
    pub(crate) has_firewall_tool: bool,
    pub(crate) has_init: bool,
    pub(crate) has_network_plugin: bool,
    pub(crate) settings: Settings,
}

/// The settings of Podman that decide whether containers start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    runtime: Option<String>,
    cgroup_manager: Option<String>,
    events_logger: Option<String>,
    has_ulimits: bool,
}

impl Settings {
    /// Reads configuration texts, of which later ones win. One that is not TOML is passed over, as
    /// the engine will say so itself.
    pub(crate) fn read(texts: &[String]) -> Self {
        let mut settings = Self::default();
        for table in texts.iter().filter_map(|text| text.parse::<toml::Table>().ok()) {
            let text =
                |section: &str, key: &str| Some(table.get(section)?.get(key)?.as_str()?.to_owned());
            settings.runtime = text("engine", "runtime").or(settings.runtime);
            settings.cgroup_manager = text("engine", "cgroup_manager").or(settings.cgroup_manager);
            settings.events_logger = text("engine", "events_logger").or(settings.events_logger);
            settings.has_ulimits |=
                table.get("containers").is_some_and(|it| it.get("default_ulimits").is_some());
        }
        settings
    }
}

/// Reads the effective set of `/proc/<pid>/status`.
pub(crate) fn has_capability(status: &str, bit: u32) -> Option<bool> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    Some(u64::from_str_radix(set.trim(), 16).ok()? & (1 << bit) != 0)
}

fn finding(
    severity: Severity,
    code: &'static str,
    what: impl Into<String>,
    advice: impl Into<String>,
) -> Finding {
    Finding { severity, code, what: what.into(), advice: advice.into() }
}

pub(crate) fn not_listening(socket: &Path, error: &str) -> Finding {
    finding(
        Severity::Fault,
        "engine-not-listening",
        format!("nothing answers on the configured socket {}: {error}", socket.display()),
        "start the engine that listens there, or take the setting out to let belayd find one",
    )
}

pub(crate) fn unusable(socket: &Path, error: &str) -> Finding {
    finding(
        Severity::Fault,
        "engine-unusable",
        format!("something listens on {}, and: {error}", socket.display()),
        "look at the engine's own log",
    )
}

pub(crate) fn nothing(looked_at: &[PathBuf]) -> Finding {
    let looked: Vec<String> = looked_at.iter().map(|path| path.display().to_string()).collect();
    finding(
        Severity::Fault,
        "engine-absent",
        format!("no container engine found; looked at {}", looked.join(", ")),
        "apt-get install --no-install-recommends podman runc iptables ca-certificates",
    )
}

pub(crate) fn own_service(version: Option<&str>) -> Finding {
    match version {
        Some(version) if Version::parse(version).at_least(OLDEST_PODMAN.0, OLDEST_PODMAN.1) => {
            finding(
                Severity::Note,
                "engine-own-service",
                format!("Podman {version}; no service of it runs, belayd starts its own"),
                "",
            )
        }
        Some(version) => finding(
            Severity::Fault,
            "engine-too-old",
            format!("Podman {version} is installed"),
            "install Podman 4.3 or later; Debian 12 has it",
        ),
        None => finding(
            Severity::Fault,
            "engine-unusable",
            "Podman is installed and does not tell its version",
            "run podman --version and see what it says",
        ),
    }
}

pub(crate) fn of_engine(info: &EngineInfo, wanted: bool) -> Vec<Finding> {
    let mut findings = vec![finding(
        Severity::Note,
        "engine-found",
        format!(
            "{} {} (API {}) on {}, runtime {}, control groups by {}",
            info.kind,
            info.version,
            info.api,
            info.socket.display(),
            info.abilities.runtime,
            info.abilities.cgroup_driver
        ),
        "",
    )];
    let mut add = |severity, code, what: String, advice: &str| {
        findings.push(finding(severity, code, what, advice));
    };
    if !wanted {
        add(
            Severity::Fault,
            "engine-wrong-kind",
            format!("the configuration excludes {}", info.kind),
            "change the engine's kind in the configuration, or the socket",
        );
    }
    if info.kind == EngineKind::Podman && !info.version.at_least(OLDEST_PODMAN.0, OLDEST_PODMAN.1) {
        add(
            Severity::Fault,
            "engine-too-old",
            format!("Podman {} answers", info.version),
            "install Podman 4.3 or later; Debian 12 has it",
        );
    }
    if !info.abilities.containers_outlive_engine {
        add(
            Severity::Warning,
            "engine-takes-containers-along",
            "containers end when the engine's daemon is restarted".to_owned(),
            "set \"live-restore\": true in /etc/docker/daemon.json",
        );
    }
    if !info.abilities.checkpoint {
        add(
            Severity::Warning,
            "engine-no-checkpoint",
            format!("{} has no portable checkpoints; workloads can be frozen only", info.kind),
            "use Podman for workloads that are to be suspended",
        );
    }
    for (able, what) in [
        (info.abilities.memory_limit, "memory"),
        (info.abilities.pids_limit, "process"),
        (info.abilities.cpu_limit, "processor"),
    ] {
        if !able {
            add(
                Severity::Warning,
                "engine-no-limit",
                format!("the kernel offers no {what} limits to the engine"),
                "enable the control group controller at the kernel's command line",
            );
        }
    }
    findings
}

pub(crate) fn of_machine(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, code, what: &str, advice: &str| {
        findings.push(finding(severity, code, what, advice));
    };
    if !machine.is_root {
        add(
            Severity::Fault,
            "engine-not-root",
            "this is not root, and rootless Podman is not supported",
            "run as root",
        );
    }
    for (present, what, advice) in [
        (machine.has_setpriv, "setpriv is not installed", "apt-get install util-linux"),
        (machine.has_conmon, "conmon is not installed", "apt-get install conmon"),
        (machine.has_runc || machine.has_crun, "no runtime is installed", "apt-get install runc"),
    ] {
        if !present {
            add(Severity::Fault, "engine-tool-absent", what, advice);
        }
    }
    if !machine.has_network_plugin {
        add(
            Severity::Warning,
            "engine-no-bridge",
            "no network plugin is installed: only host and none networks work",
            "apt-get install containernetworking-plugins, or netavark on Debian 13",
        );
    } else if !machine.has_firewall_tool {
        add(
            Severity::Warning,
            "engine-no-port-forwarding",
            "neither iptables nor nft is installed: no container can have a bridge network",
            "apt-get install iptables",
        );
    }
    let runtime = machine.settings.runtime.as_deref();
    if !machine.has_runc || runtime == Some("crun") {
        add(
            Severity::Warning,
            "engine-crun",
            "containers run under crun, which in Debian 12 has no checkpoint",
            "install runc and set runtime = \"runc\" under [engine] in \
             /etc/containers/containers.conf",
        );
    }
    if !machine.has_criu {
        add(
            Severity::Warning,
            "engine-no-criu",
            "criu is not installed: no workload can be suspended to disk",
            "install criu, 4.2 or later for kernels from 6.16 on",
        );
    }
    if !machine.has_init {
        add(
            Severity::Note,
            "engine-no-init",
            "catatonit is not installed: a workload cannot ask for an init process",
            "apt-get install catatonit",
        );
    }
    if !machine.has_sys_resource && !machine.settings.has_ulimits {
        add(
            Severity::Fault,
            "engine-ulimits",
            "root lacks CAP_SYS_RESOURCE here, so that Podman's default limits cannot be set and no \
             container starts",
            "set default_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"] under \
             [containers] in /etc/containers/containers.conf",
        );
    }
    if !machine.has_systemd {
        if machine.settings.cgroup_manager.as_deref() != Some("cgroupfs") {
            add(
                Severity::Fault,
                "engine-cgroup-manager",
                "systemd does not run here, and Podman is set to make control groups by it",
                "set cgroup_manager = \"cgroupfs\" under [engine] in \
                 /etc/containers/containers.conf",
            );
        }
        if machine.settings.events_logger.as_deref().unwrap_or("journald") == "journald" {
            add(
                Severity::Warning,
                "engine-events",
                "systemd does not run here, and Podman is set to keep its events in the journal",
                "set events_logger = \"file\" under [engine] in /etc/containers/containers.conf",
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests;
