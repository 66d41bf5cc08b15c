//! The handle through which the rest of belayd asks: submissions, cancellations, waitpoints, tokens,
//! views, and what workloads are granted.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::runner::{
    Acceptance, CompleteWaitpoint, DepartureStatus, IssuedToken, RunDetail, RunId, RunPage,
    RunQuery, RunnerId, RunnerStatus, RunnerTally, SubmitRequest, Submitted, TravelId, WaitpointId,
    WaitpointPage, WaitpointQuery,
};
use belay_protocol::{NodeId, WorkloadName};
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::event::{Answer, Ask, Origin, Refusal, Traveller, WhetherNew};
use crate::core::hub::RunStints;
use crate::core::lane::WorkloadPolicy;
use crate::core::run::{Departure, Stint, Submission};
use crate::core::tokens::TokenHash;
use crate::records::Passage;

/// What an answer of another kind would mean.
const WRONG_ANSWER: &str = "the hub answers what it was asked";
/// Requests that may wait for the hub's task.
pub(crate) const REQUESTS: usize = 256;
/// How long a request waits for room among those.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take. An answer waits for the disk.
const ANSWER: Duration = Duration::from_secs(30);

/// Handle on the hub's task. Clones share it. What changes something is answered when it is on the
/// disk, and what is shown is what is on the disk.
#[derive(Debug, Clone)]
pub struct RunnerHandle {
    requests: mpsc::Sender<Request>,
    tally: watch::Receiver<RunnerTally>,
}

/// Why a question got no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The hub refused it; nothing has changed.
    #[error("{0}")]
    Refused(Refusal),
    /// More wait for the hub than it takes; nothing has changed.
    #[error("more requests wait than belayd takes")]
    Busy,
    /// No answer came in time, mostly because the disk does not take the ledger's writes. What was
    /// asked may have been done: ask again, a submission under the same idempotency key.
    #[error("no answer came within {} s; it may have been done all the same", ANSWER.as_secs())]
    Unanswered,
    /// belayd is ending. What was asked may have been done, if it was asked before.
    #[error("belayd is ending")]
    Ended,
}

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueToken {
    /// The name that the runner connects under.
    pub runner: RunnerId,
    /// Whose runs it takes.
    pub workload: WorkloadName,
    /// How long it is good for.
    pub life: TokenLife,
}

/// How long a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenLife {
    /// As long as the container of a runner that belayd starts: until
    /// [`RunnerHandle::revoke`], or a start of belayd that finds the runner neither among the
    /// containers nor in a run's record.
    Container,
    /// So long; for connecting, not for staying connected.
    Limited(Duration),
}

impl TokenLife {
    pub(crate) fn origin(self) -> Origin {
        match self {
            Self::Container => Origin::Hosted,
            Self::Limited(_) => Origin::Foreign,
        }
    }
}

/// What the hub's task is asked.
#[derive(Debug)]
pub(crate) enum Request {
    Ask { ask: Ask, reply: oneshot::Sender<Result<Answer, Refusal>> },
    Run { run: RunId, reply: oneshot::Sender<Option<RunDetail>> },
    Runs { query: RunQuery, reply: oneshot::Sender<RunPage> },
    Runners { reply: oneshot::Sender<Vec<RunnerStatus>> },
    Waitpoints { query: WaitpointQuery, reply: oneshot::Sender<WaitpointPage> },
    Declare { workload: WorkloadName, policy: WorkloadPolicy, reply: oneshot::Sender<()> },
    Withdraw { workload: WorkloadName, reply: oneshot::Sender<()> },
    Issue { token: IssueToken, reply: oneshot::Sender<Result<IssuedToken, Refusal>> },
    Revoke { runner: RunnerId, reply: oneshot::Sender<()> },
    RunStints { run: RunId, reply: oneshot::Sender<Option<RunStints>> },
    StintsOf { runner: RunnerId, reply: oneshot::Sender<Vec<(RunId, Stint)>> },
    Admit { passage: Box<Passage>, reply: oneshot::Sender<Result<Answer, Refusal>> },
    TokensOf { runner: RunnerId, reply: oneshot::Sender<Vec<TokenHash>> },
    Departures { reply: oneshot::Sender<BTreeMap<RunnerId, DepartureStatus>> },
    Forgotten { runs: Vec<RunId>, reply: oneshot::Sender<Vec<RunId>> },
}

