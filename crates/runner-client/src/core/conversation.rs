//! A runner's side of the protocol: what it holds, what its program wants, and what is to be said
//! next.
//!
//! One request is under way at a time. Which one follows from what the program wants and from how
//! belayd says the run stands, and not from what was sent before; so a connection that is lost
//! changes nothing but that everything is looked at again.

use std::fmt;

use belay_protocol::runner::{
    Attempt, AttemptOutcome, CompleteRequest, ContinueRequest, Empty, Epoch, MAX_FRAME, NextForRun,
    Notice, Progress, ReleaseReason, Reply, RequestId, Resumed, RunId, RunReference, RunStanding,
    RunnerError, RunnerErrorCode, RunnerFrame, RunnerNote, RunnerRequest, ServerFrame, Standing,
    Started, SuspendRequest, SuspensionId, WaitRequest, WaitResult, WaitpointId,
};

/// What the program of a runner wants of the run that it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wish {
    /// Something that somebody outside completes.
    Waitpoint,
    /// To wait.
    Wait {
        /// For this.
        wait: WaitRequest,
        /// Until it is snapshotted, in milliseconds.
        snapshot_delay_ms: Option<u64>,
    },
    /// The attempt has ended.
    Complete(AttemptOutcome),
    /// It gives the run up.
    GiveUp,
}

/// How a wish was fulfilled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fulfilled {
    Waitpoint(WaitpointId),
    Waited(WaitResult),
    Completed(NextForRun),
    GivenUp,
}

/// Why a wish was not fulfilled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Denied {
    /// The run is not this runner's any more.
    Lost(Loss),
    /// belayd refused it.
    Refused(RunnerError),
    /// It does not go into one frame.
    TooLarge { size: usize, limit: usize },
}

/// Why a run is not this runner's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// belayd took it, and said why.
    Released(ReleaseReason),
    /// It went to somebody else, or ended, while this runner was away.
    TakenAway,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Released(ReleaseReason::Cancelled) => "it was cancelled",
            Self::Released(ReleaseReason::TimedOut) => "its attempt took longer than it may",
            Self::Released(ReleaseReason::NotStarted) => "it was not started in time",
            Self::TakenAway => "it is bound to this runner no longer",
        })
    }
}

/// A run that begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub(crate) run: RunId,
    pub(crate) started: Started,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// Say this.
    Send(RunnerFrame),
    /// Hand the run to whoever asked for one.
    Offer(Offer),
    /// belayd ends this runner: there is no further run.
    Stopping,
    /// Answer the wish.
    Answer(Result<Fulfilled, Denied>),
    /// The run that the program holds is lost.
    Lost(Loss),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// belayd has not said yet how things stand.
    Opening,
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Ready,
    Start,
    Waitpoint,
    Suspend(WaitRequest),
    Continue,
    Complete,
    Stop,
}

/// What the runner is at.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    /// Nothing; belayd may know that it is ready.
    None(Readiness),
    /// A run is assigned; it starts when the program wants one.
    Assigned {
        run: RunId,
        epoch: Epoch,
        attempt: Attempt,
    },
    Held(Held),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Unsaid,
    Said,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    run: RunId,
    epoch: Epoch,
    attempt: Attempt,
    /// The suspension that belayd has the run in.
    waits_in: Option<SuspensionId>,
    /// The last suspension that this runner knows of.
    last: SuspensionId,
    wish: Option<Wish>,
    /// The suspension of a wish to wait.
    own: Option<SuspensionId>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Conversation {
    link: Link,
    next_id: u64,
    asked: Option<(RequestId, Asked)>,
    work: Work,
    /// Whether the program waits for a run.
    is_wanted: bool,
    /// A run that nobody here works on, to be given back: an earlier process under this name had it.
    orphan: Option<RunReference>,
    /// Whether belayd ends this runner.
    is_stopping: bool,
}

impl Conversation {
    pub(crate) fn new() -> Self {
        Self {
            link: Link::Down,
            next_id: 1,
            asked: None,
            work: Work::None(Readiness::Unsaid),
            is_wanted: false,
            orphan: None,
            is_stopping: false,
        }
    }

