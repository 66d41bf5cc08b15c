//! The port through which sync asks for a stopped container.
//!
//! The implementer stops the workload, shows that it is stopped, and hands out a [`Window`]. It
//! holds the workload down until the window is closed or dropped.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use belay_protocol::Cid;
use tokio::sync::oneshot;

/// Stops a workload for the moment of a capture or a commit. Implemented by what runs workloads.
pub trait OfflineWindow: Send + Sync + 'static {
    /// Stops the container and returns once it is shown to be stopped, but for
    /// [`WindowPurpose::Beside`]. A refusal leaves the workload as it was found, or as its own
    /// policy wants it.
    fn open(
        &self,
        purpose: WindowPurpose,
    ) -> impl Future<Output = Result<Window, WindowRefused>> + Send;

    /// Whether the workload is ready on what its volumes hold now; none while that is not known yet.
    fn readiness(&self) -> impl Future<Output = Option<Ready>> + Send;
}

/// What the window is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowPurpose {
    /// A capture.
    Publish {
        /// Whether a stopped workload may be captured.
        require: Require,
    },
    /// A capture beside the running app: nothing is stopped, and what belayd itself would do to what
    /// is in the volumes waits until the window is closed.
    Beside,
    /// A commit. It is granted to a halted workload too, since it is what ends the halt.
    Apply {
        /// The content that takes the place of the present one, or that is taken back.
        cid: Cid,
    },
}

/// In which state the workload may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// Its container must be running.
    Running,
    /// Any settled state.
    Any,
}

/// Why no window was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowRefused {
    /// The stop could not be shown to have happened; the container may be running.
    #[error("the container could not be shown to be stopped: {reason}")]
    NotConfirmed {
        /// What was seen.
        reason: String,
    },
    /// Something else has the workload.
    #[error("the workload is busy: {reason}")]
    Busy {
        /// With what.
        reason: String,
    },
    /// [`Require::Running`] was asked for and the container does not run.
    #[error("the container is not running")]
    NotRunning,
    /// The state of its volumes is uncertain and must not be published.
    #[error("the workload is halted: {reason}")]
    Halted {
        /// Why it is halted.
        reason: String,
    },
    /// The workload or the daemon goes away.
    #[error("the workload is shutting down")]
    ShuttingDown,
}

impl WindowRefused {
    /// Whether the same request may be granted later without anyone's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotConfirmed { .. } | Self::Busy { .. } | Self::ShuttingDown => true,
            Self::NotRunning | Self::Halted { .. } => false,
        }
    }
}

/// How the workload was found when the window opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundState {
    /// Its container was running, and ready, and was stopped for the window; or it was so when belayd
    /// stopped it for something that was cut short, and was not judged again since.
    Ready,
    /// Its container was running, and not known to be ready, and was stopped for the window.
    Running,
    /// Its container was not running.
    Stopped,
}

impl FoundState {
    /// Whether its container was running, or only stopped by belayd.
    pub fn ran(self) -> bool {
        match self {
            Self::Ready | Self::Running => true,
            Self::Stopped => false,
        }
    }
}

/// What happened to the volumes while the window was open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowOutcome {
    /// Nothing: they hold what they held.
    Unchanged,
    /// They hold the new content, whole and durable.
    Applied {
        /// The new content.
        cid: Cid,
    },
    /// They hold again what they held before this content, on which the workload did not become
    /// ready. How it failed on that says nothing about the next start.
    TakenBack {
        /// The content that is gone.
        cid: Cid,
    },
    /// They may hold neither the old state nor the new one. The workload must not be started, now
    /// or after a restart of the daemon, until [`crate::recover`] reports no halt or an operator
    /// says so.
    Uncertain {
        /// What went wrong.
        reason: String,
    },
}

/// What became of the workload when the window closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowClosed {
    /// How it had been found.
    pub found: FoundState,
    /// Whether it came back.
    pub ready: Ready,
    /// How long the container was down because of the window.
    pub downtime: Duration,
}

/// Whether a workload came back after a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// Started and found ready.
    Ready,
    /// Started, and not found ready within its budget.
    NotReady {
        /// What its probe said.
        reason: String,
    },
    /// Not started, because it had been found stopped, is wanted stopped, or is halted.
    NotStarted,
}

