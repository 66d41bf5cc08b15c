//! What differs between two generations, or between one and what the volumes hold now.
//!
//! Both sides come in the order of trees, and so they are held against each other entry by entry
//! without either being kept.

use std::borrow::Cow;
use std::io::{self, BufReader, Seek, SeekFrom};

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{CidPrefix, SyncDifferences, SyncLine, SyncPiece, SyncRole};
use belay_store::{BlobStore, RecordStore};
use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;

use super::live::told;
use super::{AskError, SyncReader};
use crate::archive::{ArchiveReader, ReadError};
use crate::capture::{CaptureError, Links};
use crate::context::{Stopped, blocking};
use crate::core::difference::{Comparison, Told};
use crate::core::manifest::{ManifestFault, Record};
use crate::core::member::{Body, Member};
use crate::core::ownership::{Ids, OwnershipPolicy, Position};
use crate::core::path::ContainerPath;
use crate::core::record::AcceptedRecord;
use crate::layout::SyncLayout;
use crate::manifest_file::{ManifestError, ManifestReader};
use crate::spool::Spooled;
use crate::volume::Volumes;
use crate::walk::{Met, Vanished, WalkError, walk};

/// What a generation is compared with.
#[derive(Debug)]
pub enum Against {
    /// A generation, the newest where none is named.
    Generation(Option<CidPrefix>),
    /// What these volumes hold.
    Live(SyncLayout),
}

/// Two trees that can be compared.
#[derive(Debug)]
pub struct Diff {
    left: Source,
    right: Right,
}

#[derive(Debug)]
enum Right {
    Stored(Source),
    Live {
        layout: SyncLayout,
        roots: Vec<ContainerPath>,
        /// Of a consumer, whose volumes hold what this made of a tree.
        policy: Option<OwnershipPolicy>,
    },
}

/// A stored tree, fetched so far that its entries can be told.
#[derive(Debug)]
struct Source {
    format: ArchiveFormat,
    file: Spooled,
}

