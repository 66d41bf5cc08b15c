//! The task that owns the socket.

use std::hash::{BuildHasher, Hasher, RandomState};

use belay_protocol::WorkloadName;
use belay_protocol::runner::{Attempt, Notice, RunId, RunnerFrame, RunnerId, ServerFrame};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::config::RunnerConfig;
use crate::core::back_off;
use crate::core::conversation::{Conversation, Denied, Fulfilled, Loss, Output, Wish};
use crate::link::{Dialled, Link, Received, read};
use crate::runner::{Run, RunError, RunnerEnd};

/// How long what the runner held may take to be given back when it shuts down.
const FAREWELL: Duration = Duration::from_secs(3);

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Take,
    TakeNoMore,
    Ask(Question),
    Progress,
    Finish,
}

/// A wish for a run that a handle holds.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) run: RunId,
    pub(crate) attempt: Attempt,
    pub(crate) wish: Wish,
    pub(crate) reply: oneshot::Sender<Result<Fulfilled, Denied>>,
}

/// What is handed to whoever asked for a run.
#[derive(Debug)]
pub(crate) enum Offered {
    Run(Run),
    Stopping,
}

impl Offered {
    pub(crate) fn into_run(self) -> Option<Run> {
        match self {
            Self::Run(run) => Some(run),
            Self::Stopping => None,
        }
    }
}

/// How the runner stands, as far as its program may know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    Connecting,
    Welcome(RunnerId, WorkloadName),
    Ended(RunnerEnd),
}

/// A run in a program's hands.
struct HeldRun {
    id: RunId,
    attempt: Attempt,
    lost: watch::Sender<Option<RunError>>,
    gone: oneshot::Receiver<()>,
}

pub(crate) struct RunnerTask {
    config: RunnerConfig,
    talk: Conversation,
    /// For the runs that are handed out; the task itself does not keep the channel open.
    handles: mpsc::WeakSender<Command>,
    commands: mpsc::Receiver<Command>,
    offers: mpsc::Sender<Offered>,
    standing: watch::Sender<Standing>,
    held: Option<HeldRun>,
    reply: Option<oneshot::Sender<Result<Fulfilled, Denied>>>,
}

/// What happened beside the socket.
enum Heard {
    Command(Command),
    /// Nobody waits for the answer any longer.
    GivenUp,
    /// The program has dropped its run.
    RunDropped,
    /// No handle is left.
    NoHandles,
}

impl RunnerTask {
    pub(crate) fn new(
        config: RunnerConfig,
        handles: mpsc::WeakSender<Command>,
        commands: mpsc::Receiver<Command>,
        offers: mpsc::Sender<Offered>,
        standing: watch::Sender<Standing>,
    ) -> Self {
        let talk = Conversation::new();
        Self { config, talk, handles, commands, offers, standing, held: None, reply: None }
    }

    pub(crate) async fn run(mut self) {
        let end = self.stay_connected().await;
        if let Some(held) = self.held.take() {
            held.lost.send_replace(Some(RunError::Ended(end.clone())));
        }
        self.standing.send_replace(Standing::Ended(end));
    }

    /// Connects until there is a reason not to.
    async fn stay_connected(&mut self) -> RunnerEnd {
        let mut failures = 0;
        loop {
            let config = self.config.clone();
            let Some(dialled) = self.meanwhile(Link::dial(&config)).await else {
                return RunnerEnd::ShutDown;
            };
            match dialled {
                Dialled::Open(link) => match self.converse(*link).await {
                    Some(end) => return end,
                    // The first try comes without a pause: a process that was restored on a host
                    // that has started since may wait long for its own timers.
                    None if self.was_welcome() => {
                        failures = 0;
                        continue;
                    }
                    None => {}
                },
                Dialled::Never(end) => return end,
                Dialled::Later => {}
            }
            failures += 1;
            let pause = sleep(back_off::pause(failures, entropy()));
            if self.meanwhile(pause).await.is_none() {
                return RunnerEnd::ShutDown;
            }
        }
    }

    fn was_welcome(&self) -> bool {
        let was = self.standing.send_replace(Standing::Connecting);
        matches!(was, Standing::Welcome(..))
    }

