//! Workloads: declared by a spec, kept running, given their volumes, stopped for volume-sync.
//!
//! `core` decides and does nothing else. Beside it: a [`WorkloadTask`] for each workload, which is
//! the only one to act on it and is reached through its [`WorkloadHandle`]'s channel; the
//! [`NodeTask`], which routes what is asked of the node to the workloads and follows the engine's
//! events to nudge them; the task behind an [`ImagesHandle`], which fetches images for all of them and removes those
//! that nobody needs. All of them write what they have to say on one watched [`StatusBoard`].

pub mod core;

mod board;
mod checks;
mod context;
mod first_look;
mod host;
mod images;
mod node;
mod probe;
mod problems;
mod reporter;
mod roll;
mod saved_log;
mod secrets;
mod templates;
mod volume_act;
mod workload;

pub use board::StatusBoard;
pub use context::Context;
pub use images::{ImagesConfig, ImagesHandle, RegistryLogin};
pub use node::{NodeCommand, NodeHandle, NodeTask, SpecFile, VolumesLook};
pub use probe::NodeProber;
pub use reporter::{Progress, Reporter};
pub use roll::Roll;
pub use saved_log::keep_last_lines;
pub use templates::{Template, Templates};
pub use workload::{Occasion, WorkloadCommand, WorkloadHandle, WorkloadTask};
