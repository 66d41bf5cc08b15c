//! From the API's questions about runs to the runner server, and from its refusals to problems.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_api::RunnerCommand;
use belay_hosting::RunLogs;
use belay_protocol::runner::{
    CheckpointStatus, DepartureStatus, RunId, RunLogQuery, RunnerId, TokenRequest,
};
use belay_protocol::{LogLine, Problem, ProblemCode};
use belay_runner::{AskError, IssueToken, Refusal, RunnerHandle, TokenLife};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::checkpoints;
use crate::runners::Served;

/// Questions that are answered at a time. Many of them wait for one and the same write, and some
/// follow a log.
const AT_ONCE: usize = 256;
/// Lines of a log that may wait for a slow reader.
const LINES: usize = 256;
/// How long a token is good for unless it is said.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest.
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Answers what is asked about runs, each question on its own.
pub(crate) async fn answer_runs(
    mut commands: mpsc::Receiver<RunnerCommand>,
    served: watch::Receiver<Option<Served>>,
    shutdown: CancellationToken,
) {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv(), if answering.len() < AT_ONCE => match command {
                Some(command) => {
                    let served = served.borrow().clone();
                    answering.spawn(answer(command, served));
                }
                None => break,
            },
            Some(_) = answering.join_next() => {}
            () = shutdown.cancelled() => break,
        }
    }
    // The runner server answers or refuses each until its own end.
    while answering.join_next().await.is_some() {}
}

