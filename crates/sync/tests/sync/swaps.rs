//! An app that exchanges its directories for links that lead out, all the time and under whatever is
//! done with them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{Cid, SyncRole};
use belay_store::{BlobStore, LocalStore};
use belay_sync::{CapturePolicy, PublishCommand, SyncSpec, recover};
use flate2::read::GzDecoder;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use serde_json::{Map, Value, json};

use crate::scene::{
    FORMATS, Place, Running, VOLUMES, eventually, fill, spec, start, start_with, tree,
};

/// Exchanges a directory with a link beside it until it is ended.
struct Swapper {
    over: Arc<AtomicBool>,
    place: PathBuf,
    thread: std::thread::JoinHandle<u64>,
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

fn beside(place: &Path) -> PathBuf {
    place.with_extension("swap")
}

fn exchange(place: &Path) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, place, CWD, beside(place), RenameFlags::EXCHANGE)
}

impl Swapper {
    fn begin(place: PathBuf, outside: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, swapped, outside) = (Arc::clone(&over), place.clone(), outside.to_owned());
        let thread = std::thread::spawn(move || {
            let (mut swaps, mut aside) = (0, 0);
            while !ends.load(Ordering::Relaxed) {
                swaps += u64::from(exchange(&swapped).is_ok());
                // What is done with the place may take the link away, or put a directory there.
                if !is_link(&swapped) && !is_link(&beside(&swapped)) {
                    let away = swapped.with_extension(format!("aside-{aside}"));
                    aside += u64::from(fs::rename(beside(&swapped), away).is_ok());
                    let _ = symlink(&outside, beside(&swapped));
                }
                std::thread::yield_now();
            }
            swaps
        });
        Self { over, place, thread }
    }

    /// Leaves the directory in its place, and says how often it was exchanged.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let swaps = self.thread.join().expect("it does not panic");
        if is_link(&self.place) {
            exchange(&self.place).expect("exchanges");
        }
        swaps
    }
}

/// A directory that is nobody's business, with names that lie in the exchanged ones too.
fn outside(root: &Path, content: &[u8]) -> PathBuf {
    let outside = root.join("outside");
    for dir in ["", "b", "sub"] {
        fs::create_dir_all(outside.join(dir)).expect("creates");
        for name in ["f", "state", "first"] {
            fs::write(outside.join(dir).join(name), content).expect("writes");
        }
    }
    let request = json!({"archive_paths": ["/app"], "request_id": "outside"}).to_string();
    fs::write(outside.join("request.json"), request).expect("writes");
    fs::write(outside.join("response.json"), "untouched").expect("writes");
    outside
}

async fn publish(running: &Running, path: &str) -> bool {
    let command = PublishCommand { archive_paths: vec![path.into()], metadata: Map::new() };
    running.handle.publish(command).await.is_ok()
}

