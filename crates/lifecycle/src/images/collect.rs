//! Carrying out a collection: one removal at a time, from an inventory taken anew before each.

use std::collections::BTreeSet;

use belay_engine::ImageEntry;
use belay_protocol::event::ImageRemoved;
use jiff::Timestamp;

use super::ImagesTask;
use super::port::ImageStore;
use crate::core::images::collection::{
    self, Demand, Goes, HeldImage, Inventory, Plan, Unknown, WorkloadNeed,
};
use crate::core::images::record::IMAGES;
use crate::core::record::{self, WorkloadRecord};
use crate::core::spec;
use crate::problems;
use crate::reporter::Progress;

/// What a collection has done.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// What is gone.
    pub(super) removed: Vec<Goes>,
    /// What the engine did not let go, with its words.
    pub(super) refused: Vec<(String, String)>,
    /// Why nothing more could be decided.
    pub(super) unknown: Option<Unknown>,
    /// Whether as much space is free as was wanted.
    pub(super) reached: bool,
}

impl<S: ImageStore> ImagesTask<S> {
    /// Removes what may go, and stops when there is space enough, if it is space that is wanted.
    pub(super) async fn collect(
        &mut self,
        demand: Demand,
        progress: Option<&Progress>,
    ) -> Collected {
        let mut collected = Collected::default();
        let mut refused = BTreeSet::new();
        while !self.shutdown.is_cancelled() {
            let plan = match self.plan(demand).await {
                Ok(plan) => plan,
                Err(unknown) => {
                    collected.unknown = Some(unknown);
                    break;
                }
            };
            let next = plan.goes.into_iter().find(|goes| !refused.contains(&goes.id));
            let Some(goes) = next else { break };
            match self.remove(&goes).await {
                Ok(()) => {
                    tracing::info!(image = %goes.id, names = ?goes.names, ?demand, "removed");
                    self.tell_removed(&goes, removed_by(demand));
                    if let Some(progress) = progress {
                        progress.say("remove", called(&goes));
                    }
                    collected.removed.push(goes);
                }
                Err(why) => {
                    tracing::warn!(image = %goes.id, "not removed: {why}");
                    refused.insert(goes.id.clone());
                    collected.refused.push((goes.id, why));
                }
            }
            if demand == Demand::Space
                && let Ok(space) = self.store.space().await
                && self.config.marks.is_high(space)
            {
                collected.reached = true;
                break;
            }
        }
        collected
    }

    /// What would go now.
    pub(super) async fn plan(&mut self, demand: Demand) -> Result<Plan, Unknown> {
        let inventory = self.inventory().await;
        self.plan_from(&inventory, demand)
    }

    /// What would go if all is as it was seen.
    pub(super) fn plan_from(&self, inventory: &Inventory, demand: Demand) -> Result<Plan, Unknown> {
        let rules = self.config.rules;
        collection::plan(inventory, &self.records, rules, demand, Timestamp::now())
    }

    /// Takes an image away and confirms it. Its record goes last: should belayd die before, the
    /// next look finds a record without an image.
    pub(super) async fn remove(&mut self, goes: &Goes) -> Result<(), String> {
        let names = goes.names.iter().map(String::as_str);
        for name in names.chain([goes.id.as_str()]) {
            let removed = self.store.remove(name).await;
            removed.map_err(|error| problems::with_causes(&error))?;
        }
        match self.store.image(&goes.id).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err("the engine still has it".to_owned()),
            Err(error) => return Err(problems::with_causes(&error)),
        }
        self.forget(&goes.id).await;
        Ok(())
    }

    async fn forget(&mut self, id: &str) {
        self.records.remove(id);
        if let Err(error) = self.ledger.remove(IMAGES, id).await {
            tracing::warn!(image = id, "{}", problems::with_causes(&error));
        }
    }

    pub(super) async fn inventory(&mut self) -> Inventory {
        let images = self.store.images().await.ok();
        if let Some(images) = &images {
            self.forget_absent(images).await;
        }
        self.leases.retain(|(_, held)| held.strong_count() > 0);
        Inventory {
            images: images.map(|images| {
                let held = |image: ImageEntry| HeldImage { id: image.id, names: image.tags };
                images.into_iter().map(held).collect()
            }),
            in_containers: self.store.in_containers().await.ok(),
            workloads: self.needs().await,
            leased: self.leases.iter().map(|(id, _)| id.clone()).collect(),
        }
    }

    /// Lets go of records whose image somebody removed.
    async fn forget_absent(&mut self, images: &[ImageEntry]) {
        let gone: Vec<_> = self
            .records
            .keys()
            .filter(|id| !images.iter().any(|image| image.id == **id))
            .cloned()
            .collect();
        for id in gone {
            self.forget(&id).await;
        }
    }

    /// What every workload needs, also those that are stopped; `None` when one of them cannot be
    /// read.
    async fn needs(&mut self) -> Option<Vec<WorkloadNeed>> {
        let changes = self.ledger.changes();
        if self.needs.as_ref().is_none_or(|(at, _)| *at != changes) {
            // An idle node reads nothing from its disk.
            self.needs = Some((changes, self.read_needs().await?));
        }
        self.needs.as_ref().map(|(_, needs)| needs.clone())
    }

    async fn read_needs(&self) -> Option<Vec<WorkloadNeed>> {
        let loaded = self.ledger.load::<WorkloadRecord>(record::TABLE).await.ok()?;
        if !loaded.set_aside.is_empty() {
            return None;
        }
        let mut needs = Vec::new();
        for (name, record) in loaded.records {
            let watched = record.watched.as_ref().map(|watched| &watched.previous);
            let previous = record.previous.as_ref().or(watched);
            let images = [record.image.as_ref(), previous.and_then(|p| p.image.as_ref())];
            let declarations =
                [Some(&record.declaration), previous.map(|previous| &previous.declaration)];
            let mut sources = Vec::new();
            for declaration in declarations.into_iter().flatten() {
                let directory = std::path::Path::new(&declaration.directory);
                let spec = spec::parse(&declaration.spec, &declaration.file, directory).ok()?;
                sources.push(spec.image.to_string());
            }
            needs.push(WorkloadNeed {
                workload: name.parse().ok()?,
                images: images.into_iter().flatten().map(|image| image.id.clone()).collect(),
                sources,
            });
        }
        Some(needs)
    }
}

fn removed_by(demand: Demand) -> ImageRemoved {
    match demand {
        Demand::Tidy => ImageRemoved::Superseded,
        Demand::Space => ImageRemoved::Space,
        Demand::Prune => ImageRemoved::Operator,
    }
}

/// How an image is called in a line for people.
pub(super) fn called(goes: &Goes) -> String {
    let names = if goes.names.is_empty() { short(&goes.id) } else { goes.names.join(", ") };
    format!("{names} ({})", belay_volumes::ByteSize::bytes(goes.bytes))
}

/// The beginning of an id, which suffices to name it.
pub(super) fn short(id: &str) -> String {
    let hex = id.rsplit_once(':').map_or(id, |(_, hex)| hex);
    hex.chars().take(12).collect()
}
