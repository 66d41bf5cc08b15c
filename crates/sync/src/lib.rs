//! Volume-sync: one node's container publishes the state of chosen paths, other nodes' containers
//! take it over.
//!
//! One task per workload, a provider or a consumer, started by [`spawn`] and held by a
//! [`SyncHandle`]. It hears of requests through the control directory and of records through the
//! store, each by a watch and, since a watch may be deaf, by a poll. Commands come in by a bounded
//! channel; what it does is shown in one watched status. It asks for a stopped container through
//! [`OfflineWindow`], for volumes kept at one moment through [`VolumeClones`], and it learns of mounted volumes through a watched [`SyncLayout`], with the
//! [`AnswerPlace`] that writes on a volume which the container filled.
//! [`recover`] settles what a crash interrupted, before the workload's container may start.

mod archive;
mod assembly;
mod beneath;
mod capture;
mod carried;
mod clones;
mod command;
mod commit;
mod consumer;
mod context;
mod control;
mod core;
mod durable;
pub mod failpoint;
mod fetching;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod history;
mod importing;
mod layout;
mod looks;
mod manifest_file;
mod manifest_pieces;
mod node_key;
mod packing;
mod pausing;
mod provider;
mod reader;
mod recovery;
mod remembered;
mod sealing;
mod sharing;
mod spool;
mod stage;
mod state;
mod task;
mod upload;
mod volume;
mod walk;
mod window;

pub use belay_packs::{Member, NoMember};
pub use belay_store::{DirectoryWatch, LocalStore};
pub use beneath::empty_directory;
pub use carried::{CarriedError, carries, disown};
pub use clones::{App, CloneAnswer, CloneRefused, NoClones, VolumeClones};
pub use command::{
    AppliedNow, ApplyNowError, ClearHaltError, HistoryError, PauseError, PublishCommand,
    PublishError, RecoverError, Recovery, RollbackError, RolledBack, SyncHandle, Takeover,
    TakeoverError,
};
pub use control::{ControlDir, Fingerprint, Pending};
pub use core::capturing::CapturePolicy;
pub use core::fencing::PublisherRule;
pub use core::maintenance::{ApplyTimes, InvalidWindow, MaintenanceWindow};
pub use core::ownership::{Owners, OwnershipPolicy, SetId};
pub use core::schedule::{IfUnchanged, Schedule};
pub use core::trial::OnUnready;
pub use history::History;
pub use layout::{AnswerPlace, ControlVolume, MountPoint, SyncLayout, SyncSpec};
pub use node_key::{NodeKey, NodeKeyError};
pub use pausing::{pause, resume};
pub use reader::{Against, AskError, Diff, Export, Held, SyncReader};
pub use recovery::{clear_halt, is_recovery_needed, recover};
pub use sealing::Sealing;
pub use task::{SpawnError, SyncNode, spawn};
pub use window::{
    FoundState, OfflineWindow, Ready, Require, Restart, Window, WindowClosed, WindowError,
    WindowOutcome, WindowOwner, WindowPurpose, WindowRefused, WindowReply,
};
