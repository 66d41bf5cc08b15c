//! What an operator asks of sync beside a publish.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{
    Cid, CidPrefix, GenerationStanding, GenerationStored, SyncGeneration, SyncOutcome, SyncRole,
};
use belay_store::{BlobStore, LocalStore};
use belay_sync::{AskError, PublishCommand, PublishError, SyncLayout, SyncReader, SyncSpec};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

use crate::scene::{
    FORMATS, Place, Running, VOLUMES, eventually, fill, provide_as, spec, start, trees,
};

pub(crate) struct Scene {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) provider: Place,
    pub(crate) consumer: Place,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        Self { temp, provider, consumer }
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    pub(crate) fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    pub(crate) fn provide(&self) -> Running {
        provide_as(&self.provider, &self.store_path(), ArchiveFormat::Tree)
    }

    pub(crate) fn consume(&self) -> Running {
        start(&self.consumer, &self.store_path(), SyncRole::Consumer)
    }

    /// Publishes a state and waits until nobody needs to be waited for.
    pub(crate) async fn publish(&self, running: &Running, state: &str) -> Cid {
        fill(&self.provider, state);
        publish(running).await.expect("publishes")
    }

    /// Waits for the end of the consumer's bookkeeping.
    pub(crate) async fn ended(&self) {
        eventually("the end of the bookkeeping", || {
            (!self.consumer.state().join("sync/apply.json").exists()).then_some(())
        })
        .await;
    }
}

/// Publishes what the paths of the outer volume hold.
pub(crate) async fn publish(running: &Running) -> Result<Cid, PublishError> {
    let command = PublishCommand { archive_paths: vec!["/app".into()], metadata: Map::new() };
    running.handle.publish(command).await.map(|outcome| outcome.cid)
}

/// Waits until this is what was applied last.
pub(crate) async fn applied(running: &Running, cid: Cid) {
    let is_last = |last: &SyncOutcome| last.cid == cid;
    running.status("the apply", |status| status.last_apply.as_ref().is_some_and(is_last)).await;
}

/// A reader as the node makes one for a workload, of this role, in this place.
pub(crate) fn reader(place: &Place, store: &Path, spec: SyncSpec) -> SyncReader<LocalStore> {
    SyncReader::open(
        "app".parse().expect("a workload name"),
        "node-a".parse().expect("a node name"),
        spec,
        &place.state(),
        Arc::new(LocalStore::open(store).expect("opens the store")),
        CancellationToken::new(),
    )
    .expect("opens")
}

pub(crate) fn prefix(cid: Cid) -> CidPrefix {
    cid.short().parse().expect("the beginning of an id")
}

#[tokio::test]
async fn a_paused_provider_leaves_requests_where_they_are_also_after_a_restart() {
    let scene = Scene::new();
    let running = scene.provide();
    let first = scene.publish(&running, "one").await;
    let since = running.handle.pause().await.expect("pauses");
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "later"}));
    fill(&scene.provider, "two");
    let paused = |status: &belay_protocol::SyncStatus| {
        status.paused.is_some() && status.waits.as_deref() == Some("a request of the app")
    };
    let status = running.status("the pause", paused).await;
    assert_eq!((status.stage.as_str(), status.paused), ("paused", Some(since)));
    assert_eq!(publish(&running).await, Err(PublishError::Paused));
    running.stop().await;

    let running = scene.provide();
    let status = running.status("the pause", paused).await;
    assert_eq!(status.paused, Some(since));
    running.looked().await;
    assert!(scene.provider.sync_file("request.json").exists(), "it is not even claimed");
    assert!(scene.provider.json("response.json").is_none());
    assert_eq!(running.window.events(), Vec::<String>::new());

    running.handle.resume().await.expect("resumes");
    let response = eventually("the answer", || scene.provider.json("response.json")).await;
    assert_eq!((&response["status"], &response["request_id"]), (&json!("ok"), &json!("later")));
    assert_ne!(response["cid"], first.to_string());
    let status = running.status("the rest", |status| status.stage == "idle").await;
    assert_eq!((status.paused, status.waits), (None, None));
    running.stop().await;
}

