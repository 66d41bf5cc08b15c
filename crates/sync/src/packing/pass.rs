//! One pass over the volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use belay_packs::{Chunk, ContentWriter, Cutter, Effort, MIN, Met as MetChunk, PackNumber};
use rustix::fs::{FileType, Stat};

use super::likeness::Likeness;
use super::{Checked, PackFiles, Walked};
use crate::beneath::{Dir, Name, file_type};
use crate::capture::{
    CaptureError, Links, Skipped, bare, limits, mtime, read_xattrs, size, xattrs,
};
use crate::core::attempts::{Beside, Tried};
use crate::core::manifest::{HOLE_MIN, Record};
use crate::core::member::{Body, MODE_MASK, Member, Mtime};
use crate::core::path::ContainerPath;
use crate::core::seen::{Look, Seen};
use crate::core::tree::TreeIndex;
use crate::manifest_file::ManifestWriter;
use crate::remembered::Earlier;
use crate::volume::Volumes;
use crate::walk::{At, Met, Vanished, io_fault, walk};

/// What happens to the volumes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassKind {
    /// The app runs.
    Live,
    /// Nothing writes to them.
    Still,
    /// They are clones; the volumes themselves may have changed since this moment.
    Kept { since: i128 },
}

/// What a pass came to.
pub(super) struct Passed {
    index: TreeIndex,
    skipped: Skipped,
    /// Files that changed while they were read.
    pub(super) unsteady: u64,
}

impl Passed {
    pub(super) fn walked(self) -> Result<Walked, CaptureError> {
        Ok(Walked { tree: self.index.finish()?, skipped: self.skipped })
    }
}

pub(super) struct Pass<'p> {
    kind: PassKind,
    volumes: &'p Volumes,
    roots: &'p [ContainerPath],
    earlier: Option<Earlier>,
    /// What changed chunks are held against.
    likeness: Option<Likeness<'p>>,
    manifest: ManifestWriter<BufWriter<Checked>>,
    seen: BufWriter<Checked>,
    writer: &'p mut ContentWriter<PackFiles>,
    used: &'p mut BTreeSet<PackNumber>,
    index: TreeIndex,
    links: Links,
    skipped: Skipped,
    /// By volume: whether a change of a file there always shows in its times.
    dependable: Vec<bool>,
    unsteady: u64,
}

impl<'p> Pass<'p> {
    #[expect(clippy::too_many_arguments, reason = "each is another thing that the pass works on")]
    pub(super) fn new(
        kind: PassKind,
        volumes: &'p Volumes,
        roots: &'p [ContainerPath],
        earlier: Option<Earlier>,
        likeness: Option<Likeness<'p>>,
        manifest: BufWriter<Checked>,
        seen: BufWriter<Checked>,
        writer: &'p mut ContentWriter<PackFiles>,
        used: &'p mut BTreeSet<PackNumber>,
    ) -> Result<Self, CaptureError> {
        let mut dependable = Vec::new();
        for volume in &volumes.all {
            let data = volume.data().map_err(|error| io_fault(volume.point.as_member(), error))?;
            dependable.push(is_dependable(&data));
        }
        Ok(Self {
            kind,
            volumes,
            roots,
            earlier,
            likeness,
            manifest: ManifestWriter::new(manifest).map_err(CaptureError::Write)?,
            seen,
            writer,
            used,
            index: TreeIndex::new(roots, limits(volumes)),
            links: Links::default(),
            skipped: Skipped::default(),
            dependable,
            unsteady: 0,
        })
    }

