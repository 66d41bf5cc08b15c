//! The power goes at each journalled point of a publish, of an apply and of the way back.
//!
//! Directories lie on [disks](crate::disk) of their own. Each of them loses what it loses alone.

use std::fs;

use belay_protocol::record::{ArchiveFormat, SyncRecord};
use belay_protocol::{Cid, SyncRole};
use belay_store::{LocalStore, RecordStore};
use belay_sync::failpoint::Point;
use belay_sync::recover;
use serde_json::json;

use crate::commands::{Scene, applied};
use crate::disk::{Disk, HOST};
use crate::kill::{killed_as, killed_at};
use crate::rollback::went_back;
use crate::scene::{
    Place, Running, State, VOLUMES, eventually, fill, provide_as, start, trees, unready,
};
use crate::trial::{say, taken_back, was_taken_back};

#[tokio::test]
async fn a_publish_cut_off_anywhere_is_answered_and_published_once() {
    for point in Point::PUBLISH {
        publish_cut_off(point, ArchiveFormat::Tree).await;
    }
}

#[tokio::test]
async fn a_publish_cut_off_anywhere_is_answered_and_published_once_as_an_archive() {
    for point in Point::PUBLISH {
        publish_cut_off(point, ArchiveFormat::TarGz).await;
    }
}

