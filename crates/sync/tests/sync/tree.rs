//! What the `tree` format is for: what did not change is neither read, nor stored, nor fetched.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{Cid, SyncRole};
use belay_store::{BlobStore, LocalStore};

use crate::commands::{applied, publish};
use crate::content::{noise, overwrite};
use crate::faulty::Faulty;
use crate::scene::{
    Place, Running, VOLUMES, eventually, provide_as, spec, start, start_on, tree, trees,
};
use crate::stored::{self, records};

const MIB: u64 = 1024 * 1024;

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
    consumer: Place,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        fs::create_dir(provider.data("app").join("data")).expect("creates");
        Self { temp, provider, consumer }
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    fn provide(&self) -> Running {
        start(&self.provider, &self.store_path(), SyncRole::Provider)
    }

    fn consume(&self) -> Running {
        start(&self.consumer, &self.store_path(), SyncRole::Consumer)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.provider.data("data").join(name)
    }

    fn stored_at(&self, blob: Cid) -> PathBuf {
        let name = blob.to_string();
        self.store_path().join("blobs").join(&name[57..]).join(&name)
    }

    /// The stored objects that are packs.
    async fn packs(&self) -> Vec<PathBuf> {
        let blobs = self.store().list(None, 1_000).await.expect("lists");
        let paths = blobs.iter().map(|blob| self.stored_at(blob.id));
        paths.filter(|path| begins(path, b"belay pack 1\n")).collect()
    }
}

fn begins(path: &Path, head: &[u8]) -> bool {
    fs::read(path).expect("reads").starts_with(head)
}

async fn refused(running: &Running) -> String {
    let status = running
        .status("a refusal", |status| {
            status.last_failure.is_some() && !status.quarantine.is_empty()
        })
        .await;
    let failure = status.last_failure.expect("waited for");
    assert_eq!(failure.stage, "download", "{}", failure.error);
    failure.error
}

#[tokio::test]
async fn a_change_is_stored_and_fetched_with_what_lies_around_it_alone() {
    let scene = Scene::new();
    fs::write(scene.file("large"), noise(1, 8 * MIB)).expect("writes");
    for number in 0..50 {
        fs::write(scene.file(&format!("f{number}")), noise(number, 3_000)).expect("writes");
    }
    let publishing = scene.provide();
    let first = publish(&publishing).await.expect("publishes");
    let store = Faulty::open(&scene.store_path());
    let running = start_on(&scene.consumer, &VOLUMES, store.clone(), spec(SyncRole::Consumer));
    applied(&running, first).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));

    let (before, fetched) =
        (stored::bytes(&scene.store_path()).await, store.with(|faults| faults.fetched));
    overwrite(&scene.file("large"), 3 * MIB + 77, &noise(9, 4_096));
    let second = publish(&publishing).await.expect("publishes");
    assert_ne!(first, second);
    applied(&running, second).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    // Two chunks, a chunk or two of the manifest, and a root.
    let (stored, moved) = (
        stored::bytes(&scene.store_path()).await - before,
        store.with(|faults| faults.fetched) - fetched,
    );
    assert!(stored < MIB / 2, "{stored} bytes were stored");
    assert!(moved < MIB / 2, "{moved} bytes were fetched");
    let record = &records(&scene.store_path()).await[0];
    assert_eq!(record.manifest.archive_format, ArchiveFormat::Tree);
    assert!(record.manifest.archive_size_bytes > 8 * MIB, "what it needs, and not what was new");

    // A renamed file is found by its content, on both sides.
    let (before, fetched) =
        (stored::bytes(&scene.store_path()).await, store.with(|faults| faults.fetched));
    fs::rename(scene.file("large"), scene.file("another")).expect("renames");
    let third = publish(&publishing).await.expect("publishes");
    applied(&running, third).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    assert!(stored::bytes(&scene.store_path()).await - before < MIB / 4);
    assert!(store.with(|faults| faults.fetched) - fetched < MIB / 4);
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_file_with_its_old_size_and_time_and_other_content_is_read_again() {
    let scene = Scene::new();
    fs::write(scene.file("page"), "one").expect("writes");
    let running = scene.provide();
    let first = publish(&running).await.expect("publishes");
    let modified = fs::metadata(scene.file("page")).expect("exists").modified().expect("a time");
    overwrite(&scene.file("page"), 0, b"two");
    let file = fs::File::open(scene.file("page")).expect("opens");
    file.set_modified(modified).expect("sets a time");
    assert_ne!(publish(&running).await.expect("publishes"), first);
    running.stop().await;
}