/// Why two trees could not be compared.
#[derive(Debug, thiserror::Error)]
enum DiffError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Archive(#[from] ReadError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("what was fetched could not be read")]
    Io(#[from] io::Error),
    #[error("nobody takes the differences any more")]
    Gone,
}

impl From<WalkError> for DiffError {
    fn from(error: WalkError) -> Self {
        Self::Capture(error.into())
    }
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// Fetches what is needed to compare a generation with another, or with the volumes.
    ///
    /// # Errors
    /// When there is no such generation, or it is sealed for others or damaged.
    pub async fn diff(&self, from: Option<&CidPrefix>, to: Against) -> Result<Diff, AskError> {
        let (left, _) = self.find(from).await?;
        let right = match to {
            Against::Generation(cid) => {
                let (right, _) = self.find(cid.as_ref()).await?;
                Right::Stored(self.source(&right).await?)
            }
            Against::Live(layout) => {
                let spec = &self.context.spec;
                let policy = (spec.role == SyncRole::Consumer).then_some(spec.ownership);
                Right::Live { layout, roots: left.roots.clone(), policy }
            }
        };
        Ok(Diff { left: self.source(&left).await?, right })
    }

    async fn source(&self, accepted: &AcceptedRecord) -> Result<Source, AskError> {
        let format = accepted.record.manifest.archive_format;
        let file = match format {
            ArchiveFormat::Tree => self.open_tree(accepted).await?.manifest,
            ArchiveFormat::TarGz => self.fetch_archive(&accepted.record).await?,
        };
        Ok(Source { format, file })
    }

    async fn fetch_archive(&self, record: &SyncRecord) -> Result<Spooled, AskError> {
        Ok(self.context.fetch_archive(record, Stage::Download).await?)
    }
}

impl Diff {
    /// Gives out each difference in the order of paths, then what they come to.
    ///
    /// # Errors
    /// When something cannot be read to its end.
    pub async fn write(self, pieces: mpsc::Sender<SyncPiece>) -> Result<(), AskError> {
        let closed = pieces.clone();
        let compared = blocking(Stage::Download, move || {
            self.compare(&pieces).map_err(|error| Stopped::at(Stage::Download, &error))
        });
        match compared.await {
            Err(_) if closed.is_closed() => Ok(()),
            Err(Stopped::Failed(failure)) => Err(AskError::Damaged { reason: failure.reason }),
            Err(stopped) => Err(stopped.into()),
            Ok(sum) => {
                // Whoever goes away now needs no sum.
                let _ = closed.send(SyncPiece::Line(SyncLine::Compared(sum))).await;
                Ok(())
            }
        }
    }

    fn compare(self, pieces: &mpsc::Sender<SyncPiece>) -> Result<SyncDifferences, DiffError> {
        let mut entries = self.left.entries()?;
        let volumes = match &self.right {
            Right::Stored(_) => None,
            Right::Live { layout, policy, .. } => {
                let volumes = Volumes::open(layout).map_err(io::Error::other)?;
                let policy = policy.map(|policy| Policy::of(policy, &volumes)).transpose()?;
                Some((volumes, policy))
            }
        };
        let mut next = || -> Result<Option<Told>, DiffError> {
            let mut told = entries.next()?;
            if let (Some(told), Some((volumes, Some(policy)))) = (&mut told, &volumes) {
                policy.settle(volumes, &mut told.member);
            }
            Ok(told)
        };
        let mut comparison = Comparison::default();
        let mut ahead = next()?;
        let give = |difference| {
            pieces
                .blocking_send(SyncPiece::Line(SyncLine::Difference(difference)))
                .map_err(|_| DiffError::Gone)
        };
        let mut meet = |right: Told| -> Result<(), DiffError> {
            while let Some(before) = ahead.take_if(|before| before.precedes(&right)) {
                give(comparison.removed(&before))?;
                ahead = next()?;
            }
            match ahead.take_if(|before| before.is_at(&right)) {
                Some(before) => {
                    comparison.both(&before, &right).map_or(Ok(()), give)?;
                    ahead = next()?;
                    Ok(())
                }
                None => give(comparison.added(&right)),
            }
        };
        match self.right {
            Right::Stored(source) => {
                let mut right = source.entries()?;
                while let Some(entry) = right.next()? {
                    meet(entry)?;
                }
            }
            Right::Live { roots, .. } => {
                if let Some((volumes, _)) = &volumes {
                    live(volumes, &roots, &mut meet)?;
                }
            }
        }
        while let Some(before) = ahead.take() {
            give(comparison.removed(&before))?;
            ahead = next()?;
        }
        Ok(comparison.sum())
    }
}

/// What volumes make of owners and set-id bits.
struct Policy {
    policy: OwnershipPolicy,
    /// By volume: whom its root belongs to.
    roots: Vec<Ids>,
}

impl Policy {
    fn of(policy: OwnershipPolicy, volumes: &Volumes) -> io::Result<Self> {
        let roots = volumes.all.iter().map(crate::volume::Volume::owner).collect::<io::Result<_>>();
        Ok(Self { policy, roots: roots? })
    }

    fn settle(&self, volumes: &Volumes, member: &mut Member) {
        let Some((mount, below)) = volumes.mounts.holder(&member.path) else { return };
        let position = if below.is_empty() { Position::Root } else { Position::Below };
        if let Cow::Owned(settled) = self.policy.settle(member, position, self.roots[mount]) {
            *member = settled;
        }
    }
}

impl Source {
    fn entries(&self) -> Result<Entries, DiffError> {
        let mut file = self.file.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let file = BufReader::with_capacity(256 * 1024, file);
        Ok(match self.format {
            ArchiveFormat::Tree => Entries::Manifest(ManifestReader::new(file)?),
            ArchiveFormat::TarGz => Entries::Archive(ArchiveReader::new(MultiGzDecoder::new(file))),
        })
    }
}

/// The entries of a stored tree, one after the other.
enum Entries {
    Manifest(ManifestReader<BufReader<std::fs::File>>),
    Archive(ArchiveReader<MultiGzDecoder<BufReader<std::fs::File>>>),
}

impl Entries {
    fn next(&mut self) -> Result<Option<Told>, DiffError> {
        match self {
            Self::Manifest(manifest) => {
                let member = match manifest.next()? {
                    None => return Ok(None),
                    Some(Record::Entry(member)) => member,
                    Some(Record::Chunk(_) | Record::Hole(_) | Record::End(_)) => {
                        return Err(ManifestError::Fault(ManifestFault::Place).into());
                    }
                };
                if !matches!(member.body, Body::File { .. }) {
                    return Ok(Some(Told { member, digest: None }));
                }
                loop {
                    match manifest.next()? {
                        Some(Record::Chunk(_) | Record::Hole(_)) => {}
                        Some(Record::End(digest)) => {
                            return Ok(Some(Told { member, digest: Some(digest) }));
                        }
                        Some(Record::Entry(_)) | None => {
                            return Err(ManifestError::Fault(ManifestFault::Truncated).into());
                        }
                    }
                }
            }
            Self::Archive(archive) => {
                let Some(member) = archive.next()? else { return Ok(None) };
                if !matches!(member.body, Body::File { .. }) {
                    return Ok(Some(Told { member, digest: None }));
                }
                let mut hasher = blake3::Hasher::new();
                archive.content::<ReadError>(|piece| {
                    hasher.update(piece);
                    Ok(())
                })?;
                let digest = Some(*hasher.finalize().as_bytes());
                Ok(Some(Told { member, digest }))
            }
        }
    }
}

/// Walks what the volumes hold. The app may be changing it meanwhile: each entry is told as it was
/// when it was met.
fn live(
    volumes: &Volumes,
    roots: &[ContainerPath],
    meet: &mut dyn FnMut(Told) -> Result<(), DiffError>,
) -> Result<(), DiffError> {
    let mut links = Links::default();
    walk(volumes, roots, Vanished::Skip, &mut |met: &Met<'_>| match told(met, &mut links) {
        Ok(Some(told)) => meet(told),
        Ok(None) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error.into()),
    })
}

/// Whether an entry went between its listing and its reading.
fn is_gone(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Walk(WalkError::Io { source, .. })
        if source.kind() == io::ErrorKind::NotFound)
}
