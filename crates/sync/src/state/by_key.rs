//! What is written down of each key that a workload had: what belongs to another one is kept and not
//! used, so that going back to a key is no way to forget what was seen of it.

use std::collections::BTreeMap;
use std::io;
use std::mem;

use belay_protocol::SyncKey;
use serde::{Deserialize, Serialize};

use super::{CONSUMER, ConsumerMemory, FENCE, Highest, Pinned, SCHEDULE, StateDir};
use crate::core::fencing::Fence;
use crate::core::schedule::Scheduled;
use crate::durable;

const FENCES: &str = "fences.json";

/// What a consumer keeps of a key that its workload does not have now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtherKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    highest: Option<Highest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned: Option<Pinned>,
}

impl ConsumerMemory {
    /// The same under this key. What an earlier version wrote names none, and is of this one.
    pub(super) fn under(mut self, key: &SyncKey) -> Self {
        let before = self.key.replace(key.clone()).filter(|before| before != key);
        if let Some(before) = before {
            let now = self.others.remove(key).unwrap_or_default();
            let left = OtherKey {
                highest: mem::replace(&mut self.highest, now.highest),
                pinned: mem::replace(&mut self.pinned, now.pinned),
            };
            if left != OtherKey::default() {
                self.others.insert(before, left);
            }
            // A back-off, which is worth nothing once something else was asked for.
            self.quarantine.clear();
        }
        self
    }
}

/// The records by which other nodes publish in this one's place.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fences {
    keys: BTreeMap<SyncKey, Fence>,
}

/// How far the schedule of a key is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleFile {
    /// None where an earlier version wrote it.
    #[serde(default)]
    key: Option<SyncKey>,
    every_ms: u64,
    last: Option<jiff::Timestamp>,
    next: jiff::Timestamp,
    failures: u32,
}

impl StateDir {
    /// The same for a workload of this key: what it reads of others it gives to nobody.
    pub(crate) fn under(self, key: &SyncKey) -> Self {
        Self { key: Some(key.clone()), ..self }
    }

    /// Writes the key into what an earlier version, or a process under another key, left. Until
    /// that is done what names no key would follow the workload to the next one.
    pub(crate) fn adopt(&self) -> io::Result<()> {
        let key = self.key()?;
        if let Some(memory) = self.read::<ConsumerMemory>(CONSUMER)?
            && memory.key.as_ref() != Some(key)
        {
            self.set_consumer(&memory.under(key))?;
        }
        if let Some(fence) = self.fence()? {
            self.set_fence(&fence)?;
        }
        let scheduled = self.read::<ScheduleFile>(SCHEDULE)?;
        if scheduled.is_some_and(|file| file.key.is_none())
            && let Some(scheduled) = self.schedule()?
        {
            self.set_schedule(&scheduled)?;
        }
        Ok(())
    }

    /// The record by which another node took this one's place as a provider of the key.
    pub(crate) fn fence(&self) -> io::Result<Option<Fence>> {
        let known = self.fences()?.keys.remove(self.key()?);
        // An earlier version wrote one file, that of the key it had.
        Ok(known.or(self.read(FENCE)?))
    }

    pub(crate) fn set_fence(&self, fence: &Fence) -> io::Result<()> {
        let key = self.key()?;
        let mut fences = self.fences()?;
        if fences.keys.get(key) != Some(fence) {
            fences.keys.insert(key.clone(), fence.clone());
            self.write(FENCES, &fences)?;
        }
        durable::remove(&self.root.join(FENCE))
    }

    /// Forgets the fence of this key, which need not be the workload's.
    pub(crate) fn clear_fence(&self, key: &SyncKey) -> io::Result<()> {
        if self.key.as_ref() == Some(key) {
            durable::remove(&self.root.join(FENCE))?;
        }
        let mut fences = self.fences()?;
        if fences.keys.remove(key).is_none() {
            return Ok(());
        }
        if fences.keys.is_empty() {
            return durable::remove(&self.root.join(FENCES));
        }
        self.write(FENCES, &fences)
    }

    fn fences(&self) -> io::Result<Fences> {
        Ok(self.read(FENCES)?.unwrap_or_default())
    }

