//! Every decision about runs: pure, without io, tasks or clocks.

pub(crate) mod admission;
pub(crate) mod bindings;
pub(crate) mod counts;
pub(crate) mod dispatch;
pub(crate) mod event;
pub(crate) mod handshake;
pub(crate) mod hub;
pub(crate) mod lane;
pub(crate) mod now;
pub(crate) mod outbox;
pub(crate) mod pace;
pub(crate) mod run;
pub(crate) mod snapshots;
pub(crate) mod tale;
pub(crate) mod tokens;
