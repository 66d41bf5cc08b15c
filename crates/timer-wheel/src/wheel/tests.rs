use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher, RandomState};
use std::rc::Rc;

use proptest::prelude::*;

use super::{Expired, Pending, TimerWheel};
use crate::moment::Moment;

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

/// A wheel whose keys are their own values, one for each deadline.
fn wheel_of(deadlines: &[u64]) -> TimerWheel<usize, usize> {
    let mut wheel = TimerWheel::new();
    for (key, &deadline) in deadlines.iter().enumerate() {
        assert_eq!(wheel.insert(key, at(deadline), key), None);
    }
    wheel
}

fn expire(wheel: &mut TimerWheel<usize, usize>, now: u64) -> Vec<(u64, usize)> {
    let expired = wheel.expire(at(now));
    expired.map(|Expired { key, deadline, .. }| (deadline.as_nanos(), key)).collect()
}

/// The first and last moments of spans of every level, and their neighbours.
fn boundaries() -> Vec<u64> {
    let mut all: Vec<_> = (0..64)
        .flat_map(|bit| {
            let start = 1_u64 << bit;
            [start - 1, start, start + 1, start | start >> 1, !start, u64::MAX - start]
        })
        .chain([0, u64::MAX, u64::MAX - 1])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn an_empty_wheel_asks_for_no_wake_up() {
    let mut wheel = TimerWheel::<&str, ()>::new();
    assert_eq!(wheel.next_deadline(), None);
    assert!(wheel.expire(Moment::MAX).next().is_none());
    wheel.insert("run", at(7), ());
    wheel.cancel("run");
    assert_eq!(wheel.next_deadline(), None);
    assert!(wheel.is_empty());
}

#[test]
fn every_boundary_is_met_to_the_nanosecond() {
    let boundaries = boundaries();
    for &deadline in &boundaries[1..] {
        let mut wheel = wheel_of(&[deadline]);
        assert_eq!(wheel.next_deadline(), Some(at(deadline)));
        assert_eq!(expire(&mut wheel, deadline - 1), [], "{deadline} is not early");
        assert_eq!(wheel.next_deadline(), Some(at(deadline)));
        assert_eq!(expire(&mut wheel, deadline), [(deadline, 0)]);
        assert_eq!(wheel.next_deadline(), None);
    }
}

#[test]
fn every_boundary_is_met_from_every_other() {
    let boundaries = boundaries();
    for (from, &now) in boundaries.iter().enumerate() {
        let mut wheel = TimerWheel::new();
        assert!(wheel.expire(at(now)).next().is_none());
        for (key, &deadline) in boundaries.iter().enumerate().skip(from).rev() {
            wheel.insert(key, at(deadline), key);
        }
        for (key, &deadline) in boundaries.iter().enumerate().skip(from) {
            assert_eq!(wheel.next_deadline(), Some(at(deadline)));
            assert_eq!(expire(&mut wheel, deadline), [(deadline, key)], "from {now}");
        }
    }
}

#[test]
fn a_stall_of_any_length_is_caught_up_in_order() {
    let boundaries = boundaries();
    let mut wheel = TimerWheel::new();
    for (key, &deadline) in boundaries.iter().enumerate().rev() {
        wheel.insert(key, at(deadline), key);
    }
    let expected: Vec<_> = boundaries.into_iter().zip(0..).collect();
    assert_eq!(expire(&mut wheel, u64::MAX), expected);
}

#[test]
fn a_full_span_is_spread_and_stays_in_order() {
    // All in one span of a high level, so more than are sorted at once, and half
    // of them with the same deadline, so more than are sorted at once even there.
    let count = 40_000_u64;
    let base = 1 << 40;
    let deadlines: Vec<u64> =
        (0..count).map(|n| base + (n * 7919) % 10_000 * (n % 2) * 1000).collect();
    let mut expected: Vec<_> = deadlines.iter().copied().zip(0..).collect();
    expected.sort_unstable();
    assert_eq!(expire(&mut wheel_of(&deadlines), u64::MAX), expected);

    let mut wheel = wheel_of(&deadlines);
    let mut expired = Vec::new();
    while let Some(next) = wheel.next_deadline() {
        expired.extend(expire(&mut wheel, next.as_nanos()));
    }
    assert_eq!(expired, expected);
}

#[test]
fn equal_deadlines_expire_in_the_order_of_insertion() {
    for deadline in [1, 63, 64, 4096, 1 << 33, u64::MAX] {
        let mut wheel = wheel_of(&[deadline; 5]);
        // A replacement is an insertion, even with the same deadline.
        wheel.insert(1, at(deadline), 1);
        // Half the way there, some come straight to a lower level.
        assert_eq!(expire(&mut wheel, deadline / 2), []);
        wheel.insert(9, at(deadline), 9);
        assert_eq!(expire(&mut wheel, deadline), [0, 2, 3, 4, 1, 9].map(|key| (deadline, key)));
    }
}

#[test]
fn a_delay_of_zero_is_due_at_once_and_not_in_the_past() {
    let mut wheel = wheel_of(&[0]);
    assert_eq!(wheel.next_deadline(), Some(Moment::ORIGIN));
    assert_eq!(expire(&mut wheel, 0), [(0, 0)]);
    assert_eq!(expire(&mut wheel, 1000), []);
    wheel.insert(1, at(1000), 1);
    wheel.insert(2, at(3), 2);
    assert_eq!(wheel.peek(&2).map(|pending| pending.deadline), Some(at(1000)));
    assert_eq!(wheel.next_deadline(), Some(at(1000)));
    assert_eq!(expire(&mut wheel, 1000), [(1000, 1), (1000, 2)]);
}

#[test]
fn replacing_moves_the_deadline_either_way_and_returns_the_old() {
    let mut wheel = wheel_of(&[5000, 6000, 7000]);
    let old = |deadline, value| Some(Pending { deadline: at(deadline), value });
    assert_eq!(wheel.insert(2, at(10), 20), old(7000, 2));
    assert_eq!(wheel.insert(0, at(1 << 50), 30), old(5000, 0));
    assert_eq!(wheel.len(), 3);
    assert_eq!(wheel.peek(&2), Some(Pending { deadline: at(10), value: &20 }));
    assert_eq!(expire(&mut wheel, 10), [(10, 2)]);
    assert_eq!(expire(&mut wheel, 6999), [(6000, 1)]);
    assert_eq!(expire(&mut wheel, (1 << 50) - 1), []);
    assert_eq!(expire(&mut wheel, 1 << 50), [(1 << 50, 0)]);
}

#[test]
fn a_replaced_key_stays_the_first_one_given() {
    let (first, second) = (Rc::new(1), Rc::new(1));
    let mut wheel = TimerWheel::new();
    wheel.insert(Rc::clone(&first), at(1), ());
    wheel.insert(Rc::clone(&second), at(2), ());
    let expired = wheel.expire(at(2)).next().expect("it is due");
    assert!(Rc::ptr_eq(&expired.key, &first));
    assert_eq!(Rc::strong_count(&second), 1);
}

#[test]
fn what_is_cancelled_never_expires_and_is_returned_once() {
    let mut wheel = wheel_of(&[10, 10, 20]);
    assert_eq!(wheel.cancel(&1), Some(Pending { deadline: at(10), value: 1 }));
    assert_eq!(wheel.cancel(&1), None);
    assert_eq!(wheel.peek(&1), None);
    assert_eq!(expire(&mut wheel, 30), [(10, 0), (20, 2)]);
    assert_eq!(wheel.cancel(&2), None, "what expired is not pending");
}

#[test]
fn a_batch_can_be_left_and_changed_in_between() {
    let mut wheel = wheel_of(&[10, 20, 30, 40, 50, 900]);
    let first: Vec<_> = wheel.expire(at(100)).take(2).map(|expired| expired.key).collect();
    assert_eq!(first, [0, 1]);
    assert_eq!(wheel.len(), 4);
    assert_eq!(wheel.next_deadline(), Some(at(30)));
    assert!(wheel.cancel(&2).is_some(), "due, not yet yielded, can be cancelled");
    assert!(wheel.insert(3, at(500), 3).is_some(), "and replaced");
    wheel.insert(6, at(100), 6);
    assert_eq!(expire(&mut wheel, 100), [(50, 4), (100, 6)]);
    assert_eq!(expire(&mut wheel, 1000), [(500, 3), (900, 5)]);
}

#[test]
fn a_clock_that_steps_back_makes_nothing_early() {
    let mut wheel = wheel_of(&[10, 20, 30]);
    assert_eq!(wheel.expire(at(25)).next().map(|expired| expired.key), Some(0));
    assert_eq!(expire(&mut wheel, 15), []);
    assert_eq!(wheel.next_deadline(), Some(at(20)));
    wheel.insert(3, at(16), 3);
    assert_eq!(expire(&mut wheel, 24), [(20, 1)]);
    assert_eq!(expire(&mut wheel, 25), [(25, 3)]);
    assert_eq!(expire(&mut wheel, 30), [(30, 2)]);
}

#[test]
fn cancelling_the_earliest_wakes_early_once() {
    let hour = 3_600_000_000_000;
    let mut wheel = TimerWheel::new();
    for key in 0..1000_usize {
        wheel.insert(key, at(hour + 1_000_003 * key as u64), key);
    }
    for key in 0..999 {
        wheel.cancel(&key);
    }
    let mut wake_ups = 0;
    let deadline = at(hour + 1_000_003 * 999);
    loop {
        let next = wheel.next_deadline().expect("one is pending");
        assert!(next <= deadline, "never late");
        if expire(&mut wheel, next.as_nanos()) == [(deadline.as_nanos(), 999)] {
            break;
        }
        wake_ups += 1;
    }
    assert_eq!(wake_ups, 1, "all were in one span");
}

#[test]
fn a_cleared_wheel_keeps_its_time_and_nothing_else() {
    let mut wheel = wheel_of(&[10, 20, 1 << 40]);
    assert_eq!(expire(&mut wheel, 15), [(10, 0)]);
    wheel.clear();
    assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
    assert_eq!(wheel.peek(&1), None);
    wheel.insert(7, at(3), 7);
    assert_eq!(expire(&mut wheel, 1 << 41), [(15, 7)]);
}

#[test]
fn values_are_dropped_once_and_when_they_leave() {
    struct Counted(Rc<Cell<u32>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let mut wheel = TimerWheel::new();
    for key in 0..10_u32 {
        wheel.insert(key, at(u64::from(key)), Counted(Rc::clone(&dropped)));
    }
    wheel.cancel(&9);
    assert_eq!(dropped.get(), 1);
    drop(wheel.insert(8, at(8), Counted(Rc::clone(&dropped))));
    assert_eq!(dropped.get(), 2);
    assert_eq!(wheel.expire(at(3)).count(), 4);
    assert_eq!(dropped.get(), 6);
    drop(wheel);
    assert_eq!(dropped.get(), 11);
}

/// Every key collides with every other.
#[derive(Default)]
struct OneHash;

impl Hasher for OneHash {
    fn finish(&self) -> u64 {
        0
    }
    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn keys_with_one_hash_are_told_apart() {
    let mut wheel = TimerWheel::with_hasher(BuildHasherDefault::<OneHash>::default());
    for key in 0..500_u32 {
        wheel.insert(key.to_string(), at(u64::from(1000 - key)), key);
    }
    for key in (0..500).step_by(2) {
        assert_eq!(wheel.cancel(&*key.to_string()).map(|pending| pending.value), Some(key));
    }
    let rest: Vec<_> = wheel.expire(at(1000)).map(|expired| expired.value).collect();
    assert_eq!(rest, (0..500).rev().step_by(2).collect::<Vec<_>>());
}

#[test]
fn a_keyed_hasher_can_take_the_place_of_the_own_one() {
    let mut wheel = TimerWheel::with_hasher(RandomState::new());
    for key in 0..100_usize {
        wheel.insert(format!("run_{key}"), at(key as u64), key);
    }
    assert!(wheel.peek("run_42").is_some());
    assert!(wheel.expire(at(99)).map(|expired| expired.value).eq(0..100));
}

/// What the wheel does, done with a sorted map.
#[derive(Default)]
struct Model {
    order: BTreeMap<(u64, u64), (u8, u64)>,
    pending: HashMap<u8, (u64, u64)>,
    serial: u64,
    present: u64,
}

impl Model {
    fn insert(&mut self, key: u8, deadline: u64, value: u64) -> Option<Pending<u64>> {
        let before = self.cancel(key);
        self.serial += 1;
        let place = (deadline.max(self.present), self.serial);
        self.pending.insert(key, place);
        self.order.insert(place, (key, value));
        before
    }

    fn cancel(&mut self, key: u8) -> Option<Pending<u64>> {
        let place = self.pending.remove(&key)?;
        let (_, value) = self.order.remove(&place).expect("it is in both maps");
        Some(Pending { deadline: at(place.0), value })
    }

    fn peek(&self, key: u8) -> Option<Pending<&u64>> {
        let place = self.pending.get(&key)?;
        Some(Pending { deadline: at(place.0), value: &self.order.get(place)?.1 })
    }

    fn next_due(&mut self, now: u64) -> Option<Expired<u8, u64>> {
        let (&(deadline, _), &(key, value)) = self.order.first_key_value()?;
        if deadline > now {
            return None;
        }
        self.cancel(key);
        Some(Expired { key, deadline: at(deadline), value })
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Relative to the present, at any distance, also before it.
    Insert {
        key: u8,
        delay: i128,
    },
    Cancel {
        key: u8,
    },
    /// Let time pass and take what is due, this many at most.
    Expire {
        passed: u64,
        most: usize,
    },
    /// Sleep as told, then take what is due.
    Wake,
    /// Take what was due at a moment before the present.
    Back {
        by: u64,
    },
}

/// Distances of every magnitude, so that every level and every jump is met.
fn distance() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..200,
        4 => (0_u32..64, any::<u64>()).prop_map(|(bits, random)| random >> bits),
        2 => (0_u32..64, 0_u64..3).prop_map(|(bit, off)| (1_u64 << bit).saturating_add(off) - 1),
        1 => Just(u64::MAX),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<u8>(), distance(), 0..8).prop_map(|(key, distance, past)| {
            let delay = i128::from(distance);
            Step::Insert { key, delay: if past == 0 { -delay } else { delay } }
        }),
        5 => any::<u8>().prop_map(|key| Step::Cancel { key }),
        3 => (distance(), prop_oneof![Just(usize::MAX), 0_usize..5])
            .prop_map(|(passed, most)| Step::Expire { passed: passed >> 8, most }),
        3 => Just(Step::Wake),
        1 => (0_u64..5000).prop_map(|by| Step::Back { by }),
    ]
}

fn take(
    wheel: &mut TimerWheel<u8, u64>,
    model: &mut Model,
    now: u64,
    most: usize,
) -> Result<(), TestCaseError> {
    let mut expired = wheel.expire(at(now));
    model.present = model.present.max(now);
    for _ in 0..most {
        let (got, expected) = (expired.next(), model.next_due(now));
        prop_assert_eq!(&got, &expected);
        if got.is_none() {
            prop_assert!(expired.next().is_none(), "an end is an end");
            break;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn does_what_a_sorted_map_does(
        origin in distance(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let (mut wheel, mut model) = (TimerWheel::new(), Model::default());
        take(&mut wheel, &mut model, origin, 1)?;
        let (mut departures, mut early) = (0, 0);
        for (step, value) in steps.into_iter().zip(0..) {
            let present = model.present;
            match step {
                Step::Insert { key, delay } => {
                    let deadline = (i128::from(present) + delay).clamp(0, u64::MAX.into());
                    let deadline = u64::try_from(deadline).expect("clamped");
                    let before = wheel.insert(key, at(deadline), value);
                    departures += u32::from(before.is_some());
                    prop_assert_eq!(before, model.insert(key, deadline, value));
                }
                Step::Cancel { key } => {
                    prop_assert_eq!(wheel.peek(&key), model.peek(key));
                    let before = wheel.cancel(&key);
                    departures += u32::from(before.is_some());
                    prop_assert_eq!(before, model.cancel(key));
                    prop_assert_eq!(wheel.peek(&key), None);
                }
                Step::Expire { passed, most } => {
                    take(&mut wheel, &mut model, present.saturating_add(passed), most)?;
                }
                Step::Wake => {
                    let next = wheel.next_deadline().map_or(present, Moment::as_nanos);
                    let before = wheel.len();
                    take(&mut wheel, &mut model, next.max(present), usize::MAX)?;
                    early += u32::from(before > 0 && before == wheel.len());
                    prop_assert!(early <= departures, "once for what left, at most");
                }
                Step::Back { by } => {
                    take(&mut wheel, &mut model, present.saturating_sub(by), usize::MAX)?;
                }
            }
            prop_assert_eq!(wheel.len(), model.pending.len());
            prop_assert_eq!(wheel.is_empty(), wheel.next_deadline().is_none());
            let earliest = model.order.first_key_value().map(|(place, _)| at(place.0));
            prop_assert!(wheel.next_deadline() <= earliest, "never late");
        }
        take(&mut wheel, &mut model, u64::MAX, usize::MAX)?;
        prop_assert!(wheel.is_empty());
    }

    #[test]
    fn without_cancels_the_next_deadline_is_exact(
        deadlines in prop::collection::vec(distance(), 1..100),
    ) {
        let mut wheel = TimerWheel::new();
        for (key, &deadline) in deadlines.iter().enumerate() {
            wheel.insert(key, at(deadline), ());
        }
        let mut sorted = deadlines;
        sorted.sort_unstable();
        sorted.dedup();
        for deadline in sorted {
            prop_assert_eq!(wheel.next_deadline(), Some(at(deadline)));
            prop_assert!(wheel.expire(at(deadline)).all(|expired| expired.deadline == at(deadline)));
        }
        prop_assert_eq!(wheel.next_deadline(), None);
    }
}
