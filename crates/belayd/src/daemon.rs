//! Wiring: the order in which belayd's parts begin and end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use belay_api::{ApiState, EventFeed, Limits, RunFeed};
use belay_engine::{Engine, EngineOptions, PodmanService};
use belay_events::{EventSink, EventsTask};
use belay_ledger::{Ledger, Opening};
use belay_lifecycle::core::record;
use belay_lifecycle::{
    Context, ImagesHandle, NodeCommand, NodeProber, NodeTask, Roll, StatusBoard, Templates,
};
use belay_locks::{Locks, Places};
use belay_protocol::EventDetails;
use belay_protocol::runner::{HostTally, RunnerTally};
use belay_store::LocalStore;
use belay_sync::NodeKey;
use belay_volumes::{Volumes, VolumesConfig, Watchdog};
use nix::unistd::Group;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::runners::Shown;
use crate::{bridge, instance, run_record, runners, sources, watchdog};

/// Commands that may wait on their way from the API to the node.
const QUEUE: usize = 64;

/// Pause between two tries to reach an engine, doubled up to the longest.
const ENGINE_RETRY: Duration = Duration::from_secs(1);

/// Longest pause between two tries to reach an engine.
const ENGINE_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long the last events may take to be written.
const EVENTS_GRACE: Duration = Duration::from_secs(5);

/// How long the Podman service that belayd started may take to end.
const SERVICE_GRACE: Duration = Duration::from_secs(10);

/// Runs belayd until a signal ends it.
pub(crate) async fn run(config: Config, file: Option<PathBuf>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot take SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot take SIGHUP")?;

    make_directories(&config)?;
    let locks =
        Locks::new(Places { run: config.runtime_dir.clone(), state: config.state_dir.clone() });
    let instance = instance::lock(&locks, &config.state_dir, config.node.as_str()).await?;
    tracing::info!(node = %config.node, version = env!("CARGO_PKG_VERSION"), "belayd starts");

    let (ledger, opening) = open_ledger(&config)?;
    // Ended last: whatever ends has something to tell until then.
    let telling = CancellationToken::new();
    let (events, log, events_task) = EventsTask::spawn(&ledger, telling.clone());
    let boot_id = instance::boot_id()?;
    run_record::tell_start(&ledger, &events, &boot_id, opening).await?;

    let shutdown = CancellationToken::new();
    let (board, watched) = StatusBoard::new(config.node.clone());
    let (turned, turns) = watch::channel(Instant::now());
    let (sender, commands) = mpsc::channel(QUEUE);
    let (node, node_commands) = watch::channel(None);
    let (reads, asked) = mpsc::channel(QUEUE);
    let feed = EventFeed { tally: log.tally(), reads };
    let (count, run_tally) = watch::channel(RunnerTally::default());
    let (host_count, host_tally) = watch::channel(HostTally::default());
    let (asks, of_runs) = mpsc::channel(QUEUE);
    let (served, of_served) = watch::channel(None);
    let runs = RunFeed { tally: run_tally, host_tally, asks };
    let api = ApiState::new(watched.clone(), sender, feed, shutdown.clone()).with_runs(runs);

    let mut tasks = JoinSet::new();
    serve(&config, &api, &shutdown, &mut tasks).await?;
    tasks.spawn(bridge::carry(commands, node_commands, shutdown.clone()));
    tasks.spawn(bridge::read_events(asked, log, shutdown.clone()));
    tasks.spawn(bridge::answer_runs(of_runs, of_served, shutdown.clone()));
    tasks.spawn(watchdog::run(watched, turns, shutdown.clone()));

    if let Err(error) = locks.prepare() {
        tracing::error!("{:#}; nothing is changed until that is mended", anyhow::Error::new(error));
    }
    let shown = Shown { served, count, host_count };
    let parts =
        Parts { locks: &locks, ledger: &ledger, events: &events, board: &board, runs: &shown };
    let supervised = supervise(&config, &shutdown, parts, &turned, &node);
    tokio::pin!(supervised);
    let mut ended = None;
    loop {
        tokio::select! {
            result = &mut supervised => {
                ended = Some(result);
                break;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(&config, file.as_deref(), &node).await,
        }
    }

    watchdog::notify(&[NotifyState::Stopping]);
    tracing::info!("belayd ends; workloads keep running");
    let noted = run_record::tell_stop(&ledger, &events, &boot_id);
    if tokio::time::timeout(EVENTS_GRACE, noted).await.is_err() {
        tracing::warn!("that belayd ends could not be noted");
    }
    shutdown.cancel();
    let drained = tokio::time::timeout(config.shutdown_deadline, async {
        let result = match ended {
            Some(result) => result,
            None => supervised.await,
        };
        api.finish(SERVICE_GRACE).await;
        while tasks.join_next().await.is_some() {}
        result
    });
    let result = drained.await.unwrap_or_else(|_| {
        Err(anyhow::anyhow!(
            "ending took longer than {} s and was cut short; what was under way is finished at the \
             next start",
            config.shutdown_deadline.as_secs()
        ))
    });
    telling.cancel();
    if tokio::time::timeout(EVENTS_GRACE, events_task).await.is_err() {
        tracing::warn!("the last events could not be written");
    }
    if result.is_ok() {
        instance.finish();
    }
    tracing::info!("belayd has ended");
    result
}

fn make_directories(config: &Config) -> anyhow::Result<()> {
    for (directory, mode) in [(&config.state_dir, 0o700), (&config.runtime_dir, 0o755)] {
        make_directory(directory, mode)?;
    }
    make_directory(&config.state_dir.join("workloads"), 0o700)
}

fn make_directory(directory: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory).with_context(|| {
        format!("cannot make {}; belayd needs root and a writable disk there", directory.display())
    })
}

