//! Puts a staged tree in the place of the old one, so that a cut at any instant leaves the old
//! state or the new one.
//!
//! A journal on the host is written before the first change. From then on the only way is forward:
//! whoever finds the journal tells by inode numbers and times of birth which exchanges happened and
//! makes the others.
//! If an exchange fails in a running process, those already made are exchanged back; the journal
//! goes only when every place is known to hold the old state again.

use std::ffi::OsStr;
use std::io;

use belay_protocol::record::SyncRecord;
use jiff::Timestamp;
use rustix::fs::{FileType, Timespec};
use std::os::unix::ffi::OsStrExt;

use crate::beneath::{Dir, Name, file_type, remove_tree};
use crate::core::apply::{Identity, Progress, progress};
use crate::core::record::Order;
use crate::failpoint::{Point, reached};
use crate::sharing::SharingError;
use crate::stage::{STAGING_PREFIX, Staged};
use crate::state::{ApplyJournal, ApplyPhase, ExchangeStep, StateDir, Trial};
use crate::volume::{Mark, Volume, Volumes};

mod taking_back;

pub(crate) use taking_back::take_back;

/// Whether what a commit replaces may still be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    /// It is gone with the bookkeeping.
    Final,
    /// It is kept until the workload is ready on the new state, or is not.
    OnTrial,
}

/// How a commit failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The volumes hold the old state, whole.
    #[error("{what}")]
    Unchanged {
        what: String,
        #[source]
        source: io::Error,
    },
    /// They hold the old state, whole, and it is another than the one that files were taken from.
    #[error("the present state changed under the new one")]
    Changed {
        #[source]
        source: SharingError,
    },
    /// It is not known what the volumes hold.
    #[error("{reason}")]
    Uncertain { reason: String },
}

/// Looks at every place an exchange will touch, and writes down what is there.
///
/// Done while the app still runs, it finds what would make the commit fail; done again with the
/// app stopped, it is what the journal records.
pub(crate) fn plan(volumes: &Volumes, staged: &Staged) -> Result<Vec<ExchangeStep>, CommitError> {
    staged
        .steps
        .iter()
        .map(|step| {
            let volume = &volumes.all[step.unit.mount];
            let looked = (|| {
                let staging = volume.private.open_dir(staged.directory.as_bytes())?;
                let slot = Name::new(step.slot.as_bytes())?;
                let staged = staging.identity_of(slot)?.ok_or(io::ErrorKind::NotFound)?;
                let staged = (staged, modified(&staging, slot)?);
                let replaced = match volume.place(&step.unit.below)? {
                    Some((parent, name)) => (parent.identity_of(name)?, modified(&parent, name)?),
                    None => (None, None),
                };
                Ok((staged, replaced))
            })();
            let (staged_now, replaced_now) = looked.map_err(|source| CommitError::Unchanged {
                what: format!("the place of {} cannot be used", step.unit.path),
                source,
            })?;
            Ok(ExchangeStep {
                volume: volume.name.clone(),
                below: step.unit.below.clone(),
                slot: step.slot.clone(),
                staged: staged_now.0,
                replaced: replaced_now.0,
                staged_modified: staged_now.1,
                replaced_modified: replaced_now.1,
            })
        })
        .collect()
}

/// When a directory was modified. Files are not modified by an exchange.
fn modified(parent: &Dir, name: Name<'_>) -> io::Result<Option<(i64, u32)>> {
    let stat = parent.stat(name)?.filter(|stat| file_type(stat) == FileType::Directory);
    Ok(stat.map(|stat| (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))))
}

/// Sets the time that an exchange changed back to what it was.
fn keep_time(volume: &Volume, below: &str, time: Option<(i64, u32)>) -> io::Result<()> {
    let Some((seconds, nanos)) = time else { return Ok(()) };
    let Some((parent, name)) = volume.place(below)? else { return Ok(()) };
    if modified(&parent, name)?.is_some_and(|now| now != (seconds, nanos)) {
        parent.set_mtime(name, Timespec { tv_sec: seconds, tv_nsec: nanos.into() })?;
    }
    Ok(())
}

