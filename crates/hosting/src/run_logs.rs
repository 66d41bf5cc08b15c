//! What runs wrote: cut out of their runners' logs, kept, shown and followed.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Engine, EngineError, TimedLog};
use belay_protocol::runner::{Epoch, RunId, RunLogQuery, RunnerId};
use belay_protocol::{LogLine, LogStream, NodeId};
use belay_runner::{Origin, RunProgress, RunStints, Stint};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::core::container;
use crate::core::cut::{Part, part_of, parts};
use crate::grants::Grants;
use crate::kept_logs::{KeptLogs, StintLines};

/// Logs of runs that are read at once on a node.
const READERS: usize = 64;
/// Pause between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(300);
/// Pause between two looks for runs that are forgotten.
const COLLECT: Duration = Duration::from_secs(600);
/// The engine begins a log anew when it has 50 MiB: from here on, what is over is kept while the
/// container runs.
const LARGE: u64 = 20 << 20;

/// Reads what runs wrote. Clones share the places of readers.
#[derive(Debug, Clone)]
pub struct RunLogs<G> {
    engine: Engine,
    node: NodeId,
    kept: KeptLogs,
    grants: G,
    places: Arc<Semaphore>,
    ending: CancellationToken,
}

/// A place among those that read.
#[derive(Debug)]
pub struct ReaderPlace {
    _place: OwnedSemaphorePermit,
}

/// The reader has gone, belayd ends, or the run is not known any more.
struct Over;

impl<G: Grants> RunLogs<G> {
    pub(crate) fn new(
        engine: Engine,
        node: NodeId,
        kept: KeptLogs,
        grants: G,
        ending: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(READERS));
        Self { engine, node, kept, grants, places, ending }
    }

    /// A place among those that read, if one is free.
    pub fn place(&self) -> Option<ReaderPlace> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(ReaderPlace { _place: place })
    }

    /// Hands over what a run wrote, and what it writes if it is followed, until its end.
    pub async fn read(
        &self,
        run: RunId,
        query: RunLogQuery,
        sender: mpsc::Sender<LogLine>,
        place: ReaderPlace,
    ) {
        let gathered = query.tail.map(|_| VecDeque::new());
        let mut reader = Reader {
            logs: self,
            run,
            query,
            sender,
            gathered,
            done: BTreeSet::new(),
            live: None,
            last: None,
        };
        // It is over in any case.
        let _ = reader.run().await;
        drop(place);
    }

    /// What a stint's part of its runner's output is.
    async fn part(&self, run: RunId, stint: &Stint) -> Option<Part> {
        let stints = self.grants.stints_of(&stint.runner).await?;
        parts(&stints).into_iter().find(|part| part.run == run && part.epoch == stint.epoch)
    }
}

/// Reads for one who asked.
struct Reader<'a, G> {
    logs: &'a RunLogs<G>,
    run: RunId,
    query: RunLogQuery,
    sender: mpsc::Sender<LogLine>,
    /// The newest lines so far, until all that is there was read.
    gathered: Option<VecDeque<LogLine>>,
    /// Stints of which nothing more comes.
    done: BTreeSet<Epoch>,
    /// The stint that goes on.
    live: Option<(Epoch, Live)>,
    /// Time of the last line of it.
    last: Option<Timestamp>,
}

/// The log of a container that is read on.
enum Live {
    /// It is not there yet.
    Awaited,
    Log(TimedLog),
}

