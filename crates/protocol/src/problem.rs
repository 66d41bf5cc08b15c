//! Errors as other programs see them: problem documents of RFC 9457 with a stable code.

use serde::{Deserialize, Serialize};

use crate::SpecFault;

/// Media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// A problem document (RFC 9457): what failed, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank#` and the code, so that it is a URI reference as the RFC wants.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code: stable, documented in `docs/errors.md`, the same in the API and the command.
    pub code: ProblemCode,
    /// What the code means, one phrase.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What failed, on what, and why.
    pub detail: String,
    /// The next command or act.
    pub next: String,
    /// Every fault of a refused spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<SpecFault>,
}

impl Problem {
    /// A problem with this code. `detail` says what failed, on what and why; `next` what to do.
    pub fn new(code: ProblemCode, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            kind: format!("about:blank#{}", code.as_str()),
            code,
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            next: next.into(),
            faults: Vec::new(),
        }
    }

    /// The same problem with every fault of the refused spec.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<SpecFault>) -> Self {
        self.faults = faults;
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $exit:literal, $title:literal;)*) => {
        /// Stable codes of problems. Each has a paragraph in `docs/errors.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ProblemCode {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl ProblemCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as written in JSON and in the documentation.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// HTTP status that carries it.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Exit code of the `belay` command that ends with it.
            pub fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// What it means, one phrase.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// The spec has faults; all are listed.
    InvalidSpec = "invalid-spec", 422, 65, "the spec has faults";
    /// The request is not of the shape the API documents.
    InvalidRequest = "invalid-request", 400, 64, "the request is not valid";
    /// The body of the request is longer than the API reads.
    RequestTooLarge = "request-too-large", 413, 64, "the request is too large";
    /// The page exists and does not answer that method.
    MethodNotAllowed = "method-not-allowed", 405, 64, "the page does not answer that method";
    /// The request names a host that is not this one.
    ForeignHost = "foreign-host", 421, 77, "the request names another host";
    /// No workload of that name.
    NoSuchWorkload = "no-such-workload", 404, 66, "no such workload";
    /// No such page of the API.
    NoSuchResource = "no-such-resource", 404, 66, "no such resource";
    /// The operation needs the workload to run and it does not.
    NotRunning = "not-running", 409, 69, "the workload is not running";
    /// Another operation on the same workload is under way.
    Busy = "busy", 409, 75, "another operation is under way";
    /// Another process has a lock that is needed.
    LockHeld = "lock-held", 423, 75, "another process is at work on it";
    /// The place where the locks lie cannot be used.
    LocksUnusable = "locks-unusable", 503, 69, "the locks cannot be used";
    /// The workload's spec is a file that the operator owns.
    OwnedByFile = "owned-by-file", 409, 69, "the workload is declared by a file";
    /// Other workloads depend on the one that is to be removed.
    HasDependants = "has-dependants", 409, 69, "other workloads depend on it";
    /// A workload that another depends on was not there in time.
    DependencyNotReady = "dependency-not-ready", 504, 69, "a workload that it depends on is not there";
    /// The workload has no volume-sync, or the other role.
    NoSync = "no-sync", 409, 69, "the workload does not provide volume-sync";
    /// The image could not be fetched or loaded.
    ImageUnavailable = "image-unavailable", 502, 69, "the image could not be had";
    /// The registry wants other credentials.
    ImageDenied = "image-denied", 502, 69, "the registry does not give the image to these credentials";
    /// The registry has no such image.
    ImageNotFound = "image-not-found", 502, 69, "the registry has no such image";
    /// The registry cannot be reached.
    RegistryUnreachable = "registry-unreachable", 504, 69, "the registry cannot be reached";
    /// The registry was asked too often.
    RegistryLimited = "registry-limited", 503, 75, "the registry was asked too often";
    /// The engine's storage has no room for the image.
    ImageStorageFull = "image-storage-full", 507, 69, "the storage for images is full";
    /// The image is made for other machines.
    ImageArchitecture = "image-architecture", 422, 65, "the image is made for another architecture";
    /// The image's reference cannot be read.
    InvalidImageReference = "invalid-image-reference", 422, 65, "the image reference is not valid";
    /// What the registry sent is not what the digest names.
    ImageDigestMismatch = "image-digest-mismatch", 502, 69, "the image is not the one that its digest names";
    /// The credentials for the registry cannot be used.
    RegistryCredentials = "registry-credentials", 422, 65, "the credentials for the registry cannot be used";
    /// No image of that name, brought by belayd or at all.
    NoSuchImage = "no-such-image", 404, 66, "no such image";
    /// Something uses the image.
    ImageInUse = "image-in-use", 409, 69, "the image is in use";
    /// The volumes could not be provided.
    VolumeUnavailable = "volume-unavailable", 507, 69, "a volume could not be provided";
    /// No volume of that name.
    NoSuchVolume = "no-such-volume", 404, 66, "no such volume";
    /// The act would harm a volume that something uses.
    VolumeInUse = "volume-in-use", 409, 69, "the volume is in use";
    /// The volume is not of the kind, or not in the state, that the act is for.
    VolumeRefused = "volume-refused", 409, 69, "the volume does not take that";
    /// The file system in the volume is damaged.
    VolumeDamaged = "volume-damaged", 409, 69, "the volume's file system is damaged";
    /// A secret of the spec cannot be given to the container.
    SecretUnavailable = "secret-unavailable", 409, 66, "a secret could not be provided";
    /// A port on the host is taken.
    PortTaken = "port-taken", 409, 69, "a port is taken";
    /// The container could not be created or started.
    StartFailed = "start-failed", 502, 69, "the container did not start";
    /// It started but did not become ready in time.
    NotReady = "not-ready", 504, 69, "the workload did not become ready";
    /// It was ready and does not serve any more.
    Unhealthy = "unhealthy", 502, 69, "the workload is unhealthy";
    /// It could not be confirmed that the container stopped.
    StopUnconfirmed = "stop-unconfirmed", 502, 69, "the stop could not be confirmed";
    /// A process of the container is there after it was killed.
    Unkillable = "unkillable", 502, 69, "a process cannot be killed";
    /// This host cannot apply a limit of the spec.
    LimitUnsupported = "limit-unsupported", 409, 69, "the host cannot apply a limit";
    /// A limit of the spec does not hold.
    LimitNotApplied = "limit-not-applied", 502, 69, "a limit does not hold";
    /// The workload takes runs and has no container of its own.
    RunnerWorkload = "runner-workload", 409, 69, "the workload takes runs";
    /// The workload is held until an operator acts.
    Halted = "halted", 409, 69, "the workload is halted";
    /// The workload's volume-sync is paused.
    SyncPaused = "sync-paused", 409, 75, "volume-sync is paused";
    /// The key's log has no generation of that id, or several.
    NoSuchGeneration = "no-such-generation", 404, 66, "no such generation";
    /// A generation is sealed for others.
    GenerationSealed = "generation-sealed", 403, 77, "the generation is sealed";
    /// A generation is not what its record says.
    GenerationDamaged = "generation-damaged", 502, 65, "the generation is damaged";
    /// The store does not answer.
    StoreUnavailable = "store-unavailable", 503, 69, "the store does not answer";
    /// The rollback failed; the stage is in the detail.
    RollbackFailed = "rollback-failed", 502, 69, "the rollback failed";
    /// An archive is not what can be published by this workload.
    ImportRefused = "import-refused", 422, 65, "the archive is refused";
    /// The apply failed; the stage is in the detail.
    ApplyFailed = "apply-failed", 502, 69, "the apply failed";
    /// The publish failed; the stage is in the detail.
    PublishFailed = "publish-failed", 502, 69, "the publish failed";
    /// The publish is captured and goes on by itself.
    PublishGoesOn = "publish-goes-on", 503, 69, "the publish goes on by itself";
    /// A publish was begun under another key, or for other members.
    PublishOutdated = "publish-outdated", 409, 69, "the publish was begun under another key or for other members";
    /// A record was set whose objects were deleted before.
    PublishedLost = "published-lost", 502, 69, "the store lost what was published";
    /// Nothing is deleted in the store, since it cannot be told what is needed.
    NothingDeleted = "nothing-deleted", 502, 69, "nothing is deleted in the store";
    /// A record is of a later version than this program reads.
    RecordNewer = "record-newer", 422, 69, "the record is newer than this program";
    /// A record carries no signature where one is wanted.
    RecordUnsigned = "record-unsigned", 422, 77, "the record is not signed";
    /// The signature of a record does not hold.
    RecordForged = "record-forged", 422, 77, "the record is not what was signed";
    /// A record is signed by somebody who may not publish here.
    PublisherRefused = "publisher-refused", 422, 77, "the publisher is not one of those that are listed";
    /// A record has a fault.
    RecordRefused = "record-refused", 422, 65, "the record has faults";
    /// A record stands before one that was accepted.
    RecordBehind = "record-behind", 409, 69, "the record is older than one that was accepted";
    /// Two records hold one place.
    RecordFork = "record-fork", 409, 69, "two records hold one place";
    /// The workload did not become ready on what was applied.
    UnreadyAfterApply = "unready-after-apply", 502, 69, "the workload was not ready on what was applied";
    /// Another node publishes under the key.
    Fenced = "fenced", 409, 69, "another node publishes under this key";
    /// There is nothing to take over.
    TakeoverRefused = "takeover-refused", 409, 69, "there is nothing to take over";
    /// The key of this node with which it signs cannot be used.
    SigningKeyUnusable = "signing-key-unusable", 503, 69, "the signing key cannot be used";
    /// The program of a command is not in the container.
    ProgramNotFound = "program-not-found", 404, 127, "no such program in the container";
    /// The command in the container could not be run.
    ExecFailed = "exec-failed", 502, 126, "the command could not be run";
    /// The command in the container ran longer than it was given.
    ExecTimedOut = "exec-timed-out", 504, 124, "the command ran out of time";
    /// No run of that id is remembered.
    NoSuchRun = "no-such-run", 404, 66, "no such run";
    /// The run is over.
    RunEnded = "run-ended", 409, 69, "the run is over";
    /// The workload is not one whose runners take runs.
    TakesNoRuns = "takes-no-runs", 409, 69, "the workload takes no runs";
    /// Another submission has the idempotency key.
    KeyTaken = "key-taken", 409, 69, "another submission has the idempotency key";
    /// The node keeps as many runs as it may.
    TooManyRuns = "too-many-runs", 503, 75, "the node keeps as many runs as it may";
    /// No waitpoint of that id is remembered.
    NoSuchWaitpoint = "no-such-waitpoint", 404, 66, "no such waitpoint";
    /// No runner of that name is on the disk.
    NoSuchCheckpoint = "no-such-checkpoint", 404, 66, "no such checkpoint";
    /// The checkpoint is being exported.
    CheckpointLeaving = "checkpoint-leaving", 409, 75, "the checkpoint is being exported";
    /// The run was given up to another node.
    RunMoved = "run-moved", 409, 69, "the run has moved to another node";
    /// The checkpoint was not exported.
    NotExported = "not-exported", 409, 69, "the checkpoint was not exported";
    /// The node has no key for checkpoints that travel.
    TravelKeyMissing = "travel-key-missing", 503, 78, "the node has no travel key";
    /// The runner has files in its root file system, which do not travel.
    CheckpointHoldsFiles = "checkpoint-holds-files", 409, 69, "the runner wrote to its root file system";
    /// A checkpoint could not be exported or imported.
    TravelFailed = "travel-failed", 502, 69, "the checkpoint did not travel";
    /// An archive is cut short, changed, or under another key.
    ArchiveDamaged = "archive-damaged", 422, 65, "the archive is damaged or under another key";
    /// An archive is of another version.
    ArchiveVersion = "archive-version", 422, 65, "the archive is of another version";
    /// An archive is for another node.
    ArchiveForAnother = "archive-for-another", 422, 69, "the archive is for another node";
    /// An archive is too old to be taken.
    ArchiveExpired = "archive-expired", 422, 69, "the archive has expired";
    /// An archive was taken before.
    ArchiveTaken = "archive-taken", 409, 69, "the archive was imported before";
    /// The run of an archive is on this node.
    RunHere = "run-here", 409, 69, "the run is on this node";
    /// What the node has cannot restore the checkpoint.
    CheckpointIncompatible = "checkpoint-incompatible", 422, 69, "this node cannot restore the checkpoint";
    /// The workload is not what the runner was made of.
    WorkloadDiffers = "workload-differs", 409, 69, "the workload is not what the runner was made of";
    /// There is no room for the checkpoint.
    NoRoom = "no-room", 507, 75, "there is no room for the checkpoint";
    /// The address at which the runner looks for belayd is not to be had here.
    RunnerAddress = "runner-address", 409, 69, "the runner would not find belayd";
    /// The waitpoint was completed with something else.
    WaitpointCompleted = "waitpoint-completed", 409, 69, "the waitpoint was completed with another result";
    /// It was not confirmed in time that it is on the disk.
    Unconfirmed = "unconfirmed", 504, 75, "it could not be confirmed in time";
    /// The engine does not answer.
    EngineUnreachable = "engine-unreachable", 503, 69, "the container engine does not answer";
    /// The node is not reconciled yet, or its engine is away.
    NodeNotReady = "node-not-ready", 503, 75, "the node is not ready";
    /// belayd is ending.
    ShuttingDown = "shutting-down", 503, 75, "belayd is shutting down";
    /// The token of a runner is missing, unknown or expired.
    RunnerTokenRefused = "runner-token-refused", 401, 77, "the runner's token is not good";
    /// As many runners are connected as the node takes.
    TooManyRunners = "too-many-runners", 429, 75, "too many runners are connected";
    /// Only the Unix socket may do this.
    ReadOnlyListener = "read-only-listener", 403, 77, "this address only answers questions";
    /// A fault of belayd itself.
    Internal = "internal", 500, 70, "belayd failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_written_as_the_rfc_says() {
        let problem = Problem::new(ProblemCode::NotRunning, "web is stopped", "belay start web");
        let json = serde_json::to_value(&problem).expect("a problem is plain data");
        assert_eq!(
            json,
            serde_json::json!({
                "type": "about:blank#not-running", "code": "not-running",
                "title": "the workload is not running", "status": 409,
                "detail": "web is stopped", "next": "belay start web",
            })
        );
        assert_eq!(serde_json::from_value::<Problem>(json).expect("reads back"), problem);
    }

    #[test]
    fn codes_are_distinct() {
        let mut seen = std::collections::HashSet::new();
        assert!(ProblemCode::ALL.iter().all(|code| seen.insert(code.as_str())));
    }
}
