//! The times that runners have runs, by which what they write is assigned.

use belay_protocol::runner::{Again, Attempt};
use jiff::Timestamp;

use super::rig::{BEGIN_SECONDS, Rig, failed, foreign, listed, name, submission};
use crate::core::event::Origin;
use crate::core::hub::{HubPolicy, RunProgress};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGIN_SECONDS + seconds).expect("a time")
}

#[test]
fn a_stint_begins_with_the_assignment_and_ends_with_the_attempt() {
    let mut rig = Rig::hosted();
    let held = rig.executing();
    rig.seconds(5);
    let found = rig.hub.run_stints(held.run).expect("is known");
    assert_eq!(found.progress, RunProgress::GoesOn);
    let [stint] = &found.stints[..] else { panic!("{found:?}") };
    assert_eq!((&stint.runner, stint.origin), (&held.runner, Origin::Hosted));
    assert_eq!((stint.attempt, stint.from, stint.until), (Attempt::new(1), at(0), None));
    rig.finish(&held).expect("it executes");
    let found = rig.hub.run_stints(held.run).expect("is known");
    assert_eq!((found.progress, found.stints[0].until), (RunProgress::Over, Some(at(5))));

    // The next run of the same runner has a stint of its own.
    rig.seconds(1);
    rig.ready(held.session).expect("is welcome");
    let next = rig.submit(submission("mail"));
    let stints = rig.hub.stints_of(&held.runner);
    let runs: Vec<_> = stints.iter().map(|(run, stint)| (*run, stint.from)).collect();
    assert_eq!(runs, [(held.run, at(0)), (next, at(6))]);
    assert!(rig.hub.stints_of(&name("run-other")).is_empty());
}

#[test]
fn each_attempt_has_its_stint_also_over_a_restart_and_the_last_sixteen_are_remembered() {
    let mut rig = Rig::new(HubPolicy::default(), &[("far", foreign(10))]);
    let mut wish = submission("far");
    wish.max_attempts = 30;
    let run = rig.submit(wish);
    let session = rig.connect(&name("laptop"), "far");
    for attempt in 1..=20 {
        rig.seconds(100);
        rig.ready(session).expect("is welcome");
        let stints = rig.hub.run_stints(run).expect("is known").stints;
        let last = stints.last().expect("it is assigned");
        assert_eq!((last.attempt, last.until), (Attempt::new(attempt), None));
        assert_eq!(last.origin, Origin::Foreign);
        let epoch = last.epoch;
        let held = super::rig::Held { run, epoch, runner: name("laptop"), session };
        rig.start(&held).expect("it is assigned");
        rig.complete(&held, failed(Again::Retry)).expect("it executes");
    }
    let before = rig.hub.run_stints(run).expect("is known");
    assert_eq!(before.stints.len(), 16);
    assert!(before.stints.iter().all(|stint| stint.until.is_some()));
    let mut epochs: Vec<_> = before.stints.iter().map(|stint| stint.epoch).collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 16, "no two have one");
    rig.restart(&listed(&[]));
    assert_eq!(rig.hub.run_stints(run), Some(before));
    let unknown = belay_protocol::runner::RunId::after(None, 1, 1);
    assert_eq!(rig.hub.run_stints(unknown), None);
    assert_eq!(rig.hub.forgotten(&[run, unknown]), [unknown]);
}
