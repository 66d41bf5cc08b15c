//! Fetches roots, manifests and chunks of stored trees.

use std::collections::HashMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use belay_packs::{Bounds, Chunk, ChunkRef, FrameFault, Keys, Opener, Span, plan};
use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_store::{BlobError, BlobStore};
use futures_util::StreamExt;

use crate::context::{Context, Failure, Stopped, blocking, with_causes};
use crate::core::root::{ROOT_HEAD, ROOT_MAX, Root, StoredRoot};
use crate::manifest_pieces::HeldPieces;
use crate::spool::{Spool, Spooled, keep_reserve};

/// Frames that were fetched, as they lay in their packs. They are opened, and by that verified,
/// when they are needed.
#[derive(Debug)]
pub(crate) struct Frames {
    spooled: Spooled,
    end: u64,
    at: HashMap<ChunkRef, u64>,
}

impl Frames {
    pub(crate) fn create(spool: &Spool) -> io::Result<Self> {
        Ok(Self { spooled: spool.create()?, end: 0, at: HashMap::new() })
    }

    fn add(&mut self, span: &Span, fetched: &[u8]) -> io::Result<()> {
        for chunk in &span.chunks {
            let frame = span.frame(chunk, fetched).ok_or(io::ErrorKind::UnexpectedEof)?;
            keep_reserve(&self.spooled.file, frame.len())?;
            self.spooled.file.write_all(frame)?;
            self.at.insert(*chunk, self.end);
            self.end += frame.len() as u64;
        }
        Ok(())
    }

    /// Whether a frame was fetched.
    pub(crate) fn has(&self, chunk: &ChunkRef) -> bool {
        self.at.contains_key(chunk)
    }

    /// The content of a whole chunk; none if its frame was not fetched.
    pub(crate) fn open(
        &self,
        chunk: &ChunkRef,
        opener: &mut Opener,
    ) -> io::Result<Option<Result<Vec<u8>, FrameFault>>> {
        Ok(self.frame(chunk)?.map(|frame| opener.open(chunk, &frame)))
    }

    /// The content of a chunk, put together with what it stands on. Of what was not fetched `held` is
    /// asked for the content; if it has not got all of it there is none.
    pub(crate) fn content(
        &self,
        chunk: &Chunk,
        opener: &mut Opener,
        held: &mut dyn FnMut(&Chunk) -> Option<Vec<u8>>,
    ) -> io::Result<Option<Result<Vec<u8>, FrameFault>>> {
        let Some(frame) = self.frame(chunk.at())? else { return Ok(held(chunk).map(Ok)) };
        if !chunk.is_delta() {
            return Ok(Some(opener.open(chunk.at(), &frame)));
        }
        let mut base = Some(Vec::new());
        for below in chunk.bases() {
            match (self.content(below, opener, held)?, &mut base) {
                (Some(Ok(content)), Some(base)) => base.extend_from_slice(&content),
                (Some(Err(fault)), _) => return Ok(Some(Err(fault))),
                // The others are asked for too, so that all that lacks is known.
                (None, _) | (Some(Ok(_)), None) => base = None,
            }
        }
        Ok(base.map(|base| opener.open_on(chunk.at(), &frame, &base)))
    }

    fn frame(&self, chunk: &ChunkRef) -> io::Result<Option<Vec<u8>>> {
        let Some(at) = self.at.get(chunk) else { return Ok(None) };
        let mut frame = vec![0; chunk.stored as usize];
        self.spooled.file.read_exact_at(&mut frame, *at)?;
        Ok(Some(frame))
    }
}

/// What lies under an id that may be a root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundRoot {
    Absent,
    /// An archive, a pack, or what is left of a root.
    Other,
    Root(Box<StoredRoot>),
}

impl FoundRoot {
    pub(crate) fn into_root(self) -> Option<StoredRoot> {
        match self {
            Self::Absent | Self::Other => None,
            Self::Root(root) => Some(*root),
        }
    }
}

