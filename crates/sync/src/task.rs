//! The task that owns the sync of one workload.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::{NodeId, SyncRole, SyncStatus, WorkloadName};
use belay_store::{BlobStore, DirectoryWatch, RecordStore, RecordWatch};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::command::{
    ApplyNowError, Command, PublishError, RollbackError, SyncHandle, TakeoverError,
};
use crate::consumer::{Consumer, held, taken_back};
use crate::context::Context;
use crate::control::ControlDir;
use crate::history::History;
use crate::layout::{SyncLayout, SyncSpec};
use crate::node_key::NodeKey;
use crate::pausing::{pause_in, resume_in};
use crate::provider::Provider;
use crate::spool::Spool;
use crate::state::StateDir;
use crate::window::OfflineWindow;

/// Commands that wait while a publish is under way.
const COMMANDS: usize = 8;
/// Least time between two looks: an app that keeps touching its files costs no more than this.
const REST: Duration = Duration::from_millis(100);

/// Why the sync of a workload could not begin.
#[derive(Debug, thiserror::Error)]
#[error("the state directory of sync could not be used")]
pub struct SpawnError(#[source] std::io::Error);

/// The node on which a workload is.
#[derive(Debug, Clone)]
pub struct SyncNode {
    /// Its name.
    pub id: NodeId,
    /// The key with which it signs.
    pub key: NodeKey,
}

/// Starts the sync of one workload.
///
/// `state_dir` is the workload's own directory on the host; journals and the spool go to `sync/` in
/// it and the history to `sync_history/`. `layout` is none while the volumes are not mounted; set
/// it only after [`crate::recover`] was called on them. The task ends after `shutdown`, between two
/// steps; only when it has ended may the volumes be unmounted.
#[expect(clippy::too_many_arguments, reason = "each is a different thing the task is given once")]
pub fn spawn<S, W>(
    workload: WorkloadName,
    node: SyncNode,
    spec: SyncSpec,
    state_dir: &Path,
    store: Arc<S>,
    layout: watch::Receiver<Option<SyncLayout>>,
    window: W,
    shutdown: CancellationToken,
) -> Result<(SyncHandle, JoinHandle<()>), SpawnError>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    let state = StateDir::open(state_dir).map_err(SpawnError)?.under(&spec.key);
    if let Err(error) = state.adopt() {
        // Whoever reads it is told as well, and does not go on without it.
        tracing::warn!(%workload, %error, "what was written down before could not be given its key");
    }
    let spool = Spool::open(state_dir).map_err(SpawnError)?;
    let history = History::new(state_dir);
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (status, shown) = watch::channel(first_status(&spec, &state));
    let handle = SyncHandle {
        commands,
        status: shown,
        history: history.clone(),
        layout: layout.clone(),
        spool: spool.clone(),
        imports: Arc::new(Semaphore::new(1)),
    };
    let context = Arc::new(Context {
        workload,
        node: node.id,
        spec,
        state,
        spool,
        history,
        store,
        window,
        status,
        shutdown,
    });
    let side = match context.spec.role {
        SyncRole::Provider => {
            Side::Provider(Box::new(Provider::new(Arc::clone(&context), node.key)))
        }
        SyncRole::Consumer => {
            Side::Consumer(Box::new(Consumer::new(Arc::clone(&context), node.key)))
        }
    };
    let task = SyncTask { context, side, layout, inbox, resumed: false };
    Ok((handle, tokio::spawn(task.run())))
}

/// What is known before anything was done.
pub(crate) fn first_status(spec: &SyncSpec, state: &StateDir) -> SyncStatus {
    let memory = state.consumer().unwrap_or_default();
    let held = held(&memory);
    let taken_back = taken_back(&memory);
    let quarantine = memory.quarantine.into_iter();
    SyncStatus {
        role: spec.role,
        key: spec.key.clone(),
        stage: "waiting-for-volumes".to_owned(),
        last_publish: None,
        last_apply: None,
        head: None,
        last_failure: None,
        retirement: None,
        quarantine: quarantine.map(|(key, entry)| (key, entry.next_retry_after)).collect(),
        halted: state.halt().map(|halt| halt.reason),
        paused: state.pause().map(|pause| pause.since.unwrap_or_else(Timestamp::now)),
        waits: None,
        waits_until: None,
        next_publish: None,
        held,
        taken_back,
        fenced: None,
        unapplied: None,
        first: None,
        fleet: None,
    }
}

