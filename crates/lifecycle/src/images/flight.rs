//! Fetches under way: one for each image and credentials, whoever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::{Image, PullProgress};
use belay_ledger::Ledger;
use belay_protocol::{Problem, ProblemCode};
use belay_volumes::ByteSize;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;

use super::port::ImageStore;
use super::trouble::{self, Trouble};
use super::{Fetched, ImageLease, ImagesConfig, ImagesTask, Urgency, Want, credentials};
use crate::core::images::back_off::Ladder;
use crate::core::images::collection::Demand;
use crate::core::images::platform;
use crate::core::images::record::{FETCHES, FetchIntent};
use crate::core::images::reference::{self, ImageReference};
use crate::core::spec::{ImageSource, PullPolicy};
use crate::reporter::{Progress, Reporter};

/// What a fetch is known by. Other credentials are another fetch: they may be refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightKey {
    pub(super) source: String,
    auth_file: Option<PathBuf>,
}

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Flight {
    waiters: Vec<Waiter>,
    progress: watch::Receiver<PullProgress>,
    task: AbortHandle,
    pub(super) kind: FlightKind,
    pub(super) began: Instant,
}

/// Where an image is fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlightKind {
    /// A registry.
    Pull,
    /// A file.
    Load,
}

/// Somebody who waits for a fetch.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A workload.
    Workload {
        want: Box<Want>,
        progress: Progress,
        reply: oneshot::Sender<Result<Fetched, Problem>>,
        /// What is on the host under that name, should the registry be away.
        present: Option<Box<(Image, ImageLease)>>,
    },
    /// An operator who loads an archive.
    Operator { reporter: Reporter },
}

impl Waiter {
    pub(super) fn workload(
        want: Want,
        progress: Progress,
        reply: oneshot::Sender<Result<Fetched, Problem>>,
    ) -> Self {
        Self::Workload { want: Box::new(want), progress, reply, present: None }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Workload { reply, .. } => reply.is_closed(),
            // A client that goes away cancels nothing.
            Self::Operator { .. } => false,
        }
    }

    fn progress(&self) -> Progress {
        match self {
            Self::Workload { progress, .. } => progress.clone(),
            Self::Operator { reporter } => reporter.progress_end(),
        }
    }
}

/// What came of a fetch.
pub(super) struct Landed {
    key: FlightKey,
    /// What was on the host before, with its names; `None` when it could not be listed.
    before: Option<BTreeMap<String, Vec<String>>>,
    result: Result<Image, Trouble>,
}

impl<S: ImageStore> ImagesTask<S> {
    /// Takes a workload's wish for an image.
    pub(super) async fn fetch(&mut self, mut waiter: Waiter) {
        let Waiter::Workload { want, .. } = &waiter else { return };
        let want = want.clone();
        if let Some(id) = &want.exact {
            match self.store.image(id).await {
                Ok(Some(image)) => return self.deliver(waiter, image),
                Ok(None) => {}
                Err(error) => {
                    return refuse(waiter, &trouble::look(&want.source.to_string(), &error));
                }
            }
        }
        let text = match &want.source {
            ImageSource::File(path) => {
                waiter.progress().say("fetch image", format!("loading {}", path.display()));
                return self.load(path.clone(), waiter);
            }
            ImageSource::Registry(text) => text,
        };
        let reference = match ImageReference::parse(text) {
            Ok(reference) => reference,
            Err(wrong) => {
                let what = format!("image {wrong}");
                let next = format!("give {}", reference::EXPECTED);
                return refuse(
                    waiter,
                    &Trouble::new(ProblemCode::InvalidImageReference, what, next),
                );
            }
        };
        let found = match self.store.image(&reference.for_engine()).await {
            // Podman finds one that has lost its tag by a digest that it does not show any more: it
            // is asked for again, and what has come is compared.
            Ok(found) => found.filter(|image| reference.is_met_by(&image.digests)),
            Err(error) => return refuse(waiter, &trouble::look(text, &error)),
        };
        match (found, want.policy) {
            (Some(image), PullPolicy::Missing | PullPolicy::Never) => self.deliver(waiter, image),
            (None, PullPolicy::Never) => {
                let trouble = Trouble::new(
                    ProblemCode::ImageUnavailable,
                    format!("image {text} is not on this host and pull is never"),
                    format!(
                        "bring it: podman pull {text}, or belay image load FILE; or set pull = \
                         \"missing\""
                    ),
                );
                refuse(waiter, &trouble);
            }
            (found, PullPolicy::Always | PullPolicy::Missing) => {
                if let Waiter::Workload { present, .. } = &mut waiter {
                    *present = found.map(|image| {
                        let lease = self.lease(&image.id);
                        Box::new((image, lease))
                    });
                }
                self.pull(&want, reference, waiter).await;
            }
        }
    }

