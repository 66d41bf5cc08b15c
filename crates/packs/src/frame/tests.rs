use proptest::prelude::*;

use super::*;
use crate::chunk::PackNumber;
use crate::keys::DataKey;

fn key(fill: u8) -> Keys {
    Keys::sealed(&DataKey::from_bytes([fill; 32]))
}

fn frame_of(keys: &Keys, plain: &[u8], effort: Effort) -> (ChunkRef, Vec<u8>) {
    let id = keys.chunk_id(plain);
    let frame = Sealer::new(keys).seal(id, plain, effort);
    (reference(id, plain, &frame), frame)
}

/// The reference to a chunk that lies first in its pack.
fn reference(id: ChunkId, plain: &[u8], frame: &[u8]) -> ChunkRef {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("it is small");
    let (plain, stored) = (size(plain), size(frame));
    ChunkRef { id, plain, pack: PackNumber(0), offset: 0, stored }
}

/// Bytes that no compressor shrinks.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_chunk_comes_back_from_its_frame() {
    for keys in [Keys::plain(), key(7)] {
        for plain in [
            vec![1],
            b"words, words, words".repeat(5000),
            noise(MAX as usize),
            vec![0; MAX as usize],
        ] {
            for effort in [Effort::Fast, Effort::Thorough] {
                let (chunk, frame) = frame_of(&keys, &plain, effort);
                assert!(chunk.stored <= FRAME_MAX, "{} bytes", chunk.stored);
                let opened = Opener::new(&keys).open(&chunk, &frame);
                assert_eq!(opened.as_deref(), Ok(plain.as_slice()), "{keys:?} {effort:?}");
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_left_as_it_is() {
    let keys = Keys::plain();
    let (_, frame) = frame_of(&keys, &noise(100_000), Effort::Fast);
    assert_eq!((frame[0], frame.len()), (RAW, 100_001));
    let (_, frame) = frame_of(&keys, &b"words ".repeat(20_000), Effort::Fast);
    assert_eq!(frame[0], ZSTD);
    assert!(frame.len() < 2_000, "{}", frame.len());
}

#[test]
fn equal_content_has_equal_frames_and_another_key_has_others() {
    let plain = b"content".repeat(100);
    let (one, first) = frame_of(&key(1), &plain, Effort::Fast);
    let (again, second) = frame_of(&key(1), &plain, Effort::Fast);
    assert_eq!((one, &first), (again, &second));
    let (other, third) = frame_of(&key(2), &plain, Effort::Fast);
    assert!(other.id != one.id && third != first);
    assert_ne!(frame_of(&Keys::plain(), &plain, Effort::Fast).0.id, one.id);
}

#[test]
fn nonces_differ_with_the_body_and_with_the_chunk() {
    let keys = key(3);
    let sealing = keys.sealing.as_ref().expect("it seals");
    let nonce = |context: &[u8], body: &[u8]| sealed(sealing, context, body)[..NONCE].to_vec();
    assert_ne!(nonce(b"one", b"body"), nonce(b"one", b"bodies"));
    assert_ne!(nonce(b"one", b"body"), nonce(b"two", b"body"));
    // Where the context ends is part of it.
    assert_ne!(nonce(b"oneb", b"ody"), nonce(b"one", b"body"));
}

#[test]
fn a_frame_is_refused_in_any_place_but_its_own() {
    let plain = b"content".repeat(100);
    let (mine, frame) = frame_of(&key(1), &plain, Effort::Fast);
    let (theirs, _) = frame_of(&key(1), &b"contents".repeat(100), Effort::Fast);
    let keys = key(1);
    let mut opener = Opener::new(&keys);
    let open = |opener: &mut Opener, chunk| opener.open(&chunk, &frame);
    let swapped = ChunkRef { id: theirs.id, ..mine };
    assert_eq!(open(&mut opener, swapped), Err(FrameFault::Seal));
    assert_eq!(open(&mut opener, ChunkRef { plain: 699, ..mine }), Err(FrameFault::Size));
    assert_eq!(open(&mut opener, ChunkRef { plain: 701, ..mine }), Err(FrameFault::Size));
    assert_eq!(open(&mut opener, ChunkRef { stored: 5, ..mine }), Err(FrameFault::Length));
    let wrong = key(2);
    assert_eq!(Opener::new(&wrong).open(&mine, &frame), Err(FrameFault::Seal));

    let keys = Keys::plain();
    let (mine, frame) = frame_of(&keys, &plain, Effort::Fast);
    let other = ChunkRef { id: theirs.id, ..mine };
    assert_eq!(Opener::new(&keys).open(&other, &frame), Err(FrameFault::Content));
    let mut strange = frame.clone();
    strange[0] = 9;
    assert_eq!(Opener::new(&keys).open(&mine, &strange), Err(FrameFault::Encoding));
    let empty = ChunkRef { stored: 0, ..mine };
    assert_eq!(Opener::new(&keys).open(&empty, &[]), Err(FrameFault::Encoding));
}

#[test]
fn a_bomb_takes_no_more_than_its_reference_says() {
    let keys = Keys::plain();
    let bomb = zstd::bulk::compress(&vec![0; 1 << 26], 3).expect("compresses");
    let mut frame = vec![ZSTD];
    frame.extend_from_slice(&bomb);
    let chunk = reference(keys.chunk_id(&[0; 1000]), &[0; 1000], &frame);
    assert_eq!(Opener::new(&keys).open(&chunk, &frame), Err(FrameFault::Size));
}

/// A frame on a base, and the reference to it.
fn delta_of(keys: &Keys, plain: &[u8], base: &[u8]) -> (ChunkRef, Vec<u8>, Standing) {
    let id = keys.chunk_id(plain);
    let (frame, standing) = Sealer::new(keys).seal_on(id, plain, Effort::Fast, base, 98);
    (reference(id, plain, &frame), frame, standing)
}

#[test]
fn a_chunk_that_is_like_another_is_written_as_what_differs() {
    let base = noise(MAX as usize);
    let mut plain = base[10_000..200_000].to_vec();
    plain[50_000..54_096].copy_from_slice(&base[..4_096]);
    plain[70_000] ^= 1;
    plain.insert(3, 7);
    for keys in [Keys::plain(), key(7)] {
        let (chunk, frame, standing) = delta_of(&keys, &plain, &base);
        assert_eq!(standing, Standing::OnBase);
        assert!(frame.len() < 300, "{} bytes", frame.len());
        let mut opener = Opener::new(&keys);
        assert_eq!(opener.open_on(&chunk, &frame, &base).as_deref(), Ok(plain.as_slice()));
        assert_eq!(opener.open(&chunk, &frame), Err(FrameFault::Bases));
        // On another base it is another content, or none.
        let mut other = base.clone();
        other[100_000] ^= 1;
        let refused = opener.open_on(&chunk, &frame, &other).expect_err("another base");
        assert!(matches!(refused, FrameFault::Content | FrameFault::Size), "{refused:?}");
        assert!(opener.open_on(&chunk, &frame, &[]).is_err());
        let (whole, frame) = frame_of(&keys, &plain, Effort::Fast);
        assert_eq!(opener.open_on(&whole, &frame, &base), Err(FrameFault::Bases));
    }
}

#[test]
fn a_chunk_is_written_whole_unless_that_is_twice_as_much() {
    let keys = Keys::plain();
    let base = noise(100_000);
    let with_new = |bytes: usize| {
        let mut plain = base.clone();
        let new: Vec<u8> = noise(200_000)[100_000..100_000 + bytes].to_vec();
        plain[..bytes].copy_from_slice(&new);
        delta_of(&keys, &plain, &base)
    };
    assert_eq!(with_new(49_000).2, Standing::OnBase);
    let (chunk, frame, standing) = with_new(51_000);
    assert_eq!((standing, frame.len()), (Standing::Alone, 100_001));
    assert!(Opener::new(&keys).open(&chunk, &frame).is_ok());
    // What the names of its bases take counts.
    let few = b"few words, ".repeat(20);
    assert_eq!(delta_of(&keys, &few, &few).2, Standing::Alone);
}

/// Another version of the compressor may write other bytes; these must be read for ever.
#[test]
fn a_difference_written_down_is_read() {
    let keys = Keys::plain();
    let base = noise(40_000);
    let mut plain = base.clone();
    plain[20_000..20_005].copy_from_slice(b"belay");
    let golden = "0228b52ffd60409b8d00002062656c610200190ed8a9c319e2ec0308";
    let frame = data_encoding::HEXLOWER.decode(golden.as_bytes()).expect("it is hex");
    let chunk = reference(keys.chunk_id(&plain), &plain, &frame);
    assert_eq!(Opener::new(&keys).open_on(&chunk, &frame, &base), Ok(plain));
}

#[test]
fn a_difference_that_is_a_bomb_takes_no_more_than_its_reference_says() {
    let keys = Keys::plain();
    let mut frame = vec![DELTA];
    frame.extend(delta(&vec![0; 1 << 26], &[0; 1000]).expect("compresses"));
    let chunk = reference(keys.chunk_id(&[0; 1000]), &[0; 1000], &frame);
    assert_eq!(Opener::new(&keys).open_on(&chunk, &frame, &[0; 1000]), Err(FrameFault::Size));
}

proptest! {
    #[test]
    fn no_change_of_a_difference_goes_unseen(
        plain in proptest::collection::vec(0_u8..4, 1..3000),
        base in proptest::collection::vec(0_u8..4, 0..3000),
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
        sealed in any::<bool>(),
    ) {
        let keys = if sealed { key(5) } else { Keys::plain() };
        let id = keys.chunk_id(&plain);
        let mut frame = vec![DELTA];
        frame.extend(delta(&plain, &base).expect("compresses"));
        if let Some(sealing) = &keys.sealing {
            frame = super::sealed(sealing, id.as_bytes(), &frame);
        }
        let chunk = reference(id, &plain, &frame);
        prop_assert_eq!(Opener::new(&keys).open_on(&chunk, &frame, &base), Ok(plain.clone()));
        let at = at.index(frame.len());
        frame[at] ^= flip;
        if let Ok(opened) = Opener::new(&keys).open_on(&chunk, &frame, &base) {
            prop_assert!(!sealed);
            prop_assert_eq!(opened, plain);
        }
    }

    #[test]
    fn no_change_of_a_frame_goes_unseen(
        plain in proptest::collection::vec(0_u8..4, 1..3000),
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
        sealed in any::<bool>(),
    ) {
        let keys = if sealed { key(5) } else { Keys::plain() };
        let (chunk, mut frame) = frame_of(&keys, &plain, Effort::Fast);
        let at = at.index(frame.len());
        frame[at] ^= flip;
        // Compressed bytes may be written in more than one way; the content may not.
        if let Ok(opened) = Opener::new(&keys).open(&chunk, &frame) {
            prop_assert!(!sealed);
            prop_assert_eq!(opened, plain);
        }
    }

    #[test]
    fn no_bytes_open_to_anything_but_the_chunk(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        sealed in any::<bool>(),
    ) {
        let keys = if sealed { key(5) } else { Keys::plain() };
        let chunk = reference(keys.chunk_id(b"content"), b"content", &frame);
        if let Ok(opened) = Opener::new(&keys).open(&chunk, &frame) {
            prop_assert_eq!(opened, b"content");
        }
    }
}
