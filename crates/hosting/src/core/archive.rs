//! The archive in which a checkpoint travels: sealed frames, one after the other.
//!
//! A line that names the format and its version, 32 random bytes, then frames: their length in four
//! bytes, little endian, and the sealed frame. What seals them follows from the nodes' travel key and
//! the random bytes; each frame is bound to its number and to being the last or not, so that frames
//! can neither be changed, left out, exchanged nor cut off. An archive without its last frame is
//! none.

use belay_packs::{DataKey, Keys};
use belay_protocol::runner::RunId;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;

/// Version of the format that is written and read.
pub const VERSION: u32 = 1;
/// How the first line begins.
const NAME: &[u8] = b"belay checkpoint archive ";
/// Longest first line.
const LINE_MAX: usize = 64;
/// Bytes of the salt.
pub const SALT: usize = 32;
/// Bytes of content of the largest frame.
pub const PIECE: usize = 256 << 10;
/// Bytes of the largest sealed frame: content, its kind, and what sealing adds.
const FRAME_MAX: usize = PIECE + 256;
/// Bytes of what is known of a run, at most: its payload, and what its waitpoints were completed
/// with, as JSON.
pub const PASSAGE_MAX: usize = 32 << 20;
/// Files of a checkpoint, at most.
pub const FILES_MAX: u64 = 100_000;
/// Longest name of a file.
const NAME_MAX: usize = 128;
/// What the keys are for. The words are part of the format.
const PURPOSE: &str = "belay checkpoint archive 1, keys";

/// A key that nodes share whose checkpoints travel to one another.
#[derive(Clone)]
pub struct TravelKey([u8; 32]);

impl std::fmt::Debug for TravelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TravelKey")
    }
}

impl TravelKey {
    /// The key of a file with 64 hexadecimal digits; none for any other.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    fn keys(&self, salt: &[u8; SALT]) -> Keys {
        let material = [self.0.as_slice(), salt].concat();
        Keys::sealed(&DataKey::from_bytes(blake3::derive_key(PURPOSE, &material)))
    }
}

/// What an archive holds, in this order: the manifest, the files, all that is known of the run, the
/// end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// What it is.
    Manifest(Box<Manifest>),
    /// A file begins.
    File(FileHead),
    /// What is in it.
    Data(Vec<u8>),
    /// A piece of what is known of the run.
    Passage(Vec<u8>),
    /// It was whole.
    End,
}

/// How a file begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHead {
    /// Which part it is of.
    pub part: Part,
    /// Its name, of letters, digits, `.`, `_` and `-`, not beginning with a dot.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// Parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// CRIU's image.
    Image,
    /// Tar of what was in `/dev/shm`.
    Shm,
}

/// The last frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    run: RunId,
}

const MANIFEST: u8 = 1;
const FILE: u8 = 2;
const DATA: u8 = 3;
const PASSAGE: u8 = 4;
const END: u8 = 5;

/// Why an archive is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is of another version.
    #[error("it is an archive of version {found}, and this belayd reads version {VERSION}")]
    Version {
        /// As its first line says.
        found: String,
    },
    /// It is none, or not as it was written.
    #[error("{0}")]
    Damaged(&'static str),
}

const NO_ARCHIVE: ArchiveError = ArchiveError::Damaged("it is no archive of a checkpoint");
const UNSEALED: ArchiveError = ArchiveError::Damaged(
    "it does not open under this node's travel key, or is not as it was written",
);
const ORDER: ArchiveError = ArchiveError::Damaged("its parts are not in their order");
const CUT: ArchiveError = ArchiveError::Damaged("it is cut short: its end is missing");

/// Writes an archive.
pub struct Sealer {
    keys: Keys,
    salt: [u8; SALT],
    frames: u64,
    run: RunId,
}

impl Sealer {
    /// An archive of a run, and how it begins. `salt` is random, and not used before.
    pub fn begin(key: &TravelKey, salt: [u8; SALT], manifest: &Manifest) -> (Self, Vec<u8>) {
        let mut sealer = Self { keys: key.keys(&salt), salt, frames: 0, run: manifest.run };
        let mut bytes = [NAME, VERSION.to_string().as_bytes(), b"\n", salt.as_slice()].concat();
        bytes.extend(sealer.frame(MANIFEST, &json(manifest)));
        (sealer, bytes)
    }

    /// The beginning of a file.
    pub fn file(&mut self, head: &FileHead) -> Vec<u8> {
        self.frame(FILE, &json(head))
    }

    /// Content of it, of [`PIECE`] bytes at most.
    pub fn data(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.frame(DATA, bytes)
    }

    /// The end, with all that is known of the run.
    pub fn end(mut self, passage: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in passage.chunks(PIECE) {
            bytes.extend(self.frame(PASSAGE, piece));
        }
        let ending = json(&Ending { run: self.run });
        bytes.extend(self.frame(END, &ending));
        bytes
    }

