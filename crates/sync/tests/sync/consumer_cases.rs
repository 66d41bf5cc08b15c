//! Cases of the catalogue in `docs/sync.md` that a consumer shows, by their ids.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use belay_protocol::record::{ConsumerApply, RuntimeWishes};
use belay_protocol::{Cid, SyncRole, SyncStatus};
use belay_store::BlobStore;
use belay_sync::SyncSpec;
use serde_json::json;

use crate::faults::{Immutable, Scene, answer, applied, publish};
use crate::scene::{Running, VOLUMES, fill, spec, start_on, tree, trees};

async fn failed(running: &Running, stage: &str) -> String {
    let is_there = |status: &SyncStatus| {
        status.last_failure.as_ref().is_some_and(|failure| failure.stage == stage)
    };
    let status = running.status("a failure", is_there).await;
    status.last_failure.expect("waited for").error
}

#[tokio::test]
async fn sx23_sx31_sm094_a_consumer_leaves_requests_alone_and_without_a_record_everything() {
    let scene = Scene::new();
    fs::create_dir(scene.consumer.sync_file("")).expect("creates");
    scene.consumer.request(&json!({"archive_paths": ["/app"]}));
    fill(&scene.consumer, "before");
    let before = trees(&scene.consumer);
    let store = scene.faulty();
    let running = scene.consume_on(&store);
    running.looked().await;
    running.looked().await;
    let mut left = tree(&scene.consumer.sync_file("")).into_keys().collect::<Vec<_>>();
    left.retain(|name| !name.is_empty());
    assert_eq!(left, ["request.json"], "neither claimed nor answered, and nothing was applied");
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert_eq!(trees(&scene.consumer), before);
    let status = running.handle.status().borrow().clone();
    assert_eq!((status.head, status.last_apply, status.last_failure), (None, None, None));
    assert_eq!(store.list(None, 1).await.expect("lists"), []);
    running.stop().await;
}

#[tokio::test]
async fn sx34_sx35_sx36_sm095_a_wish_for_a_hot_apply_travels_and_is_not_obeyed() {
    use ConsumerApply::{OfflineRestart, OnlineNoRestart, OnlineRestart};

    let scene = Scene::new();
    let publishing = scene.provide();
    let running = scene.consume_on(&scene.faulty());
    let wishes = [OnlineNoRestart, OnlineRestart, OfflineRestart];
    for (number, consumer_apply) in wishes.into_iter().enumerate() {
        fill(&scene.provider, &format!("state-{number}"));
        let runtime = RuntimeWishes { consumer_apply, ..RuntimeWishes::default() };
        scene.provider.request(&json!({
            "archive_paths": ["/app"], "runtime": runtime, "metadata": {"number": number},
        }));
        assert_eq!(answer(&scene.provider).await["status"], "ok");
        let record = scene.records().await.remove(0);
        assert_eq!(record.runtime.consumer_apply, consumer_apply, "it is said");
        applied(&running, record.cid).await;
        let each = ["stop for apply", "start applied"];
        assert_eq!(running.window.events(), each.repeat(number + 1), "{consumer_apply:?}");
        assert_eq!(trees(&scene.consumer), trees(&scene.provider), "{consumer_apply:?}");
        let told = scene.consumer.json("last_apply.json").expect("the notice");
        assert_eq!(told["metadata"]["number"], json!(number), "SM095");
    }
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test]
async fn sx43_sm087_sm102_a_manifest_that_is_a_text_is_told_and_touches_nothing() {
    let scene = Scene::new();
    let publishing = scene.provide();
    publish(&publishing, &["/app"]).await;
    publishing.stop().await;
    let head = scene.records().await.remove(0);
    scene
        .forge("models", &head, |record| {
            record["seq"] = json!(2);
            record["manifest"] = json!("everything");
        })
        .await;
    fill(&scene.consumer, "before");
    let before = trees(&scene.consumer);
    let running = scene.consume_on(&scene.faulty());
    let error = failed(&running, "validation").await;
    assert!(error.contains("manifest is \"everything\", expected an object"), "{error}");
    running.looked().await;
    assert_eq!(running.window.events(), Vec::<String>::new());
    assert_eq!(trees(&scene.consumer), before);
    assert!(scene.consumer.json("last_apply.json").is_none());
    assert!(!scene.consumer.state().join("sync_history").exists());
    running.stop().await;
}

