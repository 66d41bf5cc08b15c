use std::io::Read;

use proptest::prelude::*;

use super::*;

fn member(path: &[u8], body: Body) -> Member {
    let mtime = Mtime { seconds: 1_700_000_000, nanos: 0 };
    Member {
        path: path.to_vec(),
        mode: 0o644,
        owner: Owner::default(),
        mtime,
        xattrs: BTreeMap::new(),
        body,
    }
}

/// What a reader does: headers in order, content skipped.
fn read_back(mut bytes: &[u8]) -> Result<Member, ArchiveFault> {
    let mut extension = Extension::default();
    loop {
        let (block, rest) = bytes.split_first_chunk::<BLOCK>().ok_or(ArchiveFault::Truncated)?;
        bytes = rest;
        match decode(block)? {
            Header::Zero => return Err(ArchiveFault::Truncated),
            Header::Extension { size } => {
                let size = usize::try_from(size).expect("bounded");
                extension = decode_extension(bytes.get(..size).ok_or(ArchiveFault::Truncated)?)?;
                bytes = &bytes[size.next_multiple_of(BLOCK)..];
            }
            Header::Member(raw) => return complete(*raw, extension),
        }
    }
}

fn any_body() -> impl Strategy<Value = Body> {
    let bytes = || prop::collection::vec(1_u8.., 1..300);
    prop_oneof![
        Just(Body::Directory),
        any::<u64>().prop_map(|size| Body::File { size }),
        bytes().prop_map(|target| Body::Symlink { target }),
        bytes().prop_map(|to| Body::HardLink { to }),
    ]
}

prop_compose! {
    fn any_member()(
        path in prop::collection::vec(1_u8.., 1..300)
            .prop_filter("a path does not end in a slash", |path| path.last() != Some(&b'/')),
        mode in 0_u32..0o10000,
        user in prop::option::of(0..u32::MAX),
        group in prop::option::of(0..u32::MAX),
        seconds in any::<i64>(),
        nanos in 0_u32..1_000_000_000,
        xattrs in prop::collection::btree_map(
            prop::collection::vec(
                prop_oneof![Just(b'='), Just(b'%'), Just(b'2'), Just(b'5'), Just(b'3'), Just(b'D'), 1_u8..],
                1..20,
            ),
            prop::collection::vec(any::<u8>(), 0..400),
            0..3,
        ),
        body in any_body(),
    ) -> Member {
        let (owner, mtime) = (Owner { user, group }, Mtime { seconds, nanos });
        Member { path, mode, owner, mtime, xattrs, body }
    }
}

proptest! {
    #[test]
    fn every_member_survives_its_headers(member in any_member()) {
        let encoded = encode(&member);
        prop_assert_eq!(encoded.len() % BLOCK, 0);
        prop_assert_eq!(read_back(&encoded), Ok(member));
    }

    #[test]
    fn damaged_headers_are_refused_or_read_but_never_panic(
        member in any_member(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut encoded = encode(&member);
        for (index, byte) in flips {
            let at = index.index(encoded.len());
            encoded[at] = byte;
        }
        let _ = read_back(&encoded);
    }

    #[test]
    fn any_bytes_are_an_extension_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_extension(&bytes);
    }

    #[test]
    fn lines_with_wild_lengths_are_refused(length in any::<u64>(), rest in "[a-z=\\n ]{0,20}") {
        let _ = decode_extension(format!("{length} {rest}").as_bytes());
    }
}

#[test]
fn another_reader_sees_the_same_member() {
    let mut written = member(&b"app/data/".repeat(30)[..269], Body::File { size: 5 });
    written.mode = 0o4755 & 0o1777;
    written.xattrs.insert(b"user.note".to_vec(), b"a=b".to_vec());
    written.xattrs.insert(b"user.x=%".to_vec(), b"v".to_vec());
    let mut bytes = encode(&written);
    bytes.extend_from_slice(b"hello");
    bytes.resize(bytes.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);

    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entries = archive.entries().expect("an archive");
    let mut entry = entries.next().expect("one member").expect("a readable member");
    assert_eq!(&*entry.path_bytes(), &written.path[..]);
    assert_eq!(entry.header().mode().expect("a mode"), 0o755);
    assert_eq!(entry.header().mtime().expect("a time"), 1_700_000_000);
    let noted =
        entry.pax_extensions().expect("readable").expect("present").filter_map(Result::ok).any(
            |line| line.key_bytes() == b"SCHILY.xattr.user.note" && line.value_bytes() == b"a=b",
        );
    assert!(noted, "the attribute is an extension");
    assert!(bytes.windows(25).any(|part| part == b"SCHILY.xattr.user.x%3D%25=v"[..25].as_ref()));
    let mut content = String::new();
    entry.read_to_string(&mut content).expect("content");
    assert_eq!(content, "hello");
    assert!(entries.next().is_none());
}

