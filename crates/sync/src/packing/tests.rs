use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use belay_packs::{Chunk, ChunkRef, Keys, Opener};

use super::*;
use crate::core::root::StoredRoot;
use crate::core::seen::Seen;
use crate::layout::SyncLayout;
use crate::layout::testing::one_volume;
use crate::remembered::Remembered;
use crate::spool::Spool;

struct Scene {
    temp: tempfile::TempDir,
    layout: SyncLayout,
    spool: Spool,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let layout = one_volume(temp.path());
        let spool = Spool::open(temp.path()).expect("opens");
        Self { temp, layout, spool }
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.temp.path().join("data").join(name), content).expect("writes");
    }

    /// Waits until a file's last change is so long ago that its looks are believed.
    fn settle(&self, name: &str) {
        let changed = |path: &Path| {
            let found = fs::metadata(path).expect("exists");
            Duration::new(
                u64::try_from(found.ctime()).expect("after 1970"),
                u32::try_from(found.ctime_nsec()).expect("nanoseconds"),
            )
        };
        let settled = changed(&self.temp.path().join("data").join(name));
        let (clock, end) =
            (self.temp.path().join("clock"), Instant::now() + Duration::from_secs(10));
        loop {
            fs::write(&clock, "x").expect("writes");
            if changed(&clock).saturating_sub(settled) > Duration::from_millis(40) {
                return;
            }
            assert!(Instant::now() < end, "the clock of this file system stands still");
        }
    }

    fn volumes(&self) -> Volumes {
        Volumes::open(&self.layout).expect("opens")
    }

    fn begin(&self, base: Option<Base>) -> Packing {
        let dir = self.spool.create_dir().expect("creates");
        Packing::begin(Seal::none(), dir, &self.volumes(), base).expect("begins")
    }

    fn look(&self, packing: &mut Packing) -> u64 {
        let before = packing.writer.written().read;
        packing.look(&self.volumes(), &roots()).expect("looks");
        packing.writer.written().read - before
    }

    fn capture(&self, packing: &mut Packing) -> (Cid, u64) {
        let before = packing.writer.written().read;
        let walked = packing.capture(&self.volumes(), &roots()).expect("captures");
        (walked.tree.cid, packing.writer.written().read - before)
    }

    fn remembered(&self) -> Remembered {
        Remembered::new(self.temp.path())
    }

    fn base(&self, blob: Cid) -> Base {
        let remembered = self.remembered();
        let root = remembered.root(blob, &Keys::plain()).expect("it is remembered");
        let dir = remembered.dir();
        let contents = Box::new(self.shelf());
        Base { root, manifest: dir.join(MANIFEST), seen: Some(dir.join(SEEN)), contents }
    }

    fn shelf(&self) -> Shelf {
        let (dir, fetched) = (self.temp.path().join("shelf"), HashSet::new());
        fs::create_dir_all(&dir).expect("creates");
        Shelf { dir, opener: Opener::new(&Keys::plain()), fetched }
    }

    /// Stores what was packed, remembers it, and says what the next capture builds on.
    fn publish(&self, packed: &Packed) -> Base {
        let bytes = fs::read(packed.dir.path().join(ROOT)).expect("reads");
        let store = self.shelf().dir;
        for number in StoredRoot::decode(&bytes).expect("a root").packs.keys() {
            let made = pack_file(packed.dir.path(), *number);
            if made.exists() {
                fs::copy(made, pack_file(&store, *number)).expect("stores");
            }
        }
        self.remembered().take(&packed.dir).expect("remembers");
        self.base(packed.blob)
    }

    /// Publishes the tree of this moment, read once.
    fn captured(&self, base: Option<Base>) -> (Packed, Vec<Chunk>) {
        let mut packing = self.begin(base);
        packing.capture_kept(&self.volumes(), &roots(), 0).expect("captures");
        let packed = packing.finish().expect("finishes");
        let chunks = chunks(&packed);
        (packed, chunks)
    }
}

/// A store of packs, which counts what is fetched.
#[derive(Debug)]
struct Shelf {
    dir: PathBuf,
    opener: Opener,
    fetched: HashSet<ChunkRef>,
}

impl BaseContents for Shelf {
    fn fetch(&mut self, wanted: Vec<ChunkRef>) {
        self.fetched.extend(wanted);
    }