    /// How far the schedule of a provider is, under its key.
    pub(crate) fn schedule(&self) -> io::Result<Option<Scheduled>> {
        let file: Option<ScheduleFile> = self.read(SCHEDULE)?;
        let key = self.key()?;
        Ok(file.filter(|file| file.key.as_ref().is_none_or(|of| of == key)).map(|file| {
            let ScheduleFile { key: _, every_ms, last, next, failures } = file;
            Scheduled { every_ms, last, next, failures }
        }))
    }

    pub(crate) fn set_schedule(&self, scheduled: &Scheduled) -> io::Result<()> {
        let Scheduled { every_ms, last, next, failures } = scheduled.clone();
        let key = Some(self.key()?.clone());
        self.write(SCHEDULE, &ScheduleFile { key, every_ms, last, next, failures })
    }

    fn key(&self) -> io::Result<&SyncKey> {
        self.key.as_ref().ok_or_else(|| io::Error::other("it is not said of which key"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use belay_protocol::Cid;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::core::record::Order;

    fn key(name: &str) -> SyncKey {
        name.parse().expect("a key")
    }

    fn order(seq: u64) -> Order {
        Order { epoch: 1, seq }
    }

    fn highest(seq: u64) -> Highest {
        Highest { order: order(seq), cid: Cid::from_digest([1; 32]) }
    }

    fn fence(seq: u64) -> Fence {
        let node = "node-b".parse().expect("a name");
        Fence { order: order(seq), node, signer: None, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_was_accepted_under_a_key_counts_under_that_key_alone_and_is_never_lost() {
        let pinned =
            Pinned { record: "{}".to_owned(), left: order(57), since: Timestamp::UNIX_EPOCH };
        // As an earlier version wrote it: it names no key, and is of the one there is.
        let old = json!({"highest": highest(57), "quarantine": {}, "pinned": pinned});
        let memory: ConsumerMemory = serde_json::from_value(old).expect("reads");
        let memory = memory.under(&key("models"));
        assert_eq!(memory.highest, Some(highest(57)));
        assert_eq!(memory.clone().under(&key("models")), memory);
        let mut other = memory.under(&key("others"));
        assert_eq!((other.highest, &other.pinned), (None, &None));
        other.highest = Some(highest(2));
        let third = other.clone().under(&key("third"));
        assert_eq!(third.highest, None);
        assert_eq!(third.under(&key("others")), other);
        let back = other.under(&key("models"));
        assert_eq!((back.highest, &back.pinned), (Some(highest(57)), &Some(pinned)));
    }

    #[test]
    fn files_of_before_are_of_the_key_that_first_finds_them() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::open(temp.path()).expect("opens");
        let sync = temp.path().join("sync");
        let write = |name: &str, value: serde_json::Value| {
            fs::write(sync.join(name), value.to_string()).expect("writes");
        };
        write("consumer.json", json!({"highest": highest(57), "quarantine": {}}));
        write("fence.json", serde_json::to_value(fence(9)).expect("serialises"));
        write(
            "schedule.json",
            json!({"every_ms": 1, "last": null,
            "next": "2020-01-01T00:00:00Z", "failures": 0}),
        );
        let first = state.clone().under(&key("models"));
        let other = state.under(&key("others"));
        for _ in 0..2 {
            first.adopt().expect("adopts");
        }
        assert_eq!(other.consumer().expect("reads").highest, None);
        assert_eq!(other.fence().expect("reads"), None);
        assert_eq!(other.schedule().expect("reads"), None);
        other.adopt().expect("adopts");
        other.set_fence(&fence(3)).expect("writes");
        assert_eq!(first.consumer().expect("reads").highest, Some(highest(57)));
        assert_eq!(first.fence().expect("reads"), Some(fence(9)));
        assert!(first.schedule().expect("reads").is_some());
        first.clear_fence(&key("others")).expect("clears");
        assert_eq!(other.fence().expect("reads"), None);
        first.clear_fence(&key("models")).expect("clears");
        assert_eq!(first.fence().expect("reads"), None);
        assert!(!sync.join("fences.json").exists() && !sync.join("fence.json").exists());
    }

    #[test]
    fn a_fence_that_cannot_be_read_is_not_taken_for_none() {
        for name in ["fence.json", "fences.json"] {
            let temp = tempfile::tempdir().expect("a temporary directory");
            let state = StateDir::open(temp.path()).expect("opens").under(&key("models"));
            fs::write(temp.path().join("sync").join(name), "{").expect("damages");
            state.adopt().expect_err("damaged");
            state.fence().expect_err("damaged");
        }
    }
}
