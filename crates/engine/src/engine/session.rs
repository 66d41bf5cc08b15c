//! A command inside a running container that somebody talks to while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::exec::ResizeExecOptions;
use bollard::models::ExecConfig;
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Upgraded, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::exec::CODE_WITHIN;
use super::http::Api;
use super::{Engine, reference};
use crate::blocking;
use crate::core::multiplex::{Multiplex, NotFramed, Side};
use crate::core::process::{self, Process};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};

/// Bytes that are read from the engine at once.
const READ: usize = 32 << 10;

/// How long the engine may take to tell the process of a command that it has started.
const PROCESS_WITHIN: Duration = Duration::from_secs(5);

/// How long the processes of a command may take to be gone after `SIGKILL`.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What to run, and how it is talked to.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// Program and arguments; no shell is put in between.
    pub argv: Vec<String>,
    /// Environment, added to the container's.
    pub env: Vec<(String, String)>,
    /// User; `None` is the container's.
    pub user: Option<String>,
    /// Working directory; `None` is the container's.
    pub working_dir: Option<String>,
    /// Whether it has a standard input.
    pub stdin: Stdin,
    /// Its terminal; with one, both outputs come as one.
    pub terminal: Option<Terminal>,
}

impl std::fmt::Debug for SessionSpec {
    /// Leaves arguments and the values of the environment out: secrets travel there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionSpec")
            .field("program", &self.argv.first())
            .field("user", &self.user)
            .field("stdin", &self.stdin)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// Whether a command has a standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// It reads the end at once.
    Closed,
    /// It reads what is sent.
    Open,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A signal that a command can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSignal {
    /// `SIGHUP`.
    Hup,
    /// `SIGINT`.
    Int,
    /// `SIGQUIT`.
    Quit,
    /// `SIGTERM`.
    Term,
    /// `SIGKILL`.
    Kill,
}

impl SessionSignal {
    fn number(self) -> Signal {
        match self {
            Self::Hup => Signal::SIGHUP,
            Self::Int => Signal::SIGINT,
            Self::Quit => Signal::SIGQUIT,
            Self::Term => Signal::SIGTERM,
            Self::Kill => Signal::SIGKILL,
        }
    }
}

/// A command in a container, by the id that the engine gave it. It can be found again by that id
/// after whoever began it has died.
#[derive(Debug, Clone)]
pub struct Session {
    engine: Engine,
    container: String,
    id: String,
    /// The command's first process, in the host's numbering, once it was seen.
    leader: Option<i32>,
}

/// What a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPiece {
    /// To its standard output, or its terminal.
    Stdout(Bytes),
    /// To its standard error.
    Stderr(Bytes),
}

/// The end from which a command's output comes.
#[derive(Debug)]
pub struct SessionOutput {
    stream: ReadHalf<Upgraded>,
    /// Absent with a terminal, whose output comes as it is.
    multiplex: Option<Multiplex>,
    container: String,
}

/// The end into which a command's input goes.
#[derive(Debug)]
pub struct SessionInput(WriteHalf<Upgraded>);

impl Engine {
    /// Prepares a command in a container, without running it: a container that does not run or is
    /// paused is a conflict. Deadline: [`deadline::EXEC_SETUP`].
    pub async fn prepare_session(
        &self,
        container: impl AsRef<str>,
        spec: &SessionSpec,
    ) -> Result<Session, EngineError> {
        let operation = Operation::Exec;
        let name = reference(operation, container.as_ref())?;
        let config = ExecConfig {
            cmd: Some(spec.argv.clone()),
            env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: spec.user.clone(),
            working_dir: spec.working_dir.clone(),
            attach_stdin: Some(spec.stdin == Stdin::Open),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(spec.terminal.is_some()),
            ..ExecConfig::default()
        };
        let create = self.docker().create_exec(name, config);
        let object = Object::Container(name.to_owned());
        let id = self.call(operation, object, deadline::EXEC_SETUP, create).await?.id;
        Ok(Session::of(self, name, id))
    }

    /// A command that was prepared before, perhaps by another process.
    pub fn find_session(
        &self,
        container: impl AsRef<str>,
        id: impl Into<String>,
    ) -> Result<Session, EngineError> {
        let name = reference(Operation::Exec, container.as_ref())?;
        let id = id.into();
        reference(Operation::Exec, &id)?;
        Ok(Session::of(self, name, id))
    }
}

