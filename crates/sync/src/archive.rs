//! Reads and writes archives as streams.

use std::io::{self, Read, Write};

use crate::core::archive::{
    ArchiveFault, BLOCK, EXTENSION_MAX, Extension, Header, Purpose, complete, decode,
    decode_extension, encode,
};
use crate::core::member::{Body, MODE_MASK, Member};

/// Zeros after the end mark are padding of other writers; more than this is not padding.
const PADDING_MAX: usize = 1024 * 1024;
const PIECE: usize = 128 * 1024;
/// Extension headers of one archive. A million long paths take less; keys that are passed over could
/// take any amount, and compress to nothing.
pub(crate) const EXTENSIONS_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Writes members one after the other.
pub(crate) struct ArchiveWriter<W: Write> {
    inner: W,
    piece: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, piece: vec![0; PIECE] }
    }

    /// Writes a member that has no content.
    pub(crate) fn member(&mut self, member: &Member) -> io::Result<()> {
        self.inner.write_all(&encode(member))
    }

    /// Writes a file: exactly `size` bytes of `content`, whose digest is returned.
    pub(crate) fn file(
        &mut self,
        member: &Member,
        size: u64,
        content: impl Read,
    ) -> io::Result<[u8; 32]> {
        self.member(member)?;
        let mut content = content.take(size);
        let mut hasher = blake3::Hasher::new();
        let mut written = 0_u64;
        loop {
            let count = content.read(&mut self.piece)?;
            if count == 0 {
                break;
            }
            hasher.update(&self.piece[..count]);
            self.inner.write_all(&self.piece[..count])?;
            written += count as u64;
        }
        if written != size {
            return Err(io::Error::other("a file became shorter while it was read"));
        }
        self.pad(size)?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// Writes the next bytes of the content of a file whose member was written.
    pub(crate) fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)
    }

    /// Ends the content of a file of this size.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        self.inner.write_all(&[0; BLOCK][..padding(size)])
    }

    /// Writes the end mark and gives the inner writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }
}

