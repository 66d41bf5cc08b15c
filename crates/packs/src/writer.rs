//! Writes content: what is known is referred to, what is new goes into packs.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crate::chunk::{ChunkId, ChunkRef, PackNumber};
use crate::cut::{Cutter, MAX};
use crate::frame::{Effort, Sealer};
use crate::keys::Keys;
use crate::pack::{PackBuilder, PackSummary, overhead};

/// A pack that has reached this size is finished. A store handles some megabytes well, and no more
/// than this is sent again when a transfer breaks.
const PACK_TARGET: u64 = 16 * 1024 * 1024;

/// Takes packs as they are written.
pub trait PackSink {
    /// A pack in the making, written once from its beginning to its end.
    type Pack: Write;

    /// Begins the pack of this number.
    fn begin(&mut self, number: PackNumber) -> io::Result<Self::Pack>;

    /// Takes a pack that is complete.
    fn finish(
        &mut self,
        number: PackNumber,
        pack: Self::Pack,
        summary: PackSummary,
    ) -> io::Result<()>;
}

/// Where chunks lie that are in the store already.
#[derive(Debug, Clone, Default)]
pub struct Known {
    at: HashMap<ChunkId, ChunkRef>,
}

impl Known {
    /// Notes where a chunk lies; of two places the first stays.
    pub fn note(&mut self, chunk: ChunkRef) {
        self.at.entry(chunk.id).or_insert(chunk);
    }

    /// Where a chunk lies, if it is known.
    pub fn find(&self, id: &ChunkId) -> Option<&ChunkRef> {
        self.at.get(id)
    }

    /// How many chunks are known.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Bytes of content read.
    pub read: u64,
    /// Bytes of content that were not known.
    pub new: u64,
    /// Bytes of the packs made.
    pub stored: u64,
    /// Packs made.
    pub packs: u32,
}

/// Writes content into packs.
pub struct ContentWriter<S: PackSink> {
    keys: Keys,
    sealer: Sealer,
    known: Known,
    sink: S,
    next: u32,
    open: Option<(PackNumber, PackBuilder<S::Pack>, usize)>,
    written: Written,
}

impl<S: PackSink> ContentWriter<S> {
    /// A writer that knows these chunks and numbers its packs from `first` on.
    pub fn new(keys: &Keys, known: Known, first: PackNumber, sink: S) -> Self {
        Self {
            keys: keys.clone(),
            sealer: Sealer::new(keys),
            known,
            sink,
            next: first.0,
            open: None,
            written: Written::default(),
        }
    }

    /// Writes what `source` gives until its end and says of which chunks it is made.
    ///
    /// # Errors
    /// Those of the source and of the sink; the writer is of no use afterwards.
    pub fn write(&mut self, source: impl Read, effort: Effort) -> io::Result<Vec<ChunkRef>> {
        Cutter::new(source).map(|chunk| self.write_chunk(&chunk?, effort)).collect()
    }

    /// Writes one chunk.
    ///
    /// # Errors
    /// Those of the sink, and a chunk that is empty or larger than [`MAX`].
    pub fn write_chunk(&mut self, plain: &[u8], effort: Effort) -> io::Result<ChunkRef> {
        let size = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        if !(1..=MAX).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no chunk has this size"));
        }
        let id = self.keys.chunk_id(plain);
        self.written.read += u64::from(size);
        if let Some(known) = self.known.find(&id) {
            return Ok(*known);
        }
        let frame = self.sealer.seal(id, plain, effort);
        let full = self.open.as_ref().is_some_and(|(_, pack, chunks)| {
            pack.size() + frame.len() as u64 + overhead(chunks + 1) > PACK_TARGET
        });
        if full {
            self.close()?;
        }
        let (number, pack, chunks) = match &mut self.open {
            Some(open) => open,
            none => {
                let number = PackNumber(self.next);
                self.next = self
                    .next
                    .checked_add(1)
                    .ok_or_else(|| io::Error::other("there are no numbers left for packs"))?;
                none.insert((number, PackBuilder::begin(self.sink.begin(number)?)?, 0))
            }
        };
        let offset = pack.append(id, &frame, size)?;
        *chunks += 1;
        let stored = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let chunk = ChunkRef { id, plain: size, pack: *number, offset, stored };
        self.known.note(chunk);
        self.written.new += u64::from(size);
        Ok(chunk)
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Finishes the last pack.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> io::Result<(S, Known, Written)> {
        self.close()?;
        Ok((self.sink, self.known, self.written))
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((number, pack, _)) = self.open.take() else { return Ok(()) };
        let (pack, summary) = pack.finish(&self.keys)?;
        self.written.stored += summary.size;
        self.written.packs += 1;
        self.sink.finish(number, pack, summary)
    }
}

impl<S: PackSink> std::fmt::Debug for ContentWriter<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
