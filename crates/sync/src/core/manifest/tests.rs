use proptest::prelude::*;

use super::*;
use belay_packs::{ChunkId, DeltaFault, PackNumber};

fn member(path: &str, body: Body) -> Member {
    let mtime = Mtime { seconds: -1, nanos: 7 };
    Member {
        path: path.into(),
        mode: 0o640,
        owner: Owner::default(),
        mtime,
        xattrs: BTreeMap::new(),
        body,
    }
}

fn at(seed: u8, plain: u32) -> ChunkRef {
    let id = ChunkId::from_bytes([seed; 32]);
    ChunkRef { id, plain, pack: PackNumber(2), offset: 13, stored: 9 }
}

fn chunk(plain: u32) -> Chunk {
    Chunk::whole(at(7, plain))
}

fn delta(plain: u32) -> Chunk {
    Chunk::on(at(8, plain), vec![chunk(plain)]).expect("lawful")
}

fn tree() -> Vec<Record> {
    let mut noted = member("app/f", Body::File { size: (1 << 20) + 5 });
    noted.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
    noted.xattrs.insert(b"user.b".to_vec(), Vec::new());
    vec![
        Record::Entry(member("app", Body::Directory)),
        Record::Entry(member("app/empty", Body::File { size: 0 })),
        Record::End([1; 32]),
        Record::Entry(noted),
        Record::Hole((1 << 20) - 3),
        Record::Chunk(chunk(5)),
        Record::Chunk(delta(3)),
        Record::End([2; 32]),
        Record::Entry(member("app/hard", Body::HardLink { to: b"app/f".to_vec() })),
        Record::Entry(owned("app/mine", Some(70), Some(u32::MAX - 1))),
        Record::Entry(owned("app/ours", None, Some(0))),
        Record::Entry(member("app/soft", Body::Symlink { target: b"../x".to_vec() })),
    ]
}

fn owned(path: &str, user: Option<u32>, group: Option<u32>) -> Member {
    Member { owner: Owner { user, group }, mode: 0o2770, ..member(path, Body::Directory) }
}

fn encoded(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        encode(record, &mut bytes);
    }
    bytes
}

fn decoded(mut bytes: &[u8]) -> Result<Vec<Record>, ManifestFault> {
    let mut records = Vec::new();
    let mut sequence = Sequence::default();
    while let Some((&kind, rest)) = bytes.split_first() {
        bytes = rest;
        let length = match body_length(Version::Two, kind)? {
            BodyLength::Fixed(length) => length,
            BodyLength::Told { most } => {
                let told = take(&mut bytes, 4).ok_or(ManifestFault::Truncated)?;
                let length = u32::from_le_bytes(told.try_into().expect("four bytes"));
                if length > most {
                    return Err(ManifestFault::TooLarge { length, most });
                }
                length as usize
            }
        };
        let body = take(&mut bytes, length).ok_or(ManifestFault::Truncated)?;
        let record = decode(kind, body)?;
        sequence.admit(&record)?;
        records.push(record);
    }
    sequence.finish()?;
    Ok(records)
}

#[test]
fn a_manifest_comes_back_as_it_was() {
    assert_eq!(decoded(&encoded(&tree())), Ok(tree()));
}

#[test]
fn an_entry_has_the_bytes_written_down() {
    let mut noted = member("a/b", Body::File { size: 3 });
    noted.xattrs.insert(b"user.n".to_vec(), b"v".to_vec());
    let records = [
        Record::Entry(noted),
        Record::Chunk(chunk(3)),
        Record::Chunk(delta(4)),
        Record::End([0xee; 32]),
    ];
    let golden = [
        "01",
        "2f000000",
        "02",
        "a0010000",
        "ffffffffffffffff",
        "07000000",
        "03000000",
        "612f62",
        "0300000000000000",
        "06000000",
        "757365722e6e",
        "01000000",
        "76",
        "02",
        "0707070707070707070707070707070707070707070707070707070707070707",
        "03000000",
        "02000000",
        "0d000000",
        "09000000",
        "05",
        "62000000",
        "00",
        "0707070707070707070707070707070707070707070707070707070707070707",
        "04000000",
        "02000000",
        "0d000000",
        "09000000",
        "01",
        "0808080808080808080808080808080808080808080808080808080808080808",
        "04000000",
        "02000000",
        "0d000000",
        "09000000",
        "04",
        "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
    ];
    assert_eq!(data_encoding::HEXLOWER.encode(&encoded(&records)), golden.concat());
}

#[test]
fn an_entry_of_another_owner_has_the_bytes_written_down() {
    let rest = ["01", "f8050000", "ffffffffffffffff", "07000000", "01000000", "61"].concat();
    for (user, group, golden) in [
        (Some(70), None, ["06", "1b000000", "01", "46000000"].concat()),
        (None, Some(0), ["06", "1b000000", "02", "00000000"].concat()),
        (Some(70), Some(0), ["06", "1f000000", "03", "46000000", "00000000"].concat()),
        (None, None, ["01", "16000000"].concat()),
    ] {
        let bytes = encoded(&[Record::Entry(owned("a", user, group))]);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden + &rest);
    }
}

#[test]
fn an_owner_has_one_form() {
    let lawful = encoded(&[Record::Entry(owned("a", Some(70), None))]);
    assert!(decoded(&lawful).is_ok());
    for which in [0, 4, 5, 0xff] {
        let mut bytes = lawful.clone();
        bytes[5] = which;
        assert_eq!(decoded(&bytes), Err(ManifestFault::Damaged), "{which}");
    }
    let nobody = decode(6, &[]);
    assert_eq!(nobody, Err(ManifestFault::Damaged));
    assert_eq!(decode(6, &[1, 0, 0]), Err(ManifestFault::Damaged));
}

