//! The root of a stored tree: which packs it needs, and of which chunks its manifest is made. The
//! form is written down in `docs/tree-format.md`.

use std::collections::BTreeMap;

use belay_packs::{ChunkRef, PACK_MAX, PackNumber};
use belay_protocol::Cid;

use super::manifest::MANIFEST_MAX;

/// How a root begins.
pub(crate) const ROOT_HEAD: &[u8; 13] = b"belay root 1\n";
/// Most bytes of a root: the packs of 4 TiB and the chunks of the largest manifest.
pub(crate) const ROOT_MAX: u64 = 16 * 1024 * 1024;

/// What follows is as it is.
const OPEN: u8 = 0;
/// Bytes of a pack in the table.
const PACK: usize = 40;

/// The root of a stored tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// The packs, by the numbers that references use.
    pub(crate) packs: BTreeMap<PackNumber, StoredPack>,
    /// The chunks of the manifest, in order.
    pub(crate) manifest: Vec<ChunkRef>,
}

/// A pack in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredPack {
    pub(crate) id: Cid,
    /// Its bytes.
    pub(crate) size: u32,
}

/// Why bytes are not a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootFault {
    #[error("it does not begin like a root")]
    Head,
    #[error("it is sealed in a way that is not known")]
    Sealing,
    #[error("it ends early, or late")]
    Length,
    #[error("its packs are not in order, or have sizes that no pack has")]
    Packs,
    #[error("it refers to bytes that are in none of its packs")]
    Reference,
    #[error("its manifest is larger than {MANIFEST_MAX} bytes")]
    ManifestTooLarge,
}

impl Root {
    /// The bytes of the root.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            32 + self.packs.len() * PACK + self.manifest.len() * ChunkRef::ENCODED,
        );
        bytes.extend_from_slice(ROOT_HEAD);
        bytes.push(OPEN);
        bytes.extend_from_slice(&count(self.packs.len()));
        for (number, pack) in &self.packs {
            bytes.extend_from_slice(&number.0.to_le_bytes());
            bytes.extend_from_slice(pack.id.digest());
            bytes.extend_from_slice(&pack.size.to_le_bytes());
        }
        bytes.extend_from_slice(&count(self.manifest.len()));
        for chunk in &self.manifest {
            bytes.extend_from_slice(&chunk.encode());
        }
        bytes
    }

    /// Reads a root of which nothing is believed.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RootFault> {
        let rest = bytes.strip_prefix(ROOT_HEAD).ok_or(RootFault::Head)?;
        let (&sealing, rest) = rest.split_first().ok_or(RootFault::Length)?;
        if sealing != OPEN {
            return Err(RootFault::Sealing);
        }
        let (packs, rest) = table::<PACK>(rest)?;
        let (chunks, rest) = table::<{ ChunkRef::ENCODED }>(rest)?;
        if !rest.is_empty() {
            return Err(RootFault::Length);
        }
        let mut root = Self { packs: BTreeMap::new(), manifest: Vec::with_capacity(chunks.len()) };
        for pack in packs {
            let (number, pack) = decode_pack(pack)?;
            if root.packs.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(RootFault::Packs);
            }
            root.packs.insert(number, pack);
        }
        for chunk in chunks {
            let chunk = ChunkRef::decode(chunk).map_err(|_| RootFault::Reference)?;
            root.place(&chunk)?;
            root.manifest.push(chunk);
        }
        if root.manifest_bytes() > MANIFEST_MAX {
            return Err(RootFault::ManifestTooLarge);
        }
        Ok(root)
    }

    /// The pack in which a chunk's frame lies.
    pub(crate) fn place(&self, chunk: &ChunkRef) -> Result<StoredPack, RootFault> {
        let pack = self.packs.get(&chunk.pack).ok_or(RootFault::Reference)?;
        let end = u64::from(chunk.offset) + u64::from(chunk.stored);
        if end > u64::from(pack.size) { Err(RootFault::Reference) } else { Ok(*pack) }
    }

    /// Bytes of the manifest.
    pub(crate) fn manifest_bytes(&self) -> u64 {
        self.manifest.iter().map(|chunk| u64::from(chunk.plain)).sum()
    }

    /// Bytes of the packs.
    pub(crate) fn pack_bytes(&self) -> u64 {
        self.packs.values().map(|pack| u64::from(pack.size)).sum()
    }
}

/// No root within its bound has as many as 4 bytes count.
fn count(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// A number of rows, and what follows them. No more is taken than is there.
fn table<const ROW: usize>(bytes: &[u8]) -> Result<(&[[u8; ROW]], &[u8]), RootFault> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or(RootFault::Length)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| RootFault::Length)?;
    let length = count.checked_mul(ROW).ok_or(RootFault::Length)?;
    let (rows, rest) = rest.split_at_checked(length).ok_or(RootFault::Length)?;
    Ok((rows.as_chunks().0, rest))
}

fn decode_pack(row: &[u8; PACK]) -> Result<(PackNumber, StoredPack), RootFault> {
    let (number, rest) = row.split_first_chunk::<4>().ok_or(RootFault::Length)?;
    let (digest, size) = rest.split_first_chunk::<32>().ok_or(RootFault::Length)?;
    let size = u32::from_le_bytes(size.try_into().map_err(|_| RootFault::Length)?);
    if size == 0 || u64::from(size) > PACK_MAX {
        return Err(RootFault::Packs);
    }
    let number = PackNumber(u32::from_le_bytes(*number));
    Ok((number, StoredPack { id: Cid::from_digest(*digest), size }))
}

#[cfg(test)]
mod tests;
