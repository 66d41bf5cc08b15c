use super::*;
use crate::journal::ReadFrom;

const TABLE: &str = "workload";

fn entry(body: &str) -> Entry {
    Entry { at: 0, topic: String::new(), kind: "k".into(), body: body.into() }
}

#[test]
fn a_record_is_written_where_the_disk_has_no_room_for_the_entries_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (connection, _) = open(&dir.path().join("belay.db")).expect("opens");
    let (staging, staged) = mpsc::channel(8);
    let (newest, told) = watch::channel(0);
    let retention = Retention::default();
    let mut writer = Writer {
        connection,
        retention,
        staged,
        held: VecDeque::new(),
        newest,
        changes: Arc::default(),
    };
    let put = |body: &str| Change::Put { table: TABLE, key: "web".into(), body: Some(body.into()) };
    assert_eq!(writer.commit_all(&[put("one")]), (Ok(()), Ok(())));

    // From here on the file may not grow by a page.
    let pages: i64 =
        writer.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("a count");
    writer.connection.pragma_update(None, "max_page_count", pages).expect("is full now");
    staging.try_send(entry(&"x".repeat(100_000))).expect("room");
    let (record, entries) = writer.commit_all(&[put("two")]);
    assert_eq!(record, Ok(()));
    assert!(entries.expect_err("no room").contains("full"));
    let kept = read(&writer.connection, TABLE).expect("reads");
    assert_eq!(kept, [("web".to_owned(), "two".to_owned())]);
    assert_eq!(*told.borrow(), 0);

    writer.connection.pragma_update(None, "max_page_count", 1_000_000).expect("has room");
    staging.try_send(entry("later")).expect("room");
    assert_eq!(writer.commit_all(&[]), (Ok(()), Ok(())));
    let query =
        JournalQuery { from: ReadFrom::After(0), topic: None, kinds: Vec::new(), limit: 10 };
    let page = entries::read(&writer.connection, &query).expect("reads");
    let bodies: Vec<_> = page.entries.iter().map(|found| found.entry.body.len()).collect();
    assert_eq!(bodies, [100_000, 5], "what was refused comes first");
    assert_eq!(*told.borrow(), 2);
}

#[test]
fn a_batch_is_written_whole_or_not_at_all_and_can_be_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (connection, _) = open(&dir.path().join("belay.db")).expect("opens");
    let (_staging, staged) = mpsc::channel(8);
    let (newest, _told) = watch::channel(0);
    let retention = Retention::default();
    let mut writer = Writer {
        connection,
        retention,
        staged,
        held: VecDeque::new(),
        newest,
        changes: Arc::default(),
    };
    let mut before = Batch::default();
    before.put(TABLE, "old", &"kept").expect("encodes");
    assert_eq!(writer.commit_all(&[Change::Batch(Arc::new(before))]), (Ok(()), Ok(())));

    // From here on the file may not grow by a page, and the last record of the batch needs many.
    let pages: i64 =
        writer.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("a count");
    writer.connection.pragma_update(None, "max_page_count", pages).expect("is full now");
    let mut batch = Batch::default();
    batch.remove(TABLE, "old");
    batch.put(TABLE, "small", &1).expect("encodes");
    batch.put(TABLE, "large", &"x".repeat(100_000)).expect("encodes");
    assert_eq!(batch.len(), 3);
    let batch = Arc::new(batch);
    let (written, _) = writer.commit_all(&[Change::Batch(Arc::clone(&batch))]);
    assert!(written.expect_err("no room").contains("full"));
    let keys = |writer: &Writer| -> Vec<String> {
        let rows = read(&writer.connection, TABLE).expect("reads");
        rows.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(&writer), ["old"]);

    writer.connection.pragma_update(None, "max_page_count", 1_000_000).expect("has room");
    assert_eq!(writer.commit_all(&[Change::Batch(batch)]), (Ok(()), Ok(())));
    assert_eq!(keys(&writer), ["large", "small"]);
}
