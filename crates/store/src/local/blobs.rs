//! Blobs in a directory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belay_protocol::Cid;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::{LocalStore, make_dir, sync_parent};
use crate::blob::{Aside, BlobEntry, BlobError, BlobReader, BlobStore, PutOutcome};

/// Large enough that a read costs more than the hop to a blocking thread.
const PIECE: usize = 256 * 1024;

impl BlobStore for LocalStore {
    async fn put_if_absent(
        &self,
        id: Cid,
        source: File,
        size: u64,
    ) -> Result<PutOutcome, BlobError> {
        let store = self.clone();
        let caller = Caller::default();
        let gone = Arc::clone(&caller.0);
        let put = move || store.put_blocking(id, source, size, &gone);
        let put = blocking("store an object", put).await;
        drop(caller);
        put
    }

    async fn get(&self, id: Cid, range: Option<Range<u64>>) -> Result<BlobReader, BlobError> {
        let store = self.clone();
        let (file, left) =
            blocking("read an object", move || store.open_blocking(id, range)).await?;
        Ok(stream::try_unfold((file, left), |(file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let (bytes, file) = blocking("read an object", move || read_piece(file, left)).await?;
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (file, left))))
        })
        .boxed())
    }

    async fn has(&self, id: Cid) -> Result<Option<u64>, BlobError> {
        let path = self.blob_path(id);
        blocking("look for an object", move || match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::io("look for an object", error)),
        })
        .await
    }

    async fn delete(&self, id: Cid) -> Result<bool, BlobError> {
        let path = self.blob_path(id);
        blocking("delete an object", move || {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(BlobError::io("delete an object", error)),
            }
            sync_parent(&path).map_err(|error| BlobError::io("delete an object", error))?;
            Ok(true)
        })
        .await
    }

    async fn set_aside(&self, id: Cid) -> Result<Option<Aside>, BlobError> {
        let store = self.clone();
        blocking("set an object aside", move || store.set_aside_blocking(id)).await
    }

    async fn put_back(&self, aside: &Aside) -> Result<(), BlobError> {
        let (store, aside) = (self.clone(), aside.clone());
        blocking("put an object back", move || store.put_back_blocking(&aside)).await
    }

    async fn remove_aside(&self, aside: &Aside) -> Result<(), BlobError> {
        let (store, aside) = (self.clone(), aside.clone());
        blocking("remove an object", move || store.remove_aside_blocking(&aside)).await
    }

    async fn asides(&self, limit: usize) -> Result<Vec<Aside>, BlobError> {
        let store = self.clone();
        blocking("list what is set aside", move || store.asides_blocking(limit)).await
    }

    async fn list(&self, after: Option<Cid>, limit: usize) -> Result<Vec<BlobEntry>, BlobError> {
        let blobs = self.root.join("blobs");
        blocking("list objects", move || {
            list_blocking(&blobs, after, limit)
                .map_err(|error| BlobError::io("list objects", error))
        })
        .await
    }
}

impl LocalStore {
    /// The last two characters spread evenly; the first are the same for every id.
    pub(super) fn blob_path(&self, id: Cid) -> PathBuf {
        let text = id.to_string();
        self.root.join("blobs").join(&text[text.len() - 2..]).join(text)
    }

    fn put_blocking(
        &self,
        id: Cid,
        mut source: File,
        size: u64,
        caller_gone: &AtomicBool,
    ) -> Result<PutOutcome, BlobError> {
        let io = |error| BlobError::io("store an object", error);
        let path = self.blob_path(id);
        let present = fs::metadata(&path).ok().map(|metadata| metadata.len());
        if present == Some(size) && is_whole(&path, id, caller_gone).map_err(io)? {
            // Its name is only given to durable content, but the name itself may not be yet.
            sync_parent(&path).map_err(io)?;
            return Ok(PutOutcome::Present);
        }
        source.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut source = source.take(size);
        let mut target = self.new_file().map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut copied = 0;
        loop {
            go_on(caller_gone).map_err(io)?;
            let count = source.read(&mut piece).map_err(io)?;
            if count == 0 {
                break;
            }
            hasher.update(&piece[..count]);
            target.file.write_all(&piece[..count]).map_err(io)?;
            copied += count as u64;
        }
        if copied != size || hasher.finalize().as_bytes() != id.digest() {
            return Err(BlobError::Mismatch { id });
        }
        if let Some(shard) = path.parent() {
            make_dir(shard).map_err(io)?;
        }
        if present.is_some() {
            // Damaged: no writer of this store gives the name to other bytes.
            target.replace(&path).map_err(io)?;
            return Ok(PutOutcome::Stored);
        }
        let given = target.name_it(&path).map_err(io)?;
        Ok(if given { PutOutcome::Stored } else { PutOutcome::Present })
    }

    fn open_blocking(&self, id: Cid, range: Option<Range<u64>>) -> Result<(File, u64), BlobError> {
        let io = |error| BlobError::io("read an object", error);
        let file = self.open_anywhere(id).map_err(io)?;
        let mut file = file.ok_or(BlobError::Absent { id })?;
        let size = file.metadata().map_err(io)?.len();
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(BlobError::Range { id, start: range.start, end: range.end, size });
        }
        file.seek(SeekFrom::Start(range.start)).map_err(io)?;
        Ok((file, range.end - range.start))
    }
}

/// Tells the thread that copies when nobody waits for it any more.
#[derive(Debug, Default)]
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn go_on(caller_gone: &AtomicBool) -> io::Result<()> {
    if caller_gone.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody waits for it any more"));
    }
    Ok(())
}

/// Whether the stored bytes are those that the id names. A disk may have lost some since.
fn is_whole(path: &Path, id: Cid, caller_gone: &AtomicBool) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        go_on(caller_gone)?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finalize().as_bytes() == id.digest()),
            Ok(count) => hasher.update(&piece[..count]),
            // Not readable any more, so not whole.
            Err(_) => return Ok(false),
        };
    }
}

fn read_piece(mut file: File, left: u64) -> Result<(Bytes, File), BlobError> {
    let io = |error| BlobError::io("read an object", error);
    let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
    file.read_exact(&mut piece).map_err(io)?;
    Ok((piece.into(), file))
}

fn list_blocking(blobs: &Path, after: Option<Cid>, limit: usize) -> io::Result<Vec<BlobEntry>> {
    // Shards are by the last characters, so the order of ids needs all of them. The `limit`
    // smallest are kept in a heap: memory follows the page, not the store.
    let mut smallest = std::collections::BTreeMap::new();
    for shard in fs::read_dir(blobs)? {
        for entry in fs::read_dir(shard?.path())? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<Cid>().ok())
            else {
                continue;
            };
            if after.is_some_and(|after| id <= after) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) => smallest.insert(id, metadata.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if smallest.len() > limit {
                smallest.pop_last();
            }
        }
    }
    Ok(smallest.into_iter().map(|(id, size)| BlobEntry { id, size }).collect())
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BlobError::Io { action, source: io::Error::other(error) }))
}
