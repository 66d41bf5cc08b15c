//! What the images say of themselves.

use belay_protocol::{ImageStatus, ImagesStatus, PullStatus};
use jiff::{SignedDuration, Timestamp};

use super::ImagesTask;
use super::flight::left;
use super::port::ImageStore;
use crate::core::images::collection::{Demand, Plan, Stays};

impl<S: ImageStore> ImagesTask<S> {
    /// Looks at everything and shows it.
    pub(super) async fn show(&mut self) {
        let space = self.store.space().await.ok();
        let inventory = self.inventory().await;
        let plan = self.plan_from(&inventory, Demand::Prune).ok();
        let names = inventory.images.unwrap_or_default();
        let mut images: Vec<_> = self
            .records
            .iter()
            .map(|(id, record)| {
                let held = names.iter().find(|image| image.id == *id);
                let status = ImageStatus {
                    id: id.clone(),
                    sources: record.sources.iter().cloned().collect(),
                    names: held.map(|image| image.names.clone()).unwrap_or_default(),
                    size_bytes: record.bytes,
                    fetched_at: record.fetched_at,
                    used_at: record.used_at,
                    users: record.users.keys().cloned().collect(),
                    pinned: record.pinned,
                    stays: stays(plan.as_ref(), id),
                };
                (record.used, status)
            })
            .collect();
        images.sort_by_key(|(used, _)| *used);
        let status = ImagesStatus {
            storage: self.store.directory().display().to_string(),
            free_bytes: space.map_or(0, |space| space.free),
            total_bytes: space.map_or(0, |space| space.total),
            images: images.into_iter().map(|(_, status)| status).collect(),
            foreign: names.iter().filter(|image| !self.records.contains_key(&image.id)).count(),
            pulls: self.pulls(),
        };
        self.board.show_images(status);
    }

    /// Shows how far the pulls are, and nothing else anew.
    pub(super) fn show_pulls(&self) {
        self.board.show_pulls(self.pulls());
    }

    fn pulls(&self) -> Vec<PullStatus> {
        let now = self.clock();
        let mut pulls: Vec<_> = self
            .under_way()
            .map(|(key, progress)| {
                let failed = self.ladders.get(key);
                PullStatus {
                    image: key.source.clone(),
                    layers: progress.layers,
                    layers_here: progress.layers_here,
                    done_bytes: progress.bytes_done,
                    total_bytes: progress.bytes_total,
                    failures: failed.map_or(0, |(ladder, _)| ladder.failures),
                    next_try_at: None,
                    last_error: failed.map(|(_, trouble)| trouble.what.clone()),
                }
            })
            .collect();
        let waiting = self.ladders.iter().filter(|(key, _)| !self.is_under_way(key));
        pulls.extend(waiting.map(|(key, (ladder, trouble))| {
            let wait = SignedDuration::try_from(left(ladder, now)).unwrap_or_default();
            // Whole seconds: the page must not change while nothing does.
            let due = Timestamp::now().checked_add(wait).ok();
            PullStatus {
                image: key.source.clone(),
                layers: 0,
                layers_here: 0,
                done_bytes: 0,
                total_bytes: 0,
                failures: ladder.failures,
                next_try_at: due.and_then(|at| Timestamp::from_second(at.as_second()).ok()),
                last_error: Some(trouble.what.clone()),
            }
        }));
        pulls
    }
}

/// Why an image stays, in words; `None` when a prune would remove it.
fn stays(plan: Option<&Plan>, id: &str) -> Option<String> {
    match plan {
        Some(plan) => plan.stays.get(id).map(because),
        None => Some("what is needed is not known".to_owned()),
    }
}

pub(super) fn because(stays: &Stays) -> String {
    match stays {
        Stays::Foreign => "belayd did not bring it".to_owned(),
        Stays::Named(name) => format!("somebody named it {name}"),
        Stays::Container => "a container is made of it".to_owned(),
        Stays::Needed(workload) => format!("workload {workload} is to run on it"),
        Stays::Previous(workload) => format!("workload {workload} ran on it before"),
        Stays::Pinned => "it is pinned".to_owned(),
        Stays::Leased => "it is about to be used".to_owned(),
        Stays::Unasked => "nobody asked for its space".to_owned(),
    }
}
