//! Frames: a message with its surroundings, as JSON text.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runner::{
    Notice, Reply, RequestId, RunnerError, RunnerErrorCode, RunnerNote, RunnerRequest,
};

/// What a runner sends.
#[derive(Debug, Clone, PartialEq)]
pub enum RunnerFrame {
    /// It wants an answer.
    Request {
        /// Named by the answer.
        id: RequestId,
        /// What it asks for.
        request: RunnerRequest,
    },
    /// It wants none.
    Note(RunnerNote),
}

/// What belayd sends.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerFrame {
    /// The request was granted.
    Ok {
        /// Which request.
        id: RequestId,
        /// How.
        reply: Reply,
    },
    /// The request was refused.
    Error {
        /// Which request.
        id: RequestId,
        /// Why.
        error: RunnerError,
    },
    /// Nobody asked.
    Notice(Notice),
}

/// A frame that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", error.message)]
pub struct FrameFault {
    /// The request it would have been, as far as it could be read.
    pub id: Option<RequestId>,
    /// What is wrong.
    pub error: RunnerError,
}

impl FrameFault {
    /// The answer to whoever sent it.
    #[must_use]
    pub fn into_frame(self) -> ServerFrame {
        match self.id {
            Some(id) => ServerFrame::Error { id, error: self.error },
            None => ServerFrame::Notice(Notice::Refused(self.error)),
        }
    }
}

/// The outside of every frame. The body is read when the type is known, so that a fault in it can
/// be answered to its request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<RequestId>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default = "no_fields", skip_serializing_if = "has_no_fields")]
    body: Value,
}

fn no_fields() -> Value {
    Value::Object(serde_json::Map::new())
}

fn has_no_fields(body: &Value) -> bool {
    body.as_object().is_some_and(serde_json::Map::is_empty)
}

impl RunnerFrame {
    /// Reads what a runner sent.
    pub fn parse(text: &str) -> Result<Self, FrameFault> {
        let Envelope { id, kind, body } = envelope(text)?;
        let request = |request| match id {
            Some(id) => Ok(Self::Request { id, request }),
            None => Err(fault(id, RunnerErrorCode::WrongKind, format!("{kind} needs an id"))),
        };
        match kind.as_str() {
            "ready" => request(RunnerRequest::Ready(read(id, &kind, body)?)),
            "start" => request(RunnerRequest::Start(read(id, &kind, body)?)),
            "waitpoint" => request(RunnerRequest::Waitpoint(read(id, &kind, body)?)),
            "suspend" => request(RunnerRequest::Suspend(read(id, &kind, body)?)),
            "continue" => request(RunnerRequest::Continue(read(id, &kind, body)?)),
            "complete" => request(RunnerRequest::Complete(read(id, &kind, body)?)),
            "stop" => request(RunnerRequest::Stop(read(id, &kind, body)?)),
            "progress" if id.is_none() => {
                Ok(Self::Note(RunnerNote::Progress(read(id, &kind, body)?)))
            }
            "progress" => {
                Err(fault(id, RunnerErrorCode::WrongKind, "progress has no id".to_owned()))
            }
            unknown => Err(unknown_type(id, unknown)),
        }
    }

    /// The frame as JSON text.
    pub fn to_text(&self) -> String {
        match self {
            Self::Request { id, request } => {
                let body = match request {
                    RunnerRequest::Ready(body) => encode(body),
                    RunnerRequest::Start(body)
                    | RunnerRequest::Waitpoint(body)
                    | RunnerRequest::Stop(body) => encode(body),
                    RunnerRequest::Suspend(body) => encode(body),
                    RunnerRequest::Continue(body) => encode(body),
                    RunnerRequest::Complete(body) => encode(body),
                };
                write(Some(*id), request.name(), body)
            }
            Self::Note(RunnerNote::Progress(body)) => write(None, "progress", encode(body)),
        }
    }
}

impl RunnerRequest {
    /// The names of all requests.
    pub const NAMES: &[&str] =
        &["ready", "start", "waitpoint", "suspend", "continue", "complete", "stop"];

    /// The `type` of its frame.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "ready",
            Self::Start(_) => "start",
            Self::Waitpoint(_) => "waitpoint",
            Self::Suspend(_) => "suspend",
            Self::Continue(_) => "continue",
            Self::Complete(_) => "complete",
            Self::Stop(_) => "stop",
        }
    }
}

impl Reply {
    /// The name of the request that it answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "ready",
            Self::Start(_) => "start",
            Self::Waitpoint(_) => "waitpoint",
            Self::Suspend(_) => "suspend",
            Self::Continue(_) => "continue",
            Self::Complete(_) => "complete",
            Self::Stop(_) => "stop",
        }
    }
}

