//! A store that takes nothing for longer than it is asked in a row.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use belay_protocol::SyncRole;
use belay_store::BlobStore;
use belay_sync::{PublishCommand, PublishError, SyncSpec};
use serde_json::{Map, Value, json};

use crate::faults::{Scene, answer, publish};
use crate::faulty::Faulty;
use crate::scene::{Place, Running, VOLUMES, eventually, fill, spec, start_on};

fn journal(place: &Place) -> Value {
    let bytes = fs::read(place.state().join("sync/publish.json")).expect("a journal");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// A publish whose root was stored, and whose pack the store does not take.
async fn put_off(scene: &Scene, store: &Faulty) -> Running {
    let running = scene.provide_on(store);
    store.with(|faults| faults.puts = Some(1));
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "first"}));
    running.status("that it waits", |status| status.waits.is_some()).await;
    running
}

#[tokio::test]
async fn what_was_captured_goes_on_by_itself_once_the_store_is_back() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = put_off(&scene, &store).await;
    let status = running.handle.status().borrow().clone();
    let waits = status.waits.expect("it waits");
    assert!(
        waits.starts_with(
            "what was captured for a publish, which the store does not take (the store could not \
             write an object: the store is broken); it is offered again until 2"
        ),
        "{waits}"
    );
    let first = status.last_failure.expect("it is said");
    assert_eq!(first.stage, "upload");
    assert_eq!(journal(&scene.provider)["step"]["step"], "captured");

    // What is asked for meanwhile waits its turn.
    fill(&scene.provider, "second");
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "second"}));
    // Longer than the tries in a row take, twice over.
    let again = store.with(|faults| faults.puts.replace(1));
    assert_eq!(again, Some(0));
    eventually("another offer", || store.with(|faults| faults.puts == Some(0)).then_some(())).await;
    let status = running.handle.status().borrow().clone();
    assert_eq!(status.last_failure.expect("it is said").at, first.at, "and said once");
    assert!(scene.provider.json("response.json").is_none(), "it has come to no end");
    assert!(scene.provider.sync_file("request.json").exists(), "and the next waits unclaimed");
    assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);

    store.with(|faults| faults.puts = None);
    let told = eventually("the first answer", || scene.provider.json("response.json")).await;
    assert_eq!((&told["request_id"], &told["status"]), (&json!("first"), &json!("ok")), "{told}");
    eventually("the second answer", || {
        let told = scene.provider.json("response.json")?;
        (told["request_id"] == "second" && told["status"] == "ok").then_some(())
    })
    .await;
    let status = running.status("the end", |status| status.stage == "idle").await;
    assert_eq!((status.waits, status.last_failure), (None, None));
    assert_eq!(scene.records().await.len(), 2);
    assert_eq!(running.window.events().len(), 4, "one stop for each");
    let stored = store.with(|faults| faults.stored.clone());
    let distinct: BTreeSet<_> = stored.iter().collect();
    assert_eq!(stored.len(), distinct.len(), "nothing is stored twice");
    running.stop().await;
}

#[tokio::test]
async fn a_process_that_ends_meanwhile_leaves_it_to_the_next() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = put_off(&scene, &store).await;
    let left = journal(&scene.provider);
    assert_eq!(left["step"]["step"], "captured");
    let since = left["away"].clone();
    assert!(since.is_string(), "a kill leaves since when it waits: {left}");
    running.stop().await;

    let running = scene.provide_on(&store);
    running.status("that it waits", |status| status.waits.is_some()).await;
    assert_eq!(journal(&scene.provider)["away"], since, "a restart gives it no more time");
    store.with(|faults| faults.puts = None);
    let told = answer(&scene.provider).await;
    assert_eq!((&told["request_id"], &told["status"]), (&json!("first"), &json!("ok")), "{told}");
    assert_eq!(running.window.events(), Vec::<String>::new(), "what was captured is published");
    assert_eq!(scene.records().await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn whoever_asked_by_command_is_told_that_it_goes_on() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = scene.provide_on(&store);
    store.with(|faults| faults.puts = Some(0));
    let command =
        || PublishCommand { archive_paths: vec!["/app".to_owned()], metadata: Map::new() };
    let told = running.handle.publish(command()).await.expect_err("the store takes nothing");
    let PublishError::GoesOn { .. } = &told else { panic!("{told:?}") };
    assert!(!told.is_retryable(), "it is not to be asked for again");
    assert_eq!(
        told.to_string(),
        "it is captured and goes on by itself: the store does not take it: the store could not \
         write an object: the store is broken"
    );
    assert_eq!(running.handle.publish(command()).await, Err(PublishError::Busy));

    // Who asks now may know that the store is back.
    store.with(|faults| faults.puts = None);
    publish(&running, &["/app"]).await;
    assert_eq!(scene.records().await.len(), 1, "the same content, published once");
    assert_eq!(running.window.events().len(), 4, "a stop for each that was captured");
    running.stop().await;
}

#[tokio::test]
async fn patience_ends_and_what_was_stored_goes() {
    let scene = Scene::new();
    let store = scene.faulty();
    let patience = Duration::from_secs(1);
    let spec = SyncSpec { store_patience: patience, ..spec(SyncRole::Provider) };
    let running = start_on(&scene.provider, &VOLUMES, store.clone(), spec);
    store.with(|faults| faults.puts = Some(1));
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "first"}));
    running.status("that it waits", |status| status.waits.is_some()).await;
    let told = answer(&scene.provider).await;
    assert_eq!((&told["status"], &told["stage"]), (&json!("error"), &json!("upload")), "{told}");
    let status = running.status("the end", |status| status.stage == "idle").await;
    assert_eq!(status.waits, None);
    assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);
    running.looked().await;
    assert_eq!(store.list(None, 10).await.expect("lists"), []);
    running.stop().await;
}