impl<S: BlobStore, W> Context<S, W> {
    /// Reads a root, in its place or where it was set aside.
    pub(crate) async fn find_root(&self, blob: Cid, stage: Stage) -> Result<FoundRoot, Stopped> {
        let stall = self.spec.store_timeout;
        let may_pass = |error: &BlobError| match error {
            BlobError::Io { .. } | BlobError::Full => true,
            BlobError::Absent { .. } | BlobError::Mismatch { .. } | BlobError::Range { .. } => {
                false
            }
        };
        let read = self
            .transfer(ROOT_MAX, stage, may_pass, || read_root(&*self.store, blob, stall))
            .await?;
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(FoundRoot::Other),
            Err(BlobError::Absent { .. }) => return Ok(FoundRoot::Absent),
            Err(error) => return Err(lacking(stage, &error)),
        };
        let root = decoded(blob, &bytes, stage)?;
        Ok(FoundRoot::Root(Box::new(root)))
    }

    /// Fetches the root of a stored tree.
    pub(crate) async fn fetch_root(
        &self,
        blob: Cid,
        size: u64,
        stage: Stage,
    ) -> Result<StoredRoot, Stopped> {
        if size > ROOT_MAX {
            let reason = format!("the root {blob} has {size} bytes, more than {ROOT_MAX}");
            return Err(Stopped::because(stage, reason));
        }
        let bytes = self.fetch_range(blob, 0..size, stage).await?;
        decoded(blob, &bytes, stage)
    }

    /// Fetches a root's manifest into a file of the spool.
    pub(crate) async fn fetch_manifest(
        &self,
        root: &Root,
        keys: &Keys,
        stage: Stage,
    ) -> Result<Spooled, Stopped> {
        self.fetch_manifest_beside(HeldPieces::default(), root, keys, stage).await
    }

    /// The same, but for the pieces that are held already.
    pub(crate) async fn fetch_manifest_beside(
        &self,
        held: HeldPieces,
        root: &Root,
        keys: &Keys,
        stage: Stage,
    ) -> Result<Spooled, Stopped> {
        let chunks = root.manifest.clone();
        let lacking = chunks.iter().filter(|chunk| !held.has(chunk)).copied().collect();
        let frames = self.new_frames(stage).await?;
        let frames = self.fetch_frames(root, lacking, frames, stage).await?;
        let (spool, keys) = (self.spool.clone(), keys.clone());
        blocking(stage, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(stage, error);
            let mut opener = Opener::new(&keys);
            let mut manifest = spool.create().map_err(|error| fail(&error))?;
            for chunk in &chunks {
                let content = if let Some(content) = held.find(chunk, &keys) {
                    content
                } else {
                    let found = frames.open(chunk, &mut opener);
                    let found = found.map_err(|error| fail(&error))?;
                    let missing = || Stopped::because(stage, "a chunk is missing");
                    found.ok_or_else(missing)?.map_err(|fault| refused_chunk(stage, fault))?
                };
                let written = keep_reserve(&manifest.file, content.len())
                    .and_then(|()| manifest.file.write_all(&content));
                written.map_err(|error| fail(&error))?;
            }
            Ok(manifest)
        })
        .await
    }

    pub(crate) async fn new_frames(&self, stage: Stage) -> Result<Frames, Stopped> {
        let spool = self.spool.clone();
        blocking(stage, move || Frames::create(&spool).map_err(|error| Stopped::at(stage, &error)))
            .await
    }

    /// Fetches the frames of these chunks, few requests for many.
    pub(crate) async fn fetch_frames(
        &self,
        root: &Root,
        wanted: Vec<ChunkRef>,
        mut frames: Frames,
        stage: Stage,
    ) -> Result<Frames, Stopped> {
        for span in plan(wanted, Bounds::USUAL) {
            // References are judged with their root; one that is not in a pack is nowhere.
            let pack = root.packs.get(&span.pack).copied();
            let pack = pack.ok_or_else(|| Stopped::because(stage, "a chunk is in no pack"))?;
            let fetched = self.fetch_range(pack.id, span.range.clone(), stage).await?;
            let added = tokio::task::spawn_blocking(move || {
                frames.add(&span, &fetched)?;
                Ok::<_, io::Error>(frames)
            });
            let added = added.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            frames = added.map_err(|source| {
                let action = "spool a chunk";
                lacking(stage, &BlobError::Io { action, source })
            })?;
        }
        Ok(frames)
    }

    /// Fetches an archive into a file of the spool and verifies it byte by byte.
    pub(crate) async fn fetch_archive(
        &self,
        record: &SyncRecord,
        stage: Stage,
    ) -> Result<Spooled, Stopped> {
        let manifest = &record.manifest;
        let size = manifest.archive_size_bytes;
        let spool = self.spool.clone();
        let created =
            blocking(stage, move || spool.create().map_err(|error| Stopped::at(stage, &error)));
        let mut spooled = created.await?;
        let fetched = self
            .transfer(size, stage, BlobError::is_retryable, || {
                let stall = self.spec.store_timeout;
                fetch(&*self.store, manifest.blob, size, &spooled, stall)
            })
            .await?;
        let digest = fetched.map_err(|error| lacking(stage, &error))?;
        if digest != *manifest.blob.digest() {
            let reason = format!("the stored object is not {}", manifest.blob);
            return Err(Stopped::because(stage, reason));
        }
        let rewound = spooled.file.seek(SeekFrom::Start(0));
        rewound.map_err(|error| Stopped::at(stage, &error))?;
        Ok(spooled)
    }

    /// Fetches part of an object into memory.
    pub(crate) async fn fetch_range(
        &self,
        blob: Cid,
        range: Range<u64>,
        stage: Stage,
    ) -> Result<Vec<u8>, Stopped> {
        let stall = self.spec.store_timeout;
        self.transfer(range.end - range.start, stage, BlobError::is_retryable, || {
            read_range(&*self.store, blob, range.clone(), stall)
        })
        .await?
        .map_err(|error| lacking(stage, &error))
    }
}

