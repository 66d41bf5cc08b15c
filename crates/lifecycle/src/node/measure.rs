//! Looking at what belongs to no workload: the engine, the host's disk, the volumes.
//!
//! A task of its own, because an engine that is slow, or away, must not keep the node from handing
//! commands on: a stop has to reach its workload while a ping still waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::volumes::{GLANCE, VolumesLook, VolumesWatch};
use crate::context::Context;

/// How often the engine is asked whether it is there, and the host's disk is measured.
const MEASURE: Duration = Duration::from_secs(30);

/// Pause before an engine that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Least time between two measurements when workloads change quickly.
const MEASURE_GAP: Duration = Duration::from_millis(500);

/// The task that measures.
#[derive(Debug)]
pub(super) struct MeasureTask {
    context: Arc<Context>,
    volumes: VolumesWatch,
    changes: mpsc::Receiver<()>,
    looks: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Held by the node: asks for a look, and waits for the task's end.
#[derive(Debug)]
pub(super) struct MeasureHandle {
    /// Written to by whoever changed what is measured; a full queue already asks for it.
    pub(super) changes: mpsc::Sender<()>,
    /// Given to whoever acts on a volume and answers once it is shown.
    pub(super) look: VolumesLook,
    pub(super) task: JoinHandle<()>,
}

impl MeasureTask {
    pub(super) fn spawn(context: &Arc<Context>) -> MeasureHandle {
        let (changes, receiver) = mpsc::channel(1);
        let (look, looks) = VolumesLook::channel();
        let task = Self {
            context: Arc::clone(context),
            volumes: VolumesWatch::new(),
            changes: receiver,
            looks,
        };
        MeasureHandle { changes, look, task: tokio::spawn(task.run()) }
    }

    async fn run(mut self) {
        let ending = self.context.shutdown.clone();
        let mut measure = Instant::now();
        let mut measured_at = measure;
        let mut glance = measure;
        loop {
            if measure <= Instant::now() {
                measured_at = Instant::now();
                let reachable = self.context.board.ask_engine(&self.context).await;
                measure = measured_at + if reachable { MEASURE } else { ASK_AGAIN };
                self.volumes.look(&self.context).await;
                glance = Instant::now() + GLANCE;
            } else if glance <= Instant::now() {
                self.volumes.glance(&self.context).await;
                glance = Instant::now() + GLANCE;
            }
            tokio::select! {
                Some(()) = self.changes.recv() => {
                    measure = measure.min(measured_at + MEASURE_GAP);
                }
                Some(shown) = self.looks.recv() => {
                    self.volumes.look(&self.context).await;
                    glance = Instant::now() + GLANCE;
                    // Whoever asked may have given up waiting.
                    let _ = shown.send(());
                }
                () = tokio::time::sleep_until(measure.min(glance)) => {}
                // Looks that are asked for from now on are refused with the channel.
                () = ending.cancelled() => return,
            }
        }
    }
}
