//! Want of memory that ends a process in a container and not the container.

use std::path::Path;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, until};
use belay_protocol::{EventDetails, WorkloadPhase};

/// Longer than the pause between two looks at the control group.
const SOON: Duration = Duration::from_secs(90);

/// Its first process lives on and has another one eat memory when it is told to.
const SPEC: &str = r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "while :; do if [ -e /data/eat ]; then tail /dev/zero; rm /data/eat; fi; sleep 0.1; done"]
stop_grace = "0s"
limits = { memory = "32M" }
[volumes.data]
size = "16M"
mount = "/data"
thin = true
[ready]
interval = "100ms"
"#;

/// `killed` and `total` of each event of this kind.
async fn told(node: &Node) -> Vec<(u64, u64)> {
    let query = "after=0&limit=1000&workload=app&kind=out-of-memory";
    let page = node.client().events(query).await.expect("a page");
    let counts = page.events.into_iter().map(|event| match event.details {
        EventDetails::OutOfMemory { killed, total } => (killed, total),
        other => panic!("{other:?}"),
    });
    counts.collect()
}

/// Has it eat, and waits until the kernel has ended what ate.
async fn eat(order: &Path) {
    std::fs::write(order, "").expect("written");
    until("the process to be ended", SOON, || {
        let left = order.exists().then(|| "it eats".to_owned());
        std::future::ready(left.map_or(Ok(()), Err))
    })
    .await;
}

async fn until_told(node: &Node, wanted: &[(u64, u64)]) {
    until("the ends to be told", SOON, || async {
        let told = told(node).await;
        if told == wanted { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_process_that_the_kernel_ends_is_counted_and_told_once_and_its_container_lives_on() {
    let mut node = Node::start(NodeOptions::default()).await;
    node.client().deploy(SPEC, node.directory()).await.expect("deploys");
    let before = node.client().workload("app").await.expect("is there").container.expect("runs");
    assert_eq!(before.oom_kills, 0);
    let order = node.volume("app", "data").await.join("eat");
    eat(&order).await;
    until_told(&node, &[(1, 1)]).await;
    let after = node.client().workload("app").await.expect("is there");
    let container = after.container.expect("it lives on");
    assert_eq!((&container.id, container.started_at), (&before.id, before.started_at));
    assert_eq!((container.oom_kills, after.restarts), (1, 0));

    // What falls while belayd is away is told by the next one, and nothing twice.
    node.kill();
    eat(&order).await;
    node.launch().await;
    until_told(&node, &[(1, 1), (1, 2)]).await;
    let found = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    let container = found.container.expect("it lives on");
    assert_eq!((container.id, container.oom_kills), (before.id, 2));

    // Another run begins at none.
    node.client().act("restart", "app").await.expect("restarts");
    let found = node.client().workload("app").await.expect("is there");
    assert_eq!(found.container.expect("runs").oom_kills, 0);
    node.end().await;
}