#[tokio::test]
async fn a_paused_consumer_sees_records_and_takes_none_until_it_is_resumed() {
    let scene = Scene::new();
    let (provider, consumer) = (scene.provide(), scene.consume());
    let first = scene.publish(&provider, "one").await;
    applied(&consumer, first).await;
    let held = trees(&scene.consumer);
    consumer.handle.pause().await.expect("pauses");
    let second = scene.publish(&provider, "two").await;
    let status = consumer
        .status("the record that waits", |status| {
            status.waits.is_some() && status.head.as_ref().is_some_and(|head| head.cid == second)
        })
        .await;
    assert_eq!(status.waits.as_deref(), Some("record 2 of epoch 1"));
    assert_eq!(status.stage, "paused");
    consumer.stop().await;

    let consumer = scene.consume();
    consumer.status("the record that waits", |status| status.waits.is_some()).await;
    assert_eq!(trees(&scene.consumer), held);
    assert_eq!(consumer.window.events(), Vec::<String>::new());
    consumer.handle.resume().await.expect("resumes");
    applied(&consumer, second).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_pause_made_while_no_task_runs_holds_from_its_first_look() {
    let scene = Scene::new();
    let provider = scene.provide();
    scene.publish(&provider, "one").await;
    belay_sync::pause(&scene.consumer.state()).await.expect("pauses");
    let consumer = scene.consume();
    consumer.status("the record that waits", |status| status.waits.is_some()).await;
    assert!(!scene.consumer.data("app").join("state").exists());
    consumer.stop().await;
    belay_sync::resume(&scene.consumer.state()).await.expect("resumes");
    let consumer = scene.consume();
    consumer.status("the apply", |status| status.last_apply.is_some()).await;
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn what_is_under_way_when_a_pause_comes_is_brought_to_its_end() {
    let scene = Scene::new();
    let running = scene.provide();
    fill(&scene.provider, "one");
    let command = PublishCommand { archive_paths: vec!["/app".into()], metadata: Map::new() };
    let (published, paused) =
        tokio::join!(biased; running.handle.publish(command), running.handle.pause());
    published.expect("publishes");
    paused.expect("pauses");
    assert_eq!(publish(&running).await, Err(PublishError::Paused));
    running.stop().await;
}

async fn show(
    scene: &Scene,
    place: &Place,
    role: SyncRole,
    cid: Option<Cid>,
    layout: Option<SyncLayout>,
) -> Result<SyncGeneration, AskError> {
    let reader = reader(place, &scene.store_path(), spec(role));
    reader.show(cid.map(prefix).as_ref(), layout).await
}

#[tokio::test]
async fn a_generation_is_shown_with_where_it_is() {
    for format in FORMATS {
        let scene = Scene::new();
        let provider = provide_as(&scene.provider, &scene.store_path(), format);
        let consumer = scene.consume();
        let first = scene.publish(&provider, "one").await;
        applied(&consumer, first).await;
        let second = scene.publish(&provider, "two").await;
        applied(&consumer, second).await;
        let layout = || Some(scene.consumer.layout(&VOLUMES));

        let head = show(&scene, &scene.consumer, SyncRole::Consumer, None, layout()).await;
        let head = head.expect("is shown");
        assert_eq!((head.record.cid, head.record.parent_cid), (second, Some(first)));
        assert_eq!(head.standing, GenerationStanding::Head);
        assert_eq!(head.stored, GenerationStored::Whole);
        assert_eq!(head.volumes.len(), 2, "{:?}", head.volumes);
        assert!(head.applied_at.is_some() && head.published_at.is_none());
        assert_eq!(head.packs.is_some(), format == ArchiveFormat::Tree);

        let older = show(&scene, &scene.provider, SyncRole::Provider, Some(first), None).await;
        let older = older.expect("is shown");
        assert_eq!(older.standing, GenerationStanding::Superseded);
        assert!(older.published_at.is_some() && older.applied_at.is_none());
        assert!(older.volumes.is_empty());

        let blob = older.record.manifest.blob;
        scene.store().delete(blob).await.expect("deletes");
        let gone = show(&scene, &scene.provider, SyncRole::Provider, Some(first), None).await;
        assert_eq!(gone.expect("is shown").stored, GenerationStored::Gone);
        consumer.stop().await;
        provider.stop().await;
    }
}

#[tokio::test]
async fn what_no_record_names_is_said_to_be_unknown() {
    let scene = Scene::new();
    let nothing = show(&scene, &scene.consumer, SyncRole::Consumer, None, None).await;
    assert!(matches!(nothing, Err(AskError::Nothing { .. })), "{nothing:?}");
    let provider = scene.provide();
    scene.publish(&provider, "one").await;
    let other = Cid::from_digest([9; 32]);
    let unknown = show(&scene, &scene.consumer, SyncRole::Consumer, Some(other), None).await;
    let Err(AskError::Unknown { cid, .. }) = unknown else { panic!("{unknown:?}") };
    assert_eq!(cid, prefix(other));
    // A head that nobody can read is told, and hides no older generation.
    let key = fs::read_dir(scene.store_path().join("records")).expect("lists").next();
    let head = key.expect("a key").expect("reads").path().join("0000000002");
    fs::write(head, b"{}").expect("writes a record");
    let refused = show(&scene, &scene.consumer, SyncRole::Consumer, None, None).await;
    assert!(matches!(refused, Err(AskError::Damaged { .. })), "{refused:?}");
    provider.stop().await;
}
