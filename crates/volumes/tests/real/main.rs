//! Volumes on real loop devices. Needs root; a missing prerequisite fails.

mod care;
mod faults;
mod generations;
mod growth;
mod identity;
mod lifecycle;
mod pool;
mod reservation;
mod scratch;
mod system_volume;
