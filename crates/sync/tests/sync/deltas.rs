//! Chunks that travel as differences to those that were there before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use belay_packs::MemberSecret;
use belay_protocol::SyncRole;
use belay_sync::{Sealing, SyncSpec};
use data_encoding::BASE64;
use flate2::read::GzDecoder;

use crate::commands::{applied, publish, reader};
use crate::content::{noise, overwrite};
use crate::exports::taken;
use crate::faulty::Faulty;
use crate::scene::{Place, Running, VOLUMES, eventually, spec, start_on, trees};
use crate::stored;

const MIB: u64 = 1024 * 1024;

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
    sealing: Option<Sealing>,
    /// Generations that are kept.
    keep: usize,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        fs::create_dir(provider.data("app").join("data")).expect("creates");
        fs::write(provider.data("data").join("pages"), noise(1, 4 * MIB)).expect("writes");
        Self { temp, provider, sealing: None, keep: 2 }
    }

    /// The same with trees that are sealed for one member.
    fn sealed() -> Self {
        let mut scene = Self::new();
        let structure = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20];
        let key = BASE64.encode(&[&structure[..], &[1; 32]].concat());
        let identity = scene.temp.path().join("1.pem");
        let text = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        fs::write(&identity, text).expect("writes a key");
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).expect("modes");
        let members = vec![MemberSecret::from_bytes([1; 32]).member()];
        scene.sealing = Some(Sealing { identity, members });
        scene
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn spec(&self, role: SyncRole) -> SyncSpec {
        let sealing = self.sealing.clone();
        SyncSpec { sealing, keep_generations: self.keep, ..spec(role) }
    }

    fn provide(&self) -> (Running, Faulty) {
        self.start(&self.provider, SyncRole::Provider)
    }

    /// A consumer of this name; it goes on with what one of the name had.
    fn consume(&self, name: &str) -> (Place, Running, Faulty) {
        let root = self.temp.path().join(name);
        let place = if root.exists() { Place::at(&root) } else { Place::new(&root, &VOLUMES) };
        let (running, store) = self.start(&place, SyncRole::Consumer);
        (place, running, store)
    }

    fn start(&self, place: &Place, role: SyncRole) -> (Running, Faulty) {
        let store = Faulty::open(&self.store_path());
        (start_on(place, &VOLUMES, store.clone(), self.spec(role)), store)
    }

    /// Roots in the store.
    fn roots(&self) -> usize {
        let shards = fs::read_dir(self.store_path().join("blobs")).expect("lists");
        let blobs =
            shards.flat_map(|shard| fs::read_dir(shard.expect("reads").path()).expect("lists"));
        let begins =
            |path: PathBuf| fs::read(path).is_ok_and(|it| it.starts_with(b"belay root 1\n"));
        blobs.filter(|blob| begins(blob.as_ref().expect("reads").path())).count()
    }

    /// Changes some bytes in each of a few pages, the same pages every time.
    fn change_pages(&self, seed: u64) {
        overwrite_pages(&self.provider.data("data").join("pages"), seed);
    }

    /// The file, as an export of the newest generation has it.
    async fn exported(&self) -> Vec<u8> {
        let reader = reader(&self.provider, &self.store_path(), self.spec(SyncRole::Provider));
        let export = reader.export(None).await.expect("there is a generation");
        let (archive, ended) = taken(export).await;
        ended.expect("it is whole");
        let mut archive = tar::Archive::new(GzDecoder::new(&archive[..]));
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            if entry.path().expect("a path") == Path::new("app/data/pages") {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).expect("reads");
                return content;
            }
        }
        panic!("the file is not in the archive")
    }
}

fn overwrite_pages(path: &Path, seed: u64) {
    for page in 0..8 {
        overwrite(path, page * 500_000 + 100, &noise(seed + 7, 100 + page));
    }
}

fn fetched(store: &Faulty) -> u64 {
    store.with(|faults| faults.fetched)
}

