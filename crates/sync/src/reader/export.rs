//! A stored generation as one archive that any tar reads.
//!
//! What is written is verified first, and an archive that cannot be finished lacks its end: neither
//! gzip nor tar takes it for whole.

use std::collections::HashSet;
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belay_packs::{ChunkRef, Keys, Opener};
use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{CidPrefix, SyncPiece};
use belay_store::{BlobError, BlobStore, RecordStore};
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::opened::OpenedTree;
use super::{AskError, SyncReader};
use crate::archive::ArchiveWriter;
use crate::capture::gzip;
use crate::context::{Stopped, blocking};
use crate::core::manifest::Record;
use crate::core::member::{Body, Member};
use crate::fetching::{Frames, lacking, refused_chunk};
use crate::manifest_file::ManifestReader;
use crate::spool::Spooled;
use crate::walk::shown;

/// Stored bytes of chunks that are fetched at one time.
const FETCHED_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of the manifest's records that are held at one time.
const RECORDS_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a piece.
const PIECE: usize = 128 * 1024;
/// What a record takes beside its texts.
const RECORD: usize = 128;

/// A generation that can be written out.
#[derive(Debug)]
pub struct Export<S> {
    reader: SyncReader<S>,
    what: What,
}

enum What {
    Archive(Box<SyncRecord>),
    Tree(Box<OpenedTree>),
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Archive(_) => "Archive",
            Self::Tree(_) => "Tree",
        })
    }
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// Finds a generation, the newest where none is named, and what is needed to write it out.
    ///
    /// # Errors
    /// When there is no such generation, it is sealed for others, or its root or manifest is
    /// damaged.
    pub async fn export(self, cid: Option<&CidPrefix>) -> Result<Export<S>, AskError> {
        let (accepted, _) = self.find(cid).await?;
        let what = match accepted.record.manifest.archive_format {
            ArchiveFormat::TarGz => What::Archive(Box::new(accepted.record)),
            ArchiveFormat::Tree => What::Tree(Box::new(self.open_tree(&accepted).await?)),
        };
        Ok(Export { reader: self, what })
    }
}

impl<S: BlobStore + RecordStore> Export<S> {
    /// Writes the archive out in pieces. It is whole if this returns well, and cannot be taken for
    /// whole otherwise. Ends early without a word if nobody takes the pieces any more.
    ///
    /// # Errors
    /// When the store fails, or what it holds is damaged.
    pub async fn write(self, pieces: mpsc::Sender<SyncPiece>) -> Result<(), AskError> {
        let written = match self.what {
            What::Archive(record) => self.reader.pass_on(&record, &pieces).await,
            What::Tree(tree) => self.reader.weave(*tree, pieces.clone()).await,
        };
        if pieces.is_closed() { Ok(()) } else { written }
    }
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// Gives a stored archive out as it is. Its last piece is held back until all was verified.
    async fn pass_on(
        &self,
        record: &SyncRecord,
        pieces: &mpsc::Sender<SyncPiece>,
    ) -> Result<(), AskError> {
        let manifest = &record.manifest;
        let stage = Stage::Download;
        let stall = self.context.spec.store_timeout;
        let failed = |error: &BlobError| AskError::from(lacking(stage, error));
        let stalled = |_| BlobError::Io {
            action: "go on with an object",
            source: io::ErrorKind::TimedOut.into(),
        };
        let opened = tokio::time::timeout(stall, self.context.store.get(manifest.blob, None)).await;
        let opened = opened.map_err(stalled).and_then(|opened| opened);
        let mut stored = opened.map_err(|error| failed(&error))?;
        let mut hasher = blake3::Hasher::new();
        let (mut size, mut held) = (0_u64, Vec::new());
        loop {
            let next = tokio::select! {
                biased;
                () = self.context.shutdown.cancelled() => return Err(AskError::ShuttingDown),
                next = tokio::time::timeout(stall, stored.next()) => next,
            };
            let Some(piece) = next.map_err(|late| failed(&stalled(late)))? else { break };
            let piece = piece.map_err(|error| failed(&error))?;
            size = size.saturating_add(piece.len() as u64);
            if size > manifest.archive_size_bytes {
                break;
            }
            hasher.update(&piece);
            if piece.is_empty() {
                continue;
            }
            let before = std::mem::replace(&mut held, piece.into());
            if !before.is_empty() && pieces.send(SyncPiece::Bytes(before)).await.is_err() {
                return Ok(());
            }
        }
        if size != manifest.archive_size_bytes
            || hasher.finalize().as_bytes() != manifest.blob.digest()
        {
            let reason = format!("the stored object is not {}", manifest.blob);
            return Err(AskError::Damaged { reason });
        }
        // Whoever goes away now needs no answer.
        let _ = pieces.send(SyncPiece::Bytes(held)).await;
        Ok(())
    }

