//! Captures on a host that clones: what is published of a database that is written all the time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use belay_e2e::books;
use belay_harness::{EngineGate, Node, NodeOptions, is_full, program_image, sync_spec, until};
use belay_protocol::WorkloadPhase;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// Room for volumes of 64 MiB, their clones and what these may come to need.
const DISK: u64 = 1_280;

fn cloning(store: &Path) -> NodeOptions {
    NodeOptions { store: Some(store.to_owned()), cloning: Some(DISK), ..NodeOptions::default() }
}

/// A provider that keeps books in this journal mode, captured as this policy says.
fn books_spec(journal: &str, capture: &str) -> String {
    sync_spec("provider")
        .replace("file:busybox.tar", "file:bookkeeper.tar")
        .replace(
            "[\"/bin/sleep\", \"100000\"]",
            &format!("[\"/bookkeeper\", \"/data/books\", \"{journal}\"]"),
        )
        .replace("size = \"32M\"", "size = \"64M\"")
        .replace("poll_interval", &format!("capture = \"{capture}\"\npoll_interval"))
}

/// What a copy of the database holds; the volume itself is left as it was applied.
fn audited(data: &Path) -> i64 {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(data).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a name")))
                .expect("copies");
        }
    }
    books::audit(&copy.path().join("books")).expect("whole")
}

/// When something in a directory was written last.
fn newest(data: &Path) -> SystemTime {
    let listed = std::fs::read_dir(data).expect("lists");
    // A journal comes and goes.
    let written = listed.filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok());
    written.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn records(store: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    let mut waiting = vec![store.join("records")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path).expect("lists").map(|entry| entry.expect("one").path()),
            );
        } else if let Ok(record) =
            serde_json::from_slice::<Value>(&std::fs::read(&path).expect("reads"))
            && record["cid"].is_string()
        {
            found.push(record);
        }
    }
    found
}

async fn applied(consumer: &Node, cid: &str) {
    until("the consumer to apply", SOON, || async {
        let found = consumer.client().workload("app").await?;
        let sync = found.sync.ok_or("no sync")?;
        match &sync.last_apply {
            Some(apply) if apply.cid.to_string() == cid => Ok(()),
            _ => Err(format!("{sync:?}")),
        }
    })
    .await;
}

/// Publishes a database under load this many times; every replica is whole and later than the one
/// before.
async fn every_replica_is_whole(journal: &str, capture: &str, times: u32) {
    let store = tempfile::tempdir().expect("a directory");
    let provider = Node::start(cloning(store.path())).await;
    let options = NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let consumer = Node::start(options).await;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_bookkeeper"));
    program_image(provider.directory(), &program).expect("an image");
    let spec = books_spec(journal, capture);
    provider.client().deploy(&spec, provider.directory()).await.expect("deploys");
    let replica = sync_spec("consumer").replace("size = \"32M\"", "size = \"64M\"");
    consumer.client().deploy(&replica, consumer.directory()).await.expect("deploys");
    let data = provider.volume("app", "data").await;
    let running = provider.client().workload("app").await.expect("is there").container;

    let mut last = -1;
    let mut downtimes = Vec::new();
    for time in 0..times {
        // Written for a while since the last capture, and so many times.
        let since = SystemTime::now() + Duration::from_millis(300);
        until("the books to be kept", SOON, || {
            let written = newest(&data);
            std::future::ready(if written > since { Ok(()) } else { Err(format!("{written:?}")) })
        })
        .await;
        let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
        let publish = outcome.publish.expect("says what it published");
        downtimes.push(publish.downtime_ms);
        applied(&consumer, &publish.cid.to_string()).await;
        let entries = audited(&consumer.volume("app", "data").await);
        assert!(entries > last, "capture {time} holds {entries} entries, the one before {last}");
        last = entries;
    }
    let after = provider.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    if capture == "atomic" {
        assert_eq!(after.container, running, "it ran on");
        assert!(downtimes.iter().all(|downtime| *downtime == 0), "{downtimes:?}");
    }
    assert_eq!(after.restarts, 0, "a capture is no crash");
    let records = records(store.path());
    assert!(!records.is_empty());
    for record in records {
        assert_eq!(record["capture"], capture, "{record}");
    }
    assert_eq!(clones(&provider), [] as [PathBuf; 0], "what was cloned is given back");
    provider.end().await;
    consumer.end().await;
}

fn clones(node: &Node) -> Vec<PathBuf> {
    let images = node.directory().join("state/volumes/images/app/data");
    let listed = std::fs::read_dir(images).expect("lists");
    let paths = listed.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.to_string_lossy().contains("generation")).collect()
}

/// The files of these clones by what no later one shares with them, whatever it is called.
fn made(clones: &[PathBuf]) -> Vec<(u64, SystemTime)> {
    let found = clones.iter().filter_map(|path| std::fs::metadata(path).ok());
    found.map(|file| (file.ino(), file.created().expect("a time of birth"))).collect()
}

