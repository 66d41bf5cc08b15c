//! A store that is gone from one call on, whichever that is.

use belay_protocol::SyncRole;
use belay_protocol::record::ArchiveFormat;
use belay_store::BlobStore;
use serde_json::json;

use crate::faults::{Scene, answer, applied, publish};
use crate::scene::{
    FORMATS, Place, VOLUMES, eventually, fill, provide_as, spec, start, start_on, trees,
};

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
async fn a_first_apply_survives_a_store_that_vanishes_at_any_call() {
    for format in FORMATS {
        an_apply_survives(format, Before::Nothing).await;
    }
}

#[tokio::test]
async fn an_apply_over_another_survives_a_store_that_vanishes_at_any_call() {
    for format in FORMATS {
        an_apply_survives(format, Before::AnotherState).await;
    }
}

/// What a consumer has of the key before the store vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    AnotherState,
}

async fn an_apply_survives(format: ArchiveFormat, has: Before) {
    let scene = Scene::new();
    let publishing = provide_as(&scene.provider, &scene.store_path(), format);
    let mut told = 0;
    for calls in 0..CALLS {
        let consumer = Place::new(&scene.temp.path().join(format!("consumer-{calls}")), &VOLUMES);
        fill(&consumer, "before");
        let case = format!("{format:?} over {has:?}, {calls} calls");
        if has == Before::AnotherState {
            fill(&scene.provider, &format!("old-{calls}"));
            let old = publish(&publishing, &["/app"]).await;
            let running = start(&consumer, &scene.store_path(), SyncRole::Consumer);
            applied(&running, old).await;
            running.stop().await;
        }
        fill(&scene.provider, &format!("new-{calls}"));
        let cid = publish(&publishing, &["/app"]).await;
        let (before, published) = (trees(&consumer), trees(&scene.provider));
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
            assert_eq!(trees(&consumer), published, "{case}");
            running.stop().await;
            publishing.stop().await;
            assert!(calls > 2 && told > 0, "{case}: {told} of them were told");
            return;
        }
        let status = running.handle.status().borrow().clone();
        assert!(status.quarantine.is_empty(), "{case}: {:?}", status.quarantine);
        match status.last_failure {
            Some(failure) => {
                assert_eq!(failure.stage, "download", "{case}: {failure:?}");
                told += 1;
            }
            // Whoever has seen no record has nothing to fail at.
            None => assert_eq!(status.head, None, "{case}: it is known, and nothing is said"),
        }
        assert_eq!(running.window.events(), Vec::<String>::new(), "{case}");
        assert_eq!(trees(&consumer), before, "{case}");
        store.with(|faults| faults.answers = None);
        applied(&running, cid).await;
        assert_eq!(trees(&consumer), published, "{case}");
        running.stop().await;
    }
    panic!("an apply makes {CALLS} calls");
}
