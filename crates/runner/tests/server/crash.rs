//! kill -9 of the process that holds the hub and the ledger.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use belay_protocol::runner::{CompleteWaitpoint, RunId, RunQuery, RunState, RunnerToken};
use belay_runner::failpoint::{Point, arm};
use serde_json::{Value, json};

use super::rig::{Rig, submission, success};

/// Where the other process has its ledger.
const DIRECTORY: &str = "BELAY_RUNNER_CHILD";
/// At which point it ends, and at which time it is there, as in `1 7`.
const POINT: &str = "BELAY_RUNNER_POINT";

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

/// Does one thing after the other, and says each when it was answered.
#[tokio::test]
#[ignore = "the other process of what_was_answered_survives_an_end_at_every_commit"]
async fn child_that_ends_at_a_commit() {
    let dir = std::env::var_os(DIRECTORY).expect("its parent says where");
    let point = std::env::var(POINT).expect("its parent says when");
    let (point, nth) = point.split_once(' ').expect("two numbers");
    let point: usize = point.parse().expect("a number");
    arm(Point::ALL[point], nth.parse().expect("a number"));
    let rig = Rig::start(dir.as_ref()).await;
    let token = rig.token("mailer-1").await;
    say(&format!("issued {}", token.expose()));
    let mut runner = rig.connect(&token).await.expect("is let in");
    assert_eq!(runner.next().await["type"], "welcome");
    let kept = rig.handle.submit(submission(json!("kept"), Some("one"))).await.expect("is taken");
    say(&format!("accepted {}", kept.run));
    let dropped = rig.handle.submit(submission(json!("dropped"), None)).await.expect("is taken");
    say(&format!("accepted {}", dropped.run));
    let held = runner.take_run().await;
    say(&format!("started {}", held.run));
    let created = runner.call("waitpoint", held.body()).await;
    let waitpoint = created["body"]["waitpoint"].as_str().expect("an id").to_owned();
    say(&format!("opened {} {waitpoint}", held.run));
    let wait = held.with(json!({"wait": {"on": "token", "waitpoint": waitpoint}}));
    assert_eq!(runner.call("suspend", wait).await["type"], "ok");
    say(&format!("waits {}", held.run));
    let completion = CompleteWaitpoint { output: json!("over") };
    let waitpoint = waitpoint.parse().expect("an id");
    rig.handle.complete_waitpoint(waitpoint, completion).await.expect("is taken");
    say(&format!("resumed {}", held.run));
    assert_eq!(runner.next().await["type"], "state");
    rig.handle.cancel(dropped.run).await.expect("is cancelled");
    say(&format!("cancelled {}", dropped.run));
    let answer = runner.call("complete", held.with(success(json!(held.run)))).await;
    assert_eq!(answer["body"]["next"]["run"], "finished", "{answer}");
    say(&format!("finished {}", held.run));
    say("done");
}

/// What the other process was answered, by the word that it said.
fn told(dir: &std::path::Path, point: usize, nth: u32) -> Vec<Vec<String>> {
    let output = Command::new(std::env::current_exe().expect("this test's own binary"))
        .args(["--exact", "crash::child_that_ends_at_a_commit", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir)
        .env(POINT, format!("{point} {nth}"))
        .stderr(Stdio::null())
        .output()
        .expect("runs a child");
    let words = ["issued", "accepted", "started", "opened", "waits", "resumed", "cancelled"];
    let words = [words.as_slice(), &["finished", "done"]].concat();
    let text = String::from_utf8(output.stdout).expect("text");
    let parts = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let lines = text.lines().map(|line| line.rsplit(" ... ").next().map_or(Vec::new(), parts));
    lines.filter(|line| line.first().is_some_and(|word| words.contains(&word.as_str()))).collect()
}

/// How a run may stand that was answered so, and then went on for one step at most.
fn may_stand(word: &str) -> &'static [RunState] {
    use RunState::{Assigned, Cancelled, Executing, Finished, Queued, Waiting};
    match word {
        "accepted" => &[Queued, Assigned, Executing, Cancelled],
        "started" | "opened" => &[Executing, Waiting],
        "waits" => &[Waiting, Executing],
        "resumed" => &[Executing, Finished],
        "cancelled" => &[Cancelled],
        "finished" => &[Finished],
        other => panic!("{other} says nothing of a run"),
    }
}

#[tokio::test]
async fn what_was_answered_survives_an_end_at_every_commit() {
    for point in 0..Point::ALL.len() {
        let mut ends = 0;
        for nth in 1.. {
            let dir = tempfile::tempdir().expect("a directory");
            let told = told(dir.path(), point, nth);
            if told.last().is_some_and(|last| last[0] == "done") {
                break;
            }
            ends += 1;
            let rig = Rig::start(dir.path()).await;
            let mut last = std::collections::BTreeMap::new();
            for line in &told {
                match line[0].as_str() {
                    "issued" => {
                        let token: RunnerToken = line[1].parse().expect("a token");
                        rig.connect(&token).await.expect("a token that was shown is good");
                    }
                    word => {
                        last.insert(line[1].clone(), word);
                    }
                }
            }
            for (run, word) in last {
                let id: RunId = run.parse().expect("an id");
                let detail = rig.handle.run(id).await.expect("is answered");
                let detail = detail.unwrap_or_else(|| panic!("{run} is lost: {told:?}"));
                let state = detail.status.state;
                assert!(may_stand(word).contains(&state), "{run} is {state}: {told:?}");
                if word == "finished" {
                    assert_eq!(detail.output, Some(Value::from(run)));
                }
            }
            rig.stop().await;
        }
        assert!(ends >= 8, "{:?} was reached {ends} times", Point::ALL[point]);
    }
}
