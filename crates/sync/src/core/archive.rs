//! The archive's headers: POSIX pax over ustar, written one way only and read with bounds.
//!
//! Our own, because readers at hand take an extension header of any size into memory, and because
//! the bytes must be the same wherever they are written.

use std::collections::BTreeMap;

use super::member::{Body, Member, Mtime};
use super::ownership::Owner;
use super::path::PATH_MAX;
use super::tree::{TARGET_MAX, XATTRS_MAX};

pub(crate) const BLOCK: usize = 512;
/// Largest extension header that can describe a lawful member, with room for other writers' keys.
pub(crate) const EXTENSION_MAX: u64 = (PATH_MAX + TARGET_MAX + 4 * XATTRS_MAX) as u64;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

const XATTR_KEY: &[u8] = b"SCHILY.xattr.";
const SIZE_MAX: u64 = 0o777_7777_7777;
const ID_MAX: u32 = 0o777_7777;

/// Why bytes are not an archive of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArchiveFault {
    #[error("a header's checksum is wrong")]
    Checksum,
    #[error("a header's {field} is not a number")]
    Number { field: &'static str },
    #[error("a header is not ustar")]
    Magic,
    #[error("a member is of type {kind:?}, which no tree holds")]
    Kind { kind: char },
    #[error("an extension header of {size} bytes is larger than {EXTENSION_MAX}")]
    ExtensionTooLarge { size: u64 },
    #[error("the extension headers take more than an archive of a tree needs")]
    TooManyExtensions,
    #[error("an extension header is damaged")]
    Extension,
    #[error("a member belongs to {id:?}, which no file can")]
    Owner { id: String },
    #[error("a member is stored without its holes (tar --sparse), which is not read")]
    Sparse,
    #[error("the archive ends within a member")]
    Truncated,
    #[error("bytes follow the end of the archive")]
    Trailing,
}

/// The header blocks of a member, extension included; a file's content follows them, padded.
pub(crate) fn encode(member: &Member) -> Vec<u8> {
    let mut name = member.path.clone();
    let (kind, size, link) = match &member.body {
        Body::Directory => {
            name.push(b'/');
            (b'5', 0, &[][..])
        }
        Body::File { size } => (b'0', *size, &[][..]),
        Body::Symlink { target } => (b'2', 0, &target[..]),
        Body::HardLink { to } => (b'1', 0, &to[..]),
    };
    let mut extension = Vec::new();
    // That it is told here is what tells the number 0 from the owner of the volume, who has none.
    if let Some(group) = member.owner.group {
        pax_line(&mut extension, b"gid", group.to_string().as_bytes());
    }
    let raw = |bytes: &[u8]| std::str::from_utf8(bytes).is_err();
    if raw(&name) || raw(link) {
        pax_line(&mut extension, b"hdrcharset", b"BINARY");
    }
    if link.len() > LINK.len() || raw(link) {
        pax_line(&mut extension, b"linkpath", link);
    }
    if member.mtime.nanos != 0 || !(0..0o777_7777_7777).contains(&member.mtime.seconds) {
        pax_line(&mut extension, b"mtime", decimal(member.mtime).as_bytes());
    }
    if name.len() > NAME.len() || raw(&name) {
        pax_line(&mut extension, b"path", &name);
    }
    if size > SIZE_MAX {
        pax_line(&mut extension, b"size", size.to_string().as_bytes());
    }
    if let Some(user) = member.owner.user {
        pax_line(&mut extension, b"uid", user.to_string().as_bytes());
    }
    for (attribute, value) in &member.xattrs {
        pax_line(&mut extension, &[XATTR_KEY, &escaped(attribute)].concat(), value);
    }
    let mut blocks = Vec::new();
    if !extension.is_empty() {
        let none = Owner::default();
        let header = ustar(b"pax", 0o644, none, extension.len() as u64, 0, b'x', b"");
        blocks.extend_from_slice(&header);
        blocks.extend_from_slice(&extension);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    let seconds = u64::try_from(member.mtime.seconds).unwrap_or(0).min(SIZE_MAX);
    let size = size.min(SIZE_MAX);
    let (mode, owner) = (member.mode, member.owner);
    blocks.extend_from_slice(&ustar(&name, mode, owner, size, seconds, kind, link));
    blocks
}

fn ustar(
    name: &[u8],
    mode: u32,
    owner: Owner,
    size: u64,
    mtime: u64,
    kind: u8,
    link: &[u8],
) -> [u8; BLOCK] {
    // Where there is no room the extension has it.
    let id = |id: Option<u32>| format!("{:07o}", id.filter(|id| *id <= ID_MAX).unwrap_or(0));
    let mut block = [0; BLOCK];
    put(&mut block[NAME], name);
    put(&mut block[MODE], format!("{mode:07o}").as_bytes());
    put(&mut block[UID], id(owner.user).as_bytes());
    put(&mut block[GID], id(owner.group).as_bytes());
    put(&mut block[SIZE], format!("{size:011o}").as_bytes());
    put(&mut block[MTIME], format!("{mtime:011o}").as_bytes());
    block[KIND] = kind;
    put(&mut block[LINK], link);
    put(&mut block[MAGIC], b"ustar\x0000");
    let sum = checksum(&block);
    put(&mut block[CHECKSUM], format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let count = bytes.len().min(field.len());
    field[..count].copy_from_slice(&bytes[..count]);
}

fn checksum(block: &[u8; BLOCK]) -> u64 {
    let spaces = CHECKSUM.len() as u64 * u64::from(b' ');
    let others =
        |range: std::ops::Range<usize>| block[range].iter().map(|&b| u64::from(b)).sum::<u64>();
    others(0..CHECKSUM.start) + spaces + others(CHECKSUM.end..BLOCK)
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn pax_line(extension: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    extension.extend_from_slice(format!("{length} ").as_bytes());
    extension.extend_from_slice(key);
    extension.push(b'=');
    extension.extend_from_slice(value);
    extension.push(b'\n');
}

/// An attribute's name as a key, which ends at its first equals sign. The form is GNU tar's.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(byte),
        }
    }
    key
}

