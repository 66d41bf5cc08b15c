//! Signed records: whose state a consumer takes over, and what becomes of everyone else's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use belay_protocol::record::{RECORD_SCHEMA, SIGNED_SCHEMA, SyncRecord, UNSIGNED_SCHEMA};
use belay_protocol::{Cid, ProblemCode, PublisherKey, SyncKey, SyncRole};
use belay_store::{LocalStore, RecordStore};
use belay_sync::{NodeKey, PublishError, SyncSpec};
use serde_json::Value;

use crate::commands::{applied, publish};
use crate::scene::{
    Place, Running, VOLUMES, eventually, fill, spec, start, start_with, tree, trees,
};

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&provider, "one");
        Self { temp, provider }
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

    fn publisher(&self) -> PublisherKey {
        self.provider.key().publisher().expect("a key")
    }

    fn consume(&self, name: &str, publishers: Option<Vec<PublisherKey>>) -> (Place, Running) {
        let place = Place::new(&self.temp.path().join(name), &VOLUMES);
        let spec = SyncSpec { publishers, ..spec(SyncRole::Consumer) };
        let running = start_with(&place, &VOLUMES, &self.store_path(), spec);
        (place, running)
    }

    /// Puts a text in the place of the head.
    async fn put(&self, bytes: Vec<u8>) {
        let head = self.store().head(&key()).await.expect("reads").map(|head| head.revision);
        self.store().compare_and_set(&key(), head, bytes.into()).await.expect("sets");
    }

    async fn head(&self) -> Vec<u8> {
        self.store().head(&key()).await.expect("reads").expect("a head").bytes.to_vec()
    }
}

fn key() -> SyncKey {
    "models".parse().expect("a key")
}

