//! Names of the labels that mark a container as belayd's, and whose it is.
//!
//! The labels are the truth about what runs: belayd lists by them after a restart and touches no
//! container that does not carry them.

/// The node that made the container.
pub const NODE: &str = "io.belay.node";
/// The workload that the container runs.
pub const WORKLOAD: &str = "io.belay.workload";
/// Hash of the specification that the container was made from.
pub const SPEC: &str = "io.belay.spec";
/// Number of the container among those of its workload, counted up by one per replacement.
pub const GENERATION: &str = "io.belay.generation";
/// What the container is to its workload, where there is more than one.
pub const ROLE: &str = "io.belay.role";
/// State directory of the belayd that made the container, so that two on one machine stay apart.
pub const INSTANCE: &str = "io.belay.instance";
