//! `belay run`, `belay runner` and `belay waitpoint`.

use std::io::Write;
use std::process::Stdio;

use belay_protocol::{Problem, ProblemCode};
use serde_json::{Value, json};

use super::belayd::{Answer, Belayd, belay, parts};

const TRAVEL: &str = "trip_06cp9m2k2g000f0e1d2c3b4a50";
const RUN: &str = "run_06cp9m2k2g000f0e1d2c3b4a50";
const WAITPOINT: &str = "wait_06cp9m34hg000vqtrs6e5c4b20";

fn status(state: &str, more: &Value) -> Value {
    let mut status = json!({
        "run": RUN, "workload": "mailer", "state": state, "created_at": "2026-01-01T00:00:00Z",
        "priority": 0, "attempt": 2, "max_attempts": 3, "epoch": 1,
    });
    let fields = status.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    status
}

fn detail(state: &str, more: &Value) -> Answer {
    let mut detail = json!({"status": status(state, more), "payload": null});
    if state == "finished" {
        detail["output"] = json!({"sent": true});
    }
    Answer::ok(detail.to_string())
}

fn submitted(acceptance: &str) -> Answer {
    Answer::ok(json!({"run": RUN, "acceptance": acceptance}).to_string())
}

#[test]
fn a_run_is_submitted_and_its_id_printed() {
    let belayd = Belayd::answering(vec![submitted("new"), submitted("known")]);
    let plain = parts(&belayd.belay(&["run", "submit", "mailer"]));
    assert_eq!(plain, (Some(0), format!("{RUN}\n"), String::new()));
    let asked = belayd.asked();
    assert_eq!(asked.line, "POST /v1/runs");
    let body: Value = serde_json::from_str(&asked.body).expect("JSON");
    let defaults = json!({"workload": "mailer", "payload": null, "priority": 0, "delay_ms": 0,
                          "max_attempts": 3});
    assert_eq!(body, defaults);

    let (code, stdout, stderr) = parts(&belayd.belay(&[
        "run",
        "submit",
        "mailer",
        "--payload",
        "{\"n\":1}",
        "--key",
        "a b",
        "--priority",
        "-2",
        "--delay",
        "5s",
        "--attempt-timeout",
        "1m",
        "--max-attempts",
        "1",
    ]));
    assert_eq!((code, stdout), (Some(0), format!("{RUN}\n")));
    assert!(stderr.contains("submitted before, under the same key"), "{stderr}");
    let body: Value = serde_json::from_str(&belayd.asked().body).expect("JSON");
    let all = json!({"workload": "mailer", "payload": {"n": 1}, "idempotency_key": "a b",
                     "priority": -2, "delay_ms": 5000, "timeout_ms": 60_000, "max_attempts": 1});
    assert_eq!(body, all);
}

