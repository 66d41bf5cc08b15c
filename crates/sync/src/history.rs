//! What was sent and received, as JSON files that `ls` and `cat` can read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use belay_protocol::record::{Manifest, RuntimeWishes, SyncRecord};
use belay_protocol::{Cid, HistoryEntry, NodeId, PublisherKey, SyncKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::command::HistoryError;
use crate::durable;

/// Entries kept in each direction.
const KEPT: usize = 256;

/// The history of one workload.
#[derive(Debug, Clone)]
pub struct History {
    root: PathBuf,
}

/// A confirmed publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentEntry {
    /// Under which key; none in entries of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<SyncKey>,
    pub(crate) cid: Cid,
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) publish_id: String,
    pub(crate) published_timestamp: Timestamp,
    pub(crate) request: SentRequest,
    pub(crate) manifest: Manifest,
    pub(crate) archive_size_bytes: u64,
    pub(crate) node_id: NodeId,
    /// Who signed; none in entries of unsigned records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signer: Option<PublisherKey>,
    pub(crate) deletion: Deletion,
}

impl SentEntry {
    /// The key that it was published under, which is that of now where the entry does not say.
    pub(crate) fn key_or<'a>(&'a self, now: &'a SyncKey) -> &'a SyncKey {
        self.key.as_ref().unwrap_or(now)
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentRequest {
    pub(crate) archive_paths: Vec<String>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) runtime: RuntimeWishes,
}

/// Whether the stored object was retired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the history's files")]
pub(crate) struct Deletion {
    pub(crate) deleted_at: Option<Timestamp>,
    pub(crate) deletion_succeeded: Option<bool>,
    pub(crate) deletion_error: Option<String>,
}

/// A committed apply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReceivedEntry {
    /// Under which key; none in entries of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<SyncKey>,
    pub(crate) cid: Cid,
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) publish_id: String,
    pub(crate) source_timestamp: Timestamp,
    pub(crate) applied_timestamp: Timestamp,
    pub(crate) node_id: NodeId,
    /// Who signed; none in entries of unsigned records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signer: Option<PublisherKey>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) manifest: Manifest,
}

