//! What was captured, and a store that does not take it now.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use belay_protocol::control::Stage;
use belay_store::{BlobError, BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use crate::context::{Failure, Stopped, with_causes};
use crate::core::patience::{end, pause};
use crate::state::PublishJournal;
use crate::window::OfflineWindow;

/// A publish that is captured and is offered to the store again.
pub(super) struct PutOff {
    /// What is shown of it.
    says: String,
    offers: u32,
    again: Instant,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Has what was captured offered again later, if the store has not been away for too long. The
    /// journal stays where it is: the app paid for the capture with a stop.
    pub(super) async fn put_off(
        &mut self,
        journal: &mut PublishJournal,
        failure: Failure,
    ) -> Stopped {
        let now = Timestamp::now();
        let took_something = self.stored.swap(false, Ordering::Relaxed);
        let known = journal.away.filter(|_| !took_something);
        let since = known.unwrap_or(now);
        let until = end(since, self.context.spec.store_patience);
        if now >= until {
            return Stopped::Failed(failure);
        }
        if known.is_none() {
            journal.away = Some(since);
            // Without it a restart has as much patience once more, which harms nobody.
            if let Err(error) = self.write_down(journal, failure.stage).await {
                tracing::warn!(workload = %self.context.workload, ?error,
                    "since when the store is away could not be written down");
            }
        }
        if self.put_off.is_none() {
            self.context.show_failure(&failure);
        }
        let offers = self.put_off.as_ref().map_or(0, |before| before.offers).saturating_add(1);
        let says = format!(
            "what was captured for a publish, which the store does not take ({}); it is offered \
             again until {}",
            failure.reason,
            until.strftime("%Y-%m-%d %H:%M:%S UTC"),
        );
        self.context.show_waiting(Some(says.clone()), None);
        let again = Instant::now() + pause(offers, self.context.spec.poll_interval);
        self.put_off = Some(PutOff { says, offers, again });
        Stopped::Later { reason: format!("the store does not take it: {}", failure.reason) }
    }

    /// How long it is until the next offer, and what is shown meanwhile; none if it is due.
    pub(super) fn is_put_off(&self) -> Option<(Duration, &str)> {
        let put_off = self.put_off.as_ref()?;
        let left = put_off.again.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some((left, put_off.says.as_str()))
    }

    /// Shows what is put off.
    pub(super) fn show_put_off(&self) {
        if let Some(put_off) = &self.put_off {
            self.context.show_waiting(Some(put_off.says.clone()), None);
        }
    }

    /// Forgets that something was put off: it came to its end.
    pub(super) fn end_put_off(&mut self) {
        if self.put_off.take().is_some() {
            self.context.show_waiting(None, None);
        }
    }
}

/// What it means that the store did not do something for an upload.
pub(super) fn not_done(error: &BlobError) -> Stopped {
    if error.is_retryable() {
        Stopped::Unreachable(Failure::new(Stage::Upload, with_causes(error)))
    } else {
        Stopped::at(Stage::Upload, error)
    }
}
