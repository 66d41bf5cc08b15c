//! Pulling, from a registry that the test serves itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use belay_engine::{
    Engine, EngineChoice, EngineOptions, Image, PullError, PullFault, PullPatience, PullProgress,
    RegistryCredentials, connect,
};
use belay_harness::{Behaviour, Registry, RegistryImage};
use serde_json::json;
use tokio::sync::watch;

use crate::service::hold_a_service;
use crate::world::{command_line, eventually, root_tar, unique};

const NAME: &str = "team/app";

/// A registry and an engine that may use it.
struct Scene {
    _dir: tempfile::TempDir,
    registry: Registry,
    engine: Engine,
    _holder: crate::service::Killed,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::start().await;
        let settings = registry.settings(dir.path());
        let holder = hold_a_service(dir.path(), |command: &mut Command| {
            command.env("CONTAINERS_REGISTRIES_CONF", &settings).stdin(Stdio::null());
        })
        .await;
        let engine = connect_to(dir.path()).await;
        Self { _dir: dir, registry, engine, _holder: holder }
    }

    fn reference(&self, rest: &str) -> String {
        format!("{}/{NAME}{rest}", self.registry.host())
    }

    async fn pull(
        &self,
        image: &str,
        password: Option<&str>,
    ) -> (Result<Image, PullError>, PullProgress) {
        let credentials = password.map(|password| RegistryCredentials {
            username: "user".to_owned(),
            password: password.to_owned(),
            registry: None,
        });
        let patience = PullPatience { silence: Duration::from_secs(5), ..PullPatience::default() };
        let (progress, seen) = watch::channel(PullProgress::default());
        let pulled = self.engine.pull(image, credentials.as_ref(), patience, &progress).await;
        (pulled, *seen.borrow())
    }

    /// A pull that must fail, and what kind of refusal it was.
    async fn refused(&self, image: &str) -> (PullFault, String) {
        match self.pull(image, None).await.0 {
            Err(PullError::Refused { fault, detail, .. }) => (fault, detail),
            other => panic!("{image}: {other:?}"),
        }
    }
}

struct Removed(Vec<String>);

impl Drop for Removed {
    fn drop(&mut self) {
        for image in &self.0 {
            command_line(&["rmi", "--force", image]);
        }
    }
}

fn image(mark: &str) -> RegistryImage {
    let config = json!({ "User": "app", "Cmd": ["/bin/cat", "/etc/mark"], "WorkingDir": "/tmp" });
    RegistryImage::new(root_tar(mark), "amd64", &config)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest_with_credentials() {
    let scene = Scene::new().await;
    let image = image(&unique());
    scene.registry.offer(NAME, "v1", &image);
    scene.registry.require("user", "secret");
    let by_tag = scene.reference(":v1");
    let by_digest = scene.reference(&format!("@{}", image.digest));
    for password in [None, Some("wrong")] {
        let (refused, _) = scene.pull(&by_tag, password).await;
        let error = refused.expect_err("no credentials");
        let denied = matches!(error, PullError::Refused { fault: PullFault::Denied, .. });
        assert!(denied, "{password:?}: {error:?}");
        let said = format!("{error:?} {error}");
        assert!(!said.contains("wrong") && !said.contains("secret"), "{said}");
    }
    let (absent, _) = scene.pull(&scene.reference(":v2"), Some("secret")).await;
    let error = absent.expect_err("no such tag");
    let absent = matches!(error, PullError::Refused { fault: PullFault::NotFound, .. });
    assert!(absent && !error.is_retryable(), "{error:?}");

    let _removed = Removed(vec![by_tag.clone(), by_digest.clone()]);
    let (pulled, progress) = scene.pull(&by_tag, Some("secret")).await;
    let pulled = pulled.expect("pulled");
    assert_eq!((progress.layers_here, progress.layers), (2, 2), "one layer, one configuration");
    // Podman tells of bytes only what takes it a while.
    let told = progress.bytes_total >= image.layer_bytes() as u64;
    assert!(told || progress.bytes_total == 0, "{progress:?}");
    assert_eq!(pulled.id, image.id, "an image's id is the digest of its configuration");
    assert_eq!(pulled.user.as_deref(), Some("app"));
    assert_eq!(pulled.command, ["/bin/cat", "/etc/mark"]);
    assert_eq!(pulled.working_dir.as_deref(), Some("/tmp"));
    assert_eq!(pulled.architecture, scene.engine.info().architecture);
    assert!(pulled.tags.contains(&by_tag), "{:?}", pulled.tags);
    assert!(pulled.digests.contains(&by_digest), "{:?}", pulled.digests);

    let (again, _) = scene.pull(&by_digest, Some("secret")).await;
    assert_eq!(again.expect("pulled").id, pulled.id);

    let listed = scene.engine.images().await.expect("listed");
    let listed = listed.into_iter().find(|entry| entry.id == pulled.id).expect("it is listed");
    assert!(listed.tags.contains(&by_tag) && listed.digests.contains(&by_digest), "{listed:?}");
    for reference in listed.tags {
        scene.engine.remove_image(&reference).await.expect("removed");
    }
    scene.engine.remove_image(&pulled.id).await.expect("gone already, or removed");
    assert_eq!(scene.engine.image(&pulled.id).await.expect("asked"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_fail_is_told_apart() {
    let scene = Scene::new().await;
    let image = image(&unique());
    let tag = scene.reference(":v1");
    let _removed = Removed(vec![tag.clone(), image.id.clone()]);
    scene.registry.offer(NAME, "v1", &image);
    scene.registry.offer(NAME, "listed", &image.listed("s390x"));
    for (behaviour, reference, fault) in [
        (Behaviour::TooMany, tag.clone(), PullFault::RateLimited),
        (Behaviour::Away, tag.clone(), PullFault::Network),
        (Behaviour::Cut { after: 1000 }, tag.clone(), PullFault::Network),
        (Behaviour::Corrupt, tag.clone(), PullFault::Digest),
        (Behaviour::Well, scene.reference(":listed"), PullFault::Architecture),
        (Behaviour::Well, "127.0.0.1:1/x:1".to_owned(), PullFault::Network),
        (Behaviour::Well, format!("{}/Team/APP:1", scene.registry.host()), PullFault::Reference),
        (Behaviour::Well, "no spaces please".to_owned(), PullFault::Reference),
    ] {
        scene.registry.behave(behaviour);
        let (found, detail) = scene.refused(&reference).await;
        assert_eq!(found, fault, "{behaviour:?} {reference}: {detail}");
    }

    scene.registry.behave(Behaviour::Stall { after: 1000 });
    let error = scene.pull(&tag, None).await.0.expect_err("nothing comes");
    assert!(matches!(error, PullError::Stalled { .. }) && error.is_retryable(), "{error:?}");

    scene.registry.behave(Behaviour::Well);
    let (pulled, _) = scene.pull(&tag, None).await;
    assert_eq!(pulled.expect("pulled after all").id, image.id);
}

async fn connect_to(dir: &Path) -> Engine {
    let socket = dir.join("podman.sock");
    let options = EngineOptions {
        socket: Some(socket),
        runtime_dir: dir.to_owned(),
        kind: EngineChoice::Podman,
    };
    eventually("the holder's service answers", || async {
        connect(options.clone()).await.ok().map(|(engine, _)| engine)
    })
    .await
}
