//! A workload's spec: parsed whole, every fault reported at once, trusted afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_protocol::{SpecFault, VolumeName, WorkloadName};
use belay_volumes::{
    Allocation, ByteSize, Execution, FileSystem, MountPointFault, Owner, SYSTEM_VOLUME, VolumeId,
    VolumeRole, VolumeSpec,
};

mod confinement;
mod dependencies;
pub mod secrets;
mod sync;

pub use confinement::{Confinement, DROPPED};
pub use dependencies::{AddressPart, Dependency, ProviderRestart, ValueSource};
pub use sync::SyncDeclaration;

use super::environment;
use super::images::reference::ImageReference;
use super::keys::{self, Entry, Faults, Keys};
use super::stop::PreStop;
use super::watch;

mod probes;
mod runner;

pub use probes::{HttpProbe, LiveAction, LiveSpec, ProbeSpec, ReadySpec};
pub use runner::RunnerSpec;

/// A workload as its operator declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadSpec {
    /// Its name.
    pub name: WorkloadName,
    /// Where its image comes from.
    pub image: ImageSource,
    /// When the image is fetched anew.
    pub pull: PullPolicy,
    /// File with the credentials for its registry, by absolute path.
    pub registry_auth_file: Option<PathBuf>,
    /// Arguments, instead of the image's.
    pub command: Option<Vec<String>>,
    /// Entry point, instead of the image's.
    pub entrypoint: Option<Vec<String>>,
    /// User, instead of the image's.
    pub user: Option<String>,
    /// Working directory, instead of the image's.
    pub working_dir: Option<String>,
    /// Host name in the container; the workload's name if not given.
    pub hostname: Option<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Environment that is taken from a workload that this one depends on.
    pub env_from: BTreeMap<String, ValueSource>,
    /// The workloads that must be there before it starts.
    pub depends_on: BTreeMap<WorkloadName, Dependency>,
    /// Network.
    pub network: NetworkMode,
    /// Published ports.
    pub ports: Vec<PortSpec>,
    /// Whether the image's file system can be written.
    pub root: RootMode,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// Restarts after failures in a row before it is given up; none is no such limit.
    pub restart_limit: Option<u32>,
    /// How long after it became ready a version that fails again and again gives way to the one
    /// before; zero is never.
    pub rollback_window: Duration,
    /// How long it may take to stop before it is killed.
    pub stop_grace: Duration,
    /// Signal that asks it to stop, instead of the image's.
    pub stop_signal: Option<String>,
    /// A command that is run in it before it is asked to stop.
    pub pre_stop: Option<PreStop>,
    /// What it is kept from.
    pub confinement: Confinement,
    /// Limits on what it may use.
    pub limits: LimitSpec,
    /// Files of the host that it sees as secrets, by name.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Fixed-size volumes, by name.
    pub volumes: BTreeMap<VolumeName, VolumeDeclaration>,
    /// Where the system volume is mounted.
    pub system_mount: String,
    /// What makes it ready.
    pub ready: ReadySpec,
    /// What the app may ask for in its system volume.
    pub app_requests: AppRequestsSpec,
    /// What is asked of it once it was ready, if anything.
    pub live: Option<LiveSpec>,
    /// Volume-sync, if wanted.
    pub sync: Option<SyncDeclaration>,
    /// Set when it takes runs, in containers that are made of it as they are needed.
    pub runner: Option<RunnerSpec>,
}

/// What an app may ask for in the control files of its system volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppRequestsSpec {
    /// Another environment.
    pub overrides: Permission,
    /// Empty volumes.
    pub reset: Permission,
}

/// Whether an app may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// It may.
    Granted,
    /// It may not.
    Denied,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A registry, by reference.
    Registry(String),
    /// A root file system tar or an image archive on this host, by absolute path.
    File(PathBuf),
}

impl std::fmt::Display for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(reference),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// When it is not on the host.
    Missing,
    /// At every deploy.
    Always,
    /// Never: it must be there.
    Never,
}

/// The container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// The engine's bridge; ports are published.
    Bridge,
    /// The host's own network.
    Host,
    /// None but loopback.
    None,
}

/// Whether the image's file system can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMode {
    /// It can.
    Writable,
    /// It cannot.
    ReadOnly,
}

