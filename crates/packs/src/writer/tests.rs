use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::frame::Opener;
use crate::keys::DataKey;
use crate::pack::PACK_MAX;
use crate::plan::{Bounds, plan};

/// Packs in memory.
#[derive(Debug, Default)]
struct Shelf {
    packs: BTreeMap<u32, (Vec<u8>, PackSummary)>,
}

impl PackSink for Shelf {
    type Pack = Vec<u8>;

    fn begin(&mut self, number: PackNumber) -> io::Result<Self::Pack> {
        assert!(!self.packs.contains_key(&number.0), "a number is given once");
        Ok(Vec::new())
    }

    fn finish(
        &mut self,
        number: PackNumber,
        pack: Self::Pack,
        summary: PackSummary,
    ) -> io::Result<()> {
        self.packs.insert(number.0, (pack, summary));
        Ok(())
    }
}

/// Content of which every part differs, the same in every run.
fn content(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn write(
    keys: &Keys,
    known: Known,
    first: u32,
    content: &[u8],
) -> (Vec<ChunkRef>, Shelf, Known, Written) {
    let mut writer = ContentWriter::new(keys, known, PackNumber(first), Shelf::default());
    let refs = writer.write(content, Effort::Fast).expect("memory");
    let (shelf, known, written) = writer.finish().expect("memory");
    (refs, shelf, known, written)
}

fn read(keys: &Keys, refs: &[ChunkRef], shelves: &[&Shelf]) -> Vec<u8> {
    let mut found = BTreeMap::new();
    let mut opener = Opener::new(keys);
    for span in plan(refs.iter().copied(), Bounds::USUAL) {
        let packs = shelves.iter().find_map(|shelf| shelf.packs.get(&span.pack.0));
        let (pack, _) = packs.expect("the pack is on a shelf");
        let place = |at: u64| usize::try_from(at).expect("it is small");
        let fetched = &pack[place(span.range.start)..place(span.range.end)];
        for chunk in &span.chunks {
            let frame = span.frame(chunk, fetched).expect("it was fetched");
            found.insert(chunk.id, opener.open(chunk, frame).expect("it is whole"));
        }
    }
    refs.iter().flat_map(|chunk| found[&chunk.id].clone()).collect()
}

#[test]
fn content_comes_back_and_the_same_content_is_written_once() {
    for keys in [Keys::plain(), Keys::sealed(&DataKey::from_bytes([1; 32]))] {
        let original = content(1, 3_000_000);
        let (refs, shelf, known, written) = write(&keys, Known::default(), 0, &original);
        assert_eq!((written.read, written.new), (3_000_000, 3_000_000));
        assert_eq!(read(&keys, &refs, &[&shelf]), original);
        let (again, second, _, written) = write(&keys, known, 1, &original);
        assert_eq!((again, written.new, written.packs), (refs, 0, 0));
        assert!(second.packs.is_empty(), "nothing new makes no pack");
    }
}

#[test]
fn a_change_costs_what_lies_around_it() {
    let keys = Keys::plain();
    let original = content(1, 32 << 20);
    let (_, first, known, _) = write(&keys, Known::default(), 0, &original);
    let last = *first.packs.keys().last().expect("there are packs");

    let mut changed = original.clone();
    changed[9_000_000..10_048_576].copy_from_slice(&content(2, 1_048_576));
    let (refs, second, known, written) = write(&keys, known, last + 1, &changed);
    assert_eq!(read(&keys, &refs, &[&first, &second]), changed);
    assert!(written.stored < 1_400_000, "{written:?}");

    // An insertion moves all that follows, and no cut but those around it.
    let mut inserted = changed[..500_000].to_vec();
    inserted.push(7);
    inserted.extend_from_slice(&changed[500_000..]);
    let (_, _, _, written) = write(&keys, known, last + 2, &inserted);
    assert!(written.new <= 2 * u64::from(MAX), "{written:?}");
}

#[test]
fn packs_have_a_size_that_travels_well() {
    let keys = Keys::plain();
    let (_, shelf, _, written) = write(&keys, Known::default(), 40, &content(1, 40 << 20));
    assert_eq!(shelf.packs.keys().copied().collect::<Vec<_>>(), [40, 41, 42]);
    for (pack, summary) in shelf.packs.values() {
        assert_eq!(summary.size, pack.len() as u64);
        assert!(summary.size <= PACK_TARGET);
    }
    assert_eq!(written.packs, 3);
    const { assert!(PACK_TARGET <= PACK_MAX) };
}

/// The bytes are a format that others read: they may not change by accident.
#[test]
fn known_content_has_the_cuts_and_packs_written_down() {
    let mut mixed = content(1, 200_000);
    mixed.extend_from_slice(&b"belay ".repeat(30_000));
    mixed.extend_from_slice(&content(2, 100_000));
    let lengths: Vec<u32> = {
        let (refs, _, _, _) = write(&Keys::plain(), Known::default(), 0, &mixed);
        refs.iter().map(|chunk| chunk.plain).collect()
    };
    assert_eq!(lengths, [65_856, 36_180, 68_588, 218_098, 17_293, 73_985]);
    for (keys, id) in [
        (Keys::plain(), "bafkr4ihd3zk3na5lgco5ubcommf7tiz34awkx3bcywqx4lo77d55ilpx3m"),
        (
            Keys::sealed(&DataKey::from_bytes([42; 32])),
            "bafkr4igobeu2dcwvjaaleqlwjut4dnr6vowravgryfwrut5dmvv47pv3xq",
        ),
    ] {
        // Noise is not compressed, so that the bytes do not depend on the compressor's version.
        let (refs, shelf, _, _) = write(&keys, Known::default(), 0, &content(3, 300_000));
        assert_eq!(shelf.packs[&0].1.id.to_string(), id);
        assert_eq!(ChunkRef::decode(&refs[0].encode()), Ok(refs[0]));
    }
}

/// Writes pieces of which those that are new may stand on `bases`.
fn write_on(
    keys: &Keys,
    known: Known,
    first: u32,
    pieces: &[&[u8]],
    bases: &[BaseChunk],
) -> (Vec<Chunk>, Shelf, Known, Written) {
    let mut writer = ContentWriter::new(keys, known, PackNumber(first), Shelf::default());
    let mut chunks = Vec::new();
    for piece in pieces {
        chunks.push(match writer.meet(piece).expect("it is a chunk") {
            Met::Known(chunk) => chunk,
            Met::New(id) => writer.add(id, piece, Effort::Fast, bases.to_vec()).expect("memory"),
        });
    }
    let (shelf, known, written) = writer.finish().expect("memory");
    (chunks, shelf, known, written)
}

#[test]
fn a_new_chunk_stands_on_what_it_is_like_and_is_known_afterwards() {
    let keys = Keys::plain();
    let first = content(1, 100_000);
    let (chunks, _, known, _) = write_on(&keys, Known::default(), 0, &[&first], &[]);
    assert!(!chunks[0].is_delta());
    let base = BaseChunk { chunk: chunks[0].clone(), content: first.clone() };

    let mut second = first.clone();
    second[5_000..6_000].copy_from_slice(&content(2, 1_000));
    let strange = content(3, 100_000);
    let pieces: [&[u8]; 4] = [&second, &strange, &first, &second];
    let (chunks, shelf, known, written) = write_on(&keys, known, 1, &pieces, &[base]);
    let told: Vec<bool> = chunks.iter().map(Chunk::is_delta).collect();
    assert_eq!(told, [true, false, false, true], "what is like nothing is whole");
    assert_eq!((&chunks[3], written.deltas, written.new), (&chunks[0], 1, 200_000));
    assert!(chunks[0].at().stored < 1_200, "{:?}", chunks[0]);
    assert_eq!(known.find_chunk(&chunks[0].at().id), Some(chunks[0].clone()));
    assert_eq!(known.find(&chunks[0].at().id), None, "it is not known whole");
    assert_eq!(known.len(), 3);
    let (pack, _) = &shelf.packs[&1];
    let from = chunks[0].at().offset as usize;
    let frame = &pack[from..from + chunks[0].at().stored as usize];
    assert_eq!(Opener::new(&keys).open_on(chunks[0].at(), frame, &first), Ok(second.clone()));

    // Where a chunk must be whole, a difference does not do.
    let mut writer = ContentWriter::new(&keys, known, PackNumber(2), Shelf::default());
    let whole = writer.write_chunk(&second, Effort::Fast).expect("memory");
    assert_eq!(whole.pack, PackNumber(2));
    let Met::Known(met) = writer.meet(&second).expect("a chunk") else { panic!("it is known") };
    assert_eq!(met, Chunk::whole(whole), "and where it is whole, that is better");
}

#[test]
fn a_chunk_is_whole_again_before_a_reader_would_refuse_it() {
    let keys = Keys::plain();
    let mut last = content(1, 50_000);
    let (chunks, _, mut known, _) = write_on(&keys, Known::default(), 0, &[&last], &[]);
    let mut chunk = chunks[0].clone();
    let mut deltas = Vec::new();
    for round in 1..=6_u32 {
        let base = BaseChunk { chunk, content: last.clone() };
        last[round as usize * 1_000] ^= 1;
        let written = write_on(&keys, known, round, &[&last], &[base]);
        (chunk, known) = (written.0[0].clone(), written.2);
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        assert_eq!(Chunk::decode(&bytes).as_ref(), Ok(&chunk));
        deltas.push(chunk.is_delta());
    }
    assert_eq!(deltas, [true, true, true, true, false, true]);
}

#[test]
fn sizes_that_no_chunk_has_are_refused() {
    let keys = Keys::plain();
    let mut writer = ContentWriter::new(&keys, Known::default(), PackNumber(0), Shelf::default());
    for wrong in [0, MAX as usize + 1] {
        let refused = writer.write_chunk(&vec![0; wrong], Effort::Fast).expect_err("no chunk");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(writer.write(&b""[..], Effort::Fast).expect("memory"), []);
    let (shelf, _, _) = writer.finish().expect("memory");
    assert!(shelf.packs.is_empty());
}

#[test]
fn a_source_that_fails_ends_the_writing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("a bad sector"))
        }
    }
    let keys = Keys::plain();
    let mut writer = ContentWriter::new(&keys, Known::default(), PackNumber(0), Shelf::default());
    let error = writer.write(Broken, Effort::Fast).expect_err("it cannot be read");
    assert!(error.to_string().contains("a bad sector"), "{error}");
}

proptest! {
    #[test]
    fn no_reference_decodes_to_sizes_that_no_chunk_has(bytes in any::<[u8; 32]>(), tail in any::<[u32; 4]>()) {
        let mut encoded = [0; ChunkRef::ENCODED];
        encoded[..32].copy_from_slice(&bytes);
        for (place, number) in encoded[32..].chunks_exact_mut(4).zip(tail) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        if let Ok(chunk) = ChunkRef::decode(&encoded) {
            prop_assert_eq!(chunk.encode(), encoded);
            prop_assert!(chunk.plain <= MAX && chunk.plain > 0);
            prop_assert!(u64::from(chunk.offset) + u64::from(chunk.stored) <= PACK_MAX);
        }
    }
}
