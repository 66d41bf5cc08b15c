//! The API over a real Unix socket and a real TCP port, with belayd's side of the channels played
//! by the test.

mod events;
mod node;
mod runs;
mod upload;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use belay_api::{BindError, Command, bind_tcp, bind_unix};
use belay_protocol::{
    BreakMode, CheckMode, CheckRequest, ContentRule, DependantsRule, DeployRequest, GrowRequest,
    HistoryEntry, LockState, LockStatus, LogLine, LogQuery, LogStream, NodeReadiness, NodeStatus,
    Operation, OperationEvent, OperationOutcome, OperationProgress, PROBLEM_MEDIA_TYPE, Problem,
    ProblemCode, PublishAllRequest, PublishRequest, PublishTarget, RollbackRequest, SyncAct,
    SyncRollbackRequest, SyncStatus, VolumeAct, VolumeFate, VolumeStatus, WorkloadStatus,
};
use futures_util::StreamExt;
use node::{TestNode, quick_limits, status};
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

fn progress(step: &str) -> OperationEvent {
    OperationEvent::Progress(OperationProgress {
        step: step.to_owned(),
        detail: "detail".to_owned(),
        done_bytes: Some(1),
        total_bytes: Some(2),
    })
}

fn done() -> OperationEvent {
    OperationEvent::Done(OperationOutcome { summary: "web is ready".to_owned(), publish: None })
}

fn line(text: &str) -> LogLine {
    LogLine { stream: LogStream::Stdout, at: None, text: text.to_owned(), container: None }
}

async fn problem(response: reqwest::Response, code: ProblemCode) -> Problem {
    assert_eq!(response.status().as_u16(), code.status());
    let kind = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
    assert_eq!(kind, PROBLEM_MEDIA_TYPE);
    let problem: Problem = response.json().await.expect("a problem document");
    assert_eq!(problem.code, code, "{}", problem.detail);
    problem
}

#[tokio::test]
async fn both_listeners_answer_the_same_questions() {
    let node = TestNode::start().await;
    for base in [node.unix(), node.tcp()] {
        let whole: NodeStatus = base.get("/v1/status").await.json().await.expect("status");
        assert_eq!(whole, status());
        let workloads: Vec<WorkloadStatus> =
            base.get("/v1/workloads").await.json().await.expect("workloads");
        assert_eq!(workloads, status().workloads);
        let web: WorkloadStatus = base.get("/v1/workloads/web").await.json().await.expect("web");
        assert_eq!(web, status().workloads[0]);
        let volumes: Vec<VolumeStatus> =
            base.get("/v1/volumes").await.json().await.expect("volumes");
        assert_eq!(volumes, status().volumes);
        let sync: std::collections::BTreeMap<String, SyncStatus> =
            base.get("/v1/sync").await.json().await.expect("sync");
        assert_eq!(Some(&sync["web"]), status().workloads[0].sync.as_ref());
        assert_eq!(sync.len(), 1, "a workload without volume-sync is not on the page");
        let health = base.get("/healthz").await;
        assert_eq!(health.headers()["cache-control"], "no-store");
        let health: serde_json::Value = health.json().await.expect("health");
        assert_eq!(health["state"], "alive");
        assert_eq!(health["node"], "north");
    }
    node.end().await;
}

#[tokio::test]
async fn readiness_follows_the_watched_status() {
    let node = TestNode::start().await;
    let ready = node.unix().get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::OK);
    node.set_ready(NodeReadiness::NotReady { reason: "the engine is away".to_owned() });
    let not_ready = node.unix().get("/readyz").await;
    assert_eq!(problem(not_ready, ProblemCode::NodeNotReady).await.detail, "the engine is away");
    node.end().await;
}

#[tokio::test]
async fn unknown_pages_names_and_methods_are_problems() {
    let node = TestNode::start().await;
    let unix = node.unix();
    problem(unix.get("/v1/nothing").await, ProblemCode::NoSuchResource).await;
    let absent = problem(unix.get("/v1/workloads/wob").await, ProblemCode::NoSuchWorkload).await;
    assert!(absent.detail.contains("it has web"), "{}", absent.detail);
    problem(unix.get("/v1/workloads/W%20b").await, ProblemCode::InvalidRequest).await;
    problem(unix.send(Method::PATCH, "/v1/status").await, ProblemCode::MethodNotAllowed).await;
    problem(unix.get("/v1/workloads/web/logs?tail=x").await, ProblemCode::InvalidRequest).await;
    let fate = unix.send(Method::DELETE, "/v1/workloads/web?volumes=all").await;
    problem(fate, ProblemCode::InvalidRequest).await;
    node.end().await;
}

