//! The wheel beside what one would write instead, at one million pending keys:
//! `tokio-util`'s `DelayQueue` behind a hash map, and a binary heap behind a hash
//! map. The floor is a hash map alone, which knows keys but no time.
//!
//! Every structure does the same work on the same keys in the same run, several
//! rounds of it in turn, and of each phase the fastest round counts, the one that
//! whatever else runs on the machine disturbed least. Absolute times are the
//! machine's; the ratios are what is claimed.
//!
//! `cargo bench -p belay-timer-wheel`. Without `--bench`, as under
//! `cargo test --all-targets`, it goes through the motions with few keys.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::io::{self, Write};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use belay_timer_wheel::{FoldBuildHasher, Moment, TimerWheel};
use tokio::runtime::{Builder, Runtime};
use tokio::task::unconstrained;
use tokio_util::time::{DelayQueue, delay_queue};

/// The delays are spread evenly over this time.
const SPREAD: Duration = Duration::from_mins(1);
/// How often what is due is asked for within that time.
const STEP: Duration = Duration::from_millis(100);

/// What a pending snapshot must remember: runner, epoch, suspension.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "it is stored and moved, which is the work measured")]
struct Snapshot {
    runner: u64,
    epoch: u64,
    suspension: u64,
}

trait Deadlines {
    fn insert(&mut self, key: String, delay: Duration, value: Snapshot);
    fn cancel(&mut self, key: &str) -> Option<Snapshot>;
    /// Takes what is due after `elapsed`, and says how many there were.
    fn expire(&mut self, elapsed: Duration) -> usize;
}

impl Deadlines for TimerWheel<String, Snapshot> {
    fn insert(&mut self, key: String, delay: Duration, value: Snapshot) {
        self.insert(key, Moment::at(delay), value);
    }

    fn cancel(&mut self, key: &str) -> Option<Snapshot> {
        self.cancel(key).map(|pending| pending.value)
    }

    fn expire(&mut self, elapsed: Duration) -> usize {
        self.expire(Moment::at(elapsed)).map(black_box).count()
    }
}

/// Its queue knows no keys of ours, so they are mapped to its own, and are
/// stored a second time to be unmapped when they expire.
struct Delays {
    keys: HashMap<String, delay_queue::Key>,
    queue: DelayQueue<(String, Snapshot)>,
    runtime: Rc<Runtime>,
    origin: tokio::time::Instant,
}

