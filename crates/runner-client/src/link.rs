//! The socket: opened, read, written, and watched for silence.

use std::io;
use std::time::Duration;

use belay_protocol::runner::{
    CloseReason, MAX_SERVER_FRAME, RequestId, RunnerFrame, SUBPROTOCOL, ServerFrame,
};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::config::{Endpoint, RunnerConfig};
use crate::runner::RunnerEnd;

/// Longest wait for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait until a frame is written.
const WRITE: Duration = Duration::from_secs(30);
/// Silence after which belayd is asked whether it is there.
const QUIET: Duration = Duration::from_secs(15);
/// How long it may take to say so.
const PONG: Duration = Duration::from_secs(10);
/// So much later than it should have, a process wakes up only because it was frozen or restored.
const FROZEN: Duration = Duration::from_secs(5);
/// A runner talks little; the library's own buffers are 128 KiB each.
const BUFFER: usize = 8 * 1024;

/// A stream that carries the socket.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open socket.
pub(crate) struct Link {
    socket: WebSocketStream<Box<dyn Stream>>,
    /// When the silence is too long.
    silence: Instant,
    /// Whether belayd was asked if it is there.
    is_pinged: bool,
}

/// What became of a try to connect.
pub(crate) enum Dialled {
    Open(Box<Link>),
    /// Another try may do better.
    Later,
    /// None will.
    Never(RunnerEnd),
}

/// What a socket brought.
pub(crate) enum Received {
    /// A text.
    Text(String),
    /// Nothing, and it is open.
    Nothing,
    /// It is gone.
    Closed(Option<RunnerEnd>),
}

impl Link {
    /// Tries to connect, once.
    pub(crate) async fn dial(config: &RunnerConfig) -> Dialled {
        match timeout(CONNECT, Self::connect(config)).await {
            Ok(Ok(link)) => Dialled::Open(Box::new(link)),
            Ok(Err(Error::Http(response))) => refused(&response),
            Ok(Err(_)) | Err(_) => Dialled::Later,
        }
    }

    async fn connect(config: &RunnerConfig) -> Result<Self, Error> {
        let (stream, authority): (Box<dyn Stream>, String) = match &config.endpoint {
            Endpoint::Unix(path) => {
                (Box::new(UnixStream::connect(path).await?), "belayd".to_owned())
            }
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let place = config.endpoint.to_string();
                (Box::new(stream), place.trim_start_matches("ws://").to_owned())
            }
        };
        let uri = format!("ws://{authority}/v1/runners/connect");
        let mut request = uri.into_client_request()?;
        let headers = request.headers_mut();
        let bearer = format!("Bearer {}", config.token.expose());
        let mut bearer = HeaderValue::from_str(&bearer).map_err(io::Error::other)?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        let subprotocol = HeaderValue::from_static(SUBPROTOCOL);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        let limits = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_SERVER_FRAME))
            .max_frame_size(Some(MAX_SERVER_FRAME));
        let (socket, _) = client_async_with_config(request, stream, Some(limits)).await?;
        Ok(Self { socket, silence: Instant::now() + QUIET, is_pinged: false })
    }

    /// Waits for the next thing to happen. Nothing is lost when it is given up.
    pub(crate) async fn receive(&mut self) -> Received {
        let message = match timeout_at(self.silence, self.socket.next()).await {
            Ok(message) => message,
            Err(_) if self.is_pinged || self.silence.elapsed() > FROZEN => {
                return Received::Closed(None);
            }
            Err(_) => {
                self.is_pinged = true;
                self.silence = Instant::now() + PONG;
                let is_sent = self.write(Message::Ping(Bytes::new())).await;
                return if is_sent { Received::Nothing } else { Received::Closed(None) };
            }
        };
        self.is_pinged = false;
        self.silence = Instant::now() + QUIET;
        match message {
            Some(Ok(Message::Text(text))) => Received::Text(text.as_str().to_owned()),
            Some(Ok(Message::Close(frame))) => Received::Closed(ended_by(frame.as_ref())),
            Some(Ok(
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_),
            )) => Received::Nothing,
            Some(Err(_)) | None => Received::Closed(None),
        }
    }

    /// Sends a frame; says whether it went out.
    pub(crate) async fn send(&mut self, frame: &RunnerFrame) -> bool {
        self.write(Message::text(frame.to_text())).await
    }

    /// Says that this side ends, and does not wait for the other's word.
    pub(crate) async fn close(mut self) {
        let _ = timeout(WRITE, self.socket.close(None)).await;
    }

    async fn write(&mut self, message: Message) -> bool {
        matches!(timeout(WRITE, self.socket.send(message)).await, Ok(Ok(())))
    }
}

/// Reads a frame of belayd's. One that this version does not know is passed over.
pub(crate) fn read(
    text: &str,
    asked: impl FnOnce(RequestId) -> Option<&'static str>,
) -> Option<ServerFrame> {
    ServerFrame::parse(text, asked).ok()
}

fn refused(response: &Response<Option<Vec<u8>>>) -> Dialled {
    let status = response.status();
    let is_passing = status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error();
    if is_passing {
        return Dialled::Later;
    }
    let body = response.body().as_deref().unwrap_or_default();
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|said| said["detail"].as_str()).unwrap_or("no word of why");
    Dialled::Never(RunnerEnd::Refused { status: status.as_u16(), said: said.to_owned() })
}

/// Whether a close frame ends the runner, and not only its socket.
fn ended_by(frame: Option<&CloseFrame>) -> Option<RunnerEnd> {
    let code = u16::from(frame?.code);
    let reason = CloseReason::ALL.iter().find(|reason| reason.code() == code)?;
    match reason {
        CloseReason::Replaced => Some(RunnerEnd::Replaced),
        CloseReason::RunnerGone => Some(RunnerEnd::Gone),
        CloseReason::WrongWorkload => Some(RunnerEnd::WrongWorkload),
        CloseReason::Draining
        | CloseReason::Slow
        | CloseReason::Silent
        | CloseReason::Suspended => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_closes_end_the_runner_and_the_others_its_socket() {
        let ends: Vec<_> = CloseReason::ALL
            .iter()
            .map(|reason| {
                let frame = CloseFrame { code: reason.code().into(), reason: "".into() };
                ended_by(Some(&frame)).is_some()
            })
            .collect();
        assert_eq!(ends, [false, true, false, false, true, false, true]);
        assert!(ended_by(None).is_none());
        let other = CloseFrame { code: 1009.into(), reason: "".into() };
        assert!(ended_by(Some(&other)).is_none());
    }

    #[test]
    fn a_handshake_is_tried_again_unless_the_refusal_is_for_good() {
        let refusal = |status: u16, body: &str| {
            let response = Response::builder().status(status).body(Some(body.as_bytes().to_vec()));
            refused(&response.expect("a status"))
        };
        for passing in [408, 429, 500, 503] {
            assert!(matches!(refusal(passing, ""), Dialled::Later), "{passing}");
        }
        for (status, body, words) in [
            (401, r#"{"detail": "the token has expired"}"#, "the token has expired"),
            (400, "<html>", "no word of why"),
            (404, "", "no word of why"),
        ] {
            let Dialled::Never(end) = refusal(status, body) else { panic!("{status}") };
            assert!(end.to_string().contains(words), "{end}");
        }
    }
}
