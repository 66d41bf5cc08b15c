//! A process is killed at each journalled point of a publish and of an apply; the next one must
//! find the old state or the new one, whole, and come to the same end as if nothing had happened.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use belay_protocol::SyncRole;
use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::failpoint::{Point, arm};
use belay_sync::{OnUnready, PublishCommand, SyncSpec, recover};
use serde_json::{Map, json};

use crate::imports::{ARCHIVE, import};
use crate::later::sweeping;
use crate::scene::{
    CloningHost, DEADLINE, FORMATS, Place, VOLUMES, eventually, fill, provide_as, spec, start,
    start_with, tree, trees, unready,
};
use crate::schedule::every;
use crate::sealed::sealing;

const CHILD: &str = "BELAY_SYNC_TEST_CHILD";

/// Not a test of its own: what the killed process does, when this binary is run as one.
#[tokio::test]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (role, rest) = order.split_once(':').expect("an order");
    let (point, rest) = rest.split_once(':').expect("an order");
    let (format, root) = rest.split_once(':').expect("an order");
    let format = FORMATS.into_iter().find(|known| format!("{known:?}") == format);
    let format = format.expect("a known form");
    let root = Path::new(root);
    let publish = Point::PUBLISH.iter().chain(&Point::CLONES).chain(&Point::FAILURE);
    let all = publish.chain(&Point::APPLY).chain(&Point::TAKEOVER);
    let all = all.chain(&Point::IMPORT_LOST).chain(&Point::IMPORT_KEPT).chain(&Point::TAKE_BACK);
    let all = all.chain(&Point::LATER);
    let all = all.chain([&Point::Leased]);
    let point = all.copied().find(|known| format!("{known:?}") == point).expect("a known point");
    arm(point);
    if role == "recover" {
        let place = Place::at(&root.join("consumer"));
        let recovery = recover(&place.state(), &place.layout(&VOLUMES)).await;
        panic!("the failpoint ends this process before: {recovery:?}");
    }
    let goes_back = role == "rollback";
    let takes_over = role == "takeover";
    let imports = role == "import";
    let becomes_unready = role == "unready";
    let on_unready = if role == "share" { OnUnready::Keep } else { OnUnready::Rollback };
    let keeps_schedule = role == "schedule";
    let sweeps = role == "sweep";
    let sealing = (role == "publish-sealed").then(|| sealing(root, 1, &[2, 3]));
    let (place, role) = match role {
        "publish" | "publish-sealed" | "import" | "schedule" | "sweep" => {
            (Place::at(&root.join("provider")), SyncRole::Provider)
        }
        "takeover" => (Place::at(&root.join("standby")), SyncRole::Provider),
        "publish-clones" => {
            let place = Place::at(&root.join("provider"));
            place.clones.with(|clones| clones.host = CloningHost::Clones);
            (place, SyncRole::Provider)
        }
        "apply" | "share" | "rollback" | "unready" => {
            (Place::at(&root.join("consumer")), SyncRole::Consumer)
        }
        other => panic!("no role {other}"),
    };
    let base = if keeps_schedule {
        every(Duration::from_hours(1))
    } else if sweeps {
        sweeping()
    } else {
        spec(role)
    };
    let spec = SyncSpec { format, sealing, on_unready, ..base };
    let running = start_with(&place, &VOLUMES, &root.join("store"), spec);
    if becomes_unready {
        running.window.0.lock().expect("not poisoned").on_applied = Some(unready());
    }
    if goes_back {
        let _ = running.handle.roll_back(None).await;
    }
    if imports {
        let archive = std::fs::read(root.join(ARCHIVE)).expect("reads");
        import(&running, &archive).await.expect("the failpoint ends this process before");
    }
    if takes_over {
        running.handle.take_over().await.expect("the failpoint ends this process before");
    }
    // The failpoint ends this process long before.
    tokio::time::sleep(DEADLINE).await;
    running.stop().await;
}

/// Each point in each form.
fn both(points: &[Point]) -> Vec<(Point, ArchiveFormat)> {
    let each = |point: &Point| FORMATS.map(|format| (*point, format));
    points.iter().flat_map(each).collect()
}

/// Runs a child until it kills itself at `point`.
pub(crate) fn killed_at(role: &str, point: Point, root: &Path) {
    killed_as(ArchiveFormat::Tree, role, point, root);
}

pub(crate) fn killed_as(format: ArchiveFormat, role: &str, point: Point, root: &Path) {
    let status = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "kill::child", "--nocapture"])
        .env(CHILD, format!("{role}:{point:?}:{format:?}:{}", root.display()))
        .stdout(std::process::Stdio::null())
        .status()
        .expect("this binary runs");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "{point:?} was reached");
}

#[tokio::test]
async fn b9_a_publish_killed_anywhere_is_answered_once_and_published_once() {
    let clones = both(&Point::CLONES).into_iter().map(|point| ("publish-clones", point));
    let all = both(&Point::PUBLISH).into_iter().map(|point| ("publish", point)).chain(clones);
    for (role, (point, format)) in all {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let place = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&place, "one");
        fs::create_dir(place.sync_file("")).expect("creates");
        place.request(&json!({"archive_paths": ["/app"], "request_id": "once"}));
        killed_as(format, role, point, temp.path());

        let running = provide_as(&place, &temp.path().join("store"), format);
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
        let objects = match format {
            ArchiveFormat::TarGz => 1,
            // A root, and the pack that it names.
            ArchiveFormat::Tree => 2,
        };
        assert_eq!(blobs.len(), objects, "{point:?}: no object twice");
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        assert_eq!(bytes, record.manifest.archive_size_bytes, "{point:?}: all that it needs");
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
    an_apply_is_killed_anywhere("apply").await;
}

#[tokio::test]
async fn so_does_one_whose_states_have_files_in_common() {
    an_apply_is_killed_anywhere("share").await;
}

async fn an_apply_is_killed_anywhere(role: &str) {
    for (point, format) in both(&Point::APPLY) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let store = temp.path().join("store");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
        let publishing = provide_as(&provider, &store, format);
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
        killed_at(role, point, temp.path());
        if point == Point::Staged {
            let always = fs::metadata(consumer.data("app").join("always")).expect("is there");
            assert_eq!(always.nlink(), if role == "share" { 2 } else { 1 }, "{format:?}");
        }

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
    for (format, damaged) in [
        (ArchiveFormat::TarGz, "archive"),
        (ArchiveFormat::Tree, "root"),
        (ArchiveFormat::Tree, "pack-0"),
    ] {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let place = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&place, "one");
        fs::create_dir(place.sync_file("")).expect("creates");
        place.request(&json!({"archive_paths": ["/app"]}));
        killed_as(format, "publish", Point::CaptureJournalled, temp.path());
        let spool = fs::read_dir(place.state().join("sync/spool")).expect("lists").next();
        let captured = spool.expect("a capture").expect("reads").path();
        let path = if captured.is_dir() { captured.join(damaged) } else { captured };
        let mut bytes = fs::read(&path).expect("reads");
        bytes.truncate(bytes.len() / 2);
        fs::write(&path, bytes).expect("damages");
        let running = provide_as(&place, &temp.path().join("store"), format);
        let response = eventually("the answer", || place.json("response.json")).await;
        assert_eq!(response["status"], "ok", "{damaged}: {response}");
        let events = running.window.events();
        assert_eq!(events, ["stop for publish", "start unchanged"], "{damaged}");
        running.stop().await;
    }
}
