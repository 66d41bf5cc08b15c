//! Files exchanged with the app in the `env-overrides` and `reset` directories of its system volume.
//!
//! The files have the names of volume-sync's, see [`crate::control`]. Names and fields are those
//! that apps of earlier systems already read and write.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::control::Stage;

/// Directory in which an app asks for another environment.
pub const OVERRIDES_DIR: &str = "env-overrides";
/// Directory in which an app asks for empty volumes.
pub const RESET_DIR: &str = "reset";
/// The only version of the requests.
pub const REQUEST_SCHEMA: u64 = 1;

/// When an override of the environment is to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverridesApply {
    /// At the container's next start.
    #[default]
    NextRestart,
    /// Now: the container is started anew for it.
    RestartNow,
}

/// A request in [`OVERRIDES_DIR`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverridesRequest {
    /// [`REQUEST_SCHEMA`].
    pub schema_version: u64,
    /// Echoed in the response.
    #[serde(default)]
    pub request_id: Option<String>,
    /// When it is to be in force.
    #[serde(default)]
    pub apply: OverridesApply,
    /// Names with their values; what is no text becomes one.
    #[serde(default)]
    pub set: Map<String, Value>,
    /// Names whose override ends.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// What a reset empties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetMode {
    /// Volumes.
    #[default]
    Volumes,
}

/// When a reset is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetApply {
    /// Now.
    #[default]
    RestartNow,
}

/// What a reset keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetPreserve {
    /// The overrides of the environment; always kept.
    #[serde(default = "always")]
    pub env_overrides: bool,
}

fn always() -> bool {
    true
}

impl Default for ResetPreserve {
    fn default() -> Self {
        Self { env_overrides: true }
    }
}

/// A request in [`RESET_DIR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// [`REQUEST_SCHEMA`].
    pub schema_version: u64,
    /// Echoed in the response.
    #[serde(default)]
    pub request_id: Option<String>,
    /// What is emptied.
    #[serde(default)]
    pub mode: ResetMode,
    /// When.
    #[serde(default)]
    pub apply: ResetApply,
    /// What is kept.
    #[serde(default)]
    pub preserve: ResetPreserve,
    /// Names of volumes; all that the app may reset, when absent.
    #[serde(default)]
    pub volumes: Option<Vec<String>>,
}

/// `response.json` in [`OVERRIDES_DIR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum OverridesResponse {
    /// It is durable, and in force when `apply` says.
    Ok(OverridesTaken),
    /// Nothing was changed.
    Error(RequestRefused),
}

/// An override of the environment that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverridesTaken {
    /// [`REQUEST_SCHEMA`].
    pub schema_version: u64,
    /// When it is in force.
    pub apply: OverridesApply,
    /// What becomes of the container.
    pub restart: RestartPlan,
    /// Which names were changed; values are never repeated.
    pub overrides: OverridesChange,
    /// The id of the request, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What becomes of the container after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPlan {
    /// Whether the request wants a restart.
    pub requested: bool,
    /// Whether one follows; not where nothing would be different after it.
    pub scheduled: bool,
    /// Whether it takes effect at a later start.
    pub deferred: bool,
}

/// Names that a request changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverridesChange {
    /// Set, in order.
    pub set: Vec<String>,
    /// Ended, in order.
    pub removed: Vec<String>,
    /// Overrides in force after it.
    pub active_count: usize,
}

/// `response.json` in [`RESET_DIR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ResetResponse {
    /// The volumes were emptied; the container is started after this was written.
    Ok(ResetDone),
    /// Nothing was changed.
    Error(RequestRefused),
}

/// A reset that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetDone {
    /// [`REQUEST_SCHEMA`].
    pub schema_version: u64,
    /// What was emptied.
    pub mode: ResetMode,
    /// When.
    pub apply: ResetApply,
    /// Which volumes.
    pub reset: ResetVolumes,
    /// What becomes of the container.
    pub restart: RestartPlan,
    /// The id of the request, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Volumes that were emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetVolumes {
    /// Their names.
    pub volumes: Vec<String>,
    /// Names that lay in their root directories, as far as they were removed since belayd was
    /// started last.
    pub cleared_count: u64,
    /// What was kept.
    pub preserved: ResetPreserve,
}

