//! Chunks, and where they lie.

use std::fmt;

use crate::cut::MAX;
use crate::frame::FRAME_MAX;
use crate::pack::PACK_MAX;

/// Name of a chunk: the keyed BLAKE3 of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// The id of these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Place of a pack in the table of the root that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackNumber(pub u32);

/// A chunk and where its frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Which chunk.
    pub id: ChunkId,
    /// Bytes of its content, 1 to [`MAX`].
    pub plain: u32,
    /// The pack that holds it.
    pub pack: PackNumber,
    /// Where its frame begins in the pack, in bytes.
    pub offset: u32,
    /// Bytes of its frame.
    pub stored: u32,
}

/// Why bytes are not a reference to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reference to a chunk names sizes that no chunk has")]
pub struct RefFault;

impl ChunkRef {
    /// Bytes of the encoded form.
    pub const ENCODED: usize = 48;

    /// The encoded form: the id, then `plain`, `pack`, `offset` and `stored` as 4 bytes each, little
    /// endian.
    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        bytes[..32].copy_from_slice(self.id.as_bytes());
        let numbers = [self.plain, self.pack.0, self.offset, self.stored];
        for (place, number) in bytes[32..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads the encoded form.
    ///
    /// # Errors
    /// Sizes that no chunk or pack has, so that nothing is ever allocated for a lie.
    pub fn decode(bytes: &[u8; Self::ENCODED]) -> Result<Self, RefFault> {
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[..32]);
        let mut numbers = [0; 4];
        for (number, four) in numbers.iter_mut().zip(bytes[32..].as_chunks().0) {
            *number = u32::from_le_bytes(*four);
        }
        let [plain, pack, offset, stored] = numbers;
        let pack = PackNumber(pack);
        let fits = (1..=MAX).contains(&plain)
            && (1..=FRAME_MAX).contains(&stored)
            && u64::from(offset) + u64::from(stored) <= PACK_MAX;
        if !fits {
            return Err(RefFault);
        }
        Ok(Self { id: ChunkId(id), plain, pack, offset, stored })
    }
}