    fn content(&mut self, chunk: &Chunk) -> Option<Vec<u8>> {
        let at = chunk.at();
        if !self.fetched.contains(at) {
            return None;
        }
        let pack = fs::read(pack_file(&self.dir, at.pack)).expect("it is stored");
        let frame = &pack[at.offset as usize..(at.offset + at.stored) as usize];
        if !chunk.is_delta() {
            return Some(self.opener.open(at, frame).expect("it is whole"));
        }
        let mut base = Vec::new();
        for below in chunk.bases() {
            base.extend(self.content(below)?);
        }
        Some(self.opener.open_on(at, frame, &base).expect("it is whole"))
    }
}

/// A store that has lost everything.
#[derive(Debug)]
struct Gone;

impl BaseContents for Gone {
    fn fetch(&mut self, _: Vec<ChunkRef>) {}

    fn content(&mut self, _: &Chunk) -> Option<Vec<u8>> {
        None
    }
}

/// Counts the bytes that are fetched.
#[derive(Debug)]
struct Counting(Shelf, Arc<AtomicU64>);

impl BaseContents for Counting {
    fn fetch(&mut self, wanted: Vec<ChunkRef>) {
        let new = wanted.iter().filter(|at| self.0.fetched.insert(**at));
        let bytes = new.map(|at| u64::from(at.stored)).sum();
        self.1.fetch_add(bytes, Ordering::Relaxed);
    }

    fn content(&mut self, chunk: &Chunk) -> Option<Vec<u8>> {
        self.0.content(chunk)
    }
}

/// The chunks of a captured tree, in order.
fn chunks(packed: &Packed) -> Vec<Chunk> {
    let file = File::open(packed.dir.path().join(MANIFEST)).expect("opens");
    let mut manifest = ManifestReader::new(BufReader::new(file)).expect("reads");
    let mut chunks = Vec::new();
    while let Some(record) = manifest.next().expect("a lawful manifest") {
        if let Record::Chunk(chunk) = record {
            chunks.push(chunk);
        }
    }
    chunks
}

/// What the chunks contain, one behind the other.
fn content(shelf: &mut Shelf, chunks: &[Chunk]) -> Vec<u8> {
    for chunk in chunks {
        chunk.each(&mut |at| shelf.fetch(vec![*at]));
    }
    chunks.iter().flat_map(|chunk| shelf.content(chunk).expect("it is stored")).collect()
}

#[test]
fn a_page_that_changed_is_written_as_a_difference() {
    let scene = Scene::new();
    let mut pages = noise(1, 2_000_000);
    scene.write("pages", &pages);
    let (packed, before) = scene.captured(None);
    assert!(before.iter().all(|chunk| !chunk.is_delta()));
    let mut stored = packed.stored_bytes;
    let mut base = scene.publish(&packed);
    // Another page of the same chunk, five times: the difference to a difference to a difference.
    for round in 0..5_u8 {
        let at = 1_000_000 + usize::from(round) * 8;
        pages[at..at + 8].copy_from_slice(&noise(round + 2, 8));
        scene.write("pages", &pages);
        let (packed, after) = scene.captured(Some(base));
        let changed: Vec<&Chunk> = after.iter().filter(|chunk| !before.contains(chunk)).collect();
        let is_delta = changed.iter().all(|chunk| chunk.is_delta());
        assert_eq!((changed.len(), is_delta), (1, round != 4), "{changed:?}");
        let grown = packed.stored_bytes.saturating_sub(stored);
        assert!(grown < if is_delta { 20_000 } else { 200_000 }, "{grown} bytes");
        stored = packed.stored_bytes;
        base = scene.publish(&packed);
        let mut needed = Vec::new();
        for chunk in &after {
            chunk.each(&mut |at| needed.push(at.pack));
        }
        assert!(needed.iter().all(|pack| base.root.packs.contains_key(pack)), "all are kept");
        assert_eq!(content(&mut scene.shelf(), &after), pages);
    }
}

