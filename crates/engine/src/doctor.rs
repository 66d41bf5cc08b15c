//! What there is of an engine on this machine, told without changing anything.

use std::path::Path;
use std::time::Duration;

use crate::blocking;
use crate::connect::{Choice, EngineOptions, answers, choose};
use crate::core::abilities::EngineKind;
use crate::core::diagnosis::{self, Machine};
use crate::engine::{Engine, EngineInfo};
use crate::service::{PODMAN, SETPRIV};

pub use crate::core::diagnosis::{Finding, Severity};

/// How long `podman --version` may take.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorReport {
    /// The engine that answers, if one does. Where belayd would start its own Podman service none
    /// does yet.
    pub engine: Option<EngineInfo>,
    /// In the order in which they are worth reading, faults first.
    pub findings: Vec<Finding>,
}

impl DoctorReport {
    /// Whether belayd can work with what there is.
    pub fn is_usable(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Fault)
    }
}

/// Looks at what [`crate::connect`] would use. Starts nothing, writes nothing.
pub async fn examine(options: &EngineOptions) -> DoctorReport {
    let mut findings = Vec::new();
    let choice = match &options.socket {
        Some(socket) => match answers(socket).await {
            Ok(()) => Choice::Socket(socket.clone()),
            Err(error) => {
                findings.push(diagnosis::not_listening(socket, &error.to_string()));
                Choice::Nothing { looked_at: vec![socket.clone()] }
            }
        },
        None => choose(options.kind).await,
    };
    let mut engine = None;
    let kind = match choice {
        Choice::Socket(socket) => match Engine::open(&socket).await {
            Ok(found) => {
                let info = found.info().clone();
                findings.extend(diagnosis::of_engine(&info, options.kind.takes(info.kind)));
                let kind = info.kind;
                engine = Some(info);
                Some(kind)
            }
            Err(error) => {
                findings.push(diagnosis::unusable(&socket, &error.to_string()));
                None
            }
        },
        Choice::OwnService => {
            findings.push(diagnosis::own_service(podman_version().await.as_deref()));
            Some(EngineKind::Podman)
        }
        Choice::Nothing { looked_at } => {
            if options.socket.is_none() {
                findings.push(diagnosis::nothing(&looked_at));
            }
            None
        }
    };
    if kind == Some(EngineKind::Podman) {
        let own = options.socket.is_none() && engine.is_none();
        let machine = blocking::run(move || look(own)).await;
        findings.extend(diagnosis::of_machine(&machine));
    }
    findings.sort_by_key(|finding| finding.severity);
    DoctorReport { engine, findings }
}

async fn podman_version() -> Option<String> {
    let version = tokio::process::Command::new(PODMAN)
        .arg("--version")
        .env_clear()
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_WITHIN, version).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.trim().strip_prefix("podman version ")?.to_owned())
}

/// Version of the CRIU that engines find on this host, as in `4.2.1`; `None` where there is none.
pub async fn criu_version() -> Option<String> {
    let program = CRIU.iter().find(|path| Path::new(path).exists())?;
    let version = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_WITHIN, version).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| Some(line.strip_prefix("Version: ")?.trim().to_owned()))
}

/// Where Debian and upstream put each program.
const RUNC: &[&str] = &["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"];
const CRUN: &[&str] = &["/usr/bin/crun", "/usr/local/bin/crun"];
const CONMON: &[&str] = &["/usr/bin/conmon", "/usr/libexec/podman/conmon"];
const CRIU: &[&str] = &["/usr/local/sbin/criu", "/usr/sbin/criu", "/usr/bin/criu"];
const IPTABLES: &[&str] = &["/usr/sbin/iptables", "/sbin/iptables"];
const NFT: &[&str] = &["/usr/sbin/nft", "/sbin/nft"];
const INIT: &[&str] = &["/usr/libexec/podman/catatonit", "/usr/bin/catatonit"];
const NETWORK: &[&str] =
    &["/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/lib/podman/netavark"];

fn look(own_service: bool) -> Machine {
    let any = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    Machine {
        is_root: nix::unistd::geteuid().is_root(),
        has_sys_resource: std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| diagnosis::has_capability(&status, diagnosis::CAP_SYS_RESOURCE))
            .unwrap_or(true),
        has_systemd: Path::new("/run/systemd/system").is_dir(),
        has_setpriv: !own_service || any(&[SETPRIV]),
        has_runc: any(RUNC),
        has_crun: any(CRUN),
        has_conmon: any(CONMON),
        has_criu: any(CRIU),
        has_firewall_tool: any(IPTABLES) || any(NFT),
        has_init: any(INIT),
        has_network_plugin: any(NETWORK),
        settings: diagnosis::Settings::read(&configuration()),
    }
}

/// The texts of Podman's configuration, in the order in which later ones win.
fn configuration() -> Vec<String> {
    let mut files = vec![
        Path::new("/usr/share/containers/containers.conf").to_owned(),
        Path::new("/etc/containers/containers.conf").to_owned(),
    ];
    if let Ok(folder) = std::fs::read_dir("/etc/containers/containers.conf.d") {
        let mut parts: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
        parts.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        parts.sort();
        files.extend(parts);
    }
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}
