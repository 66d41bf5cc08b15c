//! Packs, frames, references, envelopes and differences. The first byte of an input says which it is.

use std::io;

use belay_packs::{
    BaseChunk, Bounds, Chunk, ChunkRef, ContentWriter, DataKey, Effort, Envelope, IndexEntry, Keys,
    Known, MAX, MemberSecret, Opener, PACK_MAX, PackNumber, PackSink, PackSummary, index_span,
    plan, read_index,
};
use belay_sync::fuzzing::Verdict;

const FOREIGN: u8 = 0;
const OWN: u8 = 1;
const REFERENCES: u8 = 2;
const ENVELOPE: u8 = 3;
const DIFFERENCE: u8 = 4;
const TOLD: u8 = 5;
const KINDS: u8 = 6;

/// The target.
pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let Some((&kind, rest)) = bytes.split_first() else { return Verdict::Refused };
    match kind % KINDS {
        FOREIGN => foreign(rest),
        OWN => own(rest),
        REFERENCES => references(rest),
        ENVELOPE => envelope(rest),
        DIFFERENCE => difference(rest),
        _ => told(rest),
    }
}

fn data_key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

/// The list of a pack, if it has one that describes it.
fn index(keys: &Keys, pack: &[u8]) -> Option<Vec<IndexEntry>> {
    let end = pack.last_chunk::<12>()?;
    let span = index_span(pack.len() as u64, end).ok()?;
    let place = usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?;
    let entries = read_index(keys, &span, &pack[place]).ok()?;
    let mut next = 13;
    for entry in &entries {
        assert_eq!(entry.offset, next, "frames lie one behind the other");
        assert!((1..=MAX).contains(&entry.plain), "{entry:?}");
        next += entry.stored;
    }
    assert_eq!(u64::from(next), span.start, "and up to the list");
    Some(entries)
}

fn reference(entry: &IndexEntry) -> ChunkRef {
    let IndexEntry { id, offset, stored, plain } = *entry;
    ChunkRef { id, plain, pack: PackNumber(0), offset, stored }
}

fn frame<'b>(pack: &'b [u8], entry: &IndexEntry) -> &'b [u8] {
    &pack[entry.offset as usize..][..entry.stored as usize]
}

/// What a frame without a seal holds, read without the code that is looked at.
fn content(frame: &[u8], size: usize) -> Option<Vec<u8>> {
    let (&how, body) = frame.split_first()?;
    let content = match how {
        0 => body.to_vec(),
        1 => zstd::bulk::decompress(body, size).ok()?,
        _ => return None,
    };
    (content.len() == size).then_some(content)
}

/// A pack that somebody else made.
fn foreign(pack: &[u8]) -> Verdict {
    assert!(
        index(&Keys::sealed(&data_key()), pack).is_none_or(|entries| entries.is_empty()),
        "a list is sealed by who has the key"
    );
    let keys = Keys::plain();
    let Some(entries) = index(&keys, pack) else { return Verdict::Refused };
    let mut opener = Opener::new(&keys);
    for entry in &entries {
        // Without what it stands on, a difference is nothing; with anything else it is nothing either.
        if let Ok(read) = opener.open_on(&reference(entry), frame(pack, entry), b"some base") {
            assert_eq!(keys.chunk_id(&read), entry.id, "only the hash is believed");
        }
        let (claimed, frame) = (reference(entry), frame(pack, entry));
        let content = content(frame, entry.plain as usize);
        if let Ok(read) = opener.open(&claimed, frame) {
            assert_eq!(keys.chunk_id(&read), claimed.id, "only the hash is believed");
            assert_eq!(Some(&read), content.as_ref());
        }
        let Some(content) = content else { continue };
        let named = ChunkRef { id: keys.chunk_id(&content), ..claimed };
        assert_eq!(opener.open(&named, frame), Ok(content), "by its right name it opens");
    }
    Verdict::Accepted
}

/// A pack in memory.
#[derive(Default)]
struct Shelf(Vec<u8>);

impl PackSink for Shelf {
    type Pack = Vec<u8>;