/// Opens the operator's socket and the loopback ports.
async fn serve(
    config: &Config,
    api: &ApiState,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let group = match &config.api_group {
        None => None,
        Some(name) => {
            let group = Group::from_name(name).context("cannot look groups up")?;
            let group = group.with_context(|| {
                format!("api.group: there is no group {name}; make it: groupadd --system {name}")
            })?;
            Some(group.gid.as_raw())
        }
    };
    let socket = belay_api::bind_unix(&config.api_socket, group).await?;
    let router = belay_api::operator_router(api.clone());
    let ending = shutdown.clone();
    tasks.spawn(async move {
        let report = belay_api::serve_unix(socket, router, Limits::default(), ending).await;
        tracing::debug!(accepted = report.accepted, cut = report.cut, "the socket is closed");
    });
    for address in &config.api_listen {
        let listener = belay_api::bind_tcp(*address).await?;
        let router = belay_api::observer_router(api.clone());
        let ending = shutdown.clone();
        tasks.spawn(async move {
            belay_api::serve_tcp(listener, router, Limits::default(), ending).await;
        });
        tracing::info!(%address, "answers questions");
    }
    Ok(())
}

/// What is there before the node is.
#[derive(Clone, Copy)]
struct Parts<'a> {
    locks: &'a Locks,
    ledger: &'a Ledger,
    events: &'a EventSink,
    board: &'a StatusBoard,
    /// What the runner server shows of itself.
    runs: &'a Shown,
}

/// Brings the node up, shows what it says of itself, and ends it in order.
async fn supervise(
    config: &Config,
    shutdown: &CancellationToken,
    parts: Parts<'_>,
    turned: &watch::Sender<Instant>,
    node: &watch::Sender<Option<mpsc::Sender<NodeCommand>>>,
) -> anyhow::Result<()> {
    let Parts { locks, ledger, events, board, runs } = parts;
    let records = ledger.load(record::TABLE).await.context("cannot read the ledger")?;
    tracing::info!(workloads = records.records.len(), "the ledger is open");
    let store = LocalStore::open(&config.store)
        .with_context(|| format!("cannot open the store {}", config.store.display()))?;
    let mut places = VolumesConfig::new(config.state_dir.join("volumes"));
    places.pool = config.pool;
    places.watchdog = Some(Watchdog {
        program: "/proc/self/exe".into(),
        arguments: vec!["thaw-watchdog".into()],
    });
    let volumes = Volumes::open(places).await.context("cannot open the volumes")?;
    let recovered = volumes.recovered();
    tracing::info!(
        mounted = recovered.mounted.len(),
        detached = recovered.detached.len(),
        discarded = recovered.discarded.len(),
        "the volumes are open"
    );
    let Some((engine, service)) = reach_engine(config, shutdown, parts, turned).await else {
        return Ok(());
    };
    let (images, collecting) = ImagesHandle::spawn(
        engine.clone(),
        ledger.clone(),
        events.clone(),
        board.clone(),
        config.images.clone(),
        shutdown.clone(),
    )
    .await;
    let instance_id = instance::id(&config.state_dir)?;
    let context = Arc::new(Context {
        node: config.node.clone(),
        instance: instance_id.clone(),
        boot_id: instance::boot_id()?,
        prober: NodeProber::new(engine.clone()),
        engine,
        images,
        volumes,
        locks: locks.clone(),
        ledger: ledger.clone(),
        events: events.clone(),
        store: Arc::new(store),
        signing_key: NodeKey::new(&config.state_dir),
        workloads_dir: config.state_dir.join("workloads"),
        runtime_dir: config.runtime_dir.clone(),
        roll: Roll::new(instance_id),
        templates: Templates::default(),
        board: board.clone(),
        orphan_grace: config.orphan_grace,
        shutdown: shutdown.clone(),
    });
    let declared = sources::read_specs(&config.workloads_dir)
        .with_context(|| format!("cannot read {}", config.workloads_dir.display()))?;
    let volumes = context.volumes.clone();
    let shared = Arc::clone(&context);
    board.hold_runs(runners::NOT_YET);
    let (handle, task) = NodeTask::spawn(context, records, declared);
    node.send_replace(Some(handle.commands));
    let serving = runners::serve(&config.runners, &config.state_dir, &shared, runs);
    let mut turning = handle.turns;
    let show = async {
        while turning.changed().await.is_ok() {
            turned.send_replace(*turning.borrow_and_update());
        }
    };
    let (ended, (), ()) = tokio::join!(task, show, serving);
    ended.context("the node's task failed")?;
    collecting.await.context("the task of the images failed")?;
    // What was begun behind an answer, such as letting go of a device's number, comes to its end.
    volumes.idle().await;
    node.send_replace(None);
    if let Some(service) = service {
        service.shutdown(SERVICE_GRACE).await;
    }
    Ok(())
}

