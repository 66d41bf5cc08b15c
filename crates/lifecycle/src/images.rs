//! The node's images: fetched once for all who want them, removed when nobody does.
//!
//! One task owns every pull and every removal. Workloads ask it for an image and get it with a
//! lease, which keeps it from being removed until a container is made of it. Looking up and removing
//! happen in the task, one after the other, so that an image is never removed between the look and
//! the lease; pulls and loads go on beside it.

mod act;
mod collect;
mod credentials;
mod flight;
mod port;
mod show;
mod telling;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use belay_engine::{Engine, Image, PullPatience};
use belay_events::EventSink;
use belay_ledger::Ledger;
use belay_protocol::{ImageAct, Problem, ProblemCode, WorkloadName};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use credentials::RegistryLogin;

use crate::board::StatusBoard;
use crate::core::images::back_off::Ladder;
use crate::core::images::collection::{Demand, Marks, Rules, WorkloadNeed};
use crate::core::images::record::{FETCHES, FetchIntent, IMAGES, ImageRecord};
use crate::core::images::reference::ImageReference;
use crate::core::spec::{ImageSource, PullPolicy};
use crate::problems;
use crate::reporter::{Progress, Reporter};
use flight::{Flight, FlightKey, Landed, Waiter};
use port::ImageStore;
use trouble::Trouble;

/// Requests that may wait for the task.
const QUEUE: usize = 64;

/// How often the progress of pulls is passed on.
const PROGRESS: Duration = Duration::from_millis(500);

/// How often the images are looked at, and the space that they have.
const LOOK: Duration = Duration::from_secs(30);

/// How often superseded images are looked for without a cause.
const TIDY: Duration = Duration::from_hours(1);

/// Pause after a collection for space that did not find enough, before the next.
const IN_VAIN: Duration = Duration::from_mins(10);

/// What is configured about images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagesConfig {
    /// How long a pull may get nowhere.
    pub patience: PullPatience,
    /// Free bytes of the storage below which no pull begins.
    pub floor: u64,
    /// When images are collected for space.
    pub marks: Marks,
    /// What is kept without need.
    pub rules: Rules,
    /// Logins for registries.
    pub logins: Vec<RegistryLogin>,
    /// File with credentials for all others, as `podman login` writes it.
    pub auth_file: Option<PathBuf>,
}

/// An image that somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    /// Who.
    pub(crate) workload: WorkloadName,
    /// Which.
    pub(crate) source: ImageSource,
    /// When it is fetched anew.
    pub(crate) policy: PullPolicy,
    /// Whose credentials go with it.
    pub(crate) auth_file: Option<PathBuf>,
    /// The image in force: while it is on the host it is the one.
    pub(crate) exact: Option<String>,
    /// Who asks.
    pub(crate) urgency: Urgency,
}

/// Whether a fetch waits for its turn after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// belayd itself: it waits.
    Own,
    /// An operator: it is tried at once.
    Operator,
}

/// An image that was wanted.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) image: Image,
    /// Its digest at the registry, where it came from one.
    pub(crate) digest: Option<String>,
    /// Held until a container is made of it.
    pub(crate) lease: ImageLease,
}

/// Keeps an image from being removed while it is held.
#[derive(Debug, Clone)]
pub(crate) struct ImageLease {
    _held: Arc<()>,
}

/// What is asked of the task.
enum Request {
    Fetch { want: Want, progress: Progress, reply: oneshot::Sender<Result<Fetched, Problem>> },
    Used { workload: WorkloadName, image: String },
    Act { act: ImageAct, reporter: Reporter },
}

