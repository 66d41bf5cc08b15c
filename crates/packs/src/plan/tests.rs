use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::chunk::ChunkId;

fn chunk(pack: u32, offset: u32, stored: u32) -> ChunkRef {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&pack.to_le_bytes());
    id[4..8].copy_from_slice(&offset.to_le_bytes());
    ChunkRef { id: ChunkId::from_bytes(id), plain: 1, pack: PackNumber(pack), offset, stored }
}

#[test]
fn neighbours_travel_together_up_to_a_bound_and_strangers_apart() {
    let bounds = Bounds { gap: 10, most: 100 };
    let spans = plan(
        [chunk(1, 0, 20), chunk(0, 50, 5), chunk(1, 30, 20), chunk(1, 61, 5), chunk(1, 20, 10)],
        bounds,
    );
    let ranges: Vec<_> = spans.iter().map(|it| (it.pack.0, it.range.clone())).collect();
    assert_eq!(ranges, [(0, 50..55), (1, 0..50), (1, 61..66)]);
    let large = plan([chunk(0, 0, 60), chunk(0, 60, 40), chunk(0, 100, 1)], bounds);
    let ranges: Vec<_> = large.iter().map(|it| it.range.clone()).collect();
    assert_eq!(ranges, [0..100, 100..101]);
    assert_eq!(plan([chunk(0, 0, 500)], bounds)[0].range, 0..500, "one frame is one request");
    assert_eq!(plan([], bounds), []);
}

#[test]
fn a_frame_is_found_in_what_was_fetched() {
    let spans = plan([chunk(0, 100, 3), chunk(0, 105, 2)], Bounds { gap: 10, most: 100 });
    let fetched = b"abc--de";
    assert_eq!(spans[0].frame(&spans[0].chunks[1], fetched), Some(&b"de"[..]));
    assert_eq!(spans[0].frame(&spans[0].chunks[1], &fetched[..6]), None);
    assert_eq!(spans[0].frame(&chunk(0, 99, 3), fetched), None);
}

proptest! {
    #[test]
    fn each_chunk_is_asked_for_once_and_no_request_is_too_large(
        wanted in proptest::collection::vec((0_u32..3, 0_u32..2000, 1_u32..60), 0..60),
        gap in 0_u64..100,
        most in 1_u64..300,
    ) {
        let wanted: Vec<_> = wanted.into_iter().map(|(p, o, s)| chunk(p, o, s)).collect();
        let spans = plan(wanted.iter().copied(), Bounds { gap, most });
        let mut met = Vec::new();
        for span in &spans {
            let first = &span.chunks[0];
            prop_assert_eq!(span.range.start, u64::from(first.offset));
            let size = span.range.end - span.range.start;
            prop_assert!(size <= most || span.chunks.len() == 1);
            let mut reached = span.range.start;
            for chunk in &span.chunks {
                prop_assert_eq!(chunk.pack, span.pack);
                prop_assert!(u64::from(chunk.offset) <= reached + gap);
                reached = reached.max(u64::from(chunk.offset) + u64::from(chunk.stored));
                met.push(*chunk);
            }
            prop_assert_eq!(reached, span.range.end);
        }
        let unique: HashSet<_> = wanted.into_iter().collect();
        prop_assert_eq!(met.len(), unique.len());
        prop_assert_eq!(met.into_iter().collect::<HashSet<_>>(), unique);
    }
}
