//! Judges records: shape, consistency, order.

use belay_protocol::record::{
    ArchiveFormat, MANIFEST_SCHEMA, Manifest, RECORD_SCHEMA, SIGNED_SCHEMA, SyncRecord,
    UNSIGNED_SCHEMA,
};
use belay_protocol::{Cid, ProblemCode, PublisherKey, SyncKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::path::{ContainerPath, Mounts, minimal};
use super::request::kind;
use super::root::ROOT_MAX;
use super::signature::is_signed_by;
use super::tree::MEMBERS_MAX;

/// A gzip stream holds at most 1,032 bytes for each of its own; what declares more lies.
const EXPANSION_MAX: u64 = 1_032;
/// Slack for the smallest archives.
const EXPANSION_SLACK: u64 = 1_024;

/// Most declared paths.
pub(crate) const PATHS_MAX: usize = 64;
/// Faults that are told; a hostile record could have any number.
const REASONS_MAX: usize = 16;
/// Highest epoch and number. Every JSON reader holds it, and no provider comes near it.
pub(crate) const ORDER_MAX: u64 = (1 << 53) - 1;

/// A record that is what it should be and can be applied to these mounts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AcceptedRecord {
    pub(crate) record: SyncRecord,
    /// The manifest's paths, in order, none below another.
    pub(crate) roots: Vec<ContainerPath>,
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedRecord {
    /// What kind of refusal it is.
    pub(crate) code: ProblemCode,
    /// The content it names, if that can be read and who names it is believed: nobody else may have
    /// content held back.
    pub(crate) cid: Option<Cid>,
    /// Every fault found.
    pub(crate) reasons: Vec<String>,
}

/// Judges a record found under `key`. First of all who published it, which must be one of
/// `publishers` if there are any; then all faults are gathered.
pub(crate) fn judge(
    bytes: &[u8],
    key: &SyncKey,
    mounts: &Mounts,
    publishers: Option<&[PublisherKey]>,
) -> Result<AcceptedRecord, RefusedRecord> {
    let refuse = |cid, mut reasons: Vec<String>| {
        reasons.truncate(REASONS_MAX);
        Err(RefusedRecord { code: ProblemCode::RecordRefused, cid, reasons })
    };
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return refuse(None, vec![format!("the record is not JSON: {error}")]),
    };
    if !value.is_object() {
        return refuse(None, vec![format!("the record is {}, expected an object", kind(&value))]);
    }
    if let Err((code, reason)) = authenticate(bytes, &value, publishers) {
        return Err(RefusedRecord { code, cid: None, reasons: vec![reason] });
    }
    let cid = value.get("cid").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let mut reasons = surface_faults(&value, mounts);
    if !reasons.is_empty() {
        return refuse(cid, reasons);
    }
    let record: SyncRecord = match serde_json::from_value(value) {
        Ok(record) => record,
        Err(error) => {
            return refuse(cid, vec![format!("the record is not as it should be: {error}")]);
        }
    };
    reasons.extend(inner_faults(&record, key));
    let roots = record.manifest.archive_paths.iter();
    let roots = roots.filter_map(|path| ContainerPath::parse(path).ok()).collect();
    let roots = minimal(roots);
    if !roots.iter().map(ContainerPath::as_str).eq(&record.manifest.archive_paths) {
        reasons
            .push("manifest.archive_paths is not normal, in order and without repetition".into());
    }
    if reasons.is_empty() { Ok(AcceptedRecord { record, roots }) } else { refuse(cid, reasons) }
}

/// Whether a record is from whom it may be from. Nothing else that it says is believed before.
fn authenticate(
    bytes: &[u8],
    record: &Value,
    publishers: Option<&[PublisherKey]>,
) -> Result<(), (ProblemCode, String)> {
    let schema = record.get("schema").and_then(Value::as_u64);
    if let Some(schema) = schema.filter(|schema| *schema > u64::from(RECORD_SCHEMA)) {
        let reason = format!(
            "schema is {schema}, expected at most {RECORD_SCHEMA}: the record is newer than this \
             version of belayd"
        );
        return Err((ProblemCode::RecordNewer, reason));
    }
    let signer = record.get("signer").filter(|signer| !signer.is_null());
    let Some(signer) = signer else {
        // Before records were signed nobody could; who lists publishers does not take their word.
        let unsigned = schema.is_none_or(|schema| schema <= u64::from(UNSIGNED_SCHEMA));
        return if unsigned && publishers.is_none() {
            Ok(())
        } else {
            Err((ProblemCode::RecordUnsigned, "the record is not signed".to_owned()))
        };
    };
    let forged = |reason: String| Err((ProblemCode::RecordForged, reason));
    let Some(signer) = signer.as_str().and_then(|text| text.parse::<PublisherKey>().ok()) else {
        return forged(format!("signer is {}, expected a key", or_missing(Some(signer))));
    };
    if !is_signed_by(bytes, &signer) {
        return forged(format!("the record is not what {signer} signed"));
    }
    if publishers.is_some_and(|listed| !listed.contains(&signer)) {
        let reason = format!("the record is from {signer}, who is not among the publishers");
        return Err((ProblemCode::PublisherRefused, reason));
    }
    Ok(())
}

