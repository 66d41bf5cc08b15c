//! Looks over what is to be captured, and captures it into an archive.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};

use belay_protocol::Cid;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use rustix::fs::{FileType, Stat};

use crate::archive::{ArchiveWriter, EXTENSIONS_MAX};
use crate::beneath::file_type;
use crate::core::member::{Body, MODE_MASK, Member, Mtime};
use crate::core::path::ContainerPath;
use crate::core::tree::{
    Limits, MEMBERS_MAX, TreeFault, TreeIndex, TreeSummary, XATTRS_MAX, is_tree_path,
};
use crate::manifest_file::ManifestError;
use crate::spool::keep_reserve;
use crate::volume::Volumes;
use crate::walk::{At, Met, Vanished, WalkError, io_fault, shown, walk};

/// Skipped entries that are named; more are counted.
const NAMED_MAX: usize = 100;
/// Bytes written between two looks at the room on the host's disk.
pub(crate) const CHECK_EVERY: usize = 4 * 1024 * 1024;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) members: u64,
    pub(crate) content: u64,
}

/// A captured tree in an archive.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) tree: TreeSummary,
    /// Content id of the archive's bytes.
    pub(crate) blob: Cid,
    /// Size of the archive, in bytes.
    pub(crate) size: u64,
    pub(crate) skipped: Skipped,
}

/// Sockets, FIFOs and devices that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) count: u64,
    pub(crate) named: Vec<String>,
}

impl Skipped {
    pub(crate) fn note(&mut self, path: &[u8]) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("/{}", shown(path)));
        }
    }
}

/// Why a look or a capture failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error("the tree cannot be carried: {0}")]
    Tree(#[from] TreeFault),
    #[error("the attributes of {path:?} take more than {XATTRS_MAX} bytes")]
    Attributes { path: String },
    #[error("the first names of files with several names take more than {LINKS_MAX} bytes")]
    Links,
    #[error("paths and attributes take more than {EXTENSIONS_MAX} bytes")]
    Headers,
    #[error("the tree needs more packs and chunks than a root can name")]
    Root,
    #[error("what is known of an earlier capture could not be read")]
    Earlier(#[from] ManifestError),
    #[error("the capture could not be written")]
    Write(#[source] io::Error),
}

/// No more content than the volumes hold: a sparse file may claim any size.
pub(crate) fn limits(volumes: &Volumes) -> Limits {
    let content = volumes.all.iter().map(|volume| volume.size).fold(0, u64::saturating_add);
    Limits { members: MEMBERS_MAX, content }
}

/// Counts what a capture would take while the app runs on. Nothing is read but names,
/// attributes and directories.
pub(crate) fn survey(volumes: &Volumes, roots: &[ContainerPath]) -> Result<Survey, CaptureError> {
    let limits = limits(volumes);
    let mut survey = Survey { members: 0, content: 0 };
    let mut links = Links::default();
    let mut headers = 0_u64;
    walk(volumes, roots, Vanished::Skip, &mut |met: &Met<'_>| -> Result<(), CaptureError> {
        survey.members += 1;
        if survey.members > limits.members {
            return Err(TreeFault::TooManyMembers { limit: limits.members }.into());
        }
        if !is_tree_path(met.path) {
            return Err(TreeFault::Path { path: shown(met.path) }.into());
        }
        let is_file = file_type(&met.stat) == FileType::RegularFile;
        // A file is read once, however many names it has.
        if is_file && links.first_name(met)?.is_none() {
            survey.content = survey.content.saturating_add(size(&met.stat));
            if survey.content > limits.content {
                return Err(TreeFault::TooMuchContent { limit: limits.content }.into());
            }
        }
        let attributes = match read_xattrs(met) {
            // The app runs on, and what is looked at may be gone.
            Err(CaptureError::Walk(_)) => 0,
            read => read?.iter().map(|(name, value)| name.len() * 3 + value.len() + 32).sum(),
        };
        headers = headers.saturating_add((met.path.len() * 2 + attributes) as u64);
        if headers > EXTENSIONS_MAX {
            return Err(CaptureError::Headers);
        }
        Ok(())
    })?;
    Ok(survey)
}

/// Memory for the first names of files that have several.
const LINKS_MAX: usize = 64 * 1024 * 1024;

/// A file, as far as its names go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inode {
    mount: usize,
    number: u64,
    changed: (i64, i64),
}

