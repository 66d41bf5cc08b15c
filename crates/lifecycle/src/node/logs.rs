//! Reading a workload's log: of the container that it has, of those that are gone, and of those that
//! come.
//!
//! It goes beside the workload's task, so that a log can be read while the workload is being stopped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Container, EngineError, LogOptions, labels};
use belay_protocol::{
    LogLine, LogQuery, LogStream, Problem, ProblemCode, WorkloadName, WorkloadStatus,
};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::context::Context;
use crate::core::last_lines::{Cursor, container_of};
use crate::{problems, saved_log};

/// Lines that may wait for a slow reader.
const LINES: usize = 256;

/// Logs that are read at once on a node.
pub(super) const MOST: usize = 64;

/// Pause before a log that broke off is gone on with, while its container runs.
const AGAIN: Duration = Duration::from_secs(1);

/// What the workload says of itself, and ceases to when it is gone.
type Status = watch::Receiver<Option<WorkloadStatus>>;

/// A log that is asked for.
#[derive(Debug)]
pub(super) struct Logs {
    pub(super) workload: WorkloadName,
    pub(super) query: LogQuery,
    pub(super) reply: oneshot::Sender<Result<mpsc::Receiver<LogLine>, Problem>>,
}

/// The reader has gone, or belayd ends.
struct Over;

/// How the reading of a container's log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// With its end, or the connection's.
    Ended,
    /// There is no such container any more, and nothing of it was read.
    Gone,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    container: String,
    started_at: Option<Timestamp>,
}

impl Logs {
    pub(super) async fn run(self, context: Arc<Context>, status: Status) {
        let state_dir = context.state_dir(&self.workload);
        let saved = tokio::task::spawn_blocking(move || saved_log::list(&state_dir)).await;
        let saved = match saved {
            Ok(Ok(saved)) => saved,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let current = match self.current(&context, &status).await {
            Ok(current) => current,
            Err(problem) => {
                let _ = self.reply.send(Err(problem));
                return;
            }
        };
        let (run, file) = match (self.query.previous, current) {
            (false, Some(run)) => (Some(run), None),
            (false, None) | (true, Some(_)) => (None, saved.first()),
            (true, None) => (None, saved.get(1)),
        };
        if run.is_none() && file.is_none() && !self.query.follow {
            let _ = self.reply.send(Err(nothing(&self.workload, self.query.previous)));
            return;
        }
        let (sender, receiver) = mpsc::channel(LINES);
        if self.reply.send(Ok(receiver)).is_err() {
            return;
        }
        let (workload, query) = (self.workload, self.query);
        let reader = Reader { context, workload, query, status, sender, named: None };
        // It is over in any case.
        let _ = reader.read(run, file.map(PathBuf::as_path)).await;
    }

    /// The container that the workload has: the one of its version in force, else its newest.
    async fn current(&self, context: &Context, status: &Status) -> Result<Option<Run>, Problem> {
        let filter = [
            format!("{}={}", labels::INSTANCE, context.instance),
            format!("{}={}", labels::WORKLOAD, self.workload),
        ];
        let listed = context.engine.list(&filter).await.map_err(|error| {
            Problem::new(
                ProblemCode::EngineUnreachable,
                problems::with_causes(&error),
                "belay doctor says what was tried; then repeat the command",
            )
        })?;
        let in_force = status.borrow().as_ref().and_then(|status| status.container.clone());
        let in_force = in_force.map(|container| container.id);
        let generation = |container: &&Container| {
            container.labels.get(labels::GENERATION).and_then(|text| text.parse::<u64>().ok())
        };
        let found = listed
            .iter()
            .find(|container| Some(container.id.as_str()) == in_force.as_deref())
            .or_else(|| listed.iter().max_by_key(generation));
        Ok(found.map(run_of))
    }
}

fn nothing(workload: &WorkloadName, previous: bool) -> Problem {
    let (what, next) = if previous {
        ("no log of an earlier run is kept", format!("belay logs {workload}"))
    } else {
        ("it has no container and no log is kept", format!("belay start {workload}"))
    };
    Problem::new(ProblemCode::NotRunning, format!("{workload}: {what}"), next)
}

fn run_of(container: &Container) -> Run {
    Run {
        container: container.id.to_string(),
        started_at: container.state.incarnation().map(|running| running.started_at),
    }
}

struct Reader {
    context: Arc<Context>,
    workload: WorkloadName,
    query: LogQuery,
    status: Status,
    sender: mpsc::Sender<LogLine>,
    /// The container that the reader was told lines are of.
    named: Option<String>,
}

impl Reader {
    async fn read(mut self, current: Option<Run>, file: Option<&Path>) -> Result<(), Over> {
        let mut cursor = Cursor::default();
        let mut first = true;
        if let Some(position) = self.query.resume.take() {
            first = false;
            let left = Cursor::at(position.second, position.lines);
            match &current {
                Some(run) if run.container.starts_with(&position.container) => cursor = left,
                Some(_) | None => {
                    self.read_rest(&position.container, left).await?;
                    if let Some(next) = &current {
                        let last = Run { container: position.container, started_at: None };
                        self.say_next(Some(&last), next).await?;
                    }
                }
            }
        } else if let Some(file) = file {
            self.read_saved(file, Cursor::default()).await?;
        }
        let mut run = current;
        loop {
            if let Some(run) = &run {
                let read = self.read_container(run, &mut cursor, first).await?;
                if first && read == Read::Gone {
                    // It was removed since it was looked up, and its log was kept before that.
                    self.read_newest_saved().await?;
                }
                if !self.query.follow {
                    return Ok(());
                }
                first = false;
                if self.still_runs(run).await? {
                    // The connection broke, and not the container.
                    self.pause().await?;
                    continue;
                }
            } else if !self.query.follow {
                return Ok(());
            }
            let next = self.next_run(run.as_ref()).await?;
            if run.as_ref().is_none_or(|run| run.container != next.container) {
                cursor = Cursor::default();
            }
            self.say_next(run.as_ref(), &next).await?;
            first = first && run.is_none();
            run = Some(next);
        }
    }

