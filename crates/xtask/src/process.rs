//! Child processes with a deadline.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How much of a child's output is kept; the rest is read and dropped.
const CAPTURE_LIMIT: usize = 8 << 20;
/// How long a child that was told to end may take.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A program to run, and how long it may take.
#[derive(Debug)]
pub(crate) struct Call {
    command: Command,
    shown: String,
    deadline: Duration,
}

/// What a child wrote.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why a child did not do its work.
#[derive(Debug)]
pub(crate) enum CallError {
    Spawn { shown: String, source: io::Error },
    Wait { shown: String, source: io::Error },
    Deadline { shown: String, after: Duration },
    Failed { shown: String, status: ExitStatus, stderr: String },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { shown, source } => write!(f, "`{shown}` could not be started: {source}"),
            Self::Wait { shown, source } => write!(f, "`{shown}` was lost: {source}"),
            Self::Deadline { shown, after } => {
                write!(f, "`{shown}` had not ended after {} s and was stopped", after.as_secs())
            }
            Self::Failed { shown, status, stderr } => {
                write!(f, "`{shown}` failed ({status})")?;
                let tail: Vec<_> = stderr.lines().rev().take(12).collect();
                for line in tail.iter().rev() {
                    write!(f, "\n      {line}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for CallError {}

impl Call {
    pub(crate) fn new(program: impl AsRef<OsStr>, deadline: Duration) -> Self {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program);
        let shown = name.to_string_lossy().into_owned();
        Self { command: Command::new(program), shown, deadline }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = arg.as_ref();
        self.shown.push(' ');
        self.shown.push_str(&arg.to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The command line, for people.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Runs it with our own output, and fails unless it ends with 0 in time.
    pub(crate) fn stream(mut self) -> Result<(), CallError> {
        let child = self.spawn()?;
        let status = self.wait(child)?;
        if status.success() {
            return Ok(());
        }
        Err(CallError::Failed { shown: self.shown, status, stderr: String::new() })
    }

    /// Runs it, and gives back what it wrote if it ended with 0 in time.
    pub(crate) fn capture(mut self) -> Result<Captured, CallError> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let status = self.wait(child)?;
        // A grandchild may hold the pipes open after the child has ended, hence the limit.
        let text = |output: mpsc::Receiver<Vec<u8>>| {
            let bytes = output.recv_timeout(GRACE).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let captured = Captured { stdout: text(stdout), stderr: text(stderr) };
        if status.success() {
            return Ok(captured);
        }
        Err(CallError::Failed { shown: self.shown, status, stderr: captured.stderr })
    }

    fn spawn(&mut self) -> Result<Child, CallError> {
        self.command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|source| CallError::Spawn { shown: self.shown.clone(), source })
    }

    /// Waits until the deadline, then ends the child with everything it started.
    fn wait(&self, mut child: Child) -> Result<ExitStatus, CallError> {
        let lost = |source| CallError::Wait { shown: self.shown.clone(), source };
        let started = Instant::now();
        while started.elapsed() < self.deadline {
            if let Some(status) = child.try_wait().map_err(lost)? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        // The child stays in our process group, so that Ctrl-C on a terminal reaches all of them;
        // its descendants are therefore looked up by parent.
        let family = family(child.id());
        signal("TERM", &family);
        let told = Instant::now();
        while told.elapsed() < GRACE {
            if child.try_wait().map_err(lost)?.is_some() {
                break;
            }
            thread::sleep(POLL);
        }
        signal("KILL", &family);
        let _ = child.kill();
        child.wait().map_err(lost)?;
        Err(CallError::Deadline { shown: self.shown.clone(), after: self.deadline })
    }
}

/// Reads a pipe to its end on a thread of its own, which ends with the pipe.
fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let room = CAPTURE_LIMIT - kept.len();
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
        }
        // Nobody listens any more when the caller gave up.
        let _ = sender.send(kept);
    });
    receiver
}

/// A process and all its descendants, as far as they still have their parents.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = crate::probe::processes()
        .into_iter()
        .filter_map(|pid| Some((pid, crate::probe::parent_of(pid)?)))
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Signals processes through the shell's own `kill`, which a minimal host has and procps it lacks.
fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(|pid| OsString::from(pid.to_string()));
    let _ = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$@\"", "sh", name])
        .args(pids)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Call {
        Call::new("/bin/sh", deadline).args(["-c", script])
    }

    #[test]
    fn output_is_captured_apart() {
        let captured = shell("echo out; echo err >&2", Duration::from_secs(10))
            .capture()
            .expect("the shell ends with 0");
        assert_eq!((captured.stdout.as_str(), captured.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn a_failure_says_what_the_child_said() {
        let error = shell("echo no room >&2; exit 3", Duration::from_secs(10))
            .capture()
            .expect_err("the shell ends with 3");
        let message = error.to_string();
        assert!(message.contains("exit status: 3") && message.contains("no room"), "{message}");
    }

    #[test]
    fn a_child_past_its_deadline_is_ended_with_its_children() {
        // The number makes the grandchild recognisable among all sleeping processes.
        let mark = format!("{}.25", 86_400 + std::process::id());
        let script = format!("sleep {mark} & wait");
        let error = shell(&script, Duration::from_millis(300))
            .capture()
            .expect_err("the shell waits for longer");
        assert!(matches!(error, CallError::Deadline { .. }), "{error}");
        let alive = || {
            crate::probe::processes().into_iter().any(|pid| {
                crate::probe::command_line(pid).is_some_and(|line| line == ["sleep", &mark])
            })
        };
        let asked = Instant::now();
        while alive() {
            assert!(asked.elapsed() < Duration::from_secs(10), "the grandchild lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Call::new("/nonexistent/tool", Duration::from_secs(1))
            .stream()
            .expect_err("there is no such program");
        assert!(error.to_string().contains("`tool` could not be started"), "{error}");
    }
}