/// Held by whoever wants images.
#[derive(Debug, Clone)]
pub struct ImagesHandle {
    requests: mpsc::Sender<Request>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl ImagesHandle {
    /// Starts the task that owns the images. It ends with `shutdown`, and pulls under way with it.
    pub async fn spawn(
        engine: Engine,
        ledger: Ledger,
        events: EventSink,
        board: StatusBoard,
        config: ImagesConfig,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        ImagesTask::spawn(engine, ledger, events, board, config, shutdown).await
    }

    /// Has an image on the host. Dropping the future gives up; a fetch that nobody waits for any
    /// more is ended.
    pub(crate) async fn fetch(&self, want: Want, progress: Progress) -> Result<Fetched, Problem> {
        let ending = || {
            Problem::new(
                ProblemCode::ShuttingDown,
                "belayd is ending and fetches no image",
                "try again once belayd runs",
            )
        };
        let (reply, answer) = oneshot::channel();
        let request = Request::Fetch { want, progress, reply };
        self.requests.send(request).await.map_err(|_| ending())?;
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Says that a container was made of an image. One that gets lost costs nothing but the order
    /// in which images are removed.
    pub(crate) fn used(&self, workload: &WorkloadName, image: &str) {
        let request = Request::Used { workload: workload.clone(), image: image.to_owned() };
        let _ = self.requests.try_send(request);
    }

    /// Has something done with images.
    pub(crate) fn act(&self, act: ImageAct, reporter: Reporter) {
        match self.requests.try_send(Request::Act { act, reporter }) {
            Ok(()) => {}
            Err(
                mpsc::error::TrySendError::Full(request)
                | mpsc::error::TrySendError::Closed(request),
            ) => {
                if let Request::Act { reporter, .. } = request {
                    reporter.finish(Err(Problem::new(
                        ProblemCode::Busy,
                        "more is waiting for the node's images than is taken",
                        "try again in a few seconds",
                    )));
                }
            }
        }
    }
}

/// The task that owns the node's images.
#[derive(Debug)]
pub(crate) struct ImagesTask<S> {
    store: S,
    ledger: Ledger,
    events: EventSink,
    board: StatusBoard,
    config: ImagesConfig,
    shutdown: CancellationToken,
    requests: mpsc::Receiver<Request>,
    born: Instant,
    records: BTreeMap<String, ImageRecord>,
    /// Fetches that a belayd before this one had begun.
    unsettled: BTreeMap<String, FetchIntent>,
    flights: BTreeMap<FlightKey, Flight>,
    landings: JoinSet<Landed>,
    ladders: BTreeMap<FlightKey, (Ladder, Trouble)>,
    leases: Vec<(String, Weak<()>)>,
    /// What the workloads need, by what the ledger said when it had seen so many changes.
    needs: Option<(u64, Vec<WorkloadNeed>)>,
    next_tidy: Instant,
    next_for_space: Instant,
}

impl<S: ImageStore> ImagesTask<S> {
    async fn spawn(
        store: S,
        ledger: Ledger,
        events: EventSink,
        board: StatusBoard,
        config: ImagesConfig,
        shutdown: CancellationToken,
    ) -> (ImagesHandle, JoinHandle<()>) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let now = Instant::now();
        let mut task = Self {
            store,
            ledger,
            events,
            board,
            config,
            shutdown,
            requests,
            born: now,
            records: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            flights: BTreeMap::new(),
            landings: JoinSet::new(),
            ladders: BTreeMap::new(),
            leases: Vec::new(),
            needs: None,
            next_tidy: now + TIDY,
            next_for_space: now,
        };
        task.remember().await;
        (ImagesHandle { requests: sender }, tokio::spawn(task.run()))
    }

    /// Reads what the ledger knows. What it cannot say is lost: those images are nobody's, and stay.
    async fn remember(&mut self) {
        match self.ledger.load(IMAGES).await {
            Ok(loaded) => self.records = loaded.records,
            Err(error) => tracing::error!("{}", problems::with_causes(&error)),
        }
        match self.ledger.load(FETCHES).await {
            Ok(loaded) => self.unsettled = loaded.records,
            Err(error) => tracing::error!("{}", problems::with_causes(&error)),
        }
    }

    async fn run(mut self) {
        let ending = self.shutdown.clone();
        let mut next_look = Instant::now();
        loop {
            if next_look <= Instant::now() {
                self.settle_fetches().await;
                self.collect_if_due().await;
                self.show().await;
                next_look = Instant::now() + LOOK;
            }
            let wake = if self.flights.is_empty() {
                next_look
            } else {
                next_look.min(Instant::now() + PROGRESS)
            };
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => {
                        if self.take(request).await == Look::Again {
                            next_look = Instant::now();
                        }
                    }
                    None => break,
                },
                Some(landing) = self.landings.join_next() => {
                    self.land(landing).await;
                    next_look = Instant::now();
                }
                () = tokio::time::sleep_until(wake) => self.tell_progress(),
                () = ending.cancelled() => break,
            }
        }
        // What the engine has fetched so far stays in its store; the next try goes on from it.
        self.landings.shutdown().await;
        for (key, flight) in std::mem::take(&mut self.flights) {
            self.tell_pull_ended(&key, &flight, "belayd ends");
        }
    }

    async fn take(&mut self, request: Request) -> Look {
        match request {
            Request::Fetch { want, progress, reply } => {
                self.fetch(Waiter::workload(want, progress, reply)).await;
                Look::Later
            }
            Request::Used { workload, image } => {
                self.note_use(workload, &image).await;
                Look::Later
            }
            Request::Act { act, reporter } => {
                self.act(act, reporter).await;
                Look::Again
            }
        }
    }

    fn clock(&self) -> Duration {
        self.born.elapsed()
    }

    /// The next place in the order of fetches and uses, which does not depend on the clock.
    fn order(&self) -> u64 {
        self.records.values().map(ImageRecord::newest).max().unwrap_or(0) + 1
    }

    fn lease(&mut self, id: &str) -> ImageLease {
        self.leases.retain(|(_, held)| held.strong_count() > 0);
        let held = Arc::new(());
        self.leases.push((id.to_owned(), Arc::downgrade(&held)));
        ImageLease { _held: held }
    }

    async fn note_use(&mut self, workload: WorkloadName, image: &str) {
        let order = self.order();
        let Some(record) = self.records.get_mut(image) else { return };
        record.used = order;
        record.used_at = Timestamp::now();
        record.users.insert(workload, order);
        let record = record.clone();
        self.write(image, &record).await;
        // A deploy may have left versions behind that are kept no longer.
        self.next_tidy = self.next_tidy.min(Instant::now());
    }

    /// A record that is not written is lost with this process, and its image is nobody's then.
    async fn write(&self, id: &str, record: &ImageRecord) {
        if let Err(error) = self.ledger.put(IMAGES, id, record).await {
            tracing::warn!(image = id, "{}", problems::with_causes(&error));
        }
    }

    /// Takes over the images that came while the belayd before this one died.
    async fn settle_fetches(&mut self) {
        let sources: Vec<_> = self.unsettled.keys().cloned().collect();
        for source in sources {
            let Ok(reference) = ImageReference::parse(&source) else {
                self.end_intent(&source).await;
                continue;
            };
            let Ok(found) = self.store.image(&reference.for_engine()).await else { return };
            if let Some(image) = found
                && self.unsettled.get(&source).is_some_and(|i| !i.before.contains(&image.id))
            {
                tracing::info!(image = %source, id = %image.id, "had come before belayd died");
                self.record_fetch(&source, &image, &BTreeMap::new()).await;
            }
            self.end_intent(&source).await;
        }
    }

    async fn end_intent(&mut self, source: &str) {
        self.unsettled.remove(source);
        if let Err(error) = self.ledger.remove(FETCHES, source).await {
            tracing::warn!("{}", problems::with_causes(&error));
        }
    }

    /// Notes an image that has come. `before` holds what was on the host, with its names: an image
    /// that was there already is whose it was.
    async fn record_fetch(
        &mut self,
        source: &str,
        image: &Image,
        before: &BTreeMap<String, Vec<String>>,
    ) {
        let order = self.order();
        let had = before.get(&image.id);
        let names: Vec<_> = image
            .tags
            .iter()
            .filter(|name| !had.is_some_and(|had| had.contains(*name)))
            .cloned()
            .collect();
        let now = Timestamp::now();
        let record = match self.records.get(&image.id) {
            Some(known) => {
                let mut record = known.clone();
                record.sources.insert(source.to_owned());
                record.names.extend(names);
                record.fetched = order;
                record.fetched_at = now;
                record
            }
            None if had.is_some() => return,
            None => ImageRecord::new(source, &names, image.size, order, now),
        };
        self.write(&image.id, &record).await;
        self.records.insert(image.id.clone(), record);
    }

    async fn collect_if_due(&mut self) {
        let now = Instant::now();
        if self.next_for_space <= now
            && let Ok(space) = self.store.space().await
            && self.config.marks.is_low(space)
        {
            let collected = self.collect(Demand::Space, None).await;
            if !collected.reached {
                self.next_for_space = now + IN_VAIN;
                tracing::warn!(
                    storage = %self.store.directory().display(),
                    free = space.free,
                    removed = collected.removed.len(),
                    "the storage for images is short of space and there is nothing more to remove"
                );
            }
        }
        if self.next_tidy <= now {
            self.next_tidy = now + TIDY;
            self.collect(Demand::Tidy, None).await;
        }
    }
}

/// Whether what is shown has to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Again,
    Later,
}

#[cfg(test)]
mod tests;
