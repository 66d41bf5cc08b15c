//! The consumer: from a record to a volume that holds it.
//!
//! Everything that can fail is done while the app runs: the record is judged, its archive fetched
//! and verified, its tree staged in the volumes that will hold it. The window is open for the
//! exchange alone.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use belay_protocol::control::{APPLY_ERROR_FILE, ApplyError, LAST_APPLY_FILE, LastApply, Stage};
use belay_protocol::record::SyncRecord;
use belay_protocol::{Cid, SyncHead, SyncOutcome};
use belay_store::{BlobError, BlobStore, RecordError, RecordStore};
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};

use crate::commit::{self, CommitError};
use crate::context::{Context, Failure, Stopped, blocking, millis, with_causes};
use crate::control::ControlDir;
use crate::core::apply::{Unit, units};
use crate::core::quarantine;
use crate::core::record::{AcceptedRecord, Order, Standing, judge, standing};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::spool::Spooled;
use crate::stage::{STAGING_PREFIX, Staged, check_room, stage};
use crate::state::{ApplyJournal, ApplyPhase, ConsumerMemory, Halt, Highest, Quarantined};
use crate::volume::{Volumes, mount_table};
use crate::window::{FoundState, OfflineWindow, Ready, WindowOutcome, WindowPurpose};

/// Failed contents remembered; the oldest failure is forgotten for a new one.
const QUARANTINED_MAX: usize = 64;
/// Bytes of an archive beyond its contents: headers, before compression, for each entry.
const HEADERS_MAX: u64 = 4_096;

/// Takes over what is published under one workload's key.
pub(crate) struct Consumer<S, W> {
    context: Arc<Context<S, W>>,
    /// A refused record was told of; it is not told of again each time it is seen.
    told: Option<String>,
}

/// A failure with the content it quarantines.
struct ApplyFailure {
    cid: Option<Cid>,
    quarantine_key: String,
    stopped: Stopped,
}

