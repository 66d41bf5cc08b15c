//! This process and others: who they are, whether they live, when they end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::core::holder::Moment;
use crate::core::identity::{self, Identity};

/// This process.
pub(crate) fn myself() -> Identity {
    let pid = std::process::id();
    let start_ticks = start_of(pid).map_or(0, |(_, start)| start);
    Identity { pid, start_ticks, boot_id: boot_id() }
}

fn boot_id() -> String {
    // Without /proc nothing can be said of other processes either, and two boots look alike.
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn start_of(pid: u32) -> Option<(char, u64)> {
    identity::parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether this very process is there and still has its files.
pub(crate) fn is_alive(who: &Identity, boot_id: &str) -> bool {
    who.boot_id == boot_id
        && start_of(who.pid)
            .is_some_and(|(state, start)| start == who.start_ticks && !identity::is_gone(state))
}

/// Now, on the clock that goes on through suspensions and knows no steps.
pub(crate) fn moment(boot_id: &str) -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Moment { boot_id: boot_id.to_owned(), since_boot: Duration::new(seconds, nanoseconds) }
}

/// The wall clock in milliseconds since 1970, which may be anything.
pub(crate) fn wall_ms() -> i64 {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => milliseconds(after),
        Err(before) => -milliseconds(before.duration()),
    }
}

/// The real user of this process.
pub(crate) fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A process that can be waited for and signalled without its id ever meaning another one.
#[derive(Debug)]
pub(crate) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens the process with this identity; `None` when it is gone or cannot be opened.
    pub(crate) fn open(who: &Identity, boot_id: &str) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(who.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now is it settled whom the descriptor means: had the id been given to another
        // before, the start differs; after, the descriptor would still mean the first.
        if !is_alive(who, boot_id) {
            return None;
        }
        // SAFETY: the descriptor is owned here, open, and stays the same one until it is dropped.
        #[expect(unsafe_code, reason = "waiting for a descriptor that tokio does not know")]
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered.ok().map(Self)
    }

    /// Returns when the process has ended.
    pub(crate) async fn ended(&self) {
        // An error here means that it cannot be waited for; whoever waits has other means.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            // It has ended by itself.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
