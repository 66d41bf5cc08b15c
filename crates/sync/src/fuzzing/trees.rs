//! Roots, manifests and archives.

use std::collections::BTreeMap;

use belay_packs::{Chunk, ChunkId, ChunkRef, DataKey, Envelope, Keys, MemberSecret, PackNumber};
use belay_protocol::Cid;

use super::Verdict;
use crate::archive::{ArchiveReader, ArchiveWriter, ReadError};
use crate::core::archive::BLOCK;
use crate::core::manifest::Record;
use crate::core::member::{Body, Member, Mtime};
use crate::core::ownership::Owner;
use crate::core::path::ContainerPath;
use crate::core::root::{Root, StoredPack, StoredRoot};
use crate::core::tree::{Limits, TreeFault, TreeIndex};
use crate::manifest_file::{ManifestReader, ManifestWriter};

const LIMITS: Limits = Limits { members: 64, content: 1024 * 1024 };

/// A tree that is judged, beside one that is kept whole and looked at without any cleverness.
struct Judged {
    index: TreeIndex,
    seen: BTreeMap<Vec<u8>, Member>,
    content: u64,
}

impl Judged {
    fn new() -> Self {
        let roots = ["/a", "/b/c"].map(|text| ContainerPath::parse(text).expect("a path"));
        Self { index: TreeIndex::new(&roots, LIMITS), seen: BTreeMap::new(), content: 0 }
    }

    fn take(&mut self, member: &Member, digest: &[u8; 32]) -> Result<(), TreeFault> {
        self.index.admit(member)?;
        self.index.record(member, digest);
        let path = &member.path;
        let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        assert!(path.len() <= 4_094 && !path.contains(&0) && parts.len() <= 128, "{path:?}");
        for part in &parts {
            assert!(!matches!(*part, b"" | b"." | b"..") && part.len() <= 255, "{path:?}");
        }
        let is_root = path == b"a" || path == b"b/c";
        if !is_root {
            let parent = parts[..parts.len() - 1].join(&b'/');
            let parent = self.seen.get(&parent).expect("its directory came before it");
            assert_eq!(parent.body, Body::Directory, "nothing lies below a link or a file");
        }
        assert_eq!(member.mode & !0o7777, 0, "no bit that is not of a mode");
        assert!(member.owner.is_lawful(), "no id that nobody can have");
        assert!(member.mtime.nanos < 1_000_000_000);
        let attributes = member.xattrs.iter();
        let bytes: usize = attributes.map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= 64 * 1024 && member.xattrs.keys().all(|name| name.starts_with(b"user.")));
        match &member.body {
            Body::Directory => {}
            Body::File { size } => self.content += size,
            Body::Symlink { target } => assert!((1..=4_095).contains(&target.len())),
            Body::HardLink { to } => assert!(!to.split(|&byte| byte == b'/').any(|p| p == b"..")),
        }
        assert!(self.content <= LIMITS.content, "no more content than declared");
        assert!(self.seen.insert(path.clone(), member.clone()).is_none(), "{path:?} came twice");
        assert!(self.seen.len() as u64 <= LIMITS.members, "no more entries than declared");
        Ok(())
    }

    fn finish(self) -> Verdict {
        let Ok(summary) = self.index.finish() else { return Verdict::Refused };
        assert!(self.seen.contains_key(&b"a"[..]) && self.seen.contains_key(&b"b/c"[..]));
        assert_eq!((summary.members, summary.content), (self.seen.len() as u64, self.content));
        assert_eq!(summary.owned, self.seen.values().any(Member::is_owned), "it is told");
        Verdict::Accepted
    }
}

/// A whole manifest.
///
/// # Panics
/// If it does not read back as the same bytes, or a tree is accepted that breaks a rule.
pub fn manifest(bytes: &[u8]) -> Verdict {
    let Ok(mut reader) = ManifestReader::new(bytes) else { return Verdict::Refused };
    let mut writer = ManifestWriter::new(Vec::new()).expect("memory");
    let mut tree = Some(Judged::new());
    let (mut file, mut told): (Option<(Member, u64)>, u64) = (None, 0);
    loop {
        let record = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(_) => return Verdict::Refused,
        };
        writer.put(&record).expect("memory");
        let whole = match record {
            Record::Entry(member) => match member.body {
                Body::File { size } => {
                    assert!(file.is_none(), "no entry stands within a file");
                    (file, told) = (Some((member, size)), 0);
                    None
                }
                Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                    Some((member, [0; 32]))
                }
            },
            Record::Chunk(chunk) => {
                assert!(file.is_some(), "a piece is of a file");
                told += u64::from(hold_chunk(&chunk, 0));
                None
            }
            Record::Hole(length) => {
                assert!(file.is_some() && length > 0, "a hole is of a file");
                told += length;
                None
            }
            Record::End(digest) => {
                let (member, size) = file.take().expect("an end is of a file");
                assert_eq!(told, size, "the pieces are the file");
                Some((member, digest))
            }
        };
        if let Some((member, digest)) = whole
            && tree.as_mut().is_some_and(|tree| tree.take(&member, &digest).is_err())
        {
            tree = None;
        }
    }
    assert!(file.is_none(), "a manifest does not end within a file");
    // But for the number of its form, since what is written is always of the newest.
    let head = b"belay manifest ".len();
    assert_eq!(writer.finish()[head + 1..], bytes[head + 1..], "a manifest has one form");
    tree.map_or(Verdict::Refused, Judged::finish)
}

