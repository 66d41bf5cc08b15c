//! A command in a workload: its input, outputs, signals and exit code are this program's.

use std::process::ExitCode;
use std::sync::Arc;

use belay_protocol::{
    EXEC_FRAME_MAX, EXEC_PROTOCOL, EXEC_WINDOW, ExecFrame as _, ExecFrames, ExecInput, ExecOutput,
    ExecRequest, ExecSignal, ProblemCode, TerminalSize, WorkloadName,
};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Stderr, Stdin, Stdout,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::cli::ExecOptions;
use crate::client::{Client, Document};
use crate::failure::{self, Ending, Failure};
use crate::terminal::{RawTerminal, size_of_input};

/// Frames from belayd that wait to be written out: all that it may send, and the last.
const ARRIVING: usize = EXEC_WINDOW as usize * 2 + 2;

/// Frames for belayd that wait to be sent.
const LEAVING: usize = EXEC_WINDOW as usize * 2;

/// Runs the command and gives its exit code. Failures of belay and belayd have codes of their own.
pub(crate) async fn run(
    client: &Client,
    workload: &WorkloadName,
    options: ExecOptions,
) -> Result<ExitCode, Ending> {
    let terminal = options.terminal_size()?;
    let with_input = options.interactive;
    let request = options.request(terminal);
    carry_out(client, workload, &request, with_input).await.map_err(reserved)
}

/// Puts a failure on the codes that are kept for those around a command: whatever else would be
/// one of the command's own.
fn reserved(ending: Ending) -> Ending {
    match ending {
        Ending::PipeClosed => Ending::PipeClosed,
        Ending::Failed(mut failure) => {
            let kept =
                [ProblemCode::ExecTimedOut, ProblemCode::ExecFailed, ProblemCode::ProgramNotFound];
            if !kept.iter().any(|code| code.exit_code() == failure.exit_code) {
                failure.exit_code = failure::EXEC_NOT_RUN;
            }
            Ending::Failed(failure)
        }
    }
}

async fn carry_out(
    client: &Client,
    workload: &WorkloadName,
    request: &ExecRequest,
    with_input: bool,
) -> Result<ExitCode, Ending> {
    let path = format!("/v1/workloads/{workload}/exec");
    let connection = client.upgrade(&path, Document::of(request), EXEC_PROTOCOL).await?;
    let signals = Signals::new()?;
    // From here on what is typed goes to the command as it is; undone when this returns.
    let _raw = request
        .terminal
        .map(|_| RawTerminal::enter())
        .transpose()
        .map_err(|error| Failure::local("cannot use this terminal", &error, "leave -t out"))?;
    let (reader, writer) = tokio::io::split(connection);
    let (arrived, arriving) = mpsc::channel(ARRIVING);
    let (leave, leaving) = mpsc::channel(LEAVING);
    let input_credit = Arc::new(Semaphore::new(EXEC_WINDOW.into()));
    let input = async {
        if with_input {
            send_input(tokio::io::stdin(), &leave, &input_credit).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = show(arriving, &leave) => ended,
        lost = receive(reader, arrived, &input_credit) => lost,
        lost = send(writer, leaving) => lost,
        () = input => unreachable!("it never ends by itself"),
        code = signals.forward(&leave, request.terminal.is_some()) => Ok(code),
    }
}

/// Writes what arrives where it belongs, until the command has ended.
async fn show(
    mut arriving: mpsc::Receiver<ExecOutput>,
    leave: &mpsc::Sender<ExecInput>,
) -> Result<ExitCode, Ending> {
    let (mut stdout, mut stderr): (Stdout, Stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let written = match arriving.recv().await {
            Some(ExecOutput::Stdout(bytes)) => write_out(&mut stdout, &bytes).await,
            Some(ExecOutput::Stderr(bytes)) => write_out(&mut stderr, &bytes).await,
            Some(ExecOutput::Exited(code)) => {
                return Ok(ExitCode::from(u8::try_from(code & 0xff).expect("eight bits")));
            }
            Some(ExecOutput::Failed(problem)) => return Err((*problem).into()),
            Some(ExecOutput::Credit(_)) => continue,
            // The connection has ended; whoever reads it says how.
            None => std::future::pending().await,
        };
        written?;
        // A full queue means that belayd does not read; then the connection ends anyway.
        let _ = leave.send(ExecInput::Credit(1)).await;
    }
}

async fn write_out(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Ending> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    written.await.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ending::PipeClosed,
        _ => Failure::local("cannot write the output", &error, "").into(),
    })
}