/// When a workload is started again after it ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0; with 0 it is completed.
    OnFailure,
    /// Never.
    Never,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpec {
    /// Address on the host.
    pub address: IpAddr,
    /// Port on the host.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// Transport.
    pub transport: Transport,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Limits on what a workload may use; absent means unlimited but for `pids`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSpec {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Processor time, in billionths of one processor.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: u32,
    /// Whether the spec names that number.
    pub pids_asked: bool,
}

/// A fixed-size volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDeclaration {
    /// Its size.
    pub size: ByteSize,
    /// Absolute path in the container.
    pub mount: String,
    /// Its file system.
    pub file_system: FileSystem,
    /// Owner of its root directory; the image's user if not given.
    pub owner: Option<Owner>,
    /// Whether the host's space is taken in advance.
    pub allocation: Allocation,
    /// Whether programs on it may be run.
    pub execution: Execution,
    /// Whether the app may have it emptied.
    pub app_reset: Permission,
}

impl VolumeDeclaration {
    /// The volume that is asked for.
    pub fn of(&self, workload: &WorkloadName, volume: &VolumeName) -> VolumeSpec {
        VolumeSpec {
            id: VolumeId { workload: workload.clone(), volume: volume.clone() },
            size: self.size,
            file_system: self.file_system,
            allocation: self.allocation,
            owner: self.owner,
            role: VolumeRole::Data,
            execution: self.execution,
        }
    }
}

/// Reads a spec. `file` names it in faults; relative paths in it are below `directory`.
pub fn parse(text: &str, file: &str, directory: &Path) -> Result<WorkloadSpec, Vec<SpecFault>> {
    let faults = Faults::new(file, text);
    let spec = keys::parse(text, &faults)
        .and_then(|document| read(Keys::root(&document, &faults), directory));
    let faults = faults.into_vec();
    match spec {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => Err(faults),
    }
}

fn read(mut keys: Keys<'_>, directory: &Path) -> Option<WorkloadSpec> {
    let name: Option<WorkloadName> = required(&mut keys, "name", "a workload name");
    let image = read_image(&mut keys, directory);
    let pull = keys.choice(
        "pull",
        &[
            ("missing", PullPolicy::Missing),
            ("always", PullPolicy::Always),
            ("never", PullPolicy::Never),
        ],
    );
    let registry_auth_file = keys
        .text("registry_auth_file", "a path of a file as podman login writes it")
        .map(|path| directory.join(path));
    let command = keys.texts("command", "a list of texts, the program and its arguments");
    let entrypoint = keys.texts("entrypoint", "a list of texts");
    let user = keys.text("user", "a user, as in \"1000\", \"1000:1000\" or \"app\"");
    let working_dir = read_absolute(&mut keys, "working_dir");
    let hostname = keys.text("hostname", "a host name");
    let depends_on = dependencies::read(&mut keys, name.as_ref());
    let (env, env_from) = read_env(&mut keys, &depends_on);
    let network = keys.choice(
        "network",
        &[
            ("bridge", NetworkMode::Bridge),
            ("host", NetworkMode::Host),
            ("none", NetworkMode::None),
        ],
    );
    let network = network.unwrap_or(NetworkMode::Bridge);
    let root = match keys.boolean("read_only") {
        Some(true) => RootMode::ReadOnly,
        Some(false) | None => RootMode::Writable,
    };
    let restart = keys.choice(
        "restart",
        &[
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ],
    );
    let restart = restart.unwrap_or(RestartPolicy::Always);
    let restart_limit =
        keys.integer("restart_limit", 1..=1000).and_then(|limit| u32::try_from(limit).ok());
    if restart_limit.is_some() && restart == RestartPolicy::Never {
        keys.fault("restart_limit", "a limit", "no limit, as it is never started again");
    }
    let window = keys.duration("rollback_window", Duration::ZERO..=watch::LONGEST);
    let rollback_window = window.unwrap_or(Duration::from_secs(300));
    let grace = Duration::ZERO..=Duration::from_secs(3600);
    let stop_grace = keys.duration("stop_grace", grace).unwrap_or(Duration::from_secs(10));
    let stop_signal = keys.text("stop_signal", "a signal name, as in \"SIGTERM\"");
    let pre_stop = read_pre_stop(&mut keys);
    let confinement = confinement::read(&mut keys, network);
    let ports = read_ports(&mut keys, network);
    let limits = read_limits(&mut keys);
    let system_mount = read_system_mount(&mut keys);
    let volumes = read_volumes(&mut keys, &system_mount, name.as_ref());
    let secrets = secrets::read(&mut keys, directory);
    report_hidden(&keys, &confinement, &volumes, &system_mount, &secrets);
    let reach = probes::Reach { ports: &ports, network };
    let ready = probes::read_ready(&mut keys, reach);
    let live = probes::read_live(&mut keys, reach, &ready.probe);
    let app_requests = read_app_requests(&mut keys);
    let sync = sync::read(&mut keys, directory);
    let runner = runner::read(&mut keys, network, limits.memory);
    keys.finish();
    Some(WorkloadSpec {
        name: name?,
        image: image?,
        pull: pull.unwrap_or(PullPolicy::Missing),
        registry_auth_file,
        command,
        entrypoint,
        user: user.map(str::to_owned),
        working_dir,
        hostname: hostname.map(str::to_owned),
        env,
        env_from,
        depends_on,
        network,
        ports,
        root,
        restart,
        restart_limit,
        rollback_window,
        stop_grace,
        stop_signal: stop_signal.map(str::to_owned),
        pre_stop,
        confinement,
        limits,
        secrets,
        volumes,
        system_mount,
        ready,
        app_requests,
        live,
        sync,
        runner,
    })
}