#[test]
fn pieces_that_are_not_of_a_file_or_not_as_long_are_refused() {
    let file = |size| Record::Entry(member("f", Body::File { size }));
    let end = Record::End([0; 32]);
    for (records, fault) in [
        (vec![Record::Chunk(chunk(1))], ManifestFault::Place),
        (vec![end.clone()], ManifestFault::Place),
        (vec![Record::Entry(member("d", Body::Directory)), Record::Hole(1)], ManifestFault::Place),
        (vec![file(2), file(2)], ManifestFault::Place),
        (vec![file(2), Record::Chunk(chunk(3))], ManifestFault::Size),
        (vec![file(2), Record::Chunk(chunk(1)), end.clone()], ManifestFault::Size),
        (vec![file(2), Record::Hole(u64::MAX)], ManifestFault::Size),
        (vec![file(2), Record::Hole(0)], ManifestFault::Size),
        (vec![file(2), Record::Chunk(chunk(2))], ManifestFault::Truncated),
        (vec![file(0)], ManifestFault::Truncated),
    ] {
        assert_eq!(decoded(&encoded(&records)), Err(fault), "{records:?}");
    }
}

#[test]
fn what_is_no_record_is_refused_before_it_takes_memory() {
    assert_eq!(decoded(&[9]), Err(ManifestFault::Kind { kind: 9 }));
    assert_eq!(
        decoded(&[1, 0xff, 0xff, 0xff, 0xff]),
        Err(ManifestFault::TooLarge { length: u32::MAX, most: 204_862 })
    );
    // A chunk has no more below it than 63 others.
    assert_eq!(
        decoded(&[5, 0x41, 0x0c, 0, 0]),
        Err(ManifestFault::TooLarge { length: 64 * 49 + 1, most: 64 * 49 })
    );
    // Attributes in another order, or twice, would give one entry two forms.
    let mut twice = encoded(&[Record::Entry(member("d", Body::Directory))]);
    for _ in 0..2 {
        put(b"user.a", &mut twice);
        put(b"", &mut twice);
    }
    let length = u32::try_from(twice.len() - 5).expect("small");
    twice[1..5].copy_from_slice(&length.to_le_bytes());
    assert_eq!(decoded(&twice), Err(ManifestFault::Damaged));
}

/// A file of 4 bytes in one chunk with this body.
fn with_delta(body: &[u8]) -> Result<Vec<Record>, ManifestFault> {
    let mut bytes = encoded(&[Record::Entry(member("f", Body::File { size: 4 }))]);
    bytes.push(5);
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("small").to_le_bytes());
    bytes.extend_from_slice(body);
    encode(&Record::End([0; 32]), &mut bytes);
    decoded(&bytes)
}

#[test]
fn a_chunk_that_no_reader_puts_together_is_refused_by_name() {
    let body = |chunk: &Chunk| {
        let mut body = Vec::new();
        chunk.encode(&mut body);
        body
    };
    let lawful = body(&delta(4));
    assert!(with_delta(&lawful).is_ok());
    assert_eq!(with_delta(&body(&chunk(4))), Err(ManifestFault::Damaged), "it has one form");
    let fault = |fault| Err(ManifestFault::Delta(fault));
    assert_eq!(with_delta(&lawful[49..]), fault(DeltaFault::Shape), "it stands on nothing");
    assert_eq!(with_delta(&[]), fault(DeltaFault::Shape));
    let mut deep = body(&chunk(4));
    for seed in 0..5 {
        deep.push(1);
        deep.extend_from_slice(&at(seed, 4).encode());
    }
    assert_eq!(with_delta(&deep), fault(DeltaFault::Depth));
    // It stands on itself, as far as names go; and yet what is told of it has an end.
    let selfish = [&body(&chunk(4))[..], &[1], &at(7, 4).encode()].concat();
    assert!(with_delta(&selfish).is_ok());
    let vast = [&body(&chunk(65))[..], &[1], &at(8, 4).encode()].concat();
    assert_eq!(with_delta(&vast), fault(DeltaFault::Weight));
    let told = ManifestFault::Delta(DeltaFault::Depth).to_string();
    assert!(told.contains("difference to a difference more than 4 times"), "{told}");
}

#[test]
fn a_manifest_of_the_first_form_has_whole_chunks_alone() {
    assert_eq!(Version::of(b"belay manifest 1\n"), Some(Version::One));
    assert_eq!(Version::of(MANIFEST_HEAD), Some(Version::Two));
    assert_eq!(Version::of(b"belay manifest 3\n"), None);
    assert_eq!(body_length(Version::One, 5), Err(ManifestFault::Kind { kind: 5 }));
    assert_eq!(body_length(Version::One, 6), Err(ManifestFault::Kind { kind: 6 }));
    assert_eq!(body_length(Version::One, 2), body_length(Version::Two, 2));
}

proptest! {
    #[test]
    fn damage_never_panics_and_what_is_read_reads_the_same_again(
        place in 0_usize..1000, byte in any::<u8>(), cut in 0_usize..1000,
    ) {
        let mut bytes = encoded(&tree());
        let place = place % bytes.len();
        bytes[place] = byte;
        bytes.truncate(bytes.len() - cut % 3);
        if let Ok(records) = decoded(&bytes) {
            prop_assert_eq!(encoded(&records), bytes);
        }
    }
}