impl History {
    /// The history of the workload whose own directory this is. Nothing is made before an entry is.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.join("sync_history") }
    }

    /// Writes down a confirmed publish; the same publish again replaces its entry.
    pub(crate) fn sent(
        &self,
        record: &SyncRecord,
        request: SentRequest,
        at: Timestamp,
    ) -> io::Result<()> {
        let entry = SentEntry {
            key: Some(record.key.clone()),
            cid: record.cid,
            version: record.version,
            epoch: record.epoch,
            seq: record.seq,
            publish_id: record.publish_id.clone(),
            published_timestamp: at,
            request,
            manifest: record.manifest.clone(),
            archive_size_bytes: record.manifest.archive_size_bytes,
            node_id: record.node_id.clone(),
            signer: record.signer,
            deletion: Deletion::default(),
        };
        self.put("sent", record, &entry)
    }

    /// Writes down a committed apply; the same apply again replaces its entry.
    pub(crate) fn received(&self, record: &SyncRecord, at: Timestamp) -> io::Result<()> {
        let entry = ReceivedEntry {
            key: Some(record.key.clone()),
            cid: record.cid,
            version: record.version,
            epoch: record.epoch,
            seq: record.seq,
            publish_id: record.publish_id.clone(),
            source_timestamp: record.timestamp,
            applied_timestamp: at,
            node_id: record.node_id.clone(),
            signer: record.signer,
            metadata: record.metadata.clone(),
            manifest: record.manifest.clone(),
        };
        self.put("received", record, &entry)
    }

    fn put<T: Serialize>(&self, direction: &str, record: &SyncRecord, entry: &T) -> io::Result<()> {
        let dir = self.root.join(direction);
        durable::make_dir(&dir)?;
        let base = format!("{:010}__{}", record.version, record.cid.short());
        let plain = dir.join(format!("{base}.json"));
        // Two records may share version and beginning of the cid; then the place tells them apart.
        let taken = durable::read_json::<Named>(&plain).ok().flatten();
        let path = match taken {
            Some(named) if named.publish_id != record.publish_id => {
                dir.join(format!("{base}__{}-{}.json", record.epoch, record.seq))
            }
            _ => plain,
        };
        durable::write_json(&path, 0o644, entry)?;
        prune(&dir, &record.key);
        Ok(())
    }

    /// Entries of confirmed publishes with their files. What cannot be read is passed over.
    pub(crate) fn all_sent(&self) -> Vec<(PathBuf, SentEntry)> {
        let files = files(&self.root.join("sent")).unwrap_or_default();
        files
            .into_iter()
            .filter_map(|path| Some((path.clone(), durable::read_json(&path).ok()??)))
            .collect()
    }

    /// When an act of publishing was confirmed here, and when its state was applied here last.
    pub(crate) fn told_of(&self, publish_id: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let all = self.all_sent();
        let sent = all.iter().find(|(_, entry)| entry.publish_id == publish_id);
        let received = self.all_received();
        let received = received.iter().find(|entry| entry.publish_id == publish_id);
        (
            sent.map(|(_, entry)| entry.published_timestamp),
            received.map(|entry| entry.applied_timestamp),
        )
    }

    /// Entries of committed applies. What cannot be read is passed over.
    pub(crate) fn all_received(&self) -> Vec<ReceivedEntry> {
        let files = files(&self.root.join("received")).unwrap_or_default();
        files.iter().filter_map(|path| durable::read_json(path).ok()?).collect()
    }

    /// Entries of both directions, newest first.
    pub fn list(&self, limit: usize) -> Result<Vec<HistoryEntry>, HistoryError> {
        let mut entries = Vec::new();
        for path in files(&self.root.join("sent")).map_err(HistoryError::Read)? {
            if let Ok(Some(entry)) = durable::read_json::<SentEntry>(&path) {
                entries.push(HistoryEntry {
                    direction: "sent".to_owned(),
                    cid: entry.cid,
                    version: entry.version,
                    at: entry.published_timestamp,
                    node: entry.node_id.to_string(),
                    signer: entry.signer,
                    bytes: entry.archive_size_bytes,
                    archive_paths: entry.manifest.archive_paths,
                    file: path.display().to_string(),
                });
            }
        }
        for path in files(&self.root.join("received")).map_err(HistoryError::Read)? {
            if let Ok(Some(entry)) = durable::read_json::<ReceivedEntry>(&path) {
                entries.push(HistoryEntry {
                    direction: "received".to_owned(),
                    cid: entry.cid,
                    version: entry.version,
                    at: entry.applied_timestamp,
                    node: entry.node_id.to_string(),
                    signer: entry.signer,
                    bytes: entry.manifest.archive_size_bytes,
                    archive_paths: entry.manifest.archive_paths,
                    file: path.display().to_string(),
                });
            }
        }
        entries.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.file.cmp(&a.file)));
        entries.truncate(limit);
        Ok(entries)
    }
}

/// Writes down how the retirement of an entry's object ended, in place.
pub(crate) fn retired(path: &Path, mut entry: SentEntry, deletion: Deletion) -> io::Result<()> {
    entry.deletion = deletion;
    durable::write_json(path, 0o644, &entry)
}

