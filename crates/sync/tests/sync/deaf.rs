//! A watch that says nothing any more, without having ended.

use std::fs;
use std::path::Path;
use std::time::Duration;

use belay_protocol::SyncRole;
use belay_sync::SyncSpec;
use tokio::time::Instant;

use crate::commands::{Scene, applied};
use crate::faulty::Faulty;
use crate::scene::{Running, VOLUMES, spec, start_on, trees};

/// By the clock of the test, which stands still while anybody works.
const POLL: Duration = Duration::from_secs(20);
/// What an apply takes by that clock, and more than what a hint takes.
const WORK: Duration = Duration::from_secs(5);

fn consume(scene: &Scene, store: Faulty) -> Running {
    let spec = SyncSpec { poll_interval: POLL, ..spec(SyncRole::Consumer) };
    start_on(&scene.consumer, &VOLUMES, store, spec)
}

/// Publishes a state, and says how long the consumer takes to have it.
async fn taken(scene: &Scene, provider: &Running, consumer: &Running, state: &str) -> Duration {
    let cid = scene.publish(provider, state).await;
    let at = Instant::now();
    applied(consumer, cid).await;
    assert_eq!(trees(&scene.consumer), trees(&scene.provider));
    at.elapsed()
}

async fn polls_only(scene: &Scene, provider: &Running, consumer: &Running) {
    for state in ["two", "three", "four"] {
        let waited = taken(scene, provider, consumer, state).await;
        assert!(waited > WORK, "{state} was heard of, after {waited:?}");
        assert!(waited <= POLL + WORK, "{state} came {waited:?} after it was published");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_never_speaks_costs_no_more_than_a_poll() {
    let scene = Scene::new();
    let provider = scene.provide();
    let store = Faulty::open(&scene.store_path());
    store.with(|faults| faults.deaf = true);
    let consumer = consume(&scene, store.clone());
    taken(&scene, &provider, &consumer, "one").await;
    polls_only(&scene, &provider, &consumer).await;
    assert!(store.with(|faults| faults.watches) > 0, "it has a watch, and trusts it");
    consumer.stop().await;
    provider.stop().await;
}

/// The same directory under the same name, with what is in it; only its watches stay with the other.
fn replace(directory: &Path) {
    let old = directory.with_extension("old");
    fs::rename(directory, &old).expect("renames");
    copy(&old, directory);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("reads");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("reads").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_directory_that_was_replaced_costs_no_more_than_a_poll() {
    let scene = Scene::new();
    let provider = scene.provide();
    let store = Faulty::open(&scene.store_path());
    let consumer = consume(&scene, store.clone());
    taken(&scene, &provider, &consumer, "one").await;
    let waited = taken(&scene, &provider, &consumer, "heard").await;
    assert!(waited < WORK, "a watch that works is heard at once, and not after {waited:?}");

    // Nothing happens to the directory that is watched: one above it makes room for another.
    let watches = store.with(|faults| faults.watches);
    replace(&scene.store_path().join("records"));
    polls_only(&scene, &provider, &consumer).await;
    assert_eq!(store.with(|faults| faults.watches), watches, "it did not notice");
    consumer.stop().await;
    provider.stop().await;
}
