//! The first look at the engine after belayd's start, shared by all workloads.

use std::time::Duration;

use belay_engine::{Container, Engine, labels};
use belay_protocol::WorkloadName;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How old what was seen may be; a workload that comes later looks for itself.
const FRESH: Duration = Duration::from_secs(5);

/// Lists all containers of this installation once, for whoever asks first, instead of once for each
/// workload: fifty of them would have the engine list fifty containers fifty times.
#[derive(Debug, Default)]
pub(crate) struct FirstLook(OnceCell<Option<(Instant, Vec<Container>)>>);

impl FirstLook {
    /// All containers of this installation; `None` when the engine could not say, or what it said
    /// is old by now.
    pub(crate) async fn all(&self, engine: &Engine, instance: &str) -> Option<&[Container]> {
        let looked = self.0.get_or_init(|| async {
            let filter = format!("{}={instance}", labels::INSTANCE);
            let began = Instant::now();
            engine.list(&[filter]).await.ok().map(|found| (began, found))
        });
        let (began, found) = looked.await.as_ref()?;
        (began.elapsed() <= FRESH).then_some(found)
    }

    /// Those of one workload.
    pub(crate) async fn of(
        &self,
        engine: &Engine,
        instance: &str,
        workload: &WorkloadName,
    ) -> Option<Vec<Container>> {
        let all = self.all(engine, instance).await?;
        let is_its = |container: &&Container| {
            container.labels.get(labels::WORKLOAD).is_some_and(|name| name == workload.as_str())
        };
        Some(all.iter().filter(is_its).cloned().collect())
    }
}