fn times() -> u32 {
    if is_full() { 50 } else { 4 }
}

#[tokio::test]
async fn every_replica_of_a_database_that_is_frozen_under_load_is_whole() {
    every_replica_is_whole("wal", "atomic", times()).await;
}

#[tokio::test]
async fn every_replica_of_a_database_with_a_rollback_journal_is_whole_too() {
    every_replica_is_whole("delete", "atomic", times()).await;
}

#[tokio::test]
async fn every_replica_of_a_database_that_is_stopped_under_load_is_whole() {
    every_replica_is_whole("wal", "stopped", times()).await;
}

#[tokio::test]
async fn a_belayd_killed_while_it_captures_leaves_no_clone_and_nothing_frozen() {
    let store = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(cloning(store.path())).await;
    let spec =
        sync_spec("provider").replace("poll_interval", "capture = \"atomic\"\npoll_interval");
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    let control = node.volume("app", "system").await.join("volume-sync");
    let mut met = 0;
    for round in 0..if is_full() { 20 } else { 4 } {
        let content: Vec<u8> =
            (0..12 << 20).map(|at: u32| (at / 7 + round).to_le_bytes()[0]).collect();
        std::fs::write(data.join("large"), &content).expect("writes");
        let request = format!("r{round}");
        let body = json!({"archive_paths": ["/data"], "request_id": request}).to_string();
        std::fs::write(control.join("next"), body).expect("writes");
        std::fs::rename(control.join("next"), control.join("request.json")).expect("hands it in");
        until("a clone", SOON, || {
            let response = std::fs::read_to_string(control.join("response.json"));
            let answered = response.is_ok_and(|text| text.contains(&request));
            std::future::ready(if answered || !clones(&node).is_empty() {
                Ok(())
            } else {
                Err("neither a clone nor an answer".to_owned())
            })
        })
        .await;
        node.kill();
        let left = made(&clones(&node));
        met += usize::from(!left.is_empty());
        // Nothing holds writers back for longer than the watchdog's time.
        std::fs::write(data.join("after"), "x").expect("it takes writes");
        node.launch().await;
        // The capture that was cut off is made again at once, with a clone of its own.
        let found = made(&clones(&node));
        assert!(!found.iter().any(|one| left.contains(one)), "not swept: {left:?} {found:?}");
        until("the answer", SOON, || {
            let answer = std::fs::read(control.join("response.json"))
                .map_err(|error| error.to_string())
                .and_then(|text| {
                    serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string())
                });
            std::future::ready(match answer {
                Ok(answer) if answer["request_id"] == request => {
                    assert_eq!(answer["status"], "ok", "{answer}");
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            })
        })
        .await;
        until("no clone", SOON, || {
            let left = clones(&node);
            std::future::ready(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
        })
        .await;
    }
    assert!(met > 0, "no kill met a clone");
    node.end().await;
}

/// A provider whose container goes on writing short files, captured as this policy says.
fn writing_spec(capture: &str) -> String {
    let script = "i=0; while true; do i=$((i+1)); echo $i > /data/next; \
                  cp /data/next /data/copy-$((i % 50)); mv /data/next /data/now; done";
    sync_spec("provider")
        .replace("\"/bin/sleep\", \"100000\"", &format!("\"/bin/sh\", \"-c\", {script:?}"))
        .replace("poll_interval", &format!("capture = \"{capture}\"\npoll_interval"))
}

#[tokio::test]
async fn where_nothing_is_cloned_the_app_is_stopped_or_read_as_it_runs_and_the_status_says_why() {
    for (permitted, capture) in [("atomic", "stopped"), ("live", "live")] {
        let store = tempfile::tempdir().expect("a directory");
        let options =
            || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
        let (provider, consumer) = (Node::start(options()).await, Node::start(options()).await);
        let spec = writing_spec(permitted);
        provider.client().deploy(&spec, provider.directory()).await.expect("deploys");
        consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("so");
        // A directory of volumes that clones would make this test another one.
        let images = provider.directory().join("state/volumes/images");
        let found = nix::sys::statfs::statfs(&images).expect("exists").filesystem_type();
        assert!(found == nix::sys::statfs::EXT4_SUPER_MAGIC, "it takes a host of ext4: {found:?}");
        let data = provider.volume("app", "data").await;
        until("the app to write", SOON, || {
            let written = data.join("copy-49").exists();
            std::future::ready(if written { Ok(()) } else { Err("not yet".to_owned()) })
        })
        .await;
        let before = provider.client().workload("app").await.expect("is there").container;
        for _ in 0..3 {
            let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
            let publish = outcome.publish.expect("says what it published");
            assert_eq!(publish.downtime_ms == 0, capture == "live", "{publish:?}");
            // It is whole, or the consumer would refuse it.
            applied(&consumer, &publish.cid.to_string()).await;
        }
        let after = provider.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
        let last = after.sync.and_then(|sync| sync.last_publish).expect("it published");
        let told = serde_json::to_value(&last).expect("serialises");
        assert_eq!(told["capture"], capture, "{told}");
        let reason = told["capture_fallback"].as_str().expect("a reason");
        assert!(reason.contains("cannot clone by reference"), "{reason}");
        if capture == "live" {
            assert_eq!(after.container, before, "it ran on");
        }
        for record in records(store.path()) {
            assert_eq!(record["capture"], capture, "{record}");
        }
        provider.end().await;
        consumer.end().await;
    }
}

#[tokio::test]
async fn a_volume_that_is_read_beside_its_app_is_not_emptied_for_it_meanwhile() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = sync_spec("provider")
        .replace("size = \"32M\"", "size = \"128M\"")
        .replace("poll_interval", "capture = \"live\"\npoll_interval");
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    let mut content = vec![0; 40 << 20];
    let mut random = std::fs::File::open("/dev/urandom").expect("opens");
    std::io::Read::read_exact(&mut random, &mut content).expect("reads");
    std::fs::write(data.join("large"), &content).expect("writes");
    let control = node.volume("app", "system").await;
    let hand_in = |directory: &str, body: Value| {
        let directory = control.join(directory);
        std::fs::write(directory.join("next"), body.to_string()).expect("writes");
        std::fs::rename(directory.join("next"), directory.join("request.json")).expect("renames");
    };
    hand_in("volume-sync", json!({"archive_paths": ["/data"], "request_id": "all"}));
    until("the capture", SOON, || async {
        let found = node.client().workload("app").await?;
        let stage = found.sync.ok_or("no sync")?.stage;
        if stage == "capturing" { Ok(()) } else { Err(stage) }
    })
    .await;
    hand_in("reset", json!({"schema_version": 1, "volumes": ["data"]}));
    let published = until("the answer", SOON, || {
        let answer = std::fs::read(control.join("volume-sync/response.json"));
        let answer = answer.map_err(|error| error.to_string());
        std::future::ready(answer.and_then(|text| {
            serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string())
        }))
    })
    .await;
    assert_eq!(published["capture"], "live", "{published}");
    assert_eq!(published["content_bytes"], content.len(), "{published}");
    until("the reset", SOON, || {
        let emptied = !data.join("large").exists();
        std::future::ready(if emptied { Ok(()) } else { Err("the file is there".to_owned()) })
    })
    .await;
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}

