use std::collections::BTreeSet;

use super::*;
use crate::runner::{Attempt, RunId, RunnerId, SnapshotOmission, WaitRequest};
use crate::{CheckOutcome, Cid, SyncRole, VolumeFate, VolumeLevel, WorkloadPhase};

fn at() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn node(name: &str) -> crate::NodeId {
    name.parse().expect("a name")
}

fn travel() -> crate::runner::TravelId {
    crate::runner::TravelId::after(None, 1, 2)
}

fn run() -> RunId {
    "run_06cp9m2k2g000f0e1d2c3b4a50".parse().expect("an id")
}

fn runner() -> RunnerId {
    "run-1".parse().expect("a name")
}

fn cid() -> Cid {
    Cid::from_digest([7; 32])
}

/// One event of each kind: its details, how they are written, and how much it matters.
#[expect(clippy::too_many_lines, reason = "a table with a row for each kind")]
fn goldens() -> Vec<(EventDetails, Value, Severity)> {
    use EventDetails as D;
    use Severity::{Alarm, Info, Warning};
    let moved =
        || json!({"cid": cid().to_string(), "bytes": 4096, "downtime_ms": 412, "duration_ms": 980});
    vec![
        (
            D::BelaydStarted {
                version: "0.1.0".into(),
                boot_id: "b1".into(),
                last_end: LastEnd::HostWentDown,
            },
            json!({"version": "0.1.0", "boot_id": "b1", "last_end": "host-went-down"}),
            Warning,
        ),
        (D::BelaydStopping {}, json!({}), Info),
        (
            D::EngineReached { engine: "podman".into(), version: "4.3.1".into() },
            json!({"engine": "podman", "version": "4.3.1"}),
            Info,
        ),
        (D::EngineLost { cause: "no answer".into() }, json!({"cause": "no answer"}), Alarm),
        (
            D::LedgerReplaced { kept: "/x".into(), cause: "not a database".into() },
            json!({"kept": "/x", "cause": "not a database"}),
            Alarm,
        ),
        (
            D::EventsLost { count: 7, cause: LossCause::LedgerBehind },
            json!({"count": 7, "cause": "ledger-behind"}),
            Warning,
        ),
        (
            D::HostOvercommitted { missing_bytes: 9, available_bytes: 5 },
            json!({"missing_bytes": 9, "available_bytes": 5}),
            Alarm,
        ),
        (D::HostRelieved {}, json!({}), Info),
        (
            D::PhaseChanged {
                from: WorkloadPhase::Probing,
                to: WorkloadPhase::Ready,
                cause: "it runs and is ready".into(),
            },
            json!({"from": "probing", "to": "ready", "cause": "it runs and is ready"}),
            Info,
        ),
        (D::Asked { verb: AskedVerb::Restart }, json!({"verb": "restart"}), Info),
        (
            D::DeployBegun { generation: 2, previous: Some(1), image: "file:/x.tar".into() },
            json!({"generation": 2, "previous": 1, "image": "file:/x.tar"}),
            Info,
        ),
        (D::DeployReady { generation: 2 }, json!({"generation": 2}), Info),
        (
            D::DeployRolledBack { generation: 2, restored: 1, cause: "not ready".into() },
            json!({"generation": 2, "restored": 1, "cause": "not ready"}),
            Warning,
        ),
        (
            D::DeployRefused { code: "port-taken".into(), cause: "port 80 is taken".into() },
            json!({"code": "port-taken", "cause": "port 80 is taken"}),
            Warning,
        ),
        (
            D::Crashed { exit_code: 137, out_of_memory: true },
            json!({"exit_code": 137, "out_of_memory": true}),
            Warning,
        ),
        (
            D::Ended { exit_code: 0, out_of_memory: false },
            json!({"exit_code": 0, "out_of_memory": false}),
            Info,
        ),
        (
            D::StartFailed { code: "start-failed".into(), cause: "no such command".into() },
            json!({"code": "start-failed", "cause": "no such command"}),
            Warning,
        ),
        (
            D::BackingOff { failures: 3, delay_ms: 4000, next_try_at: Some(at()) },
            json!({"failures": 3, "delay_ms": 4000, "next_try_at": "2026-03-01T12:00:00Z"}),
            Warning,
        ),
        (D::Recovered { failures: 3 }, json!({"failures": 3}), Info),
        (D::Halted { cause: "cut short".into() }, json!({"cause": "cut short"}), Alarm),
        (D::Unhealthy { cause: "HTTP 500".into() }, json!({"cause": "HTTP 500"}), Warning),
        (D::Alive {}, json!({}), Info),
        (D::LivenessUnknown { cause: "hangs".into() }, json!({"cause": "hangs"}), Warning),
        (D::GivenUp { cause: "spent".into() }, json!({"cause": "spent"}), Alarm),
        (D::HaltCleared { by: HaltCleared::Operator }, json!({"by": "operator"}), Info),
        (D::OutOfMemory { killed: 2, total: 5 }, json!({"killed": 2, "total": 5}), Warning),
        (
            D::CommandBegun { program: "/bin/sh".into(), arguments: 2 },
            json!({"program": "/bin/sh", "arguments": 2}),
            Info,
        ),
        (D::Unkillable { pid: 17 }, json!({"pid": 17}), Alarm),
        (D::Removed { volumes: VolumeFate::Keep }, json!({"volumes": "keep"}), Info),
        (
            D::VolumeLevelChanged {
                of: VolumeMeasure::Bytes,
                level: VolumeLevel::Critical,
                percent: 96,
                time_to_full_seconds: Some(90),
            },
            json!({"of": "bytes", "level": "critical", "percent": 96, "time_to_full_seconds": 90}),
            Alarm,
        ),
        (D::VolumeRefusesWrites {}, json!({}), Alarm),
        (D::VolumeTakesWrites {}, json!({}), Info),
        (D::VolumeErrors { new: 2 }, json!({"new": 2}), Alarm),
        (D::VolumeUnreserved { missing_bytes: 4096 }, json!({"missing_bytes": 4096}), Warning),
        (
            D::VolumeChecked { outcome: CheckOutcome::Repaired },
            json!({"outcome": "repaired"}),
            Warning,
        ),
        (D::VolumeActDone { verb: VolumeVerb::Rm }, json!({"verb": "rm"}), Info),
        (
            D::Published { cid: cid(), bytes: 4096, downtime_ms: 412, duration_ms: 980 },
            moved(),
            Info,
        ),
        (D::Applied { cid: cid(), bytes: 4096, downtime_ms: 412, duration_ms: 980 }, moved(), Info),
        (D::ApplyFinished { cid: cid() }, json!({"cid": cid().to_string()}), Info),
        (
            D::ApplyTakenBack { cid: cid(), cause: "not ready".into() },
            json!({"cid": cid().to_string(), "cause": "not ready"}),
            Warning,
        ),
        (
            D::ContentWaitEnded { by: ContentWaitEnd::Time, waited_ms: 600_000 },
            json!({"by": "time", "waited_ms": 600_000}),
            Warning,
        ),
        (D::SyncPaused {}, json!({}), Info),
        (D::SyncResumed {}, json!({}), Info),
        (
            D::SyncRolledBack { cid: cid(), left_epoch: 1, left_seq: 9 },
            json!({"cid": cid().to_string(), "left_epoch": 1, "left_seq": 9}),
            Info,
        ),
        (
            D::SyncTakenOver { cid: cid(), epoch: 2, seq: 10, from: "north".into() },
            json!({"cid": cid().to_string(), "epoch": 2, "seq": 10, "from": "north"}),
            Info,
        ),
        (
            D::SyncFailed {
                role: SyncRole::Consumer,
                stage: "download".into(),
                cause: "the store is away".into(),
            },
            json!({"role": "consumer", "stage": "download", "cause": "the store is away"}),
            Warning,
        ),
        (
            D::Quarantined { cid: cid(), until: at() },
            json!({"cid": cid().to_string(), "until": "2026-03-01T12:00:00Z"}),
            Warning,
        ),
        (D::ImagePullBegun {}, json!({}), Info),
        (
            D::ImagePulled { id: "sha256:1".into(), bytes: 4096, duration_ms: 980 },
            json!({"id": "sha256:1", "bytes": 4096, "duration_ms": 980}),
            Info,
        ),
        (
            D::ImagePullFailed {
                code: "registry-unreachable".into(),
                cause: "no route".into(),
                failures: 2,
                delay_ms: 2000,
            },
            json!({
                "code": "registry-unreachable", "cause": "no route", "failures": 2,
                "delay_ms": 2000,
            }),
            Warning,
        ),
        (D::ImagePullEnded { cause: "unwanted".into() }, json!({"cause": "unwanted"}), Info),
        (
            D::ImageRemoved { id: "sha256:1".into(), bytes: 4096, by: ImageRemoved::Space },
            json!({"id": "sha256:1", "bytes": 4096, "by": "space"}),
            Info,
        ),
        (
            D::RunnerCheckpointed {
                runner: "run-1".into(),
                bytes: 4096,
                frozen_ms: Some(101),
                took_ms: Some(412),
            },
            json!({"runner": "run-1", "bytes": 4096, "frozen_ms": 101, "took_ms": 412}),
            Info,
        ),
        (
            D::RunnerPaused { runner: "run-1".into(), took_ms: 12 },
            json!({"runner": "run-1", "took_ms": 12}),
            Info,
        ),
        (
            D::RunnerNotSnapshotted { runner: "run-1".into(), cause: "full".into() },
            json!({"runner": "run-1", "cause": "full"}),
            Warning,
        ),
        (
            D::RunnerRestored { runner: "run-1".into(), took_ms: 376 },
            json!({"runner": "run-1", "took_ms": 376}),
            Info,
        ),
        (
            D::RunnerNotRestored { runner: "run-1".into(), cause: "damaged".into() },
            json!({"runner": "run-1", "cause": "damaged"}),
            Warning,
        ),
        (
            D::RunnerEnded { runner: "run-1".into(), exit_code: Some(137), out_of_memory: true },
            json!({"runner": "run-1", "exit_code": 137, "out_of_memory": true}),
            Warning,
        ),
        (D::RunSubmitted { run: run() }, json!({"run": run()}), Info),
        (
            D::RunStarted { run: run(), attempt: Attempt::new(2), runner: runner() },
            json!({"run": run(), "attempt": 2, "runner": "run-1"}),
            Info,
        ),
        (
            D::RunSuspended { run: run(), wait: WaitRequest::Timer { until: at() } },
            json!({"run": run(), "wait": {"on": "timer", "until": "2026-03-01T12:00:00Z"}}),
            Info,
        ),
        (D::RunResumed { run: run() }, json!({"run": run()}), Info),
        (
            D::RunNotStarted { run: run(), cause: "no room".into(), next_try_at: Some(at()) },
            json!({"run": run(), "cause": "no room", "next_try_at": "2026-03-01T12:00:00Z"}),
            Warning,
        ),
        (
            D::RunAttemptFailed {
                run: run(),
                attempt: Attempt::new(1),
                cause: "the runner was lost".into(),
                next_try_at: None,
            },
            json!({"run": run(), "attempt": 1, "cause": "the runner was lost"}),
            Warning,
        ),
        (
            D::RunFinished { run: run(), attempt: Attempt::new(1) },
            json!({"run": run(), "attempt": 1}),
            Info,
        ),
        (
            D::RunFailed { run: run(), attempts: Attempt::new(3), cause: "away".into() },
            json!({"run": run(), "attempts": 3, "cause": "away"}),
            Warning,
        ),
        (D::RunCancelled { run: run() }, json!({"run": run()}), Info),
        (
            D::RunExported { run: run(), to: node("b"), travel: travel() },
            json!({"run": run(), "to": "b", "travel": travel()}),
            Info,
        ),
        (
            D::RunImported { run: run(), from: node("a"), travel: travel() },
            json!({"run": run(), "from": "a", "travel": travel()}),
            Info,
        ),
        (
            D::RunReclaimed { run: run(), to: node("b"), travel: travel() },
            json!({"run": run(), "to": "b", "travel": travel()}),
            Info,
        ),
        (
            D::SnapshotScheduled { run: run(), delay_ms: 30_000 },
            json!({"run": run(), "delay_ms": 30_000}),
            Info,
        ),
        (
            D::SnapshotRefused { run: run(), cause: SnapshotOmission::ShortWait },
            json!({"run": run(), "cause": "short-wait"}),
            Info,
        ),
        (
            D::SnapshotCancelled { run: run(), cause: SnapshotUnwanted::SuspendedAnew },
            json!({"run": run(), "cause": "suspended-anew"}),
            Info,
        ),
        (
            D::SnapshotDispatched { run: run(), runner: runner(), lag_ms: 3 },
            json!({"run": run(), "runner": "run-1", "lag_ms": 3}),
            Info,
        ),
        (
            D::SnapshotLate { run: run(), lag_ms: 1500 },
            json!({"run": run(), "lag_ms": 1500}),
            Warning,
        ),
        (
            D::SnapshotTaken { run: run(), runner: runner(), means: SnapshotMeans::Checkpoint },
            json!({"run": run(), "runner": "run-1", "means": "checkpoint"}),
            Info,
        ),
        (
            D::SnapshotFailed { run: run(), cause: "full".into(), failures: 3 },
            json!({"run": run(), "cause": "full", "failures": 3}),
            Warning,
        ),
        (D::Unreadable { cause: "newer".into() }, json!({"cause": "newer"}), Warning),
    ]
}

