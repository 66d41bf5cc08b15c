//! What a program holds: a runner, and a run.

use std::time::Duration;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    Again, Attempt, AttemptOutcome, NextForRun, RunId, RunnerError, RunnerId, WaitRequest,
    WaitResult, WaitpointId,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::RunnerConfig;
use crate::core::conversation::{Denied, Fulfilled, Loss, Offer, Wish};
use crate::task::{Command, Offered, Question, RunnerTask, Standing};

/// Room for what handles ask; the task takes it at once.
const COMMANDS: usize = 16;

/// A runner: a connection to belayd that is made again whenever it is lost.
///
/// It has one run at a time.
#[derive(Debug)]
pub struct Runner {
    commands: mpsc::Sender<Command>,
    runs: mpsc::Receiver<Offered>,
    standing: watch::Receiver<Standing>,
    task: JoinHandle<()>,
}

/// Why a runner gets no further run, and need not connect again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunnerEnd {
    /// The handshake was refused for good.
    #[error("belayd refused the connection with {status}: {said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, in belayd's words.
        said: String,
    },
    /// Another process connected under this runner's name.
    #[error("another process has connected under this runner's name")]
    Replaced,
    /// belayd saw the container of this runner end.
    #[error("belayd takes this runner's container for ended")]
    Gone,
    /// The runner holds a run of another workload than its token's.
    #[error("the runner holds a run of another workload than its token's")]
    WrongWorkload,
    /// The program has shut the runner down.
    #[error("the runner was shut down")]
    ShutDown,
}

/// Why something that was asked for a run did not come to be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The run is not this runner's any more: drop it.
    #[error("the run is lost: {0}")]
    Lost(Loss),
    /// belayd refused it; the run is still this runner's.
    #[error("{} ({})", .0.message, .0.code)]
    Refused(RunnerError),
    /// It does not go into one frame; the run is still this runner's.
    #[error("{size} bytes do not go into a frame of {limit}")]
    TooLarge {
        /// Of the frame that it would have been.
        size: usize,
        /// The most.
        limit: usize,
    },
    /// The runner has ended, and the run is lost with it.
    #[error(transparent)]
    Ended(#[from] RunnerEnd),
}

impl From<Denied> for RunError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Lost(loss) => Self::Lost(loss),
            Denied::Refused(error) => Self::Refused(error),
            Denied::TooLarge { size, limit } => Self::TooLarge { size, limit },
        }
    }
}

impl Runner {
    /// Begins to connect, in a task of its own on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: RunnerConfig) -> Self {
        let (commands, from_handles) = mpsc::channel(COMMANDS);
        // One run at a time, and the word that there is none.
        let (offers, runs) = mpsc::channel(2);
        let (shown, standing) = watch::channel(Standing::Connecting);
        let task = RunnerTask::new(config, commands.downgrade(), from_handles, offers, shown);
        Self { commands, runs, standing, task: tokio::spawn(task.run()) }
    }

    /// Waits until belayd has let the runner in, and says who it is to belayd.
    pub async fn connected(&mut self) -> Result<(RunnerId, WorkloadName), RunnerEnd> {
        let standing = self.standing.wait_for(|standing| *standing != Standing::Connecting);
        match standing.await.map_err(|_| RunnerEnd::ShutDown)?.clone() {
            Standing::Connecting => unreachable!("it was waited for something else"),
            Standing::Welcome(runner, workload) => Ok((runner, workload)),
            Standing::Ended(end) => Err(end),
        }
    }

    /// The next run, started: from here on its attempt counts. If the last one is still held, its
    /// end is waited for. `None` says that belayd ends this runner, and that the process should end.
    ///
    /// A run that was started for a call that was given up comes with the next one.
    pub async fn next(&mut self) -> Result<Option<Run>, RunnerEnd> {
        if let Ok(offered) = self.runs.try_recv() {
            return Ok(offered.into_run());
        }
        // A closed channel is an end, which the other one tells.
        let asked = Asking(&self.commands);
        let _ = self.commands.send(Command::Take).await;
        let offered = self.runs.recv().await;
        drop(asked);
        match offered {
            Some(offered) => Ok(offered.into_run()),
            None => Err(ended(&self.standing)),
        }
    }

    /// Gives back what the runner holds, closes the connection, and waits for both, a few seconds
    /// at most.
    pub async fn shut_down(self) {
        let Self { commands, runs, standing: _, task } = self;
        let _ = commands.send(Command::Finish).await;
        drop((commands, runs));
        // It has panicked already if it has not ended.
        let _ = task.await;
    }
}

/// Withdraws the wish for a run when the call is given up.
struct Asking<'a>(&'a mpsc::Sender<Command>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // A full channel means that the wish has not arrived, or is dealt with by the next call.
        let _ = self.0.try_send(Command::TakeNoMore);
    }
}

fn ended(standing: &watch::Receiver<Standing>) -> RunnerEnd {
    match &*standing.borrow() {
        Standing::Ended(end) => end.clone(),
        Standing::Connecting | Standing::Welcome(..) => RunnerEnd::ShutDown,
    }
}

