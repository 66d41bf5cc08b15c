use proptest::prelude::*;

use super::*;
use crate::keys::DataKey;

fn sealed_keys() -> Keys {
    Keys::sealed(&DataKey::from_bytes([9; 32]))
}

fn id(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

/// A pack of frames with these lengths.
fn pack(keys: &Keys, frames: &[usize]) -> (Vec<u8>, PackSummary, Vec<u32>) {
    let mut builder = PackBuilder::begin(Vec::new()).expect("memory");
    let mut offsets = Vec::new();
    for (number, length) in (0..).zip(frames) {
        offsets.push(builder.append(id(number), &vec![number; *length], 77).expect("memory"));
    }
    let (bytes, summary) = builder.finish(keys).expect("memory");
    (bytes, summary, offsets)
}

fn list(keys: &Keys, bytes: &[u8]) -> Result<Vec<IndexEntry>, PackFault> {
    let end = bytes.last_chunk().ok_or(PackFault::Tail)?;
    let span = index_span(bytes.len() as u64, end)?;
    let place = |at: u64| usize::try_from(at).expect("it is small");
    read_index(keys, &span, &bytes[place(span.start)..place(span.end)])
}

#[test]
fn a_pack_lists_what_it_holds() {
    for keys in [Keys::plain(), sealed_keys()] {
        let (bytes, summary, offsets) = pack(&keys, &[100, 1, 3000]);
        assert_eq!((summary.size, summary.chunks), (bytes.len() as u64, 3));
        assert_eq!(summary.id, Cid::from_digest(*blake3::hash(&bytes).as_bytes()));
        let found = list(&keys, &bytes).expect("it is whole");
        let expected: Vec<_> = (0..)
            .zip(&offsets)
            .zip([100, 1, 3000])
            .map(|((number, &offset), stored)| IndexEntry {
                id: id(number),
                offset,
                stored,
                plain: 77,
            })
            .collect();
        assert_eq!(found, expected);
        for entry in &found {
            let from = entry.offset as usize;
            let frame = &bytes[from..from + entry.stored as usize];
            assert!(frame.iter().all(|byte| *byte == entry.id.as_bytes()[0]));
        }
    }
}

#[test]
fn an_empty_pack_is_a_pack() {
    let (bytes, _, _) = pack(&Keys::plain(), &[]);
    assert_eq!(bytes, b"belay pack 1\n\0\0\0\0packlist");
    assert_eq!(list(&Keys::plain(), &bytes), Ok(vec![]));
}

#[test]
fn overhead_is_what_a_pack_has_beyond_its_frames() {
    let (bytes, _, _) = pack(&sealed_keys(), &[10, 20]);
    assert_eq!(bytes.len() as u64, overhead(2) + 30);
}

#[test]
fn a_list_that_does_not_describe_its_pack_is_refused() {
    let keys = Keys::plain();
    let (bytes, _, _) = pack(&keys, &[100, 200]);
    let at = bytes.len() - 12 - 2 * ENTRY;
    let with = |place: usize, number: u32| {
        let mut bytes = bytes.clone();
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
        list(&keys, &bytes)
    };
    let length = bytes.len() - 12;
    for (place, number) in [
        (at + 32, 99),
        (at + 32, 0),
        (at + 32, u32::MAX),
        (at + 36, 0),
        (at + 36, u32::MAX),
        (at + ENTRY + 32, 201),
        (length, 40),
        (length, 79),
        (length, 0),
    ] {
        assert_eq!(with(place, number), Err(PackFault::List), "{number} at {place}");
    }
    assert_eq!(with(length, u32::MAX), Err(PackFault::Tail));
    assert_eq!(with(length + 4, 1), Err(PackFault::Tail));
    assert_eq!(list(&sealed_keys(), &bytes), Err(PackFault::Seal));
    let end = bytes.last_chunk().expect("it is long enough");
    assert_eq!(index_span(PACK_MAX + 1, end), Err(PackFault::Tail));
    assert_eq!(index_span(12, end), Err(PackFault::Tail));
}

proptest! {
    #[test]
    fn a_pack_that_was_cut_or_changed_never_lists_what_lies_outside(
        frames in proptest::collection::vec(1_usize..50, 0..6),
        cut in any::<proptest::sample::Index>(),
        flip in proptest::option::of((any::<proptest::sample::Index>(), 1_u8..)),
        sealed in any::<bool>(),
    ) {
        let keys = if sealed { sealed_keys() } else { Keys::plain() };
        let (mut bytes, _, _) = pack(&keys, &frames);
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Some((at, flip)) = flip {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Ok(found) = list(&keys, &bytes) {
            for entry in found {
                let end = entry.offset as usize + entry.stored as usize;
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