#[test]
fn while_the_app_waits_nothing_is_fetched_and_what_was_fetched_serves() {
    let scene = Scene::new();
    let mut pages = noise(1, 1_000_000);
    scene.write("pages", &pages);
    scene.write("other", &noise(9, 500_000));
    let (packed, _) = scene.captured(None);
    let mut packing = scene.begin(Some(scene.publish(&packed)));
    pages[300_000] ^= 1;
    scene.write("pages", &pages);
    scene.look(&mut packing);
    // Once more in the same chunk, and in a file that the look had found unchanged.
    pages[300_001] ^= 1;
    scene.write("pages", &pages);
    let mut other = noise(9, 500_000);
    other[250_000] ^= 1;
    scene.write("other", &other);
    scene.capture(&mut packing);
    let deltas = packing.writer.written().deltas;
    let packed = packing.finish().expect("finishes");
    let after = chunks(&packed);
    assert_eq!((deltas, after.iter().filter(|chunk| chunk.is_delta()).count()), (2, 1));
    let base = scene.publish(&packed);
    assert_eq!(content(&mut scene.shelf(), &after), [other, pages].concat());
    drop(base);
}

#[test]
fn what_cannot_be_had_from_the_store_is_written_whole() {
    let scene = Scene::new();
    let mut pages = noise(1, 500_000);
    scene.write("pages", &pages);
    let (packed, _) = scene.captured(None);
    let base = scene.publish(&packed);
    pages[200_000] ^= 1;
    scene.write("pages", &pages);
    let (packed, after) = scene.captured(Some(Base { contents: Box::new(Gone), ..base }));
    assert!(after.iter().all(|chunk| !chunk.is_delta()));
    scene.publish(&packed);
    assert_eq!(content(&mut scene.shelf(), &after), pages);
}

#[test]
fn a_file_that_was_written_anew_is_not_held_against_all_that_it_was() {
    let scene = Scene::new();
    scene.write("file", &noise(1, 12_000_000));
    let (packed, _) = scene.captured(None);
    let base = scene.publish(&packed);
    scene.write("file", &noise(2, 12_000_000));
    let fetched = Arc::new(AtomicU64::new(0));
    let contents = Box::new(Counting(scene.shelf(), Arc::clone(&fetched)));
    let (_, after) = scene.captured(Some(Base { contents, ..base }));
    assert!(after.iter().all(|chunk| !chunk.is_delta()));
    let fetched = fetched.load(Ordering::Relaxed);
    // What waits at one time, and a sixteenth of the rest, each with what lies around it.
    assert!((1..4_500_000 + 3 * 8_000_000 / 16).contains(&fetched), "{fetched} bytes");
}

fn roots() -> Vec<ContainerPath> {
    vec![ContainerPath::parse("/data").expect("a path")]
}

/// Bytes of which every part differs.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn what_did_not_change_is_read_once() {
    let scene = Scene::new();
    scene.write("large", &noise(1, 1_000_000));
    scene.write("small", b"small");
    scene.settle("small");
    let mut packing = scene.begin(None);
    assert_eq!(scene.look(&mut packing), 1_000_005);
    let (first, read) = scene.capture(&mut packing);
    assert_eq!(read, 0, "while the app waits nothing is read that the look had read");
    let packed = packing.finish().expect("finishes");
    scene.remembered().take(&packed.dir).expect("remembers");

    let mut packing = scene.begin(Some(scene.base(packed.blob)));
    assert_eq!(scene.look(&mut packing), 0);
    // It changes after the look, as an app's files do.
    scene.write("small", b"other");
    let (second, read) = scene.capture(&mut packing);
    assert_eq!(read, 5);
    assert_ne!(first, second);
    let again = packing.finish().expect("finishes");
    assert!(again.stored_bytes - packed.stored_bytes < 20_000, "the large file is not made again");

    // What it comes to does not depend on how it was found.
    let (third, _) = scene.capture(&mut scene.begin(None));
    assert_eq!(second, third);
}

#[test]
fn a_file_that_changed_a_moment_before_it_was_read_is_read_again() {
    let scene = Scene::new();
    let mut packing = scene.begin(None);
    scene.write("file", b"one");
    scene.look(&mut packing);
    let (_, read) = scene.capture(&mut packing);
    // On a machine so slow that the moment has passed there is nothing to be seen.
    let changed = fs::metadata(scene.temp.path().join("data/file")).expect("exists").ctime_nsec();
    scene.write("clock", b"");
    let now = fs::metadata(scene.temp.path().join("data/clock")).expect("exists").ctime_nsec();
    if now.abs_diff(changed) < 20_000_000 {
        assert_eq!(read, 3);
    }
}