#[test]
fn a_payload_comes_from_a_file_or_from_standard_input() {
    let belayd = Belayd::answering(vec![submitted("new"), submitted("new")]);
    let file = belayd.directory().join("payload.json");
    std::fs::write(&file, "{\n  \"n\": 7\n}\n").expect("writes");
    let file = file.display().to_string();
    let (code, ..) = parts(&belayd.belay(&["run", "submit", "mailer", "--payload-file", &file]));
    assert_eq!(code, Some(0));
    let body: Value = serde_json::from_str(&belayd.asked().body).expect("JSON");
    assert_eq!(body["payload"], json!({"n": 7}));

    let mut child = belay()
        .env("BELAY_SOCKET", belayd.socket())
        .args(["run", "submit", "mailer", "--payload-file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("piped").write_all(b"[1, 2]").expect("writes");
    assert!(child.wait().expect("it ends").success());
    let body: Value = serde_json::from_str(&belayd.asked().body).expect("JSON");
    assert_eq!(body["payload"], json!([1, 2]));
}

#[test]
fn what_is_no_payload_is_refused_before_anything_is_sent() {
    let belayd = Belayd::answering(Vec::new());
    let write = |name: &str, text: &str| {
        let file = belayd.directory().join(name);
        std::fs::write(&file, text).expect("writes");
        file.display().to_string()
    };
    let long = write("long.json", &"1".repeat(2 * 1024 * 1024 + 1));
    for (file, words) in [
        (write("bad.json", "{"), "not JSON"),
        (long, "longer than 2 MiB"),
        (belayd.directory().join("absent").display().to_string(), "No such file"),
    ] {
        let arguments = ["run", "submit", "mailer", "--payload-file", &file];
        let (code, _, stderr) = parts(&belayd.belay(&arguments));
        assert_eq!(code, Some(66), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_run_is_waited_for_to_its_end() {
    let belayd = Belayd::answering(vec![
        submitted("new"),
        detail("executing", &json!({})),
        detail("finished", &json!({})),
    ]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["run", "submit", "mailer", "--wait"]));
    assert_eq!((code, &*stdout), (Some(0), "{\n  \"sent\": true\n}\n"), "{stderr}");
    for line in ["POST /v1/runs", &format!("GET /v1/runs/{RUN}"), &format!("GET /v1/runs/{RUN}")] {
        assert_eq!(belayd.asked().line, line);
    }
    for (answer, code, words) in [
        (detail("failed", &json!({"failure": "no\tmail"})), 1, "failed after 2 attempts: no mail"),
        (detail("cancelled", &json!({})), 1, "was cancelled"),
    ] {
        let belayd = Belayd::answering(vec![answer]);
        let (found, stdout, stderr) = parts(&belayd.belay(&["run", "wait", RUN]));
        assert_eq!((found, &*stdout), (Some(code), ""), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[test]
fn a_wait_is_given_up_when_its_time_is_over() {
    let belayd =
        Belayd::answering(vec![detail("waiting", &json!({})), detail("suspended", &json!({}))]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["run", "wait", RUN, "--timeout", "50ms"]));
    assert_eq!((code, &*stdout), (Some(75), ""), "{stderr}");
    assert!(stderr.contains("is still suspended"), "{stderr}");
}

#[test]
fn questions_ask_for_what_they_say() {
    let runs = json!({"runs": [status("queued", &json!({}))]}).to_string();
    let waitpoints = json!({"waitpoints": []}).to_string();
    let runner = json!([{"runner": "laptop", "workload": "mailer", "origin": "foreign",
                         "activity": "idle", "link": "connected"}]);
    let checkpoints = json!([{"runner": "run-7", "workload": "mailer", "run": RUN, "image": "sha256:1",
        "taken_at": "2026-01-01T00:00:00Z", "bytes": 48_000_000, "digest": "00",
        "taken_with": {"engine": "podman", "engine_version": "4.3.1", "runtime": "runc",
                       "criu": "4.2", "kernel": "6.1"},
        "incompatible": "it was taken by CRIU 4.2, and this host has 4.1 now"}]);
    let exported = json!([{"runner": "run-7", "workload": "mailer", "run": RUN, "image": "sha256:1",
        "taken_at": "2026-01-01T00:00:00Z", "bytes": 48_000_000, "digest": "00",
        "taken_with": {"engine": "podman", "engine_version": "4.3.1", "runtime": "runc",
                       "kernel": "6.1"},
        "departure": {"travel": TRAVEL, "to": "edge-2", "stage": "exported",
                      "until": "2026-01-08T00:00:00Z"}}]);
    let moved = status(
        "moved",
        &json!({"departure": {"travel": TRAVEL, "to": "edge-2", "stage": "exported"}}),
    );
    let moved = json!({"status": moved, "payload": null}).to_string();
    for (arguments, line, body, words) in [
        (
            &["checkpoint", "ls"][..],
            "GET /v1/checkpoints".to_owned(),
            exported.to_string(),
            "podman 4.3.1, runc  exported to edge-2; kept until 2026-01-08 00:00:00Z",
        ),
        (
            &["checkpoint", "reclaim", "run-7", "--yes"],
            "POST /v1/checkpoints/run-7/reclaim".to_owned(),
            json!({"run": RUN}).to_string(),
            "is suspended here again",
        ),
        (&["run", "show", RUN], format!("GET /v1/runs/{RUN}"), moved, "moved to edge-2"),
        (
            &[
                "run",
                "ls",
                "--workload",
                "mailer",
                "--state",
                "queued",
                "--state",
                "waiting",
                "--limit",
                "5",
            ],
            "GET /v1/runs?workload=mailer&state=queued&state=waiting&limit=5".to_owned(),
            runs.clone(),
            "mailer    queued",
        ),
        (&["run", "ls", "-o", "json"], "GET /v1/runs".to_owned(), runs, "\"state\": \"queued\""),
        (
            &["waitpoint", "ls", "--run", RUN, "--state", "awaited"],
            format!("GET /v1/waitpoints?run={RUN}&state=awaited"),
            waitpoints,
            "no waitpoints",
        ),
        (
            &["checkpoint", "ls"],
            "GET /v1/checkpoints".to_owned(),
            checkpoints.to_string(),
            "podman 4.3.1, runc, CRIU 4.2  it was taken by CRIU 4.2",
        ),
        (&["runner", "ls"], "GET /v1/runners".to_owned(), runner.to_string(), "elsewhere"),
        (
            &["run", "cancel", RUN],
            format!("POST /v1/runs/{RUN}/cancel"),
            "{}".to_owned(),
            "is cancelled",
        ),
        (
            &["waitpoint", "complete", WAITPOINT, "--output", "[1]"],
            format!("POST /v1/waitpoints/{WAITPOINT}/complete"),
            "{}".to_owned(),
            "is completed",
        ),
        (
            &["runner", "revoke", "laptop"],
            "DELETE /v1/runners/laptop/tokens".to_owned(),
            "{}".to_owned(),
            "no token of laptop",
        ),
        (
            &["checkpoint", "rm", "run-7"],
            "DELETE /v1/checkpoints/run-7".to_owned(),
            json!({"run": RUN}).to_string(),
            "does not wait in it any more",
        ),
    ] {
        let belayd = Belayd::answering(vec![Answer::ok(body)]);
        let (code, stdout, stderr) = parts(&belayd.belay(arguments));
        assert_eq!((code, &*stderr), (Some(0), ""), "{arguments:?}");
        assert!(stdout.contains(words), "{stdout}");
        assert_eq!(belayd.asked().line, line);
    }
}

#[test]
fn an_archive_is_sent_and_what_came_of_it_is_told() {
    let place = tempfile::tempdir().expect("a directory");
    let trip = place.path().join("trip");
    std::fs::write(&trip, "sealed").expect("written");
    let trip = trip.to_str().expect("a path");
    let answer = |verdict: &str| {
        json!({"verdict": verdict, "travel": TRAVEL, "from": "edge-1", "runner": "run-7",
               "workload": "mailer", "run": RUN, "bytes": 48_000_000})
        .to_string()
    };
    for (arguments, line, verdict, words) in [
        (
            &["checkpoint", "import", trip][..],
            "POST /v1/checkpoints",
            "taken",
            "has come from edge-1 and is suspended: run-7",
        ),
        (
            &["checkpoint", "import", "--check", trip],
            "POST /v1/checkpoints?check=true",
            "would-be-taken",
            "from edge-1 would be taken",
        ),
        (
            &["checkpoint", "import", trip, "--output", "json"],
            "POST /v1/checkpoints",
            "taken",
            "\"verdict\": \"taken\"",
        ),
    ] {
        let belayd = Belayd::answering(vec![Answer::ok(answer(verdict))]);
        let (code, stdout, stderr) = parts(&belayd.belay(arguments));
        assert_eq!((code, &*stderr), (Some(0), ""), "{arguments:?}");
        assert!(stdout.contains(words), "{stdout}");
        let asked = belayd.asked();
        assert_eq!((&*asked.line, &*asked.body), (line, "sealed"));
    }
    let belayd = Belayd::answering(Vec::new());
    let (code, _, stderr) = parts(&belayd.belay(&["checkpoint", "import", "/nothing/there"]));
    assert_eq!(code, Some(66));
    assert!(stderr.contains("cannot read /nothing/there"), "{stderr}");
}

#[test]
fn an_archive_goes_to_standard_output_or_to_a_file_that_is_new() {
    let place = tempfile::tempdir().expect("a directory");
    let trip = place.path().join("trip");
    let trip = trip.to_str().expect("a path");
    let export = ["checkpoint", "export", "run-7", "--to", "edge-2"];
    let belayd = Belayd::answering(vec![Answer::ok("sealed".to_owned())]);
    let (code, stdout, stderr) = parts(&belayd.belay(&export));
    assert_eq!((code, &*stdout), (Some(0), "sealed"));
    assert!(stderr.contains("the run of run-7 is edge-2's now"), "{stderr}");
    assert_eq!(belayd.asked().line, "POST /v1/checkpoints/run-7/export?to=edge-2");

    let to_file = [&export[..], &["--file", trip]].concat();
    let belayd = Belayd::answering(vec![Answer::ok("sealed".to_owned())]);
    assert_eq!(parts(&belayd.belay(&to_file)).0, Some(0));
    assert_eq!(std::fs::read(trip).expect("reads"), b"sealed");
    let (code, _, stderr) = parts(&Belayd::answering(Vec::new()).belay(&to_file));
    assert_eq!(code, Some(64));
    assert!(stderr.contains("is there already"), "{stderr}");
}

#[test]
fn a_run_is_not_taken_back_by_the_way() {
    let belayd = Belayd::answering(Vec::new());
    let (code, _, stderr) = parts(&belayd.belay(&["checkpoint", "reclaim", "run-7"]));
    assert_eq!(code, Some(64));
    assert!(stderr.contains("executes twice") && stderr.contains("--yes"), "{stderr}");
}

#[test]
fn a_token_is_the_only_thing_on_standard_output() {
    let token = format!("belay_runner_{}", "0".repeat(52));
    let issued = json!({"token": token, "runner": "laptop", "workload": "mailer",
                        "expires_at": "2026-01-01T08:00:00Z"});
    let belayd = Belayd::answering(vec![Answer::ok(issued.to_string())]);
    let arguments = ["runner", "token", "laptop", "--workload", "mailer", "--ttl", "8h"];
    let (code, stdout, stderr) = parts(&belayd.belay(&arguments));
    assert_eq!((code, stdout), (Some(0), format!("{token}\n")));
    assert!(stderr.contains("until 2026-01-01 08:00:00Z; it is not shown again"), "{stderr}");
    let asked = belayd.asked();
    assert_eq!(asked.line, "POST /v1/runners/tokens");
    let body: Value = serde_json::from_str(&asked.body).expect("JSON");
    assert_eq!(body, json!({"runner": "laptop", "workload": "mailer", "ttl_ms": 28_800_000}));
}

#[test]
fn refusals_end_the_command_with_their_codes() {
    let problem = Problem::new(ProblemCode::NoSuchRun, "there is none", "belay run ls");
    let status = problem.status;
    let body = serde_json::to_string(&problem).expect("plain data");
    let belayd = Belayd::answering(vec![Answer { status, body }]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["run", "show", RUN]));
    assert_eq!((code, &*stdout), (Some(66), ""));
    assert!(stderr.contains("there is none") && stderr.contains("belay run ls"), "{stderr}");
}

#[test]
fn what_a_run_wrote_is_the_output_and_whose_it_is_is_said_beside_it() {
    let lines = [
        json!({"stream": "notice", "at": "2026-01-01T08:00:00Z", "text": "attempt 1, run-7"}),
        json!({"stream": "stdout", "at": "2026-01-01T08:00:01.5Z", "text": "sent"}),
        json!({"stream": "stderr", "at": "2026-01-01T08:00:02Z", "text": "slowly"}),
    ];
    let body = || lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n";
    let belayd = Belayd::answering(vec![Answer::ok(body())]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["run", "logs", "-n", "20", RUN]));
    assert_eq!((code, &*stdout), (Some(0), "sent\nslowly\n"));
    assert!(stderr.contains("attempt 1, run-7"), "{stderr}");
    assert_eq!(belayd.asked().line, format!("GET /v1/runs/{RUN}/logs?follow=false&tail=20"));

    // One that is followed is gone on with behind the last line, until the run is over.
    let more = json!({"stream": "stdout", "at": "2026-01-01T08:00:03Z", "text": "done"});
    let detail = |ended: Value| {
        let mut status = json!({"run": RUN, "workload": "mailer", "state": "executing",
            "attempt": 1, "created_at": "2026-01-01T08:00:00Z", "priority": 0, "max_attempts": 3,
            "epoch": 1});
        if !ended.is_null() {
            status["state"] = "finished".into();
            status["ended_at"] = ended;
        }
        Answer::ok(json!({"status": status, "payload": null}).to_string())
    };
    let belayd = Belayd::answering(vec![
        Answer::ok(body()),
        detail(Value::Null),
        Answer::ok(format!("{more}\n")),
        detail("2026-01-01T08:00:03Z".into()),
    ]);
    let (code, stdout, stderr) = parts(&belayd.belay(&["run", "logs", "--follow", RUN]));
    assert_eq!((code, &*stdout), (Some(0), "sent\nslowly\ndone\n"), "{stderr}");
    let asked: Vec<String> = (0..4).map(|_| belayd.asked().line).collect();
    assert_eq!(asked[2], format!("GET /v1/runs/{RUN}/logs?follow=true&after=2026-01-01T08:00:02Z"));
}
