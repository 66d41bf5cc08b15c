//! What the command shows and how it reads answers, without io and without a clock.

pub(crate) mod advice;
pub(crate) mod event_blocks;
pub(crate) mod host;
pub(crate) mod human;
pub(crate) mod lines;
pub(crate) mod progress;
pub(crate) mod stage;
pub(crate) mod table;
pub(crate) mod targets;
pub(crate) mod view;

#[cfg(test)]
pub(crate) mod sample;