#[tokio::test]
async fn pages_that_change_again_and_again_travel_as_what_changed() {
    for mut scene in [Scene::new(), Scene::sealed()] {
        // Nothing is deleted while it is counted.
        scene.keep = 100;
        let (publishing, _) = scene.provide();
        let (place, consuming, store) = scene.consume("near");
        applied(&consuming, publish(&publishing).await.expect("publishes")).await;
        // As often as one difference may stand on another, and once more: then it is all whole again.
        for round in 1..=6 {
            scene.change_pages(round);
            let (before, had) = (stored::bytes(&scene.store_path()).await, fetched(&store));
            let cid = publish(&publishing).await.expect("publishes");
            applied(&consuming, cid).await;
            assert_eq!(trees(&place), trees(&scene.provider));
            let (stored, moved) =
                (stored::bytes(&scene.store_path()).await - before, fetched(&store) - had);
            if round == 5 {
                assert!(stored > 400_000, "{stored} bytes stored in round {round}");
            } else {
                // Eight differences, and the parts of the manifest about them.
                assert!(stored < 25_000, "{stored} bytes stored in round {round}");
                assert!(moved < 30_000, "{moved} bytes fetched in round {round}");
            }
            if round == 4 || round == 6 {
                // Who has nothing puts the same together from all that it stands on.
                let (far, running, _) = scene.consume(&format!("far-{round}"));
                applied(&running, cid).await;
                assert_eq!(trees(&far), trees(&scene.provider));
                running.stop().await;
                let pages = fs::read(scene.provider.data("data").join("pages")).expect("reads");
                assert!(scene.exported().await == pages, "an export puts it together too");
            }
        }
        consuming.stop().await;
        publishing.stop().await;
    }
}

#[tokio::test]
async fn what_an_app_changed_in_a_base_is_fetched() {
    let scene = Scene::new();
    let (publishing, _) = scene.provide();
    let (place, consuming, _) = scene.consume("near");
    applied(&consuming, publish(&publishing).await.expect("publishes")).await;
    for round in 1..=3 {
        // The consumer's app writes into the chunks which the next differences stand on.
        overwrite_pages(&place.data("data").join("pages"), 100 + round);
        scene.change_pages(round);
        applied(&consuming, publish(&publishing).await.expect("publishes")).await;
        assert_eq!(trees(&place), trees(&scene.provider), "round {round}");
    }
    consuming.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_consumer_that_slept_puts_together_what_was_published_meanwhile() {
    let scene = Scene::new();
    let (publishing, _) = scene.provide();
    let (_, consuming, _) = scene.consume("near");
    applied(&consuming, publish(&publishing).await.expect("publishes")).await;
    consuming.stop().await;
    for round in 1..=3 {
        scene.change_pages(round);
        publish(&publishing).await.expect("publishes");
    }
    scene.change_pages(4);
    let cid = publish(&publishing).await.expect("publishes");
    // The newest two stay, and what the consumer acknowledged; those between are deleted, but for
    // what these stand on.
    eventually("three generations", || (scene.roots() == 3).then_some(())).await;
    let (place, consuming, store) = scene.consume("near");
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    let moved = fetched(&store);
    assert!(moved < 100_000, "{moved} bytes: it has the first of the chain");
    consuming.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_provider_without_its_memory_builds_on_what_is_stored() {
    let scene = Scene::new();
    let (publishing, _) = scene.provide();
    publish(&publishing).await.expect("publishes");
    scene.change_pages(1);
    publish(&publishing).await.expect("publishes");
    publishing.stop().await;
    fs::remove_dir_all(scene.provider.state().join("sync/remembered")).expect("removes");
    let (publishing, _) = scene.provide();
    scene.change_pages(2);
    let before = stored::bytes(&scene.store_path()).await;
    let cid = publish(&publishing).await.expect("publishes");
    let stored = stored::bytes(&scene.store_path()).await - before;
    assert!(stored < 25_000, "{stored} bytes: a difference to a difference");
    let (place, consuming, _) = scene.consume("far");
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    consuming.stop().await;
    publishing.stop().await;
}