impl ServerFrame {
    /// Reads what belayd sent. `asked` says under which name a request went out; an answer to a
    /// request that it does not know is a fault.
    pub fn parse(
        text: &str,
        asked: impl FnOnce(RequestId) -> Option<&'static str>,
    ) -> Result<Self, FrameFault> {
        let Envelope { id, kind, body } = envelope(text)?;
        match (kind.as_str(), id) {
            ("ok", Some(request)) => {
                let kind = asked(request).ok_or_else(|| {
                    let message = format!("nothing was asked under {request}");
                    fault(id, RunnerErrorCode::WrongKind, message)
                })?;
                let reply = match kind {
                    "ready" => Reply::Ready(read(id, kind, body)?),
                    "start" => Reply::Start(read(id, kind, body)?),
                    "waitpoint" => Reply::Waitpoint(read(id, kind, body)?),
                    "suspend" => Reply::Suspend(read(id, kind, body)?),
                    "continue" => Reply::Continue(read(id, kind, body)?),
                    "complete" => Reply::Complete(read(id, kind, body)?),
                    "stop" => Reply::Stop(read(id, kind, body)?),
                    other => {
                        let message = format!("{other:?} is not answered");
                        return Err(fault(id, RunnerErrorCode::UnknownType, message));
                    }
                };
                Ok(Self::Ok { id: request, reply })
            }
            ("error", Some(request)) => {
                Ok(Self::Error { id: request, error: read(id, "error", body)? })
            }
            ("welcome", None) => Ok(Self::Notice(Notice::Welcome(read(id, "welcome", body)?))),
            ("state", None) => Ok(Self::Notice(Notice::State(read(id, "state", body)?))),
            ("released", None) => Ok(Self::Notice(Notice::Released(read(id, "released", body)?))),
            ("refused", None) => Ok(Self::Notice(Notice::Refused(read(id, "refused", body)?))),
            ("ok" | "error", None) => {
                Err(fault(id, RunnerErrorCode::WrongKind, format!("{kind} needs an id")))
            }
            ("welcome" | "state" | "released" | "refused", Some(_)) => {
                Err(fault(id, RunnerErrorCode::WrongKind, format!("{kind} has no id")))
            }
            (unknown, _) => Err(unknown_type(id, unknown)),
        }
    }

    /// The frame as JSON text.
    pub fn to_text(&self) -> String {
        match self {
            Self::Ok { id, reply } => {
                let body = match reply {
                    Reply::Ready(body) | Reply::Stop(body) => encode(body),
                    Reply::Start(body) => encode(body),
                    Reply::Waitpoint(body) => encode(body),
                    Reply::Suspend(body) => encode(body),
                    Reply::Continue(body) => encode(body),
                    Reply::Complete(body) => encode(body),
                };
                write(Some(*id), "ok", body)
            }
            Self::Error { id, error } => write(Some(*id), "error", encode(error)),
            Self::Notice(Notice::Welcome(body)) => write(None, "welcome", encode(body)),
            Self::Notice(Notice::State(body)) => write(None, "state", encode(body)),
            Self::Notice(Notice::Released(body)) => write(None, "released", encode(body)),
            Self::Notice(Notice::Refused(body)) => write(None, "refused", encode(body)),
        }
    }
}

fn envelope(text: &str) -> Result<Envelope, FrameFault> {
    serde_json::from_str(text).map_err(|error| {
        // A frame with a field too many still says which request it is.
        let id = serde_json::from_str::<Value>(text).ok().and_then(|frame| frame["id"].as_u64());
        fault(id.map(RequestId::new), RunnerErrorCode::MalformedFrame, error.to_string())
    })
}

fn read<T: DeserializeOwned>(
    id: Option<RequestId>,
    kind: &str,
    body: Value,
) -> Result<T, FrameFault> {
    serde_json::from_value(body).map_err(|error| {
        fault(id, RunnerErrorCode::InvalidBody, format!("the body of {kind}: {error}"))
    })
}

fn fault(id: Option<RequestId>, code: RunnerErrorCode, message: String) -> FrameFault {
    FrameFault { id, error: RunnerError::new(code, message) }
}

/// The other side's word is told, but no more of it than a line holds.
fn unknown_type(id: Option<RequestId>, kind: &str) -> FrameFault {
    let name: String = kind.chars().take(40).collect();
    fault(id, RunnerErrorCode::UnknownType, format!("there is no {name:?}"))
}

fn encode(body: &impl Serialize) -> Value {
    serde_json::to_value(body).expect("a message has text keys and plain values")
}

fn write(id: Option<RequestId>, kind: &str, body: Value) -> String {
    let frame = Envelope { id, kind: kind.to_owned(), body };
    serde_json::to_string(&frame).expect("an envelope has text keys and plain values")
}
