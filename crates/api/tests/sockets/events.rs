//! Events over both listeners, with the log played by the test.

use std::time::{Duration, Instant};

use belay_api::ReadEvents;
use belay_protocol::{
    Event, EventDetails, EventGap, EventPage, EventQuery, EventSeq, EventStart, EventSubject,
    EventTally, ProblemCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::node::TestNode;
use crate::problem;

const PATIENCE: Duration = Duration::from_secs(20);

fn event(number: u64) -> Event {
    let details = EventDetails::EngineLost { cause: "x".repeat(400).into() };
    Event {
        seq: EventSeq::new(number),
        at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        severity: details.severity(),
        subject: EventSubject::Node,
        message: "the engine is away".into(),
        details,
    }
}

/// A log of the events `first` to `newest`; hands back what it was asked.
fn serve(
    mut reads: mpsc::Receiver<ReadEvents>,
    first: u64,
    newest: u64,
) -> JoinHandle<Vec<EventQuery>> {
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(ReadEvents { query, reply }) = reads.recv().await {
            let after = match query.start {
                EventStart::After(after) => after.get(),
                EventStart::Last => newest.saturating_sub(query.limit as u64),
            };
            let missing = after + 1 < first;
            let begin = if missing { first } else { after + 1 };
            let events: Vec<_> = (begin..=newest).take(query.limit).map(event).collect();
            let next = events.last().map_or(EventSeq::new(newest), |event| event.seq);
            let gap = missing
                .then(|| EventGap { after: EventSeq::new(after), first: EventSeq::new(first) });
            let (first, newest) = (Some(EventSeq::new(first)), EventSeq::new(newest));
            let _ = reply.send(Ok(EventPage { first, newest, gap, events, next }));
            asked.push(query);
        }
        asked
    })
}

#[tokio::test]
async fn a_page_of_events_is_read_on_both_listeners() {
    let mut node = TestNode::start().await;
    let log = serve(node.event_reads(), 3, 40);
    for base in [node.unix(), node.tcp()] {
        let page: EventPage =
            base.get("/v1/events?after=1&limit=2").await.json().await.expect("a page");
        assert_eq!(page.events, [event(3), event(4)]);
        assert_eq!(page.gap.map(|gap| gap.first.get()), Some(3));
        assert_eq!(page.next.get(), 4);
        let page: EventPage = base.get("/v1/events?last=5").await.json().await.expect("a page");
        assert_eq!(page.events.len(), 5);
        problem(base.get("/v1/events?kind=boom").await, ProblemCode::InvalidRequest).await;
    }
    let filtered = node.unix().get("/v1/events?workload=web&kind=crashed&kind=halted").await;
    assert!(filtered.status().is_success());
    node.end().await;
    let asked = log.await.expect("no panic");
    let last = asked.last().expect("asked");
    assert_eq!(last.start, EventStart::Last);
    assert_eq!(last.workload.as_ref().map(belay_protocol::WorkloadName::as_str), Some("web"));
    assert_eq!(last.kinds.len(), 2);
}

/// Reads from a raw connection until `wanted` is there.
async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    let read = async {
        while !text.contains(wanted) {
            let count = stream.read(&mut piece).await.expect("reads");
            assert!(count > 0, "{wanted:?} is not in {text}");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{wanted:?} comes"));
    text
}

async fn ask_for_stream(node: &TestNode, path: &str, header: &str) -> UnixStream {
    let mut stream = UnixStream::connect(node.socket()).await.expect("connects");
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{header}\r\n");
    stream.write_all(head.as_bytes()).await.expect("asks");
    stream
}

#[tokio::test]
async fn a_stream_tells_gaps_and_events_with_their_numbers_and_is_resumed() {
    let mut node = TestNode::start().await;
    let log = serve(node.event_reads(), 3, 5);
    node.set_tally(EventTally { newest: EventSeq::new(5), ..EventTally::default() });
    let mut stream = ask_for_stream(&node, "/v1/events?after=1", "").await;
    let text = read_until(&mut stream, "id: 5\n").await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let gap = text.find("event: gap\nid: 2\ndata: {\"after\":1,\"first\":3}").expect("a gap");
    let event = text.find("id: 3\ndata: {\"seq\":3,").expect("an event");
    assert!(gap < event);
    drop(stream);

    // As a browser comes back: the address of before, and the number that it read last.
    let mut stream = ask_for_stream(&node, "/v1/events?after=1", "last-event-id: 4\r\n").await;
    let text = read_until(&mut stream, "id: 5\n").await;
    assert!(!text.contains("id: 4\n") && !text.contains("gap"), "{text}");
    drop(stream);

    let mut stream = ask_for_stream(&node, "/v1/events", "").await;
    let text = read_until(&mut stream, ": alive\nid: 5\n").await;
    assert!(!text.contains("data:"), "only what comes from now on: {text}");
    drop(stream);

    let mut stream = ask_for_stream(&node, "/v1/events?limit=5", "").await;
    read_until(&mut stream, "a stream of events has no limit").await;
    drop(stream);
    node.end().await;
    log.await.expect("no panic");
}

#[tokio::test]
async fn a_reader_that_never_reads_is_cut_and_nobody_else_notices() {
    let mut node = TestNode::start().await;
    // Half a GiB of events, which no buffer takes.
    let newest = 1_000_000;
    let log = serve(node.event_reads(), 1, newest);
    node.set_tally(EventTally { newest: EventSeq::new(newest), ..EventTally::default() });
    let mut dead = ask_for_stream(&node, "/v1/events?after=0", "").await;

    // The others are served until it is cut, which is seen from here without reading.
    let begun = Instant::now();
    let mut served = 0;
    while !dead.ready(Interest::READABLE).await.expect("is polled").is_read_closed() {
        for path in ["/v1/status", "/v1/events?last=2"] {
            let node = node.unix();
            let answer = tokio::time::timeout(PATIENCE, node.get(path)).await;
            assert!(answer.expect("is answered").status().is_success());
        }
        served += 1;
        assert!(begun.elapsed() < PATIENCE, "it is not cut");
        // Nobody tells when a peer stops waiting.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(served > 1, "{served} times the others were served");

    // What is left in the buffers is read, and then it ends.
    let mut left = Vec::new();
    let read = tokio::time::timeout(PATIENCE, dead.read_to_end(&mut left)).await;
    // A connection that is cut may be reset instead of closed.
    let _ = read.expect("it ends");
    assert!(left.len() < 4 << 20, "{} bytes were held for it", left.len());
    node.end().await;
    let asked = log.await.expect("no panic");
    let for_it = asked.iter().filter(|query| query.start != EventStart::Last).count();
    assert!(for_it < 200, "{for_it} pages were read for a client that reads nothing");
}
