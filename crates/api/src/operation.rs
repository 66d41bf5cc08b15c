//! One operation on behalf of one client.
//!
//! belayd's events are read by a task of their own, so that a client that reads slowly, or went
//! away, never makes belayd wait: progress that the client has no room for is dropped, the end is
//! kept for it.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use belay_protocol::{Operation, OperationEvent, Problem, ProblemCode};
use futures_util::stream;
use tokio::sync::mpsc;

use crate::answer::{self, Refusal};
use crate::state::{ApiState, Caller, Command};

/// Room for belayd's events; the relay empties it at once.
const EVENTS: usize = 16;

/// Room for lines that the client has not read yet.
const UNREAD: usize = 64;

/// How long the answer's HTTP status is held back for the first event. A refusal comes within
/// milliseconds and becomes a problem document; an operation that is silent for longer is answered
/// by a stream whose last line tells how it ended.
const FIRST_EVENT: Duration = Duration::from_secs(10);

/// How long a client that reads nothing is waited for with the last line.
const LAST_LINE: Duration = Duration::from_secs(30);

/// Hands `operation` to belayd and answers with its events.
pub(crate) async fn carry_out(
    state: &ApiState,
    caller: Caller,
    wait: Option<Duration>,
    operation: Operation,
) -> Response {
    tracing::info!(%caller, operation = name(&operation), workload = about(&operation), "asked for");
    command(state, |events| Command::Operate { operation, wait, events }).await
}

/// Hands a command to belayd that is answered as an operation is.
pub(crate) async fn command(
    state: &ApiState,
    command: impl FnOnce(mpsc::Sender<OperationEvent>) -> Command,
) -> Response {
    let (events, from_belayd) = mpsc::channel(EVENTS);
    if let Err(problem) = state.send(command(events)).await {
        return Refusal::from(problem).into_response();
    }
    let (to_client, mut unread) = mpsc::channel(UNREAD);
    state.operations().spawn(relay(from_belayd, to_client));
    match tokio::time::timeout(FIRST_EVENT, unread.recv()).await {
        Ok(Some(OperationEvent::Failed(problem))) => Refusal::from(problem).into_response(),
        Ok(first) => stream_events(first, unread),
        Err(_silent) => stream_events(None, unread),
    }
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Deploy(_) => "deploy",
        Operation::Start { .. } => "start",
        Operation::Stop { .. } => "stop",
        Operation::Restart { .. } => "restart",
        Operation::Remove { .. } => "remove",
        Operation::ClearOverrides { .. } => "clear-overrides",
        Operation::Publish { .. } | Operation::PublishAll(_) => "publish",
        Operation::Sync { act, .. } => act.verb(),
        Operation::Takeover { .. } => "takeover",
        Operation::SigningKey => "keygen",
        Operation::BreakLock { .. } => "lock break",
        Operation::Volume { act, .. } => act.verb(),
        Operation::Image { act } => act.verb(),
    }
}

/// The workload, or the file that declares it; one word for several.
fn about(operation: &Operation) -> &str {
    match operation {
        Operation::Deploy(request) => &request.file,
        Operation::PublishAll(_) => "several",
        Operation::SigningKey => "node",
        Operation::Start { workload, .. }
        | Operation::Stop { workload }
        | Operation::Restart { workload }
        | Operation::Remove { workload, .. }
        | Operation::ClearOverrides { workload }
        | Operation::Publish { workload, .. }
        | Operation::Takeover { workload }
        | Operation::Sync { workload, .. }
        | Operation::BreakLock { workload, .. }
        | Operation::Volume { workload, .. } => workload.as_str(),
        Operation::Image { act } => act.about(),
    }
}

fn stream_events(
    first: Option<OperationEvent>,
    unread: mpsc::Receiver<OperationEvent>,
) -> Response {
    answer::lines(stream::unfold((first, unread), |(first, mut unread)| async move {
        let event = match first {
            Some(first) => first,
            None => unread.recv().await?,
        };
        Some((event, (None, unread)))
    }))
}

async fn relay(
    mut from_belayd: mpsc::Receiver<OperationEvent>,
    to_client: mpsc::Sender<OperationEvent>,
) {
    let last = loop {
        match from_belayd.recv().await {
            Some(progress @ OperationEvent::Progress(_)) => {
                // A full or closed channel is a slow or lost client; neither concerns belayd.
                let _ = to_client.try_send(progress);
            }
            Some(end @ (OperationEvent::Done(_) | OperationEvent::Failed(_))) => break end,
            None => break OperationEvent::Failed(given_up()),
        }
    };
    let _ = to_client.send_timeout(last, LAST_LINE).await;
}

fn given_up() -> Problem {
    Problem::new(
        ProblemCode::Internal,
        "belayd gave the operation up without saying how it ended",
        "belay status says what holds now; look into belayd's log",
    )
}

#[cfg(test)]
mod tests {
    use belay_protocol::{OperationOutcome, OperationProgress};

    use super::*;

    fn progress(step: usize) -> OperationEvent {
        OperationEvent::Progress(OperationProgress {
            step: format!("step {step}"),
            detail: String::new(),
            done_bytes: None,
            total_bytes: None,
        })
    }

    fn done() -> OperationEvent {
        OperationEvent::Done(OperationOutcome { summary: "done".to_owned(), publish: None })
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_holds_nobody_up_and_still_gets_the_end() {
        let (events, from_belayd) = mpsc::channel(1);
        let (to_client, mut unread) = mpsc::channel(2);
        let relay = tokio::spawn(relay(from_belayd, to_client));
        for step in 0..1000 {
            events.send(progress(step)).await.expect("the relay reads on");
        }
        events.send(done()).await.expect("the relay reads on");
        assert_eq!(unread.recv().await, Some(progress(0)));
        assert_eq!(unread.recv().await, Some(progress(1)));
        assert_eq!(unread.recv().await, Some(done()));
        assert_eq!(unread.recv().await, None);
        relay.await.expect("the relay does not panic");
    }

    #[tokio::test]
    async fn events_are_read_to_the_end_after_the_client_went_away() {
        let (events, from_belayd) = mpsc::channel(1);
        let (to_client, unread) = mpsc::channel(1);
        drop(unread);
        let relay = tokio::spawn(relay(from_belayd, to_client));
        for step in 0..10 {
            events.send(progress(step)).await.expect("the relay reads on");
        }
        events.send(done()).await.expect("the relay reads on");
        relay.await.expect("the relay does not panic");
    }

    #[tokio::test]
    async fn an_operation_that_is_dropped_ends_as_failed() {
        let (events, from_belayd) = mpsc::channel(1);
        let (to_client, mut unread) = mpsc::channel(4);
        drop(events);
        relay(from_belayd, to_client).await;
        assert_eq!(unread.recv().await, Some(OperationEvent::Failed(given_up())));
        assert_eq!(unread.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_the_end_is_given_up() {
        let (events, from_belayd) = mpsc::channel(1);
        let (to_client, _unread) = mpsc::channel(1);
        let relay = tokio::spawn(relay(from_belayd, to_client));
        events.send(progress(0)).await.expect("the relay reads on");
        events.send(done()).await.expect("the relay reads on");
        relay.await.expect("the relay ends by its own deadline");
    }
}
