//! Deletes what is nobody's: objects of providers that are gone, and of publishes that nobody
//! remembers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_store::{BlobError, BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::deleting::{Deleted, Roots};
use super::retirement::Asking;
use crate::context::Stopped;
use crate::core::sweep::{Unnamed, interval, left};
use crate::state::StateDir;
use crate::window::OfflineWindow;

/// Objects of one listing.
const PAGE: usize = 10_000;
/// Listings of one sweep. What lies beyond them is reached once what comes before is gone.
const PAGES: usize = 100;
/// Objects that one sweep deletes.
const SWEPT_MAX: usize = 1_000;
/// Wait of a process that has just begun: others want the store then.
const FIRST: Duration = Duration::from_mins(1);
/// Least time between two looks whatever the grace, and after one that failed.
const REST: Duration = Duration::from_millis(100);

/// How long after its begin a process looks first.
pub(super) fn first(grace: Duration) -> Duration {
    interval(grace).min(FIRST)
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Sweeps the store if it is time. Nothing of this node is being published now.
    pub(super) async fn sweep_if_due(&mut self) {
        if Instant::now() < self.sweep {
            return;
        }
        let grace = self.context.spec.sweep_grace;
        let wait = match self.sweep().await {
            Ok(wait) => wait,
            Err(stopped) => {
                tracing::warn!(workload = %self.context.workload, ?stopped,
                    "the store could not be swept");
                interval(grace)
            }
        };
        self.sweep = Instant::now() + wait.max(REST);
    }

    /// Sweeps unless that was done lately; says how long it is until the next time.
    async fn sweep(&self) -> Result<Duration, Stopped> {
        let stage = Stage::RecordPublish;
        let grace = self.context.spec.sweep_grace;
        let mut roots = Roots::new();
        self.end_left_asides(&mut roots).await?;
        // Who is fenced has no say in what of the key is kept.
        if self.context.status.borrow().fenced.is_some() {
            return Ok(interval(grace));
        }
        let known = self.context.stored(StateDir::unnamed).await.unwrap_or_else(|error| {
            tracing::warn!(workload = %self.context.workload, %error,
                "what was found unnamed in the store cannot be read, and is looked for anew");
            None
        });
        let now = Timestamp::now();
        if let Some(known) = &known {
            let wait = left(known.looked, now, grace);
            if !wait.is_zero() {
                return Ok(wait);
            }
        }
        let named = self.needed(Asking::Sweep, &mut roots).await?;
        let mut unnamed = Unnamed::after(known, now, self.unnamed(&named).await?);
        // Written down before anything is deleted, so that no look is forgotten for a failure.
        self.note_unnamed(&unnamed, stage).await?;
        let due = unnamed.due(now, grace, SWEPT_MAX);
        if !due.is_empty() {
            let deleted = self.delete_all(&due, &named, Asking::Sweep, &mut roots).await?;
            for (id, deleted) in due.iter().zip(deleted) {
                match deleted {
                    Deleted::Gone => {
                        tracing::info!(workload = %self.context.workload, object = %id,
                            "deleted what no record named");
                        unnamed.since.remove(id);
                    }
                    Deleted::Needed => {
                        unnamed.since.remove(id);
                    }
                    Deleted::Failed(error) => tracing::warn!(workload = %self.context.workload,
                        object = %id, error, "what no record names stays in the store"),
                }
            }
            self.note_unnamed(&unnamed, stage).await?;
        }
        Ok(interval(grace))
    }

    /// What the store has beside these.
    async fn unnamed(&self, named: &BTreeSet<Cid>) -> Result<Vec<Cid>, Stopped> {
        let stage = Stage::RecordPublish;
        let (mut unnamed, mut after) = (Vec::new(), None);
        for _ in 0..PAGES {
            let page = self
                .context
                .exchange(stage, BlobError::is_retryable, || self.context.store.list(after, PAGE))
                .await?
                .map_err(|error| Stopped::at(stage, &error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            unnamed.extend(page.iter().map(|entry| entry.id).filter(|id| !named.contains(id)));
        }
        Ok(unnamed)
    }

    async fn note_unnamed(&self, unnamed: &Unnamed, stage: Stage) -> Result<(), Stopped> {
        let unnamed = unnamed.clone();
        let noted = self.context.stored(move |state| state.set_unnamed(&unnamed)).await;
        noted.map_err(|error| Stopped::at(stage, &error))
    }
}
