//! Commands that operators run in workloads.
//!
//! A command changes nothing about what should run, so it does not go through the workload's task:
//! it is run beside it, and ends with the container if that ends first. It dies with its session:
//! with the client, at its time-out, and with belayd. A record of each one on the runtime
//! directory's tmpfs, written before it begins, lets the next belayd end those that a killed one
//! left behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{
    EngineError, Session, SessionInput, SessionOutput, SessionPiece, SessionSignal, SessionSpec,
    Stdin, Terminal,
};
use belay_protocol::{
    EXEC_FRAME_MAX, EventDetails, ExecInput, ExecOutput, ExecRequest, ExecSignal, Problem,
    ProblemCode, TerminalSize, WorkloadName, WorkloadStatus,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::context::Context;
use crate::problems;

/// Commands at once on a node.
pub(super) const MOST: usize = 16;

/// How long a client that reads nothing is waited for with the last frame.
const LAST_FRAME: Duration = Duration::from_secs(5);

/// Directory of the records below the runtime directory.
const RECORDS: &str = "exec";

/// A command on its way.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) workload: WorkloadName,
    pub(super) request: ExecRequest,
    pub(super) input: mpsc::Receiver<ExecInput>,
    pub(super) output: mpsc::Sender<ExecOutput>,
    pub(super) reply: oneshot::Sender<Result<(), Problem>>,
}

/// How the conversation with a command came to its end.
enum Ended {
    /// The command's output has ended.
    Output,
    /// It could not be read any more.
    Lost(EngineError),
    /// The client went away.
    ClientGone,
    /// Its time is up.
    TimedOut(Duration),
    /// belayd ends.
    ShuttingDown,
}

impl Exec {
    /// Runs the command in the container that the workload has now.
    pub(super) async fn run(mut self, context: Arc<Context>, status: Option<WorkloadStatus>) {
        let container = match running(&self.workload, status) {
            Ok(container) => container,
            Err(problem) => {
                let _ = self.reply.send(Err(problem));
                return;
            }
        };
        let spec = session_spec(&self.request);
        let prepared = context.engine.prepare_session(&container, &spec).await;
        let mut session = match prepared {
            Ok(session) => session,
            Err(error) => {
                let _ = self.reply.send(Err(could_not_run(&self.workload, &self.request, &error)));
                return;
            }
        };
        let record = match Record::write(&context.runtime_dir, &session, &container).await {
            Ok(record) => record,
            Err(error) => {
                let detail = format!("the command's record cannot be written: {error}");
                let next = "see that belayd's runtime directory can be written";
                let _ = self.reply.send(Err(Problem::new(ProblemCode::Internal, detail, next)));
                return;
            }
        };
        let began = Instant::now();
        self.tell(&context);
        let started = session.start(&spec).await;
        let last = match started {
            Err(error) => {
                let problem = could_not_run(&self.workload, &self.request, &error);
                let _ = self.reply.send(Err(problem));
                None
            }
            Ok((output, input)) => {
                if self.reply.send(Ok(())).is_err() {
                    // The client has gone while it was started.
                    self.input.close();
                }
                // So that what it leaves behind is known once it has ended.
                let seen = session.remember().await;
                if let Err(error) = seen {
                    tracing::debug!("{}", problems::with_causes(&error));
                }
                let talk = Talk {
                    session: &mut session,
                    input: Some(input),
                    from_client: &mut self.input,
                    to_client: &self.output,
                };
                let limit = self.request.timeout_ms.map(Duration::from_millis);
                let ended = talk.hold(output, limit, &context).await;
                Some(verdict(&self.workload, &self.request, ended, &session).await)
            }
        };
        match session.end().await {
            Ok(()) => record.remove().await,
            Err(error) => {
                // The record stays, and the next belayd tries again.
                let error = problems::with_causes(&error);
                tracing::warn!(workload = %self.workload, "a command could not be ended: {error}");
            }
        }
        let Some(last) = last else { return };
        let outcome = match &last {
            ExecOutput::Exited(code) => format!("exit code {code}"),
            ExecOutput::Failed(problem) => problem.detail.clone(),
            ExecOutput::Stdout(_) | ExecOutput::Stderr(_) | ExecOutput::Credit(_) => String::new(),
        };
        tracing::info!(
            workload = %self.workload,
            program = self.request.argv.first().map_or("", String::as_str),
            seconds = began.elapsed().as_secs(),
            "a command has ended: {outcome}"
        );
        let _ = self.output.send_timeout(last, LAST_FRAME).await;
    }
}

impl Exec {
    /// Puts the command on record, without the words of its arguments.
    fn tell(&self, context: &Context) {
        let program = self.request.argv.first().map_or("", String::as_str);
        let arguments = self.request.argv.len().saturating_sub(1) as u64;
        let message = format!("{program} is run in {}", self.workload);
        let details = EventDetails::CommandBegun { program: program.into(), arguments };
        context.events.emit(&self.workload, message, details);
    }
}

