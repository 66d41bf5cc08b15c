//! The local engine against the contract, and what is particular to it.

use std::fs;
use std::sync::Arc;

use belay_protocol::Cid;
use belay_store::{BlobStore, LocalStore, PutOutcome, RecordStore, contract};

#[tokio::test]
async fn the_local_store_keeps_the_blob_contract() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(&dir.path().join("store")).expect("opens");
    contract::blobs(&store, dir.path()).await;
}

#[tokio::test]
async fn the_local_store_keeps_the_contract_of_what_is_set_aside() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(&dir.path().join("store")).expect("opens");
    contract::asides(&store, dir.path()).await;
}

#[tokio::test]
async fn the_local_store_keeps_the_record_contract() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(dir.path()).expect("opens");
    contract::records(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_local_stores_on_one_directory_keep_the_contract() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let one = LocalStore::open(dir.path()).expect("opens");
    let other = LocalStore::open(dir.path()).expect("opens twice");
    let (one, other) = (Arc::new(one), Arc::new(other));
    contract::two_views(Arc::clone(&one), Arc::clone(&other)).await;
    contract::acknowledgements(one, other).await;
}

#[tokio::test]
async fn a_failed_put_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(&dir.path().join("store")).expect("opens");
    let source = dir.path().join("source");
    fs::write(&source, b"content").expect("writes");
    let file = fs::File::open(&source).expect("opens");
    let wrong = Cid::from_digest([0; 32]);
    store.put_if_absent(wrong, file, 7).await.expect_err("the bytes are not what the id names");
    let left = fs::read_dir(store.root().join("tmp")).expect("lists").count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_truncated_blob_is_made_whole_by_the_next_put() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(&dir.path().join("store")).expect("opens");
    let source = dir.path().join("source");
    fs::write(&source, b"content").expect("writes");
    let id = Cid::from_digest(*blake3::hash(b"content").as_bytes());
    let open = || fs::File::open(&source).expect("opens");
    let put = store.put_if_absent(id, open(), 7).await.expect("puts");
    assert_eq!(put, PutOutcome::Stored);

    let text = id.to_string();
    let stored = store.root().join("blobs").join(&text[57..]).join(&text);
    fs::write(&stored, b"con").expect("damages");
    let put = store.put_if_absent(id, open(), 7).await.expect("puts again");
    assert_eq!(put, PutOutcome::Stored);
    assert_eq!(fs::read(&stored).expect("reads"), b"content");

    // Of the right size and yet not what was stored.
    fs::write(&stored, b"CONTENT").expect("damages");
    let put = store.put_if_absent(id, open(), 7).await.expect("puts again");
    assert_eq!(put, PutOutcome::Stored);
    assert_eq!(fs::read(&stored).expect("reads"), b"content");
    let put = store.put_if_absent(id, open(), 7).await.expect("puts again");
    assert_eq!(put, PutOutcome::Present);
}

#[tokio::test]
async fn a_put_that_nobody_waits_for_ends_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(&dir.path().join("store")).expect("opens");
    let source = dir.path().join("source");
    let file = fs::File::create_new(&source).expect("creates");
    // Far more than could be copied before the deadline below.
    file.set_len(1 << 42).expect("a sparse file");
    let id = Cid::from_digest([7; 32]);
    let file = fs::File::open(&source).expect("opens");
    let put = store.put_if_absent(id, file, 1 << 42);
    let gone = tokio::time::timeout(std::time::Duration::from_millis(50), put).await;
    gone.expect_err("it was still at work");
    let tmp = store.root().join("tmp");
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while fs::read_dir(&tmp).expect("lists").count() > 0 {
        assert!(tokio::time::Instant::now() < end, "the copy goes on");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lost_directory_ends_the_watch_instead_of_leaving_it_deaf() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::open(dir.path()).expect("opens");
    let key = "gone".parse().expect("a key");
    let mut watch = store.watch(&key).await.expect("watches");
    fs::remove_dir_all(dir.path().join("records/gone")).expect("removes");
    let deadline = std::time::Duration::from_secs(10);
    let end = tokio::time::timeout(deadline, async { while watch.changed().await.is_some() {} });
    end.await.expect("the watch ends");
}
