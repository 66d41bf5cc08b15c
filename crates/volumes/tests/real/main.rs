//! Volumes on real loop devices. Needs root; a missing prerequisite fails.

mod care;
mod cycles;
mod faults;
mod generations;
mod growth;
mod health;
mod identity;
mod lifecycle;
mod namespaces;
mod pool;
mod reservation;
mod scratch;
mod system_volume;
