//! A pack: many frames in one object, and at its end a list of them.
//!
//! The list is for whoever has the pack and not the tree that needs it: repair, and the repacking of
//! what is still alive. Frames lie one behind the other in the order of the list, so that offsets
//! follow from lengths and no list can name bytes outside of the pack or the same bytes twice.

use std::io::{self, Write};
use std::ops::Range;

use belay_protocol::Cid;

use crate::chunk::ChunkId;
use crate::cut::MAX;
use crate::frame::{FRAME_MAX, sealed, unsealed};
use crate::keys::Keys;

/// How a pack begins.
const HEAD: &[u8; 13] = b"belay pack 1\n";
/// How it ends, after the length of the list.
const TAIL: &[u8; 8] = b"packlist";
/// Binds a sealed list to being one.
const LIST_CONTEXT: &[u8] = b"belay pack 1, list";
/// Bytes of a list's entry: id, length of the frame, size of the content.
const ENTRY: usize = 40;
/// What a sealed list has beyond its entries: nonce and tag.
const SEAL: u64 = 40;

/// Most bytes of a pack.
pub const PACK_MAX: u64 = 64 * 1024 * 1024;

/// What a finished pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSummary {
    /// BLAKE3 of its bytes.
    pub id: Cid,
    /// Its bytes.
    pub size: u64,
    /// Chunks in it.
    pub chunks: u32,
}

/// A frame of a pack, as its list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The chunk in it.
    pub id: ChunkId,
    /// Where it begins, in bytes.
    pub offset: u32,
    /// Its bytes.
    pub stored: u32,
    /// Bytes of the chunk's content.
    pub plain: u32,
}

/// Why bytes are not a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackFault {
    /// It does not end like a pack, or is larger or smaller than any.
    #[error("it does not end like a pack")]
    Tail,
    /// Its list was not sealed under this key, or was changed since.
    #[error("the pack's list was not sealed under this key, or was changed since")]
    Seal,
    /// Its list does not describe it.
    #[error("the pack's list does not describe it")]
    List,
}

/// A pack in the making.
pub(crate) struct PackBuilder<W> {
    out: W,
    hasher: blake3::Hasher,
    size: u64,
    list: Vec<u8>,
}

impl<W: Write> PackBuilder<W> {
    pub(crate) fn begin(out: W) -> io::Result<Self> {
        let mut pack = Self { out, hasher: blake3::Hasher::new(), size: 0, list: Vec::new() };
        pack.put(HEAD)?;
        Ok(pack)
    }

    /// Bytes written, without the list.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a frame and says where it begins.
    pub(crate) fn append(&mut self, id: ChunkId, frame: &[u8], plain: u32) -> io::Result<u32> {
        let offset = u32::try_from(self.size).map_err(io::Error::other)?;
        let stored = u32::try_from(frame.len()).map_err(io::Error::other)?;
        self.put(frame)?;
        self.list.extend_from_slice(id.as_bytes());
        self.list.extend_from_slice(&stored.to_le_bytes());
        self.list.extend_from_slice(&plain.to_le_bytes());
        Ok(offset)
    }

    pub(crate) fn finish(mut self, keys: &Keys) -> io::Result<(W, PackSummary)> {
        let chunks = u32::try_from(self.list.len() / ENTRY).map_err(io::Error::other)?;
        let list = std::mem::take(&mut self.list);
        let list = match &keys.sealing {
            None => list,
            Some(sealing) => sealed(sealing, LIST_CONTEXT, &list),
        };
        let length = u32::try_from(list.len()).map_err(io::Error::other)?;
        self.put(&list)?;
        self.put(&length.to_le_bytes())?;
        self.put(TAIL)?;
        let id = Cid::from_digest(*self.hasher.finalize().as_bytes());
        Ok((self.out, PackSummary { id, size: self.size, chunks }))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Bytes after the list: its length and the last word.
const AFTER_LIST: u64 = 12;

/// Where the list of a pack of `size` bytes lies, from its last 12 bytes.
///
/// # Errors
/// [`PackFault::Tail`].
pub fn index_span(size: u64, end: &[u8; 12]) -> Result<Range<u64>, PackFault> {
    let [a, b, c, d, word @ ..] = end;
    let length = u32::from_le_bytes([*a, *b, *c, *d]);
    let to = size.checked_sub(AFTER_LIST).ok_or(PackFault::Tail)?;
    let from = to.checked_sub(u64::from(length)).ok_or(PackFault::Tail)?;
    if word != TAIL || size > PACK_MAX || from < HEAD.len() as u64 {
        return Err(PackFault::Tail);
    }
    Ok(from..to)
}

/// Reads the list that lies at `span` of a pack.
///
/// # Errors
/// [`PackFault::Seal`], [`PackFault::List`].
pub fn read_index(
    keys: &Keys,
    span: &Range<u64>,
    list: &[u8],
) -> Result<Vec<IndexEntry>, PackFault> {
    if list.len() as u64 != span.end - span.start {
        return Err(PackFault::List);
    }
    let unsealed = match &keys.sealing {
        None => None,
        Some(sealing) => Some(unsealed(sealing, LIST_CONTEXT, list).ok_or(PackFault::Seal)?),
    };
    let list = unsealed.as_deref().unwrap_or(list);
    let (entries, rest) = list.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(PackFault::List);
    }
    let mut offset = HEAD.len() as u64;
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut id = [0; 32];
        id.copy_from_slice(&entry[..32]);
        let mut numbers = [0; 2];
        for (number, four) in numbers.iter_mut().zip(entry[32..].as_chunks().0) {
            *number = u32::from_le_bytes(*four);
        }
        let [stored, plain] = numbers;
        let lawful = (1..=FRAME_MAX).contains(&stored) && (1..=MAX).contains(&plain);
        if !lawful || offset + u64::from(stored) > span.start {
            return Err(PackFault::List);
        }
        let at = u32::try_from(offset).map_err(|_| PackFault::List)?;
        found.push(IndexEntry { id: ChunkId::from_bytes(id), offset: at, stored, plain });
        offset += u64::from(stored);
    }
    // Nothing lies between the last frame and the list.
    if offset == span.start { Ok(found) } else { Err(PackFault::List) }
}

/// Bytes that a pack has beyond its frames when it holds `chunks`.
pub(crate) fn overhead(chunks: usize) -> u64 {
    HEAD.len() as u64 + (chunks * ENTRY) as u64 + SEAL + AFTER_LIST
}

#[cfg(test)]
mod tests;
