//! The task that owns the hub: the only writer of runs and bindings.
//!
//! It takes in what sockets, the engine's side, callers and the clock bring, hands it to the hub one
//! by one, and carries the effects out in their order, those behind a write after its commit. It
//! waits for nobody: a socket that does not take its message is closed, orders that the engine's side
//! does not take yet wait here, and the disk works beside it. While too much waits, for the disk
//! mostly, nothing more is taken in.

mod carry;
mod commit;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use belay_events::EventSink;
use belay_ledger::{Ledger, LedgerError};
use belay_protocol::WorkloadName;
use belay_protocol::runner::{
    CloseReason, RequestId, RunId, RunnerId, RunnerNote, RunnerRequest, RunnerTally, ServerFrame,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::commit::Commit;
use crate::clock::Clock;
use crate::core::bindings::SessionId;
use crate::core::event::{Answer, AskId, Effect, Event, HostOrder, Refusal, RunRecord};
use crate::core::hub::{Hub, HubPolicy};
use crate::core::lane::WorkloadPolicy;
use crate::core::outbox::Outbox;
use crate::core::tale::Tale;
use crate::core::tokens::{Denial, TokenHash, Tokens};
use crate::failpoint::{Point, reached};
use crate::handle::{Request, RunnerHandle};
use crate::host::{HostFound, HostPort};
use crate::records::{self, Books, Writes};

/// Messages of sockets that may wait. A socket that finds no room stops reading.
const INBOUND: usize = 1024;
/// Events that are handled before effects are carried out.
const BURST: usize = 128;
/// Effects that may wait, for the disk mostly, before nothing more is taken in.
const WAITING: usize = 8192;
/// How long the end may take: what was accepted is written, runners are told and let go.
const DRAIN: Duration = Duration::from_secs(5);

/// What the hub's task begins with.
#[derive(Debug)]
pub struct HubStart {
    /// Where runs and tokens are kept.
    pub ledger: Ledger,
    /// What the node grants.
    pub policy: HubPolicy,
    /// Workloads that are declared, with what each is granted.
    pub workloads: Vec<(WorkloadName, WorkloadPolicy)>,
    /// Where what happens is told.
    pub events: EventSink,
    /// The way to the engine's side.
    pub host: HostPort,
    /// What the engine's side found.
    pub found: HostFound,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// The hub's task, running.
#[derive(Debug)]
pub struct RunningHub {
    /// For those who ask.
    pub handle: RunnerHandle,
    /// For those who listen: what sockets are let in by.
    pub door: HubDoor,
    /// Ends after the shutdown, or when the ledger has ended.
    pub task: JoinHandle<Result<(), LedgerError>>,
}

/// The way of sockets to the hub.
#[derive(Debug, Clone)]
pub struct HubDoor {
    pub(crate) inbound: mpsc::Sender<Inbound>,
}

/// What a socket brings.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// Somebody shows a token.
    Knock { hash: TokenHash, reply: oneshot::Sender<Result<Pass, Denial>> },
    /// A socket is open.
    Opened { session: SessionId, pass: Pass, line: Line },
    /// A request was read. Its answer comes through the line.
    Request { session: SessionId, id: RequestId, request: RunnerRequest },
    /// A notification was read.
    Note { session: SessionId, note: RunnerNote },
    /// The socket is closed.
    Closed { session: SessionId },
}

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) runner: RunnerId,
    pub(crate) workload: WorkloadName,
}

/// The way from the hub to a socket.
#[derive(Debug)]
pub(crate) struct Line {
    /// Bounded: who does not take its messages is closed.
    pub(crate) frames: mpsc::Sender<Box<ServerFrame>>,
    /// Ends the socket after the frames that were sent before.
    pub(crate) close: oneshot::Sender<CloseReason>,
}

/// What goes out, in order.
enum Out {
    Effect(Effect),
    /// An answer that is ready.
    Show(Box<dyn FnOnce() + Send>),
}

impl RunningHub {
    /// Reads the ledger and begins. Nobody is let in before.
    pub async fn start(start: HubStart) -> Result<Self, LedgerError> {
        let HubStart { ledger, mut policy, workloads, events, host, found, shutdown } = start;
        policy.snapshots = found.snapshots;
        let kept = records::load(&ledger).await?;
        for lost in &kept.lost {
            tracing::error!(
                "a record of the runner server could not be read and is set aside: {lost}"
            );
        }
        let clock = Clock::begin();
        let now = clock.now();
        let mut tokens = Tokens::default();
        for (hash, grant) in kept.tokens {
            tokens.insert(hash, grant);
        }
        let runners = known_runners(&kept.records, &found);
        let worthless = tokens.collect(&now, |runner| runners.contains(runner));
        let (runs, containers) = (kept.records.len(), found.hosted.len());
        let (hub, effects) = Hub::restart(policy, workloads, kept.records, &found.hosted, &now);
        tracing::info!(runs, containers, "the runner server begins");

        let (tell, tally) = watch::channel(hub.tally());
        let (handle, requests) = RunnerHandle::new(tally);
        let (inbound, brought) = mpsc::channel(INBOUND);
        let mut task = HubTask {
            hub,
            clock,
            tokens,
            outbox: Outbox::default(),
            events,
            tales: Vec::new(),
            books: kept.books,
            lines: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            arriving: None,
            orders: VecDeque::new(),
            tell,
        };
        for hash in worthless {
            task.outbox.write(|writes| writes.remove_token(hash));
        }
        task.take_effects(effects);
        task.hub.recall(kept.travels);
        let ways = Ways { ledger, host, requests, brought, shutdown };
        let task = tokio::spawn(task.run(ways));
        Ok(Self { handle, door: HubDoor { inbound }, task })
    }
}

