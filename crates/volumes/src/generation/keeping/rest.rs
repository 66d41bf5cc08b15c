//! Clones of volumes that nobody writes to.
//!
//! A freeze waits for the kernel to have seen every other processor, which on a busy host takes tens of
//! milliseconds, and that is for writers that are gone. An ext4 whose journal was written to its places
//! is whole in its image without one. That nobody wrote is not believed: the device counts.

use std::fs::File;
use std::os::fd::AsFd;

use nix::unistd::syncfs;

use super::Subject;
use crate::ioctl;

/// Clones every image, if none of them was written to since it was whole. False if it cannot be done
/// so, or if that is not certain: then they must be frozen.
pub(super) fn clone_at_rest(subjects: &[Subject], targets: &[File]) -> bool {
    let mounted =
        || subjects.iter().filter_map(|subject| Some((subject.root.as_ref()?, subject.minor)));
    if !mounted().all(|(root, _)| is_ext4(&root.root)) {
        return false;
    }
    for (root, _) in mounted() {
        if syncfs(&root.root).is_err() || ioctl::checkpoint(&root.root).is_err() {
            return false;
        }
    }
    let writes = || mounted().map(|(_, minor)| writes(minor)).collect::<Option<Vec<_>>>();
    let Some(before) = writes() else { return false };
    let cloned = subjects
        .iter()
        .zip(targets)
        .all(|(subject, target)| ioctl::clone_file(target, &subject.image).is_ok());
    cloned && writes() == Some(before)
}

fn is_ext4(root: &impl AsFd) -> bool {
    const EXT4: i64 = 0xef53;
    rustix::fs::fstatfs(root).is_ok_and(|found| found.f_type == EXT4)
}

/// Writes to a loop device that have ended; none while one is under way
/// (`Documentation/block/stat.rst`).
fn writes(minor: u32) -> Option<u64> {
    let line = std::fs::read_to_string(format!("/sys/block/loop{minor}/stat")).ok()?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (*numbers.get(8)? == 0).then_some(*numbers.get(4)?)
}
