//! What both sides of sync work with.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::control::Stage;
use belay_protocol::{NodeId, ProblemCode, SyncFailure, SyncStatus, WorkloadName};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consumer::held;
use crate::history::History;
use crate::layout::SyncSpec;
use crate::spool::Spool;
use crate::state::{ConsumerMemory, StateDir};

/// Tries of one exchange with the store before its failure is reported.
const TRIES: u32 = 3;
/// Wait before the second try; each later one waits four times as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Bytes per second below which a transfer is not waited for.
const SLOWEST: u64 = 64 * 1024;

/// What a provider or a consumer of one workload holds.
pub(crate) struct Context<S, W> {
    pub(crate) workload: WorkloadName,
    pub(crate) node: NodeId,
    pub(crate) spec: SyncSpec,
    pub(crate) state: StateDir,
    pub(crate) spool: Spool,
    pub(crate) history: History,
    pub(crate) store: Arc<S>,
    pub(crate) window: W,
    pub(crate) status: watch::Sender<SyncStatus>,
    pub(crate) shutdown: CancellationToken,
}

/// Why a publish or an apply did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It failed.
    Failed(Failure),
    /// Something else has the workload for the moment; nobody is to blame.
    Later { reason: String },
    /// The store does not answer, or not as it should; or the host has no room for what it gives.
    Unreachable(Failure),
    /// The daemon is shutting down; the journal says where to go on.
    Shutdown,
}

/// A failure with its stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    /// What kind of failure it is, where the documentation has a paragraph on it.
    pub(crate) code: Option<ProblemCode>,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, code: None, reason: reason.into() }
    }
}

impl Stopped {
    /// A failure that says its causes too.
    pub(crate) fn at(stage: Stage, error: &dyn std::error::Error) -> Self {
        Self::Failed(Failure::new(stage, with_causes(error)))
    }

    pub(crate) fn because(stage: Stage, reason: impl Into<String>) -> Self {
        Self::Failed(Failure::new(stage, reason))
    }

    /// A failure that the documentation knows by its code.
    pub(crate) fn coded(stage: Stage, code: ProblemCode, reason: impl Into<String>) -> Self {
        Self::Failed(Failure { code: Some(code), ..Failure::new(stage, reason) })
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

impl<S, W> Context<S, W> {
    /// Reads or writes journals and memory on a thread that may block.
    pub(crate) async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StateDir) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let state = self.state.clone();
        let done = tokio::task::spawn_blocking(move || work(&state)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Removes every spooled file but the one of this name.
    pub(crate) async fn sweep_spool(&self, but: Option<String>) {
        let spool = self.spool.clone();
        let swept = tokio::task::spawn_blocking(move || spool.sweep(but.as_deref())).await;
        if let Err(error) = swept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(workload = %self.workload, %error, "the spool could not be swept");
        }
    }

    /// Shows what the task is doing.
    pub(crate) fn show(&self, stage: &'static str) {
        tracing::debug!(workload = %self.workload, stage, "sync goes on");
        self.status.send_modify(|status| stage.clone_into(&mut status.stage));
    }

    /// Shows that it does nothing now, and why.
    pub(crate) fn show_rest(&self) {
        self.status.send_modify(|status| {
            let stage = if status.paused.is_some() { "paused" } else { "idle" };
            stage.clone_into(&mut status.stage);
        });
    }

    /// Shows what an operator went back to.
    pub(crate) fn show_held(&self, memory: &ConsumerMemory) {
        let held = held(memory);
        self.status.send_if_modified(|status| {
            let changed = status.held != held;
            status.held = held;
            changed
        });
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.status.borrow().paused.is_some()
    }

    /// Shows what waits, and until when if that is known.
    pub(crate) fn show_waiting(&self, waits: Option<String>, until: Option<Timestamp>) {
        self.status.send_if_modified(|status| {
            let changed = (&status.waits, status.waits_until) != (&waits, until);
            status.waits = waits;
            status.waits_until = until;
            changed
        });
    }

    pub(crate) fn show_failure(&self, failure: &Failure) {
        tracing::warn!(workload = %self.workload, stage = %failure.stage, error = %failure.reason,
            "sync failed");
        self.status.send_modify(|status| {
            status.last_failure = Some(SyncFailure {
                stage: failure.stage.to_string(),
                code: failure.code,
                error: failure.reason.clone(),
                at: Timestamp::now(),
            });
        });
    }

    /// Runs one exchange with the store under its deadline, again if it may then succeed, and not
    /// beyond shutdown.
    pub(crate) async fn exchange<T, E, F>(
        &self,
        stage: Stage,
        retryable: fn(&E) -> bool,
        call: impl FnMut() -> F,
    ) -> Result<Result<T, E>, Stopped>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        self.exchange_within(self.spec.store_timeout, stage, retryable, call).await
    }

    /// The same for `size` bytes, which may take as long as they do on a slow line.
    pub(crate) async fn transfer<T, E, F>(
        &self,
        size: u64,
        stage: Stage,
        retryable: fn(&E) -> bool,
        call: impl FnMut() -> F,
    ) -> Result<Result<T, E>, Stopped>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        let moving = Duration::from_secs(size / SLOWEST);
        let within = self.spec.store_timeout.saturating_add(moving);
        self.exchange_within(within, stage, retryable, call).await
    }

    async fn exchange_within<T, E, F>(
        &self,
        within: Duration,
        stage: Stage,
        retryable: fn(&E) -> bool,
        mut call: impl FnMut() -> F,
    ) -> Result<Result<T, E>, Stopped>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let timed = tokio::time::timeout(within, call());
            let result = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Stopped::Shutdown),
                result = timed => result,
            };
            match result {
                Ok(Err(error)) if attempt < TRIES && retryable(&error) => {
                    tracing::debug!(workload = %self.workload, %error, "the store is asked again");
                }
                Ok(result) => return Ok(result),
                Err(_) if attempt < TRIES => {}
                Err(_) => {
                    let reason = "the store did not answer in time";
                    return Err(Stopped::Unreachable(Failure::new(stage, reason)));
                }
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Stopped::Shutdown),
                () = tokio::time::sleep(wait) => {}
            }
            wait *= 4;
        }
        unreachable!("the last try returns")
    }
}

/// Runs blocking work on its own thread; a panic in it is a failure of `stage`, not of the task.
pub(crate) async fn blocking<T: Send + 'static>(
    stage: Stage,
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Stopped::because(stage, format!("the work ended early: {error}"))),
    }
}

/// How much a reading beside the app gives way, as `nice` counts it: where all processors are wanted
/// it gets about a tenth of one.
const BESIDE: i32 = 10;

/// The same for work that the app does not wait for and need not notice: it gives way to everything
/// else on the host.
///
/// It has a thread of its own, since a thread may not be able to take its former place again.
pub(crate) async fn blocking_beside<T: Send + 'static>(
    stage: Stage,
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    blocking(stage, move || {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("beside".to_owned());
            let spawned = thread.spawn_scoped(scope, move || {
                // Means this thread alone. Where it is refused, the work is done all the same.
                if let Err(error) = rustix::process::setpriority_process(None, BESIDE) {
                    tracing::debug!(%error, "a reading does not give way to others");
                }
                work()
            });
            let spawned = spawned.map_err(|error| Stopped::at(stage, &error))?;
            spawned.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
    .await
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds since 1970; 0 before.
pub(crate) fn version(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}
