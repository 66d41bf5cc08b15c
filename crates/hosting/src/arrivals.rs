//! Imports: what another node exported, taken whole or not at all.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::{CheckpointPlace, ContainerId, Liveness, Removal};
use belay_lifecycle::Template;
use belay_protocol::runner::{ArrivalVerdict, ImportedCheckpoint};
use belay_runner::{AskError, Passage, Traveller};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::core::archive::{ArchiveError, Item, Opener, Part};
use crate::core::checkpoint::{CheckpointRecord, SCHEMA};
use crate::core::container::{self, HOST, Identity, Reach};
use crate::core::job::Room;
use crate::core::manifest::{Manifest, Unfit, fits};
use crate::measure;
use crate::store::{self, BookError};
use crate::travel::{TravelError, Travels, address_of, broken, failed};

/// How long the next piece of an archive may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the files of an image are until all of them are there, beside where it belongs.
const INCOMING: &str = "checkpoint.incoming";
/// What a tar of `/dev/shm` takes at most: the engine gives that 64 MiB.
const SHM_MAX: u64 = 65 << 20;

/// An archive that comes in.
struct Incoming {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    opener: Opener,
}

impl Incoming {
    /// The next item; none when the archive is over, and was whole.
    async fn next(&mut self) -> Result<Option<Item>, TravelError> {
        loop {
            if let Some(item) = self.opener.take_item()? {
                return Ok(Some(item));
            }
            let piece = tokio::time::timeout(PATIENCE, self.pieces.recv()).await;
            match piece {
                Ok(Some(Ok(piece))) => self.opener.push(&piece)?,
                Ok(Some(Err(why))) => return Err(TravelError::Cut(why)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(TravelError::Cut("no more of it came for 60 s".to_owned())),
            }
        }
    }
}

/// A container that is made for what comes.
struct Prepared {
    id: ContainerId,
    place: CheckpointPlace,
}

impl Travels {
    /// Says whether an archive would be taken, and changes nothing. All of it is read.
    pub async fn check(
        &self,
        pieces: mpsc::Receiver<Result<Bytes, String>>,
    ) -> Result<ImportedCheckpoint, TravelError> {
        let (mut incoming, manifest, _) = self.begin(pieces).await?;
        self.tools
            .store
            .admits(manifest.bytes, measure::free(&self.tools.engine.info().storage))?;
        let passage = read(&mut incoming, &manifest, None).await?;
        self.tools.grants.may_come(passage.traveller().clone()).await?;
        Ok(shown(manifest, ArrivalVerdict::WouldBeTaken))
    }

    /// Takes an archive. When this returns the run is suspended here, and is brought back as if it
    /// had been here always. If it fails nothing of it is left, unless it was not confirmed.
    pub async fn import(
        &self,
        pieces: mpsc::Receiver<Result<Bytes, String>>,
    ) -> Result<ImportedCheckpoint, TravelError> {
        let (mut incoming, manifest, template) = self.begin(pieces).await?;
        let tools = &self.tools;
        let Some(_brought) = tools.arriving.begin(&manifest.runner) else {
            return Err(TravelError::Busy);
        };
        self.open_door(&manifest.url).await?;
        let free = measure::free(&tools.engine.info().storage);
        tools.store.promise(&manifest.runner, manifest.bytes, free)?;
        let taken = self.take(&mut incoming, &manifest, &template).await;
        let unconfirmed =
            matches!(&taken, Err(TravelError::Runs(AskError::Unanswered | AskError::Ended)));
        if taken.is_err() && !unconfirmed {
            self.discard(&manifest).await;
        }
        tools.store.withdraw(&manifest.runner);
        taken.map(|()| shown(manifest, ArrivalVerdict::Taken))
    }

    /// Reads what an archive is, and looks whether it may come.
    async fn begin(
        &self,
        pieces: mpsc::Receiver<Result<Bytes, String>>,
    ) -> Result<(Incoming, Manifest, Template), TravelError> {
        let opener = Opener::new(self.key().await?);
        let mut incoming = Incoming { pieces, opener };
        let Some(Item::Manifest(manifest)) = incoming.next().await? else {
            // Nothing else comes first.
            incoming.opener.finish()?;
            return Err(ArchiveError::Damaged("it is no archive of a checkpoint").into());
        };
        fits(&manifest, &self.here(&manifest.workload))?;
        let template = self.tools.templates.borrow().get(&manifest.workload).cloned();
        let template = template.ok_or_else(|| Unfit::NoWorkload(manifest.workload.clone()))?;
        // Until when it may come is in what is known of the run, which comes last.
        self.tools.grants.may_come(traveller(&manifest, Timestamp::MAX)).await?;
        Ok((incoming, *manifest, template))
    }

