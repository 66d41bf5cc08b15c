//! Captures by clones, beside a running app, and what becomes of them where neither is to be had.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use belay_protocol::SyncRole;
use belay_protocol::record::{ArchiveFormat, Capture};
use belay_sync::{CapturePolicy, PublishCommand, SyncSpec};
use serde_json::{Map, Value, json};

use crate::commands::{applied, publish};
use crate::scene::{
    CloningHost, FORMATS, Place, Running, VOLUMES, eventually, fill, spec, start, start_with, trees,
};
use crate::stored::head;

struct Scene {
    temp: tempfile::TempDir,
    provider: Place,
}

/// What the app does as soon as it may.
fn write_on(root: &Path) {
    for (name, _) in VOLUMES {
        let data = root.join("volumes").join(name).join("data");
        fs::write(data.join("state"), "later").expect("writes");
        fs::write(data.join("late"), "later").expect("writes");
        fs::remove_dir_all(data.join("sub")).expect("removes");
    }
}

impl Scene {
    fn new(host: CloningHost) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let provider = Place::new(&temp.path().join("provider"), &VOLUMES);
        provider.clones.with(|clones| clones.host = host);
        fill(&provider, "one");
        Self { temp, provider }
    }

    fn store_path(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    fn provide(&self, format: ArchiveFormat, capture: CapturePolicy) -> Running {
        let spec = SyncSpec { format, capture, ..spec(SyncRole::Provider) };
        start_with(&self.provider, &VOLUMES, &self.store_path(), spec)
    }

    /// What a consumer makes of what was published.
    async fn replica(&self) -> Vec<BTreeMap<String, String>> {
        let place = Place::new(&self.temp.path().join("consumer"), &VOLUMES);
        let running = start(&place, &self.store_path(), SyncRole::Consumer);
        let cid = head(&self.store_path()).await.cid;
        applied(&running, cid).await;
        running.stop().await;
        let trees = trees(&place);
        fs::remove_dir_all(&place.root).expect("removes");
        trees
    }

    async fn request(&self, runtime: &Value) -> Value {
        eventually("the directory for requests", || {
            self.provider.sync_file("").is_dir().then_some(())
        })
        .await;
        let _ = fs::remove_file(self.provider.sync_file("response.json"));
        self.provider.request(&json!({"archive_paths": ["/app"], "runtime": runtime}));
        eventually("the answer", || self.provider.json("response.json")).await
    }

    fn clone_events(&self) -> Vec<String> {
        self.provider.clones.with(|clones| std::mem::take(&mut clones.events))
    }

    fn is_clean(&self) -> bool {
        let clones = self.provider.root.join("clones");
        !clones.exists() || fs::read_dir(clones).expect("lists").next().is_none()
    }
}

#[tokio::test]
async fn what_is_published_is_the_state_of_the_moment_and_the_app_waits_for_that_alone() {
    for format in FORMATS {
        for (policy, capture, window) in [
            (CapturePolicy::Stopped, Capture::Stopped, ["stop for publish", "start unchanged"]),
            (CapturePolicy::Atomic, Capture::Atomic, ["look on", "look away"]),
            (CapturePolicy::Live, Capture::Atomic, ["look on", "look away"]),
        ] {
            let scene = Scene::new(CloningHost::Clones);
            let before = trees(&scene.provider);
            scene.provider.clones.with(|clones| clones.taken = Some(write_on));
            let running = scene.provide(format, policy);
            publish(&running).await.expect("publishes");
            assert_eq!(running.window.events(), window, "{policy:?}");
            assert_eq!(
                scene.clone_events(),
                [
                    "prepare app data",
                    "take app data",
                    "open app",
                    "open data",
                    "discard app",
                    "discard data"
                ]
            );
            assert!(scene.is_clean());
            running.stop().await;
            assert_ne!(trees(&scene.provider), before, "the app went on");
            assert_eq!(head(&scene.store_path()).await.capture, capture);
            assert_eq!(scene.replica().await, before, "{format:?} {policy:?}");
        }
    }
}

