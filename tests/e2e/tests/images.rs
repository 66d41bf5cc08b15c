//! Images of a registry: pulls, credentials, moved tags, a registry that is away, and what goes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use belay_harness::{Behaviour, Node, NodeOptions, Registry, RegistryImage, marked, until};
use belay_protocol::{ProblemCode, WorkloadPhase};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const NAME: &str = "team/app";

/// A registry, and a node whose engine may use it. Ends with every image removed that it offered.
struct Scene {
    registry: Registry,
    node: Node,
    directory: tempfile::TempDir,
    images: Vec<RegistryImage>,
}

impl Scene {
    async fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = Registry::start().await;
        let settings = registry.settings(directory.path());
        let node = Node::start(NodeOptions {
            config: config
                .replace("REGISTRY", &registry.host())
                .replace("DIRECTORY", &directory.path().display().to_string()),
            environment: vec![("CONTAINERS_REGISTRIES_CONF".to_owned(), settings)],
            ..NodeOptions::default()
        })
        .await;
        Self { registry, node, directory, images: Vec::new() }
    }

    /// Offers an image that differs from every other.
    fn offer(&mut self, tag: &str, architecture: &str) -> RegistryImage {
        let mark = format!("{}-{}", self.node.name(), self.images.len());
        let config = json!({ "Cmd": ["/bin/sleep", "100000"], "Env": [format!("MARK={mark}")] });
        let tar = std::fs::read(self.node.directory().join("busybox.tar")).expect("the image");
        let image = RegistryImage::new(marked(tar, &mark), architecture, &config);
        self.registry.offer(NAME, tag, &image);
        self.images.push(image.clone());
        image
    }

    fn reference(&self, rest: &str) -> String {
        format!("{}/{NAME}{rest}", self.registry.host())
    }

    fn spec(&self, name: &str, image: &str, more: &str) -> String {
        let image = self.reference(image);
        format!(
            "name = \"{name}\"\nimage = \"{image}\"\nnetwork = \"none\"\nstop_grace = \"0s\"\n{more}\n\
             [ready]\ninterval = \"100ms\"\n"
        )
    }

    async fn deploy(&self, spec: &str) -> Result<String, belay_protocol::Problem> {
        let done = self.node.client().deploy(spec, self.directory.path()).await;
        done.map(|outcome| outcome.summary).map_err(belay_harness::Refusal::problem)
    }

    async fn container(&self, workload: &str) -> (u64, String) {
        let status = self.node.client().workload(workload).await.expect("it is known");
        (status.generation, status.container.expect("it has a container").id)
    }

    fn secret(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        secret(&self.directory.path().join(name), text, mode)
    }

    async fn end(self) {
        let Self { registry, node, directory: _directory, images } = self;
        node.end().await;
        drop(registry);
        for image in images {
            podman(&["rmi", "--force", &image.id]);
        }
    }
}

fn secret(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    path.to_owned()
}