/// A chunk keeps the bounds that a reader counts on. Returns its size.
fn hold_chunk(chunk: &Chunk, deltas: u32) -> u32 {
    let own = chunk.at().plain;
    assert!((1..=256 * 1024).contains(&own), "{chunk:?}");
    if chunk.is_delta() {
        assert!(deltas < 4, "no more than four differences stand on each other");
        assert!(chunk.bases().len() <= 8, "{chunk:?}");
    }
    let (mut count, mut bytes) = (0, 0);
    chunk.each(&mut |at| {
        count += 1;
        bytes += u64::from(at.plain);
    });
    assert!(count <= 64 && bytes <= 17 * u64::from(own), "{chunk:?}");
    for base in chunk.bases() {
        hold_chunk(base, deltas + 1);
    }
    own
}

/// A small tree with one of everything.
fn sample() -> Vec<Member> {
    let entry = |path: &[u8], body| Member {
        path: path.to_vec(),
        mode: 0o755,
        owner: Owner::default(),
        mtime: Mtime { seconds: 1_700_000_000, nanos: 5 },
        xattrs: BTreeMap::new(),
        body,
    };
    let mut file = entry(b"a/file", Body::File { size: 5 });
    file.xattrs.insert(b"user.note".to_vec(), b"x=y".to_vec());
    vec![
        entry(b"a", Body::Directory),
        file,
        Member {
            owner: Owner { user: Some(70), group: Some(0) },
            ..entry(b"a/foreign", Body::Directory)
        },
        Member { mode: 0o6755, ..entry(b"a/id", Body::File { size: 0 }) },
        entry(b"a/link", Body::Symlink { target: b"/etc/passwd".to_vec() }),
        entry(b"a/name", Body::HardLink { to: b"a/file".to_vec() }),
        entry(&[b"a/", &[b'n'; 150][..]].concat(), Body::Directory),
        entry(b"b/c", Body::File { size: 0 }),
    ]
}

fn chunk(seed: u8, plain: u32) -> ChunkRef {
    let (id, pack) = (ChunkId::from_bytes([seed; 32]), PackNumber(u32::from(seed)));
    ChunkRef { id, plain, pack, offset: 13, stored: 100 }
}

/// Manifests that are accepted.
///
/// # Panics
/// Never: there is memory for them.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let mut writer = ManifestWriter::new(Vec::new()).expect("memory");
    for member in sample() {
        let size = match member.body {
            Body::File { size } => Some(size),
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => None,
        };
        writer.put(&Record::Entry(member)).expect("memory");
        let Some(size) = size else { continue };
        if size > 0 {
            let below = Chunk::on(chunk(3, 3), vec![Chunk::whole(chunk(1, 3))]).expect("lawful");
            let bases = vec![below, Chunk::whole(chunk(2, 2))];
            let delta = Chunk::on(chunk(4, 2), bases).expect("lawful");
            writer.put(&Record::Chunk(Chunk::whole(chunk(1, 2)))).expect("memory");
            writer.put(&Record::Chunk(delta)).expect("memory");
            writer.put(&Record::Hole(size - 4)).expect("memory");
        }
        writer.put(&Record::End([7; 32])).expect("memory");
    }
    vec![writer.finish()]
}

/// A whole root, and the same sealed.
///
/// # Panics
/// If it does not read back as the same bytes, refers to what is not there, or opens for a stranger.
pub fn root(bytes: &[u8]) -> Verdict {
    let Ok(stored) = StoredRoot::decode(bytes) else { return Verdict::Refused };
    let plain = Keys::plain();
    let key = DataKey::from_bytes([7; 32]);
    let sealed = Keys::sealed(&key);
    if !stored.envelopes.is_empty() {
        assert!(stored.envelopes.len() <= 1_024, "1,024 members");
        assert!(stored.clone().open(&plain).is_err(), "it does not open without a key");
        let Ok(root) = stored.clone().open(&sealed) else { return Verdict::Refused };
        hold(&root);
        assert_eq!(root.encode(&sealed, &stored.envelopes), bytes, "a root has one form");
        return Verdict::Accepted;
    }
    assert!(stored.clone().open(&sealed).is_err(), "an open root is not taken for a sealed one");
    let Ok(root) = stored.open(&plain) else { return Verdict::Refused };
    hold(&root);
    assert_eq!(root.encode(&plain, &[]), bytes, "a root has one form");
    let member = MemberSecret::from_bytes([1; 32]).member();
    let bytes = root.encode(&sealed, &[Envelope::seal(&key, member)]);
    let again = StoredRoot::decode(&bytes).expect("what was written is read");
    assert!(again.clone().open(&Keys::sealed(&DataKey::from_bytes([8; 32]))).is_err());
    assert_eq!(again.open(&sealed), Ok(root), "sealed and opened, it is the same");
    Verdict::Accepted
}