/// The refusal of the head, which must leave everything as it is.
async fn refused(place: &Place, running: &Running, code: ProblemCode) {
    let look = || (VOLUMES.map(|(name, _)| tree(&place.data(name))), running.window.events());
    let before = look();
    let status = running
        .status("the refusal", |status| {
            status.last_failure.as_ref().is_some_and(|failure| failure.code == Some(code))
        })
        .await;
    let failure = status.last_failure.expect("a refusal is told");
    assert_eq!(failure.stage, "validation", "{}", failure.error);
    assert!(
        status.quarantine.keys().all(|key| key.parse::<Cid>().is_err()),
        "no content is held back by who names it: {:?}",
        status.quarantine
    );
    assert!(!status.quarantine.is_empty(), "it is not judged at every look");
    assert_eq!(look(), before);
    eventually("a word to the app", || {
        let told = place.json("apply_error.json")?;
        (told["code"] == code.as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_record_travels_with_the_name_of_who_signed_it() {
    let scene = Scene::new();
    let running = scene.provide();
    let cid = publish(&running).await.expect("publishes");
    let record: SyncRecord = serde_json::from_slice(&scene.head().await).expect("a record");
    assert_eq!((record.schema, record.signer), (SIGNED_SCHEMA, Some(scene.publisher())));
    let (place, consuming) = scene.consume("consumer", Some(vec![scene.publisher()]));
    applied(&consuming, cid).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    for (running, direction) in [(&running, "sent"), (&consuming, "received")] {
        let history = running.handle.history(10).await.expect("reads");
        assert_eq!(history[0].direction, direction);
        assert_eq!(history[0].signer, Some(scene.publisher()));
        let head = running.handle.status().borrow().head.clone();
        assert_eq!(head.expect("a head").signer, Some(scene.publisher()));
    }
    running.stop().await;
    consuming.stop().await;
}

#[tokio::test]
async fn b40_what_is_unsigned_forged_foreign_or_newer_is_refused_and_the_old_state_runs() {
    let scene = Scene::new();
    let running = scene.provide();
    let old = publish(&running).await.expect("publishes");
    let (place, consuming) = scene.consume("consumer", Some(vec![scene.publisher()]));
    applied(&consuming, old).await;
    fill(&scene.provider, "two");
    running.stop().await;

    let head = scene.head().await;
    let text = String::from_utf8(head.clone()).expect("text");
    let next = text.replace("\"seq\":1", "\"seq\":2");
    assert_ne!(next, text);
    scene.put(next.clone().into_bytes()).await;
    refused(&place, &consuming, ProblemCode::RecordForged).await;

    let mut unsigned: Value = serde_json::from_str(&next).expect("JSON");
    for field in ["signer", "signature"] {
        unsigned.as_object_mut().expect("an object").remove(field);
    }
    unsigned["schema"] = UNSIGNED_SCHEMA.into();
    scene.put(unsigned.to_string().into_bytes()).await;
    refused(&place, &consuming, ProblemCode::RecordUnsigned).await;

    unsigned["schema"] = (RECORD_SCHEMA + 1).into();
    scene.put(unsigned.to_string().into_bytes()).await;
    refused(&place, &consuming, ProblemCode::RecordNewer).await;

    // Somebody else, who signs as he should, takes the place of an unlisted publisher.
    let stranger = Place::new(&scene.temp.path().join("stranger"), &VOLUMES);
    fill(&stranger, "strange");
    let elsewhere = scene.temp.path().join("elsewhere");
    let foreign = start(&stranger, &elsewhere, SyncRole::Provider);
    publish(&foreign).await.expect("publishes");
    foreign.stop().await;
    let elsewhere = LocalStore::open(&elsewhere).expect("opens");
    let strange = elsewhere.head(&key()).await.expect("reads").expect("a head");
    scene.put(strange.bytes.to_vec()).await;
    refused(&place, &consuming, ProblemCode::PublisherRefused).await;

    // What is genuine is applied as soon as it is there, whatever was refused before it.
    scene.put(head).await;
    let running = scene.provide();
    let new = publish(&running).await.expect("publishes");
    assert_ne!(new, old);
    applied(&consuming, new).await;
    assert_eq!(trees(&place), trees(&scene.provider));
    running.stop().await;
    consuming.stop().await;
}

#[tokio::test]
async fn without_a_list_who_writes_to_the_store_is_believed_and_a_broken_signature_is_not() {
    let scene = Scene::new();
    let running = scene.provide();
    let cid = publish(&running).await.expect("publishes");
    running.stop().await;
    let text = String::from_utf8(scene.head().await).expect("text");
    scene.put(text.replace("\"seq\":1", "\"seq\":2").into_bytes()).await;
    let (place, consuming) = scene.consume("consumer", None);
    refused(&place, &consuming, ProblemCode::RecordForged).await;
    let mut unsigned: Value = serde_json::from_str(&text).expect("JSON");
    for field in ["signer", "signature"] {
        unsigned.as_object_mut().expect("an object").remove(field);
    }
    unsigned["schema"] = UNSIGNED_SCHEMA.into();
    scene.put(unsigned.to_string().into_bytes()).await;
    applied(&consuming, cid).await;

    // The provider's next publish signs the same content, and does not say that nothing changed.
    let running = scene.provide();
    assert_eq!(publish(&running).await.expect("publishes"), cid);
    let record: SyncRecord = serde_json::from_slice(&scene.head().await).expect("a record");
    assert_eq!((record.seq, record.signer), (2, Some(scene.publisher())));
    running.stop().await;
    consuming.stop().await;
}

#[tokio::test]
async fn a_record_of_another_key_is_refused_under_this_one() {
    let scene = Scene::new();
    let other: SyncKey = "other".parse().expect("a key");
    let spec = SyncSpec { key: other.clone(), ..spec(SyncRole::Provider) };
    let running = start_with(&scene.provider, &VOLUMES, &scene.store_path(), spec);
    publish(&running).await.expect("publishes");
    running.stop().await;
    let replayed = scene.store().head(&other).await.expect("reads").expect("a head");
    scene.put(replayed.bytes.to_vec()).await;
    let (place, consuming) = scene.consume("consumer", Some(vec![scene.publisher()]));
    let status = consuming.status("the refusal", |status| status.last_failure.is_some()).await;
    let failure = status.last_failure.expect("told");
    assert_eq!(failure.code, Some(ProblemCode::RecordRefused));
    assert!(failure.error.contains("is for the key other, found under models"), "{failure:?}");
    assert!(!place.data("data").join("state").exists());
    consuming.stop().await;
}

#[tokio::test]
async fn a_node_that_cannot_sign_or_finds_a_forged_head_stops_no_container() {
    let scene = Scene::new();
    let key = scene.provider.root.join("sync-signing-key.pem");
    fs::write(&key, "a password").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("modes");
    let running = scene.provide();
    let refusal = publish(&running).await.expect_err("no key, no publish");
    assert!(
        matches!(refusal, PublishError::Failed { code: Some(ProblemCode::SigningKeyUnusable), .. }),
        "{refusal:?}"
    );
    assert_eq!(running.window.events(), Vec::<String>::new());
    fs::remove_file(&key).expect("removes");
    publish(&running).await.expect("another key is made");
    assert_eq!(NodeKey::new(&scene.provider.root).publisher().expect("reads"), scene.publisher());

    // Nothing is built on what nobody signed.
    let text = String::from_utf8(scene.head().await).expect("text");
    scene.put(text.replace("\"seq\":1", "\"seq\":9").into_bytes()).await;
    let refusal = publish(&running).await.expect_err("it would be signed");
    assert!(
        matches!(refusal, PublishError::Failed { code: Some(ProblemCode::RecordForged), .. }),
        "{refusal:?}"
    );
    running.stop().await;
}
