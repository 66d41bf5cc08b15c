//! Many that want one lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use belay_locks::{AcquireError, LockName, LockSet};

use crate::other::{Other, Place, SOON, claim, web};

/// Acquisitions in all: the gate's, and those of `--full`.
fn acquisitions() -> u32 {
    let full = std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full");
    if full { 100_000 } else { 1_000 }
}

#[test]
fn a_thousand_acquisitions_by_8_contenders_never_overlap() {
    const CONTENDERS: u32 = 8;
    let place = Place::new();
    let rounds = acquisitions() / CONTENDERS;
    let mut all: Vec<_> =
        (0..CONTENDERS).map(|_| Other::start(&place, &format!("fight {rounds}"))).collect();
    for other in &mut all {
        let told = other.hear("fought");
        let numbers: Vec<u128> =
            told.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [overlaps, p99, _longest] = numbers[..] else { panic!("three numbers: {told}") };
        assert_eq!(overlaps, 0, "two were inside at once");
        assert!(p99 < 10_000, "99 of 100 waits are below 10 s: {p99} ms");
    }
}

#[tokio::test]
async fn two_workloads_overlap_in_time() {
    let place = Place::new();
    let (one, other) = (place.locks(), place.locks());
    let web = one.try_acquire(&web(), &claim("deploy")).expect("free");
    let db = other.try_acquire(&LockSet::one(LockName::workload("db")), &claim("deploy"));
    db.expect("another one's lock").finish();
    web.finish();
}

#[tokio::test]
async fn two_operations_on_one_workload_take_turns_and_both_succeed() {
    let place = Place::new();
    let inside = Arc::new(AtomicU32::new(0));
    // Two processes in effect: each handle has turns and descriptors of its own.
    let runs = [place.locks(), place.locks()].map(|locks| {
        let inside = Arc::clone(&inside);
        tokio::spawn(async move {
            for _ in 0..20 {
                let guard = locks.acquire(&web(), &claim("deploy"), SOON, |_| {}).await;
                let guard = guard.expect("its turn comes");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody is inside");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.finish();
            }
        })
    });
    for run in runs {
        run.await.expect("no panic");
    }
}

#[tokio::test]
async fn in_one_process_it_is_first_come_first_served() {
    let place = Place::new();
    let locks = place.locks();
    let held = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..5 {
        let (locks, order) = (locks.clone(), Arc::clone(&order));
        let (standing, stands) = tokio::sync::oneshot::channel();
        let mut standing = Some(standing);
        tasks.push(tokio::spawn(async move {
            let in_line = |_: &belay_locks::Waiting<'_>| {
                standing.take().map(|standing| standing.send(()));
            };
            let guard = locks.acquire(&web(), &claim("start"), SOON, in_line).await;
            order.lock().expect("not poisoned").push(number);
            guard.expect("its turn comes").finish();
        }));
        stands.await.expect("it waits");
    }
    held.finish();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("not poisoned"), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn no_patience_is_refused_at_once_with_the_holder() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let locks = place.locks();
    let mut told = Vec::new();
    let refused = locks
        .acquire(&web(), &claim("start"), Duration::ZERO, |waiting| {
            told.push(waiting.line.to_owned());
        })
        .await
        .expect_err("held");
    let AcquireError::Held(held) = refused else { panic!("{refused:?}") };
    let line = format!("deploy (daemon, pid {})", other.pid());
    assert!(held.line.starts_with(&line) && held.line.contains(", creating for "), "{}", held.line);
    assert!(held.line.contains(", to end within "), "{}", held.line);
    assert!(told[0].starts_with(&line), "{told:?}");
    let text = held.to_string();
    assert!(text.starts_with("workload web is locked by deploy"), "{text}");
    assert!(text.ends_with("its holder is alive and inside its deadline"), "{text}");
    other.tell("finish");
    other.hear("done");
    let guard = locks.acquire(&web(), &claim("start"), SOON, |_| {}).await.expect("free");
    assert!(guard.interrupted().is_empty(), "it was let go of in order");
    guard.finish();
}

#[tokio::test]
async fn taking_upwards_is_refused_and_downwards_is_not() {
    let place = Place::new();
    let locks = place.locks();
    let held = locks.try_acquire(&web(), &claim("deploy")).expect("free");
    let up = LockSet::one(LockName::volume("web", "data"));
    let refused = locks.acquire(&up, &claim("grow"), SOON, |_| {}).await.expect_err("upwards");
    assert!(matches!(refused, AcquireError::OutOfOrder(_)), "{refused}");
    let again = locks.try_acquire(&web(), &claim("deploy")).expect_err("it has it");
    assert!(matches!(again, AcquireError::OutOfOrder(_)), "{again}");
    let down = locks.try_acquire(&LockSet::one(LockName::workload("x")), &claim("deploy"));
    down.expect("downwards").finish();
    held.finish();
    locks.try_acquire(&up, &claim("grow")).expect("it holds nothing any more").finish();
}

#[tokio::test]
async fn a_set_that_is_not_had_whole_is_not_had_at_all() {
    let place = Place::new();
    let _other = Other::holding(&place, "hold");
    let locks = place.locks();
    let set: LockSet =
        [LockName::volume("web", "data"), LockName::workload("web")].into_iter().collect();
    let refused = locks.try_acquire(&set, &claim("check")).expect_err("web is held");
    assert!(matches!(refused, AcquireError::Held(_)));
    let volume = LockSet::one(LockName::volume("web", "data"));
    let guard = locks.try_acquire(&volume, &claim("check")).expect("given back");
    assert!(guard.interrupted().is_empty());
    guard.finish();
}
