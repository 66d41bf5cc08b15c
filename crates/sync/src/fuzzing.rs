//! What must hold of whatever an app, a store or another node hands to a parser.
//!
//! Each target takes any bytes, says whether they were accepted, and panics where a parser breaks a
//! promise of `docs/sync.md` or `docs/tree-format.md`. The numbers stand here a second time, so that a
//! bound that is lifted by mistake is seen.

mod acks;
mod foreign;
mod json;
mod trees;

pub use acks::{ack, ack_seeds};
pub use foreign::{foreign, foreign_seeds};
pub use json::{record, record_seeds, request, request_seeds};
pub use trees::{archive, archive_seeds, manifest, manifest_seeds, root, root_seeds};

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what it should be.
    Accepted,
    /// It was refused for a reason that has a name.
    Refused,
}