/// Whether the files that a staged tree shares with the present one are as they were hashed.
pub(crate) fn check(volumes: &Volumes, staged: &Staged) -> Result<(), CommitError> {
    let mut open = Vec::new();
    for (mount, volume) in volumes.all.iter().enumerate() {
        match volume.private.open_dir(staged.directory.as_bytes()) {
            Ok(dir) => open.push((mount, dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let what = format!("the new state in volume {} cannot be read", volume.name);
                return Err(CommitError::Unchanged { what, source });
            }
        }
    }
    let staging = |mount| open.iter().find(|(at, _)| *at == mount).map(|(_, dir)| dir);
    staged.shared.check(staging).map_err(|source| CommitError::Changed { source })
}

/// Commits a staged tree. The container is stopped. `earlier` is an apply that came to no certain
/// end and still stands in the journal.
pub(crate) fn commit(
    volumes: &Volumes,
    state: &StateDir,
    record: &SyncRecord,
    staged: &Staged,
    earlier: Option<ApplyJournal>,
    term: Term,
    now: Timestamp,
) -> Result<ApplyJournal, CommitError> {
    check(volumes, staged)?;
    let steps = plan(volumes, staged)?;
    let trial = match term {
        Term::Final => None,
        Term::OnTrial => Some(trial(volumes, &steps).map_err(|source| CommitError::Unchanged {
            what: "what the volumes hold now cannot be read".to_owned(),
            source,
        })?),
    };
    let mut journal = ApplyJournal {
        record: record.clone(),
        directory: staged.directory.clone(),
        steps,
        untouched: staged.untouched.clone(),
        ownership: staged.ownership,
        phase: ApplyPhase::Applying,
        earlier: earlier.map(Box::new),
        trial,
    };
    state.set_apply(&journal).map_err(|source| {
        // The write may have reached the disk all the same; without it nothing has begun.
        let _ = forget(state, &journal);
        CommitError::Unchanged { what: "the apply could not be journalled".to_owned(), source }
    })?;
    reached(Point::ApplyJournalled);
    if let Err(source) = forward(volumes, &journal) {
        return Err(back(volumes, state, &journal, source));
    }
    journal.phase = ApplyPhase::Committed { at: now };
    journal.earlier = None;
    finish(state, &journal);
    Ok(journal)
}

/// What the volumes that will be touched say of themselves.
fn trial(volumes: &Volumes, steps: &[ExchangeStep]) -> io::Result<Trial> {
    let mut marks = std::collections::BTreeMap::new();
    for step in steps {
        if let Some(mark) = volume(volumes, step)?.mark()? {
            marks.insert(step.volume.clone(), mark);
        }
    }
    Ok(Trial { marks })
}

/// Takes a journalled apply to its end; repeatable.
pub(crate) fn resume(
    volumes: &Volumes,
    state: &StateDir,
    mut journal: ApplyJournal,
    now: Timestamp,
) -> Result<ApplyJournal, CommitError> {
    forward(volumes, &journal).map_err(|source| CommitError::Uncertain {
        reason: format!("an apply that had begun cannot be finished: {source}"),
    })?;
    journal.phase = ApplyPhase::Committed { at: now };
    journal.earlier = None;
    finish(state, &journal);
    Ok(journal)
}

/// The volumes already say what they hold. If this line cannot be written, the next start walks
/// the same way again and finds every exchange made.
fn finish(state: &StateDir, journal: &ApplyJournal) {
    if let Err(error) = state.set_apply(journal) {
        tracing::warn!(%error, "a commit could not be journalled; it is checked at the next start");
    }
    reached(Point::CommitJournalled);
}

fn forward(volumes: &Volumes, journal: &ApplyJournal) -> io::Result<()> {
    let touched = touched(volumes, journal)?;
    for volume in &touched {
        volume.remove_mark()?;
        volume.private.sync()?;
    }
    reached(Point::MarksRemoved);
    for step in &journal.steps {
        let volume = volume(volumes, step)?;
        match standing(volume, journal, step)? {
            Progress::Done => {}
            Progress::Pending => exchange(volume, journal, step)?,
            Progress::Unknown => return Err(io::Error::other(Foreign)),
        }
        reached(Point::FirstExchange);
    }
    for step in &journal.steps {
        keep_time(volume(volumes, step)?, &step.below, step.staged_modified)?;
    }
    reached(Point::AllExchanged);
    for volume in &touched {
        volume.private.sync_file_system()?;
    }
    reached(Point::ExchangesSynced);
    for volume in &touched {
        volume.write_mark(&Mark {
            key: journal.record.key.clone(),
            cid: journal.record.cid,
            order: Order::of(&journal.record),
            version: journal.record.version,
            untouched: journal.untouched.clone(),
            ownership: journal.ownership,
            data: volume.identity()?,
            others: touched
                .iter()
                .map(|other| &other.name)
                .filter(|other| **other != volume.name)
                .cloned()
                .collect(),
        })?;
        reached(Point::FirstMark);
    }
    reached(Point::AllMarks);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("a place holds neither the old state nor the new one")]
struct Foreign;

/// Makes every exchange undone, and says so only if that is certain.
fn back(
    volumes: &Volumes,
    state: &StateDir,
    journal: &ApplyJournal,
    source: io::Error,
) -> CommitError {
    let undone = (|| {
        for step in &journal.steps {
            let volume = volume(volumes, step)?;
            match standing(volume, journal, step)? {
                Progress::Pending => {}
                Progress::Done => unexchange(volume, journal, step)?,
                Progress::Unknown => return Err(io::Error::other(Foreign)),
            }
            keep_time(volume, &step.below, step.replaced_modified)?;
        }
        for volume in touched(volumes, journal)? {
            // A mark of the new state may have been written before the failure.
            volume.remove_mark()?;
            volume.private.sync_file_system()?;
        }
        forget(state, journal)
    })();
    match undone {
        // What stood before was not the old state either.
        Ok(()) if journal.earlier.is_some() => CommitError::Uncertain {
            reason: format!(
                "an apply before it came to no certain end, and the new state could not take its \
                 place: {source}"
            ),
        },
        Ok(()) => CommitError::Unchanged {
            what: "the new state could not take its place; the old one was put back".to_owned(),
            source,
        },
        Err(second) => CommitError::Uncertain {
            reason: format!(
                "the new state could not take its place ({source}), nor could the old one be put \
                 back ({second})"
            ),
        },
    }
}

/// Ends a journal whose apply did not happen; the one before it stands again.
fn forget(state: &StateDir, journal: &ApplyJournal) -> io::Result<()> {
    match &journal.earlier {
        Some(earlier) => state.set_apply(earlier),
        None => state.clear_apply(),
    }
}

fn volume<'v>(volumes: &'v Volumes, step: &ExchangeStep) -> io::Result<&'v Volume> {
    volumes
        .position(&step.volume)
        .map(|index| &volumes.all[index])
        .ok_or_else(|| io::Error::other(format!("volume {} is not mounted", step.volume)))
}

