//! Random interleavings of everything that can happen, beside a naive account of what must hold.
//!
//! The world has containers that start, freeze, come back and die, processes in them and elsewhere
//! that connect twice or too late, operators, a clock, and a belayd that is killed between any two
//! effects. What the hub says and orders is held against [`Account`], which knows the rules of the
//! page and nothing of the hub's inside.

mod account;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

/// Steps of one interleaving; then the world calms down, and every run must end.
const STEPS: u32 = 1000;

/// A splitmix64 stream: small, seeded, the same everywhere.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// True once in so many times.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let count = u64::try_from(from.len()).expect("a slice is small");
        let at = (count > 0).then(|| self.below(count))?;
        from.get(usize::try_from(at).expect("it is below the length")).cloned()
    }
}

/// How much of what the worlds saw, so that a model that sees nothing is seen.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    steps: u64,
    ordered: u64,
    aborted: u64,
    taken: u64,
    undone: u64,
    restored: u64,
    crashes: u64,
    stale: u64,
    finished: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.ordered += other.ordered;
        self.aborted += other.aborted;
        self.taken += other.taken;
        self.undone += other.undone;
        self.restored += other.restored;
        self.crashes += other.crashes;
        self.stale += other.stale;
        self.finished += other.finished;
    }
}

fn live(seed: u64) -> Tally {
    let mut world = World::new(Dice(seed));
    let lived = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            world.step();
        }
        world.calm_down();
    }));
    if let Err(cause) = lived {
        let story = format!("seed {seed}, the last of what happened:\n{}", world.story());
        let words = cause.downcast_ref::<String>().cloned();
        let words = words.or_else(|| cause.downcast_ref::<&str>().map(|&words| words.to_owned()));
        match words {
            Some(words) => panic!("{words}\n{story}"),
            None => resume_unwind(cause),
        }
    }
    world.tally
}

#[test]
fn no_interleaving_breaks_a_promise() {
    let worlds = match std::env::var("BELAY_TEST_COUNTS").as_deref() {
        Ok("full") => 1200,
        _ => 300,
    };
    let mut tally = Tally::default();
    for seed in 0..worlds {
        tally.add(live(seed));
    }
    // Each promise was put to the test many times.
    let Tally { steps, ordered, aborted, taken, undone, restored, crashes, stale, finished } =
        tally;
    assert!(steps >= worlds * u64::from(STEPS), "{tally:?}");
    for (what, count) in [
        ("ordered", ordered),
        ("aborted", aborted),
        ("taken", taken),
        ("undone", undone),
        ("restored", restored),
        ("crashes", crashes),
        ("stale", stale),
        ("finished", finished),
    ] {
        assert!(count > worlds / 4, "too few {what}: {tally:?}");
    }
}