struct SyncTask<S, W> {
    context: Arc<Context<S, W>>,
    side: Side<S, W>,
    layout: watch::Receiver<Option<SyncLayout>>,
    inbox: mpsc::Receiver<Command>,
    /// Whether what an earlier process left was looked at since the volumes were mounted.
    resumed: bool,
}

enum Side<S, W> {
    Provider(Box<Provider<S, W>>),
    Consumer(Box<Consumer<S, W>>),
}

/// What tells of news, and may fail to.
enum Notice {
    Directory(DirectoryWatch),
    Record(RecordWatch),
    /// Only the poll is left.
    None,
}

/// Why the task woke.
enum Wake {
    Shutdown,
    Layout,
    Hint,
    Deaf,
    Command(Command),
    Due,
}

impl<S, W> SyncTask<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    async fn run(mut self) {
        let mut notice = Notice::None;
        let mut due = Instant::now();
        let mut looked = due;
        loop {
            match self.wake(&mut notice, due).await {
                Wake::Shutdown => break,
                Wake::Layout => {
                    self.resumed = false;
                    notice = Notice::None;
                    due = Instant::now();
                }
                Wake::Hint => due = due.min(looked + REST),
                Wake::Deaf => notice = Notice::None,
                Wake::Command(command) => self.command(command).await,
                Wake::Due => {
                    if matches!(notice, Notice::None) {
                        notice = self.listen().await;
                    }
                    let wait = self.tick().await;
                    let poll = self.context.spec.poll_interval;
                    looked = Instant::now();
                    due = looked + wait.unwrap_or(poll).min(poll).max(REST);
                }
            }
        }
        self.inbox.close();
    }

    async fn wake(&mut self, notice: &mut Notice, due: Instant) -> Wake {
        let heard = async {
            let heard = match notice {
                Notice::Directory(watch) => watch.changed().await,
                Notice::Record(watch) => watch.changed().await,
                Notice::None => pending().await,
            };
            if heard.is_some() { Wake::Hint } else { Wake::Deaf }
        };
        tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => Wake::Shutdown,
            changed = self.layout.changed() => {
                // Without someone to set the layout there is nobody left to work for.
                if changed.is_ok() { Wake::Layout } else { Wake::Shutdown }
            }
            Some(command) = self.inbox.recv() => Wake::Command(command),
            () = tokio::time::sleep_until(due) => Wake::Due,
            wake = heard => wake,
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Check => {
                self.tick().await;
            }
            Command::Rollback { cid, reply } => {
                let result = match (self.mounted().await, &mut self.side) {
                    (None, _) => Err(RollbackError::NoVolumes),
                    (Some(_), Side::Provider(_)) => Err(RollbackError::NotConsumer),
                    (Some(layout), Side::Consumer(consumer)) => {
                        consumer.roll_back(&layout, cid.as_ref()).await
                    }
                };
                self.context.show_rest();
                let _ = reply.send(result);
                self.tell().await;
            }
            Command::Apply { reply } => {
                let result = match (self.mounted().await, &mut self.side) {
                    (Some(_), _) if self.context.is_paused() => Err(ApplyNowError::Paused),
                    (None, _) => Err(ApplyNowError::NoVolumes),
                    (Some(_), Side::Provider(_)) => Err(ApplyNowError::NotConsumer),
                    (Some(layout), Side::Consumer(consumer)) => consumer.apply_now(&layout).await,
                };
                let _ = reply.send(result);
                self.tell().await;
            }
            // Whoever asked may have gone; it holds all the same.
            Command::Pause { reply } => {
                let _ = reply.send(self.pause().await);
            }
            Command::Resume { reply } => {
                let resumed = self.resume().await;
                let ended = resumed.is_ok();
                let _ = reply.send(resumed);
                if ended {
                    self.tick().await;
                }
            }
            Command::Takeover { reply } => {
                let result = match (self.mounted().await, &mut self.side) {
                    (None, _) => Err(TakeoverError::NoVolumes),
                    (Some(_), Side::Consumer(_)) => Err(TakeoverError::NotProvider),
                    (Some(layout), Side::Provider(provider)) => provider.take_over(&layout).await,
                };
                self.context.show_rest();
                let _ = reply.send(result);
            }
            Command::Publish { command, reply } => {
                let result = match (self.mounted().await, &mut self.side) {
                    (Some(_), _) if self.context.is_paused() => Err(PublishError::Paused),
                    (None, _) => Err(PublishError::NoVolumes),
                    (Some(_), Side::Consumer(_)) => Err(PublishError::NotProvider),
                    (Some(layout), Side::Provider(provider)) => {
                        provider.command(&layout, command).await
                    }
                };
                // The caller may have gone; the publish happened or not all the same.
                let _ = reply.send(result);
            }
            Command::Import { archive, reply } => {
                let result = match (self.mounted().await, &mut self.side) {
                    (Some(_), _) if self.context.is_paused() => Err(PublishError::Paused),
                    (None, _) => Err(PublishError::NoVolumes),
                    (Some(_), Side::Consumer(_)) => Err(PublishError::NotProvider),
                    (Some(layout), Side::Provider(provider)) => {
                        provider.import(&layout, archive).await
                    }
                };
                let _ = reply.send(result);
            }
        }
    }

    /// Tells providers what came of a command.
    async fn tell(&mut self) {
        if let (Some(layout), Side::Consumer(consumer)) = (self.mounted().await, &mut self.side) {
            consumer.tell(&layout).await;
        }
    }

    /// Written down before it holds, and answered after.
    async fn pause(&mut self) -> std::io::Result<Timestamp> {
        let since = self.context.stored(pause_in).await?;
        self.context.status.send_modify(|status| status.paused = Some(since));
        self.tick().await;
        Ok(since)
    }

    async fn resume(&mut self) -> std::io::Result<()> {
        let memory = self.context.stored(resume_in).await?;
        self.context.show_held(&memory);
        self.context.status.send_modify(|status| {
            status.paused = None;
            status.waits = None;
            status.waits_until = None;
        });
        Ok(())
    }

    async fn tick(&mut self) -> Option<Duration> {
        let layout = self.mounted().await?;
        if self.context.is_paused() {
            let waits = match &mut self.side {
                Side::Provider(provider) => provider.waiting(&layout).await,
                Side::Consumer(consumer) => consumer.waiting(&layout).await,
            };
            self.context.show_waiting(waits, None);
            self.context.show_rest();
            return None;
        }
        match &mut self.side {
            Side::Provider(provider) => provider.tick(&layout).await,
            Side::Consumer(consumer) => consumer.tick(&layout).await,
        }
    }

    /// The layout, after what an earlier process left was settled.
    async fn mounted(&mut self) -> Option<SyncLayout> {
        let layout = self.layout.borrow_and_update().clone();
        let Some(layout) = layout else {
            self.context.show("waiting-for-volumes");
            return None;
        };
        if !self.resumed {
            self.resumed = true;
            match &mut self.side {
                Side::Provider(provider) => provider.resume(&layout).await,
                Side::Consumer(consumer) => consumer.resume(&layout).await,
            }
            self.context.show_rest();
        }
        Some(layout)
    }

    /// Asks to be told of news. A failure costs the speed of notice, not the news.
    async fn listen(&mut self) -> Notice {
        match &self.side {
            Side::Consumer(_) => match self.context.store.watch(&self.context.spec.key).await {
                Ok(watch) => Notice::Record(watch),
                Err(error) => {
                    tracing::debug!(workload = %self.context.workload, %error, "no watch");
                    Notice::None
                }
            },
            Side::Provider(_) => {
                let Some(layout) = self.mounted().await else { return Notice::None };
                let opened = tokio::task::spawn_blocking(move || ControlDir::open(&layout.control));
                let Ok(Ok(Some(control))) = opened.await else { return Notice::None };
                match DirectoryWatch::new(&control.pinned_path()) {
                    Ok(watch) => Notice::Directory(watch),
                    Err(error) => {
                        tracing::debug!(workload = %self.context.workload, %error, "no watch");
                        Notice::None
                    }
                }
            }
        }
    }
}
