//! The engine's events, from a marker on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::http::Api;
use super::{Engine, fault};
use crate::core::events::EventBody;
use crate::deadline;
use crate::error::{EngineError, Object, Operation};
use crate::event::{EngineEvent, EventMarker};

/// Longest line that is read; a longer one ends the stream. Labels are the only unbounded part of
/// an event, and those of belayd's containers are its own.
const LINE_MAX: usize = 1 << 20;
const OPERATION: Operation = Operation::Events;

/// A stream of events, see [`Engine::events`].
pub struct Events {
    source: BoxStream<'static, Result<EngineEvent, EngineError>>,
    marker: EventMarker,
    ended: bool,
}

impl Events {
    /// From where to go on after what has been given so far.
    pub fn marker(&self) -> EventMarker {
        self.marker.clone()
    }
}

impl Stream for Events {
    type Item = Result<EngineEvent, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match std::task::ready!(self.source.poll_next_unpin(cx)) {
                Some(Ok(event)) if !self.marker.admit(&event) => {}
                Some(Ok(event)) => return Poll::Ready(Some(Ok(event))),
                end => {
                    self.ended = true;
                    return Poll::Ready(end);
                }
            }
        }
    }
}

impl Engine {
    /// Events of the containers that carry this label (`name` or `name=value`), from a marker on,
    /// and then as they happen. The stream ends with one error, the loss of the engine; go on from
    /// [`Events::marker`] once it is back.
    ///
    /// Events are hints: Podman keeps its events on disk and gives those of the gap, Docker keeps
    /// them in memory and loses them when it restarts. So list after every gap. Nothing is filtered
    /// by action at the engine, because Podman 4.3 knows `die` by another name in the filter.
    pub fn events(&self, since: EventMarker, label: &str) -> Events {
        let object = Object::Engine(self.info().socket.clone());
        let filters = serde_json::json!({ "label": [label], "type": ["container"] }).to_string();
        let request = self
            .http()
            .request(reqwest::Method::GET, Api::Docker, "/events")
            .query(&[("since", since.since().to_string()), ("filters", filters)]);
        let source = futures_util::stream::once(Lines::open(object, request))
            .map_ok(|lines| {
                futures_util::stream::try_unfold(lines, |mut lines| async {
                    let event = lines.next_event().await?;
                    Ok(Some((event, lines)))
                })
            })
            .try_flatten();
        Events { source: source.boxed(), marker: since, ended: false }
    }
}

/// An open stream of lines, each an event.
struct Lines {
    object: Object,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(object: Object, request: reqwest::RequestBuilder) -> Result<Self, EngineError> {
        match tokio::time::timeout(deadline::STREAM_OPEN, request.send()).await {
            Ok(Ok(response)) if response.status().is_success() => {
                Ok(Self { object, chunks: response.bytes_stream().boxed(), buffer: Vec::new() })
            }
            Ok(Ok(response)) => {
                let status = Some(response.status().as_u16());
                Err(fault::refused(OPERATION, object, status, "there is no event stream"))
            }
            Ok(Err(error)) => Err(lost(object, error)),
            Err(_) => Err(EngineError::TimedOut {
                operation: OPERATION,
                object,
                after: deadline::STREAM_OPEN,
            }),
        }
    }

    async fn next_event(&mut self) -> Result<EngineEvent, EngineError> {
        loop {
            while let Some(line) = take_line(&mut self.buffer) {
                match serde_json::from_slice::<EventBody>(&line).map(EventBody::into_event) {
                    Ok(Some(event)) => return Ok(event),
                    Ok(None) => {}
                    // One strange line must not cost the ones after it.
                    Err(error) => {
                        tracing::warn!(%error, "an event of the engine cannot be read");
                    }
                }
            }
            if self.buffer.len() > LINE_MAX {
                return Err(EngineError::Unknown {
                    operation: OPERATION,
                    object: self.object.clone(),
                    status: None,
                    detail: format!("an event is longer than {LINE_MAX} bytes"),
                });
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(lost(self.object.clone(), error)),
                None => return Err(lost(self.object.clone(), "the engine ended the event stream")),
            }
        }
    }
}

fn lost(object: Object, how: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    EngineError::Unreachable { operation: OPERATION, object, source: how.into() }
}

/// Takes the first whole line out of the buffer, empty ones too.
fn take_line(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|&c| c == b'\n')?;
    let rest = buffer.split_off(end + 1);
    let mut line = std::mem::replace(buffer, rest);
    line.pop();
    Some(line)
}