#[tokio::test]
async fn sm107_sm108_a_commit_that_fails_half_way_leaves_modes_as_they_were_and_new_parents_empty()
{
    let scene = Scene::new();
    let (theirs, ours) = (scene.provider.data("data"), scene.consumer.data("data"));
    for (dir, name) in [("a-dir", "f"), ("n/deep", "f"), ("y", "f")] {
        fs::create_dir_all(theirs.join(dir)).expect("creates");
        fs::write(theirs.join(dir).join(name), "new").expect("writes");
    }
    fs::set_permissions(theirs.join("a-dir"), fs::Permissions::from_mode(0o755)).expect("modes");
    fs::create_dir(ours.join("a-dir")).expect("creates");
    fs::write(ours.join("a-dir/old"), "old").expect("writes");
    fs::set_permissions(ours.join("a-dir"), fs::Permissions::from_mode(0o700)).expect("modes");
    fs::create_dir(ours.join("y")).expect("creates");
    fs::write(ours.join("y/f"), "old").expect("writes");
    let (before, inode) = (tree(&ours.join("a-dir")), fs::metadata(ours.join("a-dir")));
    let inode = inode.expect("exists").ino();

    // Places are taken in their order, so the first two are exchanged before the last one fails.
    let immutable = Immutable::make(&ours.join("y"));
    let publishing = scene.provide();
    let cid =
        publish(&publishing, &["/app/data/a-dir", "/app/data/n/deep/f", "/app/data/y/f"]).await;
    publishing.stop().await;
    let running = scene.consume_on(&scene.faulty());
    let error = failed(&running, "commit").await;
    assert!(error.contains("the old one was put back"), "{error}");
    assert_eq!(tree(&ours.join("a-dir")), before, "SM107: mode 0700, its time and its content");
    assert_eq!(fs::metadata(ours.join("a-dir")).expect("exists").ino(), inode, "the same one");
    assert_eq!(fs::read_to_string(ours.join("y/f")).expect("reads"), "old");
    let left: Vec<_> = tree(&ours.join("n")).into_keys().collect();
    assert_eq!(left, ["", "deep"], "SM108: the directories stay, and nothing in them");
    assert_eq!(running.window.events(), ["stop for apply", "start unchanged"]);
    running.stop().await;
    drop(immutable);

    // They are in nobody's way.
    fs::remove_file(scene.consumer.state().join("sync/consumer.json")).expect("forgets");
    let running = scene.consume_on(&scene.faulty());
    applied(&running, cid).await;
    assert_eq!(fs::read_to_string(ours.join("n/deep/f")).expect("reads"), "new");
    running.stop().await;
}

#[tokio::test]
async fn sm111_a_consumer_deletes_nothing_in_the_store() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let store = scene.faulty();
    let running = scene.consume_on(&store);
    let mut cids = Vec::new();
    for state in ["one", "two", "three"] {
        fill(&scene.provider, state);
        cids.push(publish(&publishing, &["/app"]).await);
        applied(&running, cids[cids.len() - 1]).await;
    }
    publishing.looked().await;
    let stored = store.list(None, 100).await.expect("lists");
    // Back, to what is there no more and to what is, and over a record that is refused.
    let named = |cid: Cid| Some(cid.to_string().parse().expect("the beginning of itself"));
    running.handle.roll_back(named(cids[0])).await.expect_err("its objects are retired");
    running.handle.roll_back(named(cids[1])).await.expect("goes back");
    let head = scene.records().await.remove(0);
    scene.forge("models", &head, |record| record["seq"] = json!(9)).await;
    scene
        .forge("models", &head, |record| {
            record["seq"] = json!(10);
            record["manifest"]["archive_paths"] = json!(["/srv"]);
        })
        .await;
    failed(&running, "validation").await;
    running.looked().await;
    assert_eq!(store.list(None, 100).await.expect("lists"), stored);
    assert_eq!(store.with(|faults| faults.deletions), 0, "none was even asked for");
    running.stop().await;
    publishing.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sm097_sm098_the_store_is_asked_once_in_each_interval() {
    let scene = Scene::new();
    let store = scene.faulty();
    let slow = SyncSpec { poll_interval: Duration::from_hours(1), ..spec(SyncRole::Consumer) };
    let running = start_on(&scene.consumer, &VOLUMES, store.clone(), slow);
    running.looked().await;
    let begun = store.with(|faults| faults.heads);
    tokio::time::sleep(Duration::from_mins(10 * 60 + 30)).await;
    let asked = store.with(|faults| faults.heads) - begun;
    // One more, since the first watch has just begun.
    assert!((10..=11).contains(&asked), "{asked} times in ten hours and a half");
    running.stop().await;
}

#[tokio::test]
async fn b22_a_workload_that_does_not_run_gets_its_state() {
    let scene = Scene::new();
    let publishing = scene.provide();
    let running = scene.consume_on(&scene.faulty());
    running.window.0.lock().expect("not poisoned").down = true;
    for state in ["one", "two"] {
        fill(&scene.provider, state);
        let cid = publish(&publishing, &["/app"]).await;
        applied(&running, cid).await;
        assert_eq!(trees(&scene.consumer), trees(&scene.provider), "{state}");
        let status = running.handle.status().borrow().clone();
        assert_eq!(status.stage, "idle", "there is nobody to try it");
    }
    running.stop().await;
    publishing.stop().await;
}
