//! What a consumer remembers of the files that it applied, so that those which nobody touched need
//! not be read again by the next apply. It may be lost at any time: then they are.
//!
//! ```text
//! print      which volumes these were
//! looks      for each entry of the manifest of what was applied, what its file looked like
//! sums       BLAKE3 of that manifest, and of all that stands before
//! ```
//!
//! A file is remembered if it is the one that was staged and verified, has the time that its record
//! gives it, and had not changed for longer than a step of the clock before everything was written to
//! the disk. From then on no change of it goes without another change time.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Stat};

use crate::beneath::{Dir, Name, file_type};
use crate::capture::{mtime, size};
use crate::core::apply::{Unit, locate};
use crate::core::manifest::Record;
use crate::core::member::{Body, Member};
use crate::core::seen::Seen;
use crate::manifest_file::{ManifestError, ManifestReader};
use crate::packing::{clock, is_dependable, look_of};
use crate::remembered::{Earlier, VolumesPrint};
use crate::volume::Volumes;

/// Longer than two steps of a kernel's clock for files.
const SETTLING: Duration = Duration::from_millis(21);
/// Most files whose looks are held in memory until they are applied.
const FILES_MAX: usize = 1 << 20;
const SUMS: usize = 64;

/// A file that was staged.
#[derive(Debug, Clone, Copy)]
struct StagedFile {
    inode: u64,
    /// When it was changed last; none of a file that is in the old tree too, and that changes once
    /// more when that is removed.
    changed: Option<(i64, u64)>,
}

/// The files of a staged tree, in the order of its manifest.
#[derive(Debug, Default)]
pub(crate) struct StagedFiles {
    files: Vec<StagedFile>,
    too_many: bool,
}

impl StagedFiles {
    /// Notes the next file as it was staged.
    pub(crate) fn note(&mut self, stat: &Stat, is_shared: bool) {
        self.too_many |= self.files.len() >= FILES_MAX;
        if !self.too_many {
            let changed = (!is_shared).then_some((stat.st_ctime, stat.st_ctime_nsec));
            self.files.push(StagedFile { inode: stat.st_ino, changed });
        }
    }
}

/// Remembers what the files look like that were staged and stand in their places now. The old tree
/// is removed. Blocks the thread.
pub(crate) fn remember(
    volumes: &Volumes,
    units: &[Unit],
    manifest: &Path,
    staged: &StagedFiles,
    to: &Path,
) -> Result<(), ManifestError> {
    if staged.too_many {
        return Ok(());
    }
    std::thread::sleep(SETTLING);
    let began = clock();
    for volume in &volumes.all {
        // A page that is mapped and dirty takes further writes unseen. Written back, it shows the
        // next one.
        volume.private.sync_file_system().map_err(ManifestError::Io)?;
    }
    let unfinished = to.with_extension("new");
    let bytes = File::open(manifest).map_err(ManifestError::Io)?;
    let mut reader = ManifestReader::new(BufReader::with_capacity(128 * 1024, bytes))?;
    let out = File::create(&unfinished).map_err(ManifestError::Io)?;
    let mut out = Summed { out: BufWriter::new(out), hasher: blake3::Hasher::new() };
    let mut places = Places { volumes, units, open: None };
    let mut files = staged.files.iter();
    let print: VolumesPrint = volumes.print().map_err(ManifestError::Io)?;
    out.put(&print).map_err(ManifestError::Io)?;
    while let Some(record) = reader.next()? {
        let Record::Entry(member) = record else { continue };
        let seen = match member.body {
            Body::File { size } => files
                .next()
                .and_then(|file| places.seen(&member, size, file, began))
                .unwrap_or(Seen::Untold),
            Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => Seen::Untold,
        };
        out.put(&seen.encode()).map_err(ManifestError::Io)?;
    }
    let mut finish = || {
        out.put(&sum(manifest)?)?;
        let all = *out.hasher.finalize().as_bytes();
        out.put(&all)?;
        out.out.flush()?;
        fs::rename(&unfinished, to)
    };
    finish().map_err(ManifestError::Io)
}

/// A file that is written, and hashed.
struct Summed {
    out: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

fn sum(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}

/// The files of a tree where they are now.
struct Places<'v> {
    volumes: &'v Volumes,
    units: &'v [Unit],
    /// The directory of the last file: the next is likely to lie there too.
    open: Option<(usize, Vec<u8>, Dir)>,
}

impl Places<'_> {
    fn seen(
        &mut self,
        member: &Member,
        wanted: u64,
        staged: &StagedFile,
        began: i128,
    ) -> Option<Seen> {
        let (unit, below) = locate(self.units, &member.path)?;
        let mut path = self.units[unit].below.clone().into_bytes();
        if !path.is_empty() && !below.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(below);
        let (parent, name) = Name::split(&path).ok()?;
        let mount = self.units[unit].mount;
        let is_open = |(at, dir, _): &(usize, Vec<u8>, Dir)| (*at, &dir[..]) == (mount, parent);
        if !self.open.as_ref().is_some_and(is_open) {
            let dir = self.volumes.all[mount].data().and_then(|data| data.open_dir(parent));
            self.open = Some((mount, parent.to_vec(), dir.ok().filter(is_dependable)?));
        }
        let (_, _, dir) = self.open.as_ref()?;
        let stat = dir.stat(name).ok()??;
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        let is_it = file_type(&stat) == FileType::RegularFile
            && stat.st_ino == staged.inode
            && staged.changed.is_none_or(|staged| staged == changed)
            && size(&stat) == wanted
            && mtime(&stat) == member.mtime;
        is_it.then(|| Seen::of(look_of(&stat), began))
    }
}

/// What is remembered of the files that were applied last, asked in the order of a manifest.
#[derive(Debug)]
pub(crate) struct Known(Earlier);

impl Known {
    /// What is remembered of these volumes; none if that is nothing, or not whole.
    pub(crate) fn open(manifest: &Path, looks: &Path, volumes: &Volumes) -> Option<Self> {
        let bytes = fs::read(looks).ok()?;
        let (body, sums) = bytes.split_at_checked(bytes.len().checked_sub(SUMS)?)?;
        let (of_manifest, of_all) = sums.split_at(SUMS / 2);
        let mut hasher = blake3::Hasher::new();
        hasher.update(body).update(of_manifest);
        if hasher.finalize().as_bytes() != of_all || sum(manifest).ok()? != of_manifest {
            return None;
        }
        let print = volumes.print().ok()?;
        Earlier::open(manifest, looks, &print).ok()?.map(Self)
    }

    /// The digest of the content of the file at `path`, if it looks as it did when that was verified.
    /// Paths are asked for in the order of a manifest.
    pub(crate) fn digest(&mut self, path: &[u8], stat: &Stat) -> Option<[u8; 32]> {
        let (member, seen) = self.0.find(path).ok()??;
        if !matches!(member.body, Body::File { .. }) || !seen.holds(&look_of(stat)) {
            return None;
        }
        loop {
            match self.0.piece().ok()?? {
                Record::End(digest) => return Some(digest),
                Record::Chunk(_) | Record::Hole(_) => {}
                Record::Entry(_) => return None,
            }
        }
    }
}
