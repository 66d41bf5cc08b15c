//! The sync record and its manifest.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Cid, NodeId, PublisherKey, SyncHead, SyncKey};

/// Newest schema of the records this program reads and, of imports, writes; see
/// [`Capture::record_schema`].
pub const RECORD_SCHEMA: u32 = 3;
/// Schema of all records but those of imports.
pub const SIGNED_SCHEMA: u32 = 2;
/// Schema of records that are not signed; they are read and no longer written.
pub const UNSIGNED_SCHEMA: u32 = 1;
/// Newest schema of the manifests this program reads; which one it writes follows from the format.
pub const MANIFEST_SCHEMA: u32 = OWNED_SCHEMA;
/// Schema of the manifest of a tree, in whatever form, of which an entry has an owner or set-id bits
/// of its own.
pub const OWNED_SCHEMA: u32 = 4;

/// What a provider publishes under its key: the state named by `cid` is stored, and this is it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRecord {
    /// [`RECORD_SCHEMA`], [`SIGNED_SCHEMA`] or [`UNSIGNED_SCHEMA`].
    pub schema: u32,
    /// The key it is published under.
    pub key: SyncKey,
    /// Raised by each takeover; with `seq` it orders records. Clocks never do.
    pub epoch: u64,
    /// One more than the record before.
    pub seq: u64,
    /// Content id of the tree.
    pub cid: Cid,
    /// Content id of the record before, none for the first.
    pub parent_cid: Option<Cid>,
    /// The node that published.
    pub node_id: NodeId,
    /// Names this act of publishing, so that a lost reply can be told from a lost race.
    pub publish_id: String,
    /// Unix seconds of the capture by the provider's clock; informative.
    pub version: u64,
    /// The same as RFC 3339 text; informative.
    pub timestamp: Timestamp,
    /// What the capture was.
    pub capture: Capture,
    /// Free data of the app.
    pub metadata: Map<String, Value>,
    /// What the app wished; information for consumers, never an order.
    pub runtime: RuntimeWishes,
    /// How the tree is stored.
    pub manifest: Manifest,
    /// Who signed it; none in a record of [`UNSIGNED_SCHEMA`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublisherKey>,
    /// The signature over all that stands before it. It comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl SyncRecord {
    /// What is shown of it while it is the head of its key.
    pub fn head(&self) -> SyncHead {
        SyncHead {
            cid: self.cid,
            epoch: self.epoch,
            seq: self.seq,
            version: self.version,
            node: self.node_id.clone(),
            signer: self.signer,
        }
    }
}

/// How the tree of a record is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`ArchiveFormat::manifest_schema`], or [`OWNED_SCHEMA`].
    pub schema_version: u32,
    /// Container paths the tree holds: absolute, normalised, sorted, none below another.
    pub archive_paths: Vec<String>,
    /// Form of the stored tree.
    pub archive_format: ArchiveFormat,
    /// Size of all stored objects that the tree needs, in bytes.
    pub archive_size_bytes: u64,
    /// Encryption of the stored objects.
    pub encryption: Encryption,
    /// Content id of the bytes of the stored archive, or of the root of a stored `tree`.
    pub blob: Cid,
    /// Size of the root of a stored `tree`, in bytes; none for other formats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_bytes: Option<u64>,
    /// Sum of the sizes of the files in the tree, in bytes.
    pub content_bytes: u64,
    /// Entries of the tree.
    pub members: u64,
    /// Sockets, FIFOs and devices the capture left out.
    pub skipped_special: u64,
}

/// Form of a stored tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveFormat {
    /// One gzip-compressed POSIX (pax) archive whose member names are container paths.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A root, and packs with the chunks of manifest and files.
    #[serde(rename = "tree")]
    Tree,
}

impl ArchiveFormat {
    /// Schema of a manifest that tells of a tree in this form, as it is written. Who reads older ones
    /// only says that the record is newer.
    pub fn manifest_schema(self) -> u32 {
        match self {
            Self::TarGz => 1,
            // 2 is a tree of which every chunk is whole; it is read and no longer written.
            Self::Tree => 3,
        }
    }
}

impl Manifest {
    /// Size of the object that `blob` names, in bytes.
    pub fn blob_bytes(&self) -> u64 {
        self.root_bytes.unwrap_or(self.archive_size_bytes)
    }
}

