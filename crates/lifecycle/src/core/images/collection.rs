//! Which images may go.
//!
//! [`plan`] takes an inventory and gives what goes, in order, and for everything else why it stays.
//! A part of the inventory that could not be had is `None`, and then nothing goes: what is not known
//! counts as in use. Carrying a plan out needs no space on the disk and may be cut short anywhere;
//! the next plan goes on from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use belay_protocol::WorkloadName;
use jiff::Timestamp;

use super::record::ImageRecord;

/// What is on the host, and who wants it.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Every image of the engine's store.
    pub images: Option<Vec<HeldImage>>,
    /// Ids of the images of all containers, whoever made them and whether or not they run.
    pub in_containers: Option<BTreeSet<String>>,
    /// What the workloads of the node need.
    pub workloads: Option<Vec<WorkloadNeed>>,
    /// Ids of images that somebody is about to use.
    pub leased: BTreeSet<String>,
}

/// An image of the engine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldImage {
    /// Its id.
    pub id: String,
    /// The names that point at it.
    pub names: Vec<String>,
}

/// What one workload needs, from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadNeed {
    /// Which.
    pub workload: WorkloadName,
    /// Ids of the images of its versions: the one in force, the one that a deploy replaces.
    pub images: Vec<String>,
    /// What the specs of these versions call their images.
    pub sources: Vec<String>,
}

/// What is wanted of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Superseded versions beyond those that are kept, once they are old enough.
    Tidy,
    /// Space: everything that nobody needs, longest unused first.
    Space,
    /// An operator's word: the same as for space.
    Prune,
}

/// What is kept without need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Superseded images that are kept for each workload, besides the one that it uses.
    pub keep: u32,
    /// How long a superseded image stays after its last use.
    pub grace: Duration,
}

/// Why an image stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// belayd did not bring it.
    Foreign,
    /// Somebody gave it a name that belayd did not.
    Named(String),
    /// A container was made of it.
    Container,
    /// A version of a workload names it.
    Needed(WorkloadName),
    /// A workload used it before its present image.
    Previous(WorkloadName),
    /// An operator pinned it.
    Pinned,
    /// It is about to be used.
    Leased,
    /// Nobody needs it, and nobody asked for its space.
    Unasked,
}

/// An image that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goes {
    /// Its id.
    pub id: String,
    /// The names to take away, the last of which takes the image along.
    pub names: Vec<String>,
    /// Bytes, as the engine counted them; layers that others share stay.
    pub bytes: u64,
}

/// What a collection does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes, longest unused first.
    pub goes: Vec<Goes>,
    /// What stays, by id.
    pub stays: BTreeMap<String, Stays>,
}

/// A part of the inventory that is not known, so that nothing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The engine did not list its images.
    Images,
    /// The engine did not list its containers.
    Containers,
    /// The ledger did not say what the workloads need, or a stored spec does not parse.
    Workloads,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Images => "the engine does not list its images",
            Self::Containers => "the engine does not list its containers",
            Self::Workloads => "what every workload needs is not known",
        })
    }
}

