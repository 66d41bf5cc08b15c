//! Images from files: a root file system goes in by import, a saved image by load.
//!
//! The local tag is made of the file's content, so that loading the same bytes again finds the
//! image there. The file is read twice, once to know it and once to hand it over; the second
//! reading is hashed too, and what is not the same is taken back.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bollard::query_parameters::{CreateImageOptionsBuilder, ImportImageOptions};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::http::Api;
use super::{Engine, EngineKind, fault};
use crate::blocking;
use crate::core::archive::{ArchiveKind, Detector, Packing, Seen, packing};
use crate::core::image_name::local_tag;
use crate::deadline;
use crate::error::{EngineError, LoadError, Object, Operation};
use crate::image::Image;

/// Size of the pieces in which a file is handed over.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the engine.
const PIECES_WAITING: usize = 4;
/// Largest `manifest.json` that is read.
const MANIFEST_MAX: u64 = 1 << 20;

/// What a file turned out to be.
struct Examined {
    digest: blake3::Hash,
    packing: Packing,
    kind: ArchiveKind,
    /// References of the images in a Docker archive's own list.
    names: Vec<String>,
}

impl Engine {
    /// Makes an image of a file: a tar, plain or gzip, of a root file system or of an image as
    /// `podman save` or `docker save` writes it. What it is is told by its content.
    ///
    /// The image is tagged `localhost/belay/<file name>:<16 hex digits of its BLAKE3>`, and a file
    /// whose tag is there is not loaded again. A saved image brings its own tags along too, as with
    /// the engine's own load. Deadline: [`deadline::LOAD`].
    pub async fn load(&self, path: &Path) -> Result<Image, LoadError> {
        let examined = {
            let path = path.to_owned();
            blocking::run(move || examine(&path)).await?
        };
        if examined.names.len() > 1 {
            return Err(LoadError::SeveralImages { path: path.to_owned(), images: examined.names });
        }
        let tag = local_tag(path, &examined.digest);
        if let Some(image) = self.image(&tag).await? {
            return Ok(image);
        }
        let operation = Operation::Load;
        let object = || Object::Image(tag.clone());
        let handover = Handover::begin(path.to_owned(), examined.packing);
        let pieces = stream_of(handover.pieces);
        let handing_over = async {
            match examined.kind {
                ArchiveKind::RootFileSystem => self.import(&tag, pieces).await,
                ArchiveKind::Image => {
                    let loaded = self.load_image(&tag, pieces).await?;
                    self.tag(&loaded, &tag).await
                }
            }
        };
        let handed_over = tokio::time::timeout(deadline::LOAD, handing_over).await;
        let handed_over = handed_over.unwrap_or_else(|_| {
            Err(EngineError::TimedOut { operation, object: object(), after: deadline::LOAD })
        });
        // The pieces are dropped by now, whatever became of them, so that the reader comes to its end.
        let read = blocking::join(handover.reading).await;
        let digest = match read {
            Ok(digest) => digest,
            Err(source) => {
                self.untag(&tag).await?;
                return Err(LoadError::Read { path: path.to_owned(), source });
            }
        };
        if digest != examined.digest {
            self.untag(&tag).await?;
            return Err(LoadError::Changed { path: path.to_owned() });
        }
        handed_over?;
        let image = self.image(&tag).await?.ok_or_else(|| EngineError::Unknown {
            operation,
            object: object(),
            status: None,
            detail: "the engine took the file without an error and made no image of it".to_owned(),
        })?;
        Ok(image)
    }

    async fn import(&self, tag: &str, pieces: Pieces) -> Result<(), EngineError> {
        match self.info().kind {
            EngineKind::Podman => self.import_libpod(tag, pieces).await,
            EngineKind::Docker => self.import_docker(tag, pieces).await,
        }
    }

    /// By Podman's own route: its Docker route leaves a copy of the archive in `/var/tmp`, each
    /// time (4.3.1).
    async fn import_libpod(&self, tag: &str, pieces: Pieces) -> Result<(), EngineError> {
        let request = self
            .http()
            .request(reqwest::Method::POST, Api::Libpod, "/images/import")
            .query(&[("reference", tag)])
            .header("content-type", "application/x-tar")
            .body(reqwest::Body::wrap_stream(pieces));
        let object = Object::Image(tag.to_owned());
        let _: Imported =
            self.http().json(Operation::Load, object, deadline::LOAD, request).await?;
        Ok(())
    }

    async fn import_docker(&self, tag: &str, pieces: Pieces) -> Result<(), EngineError> {
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(tag).build();
        let body = bollard::body_try_stream(pieces);
        let mut steps = std::pin::pin!(self.docker().create_image(Some(options), Some(body), None));
        while let Some(step) = steps.next().await {
            step.map_err(|error| {
                fault::from_bollard(Operation::Load, Object::Image(tag.to_owned()), error)
            })?;
        }
        Ok(())
    }