/// Of old entries those stay that alone name an object that is still stored. What is old is told by
/// the places of the records and by no clock; what is of another key than this one comes first.
fn prune(dir: &Path, key: &SyncKey) {
    let Ok(files) = files(dir) else { return };
    if files.len() <= KEPT {
        return;
    }
    let placed = files.into_iter().map(|path| {
        // What cannot be read is older than anything.
        let found = durable::read_json::<Placed>(&path).ok().flatten();
        (found.map(|at| (at.key.is_none_or(|of| of == *key), at.epoch, at.seq)), path)
    });
    let mut placed: Vec<_> = placed.collect();
    placed.sort();
    let mut named = BTreeSet::new();
    for (newer, (_, path)) in placed.into_iter().rev().enumerate() {
        let entry = durable::read_json::<SentEntry>(&path).ok().flatten();
        let stored = entry.filter(|entry| entry.deletion.deleted_at.is_none());
        let needed = stored.is_some_and(|entry| named.insert(entry.manifest.blob));
        if newer >= KEPT && !needed {
            // What stays is tried again with the next entry.
            let _ = fs::remove_file(&path);
        }
    }
}

/// What every entry has, read without the rest.
#[derive(Deserialize)]
struct Named {
    publish_id: String,
}

/// What tells how old an entry is.
#[derive(Deserialize)]
struct Placed {
    #[serde(default)]
    key: Option<SyncKey>,
    epoch: u64,
    seq: u64,
}

/// The entry files of a directory, lowest version first; none if it is absent.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use belay_protocol::record::SIGNED_SCHEMA;
    use serde_json::json;

    use super::*;

    fn record(seq: u64, blob: u8) -> SyncRecord {
        serde_json::from_value(json!({
            "schema": SIGNED_SCHEMA, "key": "models", "epoch": 1, "seq": seq,
            "cid": Cid::from_digest([blob; 32]), "parent_cid": null, "node_id": "node-a",
            "publish_id": format!("p{seq}"), "version": 1_700_000_000 + seq,
            "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {"n": seq},
            "runtime": {},
            "manifest": {
                "schema_version": 1, "archive_paths": ["/app"], "archive_format": "tar.gz",
                "archive_size_bytes": 1000, "encryption": "none",
                "blob": Cid::from_digest([blob; 32]), "content_bytes": 5000, "members": 3,
                "skipped_special": 0,
            },
        }))
        .expect("a record")
    }

    #[test]
    fn entries_that_name_one_object_are_bounded_and_each_object_stays_named() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let history = History::new(temp.path());
        let request = SentRequest {
            archive_paths: vec!["/app".into()],
            metadata: Map::new(),
            runtime: RuntimeWishes::default(),
        };
        let kept = u64::try_from(KEPT).expect("small");
        for seq in 1..=kept + 20 {
            // The first is of another object, which nothing else names.
            let record = record(seq, if seq == 1 { 1 } else { 2 });
            history.sent(&record, request.clone(), Timestamp::UNIX_EPOCH).expect("writes");
        }
        let mut left = history.all_sent();
        left.sort_by_key(|(_, entry)| entry.seq);
        assert_eq!(left.len(), KEPT + 1);
        assert_eq!(left[0].1.seq, 1, "it alone names its object");
        assert_eq!(left[1].1.seq, 21);
    }

    #[test]
    fn the_last_entry_stays_whatever_the_clock_says_and_however_far_another_key_was() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let history = History::new(temp.path());
        let kept = u64::try_from(KEPT).expect("small");
        let received = |seq: u64, version: u64, key: &str| {
            let record = SyncRecord { version, key: key.parse().expect("a key"), ..record(seq, 1) };
            history.received(&record, Timestamp::UNIX_EPOCH).expect("writes");
            let all = history.all_received();
            assert!(all.len() <= KEPT, "no more than there may be");
            assert!(all.iter().any(|entry| entry.publish_id == record.publish_id), "{seq}");
        };
        for seq in 1..=kept {
            received(seq, 1_700_000_000 + seq, "models");
        }
        // The clock of the provider was set back.
        for seq in kept + 1..=kept + 3 {
            received(seq, 5, "models");
        }
        let mut left: Vec<u64> = history.all_received().iter().map(|entry| entry.seq).collect();
        left.sort_unstable();
        assert_eq!(left, (4..=kept + 3).collect::<Vec<_>>(), "the oldest went");
        received(kept + 1_000, 6, "others");
        received(1, 7, "third");
    }
}