    fn begin(&mut self, _number: PackNumber) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn finish(&mut self, _: PackNumber, pack: Vec<u8>, summary: PackSummary) -> io::Result<()> {
        assert_eq!(pack.len() as u64, summary.size);
        self.0 = pack;
        Ok(())
    }
}

fn written(keys: &Keys, chunks: &[&[u8]], effort: Effort) -> (Vec<ChunkRef>, Vec<u8>) {
    let mut writer = ContentWriter::new(keys, Known::default(), PackNumber(0), Shelf::default());
    let chunks = chunks.iter().map(|chunk| writer.write_chunk(chunk, effort));
    let chunks = chunks.collect::<io::Result<_>>().expect("memory");
    let (shelf, _, _) = writer.finish().expect("memory");
    (chunks, shelf.0)
}

/// A pack of our own, with the input as its content, and with one of its bytes changed.
fn own(bytes: &[u8]) -> Verdict {
    let Some((&[how, at @ ..], content)) = bytes.split_first_chunk::<3>() else {
        return Verdict::Refused;
    };
    let keys = if how & 1 == 0 { Keys::plain() } else { Keys::sealed(&data_key()) };
    let effort = if how & 2 == 0 { Effort::Fast } else { Effort::Thorough };
    let pieces: Vec<&[u8]> = content.chunks(1 + usize::from(how >> 2) * 16).take(64).collect();
    if pieces.is_empty() {
        return Verdict::Refused;
    }
    let (chunks, mut pack) = written(&keys, &pieces, effort);
    let entries = index(&keys, &pack).expect("what was written is read");
    let mut opener = Opener::new(&keys);
    let place = |chunk: &ChunkRef| IndexEntry {
        id: chunk.id,
        offset: chunk.offset,
        stored: chunk.stored,
        plain: chunk.plain,
    };
    for (chunk, piece) in chunks.iter().zip(&pieces) {
        assert!(entries.contains(&place(chunk)), "the list names each chunk");
        let read = opener.open(chunk, frame(&pack, &place(chunk)));
        assert_eq!(read.as_deref(), Ok(*piece), "what was written is read");
    }
    let at = usize::from(u16::from_le_bytes(at)) % pack.len();
    pack[at] ^= 1 | how;
    for (chunk, piece) in chunks.iter().zip(&pieces) {
        let place = place(chunk);
        if let Ok(read) = opener.open(chunk, frame(&pack, &place)) {
            assert_eq!(read, *piece, "damage is never taken for content");
        } else {
            let spoilt = place.offset as usize..(place.offset + place.stored) as usize;
            assert!(spoilt.contains(&at), "what is whole opens");
        }
    }
    Verdict::Accepted
}

/// References to chunks, one behind the other, and the requests for them.
fn references(bytes: &[u8]) -> Verdict {
    let mut wanted = Vec::new();
    for row in bytes.as_chunks::<{ ChunkRef::ENCODED }>().0 {
        let Ok(chunk) = ChunkRef::decode(row) else { continue };
        assert_eq!(chunk.encode(), *row, "a reference has one form");
        assert!((1..=MAX).contains(&chunk.plain));
        assert!(u64::from(chunk.offset) + u64::from(chunk.stored) <= PACK_MAX);
        wanted.push(chunk);
    }
    let spans = plan(wanted.iter().copied(), Bounds::USUAL);
    for span in &spans {
        assert!(span.range.end - span.range.start <= Bounds::USUAL.most);
        let fetched = vec![0; usize::try_from(span.range.end - span.range.start).unwrap_or(0)];
        for chunk in &span.chunks {
            let frame = span.frame(chunk, &fetched).expect("a request brings what it is for");
            assert_eq!(frame.len(), chunk.stored as usize);
        }
    }
    for chunk in &wanted {
        let count = spans.iter().filter(|span| span.chunks.contains(chunk)).count();
        assert_eq!(count, 1, "each chunk is asked for once");
    }
    if wanted.is_empty() { Verdict::Refused } else { Verdict::Accepted }
}

