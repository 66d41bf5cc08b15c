//! Tells, beside a running app, whether a tree is still the one that was captured last.

use std::path::Path;

use belay_protocol::Cid;
use rustix::fs::FileType;

use super::pass::look_of;
use crate::beneath::file_type;
use crate::capture::{CaptureError, Links, bare, limits, read_xattrs};
use crate::core::manifest::Record;
use crate::core::member::{Body, Member};
use crate::core::path::ContainerPath;
use crate::core::tree::{TreeFault, TreeIndex};
use crate::manifest_file::ManifestError;
use crate::remembered::Earlier;
use crate::volume::Volumes;
use crate::walk::{At, Met, Vanished, WalkError, walk};

/// Whether the tree is the one of this content whose manifest and looks are given. No content is read:
/// every file must look as it did then, and must have been settled then. An answer of yes holds for the
/// moment in which this began; anything else is a no, and so is what cannot be told.
pub(crate) fn is_unchanged(
    volumes: &Volumes,
    roots: &[ContainerPath],
    (manifest, seen): (&Path, &Path),
    cid: Cid,
) -> Result<bool, CaptureError> {
    let print = volumes.print().map_err(CaptureError::Write)?;
    let Some(earlier) = Earlier::open(manifest, seen, &print)? else { return Ok(false) };
    let index = TreeIndex::new(roots, limits(volumes));
    let mut compared = Compared { earlier, links: Links::default(), index };
    let walked = walk(volumes, roots, Vanished::Skip, &mut |met: &Met<'_>| compared.meet(met));
    match walked {
        Ok(()) => Ok(compared.index.finish()?.cid == cid),
        Err(Ended::Changed) => Ok(false),
        Err(Ended::Failed(error)) => Err(error),
    }
}

/// Why a walk ended before its end.
enum Ended {
    Changed,
    Failed(CaptureError),
}

impl From<CaptureError> for Ended {
    fn from(error: CaptureError) -> Self {
        Self::Failed(error)
    }
}

impl From<WalkError> for Ended {
    fn from(error: WalkError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TreeFault> for Ended {
    fn from(error: TreeFault) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ManifestError> for Ended {
    fn from(error: ManifestError) -> Self {
        Self::Failed(error.into())
    }
}

struct Compared {
    earlier: Earlier,
    links: Links,
    index: TreeIndex,
}

impl Compared {
    fn meet(&mut self, met: &Met<'_>) -> Result<(), Ended> {
        let mut member = bare(met);
        match (file_type(&met.stat), met.at) {
            (FileType::Directory, _) => {
                member.xattrs = match read_xattrs(met) {
                    // It is gone.
                    Err(CaptureError::Walk(_)) => return Err(Ended::Changed),
                    read => read?,
                };
            }
            (FileType::RegularFile, At::Entry { .. }) => match self.links.first_name(met)? {
                Some(to) => member.link_to(to.to_vec()),
                None => return self.file(met, &member),
            },
            (FileType::Symlink, At::Entry { dir, name }) => {
                let target = dir.read_link(name).map_err(|_| Ended::Changed)?;
                member.body = Body::Symlink { target };
            }
            // It does not travel.
            _ => return Ok(()),
        }
        self.index.admit(&member)?;
        self.index.record(&member, &[0; 32]);
        Ok(())
    }

    fn file(&mut self, met: &Met<'_>, member: &Member) -> Result<(), Ended> {
        let known = self.earlier.find(met.path)?;
        let is_file = |body: &Body| matches!(body, Body::File { .. });
        let Some((known, _)) =
            known.filter(|(known, seen)| is_file(&known.body) && seen.holds(&look_of(&met.stat)))
        else {
            return Err(Ended::Changed);
        };
        // Whose it is depends on the owner of the volume too, which no look at a file tells.
        let Member { mode, owner, .. } = *member;
        let known = Member { mode, owner, ..known };
        while let Some(piece) = self.earlier.piece()? {
            if let Record::End(digest) = piece {
                self.index.admit(&known)?;
                self.index.record(&known, &digest);
                return Ok(());
            }
        }
        Err(Ended::Changed)
    }
}