#[test]
fn every_kind_is_written_as_it_is_documented() {
    let mut seen = BTreeSet::new();
    for (details, written, severity) in goldens() {
        assert!(seen.insert(details.kind()), "{} has two goldens", details.kind());
        assert_eq!(details.severity(), severity, "{}", details.kind());
        let event = Event {
            seq: EventSeq::new(17),
            at: at(),
            severity,
            subject: EventSubject::Node,
            message: "one line".into(),
            details,
        };
        let golden = json!({
            "seq": 17, "at": "2026-03-01T12:00:00Z", "kind": event.details.kind().as_str(),
            "severity": severity.as_str(), "subject": {"type": "node"}, "message": "one line",
            "details": written,
        });
        assert_eq!(serde_json::to_value(&event).expect("serialises"), golden);
        assert_eq!(serde_json::from_value::<Event>(golden.clone()).expect("reads"), event);
        let mut foreign = golden;
        foreign["details"]["unknown"] = json!(1);
        assert!(serde_json::from_value::<Event>(foreign).is_err(), "{event:?}");
    }
    let all: BTreeSet<_> = EventKind::ALL.iter().copied().collect();
    assert_eq!(seen, all, "a golden for each kind");
}

#[test]
fn every_kind_is_read_back_from_its_word() {
    for kind in EventKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        assert_eq!(serde_json::to_value(kind).expect("serialises"), kind.as_str());
    }
    let error = "crash".parse::<EventKind>().expect_err("no kind");
    assert_eq!(error.to_string(), "\"crash\" is no kind of event");
}

