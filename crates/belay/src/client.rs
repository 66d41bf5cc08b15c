//! belayd over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_protocol::{OperationEvent, OperationOutcome, OperationProgress, Problem};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Upgraded, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::core::lines::Lines;
use crate::failure::{self, Ending, Failure};

/// Longest wait for the connection; the socket is local.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest wait for a page. belayd's slowest page, a sync history, has a minute.
const PAGE: Duration = Duration::from_secs(75);

/// Longest silence of an operation. Every step of belayd has a deadline of its own well below.
const SILENCE: Duration = Duration::from_mins(30);

/// Bytes of an archive that are read at one time.
const PIECE: usize = 128 * 1024;

/// A connection to one belayd.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// A body to send.
#[derive(Debug)]
pub(crate) struct Document {
    content_type: &'static str,
    body: Body,
}

impl Document {
    pub(crate) fn of<T: Serialize>(value: &T) -> Self {
        let json = serde_json::to_vec(value).expect("shapes of the protocol are plain data");
        Self { content_type: "application/json", body: json.into() }
    }

    pub(crate) fn none() -> Self {
        Self { content_type: "application/json", body: Vec::new().into() }
    }

    /// An archive, which is sent while it is read.
    pub(crate) fn archive(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let mut piece = BytesMut::with_capacity(PIECE);
            let count = reader.read_buf(&mut piece).await?;
            Ok::<_, io::Error>((count > 0).then(|| (piece.freeze(), reader)))
        });
        Self { content_type: "application/gzip", body: Body::wrap_stream(pieces) }
    }
}

impl Client {
    /// A client of the belayd that listens on `socket`. Nothing is sent yet.
    pub(crate) fn new(socket: &Path) -> Result<Self, Ending> {
        let client = reqwest::Client::builder().unix_socket(socket).connect_timeout(CONNECT);
        let http = client
            .build()
            .map_err(|error| Failure::local("cannot make an HTTP client", &error, ""))?;
        Ok(Self { http, socket: socket.to_owned() })
    }