/// A request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRefused {
    /// [`REQUEST_SCHEMA`].
    pub schema_version: u64,
    /// Always `validation`: what was taken is done, however long that takes.
    pub stage: Stage,
    /// Every fault found.
    pub error: String,
    /// When.
    pub failed_timestamp: Timestamp,
    /// The id of the request, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_what_apps_write_and_nothing_more() {
        let request: OverridesRequest = serde_json::from_value(json!({
            "schema_version": 1, "request_id": "r", "apply": "restart_now",
            "set": {"A": 1}, "remove": ["B"],
        }))
        .expect("a request");
        assert_eq!(request.apply, OverridesApply::RestartNow);
        let request: ResetRequest = serde_json::from_value(json!({
            "schema_version": 1, "mode": "volumes", "apply": "restart_now",
            "preserve": {"env_overrides": true}, "volumes": ["data"],
        }))
        .expect("a request");
        assert_eq!(request.volumes, Some(vec!["data".to_owned()]));
        for wrong in [
            json!({}),
            json!({"schema_version": true}),
            json!({"schema_version": 1, "path": "/"}),
            json!({"schema_version": 1, "apply": "later"}),
        ] {
            assert!(serde_json::from_value::<OverridesRequest>(wrong.clone()).is_err(), "{wrong}");
            assert!(serde_json::from_value::<ResetRequest>(wrong.clone()).is_err(), "{wrong}");
        }
        let preserve = json!({"schema_version": 1, "preserve": {"volumes": true}});
        assert!(serde_json::from_value::<ResetRequest>(preserve).is_err());
    }

    #[test]
    fn responses_are_what_apps_read() {
        let taken = OverridesResponse::Ok(OverridesTaken {
            schema_version: REQUEST_SCHEMA,
            apply: OverridesApply::NextRestart,
            restart: RestartPlan { requested: false, scheduled: false, deferred: true },
            overrides: OverridesChange { set: vec!["A".into()], removed: vec![], active_count: 1 },
            request_id: None,
        });
        let golden = json!({
            "status": "ok", "schema_version": 1, "apply": "next_restart",
            "restart": {"requested": false, "scheduled": false, "deferred": true},
            "overrides": {"set": ["A"], "removed": [], "active_count": 1},
        });
        assert_eq!(serde_json::to_value(&taken).expect("serialises"), golden);

        let done = ResetResponse::Ok(ResetDone {
            schema_version: REQUEST_SCHEMA,
            mode: ResetMode::Volumes,
            apply: ResetApply::RestartNow,
            reset: ResetVolumes {
                volumes: vec!["data".into()],
                cleared_count: 3,
                preserved: ResetPreserve::default(),
            },
            restart: RestartPlan { requested: true, scheduled: true, deferred: false },
            request_id: Some("r".into()),
        });
        let golden = json!({
            "status": "ok", "schema_version": 1, "mode": "volumes", "apply": "restart_now",
            "reset": {"volumes": ["data"], "cleared_count": 3,
                      "preserved": {"env_overrides": true}},
            "restart": {"requested": true, "scheduled": true, "deferred": false},
            "request_id": "r",
        });
        assert_eq!(serde_json::to_value(&done).expect("serialises"), golden);

        let refused = OverridesResponse::Error(RequestRefused {
            schema_version: REQUEST_SCHEMA,
            stage: Stage::Validation,
            error: "A is reserved".into(),
            failed_timestamp: Timestamp::from_second(1_700_000_000).expect("in range"),
            request_id: None,
        });
        let golden = json!({
            "status": "error", "schema_version": 1, "stage": "validation",
            "error": "A is reserved", "failed_timestamp": "2023-11-14T22:13:20Z",
        });
        assert_eq!(serde_json::to_value(&refused).expect("serialises"), golden);
    }
}