impl RunnerHandle {
    pub(crate) fn new(tally: watch::Receiver<RunnerTally>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(REQUESTS);
        (Self { requests, tally }, queue)
    }

    /// Submits a run. It is on the disk when this returns.
    pub async fn submit(&self, request: SubmitRequest) -> Result<Submitted, AskError> {
        let submission = Submission {
            workload: request.workload,
            payload: request.payload,
            idempotency_key: request.idempotency_key.map(String::from),
            priority: request.priority,
            delay: Duration::from_millis(request.delay_ms),
            timeout: request.timeout_ms.map(Duration::from_millis),
            max_attempts: request.max_attempts,
        };
        let Answer::Submitted { run, whether } = self.ask(Ask::Submit(submission)).await? else {
            unreachable!("{WRONG_ANSWER}")
        };
        let acceptance = match whether {
            WhetherNew::New => Acceptance::New,
            WhetherNew::Known => Acceptance::Known,
        };
        Ok(Submitted { run, acceptance })
    }

    /// Cancels a run; one that is cancelled already is no error.
    pub async fn cancel(&self, run: RunId) -> Result<(), AskError> {
        self.ask(Ask::Cancel { run }).await.map(drop)
    }

    /// Completes a waitpoint; the same completion a second time is no error.
    pub async fn complete_waitpoint(
        &self,
        waitpoint: WaitpointId,
        completion: CompleteWaitpoint,
    ) -> Result<(), AskError> {
        let output = completion.output;
        self.ask(Ask::CompleteWaitpoint { waitpoint, output }).await.map(drop)
    }

    /// All of one run; none if it is not remembered.
    pub async fn run(&self, run: RunId) -> Result<Option<RunDetail>, AskError> {
        self.send(|reply| Request::Run { run, reply }).await
    }

    /// Runs, the newest first.
    pub async fn runs(&self, query: RunQuery) -> Result<RunPage, AskError> {
        self.send(|reply| Request::Runs { query, reply }).await
    }

    /// Runners that are connected or whose containers are kept, by name.
    pub async fn runners(&self) -> Result<Vec<RunnerStatus>, AskError> {
        self.send(|reply| Request::Runners { reply }).await
    }

    /// Waitpoints, the newest first.
    pub async fn waitpoints(&self, query: WaitpointQuery) -> Result<WaitpointPage, AskError> {
        self.send(|reply| Request::Waitpoints { query, reply }).await
    }

    /// Says what a workload is granted, from now on. Its runs may be submitted and are assigned.
    pub async fn declare(
        &self,
        workload: WorkloadName,
        policy: WorkloadPolicy,
    ) -> Result<(), AskError> {
        self.send(|reply| Request::Declare { workload, policy, reply }).await
    }

    /// Says that a workload takes no runs any more. Its runs are kept: those that a runner is at go
    /// on, the others wait until it is declared again. Its containers that have no run are stopped.
    pub async fn withdraw(&self, workload: WorkloadName) -> Result<(), AskError> {
        self.send(|reply| Request::Withdraw { workload, reply }).await
    }

    /// Makes a token. Its hash is on the disk when this returns; the token is known to the caller
    /// alone. A runner may have several. Names that begin with `run-` are refused but to containers.
    pub async fn issue(&self, token: IssueToken) -> Result<IssuedToken, AskError> {
        self.send(|reply| Request::Issue { token, reply }).await?.map_err(AskError::Refused)
    }

    /// Makes every token of a runner worthless for connecting. A session that is open stays.
    pub async fn revoke(&self, runner: RunnerId) -> Result<(), AskError> {
        self.send(|reply| Request::Revoke { runner, reply }).await
    }

