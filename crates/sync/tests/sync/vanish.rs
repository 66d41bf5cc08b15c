//! A store that is gone from one call on, whichever that is.

use belay_protocol::SyncRole;
use belay_store::BlobStore;
use serde_json::json;

use crate::faults::{Scene, answer, applied, publish};
use crate::scene::{Place, VOLUMES, eventually, fill, spec, start_on, trees};

/// More calls than a publish or an apply makes.
const CALLS: u32 = 200;

#[tokio::test]
async fn a_publish_survives_a_store_that_vanishes_at_any_call() {
    let mut stages = Vec::new();
    for calls in 0..CALLS {
        let scene = Scene::new();
        let store = scene.faulty();
        let running = scene.provide_on(&store);
        store.with(|faults| faults.answers = Some(calls));
        scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "first"}));
        // Either it is answered, or whether the record was set is asked until the store says.
        let told = eventually("an end or a doubt", || {
            let doubt = running.handle.status().borrow().last_failure.clone();
            let doubt = doubt.map(|failure| json!({"status": "error", "stage": failure.stage}));
            scene.provider.json("response.json").or(doubt)
        })
        .await;
        let gone = store.with(|faults| faults.answers == Some(0));
        let events = running.window.events();
        let whole = ["stop for publish", "start unchanged"];
        assert!(events.is_empty() || events == whole, "{calls} calls: {events:?}");
        store.with(|faults| faults.answers = None);
        let first = answer(&scene.provider).await;
        assert_eq!(first["request_id"], "first", "{calls} calls");
        if first["status"] == "error" {
            assert!(gone, "{calls} calls: {first}");
            assert_eq!(scene.records().await.len(), 0, "{calls} calls: an error is no record");
        } else {
            assert_eq!(scene.records().await.len(), 1, "{calls} calls: one record");
        }
        if told["status"] == "error" {
            stages.push(told["stage"].as_str().expect("a stage").to_owned());
        }

        // The next one goes its way, and what the first left in the store goes.
        fill(&scene.provider, "second");
        let cid = publish(&running, &["/app"]).await;
        let records = scene.records().await;
        assert_eq!(records[0].cid, cid);
        let needed: u64 = records.iter().map(|record| record.manifest.archive_size_bytes).sum();
        running.looked().await;
        let stored = store.list(None, 100).await.expect("lists");
        let stored: u64 = stored.iter().map(|blob| blob.size).sum();
        assert!(stored <= needed, "{calls} calls: {stored} bytes stored, {needed} needed");
        running.stop().await;
        if !gone {
            stages.dedup();
            let known = ["validation", "upload", "record_publish"];
            assert!(stages.iter().all(|stage| known.contains(&stage.as_str())), "{stages:?}");
            assert!(stages.iter().any(|stage| stage == "upload"), "{stages:?}");
            assert!(stages.iter().any(|stage| stage == "record_publish"), "{stages:?}");
            return;
        }
    }
    panic!("a publish makes {CALLS} calls");
}

#[tokio::test]
async fn an_apply_survives_a_store_that_vanishes_at_any_call() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let cid = publish(&publishing, &["/app"]).await;
    publishing.stop().await;
    let published = trees(&scene.provider);
    for calls in 0..CALLS {
        let consumer = Place::new(&scene.temp.path().join(format!("consumer-{calls}")), &VOLUMES);
        fill(&consumer, "before");
        let before = trees(&consumer);
        let store = scene.faulty();
        store.with(|faults| faults.answers = Some(calls));
        let running = start_on(&consumer, &VOLUMES, store.clone(), spec(SyncRole::Consumer));
        let is_applied = || {
            let status = running.handle.status().borrow().clone();
            status.last_apply.is_some_and(|last| last.cid == cid)
        };
        eventually("an apply, or a store that is gone", || {
            (is_applied() || store.with(|faults| faults.answers == Some(0))).then_some(())
        })
        .await;
        running.looked().await;
        if is_applied() {
            assert_eq!(trees(&consumer), published);
            running.stop().await;
            assert!(calls > 3, "{calls} calls are no apply");
            return;
        }
        let status = running.handle.status().borrow().clone();
        assert!(status.quarantine.is_empty(), "{calls} calls: {:?}", status.quarantine);
        let failure = status.last_failure;
        assert!(
            failure.as_ref().is_none_or(|failure| failure.stage == "download"),
            "{calls} calls: {failure:?}"
        );
        assert_eq!(running.window.events(), Vec::<String>::new(), "{calls} calls");
        assert_eq!(trees(&consumer), before, "{calls} calls");
        store.with(|faults| faults.answers = None);
        applied(&running, cid).await;
        assert_eq!(trees(&consumer), published, "{calls} calls");
        running.stop().await;
    }
    panic!("an apply makes {CALLS} calls");
}