    pub(super) fn run(mut self) -> Result<Passed, CaptureError> {
        let vanished = match self.kind {
            PassKind::Live => Vanished::Skip,
            PassKind::Still | PassKind::Kept { .. } => Vanished::Fail,
        };
        let (volumes, roots) = (self.volumes, self.roots);
        walk(volumes, roots, vanished, &mut |met: &Met<'_>| self.meet(met))?;
        self.manifest.finish().flush().map_err(CaptureError::Write)?;
        self.seen.flush().map_err(CaptureError::Write)?;
        let Self { index, skipped, unsteady, .. } = self;
        Ok(Passed { index, skipped, unsteady })
    }

    fn meet(&mut self, met: &Met<'_>) -> Result<(), CaptureError> {
        let mut member = bare(met);
        match (file_type(&met.stat), met.at) {
            (FileType::Directory, _) => {
                member.xattrs = match read_xattrs(met) {
                    // The app runs on, and what is looked at may be gone. What was in it may still be
                    // met, and needs it.
                    Err(CaptureError::Walk(_)) if self.kind == PassKind::Live => BTreeMap::new(),
                    read => read?,
                };
                self.plain(&member)
            }
            (FileType::RegularFile, At::Entry { dir, name }) => {
                if let Some(to) = self.links.first_name(met)? {
                    member.link_to(to.to_vec());
                    return self.plain(&member);
                }
                self.file(met, member, dir, name)
            }
            (FileType::Symlink, At::Entry { dir, name }) => {
                let target = match dir.read_link(name) {
                    Err(_) if self.kind == PassKind::Live => return Ok(()),
                    target => target.map_err(|source| io_fault(met.path, source))?,
                };
                member.body = Body::Symlink { target };
                self.plain(&member)
            }
            _ => {
                self.skipped.note(met.path);
                Ok(())
            }
        }
    }

    /// Takes an entry that has no content.
    fn plain(&mut self, member: &Member) -> Result<(), CaptureError> {
        self.begin(member)?;
        self.seen.write_all(&Seen::Untold.encode()).map_err(CaptureError::Write)?;
        self.index.record(member, &[0; 32]);
        Ok(())
    }

    fn begin(&mut self, member: &Member) -> Result<(), CaptureError> {
        self.index.admit(member)?;
        self.manifest.put(&Record::Entry(member.clone())).map_err(CaptureError::Write)
    }

    fn end(&mut self, member: &Member, digest: [u8; 32], seen: Seen) -> Result<(), CaptureError> {
        self.manifest.put(&Record::End(digest)).map_err(CaptureError::Write)?;
        self.seen.write_all(&seen.encode()).map_err(CaptureError::Write)?;
        self.index.record(member, &digest);
        Ok(())
    }

    fn file(
        &mut self,
        met: &Met<'_>,
        mut member: Member,
        dir: &Dir,
        name: Name<'_>,
    ) -> Result<(), CaptureError> {
        if let Some(earlier) = &mut self.earlier
            && let Some((known, seen)) = earlier.find(met.path)?
            && matches!(known.body, Body::File { .. })
            && seen.holds(&look_of(&met.stat))
        {
            // It is as it was when it was read. What is remembered of its owner may have been told by
            // another owner of the volume, or by a program that knew of none.
            let Member { mode, owner, .. } = member;
            return self.keep(&Member { mode, owner, ..known }, seen);
        }
        let fault = |source: io::Error| io_fault(met.path, source);
        let began = match self.kind {
            PassKind::Live | PassKind::Still => clock(),
            // What changed in the same step of the clock as the moment may have changed after it.
            PassKind::Kept { since } => since,
        };
        let file = match dir.open_file(name) {
            Ok((file, _)) => file,
            // Gone, or something else by now.
            Err(_) if self.kind == PassKind::Live => {
                self.unsteady += 1;
                self.links.forget(met);
                return Ok(());
            }
            Err(error) => return Err(fault(error).into()),
        };
        let mut dependable = self.dependable[met.mount];
        if dependable && self.kind == PassKind::Live {
            // A page that is mapped and dirty takes further writes unseen. Written back, it shows
            // the next one.
            dependable = rustix::fs::fsync(&file).is_ok();
        }
        let stat = rustix::fs::fstat(&file).map_err(|error| fault(error.into()))?;
        member.mode = stat.st_mode & MODE_MASK;
        member.owner = met.owner(&stat);
        member.mtime = mtime(&stat);
        member.xattrs = xattrs(&file, met.path)?;
        member.body = Body::File { size: size(&stat) };
        self.begin(&member)?;
        if let Some(likeness) = &mut self.likeness {
            likeness.enter(met.path)?;
        }
        let digest = self.content(met.path, &file, size(&stat))?;
        let after = rustix::fs::fstat(&file).map_err(|error| fault(error.into()))?;
        let steady = look_of(&after) == look_of(&stat);
        self.unsteady += u64::from(!steady);
        let seen =
            if dependable && steady { Seen::of(look_of(&stat), began) } else { Seen::Untold };
        self.end(&member, digest, seen)
    }

    /// Takes a file that is as it was.
    fn keep(&mut self, known: &Member, seen: Seen) -> Result<(), CaptureError> {
        self.begin(known)?;
        while let Some(piece) = self.earlier.as_mut().map_or(Ok(None), Earlier::piece)? {
            match piece {
                Record::End(digest) => return self.end(known, digest, seen),
                Record::Chunk(chunk) => self.take(chunk)?,
                Record::Hole(_) | Record::Entry(_) => self.piece(&piece)?,
            }
        }
        let source = crate::core::manifest::ManifestFault::Truncated;
        Err(CaptureError::Earlier(source.into()))
    }

    /// Writes `size` bytes of a file as pieces, and returns their hash.
    fn content(
        &mut self,
        path: &[u8],
        mut file: &File,
        size: u64,
    ) -> Result<[u8; 32], CaptureError> {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let run = run(file, at, size).map_err(|source| io_fault(path, source))?;
            match run {
                Run::Hole(length) => {
                    self.go_on(Beside::New)?;
                    zeros(&mut hasher, length);
                    self.piece(&Record::Hole(length))?;
                    at += length;
                }
                Run::Content(length) => {
                    file.seek(SeekFrom::Start(at)).map_err(|source| io_fault(path, source))?;
                    let read = self.chunks(path, file, at, length, &mut hasher)?;
                    at += read;
                    if read < length {
                        self.missing(path, at, size - at, &mut hasher)?;
                        at = size;
                    }
                }
            }
        }
        self.go_on(Beside::New)?;
        Ok(*hasher.finalize().as_bytes())
    }

