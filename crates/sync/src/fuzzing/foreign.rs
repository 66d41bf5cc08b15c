//! Archives that other programs wrote, as `belay sync import` takes them.

use std::collections::BTreeMap;

use super::Verdict;
use super::trees::repaired;
use crate::archive::{ArchiveReader, ArchiveWriter, Foreign, ReadError};
use crate::core::importing::{Arrivals, Capacity, Destination, ImportFault};
use crate::core::member::{Body, Member, Mtime};
use crate::core::ownership::Owner;
use crate::core::path::{ContainerPath, Mounts};

/// Where the volumes are mounted, as trees have it: one below a directory that no volume holds, and
/// one within another.
const POINTS: [&[u8]; 3] = [b"a", b"b/c", b"a/in"];
/// Bytes that each of them holds.
const SIZE: u64 = 4096;

fn arrivals() -> Arrivals {
    let path = |text| ContainerPath::parse(text).expect("a path");
    let mounts = Mounts::new(vec![path("/a"), path("/b/c"), path("/a/in")], path("/belay"));
    let capacity = |volume: &str| Capacity { volume: volume.to_owned(), size: SIZE };
    Arrivals::new(mounts, ["a", "c", "in"].map(capacity).to_vec())
}

/// Where a member went, with its content.
type Arrived = (Member, Destination, Vec<u8>);

/// Why an archive was refused.
enum Refused {
    Read,
    Import,
}

impl From<ReadError> for Refused {
    fn from(_: ReadError) -> Self {
        Self::Read
    }
}

impl From<ImportFault> for Refused {
    fn from(_: ImportFault) -> Self {
        Self::Import
    }
}

/// An archive of another program, uncompressed, behind a byte of which the lowest bit asks for right
/// checksums.
///
/// # Panics
/// If something is taken that leads out of the volumes or is more than they hold, or if what was
/// taken is not read back as it was.
pub fn foreign(bytes: &[u8]) -> Verdict {
    let Some(bytes) = repaired(bytes) else { return Verdict::Refused };
    let Ok((arrived, declared)) = take(&bytes) else { return Verdict::Refused };
    let taken: usize = arrived.iter().map(|(_, _, content)| content.len()).sum();
    assert!(taken <= bytes.len(), "no content that is not there");
    let declared: Vec<&[u8]> = declared.iter().map(ContainerPath::as_member).collect();
    assert!((1..=64).contains(&declared.len()) && declared.is_sorted(), "{declared:?}");
    let mut filled = [0; POINTS.len()];
    for (member, destination, _) in &arrived {
        hold_entry(member);
        let Destination::Volume { mount, path, point } = destination else { continue };
        hold_place(*mount, path, *point);
        assert!(declared.iter().any(|root| lies_in(path, root)), "{path:?} is declared");
        if let Body::File { size } = member.body {
            filled[*mount] += size;
        }
    }
    assert!(filled.iter().all(|bytes| *bytes <= SIZE), "no more than the volumes hold");
    for (number, root) in declared.iter().enumerate() {
        let is_member = |destination: &Destination| match destination {
            Destination::Volume { path, .. } => path == root,
            Destination::Nowhere => false,
        };
        assert!(arrived.iter().any(|(_, destination, _)| is_member(destination)), "{root:?}");
        let others = declared.iter().enumerate().filter(|(other, _)| *other != number);
        assert!(others.clone().all(|(_, other)| !lies_in(root, other)), "{root:?} is topmost");
    }
    hold_again(arrived);
    Verdict::Accepted
}

fn take(bytes: &[u8]) -> Result<(Vec<Arrived>, Vec<ContainerPath>), Refused> {
    let (mut reader, mut arrivals) = (ArchiveReader::new(bytes), arrivals());
    let mut arrived = Vec::new();
    while let Some(next) = reader.next_foreign()? {
        match next {
            Foreign::Special(name) => hold_path(&arrivals.leave_out(&name)?),
            Foreign::Member(member) => {
                let destination = arrivals.admit(&member.path, &member.body)?;
                if let Body::HardLink { to } = &member.body
                    && let Destination::Volume { mount, path, point } = arrivals.linked(to)?
                {
                    hold_place(mount, &path, point);
                }
                let mut content = Vec::new();
                reader.content(|piece| {
                    content.extend_from_slice(piece);
                    Ok::<(), ReadError>(())
                })?;
                arrived.push((member, destination, content));
            }
        }
    }
    Ok((arrived, arrivals.declared()?))
}

