//! The consumer: from a record to a volume that holds it.
//!
//! Everything that can fail is done while the app runs: the record is judged, its archive fetched
//! and verified, its tree staged in the volumes that will hold it. The window is open for the
//! exchange alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use acks::{Lease, Told};
use belay_protocol::control::{
    APPLY_ERROR_FILE, AlteredEntries, LAST_APPLY_FILE, LastApply, Stage,
};
use belay_protocol::record::SyncRecord;
use belay_protocol::{AckState, Cid, ProblemCode, SyncFailure, SyncOutcome};
use belay_store::{BlobStore, RecordError, RecordStore, StoredRecord};
use commitment::sweep_blocking;
use jiff::Timestamp;
use preparation::is_applied;

use crate::context::{Context, Failure, Stopped, blocking, millis, with_causes};
use crate::control::ControlDir;
use crate::core::ack::Standing as AckStanding;
use crate::core::maintenance::Hold;
use crate::core::record::{AcceptedRecord, Order, RefusedRecord, Standing, judge, standing};
use crate::core::trial::Wish;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::looks::StagedFiles;
use crate::node_key::NodeKey;
use crate::sharing::Sharing;
use crate::stage::Staged;
use crate::state::{ApplyJournal, ApplyPhase, Highest, PublishJournal, StateDir};
use crate::volume::mount_table;
use crate::window::OfflineWindow;

mod acks;
mod at_once;
mod commitment;
mod preparation;
mod quarantine;
mod rollback;
mod standstill;
mod tree;
mod trial;

pub(crate) use quarantine::taken_back;
pub(crate) use rollback::held;

/// Takes over what is published under one workload's key.
pub(crate) struct Consumer<S, W> {
    context: Arc<Context<S, W>>,
    /// A refused record was told of; it is not told of again each time it is seen.
    told: Option<String>,
    /// The store failed in the middle of a transfer, and is left alone for a while.
    resting: Option<Rest>,
    /// A tree that is ready for a workload that was busy.
    waiting: Option<Waiting>,
    /// The workload could not be stopped for what is taken back, and is left alone for a while.
    returning: Option<Rest>,
    /// Content that was to be taken back and could not, and what is shown of it while it is held.
    stays: Option<(Cid, SyncFailure)>,
    /// Signs what providers are told.
    key: NodeKey,
    /// How it stands to the head, as the last look found.
    standing: Option<AckStanding>,
    /// What providers were told last, and when they could not be told.
    acknowledged: Option<Told>,
    unacknowledged: Option<Instant>,
    /// The files of the tree that was committed last, by its content.
    files: Option<(Cid, StagedFiles)>,
}

/// Longest pause between two transfers from a store that fails.
const REST_MAX: Duration = Duration::from_mins(5);

/// A pause.
struct Rest {
    failures: u32,
    until: Instant,
}

/// A staged and verified tree.
struct Waiting {
    layout: SyncLayout,
    record: SyncRecord,
    sharing: Sharing,
    staged: Staged,
}

/// A failure with the content it quarantines.
struct ApplyFailure {
    cid: Option<Cid>,
    quarantine_key: String,
    stopped: Stopped,
}

/// Whether what an operator wrote into the spec holds an apply back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    AsAllowed,
    /// They asked for it now.
    AtOnce,
}

/// What a look at the head came to.
enum Took {
    /// There is nothing to do, or it cannot be done now.
    Nothing(String),
    /// The store does not answer.
    Store(String),
    /// The volumes hold the head.
    Holds(Cid),
    /// It took the place of what was there.
    Applied(Cid, Option<Duration>),
    /// It did, and stays if the workload becomes ready on it.
    OnTrial(Cid),
    /// It did, and did not stay.
    TakenBack(String, Option<Duration>),
    /// It is ready, and waits for its time.
    Held(String, Hold),
    /// An apply before it was brought to its end.
    Again,
}

