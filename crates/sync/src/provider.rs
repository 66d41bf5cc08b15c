//! The provider: from a request to a confirmed record.
//!
//! A publish is a journal that moves forward: claimed, captured, publishing, published. Each step
//! is written down before the next begins, so that a process that finds the journal goes on where
//! the last one stopped, under the same publish id, and the store's own log tells whether the
//! record was already set.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use belay_protocol::control::{AppRequest, Stage};
use belay_protocol::{ProblemCode, PublishOutcome};
use belay_store::{BlobStore, RecordStore};
use capturing::Taken;
use jiff::Timestamp;
use look::Look;
use putting_off::PutOff;
use tokio::task::JoinHandle;

use crate::command::{PublishCommand, PublishError};
use crate::commit;
use crate::context::{Context, Failure, Stopped, with_causes};
use crate::control::{ControlDir, Fingerprint};
use crate::core::request::judge_command;
use crate::core::schedule::{Ended, Scheduled};
use crate::core::terms::Terms;
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::node_key::NodeKey;
use crate::state::{Origin, PublishJournal, PublishStep, StateDir, Unchanged};
use crate::volume::{Volumes, mount_table};
use crate::window::OfflineWindow;

mod answer;
mod bases;
mod capturing;
mod deleting;
mod fleet;
mod importing;
mod live;
mod look;
mod moment;
mod packing;
mod putting_off;
mod retirement;
mod scheduling;
mod storing;
mod sweeping;
mod takeover;
mod unchanged;

/// A request that ended this many processes is answered as failed.
const ATTEMPTS_MAX: u32 = 3;
/// Captures of one request by one process: an archive that is damaged each time says that the disk
/// is, and each costs the app a stop.
const CAPTURES_MAX: u32 = 3;
/// Looks at which an answer that could not be left is tried again; the app can make it fail.
const ANSWERS_MAX: u32 = 10;

/// Publishes one workload's state.
pub(crate) struct Provider<S, W> {
    context: Arc<Context<S, W>>,
    key: NodeKey,
    /// A request that is not JSON yet, and since when it has been so.
    unfinished: Option<(Fingerprint, Instant)>,
    last_capture: Option<Instant>,
    /// When the app last handed in something, whatever came of it.
    last_request: Option<Instant>,
    /// How far its schedule is, once that was read.
    scheduled: Option<Scheduled>,
    /// A publish whose outcome is not known yet, which the store does not take now, or whose answer
    /// could not be left.
    unsettled: Option<PublishJournal>,
    /// What is shown of it, and when it is offered again, if the store does not take it now.
    put_off: Option<PutOff>,
    /// Whether the store took something since this was looked at last.
    stored: AtomicBool,
    /// Times in a row that the answer to it could not be left.
    unanswered: u32,
    /// When it was looked up last what consumers acknowledge.
    fleet_seen: Option<Instant>,
    /// A container that was stopped for a capture and is coming up again.
    coming_up: Option<JoinHandle<Option<u64>>>,
    /// When it is looked whether the store is to be swept.
    sweep: Instant,
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// A provider that signs with `key`.
    pub(crate) fn new(context: Arc<Context<S, W>>, key: NodeKey) -> Self {
        let sweep = Instant::now() + sweeping::first(context.spec.sweep_grace);
        Self {
            context,
            key,
            unfinished: None,
            last_capture: None,
            last_request: None,
            scheduled: None,
            unsettled: None,
            put_off: None,
            stored: AtomicBool::new(false),
            unanswered: 0,
            fleet_seen: None,
            coming_up: None,
            sweep,
        }
    }

