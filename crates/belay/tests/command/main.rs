//! The `belay` program against a socket: what it asks, what it prints, how it ends.

mod belayd;
mod runs;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use belay_protocol::{Finding, Problem, ProblemCode, Verdict};
use belayd::{Answer, Belayd, belay, parts};

const PROGRESS: &str =
    r#"{"event":"progress","step":"fetch image","detail":"page","done_bytes":1,"total_bytes":2}"#;
const DONE: &str = r#"{"event":"done","summary":"web is ready","publish":null}"#;

fn problem(code: ProblemCode) -> Problem {
    Problem::new(code, "web is stopped", "belay start web")
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data")
}

#[test]
fn verbs_ask_for_what_they_say() {
    let publish = r#"{"archive_paths":["/data","/models"],"metadata":{"a":7,"b":"x"}}"#;
    for (arguments, line, body) in [
        (&["start", "web"][..], "POST /v1/workloads/web/start", ""),
        (
            &["start", "web", "--without-content", "--wait", "5"],
            "POST /v1/workloads/web/start?content=ignore&wait=5",
            "",
        ),
        (&["stop", "web"], "POST /v1/workloads/web/stop", ""),
        (&["restart", "web"], "POST /v1/workloads/web/restart", ""),
        (&["rm", "web"], "DELETE /v1/workloads/web?volumes=keep&dependants=refuse", ""),
        (
            &["rm", "--volumes", "web"],
            "DELETE /v1/workloads/web?volumes=delete&dependants=refuse",
            "",
        ),
        (
            &["volume", "grow", "web/data", "64M"],
            "POST /v1/volumes/web/data/grow",
            r#"{"size":"64M"}"#,
        ),
        (
            &["volume", "check", "web/data"],
            "POST /v1/volumes/web/data/check",
            r#"{"mode":"report"}"#,
        ),
        (
            &["volume", "check", "--repair", "web/data"],
            "POST /v1/volumes/web/data/check",
            r#"{"mode":"repair"}"#,
        ),
        (&["volume", "reset", "web/data"], "POST /v1/volumes/web/data/reset", ""),
        (
            &["volume", "rollback", "web/data"],
            "POST /v1/volumes/web/data/rollback",
            r#"{"generation":null}"#,
        ),
        (
            &["volume", "rollback", "web/data", "before"],
            "POST /v1/volumes/web/data/rollback",
            r#"{"generation":"before"}"#,
        ),
        (&["volume", "adopt", "web/data"], "POST /v1/volumes/web/data/adopt", ""),
        (&["volume", "trim", "web/data"], "POST /v1/volumes/web/data/trim", ""),
        (&["volume", "rm", "web/data"], "DELETE /v1/volumes/web/data", ""),
        (
            &[
                "sync",
                "publish",
                "web",
                "/data",
                "/models",
                "--metadata",
                "b=x",
                "--metadata",
                "a=7",
            ],
            "POST /v1/workloads/web/sync/publish",
            publish,
        ),
        (&["sync", "keygen"], "POST /v1/sync/keygen", ""),
        (&["sync", "takeover", "web", "--yes"], "POST /v1/workloads/web/sync/takeover", ""),
        (
            &["sync", "publish", "web", "db", "/data"],
            "POST /v1/sync/publish",
            r#"{"targets":[{"workload":"web","request":{"archive_paths":["/data"],"metadata":{}}},{"workload":"db","request":{"archive_paths":["/data"],"metadata":{}}}]}"#,
        ),
    ] {
        let belayd = Belayd::answering(vec![Answer::ok(format!("{PROGRESS}\n{DONE}\n"))]);
        let (code, stdout, stderr) = parts(&belayd.belay(arguments));
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout, "web is ready\n");
        assert_eq!(stderr, "fetch image: page\n", "a line a step where no terminal is");
        let asked = belayd.asked();
        assert_eq!(asked.line, line);
        assert_eq!(asked.body, body);
    }
}

#[test]
fn deploy_sends_the_spec_with_its_name_and_directory() {
    let belayd = Belayd::answering(vec![Answer::ok(format!("{DONE}\n"))]);
    let file = belayd.directory().join("web.toml");
    std::fs::write(&file, "name = \"web\"\n").expect("writes");
    let output = belay()
        .arg("--socket")
        .arg(belayd.socket())
        .args(["deploy", "web.toml"])
        .current_dir(belayd.directory())
        .output()
        .expect("it runs");
    assert_eq!(parts(&output), (Some(0), "web is ready\n".to_owned(), String::new()));
    let asked = belayd.asked();
    assert_eq!(asked.line, "POST /v1/workloads");
    let body: serde_json::Value = serde_json::from_str(&asked.body).expect("JSON");
    let directory = std::fs::canonicalize(belayd.directory()).expect("it is there");
    assert_eq!(
        body,
        serde_json::json!({
            "spec": "name = \"web\"\n", "file": "web.toml",
            "directory": directory.display().to_string(),
        })
    );
}

