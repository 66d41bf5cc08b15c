//! What the wheel allocates, counted by an allocator that wraps the system's.

#![expect(unsafe_code, reason = "an allocator cannot be written without; it only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use belay_timer_wheel::{Moment, TimerWheel};

/// Counts each thread's own, so that tests do not see one another.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<usize> = const { Cell::new(0) };
}

fn count(taken: usize, given_back: usize) {
    CALLS.set(CALLS.get() + u64::from(taken > 0));
    HELD.set(HELD.get().wrapping_add(taken).wrapping_sub(given_back));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Xorshift: random enough, and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Inserts, replaces, cancels and expires, with delays of every magnitude and
/// many keys due at the same moment.
fn churn(wheel: &mut TimerWheel<u64, u64>, dice: &mut Dice, now: &mut u64, steps: usize) {
    for _ in 0..steps {
        let key = dice.roll(20_000);
        match dice.roll(8) {
            0 => drop(wheel.cancel(&key)),
            1 => {
                *now += 1 << dice.roll(34);
                wheel.expire(Moment::from_nanos(*now)).for_each(drop);
            }
            2 => drop(wheel.insert(key, Moment::from_nanos((*now | 0xff_ffff) + 1), key)),
            _ => {
                let magnitude = dice.roll(40);
                let delay = dice.roll(2 << magnitude);
                wheel.insert(key, Moment::from_nanos(*now + delay), key);
            }
        }
    }
}

#[test]
fn a_wheel_that_has_seen_its_largest_population_allocates_nothing() {
    let mut wheel = TimerWheel::new();
    for key in 0..20_000 {
        wheel.insert(key, Moment::from_nanos(key), key);
    }
    let (mut dice, mut now) = (Dice(88_172_645_463_325_252), 0);
    let before = CALLS.get();
    assert!(before > 0, "the allocator counts");
    churn(&mut wheel, &mut dice, &mut now, 300_000);
    // All at one moment, more than are sorted at once.
    for key in 0..20_000 {
        wheel.insert(key, Moment::from_nanos(now + (1 << 45)), key);
    }
    assert_eq!(wheel.expire(Moment::MAX).count(), 20_000);
    wheel.clear();
    assert_eq!(CALLS.get(), before);
}

#[test]
fn a_wheel_with_capacity_allocates_no_more_while_it_fills() {
    let mut wheel = TimerWheel::with_capacity(20_000);
    let (mut dice, mut now) = (Dice(88_172_645_463_325_252), 0);
    let before = CALLS.get();
    churn(&mut wheel, &mut dice, &mut now, 300_000);
    for key in 0..20_000 {
        wheel.insert(key, Moment::MAX, key);
    }
    assert_eq!(wheel.len(), 20_000);
    assert_eq!(CALLS.get(), before);
}

#[test]
fn an_entry_takes_at_most_64_bytes_beyond_key_and_value() {
    // Integers have no spare value to mark a vacant entry with, so this is the
    // worst case: eight bytes more than with a string as the key.
    let before = HELD.get();
    let mut wheel = TimerWheel::<u64, u64>::new();
    let mut worst = 0;
    for key in 0..1_100_000 {
        wheel.insert(key, Moment::from_nanos(key << 20), key);
        let entries = wheel.len();
        // Below that, the fixed size of the empty wheel weighs too much.
        if entries >= 16_384 {
            worst = worst.max((HELD.get() - before).div_ceil(entries) - 16);
        }
        assert!(worst <= 64, "{worst} bytes at {entries} entries");
    }
    let (fixed, held) = (HELD.get(), HELD.get() - before);
    assert!(held / wheel.len() > 40, "{held} bytes are not all that {} entries take", wheel.len());
    drop(wheel);
    assert_eq!(fixed - HELD.get(), held);
}