    fn frame(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let body = [&[kind], content].concat();
        let sealed = self.keys.seal(&context(&self.salt, self.frames, kind == END), &body);
        self.frames += 1;
        let length = u32::try_from(sealed.len()).expect("a frame has a bound far below");
        [length.to_le_bytes().as_slice(), &sealed].concat()
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

/// What a frame is bound to.
fn context(salt: &[u8; SALT], number: u64, is_last: bool) -> Vec<u8> {
    [salt.as_slice(), &number.to_le_bytes(), &[u8::from(is_last)]].concat()
}

/// Reads an archive, in pieces of any size.
pub struct Opener {
    key: TravelKey,
    held: Vec<u8>,
    state: State,
}

enum State {
    /// Its first line and its salt are not there yet.
    Beginning,
    /// Frames follow.
    Frames { keys: Box<Keys>, salt: [u8; SALT], frames: u64, at: At },
    /// It is over.
    Over,
}

/// Where in an archive something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Between { run: RunId, files: u64 },
    InFile { run: RunId, files: u64, left: u64 },
    InPassage { run: RunId, bytes: usize },
}

impl Opener {
    /// A reader of an archive under this key.
    pub fn new(key: TravelKey) -> Self {
        Self { key, held: Vec::new(), state: State::Beginning }
    }

    /// Takes in what comes next.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        if matches!(self.state, State::Over) && !bytes.is_empty() {
            return Err(ArchiveError::Damaged("something follows its end"));
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// The next item, if all of it came.
    pub fn take_item(&mut self) -> Result<Option<Item>, ArchiveError> {
        if let State::Beginning = self.state {
            let Some((salt, used)) = beginning(&self.held)? else { return Ok(None) };
            self.held.drain(..used);
            let keys = Box::new(self.key.keys(&salt));
            self.state = State::Frames { keys, salt, frames: 0, at: At::Start };
        }
        let State::Frames { keys, salt, frames, at } = &mut self.state else { return Ok(None) };
        let Some((length, rest)) = self.held.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(UNSEALED);
        }
        let Some(sealed) = rest.get(..length) else { return Ok(None) };
        // Whether it is the last it says itself, and is bound to.
        let open = |is_last| keys.unseal(&context(salt, *frames, is_last), sealed);
        let body = match open(false) {
            Some(body) if body.first() != Some(&END) => body,
            Some(_) => return Err(UNSEALED),
            None => open(true).filter(|body| body.first() == Some(&END)).ok_or(UNSEALED)?,
        };
        *frames += 1;
        let (kind, content) = body.split_first().ok_or(UNSEALED)?;
        let item = item(*kind, content, at)?;
        self.held.drain(..4 + length);
        if item == Item::End {
            self.state = State::Over;
            if !self.held.is_empty() {
                return Err(ArchiveError::Damaged("something follows its end"));
            }
        }
        Ok(Some(item))
    }

    /// Nothing more comes.
    pub fn finish(self) -> Result<(), ArchiveError> {
        match self.state {
            State::Over => Ok(()),
            State::Beginning => Err(NO_ARCHIVE),
            State::Frames { .. } => Err(CUT),
        }
    }
}

/// The salt, and how many bytes the beginning has; none if it is not all there.
fn beginning(held: &[u8]) -> Result<Option<([u8; SALT], usize)>, ArchiveError> {
    let known = held.len().min(NAME.len());
    if held[..known] != NAME[..known] {
        return Err(NO_ARCHIVE);
    }
    let Some(end) = held.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if held.len() >= LINE_MAX { Err(NO_ARCHIVE) } else { Ok(None) };
    };
    let found = std::str::from_utf8(&held[NAME.len()..end]).map_err(|_| NO_ARCHIVE)?;
    if found != VERSION.to_string() {
        let found = found.chars().take(20).filter(|c| !c.is_control()).collect();
        return Err(ArchiveError::Version { found });
    }
    let salt = held[end + 1..].first_chunk::<SALT>();
    Ok(salt.map(|salt| (*salt, end + 1 + SALT)))
}

/// Reads a frame, where it may stand.
fn item(kind: u8, content: &[u8], at: &mut At) -> Result<Item, ArchiveError> {
    let bytes = content.len() as u64;
    match (kind, *at) {
        (MANIFEST, At::Start) => {
            let manifest: Manifest = read(content)?;
            *at = At::Between { run: manifest.run, files: 0 };
            Ok(Item::Manifest(Box::new(manifest)))
        }
        (FILE, At::Between { run, files }) if files < FILES_MAX => {
            let head: FileHead = read(content)?;
            if !is_plain(&head.name) {
                return Err(ArchiveError::Damaged("a file in it has a name that none has"));
            }
            let (files, left) = (files + 1, head.bytes);
            *at = At::after(run, files, left);
            Ok(Item::File(head))
        }
        (DATA, At::InFile { run, files, left }) if bytes <= left && bytes > 0 => {
            *at = At::after(run, files, left - bytes);
            Ok(Item::Data(content.to_vec()))
        }
        (PASSAGE, At::Between { run, .. }) => {
            *at = At::InPassage { run, bytes: content.len() };
            Ok(Item::Passage(content.to_vec()))
        }
        (PASSAGE, At::InPassage { run, bytes }) if bytes + content.len() <= PASSAGE_MAX => {
            *at = At::InPassage { run, bytes: bytes + content.len() };
            Ok(Item::Passage(content.to_vec()))
        }
        (END, At::InPassage { run, .. }) if read::<Ending>(content)?.run == run => Ok(Item::End),
        _ => Err(ORDER),
    }
}

impl At {
    fn after(run: RunId, files: u64, left: u64) -> Self {
        if left == 0 { Self::Between { run, files } } else { Self::InFile { run, files, left } }
    }
}

fn read<T: for<'a> Deserialize<'a>>(content: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(content)
        .map_err(|_| ArchiveError::Damaged("it says what this belayd does not know"))
}

/// Whether a name names a file in a directory, and nothing else.
fn is_plain(name: &str) -> bool {
    let is_known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_known)
}

#[cfg(test)]
mod tests;
