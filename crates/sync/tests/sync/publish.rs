//! The provider's side.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::SyncRole;
use belay_protocol::control::Stage;
use belay_protocol::record::ArchiveFormat;
use belay_store::{BlobStore, LocalStore};
use belay_sync::{PublishCommand, PublishError, SyncSpec, WindowRefused};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::scene::{DEADLINE, Place, Running, VOLUMES, eventually, fill, spec, start, start_with};
use crate::stored::records;

struct Scene {
    temp: tempfile::TempDir,
    place: Place,
    running: Running,
}

impl Scene {
    fn new() -> Self {
        Self::of(ArchiveFormat::Tree)
    }

    fn of(format: ArchiveFormat) -> Self {
        Self::with(SyncSpec { format, ..spec(SyncRole::Provider) })
    }

    fn with(spec: SyncSpec) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let place = Place::new(&temp.path().join("provider"), &VOLUMES);
        fill(&place, "first");
        let running = start_with(&place, &VOLUMES, &temp.path().join("store"), spec);
        Self { temp, place, running }
    }

    async fn ready(self) -> Self {
        let place = self.place.clone();
        eventually("the control directory", || place.sync_file("").is_dir().then_some(())).await;
        self
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.store_path()).expect("opens")
    }

    async fn response(&self) -> Value {
        let response = eventually("a response", || self.place.json("response.json")).await;
        eventually("the end of the request", || {
            (!self.place.sync_file("request.json.processing").exists()).then_some(())
        })
        .await;
        fs::remove_file(self.place.sync_file("response.json")).expect("removes");
        response
    }

    async fn ask(&self, body: Value) -> Value {
        self.place.request(&body);
        self.response().await
    }

    async fn blobs(&self) -> usize {
        self.store().list(None, 100).await.expect("lists").len()
    }
}

#[tokio::test]
async fn sm063_sx25_a_request_becomes_a_record_and_the_container_is_down_once() {
    let scene = Scene::new().ready().await;
    let response = scene
        .ask(json!({
            "archive_paths": ["/app"], "metadata": {"n": 1}, "request_id": "r-7",
        }))
        .await;
    assert_eq!(response["status"], "ok", "{response}");
    assert_eq!(response["request_id"], "r-7");
    assert_eq!(response["metadata"]["n"], 1);
    assert_eq!(response["capture"], "stopped");
    assert_eq!(response["downtime_ms"], 7);
    assert_eq!(scene.running.window.events(), ["stop for publish", "start unchanged"]);

    let records = records(&scene.store_path()).await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.cid.to_string(), response["cid"].as_str().expect("a cid"));
    assert_eq!((record.epoch, record.seq, record.parent_cid), (1, 1, None));
    assert_eq!(record.manifest.archive_paths, ["/app"]);
    let size = scene.store().has(record.manifest.blob).await.expect("has");
    assert_eq!(size, Some(record.manifest.blob_bytes()));

    let sent = scene.place.state().join("sync_history/sent");
    let name = format!("{:010}__{}.json", record.version, record.cid.short());
    let entry = fs::read_to_string(sent.join(name)).expect("SM017, SM020: the history entry");
    assert!(entry.contains("\"deleted_at\": null"));
    let history = scene.running.handle.history(10).await.expect("lists");
    assert_eq!((history.len(), history[0].cid), (1, record.cid));
    assert!(!scene.place.sync_file("request.json.invalid").exists());
    let spool = fs::read_dir(scene.place.state().join("sync/spool")).expect("lists").count();
    assert_eq!(spool, 0, "SM076: no archive stays in the spool");
    scene.running.stop().await;
}

#[tokio::test]
async fn nobody_waits_for_the_app_to_come_up_but_the_answer() {
    for format in [ArchiveFormat::Tree, ArchiveFormat::TarGz] {
        let scene = Scene::of(format).ready().await;
        let comes_up = Arc::new(Notify::new());
        let window = scene.running.window.clone();
        window.0.lock().expect("not poisoned").comes_up = Some(Arc::clone(&comes_up));
        scene.place.request(&json!({"archive_paths": ["/app"]}));
        scene.running.status("it waits for the app", |status| status.stage == "starting").await;
        assert_eq!(records(&scene.store_path()).await.len(), 1);
        assert_eq!(window.events(), ["stop for publish"]);
        assert!(!scene.place.sync_file("response.json").exists());
        comes_up.notify_one();
        let response = scene.response().await;
        assert_eq!((&response["status"], &response["downtime_ms"]), (&json!("ok"), &json!(7)));
        assert_eq!(window.events(), ["stop for publish", "start unchanged"]);
        scene.running.stop().await;
    }
}

