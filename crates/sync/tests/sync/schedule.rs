//! A provider publishes by itself, when it is time.

use std::fs;
use std::time::Duration;

use belay_protocol::SyncRole;
use belay_store::RecordStore;
use belay_sync::failpoint::Point;
use belay_sync::{CapturePolicy, IfUnchanged, PublishCommand, Schedule, SyncSpec};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::commands::Scene;
use crate::kill::killed_at;
use crate::scene::{Now, Running, VOLUMES, eventually, fill, spec, start_with};

pub(crate) fn every(every: Duration) -> SyncSpec {
    let schedule =
        Schedule { every, paths: vec!["/app".to_owned()], if_unchanged: IfUnchanged::Skip };
    SyncSpec { schedule: Some(schedule), ..spec(SyncRole::Provider) }
}

fn provide(scene: &Scene, spec: SyncSpec) -> Running {
    start_with(&scene.provider, &VOLUMES, &scene.store_path(), spec)
}

fn file(scene: &Scene) -> std::path::PathBuf {
    scene.provider.state().join("sync/schedule.json")
}

fn scheduled(scene: &Scene) -> Option<Value> {
    serde_json::from_slice(&fs::read(file(scene)).ok()?).expect("never seen half-written")
}

/// Sets when it published last and publishes next.
fn set(scene: &Scene, every: Duration, last: &str, next: &str) {
    fs::create_dir_all(scene.provider.state().join("sync")).expect("creates");
    let known = json!({
        "every_ms": u64::try_from(every.as_millis()).expect("small"),
        "last": last, "next": next, "failures": 0,
    });
    fs::write(file(scene), known.to_string()).expect("writes");
}

async fn records(scene: &Scene) -> usize {
    let key = "models".parse().expect("a key");
    scene.store().history(&key, 10).await.expect("reads").len()
}

const HOUR: Duration = Duration::from_hours(1);
const PAST: &str = "2020-01-01T00:00:00Z";

#[tokio::test]
async fn it_publishes_again_and_again_and_unchanged_content_makes_no_record() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let provider = provide(&scene, every(Duration::from_millis(300)));
    let first = provider.status("a publish", |status| status.last_publish.is_some()).await;
    let one = first.last_publish.expect("waited for");
    let at = one.at;
    provider
        .status("another look at the same", |status| {
            status.last_publish.as_ref().is_some_and(|last| last.at > at)
        })
        .await;
    assert_eq!(records(&scene).await, 1, "it was the same");
    fill(&scene.provider, "two");
    let two = eventually("the second state", || {
        let last = provider.handle.status().borrow().last_publish.clone()?;
        (last.cid != one.cid).then_some(last)
    })
    .await;
    assert!(two.at > at);
    assert!(records(&scene).await >= 2);
    let status = provider.handle.status().borrow().clone();
    assert!(status.next_publish.is_some());
    assert_eq!(status.last_failure, None);
    provider.stop().await;
}

/// How often the app was stopped for a publish.
fn stops(provider: &Running) -> usize {
    provider.window.events().iter().filter(|event| *event == "stop for publish").count()
}

/// Waits until the schedule has had its turn so often, and returns when the last one ended.
async fn turns(provider: &Running, turns: usize) -> Timestamp {
    let last = || provider.handle.status().borrow().last_publish.as_ref().map(|last| last.at);
    let mut seen = last();
    for _ in 0..turns {
        seen = Some(
            eventually("a turn of the schedule", || last().filter(|at| seen != Some(*at))).await,
        );
    }
    seen.expect("there was a turn")
}

/// Waits until it stops nothing any more; what had just been written when it was read is read again.
async fn settled(provider: &Running) -> usize {
    let end = tokio::time::Instant::now() + crate::scene::DEADLINE;
    loop {
        let before = stops(provider);
        turns(provider, 3).await;
        if stops(provider) == before {
            return before;
        }
        assert!(tokio::time::Instant::now() < end, "it is stopped again and again");
    }
}

const OFTEN: Duration = Duration::from_millis(200);

