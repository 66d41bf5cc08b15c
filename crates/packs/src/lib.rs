//! Content as chunks in packs: what a store holds already is found again, and only what is new
//! travels.
//!
//! A [`Cutter`] cuts bytes where their content says so. A [`ContentWriter`] names each piece by a
//! keyed hash, compresses and seals those that are not known yet, and gathers them in packs, which
//! its [`PackSink`] stores. What was written is a list of [`ChunkRef`]s; [`plan`] turns the ones
//! that a reader lacks into few ranges of few packs, and an [`Opener`] takes a chunk out of its
//! frame and believes nothing but the hash. A [`Chunk`] may be written as the difference to others that
//! are there already. An [`Envelope`] carries the key to one who may read. The format is written down in `docs/packs.md`.
//!
//! There is no io here but through the readers and writers that the caller gives, no clock, no
//! randomness and no task: equal content under equal keys gives equal bytes.

mod chunk;
mod cut;
mod delta;
mod frame;
mod keys;
mod members;
mod pack;
mod plan;
mod writer;

pub use chunk::{ChunkId, ChunkRef, PackNumber, RefFault};
pub use cut::{AVERAGE, Cutter, MAX, MIN};
pub use delta::{BASES_MAX, BELOW_MAX, Chunk, DEPTH_MAX, DeltaFault, WEIGHT_MAX};
pub use frame::{Effort, FRAME_MAX, FrameFault, Opener};
pub use keys::{DataKey, Keys};
pub use members::{Envelope, Member, MemberSecret, NoMember};
pub use pack::{IndexEntry, PACK_MAX, PackFault, PackSummary, index_span, read_index};
pub use plan::{Bounds, Span, plan};
pub use writer::{BaseChunk, ContentWriter, Known, Met, PackSink, Written};
