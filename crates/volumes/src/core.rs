//! Every decision about volumes: sizes, names and places, the kernel's mount table, what a file
//! system is called by its first bytes, and which steps lead from what is to what should be.
//! Pure: no io, no clock, no randomness.

pub(crate) mod file_system;
pub(crate) mod generation;
pub(crate) mod health;
pub(crate) mod layout;
pub(crate) mod metadata;
pub(crate) mod mount_table;
pub(crate) mod owner;
pub(crate) mod plan;
pub(crate) mod size;
pub(crate) mod spec;
pub(crate) mod status;
pub(crate) mod superblock;
