//! HTTP for operators: status, operations and logs, over a Unix socket and, for questions only,
//! over loopback TCP.
//!
//! Nothing here owns state. Pages are read from a watched [`NodeStatus`]; operations, logs and
//! histories are asked of belayd as [`Command`]s and answered through the channel that each command
//! carries; so are events, as [`ReadEvents`], and runs, as [`RunnerCommand`]s. Tasks: one per listener ([`serve_unix`],
//! [`serve_tcp`]), which joins one per connection; one per operation under way, which reads its
//! events whether or not the client does; and one per command that is talked to in a workload. The
//! last two are joined by [`ApiState::finish`].
//!
//! [`NodeStatus`]: belay_protocol::NodeStatus

mod answer;
mod bind;
mod core;
mod exec;
mod operation;
mod routes;
mod runs;
mod serve;
mod state;

pub use bind::{BindError, BoundSocket, bind_tcp, bind_unix};
pub use routes::{observer_router, operator_router};
pub use runs::{ImportMode, RunnerCommand, RunnerReply};
pub use serve::{Limits, ServeReport, serve_tcp, serve_unix};
pub use state::{ApiState, Command, EventFeed, ReadEvents, RunFeed};
