//! Takeovers: one node publishes, until another takes its place; then the first one does not.

use std::fs;
use std::path::PathBuf;

use belay_protocol::{ProblemCode, PublisherKey, SyncRole};
use belay_sync::failpoint::Point;
use belay_sync::{PublishError, PublisherRule, SyncSpec, Takeover, TakeoverError};
use serde_json::json;

use crate::commands::{applied, publish};
use crate::disk::{Disk, End};
use crate::kill::killed_at;
use crate::scene::{Place, Running, VOLUMES, eventually, fill, spec, start, start_with, trees};
use crate::stored::records;

/// Two nodes with a workload each, which both provide one key.
struct Scene {
    temp: tempfile::TempDir,
    first: Place,
    standby: Place,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let first = Place::new(&temp.path().join("provider"), &VOLUMES);
        let standby = Place::new(&temp.path().join("standby"), &VOLUMES);
        fill(&first, "first");
        fill(&standby, "standby");
        Self { temp, first, standby }
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn provide(&self, place: &Place) -> Running {
        start(place, &self.store_path(), SyncRole::Provider)
    }
}

fn signer(place: &Place) -> PublisherKey {
    place.key().publisher().expect("a key")
}

/// A publish that is refused because `by` publishes, before anything is stopped.
async fn fenced(running: &Running, by: &Place) {
    let before = running.window.events();
    let refused = publish(running).await.expect_err("somebody else publishes");
    let PublishError::Failed { stage, code: Some(ProblemCode::Fenced), reason } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(stage.to_string(), "validation", "{reason}");
    assert!(reason.contains(&signer(by).to_string()), "{reason}");
    assert_eq!(running.window.events(), before, "nothing is stopped for it");
    let status = running.handle.status().borrow().clone();
    assert_eq!(status.fenced.expect("it is shown").signer, Some(signer(by)));
}

