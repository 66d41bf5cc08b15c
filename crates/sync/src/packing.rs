//! Captures a tree into packs, a manifest and a root.
//!
//! In two passes over the volumes, where they cannot be kept: one while the app runs, one while it is stopped. Each reads only
//! the files that do not look as they did in the look before it, so that the second, for which the
//! app waits, reads what changed during the first. What the first one read is believed only where
//! the app could not have changed it unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use belay_packs::{
    ChunkRef, ContentWriter, Cutter, Effort, Known, PackNumber, PackSink, PackSummary,
};
use belay_protocol::Cid;

use crate::capture::{CHECK_EVERY, CaptureError, Skipped};
use crate::core::manifest::Record;
use crate::core::path::ContainerPath;
use crate::core::root::{ROOT_MAX, Root, StoredPack};
use crate::core::tree::TreeSummary;
use crate::manifest_file::{ManifestError, ManifestReader};
use crate::remembered::{BASE_ROOT, Earlier, MANIFEST, ROOT, SEEN, VolumesPrint, write_sums};
use crate::sealing::Seal;
use crate::spool::{SpooledDir, keep_reserve};
use crate::volume::Volumes;
use likeness::{Likeness, Reach};
use pass::{Pass, PassKind, Passed};

pub(crate) use likeness::BaseContents;
pub(crate) use pass::{clock, is_dependable, look_of};
pub(crate) use unchanged::is_unchanged;

mod likeness;
mod pass;
mod unchanged;

const LIVE_MANIFEST: &str = "live-manifest";
const LIVE_SEEN: &str = "live-seen";
/// Readings of a tree that changes meanwhile. Each but the first reads what changed since alone, so
/// what goes on changing in the last one is written all the time.
const LIVE_READINGS: u32 = 4;

/// What a capture may build on.
#[derive(Debug)]
pub(crate) struct Base {
    /// A root of which the store has every pack.
    pub(crate) root: Root,
    /// Its manifest.
    pub(crate) manifest: PathBuf,
    /// What its files looked like, if that is remembered.
    pub(crate) seen: Option<PathBuf>,
    /// Gives what its chunks contain.
    pub(crate) contents: Box<dyn BaseContents>,
}

/// A capture under way.
#[derive(Debug)]
pub(crate) struct Packing {
    dir: SpooledDir,
    seal: Seal,
    volumes: VolumesPrint,
    base: Option<Base>,
    /// Manifest and looks of the last pass, if the next one may build on it.
    last: Option<(PathBuf, PathBuf)>,
    writer: ContentWriter<PackFiles>,
    /// Packs that the files of the tree need.
    used: BTreeSet<PackNumber>,
}

/// A captured tree.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) dir: SpooledDir,
    /// Content id of the root.
    pub(crate) blob: Cid,
    /// Bytes of the root.
    pub(crate) root_bytes: u64,
    /// Bytes of the root and of all packs, those included that the store has.
    pub(crate) stored_bytes: u64,
}

/// What a tree came to.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) tree: TreeSummary,
    pub(crate) skipped: Skipped,
}

/// The name of a pack in the directory of a capture.
pub(crate) fn pack_file(dir: &Path, number: PackNumber) -> PathBuf {
    dir.join(format!("pack-{}", number.0))
}

impl Packing {
    /// Begins a capture in an empty directory.
    pub(crate) fn begin(
        seal: Seal,
        dir: SpooledDir,
        volumes: &Volumes,
        base: Option<Base>,
    ) -> Result<Self, CaptureError> {
        let mut known = Known::default();
        let mut first = 0;
        if let Some(base) = &base {
            base.root.manifest.iter().for_each(|chunk| known.note(*chunk));
            note_chunks(&base.manifest, &base.root, &mut known).map_err(CaptureError::Earlier)?;
            let last = base.root.packs.last_key_value().map_or(0, |(number, _)| number.0);
            first = last.saturating_add(1);
        }
        let last = base.as_ref().and_then(|base| Some((base.manifest.clone(), base.seen.clone()?)));
        let files = PackFiles { dir: dir.path().to_owned(), made: BTreeMap::new() };
        Ok(Self {
            writer: ContentWriter::new(&seal.keys, known, PackNumber(first), files),
            volumes: volumes.print().map_err(CaptureError::Write)?,
            dir,
            seal,
            base,
            last,
            used: BTreeSet::new(),
        })
    }