#[tokio::test]
async fn an_app_whose_files_did_not_change_is_not_stopped_by_the_schedule() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let provider = provide(&scene, every(OFTEN));
    let before = settled(&provider).await;
    assert!((1..=3).contains(&before), "{before} stops for one state");
    let status = provider.handle.status().borrow().clone();
    let one = status.last_publish.expect("it published");
    assert_eq!((one.downtime_ms, status.last_failure), (0, None));
    assert_eq!(records(&scene).await, 1);

    // As many bytes and the old date: only the time of change tells.
    let file = scene.provider.data("data").join("state");
    let modified = fs::metadata(&file).and_then(|found| found.modified()).expect("looks");
    fs::write(&file, "eno").expect("writes");
    let written = fs::File::options().write(true).open(&file).expect("opens");
    written.set_modified(modified).expect("sets");
    let two = eventually("the change", || {
        let last = provider.handle.status().borrow().last_publish.clone()?;
        (last.cid != one.cid).then_some(last)
    })
    .await;
    assert!(stops(&provider) > before, "a change is captured");
    let after = settled(&provider).await;
    assert_eq!(records(&scene).await, 2);

    // What an operator asks for is captured, changed or not.
    let command =
        PublishCommand { archive_paths: vec!["/app".into()], metadata: serde_json::Map::new() };
    let outcome = provider.handle.publish(command).await.expect("publishes");
    assert_eq!((outcome.unchanged, outcome.cid), (true, two.cid));
    assert_eq!(stops(&provider), after + 1);
    provider.stop().await;

    // Over a restart it is remembered.
    let provider = provide(&scene, every(OFTEN));
    turns(&provider, 3).await;
    assert_eq!((stops(&provider), records(&scene).await), (0, 2));
    provider.stop().await;
}

#[tokio::test]
async fn where_a_look_does_not_do_the_app_is_stopped_all_the_same() {
    let said = |change: &dyn Fn(&mut SyncSpec)| {
        let mut spec = every(OFTEN);
        change(&mut spec);
        spec
    };
    let schedule = Schedule {
        if_unchanged: IfUnchanged::Capture,
        ..every(OFTEN).schedule.expect("it has one")
    };
    for (what, spec) in [
        ("the spec says so", said(&|spec| spec.schedule = Some(schedule.clone()))),
        (
            "of an archive nothing is remembered",
            said(&|spec| {
                spec.format = belay_protocol::record::ArchiveFormat::TarGz;
            }),
        ),
    ] {
        let scene = Scene::new();
        fill(&scene.provider, "one");
        let provider = provide(&scene, spec);
        turns(&provider, 4).await;
        assert!(stops(&provider) >= 4, "{what}");
        assert_eq!(records(&scene).await, 1, "{what}");
        provider.stop().await;
    }
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let provider = provide(&scene, said(&|spec| spec.capture = CapturePolicy::Atomic));
    // A host that does not clone stops for it, and is spared that too.
    settled(&provider).await;
    provider.stop().await;
    // What the store lost is put there again.
    let before = records(&scene).await;
    for entry in fs::read_dir(scene.store_path().join("blobs")).expect("lists") {
        let path = entry.expect("reads").path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .expect("removes");
    }
    let provider = provide(&scene, every(OFTEN));
    turns(&provider, 1).await;
    assert!(stops(&provider) >= 1, "only a capture mends it");
    assert!(records(&scene).await >= before);
    provider.stop().await;
}

#[tokio::test]
async fn a_restart_neither_publishes_at_once_nor_forgets() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    set(&scene, HOUR, PAST, PAST);
    let provider = provide(&scene, every(HOUR));
    let status = provider.status("what was missed", |status| status.last_publish.is_some()).await;
    let next = eventually("the next time", || {
        let next = provider.handle.status().borrow().next_publish?;
        (next > Timestamp::now()).then_some(next)
    })
    .await;
    let ahead = next.duration_since(status.last_publish.expect("waited for").at).as_secs();
    assert!((3_400..=3_790).contains(&ahead), "{ahead}");
    provider.stop().await;

    fill(&scene.provider, "two");
    let provider = provide(&scene, every(HOUR));
    for _ in 0..3 {
        provider.looked().await;
    }
    let status = provider.handle.status().borrow().clone();
    assert_eq!(status.next_publish, Some(next), "it was written down");
    assert_eq!((status.last_publish, records(&scene).await), (None, 1));
    provider.stop().await;

    // By another clock, the next one lay years ahead.
    set(&scene, HOUR, "2999-01-01T00:00:00Z", "2999-01-01T01:00:00Z");
    let provider = provide(&scene, every(HOUR));
    provider.status("a publish", |status| status.last_publish.is_some()).await;
    assert_eq!(records(&scene).await, 2);
    provider.stop().await;
}