/// The container of a workload that runs, or why there is none to run a command in.
fn running(workload: &WorkloadName, status: Option<WorkloadStatus>) -> Result<String, Problem> {
    let Some(status) = status else {
        return Err(Problem::new(
            ProblemCode::NotRunning,
            format!("nothing of {workload} runs yet"),
            format!("belay status {workload}"),
        ));
    };
    match &status.container {
        Some(container) if container.started_at.is_some() => Ok(container.id.clone()),
        Some(_) | None => Err(Problem::new(
            ProblemCode::NotRunning,
            format!("{workload} is {}: {}", status.phase.as_str(), status.reason),
            format!("a command never starts a workload; start it: belay start {workload}"),
        )),
    }
}

fn session_spec(request: &ExecRequest) -> SessionSpec {
    SessionSpec {
        argv: request.argv.clone(),
        env: request.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        user: request.user.clone(),
        working_dir: request.working_dir.clone(),
        stdin: if request.stdin { Stdin::Open } else { Stdin::Closed },
        terminal: request.terminal.map(terminal),
    }
}

fn terminal(size: TerminalSize) -> Terminal {
    Terminal { rows: size.rows, columns: size.columns }
}

fn signal(signal: ExecSignal) -> SessionSignal {
    match signal {
        ExecSignal::Hup => SessionSignal::Hup,
        ExecSignal::Int => SessionSignal::Int,
        ExecSignal::Quit => SessionSignal::Quit,
        ExecSignal::Term => SessionSignal::Term,
        ExecSignal::Kill => SessionSignal::Kill,
    }
}

fn could_not_run(workload: &WorkloadName, request: &ExecRequest, error: &EngineError) -> Problem {
    let program = request.argv.first().map_or("", String::as_str);
    let words = problems::with_causes(error);
    match error {
        EngineError::Conflict { .. } | EngineError::Absent { .. } => Problem::new(
            ProblemCode::NotRunning,
            format!("{workload} has just ended or is paused: {words}"),
            format!("a command never starts a workload; start it: belay start {workload}"),
        ),
        EngineError::Unreachable { .. } => Problem::new(
            ProblemCode::EngineUnreachable,
            words,
            "belay doctor says what was tried; then repeat the command",
        ),
        EngineError::Invalid { detail, .. } if says_not_found(detail) => Problem::new(
            ProblemCode::ProgramNotFound,
            format!("{program} is not a program of {workload}: {words}"),
            "name a program of the image, by path or as its PATH finds it",
        ),
        EngineError::Invalid { .. }
        | EngineError::Busy { .. }
        | EngineError::Denied { .. }
        | EngineError::Unsupported { .. }
        | EngineError::TimedOut { .. }
        | EngineError::Unknown { .. } => Problem::new(
            ProblemCode::ExecFailed,
            format!("{program} could not be run in {workload}: {words}"),
            "check the program, the user and the working directory inside the image",
        ),
    }
}

/// Whether the engine means the program: the runtimes say it in these words.
fn says_not_found(detail: &str) -> bool {
    ["executable file not found", "command that was not found", "no such file or directory"]
        .iter()
        .any(|words| detail.contains(words))
}

/// The last frame.
async fn verdict(
    workload: &WorkloadName,
    request: &ExecRequest,
    ended: Ended,
    session: &Session,
) -> ExecOutput {
    let problem = match ended {
        Ended::Output => match session.exit_code().await {
            Ok(code) => return ExecOutput::Exited(code),
            Err(error) => could_not_run(workload, request, &error),
        },
        Ended::Lost(error) => could_not_run(workload, request, &error),
        Ended::ClientGone => Problem::new(
            ProblemCode::ExecFailed,
            "its client went away, so it was ended",
            "run it again",
        ),
        Ended::TimedOut(limit) => Problem::new(
            ProblemCode::ExecTimedOut,
            format!("it ran longer than {} ms and was ended", limit.as_millis()),
            "give it more time with --timeout, or none",
        ),
        Ended::ShuttingDown => Problem::new(
            ProblemCode::ShuttingDown,
            "belayd ends, so the command was ended; the workload runs on",
            "run it again once belayd is back",
        ),
    };
    ExecOutput::Failed(Box::new(problem))
}

/// A conversation between a client and a command.
struct Talk<'a> {
    session: &'a mut Session,
    input: Option<SessionInput>,
    from_client: &'a mut mpsc::Receiver<ExecInput>,
    to_client: &'a mpsc::Sender<ExecOutput>,
}