#[tokio::test]
async fn nothing_holds_the_start_of_the_app_up() {
    for format in [ArchiveFormat::Tree, ArchiveFormat::TarGz] {
        let scene = Scene::of(format).ready().await;
        let starts = Arc::new(Notify::new());
        let window = scene.running.window.clone();
        window.0.lock().expect("not poisoned").starts = Some(Arc::clone(&starts));
        scene.place.request(&json!({"archive_paths": ["/app"]}));
        scene.running.status("a capture", |status| status.stage == "capturing").await;
        let mut status = scene.running.handle.status();
        let later = status.wait_for(|status| status.stage != "capturing");
        // Many times what the rest takes.
        let went_on = tokio::time::timeout(Duration::from_secs(1), later).await.is_ok();
        assert!(!went_on, "it waits until the container was started");
        starts.notify_one();
        assert_eq!(scene.response().await["status"], "ok");
        scene.running.stop().await;
    }
}

#[tokio::test]
async fn b13_an_archive_holds_the_content_of_volumes_mounted_below_its_path() {
    let scene = Scene::of(ArchiveFormat::TarGz).ready().await;
    scene.ask(json!({"archive_paths": ["/app"]})).await;
    let record = records(&scene.store_path()).await.remove(0);
    let blob = record.manifest.blob.to_string();
    let stored = scene.temp.path().join("store/blobs").join(&blob[57..]).join(&blob);
    // An ordinary tar reads it.
    let listing = std::process::Command::new("tar")
        .args(["-tvzf"])
        .arg(&stored)
        .output()
        .expect("tar is installed");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let listing = String::from_utf8_lossy(&listing.stdout);
    for member in ["app/", "app/state", "app/data/", "app/data/state", "app/data/sub/first"] {
        assert!(listing.lines().any(|line| line.ends_with(&format!(" {member}"))), "{listing}");
    }
    scene.running.stop().await;
}

#[tokio::test]
async fn b14_equal_content_is_published_once_whenever_it_was_written() {
    let scene = Scene::new().ready().await;
    let first = scene.ask(json!({"archive_paths": ["/app"]})).await;
    let stored = scene.blobs().await;
    fill(&scene.place, "first");
    let second = scene.ask(json!({"archive_paths": ["/app"]})).await;
    assert_eq!((&second["cid"], &second["seq"]), (&first["cid"], &first["seq"]));
    assert_eq!((&first["unchanged"], &second["unchanged"]), (&json!(false), &json!(true)));
    assert_eq!((records(&scene.store_path()).await.len(), scene.blobs().await), (1, stored));

    // Other words for the same content are a new record of the same stored object.
    let third = scene.ask(json!({"archive_paths": ["/app"], "metadata": {"new": true}})).await;
    assert_eq!((&third["cid"], &third["seq"]), (&first["cid"], &json!(2)));
    assert_eq!((records(&scene.store_path()).await.len(), scene.blobs().await), (2, stored));
    scene.running.stop().await;
}

#[tokio::test]
async fn sm036_sx28_what_is_no_request_is_refused_without_touching_the_container() {
    let scene = Scene::new().ready().await;
    let secret = scene.temp.path().join("secret");
    fs::write(&secret, "TOP-SECRET").expect("writes");
    symlink(&secret, scene.place.sync_file("request.json")).expect("links");
    let mut answers = vec![scene.response().await];

    fs::write(scene.place.sync_file("request.json"), "{\"archive_paths\": [").expect("writes");
    answers.push(scene.response().await);
    let file = fs::File::create(scene.place.sync_file("request.json")).expect("creates");
    file.set_len(70_000).expect("grows");
    answers.push(scene.response().await);
    fs::create_dir(scene.place.sync_file("request.json")).expect("creates");
    answers.push(scene.response().await);
    for body in [
        json!([]),
        json!({"archive_paths": ["/etc"]}),
        json!({"archive_paths": ["/app/../etc"]}),
        json!({"archive_paths": ["/belay/volume-sync"]}),
        json!({"archive_paths": ["/app/absent"]}),
        json!({"archive_paths": ["/app"], "runtime": {"provider_capture": []}}),
    ] {
        answers.push(scene.ask(body).await);
    }
    for answer in &answers {
        assert_eq!((&answer["status"], &answer["stage"]), (&json!("error"), &json!("validation")));
    }
    let invalid = scene.place.json("request.json.invalid").expect("the last one refused");
    assert_eq!(invalid["_error"]["stage"], "validation");
    assert_eq!(invalid["request"]["archive_paths"][0], "/app");
    let shown = answers.iter().map(ToString::to_string).collect::<String>();
    assert!(!shown.contains("TOP-SECRET"));
    assert_eq!(scene.running.window.events(), Vec::<String>::new());
    assert_eq!(records(&scene.store_path()).await.len(), 0);

    // SM065: a success takes the refusal away.
    scene.ask(json!({"archive_paths": ["/app"]})).await;
    assert!(!scene.place.sync_file("request.json.invalid").exists());
    scene.running.stop().await;
}