    /// Gives up what is on the disk of a runner, which is on its way out when this returns. The run
    /// that waited in it is tried again, if it may be.
    pub async fn discard(&self, runner: RunnerId) -> Result<RunId, AskError> {
        let Answer::Discarded { run } = self.ask(Ask::Discard { runner }).await? else {
            unreachable!("{WRONG_ANSWER}")
        };
        Ok(run)
    }

    /// Has what is on the disk of a runner leave for another node: it is not restored until it is
    /// called off by [`RunnerHandle::stay`]. Says which run waits in it, and its way.
    pub async fn leave(
        &self,
        runner: RunnerId,
        to: NodeId,
    ) -> Result<(RunId, Departure), AskError> {
        let Answer::Leaves { run, departure } = self.ask(Ask::Leave { runner, to }).await? else {
            unreachable!("{WRONG_ANSWER}")
        };
        Ok((run, departure))
    }

    /// Calls off that a runner leaves; one that does not leave this way is left alone.
    pub async fn stay(&self, runner: RunnerId, travel: TravelId) -> Result<(), AskError> {
        self.ask(Ask::Stay { runner, travel }).await.map(drop)
    }

    /// Gives the run of a runner that leaves up to the other node. When this returns that is on the
    /// disk, and the run is not this node's any more. `from` is this node.
    pub async fn give_up(
        &self,
        runner: RunnerId,
        travel: TravelId,
        from: &NodeId,
    ) -> Result<Passage, AskError> {
        let asked = Ask::GiveUp { runner: runner.clone(), travel };
        let Answer::GivenUp(record) = self.ask(asked).await? else {
            unreachable!("{WRONG_ANSWER}")
        };
        let of = runner.clone();
        let tokens = self.send(|reply| Request::TokensOf { runner: of, reply }).await?;
        Passage::of(from, *record, tokens).ok_or(AskError::Refused(Refusal::NotLeaving(runner)))
    }

    /// Takes back a run that was given up. Who asks vouches that nobody took it.
    pub async fn reclaim(&self, runner: RunnerId) -> Result<RunId, AskError> {
        let Answer::Reclaimed { run } = self.ask(Ask::Reclaim { runner }).await? else {
            unreachable!("{WRONG_ANSWER}")
        };
        Ok(run)
    }

    /// Whether a run that another node gave up may come.
    pub async fn may_come(&self, traveller: Traveller) -> Result<(), AskError> {
        self.ask(Ask::MayCome(traveller)).await.map(drop)
    }

    /// Lets such a run in: it is suspended here when this returns, and its runner can connect.
    pub async fn admit(&self, passage: Passage) -> Result<(), AskError> {
        let passage = Box::new(passage);
        let answered = self.send(|reply| Request::Admit { passage, reply }).await?;
        answered.map(drop).map_err(AskError::Refused)
    }

    /// The runners that leave for other nodes, or were given up to them and are still here.
    pub async fn departures(&self) -> Result<BTreeMap<RunnerId, DepartureStatus>, AskError> {
        self.send(|reply| Request::Departures { reply }).await
    }

    /// The times that runners had a run; none if the run is not known.
    pub async fn run_stints(&self, run: RunId) -> Result<Option<RunStints>, AskError> {
        self.send(|reply| Request::RunStints { run, reply }).await
    }

    /// The times that a runner had runs which are remembered, the oldest first.
    pub async fn stints_of(&self, runner: RunnerId) -> Result<Vec<(RunId, Stint)>, AskError> {
        self.send(|reply| Request::StintsOf { runner, reply }).await
    }

    /// Those of these runs that are not remembered any more.
    pub async fn forgotten(&self, runs: Vec<RunId>) -> Result<Vec<RunId>, AskError> {
        self.send(|reply| Request::Forgotten { runs, reply }).await
    }

    /// Counts, changed when they change.
    pub fn tally(&self) -> watch::Receiver<RunnerTally> {
        self.tally.clone()
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        self.send(|reply| Request::Ask { ask, reply }).await?.map_err(AskError::Refused)
    }

    async fn send<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        match self.requests.send_timeout(request(reply), PATIENCE).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(AskError::Busy),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(AskError::Ended),
        }
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Ended),
            Err(_) => Err(AskError::Unanswered),
        }
    }
}
