//! The provider: from a request to a confirmed record.
//!
//! A publish is a journal that moves forward: claimed, captured, publishing, published. Each step
//! is written down before the next begins, so that a process that finds the journal goes on where
//! the last one stopped, under the same publish id, and the store's own log tells whether the
//! record was already set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::PublishOutcome;
use belay_protocol::control::{AppRequest, Stage};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;
use look::Look;

use crate::command::{PublishCommand, PublishError};
use crate::context::{Context, Failure, Stopped, with_causes};
use crate::control::{ControlDir, Fingerprint};
use crate::core::request::judge_command;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::state::{Origin, PublishJournal, PublishStep, Unchanged};
use crate::volume::mount_table;
use crate::window::OfflineWindow;

mod answer;
mod capturing;
mod look;
mod retirement;
mod storing;

/// A request that ended this many processes is answered as failed.
const ATTEMPTS_MAX: u32 = 3;

/// Publishes one workload's state.
pub(crate) struct Provider<S, W> {
    context: Arc<Context<S, W>>,
    /// A request that is not JSON yet, and since when it has been so.
    unfinished: Option<(Fingerprint, Instant)>,
    last_capture: Option<Instant>,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(crate) fn new(context: Arc<Context<S, W>>) -> Self {
        Self { context, unfinished: None, last_capture: None }
    }

    /// Goes on with what an earlier process left, or makes its claim undone.
    pub(crate) async fn resume(&mut self, layout: &SyncLayout) {
        let journal = match self.context.state.publish() {
            Ok(journal) => journal,
            Err(error) => {
                // Unreadable, so it names nothing that could be answered or finished.
                tracing::error!(workload = %self.context.workload, %error,
                    "the journal of a publish cannot be read and is put aside");
                let _ = self.context.state.clear_publish();
                None
            }
        };
        let kept = journal.as_ref().and_then(|journal| match &journal.step {
            PublishStep::Captured { spool, .. } | PublishStep::Publishing { spool, .. } => {
                Some(spool.clone())
            }
            PublishStep::Claimed | PublishStep::Published { .. } => None,
        });
        if let Err(error) = self.context.spool.sweep(kept.as_deref()) {
            tracing::warn!(workload = %self.context.workload, %error, "the spool could not be swept");
        }
        let (control, journalled) = (layout.control.clone(), journal.is_some());
        let prepared = tokio::task::spawn_blocking(move || {
            let control = ControlDir::ensure(&control)?;
            // A journal has the request's words; the file is only there to be discarded.
            if journalled { Ok(()) } else { control.unclaim().map(drop) }
        });
        if let Ok(Err(error)) = prepared.await {
            tracing::warn!(workload = %self.context.workload, %error,
                "the control directory could not be prepared");
        }
        if let Some(mut journal) = journal {
            journal.attempts += 1;
            // The answer was written, or will be; nobody waits for it by command any more.
            let _ = self.work(layout, journal).await;
        }
    }

    /// Looks for a request and publishes it. Returns how long to wait before the next look, if
    /// less than the poll interval.
    pub(crate) async fn tick(&mut self, layout: &SyncLayout) -> Option<Duration> {
        match self.look(layout).await {
            Ok(Look::Nothing) => None,
            Ok(Look::Wait(wait)) => Some(wait),
            Ok(Look::Refused(refused)) => {
                let failure = Failure { stage: Stage::Validation, reason: refused.error.clone() };
                self.context.show_failure(&failure);
                self.refuse(layout, &refused).await;
                None
            }
            Ok(Look::Request(valid)) => {
                let journal = new_journal(&self.context.node, Origin::App, valid.request);
                // The answer goes to the app by file.
                let _ = self.work(layout, journal).await;
                None
            }
            Err(error) => {
                tracing::warn!(workload = %self.context.workload, %error,
                    "the control directory could not be read");
                None
            }
        }
    }