/// The kernel shows the end of an app before its engine does, and an engine that goes away between the
/// two holds nothing up but the next start.
#[tokio::test]
async fn what_an_app_left_is_captured_while_the_engine_has_yet_to_notice_its_end() {
    let gate = EngineGate::start().await;
    let store = tempfile::tempdir().expect("a directory");
    let node = Node::start(NodeOptions {
        engine: Some(gate.socket()),
        store: Some(store.path().to_owned()),
        ..NodeOptions::default()
    })
    .await;
    let script = "trap 'touch /data/asked; while [ ! -e /data/leave ]; do sleep 0.1; done; \
                  echo done > /data/last; exit 0' TERM; while :; do sleep 0.1; done";
    let spec = sync_spec("provider")
        .replace("[\"/bin/sleep\", \"100000\"]", &json!(["/bin/sh", "-c", script]).to_string())
        .replace("stop_grace = \"0s\"", "stop_grace = \"60s\"");
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    let data = node.volume("app", "data").await;
    let asked = tokio::spawn({
        let client = node.client().clone();
        async move { client.publish("app", &["/data"]).await }
    });
    until("the signal", SOON, || {
        std::future::ready(if data.join("asked").exists() {
            Ok(())
        } else {
            Err("not yet".to_owned())
        })
    })
    .await;
    gate.shut();
    std::fs::write(data.join("leave"), "").expect("writes");
    let record = until("the record", SOON, || {
        std::future::ready(records(store.path()).pop().ok_or_else(|| "none is set yet".to_owned()))
    })
    .await;
    assert!(!asked.is_finished(), "the app is not up again");
    assert_eq!(std::fs::read(data.join("last")).expect("reads"), b"done\n");
    for mark in ["asked", "leave"] {
        std::fs::remove_file(data.join(mark)).expect("removes");
    }
    gate.open();
    asked.await.expect("ends").expect("publishes");
    let status = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    let published = status.sync.and_then(|sync| sync.last_publish).expect("it is shown");
    assert_eq!(published.cid.to_string(), record["cid"].as_str().expect("a cid"));
    std::fs::write(data.join("leave"), "").expect("writes");
    node.end().await;
    gate.end().await;
}