    /// Under which name a request is under way, for the reader of its answer.
    pub(crate) fn asked_as(&self, id: RequestId) -> Option<&'static str> {
        let (_, asked) = self.asked.filter(|(under_way, _)| *under_way == id)?;
        Some(match asked {
            Asked::Ready => "ready",
            Asked::Start => "start",
            Asked::Waitpoint => "waitpoint",
            Asked::Suspend(_) => "suspend",
            Asked::Continue => "continue",
            Asked::Complete => "complete",
            Asked::Stop => "stop",
        })
    }

    /// A socket is open.
    pub(crate) fn opened(&mut self) {
        self.link = Link::Opening;
        self.asked = None;
        self.orphan = None;
    }

    /// The socket is gone.
    pub(crate) fn closed(&mut self) {
        self.link = Link::Down;
        self.asked = None;
        self.orphan = None;
        if let Work::None(readiness) = &mut self.work {
            *readiness = Readiness::Unsaid;
        }
    }

    /// The program wants a run: when the one that it holds is over, if it holds one.
    pub(crate) fn take(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.is_wanted = true;
        self.advance(&mut out);
        out
    }

    /// The program does not wait for a run any longer.
    pub(crate) fn take_no_more(&mut self) {
        self.is_wanted = false;
    }

    /// The program ends: whatever is bound to it is given back.
    pub(crate) fn finish(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.is_wanted = false;
        if let Some((run, epoch)) = self.reference() {
            self.lose(Loss::TakenAway, &mut out);
            self.orphan = Some(RunReference { run, epoch });
        }
        self.advance(&mut out);
        out
    }

    /// Whether something is still to be given back, and somebody is there to take it.
    pub(crate) fn has_debt(&self) -> bool {
        self.link != Link::Down && self.orphan.is_some()
    }

    /// The program wants something of the run that it holds.
    pub(crate) fn wish(&mut self, wish: Wish) -> Vec<Output> {
        let mut out = Vec::new();
        match &mut self.work {
            Work::Held(held) => {
                held.wish = Some(wish);
                held.own = None;
                if let Some(size) = held.oversize() {
                    held.wish = None;
                    let denied = Denied::TooLarge { size, limit: MAX_FRAME };
                    out.push(Output::Answer(Err(denied)));
                }
            }
            Work::None(_) | Work::Assigned { .. } => {
                out.push(Output::Answer(Err(Denied::Lost(Loss::TakenAway))));
            }
        }
        self.advance(&mut out);
        out
    }

    /// The program wants it no longer.
    pub(crate) fn unwish(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        if let Work::Held(held) = &mut self.work {
            held.wish = None;
            held.own = None;
        }
        self.advance(&mut out);
        out
    }

    /// The program says that it executes.
    pub(crate) fn progress(&mut self) -> Vec<Output> {
        match &self.work {
            Work::Held(Held { run, epoch, wish: None, waits_in: None, .. })
                if self.link == Link::Settled =>
            {
                let progress = Progress { run: *run, epoch: *epoch };
                vec![Output::Send(RunnerFrame::Note(RunnerNote::Progress(progress)))]
            }
            Work::None(_) | Work::Assigned { .. } | Work::Held(_) => Vec::new(),
        }
    }

    /// belayd said something.
    pub(crate) fn heard(&mut self, frame: ServerFrame) -> Vec<Output> {
        let mut out = Vec::new();
        match frame {
            ServerFrame::Ok { id, reply } => {
                if let Some(asked) = self.answered(id) {
                    self.granted(asked, reply, &mut out);
                }
            }
            ServerFrame::Error { id, error } => {
                if let Some(asked) = self.answered(id) {
                    self.refused(asked, error, &mut out);
                }
            }
            ServerFrame::Notice(Notice::Welcome(welcome)) => {
                if welcome.run.is_none() {
                    self.link = Link::Settled;
                }
                self.bound(welcome.run, &mut out);
            }
            ServerFrame::Notice(Notice::State(state)) => {
                self.link = Link::Settled;
                self.bound(Some(state.run), &mut out);
                self.stands(state, &mut out);
            }
            ServerFrame::Notice(Notice::Released(released)) => {
                if self.run() == Some(released.run) {
                    self.lose(Loss::Released(released.reason), &mut out);
                }
            }
            // A progress that came too late; the state message says the same and more.
            ServerFrame::Notice(Notice::Refused(_)) => {}
        }
        self.advance(&mut out);
        out
    }

    /// What was asked under this id, if its answer is awaited.
    fn answered(&mut self, id: RequestId) -> Option<Asked> {
        self.asked.take_if(|(under_way, _)| *under_way == id).map(|(_, asked)| asked)
    }

    fn reference(&self) -> Option<(RunId, Epoch)> {
        match &self.work {
            Work::Assigned { run, epoch, .. } | Work::Held(Held { run, epoch, .. }) => {
                Some((*run, *epoch))
            }
            Work::None(_) => None,
        }
    }

    fn run(&self) -> Option<RunId> {
        self.reference().map(|(run, _)| run)
    }

    /// belayd says which run is bound to this runner.
    fn bound(&mut self, bound: Option<RunId>, out: &mut Vec<Output>) {
        if self.run().is_none() || self.run() == bound {
            return;
        }
        // A completion whose answer was lost has ended the binding; it is asked again.
        let completes =
            matches!(&self.work, Work::Held(Held { wish: Some(Wish::Complete(_)), .. }));
        if !(completes && bound.is_none()) {
            self.lose(Loss::TakenAway, out);
        }
    }

    /// The run is not this runner's any more.
    fn lose(&mut self, loss: Loss, out: &mut Vec<Output>) {
        let work = std::mem::replace(&mut self.work, Work::None(Readiness::Unsaid));
        if let Work::Held(held) = work {
            match held.wish {
                Some(Wish::GiveUp) => out.push(Output::Answer(Ok(Fulfilled::GivenUp))),
                Some(Wish::Waitpoint | Wish::Wait { .. } | Wish::Complete(_)) => {
                    out.push(Output::Answer(Err(Denied::Lost(loss))));
                }
                None => {}
            }
            out.push(Output::Lost(loss));
        }
    }

    /// How belayd says that a run stands which is bound to this session.
    fn stands(&mut self, state: RunStanding, out: &mut Vec<Output>) {
        let RunStanding { run, epoch, standing } = state;
        let attempt = match standing {
            Standing::Assigned { attempt }
            | Standing::Executing { attempt, .. }
            | Standing::Waiting { attempt, .. } => attempt,
        };
        let is_assigned = matches!(standing, Standing::Assigned { .. });
        if let Work::Held(held) = &mut self.work
            && !is_assigned
            && held.attempt == attempt
        {
            held.epoch = epoch;
            if let Some(result) = held.told(standing) {
                held.wish = None;
                held.own = None;
                out.push(Output::Answer(Ok(Fulfilled::Waited(result))));
            }
            return;
        }
        // An answer to the start may have been lost: asking again begins nothing a second time.
        let begins = matches!(&self.work, Work::Assigned { attempt: same, .. } if *same == attempt);
        let is_fresh = matches!(standing, Standing::Executing { resumed: None, .. });
        let is_to_start = is_assigned || (begins && is_fresh);
        if !is_to_start {
            self.lose(Loss::TakenAway, out);
            self.orphan = Some(RunReference { run, epoch });
            return;
        }
        if matches!(self.work, Work::Held(_)) {
            self.lose(Loss::TakenAway, out);
        }
        self.work = Work::Assigned { run, epoch, attempt };
    }

    fn granted(&mut self, asked: Asked, reply: Reply, out: &mut Vec<Output>) {
        match (reply, &mut self.work) {
            (Reply::Ready(Empty {}), Work::None(readiness)) => *readiness = Readiness::Said,
            (Reply::Start(started), Work::Assigned { run, epoch, .. }) => {
                let (run, epoch) = (*run, *epoch);
                self.work = Work::Held(Held {
                    run,
                    epoch,
                    attempt: started.attempt,
                    waits_in: None,
                    last: SuspensionId::default(),
                    wish: None,
                    own: None,
                });
                self.is_wanted = false;
                out.push(Output::Offer(Offer { run, started }));
            }
            (Reply::Waitpoint(created), Work::Held(held)) => {
                held.waits_in = None;
                if held.wish.take_if(|wish| *wish == Wish::Waitpoint).is_some() {
                    let waitpoint = Fulfilled::Waitpoint(created.waitpoint);
                    out.push(Output::Answer(Ok(waitpoint)));
                }
            }
            (Reply::Suspend(suspended), Work::Held(held)) => {
                held.waits_in = Some(suspended.suspension);
                held.last = suspended.suspension;
                // The program may have turned to another wait meanwhile.
                if matches!(&held.wish, Some(Wish::Wait { wait, .. }) if asked == Asked::Suspend(*wait))
                {
                    held.own = Some(suspended.suspension);
                }
            }
            (Reply::Continue(_), Work::Held(held)) => held.waits_in = None,
            (Reply::Complete(completed), Work::Held(_)) => {
                self.work = Work::None(Readiness::Unsaid);
                out.push(Output::Answer(Ok(Fulfilled::Completed(completed.next))));
            }
            (Reply::Stop(Empty {}), Work::Held(_)) if self.orphan.is_none() => {
                self.work = Work::None(Readiness::Unsaid);
                out.push(Output::Answer(Ok(Fulfilled::GivenUp)));
            }
            (Reply::Stop(Empty {}), _) => self.orphan = None,
            // What it was for is over.
            (
                Reply::Ready(_)
                | Reply::Start(_)
                | Reply::Waitpoint(_)
                | Reply::Suspend(_)
                | Reply::Continue(_)
                | Reply::Complete(_),
                _,
            ) => {}
        }
    }

    fn refused(&mut self, asked: Asked, error: RunnerError, out: &mut Vec<Output>) {
        let is_orphan = asked == Asked::Stop && self.orphan.take().is_some();
        match error.code {
            // The close of the socket follows and says what to do.
            RunnerErrorCode::SessionReplaced => self.link = Link::Opening,
            RunnerErrorCode::RunnerStopping => {
                self.is_stopping = true;
            }
            RunnerErrorCode::UnknownRun
            | RunnerErrorCode::NotBound
            | RunnerErrorCode::BoundElsewhere
            | RunnerErrorCode::StaleEpoch
            | RunnerErrorCode::StaleAttempt => {
                if !is_orphan {
                    self.lose(Loss::TakenAway, out);
                }
            }
            RunnerErrorCode::StaleSuspension
            | RunnerErrorCode::WrongState
            | RunnerErrorCode::UnknownWaitpoint
            | RunnerErrorCode::TooManyWaitpoints
            | RunnerErrorCode::MalformedFrame
            | RunnerErrorCode::UnknownType
            | RunnerErrorCode::WrongKind
            | RunnerErrorCode::InvalidBody => self.refused_wish(asked, error, out),
        }
    }

    /// The run is still this runner's, and what was asked cannot be.
    fn refused_wish(&mut self, asked: Asked, error: RunnerError, out: &mut Vec<Output>) {
        match (&mut self.work, asked) {
            (Work::Held(held), Asked::Continue) => held.waits_in = None,
            (Work::Held(held), Asked::Waitpoint | Asked::Suspend(_) | Asked::Complete) => {
                held.own = None;
                if held.wish.take().is_some() {
                    out.push(Output::Answer(Err(Denied::Refused(error))));
                }
            }
            (Work::Held(_), Asked::Ready | Asked::Start | Asked::Stop)
            | (Work::Assigned { .. }, _) => self.lose(Loss::TakenAway, out),
            (Work::None(_), _) => {}
        }
    }

    /// Says what is to be said next, if anything is.
    fn advance(&mut self, out: &mut Vec<Output>) {
        if self.is_wanted && self.is_stopping && matches!(self.work, Work::None(_)) {
            self.is_wanted = false;
            out.push(Output::Stopping);
        }
        if self.link != Link::Settled || self.asked.is_some() {
            return;
        }
        let next = match (&self.orphan, &self.work) {
            (Some(orphan), _) => Some((Asked::Stop, RunnerRequest::Stop(*orphan))),
            (None, Work::None(Readiness::Unsaid)) if self.is_wanted => {
                Some((Asked::Ready, RunnerRequest::Ready(Empty {})))
            }
            (None, Work::Assigned { run, epoch, .. }) if self.is_wanted => {
                let start = RunReference { run: *run, epoch: *epoch };
                Some((Asked::Start, RunnerRequest::Start(start)))
            }
            (None, Work::Held(held)) => held.next(),
            (None, Work::None(_) | Work::Assigned { .. }) => None,
        };
        if let Some((asked, request)) = next {
            let id = RequestId::new(self.next_id);
            self.next_id += 1;
            self.asked = Some((id, asked));
            out.push(Output::Send(RunnerFrame::Request { id, request }));
        }
    }
}

