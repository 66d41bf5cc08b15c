//! A registry that a test serves itself: the part of the distribution API that a pull uses, over
//! plain HTTP, and misbehaving on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a registry behaves towards whoever may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Well,
    /// It breaks the connection after so many bytes of a layer.
    Cut {
        /// Bytes that are sent.
        after: usize,
    },
    /// It falls silent after so many bytes of a layer.
    Stall {
        /// Bytes that are sent.
        after: usize,
    },
    /// It sends layers with one byte changed.
    Corrupt,
    /// It says that it was asked too often.
    TooMany,
    /// It breaks every connection without an answer.
    Away,
}

/// One image to offer.
#[derive(Debug, Clone)]
pub struct RegistryImage {
    /// Digest of its configuration, which is the image's id.
    pub id: String,
    /// Digest of its manifest.
    pub digest: String,
    blobs: Vec<Blob>,
}

#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    kind: &'static str,
    bytes: Arc<Vec<u8>>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), kind, bytes: Arc::new(bytes) }
    }

    fn described(&self) -> Value {
        json!({ "mediaType": self.kind, "digest": self.digest, "size": self.bytes.len() })
    }
}

impl RegistryImage {
    /// An image of one layer. `config` is merged into its run configuration: `{"Cmd": [...]}`.
    pub fn new(root_tar: Vec<u8>, architecture: &str, config: &Value) -> Self {
        let layer = Blob::new(LAYER, root_tar);
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] }
        });
        let config = Blob::new(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.described(), "layers": [layer.described()]
        });
        let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
        let (id, digest) = (config.digest.clone(), manifest.digest.clone());
        Self { id, digest, blobs: vec![layer, config, manifest] }
    }

    /// The same image in a list that names only this architecture.
    ///
    /// # Panics
    /// Never: every image has a manifest.
    #[must_use]
    pub fn listed(&self, architecture: &str) -> Self {
        let manifest = self.blobs.last().expect("an image has a manifest");
        let mut entry = manifest.described();
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let list = Blob::new(INDEX, list.to_string().into_bytes());
        let mut blobs = self.blobs.clone();
        let digest = list.digest.clone();
        blobs.push(list);
        Self { id: self.id.clone(), digest, blobs }
    }

    /// Bytes of its layers.
    pub fn layer_bytes(&self) -> usize {
        self.blobs.iter().filter(|blob| blob.kind == LAYER).map(|blob| blob.bytes.len()).sum()
    }
}

/// What a registry offers and has seen.
#[derive(Debug)]
struct Shared {
    offered: BTreeMap<(String, String), RegistryImage>,
    /// Every image that was ever offered, by repository: a digest goes on being served.
    known: Vec<(String, RegistryImage)>,
    authorization: Option<String>,
    behaviour: Behaviour,
    seen: Vec<String>,
    sent: u64,
}

/// A registry on a loopback port of its own. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

impl Registry {
    /// Starts a registry that offers nothing yet and asks nobody for credentials.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Mutex::new(Shared {
            offered: BTreeMap::new(),
            known: Vec::new(),
            authorization: None,
            behaviour: Behaviour::Well,
            seen: Vec::new(),
            sent: 0,
        }));
        let seen_by_all = Arc::clone(&shared);
        let server = tokio::spawn(async move {
            let mut answers = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&seen_by_all);
                // A client that goes away is no concern of the registry's.
                answers.spawn(async move { drop(answer(stream, &shared).await) });
                while answers.try_join_next().is_some() {}
            }
        });
        Self { address, shared, server }
    }

    /// Host and port, as an image reference begins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Offers an image under a name and a tag; the tag moves if it was another's.
    pub fn offer(&self, name: &str, tag: &str, image: &RegistryImage) {
        let mut shared = lock(&self.shared);
        shared.offered.insert((name.to_owned(), tag.to_owned()), image.clone());
        shared.known.push((name.to_owned(), image.clone()));
    }

    /// Wants this name and password from now on.
    pub fn require(&self, username: &str, password: &str) {
        let pair = base64(format!("{username}:{password}").as_bytes());
        lock(&self.shared).authorization = Some(format!("Basic {pair}"));
    }

    /// Behaves so from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.shared).behaviour = behaviour;
    }

    /// Requests that it answered, as in `GET /v2/team/app/manifests/v1`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared).seen.clone()
    }

    /// How often a layer was asked for.
    pub fn layers_asked(&self) -> usize {
        let shared = lock(&self.shared);
        let layers: Vec<_> = shared
            .known
            .iter()
            .flat_map(|(_, image)| &image.blobs)
            .filter(|blob| blob.kind == LAYER)
            .map(|blob| blob.digest.as_str())
            .collect();
        shared
            .seen
            .iter()
            .filter(|line| line.starts_with("GET ") && layers.iter().any(|l| line.ends_with(l)))
            .count()
    }

    /// Bytes of bodies that were sent.
    pub fn sent(&self) -> u64 {
        lock(&self.shared).sent
    }

    /// Writes the file that tells Podman that this registry speaks plain HTTP; the service takes it
    /// from `CONTAINERS_REGISTRIES_CONF`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn settings(&self, directory: &Path) -> PathBuf {
        let path = directory.join("registries.conf");
        let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", self.address);
        std::fs::write(&path, text).expect("a file for the engine");
        path
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be sent.
struct Answer {
    status: &'static str,
    kind: &'static str,
    digest: String,
    body: Arc<Vec<u8>>,
    behaviour: Behaviour,
}

