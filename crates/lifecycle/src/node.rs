//! All workloads of a node: routing what is asked, gathering what they say.

mod declared;
mod dependencies;
mod engine_events;
mod exec;
mod locks;
mod logs;
mod measure;
mod publish;
mod signing_key;
mod sweep;
mod volumes;

pub(crate) use signing_key::NEXT as SIGNING_KEY_NEXT;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use belay_ledger::Loaded;
use belay_locks::LockName;
use belay_protocol::{
    DependantsRule, DeployRequest, ExecInput, ExecOutput, ExecRequest, HistoryEntry, LockStatus,
    LogLine, LogQuery, Operation, OperationEvent, Problem, ProblemCode, SyncPiece, SyncQuestion,
    SyncUpload, WorkloadName,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::context::Context;
use crate::core::record::{Declaration, Source, WorkloadRecord};
use crate::core::spec;
use crate::first_look::FirstLook;
use crate::reporter::Reporter;
use crate::secrets;
use crate::workload::{Beginning, Occasion, WorkloadCommand, WorkloadHandle, WorkloadTask};

pub use declared::SpecFile;
use engine_events::EngineEventsTask;
use measure::{MeasureHandle, MeasureTask};
use sweep::SweepTask;
pub use volumes::VolumesLook;

/// Commands that may wait for the node's task.
const QUEUE: usize = 64;

/// Longest time between two turns: what watches over belayd wants to see that it turns.
const TURN: Duration = Duration::from_secs(5);

/// Pause before containers of a lost record are looked for again.
const ADOPT_AGAIN: Duration = Duration::from_secs(2);

/// What can be asked of a node.
#[derive(Debug)]
pub enum NodeCommand {
    /// An operation on one workload.
    Operate {
        /// What.
        operation: Operation,
        /// How long its caller waits for its turn and for locks; the usual time when absent.
        wait: Option<Duration>,
        /// Whom to tell.
        events: mpsc::Sender<OperationEvent>,
    },
    /// A workload's log.
    Logs {
        /// Whose.
        workload: WorkloadName,
        /// Which lines.
        query: LogQuery,
        /// Where the lines will come from.
        reply: oneshot::Sender<Result<mpsc::Receiver<LogLine>, Problem>>,
    },
    /// A command in a workload.
    Exec {
        /// Whose.
        workload: WorkloadName,
        /// What to run.
        request: ExecRequest,
        /// What its client sends; closed when it has gone.
        input: mpsc::Receiver<ExecInput>,
        /// Takes what it writes, and how it ended.
        output: mpsc::Sender<ExecOutput>,
        /// Whether it is run.
        reply: oneshot::Sender<Result<(), Problem>>,
    },
    /// A question about what is published under a workload's key.
    AskSync {
        /// Whose.
        workload: WorkloadName,
        /// What is asked.
        question: SyncQuestion,
        /// Where the pieces of the answer will come from.
        reply: oneshot::Sender<Result<mpsc::Receiver<SyncPiece>, Problem>>,
    },
    /// An archive that is to be published in the place of what a workload's volumes hold.
    Import {
        /// Whose.
        workload: WorkloadName,
        /// The archive.
        pieces: mpsc::Receiver<SyncUpload>,
        /// As those of an operation.
        events: mpsc::Sender<OperationEvent>,
    },
    /// A workload's sync history.
    History {
        /// Whose.
        workload: WorkloadName,
        /// The entries, newest first.
        reply: oneshot::Sender<Result<Vec<HistoryEntry>, Problem>>,
    },
    /// The locks that are held.
    Locks {
        /// All of them.
        reply: oneshot::Sender<Result<Vec<LockStatus>, Problem>>,
    },
    /// What `workloads.d` holds now.
    Declare(Vec<SpecFile>),
}

/// Held by whoever talks to the node.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    /// What is asked of it.
    pub commands: mpsc::Sender<NodeCommand>,
    /// When its task last turned; at rest it turns every 5 s.
    pub turns: watch::Receiver<Instant>,
}

