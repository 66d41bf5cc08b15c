//! Follows the engine's events about runners. They are a hint; what is so, a look says.

use std::time::Duration;

use belay_engine::{Action, Engine, EventMarker};
use belay_protocol::runner::RunnerId;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::act::with_causes;
use crate::core::container::{HOST, RUNNER};

/// Hints that may wait; beyond that the follower waits.
const QUEUE: usize = 64;
/// Pause before the stream is opened again after it was lost; it doubles.
const REOPEN: Duration = Duration::from_secs(1);
/// The longest.
const REOPEN_MAX: Duration = Duration::from_secs(30);

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// This runner may have ended.
    One(RunnerId),
    /// The events were lost for a while: any may have.
    All,
}

/// Follows the events of an installation's runners until the token is cancelled.
pub(crate) fn spawn(
    engine: Engine,
    host: &str,
    ending: CancellationToken,
) -> (mpsc::Receiver<Hint>, JoinHandle<()>) {
    let (hints, receiver) = mpsc::channel(QUEUE);
    let label = format!("{HOST}={host}");
    (receiver, tokio::spawn(follow(engine, label, hints, ending)))
}

async fn follow(
    engine: Engine,
    label: String,
    hints: mpsc::Sender<Hint>,
    ending: CancellationToken,
) {
    let mut marker = EventMarker::now();
    let mut pause = REOPEN;
    loop {
        let mut events = engine.events(marker.clone(), &label);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = ending.cancelled() => return,
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::warn!("the engine's events of runners are lost for a while: {error}");
                    break;
                }
                None => break,
            };
            pause = REOPEN;
            let ended = matches!(event.action, Action::Died { .. } | Action::Removed);
            let runner = event.labels.get(RUNNER).and_then(|runner| runner.parse().ok());
            if let (true, Some(runner)) = (ended, runner)
                && hints.send(Hint::One(runner)).await.is_err()
            {
                return;
            }
        }
        marker = events.marker();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ending.cancelled() => return,
        }
        pause = (pause * 2).min(REOPEN_MAX);
        if hints.send(Hint::All).await.is_err() {
            return;
        }
    }
}