#[tokio::test]
async fn b29_a_half_written_request_is_given_its_moment() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "first");
    let mut patient = spec(SyncRole::Provider);
    patient.request_grace = Duration::from_hours(1);
    let running = start_with(&place, &VOLUMES, &temp.path().join("store"), patient);
    eventually("the control directory", || place.sync_file("").is_dir().then_some(())).await;
    let body = json!({"archive_paths": ["/app"]}).to_string();
    let path = place.sync_file("request.json");
    fs::write(&path, &body[..10]).expect("writes a half");
    running.looked().await;
    assert!(path.exists(), "seen, and left alone");
    fs::write(&path, &body).expect("writes the whole");
    let response = eventually("a response", || place.json("response.json")).await;
    assert_eq!(response["status"], "ok");
    running.stop().await;
}

#[tokio::test]
async fn sm051_b15_links_are_data_special_files_are_left_out_and_paths_lead_through_no_link() {
    let scene = Scene::new().ready().await;
    let data = scene.place.data("data");
    symlink("/etc", data.join("etc")).expect("links");
    let status = std::process::Command::new("mkfifo").arg(data.join("pipe")).status();
    assert!(status.expect("mkfifo is installed").success());
    let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).expect("binds");

    let refused = scene.ask(json!({"archive_paths": ["/app/data/etc/hostname"]})).await;
    assert!(refused["error"].as_str().expect("text").contains("symlink"), "{refused}");
    let refused = scene.ask(json!({"archive_paths": ["/app/data/etc"]})).await;
    assert!(refused["error"].as_str().expect("text").contains("symlink"), "{refused}");
    let refused = scene.ask(json!({"archive_paths": ["/app/data/pipe"]})).await;
    assert!(refused["error"].as_str().expect("text").contains("neither"), "{refused}");
    assert_eq!(scene.running.window.events(), Vec::<String>::new());

    let response = scene.ask(json!({"archive_paths": ["/app/data"]})).await;
    assert_eq!(response["skipped"], json!(["/app/data/pipe", "/app/data/socket"]));
    assert_eq!(records(&scene.store_path()).await[0].manifest.skipped_special, 2);
    scene.running.stop().await;
}

#[tokio::test]
async fn sx30_a_stop_that_is_not_confirmed_publishes_nothing() {
    let scene = Scene::new().ready().await;
    scene.running.window.0.lock().expect("not poisoned").refuse =
        Some(WindowRefused::NotConfirmed { reason: "the engine does not answer".into() });
    let response = scene.ask(json!({"archive_paths": ["/app"]})).await;
    assert_eq!(response["stage"], "runtime_stop");
    assert_eq!((records(&scene.store_path()).await.len(), scene.blobs().await), (0, 0));
    scene.running.stop().await;
}

#[tokio::test]
async fn sm067_sx29_a_store_that_takes_no_object_leaves_the_container_running_and_no_record() {
    let impatient = SyncSpec { store_patience: Duration::ZERO, ..spec(SyncRole::Provider) };
    let scene = Scene::with(impatient).ready().await;
    // A file where the store wants directories refuses every write, also root's.
    let blobs = scene.temp.path().join("store/blobs");
    fs::remove_dir(&blobs).expect("removes");
    fs::write(&blobs, "").expect("blocks");
    let response = scene.ask(json!({"archive_paths": ["/app"]})).await;
    assert_eq!(response["stage"], "upload", "{response}");
    assert_eq!(scene.running.window.events(), ["stop for publish", "start unchanged"]);
    fs::remove_file(&blobs).expect("removes");
    fs::create_dir(&blobs).expect("creates");
    assert_eq!(records(&scene.store_path()).await.len(), 0);
    assert!(!scene.place.state().join("sync_history/sent").exists());
    scene.running.stop().await;
}

