//! A stored tree put together again: its manifest, what was fetched, and what the volumes hold
//! already.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use belay_packs::{Chunk, ChunkId, ChunkRef, Keys, MIN, Opener};

use crate::beneath::Name;
use crate::core::apply::{Unit, locate};
use crate::core::manifest::{HOLE_MIN, ManifestFault, Record};
use crate::core::member::{Body, Member};
use crate::core::record::AcceptedRecord;
use crate::core::root::{Root, RootFault};
use crate::core::tree::{Limits, TreeIndex};
use crate::fetching::Frames;
use crate::manifest_file::{ManifestError, ManifestReader};
use crate::stage::{StageError, TreeSource, is_named};
use crate::volume::Volumes;
use crate::walk::shown;

type Manifest = ManifestReader<BufReader<File>>;

fn reader(mut manifest: File) -> Result<Manifest, ManifestError> {
    manifest.seek(SeekFrom::Start(0)).map_err(ManifestError::Io)?;
    ManifestReader::new(BufReader::with_capacity(128 * 1024, manifest))
}

/// Why a manifest is not that of the tree which its record names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExamineError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the manifest is refused: {0}")]
    Reference(#[from] RootFault),
    #[error("the manifest has more than {most} chunks, which its files cannot need")]
    TooManyChunks { most: u64 },
    #[error(transparent)]
    Tree(#[from] StageError),
}

/// Reads a manifest before anything that it names is fetched: it must be that of the tree which the
/// record names, and refer to nothing but the packs of its root. Returns the chunks that the present
/// state does not have, and what of those that they stand on it does not have either, each once.
pub(crate) fn examine(
    manifest: File,
    root: &Root,
    accepted: &AcceptedRecord,
    present: &Present,
) -> Result<Vec<ChunkRef>, ExamineError> {
    let mut wanted = Vec::new();
    let mut met = HashSet::new();
    examine_each(manifest, root, accepted, &mut |chunk| {
        want(chunk, present, &mut |lacking| {
            let is_new = met.insert(*lacking);
            if is_new {
                wanted.push(*lacking);
            }
            is_new
        });
    })?;
    Ok(wanted)
}

/// Gives what it takes to put a chunk together, beside what the present state has, to `take`, which
/// says whether that was new to it.
fn want(chunk: &Chunk, present: &Present, take: &mut dyn FnMut(&ChunkRef) -> bool) {
    if !present.has(&chunk.at().id) && take(chunk.at()) {
        chunk.bases().iter().for_each(|base| want(base, present, take));
    }
}

/// The same, giving every chunk to `met` as it is named.
pub(crate) fn examine_each(
    manifest: File,
    root: &Root,
    accepted: &AcceptedRecord,
    met: &mut dyn FnMut(&Chunk),
) -> Result<(), ExamineError> {
    let facts = &accepted.record.manifest;
    let limits = Limits { members: facts.members, content: facts.content_bytes };
    let mut index = TreeIndex::new(&accepted.roots, limits);
    let mut manifest = reader(manifest)?;
    let mut file = None;
    // Chunks are cut no shorter than that, but for the last of a file and the one before a hole.
    let most =
        facts.members + facts.content_bytes / u64::from(MIN) + facts.content_bytes / HOLE_MIN;
    let mut chunks = 0;
    while let Some(record) = manifest.next()? {
        match record {
            Record::Entry(member) => {
                index.admit(&member).map_err(StageError::Tree)?;
                match member.body {
                    Body::File { .. } => file = Some(member),
                    Body::Directory | Body::Symlink { .. } | Body::HardLink { .. } => {
                        index.record(&member, &[0; 32]);
                    }
                }
            }
            Record::Chunk(chunk) => {
                root.place_all(&chunk)?;
                chunks += 1;
                if chunks > most {
                    return Err(ExamineError::TooManyChunks { most });
                }
                met(&chunk);
            }
            Record::Hole(length) if length < HOLE_MIN => {
                return Err(ManifestError::Fault(ManifestFault::Damaged).into());
            }
            Record::Hole(_) => {}
            Record::End(digest) => {
                let member = file.take().ok_or(ManifestError::Fault(ManifestFault::Place))?;
                index.record(&member, &digest);
            }
        }
    }
    is_named(&index.finish().map_err(StageError::Tree)?, accepted)?;
    Ok(())
}

/// The chunks that the volumes held when a tree was applied to them. They may have changed since,
/// and so each is verified when it is read.
#[derive(Debug, Default)]
pub(crate) struct Present {
    paths: Vec<Vec<u8>>,
    at: HashMap<ChunkId, (u32, u64)>,
}

impl Present {
    /// What the manifests in a directory say. One that cannot be read says nothing.
    pub(crate) fn read(manifests: &Path) -> Self {
        let mut present = Self::default();
        let Ok(entries) = fs::read_dir(manifests) else { return present };
        for entry in entries.flatten() {
            let noted = File::open(entry.path())
                .map_err(ManifestError::Io)
                .and_then(|file| present.note(reader(file)?));
            if let Err(error) = noted {
                tracing::warn!(path = %entry.path().display(), %error,
                    "the manifest of what was applied before could not be read");
            }
        }
        present
    }

    fn note(&mut self, mut manifest: Manifest) -> Result<(), ManifestError> {
        let mut offset = 0;
        while let Some(record) = manifest.next()? {
            match record {
                Record::Entry(member) => {
                    if matches!(member.body, Body::File { .. }) {
                        self.paths.push(member.path);
                        offset = 0;
                    }
                }
                Record::Chunk(chunk) => {
                    let path = self.paths.len().saturating_sub(1);
                    let path = u32::try_from(path).unwrap_or(u32::MAX);
                    self.at.entry(chunk.at().id).or_insert((path, offset));
                    offset += u64::from(chunk.at().plain);
                }
                Record::Hole(length) => offset += length,
                Record::End(_) => {}
            }
        }
        Ok(())
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.at.contains_key(id)
    }
}

/// Reads chunks out of the volumes.
struct PresentReader<'p> {
    present: &'p Present,
    volumes: &'p Volumes,
    units: &'p [Unit],
    /// The file that was last read, since its next chunk is likely to follow.
    open: Option<(u32, File)>,
}

