//! Decisions about containers of runners: pure, without io, task or clock.

pub mod archive;
pub mod checkpoint;
pub mod container;
pub mod cut;
pub mod job;
pub mod manifest;
pub mod queue;
pub mod sight;
