//! Cases of the catalogue in `docs/sync.md` that a provider shows, by their ids.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use belay_protocol::SyncRole;
use belay_protocol::record::ArchiveFormat;
use belay_store::{BlobStore, LocalStore};
use belay_sync::{CapturePolicy, SyncSpec};
use serde_json::{Value, json};

use crate::faults::{Immutable, Scene, answer, publish};
use crate::faulty::{Deleting, Faulty, Setting};
use crate::scene::{
    CloningHost, FORMATS, Place, Running, VOLUMES, eventually, fill, provide_as, spec, start_on,
    start_with,
};

fn provide_on(scene: &Scene, store: &Faulty, format: ArchiveFormat) -> Running {
    let spec = SyncSpec { format, ..spec(SyncRole::Provider) };
    start_on(&scene.provider, &VOLUMES, store.clone(), spec)
}

async fn objects(store: &Faulty) -> usize {
    store.list(None, 100).await.expect("lists").len()
}

/// What the history says of each publish, oldest first.
fn sent(place: &Place) -> Vec<Value> {
    let entries = fs::read_dir(place.state().join("sync_history/sent")).expect("lists");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(entry.expect("reads").path()).expect("reads");
        serde_json::from_str(&text).expect("an entry")
    };
    let mut entries: Vec<Value> = entries.map(read).collect();
    entries.sort_by_key(|entry| entry["seq"].as_u64());
    entries
}

fn spooled(place: &Place) -> usize {
    fs::read_dir(place.state().join("sync/spool")).expect("lists").count()
}

#[tokio::test]
async fn sm023_sm026_a_history_that_is_empty_or_was_taken_away_is_no_failure() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = provide_on(&scene, &store, ArchiveFormat::TarGz);
    running.looked().await;
    assert_eq!(running.handle.history(10).await.expect("lists"), [], "SM023");
    let publish = async |state: &str| {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
        running.looked().await;
    };
    publish("one").await;
    publish("two").await;
    fs::remove_dir_all(scene.provider.state().join("sync_history")).expect("removes");
    publish("three").await;
    publish("four").await;
    assert_eq!(sent(&scene.provider).len(), 2);
    assert_eq!(scene.records().await.len(), 4);
    // The last failure that is shown is the one of the look itself, which asks for no path.
    let failure = running.handle.status().borrow().last_failure.clone();
    assert!(failure.is_none_or(|failure| failure.stage == "validation"));
    running.stop().await;
}

#[tokio::test]
async fn sm024_sm025_sm073_sm074_b10_a_deletion_that_fails_is_told_and_made_up_for() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = provide_on(&scene, &store, ArchiveFormat::TarGz);
    store.with(|faults| faults.deletes = Deleting::Fails);
    for state in ["one", "two", "three", "four"] {
        fill(&scene.provider, state);
        publish(&running, &["/app"]).await;
    }
    running.looked().await;
    let before = sent(&scene.provider);
    for entry in &before[..2] {
        let deletion = &entry["deletion"];
        assert_eq!(deletion["deletion_succeeded"], json!(false), "{entry}");
        assert_eq!(deletion["deleted_at"], Value::Null, "{entry}");
        let error = deletion["deletion_error"].as_str().expect("a text");
        assert!(error.contains("the store is broken"), "{error}");
    }
    for entry in &before[2..] {
        assert_eq!(entry["deletion"]["deletion_succeeded"], Value::Null, "{entry}");
    }
    assert_eq!(objects(&store).await, 4);

    // Both that are owed go with the next publish, though newer ones were superseded meanwhile.
    store.with(|faults| faults.deletes = Deleting::Works);
    fill(&scene.provider, "five");
    publish(&running, &["/app"]).await;
    running.looked().await;
    let mut after = sent(&scene.provider);
    for (number, entry) in after.iter_mut().enumerate().take(4) {
        let deletion = entry["deletion"].take();
        let gone = number < 3;
        assert_eq!(deletion["deletion_succeeded"] == json!(true), gone, "{number}: {deletion}");
        assert_eq!(deletion["deleted_at"].is_string(), gone, "{number}: {deletion}");
        assert_eq!(deletion["deletion_error"], Value::Null, "{number}: {deletion}");
        let mut as_it_was = before[number].clone();
        as_it_was["deletion"].take();
        assert_eq!(*entry, as_it_was, "SM024: the rest of the entry stays");
    }
    assert_eq!(objects(&store).await, 2);
    running.stop().await;
}

