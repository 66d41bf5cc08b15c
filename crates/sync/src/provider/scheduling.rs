//! Publishes by itself, when it is time.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;
use serde_json::Map;

use super::Provider;
use crate::context::{Failure, with_causes};
use crate::core::request::judge_command;
use crate::core::schedule::{Ended, Schedule, Scheduled};
use crate::layout::SyncLayout;
use crate::state::{Origin, PublishJournal, StateDir};
use crate::volume::mount_table;
use crate::window::OfflineWindow;

/// Pause between two looks at a workload that is coming up.
const LOOK: Duration = Duration::from_secs(2);

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Publishes what the schedule says if it is time and nothing else was asked for. Returns how
    /// long to wait before the next look, if less than the poll interval.
    pub(super) async fn keep_schedule(&mut self, layout: &SyncLayout) -> Option<Duration> {
        let (schedule, known) = self.schedule().await?;
        let least = self.context.spec.min_publish_interval;
        let rest =
            self.last_capture.map_or(Duration::ZERO, |at| least.saturating_sub(at.elapsed()));
        let left = schedule.left(&known, Timestamp::now()).max(rest);
        if !left.is_zero() {
            return Some(left);
        }
        if self.is_coming_up().await {
            return Some(LOOK);
        }
        let policy = self.context.spec.capture;
        let paths = schedule.paths.clone();
        let valid = mount_table(layout)
            .map_err(|error| with_causes(&error))
            .and_then(|mounts| judge_command(paths, Map::new(), &mounts, policy));
        match valid {
            Ok(valid) => {
                let journal = self.new_journal(Origin::Schedule, valid.request);
                // What comes of it is in the status.
                let _ = self.work(layout, journal).await;
            }
            Err(reason) => {
                self.context.show_failure(&Failure::new(Stage::Validation, reason));
                self.note(Timestamp::now(), Ended::Badly).await;
            }
        }
        None
    }

    /// Whether the workload is on its way up, and a stop would only make that longer.
    async fn is_coming_up(&self) -> bool {
        let asked = self.context.window.readiness();
        let within = self.context.spec.window_timeout;
        tokio::time::timeout(within, asked).await.ok().flatten().is_none()
    }

    /// Whether it is time for a publish by itself.
    pub(super) async fn is_scheduled(&mut self) -> bool {
        match self.schedule().await {
            Some((schedule, known)) => schedule.left(&known, Timestamp::now()).is_zero(),
            None => false,
        }
    }

    /// Remembers that a publish of the schedule came to its end.
    pub(super) async fn note_scheduled(&mut self, journal: &PublishJournal, ended: Ended) {
        if journal.origin == Origin::Schedule {
            self.note(journal.started, ended).await;
        }
    }

    async fn note(&mut self, began: Timestamp, ended: Ended) {
        let Some((schedule, known)) = self.schedule().await else { return };
        self.keep(schedule.after(&known, began, ended, chance())).await;
    }

    async fn schedule(&mut self) -> Option<(Schedule, Scheduled)> {
        let schedule = self.context.spec.schedule.clone()?;
        if let Some(known) = &self.scheduled {
            return Some((schedule, known.clone()));
        }
        let known = match self.context.stored(StateDir::schedule).await {
            Ok(Some(known)) => schedule.known(known),
            Ok(None) => schedule.first(Timestamp::now(), chance()),
            Err(error) => {
                tracing::warn!(workload = %self.context.workload, %error,
                    "when it published last cannot be read; its schedule begins anew");
                schedule.first(Timestamp::now(), chance())
            }
        };
        self.keep(known.clone()).await;
        Some((schedule, known))
    }

    async fn keep(&mut self, known: Scheduled) {
        let written = known.clone();
        if let Err(error) = self.context.stored(move |state| state.set_schedule(&written)).await {
            tracing::warn!(workload = %self.context.workload, %error,
                "when it publishes next could not be written down");
        }
        let next = Some(known.next);
        self.scheduled = Some(known);
        self.context.status.send_if_modified(|status| {
            let changed = status.next_publish != next;
            status.next_publish = next;
            changed
        });
    }
}

/// A number from 0 to 1 that differs between workloads and moments, for spreading only.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    #[expect(clippy::cast_precision_loss, reason = "32 bits fit an f64 exactly")]
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    share
}
