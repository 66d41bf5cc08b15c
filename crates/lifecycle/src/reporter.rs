//! How an operation tells its caller what it does.

use std::time::Duration;

use belay_protocol::{OperationEvent, OperationOutcome, OperationProgress, Problem};
use tokio::sync::mpsc;

/// The caller's end of an operation. A caller that is slow misses progress, one that went away
/// misses everything; neither holds the operation up.
#[derive(Debug)]
pub struct Reporter {
    events: mpsc::Sender<OperationEvent>,
    patience: Option<Duration>,
}

impl Reporter {
    /// Reports to this channel, which must hold at least two events.
    pub fn new(events: mpsc::Sender<OperationEvent>) -> Self {
        Self { events, patience: None }
    }

    /// The same for a caller who says how long it waits for its turn and for locks.
    #[must_use]
    pub fn with_patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// How long the caller waits for its turn and for locks, if it says so.
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// A second end that can report progress from another task.
    pub fn progress_end(&self) -> Progress {
        Progress(Some(self.events.clone()))
    }

    /// Says that something began or went on.
    pub fn progress(&self, step: &str, detail: impl Into<String>) {
        self.progress_end().say(step, detail);
    }

    /// Ends the operation.
    pub fn finish(self, result: Result<OperationOutcome, Problem>) {
        let event = match result {
            Ok(outcome) => OperationEvent::Done(outcome),
            Err(problem) => OperationEvent::Failed(problem),
        };
        // `say` leaves one place free, so only a caller that went away misses the end.
        let _ = self.events.try_send(event);
    }

    /// Ends the operation well with one sentence.
    pub fn done(self, summary: impl Into<String>) {
        self.finish(Ok(OperationOutcome { summary: summary.into(), publish: None }));
    }
}

/// Reports progress only.
#[derive(Debug, Clone)]
pub struct Progress(Option<mpsc::Sender<OperationEvent>>);

impl Progress {
    /// For work that nobody asked for.
    pub fn unheard() -> Self {
        Self(None)
    }

    /// Says that something began or went on.
    pub fn say(&self, step: &str, detail: impl Into<String>) {
        self.say_bytes(step, detail, None, None);
    }

    /// Says how far something that is counted in bytes has come.
    pub fn say_bytes(
        &self,
        step: &str,
        detail: impl Into<String>,
        done_bytes: Option<u64>,
        total_bytes: Option<u64>,
    ) {
        let Some(events) = &self.0 else { return };
        if events.capacity() > 1 {
            let step = step.to_owned();
            let detail = detail.into();
            let progress = OperationProgress { step, detail, done_bytes, total_bytes };
            let _ = events.try_send(OperationEvent::Progress(progress));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_heard_even_by_a_caller_that_never_read() {
        let (sender, mut receiver) = mpsc::channel(4);
        let reporter = Reporter::new(sender);
        for n in 0..100 {
            reporter.progress("step", n.to_string());
        }
        reporter.done("all done");
        let mut last = None;
        while let Ok(event) = receiver.try_recv() {
            last = Some(event);
        }
        assert!(
            matches!(last, Some(OperationEvent::Done(outcome)) if outcome.summary == "all done")
        );
    }
}
