//! What a hostile or broken publisher, store or host can hand to a consumer, one by one: a refusal that
//! says at which stage and why, the old state in place, the container untouched, nothing outside the
//! volumes.

use std::fs;
use std::path::PathBuf;

use belay_packs::{ChunkRef, Keys, PackNumber};
use belay_protocol::record::{SyncRecord, UNSIGNED_SCHEMA};
use belay_protocol::{Cid, SyncFailure, SyncOutcome, SyncRole, SyncStatus};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::PublishCommand;
use serde_json::{Map, Value, json};

use crate::disk::Disk;
use crate::scene::{Place, Running, VOLUMES, eventually, fill, start, tree, trees};

const MIB: u64 = 1024 * 1024;

/// A consumer that has applied a lawful state, and a store that anybody writes to.
struct Scene {
    temp: tempfile::TempDir,
    consumer: Place,
    running: Running,
    lawful: SyncRecord,
    seq: u64,
}

impl Scene {
    async fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        fill(&provider, "lawful");
        let store = temp.path().join("store");
        let publishing = start(&provider, &store, SyncRole::Provider);
        let command = PublishCommand { archive_paths: vec!["/app".into()], metadata: Map::new() };
        let cid = publishing.handle.publish(command).await.expect("publishes").cid;
        publishing.stop().await;
        let running = start(&consumer, &store, SyncRole::Consumer);
        let is_last = |last: &SyncOutcome| last.cid == cid;
        running.status("the apply", |status| status.last_apply.as_ref().is_some_and(is_last)).await;
        let records = LocalStore::open(&store).expect("opens");
        let head = records.head(&"models".parse().expect("a key")).await;
        let head = head.expect("reads").expect("a head");
        let lawful = serde_json::from_slice(&head.bytes).expect("a record");
        Self { temp, consumer, running, lawful, seq: 1 }
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.temp.path().join("store")).expect("opens")
    }

    async fn put(&self, bytes: &[u8]) -> Cid {
        let id = Cid::from_digest(*blake3::hash(bytes).as_bytes());
        let path = self.temp.path().join("object");
        fs::write(&path, bytes).expect("writes");
        let source = fs::File::open(&path).expect("opens");
        self.store().put_if_absent(id, source, bytes.len() as u64).await.expect("stores");
        fs::remove_file(path).expect("removes");
        id
    }

    /// Sets a changed copy of the lawful record, one place on.
    async fn set(&mut self, change: impl FnOnce(&mut Value)) {
        self.seq += 1;
        // As from before records were signed: no test could sign for the provider.
        let unsigned = SyncRecord { signer: None, signature: None, ..self.lawful.clone() };
        let mut record = serde_json::to_value(unsigned).expect("serialises");
        record["schema"] = json!(UNSIGNED_SCHEMA);
        record["seq"] = json!(self.seq);
        change(&mut record);
        let (store, key) = (self.store(), "models".parse().expect("a key"));
        let head = store.head(&key).await.expect("reads").map(|head| head.revision);
        store.compare_and_set(&key, head, record.to_string().into()).await.expect("sets");
    }

    /// Stores a tree as it is told and announces it; its cid is what it should be.
    async fn announce(&mut self, tree: &Forged, change: impl FnOnce(&mut Value)) -> Cid {
        let pack = self.put(&tree.pack).await;
        let root = tree.root(pack);
        let blob = self.put(&root).await;
        // Every attempt is content of its own, so that none is in quarantine already.
        let cid = tree.cid();
        let (root, pack) = (root.len(), tree.pack.len());
        self.set(|record| {
            record["cid"] = json!(cid.to_string());
            record["manifest"]["blob"] = json!(blob.to_string());
            record["manifest"]["root_bytes"] = json!(root);
            record["manifest"]["archive_size_bytes"] = json!(root + pack);
            record["manifest"]["members"] = json!(tree.members.min(16));
            record["manifest"]["content_bytes"] = json!(tree.content.min(64 * MIB));
            change(record);
        })
        .await;
        cid
    }

    async fn refused(&self, cid: Cid) -> SyncFailure {
        let status = self
            .running
            .status("the refusal", |status| status.quarantine.contains_key(&cid.to_string()))
            .await;
        status.last_failure.expect("a refusal is told")
    }
}