#[tokio::test]
async fn a_request_of_the_app_goes_first_and_a_pause_holds_it_back() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    fs::create_dir_all(scene.provider.sync_file("")).expect("creates");
    set(&scene, HOUR, PAST, PAST);
    let asked = json!({"archive_paths": ["/app/data"], "request_id": "first"});
    scene.provider.request(&asked);
    let provider = provide(&scene, every(HOUR));
    provider
        .status("both", |status| status.next_publish.is_some_and(|next| next > Timestamp::now()))
        .await;
    let key = "models".parse().expect("a key");
    let log = scene.store().history(&key, 10).await.expect("reads");
    let paths: Vec<Value> = log
        .iter()
        .map(|stored| serde_json::from_slice::<Value>(&stored.bytes).expect("a record"))
        .map(|record| record["manifest"]["archive_paths"].clone())
        .collect();
    assert_eq!(paths, [json!(["/app"]), json!(["/app/data"])], "the newest first");
    provider.handle.pause().await.expect("pauses");
    provider.stop().await;

    set(&scene, HOUR, PAST, PAST);
    fill(&scene.provider, "two");
    let provider = provide(&scene, every(HOUR));
    let words = "the publish of its schedule";
    provider.status("what waits", |status| status.waits.as_deref() == Some(words)).await;
    assert_eq!(records(&scene).await, 2);
    provider.handle.resume().await.expect("resumes");
    provider.status("the publish", |status| status.last_publish.is_some()).await;
    assert_eq!(records(&scene).await, 3);
    provider.stop().await;
}

#[tokio::test]
async fn a_workload_that_is_coming_up_is_waited_for() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    set(&scene, HOUR, PAST, PAST);
    let provider = provide(&scene, every(HOUR));
    provider.window.0.lock().expect("not poisoned").now = Now::Said(None);
    for _ in 0..2 {
        provider.looked().await;
    }
    assert_eq!(provider.window.events(), Vec::<String>::new());
    provider.window.0.lock().expect("not poisoned").now = Now::Ready;
    provider.status("the publish", |status| status.last_publish.is_some()).await;
    provider.stop().await;
}

#[tokio::test]
async fn a_publish_that_fails_is_tried_again_later_over_restarts() {
    let scene = Scene::new();
    let mut wrong = every(Duration::from_millis(300));
    wrong.schedule.as_mut().expect("there").paths = vec!["/app/none".to_owned()];
    let provider = provide(&scene, wrong.clone());
    let failed = |count: u64| scheduled(&scene).filter(|known| known["failures"] == count);
    let known = eventually("the failure", || failed(1)).await;
    let next: Timestamp = known["next"].as_str().expect("text").parse().expect("a time");
    let ahead = next.duration_since(Timestamp::now()).as_secs();
    assert!((40..=63).contains(&ahead), "{ahead}");
    let status = provider.status("the failure", |status| status.last_failure.is_some()).await;
    assert_eq!(status.last_failure.expect("waited for").stage, "validation");
    provider.looked().await;
    provider.stop().await;
    let provider = provide(&scene, wrong.clone());
    provider.looked().await;
    assert_eq!(scheduled(&scene), Some(known.clone()), "it waits");
    assert_eq!(provider.window.events(), Vec::<String>::new(), "nothing was stopped for it");
    provider.stop().await;

    let mut due = known;
    due["next"] = json!(PAST);
    fs::write(file(&scene), due.to_string()).expect("writes");
    let provider = provide(&scene, wrong);
    eventually("the second failure", || failed(2)).await;
    provider.stop().await;
}

#[tokio::test]
async fn a_publish_that_was_cut_short_is_the_one_that_it_was() {
    for point in [
        Point::ClaimJournalled,
        Point::CaptureJournalled,
        Point::RecordSet,
        Point::SentHistoryWritten,
    ] {
        let scene = Scene::new();
        fill(&scene.provider, "one");
        set(&scene, HOUR, PAST, PAST);
        killed_at("schedule", point, scene.temp.path());
        let provider = provide(&scene, every(HOUR));
        let next = provider
            .status("the next time", |status| {
                status.next_publish.is_some_and(|next| next > Timestamp::now())
            })
            .await;
        provider.looked().await;
        assert_eq!(records(&scene).await, 1, "{point:?}");
        let stops =
            provider.window.events().iter().filter(|event| event.starts_with("stop")).count();
        let again = usize::from(point == Point::ClaimJournalled);
        assert_eq!(stops, again, "{point:?}: {next:?}");
        provider.stop().await;
    }
}