    /// Has belayd listen where the runner looks for it.
    async fn open_door(&self, url: &str) -> Result<(), TravelError> {
        let refused = |why: String| TravelError::Address { url: url.to_owned(), why };
        let door = &self.tools.door;
        if door.host == url || door.bridge.as_deref() == Some(url) {
            return Ok(());
        }
        let address = address_of(url).ok_or_else(|| refused("that is no address".to_owned()))?;
        self.doors.open(address).await.map_err(|error| refused(error.to_string()))
    }

    async fn take(
        &self,
        incoming: &mut Incoming,
        manifest: &Manifest,
        template: &Template,
    ) -> Result<(), TravelError> {
        let prepared = self.prepare(manifest, template).await?;
        let passage = read(incoming, manifest, Some(&prepared.place)).await?;
        self.book(manifest, &prepared).await?;
        Ok(self.tools.grants.admit(passage).await?)
    }

    /// Makes the container of a runner, which never ran here.
    async fn prepare(
        &self,
        manifest: &Manifest,
        template: &Template,
    ) -> Result<Prepared, TravelError> {
        let tools = &self.tools;
        self.clear(manifest).await?;
        let identity = Identity {
            runner: manifest.runner.clone(),
            workload: manifest.workload.clone(),
            generation: template.generation,
        };
        // Its token is in its memory, and nowhere else.
        let reach = Reach { url: manifest.url.clone(), token: String::new() };
        let image = template.image.as_ref();
        let image = image.ok_or_else(|| Unfit::NoWorkload(manifest.workload.clone()))?;
        let wanted =
            container::spec(template, &identity, &tools.node, &tools.host, &image.id, &reach);
        let id = tools.engine.create(&wanted).await?;
        tools.engine.prepare_restore(&id).await?;
        let place = tools.engine.checkpoint_place(&id).await?;
        let place = place.ok_or_else(|| TravelError::Failed {
            what: "put the checkpoint beside its container",
            why: "the engine does not say where that is".to_owned(),
        })?;
        Ok(Prepared { id, place })
    }

    /// Removes what an import that was cut short has left. Nobody knows of it: the run is not here.
    async fn clear(&self, manifest: &Manifest) -> Result<(), TravelError> {
        let tools = &self.tools;
        let name = container::name(&tools.node, &manifest.runner);
        let Some(found) = tools.engine.inspect(&name).await? else { return Ok(()) };
        let is_ours = found.labels.get(HOST).is_some_and(|host| *host == tools.host);
        if !is_ours || found.state.liveness() != Liveness::Stopped {
            return Err(TravelError::Failed {
                what: "make its container",
                why: format!("there is a container {name}"),
            });
        }
        tools.engine.remove(&found.id, Removal::Stopped).await?;
        tools.forget(&manifest.runner).await;
        Ok(())
    }

    /// Puts the image where the engine looks for it, once the disk has all of it, and writes it down.
    async fn book(&self, manifest: &Manifest, prepared: &Prepared) -> Result<(), TravelError> {
        let tools = &self.tools;
        let (place, digest) = (prepared.place.clone(), manifest.digest.clone());
        let mut record = CheckpointRecord {
            schema: SCHEMA,
            runner: manifest.runner.clone(),
            workload: manifest.workload.clone(),
            run: manifest.run,
            container: prepared.id.to_string(),
            image: manifest.made_of.image.clone(),
            taken_at: manifest.taken_at,
            boot_id: tools.boot_id.clone(),
            bytes: 0,
            digest: digest.clone(),
            versions: manifest.versions.clone(),
        };
        let store = tools.store.clone();
        let booked = tokio::task::spawn_blocking(move || {
            let incoming = incoming_of(&place);
            let print = store::print(&incoming).map_err(broken("read what came"))?;
            if print.digest != digest {
                return Err(
                    ArchiveError::Damaged("its files are not those that were exported").into()
                );
            }
            // It is not newer than its container, so that it counts by the books alone.
            std::fs::File::options()
                .write(true)
                .open(incoming.join("inventory.img"))
                .and_then(|file| file.set_modified(record.taken_at.into()))
                .map_err(broken("place what came"))?;
            std::fs::rename(&incoming, &place.image).map_err(broken("place what came"))?;
            let above = place.image.parent().expect("it lies below the container's directory");
            std::fs::File::open(above)
                .and_then(|above| above.sync_all())
                .map_err(broken("place what came"))?;
            record.bytes = print.bytes;
            match store.book(record, Room::Asked) {
                Ok(()) => Ok(()),
                Err(BookError::Full(full)) => Err(full.into()),
                Err(BookError::Store(error)) => Err(error.into()),
            }
        });
        booked.await.unwrap_or_else(|error| Err(failed("place what came")(&error)))
    }

