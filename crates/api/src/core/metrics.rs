//! `GET /metrics`: the status as Prometheus reads it (text exposition format 0.0.4).

mod runners;

use std::fmt::{Display, Write};

use belay_protocol::runner::{HostTally, RunnerTally};
use belay_protocol::{
    DesiredState, EventTally, NodeReadiness, NodeStatus, ProbeCounts, SyncConsumer, SyncOutcome,
    SyncRole, VolumeStatus, VolumeUsage, WorkloadStatus,
};

/// Every metric of a node, each with its help and type, in one page.
pub(crate) fn page(
    status: &NodeStatus,
    tally: &EventTally,
    runs: &RunnerTally,
    hosted: &HostTally,
) -> String {
    let mut page = Page::default();
    node(&mut page, status);
    workloads(&mut page, &status.workloads);
    volumes(&mut page, &status.volumes);
    sync(&mut page, &status.workloads);
    events(&mut page, tally);
    runners::write(&mut page, runs);
    runners::write_hosted(&mut page, hosted);
    page.0
}

fn node(page: &mut Page, status: &NodeStatus) {
    let labels = [("node", status.node.as_str()), ("version", &status.version)];
    page.gauge("belay_info", "The node and its version; always 1.").value(&labels, 1);
    page.gauge("belay_start_time_seconds", "When belayd started, in seconds since 1970.")
        .value(&[], status.started_at.as_second());
    page.gauge("belay_ready", "Whether the node is reconciled and its engine answers.")
        .value(&[], u8::from(status.ready == NodeReadiness::Ready));
    page.gauge("belay_engine_reachable", "Whether the container engine answers.")
        .value(&[], u8::from(status.engine.reachable));
    if let Some(space) = &status.space {
        page.gauge("belay_host_available_bytes", "Bytes the disk below the volumes can give.")
            .value(&[], space.available_bytes);
        page.gauge("belay_host_promised_bytes", "Bytes that all volumes were promised.")
            .value(&[], space.promised_bytes);
        page.gauge("belay_host_missing_bytes", "Promised bytes that are not allocated.")
            .value(&[], space.missing_bytes);
        page.gauge("belay_host_overcommitted", "Whether not all promises could be kept at once.")
            .value(&[], u8::from(space.overcommitted));
    }
}

fn workloads(page: &mut Page, workloads: &[WorkloadStatus]) {
    let mut phase = page.gauge(
        "belay_workload_phase",
        "The phase that a workload is in, as a label; 1 for that one.",
    );
    for workload in workloads {
        let labels = [("workload", workload.name.as_str()), ("phase", workload.phase.as_str())];
        phase.value(&labels, 1);
    }
    let mut desired =
        page.gauge("belay_workload_desired_running", "Whether a workload should run.");
    for workload in workloads {
        let running = workload.desired == DesiredState::Running;
        desired.value(&[("workload", workload.name.as_str())], u8::from(running));
    }
    let mut restarts = page.gauge(
        "belay_workload_restarts",
        "Restarts after failures since the last deploy or start.",
    );
    for workload in workloads {
        restarts.value(&[("workload", workload.name.as_str())], workload.restarts);
    }
    probes(page, workloads);
}

fn probes(page: &mut Page, workloads: &[WorkloadStatus]) {
    let asked = || {
        workloads.iter().flat_map(|workload| {
            let name = workload.name.as_str();
            let probes = [("ready", &workload.ready), ("live", &workload.live)];
            probes.into_iter().filter_map(move |(kind, probe)| Some((name, kind, probe.as_ref()?)))
        })
    };
    let mut verdict = page.gauge(
        "belay_workload_probe_verdict",
        "What is known by a probe of the process that runs, as a label; 1 for that one.",
    );
    for (workload, kind, probe) in asked() {
        let word = probe.verdict.as_str();
        verdict.value(&[("workload", workload), ("probe", kind), ("verdict", word)], 1);
    }
    let mut results = page.counter(
        "belay_workload_probe_results_total",
        "Answers to a probe since belayd began to look after the workload.",
    );
    for (workload, kind, probe) in asked() {
        let ProbeCounts { good, failing, inconclusive } = probe.counts;
        for (word, count) in [("good", good), ("failing", failing), ("inconclusive", inconclusive)]
        {
            results.value(&[("workload", workload), ("probe", kind), ("result", word)], count);
        }
    }
}