/// Encryption of a stored tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// Stored as it is.
    #[serde(rename = "none")]
    None,
    /// Under a key of the provider's that lies in the root, in an envelope for each member.
    #[serde(rename = "members")]
    Members,
}

/// What a capture was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// The container was stopped; the app had closed its files.
    Stopped,
    /// One instant of a running app, as a power cut would have left it.
    Atomic,
    /// Read while the app was writing.
    Live,
    /// It was not: an operator gave an archive.
    Imported,
}

impl Capture {
    /// Schema of the records that tell of such a capture. Who reads older ones only says that the
    /// record is newer.
    pub fn record_schema(self) -> u32 {
        match self {
            Self::Stopped | Self::Atomic | Self::Live => SIGNED_SCHEMA,
            Self::Imported => RECORD_SCHEMA,
        }
    }
}

/// What an app wishes of capture and apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeWishes {
    /// How the provider should capture.
    #[serde(default)]
    pub provider_capture: ProviderCapture,
    /// How consumers might apply.
    #[serde(default)]
    pub consumer_apply: ConsumerApply,
}

/// How a provider should capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderCapture {
    /// With the container stopped.
    #[default]
    Offline,
    /// With the container running.
    Online,
}

/// How a consumer might apply; each consumer decides by its own policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerApply {
    /// Stop, apply, start.
    #[default]
    OfflineRestart,
    /// Apply under the running app.
    OnlineNoRestart,
    /// Apply under the running app, then restart it.
    OnlineRestart,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_has_the_form_written_down() {
        let cid = Cid::from_digest([1; 32]).to_string();
        let golden = json!({
            "schema": 1, "key": "models", "epoch": 1, "seq": 4, "cid": cid, "parent_cid": null,
            "node_id": "node-a", "publish_id": "p", "version": 1_700_000_000,
            "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {"a": 1},
            "runtime": {"provider_capture": "offline", "consumer_apply": "offline_restart"},
            "manifest": {
                "schema_version": 1, "archive_paths": ["/app/data"], "archive_format": "tar.gz",
                "archive_size_bytes": 1000, "encryption": "none", "blob": cid,
                "content_bytes": 5000, "members": 3, "skipped_special": 0,
            },
        });
        let record: SyncRecord = serde_json::from_value(golden.clone()).expect("a record");
        assert_eq!(record.manifest.archive_format, ArchiveFormat::TarGz);
        assert_eq!(serde_json::to_value(&record).expect("serialises"), golden);
        assert_eq!(record.manifest.blob_bytes(), 1000);

        let mut tree = golden.clone();
        tree["manifest"]["schema_version"] = json!(2);
        tree["manifest"]["archive_format"] = json!("tree");
        tree["manifest"]["root_bytes"] = json!(100);
        let record: SyncRecord = serde_json::from_value(tree.clone()).expect("a record");
        assert_eq!(record.manifest.archive_format, ArchiveFormat::Tree);
        assert_eq!(record.manifest.archive_format.manifest_schema(), 3);
        assert_eq!(record.manifest.blob_bytes(), 100);
        assert_eq!(serde_json::to_value(&record).expect("serialises"), tree);

        let signer = PublisherKey::from_bytes([5; 32]).to_string();
        let mut with_both = golden.clone();
        with_both["schema"] = json!(RECORD_SCHEMA);
        with_both["signer"] = json!(signer);
        with_both["signature"] = json!("c2lnbmVk");
        let record: SyncRecord = serde_json::from_value(with_both.clone()).expect("a record");
        assert_eq!(record.signer, Some(PublisherKey::from_bytes([5; 32])));
        assert_eq!(serde_json::to_value(&record).expect("serialises"), with_both);
        let text = serde_json::to_string(&record).expect("serialises");
        assert!(text.ends_with(",\"signature\":\"c2lnbmVk\"}"), "it comes last: {text}");

        for (name, value) in [("schema", json!(true)), ("signer", json!("x")), ("seq", json!(-1))] {
            let mut wrong = golden.clone();
            wrong[name] = value;
            assert!(serde_json::from_value::<SyncRecord>(wrong).is_err(), "{name}");
        }
    }
}
