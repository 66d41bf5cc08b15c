//! What a runner and belayd say to each other over the socket, subprotocol [`SUBPROTOCOL`].
//!
//! `docs/runner-protocol.md` describes every message; its examples are the golden tests of this
//! module. A frame is one JSON object `{id?, type, body?}`. [`RunnerFrame`] is what a runner sends,
//! [`ServerFrame`] what belayd sends.

mod error;
mod frame;
mod host_tally;
mod ids;
mod message;
mod status;
mod travel;

pub use error::{CloseReason, RunnerError, RunnerErrorCode};
pub use frame::{FrameFault, RunnerFrame, ServerFrame};
pub use ids::{
    Attempt, Epoch, InvalidId, InvalidToken, RequestId, RunId, RunnerId, RunnerToken, SuspensionId,
    TravelId, WaitpointId,
};
pub use message::{
    Again, AttemptOutcome, CompleteRequest, Completed, ContinueRequest, Continued, Empty,
    NextForRun, Notice, Progress, ReleaseReason, Released, Reply, Resumed, RunReference,
    RunStanding, RunnerNote, RunnerRequest, SnapshotAnswer, SnapshotOmission, Standing, Started,
    StopRequest, SuspendRequest, Suspended, WaitRequest, WaitResult, WaitpointCreated, Welcome,
};

pub use host_tally::{HostTally, Spans};
pub use status::{
    Acceptance, CancelledSnapshots, CheckpointStatus, CheckpointVersions, CompleteWaitpoint,
    DEFAULT_MAX_ATTEMPTS, IdempotencyKey, InvalidIdempotencyKey, IssuedToken, MAX_IDEMPOTENCY_KEY,
    OmittedSnapshots, PAGE_LIMIT, RemovedCheckpoint, RunDetail, RunLogQuery, RunPage, RunQuery,
    RunState, RunStatus, RunnerActivity, RunnerLink, RunnerOrigin, RunnerStatus, RunnerTally,
    SnapshotStatus, SnapshotTally, SubmitRequest, Submitted, TokenRequest, WaitStatus,
    WaitpointPage, WaitpointQuery, WaitpointState, WaitpointStatus,
};

pub use travel::{
    ArrivalVerdict, DepartureStage, DepartureStatus, ImportedCheckpoint, ReclaimedCheckpoint,
};

/// Name of the subprotocol, as the handshake negotiates it.
pub const SUBPROTOCOL: &str = "belay.runner.v1";

/// Bytes of the largest frame that belayd takes.
pub const MAX_FRAME: usize = 1024 * 1024;

/// Bytes of the largest frame that belayd sends: a payload, the result of a wait, and their
/// surroundings.
pub const MAX_SERVER_FRAME: usize = 2 * 1024 * 1024;

/// Bytes of the largest payload of a run, as compact JSON.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Bytes of the largest result of a waitpoint, as compact JSON.
pub const MAX_WAIT_OUTPUT: usize = 256 * 1024;

/// Waitpoints that one run may have.
pub const MAX_WAITPOINTS: usize = 64;

#[cfg(test)]
mod tests;