/// The task that owns the set of workloads.
#[derive(Debug)]
pub struct NodeTask {
    context: Arc<Context>,
    handles: BTreeMap<WorkloadName, WorkloadHandle>,
    tasks: JoinSet<WorkloadName>,
    commands: mpsc::Receiver<NodeCommand>,
    nudges: mpsc::Receiver<engine_events::Nudge>,
    turned: watch::Sender<Instant>,
    measure: MeasureHandle,
    /// What the node does beside routing: acts on volumes that no workload names, publishes of
    /// several, the sweep.
    acts: JoinSet<()>,
    /// Commands under way in workloads.
    sessions: JoinSet<()>,
    /// Logs that are being read.
    readers: JoinSet<()>,
    /// Workloads that files declare, with their file.
    declared: BTreeMap<WorkloadName, String>,
    /// What `workloads.d` holds, until the containers of a lost ledger were found: a spec must not
    /// pass for a new workload beside a container that runs it already.
    waiting: Option<(Vec<SpecFile>, Occasion)>,
    /// What the workloads begin with and the node's own first look uses up.
    first_look: Option<Arc<FirstLook>>,
    /// Whether the containers of a lost ledger still have to be looked for.
    adopted: bool,
}

impl NodeTask {
    /// Starts the workloads that the ledger knows and those that `workloads.d` declares.
    pub fn spawn(
        context: Arc<Context>,
        records: Loaded<WorkloadRecord>,
        declared: Vec<SpecFile>,
    ) -> (NodeHandle, JoinHandle<()>) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let (events, nudges) = EngineEventsTask::spawn(&context);
        let (turned, turns) = watch::channel(Instant::now());
        let measure = MeasureTask::spawn(&context);
        let mut node = Self {
            context,
            handles: BTreeMap::new(),
            tasks: JoinSet::new(),
            commands,
            nudges,
            turned,
            measure,
            acts: JoinSet::new(),
            sessions: JoinSet::new(),
            readers: JoinSet::new(),
            declared: BTreeMap::new(),
            waiting: None,
            first_look: Some(Arc::default()),
            adopted: false,
        };
        for lost in &records.set_aside {
            tracing::error!(
                workload = lost.key,
                "its record does not read back and is set aside; \
                its container is looked for: {}",
                lost.reason
            );
        }
        for (name, record) in records.records {
            match name.parse() {
                Ok(name) => node.begin_known(name, record),
                Err(error) => tracing::error!(name, "a record of no workload: {error}"),
            }
        }
        let handle = NodeHandle { commands: sender, turns };
        let task = tokio::spawn(async move {
            node.waiting = Some((declared, Occasion::Start));
            node.run().await;
            if let Err(error) = events.await {
                tracing::error!("following the engine's events failed: {error}");
            }
        });
        (handle, task)
    }

    fn begin_known(&mut self, name: WorkloadName, record: WorkloadRecord) {
        let first_look = self.first_look.clone().unwrap_or_default();
        if record.declaration.source == Source::File {
            self.declared.insert(name.clone(), record.declaration.file.clone());
        }
        self.begin(name, Beginning::Known(Box::new(record), first_look));
    }

    fn begin(&mut self, name: WorkloadName, beginning: Beginning) {
        let context = Arc::clone(&self.context);
        let (handle, task) = WorkloadTask::spawn(context, name.clone(), beginning);
        let mut status = handle.status.clone();
        let changed = self.measure.changes.clone();
        self.tasks.spawn(async move {
            while status.changed().await.is_ok() {
                // A full queue already holds what will make the node look.
                let _ = changed.try_send(());
            }
            task.await.unwrap_or_else(|error| {
                tracing::error!("the task of a workload failed: {error}");
                name
            })
        });
        self.handles.insert(handle.name.clone(), handle);
    }

    /// Takes the secrets of workloads away that went while no belayd ran.
    async fn sweep_secrets(&self) {
        let is_known = |name: &str| self.handles.keys().any(|known| known.as_str() == name);
        if let Err(error) = secrets::sweep(&self.context.runtime_dir, is_known).await {
            tracing::warn!("secrets of workloads that are gone are left in memory: {error}");
        }
    }

    async fn run(mut self) {
        let ending = self.context.shutdown.clone();
        self.sessions.spawn(exec::end_left_behind(Arc::clone(&self.context)));
        loop {
            if !self.adopted {
                self.adopt_unknown().await;
                if self.adopted {
                    self.sweep_secrets().await;
                    self.acts.spawn(SweepTask::new(&self.context).run());
                }
            }
            if self.adopted
                && let Some((files, occasion)) = self.waiting.take()
            {
                self.declare(&files, occasion);
            }
            self.turned.send_replace(Instant::now());
            tokio::select! {
                command = self.commands.recv() => {
                    if let Some(command) = command {
                        self.take(command);
                    }
                }
                Some(nudge) = self.nudges.recv() => self.nudge(&nudge),
                Some(ended) = self.tasks.join_next() => {
                    // A new workload may have taken the name meanwhile.
                    if let Ok(name) = ended
                        && self.handles.get(&name).is_some_and(|h| h.commands.is_closed())
                    {
                        self.handles.remove(&name);
                        self.prune_locks();
                    }
                    // A full queue already holds what will make it look.
                    let _ = self.measure.changes.try_send(());
                }
                Some(_) = self.acts.join_next() => {}
                Some(_) = self.sessions.join_next() => {}
                Some(_) = self.readers.join_next() => {}
                () = tokio::time::sleep(TURN) => {}
                () = tokio::time::sleep(ADOPT_AGAIN), if !self.adopted => {}
                () = ending.cancelled() => break,
            }
        }
        self.end().await;
    }

    /// Deletes the lock files of what is gone.
    fn prune_locks(&self) {
        let keep = self.handles.values().flat_map(|handle| {
            let status = handle.status.borrow();
            let volumes = status.as_ref().map(|status| status.volumes.clone());
            volumes
                .unwrap_or_default()
                .into_iter()
                .map(|volume| LockName::volume(&handle.name, volume))
                .chain([LockName::workload(&handle.name)])
                .collect::<Vec<_>>()
        });
        if let Err(error) = self.context.locks.prune(&keep.collect()) {
            tracing::debug!("lock files are left: {}", crate::problems::with_causes(&error));
        }
    }

    /// Waits for every workload to come to a rest.
    async fn end(&mut self) {
        self.handles.clear();
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            refuse(command);
        }
        // It ends first: nobody waits then for a look that does not come any more.
        if let Err(error) = (&mut self.measure.task).await {
            tracing::error!("measuring failed: {error}");
        }
        while self.tasks.join_next().await.is_some() {}
        while self.acts.join_next().await.is_some() {}
        while self.sessions.join_next().await.is_some() {}
        while self.readers.join_next().await.is_some() {}
    }

    fn nudge(&self, nudge: &engine_events::Nudge) {
        let all = self.handles.iter().filter(|(name, _)| match nudge {
            engine_events::Nudge::All => true,
            engine_events::Nudge::One(workload) => *name == workload,
        });
        for (_, handle) in all {
            // A full queue already holds what will make the workload look.
            let _ = handle.commands.try_send(WorkloadCommand::Nudge);
        }
    }

    fn take(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Operate { operation, wait, events } => {
                self.operate(operation, Reporter::new(events).with_patience(wait));
            }
            NodeCommand::Locks { reply } => {
                let _ = reply.send(locks::list(&self.context));
            }
            NodeCommand::Logs { workload, query, reply } => {
                self.logs(logs::Logs { workload, query, reply });
            }
            NodeCommand::Exec { workload, request, input, output, reply } => {
                self.exec(exec::Exec { workload, request, input, output, reply });
            }
            NodeCommand::AskSync { workload, question, reply } => match self.find(&workload) {
                Ok(handle) => {
                    deliver(handle, WorkloadCommand::AskSync { question, reply });
                }
                Err(problem) => {
                    let _ = reply.send(Err(problem));
                }
            },
            NodeCommand::Import { workload, pieces, events } => {
                let command = WorkloadCommand::Import { pieces, reporter: Reporter::new(events) };
                match self.find(&workload) {
                    Ok(handle) => deliver(handle, command),
                    Err(problem) => command.refuse(problem),
                }
            }
            NodeCommand::History { workload, reply } => match self.find(&workload) {
                Ok(handle) => {
                    deliver(handle, WorkloadCommand::History { reply });
                }
                Err(problem) => {
                    let _ = reply.send(Err(problem));
                }
            },
            NodeCommand::Declare(files) => self.waiting = Some((files, Occasion::Reload)),
        }
    }

    fn logs(&mut self, logs: logs::Logs) {
        let refused = if self.readers.len() >= logs::MOST {
            Err(Problem::new(
                ProblemCode::Busy,
                format!("{} logs are being read on this node", logs::MOST),
                "end one of the readers, then try again",
            ))
        } else {
            self.find(&logs.workload).map(|handle| handle.status.clone())
        };
        match refused {
            Ok(status) => {
                self.readers.spawn(logs.run(Arc::clone(&self.context), status));
            }
            Err(problem) => {
                let _ = logs.reply.send(Err(problem));
            }
        }
    }

    fn exec(&mut self, exec: exec::Exec) {
        let refused = if self.sessions.len() >= exec::MOST {
            Err(Problem::new(
                ProblemCode::Busy,
                format!("{} commands are under way on this node", exec::MOST),
                "end one of them, then try again",
            ))
        } else {
            self.find(&exec.workload).map(|handle| handle.status.borrow().clone())
        };
        match refused {
            Ok(status) => {
                self.sessions.spawn(exec.run(Arc::clone(&self.context), status));
            }
            Err(problem) => {
                let _ = exec.reply.send(Err(problem));
            }
        }
    }

    fn find(&self, workload: &WorkloadName) -> Result<&WorkloadHandle, Problem> {
        self.handles.get(workload).ok_or_else(|| {
            let names = self.handles.keys().map(WorkloadName::as_str);
            let near = crate::core::keys::nearest(workload.as_str(), names);
            let next = match near {
                Some(near) => format!("did you mean {near}? belay ps lists all"),
                None => "belay ps lists those that there are".to_owned(),
            };
            let detail = format!("there is no workload {workload}");
            Problem::new(ProblemCode::NoSuchWorkload, detail, next)
        })
    }

    fn operate(&mut self, operation: Operation, reporter: Reporter) {
        let (workload, command) = match operation {
            Operation::Deploy(request) => {
                self.deploy(&request, reporter);
                return;
            }
            Operation::Start { workload, content } => {
                (workload, WorkloadCommand::Start { content, reporter })
            }
            Operation::Stop { workload } => (workload, WorkloadCommand::Stop { reporter }),
            Operation::Restart { workload } => (workload, WorkloadCommand::Restart { reporter }),
            Operation::Remove { workload, volumes, dependants } => {
                let refusal = self.is_declared(&workload).or_else(|| match dependants {
                    DependantsRule::Refuse => self.is_needed(&workload),
                    DependantsRule::Ignore => None,
                });
                if let Some(problem) = refusal {
                    reporter.finish(Err(problem));
                    return;
                }
                (workload, WorkloadCommand::Remove { volumes, reporter })
            }
            Operation::ClearOverrides { workload } => {
                (workload, WorkloadCommand::ClearOverrides { reporter })
            }
            Operation::Publish { workload, request } => {
                (workload, WorkloadCommand::Publish { request, reporter })
            }
            Operation::Sync { workload, act } => {
                (workload, WorkloadCommand::Sync { act, reporter })
            }
            Operation::BreakLock { workload, mode } => {
                self.break_lock(workload, mode, reporter);
                return;
            }
            Operation::Takeover { workload } => (workload, WorkloadCommand::Takeover { reporter }),
            Operation::SigningKey => {
                self.say_signing_key(reporter);
                return;
            }
            Operation::PublishAll(request) => {
                self.publish_all(request.targets, reporter);
                return;
            }
            Operation::Volume { workload, volume, act } => {
                self.act_on_volume(workload, volume, act, reporter);
                return;
            }
            Operation::Image { act } => {
                self.context.images.act(act, reporter);
                return;
            }
        };
        match self.find(&workload) {
            Ok(handle) => deliver(handle, command),
            Err(problem) => command.refuse(problem),
        }
    }

    fn deploy(&mut self, request: &DeployRequest, reporter: Reporter) {
        let directory = std::path::Path::new(&request.directory);
        let spec = match spec::parse(&request.spec, &request.file, directory) {
            Ok(spec) => spec,
            Err(faults) => {
                let detail = match faults.len() {
                    1 => format!("{} has 1 fault", request.file),
                    count => format!("{} has {count} faults", request.file),
                };
                let next = "correct them and deploy again; nothing was changed";
                let problem = Problem::new(ProblemCode::InvalidSpec, detail, next);
                reporter.finish(Err(problem.with_faults(faults)));
                return;
            }
        };
        let refusal = self.dependency_fault(request, &spec).or_else(|| self.port_conflict(&spec));
        if let Some(problem) = refusal {
            reporter.finish(Err(problem));
            return;
        }
        self.warn_of_unreachable(&spec, &reporter);
        let name = spec.name.clone();
        if !self.handles.contains_key(&name) {
            self.begin(name.clone(), Beginning::New);
        }
        let declaration = Declaration {
            spec: request.spec.clone(),
            file: request.file.clone(),
            directory: request.directory.clone(),
            source: Source::Api,
        };
        let deploy = WorkloadCommand::Deploy { declaration, spec: Box::new(spec), reporter };
        let Some(handle) = self.handles.get(&name) else { return };
        if handle.commands.is_closed() {
            // The workload of this name has just been forgotten: this is a new one.
            self.begin(name.clone(), Beginning::New);
        }
        if let Some(handle) = self.handles.get(&name) {
            deliver(handle, deploy);
        }
    }

    /// A port that another workload of this node publishes.
    fn port_conflict(&self, spec: &spec::WorkloadSpec) -> Option<Problem> {
        let others = self.handles.values().filter(|handle| handle.name != spec.name);
        for other in others {
            let status = other.status.borrow();
            let Some(status) = status.as_ref() else { continue };
            for port in &status.ports {
                let clash = spec.ports.iter().find(|wanted| {
                    let theirs = port.host_address.parse().map(|address| spec::PortSpec {
                        address,
                        host: port.host_port,
                        container: port.container_port,
                        transport: wanted.transport,
                    });
                    port.protocol == wanted.transport.as_str()
                        && theirs.is_ok_and(|theirs| spec::overlaps(&theirs, wanted))
                });
                if let Some(clash) = clash {
                    return Some(Problem::new(
                        ProblemCode::PortTaken,
                        format!(
                            "{}: port {}:{}/{} of this host is published by workload {}",
                            spec.name, clash.address, clash.host, port.protocol, other.name
                        ),
                        format!(
                            "choose another host port, or remove {0}: belay rm {0}",
                            other.name
                        ),
                    ));
                }
            }
        }
        None
    }
}

