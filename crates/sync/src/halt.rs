//! What an operator's side asks of an interrupted or uncertain apply.

use std::io;
use std::path::Path;

use crate::state::{ApplyPhase, StateDir};

/// Whether [`crate::recover`] has something to finish. What cannot be read counts as something.
///
/// A container that runs while this holds was started behind the daemon's back.
pub async fn is_recovery_needed(state_dir: &Path) -> bool {
    let state_dir = state_dir.to_owned();
    let look = move || match StateDir::open(&state_dir).and_then(|state| state.apply()) {
        Ok(Some(journal)) => matches!(journal.phase, ApplyPhase::Applying),
        Ok(None) => false,
        Err(_) => true,
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(true)
}

/// Forgets a halt on an operator's word: the volumes are taken as they are.
///
/// An interrupted apply stays in its journal; if it can still be finished, the next
/// [`crate::recover`] finishes it.
pub async fn clear_halt(state_dir: &Path) -> io::Result<()> {
    let state_dir = state_dir.to_owned();
    let clear = move || StateDir::open(&state_dir)?.clear_halt();
    tokio::task::spawn_blocking(clear).await.map_err(io::Error::other)?
}
