use std::time::Duration;

use belay_protocol::runner::{
    Attempt, Completed, Epoch, NextForRun, Resumed, RunnerToken, SuspensionId, WaitRequest,
    WaitResult,
};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::core::dispatch::{Flight, Stage};
use crate::core::event::{Origin, Owner, PendingRecord};
use crate::core::run::{Exit, Failure, Means, MemoryFate, Run, Settled, Stint, SuspendedWait};
use crate::core::snapshots::Ticket;

fn id(n: u64) -> RunId {
    RunId::after(None, 1_000 + n, n)
}

fn waitpoint(n: u64) -> WaitpointId {
    WaitpointId::after(None, 1_000 + n, n)
}

fn wall(nanos: i128) -> Timestamp {
    Timestamp::from_nanosecond(1_700_000_000_123_456_789 + nanos).expect("in range")
}

fn stint(epoch: u64, until: Option<Timestamp>) -> Stint {
    Stint {
        epoch: Epoch::new(epoch),
        attempt: Attempt::new(1),
        runner: "run-a-1".parse().expect("a name"),
        origin: Origin::Hosted,
        from: wall(5),
        until,
    }
}

fn record(n: u64, phase: Phase) -> RunRecord {
    let submission = Submission {
        workload: "mailer".parse().expect("a name"),
        payload: json!({"invoice": n, "half": 0.5, "words": ["a", null]}),
        idempotency_key: Some(format!("key {n}")),
        priority: -3,
        delay: Duration::from_millis(1),
        timeout: Some(Duration::new(7, 9)),
        max_attempts: 4,
    };
    let run = Run {
        id: id(n),
        submission: Arc::new(submission),
        epoch: Epoch::new(0),
        attempt: Attempt::new(2),
        suspension: SuspensionId::new(3),
        failed_starts: 1,
        waitpoints: BTreeMap::new(),
        phase,
        settled: None,
        failure: None,
        snapshot_failure: None,
        stints: vec![stint(1, Some(wall(9))), Stint { origin: Origin::Foreign, ..stint(2, None) }],
    };
    RunRecord { run, owner: None, pending: None, flight: None }
}

/// One record in each phase, with everything else in it somewhere.
fn records() -> Vec<RunRecord> {
    let runner = || "run-a-1".parse().expect("a name");
    let wait = WaitRequest::Timer { until: wall(5) };
    let token = WaitRequest::Token { waitpoint: waitpoint(1) };
    let completed = WaitResult::Completed { output: json!({"approved": true}) };
    let resumed = Resumed { suspension: SuspensionId::new(3), result: completed.clone() };
    let left = Some(Duration::new(1, 999_999_999));
    let phases = [
        Phase::Queued { not_before: wall(0), fence: Some(runner()) },
        Phase::Assigned,
        Phase::Executing { until: Some(wall(1)), resumed: Some(resumed.clone()) },
        Phase::Executing { until: None, resumed: None },
        Phase::Waiting { suspension: SuspensionId::new(3), wait, left },
        Phase::Suspended {
            suspension: SuspensionId::new(3),
            wait: SuspendedWait::Pending(token),
            left: None,
            means: Means::Checkpoint,
        },
        Phase::Suspended {
            suspension: SuspensionId::new(3),
            wait: SuspendedWait::Over(completed),
            left,
            means: Means::Pause,
        },
        Phase::Restoring { resumed, left },
        Phase::Ended { end: RunEnd::Finished { output: json!([1, "x"]) }, at: wall(2) },
        Phase::Ended { end: RunEnd::Failed, at: wall(3) },
        Phase::Ended { end: RunEnd::Cancelled, at: wall(4) },
    ];
    let failures = [
        Failure::Reported { error: "no".into() },
        Failure::Died(Exit { code: Some(137), memory: MemoryFate::Killed }),
        Failure::Lost,
        Failure::TimedOut,
        Failure::LetGo,
        Failure::NoRunner { reason: "no image".into() },
        Failure::NotStarted,
        Failure::NotRestored { reason: "no criu".into() },
    ];
    let stages = [Stage::Taking, Stage::Aborting, Stage::PuttingBack, Stage::Dropping];
    let mut records: Vec<RunRecord> =
        (0..).zip(phases).map(|(n, phase)| record(n, phase)).collect();
    for (at, record) in records.iter_mut().enumerate() {
        record.run.failure = failures.get(at).cloned();
        record.run.snapshot_failure = (at == 2).then(|| "busy".to_owned());
        let ticket = Ticket {
            run: record.run.id,
            runner: runner(),
            epoch: Epoch::new(8),
            suspension: SuspensionId::new(3),
        };
        record.flight = stages.get(at).map(|&stage| Flight {
            ticket,
            stage,
            failures: 1,
            exit: (at == 0).then(Exit::default),
        });
    }
    records[1].owner = Some(Owner { runner: runner(), origin: Origin::Hosted });
    records[2].owner =
        Some(Owner { runner: "laptop".parse().expect("a name"), origin: Origin::Foreign });
    records[4].pending = Some(PendingRecord {
        epoch: Epoch::new(8),
        suspension: SuspensionId::new(3),
        at: wall(9),
        failures: 2,
    });
    records[5].run.waitpoints =
        BTreeMap::from([(waitpoint(1), None), (waitpoint(2), Some(json!(null)))]);
    let next = NextForRun::Retried { not_before: wall(6) };
    records[0].run.settled =
        Some(Settled { runner: runner(), attempt: Attempt::new(2), answer: Completed { next } });
    records
}

