//! From what went wrong below to the problem that an operator sees.

use std::error::Error;
use std::fmt::Write as _;

use belay_engine::EngineError;
use belay_protocol::{Problem, ProblemCode, WorkloadName};
use belay_volumes::{EnsureError, ReleaseError};

/// An error with all its causes, as in `cannot open x: permission denied`.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn engine_next(error: &EngineError, otherwise: &str) -> String {
    match error {
        EngineError::Unreachable { .. } | EngineError::TimedOut { .. } => {
            "see that the container engine runs: belay doctor".to_owned()
        }
        EngineError::Absent { .. }
        | EngineError::Conflict { .. }
        | EngineError::Busy { .. }
        | EngineError::Invalid { .. }
        | EngineError::Denied { .. }
        | EngineError::Unsupported { .. }
        | EngineError::Unknown { .. } => otherwise.to_owned(),
    }
}

/// The container could not be created or started.
pub(crate) fn start(workload: &WorkloadName, error: &EngineError) -> Problem {
    let detail = format!("{workload}: {}", with_causes(error));
    match error {
        EngineError::Busy { .. } => Problem::new(
            ProblemCode::PortTaken,
            detail,
            "end what uses it or choose another host port in the spec; it is tried again by itself",
        ),
        EngineError::Unreachable { .. } | EngineError::TimedOut { .. } => {
            Problem::new(ProblemCode::EngineUnreachable, detail, engine_next(error, ""))
        }
        EngineError::Absent { .. }
        | EngineError::Conflict { .. }
        | EngineError::Invalid { .. }
        | EngineError::Denied { .. }
        | EngineError::Unsupported { .. }
        | EngineError::Unknown { .. } => Problem::new(
            ProblemCode::StartFailed,
            detail,
            format!("correct the spec and deploy it again; belay explain {workload} shows more"),
        ),
    }
}

/// The stop was not confirmed.
pub(crate) fn stop(workload: &WorkloadName, error: &EngineError) -> Problem {
    Problem::new(
        ProblemCode::StopUnconfirmed,
        format!("{workload}: {}", with_causes(error)),
        engine_next(error, "it is tried again by itself; belay status shows when it is done"),
    )
}

/// The volumes could not be provided.
pub(crate) fn provide(error: &EnsureError) -> Problem {
    let next = match error {
        // A person decides what becomes of an image that is not as it should be.
        EnsureError::Refused { id, .. } | EnsureError::Damaged { id, .. } => {
            crate::volume_act::ensure(error, id).next
        }
        EnsureError::HostFull { .. }
        | EnsureError::NoFreeDevice { .. }
        | EnsureError::Tool { .. }
        | EnsureError::Io { .. } => "without its volumes it is not started; belay volume ls and \
                                     belay doctor show the host's side, and it is tried again by \
                                     itself"
            .to_owned(),
    };
    Problem::new(ProblemCode::VolumeUnavailable, with_causes(error), next)
}

/// A volume could not be released.
pub(crate) fn release(error: &ReleaseError) -> Problem {
    Problem::new(
        ProblemCode::VolumeUnavailable,
        with_causes(error),
        "end what holds the volume; the release is tried again by itself",
    )
}

/// The problem of a lock that somebody else has.
pub(crate) fn lock_held(wanted: &str, held: &belay_locks::HeldError) -> Problem {
    let next = match held.lock.about() {
        Some(workload) => format!(
            "repeat the command with --wait SECONDS, or end whoever has it: belay lock break \
             {workload} --force"
        ),
        None => "repeat the command in a moment; belay lock ls shows who has it".to_owned(),
    };
    Problem::new(ProblemCode::LockHeld, format!("{wanted}: {held}"), next)
}

/// The locks cannot be used, so nothing is changed.
pub(crate) fn locks_unusable(wanted: &str, error: &belay_locks::AcquireError) -> Problem {
    Problem::new(
        ProblemCode::LocksUnusable,
        format!("{wanted}: {}", with_causes(error)),
        "nothing was changed; see that the runtime directory can be written and is left alone, then \
         restart belayd: systemctl restart belayd",
    )
}

/// The ledger refused a write.
pub(crate) fn ledger(error: &belay_ledger::LedgerError) -> Problem {
    Problem::new(
        ProblemCode::Internal,
        with_causes(error),
        "nothing was changed; see that the state directory can be written and has space",
    )
}
