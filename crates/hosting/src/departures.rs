//! Exports: what is on the disk of a runner, sealed for another node.

use std::fs::File;
use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::CheckpointPlace;
use belay_lifecycle::core::container::declaration_of;
use belay_lifecycle::core::spec;
use belay_protocol::NodeId;
use belay_protocol::runner::{RunId, RunnerId, TravelId};
use belay_runner::Departure;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::core::archive::{FileHead, PIECE, Part, SALT, Sealer, TravelKey};
use crate::core::checkpoint::Incompatible;
use crate::core::container::{self, URL};
use crate::core::manifest::{MadeOf, Manifest};
use crate::store::ImageHasher;
use crate::travel::{TravelError, Travels, broken, some_of};

/// Pieces that may wait for who reads the archive.
const WAITING: usize = 8;
/// How long who reads it may take for a piece.
const PATIENCE: Duration = Duration::from_secs(60);

/// An export that has begun: the run is leaving.
#[derive(Debug)]
pub struct Outgoing {
    travels: Travels,
    key: TravelKey,
    manifest: Manifest,
    place: CheckpointPlace,
    _permit: OwnedSemaphorePermit,
}

impl Travels {
    /// Begins an export of what is on the disk of a runner, for another node. From now on it is not
    /// restored here until the export has failed. Whoever has this sends it.
    pub async fn export(&self, runner: RunnerId, to: NodeId) -> Result<Outgoing, TravelError> {
        let key = self.key().await?;
        let tools = &self.tools;
        if to == tools.node {
            return Err(TravelError::SameNode(to));
        }
        let permit = self.places.clone().try_acquire_owned().map_err(|_| TravelError::Busy)?;
        let none = || TravelError::NoCheckpoint(runner.clone());
        let record = tools.store.get(&runner).ok_or_else(none)?;
        let name = container::name(&tools.node, &runner);
        let found = tools.engine.inspect(&name).await?.ok_or_else(none)?;
        let place = tools.engine.checkpoint_place(&name).await?.ok_or_else(none)?;
        let declared = declaration_of(&found).and_then(|declaration| {
            let directory = Path::new(&declaration.directory);
            spec::parse(&declaration.spec, &declaration.file, directory).ok()
        });
        let declared = declared.ok_or_else(|| TravelError::Failed {
            what: "read what it was made of",
            why: "its container does not say so".to_owned(),
        })?;
        let mounted: Vec<String> = declared.confinement.tmpfs.keys().cloned().collect();
        let written = tools.engine.changed_paths(&name, &mounted).await?;
        if !written.is_empty() {
            return Err(TravelError::HoldsFiles { runner, paths: some_of(&written) });
        }
        let reach = tools.door.reach(declared.network, String::new());
        let url = found.labels.get(URL).cloned().or(reach.map(|reach| reach.url));
        let url = url.ok_or_else(|| TravelError::Failed {
            what: "tell where it looks for belayd",
            why: "the engine has no bridge".to_owned(),
        })?;
        let image = tools.engine.image(&found.image_id).await?;
        let tags = image.map(|image| image.tags).unwrap_or_default();
        let made_of = MadeOf::of(&record.image, &tags, &declared);
        let (run, Departure { travel, to }) = tools.grants.leave(runner.clone(), to).await?;
        let manifest = Manifest {
            travel,
            from: tools.node.clone(),
            to,
            runner,
            workload: record.workload,
            run,
            url,
            made_of,
            taken_at: record.taken_at,
            bytes: record.bytes,
            digest: record.digest,
            versions: record.versions,
            processor: self.processor.clone(),
        };
        Ok(Outgoing { travels: self.clone(), key, manifest, place, _permit: permit })
    }
}

impl Outgoing {
    /// The run that leaves.
    pub fn run(&self) -> RunId {
        self.manifest.run
    }

    /// Its way.
    pub fn travel(&self) -> TravelId {
        self.manifest.travel
    }

