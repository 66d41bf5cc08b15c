//! A conversation with a command in a workload: the connection is upgraded, and frames go both ways
//! until the command has ended or the client has gone.
//!
//! Reading and writing never wait for one another, and neither holds more than the window of the
//! protocol: a client that sends more than it has credit for is cut.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use belay_protocol::{
    EXEC_FRAME_MAX, EXEC_PROTOCOL, EXEC_WINDOW, ExecFrame as _, ExecFrames, ExecInput, ExecOutput,
    ExecRequest, Problem, ProblemCode, WorkloadName,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::answer::{Refusal, invalid};
use crate::state::{ApiState, Caller, Command, shutting_down};

/// Input frames on their way to belayd: the window, and as many that are not data.
const INPUT: usize = 2 * EXEC_WINDOW as usize;

/// Output frames on their way to the client.
const OUTPUT: usize = EXEC_WINDOW as usize;

/// Bytes that are read at once.
const READ: usize = EXEC_FRAME_MAX;

/// How long the kernel's and hyper's part of an upgrade may take; the client has nothing to do.
const UPGRADE: std::time::Duration = std::time::Duration::from_secs(10);

/// The connection that a request offers to upgrade.
pub(crate) struct Offer(OnUpgrade);

/// Takes the offer of an upgrade out of a request, or says what is missing.
pub(crate) fn offer(request: &mut Request) -> Result<Offer, Refusal> {
    const NEXT: &str = "use belay exec; docs/api.md describes the protocol";
    let asked = request.headers().get(header::UPGRADE).and_then(|name| name.to_str().ok());
    if asked != Some(EXEC_PROTOCOL) {
        let detail = format!("this page needs the header Upgrade: {EXEC_PROTOCOL}");
        return Err(invalid(detail, NEXT));
    }
    match request.extensions_mut().remove::<OnUpgrade>() {
        Some(upgrade) => Ok(Offer(upgrade)),
        None => Err(invalid("this connection cannot be upgraded", NEXT)),
    }
}

/// Asks belayd for the command, and answers with the upgrade once it is accepted.
pub(crate) async fn begin(
    state: &ApiState,
    caller: Caller,
    workload: WorkloadName,
    request: ExecRequest,
    Offer(upgrade): Offer,
) -> Result<Response, Refusal> {
    check(&request)?;
    // The program and how many arguments it has; their words may be secrets.
    tracing::info!(
        %caller, operation = "exec", workload = workload.as_str(),
        program = request.argv.first().map_or("", String::as_str),
        arguments = request.argv.len().saturating_sub(1),
        user = request.user.as_deref().unwrap_or("-"),
        terminal = request.terminal.is_some(),
        "asked for"
    );
    let (to_belayd, input) = mpsc::channel(INPUT);
    let (output, from_belayd) = mpsc::channel(OUTPUT);
    let (reply, replied) = oneshot::channel();
    state.send(Command::Exec { workload, request, input, output, reply }).await?;
    match replied.await {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => return Err(problem.into()),
        Err(_dropped) => return Err(shutting_down().into()),
    }
    state.operations().spawn(async move {
        match tokio::time::timeout(UPGRADE, upgrade).await {
            Ok(Ok(connection)) => {
                converse(TokioIo::new(connection), to_belayd, from_belayd).await;
            }
            // Dropping both ends is how belayd learns that nobody is there.
            Ok(Err(error)) => tracing::debug!(%error, "the client left before its command began"),
            Err(_late) => tracing::debug!("a connection was not upgraded in time"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(EXEC_PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// What can be refused without asking anybody.
fn check(request: &ExecRequest) -> Result<(), Refusal> {
    const NEXT: &str = "correct the request";
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv names no program", NEXT));
    }
    let texts = request.argv.iter().chain(request.env.values()).chain(&request.user);
    if texts.chain(request.env.keys()).any(|text| text.contains('\0')) {
        return Err(invalid("a text holds a NUL character", NEXT));
    }
    if let Some(name) = request.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid(format!("{name:?} is no name of a variable"), NEXT));
    }
    match request.working_dir.as_deref() {
        Some(path) if !path.starts_with('/') || path.contains('\0') => {
            Err(invalid(format!("the working directory {path:?} is not absolute"), NEXT))
        }
        Some(_) | None => Ok(()),
    }
}

/// Carries frames both ways until either side has ended.
async fn converse<S: AsyncRead + AsyncWrite>(
    connection: S,
    to_belayd: mpsc::Sender<ExecInput>,
    from_belayd: mpsc::Receiver<ExecOutput>,
) {
    let (reader, writer) = tokio::io::split(connection);
    let credit = Semaphore::new(EXEC_WINDOW.into());
    // A client that goes away ends both: what is not carried any more is dropped with its channel,
    // and belayd ends the command.
    tokio::select! {
        () = read(reader, to_belayd, &credit) => {}
        () = write(writer, from_belayd, &credit) => {}
    }
}

/// Hands the client's frames on; returns when it has gone or does not keep to the protocol.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    to_belayd: mpsc::Sender<ExecInput>,
    credit: &Semaphore,
) {
    let mut frames = ExecFrames::default();
    let mut bytes = vec![0; READ];
    loop {
        match reader.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => frames.push(&bytes[..count]),
        }
        loop {
            let frame = match frames.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a client of exec is cut");
                    return;
                }
            };
            match frame {
                ExecInput::Credit(more) => {
                    if credit.available_permits() + usize::from(more) > EXEC_WINDOW.into() {
                        tracing::debug!("a client of exec is cut: more credit than the window");
                        return;
                    }
                    credit.add_permits(more.into());
                }
                frame => {
                    if to_belayd.try_send(frame).is_err() {
                        tracing::debug!("a client of exec is cut: more frames than its credit");
                        return;
                    }
                }
            }
        }
    }
}

