//! What is kept is read, and what is damaged is told.

use std::fs;
use std::path::PathBuf;

use belay_protocol::record::SyncRecord;
use belay_protocol::{Cid, Damage, SyncKey, SyncLine, SyncPiece, SyncRole, VerifySum};
use belay_store::{BlobStore, LocalStore, RecordStore};
use belay_sync::{AskError, Held, SyncReader, SyncSpec};
use tokio::sync::mpsc;

use crate::commands::{Scene, applied, publish, reader};
use crate::scene::{FORMATS, Place, VOLUMES, eventually, fill, provide_as, spec, start_with};

async fn verify(
    scene: &Scene,
    place: &Place,
    role: SyncRole,
    held: Held,
) -> Result<(Vec<Damage>, VerifySum), AskError> {
    verify_by(reader(place, &scene.store_path(), spec(role)), held).await
}

/// All damage that a reader tells, and what it comes to.
pub(crate) async fn verify_by(
    reader: SyncReader<LocalStore>,
    held: Held,
) -> Result<(Vec<Damage>, VerifySum), AskError> {
    let (pieces, mut taken) = mpsc::channel(2);
    let verified = tokio::spawn(reader.verify(held, pieces));
    let (mut damaged, mut sum) = (Vec::new(), None);
    while let Some(piece) = taken.recv().await {
        match piece {
            SyncPiece::Line(SyncLine::Damaged(damage)) => damaged.push(damage),
            SyncPiece::Line(SyncLine::Verified(found)) => sum = Some(found),
            SyncPiece::Line(SyncLine::Verifying(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    verified.await.expect("no panic")?;
    let sum = sum.expect("it ends with a sum");
    assert_eq!(sum.damaged, damaged.len() as u64);
    Ok((damaged, sum))
}

fn object(scene: &Scene, id: Cid) -> PathBuf {
    let name = id.to_string();
    scene.store_path().join("blobs").join(&name[57..]).join(&name)
}

#[tokio::test]
async fn every_damaged_or_missing_object_of_what_is_kept_is_told_once() {
    for format in FORMATS {
        let scene = Scene::new();
        let provider = provide_as(&scene.provider, &scene.store_path(), format);
        for state in ["one", "two", "three"] {
            scene.publish(&provider, state).await;
        }
        let whole = verify(&scene, &scene.provider, SyncRole::Provider, Held::Nothing).await;
        let (damaged, sum) = whole.expect("is read");
        assert_eq!((damaged.len(), sum.generations), (0, 2), "the first was retired");
        let objects = scene.store().list(None, 100).await.expect("lists");
        assert_eq!(sum.objects, objects.len() as u64, "{format:?}: all, each once");
        assert_eq!(sum.bytes, objects.iter().map(|object| object.size).sum::<u64>());

        for found in &objects {
            let path = object(&scene, found.id);
            let bytes = fs::read(&path).expect("reads");
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 1;
            for damage in [Some(flipped), Some(bytes[..bytes.len() - 1].to_vec()), None] {
                match &damage {
                    Some(damage) => fs::write(&path, damage).expect("damages"),
                    None => fs::remove_file(&path).expect("removes"),
                }
                let told = verify(&scene, &scene.provider, SyncRole::Provider, Held::Nothing).await;
                let (damaged, _) = told.expect("is read");
                let of_it = |found_damage: &Damage| matches!(found_damage, Damage::Object { object, .. } if *object == found.id);
                assert!(!damaged.is_empty() && damaged.iter().all(of_it), "{damaged:?}");
            }
            fs::write(&path, bytes).expect("mends");
        }
        provider.stop().await;
    }
}

#[tokio::test]
async fn what_volumes_hold_is_held_against_their_marks() {
    let scene = Scene::new();
    let (provider, consumer) = (scene.provide(), scene.consume());
    let cid = scene.publish(&provider, "one").await;
    applied(&consumer, cid).await;
    eventually("the end of the bookkeeping", || {
        (!scene.consumer.state().join("sync/apply.json").exists()).then_some(())
    })
    .await;
    consumer.stop().await;
    let layout = || scene.consumer.layout(&VOLUMES);
    let role = SyncRole::Consumer;
    let (damaged, sum) =
        verify(&scene, &scene.consumer, role, Held::Marks(layout())).await.expect("is read");
    assert_eq!((damaged.len(), sum.marked, sum.rehashed), (0, 2, 0));
    let (damaged, sum) =
        verify(&scene, &scene.consumer, role, Held::Content(layout())).await.expect("is read");
    assert_eq!((damaged.len(), sum.marked, sum.rehashed), (0, 2, 2));

    fs::write(scene.consumer.data("data").join("state"), "eno").expect("writes");
    let (damaged, sum) =
        verify(&scene, &scene.consumer, role, Held::Content(layout())).await.expect("is read");
    let [Damage::Content { generation, volumes, reason }] = &damaged[..] else {
        panic!("{damaged:?}")
    };
    assert_eq!((*generation, volumes.len(), sum.rehashed), (cid, 2, 0));
    assert!(reason.contains("instead"), "{reason}");

    // A volume that was made anew carries no mark, and so says nothing that could be wrong.
    let data = scene.consumer.data("data");
    fs::rename(&data, data.with_file_name("gone")).expect("moves");
    fs::create_dir(&data).expect("creates");
    let (_, sum) =
        verify(&scene, &scene.consumer, role, Held::Marks(layout())).await.expect("is read");
    assert_eq!(sum.marked, 1);
    provider.stop().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_and_hides_no_other() {
    let scene = Scene::new();
    let provider = scene.provide();
    scene.publish(&provider, "one").await;
    let key = "models".parse().expect("a key");
    let head = scene.store().head(&key).await.expect("reads").expect("a head");
    let bytes = bytes::Bytes::from_static(b"{}");
    scene.store().compare_and_set(&key, Some(head.revision), bytes).await.expect("sets");
    let told = verify(&scene, &scene.provider, SyncRole::Provider, Held::Nothing).await;
    let (damaged, sum) = told.expect("is read");
    assert!(matches!(&damaged[..], [Damage::Record { .. }]), "{damaged:?}");
    assert_eq!(sum.generations, 1);
    provider.stop().await;
}

#[tokio::test]
async fn a_root_of_another_key_that_holds_up_deletion_is_told_to_providers() {
    let scene = Scene::new();
    let provider = scene.provide();
    scene.publish(&provider, "one").await;
    provider.stop().await;
    let key: SyncKey = "others".parse().expect("a key");
    let others = SyncSpec { key: key.clone(), ..spec(SyncRole::Provider) };
    let other = Place::new(&scene.temp.path().join("other"), &VOLUMES);
    fill(&other, "other");
    let running = start_with(&other, &VOLUMES, &scene.store_path(), others);
    publish(&running).await.expect("publishes");
    running.stop().await;
    let head = scene.store().head(&key).await.expect("reads").expect("a head");
    let record: SyncRecord = serde_json::from_slice(&head.bytes).expect("a record");
    let path = object(&scene, record.manifest.blob);
    let bytes = fs::read(&path).expect("reads");
    for place in [0, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        fs::write(&path, damaged).expect("damages");
        let told = verify(&scene, &scene.provider, SyncRole::Provider, Held::Nothing).await;
        let (damaged, _) = told.expect("is read");
        let [Damage::Record { reason }] = &damaged[..] else { panic!("{damaged:?}") };
        let begins = "record 1 of key others, for whose sake nothing is deleted in the store: ";
        assert!(reason.starts_with(begins), "{reason}");
    }
    // What is not there needs nothing, and a consumer deletes nothing.
    let told = verify(&scene, &scene.provider, SyncRole::Consumer, Held::Nothing).await;
    assert_eq!(told.expect("is read").0, []);
    fs::remove_file(&path).expect("removes");
    let told = verify(&scene, &scene.provider, SyncRole::Provider, Held::Nothing).await;
    assert_eq!(told.expect("is read").0, []);
}