/// Takes frames off the connection as they come, so that belayd never waits for this side's output.
async fn receive(
    mut reader: impl AsyncRead + Unpin,
    arrived: mpsc::Sender<ExecOutput>,
    input_credit: &Semaphore,
) -> Result<ExitCode, Ending> {
    let mut frames = ExecFrames::default();
    let mut bytes = vec![0; EXEC_FRAME_MAX];
    loop {
        let count = reader.read(&mut bytes).await.map_err(|error| lost(&error.to_string()))?;
        if count == 0 {
            // The last frame is on its way out, or there was none.
            let after_the_last = arrived.is_closed() || arrived.capacity() < ARRIVING;
            if after_the_last {
                arrived.closed().await;
            }
            return Err(lost("belayd ended it"));
        }
        frames.push(&bytes[..count]);
        while let Some(frame) = frames.take().map_err(|error| lost(&error.to_string()))? {
            match frame {
                ExecOutput::Credit(more) => input_credit.add_permits(more.into()),
                frame => {
                    if arrived.try_send(frame).is_err() {
                        return Err(lost("belayd sends more than it may"));
                    }
                }
            }
        }
    }
}

fn lost(why: &str) -> Ending {
    Failure::new(
        failure::EXEC_NOT_RUN,
        format!("the connection to belayd was lost, and the command was ended with it: {why}"),
        "belay status says what holds now",
    )
    .into()
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut leaving: mpsc::Receiver<ExecInput>,
) -> Result<ExitCode, Ending> {
    while let Some(frame) = leaving.recv().await {
        let written = async {
            writer.write_all(&frame.encode()).await?;
            writer.flush().await
        };
        if written.await.is_err() {
            break;
        }
    }
    // Whoever reads the connection says how it ended.
    std::future::pending().await
}

async fn send_input(mut stdin: Stdin, leave: &mpsc::Sender<ExecInput>, credit: &Semaphore) {
    let mut bytes = vec![0; EXEC_FRAME_MAX];
    loop {
        credit.acquire().await.expect("it is never closed").forget();
        let frame = match stdin.read(&mut bytes).await {
            Ok(0) | Err(_) => ExecInput::End,
            Ok(count) => ExecInput::Data(bytes[..count].to_vec()),
        };
        let ends = frame == ExecInput::End;
        if leave.send(frame).await.is_err() || ends {
            return;
        }
    }
}

/// The signals of this program that are the command's.
struct Signals {
    resize: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Ending> {
        let take =
            |kind| signal(kind).map_err(|error| Failure::local("cannot take signals", &error, ""));
        Ok(Self {
            resize: take(SignalKind::window_change())?,
            interrupt: take(SignalKind::interrupt())?,
            quit: take(SignalKind::quit())?,
            terminate: take(SignalKind::terminate())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// Passes signals on. Ends with 130 at the second interrupt and at a hang-up, which ends the
    /// command with the session.
    async fn forward(mut self, leave: &mpsc::Sender<ExecInput>, has_terminal: bool) -> ExitCode {
        let mut interrupts = 0;
        loop {
            let frame = tokio::select! {
                _ = self.resize.recv() => match size_of_input() {
                    Some(size) if has_terminal => ExecInput::Resize(size),
                    Some(_) | None => continue,
                },
                _ = self.interrupt.recv() => {
                    interrupts += 1;
                    if interrupts > 1 {
                        return ExitCode::from(failure::INTERRUPTED);
                    }
                    ExecInput::Signal(ExecSignal::Int)
                }
                _ = self.quit.recv() => ExecInput::Signal(ExecSignal::Quit),
                _ = self.terminate.recv() => ExecInput::Signal(ExecSignal::Term),
                _ = self.hang_up.recv() => return ExitCode::from(failure::INTERRUPTED),
            };
            let _ = leave.send(frame).await;
        }
    }
}

impl ExecOptions {
    /// The terminal that the command gets; `-t` needs one here.
    fn terminal_size(&self) -> Result<Option<TerminalSize>, Ending> {
        if !self.tty {
            return Ok(None);
        }
        match size_of_input() {
            Some(size) => Ok(Some(size)),
            None => Err(Failure::new(
                failure::USAGE,
                "-t gives the command this terminal, and standard input is none",
                "leave -t out",
            )
            .into()),
        }
    }

    fn request(self, terminal: Option<TerminalSize>) -> ExecRequest {
        ExecRequest {
            argv: self.command,
            env: self.env.into_iter().collect(),
            user: self.user,
            working_dir: self.workdir,
            stdin: self.interactive,
            terminal,
            timeout_ms: self
                .timeout
                .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_around_a_command_have_codes_of_their_own() {
        let code = |code: ProblemCode| {
            let problem = belay_protocol::Problem::new(code, "", "");
            match reserved(problem.into()) {
                Ending::Failed(failure) => failure.exit_code,
                Ending::PipeClosed => panic!("it is a failure"),
            }
        };
        assert_eq!(code(ProblemCode::ExecTimedOut), 124);
        assert_eq!(code(ProblemCode::NotRunning), 125);
        assert_eq!(code(ProblemCode::ShuttingDown), 125);
        assert_eq!(code(ProblemCode::ExecFailed), 126);
        assert_eq!(code(ProblemCode::ProgramNotFound), 127);
    }
}