    /// Reads what a container that is gone wrote after the cursor, as far as it was kept.
    async fn read_rest(&mut self, container: &str, cursor: Cursor) -> Result<(), Over> {
        let state_dir = self.context.state_dir(&self.workload);
        let container = container.to_owned();
        let found =
            tokio::task::spawn_blocking(move || saved_log::of(&state_dir, &container)).await;
        match found.ok().and_then(Result::ok).flatten() {
            Some(file) => self.read_saved(&file, cursor).await,
            None => Ok(()),
        }
    }

    async fn read_newest_saved(&mut self) -> Result<(), Over> {
        let state_dir = self.context.state_dir(&self.workload);
        let saved = tokio::task::spawn_blocking(move || saved_log::list(&state_dir)).await;
        match saved.ok().and_then(Result::ok).and_then(|saved| saved.into_iter().next()) {
            Some(file) => self.read_saved(&file, Cursor::default()).await,
            None => Ok(()),
        }
    }

    async fn read_saved(&mut self, file: &Path, cursor: Cursor) -> Result<(), Over> {
        let path = file.to_owned();
        let read = tokio::task::spawn_blocking(move || saved_log::read(&path)).await;
        let second = |line: &LogLine| line.at.map(Timestamp::as_second);
        let mut lines = match read {
            Ok(Ok(lines)) => cursor.rest(lines, second),
            Ok(Err(error)) => {
                tracing::warn!(workload = %self.workload, "{}: {error}", file.display());
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        if let Some(since) = self.query.since {
            lines.retain(|line| line.at.is_none_or(|at| at.as_second() >= since.as_second()));
        }
        let most = self.query.tail.map_or(lines.len(), |tail| tail as usize);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let container = container_of(&name).unwrap_or_default();
        for line in lines.drain(lines.len().saturating_sub(most)..) {
            self.send_of(container, line).await?;
        }
        Ok(())
    }

    /// Reads the log of a container from where the cursor is, until it ends.
    async fn read_container(
        &mut self,
        run: &Run,
        cursor: &mut Cursor,
        first: bool,
    ) -> Result<Read, Over> {
        let asked = self.query.since.filter(|_| first);
        let since = cursor.since().and_then(|second| Timestamp::from_second(second).ok());
        let options = LogOptions {
            follow: self.query.follow,
            tail: self.query.tail.filter(|_| first),
            since: since.or(asked),
        };
        let (resumed, mut seen) = (cursor.since(), cursor.seen());
        let mut lines = self.context.engine.logs(&run.container, &options);
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = self.sender.closed() => return Err(Over),
                () = self.context.shutdown.cancelled() => return Err(Over),
            };
            let line = match line {
                Some(Ok(line)) => line,
                Some(Err(error)) => {
                    let absent = matches!(error, EngineError::Absent { .. });
                    let error = problems::with_causes(&error);
                    tracing::debug!(workload = %self.workload, "reading its log ended: {error}");
                    let is_gone = absent && cursor.since().is_none();
                    return Ok(if is_gone { Read::Gone } else { Read::Ended });
                }
                None => return Ok(Read::Ended),
            };
            let second = line.time.map(Timestamp::as_second);
            if seen > 0 && second.is_some() && second == resumed {
                seen -= 1;
                continue;
            }
            if let Some(second) = second {
                cursor.saw(second);
            }
            self.send_of(&run.container, saved_log::wire(&line)).await?;
        }
    }