    /// Gives the reference or id under which the engine has the image.
    async fn load_image(&self, tag: &str, pieces: Pieces) -> Result<String, EngineError> {
        let object = || Object::Image(tag.to_owned());
        let body = bollard::body_try_stream(pieces);
        let mut steps =
            std::pin::pin!(self.docker().import_image(ImportImageOptions::default(), body, None));
        let mut said = String::new();
        while let Some(step) = steps.next().await {
            let step =
                step.map_err(|error| fault::from_bollard(Operation::Load, object(), error))?;
            said.push_str(step.stream.as_deref().unwrap_or_default());
        }
        loaded_name(&said).ok_or_else(|| EngineError::Unknown {
            operation: Operation::Load,
            object: object(),
            status: None,
            detail: format!("the engine did not say what it loaded: {:?}", said.trim()),
        })
    }
}

/// Podman's answer to an import. The image is looked up by its tag, so the id is only read.
#[derive(Deserialize)]
struct Imported {
    #[serde(rename = "Id")]
    _id: String,
}

/// Reads "Loaded image: a/b:c" and "Loaded image ID: sha256:…"; Podman lists several tags of one
/// image with commas.
fn loaded_name(said: &str) -> Option<String> {
    said.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("Loaded image ID: ")
                .or_else(|| line.trim().strip_prefix("Loaded image: "))
        })
        .find_map(|names| names.split(',').map(str::trim).find(|name| !name.is_empty()))
        .map(str::to_owned)
}

fn examine(path: &Path) -> Result<Examined, LoadError> {
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let not_an_image =
        |found: &str| LoadError::NotAnImage { path: path.to_owned(), found: found.to_owned() };
    let file = File::open(path).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(not_an_image("it is no regular file"));
    }
    let mut file = BufReader::with_capacity(PIECE, file);
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head).map_err(read)?;
    if head.is_empty() {
        return Err(not_an_image("it is empty"));
    }
    file.rewind().map_err(read)?;
    let packing = packing(&head);
    let contents = match packing {
        Packing::Plain => contents(tar::Archive::new(&mut file)),
        Packing::Gzip => contents(tar::Archive::new(MultiGzDecoder::new(&mut file))),
        Packing::Other(what) => return Err(not_an_image(&format!("it is {what}"))),
    };
    let (kind, names) =
        contents.map_err(|error| not_an_image(&format!("it is damaged: {error}")))?;
    let kind = kind.ok_or_else(|| not_an_image("it is an empty tar file"))?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(read)? {
            0 => break,
            length => hasher.update(&piece[..length]),
        };
    }
    Ok(Examined { digest: hasher.finalize(), packing, kind, names })
}

/// One image of a Docker archive's `manifest.json`.
#[derive(Deserialize)]
struct ManifestEntry {
    #[serde(rename = "Config", default)]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
}

fn contents<R: Read>(
    mut archive: tar::Archive<R>,
) -> io::Result<(Option<ArchiveKind>, Vec<String>)> {
    let mut detector = Detector::default();
    let mut names = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        let name = entry.path_bytes().into_owned();
        if detector.see(&name) == Seen::Settled {
            return Ok((detector.finish(), Vec::new()));
        }
        if name == b"manifest.json" {
            // One that cannot be read is for the engine to refuse.
            let list: Vec<ManifestEntry> =
                serde_json::from_reader(entry.take(MANIFEST_MAX)).unwrap_or_default();
            names = list
                .into_iter()
                .map(|image| image.tags.into_iter().flatten().next().unwrap_or(image.config))
                .collect();
        }
    }
    Ok((detector.finish(), names))
}

/// A file on its way to the engine: a blocking thread reads, unpacks and hashes, the stream hands
/// over. Podman 4.3 does not take a packed saved image over its API, so that nothing packed is sent.
struct Handover {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    reading: JoinHandle<io::Result<blake3::Hash>>,
}

impl Handover {
    fn begin(path: PathBuf, packing: Packing) -> Self {
        let (send, pieces) = mpsc::channel(PIECES_WAITING);
        let reading = tokio::task::spawn_blocking(move || hand_over(&path, packing, &send));
        Self { pieces, reading }
    }
}

/// Reads the whole file, also when nobody takes the pieces any more; gives the hash of its bytes.
fn hand_over(
    path: &Path,
    packing: Packing,
    send: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<blake3::Hash> {
    let mut file = Hashing { file: File::open(path)?, hasher: blake3::Hasher::new() };
    let handed = match packing {
        Packing::Gzip => send_all(MultiGzDecoder::new(BufReader::new(&mut file)), send),
        Packing::Plain | Packing::Other(_) => send_all(&mut file, send),
    };
    if let Err(error) = handed {
        // The receiver is gone only when the engine has refused already.
        let _ = send.blocking_send(Err(error));
    }
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.hasher.finalize())
}

fn send_all(mut from: impl Read, send: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        from.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || send.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
}

struct Hashing {
    file: File,
    hasher: blake3::Hasher,
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(into)?;
        self.hasher.update(&into[..length]);
        Ok(length)
    }
}

type Pieces = futures_util::stream::BoxStream<'static, io::Result<Bytes>>;

fn stream_of(mut pieces: mpsc::Receiver<io::Result<Bytes>>) -> Pieces {
    futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx)).boxed()
}

#[cfg(test)]
mod tests;
