//! Cuts a stream where its content says so, so that a change moves only the cuts around it.
//!
//! `FastCDC` as published in 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems", IEEE TPDS 31, 9), normalisation level 1.

use std::io::{self, Read};

use fastcdc::v2020::{Error, StreamCDC};

/// Fewest bytes of a chunk, but for the last of a stream.
pub const MIN: u32 = 16 * 1024;
/// Bytes of a chunk on average.
pub const AVERAGE: u32 = 64 * 1024;
/// Most bytes of a chunk.
pub const MAX: u32 = 256 * 1024;

/// The chunks of a stream, in order. An empty stream has none.
pub struct Cutter<R: Read> {
    inner: StreamCDC<R>,
}

impl<R: Read> Cutter<R> {
    /// Cuts what `source` gives until its end.
    pub fn new(source: R) -> Self {
        Self { inner: StreamCDC::new(source, MIN as usize, AVERAGE as usize, MAX as usize) }
    }

    /// Cuts into pieces of a quarter of the size, for lists in which a change is a line or two.
    pub fn fine(source: R) -> Self {
        let quarter = |size: u32| (size / 4) as usize;
        Self { inner: StreamCDC::new(source, quarter(MIN), quarter(AVERAGE), quarter(MAX)) }
    }
}

impl<R: Read> Iterator for Cutter<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.inner.next()? {
            Ok(chunk) => Some(Ok(chunk.data)),
            Err(Error::Empty) => None,
            Err(Error::IoError(error)) => Some(Err(error)),
            Err(Error::Other(reason)) => Some(Err(io::Error::other(reason))),
        }
    }
}

impl<R: Read> std::fmt::Debug for Cutter<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cutter")
    }
}