/// Answers one request per connection.
async fn answer(stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut authorization = String::new();
    let mut from = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => value.trim().clone_into(&mut authorization),
            "range" => {
                let start = value.trim().trim_start_matches("bytes=").trim_end_matches('-');
                from = start.parse().unwrap_or(0);
            }
            _ => {}
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let Some(answer) = decide(&mut lock(shared), method, path, &authorization) else {
        return Ok(());
    };
    let body = answer.body.get(from..).unwrap_or_default();
    let (status, range) = if from > 0 && answer.status == "200 OK" {
        let total = answer.body.len();
        let range = format!("content-range: bytes {from}-{}/{total}\r\n", total.saturating_sub(1));
        ("206 Partial Content", range)
    } else {
        (answer.status, String::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{range}\
         docker-content-digest: {}\r\nwww-authenticate: Basic realm=\"test\"\r\n\
         docker-distribution-api-version: registry/2.0\r\nretry-after: 0\r\n\
         connection: close\r\n\r\n",
        answer.kind,
        body.len(),
        answer.digest
    );
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes()).await?;
    if method == "HEAD" {
        return stream.shutdown().await;
    }
    let (send, then_stall) = match answer.behaviour {
        Behaviour::Cut { after } => (&body[..after.min(body.len())], false),
        Behaviour::Stall { after } => (&body[..after.min(body.len())], true),
        Behaviour::Well | Behaviour::Corrupt | Behaviour::TooMany | Behaviour::Away => {
            (body, false)
        }
    };
    stream.write_all(send).await?;
    stream.flush().await?;
    lock(shared).sent += send.len() as u64;
    if then_stall {
        // Held open and silent until the client gives up.
        let mut rest = [0; 1];
        let _ = tokio::io::AsyncReadExt::read(stream, &mut rest).await;
    }
    stream.shutdown().await
}

/// `None` is a connection that is broken without an answer.
fn decide(shared: &mut Shared, method: &str, path: &str, authorization: &str) -> Option<Answer> {
    if shared.behaviour == Behaviour::Away {
        return None;
    }
    shared.seen.push(format!("{method} {path}"));
    let plain = |status, text: &str| Answer {
        status,
        kind: "application/json",
        digest: String::new(),
        body: Arc::new(text.as_bytes().to_vec()),
        behaviour: Behaviour::Well,
    };
    if shared.authorization.as_ref().is_some_and(|wanted| wanted != authorization) {
        let text = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return Some(plain("401 Unauthorized", text));
    }
    if path == "/v2/" {
        return Some(plain("200 OK", "{}"));
    }
    if shared.behaviour == Behaviour::TooMany {
        let text = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests"}]}"#;
        return Some(plain("429 Too Many Requests", text));
    }
    let Some(blob) = find(shared, path) else {
        let text = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return Some(plain("404 Not Found", text));
    };
    let layer = blob.kind == LAYER;
    let mut body = blob.bytes;
    if layer && shared.behaviour == Behaviour::Corrupt {
        let mut changed = body.to_vec();
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        body = Arc::new(changed);
    }
    Some(Answer {
        status: "200 OK",
        kind: blob.kind,
        digest: blob.digest,
        body,
        behaviour: if layer { shared.behaviour } else { Behaviour::Well },
    })
}

fn find(shared: &Shared, path: &str) -> Option<Blob> {
    let rest = path.strip_prefix("/v2/")?;
    let (name, last) = rest.rsplit_once('/')?;
    let (name, kind) = name.rsplit_once('/')?;
    let own = || shared.known.iter().filter(|(known, _)| known == name);
    match kind {
        "manifests" if !last.starts_with("sha256:") => {
            let image = shared.offered.get(&(name.to_owned(), last.to_owned()))?;
            image.blobs.last().cloned()
        }
        "manifests" | "blobs" => {
            own().flat_map(|(_, image)| &image.blobs).find(|blob| blob.digest == last).cloned()
        }
        _ => None,
    }
}

/// The same root file system with one file more, so that its layer is no other test's.
///
/// # Panics
/// When the tar is not one that ends as usual.
pub fn marked(mut tar: Vec<u8>, mark: &str) -> Vec<u8> {
    /// Two blocks of zeros.
    const END: usize = 1024;
    let end = tar.len().checked_sub(END).expect("a tar has an end");
    assert!(tar[end..].iter().all(|&byte| byte == 0), "the tar ends with zeros");
    tar.truncate(end);
    let mut tar = tar::Builder::new(tar);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(mark.len() as u64);
    tar.append_data(&mut header, "etc/mark", mark.as_bytes()).expect("it fits");
    tar.into_inner().expect("memory takes it")
}

fn sha256(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, bytes).expect("it can be written");
    let output = Command::new("/usr/bin/sha256sum").arg(file.path()).output().expect("coreutils");
    let text = String::from_utf8(output.stdout).expect("sha256sum writes text");
    format!("sha256:{}", text.split(' ').next().expect("a digest"))
}

/// Base64 with padding, as HTTP basic authentication has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*group.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * at) & 63]);
            text.push(if at <= group.len() { letter } else { '=' });
        }
    }
    text
}