fn touched<'v>(volumes: &'v Volumes, journal: &ApplyJournal) -> io::Result<Vec<&'v Volume>> {
    let mut touched: Vec<&Volume> = Vec::new();
    for step in &journal.steps {
        let volume = volume(volumes, step)?;
        if !touched.iter().any(|other| other.name == volume.name) {
            touched.push(volume);
        }
    }
    Ok(touched)
}

fn standing(volume: &Volume, journal: &ApplyJournal, step: &ExchangeStep) -> io::Result<Progress> {
    let (slot, target) = found(volume, journal, step)?;
    Ok(progress(step.staged, step.replaced, slot, target))
}

/// What lies in the staging directory and in the place of an exchange.
fn found(
    volume: &Volume,
    journal: &ApplyJournal,
    step: &ExchangeStep,
) -> io::Result<(Option<Identity>, Option<Identity>)> {
    let slot = match volume.private.open_dir(journal.directory.as_bytes()) {
        Ok(staging) => staging.identity_of(Name::new(step.slot.as_bytes())?)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let target = match volume.place(&step.below)? {
        Some((parent, name)) => parent.identity_of(name)?,
        None => None,
    };
    Ok((slot, target))
}

fn exchange(volume: &Volume, journal: &ApplyJournal, step: &ExchangeStep) -> io::Result<()> {
    let staging = volume.private.open_dir(journal.directory.as_bytes())?;
    let slot = Name::new(step.slot.as_bytes())?;
    make_parents(volume, &step.below)?;
    let (parent, name) = volume.place(&step.below)?.ok_or(io::ErrorKind::NotFound)?;
    match step.replaced {
        Some(_) => staging.exchange(slot, &parent, name),
        None => staging.rename_new(slot, &parent, name),
    }
}

fn unexchange(volume: &Volume, journal: &ApplyJournal, step: &ExchangeStep) -> io::Result<()> {
    let staging = volume.private.open_dir(journal.directory.as_bytes())?;
    let slot = Name::new(step.slot.as_bytes())?;
    let (parent, name) = volume.place(&step.below)?.ok_or(io::ErrorKind::NotFound)?;
    match step.replaced {
        Some(_) => staging.exchange(slot, &parent, name),
        None => parent.rename_new(name, &staging, slot),
    }
}

/// Creates the directories above a place that is not there yet.
fn make_parents(volume: &Volume, below: &str) -> io::Result<()> {
    let (parents, _) = below.rsplit_once('/').unwrap_or(("", below));
    let owner = volume.owner()?;
    let mut dir: Dir = volume.data()?;
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        let name = Name::new(part.as_bytes())?;
        if dir.stat(name)?.is_none() {
            dir.make_dir(name)?;
            dir.chown(name, owner.0, owner.1)?;
            dir.open_child(name)?.set_mode(0o755)?;
        }
        dir = dir.open_child(name)?;
    }
    Ok(())
}

/// Staging directories removed between two listings.
const PAGE: usize = 1_000;

/// Removes every staging directory, but for those of these names.
pub(crate) fn sweep(volumes: &Volumes, but: &[String]) -> io::Result<()> {
    let leftover = |name: &OsStr| {
        let ours = name.as_bytes().starts_with(STAGING_PREFIX.as_bytes())
            || name.as_bytes().starts_with(b".removing-");
        ours && !but.iter().any(|kept| name == kept.as_str())
    };
    for volume in &volumes.all {
        loop {
            let page = volume.private.some_names(PAGE, leftover)?;
            if page.is_empty() {
                break;
            }
            for name in page {
                remove_tree(&volume.private, Name::new(name.as_bytes())?)?;
            }
        }
    }
    Ok(())
}

/// What an apply that came to no certain end, or that may be taken back, needs: the directories that
/// a sweep must leave.
pub(crate) fn kept(state: &StateDir) -> io::Result<Vec<String>> {
    Ok(match state.apply()? {
        Some(journal) if journal.needs_directories() => journal.directories(),
        Some(_) | None => Vec::new(),
    })
}
