//! Secrets: files of the host that one container sees, and nobody else anywhere.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, until};
use belay_protocol::{ProblemCode, VolumeFate, WorkloadPhase};

const SOON: Duration = Duration::from_secs(60);

/// A workload that writes down at each start what it sees of its secrets.
fn spec(secrets: &str, more: &str) -> String {
    format!(
        r#"
name = "app"
image = "file:busybox.tar"
user = "1000"
command = ["/bin/sh", "-c", "{{ cat /run/secrets/*; ls -ln /run/secrets; touch /run/secrets/x 2>&1; env; echo end; }} > /data/seen.new; mv /data/seen.new /data/seen; exec sleep 100000"]
stop_grace = "0s"
{more}
[secrets]
{secrets}
[volumes.data]
size = "16M"
mount = "/data"
owner = "1000"
[ready]
interval = "100ms"
"#
    )
}

/// A node whose runtime directory is in memory, as below `/run`.
async fn node() -> (Node, tempfile::TempDir) {
    let memory = tempfile::Builder::new().prefix("belay-run-").tempdir_in("/dev/shm");
    let memory = memory.expect("a directory in memory");
    let mut node = Node::prepare(NodeOptions::default());
    symlink(memory.path(), node.directory().join("run")).expect("links");
    node.launch().await;
    (node, memory)
}

fn secret(path: &Path, text: &str) {
    std::fs::write(path, text).expect("writes");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("is ours");
}

async fn seen(data: &Path, what: &str) -> String {
    until(&format!("the container to see {what}"), SOON, || async {
        let text = std::fs::read_to_string(data.join("seen")).map_err(|error| error.to_string())?;
        if text.starts_with(what) { Ok(text) } else { Err(text) }
    })
    .await
}

fn told(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn a_secret_is_seen_by_its_container_and_by_nobody_else() {
    let (mut node, memory) = node().await;
    let file = node.directory().join("password");
    secret(&file, "hunter2\n");
    // A tmpfs above and a root that cannot be written hide nothing.
    let more = "read_only = true\ntmpfs = { \"/run\" = \"1M\" }\n";
    let spec = spec("db = \"./password\"", more);
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    let first = seen(&data, "hunter2").await;
    assert!(first.contains("-r--------    1 1000"), "{first}");
    assert!(first.contains("touch: /run/secrets/x: Read-only file system"), "{first}");
    assert_eq!(first.matches("hunter2").count(), 1, "{first}");
    let above = memory.path().join("secrets");
    assert_eq!(std::fs::metadata(&above).expect("is there").mode() & 0o777, 0o700);

    // What belayd and the engine say of the workload.
    let filter = format!("label=io.belay.node={}", node.name());
    let podman = Path::new("/usr/bin/podman");
    let id = told(podman, &["ps", "--quiet", "--filter", &filter]);
    let belay = belay_harness::binary("belay");
    let socket = node.socket().display().to_string();
    let pages = [
        told(podman, &["inspect", id.trim()]),
        told(&belay, &["--socket", &socket, "explain", "app"]),
        told(&belay, &["--socket", &socket, "status", "app", "--output", "json"]),
        told(&belay, &["--socket", &socket, "logs", "app"]),
        format!("{:?}", node.client().events("after=0&limit=1000").await.expect("answers")),
        node.log_text(),
    ];
    for page in &pages {
        assert!(!page.contains("hunter2"), "{page}");
    }
    assert!(pages[1].contains("desired: running"), "{}", pages[1]);

    // A start after a boot, which has emptied the memory, with what the file has by then.
    std::fs::remove_dir_all(&above).expect("is ours");
    secret(&file, "swordfish\n");
    node.client().act("restart", "app").await.expect("restarts");
    seen(&data, "swordfish").await;

    // A belayd that comes back finds what is there, and takes away what belongs to nobody.
    std::fs::create_dir(above.join("gone")).expect("is ours");
    node.kill();
    node.launch().await;
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    until("the stray one to be gone", SOON, || async {
        if above.join("gone").exists() { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(above.join("app/db").exists());
    node.client().act("stop", "app").await.expect("stops");
    assert!(!above.join("app").exists());
    node.client().remove("app", VolumeFate::Delete).await.expect("is removed");
    node.end().await;
}

async fn refused(node: &Node, secrets: &str) -> String {
    let refused = node.client().deploy(&spec(secrets, ""), node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::SecretUnavailable, "{problem:?}");
    assert!(problem.next.contains("nothing was changed"), "{problem:?}");
    problem.detail
}

#[tokio::test]
async fn a_secret_that_cannot_be_given_is_refused_by_name_and_the_start_waits_for_it() {
    let (node, _memory) = node().await;
    let at = |name: &str| node.directory().join(name);
    secret(&at("open"), "x");
    std::fs::set_permissions(at("open"), Permissions::from_mode(0o644)).expect("is ours");
    secret(&at("large"), &"x".repeat((512 << 10) + 1));
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("is made");
    let all = "a = \"./open\"\nb = \"./large\"\nc = \"./pipe\"\nd = \"./absent\"";
    let detail = refused(&node, all).await;
    for part in [
        "secret a: ",
        "has mode 0644: everybody on this host can open it; chmod 0600",
        "is larger than 512 KiB",
        "pipe is no regular file",
        "absent cannot be opened: No such file",
    ] {
        assert!(detail.contains(part), "{detail}");
    }

    secret(&at("good"), "good");
    node.client().deploy(&spec("a = \"./good\"", ""), node.directory()).await.expect("deploys");
    std::fs::rename(at("good"), at("away")).expect("is ours");
    let failed = node.client().act("restart", "app").await.expect_err("has no secret").problem();
    assert_eq!(failed.code, ProblemCode::SecretUnavailable, "{failed:?}");
    node.client().wait_for("app", WorkloadPhase::BackOff, SOON).await;
    std::fs::rename(at("away"), at("good")).expect("is ours");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}

#[tokio::test]
async fn secrets_are_refused_where_they_would_lie_on_a_disk() {
    let disk = PathBuf::from("/var/tmp");
    let on_disk = tempfile::Builder::new().prefix("belay-run-").tempdir_in(disk);
    let on_disk = on_disk.expect("a directory");
    let mut node = Node::prepare(NodeOptions::default());
    symlink(on_disk.path(), node.directory().join("run")).expect("links");
    node.launch().await;
    secret(&node.directory().join("good"), "good");
    let detail = refused(&node, "a = \"./good\"").await;
    assert!(detail.contains("set runtime_dir to one below /run"), "{detail}");
    node.end().await;
}
