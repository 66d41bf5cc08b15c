//! Holders that end in every way.

use std::time::{Duration, Instant};

use belay_locks::{AcquireError, Broken, LockName, PreviousHolder};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::other::{Other, Place, SOON, claim, web};

/// What a workload's task does under its locks.
const PHASES: [&str; 9] = [
    "fetching",
    "providing",
    "recovering",
    "creating",
    "stopping",
    "starting",
    "probing",
    "paused-for-sync",
    "removing",
];

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_at_each_phase_then_takeover_with_that_phase() {
    let mut took = Vec::new();
    for phase in PHASES {
        let place = Place::new();
        let mut other = Other::holding(&place, &format!("hold {phase}"));
        other.hear("phased");
        let locks = place.locks();
        let (waits, begun) = tokio::sync::oneshot::channel();
        let mut waits = Some(waits);
        let waiter = tokio::spawn(async move {
            let told = |_: &belay_locks::Waiting<'_>| {
                waits.take().map(|waits| waits.send(()));
            };
            let guard = locks.acquire(&web(), &claim("start"), SOON, told).await;
            (guard.expect("the kernel frees it"), Instant::now())
        });
        begun.await.expect("it waits");
        // Long enough for its pauses to have grown to their longest.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let killed = Instant::now();
        other.signal(Signal::SIGKILL);
        let (guard, at) = waiter.await.expect("no panic");
        took.push(at.saturating_duration_since(killed));
        let [before] = guard.interrupted() else { panic!("{:?}", guard.interrupted()) };
        assert_eq!(before.holder, PreviousHolder::Dead);
        assert_eq!(before.lock, LockName::workload("web"));
        let record = before.record.as_ref().expect("it reads");
        assert_eq!((record.operation.as_str(), record.phase.as_str()), ("deploy", phase));
        assert_eq!(before.line(), format!("deploy by pid {} died in {phase}", other.pid()));
        guard.finish();
    }
    took.sort();
    let median = took[took.len() / 2];
    assert!(median < Duration::from_millis(100), "takeover takes {median:?}: {took:?}");
}

#[tokio::test]
async fn a_lock_freed_in_order_leaves_nothing_to_recover() {
    let place = Place::new();
    for (word, clean) in [("finish", true), ("let go", false), ("panic", false), ("exit", false)] {
        let mut other = Other::holding(&place, "hold creating");
        other.hear("phased");
        other.tell(word);
        other.reap();
        let locks = place.locks();
        let guard = locks.acquire(&web(), &claim("start"), SOON, |_| {}).await;
        let guard = guard.expect("every end frees it");
        assert_eq!(guard.interrupted().is_empty(), clean, "{word}: {:?}", guard.interrupted());
        guard.finish();
    }
}

#[tokio::test]
async fn panic_error_and_cancel_free_it_within_a_process() {
    let place = Place::new();
    let locks = place.locks();
    let panics = {
        let locks = locks.clone();
        tokio::spawn(async move {
            let _guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
            panic!("as it should");
        })
    };
    panics.await.expect_err("it panicked");
    let fails = || -> Result<(), AcquireError> {
        let guard = locks.try_acquire(&web(), &claim("deploy"))?;
        assert_eq!(guard.interrupted()[0].holder, PreviousHolder::Alive);
        locks.try_acquire(&web(), &claim("deploy"))?;
        unreachable!("it has it already");
    };
    fails().expect_err("the second is out of order");
    let (held, holds) = tokio::sync::oneshot::channel();
    let cancelled = {
        let locks = locks.clone();
        tokio::spawn(async move {
            let _guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
            held.send(()).expect("somebody waits");
            std::future::pending::<()>().await;
        })
    };
    holds.await.expect("it holds");
    // One that waits and gives up has nothing, and takes nothing later.
    let (wanted, start) = (web(), claim("start"));
    let waiting = locks.acquire(&wanted, &start, SOON, |_| {});
    tokio::time::timeout(Duration::from_millis(50), waiting).await.expect_err("still held");
    cancelled.abort();
    cancelled.await.expect_err("it was cancelled");
    let guard = locks.try_acquire(&web(), &claim("start")).expect("free");
    assert!(guard.interrupted()[0].line().ends_with("was given up in an unnamed phase"));
    guard.finish();
}

#[tokio::test]
async fn sigstop_holder_makes_the_waiter_time_out_with_its_record_and_steals_nothing() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    other.signal(Signal::SIGSTOP);
    let locks = place.locks();
    let patience = Duration::from_millis(600);
    let began = Instant::now();
    let refused = locks.acquire(&web(), &claim("start"), patience, |_| {}).await;
    assert!(began.elapsed() >= patience, "it waits as long as it was told to");
    let AcquireError::Held(held) = refused.expect_err("held") else { panic!("held") };
    let record = held.holder.record().expect("it reads");
    assert_eq!((record.pid, record.phase.as_str()), (other.pid(), "creating"));
    assert!(held.waited >= patience);
    other.signal(Signal::SIGCONT);
    other.tell("finish");
    other.hear("done");
}

#[tokio::test]
async fn a_holder_past_its_deadline_is_not_stolen_from_and_said_to_be_late() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold-past");
    let refused = place.locks().try_acquire(&web(), &claim("start")).expect_err("held");
    let text = refused.to_string();
    assert!(text.contains("past its deadline by "), "{text}");
    assert!(text.ends_with("its holder is alive and past its deadline"), "{text}");
    other.tell("");
    other.reap();
}

#[tokio::test]
async fn fork_without_exec_child_keeps_it_and_is_told_apart() {
    let place = Place::new();
    let mut other = Other::start(&place, "fork");
    let child: i32 = other.hear("child ").parse().expect("a pid");
    other.hear("held");
    other.signal(Signal::SIGKILL);
    other.reap();
    let locks = place.locks();
    let patience = Duration::from_millis(300);
    let refused = locks.acquire(&web(), &claim("start"), patience, |_| {}).await;
    let text = refused.expect_err("the child has it open").to_string();
    assert!(text.contains("that process has ended, a child of it holds on"), "{text}");
    // Whom to end is not known, so nobody is.
    let broken = locks.break_lock(&LockName::workload("web"), SOON, |_| {}).await;
    let error = broken.expect_err("unproved").to_string();
    assert!(error.contains("cannot be proved") && error.contains("fuser"), "{error}");
    nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL).expect("it is ours");
    let guard = locks.acquire(&web(), &claim("start"), SOON, |_| {}).await.expect("free");
    assert_eq!(guard.interrupted()[0].holder, PreviousHolder::Dead);
    guard.finish();
    let free = locks.break_lock(&LockName::workload("web"), SOON, |_| {}).await;
    assert_eq!(free.expect("free"), Broken::WasFree);
}
