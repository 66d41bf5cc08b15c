//! Workloads that take runs, with a real belayd, real containers and real checkpoints.

use std::time::Duration;

use belay_harness::{Node, NodeOptions, Refusal};
use belay_protocol::{DesiredState, ProblemCode, VolumeFate, WorkloadPhase};

const SOON: Duration = Duration::from_secs(60);

/// A workload whose runners do nothing.
const IDLE: &str = r#"
name = "work"
image = "file:busybox.tar"
command = ["/bin/sleep", "100000"]
stop_grace = "0s"
[limits]
memory = "32M"
[runner]
"#;

fn problem(refused: Refusal) -> belay_protocol::Problem {
    let Refusal::Problem(problem) = refused else { panic!("{refused:?}") };
    *problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_takes_runs_is_deployed_stopped_and_removed_without_a_container() {
    let mut node = Node::start(NodeOptions::default()).await;
    let client = node.client().clone();
    let deployed = client.deploy(IDLE, node.directory()).await.expect("deploys");
    assert_eq!(deployed.summary, "work is deployed and takes runs");
    let status = client.workload("work").await.expect("is there");
    assert_eq!((status.phase, status.container), (WorkloadPhase::Ready, None));
    assert_eq!(status.reason, "it takes runs");
    let refused =
        problem(client.act("restart", "work").await.expect_err("there is nothing to restart"));
    assert_eq!(refused.code, ProblemCode::RunnerWorkload);
    assert_eq!(refused.detail, "work takes runs: it has no container of its own to restart");
    assert_eq!(refused.next, "belay stop work ends its runners, belay start work has it take runs");

    client.act("stop", "work").await.expect("stops");
    let status = client.wait_for("work", WorkloadPhase::Stopped, SOON).await;
    assert_eq!(status.desired, DesiredState::Stopped);
    let port = std::fs::read_to_string(node.directory().join("state/runner-port"));
    let port = port.expect("a port was chosen");
    node.kill();
    node.launch().await;
    client.wait_for("work", WorkloadPhase::Stopped, SOON).await;
    let again = std::fs::read_to_string(node.directory().join("state/runner-port"));
    assert_eq!(again.expect("is kept"), port);
    client.act("start", "work").await.expect("starts");
    client.wait_for("work", WorkloadPhase::Ready, SOON).await;
    client.remove("work", VolumeFate::Keep).await.expect("removed");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_one_container_is_refused_for_runners() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = format!("{IDLE}[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n");
    let refused =
        problem(node.client().deploy(&spec, node.directory()).await.expect_err("is refused"));
    assert_eq!(refused.code, ProblemCode::InvalidSpec);
    assert!(
        refused.faults[0].to_string().contains("volumes: found it, expected nothing"),
        "{refused:?}"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_workload_becomes_one_that_takes_runs() {
    let node = Node::start(NodeOptions::default()).await;
    let client = node.client();
    let ordinary = "name = \"work\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
                    command = [\"/bin/sleep\", \"100000\"]\n[ready]\ninterval = \"100ms\"\n";
    client.deploy(ordinary, node.directory()).await.expect("deploys");
    assert!(client.workload("work").await.expect("is there").container.is_some());
    client.deploy(IDLE, node.directory()).await.expect("deploys");
    let status = client.workload("work").await.expect("is there");
    assert_eq!((status.phase, status.container), (WorkloadPhase::Ready, None));
    client.deploy(ordinary, node.directory()).await.expect("deploys");
    assert!(client.workload("work").await.expect("is there").container.is_some());
    node.end().await;
}
