use std::collections::BTreeMap;
use std::io::Write;

use belay_packs::PackNumber;
use belay_protocol::Cid;
use belay_protocol::record::SyncRecord;
use serde_json::json;

use super::*;
use crate::core::manifest::{MANIFEST_HEAD, encode};
use crate::core::member::Mtime;
use crate::core::ownership::Owner;
use crate::core::path::ContainerPath;
use crate::core::root::StoredPack;

fn member(path: &str, body: Body) -> Member {
    let mtime = Mtime { seconds: 1, nanos: 0 };
    Member {
        path: path.into(),
        mode: 0o755,
        owner: Owner::default(),
        mtime,
        xattrs: BTreeMap::new(),
        body,
    }
}

fn directory(path: &str) -> Record {
    Record::Entry(member(path, Body::Directory))
}

fn link(path: &str, target: &str) -> Record {
    Record::Entry(member(path, Body::Symlink { target: target.into() }))
}

fn hard(path: &str, to: &str) -> Record {
    Record::Entry(member(path, Body::HardLink { to: to.into() }))
}

fn file(path: &str) -> Vec<Record> {
    let entry = Record::Entry(member(path, Body::File { size: 1 }));
    vec![entry, Record::Chunk(Chunk::whole(chunk(1, 1))), Record::End([0; 32])]
}

fn chunk(id: u8, plain: u32) -> ChunkRef {
    let id = ChunkId::from_bytes([id; 32]);
    ChunkRef { id, plain, pack: PackNumber(0), offset: 13, stored: 2 }
}

fn accepted(cid: Cid, members: u64, content: u64) -> AcceptedRecord {
    let record: SyncRecord = serde_json::from_value(json!({
        "schema": 1, "key": "models", "epoch": 1, "seq": 1, "cid": cid.to_string(),
        "parent_cid": null, "node_id": "node-a", "publish_id": "p", "version": 1,
        "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {},
        "runtime": {"provider_capture": "offline", "consumer_apply": "offline_restart"},
        "manifest": {
            "schema_version": 2, "archive_paths": ["/app"], "archive_format": "tree",
            "archive_size_bytes": 1000, "encryption": "none", "blob": cid.to_string(),
            "root_bytes": 100, "content_bytes": content, "members": members, "skipped_special": 0,
        },
    }))
    .expect("a record");
    AcceptedRecord { record, roots: vec![ContainerPath::parse("/app").expect("a path")] }
}

fn examined(records: &[Record], cid: Cid, members: u64, content: u64) -> Result<usize, String> {
    let mut bytes = MANIFEST_HEAD.to_vec();
    for record in records {
        encode(record, &mut bytes);
    }
    let mut manifest = tempfile::tempfile().expect("a temporary file");
    manifest.write_all(&bytes).expect("writes");
    let pack = StoredPack { id: cid, size: 20 };
    let root = Root { packs: [(PackNumber(0), pack)].into(), manifest: Vec::new() };
    examine(manifest, &root, &accepted(cid, members, content), &Present::default())
        .map(|wanted| wanted.len())
        .map_err(|error| error.to_string())
}

#[test]
fn sm056_to_sm060_hostile_manifests_are_refused_before_anything_is_fetched() {
    let app = || directory("app");
    let with = |more: Vec<Record>| [vec![app()], more].concat();
    for (records, told) in [
        (with(file("app/../../escaped")), "is not a path within a tree"),
        (with(file("/etc/escaped")), "is not a path within a tree"),
        (with(file("other/escaped")), "is out of order or named twice, lies outside"),
        (with(file("zother/escaped")), "lies outside the declared paths"),
        (with([vec![link("app/l", "/tmp")], file("app/l/escaped")].concat()), "not in a directory"),
        (with(vec![hard("app/z", "app/../../etc/passwd")]), "no tree holds"),
        (with([file("app/f"), file("app/f")].concat()), "out of order or named twice"),
        (with([file("app/g"), file("app/f")].concat()), "out of order"),
        (with(vec![link("app/l", "")]), "no tree holds"),
        (vec![], "is not in the tree"),
        (
            with((0..20).map(|n| directory(&format!("app/{n:02}"))).collect()),
            "more than 10 entries",
        ),
        (
            with(vec![
                Record::Entry(member("app/f", Body::File { size: 1 << 40 })),
                Record::Hole(1 << 40),
                Record::End([0; 32]),
            ]),
            "hold more than 10 bytes",
        ),
        (with(file("app/f")), "its content id differs"),
    ] {
        let refused = examined(&records, Cid::from_digest([9; 32]), 10, 10);
        let error = refused.expect_err("a hostile manifest");
        assert!(told.split(", ").any(|told| error.contains(told)), "{error}, expected {told}");
    }
}

#[test]
fn references_and_pieces_that_no_writer_makes_are_refused() {
    let of = |size, pieces: Vec<Record>| {
        let entry = Record::Entry(member("app/f", Body::File { size }));
        let records = [vec![directory("app"), entry], pieces, vec![Record::End([0; 32])]].concat();
        examined(&records, Cid::from_digest([9; 32]), 10, 1 << 30).expect_err("it is refused")
    };
    let mut far = chunk(1, 1);
    far.offset = 19;
    assert!(of(1, vec![Record::Chunk(Chunk::whole(far))]).contains("in none of its packs"));
    far.pack = PackNumber(7);
    assert!(of(1, vec![Record::Chunk(Chunk::whole(far))]).contains("in none of its packs"));
    assert!(of(2, vec![Record::Chunk(Chunk::whole(chunk(1, 1)))]).contains("as long as the file"));
    assert!(of(5, vec![Record::Hole(5)]).contains("damaged"), "a hole is no way to bloat a list");
    let shreds = (0..100_000).map(|_| Record::Chunk(Chunk::whole(chunk(1, 1)))).collect();
    assert!(of(100_000, shreds).contains("chunks, which its files cannot need"));
}

#[test]
fn a_manifest_of_the_tree_that_is_named_says_what_must_be_fetched() {
    let records = [
        vec![directory("app")],
        file("app/a"),
        file("app/b"),
        vec![hard("app/c", "app/a"), link("app/d", "anywhere")],
    ]
    .concat();
    // The id of the tree is taken from the refusal of another one.
    let mut index = TreeIndex::new(
        &[ContainerPath::parse("/app").expect("a path")],
        Limits { members: 10, content: 10 },
    );
    for record in &records {
        if let Record::Entry(member) = record {
            index.admit(member).expect("lawful");
            index.record(member, &[0; 32]);
        }
    }
    let cid = index.finish().expect("a tree").cid;
    assert_eq!(examined(&records, cid, 5, 2), Ok(1), "each chunk once");
    assert!(examined(&records, cid, 6, 2).expect_err("other facts").contains("number of its"));
    assert!(examined(&records, cid, 5, 3).expect_err("other facts").contains("size of its"));
}
