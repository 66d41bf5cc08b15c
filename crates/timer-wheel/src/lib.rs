//! Keyed deadlines on a clock that the caller owns.
//!
//! A [`TimerWheel`] holds at most one deadline and one value per key. It is a
//! data structure and nothing else: it starts no task, reads no clock and
//! never blocks. Time is an argument, a [`Moment`], which makes a program that
//! is built on it as testable as the wheel itself.
//!
//! # What it promises
//!
//! - [`insert`](TimerWheel::insert), [`cancel`](TimerWheel::cancel) and
//!   [`peek`](TimerWheel::peek) take constant time however many keys are
//!   pending. `insert` replaces: a key has one deadline.
//! - [`expire`](TimerWheel::expire) yields what is due in the order of the
//!   deadlines, and equal deadlines in the order in which they were inserted.
//!   Nothing is ever yielded before its deadline.
//! - However long the caller stalled, the next `expire` yields everything that
//!   fell due meanwhile, in order. Moments are compared and not counted, so a
//!   stalled loop or a suspended host stretches no later delay.
//! - A deadline may lie anywhere up to [`Moment::MAX`], 584 years away.
//! - [`next_deadline`](TimerWheel::next_deadline) is `None` while nothing is
//!   pending, so an idle program is not woken at all.
//! - Once the wheel has seen its largest population it allocates no more.
//!   Beyond key and value it needs at most 64 bytes per pending key, and 28 KiB
//!   of its own. While it grows, the part that grows exists twice.
//!
//! # Driving it from an event loop
//!
//! One task owns the wheel, sleeps until the next deadline, and serves its
//! requests meanwhile. No lock is needed.
//!
//! ```
//! use belay_timer_wheel::{Moment, TimerWheel};
//! use std::time::Duration;
//! use tokio::{sync::mpsc, time::{Instant, sleep_until}};
//!
//! enum Request {
//!     Arm { run: String, delay: Duration },
//!     Cancel { run: String },
//! }
//!
//! async fn drive(mut requests: mpsc::Receiver<Request>, due: mpsc::Sender<String>) {
//!     let origin = Instant::now();
//!     let mut wheel = TimerWheel::new();
//!     loop {
//!         // The sleep is polled only while something is pending.
//!         let next = wheel.next_deadline();
//!         let wake = origin + next.unwrap_or_default().since_origin();
//!         tokio::select! {
//!             request = requests.recv() => match request {
//!                 Some(Request::Arm { run, delay }) => {
//!                     let now = Moment::at(origin.elapsed());
//!                     wheel.insert(run, now.saturating_add(delay), ());
//!                 }
//!                 Some(Request::Cancel { run }) => {
//!                     wheel.cancel(&run);
//!                 }
//!                 None => return,
//!             },
//!             () = sleep_until(wake), if next.is_some() => {
//!                 let now = Moment::at(origin.elapsed());
//!                 for expired in wheel.expire(now) {
//!                     if due.send(expired.key).await.is_err() {
//!                         return;
//!                     }
//!                 }
//!             }
//!         }
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
//! #     .expect("a runtime").block_on(async {
//! let (requests, inbox) = mpsc::channel(8);
//! let (outbox, mut due) = mpsc::channel(8);
//! let task = tokio::spawn(drive(inbox, outbox));
//! for (run, seconds) in [("run_b", 60), ("run_a", 30), ("run_c", 45)] {
//!     let (run, delay) = (run.to_owned(), Duration::from_secs(seconds));
//!     requests.send(Request::Arm { run, delay }).await.expect("the loop runs");
//! }
//! requests.send(Request::Cancel { run: "run_c".to_owned() }).await.expect("the loop runs");
//! assert_eq!(due.recv().await.as_deref(), Some("run_a"));
//! assert_eq!(due.recv().await.as_deref(), Some("run_b"));
//! drop(requests);
//! task.await.expect("the loop ends when nobody can ask any more");
//! # });
//! ```
//!
//! # How it works
//!
//! Eleven levels of 64 spans cover 64 bits of nanoseconds: a span of the
//! lowest level is one nanosecond, one of the level above 64, and so on. A
//! deadline belongs to the level of the highest six-bit digit in which it
//! differs from the wheel's cursor (Varghese and Lauck, "Hashed and
//! Hierarchical Timing Wheels", 1987), so an entry's place is computed and the
//! earliest span is found with two bit scans. When a span falls due it is
//! sorted in one go, or, when it is very full, first spread over the level
//! below; sorting spares the descent through every level that a nanosecond
//! wheel would otherwise make for each entry. An idle stretch of any length is
//! stepped over at once.
//!
//! Entries live in a slab and are linked by 32-bit numbers, twenty bytes per
//! entry apart from keys and values, so that a walk through a span or the
//! unlinking of an entry touches little memory. Keys are found through a hash
//! index of entry numbers, one cache line per probe, which holds no key: the
//! slab's copy is the only one.
//!
//! # Hashing
//!
//! The default [`FoldBuildHasher`] is fast and not keyed. It is made for keys
//! that the program itself gives out, such as run ids, which an outsider cannot
//! choose freely. Somebody who can choose keys could choose colliding ones and
//! make operations slow, though never wrong. For such keys use
//! [`TimerWheel::with_hasher`] and [`std::hash::RandomState`].

mod hasher;
mod index;
mod moment;
mod schedule;
mod wheel;

pub use hasher::{FoldBuildHasher, FoldHasher};
pub use moment::Moment;
pub use wheel::{Expire, Expired, Pending, TimerWheel};