/// Why a closed window could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The container did not start again.
    #[error("the container did not start again: {reason}")]
    NotStarted {
        /// What the engine said.
        reason: String,
    },
    /// The owner of the window went away before it answered.
    #[error("the owner of the window went away")]
    OwnerGone,
}

/// An open window. Dropping it closes it: as [`WindowOutcome::Unchanged`], or as
/// [`WindowOutcome::Uncertain`] once [`Window::mutating`] was called.
#[derive(Debug)]
pub struct Window {
    sender: Option<oneshot::Sender<CloseRequest>>,
    unclosed: WindowOutcome,
    found: FoundState,
    starting: Option<oneshot::Sender<Infallible>>,
}

#[derive(Debug)]
struct CloseRequest {
    outcome: WindowOutcome,
    reply: WindowReply,
}

impl Window {
    /// A window and the end its owner keeps.
    pub fn pair(found: FoundState) -> (Window, WindowOwner) {
        let (sender, receiver) = oneshot::channel();
        let unclosed = WindowOutcome::Unchanged;
        let window = Window { sender: Some(sender), unclosed, found, starting: None };
        (window, WindowOwner(receiver))
    }

    /// How the workload was found.
    pub fn found(&self) -> FoundState {
        self.found
    }

    /// Declares that the volumes begin to change: from here a drop means uncertain.
    pub fn mutating(&mut self) {
        self.unclosed =
            WindowOutcome::Uncertain { reason: "the commit was abandoned half-way".to_owned() };
    }

    /// Gives what tells that the container runs again, which is some time before what became of the
    /// workload is known.
    pub fn restart(&mut self) -> Restart {
        let (sender, receiver) = oneshot::channel();
        self.starting = Some(sender);
        Restart(receiver)
    }

    /// Closes the window and waits for what became of the workload.
    pub async fn close(mut self, outcome: WindowOutcome) -> Result<WindowClosed, WindowError> {
        let (reply, answer) = oneshot::channel();
        let sender = self.sender.take().ok_or(WindowError::OwnerGone)?;
        let reply = WindowReply { answer: Some(reply), starting: self.starting.take() };
        sender.send(CloseRequest { outcome, reply }).map_err(|_| WindowError::OwnerGone)?;
        answer.await.unwrap_or(Err(WindowError::OwnerGone))
    }
}

/// Tells that the container of a [`Window`] runs again.
#[derive(Debug)]
pub struct Restart(oneshot::Receiver<Infallible>);

impl Restart {
    /// Returns once the container was started, or it is settled that it is not.
    pub async fn done(self) {
        // Nothing is ever sent: that the other end is gone is the message.
        let _ = self.0.await;
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let outcome = std::mem::replace(&mut self.unclosed, WindowOutcome::Unchanged);
            // The owner may be gone at shutdown; it holds the workload's state, not the window.
            let reply = WindowReply { answer: None, starting: self.starting.take() };
            let _ = sender.send(CloseRequest { outcome, reply });
        }
    }
}

/// The owner's end of a [`Window`].
#[derive(Debug)]
pub struct WindowOwner(oneshot::Receiver<CloseRequest>);

impl WindowOwner {
    /// Waits until the window is closed or dropped.
    pub async fn closed(self) -> (WindowOutcome, WindowReply) {
        match self.0.await {
            Ok(request) => (request.outcome, request.reply),
            // Unreachable while `Window::drop` sends; unchanged is what a window begins as.
            Err(_) => (WindowOutcome::Unchanged, WindowReply { answer: None, starting: None }),
        }
    }
}

/// Answers [`Window::close`].
#[derive(Debug)]
#[must_use = "the closer waits for the answer"]
pub struct WindowReply {
    answer: Option<oneshot::Sender<Result<WindowClosed, WindowError>>>,
    starting: Option<oneshot::Sender<Infallible>>,
}

impl WindowReply {
    /// Says that the container was started. The end of this says it too.
    pub fn started(&mut self) {
        self.starting = None;
    }

    /// Says what became of the workload.
    pub fn send(self, answer: Result<WindowClosed, WindowError>) {
        if let Some(reply) = self.answer {
            // A closer that stopped waiting does not need the answer.
            let _ = reply.send(answer);
        }
    }
}
