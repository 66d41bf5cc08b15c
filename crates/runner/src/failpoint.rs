//! Named points at which a test can end the process, as a power cut or a kill would.

/// A point in the course of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The hub has moved on; nothing is on its way to the disk.
    CommitBegins,
    /// It is on the disk; nothing behind it has gone out.
    Committed,
    /// What stood behind it has gone out.
    CarriedOut,
}

impl Point {
    /// All points, in their order.
    pub const ALL: [Self; 3] = [Self::CommitBegins, Self::Committed, Self::CarriedOut];
}

#[cfg(feature = "failpoints")]
static ARMED: std::sync::OnceLock<(Point, std::sync::atomic::AtomicU32)> =
    std::sync::OnceLock::new();

/// Ends this process by SIGKILL when it reaches `point` for the `nth` time, counted from 1. Only
/// tests build with this.
#[cfg(feature = "failpoints")]
pub fn arm(point: Point, nth: u32) {
    // Arming twice would be a fault of the test; the first holds.
    let _ = ARMED.set((point, nth.into()));
}

#[cfg(feature = "failpoints")]
pub(crate) fn reached(point: Point) {
    use std::sync::atomic::Ordering;
    let Some((armed, left)) = ARMED.get() else { return };
    if *armed == point && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn reached(_point: Point) {}
