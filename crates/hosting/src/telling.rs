//! What is told of runners as events.

use belay_protocol::EventDetails;
use belay_runner::{Exit, MemoryFate};

use crate::act::{Done, Measured};

/// An event about a workload.
#[derive(Debug, PartialEq)]
pub(crate) struct Tale {
    pub(crate) message: String,
    pub(crate) details: EventDetails,
}

/// What a job is worth telling.
pub(crate) fn tell(done: &Done) -> Vec<Tale> {
    let runner = &done.runner;
    let name = || runner.as_str().into();
    let millis = |took: &std::time::Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let tales = done.measured.iter().filter_map(|measured| {
        let (message, details) = match measured {
            // It is told when it is in the books.
            Measured::Started { .. } | Measured::Checkpointed { .. } => return None,
            Measured::Booked { bytes } => {
                let call = done.measured.iter().find_map(|measured| match measured {
                    Measured::Checkpointed { frozen, took } => Some((frozen, took)),
                    _ => None,
                });
                let details = EventDetails::RunnerCheckpointed {
                    runner: name(),
                    bytes: *bytes,
                    frozen_ms: call.map(|(frozen, _)| millis(frozen)),
                    took_ms: call.map(|(_, took)| millis(took)),
                };
                (format!("{runner} is on the disk, {bytes} bytes"), details)
            }
            Measured::Paused { took } => {
                let details = EventDetails::RunnerPaused { runner: name(), took_ms: millis(took) };
                (format!("{runner} is frozen in memory"), details)
            }
            Measured::NotSnapshotted { reason } => {
                let cause = reason.as_str().into();
                let details = EventDetails::RunnerNotSnapshotted { runner: name(), cause };
                (format!("{runner} stays in memory: {reason}"), details)
            }
            Measured::Restored { took } | Measured::Thawed { took } => {
                let details =
                    EventDetails::RunnerRestored { runner: name(), took_ms: millis(took) };
                (format!("{runner} is back after {} ms", millis(took)), details)
            }
            Measured::NotRestored { reason } => {
                let cause = reason.as_str().into();
                let details = EventDetails::RunnerNotRestored { runner: name(), cause };
                (format!("{runner} does not come back: {reason}"), details)
            }
            Measured::Ended { exit: Exit { code, memory } } => {
                let out_of_memory = *memory == MemoryFate::Killed;
                let (exit_code, runner_name) = (*code, name());
                let details =
                    EventDetails::RunnerEnded { runner: runner_name, exit_code, out_of_memory };
                let exit = Exit { code: *code, memory: *memory };
                (format!("{runner} ended {exit}"), details)
            }
        };
        Some(Tale { message, details })
    });
    tales.collect()
}
