//! What is done with one volume on an operator's word, and what an operator is told when it is not.

use belay_events::EventSink;
use belay_protocol::{CheckMode, EventDetails, EventSubject, Problem, ProblemCode, VolumeAct};
use belay_volumes::{
    CareError, CheckOutcome, EnsureError, GenerationError, Refusal, RemoveError, VolumeId, Volumes,
};

use crate::problems::with_causes;

/// Checks the file system of a volume that nothing uses, and says what came of it.
pub(crate) async fn check(
    volumes: &Volumes,
    id: &VolumeId,
    mode: CheckMode,
) -> Result<String, Problem> {
    let mode = match mode {
        CheckMode::Report => belay_volumes::CheckMode::Report,
        CheckMode::Repair => belay_volumes::CheckMode::Repair,
    };
    let checked = volumes.check(id, mode).await.map_err(|error| care(&error, id))?;
    match checked.outcome {
        CheckOutcome::Clean => Ok(format!("the file system of {id} is clean")),
        CheckOutcome::Repaired => Ok(format!("the file system of {id} was repaired")),
        CheckOutcome::Damaged => Err(damaged(id, &checked.report)),
    }
}

/// Takes the image that lies in the volume's place for its own.
pub(crate) async fn adopt(volumes: &Volumes, id: &VolumeId) -> Result<String, Problem> {
    volumes.adopt(id).await.map_err(|error| care(&error, id))?;
    Ok(format!("the image in the place of {id} is its own from now on"))
}

/// Deletes a volume that nothing names.
pub(crate) async fn remove(volumes: &Volumes, id: &VolumeId) -> Result<String, Problem> {
    volumes.remove(id).await.map_err(|error| removal(&error, id))?;
    Ok(format!("{id} is deleted with everything in it"))
}

/// A volume as the subject of an event.
pub(crate) fn subject(id: &VolumeId) -> EventSubject {
    EventSubject::Volume { workload: id.workload.clone(), volume: id.volume.clone() }
}

/// Tells that what was asked of a volume is done.
pub(crate) fn tell_done(events: &EventSink, id: &VolumeId, act: &VolumeAct, summary: &str) {
    events.emit(subject(id), summary, EventDetails::VolumeActDone { verb: act.into() });
}

/// The problem of a volume that is not there.
pub(crate) fn absent(id: &VolumeId, why: &str) -> Problem {
    Problem::new(
        ProblemCode::NoSuchVolume,
        format!("there is no volume {id}{why}"),
        "belay volume ls lists those that there are",
    )
}

/// A volume could not be given more space or made anew.
pub(crate) fn ensure(error: &EnsureError, id: &VolumeId) -> Problem {
    let detail = with_causes(error);
    match error {
        EnsureError::Refused { refusal, .. } => refused(refusal, id, detail),
        EnsureError::Damaged { .. } => Problem::new(ProblemCode::VolumeDamaged, detail, repair(id)),
        EnsureError::HostFull { .. } => Problem::new(
            ProblemCode::VolumeUnavailable,
            detail,
            "free space on the host, or ask for less; belay volume ls shows what holds it",
        ),
        EnsureError::NoFreeDevice { .. } | EnsureError::Tool { .. } | EnsureError::Io { .. } => {
            Problem::new(ProblemCode::VolumeUnavailable, detail, HOST)
        }
    }
}

/// A volume could not be checked, adopted or trimmed.
pub(crate) fn care(error: &CareError, id: &VolumeId) -> Problem {
    let detail = with_causes(error);
    match error {
        CareError::Refused { refusal, .. } => refused(refusal, id, detail),
        CareError::FullyAllocated { .. } => {
            Problem::new(ProblemCode::VolumeRefused, detail, "nothing is to be done")
        }
        CareError::NoRepair { .. } => Problem::new(
            ProblemCode::VolumeRefused,
            detail,
            format!("what can be read can be copied elsewhere; belay volume reset {id} empties it"),
        ),
        CareError::Damaged { .. } => Problem::new(ProblemCode::VolumeDamaged, detail, repair(id)),
        CareError::NotMounted { .. } => Problem::new(
            ProblemCode::VolumeRefused,
            detail,
            format!("start its workload first: belay start {}", id.workload),
        ),
        CareError::Tool { .. } | CareError::Io { .. } => {
            Problem::new(ProblemCode::VolumeUnavailable, detail, HOST)
        }
    }
}

