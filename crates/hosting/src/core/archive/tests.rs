use proptest::prelude::*;

use super::*;
use crate::core::manifest::tests::manifest;

const SALTED: [u8; SALT] = [7; SALT];

fn key() -> TravelKey {
    TravelKey::parse(&"ab".repeat(32)).expect("64 digits")
}

fn head(name: &str, bytes: usize) -> FileHead {
    FileHead { part: Part::Image, name: name.into(), bytes: bytes as u64 }
}

fn written(files: &[(&str, &[u8])], passage: &[u8]) -> Vec<u8> {
    let (mut sealer, mut bytes) = Sealer::begin(&key(), SALTED, &manifest());
    for (name, content) in files {
        bytes.extend(sealer.file(&head(name, content.len())));
        for piece in content.chunks(PIECE) {
            bytes.extend(sealer.data(piece));
        }
    }
    bytes.extend(sealer.end(passage));
    bytes
}

fn read_in_pieces(bytes: &[u8], piece: usize) -> Result<Vec<Item>, ArchiveError> {
    let mut opener = Opener::new(key());
    let mut items = Vec::new();
    for piece in bytes.chunks(piece) {
        opener.push(piece)?;
        while let Some(item) = opener.take_item()? {
            items.push(item);
        }
    }
    opener.finish()?;
    Ok(items)
}

#[test]
fn what_is_written_is_read_in_pieces_of_any_size() {
    let large = vec![3; PIECE + 9];
    let bytes = written(&[("a.img", b"one"), ("empty", b""), ("b.img", &large)], b"the run");
    let expected = [
        Item::Manifest(Box::new(manifest())),
        Item::File(head("a.img", 3)),
        Item::Data(b"one".to_vec()),
        Item::File(head("empty", 0)),
        Item::File(head("b.img", large.len())),
        Item::Data(large[..PIECE].to_vec()),
        Item::Data(large[PIECE..].to_vec()),
        Item::Passage(b"the run".to_vec()),
        Item::End,
    ];
    for piece in [1 << 20, 4096, 100] {
        assert_eq!(read_in_pieces(&bytes, piece).expect("reads"), expected);
    }
}

#[test]
fn nothing_of_it_is_in_clear() {
    let bytes = written(&[("a.img", b"a secret in memory")], b"a payload");
    for words in [&b"secret"[..], b"payload", b"work", b"a.img"] {
        assert!(!bytes.windows(words.len()).any(|found| found == words));
    }
}

#[test]
fn what_is_no_archive_of_ours_is_refused_by_name() {
    let refused = |bytes: &[u8]| read_in_pieces(bytes, 64).expect_err("refused").to_string();
    assert_eq!(refused(b"nonsense"), "it is no archive of a checkpoint");
    assert_eq!(refused(b"belay checkpoint"), "it is no archive of a checkpoint");
    assert_eq!(
        refused(b"belay checkpoint archive 2\nand so on"),
        "it is an archive of version 2, and this belayd reads version 1"
    );
    let endless = [NAME, &[b'1'; 100]].concat();
    assert_eq!(refused(&endless), "it is no archive of a checkpoint");
    let mut after = written(&[], b"x");
    after.push(0);
    assert_eq!(refused(&after), "something follows its end");
    let large = [b"belay checkpoint archive 1\n".as_slice(), &SALTED, &[0xff; 4]].concat();
    assert!(refused(&large).contains("does not open"), "an endless frame is not waited for");
}

#[test]
fn another_key_opens_nothing() {
    let mut opener = Opener::new(TravelKey::parse(&"cd".repeat(32)).expect("64 digits"));
    opener.push(&written(&[], b"x")).expect("taken in");
    let refused = opener.take_item().expect_err("it does not open").to_string();
    assert!(refused.contains("this node's travel key"), "{refused}");
    assert!(TravelKey::parse("abc").is_none() && TravelKey::parse(&"zz".repeat(32)).is_none());
}

#[test]
fn a_name_that_leaves_the_directory_is_none() {
    for name in ["", ".", "..", "../a", "a/b", "/a", ".hidden", "a\0", "ä", &"x".repeat(129)] {
        let bytes = written(&[(name, b"1")], b"x");
        let refused = read_in_pieces(&bytes, 4096).expect_err(name).to_string();
        assert_eq!(refused, "a file in it has a name that none has", "{name:?}");
    }
}

#[test]
fn parts_out_of_their_order_are_refused() {
    let (mut sealer, mut bytes) = Sealer::begin(&key(), SALTED, &manifest());
    bytes.extend(sealer.file(&head("a", 2)));
    bytes.extend(sealer.data(b"1"));
    bytes.extend(sealer.end(b"x"));
    let refused = read_in_pieces(&bytes, 4096).expect_err("a file is cut short").to_string();
    assert_eq!(refused, "its parts are not in their order");
    let (mut sealer, mut bytes) = Sealer::begin(&key(), SALTED, &manifest());
    bytes.extend(sealer.data(b"1"));
    assert!(read_in_pieces(&bytes, 4096).is_err(), "content of no file");
    let (sealer, mut bytes) = Sealer::begin(&key(), SALTED, &manifest());
    bytes.extend(sealer.end(b""));
    assert!(read_in_pieces(&bytes, 4096).is_err(), "nothing is known of the run");
}

proptest! {
    #[test]
    fn whatever_is_cut_off_or_changed_it_is_not_taken(
        at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<bool>(),
    ) {
        let mut bytes = written(&[("a.img", b"one"), ("b.img", b"two")], b"the run");
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= flip;
        }
        let read = read_in_pieces(&bytes, 333);
        prop_assert!(read.is_err(), "{at}: {read:?}");
    }

    #[test]
    fn nothing_makes_it_panic_or_keep_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let begins = [b"belay checkpoint archive 1\n".as_slice(), &SALTED, &bytes].concat();
        let _ = read_in_pieces(&begins, 50);
        let _ = read_in_pieces(&bytes, 50);
    }
}
