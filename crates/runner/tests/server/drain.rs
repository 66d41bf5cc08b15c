//! The end of belayd.

use std::time::Duration;

use belay_runner::{AskError, Refusal, SocketLimits};
use serde_json::json;
use tokio::time::Instant;

use super::rig::{Rig, Setup, soon, submission};

#[tokio::test]
async fn runners_are_told_and_let_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::start(dir.path()).await;
    let mut runners = Vec::new();
    for n in 0..20 {
        runners.push(rig.runner(&format!("mailer-{n}")).await);
    }
    let (handle, shutdown) = (rig.handle.clone(), rig.shutdown.clone());
    shutdown.cancel();
    for runner in &mut runners {
        assert_eq!(runner.closed().await, (1001, "draining".to_owned()));
    }
    rig.stop().await;
    let refused = handle.submit(submission(json!(1), None)).await;
    assert!(
        matches!(refused, Err(AskError::Ended | AskError::Refused(Refusal::Draining))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_runner_that_takes_no_leave_does_not_keep_belayd() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = SocketLimits { farewell: Duration::from_millis(100), ..SocketLimits::default() };
    let rig = Rig::with(dir.path(), Setup { limits, ..Setup::default() }).await;
    let deaf = rig.runner("mailer-1").await;
    let began = Instant::now();
    soon("the end", rig.stop()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(deaf);
}