impl Talk<'_> {
    async fn hold(
        self,
        output: SessionOutput,
        limit: Option<Duration>,
        context: &Context,
    ) -> Ended {
        let to_client = self.to_client;
        let time_up = async {
            match limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = forward(output, to_client) => ended,
            () = self.take() => Ended::ClientGone,
            () = to_client.closed() => Ended::ClientGone,
            limit = time_up => Ended::TimedOut(limit),
            () = context.shutdown.cancelled() => Ended::ShuttingDown,
        }
    }

    /// Does what the client sends, until it has gone.
    async fn take(mut self) {
        // At most the window of the protocol waits here, since credit is given when it is written.
        let mut waiting = std::collections::VecDeque::<Vec<u8>>::new();
        let mut written = 0;
        let mut ends = false;
        loop {
            if ends
                && waiting.is_empty()
                && let Some(mut input) = self.input.take()
            {
                // A command that has closed its input already reads no end.
                let _ = input.close().await;
            }
            let input = self.input.as_mut().filter(|_| !waiting.is_empty());
            let piece = waiting.front().map(|bytes| &bytes[written..]);
            let write = async {
                match (input, piece) {
                    (Some(input), Some(piece)) => input.write(piece).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                result = write => {
                    match result {
                        Ok(count) if count > 0 => written += count,
                        // It reads no more: what comes is let go of, as into a broken pipe.
                        Ok(_) | Err(_) => self.input = None,
                    }
                }
                frame = self.from_client.recv() => match frame {
                    None => return,
                    Some(ExecInput::Data(bytes)) if !ends => waiting.push_back(bytes),
                    Some(ExecInput::Data(_) | ExecInput::Credit(_)) => {}
                    Some(ExecInput::End) => ends = true,
                    Some(ExecInput::Resize(size)) => {
                        // It may have ended meanwhile.
                        let _ = self.session.resize(terminal(size)).await;
                    }
                    Some(ExecInput::Signal(number)) => {
                        let _ = self.session.signal(signal(number)).await;
                    }
                },
            }
            while let Some(front) = waiting.front()
                && (written >= front.len() || self.input.is_none())
            {
                waiting.pop_front();
                written = 0;
                if self.to_client.send(ExecOutput::Credit(1)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Hands the command's output on.
async fn forward(mut output: SessionOutput, to_client: &mpsc::Sender<ExecOutput>) -> Ended {
    loop {
        let (bytes, frame): (_, fn(Vec<u8>) -> ExecOutput) = match output.next().await {
            Ok(Some(SessionPiece::Stdout(bytes))) => (bytes, ExecOutput::Stdout),
            Ok(Some(SessionPiece::Stderr(bytes))) => (bytes, ExecOutput::Stderr),
            Ok(None) => return Ended::Output,
            Err(error) => return Ended::Lost(error),
        };
        for part in bytes.chunks(EXEC_FRAME_MAX) {
            if to_client.send(frame(part.to_vec())).await.is_err() {
                return Ended::ClientGone;
            }
        }
    }
}

/// A command that may be running, on tmpfs: gone after a boot, as the command is.
struct Record(PathBuf);

impl Record {
    async fn write(
        runtime_dir: &Path,
        session: &Session,
        container: &str,
    ) -> std::io::Result<Self> {
        let directory = runtime_dir.join(RECORDS);
        tokio::fs::create_dir_all(&directory).await?;
        let path = directory.join(session.id());
        tokio::fs::write(&path, container).await?;
        Ok(Self(path))
    }

    async fn remove(self) {
        if let Err(error) = tokio::fs::remove_file(&self.0).await {
            tracing::debug!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Ends the commands that a belayd that was killed has left behind.
pub(super) async fn end_left_behind(context: Arc<Context>) {
    let directory = context.runtime_dir.join(RECORDS);
    let Ok(mut entries) = tokio::fs::read_dir(&directory).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        let container = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        let id = entry.file_name().to_string_lossy().into_owned();
        let ended = match context.engine.find_session(&container, id) {
            Ok(mut session) => session.end().await,
            // Not one of ours: a record that was cut short names no command that began.
            Err(_) => Ok(()),
        };
        match ended {
            Ok(()) => {
                tracing::info!(container, "a command of an earlier belayd is ended");
                Record(path).remove().await;
            }
            Err(error) => {
                let error = problems::with_causes(&error);
                tracing::warn!("a command of an earlier belayd could not be ended: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_does_not_run_is_named_with_its_state_reason_and_the_way_to_start_it() {
        let name: WorkloadName = "web".parse().expect("a name");
        let status = serde_json::json!({
            "name": "web", "desired": "stopped", "phase": "stopped",
            "since": "2026-01-01T00:00:00Z", "reason": "an operator stopped it", "source": "api",
            "image": "x", "spec_hash": "x", "generation": 1, "container": null, "restarts": 0,
            "back_off": null, "last_fault": null, "ports": [], "volumes": [], "mounts": {},
            "sync": null, "transitions": [],
        });
        let status: WorkloadStatus = serde_json::from_value(status).expect("a status");
        let problem = running(&name, Some(status.clone())).expect_err("refused");
        assert_eq!(problem.code, ProblemCode::NotRunning);
        assert_eq!(problem.detail, "web is stopped: an operator stopped it");
        assert!(problem.next.contains("belay start web"), "{}", problem.next);
        assert!(running(&name, None).is_err());
        let container = |started_at: &str| serde_json::json!({"id": "abc", "name": "n", "started_at": started_at, "exit": null});
        let up = WorkloadStatus {
            container: serde_json::from_value(container("2026-01-01T00:00:00Z")).expect("shape"),
            ..status
        };
        assert_eq!(running(&name, Some(up)), Ok("abc".to_owned()));
    }
}
