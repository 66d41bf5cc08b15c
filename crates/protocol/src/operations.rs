//! What can be asked of a node, and how it answers while it works.
//!
//! An operation is answered by a stream of [`OperationEvent`]s, one JSON object a line
//! (`application/x-ndjson`); the last is `done` or `failed`. An operation that is refused before it
//! began is answered by a [`Problem`] with its HTTP status instead.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    BreakMode, Cid, ImageAct, LogPosition, Problem, PublisherKey, SyncAct, VolumeName, WorkloadName,
};

/// What an operator asks for. Each acts on one workload or one of its volumes, but for
/// [`Operation::PublishAll`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Validate, fetch, replace and wait until ready (`POST /v1/workloads`).
    Deploy(DeployRequest),
    /// Make it run (`POST /v1/workloads/{name}/start`).
    Start {
        /// Which workload.
        workload: WorkloadName,
        /// Whether it waits for content that its spec has it wait for.
        content: ContentRule,
    },
    /// Stop it, and remember that it was asked for (`POST /v1/workloads/{name}/stop`).
    Stop {
        /// Which workload.
        workload: WorkloadName,
    },
    /// Stop and start (`POST /v1/workloads/{name}/restart`).
    Restart {
        /// Which workload.
        workload: WorkloadName,
    },
    /// Stop and remove it (`DELETE /v1/workloads/{name}`).
    Remove {
        /// Which workload.
        workload: WorkloadName,
        /// What becomes of its volumes.
        volumes: VolumeFate,
        /// Whether it goes although others depend on it.
        dependants: DependantsRule,
    },
    /// End every override of the environment that the app asked for
    /// (`DELETE /v1/workloads/{name}/env`).
    ClearOverrides {
        /// Which workload.
        workload: WorkloadName,
    },
    /// Publish paths of a provider (`POST /v1/workloads/{name}/sync/publish`).
    Publish {
        /// Which workload.
        workload: WorkloadName,
        /// What to publish.
        request: PublishRequest,
    },
    /// Act on its volume-sync (`POST /v1/workloads/{name}/sync/...`).
    Sync {
        /// Which workload.
        workload: WorkloadName,
        /// What to do.
        act: SyncAct,
    },
    /// Have it publish in the place of who does (`POST /v1/workloads/{name}/sync/takeover`).
    Takeover {
        /// Which workload.
        workload: WorkloadName,
    },
    /// Say the key by which this node signs, and make one if there is none
    /// (`POST /v1/sync/keygen`).
    SigningKey,
    /// Free its locks (`POST /v1/workloads/{name}/lock/break`).
    BreakLock {
        /// Which workload.
        workload: WorkloadName,
        /// What may be done to their holders.
        mode: BreakMode,
    },
    /// Publish paths of several providers, of none unless all can (`POST /v1/sync/publish`).
    PublishAll(PublishAllRequest),
    /// Act on one volume (`/v1/volumes/{workload}/{volume}`).
    Volume {
        /// Whose volume, also when no such workload exists any more.
        workload: WorkloadName,
        /// Which of its volumes.
        volume: VolumeName,
        /// What to do with it.
        act: VolumeAct,
    },
    /// Act on the node's images (`/v1/images`).
    Image {
        /// What to do.
        act: ImageAct,
    },
}

/// What can be done with one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VolumeAct {
    /// Give it more space (`POST .../grow`).
    Grow(GrowRequest),
    /// Check its file system (`POST .../check`).
    Check(CheckRequest),
    /// Empty it (`POST .../reset`).
    Reset,
    /// Put a kept generation in its place (`POST .../rollback`).
    Rollback(RollbackRequest),
    /// Take the image that lies in its place for its own (`POST .../adopt`).
    Adopt,
    /// Give the free space of a thin volume back to the host (`POST .../trim`).
    Trim,
    /// Delete it, where no workload names it (`DELETE`).
    Remove,
}

impl VolumeAct {
    /// The word that the command and the API use for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Grow(_) => "grow",
            Self::Check(_) => "check",
            Self::Reset => "reset",
            Self::Rollback(_) => "rollback",
            Self::Adopt => "adopt",
            Self::Trim => "trim",
            Self::Remove => "rm",
        }
    }
}

/// How large a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowRequest {
    /// The size as text, as a spec has it: `64M`, `1.5G`. belayd's one parser reads it.
    pub size: String,
}

/// How a file system is to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// What the check may do.
    pub mode: CheckMode,
}

/// What a check of a file system may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckMode {
    /// It only looks.
    Report,
    /// It repairs all that it can, which may cost damaged files.
    Repair,
}

/// Which generation is to take a volume's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its name; the only one there is when absent.
    #[serde(default)]
    pub generation: Option<String>,
}

/// A spec to deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The spec, in TOML.
    pub spec: String,
    /// What to call it in errors: the path as the operator gave it.
    pub file: String,
    /// Absolute directory against which the spec's relative paths are resolved.
    pub directory: String,
}

/// What becomes of the volumes of a removed workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeFate {
    /// They stay, and are reported as volumes without a workload.
    Keep,
    /// They are deleted with everything in them.
    Delete,
}

/// Whether a workload is removed although others depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DependantsRule {
    /// It is not: they could not start again.
    Refuse,
    /// It is. They run on, and their next start waits for a workload of this name.
    Ignore,
}

/// Whether a consumer that is started waits for the first content of its key, where its spec says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentRule {
    /// It does.
    Await,
    /// It does not, until it has held some or was stopped.
    Ignore,
}

