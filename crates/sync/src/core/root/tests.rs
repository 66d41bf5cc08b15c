use belay_packs::{ChunkId, DataKey, MemberSecret};
use proptest::prelude::*;

use super::*;

fn chunk(pack: u32, offset: u32) -> ChunkRef {
    let id = ChunkId::from_bytes([7; 32]);
    ChunkRef { id, plain: 100, pack: PackNumber(pack), offset, stored: 10 }
}

fn root() -> Root {
    let pack = |seed, size| StoredPack { id: Cid::from_digest([seed; 32]), size };
    Root {
        packs: [(PackNumber(0), pack(1, 40)), (PackNumber(3), pack(2, 23))].into(),
        manifest: vec![chunk(0, 30), chunk(3, 13)],
    }
}

fn decode(bytes: &[u8]) -> Result<Root, RootFault> {
    StoredRoot::decode(bytes)?.open(&Keys::plain())
}

#[test]
fn a_sealed_root_tells_its_packs_to_anyone_and_the_rest_to_members() {
    let key = DataKey::from_bytes([7; 32]);
    let (keys, mine) = (Keys::sealed(&key), MemberSecret::from_bytes([1; 32]));
    let envelopes = [Envelope::seal(&key, mine.member())];
    let bytes = root().encode(&keys, &envelopes);
    assert_eq!(bytes, root().encode(&keys, &envelopes), "equal trees have equal roots");
    assert_eq!(blake3::hash(&bytes).to_hex()[..16], *"3e059ceef9bc1810", "the form written down");

    let stored = StoredRoot::decode(&bytes).expect("a root");
    assert_eq!(stored.packs, root().packs);
    let opened = stored.envelopes[0].open(&mine).expect("it is for this member");
    assert_eq!(stored.clone().open(&Keys::sealed(&opened)), Ok(root()));
    assert_eq!(stored.clone().open(&Keys::plain()), Err(RootFault::Seal));
    let other = Keys::sealed(&DataKey::from_bytes([8; 32]));
    assert_eq!(stored.open(&other), Err(RootFault::Seal));
    // What is open is not taken where a seal is expected.
    let open = StoredRoot::decode(&root().encode(&Keys::plain(), &[])).expect("a root");
    assert_eq!(open.open(&keys), Err(RootFault::Seal));

    let none = root().encode(&keys, &[]);
    assert_eq!(StoredRoot::decode(&none), Err(RootFault::Members));
    let many = root().encode(&keys, &vec![envelopes[0]; MEMBERS_MAX + 1]);
    assert_eq!(StoredRoot::decode(&many), Err(RootFault::Members));
    for place in 14..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        let read = StoredRoot::decode(&damaged).and_then(|stored| stored.open(&keys));
        // Packs and envelopes are not under the seal; the record names all bytes.
        assert!(read != Ok(root()) || (102..214).contains(&place), "byte {place}");
    }
}

#[test]
fn a_root_has_the_bytes_written_down() {
    let sevens = "07".repeat(32);
    let golden = [
        "62656c617920726f6f7420310a",
        "00",
        "02000000",
        "00000000",
        &"01".repeat(32),
        "28000000",
        "03000000",
        &"02".repeat(32),
        "17000000",
        "02000000",
        &sevens,
        "64000000",
        "00000000",
        "1e000000",
        "0a000000",
        &sevens,
        "64000000",
        "03000000",
        "0d000000",
        "0a000000",
    ];
    assert_eq!(
        data_encoding::HEXLOWER.encode(&root().encode(&Keys::plain(), &[])),
        golden.concat()
    );
    assert_eq!(decode(&root().encode(&Keys::plain(), &[])), Ok(root()));
    assert_eq!((root().manifest_bytes(), root().pack_bytes()), (200, 63));
}

#[test]
fn what_a_root_cannot_be_is_refused() {
    let changed = |change: fn(&mut Root)| {
        let mut root = root();
        change(&mut root);
        decode(&root.encode(&Keys::plain(), &[]))
    };
    assert_eq!(changed(|root| root.manifest[0].offset = 31), Err(RootFault::Reference));
    assert_eq!(changed(|root| root.manifest[0].pack = PackNumber(1)), Err(RootFault::Reference));
    assert_eq!(changed(|root| root.manifest[0].plain = 0), Err(RootFault::Reference));
    let size =
        |root: &mut Root, size| root.packs.first_entry().expect("a pack").get_mut().size = size;
    let mut none = root();
    size(&mut none, 0);
    assert_eq!(decode(&none.encode(&Keys::plain(), &[])), Err(RootFault::Packs));
    let mut vast = root();
    size(&mut vast, 64 * 1024 * 1024 + 1);
    assert_eq!(decode(&vast.encode(&Keys::plain(), &[])), Err(RootFault::Packs));

    let bytes = root().encode(&Keys::plain(), &[]);
    assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(RootFault::Length));
    assert_eq!(decode(&[&bytes[..], b"x"].concat()), Err(RootFault::Length));
    assert_eq!(decode(b"belay pack 1\n"), Err(RootFault::Head));
    let mut sealed = bytes.clone();
    sealed[13] = 2;
    assert_eq!(decode(&sealed), Err(RootFault::Sealing));
    // A count takes no memory that is not there.
    let mut many = bytes.clone();
    many[14..18].copy_from_slice(&[0xff; 4]);
    assert_eq!(decode(&many), Err(RootFault::Length));
    let mut twice = bytes;
    twice[58..62].copy_from_slice(&[0; 4]);
    assert_eq!(decode(&twice), Err(RootFault::Packs));
}

proptest! {
    #[test]
    fn damage_never_panics_and_what_is_read_reads_the_same_again(
        place in 0_usize..1000, byte in any::<u8>(),
    ) {
        let mut bytes = root().encode(&Keys::plain(), &[]);
        let place = place % bytes.len();
        bytes[place] = byte;
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(read.encode(&Keys::plain(), &[]), bytes);
        }
    }
}
