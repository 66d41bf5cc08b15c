//! Archives on their way to belayd.

use std::time::Duration;

use belay_api::Command;
use belay_protocol::{OperationEvent, Problem, ProblemCode, SyncUpload};
use futures_util::stream;
use reqwest::{Body, Method, StatusCode};

use crate::node::TestNode;
use crate::{done, problem};

const IMPORT: &str = "/v1/workloads/web/sync/import";

#[tokio::test]
async fn an_archive_reaches_belayd_piece_by_piece_with_its_end() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    // More than a body may be elsewhere.
    let body = vec![7; 5 * 1024 * 1024];
    let length = body.len();
    let asked = tokio::spawn(async move { client.send_body(Method::POST, IMPORT, body).await });
    let Command::Import { workload, mut pieces, events } = node.command().await else {
        panic!("an import")
    };
    assert_eq!(workload.as_str(), "web");
    let mut came = 0;
    while let SyncUpload::Bytes(bytes) = pieces.recv().await.expect("an end") {
        came += bytes.len();
    }
    assert_eq!(came, length);
    events.send(done()).await.expect("the API reads");
    assert_eq!(asked.await.expect("no panic").status(), StatusCode::OK);
    node.end().await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let body = vec![7; 64 * 1024 * 1024];
    let asked = tokio::spawn(async move { client.send_body(Method::POST, IMPORT, body).await });
    let Command::Import { pieces, events, .. } = node.command().await else { panic!("an import") };
    drop(pieces);
    let refused = Problem::new(ProblemCode::NoSync, "web is a consumer", "import elsewhere");
    events.send(OperationEvent::Failed(refused)).await.expect("the API reads");
    problem(asked.await.expect("no panic"), ProblemCode::NoSync).await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_half_way_leaves_an_archive_without_an_end() {
    let mut node = TestNode::start().await;
    let client = node.unix();
    let (first, rest) = tokio::sync::oneshot::channel::<()>();
    let body = stream::once(async { Ok::<_, std::io::Error>(vec![7; 1000]) });
    let never = stream::once(async {
        let _ = rest.await;
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let body = Body::wrap_stream(futures_util::StreamExt::chain(body, never));
    let asked = tokio::spawn(async move { client.send_stream(Method::POST, IMPORT, body).await });
    let Command::Import { mut pieces, events, .. } = node.command().await else {
        panic!("an import")
    };
    assert_eq!(pieces.recv().await, Some(SyncUpload::Bytes(vec![7; 1000])));
    drop(first);
    let end = tokio::time::timeout(Duration::from_secs(10), pieces.recv()).await;
    assert_eq!(end.expect("is noticed"), None, "and no end");
    drop(events);
    assert!(asked.await.expect("no panic").is_err());
    node.end().await;
}
