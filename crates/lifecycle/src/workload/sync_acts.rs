//! What an operator asks of volume-sync beside a publish.

use std::sync::Arc;

use belay_protocol::{
    DiffAgainst, EventDetails, OperationOutcome, Problem, ProblemCode, SyncAct, SyncPiece,
    SyncQuestion, SyncRole, VerifyDepth, WorkloadName,
};
use belay_sync::{
    Against, ApplyNowError, AskError, Held, LocalStore, PauseError, RollbackError, RolledBack,
    SyncReader,
};
use tokio::sync::{mpsc, oneshot};

use super::applying::apply_ended;
use super::state::State;
use super::sync::sync_spec;
use super::telling::SyncTeller;
use crate::problems;
use crate::reporter::Reporter;

/// Pieces of an answer that its reader has not taken yet.
const PIECES: usize = 8;
/// Questions of one workload that are answered at one time; each reads from the store.
const QUESTIONS: usize = 4;

impl State {
    /// Hands an act to the sync task, or does it in its place where none runs.
    pub(crate) async fn act_on_sync(&mut self, act: SyncAct, reporter: Reporter) {
        let role = match self.sync_role() {
            Ok(role) => role,
            Err(problem) => return reporter.finish(Err(problem)),
        };
        let name = self.name.clone();
        let handle = self.sync.as_ref().map(|sync| sync.handle.clone());
        let teller = self.sync_teller();
        let Some(handle) = handle else {
            let state_dir = self.context.state_dir(&self.name);
            let state = PauseError::State;
            return reporter.finish(match act {
                SyncAct::Pause => {
                    let done = belay_sync::pause(&state_dir).await.map(drop).map_err(state);
                    tell_paused(&teller, &name, &done);
                    pause_ended(&name, role, done)
                }
                SyncAct::Resume => {
                    let done = belay_sync::resume(&state_dir).await.map_err(state);
                    tell_resumed(&teller, &name, &done);
                    resume_ended(&name, done)
                }
                SyncAct::Apply => apply_ended(&name, Err(ApplyNowError::NoVolumes)),
                SyncAct::Rollback(_) => rollback_ended(&name, Err(RollbackError::NoVolumes)),
            });
        };
        self.answers.spawn(async move {
            reporter.progress(act.verb(), "what is under way comes to its end first");
            reporter.finish(match act {
                SyncAct::Pause => {
                    let done = handle.pause().await.map(drop);
                    tell_paused(&teller, &name, &done);
                    pause_ended(&name, role, done)
                }
                SyncAct::Resume => {
                    let done = handle.resume().await;
                    tell_resumed(&teller, &name, &done);
                    resume_ended(&name, done)
                }
                SyncAct::Apply => apply_ended(&name, handle.apply_now().await),
                SyncAct::Rollback(request) => {
                    let done = handle.roll_back(request.cid).await;
                    tell_rolled_back(&teller, &name, &done);
                    rollback_ended(&name, done)
                }
            });
        });
    }

