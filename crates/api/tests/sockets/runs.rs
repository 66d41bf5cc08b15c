//! Runs, runners and waitpoints over both listeners, with the runner server played by the test.

use belay_api::RunnerCommand;
use belay_protocol::runner::{
    Acceptance, CompleteWaitpoint, IssuedToken, MAX_PAYLOAD, RunDetail, RunId, RunLogQuery,
    RunPage, RunQuery, RunState, RunnerStatus, RunnerToken, SubmitRequest, Submitted, TokenRequest,
    WaitpointId, WaitpointPage,
};
use belay_protocol::{LogLine, LogStream, Problem, ProblemCode};
use reqwest::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::node::TestNode;
use super::problem;

fn run() -> RunId {
    RunId::after(None, 7, 7)
}

fn waitpoint() -> WaitpointId {
    WaitpointId::after(None, 8, 8)
}

fn body<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

async fn answer<T: DeserializeOwned>(response: Response) -> T {
    assert_eq!(response.status().as_u16(), 200);
    response.json().await.expect("the documented shape")
}

fn submission(payload: &str) -> SubmitRequest {
    serde_json::from_value(json!({"workload": "mailer", "payload": payload})).expect("a submission")
}

fn detail() -> RunDetail {
    serde_json::from_value(json!({
        "status": {"run": run(), "workload": "mailer", "state": "finished", "attempt": 1,
                   "created_at": "2026-01-01T00:00:00Z", "priority": 0, "max_attempts": 3,
                   "epoch": 1, "ended_at": "2026-01-01T00:00:01Z"},
        "payload": {"invoice": 17}, "output": {"sent": true},
    }))
    .expect("the shape of a run")
}

#[tokio::test]
async fn a_run_is_submitted_with_all_that_was_said_of_it() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let request = json!({
        "workload": "mailer", "payload": {"invoice": 17}, "idempotency_key": "invoice-17",
        "priority": 5, "delay_ms": 1000, "timeout_ms": 60_000, "max_attempts": 2,
    });
    let expected: SubmitRequest = serde_json::from_value(request.clone()).expect("a submission");
    let asked = unix.send_body(Method::POST, "/v1/runs", body(&request));
    let (response, ()) = tokio::join!(asked, async {
        let RunnerCommand::Submit { request, reply } = node.runner_command().await else {
            panic!("a submission");
        };
        assert_eq!(request, expected);
        let submitted = Submitted { run: run(), acceptance: Acceptance::New };
        reply.send(Ok(submitted)).expect("the API waits");
    });
    assert_eq!(answer::<Value>(response).await, json!({"run": run(), "acceptance": "new"}));
    node.end().await;
}

#[tokio::test]
async fn a_payload_of_a_mebibyte_goes_through_and_more_than_two_do_not() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let largest = submission(&"x".repeat(MAX_PAYLOAD - 2));
    let asked = unix.send_body(Method::POST, "/v1/runs", body(&largest));
    let (response, ()) = tokio::join!(asked, async {
        let RunnerCommand::Submit { request, reply } = node.runner_command().await else {
            panic!("a submission");
        };
        assert_eq!(request, largest);
        let submitted = Submitted { run: run(), acceptance: Acceptance::Known };
        reply.send(Ok(submitted)).expect("the API waits");
    });
    assert_eq!(answer::<Value>(response).await["acceptance"], "known");

    let larger = body(&submission(&"x".repeat(2 * MAX_PAYLOAD)));
    let refused = unix.send_body(Method::POST, "/v1/runs", larger).await;
    let refused = problem(refused, ProblemCode::RequestTooLarge).await;
    assert!(refused.detail.contains("longer than 2 MiB"), "{}", refused.detail);
    node.end().await;
}

