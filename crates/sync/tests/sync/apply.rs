//! The consumer's side.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use belay_protocol::record::{ArchiveFormat, UNSIGNED_SCHEMA};
use belay_protocol::{Cid, SyncRole};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::{PublishCommand, WindowRefused, clear_halt, is_recovery_needed, recover};
use rustix::fs::XattrFlags;
use serde_json::{Map, Value, json};

use crate::commands::applied;
use crate::faults::Immutable;
use crate::scene::{
    Place, Running, VOLUMES, eventually, fill, provide_as, spec, start, start_with, tree, trees,
};
use crate::stored::head;

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
    consumer: Place,
    publishing: Running,
}

impl Scene {
    fn new() -> Self {
        Self::of(ArchiveFormat::Tree)
    }

    fn of(format: ArchiveFormat) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        fill(&provider, "first");
        let publishing = provide_as(&provider, &temp.path().join("store"), format);
        Self { temp, provider, consumer, publishing }
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    fn consume(&self) -> Running {
        start(&self.consumer, &self.store_path(), SyncRole::Consumer)
    }

    async fn publish(&self, paths: &[&str]) -> Cid {
        let command = PublishCommand {
            archive_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            metadata: Map::new(),
        };
        self.publishing.handle.publish(command).await.expect("publishes").cid
    }

    async fn publish_state(&self, state: &str) -> Cid {
        fill(&self.provider, state);
        self.publish(&["/app"]).await
    }

    /// Puts a changed copy of the head at the head, as a hostile or broken provider would.
    async fn forge(&self, change: impl FnOnce(&mut Value)) {
        let store = self.store();
        let key = "models".parse().expect("a key");
        let head = store.head(&key).await.expect("reads").expect("a head");
        let mut record: Value = serde_json::from_slice(&head.bytes).expect("a record");
        change(&mut record);
        // As from before records were signed: no test could sign for the provider.
        let fields = record.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "signer" && name != "signature");
        record["schema"] = json!(UNSIGNED_SCHEMA);
        let bytes = record.to_string().into();
        store.compare_and_set(&key, Some(head.revision), bytes).await.expect("sets");
    }
}

async fn failed(running: &Running, stage: &str) -> String {
    let status = running
        .status("a failure", |status| {
            status.last_failure.as_ref().is_some_and(|failure| failure.stage == stage)
        })
        .await;
    status.last_failure.expect("waited for").error
}

#[tokio::test]
async fn sm100_sx32_a_record_replaces_the_whole_state_with_everything_exact() {
    let scene = Scene::new();
    let data = scene.provider.data("data");
    fs::write(data.join("secret"), "s").expect("writes");
    fs::set_permissions(data.join("secret"), fs::Permissions::from_mode(0o600)).expect("modes");
    fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o1777)).expect("modes");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("modes");
    fs::hard_link(data.join("secret"), data.join("sub/again")).expect("links");
    symlink("/etc/passwd", data.join("link")).expect("links");
    fs::create_dir(data.join("empty")).expect("creates");
    let mut sparse = vec![0_u8; 1 << 20];
    sparse.extend_from_slice(b"end");
    fs::write(data.join("sparse"), &sparse).expect("writes");
    fs::write(data.join("set-id"), "x").expect("writes");
    fs::set_permissions(data.join("set-id"), fs::Permissions::from_mode(0o6755)).expect("modes");
    let note = fs::File::open(data.join("secret")).expect("opens");
    rustix::fs::fsetxattr(&note, "user.note", b"kept", XattrFlags::CREATE).expect("attributes");
    fs::write(data.join("x".repeat(200)), "long").expect("writes");

    // What the consumer had, and what must go.
    fs::write(scene.consumer.data("data").join("stale"), "old").expect("writes");
    fs::create_dir_all(scene.consumer.data("app").join("data/hidden")).expect("creates");
    let running = scene.consume();
    let cid = scene.publish(&["/app"]).await;
    applied(&running, cid).await;

    let mut expected = trees(&scene.provider);
    for shown in expected[1].values_mut() {
        *shown = shown.replace("file 6755", "file 755");
    }
    assert_eq!(trees(&scene.consumer), expected, "SM061, B3, B11, B12: exact but for set-id");
    let copied = scene.consumer.data("data");
    let note = fs::File::open(copied.join("sub/again")).expect("opens");
    let mut value = [0_u8; 16];
    let count = rustix::fs::fgetxattr(&note, "user.note", &mut value[..]).expect("attributes");
    assert_eq!(&value[..count], b"kept");
    let blocks = fs::metadata(copied.join("sparse")).expect("exists").blocks();
    assert!(blocks * 512 < 1 << 20, "a hole stays a hole");

    assert_eq!(running.window.events(), ["stop for apply", "start applied"]);
    let last = scene.consumer.json("last_apply.json").expect("the notice");
    assert_eq!(last["cid"], cid.to_string());
    let received = scene.consumer.state().join("sync_history/received");
    assert_eq!(fs::read_dir(received).expect("lists").count(), 1);
    for (name, _) in VOLUMES {
        let left: Vec<_> = fs::read_dir(scene.consumer.private(name)).expect("lists").collect();
        assert_eq!(left.len(), 1, "only the mark stays: {left:?}");
    }
    running.stop().await;
    scene.publishing.stop().await;
}