#[tokio::test]
async fn one_publishes_another_takes_over_and_consumers_follow() {
    let scene = Scene::new();
    let first = scene.provide(&scene.first);
    let old = publish(&first).await.expect("publishes");
    let consumer = Place::new(&scene.temp.path().join("consumer"), &VOLUMES);
    let publishers = Some(vec![signer(&scene.first), signer(&scene.standby)]);
    let spec = SyncSpec { publishers, ..spec(SyncRole::Consumer) };
    let consuming = start_with(&consumer, &VOLUMES, &scene.store_path(), spec);
    applied(&consuming, old).await;

    let standby = scene.provide(&scene.standby);
    fenced(&standby, &scene.first).await;
    let taken = standby.handle.take_over().await.expect("takes over");
    let from = "node-a".parse().expect("a name");
    assert_eq!(taken, Takeover::Taken { epoch: 2, seq: 2, cid: old, from });
    let events = consuming.window.events();
    let again = standby.handle.take_over().await.expect("it is so already");
    assert_eq!(again, Takeover::Already { epoch: 2, seq: 2 });
    assert_eq!(standby.handle.status().borrow().fenced, None);
    fenced(&first, &scene.standby).await;

    // The content is the same, so nobody is disturbed; and what is old now stays old.
    let is_highest = || {
        let text = fs::read_to_string(consumer.state().join("sync/consumer.json")).ok()?;
        let memory: serde_json::Value = serde_json::from_str(&text).ok()?;
        (memory["highest"]["order"] == json!({"epoch": 2, "seq": 2})).then_some(())
    };
    eventually("the takeover to be the highest record", is_highest).await;
    assert_eq!(consuming.window.events(), events);
    let new = publish(&standby).await.expect("publishes");
    applied(&consuming, new).await;
    assert_eq!(trees(&consumer), trees(&scene.standby));

    // A restart changes nothing, and the app is told too.
    first.stop().await;
    let first = scene.provide(&scene.first);
    first.status("the fence", |status| status.fenced.is_some()).await;
    fenced(&first, &scene.standby).await;
    scene.first.request(&json!({"archive_paths": ["/app"], "request_id": "r1"}));
    let response = eventually("the answer", || scene.first.json("response.json")).await;
    assert_eq!((&response["status"], &response["stage"]), (&json!("error"), &json!("validation")));
    assert!(response["error"].as_str().is_some_and(|error| error.contains("fenced")));

    // And back again.
    let taken = first.handle.take_over().await.expect("takes over");
    assert!(matches!(taken, Takeover::Taken { epoch: 3, seq: 4, .. }), "{taken:?}");
    let back = publish(&first).await.expect("publishes");
    assert_eq!(back, old, "its content is what it was");
    applied(&consuming, back).await;
    fenced(&standby, &scene.first).await;
    let epochs: Vec<u64> =
        records(&scene.store_path()).await.iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [3, 3, 2, 2, 1]);
    for running in [first, standby, consuming] {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_publish_under_way_is_fenced_by_construction() {
    for point in [Point::CaptureJournalled, Point::RecordJournalled] {
        let scene = Scene::new();
        let first = scene.provide(&scene.first);
        publish(&first).await.expect("publishes");
        first.stop().await;
        fill(&scene.first, "late");
        scene.first.request(&json!({"archive_paths": ["/app"], "request_id": "late"}));
        killed_at("publish", point, scene.temp.path());
        let standby = scene.provide(&scene.standby);
        standby.handle.take_over().await.expect("takes over");

        let first = scene.provide(&scene.first);
        let response = eventually("the answer", || scene.first.json("response.json")).await;
        assert_eq!(response["status"], "error", "{point:?}: {response}");
        assert!(response["error"].as_str().is_some_and(|error| error.contains("fenced")));
        let records = records(&scene.store_path()).await;
        assert_eq!(records.len(), 2, "{point:?}");
        assert_eq!(records[0].signer, Some(signer(&scene.standby)));
        first.stop().await;
        standby.stop().await;
    }
}

#[tokio::test]
async fn a_publish_that_happened_before_the_takeover_is_answered_as_one_that_happened() {
    let scene = Scene::new();
    fs::create_dir(scene.first.sync_file("")).expect("creates");
    scene.first.request(&json!({"archive_paths": ["/app"]}));
    killed_at("publish", Point::RecordSet, scene.temp.path());
    let standby = scene.provide(&scene.standby);
    standby.handle.take_over().await.expect("takes over");
    let first = scene.provide(&scene.first);
    let response = eventually("the answer", || scene.first.json("response.json")).await;
    assert_eq!(response["status"], "ok", "{response}");
    fenced(&first, &scene.standby).await;
    first.stop().await;
    standby.stop().await;
}

#[tokio::test]
async fn a_takeover_killed_anywhere_happened_or_did_not() {
    for point in Point::TAKEOVER {
        a_takeover_ends(point, End::Kill).await;
    }
}

#[tokio::test]
async fn a_takeover_that_loses_its_power_happened_or_did_not() {
    for point in Point::TAKEOVER {
        a_takeover_ends(point, End::PowerCut).await;
    }
}

async fn a_takeover_ends(point: Point, end: End) {
    let scene = Scene::new();
    let disks = end.disks(&[&scene.standby.root, &scene.store_path()]);
    Place::new(&scene.standby.root, &VOLUMES);
    fill(&scene.standby, "standby");
    let first = scene.provide(&scene.first);
    let cid = publish(&first).await.expect("publishes");
    // The store of the one that publishes lies on a disk that is cut.
    let going_on = match end {
        End::Kill => Some(first),
        End::PowerCut => {
            first.stop().await;
            None
        }
    };
    disks.iter().for_each(Disk::sync);
    killed_at("takeover", point, scene.temp.path());
    Disk::cut(&disks);
    let first = going_on.unwrap_or_else(|| scene.provide(&scene.first));
    let set = point != Point::TakeoverJournalled;

    let standby = scene.provide(&scene.standby);
    match standby.handle.take_over().await.expect("takes over") {
        Takeover::Already { epoch: 2, .. } => assert!(set, "{point:?} {end:?}"),
        Takeover::Taken { epoch: 2, cid: taken, .. } => {
            assert!(!set && taken == cid, "{point:?} {end:?}");
        }
        other => panic!("{point:?} {end:?}: {other:?}"),
    }
    fenced(&first, &scene.standby).await;
    assert_eq!(records(&scene.store_path()).await.len(), 2, "{point:?} {end:?}: one takeover");
    let history = scene.standby.state().join("sync_history/sent");
    assert_eq!(fs::read_dir(history).expect("lists").count(), 1, "{point:?} {end:?}: in it");
    for file in ["takeover.json", "fence.json", "fences.json"] {
        assert!(
            !scene.standby.state().join("sync").join(file).exists(),
            "{point:?} {end:?}: {file}"
        );
    }
    publish(&standby).await.expect("publishes");
    first.stop().await;
    standby.stop().await;
}

#[tokio::test]
async fn a_store_that_forgets_the_takeover_gives_nothing_back() {
    let scene = Scene::new();
    let first = scene.provide(&scene.first);
    publish(&first).await.expect("publishes");
    let standby = scene.provide(&scene.standby);
    standby.handle.take_over().await.expect("takes over");
    fenced(&first, &scene.standby).await;
    standby.stop().await;
    let records = scene.store_path().join("records/models");
    fs::remove_file(records.join("0000000002")).expect("forgets the takeover");
    fenced(&first, &scene.standby).await;
    fs::remove_file(records.join("0000000001")).expect("forgets everything");
    fenced(&first, &scene.standby).await;
    assert_eq!(first.handle.take_over().await, Err(TakeoverError::NothingPublished));
    first.stop().await;
}

#[tokio::test]
async fn where_any_may_publish_providers_take_turns() {
    let scene = Scene::new();
    let any = || SyncSpec { publisher: PublisherRule::Any, ..spec(SyncRole::Provider) };
    let first = start_with(&scene.first, &VOLUMES, &scene.store_path(), any());
    let second = start_with(&scene.standby, &VOLUMES, &scene.store_path(), any());
    let (one, other) = (publish(&first).await, publish(&second).await);
    assert_ne!(one.expect("publishes"), other.expect("publishes"));
    publish(&first).await.expect("publishes");
    assert_eq!(first.handle.take_over().await, Err(TakeoverError::AnyMayPublish));
    let signers: Vec<_> =
        records(&scene.store_path()).await.iter().map(|record| record.signer).collect();
    let (one, other) = (Some(signer(&scene.first)), Some(signer(&scene.standby)));
    assert_eq!(signers, [one, other, one]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_refused() {
    let scene = Scene::new();
    let standby = scene.provide(&scene.standby);
    assert_eq!(standby.handle.take_over().await, Err(TakeoverError::NothingPublished));
    standby.stop().await;
    let consuming = start(&scene.standby, &scene.store_path(), SyncRole::Consumer);
    assert_eq!(consuming.handle.take_over().await, Err(TakeoverError::NotProvider));
    consuming.stop().await;
    // A fence that cannot be read is not taken for none.
    fs::write(scene.standby.state().join("sync/fence.json"), "{").expect("damages");
    let standby = scene.provide(&scene.standby);
    let refused = publish(&standby).await.expect_err("unknown").to_string();
    assert!(refused.contains("unknown"), "{refused}");
    assert_eq!(standby.window.events(), Vec::<String>::new());
    standby.stop().await;
}