    /// A page.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Ending> {
        self.send(Method::GET, path, Document::none()).await
    }

    /// A request that is answered by one document.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Document,
    ) -> Result<T, Ending> {
        let answer = async {
            let response = self.request(method, path, body).await?;
            response.bytes().await.map_err(|error| lost(&error))
        };
        let body = tokio::time::timeout(PAGE, answer).await.map_err(|_| self.silent(PAGE))??;
        serde_json::from_slice(&body).map_err(|error| misread(path, &error))
    }

    /// An operation; `show` sees its progress.
    pub(crate) async fn operate(
        &self,
        method: Method,
        path: &str,
        body: Document,
        mut show: impl FnMut(&OperationProgress),
    ) -> Result<OperationOutcome, Ending> {
        let mut events = self.lines(method, path, body).await?;
        loop {
            let next = tokio::time::timeout(SILENCE, events.next::<OperationEvent>());
            match next.await.map_err(|_| self.silent(SILENCE))?? {
                Some(OperationEvent::Progress(progress)) => show(&progress),
                Some(OperationEvent::Done(outcome)) => return Ok(outcome),
                Some(OperationEvent::Failed(problem)) => return Err(problem.into()),
                None => return Err(self.cut_short()),
            }
        }
    }

    /// An answer that comes line by line.
    pub(crate) async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Document,
    ) -> Result<AnswerLines<'_>, Ending> {
        self.answer_lines(self.request(method, path, body), path).await
    }

    /// An answer that comes line by line, and whose beginning may take its time.
    pub(crate) async fn long_lines(&self, path: &str) -> Result<AnswerLines<'_>, Ending> {
        let answer = self.request(Method::GET, path, Document::none());
        self.answer_lines_within(SILENCE, answer, path).await
    }

    /// An answer of bytes, which `take` gets in order. They are all of it if this returns well.
    pub(crate) async fn download(
        &self,
        method: Method,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), Ending>,
    ) -> Result<(), Ending> {
        let answer = self.request(method, path, Document::none());
        let answer = tokio::time::timeout(SILENCE, answer).await;
        let mut response = answer.map_err(|_| self.silent(SILENCE))??;
        loop {
            let next = tokio::time::timeout(SILENCE, response.chunk()).await;
            match next.map_err(|_| self.silent(SILENCE))? {
                Ok(Some(bytes)) => take(&bytes)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    /// Sends a body as it is read, and gets one document. Whatever is sent, it is sent to its end:
    /// belayd reads what it refuses too.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        body: reqwest::Body,
    ) -> Result<T, Ending> {
        let request = self.http.request(Method::POST, format!("http://belayd{path}"));
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream").body(body);
        let answer = async {
            let response = self.answered(request).await?;
            response.bytes().await.map_err(|error| lost(&error))
        };
        let body =
            tokio::time::timeout(SILENCE, answer).await.map_err(|_| self.silent(SILENCE))??;
        serde_json::from_slice(&body).map_err(|error| misread(path, &error))
    }

    /// An answer of server-sent events, line by line.
    pub(crate) async fn stream(&self, path: &str) -> Result<AnswerLines<'_>, Ending> {
        let request = self.prepared(Method::GET, path, Document::none());
        let request = request.header(header::ACCEPT, "text/event-stream");
        self.answer_lines(self.answered(request), path).await
    }

    async fn answer_lines(
        &self,
        answer: impl Future<Output = Result<Response, Ending>>,
        path: &str,
    ) -> Result<AnswerLines<'_>, Ending> {
        self.answer_lines_within(PAGE, answer, path).await
    }

    async fn answer_lines_within(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<Response, Ending>>,
        path: &str,
    ) -> Result<AnswerLines<'_>, Ending> {
        let answer = tokio::time::timeout(patience, answer).await;
        let response = answer.map_err(|_| self.silent(patience))??;
        Ok(AnswerLines {
            client: self,
            path: path.to_owned(),
            chunks: response.bytes_stream().boxed(),
            lines: Lines::default(),
            ready: Vec::new().into_iter(),
        })
    }

    /// A connection that belayd speaks `protocol` on from here.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        body: Document,
        protocol: &str,
    ) -> Result<Upgraded, Ending> {
        let request = self.prepared(Method::POST, path, body);
        let request =
            request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, protocol);
        let answer = async {
            let response = self.answered(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(self.unexplained(response.status()));
            }
            response.upgrade().await.map_err(|error| lost(&error))
        };
        tokio::time::timeout(PAGE, answer).await.map_err(|_| self.silent(PAGE))?
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Document,
    ) -> Result<Response, Ending> {
        self.answered(self.prepared(method, path, body)).await
    }

    fn prepared(&self, method: Method, path: &str, document: Document) -> RequestBuilder {
        let Document { content_type, body } = document;
        let request = self.http.request(method, format!("http://belayd{path}"));
        request.header(header::CONTENT_TYPE, content_type).body(body)
    }

    async fn answered(&self, request: RequestBuilder) -> Result<Response, Ending> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| lost(&error))?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(self.unexplained(status)),
        }
    }

    fn unexplained(&self, status: StatusCode) -> Ending {
        Failure::new(
            failure::PROTOCOL,
            format!("{} answered {status} without saying why", self.socket.display()),
            "check that --socket is the socket of a belayd",
        )
        .into()
    }

    fn unreachable(&self, error: &reqwest::Error) -> Ending {
        let socket = self.socket.display();
        let start = "systemctl start belayd, or name the socket of a running belayd with \
                     --socket or BELAY_SOCKET";
        let failure = match io_error(error).map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => Failure::new(
                failure::UNAVAILABLE,
                format!("belayd is not reachable: there is no socket {socket}"),
                start,
            ),
            Some(io::ErrorKind::ConnectionRefused) => Failure::new(
                failure::UNAVAILABLE,
                format!("belayd is not reachable: nobody answers on {socket}"),
                start,
            ),
            Some(io::ErrorKind::PermissionDenied) => Failure::new(
                failure::NO_PERMISSION,
                format!("you may not use {socket}"),
                "use root, or a member of the group that owns the socket",
            ),
            Some(_) | None => Failure::new(
                failure::UNAVAILABLE,
                format!("belayd is not reachable on {socket}: {}", failure::chain(error)),
                start,
            ),
        };
        failure.into()
    }

    pub(crate) fn cut_short(&self) -> Ending {
        Failure::new(
            failure::UNAVAILABLE,
            format!("belayd on {} ended its answer early", self.socket.display()),
            "belay status says what holds now",
        )
        .into()
    }

    fn silent(&self, patience: Duration) -> Ending {
        Failure::new(
            failure::UNAVAILABLE,
            format!(
                "belayd on {} said nothing for {} s",
                self.socket.display(),
                patience.as_secs()
            ),
            "belay status says what holds now; look into belayd's log",
        )
        .into()
    }
}

/// The lines of one answer.
pub(crate) struct AnswerLines<'a> {
    client: &'a Client,
    path: String,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    lines: Lines,
    ready: std::vec::IntoIter<Vec<u8>>,
}

impl AnswerLines<'_> {
    /// The next line, or `None` after the last.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Ending> {
        let Some(line) = self.next_line().await? else { return Ok(None) };
        serde_json::from_slice(&line).map(Some).map_err(|error| self.misread(&error))
    }

    /// The answer is not of the shape that this program knows.
    pub(crate) fn misread(&self, error: &serde_json::Error) -> Ending {
        misread(&self.path, error)
    }

    /// The next line as it came, or `None` after the last.
    pub(crate) async fn next_line(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        loop {
            if let Some(line) = self.ready.next() {
                return Ok(Some(line));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => {
                    let lines = self.lines.push(&chunk).map_err(|_| self.client.cut_short())?;
                    self.ready = lines.into_iter();
                }
                Some(Err(error)) => return Err(lost(&error)),
                None if self.lines.is_torn() => return Err(self.client.cut_short()),
                None => return Ok(None),
            }
        }
    }
}

fn lost(error: &reqwest::Error) -> Ending {
    Failure::new(
        failure::UNAVAILABLE,
        format!("the connection to belayd was lost: {}", failure::chain(error)),
        "belay status says what holds now; the operation may still be under way",
    )
    .into()
}

fn misread(path: &str, error: &serde_json::Error) -> Ending {
    Failure::new(
        failure::PROTOCOL,
        format!("belayd's answer to {path} is not of the shape that this belay knows: {error}"),
        "use the belay and belayd of one version",
    )
    .into()
}

fn io_error(error: &dyn std::error::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}