/// How an apply ended that did not fail.
enum Applied {
    Committed(Box<ApplyJournal>, Option<Duration>),
    /// The volumes may hold neither state.
    Uncertain(String),
}

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(crate) fn new(context: Arc<Context<S, W>>) -> Self {
        Self { context, told: None }
    }

    /// Finishes the bookkeeping of an apply whose commit an earlier process made.
    pub(crate) async fn resume(&mut self, layout: &SyncLayout) {
        let context = Arc::clone(&self.context);
        if let Err(error) = context.spool.sweep(None) {
            tracing::warn!(workload = %context.workload, %error, "the spool could not be swept");
        }
        let control = layout.control.clone();
        let prepared = tokio::task::spawn_blocking(move || ControlDir::ensure(&control).map(drop));
        if let Ok(Err(error)) = prepared.await {
            tracing::warn!(workload = %context.workload, %error,
                "the control directory could not be prepared");
        }
        self.show_halt();
        if let Ok(Some(journal)) = context.state.apply()
            && let ApplyPhase::Committed { at } = journal.phase
        {
            self.conclude(layout, &journal, at).await;
        }
    }

    /// Looks at the head and applies it if it is new. Returns how long to wait before the next
    /// look, if less than the poll interval.
    pub(crate) async fn tick(&mut self, layout: &SyncLayout) -> Option<Duration> {
        let started = Instant::now();
        let result = self.take_over(layout, started).await;
        self.context.show("idle");
        match result {
            Ok(()) => {}
            Err(ApplyFailure { stopped: Stopped::Shutdown, .. }) => {}
            Err(ApplyFailure { cid, quarantine_key, stopped: Stopped::Failed(failure) }) => {
                self.quarantine(layout, cid, quarantine_key, failure).await;
            }
        }
        None
    }

    async fn take_over(&mut self, layout: &SyncLayout, started: Instant) -> Result<(), ApplyFailure> {
        let context = Arc::clone(&self.context);
        let key = &context.spec.key;
        let stored = context
            .exchange(Stage::Download, RecordError::is_retryable, || context.store.head(key))
            .await;
        let stored = match stored {
            Ok(Ok(Some(stored))) => stored,
            Ok(Ok(None)) | Err(Stopped::Shutdown) => return Ok(()),
            // A store that is down delays; there is no content to hold it against.
            Ok(Err(error)) => {
                let reason = with_causes(&error);
                context.show_failure(&Failure { stage: Stage::Download, reason });
                return Ok(());
            }
            Err(Stopped::Failed(failure)) => {
                context.show_failure(&failure);
                return Ok(());
            }
        };
        let mounts = mount_table(layout).map_err(|error| unreadable(&stored.bytes, &error))?;
        let accepted = match judge(&stored.bytes, key, &mounts) {
            Ok(accepted) => accepted,
            Err(refused) => {
                let quarantine_key =
                    refused.cid.map_or_else(|| record_key(&stored.bytes), |cid| cid.to_string());
                if self.is_quarantined(&quarantine_key) {
                    return Ok(());
                }
                let stopped = Stopped::because(Stage::Validation, refused.reasons.join("; "));
                return Err(ApplyFailure { cid: refused.cid, quarantine_key, stopped });
            }
        };
        let record = &accepted.record;
        self.show_head(record);
        let fail = |stopped| ApplyFailure {
            cid: Some(record.cid),
            quarantine_key: record.cid.to_string(),
            stopped,
        };
        if !self.is_due(record).map_err(fail)? {
            return Ok(());
        }
        let (check_layout, check) = (layout.clone(), accepted.clone());
        let applied =
            blocking(Stage::Validation, move || is_applied(&check_layout, &check)).await;
        if applied.map_err(fail)? {
            self.clear_quarantine(&record.cid.to_string());
            return Ok(());
        }
        if self.is_quarantined(&record.cid.to_string()) {
            return Ok(());
        }
        let applied = self.apply(layout, &accepted).await.map_err(fail)?;
        match applied {
            Applied::Committed(journal, downtime) => {
                let ApplyPhase::Committed { at } = journal.phase else { return Ok(()) };
                self.conclude(layout, &journal, at).await;
                self.show_apply(record, at, downtime, started.elapsed());
                Ok(())
            }
            Applied::Uncertain(reason) => Err(fail(Stopped::because(Stage::Commit, reason))),
        }
    }

    /// Whether the record may be applied by its place in the order; remembers the highest.
    fn is_due(&mut self, record: &SyncRecord) -> Result<bool, Stopped> {
        let memory_fault = |error: std::io::Error| {
            Stopped::because(Stage::Validation, format!("what was accepted before is unknown: {error}"))
        };
        let mut memory = self.context.state.consumer().map_err(memory_fault)?;
        let highest = memory.highest.map(|highest| (highest.order, highest.cid));
        match standing(highest, Order::of(record), record.cid) {
            Standing::Same => Ok(true),
            Standing::New => {
                memory.highest = Some(Highest { order: Order::of(record), cid: record.cid });
                self.context.state.set_consumer(&memory).map_err(memory_fault)?;
                Ok(true)
            }
            Standing::Behind => {
                let told = format!("behind {}-{}", record.epoch, record.seq);
                if self.told.as_ref() != Some(&told) {
                    self.context.show_failure(&Failure {
                        stage: Stage::Validation,
                        reason: format!(
                            "the head, record {} of epoch {}, is older than one accepted before \
                             and is ignored",
                            record.seq, record.epoch
                        ),
                    });
                    self.told = Some(told);
                }
                Ok(false)
            }
            Standing::Fork => {
                if self.is_quarantined(&record.cid.to_string()) {
                    return Ok(false);
                }
                Err(Stopped::because(
                    Stage::Validation,
                    format!(
                        "record {} of epoch {} was accepted before with other content: two \
                         providers hold one place",
                        record.seq, record.epoch
                    ),
                ))
            }
        }
    }

    /// Prepares while the app runs, then commits while it is stopped.
    async fn apply(&self, layout: &SyncLayout, accepted: &AcceptedRecord) -> Result<Applied, Stopped> {
        let context = Arc::clone(&self.context);
        let _lock = context
            .state
            .lock()
            .map_err(|error| Stopped::at(Stage::Validation, &error))?
            .ok_or_else(|| Stopped::because(Stage::Validation, "recovery is still at work"))?;
        context.show("downloading");
        let (room_layout, room_accepted) = (layout.clone(), accepted.clone());
        let spool = context.spool.clone();
        blocking(Stage::Validation, move || {
            check_bounds(&room_layout, &room_accepted, &spool)
        })
        .await?;
        let archive = self.download(&accepted.record).await?;
        reached(Point::Downloaded);

        context.show("staging");
        let (stage_layout, stage_accepted) = (layout.clone(), accepted.clone());
        let staged = blocking(Stage::Extract, move || {
            stage_blocking(&stage_layout, &stage_accepted, archive)
        })
        .await?;
        reached(Point::Staged);

        context.show("stopping");
        let cid = accepted.record.cid;
        let opening = context.window.open(WindowPurpose::Apply { cid });
        let timed = tokio::time::timeout(context.spec.window_timeout, opening);
        let opened = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => Err(Stopped::Shutdown),
            opened = timed => match opened {
                Ok(Ok(window)) => Ok(window),
                Ok(Err(refused)) => Err(Stopped::at(Stage::RuntimeStop, &refused)),
                Err(_) => {
                    Err(Stopped::because(Stage::RuntimeStop, "the container did not stop in time"))
                }
            },
        };
        let mut window = match opened {
            Ok(window) => window,
            Err(stopped) => {
                self.sweep(layout).await;
                return Err(stopped);
            }
        };
        reached(Point::ApplyWindowOpened);
        context.show("committing");
        window.mutating();
        let (commit_layout, record) = (layout.clone(), accepted.record.clone());
        let committing = Arc::clone(&context);
        let committed = tokio::task::spawn_blocking(move || {
            commit_blocking(&commit_layout, &committing.state, &record, &staged)
        })
        .await
        .unwrap_or_else(|error| {
            Err(CommitError::Uncertain { reason: format!("the commit ended early: {error}") })
        });
        let outcome = match &committed {
            Ok(_) => WindowOutcome::Applied { cid },
            Err(CommitError::Unchanged { .. }) => WindowOutcome::Unchanged,
            Err(CommitError::Uncertain { reason }) => {
                self.halt(reason);
                WindowOutcome::Uncertain { reason: reason.clone() }
            }
        };
        if committed.is_ok() {
            self.lift_halt();
        }
        // Stop and readiness have a budget each.
        let closing = window.close(outcome);
        let closed = tokio::time::timeout(context.spec.window_timeout * 2, closing).await;
        reached(Point::ApplyWindowClosed);
        let downtime = match closed {
            Ok(Ok(closed)) => {
                if let Ready::NotReady { reason } = &closed.ready {
                    tracing::warn!(workload = %context.workload, %reason,
                        "the workload is not ready on the state it took over");
                }
                (closed.found == FoundState::Running).then_some(closed.downtime)
            }
            Ok(Err(error)) => {
                tracing::warn!(workload = %context.workload, %error, "the window was not answered");
                None
            }
            Err(_) => {
                tracing::warn!(workload = %context.workload, "the window was not answered in time");
                None
            }
        };
        match committed {
            Ok(journal) => Ok(Applied::Committed(Box::new(journal), downtime)),
            Err(error @ CommitError::Unchanged { .. }) => {
                self.sweep(layout).await;
                Err(Stopped::at(Stage::Commit, &error))
            }
            Err(CommitError::Uncertain { reason }) => Ok(Applied::Uncertain(reason)),
        }
    }

    /// Fetches the archive into the spool and verifies it byte by byte.
    async fn download(&self, record: &SyncRecord) -> Result<Spooled, Stopped> {
        let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Download, error);
        let manifest = &record.manifest;
        let spool = self.context.spool.clone();
        let mut spooled = blocking(Stage::Download, move || {
            spool.create().map_err(|error| Stopped::at(Stage::Download, &error))
        })
        .await?;
        let fetched = self
            .context
            .exchange(Stage::Download, BlobError::is_retryable, || {
                fetch(&*self.context.store, manifest.blob, manifest.archive_size_bytes, &spooled)
            })
            .await?;
        let digest = fetched.map_err(|error| fail(&error))?;
        if digest != *manifest.blob.digest() {
            let reason = format!("the stored object is not {}", manifest.blob);
            return Err(Stopped::because(Stage::Download, reason));
        }
        spooled.file.seek(SeekFrom::Start(0)).map_err(|error| fail(&error))?;
        Ok(spooled)
    }

    /// History, notice to the app, clearing away of the old state, and the end of the journal.
    async fn conclude(&self, layout: &SyncLayout, journal: &ApplyJournal, at: Timestamp) {
        let context = Arc::clone(&self.context);
        let (layout, record) = (layout.clone(), journal.record.clone());
        let done = tokio::task::spawn_blocking(move || {
            if let Err(error) = context.history.received(&record, at) {
                tracing::warn!(%error, "an apply could not be written into the history");
            }
            reached(Point::ReceivedHistoryWritten);
            let last = LastApply {
                cid: record.cid,
                version: record.version,
                epoch: record.epoch,
                seq: record.seq,
                source_timestamp: record.timestamp,
                applied_timestamp: at,
                node_id: record.node_id.clone(),
                metadata: record.metadata.clone(),
            };
            let told = ControlDir::open(&layout.control).and_then(|control| {
                let control = control.ok_or(std::io::ErrorKind::NotFound)?;
                control.write(LAST_APPLY_FILE, &last)?;
                control.clear(APPLY_ERROR_FILE)
            });
            if let Err(error) = told {
                tracing::warn!(%error, "an apply could not be told to the app");
            }
            reached(Point::LastApplyWritten);
            if let Err(error) = sweep_blocking(&layout) {
                tracing::warn!(%error, "the old state could not be cleared away");
            }
            reached(Point::OldStateRemoved);
            context.state.clear_apply()
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "a finished apply's journal could not be removed");
            }
            Err(error) => tracing::warn!(%error, "an apply could not be concluded"),
        }
        self.clear_quarantine(&journal.record.cid.to_string());
    }

    async fn sweep(&self, layout: &SyncLayout) {
        let layout = layout.clone();
        let swept = tokio::task::spawn_blocking(move || sweep_blocking(&layout)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "a staged tree could not be cleared away");
        }
    }

    fn is_quarantined(&self, key: &str) -> bool {
        // Memory that cannot be read is a failure of its own, told by `is_due`.
        let memory = self.context.state.consumer().unwrap_or_default();
        memory.quarantine.get(key).is_some_and(|entry| Timestamp::now() < entry.next_retry_after)
    }

    async fn quarantine(&self, layout: &SyncLayout, cid: Option<Cid>, key: String, failure: Failure) {
        self.context.show_failure(&failure);
        let now = Timestamp::now();
        let mut memory = self.context.state.consumer().unwrap_or_default();
        let earlier = memory.quarantine.get(&key);
        let failures = earlier.map_or(0, |entry| entry.failure_count).saturating_add(1);
        let first = earlier.map_or(now, |entry| entry.first_failed);
        let wait = SignedDuration::try_from(quarantine::delay(failures)).unwrap_or_default();
        let entry = Quarantined {
            cid,
            stage: failure.stage,
            error: failure.reason.clone(),
            failure_count: failures,
            first_failed: first,
            last_failed: now,
            next_retry_after: now.checked_add(wait).unwrap_or(now),
        };
        let notice = ApplyError {
            cid,
            stage: failure.stage,
            error: failure.reason,
            failed_timestamp: now,
            failure_count: failures,
            next_retry_after: entry.next_retry_after,
        };
        memory.quarantine.insert(key, entry);
        while memory.quarantine.len() > QUARANTINED_MAX {
            let oldest =
                memory.quarantine.iter().min_by_key(|(_, entry)| entry.last_failed).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                memory.quarantine.remove(&oldest);
            }
        }
        if let Err(error) = self.context.state.set_consumer(&memory) {
            tracing::warn!(%error, "a quarantine could not be written down");
        }
        self.show_quarantine(&memory);
        let control = layout.control.clone();
        let told = tokio::task::spawn_blocking(move || {
            ControlDir::open(&control)?
                .ok_or(std::io::ErrorKind::NotFound)?
                .write(APPLY_ERROR_FILE, &notice)
        });
        if let Ok(Err(error)) = told.await {
            tracing::warn!(%error, "a failed apply could not be told to the app");
        }
    }

    fn clear_quarantine(&self, key: &str) {
        let Ok(mut memory) = self.context.state.consumer() else { return };
        if memory.quarantine.remove(key).is_some()
            && let Err(error) = self.context.state.set_consumer(&memory)
        {
            tracing::warn!(%error, "an ended quarantine could not be written down");
        }
        self.show_quarantine(&memory);
        self.context.status.send_modify(|status| status.last_failure = None);
    }

    fn show_quarantine(&self, memory: &ConsumerMemory) {
        let waiting =
            memory.quarantine.iter().map(|(key, entry)| (key.clone(), entry.next_retry_after)).collect();
        self.context.status.send_modify(|status| status.quarantine = waiting);
    }

    fn show_head(&self, record: &SyncRecord) {
        self.context.status.send_modify(|status| {
            status.head = Some(SyncHead {
                cid: record.cid,
                seq: record.seq,
                version: record.version,
                node: record.node_id.clone(),
            });
        });
    }

    fn show_apply(&self, record: &SyncRecord, at: Timestamp, downtime: Option<Duration>, took: Duration) {
        tracing::info!(workload = %self.context.workload, cid = %record.cid, seq = record.seq,
            bytes = record.manifest.archive_size_bytes, "applied");
        self.context.status.send_modify(|status| {
            status.last_apply = Some(SyncOutcome {
                cid: record.cid,
                version: record.version,
                at,
                bytes: record.manifest.archive_size_bytes,
                downtime_ms: downtime.map_or(0, millis),
                duration_ms: millis(took),
            });
        });
    }

    fn halt(&self, reason: &str) {
        tracing::error!(workload = %self.context.workload, %reason,
            "the state of the volumes is uncertain; the workload is halted");
        let halt = Halt { reason: reason.to_owned(), since: Some(Timestamp::now()) };
        if let Err(error) = self.context.state.set_halt(&halt) {
            // The journal still says that an apply had begun; recovery comes to the same verdict.
            tracing::error!(%error, "the halt could not be written down");
        }
        self.show_halt();
    }

    /// A verified apply is what ends a halt.
    fn lift_halt(&self) {
        if let Err(error) = self.context.state.clear_halt() {
            tracing::warn!(%error, "a halt could not be lifted");
        }
        self.show_halt();
    }

    fn show_halt(&self) {
        let halted = self.context.state.halt().map(|halt| halt.reason);
        self.context.status.send_modify(|status| status.halted = halted);
    }
}

