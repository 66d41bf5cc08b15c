//! Runners in containers: started, stopped, checkpointed and restored as the hub of runs orders.
//!
//! A [`Host`] looks at the node, and [`Host::spawn`] begins its task. Orders come and events go
//! through the hub's [`HostLink`](belay_runner::HostLink), both bounded. Each runner's jobs are done
//! one after the other, those of different runners side by side, in a set of tasks that the host's
//! own joins. What runs wrote is cut out of their runners' logs and kept, see [`RunLogs`]. Beside it, one task follows the engine's events, and one tells those who serve runs
//! what each workload is granted. `docs/checkpoints.md` says what follows from that.

pub mod core;

mod act;
mod arrivals;
mod departures;
mod grants;
mod kept_logs;
mod measure;
mod policies;
mod run_logs;
mod store;
mod tally;
mod task;
mod telling;
mod travel;
mod watch;

pub use act::Keeping;
pub use departures::Outgoing;
pub use grants::{Door, Grants, NotTold};
pub use policies::{policies, policy};
pub use run_logs::{ReaderPlace, RunLogs};
pub use store::{CheckpointStore, StoreError};
pub use task::{Checkpoints, Host, HostConfig, HostError, HostHandle};
pub use travel::{Doors, NoDoor, TravelError, Travels, known_doors};
