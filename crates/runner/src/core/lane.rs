//! The queue of one workload.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use belay_protocol::runner::{RunId, RunnerId};

use crate::core::bindings::SessionId;

/// The first measured restore counts three parts of what was believed before.
const WEIGHT: u32 = 3;

/// What the node grants a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// Runs that may be assigned, executing, waiting or restoring at a time.
    pub max_concurrent: u32,
    /// Where its runners come from.
    pub runners: RunnerSource,
    /// Delay of a snapshot after a suspension.
    pub snapshot_delay: Duration,
}

/// Where runners of a workload come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerSource {
    /// belayd starts containers for them, beside those that connect by themselves.
    Hosted {
        /// What one may use, in bytes.
        memory: u64,
    },
    /// They connect by themselves.
    Foreign,
}

/// Who of a workload waits for what.
#[derive(Debug)]
pub(crate) struct Lane {
    /// None while the workload is not declared: its runs and runners are kept, and wait.
    pub(crate) policy: Option<WorkloadPolicy>,
    /// Runs that may go now, the first first.
    ready: BTreeSet<(Reverse<i32>, RunId)>,
    /// Suspended runs whose wait is over.
    pub(crate) restores: BTreeSet<RunId>,
    /// Sessions of runners that asked for a run. The last one is the warmest.
    pub(crate) idle: BTreeSet<SessionId>,
    /// Containers without a run that are about to ask for one.
    pub(crate) expected: BTreeSet<RunnerId>,
    /// What a restore takes, as measured.
    pub(crate) restore_cost: Duration,
}

impl Lane {
    /// The lane of a workload that is not declared.
    pub(crate) fn undeclared() -> Self {
        Self {
            policy: None,
            ready: BTreeSet::new(),
            restores: BTreeSet::new(),
            idle: BTreeSet::new(),
            expected: BTreeSet::new(),
            restore_cost: Duration::from_secs(1),
        }
    }

    pub(crate) fn max_concurrent(&self) -> u32 {
        self.policy.map_or(0, |policy| policy.max_concurrent)
    }

    pub(crate) fn snapshot_delay(&self) -> Duration {
        self.policy.map_or(Duration::ZERO, |policy| policy.snapshot_delay)
    }

    pub(crate) fn queue(&mut self, priority: i32, run: RunId) {
        self.ready.insert((Reverse(priority), run));
    }

    pub(crate) fn unqueue(&mut self, priority: i32, run: RunId) {
        self.ready.remove(&(Reverse(priority), run));
    }

    pub(crate) fn first(&self) -> Option<RunId> {
        self.ready.first().map(|&(_, run)| run)
    }

    /// Whether more runs wait than runners are about to ask for one.
    pub(crate) fn outnumbers_expected(&self) -> bool {
        self.ready.len() > self.expected.len()
    }

    /// Takes a measured restore into account.
    pub(crate) fn measure_restore(&mut self, took: Duration) {
        self.restore_cost = (self.restore_cost * WEIGHT + took) / (WEIGHT + 1);
    }
}
