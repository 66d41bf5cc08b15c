//! Follows the engine's events and turns each into a nudge. Events are a hint, never the truth.

use std::time::Duration;

use belay_engine::{Engine, EventMarker, labels};
use belay_protocol::WorkloadName;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// Nudges that may wait for the node's task; beyond that the follower waits.
const QUEUE: usize = 256;

/// Pause before the stream is opened again after it was lost.
const REOPEN: Duration = Duration::from_secs(1);

/// Longest pause before the stream is opened again.
const REOPEN_MAX: Duration = Duration::from_secs(30);

/// Something happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nudge {
    /// To a container of this workload.
    One(WorkloadName),
    /// The stream was lost for a while: to any.
    All,
}

/// The task that follows the events.
#[derive(Debug)]
pub(super) struct EngineEventsTask {
    engine: Engine,
    label: String,
    nudges: mpsc::Sender<Nudge>,
    shutdown: CancellationToken,
}

impl EngineEventsTask {
    pub(super) fn spawn(context: &Context) -> (JoinHandle<()>, mpsc::Receiver<Nudge>) {
        let (nudges, receiver) = mpsc::channel(QUEUE);
        let task = Self {
            engine: context.engine.clone(),
            label: format!("{}={}", labels::INSTANCE, context.instance),
            nudges,
            shutdown: context.shutdown.clone(),
        };
        (tokio::spawn(task.run()), receiver)
    }

    async fn run(self) {
        let mut marker = EventMarker::now();
        let mut pause = REOPEN;
        while !self.shutdown.is_cancelled() {
            let mut events = self.engine.events(marker.clone(), &self.label);
            let opened = Instant::now();
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = self.shutdown.cancelled() => return,
                };
                match event {
                    Some(Ok(event)) => {
                        pause = REOPEN;
                        let workload = event.labels.get(labels::WORKLOAD);
                        if let Some(name) = workload.and_then(|name| name.parse().ok())
                            && self.nudges.send(Nudge::One(name)).await.is_err()
                        {
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        let error = crate::problems::with_causes(&error);
                        // Podman ends every stream after some minutes in which nothing happened.
                        // Nothing is lost by it: the next one begins where this one ended.
                        if opened.elapsed() >= REOPEN_MAX {
                            pause = Duration::ZERO;
                            tracing::debug!("the engine's events are asked for anew: {error}");
                        } else {
                            tracing::warn!("the engine's events are lost for a while: {error}");
                        }
                        break;
                    }
                    None => break,
                }
            }
            marker = events.marker();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return,
            }
            pause = (pause * 2).clamp(REOPEN, REOPEN_MAX);
            if self.nudges.send(Nudge::All).await.is_err() {
                return;
            }
        }
    }
}