fn required<T: std::str::FromStr>(
    keys: &mut Keys<'_>,
    key: &'static str,
    expected: &str,
) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    if !keys.has(key) {
        keys.missing(key, expected);
    }
    keys.parsed(key, expected)
}

fn read_image(keys: &mut Keys<'_>, directory: &Path) -> Option<ImageSource> {
    const EXPECTED: &str = "an image reference such as \"docker.io/library/alpine:3.20\", or \
                            \"file:PATH\" of an image archive or a root file system tar";
    if !keys.has("image") {
        keys.missing("image", EXPECTED);
    }
    let text = keys.text("image", EXPECTED)?;
    if let Some(path) = text.strip_prefix("file:") {
        if path.is_empty() {
            keys.fault("image", "\"file:\" without a path", EXPECTED);
            return None;
        }
        return Some(ImageSource::File(directory.join(path)));
    }
    match ImageReference::parse(text) {
        Ok(_) => Some(ImageSource::Registry(text.to_owned())),
        Err(found) => {
            keys.fault("image", &found, EXPECTED);
            None
        }
    }
}

fn read_env(
    keys: &mut Keys<'_>,
    depends_on: &BTreeMap<WorkloadName, Dependency>,
) -> (BTreeMap<String, String>, BTreeMap<String, ValueSource>) {
    const EXPECTED: &str = "a text, a number, a boolean, or a table with from and port";
    let (mut env, mut env_from) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in keys.map("env", EXPECTED) {
        let path = format!("env.{name}");
        if !environment::is_valid_name(name) {
            keys.fault_at("env", &path, &format!("{name:?}"), environment::NAME_RULE);
            continue;
        }
        if environment::is_reserved(name) {
            keys.fault_at(
                "env",
                &path,
                "a name that belayd sets itself",
                "a name outside BELAY_* and R1_*",
            );
            continue;
        }
        match value {
            Entry::Text(value) if value.contains('\0') => {
                keys.fault_at("env", &path, "a NUL character", "a text without it");
            }
            Entry::Text(value) => _ = env.insert(name.to_owned(), value),
            Entry::Table(table) => {
                let source = dependencies::read_source(table, depends_on);
                env_from.extend(source.map(|source| (name.to_owned(), source)));
            }
        }
    }
    (env, env_from)
}

/// Parses an absolute, normalised container path.
fn read_absolute(keys: &mut Keys<'_>, key: &'static str) -> Option<String> {
    const EXPECTED: &str = "an absolute path in the container, without '.', '..' or a double slash";
    let text = keys.text(key, EXPECTED)?;
    let path = normal_path(text);
    if path.is_none() {
        keys.fault(key, &format!("{text:?}"), EXPECTED);
    }
    path
}

fn normal_path(text: &str) -> Option<String> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let rest = trimmed.strip_prefix('/')?;
    let clean = !rest.is_empty()
        && !text.contains('\0')
        && rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
    clean.then(|| trimmed.to_owned())
}

