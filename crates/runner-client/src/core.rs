//! What a runner decides without touching anything.

pub(crate) mod back_off;
pub(crate) mod conversation;
