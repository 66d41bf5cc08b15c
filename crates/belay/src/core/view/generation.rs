//! `belay sync show` and `belay sync diff`.

use belay_protocol::record::{ArchiveFormat, Capture, Encryption};
use belay_protocol::{
    Damage, DifferingPart, EntryKind, GenerationStanding, GenerationStored, SyncDifference,
    SyncDifferences, SyncGeneration, SyncLine, TreeEntry, VerifyProgress, VerifySum,
};

use super::Facts;
use crate::core::human;
use crate::core::table::one_line;

/// One generation in full.
pub(crate) fn page(generation: &SyncGeneration) -> String {
    let record = &generation.record;
    let manifest = &record.manifest;
    let mut facts = Facts::default();
    facts.add("cid", record.cid.to_string());
    let place = format!("record {} of epoch {} of {}", record.seq, record.epoch, record.key);
    facts.add(
        "place",
        match generation.standing {
            GenerationStanding::Head => format!("{place}, the newest"),
            GenerationStanding::Superseded => format!("{place}, superseded"),
        },
    );
    if let Some(parent) = &record.parent_cid {
        facts.add("follows", parent.to_string());
    }
    facts.add("published by", record.node_id.as_str());
    facts.add(
        "captured",
        format!("{}, {}", human::clock(record.timestamp), capture(record.capture)),
    );
    facts.add("version", record.version.to_string());
    facts.add("paths", manifest.archive_paths.join(" "));
    let entries = match manifest.members {
        1 => "1 entry".to_owned(),
        members => format!("{members} entries"),
    };
    facts.add("content", format!("{} in {entries}", human::size(manifest.content_bytes)));
    facts.add("format", format(generation));
    let stored = human::size(manifest.archive_size_bytes);
    facts.add(
        "stored",
        match generation.stored {
            GenerationStored::Whole => stored,
            GenerationStored::Incomplete => format!("{stored}, of which objects are missing"),
            GenerationStored::Gone => "no more".to_owned(),
        },
    );
    if manifest.skipped_special > 0 {
        facts.add("left out", format!("{} sockets, FIFOs and devices", manifest.skipped_special));
    }
    if let Some(at) = generation.published_at {
        facts.add("published here", human::clock(at));
    }
    if let Some(at) = generation.applied_at {
        facts.add("applied here", human::clock(at));
    }
    let volumes: Vec<&str> =
        generation.volumes.iter().map(belay_protocol::VolumeName::as_str).collect();
    if !volumes.is_empty() {
        facts.add("held by", format!("volume {}", volumes.join(", ")));
    }
    for (key, value) in &record.metadata {
        facts.add("metadata", format!("{key}={value}"));
    }
    facts.render()
}

fn capture(capture: Capture) -> &'static str {
    match capture {
        Capture::Stopped => "with the container stopped",
        Capture::Atomic => "at one instant of the running app",
        Capture::Live => "while the app was writing",
        Capture::Imported => "of an archive that was imported",
    }
}

fn format(generation: &SyncGeneration) -> String {
    let manifest = &generation.record.manifest;
    let form = match manifest.archive_format {
        ArchiveFormat::TarGz => "tar.gz",
        ArchiveFormat::Tree => "tree",
    };
    let packs = generation.packs.map_or_else(String::new, |packs| {
        let packs = usize::try_from(packs).unwrap_or(usize::MAX);
        format!(" in {}", human::count(packs, "pack"))
    });
    let sealed = match (manifest.encryption, generation.members) {
        (Encryption::None, _) => String::new(),
        (Encryption::Members, None) => ", sealed".to_owned(),
        (Encryption::Members, Some(members)) => {
            let members = usize::try_from(members).unwrap_or(usize::MAX);
            format!(", sealed for {}", human::count(members, "member"))
        }
    };
    format!("{form}{packs}{sealed}")
}