/// A chunk that is not what it should be, at the stage that fetched it.
pub(crate) fn refused_chunk(stage: Stage, fault: FrameFault) -> Stopped {
    Stopped::because(stage, format!("a stored chunk is refused: {fault}"))
}

/// What it means that something could not be fetched.
pub(crate) fn lacking(stage: Stage, error: &BlobError) -> Stopped {
    match error {
        // The content is not to blame for a store, or a disk, that fails.
        BlobError::Io { .. } | BlobError::Full => {
            Stopped::Unreachable(Failure::new(stage, with_causes(error)))
        }
        BlobError::Absent { .. } | BlobError::Mismatch { .. } | BlobError::Range { .. } => {
            Stopped::at(stage, error)
        }
    }
}

fn decoded(blob: Cid, bytes: &[u8], stage: Stage) -> Result<StoredRoot, Stopped> {
    if blake3::hash(bytes) != *blob.digest() {
        return Err(Stopped::because(stage, format!("the stored object is not {blob}")));
    }
    StoredRoot::decode(bytes)
        .map_err(|fault| Stopped::because(stage, format!("the root {blob} is refused: {fault}")))
}

/// The bytes of what begins like a root and is not too large for one; none of anything else.
async fn read_root<S: BlobStore>(
    store: &S,
    blob: Cid,
    stall: Duration,
) -> Result<Option<Vec<u8>>, BlobError> {
    let stalled = |_| BlobError::Io {
        action: "go on with an object",
        source: io::ErrorKind::TimedOut.into(),
    };
    let opened = tokio::time::timeout(stall, store.get(blob, None)).await;
    let mut pieces = opened.map_err(stalled)??;
    let mut read = Vec::new();
    while let Some(piece) = tokio::time::timeout(stall, pieces.next()).await.map_err(stalled)? {
        read.extend_from_slice(&piece?);
        let begins = &read[..read.len().min(ROOT_HEAD.len())];
        if !ROOT_HEAD.starts_with(begins) || read.len() as u64 > ROOT_MAX {
            return Ok(None);
        }
    }
    Ok((read.len() >= ROOT_HEAD.len()).then_some(read))
}

async fn read_range<S: BlobStore>(
    store: &S,
    blob: Cid,
    range: Range<u64>,
    stall: Duration,
) -> Result<Vec<u8>, BlobError> {
    let stalled = |_| BlobError::Io {
        action: "go on with an object",
        source: io::ErrorKind::TimedOut.into(),
    };
    let size = usize::try_from(range.end - range.start).map_err(|_| BlobError::Full)?;
    let mut fetched = Vec::with_capacity(size);
    let opened = tokio::time::timeout(stall, store.get(blob, Some(range))).await;
    let mut pieces = opened.map_err(stalled)??;
    while let Some(piece) = tokio::time::timeout(stall, pieces.next()).await.map_err(stalled)? {
        let piece = piece?;
        if fetched.len() + piece.len() > size {
            return Err(BlobError::Mismatch { id: blob });
        }
        fetched.extend_from_slice(&piece);
    }
    if fetched.len() == size { Ok(fetched) } else { Err(BlobError::Mismatch { id: blob }) }
}

/// Fetches exactly `size` bytes into the spooled file, from its beginning, and returns their hash.
async fn fetch<S: BlobStore>(
    store: &S,
    blob: Cid,
    size: u64,
    spooled: &Spooled,
    stall: Duration,
) -> Result<[u8; 32], BlobError> {
    let io = |source| BlobError::Io { action: "spool an object", source };
    let stalled = |_| BlobError::Io {
        action: "go on with an object",
        source: io::ErrorKind::TimedOut.into(),
    };
    let mut file = spooled.file.try_clone().map_err(io)?;
    file.set_len(0).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut pieces =
        tokio::time::timeout(stall, store.get(blob, None)).await.map_err(stalled)??;
    let mut hasher = blake3::Hasher::new();
    let mut fetched = 0_u64;
    while let Some(piece) = tokio::time::timeout(stall, pieces.next()).await.map_err(stalled)? {
        let piece = piece?;
        fetched = fetched.saturating_add(piece.len() as u64);
        if fetched > size {
            return Err(BlobError::Mismatch { id: blob });
        }
        hasher.update(&piece);
        let written = tokio::task::spawn_blocking(move || {
            keep_reserve(&file, piece.len())?;
            file.write_all(&piece)?;
            Ok(file)
        });
        file = written.await.map_err(io::Error::other).and_then(|file| file).map_err(io)?;
    }
    if fetched != size {
        return Err(BlobError::Mismatch { id: blob });
    }
    Ok(*hasher.finalize().as_bytes())
}
