//! Reads and writes manifests as streams.

use std::io::{self, Read, Write};

use crate::core::manifest::{
    BodyLength, MANIFEST_HEAD, MANIFEST_MAX, ManifestFault, Record, Sequence, Version, body_length,
    decode, encode,
};

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the manifest is refused: {0}")]
    Fault(#[from] ManifestFault),
    #[error("the manifest could not be read")]
    Io(#[source] io::Error),
}

/// A manifest that would be larger than any reader takes.
#[derive(Debug, thiserror::Error)]
#[error("the list of the tree's entries and chunks is larger than {MANIFEST_MAX} bytes")]
pub(crate) struct ManifestTooLarge;

/// Writes records one after the other.
#[derive(Debug)]
pub(crate) struct ManifestWriter<W: Write> {
    out: W,
    record: Vec<u8>,
    written: u64,
}

impl<W: Write> ManifestWriter<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MANIFEST_HEAD)?;
        Ok(Self { out, record: Vec::new(), written: MANIFEST_HEAD.len() as u64 })
    }

    pub(crate) fn put(&mut self, record: &Record) -> io::Result<()> {
        self.record.clear();
        encode(record, &mut self.record);
        self.written += self.record.len() as u64;
        if self.written > MANIFEST_MAX {
            return Err(io::Error::other(ManifestTooLarge));
        }
        self.out.write_all(&self.record)
    }

    pub(crate) fn finish(self) -> W {
        self.out
    }
}

/// Reads records one after the other, and holds that they follow each other as they may.
#[derive(Debug)]
pub(crate) struct ManifestReader<R: Read> {
    inner: R,
    version: Version,
    body: Vec<u8>,
    sequence: Sequence,
}

impl<R: Read> ManifestReader<R> {
    pub(crate) fn new(mut inner: R) -> Result<Self, ManifestError> {
        let mut head = [0; MANIFEST_HEAD.len()];
        let version = match inner.read_exact(&mut head) {
            Ok(()) => Version::of(&head),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(ManifestError::Io(error)),
        };
        let version = version.ok_or(ManifestFault::Head)?;
        Ok(Self { inner, version, body: Vec::new(), sequence: Sequence::default() })
    }

    /// The next record, or none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, ManifestError> {
        let mut kind = [0];
        loop {
            match self.inner.read(&mut kind) {
                Ok(0) => {
                    self.sequence.finish()?;
                    return Ok(None);
                }
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ManifestError::Io(error)),
            }
        }
        let length = match body_length(self.version, kind[0])? {
            BodyLength::Fixed(length) => length,
            BodyLength::Told { most } => {
                let mut told = [0; 4];
                fill(&mut self.inner, &mut told)?;
                let length = u32::from_le_bytes(told);
                if length > most {
                    return Err(ManifestFault::TooLarge { length, most }.into());
                }
                length as usize
            }
        };
        self.body.resize(length, 0);
        fill(&mut self.inner, &mut self.body)?;
        let record = decode(kind[0], &self.body)?;
        self.sequence.admit(&record)?;
        Ok(Some(record))
    }
}

fn fill(inner: &mut impl Read, bytes: &mut [u8]) -> Result<(), ManifestError> {
    inner.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ManifestFault::Truncated.into(),
        _ => ManifestError::Io(error),
    })
}
