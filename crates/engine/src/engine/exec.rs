//! A command inside a running container.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::{Engine, Session, reference};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};

/// What to run.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments; no shell is put in between.
    pub argv: Vec<String>,
    /// Environment, added to the container's.
    pub env: Vec<(String, String)>,
    /// User; `None` is the container's.
    pub user: Option<String>,
    /// Working directory; `None` is the container's.
    pub working_dir: Option<String>,
    /// How long it may take. A command that takes longer is killed.
    pub deadline: Duration,
    /// How much of each of its two outputs is kept, in bytes. The rest is read and dropped.
    pub output_max: usize,
}

impl ExecSpec {
    /// A command with ten seconds and 64 KiB of each output.
    pub fn new<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            working_dir: None,
            deadline: Duration::from_secs(10),
            output_max: 64 << 10,
        }
    }
}

impl std::fmt::Debug for ExecSpec {
    /// Leaves the values of the environment out: secrets travel there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ExecSpec")
            .field("argv", &self.argv)
            .field("env", &env)
            .field("user", &self.user)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What a command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; 128 plus the signal number when a signal ended it.
    pub exit_code: i32,
    /// The beginning of its standard output.
    pub stdout: Bytes,
    /// The beginning of its standard error.
    pub stderr: Bytes,
    /// Bytes of both outputs that were dropped.
    pub dropped: u64,
}

/// How long the engine may take to note the exit code after the output ended.
pub(super) const CODE_WITHIN: Duration = Duration::from_secs(5);

impl Engine {
    /// Runs a command in a running container and waits for its end. A container that does not run
    /// or is paused is a conflict; a program that is not there is [`EngineError::Invalid`] or an
    /// exit code of 126 or 127, as the engine has it. Deadline: the one of the command, and
    /// [`deadline::EXEC_SETUP`] for each request around it.
    pub async fn exec(
        &self,
        container: impl AsRef<str>,
        spec: &ExecSpec,
    ) -> Result<ExecOutput, EngineError> {
        let operation = Operation::Exec;
        let name = reference(operation, container.as_ref())?;
        let object = || Object::Container(name.to_owned());
        let config = ExecConfig {
            cmd: Some(spec.argv.clone()),
            env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: spec.user.clone(),
            working_dir: spec.working_dir.clone(),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let create = self.docker().create_exec(name, config);
        let session = self.call(operation, object(), deadline::EXEC_SETUP, create).await?.id;
        let start = self.docker().start_exec(&session, None::<StartExecOptions>);
        let started = self.call(operation, object(), deadline::EXEC_SETUP, start).await?;
        let StartExecResults::Attached { mut output, input } = started else {
            return Err(EngineError::Unknown {
                operation,
                object: object(),
                status: None,
                detail: "the engine ran the command detached".to_owned(),
            });
        };
        let mut kept = Kept { max: spec.output_max, ..Kept::default() };
        let reading = async {
            while let Some(piece) = output.next().await {
                kept.take(
                    piece
                        .map_err(|error| super::fault::from_bollard(operation, object(), error))?,
                );
            }
            Ok(())
        };
        let read = tokio::time::timeout(spec.deadline, reading).await;
        drop(input);
        if let Ok(result) = read {
            result?;
        } else {
            Session::of(self, name, session).end().await?;
            return Err(EngineError::TimedOut {
                operation,
                object: object(),
                after: spec.deadline,
            });
        }
        let exit_code = self.exit_code(name, &session, CODE_WITHIN).await?;
        Ok(ExecOutput {
            exit_code,
            stdout: kept.stdout.freeze(),
            stderr: kept.stderr.freeze(),
            dropped: kept.dropped,
        })
    }

    /// The output can end a moment before the engine notes the code.
    pub(super) async fn exit_code(
        &self,
        name: &str,
        session: &str,
        within: Duration,
    ) -> Result<i32, EngineError> {
        let operation = Operation::Exec;
        let object = || Object::Container(name.to_owned());
        let end = tokio::time::Instant::now() + within;
        loop {
            let inspect = self.docker().inspect_exec(session);
            let found = self.call(operation, object(), deadline::EXEC_SETUP, inspect).await?;
            if let (Some(false), Some(code)) = (found.running, found.exit_code) {
                return Ok(i32::try_from(code).unwrap_or(-1));
            }
            if tokio::time::Instant::now() >= end {
                return Err(EngineError::Unknown {
                    operation,
                    object: object(),
                    status: None,
                    detail: "the command's output ended and its exit code is not known".to_owned(),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[derive(Default)]
struct Kept {
    stdout: BytesMut,
    stderr: BytesMut,
    dropped: u64,
    max: usize,
}

impl Kept {
    fn take(&mut self, piece: LogOutput) {
        let (into, bytes) = match piece {
            LogOutput::StdErr { message } => (&mut self.stderr, message),
            LogOutput::StdOut { message }
            | LogOutput::StdIn { message }
            | LogOutput::Console { message } => (&mut self.stdout, message),
        };
        let room = self.max.saturating_sub(into.len()).min(bytes.len());
        into.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }
}
