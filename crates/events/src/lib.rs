//! What happened on this node: numbered, durable, in order.
//!
//! An [`EventSink`] is held by whoever has something to tell. Telling waits for nothing: the event
//! is staged in the ledger's journal and goes with the next commit, or with one that the
//! [`EventsTask`] makes a moment later. An [`EventLog`] reads what is on the disk. `core` decides
//! what is too much and what a reader has missed.

mod core;
mod log;
mod sink;
mod task;

pub use log::EventLog;
pub use sink::EventSink;
pub use task::EventsTask;
