//! Ending a holder on an operator's word.

use std::time::Duration;

use belay_locks::core::record::Record;
use belay_locks::{BreakError, Broken, LockName};

use crate::other::{Other, Place, SOON, claim, web};

fn name() -> LockName {
    LockName::workload("web")
}

#[tokio::test]
async fn a_foreign_holder_is_asked_to_end() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    let locks = place.locks();
    let mut steps = Vec::new();
    let broken = locks.break_lock(&name(), SOON, |step| steps.push(step.to_owned())).await;
    assert_eq!(broken.expect("it ends"), Broken::Ended { pid: other.pid() });
    assert!(steps[0].starts_with("asking deploy (daemon, pid "), "{steps:?}");
    other.reap();
    let guard = locks.try_acquire(&web(), &claim("start")).expect("free");
    assert_eq!(guard.interrupted().len(), 1);
    guard.finish();
}

#[tokio::test]
async fn one_that_does_not_listen_is_killed() {
    let place = Place::new();
    let mut other = Other::holding(&place, "stubborn");
    let locks = place.locks();
    let broken = locks.break_lock(&name(), Duration::from_millis(200), |_| {}).await;
    assert_eq!(broken.expect("it is killed"), Broken::Killed { pid: other.pid() });
    other.reap();
}

#[tokio::test]
async fn nobody_is_ended_whose_start_or_boot_is_another() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let file = place.file();
    let written = place.written();
    let locks = place.locks();
    let another_start = Record { start_ticks: written.start_ticks + 1, ..(*written).clone() };
    let another_boot = Record { boot_id: "another".to_owned(), ..(*written).clone() };
    let this_test = Record { pid: std::process::id(), ..(*written).clone() };
    for wrong in [another_start, another_boot, this_test] {
        std::fs::write(&file, wrong.encode()).expect("writes");
        let broken = locks.break_lock(&name(), SOON, |_| {}).await;
        assert!(matches!(broken, Err(BreakError::Unproved { .. })), "{broken:?}");
    }
    other.tell("finish");
    other.hear("done");
}

#[tokio::test]
async fn ones_own_lock_is_not_broken_from_within() {
    let place = Place::new();
    let locks = place.locks();
    let guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    let broken = locks.break_lock(&name(), SOON, |_| {}).await;
    assert!(matches!(broken, Err(BreakError::Own(_))), "{broken:?}");
    guard.finish();
    let free = locks.break_lock(&name(), SOON, |_| {}).await;
    assert_eq!(free.expect("free"), Broken::WasFree);
}
