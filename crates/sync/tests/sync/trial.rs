//! An apply stays once the workload is ready on it; otherwise what was there before comes back.

use std::fs;

use belay_protocol::{Cid, ProblemCode, SyncRole, SyncStatus};
use belay_sync::failpoint::Point;
use belay_sync::{OnUnready, Ready, SyncSpec, WindowRefused, recover};
use serde_json::{Value, json};

use crate::commands::{Scene, applied};
use crate::kill::killed_at;
use crate::scene::{
    Now, Running, State, VOLUMES, eventually, spec, start_with, tree, trees, unready,
};

/// A provider, and a consumer that holds its first generation, to which its app wrote since.
async fn first(scene: &Scene) -> (Running, Running, Cid, State) {
    let (provider, consumer) = (scene.provide(), scene.consume());
    let cid = scene.publish(&provider, "one").await;
    applied(&consumer, cid).await;
    scene.ended().await;
    fs::write(scene.consumer.data("app").join("mine"), "of the app").expect("writes");
    (provider, consumer, cid, trees(&scene.consumer))
}

/// The same once a second generation was taken back.
async fn second(scene: &Scene) -> (Running, Running, [Cid; 2], State) {
    let (provider, consumer, one, before) = first(scene).await;
    answer(&consumer, Some(unready()));
    let two = scene.publish(&provider, "two").await;
    taken_back(&consumer, two, 1).await;
    scene.ended().await;
    (provider, consumer, [one, two], before)
}

/// The same while a second generation is on trial, and its workload says this of itself.
async fn on_trial(scene: &Scene, now: Option<Ready>) -> (Running, Running, [Cid; 2], State) {
    let (provider, consumer, one, before) = first(scene).await;
    answer(&consumer, Some(Ready::NotStarted));
    say(&consumer, now);
    let two = scene.publish(&provider, "two").await;
    consumer.status("a trial", |status| status.stage == "on-trial").await;
    (provider, consumer, [one, two], before)
}

fn answer(running: &Running, on_applied: Option<Ready>) {
    running.window.0.lock().expect("not poisoned").on_applied = on_applied;
}

pub(crate) fn say(running: &Running, now: Option<Ready>) {
    running.window.0.lock().expect("not poisoned").now = Now::Said(now);
}

pub(crate) async fn taken_back(consumer: &Running, cid: Cid, failures: u32) -> SyncStatus {
    consumer
        .status("that it was taken back", |status| {
            let back = status.taken_back.as_ref();
            back.is_some_and(|back| (back.cid, back.failures) == (cid, failures))
        })
        .await
}

fn error(scene: &Scene) -> Value {
    scene.consumer.json("apply_error.json").expect("the app is told")
}