#[tokio::test]
async fn sm072_b10_superseded_generations_are_retired_and_the_newest_two_stay() {
    let scene = Scene::of(ArchiveFormat::TarGz).ready().await;
    for state in ["one", "two", "three", "four"] {
        fill(&scene.place, state);
        assert_eq!(scene.ask(json!({"archive_paths": ["/app"]})).await["status"], "ok");
    }
    let store = scene.store();
    let place = scene.place.clone();
    eventually("the retirement of two", || {
        let sent = fs::read_dir(place.state().join("sync_history/sent")).expect("lists");
        let gone = sent.filter(|entry| {
            let path = entry.as_ref().expect("reads").path();
            fs::read_to_string(path).is_ok_and(|text| text.contains("\"deletion_succeeded\": true"))
        });
        (gone.count() == 2).then_some(())
    })
    .await;
    let left = store.list(None, 10).await.expect("lists");
    let records = records(&scene.store_path()).await;
    let newest: Vec<_> = records[..2].iter().map(|record| record.manifest.blob).collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|blob| newest.contains(&blob.id)));
    scene.running.stop().await;
}

#[tokio::test]
async fn sx18_sx19_a_claim_without_a_journal_is_a_request_again() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "first");
    fs::create_dir(place.sync_file("")).expect("creates");
    fs::write(
        place.sync_file("request.json.processing"),
        json!({"archive_paths": ["/app"]}).to_string(),
    )
    .expect("writes");
    let running = start(&place, &temp.path().join("store"), SyncRole::Provider);
    let response = eventually("a response", || place.json("response.json")).await;
    assert_eq!(response["status"], "ok");
    running.stop().await;
}

#[tokio::test]
async fn a_command_publishes_and_tells_its_caller() {
    let scene = Scene::new().ready().await;
    let ask = |paths: &[&str]| PublishCommand {
        archive_paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        metadata: Map::new(),
    };
    let outcome = scene.running.handle.publish(ask(&["/app/data"])).await.expect("publishes");
    assert_eq!((outcome.seq, outcome.downtime_ms), (1, 7));
    assert!(!scene.place.sync_file("response.json").exists(), "the app did not ask");
    let refused = scene.running.handle.publish(ask(&["/etc"])).await;
    assert!(matches!(refused, Err(PublishError::Failed { stage: Stage::Validation, .. })));
    let status = scene.running.handle.status().borrow().clone();
    assert_eq!(status.last_publish.expect("shown").cid, outcome.cid);
    assert!(status.last_failure.is_some());
    scene.running.set_layout(None);
    let refused = scene.running.handle.publish(ask(&["/app"])).await;
    assert_eq!(refused, Err(PublishError::NoVolumes));
    scene.running.stop().await;
}

#[tokio::test]
async fn b38_an_app_cannot_keep_itself_down_by_asking() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "first");
    let mut slow = spec(SyncRole::Provider);
    slow.min_publish_interval = Duration::from_hours(1);
    let running = start_with(&place, &VOLUMES, &temp.path().join("store"), slow);
    eventually("the control directory", || place.sync_file("").is_dir().then_some(())).await;
    place.request(&json!({"archive_paths": ["/app"]}));
    eventually("a response", || place.json("response.json")).await;
    place.request(&json!({"archive_paths": ["/app/data"]}));
    running.looked().await;
    running.looked().await;
    assert!(place.sync_file("request.json").exists());
    assert_eq!(running.window.events().len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn modes_of_results_are_readable_and_not_writable_by_the_app() {
    let scene = Scene::new().ready().await;
    scene.place.request(&json!({"archive_paths": ["/app"]}));
    let path = scene.place.sync_file("response.json");
    eventually("a response", || path.exists().then_some(())).await;
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(&scene.place.sync_file("")), 0o1777);
    let mut text = String::new();
    fs::File::open(&path).expect("opens").read_to_string(&mut text).expect("reads");
    assert!(text.ends_with("}\n"));
    let _ = DEADLINE;
    scene.running.stop().await;
}
