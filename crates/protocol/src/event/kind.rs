//! Every kind of event, with what belongs to it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventText, SnapshotMeans, SnapshotUnwanted};
use crate::runner::{Attempt, RunId, RunnerId, SnapshotOmission, TravelId, WaitRequest};
use crate::{
    CheckOutcome, Cid, NodeId, SyncRole, VolumeAct, VolumeFate, VolumeLevel, WorkloadPhase,
};

macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $name:literal { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* }
    )*) => {
        /// Kind of an event. Each has a paragraph in `docs/events.md`.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum EventKind {
            $( $(#[$doc])* #[serde(rename = $name)] $kind, )*
        }

        impl EventKind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The word used in JSON, in queries and in tables.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }

        /// Kind of an event, with what belongs to it.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "details", deny_unknown_fields)]
        pub enum EventDetails {
            $(
                $(#[$doc])*
                #[serde(rename = $name)]
                $kind { $( $(#[$field_doc])* $field: $type, )* },
            )*
        }

        impl EventDetails {
            /// Its kind.
            pub fn kind(&self) -> EventKind {
                match self { $(Self::$kind { .. } => EventKind::$kind,)* }
            }
        }
    };
}

kinds! {
    /// belayd is up.
    BelaydStarted = "belayd-started" {
        /// Its version.
        version: EventText,
        /// Id of the host's present boot.
        boot_id: EventText,
        /// How the belayd before it ended.
        last_end: LastEnd,
    }
    /// belayd was asked to end. Workloads keep running.
    BelaydStopping = "belayd-stopping" {}
    /// The container engine answers, for the first time or again.
    EngineReached = "engine-reached" {
        /// `podman` or `docker`.
        engine: EventText,
        /// Version as the engine says it.
        version: EventText,
    }
    /// The container engine does not answer. Workloads keep running and nothing is done to them.
    EngineLost = "engine-lost" {
        /// Why, as far as that is known.
        cause: EventText,
    }
    /// The ledger could not be used; it was put aside and an empty one was begun.
    LedgerReplaced = "ledger-replaced" {
        /// Where the unusable file lies now.
        kept: EventText,
        /// What was wrong with it.
        cause: EventText,
    }
    /// Events were given up and are in no ledger.
    EventsLost = "events-lost" {
        /// How many.
        count: u64,
        /// Why.
        cause: LossCause,
    }
    /// Not all volumes could still be given what they were promised.
    HostOvercommitted = "host-overcommitted" {
        /// Bytes that the volumes may still come to need.
        missing_bytes: u64,
        /// Bytes that the host's disk can give.
        available_bytes: u64,
    }
    /// All volumes can be given what they were promised again.
    HostRelieved = "host-relieved" {}

    /// A workload went from one phase to another.
    PhaseChanged = "phase-changed" {
        /// Phase left.
        from: WorkloadPhase,
        /// Phase entered.
        to: WorkloadPhase,
        /// Why.
        cause: EventText,
    }
    /// An operator asked for something, and it was taken.
    Asked = "asked" {
        /// What.
        verb: AskedVerb,
    }
    /// A new version is in force and is being brought up; the version before is kept.
    DeployBegun = "deploy-begun" {
        /// Generation of the new version.
        generation: u64,
        /// Generation of the version before, if there is one to go back to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<u64>,
        /// Image, as the spec names it.
        image: EventText,
    }
    /// A new version is ready, or ran to its end; the version before is gone.
    DeployReady = "deploy-ready" {
        /// Its generation.
        generation: u64,
    }
    /// A new version was given up and the version before is in force again.
    DeployRolledBack = "deploy-rolled-back" {
        /// Generation that was given up.
        generation: u64,
        /// Generation that is in force again.
        restored: u64,
        /// Why.
        cause: EventText,
    }
    /// A deploy was refused before anything was changed.
    DeployRefused = "deploy-refused" {
        /// Code of the problem, as in `docs/errors.md`.
        code: EventText,
        /// Why.
        cause: EventText,
    }
    /// A container ended by itself, and counts as failed.
    Crashed = "crashed" {
        /// Exit code as the engine read it; 128 + signal for a signal.
        exit_code: i64,
        /// Whether the kernel ended it for want of memory.
        out_of_memory: bool,
    }
    /// A container ended by itself and is not started again.
    Ended = "ended" {
        /// Exit code as the engine read it.
        exit_code: i64,
        /// Whether the kernel ended it for want of memory.
        out_of_memory: bool,
    }
    /// A workload could not be started.
    StartFailed = "start-failed" {
        /// Code of the problem, as in `docs/errors.md`.
        code: EventText,
        /// Why.
        cause: EventText,
    }
    /// A workload waits for its next start.
    BackingOff = "backing-off" {
        /// Failures in a row.
        failures: u32,
        /// How long it waits, in milliseconds.
        delay_ms: u64,
        /// When the next start is due.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_try_at: Option<Timestamp>,
    }
    /// A workload ran well for so long that its failures are forgotten.
    Recovered = "recovered" {
        /// Failures in a row that are forgotten.
        failures: u32,
    }
    /// A workload is held: a volume's state is uncertain.
    Halted = "halted" {
        /// Why.
        cause: EventText,
    }
    /// A workload was ready and does not serve any more.
    Unhealthy = "unhealthy" {
        /// What was seen.
        cause: EventText,
    }
    /// A workload that was unhealthy, or of which nothing could be told, serves.
    Alive = "alive" {}
    /// For a minute it could not be told whether a workload serves. Nothing is done about that.
    LivenessUnknown = "liveness-unknown" {
        /// What was seen.
        cause: EventText,
    }
    /// A workload is not started again before an operator acts.
    GivenUp = "given-up" {
        /// Why.
        cause: EventText,
    }
    /// A workload is not held any more.
    HaltCleared = "halt-cleared" {
        /// What cleared it.
        by: HaltCleared,
    }
    /// The kernel ended processes in its container for want of memory, and the container lives on.
    OutOfMemory = "out-of-memory" {
        /// How many since this was last told.
        killed: u64,
        /// How many since the container was started.
        total: u64,
    }
    /// An operator runs a command in its container.
    CommandBegun = "command-begun" {
        /// The program; its arguments may be secrets and are nowhere kept.
        program: EventText,
        /// How many arguments it has.
        arguments: u64,
    }
    /// A process of its container is there after it was killed; it is tried again.
    Unkillable = "unkillable" {
        /// Its id, in the host's numbering.
        pid: u64,
    }
    /// A workload is gone.
    Removed = "removed" {
        /// What became of its volumes.
        volumes: VolumeFate,
    }

    /// A volume filled up, or emptied, across a threshold.
    VolumeLevelChanged = "volume-level-changed" {
        /// What of it.
        of: VolumeMeasure,
        /// The level that it has now: warning from 80 percent on, critical from 95 on.
        level: VolumeLevel,
        /// Percent in use.
        percent: u8,
        /// Seconds until it is full, if it goes on growing as it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_to_full_seconds: Option<u64>,
    }
    /// A volume refuses writes: it is read-only, or its file system answers with errors.
    VolumeRefusesWrites = "volume-refuses-writes" {}
    /// A volume takes writes again.
    VolumeTakesWrites = "volume-takes-writes" {}
    /// The file system of a volume counted errors.
    VolumeErrors = "volume-errors" {
        /// How many more than at the last look.
        new: u64,
    }
    /// Space that a volume was promised is not allocated on the host.
    VolumeUnreserved = "volume-unreserved" {
        /// How much of it.
        missing_bytes: u64,
    }
    /// The file system of a volume was checked.
    VolumeChecked = "volume-checked" {
        /// How that ended.
        outcome: CheckOutcome,
    }
    /// What an operator asked of a volume is done.
    VolumeActDone = "volume-act-done" {
        /// What.
        verb: VolumeVerb,
    }

    /// Content was published.
    Published = "published" {
        /// What.
        cid: Cid,
        /// Bytes stored.
        bytes: u64,
        /// How long the container was down for it, in milliseconds.
        downtime_ms: u64,
        /// How long all of it took, in milliseconds.
        duration_ms: u64,
    }
    /// Content was applied.
    Applied = "applied" {
        /// What.
        cid: Cid,
        /// Bytes fetched.
        bytes: u64,
        /// How long the container was down for it, in milliseconds.
        downtime_ms: u64,
        /// How long all of it took, in milliseconds.
        duration_ms: u64,
    }
    /// An apply that was cut short is finished.
    ApplyFinished = "apply-finished" {
        /// What was applied.
        cid: Cid,
    }
    /// Content was taken back, as the workload did not become ready on it.
    ApplyTakenBack = "apply-taken-back" {
        /// What.
        cid: Cid,
        /// What its probe said, or how it ended.
        cause: EventText,
    }
    /// A consumer waits no more for the first content of its key, and is started without.
    ContentWaitEnded = "content-wait-ended" {
        /// What ended the wait.
        by: ContentWaitEnd,
        /// How long it had waited, in milliseconds.
        waited_ms: u64,
    }
    /// An operator paused volume-sync.
    SyncPaused = "sync-paused" {}
    /// An operator ended a pause, or what a rollback held back.
    SyncResumed = "sync-resumed" {}
    /// An operator took a consumer back to an earlier generation.
    SyncRolledBack = "sync-rolled-back" {
        /// What it holds now.
        cid: Cid,
        /// Epoch of the last record that is held back.
        left_epoch: u64,
        /// Number of the last record that is held back.
        left_seq: u64,
    }
    /// An operator made this node the one who publishes.
    SyncTakenOver = "sync-taken-over" {
        /// What is published under the key, as before.
        cid: Cid,
        /// Epoch of the record that says so.
        epoch: u64,
        /// Its number.
        seq: u64,
        /// The node that published before.
        from: EventText,
    }
    /// A publish or an apply failed.
    SyncFailed = "sync-failed" {
        /// Which of them: a provider publishes, a consumer applies.
        role: SyncRole,
        /// Stage that failed.
        stage: EventText,
        /// Why.
        cause: EventText,
    }
    /// Content failed and is not tried again before its time.
    Quarantined = "quarantined" {
        /// What.
        cid: Cid,
        /// When it is tried again.
        until: Timestamp,
    }

    /// An image is being pulled, for all workloads that want it.
    ImagePullBegun = "image-pull-begun" {}
    /// An image was pulled.
    ImagePulled = "image-pulled" {
        /// Its id.
        id: EventText,
        /// Its size on the host, with the layers that it shares with others.
        bytes: u64,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    }
    /// A pull failed.
    ImagePullFailed = "image-pull-failed" {
        /// Code of the problem, as in `docs/errors.md`.
        code: EventText,
        /// Why.
        cause: EventText,
        /// Failures in a row.
        failures: u32,
        /// How long belayd waits before it tries again by itself, in milliseconds.
        delay_ms: u64,
    }
    /// A pull was ended before its end. What has come stays in the engine's store.
    ImagePullEnded = "image-pull-ended" {
        /// Why.
        cause: EventText,
    }
    /// An image that belayd had brought is gone.
    ImageRemoved = "image-removed" {
        /// Its id.
        id: EventText,
        /// Its size, with the layers that it shares with others.
        bytes: u64,
        /// Why it went.
        by: ImageRemoved,
    }

    /// A runner that waits is on the disk, and its memory is free.
    RunnerCheckpointed = "runner-checkpointed" {
        /// Its name.
        runner: EventText,
        /// Bytes on the disk.
        bytes: u64,
        /// How long its processes stood still before they were gone, in milliseconds, where this
        /// belayd took the checkpoint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frozen_ms: Option<u64>,
        /// How long the engine took, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took_ms: Option<u64>,
    }
    /// A runner that waits is frozen in memory: this node has no checkpoints.
    RunnerPaused = "runner-paused" {
        /// Its name.
        runner: EventText,
        /// How long the engine took, in milliseconds.
        took_ms: u64,
    }
    /// A runner that waits could not be snapshotted and stays in memory.
    RunnerNotSnapshotted = "runner-not-snapshotted" {
        /// Its name.
        runner: EventText,
        /// Why.
        cause: EventText,
    }
    /// A runner that was on the disk or frozen runs again.
    RunnerRestored = "runner-restored" {
        /// Its name.
        runner: EventText,
        /// How long the engine took, in milliseconds.
        took_ms: u64,
    }
    /// A runner that was on the disk cannot be brought back.
    RunnerNotRestored = "runner-not-restored" {
        /// Its name.
        runner: EventText,
        /// Why.
        cause: EventText,
    }
    /// The container of a runner ended.
    RunnerEnded = "runner-ended" {
        /// Its name.
        runner: EventText,
        /// Exit code, if the engine knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i64>,
        /// Whether the kernel ended it for want of memory.
        out_of_memory: bool,
    }

    /// A run was submitted.
    RunSubmitted = "run-submitted" {
        /// Which.
        run: RunId,
    }
    /// An attempt at a run has begun.
    RunStarted = "run-started" {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// Who is at it.
        runner: RunnerId,
    }
    /// The runner of a run has suspended it: it waits.
    RunSuspended = "run-suspended" {
        /// Which.
        run: RunId,
        /// What for.
        wait: WaitRequest,
    }
    /// A run that waited executes again: its wait is over, or its runner has left it.
    RunResumed = "run-resumed" {
        /// Which.
        run: RunId,
    }
    /// A run was given to a runner that did not start it.
    RunNotStarted = "run-not-started" {
        /// Which.
        run: RunId,
        /// Why.
        cause: EventText,
        /// When it may be given to another; none if it has failed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_try_at: Option<Timestamp>,
    }
    /// An attempt at a run ended without a result.
    RunAttemptFailed = "run-attempt-failed" {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        cause: EventText,
        /// When the next one may begin; none if the run has failed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_try_at: Option<Timestamp>,
    }
    /// A run has its result.
    RunFinished = "run-finished" {
        /// Which.
        run: RunId,
        /// The attempt that brought it.
        attempt: Attempt,
    }
    /// A run has failed for good.
    RunFailed = "run-failed" {
        /// Which.
        run: RunId,
        /// Attempts that have begun.
        attempts: Attempt,
        /// Why the last one failed.
        cause: EventText,
    }
    /// A run was cancelled.
    RunCancelled = "run-cancelled" {
        /// Which.
        run: RunId,
    }

    /// A run was given up to another node.
    RunExported = "run-exported" {
        /// Which.
        run: RunId,
        /// That node.
        to: NodeId,
        /// The way of its checkpoint.
        travel: TravelId,
    }
    /// A run was taken over from another node, and is suspended here.
    RunImported = "run-imported" {
        /// Which.
        run: RunId,
        /// That node.
        from: NodeId,
        /// The way of its checkpoint.
        travel: TravelId,
    }
    /// An operator took back a run that was given up to another node.
    RunReclaimed = "run-reclaimed" {
        /// Which.
        run: RunId,
        /// That node.
        to: NodeId,
        /// The way of its checkpoint.
        travel: TravelId,
    }
    /// The runner of a run that waits is to be snapshotted.
    SnapshotScheduled = "snapshot-scheduled" {
        /// Which run.
        run: RunId,
        /// When, in milliseconds from now.
        delay_ms: u64,
    }
    /// The runner of a run that waits is not going to be snapshotted.
    SnapshotRefused = "snapshot-refused" {
        /// Which run.
        run: RunId,
        /// Why.
        cause: SnapshotOmission,
    }
    /// A snapshot that was scheduled, or being taken, is not wanted any more.
    SnapshotCancelled = "snapshot-cancelled" {
        /// Which run.
        run: RunId,
        /// Why.
        cause: SnapshotUnwanted,
    }
    /// A snapshot was handed to the engine.
    SnapshotDispatched = "snapshot-dispatched" {
        /// Which run.
        run: RunId,
        /// Of which runner.
        runner: RunnerId,
        /// How long after it fell due, in milliseconds.
        lag_ms: u64,
    }
    /// A snapshot was handed to the engine more than a second after it fell due.
    SnapshotLate = "snapshot-late" {
        /// Which run.
        run: RunId,
        /// How long after it fell due, in milliseconds.
        lag_ms: u64,
    }
    /// A snapshot was taken and counts.
    SnapshotTaken = "snapshot-taken" {
        /// Which run.
        run: RunId,
        /// Of which runner.
        runner: RunnerId,
        /// What it is.
        means: SnapshotMeans,
    }
    /// A snapshot was not taken. The runner stays in memory for now.
    SnapshotFailed = "snapshot-failed" {
        /// Which run.
        run: RunId,
        /// Why.
        cause: EventText,
        /// How often in this suspension, this time included.
        failures: u32,
    }

    /// An event is in the ledger and this belayd cannot read it: another version wrote it, or it is
    /// damaged. It is never written, only shown in the place of such an event.
    Unreadable = "unreadable" {
        /// Why.
        cause: EventText,
    }
}

/// A word that is no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no kind of event")]
pub struct InvalidEventKind {
    /// The word as found, cut to 80 characters.
    pub found: String,
}

impl FromStr for EventKind {
    type Err = InvalidEventKind;

    fn from_str(text: &str) -> Result<Self, InvalidEventKind> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found.copied().ok_or_else(|| InvalidEventKind { found: text.chars().take(80).collect() })
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the belayd before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastEnd {
    /// There was none, or nothing is known of it.
    None,
    /// As it was asked to.
    Orderly,
    /// It was killed, or it crashed, and the host went on.
    Killed,
    /// The host went down under it: a power cut, a crash of the host, or a reboot that did not wait.
    HostWentDown,
}

/// Why events were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossCause {
    /// More waited for the ledger than is held for it.
    LedgerBehind,
    /// One subject had more of one kind than is told.
    TooMany,
}

/// What an operator asked of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AskedVerb {
    /// Deploy it.
    Deploy,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it and start it.
    Restart,
    /// Remove it.
    Rm,
}

/// What cleared a halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HaltCleared {
    /// An operator started the workload.
    Operator,
    /// An apply that was verified.
    Apply,
    /// What was cut short is finished or undone.
    Recovery,
}

/// What ended a wait for the first content of a key without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentWaitEnd {
    /// The time that its spec gives.
    Time,
    /// An operator who started the workload without it.
    Operator,
}

/// Why an image was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageRemoved {
    /// A newer version took its place long enough ago.
    Superseded,
    /// The storage was short of space.
    Space,
    /// An operator asked for it.
    Operator,
}

/// What of a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeMeasure {
    /// Its bytes.
    Bytes,
    /// Its inodes.
    Inodes,
}

/// What was done to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeVerb {
    /// It was given more space.
    Grow,
    /// Its file system was checked.
    Check,
    /// It was emptied.
    Reset,
    /// A kept state took its place.
    Rollback,
    /// The image in its place was taken for its own.
    Adopt,
    /// Its free space was given back to the host.
    Trim,
    /// It was deleted.
    Rm,
}

impl From<&VolumeAct> for VolumeVerb {
    fn from(act: &VolumeAct) -> Self {
        match act {
            VolumeAct::Grow(_) => Self::Grow,
            VolumeAct::Check(_) => Self::Check,
            VolumeAct::Reset => Self::Reset,
            VolumeAct::Rollback(_) => Self::Rollback,
            VolumeAct::Adopt => Self::Adopt,
            VolumeAct::Trim => Self::Trim,
            VolumeAct::Remove => Self::Rm,
        }
    }
}