fn volumes(page: &mut Page, volumes: &[VolumeStatus]) {
    let mut every = |name, help, value: fn(&VolumeStatus) -> u64| {
        let mut metric = page.gauge(name, help);
        for volume in volumes {
            metric.value(&volume_labels(volume), value(volume));
        }
    };
    every("belay_volume_size_bytes", "Bytes that a volume was promised.", |v| v.size_bytes);
    every("belay_volume_allocated_bytes", "Bytes of the host's disk that hold it.", |v| {
        v.allocated_bytes
    });
    every("belay_volume_mounted", "Whether it is mounted.", |v| u64::from(v.mounted));
    every("belay_volume_orphan", "Whether no workload names it.", |v| u64::from(v.orphan));
    every("belay_volume_errors", "Errors that its file system counted (ext4).", |v| v.errors);
    let mut while_mounted = |name, help, value: fn(&VolumeUsage) -> u64| {
        let mut metric = page.gauge(name, help);
        for volume in volumes {
            if let Some(usage) = &volume.usage {
                metric.value(&volume_labels(volume), value(usage));
            }
        }
    };
    while_mounted("belay_volume_used_bytes", "Bytes in use, while mounted.", |u| u.used_bytes);
    while_mounted("belay_volume_available_bytes", "Bytes it can still take.", |u| {
        u.available_bytes
    });
    while_mounted("belay_volume_inodes_used", "Inodes in use, while mounted.", |u| u.used_inodes);
    while_mounted("belay_volume_inodes", "Inodes in all; 0 without a limit.", |u| u.total_inodes);
    while_mounted("belay_volume_read_only", "Whether it refuses writes.", |u| {
        u64::from(u.read_only)
    });
    let mut left = page.gauge(
        "belay_volume_time_to_full_seconds",
        "Seconds until it is full, if it goes on growing; absent when it does not.",
    );
    for volume in volumes {
        if let Some(seconds) = volume.time_to_full_seconds {
            left.value(&volume_labels(volume), seconds);
        }
    }
}

fn volume_labels(volume: &VolumeStatus) -> [(&'static str, &str); 2] {
    [("workload", volume.workload.as_str()), ("volume", volume.name.as_str())]
}

fn consumer_labels<'l>(
    workload: &'l str,
    key: &'l str,
    one: &'l SyncConsumer,
) -> [(&'static str, &'l str); 4] {
    let (node, consumer) = (one.node.as_str(), one.workload.as_str());
    [("workload", workload), ("key", key), ("node", node), ("consumer", consumer)]
}

fn sync(page: &mut Page, workloads: &[WorkloadStatus]) {
    let synced =
        || workloads.iter().filter_map(|one| Some((one.name.as_str(), one.sync.as_ref()?)));
    let mut of_last = |name, help, value: fn(&SyncOutcome) -> u64| {
        let mut metric = page.gauge(name, help);
        for (workload, sync) in synced() {
            let (role, last) = match sync.role {
                SyncRole::Provider => ("provider", &sync.last_publish),
                SyncRole::Consumer => ("consumer", &sync.last_apply),
            };
            if let Some(last) = last {
                let labels = [("workload", workload), ("key", sync.key.as_str()), ("role", role)];
                metric.value(&labels, value(last));
            }
        }
    };
    of_last(
        "belay_sync_last_success_timestamp_seconds",
        "When a workload published or applied last, in seconds since 1970.",
        |last| u64::try_from(last.at.as_second()).unwrap_or(0),
    );
    of_last("belay_sync_last_bytes", "Bytes stored or fetched by it.", |last| last.bytes);
    of_last("belay_sync_last_downtime_milliseconds", "How long the container was down.", |last| {
        last.downtime_ms
    });
    let mut failing = page.gauge("belay_sync_failing", "Whether the last publish or apply failed.");
    for (workload, sync) in synced() {
        let labels = [("workload", workload), ("key", sync.key.as_str())];
        failing.value(&labels, u8::from(sync.last_failure.is_some()));
    }
    let consumers = || {
        synced().flat_map(|(workload, sync)| {
            let fleet = sync.fleet.iter().flat_map(|fleet| &fleet.consumers);
            fleet.map(move |one| (workload, sync.key.as_str(), one))
        })
    };
    let mut behind = page.gauge(
        "belay_sync_consumer_behind_records",
        "Records between what a consumer holds and the newest, where that can be told.",
    );
    for (workload, key, one) in consumers() {
        if let Some(lag) = one.behind {
            behind.value(&consumer_labels(workload, key, one), lag);
        }
    }
    let mut live = page.gauge(
        "belay_sync_consumer_live",
        "Whether a consumer told of itself within the time for which what it needs is kept.",
    );
    for (workload, key, one) in consumers() {
        live.value(&consumer_labels(workload, key, one), u8::from(one.live));
    }
    let mut head = page.gauge("belay_sync_head_seq", "Number of the newest record seen.");
    for (workload, sync) in synced() {
        if let Some(found) = &sync.head {
            let labels = [("workload", workload), ("key", sync.key.as_str())];
            head.value(&labels, found.seq);
        }
    }
}

