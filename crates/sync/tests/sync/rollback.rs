//! A consumer goes back to an earlier generation, and stays there until it is told otherwise.

use std::fs;

use belay_protocol::Cid;
use belay_store::BlobStore;
use belay_sync::failpoint::Point;
use belay_sync::{RollbackError, WindowRefused, recover};

use crate::commands::{Scene, applied, prefix};
use crate::kill::killed_at;
use crate::scene::{Running, State, VOLUMES, eventually, trees};

/// A consumer that holds the second of two generations, and what each looks like.
async fn two(scene: &Scene) -> (Running, Running, [(Cid, State); 2]) {
    let (provider, consumer) = (scene.provide(), scene.consume());
    let first = scene.publish(&provider, "one").await;
    let one = trees(&scene.provider);
    applied(&consumer, first).await;
    let second = scene.publish(&provider, "two").await;
    let two = trees(&scene.provider);
    applied(&consumer, second).await;
    scene.ended().await;
    (provider, consumer, [(first, one), (second, two)])
}

#[tokio::test]
async fn a_consumer_goes_back_and_holds_the_head_back_over_restarts() {
    let scene = Scene::new();
    let (provider, consumer, [(first, one), (second, two)]) = two(&scene).await;
    let gone_back = consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!((gone_back.cid, gone_back.left_epoch, gone_back.left_seq), (first, 1, 2));
    assert!(gone_back.downtime.is_some());
    assert_eq!(trees(&scene.consumer), one);
    for _ in 0..3 {
        consumer.looked().await;
    }
    assert_eq!(trees(&scene.consumer), one, "the head is not taken again");
    let status = consumer.status("what is held", |status| status.held.is_some()).await;
    let held = status.held.expect("waited for");
    assert_eq!((held.cid, held.seq, held.left_epoch, held.left_seq), (first, 1, 1, 2));
    assert_eq!(status.head.expect("still shown").cid, second);
    let last = scene.consumer.json("last_apply.json").expect("the app is told");
    assert_eq!(last["cid"], first.to_string());
    consumer.stop().await;

    let consumer = scene.consume();
    for _ in 0..3 {
        consumer.looked().await;
    }
    assert_eq!(trees(&scene.consumer), one);
    assert_eq!(consumer.window.events(), Vec::<String>::new(), "nothing was to be done");
    assert!(consumer.handle.status().borrow().held.is_some());

    // There is nothing before the first.
    let refused = consumer.handle.roll_back(None).await.expect_err("refused");
    assert!(matches!(refused, RollbackError::Target { .. }), "{refused}");
    assert!(consumer.handle.status().borrow().held.is_some(), "a refusal changes nothing");

    consumer.handle.resume().await.expect("resumes");
    applied(&consumer, second).await;
    assert_eq!(trees(&scene.consumer), two);
    assert_eq!(consumer.handle.status().borrow().held, None);
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_newer_record_ends_a_rollback_also_while_nobody_looked() {
    let scene = Scene::new();
    let (provider, consumer, _) = two(&scene).await;
    consumer.handle.roll_back(None).await.expect("goes back");
    let third = scene.publish(&provider, "three").await;
    applied(&consumer, third).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    assert_eq!(consumer.handle.status().borrow().held, None);
    // What is before the third now is the second.
    scene.ended().await;
    consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!(fs::read(scene.consumer.data("app").join("state")).expect("reads"), b"two");
    consumer.stop().await;
    let fourth = scene.publish(&provider, "four").await;
    let consumer = scene.consume();
    applied(&consumer, fourth).await;
    assert_eq!(consumer.handle.status().borrow().held, None);
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_reset_gets_what_was_gone_back_to() {
    let scene = Scene::new();
    let (provider, consumer, [(_, one), _]) = two(&scene).await;
    consumer.handle.roll_back(None).await.expect("goes back");
    consumer.stop().await;
    for (name, _) in VOLUMES {
        fs::remove_dir_all(scene.consumer.data(name)).expect("removes");
        fs::create_dir(scene.consumer.data(name)).expect("creates");
    }
    let consumer = scene.consume();
    eventually("the state", || {
        let there = scene.consumer.data("app").join("data").exists();
        (there && trees(&scene.consumer) == one).then_some(())
    })
    .await;
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_rollback_that_cannot_be_changes_nothing() {
    let scene = Scene::new();
    let (provider, consumer, [(first, _), (second, two)]) = two(&scene).await;
    let newest = consumer.handle.roll_back(Some(prefix(second))).await;
    assert!(matches!(newest, Err(RollbackError::Newest { .. })), "{newest:?}");
    let other = prefix(Cid::from_digest([9; 32]));
    let unknown = consumer.handle.roll_back(Some(other)).await;
    assert!(matches!(unknown, Err(RollbackError::Target { .. })), "{unknown:?}");
    let provider_asked = provider.handle.roll_back(None).await;
    assert_eq!(provider_asked, Err(RollbackError::NotConsumer));

    let busy = WindowRefused::Busy { reason: "a deploy is under way".to_owned() };
    consumer.window.0.lock().expect("not poisoned").refuse = Some(busy);
    let refused = consumer.handle.roll_back(None).await;
    assert!(matches!(refused, Err(RollbackError::Busy { .. })), "{refused:?}");
    consumer.window.0.lock().expect("not poisoned").refuse = None;

    let blobs = scene.store().list(None, 100).await.expect("lists");
    let first_record = {
        let key = "models".parse().expect("a key");
        let log = belay_store::RecordStore::history(&scene.store(), &key, 10).await;
        let records = log.expect("reads");
        let records = records.iter().map(|stored| {
            serde_json::from_slice::<belay_protocol::record::SyncRecord>(&stored.bytes)
        });
        records.map(|record| record.expect("a record")).find(|record| record.cid == first)
    };
    let root = first_record.expect("is logged").manifest.blob;
    assert!(blobs.iter().any(|blob| blob.id == root));
    scene.store().delete(root).await.expect("deletes");
    let failed = consumer.handle.roll_back(Some(prefix(first))).await;
    assert!(matches!(failed, Err(RollbackError::Failed { .. })), "{failed:?}");
    for _ in 0..2 {
        consumer.looked().await;
    }
    assert_eq!(trees(&scene.consumer), two);
    let status = consumer.handle.status().borrow().clone();
    assert_eq!((status.held, status.quarantine.len()), (None, 0));
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_paused_consumer_goes_back_on_an_operators_word() {
    let scene = Scene::new();
    let (provider, consumer, [(_, one), _]) = two(&scene).await;
    consumer.handle.pause().await.expect("pauses");
    consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!(trees(&scene.consumer), one);
    assert_eq!(consumer.handle.status().borrow().stage, "paused");
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_rollback_killed_anywhere_comes_to_its_end() {
    for point in Point::APPLY {
        let scene = Scene::new();
        let (provider, consumer, [(first, one), (_, two)]) = two(&scene).await;
        consumer.stop().await;
        killed_at("rollback", point, scene.temp.path());

        let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
        assert_eq!(recovery.expect("recovers").halt, None, "{point:?}");
        let found = trees(&scene.consumer);
        assert!(found == one || found == two, "{point:?}: one of the two, whole");
        went_back(&scene, point, first, &one).await;
        provider.stop().await;
    }
}

/// A rollback that was cut off at `point` comes to its end, with the generation that was chosen.
pub(crate) async fn went_back(scene: &Scene, point: Point, chosen: Cid, state: &State) {
    let consumer = scene.consume();
    eventually("the end", || {
        let told = scene.consumer.json("last_apply.json");
        let over = told.is_some_and(|last| last["cid"] == chosen.to_string())
            && !scene.consumer.state().join("sync/apply.json").exists();
        over.then_some(())
    })
    .await;
    consumer.looked().await;
    assert_eq!(&trees(&scene.consumer), state, "{point:?}");
    assert!(consumer.handle.status().borrow().held.is_some(), "{point:?}");
    consumer.stop().await;
}
