//! Runs, runners and waitpoints as operators and apps see them, and what they ask for.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::WorkloadName;
use crate::runner::{
    Attempt, DepartureStatus, Epoch, RunId, RunnerId, RunnerToken, SuspensionId, WaitRequest,
    WaitpointId,
};

/// Bytes of the longest idempotency key.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Attempts that a run is worth unless its submission says otherwise.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 3;

/// Most entries of a page, and how many it has if nobody asks for fewer.
pub const PAGE_LIMIT: usize = 500;

/// Under which equal submissions are one run: 1 to 255 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

/// A text that is no idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY} bytes and no control character")]
pub struct InvalidIdempotencyKey;

impl TryFrom<String> for IdempotencyKey {
    type Error = InvalidIdempotencyKey;
    fn try_from(text: String) -> Result<Self, InvalidIdempotencyKey> {
        let fits = (1..=MAX_IDEMPOTENCY_KEY).contains(&text.len());
        if !fits || text.chars().any(char::is_control) {
            return Err(InvalidIdempotencyKey);
        }
        Ok(Self(text))
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> String {
        key.0
    }
}

/// A run, as it is submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Whose runners take it.
    pub workload: WorkloadName,
    /// What it is about: at most [`MAX_PAYLOAD`](crate::runner::MAX_PAYLOAD) bytes of compact JSON.
    #[serde(default)]
    pub payload: Value,
    /// Equal submissions of one workload under one key are one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// Greater ones go first.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds that it waits before it is eligible.
    #[serde(default)]
    pub delay_ms: u64,
    /// Milliseconds that an attempt may execute, its waits apart; without a bound if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How many attempts it is worth, at least one.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
}

fn default_max_attempts() -> u32 {
    DEFAULT_MAX_ATTEMPTS
}

/// Answer to a submission. The run is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Its id.
    pub run: RunId,
    /// Whether this submission made it.
    pub acceptance: Acceptance,
}

/// Whether a submission made a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceptance {
    /// It did.
    New,
    /// The run was there already, under the same idempotency key.
    Known,
}

/// How a run stands, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It waits for a runner.
    Queued,
    /// A runner is to start it.
    Assigned,
    /// A runner is at it.
    Executing,
    /// Its runner waits, in memory.
    Waiting,
    /// Its runner is snapshotted.
    Suspended,
    /// Its runner is on its way back.
    Restoring,
    /// It is over and has its result.
    Finished,
    /// It is over without one.
    Failed,
    /// An operator ended it.
    Cancelled,
    /// It was given up to another node, where its runner goes on.
    Moved,
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: &[Self] = &[
        Self::Queued,
        Self::Assigned,
        Self::Executing,
        Self::Waiting,
        Self::Suspended,
        Self::Restoring,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
        Self::Moved,
    ];

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Executing => "executing",
            Self::Waiting => "waiting",
            Self::Suspended => "suspended",
            Self::Restoring => "restoring",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Moved => "moved",
        }
    }

    /// Whether nothing becomes of it any more on this node.
    pub fn is_ended(self) -> bool {
        match self {
            Self::Finished | Self::Failed | Self::Cancelled | Self::Moved => true,
            Self::Queued
            | Self::Assigned
            | Self::Executing
            | Self::Waiting
            | Self::Suspended
            | Self::Restoring => false,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A run, without its payload and result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunStatus {
    /// Its id.
    pub run: RunId,
    /// Whose runners take it.
    pub workload: WorkloadName,
    /// How it stands.
    pub state: RunState,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Greater ones go first.
    pub priority: i32,
    /// Under which it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The last attempt that has begun, 0 if none has.
    pub attempt: Attempt,
    /// How many it is worth.
    pub max_attempts: u32,
    /// How often it was bound to a session.
    pub epoch: Epoch,
    /// Who holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    /// While it is queued: it is not assigned before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// While it executes: when the attempt has taken too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// While it waits or is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitStatus>,
    /// Its snapshot: pending, in the engine's hands, or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// Why the last attempt or assignment failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why the last snapshot of the last suspension was not taken: the run stayed in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_failure: Option<String>,
    /// While its runner is on its way to another node, and once it has moved there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<DepartureStatus>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitStatus {
    /// In which suspension.
    pub suspension: SuspensionId,
    /// For what; absent when the wait is over and the run is to be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitRequest>,
}

/// The snapshot of a run's runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SnapshotStatus {
    /// It is taken unless the wait ends before.
    Pending {
        /// When it falls due, if the runner is connected then.
        due_at: Timestamp,
        /// How often it was tried and failed.
        failures: u32,
    },
    /// It is in the engine's hands.
    Dispatching {},
    /// The runner's memory is on the disk and free.
    Checkpointed {},
    /// The runner is frozen where it is; its memory is not free.
    Paused {},
}

/// All of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDetail {
    /// How it stands.
    pub status: RunStatus,
    /// What it was submitted with.
    pub payload: Value,
    /// Its result, once it has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// What it may wait for, or waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waitpoints: Vec<WaitpointStatus>,
}