    /// Goes on with what an earlier process left, or makes its claim undone.
    pub(crate) async fn resume(&mut self, layout: &SyncLayout) {
        self.unsettled = None;
        self.put_off = None;
        self.forget_apply(layout).await;
        if let Err(error) = self.settle_takeover().await {
            tracing::warn!(workload = %self.context.workload, ?error,
                "it is not known yet what came of a takeover");
        }
        self.show_known_fence().await;
        let journal = match self.context.stored(StateDir::publish).await {
            Ok(journal) => journal,
            Err(error) => {
                // Unreadable, so it names nothing that could be answered or finished.
                tracing::error!(workload = %self.context.workload, %error,
                    "the journal of a publish cannot be read and is put aside");
                let _ = self.context.stored(StateDir::clear_publish).await;
                None
            }
        };
        let kept = journal.as_ref().and_then(|journal| match &journal.step {
            PublishStep::Captured { spool, .. } | PublishStep::Publishing { spool, .. } => {
                Some(spool.clone())
            }
            PublishStep::Claimed | PublishStep::Published { .. } | PublishStep::Failed { .. } => {
                None
            }
        });
        self.context.sweep_spool(kept).await;
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
        if !self.is_settled(layout).await {
            return self.is_put_off().map(|(left, _)| left);
        }
        match self.look(layout).await {
            Ok(Look::Nothing) => {
                self.show_fleet().await;
                let wait = self.keep_schedule(layout).await;
                self.sweep_if_due().await;
                wait
            }
            Ok(Look::Wait(wait)) => Some(wait),
            Ok(Look::Refused(refused)) => {
                let failure = Failure::new(Stage::Validation, refused.error.clone());
                self.context.show_failure(&failure);
                self.last_request = Some(Instant::now());
                self.refuse(layout, &refused).await;
                // What is no request holds up nothing else.
                self.keep_schedule(layout).await
            }
            Ok(Look::Request(valid)) => {
                self.last_request = Some(Instant::now());
                self.last_capture = self.last_request;
                let journal = self.new_journal(Origin::App, valid.request);
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

    /// Looks whether there is a request without taking it, and says what waits. What was begun
    /// before is brought to its end.
    pub(crate) async fn waiting(&mut self, layout: &SyncLayout) -> Option<String> {
        if !self.is_settled(layout).await {
            let says = self.is_put_off().map(|(_, says)| says);
            return Some(says.unwrap_or("a publish whose outcome is not known yet").to_owned());
        }
        self.show_fleet().await;
        let control = layout.control.clone();
        let look = tokio::task::spawn_blocking(move || {
            let control = ControlDir::open(&control)?;
            control.map_or(Ok(false), |control| control.has_request())
        });
        match look.await {
            Ok(Ok(true)) => Some("a request of the app".to_owned()),
            Ok(Ok(false)) if self.is_scheduled().await => {
                Some("the publish of its schedule".to_owned())
            }
            Ok(Ok(false)) | Err(_) => None,
            Ok(Err(error)) => {
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
        let valid = mount_table(layout).map_err(|error| with_causes(&error)).and_then(|mounts| {
            let policy = self.context.spec.capture;
            judge_command(command.archive_paths, command.metadata, &mounts, policy)
        });
        let valid = valid.map_err(|reason| {
            let failure = Failure::new(Stage::Validation, reason);
            self.context.show_failure(&failure);
            PublishError::from(failure)
        })?;
        if !self.settle(layout).await {
            return Err(PublishError::Busy);
        }
        let journal = self.new_journal(Origin::Command, valid.request);
        Ok(self.work(layout, journal).await?)
    }

    /// Takes a publish from where its journal stands to its answer.
    async fn work(
        &mut self,
        layout: &SyncLayout,
        mut journal: PublishJournal,
    ) -> Result<PublishOutcome, Stopped> {
        let result = self.advance(layout, &mut journal).await;
        if let Some(downtime) = self.came_up().await
            && let Some(capture) = journal.step.capture_mut()
        {
            capture.downtime_ms = Some(downtime);
        }
        self.context.show_rest();
        match &result {
            Err(Stopped::Failed(failure) | Stopped::Unreachable(failure)) => {
                self.end_put_off();
                self.context.show_failure(failure);
                self.note_scheduled(&journal, Ended::Badly).await;
                self.abandon(layout, journal, failure).await;
            }
            Err(Stopped::Later { reason }) => {
                // What is put off has shown itself.
                if self.put_off.is_none() {
                    let failure = Failure::new(Stage::RecordPublish, reason.clone());
                    self.context.show_failure(&failure);
                }
                self.unsettled = Some(journal);
            }
            Ok(_) => {
                self.end_put_off();
                self.context.status.send_modify(|status| status.last_failure = None);
            }
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
        let mut captures = 0;
        self.leave_if_outdated(journal).await?;
        match journal.step {
            PublishStep::Claimed | PublishStep::Captured { .. } if journal.away.is_none() => {
                self.write_down(journal, Stage::Validation).await?;
            }
            // What is written down already stands, and to fail for want of another copy would be
            // to deny what may have happened.
            PublishStep::Claimed
            | PublishStep::Captured { .. }
            | PublishStep::Publishing { .. }
            | PublishStep::Published { .. }
            | PublishStep::Failed { .. } => {}
        }
        reached(Point::ClaimJournalled);
        loop {
            match journal.step.clone() {
                PublishStep::Claimed if journal.origin == Origin::Import => {
                    let reason = "what was unpacked is damaged in the spool; import it again";
                    return Err(Stopped::because(Stage::ArchiveBuild, reason));
                }
                PublishStep::Claimed => {
                    captures += 1;
                    if captures > CAPTURES_MAX {
                        let reason = "the captured archive was damaged each time";
                        return Err(Stopped::because(Stage::ArchiveBuild, reason));
                    }
                    // A node that cannot sign stops nothing for it.
                    self.publisher(Stage::Validation).await?;
                    self.look_who_publishes().await?;
                    journal.step = match self.capture(layout, journal).await? {
                        Taken::Spooled(spool, capture) => PublishStep::Captured { spool, capture },
                        Taken::Said(capture, record) => PublishStep::Published {
                            capture,
                            record,
                            at: Timestamp::now(),
                            unchanged: Unchanged::SameRecord,
                        },
                    };
                    self.write_down(journal, Stage::ArchiveBuild).await?;
                    reached(Point::CaptureJournalled);
                }
                PublishStep::Captured { spool, capture } => {
                    journal.step = match self.upload(journal, &spool, &capture).await {
                        Ok(Some(step)) => step,
                        // The archive did not survive; the app's state is still there.
                        Ok(None) => PublishStep::Claimed,
                        Err(Stopped::Unreachable(failure)) => {
                            return Err(self.put_off(journal, failure).await);
                        }
                        Err(stopped) => return Err(stopped),
                    };
                    journal.away = None;
                    self.end_put_off();
                    self.write_down(journal, Stage::RecordPublish).await?;
                    reached(Point::RecordJournalled);
                }
                PublishStep::Publishing { spool, capture, record } => {
                    let set = self.set_record(journal, &capture, *record).await;
                    // The record may have been set, by this process or by one before it; only the
                    // store can tell, and it is asked again.
                    let record = set.map_err(asked_again)?;
                    self.keep_stored(&record, &spool, &capture).await.map_err(asked_again)?;
                    self.remember(&spool, &record.manifest).await;
                    let step = PublishStep::Published {
                        capture,
                        record: Box::new(record),
                        at: Timestamp::now(),
                        unchanged: Unchanged::NewRecord,
                    };
                    journal.step = step;
                    // From here nothing fails the publish: it happened.
                    if let Err(error) = self.write_down(journal, Stage::RecordPublish).await {
                        tracing::warn!(?error, "a confirmed publish could not be journalled");
                    }
                    self.discard(spool).await;
                    reached(Point::PublishJournalled);
                }
                PublishStep::Failed { stage, reason, .. } => {
                    return Err(Stopped::because(stage, reason));
                }
                PublishStep::Published { mut capture, record, at, unchanged } => {
                    if let Some(downtime) = self.came_up().await {
                        capture.downtime_ms = Some(downtime);
                    }
                    self.note_scheduled(journal, Ended::Well).await;
                    let outcome =
                        self.conclude(layout, journal, &capture, &record, at, unchanged).await;
                    self.show_publish(&capture, &record, at, started.elapsed());
                    self.retire().await;
                    self.fleet_seen = None;
                    return Ok(outcome);
                }
            }
        }
    }

    /// What a publish that begins now is begun under.
    fn terms(&self) -> Terms {
        let spec = &self.context.spec;
        let sealed = spec.sealing.as_ref().map(|sealing| {
            let members = sealing.members.iter().map(ToString::to_string).collect();
            (sealing.identity.as_path(), members)
        });
        Terms::new(&spec.key, sealed)
    }

    fn new_journal(&self, origin: Origin, request: AppRequest) -> PublishJournal {
        let started = Timestamp::now();
        let body = serde_json::to_vec(&request).unwrap_or_default();
        PublishJournal {
            publish_id: publish_id(&self.context.node, started, &body),
            origin,
            request,
            started,
            attempts: 1,
            uploaded: None,
            away: None,
            terms: Some(self.terms()),
            consumed_since: false,
            step: PublishStep::Claimed,
        }
    }

    /// Fails a publish that was begun under another key, for other members or in another role. One
    /// that happened nevertheless is one that happened.
    async fn leave_if_outdated(&self, journal: &mut PublishJournal) -> Result<(), Stopped> {
        let terms = journal.terms.as_ref();
        let outdated = terms.and_then(|terms| terms.outdated(&self.terms()));
        let consumed = journal.consumed_since.then(|| {
            "the workload was a consumer since the publish was begun; ask again".to_owned()
        });
        let Some(reason) = outdated.or(consumed) else { return Ok(()) };
        let (spool, capture, record) = match &journal.step {
            PublishStep::Published { .. } | PublishStep::Failed { .. } => return Ok(()),
            PublishStep::Claimed | PublishStep::Captured { .. } => {
                return Err(Stopped::coded(
                    Stage::Validation,
                    ProblemCode::PublishOutdated,
                    reason,
                ));
            }
            PublishStep::Publishing { spool, capture, record } => (spool, capture, record),
        };
        let set = self.published_before(&record.key, &journal.publish_id).await;
        let Some(record) = set.map_err(asked_again)? else {
            return Err(Stopped::coded(Stage::Validation, ProblemCode::PublishOutdated, reason));
        };
        let (spool, capture) = (spool.clone(), capture.clone());
        let (record, at, unchanged) = (Box::new(record), Timestamp::now(), Unchanged::NewRecord);
        journal.step = PublishStep::Published { capture, record, at, unchanged };
        if let Err(error) = self.write_down(journal, Stage::RecordPublish).await {
            tracing::warn!(?error, "a confirmed publish could not be journalled");
        }
        self.discard(spool).await;
        Ok(())
    }

    /// Works on what is not settled yet, if it is time for that; false if it still is not.
    async fn is_settled(&mut self, layout: &SyncLayout) -> bool {
        if self.is_put_off().is_some() {
            self.show_put_off();
            return false;
        }
        self.settle(layout).await
    }

    /// The same at once: somebody asks, who may know that the store is back.
    async fn settle(&mut self, layout: &SyncLayout) -> bool {
        if let Some(journal) = self.unsettled.take() {
            // The answer is left by file, or its caller was told that it is not known.
            let _ = self.work(layout, journal).await;
        }
        self.unsettled.is_none()
    }

    /// Clears away what an apply left in a workload that has become a provider since.
    async fn forget_apply(&self, layout: &SyncLayout) {
        let layout = layout.clone();
        let forgotten = self.context.stored(move |state| {
            let Some(_lock) = state.lock()? else { return Ok(()) };
            match state.apply()? {
                Some(journal) if !journal.phase.is_half_way() => {
                    let volumes = Volumes::open(&layout).map_err(io::Error::other)?;
                    commit::sweep(&volumes, &[])?;
                    state.clear_apply()
                }
                Some(_) | None => Ok(()),
            }
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(workload = %self.context.workload, %error,
                "what an apply left could not be cleared away");
        }
    }

    async fn discard(&self, spool: String) {
        let spools = self.context.spool.clone();
        // What stays is swept at the next start.
        let _ = tokio::task::spawn_blocking(move || spools.discard(&spool)).await;
    }

    async fn write_down(&self, journal: &PublishJournal, stage: Stage) -> Result<(), Stopped> {
        let journal = journal.clone();
        let written = self.context.stored(move |state| state.set_publish(&journal)).await;
        written.map_err(|error| {
            Stopped::because(stage, format!("the publish could not be journalled: {error}"))
        })
    }
}

impl From<Failure> for PublishError {
    fn from(Failure { stage, code, reason }: Failure) -> Self {
        Self::Failed { stage, code, reason }
    }
}

impl From<Stopped> for PublishError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(failure) | Stopped::Unreachable(failure) => failure.into(),
            Stopped::Later { reason } => Self::GoesOn { reason },
            Stopped::Shutdown => Self::ShuttingDown,
        }
    }
}

/// Where a record may have been set only the store can tell, and it is asked until it does.
fn asked_again(stopped: Stopped) -> Stopped {
    match stopped {
        Stopped::Unreachable(failure) => Stopped::Later { reason: failure.reason },
        other => other,
    }
}

/// Names one act of publishing.
fn publish_id(node: &belay_protocol::NodeId, started: Timestamp, what: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.as_str().as_bytes());
    hasher.update(&started.as_nanosecond().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(what);
    data_encoding::HEXLOWER.encode(&hasher.finalize().as_bytes()[..16])
}
