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
    let size = |length| u32::try_from(length).expect("it is small");
    let chunk = ChunkRef {
        id,
        plain: size(plain.len()),
        pack: PackNumber(0),
        offset: 0,
        stored: size(frame.len()),
    };
    (chunk, frame)
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
    let (mut chunk, _) = frame_of(&keys, &[0; 1000], Effort::Fast);
    chunk.stored = u32::try_from(frame.len()).expect("it is small");
    assert_eq!(Opener::new(&keys).open(&chunk, &frame), Err(FrameFault::Size));
}

proptest! {
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
        let (mut chunk, _) = frame_of(&keys, b"content", Effort::Fast);
        chunk.stored = u32::try_from(frame.len()).expect("it is small");
        if let Ok(opened) = Opener::new(&keys).open(&chunk, &frame) {
            prop_assert_eq!(opened, b"content");
        }
    }
}
