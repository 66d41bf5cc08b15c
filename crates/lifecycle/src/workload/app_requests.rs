//! What the app asks for in its system volume: another environment, empty volumes.
//!
//! A request is taken by renaming it, and what it asks for is in the ledger before anything is done
//! and before it is answered. Only this task acts; the look itself is done on a blocking thread.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use belay_protocol::app_request::{
    OVERRIDES_DIR, OverridesApply, OverridesChange, OverridesResponse, OverridesTaken,
    REQUEST_SCHEMA, RESET_DIR, RequestRefused, ResetApply, ResetDone, ResetMode, ResetPreserve,
    ResetResponse, ResetVolumes, RestartPlan,
};
use belay_protocol::control::{
    INVALID_FILE, InvalidRequest, PROCESSING_FILE, RESPONSE_FILE, RequestError, Stage,
};
use belay_protocol::{DesiredState, NodeId, OperationOutcome, Problem, ProblemCode, VolumeName};
use belay_sync::{ControlDir, ControlVolume, DirectoryWatch, Fingerprint, Pending};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::state::State;
use super::steps::RETRY;
use crate::core::app_requests::{self, OverridesPlan, Pace, Refused, ResetPlan};
use crate::core::container::EnvironmentPrint;
use crate::core::environment;
use crate::core::machine::{Renewal, VolumesFact};
use crate::core::record::{OverridesDue, ResetIntent, ResetStage, WorkloadRecord};
use crate::core::spec::WorkloadSpec;
use crate::reporter::Reporter;

/// Least time between two looks: an app that keeps touching its files costs no more than this.
const REST: Duration = Duration::from_millis(100);
/// Time between two looks where the kernel does not tell of new files. Where it does, a look goes
/// with the one at the engine.
const TICK: Duration = Duration::from_secs(5);
/// How long a request that is no JSON yet may stay as it is.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after a look that failed.
const FAULT_PAUSE: Duration = Duration::from_secs(10);

/// The two kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    Overrides,
    Reset,
}

impl Channel {
    const ALL: [Self; 2] = [Self::Overrides, Self::Reset];

    fn directory(self) -> &'static str {
        match self {
            Self::Overrides => OVERRIDES_DIR,
            Self::Reset => RESET_DIR,
        }
    }
}

/// What was seen of the app's requests so far.
#[derive(Debug, Default)]
pub(crate) struct AppRequests {
    /// Hears of new files; without one only the tick is left.
    watches: BTreeMap<Channel, DirectoryWatch>,
    /// When to look next; at once where nothing was looked at since the volumes were mounted.
    due: Option<Instant>,
    looked_at: Option<Instant>,
    /// Whether what an earlier process took was made a request again.
    settled: bool,
    /// Requests that were no JSON yet, and since when they have not changed.
    unfinished: BTreeMap<Channel, (Fingerprint, Instant)>,
    /// What went wrong last, so that it is told once.
    fault: Option<String>,
}

impl AppRequests {
    /// Waits until something is heard of either directory. Says which watch has ended, if one has.
    pub(crate) async fn heard(&mut self) -> Option<Ended> {
        let mut overrides = None;
        let mut reset = None;
        for (channel, watch) in &mut self.watches {
            match channel {
                Channel::Overrides => overrides = Some(watch),
                Channel::Reset => reset = Some(watch),
            }
        }
        tokio::select! {
            alive = changed(overrides) => alive.is_none().then_some(Ended(Channel::Overrides)),
            alive = changed(reset) => alive.is_none().then_some(Ended(Channel::Reset)),
        }
    }

    pub(crate) fn take_hint(&mut self, ended: Option<&Ended>) {
        if let Some(Ended(channel)) = ended {
            self.watches.remove(channel);
        }
        let soon = self.looked_at.map_or_else(Instant::now, |at| at + REST);
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }
}

/// A watch that has ended.
#[derive(Debug)]
pub(crate) struct Ended(Channel);

async fn changed(watch: Option<&mut DirectoryWatch>) -> Option<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// What a look came to.
enum Look {
    Nothing,
    /// Look again after this long.
    Wait(Duration),
    Overrides(OverridesPlan),
    Reset(ResetPlan),
    Refused(Refused),
}

