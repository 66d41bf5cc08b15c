use proptest::prelude::*;

use super::*;
use crate::chunk::{ChunkId, PackNumber};

fn at(seed: u8, plain: u32) -> ChunkRef {
    let id = ChunkId::from_bytes([seed; 32]);
    ChunkRef { id, plain, pack: PackNumber(u32::from(seed)), offset: 13, stored: 9 }
}

fn whole(seed: u8, plain: u32) -> Chunk {
    Chunk::whole(at(seed, plain))
}

fn encoded(chunk: &Chunk) -> Vec<u8> {
    let mut bytes = Vec::new();
    chunk.encode(&mut bytes);
    bytes
}

/// A delta on a delta and on a whole chunk.
fn sample() -> Chunk {
    let below = Chunk::on(at(2, 100), vec![whole(1, 100)]).expect("lawful");
    Chunk::on(at(4, 100), vec![below, whole(3, 50)]).expect("lawful")
}

#[test]
fn a_chunk_has_the_bytes_written_down() {
    let step = |count: &str, seed: &str, plain: &str| {
        [count, &seed.repeat(32), plain, seed, "000000", "0d000000", "09000000"].concat()
    };
    let golden = [
        step("00", "01", "64000000"),
        step("01", "02", "64000000"),
        step("00", "03", "32000000"),
        step("02", "04", "64000000"),
    ];
    let bytes = encoded(&sample());
    assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden.concat());
    assert_eq!(Chunk::naming(sample().bases()), bytes.len() - 49);
    assert_eq!(Chunk::decode(&bytes), Ok(sample()));
    assert_eq!(Chunk::decode(&encoded(&whole(1, 1))), Ok(whole(1, 1)));
    let mut met = Vec::new();
    sample().each(&mut |at| met.push(at.id.as_bytes()[0]));
    assert_eq!(met, [4, 2, 1, 3]);
}

#[test]
fn what_would_take_a_reader_too_much_is_refused() {
    let chain = |length: u8| {
        (1..=length).try_fold(whole(0, 10), |below, seed| Chunk::on(at(seed, 10), vec![below]))
    };
    assert!(chain(DEPTH_MAX).is_ok());
    assert_eq!(chain(DEPTH_MAX + 1), Err(DeltaFault::Depth));
    let wide = |count: usize| Chunk::on(at(9, 10), vec![whole(1, 10); count]);
    assert!(wide(BASES_MAX).is_ok());
    assert_eq!(wide(BASES_MAX + 1), Err(DeltaFault::Bases));
    // Within the bound of each, and yet a crowd.
    let many = Chunk::on(at(9, 10), vec![whole(1, 1); 8]).expect("lawful");
    assert_eq!(Chunk::on(at(9, 100), vec![many; 8]), Err(DeltaFault::Bases));
    assert!(Chunk::on(at(9, 10), vec![whole(1, 160)]).is_ok());
    assert_eq!(Chunk::on(at(9, 10), vec![whole(1, 161)]), Err(DeltaFault::Weight));
    // What lies below a base counts too.
    let heavy = Chunk::on(at(2, 100), vec![whole(1, 100)]).expect("lawful");
    assert_eq!(Chunk::on(at(9, 10), vec![heavy]), Err(DeltaFault::Weight));
}

#[test]
fn what_is_no_chunk_with_all_that_it_stands_on_is_refused() {
    let shape = Err(DeltaFault::Shape);
    let bytes = encoded(&sample());
    assert_eq!(Chunk::decode(&[]), shape);
    assert_eq!(Chunk::decode(&bytes[1..]), shape);
    // One that nothing stands on, and one that stands on more than there are before it.
    assert_eq!(Chunk::decode(&bytes[..2 * 49 + 49]), shape);
    let mut more = bytes.clone();
    more[49] = 2;
    assert_eq!(Chunk::decode(&more), shape);
    let mut long = encoded(&whole(1, 1)).repeat(BELOW_MAX + 2);
    assert_eq!(Chunk::decode(&long), shape);
    long.truncate(Chunk::ENCODED_MAX);
    assert_eq!(Chunk::decode(&long), shape);
    let mut size = bytes;
    size[33..37].fill(0xff);
    assert_eq!(Chunk::decode(&size), Err(DeltaFault::Reference(RefFault)));
}

proptest! {
    #[test]
    fn what_is_read_keeps_the_bounds_and_has_one_form(
        steps in proptest::collection::vec((0_u8..4, 1_u8..4, 1_u32..200), 1..80),
    ) {
        let mut bytes = Vec::new();
        for (count, seed, plain) in steps {
            bytes.push(count);
            bytes.extend_from_slice(&at(seed, plain).encode());
        }
        if let Ok(chunk) = Chunk::decode(&bytes) {
            let (mut count, mut weight) = (0, 0);
            chunk.each(&mut |at| {
                count += 1;
                weight += u64::from(at.plain);
            });
            let own = u64::from(chunk.at().plain);
            prop_assert!(count <= BELOW_MAX + 1 && weight - own <= WEIGHT_MAX * own);
            prop_assert_eq!(encoded(&chunk), bytes);
        }
    }
}
