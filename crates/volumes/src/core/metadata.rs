//! The small file beside an image: what it was made as. It informs and confirms, it never decides
//! where something is attached or mounted.

use serde::{Deserialize, Serialize};

use super::spec::{Allocation, FileSystem, VolumeId, VolumeRole};
use super::superblock::FileSystemId;

/// The largest metadata file that is read.
pub(crate) const LIMIT: u64 = 64 * 1024;

/// The version of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub(crate) struct Schema;

impl TryFrom<u32> for Schema {
    type Error = String;
    fn try_from(version: u32) -> Result<Self, String> {
        if version == 1 { Ok(Self) } else { Err(format!("schema {version} is not known here")) }
    }
}

impl From<Schema> for u32 {
    fn from(_: Schema) -> u32 {
        1
    }
}

/// What is kept of a volume beside its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) schema: Schema,
    pub(crate) id: VolumeId,
    /// The file system made for this volume; an image with another one is not this volume.
    pub(crate) file_system_id: FileSystemId,
    pub(crate) file_system: FileSystem,
    pub(crate) allocation: Allocation,
    pub(crate) role: VolumeRole,
    /// Bytes.
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_check: Option<LastCheck>,
}

/// The last check of a volume's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastCheck {
    /// Seconds since 1970 (UTC).
    pub at: u64,
    /// How it ended.
    pub outcome: CheckOutcome,
}

/// How a check of a file system ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// Nothing was wrong.
    Clean,
    /// What was wrong was repaired without a loss of data.
    Repaired,
    /// Something is left that needs a person.
    Damaged,
}

/// What was found where metadata should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundMetadata {
    Absent,
    /// Not readable as metadata, with the reason.
    Corrupt(String),
    Present(Metadata),
}

impl FoundMetadata {
    /// Reads the content of a metadata file.
    pub(crate) fn read(content: &[u8]) -> Self {
        match serde_json::from_slice(content) {
            Ok(metadata) => Self::Present(metadata),
            Err(error) => Self::Corrupt(error.to_string()),
        }
    }

    /// The metadata, when it could be read.
    pub(crate) fn present(&self) -> Option<&Metadata> {
        match self {
            Self::Present(metadata) => Some(metadata),
            Self::Absent | Self::Corrupt(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = r#"{"schema":1,"id":"web/store","file_system_id":"00112233-4455-6677-8899-aabbccddeeff","file_system":"ext4","allocation":"full","role":"data","size":1048576,"last_check":{"at":5,"outcome":"repaired"}}"#;

    #[test]
    fn the_shape_on_disk_is_pinned() {
        let found = FoundMetadata::read(GOLDEN.as_bytes());
        let metadata = found.present().expect("the golden file");
        assert_eq!(serde_json::to_string(metadata).expect("plain data"), GOLDEN);
    }

    #[test]
    fn a_later_schema_an_unknown_field_or_half_a_file_is_corrupt() {
        for bad in [
            GOLDEN.replace("\"schema\":1", "\"schema\":2"),
            GOLDEN.replace("\"size\"", "\"siez\""),
            GOLDEN[..60].to_owned(),
            String::new(),
        ] {
            assert!(
                matches!(FoundMetadata::read(bad.as_bytes()), FoundMetadata::Corrupt(_)),
                "{bad}"
            );
        }
    }
}
