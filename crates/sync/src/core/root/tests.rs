use belay_packs::ChunkId;
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
    assert_eq!(data_encoding::HEXLOWER.encode(&root().encode()), golden.concat());
    assert_eq!(Root::decode(&root().encode()), Ok(root()));
    assert_eq!((root().manifest_bytes(), root().pack_bytes()), (200, 63));
}

#[test]
fn what_a_root_cannot_be_is_refused() {
    let changed = |change: fn(&mut Root)| {
        let mut root = root();
        change(&mut root);
        Root::decode(&root.encode())
    };
    assert_eq!(changed(|root| root.manifest[0].offset = 31), Err(RootFault::Reference));
    assert_eq!(changed(|root| root.manifest[0].pack = PackNumber(1)), Err(RootFault::Reference));
    assert_eq!(changed(|root| root.manifest[0].plain = 0), Err(RootFault::Reference));
    let size =
        |root: &mut Root, size| root.packs.first_entry().expect("a pack").get_mut().size = size;
    let mut none = root();
    size(&mut none, 0);
    assert_eq!(Root::decode(&none.encode()), Err(RootFault::Packs));
    let mut vast = root();
    size(&mut vast, 64 * 1024 * 1024 + 1);
    assert_eq!(Root::decode(&vast.encode()), Err(RootFault::Packs));

    let bytes = root().encode();
    assert_eq!(Root::decode(&bytes[..bytes.len() - 1]), Err(RootFault::Length));
    assert_eq!(Root::decode(&[&bytes[..], b"x"].concat()), Err(RootFault::Length));
    assert_eq!(Root::decode(b"belay pack 1\n"), Err(RootFault::Head));
    let mut sealed = bytes.clone();
    sealed[13] = 1;
    assert_eq!(Root::decode(&sealed), Err(RootFault::Sealing));
    // A count takes no memory that is not there.
    let mut many = bytes.clone();
    many[14..18].copy_from_slice(&[0xff; 4]);
    assert_eq!(Root::decode(&many), Err(RootFault::Length));
    let mut twice = bytes;
    twice[58..62].copy_from_slice(&[0; 4]);
    assert_eq!(Root::decode(&twice), Err(RootFault::Packs));
}

proptest! {
    #[test]
    fn damage_never_panics_and_what_is_read_reads_the_same_again(
        place in 0_usize..1000, byte in any::<u8>(),
    ) {
        let mut bytes = root().encode();
        let place = place % bytes.len();
        bytes[place] = byte;
        if let Ok(read) = Root::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}
