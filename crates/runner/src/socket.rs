//! One runner's socket: what it sends becomes messages for the hub, and what the hub has for it is
//! written.
//!
//! A socket has at most one message with the hub: the next is read when the one before is answered.
//! So a runner that floods is held up by itself, and its answers come in order. What is written to
//! it waits in a short queue; the hub closes a socket whose queue is full, and a write that gets
//! nowhere ends it too.

use std::time::Duration;

use belay_protocol::runner::{
    CloseReason, MAX_FRAME, RequestId, RunnerFrame, RunnerId, ServerFrame,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::clock::Clock;
use crate::core::bindings::SessionId;
use crate::core::pace::Pace;
use crate::server::SocketLimits;
use crate::task::{Inbound, Line, Pass};

/// Frames that may wait for one socket. A runner has one answer on its way and few notices.
const QUEUE: usize = 8;
/// Bytes that are read at a time. Messages of runners are short, and every connection has a buffer
/// of this size; a longer message grows it for as long as it is there.
const READ_BUFFER: usize = 1024;

/// How frames are read from a runner's socket and written to it.
pub fn framing() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // A frame goes to the kernel at once, and nothing is kept for more.
        .write_buffer_size(0)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
}

/// What a socket needs besides its stream.
pub(crate) struct SocketStart {
    pub(crate) session: SessionId,
    pub(crate) pass: Pass,
    pub(crate) inbound: mpsc::Sender<Inbound>,
    pub(crate) limits: SocketLimits,
    pub(crate) clock: Clock,
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// The hub ended it, or its silence did.
    Told(CloseReason),
    /// What it sent cannot be read any further.
    Refused(CloseCode, &'static str),
    /// It left.
    Gone,
}

/// Serves a socket to its end. The hub is told of its beginning and its end.
pub(crate) async fn serve<S>(stream: S, start: SocketStart)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let SocketStart { session, pass, inbound, limits, clock } = start;
    let runner = pass.runner.clone();
    let (frames, queue) = mpsc::channel(QUEUE);
    let (close, closing) = oneshot::channel();
    let ws = WebSocketStream::from_raw_socket(stream, Role::Server, Some(framing())).await;
    let opened = Inbound::Opened { session, pass, line: Line { frames, close } };
    if inbound.send(opened).await.is_err() {
        return;
    }
    let mut socket = Socket {
        ws,
        session,
        inbound,
        queue,
        closing,
        limits,
        clock,
        pace: Pace::default(),
        rest_until: None,
        reading: Reading::Now,
        heard_at: Instant::now(),
        pinged: Pinged::No,
    };
    let parting = socket.talk(&runner).await;
    tracing::debug!(%runner, ?parting, "a runner's socket ends");
    // The hub hears of it before the runner does; a farewell may take its time.
    let _ = socket.inbound.send(Inbound::Closed { session }).await;
    let farewell = match parting {
        Parting::Told(reason) => {
            CloseFrame { code: CloseCode::from(reason.code()), reason: reason.as_str().into() }
        }
        Parting::Refused(code, reason) => CloseFrame { code, reason: reason.into() },
        Parting::Gone => return,
    };
    let last = tokio::time::timeout(limits.farewell, socket.part(farewell)).await;
    if last.is_err() {
        tracing::debug!(%runner, "a runner did not take leave");
    }
}

struct Socket<S> {
    ws: WebSocketStream<S>,
    session: SessionId,
    inbound: mpsc::Sender<Inbound>,
    queue: mpsc::Receiver<Box<ServerFrame>>,
    closing: oneshot::Receiver<CloseReason>,
    limits: SocketLimits,
    clock: Clock,
    pace: Pace,
    rest_until: Option<Instant>,
    reading: Reading,
    heard_at: Instant,
    pinged: Pinged,
}

/// Whether the next message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Now,
    /// When this is answered.
    After(RequestId),
    /// Later: the runner is too fast.
    At(Instant),
}