    /// Answers a question piece by piece, beside whatever else the workload does.
    pub(crate) fn ask_sync(
        &mut self,
        question: SyncQuestion,
        reply: oneshot::Sender<Result<mpsc::Receiver<SyncPiece>, Problem>>,
    ) {
        let reader = match self.sync_reader() {
            Ok(reader) => reader,
            Err(problem) => {
                let _ = reply.send(Err(problem));
                return;
            }
        };
        let name = self.name.clone();
        let layout = self.layout();
        let place = Arc::clone(&self.questions).try_acquire_owned();
        self.answers.spawn(async move {
            let Ok(_place) = place else {
                let _ = reply.send(Err(Problem::new(
                    ProblemCode::Busy,
                    format!("{QUESTIONS} questions about volume-sync of {name} are being answered"),
                    "end one of them, then try again",
                )));
                return;
            };
            let (pieces, answer) = mpsc::channel(PIECES);
            let problem = |error| ask_problem(&name, &error);
            match question {
                SyncQuestion::Show { cid } => {
                    let answered = match reader.show(cid.as_ref(), layout).await {
                        Ok(generation) => {
                            let piece = SyncPiece::Generation(Box::new(generation));
                            // There is room for the one piece.
                            pieces.try_send(piece).ok();
                            Ok(answer)
                        }
                        Err(error) => Err(problem(error)),
                    };
                    let _ = reply.send(answered);
                }
                SyncQuestion::Export { cid } => match reader.export(cid.as_ref()).await {
                    Ok(export) => {
                        let _ = reply.send(Ok(answer));
                        let written = export.write(pieces.clone()).await;
                        end(&name, "export", &pieces, written).await;
                    }
                    Err(error) => {
                        let _ = reply.send(Err(problem(error)));
                    }
                },
                SyncQuestion::Verify { depth } => {
                    let held = match (depth, layout) {
                        (VerifyDepth::Marks, None) => Ok(Held::Nothing),
                        (VerifyDepth::Marks, Some(layout)) => Ok(Held::Marks(layout)),
                        (VerifyDepth::Content, Some(layout)) => Ok(Held::Content(layout)),
                        (VerifyDepth::Content, None) => Err(not_mounted(&name)),
                    };
                    match held {
                        Ok(held) => {
                            let _ = reply.send(Ok(answer));
                            let verified = reader.verify(held, pieces.clone()).await;
                            end(&name, "verify", &pieces, verified).await;
                        }
                        Err(problem) => {
                            let _ = reply.send(Err(problem));
                        }
                    }
                }
                SyncQuestion::Diff { from, to } => {
                    let to = match to {
                        DiffAgainst::Generation(cid) => Ok(Against::Generation(cid)),
                        DiffAgainst::Live => {
                            layout.map(Against::Live).ok_or_else(|| not_mounted(&name))
                        }
                    };
                    let diff = match to {
                        Ok(to) => reader.diff(from.as_ref(), to).await.map_err(problem),
                        Err(problem) => Err(problem),
                    };
                    match diff {
                        Ok(diff) => {
                            let _ = reply.send(Ok(answer));
                            let written = diff.write(pieces.clone()).await;
                            end(&name, "diff", &pieces, written).await;
                        }
                        Err(problem) => {
                            let _ = reply.send(Err(problem));
                        }
                    }
                }
            }
        });
    }

    fn sync_reader(&self) -> Result<SyncReader<LocalStore>, Problem> {
        self.sync_role()?;
        let spec = self.known.as_ref().and_then(|known| sync_spec(&known.spec));
        let spec = spec.ok_or_else(|| self.unknown())?;
        let reader = SyncReader::open(
            self.name.clone(),
            self.context.node.clone(),
            spec,
            &self.context.state_dir(&self.name),
            Arc::clone(&self.context.store),
            self.context.shutdown.child_token(),
        );
        reader.map_err(|error| {
            Problem::new(
                ProblemCode::Internal,
                format!("the state of volume-sync of {} cannot be used: {error}", self.name),
                "see that the state directory can be read and written",
            )
        })
    }

    fn sync_role(&self) -> Result<SyncRole, Problem> {
        let Some(known) = &self.known else { return Err(self.unknown()) };
        known.spec.sync.as_ref().map(|sync| sync.role).ok_or_else(|| {
            Problem::new(
                ProblemCode::NoSync,
                format!("{} has no volume-sync", self.name),
                "add a [sync] table to its spec and deploy it",
            )
        })
    }
}

/// Ends an answer that was given piece by piece.
async fn end(
    name: &WorkloadName,
    what: &str,
    pieces: &mpsc::Sender<SyncPiece>,
    written: Result<(), AskError>,
) {
    let last = match written {
        Ok(()) => SyncPiece::End,
        Err(error) => {
            tracing::warn!(workload = %name, %error, "an answer to sync {what} is cut short");
            SyncPiece::Failed(Box::new(ask_problem(name, &error)))
        }
    };
    // Whoever asked may have gone.
    let _ = pieces.send(last).await;
}

fn not_mounted(name: &WorkloadName) -> Problem {
    Problem::new(
        ProblemCode::NotRunning,
        format!("the volumes of {name} are not mounted"),
        format!("belay start {name}"),
    )
}

/// Places for those who ask.
pub(crate) fn questions() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(QUESTIONS))
}

fn tell_paused(teller: &SyncTeller, name: &WorkloadName, done: &Result<(), PauseError>) {
    if done.is_ok() {
        let message = format!("an operator paused volume-sync of {name}");
        teller.tell(message, EventDetails::SyncPaused {});
    }
}

fn tell_resumed(teller: &SyncTeller, name: &WorkloadName, done: &Result<(), PauseError>) {
    if done.is_ok() {
        let message = format!("an operator had volume-sync of {name} go on");
        teller.tell(message, EventDetails::SyncResumed {});
    }
}

fn tell_rolled_back(
    teller: &SyncTeller,
    name: &WorkloadName,
    done: &Result<RolledBack, RollbackError>,
) {
    if let Ok(RolledBack { cid, left_epoch, left_seq, .. }) = *done {
        let message = format!("an operator took {name} back to {cid}");
        teller.tell(message, EventDetails::SyncRolledBack { cid, left_epoch, left_seq });
    }
}

