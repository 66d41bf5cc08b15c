//! Workloads that depend on others: order, waiting, values, refusals.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_harness::{Leavings, Node, NodeOptions, free_port, until};
use belay_protocol::{ProblemCode, VolumeFate, WorkloadPhase, WorkloadStatus};

const SOON: Duration = Duration::from_secs(90);

/// A workload that serves after two seconds, published on all of the host's addresses.
fn slow_server(name: &str, port: u16, needs: &str) -> String {
    format!(
        r#"
name = "{name}"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "sleep 2; touch /tmp/ok; exec httpd -f -p 8080 -h /tmp"]
stop_grace = "0s"
{needs}
[[ports]]
container = 8080
host = {port}
address = "0.0.0.0"
[ready]
http = {{ port = 8080, path = "/ok" }}
interval = "100ms"
"#
    )
}

/// A workload that writes its environment to `/data/env` and stays.
fn reader(name: &str, rest: &str) -> String {
    format!(
        r#"
name = "{name}"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "tr '\\0' '\\1' < /proc/self/environ > /data/env.new; mv /data/env.new /data/env; exec sleep 100000"]
stop_grace = "0s"
{rest}
[volumes.data]
size = "16M"
mount = "/data"
[ready]
interval = "100ms"
"#
    )
}

/// The environment that the reader found.
async fn environment(node: &Node, name: &str) -> BTreeMap<String, String> {
    let file = node.volume(name, "data").await.join("env");
    let text = until("the environment to be written", SOON, || {
        std::future::ready(std::fs::read_to_string(&file).map_err(|error| error.to_string()))
    })
    .await;
    let entries = text.split('\u{1}').filter_map(|entry| entry.split_once('='));
    entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn ready_after(node: &Node, later: &str, earlier: &str) {
    let started = node.client().wait_for(later, WorkloadPhase::Ready, SOON).await;
    let started = started.container.expect("it runs").started_at.expect("it was started");
    let earlier = node.client().workload(earlier).await.expect("is there");
    assert_eq!(earlier.phase, WorkloadPhase::Ready, "{earlier:?}");
    assert!(earlier.since <= started, "{later} was started at {started}, before {earlier:?}");
}

#[tokio::test]
async fn a_chain_of_three_comes_up_in_its_order_at_boot_and_after_a_reboot() {
    let mut node = Node::prepare(NodeOptions::default());
    // Their names sort the other way round.
    for (name, needs) in [
        ("a-web", "depends_on = [\"b-api\", \"c-db\"]"),
        ("b-api", "depends_on = [\"c-db\"]"),
        ("c-db", ""),
    ] {
        let text = slow_server(name, free_port(), needs).replace(
            "file:busybox.tar",
            &format!("file:{}/busybox.tar", node.directory().display()),
        );
        let file = node.directory().join(format!("workloads.d/{name}.toml"));
        std::fs::write(file, text).expect("writes");
    }
    node.launch().await;
    let waits = until("a-web to wait visibly", SOON, || async {
        let found = node.client().workload("a-web").await?;
        let waits = found.phase == WorkloadPhase::Waiting && found.reason.contains("waiting-for");
        if waits { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(waits.container, None, "nothing of it was made: {waits:?}");
    ready_after(&node, "a-web", "b-api").await;
    ready_after(&node, "b-api", "c-db").await;

    // A reboot: nothing runs and nothing is mounted, and the ledger is what is left.
    assert!(node.terminate().await.success());
    Leavings::remove(node.name(), node.directory());
    node.launch().await;
    ready_after(&node, "a-web", "b-api").await;
    ready_after(&node, "b-api", "c-db").await;
    node.end().await;
}

#[tokio::test]
async fn missing_names_and_cycles_are_refused_and_a_needed_workload_is_not_removed() {
    let node = Node::start(NodeOptions::default()).await;
    let deploy = |text: String| {
        let (client, directory) = (node.client().clone(), node.directory().to_owned());
        async move { client.deploy(&text, &directory).await }
    };
    let refused = deploy(reader("web", "depends_on = [\"db\", \"cache\", \"db2\"]")).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::InvalidSpec);
    assert_eq!(problem.faults.len(), 1, "{problem:?}");
    assert_eq!(
        problem.faults[0].to_string(),
        "test.toml: depends_on: found cache, db, db2, which this node does not have, expected \
         workloads of this node; deploy them first"
    );
    assert!(node.client().workload("web").await.is_err(), "nothing was changed");

    let port = free_port();
    deploy(slow_server("db", port, "")).await.expect("deploys");
    deploy(reader("api", "depends_on = [\"db\"]")).await.expect("deploys");
    deploy(reader("web", "depends_on = [\"api\", \"db\"]")).await.expect("deploys");
    let before = node.client().workload("db").await.expect("is there");
    let refused = deploy(slow_server("db", port, "depends_on = [\"web\"]")).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.faults[0].found, "db -> web -> db, a cycle");
    let after = node.client().workload("db").await.expect("is there");
    assert_eq!(after.generation, before.generation);
    let refused =
        deploy(reader("web", "depends_on = [\"db\"]\nenv = { DB = { from = \"db\", port = 81 } }"));
    let problem = refused.await.expect_err("is refused").problem();
    assert_eq!(problem.faults[0].expected, "a TCP port that db publishes: 8080");

    let refused = node.client().remove_unless_needed("db").await.expect_err("is refused").problem();
    assert_eq!(refused.code, ProblemCode::HasDependants);
    assert_eq!(refused.detail, "api, web depend on db and could not be started again without it");
    assert!(refused.next.contains("belay rm --force db"), "{}", refused.next);
    let stopped = node.client().act("stop", "db").await.expect("a stop is not blocked");
    assert_eq!(stopped.summary, "db is stopped; api, web depend on it and are left as they are");
    let api = node.client().workload("api").await.expect("is there");
    assert_eq!(api.phase, WorkloadPhase::Ready, "it runs on: {api:?}");
    let removed = node.client().remove("db", VolumeFate::Delete).await.expect("insisted");
    assert!(removed.summary.ends_with("; api, web depend on it and are left as they are"));
    node.client().act("stop", "api").await.expect("stops");
    let started = node.client().clone();
    let start = tokio::spawn(async move { started.act("start", "api").await });
    let waits = node.client().wait_for("api", WorkloadPhase::Waiting, SOON).await;
    assert_eq!(waits.reason, "waiting-for db: there is no such workload");
    deploy(slow_server("db", port, "")).await.expect("deploys anew");
    start.await.expect("no panic").expect("starts once it is there");
    node.end().await;
}

#[tokio::test]
async fn a_start_waits_for_a_provider_that_is_down_and_says_so_in_time() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&slow_server("db", port, ""), node.directory()).await.expect("deploys");
    node.client().act("stop", "db").await.expect("stops");
    let impatient = reader("api", "[depends_on.db]\ntimeout = \"2s\"");
    let failed = node.client().deploy(&impatient, node.directory()).await;
    let problem = failed.expect_err("is not there").problem();
    assert_eq!(problem.code, ProblemCode::DependencyNotReady, "{problem:?}");
    let detail = "api: waiting-for db: stopped, an operator stopped it; for 2 s now";
    assert_eq!(problem.detail, detail);
    let waits = node.client().wait_for("api", WorkloadPhase::Waiting, SOON).await;
    assert_eq!(waits.container, None);
    let awaited = waits.depends_on[0].awaited.as_deref();
    assert_eq!(awaited, Some("stopped, an operator stopped it"));

    node.client().act("start", "db").await.expect("starts");
    let up = node.client().wait_for("api", WorkloadPhase::Ready, SOON).await;
    // A deploy that does not get what it waits for leaves the version before.
    node.client().act("stop", "db").await.expect("stops");
    let other = impatient.replace("[volumes.data]", "[env]\nNEW = 1\n[volumes.data]");
    let failed = node.client().deploy(&other, node.directory()).await;
    let problem = failed.expect_err("is not there").problem();
    assert_eq!(problem.code, ProblemCode::DependencyNotReady, "{problem:?}");
    assert!(problem.detail.ends_with("generation 1 was restored and is ready"), "{problem:?}");
    let after = node.client().wait_for("api", WorkloadPhase::Ready, SOON).await;
    assert_eq!(after.container, up.container, "it was never stopped");
    node.end().await;
}