/// A stored tree as `docs/tree-format.md` has it, of which every byte is chosen.
struct Forged {
    pack: Vec<u8>,
    manifest: Vec<u8>,
    hasher: blake3::Hasher,
    /// Of the manifest, once it is packed.
    chunk: Option<ChunkRef>,
    members: u64,
    content: u64,
}

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;

fn text(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_le_bytes()[..], bytes].concat()
}

/// As `docs/sync.md` has it: the length, then the bytes.
fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

impl Forged {
    /// A tree of `/app` with nothing in it.
    fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"belay tree 1\nowner volume-root\n");
        hasher.update(&field(&1_u64.to_le_bytes()));
        hasher.update(&field(b"/app"));
        let (pack, manifest) = (b"belay pack 1\n".to_vec(), b"belay manifest 1\n".to_vec());
        let mut tree = Self { pack, manifest, hasher, chunk: None, members: 0, content: 0 };
        tree.entry(DIRECTORY, 0o755, b"app", b"", b"");
        tree
    }

    /// Puts content into the pack and says where it lies.
    fn chunk(&mut self, content: &[u8]) -> ChunkRef {
        let frame = [&[0], content].concat();
        self.frame(content, &frame)
    }

    /// Puts a frame into the pack and calls it by the name of this content.
    fn frame(&mut self, content: &[u8], frame: &[u8]) -> ChunkRef {
        let number = |length: usize| u32::try_from(length).expect("short");
        let chunk = ChunkRef {
            id: Keys::plain().chunk_id(content),
            plain: number(content.len()),
            pack: PackNumber(0),
            offset: number(self.pack.len()),
            stored: number(frame.len()),
        };
        self.pack.extend_from_slice(frame);
        chunk
    }

    fn entry(&mut self, kind: u8, mode: u32, path: &[u8], body: &[u8], attributes: &[u8]) {
        let times = [&1_700_000_000_i64.to_le_bytes()[..], &[0; 4]].concat();
        let entry = [&[kind], &mode.to_le_bytes()[..], &times, &text(path), body, attributes];
        self.manifest.push(1);
        self.manifest.extend(text(&entry.concat()));
        self.members += 1;
        if kind == FILE {
            return;
        }
        self.hasher.update(&field(path));
        match kind {
            DIRECTORY => {
                self.hasher.update(&field(b"directory")).update(&field(&mode.to_le_bytes()));
            }
            SYMLINK => {
                self.hasher.update(&field(b"symlink")).update(&field(&body[4..]));
            }
            _ => {
                self.hasher.update(&field(b"hardlink")).update(&field(&body[4..]));
            }
        }
        self.hasher.update(&field(&0_u64.to_le_bytes()));
    }

    /// A directory of another owner.
    fn owned(&mut self, owner: &[u8], path: &[u8]) {
        let times = [&1_700_000_000_i64.to_le_bytes()[..], &[0; 4]].concat();
        let mode = 0o755_u32.to_le_bytes();
        let entry = [owner, &[DIRECTORY], &mode, &times, &text(path)];
        self.manifest[15] = b'2';
        self.manifest.push(6);
        self.manifest.extend(text(&entry.concat()));
        self.members += 1;
        let user = if owner[0] & 1 == 0 { &[][..] } else { &owner[1..] };
        let group = if owner[0] & 2 == 0 { &[][..] } else { &owner[1..] };
        for part in [path, b"owned", user, group, b"directory", &mode, &0_u64.to_le_bytes()] {
            self.hasher.update(&field(part));
        }
    }

    /// A file of this size, of these pieces and with this digest, whatever they are.
    fn pieces(&mut self, mode: u32, path: &[u8], size: u64, pieces: &[Piece], digest: [u8; 32]) {
        self.entry(FILE, mode, path, &size.to_le_bytes(), b"");
        self.content += size;
        for piece in pieces {
            match piece {
                Piece::Chunk(chunk) => {
                    self.manifest.push(2);
                    self.manifest.extend_from_slice(&chunk.encode());
                }
                Piece::On(chunk) => {
                    self.manifest[15] = b'2';
                    self.manifest.push(5);
                    self.manifest.extend(text(chunk));
                }
                Piece::Hole(length) => {
                    self.manifest.push(3);
                    self.manifest.extend_from_slice(&length.to_le_bytes());
                }
            }
        }
        self.manifest.push(4);
        self.manifest.extend_from_slice(&digest);
        let (mode, size) = (mode.to_le_bytes(), size.to_le_bytes());
        for part in [path, b"file", &mode, &size, &digest, &0_u64.to_le_bytes()] {
            self.hasher.update(&field(part));
        }
    }

    /// A lawful file, but for its name.
    fn file(&mut self, path: &[u8], content: &[u8]) {
        let chunk = Piece::Chunk(self.chunk(content));
        let digest = *blake3::hash(content).as_bytes();
        self.pieces(0o644, path, content.len() as u64, &[chunk], digest);
    }

    fn cid(&self) -> Cid {
        Cid::from_digest(*self.hasher.finalize().as_bytes())
    }

    /// Packs the manifest, unless that was done.
    fn packed(mut self) -> Self {
        let manifest = self.manifest.clone();
        self.chunk = Some(self.chunk(&manifest));
        self
    }

    fn root(&self, pack: Cid) -> Vec<u8> {
        let chunk = self.chunk.expect("the manifest is packed");
        let size = u32::try_from(self.pack.len()).expect("short").to_le_bytes();
        let one = 1_u32.to_le_bytes();
        let head = b"belay root 1\n";
        [&head[..], &[0], &one, &[0; 4], pack.digest(), &size, &one, &chunk.encode()].concat()
    }
}