/// Hands a command to a workload without waiting: one that is slow must not hold the node up.
fn deliver(handle: &WorkloadHandle, command: WorkloadCommand) {
    match handle.commands.try_send(command) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(command)) => command.refuse(Problem::new(
            ProblemCode::Busy,
            format!("{} has more commands waiting than it takes", handle.name),
            "try again in a few seconds",
        )),
        Err(mpsc::error::TrySendError::Closed(command)) => command.refuse(Problem::new(
            ProblemCode::NoSuchWorkload,
            format!("{} has just been removed", handle.name),
            "belay ps lists those that there are",
        )),
    }
}

/// Answers a command that came while belayd ends.
fn refuse(command: NodeCommand) {
    let problem = Problem::new(
        ProblemCode::ShuttingDown,
        "belayd is ending and takes no more commands; workloads keep running",
        "try again once belayd runs",
    );
    match command {
        NodeCommand::Operate { events, .. } | NodeCommand::Import { events, .. } => {
            Reporter::new(events).finish(Err(problem));
        }
        NodeCommand::Locks { reply } => {
            let _ = reply.send(Err(problem));
        }
        NodeCommand::Logs { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        NodeCommand::Exec { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        NodeCommand::AskSync { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        NodeCommand::History { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        NodeCommand::Declare(_) => {}
    }
}

#[cfg(test)]
mod tests;