    /// Reads the tree while the app runs.
    pub(crate) fn look(
        &mut self,
        volumes: &Volumes,
        roots: &[ContainerPath],
    ) -> Result<(), CaptureError> {
        self.pass(PassKind::Live, volumes, roots, LIVE_MANIFEST, LIVE_SEEN).map(drop)
    }

    /// Reads the tree while nothing writes to it.
    pub(crate) fn capture(
        &mut self,
        volumes: &Volumes,
        roots: &[ContainerPath],
    ) -> Result<Walked, CaptureError> {
        self.used.clear();
        self.pass(PassKind::Still, volumes, roots, MANIFEST, SEEN)?.walked()
    }

    /// Reads clones of a moment that is no earlier than `since`, by [`clock`].
    pub(crate) fn capture_kept(
        &mut self,
        volumes: &Volumes,
        roots: &[ContainerPath],
        since: i128,
    ) -> Result<Walked, CaptureError> {
        self.pass(PassKind::Kept { since }, volumes, roots, MANIFEST, SEEN)?.walked()
    }

    /// Reads the tree while the app writes to it, and again what changed under the reading, a few
    /// times. Returns how many files changed under the last one too.
    pub(crate) fn capture_live(
        &mut self,
        volumes: &Volumes,
        roots: &[ContainerPath],
    ) -> Result<(Walked, u64), CaptureError> {
        let path = |name| self.dir.path().join(name);
        let (manifest, seen) = (path(MANIFEST), path(SEEN));
        let (live_manifest, live_seen) = (path(LIVE_MANIFEST), path(LIVE_SEEN));
        let mut readings = 1;
        loop {
            self.used.clear();
            let passed = self.pass(PassKind::Live, volumes, roots, MANIFEST, SEEN)?;
            if passed.unsteady == 0 || readings == LIVE_READINGS {
                let unsteady = passed.unsteady;
                return Ok((passed.walked()?, unsteady));
            }
            readings += 1;
            let aside = || {
                fs::rename(&manifest, &live_manifest)?;
                fs::rename(&seen, &live_seen)
            };
            aside().map_err(CaptureError::Write)?;
            self.last = Some((live_manifest.clone(), live_seen.clone()));
        }
    }

    fn pass(
        &mut self,
        kind: PassKind,
        volumes: &Volumes,
        roots: &[ContainerPath],
        manifest: &str,
        seen: &str,
    ) -> Result<Passed, CaptureError> {
        let (manifest, seen) = (self.dir.path().join(manifest), self.dir.path().join(seen));
        let earlier = match &self.last {
            Some((manifest, seen)) => Earlier::open(manifest, seen, &self.volumes)?,
            None => None,
        };
        let reach = match kind {
            PassKind::Live | PassKind::Kept { .. } => Reach::Store,
            PassKind::Still => Reach::Fetched,
        };
        let likeness = match &mut self.base {
            Some(base) => {
                Some(Likeness::new(&base.manifest, &base.root, &mut *base.contents, reach)?)
            }
            None => None,
        };
        let create = |path: &Path| {
            let file = File::create_new(path).map_err(CaptureError::Write)?;
            Ok::<_, CaptureError>(BufWriter::with_capacity(128 * 1024, Checked::new(file)))
        };
        let mut seen_file = create(&seen)?;
        seen_file.write_all(&self.volumes).map_err(CaptureError::Write)?;
        let pass = Pass::new(
            kind,
            volumes,
            roots,
            earlier,
            likeness,
            create(&manifest)?,
            seen_file,
            &mut self.writer,
            &mut self.used,
        )?;
        let passed = pass.run()?;
        self.last = Some((manifest, seen));
        Ok(passed)
    }

