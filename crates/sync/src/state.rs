//! Disk shapes of a workload's sync: journals, halt, and what a consumer remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use belay_protocol::control::{AlteredEntries, AppRequest, Stage};
use belay_protocol::record::{ArchiveFormat, Capture, Encryption, SyncRecord};
use belay_protocol::{Cid, NodeId, ProblemCode, SyncKey, VolumeName};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::apply::Identity;
use crate::core::record::Order;
use crate::core::sweep::Unnamed;
use crate::core::terms::Terms;
use crate::durable;
use crate::remembered::Remembered;
use crate::stage::Settled;
use crate::volume::Mark;

mod by_key;

use by_key::OtherKey;

/// The files below `sync/` in a workload's state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    root: PathBuf,
    /// The workload's key; none where it is asked for what belongs to no key.
    key: Option<SyncKey>,
}

const PUBLISH: &str = "publish.json";
const APPLY: &str = "apply.json";
const CONSUMER: &str = "consumer.json";
const HALT: &str = "halt.json";
const ORPHANS: &str = "orphans.json";
const UNNAMED: &str = "unnamed.json";
const FENCE: &str = "fence.json";
const TAKEOVER: &str = "takeover.json";
const MANIFESTS: &str = "manifests";
const PAUSED: &str = "paused.json";
const SCHEDULE: &str = "schedule.json";

impl StateDir {
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("sync");
        durable::make_dir(&root)?;
        Ok(Self { root, key: None })
    }

    pub(crate) fn publish(&self) -> io::Result<Option<PublishJournal>> {
        self.read(PUBLISH)
    }

    pub(crate) fn set_publish(&self, journal: &PublishJournal) -> io::Result<()> {
        self.write(PUBLISH, journal)
    }

    pub(crate) fn clear_publish(&self) -> io::Result<()> {
        durable::remove(&self.root.join(PUBLISH))
    }

    pub(crate) fn apply(&self) -> io::Result<Option<ApplyJournal>> {
        self.read(APPLY)
    }

    pub(crate) fn set_apply(&self, journal: &ApplyJournal) -> io::Result<()> {
        self.write(APPLY, journal)
    }

    pub(crate) fn clear_apply(&self) -> io::Result<()> {
        durable::remove(&self.root.join(APPLY))
    }

    /// What a consumer remembers, under its key.
    pub(crate) fn consumer(&self) -> io::Result<ConsumerMemory> {
        let memory: ConsumerMemory = self.read(CONSUMER)?.unwrap_or_default();
        Ok(match &self.key {
            Some(key) => memory.under(key),
            None => memory,
        })
    }

    pub(crate) fn set_consumer(&self, memory: &ConsumerMemory) -> io::Result<()> {
        self.write(CONSUMER, memory)
    }

    /// Remembers when an apply stopped the workload.
    pub(crate) fn note_stop(&self, at: Timestamp) -> io::Result<()> {
        let mut memory = self.consumer()?;
        memory.applied = Some(at);
        self.set_consumer(&memory)
    }

    /// A takeover that may have happened.
    pub(crate) fn takeover(&self) -> io::Result<Option<TakeoverJournal>> {
        self.read(TAKEOVER)
    }

    pub(crate) fn set_takeover(&self, journal: &TakeoverJournal) -> io::Result<()> {
        self.write(TAKEOVER, journal)
    }

    pub(crate) fn clear_takeover(&self) -> io::Result<()> {
        durable::remove(&self.root.join(TAKEOVER))
    }

    /// Objects of failed publishes that may still be in the store.
    pub(crate) fn orphans(&self) -> io::Result<BTreeSet<Cid>> {
        Ok(self.read(ORPHANS)?.unwrap_or_default())
    }

    pub(crate) fn set_orphans(&self, orphans: &BTreeSet<Cid>) -> io::Result<()> {
        if orphans.is_empty() {
            return durable::remove(&self.root.join(ORPHANS));
        }
        self.write(ORPHANS, orphans)
    }

    /// What a provider found in the store that no record names.
    pub(crate) fn unnamed(&self) -> io::Result<Option<Unnamed>> {
        self.read(UNNAMED)
    }

    pub(crate) fn set_unnamed(&self, unnamed: &Unnamed) -> io::Result<()> {
        self.write(UNNAMED, unnamed)
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// What the provider remembers of its last publish.
    pub(crate) fn remembered(&self) -> Remembered {
        Remembered::new(&self.root)
    }

    /// Manifests of trees that a consumer applied or is about to apply.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join(MANIFESTS)
    }

    /// Why the workload is halted, if it is. A halt that cannot be read is still a halt.
    pub(crate) fn halt(&self) -> Option<Halt> {
        match self.read(HALT) {
            Ok(halt) => halt,
            Err(error) => Some(Halt {
                reason: format!("the record of a halt could not be read: {error}"),
                since: None,
            }),
        }
    }

    pub(crate) fn set_halt(&self, halt: &Halt) -> io::Result<()> {
        self.write(HALT, halt)
    }

    pub(crate) fn clear_halt(&self) -> io::Result<()> {
        durable::remove(&self.root.join(HALT))
    }

    /// Whether sync is paused. A pause that cannot be read is still a pause.
    pub(crate) fn pause(&self) -> Option<Pause> {
        self.read(PAUSED).unwrap_or(Some(Pause { since: None }))
    }

    pub(crate) fn set_pause(&self, pause: &Pause) -> io::Result<()> {
        self.write(PAUSED, pause)
    }

    pub(crate) fn clear_pause(&self) -> io::Result<()> {
        durable::remove(&self.root.join(PAUSED))
    }

    /// Held while a tree is staged and committed, so that recovery leaves it alone.
    pub(crate) fn lock(&self) -> io::Result<Option<std::fs::File>> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        durable::read_json(&self.root.join(name))
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        durable::write_json(&self.root.join(name), 0o600, value)
    }
}

