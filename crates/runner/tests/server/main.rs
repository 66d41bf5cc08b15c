//! The runner server over real sockets, with a real ledger.

mod abuse;
mod crash;
mod drain;
mod handshake;
mod life;
mod rig;
