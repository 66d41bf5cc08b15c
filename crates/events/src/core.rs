//! What is decided about events, without touching anything.

pub(crate) mod limiter;
pub(crate) mod page;
