//! What a node says of itself: one page that the API serves and the commands print.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::AlteredEntries;
use crate::record::Capture;
use crate::{
    Cid, ImagesStatus, NodeId, ProbeStatus, ProblemCode, PublisherKey, SyncFleet, SyncKey,
    VolumeName, WorkloadName,
};

/// Version of [`NodeStatus`]'s shape; raised when a field changes its meaning or goes away.
pub const STATUS_SCHEMA: u32 = 2;

/// Everything on one page of JSON (`GET /v1/status`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// [`STATUS_SCHEMA`] of the writer.
    pub schema_version: u32,
    /// Name of this node.
    pub node: NodeId,
    /// Version of belayd.
    pub version: String,
    /// When this belayd started.
    pub started_at: Timestamp,
    /// Whether the first reconciliation is done and the engine answers.
    pub ready: NodeReadiness,
    /// The container engine in use.
    pub engine: EngineStatus,
    /// Every workload, by name.
    pub workloads: Vec<WorkloadStatus>,
    /// Every volume, by workload and name, those without a workload included.
    pub volumes: Vec<VolumeStatus>,
    /// The host's disk below the volumes; absent until it was looked at.
    #[serde(default)]
    pub space: Option<SpaceStatus>,
    /// The images that belayd brought to this host; absent until they were looked at.
    #[serde(default)]
    pub images: Option<ImagesStatus>,
    /// Specs that were found and refused, by file.
    pub refused_specs: Vec<RefusedSpec>,
}

/// Whether a node is ready to be relied on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NodeReadiness {
    /// Reconciled at least once, engine reachable.
    Ready,
    /// Not yet, and why.
    NotReady {
        /// What is awaited or broken.
        reason: String,
    },
}

/// The container engine as belayd sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// `podman` or `docker`; empty while none was reached.
    pub kind: String,
    /// Version as the engine says it.
    pub version: String,
    /// Socket in use.
    pub socket: String,
    /// Whether the last ping was answered.
    pub reachable: bool,
    /// What a snapshot of a run is on this node: `checkpoint`, `pause`, or `none` while no runs are
    /// served.
    pub snapshot: String,
}

/// Whether a workload should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DesiredState {
    /// It should run.
    Running,
    /// An operator stopped it; only deploy and start clear that.
    Stopped,
}

/// Where a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadPhase {
    /// Known, nothing done yet since belayd started.
    Pending,
    /// Its image is being fetched or loaded.
    FetchingImage,
    /// Its volumes are being provided.
    ProvidingVolumes,
    /// It waits for the workloads that it depends on, or for the first content of its key.
    Waiting,
    /// Its container is being created or started.
    Starting,
    /// It runs and its readiness is being gated.
    Probing,
    /// It runs and is ready.
    Ready,
    /// It runs and its probes fail.
    Unready,
    /// It is being stopped.
    Stopping,
    /// It is stopped, as wanted.
    Stopped,
    /// A one-shot that ended with exit code 0.
    Completed,
    /// It is stopped for the moment of a capture or an apply.
    PausedForSync,
    /// It failed and waits for its next start.
    BackOff,
    /// It must not be started before an operator acts.
    Halted,
    /// Its restarts are spent, or it was unhealthy and its spec says stop; it is not started again
    /// before an operator acts.
    Failed,
    /// The engine could not say.
    Unknown,
    /// It is being removed.
    Removing,
}