/// Which runs are listed, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunQuery {
    /// Only those of this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// Only those in one of these states; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RunState>,
    /// Only those older than this one: the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RunId>,
    /// At most so many, [`PAGE_LIMIT`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Runs, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<RunStatus>,
    /// Where the next page begins, if there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RunId>,
}

/// A runner: one that is connected, or whose container belayd keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerStatus {
    /// Its name.
    pub runner: RunnerId,
    /// Whose runs it takes.
    pub workload: WorkloadName,
    /// Where it comes from.
    pub origin: RunnerOrigin,
    /// What it is at.
    pub activity: RunnerActivity,
    /// Whether it has a session.
    pub link: RunnerLink,
    /// The run that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// Where a runner comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerOrigin {
    /// belayd started its container.
    Hosted,
    /// From elsewhere.
    Foreign,
}

/// Whether a runner has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerLink {
    /// It has one.
    Connected,
    /// It has none.
    Away,
}

/// What a runner is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerActivity {
    /// It asked for a run, and there is none for it.
    Idle,
    /// It has no run and did not ask for one.
    Unready,
    /// It was assigned a run that it has not started.
    Assigned,
    /// It executes.
    Executing,
    /// It waits, in memory.
    Waiting,
    /// It is snapshotted.
    Suspended,
    /// It is on its way back from its snapshot.
    Restoring,
    /// Its container is being stopped.
    Stopping,
}

impl RunnerActivity {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Unready => "unready",
            Self::Assigned => "assigned",
            Self::Executing => "executing",
            Self::Waiting => "waiting",
            Self::Suspended => "suspended",
            Self::Restoring => "restoring",
            Self::Stopping => "stopping",
        }
    }
}

/// Something that a run waits for until somebody completes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitpointStatus {
    /// Its id.
    pub waitpoint: WaitpointId,
    /// Whose it is.
    pub run: RunId,
    /// Of which workload.
    pub workload: WorkloadName,
    /// When it was made.
    pub created_at: Timestamp,
    /// How it stands.
    pub state: WaitpointState,
}

/// How a waitpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitpointState {
    /// The run waits for it.
    Awaited,
    /// Nobody has completed it, and the run does not wait for it now.
    Open,
    /// It was completed.
    Completed,
    /// The run ended before.
    Abandoned,
}

impl WaitpointState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Awaited => "awaited",
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Which waitpoints are listed, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitpointQuery {
    /// Only those of this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// Only those of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Only those in one of these states; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<WaitpointState>,
    /// Only those older than this one: the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<WaitpointId>,
    /// At most so many, [`PAGE_LIMIT`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Waitpoints, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitpointPage {
    /// The waitpoints.
    pub waitpoints: Vec<WaitpointStatus>,
    /// Where the next page begins, if there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<WaitpointId>,
}

/// What completes a waitpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteWaitpoint {
    /// What the run is told: at most [`MAX_WAIT_OUTPUT`](crate::runner::MAX_WAIT_OUTPUT) bytes of
    /// compact JSON.
    #[serde(default)]
    pub output: Value,
}

/// Asks for a token for a runner that belayd does not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The name that the runner will have, one on the node.
    pub runner: RunnerId,
    /// Whose runs it takes.
    pub workload: WorkloadName,
    /// Milliseconds until the token cannot be used to connect any more; 30 days if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A token that was made. It is shown this once; belayd keeps its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedToken {
    /// The secret.
    #[serde(with = "token_text")]
    pub token: RunnerToken,
    /// Whose it is.
    pub runner: RunnerId,
    /// Whose runs it takes.
    pub workload: WorkloadName,
    /// When it cannot be used to connect any more; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A token on its way to its owner.