#[tokio::test]
async fn only_volumes_that_are_published_are_cloned() {
    let scene = Scene::new(CloningHost::Clones);
    let running = scene.provide(ArchiveFormat::Tree, CapturePolicy::Atomic);
    let archive_paths = vec!["/app/data/sub".into()];
    let command = PublishCommand { archive_paths, metadata: Map::new() };
    running.handle.publish(command).await.expect("publishes");
    assert_eq!(scene.clone_events(), ["prepare data", "take data", "open data", "discard data"]);
    running.stop().await;
}

#[tokio::test]
async fn where_there_are_no_clones_the_policy_says_what_is_done_and_the_answer_why() {
    use CapturePolicy::{Atomic, Live, Stopped};
    use CloningHost::{Refuses, RefusesToOpen, RefusesToTake};
    const STOP: [&str; 2] = ["stop for publish", "start unchanged"];
    const LOOK: [&str; 2] = ["look on", "look away"];
    for (host, policy, capture, told, window) in [
        (Refuses, Stopped, Capture::Stopped, None, vec![STOP]),
        (RefusesToTake, Stopped, Capture::Stopped, None, vec![STOP, STOP]),
        (RefusesToOpen, Stopped, Capture::Stopped, None, vec![STOP, STOP]),
        (Refuses, Atomic, Capture::Stopped, Some("prepare"), vec![STOP]),
        (RefusesToTake, Atomic, Capture::Stopped, Some("take"), vec![LOOK, STOP]),
        (RefusesToOpen, Atomic, Capture::Stopped, Some("open"), vec![LOOK, STOP]),
        (Refuses, Live, Capture::Live, Some("prepare"), vec![LOOK]),
        (RefusesToTake, Live, Capture::Live, Some("take"), vec![LOOK, LOOK]),
    ] {
        let scene = Scene::new(host);
        let running = scene.provide(ArchiveFormat::Tree, policy);
        let response = scene.request(&json!({})).await;
        let case = format!("{host:?} {policy:?}: {response}");
        assert_eq!(response["status"], "ok", "{case}");
        assert_eq!(running.window.events(), window.concat(), "{case}");
        assert_eq!(head(&scene.store_path()).await.capture, capture, "{case}");
        assert_eq!(response["capture"], serde_json::to_value(capture).expect("a text"), "{case}");
        match told {
            None => assert_eq!(response.get("capture_fallback"), None, "{case}"),
            Some(told) => {
                let reason = response["capture_fallback"].as_str().expect("a reason");
                assert!(reason.starts_with(told), "{case}");
            }
        }
        assert!(scene.is_clean(), "{case}");
        running.stop().await;
        assert_eq!(scene.replica().await, trees(&scene.provider), "{case}");
    }
}

#[tokio::test]
async fn sm029_sm033_sm064_sx27_an_app_wishes_within_what_the_spec_permits() {
    let scene = Scene::new(CloningHost::Clones);
    let running = scene.provide(ArchiveFormat::Tree, CapturePolicy::Stopped);
    let response = scene.request(&json!({"provider_capture": "online"})).await;
    assert_eq!(response["stage"], "validation", "{response}");
    let error = response["error"].as_str().expect("a text");
    assert!(error.contains("not permitted on this node"), "{error}");
    assert_eq!(running.window.events(), [""; 0]);
    running.stop().await;

    let running = scene.provide(ArchiveFormat::Tree, CapturePolicy::Atomic);
    for (wish, capture, downtime) in [("online", "atomic", 0), ("offline", "stopped", 7)] {
        let response = scene.request(&json!({"provider_capture": wish})).await;
        assert_eq!(response["downtime_ms"], downtime, "{response}");
        assert_eq!(
            head(&scene.store_path()).await.runtime.provider_capture,
            serde_json::from_value(json!(wish)).expect("a wish")
        );
        assert_eq!(response["capture"], capture, "{response}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_captured_disturbs_nobody() {
    for format in FORMATS {
        let scene = Scene::new(CloningHost::Clones);
        let running = scene.provide(format, CapturePolicy::Stopped);
        let archive_paths = vec!["/app/nowhere".into()];
        let command = PublishCommand { archive_paths, metadata: Map::new() };
        let refused = running.handle.publish(command).await.expect_err("it is not there");
        assert!(refused.to_string().starts_with("validation"), "{refused}");
        assert_eq!(running.window.events(), [""; 0]);
        running.stop().await;
    }
}