/// The files with several names that were met.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// By volume, inode and time of change: the first name, and how many more there may be. Beside a
    /// running app an inode may be another file by the time of its second name; one that changed in
    /// between becomes a file of its own.
    met: HashMap<Inode, (Vec<u8>, usize)>,
    bytes: usize,
}

impl Links {
    fn key(met: &Met<'_>) -> Inode {
        let Stat { st_ino, st_ctime, st_ctime_nsec, .. } = met.stat;
        let nanos = i64::try_from(st_ctime_nsec).unwrap_or(0);
        Inode { mount: met.mount, number: st_ino, changed: (st_ctime, nanos) }
    }

    /// Forgets a first name that turned out to be gone.
    pub(crate) fn forget(&mut self, met: &Met<'_>) {
        if let Entry::Occupied(entry) = self.met.entry(Self::key(met))
            && entry.get().0 == met.path
        {
            let (first, _) = entry.remove();
            self.bytes -= first.len();
        }
    }

    /// The first name of the file that was met, if this is another one.
    pub(crate) fn first_name(
        &mut self,
        met: &Met<'_>,
    ) -> Result<Option<Cow<'_, [u8]>>, CaptureError> {
        let names = usize::try_from(met.stat.st_nlink).unwrap_or(usize::MAX);
        if names < 2 {
            return Ok(None);
        }
        match self.met.entry(Self::key(met)) {
            Entry::Vacant(entry) => {
                self.bytes += met.path.len();
                if self.bytes > LINKS_MAX {
                    return Err(CaptureError::Links);
                }
                entry.insert((met.path.to_vec(), names - 1));
                Ok(None)
            }
            Entry::Occupied(mut entry) => {
                let (_, more) = entry.get_mut();
                *more = more.saturating_sub(1);
                if *more > 0 {
                    return Ok(Some(Cow::Borrowed(&entry.into_mut().0)));
                }
                // No other name is left to meet.
                let (first, _) = entry.remove();
                self.bytes -= first.len();
                Ok(Some(Cow::Owned(first)))
            }
        }
    }
}

/// Compresses an archive. The gzip header has no time and no system in it, so equal trees have equal
/// archives.
pub(crate) fn gzip<W: Write>(target: W) -> GzEncoder<W> {
    GzBuilder::new().mtime(0).operating_system(255).write(target, Compression::fast())
}

/// Reads the tree under `roots` into `target`. Nothing may be writing to it.
pub(crate) fn capture(
    volumes: &Volumes,
    roots: &[ContainerPath],
    target: &File,
) -> Result<Captured, CaptureError> {
    let counted = Counted { inner: target, hasher: blake3::Hasher::new(), size: 0, unchecked: 0 };
    let mut archive = ArchiveWriter::new(gzip(BufWriter::with_capacity(256 * 1024, counted)));
    let mut index = TreeIndex::new(roots, limits(volumes));
    let mut links = Links::default();
    let mut skipped = Skipped::default();
    walk(volumes, roots, Vanished::Fail, &mut |met: &Met<'_>| {
        take(met, &mut archive, &mut index, &mut links, &mut skipped)
    })?;
    let compressed = archive.finish().map_err(CaptureError::Write)?;
    let buffered = compressed.finish().map_err(CaptureError::Write)?;
    let counted = buffered.into_inner().map_err(|error| CaptureError::Write(error.into_error()))?;
    Ok(Captured {
        tree: index.finish()?,
        blob: Cid::from_digest(*counted.hasher.finalize().as_bytes()),
        size: counted.size,
        skipped,
    })
}

