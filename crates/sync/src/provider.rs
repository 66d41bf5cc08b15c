//! The provider: from a request to a confirmed record.
//!
//! A publish is a journal that moves forward: claimed, captured, publishing, published. Each step
//! is written down before the next begins, so that a process that finds the journal goes on where
//! the last one stopped, under the same publish id, and the store's own log tells whether the
//! record was already set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::control::{
    AppRequest, INVALID_FILE, InvalidRequest, PROCESSING_FILE, PublishFailed, PublishSucceeded,
    RESPONSE_FILE, RequestError, Response, Stage,
};
use belay_protocol::record::{
    ArchiveFormat, Capture, Encryption, MANIFEST_SCHEMA, Manifest, RECORD_SCHEMA, SyncRecord,
};
use belay_protocol::{PublishOutcome, SyncHead, SyncOutcome};
use belay_store::{BlobError, BlobStore, PutOutcome, RecordError, RecordStore, Revision};
use jiff::Timestamp;
use serde_json::Value;

use crate::capture::{Captured, capture, survey};
use crate::command::{PublishCommand, PublishError};
use crate::context::{Context, Failure, Stopped, blocking, millis, version, with_causes};
use crate::control::{ControlDir, Fingerprint, Pending};
use crate::core::path::{ContainerPath, minimal};
use crate::core::record::Order;
use crate::core::request::{RefusedRequest, ValidRequest, judge, judge_command};
use crate::core::retention::{Generation, retirable};
use crate::failpoint::{Point, reached};
use crate::history::{Deletion, SentRequest};
use crate::layout::SyncLayout;
use crate::spool::Spooled;
use crate::state::{
    CaptureFacts, Origin, PublishJournal, PublishStep, Unchanged,
};
use crate::volume::{Volumes, mount_table};
use crate::window::{
    FoundState, OfflineWindow, Require, Window, WindowClosed, WindowOutcome, WindowPurpose,
};

/// A request that ended this many processes is answered as failed.
const ATTEMPTS_MAX: u32 = 3;
/// Lost races for the head before a publish gives up.
const RACES_MAX: u32 = 5;
/// Records looked through for our own publish id.
const LOOK_BACK: usize = 64;

/// Publishes one workload's state.
pub(crate) struct Provider<S, W> {
    context: Arc<Context<S, W>>,
    /// A request that is not JSON yet, and since when it has been so.
    unfinished: Option<(Fingerprint, Instant)>,
    last_capture: Option<Instant>,
}

