//! What every engine must do, as functions that panic when it does not.
//!
//! An engine's tests call [`blobs`] and [`records`] with an empty store, and [`two_views`] and
//! [`acknowledgements`] with two handles to the same one, as two daemons would have.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::{Cid, ConsumerId, SyncKey};
use bytes::Bytes;
use futures_util::TryStreamExt;

use crate::{
    ACK_MAX, BlobError, BlobStore, PutOutcome, RECORD_MAX, RecordError, RecordStore, Revision,
    StoredAck,
};

/// Longest wait for a hint.
const HINT: Duration = Duration::from_secs(10);

fn key(name: &str) -> SyncKey {
    name.parse().expect("a key of the suite is a name")
}

fn id(bytes: &[u8]) -> Cid {
    Cid::from_digest(*blake3::hash(bytes).as_bytes())
}

fn source(dir: &Path, bytes: &[u8]) -> File {
    let path = dir.join(id(bytes).to_string());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("the suite's scratch directory is writable");
    file.write_all(bytes).expect("the suite's scratch directory has space");
    file.seek(SeekFrom::Start(0)).expect("a file can be rewound");
    file
}

async fn read<S: BlobStore>(store: &S, id: Cid, range: Option<std::ops::Range<u64>>) -> Vec<u8> {
    let pieces = store.get(id, range).await.expect("a stored blob can be opened");
    let pieces: Vec<Bytes> = pieces.try_collect().await.expect("a stored blob can be read");
    pieces.concat()
}

/// Blobs: what is put is got, by whole and by range; nothing is stored under a name it does not
/// have; deletion and listing.
///
/// # Panics
/// When the engine does not keep the contract.
pub async fn blobs<S: BlobStore>(store: &S, scratch: &Path) {
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for content in [&b""[..], b"one", &large] {
        let (id, size) = (id(content), content.len() as u64);
        assert_eq!(store.has(id).await.expect("has"), None);
        let put = store.put_if_absent(id, source(scratch, content), size).await;
        assert_eq!(put.expect("put"), PutOutcome::Stored);
        let put = store.put_if_absent(id, source(scratch, content), size).await;
        assert_eq!(put.expect("put again"), PutOutcome::Present);
        assert_eq!(store.has(id).await.expect("has"), Some(size));
        assert_eq!(read(store, id, None).await, content);
    }
    assert_eq!(read(store, id(&large), Some(1_000..2_000_000)).await, &large[1_000..2_000_000]);
    assert_eq!(read(store, id(&large), Some(5..5)).await, b"");

    let beyond = store.get(id(b"one"), Some(2..4)).await.map(drop);
    assert!(matches!(beyond, Err(BlobError::Range { size: 3, .. })), "{beyond:?}");
    let absent = store.get(id(b"absent"), None).await.map(drop);
    assert!(matches!(absent, Err(BlobError::Absent { .. })), "{absent:?}");

    let wrong = store.put_if_absent(id(b"right"), source(scratch, b"wrong"), 5).await;
    assert!(matches!(wrong, Err(BlobError::Mismatch { .. })), "{wrong:?}");
    let short = store.put_if_absent(id(b"rightful"), source(scratch, b"right"), 8).await;
    assert!(matches!(short, Err(BlobError::Mismatch { .. })), "{short:?}");
    assert_eq!(store.has(id(b"right")).await.expect("has"), None);

    let all = store.list(None, 100).await.expect("list");
    assert_eq!(all.len(), 3);
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id), "a listing is in order");
    let first = store.list(None, 2).await.expect("list");
    assert_eq!(first, all[..2]);
    assert_eq!(store.list(Some(first[1].id), 2).await.expect("list"), all[2..]);

    assert!(store.delete(id(b"one")).await.expect("delete"));
    assert!(!store.delete(id(b"one")).await.expect("delete again"));
    assert_eq!(store.has(id(b"one")).await.expect("has"), None);
}