    /// Makes the archive that a provider would have published of this tree. Of the tree no more is
    /// held at one time than the chunks of a few files.
    async fn weave(
        &self,
        tree: OpenedTree,
        pieces: mpsc::Sender<SyncPiece>,
    ) -> Result<(), AskError> {
        let stage = Stage::Download;
        let OpenedTree { root, keys, manifest } = tree;
        let mut weaver = blocking(stage, move || Weaver::new(manifest, &keys, pieces)).await?;
        loop {
            let read = blocking(stage, move || {
                let batch = weaver.read()?;
                Ok((weaver, batch))
            });
            let (mut taken, batch) = read.await?;
            let Some(Batch { records, wanted, .. }) = batch else {
                return Ok(blocking(stage, move || taken.finish()).await?);
            };
            let frames = self.context.new_frames(stage).await?;
            let frames = self.context.fetch_frames(&root, wanted, frames, stage).await?;
            weaver = blocking(stage, move || {
                taken.write(records, &frames)?;
                Ok(taken)
            })
            .await?;
        }
    }
}

/// A part of a manifest, and the chunks that it needs, each once.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    wanted: Vec<ChunkRef>,
    /// Stored bytes of what is wanted.
    stored: u64,
    /// Memory that the records take.
    held: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.stored >= FETCHED_MAX || self.held >= RECORDS_MAX
    }
}

/// Makes an archive of a manifest and its chunks.
struct Weaver {
    manifest: ManifestReader<BufReader<std::fs::File>>,
    /// The file of the manifest goes with this.
    _kept: Spooled,
    opener: Opener,
    /// None once it is finished.
    archive: Option<ArchiveWriter<GzEncoder<BufWriter<Outlet>>>>,
    /// The file whose content comes next.
    file: Option<OpenFile>,
    abandoned: Arc<AtomicBool>,
}

struct OpenFile {
    path: Vec<u8>,
    size: u64,
    hasher: blake3::Hasher,
}

fn failed(error: &dyn std::error::Error) -> Stopped {
    Stopped::at(Stage::Download, error)
}

fn damaged(path: &[u8]) -> Stopped {
    let reason = format!("the content of {:?} is not what its manifest says", shown(path));
    Stopped::because(Stage::Download, reason)
}