/// A line of `belay sync diff`.
pub(crate) fn line(line: &SyncLine) -> String {
    match line {
        SyncLine::Difference(SyncDifference::Added { path, after }) => {
            format!("+ {}{}\n", one_line(path), entry(after))
        }
        SyncLine::Difference(SyncDifference::Removed { path, before }) => {
            format!("- {}{}\n", one_line(path), entry(before))
        }
        SyncLine::Difference(SyncDifference::Changed { path, before, after, parts }) => {
            let parts: Vec<String> =
                parts.iter().map(|part| changed(*part, before, after)).collect();
            format!("~ {} ({})\n", one_line(path), parts.join(", "))
        }
        SyncLine::Compared(SyncDifferences { added, removed, changed, equal }) => {
            format!("{added} added, {removed} removed, {changed} changed, {equal} the same\n")
        }
        SyncLine::Verifying(VerifyProgress { done_bytes, total_bytes }) => {
            format!("{} of {}\n", human::size(*done_bytes), human::size(*total_bytes))
        }
        SyncLine::Damaged(Damage::Record { reason }) => format!("damaged: {}\n", one_line(reason)),
        SyncLine::Damaged(Damage::Object { generation, object, reason }) => {
            format!("damaged: {object} of {}: {}\n", generation.short(), one_line(reason))
        }
        SyncLine::Damaged(Damage::Content { generation, volumes, reason }) => {
            let volumes: Vec<&str> =
                volumes.iter().map(belay_protocol::VolumeName::as_str).collect();
            let volumes = volumes.join(", ");
            format!("differs: volume {volumes} from {}: {}\n", generation.short(), one_line(reason))
        }
        SyncLine::Verified(VerifySum {
            generations,
            objects,
            bytes,
            marked,
            rehashed,
            damaged,
        }) => {
            let bytes = human::size(*bytes);
            let volumes = match (marked, rehashed) {
                (0, _) => String::new(),
                (marked, 0) => format!("; volumes with a mark: {marked}"),
                (marked, rehashed) => {
                    format!("; volumes that hold what their mark says: {rehashed} of {marked}")
                }
            };
            format!(
                "{generations} generations, {objects} objects, {bytes} read{volumes}; \
                 {damaged} damaged\n"
            )
        }
        SyncLine::Failed(problem) => format!("{problem}\n"),
    }
}

fn entry(entry: &TreeEntry) -> String {
    match (entry.kind, entry.size) {
        (EntryKind::Directory, _) => "/".to_owned(),
        (EntryKind::File, size) => format!(" ({})", human::size(size.unwrap_or(0))),
        (kind @ (EntryKind::Symlink | EntryKind::HardLink), _) => format!(" ({})", word(kind)),
    }
}

fn changed(part: DifferingPart, before: &TreeEntry, after: &TreeEntry) -> String {
    match part {
        DifferingPart::Kind => format!("{} to {}", word(before.kind), word(after.kind)),
        DifferingPart::Content => match (before.size, after.size) {
            (Some(one), Some(other)) if one != other => {
                format!("content, {} to {}", human::size(one), human::size(other))
            }
            _ => "content".to_owned(),
        },
        DifferingPart::Target => "target".to_owned(),
        DifferingPart::Mode => format!("mode {:o} to {:o}", before.mode, after.mode),
        DifferingPart::Owner => format!("owner {} to {}", owner(before), owner(after)),
        DifferingPart::Attributes => "attributes".to_owned(),
    }
}

/// User and group; `volume` for those of the owner of the volume.
fn owner(entry: &TreeEntry) -> String {
    let id = |id: Option<u32>| id.map_or_else(|| "volume".to_owned(), |id| id.to_string());
    format!("{}:{}", id(entry.user), id(entry.group))
}