async fn answer(command: RunnerCommand, served: Option<Served>) {
    let Some(served) = served else { return refuse(command, not_ready()) };
    let Served { runs: runners, logs, checkpoints, travels } = served;
    match command {
        RunnerCommand::Logs { run, query, reply } => {
            show_logs(&runners, &logs, (run, query), reply).await;
        }
        RunnerCommand::Submit { request, reply } => {
            tell(reply, runners.submit(request).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::Cancel { run, reply } => {
            tell(reply, runners.cancel(run).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::Run { run, reply } => {
            let found = runners.run(run).await.map_err(|error| problem(&error));
            tell(reply, found.and_then(|found| found.ok_or_else(|| no_such_run(run))));
        }
        RunnerCommand::Runs { query, reply } => {
            tell(reply, runners.runs(query).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::Runners { reply } => {
            tell(reply, runners.runners().await.map_err(|error| problem(&error)));
        }
        RunnerCommand::Checkpoints { reply } => {
            let departures = runners.departures().await.map_err(|error| problem(&error));
            tell(reply, departures.map(|departures| kept(checkpoints.list(), &departures)));
        }
        RunnerCommand::ExportCheckpoint { runner, to, reply } => {
            checkpoints::export(&travels, runner, to, reply).await;
        }
        RunnerCommand::ImportCheckpoint { mode, pieces, reply } => {
            tell(reply, checkpoints::import(&travels, mode, pieces).await);
        }
        RunnerCommand::ReclaimCheckpoint { runner, reply } => {
            tell(reply, runners.reclaim(runner).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::RemoveCheckpoint { runner, reply } => {
            tell(reply, runners.discard(runner).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::Waitpoints { query, reply } => {
            tell(reply, runners.waitpoints(query).await.map_err(|error| problem(&error)));
        }
        RunnerCommand::CompleteWaitpoint { waitpoint, completion, reply } => {
            let done = runners.complete_waitpoint(waitpoint, completion).await;
            tell(reply, done.map_err(|error| problem(&error)));
        }
        RunnerCommand::IssueToken { request, reply } => match token(request) {
            Ok(token) => tell(reply, runners.issue(token).await.map_err(|error| problem(&error))),
            Err(refused) => tell(reply, Err(refused)),
        },
        RunnerCommand::RevokeTokens { runner, reply } => {
            tell(reply, runners.revoke(runner).await.map_err(|error| problem(&error)));
        }
    }
}

/// Checkpoints with where they are on their way to.
fn kept(
    listed: Vec<CheckpointStatus>,
    departures: &BTreeMap<RunnerId, DepartureStatus>,
) -> Vec<CheckpointStatus> {
    let with_departure = |listed: CheckpointStatus| CheckpointStatus {
        departure: departures.get(&listed.runner).cloned(),
        ..listed
    };
    listed.into_iter().map(with_departure).collect()
}

/// Answers with the lines of a run's log, and goes on until they end or nobody reads them.
async fn show_logs(
    runners: &RunnerHandle,
    logs: &RunLogs<RunnerHandle>,
    (run, query): (RunId, RunLogQuery),
    reply: oneshot::Sender<Result<mpsc::Receiver<LogLine>, Problem>>,
) {
    match runners.run_stints(run).await {
        Ok(Some(_)) => {}
        Ok(None) => return tell(reply, Err(no_such_run(run))),
        Err(error) => return tell(reply, Err(problem(&error))),
    }
    let Some(place) = logs.place() else {
        return tell(
            reply,
            Err(Problem::new(
                ProblemCode::Busy,
                "as many logs of runs are being read as belayd reads at a time",
                "end one that is followed, or try again later",
            )),
        );
    };
    let (sender, lines) = mpsc::channel(LINES);
    if reply.send(Ok(lines)).is_ok() {
        logs.read(run, query, sender, place).await;
    }
}

fn refuse(command: RunnerCommand, why: Problem) {
    match command {
        RunnerCommand::Logs { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Checkpoints { reply } => tell(reply, Err(why)),
        RunnerCommand::RemoveCheckpoint { reply, .. }
        | RunnerCommand::ReclaimCheckpoint { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::ExportCheckpoint { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::ImportCheckpoint { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Submit { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Cancel { reply, .. }
        | RunnerCommand::CompleteWaitpoint { reply, .. }
        | RunnerCommand::RevokeTokens { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Run { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Runs { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::Runners { reply } => tell(reply, Err(why)),
        RunnerCommand::Waitpoints { reply, .. } => tell(reply, Err(why)),
        RunnerCommand::IssueToken { reply, .. } => tell(reply, Err(why)),
    }
}

fn not_ready() -> Problem {
    Problem::new(
        ProblemCode::NodeNotReady,
        "the runner server does not run yet, or not any more; what was accepted is kept",
        "ask again in a few seconds; belay doctor says what is missing",
    )
}

/// A caller that went away needs no answer.
pub(super) fn tell<T>(reply: oneshot::Sender<Result<T, Problem>>, answer: Result<T, Problem>) {
    let _ = reply.send(answer);
}

fn token(request: TokenRequest) -> Result<IssueToken, Problem> {
    let TokenRequest { runner, workload, ttl_ms } = request;
    let life = ttl_ms.map_or(TOKEN_LIFE, Duration::from_millis);
    if life.is_zero() || life > LONGEST_TOKEN_LIFE {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            format!("ttl_ms: found {}, expected 1 ms to 366 days", life.as_millis()),
            "ask for a token with another life, or without one for 30 days",
        ));
    }
    Ok(IssueToken { runner, workload, life: TokenLife::Limited(life) })
}

fn no_such_run(run: RunId) -> Problem {
    problem(&AskError::Refused(Refusal::UnknownRun(run)))
}

pub(super) fn problem(error: &AskError) -> Problem {
    let detail = error.to_string();
    let (code, next) = match error {
        AskError::Refused(refusal) => refused(refusal),
        AskError::Busy => (ProblemCode::Busy, "try again in a few seconds".to_owned()),
        AskError::Unanswered => (
            ProblemCode::Unconfirmed,
            "ask again, a submission under the same idempotency key; belayd's log says what its \
             disk does"
                .to_owned(),
        ),
        AskError::Ended => (
            ProblemCode::ShuttingDown,
            "wait until belayd is back, then ask again, a submission under the same idempotency key"
                .to_owned(),
        ),
    };
    Problem::new(code, detail, &next)
}

fn refused(refusal: &Refusal) -> (ProblemCode, String) {
    match refusal {
        Refusal::UnknownWorkload(workload) => (
            ProblemCode::TakesNoRuns,
            format!(
                "belay status {workload} says whether it is there and runs; a [runner] section \
                     in its spec makes it take runs"
            ),
        ),
        Refusal::KeyTaken { run } => {
            (ProblemCode::KeyTaken, format!("belay run show {run}, or use another key"))
        }
        Refusal::NoAttempts => {
            (ProblemCode::InvalidRequest, "ask for 1 attempt or more".to_owned())
        }
        Refusal::TooLarge { .. } => (
            ProblemCode::RequestTooLarge,
            "store what is that large elsewhere, and send where it lies".to_owned(),
        ),
        Refusal::Full { .. } => (
            ProblemCode::TooManyRuns,
            "submit it again later, under the same idempotency key".to_owned(),
        ),
        Refusal::Draining => {
            (ProblemCode::ShuttingDown, "wait until belayd is back, then ask again".to_owned())
        }
        Refusal::UnknownRun(_) => (ProblemCode::NoSuchRun, "belay run ls".to_owned()),
        Refusal::Ended { run, .. } => (ProblemCode::RunEnded, format!("belay run show {run}")),
        Refusal::UnknownWaitpoint(_) => {
            (ProblemCode::NoSuchWaitpoint, "belay waitpoint ls".to_owned())
        }
        Refusal::ReservedName(_) => {
            (ProblemCode::InvalidRequest, "ask for a token under another name".to_owned())
        }
        Refusal::NoCheckpoint(_) => {
            (ProblemCode::NoSuchCheckpoint, "belay checkpoint ls".to_owned())
        }
        Refusal::Leaving(_) => (
            ProblemCode::CheckpointLeaving,
            "wait until its export has ended; belay checkpoint ls".to_owned(),
        ),
        Refusal::NotLeaving(_) => (ProblemCode::NoSuchCheckpoint, "belay checkpoint ls".to_owned()),
        Refusal::Moved { to, .. } => (
            ProblemCode::RunMoved,
            format!(
                "ask on {to}; belay checkpoint export RUNNER --to {to} writes its archive again, \
                 belay checkpoint reclaim takes back what nobody imported"
            ),
        ),
        Refusal::NotMoved(_) => (ProblemCode::NotExported, "belay checkpoint ls".to_owned()),
        Refusal::CameBefore(_) => (
            ProblemCode::ArchiveTaken,
            "belay run ls shows what became of its run; the archive is worth nothing any more"
                .to_owned(),
        ),
        Refusal::RunHere(run) => (ProblemCode::RunHere, format!("belay run show {run}")),
        Refusal::Lingers(_) => (ProblemCode::Busy, "try again in a minute".to_owned()),
        Refusal::TooLate(_) => (
            ProblemCode::ArchiveExpired,
            "belay checkpoint reclaim takes it back on the node that exported it, as long as it is \
             there"
                .to_owned(),
        ),
        Refusal::CompletedOtherwise(_) => {
            (ProblemCode::WaitpointCompleted, "belay waitpoint ls".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use belay_protocol::runner::WaitpointId;

    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table, one entry a refusal")]
    fn every_refusal_says_what_and_what_to_do() {
        let run = RunId::after(None, 7, 7);
        let waitpoint = WaitpointId::after(None, 8, 8);
        let travel = belay_protocol::runner::TravelId::after(None, 9, 9);
        let mailer: belay_protocol::WorkloadName = "mailer".parse().expect("a name");
        let cases = [
            (
                Refusal::UnknownWorkload(mailer),
                ProblemCode::TakesNoRuns,
                "no workload mailer takes runs".to_owned(),
                "belay status mailer says whether it is there and runs; a [runner] section in its \
                 spec makes it take runs"
                    .to_owned(),
            ),
            (
                Refusal::KeyTaken { run },
                ProblemCode::KeyTaken,
                format!("{run} was submitted under the same idempotency key with other content"),
                format!("belay run show {run}, or use another key"),
            ),
            (
                Refusal::NoAttempts,
                ProblemCode::InvalidRequest,
                "max_attempts must be at least 1".to_owned(),
                "ask for 1 attempt or more".to_owned(),
            ),
            (
                Refusal::TooLarge { size: 2_000_000, limit: 1_048_576 },
                ProblemCode::RequestTooLarge,
                "2000000 bytes of JSON are more than 1048576".to_owned(),
                "store what is that large elsewhere, and send where it lies".to_owned(),
            ),
            (
                Refusal::Full { limit: 100_000 },
                ProblemCode::TooManyRuns,
                "the node keeps 100000 runs, which is as many as it may".to_owned(),
                "submit it again later, under the same idempotency key".to_owned(),
            ),
            (
                Refusal::Draining,
                ProblemCode::ShuttingDown,
                "belayd is ending".to_owned(),
                "wait until belayd is back, then ask again".to_owned(),
            ),
            (
                Refusal::UnknownRun(run),
                ProblemCode::NoSuchRun,
                format!("there is no {run}"),
                "belay run ls".to_owned(),
            ),
            (
                Refusal::Ended { run, state: "finished" },
                ProblemCode::RunEnded,
                format!("{run} is finished"),
                format!("belay run show {run}"),
            ),
            (
                Refusal::UnknownWaitpoint(waitpoint),
                ProblemCode::NoSuchWaitpoint,
                format!("there is no {waitpoint}"),
                "belay waitpoint ls".to_owned(),
            ),
            (
                Refusal::ReservedName("run-7".parse().expect("a name")),
                ProblemCode::InvalidRequest,
                "run-7 is a name as belayd gives them to its own runners: choose one that does \
                 not begin with \"run-\""
                    .to_owned(),
                "ask for a token under another name".to_owned(),
            ),
            (
                Refusal::NoCheckpoint("run-7".parse().expect("a name")),
                ProblemCode::NoSuchCheckpoint,
                "run-7 is not on the disk".to_owned(),
                "belay checkpoint ls".to_owned(),
            ),
            (
                Refusal::Leaving("run-7".parse().expect("a name")),
                ProblemCode::CheckpointLeaving,
                "run-7 is being exported".to_owned(),
                "wait until its export has ended; belay checkpoint ls".to_owned(),
            ),
            (
                Refusal::NotLeaving("run-7".parse().expect("a name")),
                ProblemCode::NoSuchCheckpoint,
                "run-7 is not being exported any more".to_owned(),
                "belay checkpoint ls".to_owned(),
            ),
            (
                Refusal::Moved { run, to: "b".parse().expect("a name") },
                ProblemCode::RunMoved,
                format!("{run} has moved to b"),
                "ask on b; belay checkpoint export RUNNER --to b writes its archive again, belay \
                 checkpoint reclaim takes back what nobody imported"
                    .to_owned(),
            ),
            (
                Refusal::NotMoved("run-7".parse().expect("a name")),
                ProblemCode::NotExported,
                "run-7 was not exported".to_owned(),
                "belay checkpoint ls".to_owned(),
            ),
            (
                Refusal::CameBefore(travel),
                ProblemCode::ArchiveTaken,
                format!("what came by {travel} was imported here before"),
                "belay run ls shows what became of its run; the archive is worth nothing any more"
                    .to_owned(),
            ),
            (
                Refusal::RunHere(run),
                ProblemCode::RunHere,
                format!("{run} is on this node already"),
                format!("belay run show {run}"),
            ),
            (
                Refusal::Lingers("run-7".parse().expect("a name")),
                ProblemCode::Busy,
                "what is left of run-7 is being removed".to_owned(),
                "try again in a minute".to_owned(),
            ),
            (
                Refusal::TooLate(jiff::Timestamp::UNIX_EPOCH),
                ProblemCode::ArchiveExpired,
                "it could be imported until 1970-01-01T00:00:00Z".to_owned(),
                "belay checkpoint reclaim takes it back on the node that exported it, as long as \
                 it is there"
                    .to_owned(),
            ),
            (
                Refusal::CompletedOtherwise(waitpoint),
                ProblemCode::WaitpointCompleted,
                format!("{waitpoint} was completed with another result"),
                "belay waitpoint ls".to_owned(),
            ),
        ];
        for (refusal, code, detail, next) in cases {
            let problem = problem(&AskError::Refused(refusal));
            assert_eq!((problem.code, problem.detail, problem.next), (code, detail, next));
        }
        let unheard = [
            (AskError::Busy, ProblemCode::Busy, "more requests wait than belayd takes"),
            (AskError::Unanswered, ProblemCode::Unconfirmed, "it may have been done all the same"),
            (AskError::Ended, ProblemCode::ShuttingDown, "belayd is ending"),
        ];
        for (error, code, words) in unheard {
            let problem = problem(&error);
            assert_eq!(problem.code, code);
            assert!(problem.detail.contains(words) && !problem.next.is_empty(), "{problem:?}");
        }
    }

    #[tokio::test]
    async fn before_the_runner_server_runs_every_question_is_answered_with_why_not() {
        let run = RunId::after(None, 7, 7);
        let (commands, asked) = mpsc::channel(4);
        let (_server, runners) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let answering = tokio::spawn(answer_runs(asked, runners, shutdown.clone()));
        let (reply, answer) = oneshot::channel();
        commands.send(RunnerCommand::Run { run, reply }).await.expect("it listens");
        let refused = answer.await.expect("it is answered").expect_err("nobody is there");
        assert_eq!(refused.code, ProblemCode::NodeNotReady);
        assert!(refused.detail.contains("does not run yet"), "{}", refused.detail);
        shutdown.cancel();
        answering.await.expect("no panic");
    }

    #[test]
    fn a_token_has_a_life_within_bounds() {
        let request = |ttl_ms| TokenRequest {
            runner: "laptop".parse().expect("a name"),
            workload: "mailer".parse().expect("a name"),
            ttl_ms,
        };
        let life = |ttl_ms| token(request(ttl_ms)).map(|token| token.life);
        assert_eq!(life(None), Ok(TokenLife::Limited(TOKEN_LIFE)));
        assert_eq!(life(Some(1)), Ok(TokenLife::Limited(Duration::from_millis(1))));
        for wrong in [0, 366 * 24 * 3_600_000 + 1, u64::MAX] {
            let refused = life(Some(wrong)).expect_err("out of bounds");
            assert_eq!(refused.code, ProblemCode::InvalidRequest);
            assert!(refused.detail.ends_with("expected 1 ms to 366 days"), "{}", refused.detail);
        }
    }
}