/// What goes and what stays.
pub fn plan(
    inventory: &Inventory,
    records: &BTreeMap<String, ImageRecord>,
    rules: Rules,
    demand: Demand,
    now: Timestamp,
) -> Result<Plan, Unknown> {
    let images = inventory.images.as_ref().ok_or(Unknown::Images)?;
    let containers = inventory.in_containers.as_ref().ok_or(Unknown::Containers)?;
    let workloads = inventory.workloads.as_ref().ok_or(Unknown::Workloads)?;
    let needed = needed(workloads, records);
    let history = History::of(workloads, records, rules.keep);
    let mut plan = Plan::default();
    let mut candidates = Vec::new();
    for image in images {
        let Some(record) = records.get(&image.id) else {
            plan.stays.insert(image.id.clone(), Stays::Foreign);
            continue;
        };
        let foreign = image.names.iter().find(|name| !record.names.contains(*name));
        let stays = if inventory.leased.contains(&image.id) {
            Some(Stays::Leased)
        } else if containers.contains(&image.id) {
            Some(Stays::Container)
        } else if record.pinned {
            Some(Stays::Pinned)
        } else if let Some(name) = foreign {
            Some(Stays::Named(name.clone()))
        } else if let Some(workload) = needed.get(image.id.as_str()) {
            Some(Stays::Needed((*workload).clone()))
        } else if let Some(workload) = history.kept.get(image.id.as_str()) {
            Some(Stays::Previous((*workload).clone()))
        } else {
            let asked = match demand {
                Demand::Space | Demand::Prune => true,
                Demand::Tidy => {
                    history.superseded.contains(image.id.as_str())
                        && is_old(record, rules.grace, now)
                }
            };
            (!asked).then_some(Stays::Unasked)
        };
        match stays {
            Some(stays) => {
                plan.stays.insert(image.id.clone(), stays);
            }
            None => candidates.push((record.used, image, record.bytes)),
        }
    }
    candidates.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
    plan.goes = candidates
        .into_iter()
        .map(|(_, image, bytes)| Goes { id: image.id.clone(), names: image.names.clone(), bytes })
        .collect();
    Ok(plan)
}

/// Images that a version of a workload runs on, or would be started on: by id where that is
/// recorded, and the newest that was fetched under the name that its spec has.
fn needed<'a>(
    workloads: &'a [WorkloadNeed],
    records: &'a BTreeMap<String, ImageRecord>,
) -> BTreeMap<&'a str, &'a WorkloadName> {
    let mut needed = BTreeMap::new();
    for need in workloads {
        for id in &need.images {
            needed.insert(id.as_str(), &need.workload);
        }
        for source in &need.sources {
            let named = records.iter().filter(|(_, record)| record.sources.contains(source));
            if let Some((id, _)) = named.max_by_key(|(_, record)| record.fetched) {
                needed.insert(id.as_str(), &need.workload);
            }
        }
    }
    needed
}

/// The images that each workload used, newest first: the one in use and those kept behind it, and
/// those beyond.
struct History<'a> {
    kept: BTreeMap<&'a str, &'a WorkloadName>,
    superseded: BTreeSet<&'a str>,
}

impl<'a> History<'a> {
    fn of(
        workloads: &'a [WorkloadNeed],
        records: &'a BTreeMap<String, ImageRecord>,
        keep: u32,
    ) -> Self {
        let mut history = Self { kept: BTreeMap::new(), superseded: BTreeSet::new() };
        for need in workloads {
            let name = &need.workload;
            let mut used: Vec<_> = records
                .iter()
                .filter_map(|(id, record)| Some((*record.users.get(name)?, id.as_str())))
                .collect();
            used.sort_unstable_by(|a, b| b.cmp(a));
            let keep = usize::try_from(keep).unwrap_or(usize::MAX).saturating_add(1);
            for (_, id) in used.iter().take(keep) {
                history.kept.insert(id, name);
            }
            history.superseded.extend(used.iter().skip(keep).map(|(_, id)| *id));
        }
        history
    }
}

/// A clock that went back makes nothing old.
fn is_old(record: &ImageRecord, grace: Duration, now: Timestamp) -> bool {
    let age = Duration::try_from(now.duration_since(record.used_at));
    age.is_ok_and(|age| age >= grace)
}

/// How much of the storage is free, and what that calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Collecting begins below this many free bytes,
    pub low_bytes: u64,
    /// or below this share of the storage, in percent,
    pub low_percent: u32,
    /// and goes on until this many are free,
    pub high_bytes: u64,
    /// and this share of it.
    pub high_percent: u32,
}

/// The storage as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Marks {
    /// Whether collecting is to begin.
    pub fn is_low(&self, space: Space) -> bool {
        space.free < self.low_bytes || space.free < percent(space.total, self.low_percent)
    }

    /// Whether collecting may end.
    pub fn is_high(&self, space: Space) -> bool {
        space.free >= self.high_bytes && space.free >= percent(space.total, self.high_percent)
    }
}

fn percent(total: u64, share: u32) -> u64 {
    u64::try_from(u128::from(total) * u128::from(share) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