/// Everything that a look needs, to be sent to its thread.
#[derive(Clone)]
struct Lookout {
    control: ControlVolume,
    channel: Channel,
    spec: WorkloadSpec,
    in_force: BTreeMap<String, String>,
    pace: Pace,
    unfinished: Option<(Fingerprint, Instant)>,
    /// Whether a request that was taken and is in no ledger becomes a request again.
    settle: bool,
}

/// A look, and the request that was unfinished at it.
type Looked = (Look, Option<(Fingerprint, Instant)>);

impl Lookout {
    fn judge(&self, bytes: &[u8]) -> Look {
        let judged = match self.channel {
            Channel::Overrides => app_requests::judge_overrides(bytes, &self.spec, &self.in_force)
                .map(Look::Overrides),
            Channel::Reset => app_requests::judge_reset(bytes, &self.spec).map(Look::Reset),
        };
        judged.unwrap_or_else(Look::Refused)
    }

    /// Looks, and takes what is there if it is time. Blocks the thread.
    fn look(&self) -> io::Result<Looked> {
        let Some(dir) = ControlDir::open_in(&self.control, self.channel.directory())? else {
            return Ok((Look::Nothing, None));
        };
        if self.settle {
            dir.unclaim()?;
        }
        let (bytes, print) = match dir.pending()? {
            Pending::Nothing => return Ok((Look::Nothing, None)),
            Pending::Unsafe { what } => {
                let refused = Refused::whole(format!("request.json is {what}, expected a file"));
                return Ok((Look::Refused(refused), None));
            }
            Pending::Request { bytes, print } => (bytes, print),
        };
        let restarts = match self.judge(&bytes) {
            Look::Refused(refused) if refused.unfinished => {
                // Time counts from the last change, so a slow writer is waited for.
                let since = match self.unfinished {
                    Some((seen, since)) if seen == print => since,
                    Some(_) | None => Instant::now(),
                };
                let left = GRACE.saturating_sub(since.elapsed());
                if !left.is_zero() {
                    return Ok((Look::Wait(left), Some((print, since))));
                }
                false
            }
            Look::Overrides(plan) => plan.apply == OverridesApply::RestartNow,
            Look::Reset(_) => true,
            Look::Refused(_) | Look::Nothing | Look::Wait(_) => false,
        };
        if restarts {
            let left = self.pace.wait(Timestamp::now());
            if !left.is_zero() {
                return Ok((Look::Wait(left), None));
            }
        }
        // What was taken is what counts, whatever it was a moment ago.
        let look = match dir.claim() {
            Ok(bytes) => self.judge(&bytes),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Look::Refused(Refused::whole("request.json was replaced while it was taken"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Look::Nothing,
            Err(error) => return Err(error),
        };
        Ok((look, None))
    }
}

/// Opens a channel's directory and does something in it, on a blocking thread.
async fn within<T: Send + 'static>(
    control: &ControlVolume,
    channel: Channel,
    act: impl FnOnce(&ControlDir) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let control = control.clone();
    let done = tokio::task::spawn_blocking(move || {
        let dir = ControlDir::open_in(&control, channel.directory())?;
        act(&dir.ok_or(io::ErrorKind::NotFound)?)
    });
    done.await.map_err(io::Error::other)?
}

/// Answers a request that was taken, and lets go of it.
async fn answer<T: Serialize + Send + 'static>(
    control: &ControlVolume,
    channel: Channel,
    response: T,
    invalid: Option<InvalidRequest>,
) -> io::Result<()> {
    within(control, channel, move |dir| {
        match invalid {
            Some(invalid) => dir.write(INVALID_FILE, &invalid)?,
            None => dir.clear(INVALID_FILE)?,
        }
        dir.write(RESPONSE_FILE, &response)?;
        dir.clear(PROCESSING_FILE)
    })
    .await
}