    fn chunks(
        &mut self,
        path: &[u8],
        file: &File,
        at: u64,
        length: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<u64, CaptureError> {
        let mut content = file.take(length);
        if length <= u64::from(MIN) {
            // So little is one chunk wherever it is cut, and needs no cutter.
            let mut chunk = Vec::with_capacity(MIN as usize);
            content.read_to_end(&mut chunk).map_err(|source| io_fault(path, source))?;
            self.chunk(&chunk, at, hasher)?;
            return Ok(chunk.len() as u64);
        }
        let mut read = 0;
        for chunk in Cutter::new(content) {
            let chunk = chunk.map_err(|source| io_fault(path, source))?;
            self.chunk(&chunk, at + read, hasher)?;
            read += chunk.len() as u64;
        }
        Ok(read)
    }

    /// Takes the content that lies at this place of the file.
    fn chunk(
        &mut self,
        content: &[u8],
        at: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<(), CaptureError> {
        if content.is_empty() {
            return Ok(());
        }
        hasher.update(content);
        match self.writer.meet(content).map_err(CaptureError::Write)? {
            MetChunk::Known(chunk) => {
                self.go_on(Beside::Old)?;
                self.take(chunk)
            }
            MetChunk::New(id) => {
                match self.likeness.as_mut().filter(|likeness| likeness.has_file()) {
                    None => {
                        let added = self.writer.add(id, content, Effort::Fast, Vec::new());
                        self.take(added.map_err(CaptureError::Write)?)
                    }
                    Some(likeness) => {
                        let enough = likeness.wait(id, content, at);
                        if enough { self.go_on(Beside::New) } else { Ok(()) }
                    }
                }
            }
        }
    }

    /// Writes the new chunks that wait, before what follows them.
    fn go_on(&mut self, ends: Beside) -> Result<(), CaptureError> {
        let Some(likeness) = &mut self.likeness else { return Ok(()) };
        for (new, bases) in likeness.go_on(ends)? {
            let bases = likeness.contents(bases);
            let is_tried = !bases.is_empty();
            let added = self.writer.add(new.id, &new.content, Effort::Fast, bases);
            let chunk = added.map_err(CaptureError::Write)?;
            if is_tried {
                likeness.attempts.note(if chunk.is_delta() { Tried::Like } else { Tried::Unlike });
            }
            chunk.each(&mut |at| {
                self.used.insert(at.pack);
            });
            self.manifest.put(&Record::Chunk(chunk)).map_err(CaptureError::Write)?;
        }
        Ok(())
    }

    /// Takes a chunk into the tree, with the packs that it takes to read it.
    fn take(&mut self, chunk: Chunk) -> Result<(), CaptureError> {
        chunk.each(&mut |at| {
            self.used.insert(at.pack);
        });
        self.piece(&Record::Chunk(chunk))
    }

    /// A file became shorter while it was read. Beside a running app that happens: what is gone is
    /// zeros, and it is read again.
    fn missing(
        &mut self,
        path: &[u8],
        mut at: u64,
        length: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<(), CaptureError> {
        match self.kind {
            PassKind::Live => {}
            PassKind::Still | PassKind::Kept { .. } => {
                let source = io::Error::other("a file became shorter while it was read");
                return Err(io_fault(path, source).into());
            }
        }
        if length >= HOLE_MIN {
            self.go_on(Beside::New)?;
            zeros(hasher, length);
            return self.piece(&Record::Hole(length));
        }
        for piece in vec![0; usize::try_from(length).unwrap_or(0)].chunks(MIN as usize) {
            self.chunk(piece, at, hasher)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn piece(&mut self, piece: &Record) -> Result<(), CaptureError> {
        self.manifest.put(piece).map_err(CaptureError::Write)
    }
}

/// What follows in a file.
enum Run {
    Hole(u64),
    Content(u64),
}

/// How far content or a hole reaches from `at`. A hole that is too short to be told is content.
fn run(file: &File, at: u64, size: u64) -> io::Result<Run> {
    if size - at < HOLE_MIN {
        return Ok(Run::Content(size - at));
    }
    let data = |from| sought(rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)), size);
    let hole = |from| sought(rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(from)), size);
    let Some(first) = data(at)? else { return Ok(Run::Content(size - at)) };
    if first - at >= HOLE_MIN {
        return Ok(Run::Hole(first - at));
    }
    let mut end = first;
    while end < size {
        let Some(begins) = hole(end)? else { break };
        if begins >= size {
            break;
        }
        let Some(ends) = data(begins)? else { break };
        if ends - begins >= HOLE_MIN {
            return Ok(Run::Content(begins - at));
        }
        end = ends;
    }
    Ok(Run::Content(size - at))
}

/// Where it is, at most `size`; none where the file system does not tell.
fn sought(found: rustix::io::Result<u64>, size: u64) -> io::Result<Option<u64>> {
    match found {
        Ok(at) => Ok(Some(at.min(size))),
        Err(rustix::io::Errno::NXIO) => Ok(Some(size)),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn zeros(hasher: &mut blake3::Hasher, mut length: u64) {
    static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];
    while length > 0 {
        let piece = usize::try_from(length).unwrap_or(PIECE.len()).min(PIECE.len());
        hasher.update(&PIECE[..piece]);
        length -= piece as u64;
    }
}

/// What tells of a change of a file.
pub(crate) fn look_of(stat: &Stat) -> Look {
    let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or(0).min(999_999_999);
    Look {
        inode: stat.st_ino,
        size: size(stat),
        modified: mtime(stat),
        changed: Mtime { seconds: stat.st_ctime, nanos },
    }
}

/// Nanoseconds since 1970 by the clock that files are dated with.
pub(crate) fn clock() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// File systems that date a file anew with every write, through a mapping too. Others, such as those
/// in memory, do not; and of what is not known nothing is believed.
pub(crate) fn is_dependable(dir: &Dir) -> bool {
    const EXT4: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    rustix::fs::fstatfs(dir.descriptor())
        .is_ok_and(|found| matches!(found.f_type, EXT4 | XFS | BTRFS))
}