#[tokio::test]
async fn b28_a_control_directory_that_is_swapped_leads_no_claim_and_no_answer_out() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "first");
    let outside = outside(temp.path(), b"theirs");
    let before = tree(&outside);
    let store = temp.path().join("store");
    let running = start(&place, &store, SyncRole::Provider);
    eventually("the control directory", || place.sync_file("").is_dir().then_some(())).await;

    let directory = place.control().join("volume-sync");
    let request = place.control().join("request");
    let swapper = Swapper::begin(directory.clone(), &outside);
    let mut answers = 0;
    for round in 0..30 {
        // The link has the name half of the time; what is moved there then is moved nowhere.
        let body = json!({"archive_paths": ["/app"], "request_id": format!("r{round}")});
        fs::write(&request, body.to_string()).expect("writes");
        eventually("a moment without the link", || {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::open(&directory, flags, Mode::empty()).ok()?;
            rustix::fs::renameat(CWD, &request, &dir, "request.json").ok()
        })
        .await;
        running.looked().await;
        running.looked().await;
        let answered = [directory.clone(), beside(&directory)].into_iter().any(|path| {
            let dir = if is_link(&path) { None } else { Some(path) };
            let text = dir.and_then(|dir| fs::read_to_string(dir.join("response.json")).ok());
            let answer = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            answer.is_some_and(|answer| answer["status"] == "ok")
        });
        answers += u32::from(answered);
        assert_eq!(tree(&outside), before, "round {round}");
    }
    let swaps = swapper.end();
    assert!(swaps > 100 && answers > 0, "{swaps} swaps, {answers} answers seen");

    // Once it is left alone, everything goes its way again.
    for name in ["response.json", "request.json", "request.json.processing"] {
        let _ = fs::remove_file(place.sync_file(name));
    }
    place.request(&json!({"archive_paths": ["/app"], "request_id": "last"}));
    eventually("the last answer", || {
        let answer = place.json("response.json")?;
        (answer["request_id"] == "last" && answer["status"] == "ok").then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(tree(&outside), before);
}

/// Bytes that do not compress, and so lie in objects as they are.
fn secret() -> Vec<u8> {
    let mut bytes = vec![0; 16 * 1024];
    blake3::Hasher::new().update(b"secret").finalize_xof().fill(&mut bytes);
    bytes
}

/// Whether one of the objects that were not looked at before has the secret in it.
async fn shows_the_secret(store: &Path, seen: &mut BTreeSet<Cid>) -> bool {
    let needle = &secret()[1_000..1_032];
    let objects = LocalStore::open(store).expect("opens").list(None, 10_000).await.expect("lists");
    objects.into_iter().filter(|object| seen.insert(object.id)).any(|object| {
        let name = object.id.to_string();
        let stored = fs::File::open(store.join("blobs").join(&name[57..]).join(&name));
        let mut bytes = Vec::new();
        stored.expect("opens").read_to_end(&mut bytes).expect("reads");
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut tar = Vec::new();
            GzDecoder::new(&bytes[..]).read_to_end(&mut tar).expect("decompresses");
            bytes = tar;
        }
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn b28_a_directory_that_is_swapped_while_it_is_captured_shows_nothing_of_the_host() {
    for (format, capture) in [
        (ArchiveFormat::Tree, CapturePolicy::Stopped),
        (ArchiveFormat::Tree, CapturePolicy::Live),
        (ArchiveFormat::TarGz, CapturePolicy::Stopped),
    ] {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let place = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&place, "first");
        let outside = outside(temp.path(), &secret());
        let before = tree(&outside);
        let store = temp.path().join("store");
        let spec = SyncSpec { format, capture, ..spec(SyncRole::Provider) };
        let running = start_with(&place, &VOLUMES, &store, spec);
        let sub = place.data("data").join("sub");
        let swapper = Swapper::begin(sub.clone(), &outside);
        let (mut published, mut seen) = (0, BTreeSet::new());
        for round in 0..15 {
            // The directory on the way to what is published, and one that is met on the walk.
            let path = ["/app/data/sub", "/app", "/app/data/sub/first"][round % 3];
            let state = place.data("data").join("state");
            fs::write(state, round.to_string()).expect("writes");
            published += u32::from(publish(&running, path).await);
            assert!(!shows_the_secret(&store, &mut seen).await, "{format:?} {capture:?} {path}");
        }
        let swaps = swapper.end();
        assert!(swaps > 100 && published > 0, "{swaps} swaps, {published} publishes");
        assert_eq!(tree(&outside), before);

        // What is there to be seen would be seen.
        fs::write(sub.join("secret"), secret()).expect("writes");
        assert!(publish(&running, "/app").await);
        assert!(shows_the_secret(&store, &mut seen).await, "{format:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn b28_a_directory_that_is_swapped_while_a_tree_takes_its_place_leads_nothing_out() {
    for (format, swapped) in FORMATS.into_iter().zip(["a", "a/b"]) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        let outside = outside(temp.path(), b"theirs");
        let before = tree(&outside);
        let store = temp.path().join("store");
        for place in [&provider, &consumer] {
            fs::create_dir_all(place.data("data").join("a/b")).expect("creates");
        }
        let spec = SyncSpec { format, ..spec(SyncRole::Provider) };
        let publishing = start_with(&provider, &VOLUMES, &store, spec);
        let mut running = start(&consumer, &store, SyncRole::Consumer);
        let swapper = Swapper::begin(consumer.data("data").join(swapped), &outside);
        let published = async |round: &str| {
            fs::write(provider.data("data").join("a/b/f"), round).expect("writes");
            let archive_paths = vec!["/app/data/a/b".into()];
            let command = PublishCommand { archive_paths, metadata: Map::new() };
            publishing.handle.publish(command).await.expect("publishes").cid
        };
        for round in 0..12 {
            let cid = published(&round.to_string()).await;
            let status = running
                .status("an apply or its refusal", |status| {
                    let is_last = status.last_apply.as_ref().is_some_and(|last| last.cid == cid);
                    is_last || status.quarantine.contains_key(&cid.to_string())
                })
                .await;
            assert_eq!(tree(&outside), before, "{swapped} {round}");
            if status.halted.is_some() {
                // As whoever starts the workload does.
                running.stop().await;
                let _ = recover(&consumer.state(), &consumer.layout(&VOLUMES)).await;
                assert_eq!(tree(&outside), before, "{swapped} {round}: recovered");
                running = start(&consumer, &store, SyncRole::Consumer);
            }
        }
        let swaps = swapper.end();
        assert!(swaps > 100, "{swaps} swaps");

        // Once it is left alone, the next state comes whole.
        let cid = published("last").await;
        running
            .status("the last state", |status| {
                status.last_apply.as_ref().is_some_and(|last| last.cid == cid)
            })
            .await;
        assert_eq!(running.handle.status().borrow().halted, None);
        let (found, wanted) =
            (consumer.data("data").join("a/b"), provider.data("data").join("a/b"));
        assert_eq!(tree(&found), tree(&wanted));
        assert_eq!(tree(&outside), before);
        running.stop().await;
        publishing.stop().await;
    }
}
