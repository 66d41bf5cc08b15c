//! The runner server: begun when the engine is reached, drained at the end.

use anyhow::Context as _;
use belay_ledger::{Ledger, LedgerError};
use belay_protocol::WorkloadName;
use belay_protocol::runner::RunnerTally;
use belay_runner::{
    HostFound, HostPort, HubPolicy, HubStart, RunnerHandle, RunnerServer, RunnerSocket, RunningHub,
    SocketLimits, WorkloadPolicy,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// What the runner server begins with, besides the configuration.
pub(crate) struct Beginning {
    /// Where runs and tokens are kept.
    pub ledger: Ledger,
    /// The way to those who run containers.
    pub host: HostPort,
    /// What those found on the node.
    pub found: HostFound,
    /// Workloads that take runs.
    pub workloads: Vec<(WorkloadName, WorkloadPolicy)>,
}

/// The runner server, running.
pub(crate) struct Runners {
    handle: RunnerHandle,
    server: RunnerServer,
    hub: JoinHandle<Result<(), LedgerError>>,
    listening: JoinSet<()>,
}

impl Runners {
    /// Reads the runs that there are, and lets runners in.
    pub(crate) async fn begin(
        config: &Config,
        beginning: Beginning,
        count: watch::Sender<RunnerTally>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let Beginning { ledger, host, found, workloads } = beginning;
        let memory = match config.runners.memory {
            Some(memory) => memory.as_u64(),
            None => memory_of_host().context("cannot tell how much memory the host has")? / 4 * 3,
        };
        let policy = HubPolicy { memory, ..HubPolicy::default() };
        let shutdown = shutdown.clone();
        let start = HubStart { ledger, policy, workloads, host, found, shutdown: shutdown.clone() };
        let hub = RunningHub::start(start).await.context("cannot read the runs")?;
        let limits =
            SocketLimits { connections: config.runners.connections, ..SocketLimits::default() };
        let server = RunnerServer::new(hub.door, limits, shutdown);
        let mut listening = JoinSet::new();
        listening.spawn(pass_on(hub.handle.tally(), count));
        let socket = RunnerSocket::bind(&config.runtime_dir)?;
        let accepting = server.clone();
        listening.spawn(async move {
            let (listener, _file) = socket.into_parts();
            accepting.serve_unix(listener).await;
        });
        for &address in &config.runners.listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("runner.listen: cannot listen on {address}"))?;
            let accepting = server.clone();
            listening.spawn(async move { accepting.serve_tcp(listener).await });
            tracing::info!(%address, "runners may connect");
        }
        Ok(Self { handle: hub.handle, server, hub: hub.task, listening })
    }

    /// For those who ask.
    pub(crate) fn handle(&self) -> RunnerHandle {
        self.handle.clone()
    }

    /// Waits until every runner was told and let go, after the shutdown.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        let hub = self.hub.await.context("the task of the runs failed")?;
        while self.listening.join_next().await.is_some() {}
        self.server.drained().await;
        hub.context("the runs could not be written to the end")
    }
}

/// Shows the counts of a hub to those who do not have to know it, until it ends.
async fn pass_on(mut tally: watch::Receiver<RunnerTally>, count: watch::Sender<RunnerTally>) {
    loop {
        count.send_replace(*tally.borrow_and_update());
        if tally.changed().await.is_err() {
            return;
        }
    }
}

/// Memory of the host, in bytes.
fn memory_of_host() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|value| value.trim().strip_suffix(" kB"));
    let kibibytes: u64 =
        kibibytes.context("/proc/meminfo has no MemTotal in kB")?.trim().parse()?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_memory() {
        let memory = memory_of_host().expect("is told");
        assert!(memory > 64 << 20 && memory < 1 << 50, "{memory}");
    }
}
