//! Telling and reading over a real ledger.

use std::path::Path;
use std::time::{Duration, Instant};

use belay_events::{EventLog, EventSink, EventsTask};
use belay_ledger::Ledger;
use belay_protocol::event::LossCause;
use belay_protocol::{
    EventDetails, EventKind, EventQuery, EventSeq, EventStart, EventSubject, Severity,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    ledger: Ledger,
    sink: EventSink,
    log: EventLog,
    task: JoinHandle<()>,
    ending: CancellationToken,
}

impl Node {
    fn start(directory: &TempDir) -> Self {
        let (ledger, _) = Ledger::open(&file(directory)).expect("opens");
        let ending = CancellationToken::new();
        let (sink, log, task) = EventsTask::spawn(&ledger, ending.clone());
        Self { ledger, sink, log, task, ending }
    }

    async fn read(&self, start: EventStart) -> belay_protocol::EventPage {
        let query = EventQuery { start, workload: None, kinds: Vec::new(), limit: 10_000 };
        self.log.read(&query).await.expect("reads")
    }

    /// Waits until so many events were numbered.
    async fn until(&self, newest: u64) {
        let mut tally = self.log.tally();
        let reached = tally.wait_for(|tally| tally.newest >= EventSeq::new(newest));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("event {newest} comes")).expect("the task goes on");
    }

    async fn end(self) {
        self.ending.cancel();
        self.task.await.expect("no panic");
    }
}

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("belay.db")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn failures(failures: u32) -> EventDetails {
    EventDetails::Recovered { failures }
}

fn after(number: u64) -> EventStart {
    EventStart::After(EventSeq::new(number))
}

#[tokio::test]
async fn what_is_told_is_read_with_its_number_and_survives_the_end() {
    let directory = directory();
    let node = Node::start(&directory);
    let web = "web".parse().expect("a name");
    node.sink.emit(&web, "web\nran well", failures(3));
    node.sink.emit_of_node("the disk is full", EventDetails::EngineLost { cause: "x".into() });
    node.until(2).await;
    let page = node.read(after(0)).await;
    assert_eq!((page.first, page.newest, page.gap), (Some(EventSeq::new(1)), page.next, None));
    assert_eq!(page.events[0].subject, EventSubject::Workload { workload: web });
    assert_eq!(page.events[0].message.as_str(), "web ran well");
    assert_eq!(page.events[0].details, failures(3));
    assert_eq!(page.events[1].severity, Severity::Alarm);
    let tally = node.log.tally().borrow().clone();
    assert_eq!(tally.told[&EventKind::Recovered], 1);
    // Told at the very end, and still written.
    node.sink.emit_of_node("belayd ends", EventDetails::BelaydStopping {});
    node.end().await;

    let node = Node::start(&directory);
    let again = node.read(after(1)).await;
    let numbers: Vec<_> = again.events.iter().map(|event| event.seq.get()).collect();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(again.events[0], page.events[1]);
    let last = node.read(EventStart::Last).await;
    assert_eq!(last.events.len(), 3);
    node.end().await;
}

#[tokio::test]
async fn an_event_told_before_a_record_is_on_the_disk_with_it() {
    let directory = directory();
    let node = Node::start(&directory);
    for round in 1..=20 {
        node.sink.emit_of_node("x", failures(1));
        node.ledger.put("workload", "web", &round).await.expect("put");
        assert_eq!(node.read(after(0)).await.newest.get(), round);
    }
    node.end().await;
}

#[tokio::test]
async fn a_number_of_a_lost_ledger_is_told_as_a_gap() {
    let directory = directory();
    let node = Node::start(&directory);
    node.sink.emit_of_node("x", failures(1));
    node.until(1).await;
    let page = node.read(after(500)).await;
    let gap = page.gap.expect("500 was never given");
    assert_eq!((gap.after.get(), gap.first.get()), (500, 1));
    assert_eq!(page.events.len(), 1, "everything that is there");
    assert_eq!(page.next.get(), 1);
    node.end().await;
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_holds_nobody_up_and_the_loss_is_told() {
    let directory = directory();
    let node = Node::start(&directory);
    let other = rusqlite::Connection::open(file(&directory)).expect("opens by hand");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks it");
    let begun = Instant::now();
    // Each of a subject of its own, so that none of them is too many.
    for n in 0..900_u32 {
        let workload = format!("w{n}").parse().expect("a name");
        for _ in 0..3 {
            node.sink.emit(&workload, "x", failures(n));
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    other.execute_batch("ROLLBACK").expect("unlocks it");

    let told = |page: &belay_protocol::EventPage| {
        page.events.iter().find_map(|event| match event.details {
            EventDetails::EventsLost { count, cause: LossCause::LedgerBehind } => Some(count),
            _ => None,
        })
    };
    let deadline = Instant::now() + PATIENCE;
    let (page, lost) = loop {
        let page = node.read(after(0)).await;
        if let Some(lost) = told(&page) {
            break (page, lost);
        }
        assert!(Instant::now() < deadline, "the loss is told once the ledger takes events again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let kept = page.events.len() as u64 - 1;
    assert_eq!(kept + lost, 2700, "each was kept or counted");
    assert!(kept >= 1024, "what fits the queue is kept: {kept}");
    let mut numbers = page.events.iter().map(|event| event.seq.get());
    assert!(numbers.by_ref().eq(1..=page.newest.get()), "without holes");
    assert_eq!(node.log.tally().borrow().lost, lost);
    node.end().await;
}

#[tokio::test]
async fn what_flaps_is_bounded_and_the_rest_is_counted() {
    let directory = directory();
    let node = Node::start(&directory);
    let web = "web".parse().expect("a name");
    for n in 0..1000 {
        node.sink.emit(&web, "x", failures(n));
    }
    node.until(121).await;
    let page = node.read(after(0)).await;
    let lost = page.events.iter().find_map(|event| match event.details {
        EventDetails::EventsLost { count, cause: LossCause::TooMany } => Some(count),
        _ => None,
    });
    assert_eq!(lost, Some(880));
    assert_eq!(page.events.len(), 121);
    node.end().await;
}

#[tokio::test]
async fn a_node_with_nothing_to_tell_writes_nothing() {
    let directory = directory();
    let node = Node::start(&directory);
    node.sink.emit_of_node("x", failures(1));
    node.until(1).await;
    let files = || written(directory.path());
    let before = files();
    // That nothing is written can only be seen by letting time pass.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(files(), before);
    node.end().await;
}

fn written(directory: &Path) -> Vec<(std::ffi::OsString, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("lists")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("metadata");
            (entry.file_name(), metadata.len(), metadata.modified().expect("a time"))
        })
        .collect();
    files.sort();
    files
}
