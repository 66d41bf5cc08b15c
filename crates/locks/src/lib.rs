//! Locks that cannot rot: `flock` on files that are never deleted while anybody waits for them.
//!
//! [`Locks`] is the handle of a process; [`Locks::acquire`] gives a [`Guard`], and closing the
//! guard's files is what lets go. The kernel does that for a process that died. The record in the
//! file is for people, and for the next holder, who learns from it what was [`Interrupted`]; it
//! never decides who holds the lock.
//!
//! `core` decides and touches nothing: names and their order, the record, the pauses between two
//! tries, the words. There is no task here, and no channel: a caller waits in its own.

pub mod core;

mod chance;
mod directory;
mod error;
mod guard;
mod kernel;
mod lock_file;
mod locks;
mod process;
mod queue;

pub use core::holder::{Holder, Standing};
pub use core::name::{LockName, LockSet};
pub use core::record::{Record, Role};
pub use error::{AcquireError, BreakError, HeldError, Unusable};
pub use guard::{Guard, Interrupted, PreviousHolder};
pub use locks::{Broken, Claim, Locks, Look, Places, Waiting};