    async fn pull(&mut self, want: &Want, reference: ImageReference, waiter: Waiter) {
        let key = FlightKey { source: want.source.to_string(), auth_file: want.auth_file.clone() };
        if let Some(flight) = self.flights.get_mut(&key) {
            waiter.progress().say("fetch image", "it is being pulled already");
            flight.waiters.push(waiter);
            return;
        }
        if want.urgency == Urgency::Own
            && let Some((ladder, last)) = self.ladders.get(&key)
            && let Some(left) = ladder.left(self.clock())
        {
            let what = format!(
                "{}; failure {} in a row, not tried again for {} s",
                last.what,
                ladder.failures,
                left.as_secs().max(1)
            );
            let trouble = Trouble { what, ..last.clone() };
            return self.fall_back(waiter, &trouble);
        }
        if let Some(trouble) = self.want_of_room(&want.source).await {
            return self.fall_back(waiter, &trouble);
        }
        waiter.progress().say("fetch image", format!("pulling {}", reference.for_engine()));
        let (sender, progress) = watch::channel(PullProgress::default());
        let job = pull(
            self.store.clone(),
            self.ledger.clone(),
            self.config.clone(),
            key.clone(),
            reference,
            sender,
        );
        let task = self.landings.spawn(job);
        let (kind, began) = (FlightKind::Pull, Instant::now());
        self.tell_pull_begun(&key);
        self.flights.insert(key, Flight { waiters: vec![waiter], progress, task, kind, began });
    }