fn refusal(refused: &Refused, node: &NodeId) -> (RequestRefused, InvalidRequest) {
    let now = Timestamp::now();
    let response = RequestRefused {
        schema_version: REQUEST_SCHEMA,
        stage: Stage::Validation,
        error: refused.error.clone(),
        failed_timestamp: now,
        request_id: refused.request_id.clone(),
    };
    // Everyone in the container may read the file, so what was asked for is not repeated in it.
    let invalid = InvalidRequest {
        request: serde_json::Value::Null,
        error: RequestError {
            stage: Stage::Validation,
            error: refused.error.clone(),
            failed_timestamp: now,
            node_id: node.clone(),
            raw_body: None,
        },
    };
    (response, invalid)
}

impl State {
    /// Whether a look at the requests has its place now: nothing else is under way, and what is
    /// mounted stays so.
    fn may_look(&self) -> bool {
        let idle = |record: &WorkloadRecord| {
            record.run == DesiredState::Running
                && record.previous.is_none()
                && record.removing.is_none()
                && record.halted.is_none()
                && record.reset.is_none()
        };
        self.volumes == VolumesFact::Whole
            && self.pending.is_none()
            && self.window.is_none()
            && self.window_request.is_none()
            && !self.is_read_beside()
            && !self.context.shutdown.is_cancelled()
            && self.known.as_ref().is_some_and(|known| idle(&known.record))
    }

    /// When to look next.
    pub(crate) fn requests_due(&self) -> Option<Instant> {
        self.may_look().then(|| self.requests.due.unwrap_or_else(Instant::now))
    }

    /// Looks at what the app asks for, if it is time, and takes it.
    pub(crate) async fn look_at_requests(&mut self) {
        if self.requests_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let Some(control) = self.layout().map(|layout| layout.control) else { return };
        self.requests.looked_at = Some(Instant::now());
        let mut wait = self.quiet();
        let mut fault = None;
        for channel in Channel::ALL {
            match self.look_at(&control, channel).await {
                Ok(again) => wait = again.map_or(wait, |again| wait.min(again)),
                Err(error) => {
                    fault = Some(format!("{}: {error}", channel.directory()));
                }
            }
            // A reset that was taken stops the container: nothing else is taken before it is done.
            if !self.may_look() {
                break;
            }
        }
        if let Some(fault) =
            fault.as_ref().filter(|fault| self.requests.fault.as_ref() != Some(fault))
        {
            tracing::warn!(workload = %self.name, "what its app asks for cannot be looked at: {fault}");
        }
        if fault.is_some() {
            wait = FAULT_PAUSE;
        }
        self.requests.settled |= fault.is_none();
        self.requests.fault = fault;
        self.requests.due = Some(Instant::now() + wait.max(REST));
        self.listen(&control).await;
    }

    /// Time until the next look if nothing is heard.
    fn quiet(&self) -> Duration {
        let now = Instant::now();
        let hears = Channel::ALL.iter().all(|channel| self.requests.watches.contains_key(channel));
        if hears { self.next_look(now) - now } else { TICK }
    }

    async fn look_at(
        &mut self,
        control: &ControlVolume,
        channel: Channel,
    ) -> io::Result<Option<Duration>> {
        let Some(known) = &self.known else { return Ok(None) };
        let lookout = Lookout {
            control: control.clone(),
            channel,
            spec: known.spec.clone(),
            in_force: known.record.overrides.clone(),
            pace: known.record.app_pace.clone(),
            unfinished: self.requests.unfinished.remove(&channel),
            settle: !self.requests.settled,
        };
        let looked = tokio::task::spawn_blocking(move || lookout.look());
        let (look, unfinished) = looked.await.map_err(io::Error::other)??;
        self.requests.unfinished.extend(unfinished.map(|unfinished| (channel, unfinished)));
        match look {
            Look::Nothing => Ok(None),
            Look::Wait(left) => Ok(Some(left)),
            Look::Refused(refused) => {
                tracing::info!(workload = %self.name, "its app asked in {} for what is refused: {}", channel.directory(), refused.error);
                let (response, invalid) = refusal(&refused, &self.context.node);
                let done = match channel {
                    Channel::Overrides => {
                        let response = OverridesResponse::Error(response);
                        answer(control, channel, response, Some(invalid)).await
                    }
                    Channel::Reset => {
                        let response = ResetResponse::Error(response);
                        answer(control, channel, response, Some(invalid)).await
                    }
                };
                done.map(|()| None)
            }
            Look::Overrides(plan) => self.take_overrides(control, plan).await,
            Look::Reset(plan) => self.take_reset(control, plan).await,
        }
    }

