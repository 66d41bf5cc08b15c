//! What the ledger keeps of the images that belayd brought to this host.

use std::collections::{BTreeMap, BTreeSet};

use belay_protocol::WorkloadName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Table of the ledger that holds [`ImageRecord`]s, keyed by the image's id.
pub const IMAGES: &str = "image";

/// Table of the ledger that holds a [`FetchIntent`] for each fetch under way, keyed by what is
/// fetched.
pub const FETCHES: &str = "image-fetch";

/// An image that belayd brought to this host. One without a record is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// What specs called it when it was fetched.
    pub sources: BTreeSet<String>,
    /// The names that it got by being fetched. One that bears another was named by somebody else.
    pub names: BTreeSet<String>,
    /// Its size, as the engine counts it.
    pub bytes: u64,
    /// Order of its last fetch among all fetches and uses.
    pub fetched: u64,
    /// When that was.
    pub fetched_at: Timestamp,
    /// Order of its last use, or of its fetch.
    pub used: u64,
    /// When that was.
    pub used_at: Timestamp,
    /// Workloads that containers were made for, with the order of the last.
    pub users: BTreeMap<WorkloadName, u64>,
    /// Whether an operator wants it kept.
    pub pinned: bool,
}

/// Written before a fetch, so that an image that came while belayd died is known for its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchIntent {
    /// Ids of all images that were on the host before.
    pub before: BTreeSet<String>,
}

impl ImageRecord {
    /// The record of an image that has just come.
    pub fn new(source: &str, names: &[String], bytes: u64, order: u64, at: Timestamp) -> Self {
        Self {
            sources: BTreeSet::from([source.to_owned()]),
            names: names.iter().cloned().collect(),
            bytes,
            fetched: order,
            fetched_at: at,
            used: order,
            used_at: at,
            users: BTreeMap::new(),
            pinned: false,
        }
    }

    /// Highest order in it.
    pub fn newest(&self) -> u64 {
        self.fetched.max(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_on_disk_is_this() {
        let at: Timestamp = "2026-05-04T03:02:01Z".parse().expect("a time");
        let mut record = ImageRecord::new("r.example/a:1", &["r.example/a:1".to_owned()], 7, 3, at);
        record.users.insert("web".parse().expect("a name"), 4);
        let text = serde_json::to_string(&record).expect("encodes");
        assert_eq!(
            text,
            r#"{"sources":["r.example/a:1"],"names":["r.example/a:1"],"bytes":7,"fetched":3,"fetched_at":"2026-05-04T03:02:01Z","used":3,"used_at":"2026-05-04T03:02:01Z","users":{"web":4},"pinned":false}"#
        );
        assert_eq!(serde_json::from_str::<ImageRecord>(&text).expect("reads"), record);
    }
}
