//! Pulling, from a registry of one image that the test serves itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use belay_engine::{
    Engine, EngineChoice, EngineError, EngineOptions, PullProgress, RegistryCredentials, connect,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::service::hold_a_service;
use crate::world::{command_line, eventually, gzip, root_tar, unique};

const NAME: &str = "team/app";
/// `user:secret`, as HTTP basic authentication sends it.
const AUTHORIZATION: &str = "authorization: basic dxnlcjpzzwnyzxq=";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

struct Blob {
    digest: String,
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: digest_of(&bytes), kind, bytes }
    }

    fn described(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.kind, "digest": self.digest, "size": self.bytes.len()
        })
    }
}

fn digest_of(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("written");
    let output = Command::new("/usr/bin/sha256sum").arg(file.path()).output().expect("coreutils");
    let text = String::from_utf8(output.stdout).expect("text");
    format!("sha256:{}", text.split(' ').next().expect("a digest"))
}

/// The blobs of one image, the manifest last.
fn image(mark: &str) -> Vec<Blob> {
    let tree = root_tar(mark);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "User": "app", "Cmd": ["/bin/cat", "/etc/mark"], "WorkingDir": "/tmp" },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&tree)] }
    });
    let layer = Blob::new("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&tree));
    let config = Blob::new(
        "application/vnd.docker.container.image.v1+json",
        config.to_string().into_bytes(),
    );
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": config.described(), "layers": [layer.described()]
    });
    vec![layer, config, Blob::new(MANIFEST, manifest.to_string().into_bytes())]
}

/// Answers one request per connection.
async fn answer(stream: TcpStream, blobs: &[Blob]) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut authorized = false;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        authorized |= header.trim().eq_ignore_ascii_case(AUTHORIZATION);
        if header.trim().is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let manifest = blobs.last().expect("a manifest");
    let found = match path.strip_prefix(&format!("/v2/{NAME}/")) {
        Some("manifests/v1") => Some(manifest),
        Some(rest) => blobs.iter().find(|blob| rest.ends_with(&format!("s/{}", blob.digest))),
        None => None,
    };
    let (status, kind, digest, body) = match found {
        _ if !authorized => ("401 Unauthorized", "application/json", "", &b"{}"[..]),
        Some(blob) => ("200 OK", blob.kind, blob.digest.as_str(), &blob.bytes[..]),
        None if path == "/v2/" => ("200 OK", "application/json", "", &b"{}"[..]),
        None => (
            "404 Not Found",
            "application/json",
            "",
            &br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#[..],
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         docker-content-digest: {digest}\r\nwww-authenticate: Basic realm=\"test\"\r\n\
         docker-distribution-api-version: registry/2.0\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

async fn pull(
    engine: &Engine,
    image: &str,
    password: Option<&str>,
) -> (Result<belay_engine::Image, EngineError>, Vec<PullProgress>) {
    let credentials = password.map(|password| RegistryCredentials {
        username: "user".to_owned(),
        password: password.to_owned(),
        registry: None,
    });
    let (progress, mut seen) = mpsc::channel(64);
    let pulled = engine.pull(image, credentials.as_ref(), progress).await;
    let mut steps = Vec::new();
    while let Ok(step) = seen.try_recv() {
        steps.push(step);
    }
    (pulled, steps)
}

struct Removed(Vec<String>);

impl Drop for Removed {
    fn drop(&mut self) {
        for image in &self.0 {
            command_line(&["rmi", "--force", image]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest_with_credentials() {
    let dir = tempfile::tempdir().expect("a folder");
    let blobs = Arc::new(image(&unique()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let registry = listener.local_addr().expect("bound");
    let offered = Arc::clone(&blobs);
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that goes away is no concern of the server's.
            let _ = answer(stream, &offered).await;
        }
    });

    // The service has to be told that this registry speaks plain HTTP.
    let settings = dir.path().join("registries.conf");
    let text = format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
    std::fs::write(&settings, text).expect("written");
    let _holder = hold_a_service(dir.path(), |command: &mut Command| {
        command.env("CONTAINERS_REGISTRIES_CONF", &settings).stdin(Stdio::null());
    })
    .await;
    let engine = connect_to(dir.path()).await;

    let by_tag = format!("{registry}/{NAME}:v1");
    let manifest = &blobs.last().expect("a manifest").digest;
    let by_digest = format!("{registry}/{NAME}@{manifest}");
    for password in [None, Some("wrong")] {
        let (refused, _) = pull(&engine, &by_tag, password).await;
        let error = refused.expect_err("no credentials");
        assert!(matches!(error, EngineError::Denied { .. }), "{password:?}: {error:?}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let (absent, _) = pull(&engine, &format!("{registry}/{NAME}:v2"), Some("secret")).await;
    let error = absent.expect_err("no such tag");
    assert!(error.is_absent(), "{error:?}");

    let _removed = Removed(vec![by_tag.clone(), by_digest.clone()]);
    let (pulled, steps) = pull(&engine, &by_tag, Some("secret")).await;
    let pulled = pulled.expect("pulled");
    assert!(!steps.is_empty(), "progress was told");
    assert_eq!(pulled.id, blobs[1].digest, "an image's id is the digest of its configuration");
    assert_eq!(pulled.user.as_deref(), Some("app"));
    assert_eq!(pulled.command, ["/bin/cat", "/etc/mark"]);
    assert_eq!(pulled.working_dir.as_deref(), Some("/tmp"));
    assert!(pulled.tags.contains(&by_tag), "{:?}", pulled.tags);
    assert!(pulled.digests.contains(&by_digest), "{:?}", pulled.digests);

    let (again, _) = pull(&engine, &by_digest, Some("secret")).await;
    assert_eq!(again.expect("pulled").id, pulled.id);
    server.abort();
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
