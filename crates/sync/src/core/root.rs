//! The root of a stored tree: which packs it needs, and of which chunks its manifest is made. The
//! form is written down in `docs/tree-format.md`.

use std::collections::BTreeMap;

use belay_packs::{Chunk, ChunkRef, Envelope, Keys, PACK_MAX, PackNumber};
use belay_protocol::Cid;

use super::manifest::MANIFEST_MAX;

/// How a root begins.
pub(crate) const ROOT_HEAD: &[u8; 13] = b"belay root 1\n";
/// Most bytes of a root: the packs of 4 TiB and the chunks of the largest manifest.
pub(crate) const ROOT_MAX: u64 = 16 * 1024 * 1024;

/// The manifest's chunks are told to anyone.
const OPEN: u8 = 0;
/// They are sealed, and the key lies beside them in envelopes.
const SEALED: u8 = 1;
/// Binds the sealed chunks to being a manifest's.
const MANIFEST_CONTEXT: &[u8] = b"belay root 1, manifest";
/// Most members that a tree is sealed for.
pub(crate) const MEMBERS_MAX: usize = 1_024;
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

/// A root as it is stored, which may be sealed. Its packs are told to anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRoot {
    pub(crate) packs: BTreeMap<PackNumber, StoredPack>,
    /// The key of the tree for each member; none if the tree is not sealed.
    pub(crate) envelopes: Vec<Envelope>,
    /// The references, one behind the other, sealed or not.
    manifest: Vec<u8>,
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
    #[error("it is sealed for no member, or for more than {MEMBERS_MAX}")]
    Members,
    #[error("it was not sealed under this key, or was changed since")]
    Seal,
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
    /// The bytes of the root, sealed under `keys` if those seal.
    pub(crate) fn encode(&self, keys: &Keys, envelopes: &[Envelope]) -> Vec<u8> {
        let references: Vec<u8> = self.manifest.iter().flat_map(ChunkRef::encode).collect();
        let mut bytes = Vec::with_capacity(64 + self.packs.len() * PACK + references.len());
        bytes.extend_from_slice(ROOT_HEAD);
        bytes.push(if keys.is_sealed() { SEALED } else { OPEN });
        bytes.extend_from_slice(&count(self.packs.len()));
        for (number, pack) in &self.packs {
            bytes.extend_from_slice(&number.0.to_le_bytes());
            bytes.extend_from_slice(pack.id.digest());
            bytes.extend_from_slice(&pack.size.to_le_bytes());
        }
        if keys.is_sealed() {
            bytes.extend_from_slice(&count(envelopes.len()));
            for envelope in envelopes {
                bytes.extend_from_slice(&envelope.encode());
            }
            let sealed = keys.seal(MANIFEST_CONTEXT, &references);
            bytes.extend_from_slice(&count(sealed.len()));
            bytes.extend_from_slice(&sealed);
        } else {
            bytes.extend_from_slice(&count(self.manifest.len()));
            bytes.extend_from_slice(&references);
        }
        bytes
    }

    /// The pack in which a chunk's frame lies.
    pub(crate) fn place(&self, chunk: &ChunkRef) -> Result<StoredPack, RootFault> {
        let pack = self.packs.get(&chunk.pack).ok_or(RootFault::Reference)?;
        let end = u64::from(chunk.offset) + u64::from(chunk.stored);
        if end > u64::from(pack.size) { Err(RootFault::Reference) } else { Ok(*pack) }
    }

    /// Whether a chunk and all that it stands on lie in packs of the root.
    pub(crate) fn place_all(&self, chunk: &Chunk) -> Result<(), RootFault> {
        let mut placed = Ok(());
        chunk.each(&mut |at| {
            if placed.is_ok() {
                placed = self.place(at).map(drop);
            }
        });
        placed
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

impl StoredRoot {
    /// Reads a root of which nothing is believed.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RootFault> {
        let rest = bytes.strip_prefix(ROOT_HEAD).ok_or(RootFault::Head)?;
        let (&sealing, rest) = rest.split_first().ok_or(RootFault::Length)?;
        let (rows, rest) = table::<PACK>(rest)?;
        let (envelopes, manifest) = match sealing {
            OPEN => {
                let (references, rest) = table::<{ ChunkRef::ENCODED }>(rest)?;
                (Vec::new(), whole(references.as_flattened(), rest)?)
            }
            SEALED => {
                let (envelopes, rest) = table::<{ Envelope::ENCODED }>(rest)?;
                if !(1..=MEMBERS_MAX).contains(&envelopes.len()) {
                    return Err(RootFault::Members);
                }
                let (sealed, rest) = table::<1>(rest)?;
                let envelopes = envelopes.iter().map(Envelope::decode).collect();
                (envelopes, whole(sealed.as_flattened(), rest)?)
            }
            _ => return Err(RootFault::Sealing),
        };
        let mut packs = BTreeMap::new();
        for row in rows {
            let (number, pack) = decode_pack(row)?;
            if packs.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(RootFault::Packs);
            }
            packs.insert(number, pack);
        }
        Ok(Self { packs, envelopes, manifest: manifest.to_vec() })
    }

    /// The root itself, by the keys of its tree.
    pub(crate) fn open(self, keys: &Keys) -> Result<Root, RootFault> {
        if keys.is_sealed() == self.envelopes.is_empty() {
            return Err(RootFault::Seal);
        }
        let references = keys.unseal(MANIFEST_CONTEXT, &self.manifest).ok_or(RootFault::Seal)?;
        let (rows, rest) = references.as_chunks();
        if !rest.is_empty() {
            return Err(RootFault::Length);
        }
        let mut root = Root { packs: self.packs, manifest: Vec::with_capacity(rows.len()) };
        for row in rows {
            let chunk = ChunkRef::decode(row).map_err(|_| RootFault::Reference)?;
            root.place(&chunk)?;
            root.manifest.push(chunk);
        }
        if root.manifest_bytes() > MANIFEST_MAX {
            return Err(RootFault::ManifestTooLarge);
        }
        Ok(root)
    }
}

/// What must be all that is left.
fn whole<'b>(last: &'b [u8], rest: &[u8]) -> Result<&'b [u8], RootFault> {
    if rest.is_empty() { Ok(last) } else { Err(RootFault::Length) }
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
