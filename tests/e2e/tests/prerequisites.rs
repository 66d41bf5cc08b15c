//! What is missing is named with what to do, and nothing is changed.

use std::process::{Command, Output};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, until};
use belay_protocol::{NodeReadiness, ProblemCode};

const SOON: Duration = Duration::from_secs(60);

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_permission_it_says_that_it_needs_root() {
    let directory = tempfile::Builder::new().prefix("belay-nobody-").tempdir().expect("makes");
    let daemon = directory.path().join("belayd");
    std::fs::copy(binary("belayd"), &daemon).expect("copies");
    // Anybody may run it, nobody may write here.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), mode).expect("opens the directory");
    let state = directory.path().join("state");
    let output = Command::new("/usr/bin/setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&daemon)
        .env("BELAYD_NODE_STATE_DIR", &state)
        .env("BELAYD_NODE_RUNTIME_DIR", directory.path().join("run"))
        .output()
        .expect("setpriv runs");
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("belayd needs root"), "{}", words(&output));
    assert!(!state.exists());
}

#[test]
fn every_fault_of_the_configuration_is_listed_and_ends_it_with_78() {
    let directory = tempfile::tempdir().expect("makes");
    let file = directory.path().join("belayd.toml");
    let text = "[node]\nnam = \"x\"\n[engine]\nkind = \"rkt\"\n[api]\nlisten = [\"0.0.0.0:1\"]\n";
    std::fs::write(&file, text).expect("writes");
    let run = |arguments: &[&str]| {
        Command::new(binary("belayd")).arg("--config").arg(&file).args(arguments).output()
    };
    for arguments in [&[][..], &["check-config"][..]] {
        let output = run(arguments).expect("runs");
        assert_eq!(output.status.code(), Some(78), "{}", words(&output));
        let lines = words(&output);
        for expect in [
            "belayd.toml:2: node.nam",
            "did you mean \"name\"?",
            "belayd.toml:4: engine.kind",
            "belayd.toml:6: api.listen",
        ] {
            assert!(lines.contains(expect), "{expect:?} not in {lines}");
        }
    }
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").expect("writes");
    assert!(run(&["check-config"]).expect("runs").status.success());
}

#[tokio::test]
async fn without_an_engine_it_answers_says_so_and_keeps_trying() {
    let mut node = Node::prepare(NodeOptions::default());
    let socket = node.directory().join("no-engine.sock");
    let config = std::fs::read_to_string(node.config()).expect("reads");
    let with = format!("{config}[engine]\nsocket = \"{}\"\n", socket.display());
    std::fs::write(node.config(), with).expect("writes");
    node.spawn();
    let reason = until("the reason to be shown", SOON, || async {
        match node.client().status().await?.ready {
            NodeReadiness::NotReady { reason } if reason.contains("no-engine.sock") => Ok(reason),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(!reason.is_empty());
    let spec = "name = \"web\"\nimage = \"file:busybox.tar\"\n";
    let refused = node.client().deploy(spec, node.directory()).await.expect_err("is refused");
    let problem = refused.problem();
    assert_eq!(problem.code, ProblemCode::EngineUnreachable);
    assert!(problem.next.contains("belay doctor"), "{problem:?}");

    let doctor = Command::new(binary("belayd"))
        .args(["doctor", "--json", "--config"])
        .arg(node.config())
        .output()
        .expect("runs");
    assert_eq!(doctor.status.code(), Some(1));
    let findings: Vec<belay_protocol::Finding> =
        serde_json::from_slice(&doctor.stdout).expect("findings as JSON");
    let faulty: Vec<_> =
        findings.iter().filter(|f| f.verdict == belay_protocol::Verdict::Faulty).collect();
    assert!(!faulty.is_empty() && faulty.iter().all(|f| !f.advice.is_empty()), "{findings:#?}");
    assert!(node.terminate().await.success());
}

#[tokio::test]
async fn volumes_that_do_not_fit_the_host_are_refused_with_numbers() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = "name = \"huge\"\nimage = \"file:busybox.tar\"\n[volumes.data]\nsize = \"15T\"\nmount = \"/data\"\n";
    let refused = node.client().deploy(spec, node.directory()).await;
    let problem = refused.expect_err("is refused").problem();
    assert_eq!(problem.code, ProblemCode::VolumeUnavailable);
    assert!(problem.detail.contains("need 15Ti on the host"), "{}", problem.detail);
    assert!(node.client().status().await.expect("answers").volumes.is_empty());
    node.end().await;
}