fn take<W: Write>(
    met: &Met<'_>,
    archive: &mut ArchiveWriter<W>,
    index: &mut TreeIndex,
    links: &mut Links,
    skipped: &mut Skipped,
) -> Result<(), CaptureError> {
    let fault = |source| io_fault(met.path, source);
    let mut member = bare(met);
    match (file_type(&met.stat), met.at) {
        (FileType::Directory, _) => {
            member.xattrs = read_xattrs(met)?;
            index.admit(&member)?;
            archive.member(&member).map_err(CaptureError::Write)?;
            index.record(&member, &[0; 32]);
        }
        (FileType::RegularFile, At::Entry { dir, name }) => {
            let (file, stat) = dir.open_file(name).map_err(fault)?;
            if let Some(to) = links.first_name(met)? {
                member.link_to(to.to_vec());
                index.admit(&member)?;
                archive.member(&member).map_err(CaptureError::Write)?;
                index.record(&member, &[0; 32]);
                return Ok(());
            }
            member.body = Body::File { size: size(&stat) };
            member.xattrs = xattrs(&file, met.path)?;
            index.admit(&member)?;
            let digest = archive.file(&member, size(&stat), &file).map_err(CaptureError::Write)?;
            index.record(&member, &digest);
        }
        (FileType::Symlink, At::Entry { dir, name }) => {
            member.body = Body::Symlink { target: dir.read_link(name).map_err(fault)? };
            index.admit(&member)?;
            archive.member(&member).map_err(CaptureError::Write)?;
            index.record(&member, &[0; 32]);
        }
        _ => {
            skipped.note(met.path);
        }
    }
    Ok(())
}

pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// An entry as it was met, without attributes and content: those depend on what it is.
pub(crate) fn bare(met: &Met<'_>) -> Member {
    Member {
        path: met.path.to_vec(),
        mode: met.stat.st_mode & MODE_MASK,
        owner: met.owner(&met.stat),
        mtime: mtime(&met.stat),
        xattrs: BTreeMap::new(),
        body: Body::Directory,
    }
}

pub(crate) fn mtime(stat: &Stat) -> Mtime {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999);
    Mtime { seconds: stat.st_mtime, nanos }
}

pub(crate) fn read_xattrs(met: &Met<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CaptureError> {
    let fault = |source| io_fault(met.path, source);
    match (file_type(&met.stat), met.at) {
        (FileType::Directory, At::Root { dir }) => xattrs(dir.descriptor(), met.path),
        (FileType::Directory, At::Entry { dir, name }) => {
            xattrs(dir.open_child(name).map_err(fault)?.descriptor(), met.path)
        }
        (FileType::RegularFile, At::Entry { dir, name }) => {
            xattrs(dir.open_file(name).map_err(fault)?.0, met.path)
        }
        _ => Ok(BTreeMap::new()),
    }
}

/// Whether a file has attributes that do not travel with it, but for the label that the host gives
/// every file.
pub(crate) fn has_other_xattrs(file: impl std::os::fd::AsFd) -> bool {
    let mut names = Vec::with_capacity(XATTRS_MAX);
    match rustix::fs::flistxattr(&file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => names.split(|&byte| byte == 0).any(|name| {
            !name.is_empty() && !name.starts_with(b"user.") && name != b"security.selinux"
        }),
        Err(error) => error != rustix::io::Errno::OPNOTSUPP,
    }
}

/// The attributes of the `user` namespace. Others are of this host (security labels, capabilities,
/// overlay marks) and do not travel.
pub(crate) fn xattrs(
    file: impl std::os::fd::AsFd,
    path: &[u8],
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CaptureError> {
    let mut names = Vec::with_capacity(XATTRS_MAX);
    let mut found = BTreeMap::new();
    let excess = || CaptureError::Attributes { path: shown(path) };
    let fault = |error: rustix::io::Errno| CaptureError::from(io_fault(path, error.into()));
    match rustix::fs::flistxattr(&file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(found),
        Err(rustix::io::Errno::RANGE) => return Err(excess()),
        Err(error) => return Err(fault(error)),
    }
    let mut total = 0;
    for name in names.split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = Vec::with_capacity(XATTRS_MAX);
        match rustix::fs::fgetxattr(&file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {}
            Err(rustix::io::Errno::RANGE) => return Err(excess()),
            Err(error) => return Err(fault(error)),
        }
        value.shrink_to_fit();
        total += name.len() + value.len();
        if total > XATTRS_MAX {
            return Err(excess());
        }
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

struct Counted<'f> {
    inner: &'f File,
    hasher: blake3::Hasher,
    size: u64,
    unchecked: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unchecked += bytes.len();
        if self.unchecked >= CHECK_EVERY {
            keep_reserve(self.inner, self.unchecked)?;
            self.unchecked = 0;
        }
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