#[test]
fn a_subject_names_what_it_is_about_and_its_workload() {
    let web: WorkloadName = "web".parse().expect("a name");
    let volume = "data".parse().expect("a name");
    let key = "page".parse().expect("a name");
    let cases = [
        (EventSubject::Node, json!({"type": "node"}), "node", false),
        (
            EventSubject::Workload { workload: web.clone() },
            json!({"type": "workload", "workload": "web"}),
            "web",
            true,
        ),
        (
            EventSubject::Volume { workload: web.clone(), volume },
            json!({"type": "volume", "workload": "web", "volume": "data"}),
            "web/data",
            true,
        ),
        (
            EventSubject::Image { image: "redis:7".into() },
            json!({"type": "image", "image": "redis:7"}),
            "image redis:7",
            false,
        ),
        (
            EventSubject::Sync { workload: web.clone(), key },
            json!({"type": "sync", "workload": "web", "key": "page"}),
            "web sync page",
            true,
        ),
    ];
    for (subject, written, shown, of_web) in cases {
        assert_eq!(serde_json::to_value(&subject).expect("serialises"), written);
        assert_eq!(serde_json::from_value::<EventSubject>(written).expect("reads"), subject);
        assert_eq!(subject.to_string(), shown);
        assert_eq!(subject.workload(), of_web.then_some(&web));
    }
}

