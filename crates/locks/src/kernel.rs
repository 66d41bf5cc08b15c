//! What the kernel says of who holds what.

use std::fs;

use rustix::fs::{Stat, major, minor};

use crate::core::identity;

/// The process that took the `flock` on this file, as far as the kernel lists it for us.
pub(crate) fn flock_owner(stat: &Stat) -> Option<u32> {
    let table = fs::read_to_string("/proc/locks").ok()?;
    // 0 stands for a process outside our process namespace.
    identity::flock_owner(&table, major(stat.st_dev), minor(stat.st_dev), stat.st_ino)
        .filter(|&pid| pid != 0)
}
