//! Parsers of what others write, as targets of a fuzzer that looks at coverage.
//!
//! A [`Target`] takes any bytes and panics where a promise is broken. `cargo xtask fuzz` runs one of them
//! under libFuzzer; the gate runs all of them over the corpora in `corpus/`, one folder for each target.

mod pack;
mod target;

pub use target::{TARGETS, Target};