/// Paths to publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Absolute paths in the container, each on a volume.
    pub archive_paths: Vec<String>,
    /// Passed on to consumers unread.
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
}

/// Paths of several workloads to publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishAllRequest {
    /// What to publish of whom; each workload once.
    pub targets: Vec<PublishTarget>,
}

/// One workload of several that are to publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishTarget {
    /// Which workload.
    pub workload: WorkloadName,
    /// What to publish of it.
    pub request: PublishRequest,
}

/// One line of an operation's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OperationEvent {
    /// Something began or went on.
    Progress(OperationProgress),
    /// It is done.
    Done(OperationOutcome),
    /// It failed, and what holds now.
    Failed(Problem),
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationProgress {
    /// The step, as in `fetch image`.
    pub step: String,
    /// One line on it.
    pub detail: String,
    /// Bytes done, where bytes are counted.
    pub done_bytes: Option<u64>,
    /// Bytes in all, where known.
    pub total_bytes: Option<u64>,
}

/// How an operation ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationOutcome {
    /// One sentence for a person.
    pub summary: String,
    /// Set by a publish.
    pub publish: Option<PublishOutcome>,
}

/// A confirmed publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishOutcome {
    /// Content published.
    pub cid: Cid,
    /// Informative version, seconds since 1970.
    pub version: u64,
    /// Order of the record under its key.
    pub seq: u64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// How long the container was down, in milliseconds.
    pub downtime_ms: u64,
    /// Whether the head was this content already, so that no record was made.
    #[serde(default)]
    pub unchanged: bool,
}

/// One line that a workload wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// `stdout`, `stderr` or `notice`.
    pub stream: LogStream,
    /// When the engine received it.
    pub at: Option<Timestamp>,
    /// The line without its end, invalid UTF-8 replaced.
    pub text: String,
    /// First 12 characters of the id of the container that it and the lines after it are of; said
    /// where that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// Where a workload wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Not the workload: belayd says that the log goes on with another run of it.
    Notice,
}

/// Which lines are wanted (`GET /v1/workloads/{name}/logs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Stay and send what is written from now on.
    #[serde(default)]
    pub follow: bool,
    /// At most so many of the last lines; all kept ones when absent.
    pub tail: Option<u32>,
    /// Only lines from this time on, to the second.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// The log of the container before, which is gone.
    #[serde(default)]
    pub previous: bool,
    /// Go on where a log that was followed was left; it takes the place of `tail` and `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<LogPosition>,
}

/// A sync history entry (`GET /v1/workloads/{name}/sync/history`), newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEntry {
    /// `sent` or `received`.
    pub direction: String,
    /// Content.
    pub cid: Cid,
    /// Informative version, seconds since 1970.
    pub version: u64,
    /// When it was published or applied.
    pub at: Timestamp,
    /// Node that published it.
    pub node: String,
    /// Who signed the record; none if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublisherKey>,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Paths in it.
    pub archive_paths: Vec<String>,
    /// Where the entry lies on the node.
    pub file: String,
}

/// One prerequisite of the host with its verdict (`belay doctor`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What was looked at, as in `loop devices`.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to install or do; empty when all is well.
    pub advice: String,
}

/// How a prerequisite is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, with a limit that is named.
    Limited,
    /// Must be mended before belayd can do its work.
    Faulty,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_publish_of_several_has_the_form_written_down() {
        let target = |workload: &str, path: &str| PublishTarget {
            workload: workload.parse().expect("a name"),
            request: PublishRequest { archive_paths: vec![path.into()], metadata: BTreeMap::new() },
        };
        let request = PublishAllRequest { targets: vec![target("a", "/x"), target("b", "/y")] };
        let golden = json!({"targets": [
            {"workload": "a", "request": {"archive_paths": ["/x"], "metadata": {}}},
            {"workload": "b", "request": {"archive_paths": ["/y"], "metadata": {}}},
        ]});
        assert_eq!(serde_json::to_value(&request).expect("serialises"), golden);
        assert_eq!(serde_json::from_value::<PublishAllRequest>(golden).expect("reads"), request);
    }

    #[test]
    fn acts_on_volumes_have_the_form_written_down() {
        let act = |act| Operation::Volume {
            workload: "web".parse().expect("a name"),
            volume: "data".parse().expect("a name"),
            act,
        };
        let rollback = RollbackRequest { generation: None };
        for (operation, golden) in [
            (
                VolumeAct::Grow(GrowRequest { size: "64M".to_owned() }),
                json!({"act": "grow", "size": "64M"}),
            ),
            (
                VolumeAct::Check(CheckRequest { mode: CheckMode::Repair }),
                json!({"act": "check", "mode": "repair"}),
            ),
            (VolumeAct::Reset, json!({"act": "reset"})),
            (VolumeAct::Rollback(rollback), json!({"act": "rollback", "generation": null})),
            (VolumeAct::Adopt, json!({"act": "adopt"})),
            (VolumeAct::Trim, json!({"act": "trim"})),
            (VolumeAct::Remove, json!({"act": "remove"})),
        ] {
            let operation = act(operation);
            let golden = json!({
                "operation": "volume", "workload": "web", "volume": "data", "act": golden,
            });
            assert_eq!(serde_json::to_value(&operation).expect("serialises"), golden);
            assert_eq!(serde_json::from_value::<Operation>(golden).expect("reads"), operation);
        }
    }
}
