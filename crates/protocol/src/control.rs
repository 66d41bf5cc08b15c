//! Files exchanged with the app in the `volume-sync` directory of its system volume.
//!
//! Names, fields and stages are those apps of earlier systems already read and write.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::record::{Capture, RuntimeWishes};
use crate::{Cid, NodeId, ProblemCode};

/// Directory of the control files below the system volume.
pub const CONTROL_DIR: &str = "volume-sync";
/// Written by the app to ask for a publish.
pub const REQUEST_FILE: &str = "request.json";
/// The request while it is being worked on.
pub const PROCESSING_FILE: &str = "request.json.processing";
/// The last rejected request with the reason.
pub const INVALID_FILE: &str = "request.json.invalid";
/// The answer to the last request.
pub const RESPONSE_FILE: &str = "response.json";
/// What a consumer applied last.
pub const LAST_APPLY_FILE: &str = "last_apply.json";
/// Why a consumer could not apply the newest record; absent after a success.
pub const APPLY_ERROR_FILE: &str = "apply_error.json";

/// Step of a publish or an apply at which something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request or the record was refused; no container was touched.
    Validation,
    /// The container could not be shown to be stopped.
    RuntimeStop,
    /// Reading the volume into the archive failed.
    ArchiveBuild,
    /// The store did not take the archive.
    Upload,
    /// The store did not confirm the record.
    RecordPublish,
    /// The archive could not be fetched, or is not what the record names.
    Download,
    /// The archive could not be staged beside the volume's present state.
    Extract,
    /// The staged state could not take the place of the old one.
    Commit,
    /// The workload did not become ready on the new state.
    Readiness,
}

impl Stage {
    /// The stage as control files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::RuntimeStop => "runtime_stop",
            Self::ArchiveBuild => "archive_build",
            Self::Upload => "upload",
            Self::RecordPublish => "record_publish",
            Self::Download => "download",
            Self::Extract => "extract",
            Self::Commit => "commit",
            Self::Readiness => "readiness",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A publish request that passed every check of its shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRequest {
    /// Container paths to capture, as the app wrote them.
    pub archive_paths: Vec<String>,
    /// Free data that travels in the record.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// What the app wishes of capture and apply.
    #[serde(default)]
    pub runtime: RuntimeWishes,
    /// Echoed in the response, so that an app can match it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `response.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Response {
    /// The record is confirmed by the store.
    Ok(PublishSucceeded),
    /// Nothing was published.
    Error(PublishFailed),
}

/// A confirmed publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishSucceeded {
    /// Content id of the captured tree.
    pub cid: Cid,
    /// Unix seconds of the capture; informative.
    pub version: u64,
    /// Epoch of the record.
    pub epoch: u64,
    /// Number of the record within its epoch.
    pub seq: u64,
    /// When the record was confirmed.
    pub published_timestamp: Timestamp,
    /// The paths that were captured.
    pub archive_paths: Vec<String>,
    /// Size of the stored archive, in bytes.
    pub archive_size_bytes: u64,
    /// Size of the captured file contents, in bytes.
    pub content_bytes: u64,
    /// What the capture was.
    pub capture: Capture,
    /// Why it was that, if it was not what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_fallback: Option<String>,
    /// True when the store already held exactly this and no new record was made.
    pub unchanged: bool,
    /// Milliseconds during which the container was down for the capture; absent when it was not
    /// running, or when belayd was restarted in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Sockets, FIFOs and devices that were left out; at most 100 are named.
    pub skipped: Vec<String>,
    /// The metadata of the request.
    pub metadata: Map<String, Value>,
    /// The id of the request, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Set when the record was published but the local history entry could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_error: Option<String>,
}

/// A publish that did not happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishFailed {
    /// Where it failed.
    pub stage: Stage,
    /// Why.
    pub error: String,
    /// When.
    pub failed_timestamp: Timestamp,
    /// The paths of the request as far as they could be read.
    pub archive_paths: Vec<String>,
    /// The id of the request, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// `request.json.invalid`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvalidRequest {
    /// The body, where it was JSON.
    pub request: Value,
    /// Why it failed.
    #[serde(rename = "_error")]
    pub error: RequestError,
}

/// The `_error` of `request.json.invalid`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestError {
    /// Where the request failed.
    pub stage: Stage,
    /// Why.
    pub error: String,
    /// When.
    pub failed_timestamp: Timestamp,
    /// The node that says so.
    pub node_id: NodeId,
    /// The first 1,024 characters of a body that was text but not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_body: Option<String>,
}

/// `last_apply.json`: for the app to read; belayd never reads it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastApply {
    /// Content id of the state that was taken over.
    pub cid: Cid,
    /// Version of the record.
    pub version: u64,
    /// Epoch of the record.
    pub epoch: u64,
    /// Number of the record within its epoch.
    pub seq: u64,
    /// Timestamp of the record, by the provider's clock.
    pub source_timestamp: Timestamp,
    /// When it was applied, by this node's clock.
    pub applied_timestamp: Timestamp,
    /// The node that published it.
    pub node_id: NodeId,
    /// Metadata of the record.
    pub metadata: Map<String, Value>,
    /// What is otherwise than in the record's tree, since the consumer wants it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altered: Option<AlteredEntries>,
}