#[test]
fn devices_and_oversized_extensions_are_refused() {
    let mut block = ustar(b"app/dev", 0o644, Owner::default(), 0, 0, b'3', b"");
    let Ok(Header::Member(raw)) = decode(&block) else { panic!("a member") };
    let refused = complete(*raw, Extension::default());
    assert_eq!(refused, Err(ArchiveFault::Kind { kind: '3' }));

    block = ustar(b"pax", 0o644, Owner::default(), EXTENSION_MAX + 1, 0, b'x', b"");
    assert!(matches!(decode(&block), Err(ArchiveFault::ExtensionTooLarge { .. })));
    block = ustar(b"pax", 0o644, Owner::default(), 0, 0, b'g', b"");
    let Ok(Header::Member(raw)) = decode(&block) else { panic!("a member") };
    assert!(complete(*raw, Extension::default()).is_err(), "global extensions are not ours");
}

#[test]
fn ids_stand_in_an_extension_and_those_of_the_owner_of_the_volume_nowhere() {
    let header = |member: &Member| {
        let encoded = encode(member);
        let last: &[u8; BLOCK] = encoded.last_chunk().expect("a header");
        (encoded.len() / BLOCK, last[UID].to_vec(), last[GID].to_vec())
    };
    let mut of = member(b"a", Body::Directory);
    assert_eq!(header(&of), (1, b"0000000\0".to_vec(), b"0000000\0".to_vec()));
    of.owner = Owner { user: Some(0), group: Some(70) };
    assert_eq!(header(&of), (3, b"0000000\0".to_vec(), b"0000106\0".to_vec()));
    assert_eq!(read_back(&encode(&of)), Ok(of.clone()));
    // What has no room in the header is told by the extension alone.
    of.owner = Owner { user: Some(ID_MAX), group: Some(ID_MAX + 1) };
    assert_eq!(header(&of), (3, b"7777777\0".to_vec(), b"0000000\0".to_vec()));
    assert_eq!(read_back(&encode(&of)), Ok(of.clone()));
    let text = String::from_utf8_lossy(&encode(&of)).into_owned();
    assert!(text.contains("gid=2097152\n") && text.contains("uid=2097151\n"), "{text}");
    for (line, told) in [
        (&b"18 uid=4294967295\n"[..], "a member belongs to \"4294967295\", which no file can"),
        (b"19 gid=42949672960\n", "a member belongs to \"42949672960\", which no file can"),
        (b"10 uid=-1\n", "a member belongs to \"-1\", which no file can"),
        (b"7 uid=\n", "a member belongs to \"\", which no file can"),
    ] {
        let refused = decode_extension(line).expect_err("refused");
        assert_eq!(refused.to_string(), told);
    }
}

#[test]
fn the_longest_lawful_member_fits_the_extension_bound() {
    let mut long = member(&vec![b'x'; PATH_MAX], Body::Symlink { target: vec![b't'; TARGET_MAX] });
    long.owner = Owner { user: Some(u32::MAX - 1), group: Some(u32::MAX - 1) };
    // The worst ratio of line to name and value is that of many short attributes.
    for n in 0..XATTRS_MAX / 10 {
        long.xattrs.insert(format!("user.{n:05}").into_bytes(), Vec::new());
    }
    assert_eq!(read_back(&encode(&long)), Ok(long.clone()));
    long.xattrs.clear();
    for n in 0..XATTRS_MAX / 18 {
        let name: String = (0..13).map(|bit| if n >> bit & 1 == 0 { '=' } else { '%' }).collect();
        long.xattrs.insert(format!("user.{name}").into_bytes(), Vec::new());
    }
    assert_eq!(read_back(&encode(&long)), Ok(long));
}
