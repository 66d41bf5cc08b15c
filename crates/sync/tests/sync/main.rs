//! Providers and consumers over real directories and a real store, with a fake container.

mod apply;
mod attacks;
mod capture;
mod commands;
mod deltas;
mod disk;
mod exports;
mod faults;
mod faulty;
mod imports;
mod kill;
mod moved;
mod powercut;
mod publish;
mod rollback;
mod scene;
mod schedule;
mod sealed;
mod sharing;
mod signed;
mod takeover;
mod times;
mod tree;
mod trial;
mod vanish;
mod verify;
