//! What a node says of itself, put together on one page.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use belay_protocol::{
    CheckOutcome, EngineStatus, EventDetails, ImagesStatus, NodeId, NodeReadiness, NodeStatus,
    PullStatus, RefusedSpec, STATUS_SCHEMA, SpaceStatus, VolumeAllocation, VolumeCheck,
    VolumeStatus, VolumeUsage, WorkloadName, WorkloadPhase, WorkloadStatus,
};
use belay_volumes::{Allocation, Level};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::context::Context;

/// The page that a node shows of itself. Clones write the same page.
///
/// Every workload writes its own entry, before it answers whoever waits for it: what an operator
/// looks at after an answer agrees with it.
#[derive(Debug, Clone)]
pub struct StatusBoard(Arc<Board>);

#[derive(Debug)]
struct Board {
    page: watch::Sender<Arc<NodeStatus>>,
    /// Why runs are not served, while they are not.
    no_runs: Mutex<Option<String>>,
}

impl StatusBoard {
    /// A page of a node that has not looked at anything yet.
    pub fn new(node: NodeId) -> (Self, watch::Receiver<Arc<NodeStatus>>) {
        let status = NodeStatus {
            schema_version: STATUS_SCHEMA,
            node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Timestamp::now(),
            ready: not_ready("belayd has just started"),
            engine: EngineStatus {
                kind: String::new(),
                version: String::new(),
                socket: String::new(),
                reachable: false,
                snapshot: "none".to_owned(),
            },
            workloads: Vec::new(),
            volumes: Vec::new(),
            space: None,
            images: None,
            refused_specs: Vec::new(),
        };
        let (sender, receiver) = watch::channel(Arc::new(status));
        let board = Board { page: sender, no_runs: Mutex::new(None) };
        (Self(Arc::new(board)), receiver)
    }

    /// Says why the node is not ready, while nothing of it is under way.
    pub fn hold(&self, reason: &str) {
        self.change(|status| status.ready = not_ready(reason));
    }

    /// Says why runs are not served: the node is not ready until [`serve_runs`](Self::serve_runs).
    pub fn hold_runs(&self, reason: &str) {
        let before = self.no_runs().replace(reason.to_owned());
        self.change(|status| {
            // A node that is not ready for another reason says that one.
            let is_of_runs = before.is_some_and(|before| status.ready == not_ready(&before));
            if is_of_runs || status.ready == NodeReadiness::Ready {
                status.ready = not_ready(reason);
            }
        });
    }

    /// Says that runners are listened for.
    pub fn serve_runs(&self) {
        let held = self.no_runs().take();
        if let Some(held) = held {
            self.change(|status| {
                if status.ready == not_ready(&held) {
                    self.settle(status);
                }
            });
        }
    }