mod token_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::runner::RunnerToken;

    pub(super) fn serialize<S: Serializer>(
        token: &RunnerToken,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&token.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<RunnerToken, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Counts of the runner server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerTally {
    /// Sockets that are open.
    pub connections: usize,
    /// Runs that are remembered, the ended ones included.
    pub runs: usize,
    /// Snapshots that are scheduled, held or due.
    pub pending_snapshots: usize,
    /// Snapshots in the engine's hands.
    pub dispatching_snapshots: usize,
    /// Memory that containers of runners hold or were promised, in bytes.
    pub reserved_memory: u64,
    /// What became of snapshots since belayd started.
    pub snapshots: SnapshotTally,
}

/// What became of delayed snapshots since belayd started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotTally {
    /// Suspensions that armed one.
    pub scheduled: u64,
    /// Suspensions that armed none.
    pub omitted: OmittedSnapshots,
    /// Those that were not wanted any more before they were taken.
    pub cancelled: CancelledSnapshots,
    /// Those that were handed to the engine, the further tries included.
    pub dispatched: u64,
    /// Those that were taken and kept.
    pub taken: u64,
    /// Those that were taken and put back or dropped, because they were not wanted any more.
    pub discarded: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Those that failed as often as they may: the run stayed in memory.
    pub given_up: u64,
    /// Those that were handed to the engine more than a second after they fell due.
    pub late: u64,
    /// Milliseconds between falling due and being handed to the engine, of all together.
    pub lag_ms: u64,
    /// The longest of them.
    pub longest_lag_ms: u64,
}

/// A runner that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointStatus {
    /// The runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// The run that it waits in.
    pub run: RunId,
    /// Id of the image that its container was made of.
    pub image: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Bytes of its files.
    pub bytes: u64,
    /// BLAKE3 over its files, in hexadecimal digits.
    pub digest: String,
    /// What it was taken with.
    pub taken_with: CheckpointVersions,
    /// Why what the node has now cannot restore it; none if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incompatible: Option<String>,
    /// Where it is on its way to, or was given up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<DepartureStatus>,
}

/// Answer to the removal of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedCheckpoint {
    /// The run that waited in it. It is tried again, if it may be and has not moved.
    pub run: RunId,
}

/// What a checkpoint was taken with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointVersions {
    /// The engine: `podman`.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// The program that runs containers: `runc`.
    pub runtime: String,
    /// Version of CRIU, where it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criu: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
}

/// What of a run's output is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunLogQuery {
    /// Go on with lines as they are written, until the run is over.
    pub follow: bool,
    /// Only so many of the newest to begin with.
    pub tail: Option<u32>,
    /// Only lines that were written after this time.
    pub after: Option<Timestamp>,
}

/// Suspensions without a snapshot, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OmittedSnapshots {
    /// The wait was over already.
    pub wait_over: u64,
    /// The wait ends before a snapshot would have paid off.
    pub short_wait: u64,
    /// belayd did not start the runner.
    pub foreign_runner: u64,
    /// The engine can neither checkpoint nor pause.
    pub unsupported: u64,
}

/// Snapshots that were not wanted any more, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelledSnapshots {
    /// The attempt was completed.
    pub completed: u64,
    /// The attempt ended in another way.
    pub attempt_ended: u64,
    /// The runner continued, or showed that it executes.
    pub left: u64,
    /// The wait was over.
    pub wait_over: u64,
    /// The run was cancelled.
    pub run_cancelled: u64,
    /// The runner suspended anew.
    pub suspended_anew: u64,
    /// The runner was away for longer than the grace.
    pub away: u64,
    /// Another session of the runner came while it was being taken.
    pub rebound: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_submission_needs_a_workload_and_nothing_else() {
        let request: SubmitRequest =
            serde_json::from_value(json!({"workload": "mailer"})).expect("reads");
        assert_eq!(request.payload, Value::Null);
        assert_eq!((request.priority, request.delay_ms, request.max_attempts), (0, 0, 3));
        let strange = json!({"workload": "mailer", "prioriti": 1});
        serde_json::from_value::<SubmitRequest>(strange).expect_err("a field too many");
    }

    #[test]
    fn keys_have_bounds() {
        for good in ["a", "order 17 / é", &"k".repeat(MAX_IDEMPOTENCY_KEY)] {
            IdempotencyKey::try_from(good.to_owned()).expect(good);
        }
        for bad in ["", "a\nb", &"k".repeat(MAX_IDEMPOTENCY_KEY + 1)] {
            IdempotencyKey::try_from(bad.to_owned()).expect_err(bad);
        }
    }

    #[test]
    fn the_words_of_states_are_those_of_json() {
        for &state in RunState::ALL {
            assert_eq!(serde_json::to_value(state).expect("a word"), state.as_str());
        }
    }

    #[test]
    fn a_token_survives_its_way_to_its_owner_and_is_not_shown_on_it() {
        let issued = IssuedToken {
            token: RunnerToken::from_entropy([7; 32]),
            runner: "laptop".parse().expect("a name"),
            workload: "mailer".parse().expect("a name"),
            expires_at: None,
        };
        assert!(!format!("{issued:?}").contains("belay_runner_"));
        let text = serde_json::to_string(&issued).expect("plain data");
        assert!(text.contains(&issued.token.expose()));
        assert_eq!(serde_json::from_str::<IssuedToken>(&text).expect("reads back"), issued);
    }
}
