//! A process is killed at each journalled point of a publish and of an apply; the next one must
//! find the old state or the new one, whole, and come to the same end as if nothing had happened.

use std::fs;
use std::path::Path;
use std::process::Command;

use belay_protocol::SyncRole;
use belay_protocol::record::SyncRecord;
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::failpoint::{Point, arm};
use belay_sync::{PublishCommand, recover};
use serde_json::{Map, json};

use crate::scene::{
    DEADLINE, Place, VOLUMES, eventually, fill, spec, start, start_with, tree, trees,
};

const CHILD: &str = "BELAY_SYNC_TEST_CHILD";

/// Not a test of its own: what the killed process does, when this binary is run as one.
#[tokio::test]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (role, rest) = order.split_once(':').expect("an order");
    let (point, root) = rest.split_once(':').expect("an order");
    let root = Path::new(root);
    let all = Point::PUBLISH.iter().chain(&Point::FAILURE).chain(&Point::APPLY);
    let point = all.copied().find(|known| format!("{known:?}") == point).expect("a known point");
    arm(point);
    let (place, role) = match role {
        "publish" => (Place { root: root.join("provider") }, SyncRole::Provider),
        _ => (Place { root: root.join("consumer") }, SyncRole::Consumer),
    };
    let running = start(&place, &root.join("store"), role);
    // The failpoint ends this process long before.
    tokio::time::sleep(DEADLINE).await;
    running.stop().await;
}

/// Runs a child until it kills itself at `point`.
pub(crate) fn killed_at(role: &str, point: Point, root: &Path) {
    let status = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "kill::child", "--nocapture"])
        .env(CHILD, format!("{role}:{point:?}:{}", root.display()))
        .stdout(std::process::Stdio::null())
        .status()
        .expect("this binary runs");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "{point:?} was reached");
}

#[tokio::test]
async fn b9_a_publish_killed_anywhere_is_answered_once_and_published_once() {
    for point in Point::PUBLISH {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let place = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&place, "one");
        fs::create_dir(place.sync_file("")).expect("creates");
        place.request(&json!({"archive_paths": ["/app"], "request_id": "once"}));
        killed_at("publish", point, temp.path());

        let running = start(&place, &temp.path().join("store"), SyncRole::Provider);
        let response = eventually("the answer", || place.json("response.json")).await;
        eventually("the end", || {
            let over = !place.sync_file("request.json.processing").exists()
                && !place.state().join("sync/publish.json").exists();
            over.then_some(())
        })
        .await;
        assert_eq!((&response["status"], &response["request_id"]), (&json!("ok"), &json!("once")));

        let store = LocalStore::open(&temp.path().join("store")).expect("opens");
        let key = "models".parse().expect("a key");
        let history = store.history(&key, 10).await.expect("reads");
        assert_eq!(history.len(), 1, "{point:?}: one record");
        let record: SyncRecord = serde_json::from_slice(&history[0].bytes).expect("a record");
        assert_eq!(response["cid"], record.cid.to_string());
        let blobs = store.list(None, 10).await.expect("lists");
        assert_eq!(blobs.len(), 1, "{point:?}: one object");
        let sent = fs::read_dir(place.state().join("sync_history/sent")).expect("lists").count();
        assert_eq!(sent, 1, "{point:?}: one entry");
        let spool = fs::read_dir(place.state().join("sync/spool")).expect("lists").count();
        assert_eq!(spool, 0, "{point:?}: an empty spool");
        assert!(!place.sync_file("request.json").exists(), "{point:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn b5_b7_b33_an_apply_killed_anywhere_leaves_the_old_state_or_the_new_one() {
    for point in Point::APPLY {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let store = temp.path().join("store");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        let publishing = start(&provider, &store, SyncRole::Provider);
        let publish = || {
            publishing.handle.publish(PublishCommand {
                archive_paths: vec!["/app".into()],
                metadata: Map::new(),
            })
        };
        fill(&provider, "old");
        let old_cid = publish().await.expect("publishes").cid;
        let old = trees(&provider);
        let running = start(&consumer, &store, SyncRole::Consumer);
        running
            .status("the old state", |status| {
                status.last_apply.as_ref().is_some_and(|last| last.cid == old_cid)
            })
            .await;
        running.stop().await;
        assert_eq!(trees(&consumer), old);
        fill(&provider, "new");
        let new_cid = publish().await.expect("publishes").cid;
        let new = trees(&provider);
        killed_at("apply", point, temp.path());

        let recovery = recover(&consumer.state(), &consumer.layout(&VOLUMES)).await;
        let recovery = recovery.expect("recovers");
        assert_eq!(recovery.halt, None, "{point:?}");
        let found = trees(&consumer);
        let begun = Point::APPLY.iter().position(|p| *p == point)
            >= Point::APPLY.iter().position(|p| *p == Point::ApplyJournalled);
        assert_eq!(found == new, begun, "{point:?}: rolled forward once journalled");
        assert_eq!(found == old, !begun, "{point:?}: untouched before");

        let running = start(&consumer, &store, SyncRole::Consumer);
        eventually("the end", || {
            let told = consumer.json("last_apply.json");
            let over = told.is_some_and(|last| last["cid"] == new_cid.to_string())
                && !consumer.state().join("sync/apply.json").exists();
            over.then_some(())
        })
        .await;
        assert_eq!(trees(&consumer), new, "{point:?}");
        let events = if begun { 0 } else { 2 };
        assert_eq!(running.window.events().len(), events, "{point:?}: no needless stop");
        for (name, _) in VOLUMES {
            let left = tree(&consumer.private(name));
            assert_eq!(left.len(), 2, "{point:?}: only the mark stays: {left:?}");
        }
        let received = consumer.state().join("sync_history/received");
        assert_eq!(fs::read_dir(received).expect("lists").count(), 2, "{point:?}: an entry each");
        running.stop().await;
        publishing.stop().await;
    }
}

#[tokio::test]
async fn a_publish_whose_spooled_archive_was_lost_is_captured_again() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "one");
    fs::create_dir(place.sync_file("")).expect("creates");
    place.request(&json!({"archive_paths": ["/app"]}));
    killed_at("publish", Point::CaptureJournalled, temp.path());
    let spool = place.state().join("sync/spool");
    for entry in fs::read_dir(&spool).expect("lists") {
        let path = entry.expect("reads").path();
        let mut bytes = fs::read(&path).expect("reads");
        bytes.truncate(bytes.len() / 2);
        fs::write(path, bytes).expect("damages");
    }
    let running =
        start_with(&place, &VOLUMES, &temp.path().join("store"), spec(SyncRole::Provider));
    let response = eventually("the answer", || place.json("response.json")).await;
    assert_eq!(response["status"], "ok", "{response}");
    assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);
    running.stop().await;
}