#[test]
fn a_publish_shows_what_it_made() {
    let cid = belay_protocol::Cid::from_digest([7; 32]);
    let done = format!(
        r#"{{"event":"done","summary":"published /data","publish":{{"cid":"{cid}","version":9,"seq":3,"bytes":2048,"downtime_ms":412}}}}"#
    );
    let belayd = Belayd::answering(vec![Answer::ok(done + "\n")]);
    let (code, stdout, _) = parts(&belayd.belay(&["sync", "publish", "web", "/data"]));
    assert_eq!(code, Some(0));
    assert_eq!(stdout, format!("published /data\ncid {cid}\nversion 9, record 3\n"));
}

#[test]
fn a_refusal_and_a_late_failure_end_alike() {
    let refused = problem(ProblemCode::NotRunning);
    let late = format!("{PROGRESS}\n{{\"event\":\"failed\",{}\n", &json(&refused)[1..]);
    let answers = [Answer { status: refused.status, body: json(&refused) }, Answer::ok(late)];
    for answer in answers {
        let belayd = Belayd::answering(vec![answer]);
        let (code, stdout, stderr) = parts(&belayd.belay(&["restart", "web"]));
        assert_eq!(code, Some(69));
        assert_eq!(stdout, "");
        let page = "belay: the workload is not running: web is stopped\nnext: belay start web\n";
        assert!(stderr.ends_with(page), "{stderr}");
    }
}

#[test]
fn every_code_ends_with_its_exit_code() {
    for &code in ProblemCode::ALL {
        let problem = problem(code);
        let answer = Answer { status: problem.status, body: json(&problem) };
        let belayd = Belayd::answering(vec![answer]);
        let (exit, _, stderr) = parts(&belayd.belay(&["ps"]));
        assert_eq!(exit, Some(i32::from(code.exit_code())), "{stderr}");
    }
}

#[test]
fn every_fault_of_a_spec_is_listed() {
    let fault = |key: &str| belay_protocol::SpecFault {
        file: "web.toml:3".to_owned(),
        key: key.to_owned(),
        found: "nothing".to_owned(),
        expected: "a size".to_owned(),
        nearest: None,
    };
    let problem = problem(ProblemCode::InvalidSpec).with_faults(vec![fault("a"), fault("b")]);
    let belayd = Belayd::answering(vec![Answer { status: 422, body: json(&problem) }]);
    let file = belayd.directory().join("web.toml");
    std::fs::write(&file, "").expect("writes");
    let (code, _, stderr) = parts(&belayd.belay(&["deploy", &file.display().to_string()]));
    assert_eq!(code, Some(65));
    for key in ["a", "b"] {
        let line = format!("\n  web.toml:3: {key}: found nothing, expected a size\n");
        assert!(stderr.contains(&line), "{stderr}");
    }
}

#[test]
fn without_belayd_it_says_how_to_start_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let absent = directory.path().join("absent.sock");
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    for (socket, why) in [(absent, "there is no socket"), (stale, "nobody answers on")] {
        let output = belay().arg("--socket").arg(&socket).arg("ps").output().expect("it runs");
        let (code, stdout, stderr) = parts(&output);
        assert_eq!((code, stdout.as_str()), (Some(69), ""));
        assert!(stderr.contains(why), "{stderr}");
        assert!(stderr.contains("next: systemctl start belayd"), "{stderr}");
    }
}

#[test]
fn an_answer_that_is_cut_is_not_taken_for_an_end() {
    for body in ["", PROGRESS, "{\"event\":\"pro"] {
        let belayd = Belayd::answering(vec![Answer::ok(body)]);
        let (code, stdout, stderr) = parts(&belayd.belay(&["start", "web"]));
        assert_eq!((code, stdout.as_str()), (Some(69), ""), "{stderr}");
        assert!(stderr.contains("ended its answer early"), "{stderr}");
    }
}

#[test]
fn an_answer_of_another_version_is_named_as_such() {
    let belayd = Belayd::answering(vec![Answer::ok("[{\"nme\":1}]")]);
    let (code, _, stderr) = parts(&belayd.belay(&["ps"]));
    assert_eq!(code, Some(76), "{stderr}");
    let belayd = Belayd::answering(vec![Answer { status: 502, body: "<html>".to_owned() }]);
    let (code, _, stderr) = parts(&belayd.belay(&["ps"]));
    assert_eq!(code, Some(76), "{stderr}");
    assert!(stderr.contains("502"), "{stderr}");
}