/// Its container and when that was started.
fn started(status: &WorkloadStatus) -> (String, String) {
    let container = status.container.as_ref().expect("it has one");
    (container.id.clone(), format!("{:?}", container.started_at))
}

#[tokio::test]
async fn values_reach_the_consumer_and_it_is_started_anew_only_when_they_change() {
    let node = Node::start(NodeOptions::default()).await;
    let (one, two) = (free_port(), free_port());
    node.client().deploy(&slow_server("my-db", one, ""), node.directory()).await.expect("deploys");
    let odd =
        "EMPTY = \"\"\nEQUALS = \"a=b=\"\nLINES = \"one\\ntwo\"\nWORD = \"\u{e9}\u{1f980}\"\n";
    let api = reader(
        "api",
        &format!(
            "depends_on = [\"my-db\"]\nnetwork = \"host\"\n[env]\n{odd}\
             DB = {{ from = \"my-db\", port = 8080 }}\n\
             DB_PORT = {{ from = \"my-db\", port = 8080, value = \"port\" }}"
        ),
    );
    node.client().deploy(&api, node.directory()).await.expect("deploys");
    let env = environment(&node, "api").await;
    for (name, value) in [
        ("BELAY_DEP_MY_DB_NAME", "my-db".to_owned()),
        ("BELAY_DEP_MY_DB_HOST", "127.0.0.1".to_owned()),
        ("BELAY_DEP_MY_DB_PORT", one.to_string()),
        ("BELAY_DEP_MY_DB_PORT_8080", one.to_string()),
        ("DB", format!("127.0.0.1:{one}")),
        ("DB_PORT", one.to_string()),
        ("EMPTY", String::new()),
        ("EQUALS", "a=b=".to_owned()),
        ("LINES", "one\ntwo".to_owned()),
        ("WORD", "\u{e9}\u{1f980}".to_owned()),
        ("BELAY_WORKLOAD", "api".to_owned()),
        ("R1_SYSTEM_VOLUME", "/belay".to_owned()),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name} in {env:?}");
    }
    let follower = reader("follower", "[depends_on.my-db]\nrestart_with_provider = true");
    node.client().deploy(&follower, node.directory()).await.expect("deploys");
    let bridge = environment(&node, "follower").await;
    assert_eq!(bridge["BELAY_DEP_MY_DB_HOST"], "host.containers.internal");

    // A restart of the provider is followed by the one that asked for it, and by no other.
    let api_before = started(&node.client().workload("api").await.expect("is there"));
    let follower_before = started(&node.client().workload("follower").await.expect("is there"));
    node.client().act("restart", "my-db").await.expect("restarts");
    until("the follower to be started anew", SOON, || async {
        let found = node.client().workload("follower").await?;
        let anew = found.phase == WorkloadPhase::Ready && started(&found) != follower_before;
        if anew { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let follower_before = started(&node.client().workload("follower").await.expect("is there"));

    // A deploy of the provider that changes no value changes no consumer's container.
    let text = slow_server("my-db", one, "").replace("sleep 2", "sleep 1");
    node.client().deploy(&text, node.directory()).await.expect("deploys");
    until("the follower to be started anew", SOON, || async {
        let found = node.client().workload("follower").await?;
        let anew = found.phase == WorkloadPhase::Ready && started(&found) != follower_before;
        if anew { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let api_after = started(&node.client().workload("api").await.expect("is there"));
    assert_eq!(api_after, api_before, "neither a restart nor a deploy of the provider touched it");

    node.client().deploy(&slow_server("my-db", two, ""), node.directory()).await.expect("deploys");
    until("the consumer to have the new port", SOON, || async {
        let found = node.client().workload("api").await?;
        let env = environment(&node, "api").await;
        let new = env.get("DB_PORT") == Some(&two.to_string());
        if new && found.phase == WorkloadPhase::Ready { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let first_start = started(&node.client().workload("api").await.expect("is there"));
    assert_ne!(first_start.0, api_before.0, "another container");
    // That it is not started over and over can only be seen while time passes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(started(&node.client().workload("api").await.expect("is there")), first_start);
    node.end().await;
}

#[tokio::test]
async fn killed_while_a_start_waits_it_goes_on_waiting() {
    let mut node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    node.client().deploy(&slow_server("db", port, ""), node.directory()).await.expect("deploys");
    node.client().act("stop", "db").await.expect("stops");
    let client = node.client().clone();
    let (text, directory) = (reader("api", "depends_on = [\"db\"]"), node.directory().to_owned());
    let deploy = tokio::spawn(async move { client.deploy(&text, &directory).await });
    node.client().wait_for("api", WorkloadPhase::Waiting, SOON).await;
    node.kill();
    assert!(deploy.await.expect("no panic").is_err(), "the connection broke");
    node.launch().await;
    node.client().wait_for("api", WorkloadPhase::Waiting, SOON).await;
    node.client().act("start", "db").await.expect("starts");
    node.client().wait_for("api", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}