    /// The archive, piece by piece, and what sends it. The last piece of content, without which nobody
    /// takes the archive, is sent once that the run is the other node's is on the disk; if that does
    /// not come about the run stays. An empty piece says that all of it came; without one it did not.
    pub fn send(self) -> (mpsc::Receiver<Bytes>, impl Future<Output = ()> + Send) {
        let (pieces, receiver) = mpsc::channel(WAITING);
        let sending = async move {
            let (grants, runner, travel) = (
                self.travels.tools.grants.clone(),
                self.manifest.runner.clone(),
                self.manifest.travel,
            );
            let Err(error) = self.send_all(&pieces).await else { return };
            tracing::warn!(%runner, "its export ended early: {}", crate::act::with_causes(&error));
            if let Err(error) = grants.stay(runner.clone(), travel).await {
                // The next belayd calls it off.
                tracing::error!(%runner, "that it does not leave cannot be noted: {error}");
            }
        };
        (receiver, sending)
    }

    async fn send_all(self, pieces: &mpsc::Sender<Bytes>) -> Result<(), TravelError> {
        let Self { travels, key, manifest, place, .. } = self;
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).expect("a kernel that runs containers has getrandom");
        let (mut sealer, begins) = Sealer::begin(&key, salt, &manifest);
        let send = |bytes: Vec<u8>| travels.send(pieces, bytes);
        send(begins).await?;
        let mut hasher = ImageHasher::default();
        for (part, path) in files_of(&place).await? {
            let mut reader = Reader::open(path).await?;
            let (name, bytes) = (reader.name.clone(), reader.bytes);
            if part == Part::Image {
                hasher.begin(name.as_bytes(), bytes);
            }
            send(sealer.file(&FileHead { part, name, bytes })).await?;
            while let Some(piece) = reader.piece().await? {
                if part == Part::Image {
                    hasher.update(&piece);
                }
                send(sealer.data(&piece)).await?;
            }
        }
        if hasher.finish() != manifest.digest {
            return Err(TravelError::Failed {
                what: "read the checkpoint",
                why: Incompatible::Damaged.to_string(),
            });
        }
        let Manifest { runner, travel, .. } = manifest;
        let (grants, node) = (&travels.tools.grants, &travels.tools.node);
        let passage = grants.give_up(runner.clone(), travel, node).await?.to_bytes();
        // From here on it can be exported again, whatever becomes of this.
        let rest = async {
            send(sealer.end(&passage)).await?;
            send(Vec::new()).await
        };
        if let Err(error) = rest.await {
            tracing::warn!(%runner, "it was given up, and its archive did not go out whole; export \
                it again: {error}");
        }
        Ok(())
    }
}

impl Travels {
    async fn send(&self, pieces: &mpsc::Sender<Bytes>, bytes: Vec<u8>) -> Result<(), TravelError> {
        let sending = pieces.send_timeout(bytes.into(), PATIENCE);
        let sent = tokio::select! {
            sent = sending => sent,
            () = self.tools.ending.cancelled() => return Err(TravelError::Ending),
        };
        sent.map_err(|_| TravelError::Cut("nobody reads it any more".to_owned()))
    }
}

/// The files of a checkpoint, in the order in which they are sent: that of their names.
async fn files_of(place: &CheckpointPlace) -> Result<Vec<(Part, PathBuf)>, TravelError> {
    let place = place.clone();
    let listed = move || {
        let mut names: Vec<_> = std::fs::read_dir(&place.image)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<std::io::Result<_>>()?;
        names.sort();
        let image = names.into_iter().map(|name| (Part::Image, place.image.join(name)));
        let shm = place.shm.is_file().then(|| (Part::Shm, place.shm.clone()));
        Ok(image.chain(shm).collect())
    };
    let listed = tokio::task::spawn_blocking(listed).await;
    let listed = listed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    listed.map_err(broken("list the files of the checkpoint"))
}

/// A file that is read, of which exactly as much comes as was there at first.
struct Reader {
    file: File,
    name: String,
    bytes: u64,
    left: u64,
}

impl Reader {
    async fn open(path: PathBuf) -> Result<Self, TravelError> {
        let open = move || {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| std::io::Error::other("its name is no text"))?.to_owned();
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            Ok(Self { file, name, bytes, left: bytes })
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        opened.map_err(broken("open a file of the checkpoint"))
    }

    async fn piece(&mut self) -> Result<Option<Vec<u8>>, TravelError> {
        let length = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if length == 0 {
            return Ok(None);
        }
        let mut file = self.file.try_clone().map_err(broken("read a file of the checkpoint"))?;
        let read = move || {
            let mut piece = vec![0; length];
            file.read_exact(&mut piece).map(|()| piece)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let piece = read.map_err(broken("read a file of the checkpoint"))?;
        self.left -= length as u64;
        Ok(Some(piece))
    }
}
