//! Writes content: what is known is referred to, what is new goes into packs.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crate::chunk::{ChunkId, ChunkRef, PackNumber};
use crate::cut::{Cutter, MAX};
use crate::delta::Chunk;
use crate::frame::{Effort, Sealer, Standing};
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
    /// Those that are known as differences alone.
    deltas: HashMap<ChunkId, Chunk>,
}

impl Known {
    /// Notes where a chunk lies; of two places the first stays.
    pub fn note(&mut self, chunk: ChunkRef) {
        self.at.entry(chunk.id).or_insert(chunk);
    }

    /// Notes a chunk and what it stands on.
    pub fn note_chunk(&mut self, chunk: &Chunk) {
        if !chunk.is_delta() {
            return self.note(*chunk.at());
        }
        self.deltas.entry(chunk.at().id).or_insert_with(|| chunk.clone());
        chunk.bases().iter().for_each(|base| self.note_chunk(base));
    }

    /// Where a chunk lies whole, if it is known.
    pub fn find(&self, id: &ChunkId) -> Option<&ChunkRef> {
        self.at.get(id)
    }

    /// A chunk that is known, whole if it is known so.
    pub fn find_chunk(&self, id: &ChunkId) -> Option<Chunk> {
        let whole = self.at.get(id).map(|at| Chunk::whole(*at));
        whole.or_else(|| self.deltas.get(id).cloned())
    }

    /// How many chunks are known.
    pub fn len(&self) -> usize {
        self.at.len() + self.deltas.keys().filter(|id| !self.at.contains_key(id)).count()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.deltas.is_empty()
    }
}

/// Content that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// It is there already.
    Known(Chunk),
    /// It is new, and this is its name.
    New(ChunkId),
}

/// A chunk that a new one may be written as a difference to, and its content.
#[derive(Debug, Clone)]
pub struct BaseChunk {
    /// The chunk.
    pub chunk: Chunk,
    /// Its content.
    pub content: Vec<u8>,
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
    /// Chunks that were written as differences to others.
    pub deltas: u64,
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

    /// Writes one chunk, whole.
    ///
    /// # Errors
    /// Those of the sink, and a chunk that is empty or larger than [`MAX`].
    pub fn write_chunk(&mut self, plain: &[u8], effort: Effort) -> io::Result<ChunkRef> {
        let id = self.name(plain)?;
        if let Some(known) = self.known.find(&id) {
            return Ok(*known);
        }
        let frame = self.sealer.seal(id, plain, effort);
        let at = self.append(id, &frame, plain)?;
        self.known.note(at);
        Ok(at)
    }

    /// Looks whether a chunk is known, whole or as a difference. What is new is to be [added].
    ///
    /// [added]: Self::add
    ///
    /// # Errors
    /// A chunk that is empty or larger than [`MAX`].
    pub fn meet(&mut self, plain: &[u8]) -> io::Result<Met> {
        let id = self.name(plain)?;
        Ok(self.known.find_chunk(&id).map_or(Met::New(id), Met::Known))
    }

    /// Writes a chunk that was new when it was met: as a difference to `bases`, if a reader may take
    /// it so and if that is clearly less, and else whole.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn add(
        &mut self,
        id: ChunkId,
        plain: &[u8],
        effort: Effort,
        bases: Vec<BaseChunk>,
    ) -> io::Result<Chunk> {
        // It may have come twice before it was written.
        if let Some(known) = self.known.find_chunk(&id) {
            return Ok(known);
        }
        let content: Vec<u8> = bases.iter().flat_map(|base| &base.content).copied().collect();
        let bases: Vec<Chunk> = bases.into_iter().map(|base| base.chunk).collect();
        let may_stand = !bases.is_empty() && Chunk::judge(size(plain), &bases).is_ok();
        let (frame, standing) = if may_stand {
            self.sealer.seal_on(id, plain, effort, &content, Chunk::naming(&bases))
        } else {
            (self.sealer.seal(id, plain, effort), Standing::Alone)
        };
        let at = self.append(id, &frame, plain)?;
        let chunk = match standing {
            Standing::Alone => Chunk::whole(at),
            Standing::OnBase => {
                self.written.deltas += 1;
                Chunk::on(at, bases).map_err(io::Error::other)?
            }
        };
        self.known.note_chunk(&chunk);
        Ok(chunk)
    }

    fn name(&mut self, plain: &[u8]) -> io::Result<ChunkId> {
        if !(1..=MAX).contains(&size(plain)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no chunk has this size"));
        }
        self.written.read += plain.len() as u64;
        Ok(self.keys.chunk_id(plain))
    }

    /// Puts a frame into the pack that is open, or into the next.
    fn append(&mut self, id: ChunkId, frame: &[u8], plain: &[u8]) -> io::Result<ChunkRef> {
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
        let offset = pack.append(id, frame, size(plain))?;
        *chunks += 1;
        let stored = u32::try_from(frame.len()).map_err(io::Error::other)?;
        self.written.new += plain.len() as u64;
        Ok(ChunkRef { id, plain: size(plain), pack: *number, offset, stored })
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

/// Bytes of a chunk; more than any has, if they are too many to count.
fn size(plain: &[u8]) -> u32 {
    u32::try_from(plain.len()).unwrap_or(u32::MAX)
}

impl<S: PackSink> std::fmt::Debug for ContentWriter<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
