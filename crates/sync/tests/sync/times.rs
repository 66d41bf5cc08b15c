//! A consumer stops its workload when the spec allows it, or when an operator says so.

use std::fs;
use std::time::Duration;

use belay_protocol::{ProblemCode, SyncRole, SyncStatus};
use belay_sync::{
    AppliedNow, ApplyNowError, ApplyTimes, MaintenanceWindow, SyncSpec, WindowRefused,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::commands::{Scene, applied};
use crate::scene::{Running, VOLUMES, eventually, spec, start_with, tree, trees, unready};

/// A window that is shut for hours yet.
fn shut() -> MaintenanceWindow {
    let hour = (Timestamp::now().as_second() / 3600 + 12) % 24;
    format!("{hour:02}:00-{hour:02}:30").parse().expect("a window")
}

fn consume(scene: &Scene, times: ApplyTimes) -> Running {
    let spec = SyncSpec { apply_times: times, ..spec(SyncRole::Consumer) };
    start_with(&scene.consumer, &VOLUMES, &scene.store_path(), spec)
}

async fn waits(consumer: &Running, seq: u64) -> SyncStatus {
    let words = format!("record {seq} of epoch 1 waits for ");
    consumer
        .status("what waits", |status| {
            status.waits.as_ref().is_some_and(|waits| waits.starts_with(&words))
        })
        .await
}

fn staged(scene: &Scene) -> usize {
    let private = fs::read_dir(scene.consumer.private("app")).expect("lists");
    private.filter(|entry| entry.as_ref().expect("reads").path().is_dir()).count()
}

#[tokio::test]
async fn an_apply_is_staged_and_waits_for_its_window_and_only_the_newest_is_applied() {
    let scene = Scene::new();
    let provider = scene.provide();
    let one = scene.publish(&provider, "one").await;
    let consumer = consume(&scene, ApplyTimes { window: Some(shut()), ..ApplyTimes::default() });
    // A volume that holds nothing waits for nothing.
    applied(&consumer, one).await;
    let held = trees(&scene.consumer);
    let events = consumer.window.events().len();
    let two = scene.publish(&provider, "two").await;
    let status = waits(&consumer, 2).await;
    assert!(status.waits.expect("waited for").contains("its window, "));
    let until = status.waits_until.expect("is known");
    assert!(until > Timestamp::now());
    assert_eq!(staged(&scene), 1, "it is ready");
    for _ in 0..3 {
        consumer.looked().await;
    }
    assert_eq!((trees(&scene.consumer), consumer.window.events().len()), (held, events));

    let three = scene.publish(&provider, "three").await;
    waits(&consumer, 3).await;
    assert_eq!(staged(&scene), 1, "the one before is cleared away");
    let done = consumer.handle.apply_now().await.expect("applies");
    assert!(
        matches!(done, AppliedNow::Applied { cid, downtime: Some(_) } if cid == three),
        "{done:?}"
    );
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    let status = consumer.handle.status().borrow().clone();
    assert_eq!((status.waits, status.waits_until), (None, None));
    let history = consumer.handle.history(10).await.expect("reads");
    assert!(history.iter().all(|entry| entry.cid != two), "it was never applied");
    let again = consumer.handle.apply_now().await.expect("says so");
    assert_eq!(again, AppliedNow::Holds { cid: three });
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn applies_have_their_least_time_between_them_over_restarts() {
    let scene = Scene::new();
    let provider = scene.provide();
    let times = ApplyTimes { min_interval: Duration::from_hours(1), ..ApplyTimes::default() };
    let consumer = consume(&scene, times);
    let one = scene.publish(&provider, "one").await;
    applied(&consumer, one).await;
    let two = scene.publish(&provider, "two").await;
    let before = waits(&consumer, 2).await.waits_until.expect("is known");
    consumer.stop().await;
    let consumer = consume(&scene, times);
    let status = waits(&consumer, 2).await;
    assert_eq!(status.waits_until, Some(before), "it was written down");
    assert!(status.waits.expect("waited for").contains("between two applies, 3600 s"));
    consumer.stop().await;

    // An hour later; and a clock that was set back is no reason to wait for a year.
    let path = scene.consumer.state().join("sync/consumer.json");
    for at in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let text = fs::read(&path).expect("reads");
        let mut memory: Value = serde_json::from_slice(&text).expect("JSON");
        memory["applied"] = json!(at);
        fs::write(&path, memory.to_string()).expect("writes");
        let consumer = consume(&scene, times);
        if at.starts_with("2020") {
            applied(&consumer, two).await;
        } else {
            let three = scene.publish(&provider, "three").await;
            applied(&consumer, three).await;
        }
        consumer.stop().await;
    }
    provider.stop().await;
}

#[tokio::test]
async fn what_is_reset_or_gone_back_to_waits_for_nothing() {
    let scene = Scene::new();
    let provider = scene.provide();
    let one = scene.publish(&provider, "one").await;
    let times = ApplyTimes { window: Some(shut()), min_interval: Duration::from_hours(1) };
    let consumer = consume(&scene, times);
    applied(&consumer, one).await;
    let two = scene.publish(&provider, "two").await;
    waits(&consumer, 2).await;
    consumer.handle.apply_now().await.expect("applies");
    let back = consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!(back.cid, one);
    // To apply ends what was held back, and a rollback is over with it.
    let done = consumer.handle.apply_now().await.expect("applies");
    assert!(matches!(done, AppliedNow::Applied { cid, .. } if cid == two), "{done:?}");
    assert_eq!(consumer.handle.status().borrow().held, None);
    consumer.stop().await;
    for (name, _) in VOLUMES {
        fs::remove_dir_all(scene.consumer.data(name)).expect("removes");
        fs::create_dir(scene.consumer.data(name)).expect("creates");
    }
    let consumer = consume(&scene, times);
    applied(&consumer, two).await;
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn an_operator_who_says_now_does_not_wait_for_what_failed_and_is_told_why_not() {
    let scene = Scene::new();
    let (provider, consumer) = (scene.provide(), scene.consume());
    let nothing = consumer.handle.apply_now().await;
    assert!(matches!(nothing, Err(ApplyNowError::Nothing { .. })), "{nothing:?}");
    assert_eq!(provider.handle.apply_now().await, Err(ApplyNowError::NotConsumer));
    let one = scene.publish(&provider, "one").await;
    applied(&consumer, one).await;

    consumer.window.0.lock().expect("not poisoned").on_applied = Some(unready());
    let two = scene.publish(&provider, "two").await;
    consumer.status("that it was taken back", |status| status.taken_back.is_some()).await;
    let refused = consumer.handle.apply_now().await.expect_err("it is taken back again");
    let unready_code = Some(ProblemCode::UnreadyAfterApply);
    assert!(
        matches!(&refused, ApplyNowError::Failed { code, .. } if *code == unready_code),
        "{refused}"
    );
    let status = consumer.handle.status().borrow().clone();
    assert_eq!(status.taken_back.expect("it was").failures, 2);
    consumer.window.0.lock().expect("not poisoned").on_applied = None;
    let done = consumer.handle.apply_now().await.expect("applies");
    assert!(matches!(done, AppliedNow::Applied { cid, .. } if cid == two), "{done:?}");

    let busy = WindowRefused::Busy { reason: "a deploy is under way".to_owned() };
    consumer.window.0.lock().expect("not poisoned").refuse = Some(busy);
    scene.publish(&provider, "three").await;
    let refused = consumer.handle.apply_now().await.expect_err("not now");
    assert!(refused.is_retryable(), "{refused}");
    consumer.window.0.lock().expect("not poisoned").refuse = None;
    consumer.handle.pause().await.expect("pauses");
    assert_eq!(consumer.handle.apply_now().await, Err(ApplyNowError::Paused));
    consumer.handle.resume().await.expect("resumes");
    eventually("the third state", || {
        (trees(&scene.consumer) == trees(&scene.provider)).then_some(())
    })
    .await;
    eventually("the end of the bookkeeping", || {
        (tree(&scene.consumer.private("app")).len() == 2).then_some(())
    })
    .await;
    consumer.stop().await;
    provider.stop().await;
}
