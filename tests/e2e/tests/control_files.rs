//! What an app asks for in its system volume, from inside its container.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, is_full, until};
use belay_protocol::{VolumeFate, WorkloadPhase, WorkloadStatus};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// A workload that writes its environment and counts its starts, then runs `then`.
fn spec(then: &str, rest: &str) -> String {
    format!(
        r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "echo started >> /data/starts; env > /data/env.new; mv /data/env.new /data/env; {then} exec sleep 100000"]
stop_grace = "0s"
{rest}
[volumes.data]
size = "16M"
mount = "/data"
[volumes.keys]
size = "16M"
mount = "/keys"
app_reset = false
[ready]
interval = "100ms"
"#
    )
}

struct App {
    node: Node,
}

impl App {
    async fn start(text: &str) -> Self {
        let node = Node::start(NodeOptions::default()).await;
        node.client().deploy(text, node.directory()).await.expect("deploys");
        Self { node }
    }

    async fn status(&self) -> WorkloadStatus {
        self.node.client().workload("app").await.expect("is there")
    }

    async fn container(&self) -> (String, String) {
        let container = self.status().await.container.expect("it has one");
        (container.id, format!("{:?}", container.started_at))
    }

    /// Runs a shell command inside the container.
    async fn inside(&self, command: &str) {
        let id = self.container().await.0;
        let output = Command::new("/usr/bin/podman")
            .args(["exec", &id, "/bin/sh", "-c", command])
            .output()
            .expect("podman runs");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    async fn directory(&self, channel: &str) -> PathBuf {
        self.node.volume("app", "system").await.join(channel)
    }

    /// Waits for the answer to a request, and that the request is gone.
    async fn answer(&self, channel: &str, id: &str) -> Value {
        let directory = self.directory(channel).await;
        let answer = until(&format!("the answer to {id}"), SOON, || {
            std::future::ready(read(&directory.join("response.json")).and_then(|found| {
                if found["request_id"] == id { Ok(found) } else { Err(found.to_string()) }
            }))
        })
        .await;
        until("the request to be let go of", SOON, || {
            let left = directory.join("request.json.processing").exists();
            std::future::ready(if left { Err("it is there".to_owned()) } else { Ok(()) })
        })
        .await;
        answer
    }

    /// Waits until the container's environment has this line, or has it no more.
    async fn environment(&self, line: &str, there: bool) {
        let file = self.node.volume("app", "data").await.join("env");
        until(&format!("the environment to have {line}: {there}"), SOON, || {
            let text = fs::read_to_string(&file).map_err(|error| error.to_string());
            std::future::ready(text.and_then(|text| {
                if text.lines().any(|found| found == line) == there { Ok(()) } else { Err(text) }
            }))
        })
        .await;
        self.node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    }
}

fn read(file: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// A shell command that puts a request as a careful app does: beside its place, then renamed.
fn put(channel: &str, body: &Value) -> String {
    let directory = format!("/belay/{channel}");
    format!(
        "cat > {directory}/new <<'END'\n{body}\nEND\nmv {directory}/new {directory}/request.json"
    )
}

#[tokio::test]
async fn an_app_overrides_its_environment_and_the_operator_sees_and_ends_it() {
    let app = App::start(&spec("", "env = { LEVEL = \"spec\" }")).await;
    let before = app.container().await;
    let request = json!({
        "schema_version": 1, "request_id": "later",
        "set": {"LEVEL": "hush-hush", "N": 7},
    });
    app.inside(&put("env-overrides", &request)).await;
    let answer = app.answer("env-overrides", "later").await;
    assert_eq!(answer["status"], "ok");
    assert_eq!(
        answer["restart"],
        json!({"requested": false, "scheduled": false, "deferred": true})
    );
    assert_eq!(
        answer["overrides"],
        json!({"set": ["LEVEL", "N"], "removed": [], "active_count": 2})
    );
    assert_eq!(app.container().await, before, "it is taken over at the next start");
    let status = app.status().await;
    assert_eq!(status.overrides, ["LEVEL", "N"]);

    let request = json!({
        "schema_version": 1, "request_id": "now", "apply": "restart_now", "remove": ["N"],
    });
    app.inside(&put("env-overrides", &request)).await;
    assert_eq!(app.answer("env-overrides", "now").await["restart"]["scheduled"], true);
    app.environment("LEVEL=hush-hush", true).await;
    app.environment("N=7", false).await;
    let anew = app.container().await;
    assert_ne!(anew.0, before.0, "another container");
    assert_eq!(app.status().await.restarts, 0, "it was no crash");

    // The same once more changes nothing, so nothing is restarted.
    let again = json!({
        "schema_version": 1, "request_id": "again", "apply": "restart_now",
        "set": {"LEVEL": "hush-hush"},
    });
    app.inside(&put("env-overrides", &again)).await;
    assert_eq!(app.answer("env-overrides", "again").await["restart"]["scheduled"], false);
    assert_eq!(app.container().await, anew);

    // A deploy keeps it, and so does a new belayd.
    let next = spec("", "env = { LEVEL = \"spec\", OTHER = 1 }");
    app.node.client().deploy(&next, app.node.directory()).await.expect("deploys");
    app.environment("LEVEL=hush-hush", true).await;
    assert!(!app.node.log_text().contains("hush-hush"), "no value is logged");
    let status = serde_json::to_string(&app.node.client().status().await.expect("answers"));
    assert!(!status.expect("encodes").contains("hush-hush"), "no value is shown");

    let cleared = app.node.client().clear_overrides("app").await.expect("clears");
    assert_eq!(cleared.summary, "1 override of app ends at its next start: belay restart app");
    assert!(app.status().await.overrides.is_empty());
    app.node.client().act("restart", "app").await.expect("restarts");
    app.environment("LEVEL=spec", true).await;
    app.node.end().await;
}

#[tokio::test]
async fn what_is_refused_says_why_and_repeats_nothing() {
    let app = App::start(&spec("", "")).await;
    let request = json!({
        "schema_version": 1, "request_id": "bad", "apply": "restart_now",
        "set": {"BELAY_NODE": "hush", "HOST": "hush", "1X": "hush", "GOOD": "hush"},
    });
    let before = app.container().await;
    app.inside(&put("env-overrides", &request)).await;
    let answer = app.answer("env-overrides", "bad").await;
    assert_eq!((&answer["status"], &answer["stage"]), (&json!("error"), &json!("validation")));
    let error = answer["error"].as_str().expect("a text");
    for name in ["BELAY_NODE", "HOST", "1X"] {
        assert!(error.contains(name), "{error}");
    }
    let directory = app.directory("env-overrides").await;
    let invalid = fs::read_to_string(directory.join("request.json.invalid")).expect("is there");
    assert!(invalid.contains("\"HOST\\\" is reserved") && !invalid.contains("hush"), "{invalid}");
    let mode = fs::metadata(directory.join("response.json")).expect("is there").permissions();
    assert_eq!(mode.mode() & 0o7777, 0o644);
    assert_eq!(app.container().await, before);
    assert!(app.status().await.overrides.is_empty());

    let request = json!({"schema_version": 1, "request_id": "keys", "volumes": ["keys"]});
    app.inside(&put("reset", &request)).await;
    let answer = app.answer("reset", "keys").await;
    assert_eq!(answer["error"], "the spec does not let the app reset volume keys");
    assert_eq!(app.container().await, before);

    // A request that arrives in pieces is given a moment, and then called what it is.
    let whole = json!({"schema_version": 1, "request_id": "slow"}).to_string();
    let (one, two) = whole.split_at(20);
    let file = "/belay/env-overrides/request.json";
    app.inside(&format!("printf '%s' '{one}' > {file}; sleep 1; printf '%s' '{two}' >> {file}"))
        .await;
    assert_eq!(app.answer("env-overrides", "slow").await["status"], "ok");
    app.inside(&format!("printf '%s' '{one}' > {file}")).await;
    until("the half request to be refused", SOON, || {
        std::future::ready(read(&directory.join("response.json")).and_then(|found| {
            let error = found["error"].as_str().unwrap_or_default().to_owned();
            if error.starts_with("the request is not JSON") { Ok(()) } else { Err(error) }
        }))
    })
    .await;
    app.node.end().await;
}

#[tokio::test]
async fn an_app_has_its_volume_emptied_once_and_only_that() {
    let app = App::start(&spec("", "")).await;
    app.inside("mkdir -p /data/deep/er; echo x > /data/deep/er/file; ln -s /keys /data/link; echo k > /keys/kept; chmod 711 /data").await;
    let before = app.container().await;
    let request = json!({"schema_version": 1, "request_id": "empty"});
    app.inside(&put("reset", &request)).await;
    let answer = app.answer("reset", "empty").await;
    assert_eq!(answer["status"], "ok");
    assert_eq!(answer["reset"]["volumes"], json!(["data"]));
    until("it to run anew", SOON, || async {
        let status = app.node.client().workload("app").await?;
        let anew = status.container.as_ref().map(|c| format!("{:?}", c.started_at));
        let done = status.phase == WorkloadPhase::Ready && anew.as_ref() != Some(&before.1);
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let data = app.node.volume("app", "data").await;
    let mut names: Vec<_> = fs::read_dir(&data)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a text"))
        .collect();
    names.sort();
    assert_eq!(names, ["env", "starts"], "what it wrote since");
    assert_eq!(fs::read_to_string(data.join("starts")).expect("reads").lines().count(), 1);
    assert_eq!(fs::metadata(&data).expect("is there").permissions().mode() & 0o7777, 0o711);
    let kept = app.node.volume("app", "keys").await.join("kept");
    assert_eq!(fs::read_to_string(kept).expect("is there"), "k\n");
    assert_eq!(app.status().await.restarts, 0, "it was no crash");
    app.node.end().await;
}

#[tokio::test]
async fn an_app_that_asks_at_each_start_is_slowed_down() {
    let request = "echo '{\\\"schema_version\\\":1}' > /belay/reset/new; mv /belay/reset/new /belay/reset/request.json; echo x >> /keys/starts;";
    let app = App::start(&spec(request, "")).await;
    let starts = app.node.volume("app", "keys").await.join("starts");
    let count = || fs::read_to_string(&starts).unwrap_or_default().lines().count();
    until("it to be started for the third time", SOON, || {
        let found = count();
        std::future::ready(if found >= 3 { Ok(()) } else { Err(format!("{found} starts")) })
    })
    .await;
    // From here on 10 s and more lie between two: that it does not go on hot needs time to see.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(count() <= 4, "{} starts", count());
    app.node.client().act("stop", "app").await.expect("stops");
    app.node.end().await;
}

#[tokio::test]
async fn hostile_files_are_neither_followed_nor_waited_for() {
    let app = App::start(&spec("", "")).await;
    let before = app.container().await;
    let secret = app.node.directory().join("secret");
    let stolen = json!({"schema_version": 1, "set": {"STOLEN": "1"}}).to_string();
    fs::write(&secret, &stolen).expect("writes");
    let overrides = app.directory("env-overrides").await;
    symlink(&secret, overrides.join("request.json")).expect("links");
    let refused = |words: &'static str| {
        let file = overrides.join("response.json");
        async move {
            until(&format!("{words} to be refused"), SOON, || {
                std::future::ready(read(&file).and_then(|found| {
                    let error = found["error"].as_str().unwrap_or_default().to_owned();
                    if error.contains(words) { Ok(()) } else { Err(error) }
                }))
            })
            .await;
        }
    };
    refused("is a symlink").await;
    app.inside("mkfifo /belay/env-overrides/request.json").await;
    refused("is a FIFO").await;
    app.inside("mkdir -p /belay/env-overrides/request.json/full/er").await;
    refused("is a directory").await;
    app.inside("head -c 100000 /dev/zero | tr '\\0' x > /belay/env-overrides/request.json").await;
    refused("larger than 65536 bytes").await;
    app.inside("(printf '{\"schema_version\":1,\"set\":{\"A\":'; head -c 20000 /dev/zero | tr '\\0' '['; head -c 20000 /dev/zero | tr '\\0' ']'; printf '}}') > /belay/env-overrides/request.json").await;
    refused("not JSON").await;
    // A second name of another file of the app's own says what it says and no more.
    app.inside("echo '{\"schema_version\":1,\"request_id\":\"hard\",\"set\":{\"A\":\"1\"}}' > /belay/env-overrides/mine; ln /belay/env-overrides/mine /belay/env-overrides/request.json").await;
    assert_eq!(app.answer("env-overrides", "hard").await["status"], "ok");
    // Directories that stand where answers go, and a writer that never stops.
    app.inside("mkdir -p /belay/reset/response.json/x /belay/reset/request.json.processing/x /belay/reset/request.json.invalid/x").await;
    app.inside("echo '{\"schema_version\":1,\"request_id\":\"way\",\"volumes\":[\"keys\"]}' > /belay/reset/request.json").await;
    assert_eq!(app.answer("reset", "way").await["status"], "error");
    app.inside("for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo '{\"schema_version\":1' > /belay/env-overrides/request.json; ln -sf /data/env /belay/env-overrides/request.json; rm -f /belay/env-overrides/request.json; done; done").await;
    app.inside("rm -rf /belay/env-overrides/request.json; echo '{\"schema_version\":1,\"request_id\":\"end\"}' > /belay/env-overrides/request.json").await;
    assert_eq!(app.answer("env-overrides", "end").await["status"], "ok");
    let status = app.status().await;
    assert_eq!(status.overrides, ["A"], "nothing was read through a link");
    assert_eq!(app.container().await, before, "and nothing was restarted");
    assert_eq!(fs::read_to_string(&secret).expect("is there"), stolen, "left alone");
    app.node.end().await;
}

#[tokio::test]
async fn an_app_that_filled_its_system_volume_is_answered() {
    let app = App::start(&spec("", "")).await;
    // An answer of each kind first: one that is replaced needs no new block of the directory.
    for channel in ["env-overrides", "reset"] {
        app.inside(&format!("echo '{{}}' > /belay/{channel}/request.json")).await;
        let directory = app.directory(channel).await;
        until("a first answer", SOON, || {
            std::future::ready(read(&directory.join("response.json")).map(|_| ()))
        })
        .await;
        app.inside(&format!(": > /belay/{channel}/request")).await;
    }
    let body = json!({"schema_version": 1, "request_id": "full"}).to_string();
    app.inside(&format!(
        "echo '{body}' > /belay/env-overrides/request; \
         echo '{{\"schema_version\":1,\"request_id\":\"full\",\"volumes\":[\"keys\"]}}' > /belay/reset/request; \
         cat /dev/zero > /belay/fill 2>/dev/null; cat /dev/zero >> /belay/fill 2>/dev/null; \
         mv /belay/env-overrides/request /belay/env-overrides/request.json; \
         mv /belay/reset/request /belay/reset/request.json"
    ))
    .await;
    assert_eq!(app.answer("env-overrides", "full").await["status"], "ok");
    assert_eq!(app.answer("reset", "full").await["status"], "error");
    app.node.end().await;
}

#[tokio::test]
async fn killed_at_any_moment_a_request_is_done_once_and_answered() {
    let text = spec("", "");
    let mut app = App::start(&text).await;
    // What is between the request and its end takes about two seconds; the moments cover it.
    let all = [0_u64, 60, 120, 200, 300, 450, 700, 1_000, 1_500];
    for pause in all.into_iter().step_by(if is_full() { 1 } else { 2 }) {
        let id = format!("r{pause}");
        app.inside("for i in 1 2 3 4 5 6 7 8 9; do mkdir -p /data/$i/$i; echo x > /data/$i/$i/f; done; rm -f /data/starts").await;
        let set = json!({"schema_version": 1, "request_id": id, "set": {"ROUND": id}});
        let empty = json!({"schema_version": 1, "request_id": id});
        let both = format!("{}\nsleep 0.5\n{}", put("env-overrides", &set), put("reset", &empty));
        app.inside(&both).await;
        // The moment of the kill is what is varied here, so time itself must pass.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        app.node.kill();
        app.node.launch().await;
        assert_eq!(app.answer("env-overrides", &id).await["status"], "ok", "{id}");
        assert_eq!(app.answer("reset", &id).await["status"], "ok", "{id}");
        app.environment(&format!("ROUND={id}"), true).await;
        let data = app.node.volume("app", "data").await;
        assert!(!data.join("5").exists(), "{id}: it was emptied");
        let starts = fs::read_to_string(data.join("starts")).expect("it runs");
        assert_eq!(starts.lines().count(), 1, "{id}: emptied once, and started once after it");
        // A workload of its own for each round: the pace of an app outlives belayd.
        app.node.client().remove("app", VolumeFate::Delete).await.expect("removes");
        app.node.client().deploy(&text, app.node.directory()).await.expect("deploys");
    }
    app.node.end().await;
}
