//! What is shown of runs, runners and waitpoints.

use std::collections::BTreeMap;
use std::ops::Bound;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    DepartureStage, DepartureStatus, PAGE_LIMIT, RunDetail, RunId, RunPage, RunQuery, RunStatus,
    RunnerActivity, RunnerId, RunnerLink, RunnerOrigin, RunnerStatus, RunnerTally, SnapshotStatus,
    WaitRequest, WaitStatus, WaitpointId, WaitpointPage, WaitpointQuery, WaitpointState,
    WaitpointStatus,
};
use jiff::Timestamp;

use super::Hub;
use crate::core::admission::Fate;
use crate::core::dispatch::Stage;
use crate::core::event::Origin;
use crate::core::now::Now;
use crate::core::run::{Means, Phase, Run, RunEnd, Stint, Stored, SuspendedWait};

/// The times that runners had a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStints {
    /// The last ones, the oldest first.
    pub stints: Vec<Stint>,
    /// Whether more may come.
    pub progress: RunProgress,
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunProgress {
    /// It does.
    GoesOn,
    /// It is over.
    Over,
}

impl Hub {
    /// All of a run.
    pub fn run_detail(&self, id: RunId, now: &Now) -> Option<RunDetail> {
        let run = self.runs.get(&id)?;
        let output = match &run.phase {
            Phase::Ended { end: RunEnd::Finished { output }, .. } => Some(output.clone()),
            _ => None,
        };
        let waitpoints = run.waitpoints.keys().map(|&waitpoint| waitpoint_status(run, waitpoint));
        Some(RunDetail {
            status: self.run_status(run, now),
            payload: run.submission.payload.clone(),
            output,
            waitpoints: waitpoints.collect(),
        })
    }

    /// The times that runners had a run.
    pub fn run_stints(&self, id: RunId) -> Option<RunStints> {
        let run = self.runs.get(&id)?;
        let progress = if run.is_ended() { RunProgress::Over } else { RunProgress::GoesOn };
        Some(RunStints { stints: run.stints.clone(), progress })
    }

    /// The times that a runner had runs which are remembered, the oldest first.
    pub fn stints_of(&self, runner: &RunnerId) -> Vec<(RunId, Stint)> {
        let stints = self.runs.values().flat_map(|run| {
            let its = run.stints.iter().filter(|stint| stint.runner == *runner);
            its.map(|stint| (run.id, stint.clone()))
        });
        let mut stints: Vec<_> = stints.collect();
        stints.sort_by_key(|(_, stint)| stint.from);
        stints
    }

    /// Those of these runs that are not remembered.
    pub fn forgotten(&self, runs: &[RunId]) -> Vec<RunId> {
        runs.iter().filter(|run| !self.runs.contains_key(run)).copied().collect()
    }

    /// Runs, the newest first.
    pub fn run_page(&self, query: &RunQuery, now: &Now) -> RunPage {
        let limit = query.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
        let asked_for = |run: &&Run| {
            query.workload.as_ref().is_none_or(|workload| *workload == run.submission.workload)
                && (query.states.is_empty() || query.states.contains(&run.run_state()))
        };
        let end = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let older = self.runs.range((Bound::Unbounded, end)).rev().map(|(_, run)| run);
        let runs: Vec<RunStatus> =
            older.filter(asked_for).take(limit).map(|run| self.run_status(run, now)).collect();
        let next = (runs.len() == limit).then(|| runs.last().map(|run| run.run)).flatten();
        RunPage { runs, next }
    }

    /// Runners that are connected or whose containers are kept, by name.
    pub fn runner_list(&self) -> Vec<RunnerStatus> {
        let mut known: BTreeMap<&RunnerId, &WorkloadName> = BTreeMap::new();
        for (runner, resident) in self.admission.residents() {
            known.insert(runner, &resident.workload);
        }
        for session in self.bindings.sessions() {
            known.insert(&session.runner, &session.workload);
        }
        let status = |(runner, workload): (&RunnerId, &WorkloadName)| RunnerStatus {
            runner: runner.clone(),
            workload: workload.clone(),
            origin: match self.origin(runner) {
                Origin::Hosted => RunnerOrigin::Hosted,
                Origin::Foreign => RunnerOrigin::Foreign,
            },
            activity: self.activity(runner, workload),
            link: match self.bindings.session_of(runner) {
                Some(_) => RunnerLink::Connected,
                None => RunnerLink::Away,
            },
            run: self.bindings.run_of(runner),
        };
        known.into_iter().map(status).collect()
    }