fn unescaped(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((&first, rest)) = key.split_first() {
        let (byte, rest) = match key.get(..3) {
            Some(b"%25") => (b'%', &key[3..]),
            Some(b"%3D") => (b'=', &key[3..]),
            _ => (first, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

fn decimal(mtime: Mtime) -> String {
    let total = i128::from(mtime.seconds) * 1_000_000_000 + i128::from(mtime.nanos);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    let (whole, fraction) = (total / 1_000_000_000, total % 1_000_000_000);
    if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") }
}

/// One block, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Header {
    /// Half of the end mark.
    Zero,
    /// An extension of this many bytes for the member that follows.
    Extension { size: u64 },
    /// A member, to be completed with its extension.
    Member(Box<RawMember>),
}

/// A member as its ustar block has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawMember {
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    size: u64,
    mtime: i64,
    kind: u8,
}

/// What a header of another writer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A member of a tree.
    Member,
    /// The name of the member that follows, where the header has no room for it.
    LongName,
    /// The same of a link's target.
    LongLink,
    /// About all members, or about the archive; nothing that matters here.
    Aside,
    /// A FIFO or a device.
    Special,
}

impl RawMember {
    /// What it is for, told by its type.
    pub(crate) fn purpose(&self) -> Result<Purpose, ArchiveFault> {
        match self.kind {
            b'L' => Ok(Purpose::LongName),
            b'K' => Ok(Purpose::LongLink),
            b'g' | b'V' => Ok(Purpose::Aside),
            b'3' | b'4' | b'6' => Ok(Purpose::Special),
            b'S' => Err(ArchiveFault::Sparse),
            _ => Ok(Purpose::Member),
        }
    }

    /// Bytes that follow it, without their padding.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Its name, or that which an extension gives it.
    pub(crate) fn name(self, extension: Extension) -> Vec<u8> {
        extension.path.unwrap_or(self.name)
    }
}

/// Reads one header block.
pub(crate) fn decode(block: &[u8; BLOCK]) -> Result<Header, ArchiveFault> {
    if block.iter().all(|&byte| byte == 0) {
        return Ok(Header::Zero);
    }
    if octal(&block[CHECKSUM], "checksum")? != checksum(block) {
        return Err(ArchiveFault::Checksum);
    }
    if !block[MAGIC].starts_with(b"ustar") {
        return Err(ArchiveFault::Magic);
    }
    let size = unsigned(&block[SIZE], "size")?;
    let kind = block[KIND];
    if kind == b'x' {
        if size > EXTENSION_MAX {
            return Err(ArchiveFault::ExtensionTooLarge { size });
        }
        return Ok(Header::Extension { size });
    }
    let mut name = until_zero(&block[NAME]).to_vec();
    // What GNU tar writes in its own form has other things there.
    let has_prefix = block[MAGIC].starts_with(b"ustar\0");
    let prefix = if has_prefix { until_zero(&block[PREFIX]) } else { b"" };
    if !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let mode = u32::try_from(octal(&block[MODE], "mode")?)
        .map_err(|_| ArchiveFault::Number { field: "mode" })?;
    Ok(Header::Member(Box::new(RawMember {
        name,
        link: until_zero(&block[LINK]).to_vec(),
        mode,
        size,
        mtime: numeric(&block[MTIME], "mtime")?,
        kind,
    })))
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8], name: &'static str) -> Result<u64, ArchiveFault> {
    let text = std::str::from_utf8(until_zero(field)).ok().map(str::trim);
    let digits = text.filter(|text| text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)));
    let value = match digits {
        Some("") => Some(0),
        Some(digits) => u64::from_str_radix(digits, 8).ok(),
        None => None,
    };
    value.ok_or(ArchiveFault::Number { field: name })
}