fn padding(size: u64) -> usize {
    // Less than a block, so it fits.
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

/// Why reading an archive failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the archive is damaged: {0}")]
    Fault(#[from] ArchiveFault),
    #[error("the archive could not be read or decompressed")]
    Io(#[source] io::Error),
}

/// What an archive that another program wrote has next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// A member as a tree may hold it; its name is as that program wrote it.
    Member(Member),
    /// A FIFO or a device of this name, which no tree holds.
    Special(Vec<u8>),
}

/// Reads members one after the other, with bounds on everything that is taken into memory.
pub(crate) struct ArchiveReader<R: Read> {
    inner: R,
    /// Content and padding of the last member that nobody has read yet.
    pending: u64,
    extensions_left: u64,
    piece: Vec<u8>,
}

impl<R: Read> ArchiveReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, pending: 0, extensions_left: EXTENSIONS_MAX, piece: vec![0; PIECE] }
    }

    /// The next member, or none at the end mark. A file's content must have been read.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ReadError> {
        debug_assert_eq!(self.pending, 0, "the content of a member is read before the next one");
        let mut extension = Extension::default();
        let mut extended = false;
        loop {
            match decode(&self.block()?)? {
                Header::Zero => {
                    self.expect_end()?;
                    return if extended { Err(ArchiveFault::Truncated.into()) } else { Ok(None) };
                }
                Header::Extension { size } => {
                    if extended {
                        return Err(ArchiveFault::Extension.into());
                    }
                    self.extensions_left = self
                        .extensions_left
                        .checked_sub(size)
                        .ok_or(ArchiveFault::TooManyExtensions)?;
                    let length = usize::try_from(size)
                        .map_err(|_| ArchiveFault::ExtensionTooLarge { size })?;
                    let mut bytes = vec![0; length];
                    self.fill(&mut bytes)?;
                    self.skip(padding(size))?;
                    extension = decode_extension(&bytes)?;
                    extended = true;
                }
                Header::Member(raw) => {
                    let member = complete(*raw, extension)?;
                    if let Body::File { size } = member.body {
                        self.pending = size;
                    }
                    return Ok(Some(member));
                }
            }
        }
    }

    /// The next member of an archive that another program wrote, without what of it does not
    /// travel; none at the end mark. A file's content must have been read.
    pub(crate) fn next_foreign(&mut self) -> Result<Option<Foreign>, ReadError> {
        debug_assert_eq!(self.pending, 0, "the content of a member is read before the next one");
        let mut extension = Extension::default();
        loop {
            let raw = match decode(&self.block()?)? {
                Header::Zero if extension == Extension::default() => {
                    self.expect_end()?;
                    return Ok(None);
                }
                Header::Zero => return Err(ArchiveFault::Truncated.into()),
                Header::Extension { size } => {
                    let bytes = self.extension(size)?;
                    extension.take(decode_extension(&bytes)?);
                    continue;
                }
                Header::Member(raw) => raw,
            };
            match raw.purpose()? {
                Purpose::LongName => extension.offer_path(self.long(raw.size())?),
                Purpose::LongLink => extension.offer_link(self.long(raw.size())?),
                Purpose::Aside => drop(self.extension(raw.size())?),
                Purpose::Special => return Ok(Some(Foreign::Special(raw.name(extension)))),
                Purpose::Member => {
                    let mut member = complete(*raw, extension)?;
                    member.mode &= MODE_MASK;
                    match &member.body {
                        Body::File { size } => self.pending = *size,
                        Body::Directory => {}
                        Body::Symlink { .. } | Body::HardLink { .. } => member.xattrs.clear(),
                    }
                    member.xattrs.retain(|name, _| name.starts_with(b"user."));
                    return Ok(Some(Foreign::Member(member)));
                }
            }
        }
    }

    /// Reads what an extension header holds. Each takes a block of the bound for itself, so that
    /// there is an end to empty ones too.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        let too_large = || ArchiveFault::ExtensionTooLarge { size };
        if size > EXTENSION_MAX {
            return Err(too_large().into());
        }
        self.extensions_left = self
            .extensions_left
            .checked_sub(size + BLOCK as u64)
            .ok_or(ArchiveFault::TooManyExtensions)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_large())?];
        self.fill(&mut bytes)?;
        self.skip(padding(size))?;
        Ok(bytes)
    }

    /// A name that takes a header and blocks of its own, ended by a zero.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Reads the content of the file that was last returned, piece by piece, into `sink`.
    pub(crate) fn content<E: From<ReadError>>(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.pending;
        while self.pending > 0 {
            let want = usize::try_from(self.pending).unwrap_or(PIECE).min(PIECE);
            let mut piece = std::mem::take(&mut self.piece);
            let filled = self.fill(&mut piece[..want]).map_err(E::from);
            let taken = filled.and_then(|()| sink(&piece[..want]));
            self.piece = piece;
            taken?;
            self.pending -= want as u64;
        }
        self.skip(padding(size)).map_err(E::from)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ReadError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn skip(&mut self, count: usize) -> Result<(), ReadError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block[..count])
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ReadError> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveFault::Truncated.into(),
            _ => ReadError::Io(error),
        })
    }

    /// Only zeros may follow the end mark. Reading to the very end also checks the checksum of the
    /// compressed stream.
    fn expect_end(&mut self) -> Result<(), ReadError> {
        let mut seen = 0;
        loop {
            let count = self.inner.read(&mut self.piece).map_err(ReadError::Io)?;
            if count == 0 {
                return Ok(());
            }
            seen += count;
            if seen > PADDING_MAX || self.piece[..count].iter().any(|&byte| byte != 0) {
                return Err(ArchiveFault::Trailing.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::member::Mtime;
    use crate::core::ownership::Owner;

    #[test]
    fn extension_headers_have_one_bound_for_the_whole_archive() {
        let mut bytes = Vec::new();
        for number in 0..3 {
            let path = format!("{}{number}", "x".repeat(200)).into_bytes();
            let mtime = Mtime { seconds: 0, nanos: 0 };
            let body = Body::Directory;
            bytes.extend(encode(&Member {
                path,
                mode: 0,
                owner: Owner::default(),
                mtime,
                xattrs: BTreeMap::new(),
                body,
            }));
        }
        let mut reader = ArchiveReader::new(&bytes[..]);
        reader.extensions_left = 500;
        for _ in 0..2 {
            reader.next().expect("within the bound");
        }
        let refused = reader.next();
        assert!(matches!(refused, Err(ReadError::Fault(ArchiveFault::TooManyExtensions))));
    }
}
