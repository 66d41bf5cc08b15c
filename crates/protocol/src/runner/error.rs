//! Why a message was refused, and why a socket was closed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a message was refused. The words are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerErrorCode {
    /// The frame is no JSON object with `type`, and `id` and `body` at most besides.
    MalformedFrame,
    /// There is no message of this type.
    UnknownType,
    /// A request came without `id`, or a notification with one.
    WrongKind,
    /// The body has a field too many, too few, or of another shape.
    InvalidBody,
    /// There is no such run, or it ended too long ago to be remembered.
    UnknownRun,
    /// The run is not bound to this runner, or not any more.
    NotBound,
    /// The run is bound to another runner.
    BoundElsewhere,
    /// A newer session of this runner has taken its place.
    SessionReplaced,
    /// The run was bound again since the epoch that the message names.
    StaleEpoch,
    /// The attempt that the message names is not the one that executes.
    StaleAttempt,
    /// The suspension that the message names is not the present one.
    StaleSuspension,
    /// The run is in a state in which this cannot be asked.
    WrongState,
    /// The run has no such waitpoint.
    UnknownWaitpoint,
    /// The run has as many waitpoints as it may.
    TooManyWaitpoints,
    /// The runner is being stopped and gets no further run.
    RunnerStopping,
}

impl RunnerErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::MalformedFrame,
        Self::UnknownType,
        Self::WrongKind,
        Self::InvalidBody,
        Self::UnknownRun,
        Self::NotBound,
        Self::BoundElsewhere,
        Self::SessionReplaced,
        Self::StaleEpoch,
        Self::StaleAttempt,
        Self::StaleSuspension,
        Self::WrongState,
        Self::UnknownWaitpoint,
        Self::TooManyWaitpoints,
        Self::RunnerStopping,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedFrame => "malformed-frame",
            Self::UnknownType => "unknown-type",
            Self::WrongKind => "wrong-kind",
            Self::InvalidBody => "invalid-body",
            Self::UnknownRun => "unknown-run",
            Self::NotBound => "not-bound",
            Self::BoundElsewhere => "bound-elsewhere",
            Self::SessionReplaced => "session-replaced",
            Self::StaleEpoch => "stale-epoch",
            Self::StaleAttempt => "stale-attempt",
            Self::StaleSuspension => "stale-suspension",
            Self::WrongState => "wrong-state",
            Self::UnknownWaitpoint => "unknown-waitpoint",
            Self::TooManyWaitpoints => "too-many-waitpoints",
            Self::RunnerStopping => "runner-stopping",
        }
    }

    /// What the runner should do about it.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::MalformedFrame => {
                "send one JSON object with type, and id and body if it has them"
            }
            Self::UnknownType => "use a message of the page on belay.runner.v1",
            Self::WrongKind => "give every request an id, and no notification one",
            Self::InvalidBody => "compare the body with the example of the message",
            Self::UnknownRun | Self::NotBound | Self::BoundElsewhere => {
                "drop the run and send ready"
            }
            Self::SessionReplaced => "end this process, or connect under another runner name",
            Self::StaleEpoch => "use the epoch of the last state message",
            Self::StaleAttempt => "drop the attempt and act on the last state message",
            Self::StaleSuspension | Self::WrongState => "act on the last state message",
            Self::UnknownWaitpoint => "create the waitpoint first",
            Self::TooManyWaitpoints => "wait on the waitpoints that there are",
            Self::RunnerStopping => "end this process",
        }
    }
}

impl fmt::Display for RunnerErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal, as the runner reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerError {
    /// What is wrong, for programs.
    pub code: RunnerErrorCode,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    pub next: String,
}

impl RunnerError {
    /// The refusal with the code's own next step.
    pub fn new(code: RunnerErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: code.next_step().to_owned() }
    }
}

/// Why belayd closed a socket: the code and reason of its close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// belayd ends; connect again.
    Draining,
    /// A newer session of the same runner has taken its place; do not connect again.
    Replaced,
    /// The runner did not read what was sent to it.
    Slow,
    /// No pong came in time.
    Silent,
    /// The runner's container has ended.
    RunnerGone,
    /// The runner was snapshotted; connect again when the process runs again.
    Suspended,
    /// The runner is bound to a run of another workload than its token's.
    WrongWorkload,
}

impl CloseReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Draining,
        Self::Replaced,
        Self::Slow,
        Self::Silent,
        Self::RunnerGone,
        Self::Suspended,
        Self::WrongWorkload,
    ];

    /// The status code of the close frame (RFC 6455, section 7.4; own ones from 4000).
    pub fn code(self) -> u16 {
        match self {
            Self::Draining => 1001,
            Self::Replaced => 4001,
            Self::Slow => 4002,
            Self::Silent => 4003,
            Self::RunnerGone => 4004,
            Self::Suspended => 4005,
            Self::WrongWorkload => 4006,
        }
    }

    /// The word in the close frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Replaced => "replaced",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::RunnerGone => "runner-gone",
            Self::Suspended => "suspended",
            Self::WrongWorkload => "wrong-workload",
        }
    }
}