impl Took {
    /// How long to wait before the next look, if less than the poll interval.
    fn next_look(&self) -> Option<Duration> {
        match self {
            Self::Nothing(_) | Self::Store(_) | Self::Holds(_) | Self::Applied(..) => None,
            Self::OnTrial(_) => Some(trial::LOOK),
            Self::TakenBack(_, wait) => *wait,
            Self::Held(_, hold) => {
                let left = hold.until.duration_since(Timestamp::now());
                Some(Duration::try_from(left).unwrap_or_default())
            }
            Self::Again => Some(Duration::ZERO),
        }
    }
}

/// How an apply ended that did not fail.
enum Applied {
    Committed(Box<ApplyJournal>, Option<Duration>),
    /// It is staged, and waits for its time.
    Held(Hold),
    /// It stays if the workload becomes ready on it.
    OnTrial,
    /// The workload did not become ready on it.
    Refused(Box<ApplyJournal>, String),
    /// Not this one, but one before it that had come to no certain end.
    Earlier(Box<ApplyJournal>, Option<Duration>),
    /// The volumes may hold neither state.
    Uncertain(String),
}

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// A consumer that signs with `key`.
    pub(crate) fn new(context: Arc<Context<S, W>>, key: NodeKey) -> Self {
        Self {
            context,
            told: None,
            resting: None,
            waiting: None,
            returning: None,
            stays: None,
            key,
            standing: None,
            acknowledged: None,
            unacknowledged: None,
            files: None,
        }
    }

    /// Finishes the bookkeeping of an apply whose commit an earlier process made.
    pub(crate) async fn resume(&mut self, layout: &SyncLayout) {
        let context = Arc::clone(&self.context);
        context.sweep_spool(None).await;
        // The volumes may be others now.
        self.waiting = None;
        let control = layout.control.clone();
        let prepared = tokio::task::spawn_blocking(move || ControlDir::ensure(&control).map(drop));
        if let Ok(Err(error)) = prepared.await {
            tracing::warn!(workload = %context.workload, %error,
                "the control directory could not be prepared");
        }
        if let Err(error) = context.stored(note_consumed).await {
            tracing::warn!(workload = %context.workload, %error,
                "what a publish left cannot be read or marked");
        }
        self.show_halt().await;
        if let Ok(Some(journal)) = context.stored(StateDir::apply).await
            && let ApplyPhase::Committed { at } = journal.phase
            && journal.trial.is_none()
        {
            self.conclude(layout, &journal, at).await;
        }
    }

    /// Looks at the head and applies it if it is new. Returns how long to wait before the next
    /// look, if less than the poll interval.
    pub(crate) async fn tick(&mut self, layout: &SyncLayout) -> Option<Duration> {
        let started = Instant::now();
        if let Some(wait) = self.judge_trial(layout).await {
            self.tell(layout).await;
            return Some(wait);
        }
        let result = self.take_over(layout, started, Haste::AsAllowed).await;
        self.context.show_rest();
        let next = match result {
            Ok(took) => {
                self.show_hold(&took);
                took.next_look()
            }
            Err(failed) => {
                self.failed(layout, failed).await;
                None
            }
        };
        self.tell(layout).await;
        next
    }

    /// Remembers a failure for what it concerns, and says why the apply stopped.
    async fn failed(&mut self, layout: &SyncLayout, failed: ApplyFailure) -> Stopped {
        let ApplyFailure { cid, quarantine_key, stopped } = failed;
        self.show_standstill(Some(standstill::of_failure(&stopped)));
        match &stopped {
            Stopped::Shutdown => {}
            Stopped::Unreachable(failure) => {
                self.context.show_failure(failure);
                self.rest();
            }
            Stopped::Later { reason } => {
                tracing::info!(workload = %self.context.workload, %reason, "the apply waits");
            }
            Stopped::Failed(failure) => {
                let state = self.failed_state();
                if let Some(standing) = &mut self.standing
                    && standing.state != AckState::Refused
                {
                    standing.state = state;
                }
                self.quarantine(layout, cid, quarantine_key, failure.clone()).await;
            }
        }
        stopped
    }

    /// What is told of a record that could not be applied.
    fn failed_state(&self) -> AckState {
        if self.is_halted() { AckState::Halted } else { AckState::Failed }
    }

    fn show_hold(&self, took: &Took) {
        self.show_standstill(took.standstill());
        match took {
            Took::Held(what, hold) => {
                let waits = format!("{what} waits for {}", hold.why);
                self.context.show_waiting(Some(waits), Some(hold.until));
            }
            Took::Nothing(_)
            | Took::Store(_)
            | Took::Holds(_)
            | Took::Applied(..)
            | Took::OnTrial(_)
            | Took::TakenBack(..)
            | Took::Again => self.context.show_waiting(None, None),
        }
    }

    /// Looks at the head without taking it, and says what waits.
    pub(crate) async fn waiting(&mut self, layout: &SyncLayout) -> Option<String> {
        if self.judge_trial(layout).await.is_some() {
            self.tell(layout).await;
            return Some("an apply on which the workload is not ready yet".to_owned());
        }
        let context = Arc::clone(&self.context);
        let key = &context.spec.key;
        let head = context
            .exchange(Stage::Download, RecordError::is_retryable, || context.store.head(key))
            .await;
        // What the store does not tell now it tells at the next look.
        let stored = head.ok()?.ok()??;
        let publishers = context.spec.publishers.as_deref();
        let mounts = mount_table(layout).ok()?;
        let accepted = judge(&stored.bytes, key, &mounts, publishers).ok()?;
        self.show_head(&accepted.record);
        let applied = self.is_held(layout, &accepted).await;
        let (record, holds) = (&accepted.record, applied.ok()?);
        let state = if holds { AckState::Applied } else { AckState::Paused };
        self.stands(state, record);
        self.tell(layout).await;
        (!holds).then(|| format!("record {} of epoch {}", record.seq, record.epoch))
    }

    /// Whether the volumes hold a record's content as this spec wants it.
    async fn is_held(
        &self,
        layout: &SyncLayout,
        accepted: &AcceptedRecord,
    ) -> Result<bool, Stopped> {
        let (layout, accepted) = (layout.clone(), accepted.clone());
        let policy = self.context.spec.ownership;
        blocking(Stage::Validation, move || is_applied(&layout, &accepted, policy)).await
    }

    async fn take_over(
        &mut self,
        layout: &SyncLayout,
        started: Instant,
        haste: Haste,
    ) -> Result<Took, ApplyFailure> {
        let context = Arc::clone(&self.context);
        let key = &context.spec.key;
        let stored = match self.head().await {
            Ok(stored) => stored,
            Err(took) => return Ok(took),
        };
        let mounts = mount_table(layout).map_err(|error| unreadable(&stored.bytes, &error))?;
        let publishers = context.spec.publishers.as_deref();
        let accepted = match judge(&stored.bytes, key, &mounts, publishers) {
            Ok(accepted) => accepted,
            Err(refused) => return self.refused(&stored.bytes, refused, haste).await,
        };
        let record = &accepted.record;
        self.show_head(record);
        // What an operator went back to is taken in the place of the head that was left.
        let pinned = self.pinned(Order::of(record), &mounts).await;
        let wish = match &pinned {
            Some(_) => Wish::Operator,
            None => Wish::Publisher,
        };
        let accepted = pinned.unwrap_or(accepted);
        let record = &accepted.record;
        let fail = |stopped| ApplyFailure {
            cid: Some(record.cid),
            quarantine_key: record.cid.to_string(),
            stopped,
        };
        if self.waiting.as_ref().is_some_and(|waiting| waiting.record != *record) {
            self.waiting = None;
            self.sweep(layout).await;
        }
        let fetching = AckStanding { state: AckState::Fetching, record: Some(acks::place(record)) };
        let interrupted = self.standing.take() == Some(fetching);
        self.stands(AckState::Refused, record);
        match wish {
            Wish::Operator => {}
            Wish::Publisher => {
                if !self.is_due(record, &stored.bytes).await? {
                    let reason = "the head is not one that may follow what was accepted before";
                    return Ok(Took::Nothing(reason.to_owned()));
                }
            }
        }
        let applied = self.is_held(layout, &accepted).await;
        // While another apply has no certain end, a mark of this one does not say enough.
        let certain = !context.stored(is_uncertain).await.unwrap_or(true);
        if applied.map_err(fail)? && certain {
            self.accept(record).await.map_err(fail)?;
            self.stays.take_if(|(stays, _)| *stays != record.cid);
            let failure = self.stays.as_ref().map(|(_, failure)| failure.clone());
            self.clear_quarantine(&record.cid.to_string(), failure).await;
            self.stands(AckState::Applied, record);
            return Ok(Took::Holds(record.cid));
        }
        // If it is left alone now, then for what an earlier look came to.
        self.stands(if interrupted { AckState::Fetching } else { self.failed_state() }, record);
        let what = format!("record {} of epoch {}", record.seq, record.epoch);
        if let Some(why) = self.left_alone(record.cid, haste).await {
            return Ok(Took::Nothing(format!("{what} {why}")));
        }
        self.stands(AckState::Fetching, record);
        let staged = self.waiting.as_ref().is_some_and(|w| w.layout == *layout);
        if staged && let Some(hold) = self.hold(layout, wish, haste).await {
            self.stands(AckState::Waiting, record);
            return Ok(Took::Held(what, hold));
        }
        let lease = self.lease(layout, record, stored.revision).await.map_err(fail)?;
        match (lease, wish) {
            (Lease::Given, _) | (Lease::Overtaken, Wish::Operator) => {}
            // It may be retired before anyone hears that it is needed.
            (Lease::Overtaken, Wish::Publisher) => return Ok(Took::Again),
        }
        let cid = record.cid;
        let applied = self.apply(layout, &accepted, wish, haste).await.map_err(fail)?;
        match applied {
            Applied::Committed(journal, downtime) => {
                self.resting = None;
                self.stands(AckState::Applied, record);
                self.finish(layout, &journal, downtime, started).await;
                Ok(Took::Applied(cid, downtime))
            }
            Applied::Held(hold) => {
                self.stands(AckState::Waiting, record);
                Ok(Took::Held(what, hold))
            }
            Applied::OnTrial => {
                self.stands(AckState::OnTrial, record);
                Ok(Took::OnTrial(cid))
            }
            Applied::Refused(journal, reason) => {
                self.resting = None;
                let wait = self.take_back(layout, *journal, reason.clone()).await;
                Ok(Took::TakenBack(reason, wait))
            }
            Applied::Earlier(journal, downtime) => {
                if journal.trial.is_none() {
                    self.finish(layout, &journal, downtime, started).await;
                }
                // The head may be another.
                Ok(Took::Again)
            }
            Applied::Uncertain(reason) => Err(fail(Stopped::because(Stage::Commit, reason))),
        }
    }

    /// Why content is not tried now, if nobody asks for it.
    async fn left_alone(&self, cid: Cid, haste: Haste) -> Option<String> {
        match haste {
            Haste::AtOnce => None,
            Haste::AsAllowed => match self.quarantined(&cid.to_string()).await {
                Some(why) => Some(format!("is not tried now: {why}")),
                None => self.is_resting().then(|| {
                    "waits: what it needs could not be fetched, and is asked for again after a while"
                        .to_owned()
                }),
            },
        }
    }

    /// What comes of a record that this consumer does not take.
    async fn refused(
        &mut self,
        bytes: &[u8],
        refused: RefusedRecord,
        haste: Haste,
    ) -> Result<Took, ApplyFailure> {
        let RefusedRecord { code, cid, reasons } = refused;
        let record = acks::place_in(bytes);
        self.standing = Some(AckStanding { state: AckState::Refused, record });
        let quarantine_key = cid.map_or_else(|| record_key(bytes), |cid| cid.to_string());
        if haste == Haste::AsAllowed
            && let Some(why) = self.quarantined(&quarantine_key).await
        {
            return Ok(Took::Nothing(format!("the head is not taken: {why}")));
        }
        let stopped = Stopped::coded(Stage::Validation, code, reasons.join("; "));
        Err(ApplyFailure { cid, quarantine_key, stopped })
    }

    /// What is published under the key now.
    async fn head(&self) -> Result<StoredRecord, Took> {
        let context = &self.context;
        let key = &context.spec.key;
        let stored = context
            .exchange(Stage::Download, RecordError::is_retryable, || context.store.head(key))
            .await;
        match stored {
            Ok(Ok(Some(stored))) => Ok(stored),
            Ok(Ok(None)) => Err(Took::Nothing(format!("nothing is published under {key}"))),
            Err(Stopped::Shutdown | Stopped::Later { .. }) => {
                Err(Took::Nothing("sync of the workload is shutting down".to_owned()))
            }
            // A store that is down delays; there is no content to hold it against.
            Ok(Err(error)) => {
                let reason = with_causes(&error);
                context.show_failure(&Failure::new(Stage::Download, reason.clone()));
                Err(Took::Store(reason))
            }
            Err(Stopped::Failed(failure) | Stopped::Unreachable(failure)) => {
                context.show_failure(&failure);
                Err(Took::Store(failure.reason))
            }
        }
    }

    async fn finish(
        &mut self,
        layout: &SyncLayout,
        journal: &ApplyJournal,
        downtime: Option<Duration>,
        started: Instant,
    ) {
        let ApplyPhase::Committed { at } = journal.phase else { return };
        self.conclude(layout, journal, at).await;
        self.show_apply(journal, at, downtime, started.elapsed());
    }

    fn is_resting(&self) -> bool {
        self.resting.as_ref().is_some_and(|rest| Instant::now() < rest.until)
    }

    fn rest(&mut self) {
        let failures = self.resting.take().map_or(1, |rest| rest.failures.saturating_add(1));
        let poll = self.context.spec.poll_interval;
        let pause = poll.saturating_mul(1 << failures.min(16)).min(REST_MAX.max(poll));
        self.resting = Some(Rest { failures, until: Instant::now() + pause });
    }

    /// Remembers the place of a record whose content was verified: nothing before it is taken.
    async fn accept(&self, record: &SyncRecord) -> Result<(), Stopped> {
        let highest = Highest { order: Order::of(record), cid: record.cid };
        let accepted = self
            .context
            .stored(move |state| {
                let mut memory = state.consumer()?;
                if memory.highest.is_some_and(|known| known.order >= highest.order) {
                    return Ok(None);
                }
                memory.highest = Some(highest);
                // What was refused as a record, and not for its content, is the head no more.
                memory.quarantine.retain(|key, _| !key.starts_with(RECORD_KEY));
                // A newer record is what ends a rollback.
                memory.pinned = memory.pinned.filter(|pinned| highest.order <= pinned.left);
                state.set_consumer(&memory)?;
                Ok(Some(memory))
            })
            .await;
        let changed = accepted.map_err(|error| unknown_memory(&error))?;
        if let Some(memory) = changed {
            self.context.show_held(&memory);
        }
        Ok(())
    }

    /// Whether the record may be applied by its place in the order. If not it is the record that is at
    /// fault, and not its content, which may be lawful in another place.
    async fn is_due(&mut self, record: &SyncRecord, bytes: &[u8]) -> Result<bool, ApplyFailure> {
        let named = record_key(bytes);
        self.may_follow(record, &named).await.map_err(|stopped| ApplyFailure {
            cid: Some(record.cid),
            quarantine_key: named,
            stopped,
        })
    }

    async fn may_follow(&mut self, record: &SyncRecord, named: &str) -> Result<bool, Stopped> {
        let memory = self.context.stored(StateDir::consumer).await;
        let memory = memory.map_err(|error| unknown_memory(&error))?;
        let highest = memory.highest.map(|highest| (highest.order, highest.cid));
        match standing(highest, Order::of(record), record.cid) {
            Standing::Same | Standing::New => Ok(true),
            Standing::Behind => {
                let told = format!("behind {}-{}", record.epoch, record.seq);
                if self.told.as_ref() != Some(&told) {
                    self.context.show_failure(&Failure {
                        stage: Stage::Validation,
                        code: Some(ProblemCode::RecordBehind),
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
                if self.is_quarantined(named).await {
                    return Ok(false);
                }
                Err(Stopped::coded(
                    Stage::Validation,
                    ProblemCode::RecordFork,
                    format!(
                        "record {} of epoch {} was accepted before with other content: two \
                         providers hold one place",
                        record.seq, record.epoch
                    ),
                ))
            }
        }
    }

    /// History, notice to the app, clearing away of the old state, and the end of the journal.
    async fn conclude(&mut self, layout: &SyncLayout, journal: &ApplyJournal, at: Timestamp) {
        let context = Arc::clone(&self.context);
        let (layout, record) = (layout.clone(), journal.record.clone());
        let files = self.files.take().filter(|(cid, _)| *cid == record.cid);
        let files = files.map(|(_, files)| files);
        let altered = journal.altered();
        let passed =
            journal.trial.is_some().then(|| ApplyJournal { trial: None, ..journal.clone() });
        let done = tokio::task::spawn_blocking(move || {
            // Once its old state is cleared away it must not be taken back.
            if let Some(passed) = passed {
                context.state.set_apply(&passed)?;
            }
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
                altered,
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
            if let Err(error) = context.state.note_stop(at) {
                tracing::warn!(%error, "when an apply was could not be written down");
            }
            if let Err(error) = sweep_blocking(&layout, &context.state) {
                tracing::warn!(%error, "the old state could not be cleared away");
            }
            reached(Point::OldStateRemoved);
            if let Err(error) = tree::manifest_applied(&context.state) {
                tracing::warn!(%error, "the manifest of an apply could not be kept");
            }
            context.state.clear_apply()?;
            if let Some(files) = files {
                tree::remember_looks(&layout, &context.state, &record, &files);
            }
            Ok::<(), std::io::Error>(())
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the journal of a finished apply could not be written");
            }
            Err(error) => tracing::warn!(%error, "an apply could not be concluded"),
        }
        self.clear_quarantine(&journal.record.cid.to_string(), None).await;
    }

    fn show_head(&self, record: &SyncRecord) {
        self.context.status.send_modify(|status| {
            status.head = Some(record.head());
        });
    }

    fn show_apply(
        &self,
        journal: &ApplyJournal,
        at: Timestamp,
        downtime: Option<Duration>,
        took: Duration,
    ) {
        let record = &journal.record;
        let altered = journal.altered();
        if let Some(AlteredEntries { owners, set_id }) = altered {
            tracing::info!(workload = %self.context.workload, cid = %record.cid, owners, set_id,
                "entries were given to the owner of the volume, or lost their set-id bits");
        }
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
                capture: None,
                capture_fallback: None,
                altered,
            });
        });
    }
}

