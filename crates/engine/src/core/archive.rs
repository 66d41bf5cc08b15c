//! What a tar file is: the root file system of a machine, or an image as an engine saved it.
//!
//! A saved image holds nothing but its own few kinds of names, and says so in an index file which
//! may come last (`manifest.json` of a Docker archive, `oci-layout` and `index.json` of an OCI one).
//! So the first name that an image archive cannot hold settles it, and an index settles the rest.

/// What a tar file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    /// A tree with which to begin: goes in by import.
    RootFileSystem,
    /// An image with layers and configuration: goes in by load.
    Image,
}

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is a root file system whatever follows.
    Settled,
    /// All names so far are those of an image archive.
    Open,
}

/// Looks at the names in a tar, in order.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    foreign: bool,
    index: bool,
    entries: u64,
}

impl Detector {
    /// Takes the next entry's name.
    pub(crate) fn see(&mut self, name: &[u8]) -> Seen {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if name.is_empty() || name == b"." {
            return Seen::Open;
        }
        self.entries += 1;
        self.index |= name == b"manifest.json" || name == b"oci-layout";
        self.foreign |= !belongs_to_an_image(name);
        if self.foreign { Seen::Settled } else { Seen::Open }
    }

    /// The verdict after the last entry, or after [`Seen::Settled`]; `None` for an empty tar.
    pub(crate) fn finish(&self) -> Option<ArchiveKind> {
        match (self.entries, self.foreign, self.index) {
            (0, _, _) => None,
            (_, false, true) => Some(ArchiveKind::Image),
            _ => Some(ArchiveKind::RootFileSystem),
        }
    }
}

fn belongs_to_an_image(name: &[u8]) -> bool {
    let hex64 = |text: &[u8]| text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit);
    match name {
        b"manifest.json" | b"repositories" | b"oci-layout" | b"index.json" | b"blobs"
        | b"blobs/sha256" => true,
        _ => {
            let parts: Vec<&[u8]> = name.split(|&c| c == b'/').collect();
            match parts.as_slice() {
                [b"blobs", b"sha256", digest] | [digest, b"VERSION" | b"json" | b"layer.tar"] => {
                    hex64(digest)
                }
                [single] => {
                    let stem = single
                        .strip_suffix(b".tar")
                        .or_else(|| single.strip_suffix(b".json"))
                        .unwrap_or(single);
                    hex64(stem)
                }
                _ => false,
            }
        }
    }
}

/// What the first bytes of a file say of its packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    /// Something an image cannot be read from, by name.
    Other(&'static str),
}

/// Reads the first bytes (512 or all there are) of a file.
pub(crate) fn packing(head: &[u8]) -> Packing {
    const OTHERS: &[(&[u8], &str)] = &[
        (&[0x28, 0xb5, 0x2f, 0xfd], "a zstd file"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "an xz file"),
        (b"BZh", "a bzip2 file"),
        (b"PK\x03\x04", "a zip file"),
        (b"\x7fELF", "a program"),
        (b"hsqs", "a squashfs image"),
    ];
    if head.starts_with(&[0x1f, 0x8b]) {
        return Packing::Gzip;
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Packing::Other(name);
    }
    // A tar ends with blocks of zeros, so that an empty one begins with them.
    let is_end = head.len() == 512 && head.iter().all(|&c| c == 0);
    if is_end || is_tar_header(head) { Packing::Plain } else { Packing::Other("no tar file") }
}

/// Whether a block is a tar header, by its checksum. The oldest tars have no magic.
fn is_tar_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..512) else { return false };
    let field = &block[148..156];
    let digits: String = field
        .iter()
        .skip_while(|&&c| c == b' ')
        .take_while(|c| (b'0'..=b'7').contains(c))
        .map(|&c| char::from(c))
        .collect();
    let Ok(expected) = u32::from_str_radix(&digits, 8) else { return false };
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, &c)| u32::from(if (148..156).contains(&at) { b' ' } else { c }))
        .sum();
    sum == expected
}

#[cfg(test)]
mod tests;