impl Delays {
    fn new(runtime: &Rc<Runtime>) -> Self {
        Self {
            keys: HashMap::new(),
            queue: DelayQueue::new(),
            runtime: Rc::clone(runtime),
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Deadlines for Delays {
    fn insert(&mut self, key: String, delay: Duration, value: Snapshot) {
        // An instant, so that inserting does not pay for reading the clock.
        let id = self.queue.insert_at((key.clone(), value), self.origin + delay);
        self.keys.insert(key, id);
    }

    fn cancel(&mut self, key: &str) -> Option<Snapshot> {
        let id = self.keys.remove(key)?;
        Some(self.queue.remove(&id).into_inner().1)
    }

    fn expire(&mut self, elapsed: Duration) -> usize {
        let Self { keys, queue, runtime, origin } = self;
        // Unconstrained, or a task would have to yield after 128 of them.
        runtime.block_on(unconstrained(async {
            tokio::time::advance((*origin + elapsed) - tokio::time::Instant::now()).await;
            let mut context = Context::from_waker(Waker::noop());
            let mut count = 0;
            while let Poll::Ready(Some(expired)) = queue.poll_expired(&mut context) {
                let (key, value) = expired.into_inner();
                keys.remove(&key);
                black_box((key, value));
                count += 1;
            }
            count
        }))
    }
}

/// A cancelled or replaced key stays in the heap until it comes up. `BOUNDED`
/// sweeps the heap when more than half of it is such; without that, its memory
/// grows with every cancelled key until that key's deadline.
struct LazyHeap<const BOUNDED: bool> {
    pending: HashMap<String, (u64, Snapshot)>,
    queue: BinaryHeap<Reverse<(Duration, u64, String)>>,
    serial: u64,
}

impl<const BOUNDED: bool> LazyHeap<BOUNDED> {
    fn new() -> Self {
        Self { pending: HashMap::new(), queue: BinaryHeap::new(), serial: 0 }
    }
}

impl<const BOUNDED: bool> Deadlines for LazyHeap<BOUNDED> {
    fn insert(&mut self, key: String, delay: Duration, value: Snapshot) {
        self.serial += 1;
        self.queue.push(Reverse((delay, self.serial, key.clone())));
        self.pending.insert(key, (self.serial, value));
    }

    fn cancel(&mut self, key: &str) -> Option<Snapshot> {
        let (_, value) = self.pending.remove(key)?;
        if BOUNDED && self.queue.len() > 2 * self.pending.len() + 64 {
            let pending = &self.pending;
            self.queue.retain(|Reverse((_, serial, key))| {
                pending.get(key).is_some_and(|(current, _)| current == serial)
            });
        }
        Some(value)
    }

    fn expire(&mut self, elapsed: Duration) -> usize {
        let mut count = 0;
        while self.queue.peek().is_some_and(|Reverse((deadline, ..))| *deadline <= elapsed) {
            let Some(Reverse((deadline, serial, key))) = self.queue.pop() else { break };
            if self.pending.get(&key).is_some_and(|(current, _)| *current == serial) {
                let value = self.pending.remove(&key);
                black_box((key, deadline, value));
                count += 1;
            }
        }
        count
    }
}

/// No deadlines at all. To expire, it is told the keys.
struct Floor<S> {
    map: HashMap<String, Snapshot, S>,
    in_order: BTreeMap<Duration, Vec<String>>,
}

impl<S: BuildHasher + Default> Floor<S> {
    fn new(work: &Work) -> Self {
        let mut in_order = BTreeMap::<Duration, Vec<String>>::new();
        let mut keys: Vec<_> = work.keys.iter().zip(&work.delays).collect();
        keys.sort_by_key(|&(_, delay)| delay);
        for (key, delay) in keys {
            let steps = delay.as_nanos().div_ceil(STEP.as_nanos());
            let due = STEP * u32::try_from(steps).expect("few steps");
            in_order.entry(due).or_default().push(key.clone());
        }
        Self { map: HashMap::default(), in_order }
    }
}

impl<S: BuildHasher> Deadlines for Floor<S> {
    fn insert(&mut self, key: String, _: Duration, value: Snapshot) {
        self.map.insert(key, value);
    }

    fn cancel(&mut self, key: &str) -> Option<Snapshot> {
        self.map.remove(key)
    }

    fn expire(&mut self, elapsed: Duration) -> usize {
        let due = self.in_order.get(&elapsed).map_or(&[][..], Vec::as_slice);
        due.iter().filter_map(|key| self.map.remove_entry(key)).map(black_box).count()
    }
}

struct Work {
    keys: Vec<String>,
    delays: Vec<Duration>,
    /// The keys in the order in which they are cancelled. They are copies that lie
    /// one behind the other, because a key that comes in a request is in the
    /// cache already.
    shuffled: Vec<String>,
}

/// Xorshift: the same work in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Work {
    fn new(keys: usize) -> Self {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let spread = u64::try_from(SPREAD.as_nanos()).expect("a minute");
        let mut order: Vec<_> = (0..keys).collect();
        for at in (1..keys).rev() {
            let with = dice.below(at as u64 + 1);
            order.swap(at, usize::try_from(with).expect("an index"));
        }
        // They sort by time, with a random end.
        let keys: Vec<_> =
            (0..keys).map(|n| format!("run_{n:010x}{:016x}", dice.below(u64::MAX))).collect();
        Self {
            shuffled: order.into_iter().map(|at| keys[at].clone()).collect(),
            delays: keys.iter().map(|_| Duration::from_nanos(1 + dice.below(spread))).collect(),
            keys,
        }
    }

    fn insert_all(&self, into: &mut dyn Deadlines) -> Duration {
        let keys = self.keys.clone();
        let start = Instant::now();
        for ((key, &delay), number) in keys.into_iter().zip(&self.delays).zip(0..) {
            let value = Snapshot { runner: number, epoch: 1, suspension: number };
            into.insert(key, delay, value);
        }
        start.elapsed()
    }

    /// Grow, cancel everything, insert again into the memory there is, expire.
    fn run(&self, on: &mut dyn Deadlines) -> [Duration; 4] {
        let grow = self.insert_all(on);
        let start = Instant::now();
        let cancelled =
            self.shuffled.iter().filter_map(|key| on.cancel(key)).map(black_box).count();
        let cancel = start.elapsed();
        assert_eq!(cancelled, self.keys.len(), "every key was pending");

        let insert = self.insert_all(on);
        let mut expired = 0;
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        while elapsed < SPREAD {
            elapsed += STEP;
            expired += on.expire(elapsed);
        }
        let expire = start.elapsed();
        assert_eq!(expired, self.keys.len(), "every key expired");
        [grow, cancel, insert, expire]
    }
}

const PHASES: [&str; 4] = ["insert, growing", "cancel", "insert", "expire"];
const WHEEL: usize = 0;
/// The rivals that have the wheel's bounds on memory.
const BOUNDED: [usize; 2] = [1, 2];
const FLOOR: usize = 4;
const NAMES: [&str; 6] = [
    "timer wheel",
    "hash map + DelayQueue",
    "hash map + binary heap",
    "the same, memory unbounded",
    "floor: hash map",
    "the same, the wheel's hasher",
];

fn structure(which: usize, work: &Work, runtime: &Rc<Runtime>) -> Box<dyn Deadlines> {
    match which {
        0 => Box::new(TimerWheel::<String, Snapshot>::new()),
        1 => Box::new(Delays::new(runtime)),
        2 => Box::new(LazyHeap::<true>::new()),
        3 => Box::new(LazyHeap::<false>::new()),
        4 => Box::new(Floor::<RandomState>::new(work)),
        _ => Box::new(Floor::<FoldBuildHasher>::new(work)),
    }
}

fn main() -> io::Result<()> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (keys, rounds) = if measured { (1_000_000, 5) } else { (1_000, 1) };
    let work = Work::new(keys);
    // Its clock stands still and is moved by hand.
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let runtime = Rc::new(runtime);
    let _entered = runtime.enter();
    let mut times = [const { Vec::<[Duration; 4]>::new() }; NAMES.len()];
    for round in 0..rounds {
        for turn in 0..NAMES.len() {
            let which = (turn + round) % NAMES.len();
            times[which].push(work.run(&mut *structure(which, &work, &runtime)));
        }
    }

    let fastest = |which: usize, phase: usize| {
        let fastest = times[which].iter().map(|times| times[phase]).min().unwrap_or_default();
        fastest.as_secs_f64() * 1e9 / f64::from(u32::try_from(keys).expect("few keys"))
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{keys} keys, fastest of {rounds} rounds, nanoseconds per key")?;
    write!(out, "{:30}", "")?;
    for phase in PHASES {
        write!(out, "{phase:>17}")?;
    }
    for (which, name) in NAMES.iter().enumerate() {
        write!(out, "\n{name:30}")?;
        for phase in 0..PHASES.len() {
            write!(out, "{:17.1}", fastest(which, phase))?;
        }
    }
    let against = |rivals: &[usize], phase: usize| {
        let best = rivals.iter().map(|&rival| fastest(rival, phase)).fold(f64::INFINITY, f64::min);
        fastest(WHEEL, phase) / best
    };
    for (title, rivals) in [
        ("ratio to the best (0.6)", &BOUNDED[..]),
        ("  with the unbounded heap", &[1, 2, 3]),
        ("ratio to the floor (1.5)", &[FLOOR]),
        ("  with the wheel's hasher", &[FLOOR + 1]),
    ] {
        write!(out, "\n{title:30}")?;
        for phase in 0..PHASES.len() {
            write!(out, "{:17.2}", against(rivals, phase))?;
        }
    }
    writeln!(out)
}