/// How many entries an apply made otherwise than they are in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlteredEntries {
    /// Entries that belong to others: to the owner of the volume.
    pub owners: u64,
    /// Files without their set-id bits.
    pub set_id: u64,
}

/// `apply_error.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplyError {
    /// Content id of the record, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<Cid>,
    /// Where the apply failed.
    pub stage: Stage,
    /// What kind of failure it is, where it is one with a paragraph of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ProblemCode>,
    /// Why.
    pub error: String,
    /// When.
    pub failed_timestamp: Timestamp,
    /// Failures of this content in a row.
    pub failure_count: u32,
    /// Before this it is not tried again.
    pub next_retry_after: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{ConsumerApply, ProviderCapture};

    fn cid() -> Cid {
        Cid::from_digest([1; 32])
    }

    fn at() -> Timestamp {
        Timestamp::from_second(1_700_000_000).expect("in range")
    }

    #[test]
    fn a_request_is_what_apps_write() {
        let request: AppRequest = serde_json::from_value(json!({
            "archive_paths": ["/app/data"],
            "metadata": {"epoch": 3},
            "runtime": {"provider_capture": "offline", "consumer_apply": "online_no_restart"},
            "request_id": "r-1",
        }))
        .expect("a request");
        assert_eq!(request.runtime.provider_capture, ProviderCapture::Offline);
        assert_eq!(request.runtime.consumer_apply, ConsumerApply::OnlineNoRestart);
        let least = json!({"archive_paths": ["/app/data"]});
        serde_json::from_value::<AppRequest>(least).expect("the rest has defaults");
        let unknown = json!({"archive_paths": [], "path": 1});
        assert!(serde_json::from_value::<AppRequest>(unknown).is_err());
    }

    #[test]
    fn a_success_is_what_apps_read() {
        let response = Response::Ok(PublishSucceeded {
            cid: cid(),
            version: 1_700_000_000,
            epoch: 1,
            seq: 4,
            published_timestamp: at(),
            archive_paths: vec!["/app/data".into()],
            archive_size_bytes: 1000,
            content_bytes: 5000,
            capture: Capture::Stopped,
            capture_fallback: None,
            unchanged: false,
            downtime_ms: Some(7),
            skipped: vec![],
            metadata: Map::new(),
            request_id: Some("r-1".into()),
            history_error: None,
        });
        let golden = json!({
            "status": "ok", "cid": cid().to_string(), "version": 1_700_000_000, "epoch": 1, "seq": 4,
            "published_timestamp": "2023-11-14T22:13:20Z", "archive_paths": ["/app/data"],
            "archive_size_bytes": 1000, "content_bytes": 5000, "capture": "stopped",
            "unchanged": false, "downtime_ms": 7, "skipped": [], "metadata": {},
            "request_id": "r-1",
        });
        assert_eq!(serde_json::to_value(&response).expect("serialises"), golden);
        assert_eq!(serde_json::from_value::<Response>(golden).expect("reads"), response);
    }

    #[test]
    fn a_failure_is_what_apps_read() {
        let response = Response::Error(PublishFailed {
            stage: Stage::RuntimeStop,
            error: "it runs on".into(),
            failed_timestamp: at(),
            archive_paths: vec![],
            request_id: None,
        });
        let golden = json!({
            "status": "error", "stage": "runtime_stop", "error": "it runs on",
            "failed_timestamp": "2023-11-14T22:13:20Z", "archive_paths": [],
        });
        assert_eq!(serde_json::to_value(&response).expect("serialises"), golden);

        let invalid = InvalidRequest {
            request: Value::Null,
            error: RequestError {
                stage: Stage::Validation,
                error: "not JSON".into(),
                failed_timestamp: at(),
                node_id: "node-a".parse().expect("a name"),
                raw_body: Some("{".into()),
            },
        };
        let golden = json!({
            "request": null,
            "_error": {
                "stage": "validation", "error": "not JSON",
                "failed_timestamp": "2023-11-14T22:13:20Z", "node_id": "node-a", "raw_body": "{",
            },
        });
        assert_eq!(serde_json::to_value(&invalid).expect("serialises"), golden);
    }

    #[test]
    fn every_stage_is_spelled_as_it_is_shown() {
        for stage in [
            Stage::Validation,
            Stage::RuntimeStop,
            Stage::ArchiveBuild,
            Stage::Upload,
            Stage::RecordPublish,
            Stage::Download,
            Stage::Extract,
            Stage::Commit,
            Stage::Readiness,
        ] {
            assert_eq!(serde_json::to_value(stage).expect("serialises"), stage.as_str());
        }
    }
}