/// Runners that may come back with the token they have.
fn known_runners(records: &[RunRecord], found: &HostFound) -> HashSet<RunnerId> {
    let mut runners: HashSet<RunnerId> =
        found.hosted.iter().map(|hosted| hosted.runner.clone()).collect();
    for record in records {
        runners.extend(record.owner.as_ref().map(|owner| owner.runner.clone()));
        runners.extend(record.flight.as_ref().map(|flight| flight.ticket.runner.clone()));
    }
    runners
}

struct HubTask {
    hub: Hub,
    clock: Clock,
    tokens: Tokens,
    outbox: Outbox<Writes, Out>,
    events: EventSink,
    /// What is told with the next commit.
    tales: Vec<Tale>,
    books: Books,
    lines: HashMap<SessionId, Line>,
    asks: HashMap<AskId, oneshot::Sender<Result<Answer, Refusal>>>,
    next_ask: u64,
    /// The run that is being let in from another node: all of it is to be written.
    arriving: Option<RunId>,
    /// Orders that the engine's side has no room for yet.
    orders: VecDeque<HostOrder>,
    tell: watch::Sender<RunnerTally>,
}

/// Where things come from and go to.
struct Ways {
    ledger: Ledger,
    host: HostPort,
    requests: mpsc::Receiver<Request>,
    brought: mpsc::Receiver<Inbound>,
    shutdown: CancellationToken,
}

/// Whether the end has begun.
#[derive(Debug, Clone, Copy)]
enum Ending {
    NotYet,
    /// It is over at this time at the latest.
    Until(Instant),
}

impl HubTask {
    async fn run(mut self, ways: Ways) -> Result<(), LedgerError> {
        let Ways { ledger, mut host, mut requests, mut brought, shutdown } = ways;
        let mut ending = Ending::NotYet;
        let mut commit: Option<Commit> = None;
        let (mut host_listens, mut host_tells) = (true, true);
        let (mut doors_open, mut handles_held) = (true, true);
        let (mut asked, mut said, mut told) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            self.carry_out();
            if commit.is_none()
                && let Some(writes) = self.outbox.begin_commit()
            {
                reached(Point::CommitBegins);
                let batch = self.books.batch(writes)?;
                self.tell_tales();
                commit = Some(Commit::begin(&ledger, batch));
            }
            self.tell_tally();
            if let Ending::Until(_) = ending
                && self.outbox.is_empty()
            {
                self.let_everybody_go();
                return Ok(());
            }
            let takes_in = self.outbox.len() < WAITING;
            let deadline = self.hub.next_deadline().filter(|_| takes_in);
            let wake_at = deadline.map(|deadline| self.clock.wake_at(deadline));
            tokio::select! {
                result = Commit::ended(&mut commit) => {
                    commit = None;
                    result?;
                    reached(Point::Committed);
                    self.outbox.committed();
                    self.carry_out();
                    reached(Point::CarriedOut);
                }
                permit = host.orders.reserve(), if host_listens && !self.orders.is_empty() => {
                    match permit {
                        Ok(permit) => {
                            permit.send(self.orders.pop_front().expect("looked at above"));
                        }
                        Err(_) => host_listens = false,
                    }
                }
                count = host.events.recv_many(&mut told, BURST), if takes_in && host_tells => {
                    host_tells = count > 0;
                    for event in told.drain(..) {
                        self.happened(Event::Host(event));
                    }
                }
                count = brought.recv_many(&mut said, BURST), if takes_in && doors_open => {
                    doors_open = count > 0;
                    for inbound in said.drain(..) {
                        self.brought(inbound);
                    }
                }
                count = requests.recv_many(&mut asked, BURST), if takes_in && handles_held => {
                    handles_held = count > 0;
                    for request in asked.drain(..) {
                        self.requested(request);
                    }
                }
                () = sleep_until(wake_at) => self.happened(Event::Tick),
                () = shutdown.cancelled(), if matches!(ending, Ending::NotYet) => {
                    ending = Ending::Until(Instant::now() + DRAIN);
                    self.happened(Event::Drain);
                }
                () = ends(ending) => {
                    tracing::warn!(
                        sockets = self.lines.len(),
                        waiting = self.outbox.len(),
                        "the runner server ends before all was told"
                    );
                    return Ok(());
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn ends(ending: Ending) {
    match ending {
        Ending::NotYet => std::future::pending().await,
        Ending::Until(at) => tokio::time::sleep_until(at).await,
    }
}
