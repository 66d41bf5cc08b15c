//! Turns within this process, and the order in which it takes locks.
//!
//! Of one process only one task at a time tries a file's lock; the others stand in line behind it,
//! first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use tokio::sync::{Mutex as FairMutex, OwnedMutexGuard};

use crate::core::name::{LockName, LockSet, OutOfOrder, check_order};

/// Whoever takes locks: a task, or a thread outside any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Taker {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Taker {
    fn present() -> Self {
        tokio::task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task)
    }
}

#[derive(Debug, Default)]
struct Tables {
    lines: HashMap<LockName, Arc<FairMutex<()>>>,
    taken: HashMap<Taker, Vec<LockName>>,
}

/// The turns of a process.
#[derive(Debug, Default, Clone)]
pub(crate) struct Queue(Arc<Mutex<Tables>>);

/// A turn at one lock.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Queue {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing in here is half done when a thread panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the present task is about to take these, if their order allows it.
    pub(crate) fn register(&self, wanted: &LockSet) -> Result<Registration, OutOfOrder> {
        let taker = Taker::present();
        let mut tables = self.tables();
        let held = tables.taken.entry(taker).or_default();
        let order = check_order(held.iter(), wanted);
        if order.is_ok() {
            held.extend(wanted.iter().cloned());
        } else if held.is_empty() {
            tables.taken.remove(&taker);
        }
        order.map(|()| Registration { queue: self.clone(), taker, names: wanted.clone() })
    }

    /// The line for one lock.
    pub(crate) fn line(&self, name: &LockName) -> Arc<FairMutex<()>> {
        let mut tables = self.tables();
        // Lines that nobody stands in are let go of, so that there are as many as are in use.
        tables.lines.retain(|_, line| Arc::strong_count(line) > 1);
        Arc::clone(tables.lines.entry(name.clone()).or_default())
    }

    /// Whether a task of this process has its turn at a lock.
    pub(crate) fn has_turn(&self, name: &LockName) -> bool {
        self.tables().lines.get(name).is_some_and(|line| line.try_lock().is_err())
    }
}

/// Locks that a task has taken or is about to; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    queue: Queue,
    taker: Taker,
    names: LockSet,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut tables = self.queue.tables();
        if let Some(held) = tables.taken.get_mut(&self.taker) {
            held.retain(|name| !self.names.iter().any(|mine| mine == name));
            if held.is_empty() {
                tables.taken.remove(&self.taker);
            }
        }
    }
}
