//! The journal against a real file: numbers, bounds, kills, a ledger that cannot be written.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use belay_ledger::{
    Entry, Journal, JournalPage, JournalQuery, Ledger, Opening, ReadFrom, Retention,
};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn entry(topic: &str, kind: &str, body: &str) -> Entry {
    Entry { at: 1_000, topic: topic.into(), kind: kind.into(), body: body.into() }
}

async fn read(journal: &Journal, from: ReadFrom, limit: usize) -> JournalPage {
    let query = JournalQuery { from, topic: None, kinds: Vec::new(), limit };
    journal.read(query).await.expect("reads")
}

fn numbers(page: &JournalPage) -> Vec<u64> {
    page.entries.iter().map(|found| found.number).collect()
}

fn open(path: &Path) -> Journal {
    Ledger::open(path).expect("opens").0.journal()
}

#[tokio::test]
async fn numbers_go_on_after_opening_again() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let journal = open(&path);
    let none = read(&journal, ReadFrom::After(0), 10).await;
    assert_eq!((none.first, none.newest), (None, 0));
    for body in ["a", "b"] {
        journal.stage(entry("web", "k", body)).expect("room");
    }
    assert_eq!(*journal.newest().borrow(), 0, "nothing is numbered before it is on the disk");
    journal.flush().await.expect("flushes");
    assert_eq!(*journal.newest().borrow(), 2);
    drop(journal);

    let journal = open(&path);
    assert_eq!(*journal.newest().borrow(), 2);
    journal.stage(entry("web", "k", "c")).expect("room");
    journal.flush().await.expect("flushes");
    let page = read(&journal, ReadFrom::After(1), 10).await;
    assert_eq!(numbers(&page), [2, 3]);
    assert_eq!(page.entries[1].entry, entry("web", "k", "c"));
    assert_eq!((page.first, page.newest), (Some(1), 3));
}

#[tokio::test]
async fn entries_are_found_by_topic_and_kind_from_either_end() {
    let dir = directory();
    let journal = open(&dir.path().join("belay.db"));
    for n in 0..30 {
        let topic = ["web", "db", ""][n % 3];
        let kind = ["phase", "crash"][n % 2];
        journal.stage(entry(topic, kind, &n.to_string())).expect("room");
    }
    journal.flush().await.expect("flushes");
    let query = |from, topic: Option<&str>, kinds: &[&str], limit| JournalQuery {
        from,
        topic: topic.map(str::to_owned),
        kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
        limit,
    };
    for (query, expected) in [
        (query(ReadFrom::After(4), Some("web"), &[], 2), vec![7, 10]),
        (query(ReadFrom::End, Some("web"), &[], 2), vec![25, 28]),
        (query(ReadFrom::End, Some("web"), &["crash"], 2), vec![22, 28]),
        (query(ReadFrom::After(26), None, &["phase", "crash"], 9), vec![27, 28, 29, 30]),
        (query(ReadFrom::End, Some("nobody"), &[], 2), vec![]),
        (query(ReadFrom::After(u64::MAX), None, &[], 2), vec![]),
    ] {
        let page = journal.read(query.clone()).await.expect("reads");
        assert_eq!(numbers(&page), expected, "{query:?}");
    }
}

#[tokio::test]
async fn what_is_staged_goes_with_the_next_record() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let (ledger, _) = Ledger::open(&path).expect("opens");
    let journal = ledger.journal();
    for round in 1..=50 {
        journal.stage(entry("web", "k", "x")).expect("room");
        ledger.put("workload", "web", &round).await.expect("put");
        assert_eq!(*journal.newest().borrow(), round, "it came with the put");
    }
}

#[tokio::test]
async fn a_journal_keeps_to_its_bounds_and_never_gives_a_number_twice() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let retention = Retention { entries: 100, age: Duration::from_secs(3600) };
    let mut given = 0;
    for round in 0..3 {
        let journal = Ledger::open_keeping(&path, retention).expect("opens").0.journal();
        for _ in 0..400 {
            journal.stage(entry("web", "k", "x")).expect("room");
        }
        journal.flush().await.expect("flushes");
        let page = read(&journal, ReadFrom::After(0), 1000).await;
        assert_eq!(page.newest, given + 400, "round {round}");
        given = page.newest;
        let kept = page.newest - page.first.expect("there are some") + 1;
        assert!((100..=100 + 129).contains(&kept), "{kept} are kept");
        assert_eq!(page.entries.len() as u64, kept, "without holes");
    }
}

