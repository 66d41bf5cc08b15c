//! The shapes other programs see: ids, status, operations, problem documents, control files and
//! the sync record.
//!
//! Everything here is data with serde derives and the parsing that makes wrong values
//! unrepresentable. There is no io, no task and no clock.

mod ack;
pub mod app_request;
pub mod control;
pub mod event;
mod exec;
mod ids;
mod images;
mod lock;
mod log_position;
mod operations;
mod probe;
mod problem;
mod publisher;
pub mod record;
pub mod runner;
mod status;
mod sync_commands;

pub use ack::{ACK_SCHEMA, AckPlace, AckState, ConsumerId, SyncAck, SyncConsumer, SyncFleet};
pub use event::{
    Event, EventDetails, EventGap, EventKind, EventPage, EventQuery, EventSeq, EventStart,
    EventSubject, EventTally, EventText, Severity,
};
pub use exec::{
    EXEC_FRAME_MAX, EXEC_PROTOCOL, EXEC_WINDOW, ExecFrame, ExecFrames, ExecInput, ExecOutput,
    ExecRequest, ExecSignal, FrameError, TerminalSize,
};
pub use ids::{Cid, InvalidCid, InvalidName, NodeId, SyncKey, VolumeName, WorkloadName};
pub use images::{
    ImageAct, ImageRequest, ImageStatus, ImagesStatus, LoadRequest, PruneRequest, PullStatus,
};
pub use lock::{BreakMode, BreakRequest, LockHolder, LockState, LockStatus};
pub use log_position::{InvalidLogPosition, LogPosition};
pub use operations::{
    CheckMode, CheckRequest, ContentRule, DependantsRule, DeployRequest, Finding, GrowRequest,
    HistoryEntry, LogLine, LogQuery, LogStream, Operation, OperationEvent, OperationOutcome,
    OperationProgress, PublishAllRequest, PublishOutcome, PublishRequest, PublishTarget,
    RollbackRequest, Verdict, VolumeAct, VolumeFate,
};
pub use probe::{ProbeCounts, ProbeSeen, ProbeStatus, ProbeVerdict};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem, ProblemCode};
pub use publisher::{InvalidPublisherKey, PublisherKey};
pub use status::{
    BackOffStatus, CheckOutcome, ContainerStatus, DependencyState, DependencyStatus, DesiredState,
    EngineStatus, ExitStatus, Fault, FirstContentStatus, GenerationStorage, NodeReadiness,
    NodeStatus, PortStatus, RefusedSpec, STATUS_SCHEMA, SpaceStatus, SpecFault, SyncFailure,
    SyncFence, SyncHead, SyncHeld, SyncOutcome, SyncRole, SyncStatus, SyncTakenBack,
    VolumeAllocation, VolumeCheck, VolumeLevel, VolumeStatus, VolumeUsage, WorkloadPhase,
    WorkloadStatus,
};
pub use sync_commands::{
    CidPrefix, Damage, DiffAgainst, DifferingPart, EntryKind, GenerationStanding, GenerationStored,
    InvalidCidPrefix, SyncAct, SyncDifference, SyncDifferences, SyncGeneration, SyncLine,
    SyncPiece, SyncQuestion, SyncRollbackRequest, SyncUpload, TreeEntry, VerifyDepth,
    VerifyProgress, VerifySum,
};
