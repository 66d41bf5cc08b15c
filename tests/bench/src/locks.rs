//! Taking and letting go of a lock, beside the `flock` under it.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::Result;
use belay_locks::{Claim, LockName, LockSet, Locks, Places, Role};

use crate::report::{Row, Target};

/// Acquisitions in one sample: one alone is near the clock's own grain.
const BATCH: u32 = 200;

pub(crate) fn run(rounds: usize) -> Result<Vec<Row>> {
    // In memory, as the runtime directory is.
    let scratch = tempfile::Builder::new().prefix("belay-bench-").tempdir_in("/dev/shm")?;
    let places = Places { run: scratch.path().to_owned(), state: scratch.path().to_owned() };
    let locks = Locks::new(places);
    let set = LockSet::one(LockName::workload("bench"));
    let claim = Claim::new(Role::Daemon, "deploy");
    let bare = scratch.path().join("bare");
    let mut open = File::options();
    open.read(true).write(true).create(true).truncate(false);
    let (mut samples, mut floor) = (Vec::new(), Vec::new());
    // In turns, so that both see the same machine.
    for _ in 0..rounds {
        samples.push(timed(|| {
            locks.try_acquire(&set, &claim)?.finish();
            Ok(())
        })?);
        floor.push(timed(|| Ok(open.open(&bare)?.try_lock()?))?);
    }
    let name = format!("{BATCH} times a lock had and let go of");
    Ok(vec![Row { name, samples, floor, target: Target::None }])
}

fn timed(mut act: impl FnMut() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    for _ in 0..BATCH {
        act()?;
    }
    Ok(began.elapsed())
}