#[tokio::test]
async fn sm068_what_a_failed_publish_stored_and_could_not_delete_goes_with_the_next() {
    for format in FORMATS {
        let scene = Scene::new();
        let store = scene.faulty();
        let running = provide_on(&scene, &store, format);
        store.with(|faults| {
            faults.set = Setting::Refused;
            faults.deletes = Deleting::Fails;
        });
        scene.provider.request(&json!({"archive_paths": ["/app"]}));
        let failed = answer(&scene.provider).await;
        assert_eq!(failed["stage"], "record_publish", "{failed}");
        assert!(!scene.provider.state().join("sync_history").exists(), "no history");
        assert_eq!(running.window.events(), ["stop for publish", "start unchanged"]);
        running.looked().await;
        assert_ne!(objects(&store).await, 0, "it could not be deleted");

        store.with(|faults| faults.deletes = Deleting::Works);
        fs::write(scene.provider.data("data").join("state"), "other").expect("writes");
        publish(&running, &["/app"]).await;
        running.looked().await;
        let record = scene.records().await.remove(0);
        let stored = store.list(None, 100).await.expect("lists");
        let stored: u64 = stored.iter().map(|blob| blob.size).sum();
        assert_eq!(stored, record.manifest.archive_size_bytes, "{format:?}: what it needs, alone");
        running.stop().await;
    }
}

#[tokio::test]
async fn sm070_sm071_a_publish_that_history_cannot_take_is_a_publish_and_retires_nothing() {
    let scene = Scene::new();
    let store = scene.faulty();
    let running = provide_on(&scene, &store, ArchiveFormat::TarGz);
    let ask = async || {
        scene.provider.request(&json!({"archive_paths": ["/app"]}));
        answer(&scene.provider).await
    };
    assert_eq!(ask().await.get("history_error"), None);
    let immutable = Immutable::make(&scene.provider.state().join("sync_history/sent"));
    fill(&scene.provider, "second");
    let told = ask().await;
    assert_eq!((&told["status"], &told["seq"]), (&json!("ok"), &json!(2)), "{told}");
    assert!(told["history_error"].as_str().is_some_and(|error| !error.is_empty()), "{told}");
    assert!(scene.provider.json("request.json.invalid").is_none());
    running.looked().await;
    assert_eq!(sent(&scene.provider).len(), 1);
    assert_eq!(objects(&store).await, 2, "SM071: the first stays");
    drop(immutable);
    fill(&scene.provider, "third");
    assert_eq!(ask().await.get("history_error"), None);
    running.stop().await;
}