impl WorkloadPhase {
    /// The word used in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::FetchingImage => "fetching-image",
            Self::ProvidingVolumes => "providing-volumes",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Probing => "probing",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
            Self::PausedForSync => "paused-for-sync",
            Self::BackOff => "back-off",
            Self::Halted => "halted",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Removing => "removing",
        }
    }
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: WorkloadName,
    /// Whether it should run.
    pub desired: DesiredState,
    /// Where it is.
    pub phase: WorkloadPhase,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// One sentence on why it is there.
    pub reason: String,
    /// Where its spec came from: a file's path, or `api`.
    pub source: String,
    /// Image as the spec names it.
    pub image: String,
    /// Id of the image in force; absent before it was had.
    #[serde(default)]
    pub image_id: Option<String>,
    /// Its digest at the registry, where it came from one.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// First 12 characters of the spec's hash.
    pub spec_hash: String,
    /// Counts deploys; labels containers.
    pub generation: u64,
    /// Its container, if there is one.
    pub container: Option<ContainerStatus>,
    /// Restarts that belayd made after failures since the last deploy or start.
    pub restarts: u32,
    /// Set while it waits for its next start.
    pub back_off: Option<BackOffStatus>,
    /// Last fault, kept until the next successful start.
    pub last_fault: Option<Fault>,
    /// Whether its process is ready; absent while none runs.
    #[serde(default)]
    pub ready: Option<ProbeStatus>,
    /// Whether its process is alive; absent where that is not asked, and while none runs.
    #[serde(default)]
    pub live: Option<ProbeStatus>,
    /// Published ports.
    pub ports: Vec<PortStatus>,
    /// Names of its volumes, the system volume included.
    pub volumes: Vec<VolumeName>,
    /// Where its container sees each of them.
    pub mounts: BTreeMap<VolumeName, String>,
    /// The workloads that it depends on, by name.
    #[serde(default)]
    pub depends_on: Vec<DependencyStatus>,
    /// Names of the environment that the app itself has overridden; values are never shown.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Volume-sync, if configured.
    pub sync: Option<SyncStatus>,
}

/// A workload that another depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyStatus {
    /// Its name.
    pub workload: WorkloadName,
    /// What of it is awaited before the other starts.
    pub until: DependencyState,
    /// Why it is not there yet, while a start waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<String>,
}

/// What of a workload is awaited before one that depends on it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DependencyState {
    /// It is ready, or ran to its end with exit code 0.
    Ready,
    /// Its container runs, or it ran to its end with exit code 0.
    Started,
}

impl DependencyState {
    /// The word used in JSON, in specs and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Started => "started",
        }
    }
}

/// A workload's container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Id given by the engine.
    pub id: String,
    /// Name of the container.
    pub name: String,
    /// When it was started, if it ever was.
    pub started_at: Option<Timestamp>,
    /// How it ended, if it did.
    pub exit: Option<ExitStatus>,
    /// Processes in it that the kernel ended for want of memory since it was started, counted every
    /// half minute; the container itself lives on.
    #[serde(default)]
    pub oom_kills: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code as the engine read it; 128 + signal for a signal.
    pub code: i64,
    /// Whether the kernel ended it for want of memory.
    pub out_of_memory: bool,
    /// When.
    pub at: Option<Timestamp>,
}

/// Waiting for the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOffStatus {
    /// Failures in a row.
    pub failures: u32,
    /// When the next start is due.
    pub next_try_at: Timestamp,
}

