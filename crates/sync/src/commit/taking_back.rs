//! Puts the old state back after a commit, with what the workload wrote to the new one.
//!
//! The journal says so before the first change, and from then on the only way is back. What the
//! commit replaced lies in its staging directories; whatever is in its place now goes there.

use std::io;

use super::{CommitError, Foreign, finish, found, keep_time, make_parents, touched, volume};
use crate::beneath::Name;
use crate::core::apply::{WayBack, way_back};
use crate::failpoint::{Point, reached};
use crate::state::{ApplyJournal, ApplyPhase, ExchangeStep, StateDir, Trial};
use crate::volume::{Volume, Volumes};

/// Takes a journalled return to its end; repeatable. The container is stopped.
///
/// An apply that cannot be put back because something that it replaced is gone stands: the journal
/// that is returned says so.
pub(crate) fn take_back(
    volumes: &Volumes,
    state: &StateDir,
    mut journal: ApplyJournal,
) -> Result<ApplyJournal, CommitError> {
    let ApplyPhase::TakingBack { committed, refused } = journal.phase.clone() else {
        return Ok(journal);
    };
    let uncertain = |source: io::Error| CommitError::Uncertain {
        reason: format!("an apply that was being taken back is in two halves: {source}"),
    };
    let ways = ways(volumes, &journal).map_err(uncertain)?;
    if ways.contains(&WayBack::Lost) {
        if begun(&ways, &journal) {
            return Err(uncertain(io::Error::other(Foreign)));
        }
        journal.phase = ApplyPhase::Committed { at: committed };
        journal.trial = None;
    } else {
        put_back(volumes, &journal).map_err(uncertain)?;
        journal.phase = ApplyPhase::TakenBack { refused };
    }
    finish(state, &journal);
    reached(Point::TakeBackJournalled);
    Ok(journal)
}

fn ways(volumes: &Volumes, journal: &ApplyJournal) -> io::Result<Vec<WayBack>> {
    journal.steps.iter().map(|step| way(volume(volumes, step)?, journal, step)).collect()
}

fn way(volume: &Volume, journal: &ApplyJournal, step: &ExchangeStep) -> io::Result<WayBack> {
    let (slot, target) = found(volume, journal, step)?;
    Ok(way_back(step.replaced, slot, target))
}

/// Whether something has gone back already that had a place before.
fn begun(ways: &[WayBack], journal: &ApplyJournal) -> bool {
    ways.iter()
        .zip(&journal.steps)
        .any(|(way, step)| *way == WayBack::Done && step.replaced.is_some())
}

fn put_back(volumes: &Volumes, journal: &ApplyJournal) -> io::Result<()> {
    let touched = touched(volumes, journal)?;
    for volume in &touched {
        volume.remove_mark()?;
        volume.private.sync()?;
    }
    reached(Point::TakeBackMarksRemoved);
    for step in &journal.steps {
        go(volume(volumes, step)?, journal, step)?;
        reached(Point::FirstPutBack);
    }
    for step in &journal.steps {
        keep_time(volume(volumes, step)?, &step.below, step.replaced_modified)?;
    }
    reached(Point::AllPutBack);
    for volume in &touched {
        volume.private.sync_file_system()?;
    }
    reached(Point::PutBackSynced);
    for volume in &touched {
        let Trial { marks } = journal.trial.clone().unwrap_or_default();
        // A mark is of a directory. What was marked before the old one came is of no use.
        if let Some(mark) = marks.get(&volume.name)
            && mark.data == volume.identity()?
        {
            volume.write_mark(mark)?;
            reached(Point::FirstOldMark);
        }
    }
    reached(Point::OldMarksWritten);
    Ok(())
}

fn go(volume: &Volume, journal: &ApplyJournal, step: &ExchangeStep) -> io::Result<()> {
    let way = way(volume, journal, step)?;
    if way == WayBack::Done {
        return Ok(());
    }
    let staging = volume.private.open_dir(journal.directory.as_bytes())?;
    let slot = Name::new(step.slot.as_bytes())?;
    if way == WayBack::Return {
        // The app may have removed the directories above it too.
        make_parents(volume, &step.below)?;
    }
    let (parent, name) = volume.place(&step.below)?.ok_or(io::ErrorKind::NotFound)?;
    match way {
        WayBack::Done => Ok(()),
        WayBack::Exchange => staging.exchange(slot, &parent, name),
        WayBack::Return => staging.rename_new(slot, &parent, name),
        WayBack::Withdraw => parent.rename_new(name, &staging, slot),
        WayBack::Lost => Err(io::Error::other(Foreign)),
    }
}
