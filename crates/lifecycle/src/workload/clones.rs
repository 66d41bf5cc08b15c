//! Keeps the state of a workload's volumes at one moment, for its volume-sync.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;

use belay_protocol::{VolumeName, WorkloadName};
use belay_sync::{App, CloneAnswer, CloneRefused, VolumeClones};
use belay_volumes::{GenerationError, GenerationName, VolumeId, Volumes};

use crate::problems;

/// The volumes of one workload, as far as their clones go.
#[derive(Debug)]
pub(crate) struct WorkloadClones {
    pub(crate) workload: WorkloadName,
    pub(crate) volumes: Volumes,
}

impl WorkloadClones {
    fn id(&self, volume: VolumeName) -> VolumeId {
        VolumeId { workload: self.workload.clone(), volume }
    }

    fn ids(&self, volumes: Vec<VolumeName>) -> BTreeSet<VolumeId> {
        volumes.into_iter().map(|volume| self.id(volume)).collect()
    }
}

fn answer<T>(
    work: impl Future<Output = Result<T, GenerationError>> + Send + 'static,
) -> CloneAnswer<T> {
    Box::pin(async {
        work.await.map_err(|error| CloneRefused { reason: problems::with_causes(&error) })
    })
}

impl VolumeClones for WorkloadClones {
    fn prepare(&self, volumes: Vec<VolumeName>) -> CloneAnswer<()> {
        let (ids, volumes) = (self.ids(volumes), self.volumes.clone());
        answer(async move {
            let name = GenerationName::passing();
            for id in &ids {
                // One that could not be given back would be in the way.
                volumes.unmount_generation(id, &name).await?;
            }
            volumes.prepare_generations(ids, &name).await
        })
    }

    fn take(&self, volumes: Vec<VolumeName>, app: App) -> CloneAnswer<()> {
        let (ids, volumes) = (self.ids(volumes), self.volumes.clone());
        answer(async move {
            let name = GenerationName::passing();
            match app {
                App::Runs => volumes.keep_generations(ids, &name).await.map(drop),
                App::Stopped => volumes.keep_generations_at_rest(ids, &name).await.map(drop),
            }
        })
    }

    fn open(&self, volume: VolumeName) -> CloneAnswer<PathBuf> {
        let (id, volumes) = (self.id(volume), self.volumes.clone());
        answer(async move {
            let mounted = volumes.mount_generation(&id, &GenerationName::passing()).await?;
            Ok(mounted.data)
        })
    }

    fn discard(&self, volume: VolumeName) -> CloneAnswer<()> {
        let (id, volumes) = (self.id(volume), self.volumes.clone());
        answer(async move {
            let name = GenerationName::passing();
            volumes.unmount_generation(&id, &name).await?;
            volumes.delete_generation(&id, &name).await
        })
    }
}
