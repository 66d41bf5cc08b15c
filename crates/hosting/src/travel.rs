//! Checkpoints that travel: what exports and imports share.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use belay_engine::{CheckpointError, Engine, EngineError};
use belay_protocol::runner::RunnerId;
use belay_protocol::{NodeId, WorkloadName};
use belay_runner::{AskError, BadPassage, RunnerHandle};
use tokio::sync::Semaphore;

use crate::act::Tools;
use crate::core::archive::{ArchiveError, TravelKey};
use crate::core::checkpoint::Full;
use crate::core::container::{HOST, URL};
use crate::core::manifest::{Here, MadeOf, Processor, Unfit};
use crate::store::StoreError;

/// Exports and imports at a time: each has a file of the disk read or written through.
const AT_ONCE: usize = 4;
/// Longest key file that is read.
const KEY_MAX: u64 = 4096;

/// Opens further ways for runners to belayd: what came from another node looks where that was.
pub trait Doors: Send + Sync {
    /// Listens there from now on, on every address on which runners are listened for.
    fn open(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<(), NoDoor>> + Send + '_>>;
}

/// Why a way cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoDoor(pub String);

/// Exports and imports the checkpoints of a node. Clones share it.
#[derive(Clone)]
pub struct Travels {
    pub(crate) tools: Arc<Tools<RunnerHandle>>,
    pub(crate) doors: Arc<dyn Doors>,
    pub(crate) processor: Processor,
    /// The file of the travel key.
    key: Option<PathBuf>,
    pub(crate) places: Arc<Semaphore>,
}

impl std::fmt::Debug for Travels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Travels").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a checkpoint is not exported or imported. Nothing of an import is left then.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// The key cannot be used.
    #[error("{0}")]
    Key(String),
    /// It is to be exported to where it is.
    #[error("this node is {0}")]
    SameNode(NodeId),
    /// The runner is not on the disk.
    #[error("{0} is not on the disk")]
    NoCheckpoint(RunnerId),
    /// What the runner wrote to its root file system would not come along.
    #[error("{runner} wrote to its root file system, which does not travel: {paths}")]
    HoldsFiles {
        /// Which.
        runner: RunnerId,
        /// Some of the paths.
        paths: String,
    },
    /// Those who serve runs refused it, or did not answer.
    #[error(transparent)]
    Runs(#[from] AskError),
    /// The archive is not good.
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    /// The archive did not come to its end.
    #[error("it did not come to its end: {0}")]
    Cut(String),
    /// What is known of the run cannot be read.
    #[error("what the archive says of the run cannot be used")]
    Passage(#[from] BadPassage),
    /// It is not for this node, or this node cannot restore it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// The runner would not find belayd.
    #[error("the runner looks for belayd at {url}: {why}")]
    Address {
        /// There.
        url: String,
        /// Why not.
        why: String,
    },
    /// As many are under way as may be, or one of the same runner.
    #[error("as many checkpoints are on their way as belayd carries at a time")]
    Busy,
    /// belayd is ending.
    #[error("belayd is ending")]
    Ending,
    /// The engine or the disk did not do it.
    #[error("cannot {what}: {why}")]
    Failed {
        /// What.
        what: &'static str,
        /// In their words.
        why: String,
    },
}

impl From<EngineError> for TravelError {
    fn from(error: EngineError) -> Self {
        failed("have the engine do it")(&error)
    }
}

impl From<CheckpointError> for TravelError {
    fn from(error: CheckpointError) -> Self {
        failed("have the engine do it")(&error)
    }
}

impl From<StoreError> for TravelError {
    fn from(error: StoreError) -> Self {
        failed("write the books of checkpoints")(&error)
    }
}

/// A failure of the world, with all that caused it.
pub(crate) fn failed<E: std::error::Error>(what: &'static str) -> impl FnOnce(&E) -> TravelError {
    move |error| TravelError::Failed { what, why: crate::act::with_causes(error) }
}

/// The same, of a file.
pub(crate) fn broken(what: &'static str) -> impl FnOnce(std::io::Error) -> TravelError {
    move |error| TravelError::Failed { what, why: error.to_string() }
}

impl Travels {
    pub(crate) fn new(
        tools: Arc<Tools<RunnerHandle>>,
        doors: Arc<dyn Doors>,
        key: Option<PathBuf>,
    ) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = Processor::read(std::env::consts::ARCH, &cpuinfo);
        Self { tools, doors, processor, key, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The travel key, as its file has it now.
    pub(crate) async fn key(&self) -> Result<TravelKey, TravelError> {
        let Some(path) = self.key.clone() else {
            return Err(TravelError::Key("runner.travel_key is not set".to_owned()));
        };
        let read = tokio::task::spawn_blocking(move || read_key(&path)).await;
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(TravelError::Key)
    }

    /// What this node has for a workload.
    pub(crate) fn here(&self, workload: &WorkloadName) -> Here {
        let template = self.tools.templates.borrow().get(workload).cloned();
        let made_of = template.and_then(|template| {
            let image = template.image.as_ref()?;
            Some(MadeOf::of(&image.id, &image.tags, &template.spec))
        });
        let (versions, processor) = (self.tools.versions.clone(), self.processor.clone());
        Here { node: self.tools.node.clone(), versions, processor, made_of }
    }
}

/// Reads a key that nobody but its owner can read. Blocks.
fn read_key(path: &Path) -> Result<TravelKey, String> {
    let shown = path.display();
    let unusable = |why: &dyn std::fmt::Display| format!("{shown} cannot be used: {why}");
    let file = std::fs::File::open(path).map_err(|error| unusable(&error))?;
    let about = file.metadata().map_err(|error| unusable(&error))?;
    if !about.is_file() || about.mode() & 0o077 != 0 {
        return Err(unusable(&"it must be a file that its owner alone can read"));
    }
    let mut text = String::new();
    file.take(KEY_MAX).read_to_string(&mut text).map_err(|error| unusable(&error))?;
    TravelKey::parse(&text).ok_or_else(|| unusable(&"it must hold 64 hexadecimal digits"))
}

/// Runners that are being brought here: nobody else touches their containers meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arriving(Arc<Mutex<BTreeSet<RunnerId>>>);

/// While this is held, a runner is being brought here.
#[derive(Debug)]
pub(crate) struct Brought {
    arriving: Arriving,
    runner: RunnerId,
}

impl Arriving {
    /// Begins to bring a runner here; none if that is under way.
    pub(crate) fn begin(&self, runner: &RunnerId) -> Option<Brought> {
        let is_first = self.held(|held| held.insert(runner.clone()));
        is_first.then(|| Brought { arriving: self.clone(), runner: runner.clone() })
    }

    /// Whether a runner is being brought here.
    pub(crate) fn has(&self, runner: &RunnerId) -> bool {
        self.held(|held| held.contains(runner))
    }

    fn held<T>(&self, act: impl FnOnce(&mut BTreeSet<RunnerId>) -> T) -> T {
        // A set of names is whole between any two of its changes.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        self.arriving.held(|held| held.remove(&self.runner));
    }
}

/// Where the runners of an installation look for belayd that are there now.
pub async fn known_doors(engine: &Engine, host: &str) -> Result<BTreeSet<String>, EngineError> {
    let listed = engine.list(&[format!("{HOST}={host}")]).await?;
    Ok(listed.into_iter().filter_map(|found| found.labels.get(URL).cloned()).collect())
}

/// The address of such a place.
pub(crate) fn address_of(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("ws://")?.parse().ok()
}

/// What is shown of many paths.
pub(crate) fn some_of(paths: &[String]) -> String {
    const SHOWN: usize = 3;
    let text = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match paths.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{text} and {more} more"),
        Some(0) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_read_from_a_file_that_its_owner_alone_can_read() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("key");
        let refused = |path: &Path| read_key(path).expect_err("refused");
        assert!(refused(&path).contains("No such file"));
        std::fs::write(&path, "ab".repeat(32) + "\n").expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
        assert!(refused(&path).ends_with("it must be a file that its owner alone can read"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
        read_key(&path).expect("it is good");
        std::fs::write(&path, "ab").expect("written");
        assert!(refused(&path).ends_with("it must hold 64 hexadecimal digits"));
        assert!(refused(place.path()).ends_with("its owner alone can read"));
    }

    #[test]
    fn a_runner_is_brought_once_at_a_time() {
        let (arriving, runner) = (Arriving::default(), "run-1".parse().expect("a name"));
        let first = arriving.begin(&runner).expect("nobody brings it");
        assert!(arriving.has(&runner) && arriving.begin(&runner).is_none());
        drop(first);
        assert!(!arriving.has(&runner) && arriving.begin(&runner).is_some());
    }

    #[test]
    fn an_address_is_read_from_what_a_runner_looks_for() {
        let address = address_of("ws://10.88.0.1:7000").expect("an address");
        assert_eq!(address.to_string(), "10.88.0.1:7000");
        assert_eq!(address_of("http://10.88.0.1:7000"), None);
        assert_eq!(address_of("ws://node:7000"), None);
    }

    #[test]
    fn of_many_paths_some_are_shown() {
        let paths: Vec<String> = (1..=5).map(|n| format!("/{n}")).collect();
        assert_eq!(some_of(&paths), "/1, /2, /3 and 2 more");
        assert_eq!(some_of(&paths[..2]), "/1, /2");
    }
}
