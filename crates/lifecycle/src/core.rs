//! Every decision of the lifecycle: pure, without io, task or clock.

pub mod app_requests;
pub mod back_off;
pub mod container;
pub mod dependencies;
pub mod environment;
pub mod exit;
pub mod gate;
pub mod images;
pub mod keys;
pub mod last_lines;
pub mod limits;
pub mod liveness;
pub mod lock_phase;
pub mod machine;
pub mod observation;
pub mod providers;
pub mod record;
pub mod sockets;
pub mod spec;
pub mod standing;
pub mod stop;
pub mod stuck;
pub mod sweep;
pub mod sync_changes;
pub mod volume_health;
pub mod watch;