impl Held {
    /// What is to be asked for this run now.
    fn next(&self) -> Option<(Asked, RunnerRequest)> {
        let Self { run, epoch, attempt, .. } = *self;
        let reference = RunReference { run, epoch };
        match (&self.wish, self.waits_in) {
            // The program goes on by itself.
            (None, Some(suspension)) => {
                let left = ContinueRequest { run, epoch, suspension };
                Some((Asked::Continue, RunnerRequest::Continue(left)))
            }
            (None, None) => None,
            (Some(Wish::Waitpoint), _) => {
                Some((Asked::Waitpoint, RunnerRequest::Waitpoint(reference)))
            }
            (Some(Wish::Wait { .. }), Some(_)) if self.own == self.waits_in => None,
            (Some(Wish::Wait { wait, snapshot_delay_ms }), _) => {
                let (wait, snapshot_delay_ms) = (*wait, *snapshot_delay_ms);
                let asked = SuspendRequest { run, epoch, wait, snapshot_delay_ms };
                Some((Asked::Suspend(wait), RunnerRequest::Suspend(asked)))
            }
            (Some(Wish::Complete(outcome)), _) => {
                let outcome = outcome.clone();
                let asked = CompleteRequest { run, epoch, attempt, outcome };
                Some((Asked::Complete, RunnerRequest::Complete(asked)))
            }
            (Some(Wish::GiveUp), _) => Some((Asked::Stop, RunnerRequest::Stop(reference))),
        }
    }