/// Hands belayd's frames on as far as the client has given credit; returns after the last.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut from_belayd: mpsc::Receiver<ExecOutput>,
    credit: &Semaphore,
) {
    loop {
        let frame = from_belayd.recv().await.unwrap_or_else(given_up);
        let (takes_credit, is_last) = match &frame {
            ExecOutput::Stdout(_) | ExecOutput::Stderr(_) => (true, false),
            ExecOutput::Credit(_) => (false, false),
            ExecOutput::Exited(_) | ExecOutput::Failed(_) => (false, true),
        };
        if takes_credit {
            credit.acquire().await.expect("it is never closed").forget();
        }
        let written = async {
            writer.write_all(&frame.encode()).await?;
            writer.flush().await
        };
        if written.await.is_err() {
            return;
        }
        if is_last {
            // The client reads the end of the connection after the last frame.
            let _ = writer.shutdown().await;
            return;
        }
    }
}

fn given_up() -> ExecOutput {
    ExecOutput::Failed(Box::new(Problem::new(
        ProblemCode::Internal,
        "belayd gave the command up without saying how it ended",
        "look into belayd's log",
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    struct Scene {
        client: DuplexStream,
        input: mpsc::Receiver<ExecInput>,
        output: mpsc::Sender<ExecOutput>,
        task: JoinHandle<()>,
    }

    fn scene() -> Scene {
        let (near, client) = duplex(4 << 20);
        let (to_belayd, input) = mpsc::channel(INPUT);
        let (output, from_belayd) = mpsc::channel(OUTPUT);
        let task = tokio::spawn(converse(near, to_belayd, from_belayd));
        Scene { client, input, output, task }
    }

    async fn frame(client: &mut DuplexStream, frames: &mut ExecFrames) -> Option<ExecOutput> {
        loop {
            if let Some(frame) = frames.take().expect("frames") {
                return Some(frame);
            }
            let mut bytes = [0; 1024];
            match client.read(&mut bytes).await.expect("read") {
                0 => return None,
                count => frames.push(&bytes[..count]),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_waits_for_credit_and_the_end_does_not() {
        let mut scene = scene();
        let mut frames = ExecFrames::default();
        let output = scene.output.clone();
        let sent = tokio::spawn(async move {
            for _ in 0..=EXEC_WINDOW {
                output.send(ExecOutput::Stdout(vec![7])).await.expect("carried");
            }
            output.send(ExecOutput::Exited(3)).await.expect("carried");
        });
        for _ in 0..EXEC_WINDOW {
            let found = frame(&mut scene.client, &mut frames).await;
            assert_eq!(found, Some(ExecOutput::Stdout(vec![7])));
        }
        let more = frame(&mut scene.client, &mut frames);
        let early = tokio::time::timeout(Duration::from_secs(60), more).await;
        assert!(early.is_err(), "{early:?} without credit");
        scene.client.write_all(&ExecInput::Credit(1).encode()).await.expect("written");
        let found = frame(&mut scene.client, &mut frames).await;
        assert_eq!(found, Some(ExecOutput::Stdout(vec![7])));
        assert_eq!(frame(&mut scene.client, &mut frames).await, Some(ExecOutput::Exited(3)));
        assert_eq!(frame(&mut scene.client, &mut frames).await, None);
        sent.await.expect("sent");
        scene.task.await.expect("ended");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_the_command() {
        let mut scene = scene();
        scene.client.write_all(&ExecInput::End.encode()).await.expect("written");
        assert_eq!(scene.input.recv().await, Some(ExecInput::End));
        drop(scene.client);
        assert_eq!(scene.input.recv().await, None);
        scene.output.closed().await;
        scene.task.await.expect("ended");
    }

    #[tokio::test]
    async fn a_client_that_sends_more_than_its_window_is_cut() {
        for flood in [ExecInput::Data(vec![1]), ExecInput::Credit(1)] {
            let mut scene = scene();
            for _ in 0..=INPUT {
                // It may be cut while it still sends.
                let _ = scene.client.write_all(&flood.encode()).await;
            }
            scene.output.closed().await;
            scene.task.await.expect("ended");
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_no_frames_is_cut() {
        let mut scene = scene();
        scene.client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
        scene.output.closed().await;
        scene.task.await.expect("ended");
    }

    #[tokio::test]
    async fn a_command_that_is_dropped_ends_as_failed() {
        let mut scene = scene();
        drop(scene.output);
        let found = frame(&mut scene.client, &mut ExecFrames::default()).await;
        assert_eq!(found, Some(given_up()));
    }
}