impl<G: Grants> Reader<'_, G> {
    async fn run(&mut self) -> Result<(), Over> {
        loop {
            // Asked before the lines are read: what is over by then is read to its end.
            let found = self.logs.grants.run_stints(self.run).await.map_err(|_| Over)?;
            let RunStints { stints, progress } = found.ok_or(Over)?;
            for stint in &stints {
                if !self.done.contains(&stint.epoch) {
                    self.read_stint(stint).await?;
                }
            }
            for line in self.gathered.take().unwrap_or_default() {
                self.hand_over(line).await?;
            }
            let is_read = stints.iter().all(|stint| self.done.contains(&stint.epoch));
            if !self.query.follow || (is_read && progress == RunProgress::Over) {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.sender.closed() => return Err(Over),
                () = self.logs.ending.cancelled() => return Err(Over),
            }
        }
    }

    async fn read_stint(&mut self, stint: &Stint) -> Result<(), Over> {
        let is_begun = self.live.as_ref().is_some_and(|(epoch, _)| *epoch == stint.epoch);
        if !is_begun {
            self.live = Some((stint.epoch, Live::Awaited));
            self.last = None;
            let Stint { attempt, runner, .. } = stint;
            self.announce(stint, format!("attempt {attempt}, {runner}")).await?;
            if stint.origin == Origin::Foreign {
                let where_it_is =
                    format!("{runner} was not started by belayd: its output is there");
                self.announce(stint, where_it_is).await?;
            }
        }
        if stint.origin == Origin::Foreign {
            if stint.until.is_some() {
                self.done.insert(stint.epoch);
            }
            return Ok(());
        }
        let Some(part) = self.logs.part(self.run, stint).await else { return Err(Over) };
        let is_over = part.is_over(Timestamp::now());
        // The log of a runner that goes on may have been begun anew since.
        if !is_begun && is_over && self.take_kept(stint.epoch).await? {
            return Ok(());
        }
        let Some((_, live)) = &mut self.live else { return Ok(()) };
        if let Live::Awaited = live {
            match self.logs.open(&stint.runner).await {
                Ok(Some(log)) => *live = Live::Log(log),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(run = %self.run, "its log cannot be read now: {error}");
                }
            }
        }
        if let Live::Log(log) = live {
            let gather = move |lines: &mut Vec<LogLine>, line: belay_engine::LogLine| {
                if line.time.is_some_and(|at| part.has(at)) {
                    lines.push(wire(&line));
                }
            };
            match log.read(Vec::new(), gather).await {
                Ok(lines) => self.take(lines).await?,
                Err(error) => {
                    tracing::debug!(run = %self.run, "its log cannot be read now: {error}");
                }
            }
        }
        if is_over {
            // What was written after the last look lies there, if the container is gone by now.
            self.take_kept(stint.epoch).await?;
            self.done.insert(stint.epoch);
        }
        Ok(())
    }

    /// Hands over what is kept of a stint and was not read; says whether anything is kept.
    async fn take_kept(&mut self, epoch: Epoch) -> Result<bool, Over> {
        let (kept, run) = (self.logs.kept.clone(), self.run);
        let found = tokio::task::spawn_blocking(move || kept.read(run, epoch)).await;
        match found {
            Ok(Ok(Some(mut lines))) => {
                let last = self.last;
                lines.retain(|line| last.is_none_or(|last| line.at.is_none_or(|at| at > last)));
                self.take(lines).await?;
                self.done.insert(epoch);
                Ok(true)
            }
            Ok(Ok(None)) => Ok(false),
            Ok(Err(error)) => {
                tracing::warn!(%run, "what it wrote cannot be read: {error}");
                Ok(false)
            }
            Err(_) => Err(Over),
        }
    }

    async fn announce(&mut self, stint: &Stint, text: String) -> Result<(), Over> {
        if self.query.after.is_some_and(|after| stint.from <= after) {
            return Ok(());
        }
        let at = Some(stint.from);
        self.pass(LogLine { stream: LogStream::Notice, at, text, container: None }).await
    }

    async fn take(&mut self, lines: Vec<LogLine>) -> Result<(), Over> {
        for line in lines {
            self.last = line.at.or(self.last);
            if self.query.after.is_none_or(|after| line.at.is_none_or(|at| at > after)) {
                self.pass(line).await?;
            }
        }
        Ok(())
    }

    async fn pass(&mut self, line: LogLine) -> Result<(), Over> {
        match (&mut self.gathered, self.query.tail) {
            (Some(gathered), Some(tail)) => {
                gathered.push_back(line);
                while gathered.len() > tail as usize {
                    gathered.pop_front();
                }
                Ok(())
            }
            (Some(_) | None, _) => self.hand_over(line).await,
        }
    }

    async fn hand_over(&self, line: LogLine) -> Result<(), Over> {
        self.sender.send(line).await.map_err(|_| Over)
    }
}

