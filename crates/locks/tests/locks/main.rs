//! Locks between real processes: contention, sudden ends, takeovers.

mod breaking;
mod contention;
mod descriptors;
mod directories;
mod ends;
mod other;
mod records;
