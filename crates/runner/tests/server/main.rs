//! The runner server over real sockets, with a real ledger.

mod abuse;
mod crash;
mod disk;
mod drain;
mod events;
mod handshake;
mod life;
mod rig;
