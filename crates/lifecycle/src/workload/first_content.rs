//! A consumer that is not started before its volumes hold content of its key.

use std::time::Duration;

use belay_engine::Liveness;
use belay_protocol::event::ContentWaitEnd;
use belay_protocol::{DesiredState, EventDetails, FirstContentStatus, VolumeName, WorkloadPhase};
use jiff::Timestamp;
use tokio::time::Instant;

use super::state::{Known, State};
use crate::core::first_content::{self, ContentWait, FirstContent, Held};
use crate::core::machine::{ContentFact, VolumesFact};
use crate::core::spec::SyncDeclaration;
use crate::problems;

/// A wait is looked at again after so long, however far its end is.
const LONGEST_REST: Duration = Duration::from_hours(1);

impl State {
    /// Looks whether the volumes hold what a start waits for, where a start may be next.
    pub(crate) async fn see_content(&mut self) {
        let Some(Known { record, spec }) = &self.known else { return };
        let known = record.content_wait.clone();
        let Some(sync) = spec.sync.clone() else {
            self.keep_content_wait(None).await;
            return;
        };
        if sync.first_content == FirstContent::NotAwaited {
            self.keep_content_wait(None).await;
            return;
        }
        if !self.may_start_next() {
            return;
        }
        let Some(layout) = self.layout() else { return };
        let held = match belay_sync::carries(&layout, &sync.key).await {
            Ok(true) => Held::Content,
            Ok(false) => Held::Nothing,
            Err(error) => {
                tracing::warn!(workload = %self.name, "{}", problems::with_causes(&error));
                Held::Nothing
            }
        };
        let SyncDeclaration { key, first_content: rule, .. } = sync;
        let now = Timestamp::now();
        let wait = first_content::after_look(rule, &key, known.as_ref(), held, now);
        if let Some(wait @ ContentWait { ended: Some(ContentWaitEnd::Time), .. }) = &wait
            && known.as_ref() != Some(wait)
        {
            self.tell_content_wait_ended(wait, ContentWaitEnd::Time);
        }
        self.keep_content_wait(wait).await;
    }

    /// Whether nothing but a start may follow: then the marks in the volumes say what they hold.
    fn may_start_next(&self) -> bool {
        let Some(Known { record, .. }) = &self.known else { return false };
        let down = self.seen.is_some()
            && self
                .target()
                .is_none_or(|container| container.state.liveness() == Liveness::Stopped);
        down && self.volumes == VolumesFact::Whole
            && self.window.is_none()
            && self.window_request.is_none()
            && record.run == DesiredState::Running
            && record.removing.is_none()
            && record.halted.is_none()
            && record.reset.is_none()
    }

    async fn keep_content_wait(&mut self, wait: Option<ContentWait>) {
        self.keep(|record| record.content_wait = wait).await;
    }

    /// Whether a start has to wait for content.
    pub(crate) fn content_fact(&self) -> ContentFact {
        let known = self.known.as_ref();
        first_content::fact(known.and_then(|known| known.record.content_wait.as_ref()))
    }

    /// Whether it is down and waits for content.
    pub(crate) fn awaits_content(&self) -> bool {
        self.content_fact() == ContentFact::Awaited && self.running_incarnation().is_none()
    }

    /// Whether content is all that its start waits for.
    pub(crate) fn rests_for_content(&self) -> bool {
        self.phase == WorkloadPhase::Waiting && self.awaits_content() && self.awaited.is_empty()
    }

    /// The record of a start that does not wait for content.
    pub(crate) fn content_ignored(&self) -> Option<ContentWait> {
        let Known { record, spec } = self.known.as_ref()?;
        let sync = spec.sync.as_ref()?;
        let known = record.content_wait.as_ref();
        first_content::ignored(sync.first_content, &sync.key, known, Timestamp::now())
    }

    /// Tells that it is started without what it waited for.
    pub(crate) fn tell_content_wait_ended(&self, wait: &ContentWait, by: ContentWaitEnd) {
        let waited = first_content::waited(wait, Timestamp::now());
        let why = match by {
            ContentWaitEnd::Time => "the time that its spec gives is over",
            ContentWaitEnd::Operator => "an operator said so",
        };
        let message =
            format!("{} waits no more for the first content of {}: {why}", self.name, wait.key);
        tracing::warn!(workload = %self.name, "{message}");
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.tell(message, EventDetails::ContentWaitEnded { by, waited_ms });
    }

    /// When a wait ends by itself.
    pub(crate) fn content_due(&self) -> Option<Instant> {
        let Known { record, spec } = self.known.as_ref()?;
        let rule = spec.sync.as_ref()?.first_content;
        let until = first_content::until(rule, record.content_wait.as_ref()?)?;
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        Some(Instant::now() + left.min(LONGEST_REST))
    }

    /// Why it is not started yet, in one line.
    pub(crate) fn content_sentence(&self) -> String {
        let wait = self.known.as_ref().and_then(|known| known.record.content_wait.as_ref());
        let Some(wait) = wait else { return String::new() };
        let sync = self.sync.as_ref().map(|sync| sync.status.borrow().clone());
        first_content::sentence(&wait.key, sync.as_ref())
    }

    /// What the status shows of a wait.
    pub(crate) fn content_status(&self) -> Option<FirstContentStatus> {
        let Known { record, spec } = self.known.as_ref().filter(|_| self.awaits_content())?;
        let wait = record.content_wait.as_ref()?;
        let rule = spec.sync.as_ref()?.first_content;
        let sync = self.sync.as_ref().map(|sync| sync.status.borrow().clone());
        Some(FirstContentStatus {
            since: wait.since,
            until: first_content::until(rule, wait),
            why: first_content::why(&wait.key, sync.as_ref()),
        })
    }

    /// What whoever waits for a start is told: it is done as far as it can be.
    pub(crate) fn rest_summary(&self, how: &str) -> String {
        let generations = self.known.as_ref().map(|Known { record, .. }| {
            (record.generation, record.previous.as_ref().map(|previous| previous.generation))
        });
        let meanwhile = match generations {
            Some((generation, Some(previous))) => {
                format!("; generation {previous} stays until then, for generation {generation}")
            }
            Some((_, None)) | None => String::new(),
        };
        format!(
            "{} is {how} and not running yet: {}{meanwhile}; belay start {} --without-content \
             starts it as it is",
            self.name,
            self.content_sentence(),
            self.name
        )
    }

    /// Takes the marks from volumes that are about to be emptied, where a start waits for content.
    pub(crate) async fn disown(&self, volumes: &[VolumeName]) -> std::io::Result<()> {
        let sync = self.known.as_ref().and_then(|known| known.spec.sync.as_ref());
        let waits = sync.is_some_and(|sync| sync.first_content != FirstContent::NotAwaited);
        let Some(layout) = self.layout().filter(|_| waits) else { return Ok(()) };
        belay_sync::disown(&layout, volumes).await.map_err(std::io::Error::other)
    }
}