/// What a look at the control directory came to.
enum Look {
    Nothing,
    /// Look again after this long.
    Wait(Duration),
    Request(Box<ValidRequest>),
    Refused(Box<RefusedRequest>),
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
        let control = layout.control.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let control = ControlDir::ensure(&control)?;
            if kept.is_none() { control.unclaim().map(drop) } else { Ok(()) }
        });
        if journal.is_none()
            && let Ok(Err(error)) = prepared.await
        {
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
        let failed = |stage, reason| PublishError::Failed { stage, reason };
        let mounts = mount_table(layout)
            .map_err(|error| failed(Stage::Validation, with_causes(&error)))?;
        let valid = judge_command(command.archive_paths, command.metadata, &mounts)
            .map_err(|reason| failed(Stage::Validation, reason))?;
        let journal = new_journal(&self.context.node, Origin::Command, valid.request);
        self.work(layout, journal).await.map_err(|stopped| match stopped {
            Stopped::Failed(Failure { stage, reason }) => failed(stage, reason),
            Stopped::Shutdown => PublishError::ShuttingDown,
        })
    }

    async fn look(&mut self, layout: &SyncLayout) -> std::io::Result<Look> {
        let (layout, spec) = (layout.clone(), self.context.spec.clone());
        let unfinished = self.unfinished.take();
        let since_capture = self.last_capture.map(|at| at.elapsed());
        let looked = tokio::task::spawn_blocking(move || {
            look_blocking(&layout, unfinished, spec.request_grace, since_capture, spec.min_publish_interval)
        });
        let (look, unfinished) = looked.await.map_err(std::io::Error::other)??;
        self.unfinished = unfinished;
        Ok(look)
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
            Err(Stopped::Shutdown) => {}
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

    /// Validates while the app runs, then captures while it is stopped. The window closes as soon
    /// as the archive is in the spool.
    async fn capture(
        &mut self,
        layout: &SyncLayout,
        journal: &PublishJournal,
    ) -> Result<(String, CaptureFacts), Stopped> {
        let context = Arc::clone(&self.context);
        context.show("validating");
        let paths = journal.request.archive_paths.clone();
        let (look_layout, spool) = (layout.clone(), context.spool.clone());
        let roots =
            blocking(Stage::Validation, move || validate(&look_layout, &paths, &spool)).await?;

        context.show("stopping");
        let window = self.open_window(WindowPurpose::Publish { require: Require::Any }).await?;
        reached(Point::WindowOpened);
        self.last_capture = Some(Instant::now());
        context.show("capturing");
        let at = Timestamp::now();
        let (capture_layout, capture_roots) = (layout.clone(), roots.clone());
        let spool = context.spool.clone();
        let captured = blocking(Stage::ArchiveBuild, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::ArchiveBuild, error);
            let volumes = Volumes::open(&capture_layout).map_err(|error| fail(&error))?;
            let spooled = spool.create().map_err(|error| fail(&error))?;
            let captured =
                capture(&volumes, &capture_roots, &spooled.file).map_err(|error| fail(&error))?;
            reached(Point::Captured);
            Ok((spooled, captured))
        })
        .await;
        let closing = close(window, &context.spec);
        let kept = async {
            let (mut spooled, captured) = captured?;
            blocking(Stage::ArchiveBuild, move || {
                let name = spooled.keep().map_err(|error| Stopped::at(Stage::ArchiveBuild, &error))?;
                Ok((name, captured))
            })
            .await
        };
        // The archive is made durable while the container is coming up again.
        let (closed, kept) = tokio::join!(closing, kept);
        reached(Point::WindowClosed);
        let (name, captured) = kept?;
        let downtime = closed.and_then(|closed| {
            (closed.found == FoundState::Running).then(|| millis(closed.downtime))
        });
        Ok((name, facts(at, &roots, captured, downtime)))
    }

    async fn open_window(&self, purpose: WindowPurpose) -> Result<Window, Stopped> {
        let opening = self.context.window.open(purpose);
        let timed = tokio::time::timeout(self.context.spec.window_timeout, opening);
        tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => Err(Stopped::Shutdown),
            opened = timed => match opened {
                Ok(Ok(window)) => Ok(window),
                Ok(Err(refused)) => Err(Stopped::at(Stage::RuntimeStop, &refused)),
                Err(_) => Err(Stopped::because(
                    Stage::RuntimeStop,
                    "the container did not stop in time",
                )),
            },
        }
    }

    /// Stores the archive unless the head already names this content, and prepares the record.
    /// None if the archive is no longer whole.
    async fn upload(
        &self,
        journal: &PublishJournal,
        spool: &str,
        capture: &CaptureFacts,
    ) -> Result<Option<PublishStep>, Stopped> {
        self.context.show("uploading");
        let head = self.head(Stage::Upload).await?.map(|(_, record)| record);
        let same = head.filter(|head| {
            head.cid == capture.cid && head.manifest.archive_paths == capture.roots
        });
        if let Some(head) = same
            && self.has(&head.manifest).await?
        {
            // Equal content is stored once, and announced again only with other words.
            if head.metadata == journal.request.metadata && head.runtime == journal.request.runtime {
                drop(self.context.spool.reopen(spool));
                return Ok(Some(PublishStep::Published {
                    capture: capture.clone(),
                    record: Box::new(head),
                    at: Timestamp::now(),
                    unchanged: Unchanged::SameRecord,
                }));
            }
            let record = self.record(journal, capture, head.manifest).await?;
            return Ok(Some(PublishStep::Publishing {
                spool: spool.to_owned(),
                capture: capture.clone(),
                record: Box::new(record),
            }));
        }
        if !self.put(spool, capture).await? {
            return Ok(None);
        }
        reached(Point::Uploaded);
        let manifest = Manifest {
            schema_version: MANIFEST_SCHEMA,
            archive_paths: capture.roots.clone(),
            archive_format: ArchiveFormat::TarGz,
            archive_size_bytes: capture.archive_size_bytes,
            encryption: Encryption::None,
            blob: capture.blob,
            content_bytes: capture.content_bytes,
            members: capture.members,
            skipped_special: capture.skipped_count,
        };
        let record = self.record(journal, capture, manifest).await?;
        Ok(Some(PublishStep::Publishing {
            spool: spool.to_owned(),
            capture: capture.clone(),
            record: Box::new(record),
        }))
    }

    /// Stores the archive; false if it is not in the spool as it was captured.
    async fn put(&self, spool: &str, capture: &CaptureFacts) -> Result<bool, Stopped> {
        let Ok(mut spooled) = self.context.spool.reopen(spool) else { return Ok(false) };
        // A failed or interrupted upload finds it again.
        spooled.keep().map_err(|error| Stopped::at(Stage::Upload, &error))?;
        let file = |spooled: &Spooled| spooled.file.try_clone();
        let stored = self
            .context
            .exchange(Stage::Upload, BlobError::is_retryable, || async {
                let source = file(&spooled)
                    .map_err(|source| BlobError::Io { action: "read the archive", source })?;
                let (id, size) = (capture.blob, capture.archive_size_bytes);
                self.context.store.put_if_absent(id, source, size).await
            })
            .await?;
        match stored {
            Ok(PutOutcome::Stored | PutOutcome::Present) => Ok(true),
            Err(BlobError::Mismatch { .. }) => {
                spooled.release();
                Ok(false)
            }
            Err(error) => Err(Stopped::at(Stage::Upload, &error)),
        }
    }

    async fn has(&self, manifest: &Manifest) -> Result<bool, Stopped> {
        let size = self
            .context
            .exchange(Stage::Upload, BlobError::is_retryable, || {
                self.context.store.has(manifest.blob)
            })
            .await?
            .map_err(|error| Stopped::at(Stage::Upload, &error))?;
        Ok(size == Some(manifest.archive_size_bytes))
    }

    /// The head of the key. One that this version cannot read is a failure: it must not be
    /// replaced by guess.
    async fn head(&self, stage: Stage) -> Result<Option<(Revision, SyncRecord)>, Stopped> {
        let key = &self.context.spec.key;
        let stored = self
            .context
            .exchange(stage, RecordError::is_retryable, || self.context.store.head(key))
            .await?
            .map_err(|error| Stopped::at(stage, &error))?;
        let Some(stored) = stored else { return Ok(None) };
        let record = serde_json::from_slice(&stored.bytes).map_err(|error| {
            Stopped::because(stage, format!("the head of {key} is no record this version reads: {error}"))
        })?;
        Ok(Some((stored.revision, record)))
    }

    async fn record(
        &self,
        journal: &PublishJournal,
        capture: &CaptureFacts,
        manifest: Manifest,
    ) -> Result<SyncRecord, Stopped> {
        let head = self.head(Stage::RecordPublish).await?.map(|(_, record)| record);
        let after = self.next_place(head.as_ref());
        Ok(SyncRecord {
            schema: RECORD_SCHEMA,
            key: self.context.spec.key.clone(),
            epoch: after.epoch,
            seq: after.seq,
            cid: capture.cid,
            parent_cid: head.map(|head| head.cid),
            node_id: self.context.node.clone(),
            publish_id: journal.publish_id.clone(),
            version: version(capture.at),
            timestamp: capture.at,
            capture: Capture::Stopped,
            metadata: journal.request.metadata.clone(),
            runtime: journal.request.runtime,
            manifest,
        })
    }

    /// The place after the head. Where the store lost its records, the place after the last one
    /// this node published: consumers remember that.
    fn next_place(&self, head: Option<&SyncRecord>) -> Order {
        let sent = self.context.history.all_sent();
        let sent = sent.iter().map(|(_, entry)| Order { epoch: entry.epoch, seq: entry.seq }).max();
        let last = head.map(Order::of).max(sent).unwrap_or(Order { epoch: 1, seq: 0 });
        Order { epoch: last.epoch, seq: last.seq + 1 }
    }

    /// Makes the record the head: the commit point of a publish.
    async fn set_record(
        &self,
        journal: &mut PublishJournal,
        capture: &CaptureFacts,
        mut record: SyncRecord,
    ) -> Result<SyncRecord, Stopped> {
        self.context.show("publishing");
        let stage = Stage::RecordPublish;
        for _ in 0..RACES_MAX {
            if let Some(ours) = self.published_before(&journal.publish_id).await? {
                return Ok(ours);
            }
            let head = self.head(stage).await?;
            let place = self.next_place(head.as_ref().map(|(_, record)| record));
            let parent = head.as_ref().map(|(_, record)| record.cid);
            if (Order::of(&record), record.parent_cid) != (place, parent) {
                record = self.record(journal, capture, record.manifest).await?;
                continue;
            }
            let bytes = serde_json::to_vec(&record).map_err(|error| Stopped::at(stage, &error))?;
            let expected = head.map(|(revision, _)| revision);
            let key = &self.context.spec.key;
            let set = tokio::time::timeout(
                self.context.spec.store_timeout,
                self.context.store.compare_and_set(key, expected, bytes.into()),
            );
            let error = match set.await {
                Ok(Ok(_)) => {
                    reached(Point::RecordSet);
                    return Ok(record);
                }
                // Someone else was first, or it is unknown whether we were: the next look tells.
                Ok(Err(RecordError::Conflict { .. })) => continue,
                Ok(Err(error)) => with_causes(&error),
                Err(_) => "the store did not answer in time".to_owned(),
            };
            tracing::warn!(workload = %self.context.workload, %error, "a record may not be set");
            if let Some(ours) = self.published_before(&journal.publish_id).await? {
                return Ok(ours);
            }
            return Err(Stopped::because(stage, error));
        }
        Err(Stopped::because(stage, "others kept publishing under this key"))
    }

    async fn published_before(&self, publish_id: &str) -> Result<Option<SyncRecord>, Stopped> {
        let key = &self.context.spec.key;
        let history = self
            .context
            .exchange(Stage::RecordPublish, RecordError::is_retryable, || {
                self.context.store.history(key, LOOK_BACK)
            })
            .await?
            .map_err(|error| Stopped::at(Stage::RecordPublish, &error))?;
        let records = history.iter().filter_map(|stored| {
            serde_json::from_slice::<SyncRecord>(&stored.bytes).ok()
        });
        Ok(records.into_iter().find(|record| record.publish_id == publish_id))
    }

    /// History, answer, and the end of the journal. Nothing here undoes a publish.
    async fn conclude(
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

    fn show_publish(&self, capture: &CaptureFacts, record: &SyncRecord, at: Timestamp, took: Duration) {
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

    /// Deletes what was superseded long enough ago, earlier failures included.
    async fn retire(&self, head: &SyncRecord) {
        let context = Arc::clone(&self.context);
        let now = Timestamp::now();
        let listed = tokio::task::spawn_blocking(move || context.history.all_sent()).await;
        let sent = listed.unwrap_or_default();
        let generations: Vec<Generation> = sent
            .iter()
            .map(|(_, entry)| Generation {
                order: Order { epoch: entry.epoch, seq: entry.seq },
                blob: entry.manifest.blob,
                age: Duration::try_from(now.duration_since(entry.published_timestamp))
                    .unwrap_or_default(),
                stored: entry.deletion.deleted_at.is_none(),
            })
            .collect();
        let spec = &self.context.spec;
        for index in retirable(&generations, spec.keep_generations.max(2), spec.retire_grace) {
            let (path, entry) = &sent[index];
            if entry.manifest.blob == head.manifest.blob {
                continue;
            }
            let call = self.context.store.delete(entry.manifest.blob);
            let deleted = match tokio::time::timeout(spec.store_timeout, call).await {
                Ok(Ok(_)) => Deletion {
                    deleted_at: Some(Timestamp::now()),
                    deletion_succeeded: Some(true),
                    deletion_error: None,
                },
                Ok(Err(error)) => failed_deletion(with_causes(&error)),
                Err(_) => failed_deletion("the store did not answer in time".to_owned()),
            };
            if let Err(error) = self.context.history.retired(path, entry.clone(), deleted) {
                tracing::warn!(%error, "a retirement could not be written down");
            }
        }
    }

    /// Answers a publish that failed, and forgets it.
    async fn abandon(&self, layout: &SyncLayout, journal: &PublishJournal, failure: &Failure) {
        if let PublishStep::Captured { spool, .. } | PublishStep::Publishing { spool, .. } = &journal.step {
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
    async fn refuse(&self, layout: &SyncLayout, refused: &RefusedRequest) {
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
fn answer_app(
    control: &std::path::Path,
    write: impl FnOnce(&ControlDir) -> std::io::Result<()>,
) {
    let written = match ControlDir::open(control) {
        Ok(Some(control)) => write(&control),
        Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::warn!(%error, "an answer could not be left in the control directory");
    }
}

fn look_blocking(
    layout: &SyncLayout,
    unfinished: Option<(Fingerprint, Instant)>,
    grace: Duration,
    since_capture: Option<Duration>,
    min_interval: Duration,
) -> std::io::Result<(Look, Option<(Fingerprint, Instant)>)> {
    let mounts = mount_table(layout).map_err(std::io::Error::other)?;
    let Some(control) = ControlDir::open(&layout.control)? else { return Ok((Look::Nothing, None)) };
    let (bytes, print) = match control.pending()? {
        Pending::Nothing => return Ok((Look::Nothing, None)),
        Pending::Unsafe { what } => {
            let refused = RefusedRequest {
                error: format!("request.json is {what}, expected a file"),
                body: None,
                raw_body: None,
                unfinished: false,
            };
            return Ok((Look::Refused(Box::new(refused)), None));
        }
        Pending::Request { bytes, print } => (bytes, print),
    };
    match judge(&bytes, &mounts) {
        Err(refused) if refused.unfinished => {
            // Time counts from the last change, so a slow writer is waited for, but no longer than
            // the grace after it stops writing.
            let since = match unfinished {
                Some((seen, since)) if seen == print => since,
                _ => Instant::now(),
            };
            let left = grace.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok((Look::Wait(left), Some((print, since))));
            }
        }
        Ok(_) => {
            let left = since_capture.map_or(Duration::ZERO, |since| min_interval.saturating_sub(since));
            if !left.is_zero() {
                return Ok((Look::Wait(left), None));
            }
        }
        Err(_) => {}
    }
    let claimed = control.claim();
    reached(Point::RequestClaimed);
    // What was taken is what counts, whatever it was a moment ago.
    let look = match claimed {
        Ok(bytes) => match judge(&bytes, &mounts) {
            Ok(valid) => Look::Request(Box::new(valid)),
            Err(refused) => Look::Refused(refused),
        },
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Look::Refused(Box::new(RefusedRequest {
                error: "request.json was replaced while it was taken".to_owned(),
                body: None,
                raw_body: None,
                unfinished: false,
            }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Look::Nothing,
        Err(error) => return Err(error),
    };
    Ok((look, None))
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

/// Everything that can be known before the container is stopped.
fn validate(
    layout: &SyncLayout,
    paths: &[String],
    spool: &crate::spool::Spool,
) -> Result<Vec<ContainerPath>, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let mut roots = Vec::new();
    for path in paths {
        let path = ContainerPath::parse(path).map_err(|error| fail(&error))?;
        volumes.mounts.resolve(&path).map_err(|error| fail(&error))?;
        roots.push(path);
    }
    let roots = minimal(roots);
    let found = survey(&volumes, &roots).map_err(|error| fail(&error))?;
    // Headers take at most a few blocks each and compress well; content may not compress at all.
    let needed = found.content.saturating_add(found.members.saturating_mul(2_048));
    let room = spool.room().map_err(|error| fail(&error))?;
    if needed > room {
        let reason = format!(
            "the archive may take {needed} bytes and the host's state directory has {room} to spare"
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    Ok(roots)
}

async fn close(window: Window, spec: &crate::layout::SyncSpec) -> Option<WindowClosed> {
    let closing = window.close(WindowOutcome::Unchanged);
    // Stop and readiness have a budget each.
    match tokio::time::timeout(spec.window_timeout * 2, closing).await {
        Ok(Ok(closed)) => Some(closed),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the window was not answered");
            None
        }
        Err(_) => {
            tracing::warn!("the window was not answered in time");
            None
        }
    }
}

fn facts(
    at: Timestamp,
    roots: &[ContainerPath],
    captured: Captured,
    downtime_ms: Option<u64>,
) -> CaptureFacts {
    CaptureFacts {
        at,
        roots: roots.iter().map(ToString::to_string).collect(),
        cid: captured.tree.cid,
        members: captured.tree.members,
        content_bytes: captured.tree.content,
        blob: captured.blob,
        archive_size_bytes: captured.size,
        skipped: captured.skipped.named,
        skipped_count: captured.skipped.count,
        downtime_ms,
    }
}

fn failed_deletion(error: String) -> Deletion {
    Deletion { deleted_at: None, deletion_succeeded: Some(false), deletion_error: Some(error) }
}
