//! Requests and records.

use belay_protocol::SyncKey;
use belay_protocol::record::ArchiveFormat;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use super::Verdict;
use crate::core::capturing::CapturePolicy;
use crate::core::path::{ContainerPath, Mounts};
use crate::core::record::{self, Named};
use crate::core::{request, signature};

fn path(text: &str) -> ContainerPath {
    ContainerPath::parse(text).expect("a container path")
}

fn mounts() -> Mounts {
    Mounts::new(vec![path("/app"), path("/app/data")], path("/belay"))
}

fn key() -> SyncKey {
    "models".parse().expect("a key")
}

/// Holds that paths are in order, none below another, and all in volumes.
fn hold_roots(roots: &[ContainerPath]) {
    assert!((1..=64).contains(&roots.len()), "1 to 64 paths");
    for pair in roots.windows(2) {
        assert!(pair[0] < pair[1] && pair[1].below(&pair[0]).is_none(), "{pair:?}");
    }
    for root in roots {
        assert!(root.as_str().len() <= 4_096 && root.as_str().starts_with('/'), "{root}");
        assert!(root.as_str().split('/').all(|part| part != ".." && part != "."), "{root}");
        assert!(root.below(&path("/app")).is_some(), "{root} is in no volume");
        assert_eq!(ContainerPath::parse(root.as_str()).as_ref(), Ok(root), "one form");
    }
}

/// The bytes of `request.json`.
///
/// # Panics
/// If a request is accepted that breaks a bound, or an answer grows beyond what was asked.
pub fn request(bytes: &[u8]) -> Verdict {
    let refused = match request::judge(bytes, &mounts(), CapturePolicy::Atomic) {
        Ok(valid) => {
            assert!(bytes.len() <= 64 * 1024, "64 KiB");
            hold_roots(&valid.roots);
            let id = valid.request.request_id.as_ref();
            assert!(id.is_none_or(|id| id.chars().count() <= 128), "128 characters");
            let metadata = serde_json::to_vec(&valid.request.metadata).expect("a map of texts");
            assert!(metadata.len() <= 16 * 1024, "16 KiB of metadata");
            let again = serde_json::to_vec(&valid.request).expect("texts and numbers");
            // Numbers and escapes may take more bytes than the app wrote.
            if again.len() <= 64 * 1024 {
                assert_eq!(
                    request::judge(&again, &mounts(), CapturePolicy::Atomic),
                    Ok(valid),
                    "a request has one meaning"
                );
            }
            return Verdict::Accepted;
        }
        Err(refused) => refused,
    };
    assert!(!refused.error.is_empty(), "a refusal says why");
    assert!(refused.error.len() <= 3 * bytes.len().min(64 * 1024) + 16 * 1024, "{}", refused.error);
    assert!(refused.raw_body.as_ref().is_none_or(|body| body.chars().count() <= 1_024));
    assert!(refused.request_id().is_none_or(|id| id.chars().count() <= 128));
    let paths = refused.archive_paths();
    assert!(paths.len() <= 64 && paths.iter().all(|path| path.chars().count() <= 200));
    Verdict::Refused
}

/// Requests that are accepted.
///
/// # Panics
/// Never: the requests are texts.
pub fn request_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        json!({"archive_paths": ["/app"]}),
        json!({
            "archive_paths": ["/app/data/b/", "/app//x", "/app/./data"],
            "metadata": {"step": 3, "loss": 0.125, "tags": ["a", null, true]},
            "runtime": {"provider_capture": "offline", "consumer_apply": "online_restart"},
            "request_id": "r-1",
        }),
    ];
    bodies.iter().map(|body| body.to_string().into_bytes()).collect()
}