    /// Waitpoints, the newest first.
    pub fn waitpoint_page(&self, query: &WaitpointQuery) -> WaitpointPage {
        let limit = query.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
        let mut ids: Vec<(WaitpointId, RunId)> = self
            .waitpoints
            .iter()
            .filter(|&(&id, _)| query.before.is_none_or(|before| id < before))
            .filter(|&(_, &run)| query.run.is_none_or(|wanted| wanted == run))
            .map(|(&id, &run)| (id, run))
            .collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let waitpoints: Vec<WaitpointStatus> = ids
            .into_iter()
            .filter_map(|(id, run)| Some(waitpoint_status(self.runs.get(&run)?, id)))
            .filter(|found| query.workload.as_ref().is_none_or(|name| *name == found.workload))
            .filter(|found| query.states.is_empty() || query.states.contains(&found.state))
            .take(limit)
            .collect();
        let is_full = waitpoints.len() == limit;
        let next = is_full.then(|| waitpoints.last().map(|last| last.waitpoint)).flatten();
        WaitpointPage { waitpoints, next }
    }

    /// Counts.
    pub fn tally(&self) -> RunnerTally {
        RunnerTally {
            connections: self.bindings.sessions().len(),
            runs: self.runs.len(),
            pending_snapshots: self.pending_snapshots(),
            dispatching_snapshots: self.flights(),
            reserved_memory: self.reserved_memory(),
            snapshots: self.counts.tally(),
        }
    }

    /// The runners that leave for other nodes, or were given up to them and are still here.
    pub fn departures(&self) -> BTreeMap<RunnerId, DepartureStatus> {
        let of = |run: &Run| {
            Some((self.bindings.holder(run.id)?.runner.clone(), departure_status(run)?))
        };
        self.runs.values().filter_map(of).collect()
    }

    fn run_status(&self, run: &Run, now: &Now) -> RunStatus {
        let submission = &run.submission;
        let (mut not_before, mut until, mut wait, mut ended_at) = (None, None, None, None);
        match &run.phase {
            Phase::Queued { not_before: moment, .. } => not_before = Some(*moment),
            Phase::Executing { until: moment, .. } => until = *moment,
            Phase::Waiting { suspension, wait: request, .. } => {
                wait = Some(WaitStatus { suspension: *suspension, wait: Some(*request) });
            }
            Phase::Suspended { suspension, wait: suspended, .. } => {
                let request = match suspended {
                    SuspendedWait::Pending(request) => Some(*request),
                    SuspendedWait::Over(_) => None,
                };
                wait = Some(WaitStatus { suspension: *suspension, wait: request });
            }
            Phase::Leaving { stored, .. } => {
                let request = match &stored.wait {
                    SuspendedWait::Pending(request) => Some(*request),
                    SuspendedWait::Over(_) => None,
                };
                wait = Some(WaitStatus { suspension: stored.suspension, wait: request });
            }
            Phase::Ended { at, .. } => ended_at = Some(*at),
            Phase::Assigned | Phase::Moved { .. } | Phase::Restoring { .. } => {}
        }
        RunStatus {
            run: run.id,
            workload: submission.workload.clone(),
            state: run.run_state(),
            created_at: created_at(run.id.unix_millis()),
            priority: submission.priority,
            idempotency_key: submission.idempotency_key.clone(),
            attempt: run.attempt,
            max_attempts: submission.max_attempts,
            epoch: run.epoch,
            runner: self.holder(run.id).cloned(),
            not_before,
            until,
            wait,
            snapshot: self.snapshot_status(run, now),
            failure: run.failure.as_ref().map(ToString::to_string),
            snapshot_failure: run.snapshot_failure.clone(),
            departure: departure_status(run),
            ended_at,
        }
    }