#[tokio::test]
async fn age_removes_entries_but_a_clock_that_jumps_leaves_the_newest() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let retention = Retention { entries: 5_000, age: Duration::from_secs(60) };
    let journal = Ledger::open_keeping(&path, retention).expect("opens").0.journal();
    for n in 0..3_000 {
        journal.stage(Entry { at: n, ..entry("web", "k", "x") }).expect("room");
        if n % 500 == 0 {
            journal.flush().await.expect("flushes");
        }
    }
    journal.flush().await.expect("flushes");
    assert_eq!(read(&journal, ReadFrom::After(0), 1).await.first, Some(1));
    let much_later = 10_i64.pow(12);
    journal.stage(Entry { at: much_later, ..entry("web", "k", "x") }).expect("room");
    journal.flush().await.expect("flushes");
    let page = read(&journal, ReadFrom::After(0), 1).await;
    assert_eq!((page.first, page.newest), (Some(2_002), 3_001));
}

#[tokio::test]
async fn a_ledger_that_is_put_aside_does_not_bring_old_numbers_back() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    std::fs::write(&path, vec![0x5a_u8; 8192]).expect("writes garbage");
    let (ledger, opening) = Ledger::open(&path).expect("opens a fresh one");
    assert!(matches!(opening, Opening::Replaced { .. }));
    drop(ledger);
    // The numbers begin above those of before, even if nothing was written in between.
    let journal = open(&path);
    journal.stage(entry("", "k", "x")).expect("room");
    journal.flush().await.expect("flushes");
    let page = read(&journal, ReadFrom::After(0), 1).await;
    assert!(page.newest > 1_700_000_000, "{}", page.newest);
    assert_eq!(page.first, Some(page.newest));
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_holds_nobody_up_and_loses_nothing_it_took() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let journal = open(&path);
    let other = rusqlite::Connection::open(&path).expect("opens by hand");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks it");

    let mut taken = 0_u64;
    let begun = std::time::Instant::now();
    while journal.stage(entry("web", "k", &taken.to_string())).is_ok() {
        taken += 1;
        assert!(taken < 10_000, "the queue has a bound");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "staging waits for nothing");
    assert!(taken >= 1000, "{taken}");
    let refused = journal.flush().await.expect_err("it is locked");
    assert!(refused.to_string().contains("locked"), "{refused}");
    assert!(refused.is_retryable());

    other.execute_batch("ROLLBACK").expect("unlocks it");
    journal.flush().await.expect("flushes");
    let page = read(&journal, ReadFrom::After(0), 10_000).await;
    assert_eq!(page.newest, taken);
    let bodies = page.entries.iter().map(|found| found.entry.body.parse::<u64>());
    assert!(bodies.map(|body| body.expect("a number")).eq(0..taken), "in order, each once");
}

#[tokio::test]
#[ignore = "the other process of numbers_are_never_reused_over_kill_9"]
async fn child_that_stages_until_killed() {
    let path = std::env::var_os("BELAY_LEDGER_CHILD").expect("its parent says which file");
    let (ledger, _) = Ledger::open(path.as_ref()).expect("opens");
    let journal = ledger.journal();
    let newest = journal.newest();
    for n in 0_u64.. {
        journal.stage(entry("web", "k", &n.to_string())).expect("room");
        if n.is_multiple_of(3) {
            ledger.put("workload", "web", &n).await.expect("put");
        } else {
            journal.flush().await.expect("flushes");
        }
        let number = *newest.borrow();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {number} {n}").and_then(|()| out.flush()).expect("heard");
    }
}

#[tokio::test]
async fn numbers_are_never_reused_over_kill_9() {
    let dir = directory();
    let path = dir.path().join("belay.db");
    let mut told = 0;
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().expect("this test's own binary"))
            .args(["--exact", "child_that_stages_until_killed", "--ignored", "--nocapture"])
            .env("BELAY_LEDGER_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts a child");
        let mut heard = Vec::new();
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("reads the child");
            if let Some((_, rest)) = line.split_once("acknowledged ") {
                let (number, body) = rest.split_once(' ').expect("two numbers");
                heard.push((number.parse::<u64>().expect("a number"), body.to_owned()));
                if heard.len() == 9 * round {
                    break;
                }
            }
        }
        child.kill().expect("kills the child it started");
        child.wait().expect("reaps it");
        assert_eq!(heard[0].0, heard[0].0.max(told + 1), "no number comes twice");
        let journal = open(&path);
        let page = read(&journal, ReadFrom::After(0), 10_000).await;
        assert_eq!(numbers(&page), (1..=page.newest).collect::<Vec<_>>(), "without holes");
        for (number, body) in &heard {
            let at = usize::try_from(number - 1).expect("small");
            assert_eq!(page.entries[at].entry.body, *body, "what was told is kept as it was");
        }
        told = page.newest;
    }
}