impl Session {
    pub(super) fn of(engine: &Engine, container: &str, id: String) -> Self {
        Self { engine: engine.clone(), container: container.to_owned(), id, leader: None }
    }

    /// The id that the engine gave it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs the command. A program that is not there is [`EngineError::Invalid`], or an exit code of
    /// 126 or 127, as the engine has it. Deadline: [`deadline::EXEC_SETUP`].
    ///
    /// The connection is made without the Docker client: its reader takes the first byte of a
    /// terminal's output for a frame where it is small enough, and panics on what follows.
    pub async fn start(
        &mut self,
        spec: &SessionSpec,
    ) -> Result<(SessionOutput, SessionInput), EngineError> {
        let operation = Operation::Exec;
        let terminal = spec.terminal;
        let mut body = serde_json::json!({ "Detach": false, "Tty": terminal.is_some() });
        if let Some(Terminal { rows, columns }) = terminal {
            body["h"] = rows.into();
            body["w"] = columns.into();
        }
        let request = self
            .engine
            .http()
            .request(reqwest::Method::POST, Api::Docker, &format!("/exec/{}/start", self.id))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .json(&body);
        let unreachable = |source: reqwest::Error| EngineError::Unreachable {
            operation,
            object: self.object(),
            source: Box::new(source),
        };
        let starting = async {
            let response = request.send().await.map_err(unreachable)?;
            if response.status() != reqwest::StatusCode::SWITCHING_PROTOCOLS {
                return Err(self.engine.http().refusal(operation, self.object(), response).await);
            }
            response.upgrade().await.map_err(unreachable)
        };
        let started = tokio::time::timeout(deadline::EXEC_SETUP, starting).await;
        let stream = started.map_err(|_| EngineError::TimedOut {
            operation,
            object: self.object(),
            after: deadline::EXEC_SETUP,
        })??;
        let (output, input) = tokio::io::split(stream);
        if let Some(size) = terminal {
            // Podman 4.3 overlooks the size in the start.
            let _ = self.resize(size).await;
        }
        let multiplex = terminal.is_none().then(Multiplex::default);
        let output = SessionOutput { stream: output, multiplex, container: self.container.clone() };
        Ok((output, SessionInput(input)))
    }

    /// Tells the command that its terminal has another size. Deadline: [`deadline::EXEC_SETUP`].
    pub async fn resize(&self, size: Terminal) -> Result<(), EngineError> {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        let resize = self.engine.docker().resize_exec(&self.id, options);
        self.engine.call(Operation::Exec, self.object(), deadline::EXEC_SETUP, resize).await
    }

    /// Sends a signal to the command and all of its process group, as a terminal does. Says whether
    /// there was a process to send it to.
    pub async fn signal(&mut self, signal: SessionSignal) -> Result<bool, EngineError> {
        let Some(leader) = self.leader().await? else { return Ok(false) };
        let container = self.container_id().await?;
        let belongs = blocking::run(move || is_of(leader, &container)).await;
        Ok(belongs && kill(Pid::from_raw(-leader), signal.number()).is_ok())
    }

    /// The command's exit code, once it has ended; 128 plus the signal number when a signal ended
    /// it. To be asked for after the end of its output.
    pub async fn exit_code(&self) -> Result<i32, EngineError> {
        self.engine.exit_code(&self.container, &self.id, CODE_WITHIN).await
    }

    /// Whether the command is known to have ended.
    pub async fn has_ended(&self) -> Result<bool, EngineError> {
        Ok(self.look().await?.is_some_and(|found| found.running == Some(false)))
    }