    /// Loads an archive, once for all who want it.
    pub(super) fn load(&mut self, path: PathBuf, waiter: Waiter) {
        let source = ImageSource::File(path.clone()).to_string();
        let key = FlightKey { source, auth_file: None };
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.waiters.push(waiter);
            return;
        }
        let (_, progress) = watch::channel(PullProgress::default());
        let store = self.store.clone();
        let job = {
            let key = key.clone();
            async move {
                let before = listed(&store).await;
                let loaded = store.load(&path).await;
                Landed { key, before, result: loaded.map_err(|error| trouble::load(&error)) }
            }
        };
        let task = self.landings.spawn(job);
        let (kind, began) = (FlightKind::Load, Instant::now());
        self.flights.insert(key, Flight { waiters: vec![waiter], progress, task, kind, began });
    }

    /// What speaks against a pull: too little room, also after what nobody needs was removed.
    async fn want_of_room(&mut self, source: &ImageSource) -> Option<Trouble> {
        let floor = self.config.floor;
        // What cannot be measured is left to the engine.
        let space = self.store.space().await.ok()?;
        if space.free >= floor {
            return None;
        }
        self.collect(Demand::Space, None).await;
        let space = self.store.space().await.ok()?;
        if space.free >= floor {
            return None;
        }
        let what = format!(
            "image {source} is not pulled: {} has {} free of {}, and a pull begins only with {} \
             free",
            self.store.directory().display(),
            ByteSize::bytes(space.free),
            ByteSize::bytes(space.total),
            ByteSize::bytes(floor)
        );
        let next = "make room there; nothing that belayd may remove is left (belay image ls)";
        Some(Trouble::new(ProblemCode::ImageStorageFull, what, next))
    }

    /// Takes a fetch that has ended.
    pub(super) async fn land(&mut self, landing: Result<Landed, JoinError>) {
        let landed = match landing {
            Ok(landed) => landed,
            Err(error) => return self.crashed(&error),
        };
        let Landed { key, before, result } = landed;
        let Some(flight) = self.flights.remove(&key) else { return };
        match result {
            Ok(image) => {
                self.ladders.remove(&key);
                self.tell_pulled(&key, &flight, &image);
                if let Some(before) = &before {
                    self.record_fetch(&key.source, &image, before).await;
                }
                self.end_intent(&key.source).await;
                tracing::info!(image = %key.source, id = %image.id, "the image is on the host");
                for waiter in flight.waiters {
                    match waiter {
                        Waiter::Workload { .. } => self.deliver(waiter, image.clone()),
                        Waiter::Operator { reporter } => self.loaded(&image, reporter).await,
                    }
                }
            }
            Err(trouble) => {
                self.end_intent(&key.source).await;
                tracing::warn!(image = %key.source, code = trouble.code.as_str(), "{}", trouble.what);
                // A file of this host costs nobody anything to be tried again.
                if flight.kind == FlightKind::Pull {
                    let before = self.ladders.get(&key).map(|(ladder, _)| ladder);
                    let ladder = Ladder::failed(before, self.clock(), chance());
                    self.tell_pull_failed(&key, &trouble, &ladder);
                    self.ladders.insert(key, (ladder, trouble.clone()));
                }
                for waiter in flight.waiters {
                    self.fall_back(waiter, &trouble);
                }
            }
        }
    }

    /// A fetch that panicked or was ended tells nobody which it was; it is found by its handle.
    fn crashed(&mut self, error: &JoinError) {
        let ended: Vec<_> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.task.is_finished())
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let Some(flight) = self.flights.remove(&key) else { continue };
            if error.is_panic() {
                tracing::error!(image = %key.source, "fetching it failed: {error}");
                self.tell_pull_ended(&key, &flight, "a fault of belayd");
            } else {
                self.tell_pull_ended(&key, &flight, "nobody wants it any more");
            }
            let trouble = Trouble::new(
                ProblemCode::Internal,
                format!("fetching {} failed: {error}", key.source),
                "try again; if it happens again, see belayd's log",
            );
            for waiter in flight.waiters {
                self.fall_back(waiter, &trouble);
            }
        }
    }

    /// Gives what is on the host in place of what could not be fetched, and says so.
    fn fall_back(&mut self, mut waiter: Waiter, trouble: &Trouble) {
        if let Waiter::Workload { present, progress, want, .. } = &mut waiter
            && let Some(present) = present.take()
        {
            let (image, _lease) = *present;
            progress.say("fetch image", format!("using the one on this host: {}", trouble.what));
            tracing::info!(workload = %want.workload, "uses the image on this host: {}", trouble.what);
            return self.deliver(waiter, image);
        }
        refuse(waiter, trouble);
    }

    /// Gives an image to whoever wants it, if it is what was wanted.
    fn deliver(&mut self, waiter: Waiter, image: Image) {
        let Waiter::Workload { want, reply, .. } = waiter else { return };
        let reference = match &want.source {
            ImageSource::Registry(text) => ImageReference::parse(text).ok(),
            ImageSource::File(_) => None,
        };
        let trouble = self.unfit(&want.source, reference.as_ref(), &image);
        let result = match trouble {
            Some(trouble) => Err(trouble.of(&want.workload)),
            None => Ok(Fetched {
                digest: reference.and_then(|it| reference::digest_of(&it, &image.digests)),
                lease: self.lease(&image.id),
                image,
            }),
        };
        let _ = reply.send(result);
    }

    /// Why an image that is there is not the right one.
    fn unfit(
        &self,
        source: &ImageSource,
        reference: Option<&ImageReference>,
        image: &Image,
    ) -> Option<Trouble> {
        if reference.is_some_and(|reference| !reference.is_met_by(&image.digests)) {
            return Some(Trouble::new(
                ProblemCode::ImageDigestMismatch,
                format!("image {source}: the engine has {} for it, with other digests", image.id),
                "remove what carries the digest's name, or correct the digest in the spec",
            ));
        }
        let host = self.store.architecture();
        let emulated = || {
            platform::interpreter(&image.architecture)
                .is_some_and(|name| Path::new("/proc/sys/fs/binfmt_misc").join(name).exists())
        };
        if platform::runs_on(&image.architecture, &host) || emulated() {
            return None;
        }
        Some(Trouble::new(
            ProblemCode::ImageArchitecture,
            format!("image {source} is built for {}, this machine is {host}", image.architecture),
            format!("give an image that is built for {host}"),
        ))
    }

    /// Passes on how far the fetches are, and ends those that nobody waits for.
    pub(super) fn tell_progress(&mut self) {
        for flight in self.flights.values_mut() {
            flight.waiters.retain(|waiter| !waiter.is_gone());
            if flight.waiters.is_empty() {
                flight.task.abort();
                continue;
            }
            if !flight.progress.has_changed().unwrap_or(false) {
                continue;
            }
            let progress = *flight.progress.borrow_and_update();
            let detail = format!("{} of {} layers", progress.layers_here, progress.layers);
            let total = (progress.bytes_total > 0).then_some(progress.bytes_total);
            for waiter in &flight.waiters {
                let done = Some(progress.bytes_done);
                waiter.progress().say_bytes("fetch image", detail.clone(), done, total);
            }
        }
        self.show_pulls();
    }

    pub(super) fn is_under_way(&self, key: &FlightKey) -> bool {
        self.flights.contains_key(key)
    }

    /// Fetches under way, with how far they are.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (&FlightKey, PullProgress)> {
        self.flights.iter().map(|(key, flight)| (key, *flight.progress.borrow()))
    }
}

