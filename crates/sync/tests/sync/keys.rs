//! A workload gets another key, or other members, by a deploy: what it wrote down before belongs to
//! what it was under then.

use std::fs;
use std::time::Duration;

use belay_protocol::record::SyncRecord;
use belay_protocol::{ProblemCode, SyncHead, SyncRole, SyncStatus};
use belay_store::{BlobStore, RecordStore};
use belay_sync::failpoint::Point;
use belay_sync::{SyncSpec, Takeover};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::commands::{Scene, applied, publish};
use crate::kill::killed_at;
use crate::scene::{Place, Running, VOLUMES, eventually, fill, spec, start_with, trees};
use crate::schedule::every;
use crate::sealed::sealing;

fn under(scene: &Scene, place: &Place, role: SyncRole, key: &str) -> Running {
    let spec = SyncSpec { key: key.parse().expect("a key"), ..spec(role) };
    start_with(place, &VOLUMES, &scene.store_path(), spec)
}

async fn records(scene: &Scene, key: &str) -> Vec<SyncRecord> {
    let key = key.parse().expect("a key");
    let history = scene.store().history(&key, 100).await.expect("reads");
    let records = history.iter().map(|stored| serde_json::from_slice(&stored.bytes));
    records.map(|record| record.expect("a record")).collect()
}

/// The store loses these records of a key.
fn lose(scene: &Scene, key: &str, places: std::ops::RangeInclusive<u64>) {
    for place in places {
        let file = scene.store_path().join("records").join(key).join(format!("{place:010}"));
        fs::remove_file(file).expect("loses a record");
    }
}

fn is_gone(place: &Place, file: &str) -> Option<()> {
    (!place.state().join("sync").join(file).exists()).then_some(())
}