    /// Gives a request back that the ledger could not take: it is looked at again.
    async fn give_back(
        &mut self,
        control: &ControlVolume,
        channel: Channel,
        problem: Problem,
    ) -> io::Result<Option<Duration>> {
        self.note(Err(problem));
        within(control, channel, |dir| dir.unclaim().map(|_| ())).await?;
        Ok(Some(FAULT_PAUSE))
    }

    async fn take_overrides(
        &mut self,
        control: &ControlVolume,
        plan: OverridesPlan,
    ) -> io::Result<Option<Duration>> {
        let requested = plan.apply == OverridesApply::RestartNow;
        let entries: Vec<_> = plan.merged.clone().into_iter().collect();
        let digest = environment::digest(entries.iter());
        let carried = self.target().map(EnvironmentPrint::carried_by);
        let different = carried.is_none_or(|carried| carried.overrides != digest);
        let scheduled = requested && different;
        let now = Timestamp::now();
        let written = self
            .change(|record| {
                record.overrides = plan.merged.clone();
                if scheduled {
                    record.overrides_due = OverridesDue::Now;
                    record.app_pace = record.app_pace.after(now);
                }
            })
            .await;
        if let Err(problem) = written {
            return self.give_back(control, Channel::Overrides, problem).await;
        }
        let names = |names: &[String]| names.join(", ");
        tracing::info!(workload = %self.name, set = names(&plan.set), removed = names(&plan.removed), restart = scheduled, "its app overrides its environment");
        let response = OverridesResponse::Ok(OverridesTaken {
            schema_version: REQUEST_SCHEMA,
            apply: plan.apply,
            restart: RestartPlan { requested, scheduled, deferred: !requested },
            overrides: OverridesChange {
                set: plan.set,
                removed: plan.removed,
                active_count: entries.len(),
            },
            request_id: plan.request_id,
        });
        answer(control, Channel::Overrides, response, None).await.map(|()| None)
    }

    /// Has a container that runs started anew for overrides that are due now.
    pub(crate) fn follow_overrides(&mut self) {
        let Some(known) = &self.known else { return };
        let due = known.record.overrides_due == OverridesDue::Now;
        if !due || !self.may_look() || self.running_incarnation().is_none() {
            return;
        }
        let entries: Vec<_> = known.record.overrides.clone().into_iter().collect();
        let carried = self.target().map(EnvironmentPrint::carried_by).unwrap_or_default();
        if carried.overrides != environment::digest(entries.iter()) {
            self.renewal = Renewal::Wanted;
        }
    }

    /// Notes a reset that the app asked for. It is done by a step of its own, once nothing runs.
    async fn take_reset(
        &mut self,
        control: &ControlVolume,
        plan: ResetPlan,
    ) -> io::Result<Option<Duration>> {
        let now = Timestamp::now();
        let names: Vec<_> = plan.volumes.iter().map(VolumeName::as_str).collect();
        tracing::info!(workload = %self.name, volumes = names.join(", "), "its app asks for empty volumes");
        let written = self
            .change(|record| {
                record.reset = Some(ResetIntent {
                    volumes: plan.volumes.clone(),
                    request_id: plan.request_id.clone(),
                    stage: ResetStage::Emptying,
                });
                record.app_pace = record.app_pace.after(now);
            })
            .await;
        match written {
            Ok(()) => Ok(None),
            Err(problem) => self.give_back(control, Channel::Reset, problem).await,
        }
    }

