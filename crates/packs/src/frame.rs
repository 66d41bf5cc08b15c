//! The frame around a chunk: compressed where that helps, sealed where there is a key.
//!
//! The body of a frame is one byte that says how the content is written, and the content: as it is,
//! compressed, or as the difference to the contents of other chunks. Sealed, the
//! frame is a nonce of 24 bytes and the body under XChaCha20-Poly1305, with the chunk's id as
//! associated data. The nonce is a keyed hash of id and body: two frames of one nonce are one frame,
//! also when another version of the compressor writes the same chunk in another way.

use chacha20poly1305::XNonce;
use chacha20poly1305::aead::{Aead, Payload};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::DCtx;

use crate::chunk::{ChunkId, ChunkRef};
use crate::cut::MAX;
use crate::keys::{Keys, Sealing};

/// Content as it is.
const RAW: u8 = 0;
/// Content as one zstd frame.
const ZSTD: u8 = 1;
/// Content as one zstd frame, with the contents of other chunks as what stands before it.
const DELTA: u8 = 2;

const NONCE: usize = 24;
/// Bytes at the head of a chunk that are tried first.
const SAMPLE: usize = 4 * 1024;

/// Most bytes of a frame: raw content, the byte before it, nonce and tag.
pub const FRAME_MAX: u32 = MAX + 1 + 24 + 16;

/// How hard the compressor tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For content: zstd level 1.
    Fast,
    /// For what is small and fetched by everyone: zstd level 3.
    Thorough,
}

impl Effort {
    fn level(self) -> i32 {
        match self {
            Self::Fast => 1,
            Self::Thorough => 3,
        }
    }
}

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// It has another length than its reference says.
    #[error("the frame has another length than its reference says")]
    Length,
    /// It was not sealed under this key, or was changed since.
    #[error("the frame was not sealed under this key, or was changed since")]
    Seal,
    /// It is written in a way that is not known.
    #[error("the frame is written in a way that is not known")]
    Encoding,
    /// It is a difference where its reference names no other chunk, or none where it does.
    #[error("the frame does not stand on the chunks that its reference names")]
    Bases,
    /// Its content has another size than its reference says.
    #[error("the content of the frame has another size than its reference says")]
    Size,
    /// Its content is not what its id names.
    #[error("the content of the frame is not what its id names")]
    Content,
}

/// Makes frames.
pub(crate) struct Sealer {
    keys: Keys,
    fast: Compressor<'static>,
    thorough: Compressor<'static>,
    body: Vec<u8>,
}

impl Sealer {
    pub(crate) fn new(keys: &Keys) -> Self {
        let compressor = |effort: Effort| {
            Compressor::new(effort.level()).expect("zstd has the level, and memory is not refused")
        };
        Self {
            keys: keys.clone(),
            fast: compressor(Effort::Fast),
            thorough: compressor(Effort::Thorough),
            body: Vec::new(),
        }
    }

    /// The frame of a chunk of at most [`MAX`] bytes.
    pub(crate) fn seal(&mut self, id: ChunkId, plain: &[u8], effort: Effort) -> Vec<u8> {
        self.write_whole(plain, effort);
        self.sealed(id)
    }

    /// The frame of a chunk as a difference to `base`, if that is clearly less than the whole one: at
    /// most half of it, with the `naming` bytes that it takes to say what it stands on. Else the
    /// whole one, and none.
    pub(crate) fn seal_on(
        &mut self,
        id: ChunkId,
        plain: &[u8],
        effort: Effort,
        base: &[u8],
        naming: usize,
    ) -> (Vec<u8>, Standing) {
        self.write_whole(plain, effort);
        let delta =
            delta(plain, base).filter(|delta| 2 * (delta.len() + naming) <= self.body.len());
        let Some(delta) = delta else { return (self.sealed(id), Standing::Alone) };
        self.body.clear();
        self.body.push(DELTA);
        self.body.extend_from_slice(&delta);
        (self.sealed(id), Standing::OnBase)
    }

    fn write_whole(&mut self, plain: &[u8], effort: Effort) {
        let compressor = match effort {
            Effort::Fast => &mut self.fast,
            Effort::Thorough => &mut self.thorough,
        };
        self.body.clear();
        if let Some(content) = compressed(compressor, plain) {
            self.body.push(ZSTD);
            self.body.extend_from_slice(&content);
        } else {
            self.body.push(RAW);
            self.body.extend_from_slice(plain);
        }
    }

    fn sealed(&self, id: ChunkId) -> Vec<u8> {
        match &self.keys.sealing {
            None => self.body.clone(),
            Some(sealing) => sealed(sealing, id.as_bytes(), &self.body),
        }
    }
}

/// Whether a frame needs others to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Alone,
    OnBase,
}