#[tokio::test]
async fn what_is_no_submission_is_refused_before_anybody_is_asked() {
    let mut node = TestNode::start().await;
    for (wrong, words) in [
        (json!({"payload": 1}), "missing field `workload`"),
        (json!({"workload": "mailer", "prioriti": 1}), "unknown field `prioriti`"),
        (json!({"workload": "Mailer"}), "Mailer"),
        (json!({"workload": "mailer", "delay_ms": -1}), "integer `-1`, expected u64"),
        (json!({"workload": "mailer", "idempotency_key": ""}), "1 to 255 bytes"),
    ] {
        let refused = node.unix().send_body(Method::POST, "/v1/runs", body(&wrong)).await;
        let refused = problem(refused, ProblemCode::InvalidRequest).await;
        assert!(refused.detail.contains(words), "{wrong}: {}", refused.detail);
    }
    for (path, words) in [
        ("/v1/runs/17", "is not a run id"),
        ("/v1/runs?state=done", "expected queued, assigned"),
        ("/v1/waitpoints?run=17", "expected a run's id"),
    ] {
        let refused = problem(node.unix().get(path).await, ProblemCode::InvalidRequest).await;
        assert!(refused.detail.contains(words), "{path}: {}", refused.detail);
    }
    node.close_runners();
    let late = node.unix().get("/v1/runners").await;
    problem(late, ProblemCode::ShuttingDown).await;
    node.end().await;
}

#[tokio::test]
async fn runs_are_listed_shown_and_cancelled() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let path = format!("/v1/runs?workload=mailer&state=finished&before={}&limit=1", run());
    let (response, ()) = tokio::join!(unix.get(&path), async {
        let RunnerCommand::Runs { query, reply } = node.runner_command().await else {
            panic!("a list");
        };
        let expected = RunQuery {
            workload: Some("mailer".parse().expect("a name")),
            states: vec![RunState::Finished],
            before: Some(run()),
            limit: Some(1),
        };
        assert_eq!(query, expected);
        let page = RunPage { runs: vec![detail().status], next: Some(run()) };
        reply.send(Ok(page)).expect("the API waits");
    });
    let page: RunPage = answer(response).await;
    assert_eq!((page.runs, page.next), (vec![detail().status], Some(run())));

    let path = format!("/v1/runs/{}", run());
    let (response, ()) = tokio::join!(unix.get(&path), async {
        let RunnerCommand::Run { run: asked, reply } = node.runner_command().await else {
            panic!("a run");
        };
        assert_eq!(asked, run());
        reply.send(Ok(detail())).expect("the API waits");
    });
    assert_eq!(answer::<RunDetail>(response).await, detail());

    let path = format!("/v1/runs/{}/cancel", run());
    let (response, ()) = tokio::join!(unix.send(Method::POST, &path), async {
        let RunnerCommand::Cancel { run: asked, reply } = node.runner_command().await else {
            panic!("a cancellation");
        };
        assert_eq!(asked, run());
        let ended = Problem::new(ProblemCode::RunEnded, "it is finished", "belay run ls");
        reply.send(Err(ended)).expect("the API waits");
    });
    assert_eq!(problem(response, ProblemCode::RunEnded).await.detail, "it is finished");
    node.end().await;
}

#[tokio::test]
async fn waitpoints_are_listed_and_completed() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let path = format!("/v1/waitpoints?run={}&state=awaited", run());
    let (response, ()) = tokio::join!(unix.get(&path), async {
        let RunnerCommand::Waitpoints { query, reply } = node.runner_command().await else {
            panic!("a list");
        };
        assert_eq!((query.run, query.states.len()), (Some(run()), 1));
        reply.send(Ok(WaitpointPage::default())).expect("the API waits");
    });
    assert_eq!(answer::<WaitpointPage>(response).await, WaitpointPage::default());

    let path = format!("/v1/waitpoints/{}/complete", waitpoint());
    let completion = CompleteWaitpoint { output: json!({"approved": true}) };
    let asked = unix.send_body(Method::POST, &path, body(&completion));
    let (response, ()) = tokio::join!(asked, async {
        let command = node.runner_command().await;
        let RunnerCommand::CompleteWaitpoint { waitpoint: asked, completion: told, reply } =
            command
        else {
            panic!("a completion");
        };
        assert_eq!((asked, told), (waitpoint(), completion.clone()));
        reply.send(Ok(())).expect("the API waits");
    });
    assert_eq!(answer::<Value>(response).await, json!({}));
    node.end().await;
}