    /// Publishes what an operator or a schedule asks for.
    pub(crate) async fn command(
        &mut self,
        layout: &SyncLayout,
        command: PublishCommand,
    ) -> Result<PublishOutcome, PublishError> {
        let failed = |failure: Failure| PublishError::Failed {
            stage: failure.stage,
            reason: failure.reason,
        };
        let valid = mount_table(layout)
            .map_err(|error| with_causes(&error))
            .and_then(|mounts| judge_command(command.archive_paths, command.metadata, &mounts));
        let valid = valid.map_err(|reason| {
            let failure = Failure { stage: Stage::Validation, reason };
            self.context.show_failure(&failure);
            failed(failure)
        })?;
        let journal = new_journal(&self.context.node, Origin::Command, valid.request);
        self.work(layout, journal).await.map_err(|stopped| match stopped {
            Stopped::Failed(failure) => failed(failure),
            Stopped::Later { .. } => PublishError::Busy,
            Stopped::Shutdown => PublishError::ShuttingDown,
        })
    }

    /// Takes a publish from where its journal stands to its answer.
    async fn work(
        &mut self,
        layout: &SyncLayout,
        mut journal: PublishJournal,
    ) -> Result<PublishOutcome, Stopped> {
        let result = self.advance(layout, &mut journal).await;
        self.context.show("idle");
        match &result {
            Err(Stopped::Failed(failure)) => {
                self.context.show_failure(failure);
                self.abandon(layout, &journal, failure).await;
            }
            Ok(_) => self.context.status.send_modify(|status| status.last_failure = None),
            Err(Stopped::Later { .. } | Stopped::Shutdown) => {}
        }
        result
    }

    async fn advance(
        &mut self,
        layout: &SyncLayout,
        journal: &mut PublishJournal,
    ) -> Result<PublishOutcome, Stopped> {
        let started = Instant::now();
        if journal.attempts > ATTEMPTS_MAX && journal.step == PublishStep::Claimed {
            let reason = "the daemon ended each time it worked on this request";
            return Err(Stopped::because(Stage::ArchiveBuild, reason));
        }
        self.write_down(journal, Stage::Validation)?;
        reached(Point::ClaimJournalled);
        loop {
            match journal.step.clone() {
                PublishStep::Claimed => {
                    let (spool, capture) = self.capture(layout, journal).await?;
                    journal.step = PublishStep::Captured { spool, capture };
                    self.write_down(journal, Stage::ArchiveBuild)?;
                    reached(Point::CaptureJournalled);
                }
                PublishStep::Captured { spool, capture } => {
                    journal.step = match self.upload(journal, &spool, &capture).await? {
                        Some(step) => step,
                        // The archive did not survive; the app's state is still there.
                        None => PublishStep::Claimed,
                    };
                    self.write_down(journal, Stage::RecordPublish)?;
                    reached(Point::RecordJournalled);
                }
                PublishStep::Publishing { spool, capture, record } => {
                    let record = self.set_record(journal, &capture, *record).await?;
                    let step = PublishStep::Published {
                        capture,
                        record: Box::new(record),
                        at: Timestamp::now(),
                        unchanged: Unchanged::NewRecord,
                    };
                    journal.step = step;
                    // From here nothing fails the publish: it happened.
                    if let Err(error) = self.context.state.set_publish(journal) {
                        tracing::warn!(%error, "a confirmed publish could not be journalled");
                    }
                    if let Ok(spooled) = self.context.spool.reopen(&spool) {
                        drop(spooled);
                    }
                    reached(Point::PublishJournalled);
                }
                PublishStep::Published { capture, record, at, unchanged } => {
                    let outcome =
                        self.conclude(layout, journal, &capture, &record, at, unchanged).await;
                    self.show_publish(&capture, &record, at, started.elapsed());
                    self.retire(&record).await;
                    return Ok(outcome);
                }
            }
        }
    }

    fn write_down(&self, journal: &PublishJournal, stage: Stage) -> Result<(), Stopped> {
        let written = self.context.state.set_publish(journal);
        written.map_err(|error| {
            Stopped::because(stage, format!("the publish could not be journalled: {error}"))
        })
    }
}

fn new_journal(
    node: &belay_protocol::NodeId,
    origin: Origin,
    request: AppRequest,
) -> PublishJournal {
    let started = Timestamp::now();
    let body = serde_json::to_vec(&request).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.as_str().as_bytes());
    hasher.update(&started.as_nanosecond().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&body);
    let digest = hasher.finalize();
    let publish_id = data_encoding::HEXLOWER.encode(&digest.as_bytes()[..16]);
    PublishJournal { publish_id, origin, request, started, attempts: 1, step: PublishStep::Claimed }
}