/// The content as a difference to `base`; none if the compressor fails.
fn delta(plain: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    // What it is a difference to serves once, so the context is of this frame alone.
    let mut compressor = Compressor::new(Effort::Thorough.level()).ok()?;
    compressor.context_mut().ref_prefix(base).ok()?;
    compressor.compress(plain).ok()
}

/// Undoes [`delta`], into no more than `size` bytes.
fn without(delta: &[u8], base: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(size);
    let mut context = DCtx::try_create()?;
    context.ref_prefix(base).ok()?;
    context.decompress(&mut plain, delta).ok()?;
    Some(plain)
}

/// The content compressed, if that saves a thirty-second of it or more. What a pass over its head
/// does not shrink is taken for compressed already.
fn compressed(compressor: &mut Compressor<'_>, plain: &[u8]) -> Option<Vec<u8>> {
    let enough = |packed: usize, of: usize| packed + of / 32 < of;
    if plain.len() > 2 * SAMPLE {
        let sample = compressor.compress(&plain[..SAMPLE]).ok()?;
        if !enough(sample.len(), SAMPLE) {
            return None;
        }
    }
    let packed = compressor.compress(plain).ok()?;
    enough(packed.len(), plain.len()).then_some(packed)
}

/// Seals a body; `context` binds it to its place.
pub(crate) fn sealed(sealing: &Sealing, context: &[u8], body: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_keyed(&sealing.nonce);
    hasher.update(&(context.len() as u64).to_le_bytes());
    hasher.update(context);
    hasher.update(body);
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&hasher.finalize().as_bytes()[..NONCE]);
    let payload = Payload { msg: body, aad: context };
    let sealed = sealing.cipher.encrypt(&XNonce::from(nonce), payload);
    let sealed = sealed.expect("a body is far shorter than the cipher's limit");
    let mut frame = Vec::with_capacity(NONCE + sealed.len());
    frame.extend_from_slice(&nonce);
    frame.extend_from_slice(&sealed);
    frame
}

/// Undoes [`sealed`]; `None` if it was not sealed so.
pub(crate) fn unsealed(sealing: &Sealing, context: &[u8], frame: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = frame.split_first_chunk::<NONCE>()?;
    let payload = Payload { msg: sealed, aad: context };
    sealing.cipher.decrypt(&XNonce::from(*nonce), payload).ok()
}

/// Takes chunks out of their frames.
pub struct Opener {
    keys: Keys,
    decompressor: Decompressor<'static>,
}

impl Opener {
    /// For frames made under these keys.
    ///
    /// # Panics
    /// If the decompressor gets no memory.
    pub fn new(keys: &Keys) -> Self {
        let decompressor = Decompressor::new().expect("memory is not refused");
        Self { keys: keys.clone(), decompressor }
    }

    /// The content of a chunk, of which nothing is believed but that its hash is right.
    ///
    /// # Errors
    /// What is wrong with the frame. No more memory is taken than the reference promises.
    pub fn open(&mut self, of: &ChunkRef, frame: &[u8]) -> Result<Vec<u8>, FrameFault> {
        self.content(of, frame, None)
    }

    /// The content of a chunk that stands on others, whose contents are `base`, one behind the other.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open_on(
        &mut self,
        of: &ChunkRef,
        frame: &[u8],
        base: &[u8],
    ) -> Result<Vec<u8>, FrameFault> {
        self.content(of, frame, Some(base))
    }

    fn content(
        &mut self,
        of: &ChunkRef,
        frame: &[u8],
        base: Option<&[u8]>,
    ) -> Result<Vec<u8>, FrameFault> {
        if frame.len() != of.stored as usize {
            return Err(FrameFault::Length);
        }
        let unsealed = match &self.keys.sealing {
            None => None,
            Some(sealing) => {
                Some(unsealed(sealing, of.id.as_bytes(), frame).ok_or(FrameFault::Seal)?)
            }
        };
        let body = unsealed.as_deref().unwrap_or(frame);
        let (&encoding, content) = body.split_first().ok_or(FrameFault::Encoding)?;
        let size = of.plain as usize;
        let plain = match (encoding, base) {
            (RAW, None) => content.to_vec(),
            (ZSTD, None) => {
                self.decompressor.decompress(content, size).map_err(|_| FrameFault::Size)?
            }
            (DELTA, Some(base)) => without(content, base, size).ok_or(FrameFault::Size)?,
            (RAW | ZSTD | DELTA, _) => return Err(FrameFault::Bases),
            _ => return Err(FrameFault::Encoding),
        };
        if plain.len() != size {
            return Err(FrameFault::Size);
        }
        if self.keys.chunk_id(&plain) != of.id {
            return Err(FrameFault::Content);
        }
        Ok(plain)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("keys", &self.keys).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