fn events(page: &mut Page, tally: &EventTally) {
    let mut told = page.counter("belay_events_total", "Events since belayd started, by kind.");
    for (kind, count) in &tally.told {
        told.value(&[("kind", kind.as_str())], count);
    }
    page.counter("belay_events_lost_total", "Events that were given up since belayd started.")
        .value(&[], tally.lost);
    page.gauge("belay_events_newest", "Number of the newest event.").value(&[], tally.newest);
}

/// The page as far as it is written.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    /// Begins a metric. Every sample of one metric stands below its head.
    fn gauge(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, help, "gauge")
    }

    /// A metric that only grows while belayd runs.
    fn counter(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, help, "counter")
    }

    fn metric(&mut self, name: &'static str, help: &str, kind: &str) -> Metric<'_> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { page: &mut self.0, name }
    }
}

/// One metric, to which samples are added.
struct Metric<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Metric<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.page.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.page, "{before}{label}=\"{}\"", escaped(text));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.page, "{after} {value}");
    }
}

/// What a label's value must not hold bare.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn status() -> NodeStatus {
        let cid = belay_protocol::Cid::from_digest([7; 32]).to_string();
        serde_json::from_value(json!({
            "schema_version": 2, "node": "north", "version": "0.1.0",
            "started_at": "2026-01-01T00:00:00Z", "ready": {"state": "ready"},
            "engine": {"kind": "podman", "version": "4.3.1", "socket": "/run/x",
                       "reachable": true, "snapshot": "none"},
            "workloads": [
                {"name": "web", "desired": "running", "phase": "back-off",
                 "since": "2026-01-01T00:00:00Z", "reason": "", "source": "api",
                 "image": "x", "spec_hash": "0123456789ab", "generation": 1, "container": null,
                 "restarts": 4, "back_off": null, "last_fault": null, "ports": [],
                 "live": {"probe": "tcp 80", "verdict": "unknown", "in_a_row": 0,
                          "counts": {"good": 7, "failing": 2, "inconclusive": 9}, "last": null},
                 "volumes": ["data"], "mounts": {},
                 "sync": {"role": "provider", "key": "page", "stage": "idle",
                          "last_publish": {"cid": cid, "version": 1, "at": "2026-01-01T00:00:10Z",
                                           "bytes": 1000, "downtime_ms": 40, "duration_ms": 90},
                          "last_apply": null, "head": null,
                          "last_failure": {"stage": "upload", "error": "full",
                                           "at": "2026-01-01T00:00:20Z"},
                          "quarantine": {}, "halted": null}},
            ],
            "volumes": [
                {"workload": "old", "name": "data", "size_bytes": 1024, "allocated_bytes": 512,
                 "file_system": "ext4", "mounted": false, "mount": null, "device": null,
                 "container_path": null, "usage": null, "orphan": true, "fault": null},
                {"workload": "web", "name": "data", "size_bytes": 4096, "allocated_bytes": 4096,
                 "file_system": "ext4", "mounted": true, "mount": "/m", "device": "/dev/loop3",
                 "container_path": "/data", "orphan": false, "fault": null,
                 "usage": {"used_bytes": 3000, "available_bytes": 900, "used_inodes": 14,
                           "total_inodes": 16, "read_only": true},
                 "time_to_full_seconds": 360, "errors": 2},
            ],
            "space": {"available_bytes": 10, "promised_bytes": 5120, "missing_bytes": 512,
                      "overcommitted": true, "generations": "copied"},
            "refused_specs": [],
        }))
        .expect("the shape of a status")
    }

    fn tally() -> EventTally {
        EventTally {
            newest: belay_protocol::EventSeq::new(17),
            told: [(belay_protocol::EventKind::Crashed, 3)].into(),
            lost: 2,
        }
    }

    #[test]
    fn every_documented_number_is_on_the_page() {
        let page = page(&status(), &tally(), &RunnerTally::default(), &HostTally::default());
        for line in [
            r#"belay_info{node="north",version="0.1.0"} 1"#,
            "belay_start_time_seconds 1767225600",
            "belay_ready 1",
            "belay_engine_reachable 1",
            "belay_host_available_bytes 10",
            "belay_host_promised_bytes 5120",
            "belay_host_missing_bytes 512",
            "belay_host_overcommitted 1",
            r#"belay_workload_phase{workload="web",phase="back-off"} 1"#,
            r#"belay_workload_desired_running{workload="web"} 1"#,
            r#"belay_workload_restarts{workload="web"} 4"#,
            r#"belay_workload_probe_verdict{workload="web",probe="live",verdict="unknown"} 1"#,
            r#"belay_workload_probe_results_total{workload="web",probe="live",result="good"} 7"#,
            r#"belay_workload_probe_results_total{workload="web",probe="live",result="failing"} 2"#,
            r#"belay_workload_probe_results_total{workload="web",probe="live",result="inconclusive"} 9"#,
            r#"belay_volume_size_bytes{workload="old",volume="data"} 1024"#,
            r#"belay_volume_allocated_bytes{workload="old",volume="data"} 512"#,
            r#"belay_volume_orphan{workload="old",volume="data"} 1"#,
            r#"belay_volume_mounted{workload="web",volume="data"} 1"#,
            r#"belay_volume_errors{workload="web",volume="data"} 2"#,
            r#"belay_volume_used_bytes{workload="web",volume="data"} 3000"#,
            r#"belay_volume_available_bytes{workload="web",volume="data"} 900"#,
            r#"belay_volume_inodes_used{workload="web",volume="data"} 14"#,
            r#"belay_volume_inodes{workload="web",volume="data"} 16"#,
            r#"belay_volume_read_only{workload="web",volume="data"} 1"#,
            r#"belay_volume_time_to_full_seconds{workload="web",volume="data"} 360"#,
            r#"belay_sync_last_success_timestamp_seconds{workload="web",key="page",role="provider"} 1767225610"#,
            r#"belay_sync_last_bytes{workload="web",key="page",role="provider"} 1000"#,
            r#"belay_sync_last_downtime_milliseconds{workload="web",key="page",role="provider"} 40"#,
            r#"belay_sync_failing{workload="web",key="page"} 1"#,
            r#"belay_events_total{kind="crashed"} 3"#,
            "belay_events_lost_total 2",
            "belay_events_newest 17",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(r#"used_bytes{workload="old""#), "unknown is absent, not zero");
    }

    #[test]
    fn every_metric_has_its_head_once_and_its_samples_below() {
        let page = page(&status(), &tally(), &RunnerTally::default(), &HostTally::default());
        let mut seen = BTreeSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                current = head.split(' ').next().expect("a name");
                assert!(seen.insert(current), "{current} has two heads");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let expected = if current.ends_with("_total") { "counter" } else { "gauge" };
                assert_eq!(kind, format!("{current} {expected}"));
            } else {
                let name = line.split(['{', ' ']).next().expect("a name");
                assert_eq!(name, current, "a sample stands below its own head");
                let value = line.rsplit(' ').next().expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn a_label_cannot_end_its_quotes() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