#[test]
fn logs_are_shown_as_they_were_written() {
    let lines = "{\"stream\":\"stdout\",\"at\":\"2026-01-01T00:00:00Z\",\"text\":\"one\"}\n\
                 {\"stream\":\"stderr\",\"at\":null,\"text\":\"two\"}\n";
    let gone = Problem::new(ProblemCode::NoSuchWorkload, "there is no workload web", "belay ps");
    let belayd = Belayd::answering(vec![
        Answer::ok(lines),
        Answer::ok(lines),
        Answer { status: 404, body: json(&gone) },
    ]);
    let (code, stdout, _) = parts(&belayd.belay(&["logs", "web", "--tail", "5"]));
    assert_eq!((code, stdout.as_str()), (Some(0), "one\ntwo\n"));
    assert_eq!(
        belayd.asked().line,
        "GET /v1/workloads/web/logs?follow=false&previous=false&tail=5"
    );
    // One that is followed ends with its workload.
    let (code, stdout, _) = parts(&belayd.belay(&["logs", "-f", "-t", "web"]));
    assert_eq!(stdout, "2026-01-01 00:00:00Z one\n-                    two\n");
    assert_eq!(code, Some(0));
    assert_eq!(belayd.asked().line, "GET /v1/workloads/web/logs?follow=true&previous=false");
    assert!(belayd.asked().line.starts_with("GET /v1/workloads/web/logs?follow=true"));
}

#[test]
fn a_list_is_a_table_or_json() {
    let belayd = Belayd::answering(vec![Answer::ok("[]"), Answer::ok("[]")]);
    let (code, stdout, _) = parts(&belayd.belay(&["volume", "ls"]));
    assert_eq!((code, stdout.as_str()), (Some(0), "no volumes\n"));
    let (code, stdout, _) = parts(&belayd.belay(&["volume", "ls", "-o", "json"]));
    assert_eq!((code, stdout.as_str()), (Some(0), "[]\n"));
}

#[test]
fn a_reader_that_went_away_is_no_failure_to_talk_about() {
    let belayd = Belayd::answering(vec![Answer::ok("[]")]);
    let mut command = belay();
    command.env("BELAY_SOCKET", belayd.socket()).args(["ps"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let (code, _, stderr) = parts(&child.wait_with_output().expect("it ends"));
    assert_eq!((code, stderr.as_str()), (Some(141), ""));
}

#[test]
fn a_takeover_without_its_yes_is_refused_with_what_it_costs_and_nothing_is_sent() {
    let belayd = Belayd::answering(vec![]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["sync", "takeover", "web"]));
    assert_eq!((code, stdout.as_str()), (Some(64), ""));
    assert!(
        stderr.contains("what another node published since its last record is lost to consumers"),
        "{stderr}"
    );
    assert!(stderr.contains("see that it is dead or stopped first"), "{stderr}");
    assert!(stderr.contains("belay sync takeover web --yes"), "{stderr}");
}

#[test]
fn usage_and_help_have_their_exit_codes() {
    for (arguments, expected) in [
        (&["--help"][..], 0),
        (&["deploy", "--help"], 0),
        (&["--version"], 0),
        (&[], 64),
        (&["deploy"], 64),
        (&["start", "Not_A_Name"], 64),
        (&["volume", "show", "web"], 64),
        (&["volume", "reset", "web/../other"], 64),
        (&["volume", "grow", "web/data"], 64),
        (&["nothing"], 64),
    ] {
        let output = belay().args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
    }
    let missing = belay().args(["deploy", "/nowhere/web.toml"]).output().expect("it runs");
    assert_eq!(missing.status.code(), Some(66));
}

#[test]
fn the_doctor_passes_on_what_belayd_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let finding = |verdict| Finding {
        subject: "loop devices".to_owned(),
        verdict,
        found: "none".to_owned(),
        advice: "modprobe loop".to_owned(),
    };
    for (verdict, expected) in [(Verdict::Limited, 0), (Verdict::Faulty, 1)] {
        let belayd = directory.path().join("belayd");
        let findings = json(&[finding(verdict)]);
        let script =
            format!("#!/bin/sh\n[ \"$*\" = 'doctor --json' ] && echo '{findings}'\nexit 9\n");
        std::fs::write(&belayd, script).expect("writes");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&belayd, mode).expect("sets the mode");
        let doctor = |format: &str| {
            let mut command = belay();
            command.args(["doctor", "-o", format, "--belayd"]).arg(&belayd);
            parts(&command.output().expect("it runs"))
        };
        let (code, stdout, stderr) = doctor("table");
        assert_eq!(code, Some(expected), "{stderr}");
        assert!(stdout.contains("what to do:\n  loop devices: modprobe loop\n"), "{stdout}");
        let (_, stdout, _) = doctor("json");
        let read: Vec<Finding> = serde_json::from_str(&stdout).expect("findings");
        assert_eq!(read, [finding(verdict)]);
    }
    let silent = belay().args(["doctor", "--belayd", "/bin/true"]).output().expect("it runs");
    assert_eq!(silent.status.code(), Some(76));
    let absent = belay().args(["doctor", "--belayd", "/nowhere"]).output().expect("it runs");
    assert_eq!(absent.status.code(), Some(66));
}
