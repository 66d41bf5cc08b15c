//! What the tasks decide, apart from how it is carried out.
//!
//! Everything below this folder is a pure function of what it is given: no file, no process, no
//! clock. The shells beside it read the host, and do what these functions say.

pub(crate) mod criu;
pub(crate) mod engine_config;
pub(crate) mod host;
pub(crate) mod invocation;
pub(crate) mod leaks;
pub(crate) mod needs;
pub(crate) mod suite;
