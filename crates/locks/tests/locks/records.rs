//! What is written in the files, and what it does not decide.

use std::io::Write as _;

use belay_locks::{AcquireError, LockName, LockSet, PreviousHolder};

use crate::other::{Other, Place, claim, web};

#[tokio::test]
async fn a_record_torn_empty_or_garbage_decides_nothing() {
    let place = Place::new();
    let locks = place.locks();
    locks.prepare().expect("can be made");
    let file = place.file();
    let long = [b'x'; 4096];
    for (garbage, reads) in
        [(&b""[..], true), (b"\xff{\"pid\":1", false), (b"{}", false), (&long[..], false)]
    {
        std::fs::write(&file, garbage).expect("writes");
        let guard = locks.try_acquire(&web(), &claim("start")).expect("nobody has it");
        assert_eq!(guard.interrupted().is_empty(), reads, "{garbage:?}");
        if let [before] = guard.interrupted() {
            assert!(before.record.is_none() && before.holder == PreviousHolder::Dead);
        }
        let written = std::fs::read(&file).expect("reads");
        assert_eq!(written.len(), 512, "the record has taken the place of what was there");
        guard.finish();
        assert_eq!(std::fs::read(&file).expect("reads"), b"");
    }
}

#[tokio::test]
async fn garbage_under_a_live_holder_frees_nothing_and_blames_nobody() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let file = place.file();
    let mut torn = std::fs::File::options().write(true).open(&file).expect("opens");
    torn.write_all(b"torn").expect("writes");
    let locks = place.locks();
    let refused = locks.try_acquire(&web(), &claim("start")).expect_err("held");
    let told = format!("pid {}, which has not said what it does", other.pid());
    assert!(refused.to_string().contains(&told), "{refused}");
    let name = LockName::workload("web");
    let broken = locks.break_lock(&name, crate::other::SOON, |_| {}).await;
    broken.expect_err("who it is is not proved");
    other.tell("finish");
    other.hear("done");
}

#[tokio::test]
async fn clock_a_year_off_while_held_changes_nothing() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let file = place.file();
    let written = place.written();
    let locks = place.locks();
    for step in [-YEAR_MS, YEAR_MS] {
        let mut stepped = written.clone();
        stepped.wall_ms += step;
        std::fs::write(&file, stepped.encode()).expect("writes");
        let AcquireError::Held(held) =
            locks.try_acquire(&web(), &claim("start")).expect_err("held")
        else {
            panic!("held")
        };
        let line = format!("deploy (daemon, pid {}) for 0.", other.pid());
        assert!(held.line.starts_with(&line), "{}", held.line);
        assert!(held.to_string().ends_with("alive and inside its deadline"), "{held}");
    }
    other.tell("finish");
    other.hear("done");
}

#[tokio::test]
async fn a_waiter_leaves_the_record_of_the_holder_alone() {
    let place = Place::new();
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let file = place.file();
    let before = std::fs::read(&file).expect("reads");
    assert_eq!(before.len(), 512);
    for _ in 0..50 {
        place.locks().try_acquire(&web(), &claim("start")).expect_err("held");
    }
    assert_eq!(std::fs::read(&file).expect("reads"), before);
    other.tell("finish");
    other.hear("done");
}

#[tokio::test]
async fn names_of_every_kind_stay_below_the_directory() {
    let place = Place::new();
    let locks = place.locks();
    let long = "x".repeat(300);
    let odd = ["..", "../../escaped", "a/b", "ä", "A", "", &long];
    let set: LockSet = odd.iter().map(LockName::workload).collect();
    locks.try_acquire(&set, &claim("start")).expect("each has a file of its own").finish();
    let files = std::fs::read_dir(place.run().join("locks/w")).expect("lists").count();
    assert_eq!(files, odd.len());
    assert!(!place.path().join("escaped").exists() && !place.run().join("escaped").exists());
}

#[tokio::test]
async fn all_that_is_held_or_was_cut_short_is_listed() {
    let place = Place::new();
    let locks = place.locks();
    assert!(locks.list().expect("lists").is_empty());
    let mut other = Other::holding(&place, "hold creating");
    other.hear("phased");
    let volume = LockSet::one(LockName::volume("db", "data"));
    let own = locks.try_acquire(&volume, &claim("check")).expect("free");
    let listed = locks.list().expect("lists");
    let told: Vec<_> =
        listed.iter().map(|look| (look.lock.as_str(), look.own, look.holder.is_some())).collect();
    assert_eq!(told, [("volume db/data", true, true), ("workload web", false, true)]);
    assert_eq!(listed[1].workload.as_deref(), Some("web"));
    own.finish();
    other.signal(nix::sys::signal::Signal::SIGKILL);
    other.reap();
    let listed = locks.list().expect("lists");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].holder.is_none());
    assert_eq!(listed[0].line, format!("deploy by pid {} died in creating", other.pid()));
}