fn hold(root: &Root) {
    for pack in root.packs.values() {
        assert!((1..=64 * 1024 * 1024).contains(&pack.size), "{pack:?}");
    }
    for chunk in &root.manifest {
        let pack = root.packs.get(&chunk.pack).expect("a chunk lies in a pack of the root");
        assert!(chunk.offset + chunk.stored <= pack.size, "a chunk lies within its pack");
    }
    assert!(root.manifest_bytes() <= 4 << 30, "4 GiB of manifest");
}

/// Roots that are accepted, open and sealed.
pub fn root_seeds() -> Vec<Vec<u8>> {
    let pack = |seed: u8| {
        (PackNumber(u32::from(seed)), StoredPack { id: Cid::from_digest([seed; 32]), size: 1_000 })
    };
    let packs = BTreeMap::from([pack(1), pack(3)]);
    let root = Root { packs, manifest: vec![chunk(1, 500), chunk(3, 70_000)] };
    let key = DataKey::from_bytes([7; 32]);
    let members = [1, 2].map(|seed| MemberSecret::from_bytes([seed; 32]).member());
    let envelopes = members.map(|member| Envelope::seal(&key, member));
    vec![root.encode(&Keys::plain(), &[]), root.encode(&Keys::sealed(&key), &envelopes)]
}

/// Members of an archive, with the contents of the files.
type Members = Vec<(Member, Vec<u8>)>;

/// An archive, uncompressed, behind a byte of which the lowest bit asks for right checksums.
///
/// # Panics
/// If a lawful tree is not read back as it was, or a tree is accepted that breaks a rule.
pub fn archive(bytes: &[u8]) -> Verdict {
    let Some(bytes) = repaired(bytes) else { return Verdict::Refused };
    let Ok(members) = read(&bytes) else { return Verdict::Refused };
    let taken: usize = members.iter().map(|(_, content)| content.len()).sum();
    assert!(taken <= bytes.len(), "no content that is not there");
    let mut tree = Judged::new();
    for (member, content) in &members {
        if tree.take(member, blake3::hash(content).as_bytes()).is_err() {
            return Verdict::Refused;
        }
    }
    let again = read(&write(&members)).expect("what was written is read");
    assert_eq!(again, members, "a lawful tree reads back as it was");
    tree.finish()
}

/// What follows the first byte, with right checksums if the lowest bit of that asks for them.
pub(super) fn repaired(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&how, bytes) = bytes.split_first()?;
    let mut bytes = bytes.to_vec();
    if how & 1 == 1 {
        bytes.as_chunks_mut().0.iter_mut().for_each(repair);
    }
    Some(bytes)
}

/// Gives a header the checksum that it should have: the sum of its bytes, its own field as spaces.
/// Zeros are no header but the end mark.
fn repair(block: &mut [u8; BLOCK]) {
    if block.iter().all(|&byte| byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn read(bytes: &[u8]) -> Result<Members, ReadError> {
    let mut reader = ArchiveReader::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = reader.next()? {
        let mut content = Vec::new();
        reader.content(|piece| {
            content.extend_from_slice(piece);
            Ok::<(), ReadError>(())
        })?;
        members.push((member, content));
    }
    Ok(members)
}

fn write(members: &Members) -> Vec<u8> {
    let mut writer = ArchiveWriter::new(Vec::new());
    for (member, content) in members {
        match member.body {
            Body::File { size } => drop(writer.file(member, size, &content[..]).expect("memory")),
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                writer.member(member).expect("memory");
            }
        }
    }
    writer.finish().expect("memory")
}

/// Archives that are accepted.
pub fn archive_seeds() -> Vec<Vec<u8>> {
    let members = sample().into_iter().map(|member| {
        let content = match member.body {
            Body::File { size } => {
                b"hello".iter().copied().take(usize::try_from(size).unwrap_or(0))
            }
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                b"".iter().copied().take(0)
            }
        };
        (member, content.collect())
    });
    vec![[&[0][..], &write(&members.collect())].concat()]
}
