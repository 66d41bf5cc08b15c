//! Parts of the status, as pages of their own.

use std::collections::BTreeMap;

use belay_protocol::{
    NodeId, NodeStatus, Problem, ProblemCode, SyncStatus, VolumeName, VolumeStatus, WorkloadName,
    WorkloadStatus,
};
use serde::Serialize;

/// `GET /healthz`: that the process answers, and which one it is.
#[derive(Debug, Serialize)]
pub(crate) struct Health<'a> {
    state: &'static str,
    node: &'a NodeId,
    version: &'a str,
}

pub(crate) fn health(status: &NodeStatus) -> Health<'_> {
    Health { state: "alive", node: &status.node, version: &status.version }
}

/// `GET /v1/sync`: the volume-sync of every workload that has one.
pub(crate) fn sync(status: &NodeStatus) -> BTreeMap<&WorkloadName, &SyncStatus> {
    status
        .workloads
        .iter()
        .filter_map(|workload| Some((&workload.name, workload.sync.as_ref()?)))
        .collect()
}

/// `GET /v1/workloads/{name}`.
pub(crate) fn workload<'a>(
    status: &'a NodeStatus,
    name: &WorkloadName,
) -> Result<&'a WorkloadStatus, Box<Problem>> {
    status.workloads.iter().find(|workload| workload.name == *name).ok_or_else(|| {
        let known: Vec<&str> = status.workloads.iter().map(|w| w.name.as_str()).take(20).collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        Box::new(Problem::new(
            ProblemCode::NoSuchWorkload,
            format!("node {} has no workload {name}; {known}", status.node),
            "belay ps",
        ))
    })
}

/// `GET /v1/volumes/{workload}/{volume}`.
pub(crate) fn volume<'a>(
    status: &'a NodeStatus,
    workload: &WorkloadName,
    volume: &VolumeName,
) -> Result<&'a VolumeStatus, Box<Problem>> {
    let found = status.volumes.iter().find(|v| v.workload == *workload && v.name == *volume);
    found.ok_or_else(|| {
        let known = status.volumes.iter().take(20).map(|v| format!("{}/{}", v.workload, v.name));
        let known: Vec<String> = known.collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        Box::new(Problem::new(
            ProblemCode::NoSuchVolume,
            format!("node {} has no volume {workload}/{volume}; {known}", status.node),
            "belay volume ls",
        ))
    })
}
