//! Signals that ask the demo to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Ending, Failure};

/// `SIGINT`, `SIGTERM` and `SIGHUP`, caught from the first moment on.
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Interrupt {
    pub(crate) fn watch() -> Result<Self, Ending> {
        let watch = |kind| {
            signal(kind).map_err(|error| Failure::local("cannot watch for signals", &error, ""))
        };
        Ok(Self {
            int: watch(SignalKind::interrupt())?,
            term: watch(SignalKind::terminate())?,
            hup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one and gives its name.
    pub(crate) async fn arrived(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "interrupted",
            _ = self.term.recv() => "asked to end",
            _ = self.hup.recv() => "the terminal went away",
        }
    }
}
