//! Showing the locks of the node, and freeing those of a workload on an operator's word.

use std::sync::Arc;
use std::time::Duration;

use belay_locks::{BreakError, Broken, Look, Record};
use belay_protocol::{
    BreakMode, LockHolder, LockState, LockStatus, OperationOutcome, Problem, ProblemCode,
    WorkloadName,
};
use tokio::sync::oneshot;

use super::NodeTask;
use crate::context::Context;
use crate::problems::with_causes;
use crate::reporter::Reporter;
use crate::workload::{WorkloadCommand, WorkloadHandle};

/// How long a process that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How long an operation of our own may take to come to the end of its step.
const STEP: Duration = Duration::from_secs(60);

impl NodeTask {
    /// Frees the locks of a workload, in a task of its own.
    pub(super) fn break_lock(
        &mut self,
        workload: WorkloadName,
        mode: BreakMode,
        reporter: Reporter,
    ) {
        let context = Arc::clone(&self.context);
        let handle = self.handles.get(&workload).cloned();
        self.acts.spawn(async move {
            let done = tokio::select! {
                done = break_all(&context, &workload, handle.as_ref(), mode, &reporter) => done,
                () = context.shutdown.cancelled() => Err(Problem::new(
                    ProblemCode::ShuttingDown,
                    "belayd ends; its own locks end with it",
                    "try again once belayd runs",
                )),
            };
            reporter.finish(done.map(|summary| OperationOutcome { summary, publish: None }));
        });
    }
}

/// Every lock that is held or was left by an operation that was cut short.
pub(super) fn list(context: &Context) -> Result<Vec<LockStatus>, Problem> {
    let looks = context.locks.list().map_err(|error| unusable(&error))?;
    Ok(looks.iter().map(shown).collect())
}

fn unusable(error: &belay_locks::Unusable) -> Problem {
    Problem::new(
        ProblemCode::LocksUnusable,
        with_causes(error),
        "see that the runtime directory can be read and is left alone",
    )
}

fn shown(look: &Look) -> LockStatus {
    let record = look.holder.as_ref().map_or(look.before.as_deref(), |holder| holder.record());
    LockStatus {
        lock: look.lock.clone(),
        workload: look.workload.as_deref().and_then(|name| name.parse().ok()),
        state: match (&look.holder, look.own) {
            (None, _) => LockState::CutShort,
            (Some(_), true) => LockState::Own,
            (Some(_), false) => LockState::Foreign,
        },
        holder: record.map(holder),
        line: look.line.clone(),
    }
}

fn holder(record: &Record) -> LockHolder {
    LockHolder {
        operation: record.operation.clone(),
        role: record.role.as_str().to_owned(),
        pid: record.pid,
        phase: record.phase.clone(),
    }
}

async fn break_all(
    context: &Context,
    workload: &WorkloadName,
    handle: Option<&WorkloadHandle>,
    mode: BreakMode,
    reporter: &Reporter,
) -> Result<String, Problem> {
    let looks = context.locks.list().map_err(|error| unusable(&error))?;
    let is_held =
        |look: &&Look| look.holder.is_some() && look.workload.as_deref() == Some(workload.as_str());
    let held: Vec<&Look> = looks.iter().filter(is_held).collect();
    let Some(first) = held.first() else {
        return Ok(format!("nobody holds a lock of {workload}"));
    };
    if mode == BreakMode::Explain {
        return Err(Problem::new(
            ProblemCode::LockHeld,
            format!("{} is locked by {}; nobody was ended", first.lock, first.line),
            format!(
                "wait, or end it: belay lock break {workload} --force ends an operation of belayd \
                 between two steps, and asks another process to end before it kills it"
            ),
        ));
    }
    let mut done = Vec::new();
    let mut own = false;
    for look in held {
        let Some(name) = &look.name else { continue };
        tracing::warn!(%workload, lock = %name, "to be freed by an operator; held by {}", look.line);
        let say = |step: &str| reporter.progress("break", step);
        match context.locks.break_lock(name, GRACE, say).await {
            // The end of one process frees all that it held.
            Ok(Broken::WasFree) => {}
            Ok(Broken::Ended { pid }) => done.push(format!("pid {pid} has ended")),
            Ok(Broken::Killed { pid }) => done.push(format!("pid {pid} was killed")),
            Err(BreakError::Own(_)) => own = true,
            Err(error) => return Err(not_broken(&error)),
        }
    }
    if own {
        reporter.progress("break", "asking belayd's own operation to end after its present step");
        let handle = handle.ok_or_else(|| {
            Problem::new(
                ProblemCode::Busy,
                format!("an act on a volume of {workload} is under way in belayd itself"),
                "it is not cut short, which could leave the volume half changed; wait for it",
            )
        })?;
        done.push(cancel(handle).await?);
    }
    Ok(match done.as_slice() {
        [] => format!("the locks of {workload} were let go of meanwhile"),
        done => done.join("; "),
    })
}

/// Has an operation of our own end after its present step.
async fn cancel(handle: &WorkloadHandle) -> Result<String, Problem> {
    let (reply, ended) = oneshot::channel();
    let asked = async {
        handle.commands.send(WorkloadCommand::Cancel { reply }).await.ok()?;
        ended.await.ok()
    };
    match tokio::time::timeout(STEP, asked).await {
        Ok(Some(what)) => what,
        Ok(None) => Ok(format!("{} has just been removed", handle.name)),
        Err(_late) => Err(Problem::new(
            ProblemCode::Busy,
            format!("{} is still in its step after {} s", handle.name, STEP.as_secs()),
            format!("belay explain {} shows which; it is ended after it", handle.name),
        )),
    }
}

fn not_broken(error: &BreakError) -> Problem {
    let next = match error {
        BreakError::Unusable(error) => return unusable(error),
        BreakError::Unproved { .. } => "look at that process and end it yourself",
        BreakError::Own(_) | BreakError::Survived { .. } | BreakError::Signal { .. } => {
            "see what keeps that process: it may wait for a disk that does not answer"
        }
    };
    Problem::new(ProblemCode::LockHeld, with_causes(error), next)
}