/// Says of a publish that the workload left as a provider that it is a consumer since: it is not to
/// be finished unasked if it becomes a provider again.
fn note_consumed(state: &StateDir) -> std::io::Result<()> {
    match state.publish()? {
        Some(journal) if !journal.consumed_since => {
            state.set_publish(&PublishJournal { consumed_since: true, ..journal })
        }
        Some(_) | None => Ok(()),
    }
}

fn unknown_memory(error: &std::io::Error) -> Stopped {
    Stopped::because(Stage::Validation, format!("what was accepted before is unknown: {error}"))
}

/// Whether an apply stands in the journal that came to no certain end.
fn is_uncertain(state: &StateDir) -> std::io::Result<bool> {
    Ok(state.apply()?.is_some_and(|journal| journal.phase.is_half_way()))
}

/// How the quarantine names what is held back as a record and not for its content.
const RECORD_KEY: &str = "record-";

fn record_key(bytes: &[u8]) -> String {
    format!("{RECORD_KEY}{}", blake3::hash(bytes).to_hex())
}

fn unreadable(bytes: &[u8], error: &dyn std::error::Error) -> ApplyFailure {
    ApplyFailure {
        cid: None,
        quarantine_key: record_key(bytes),
        stopped: Stopped::at(Stage::Validation, error),
    }
}