    /// Does what is left of a reset: empties the volumes, then answers. No container runs.
    pub(crate) async fn reset_for_app(&mut self) {
        let Some(intent) = self.known.as_ref().and_then(|known| known.record.reset.clone()) else {
            return;
        };
        let ResetStage::Emptied { cleared } = intent.stage else {
            match self.empty_volumes(&intent.volumes).await {
                Ok(cleared) => {
                    let stage = ResetStage::Emptied { cleared };
                    let reset = Some(ResetIntent { stage, ..intent });
                    let written = self.change(|record| record.reset = reset).await;
                    self.go_on_if_written(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.pause(RETRY),
                Err(error) => {
                    let problem = Problem::new(
                        ProblemCode::VolumeUnavailable,
                        format!("{}: emptying its volumes failed: {error}", self.name),
                        "it is not started before they are empty, and it is tried again by itself; \
                         belay volume ls shows them",
                    );
                    self.failed(problem, None).await;
                }
            }
            return;
        };
        if let Some(control) = self.layout().map(|layout| layout.control) {
            let names = intent.volumes.iter().map(ToString::to_string);
            let response = ResetResponse::Ok(ResetDone {
                schema_version: REQUEST_SCHEMA,
                mode: ResetMode::Volumes,
                apply: ResetApply::RestartNow,
                reset: ResetVolumes {
                    volumes: names.collect(),
                    cleared_count: cleared,
                    preserved: ResetPreserve::default(),
                },
                restart: RestartPlan { requested: true, scheduled: true, deferred: false },
                request_id: intent.request_id,
            });
            if let Err(error) = answer(&control, Channel::Reset, response, None).await {
                // The app is not held up by its own system volume: it finds its volumes empty.
                tracing::warn!(workload = %self.name, "its reset could not be answered: {error}");
            }
        }
        let written = self.change(|record| record.reset = None).await;
        if written.is_ok() {
            let names: Vec<_> = intent.volumes.iter().map(VolumeName::as_str).collect();
            tracing::info!(workload = %self.name, volumes = names.join(", "), cleared, "emptied");
        }
        self.go_on_if_written(written);
    }

    fn go_on_if_written(&mut self, written: Result<(), Problem>) {
        if let Err(problem) = written {
            self.note(Err(problem));
            self.pause(RETRY);
        }
    }

    async fn empty_volumes(&self, names: &[VolumeName]) -> io::Result<u64> {
        self.disown(names).await?;
        // A volume that the spec in force does not name is not mounted and not the app's any more.
        let mounted = self.mounted.iter().filter(|mounted| names.contains(&mounted.id.volume));
        let directories: Vec<_> = mounted.map(|mounted| mounted.data.clone()).collect();
        let shutdown = self.context.shutdown.clone();
        let emptied = tokio::task::spawn_blocking(move || {
            let mut cleared = 0;
            for directory in directories {
                cleared += belay_sync::empty_directory(&directory, || shutdown.is_cancelled())?;
            }
            Ok(cleared)
        });
        emptied.await.map_err(io::Error::other)?
    }

    async fn listen(&mut self, control: &ControlVolume) {
        for channel in Channel::ALL {
            if self.requests.watches.contains_key(&channel) {
                continue;
            }
            // Made while the directory is held open: a name may mean another one later.
            let runtime = tokio::runtime::Handle::current();
            let watch = within(control, channel, move |dir| {
                let _runtime = runtime.enter();
                DirectoryWatch::new(&dir.pinned_path())
            });
            match watch.await {
                Ok(watch) => {
                    self.requests.watches.insert(channel, watch);
                    // What was written before it began to listen is looked at once more.
                    self.requests.due = Some(Instant::now() + REST);
                }
                Err(error) => {
                    tracing::debug!(workload = %self.name, "no watch on {}: {error}", channel.directory());
                }
            }
        }
    }

    /// Ends all overrides on an operator's word. They end at the next start.
    pub(crate) async fn clear_overrides(&mut self, reporter: Reporter) {
        let Some(known) = &self.known else {
            reporter.finish(Err(self.unknown()));
            return;
        };
        let count = known.record.overrides.len();
        let written = self
            .change(|record| {
                record.overrides.clear();
                record.overrides_due = OverridesDue::NextStart;
            })
            .await;
        // Whoever waits is told after the status, so that what they look at next agrees.
        self.publish_status();
        reporter.finish(written.map(|()| {
            let name = &self.name;
            let summary = match count {
                0 => format!("{name} has no overrides"),
                1 => format!("1 override of {name} ends at its next start: belay restart {name}"),
                more => {
                    format!(
                        "{more} overrides of {name} end at its next start: belay restart {name}"
                    )
                }
            };
            OperationOutcome { summary, publish: None }
        }));
    }
}
