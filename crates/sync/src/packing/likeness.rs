//! What changed in a file, held against the tree that was published last: a chunk that is like what
//! lay in its place is written as the difference to it.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;

use belay_packs::{BaseChunk, Chunk, ChunkId, ChunkRef, MIN};

use crate::core::attempts::{Attempts, Beside};
use crate::core::manifest::Record;
use crate::core::member::Body;
use crate::core::root::Root;
use crate::manifest_file::ManifestError;
use crate::remembered::Earlier;

/// Bytes of new content that wait, so that what they are held against is fetched together.
const WAITING_MAX: usize = 4 * 1024 * 1024;
/// Fewest bytes that a chunk and what lay in its place have in common, to count as being in one
/// place. It is a page of what is written in pages.
const OVERLAP: u64 = 4 * 1024;

/// Contents of chunks that the store has.
pub(crate) trait BaseContents: Send + Sync + fmt::Debug {
    /// Fetches frames, for [`BaseContents::content`]. What cannot be had lacks there.
    fn fetch(&mut self, wanted: Vec<ChunkRef>);

    /// The content of a chunk; none if a frame that it takes was not fetched, or is damaged.
    fn content(&mut self, chunk: &Chunk) -> Option<Vec<u8>>;
}

/// How far contents are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// From the store.
    Store,
    /// What was fetched before is all there is: the app waits.
    Fetched,
}

/// A new chunk that waits.
pub(super) struct Waiting {
    pub(super) id: ChunkId,
    pub(super) content: Vec<u8>,
    /// Where it lies in its file.
    at: u64,
}

/// The tree that was published last, met again in its order.
pub(super) struct Likeness<'p> {
    before: Earlier,
    root: &'p Root,
    contents: &'p mut dyn BaseContents,
    reach: Reach,
    pub(super) attempts: Attempts,
    /// Whether the file that is read was there.
    has_file: bool,
    /// The chunks of that file that lie about where it is being read.
    window: VecDeque<(u64, Chunk)>,
    /// How far its chunks were read.
    reached: u64,
    waiting: Vec<Waiting>,
    bytes: usize,
    begins: Beside,
}

impl<'p> Likeness<'p> {
    pub(super) fn new(
        manifest: &Path,
        root: &'p Root,
        contents: &'p mut dyn BaseContents,
        reach: Reach,
    ) -> Result<Self, ManifestError> {
        Ok(Self {
            before: Earlier::of_tree(manifest)?,
            root,
            contents,
            reach,
            attempts: Attempts::default(),
            has_file: false,
            window: VecDeque::new(),
            reached: 0,
            waiting: Vec::new(),
            bytes: 0,
            begins: Beside::New,
        })
    }

    /// Goes to the file of this path, which follows those before.
    pub(super) fn enter(&mut self, path: &[u8]) -> Result<(), ManifestError> {
        let found = self.before.find(path)?;
        self.has_file = found.is_some_and(|(member, _)| matches!(member.body, Body::File { .. }));
        self.window.clear();
        self.reached = 0;
        self.begins = Beside::New;
        Ok(())
    }

    /// Whether the file that is read was there before.
    pub(super) fn has_file(&self) -> bool {
        self.has_file
    }

    /// Takes a new chunk. Says whether those that wait should go on now.
    pub(super) fn wait(&mut self, id: ChunkId, content: &[u8], at: u64) -> bool {
        self.bytes += content.len();
        self.waiting.push(Waiting { id, content: content.to_vec(), at });
        self.bytes >= WAITING_MAX
    }

    /// Gives out those that wait, each with what it may stand on. `ends` is what follows them.
    pub(super) fn go_on(
        &mut self,
        ends: Beside,
    ) -> Result<Vec<(Waiting, Vec<Chunk>)>, ManifestError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let begins = std::mem::replace(&mut self.begins, ends);
        let last = waiting.len().saturating_sub(1);
        let mut wanted = Vec::new();
        let mut given = Vec::with_capacity(waiting.len());
        for (place, waiting) in waiting.into_iter().enumerate() {
            let is_edge =
                (place == 0 && begins == Beside::Old) || (place == last && ends == Beside::Old);
            let beside = if is_edge { Beside::Old } else { Beside::New };
            let is_tried = waiting.content.len() >= MIN as usize && self.attempts.is_due(beside);
            let bases = if is_tried { self.in_place_of(&waiting)? } else { Vec::new() };
            for base in &bases {
                base.each(&mut |at| wanted.push(*at));
            }
            given.push((waiting, bases));
        }
        if self.reach == Reach::Store && !wanted.is_empty() {
            self.contents.fetch(wanted);
        }
        Ok(given)
    }

    /// The contents of what a chunk may stand on; none if one of them cannot be had.
    pub(super) fn contents(&mut self, bases: Vec<Chunk>) -> Vec<BaseChunk> {
        let contents = bases.into_iter().map(|chunk| {
            let content = self.contents.content(&chunk)?;
            Some(BaseChunk { chunk, content })
        });
        contents.collect::<Option<_>>().unwrap_or_default()
    }

    /// The chunks that lay in the place of a new one, if it may stand on them.
    fn in_place_of(&mut self, new: &Waiting) -> Result<Vec<Chunk>, ManifestError> {
        let plain = u32::try_from(new.content.len()).unwrap_or(u32::MAX);
        let (from, to) = (new.at, new.at + u64::from(plain));
        let end = |at: u64, chunk: &Chunk| at + u64::from(chunk.at().plain);
        while self.window.front().is_some_and(|(at, chunk)| end(*at, chunk) <= from) {
            self.window.pop_front();
        }
        while self.reached < to {
            match self.before.piece()? {
                Some(Record::Chunk(chunk)) => {
                    let at = self.reached;
                    self.reached = end(at, &chunk);
                    if self.reached > from {
                        self.window.push_back((at, chunk));
                    }
                }
                Some(Record::Hole(length)) => self.reached = self.reached.saturating_add(length),
                Some(Record::Entry(_) | Record::End(_)) | None => break,
            }
        }
        let common = |at: u64, chunk: &Chunk| end(at, chunk).min(to).saturating_sub(at.max(from));
        let beneath = self.window.iter().filter(|(at, chunk)| common(*at, chunk) >= OVERLAP);
        let bases: Vec<Chunk> = beneath.map(|(_, chunk)| chunk.clone()).collect();
        let may_stand = Chunk::judge(plain, &bases).is_ok()
            && bases.iter().all(|base| self.root.place_all(base).is_ok());
        Ok(if may_stand { bases } else { Vec::new() })
    }
}
