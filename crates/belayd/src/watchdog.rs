//! What systemd is told: ready, reloading, ending, alive.

use std::sync::Arc;
use std::time::Duration;

use belay_protocol::{NodeReadiness, NodeStatus};
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Sends a state to systemd; without systemd nobody listens, and that is no fault.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}

/// Tells systemd that belayd is ready once it is, and then that it is alive, for as long as the
/// node's own task shows that it turns.
///
/// Life does not depend on the network or on the engine: a restart of belayd mends neither.
pub(crate) async fn run(
    mut status: watch::Receiver<Arc<NodeStatus>>,
    mut turns: watch::Receiver<Instant>,
    shutdown: CancellationToken,
) {
    let window = sd_notify::watchdog_enabled();
    let pause = window.map_or(Duration::from_secs(3600), |window| window / 3);
    let mut told = false;
    loop {
        let ready = status.borrow_and_update().ready == NodeReadiness::Ready;
        if ready && !told {
            told = true;
            tracing::info!("ready");
            notify(&[NotifyState::Ready]);
        }
        if let Some(window) = window
            && turns.borrow_and_update().elapsed() < window
        {
            notify(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            changed = status.changed(), if !told => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
