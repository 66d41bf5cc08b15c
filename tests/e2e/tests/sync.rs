//! Two nodes, one store: what the provider publishes, the consumer serves.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, sync_spec, until};
use belay_protocol::{ProblemCode, WorkloadPhase};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

async fn pair() -> (Node, Node, tempfile::TempDir) {
    let (provider, consumer, store) = nodes().await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    (provider, consumer, store)
}

async fn nodes() -> (Node, Node, tempfile::TempDir) {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    (provider, consumer, store)
}

/// A spec with more in its table of volume-sync.
fn spec_with(role: &str, more: &str) -> String {
    sync_spec(role).replace("poll_interval", &format!("{more}\npoll_interval"))
}

/// Makes an identity beside the node's specs, as an operator does, and returns its public key.
fn identity(node: &Node) -> String {
    let openssl = |arguments: &[&str]| {
        let done = Command::new("/usr/bin/openssl")
            .args(arguments)
            .current_dir(node.directory())
            .output()
            .expect("openssl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    };
    openssl(&["genpkey", "-algorithm", "X25519", "-out", "me.pem"]);
    let public = openssl(&["pkey", "-in", "me.pem", "-pubout"]);
    public.lines().nth(1).expect("the middle line").to_owned()
}

/// Runs a script inside the node's one container.
fn inside(node: &Node, script: &str) {
    let filter = format!("label=io.belay.node={}", node.name());
    let listed = Command::new("/usr/bin/podman").args(["ps", "-q", "--filter", &filter]).output();
    let listed = String::from_utf8(listed.expect("podman runs").stdout).expect("ids are text");
    let id = listed.trim();
    let done = Command::new("/usr/bin/podman").args(["exec", id, "/bin/sh", "-c", script]).output();
    let done = done.expect("podman runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn read_json(path: &Path) -> Value {
    until(&format!("{}", path.display()), SOON, || async {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    })
    .await
}

async fn applied(consumer: &Node, cid: &str) {
    until("the consumer to apply", SOON, || async {
        let found = consumer.client().workload("app").await?;
        let sync = found.sync.ok_or("no sync")?;
        match &sync.last_apply {
            Some(apply) if apply.cid.to_string() == cid => Ok(()),
            _ => Err(format!("{sync:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_app_asks_to_publish_is_served_by_the_consumer_whole() {
    let (provider, consumer, _store) = pair().await;
    inside(
        &provider,
        "mkdir -p /data/deep && echo one > /data/deep/file && ln -s deep/file /data/link && \
         echo gone > /data/later-gone && \
         echo '{\"archive_paths\": [\"/data\"], \"metadata\": {\"by\": \"app\"}, \"request_id\": \"r1\"}' \
         > /belay/volume-sync/new && mv /belay/volume-sync/new /belay/volume-sync/request.json",
    );
    let control = provider.volume("app", "system").await.join("volume-sync");
    let response = read_json(&control.join("response.json")).await;
    assert_eq!(response["status"], "ok", "{response}");
    assert_eq!(response["request_id"], "r1");
    let cid = response["cid"].as_str().expect("a cid").to_owned();
    applied(&consumer, &cid).await;

    let data = consumer.volume("app", "data").await;
    assert_eq!(std::fs::read_to_string(data.join("deep/file")).expect("applied"), "one\n");
    assert_eq!(std::fs::read_link(data.join("link")).expect("a link"), Path::new("deep/file"));
    let received = consumer.volume("app", "system").await.join("volume-sync/last_apply.json");
    assert_eq!(read_json(&received).await["cid"], cid);

    // A second publish: what was deleted is deleted there too.
    inside(&provider, "rm /data/later-gone && echo two > /data/deep/file");
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    let publish = outcome.publish.expect("says what it published");
    applied(&consumer, &publish.cid.to_string()).await;
    assert!(!data.join("later-gone").exists());
    let data = consumer.volume("app", "data").await;
    assert_eq!(std::fs::read_to_string(data.join("deep/file")).expect("applied"), "two\n");
    assert!(!data.join("later-gone").exists());
    for node in [&provider, &consumer] {
        let found = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
        assert_eq!(found.restarts, 0, "a pause for sync is no crash");
    }

    // Equal content is the same cid and disturbs nobody.
    let before = consumer.client().workload("app").await.expect("is there").container;
    let again = provider.client().publish("app", &["/data"]).await.expect("publishes");
    assert_eq!(again.publish.expect("says what").cid, publish.cid);
    let after = consumer.client().workload("app").await.expect("is there").container;
    assert_eq!(after, before);
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_publish_of_what_does_not_run_or_does_not_provide_is_refused_without_a_trace() {
    let (provider, consumer, _store) = pair().await;
    let refused = consumer.client().publish("app", &["/data"]).await.expect_err("refused");
    assert_eq!(refused.problem().code, ProblemCode::NoSync);
    provider.client().act("stop", "app").await.expect("stops");
    let refused =
        provider.client().publish("app", &["/data"]).await.expect_err("refused").problem();
    assert_eq!(refused.code, ProblemCode::NotRunning);
    assert!(refused.next.contains("belay start app"), "{refused:?}");
    let status = provider.client().workload("app").await.expect("is there");
    assert_eq!(status.phase, WorkloadPhase::Stopped, "sync starts nothing");
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn an_app_that_filled_its_system_volume_is_answered() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&sync_spec("provider"), node.directory()).await.expect("deploys");
    let control = node.volume("app", "system").await.join("volume-sync");
    // The answer repeats the metadata, so it does not fit into what the request gives back.
    let words = "w".repeat(7_900);
    // The first answer makes the names; the second has to replace them on a full volume.
    for request in ["r1", "r2"] {
        inside(
            &node,
            &format!(
                "cd /belay/volume-sync && echo {request} > /data/file && : > bytes && \
                 echo '{{\"archive_paths\": [\"/data\"], \"request_id\": \"{request}\", \
                 \"metadata\": {{\"words\": \"{words}\"}}}}' > new && \
                 mkdir -p /belay/empty && cd /belay/empty && seq 1 9999 | xargs touch 2>/dev/null; \
                 cat /dev/zero 2>/dev/null >> /belay/volume-sync/bytes; sync; \
                 i=1; while echo x 2>/dev/null > $i; do i=$((i+1)); done; \
                 touch /belay/one-more 2>/dev/null && exit 1; \
                 mv /belay/volume-sync/new /belay/volume-sync/request.json"
            ),
        );
        let answered = until("the answer", SOON, || async {
            let bytes = std::fs::read(control.join("response.json")).map_err(|e| e.to_string())?;
            let answer: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            if answer["request_id"] == request { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await;
        assert_eq!(answered["status"], "ok", "{answered}");
        node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    }
    node.end().await;
}

/// Puts something in the place of a request and returns what belayd made of it.
async fn refused_request(node: &Node, control: &Path, place: impl FnOnce(&Path)) -> (Value, Value) {
    for file in ["response.json", "request.json.invalid"] {
        let _ = std::fs::remove_file(control.join(file));
    }
    let before = node.client().workload("app").await.expect("is there").container;
    place(&control.join("request.json"));
    let response = read_json(&control.join("response.json")).await;
    let invalid = read_json(&control.join("request.json.invalid")).await;
    let after = node.client().workload("app").await.expect("is there");
    assert_eq!(after.container, before, "the container is not touched: {response}");
    assert_eq!(after.phase, WorkloadPhase::Ready);
    assert_eq!(response["status"], "error", "{response}");
    assert_eq!(response["stage"], "validation", "{response}");
    assert_eq!(invalid["_error"]["stage"], "validation", "{invalid}");
    (response, invalid)
}

#[tokio::test]
async fn an_archive_and_a_sealed_tree_reach_their_consumer_too() {
    for sealed in [false, true] {
        let (provider, consumer, store) = nodes().await;
        let (from, to) = if sealed {
            identity(&provider);
            let members = format!("identity = \"me.pem\"\nmembers = [{:?}]", identity(&consumer));
            (spec_with("provider", &members), spec_with("consumer", "identity = \"me.pem\""))
        } else {
            (spec_with("provider", "archive_format = \"tar.gz\""), sync_spec("consumer"))
        };
        provider.client().deploy(&from, provider.directory()).await.expect("deploys");
        consumer.client().deploy(&to, consumer.directory()).await.expect("deploys");
        inside(&provider, "echo confidential > /data/file");
        let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
        let cid = outcome.publish.expect("says what it published").cid;
        applied(&consumer, &cid.to_string()).await;
        let data = consumer.volume("app", "data").await;
        let text = std::fs::read_to_string(data.join("file")).expect("applied");
        assert_eq!(text, "confidential\n");
        let record = Command::new("/usr/bin/grep")
            .args(["-r", "-h", "-o", "\"encryption\":\"[a-z]*\""])
            .arg(store.path().join("records"))
            .output()
            .expect("grep runs");
        let record = String::from_utf8(record.stdout).expect("text");
        let expected = if sealed { "members" } else { "none" };
        assert!(record.contains(expected), "{record}");
        provider.end().await;
        consumer.end().await;
    }
}

/// The key with which a node signs.
async fn signing_key(node: &Node) -> String {
    let said = node.client().post("/v1/sync/keygen").await.expect("a key");
    said.summary
}

#[tokio::test]
async fn a_standby_takes_over_and_the_consumer_follows_it_and_nobody_else() {
    let (first, consumer, store) = nodes().await;
    let options = NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let standby = Node::start(options).await;
    for node in [&first, &standby] {
        node.client().deploy(&sync_spec("provider"), node.directory()).await.expect("deploys");
    }
    let publishers = [signing_key(&first).await, signing_key(&standby).await];
    let spec = spec_with("consumer", &format!("publishers = {publishers:?}"));
    consumer.client().deploy(&spec, consumer.directory()).await.expect("deploys");
    inside(&first, "echo first > /data/file");
    let outcome = first.client().publish("app", &["/data"]).await.expect("publishes");
    let cid = outcome.publish.expect("says what it published").cid;
    applied(&consumer, &cid.to_string()).await;

    inside(&standby, "echo second > /data/file");
    let refused = standby.client().publish("app", &["/data"]).await.expect_err("fenced").problem();
    assert_eq!(refused.code, ProblemCode::Fenced);
    assert!(refused.detail.contains(first.name()), "{refused:?}");
    assert!(refused.next.contains("belay sync takeover app --yes"), "{refused:?}");
    standby.client().post("/v1/workloads/app/sync/takeover").await.expect("takes over");
    let outcome = standby.client().publish("app", &["/data"]).await.expect("publishes");
    let cid = outcome.publish.expect("says what it published").cid;
    applied(&consumer, &cid.to_string()).await;
    let data = consumer.volume("app", "data").await;
    assert_eq!(std::fs::read_to_string(data.join("file")).expect("applied"), "second\n");

    let refused = first.client().publish("app", &["/data"]).await.expect_err("fenced").problem();
    assert_eq!(refused.code, ProblemCode::Fenced);
    assert!(refused.detail.contains(standby.name()), "{refused:?}");
    let status = first.client().workload("app").await.expect("is there");
    assert_eq!(status.phase, WorkloadPhase::Ready, "the app of a fenced provider runs on");
    assert_eq!(status.sync.expect("has sync").fenced.expect("is shown").epoch, 2);
    for node in [first, standby, consumer] {
        node.end().await;
    }
}

#[tokio::test]
async fn hostile_requests_are_answered_and_touch_nothing() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&sync_spec("provider"), node.directory()).await.expect("deploys");
    let control = node.volume("app", "system").await.join("volume-sync");
    let secret = node.directory().join("secret");
    std::fs::write(&secret, "{\"archive_paths\": [\"/data\"], \"secret\": \"tell\"}")
        .expect("writes");

    let (response, invalid) =
        refused_request(&node, &control, |path| symlink(&secret, path).expect("links")).await;
    assert!(!format!("{response}{invalid}").contains("tell"), "the link was followed");
    assert!(secret.exists(), "the link's target is untouched");

    refused_request(&node, &control, |path| {
        nix_mkfifo(path);
    })
    .await;
    refused_request(&node, &control, |path| std::fs::create_dir(path).expect("makes")).await;
    refused_request(&node, &control, |path| {
        std::fs::write(path, vec![b' '; 70 << 10]).expect("writes");
    })
    .await;
    refused_request(&node, &control, |path| std::fs::write(path, "{nonsense").expect("writes"))
        .await;
    refused_request(&node, &control, |path| {
        std::fs::write(path, "[".repeat(60_000)).expect("writes");
    })
    .await;
    for outside in ["/etc", "/data/../etc", "relative", "/belay", "/data/absent"] {
        let (response, _) = refused_request(&node, &control, |path| {
            std::fs::write(path, json!({ "archive_paths": [outside] }).to_string())
                .expect("writes");
        })
        .await;
        let error = response["error"].as_str().unwrap_or_default().to_owned();
        assert!(!error.is_empty(), "{response}");
    }
    let mode = std::fs::metadata(control.join("response.json")).expect("is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o644);
    node.end().await;
}

fn nix_mkfifo(path: &Path) {
    let made = Command::new("/usr/bin/mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}
