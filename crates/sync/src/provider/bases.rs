//! What the chunks of the tree that was published last contain, fetched from the store for what is
//! held against them.

use std::collections::HashSet;
use std::sync::Arc;

use belay_packs::{Chunk, ChunkRef, Keys, Opener};
use belay_protocol::control::Stage;
use belay_store::{BlobStore, RecordStore};
use tokio::runtime::Handle;

use crate::context::Context;
use crate::core::root::Root;
use crate::fetching::Frames;
use crate::packing::BaseContents;
use crate::window::OfflineWindow;

/// Contents out of the packs of one root. A capture that needs them is on a thread that may block.
pub(super) struct StoredBases<S, W> {
    context: Arc<Context<S, W>>,
    runtime: Handle,
    root: Root,
    opener: Opener,
    fetched: Fetched,
}

enum Fetched {
    Nothing,
    Frames(Frames),
    /// The store failed once. What is new is written whole then, and the publish goes on.
    GaveUp,
}

impl<S, W> StoredBases<S, W> {
    /// For the packs of `root`. To be called where there is a runtime.
    pub(super) fn new(context: Arc<Context<S, W>>, root: Root, keys: &Keys) -> Self {
        let (runtime, opener) = (Handle::current(), Opener::new(keys));
        Self { context, runtime, root, opener, fetched: Fetched::Nothing }
    }
}

impl<S, W> std::fmt::Debug for StoredBases<S, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredBases")
            .field("workload", &self.context.workload)
            .finish_non_exhaustive()
    }
}

impl<S, W> BaseContents for StoredBases<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    fn fetch(&mut self, wanted: Vec<ChunkRef>) {
        let stage = Stage::ArchiveBuild;
        let frames = match std::mem::replace(&mut self.fetched, Fetched::GaveUp) {
            Fetched::GaveUp => return,
            Fetched::Frames(frames) => Ok(frames),
            Fetched::Nothing => Frames::create(&self.context.spool),
        };
        let mut met = HashSet::new();
        let fetched = frames.map_err(|error| crate::context::Stopped::at(stage, &error));
        let fetched = fetched.and_then(|frames| {
            let lacks = |at: &ChunkRef| !frames.has(at) && met.insert(*at);
            let lacking = wanted.into_iter().filter(lacks).collect();
            self.runtime.block_on(self.context.fetch_frames(&self.root, lacking, frames, stage))
        });
        match fetched {
            Ok(frames) => self.fetched = Fetched::Frames(frames),
            Err(stopped) => tracing::warn!(workload = %self.context.workload, ?stopped,
                "what changed cannot be held against what is stored, and is stored whole"),
        }
    }

    fn content(&mut self, chunk: &Chunk) -> Option<Vec<u8>> {
        let Fetched::Frames(frames) = &self.fetched else { return None };
        match frames.content(chunk, &mut self.opener, &mut |_| None) {
            Ok(Some(Ok(content))) => Some(content),
            Ok(None) => None,
            Ok(Some(Err(fault))) => {
                tracing::warn!(workload = %self.context.workload, chunk = ?chunk.at().id, %fault,
                    "a stored chunk is damaged; look with `belay sync verify`");
                None
            }
            Err(error) => {
                tracing::warn!(workload = %self.context.workload, %error,
                    "a fetched chunk could not be read");
                None
            }
        }
    }
}