#[tokio::test]
async fn holes_are_neither_stored_nor_filled() {
    let scene = Scene::new();
    let file = fs::File::create(scene.file("sparse")).expect("creates");
    file.set_len(40 * MIB).expect("extends");
    overwrite(&scene.file("sparse"), 20 * MIB + 5, b"middle");
    overwrite(&scene.file("sparse"), 40 * MIB - 1, b"x");
    let publishing = scene.provide();
    let cid = publish(&publishing).await.expect("publishes");
    assert!(stored::bytes(&scene.store_path()).await < MIB / 4);
    let running = scene.consume();
    applied(&running, cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    let copied = fs::metadata(scene.consumer.data("data").join("sparse")).expect("exists");
    assert!(copied.blocks() * 512 < MIB / 4, "{} blocks", copied.blocks());
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn what_a_provider_remembers_may_be_lost_or_damaged() {
    let scene = Scene::new();
    fs::write(scene.file("large"), noise(1, 2 * MIB)).expect("writes");
    fs::write(scene.file("page"), "0").expect("writes");
    let running = scene.provide();
    publish(&running).await.expect("publishes");
    let remembered = scene.provider.state().join("sync/remembered");
    let damage = |name: &str| {
        let path = remembered.join(name);
        let mut bytes = fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("damages");
    };
    for (number, name) in ["root", "manifest", "seen", "sums", ""].iter().enumerate() {
        if name.is_empty() {
            fs::remove_dir_all(&remembered).expect("removes");
        } else {
            damage(name);
        }
        let before = stored::bytes(&scene.store_path()).await;
        fs::write(scene.file("page"), number.to_string().repeat(2)).expect("writes");
        publish(&running).await.expect("publishes");
        let stored = stored::bytes(&scene.store_path()).await.saturating_sub(before);
        assert!(stored < MIB / 4, "{name:?}: the head tells what the store has: {stored}");
    }
    running.stop().await;
    let consuming = scene.consume();
    applied(&consuming, records(&scene.store_path()).await[0].cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consuming.stop().await;
}

#[tokio::test]
async fn packs_stay_as_long_as_a_kept_generation_needs_them_and_no_longer() {
    let scene = Scene::new();
    fs::write(scene.file("kept"), noise(1, MIB)).expect("writes");
    let running = scene.provide();
    for seed in 10..15 {
        fs::write(scene.file("page"), noise(seed, 200_000)).expect("writes");
        publish(&running).await.expect("publishes");
    }
    let records = records(&scene.store_path()).await;
    eventually("the roots of the newest two", || {
        let gone = records[2..].iter().all(|old| !scene.stored_at(old.manifest.blob).exists());
        gone.then_some(())
    })
    .await;
    for record in &records[..2] {
        assert!(scene.stored_at(record.manifest.blob).exists());
    }
    // The first pack for the sake of what never changed, and one of each kept generation.
    assert_eq!(scene.packs().await.len(), 3);
    running.stop().await;
    let consuming = scene.consume();
    applied(&consuming, records[0].cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consuming.stop().await;
}

#[tokio::test]
async fn a_head_whose_packs_are_gone_is_stored_anew() {
    let scene = Scene::new();
    fs::write(scene.file("kept"), noise(1, MIB)).expect("writes");
    let running = scene.provide();
    publish(&running).await.expect("publishes");
    for pack in scene.packs().await {
        fs::remove_file(pack).expect("removes");
    }
    fs::write(scene.file("page"), "changed").expect("writes");
    let cid = publish(&running).await.expect("publishes");
    assert_eq!(running.window.events().len(), 4, "one stop for each publish");
    let consuming = scene.consume();
    applied(&consuming, cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consuming.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn damaged_torn_and_missing_packs_and_roots_are_refused_while_the_app_runs() {
    type Damage = fn(&Path);
    let flip: Damage = |path| {
        let mut bytes = fs::read(path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("damages");
    };
    let tear: Damage = |path| {
        let bytes = fs::read(path).expect("reads");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("tears");
    };
    let remove: Damage = |path| fs::remove_file(path).expect("removes");
    for (root, damage, told) in [
        (false, flip, "chunk"),
        (false, tear, "outside the"),
        (false, remove, "has no object"),
        (true, flip, "is not"),
        (true, tear, "outside the"),
        (true, remove, "has no object"),
    ] {
        let scene = Scene::new();
        fs::write(scene.file("large"), noise(1, MIB)).expect("writes");
        let publishing = scene.provide();
        publish(&publishing).await.expect("publishes");
        publishing.stop().await;
        let path = if root {
            scene.stored_at(records(&scene.store_path()).await[0].manifest.blob)
        } else {
            scene.packs().await.remove(0)
        };
        damage(&path);
        fs::write(scene.consumer.data("data").join("old"), "state").expect("writes");
        let volumes = || VOLUMES.map(|(name, _)| tree(&scene.consumer.data(name)));
        let before = volumes();
        let running = scene.consume();
        let error = refused(&running).await;
        assert!(error.contains(told), "{error}");
        assert_eq!(running.window.events(), Vec::<String>::new());
        running.stop().await;
        assert_eq!(volumes(), before, "content, times and modes");
        for (name, _) in VOLUMES {
            let left = tree(&scene.consumer.private(name));
            assert_eq!(left.len(), 1, "nothing staged stays: {left:?}");
        }
    }
}

#[tokio::test]
async fn what_an_app_changed_in_its_copy_is_fetched_again() {
    let scene = Scene::new();
    fs::write(scene.file("large"), noise(1, 2 * MIB)).expect("writes");
    fs::write(scene.file("gone"), noise(2, 100_000)).expect("writes");
    fs::write(scene.file("page"), "one").expect("writes");
    let publishing = scene.provide();
    let first = publish(&publishing).await.expect("publishes");
    let running = scene.consume();
    applied(&running, first).await;
    let copied = scene.consumer.data("data");
    overwrite(&copied.join("large"), MIB, b"a local edit");
    fs::remove_file(copied.join("gone")).expect("removes");
    std::os::unix::fs::symlink("/etc/passwd", copied.join("gone")).expect("links");
    fs::write(scene.file("page"), "two").expect("writes");
    let second = publish(&publishing).await.expect("publishes");
    applied(&running, second).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_provider_that_changes_its_form_stores_its_next_publish_in_the_new_one() {
    let scene = Scene::new();
    fs::write(scene.file("page"), "one").expect("writes");
    let mut seqs = Vec::new();
    for format in [ArchiveFormat::TarGz, ArchiveFormat::Tree, ArchiveFormat::TarGz] {
        let running = provide_as(&scene.provider, &scene.store_path(), format);
        let cid = publish(&running).await.expect("publishes");
        running.stop().await;
        let record = records(&scene.store_path()).await.remove(0);
        assert_eq!((record.manifest.archive_format, record.cid), (format, cid));
        assert_eq!(record.manifest.schema_version, format.manifest_schema());
        seqs.push(record.seq);
        let running = scene.consume();
        running.status("the head", |status| status.head.is_some()).await;
        if seqs.len() == 1 {
            applied(&running, cid).await;
        }
        running.looked().await;
        let events = if seqs.len() == 1 { 2 } else { 0 };
        assert_eq!(running.window.events().len(), events, "equal content in another form");
        running.stop().await;
    }
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
}