#[test]
fn other_volumes_are_read_whatever_is_remembered() {
    let scene = Scene::new();
    scene.write("file", b"one");
    scene.settle("file");
    let mut packing = scene.begin(None);
    scene.look(&mut packing);
    scene.capture(&mut packing);
    let packed = packing.finish().expect("finishes");
    scene.remembered().take(&packed.dir).expect("remembers");
    // Another directory in the place of the volume: the same names may be other files.
    let data = scene.temp.path().join("data");
    fs::rename(&data, scene.temp.path().join("old")).expect("renames");
    fs::create_dir(&data).expect("creates");
    fs::rename(scene.temp.path().join("old/file"), data.join("file")).expect("renames");
    let mut packing = scene.begin(Some(scene.base(packed.blob)));
    assert_eq!(scene.look(&mut packing), 3);
}

#[test]
fn what_was_captured_is_in_the_packs_that_the_root_names() {
    let scene = Scene::new();
    scene.write("file", &noise(3, 300_000));
    let mut packing = scene.begin(None);
    // Chunks of the look that the capture does not need any more.
    scene.look(&mut packing);
    scene.write("file", &noise(4, 300_000));
    scene.capture(&mut packing);
    let packed = packing.finish().expect("finishes");
    let bytes = fs::read(packed.dir.path().join(ROOT)).expect("reads");
    assert_eq!(packed.blob, Cid::from_digest(*blake3::hash(&bytes).as_bytes()));
    assert_eq!(packed.root_bytes, bytes.len() as u64);
    let root = StoredRoot::decode(&bytes).expect("a root");
    for (number, pack) in &root.packs {
        let bytes = fs::read(pack_file(packed.dir.path(), *number)).expect("reads");
        assert_eq!(*blake3::hash(&bytes).as_bytes(), *pack.id.digest());
        assert_eq!(bytes.len(), pack.size as usize);
    }
    let files = fs::read_dir(packed.dir.path()).expect("lists").count();
    assert_eq!(files, root.packs.len() + 4, "nothing else is left");
    let spooled = packed.dir.path().to_owned();
    drop(packed);
    assert!(!spooled.exists(), "what is not kept goes");
}

#[test]
fn of_a_clone_nothing_is_remembered_that_changed_in_the_moment_it_was_taken() {
    let scene = Scene::new();
    scene.write("page", b"one");
    scene.settle("page");
    let late = clock();
    for (since, reread) in [(0, true), (late, false)] {
        let mut packing = scene.begin(None);
        packing.capture_kept(&scene.volumes(), &roots(), since).expect("captures");
        let seen = fs::read(packing.dir.path().join(SEEN)).expect("reads");
        let entries = seen[size_of::<VolumesPrint>()..].chunks_exact(Seen::ENCODED);
        // The directory, then the file.
        let untold = entries.map(|entry| entry.iter().all(|byte| *byte == 0)).collect::<Vec<_>>();
        assert_eq!(untold, [true, reread], "{since}");
    }
}