    fn no_runs(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.no_runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the page.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<NodeStatus>> {
        self.0.page.subscribe()
    }

    /// The page as it is now.
    pub(crate) fn page(&self) -> Arc<NodeStatus> {
        Arc::clone(&self.0.page.borrow())
    }

    /// Shows a workload, or that it is gone.
    pub(crate) fn show_workload(&self, name: &WorkloadName, shown: Option<WorkloadStatus>) {
        self.change(|status| {
            let at = status.workloads.binary_search_by(|other| other.name.cmp(name));
            match (at, shown) {
                (Ok(at), Some(shown)) => status.workloads[at] = shown,
                (Err(at), Some(shown)) => status.workloads.insert(at, shown),
                (Ok(at), None) => {
                    status.workloads.remove(at);
                }
                (Err(_), None) => {}
            }
            self.settle(status);
        });
    }

    pub(crate) fn show_refused(&self, refused: Vec<RefusedSpec>) {
        self.change(|status| status.refused_specs = refused);
    }

    /// Asks the engine whether it is there, shows it, and says so.
    pub(crate) async fn ask_engine(&self, context: &Context) -> bool {
        let before = self.0.page.borrow().engine.clone();
        // The first answer was told by whoever connected.
        let seen_before = !before.kind.is_empty();
        let engine = match context.engine.is_there().await {
            Ok(()) => {
                let engine = engine_status(context.engine.info(), true);
                if seen_before && !before.reachable {
                    context.events.emit_of_node(
                        format!("{} {} answers again", engine.kind, engine.version),
                        EventDetails::EngineReached {
                            engine: engine.kind.as_str().into(),
                            version: engine.version.as_str().into(),
                        },
                    );
                }
                engine
            }
            Err(error) => {
                if before.reachable || !seen_before {
                    let cause = crate::problems::with_causes(&error);
                    context.events.emit_of_node(
                        format!("the container engine does not answer: {cause}"),
                        EventDetails::EngineLost { cause: cause.into() },
                    );
                }
                engine_status(context.engine.info(), false)
            }
        };
        let reachable = engine.reachable;
        self.change(|status| {
            let snapshot = std::mem::take(&mut status.engine.snapshot);
            status.engine = EngineStatus { snapshot, ..engine };
            self.settle(status);
        });
        reachable
    }

    /// Shows what a snapshot of a run is on this node.
    pub fn show_snapshots(&self, kind: &str) {
        self.change(|status| kind.clone_into(&mut status.engine.snapshot));
    }

    pub(crate) fn show_images(&self, images: ImagesStatus) {
        self.change(|status| status.images = Some(images));
    }

    pub(crate) fn show_pulls(&self, pulls: Vec<PullStatus>) {
        self.change(|status| status.images.get_or_insert_default().pulls = pulls);
    }

    pub(crate) fn show_volumes(&self, volumes: Vec<VolumeStatus>) {
        self.change(|status| {
            status.volumes = volumes;
            self.settle(status);
        });
    }

    pub(crate) fn show_space(&self, space: SpaceStatus) {
        self.change(|status| status.space = Some(space));
    }

    fn settle(&self, status: &mut NodeStatus) {
        settle(status, self.no_runs().as_deref());
    }

    fn change(&self, change: impl FnOnce(&mut NodeStatus)) {
        self.0.page.send_if_modified(|shown| {
            let mut next = NodeStatus::clone(shown);
            change(&mut next);
            let changed = next != **shown;
            if changed {
                *shown = Arc::new(next);
            }
            changed
        });
    }
}

fn not_ready(reason: &str) -> NodeReadiness {
    NodeReadiness::NotReady { reason: reason.to_owned() }
}

/// Derives what follows from the rest of the page, and from why runs are not served.
fn settle(status: &mut NodeStatus, no_runs: Option<&str>) {
    let used_by = |volume: &VolumeStatus| {
        let workload = status.workloads.iter().find(|other| other.name == volume.workload)?;
        let used = workload.volumes.contains(&volume.name);
        used.then(|| workload.mounts.get(&volume.name).cloned())
    };
    for at in 0..status.volumes.len() {
        let user = used_by(&status.volumes[at]);
        status.volumes[at].orphan = user.is_none();
        status.volumes[at].container_path = user.flatten();
    }
    let pending = status.workloads.iter().find(|found| found.phase == WorkloadPhase::Pending);
    status.ready = if !status.engine.reachable {
        not_ready(&format!("the engine at {} does not answer", status.engine.socket))
    } else if let Some(pending) = pending {
        not_ready(&format!("{} has not been looked at yet", pending.name))
    } else if let Some(reason) = no_runs {
        not_ready(reason)
    } else {
        NodeReadiness::Ready
    };
}

fn engine_status(info: &belay_engine::EngineInfo, reachable: bool) -> EngineStatus {
    EngineStatus {
        kind: info.kind.to_string().to_ascii_lowercase(),
        version: info.version.to_string(),
        socket: info.socket.display().to_string(),
        reachable,
        snapshot: "none".to_owned(),
    }
}

/// One volume as it is shown.
pub(crate) fn volume_status(
    found: &belay_volumes::VolumeStatus,
    level: Level,
    time_to_full: Option<Duration>,
    generations: Vec<String>,
) -> VolumeStatus {
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
        fault: found.fault.clone().or_else(|| {
            let failed = mounted.is_some_and(|mount| mount.failed);
            failed.then(|| "its file system answers with i/o errors".to_owned())
        }),
        allocation: found.allocation.map(|allocation| match allocation {
            Allocation::Full => VolumeAllocation::Full,
            Allocation::Thin => VolumeAllocation::Thin,
        }),
        direct_io: mounted.map(|mount| mount.direct_io),
        level: crate::core::volume_health::shown(level),
        time_to_full_seconds: time_to_full.map(|left| left.as_secs()),
        errors: mounted.map_or(0, |mount| mount.errors),
        last_check: found.last_check.as_ref().and_then(check_status),
        generations,
    }
}

/// A check whose time is beyond what a clock can say is not shown.
fn check_status(found: &belay_volumes::LastCheck) -> Option<VolumeCheck> {
    let at = i64::try_from(found.at).ok().and_then(|at| Timestamp::from_second(at).ok())?;
    let outcome = match found.outcome {
        belay_volumes::CheckOutcome::Clean => CheckOutcome::Clean,
        belay_volumes::CheckOutcome::Repaired => CheckOutcome::Repaired,
        belay_volumes::CheckOutcome::Damaged => CheckOutcome::Damaged,
    };
    Some(VolumeCheck { at, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_runs_are_served_and_all_else_is_well() {
        let (board, page) = StatusBoard::new("here".parse().expect("a name"));
        let ready = || page.borrow().ready.clone();
        board.hold_runs("not yet");
        assert_eq!(ready(), not_ready("belayd has just started"), "the first reason stays");
        board.change(|status| {
            status.engine.reachable = true;
            board.settle(status);
        });
        assert_eq!(ready(), not_ready("not yet"));
        board.hold_runs("the port is not free");
        assert_eq!(ready(), not_ready("the port is not free"));
        board.serve_runs();
        assert_eq!(ready(), NodeReadiness::Ready);
        board.hold_runs("the port is taken");
        assert_eq!(ready(), not_ready("the port is taken"));
        board.change(|status| {
            status.engine.reachable = false;
            board.settle(status);
        });
        let away = ready();
        assert_ne!(away, not_ready("the port is taken"));
        board.serve_runs();
        assert_eq!(ready(), away, "it is not runs that the node waits for");
    }

    #[test]
    fn a_node_that_was_not_looked_at_does_not_become_ready_by_its_runs() {
        let (board, page) = StatusBoard::new("here".parse().expect("a name"));
        board.hold_runs("not yet");
        board.serve_runs();
        assert_eq!(page.borrow().ready, not_ready("belayd has just started"));
    }
}