    fn snapshot_status(&self, run: &Run, now: &Now) -> Option<SnapshotStatus> {
        if let Phase::Suspended { means, .. } = &run.phase {
            return Some(match means {
                Means::Checkpoint => SnapshotStatus::Checkpointed {},
                Means::Pause => SnapshotStatus::Paused {},
            });
        }
        if let Phase::Leaving { .. } = &run.phase {
            return Some(SnapshotStatus::Checkpointed {});
        }
        if let Some(pending) = self.snapshots.get(run.id) {
            let left = self.snapshots.left(run.id, now.moment).unwrap_or_default();
            let failures = pending.failures;
            return Some(SnapshotStatus::Pending { due_at: now.later(left), failures });
        }
        match self.dispatch.get(run.id).map(|flight| flight.stage) {
            Some(Stage::Taking) => Some(SnapshotStatus::Dispatching {}),
            Some(Stage::Aborting | Stage::PuttingBack | Stage::Dropping) | None => None,
        }
    }

    fn activity(&self, runner: &RunnerId, workload: &WorkloadName) -> RunnerActivity {
        let fate = self.admission.resident(runner).map(|resident| resident.fate);
        if fate == Some(Fate::Stopping) {
            return RunnerActivity::Stopping;
        }
        let held = self.bindings.run_of(runner).and_then(|run| self.runs.get(&run));
        match held.map(|run| &run.phase) {
            Some(Phase::Assigned) => RunnerActivity::Assigned,
            Some(Phase::Executing { .. }) => RunnerActivity::Executing,
            Some(Phase::Waiting { .. }) => RunnerActivity::Waiting,
            Some(Phase::Suspended { .. } | Phase::Leaving { .. } | Phase::Moved { .. }) => {
                RunnerActivity::Suspended
            }
            Some(Phase::Restoring { .. }) => RunnerActivity::Restoring,
            Some(Phase::Queued { .. } | Phase::Ended { .. }) | None => {
                let session = self.bindings.session_of(runner);
                let lane = self.lanes.get(workload);
                match session.zip(lane) {
                    Some((session, lane)) if lane.idle.contains(&session) => RunnerActivity::Idle,
                    Some(_) | None => RunnerActivity::Unready,
                }
            }
        }
    }
}

fn created_at(unix_millis: u64) -> Timestamp {
    let millis = i64::try_from(unix_millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// Where a run is on its way to, or went.
fn departure_status(run: &Run) -> Option<DepartureStatus> {
    let (departure, stage, until) = match &run.phase {
        Phase::Leaving { departure, .. } => (departure, DepartureStage::Leaving, None),
        Phase::Moved { departure, until, .. } => {
            (departure, DepartureStage::Exported, Some(*until))
        }
        Phase::Ended { end: RunEnd::Moved { departure }, .. } => {
            (departure, DepartureStage::Exported, None)
        }
        Phase::Queued { .. }
        | Phase::Assigned
        | Phase::Executing { .. }
        | Phase::Waiting { .. }
        | Phase::Suspended { .. }
        | Phase::Restoring { .. }
        | Phase::Ended { .. } => return None,
    };
    let (travel, to) = (departure.travel, departure.to.clone());
    Some(DepartureStatus { travel, to, stage, until })
}

fn waitpoint_status(run: &Run, waitpoint: WaitpointId) -> WaitpointStatus {
    let awaited = match &run.phase {
        Phase::Waiting { wait, .. }
        | Phase::Suspended { wait: SuspendedWait::Pending(wait), .. }
        | Phase::Leaving { stored: Stored { wait: SuspendedWait::Pending(wait), .. }, .. } => {
            Some(wait)
        }
        _ => None,
    };
    let is_completed = matches!(run.waitpoints.get(&waitpoint), Some(Some(_)));
    let state = if is_completed {
        WaitpointState::Completed
    } else if run.is_ended() {
        WaitpointState::Abandoned
    } else if awaited == Some(&WaitRequest::Token { waitpoint }) {
        WaitpointState::Awaited
    } else {
        WaitpointState::Open
    };
    WaitpointStatus {
        waitpoint,
        run: run.id,
        workload: run.submission.workload.clone(),
        created_at: created_at(waitpoint.unix_millis()),
        state,
    }
}