#[tokio::test]
async fn sm077_nothing_of_a_publish_that_failed_stays_in_the_spool() {
    for format in FORMATS {
        let scene = Scene::new();
        let store = scene.faulty();
        let running = provide_on(&scene, &store, format);
        for (stage, paths) in
            [("record_publish", "/app"), ("archive_build", "/app"), ("validation", "/app/absent")]
        {
            store.with(|faults| {
                faults.set = Setting::Refused;
                faults.damaged = stage == "archive_build";
            });
            scene.provider.request(&json!({"archive_paths": [paths]}));
            let failed = answer(&scene.provider).await;
            assert_eq!(failed["stage"], stage, "{failed}");
            assert_eq!(spooled(&scene.provider), 0, "{format:?} {stage}");
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn b14_an_archive_of_equal_content_has_equal_bytes_whenever_and_wherever_it_is_made() {
    let scene = Scene::new();
    let store = scene.temp.path().join("store");
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let began = second();
    let running = provide_as(&scene.provider, &store, ArchiveFormat::TarGz);
    publish(&running, &["/app"]).await;
    let blob = scene.records().await[0].manifest.blob;
    let name = blob.to_string();
    let bytes = fs::read(store.join("blobs").join(&name[57..]).join(&name)).expect("reads");
    assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "no name and no time");
    assert_eq!(bytes[9], 255, "no system");

    // Written anew, it has other times and the same content.
    fill(&scene.provider, "first");
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    let again = answer(&scene.provider).await;
    assert_eq!(again["unchanged"], json!(true), "{again}");
    let stored = LocalStore::open(&store).expect("opens").list(None, 10).await.expect("lists");
    assert_eq!((stored.len(), scene.records().await.len()), (1, 1));
    running.stop().await;

    // The same files, by a node that remembers nothing, at another time.
    let copy = scene.temp.path().join("copy");
    fs::create_dir(&copy).expect("creates");
    let mut clone = std::process::Command::new("/bin/cp");
    let status = clone.arg("-a").arg(scene.provider.root.join("volumes")).arg(&copy).status();
    assert!(status.expect("cp runs").success());
    let blobs = async |root: &std::path::Path, store: &str| {
        let place = Place::new(root, &VOLUMES);
        let store = scene.temp.path().join(store);
        let running = provide_as(&place, &store, ArchiveFormat::TarGz);
        publish(&running, &["/app"]).await;
        running.stop().await;
        let stored = LocalStore::open(&store).expect("opens").list(None, 10).await;
        stored.expect("lists").iter().map(|blob| blob.id).collect::<Vec<_>>()
    };
    let here = blobs(&scene.provider.root, "second").await;
    eventually("another second", || (second() > began).then_some(())).await;
    assert_eq!(blobs(&copy, "third").await, here);
}

#[tokio::test]
async fn sm033_sm064_what_lies_in_no_volume_is_captured_in_no_way() {
    for capture in [CapturePolicy::Atomic, CapturePolicy::Live] {
        let scene = Scene::new();
        scene.provider.clones.with(|clones| clones.host = CloningHost::Clones);
        let spec = SyncSpec { capture, ..spec(SyncRole::Provider) };
        let store = scene.temp.path().join("store");
        let running = start_with(&scene.provider, &VOLUMES, &store, spec);
        for path in ["/tmp/generated.txt", "/etc/passwd", "/usr", "/application"] {
            let online = json!({"provider_capture": "online"});
            scene.provider.request(&json!({"archive_paths": [path], "runtime": online}));
            let refused = answer(&scene.provider).await;
            assert_eq!(refused["stage"], "validation", "{refused}");
            let error = refused["error"].as_str().expect("a text");
            assert!(error.contains(&format!("{path} is not in a volume")), "{error}");
        }
        assert_eq!(running.window.events(), Vec::<String>::new());
        assert_eq!(scene.provider.clones.with(|clones| clones.events.clone()), [""; 0]);
        assert_eq!(scene.records().await.len(), 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn sx21_sx22_nothing_is_done_unasked_or_without_volumes() {
    let scene = Scene::new();
    let running = scene.provide();
    running.looked().await;
    running.looked().await;
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert_eq!(scene.records().await.len(), 0);

    running.set_layout(None);
    scene.provider.request(&json!({"archive_paths": ["/app"]}));
    running.looked().await;
    running.looked().await;
    assert!(scene.provider.sync_file("request.json").exists(), "SX22: it is left");
    running.set_layout(Some(scene.provider.layout(&VOLUMES)));
    assert_eq!(answer(&scene.provider).await["status"], "ok");
    running.stop().await;
}