#[test]
fn a_page_says_what_is_missing() {
    let page = EventPage {
        first: Some(EventSeq::new(120)),
        newest: EventSeq::new(130),
        gap: Some(EventGap { after: EventSeq::new(5), first: EventSeq::new(120) }),
        events: Vec::new(),
        next: EventSeq::new(130),
    };
    let golden = json!({
        "first": 120, "newest": 130, "gap": {"after": 5, "first": 120}, "events": [], "next": 130,
    });
    assert_eq!(serde_json::to_value(&page).expect("serialises"), golden);
    assert_eq!(serde_json::from_value::<EventPage>(golden).expect("reads"), page);
}

#[test]
fn every_kind_has_a_line_in_the_documentation() {
    let page = include_str!("../../../../docs/events.md");
    for kind in EventKind::ALL {
        assert!(page.contains(&format!("\n| `{kind}` |")), "{kind} is not in docs/events.md");
    }
}

#[test]
fn why_a_snapshot_is_not_wanted_is_one_word_everywhere() {
    use SnapshotUnwanted as U;
    for cause in [
        U::Completed,
        U::AttemptEnded,
        U::Left,
        U::WaitOver,
        U::RunCancelled,
        U::SuspendedAnew,
        U::Away,
        U::Rebound,
    ] {
        assert_eq!(serde_json::to_value(cause).expect("serialises"), cause.as_str());
    }
}