/// Something that went wrong, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable code, documented in `docs/errors.md`.
    pub code: String,
    /// What failed, on what, and why.
    pub message: String,
    /// The next command or act.
    pub next: String,
    /// When.
    pub at: Timestamp,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Address on the host.
    pub host_address: String,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// One fixed-size volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Workload it belongs to, by its directory.
    pub workload: WorkloadName,
    /// Its name.
    pub name: VolumeName,
    /// Size promised, in bytes.
    pub size_bytes: u64,
    /// Bytes of the host's disk that hold it now.
    pub allocated_bytes: u64,
    /// `ext4`, `xfs` or `btrfs`.
    pub file_system: String,
    /// Whether it is mounted.
    pub mounted: bool,
    /// Path of the mount on the host, while mounted.
    pub mount: Option<String>,
    /// Loop device, while attached.
    pub device: Option<String>,
    /// Mount point in the container, if a workload uses it.
    pub container_path: Option<String>,
    /// Usage, while mounted.
    pub usage: Option<VolumeUsage>,
    /// Whether no workload names it; such a volume is never deleted by itself.
    pub orphan: bool,
    /// What is wrong with it, if anything.
    pub fault: Option<String>,
    /// Whether its space was taken in advance, as far as that is known.
    #[serde(default)]
    pub allocation: Option<VolumeAllocation>,
    /// Whether its writes go past the host's page cache; absent while it is not mounted.
    #[serde(default)]
    pub direct_io: Option<bool>,
    /// How full it is, bytes or inodes, whichever is worse.
    #[serde(default)]
    pub level: VolumeLevel,
    /// Seconds until it is full, if it goes on growing as it does; absent when it does not.
    #[serde(default)]
    pub time_to_full_seconds: Option<u64>,
    /// Errors that its file system has counted, where it counts them (ext4).
    #[serde(default)]
    pub errors: u64,
    /// The last check of its file system.
    #[serde(default)]
    pub last_check: Option<VolumeCheck>,
    /// Names of the states of it that are kept beside the one in use.
    #[serde(default)]
    pub generations: Vec<String>,
}

/// Whether a volume's space is taken when it is made, or as it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeAllocation {
    /// When it is made: the size is a promise.
    Full,
    /// As it fills: the host can run out of space under it.
    Thin,
}

/// How full a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeLevel {
    /// Below both thresholds.
    #[default]
    Normal,
    /// From 80 percent on.
    Warning,
    /// From 95 percent on.
    Critical,
}

/// A check of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCheck {
    /// When.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: CheckOutcome,
}

/// How a check of a file system ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// Nothing was wrong.
    Clean,
    /// What was wrong was repaired.
    Repaired,
    /// Something is left that needs a person.
    Damaged,
}

/// The host's file system below the volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Bytes that it can still give.
    pub available_bytes: u64,
    /// Bytes that the volumes were promised.
    pub promised_bytes: u64,
    /// Bytes of the promises that are not allocated yet.
    pub missing_bytes: u64,
    /// Whether it could not keep all promises at once.
    pub overcommitted: bool,
    /// How a generation of a volume is kept there; absent when that could not be found out.
    pub generations: Option<GenerationStorage>,
}

/// How a generation of a volume is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationStorage {
    /// It shares blocks with its volume, and is made in milliseconds.
    Shared,
    /// It is a whole copy.
    Copied,
}

/// What of a volume is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUsage {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes the container can still write.
    pub available_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Inodes in all.
    pub total_inodes: u64,
    /// Whether the file system is read-only.
    pub read_only: bool,
}

/// Role in volume-sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncRole {
    /// Publishes.
    Provider,
    /// Applies.
    Consumer,
}

/// Volume-sync of one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// Provider or consumer.
    pub role: SyncRole,
    /// Key shared by both.
    pub key: SyncKey,
    /// What it does now: `idle`, or the stage it is in.
    pub stage: String,
    /// The last publish that was confirmed (provider).
    pub last_publish: Option<SyncOutcome>,
    /// The last apply that was committed (consumer).
    pub last_apply: Option<SyncOutcome>,
    /// Newest record seen under the key.
    pub head: Option<SyncHead>,
    /// Last failure, kept until the next success.
    pub last_failure: Option<SyncFailure>,
    /// Why nothing that is superseded is deleted in the store, if it is so (provider).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement: Option<SyncFailure>,
    /// Content that failed and is not tried before its time, by cid.
    pub quarantine: BTreeMap<String, Timestamp>,
    /// Set when a volume's state is uncertain and the workload is held.
    pub halted: Option<String>,
    /// Since when it publishes and applies nothing, as an operator asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Timestamp>,
    /// What waits: for the end of a pause, or for its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// When it has waited long enough; none if an operator ends that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_until: Option<Timestamp>,
    /// When it publishes next by itself (provider).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_publish: Option<Timestamp>,
    /// What an operator went back to (consumer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<SyncHeld>,
    /// The content that was taken back last, since the workload did not become ready on it, for as
    /// long as it is held against it (consumer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<SyncTakenBack>,
    /// Set on a provider in whose place another node publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<SyncFence>,
    /// Why the last look at the head left the volumes without it; absent while they hold it
    /// (consumer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unapplied: Option<String>,
    /// Set while the workload is not started since its volumes hold nothing of the key yet
    /// (consumer).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstContentStatus>,
    /// What consumers of the key acknowledge (provider).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<SyncFleet>,
}