#[test]
fn a_live_capture_of_a_tree_that_changes_all_the_time_ends_and_is_whole() {
    use std::sync::atomic::AtomicBool;
    let scene = Scene::new();
    let data = scene.temp.path().join("data");
    scene.write("still", b"one");
    scene.write("busy", &vec![7; 3_000_000]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // From more than a hole to less than a chunk.
            for size in [3_000_000, 900_000, 2_999_000, 10].into_iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let file = fs::OpenOptions::new().write(true).open(data.join("busy"));
                let file = file.expect("opens");
                file.set_len(size).expect("sets");
                fs::write(data.join("comes"), "x").expect("writes");
                fs::hard_link(data.join("comes"), data.join("twice")).expect("links");
                fs::remove_file(data.join("twice")).expect("removes");
                fs::remove_file(data.join("comes")).expect("removes");
            }
        });
        for _ in 0..20 {
            let mut packing = scene.begin(None);
            let captured = packing.capture_live(&scene.volumes(), &roots());
            if captured.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            let (walked, _) = captured.expect("captures");
            // What the manifest says is of one piece: sizes add up and the id is that of the tree.
            let path = packing.dir.path().join(MANIFEST);
            let file = BufReader::new(File::open(path).expect("opens"));
            let mut manifest = ManifestReader::new(file).expect("reads");
            let mut index = crate::core::tree::TreeIndex::new(
                &roots(),
                crate::capture::limits(&scene.volumes()),
            );
            let mut member = None;
            while let Some(record) = manifest.next().expect("a lawful manifest") {
                match record {
                    Record::Entry(entry) => {
                        index.admit(&entry).expect("lawful");
                        if matches!(entry.body, crate::core::member::Body::File { .. }) {
                            member = Some(entry);
                        } else {
                            index.record(&entry, &[0; 32]);
                        }
                    }
                    Record::End(digest) => {
                        index.record(&member.take().expect("a file"), &digest);
                    }
                    Record::Chunk(_) | Record::Hole(_) => {}
                }
            }
            assert_eq!(index.finish().expect("whole").cid, walked.tree.cid);
            packing.finish().expect("packs");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What may befall a file or the tree, and what that is called.
type Change = (&'static str, fn(&Path));

#[test]
fn a_tree_is_unchanged_only_if_every_file_looks_as_it_did_and_was_settled_then() {
    let changes: [Change; 11] = [
        ("nothing but a new date of the root", |data| {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(5);
            File::open(data).and_then(|dir| dir.set_modified(time)).expect("sets");
        }),
        ("as many other bytes, and the old date", |data| {
            let file = data.join("sub/one");
            let modified = fs::metadata(&file).and_then(|found| found.modified()).expect("looks");
            fs::write(&file, b"eno").expect("writes");
            let file = File::options().write(true).open(&file).expect("opens");
            file.set_modified(modified).expect("sets");
        }),
        ("the same bytes in a new file", |data| {
            fs::write(data.join("next"), b"one").expect("writes");
            fs::rename(data.join("next"), data.join("sub/one")).expect("renames");
        }),
        ("a file more", |data| fs::write(data.join("more"), b"").expect("writes")),
        ("a file less", |data| fs::remove_file(data.join("two")).expect("removes")),
        ("a file by another name", |data| {
            fs::rename(data.join("two"), data.join("three")).expect("renames");
        }),
        ("a name more of a file", |data| {
            fs::hard_link(data.join("two"), data.join("again")).expect("links");
        }),
        ("another target", |data| {
            fs::remove_file(data.join("link")).expect("removes");
            std::os::unix::fs::symlink("two", data.join("link")).expect("links");
        }),
        ("another owner of a file", |data| {
            std::os::unix::fs::chown(data.join("two"), Some(7), None).expect("runs as root");
        }),
        ("another owner of the volume", |data| {
            std::os::unix::fs::chown(data, Some(7), None).expect("runs as root");
        }),
        ("an attribute of a directory", |data| {
            let (name, flags) = ("user.x", rustix::fs::XattrFlags::empty());
            rustix::fs::setxattr(data.join("sub"), name, b"1", flags).expect("sets");
        }),
    ];
    for (number, (what, change)) in changes.into_iter().enumerate() {
        let scene = Scene::new();
        let data = scene.temp.path().join("data");
        fs::create_dir(data.join("sub")).expect("creates");
        scene.write("sub/one", b"one");
        scene.write("two", b"two");
        std::os::unix::fs::symlink("one", data.join("link")).expect("links");
        fs::hard_link(data.join("two"), data.join("twice")).expect("links");
        std::os::unix::fs::chown(data.join("two"), Some(70), None).expect("runs as root");
        let captured = |since: i128| {
            let mut packing = scene.begin(None);
            let walked = packing.capture_kept(&scene.volumes(), &roots(), since);
            let packed = packing.finish().expect("finishes");
            (packed, walked.expect("captures").tree.cid)
        };
        let looked = |(packed, cid): &(Packed, Cid)| {
            let path = |name| packed.dir.path().join(name);
            let (manifest, seen) = (path(MANIFEST), path(SEEN));
            is_unchanged(&scene.volumes(), &roots(), (&manifest, &seen), *cid).expect("looks")
        };
        let later = clock() + 1_000_000_000;
        let settled = captured(later);
        assert!(looked(&settled), "nothing has changed");
        assert!(!looked(&captured(0)), "every file may have changed after it was read");
        let other = (captured(later).0, Cid::from_digest([7; 32]));
        assert!(!looked(&other), "it is of another record");
        change(&data);
        assert_eq!(looked(&settled), number == 0, "{what}");
    }
}
