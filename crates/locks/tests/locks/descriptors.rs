//! Who has a lock's file open.

use std::process::{Command, Stdio};

use crate::other::{Place, claim, web};

/// Open files of a process below a directory.
fn open_below(pid: u32, directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    listed
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.starts_with(directory))
        .collect()
}

#[tokio::test]
async fn fd_leak_scan_no_child_has_a_lock_open() {
    let place = Place::new();
    let locks = place.locks();
    let guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    let run = place.run();
    let own = open_below(std::process::id(), &run);
    assert!(own.contains(&run.join("locks/w/web")), "{own:?}");
    let mut child =
        Command::new("/bin/sleep").arg("60").stdin(Stdio::null()).spawn().expect("can be started");
    let inherited = open_below(child.id(), &run);
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    assert_eq!(inherited, Vec::<std::path::PathBuf>::new());
    guard.finish();
}

#[tokio::test]
async fn nothing_stays_open_after_locks_are_let_go_of_or_refused() {
    let place = Place::new();
    let locks = place.locks();
    locks.prepare().expect("can be made");
    let before = open_below(std::process::id(), &place.run()).len();
    for round in 0..100 {
        let guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
        let other = place.locks();
        other.try_acquire(&web(), &claim("deploy")).expect_err("held");
        if round % 2 == 0 { guard.finish() } else { drop(guard) }
    }
    assert_eq!(open_below(std::process::id(), &place.run()).len(), before);
}