/// A chunk that is written as a difference to another, both of the input, and with one of its bytes
/// changed.
fn difference(bytes: &[u8]) -> Verdict {
    let Some((&[how, at, length @ ..], content)) = bytes.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    let keys = if how & 1 == 0 { Keys::plain() } else { Keys::sealed(&data_key()) };
    let length = usize::from(u16::from_le_bytes(length)) % (content.len() + 1);
    // Often enough that what it costs to name the base does not decide.
    let (base, plain) = content.split_at(length);
    let (base, plain) = (base.repeat(16), plain.repeat(16));
    if base.is_empty() || plain.is_empty() || base == plain {
        return Verdict::Refused;
    }
    let mut writer = ContentWriter::new(&keys, Known::default(), PackNumber(0), Shelf::default());
    let whole = writer.write_chunk(&base, Effort::Fast).expect("memory");
    let bases = vec![BaseChunk { chunk: Chunk::whole(whole), content: base.clone() }];
    let id = keys.chunk_id(&plain);
    let chunk = writer.add(id, &plain, Effort::Fast, bases).expect("memory");
    let (shelf, known, _) = writer.finish().expect("memory");
    assert_eq!(known.find_chunk(&id).as_ref(), Some(&chunk));
    let place = *chunk.at();
    let mut frame = shelf.0[place.offset as usize..][..place.stored as usize].to_vec();
    let mut opener = Opener::new(&keys);
    if !chunk.is_delta() {
        assert_eq!(opener.open(&place, &frame), Ok(plain), "what was written is read");
        return Verdict::Refused;
    }
    assert_eq!(opener.open_on(&place, &frame, &base).as_ref(), Ok(&plain));
    assert!(opener.open(&place, &frame).is_err(), "it is nothing without its base");
    let at = usize::from(at) % frame.len();
    frame[at] ^= 1 | how;
    if let Ok(read) = opener.open_on(&place, &frame, &base) {
        assert_eq!(read, plain, "damage is never taken for content");
    }
    Verdict::Accepted
}

/// A chunk with what it stands on.
fn told(bytes: &[u8]) -> Verdict {
    let Ok(chunk) = Chunk::decode(bytes) else { return Verdict::Refused };
    let mut again = Vec::new();
    chunk.encode(&mut again);
    assert_eq!(again, bytes, "it has one form");
    let mut count = 0;
    chunk.each(&mut |_| count += 1);
    assert_eq!(count * (1 + ChunkRef::ENCODED), bytes.len());
    assert!(count <= 64, "64 with all that it stands on");
    Verdict::Accepted
}

/// A key in an envelope.
fn envelope(bytes: &[u8]) -> Verdict {
    let Some(bytes) = bytes.first_chunk::<{ Envelope::ENCODED }>() else {
        return Verdict::Refused;
    };
    let envelope = Envelope::decode(bytes);
    assert_eq!(envelope.encode(), *bytes, "an envelope has one form");
    assert!(envelope.open(&MemberSecret::from_bytes([2; 32])).is_none(), "it is for another");
    match envelope.open(&MemberSecret::from_bytes([1; 32])) {
        Some(_) => Verdict::Accepted,
        None => Verdict::Refused,
    }
}

/// One of each.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let keys = Keys::plain();
    let words = b"some words, some words, some words, some words, some words, and an end";
    let (chunks, pack) = written(&keys, &[words, b"noise"], Effort::Fast);
    let references: Vec<u8> = chunks.iter().flat_map(ChunkRef::encode).collect();
    let member = MemberSecret::from_bytes([1; 32]).member();
    let envelope = Envelope::seal(&data_key(), member).encode();
    let mut told = Vec::new();
    let whole = Chunk::whole(chunks[0]);
    Chunk::on(chunks[0], vec![whole.clone(), whole]).expect("lawful").encode(&mut told);
    let noise: Vec<u8> = (0..=255_u8).map(|byte| byte.wrapping_mul(167) ^ (byte >> 3)).collect();
    let like = |how: u8| [&[DIFFERENCE, how, 20, 0, 1][..], &noise, b"other", &noise].concat();
    let own = |how: u8| [&[OWN, how, 20, 0][..], words].concat();
    vec![
        [&[FOREIGN][..], &pack].concat(),
        own(0),
        own(0b101),
        own(0b1_0010),
        [&[REFERENCES][..], &references].concat(),
        [&[ENVELOPE][..], &envelope].concat(),
        like(0),
        like(1),
        [&[TOLD][..], &told].concat(),
    ]
}
