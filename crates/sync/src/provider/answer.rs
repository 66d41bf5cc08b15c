//! What the app and the history are told.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::{
    INVALID_FILE, InvalidRequest, PROCESSING_FILE, PublishFailed, PublishSucceeded, RESPONSE_FILE,
    RequestError, Response, Stage,
};
use belay_protocol::record::SyncRecord;
use belay_protocol::{PublishOutcome, SyncHead, SyncOutcome};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;
use serde_json::Value;

use super::Provider;
use crate::context::{Failure, millis};
use crate::control::ControlDir;
use crate::core::request::RefusedRequest;
use crate::failpoint::{Point, reached};
use crate::history::SentRequest;
use crate::layout::SyncLayout;
use crate::state::{CaptureFacts, Origin, PublishJournal, PublishStep, Unchanged};
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// History, answer, and the end of the journal. Nothing here undoes a publish.
    pub(super) async fn conclude(
        &self,
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
            if origin == Origin::App {
                answer_app(&control, |control| {
                    control.write(RESPONSE_FILE, &Response::Ok(answer))?;
                    reached(Point::ResponseWritten);
                    control.clear(INVALID_FILE)?;
                    control.clear(PROCESSING_FILE)
                });
            }
            reached(Point::RequestDiscarded);
            context.state.clear_publish()
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "a finished publish's journal could not be removed");
            }
            Err(error) => tracing::warn!(%error, "a publish could not be concluded"),
        }
        outcome
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
                cid: record.cid,
                version: record.version,
                at,
                bytes: record.manifest.archive_size_bytes,
                downtime_ms: capture.downtime_ms.unwrap_or(0),
                duration_ms: millis(took),
            });
            status.head = Some(SyncHead {
                cid: record.cid,
                seq: record.seq,
                version: record.version,
                node: record.node_id.clone(),
            });
        });
    }

    /// Answers a publish that failed, and forgets it.
    pub(super) async fn abandon(
        &self,
        layout: &SyncLayout,
        journal: &PublishJournal,
        failure: &Failure,
    ) {
        if let PublishStep::Captured { spool, .. } | PublishStep::Publishing { spool, .. } =
            &journal.step
        {
            drop(self.context.spool.reopen(spool));
        }
        let body = serde_json::to_value(&journal.request).unwrap_or(Value::Null);
        let request = &journal.request;
        if journal.origin == Origin::App {
            let answer = PublishFailed {
                stage: failure.stage,
                error: failure.reason.clone(),
                failed_timestamp: Timestamp::now(),
                archive_paths: request.archive_paths.clone(),
                request_id: request.request_id.clone(),
            };
            self.answer_failure(layout, body, None, answer).await;
        }
        if let Err(error) = self.context.state.clear_publish() {
            tracing::warn!(%error, "a failed publish's journal could not be removed");
        }
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

    pub(super) async fn answer_failure(
        &self,
        layout: &SyncLayout,
        request: Value,
        raw_body: Option<String>,
        answer: PublishFailed,
    ) {
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
            answer_app(&control, |control| control.write(RESPONSE_FILE, &Response::Error(answer)));
            answer_app(&control, |control| control.clear(PROCESSING_FILE));
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "a failed request could not be answered");
        }
    }
}

/// Writes to the control directory. The app can make any write there fail, so a failure is noted
/// and nothing more.
fn answer_app(control: &std::path::Path, write: impl FnOnce(&ControlDir) -> std::io::Result<()>) {
    let written = match ControlDir::open(control) {
        Ok(Some(control)) => write(&control),
        Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::warn!(%error, "an answer could not be left in the control directory");
    }
}
