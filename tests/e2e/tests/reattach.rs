//! Fifty containers, found again.
#![expect(clippy::print_stdout, reason = "how long it took is worth a look")]

use std::time::{Duration, Instant};

use belay_harness::{Node, NodeOptions, is_full, until};
use belay_protocol::WorkloadPhase;
use tokio::task::JoinSet;

/// What the harness allows on a busy machine; the figure itself belongs to the benchmark.
const BOUND: Duration = Duration::from_secs(60);

const COUNT: usize = 50;

fn spec(number: usize) -> String {
    format!(
        "name = \"w{number:02}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
         network = \"none\"\ncommand = [\"/bin/sleep\", \"100000\"]\n\
         [ready]\ninterval = \"100ms\"\n"
    )
}

/// Name, id and start of every container.
async fn containers(node: &Node) -> Vec<(String, Option<belay_protocol::ContainerStatus>)> {
    let status = node.client().status().await.expect("answers");
    let found = status.workloads.into_iter();
    found.map(|workload| (workload.name.to_string(), workload.container)).collect()
}

#[tokio::test]
async fn fifty_containers_are_found_again_as_they_were() {
    let mut node = Node::start(NodeOptions::default()).await;
    let mut deploys = JoinSet::new();
    for number in 0..COUNT {
        let (client, directory) = (node.client().clone(), node.directory().to_owned());
        deploys.spawn(async move { client.deploy(&spec(number), &directory).await });
        // A few at a time: a deploy has its own patience.
        if deploys.len() >= 4 {
            deploys.join_next().await.expect("one").expect("lives").expect("deploys");
        }
    }
    while let Some(deployed) = deploys.join_next().await {
        deployed.expect("lives").expect("deploys");
    }
    let before = containers(&node).await;
    assert_eq!(before.len(), COUNT);
    for round in 0..if is_full() { 10 } else { 2 } {
        node.kill();
        let began = Instant::now();
        node.spawn();
        until("all of them to be ready", BOUND, || async {
            let status = node.client().status().await?;
            let ready = |phase| phase == WorkloadPhase::Ready;
            let count = status.workloads.iter().filter(|w| ready(w.phase)).count();
            if count == COUNT { Ok(()) } else { Err(format!("{count} are")) }
        })
        .await;
        println!("round {round}: {COUNT} found again within {:.2?}", began.elapsed());
        assert_eq!(containers(&node).await, before, "the same containers, not started again");
    }
    node.end().await;
}
