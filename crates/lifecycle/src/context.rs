//! What all workloads of a node share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use belay_engine::Engine;
use belay_events::EventSink;
use belay_ledger::Ledger;
use belay_locks::Locks;
use belay_protocol::{NodeId, WorkloadName};
use belay_sync::{LocalStore, NodeKey};
use belay_volumes::Volumes;
use tokio_util::sync::CancellationToken;

use crate::board::StatusBoard;
use crate::images::ImagesHandle;
use crate::probe::NodeProber;
use crate::roll::Roll;
use crate::templates::Templates;

/// The parts of a node that workloads use.
#[derive(Debug, Clone)]
pub struct Context {
    /// Name of the node.
    pub node: NodeId,
    /// Random id of this installation, kept in its state directory: two nodes that were given one
    /// name by mistake do not take each other's containers.
    pub instance: String,
    /// Id of the host's present boot.
    pub boot_id: String,
    /// The container engine.
    pub engine: Engine,
    /// Looks at it that all workloads share.
    pub roll: Roll,
    /// Asks workloads whether they serve.
    pub prober: NodeProber,
    /// The images.
    pub images: ImagesHandle,
    /// The volumes.
    pub volumes: Volumes,
    /// The locks that other processes of this host see.
    pub locks: Locks,
    /// The durable state.
    pub ledger: Ledger,
    /// Where volume-sync publishes and looks.
    pub store: Arc<LocalStore>,
    /// The key by which this node signs what it publishes.
    pub signing_key: NodeKey,
    /// Directory with one directory per workload.
    pub workloads_dir: PathBuf,
    /// Where what happens is told.
    pub events: EventSink,
    /// Directory on tmpfs for what must not outlive a boot.
    pub runtime_dir: PathBuf,
    /// The workloads that take runs, for the host of their runners.
    pub templates: Templates,
    /// The page that the node shows of itself.
    pub board: StatusBoard,
    /// How long a container of ours without a workload is left before it is removed.
    pub orphan_grace: Duration,
    /// Cancelled when belayd ends.
    pub shutdown: CancellationToken,
}

impl Context {
    /// Directory of a workload's own state.
    pub(crate) fn state_dir(&self, workload: &WorkloadName) -> PathBuf {
        self.workloads_dir.join(workload.as_str())
    }
}