    /// Takes in how the run stands; the result, if that ends a wait of the program's.
    fn told(&mut self, standing: Standing) -> Option<WaitResult> {
        match standing {
            Standing::Assigned { .. } => None,
            Standing::Waiting { suspension, wait, .. } => {
                let is_new = suspension > self.last;
                self.waits_in = Some(suspension);
                self.last = self.last.max(suspension);
                // The answer to the suspend was lost, and the suspension is there.
                if is_new
                    && matches!(&self.wish, Some(Wish::Wait { wait: own, .. }) if *own == wait)
                {
                    self.own = Some(suspension);
                }
                None
            }
            Standing::Executing { resumed, .. } => {
                self.waits_in = None;
                let awaited = self.own.take();
                let Resumed { suspension, result } = resumed?;
                let is_new = suspension > self.last;
                self.last = self.last.max(suspension);
                let is_awaited = awaited == Some(suspension) || (awaited.is_none() && is_new);
                (is_awaited && matches!(self.wish, Some(Wish::Wait { .. }))).then_some(result)
            }
        }
    }

    /// Bytes of the next request, if they are more than a frame takes.
    fn oversize(&self) -> Option<usize> {
        let (_, request) = self.next()?;
        // The largest id there may be, because this one is not known yet.
        let frame = RunnerFrame::Request { id: RequestId::new(u64::MAX), request };
        Some(frame.to_text().len()).filter(|size| *size > MAX_FRAME)
    }
}

#[cfg(test)]
mod tests;
