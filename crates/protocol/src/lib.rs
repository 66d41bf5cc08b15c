//! The shapes other programs see: ids, status, operations, problem documents, control files and
//! the sync record.
//!
//! Everything here is data with serde derives and the parsing that makes wrong values
//! unrepresentable. There is no io, no task and no clock.

mod ids;

pub use ids::{Cid, InvalidCid, InvalidName, NodeId, SyncKey, VolumeName, WorkloadName};
