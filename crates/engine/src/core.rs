//! Decisions: what a body, a status, a name or an exit means. No io, no clock.

pub(crate) mod abilities;
pub(crate) mod archive;
pub(crate) mod criu;
pub(crate) mod diagnosis;
pub(crate) mod events;
pub(crate) mod fault;
pub(crate) mod image_name;
pub(crate) mod k8s_file;
pub(crate) mod multiplex;
pub(crate) mod oom;
pub(crate) mod process;
pub(crate) mod pull_fault;
pub(crate) mod pull_progress;
pub(crate) mod restart;
pub(crate) mod state;
pub(crate) mod version;