fn read_ports(keys: &mut Keys<'_>, network: NetworkMode) -> Vec<PortSpec> {
    let mut ports: Vec<PortSpec> = Vec::new();
    for mut port in keys.tables("ports") {
        if !port.has("container") {
            port.missing("container", "the port in the container");
        }
        let container = port.port("container");
        let host = if port.has("host") { port.port("host") } else { container };
        let address = port
            .parsed("address", "an IP address of this host, as in \"127.0.0.1\"")
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let transport = port
            .choice("protocol", &[("tcp", Transport::Tcp), ("udp", Transport::Udp)])
            .unwrap_or(Transport::Tcp);
        if let (Some(container), Some(host)) = (container, host) {
            let new = PortSpec { address, host, container, transport };
            if let Some(other) = ports.iter().find(|old| overlaps(old, &new)) {
                let found = format!("{host}, which container port {} has too", other.container);
                port.fault("host", &found, "a host port of its own");
            } else {
                ports.push(new);
            }
        }
        port.finish();
    }
    if network != NetworkMode::Bridge && !ports.is_empty() {
        keys.fault(
            "ports",
            "published ports",
            "network = \"bridge\": with the host's network every port is the host's own, with \
             none there is nothing to publish",
        );
    }
    ports
}

/// Whether two published ports would want the same socket of the host.
pub fn overlaps(one: &PortSpec, other: &PortSpec) -> bool {
    one.host == other.host
        && one.transport == other.transport
        && (one.address == other.address
            || one.address.is_unspecified()
            || other.address.is_unspecified())
}

fn read_pre_stop(keys: &mut Keys<'_>) -> Option<PreStop> {
    const EXPECTED: &str = "a list of texts, the program and its arguments";
    let mut table = keys.table("pre_stop")?;
    if !table.has("command") {
        table.missing("command", EXPECTED);
    }
    let command = table.texts("command", EXPECTED);
    if command.as_ref().is_some_and(Vec::is_empty) {
        table.fault("command", "an empty list", EXPECTED);
    }
    let bounds = Duration::from_millis(100)..=Duration::from_secs(600);
    let timeout = table.duration("timeout", bounds).unwrap_or(Duration::from_secs(5));
    table.finish();
    Some(PreStop { command: command?, timeout })
}

fn read_limits(keys: &mut Keys<'_>) -> LimitSpec {
    const DEFAULT_PIDS: u32 = 4096;
    let mut limits =
        LimitSpec { memory: None, nano_cpus: None, pids: DEFAULT_PIDS, pids_asked: false };
    if let Some(mut table) = keys.table("limits") {
        const SMALLEST: u64 = 6 * 1024 * 1024;
        if let Some(memory) = table.parsed::<ByteSize>("memory", "a size such as \"256M\"") {
            if memory.as_u64() < SMALLEST {
                table.fault("memory", &memory.to_string(), "at least 6M, or nothing can start");
            }
            limits.memory = Some(memory.as_u64());
        }
        limits.nano_cpus =
            table.positive("cpus", "a number of processors above 0, as in 0.5 or 2").map(|cpus| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "positive and finite; `as` saturates"
                )]
                let nano = (cpus * 1e9) as u64;
                nano
            });
        if let Some(pids) = table.integer("pids", 1..=4_194_304) {
            limits.pids = u32::try_from(pids).expect("bounded just above");
            limits.pids_asked = true;
        }
        table.finish();
    }
    limits
}

fn read_system_mount(keys: &mut Keys<'_>) -> String {
    let mut mount = None;
    if let Some(mut table) = keys.table("system_volume") {
        mount = read_absolute(&mut table, "mount");
        table.finish();
    }
    mount.unwrap_or_else(|| environment::SYSTEM_MOUNT.to_owned())
}