/// Whether a ping is unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pinged {
    No,
    Yes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn talk(&mut self, runner: &RunnerId) -> Parting {
        let mut told_of_pace = false;
        loop {
            let wake_at = self.wake_at();
            let step = tokio::select! {
                // What was put in the queue before the end is written before the end.
                biased;
                frame = self.queue.recv() => match frame {
                    Some(frame) => self.write_frame(*frame).await,
                    None => return self.told().await,
                },
                message = self.ws.next(), if self.reading == Reading::Now => {
                    self.heard_at = Instant::now();
                    self.pinged = Pinged::No;
                    self.take(message).await
                }
                () = sleep_until(wake_at) => self.woken().await,
            };
            if let Err(parting) = step {
                return parting;
            }
            if matches!(self.reading, Reading::At(_)) && !told_of_pace {
                told_of_pace = true;
                tracing::info!(%runner, "a runner sends too fast and is read more slowly");
            }
        }
    }

    /// When something is to be done that nobody brings.
    fn wake_at(&self) -> Option<Instant> {
        match self.reading {
            // Who is not read cannot be heard.
            Reading::After(_) => None,
            Reading::At(at) => Some(at),
            Reading::Now => Some(match self.pinged {
                Pinged::No => self.heard_at + self.limits.ping_after,
                Pinged::Yes => self.heard_at + self.limits.ping_after + self.limits.pong_within,
            }),
        }
    }

    async fn woken(&mut self) -> Result<(), Parting> {
        match (self.reading, self.pinged) {
            (Reading::After(_), _) => Ok(()),
            (Reading::At(_), _) => {
                self.read_on();
                Ok(())
            }
            (Reading::Now, Pinged::No) => {
                self.pinged = Pinged::Yes;
                self.write(Message::Ping(tokio_tungstenite::tungstenite::Bytes::new())).await
            }
            (Reading::Now, Pinged::Yes) => Err(Parting::Told(CloseReason::Silent)),
        }
    }

    /// Reads the next message, as soon as the pace allows it.
    fn read_on(&mut self) {
        self.reading = match self.rest_until.filter(|&until| until > Instant::now()) {
            Some(until) => Reading::At(until),
            None => Reading::Now,
        };
        // It was not listened to meanwhile.
        self.heard_at = Instant::now();
        self.pinged = Pinged::No;
    }

    async fn take(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Parting> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(refusal(&error)),
            None => return Err(Parting::Gone),
        };
        match message {
            Message::Text(text) => {
                let pause = self.pace.take(text.len(), self.clock.now().moment);
                if !pause.is_zero() {
                    self.rest_until = Some(Instant::now() + pause);
                    self.read_on();
                }
                match RunnerFrame::parse(&text) {
                    Ok(RunnerFrame::Request { id, request }) => {
                        self.reading = Reading::After(id);
                        let session = self.session;
                        self.bring(Inbound::Request { session, id, request }).await
                    }
                    Ok(RunnerFrame::Note(note)) => {
                        let session = self.session;
                        self.bring(Inbound::Note { session, note }).await
                    }
                    Err(fault) => self.write(text_of(&fault.into_frame())).await,
                }
            }
            Message::Binary(_) => Err(Parting::Refused(CloseCode::Unsupported, "text frames only")),
            // The answer to a ping, or to its close, is written by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn bring(&mut self, inbound: Inbound) -> Result<(), Parting> {
        let brought = self.inbound.send(inbound).await;
        brought.map_err(|_| Parting::Told(CloseReason::Draining))
    }

    async fn write_frame(&mut self, frame: ServerFrame) -> Result<(), Parting> {
        let answers = match &frame {
            ServerFrame::Ok { id, .. } | ServerFrame::Error { id, .. } => Some(*id),
            ServerFrame::Notice(_) => None,
        };
        let written = self.write(text_of(&frame)).await;
        if let Reading::After(awaited) = self.reading
            && answers == Some(awaited)
        {
            self.read_on();
        }
        written
    }

    /// Writes a message; a runner that does not read ends by it, and so does one that is closed
    /// meanwhile.
    async fn write(&mut self, message: Message) -> Result<(), Parting> {
        tokio::select! {
            biased;
            sent = tokio::time::timeout(self.limits.stall, self.ws.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Parting::Gone),
                Err(_) => Err(Parting::Told(CloseReason::Slow)),
            },
            told = &mut self.closing => Err(leave(told)),
        }
    }

    /// Why the hub let go of it.
    async fn told(&mut self) -> Parting {
        leave((&mut self.closing).await)
    }

    /// Takes leave: says why, and waits until the runner has heard it.
    async fn part(&mut self, farewell: CloseFrame) {
        if self.ws.close(Some(farewell)).await.is_ok() {
            while let Some(Ok(_)) = self.ws.next().await {}
        }
    }
}

/// The end that the hub gave; a hub that says nothing has ended.
fn leave(told: Result<CloseReason, oneshot::error::RecvError>) -> Parting {
    Parting::Told(told.unwrap_or(CloseReason::Draining))
}

/// The end of a socket whose bytes cannot be read as messages.
fn refusal(error: &Error) -> Parting {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            Parting::Refused(CloseCode::Size, "a frame is larger than 1 MiB")
        }
        Error::Utf8(_) => Parting::Refused(CloseCode::Invalid, "a text frame is not UTF-8"),
        Error::Protocol(_) => Parting::Refused(CloseCode::Protocol, "this is no WebSocket frame"),
        _ => Parting::Gone,
    }
}

fn text_of(frame: &ServerFrame) -> Message {
    Message::text(frame.to_text())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            ping_after: Duration::from_secs(20),
            pong_within: Duration::from_secs(20),
            stall: Duration::from_secs(10),
            farewell: Duration::from_secs(1),
        }
    }
}