/// A path that a tree may have, or none at all.
fn hold_path(path: &[u8]) {
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    assert!(path.len() <= 4_094 && !path.contains(&0) && parts.len() <= 128, "{path:?}");
    for part in parts.iter().filter(|_| !path.is_empty()) {
        assert!(!matches!(*part, b"" | b"." | b"..") && part.len() <= 255, "{path:?}");
    }
}

fn hold_entry(member: &Member) {
    assert_eq!(member.mode & !0o7777, 0, "nothing but a mode");
    assert!(member.owner.is_lawful(), "no id that nobody can have");
    assert!(member.mtime.nanos < 1_000_000_000);
    assert!(member.xattrs.keys().all(|name| name.starts_with(b"user.")));
    match &member.body {
        Body::Directory | Body::File { .. } => {}
        Body::Symlink { target } => {
            assert!((1..=4_095).contains(&target.len()) && !target.contains(&0), "{target:?}");
            assert!(member.xattrs.is_empty());
        }
        Body::HardLink { to } => assert!(member.xattrs.is_empty() && !to.contains(&0)),
    }
}

/// The volume is the one with the longest mount point that holds the path.
fn hold_place(mount: usize, path: &[u8], point: usize) {
    hold_path(path);
    let holding = POINTS.iter().enumerate().filter(|(_, point)| lies_in(path, point));
    let longest = holding.max_by_key(|(_, point)| point.len());
    let (volume, own) = longest.expect("it lies in a volume");
    assert_eq!(mount, volume, "{path:?}");
    assert_eq!(point, (own.len() + 1).min(path.len()), "{path:?}");
}

fn lies_in(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// What arrived, written by us and read by the same reader, arrives as it did.
fn hold_again(arrived: Vec<Arrived>) {
    let mut writer = ArchiveWriter::new(Vec::new());
    let mut expected = Vec::new();
    for (member, destination, content) in arrived {
        let Destination::Volume { ref path, .. } = destination else { continue };
        let member = Member { path: path.clone(), ..member };
        match &member.body {
            Body::File { size } => {
                writer.file(&member, *size, &content[..]).expect("memory");
            }
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                writer.member(&member).expect("memory");
            }
        }
        expected.push((member, destination, content));
    }
    let written = writer.finish().expect("memory");
    let (again, _) = take(&written).unwrap_or_else(|_| panic!("what was written is read"));
    assert_eq!(again, expected);
}

/// Archives that are taken: with a directory around a volume, names of every form, and what is left
/// out.
///
/// # Panics
/// Never: there is memory for them.
pub fn foreign_seeds() -> Vec<Vec<u8>> {
    let entry = |path: &[u8], body| Member {
        path: path.to_vec(),
        mode: 0o4_755,
        owner: Owner::default(),
        mtime: Mtime { seconds: 1_700_000_000, nanos: 5 },
        xattrs: BTreeMap::from([(b"user.note".to_vec(), b"x=y".to_vec())]),
        body,
    };
    let long = [b"a/", &[b'n'; 150][..]].concat();
    let members = [
        entry(b"./b", Body::Directory),
        entry(b"/b/c/", Body::Directory),
        entry(b"a/x/file", Body::File { size: 5 }),
        entry(b"a/in/file", Body::File { size: 0 }),
        entry(b"a/x", Body::Directory),
        entry(b"a/link", Body::Symlink { target: b"/etc/passwd".to_vec() }),
        entry(b"a/name", Body::HardLink { to: b"./a/x/file".to_vec() }),
        entry(&long, Body::Directory),
        entry(b"a", Body::Directory),
    ];
    let mut writer = ArchiveWriter::new(Vec::new());
    for member in &members {
        match member.body {
            Body::File { size } => {
                let content = &b"hello"[..usize::try_from(size).expect("small")];
                writer.file(member, size, content).expect("memory");
            }
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                writer.member(member).expect("memory");
            }
        }
    }
    let ours = writer.finish().expect("memory");
    let gnu = [
        header(b"@LongLink", b'L', 4),
        block(b"a/l\0"),
        header(b"@LongLink", b'K', 5),
        block(b"a/in\0"),
        header(b"short", b'2', 0),
        header(b"a/fifo", b'6', 0),
        header(b"globally", b'g', 0),
        header(b"b/c/d/", b'5', 0),
        vec![0; 1024],
    ];
    vec![[&[0][..], &ours].concat(), [&[1][..], &gnu.concat()].concat()]
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.to_vec();
    block.resize(512, 0);
    block
}

/// A header in the form of GNU tar, without its checksum.
fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut header = block(name);
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"14524640400");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    header
}