impl<G> RunLogs<G> {
    /// The log of a runner's container; none if there is no container.
    async fn open(&self, runner: &RunnerId) -> Result<Option<TimedLog>, EngineError> {
        match self.engine.timed_log(container::name(&self.node, runner)).await {
            Ok(log) => Ok(Some(log)),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What of a container's log is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harvest {
    /// All of it: the container goes.
    All,
    /// What is over, if the log is so long that the engine may soon begin it anew.
    Over,
}

/// Keeps what the runs of a runner wrote. False if it cannot be told which runs it had.
pub(crate) async fn harvest<G: Grants>(
    engine: &Engine,
    kept: &KeptLogs,
    grants: &G,
    (runner, container): (&RunnerId, &str),
    what: Harvest,
) -> io::Result<bool> {
    let mut log = match engine.timed_log(container).await {
        Ok(log) => log,
        Err(EngineError::Absent { .. }) => return Ok(true),
        Err(error) => return Err(io::Error::other(error)),
    };
    if what == Harvest::Over && log.size().await.is_none_or(|size| size < LARGE) {
        return Ok(true);
    }
    let Some(stints) = grants.stints_of(runner).await else { return Ok(false) };
    let parts = parts(&stints);
    if parts.is_empty() {
        return Ok(true);
    }
    let lines: Vec<StintLines> = parts.iter().map(|_| StintLines::default()).collect();
    let cut = parts.clone();
    let gather = move |lines: &mut Vec<StintLines>, line: belay_engine::LogLine| {
        if let Some(at) = line.time.and_then(|at| part_of(&cut, at)) {
            lines[at].push(&wire(&line));
        }
    };
    let mut lines = log.read(lines, gather).await?;
    if what == Harvest::All {
        for line in log.rest() {
            if let Some(at) = line.time.and_then(|at| part_of(&parts, at)) {
                lines[at].push(&wire(&line));
            }
        }
    }
    let (kept, now) = (kept.clone(), Timestamp::now());
    let keep = move || {
        for (part, lines) in parts.iter().zip(lines) {
            if what == Harvest::All || part.is_over(now) {
                kept.keep(part.run, part.epoch, lines)?;
            }
        }
        Ok(true)
    };
    tokio::task::spawn_blocking(keep).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Lets go, now and then, of what runs wrote that are forgotten.
pub(crate) async fn collect<G: Grants>(kept: KeptLogs, grants: G, ending: CancellationToken) {
    loop {
        if let Err(error) = collect_once(&kept, &grants).await {
            tracing::warn!("what forgotten runs wrote stays for now: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(COLLECT) => {}
            () = ending.cancelled() => return,
        }
    }
}

async fn collect_once<G: Grants>(kept: &KeptLogs, grants: &G) -> io::Result<()> {
    let listing = kept.clone();
    let runs =
        tokio::task::spawn_blocking(move || listing.runs()).await.map_err(io::Error::other)??;
    if runs.is_empty() {
        return Ok(());
    }
    let Some(forgotten) = grants.forgotten(runs).await else { return Ok(()) };
    let kept = kept.clone();
    let forget = move || kept.forget(&forgotten);
    tokio::task::spawn_blocking(forget).await.map_err(io::Error::other)?
}

/// A line as the API has it.
fn wire(line: &belay_engine::LogLine) -> LogLine {
    let stream = match line.stream {
        belay_engine::LogStream::Stdout => LogStream::Stdout,
        belay_engine::LogStream::Stderr => LogStream::Stderr,
    };
    LogLine { stream, at: line.time, text: line.text().into_owned(), container: None }
}
