//! From the API's commands to the node's and the runner server's.

mod checkpoints;
mod runs;

pub(crate) use runs::answer_runs;

use belay_api::{Command, ReadEvents};
use belay_events::EventLog;
use belay_lifecycle::{NodeCommand, Reporter};
use belay_protocol::{Problem, ProblemCode};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Carries commands to the node once there is one; until then each is answered with why not.
pub(crate) async fn carry(
    mut commands: mpsc::Receiver<Command>,
    node: watch::Receiver<Option<mpsc::Sender<NodeCommand>>>,
    shutdown: CancellationToken,
) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = shutdown.cancelled() => return,
        };
        let Some(command) = command else { return };
        let sender = node.borrow().clone();
        match sender {
            Some(sender) => {
                // The node is gone only when belayd ends; dropping the command tells the caller.
                let _ = sender.send(translate(command)).await;
            }
            None => refuse(command),
        }
    }
}

/// Answers what is asked about events. They can be read before there is a node, and while it ends.
pub(crate) async fn read_events(
    mut reads: mpsc::Receiver<ReadEvents>,
    log: EventLog,
    shutdown: CancellationToken,
) {
    loop {
        let read = tokio::select! {
            read = reads.recv() => read,
            () = shutdown.cancelled() => return,
        };
        let Some(ReadEvents { query, reply }) = read else { return };
        let page = log.read(&query).await.map_err(|error| {
            Problem::new(
                ProblemCode::Internal,
                format!("the events cannot be read: {error}"),
                "see that the state directory can be read; belay doctor shows the host",
            )
        });
        // A caller that went away needs no answer.
        let _ = reply.send(page);
    }
}

fn translate(command: Command) -> NodeCommand {
    match command {
        Command::Operate { operation, wait, events } => {
            NodeCommand::Operate { operation, wait, events }
        }
        Command::Locks { reply } => NodeCommand::Locks { reply },
        Command::Logs { workload, query, reply } => NodeCommand::Logs { workload, query, reply },
        Command::Exec { workload, request, input, output, reply } => {
            NodeCommand::Exec { workload, request, input, output, reply }
        }
        Command::AskSync { workload, question, reply } => {
            NodeCommand::AskSync { workload, question, reply }
        }
        Command::Import { workload, pieces, events } => {
            NodeCommand::Import { workload, pieces, events }
        }
        Command::History { workload, reply } => NodeCommand::History { workload, reply },
    }
}

fn refuse(command: Command) {
    let problem = Problem::new(
        ProblemCode::EngineUnreachable,
        "belayd has not reached a container engine since it started",
        "belay doctor says what is missing; belayd keeps trying",
    );
    match command {
        Command::Operate { events, .. } | Command::Import { events, .. } => {
            Reporter::new(events).finish(Err(problem));
        }
        Command::Locks { reply } => {
            let _ = reply.send(Err(problem));
        }
        Command::Logs { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        Command::Exec { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        Command::AskSync { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
        Command::History { reply, .. } => {
            let _ = reply.send(Err(problem));
        }
    }
}
