//! Volumes as a container sees them.

use std::time::Duration;

use belay_harness::{Node, NodeOptions, until};
use belay_protocol::WorkloadPhase;

const SOON: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_container_has_exactly_its_size_and_then_enospc() {
    let node = Node::start(NodeOptions::default()).await;
    // dd says why it ended; what it could write stands in the file's size.
    let spec = r#"
name = "filler"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "dd if=/dev/zero of=/data/fill bs=64k 2> /belay/volume-sync/dd.txt; touch /belay/volume-sync/done; exec sleep 100000"]
stop_grace = "0s"
[volumes.data]
size = "32M"
mount = "/data"
"#;
    node.client().deploy(spec, node.directory()).await.expect("deploys");
    let control = node.volume("filler", "system").await.join("volume-sync");
    until("dd to end", SOON, || async {
        if control.join("done").exists() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let words = std::fs::read_to_string(control.join("dd.txt")).expect("dd wrote why");
    assert!(words.contains("No space left on device"), "{words}");
    let data = node.volume("filler", "data").await;
    let written = std::fs::metadata(data.join("fill")).expect("it is there").len();
    assert!((24 << 20..=32 << 20).contains(&written), "{written} bytes of 32 MiB");

    let status = node.client().status().await.expect("answers");
    let volume = status.volumes.iter().find(|v| v.name.as_str() == "data").expect("is listed");
    assert!(volume.allocated_bytes >= volume.size_bytes, "the reservation is real: {volume:?}");
    let usage = volume.usage.as_ref().expect("it is mounted");
    assert!(!usage.read_only, "a full volume stays writable for what deletes");
    assert_eq!(
        node.client().workload("filler").await.expect("is there").phase,
        WorkloadPhase::Ready
    );
    node.end().await;
}

#[tokio::test]
async fn a_volume_never_shrinks_and_is_kept_when_its_workload_goes() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = |size: &str| {
        format!(
            "name = \"keeper\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
             command = [\"/bin/sleep\", \"100000\"]\n[volumes.data]\nsize = \"{size}\"\nmount = \"/data\"\n"
        )
    };
    node.client().deploy(&spec("24M"), node.directory()).await.expect("deploys");
    std::fs::write(node.volume("keeper", "data").await.join("kept"), "this").expect("writes");
    let refused = node.client().deploy(&spec("16M"), node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert!(problem.detail.contains("a volume never shrinks"), "{problem:?}");

    node.client().remove("keeper", belay_protocol::VolumeFate::Keep).await.expect("removes");
    node.client().deploy(&spec("24M"), node.directory()).await.expect("deploys again");
    let kept = std::fs::read_to_string(node.volume("keeper", "data").await.join("kept"));
    assert_eq!(kept.expect("it is there"), "this");
    node.end().await;
}