/// A generation could not take a volume's place.
pub(crate) fn generation(error: &GenerationError, id: &VolumeId) -> Problem {
    let detail = with_causes(error);
    match error {
        GenerationError::Refused { refusal, .. } => refused(refusal, id, detail),
        GenerationError::NoGeneration { .. } => Problem::new(
            ProblemCode::VolumeRefused,
            detail,
            format!("belay volume show {id} lists those that there are"),
        ),
        GenerationError::NotCloning { .. }
        | GenerationError::NoRoom { .. }
        | GenerationError::NoWatchdog { .. }
        | GenerationError::NotMountedHere { .. }
        | GenerationError::Scattered { .. }
        | GenerationError::TooLong { .. } => {
            Problem::new(ProblemCode::VolumeRefused, detail, "nothing was changed")
        }
        GenerationError::Io { .. } => Problem::new(ProblemCode::VolumeUnavailable, detail, HOST),
    }
}

/// A volume could not be deleted.
pub(crate) fn removal(error: &RemoveError, id: &VolumeId) -> Problem {
    let detail = with_causes(error);
    match error {
        RemoveError::Refused { refusal, .. } => refused(refusal, id, detail),
        RemoveError::Io { .. } => Problem::new(ProblemCode::VolumeUnavailable, detail, HOST),
    }
}

const HOST: &str = "belay doctor shows what the host lacks; then repeat the command";

fn damaged(id: &VolumeId, report: &str) -> Problem {
    let detail = format!("the file system of {id} is damaged: {report}");
    Problem::new(ProblemCode::VolumeDamaged, detail, repair(id))
}

fn repair(id: &VolumeId) -> String {
    format!(
        "belay stop {0} if it runs, then belay volume check --repair {id}, which may cost damaged \
         files; or put a copy in its place",
        id.workload
    )
}

fn refused(refusal: &Refusal, id: &VolumeId, detail: String) -> Problem {
    let workload = &id.workload;
    let (code, next) = match refusal {
        Refusal::NoVolume => {
            (ProblemCode::NoSuchVolume, "belay volume ls lists those that there are".to_owned())
        }
        Refusal::InUse { .. }
        | Refusal::MountPointTaken { .. }
        | Refusal::SeveralDevices { .. }
        | Refusal::OtherUse { .. } => {
            let next = "end what holds it, then repeat the command; nothing was changed";
            (ProblemCode::VolumeInUse, next.to_owned())
        }
        Refusal::ReadOnly => (
            ProblemCode::VolumeInUse,
            format!("belay restart {workload} checks and mounts it anew"),
        ),
        Refusal::GrowthNeedsRelease { .. } => (
            ProblemCode::VolumeInUse,
            format!("belay stop {workload}, then repeat the command, then belay start {workload}"),
        ),
        Refusal::Unmarked | Refusal::OtherImage { .. } => (
            ProblemCode::VolumeRefused,
            format!("if it is meant: belay volume adopt {id}; nothing was changed"),
        ),
        Refusal::Unrecognised | Refusal::NotAFile | Refusal::Truncated { .. } => (
            ProblemCode::VolumeRefused,
            format!("restore the image, or begin with an empty one: belay volume reset {id}"),
        ),
        Refusal::Spec(_) | Refusal::OtherFileSystem { .. } | Refusal::Shrink { .. } => {
            (ProblemCode::VolumeRefused, "nothing was changed".to_owned())
        }
    };
    Problem::new(code, detail, next)
}
