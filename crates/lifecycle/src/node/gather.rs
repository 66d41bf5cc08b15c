//! Puts together what a node says of itself.

use std::collections::HashMap;
use std::time::Duration;

use belay_protocol::{
    EngineStatus, NodeReadiness, NodeStatus, RefusedSpec, STATUS_SCHEMA, VolumeStatus, VolumeUsage,
    WorkloadPhase, WorkloadStatus,
};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::context::Context;
use crate::problems;

/// Least time between two measurements of the volumes.
const MEASURE_GAP: Duration = Duration::from_secs(2);

/// What is gathered besides the workloads' own words.
#[derive(Debug)]
pub(super) struct Gathered {
    status: NodeStatus,
    measured_at: Option<Instant>,
    looked: bool,
}

impl Gathered {
    pub(super) fn new(context: &Context) -> Self {
        let status = NodeStatus {
            schema_version: STATUS_SCHEMA,
            node: context.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Timestamp::now(),
            ready: NodeReadiness::NotReady { reason: "belayd has just started".to_owned() },
            engine: engine_status(context.engine.info(), true),
            workloads: Vec::new(),
            volumes: Vec::new(),
            refused_specs: Vec::new(),
        };
        Self { status, measured_at: None, looked: false }
    }

    pub(super) fn first(&self) -> NodeStatus {
        self.status.clone()
    }

    /// When the volumes may be measured again.
    pub(super) fn next_measure(&self) -> Instant {
        self.measured_at.map_or_else(Instant::now, |at| at + MEASURE_GAP)
    }

    /// Asks the engine whether it is there and measures the volumes.
    pub(super) async fn measure(&mut self, context: &Context) {
        self.measured_at = Some(Instant::now());
        let (pinged, listed) = tokio::join!(context.engine.ping(), context.volumes.list());
        self.status.engine = match &pinged {
            Ok(info) => engine_status(info, true),
            Err(_) => engine_status(context.engine.info(), false),
        };
        match listed {
            Ok(listed) => {
                self.looked = true;
                self.status.volumes = listed.iter().map(volume_status).collect();
            }
            Err(error) => tracing::warn!("{}", problems::with_causes(&error)),
        }
    }

    /// Everything on one page.
    pub(super) fn status(
        &self,
        workloads: Vec<WorkloadStatus>,
        refused: &[RefusedSpec],
    ) -> NodeStatus {
        let mut status = self.status.clone();
        let mut mounts = HashMap::new();
        for workload in &workloads {
            for volume in &workload.volumes {
                mounts.insert((workload.name.clone(), volume.clone()), ());
            }
        }
        for volume in &mut status.volumes {
            let key = (volume.workload.clone(), volume.name.clone());
            volume.orphan = !mounts.contains_key(&key);
        }
        status.ready = self.readiness(&workloads);
        status.workloads = workloads;
        status.refused_specs = refused.to_vec();
        status
    }

    fn readiness(&self, workloads: &[WorkloadStatus]) -> NodeReadiness {
        let not_ready = |reason: String| NodeReadiness::NotReady { reason };
        if !self.looked {
            return not_ready("the volumes have not been looked at yet".to_owned());
        }
        if !self.status.engine.reachable {
            return not_ready(format!("the engine at {} does not answer", self.status.engine.socket));
        }
        let pending = |status: &&WorkloadStatus| status.phase == WorkloadPhase::Pending;
        match workloads.iter().find(pending) {
            Some(status) => not_ready(format!("{} has not been looked at yet", status.name)),
            None => NodeReadiness::Ready,
        }
    }
}

fn engine_status(info: &belay_engine::EngineInfo, reachable: bool) -> EngineStatus {
    EngineStatus {
        kind: info.kind.to_string(),
        version: info.version.to_string(),
        socket: info.socket.display().to_string(),
        reachable,
        snapshot: "none".to_owned(),
    }
}

fn volume_status(found: &belay_volumes::VolumeStatus) -> VolumeStatus {
    let mounted = found.mounted.as_ref();
    VolumeStatus {
        workload: found.id.workload.clone(),
        name: found.id.volume.clone(),
        size_bytes: found.size.as_u64(),
        allocated_bytes: found.allocated.as_u64(),
        file_system: found.file_system.map(|fs| fs.to_string()).unwrap_or_default(),
        mounted: mounted.is_some(),
        mount: mounted.map(|mount| mount.target.display().to_string()),
        device: mounted.map(|mount| mount.device.display().to_string()),
        container_path: None,
        usage: mounted.map(|mount| VolumeUsage {
            used_bytes: mount.used.as_u64(),
            available_bytes: mount.available.as_u64(),
            used_inodes: mount.inodes.saturating_sub(mount.inodes_available),
            total_inodes: mount.inodes,
            read_only: mount.read_only,
        }),
        orphan: false,
        fault: found.fault.clone(),
    }
}