#[tokio::test]
async fn sm062_what_is_applied_belongs_to_the_owner_of_the_volume() {
    let scene = Scene::new();
    let data = scene.consumer.data("data");
    std::os::unix::fs::chown(&data, Some(1234), Some(2345)).expect("this test runs as root");
    let running = scene.consume();
    let cid = scene.publish(&["/app/data"]).await;
    applied(&running, cid).await;
    for path in [data.clone(), data.join("sub"), data.join("state")] {
        let metadata = fs::metadata(path).expect("exists");
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 2345));
    }
    running.stop().await;
}

#[tokio::test]
async fn sx38_equal_content_is_applied_once_and_b6_again_when_the_volume_was_reset() {
    let scene = Scene::new();
    let cid = scene.publish_state("one").await;
    let running = scene.consume();
    applied(&running, cid).await;
    running.stop().await;

    // A new process, and a new record of the same content.
    let running = scene.consume();
    scene
        .forge(|record| {
            record["seq"] = json!(2);
            record["version"] = json!(1);
        })
        .await;
    running
        .status("the new head", |status| status.head.as_ref().is_some_and(|head| head.seq == 2))
        .await;
    running.looked().await;
    running.looked().await;
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;

    let data = scene.consumer.data("data");
    fs::remove_dir_all(&data).expect("resets");
    fs::create_dir(&data).expect("resets");
    let running = scene.consume();
    applied(&running, cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    running.stop().await;
}

#[tokio::test]
async fn sx39_a_later_record_is_applied_whatever_its_version_and_an_earlier_one_is_not() {
    let scene = Scene::new();
    let running = scene.consume();
    let first = scene.publish_state("one").await;
    applied(&running, first).await;
    let old = head(&scene.store_path()).await;
    let second = scene.publish_state("two").await;
    applied(&running, second).await;
    assert!(scene.consumer.data("data").join("sub/two").exists());

    scene.forge(|record| *record = serde_json::to_value(&old).expect("serialises")).await;
    let error = failed(&running, "validation").await;
    assert!(error.contains("older than one accepted before"), "{error}");
    assert!(scene.consumer.data("data").join("sub/two").exists(), "a replay changes nothing");
    scene.forge(|record| record["seq"] = json!(2)).await;
    let error = running
        .status("the fork", |status| {
            status
                .last_failure
                .as_ref()
                .is_some_and(|failure| failure.error.contains("two providers"))
        })
        .await;
    assert!(!error.quarantine.is_empty());
    assert_eq!(running.window.events().len(), 4);
    // The content of the fork may be lawful, and in another place it is.
    scene.forge(|record| record["seq"] = json!(3)).await;
    applied(&running, first).await;
    running.stop().await;
}

#[tokio::test]
async fn sx40_sx43_a_record_that_does_not_fit_here_is_told_and_touches_nothing() {
    let scene = Scene::new();
    scene.publish_state("one").await;
    scene.forge(|record| record["manifest"]["archive_paths"] = json!(["/srv"])).await;
    let running = scene.consume();
    let error = failed(&running, "validation").await;
    assert!(error.contains("/srv"), "{error}");
    let notice = eventually("the notice", || scene.consumer.json("apply_error.json")).await;
    assert_eq!((&notice["stage"], &notice["failure_count"]), (&json!("validation"), &json!(1)));
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert!(scene.consumer.json("last_apply.json").is_none());
    assert!(!scene.consumer.state().join("sync_history").exists());

    // A good record ends it.
    let cid = scene.publish_state("two").await;
    applied(&running, cid).await;
    eventually("the end of the notice", || {
        scene.consumer.json("apply_error.json").is_none().then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn sx41_sm104_damaged_and_missing_objects_are_quarantined_before_any_stop() {
    let scene = Scene::new();
    scene.publish_state("one").await;
    let blob = head(&scene.store_path()).await.manifest.blob.to_string();
    let stored = scene.store_path().join("blobs").join(&blob[57..]).join(&blob);
    let mut bytes = fs::read(&stored).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, bytes).expect("damages");
    let running = scene.consume();
    let error = failed(&running, "download").await;
    assert!(error.contains("is not"), "{error}");
    let status = running.status("quarantine", |status| !status.quarantine.is_empty()).await;
    assert_eq!(status.quarantine.len(), 1);
    running.stop().await;

    // It lasts beyond the process, and nothing was touched.
    let running = scene.consume();
    running.looked().await;
    let status = running.status("the head", |status| status.head.is_some()).await;
    assert_eq!(status.quarantine.len(), 1);
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert!(tree(&scene.consumer.data("data")).len() == 1);
    running.stop().await;
}

#[tokio::test]
async fn sx44_a_stop_that_is_not_confirmed_leaves_everything() {
    let scene = Scene::new();
    let running = scene.consume();
    running.window.0.lock().expect("not poisoned").refuse =
        Some(WindowRefused::NotConfirmed { reason: "no answer".into() });
    scene.publish_state("one").await;
    failed(&running, "runtime_stop").await;
    eventually("an empty private directory", || {
        let left = fs::read_dir(scene.consumer.private("data")).expect("lists").count();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(tree(&scene.consumer.data("data")).len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_busy_workload_is_asked_again_without_a_quarantine() {
    let scene = Scene::new();
    let running = scene.consume();
    let refuse = |refused| running.window.0.lock().expect("not poisoned").refuse = refused;
    refuse(Some(WindowRefused::Busy { reason: "a deploy is under way".into() }));
    let cid = scene.publish_state("one").await;
    running.status("the head", |status| status.head.is_some()).await;
    running.looked().await;
    let status = running.handle.status().borrow().clone();
    assert_eq!((status.last_failure, status.quarantine.len()), (None, 0));
    refuse(None);
    applied(&running, cid).await;
    running.stop().await;
}

#[tokio::test]
async fn sm059_sm060_sm110_links_in_the_consumers_volume_lead_nowhere() {
    let scene = Scene::new();
    let outside = scene.temp.path().join("outside");
    fs::create_dir(&outside).expect("creates");
    fs::write(outside.join("state"), "untouched").expect("writes");
    let data = scene.consumer.data("data");

    // A parent that is a link is refused before the stop.
    fs::create_dir_all(scene.provider.data("data").join("a/b")).expect("creates");
    fs::write(scene.provider.data("data").join("a/b/f"), "new").expect("writes");
    symlink(&outside, data.join("a")).expect("links");
    let running = scene.consume();
    scene.publish(&["/app/data/a/b"]).await;
    failed(&running, "commit").await;
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert_eq!(tree(&outside).len(), 2);

    // A link in the place itself is replaced, not followed.
    fs::remove_file(data.join("a")).expect("removes");
    symlink(&outside, data.join("state")).expect("links");
    let cid = scene.publish(&["/app/data/state"]).await;
    applied(&running, cid).await;
    assert_eq!(fs::read_to_string(data.join("state")).expect("reads"), "first");
    assert!(fs::symlink_metadata(data.join("state")).expect("exists").is_file());
    assert_eq!(fs::read_to_string(outside.join("state")).expect("reads"), "untouched");
    running.stop().await;
}

#[tokio::test]
async fn sm106_sm107_b2_a_commit_that_fails_half_way_is_made_undone_and_quarantined() {
    let scene = Scene::new();
    let running = scene.consume();
    fs::create_dir(scene.provider.data("data").join("x")).expect("creates");
    fs::write(scene.provider.data("data").join("x/f"), "one").expect("writes");
    let paths = ["/app/data/state", "/app/data/x/f"];
    let first = scene.publish(&paths).await;
    applied(&running, first).await;
    let before = tree(&scene.consumer.data("data"));

    let immutable = Immutable::make(&scene.consumer.data("data").join("x"));
    fs::write(scene.provider.data("data").join("state"), "two").expect("writes");
    fs::write(scene.provider.data("data").join("x/f"), "two").expect("writes");
    scene.publish(&paths).await;
    let error = failed(&running, "commit").await;
    assert!(error.contains("the old one was put back"), "{error}");
    let after = tree(&scene.consumer.data("data"));
    let content = |tree: &std::collections::BTreeMap<String, String>| {
        (tree["state"].clone(), tree["x/f"].clone(), tree["x"].clone())
    };
    assert_eq!(content(&after), content(&before));
    assert_eq!(running.window.events()[2..], ["stop for apply", "start unchanged"]);
    running.looked().await;
    running.status("the quarantine", |status| status.quarantine.len() == 1).await;
    assert_eq!(running.window.events().len(), 4, "B2: it is not tried again at once");
    drop(immutable);

    // B5: what was applied before the failure counts as applied no longer.
    fs::write(scene.provider.data("data").join("state"), "first").expect("writes");
    fs::write(scene.provider.data("data").join("x/f"), "one").expect("writes");
    let again = scene.publish(&paths).await;
    assert_eq!(again, first);
    applied(&running, again).await;
    eventually("another apply of the first state", || {
        (running.window.events().len() == 6).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_place_that_does_not_exist_gets_its_parents_and_a_file_becomes_a_directory() {
    let scene = Scene::new();
    fs::create_dir_all(scene.provider.data("data").join("x/y/z")).expect("creates");
    fs::write(scene.provider.data("data").join("x/y/z/f"), "deep").expect("writes");
    fs::write(scene.consumer.data("data").join("kept"), "beside").expect("writes");
    fs::write(scene.consumer.data("data").join("sub"), "a file here").expect("writes");
    let running = scene.consume();
    let cid = scene.publish(&["/app/data/x/y/z", "/app/data/sub"]).await;
    applied(&running, cid).await;
    let data = scene.consumer.data("data");
    assert_eq!(fs::read_to_string(data.join("x/y/z/f")).expect("reads"), "deep");
    assert_eq!(fs::read_to_string(data.join("kept")).expect("reads"), "beside");
    assert!(data.join("sub/first").is_file());
    running.stop().await;
}

#[tokio::test]
async fn volumes_may_be_divided_otherwise_on_the_consumer() {
    let scene = Scene::new();
    let data = scene.provider.data("data");
    fs::hard_link(data.join("state"), scene.provider.data("data").join("sub/alias"))
        .expect("links");
    let single = [("app", "/app")];
    let place = Place::new(&scene.temp.path().join("single"), &single);
    let running = start_with(&place, &single, &scene.store_path(), spec(SyncRole::Consumer));
    let cid = scene.publish(&["/app"]).await;
    applied(&running, cid).await;
    assert_eq!(tree(&place.data("app").join("data")), tree(&data));
    running.stop().await;

    let finer = [("app", "/app"), ("sub", "/app/data/sub")];
    let place = Place::new(&scene.temp.path().join("finer"), &finer);
    let running = start_with(&place, &finer, &scene.store_path(), spec(SyncRole::Consumer));
    applied(&running, cid).await;
    assert_eq!(fs::read_to_string(place.data("sub").join("alias")).expect("a copy"), "first");
    assert!(place.data("app").join("data/sub").is_dir(), "the mount point");
    assert_eq!(fs::read_dir(place.data("app").join("data/sub")).expect("lists").count(), 0);
    running.stop().await;
}

#[tokio::test]
async fn b16_b17_what_cannot_fit_is_refused_while_the_app_runs() {
    let scene = Scene::of(ArchiveFormat::TarGz);
    scene.publish_state("one").await;
    let size = head(&scene.store_path()).await.manifest.archive_size_bytes;
    scene
        .forge(|record| {
            record["manifest"]["content_bytes"] = json!(200 * 1024 * 1024);
            record["manifest"]["archive_size_bytes"] = json!(1024 * 1024);
        })
        .await;
    let running = scene.consume();
    let error = failed(&running, "validation").await;
    assert!(error.contains("no room"), "{error}");

    // An archive that holds more than its manifest says is left where it exceeds that.
    scene
        .forge(|record| {
            record["seq"] = json!(9);
            record["cid"] = json!(Cid::from_digest([9; 32]).to_string());
            record["manifest"]["content_bytes"] = json!(10);
            record["manifest"]["archive_size_bytes"] = json!(size);
        })
        .await;
    let error = failed(&running, "extract").await;
    assert!(error.contains("more than 10 bytes"), "{error}");
    assert_eq!(running.window.events(), Vec::<String>::new());
    running.stop().await;
}

/// A member as no writer of ours would make it.
fn hostile(name: &[u8], kind: tar::EntryType, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[tokio::test]
async fn sm056_to_sm060_hostile_archives_write_nothing_and_stop_nothing() {
    use tar::EntryType as Kind;

    let scene = Scene::of(ArchiveFormat::TarGz);
    scene.publish_state("one").await;
    let running = scene.consume();
    applied(&running, head(&scene.store_path()).await.cid).await;
    let before = trees(&scene.consumer);
    let outside = tree(scene.temp.path().join("provider").as_path());

    let root = || hostile(b"app/", Kind::Directory, b"", b"");
    let end = || vec![0_u8; 1024];
    let file = |name: &[u8]| hostile(name, Kind::Regular, b"", b"x");
    let archives: Vec<Vec<Vec<u8>>> = vec![
        vec![root(), file(b"app/../../../escaped"), end()],
        vec![root(), file(b"/etc/escaped"), end()],
        vec![root(), file(b"other/escaped"), end()],
        vec![root(), hostile(b"app/l", Kind::Symlink, b"/tmp", b""), file(b"app/l/escaped"), end()],
        vec![root(), hostile(b"app/z", Kind::Link, b"etc/passwd", b""), end()],
        vec![root(), hostile(b"app/z", Kind::Link, b"app/../../etc/passwd", b""), end()],
        vec![
            root(),
            hostile(b"app/a", Kind::Symlink, b"/etc/passwd", b""),
            hostile(b"app/z", Kind::Link, b"app/a", b""),
            end(),
        ],
        vec![root(), hostile(b"app/d", Kind::Char, b"", b""), end()],
        vec![root(), hostile(b"app/d", Kind::Fifo, b"", b""), end()],
        vec![root(), file(b"app/f"), file(b"app/f"), end()],
        vec![root(), file(b"app/g"), file(b"app/f"), end()],
        vec![root(), file(b"app/data"), end()],
        vec![root(), file(b"app/f")],
        vec![root(), end(), b"more".to_vec()],
        vec![b"not an archive at all".repeat(100)],
        vec![hostile(b"pax", Kind::XHeader, b"", b"99999999999999999999 path=x\n"), root(), end()],
    ];
    for (number, archive) in archives.into_iter().enumerate() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &archive.concat()).expect("compresses");
        let bytes = gzip.finish().expect("compresses");
        let blob = Cid::from_digest(*blake3::hash(&bytes).as_bytes());
        let path = scene.temp.path().join("hostile");
        fs::write(&path, &bytes).expect("writes");
        let source = fs::File::open(&path).expect("opens");
        scene.store().put_if_absent(blob, source, bytes.len() as u64).await.expect("stores");
        let cid = Cid::from_digest([u8::try_from(number).expect("few"); 32]);
        scene
            .forge(|record| {
                record["seq"] = json!(number + 2);
                record["cid"] = json!(cid.to_string());
                record["manifest"]["blob"] = json!(blob.to_string());
                record["manifest"]["archive_size_bytes"] = json!(bytes.len());
                record["manifest"]["members"] = json!(10);
                record["manifest"]["content_bytes"] = json!(10);
            })
            .await;
        let status = running
            .status("the refusal", |status| status.quarantine.contains_key(&cid.to_string()))
            .await;
        let failure = status.last_failure.expect("a refusal is told");
        assert_eq!(failure.stage, "extract", "archive {number}: {}", failure.error);
    }
    assert_eq!(trees(&scene.consumer), before);
    assert_eq!(tree(scene.temp.path().join("provider").as_path()), outside);
    assert!(!scene.temp.path().join("escaped").exists());
    assert_eq!(running.window.events().len(), 2, "only the first, lawful apply");
    running.stop().await;
}

#[tokio::test]
async fn an_archive_with_another_tree_than_the_record_names_is_refused() {
    let scene = Scene::of(ArchiveFormat::TarGz);
    scene.publish_state("one").await;
    scene.forge(|record| record["cid"] = json!(Cid::from_digest([9; 32]).to_string())).await;
    let running = scene.consume();
    let error = failed(&running, "extract").await;
    assert!(error.contains("content id differs"), "{error}");
    assert_eq!(running.window.events(), Vec::<String>::new());
    eventually("nothing staged", || {
        (fs::read_dir(scene.consumer.private("data")).expect("lists").count() == 0).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn sm105_b8_bookkeeping_that_fails_does_not_undo_an_apply() {
    let scene = Scene::new();
    fs::create_dir_all(scene.consumer.state()).expect("creates");
    fs::write(scene.consumer.state().join("sync_history"), "in the way").expect("blocks");
    let running = scene.consume();
    let cid = scene.publish_state("one").await;
    applied(&running, cid).await;
    assert_eq!(running.window.events(), ["stop for apply", "start applied"]);
    running.stop().await;
    let running = scene.consume();
    running.status("the head", |status| status.head.is_some()).await;
    running.looked().await;
    assert_eq!(running.window.events(), Vec::<String>::new(), "the volume's mark says enough");
    running.stop().await;
}

#[tokio::test]
async fn b1_b2_an_uncertain_state_halts_durably_and_a_verified_apply_lifts_it() {
    let scene = Scene::new();
    let first = scene.publish_state("one").await;
    let running = scene.consume();
    applied(&running, first).await;
    running.stop().await;

    // A journal that names what neither place holds, as after a foreign hand.
    let record = serde_json::to_value(head(&scene.store_path()).await).expect("serialises");
    let journal = json!({
        "record": record, "directory": "staging-gone",
        "steps": [{"volume": "data", "below": "", "slot": "u0",
                   "staged": {"inode": 1, "born": null}, "replaced": {"inode": 2, "born": null}}],
        "untouched": [], "phase": {"phase": "applying"},
    });
    let state = scene.consumer.state();
    fs::write(state.join("sync/apply.json"), journal.to_string()).expect("writes");
    let layout = scene.consumer.layout(&VOLUMES);
    for _ in 0..2 {
        let recovery = recover(&state, &layout).await.expect("recovers");
        assert!(recovery.halt.is_some(), "it stays until something ends it");
    }
    let second = scene.publish_state("two").await;
    let running = scene.consume();
    assert!(running.handle.status().borrow().halted.is_some());
    applied(&running, second).await;
    assert_eq!(running.handle.status().borrow().halted, None);
    running.stop().await;
    let recovery = recover(&state, &layout).await.expect("recovers");
    assert_eq!(recovery.halt, None);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
}

#[tokio::test]
async fn an_unreadable_journal_halts_until_an_operator_says_otherwise() {
    let scene = Scene::new();
    let state = scene.consumer.state();
    fs::create_dir_all(state.join("sync")).expect("creates");
    fs::write(state.join("sync/apply.json"), "{").expect("writes");
    let layout = scene.consumer.layout(&VOLUMES);
    assert!(is_recovery_needed(&state).await);
    let recovery = recover(&state, &layout).await.expect("recovers");
    assert!(recovery.halt.expect("halted").contains("cannot be read"));

    // An operator's word ends it, and a start asks again.
    clear_halt(&state).await.expect("clears");
    assert!(!is_recovery_needed(&state).await);
    let recovery = recover(&state, &layout).await.expect("recovers");
    assert_eq!(recovery.halt, None);
}

#[tokio::test]
async fn leftovers_of_staging_go_at_recovery_and_nothing_else_does() {
    let scene = Scene::new();
    let private = scene.consumer.private("data");
    fs::create_dir_all(private.join("staging-x/u0/deep")).expect("creates");
    fs::write(private.join("other"), "stays").expect("writes");
    let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None);
    let left: Vec<_> =
        fs::read_dir(&private).expect("lists").map(|e| e.expect("reads").file_name()).collect();
    assert_eq!(left, ["other"]);
}

#[tokio::test]
async fn retired_objects_and_other_roles_do_not_confuse_a_late_consumer() {
    let scene = Scene::of(ArchiveFormat::TarGz);
    for state in ["one", "two", "three"] {
        scene.publish_state(state).await;
    }
    let cid = head(&scene.store_path()).await.cid;
    let running = scene.consume();
    applied(&running, cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    assert!(scene.store().list(None, 9).await.expect("lists").len() == 2);
    let refused = running
        .handle
        .publish(PublishCommand { archive_paths: vec!["/app".into()], metadata: Map::new() })
        .await;
    assert!(refused.is_err(), "a consumer publishes nothing");
    running.stop().await;
}