/// A publish from its claim to its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishJournal {
    /// Names this act of publishing; it travels in the record.
    pub(crate) publish_id: String,
    pub(crate) origin: Origin,
    pub(crate) request: AppRequest,
    pub(crate) started: Timestamp,
    /// Times a process began to work on it; one that ends every process is given up.
    pub(crate) attempts: u32,
    /// The object that this publish stores where none was; it goes if the publish fails.
    pub(crate) uploaded: Option<Cid>,
    /// Since when the store takes nothing of what was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) away: Option<Timestamp>,
    /// What it was begun under; what holds now where an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terms: Option<Terms>,
    /// Whether the workload was a consumer since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) consumed_since: bool,
    pub(crate) step: PublishStep,
}

/// A takeover from the intent to the end of its bookkeeping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TakeoverJournal {
    pub(crate) record: SyncRecord,
    /// Who published before.
    pub(crate) from: NodeId,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// The app, by file; it gets a response.
    App,
    /// An operator, by command.
    Command,
    /// The schedule in the spec.
    Schedule,
    /// An operator, with an archive. The journal begins when that is captured.
    Import,
}

/// How far a publish is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum PublishStep {
    /// Nothing was captured, or nothing that counts.
    Claimed,
    /// The archive, or the directory of the tree, lies whole in the spool.
    Captured { spool: String, capture: CaptureFacts },
    /// The record may have been set.
    Publishing { spool: String, capture: CaptureFacts, record: Box<SyncRecord> },
    /// The record is confirmed; history and answer may be missing.
    Published {
        capture: CaptureFacts,
        record: Box<SyncRecord>,
        at: Timestamp,
        unchanged: Unchanged,
    },
    /// It failed, and whoever asked may not know yet.
    Failed { stage: Stage, reason: String, at: Timestamp },
}

impl PublishStep {
    /// What was captured, if anything was.
    pub(crate) fn capture_mut(&mut self) -> Option<&mut CaptureFacts> {
        match self {
            Self::Captured { capture, .. }
            | Self::Publishing { capture, .. }
            | Self::Published { capture, .. } => Some(capture),
            Self::Claimed | Self::Failed { .. } => None,
        }
    }
}

/// Whether a publish made a new record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unchanged {
    /// It did.
    NewRecord,
    /// The head already was this content with these words.
    SameRecord,
}

/// What a capture came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaptureFacts {
    pub(crate) at: Timestamp,
    pub(crate) roots: Vec<String>,
    pub(crate) cid: Cid,
    pub(crate) members: u64,
    pub(crate) content_bytes: u64,
    /// Whether an entry has an owner or set-id bits of its own.
    #[serde(default)]
    pub(crate) owned: bool,
    pub(crate) format: ArchiveFormat,
    pub(crate) encryption: Encryption,
    pub(crate) blob: Cid,
    pub(crate) archive_size_bytes: u64,
    /// Of a `tree`.
    pub(crate) root_bytes: Option<u64>,
    pub(crate) skipped: Vec<String>,
    pub(crate) skipped_count: u64,
    pub(crate) downtime_ms: Option<u64>,
    /// What the capture was.
    #[serde(default = "stopped")]
    pub(crate) capture: Capture,
    /// Why it was that, if it was not what was asked for.
    #[serde(default)]
    pub(crate) fallback: Option<String>,
}

/// What every capture was before there was another kind.
fn stopped() -> Capture {
    Capture::Stopped
}