    /// Kills the command with everything that it began and that has not left its session, and
    /// waits until it is gone. No engine has a call for that, so it is done from outside, and only
    /// to processes whose control group is the container's. One that has ended, and one of a
    /// container that is gone, is left as it is.
    pub async fn end(&mut self) -> Result<(), EngineError> {
        let leader = match self.leader().await {
            Ok(Some(leader)) => leader,
            Ok(None) => return Ok(()),
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) => return Err(error),
        };
        let container = match self.container_id().await {
            Ok(container) => container,
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) => return Err(error),
        };
        let deadline = Instant::now() + KILLED_WITHIN;
        loop {
            let id = container.clone();
            let left = blocking::run(move || kill_command(leader, &id)).await;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(EngineError::TimedOut {
                    operation: Operation::Exec,
                    object: self.object(),
                    after: KILLED_WITHIN,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The command's first process, also when it has ended since it was seen.
    async fn leader(&mut self) -> Result<Option<i32>, EngineError> {
        if self.leader.is_some() {
            return Ok(self.leader);
        }
        let deadline = Instant::now() + PROCESS_WITHIN;
        loop {
            let Some(found) = self.look().await? else { return Ok(None) };
            let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
            match (found.running, pid) {
                (Some(true), Some(pid)) => {
                    self.leader = Some(pid);
                    return Ok(self.leader);
                }
                (Some(true), None) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                _ => return Ok(None),
            }
        }
    }

    /// Remembers the command's first process, so that what it leaves behind is found after its end.
    pub async fn remember(&mut self) -> Result<(), EngineError> {
        self.leader().await.map(drop)
    }

    /// The session as the engine has it; `None` when it does not know it any more.
    async fn look(&self) -> Result<Option<bollard::models::ExecInspectResponse>, EngineError> {
        let inspect = self.engine.docker().inspect_exec(&self.id);
        let object = self.object();
        match self.engine.call(Operation::Exec, object, deadline::EXEC_SETUP, inspect).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole id, as the names of control groups carry it.
    async fn container_id(&self) -> Result<String, EngineError> {
        match self.engine.inspect(&self.container).await? {
            Some(found) => Ok(found.id.as_str().to_owned()),
            None => Err(EngineError::Absent {
                operation: Operation::Exec,
                object: self.object(),
                detail: "it was removed".to_owned(),
            }),
        }
    }

    fn object(&self) -> Object {
        Object::Container(self.container.clone())
    }
}

impl SessionOutput {
    /// The next piece of output; `None` at its end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<SessionPiece>, EngineError> {
        let object = || Object::Container(self.container.clone());
        loop {
            if let Some(multiplex) = &mut self.multiplex {
                match multiplex.next() {
                    Ok(Some((Side::Stdout, bytes))) => {
                        return Ok(Some(SessionPiece::Stdout(bytes)));
                    }
                    Ok(Some((Side::Stderr, bytes))) => {
                        return Ok(Some(SessionPiece::Stderr(bytes)));
                    }
                    Ok(None) => {}
                    Err(NotFramed(byte)) => {
                        return Err(EngineError::Unknown {
                            operation: Operation::Exec,
                            object: object(),
                            status: None,
                            detail: format!("the engine's output begins with {byte:#x}"),
                        });
                    }
                }
            }
            let mut buffer = vec![0; READ];
            let read =
                self.stream.read(&mut buffer).await.map_err(|source| EngineError::Unreachable {
                    operation: Operation::Exec,
                    object: object(),
                    source: Box::new(source),
                })?;
            if read == 0 {
                return Ok(None);
            }
            let Some(multiplex) = &mut self.multiplex else {
                buffer.truncate(read);
                return Ok(Some(SessionPiece::Stdout(buffer.into())));
            };
            multiplex.push(&buffer[..read]);
        }
    }
}

impl SessionInput {
    /// Writes some of `bytes` and says how many. May be dropped and called again. An error means
    /// that the command reads no more.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).await
    }

    /// Ends the input: the command reads the end after what was written.
    pub async fn close(&mut self) -> std::io::Result<()> {
        self.0.shutdown().await
    }
}

/// Kills what is left of a command, and says how many processes that were.
fn kill_command(leader: i32, container: &str) -> usize {
    let left: BTreeSet<i32> = process::of_command(leader, &processes())
        .into_iter()
        .filter(|pid| is_of(*pid, container))
        .collect();
    for pid in &left {
        // One that has gone meanwhile is what was wanted.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    left.len()
}

/// Every process of the host.
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/stat")).ok())
        .filter_map(|line| process::parse_stat(&String::from_utf8_lossy(&line)))
        .collect()
}

/// Whether a process is in a control group of this container: ids are reused, names of containers'
/// groups are not.
fn is_of(pid: i32, container: &str) -> bool {
    pid > 1
        && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(container))
}
