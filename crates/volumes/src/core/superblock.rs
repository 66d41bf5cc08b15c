//! What the first bytes of an image say: which file system, whose, how large, left how.
//!
//! Field offsets: ext4 as in the kernel's `Documentation/filesystems/ext4/super.rst`, XFS as in
//! `fs/xfs/libxfs/xfs_format.h`, btrfs as in `include/uapi/linux/btrfs_tree.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spec::FileSystem;

/// How many bytes of an image hold every superblock looked for.
pub(crate) const HEAD: usize = 68 * 1024;

/// The label that every file system made here carries: the mark that an image is ours, kept in the
/// image itself.
pub(crate) const LABEL: &str = "belay";

/// The identity that a file system was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileSystemId([u8; 16]);

/// A text that is not a file system's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a file system id: expected 32 hexadecimal digits in five groups")]
pub struct InvalidFileSystemId {
    /// The text as found, cut to 60 characters.
    pub found: String,
}

impl fmt::Display for FileSystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for FileSystemId {
    type Err = InvalidFileSystemId;
    fn from_str(text: &str) -> Result<Self, InvalidFileSystemId> {
        let invalid = || InvalidFileSystemId { found: text.chars().take(60).collect() };
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
            return Err(invalid());
        }
        let digits = groups.concat();
        if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let value = u128::from_str_radix(&digits, 16).map_err(|_| invalid())?;
        Ok(Self(value.to_be_bytes()))
    }
}

impl TryFrom<String> for FileSystemId {
    type Error = InvalidFileSystemId;
    fn try_from(text: String) -> Result<Self, InvalidFileSystemId> {
        text.parse()
    }
}

impl From<FileSystemId> for String {
    fn from(id: FileSystemId) -> String {
        id.to_string()
    }
}

/// How a file system was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftAs {
    /// Unmounted in order, as far as the superblock tells. XFS and btrfs do not tell: they replay
    /// their log at the next mount.
    Clean,
    /// Not unmounted: its journal holds what was under way.
    Unclean,
    /// The kernel met an inconsistency and marked it.
    Faulty,
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) file_system: FileSystem,
    pub(crate) id: FileSystemId,
    pub(crate) labelled_ours: bool,
    /// Bytes that the file system believes to have under it.
    pub(crate) size: u64,
    pub(crate) left_as: LeftAs,
}

/// Recognises the file system at the start of an image from its first [`HEAD`] bytes, or fewer
/// when the image is shorter.
pub(crate) fn recognise(head: &[u8]) -> Option<Superblock> {
    ext4(head).or_else(|| xfs(head)).or_else(|| btrfs(head))
}

fn ext4(head: &[u8]) -> Option<Superblock> {
    const RECOVER: u32 = 0x4;
    const SIXTY_FOUR_BIT: u32 = 0x80;
    const VALID: u16 = 0x1;
    const ERROR: u16 = 0x2;
    let block = head.get(1024..2048)?;
    if le16(block, 0x38)? != 0xef53 {
        return None;
    }
    let incompatible = le32(block, 0x60)?;
    let high = if incompatible & SIXTY_FOUR_BIT == 0 { 0 } else { le32(block, 0x150)? };
    let blocks = u64::from(high) << 32 | u64::from(le32(block, 0x4)?);
    let block_size = 1024_u64.checked_shl(le32(block, 0x18)?).filter(|&size| size <= 65536)?;
    let state = le16(block, 0x3a)?;
    let left_as = if state & ERROR != 0 {
        LeftAs::Faulty
    } else if state & VALID == 0 || incompatible & RECOVER != 0 {
        LeftAs::Unclean
    } else {
        LeftAs::Clean
    };
    Some(Superblock {
        file_system: FileSystem::Ext4,
        id: id(block, 0x68)?,
        labelled_ours: labelled(block.get(0x78..0x88)?),
        size: blocks.checked_mul(block_size)?,
        left_as,
    })
}

fn xfs(head: &[u8]) -> Option<Superblock> {
    if head.get(..4)? != b"XFSB" {
        return None;
    }
    let block_size = u32::from_be_bytes(head.get(4..8)?.try_into().ok()?);
    let blocks = u64::from_be_bytes(head.get(8..16)?.try_into().ok()?);
    Some(Superblock {
        file_system: FileSystem::Xfs,
        id: id(head, 32)?,
        labelled_ours: labelled(head.get(108..120)?),
        size: blocks.checked_mul(u64::from(block_size))?,
        left_as: LeftAs::Clean,
    })
}

