//! Chunks that are written as differences to other chunks.

use crate::chunk::{ChunkRef, RefFault};

/// Most deltas that stand one upon the other.
pub const DEPTH_MAX: u8 = 4;
/// Most chunks that one delta stands on.
pub const BASES_MAX: usize = 8;
/// Most chunks below a delta, those included on which its bases stand.
pub const BELOW_MAX: usize = 63;
/// Most bytes of content of all chunks below a delta, as a multiple of its own.
pub const WEIGHT_MAX: u64 = 16;

/// A chunk, and what it takes to read it: none for one that is whole, else the chunks whose contents,
/// one behind the other, its frame is a difference to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    at: ChunkRef,
    bases: Vec<Self>,
}

/// Why a chunk cannot stand on others as it is said to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaFault {
    /// The bytes are no chunk and what it stands on.
    #[error("a chunk is not told with all that it stands on")]
    Shape,
    /// One of the chunks has sizes that no chunk has.
    #[error(transparent)]
    Reference(#[from] RefFault),
    /// One difference is taken to another too often.
    #[error("a chunk is a difference to a difference more than {DEPTH_MAX} times")]
    Depth,
    /// It stands on too many chunks.
    #[error(
        "a chunk stands on more than {BASES_MAX} chunks, or has more than {BELOW_MAX} below it"
    )]
    Bases,
    /// What it stands on is out of proportion.
    #[error("what a chunk stands on is more than {WEIGHT_MAX} times its size")]
    Weight,
}

impl Chunk {
    /// Bytes of a chunk in the encoded form: how many it stands on, and its reference.
    const STEP: usize = 1 + ChunkRef::ENCODED;
    /// Most bytes of the encoded form.
    pub const ENCODED_MAX: usize = (BELOW_MAX + 1) * Self::STEP;

    /// A chunk that stands on no other.
    pub fn whole(at: ChunkRef) -> Self {
        Self { at, bases: Vec::new() }
    }

    /// A chunk that is a difference to others; whole if there are none.
    ///
    /// # Errors
    /// If that would take a reader more than its bounds allow.
    pub fn on(at: ChunkRef, bases: Vec<Self>) -> Result<Self, DeltaFault> {
        Self::judge(at.plain, &bases)?;
        Ok(Self { at, bases })
    }

    /// Whether a chunk of `plain` bytes may be a difference to these.
    ///
    /// # Errors
    /// As [`Chunk::on`].
    pub fn judge(plain: u32, bases: &[Self]) -> Result<(), DeltaFault> {
        if bases.iter().any(|base| base.depth() >= DEPTH_MAX) {
            return Err(DeltaFault::Depth);
        }
        let (below, weight) = below(bases);
        if bases.len() > BASES_MAX || below > BELOW_MAX {
            return Err(DeltaFault::Bases);
        }
        if weight > WEIGHT_MAX * u64::from(plain) {
            return Err(DeltaFault::Weight);
        }
        Ok(())
    }

    /// Which chunk, and where its frame lies.
    pub fn at(&self) -> &ChunkRef {
        &self.at
    }

    /// What it stands on, in the order in which their contents follow each other.
    pub fn bases(&self) -> &[Self] {
        &self.bases
    }

    /// Whether it stands on others.
    pub fn is_delta(&self) -> bool {
        !self.bases.is_empty()
    }

    /// Gives every frame that may be needed to read it to `take`: its own, and those below.
    pub fn each(&self, take: &mut dyn FnMut(&ChunkRef)) {
        take(&self.at);
        self.bases.iter().for_each(|base| base.each(take));
    }

    fn depth(&self) -> u8 {
        self.bases.iter().map(|base| base.depth().saturating_add(1)).max().unwrap_or(0)
    }

    /// Bytes that it takes to say what a chunk stands on.
    pub(crate) fn naming(bases: &[Self]) -> usize {
        below(bases).0 * Self::STEP
    }

    /// Appends the encoded form: what it stands on, each in this form, then how many those are (1
    /// byte) and its own reference.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.bases.iter().for_each(|base| base.encode(out));
        // There are no more of them than a byte counts.
        out.push(u8::try_from(self.bases.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.at.encode());
    }

    /// Reads the encoded form. What a chunk stands on comes before it, so that none stands on itself.
    ///
    /// # Errors
    /// Whatever would take a reader more than its bounds allow.
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaFault> {
        let (steps, rest) = bytes.as_chunks::<{ Self::STEP }>();
        if !rest.is_empty() || steps.len() > BELOW_MAX + 1 {
            return Err(DeltaFault::Shape);
        }
        let mut told: Vec<Self> = Vec::new();
        for step in steps {
            let (&[count], reference) = step.split_first_chunk().ok_or(DeltaFault::Shape)?;
            let reference = reference.try_into().map_err(|_| DeltaFault::Shape)?;
            let from = told.len().checked_sub(count.into()).ok_or(DeltaFault::Shape)?;
            let bases = told.split_off(from);
            told.push(Self::on(ChunkRef::decode(reference)?, bases)?);
        }
        let chunk = told.pop().ok_or(DeltaFault::Shape)?;
        if told.is_empty() { Ok(chunk) } else { Err(DeltaFault::Shape) }
    }
}

/// How many chunks these are with all below them, and how many bytes of content they have.
fn below(bases: &[Chunk]) -> (usize, u64) {
    bases.iter().fold((0, 0), |(count, weight), base| {
        let (more, heavier) = below(&base.bases);
        (count + 1 + more, weight + u64::from(base.at.plain) + heavier)
    })
}

#[cfg(test)]
mod tests;