#[tokio::test]
async fn runners_are_listed_and_their_tokens_made_and_revoked() {
    let mut node = TestNode::start().await;
    let status: RunnerStatus = serde_json::from_value(json!({
        "runner": "laptop", "workload": "mailer", "origin": "foreign", "activity": "idle",
        "link": "connected",
    }))
    .expect("the shape of a runner");
    for base in [node.unix(), node.tcp()] {
        let (response, ()) = tokio::join!(base.get("/v1/runners"), async {
            let RunnerCommand::Runners { reply } = node.runner_command().await else {
                panic!("a list");
            };
            reply.send(Ok(vec![status.clone()])).expect("the API waits");
        });
        assert_eq!(answer::<Vec<RunnerStatus>>(response).await, std::slice::from_ref(&status));
    }

    let unix = node.unix();
    let request = json!({"runner": "laptop", "workload": "mailer", "ttl_ms": 60_000});
    let issued = IssuedToken {
        token: RunnerToken::from_entropy([7; 32]),
        runner: "laptop".parse().expect("a name"),
        workload: "mailer".parse().expect("a name"),
        expires_at: Some("2026-01-01T00:01:00Z".parse().expect("a time")),
    };
    let asked = unix.send_body(Method::POST, "/v1/runners/tokens", body(&request));
    let (response, ()) = tokio::join!(asked, async {
        let RunnerCommand::IssueToken { request: told, reply } = node.runner_command().await else {
            panic!("a token");
        };
        let expected: TokenRequest = serde_json::from_value(request.clone()).expect("a request");
        assert_eq!(told, expected);
        reply.send(Ok(issued.clone())).expect("the API waits");
    });
    assert_eq!(answer::<IssuedToken>(response).await, issued);

    let (response, ()) =
        tokio::join!(unix.send(Method::DELETE, "/v1/runners/laptop/tokens"), async {
            let RunnerCommand::RevokeTokens { runner, reply } = node.runner_command().await else {
                panic!("a revocation");
            };
            assert_eq!(runner.as_str(), "laptop");
            reply.send(Ok(())).expect("the API waits");
        });
    assert_eq!(answer::<Value>(response).await, json!({}));
    node.end().await;
}

#[tokio::test]
async fn the_loopback_port_shows_runners_and_nothing_of_runs() {
    let node = TestNode::start().await;
    let tcp = node.tcp();
    for (method, path) in [
        (Method::GET, "/v1/runs".to_owned()),
        (Method::POST, "/v1/runs".to_owned()),
        (Method::GET, format!("/v1/runs/{}", run())),
        (Method::POST, format!("/v1/runs/{}/cancel", run())),
        (Method::GET, "/v1/waitpoints".to_owned()),
        (Method::POST, format!("/v1/waitpoints/{}/complete", waitpoint())),
        (Method::POST, "/v1/runners/tokens".to_owned()),
        (Method::DELETE, "/v1/runners/laptop/tokens".to_owned()),
    ] {
        problem(tcp.send(method, &path).await, ProblemCode::ReadOnlyListener).await;
    }
    node.end().await;
}

#[tokio::test]
async fn what_a_run_wrote_comes_line_by_line_and_is_the_operators_alone() {
    let mut node = TestNode::start().await;
    let unix = node.unix();
    let path = format!("/v1/runs/{}/logs", run());
    let followed = format!("{path}?follow&tail=5&after=2026-01-01T00:00:00.5Z");
    let asked = tokio::spawn(async move { unix.get(&followed).await });
    let RunnerCommand::Logs { run: of, query, reply } = node.runner_command().await else {
        panic!("logs");
    };
    let after = "2026-01-01T00:00:00.5Z".parse().ok();
    assert_eq!((of, query), (run(), RunLogQuery { follow: true, tail: Some(5), after }));
    let (lines, receiver) = tokio::sync::mpsc::channel(4);
    reply.send(Ok(receiver)).expect("the API waits");
    let line =
        LogLine { stream: LogStream::Stdout, at: after, text: "sent".into(), container: None };
    lines.send(line.clone()).await.expect("the API reads");
    drop(lines);
    let text = asked.await.expect("no panic").text().await.expect("a body");
    assert_eq!(serde_json::from_str::<LogLine>(text.trim()).expect("a line"), line);

    let wrong = node.unix().get(&format!("{path}?tail=all")).await;
    problem(wrong, ProblemCode::InvalidRequest).await;
    let elsewhere = node.tcp().get(&path).await;
    assert_ne!(elsewhere.status().as_u16(), 200, "runs' output is not for everybody on the host");
    node.end().await;
}