/// A workload that waits for the first content of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstContentStatus {
    /// Since when, over restarts of belayd.
    pub since: Timestamp,
    /// When it is started without; absent if it waits for as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why nothing is there yet.
    pub why: String,
}

/// A generation that a consumer holds in the place of later ones, as an operator asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncHeld {
    /// Its content.
    pub cid: Cid,
    /// Order of its record under its key.
    pub seq: u64,
    /// Epoch of the last record that is not applied for it.
    pub left_epoch: u64,
    /// Order of the last record that is not applied for it.
    pub left_seq: u64,
    /// When it was asked for.
    pub since: Timestamp,
}

/// Content on which a workload did not become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncTakenBack {
    /// Which.
    pub cid: Cid,
    /// When that was decided.
    pub at: Timestamp,
    /// What its probe said, or how it ended.
    pub reason: String,
    /// Times in a row that it was taken back or failed.
    pub failures: u32,
}

/// Another node publishes under the key in the place of this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncFence {
    /// Which.
    pub node: NodeId,
    /// Who signs there; none if nobody did.
    pub signer: Option<PublisherKey>,
    /// Epoch of its record.
    pub epoch: u64,
    /// Number of its record.
    pub seq: u64,
    /// When that was made, by its clock.
    pub at: Timestamp,
}

/// A confirmed publish or a committed apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncOutcome {
    /// What was published or applied.
    pub cid: Cid,
    /// Informative version, seconds since 1970.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// Bytes stored or fetched.
    pub bytes: u64,
    /// How long the container was down for it, in milliseconds.
    pub downtime_ms: u64,
    /// How long all of it took, in milliseconds.
    pub duration_ms: u64,
    /// What the capture of a publish was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// Why it was that, if it was not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_fallback: Option<String>,
    /// What an apply made otherwise than it is in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<AlteredEntries>,
}

/// Newest record under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncHead {
    /// Content it names.
    pub cid: Cid,
    /// Raised by each takeover; with `seq` the order of the record under its key.
    #[serde(default = "first_epoch")]
    pub epoch: u64,
    /// Order of the record under its key.
    pub seq: u64,
    /// Informative version, seconds since 1970.
    pub version: u64,
    /// Node that published it.
    pub node: NodeId,
    /// Who signed it; none if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublisherKey>,
}

fn first_epoch() -> u64 {
    1
}

/// A failed publish or apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncFailure {
    /// Stage that failed.
    pub stage: String,
    /// What kind of failure it is, where it is one with a paragraph of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ProblemCode>,
    /// What failed and why.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

/// A spec that was refused whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSpec {
    /// Its file.
    pub file: String,
    /// Every fault found in it.
    pub faults: Vec<SpecFault>,
}

/// One fault in a spec or in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecFault {
    /// File and, where known, line, as in `web.toml:12`.
    pub file: String,
    /// Key, dotted, as in `volumes.data.size`.
    pub key: String,
    /// What was found there.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// The nearest valid name, where one is near.
    pub nearest: Option<String>,
}

impl std::fmt::Display for SpecFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: found {}, expected {}", self.file, self.key, self.found, self.expected)?;
        match &self.nearest {
            Some(nearest) => write!(f, " (did you mean {nearest:?}?)"),
            None => Ok(()),
        }
    }
}