/// A run that this runner holds.
///
/// One that is dropped without [`complete`](Self::complete) or [`fail`](Self::fail) is given up: the
/// attempt counts as failed, and another may follow.
#[derive(Debug)]
pub struct Run {
    id: RunId,
    attempt: Attempt,
    payload: Value,
    timeout: Option<Duration>,
    commands: mpsc::Sender<Command>,
    lost: watch::Receiver<Option<RunError>>,
    /// The task sees the run go.
    _alive: oneshot::Sender<()>,
}

impl Run {
    pub(crate) fn new(
        offer: Offer,
        commands: mpsc::Sender<Command>,
        lost: watch::Receiver<Option<RunError>>,
        alive: oneshot::Sender<()>,
    ) -> Self {
        let Offer { run: id, started } = offer;
        Self {
            id,
            attempt: started.attempt,
            payload: started.payload,
            timeout: started.timeout_ms.map(Duration::from_millis),
            commands,
            lost,
            _alive: alive,
        }
    }

    /// Its id.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Which attempt at it this is, counted from 1.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// How long the attempt may execute, its waits apart.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What it was submitted with.
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// The same, as the program's own type.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.payload)
    }

    /// Says that the run executes, without waiting for anything. It is not kept for a belayd that
    /// is away.
    pub async fn progress(&mut self) {
        let _ = self.commands.send(Command::Progress).await;
    }

    /// Makes something that somebody outside completes, with
    /// `POST /v1/waitpoints/{id}/complete`, and that [`wait`](Self::wait) waits for.
    pub async fn waitpoint(&mut self) -> Result<WaitpointId, RunError> {
        match self.wish(Wish::Waitpoint).await? {
            Fulfilled::Waitpoint(waitpoint) => Ok(waitpoint),
            other => unreachable!("a wish for a waitpoint is not fulfilled by {other:?}"),
        }
    }

    /// Waits until somebody has completed a waitpoint, and gives what it was completed with. The
    /// process may be snapshotted meanwhile, after the workload's delay.
    ///
    /// A wait that is given up ends for belayd, too: the run executes again.
    pub async fn wait(&mut self, waitpoint: WaitpointId) -> Result<Value, RunError> {
        match self.suspend(WaitRequest::Token { waitpoint }, None).await? {
            WaitResult::Completed { output } => Ok(output),
            // belayd ends such a wait by a completion, and nobody can complete it with less.
            WaitResult::Elapsed {} => Ok(Value::Null),
        }
    }

    /// Sleeps, as [`sleep_until`](Self::sleep_until), by the clock of this machine.
    pub async fn sleep(&mut self, time: Duration) -> Result<(), RunError> {
        self.sleep_until(Timestamp::now().saturating_add(time).unwrap_or(Timestamp::MAX)).await
    }

    /// Waits until a moment. The process may be snapshotted meanwhile, if the moment is far enough
    /// away.
    pub async fn sleep_until(&mut self, until: Timestamp) -> Result<(), RunError> {
        self.suspend(WaitRequest::Timer { until }, None).await.map(|_| ())
    }

    /// Waits like [`wait`](Self::wait) and [`sleep_until`](Self::sleep_until), with a delay of the
    /// snapshot of its own; zero is at once.
    pub async fn suspend(
        &mut self,
        wait: WaitRequest,
        snapshot_delay: Option<Duration>,
    ) -> Result<WaitResult, RunError> {
        let millis = |delay: Duration| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let snapshot_delay_ms = snapshot_delay.map(millis);
        match self.wish(Wish::Wait { wait, snapshot_delay_ms }).await? {
            Fulfilled::Waited(result) => Ok(result),
            other => unreachable!("a wish to wait is not fulfilled by {other:?}"),
        }
    }

    /// Ends the run with a result. It is durable when this returns; until then it is asked for
    /// again over every connection.
    pub async fn complete(self, output: Value) -> Result<NextForRun, RunError> {
        self.end(AttemptOutcome::Succeeded { output }).await
    }

    /// Ends the attempt without a result, and says what becomes of the run.
    pub async fn fail(
        self,
        error: impl Into<String>,
        again: Again,
    ) -> Result<NextForRun, RunError> {
        self.end(AttemptOutcome::Failed { error: error.into(), again }).await
    }

    /// Comes when the run is not this runner's any more: it was cancelled, its attempt took too long,
    /// or the runner was away for too long. What the program does for it is to be dropped then.
    pub fn lost(&self) -> impl Future<Output = RunError> + Send + 'static {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await.map(|lost| lost.clone()) {
                Ok(Some(error)) => error,
                Ok(None) | Err(_) => RunError::Lost(Loss::TakenAway),
            }
        }
    }

    /// Ends the attempt; the run goes with it unless this is refused.
    pub(crate) async fn end(&self, outcome: AttemptOutcome) -> Result<NextForRun, RunError> {
        match self.wish(Wish::Complete(outcome)).await? {
            Fulfilled::Completed(next) => Ok(next),
            other => unreachable!("a completion is not fulfilled by {other:?}"),
        }
    }

    async fn wish(&self, wish: Wish) -> Result<Fulfilled, RunError> {
        let (reply, answer) = oneshot::channel();
        let question = Question { run: self.id, attempt: self.attempt, wish, reply };
        if self.commands.send(Command::Ask(question)).await.is_err() {
            return Err(self.lost().await);
        }
        match answer.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.lost().await),
        }
    }
}