/// Zeros in the place of holes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Weaver {
    fn new(
        manifest: Spooled,
        keys: &Keys,
        pieces: mpsc::Sender<SyncPiece>,
    ) -> Result<Self, Stopped> {
        let mut file = manifest.file.try_clone().map_err(|error| failed(&error))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| failed(&error))?;
        let reader = ManifestReader::new(BufReader::with_capacity(PIECE, file));
        let abandoned = Arc::new(AtomicBool::new(false));
        let outlet = Outlet { pieces, abandoned: Arc::clone(&abandoned) };
        Ok(Self {
            manifest: reader.map_err(|error| failed(&error))?,
            _kept: manifest,
            opener: Opener::new(keys),
            archive: Some(ArchiveWriter::new(gzip(BufWriter::with_capacity(PIECE, outlet)))),
            file: None,
            abandoned,
        })
    }

    /// The next part of the manifest, or none at its end.
    fn read(&mut self) -> Result<Option<Batch>, Stopped> {
        let mut batch = Batch::default();
        let mut met = HashSet::new();
        while !batch.is_full() {
            let Some(record) = self.manifest.next().map_err(|error| failed(&error))? else { break };
            batch.held += RECORD;
            match &record {
                Record::Entry(member) => {
                    let texts = |(name, value): (&Vec<u8>, &Vec<u8>)| name.len() + value.len();
                    batch.held +=
                        member.path.len() + member.xattrs.iter().map(texts).sum::<usize>();
                }
                Record::Chunk(chunk) => {
                    chunk.each(&mut |at| {
                        if met.insert(*at) {
                            batch.stored += u64::from(at.stored);
                            batch.wanted.push(*at);
                        }
                    });
                }
                Record::Hole(_) | Record::End(_) => {}
            }
            batch.records.push(record);
        }
        Ok((!batch.records.is_empty()).then_some(batch))
    }

    fn write(&mut self, records: Vec<Record>, frames: &Frames) -> Result<(), Stopped> {
        for record in records {
            match record {
                Record::Entry(member) => self.begin(member)?,
                Record::Chunk(chunk) => {
                    let found = frames.content(&chunk, &mut self.opener, &mut |_| None);
                    let found = found.map_err(|error| failed(&error))?;
                    let found = found
                        .ok_or_else(|| Stopped::because(Stage::Download, "a chunk is missing"))?;
                    let content = found.map_err(|fault| refused_chunk(Stage::Download, fault))?;
                    self.content(&content)?;
                }
                Record::Hole(mut length) => {
                    while length > 0 {
                        let piece = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
                        self.content(&ZEROS[..piece])?;
                        length -= piece as u64;
                    }
                }
                Record::End(digest) => self.end(&digest)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, member: Member) -> Result<(), Stopped> {
        self.archive()?.member(&member).map_err(|error| failed(&error))?;
        if let Body::File { size } = member.body {
            self.file = Some(OpenFile { path: member.path, size, hasher: blake3::Hasher::new() });
        }
        Ok(())
    }

    fn content(&mut self, piece: &[u8]) -> Result<(), Stopped> {
        if let Some(file) = &mut self.file {
            file.hasher.update(piece);
        }
        self.archive()?.piece(piece).map_err(|error| failed(&error))
    }

    fn end(&mut self, digest: &[u8; 32]) -> Result<(), Stopped> {
        // The manifest's reader holds that ends stand in files alone.
        let Some(OpenFile { path, size, hasher }) = self.file.take() else { return Ok(()) };
        if hasher.finalize().as_bytes() != digest || hasher.count() != size {
            return Err(damaged(&path));
        }
        self.archive()?.pad(size).map_err(|error| failed(&error))
    }

    fn archive(&mut self) -> Result<&mut ArchiveWriter<GzEncoder<BufWriter<Outlet>>>, Stopped> {
        let ended = || Stopped::because(Stage::Download, "the archive is at its end");
        self.archive.as_mut().ok_or_else(ended)
    }

    fn finish(mut self) -> Result<(), Stopped> {
        let Some(archive) = self.archive.take() else { return Ok(()) };
        let finished =
            archive.finish().and_then(GzEncoder::finish).and_then(|mut buffered| buffered.flush());
        finished.map_err(|error| failed(&error))
    }
}

impl Drop for Weaver {
    fn drop(&mut self) {
        // What compresses finishes its stream when it is dropped, and that must not make a part of
        // an archive look whole.
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Gives out what is written to it.
struct Outlet {
    pieces: mpsc::Sender<SyncPiece>,
    abandoned: Arc<AtomicBool>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.pieces.blocking_send(SyncPiece::Bytes(bytes.to_vec()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
