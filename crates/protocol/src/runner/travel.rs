//! Checkpoints on their way from one node to another.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{RunId, RunnerId, TravelId};
use crate::{NodeId, WorkloadName};

/// A checkpoint that leaves a node or has left it, as that node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepartureStatus {
    /// Its way.
    pub travel: TravelId,
    /// The node that it is for.
    pub to: NodeId,
    /// How far it is.
    pub stage: DepartureStage,
    /// Until when it can be exported again, if it was exported and is still here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How far a checkpoint is that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DepartureStage {
    /// It is being exported; the run is still this node's.
    Leaving,
    /// The run is not this node's any more.
    Exported,
}

/// Answer to an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedCheckpoint {
    /// What came of it.
    pub verdict: ArrivalVerdict,
    /// Its way.
    pub travel: TravelId,
    /// The node that it comes from.
    pub from: NodeId,
    /// The runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// The run that waits in it.
    pub run: RunId,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What came of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalVerdict {
    /// The run is this node's, and suspended.
    Taken,
    /// It was only looked at, and would be taken.
    WouldBeTaken,
}

/// Answer to the return of a run that was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReclaimedCheckpoint {
    /// The run, which is suspended here again.
    pub run: RunId,
}