    /// Packs the manifest and makes the root. The app need not wait for this.
    pub(crate) fn finish(self) -> Result<Packed, CaptureError> {
        let Self { dir, seal, mut writer, base, mut used, .. } = self;
        let path = |name| dir.path().join(name);
        let within_base = base
            .as_ref()
            .is_some_and(|base| used.iter().all(|number| base.root.packs.contains_key(number)));
        let manifest = File::open(path(MANIFEST)).map_err(CaptureError::Write)?;
        let manifest: io::Result<Vec<ChunkRef>> =
            Cutter::fine(BufReader::with_capacity(128 * 1024, manifest))
                .map(|chunk| writer.write_chunk(&chunk?, Effort::Thorough))
                .collect();
        let manifest = manifest.map_err(CaptureError::Write)?;
        used.extend(manifest.iter().map(|chunk| chunk.pack));
        let (files, _, _) = writer.finish().map_err(CaptureError::Write)?;
        let mut root = Root { packs: BTreeMap::new(), manifest };
        for number in used {
            let before = base.as_ref().and_then(|base| base.root.packs.get(&number).copied());
            let pack = before.or_else(|| files.made.get(&number).copied());
            let pack = pack.expect("a chunk that is referred to is in a pack known or made");
            root.packs.insert(number, pack);
        }
        for number in files.made.keys().filter(|number| !root.packs.contains_key(number)) {
            fs::remove_file(pack_file(dir.path(), *number)).map_err(CaptureError::Write)?;
        }
        let encoded = |root: &Root| root.encode(&seal.keys, &seal.envelopes);
        let bytes = encoded(&root);
        if bytes.len() as u64 > ROOT_MAX {
            return Err(CaptureError::Root);
        }
        if let Some(base) = base.filter(|_| within_base) {
            fs::write(path(BASE_ROOT), encoded(&base.root)).map_err(CaptureError::Write)?;
        }
        for live in [LIVE_MANIFEST, LIVE_SEEN] {
            match fs::remove_file(path(live)) {
                // Not every capture looks at what is live.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(CaptureError::Write)?,
            }
        }
        let finish = || {
            fs::write(path(ROOT), &bytes)?;
            write_sums(dir.path())
        };
        finish().map_err(CaptureError::Write)?;
        Ok(Packed {
            blob: Cid::from_digest(*blake3::hash(&bytes).as_bytes()),
            root_bytes: bytes.len() as u64,
            stored_bytes: bytes.len() as u64 + root.pack_bytes(),
            dir,
        })
    }
}

/// Notes every chunk of a manifest that lies in a pack of its root.
fn note_chunks(manifest: &Path, root: &Root, known: &mut Known) -> Result<(), ManifestError> {
    let file = File::open(manifest).map_err(ManifestError::Io)?;
    let mut manifest = ManifestReader::new(BufReader::with_capacity(128 * 1024, file))?;
    while let Some(record) = manifest.next()? {
        if let Record::Chunk(chunk) = record
            && root.place_all(&chunk).is_ok()
        {
            known.note_chunk(&chunk);
        }
    }
    Ok(())
}

/// Packs as files of a directory.
#[derive(Debug)]
pub(crate) struct PackFiles {
    dir: PathBuf,
    made: BTreeMap<PackNumber, StoredPack>,
}

impl PackSink for PackFiles {
    type Pack = BufWriter<Checked>;

    fn begin(&mut self, number: PackNumber) -> io::Result<Self::Pack> {
        let file = File::create_new(pack_file(&self.dir, number))?;
        Ok(BufWriter::with_capacity(256 * 1024, Checked::new(file)))
    }

    fn finish(
        &mut self,
        number: PackNumber,
        mut pack: Self::Pack,
        summary: PackSummary,
    ) -> io::Result<()> {
        pack.flush()?;
        let size = u32::try_from(summary.size).map_err(io::Error::other)?;
        self.made.insert(number, StoredPack { id: summary.id, size });
        Ok(())
    }
}

/// A file that leaves the host's disk what it needs itself.
#[derive(Debug)]
pub(crate) struct Checked {
    file: File,
    unchecked: usize,
}

impl Checked {
    fn new(file: File) -> Self {
        Self { file, unchecked: 0 }
    }
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unchecked += bytes.len();
        if self.unchecked >= CHECK_EVERY {
            keep_reserve(&self.file, self.unchecked)?;
            self.unchecked = 0;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests;
