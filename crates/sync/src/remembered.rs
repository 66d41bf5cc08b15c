//! What a provider remembers of its last publish, so that the next one reads what changed and
//! stores what is new. It may be lost at any time: then everything is read again.
//!
//! ```text
//! root       the root of the tree that the store holds
//! manifest   the manifest as it was written, with the chunks of each file
//! seen       which volumes these were, then for each entry what its file looked like
//! sums       BLAKE3 of manifest and seen
//! ```
//!
//! The directory is made with a capture in the spool, and takes the place of the one before by one
//! exchange of names once the record of that capture is confirmed.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use belay_packs::Keys;
use belay_protocol::Cid;
use rustix::fs::{CWD, RenameFlags};

use crate::core::manifest::Record;
use crate::core::member::Member;
use crate::core::root::{ROOT_MAX, Root, StoredRoot};
use crate::core::seen::Seen;
use crate::core::tree::parts;
use crate::durable;
use crate::manifest_file::{ManifestError, ManifestReader};
use crate::spool::SpooledDir;

pub(crate) const ROOT: &str = "root";
/// The root of the tree before, if all chunks of all files are in its packs.
pub(crate) const BASE_ROOT: &str = "base-root";
pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const SEEN: &str = "seen";
const SUMS: &str = "sums";

/// What tells one set of volumes from another.
pub(crate) type VolumesPrint = [u8; 32];

/// The place of what is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    dir: PathBuf,
}

impl Remembered {
    pub(crate) fn new(sync_dir: &Path) -> Self {
        Self { dir: sync_dir.join("remembered") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root, if what is remembered is whole and of the tree that `blob` names and `keys` open.
    pub(crate) fn root(&self, blob: Cid, keys: &Keys) -> Option<Root> {
        let root = read_bounded(&self.dir.join(ROOT), ROOT_MAX).ok()?;
        if blake3::hash(&root) != *blob.digest() {
            return None;
        }
        let kept = read_bounded(&self.dir.join(SUMS), 64).ok()?;
        if sums(&self.dir).ok()?[..] != kept[..] {
            tracing::warn!(dir = %self.dir.display(), "what was remembered of a publish is damaged");
            return None;
        }
        StoredRoot::decode(&root).and_then(|root| root.open(keys)).ok()
    }

    /// Takes a finished capture, whose root the store holds, in the place of what was remembered.
    pub(crate) fn take(&self, captured: &SpooledDir) -> io::Result<()> {
        for entry in fs::read_dir(captured.path())? {
            let entry = entry?;
            let kept = [ROOT, MANIFEST, SEEN, SUMS].iter().any(|kept| entry.file_name() == *kept);
            if !kept {
                fs::remove_file(entry.path())?;
            }
        }
        File::open(captured.path())?.sync_all()?;
        if fs::rename(captured.path(), &self.dir).is_err() {
            // A directory with something in it is only exchanged.
            let exchange = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(CWD, captured.path(), CWD, &self.dir, exchange)?;
        }
        durable::sync_parent(&self.dir)
    }
}

/// Seals the files of a finished capture with their sums.
pub(crate) fn write_sums(dir: &Path) -> io::Result<()> {
    fs::write(dir.join(SUMS), sums(dir)?)
}

fn sums(dir: &Path) -> io::Result<[u8; 64]> {
    let mut sums = [0; 64];
    for (name, sum) in [MANIFEST, SEEN].iter().zip(sums.chunks_exact_mut(32)) {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(dir.join(name))?)?;
        sum.copy_from_slice(hasher.finalize().as_bytes());
    }
    Ok(sums)
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The entries of an earlier look at a tree, met again in their order.
#[derive(Debug)]
pub(crate) struct Earlier {
    manifest: ManifestReader<BufReader<File>>,
    /// None if nothing is known of what they looked like.
    seen: Option<BufReader<File>>,
    next: Option<(Member, Seen)>,
    /// The pieces of the entry that was last read are still to come.
    in_file: bool,
}

impl Earlier {
    /// Opens what an earlier look left; none if it was at other volumes.
    pub(crate) fn open(
        manifest: &Path,
        seen: &Path,
        volumes: &VolumesPrint,
    ) -> Result<Option<Self>, ManifestError> {
        let buffered =
            |path| File::open(path).map(|file| BufReader::with_capacity(128 * 1024, file));
        let mut seen = buffered(seen).map_err(ManifestError::Io)?;
        let mut print = [0; size_of::<VolumesPrint>()];
        seen.read_exact(&mut print).map_err(ManifestError::Io)?;
        if print != *volumes {
            return Ok(None);
        }
        let manifest = ManifestReader::new(buffered(manifest).map_err(ManifestError::Io)?)?;
        Self::begin(manifest, Some(seen)).map(Some)
    }

    /// Opens the manifest of a tree, whatever its files looked like.
    pub(crate) fn of_tree(manifest: &Path) -> Result<Self, ManifestError> {
        let file = File::open(manifest).map_err(ManifestError::Io)?;
        let manifest = ManifestReader::new(BufReader::with_capacity(128 * 1024, file))?;
        Self::begin(manifest, None)
    }

    fn begin(
        manifest: ManifestReader<BufReader<File>>,
        seen: Option<BufReader<File>>,
    ) -> Result<Self, ManifestError> {
        let mut earlier = Self { manifest, seen, next: None, in_file: false };
        earlier.advance()?;
        Ok(earlier)
    }

    /// What was at `path`, which follows those asked for before. Of a file, its pieces can be read
    /// until the next call.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<Option<(Member, Seen)>, ManifestError> {
        while let Some((member, _)) = &self.next {
            match parts(&member.path).cmp(parts(path)) {
                std::cmp::Ordering::Less => self.advance()?,
                std::cmp::Ordering::Equal => return Ok(self.next.clone()),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// The next piece of the file that was found, its end included; none beyond that.
    pub(crate) fn piece(&mut self) -> Result<Option<Record>, ManifestError> {
        if !self.in_file {
            return Ok(None);
        }
        let piece = self.manifest.next()?;
        self.in_file = !matches!(piece, Some(Record::End(_)) | None);
        Ok(piece)
    }

    fn advance(&mut self) -> Result<(), ManifestError> {
        while self.piece()?.is_some() {}
        self.next = match self.manifest.next()? {
            Some(Record::Entry(member)) => {
                let mut looks = [0; Seen::ENCODED];
                if let Some(seen) = &mut self.seen {
                    seen.read_exact(&mut looks).map_err(ManifestError::Io)?;
                }
                self.in_file = matches!(member.body, crate::core::member::Body::File { .. });
                Some((member, Seen::decode(&looks)))
            }
            // Pieces stand in files alone, which the reader holds.
            Some(Record::Chunk(_) | Record::Hole(_) | Record::End(_)) | None => None,
        };
        Ok(())
    }
}