/// What can be said of a record of any schema, so that a newer one is named as such rather than
/// by its first unknown field.
fn surface_faults(value: &Value, mounts: &Mounts) -> Vec<String> {
    let mut reasons = Vec::new();
    schema_fault(value.get("schema"), "schema", RECORD_SCHEMA, &mut reasons);
    match value.get("cid") {
        Some(Value::String(text)) => {
            if let Err(error) = text.parse::<Cid>() {
                reasons.push(error.to_string());
            }
        }
        other => reasons.push(format!("cid is {}, expected a text", or_missing(other))),
    }
    if !value.get("version").is_some_and(Value::is_u64) {
        let found = or_missing(value.get("version"));
        reasons.push(format!("version is {found}, expected whole seconds"));
    }
    let Some(manifest @ Value::Object(_)) = value.get("manifest") else {
        let found = or_missing(value.get("manifest"));
        reasons.push(format!("manifest is {found}, expected an object"));
        return reasons;
    };
    schema_fault(
        manifest.get("schema_version"),
        "manifest.schema_version",
        MANIFEST_SCHEMA,
        &mut reasons,
    );
    // Each format has schemas of its own, so that an older program says that the record is newer.
    let formats: &[&str] = match manifest.get("schema_version").and_then(Value::as_u64) {
        Some(2 | 3) => &["tree"],
        Some(4) => &["tree", "tar.gz"],
        _ => &["tar.gz"],
    };
    let is_tree = match formats {
        [format] => *format == "tree",
        _ => manifest.get("archive_format").and_then(Value::as_str) == Some("tree"),
    };
    let encryptions: &[&str] = if is_tree { &["none", "members"] } else { &["none"] };
    for (name, expected) in [("archive_format", formats), ("encryption", encryptions)] {
        let shown =
            expected.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" or ");
        match manifest.get(name) {
            Some(Value::String(found)) if expected.contains(&found.as_str()) => {}
            Some(Value::String(found)) => {
                let found: String = found.chars().take(80).collect();
                reasons.push(format!("manifest.{name} is {found:?}, expected {shown}"));
            }
            other => {
                reasons.push(format!("manifest.{name} is {}, expected {shown}", or_missing(other)));
            }
        }
    }
    match manifest.get("archive_paths") {
        Some(Value::Array(paths)) if paths.len() > PATHS_MAX => reasons
            .push(format!("manifest.archive_paths has {} paths, at most {PATHS_MAX}", paths.len())),
        Some(Value::Array(paths)) if !paths.is_empty() => {
            for path in paths {
                path_fault(path, mounts, &mut reasons);
            }
        }
        Some(Value::Array(_)) => reasons.push("manifest.archive_paths is empty".into()),
        other => reasons
            .push(format!("manifest.archive_paths is {}, expected a list", or_missing(other))),
    }
    reasons
}

fn schema_fault(value: Option<&Value>, name: &str, newest: u32, reasons: &mut Vec<String>) {
    match value.and_then(Value::as_u64) {
        Some(schema) if (1..=u64::from(newest)).contains(&schema) => {}
        Some(schema) => reasons.push(format!("{name} is {schema}, expected at most {newest}")),
        None => reasons.push(format!("{name} is {}, expected {newest}", or_missing(value))),
    }
}

fn path_fault(path: &Value, mounts: &Mounts, reasons: &mut Vec<String>) {
    let Some(text) = path.as_str() else {
        reasons.push(format!("manifest.archive_paths holds {}, expected texts", kind(path)));
        return;
    };
    match ContainerPath::parse(text) {
        Ok(path) => {
            if let Err(fault) = mounts.resolve(&path) {
                reasons.push(fault.to_string());
            }
        }
        Err(fault) => reasons.push(fault.to_string()),
    }
}

fn or_missing(value: Option<&Value>) -> String {
    match value {
        None => "missing".into(),
        Some(Value::String(text)) => format!("{:?}", text.chars().take(80).collect::<String>()),
        Some(Value::Number(number)) => number.to_string().chars().take(40).collect(),
        Some(other) => kind(other).into(),
    }
}

