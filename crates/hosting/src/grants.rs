//! What the host of runners needs of those who serve runs.

use std::future::Future;

use belay_lifecycle::core::spec::NetworkMode;
use belay_protocol::WorkloadName;
use belay_protocol::runner::{RunId, RunnerActivity, RunnerId};
use belay_runner::{IssueToken, RunStints, RunnerHandle, Stint, TokenLife, WorkloadPolicy};

use crate::core::container::Reach;

/// What the host of runners needs of those who serve runs.
pub trait Grants: Clone + Send + Sync + 'static {
    /// A token for a runner that is about to be started.
    fn token(
        &self,
        runner: &RunnerId,
        workload: &WorkloadName,
    ) -> impl Future<Output = Result<String, String>> + Send;

    /// A runner is gone: its tokens are worth nothing any more.
    fn revoke(&self, runner: &RunnerId) -> impl Future<Output = ()> + Send;

    /// Says what a workload is granted; none is a workload that takes no runs. Says whether it was
    /// taken.
    fn declare(
        &self,
        workload: &WorkloadName,
        policy: Option<WorkloadPolicy>,
    ) -> impl Future<Output = bool> + Send;

    /// The runners that are known, and what they are at; none when that cannot be told.
    fn runners(&self) -> impl Future<Output = Option<Vec<(RunnerId, RunnerActivity)>>> + Send;

    /// The times that a runner had runs, the oldest first; none when that cannot be told.
    fn stints_of(
        &self,
        runner: &RunnerId,
    ) -> impl Future<Output = Option<Vec<(RunId, Stint)>>> + Send;

    /// The times that runners had a run; none if it is not known.
    fn run_stints(
        &self,
        run: RunId,
    ) -> impl Future<Output = Result<Option<RunStints>, NotTold>> + Send;

    /// Those of these runs that are forgotten; none when that cannot be told.
    fn forgotten(&self, runs: Vec<RunId>) -> impl Future<Output = Option<Vec<RunId>>> + Send;
}

/// Those who serve runs do not answer: they end, or the disk holds them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("those who serve runs do not answer")]
pub struct NotTold;

impl Grants for RunnerHandle {
    async fn token(&self, runner: &RunnerId, workload: &WorkloadName) -> Result<String, String> {
        let wanted = IssueToken {
            runner: runner.clone(),
            workload: workload.clone(),
            life: TokenLife::Container,
        };
        let issued = self.issue(wanted).await.map_err(|error| error.to_string())?;
        Ok(issued.token.expose())
    }

    async fn revoke(&self, runner: &RunnerId) {
        if let Err(error) = Self::revoke(self, runner.clone()).await {
            // It names a container that is gone, and the next start of belayd lets go of it.
            tracing::debug!(%runner, "its token stays for now: {error}");
        }
    }

    async fn declare(&self, workload: &WorkloadName, policy: Option<WorkloadPolicy>) -> bool {
        let taken = match policy {
            Some(policy) => Self::declare(self, workload.clone(), policy).await,
            None => self.withdraw(workload.clone()).await,
        };
        taken.is_ok()
    }

    async fn runners(&self) -> Option<Vec<(RunnerId, RunnerActivity)>> {
        let found = Self::runners(self).await.ok()?;
        Some(found.into_iter().map(|runner| (runner.runner, runner.activity)).collect())
    }

    async fn stints_of(&self, runner: &RunnerId) -> Option<Vec<(RunId, Stint)>> {
        Self::stints_of(self, runner.clone()).await.ok()
    }

    async fn run_stints(&self, run: RunId) -> Result<Option<RunStints>, NotTold> {
        Self::run_stints(self, run).await.map_err(|_| NotTold)
    }

    async fn forgotten(&self, runs: Vec<RunId>) -> Option<Vec<RunId>> {
        Self::forgotten(self, runs).await.ok()
    }
}

/// How runners find belayd, by the network that they are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// From the engine's bridge; none where there is no bridge.
    pub bridge: Option<String>,
    /// From the host's own network.
    pub host: String,
}

impl Door {
    /// The way from this network; none where there is none.
    pub(crate) fn reach(&self, network: NetworkMode, token: String) -> Option<Reach> {
        let url = match network {
            NetworkMode::Bridge => self.bridge.clone()?,
            NetworkMode::Host => self.host.clone(),
            NetworkMode::None => return None,
        };
        Some(Reach { url, token })
    }
}