fn refuse(waiter: Waiter, trouble: &Trouble) {
    match waiter {
        Waiter::Workload { want, reply, .. } => {
            let _ = reply.send(Err(trouble.of(&want.workload)));
        }
        Waiter::Operator { reporter } => reporter.finish(Err(trouble.clone().problem())),
    }
}

/// What is on the host, with its names.
async fn listed<S: ImageStore>(store: &S) -> Option<BTreeMap<String, Vec<String>>> {
    let images = store.images().await.ok()?;
    Some(images.into_iter().map(|image| (image.id, image.tags)).collect())
}

async fn pull<S: ImageStore>(
    store: S,
    ledger: Ledger,
    config: ImagesConfig,
    key: FlightKey,
    reference: ImageReference,
    progress: watch::Sender<PullProgress>,
) -> Landed {
    let found = {
        let (reference, own) = (reference.clone(), key.auth_file.clone());
        let (logins, node) = (config.logins, config.auth_file);
        tokio::task::spawn_blocking(move || {
            credentials::find(&reference, own.as_deref(), &logins, node.as_deref())
        })
    };
    let given = match found.await {
        Ok(Ok(given)) => given,
        Ok(Err(error)) => {
            let trouble = trouble::credentials(&reference, &error);
            return Landed { key, before: None, result: Err(trouble) };
        }
        Err(error) => {
            let what = format!("reading the credentials for {} failed: {error}", key.source);
            let trouble = Trouble::new(ProblemCode::Internal, what, "see belayd's log");
            return Landed { key, before: None, result: Err(trouble) };
        }
    };
    let before = listed(&store).await;
    if let Some(before) = &before {
        let before: BTreeSet<_> = before.keys().cloned().collect();
        // Without it the image may come to be nobody's, which is safe, so that a full disk does not
        // keep a workload from its image.
        let intent = FetchIntent { before };
        if let Err(error) = ledger.put(FETCHES, &key.source, &intent).await {
            tracing::warn!("{}", crate::problems::with_causes(&error));
        }
    }
    let (credentials, origin) = given.map(|given| (given.credentials, given.origin)).unzip();
    let pulled =
        store.pull(&reference.for_engine(), credentials.as_ref(), config.patience, &progress).await;
    let result = pulled.map_err(|error| {
        let mut trouble =
            trouble::pull(&reference, origin.as_deref(), &store.architecture(), &error);
        // Engines do not repeat passwords. Should one do it, it goes no further.
        if let Some(credentials) = &credentials {
            trouble.what = trouble.what.replace(&credentials.password, "***");
        }
        trouble
    });
    Landed { key, before, result }
}

/// A number from 0 to 1 that differs between nodes and moments, for jitter only.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    #[expect(clippy::cast_precision_loss, reason = "32 bits fit an f64 exactly")]
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    share
}

/// How long is left until a pull that failed is tried again.
pub(super) fn left(ladder: &Ladder, now: Duration) -> Duration {
    ladder.left(now).unwrap_or(Duration::ZERO)
}
