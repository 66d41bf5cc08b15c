//! Few requests for many chunks.

use std::ops::Range;

use crate::chunk::{ChunkRef, PackNumber};

/// How far neighbours are fetched together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes between two wanted frames that are fetched along rather than asked for apart.
    pub gap: u64,
    /// Bytes of one request, unless a single frame is larger.
    pub most: u64,
}

impl Bounds {
    /// For stores some milliseconds away: what a gap costs is less than what a request costs.
    pub const USUAL: Self = Self { gap: 128 * 1024, most: 8 * 1024 * 1024 };
}

/// One request: a range of a pack, and the wanted frames in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The pack.
    pub pack: PackNumber,
    /// Bytes of the pack.
    pub range: Range<u64>,
    /// The frames, in the order in which they lie.
    pub chunks: Vec<ChunkRef>,
}

impl Span {
    /// The bytes of a frame within those that were fetched; `None` if they are too few.
    pub fn frame<'b>(&self, chunk: &ChunkRef, fetched: &'b [u8]) -> Option<&'b [u8]> {
        let from = usize::try_from(u64::from(chunk.offset).checked_sub(self.range.start)?).ok()?;
        fetched.get(from..from.checked_add(chunk.stored as usize)?)
    }
}

/// The requests for these chunks, each chunk once, by pack and by place in it.
pub fn plan(wanted: impl IntoIterator<Item = ChunkRef>, bounds: Bounds) -> Vec<Span> {
    let mut wanted: Vec<ChunkRef> = wanted.into_iter().collect();
    wanted.sort_unstable_by_key(|chunk| (chunk.pack, chunk.offset, chunk.stored, chunk.id));
    wanted.dedup();
    let mut spans: Vec<Span> = Vec::new();
    for chunk in wanted {
        let from = u64::from(chunk.offset);
        let to = from + u64::from(chunk.stored);
        if let Some(last) = spans.last_mut()
            && last.pack == chunk.pack
            && from <= last.range.end.saturating_add(bounds.gap)
            && to.max(last.range.end) - last.range.start <= bounds.most
        {
            last.range.end = last.range.end.max(to);
            last.chunks.push(chunk);
            continue;
        }
        spans.push(Span { pack: chunk.pack, range: from..to, chunks: vec![chunk] });
    }
    spans
}

#[cfg(test)]
mod tests;
