//! Locks that are held.

use std::sync::Arc;
use std::time::Duration;

use crate::core::holder::interrupted_line;
use crate::core::identity::Identity;
use crate::core::name::{LockName, LockSet};
use crate::core::record::{Found, Record};
use crate::core::rewrite::Rewrites;
use crate::directory::Directory;
use crate::lock_file::LockFile;
use crate::locks::{Claim, Spot};
use crate::process;
use crate::queue::{Registration, Turn};

/// Locks that are held. Dropping it lets go of them; [`Guard::finish`] says besides that what they
/// were held for came to its end.
///
/// Work that goes on behind its caller's back must own the guard: what is dropped is free.
#[derive(Debug)]
pub struct Guard {
    // Declared before what lets the next one try, so that the files are closed by then.
    held: Vec<Held>,
    set: LockSet,
    boot_id: String,
    interrupted: Vec<Interrupted>,
    rewrites: Rewrites,
    /// Whether the records say something older than what is true.
    stale: bool,
    _registration: Registration,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: LockName,
    pub(crate) file: LockFile,
    pub(crate) spot: Spot,
    /// What was read from the file when the lock was had.
    pub(crate) before: Found,
    record: Option<Record>,
    _turn: Turn,
}

impl Held {
    pub(crate) fn new(
        name: LockName,
        file: LockFile,
        spot: Spot,
        before: Found,
        turn: Turn,
    ) -> Self {
        Self { name, file, spot, before, record: None, _turn: turn }
    }

    fn directory(&self) -> &Arc<Directory> {
        &self.spot.directory
    }

    fn write(&self) {
        let Some(record) = &self.record else { return };
        if let Err(error) = self.file.write(record) {
            // The lock is the kernel's; without its record it is only harder to explain.
            tracing::warn!(lock = %self.name, "cannot write who holds it: {error}");
        }
    }
}

/// An operation that ended without finishing: whoever takes its lock next puts things in order
/// before doing anything else.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// Its lock.
    pub lock: LockName,
    /// What it had written; `None` when that does not read.
    pub record: Option<Record>,
    /// What became of its process.
    pub holder: PreviousHolder,
}

/// What became of the process that held a lock before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviousHolder {
    /// It has ended.
    Dead,
    /// It lives: it gave the operation up, by a panic or by letting go early.
    Alive,
}

impl Interrupted {
    /// One line: the operation and the phase it died in.
    pub fn line(&self) -> String {
        interrupted_line(self.record.as_ref(), self.holder == PreviousHolder::Dead)
    }
}

impl Guard {
    pub(crate) fn begin(
        mut held: Vec<Held>,
        set: LockSet,
        me: &Identity,
        claim: &Claim,
        registration: Registration,
    ) -> Self {
        let now = process::moment(&me.boot_id).since_boot;
        let wall_ms = process::wall_ms();
        let id = crate::chance::id();
        let mut interrupted = Vec::new();
        for held in &mut held {
            let record = match std::mem::replace(&mut held.before, Found::Nothing) {
                Found::Nothing => continue,
                Found::Unreadable => None,
                Found::Record(record) => Some(*record),
            };
            let alive =
                record.as_ref().is_some_and(|r| process::is_alive(&r.identity(), &me.boot_id));
            let holder = if alive { PreviousHolder::Alive } else { PreviousHolder::Dead };
            interrupted.push(Interrupted { lock: held.name.clone(), record, holder });
        }
        for held in &mut held {
            let mut record = Record::new(&held.name.to_string(), me);
            record.operation.clone_from(&claim.operation);
            record.id.clone_from(&id);
            record.generation = claim.generation;
            record.role = claim.role;
            record.uid = process::uid();
            env!("CARGO_PKG_VERSION").clone_into(&mut record.version);
            record.wall_ms = wall_ms;
            record.since_ms = milliseconds(now);
            record.phase.clone_from(&claim.phase);
            record.phase_ms = milliseconds(now);
            record.deadline_ms = claim.deadline.map(|left| milliseconds(now + left));
            record.hint.clone_from(&claim.hint);
            held.record = Some(record);
            held.write();
        }
        Self {
            held,
            set,
            boot_id: me.boot_id.clone(),
            interrupted,
            rewrites: Rewrites::new(now),
            stale: false,
            _registration: registration,
        }
    }

    /// The locks.
    pub fn set(&self) -> &LockSet {
        &self.set
    }

    /// What was cut short under these locks before. It has to be put in order first.
    pub fn interrupted(&self) -> &[Interrupted] {
        &self.interrupted
    }

    /// Says what is done now, and within which time it should be over.
    ///
    /// The records follow at once or, after many changes in a row, with a later call.
    pub fn phase(&mut self, phase: &str, deadline: Option<Duration>) {
        let now = process::moment(&self.boot_id).since_boot;
        for held in &mut self.held {
            if let Some(record) = &mut held.record
                && record.phase != phase
            {
                phase.clone_into(&mut record.phase);
                record.phase_ms = milliseconds(now);
                record.deadline_ms = deadline.map(|left| milliseconds(now + left));
                self.stale = true;
            }
        }
        if self.stale && self.rewrites.allow(now) {
            self.held.iter().for_each(Held::write);
            self.stale = false;
        }
    }

    /// Says what it is held for now, where it goes on from one operation to the next.
    pub fn operation(&mut self, operation: &str, generation: u64) {
        for held in &mut self.held {
            if let Some(record) = &mut held.record
                && (record.operation != operation || record.generation != generation)
            {
                operation.clone_into(&mut record.operation);
                record.generation = generation;
                self.stale = true;
            }
        }
    }

    /// Whether the files are still those that others would try. If not, somebody has removed them,
    /// and nothing more may be done under this guard.
    pub fn is_in_place(&self) -> bool {
        self.held.iter().all(|held| {
            held.directory().check_in_place().is_ok()
                && held.file.is_in_place(held.directory().fd(), &held.spot.file)
        })
    }

    /// Lets go, and says that what the locks were held for came to its end.
    pub fn finish(self) {
        for held in &self.held {
            if let Err(error) = held.file.clear() {
                // The next holder takes it for cut short, and looks after it once too often.
                tracing::warn!(lock = %held.name, "cannot say that it is let go of: {error}");
            }
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
