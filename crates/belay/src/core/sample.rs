//! A node as the golden tests show it: one workload that is well, one that is not.

use belay_protocol::{NodeStatus, WorkloadStatus};
use jiff::Timestamp;
use serde_json::json;

/// The moment at which the pages are drawn.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

/// `cache` keeps failing and `web` provides volume-sync.
pub(crate) fn status() -> NodeStatus {
    let cid = belay_protocol::Cid::from_digest([7; 32]).to_string();
    serde_json::from_value(json!({
        "schema_version": 2, "node": "north", "version": "0.1.0",
        "started_at": "2026-03-01T08:40:00Z",
        "ready": {"state": "ready"},
        "engine": {"kind": "podman", "version": "4.3.1", "socket": "/run/belay/podman.sock",
                   "reachable": true, "snapshot": "freeze"},
        "workloads": [
            {"name": "cache", "desired": "running", "phase": "back-off",
             "since": "2026-03-01T11:59:48Z", "reason": "exited with code 1, 4 times in a row",
             "source": "/etc/belay/workloads.d/cache.toml", "image": "docker.io/library/redis:7",
             "spec_hash": "aaaabbbbcccc", "generation": 2,
             "container": {"id": "0123456789abcdef0123", "name": "belay-north-cache-2",
                           "started_at": "2026-03-01T11:59:40Z",
                           "exit": {"code": 1, "out_of_memory": false,
                                    "at": "2026-03-01T11:59:48Z"}},
             "restarts": 4,
             "back_off": {"failures": 4, "next_try_at": "2026-03-01T12:00:08Z"},
             "last_fault": {"code": "start-failed", "message": "exited with code 1 after 8 s",
                            "next": "belay logs cache", "at": "2026-03-01T11:59:48Z"},
             "ports": [], "volumes": [], "mounts": {},
             "sync": null},
            {"name": "web", "desired": "running", "phase": "ready",
             "since": "2026-03-01T11:54:48Z", "reason": "3 good probes of GET /",
             "source": "api", "image": "file:/srv/page.tar",
             "spec_hash": "0123456789ab", "generation": 3,
             "container": {"id": "fedcba98765432100000", "name": "belay-north-web-3",
                           "started_at": "2026-03-01T11:54:46Z", "exit": null},
             "restarts": 0, "back_off": null, "last_fault": null,
             "ports": [{"host_address": "127.0.0.1", "host_port": 8080, "container_port": 80,
                        "protocol": "tcp"}],
             "volumes": ["data"], "mounts": {"data": "/data"},
             "sync": {"role": "provider", "key": "page", "stage": "idle",
                      "last_publish": {"cid": cid, "version": 1_772_365_800_u64,
                                       "at": "2026-03-01T11:50:00Z", "bytes": 4_200_000_u64,
                                       "downtime_ms": 412, "duration_ms": 980},
                      "last_apply": null,
                      "head": {"cid": cid, "seq": 5, "version": 1_772_365_800_u64,
                               "node": "north"},
                      "last_failure": {"stage": "upload", "error": "no space left in the store",
                                       "at": "2026-03-01T11:58:00Z"},
                      "quarantine": {}, "halted": null}},
        ],
        "volumes": [
            {"workload": "old", "name": "data", "size_bytes": 67_108_864_u64,
             "allocated_bytes": 67_108_864_u64, "file_system": "ext4", "mounted": false,
             "mount": null, "device": null, "container_path": null, "usage": null,
             "orphan": true, "fault": null},
            {"workload": "web", "name": "data", "size_bytes": 67_108_864_u64,
             "allocated_bytes": 70_000_000_u64, "file_system": "ext4", "mounted": true,
             "mount": "/var/lib/belay/volumes/web/data/mount", "device": "/dev/loop3",
             "container_path": "/data",
             "usage": {"used_bytes": 60_000_000_u64, "available_bytes": 5_000_000_u64,
                       "used_inodes": 14, "total_inodes": 16384, "read_only": false},
             "orphan": false, "fault": null, "allocation": "full", "direct_io": true,
             "level": "warning", "time_to_full_seconds": 360, "errors": 0,
             "last_check": {"at": "2026-03-01T10:00:00Z", "outcome": "clean"},
             "generations": ["before-update"]},
        ],
        "space": {"available_bytes": 1_073_741_824_u64, "promised_bytes": 134_217_728_u64,
                  "missing_bytes": 0, "overcommitted": false, "generations": "shared"},
        "refused_specs": [
            {"file": "/etc/belay/workloads.d/bad.toml",
             "faults": [{"file": "/etc/belay/workloads.d/bad.toml:3", "key": "imagee",
                         "found": "a key", "expected": "a known key", "nearest": "image"}]},
        ],
    }))
    .expect("the shape of a status")
}

/// One of them.
pub(crate) fn workload(name: &str) -> WorkloadStatus {
    let workloads = status().workloads;
    workloads.into_iter().find(|workload| workload.name.as_str() == name).expect("it is there")
}