async fn write(ledger: &Ledger, books: &mut Books, writes: Writes) {
    let batch = Arc::new(books.batch(writes).expect("encodes"));
    ledger.commit(&batch).await.expect("commits");
}

fn ledger() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().expect("a directory");
    let (ledger, _) = Ledger::open(&dir.path().join("belay.db")).expect("opens");
    (dir, ledger)
}

#[tokio::test]
async fn every_record_is_read_as_it_was_written() {
    let (_dir, ledger) = ledger();
    let written = records();
    let mut writes = Writes::default();
    for record in &written {
        writes.save(Box::new(record.clone()));
    }
    write(&ledger, &mut Books::default(), writes).await;
    let found = load(&ledger).await.expect("loads");
    assert_eq!(found.records, written);
    assert!(found.lost.is_empty(), "{:?}", found.lost);
}

#[tokio::test]
async fn a_submission_is_written_once_and_stays() {
    let (_dir, ledger) = ledger();
    let mut books = Books::default();
    let mut writes = Writes::default();
    let mut kept = record(1, Phase::Assigned);
    writes.save(Box::new(kept.clone()));
    // A further change in the same commit takes the place of the first, and not of the submission.
    kept.run.epoch = Epoch::new(1);
    writes.save(Box::new(kept.clone()));
    let batch = books.batch(writes).expect("encodes");
    assert_eq!(batch.len(), 2, "the run and its submission");
    ledger.commit(&Arc::new(batch)).await.expect("commits");
    let mut writes = Writes::default();
    kept.run.epoch = Epoch::new(2);
    writes.save(Box::new(kept.clone()));
    let batch = books.batch(writes).expect("encodes");
    assert_eq!(batch.len(), 1, "the run alone");
    ledger.commit(&Arc::new(batch)).await.expect("commits");
    assert_eq!(load(&ledger).await.expect("loads").records, [kept]);
}

#[tokio::test]
async fn what_completed_a_waitpoint_is_written_once_also_after_a_restart() {
    let (_dir, ledger) = ledger();
    let mut kept = record(1, Phase::Assigned);
    kept.run.waitpoints.insert(waitpoint(1), Some(json!("large")));
    let mut writes = Writes::default();
    writes.save(Box::new(kept.clone()));
    write(&ledger, &mut Books::default(), writes).await;
    let mut found = load(&ledger).await.expect("loads");
    kept.run.epoch = Epoch::new(1);
    let mut writes = Writes::default();
    writes.save(Box::new(kept));
    assert_eq!(found.books.batch(writes).expect("encodes").len(), 1);
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_is_forgotten() {
    let (_dir, ledger) = ledger();
    let mut books = Books::default();
    let mut ended =
        record(1, Phase::Ended { end: RunEnd::Finished { output: json!(1) }, at: wall(0) });
    ended.run.waitpoints.insert(waitpoint(1), Some(json!(2)));
    let mut writes = Writes::default();
    writes.save(Box::new(ended));
    write(&ledger, &mut books, writes).await;
    let mut writes = Writes::default();
    writes.forget(id(1));
    write(&ledger, &mut books, writes).await;
    for table in [RUN, SUBMISSION, OUTPUT, WAITPOINT] {
        let left = ledger.load::<Value>(table).await.expect("loads");
        assert!(left.records.is_empty(), "{table}");
    }
}

#[tokio::test]
async fn a_run_without_its_submission_is_told_and_costs_nobody_else() {
    let (_dir, ledger) = ledger();
    let mut writes = Writes::default();
    for n in [1, 2] {
        writes.save(Box::new(record(n, Phase::Assigned)));
    }
    write(&ledger, &mut Books::default(), writes).await;
    ledger.remove(SUBMISSION, &id(1).to_string()).await.expect("removes");
    let found = load(&ledger).await.expect("loads");
    assert_eq!(found.records, [record(2, Phase::Assigned)]);
    assert_eq!(found.lost, [format!("run/{}: its submission is missing", id(1))]);
}

#[tokio::test]
async fn tokens_are_kept_by_their_hashes() {
    let (_dir, ledger) = ledger();
    let token = RunnerToken::from_entropy([5; 32]);
    let hash = TokenHash::of(&token);
    let grant = Grant {
        runner: "laptop".parse().expect("a name"),
        workload: "mailer".parse().expect("a name"),
        origin: Origin::Foreign,
        expires_at: Some(wall(0)),
    };
    let mut writes = Writes::default();
    writes.put_token(hash, grant.clone());
    write(&ledger, &mut Books::default(), writes).await;
    let found = load(&ledger).await.expect("loads");
    assert_eq!(found.tokens, [(hash, grant)]);
    let stored = ledger.load::<Value>(TOKEN).await.expect("loads").records;
    assert!(!format!("{stored:?}").contains(&token.expose()["belay_runner_".len()..]));
    let mut writes = Writes::default();
    writes.remove_token(hash);
    write(&ledger, &mut Books::default(), writes).await;
    assert!(load(&ledger).await.expect("loads").tokens.is_empty());
}