fn read_volumes(
    keys: &mut Keys<'_>,
    system_mount: &str,
    workload: Option<&WorkloadName>,
) -> BTreeMap<VolumeName, VolumeDeclaration> {
    // A spec without a usable name is refused anyway; its sizes are checked all the same.
    let unnamed: WorkloadName = "unnamed".parse().expect("it is a workload name");
    let workload = workload.unwrap_or(&unnamed);
    let mut volumes = BTreeMap::new();
    let mut mounts = BTreeSet::from([system_mount.to_owned()]);
    for (name, mut table) in keys.named_tables("volumes") {
        let parsed = name.parse::<VolumeName>();
        if let Err(error) = &parsed {
            table.fault("", &format!("{name:?}"), &format!("a volume name ({error})"));
        } else if name == SYSTEM_VOLUME {
            table.fault(
                "",
                &format!("{name:?}"),
                "another name: every workload has a system volume already",
            );
        }
        let size = required::<ByteSize>(&mut table, "size", "a size such as \"64M\" or \"1G\"");
        if !table.has("mount") {
            table.missing("mount", "an absolute path in the container");
        }
        let mount = read_absolute(&mut table, "mount");
        if let Some(mount) = &mount
            && !mounts.insert(mount.clone())
        {
            table.fault("mount", &format!("{mount:?}"), "a path that no other volume has");
        }
        let file_system = table
            .choice(
                "file_system",
                &[
                    ("ext4", FileSystem::Ext4),
                    ("xfs", FileSystem::Xfs),
                    ("btrfs", FileSystem::Btrfs),
                ],
            )
            .unwrap_or(FileSystem::Ext4);
        let owner = read_owner(&mut table);
        let allocation = match table.boolean("thin") {
            Some(true) => Allocation::Thin,
            Some(false) | None => Allocation::Full,
        };
        let execution = match table.boolean("noexec") {
            Some(true) => Execution::Denied,
            Some(false) | None => Execution::Allowed,
        };
        let app_reset = permission(&mut table, "app_reset");
        if let (Ok(name), Some(size), Some(mount)) = (parsed, size, mount) {
            let declaration = VolumeDeclaration {
                size,
                mount,
                file_system,
                owner,
                allocation,
                execution,
                app_reset,
            };
            if let Err(fault) = belay_volumes::check_spec(&declaration.of(workload, &name)) {
                table.fault("size", &size.to_string(), &format!("another size ({fault})"));
            }
            volumes.insert(name, declaration);
        }
        table.finish();
    }
    report_nested(keys, &volumes, system_mount);
    volumes
}

/// A volume inside another would hide what lies there, and could be published or replaced with it.
fn report_nested(
    keys: &Keys<'_>,
    volumes: &BTreeMap<VolumeName, VolumeDeclaration>,
    system_mount: &str,
) {
    let mounts: Vec<_> =
        volumes.iter().map(|(name, volume)| (name.clone(), volume.mount.clone())).collect();
    for fault in belay_volumes::check_mount_points(&mounts, Some(system_mount)) {
        if let MountPointFault::Nested { inner, inner_path, outer, outer_path } = &fault {
            let path = format!("volumes.{inner}.mount");
            let found = format!("{inner_path:?}, inside {outer_path:?} of volume {outer}");
            keys.fault_at("volumes", &path, &found, "a path outside every other volume");
        }
    }
}

/// A file system in memory over, above or below a volume would hide one of them.
fn report_hidden(
    keys: &Keys<'_>,
    confinement: &Confinement,
    volumes: &BTreeMap<VolumeName, VolumeDeclaration>,
    system_mount: &str,
    secrets: &BTreeMap<String, PathBuf>,
) {
    let apart = |a: &str, b: &str| !Path::new(a).starts_with(b) && !Path::new(b).starts_with(a);
    let mounts = || volumes.values().map(|volume| volume.mount.as_str()).chain([system_mount]);
    if !secrets.is_empty() {
        // One above is mounted before them and hides nothing.
        let tmpfs = confinement.tmpfs.keys().map(String::as_str);
        let hides = |mount: &&str| Path::new(mount).starts_with(secrets::MOUNT);
        if let Some(mount) = mounts().chain(tmpfs).find(hides) {
            let expected = format!("no other mount in {:?}, where secrets are", secrets::MOUNT);
            keys.fault("secrets", &format!("{mount:?}"), &expected);
        }
    }
    for path in confinement.tmpfs.keys() {
        if let Some(mount) = mounts().find(|mount| !apart(mount, path)) {
            let expected = format!("a path apart from {mount:?}, where a volume is");
            keys.fault_at("tmpfs", &format!("tmpfs.{path}"), &format!("{path:?}"), &expected);
        }
    }
}

fn read_owner(keys: &mut Keys<'_>) -> Option<Owner> {
    const EXPECTED: &str = "numeric ids, as in \"1000\" or \"1000:1000\"";
    let text = keys.text("owner", EXPECTED)?;
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    if let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) {
        return Some(Owner { uid, gid });
    }
    keys.fault("owner", &format!("{text:?}"), EXPECTED);
    None
}

fn permission(keys: &mut Keys<'_>, key: &'static str) -> Permission {
    match keys.boolean(key) {
        Some(false) => Permission::Denied,
        Some(true) | None => Permission::Granted,
    }
}

fn read_app_requests(keys: &mut Keys<'_>) -> AppRequestsSpec {
    let mut spec = AppRequestsSpec { overrides: Permission::Granted, reset: Permission::Granted };
    if let Some(mut table) = keys.table("app_requests") {
        spec.overrides = permission(&mut table, "env_overrides");
        spec.reset = permission(&mut table, "reset");
        table.finish();
    }
    spec
}

#[cfg(test)]
mod tests;
