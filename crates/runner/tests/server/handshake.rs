//! Handshakes that are refused: each at once, with a status and a problem that says what to do.

use std::time::Duration;

use belay_protocol::runner::RunnerToken;
use belay_runner::{AskError, IssueToken, Refusal, SocketLimits, TokenLife};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use super::rig::{Rig, Setup, name, soon};

fn head(path: &str, lines: &[String]) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: here\r\n{}\r\n\r\n", lines.join("\r\n"))
}

fn upgrade() -> Vec<String> {
    [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: belay.runner.v1",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn what_is_refused_is_refused_with_a_status_and_a_next_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let good = rig.token("mailer-1").await.expose();
    let revoked = rig.token("mailer-3").await.expose();
    rig.handle.revoke("mailer-3".parse().expect("a name")).await.expect("is revoked");
    // The next token that is made would have it forgotten.
    let expired = rig.token_for("mailer-2", TokenLife::Limited(Duration::ZERO)).await.expose();
    let never = RunnerToken::from_entropy([9; 32]).expose();
    let bearer = |token: &str| {
        let mut lines = upgrade();
        lines.push(format!("Authorization: Bearer {token}"));
        lines
    };
    let without = |header: &str| {
        let mut lines = bearer(&good);
        lines.retain(|line| !line.starts_with(header));
        lines
    };
    let path = "/v1/runners/connect";
    for (path, lines, status, code, said) in [
        (path, without("Upgrade"), 400, "invalid-request", "does not ask for one"),
        (path, without("Sec-WebSocket-Protocol"), 400, "invalid-request", "belay.runner.v1"),
        (path, without("Authorization"), 401, "runner-token-refused", "no bearer token"),
        (path, bearer("x"), 401, "runner-token-refused", "not one that belayd makes"),
        (path, bearer(&never), 401, "runner-token-refused", "is not known"),
        (path, bearer(&revoked), 401, "runner-token-refused", "is not known"),
        (path, bearer(&expired), 401, "runner-token-refused", "expired at 2"),
        ("/v1/status", bearer(&good), 404, "no-such-resource", "nothing else is served"),
    ] {
        let (found, problem, _) = rig.refusal(&head(path, &lines)).await;
        assert_eq!(found, status, "{problem}");
        assert_eq!(problem["code"], code);
        assert!(problem["detail"].as_str().expect("text").contains(said), "{problem}");
        assert!(!problem.to_string().contains(&never), "a secret is not repeated");
    }
    rig.stop().await;
}

#[tokio::test]
async fn more_runners_than_the_node_takes_are_asked_to_come_later() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = SocketLimits { connections: 1, ..SocketLimits::default() };
    let rig = Rig::with(dir.path(), Setup { limits, ..Setup::default() }).await;
    let mut first = rig.runner("mailer-1").await;
    let token = rig.token("mailer-2").await;
    let Err(Error::Http(response)) = rig.connect(&token).await else { panic!("no refusal") };
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "10");
    let mut lines = upgrade();
    lines.push(format!("Authorization: Bearer {}", token.expose()));
    let (_, problem, _) = rig.refusal(&head("/v1/runners/connect", &lines)).await;
    assert_eq!(problem["code"], "too-many-runners");
    assert_eq!(problem["detail"], "1 runners are connected, which is as many as this node takes");
    // A place that is left is taken again.
    first.ws.close(None).await.expect("closes");
    let deadline = tokio::time::Instant::now() + super::rig::PATIENCE;
    while rig.connect(&token).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the place is never free");
        tokio::task::yield_now().await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_runner_that_comes_while_belayd_ends_is_asked_to_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let token = rig.token("mailer-1").await.expose();
    let mut lines = upgrade();
    lines.push(format!("Authorization: Bearer {token}"));
    let asked = head("/v1/runners/connect", &lines);
    let (begun, rest) = asked.split_at(asked.len() - 1);
    let mut late = TcpStream::connect(rig.address).await.expect("connects");
    late.write_all(begun.as_bytes()).await.expect("writes");
    // They are accepted in their order, so that one that is answered came after it.
    rig.refusal(&head("/", &[])).await;
    rig.shutdown.cancel();
    late.write_all(rest.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    soon("the refusal", late.read_to_string(&mut answer)).await.expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).expect("a problem");
    assert_eq!(problem["code"], "shutting-down");
    assert_eq!(problem["detail"], "belayd is ending and lets no runner in");
    assert_eq!(problem["next"], "connect again in a second");
    rig.stop().await;
}

#[tokio::test]
async fn tokens_for_names_that_belayd_gives_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let runner: belay_protocol::runner::RunnerId = "run-1".parse().expect("a name");
    let life = TokenLife::Limited(Duration::from_secs(1));
    let asked = IssueToken { runner: runner.clone(), workload: name("mailer"), life };
    let refused = rig.handle.issue(asked).await;
    assert_eq!(refused.err(), Some(AskError::Refused(Refusal::ReservedName(runner))));
    rig.stop().await;
}

#[tokio::test]
async fn a_token_of_a_container_that_is_gone_is_worth_nothing_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let gone = rig.token_for("run-gone-1", TokenLife::Container).await;
    let foreign = rig.token("laptop").await;
    rig.stop().await;
    let rig = Rig::start(dir.path()).await;
    assert!(rig.connect(&gone).await.is_err());
    assert!(rig.connect(&foreign).await.is_ok());
    rig.stop().await;
}