fn btrfs(head: &[u8]) -> Option<Superblock> {
    let block = head.get(64 * 1024..)?;
    if block.get(0x40..0x48)? != b"_BHRfS_M" {
        return None;
    }
    Some(Superblock {
        file_system: FileSystem::Btrfs,
        id: id(block, 0x20)?,
        labelled_ours: labelled(block.get(0x12b..0x22b)?),
        size: u64::from_le_bytes(block.get(0x70..0x78)?.try_into().ok()?),
        left_as: LeftAs::Clean,
    })
}

fn labelled(field: &[u8]) -> bool {
    let end = field.iter().position(|&c| c == 0).unwrap_or(field.len());
    &field[..end] == LABEL.as_bytes()
}

fn id(block: &[u8], at: usize) -> Option<FileSystemId> {
    Some(FileSystemId(block.get(at..at + 16)?.try_into().ok()?))
}

fn le16(block: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?))
}

fn le32(block: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head of an ext4 of 2560 blocks of 4 KiB, as the fields above describe it.
    fn ext4_head() -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let block = &mut head[1024..2048];
        block[0x4..0x8].copy_from_slice(&2560_u32.to_le_bytes());
        block[0x18..0x1c].copy_from_slice(&2_u32.to_le_bytes());
        block[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        block[0x3a..0x3c].copy_from_slice(&1_u16.to_le_bytes());
        block[0x68..0x78].copy_from_slice(&[7; 16]);
        block[0x78..0x7d].copy_from_slice(b"belay");
        head
    }

    #[test]
    fn an_ext4_head_is_recognised() {
        let found = recognise(&ext4_head()).expect("an ext4");
        assert_eq!(found.file_system, FileSystem::Ext4);
        assert_eq!(found.size, 10 * 1024 * 1024);
        assert!(found.labelled_ours);
        assert_eq!(found.left_as, LeftAs::Clean);
        assert_eq!(found.id.to_string(), "07070707-0707-0707-0707-070707070707");
    }

    #[test]
    fn an_ext4_with_a_journal_to_replay_was_left_unclean() {
        let mut head = ext4_head();
        head[1024 + 0x60] = 0x4;
        assert_eq!(recognise(&head).expect("an ext4").left_as, LeftAs::Unclean);
    }

    #[test]
    fn an_ext4_that_met_an_error_is_faulty_even_with_a_journal_to_replay() {
        let mut head = ext4_head();
        head[1024 + 0x60] = 0x4;
        head[1024 + 0x3a] = 0x2;
        assert_eq!(recognise(&head).expect("an ext4").left_as, LeftAs::Faulty);
    }

    #[test]
    fn a_longer_label_is_not_ours() {
        let mut head = ext4_head();
        head[1024 + 0x7d] = b'x';
        assert!(!recognise(&head).expect("an ext4").labelled_ours);
    }

    #[test]
    fn what_is_no_file_system_is_not_recognised() {
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&vec![0; HEAD]), None);
        assert_eq!(recognise(&ext4_head()[..1500]), None);
    }

    proptest! {
        #[test]
        fn no_image_makes_the_reader_panic(
            head in proptest::collection::vec(any::<u8>(), 0..3000),
            magic in 0..4_u8,
        ) {
            let mut head = head;
            head.resize(HEAD, 0xff);
            match magic {
                0 => head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]),
                1 => head[..4].copy_from_slice(b"XFSB"),
                2 => head[65536 + 0x40..65536 + 0x48].copy_from_slice(b"_BHRfS_M"),
                _ => {}
            }
            recognise(&head);
        }

        #[test]
        fn an_id_survives_its_text_form(bytes: [u8; 16]) {
            let id = FileSystemId(bytes);
            prop_assert_eq!(id.to_string().parse::<FileSystemId>(), Ok(id));
        }

        #[test]
        fn a_text_that_is_no_id_is_refused(text in "[0-9a-f-]{0,40}") {
            if let Ok(id) = text.parse::<FileSystemId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
