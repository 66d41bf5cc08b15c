//! What an operator asks of a workload's volume-sync beside a publish, and what is answered.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::record::SyncRecord;
use crate::{Cid, Problem, VolumeName};

/// What can be done with the volume-sync of one workload (`POST /v1/workloads/{name}/sync/...`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SyncAct {
    /// Have it publish and apply nothing until it is resumed (`POST .../pause`).
    Pause,
    /// End a pause, and what a rollback holds back (`POST .../resume`).
    Resume,
    /// Have a consumer apply the newest record now, whatever holds it back (`POST .../apply`).
    Apply,
    /// Take a consumer back to an earlier generation (`POST .../rollback`).
    Rollback(SyncRollbackRequest),
}

/// Which generation a consumer is to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRollbackRequest {
    /// Its content; the one that was applied before the present one when absent.
    #[serde(default)]
    pub cid: Option<CidPrefix>,
}

impl SyncAct {
    /// The word that the command and the API use for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Pause => "sync pause",
            Self::Resume => "sync resume",
            Self::Apply => "sync apply",
            Self::Rollback(_) => "sync rollback",
        }
    }
}

/// What can be asked about what is published under a workload's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncQuestion {
    /// One generation (`GET /v1/workloads/{name}/sync/generation`).
    Show {
        /// Which; the newest when absent.
        cid: Option<CidPrefix>,
    },
    /// One generation as an archive (`GET /v1/workloads/{name}/sync/export`).
    Export {
        /// Which; the newest when absent.
        cid: Option<CidPrefix>,
    },
    /// What differs between two (`GET /v1/workloads/{name}/sync/diff`).
    Diff {
        /// The first; the newest when absent.
        from: Option<CidPrefix>,
        /// The second.
        to: DiffAgainst,
    },
    /// Whether what is kept is whole (`GET /v1/workloads/{name}/sync/verify`).
    Verify {
        /// What of the volumes is looked at.
        depth: VerifyDepth,
    },
}

/// What of a workload's volumes is looked at when what is published is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Which generation each says it holds.
    Marks,
    /// That, and every file. What the app has written since the apply is a difference.
    Content,
}

/// What a generation is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffAgainst {
    /// A generation; the newest when absent.
    Generation(Option<CidPrefix>),
    /// What the workload's volumes hold now.
    Live,
}

impl SyncQuestion {
    /// The word that the command uses for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Show { .. } => "sync show",
            Self::Export { .. } => "sync export",
            Self::Diff { .. } => "sync diff",
            Self::Verify { .. } => "sync verify",
        }
    }
}

/// A piece of the answer to a [`SyncQuestion`].
#[derive(Debug, Clone, PartialEq)]
pub enum SyncPiece {
    /// The generation that was asked for.
    Generation(Box<SyncGeneration>),
    /// The next bytes of an archive.
    Bytes(Vec<u8>),
    /// The next line of a list.
    Line(SyncLine),
    /// The answer is whole. Without this it was cut short.
    End,
    /// The answer ends early.
    Failed(Box<Problem>),
}

/// A piece of an archive that is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncUpload {
    /// Its next bytes.
    Bytes(Vec<u8>),
    /// It is whole. Without this it was cut short.
    End,
}

/// One line of an answer that is a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SyncLine {
    /// A path at which two trees differ, in the order of paths.
    Difference(SyncDifference),
    /// All of them were told.
    Compared(SyncDifferences),
    /// How much was read.
    Verifying(VerifyProgress),
    /// Something that is not as it should be.
    Damaged(Damage),
    /// All was read.
    Verified(VerifySum),
    /// The list ends early.
    Failed(Box<Problem>),
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyProgress {
    /// Bytes of stored objects that were read.
    pub done_bytes: u64,
    /// Bytes of all, those that generations share counted for each.
    pub total_bytes: u64,
}

/// What a verification found to be damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "damage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Damage {
    /// A record of the key's log.
    Record {
        /// What is wrong with it.
        reason: String,
    },
    /// An object that a kept generation needs.
    Object {
        /// The generation.
        generation: Cid,
        /// The object.
        object: Cid,
        /// What is wrong with it.
        reason: String,
    },
    /// What volumes hold is not what their marks say.
    Content {
        /// The generation that the marks name.
        generation: Cid,
        /// The volumes.
        volumes: Vec<VolumeName>,
        /// What is wrong.
        reason: String,
    },
}

/// What was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySum {
    /// Generations that the key keeps.
    pub generations: u64,
    /// Objects that they need.
    pub objects: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// Volumes that carry a mark of the key.
    pub marked: u64,
    /// Volumes whose every file was read and is as their mark says.
    pub rehashed: u64,
    /// What is damaged.
    pub damaged: u64,
}

/// A path at which two trees differ. Bytes of it that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SyncDifference {
    /// The second tree has it, the first does not.
    Added {
        /// Its path in the container.
        path: String,
        /// What it is.
        after: TreeEntry,
    },
    /// The first tree has it, the second does not.
    Removed {
        /// Its path in the container.
        path: String,
        /// What it was.
        before: TreeEntry,
    },
    /// Both have it.
    Changed {
        /// Its path in the container.
        path: String,
        /// What it was.
        before: TreeEntry,
        /// What it is.
        after: TreeEntry,
        /// What of it is not the same.
        parts: Vec<DifferingPart>,
    },
}