/// Operations about who publishes.
fn publishers() -> [(Method, &'static str, Vec<u8>, Operation); 2] {
    let workload = "web".parse().expect("a name");
    let takeover = "/v1/workloads/web/sync/takeover";
    [
        (Method::POST, takeover, vec![], Operation::Takeover { workload }),
        (Method::POST, "/v1/sync/keygen", vec![], Operation::SigningKey),
    ]
}

/// Operations on volume-sync that say nothing but what to do.
fn sync_acts() -> [(Method, &'static str, Vec<u8>, Operation); 3] {
    [
        ("/v1/workloads/web/sync/pause", SyncAct::Pause),
        ("/v1/workloads/web/sync/resume", SyncAct::Resume),
        ("/v1/workloads/web/sync/apply", SyncAct::Apply),
    ]
    .map(|(path, act)| {
        let workload = "web".parse().expect("a name");
        (Method::POST, path, vec![], Operation::Sync { workload, act })
    })
}

#[tokio::test]
async fn every_operation_reaches_belayd_as_it_was_asked_for() {
    let mut node = TestNode::start().await;
    let web = || "web".parse().expect("a name");
    let deploy = DeployRequest {
        spec: "name = \"web\"".to_owned(),
        file: "web.toml".to_owned(),
        directory: "/etc/belay".to_owned(),
    };
    let publish = PublishRequest {
        archive_paths: vec!["/data".to_owned()],
        metadata: [("v".to_owned(), serde_json::json!(1))].into(),
    };
    let target = PublishTarget { workload: web(), request: publish.clone() };
    let publish_all = PublishAllRequest { targets: vec![target] };
    let publish_all_body = serde_json::to_vec(&publish_all).expect("plain data");
    let deploy_body = serde_json::to_vec(&deploy).expect("plain data");
    let publish_body = serde_json::to_vec(&publish).expect("plain data");
    let cases = [
        (Method::POST, "/v1/workloads", deploy_body, Operation::Deploy(deploy)),
        (
            Method::POST,
            "/v1/workloads/web/start",
            vec![],
            Operation::Start { workload: web(), content: ContentRule::Await },
        ),
        (
            Method::POST,
            "/v1/workloads/web/start?content=ignore",
            vec![],
            Operation::Start { workload: web(), content: ContentRule::Ignore },
        ),
        (Method::POST, "/v1/workloads/web/stop", vec![], Operation::Stop { workload: web() }),
        (Method::POST, "/v1/workloads/web/restart", vec![], Operation::Restart { workload: web() }),
        (
            Method::DELETE,
            "/v1/workloads/web/env",
            vec![],
            Operation::ClearOverrides { workload: web() },
        ),
        (
            Method::DELETE,
            "/v1/workloads/web",
            vec![],
            Operation::Remove {
                workload: web(),
                volumes: VolumeFate::Keep,
                dependants: DependantsRule::Refuse,
            },
        ),
        (
            Method::DELETE,
            "/v1/workloads/web?volumes=delete&dependants=ignore",
            vec![],
            Operation::Remove {
                workload: web(),
                volumes: VolumeFate::Delete,
                dependants: DependantsRule::Ignore,
            },
        ),
        (
            Method::POST,
            "/v1/workloads/web/sync/publish",
            publish_body,
            Operation::Publish { workload: web(), request: publish },
        ),
        (
            Method::POST,
            "/v1/workloads/web/lock/break",
            br#"{"mode": "force"}"#.to_vec(),
            Operation::BreakLock { workload: web(), mode: BreakMode::Force },
        ),
        (
            Method::POST,
            "/v1/workloads/web/sync/rollback",
            b"{}".to_vec(),
            Operation::Sync {
                workload: web(),
                act: SyncAct::Rollback(SyncRollbackRequest { cid: None }),
            },
        ),
        (Method::POST, "/v1/sync/publish", publish_all_body, Operation::PublishAll(publish_all)),
    ];
    for (method, path, body, expected) in cases.into_iter().chain(publishers()).chain(sync_acts()) {
        let client = node.unix();
        let asked = tokio::spawn(async move { client.send_body(method, path, body).await });
        let Command::Operate { operation, events, .. } = node.command().await else {
            panic!("{path} is an operation");
        };
        assert_eq!(operation, expected);
        events.send(done()).await.expect("the API reads");
        let response = asked.await.expect("no panic");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let text = response.text().await.expect("a body");
        let event: OperationEvent = serde_json::from_str(&text).expect("one event");
        assert_eq!(event, done());
    }
    node.end().await;
}

#[tokio::test]
async fn each_event_is_sent_before_the_next_one_exists() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let asked =
        tokio::spawn(async move { client.send(Method::POST, "/v1/workloads/web/start").await });
    let Command::Operate { events, .. } = node.command().await else { panic!("an operation") };
    events.send(progress("one")).await.expect("the API reads");
    let mut body = asked.await.expect("no panic").bytes_stream();
    for (seen, next) in [(progress("one"), progress("two")), (progress("two"), done())] {
        let chunk = body.next().await.expect("a line").expect("the stream holds");
        assert_eq!(chunk.last(), Some(&b'\n'));
        assert_eq!(serde_json::from_slice::<OperationEvent>(&chunk).expect("an event"), seen);
        events.send(next).await.expect("the API reads");
    }
    let last = body.next().await.expect("a line").expect("the stream holds");
    assert_eq!(serde_json::from_slice::<OperationEvent>(&last).expect("an event"), done());
    assert!(body.next().await.is_none(), "the answer ends with the operation");
    node.end().await;
}

#[tokio::test]
async fn every_act_on_a_volume_reaches_belayd_as_it_was_asked_for() {
    let mut node = TestNode::start().await;
    let rollback = |generation: Option<&str>| {
        VolumeAct::Rollback(RollbackRequest { generation: generation.map(str::to_owned) })
    };
    for (method, page, body, act) in [
        (
            Method::POST,
            "/grow",
            r#"{"size":"64M"}"#,
            VolumeAct::Grow(GrowRequest { size: "64M".to_owned() }),
        ),
        (
            Method::POST,
            "/check",
            r#"{"mode":"repair"}"#,
            VolumeAct::Check(CheckRequest { mode: CheckMode::Repair }),
        ),
        (Method::POST, "/reset", "", VolumeAct::Reset),
        (Method::POST, "/rollback", "{}", rollback(None)),
        (Method::POST, "/rollback", r#"{"generation":"before"}"#, rollback(Some("before"))),
        (Method::POST, "/adopt", "", VolumeAct::Adopt),
        (Method::POST, "/trim", "", VolumeAct::Trim),
        (Method::DELETE, "", "", VolumeAct::Remove),
    ] {
        let client = node.unix();
        let path = format!("/v1/volumes/web/data{page}");
        let body = body.as_bytes().to_vec();
        let asked = tokio::spawn(async move { client.send_body(method, &path, body).await });
        let Command::Operate { operation, events, .. } = node.command().await else {
            panic!("an operation")
        };
        let (workload, volume) = ("web".parse().expect("a name"), "data".parse().expect("a name"));
        assert_eq!(operation, Operation::Volume { workload, volume, act });
        events.send(done()).await.expect("the API reads");
        assert_eq!(asked.await.expect("no panic").status(), StatusCode::OK);
    }
    node.end().await;
}

#[tokio::test]
async fn a_volume_that_is_named_wrongly_or_not_there_is_a_problem() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let found: VolumeStatus =
        unix.get("/v1/volumes/web/data").await.json().await.expect("a volume");
    assert_eq!(found, status().volumes[0]);
    let absent = problem(unix.get("/v1/volumes/web/dat").await, ProblemCode::NoSuchVolume).await;
    assert!(absent.detail.contains("it has web/data"), "{}", absent.detail);
    let long = "x".repeat(300);
    for (name, words) in [
        ("..%2f..%2fetc", "is not a volume name"),
        ("a.b", "is not a volume name"),
        ("Data", "is not a volume name"),
        ("%20", "is not a volume name"),
        (long.as_str(), "at most 63 characters, this one has 300"),
    ] {
        for (method, page) in [(Method::POST, "/reset"), (Method::DELETE, "")] {
            let path = format!("/v1/volumes/web/{name}{page}");
            let refused =
                problem(unix.send(method, &path).await, ProblemCode::InvalidRequest).await;
            assert!(refused.detail.contains(words), "{}", refused.detail);
        }
    }
    for (page, body) in [
        ("grow", ""),
        ("grow", r#"{"size":5}"#),
        ("grow", r#"{"size":"5M","force":true}"#),
        ("check", r#"{"mode":"guess"}"#),
        ("rollback", r#"{"generaton":"x"}"#),
    ] {
        let path = format!("/v1/volumes/web/data/{page}");
        let refused = unix.send_body(Method::POST, &path, body.as_bytes().to_vec()).await;
        problem(refused, ProblemCode::InvalidRequest).await;
    }
    assert!(node.no_command(), "nothing of it reached belayd");
    node.end().await;
}

#[tokio::test]
async fn both_listeners_show_the_metrics() {
    let node = TestNode::start().await;
    for base in [node.unix(), node.tcp()] {
        let answer = base.get("/metrics").await;
        assert_eq!(answer.status(), StatusCode::OK);
        let kind = answer.headers()["content-type"].to_str().expect("ASCII").to_owned();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        let page = answer.text().await.expect("a page");
        let line = r#"belay_volume_size_bytes{workload="web",volume="data"} 1024"#;
        assert!(page.lines().any(|found| found == line), "{page}");
    }
    node.end().await;
}

#[tokio::test]
async fn an_operation_refused_at_once_is_a_problem_and_one_that_fails_later_a_last_line() {
    let mut node = TestNode::start().await;
    let refusal = || Problem::new(ProblemCode::NotRunning, "web is stopped", "belay start web");
    for with_progress in [false, true] {
        let client = node.unix();
        let asked =
            tokio::spawn(async move { client.send(Method::POST, "/v1/workloads/web/stop").await });
        let Command::Operate { events, .. } = node.command().await else { panic!("an operation") };
        if with_progress {
            events.send(progress("stop")).await.expect("the API reads");
        }
        events.send(OperationEvent::Failed(refusal())).await.expect("the API reads");
        let response = asked.await.expect("no panic");
        if with_progress {
            assert_eq!(response.status(), StatusCode::OK);
            let text = response.text().await.expect("a body");
            let last = text.lines().last().expect("a line");
            let event: OperationEvent = serde_json::from_str(last).expect("an event");
            assert_eq!(event, OperationEvent::Failed(refusal()));
        } else {
            assert_eq!(problem(response, ProblemCode::NotRunning).await, refusal());
        }
    }
    node.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_nothing() {
    let mut node = TestNode::start().await;
    let mut stream = UnixStream::connect(node.socket()).await.expect("connects");
    stream
        .write_all(b"POST /v1/workloads/web/start HTTP/1.1\r\nHost: belay\r\n\r\n")
        .await
        .expect("writes");
    let Command::Operate { events, .. } = node.command().await else { panic!("an operation") };
    events.send(progress("one")).await.expect("the API reads");
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.expect("the answer began");
    drop(stream);
    for _ in 0..500 {
        events.send(progress("more")).await.expect("the API reads on without the client");
    }
    events.send(done()).await.expect("the API reads on without the client");
    node.end().await;
}

#[tokio::test]
async fn a_wrong_body_is_told_what_is_wrong_with_it() {
    let node = TestNode::start().await;
    let unix = node.unix();
    for (body, words) in [
        (&b"{"[..], "EOF"),
        (br#"{"spec":"","file":"","directory":"","force":true}"#, "unknown field `force`"),
        (br#"{"spec":""}"#, "missing field `file`"),
    ] {
        let response = unix.send_body(Method::POST, "/v1/workloads", body.to_vec()).await;
        let refused = problem(response, ProblemCode::InvalidRequest).await;
        assert!(refused.detail.contains(words), "{}", refused.detail);
    }
    let long = vec![b' '; 1024 * 1024 + 1];
    let response = unix.send_body(Method::POST, "/v1/workloads", long).await;
    problem(response, ProblemCode::RequestTooLarge).await;
    node.end().await;
}

#[tokio::test]
async fn logs_come_in_order_and_end_with_the_log() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let asked =
        tokio::spawn(async move { client.get("/v1/workloads/web/logs?follow&tail=5").await });
    let Command::Logs { workload, query, reply } = node.command().await else { panic!("logs") };
    assert_eq!(workload.as_str(), "web");
    let wanted =
        LogQuery { follow: true, tail: Some(5), since: None, previous: false, resume: None };
    assert_eq!(query, wanted);
    let (lines, receiver) = tokio::sync::mpsc::channel(4);
    reply.send(Ok(receiver)).expect("the API waits");
    for text in ["one", "two"] {
        lines.send(line(text)).await.expect("the API reads");
    }
    drop(lines);
    let text = asked.await.expect("no panic").text().await.expect("a body");
    let read: Vec<LogLine> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(read, [line("one"), line("two")]);
    node.end().await;
}

#[tokio::test]
async fn a_followed_log_ends_at_shutdown_and_holds_no_drain_up() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let asked = tokio::spawn(async move { client.get("/v1/workloads/web/logs?follow").await });
    let Command::Logs { reply, .. } = node.command().await else { panic!("logs") };
    let (lines, receiver) = tokio::sync::mpsc::channel(4);
    reply.send(Ok(receiver)).expect("the API waits");
    let mut body = asked.await.expect("no panic").bytes_stream();
    lines.send(line("one")).await.expect("the API reads");
    let first = body.next().await.expect("a line").expect("the stream holds");
    assert_eq!(serde_json::from_slice::<LogLine>(&first).expect("a line"), line("one"));
    let report = node.end().await;
    assert_eq!(report.cut, 0);
    assert!(body.next().await.is_none(), "an orderly end");
    assert!(lines.is_closed());
}

#[tokio::test]
async fn refused_logs_and_histories_are_problems() {
    let mut node = TestNode::start().await;
    let absent = || Problem::new(ProblemCode::NoSuchWorkload, "no x", "belay ps");
    let client = node.unix();
    let asked = tokio::spawn(async move { client.get("/v1/workloads/x/logs").await });
    let Command::Logs { reply, .. } = node.command().await else { panic!("logs") };
    reply.send(Err(absent())).expect("the API waits");
    problem(asked.await.expect("no panic"), ProblemCode::NoSuchWorkload).await;

    let client = node.unix();
    let asked = tokio::spawn(async move { client.get("/v1/workloads/x/sync/history").await });
    let Command::History { reply, .. } = node.command().await else { panic!("history") };
    drop(reply);
    problem(asked.await.expect("no panic"), ProblemCode::ShuttingDown).await;
    node.end().await;
}

#[tokio::test]
async fn a_caller_says_how_long_it_waits() {
    let mut node = TestNode::start().await;
    for (method, path, seconds) in [
        (Method::POST, "/v1/workloads/web/stop", None),
        (Method::POST, "/v1/workloads/web/stop?wait=0", Some(0)),
        (Method::POST, "/v1/workloads/web/start?wait=90", Some(90)),
        (Method::DELETE, "/v1/workloads/web?volumes=keep&wait=7", Some(7)),
        (Method::POST, "/v1/volumes/web/data/trim?wait=5", Some(5)),
        (Method::DELETE, "/v1/volumes/web/data?wait=5", Some(5)),
    ] {
        let client = node.unix();
        let asked = tokio::spawn(async move { client.send(method, path).await });
        let Command::Operate { wait, events, .. } = node.command().await else {
            panic!("{path} is an operation");
        };
        assert_eq!(wait, seconds.map(Duration::from_secs), "{path}");
        events.send(done()).await.expect("the API reads");
        assert_eq!(asked.await.expect("no panic").status(), StatusCode::OK);
    }
    for wrong in ["stop?wait=x", "stop?wait=-1", "stop?wait=86401", "stop?waits=1"] {
        let path = format!("/v1/workloads/web/{wrong}");
        let refused = node.unix().send(Method::POST, &path).await;
        problem(refused, ProblemCode::InvalidRequest).await;
    }
    assert!(node.no_command(), "nothing of it reached belayd");
    node.end().await;
}

#[tokio::test]
async fn the_locks_are_passed_on() {
    let mut node = TestNode::start().await;
    let lock = LockStatus {
        lock: "workload web".to_owned(),
        workload: Some("web".parse().expect("a name")),
        state: LockState::Foreign,
        holder: None,
        line: "pid 7, which has not said what it does".to_owned(),
    };
    let client = node.unix();
    let asked = tokio::spawn(async move { client.get("/v1/locks").await });
    let Command::Locks { reply } = node.command().await else { panic!("locks") };
    reply.send(Ok(vec![lock.clone()])).expect("the API waits");
    let read: Vec<LockStatus> = asked.await.expect("no panic").json().await.expect("locks");
    assert_eq!(read, [lock]);
    node.end().await;
}

#[tokio::test]
async fn a_history_is_passed_on() {
    let mut node = TestNode::start().await;
    let entry = HistoryEntry {
        direction: "sent".to_owned(),
        cid: belay_protocol::Cid::from_digest([1; 32]),
        version: 7,
        at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        node: "north".to_owned(),
        signer: Some(belay_protocol::PublisherKey::from_bytes([1; 32])),
        bytes: 12,
        archive_paths: vec!["/data".to_owned()],
        file: "/var/lib/belay/x.json".to_owned(),
    };
    let client = node.unix();
    let asked = tokio::spawn(async move { client.get("/v1/workloads/web/sync/history").await });
    let Command::History { reply, .. } = node.command().await else { panic!("history") };
    reply.send(Ok(vec![entry.clone()])).expect("the API waits");
    let read: Vec<HistoryEntry> = asked.await.expect("no panic").json().await.expect("the entries");
    assert_eq!(read, [entry]);
    node.end().await;
}

#[tokio::test]
async fn commands_after_the_end_of_belayds_queue_are_refused() {
    let mut node = TestNode::start().await;
    node.close_commands();
    let start = node.unix().send(Method::POST, "/v1/workloads/web/start").await;
    problem(start, ProblemCode::ShuttingDown).await;
    let history = node.unix().get("/v1/workloads/web/sync/history").await;
    problem(history, ProblemCode::ShuttingDown).await;
    node.end().await;
}

#[tokio::test]
async fn the_tcp_port_changes_nothing_and_shows_no_logs() {
    let mut node = TestNode::start().await;
    let tcp = node.tcp();
    for (method, path) in [
        (Method::POST, "/v1/workloads"),
        (Method::DELETE, "/v1/workloads/web"),
        (Method::POST, "/v1/workloads/web/start"),
        (Method::POST, "/v1/workloads/web/stop"),
        (Method::POST, "/v1/workloads/web/restart"),
        (Method::POST, "/v1/workloads/web/sync/publish"),
        (Method::POST, "/v1/sync/publish"),
        (Method::POST, "/v1/sync/keygen"),
        (Method::POST, "/v1/workloads/web/sync/takeover"),
        (Method::GET, "/v1/workloads/web/sync/history"),
        (Method::GET, "/v1/workloads/web/logs"),
        (Method::GET, "/v1/locks"),
        (Method::POST, "/v1/workloads/web/lock/break"),
        (Method::POST, "/v1/volumes/web/data/grow"),
        (Method::POST, "/v1/volumes/web/data/check"),
        (Method::POST, "/v1/volumes/web/data/reset"),
        (Method::POST, "/v1/volumes/web/data/rollback"),
        (Method::POST, "/v1/volumes/web/data/adopt"),
        (Method::POST, "/v1/volumes/web/data/trim"),
        (Method::DELETE, "/v1/volumes/web/data"),
        (Method::POST, "/v1/nothing"),
        (Method::PUT, "/v1/status"),
    ] {
        problem(tcp.send(method, path).await, ProblemCode::ReadOnlyListener).await;
    }
    problem(tcp.get("/v1/nothing").await, ProblemCode::NoSuchResource).await;
    assert!(node.no_command(), "nothing of it reached belayd");
    node.end().await;
}

#[tokio::test]
async fn the_tcp_port_answers_to_loopback_names_only() {
    let node = TestNode::start().await;
    let address = node.address();
    for (head, expected) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n"), "200"),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n".to_owned(), "200"),
        ("GET /healthz HTTP/1.1\r\nHost: rebound.example.org\r\n".to_owned(), "421"),
        ("GET http://example.org/healthz HTTP/1.1\r\nHost: localhost\r\n".to_owned(), "421"),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n".to_owned(), "421"),
        ("GET /healthz HTTP/1.0\r\n".to_owned(), "421"),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("{head}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{head}: {answer}");
    }
    node.end().await;
}

#[tokio::test]
async fn a_request_that_never_comes_whole_is_cut() {
    let node = TestNode::start().await;
    let mut slow = UnixStream::connect(node.socket()).await.expect("connects");
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.expect("writes");
    let mut idle = UnixStream::connect(node.socket()).await.expect("connects");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    let began = Instant::now();
    let mut rest = Vec::new();
    let patience = Duration::from_secs(10);
    let ends = async {
        slow.read_to_end(&mut rest).await.expect("the server closes it");
        idle.read_to_end(&mut rest).await.expect("the server closes it");
    };
    tokio::time::timeout(patience, ends).await.expect("both are closed by the server");
    assert!(began.elapsed() >= quick_limits().header_time / 2);

    let mut long = UnixStream::connect(node.socket()).await.expect("connects");
    let head = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    // The server may close before it read all of it.
    let _ = long.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a head of 64 KiB is not read");
    node.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let node = TestNode::start().await;
    let mut held = Vec::new();
    for _ in 0..quick_limits().connections {
        held.push(UnixStream::connect(node.socket()).await.expect("connects"));
    }
    let mut waiting = UnixStream::connect(node.socket()).await.expect("the kernel queues it");
    waiting
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = Vec::new();
    // Those that hold the room send nothing, so their head's time ends and they make room.
    let served = tokio::time::timeout(Duration::from_secs(10), waiting.read_to_end(&mut answer));
    served.await.expect("it is served in the end").expect("reads");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    node.end().await;
}

#[tokio::test]
async fn an_operation_under_way_is_cut_when_the_drain_is_over() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let asked =
        tokio::spawn(async move { client.send(Method::POST, "/v1/workloads/web/start").await });
    let Command::Operate { events, .. } = node.command().await else { panic!("an operation") };
    events.send(progress("one")).await.expect("the API reads");
    let response = asked.await.expect("no panic");
    let report = node.stop().await;
    assert_eq!(report.cut, 1);
    assert!(response.text().await.is_err(), "the client sees that the answer is not whole");
    assert!(!node.state().finish(Duration::from_millis(10)).await, "it is not over");
    events.send(done()).await.expect("the relay reads on");
    assert!(node.state().finish(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn the_socket_has_its_mode_and_group_and_goes_with_its_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("belay.sock");
    let group = std::fs::metadata(directory.path()).expect("metadata").gid();
    let socket = bind_unix(&path, Some(group)).await.expect("binds");
    let metadata = std::fs::symlink_metadata(&path).expect("it is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(metadata.gid(), group);
    assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 1, "no draft is left");
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("belay.sock");
    drop(UnixListener::bind(&path).expect("binds"));
    assert!(path.exists(), "a dropped listener leaves its file");
    let socket = bind_unix(&path, None).await.expect("the stale one is replaced");
    let second = bind_unix(&path, None).await.expect_err("it answers");
    assert!(matches!(second, BindError::InUse { .. }), "{second}");
    drop(socket);

    std::fs::write(&path, b"kept").expect("writes");
    let refused = bind_unix(&path, None).await.expect_err("not a socket");
    assert!(matches!(refused, BindError::NotASocket { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).expect("reads"), b"kept");
}

#[tokio::test]
async fn a_server_leaves_the_socket_of_its_successor_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("belay.sock");
    let first = bind_unix(&path, None).await.expect("binds");
    std::fs::remove_file(&path).expect("someone removes it");
    let second = bind_unix(&path, None).await.expect("binds");
    drop(first);
    assert!(path.exists(), "the first one's end does not take the second one's file");
    drop(second);
}

#[tokio::test]
async fn addresses_beyond_loopback_are_refused() {
    let refused = bind_tcp("0.0.0.0:0".parse().expect("an address")).await.expect_err("refused");
    assert!(matches!(refused, BindError::NotLoopback { .. }), "{refused}");
    bind_tcp("127.0.0.1:0".parse().expect("an address")).await.expect("binds");
}