fn podman(arguments: &[&str]) -> String {
    let output = Command::new("/usr/bin/podman").args(arguments).output().expect("podman runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn is_here(image: &RegistryImage) -> bool {
    podman(&["images", "--all", "--quiet", "--no-trunc"]).lines().any(|id| id == image.id)
}

#[tokio::test]
async fn credentials_come_from_files_and_stay_there() {
    let mut scene = Scene::new(
        "[[registries]]\nserver = \"REGISTRY\"\nusername = \"user\"\npassword_file = \"DIRECTORY/password\"\n",
    )
    .await;
    scene.registry.require("user", "hunter2");
    scene.offer("v1", "amd64");
    let spec = scene.spec("app", ":v1", "");
    let password = scene.secret("password", "wrong\n", 0o600);
    for (text, mode, code, words) in [
        ("wrong\n", 0o600, ProblemCode::ImageDenied, "cannot pull image"),
        ("hunter2\n", 0o644, ProblemCode::RegistryCredentials, "can be read by every user"),
    ] {
        secret(&password, text, mode);
        let problem = scene.deploy(&spec).await.expect_err("refused");
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(problem.detail.contains(words), "{}", problem.detail);
        let said = format!("{problem:?}");
        assert!(said.contains(&password.display().to_string()), "the file is named: {said}");
    }
    secret(&password, "hunter2\n", 0o600);
    scene.deploy(&spec).await.expect("an operator's deploy is tried at once");

    // The workload's own file is the word, also when it has nothing.
    let nothing = scene.secret("auth.json", "{}", 0o600);
    scene.offer("v2", "amd64");
    let own = scene.spec("app", ":v2", "registry_auth_file = \"auth.json\"");
    let problem = scene.deploy(&own).await.expect_err("nobody's credentials");
    assert_eq!(problem.code, ProblemCode::ImageDenied);
    let auth = format!(
        "{{\"auths\":{{\"{}\":{{\"auth\":\"dXNlcjpodW50ZXIy\"}}}}}}",
        scene.registry.host()
    );
    secret(&nothing, &auth, 0o600);
    scene.deploy(&own).await.expect("with credentials of its own");

    let status = scene.node.client().status().await.expect("answers");
    for said in [format!("{status:?}"), scene.node.log_text()] {
        assert!(!said.contains("hunter2") && !said.contains("dXNlcjpodW50ZXIy"));
    }
    let ledger = std::fs::read(scene.node.directory().join("state/belay.db")).expect("read");
    assert!(!ledger.windows(7).any(|part| part == b"hunter2"));
    let (_, container) = scene.container("app").await;
    let inspected = podman(&["inspect", &container]);
    assert!(inspected.contains("io.belay.workload") && !inspected.contains("hunter2"));
    scene.end().await;
}

#[tokio::test]
async fn a_tag_that_moved_replaces_and_one_that_did_not_does_not() {
    let mut scene = Scene::new("").await;
    let first = scene.offer("v1", "amd64");
    let always = scene.spec("app", ":v1", "pull = \"always\"");
    scene.deploy(&always).await.expect("deploys");
    let status = scene.node.client().workload("app").await.expect("known");
    assert_eq!(status.image, scene.reference(":v1"));
    assert_eq!(status.image_id.as_deref(), Some(first.id.as_str()));
    assert_eq!(status.image_digest.as_deref(), Some(first.digest.as_str()));
    let before = scene.container("app").await;
    scene.deploy(&always).await.expect("deploys again");
    assert_eq!(scene.container("app").await, before, "the same image: nothing is replaced");

    let second = scene.offer("v1", "amd64");
    scene.node.client().act("stop", "app").await.expect("stops");
    scene.node.client().act("start", "app").await.expect("starts");
    let status = scene.node.client().workload("app").await.expect("known");
    assert_eq!(status.image_id.as_deref(), Some(first.id.as_str()), "a start is no update");
    scene.deploy(&always).await.expect("deploys the moved tag");
    let status = scene.node.client().workload("app").await.expect("known");
    assert_eq!(status.image_id.as_deref(), Some(second.id.as_str()));
    assert_eq!(status.generation, before.0 + 1);

    // By digest the first one is had again, and nothing else will do.
    let pinned = scene.spec("app", &format!("@{}", first.digest), "");
    scene.deploy(&pinned).await.expect("deploys the pinned one");
    let status = scene.node.client().workload("app").await.expect("known");
    assert_eq!(status.image_id.as_deref(), Some(first.id.as_str()));
    let absent = scene.spec("app", &format!("@sha256:{}", "0".repeat(64)), "");
    let problem = scene.deploy(&absent).await.expect_err("no such digest");
    assert_eq!(problem.code, ProblemCode::ImageNotFound, "{problem:?}");
    let foreign = scene.offer("arm", "arm64");
    assert!(foreign.layer_bytes() > 0);
    let problem = scene.deploy(&scene.spec("app", ":arm", "")).await.expect_err("built for arm64");
    assert_eq!(problem.code, ProblemCode::ImageArchitecture, "{problem:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_reload_fetches_anew_what_is_always_pulled() {
    let mut scene = Scene::new("").await;
    let first = scene.offer("v1", "amd64");
    let file = scene.node.directory().join("workloads.d/app.toml");
    std::fs::write(&file, scene.spec("app", ":v1", "pull = \"always\"")).expect("written");
    scene.node.reload();
    let runs = |image: RegistryImage| {
        let client = scene.node.client().clone();
        async move {
            until("the workload to run on the image", SOON, || async {
                let status = client.workload("app").await?;
                let right = status.image_id.as_deref() == Some(image.id.as_str());
                let ready = status.phase == WorkloadPhase::Ready;
                if right && ready { Ok(()) } else { Err(format!("{status:?}")) }
            })
            .await;
        }
    };
    runs(first).await;
    let before = scene.container("app").await;
    scene.node.reload();
    let asked = scene.registry.requests().len();
    until("the registry to be asked", SOON, || {
        let now = scene.registry.requests().len();
        std::future::ready(if now > asked { Ok(()) } else { Err(now.to_string()) })
    })
    .await;
    assert_eq!(scene.container("app").await, before);
    let second = scene.offer("v1", "amd64");
    scene.node.reload();
    let client = scene.node.client().clone();
    until("the moved tag to run", SOON, || async {
        let status = client.workload("app").await?;
        let right = status.image_id.as_deref() == Some(second.id.as_str());
        if right && status.phase == WorkloadPhase::Ready {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    scene.end().await;
}

#[tokio::test]
async fn one_pull_serves_two_and_a_broken_one_is_had_after_all() {
    let mut scene = Scene::new("[images]\nstall = \"4s\"\n").await;
    let image = scene.offer("v1", "amd64");
    scene.registry.behave(Behaviour::Cut { after: image.layer_bytes() / 2 });
    let problem = scene.deploy(&scene.spec("one", ":v1", "")).await.expect_err("cut");
    assert_eq!(problem.code, ProblemCode::RegistryUnreachable, "{problem:?}");
    scene.registry.behave(Behaviour::Stall { after: image.layer_bytes() / 2 });
    let problem = scene.deploy(&scene.spec("one", ":v1", "")).await.expect_err("stalled");
    assert!(problem.detail.ends_with("nothing came for 4s"), "{problem:?}");
    scene.registry.behave(Behaviour::TooMany);
    let problem = scene.deploy(&scene.spec("one", ":v1", "")).await.expect_err("limited");
    assert_eq!(problem.code, ProblemCode::RegistryLimited, "{problem:?}");
    until("three failures to be shown", SOON, || async {
        let images = scene.node.client().status().await?.images;
        let pulls = images.as_ref().map(|images| images.pulls.as_slice()).unwrap_or_default();
        let shown = pulls.iter().any(|pull| pull.failures == 3);
        if shown { Ok(()) } else { Err(format!("{images:?}")) }
    })
    .await;

    scene.registry.behave(Behaviour::Well);
    let asked = scene.registry.layers_asked();
    let (one, two) = (scene.spec("one", ":v1", ""), scene.spec("two", ":v1", ""));
    let (one, two) = tokio::join!(scene.deploy(&one), scene.deploy(&two));
    one.expect("deploys");
    two.expect("deploys");
    assert_eq!(scene.registry.layers_asked(), asked + 1, "{:?}", scene.registry.requests());
    scene.end().await;
}

#[tokio::test]
async fn a_boot_without_a_registry_starts_everything() {
    let mut scene = Scene::new("").await;
    let image = scene.offer("v1", "amd64");
    scene.deploy(&scene.spec("app", ":v1", "pull = \"always\"")).await.expect("deploys");
    let (_, container) = scene.container("app").await;
    scene.registry.behave(Behaviour::Away);
    // A crash of belayd, and a container that is gone as after a wiped run directory.
    scene.node.kill();
    podman(&["rm", "--force", "--time", "0", &container]);
    scene.node.launch().await;
    let client = scene.node.client().clone();
    until("the workload to run again", SOON, || async {
        let status = client.workload("app").await?;
        if status.phase == WorkloadPhase::Ready { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    // A deploy says that the image on the host had to do.
    let asked = scene.deploy(&scene.spec("app", ":v1", "pull = \"always\"\nenv.A = \"1\"")).await;
    asked.expect("deploys with what is here");
    let status = client.workload("app").await.expect("known");
    assert_eq!(status.image_id.as_deref(), Some(image.id.as_str()));
    assert!(scene.node.log_text().contains("uses the image on this host"));
    scene.end().await;
}

#[tokio::test]
async fn what_nobody_needs_goes_and_nothing_else() {
    let mut scene = Scene::new("[images]\ngrace = \"1h\"\n").await;
    let images: Vec<_> = ["v1", "v2", "v3"].map(|tag| scene.offer(tag, "amd64")).into();
    let foreign = scene.offer("foreign", "amd64");
    let settings = scene.directory.path().join("registries.conf");
    // The registry is served by this thread, which must not wait for its client.
    let reference = scene.reference(":foreign");
    let pulled = tokio::task::spawn_blocking(move || {
        Command::new("/usr/bin/podman")
            .args(["pull", &reference])
            .env("CONTAINERS_REGISTRIES_CONF", settings)
            .output()
            .expect("podman runs")
    });
    let pulled = pulled.await.expect("no panic");
    assert!(pulled.status.success(), "{pulled:?}");
    for tag in [":v1", ":v2", ":v3", ":foreign", ":v3"] {
        scene.deploy(&scene.spec("app", tag, "")).await.expect("deploys");
    }
    let client = scene.node.client().clone();
    let would = client.prune(true).await.expect("decides").summary;
    assert!(would.starts_with("1 image of"), "{would}");
    assert!(images.iter().all(is_here), "a dry run changes nothing");
    // Somebody else's container of an image that is superseded.
    let theirs = format!("belay-e2e-theirs-{}", scene.node.name());
    podman(&["create", "--name", &theirs, &images[0].id]);
    let did = client.prune(false).await.expect("done").summary;
    assert!(did.starts_with("0 images"), "{did}");
    podman(&["rm", "--force", &theirs]);
    let did = client.prune(false).await.expect("done").summary;
    assert!(did.starts_with("1 image of"), "{did}");
    let here: Vec<_> = images.iter().map(is_here).collect();
    assert_eq!(here, [false, true, true], "the superseded one, not the one before");
    assert!(is_here(&foreign), "somebody else pulled it");

    let problem = client.image("rm", &scene.reference(":v3")).await.expect_err("runs").problem();
    assert_eq!(problem.code, ProblemCode::ImageInUse, "{problem:?}");
    let refused = client.image("rm", &scene.reference(":foreign")).await.expect_err("foreign");
    assert_eq!(refused.problem().code, ProblemCode::NoSuchImage);
    // Stopped workloads keep what they are to run on.
    client.act("stop", "app").await.expect("stops");
    client.prune(false).await.expect("done");
    assert!(is_here(&images[2]));
    scene.registry.behave(Behaviour::Away);
    client.act("start", "app").await.expect("starts without a registry");

    // The image of this archive is not others' tests' too: a root file system with one more file.
    let archive = scene.directory.path().join("own.tar");
    std::fs::write(&archive, own_tar(scene.node.name())).expect("written");
    let done = client.load(&archive).await.expect("loads").summary;
    assert!(done.starts_with("loaded as localhost/belay/own:") && done.ends_with("and pinned"));
    let name = done.split(' ').nth(2).expect("its name").to_owned();
    client.prune(false).await.expect("done");
    client.image("unpin", &name).await.expect("unpinned");
    client.image("rm", &name).await.expect("removed");
    assert_eq!(podman(&["images", "--quiet", &name]), "");
    scene.end().await;
}

#[tokio::test]
async fn below_the_floor_a_pull_is_refused_with_the_numbers() {
    let mut scene = Scene::new("[images]\nfloor = \"1000T\"\n").await;
    scene.offer("v1", "amd64");
    let problem = scene.deploy(&scene.spec("app", ":v1", "")).await.expect_err("no room");
    assert_eq!(problem.code, ProblemCode::ImageStorageFull, "{problem:?}");
    assert!(
        problem.detail.ends_with("and a pull begins only with 1000Ti free"),
        "{}",
        problem.detail
    );
    assert!(scene.registry.requests().is_empty(), "the registry was not asked");
    scene.end().await;
}

fn own_tar(mark: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("mark"), mark).expect("written");
    std::fs::create_dir(directory.path().join("etc")).expect("made");
    let output = Command::new("/usr/bin/tar")
        .args(["--create", "--directory"])
        .arg(directory.path())
        .arg(".")
        .output()
        .expect("tar runs");
    assert!(output.status.success());
    output.stdout
}
