//! The port to the engine's side: what the hub orders of it, and what it tells.
//!
//! [`link`] makes the two ends. The hub's task holds the [`HostPort`], whoever runs containers holds
//! the [`HostLink`]. Orders come in the order in which they were given; each has exactly the end that
//! [`HostOrder`] names, also when it is given a second time. An order may be given for a runner while
//! an earlier one for it is under way; it is obeyed after that one, but for
//! [`HostOrder::AbortSnapshot`], which is about the one under way.
//!
//! Before the hub's task starts, the engine's side says what is on the node: see [`HostFound`]. What
//! happens to those containers from then on is told as events; an exit between the look and the start
//! waits in the link.

use tokio::sync::mpsc;

use crate::core::event::{HostEvent, HostOrder};
use crate::core::hub::{Hosted, Snapshotting};

/// Orders that may wait for the engine's side. What does not fit waits in the hub's task, which
/// meanwhile goes on with everything else.
const ORDERS: usize = 64;
/// Events that may wait for the hub. The engine's side waits for room.
const EVENTS: usize = 256;

/// What the engine's side finds on the node before the hub's task starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFound {
    /// Containers of runners that run, are frozen, or are being made. One that is only checkpointed
    /// may be among them or not.
    pub hosted: Vec<Hosted>,
    /// Whether runners can be snapshotted, by whichever means.
    pub snapshots: Snapshotting,
}

/// The engine's end of the port.
#[derive(Debug)]
pub struct HostLink {
    /// What the hub orders, in order. Closed when the hub's task has ended: what is under way is
    /// finished or left, and nothing more is told.
    pub orders: mpsc::Receiver<HostOrder>,
    /// What the engine's side tells. Sending waits while the hub is behind; it fails when the hub's
    /// task has ended, and what was to be told is found again at the next start.
    pub events: mpsc::Sender<HostEvent>,
}

/// The hub's end of the port.
#[derive(Debug)]
pub struct HostPort {
    pub(crate) orders: mpsc::Sender<HostOrder>,
    pub(crate) events: mpsc::Receiver<HostEvent>,
}

/// Makes the two ends.
pub fn link() -> (HostPort, HostLink) {
    let (order, orders) = mpsc::channel(ORDERS);
    let (event, events) = mpsc::channel(EVENTS);
    (HostPort { orders: order, events }, HostLink { orders, events: event })
}