#[tokio::test]
async fn a_consumer_of_another_key_takes_what_is_there_and_remembers_the_first_one() {
    let scene = Scene::new();
    let provider = scene.provide();
    for state in ["one", "two", "three"] {
        scene.publish(&provider, state).await;
    }
    let cid = records(&scene, "models").await[0].cid;
    let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
    fill(&other, "other-1");
    let publishing = under(&scene, &other, SyncRole::Provider, "others");
    let first = publish(&publishing).await.expect("publishes");
    let consumer = scene.consume();
    applied(&consumer, cid).await;
    consumer.stop().await;

    // Its first record stands before the third of the key before, and its third where that does.
    let consumer = under(&scene, &scene.consumer, SyncRole::Consumer, "others");
    applied(&consumer, first).await;
    for state in ["other-2", "other-3"] {
        fill(&other, state);
        let next = publish(&publishing).await.expect("publishes");
        applied(&consumer, next).await;
    }
    assert_eq!(consumer.handle.status().borrow().last_failure, None);
    assert_eq!(trees(&scene.consumer), trees(&other));
    consumer.stop().await;

    // Back again: an old record is played again, which was seen through before.
    lose(&scene, "models", 3..=3);
    let consumer = scene.consume();
    let behind = |status: &SyncStatus| {
        status.last_failure.as_ref().is_some_and(|f| f.code == Some(ProblemCode::RecordBehind))
    };
    consumer.status("the replay", behind).await;
    consumer.looked().await;
    assert_eq!(trees(&scene.consumer), trees(&other), "nothing is applied");
    consumer.stop().await;
    // And so it is under the other one.
    lose(&scene, "others", 3..=3);
    let consumer = under(&scene, &scene.consumer, SyncRole::Consumer, "others");
    consumer.status("the replay", behind).await;
    assert_eq!(trees(&scene.consumer), trees(&other), "nothing is applied");
    for running in [provider, publishing, consumer] {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_fence_is_of_its_key_and_stands_when_that_comes_back() {
    let scene = Scene::new();
    let provider = scene.provide();
    scene.publish(&provider, "one").await;
    scene.publish(&provider, "two").await;
    let standby = Place::new(&scene.temp.path().join("standby"), &VOLUMES);
    fill(&standby, "standby");
    let standing_by = under(&scene, &standby, SyncRole::Provider, "models");
    standing_by.handle.take_over().await.expect("takes over");
    publish(&provider).await.expect_err("somebody else publishes");
    provider.stop().await;

    let provider = under(&scene, &scene.provider, SyncRole::Provider, "others");
    publish(&provider).await.expect("nobody publishes under this one");
    assert_eq!(provider.handle.status().borrow().fenced, None);
    let places: Vec<_> =
        records(&scene, "others").await.iter().map(|record| (record.epoch, record.seq)).collect();
    assert_eq!(places, [(1, 1)], "what was published under another key is no predecessor");
    provider.stop().await;

    // A store that forgot everything gives nothing back.
    lose(&scene, "models", 1..=3);
    let provider = scene.provide();
    provider.status("the fence", |status| status.fenced.is_some()).await;
    let refused = publish(&provider).await.expect_err("still fenced").to_string();
    assert!(refused.contains("fenced"), "{refused}");
    assert!(records(&scene, "models").await.is_empty());
    provider.stop().await;
    standing_by.stop().await;
}

#[tokio::test]
async fn a_fence_of_an_earlier_version_is_of_the_key_that_it_is_found_under() {
    let scene = Scene::new();
    let sync = scene.provider.state().join("sync");
    fs::create_dir_all(&sync).expect("creates");
    let fence = json!({"order": {"epoch": 2, "seq": 9}, "node": "node-b", "signer": null,
        "at": "2023-11-14T22:13:20Z"});
    fs::write(sync.join("fence.json"), fence.to_string()).expect("writes");
    let fenced = |status: &SyncStatus| {
        status.fenced.as_ref().is_some_and(|fence| (fence.epoch, fence.seq) == (2, 9))
    };
    let provider = scene.provide();
    provider.status("the fence", fenced).await;
    provider.stop().await;
    let provider = under(&scene, &scene.provider, SyncRole::Provider, "others");
    fill(&scene.provider, "one");
    publish(&provider).await.expect("nobody publishes under this one");
    provider.stop().await;
    let provider = scene.provide();
    provider.status("the fence", fenced).await;
    provider.stop().await;
}

/// What a provider does with a publish that was begun under other terms.
async fn is_answered_as_failed(scene: &Scene, provider: &Running, what: &str) {
    let answer = eventually("the answer", || scene.provider.json("response.json")).await;
    assert_eq!((&answer["status"], &answer["request_id"]), (&json!("error"), &json!("before")));
    assert_eq!(answer["stage"], "validation", "{what}: {answer}");
    let outdated = |status: &SyncStatus| {
        let failure = status.last_failure.as_ref();
        failure.is_some_and(|failure| failure.code == Some(ProblemCode::PublishOutdated))
    };
    provider.status("that it is told", outdated).await;
    eventually("the end", || is_gone(&scene.provider, "publish.json")).await;
    assert!(!scene.provider.sync_file("request.json.processing").exists(), "{what}");
    let spool = fs::read_dir(scene.provider.state().join("sync/spool")).expect("lists").count();
    assert_eq!(spool, 0, "{what}: an empty spool");
    provider.looked().await;
    let stored = scene.store().list(None, 10).await.expect("lists");
    assert!(stored.is_empty(), "{what}: what it stored goes: {stored:?}");
    assert_eq!(provider.window.events(), Vec::<String>::new(), "{what}: nothing is stopped");
}

fn asked(scene: &Scene) {
    fill(&scene.provider, "one");
    fs::create_dir_all(scene.provider.sync_file("")).expect("creates");
    scene.provider.request(&json!({"archive_paths": ["/app"], "request_id": "before"}));
}

#[tokio::test]
async fn a_publish_that_was_begun_under_another_key_is_answered_as_failed() {
    for point in [Point::ClaimJournalled, Point::CaptureJournalled, Point::RecordJournalled] {
        let scene = Scene::new();
        asked(&scene);
        killed_at("publish", point, scene.temp.path());
        let provider = under(&scene, &scene.provider, SyncRole::Provider, "others");
        is_answered_as_failed(&scene, &provider, &format!("{point:?}")).await;
        let told = scene.provider.json("response.json").expect("an answer");
        let error = told["error"].as_str().expect("words");
        assert!(error.contains("models") && error.contains("others"), "{error}");
        for key in ["models", "others"] {
            assert!(records(&scene, key).await.is_empty(), "{point:?}: {key}");
        }
        publish(&provider).await.expect("publishes");
        assert_eq!(records(&scene, "others").await.len(), 1);
        provider.stop().await;
        // And back again.
        let provider = scene.provide();
        publish(&provider).await.expect("publishes");
        assert_eq!(records(&scene, "models").await.len(), 1);
        provider.stop().await;
    }
}

#[tokio::test]
async fn a_publish_that_was_left_for_the_role_of_a_consumer_is_not_finished_after_it() {
    for point in [Point::CaptureJournalled, Point::RecordJournalled] {
        let scene = Scene::new();
        asked(&scene);
        killed_at("publish", point, scene.temp.path());
        let consumer = under(&scene, &scene.provider, SyncRole::Consumer, "models");
        consumer.looked().await;
        consumer.stop().await;
        let provider = scene.provide();
        is_answered_as_failed(&scene, &provider, &format!("{point:?}")).await;
        assert!(records(&scene, "models").await.is_empty(), "{point:?}");
        publish(&provider).await.expect("publishes");
        provider.stop().await;
    }
}

#[tokio::test]
async fn a_publish_that_happened_under_another_key_is_answered_as_one_that_happened() {
    for point in [Point::RecordSet, Point::PublishJournalled] {
        let scene = Scene::new();
        asked(&scene);
        killed_at("publish", point, scene.temp.path());
        let cid = records(&scene, "models").await[0].cid;
        let provider = under(&scene, &scene.provider, SyncRole::Provider, "others");
        let answer = eventually("the answer", || scene.provider.json("response.json")).await;
        assert_eq!((&answer["status"], &answer["cid"]), (&json!("ok"), &json!(cid.to_string())));
        eventually("the end", || is_gone(&scene.provider, "publish.json")).await;
        assert!(records(&scene, "others").await.is_empty(), "{point:?}");
        let status = provider.handle.status().borrow().clone();
        assert_eq!(status.head.map(|head: SyncHead| head.seq), None, "of the key of now");
        let blobs = scene.store().list(None, 10).await.expect("lists").len();
        assert_eq!(blobs, 2, "{point:?}: its root and its pack stay");
        publish(&provider).await.expect("publishes");
        assert_eq!(records(&scene, "others").await[0].seq, 1);
        provider.stop().await;
        let provider = scene.provide();
        fill(&scene.provider, "two");
        publish(&provider).await.expect("publishes");
        assert_eq!(records(&scene, "models").await[0].seq, 2);
        provider.stop().await;
    }
}

#[tokio::test]
async fn a_takeover_that_was_begun_under_another_key_is_settled_under_that() {
    for point in [Point::TakeoverJournalled, Point::TakeoverSet, Point::TakeoverHistoryWritten] {
        let scene = Scene::new();
        let provider = scene.provide();
        scene.publish(&provider, "one").await;
        let standby = Place::new(&scene.temp.path().join("standby"), &VOLUMES);
        fill(&standby, "standby");
        // It knows that it is fenced.
        let standing_by = under(&scene, &standby, SyncRole::Provider, "models");
        publish(&standing_by).await.expect_err("somebody else publishes");
        standing_by.stop().await;
        killed_at("takeover", point, scene.temp.path());
        let standing_by = under(&scene, &standby, SyncRole::Provider, "others");
        eventually("the end of the takeover", || is_gone(&standby, "takeover.json")).await;
        publish(&standing_by).await.expect("publishes");
        standing_by.stop().await;
        let standing_by = under(&scene, &standby, SyncRole::Provider, "models");
        let taken = standing_by.handle.take_over().await.expect("takes over");
        let happened = point != Point::TakeoverJournalled;
        assert_eq!(matches!(taken, Takeover::Already { .. }), happened, "{point:?}: {taken:?}");
        assert_eq!(records(&scene, "models").await.len(), 2, "{point:?}: one takeover");
        let sent = fs::read_dir(standby.state().join("sync_history/sent")).expect("lists").count();
        assert_eq!(sent, 2, "{point:?}: one of each key");
        provider.stop().await;
        standing_by.stop().await;
    }
}

#[tokio::test]
async fn generations_of_another_key_are_no_generations_of_this_one() {
    let scene = Scene::new();
    let provider = scene.provide();
    for state in ["one", "two", "three", "four"] {
        scene.publish(&provider, state).await;
    }
    provider.stop().await;
    let provider = under(&scene, &scene.provider, SyncRole::Provider, "others");
    for state in ["five", "six", "seven"] {
        scene.publish(&provider, state).await;
    }
    for key in ["models", "others"] {
        for record in &records(&scene, key).await[..2] {
            let stored = scene.store().has(record.manifest.blob).await.expect("asks");
            assert!(stored.is_some(), "{key}: {} is one of the newest two", record.seq);
        }
    }
    let five = records(&scene, "others").await[2].manifest.blob;
    assert_eq!(scene.store().has(five).await.expect("asks"), None, "it is retired");
    provider.stop().await;
}

#[tokio::test]
async fn a_tree_that_was_sealed_for_other_members_is_not_published() {
    // A member goes, a member comes, and what was open is to be sealed.
    let cases: [(&str, Option<&[u8]>); 4] = [
        ("publish-sealed", Some(&[2])),
        ("publish-sealed", Some(&[2, 3, 4])),
        ("publish-sealed", None),
        ("publish", Some(&[2, 3])),
    ];
    for (role, members) in cases {
        for point in [Point::CaptureJournalled, Point::RecordJournalled] {
            let what = format!("{role} {members:?} {point:?}");
            let scene = Scene::new();
            asked(&scene);
            killed_at(role, point, scene.temp.path());
            let sealing = members.map(|members| sealing(scene.temp.path(), 1, members));
            let spec = SyncSpec { sealing, ..spec(SyncRole::Provider) };
            let provider = start_with(&scene.provider, &VOLUMES, &scene.store_path(), spec);
            is_answered_as_failed(&scene, &provider, &what).await;
            assert!(records(&scene, "models").await.is_empty(), "{what}");
            publish(&provider).await.expect("publishes");
            assert_eq!(records(&scene, "models").await.len(), 1, "{what}");
            provider.stop().await;
        }
    }
    // Under the same members, in whatever order, it is finished.
    let scene = Scene::new();
    asked(&scene);
    killed_at("publish-sealed", Point::CaptureJournalled, scene.temp.path());
    let sealing = Some(sealing(scene.temp.path(), 1, &[3, 2]));
    let spec = SyncSpec { sealing, ..spec(SyncRole::Provider) };
    let provider = start_with(&scene.provider, &VOLUMES, &scene.store_path(), spec);
    let answer = eventually("the answer", || scene.provider.json("response.json")).await;
    assert_eq!(answer["status"], "ok", "{answer}");
    provider.stop().await;
}

#[tokio::test]
async fn the_schedule_of_another_key_says_nothing_of_this_one() {
    let scene = Scene::new();
    fill(&scene.provider, "one");
    let day = Duration::from_hours(24);
    let next_under = async |key: &str| {
        let spec = SyncSpec { key: key.parse().expect("a key"), ..every(day) };
        let provider = start_with(&scene.provider, &VOLUMES, &scene.store_path(), spec);
        let status = provider.status("the next", |status| status.next_publish.is_some()).await;
        provider.stop().await;
        status.next_publish.expect("waited for")
    };
    let tomorrow = Timestamp::now() + day;
    let known = json!({"every_ms": 86_400_000, "last": Timestamp::now().to_string(),
        "next": tomorrow.to_string(), "failures": 0});
    fs::create_dir_all(scene.provider.state().join("sync")).expect("creates");
    let file = scene.provider.state().join("sync/schedule.json");
    fs::write(&file, known.to_string()).expect("writes");
    assert_eq!(next_under("models").await, tomorrow, "of before there were keys in it");
    let soon = next_under("others").await;
    assert!(soon <= Timestamp::now() + Duration::from_mins(1), "{soon}: within a minute");
    let text: Value = serde_json::from_slice(&fs::read(&file).expect("reads")).expect("JSON");
    assert_eq!(text["key"], "others");
}
