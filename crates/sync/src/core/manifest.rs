//! The manifest of the `tree` format: entries in the order of the tree, each file with the chunks it
//! is made of. The form is written down in `docs/tree-format.md`.

use std::collections::BTreeMap;

use belay_packs::{Chunk, ChunkRef, DeltaFault};

use super::member::{Body, Member, Mtime};
use super::ownership::Owner;
use super::path::PATH_MAX;
use super::tree::{TARGET_MAX, XATTRS_MAX};

/// How a manifest begins.
pub(crate) const MANIFEST_HEAD: &[u8; 17] = b"belay manifest 2\n";
/// How one begins in which no chunk stands on others.
const FIRST_HEAD: &[u8; 17] = b"belay manifest 1\n";
/// Largest manifest that is read: more than a million entries with long names and a tebibyte of
/// chunks take.
pub(crate) const MANIFEST_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Fewest bytes of a hole. Shorter runs of zeros are content.
pub(crate) const HOLE_MIN: u64 = 1024 * 1024;

/// Longest entry: owner, path, target, attributes with their lengths, and the numbers.
const ENTRY_MAX: u32 = 204_862;
const _: () = assert!(ENTRY_MAX as usize == PATH_MAX + TARGET_MAX + 3 * XATTRS_MAX + 64);

const ENTRY: u8 = 1;
const CHUNK: u8 = 2;
const HOLE: u8 = 3;
const END: u8 = 4;
const DELTA: u8 = 5;
const OWNED: u8 = 6;

/// Longest chunk with all that it stands on.
#[expect(clippy::cast_possible_truncation, reason = "it is a few thousand")]
const DELTA_MAX: u32 = Chunk::ENCODED_MAX as u32;

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;

/// One record of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// An entry; of a file, its pieces and its end follow.
    Entry(Member),
    /// The next bytes of a file.
    Chunk(Chunk),
    /// As many zeros of a file.
    Hole(u64),
    /// The end of a file, with the BLAKE3 of its content.
    End([u8; 32]),
}

/// The forms of a manifest that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Every chunk is whole.
    One,
    /// Chunks may be differences to others.
    Two,
}

impl Version {
    /// The form of a manifest that begins so.
    pub(crate) fn of(head: &[u8; MANIFEST_HEAD.len()]) -> Option<Self> {
        match head {
            head if head == MANIFEST_HEAD => Some(Self::Two),
            head if head == FIRST_HEAD => Some(Self::One),
            _ => None,
        }
    }
}

/// How long the body of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    Fixed(usize),
    /// 4 bytes before it say; no more than this.
    Told {
        most: u32,
    },
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestFault {
    #[error("it does not begin like a manifest")]
    Head,
    #[error("it has a record of kind {kind}, which is not known")]
    Kind { kind: u8 },
    #[error("it has a record of {length} bytes, more than {most}")]
    TooLarge { length: u32, most: u32 },
    #[error("it has a record that is damaged")]
    Damaged,
    #[error("it has a chunk that no reader puts together: {0}")]
    Delta(#[from] DeltaFault),
    #[error("it ends within a record or a file")]
    Truncated,
    #[error("a piece or an end stands outside of a file, or an entry within one")]
    Place,
    #[error("the pieces of a file are not as long as the file")]
    Size,
}

/// The length of the body of a record of this kind.
pub(crate) fn body_length(version: Version, kind: u8) -> Result<BodyLength, ManifestFault> {
    match kind {
        DELTA if version == Version::Two => Ok(BodyLength::Told { most: DELTA_MAX }),
        OWNED if version == Version::Two => Ok(BodyLength::Told { most: ENTRY_MAX }),
        ENTRY => Ok(BodyLength::Told { most: ENTRY_MAX }),
        CHUNK => Ok(BodyLength::Fixed(ChunkRef::ENCODED)),
        HOLE => Ok(BodyLength::Fixed(8)),
        END => Ok(BodyLength::Fixed(32)),
        _ => Err(ManifestFault::Kind { kind }),
    }
}

/// Appends a record as it lies in a manifest.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Entry(member) if member.owner.is_volumes() => {
            out.push(ENTRY);
            told(out, |out| encode_entry(member, out));
        }
        Record::Entry(member) => {
            out.push(OWNED);
            told(out, |out| {
                encode_owner(member.owner, out);
                encode_entry(member, out);
            });
        }
        Record::Chunk(chunk) if chunk.is_delta() => {
            out.push(DELTA);
            told(out, |out| chunk.encode(out));
        }
        Record::Chunk(chunk) => {
            out.push(CHUNK);
            out.extend_from_slice(&chunk.at().encode());
        }
        Record::Hole(length) => {
            out.push(HOLE);
            out.extend_from_slice(&length.to_le_bytes());
        }
        Record::End(digest) => {
            out.push(END);
            out.extend_from_slice(digest);
        }
    }
}