    /// Removes what was made for something that does not come.
    async fn discard(&self, manifest: &Manifest) {
        if let Err(error) = self.clear(manifest).await {
            // Nobody knows of it, so it is ended within a minute.
            let runner = &manifest.runner;
            tracing::warn!(%runner, "what its import made is still there: {error}");
        }
    }
}

fn incoming_of(place: &CheckpointPlace) -> PathBuf {
    place.image.with_file_name(INCOMING)
}

fn traveller(manifest: &Manifest, until: Timestamp) -> Traveller {
    Traveller {
        travel: manifest.travel,
        from: manifest.from.clone(),
        run: manifest.run,
        runner: manifest.runner.clone(),
        workload: manifest.workload.clone(),
        until,
    }
}

fn shown(manifest: Manifest, verdict: ArrivalVerdict) -> ImportedCheckpoint {
    let Manifest { travel, from, runner, workload, run, bytes, .. } = manifest;
    ImportedCheckpoint { verdict, travel, from, runner, workload, run, bytes }
}

/// Reads the rest of an archive, to where its image is to lie if that is given, and gives what is
/// known of the run.
async fn read(
    incoming: &mut Incoming,
    manifest: &Manifest,
    place: Option<&CheckpointPlace>,
) -> Result<Passage, TravelError> {
    if let Some(place) = place {
        let directory = incoming_of(place);
        let made = tokio::task::spawn_blocking(move || {
            std::fs::DirBuilder::new().mode(0o700).create(directory)
        });
        let made = made.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        made.map_err(broken("make a directory for what comes"))?;
    }
    let (mut passage, mut file, mut left) =
        (Vec::new(), None, manifest.bytes.saturating_add(SHM_MAX));
    let mut ended = false;
    while let Some(item) = incoming.next().await? {
        match item {
            Item::Manifest(_) => unreachable!("it comes first, and once"),
            Item::File(head) => {
                left = left
                    .checked_sub(head.bytes)
                    .ok_or(ArchiveError::Damaged("it has more in it than it says"))?;
                close(file.take()).await?;
                file = match place {
                    Some(place) => Some(open(place, head.part, &head.name).await?),
                    None => None,
                };
            }
            Item::Data(bytes) => {
                if let Some(file) = &mut file {
                    file.write_all(&bytes).await.map_err(broken("write what comes"))?;
                }
            }
            Item::Passage(bytes) => {
                passage.extend(bytes);
            }
            Item::End => ended = true,
        }
    }
    close(file.take()).await?;
    if !ended {
        return Err(ArchiveError::Damaged("it is cut short: its end is missing").into());
    }
    let passage = Passage::from_bytes(&passage)?;
    let until = passage.traveller().until;
    if *passage.traveller() != traveller(manifest, until) || *passage.to() != manifest.to {
        return Err(ArchiveError::Damaged("what it says of the run is of another").into());
    }
    Ok(passage)
}

async fn open(place: &CheckpointPlace, part: Part, name: &str) -> Result<File, TravelError> {
    let path = match part {
        Part::Image => incoming_of(place).join(name),
        Part::Shm => place.shm.clone(),
    };
    create(&path).await.map_err(broken("write what comes"))
}

async fn create(path: &Path) -> std::io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    tokio::fs::OpenOptions::from(options).open(path).await
}

/// The disk has all of a file when this returns.
async fn close(file: Option<File>) -> Result<(), TravelError> {
    let Some(mut file) = file else { return Ok(()) };
    file.flush().await.map_err(broken("write what comes"))?;
    file.sync_all().await.map_err(broken("write what comes"))
}