async fn publish_cut_off(point: Point, format: ArchiveFormat) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let store = temp.path().join("store");
    let disks = [Disk::new(&temp.path().join("provider"), HOST), Disk::new(&store, HOST)];
    let place = Place::new(&temp.path().join("provider"), &VOLUMES);
    fill(&place, "one");
    fs::create_dir(place.sync_file("")).expect("creates");
    place.request(&json!({"archive_paths": ["/app"], "request_id": "once"}));
    disks.iter().for_each(Disk::sync);
    killed_as(format, "publish", point, temp.path());
    Disk::cut(&disks);

    let running = provide_as(&place, &store, format);
    let response = eventually("the answer", || place.json("response.json")).await;
    eventually("the end", || {
        let over = !place.sync_file("request.json.processing").exists()
            && !place.sync_file("request.json").exists()
            && !place.state().join("sync/publish.json").exists();
        over.then_some(())
    })
    .await;
    assert_eq!(response["status"], "ok", "{point:?} {format:?}: {response}");
    assert_eq!(response["request_id"], "once", "{point:?} {format:?}");
    running.stop().await;
    let records = LocalStore::open(&store).expect("opens");
    let history = records.history(&"models".parse().expect("a key"), 10).await.expect("reads");
    assert_eq!(history.len(), 1, "{point:?}: one record");
    let record: SyncRecord = serde_json::from_slice(&history[0].bytes).expect("a record");
    assert_eq!(response["cid"], record.cid.to_string(), "{point:?}");

    // All that it needs is there: another node takes it over.
    let consumer = Place::new(&temp.path().join("consumer"), &VOLUMES);
    let running = start(&consumer, &store, SyncRole::Consumer);
    running.status("the apply", |status| status.last_apply.is_some()).await;
    assert_eq!(trees(&consumer), trees(&place), "{point:?} {format:?}");
    running.stop().await;
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_leaves_the_old_state_or_the_new_one() {
    for point in Point::APPLY {
        apply_cut_off("apply", point, ArchiveFormat::Tree).await;
    }
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_leaves_the_old_state_or_the_new_one_from_an_archive() {
    for point in Point::APPLY {
        apply_cut_off("apply", point, ArchiveFormat::TarGz).await;
    }
}

#[tokio::test]
async fn an_apply_cut_off_anywhere_whose_states_have_files_in_common_is_whole_too() {
    for point in Point::APPLY {
        apply_cut_off("share", point, ArchiveFormat::Tree).await;
    }
}

/// A consumer whose state and volumes lie on disks of their own, beside a provider.
struct Node {
    disks: [Disk; 3],
    scene: Scene,
    publishing: Running,
    /// What the consumer holds: what was applied last, and what its app wrote since.
    held: State,
}

impl Node {
    /// One to which nothing was applied yet.
    fn new(format: ArchiveFormat) -> Self {
        let scene = Scene::new();
        let root = &scene.consumer.root;
        let volume = |name: &str| root.join("volumes").join(name);
        let disks = [root.join("state"), volume("app"), volume("data")];
        let disks = disks.map(|mount| Disk::new(&mount, HOST));
        let consumer = Place::new(root, &VOLUMES);
        fs::create_dir(consumer.data("app").join("data")).expect("creates");
        let publishing = provide_as(&scene.provider, &scene.store_path(), format);
        let mut node = Self { disks, scene, publishing, held: State::new() };
        node.write();
        node
    }

    /// One that has applied a state.
    async fn holding(format: ArchiveFormat, state: &str) -> Self {
        let mut node = Self::new(format);
        node.apply(state).await;
        node
    }

    /// The app writes, and all of it reaches the disks.
    fn write(&mut self) {
        let app = self.scene.consumer.data("app");
        fs::write(app.join("mine"), "of the app").expect("writes");
        self.disks.iter().for_each(Disk::sync);
        self.held = trees(&self.scene.consumer);
    }

    /// Publishes a state and applies it, and then the app writes. Returns what was published.
    async fn apply(&mut self, state: &str) -> (Cid, State) {
        let published = self.publish(state).await;
        let running = self.scene.consume();
        applied(&running, published.0).await;
        running.stop().await;
        assert_eq!(trees(&self.scene.consumer), published.1);
        self.write();
        published
    }

    async fn publish(&self, state: &str) -> (Cid, State) {
        let cid = self.scene.publish(&self.publishing, state).await;
        (cid, trees(&self.scene.provider))
    }

    /// Cuts the power. Whether the kernel had written what it was not told to for both volumes, for
    /// one, or for none, what the host finds before anything starts is `wanted`.
    async fn cut(&self, wanted: &State, what: &str) {
        let cut = Disk::cut(&self.disks);
        for written in [0b110, 0b010, 0b000] {
            cut.found(written);
            let Scene { consumer, .. } = &self.scene;
            let recovery = recover(&consumer.state(), &consumer.layout(&VOLUMES)).await;
            assert_eq!(recovery.expect("recovers").halt, None, "{what}, {written:03b} written");
            assert_eq!(&trees(consumer), wanted, "{what}, {written:03b} written: whole");
        }
    }
}

fn is_at_or_after(point: Point, other: Point) -> bool {
    let place = |wanted| Point::APPLY.iter().position(|point| *point == wanted);
    place(point) >= place(other)
}

async fn apply_cut_off(role: &str, point: Point, format: ArchiveFormat) {
    let node = Node::holding(format, "old").await;
    let (cid, new) = node.publish("new").await;
    killed_as(format, role, point, node.scene.temp.path());
    let begun = is_at_or_after(point, Point::ApplyJournalled);
    node.cut(if begun { &new } else { &node.held }, &format!("{point:?} {format:?}")).await;

    let consumer = &node.scene.consumer;
    let running = node.scene.consume();
    eventually("the end", || {
        let told = consumer.json("last_apply.json");
        let over = told.is_some_and(|last| last["cid"] == cid.to_string())
            && !consumer.state().join("sync/apply.json").exists();
        over.then_some(())
    })
    .await;
    assert_eq!(trees(consumer), new, "{point:?}");
    running.stop().await;
    node.publishing.stop().await;
}

#[tokio::test]
async fn a_way_back_cut_off_anywhere_leaves_what_was_there_before() {
    for point in Point::TAKE_BACK {
        let node = Node::holding(ArchiveFormat::Tree, "old").await;
        way_back_cut_off(node, point, VOLUMES.len()).await;
    }
}

/// No mark of the old state is written, and so nothing else makes its return durable.
#[tokio::test]
async fn a_way_back_from_a_first_apply_cut_off_anywhere_leaves_what_was_there_before() {
    for point in Point::TAKE_BACK.into_iter().filter(|point| *point != Point::FirstOldMark) {
        way_back_cut_off(Node::new(ArchiveFormat::Tree), point, 0).await;
    }
}

async fn way_back_cut_off(node: Node, point: Point, marks: usize) {
    let (cid, _) = node.publish("new").await;
    killed_at("unready", point, node.scene.temp.path());
    node.cut(&node.held, &format!("{point:?}")).await;
    was_taken_back(&node.scene, point, cid, &node.held, marks).await;
    node.publishing.stop().await;
}

#[tokio::test]
async fn a_way_back_is_cut_off_again_while_it_is_recovered() {
    let recovered = [
        Point::TakeBackMarksRemoved,
        Point::FirstPutBack,
        Point::AllPutBack,
        Point::PutBackSynced,
        Point::FirstOldMark,
        Point::OldMarksWritten,
        Point::TakeBackJournalled,
    ];
    for point in recovered {
        let node = Node::holding(ArchiveFormat::Tree, "old").await;
        let (cid, _) = node.publish("new").await;
        killed_at("unready", Point::FirstPutBack, node.scene.temp.path());
        // One volume is back, and the other is not.
        Disk::cut(&node.disks).found(0b010);
        killed_at("recover", point, node.scene.temp.path());
        node.cut(&node.held, &format!("{point:?} of a recovery")).await;
        was_taken_back(&node.scene, point, cid, &node.held, VOLUMES.len()).await;
        node.publishing.stop().await;
    }
}

#[tokio::test]
async fn a_trial_cut_off_before_its_verdict_is_judged_by_the_next_process() {
    let trial = Point::APPLY.into_iter().filter(|point| {
        is_at_or_after(*point, Point::ApplyJournalled)
            && !is_at_or_after(*point, Point::ReceivedHistoryWritten)
    });
    for point in trial {
        let node = Node::holding(ArchiveFormat::Tree, "old").await;
        let (cid, new) = node.publish("new").await;
        killed_at("unready", point, node.scene.temp.path());
        node.cut(&new, &format!("{point:?}")).await;
        let running = node.scene.consume();
        say(&running, Some(unready()));
        taken_back(&running, cid, 1).await;
        node.scene.ended().await;
        assert_eq!(trees(&node.scene.consumer), node.held, "{point:?}");
        running.stop().await;
        node.publishing.stop().await;
    }
}

#[tokio::test]
async fn a_rollback_cut_off_anywhere_comes_to_its_end() {
    for point in Point::APPLY {
        rollback_cut_off(point, ArchiveFormat::Tree).await;
    }
}

#[tokio::test]
async fn a_rollback_cut_off_anywhere_comes_to_its_end_from_an_archive() {
    for point in Point::APPLY {
        rollback_cut_off(point, ArchiveFormat::TarGz).await;
    }
}

async fn rollback_cut_off(point: Point, format: ArchiveFormat) {
    let mut node = Node::new(format);
    let (first, one) = node.apply("old").await;
    node.apply("new").await;
    killed_as(format, "rollback", point, node.scene.temp.path());
    let begun = is_at_or_after(point, Point::ApplyJournalled);
    node.cut(if begun { &one } else { &node.held }, &format!("{point:?} {format:?}")).await;
    went_back(&node.scene, point, first, &one).await;
    node.publishing.stop().await;
}
