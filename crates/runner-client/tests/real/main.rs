//! Runners against the real server: its hub, its ledger and its sockets, without containers.

mod languages;
mod library;
mod node;