fn pause_ended(
    name: &WorkloadName,
    role: SyncRole,
    done: Result<(), PauseError>,
) -> Result<OperationOutcome, Problem> {
    let waits = match role {
        SyncRole::Provider => "requests of the app wait",
        SyncRole::Consumer => "new records wait",
    };
    let summary = format!("volume-sync of {name} is paused; {waits} for belay sync resume {name}");
    done.map(|()| OperationOutcome { summary, publish: None })
        .map_err(|error| pause_problem(name, "pause", &error))
}

fn resume_ended(
    name: &WorkloadName,
    done: Result<(), PauseError>,
) -> Result<OperationOutcome, Problem> {
    let summary = format!("volume-sync of {name} goes on");
    done.map(|()| OperationOutcome { summary, publish: None })
        .map_err(|error| pause_problem(name, "resume", &error))
}

fn pause_problem(name: &WorkloadName, verb: &str, error: &PauseError) -> Problem {
    let detail = format!("sync {verb} of {name}: {}", problems::with_causes(error));
    match error {
        PauseError::State(_) => Problem::new(
            ProblemCode::Internal,
            detail,
            "see that the state directory can be written",
        ),
        PauseError::Busy => Problem::new(ProblemCode::Busy, detail, "try again"),
        PauseError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
    }
}

fn rollback_ended(
    name: &WorkloadName,
    done: Result<RolledBack, RollbackError>,
) -> Result<OperationOutcome, Problem> {
    let error = match done {
        Ok(RolledBack { cid, left_epoch, left_seq, downtime }) => {
            let downtime = downtime.map_or_else(String::new, |downtime| {
                format!(", down for {} ms", downtime.as_millis())
            });
            let summary = format!(
                "{name} is back on {cid}{downtime}; what was published since, up to record {left_seq} \
                 of epoch {left_epoch}, is held back until a newer record or belay sync resume {name}"
            );
            return Ok(OperationOutcome { summary, publish: None });
        }
        Err(error) => error,
    };
    let detail = format!("{name}: {error}");
    Err(match error {
        RollbackError::NotConsumer => Problem::new(
            ProblemCode::NoSync,
            detail,
            "go back on a node whose workload is a consumer, or publish the earlier state",
        ),
        RollbackError::Target { .. } => Problem::new(
            ProblemCode::NoSuchGeneration,
            detail,
            format!(
                "belay sync history {name} shows what there was; name one: belay sync rollback \
                     {name} CID"
            ),
        ),
        RollbackError::Newest { .. } => Problem::new(
            ProblemCode::NoSuchGeneration,
            detail,
            format!("belay sync resume {name} ends a rollback and applies the newest"),
        ),
        RollbackError::Failed { .. } => Problem::new(
            ProblemCode::RollbackFailed,
            detail,
            format!(
                "belay sync status shows what holds; belay sync show {name} CID shows whether \
                     the store has the generation"
            ),
        ),
        RollbackError::Busy { .. } => {
            Problem::new(ProblemCode::Busy, detail, "wait for what is under way, then try again")
        }
        RollbackError::Store { .. } => Problem::new(
            ProblemCode::StoreUnavailable,
            detail,
            "see that the store can be reached and read, then try again",
        ),
        RollbackError::NoVolumes => {
            Problem::new(ProblemCode::NotRunning, detail, format!("belay start {name}"))
        }
        RollbackError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
    })
}

/// The problem of a publish while volume-sync is paused.
pub(crate) fn is_paused(name: &WorkloadName) -> Problem {
    Problem::new(
        ProblemCode::SyncPaused,
        format!("volume-sync of {name} is paused, and publishes nothing"),
        format!("belay sync resume {name}"),
    )
}

