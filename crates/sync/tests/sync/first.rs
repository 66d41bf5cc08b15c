//! A consumer whose volumes hold nothing of its key yet: what they are taken for, and what is said of
//! it.

use std::fs;

use belay_protocol::{PublisherKey, SyncKey, SyncRole};
use belay_sync::{SyncSpec, carries, disown};

use crate::commands::{Scene, applied};
use crate::faulty::Faulty;
use crate::scene::{VOLUMES, spec, start_on, start_with};

fn key() -> SyncKey {
    "models".parse().expect("a key")
}

async fn carried(scene: &Scene, key: &SyncKey) -> bool {
    carries(&scene.consumer.layout(&VOLUMES), key).await.expect("they can be looked at")
}

/// Makes a volume anew, as an operator's reset does.
fn reset(scene: &Scene, volume: &str) {
    let data = scene.consumer.data(volume);
    fs::rename(&data, data.with_extension("old")).expect("renames");
    fs::create_dir(&data).expect("creates");
    fs::remove_dir_all(data.with_extension("old")).expect("removes");
    if volume == "app" {
        fs::create_dir(data.join("data")).expect("a mount point");
    }
}

#[tokio::test]
async fn volumes_carry_a_key_from_the_commit_of_an_apply_until_one_of_them_is_emptied() {
    let scene = Scene::new();
    assert!(!carried(&scene, &key()).await, "nothing was ever applied");
    let provider = scene.provide();
    let one = scene.publish(&provider, "one").await;
    let consumer = scene.consume();
    applied(&consumer, one).await;
    assert!(carried(&scene, &key()).await);
    assert!(!carried(&scene, &"other".parse().expect("a key")).await, "it is of another key");
    consumer.stop().await;

    // Both were written by one apply, so neither is enough without the other.
    for volume in ["data", "app"] {
        reset(&scene, volume);
        assert!(!carried(&scene, &key()).await, "{volume} is empty");
        let consumer = scene.consume();
        applied(&consumer, one).await;
        assert!(carried(&scene, &key()).await, "{volume} has its state back");
        consumer.stop().await;
    }
    let named = ["data".parse().expect("a name")];
    for _ in 0..2 {
        disown(&scene.consumer.layout(&VOLUMES), &named).await.expect("removes");
        assert!(!carried(&scene, &key()).await, "it is about to be emptied");
    }
    fs::write(scene.consumer.private("app").join("applied.json"), b"{").expect("writes");
    assert!(!carried(&scene, &key()).await, "what cannot be read proves nothing");
    provider.stop().await;
}

#[tokio::test]
async fn it_is_said_why_nothing_is_there_and_not_any_more_once_it_is() {
    let scene = Scene::new();
    let store = Faulty::open(&scene.store_path());
    let stranger = SyncSpec {
        publishers: Some(vec![PublisherKey::from_bytes([9; 32])]),
        ..spec(SyncRole::Consumer)
    };
    let consumer = start_on(&scene.consumer, &VOLUMES, store.clone(), stranger);
    let says = |words: &'static str| {
        move |status: &belay_protocol::SyncStatus| {
            status.unapplied.as_ref().is_some_and(|why| why.contains(words))
        }
    };
    consumer.status("nothing", says("nothing is published under models")).await;
    store.with(|faults| faults.answers = Some(0));
    consumer.status("a store that is down", says("the store does not answer: ")).await;
    store.with(|faults| faults.answers = None);
    consumer.status("that it is back", says("nothing is published under models")).await;

    let provider = scene.provide();
    let one = scene.publish(&provider, "one").await;
    let status = consumer.status("a refusal", says("the head is not taken: ")).await;
    let why = status.unapplied.expect("waited for");
    assert!(why.contains("stage validation") && why.contains("it is tried again at"), "{why}");
    consumer.stop().await;
    let again = SyncSpec {
        publishers: Some(vec![PublisherKey::from_bytes([9; 32])]),
        ..spec(SyncRole::Consumer)
    };
    let consumer = start_on(&scene.consumer, &VOLUMES, store.clone(), again);
    let status = consumer.status("the same after a restart", |s| s.unapplied.is_some()).await;
    assert_eq!(status.unapplied.as_ref(), Some(&why), "it is remembered");
    assert!(!carried(&scene, &key()).await);
    consumer.stop().await;

    let trusting =
        start_with(&scene.consumer, &VOLUMES, &scene.store_path(), spec(SyncRole::Consumer));
    applied(&trusting, one).await;
    trusting.looked().await;
    assert_eq!(trusting.handle.status().borrow().unapplied, None);
    trusting.stop().await;
    provider.stop().await;
}
