//! What must be settled before a workload's container may start.

use std::path::Path;

use jiff::Timestamp;

use crate::command::{ClearHaltError, RecoverError, Recovery};
use crate::commit::{self, CommitError};
use crate::layout::SyncLayout;
use crate::state::{ApplyPhase, Halt, StateDir};
use crate::volume::Volumes;

/// Finishes or discards an apply that a crash or a power cut interrupted, or takes it back where that
/// had begun, and says whether the workload may start.
///
/// Call it after the workload's volumes are mounted and before any start of its container; it may
/// be repeated. `state_dir` is the one given to [`crate::spawn`]. While the workload's sync task is
/// staging, which it does with the container running, recovery leaves that alone.
pub async fn recover(state_dir: &Path, layout: &SyncLayout) -> Result<Recovery, RecoverError> {
    let (state_dir, layout) = (state_dir.to_owned(), layout.clone());
    let work = tokio::task::spawn_blocking(move || recover_blocking(&state_dir, &layout));
    work.await.unwrap_or_else(|error| Err(RecoverError::State(std::io::Error::other(error))))
}

fn recover_blocking(state_dir: &Path, layout: &SyncLayout) -> Result<Recovery, RecoverError> {
    let state = StateDir::open(state_dir).map_err(RecoverError::State)?;
    let reason = |halt: Option<Halt>| halt.map(|halt| halt.reason);
    let Some(_lock) = state.lock().map_err(RecoverError::State)? else {
        // The task stages, beside a running container, or it commits.
        if state
            .apply()
            .map_err(RecoverError::State)?
            .is_some_and(|journal| journal.phase.is_half_way())
        {
            return Err(RecoverError::Busy);
        }
        return Ok(Recovery { halt: reason(state.halt()), finished: None });
    };
    match settle(&state, layout) {
        Ok(finished) => Ok(Recovery { halt: reason(state.halt()), finished }),
        Err(reason) => {
            tracing::error!(%reason, "the state of the volumes is uncertain; the workload is halted");
            let halt = Halt { reason: reason.clone(), since: Some(Timestamp::now()) };
            state.set_halt(&halt).map_err(RecoverError::State)?;
            Ok(Recovery { halt: Some(reason), finished: None })
        }
    }
}

fn settle(state: &StateDir, layout: &SyncLayout) -> Result<Option<belay_protocol::Cid>, String> {
    let journal = state
        .apply()
        .map_err(|error| format!("the journal of an apply cannot be read: {error}"))?;
    let volumes = match (Volumes::open(layout), &journal) {
        (Ok(volumes), _) => volumes,
        // Without a journal there is nothing to be uncertain about, and nothing to sweep.
        (Err(_), None) => return Ok(None),
        (Err(error), Some(_)) => return Err(format!("an apply had begun, and {error}")),
    };
    let Some(journal) = journal else {
        sweep(&volumes, &[]);
        return Ok(None);
    };
    match &journal.phase {
        ApplyPhase::Committed { .. } | ApplyPhase::TakenBack { .. } => {
            lift_halt(state)?;
            Ok(None)
        }
        ApplyPhase::TakingBack { .. } => {
            commit::take_back(&volumes, state, journal).map_err(|error| error.to_string())?;
            lift_halt(state)?;
            Ok(None)
        }
        ApplyPhase::Applying => {
            let cid = journal.record.cid;
            match commit::resume(&volumes, state, journal, Timestamp::now()) {
                Ok(_) => {
                    lift_halt(state)?;
                    Ok(Some(cid))
                }
                Err(CommitError::Uncertain { reason }) => Err(reason),
                Err(error @ (CommitError::Unchanged { .. } | CommitError::Changed { .. })) => {
                    Err(error.to_string())
                }
            }
        }
    }
}

/// Volumes that hold a verified state are not halted, whatever came between the commit and this.
fn lift_halt(state: &StateDir) -> Result<(), String> {
    state.clear_halt().map_err(|error| format!("a halt could not be lifted: {error}"))
}

fn sweep(volumes: &Volumes, but: &[String]) {
    if let Err(error) = commit::sweep(volumes, but) {
        tracing::warn!(%error, "leftovers of an earlier apply could not be cleared away");
    }
}

/// Whether [`recover`] has something to finish. What cannot be read counts as something.
///
/// A container that runs while this holds was started behind the daemon's back.
pub async fn is_recovery_needed(state_dir: &Path) -> bool {
    let state_dir = state_dir.to_owned();
    let look = move || match StateDir::open(&state_dir).and_then(|state| state.apply()) {
        Ok(Some(journal)) => journal.phase.is_half_way(),
        Ok(None) => false,
        Err(_) => true,
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(true)
}

/// Forgets a halt on an operator's word: the volumes are taken as they are.
///
/// An apply without a certain end is forgotten with it, since it would halt the workload again or,
/// finished later, take away what the app wrote meanwhile; what it was to bring counts as not
/// applied. Call it for a halted workload only, after [`recover`] had its say.
pub async fn clear_halt(state_dir: &Path) -> Result<(), ClearHaltError> {
    let state_dir = state_dir.to_owned();
    let clear = move || -> Result<(), ClearHaltError> {
        let state = StateDir::open(&state_dir).map_err(ClearHaltError::State)?;
        let _lock = state.lock().map_err(ClearHaltError::State)?.ok_or(ClearHaltError::Busy)?;
        let finished = state
            .apply()
            .is_ok_and(|journal| journal.is_none_or(|journal| !journal.phase.is_half_way()));
        if !finished {
            state.clear_apply().map_err(ClearHaltError::State)?;
        }
        state.clear_halt().map_err(ClearHaltError::State)
    };
    tokio::task::spawn_blocking(clear)
        .await
        .unwrap_or_else(|error| Err(ClearHaltError::State(std::io::Error::other(error))))
}
