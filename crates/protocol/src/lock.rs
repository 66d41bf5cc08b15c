//! Locks, as they are shown and as their end is asked for.

use serde::{Deserialize, Serialize};

use crate::WorkloadName;

/// A lock that is held, or that an operation left which was cut short (`GET /v1/locks`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockStatus {
    /// What it locks, as in `workload web` or `volume web/data`.
    pub lock: String,
    /// The workload that it is about, if it is about one.
    pub workload: Option<WorkloadName>,
    /// Whether somebody holds it.
    pub state: LockState,
    /// What the holder, or the one before, said of itself, as far as that reads.
    pub holder: Option<LockHolder>,
    /// One line for people: operation, kind of program, process, since when, phase, deadline.
    pub line: String,
}

/// Whether a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockState {
    /// belayd holds it.
    Own,
    /// Another process does.
    Foreign,
    /// Nobody does, and what it was last held for was cut short.
    CutShort,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockHolder {
    /// What for, as in `deploy`.
    pub operation: String,
    /// `daemon`, `cli` or `rescue`.
    pub role: String,
    /// Its process id.
    pub pid: u32,
    /// What it does now, as in `probing`.
    pub phase: String,
}

/// How the locks of a workload are to be freed (`POST /v1/workloads/{name}/lock/break`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakRequest {
    /// What may be done to their holders.
    pub mode: BreakMode,
}

/// What may be done to the holder of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakMode {
    /// Nothing: the refusal says who it is.
    Explain,
    /// An operation of belayd is ended between two steps; another process is asked to end, and
    /// killed if it does not.
    Force,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lock_has_the_form_written_down() {
        let golden = json!({
            "lock": "workload web", "workload": "web", "state": "foreign",
            "holder": {"operation": "mend", "role": "rescue", "pid": 812, "phase": "looking"},
            "line": "mend (rescue, pid 812) for 12 s, looking for 9.0 s, without a deadline",
        });
        let read: LockStatus = serde_json::from_value(golden.clone()).expect("reads");
        assert_eq!(read.state, LockState::Foreign);
        assert_eq!(serde_json::to_value(&read).expect("serialises"), golden);
        let request: BreakRequest =
            serde_json::from_value(json!({"mode": "force"})).expect("reads");
        assert_eq!(request.mode, BreakMode::Force);
    }
}
