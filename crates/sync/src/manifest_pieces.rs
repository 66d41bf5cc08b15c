//! Manifests that are there already, as a source of pieces of the next one: two manifests of trees
//! that differ in little are cut alike but for that.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use belay_packs::{ChunkId, ChunkRef, Cutter, Keys};

/// Pieces of manifests, by what they contain.
#[derive(Debug, Default)]
pub(crate) struct HeldPieces {
    files: Vec<File>,
    at: HashMap<ChunkId, (usize, u64)>,
}

impl HeldPieces {
    /// Of the manifests in a directory, the pieces that are `wanted`. A manifest that cannot be read
    /// has none.
    pub(crate) fn read(manifests: &Path, wanted: &[ChunkRef], keys: &Keys) -> Self {
        let mut held = Self::default();
        let wanted = wanted.iter().map(|chunk| chunk.id).collect();
        let Ok(entries) = fs::read_dir(manifests) else { return held };
        for entry in entries.flatten() {
            if let Err(error) = held.note(&entry.path(), &wanted, keys) {
                tracing::warn!(path = %entry.path().display(), %error,
                    "the manifest of what was applied before could not be read");
            }
        }
        held
    }

    fn note(&mut self, path: &Path, wanted: &HashSet<ChunkId>, keys: &Keys) -> io::Result<()> {
        let file = File::open(path)?;
        let mut offset = 0;
        for piece in Cutter::fine(BufReader::with_capacity(128 * 1024, &file)) {
            let piece = piece?;
            let id = keys.chunk_id(&piece);
            if wanted.contains(&id) {
                self.at.insert(id, (self.files.len(), offset));
            }
            offset += piece.len() as u64;
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether a piece is held.
    pub(crate) fn has(&self, chunk: &ChunkRef) -> bool {
        self.at.contains_key(&chunk.id)
    }

    /// The content of a piece that is held, verified.
    pub(crate) fn find(&self, chunk: &ChunkRef, keys: &Keys) -> Option<Vec<u8>> {
        let (file, offset) = self.at.get(&chunk.id)?;
        let mut content = vec![0; chunk.plain as usize];
        self.files[*file].read_exact_at(&mut content, *offset).ok()?;
        (keys.chunk_id(&content) == chunk.id).then_some(content)
    }
}

#[cfg(test)]
mod tests {
    use belay_packs::PackNumber;

    use super::*;

    #[test]
    fn pieces_of_a_manifest_are_found_again_in_the_next_and_damage_is_not() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let keys = Keys::plain();
        let mut list = vec![0; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut list);
        fs::write(temp.path().join("applied"), &list).expect("writes");
        list.splice(100_000..100_010, [7; 50]);
        let pieces: Vec<Vec<u8>> =
            Cutter::fine(&list[..]).collect::<io::Result<_>>().expect("memory");
        let references: Vec<ChunkRef> = pieces
            .iter()
            .map(|piece| ChunkRef {
                id: keys.chunk_id(piece),
                plain: u32::try_from(piece.len()).expect("it is small"),
                pack: PackNumber(0),
                offset: 0,
                stored: 1,
            })
            .collect();
        let held = HeldPieces::read(temp.path(), &references, &keys);
        let lacking = references.iter().filter(|piece| !held.has(piece)).count();
        assert!((1..=2).contains(&lacking) && references.len() > 8, "{lacking}");
        for (piece, reference) in pieces.iter().zip(&references) {
            let found = held.find(reference, &keys);
            assert_eq!(found.as_ref(), held.has(reference).then_some(piece));
        }
        fs::write(temp.path().join("applied"), vec![0; 200_000]).expect("writes");
        assert!(references.iter().all(|piece| held.find(piece, &keys).is_none()));
        let none = HeldPieces::read(&temp.path().join("absent"), &references, &keys);
        assert!(references.iter().all(|piece| !none.has(piece)));
    }
}