fn inner_faults(record: &SyncRecord, key: &SyncKey) -> Vec<String> {
    let mut reasons = Vec::new();
    if record.key != *key {
        reasons.push(format!("the record is for the key {}, found under {key}", record.key));
    }
    let signed = record.signer.is_some() && record.signature.is_some();
    if signed != (record.schema > UNSIGNED_SCHEMA) {
        reasons
            .push(format!("a record of a schema above {UNSIGNED_SCHEMA} is signed, and no other"));
    }
    let least = record.capture.record_schema();
    if record.schema < least && least > SIGNED_SCHEMA {
        reasons.push(format!("schema is {}, expected {least} of an import", record.schema));
    }
    if record.epoch == 0 || record.seq == 0 {
        reasons.push("epoch and seq count from 1".into());
    }
    if record.epoch > ORDER_MAX || record.seq > ORDER_MAX {
        reasons.push(format!("epoch and seq are at most {ORDER_MAX}"));
    }
    let manifest = &record.manifest;
    let paths = manifest.archive_paths.len() as u64;
    if manifest.members < paths || manifest.members > MEMBERS_MAX {
        reasons.push(format!("manifest.members is {}, at most {MEMBERS_MAX}", manifest.members));
    }
    match manifest.archive_format {
        ArchiveFormat::TarGz => archive_faults(manifest, &mut reasons),
        ArchiveFormat::Tree => root_faults(manifest, &mut reasons),
    }
    reasons
}

fn archive_faults(manifest: &Manifest, reasons: &mut Vec<String>) {
    let possible = manifest.archive_size_bytes.saturating_mul(EXPANSION_MAX);
    let possible = possible.saturating_add(EXPANSION_SLACK);
    if manifest.content_bytes > possible {
        reasons.push(format!(
            "manifest.content_bytes is {}, more than {} bytes of gzip can hold",
            manifest.content_bytes, manifest.archive_size_bytes
        ));
    }
    if manifest.root_bytes.is_some() {
        reasons.push("manifest.root_bytes is there, and a tar.gz has no root".into());
    }
}

/// Equal chunks are stored once, so the size of the stored tree does not bound its content. The
/// volumes do.
fn root_faults(manifest: &Manifest, reasons: &mut Vec<String>) {
    let most = ROOT_MAX.min(manifest.archive_size_bytes);
    match manifest.root_bytes {
        Some(1..) if manifest.root_bytes <= Some(most) => {}
        Some(found) => reasons.push(format!("manifest.root_bytes is {found}, at most {most}")),
        None => reasons.push("manifest.root_bytes is missing, expected a number".into()),
    }
}

/// What a record needs in the store, as far as this version can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// This object and no other.
    Archive(Cid),
    /// This root and the packs in its table.
    Root(Cid),
    /// It is of a later version, and may need objects that cannot be told.
    Unknown,
    /// It names none.
    Nothing,
}

/// What a record of any schema needs.
pub(crate) fn named(bytes: &[u8]) -> Named {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Named::Nothing };
    let blob = value.pointer("/manifest/blob").and_then(Value::as_str);
    let Some(blob) = blob.and_then(|text| text.parse().ok()) else { return Named::Nothing };
    match value.pointer("/manifest/archive_format").and_then(Value::as_str) {
        Some("tar.gz") => Named::Archive(blob),
        Some("tree") => Named::Root(blob),
        _ => Named::Unknown,
    }
}

/// A record's place in the order of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

/// How a record stands to the highest one this node ever accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is later.
    New,
    /// It is the same one.
    Same,
    /// It is earlier: a replay, or a store that lost its newest records.
    Behind,
    /// It has the same place and another content: two providers hold one place.
    Fork,
}

/// Compares a record with the highest accepted one. Clocks and versions have no say.
pub(crate) fn standing(highest: Option<(Order, Cid)>, order: Order, cid: Cid) -> Standing {
    match highest {
        None => Standing::New,
        Some((highest, _)) if order > highest => Standing::New,
        Some((highest, _)) if order < highest => Standing::Behind,
        Some((_, accepted)) if accepted == cid => Standing::Same,
        Some(_) => Standing::Fork,
    }
}

impl Order {
    pub(crate) fn of(record: &SyncRecord) -> Self {
        Self { epoch: record.epoch, seq: record.seq }
    }

    /// The place after this one, none if no reader would take it.
    pub(crate) fn next(self) -> Option<Self> {
        let seq = self.seq.checked_add(1)?;
        (self.epoch <= ORDER_MAX && seq <= ORDER_MAX).then_some(Self { epoch: self.epoch, seq })
    }
}

#[cfg(test)]
mod tests;
