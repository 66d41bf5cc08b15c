//! Keeps a workload's sync from publishing and applying until an operator says otherwise.
//!
//! The pause is a file, so that it outlives every process, and the task reads it when it begins.

use std::io;
use std::path::Path;

use jiff::Timestamp;

use crate::state::{ConsumerMemory, Pause, StateDir};

/// Pauses the sync of a workload whose task does not run. `state_dir` is the one given to
/// [`crate::spawn`]. Returns since when it is paused; that of an earlier pause stands.
///
/// # Errors
/// Those of the state directory.
pub async fn pause(state_dir: &Path) -> io::Result<Timestamp> {
    let state_dir = state_dir.to_owned();
    blocking(move || pause_in(&StateDir::open(&state_dir)?)).await
}

/// Ends the pause of a workload whose task does not run, and what a rollback holds back.
///
/// # Errors
/// Those of the state directory.
pub async fn resume(state_dir: &Path) -> io::Result<()> {
    let state_dir = state_dir.to_owned();
    blocking(move || resume_in(&StateDir::open(&state_dir)?).map(drop)).await
}

pub(crate) fn pause_in(state: &StateDir) -> io::Result<Timestamp> {
    // One that cannot be read is written anew.
    if let Some(Pause { since: Some(since) }) = state.pause() {
        return Ok(since);
    }
    let since = Timestamp::now();
    state.set_pause(&Pause { since: Some(since) })?;
    Ok(since)
}

/// What was held back is let go first: a pause that stands then still keeps it from being applied.
pub(crate) fn resume_in(state: &StateDir) -> io::Result<ConsumerMemory> {
    let mut memory = state.consumer()?;
    if memory.pinned.take().is_some() {
        state.set_consumer(&memory)?;
    }
    state.clear_pause()?;
    Ok(memory)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_stands_until_it_is_ended_and_keeps_its_beginning() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::open(temp.path()).expect("opens");
        assert_eq!(state.pause(), None);
        let since = pause(temp.path()).await.expect("pauses");
        assert_eq!(pause(temp.path()).await.expect("pauses"), since);
        assert_eq!(state.pause(), Some(Pause { since: Some(since) }));
        for _ in 0..2 {
            resume(temp.path()).await.expect("resumes");
            assert_eq!(state.pause(), None);
        }
    }

    #[tokio::test]
    async fn a_pause_that_cannot_be_read_is_still_a_pause() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::open(temp.path()).expect("opens");
        std::fs::write(temp.path().join("sync/paused.json"), b"{").expect("writes");
        assert_eq!(state.pause(), Some(Pause { since: None }));
        pause(temp.path()).await.expect("writes it anew");
        assert!(state.pause().expect("stands").since.is_some());
    }
}