/// Blobs that are set aside: out of sight, readable, and decided over one by one.
///
/// # Panics
/// When the engine does not keep the contract.
pub async fn asides<S: BlobStore>(store: &S, scratch: &Path) {
    let content = &b"aside"[..];
    let (id, size) = (id(content), content.len() as u64);
    let put = async || store.put_if_absent(id, source(scratch, content), size).await.expect("put");
    assert_eq!(store.set_aside(id).await.expect("set aside"), None, "there is nothing");

    // Out of sight, and back.
    put().await;
    let aside = store.set_aside(id).await.expect("set aside").expect("it was there");
    assert_eq!(aside.id(), id);
    assert_eq!(store.has(id).await.expect("has"), None);
    assert_eq!(store.list(None, 10).await.expect("list"), []);
    assert_eq!(store.asides(10).await.expect("asides"), std::slice::from_ref(&aside));
    assert_eq!(read(store, id, None).await, content, "it is read all the while");
    assert_eq!(read(store, id, Some(1..3)).await, &content[1..3]);
    store.put_back(&aside).await.expect("put back");
    assert_eq!(store.has(id).await.expect("has"), Some(size));
    assert_eq!(store.asides(10).await.expect("asides"), []);

    // What is over does nothing to what is there now.
    store.remove_aside(&aside).await.expect("nothing to remove");
    store.put_back(&aside).await.expect("nothing to put back");
    assert_eq!(store.has(id).await.expect("has"), Some(size));

    // Stored anew meanwhile: neither end of the first one touches it, nor the second one.
    let first = store.set_aside(id).await.expect("set aside").expect("it was there");
    assert_eq!(put().await, PutOutcome::Stored);
    let second = store.set_aside(id).await.expect("set aside").expect("it was there");
    assert_ne!(first, second);
    assert_eq!(store.asides(1).await.expect("asides").len(), 1);
    store.remove_aside(&first).await.expect("remove");
    assert_eq!(read(store, id, None).await, content);
    store.put_back(&second).await.expect("put back");
    assert_eq!(store.has(id).await.expect("has"), Some(size));
    let third = store.set_aside(id).await.expect("set aside").expect("it was there");
    assert_eq!(put().await, PutOutcome::Stored);
    store.put_back(&third).await.expect("it is there already");
    assert_eq!(store.asides(10).await.expect("asides"), []);

    let last = store.set_aside(id).await.expect("set aside").expect("it was there");
    store.remove_aside(&last).await.expect("remove");
    let gone = store.get(id, None).await.map(drop);
    assert!(matches!(gone, Err(BlobError::Absent { .. })), "{gone:?}");
}