/// A number in digits or, as GNU tar writes those that need more, in binary.
fn numeric(field: &[u8], name: &'static str) -> Result<i64, ArchiveFault> {
    let damaged = ArchiveFault::Number { field: name };
    let (negative, rest) = match field.split_first() {
        Some((0x80, rest)) => (false, rest),
        Some((0xff, rest)) => (true, rest),
        _ => return i64::try_from(octal(field, name)?).map_err(|_| damaged),
    };
    let value = rest.iter().fold(0_i128, |value, &byte| value << 8 | i128::from(byte));
    let value = if negative { value - (1 << (8 * rest.len())) } else { value };
    i64::try_from(value).map_err(|_| damaged)
}

fn unsigned(field: &[u8], name: &'static str) -> Result<u64, ArchiveFault> {
    u64::try_from(numeric(field, name)?).map_err(|_| ArchiveFault::Number { field: name })
}

/// What an extension header said that matters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Mtime>,
    /// The ids that are told here. Those in a header of another program are of the host that it ran
    /// on, and our own headers have none that is not here too.
    owner: Owner,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Extension {
    /// Takes a name that stood before the header, which an extension header of the member overrules.
    pub(crate) fn offer_path(&mut self, name: Vec<u8>) {
        self.path.get_or_insert(name);
    }

    /// The same for a link's target.
    pub(crate) fn offer_link(&mut self, link: Vec<u8>) {
        self.link.get_or_insert(link);
    }

    /// Takes an extension header, which overrules what came before it.
    pub(crate) fn take(&mut self, other: Extension) {
        let before = std::mem::replace(self, other);
        self.path = self.path.take().or(before.path);
        self.link = self.link.take().or(before.link);
    }
}

/// Reads an extension header; keys that do not matter here are passed over.
pub(crate) fn decode_extension(mut bytes: &[u8]) -> Result<Extension, ArchiveFault> {
    let mut extension = Extension::default();
    while !bytes.is_empty() {
        let (key, value, rest) = next_line(bytes).ok_or(ArchiveFault::Extension)?;
        bytes = rest;
        match key {
            b"path" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.link = Some(value.to_vec()),
            b"uid" => extension.owner.user = Some(id(value)?),
            b"gid" => extension.owner.group = Some(id(value)?),
            b"size" => extension.size = Some(number(value).ok_or(ArchiveFault::Extension)?),
            b"mtime" => {
                extension.mtime = Some(parse_decimal(value).ok_or(ArchiveFault::Extension)?);
            }
            // The content is not the file's then, and its size neither.
            key if key.starts_with(b"GNU.sparse.") => return Err(ArchiveFault::Sparse),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_KEY) {
                    extension.xattrs.insert(unescaped(name), value.to_vec());
                }
            }
        }
    }
    Ok(extension)
}

fn next_line(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    let line = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|&byte| byte == b'=')?;
    Some((&line[..equals], &line[equals + 1..], &bytes[length..]))
}

/// A user or a group.
fn id(digits: &[u8]) -> Result<u32, ArchiveFault> {
    let id = number(digits).and_then(|id| u32::try_from(id).ok());
    id.filter(|id| Owner { user: Some(*id), group: None }.is_lawful()).ok_or_else(|| {
        let id = String::from_utf8_lossy(digits).chars().take(40).collect();
        ArchiveFault::Owner { id }
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_decimal(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i128::from(number(whole)?);
    let mut digits = fraction.to_vec();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.resize(9, b'0');
    let nanos = i128::from(number(&digits)?);
    let total = seconds * 1_000_000_000 + nanos;
    let total = if negative { -total } else { total };
    Some(Mtime {
        seconds: i64::try_from(total.div_euclid(1_000_000_000)).ok()?,
        nanos: u32::try_from(total.rem_euclid(1_000_000_000)).ok()?,
    })
}

/// Joins a header with its extension. The path is not judged here.
pub(crate) fn complete(raw: RawMember, extension: Extension) -> Result<Member, ArchiveFault> {
    let mut path = extension.path.unwrap_or(raw.name);
    let size = extension.size.unwrap_or(raw.size);
    let link = extension.link.unwrap_or(raw.link);
    let body = match raw.kind {
        b'0' | 0 => Body::File { size },
        b'5' => {
            if path.last() == Some(&b'/') {
                path.pop();
            }
            Body::Directory
        }
        b'2' => Body::Symlink { target: link },
        b'1' => Body::HardLink { to: link },
        other => return Err(ArchiveFault::Kind { kind: char::from(other) }),
    };
    if size != 0 && !matches!(body, Body::File { .. }) {
        return Err(ArchiveFault::Number { field: "size" });
    }
    Ok(Member {
        path,
        mode: raw.mode,
        owner: extension.owner,
        mtime: extension.mtime.unwrap_or(Mtime { seconds: raw.mtime, nanos: 0 }),
        xattrs: extension.xattrs,
        body,
    })
}

#[cfg(test)]
mod tests;
