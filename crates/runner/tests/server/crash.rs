//! kill -9 of the process that holds the hub and the ledger.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use belay_protocol::runner::{RunId, RunQuery, RunState};
use serde_json::json;

use super::rig::{Rig, submission, success};

const DIRECTORY: &str = "BELAY_RUNNER_CHILD";

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Submits and executes runs from many sides, so that a kill falls between any two effects, and says
/// what it was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "the other process of what_was_answered_survives_kill_9"]
async fn child_that_works_until_killed() {
    let dir = std::env::var_os(DIRECTORY).expect("its parent says where");
    let rig = Arc::new(Rig::start(dir.as_ref()).await);
    let mut tasks = Vec::new();
    for submitter in 0..4 {
        let rig = Arc::clone(&rig);
        tasks.push(tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("{submitter}-{n}-{}", std::process::id());
                let accepted = rig.handle.submit(submission(json!(n), Some(&key))).await;
                say(&format!("accepted {}", accepted.expect("is accepted").run));
            }
        }));
    }
    for runner in 0..4 {
        let rig = Arc::clone(&rig);
        tasks.push(tokio::spawn(async move {
            let mut runner = rig.runner(&format!("mailer-{runner}")).await;
            loop {
                // A run that it held before the kill is told with the welcome; ready lets go of it.
                let id = runner.ask("ready", json!({})).await;
                let mut message = runner.next().await;
                while message["id"] != id {
                    message = runner.next().await;
                }
                let held = runner.assigned().await;
                let started = runner.call("start", held.body()).await;
                let attempt = started["body"]["attempt"].clone();
                let mut body = held.with(success(json!(held.run)));
                body["attempt"] = attempt;
                let answer = runner.call("complete", body).await;
                assert_eq!(answer["body"]["next"]["run"], "finished", "{answer}");
                say(&format!("finished {}", held.run));
            }
        }));
    }
    for task in tasks {
        task.await.expect("works until it is killed");
    }
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut accepted, mut finished) = (BTreeSet::<RunId>::new(), BTreeSet::<RunId>::new());
    for round in 1..=8_usize {
        let mut child = Command::new(std::env::current_exe().expect("this test's own binary"))
            .args(["--exact", "crash::child_that_works_until_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts a child");
        let (had, enough) = (accepted.len(), 20 + 13 * round);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in lines {
            let line = line.expect("reads the child");
            // The harness writes its own words before the first line.
            if let Some((_, run)) = line.split_once("accepted ") {
                accepted.insert(run.parse().expect("an id"));
            } else if let Some((_, run)) = line.split_once("finished ") {
                finished.insert(run.parse().expect("an id"));
            }
            if accepted.len() >= had + enough && round <= finished.len() {
                break;
            }
        }
        child.kill().expect("kills the child that it started");
        child.wait().expect("reaps it");
    }
    assert!(!finished.is_empty(), "some were finished: {}", accepted.len());

    let rig = Rig::start(dir.path()).await;
    let (mut found, mut query) = (BTreeSet::new(), RunQuery::default());
    loop {
        let page = rig.handle.runs(query.clone()).await.expect("is answered");
        found.extend(page.runs.iter().map(|run| run.run));
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let lost: Vec<_> = accepted.difference(&found).collect();
    assert!(lost.is_empty(), "{lost:?} of {}", accepted.len());
    for run in &finished {
        let detail = rig.handle.run(*run).await.expect("is answered").expect("is known");
        assert_eq!(detail.status.state, RunState::Finished, "{run}");
        assert_eq!(detail.output, Some(json!(run.to_string())));
    }
    rig.stop().await;
}