fn record_key(bytes: &[u8]) -> String {
    format!("record-{}", blake3::hash(bytes).to_hex())
}

fn unreadable(bytes: &[u8], error: &dyn std::error::Error) -> ApplyFailure {
    ApplyFailure {
        cid: None,
        quarantine_key: record_key(bytes),
        stopped: Stopped::at(Stage::Validation, error),
    }
}

/// Whether every volume the record touches says that it holds this content.
fn is_applied(layout: &SyncLayout, accepted: &AcceptedRecord) -> Result<bool, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    for unit in units {
        let mark = volumes.all[unit.mount].mark().map_err(|error| fail(&error))?;
        let holds = mark.is_some_and(|mark| {
            mark.cid == accepted.record.cid && mark.key == accepted.record.key
        });
        // A nested volume of which the tree says nothing is not touched and carries no mark; only
        // the volumes of the declared paths are sure to carry one.
        let declared = accepted.roots.contains(&unit.path);
        if declared && !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn record_units(volumes: &Volumes, accepted: &AcceptedRecord) -> Result<Vec<Unit>, Stopped> {
    units(&accepted.roots, &volumes.mounts)
        .map_err(|reason| Stopped::because(Stage::Validation, reason))
}

/// Refuses what cannot fit or cannot be true, before anything is fetched.
fn check_bounds(
    layout: &SyncLayout,
    accepted: &AcceptedRecord,
    spool: &crate::spool::Spool,
) -> Result<(), Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    let manifest = &accepted.record.manifest;
    check_room(&volumes, &units, manifest).map_err(|error| fail(&error))?;
    let headers = manifest.members.saturating_mul(HEADERS_MAX);
    let most = manifest.content_bytes.saturating_add(headers).saturating_add(1 << 20);
    if manifest.archive_size_bytes > most {
        let reason = format!(
            "an archive of {} bytes is more than {} bytes in {} entries can take",
            manifest.archive_size_bytes, manifest.content_bytes, manifest.members
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    let room = spool.room().map_err(|error| fail(&error))?;
    if manifest.archive_size_bytes > room {
        let reason = format!(
            "the archive has {} bytes and the host's state directory has {room} to spare",
            manifest.archive_size_bytes
        );
        return Err(Stopped::because(Stage::Validation, reason));
    }
    Ok(())
}

/// Fetches exactly `size` bytes into the spooled file, from its beginning, and returns their hash.
async fn fetch<S: BlobStore>(
    store: &S,
    blob: Cid,
    size: u64,
    spooled: &Spooled,
) -> Result<[u8; 32], BlobError> {
    let io = |source| BlobError::Io { action: "spool an object", source };
    let mut file = spooled.file.try_clone().map_err(io)?;
    file.set_len(0).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut pieces = store.get(blob, None).await?;
    let mut hasher = blake3::Hasher::new();
    let mut fetched = 0_u64;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        fetched = fetched.saturating_add(piece.len() as u64);
        if fetched > size {
            return Err(BlobError::Mismatch { id: blob });
        }
        hasher.update(&piece);
        let written = tokio::task::spawn_blocking(move || {
            file.write_all(&piece)?;
            Ok(file)
        });
        file = written.await.map_err(std::io::Error::other).and_then(|file| file).map_err(io)?;
    }
    if fetched != size {
        return Err(BlobError::Mismatch { id: blob });
    }
    Ok(*hasher.finalize().as_bytes())
}

fn stage_blocking(
    layout: &SyncLayout,
    accepted: &AcceptedRecord,
    archive: Spooled,
) -> Result<Staged, Stopped> {
    let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Extract, error);
    let volumes = Volumes::open(layout).map_err(|error| fail(&error))?;
    // What an earlier attempt left takes room that this one needs.
    commit::sweep(&volumes, None).map_err(|error| fail(&error))?;
    let units = record_units(&volumes, accepted)?;
    let directory = format!("{STAGING_PREFIX}{}", accepted.record.cid);
    let file = archive.file.try_clone().map_err(|error| fail(&error))?;
    let staged = stage(&volumes, units, accepted, file, &directory)
        .map_err(|error| fail(&error))
        // A look at every place now finds what would fail after the stop.
        .and_then(|staged| {
            commit::plan(&volumes, &staged).map_err(|error| Stopped::at(Stage::Commit, &error))?;
            Ok(staged)
        });
    if staged.is_err()
        && let Err(error) = commit::sweep(&volumes, None)
    {
        tracing::warn!(%error, "a staged tree could not be cleared away");
    }
    staged
}

fn commit_blocking(
    layout: &SyncLayout,
    state: &crate::state::StateDir,
    record: &SyncRecord,
    staged: &Staged,
) -> Result<ApplyJournal, CommitError> {
    let volumes = Volumes::open(layout).map_err(|error| CommitError::Unchanged {
        what: "the volumes cannot be used".to_owned(),
        source: std::io::Error::other(error),
    })?;
    commit::commit(&volumes, state, record, staged, Timestamp::now())
}

fn sweep_blocking(layout: &SyncLayout) -> std::io::Result<()> {
    let volumes = Volumes::open(layout).map_err(std::io::Error::other)?;
    commit::sweep(&volumes, None)
}
