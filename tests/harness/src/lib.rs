//! A real belayd for tests: started in a directory of its own, talked to over its socket, killed,
//! started again, and cleaned up behind.
//!
//! [`Node`] is one belayd and all that it makes; dropping it, also in a panic, removes everything
//! that carries its name or lies below its directory. [`image`] makes the root file system that the
//! tests' containers run.

mod client;
mod cloning;
mod engine_gate;
mod image;
mod leavings;
mod ledger;
mod node;
mod patience;
mod registry;
mod runs;
mod specs;

pub use client::{Client, Refusal};
pub use engine_gate::EngineGate;
pub use image::{busybox_image, checked_image, program_image};
pub use leavings::Leavings;
pub use ledger::{HeldLedger, Ledger};
pub use node::{Node, NodeOptions, binary};
pub use patience::{free_port, is_full, until};
pub use registry::{Behaviour, Registry, RegistryImage, marked};
pub use runs::RunBench;
pub use specs::{sync_spec, web_spec};