fn open_ledger(config: &Config) -> anyhow::Result<(Ledger, Opening)> {
    let path = config.state_dir.join("belay.db");
    let (ledger, opening) = Ledger::open_keeping(&path, config.events)?;
    if let Opening::Replaced { kept, reason } = &opening {
        tracing::error!(
            "the ledger could not be used ({reason}) and is kept as {}; what runs is found again \
             by its labels",
            kept.display()
        );
    }
    Ok((ledger, opening))
}

/// Reaches an engine, however long it takes; `None` when belayd ends before.
async fn reach_engine(
    config: &Config,
    shutdown: &CancellationToken,
    parts: Parts<'_>,
    turned: &watch::Sender<Instant>,
) -> Option<(Engine, Option<PodmanService>)> {
    let mut pause = ENGINE_RETRY;
    let mut said = String::new();
    loop {
        let options = EngineOptions {
            socket: config.engine_socket.clone(),
            runtime_dir: config.runtime_dir.clone(),
            kind: config.engine,
        };
        let connected = tokio::select! {
            connected = belay_engine::connect(options) => connected,
            () = shutdown.cancelled() => return None,
        };
        match connected {
            Ok((engine, service)) => {
                let info = engine.info();
                tracing::info!(kind = %info.kind, version = %info.version, socket = %info.socket.display(), "the engine is reached");
                parts.events.emit_of_node(
                    format!("{} {} answers", info.kind, info.version),
                    EventDetails::EngineReached {
                        engine: info.kind.to_string().to_ascii_lowercase().into(),
                        version: info.version.to_string().into(),
                    },
                );
                return Some((engine, service));
            }
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::new(error));
                if reason != said {
                    tracing::error!("{reason}; belayd keeps trying, belay doctor says more");
                    said.clone_from(&reason);
                    parts.events.emit_of_node(
                        format!("no container engine answers: {reason}"),
                        EventDetails::EngineLost { cause: reason.as_str().into() },
                    );
                }
                parts.board.hold(&reason);
                turned.send_replace(Instant::now());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return None,
        }
        pause = (pause * 2).min(ENGINE_RETRY_MAX);
    }
}

/// Reads `workloads.d` anew, and says which settings a restart is needed for.
async fn reload(
    config: &Config,
    file: Option<&Path>,
    node: &watch::Sender<Option<mpsc::Sender<NodeCommand>>>,
) {
    let since = NotifyState::monotonic_usec_now();
    watchdog::notify(&[NotifyState::Reloading]);
    if let Ok(since) = since {
        watchdog::notify(&[since]);
    }
    match sources::read_config(file) {
        Ok(new) if new != *config => {
            tracing::warn!("the configuration has changed; restart belayd to apply it");
        }
        Ok(_) => {}
        Err(faults) => {
            for fault in faults {
                tracing::error!("{fault}");
            }
        }
    }
    let specs = sources::read_specs(&config.workloads_dir);
    let sender = node.borrow().clone();
    match (specs, sender) {
        (Ok(specs), Some(sender)) => {
            tracing::info!(files = specs.len(), "reading workloads.d anew");
            let _ = sender.send(NodeCommand::Declare(specs)).await;
        }
        (Ok(_), None) => {}
        (Err(error), _) => {
            tracing::error!("cannot read {}: {error}", config.workloads_dir.display());
        }
    }
    if node.borrow().is_some() {
        watchdog::notify(&[NotifyState::Ready]);
    }
}
