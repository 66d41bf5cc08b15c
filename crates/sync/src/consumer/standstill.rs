//! Why the volumes of a consumer do not hold what is published.

use belay_store::{BlobStore, RecordStore};

use super::{Consumer, Took};
use crate::context::Stopped;
use crate::window::OfflineWindow;

impl Took {
    /// Why a look ended without the head in the volumes; none if they hold it, or if another look
    /// follows at once.
    pub(super) fn standstill(&self) -> Option<String> {
        match self {
            Self::Nothing(reason) => Some(reason.clone()),
            Self::Store(reason) => Some(format!("the store does not answer: {reason}")),
            Self::Holds(_) | Self::Applied(..) | Self::OnTrial(_) | Self::Again => None,
            Self::TakenBack(reason, _) => {
                Some(format!("the workload did not become ready on it: {reason}"))
            }
            Self::Held(what, hold) => Some(format!("{what} waits for {}", hold.why)),
        }
    }
}

/// The same for a look that failed.
pub(super) fn of_failure(stopped: &Stopped) -> String {
    match stopped {
        Stopped::Failed(failure) | Stopped::Unreachable(failure) => {
            format!("the head failed in stage {}: {}", failure.stage, failure.reason)
        }
        Stopped::Later { reason } => format!("the workload is busy: {reason}"),
        Stopped::Shutdown => "belayd ends".to_owned(),
    }
}

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(super) fn show_standstill(&self, why: Option<String>) {
        self.context.status.send_if_modified(|status| {
            let changed = status.unapplied != why;
            status.unapplied = why;
            changed
        });
    }
}
