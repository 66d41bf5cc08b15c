//! Sealed trees: who may read them, and what anyone else sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use belay_packs::MemberSecret;
use belay_protocol::SyncRole;
use belay_protocol::record::Encryption;
use belay_sync::{Member, Sealing, SyncSpec};
use data_encoding::BASE64;

use crate::commands::{applied, publish};
use crate::scene::{Place, Running, VOLUMES, fill, spec, start, start_with, trees};
use crate::stored::{self, head};

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&provider, "confidential");
        Self { temp, provider }
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn sealing(&self, seed: u8, members: &[u8]) -> Sealing {
        sealing(self.temp.path(), seed, members)
    }

    fn provide(&self, sealing: Option<Sealing>) -> Running {
        let spec = SyncSpec { sealing, ..spec(SyncRole::Provider) };
        start_with(&self.provider, &VOLUMES, &self.store_path(), spec)
    }

    fn consume(&self, name: &str, sealing: Option<Sealing>) -> (Place, Running) {
        let place = Place::new(&self.temp.path().join(name), &VOLUMES);
        let spec = SyncSpec { sealing, ..spec(SyncRole::Consumer) };
        let running = start_with(&place, &VOLUMES, &self.store_path(), spec);
        (place, running)
    }

    async fn refused(&self, name: &str, sealing: Option<Sealing>, told: &str) {
        let (place, running) = self.consume(name, sealing);
        let status = running.status("the refusal", |status| !status.quarantine.is_empty()).await;
        let failure = status.last_failure.expect("a refusal is told");
        assert_eq!(failure.stage, "validation", "{}", failure.error);
        assert!(failure.error.contains(told), "{}", failure.error);
        assert_eq!(running.window.events(), Vec::<String>::new());
        assert!(!place.data("data").join("state").exists());
        running.stop().await;
    }
}

/// How this member, one of a few, seals and opens; its identity lies in `root`.
pub(crate) fn sealing(root: &Path, seed: u8, members: &[u8]) -> Sealing {
    let structure = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20];
    let key = BASE64.encode(&[&structure[..], &[seed; 32]].concat());
    let identity = root.join(format!("{seed}.pem"));
    let text = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    fs::write(&identity, text).expect("writes a key");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).expect("modes");
    Sealing { identity, members: members.iter().map(|seed| member(*seed)).collect() }
}

fn member(seed: u8) -> Member {
    MemberSecret::from_bytes([seed; 32]).member()
}

/// Whether some object of the store has these bytes in it.
fn is_told(store: &Path, words: &[u8]) -> bool {
    let shards = fs::read_dir(store.join("blobs")).expect("lists");
    shards.flat_map(|shard| fs::read_dir(shard.expect("reads").path()).expect("lists")).any(
        |blob| {
            let bytes = fs::read(blob.expect("reads").path()).expect("reads");
            bytes.windows(words.len()).any(|window| window == words)
        },
    )
}

#[tokio::test]
async fn a_sealed_tree_is_told_to_its_members_alone() {
    let scene = Scene::new();
    let running = scene.provide(Some(scene.sealing(1, &[2])));
    let cid = publish(&running).await.expect("publishes");
    assert_eq!(head(&scene.store_path()).await.manifest.encryption, Encryption::Members);
    for words in ["confidential", "app/data/state"] {
        assert!(!is_told(&scene.store_path(), words.as_bytes()), "{words}");
    }
    let (place, consuming) = scene.consume("member", Some(scene.sealing(2, &[])));
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));

    // A change, with what the provider remembers and what the consumer has.
    let before = stored::bytes(&scene.store_path()).await;
    fs::write(scene.provider.data("data").join("state"), "changed").expect("writes");
    let cid = publish(&running).await.expect("publishes");
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    assert!(
        stored::bytes(&scene.store_path()).await - before < 10_000,
        "what did not change is not stored again"
    );
    consuming.stop().await;

    scene.refused("nobody", None, "declares no identity").await;
    scene.refused("stranger", Some(scene.sealing(3, &[])), "not among its members").await;
    running.stop().await;
}

#[tokio::test]
async fn an_open_tree_is_not_passed_off_on_who_expects_a_sealed_one() {
    let scene = Scene::new();
    let running = scene.provide(None);
    publish(&running).await.expect("publishes");
    assert!(is_told(&scene.store_path(), b"confidential"), "this test can see what is told");
    scene.refused("member", Some(scene.sealing(2, &[])), "is not sealed").await;
    running.stop().await;
}

#[tokio::test]
async fn a_member_that_joins_gets_the_key_and_one_that_leaves_gets_no_other() {
    let scene = Scene::new();
    let running = scene.provide(Some(scene.sealing(1, &[2])));
    let cid = publish(&running).await.expect("publishes");
    running.stop().await;

    let before = stored::bytes(&scene.store_path()).await;
    let running = scene.provide(Some(scene.sealing(1, &[2, 3])));
    assert_eq!(publish(&running).await.expect("publishes"), cid, "the same content");
    assert_eq!(head(&scene.store_path()).await.seq, 2, "and yet another record, with another root");
    assert!(
        stored::bytes(&scene.store_path()).await - before < 10_000,
        "the chunks are those that were stored"
    );
    running.stop().await;
    let (place, consuming) = scene.consume("joined", Some(scene.sealing(3, &[])));
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    consuming.stop().await;

    let running = scene.provide(Some(scene.sealing(1, &[3])));
    publish(&running).await.expect("publishes");
    assert_eq!(head(&scene.store_path()).await.seq, 3);
    publish(&running).await.expect("publishes");
    assert_eq!(head(&scene.store_path()).await.seq, 3, "nothing changed since");
    running.stop().await;
    scene.refused("left", Some(scene.sealing(2, &[])), "not among its members").await;
    let (place, consuming) = scene.consume("stayed", Some(scene.sealing(3, &[])));
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    consuming.stop().await;
}

/// What makes an identity useless.
type Spoil = fn(&Path);

#[tokio::test]
async fn an_identity_that_is_missing_open_to_others_or_no_key_stops_no_container() {
    let scene = Scene::new();
    let good = scene.sealing(1, &[]);
    let spoil: [(&str, Spoil); 3] = [
        ("could not be read", |path| fs::remove_file(path).expect("removes")),
        ("open to others", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("modes");
        }),
        ("no X25519 key", |path| fs::write(path, "a password").expect("writes")),
    ];
    for (told, spoil) in spoil {
        scene.sealing(1, &[]);
        spoil(&good.identity);
        let running = scene.provide(Some(good.clone()));
        let refused = publish(&running).await.expect_err("no key, no publish").to_string();
        assert!(refused.contains(told), "{refused}");
        assert_eq!(running.window.events(), Vec::<String>::new());
        running.stop().await;
        if told == "could not be read" {
            fs::write(&good.identity, "").expect("writes");
        }
    }
    // An open provider beside it works as ever.
    let running = start(&scene.provider, &scene.store_path(), SyncRole::Provider);
    publish(&running).await.expect("publishes");
    running.stop().await;
}