fn word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory => "directory",
        EntryKind::File => "file",
        EntryKind::Symlink => "symlink",
        EntryKind::HardLink => "hard link",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn generation(standing: &str, stored: &str) -> SyncGeneration {
        let cid = belay_protocol::Cid::from_digest([7; 32]);
        serde_json::from_value(json!({
            "record": {
                "schema": 1, "key": "models", "epoch": 2, "seq": 9, "cid": cid,
                "parent_cid": null, "node_id": "north", "publish_id": "p9", "version": 1_772_366_400,
                "timestamp": "2026-03-01T12:00:00Z", "capture": "stopped",
                "metadata": {"release": 7}, "runtime": {},
                "manifest": {
                    "schema_version": 2, "archive_paths": ["/data", "/srv"],
                    "archive_format": "tree", "archive_size_bytes": 2048,
                    "encryption": "members", "blob": cid, "root_bytes": 512,
                    "content_bytes": 4096, "members": 3, "skipped_special": 2,
                },
            },
            "standing": standing, "stored": stored, "packs": 1, "members": 2,
            "published_at": null, "applied_at": "2026-03-01T12:00:05Z", "volumes": ["data"],
        }))
        .expect("a generation")
    }

    #[test]
    fn a_generation_is_shown_in_full() {
        let shown = page(&generation("head", "whole"));
        for line in [
            "place: record 9 of epoch 2 of models, the newest\n",
            "published by: north\n",
            "captured: 2026-03-01 12:00:00Z, with the container stopped\n",
            "paths: /data /srv\n",
            "content: 4 KiB in 3 entries\n",
            "format: tree in 1 pack, sealed for 2 members\n",
            "stored: 2 KiB\n",
            "left out: 2 sockets, FIFOs and devices\n",
            "applied here: 2026-03-01 12:00:05Z\n",
            "held by: volume data\n",
            "metadata: release=7\n",
        ] {
            assert!(shown.contains(line), "{line}{shown}");
        }
        assert!(!shown.contains("follows") && !shown.contains("published here"), "{shown}");
    }

    #[test]
    fn what_the_store_lacks_is_said() {
        let shown = page(&generation("superseded", "incomplete"));
        assert!(shown.contains(", superseded\n"), "{shown}");
        assert!(shown.contains("stored: 2 KiB, of which objects are missing\n"), "{shown}");
        assert!(page(&generation("superseded", "gone")).contains("stored: no more\n"));
    }

    #[test]
    fn a_difference_is_a_line() {
        let entry =
            |kind: &str, size: Option<u64>| json!({"kind": kind, "size": size, "mode": 0o644});
        for (told, shown) in [
            (
                json!({"line": "difference", "change": "added", "path": "/data/d",
                       "after": entry("directory", None)}),
                "+ /data/d/\n",
            ),
            (
                json!({"line": "difference", "change": "removed", "path": "/data/a\nb",
                       "before": entry("file", Some(2048))}),
                "- /data/a b (2 KiB)\n",
            ),
            (
                json!({"line": "difference", "change": "changed", "path": "/data/f",
                       "before": entry("file", Some(1024)), "after": entry("file", Some(2048)),
                       "parts": ["content", "attributes"]}),
                "~ /data/f (content, 1 KiB to 2 KiB, attributes)\n",
            ),
            (
                json!({"line": "difference", "change": "changed", "path": "/data/l",
                       "before": entry("file", Some(1024)), "after": entry("symlink", None),
                       "parts": ["kind"]}),
                "~ /data/l (file to symlink)\n",
            ),
            (
                json!({"line": "difference", "change": "changed", "path": "/data/d",
                       "before": entry("directory", None),
                       "after": {"kind": "directory", "size": null, "mode": 0o2644, "user": 70, "group": 0},
                       "parts": ["mode", "owner"]}),
                "~ /data/d (mode 644 to 2644, owner volume:volume to 70:0)\n",
            ),
            (
                json!({"line": "compared", "added": 1, "removed": 2, "changed": 3, "equal": 4}),
                "1 added, 2 removed, 3 changed, 4 the same\n",
            ),
            (
                json!({"line": "damaged", "damage": "object",
                       "generation": belay_protocol::Cid::from_digest([7; 32]),
                       "object": belay_protocol::Cid::from_digest([7; 32]), "reason": "gone"}),
                &format!(
                    "damaged: {} of bafkr4iaha4d: gone\n",
                    belay_protocol::Cid::from_digest([7; 32])
                ),
            ),
            (
                json!({"line": "verified", "generations": 2, "objects": 5, "bytes": 2048,
                       "marked": 2, "rehashed": 1, "damaged": 1}),
                "2 generations, 5 objects, 2 KiB read; volumes that hold what their mark says: 1 of 2; \
                 1 damaged\n",
            ),
        ] {
            let told: SyncLine = serde_json::from_value(told).expect("a line");
            assert_eq!(line(&told), shown);
        }
    }
}
