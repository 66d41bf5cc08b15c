//! Removing containers of this installation that belong to no workload.
//!
//! There is one way to such a container: a creation that was given up on and that the engine
//! finished after its workload was removed. It is dead, and nobody else will ever remove it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Container, Liveness, Removal, labels};
use tokio::time::Instant;

use crate::context::Context;
use crate::core::record::{TABLE, WorkloadRecord};
use crate::core::sweep::{Orphan, Sweep, SweepStep};
use crate::problems::with_causes;

/// Least time between two looks, however short the grace.
const LEAST: Duration = Duration::from_secs(1);

/// The task that sweeps.
#[derive(Debug)]
pub(super) struct SweepTask {
    context: Arc<Context>,
    sweep: Sweep,
    born: Instant,
}

impl SweepTask {
    /// To be begun once the containers of lost records were adopted: until then they look like
    /// orphans.
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), sweep: Sweep::default(), born: Instant::now() }
    }

    pub(super) async fn run(mut self) {
        let pause = (self.context.orphan_grace / 2).max(LEAST);
        let ending = self.context.shutdown.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ending.cancelled() => return,
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let filter = format!("{}={}", labels::INSTANCE, self.context.instance);
        let Ok(found) = self.context.engine.list(&[filter]).await else {
            self.sweep.forget();
            return;
        };
        // Each read of the ledger dirties its index on the disk, so it is asked about those only
        // of which the status knows nothing.
        let shown = self.shown();
        let owned = if found.iter().all(|container| is_owned(container, &shown)) {
            Some(shown)
        } else {
            self.owned().await
        };
        let Some(owned) = owned else {
            self.sweep.forget();
            return;
        };
        let orphans: Vec<_> = found
            .iter()
            .filter(|container| !is_owned(container, &owned))
            .map(|found| Orphan { id: found.id.to_string(), liveness: found.state.liveness() })
            .collect();
        let grace = self.context.orphan_grace;
        for step in self.sweep.look(self.born.elapsed(), grace, &orphans) {
            match step {
                SweepStep::Remove { id } => self.remove(&id).await,
                SweepStep::Report { id } => tracing::warn!(
                    container = %id,
                    "carries this node's label, belongs to no workload and runs; it is left alone: \
                     end and remove it by hand"
                ),
            }
        }
    }

    /// Names of the workloads that the status shows.
    fn shown(&self) -> BTreeSet<String> {
        let page = self.context.board.subscribe();
        let shown = page.borrow();
        shown.workloads.iter().map(|workload| workload.name.to_string()).collect()
    }

    /// Names of the workloads that have a record; `None` when that cannot be told.
    async fn owned(&self) -> Option<BTreeSet<String>> {
        let loaded = self.context.ledger.load::<WorkloadRecord>(TABLE).await.ok()?;
        let set_aside = loaded.set_aside.into_iter().map(|lost| lost.key);
        Some(loaded.records.into_keys().chain(set_aside).collect())
    }

    /// Removes an orphan, if it is still one: a record may have been written since the look.
    async fn remove(&self, id: &str) {
        let Some(owned) = self.owned().await else { return };
        let Ok(Some(found)) = self.context.engine.inspect(id).await else { return };
        if is_owned(&found, &owned) || found.state.liveness() != Liveness::Stopped {
            return;
        }
        match self.context.engine.remove(id, Removal::Stopped).await {
            Ok(()) => tracing::warn!(
                container = %found.name,
                "carries this node's label, belongs to no workload and is removed"
            ),
            Err(error) => tracing::warn!(container = %found.name, "{}", with_causes(&error)),
        }
    }
}

fn is_owned(container: &Container, owned: &BTreeSet<String>) -> bool {
    container.labels.get(labels::WORKLOAD).is_some_and(|name| owned.contains(name))
}
