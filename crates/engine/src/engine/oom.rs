//! Reading the kernel's log.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};

use super::Engine;
use crate::blocking;
use crate::container::{Container, ContainerState};
use crate::core::oom::{belongs, end_of, unexplained};

/// Longest record of the log.
const RECORD_MAX: usize = 8 << 10;
/// Bound on the records read, several times the number that fits a log of usual size.
const RECORDS_MAX: usize = 100_000;

impl Engine {
    /// Completes an end by `SIGKILL` that the engine does not explain. Where the log cannot be read
    /// it stays as the engine has it.
    pub(super) async fn ask_kernel_for_oom(&self, container: &mut Container) {
        let Some(life) = unexplained(container) else { return };
        let id = container.id.as_str().to_owned();
        let found = blocking::run(move || was_oom(&id, life)).await;
        match found {
            Ok(true) => {
                if let ContainerState::Exited { oom_killed, .. } = &mut container.state {
                    *oom_killed = true;
                }
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the kernel's log cannot be read"),
        }
    }
}

fn was_oom(id: &str, life: (Timestamp, Timestamp)) -> io::Result<bool> {
    let mut log =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg")?;
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from)?;
    let now = Timestamp::now();
    let mut record = vec![0; RECORD_MAX];
    for _ in 0..RECORDS_MAX {
        // Each read gives one record.
        let length = match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten while it was waited for; the next read goes on behind it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(at) = end_of(&String::from_utf8_lossy(&record[..length]), id) else { continue };
        if now.checked_sub(since_boot.saturating_sub(at)).is_ok_and(|at| belongs(at, life)) {
            return Ok(true);
        }
    }
    Ok(false)
}
