use std::collections::BTreeMap;

use belay_protocol::PublishRequest;
use tokio::sync::watch;

use super::*;

fn target(name: &str) -> PublishTarget {
    PublishTarget {
        workload: name.parse().expect("a name"),
        request: PublishRequest { archive_paths: vec!["/data".into()], metadata: BTreeMap::new() },
    }
}

/// A workload that answers as it is told, and counts the publishes that it was given.
fn workload(
    name: &str,
    check: Result<(), Problem>,
    publish: Result<&'static str, Problem>,
) -> (Part, tokio::task::JoinHandle<u32>) {
    let (commands, mut asked) = mpsc::channel(4);
    let (_, status) = watch::channel(None);
    let target = target(name);
    let handle = WorkloadHandle { name: target.workload.clone(), commands, status };
    let answering = tokio::spawn(async move {
        let mut published = 0;
        while let Some(command) = asked.recv().await {
            match command {
                WorkloadCommand::CheckPublish { reply } => {
                    let _ = reply.send(check.clone());
                }
                WorkloadCommand::Publish { reporter, .. } => {
                    published += 1;
                    match &publish {
                        Ok(summary) => reporter.done(*summary),
                        Err(problem) => reporter.finish(Err(problem.clone())),
                    }
                }
                other => panic!("nothing else is asked: {other:?}"),
            }
        }
        published
    });
    (Part { target, handle: Ok(handle) }, answering)
}

fn stopped(name: &str) -> Problem {
    let detail = format!("{name} is stopped: an operator stopped it");
    Problem::new(ProblemCode::NotRunning, detail, format!("belay start {name}"))
}

fn reporter() -> (Reporter, mpsc::Receiver<OperationEvent>) {
    let (events, told) = mpsc::channel(16);
    (Reporter::new(events), told)
}

#[tokio::test]
async fn one_that_cannot_keeps_all_from_beginning_and_every_one_is_named() {
    let (web, of_web) = workload("web", Ok(()), Ok("never"));
    let (db, of_db) = workload("db", Err(stopped("db")), Ok("never"));
    let (job, of_job) = workload("job", Err(stopped("job")), Ok("never"));
    let (reporter, _told) = reporter();
    let problem = publish(vec![web, db, job], &reporter).await.expect_err("is refused");
    assert_eq!(problem.code, ProblemCode::NotRunning);
    assert_eq!(
        problem.detail,
        "nothing was published: db is stopped: an operator stopped it; job is stopped: an \
         operator stopped it"
    );
    assert_eq!(problem.next, "db: belay start db; job: belay start job");
    for answering in [of_web, of_db, of_job] {
        assert_eq!(answering.await.expect("answers"), 0, "no step of any target");
    }
}

#[tokio::test]
async fn what_can_be_published_is_and_what_fails_is_named_beside_it() {
    let failure = Problem::new(ProblemCode::PublishFailed, "db: upload: no space", "free some");
    let (web, of_web) = workload("web", Ok(()), Ok("web published"));
    let (db, of_db) = workload("db", Ok(()), Err(failure));
    let (reporter, _told) = reporter();
    let problem = publish(vec![web, db], &reporter).await.expect_err("one failed");
    assert_eq!(problem.code, ProblemCode::PublishFailed);
    assert_eq!(problem.detail, "not all were published (web published): db: upload: no space");
    assert_eq!((of_web.await.expect("answers"), of_db.await.expect("answers")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_is_busy_and_nothing_begins() {
    let (web, of_web) = workload("web", Ok(()), Ok("never"));
    let (commands, _never_read) = mpsc::channel(4);
    let (_, status) = watch::channel(None);
    let silent = target("db");
    let handle = WorkloadHandle { name: silent.workload.clone(), commands, status };
    let (reporter, _told) = reporter();
    let parts = vec![web, Part { target: silent, handle: Ok(handle) }];
    let problem = publish(parts, &reporter).await.expect_err("is refused");
    assert_eq!(problem.code, ProblemCode::Busy);
    assert_eq!(problem.detail, "nothing was published: db has not answered within 30 s");
    assert_eq!(of_web.await.expect("answers"), 0);
}

#[test]
fn a_list_that_makes_no_sense_is_refused_as_it_is() {
    let said = |targets: &[PublishTarget]| misshapen(targets).map(|problem| problem.detail);
    assert_eq!(said(&[]).as_deref(), Some("no workload is named"));
    assert_eq!(said(&[target("a"), target("b"), target("a")]).as_deref(), Some("a is named twice"));
    let many: Vec<_> = (0..65).map(|number| target(&format!("w{number}"))).collect();
    assert_eq!(said(&many).as_deref(), Some("65 workloads are named, at most 64 can be"));
    assert_eq!(said(&many[..64]), None);
}