impl PresentReader<'_> {
    /// The chunk, if it is where it was.
    fn read(&mut self, chunk: &ChunkRef, keys: &Keys) -> Option<Vec<u8>> {
        let &(path, offset) = self.present.at.get(&chunk.id)?;
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            let file = self.file(self.present.paths.get(path as usize)?).ok().flatten()?;
            self.open = Some((path, file));
        }
        let (_, file) = self.open.as_ref()?;
        let mut content = vec![0; chunk.plain as usize];
        file.read_exact_at(&mut content, offset).ok()?;
        (keys.chunk_id(&content) == chunk.id).then_some(content)
    }

    /// The file that has this container path now.
    fn file(&self, path: &[u8]) -> io::Result<Option<File>> {
        let Some((unit, below)) = locate(self.units, path) else { return Ok(None) };
        let unit = &self.units[unit];
        let mut place = unit.below.clone().into_bytes();
        if !place.is_empty() && !below.is_empty() {
            place.push(b'/');
        }
        place.extend_from_slice(below);
        let (parent, name) = Name::split(&place)?;
        let parent = self.volumes.all[unit.mount].data()?.open_dir(parent)?;
        Ok(Some(parent.open_file(name)?.0))
    }
}

/// The tree as a source for staging.
pub(crate) struct Assembly<'a> {
    manifest: Manifest,
    frames: &'a Frames,
    present: PresentReader<'a>,
    keys: &'a Keys,
    opener: Opener,
    /// Path of the file whose content comes next.
    path: Vec<u8>,
    /// Chunks that were neither fetched nor found where they were.
    lost: HashSet<ChunkRef>,
}

impl<'a> Assembly<'a> {
    pub(crate) fn new(
        manifest: File,
        keys: &'a Keys,
        frames: &'a Frames,
        present: &'a Present,
        volumes: &'a Volumes,
        units: &'a [Unit],
    ) -> Result<Self, ManifestError> {
        Ok(Self {
            manifest: reader(manifest)?,
            frames,
            present: PresentReader { present, volumes, units, open: None },
            keys,
            opener: Opener::new(keys),
            path: Vec::new(),
            lost: HashSet::new(),
        })
    }

    /// The chunks that must be fetched before the tree can be staged.
    pub(crate) fn lost(self) -> Vec<ChunkRef> {
        self.lost.into_iter().collect()
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StageError> {
        let Self { frames, present, keys, opener, path, lost, .. } = self;
        let mut held = |chunk: &Chunk| {
            let found = present.read(chunk.at(), keys);
            if found.is_none() {
                lost.insert(*chunk.at());
                for base in chunk.bases() {
                    want(base, present.present, &mut |lacking| {
                        frames.has(lacking) || lost.insert(*lacking)
                    });
                }
            }
            found
        };
        let content = frames.content(chunk, opener, &mut held).map_err(StageError::Fetched)?;
        content.transpose().map_err(|fault| StageError::Chunk { path: shown(path), fault })
    }
}

/// Zeros in the place of holes and of what is lost.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

fn give_zeros(
    mut length: u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), StageError>,
) -> Result<(), StageError> {
    while length > 0 {
        let piece = usize::try_from(length).unwrap_or(ZEROS.len()).min(ZEROS.len());
        sink(&ZEROS[..piece])?;
        length -= piece as u64;
    }
    Ok(())
}

impl TreeSource for Assembly<'_> {
    fn next(&mut self) -> Result<Option<Member>, StageError> {
        match self.manifest.next()? {
            None => Ok(None),
            Some(Record::Entry(member)) => {
                self.path.clone_from(&member.path);
                Ok(Some(member))
            }
            Some(Record::Chunk(_) | Record::Hole(_) | Record::End(_)) => {
                Err(ManifestError::Fault(ManifestFault::Place).into())
            }
        }
    }

    fn content(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        while let Some(record) = self.manifest.next()? {
            match record {
                Record::End(_) => return Ok(()),
                Record::Hole(length) => give_zeros(length, sink)?,
                Record::Chunk(chunk) => match self.chunk(&chunk)? {
                    Some(content) => sink(&content)?,
                    // The others that are lost are found too, so that all are fetched at once.
                    None => give_zeros(chunk.at().plain.into(), sink)?,
                },
                Record::Entry(_) => break,
            }
        }
        Err(ManifestError::Fault(ManifestFault::Truncated).into())
    }

    fn pass_over(&mut self) -> Result<[u8; 32], StageError> {
        while let Some(record) = self.manifest.next()? {
            match record {
                Record::End(digest) => return Ok(digest),
                Record::Hole(_) | Record::Chunk(_) => {}
                Record::Entry(_) => break,
            }
        }
        Err(ManifestError::Fault(ManifestFault::Truncated).into())
    }

    fn finish(&mut self) -> Result<(), StageError> {
        match self.lost.len() {
            0 => Ok(()),
            chunks => Err(StageError::Lost { chunks }),
        }
    }
}

#[cfg(test)]
mod tests;