/// The bytes of a record as a store has it.
///
/// # Panics
/// If a record is accepted that breaks a bound, or reads otherwise once it was written again.
pub fn record(bytes: &[u8]) -> Verdict {
    let (key, mounts) = (key(), mounts());
    let named = record::named(bytes);
    let accepted = match record::judge(bytes, &key, &mounts, None) {
        Ok(accepted) => accepted,
        Err(refused) => {
            assert!((1..=16).contains(&refused.reasons.len()), "1 to 16 reasons are told");
            let told: usize = refused.reasons.iter().map(String::len).sum();
            assert!(told <= 16 * (6 * bytes.len() + 1_024), "{told} bytes of reasons");
            return Verdict::Refused;
        }
    };
    hold_roots(&accepted.roots);
    let found = &accepted.record;
    let lawful = 1..=(1_u64 << 53) - 1;
    assert!(lawful.contains(&found.epoch) && lawful.contains(&found.seq), "epoch and seq");
    assert_eq!(found.key, key);
    assert!((1..=3).contains(&found.schema), "three schemas");
    assert_eq!(found.signer.is_some(), found.schema > 1, "all but the oldest are signed");
    let manifest = &found.manifest;
    match manifest.archive_format {
        ArchiveFormat::TarGz => assert!(matches!(manifest.schema_version, 1 | 4), "{manifest:?}"),
        ArchiveFormat::Tree => assert!(matches!(manifest.schema_version, 2..=4), "{manifest:?}"),
    }
    assert!(manifest.members <= 1_000_000, "{} entries", manifest.members);
    if let Some(root) = manifest.root_bytes {
        assert!(root <= 16 * 1024 * 1024 && root <= manifest.archive_size_bytes);
        assert_eq!(named, Named::Root(manifest.blob));
    } else {
        let most = u128::from(manifest.archive_size_bytes) * 1_032 + 1_024;
        assert!(u128::from(manifest.content_bytes) <= most, "a bomb");
        assert_eq!(named, Named::Archive(manifest.blob));
    }
    let again = serde_json::to_vec(found).expect("a record is JSON");
    assert_eq!(record::named(&again), named, "what it needs stays");
    // What was signed is a text and not its meaning; written again it may be another one.
    if found.signer.is_none() {
        let judged = record::judge(&again, &key, &mounts, None);
        assert_eq!(judged, Ok(accepted), "a record has one meaning");
    }
    Verdict::Accepted
}

/// Records that are accepted, in each form and schema.
///
/// # Panics
/// Never: the records are texts.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let cid = belay_protocol::Cid::from_digest([1; 32]).to_string();
    let archive = json!({
        "schema": 1, "key": "models", "epoch": 1, "seq": 4, "cid": cid, "parent_cid": null,
        "node_id": "node-a", "publish_id": "p", "version": 1_700_000_000,
        "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {"a": 0.1},
        "runtime": {"provider_capture": "offline", "consumer_apply": "offline_restart"},
        "manifest": {
            "schema_version": 1, "archive_paths": ["/app/data"], "archive_format": "tar.gz",
            "archive_size_bytes": 1000, "encryption": "none", "blob": cid,
            "content_bytes": 5000, "members": 3, "skipped_special": 0,
        },
    });
    let mut tree = archive.clone();
    tree["parent_cid"] = json!(cid);
    tree["manifest"]["schema_version"] = json!(2);
    tree["manifest"]["archive_format"] = json!("tree");
    tree["manifest"]["encryption"] = json!("members");
    tree["manifest"]["root_bytes"] = json!(100);
    let of_schema = |record: &Value, schema: u32| {
        let mut record = record.clone();
        record["manifest"]["schema_version"] = json!(schema);
        record
    };
    let (owned_archive, owned) = (of_schema(&archive, 4), of_schema(&tree, 4));
    let mut import = owned.clone();
    import["schema"] = json!(3);
    import["capture"] = json!("imported");
    let import = serde_json::from_value(import).expect("a record");
    let import = signature::signed(&import, &SigningKey::from_bytes(&[7; 32]));
    let golden = include_bytes!("../core/signature/golden.json").trim_ascii_end().to_vec();
    let open = [archive, tree.clone(), of_schema(&tree, 3), owned_archive, owned];
    let mut seeds: Vec<_> = open.iter().map(|record| record.to_string().into_bytes()).collect();
    seeds.extend([golden, import.expect("a record is JSON")]);
    seeds
}
