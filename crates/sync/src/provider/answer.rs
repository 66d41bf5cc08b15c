//! What the app and the history are told.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::{
    INVALID_FILE, InvalidRequest, PROCESSING_FILE, PublishFailed, PublishSucceeded, RESPONSE_FILE,
    RequestError, Response, Stage,
};
use belay_protocol::record::SyncRecord;
use belay_protocol::{PublishOutcome, SyncOutcome};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;
use serde_json::Value;

use super::{ANSWERS_MAX, Provider};
use crate::context::{Failure, millis};
use crate::control::ControlDir;
use crate::core::quarantine;
use crate::core::request::RefusedRequest;
use crate::failpoint::{Point, reached};
use crate::history::SentRequest;
use crate::layout::{ControlVolume, SyncLayout};
use crate::state::{CaptureFacts, Origin, PublishJournal, PublishStep, StateDir, Unchanged};
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// History, answer, and the end of the journal. Nothing here undoes a publish.
    pub(super) async fn conclude(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
        capture: &CaptureFacts,
        record: &SyncRecord,
        at: Timestamp,
        unchanged: Unchanged,
    ) -> PublishOutcome {
        let context = Arc::clone(&self.context);
        let outcome = PublishOutcome {
            cid: record.cid,
            version: record.version,
            seq: record.seq,
            bytes: record.manifest.archive_size_bytes,
            downtime_ms: capture.downtime_ms.unwrap_or(0),
            unchanged: unchanged == Unchanged::SameRecord,
        };
        let request = SentRequest {
            archive_paths: journal.request.archive_paths.clone(),
            metadata: journal.request.metadata.clone(),
            runtime: journal.request.runtime,
        };
        let mut answer = PublishSucceeded {
            cid: record.cid,
            version: record.version,
            epoch: record.epoch,
            seq: record.seq,
            published_timestamp: at,
            archive_paths: record.manifest.archive_paths.clone(),
            archive_size_bytes: record.manifest.archive_size_bytes,
            content_bytes: record.manifest.content_bytes,
            capture: record.capture,
            capture_fallback: capture.fallback.clone(),
            unchanged: unchanged == Unchanged::SameRecord,
            downtime_ms: capture.downtime_ms,
            skipped: capture.skipped.clone(),
            metadata: record.metadata.clone(),
            request_id: journal.request.request_id.clone(),
            history_error: None,
        };
        let (record, origin) = (record.clone(), journal.origin);
        let control = layout.control.clone();
        let written = tokio::task::spawn_blocking(move || {
            if unchanged == Unchanged::NewRecord
                && let Err(error) = context.history.sent(&record, request, at)
            {
                answer.history_error = Some(error.to_string());
            }
            reached(Point::SentHistoryWritten);
            let mut told = Answered::Yes;
            if origin == Origin::App {
                // Each for itself: an answer that cannot be left must not leave a claim that the
                // next start would take for a request.
                told = answer_app(&control, |control| {
                    control.write(RESPONSE_FILE, &Response::Ok(answer))
                });
                reached(Point::ResponseWritten);
                answer_app(&control, |control| control.clear(INVALID_FILE));
                answer_app(&control, |control| control.clear(PROCESSING_FILE));
            }
            reached(Point::RequestDiscarded);
            told
        });
        let told = written.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a publish could not be concluded");
            Answered::Yes
        });
        self.end(journal, told).await;
        outcome
    }

    /// Removes the journal of a publish that was answered; keeps it, for a while, otherwise.
    async fn end(&mut self, journal: &PublishJournal, told: Answered) {
        if told == Answered::No && self.unanswered < ANSWERS_MAX {
            self.unanswered += 1;
            self.unsettled = Some(journal.clone());
            return;
        }
        self.unanswered = 0;
        if let Err(error) = self.context.stored(StateDir::clear_publish).await {
            tracing::warn!(%error, "an ended publish's journal could not be removed");
        }
    }

    pub(super) fn show_publish(
        &self,
        capture: &CaptureFacts,
        record: &SyncRecord,
        at: Timestamp,
        took: Duration,
    ) {
        tracing::info!(workload = %self.context.workload, cid = %record.cid, seq = record.seq,
            bytes = record.manifest.archive_size_bytes, "published");
        self.context.status.send_modify(|status| {
            status.last_publish = Some(SyncOutcome {
                altered: None,
                cid: record.cid,
                version: record.version,
                at,
                bytes: record.manifest.archive_size_bytes,
                downtime_ms: capture.downtime_ms.unwrap_or(0),
                duration_ms: millis(took),
                capture: Some(record.capture),
                capture_fallback: capture.fallback.clone(),
            });
            // A publish that was begun under another key may have ended under this one.
            if record.key == self.context.spec.key {
                status.head = Some(record.head());
            }
        });
    }

    /// Answers a publish that failed, and forgets it.
    pub(super) async fn abandon(
        &mut self,
        layout: &SyncLayout,
        mut journal: PublishJournal,
        failure: &Failure,
    ) {
        let (at, spool) = match &journal.step {
            PublishStep::Captured { spool, .. } | PublishStep::Publishing { spool, .. } => {
                (Timestamp::now(), Some(spool.clone()))
            }
            PublishStep::Claimed | PublishStep::Published { .. } => (Timestamp::now(), None),
            PublishStep::Failed { at, .. } => (*at, None),
        };
        let (stage, reason) = (failure.stage, quarantine::bounded(failure.reason.clone()));
        journal.step = PublishStep::Failed { stage, reason: reason.clone(), at };
        // Journalled before it is answered, so that whoever comes next gives the same answer.
        if let Err(error) = self.write_down(&journal, stage).await {
            tracing::warn!(?error, "a failure could not be journalled");
        }
        reached(Point::FailureJournalled);
        if let Some(spool) = spool {
            self.discard(spool).await;
        }
        if let Some(blob) = journal.uploaded {
            self.add_orphan(blob).await;
        }
        let body = serde_json::to_value(&journal.request).unwrap_or(Value::Null);
        let request = &journal.request;
        let mut told = Answered::Yes;
        if journal.origin == Origin::App {
            let answer = PublishFailed {
                stage,
                error: reason,
                failed_timestamp: at,
                archive_paths: request.archive_paths.clone(),
                request_id: request.request_id.clone(),
            };
            told = self.answer_failure(layout, body, None, answer).await;
        }
        self.end(&journal, told).await;
        self.remove_orphans().await;
    }

    /// Answers a request that was refused as it stands.
    pub(super) async fn refuse(&self, layout: &SyncLayout, refused: &RefusedRequest) {
        let answer = PublishFailed {
            stage: Stage::Validation,
            error: refused.error.clone(),
            failed_timestamp: Timestamp::now(),
            archive_paths: refused.archive_paths(),
            request_id: refused.request_id(),
        };
        let body = refused.body.clone().unwrap_or(Value::Null);
        self.answer_failure(layout, body, refused.raw_body.clone(), answer).await;
    }

    async fn answer_failure(
        &self,
        layout: &SyncLayout,
        request: Value,
        raw_body: Option<String>,
        answer: PublishFailed,
    ) -> Answered {
        let invalid = InvalidRequest {
            request,
            error: RequestError {
                stage: answer.stage,
                error: answer.error.clone(),
                failed_timestamp: answer.failed_timestamp,
                node_id: self.context.node.clone(),
                raw_body,
            },
        };
        let control = layout.control.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Each for itself: one that fails must not keep the others back.
            answer_app(&control, |control| control.write(INVALID_FILE, &invalid));
            let told = answer_app(&control, |control| {
                control.write(RESPONSE_FILE, &Response::Error(answer))
            });
            reached(Point::FailureAnswered);
            answer_app(&control, |control| control.clear(PROCESSING_FILE));
            told
        });
        written.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a failed request could not be answered");
            Answered::Yes
        })
    }
}

/// Whether the app was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Yes,
    No,
}

/// Writes to the control directory. The app can make any write there fail.
fn answer_app(
    control: &ControlVolume,
    write: impl FnOnce(&ControlDir) -> std::io::Result<()>,
) -> Answered {
    let written = match ControlDir::open(control) {
        Ok(Some(control)) => write(&control),
        Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => Answered::Yes,
        Err(error) => {
            tracing::warn!(%error, "an answer could not be left in the control directory");
            Answered::No
        }
    }
}