#[tokio::test]
async fn content_on_which_the_workload_is_not_ready_is_taken_back_with_what_it_wrote() {
    let scene = Scene::new();
    let (provider, consumer, one, before) = first(&scene).await;
    answer(&consumer, Some(unready()));
    let stops = consumer.window.events().len();
    let two = scene.publish(&provider, "two").await;
    let status = taken_back(&consumer, two, 1).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), before, "what the app had written is there too");
    let failure = status.last_failure.expect("it is shown");
    assert_eq!(
        (failure.stage.as_str(), failure.code),
        ("readiness", Some(ProblemCode::UnreadyAfterApply))
    );
    assert!(failure.error.ends_with("3 of 3 answers were bad"), "{}", failure.error);
    let wait = status.quarantine[&two.to_string()].duration_since(failure.at).as_secs();
    assert!((58..=60).contains(&wait), "{wait}");
    let told = error(&scene);
    assert_eq!((&told["cid"], &told["stage"]), (&json!(two.to_string()), &json!("readiness")));
    assert_eq!((&told["code"], &told["failure_count"]), (&json!("unready-after-apply"), &json!(1)));
    let last = scene.consumer.json("last_apply.json").expect("the app was told");
    assert_eq!(last["cid"], one.to_string(), "what it holds");
    let events = consumer.window.events().split_off(stops);
    assert_eq!(
        events,
        ["stop for apply", "start applied", "stop for apply", "start as before"],
        "once there and once back"
    );
    for (name, _) in VOLUMES {
        assert_eq!(tree(&scene.consumer.private(name)).len(), 2, "only the mark stays");
    }
    for _ in 0..3 {
        consumer.looked().await;
    }
    assert_eq!(consumer.window.events().len(), stops + 4, "it waits");

    // Other content does not wait, and ends it.
    answer(&consumer, None);
    let three = scene.publish(&provider, "three").await;
    applied(&consumer, three).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    assert!(scene.consumer.json("apply_error.json").is_none());
    for (name, _) in VOLUMES {
        assert_eq!(tree(&scene.consumer.private(name)).len(), 2, "nor is the old state kept");
    }
    let history = scene.consumer.state().join("sync_history/received");
    assert_eq!(
        fs::read_dir(history).expect("lists").count(),
        2,
        "what was taken back is not in it"
    );
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn content_that_fails_again_is_counted_and_held_back_for_longer_over_restarts() {
    let scene = Scene::new();
    let (provider, consumer, [_, two], before) = second(&scene).await;
    consumer.stop().await;

    // Its time has come.
    let path = scene.consumer.state().join("sync/consumer.json");
    let mut memory: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    memory["quarantine"][two.to_string()]["next_retry_after"] = json!("2020-01-01T00:00:00Z");
    fs::write(&path, memory.to_string()).expect("writes");
    let consumer = scene.consume();
    let known = consumer.handle.status().borrow().taken_back.clone();
    assert_eq!(known.map(|back| back.cid), Some(two), "known from the start");
    answer(&consumer, Some(unready()));
    let status = taken_back(&consumer, two, 2).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), before);
    let at = status.taken_back.expect("waited for").at;
    let wait = status.quarantine[&two.to_string()].duration_since(at).as_secs();
    assert!((118..=120).contains(&wait), "{wait}");
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn content_is_not_blamed_for_what_was_so_before_nor_where_the_spec_keeps_it() {
    let scene = Scene::new();
    let (provider, consumer, _, _) = first(&scene).await;
    answer(&consumer, Some(unready()));
    consumer.window.0.lock().expect("not poisoned").unready_before = true;
    let two = scene.publish(&provider, "two").await;
    applied(&consumer, two).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consumer.stop().await;

    let keep = SyncSpec { on_unready: OnUnready::Keep, ..spec(SyncRole::Consumer) };
    let consumer = start_with(&scene.consumer, &VOLUMES, &scene.store_path(), keep);
    answer(&consumer, Some(unready()));
    let three = scene.publish(&provider, "three").await;
    applied(&consumer, three).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    let status = consumer.handle.status().borrow().clone();
    assert_eq!((status.taken_back, status.quarantine.len()), (None, 0));

    // Nor is what an operator goes back to.
    consumer.stop().await;
    let consumer = scene.consume();
    answer(&consumer, Some(unready()));
    let back = consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!(back.cid, two);
    assert_eq!(fs::read(scene.consumer.data("app").join("state")).expect("reads"), b"two");
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_first_apply_is_taken_back_to_what_was_there() {
    let scene = Scene::new();
    fs::write(scene.consumer.data("app").join("seed"), "of the image").expect("writes");
    fs::create_dir(scene.consumer.data("app").join("data")).expect("creates");
    let before = trees(&scene.consumer);
    let (provider, consumer) = (scene.provide(), scene.consume());
    answer(&consumer, Some(unready()));
    let one = scene.publish(&provider, "one").await;
    taken_back(&consumer, one, 1).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), before);
    assert!(scene.consumer.json("last_apply.json").is_none());
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn the_app_may_have_changed_the_places_themselves() {
    let scene = Scene::new();
    let (provider, consumer) = (scene.provide(), scene.consume());
    let publish = async |state: &str| {
        fs::write(scene.provider.data("app").join("settings"), state).expect("writes");
        let gone = scene.provider.data("app").join("only");
        fs::create_dir_all(gone.join("below")).expect("creates");
        fs::write(gone.join("below/file"), state).expect("writes");
        let archive_paths = vec!["/app/settings".to_owned(), "/app/only/below".to_owned()];
        let metadata = serde_json::Map::new();
        let command = belay_sync::PublishCommand { archive_paths, metadata };
        provider.handle.publish(command).await.expect("publishes").cid
    };
    let one = publish("one").await;
    applied(&consumer, one).await;
    scene.ended().await;
    consumer.stop().await;

    // Nobody knows yet whether it is ready, and meanwhile it replaces what it was given.
    let consumer = scene.consume();
    answer(&consumer, Some(Ready::NotStarted));
    say(&consumer, None);
    let two = publish("two").await;
    consumer.status("a trial", |status| status.stage == "on-trial").await;
    let app = scene.consumer.data("app");
    assert_eq!(fs::read(app.join("settings")).expect("reads"), b"two");
    fs::write(app.join("next"), "by the app").expect("writes");
    fs::rename(app.join("next"), app.join("settings")).expect("renames");
    fs::remove_dir_all(app.join("only")).expect("removes");
    say(&consumer, Some(unready()));
    taken_back(&consumer, two, 1).await;
    scene.ended().await;
    assert_eq!(fs::read(app.join("settings")).expect("reads"), b"one");
    assert_eq!(fs::read(app.join("only/below/file")).expect("reads"), b"one");
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_trial_waits_for_a_workload_that_was_stopped_and_goes_on_after_a_restart() {
    let scene = Scene::new();
    let (provider, consumer, [one, two], before) = on_trial(&scene, Some(Ready::NotStarted)).await;
    // A newer record waits for the verdict.
    let three = scene.publish(&provider, "three").await;
    consumer.looked().await;
    assert_eq!(fs::read(scene.consumer.data("app").join("state")).expect("reads"), b"two");
    let last = scene.consumer.json("last_apply.json").expect("the app was told");
    assert_eq!(last["cid"], one.to_string());
    consumer.stop().await;

    let consumer = scene.consume();
    say(&consumer, Some(unready()));
    taken_back(&consumer, two, 1).await;
    say(&consumer, None);
    applied(&consumer, three).await;
    scene.ended().await;
    assert_ne!(trees(&scene.consumer), before);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_trial_that_is_passed_after_a_restart_is_told_like_any_apply() {
    let scene = Scene::new();
    let (provider, consumer, [_, two], _) = on_trial(&scene, None).await;
    consumer.stop().await;
    let consumer = scene.consume();
    applied(&consumer, two).await;
    scene.ended().await;
    let last = scene.consumer.json("last_apply.json").expect("the app is told");
    assert_eq!(last["cid"], two.to_string());
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn an_operator_ends_a_trial_and_a_busy_workload_delays_the_way_back() {
    let scene = Scene::new();
    let (provider, consumer, [one, _], _) = on_trial(&scene, None).await;
    let back = consumer.handle.roll_back(None).await.expect("goes back");
    assert_eq!(back.cid, one);
    assert_eq!(consumer.handle.status().borrow().taken_back, None, "nothing was judged");
    consumer.handle.resume().await.expect("resumes");
    consumer.status("a trial", |status| status.stage == "on-trial").await;

    let busy = WindowRefused::Busy { reason: "a deploy is under way".to_owned() };
    consumer.window.0.lock().expect("not poisoned").refuse = Some(busy);
    say(&consumer, Some(unready()));
    let journal = scene.consumer.state().join("sync/apply.json");
    eventually("the verdict", || {
        fs::read_to_string(&journal).ok()?.contains("taking_back").then_some(())
    })
    .await;
    assert_eq!(fs::read(scene.consumer.data("app").join("state")).expect("reads"), b"two");
    let refused = consumer.handle.roll_back(None).await.expect_err("not now");
    assert!(refused.is_retryable(), "{refused}");
    consumer.window.0.lock().expect("not poisoned").refuse = None;
    scene.ended().await;
    assert_eq!(fs::read(scene.consumer.data("app").join("state")).expect("reads"), b"one");
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_workload_that_cannot_be_stopped_is_asked_less_and_less_to_go_back() {
    let scene = Scene::new();
    let (provider, consumer, [_, two], before) = on_trial(&scene, None).await;
    let refused = WindowRefused::NotConfirmed { reason: "it hangs".to_owned() };
    consumer.window.0.lock().expect("not poisoned").refuse = Some(refused);
    let began = std::time::Instant::now();
    say(&consumer, Some(unready()));
    for _ in 0..40 {
        consumer.looked().await;
    }
    let asked = consumer.window.0.lock().expect("not poisoned").refused;
    // At once, and then 2, 4, 8 s after the one before.
    let most = 2 + (began.elapsed().as_secs() / 2 + 1).ilog2();
    assert!((1..=most).contains(&asked), "{asked} times in {:?}", began.elapsed());

    // An operator does not wait.
    consumer.window.0.lock().expect("not poisoned").refuse = None;
    consumer.handle.roll_back(None).await.expect_err("it has gone back, and there is no earlier");
    taken_back(&consumer, two, 1).await;
    scene.ended().await;
    assert_eq!(trees(&scene.consumer), before);
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn what_cannot_be_put_back_stays_and_is_told() {
    let scene = Scene::new();
    let (provider, consumer, [_, two], _) = on_trial(&scene, None).await;
    // As a reset of the volume would: what lay beside its content is gone.
    for (name, _) in VOLUMES {
        for entry in fs::read_dir(scene.consumer.private(name)).expect("lists") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                fs::remove_dir_all(path).expect("removes");
            }
        }
    }
    say(&consumer, Some(unready()));
    let status = consumer
        .status("that it stays", |status| {
            status.last_failure.as_ref().is_some_and(|failure| failure.error.contains("it stays"))
        })
        .await;
    assert_eq!(status.halted, None);
    assert_eq!(status.last_apply.expect("it holds").cid, two);
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    // For as long as it is held, however often it is looked at.
    for _ in 0..3 {
        consumer.looked().await;
    }
    let failure = consumer.handle.status().borrow().last_failure.clone();
    assert!(failure.expect("it is shown").error.contains("it stays"));
    say(&consumer, Some(Ready::Ready));
    answer(&consumer, Some(Ready::Ready));
    let three = scene.publish(&provider, "three").await;
    applied(&consumer, three).await;
    consumer.status("that it is over", |status| status.last_failure.is_none()).await;
    consumer.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_way_back_killed_anywhere_comes_to_its_end_with_one_verdict() {
    for point in Point::TAKE_BACK {
        let scene = Scene::new();
        let (provider, consumer, _, before) = first(&scene).await;
        consumer.stop().await;
        let two = scene.publish(&provider, "two").await;
        killed_at("unready", point, scene.temp.path());
        was_taken_back(&scene, point, two, &before, VOLUMES.len()).await;
        provider.stop().await;
    }
}

/// A way back that was cut off at `point` comes to its end, with what was there `before`, and with
/// the marks of so many volumes.
pub(crate) async fn was_taken_back(
    scene: &Scene,
    point: Point,
    two: Cid,
    before: &State,
    marks: usize,
) {
    let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
    assert_eq!(recovery.expect("recovers").halt, None, "{point:?}");
    assert_eq!(&trees(&scene.consumer), before, "{point:?}: back before anything starts");
    let consumer = scene.consume();
    taken_back(&consumer, two, 1).await;
    scene.ended().await;
    consumer.looked().await;
    assert_eq!(&trees(&scene.consumer), before, "{point:?}");
    assert_eq!(consumer.window.events(), Vec::<String>::new(), "{point:?}: no needless stop");
    assert_eq!(error(scene)["failure_count"], 1, "{point:?}: one verdict");
    let left = VOLUMES.map(|(name, _)| tree(&scene.consumer.private(name)).into_keys());
    let left: Vec<_> = left.into_iter().flatten().filter(|path| !path.is_empty()).collect();
    assert_eq!(left, vec!["applied.json"; marks], "{point:?}: only marks stay");
    consumer.stop().await;
}

/// An apply whose verdict was not given yet is judged by the next process.
#[tokio::test]
async fn a_trial_killed_before_its_verdict_is_judged_by_the_next_process() {
    for point in [Point::ApplyJournalled, Point::CommitJournalled, Point::ApplyWindowClosed] {
        let scene = Scene::new();
        let (provider, consumer, _, before) = first(&scene).await;
        consumer.stop().await;
        let two = scene.publish(&provider, "two").await;
        killed_at("unready", point, scene.temp.path());
        let recovery = recover(&scene.consumer.state(), &scene.consumer.layout(&VOLUMES)).await;
        assert_eq!(recovery.expect("recovers").halt, None, "{point:?}");
        let consumer = scene.consume();
        say(&consumer, Some(unready()));
        taken_back(&consumer, two, 1).await;
        scene.ended().await;
        assert_eq!(trees(&scene.consumer), before, "{point:?}");
        consumer.stop().await;
        provider.stop().await;
    }
}

/// The mark of the old state is back: it is known to be applied, and is not fetched again.
#[tokio::test]
async fn the_old_state_is_known_again() {
    let scene = Scene::new();
    let (provider, consumer, [one, _], before) = second(&scene).await;
    let stops = consumer.window.events().len();
    // The old content is the head again.
    let again = scene.publish(&provider, "one").await;
    assert_eq!(again, one);
    consumer
        .status("the head", |status| status.head.as_ref().is_some_and(|head| head.seq == 3))
        .await;
    consumer.looked().await;
    assert_eq!(consumer.window.events().len(), stops, "nothing was to be done");
    assert_eq!(trees(&scene.consumer), before);
    consumer.stop().await;
    provider.stop().await;
}