/// An entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// Permission bits, the sticky bit and the set-id bits.
    pub mode: u32,
    /// Number of the user whom it belongs to, if that is not the owner of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Number of its group, if that is not the group of its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symlink.
    Symlink,
    /// Another name of a file that comes before it.
    HardLink,
}

/// What of an entry is not the same in two trees. Times do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferingPart {
    /// What it is.
    Kind,
    /// The bytes of a file.
    Content,
    /// Where a link leads.
    Target,
    /// The permission bits, the sticky bit or the set-id bits.
    Mode,
    /// Whom it belongs to.
    Owner,
    /// The extended attributes of the `user` namespace.
    Attributes,
}

/// How many entries of two trees differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncDifferences {
    /// Entries that only the second has.
    pub added: u64,
    /// Entries that only the first has.
    pub removed: u64,
    /// Entries that differ.
    pub changed: u64,
    /// Entries that are the same.
    pub equal: u64,
}

/// One published generation, as its record, the store and this node's volumes tell of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncGeneration {
    /// The record that announced it last.
    pub record: SyncRecord,
    /// Whether it is the newest of its key.
    pub standing: GenerationStanding,
    /// Whether the store has what the record names.
    pub stored: GenerationStored,
    /// Packs that its files and its manifest lie in; none for a `tar.gz`.
    pub packs: Option<u64>,
    /// Members that it is sealed for; none if it is not sealed.
    pub members: Option<u64>,
    /// When this node published it.
    pub published_at: Option<Timestamp>,
    /// When this node applied it last.
    pub applied_at: Option<Timestamp>,
    /// Volumes of the workload that hold it now.
    pub volumes: Vec<VolumeName>,
}

/// Where a generation stands among those of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationStanding {
    /// It is the newest.
    Head,
    /// A later one was published.
    Superseded,
}

/// Whether the store has a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationStored {
    /// All objects that its record names are there, each of its size.
    Whole,
    /// At least one is missing, or has another size.
    Incomplete,
    /// Its root or archive is gone; nothing more can be told.
    Gone,
}

/// The beginning of a content id, long enough to tell contents apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CidPrefix(String);

/// A text that no content id begins with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is not a content id: expected one as belay sync history shows it, \
     at least {SHORTEST} characters that begin with {HEAD}"
)]
pub struct InvalidCidPrefix {
    /// The text as found, cut to 80 characters.
    pub found: String,
}

/// How every content id of this program begins, whatever the content.
const HEAD: &str = "bafkr4i";
/// Characters that a prefix must have.
const SHORTEST: usize = 10;
/// Characters of a whole id.
const LONGEST: usize = 59;

impl CidPrefix {
    /// Whether this is the beginning of an id.
    pub fn begins(&self, cid: &Cid) -> bool {
        cid.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for CidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CidPrefix {
    type Err = InvalidCidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidCidPrefix> {
        let rest = text.strip_prefix(HEAD);
        let lawful =
            |rest: &str| rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        let length = SHORTEST..=LONGEST;
        match rest {
            Some(rest) if lawful(rest) && length.contains(&text.len()) => Ok(Self(text.to_owned())),
            Some(_) | None => Err(InvalidCidPrefix { found: text.chars().take(80).collect() }),
        }
    }
}

impl TryFrom<String> for CidPrefix {
    type Error = InvalidCidPrefix;

    fn try_from(text: String) -> Result<Self, InvalidCidPrefix> {
        text.parse()
    }
}

impl From<CidPrefix> for String {
    fn from(prefix: CidPrefix) -> Self {
        prefix.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_what_a_listing_shows() {
        let cid = Cid::from_digest([7; 32]);
        for text in [cid.short(), cid.to_string()] {
            let prefix: CidPrefix = text.parse().expect("the beginning of an id");
            assert!(prefix.begins(&cid));
            assert!(!prefix.begins(&Cid::from_digest([8; 32])));
            assert_eq!(prefix.to_string(), text);
        }
    }

    #[test]
    fn what_no_id_begins_with_is_refused_with_what_would_do() {
        let cid = Cid::from_digest([7; 32]).to_string();
        for bad in ["", "bafkr4ia", "Bafkr4iaha4d", "bafkr4iaha1d", "web", &format!("{cid}a")] {
            let error = bad.parse::<CidPrefix>().expect_err(bad);
            assert!(error.to_string().contains("begin with bafkr4i"), "{error}");
        }
    }

    #[test]
    fn acts_have_the_form_written_down() {
        for (act, golden) in
            [(SyncAct::Pause, "pause"), (SyncAct::Resume, "resume"), (SyncAct::Apply, "apply")]
        {
            let golden = serde_json::json!({"act": golden});
            assert_eq!(serde_json::to_value(&act).expect("serialises"), golden);
            assert_eq!(serde_json::from_value::<SyncAct>(golden).expect("reads"), act);
        }
        let cid = "bafkr4iaha4d".parse().ok();
        let act = SyncAct::Rollback(SyncRollbackRequest { cid });
        let golden = serde_json::json!({"act": "rollback", "cid": "bafkr4iaha4d"});
        assert_eq!(serde_json::to_value(&act).expect("serialises"), golden);
        assert_eq!(serde_json::from_value::<SyncAct>(golden).expect("reads"), act);
    }
}