/// A body behind its length.
fn told(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // What is lawful is far shorter than 4 GiB.
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn encode_owner(owner: Owner, out: &mut Vec<u8>) {
    let Owner { user, group } = owner;
    out.push(u8::from(user.is_some()) | u8::from(group.is_some()) << 1);
    for id in [user, group].into_iter().flatten() {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

fn encode_entry(member: &Member, out: &mut Vec<u8>) {
    out.push(match member.body {
        Body::Directory => DIRECTORY,
        Body::File { .. } => FILE,
        Body::Symlink { .. } => SYMLINK,
        Body::HardLink { .. } => HARD_LINK,
    });
    out.extend_from_slice(&member.mode.to_le_bytes());
    out.extend_from_slice(&member.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&member.mtime.nanos.to_le_bytes());
    put(&member.path, out);
    match &member.body {
        Body::Directory => {}
        Body::File { size } => out.extend_from_slice(&size.to_le_bytes()),
        Body::Symlink { target } => put(target, out),
        Body::HardLink { to } => put(to, out),
    }
    for (name, value) in &member.xattrs {
        put(name, out);
        put(value, out);
    }
}

/// Lengths of lawful members fit into 4 bytes by far.
fn put(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads the body of a record of this kind. What a member says is judged by the tree.
pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Record, ManifestFault> {
    let damaged = ManifestFault::Damaged;
    match kind {
        ENTRY => decode_entry(Owner::default(), body).map(Record::Entry).ok_or(damaged),
        OWNED => decode_owned(body).map(Record::Entry).ok_or(damaged),
        CHUNK => {
            let bytes = body.try_into().map_err(|_| damaged)?;
            let chunk = ChunkRef::decode(bytes).map_err(|_| ManifestFault::Damaged)?;
            Ok(Record::Chunk(Chunk::whole(chunk)))
        }
        DELTA => {
            let chunk = Chunk::decode(body)?;
            // One that stands on none is told in one way only.
            if chunk.is_delta() { Ok(Record::Chunk(chunk)) } else { Err(damaged) }
        }
        HOLE => Ok(Record::Hole(u64::from_le_bytes(body.try_into().map_err(|_| damaged)?))),
        END => Ok(Record::End(body.try_into().map_err(|_| damaged)?)),
        _ => Err(ManifestFault::Kind { kind }),
    }
}

fn decode_owned(mut bytes: &[u8]) -> Option<Member> {
    let which = *take(&mut bytes, 1)?.first()?;
    // An entry of the volume's owner has a form of its own.
    if !(1..=3).contains(&which) {
        return None;
    }
    let mut id = |bit: u8| -> Option<Option<u32>> {
        if which & bit == 0 {
            return Some(None);
        }
        Some(Some(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?)))
    };
    let owner = Owner { user: id(1)?, group: id(2)? };
    decode_entry(owner, bytes)
}

fn decode_entry(owner: Owner, mut bytes: &[u8]) -> Option<Member> {
    let kind = *take(&mut bytes, 1)?.first()?;
    let mode = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
    let seconds = i64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?);
    let nanos = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
    let path = field(&mut bytes)?.to_vec();
    let body = match kind {
        DIRECTORY => Body::Directory,
        FILE => Body::File { size: u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?) },
        SYMLINK => Body::Symlink { target: field(&mut bytes)?.to_vec() },
        HARD_LINK => Body::HardLink { to: field(&mut bytes)?.to_vec() },
        _ => return None,
    };
    let mut xattrs = BTreeMap::new();
    while !bytes.is_empty() {
        let name = field(&mut bytes)?.to_vec();
        let value = field(&mut bytes)?.to_vec();
        // One order only, so that an entry has one form.
        if xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        xattrs.insert(name, value);
    }
    Some(Member { path, mode, owner, mtime: Mtime { seconds, nanos }, xattrs, body })
}

fn field<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
    take(bytes, usize::try_from(length).ok()?)
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Holds that pieces stand in files and add up to them.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// Bytes of the file that is being told which no piece named yet.
    left: Option<u64>,
}

impl Sequence {
    /// Takes the next record.
    pub(crate) fn admit(&mut self, record: &Record) -> Result<(), ManifestFault> {
        self.left = match (record, self.left) {
            (Record::Entry(member), None) => match member.body {
                Body::File { size } => Some(size),
                Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => None,
            },
            (Record::Chunk(chunk), Some(left)) => Some(less(left, u64::from(chunk.at().plain))?),
            (Record::Hole(length @ 1..), Some(left)) => Some(less(left, *length)?),
            (Record::End(_), Some(0)) => None,
            (Record::End(_) | Record::Hole(0), Some(_)) => return Err(ManifestFault::Size),
            (Record::Entry(_), Some(_))
            | (Record::Chunk(_) | Record::Hole(_) | Record::End(_), None) => {
                return Err(ManifestFault::Place);
            }
        };
        Ok(())
    }

    /// Whether the manifest may end here.
    pub(crate) fn finish(&self) -> Result<(), ManifestFault> {
        if self.left.is_some() { Err(ManifestFault::Truncated) } else { Ok(()) }
    }
}

fn less(left: u64, by: u64) -> Result<u64, ManifestFault> {
    left.checked_sub(by).ok_or(ManifestFault::Size)
}

#[cfg(test)]
mod tests;