    /// Hears handles while there is no socket; `None` when the runner is to end.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(what);
        loop {
            let heard = tokio::select! {
                done = &mut what => return Some(done),
                heard = self.hear() => heard,
            };
            if !self.take_in(heard, &mut Vec::new()) {
                return None;
            }
        }
    }

    /// Talks over one socket to its end; says whether that is the runner's.
    async fn converse(&mut self, mut link: Link) -> Option<RunnerEnd> {
        self.talk.opened();
        let mut deadline = None;
        let end = loop {
            let farewell = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let mut frames = Vec::new();
            tokio::select! {
                received = link.receive() => match received {
                    Received::Text(text) => {
                        if let Some(frame) = read(&text, |id| self.talk.asked_as(id)) {
                            self.note_welcome(&frame);
                            let outputs = self.talk.heard(frame);
                            self.carry_out(outputs, &mut frames);
                        }
                    }
                    Received::Nothing => {}
                    Received::Closed(end) => break end,
                },
                heard = self.hear(), if deadline.is_none() => {
                    if !self.take_in(heard, &mut frames) {
                        deadline = Some(Instant::now() + FAREWELL);
                    }
                }
                () = farewell => break Some(RunnerEnd::ShutDown),
            }
            if !send_all(&mut link, &frames).await {
                break None;
            }
            if deadline.is_some() && !self.talk.has_debt() {
                break Some(RunnerEnd::ShutDown);
            }
        };
        if end == Some(RunnerEnd::ShutDown) {
            link.close().await;
        }
        self.talk.closed();
        if deadline.is_some() { Some(RunnerEnd::ShutDown) } else { end }
    }

    fn note_welcome(&self, frame: &ServerFrame) {
        if let ServerFrame::Notice(Notice::Welcome(welcome)) = frame {
            let standing = Standing::Welcome(welcome.runner.clone(), welcome.workload.clone());
            self.standing.send_replace(standing);
        }
    }

    /// Waits for something from the handles.
    async fn hear(&mut self) -> Heard {
        let given_up = async {
            match &mut self.reply {
                Some(reply) => reply.closed().await,
                None => std::future::pending().await,
            }
        };
        let dropped = async {
            match &mut self.held {
                // Whether it was dropped or used is one.
                Some(held) => {
                    let _ = (&mut held.gone).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map_or(Heard::NoHandles, Heard::Command),
            () = given_up => Heard::GivenUp,
            () = dropped => Heard::RunDropped,
        }
    }

    /// Takes it in; says whether the runner goes on.
    fn take_in(&mut self, heard: Heard, frames: &mut Vec<RunnerFrame>) -> bool {
        let (outputs, goes_on) = match heard {
            Heard::Command(Command::Take) => (self.talk.take(), true),
            Heard::Command(Command::TakeNoMore) => {
                self.talk.take_no_more();
                (Vec::new(), true)
            }
            Heard::Command(Command::Progress) => (self.talk.progress(), true),
            Heard::Command(Command::Finish) | Heard::NoHandles => (self.talk.finish(), false),
            Heard::Command(Command::Ask(question)) => (self.ask(question), true),
            Heard::GivenUp => {
                self.reply = None;
                (self.talk.unwish(), true)
            }
            Heard::RunDropped => {
                self.reply = None;
                self.held = None;
                (self.talk.wish(Wish::GiveUp), true)
            }
        };
        self.carry_out(outputs, frames);
        goes_on
    }

    fn ask(&mut self, question: Question) -> Vec<Output> {
        let Question { run, attempt, wish, reply } = question;
        let is_held =
            self.held.as_ref().is_some_and(|held| held.id == run && held.attempt == attempt);
        if !is_held {
            // Nobody may wait for it any more.
            let _ = reply.send(Err(Denied::Lost(Loss::TakenAway)));
            return Vec::new();
        }
        self.reply = Some(reply);
        self.talk.wish(wish)
    }

    fn carry_out(&mut self, outputs: Vec<Output>, frames: &mut Vec<RunnerFrame>) {
        for output in outputs {
            match output {
                Output::Send(frame) => frames.push(frame),
                Output::Offer(offer) => {
                    // Without handles nobody takes it, and the runner ends.
                    let Some(handle) = self.handles.upgrade() else { continue };
                    let (lost, is_lost) = watch::channel(None);
                    let (alive, gone) = oneshot::channel();
                    let (id, attempt) = (offer.run, offer.started.attempt);
                    self.held = Some(HeldRun { id, attempt, lost, gone });
                    let run = Run::new(offer, handle, is_lost, alive);
                    // Room is there: the run before it was taken, or this one is dropped with its
                    // channel and given up.
                    let _ = self.offers.try_send(Offered::Run(run));
                }
                Output::Stopping => {
                    let _ = self.offers.try_send(Offered::Stopping);
                }
                Output::Answer(answer) => {
                    let is_end = matches!(answer, Ok(Fulfilled::Completed(_) | Fulfilled::GivenUp));
                    if is_end {
                        self.held = None;
                    }
                    if let Some(reply) = self.reply.take() {
                        // Nobody may wait for it any more.
                        let _ = reply.send(answer);
                    }
                }
                Output::Lost(loss) => {
                    if let Some(held) = self.held.take() {
                        held.lost.send_replace(Some(RunError::Lost(loss)));
                    }
                }
            }
        }
    }
}

async fn send_all(link: &mut Link, frames: &[RunnerFrame]) -> bool {
    for frame in frames {
        if !link.send(frame).await {
            return false;
        }
    }
    true
}

/// A number that differs from process to process and from moment to moment.
fn entropy() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos());
    hasher.finish()
}
