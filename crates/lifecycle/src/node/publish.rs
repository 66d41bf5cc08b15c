//! One publish of several workloads: all of them are checked before any of them begins.

use std::collections::BTreeSet;
use std::time::Duration;

use belay_protocol::{
    OperationEvent, OperationOutcome, Problem, ProblemCode, PublishTarget, WorkloadName,
};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{NodeTask, deliver};
use crate::reporter::{Progress, Reporter};
use crate::workload::{WorkloadCommand, WorkloadHandle};

/// Workloads that one command may publish.
const TARGETS: usize = 64;

/// Events of one target that may wait to be passed on.
const EVENTS: usize = 16;

/// How long a workload may take to say whether it can publish. One that is being stopped answers
/// when its grace is over.
const ANSWER: Duration = Duration::from_secs(30);

/// One workload of several, with the way to it.
struct Part {
    target: PublishTarget,
    handle: Result<WorkloadHandle, Problem>,
}

impl NodeTask {
    /// Publishes several workloads, or none of them when one cannot.
    pub(super) fn publish_all(&mut self, targets: Vec<PublishTarget>, reporter: Reporter) {
        if let Some(problem) = misshapen(&targets) {
            reporter.finish(Err(problem));
            return;
        }
        let parts = targets
            .into_iter()
            .map(|target| Part { handle: self.find(&target.workload).cloned(), target })
            .collect();
        // Joined with the acts on volumes: each workload is the one to act, this only asks.
        self.acts.spawn(async move {
            let published = publish(parts, &reporter).await;
            reporter.finish(published);
        });
    }
}

/// What is wrong with a list of targets by itself.
fn misshapen(targets: &[PublishTarget]) -> Option<Problem> {
    let refuse = |detail: String| {
        let next = "name each workload once, with its paths: belay sync publish web /data db /data";
        Some(Problem::new(ProblemCode::InvalidRequest, detail, next))
    };
    if targets.is_empty() {
        return refuse("no workload is named".to_owned());
    }
    if targets.len() > TARGETS {
        return refuse(format!("{} workloads are named, at most {TARGETS} can be", targets.len()));
    }
    let mut named = BTreeSet::new();
    let twice = targets.iter().find(|target| !named.insert(&target.workload))?;
    refuse(format!("{} is named twice", twice.workload))
}

async fn publish(parts: Vec<Part>, reporter: &Reporter) -> Result<OperationOutcome, Problem> {
    reporter.progress("check", format!("whether all {} can publish", parts.len()));
    let checked = join_all(parts.into_iter().map(check)).await;
    let (ready, refused): (Vec<_>, Vec<_>) = checked.into_iter().partition(Result::is_ok);
    let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
    if let Some(problem) = together("nothing was published", &refused) {
        return Err(problem);
    }
    let begun = ready.into_iter().filter_map(Result::ok).map(|(target, handle)| {
        let progress = reporter.progress_end();
        async move {
            let name = target.workload.clone();
            (name, publish_one(target, &handle, &progress).await)
        }
    });
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for (name, ended) in join_all(begun).await {
        match ended {
            Ok(outcome) => done.push(outcome.summary),
            Err(problem) => failed.push((name, problem)),
        }
    }
    let what = if done.is_empty() {
        "nothing was published".to_owned()
    } else {
        format!("not all were published ({})", done.join("; "))
    };
    match together(&what, &failed) {
        Some(problem) => Err(problem),
        None => Ok(OperationOutcome { summary: done.join("\n"), publish: None }),
    }
}

/// Asks one workload whether it can publish.
async fn check(part: Part) -> Result<(PublishTarget, WorkloadHandle), (WorkloadName, Problem)> {
    let Part { target, handle } = part;
    let handle = handle.map_err(|problem| (target.workload.clone(), problem))?;
    let (reply, answer) = oneshot::channel();
    deliver(&handle, WorkloadCommand::CheckPublish { reply });
    let answered = tokio::time::timeout(ANSWER, answer).await.ok().and_then(Result::ok);
    match answered {
        Some(Ok(())) => Ok((target, handle)),
        Some(Err(problem)) => Err((target.workload, problem)),
        None => {
            let name = target.workload;
            let problem = Problem::new(
                ProblemCode::Busy,
                format!("{name} has not answered within {} s", ANSWER.as_secs()),
                format!("see what it does: belay status {name}"),
            );
            Err((name, problem))
        }
    }
}

async fn publish_one(
    target: PublishTarget,
    handle: &WorkloadHandle,
    progress: &Progress,
) -> Result<OperationOutcome, Problem> {
    let (events, mut told) = mpsc::channel(EVENTS);
    let name = target.workload;
    let reporter = Reporter::new(events);
    deliver(handle, WorkloadCommand::Publish { request: target.request, reporter });
    while let Some(event) = told.recv().await {
        match event {
            OperationEvent::Progress(step) => {
                progress.say(&step.step, format!("{name}: {}", step.detail));
            }
            OperationEvent::Done(outcome) => return Ok(outcome),
            OperationEvent::Failed(problem) => return Err(problem),
        }
    }
    Err(Problem::new(
        ProblemCode::Internal,
        format!("{name} ended without an answer"),
        format!("see whether it published: belay sync history {name}"),
    ))
}

/// One problem out of several; the first gives the code. `None` out of none.
fn together(what: &str, problems: &[(WorkloadName, Problem)]) -> Option<Problem> {
    let (_, first) = problems.first()?;
    let details: Vec<_> = problems.iter().map(|(_, problem)| problem.detail.as_str()).collect();
    let nexts: Vec<_> =
        problems.iter().map(|(name, problem)| format!("{name}: {}", problem.next)).collect();
    let detail = format!("{what}: {}", details.join("; "));
    Some(Problem::new(first.code, detail, nexts.join("; ")))
}

#[cfg(test)]
mod tests;