/// Records: the head moves only from the expected revision, and history is newest first.
///
/// # Panics
/// When the engine does not keep the contract.
pub async fn records<S: RecordStore>(store: &S) {
    let key = key("suite-records");
    assert_eq!(store.head(&key).await.expect("get"), None);
    let stale = store.compare_and_set(&key, Some(Revision(1)), "x".into()).await;
    assert!(matches!(stale, Err(RecordError::Conflict { head: None, .. })), "{stale:?}");

    let first = store.compare_and_set(&key, None, "first".into()).await.expect("create");
    let again = store.compare_and_set(&key, None, "other".into()).await;
    assert!(
        matches!(again, Err(RecordError::Conflict { head: Some(head), .. }) if head == first),
        "{again:?}"
    );
    let second = store.compare_and_set(&key, Some(first), "second".into()).await.expect("replace");
    assert!(second > first);
    let stale = store.compare_and_set(&key, Some(first), "stale".into()).await;
    assert!(matches!(stale, Err(RecordError::Conflict { .. })), "{stale:?}");

    let head = store.head(&key).await.expect("get").expect("a head");
    assert_eq!((head.revision, &head.bytes[..]), (second, &b"second"[..]));
    let history = store.history(&key, 10).await.expect("history");
    let bytes: Vec<&[u8]> = history.iter().map(|record| &record.bytes[..]).collect();
    assert_eq!(bytes, [&b"second"[..], b"first"]);

    let other = self::key("suite-records-b");
    store.compare_and_set(&other, None, "other".into()).await.expect("create");
    assert_eq!(store.keys(None, 10).await.expect("keys"), [key.clone(), other.clone()]);
    assert_eq!(store.keys(None, 1).await.expect("keys"), std::slice::from_ref(&key));
    assert_eq!(store.keys(Some(&key), 10).await.expect("keys"), [other]);

    let large = Bytes::from(vec![7; RECORD_MAX]);
    let third = store.compare_and_set(&key, Some(second), large.clone()).await.expect("largest");
    assert_eq!(store.head(&key).await.expect("get").expect("a head").bytes, large);
    let excess = store.compare_and_set(&key, Some(third), vec![7; RECORD_MAX + 1].into()).await;
    assert!(matches!(excess, Err(RecordError::TooLarge { .. })), "{excess:?}");

    // Long after the store forgot a revision, nobody can slip in behind the head.
    let mut head = third;
    for count in 0..200_u32 {
        head = store
            .compare_and_set(&key, Some(head), format!("{count}").into())
            .await
            .expect("the only writer wins");
    }
    for stale in [None, Some(first), Some(third)] {
        let refused = store.compare_and_set(&key, stale, "behind".into()).await;
        assert!(matches!(refused, Err(RecordError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(&store.head(&key).await.expect("get").expect("a head").bytes[..], b"199");
}

/// Acknowledgements: each consumer has one, which is replaced whole; they are no records, and make no
/// key of one that has none.
///
/// # Panics
/// When the engine does not keep the contract.
pub async fn acknowledgements<S: RecordStore>(one: Arc<S>, other: Arc<S>) {
    let key = key("suite-acks");
    let consumer = |name: &str| name.parse::<ConsumerId>().expect("a consumer of the suite");
    assert_eq!(one.acknowledgements(&key, 10).await.expect("lists"), []);
    for (name, bytes) in [("b.app", "first"), ("a.web", "one"), ("a.app", "x"), ("b.app", "later")]
    {
        one.acknowledge(&key, &consumer(name), bytes.into()).await.expect("is taken");
    }
    let found = other.acknowledgements(&key, 10).await.expect("lists");
    let told: Vec<(String, &[u8])> =
        found.iter().map(|ack| (ack.consumer.to_string(), &ack.bytes[..])).collect();
    let expected: [(&str, &[u8]); 3] = [("a.app", b"x"), ("a.web", b"one"), ("b.app", b"later")];
    assert_eq!(told, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert!(found.iter().all(|ack| ack.age < HINT), "they were written just now");
    let first = other.acknowledgements(&key, 2).await.expect("lists");
    let names =
        |acks: &[StoredAck]| acks.iter().map(|ack| ack.consumer.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&found[..2]));

    let largest = Bytes::from(vec![7; ACK_MAX]);
    one.acknowledge(&key, &consumer("b.app"), largest.clone()).await.expect("largest");
    let excess = one.acknowledge(&key, &consumer("b.app"), vec![7; ACK_MAX + 1].into()).await;
    assert!(matches!(excess, Err(RecordError::AckTooLarge { .. })), "{excess:?}");
    assert_eq!(one.acknowledgements(&key, 10).await.expect("lists")[2].bytes, largest);

    assert!(!one.keys(None, 100).await.expect("keys").contains(&key));
    assert_eq!(one.head(&key).await.expect("get"), None);
    one.compare_and_set(&key, None, "record".into()).await.expect("create");
    assert_eq!(one.history(&key, 10).await.expect("history").len(), 1);
    assert_eq!(other.acknowledgements(&key, 10).await.expect("lists").len(), 3);
}

/// Two handles to one store: one winner per revision, each sees what the other confirmed, and
/// hints cross.
///
/// # Panics
/// When the engine does not keep the contract.
pub async fn two_views<S: RecordStore>(one: Arc<S>, other: Arc<S>) {
    let watched = key("suite-watch");
    let mut watch = other.watch(&watched).await.expect("watch");
    let revision = one.compare_and_set(&watched, None, "seen".into()).await.expect("create");
    tokio::time::timeout(HINT, watch.changed()).await.expect("a hint in time").expect("a hint");
    let seen = other.head(&watched).await.expect("get").expect("a head");
    assert_eq!((seen.revision, &seen.bytes[..]), (revision, &b"seen"[..]));

    let raced = key("suite-race");
    let mut expected = None;
    for round in 0..20 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let store = Arc::clone(if writer % 2 == 0 { &one } else { &other });
            let raced = raced.clone();
            writers.spawn(async move {
                let bytes = Bytes::from(format!("{round}-{writer}"));
                (bytes.clone(), store.compare_and_set(&raced, expected, bytes).await)
            });
        }
        let mut winners = Vec::new();
        while let Some(result) = writers.join_next().await {
            match result.expect("a writer does not panic") {
                (bytes, Ok(revision)) => winners.push((bytes, revision)),
                (_, Err(RecordError::Conflict { .. })) => {}
                (_, Err(error)) => panic!("a writer failed otherwise: {error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let head = one.head(&raced).await.expect("get").expect("a head");
        assert_eq!((head.bytes, head.revision), winners[0]);
        expected = Some(head.revision);
    }
}
