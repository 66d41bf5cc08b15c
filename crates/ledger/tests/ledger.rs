//! The ledger against a real file, a damaged file, and a process that is killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use belay_ledger::{Ledger, Opening};
use serde::{Deserialize, Serialize};

const TABLE: &str = "workload";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    generation: u64,
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[tokio::test]
async fn what_was_put_is_there_after_opening_again() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let (ledger, opening) = Ledger::open(&path).expect("opens");
    assert_eq!(opening, Opening::Fresh);
    ledger.put(TABLE, "web", &Record { generation: 1 }).await.expect("put");
    ledger.put(TABLE, "web", &Record { generation: 2 }).await.expect("put again");
    ledger.put(TABLE, "gone", &Record { generation: 3 }).await.expect("put");
    ledger.remove(TABLE, "gone").await.expect("remove");
    ledger.remove(TABLE, "never-there").await.expect("removing nothing is no error");
    drop(ledger);

    let (ledger, opening) = Ledger::open(&path).expect("opens again");
    assert_eq!(opening, Opening::Existing);
    let loaded = ledger.load::<Record>(TABLE).await.expect("load");
    assert_eq!(
        loaded.records.into_iter().collect::<Vec<_>>(),
        [("web".into(), Record { generation: 2 })]
    );
    assert!(loaded.set_aside.is_empty());
}

#[tokio::test]
async fn what_was_loaded_holds_until_something_is_written() {
    let dir = directory();
    let (ledger, _) = Ledger::open(&dir.path().join("belay.db")).expect("opens");
    let before = ledger.changes();
    ledger.load::<Record>(TABLE).await.expect("load");
    assert_eq!(ledger.changes(), before, "a read changes nothing");
    ledger.put(TABLE, "web", &Record { generation: 1 }).await.expect("put");
    let put = ledger.changes();
    assert_ne!(put, before);
    ledger.clone().remove(TABLE, "web").await.expect("remove");
    assert_ne!(ledger.changes(), put, "whichever clone of the handle wrote");
}

#[tokio::test]
async fn a_bad_record_costs_one_record() {
    let dir = directory();
    let (ledger, _) = Ledger::open(&dir.path().join("belay.db")).expect("opens");
    ledger.put(TABLE, "bad", &"not a record").await.expect("put");
    ledger.put(TABLE, "good", &Record { generation: 1 }).await.expect("put");
    let loaded = ledger.load::<Record>(TABLE).await.expect("load");
    assert_eq!(loaded.records.keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(loaded.set_aside.len(), 1);
    assert_eq!(loaded.set_aside[0].key, "bad");
    let again = ledger.load::<Record>(TABLE).await.expect("load again");
    assert!(again.set_aside.is_empty(), "a record is set aside once");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_kept_and_replaced() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    std::fs::write(&path, vec![0x5a_u8; 8192]).expect("writes garbage");
    let (ledger, opening) = Ledger::open(&path).expect("opens a fresh one");
    let Opening::Replaced { kept, .. } = opening else { panic!("{opening:?}") };
    assert_eq!(std::fs::read(kept).expect("the garbage is kept").len(), 8192);
    ledger.put(TABLE, "web", &Record { generation: 1 }).await.expect("the fresh one works");
}

#[tokio::test]
async fn a_ledger_of_a_newer_belayd_is_refused_and_left_alone() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let (ledger, _) = Ledger::open(&path).expect("opens");
    ledger.put(TABLE, "web", &Record { generation: 1 }).await.expect("put");
    drop(ledger);
    let other = rusqlite::Connection::open(&path).expect("opens by hand");
    other.pragma_update(None, "user_version", 99).expect("is newer now");
    drop(other);
    let refused = Ledger::open(&path).expect_err("is refused");
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("newer belayd"), "{refused}: {cause}");
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().contains("unusable"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn many_writers_are_all_answered() {
    let dir = directory();
    let (ledger, _) = Ledger::open(&dir.path().join("belay.db")).expect("opens");
    let writes = (0..2_000_u64).map(|n| {
        let ledger = ledger.clone();
        async move { ledger.put(TABLE, &format!("w{n}"), &Record { generation: n }).await }
    });
    for result in futures_util::future::join_all(writes).await {
        result.expect("each write is confirmed");
    }
    assert_eq!(ledger.load::<Record>(TABLE).await.expect("load").records.len(), 2_000);
}

#[tokio::test]
#[ignore = "the other process of what_was_answered_survives_kill_9"]
async fn child_that_writes_until_killed() {
    let path = std::env::var_os("BELAY_LEDGER_CHILD").expect("its parent says which file");
    let (ledger, _) = Ledger::open(path.as_ref()).expect("opens");
    for n in 0_u64.. {
        ledger.put(TABLE, "counter", &Record { generation: n }).await.expect("put");
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {n}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let mut confirmed = None;
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().expect("this test's own binary"))
            .args(["--exact", "child_that_writes_until_killed", "--ignored", "--nocapture"])
            .env("BELAY_LEDGER_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts a child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in lines {
            let line = line.expect("reads the child");
            if let Some((_, n)) = line.split_once("acknowledged ") {
                confirmed = Some(n.trim().parse::<u64>().expect("a number"));
                if confirmed >= Some(round * 7) {
                    break;
                }
            }
        }
        child.kill().expect("kills the child it started");
        child.wait().expect("reaps it");
        let (ledger, opening) = Ledger::open(&path).expect("opens after the kill");
        assert_eq!(opening, Opening::Existing);
        let loaded = ledger.load::<Record>(TABLE).await.expect("load");
        let found = loaded.records.get("counter").map(|record| record.generation);
        assert!(found >= confirmed, "confirmed {confirmed:?}, found {found:?}");
    }
}