/// An apply from its first exchange to the end of its bookkeeping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyJournal {
    pub(crate) record: SyncRecord,
    /// Name of the staging directory in each volume touched.
    pub(crate) directory: String,
    pub(crate) steps: Vec<ExchangeStep>,
    /// Volumes that the record's paths reach but of which its tree says nothing.
    pub(crate) untouched: Vec<VolumeName>,
    /// What became of owners and set-id bits; none if the content has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ownership: Option<Settled>,
    pub(crate) phase: ApplyPhase,
    /// An apply before this one that came to no certain end. What it needs is kept until this one
    /// is committed, and it stands again if this one is undone.
    pub(crate) earlier: Option<Box<ApplyJournal>>,
    /// Set while it is not decided whether it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trial: Option<Trial>,
}

/// What it takes to put back what an apply replaced, besides its journal and its directories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trial {
    /// What the volumes said of themselves before.
    pub(crate) marks: BTreeMap<VolumeName, Mark>,
}

impl ApplyJournal {
    /// Whether what it replaced may still be wanted.
    pub(crate) fn needs_directories(&self) -> bool {
        match self.phase {
            ApplyPhase::Applying | ApplyPhase::TakingBack { .. } => true,
            ApplyPhase::Committed { .. } => self.trial.is_some(),
            ApplyPhase::TakenBack { .. } => false,
        }
    }

    /// What is otherwise than in the record's tree.
    pub(crate) fn altered(&self) -> Option<AlteredEntries> {
        self.ownership.and_then(|settled| settled.altered.told())
    }

    /// The staging directories that hold what this apply, or one before it, needs.
    pub(crate) fn directories(&self) -> Vec<String> {
        let earlier = self.earlier.iter().flat_map(|earlier| earlier.directories());
        std::iter::once(self.directory.clone()).chain(earlier).collect()
    }
}

/// How far an apply is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ApplyPhase {
    /// Everything is staged and durable; from here it only goes forward.
    Applying,
    /// Every volume holds the new state and its mark.
    Committed { at: Timestamp },
    /// The workload did not become ready on it; from here it only goes back.
    TakingBack { committed: Timestamp, refused: Refusal },
    /// Every volume holds the old state and its mark; what is to be told of it may be missing.
    TakenBack { refused: Refusal },
}

/// Why an apply does not stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) at: Timestamp,
    pub(crate) reason: String,
}

impl ApplyPhase {
    /// Whether the volumes may hold neither the old state nor the new one.
    pub(crate) fn is_half_way(&self) -> bool {
        match self {
            Self::Applying | Self::TakingBack { .. } => true,
            Self::Committed { .. } | Self::TakenBack { .. } => false,
        }
    }
}

/// One exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExchangeStep {
    pub(crate) volume: VolumeName,
    /// Place below the volume's root; empty for the whole.
    pub(crate) below: String,
    /// Name of the new entry in the staging directory.
    pub(crate) slot: String,
    /// What it is.
    pub(crate) staged: Identity,
    /// What it replaces, if there is something.
    pub(crate) replaced: Option<Identity>,
    /// When either of them, if it is a directory, was modified: some file systems count an exchange
    /// as a modification of both. Seconds and nanoseconds.
    #[serde(default)]
    pub(crate) staged_modified: Option<(i64, u32)>,
    #[serde(default)]
    pub(crate) replaced_modified: Option<(i64, u32)>,
}

/// Why a workload must not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Halt {
    pub(crate) reason: String,
    pub(crate) since: Option<Timestamp>,
}

/// That nothing is published or applied until an operator says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pause {
    pub(crate) since: Option<Timestamp>,
}

/// What a consumer remembers across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsumerMemory {
    /// The key that it is of; none where an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<SyncKey>,
    /// The highest record that was accepted.
    pub(crate) highest: Option<Highest>,
    /// Failed content, by its cid or, where that cannot be read, by the hash of the record.
    pub(crate) quarantine: BTreeMap<String, Quarantined>,
    /// When an apply stopped the workload last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<Timestamp>,
    /// A generation that an operator went back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pinned: Option<Pinned>,
    /// What was accepted under other keys that the workload had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<SyncKey, OtherKey>,
}

/// A generation that is held in the place of later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pinned {
    /// Its record, as the store had it.
    pub(crate) record: String,
    /// The last place that is held back. A record after it is applied, and ends this.
    pub(crate) left: Order,
    pub(crate) since: Timestamp,
}

/// A place in the order with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Highest {
    pub(crate) order: Order,
    pub(crate) cid: Cid,
}

/// Content that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quarantined {
    pub(crate) cid: Option<Cid>,
    pub(crate) stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<ProblemCode>,
    pub(crate) error: String,
    pub(crate) failure_count: u32,
    pub(crate) first_failed: Timestamp,
    pub(crate) last_failed: Timestamp,
    pub(crate) next_retry_after: Timestamp,
}