    async fn still_runs(&self, run: &Run) -> Result<bool, Over> {
        match self.context.engine.inspect(&run.container).await {
            Ok(Some(found)) => Ok(run.started_at.is_some() && run_of(&found) == *run),
            Ok(None) => Ok(false),
            // The engine is away; so is whatever would tell of a next container.
            Err(_) => {
                self.pause().await?;
                Ok(true)
            }
        }
    }

    async fn pause(&self) -> Result<(), Over> {
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => Ok(()),
            () = self.sender.closed() => Err(Over),
            () = self.context.shutdown.cancelled() => Err(Over),
        }
    }

    /// Waits until another run of the workload has begun.
    async fn next_run(&mut self, last: Option<&Run>) -> Result<Run, Over> {
        let running = |status: &Option<WorkloadStatus>| {
            let container = status.as_ref()?.container.as_ref()?;
            let run = Run { container: container.id.clone(), started_at: container.started_at };
            (run.started_at.is_some() && Some(&run) != last).then_some(run)
        };
        loop {
            if let Some(run) = running(&self.status.borrow_and_update()) {
                return Ok(run);
            }
            tokio::select! {
                changed = self.status.changed() => changed.map_err(|_| Over)?,
                () = self.sender.closed() => return Err(Over),
                () = self.context.shutdown.cancelled() => return Err(Over),
            }
        }
    }

    /// Says that the log goes on with another run.
    async fn say_next(&self, last: Option<&Run>, next: &Run) -> Result<(), Over> {
        let name = &self.workload;
        let text = match last {
            Some(last) if last.container == next.container => format!("{name} was started again"),
            Some(_) => format!("{name} runs in another container now"),
            None => format!("{name} runs now"),
        };
        let at = Some(Timestamp::now());
        self.send(LogLine { stream: LogStream::Notice, at, text, container: None }).await
    }

    /// Sends a line of a container, which is named where it is another than before.
    async fn send_of(&mut self, container: &str, line: LogLine) -> Result<(), Over> {
        let short: String = container.chars().take(12).collect();
        let container = (self.named.as_ref() != Some(&short)).then_some(short);
        if container.is_some() {
            self.named.clone_from(&container);
        }
        self.send(LogLine { container, ..line }).await
    }

    async fn send(&self, line: LogLine) -> Result<(), Over> {
        self.sender.send(line).await.map_err(|_| Over)
    }
}