fn ask_problem(name: &WorkloadName, error: &AskError) -> Problem {
    let detail = format!("{name}: {error}");
    let shown = format!("belay sync history {name} shows what was published and applied here");
    match error {
        AskError::Nothing { .. } | AskError::Unknown { .. } => {
            Problem::new(ProblemCode::NoSuchGeneration, detail, shown)
        }
        AskError::Ambiguous { .. } => Problem::new(
            ProblemCode::NoSuchGeneration,
            detail,
            "name one of them with more characters",
        ),
        AskError::Sealed { .. } => Problem::new(
            ProblemCode::GenerationSealed,
            detail,
            "name this workload's key among the members on the provider, and publish again",
        ),
        AskError::Damaged { .. } => Problem::new(
            ProblemCode::GenerationDamaged,
            detail,
            "publish again on the provider's node; what the volumes hold is not touched",
        ),
        AskError::Unavailable { .. } => Problem::new(
            ProblemCode::StoreUnavailable,
            detail,
            "see that the store can be reached and read, then try again",
        ),
        AskError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let name: WorkloadName = "web".parse().expect("a name");
        let key = || "models".parse().expect("a key");
        let cid = || "bafkr4iaha4d".parse().expect("a beginning");
        for (error, code, words) in [
            (
                AskError::Nothing { key: key() },
                ProblemCode::NoSuchGeneration,
                "nothing is published under models",
            ),
            (
                AskError::Unknown { key: key(), cid: cid() },
                ProblemCode::NoSuchGeneration,
                "the log of models has no record of bafkr4iaha4d",
            ),
            (
                AskError::Ambiguous {
                    cid: cid(),
                    found: [7, 8].map(|n| belay_protocol::Cid::from_digest([n; 32])).to_vec(),
                },
                ProblemCode::NoSuchGeneration,
                "is the beginning of several contents: bafkr4iaha4d",
            ),
            (
                AskError::Sealed { reason: "it is not among its members".into() },
                ProblemCode::GenerationSealed,
                "members",
            ),
            (
                AskError::Damaged { reason: "the stored object is not x".into() },
                ProblemCode::GenerationDamaged,
                "the stored object is not x",
            ),
            (
                AskError::Unavailable { reason: "the store did not answer in time".into() },
                ProblemCode::StoreUnavailable,
                "did not answer",
            ),
            (AskError::ShuttingDown, ProblemCode::ShuttingDown, "shutting down"),
        ] {
            let problem = ask_problem(&name, &error);
            assert_eq!(problem.code, code);
            assert!(problem.detail.starts_with("web: ") && problem.detail.contains(words));
            assert!(!problem.next.is_empty());
        }
        let paused = is_paused(&name);
        assert_eq!(
            (paused.code, &*paused.next),
            (ProblemCode::SyncPaused, "belay sync resume web")
        );
    }

    #[test]
    fn a_pause_says_what_waits() {
        let name: WorkloadName = "web".parse().expect("a name");
        let paused = |role| pause_ended(&name, role, Ok(())).expect("it was written down").summary;
        assert_eq!(
            paused(SyncRole::Provider),
            "volume-sync of web is paused; requests of the app wait for belay sync resume web"
        );
        assert!(paused(SyncRole::Consumer).contains("new records wait"));
        let resumed = resume_ended(&name, Ok(())).expect("it was written down").summary;
        assert_eq!(resumed, "volume-sync of web goes on");
        let refused = pause_ended(&name, SyncRole::Provider, Err(PauseError::Busy));
        assert_eq!(refused.expect_err("refused").code, ProblemCode::Busy);
    }

    #[test]
    fn a_rollback_says_what_is_held_back_and_a_refusal_what_to_do() {
        let name: WorkloadName = "web".parse().expect("a name");
        let cid = belay_protocol::Cid::from_digest([7; 32]);
        let downtime = Some(std::time::Duration::from_millis(71));
        let done = RolledBack { cid, left_epoch: 1, left_seq: 9, downtime };
        let summary = rollback_ended(&name, Ok(done)).expect("went back").summary;
        assert!(summary.contains(", down for 71 ms; what was published since, up to record 9 of"));
        let reason = || "why".to_owned();
        let stage = belay_protocol::control::Stage::Download;
        for (error, code, next) in [
            (RollbackError::NotConsumer, ProblemCode::NoSync, "consumer"),
            (
                RollbackError::Target { reason: reason() },
                ProblemCode::NoSuchGeneration,
                "belay sync rollback web CID",
            ),
            (
                RollbackError::Newest { reason: reason() },
                ProblemCode::NoSuchGeneration,
                "belay sync resume web",
            ),
            (
                RollbackError::Failed { stage, reason: reason() },
                ProblemCode::RollbackFailed,
                "belay sync show web CID",
            ),
            (RollbackError::Busy { reason: reason() }, ProblemCode::Busy, "try again"),
            (RollbackError::Store { reason: reason() }, ProblemCode::StoreUnavailable, "store"),
            (RollbackError::NoVolumes, ProblemCode::NotRunning, "belay start web"),
            (RollbackError::ShuttingDown, ProblemCode::ShuttingDown, "once belayd runs"),
        ] {
            let problem = rollback_ended(&name, Err(error)).expect_err("refused");
            assert_eq!(problem.code, code);
            assert!(problem.next.contains(next), "{}", problem.next);
        }
    }
}
