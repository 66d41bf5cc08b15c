//! What a node tells of itself: numbered, over kills, and to readers that do not read.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use belay_harness::{Node, NodeOptions, binary, free_port, until, web_spec};
use belay_protocol::event::{AskedVerb, LastEnd, VolumeMeasure};
use belay_protocol::{
    Event, EventDetails, EventKind, EventPage, VolumeLevel, WorkloadPhase, WorkloadStatus,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// A workload that does nothing on one volume.
fn idle(name: &str) -> String {
    format!(
        "name = \"{name}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
         command = [\"/bin/sleep\", \"100000\"]\n[ready]\ninterval = \"100ms\"\n\
         [volumes.data]\nsize = \"32M\"\nmount = \"/data\"\n"
    )
}

async fn all(node: &Node) -> Vec<Event> {
    node.client().events("after=0&limit=1000").await.expect("a page").events
}

async fn until_told(node: &Node, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    until(what, SOON, || async {
        let page = node.client().events("after=0&limit=1000").await?;
        if page.events.iter().any(&wanted) { Ok(page.events) } else { Err(format!("{page:?}")) }
    })
    .await
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq.get()).collect()
}

/// `belay events -f -o json`, whose output goes to files.
struct Follower {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Follower {
    fn start(node: &Node) -> Self {
        let (out, err) = (node.directory().join("followed"), node.directory().join("remarks"));
        let file = |path: &PathBuf| std::fs::File::create(path).expect("a file");
        let child = Command::new(binary("belay"))
            .env("BELAY_SOCKET", node.socket())
            .args(["events", "-f", "--after", "0", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("belay runs");
        Self { child, out, err }
    }

    fn events(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(&self.out).expect("a file");
        // The last line may be under way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    fn remarks(&self) -> String {
        std::fs::read_to_string(&self.err).expect("a file")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn events_are_followed_over_kills_without_a_gap_or_a_number_twice() {
    let mut node = Node::start(NodeOptions::default()).await;
    let follower = Follower::start(&node);
    for round in 1..=3 {
        let spec = idle(&format!("w{round}"));
        node.client().deploy(&spec, node.directory()).await.expect("deploys");
        // In the middle of what a stop tells.
        let client = node.client().clone();
        let name = format!("w{round}");
        let stopping = tokio::spawn(async move { client.act("stop", &name).await });
        until("the stop to be told", SOON, || async {
            let asked = |event: &Event| {
                event.details == EventDetails::Asked { verb: AskedVerb::Stop }
                    && event.subject.to_string() == format!("w{round}")
            };
            if follower.events().iter().any(asked) { Ok(()) } else { Err(follower.remarks()) }
        })
        .await;
        node.kill();
        let _ = stopping.await.expect("the caller lives");
        node.launch().await;
        node.client().wait_for(&format!("w{round}"), WorkloadPhase::Stopped, SOON).await;
    }
    node.client().act("start", "w1").await.expect("starts");
    let told = until_told(&node, "the start", |event| {
        event.details == EventDetails::Asked { verb: AskedVerb::Start }
    })
    .await;
    let last = told.last().expect("some").seq;
    until("the follower to come to the end", SOON, || async {
        let seen = follower.events().last().map(|event| event.seq);
        if seen >= Some(last) { Ok(()) } else { Err(format!("{seen:?} of {last}")) }
    })
    .await;

    let lines = follower.events();
    assert_eq!(numbers(&lines), (1..=lines.len() as u64).collect::<Vec<_>>());
    let kept = all(&node).await;
    let count = lines.len().min(kept.len());
    assert_eq!(lines[..count], kept[..count], "what was followed is what is kept");
    let ends: Vec<_> = kept
        .iter()
        .filter_map(|event| match &event.details {
            EventDetails::BelaydStarted { last_end, .. } => Some(*last_end),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [LastEnd::None, LastEnd::Killed, LastEnd::Killed, LastEnd::Killed]);
    let remarks = follower.remarks();
    assert_eq!(remarks.matches("belayd is away").count(), 3, "{remarks}");
    assert_eq!(remarks.matches("belayd is back; going on after event").count(), 3, "{remarks}");
    drop(follower);
    node.end().await;
}

fn belay(node: &Node, arguments: &[&str]) -> String {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .args(arguments)
        .output()
        .expect("belay runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn an_explanation_survives_belayd() {
    let mut node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("app"), node.directory()).await.expect("deploys");
    for _ in 0..4 {
        node.client().act("restart", "app").await.expect("restarts");
    }
    let before = belay(&node, &["explain", "app"]);
    assert!(before.contains("differs: nothing\n"), "{before}");
    node.terminate().await;
    node.launch().await;
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;

    let told = all(&node).await;
    let restarted = told
        .iter()
        .rfind(|event| event.details.kind() == EventKind::BelaydStarted)
        .expect("belayd is up");
    assert!(
        matches!(restarted.details, EventDetails::BelaydStarted { last_end: LastEnd::Orderly, .. }),
        "{restarted:?}"
    );
    let explained: Value =
        serde_json::from_str(&belay(&node, &["explain", "app", "-o", "json"])).expect("JSON");
    let workload: WorkloadStatus =
        serde_json::from_value(explained["workload"].clone()).expect("a workload");
    assert_eq!(workload.phase, WorkloadPhase::Ready);
    let transitions: Vec<Event> =
        serde_json::from_value(explained["transitions"].clone()).expect("events");
    assert_eq!(transitions.len(), 20, "as many as there are room for");
    assert!(transitions[0].seq < restarted.seq, "those of the belayd before are there");
    // Each begins where the one before ended; with a new belayd they begin at pending.
    for pair in transitions.windows(2) {
        let [
            Event { details: EventDetails::PhaseChanged { to, .. }, .. },
            Event { details: EventDetails::PhaseChanged { from, .. }, .. },
        ] = pair
        else {
            panic!("{pair:?}");
        };
        assert!(from == to || *from == WorkloadPhase::Pending, "{pair:?}");
    }
    let page = belay(&node, &["explain", "app"]);
    assert!(page.contains("an operator") || page.contains("it runs and is ready"), "{page}");
    let first = transitions[0].seq.to_string();
    assert!(page.lines().any(|line| line.starts_with(&format!("{first} "))), "{page}");
    node.end().await;
}

#[tokio::test]
async fn a_volume_that_fills_is_told_once_for_each_threshold() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("full"), node.directory()).await.expect("deploys");
    let data = node.volume("full", "data").await;
    let shown = node.client().volume("full", "data").await.expect("is listed");
    let usage = shown.usage.expect("it is mounted");
    let can_have = usage.used_bytes + usage.available_bytes;
    let fill_to = |percent: u64| {
        let size = usize::try_from(can_have * percent / 100 - usage.used_bytes).expect("small");
        std::fs::write(data.join("fill"), vec![1; size]).expect("writes");
    };
    let levels = |events: &[Event]| -> Vec<VolumeLevel> {
        events
            .iter()
            .filter(|event| event.subject.to_string() == "full/data")
            .filter_map(|event| match &event.details {
                EventDetails::VolumeLevelChanged {
                    of: VolumeMeasure::Bytes,
                    level,
                    percent,
                    ..
                } => {
                    let floor = match level {
                        VolumeLevel::Normal => 0,
                        VolumeLevel::Warning => 80,
                        VolumeLevel::Critical => 95,
                    };
                    assert!(*percent >= floor && *percent <= 100, "{event:?}");
                    Some(*level)
                }
                _ => None,
            })
            .collect()
    };
    fill_to(86);
    until_told(&node, "the warning", |event| {
        levels(std::slice::from_ref(event)) == [VolumeLevel::Warning]
    })
    .await;
    fill_to(97);
    until_told(&node, "the alarm", |event| {
        levels(std::slice::from_ref(event)) == [VolumeLevel::Critical]
    })
    .await;
    // Two more looks at the volumes must tell nothing: time itself has to pass for that.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(levels(&all(&node).await), [VolumeLevel::Warning, VolumeLevel::Critical]);

    std::fs::remove_file(data.join("fill")).expect("is there");
    let told = until_told(&node, "the relief", |event| {
        levels(std::slice::from_ref(event)) == [VolumeLevel::Normal]
    })
    .await;
    assert_eq!(levels(&told).len(), 3);
    let metrics = node.client().metrics().await.expect("answers");
    let counted = "belay_events_total{kind=\"volume-level-changed\"} 3";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    assert!(metrics.lines().any(|line| line == "belay_events_lost_total 0"), "{metrics}");
    node.end().await;
}

#[tokio::test]
async fn a_crash_is_told_with_its_code_and_what_follows() {
    use EventKind::{Asked, BackingOff, Crashed, DeployBegun, DeployReady};
    let node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"frail\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
                command = [\"/bin/sh\", \"-c\", \"sleep 3; exit 7\"]\n[ready]\ninterval = \"100ms\"\n";
    node.client().deploy(spec, node.directory()).await.expect("deploys");
    let page = until("the back-off", SOON, || async {
        let page: EventPage = node.client().events("last=100&workload=frail").await?;
        let waits =
            |event: &Event| matches!(event.details, EventDetails::BackingOff { failures: 2, .. });
        if page.events.iter().any(waits) { Ok(page) } else { Err(format!("{page:?}")) }
    })
    .await;
    let kinds: Vec<_> = page
        .events
        .iter()
        .map(|event| event.details.kind())
        .filter(|kind| *kind != EventKind::PhaseChanged)
        .collect();
    assert_eq!(
        kinds[..7],
        [Asked, DeployBegun, DeployReady, Crashed, BackingOff, Crashed, BackingOff],
        "{page:?}"
    );
    let crashed = page.events.iter().find(|event| event.details.kind() == Crashed);
    assert_eq!(
        crashed.expect("it crashed").details,
        EventDetails::Crashed { exit_code: 7, out_of_memory: false }
    );
    let query = "last=100&workload=frail&kind=phase-changed";
    let phases = node.client().events(query).await.expect("a page");
    let backs_off = |event: &Event| {
        matches!(event.details, EventDetails::PhaseChanged { to: WorkloadPhase::BackOff, .. })
    };
    assert!(phases.events.iter().filter(|event| backs_off(event)).count() >= 2);
    node.end().await;
}

#[tokio::test]
async fn readers_that_never_read_hold_nobody_up() {
    let node = Node::start(NodeOptions::default()).await;
    let mut dead = Vec::new();
    for _ in 0..40 {
        let mut stream = UnixStream::connect(node.socket()).expect("connects");
        let head =
            "GET /v1/events?after=0 HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("asks");
        dead.push(stream);
    }
    let port = free_port();
    node.client().deploy(&web_spec(port, "one"), node.directory()).await.expect("deploys");
    node.client().deploy(&web_spec(port, "two"), node.directory()).await.expect("deploys again");
    let asked = Instant::now();
    let page = node.client().events("last=1").await.expect("a page");
    node.client().status().await.expect("a status");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert!(page.newest.get() > 10);
    let begun =
        all(&node).await.iter().filter(|e| e.details.kind() == EventKind::DeployBegun).count();
    assert_eq!(begun, 2);
    drop(dead);
    node.end().await;
}

#[tokio::test]
async fn an_idle_node_writes_nothing_to_its_ledger() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("calm"), node.directory()).await.expect("deploys");
    until_told(&node, "that it is up", |event| event.details.kind() == EventKind::DeployReady)
        .await;
    let written = || -> Vec<(u64, SystemTime)> {
        ["state/belay.db", "state/belay.db-wal"]
            .map(|name| {
                let metadata = std::fs::metadata(node.directory().join(name)).expect("is there");
                (metadata.len(), metadata.modified().expect("a time"))
            })
            .to_vec()
    };
    let before = written();
    let newest = node.client().events("last=1").await.expect("a page").newest;
    // Longer than every round that belayd makes by itself; only time can show that none writes.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(written(), before);
    assert_eq!(node.client().events("last=1").await.expect("a page").newest, newest);
    node.end().await;
}