enum Piece {
    Chunk(ChunkRef),
    /// A chunk with those that it stands on, as manifests have it.
    On(Vec<u8>),
    Hole(u64),
}

/// These chunks, each standing on the one before it.
fn on(chunks: &[ChunkRef]) -> Piece {
    let steps = chunks.iter().enumerate();
    Piece::On(
        steps.flat_map(|(place, at)| [&[u8::from(place > 0)], &at.encode()[..]].concat()).collect(),
    )
}

/// One attack: what it adds to a tree, the stage that refuses it, and words of the refusal.
type Attack = (&'static str, fn(&mut Forged), &'static str, &'static str);

const ATTACKS: &[Attack] = &[
    ("a name that climbs", |t| t.file(b"app/../../escaped", b"x"), "download", "not a path"),
    ("an absolute name", |t| t.file(b"/escaped", b"x"), "download", "not a path"),
    ("a name with a zero", |t| t.file(b"app/a\0b", b"x"), "download", "not a path"),
    ("a name of another tree", |t| t.file(b"other/escaped", b"x"), "download", "outside"),
    ("the control volume", |t| t.file(b"belay/volume-sync/x", b"x"), "download", "outside"),
    ("a name twice", |t| (0..2).for_each(|_| t.file(b"app/f", b"x")), "download", "named twice"),
    (
        "a file behind a link",
        |t| {
            t.entry(SYMLINK, 0o777, b"app/l", &text(b"/tmp"), b"");
            t.file(b"app/l/escaped", b"x");
        },
        "download",
        "not in a directory",
    ),
    (
        "a link to a file of the host",
        |t| t.entry(HARD_LINK, 0o644, b"app/z", &text(b"app/../../../etc/passwd"), b""),
        "download",
        "no tree holds",
    ),
    (
        "a link to what is not in the tree",
        |t| t.entry(HARD_LINK, 0o644, b"app/z", &text(b"app/absent"), b""),
        "extract",
        "links to what is no file",
    ),
    (
        "a link to a link that leads out",
        |t| {
            t.entry(SYMLINK, 0o777, b"app/a", &text(b"/etc/passwd"), b"");
            t.entry(HARD_LINK, 0o644, b"app/z", &text(b"app/a"), b"");
        },
        "extract",
        "links to what is no file",
    ),
    ("a device", |t| t.entry(6, 0o644, b"app/d", &[0; 8], b""), "download", "damaged"),
    (
        "a set-id program",
        |t| t.pieces(0o4_755, b"app/su", 0, &[], *blake3::hash(b"").as_bytes()),
        "download",
        "set-id bits of its own differs",
    ),
    (
        "an owner of which the record does not speak",
        |t| t.owned(&[1, 7, 0, 0, 0], b"app/d"),
        "download",
        "owners or set-id bits of its own differs",
    ),
    (
        "a user that no file can have",
        |t| t.owned(&[1, 0xff, 0xff, 0xff, 0xff], b"app/d"),
        "download",
        "belongs to an id that no file can have",
    ),
    (
        "a group that no file can have",
        |t| t.owned(&[2, 0xff, 0xff, 0xff, 0xff], b"app/d"),
        "download",
        "belongs to an id that no file can have",
    ),
    ("an owner of no kind", |t| t.owned(&[4], b"app/d"), "download", "damaged"),
    (
        "capabilities",
        |t| {
            let xattr = [text(b"security.capability"), text(&[1; 20])].concat();
            t.entry(DIRECTORY, 0o755, b"app/d", b"", &xattr);
        },
        "download",
        "no tree holds",
    ),
    (
        "a path that is deeper than any",
        |t| t.file(&[&b"app"[..], &b"/d".repeat(200)].concat(), b"x"),
        "download",
        "not a path",
    ),
    (
        "more entries than declared",
        |t| {
            for name in b'A'..=b'Z' {
                t.entry(DIRECTORY, 0o755, &[b"app/", &[name][..]].concat(), b"", b"");
            }
        },
        "download",
        "more than 16 entries",
    ),
    (
        "a hole of a tebibyte",
        |t| t.pieces(0o644, b"app/h", 1 << 40, &[Piece::Hole(1 << 40)], [0; 32]),
        "download",
        "more than 67108864 bytes",
    ),
    (
        "a file that is longer than its pieces",
        |t| {
            let chunk = t.chunk(b"short");
            t.pieces(0o644, b"app/f", 500, &[Piece::Chunk(chunk)], [0; 32]);
        },
        "download",
        "not as long as the file",
    ),
    (
        "content with another hash than its name",
        |t| {
            let chunk = t.frame(b"what it should be", &[&[0][..], b"what it really is"].concat());
            let digest = *blake3::hash(b"what it should be").as_bytes();
            t.pieces(0o644, b"app/f", 17, &[Piece::Chunk(chunk)], digest);
        },
        "download",
        "not what its id names",
    ),
    (
        "a file with another hash than its end",
        |t| {
            let chunk = t.chunk(b"content");
            t.pieces(0o644, b"app/f", 7, &[Piece::Chunk(chunk)], [9; 32]);
        },
        "extract",
        "differs",
    ),
    (
        "a frame that expands without end",
        |t| {
            // 200 MiB of zeros as one frame of a chunk of 10 bytes.
            let zeros = zstd_zeros(200 * MIB);
            let chunk = t.frame(b"ten bytes!", &[&[1], &zeros[..]].concat());
            let digest = *blake3::hash(b"ten bytes!").as_bytes();
            t.pieces(0o644, b"app/f", 10, &[Piece::Chunk(chunk)], digest);
        },
        "download",
        "another size",
    ),
    (
        "a chunk of a pack that the root does not name",
        |t| {
            let chunk = ChunkRef { pack: PackNumber(7), ..t.chunk(b"content") };
            t.pieces(0o644, b"app/f", 7, &[Piece::Chunk(chunk)], [0; 32]);
        },
        "download",
        "none of its packs",
    ),
    (
        "a chunk beyond the end of its pack",
        |t| {
            let chunk = ChunkRef { offset: 60_000_000, ..t.chunk(b"content") };
            t.pieces(0o644, b"app/f", 7, &[Piece::Chunk(chunk)], [0; 32]);
        },
        "download",
        "none of its packs",
    ),
    (
        "a difference that is none",
        |t| {
            let (base, chunk) = (t.chunk(b"base"), t.chunk(b"content"));
            t.pieces(0o644, b"app/f", 7, &[on(&[base, chunk])], [0; 32]);
        },
        "download",
        "does not stand on the chunks that its reference names",
    ),
    (
        "a difference to content with another hash than its name",
        |t| {
            let base = t.frame(b"base", &[&[0][..], b"vase"].concat());
            let chunk = t.frame(b"content", &[2]);
            t.pieces(0o644, b"app/f", 7, &[on(&[base, chunk])], [0; 32]);
        },
        "download",
        "not what its id names",
    ),
    (
        "a difference that expands without end",
        |t| {
            let base = t.chunk(b"base");
            let chunk = t.frame(b"ten bytes!", &[&[2], &zstd_zeros(200 * MIB)[..]].concat());
            t.pieces(0o644, b"app/f", 10, &[on(&[base, chunk])], [0; 32]);
        },
        "download",
        "another size",
    ),
    (
        "differences to differences without end",
        |t| {
            let chunk = t.chunk(b"content");
            t.pieces(0o644, b"app/f", 7, &[on(&[chunk; 6])], [0; 32]);
        },
        "download",
        "a difference to a difference more than 4 times",
    ),
    (
        "a small difference to much",
        |t| {
            let (base, chunk) = (t.chunk(&[7; 1000]), t.chunk(b"content"));
            t.pieces(0o644, b"app/f", 7, &[on(&[base, chunk])], [0; 32]);
        },
        "download",
        "more than 16 times its size",
    ),
    (
        "a difference to a chunk beyond the end of its pack",
        |t| {
            let base = ChunkRef { offset: 60_000_000, ..t.chunk(b"base") };
            let chunk = t.chunk(b"content");
            t.pieces(0o644, b"app/f", 7, &[on(&[base, chunk])], [0; 32]);
        },
        "download",
        "none of its packs",
    ),
    (
        "a difference in a manifest of the first form",
        |t| {
            let (base, chunk) = (t.chunk(b"base"), t.chunk(b"content"));
            t.pieces(0o644, b"app/f", 7, &[on(&[base, chunk])], [0; 32]);
            t.manifest[15] = b'1';
        },
        "download",
        "not known",
    ),
    ("a record of no kind", |t| t.manifest.push(9), "download", "not known"),
    ("a manifest that is torn", |t| t.manifest.truncate(40), "download", "ends within"),
];

/// A zstd frame of zeros.
fn zstd_zeros(length: u64) -> Vec<u8> {
    // A frame of one segment whose blocks are runs: 4 bytes for each 128 KiB.
    const RUN: u64 = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend_from_slice(&u32::try_from(length).expect("below 4 GiB").to_le_bytes());
    let runs = length / RUN;
    for run in 1..=runs {
        let header = (u32::try_from(RUN).expect("small") << 3) | 0b010 | u32::from(run == runs);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// What lies beside the volumes and must stay as it is.
fn outside(scene: &Scene) -> Vec<String> {
    let places: [PathBuf; 2] =
        [scene.temp.path().join("provider"), scene.consumer.root.join("system")];
    let mut found: Vec<String> = places.iter().flat_map(|place| tree(place).into_keys()).collect();
    found.retain(|path| !path.contains("apply_error.json"));
    found
}

#[tokio::test]
async fn hostile_trees_are_refused_by_name_and_touch_nothing() {
    let mut scene = Scene::new().await;
    let (before, beside) = (trees(&scene.consumer), outside(&scene));
    for (number, (name, attack, stage, words)) in ATTACKS.iter().enumerate() {
        let mut tree = Forged::new();
        // A lawful entry that is another one each time: each attack is content of its own.
        tree.file(b"app/!", format!("{number}").as_bytes());
        attack(&mut tree);
        let cid = scene.announce(&tree.packed(), |_| {}).await;
        let failure = scene.refused(cid).await;
        assert_eq!(failure.stage, *stage, "{name}: {}", failure.error);
        assert!(failure.error.contains(words), "{name}: {}", failure.error);
        assert_eq!(trees(&scene.consumer), before, "{name}");
    }
    assert_eq!(outside(&scene), beside);
    assert!(!scene.temp.path().join("escaped").exists());
    assert_eq!(scene.running.window.events().len(), 2, "only the lawful apply");

    // The same hand can write a tree that is taken: the attacks were refused for what they were.
    let mut tree = Forged::new();
    tree.file(b"app/!", b"peace");
    tree.entry(DIRECTORY, 0o755, b"app/data", b"", b"");
    tree.file(b"app/f", b"content");
    let cid = scene.announce(&tree.packed(), |_| {}).await;
    let applied = |last: &SyncOutcome| last.cid == cid;
    let status = |status: &SyncStatus| status.last_apply.as_ref().is_some_and(applied);
    scene.running.status("the lawful tree", status).await;
    assert_eq!(fs::read(scene.consumer.data("app").join("f")).expect("reads"), b"content");
    scene.running.stop().await;
}

#[tokio::test]
async fn a_tree_other_than_the_record_names_is_refused() {
    let mut scene = Scene::new().await;
    let before = trees(&scene.consumer);
    let mut tree = Forged::new();
    tree.file(b"app/f", b"content");
    let other = Cid::from_digest([9; 32]);
    scene.announce(&tree.packed(), |record| record["cid"] = json!(other.to_string())).await;
    let failure = scene.refused(other).await;
    assert_eq!(failure.stage, "download");
    assert!(failure.error.contains("content id differs"), "{}", failure.error);
    assert_eq!(trees(&scene.consumer), before);
    scene.running.stop().await;
}

/// What is changed in a lawful record, and words of the refusal.
type Change = (fn(&mut Value), &'static str);

#[tokio::test]
async fn records_of_a_later_schema_and_for_other_keys_are_refused_by_name() {
    let mut scene = Scene::new().await;
    let before = trees(&scene.consumer);
    let changes: [Change; 5] = [
        (|record| record["schema"] = json!(99), "schema is 99"),
        (
            |record| record["manifest"]["schema_version"] = json!(99),
            "manifest.schema_version is 99",
        ),
        (|record| record["manifest"]["encryption"] = json!("rot13"), "rot13"),
        (|record| record["key"] = json!("other"), "for the key other"),
        (
            |record| record["manifest"]["archive_paths"] = json!(["/belay/volume-sync"]),
            "control volume",
        ),
    ];
    for (number, (change, words)) in changes.into_iter().enumerate() {
        let cid = Cid::from_digest([u8::try_from(number).expect("few"); 32]);
        scene
            .set(|record| {
                record["cid"] = json!(cid.to_string());
                change(record);
            })
            .await;
        let told = |failure: &SyncFailure| failure.error.contains(words);
        let told = |status: &SyncStatus| status.last_failure.as_ref().is_some_and(told);
        let failure = scene.running.status(words, told).await.last_failure;
        assert_eq!(failure.expect("waited for").stage, "validation", "{words}");
    }
    assert_eq!(trees(&scene.consumer), before);
    assert_eq!(scene.running.window.events().len(), 2, "only the lawful apply");
    scene.running.stop().await;
}

/// A place whose directories are on disks that can be filled.
async fn applied_on(place: &Place, scene: &Scene) -> Running {
    let running = start(place, &scene.temp.path().join("store"), SyncRole::Consumer);
    let cid = scene.lawful.cid;
    let is_last = |last: &SyncOutcome| last.cid == cid;
    running.status("the apply", |status| status.last_apply.as_ref().is_some_and(is_last)).await;
    running
}

/// A tree with a file of noise of this many MiB.
fn noisy(mebibytes: u64) -> Forged {
    let mut tree = Forged::new();
    tree.entry(DIRECTORY, 0o755, b"app/data", b"", b"");
    let mut content = vec![0; usize::try_from(mebibytes * MIB).expect("fits")];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut content);
    let pieces: Vec<Piece> =
        content.chunks(256 * 1024).map(|piece| Piece::Chunk(tree.chunk(piece))).collect();
    let digest = *blake3::hash(&content).as_bytes();
    tree.pieces(0o644, b"app/noise", content.len() as u64, &pieces, digest);
    tree
}

#[tokio::test]
async fn a_volume_without_room_is_told_while_the_app_runs_and_taken_up_once_there_is_some() {
    let mut scene = Scene::new().await;
    let root = scene.temp.path().join("full");
    let _disk = Disk::new(&root.join("volumes/app"), 16 * MIB);
    let place = Place::new(&root, &VOLUMES);
    let running = applied_on(&place, &scene).await;
    let before = trees(&place);
    // Beside the tree, where the app's quota does not see it.
    let filler = place.root.join("volumes/app/filler");
    fs::write(&filler, vec![1; usize::try_from(9 * MIB).expect("fits")]).expect("writes");

    let tree = noisy(6).packed();
    let cid = scene.announce(&tree, |_| {}).await;
    let quarantined = |status: &SyncStatus| status.quarantine.contains_key(&cid.to_string());
    let status = running.status("the refusal", quarantined).await;
    let failure = status.last_failure.expect("it is told");
    assert_eq!(failure.stage, "extract", "{}", failure.error);
    assert!(failure.error.contains("has no room for the new state"), "{}", failure.error);
    assert_eq!(trees(&place), before);
    assert_eq!(running.window.events().len(), 2, "only the lawful apply");

    fs::remove_file(filler).expect("removes");
    // By itself it is taken up within the minute; an operator does not wait for that.
    running.handle.apply_now().await.expect("there is room");
    let is_last = |last: &SyncOutcome| last.cid == cid;
    let status =
        running.status("the apply", |status| status.last_apply.as_ref().is_some_and(is_last)).await;
    assert!(status.quarantine.is_empty(), "{:?}", status.quarantine);
    assert_ne!(trees(&place), before);
    running.stop().await;
    scene.running.stop().await;
}

#[tokio::test]
async fn a_host_without_room_is_told_while_the_app_runs() {
    let mut scene = Scene::new().await;
    let root = scene.temp.path().join("full");
    let _disk = Disk::new(&root.join("state"), 76 * MIB);
    let place = Place::new(&root, &VOLUMES);
    let running = applied_on(&place, &scene).await;
    let before = trees(&place);
    let tree = noisy(12).packed();
    scene.announce(&tree, |record| record["manifest"]["content_bytes"] = json!(12 * MIB)).await;
    let failed = |status: &SyncStatus| status.last_failure.is_some();
    let status = running.status("the refusal", failed).await;
    let failure = status.last_failure.expect("it is told");
    assert_eq!(failure.stage, "download", "{}", failure.error);
    assert!(failure.error.contains("to spare"), "{}", failure.error);
    assert_eq!(trees(&place), before);
    assert_eq!(running.window.events().len(), 2, "only the lawful apply");
    running.looked().await;
    let status = running.handle.status().borrow().clone();
    assert!(status.quarantine.is_empty(), "it is no fault of the content: {:?}", status.quarantine);
    assert!(place.json("apply_error.json").is_none());
    running.stop().await;
    scene.running.stop().await;
}

#[tokio::test]
async fn a_provider_on_a_full_host_is_not_stopped_for_nothing() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().join("provider");
    let _disk = Disk::new(&root.join("state"), 76 * MIB);
    let place = Place::new(&root, &VOLUMES);
    fill(&place, "one");
    let mut content = vec![0; usize::try_from(12 * MIB).expect("fits")];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut content);
    fs::write(place.data("app").join("noise"), content).expect("writes");
    let running = start(&place, &temp.path().join("store"), SyncRole::Provider);
    eventually("the control directory", || place.sync_file("").is_dir().then_some(())).await;
    place.request(&json!({"archive_paths": ["/app"], "request_id": "r"}));
    let answer = eventually("the answer", || place.json("response.json")).await;
    assert_eq!((&answer["status"], &answer["request_id"]), (&json!("error"), &json!("r")));
    assert_eq!(answer["stage"], "validation", "{answer}");
    assert_eq!(running.window.events(), Vec::<String>::new());

    // With room it goes the usual way.
    fs::remove_file(place.data("app").join("noise")).expect("removes");
    fs::remove_file(place.sync_file("response.json")).expect("removes");
    place.request(&json!({"archive_paths": ["/app"], "request_id": "s"}));
    let answer = eventually("the answer", || place.json("response.json")).await;
    assert_eq!((&answer["status"], &answer["request_id"]), (&json!("ok"), &json!("s")));
    running.stop().await;
}
