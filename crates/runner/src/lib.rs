//! Runs, the runners that execute them, and snapshots of runners that wait for long.
//!
//! A [`Hub`] decides: which runner gets which run, whose messages count, which waits are over, and
//! which runner is snapshotted when. It has no task, no clock and no io. Whoever drives it hands it
//! each [`Event`] with its [`Now`], calls it at [`Hub::next_deadline`] with [`Event::Tick`], and
//! carries out the [`Effect`]s in their order, those behind an [`Effect::Save`] not before its
//! commit. `docs/runner.md` says what follows from that.

mod clock;
mod core;
pub mod failpoint;
mod handle;
mod host;
mod records;
mod server;
mod socket;
mod task;

pub use crate::core::bindings::SessionId;
pub use crate::core::dispatch::{Flight, Stage};
pub use crate::core::event::{
    Answer, Arrival, Ask, AskId, Effect, Event, HostEvent, HostOrder, Origin, Owner, PendingRecord,
    Refusal, RunRecord, SnapshotOutcome, Traveller, WhetherNew,
};
pub use crate::core::hub::{Hosted, Hub, HubPolicy, RunProgress, RunStints, Snapshotting};
pub use crate::core::lane::{RunnerSource, WorkloadPolicy};
pub use crate::core::now::Now;
pub use crate::core::run::{
    Departure, Exit, Failure, Means, MemoryFate, Phase, Run, RunEnd, Settled, Stint, Stored,
    Submission, SuspendedWait, WrongState,
};
pub use crate::core::snapshots::Ticket;
pub use crate::core::tale::{Happening, Tale};
pub use crate::handle::{AskError, IssueToken, RunnerHandle, TokenLife};
pub use crate::host::{HostFound, HostLink, HostPort, link};
pub use crate::records::{BadPassage, Passage};
pub use crate::server::{CONNECT_PATH, RunnerServer, SocketLimits};
pub use crate::socket::framing;
pub use crate::task::{HubDoor, HubStart, RunningHub};
