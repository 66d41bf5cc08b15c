//! Containers to disk and back, through Podman's own API.

use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use reqwest::Method;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::http::Api;
use super::{Engine, EngineKind, Removal, reference};
use crate::blocking;
use crate::checkpoint::{CheckpointError, CheckpointReport, RestoreReport};
use crate::container::{ContainerId, ContainerState};
use crate::core::criu::{Blame, CheckpointBody, RestoreBody, SuspensionBody, blame, reasons};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};

/// How much of the end of a log of CRIU is read.
const LOG_TAIL: u64 = 256 * 1024;
/// CRIU's log of each operation, in the container's directory.
const DUMP_LOG: &str = "dump.log";
const RESTORE_LOG: &str = "restore.log";
/// Where the image lies below that directory, and the file that CRIU writes last but one.
const IMAGE: &str = "checkpoint";
const INVENTORY: &str = "inventory.img";

impl Engine {
    /// Writes the processes of a running container to disk, beside the container, and ends them:
    /// its memory is free, and the container is `Exited` with code 0. Deadline:
    /// [`deadline::CHECKPOINT`]. Dropping the call does not stop the engine.
    ///
    /// A suspended container keeps nothing but its files: its volumes can be unmounted, and must be
    /// as they are now when it is restored, which nothing checks. A plain [`Engine::start`] of it
    /// would begin it afresh and lose the image; ask [`Engine::is_suspended`] first.
    ///
    /// # Errors
    /// [`CheckpointError::Refused`] when the processes hold something that cannot be carried; they
    /// run on then. A container that does not run is [`EngineError::Conflict`].
    pub async fn checkpoint(
        &self,
        container: impl AsRef<str>,
    ) -> Result<CheckpointReport, CheckpointError> {
        let operation = Operation::Checkpoint;
        let name = reference(operation, container.as_ref())?;
        self.can_checkpoint(operation, name)?;
        let path = format!("/containers/{name}/checkpoint");
        let request = self.http().request(Method::POST, Api::Libpod, &path);
        let request = request.query(&[("printStats", "true")]);
        let object = Object::Container(name.to_owned());
        let done = self.http().json(operation, object, deadline::CHECKPOINT, request).await;
        match done {
            Ok(body) => Ok(CheckpointBody::report(body)),
            Err(error) => Err(self.explained(operation, name, DUMP_LOG, error).await),
        }
    }

    /// The same, and the image into a file, from which it can be restored on another node or under
    /// another name; nothing stays beside the container. The file is an uncompressed tar; it holds
    /// the container's environment and memory in clear. It is durable when this returns its size in
    /// bytes. Deadlines: [`deadline::CHECKPOINT`] for the first byte,
    /// [`deadline::STREAM_SILENCE`] between pieces.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`]. After [`CheckpointError::Archive`], or an error whose outcome is
    /// not known, the container may be down without an image that is whole.
    pub async fn export_checkpoint(
        &self,
        container: impl AsRef<str>,
        archive: std::fs::File,
    ) -> Result<u64, CheckpointError> {
        let operation = Operation::Checkpoint;
        let name = reference(operation, container.as_ref())?;
        self.can_checkpoint(operation, name)?;
        let object = || Object::Container(name.to_owned());
        let path = format!("/containers/{name}/checkpoint");
        let request = self.http().request(Method::POST, Api::Libpod, &path);
        let request = request.query(&[("export", "true")]);
        let opened = self.http().open(operation, object(), deadline::CHECKPOINT, request).await;
        let mut pieces = match opened {
            Ok(response) => response.bytes_stream(),
            Err(error) => return Err(self.explained(operation, name, DUMP_LOG, error).await),
        };
        let failed = |source| CheckpointError::Archive { operation, object: object(), source };
        let mut file = File::from_std(archive);
        let mut size = 0;
        loop {
            let next = tokio::time::timeout(deadline::STREAM_SILENCE, pieces.next()).await;
            let next = next.map_err(|_| EngineError::TimedOut {
                operation,
                object: object(),
                after: deadline::STREAM_SILENCE,
            })?;
            let Some(piece) = next else { break };
            let piece = piece.map_err(|error| EngineError::Unreachable {
                operation,
                object: object(),
                source: Box::new(error),
            })?;
            file.write_all(&piece).await.map_err(failed)?;
            size += piece.len() as u64;
        }
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        Ok(size)
    }

    /// Brings a suspended container back where it stood; its image is used up. Its processes find
    /// their TCP connections closed. Deadline: [`deadline::CHECKPOINT`].
    ///
    /// # Errors
    /// [`CheckpointError::Refused`] when CRIU could not; the container is still suspended.
    pub async fn restore(
        &self,
        container: impl AsRef<str>,
    ) -> Result<RestoreReport, CheckpointError> {
        let operation = Operation::Restore;
        let name = reference(operation, container.as_ref())?;
        self.can_checkpoint(operation, name)?;
        let path = format!("/containers/{name}/restore");
        let request = self.http().request(Method::POST, Api::Libpod, &path);
        let request = request.query(&[("printStats", "true")]);
        let object = Object::Container(name.to_owned());
        let done = self.http().json(operation, object, deadline::CHECKPOINT, request).await;
        match done {
            Ok(body) => Ok(RestoreBody::report(&body)),
            Err(error) => Err(self.explained(operation, name, RESTORE_LOG, error).await),
        }
    }

    /// Makes a container of this name from an archive of [`Engine::export_checkpoint`] and brings
    /// its processes back. The image it was made of, the runtime and the sources of its mounts must
    /// be on this node. A container that this call made and that did not come back is removed
    /// again. Deadline: [`deadline::CHECKPOINT`].
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when the name is taken.
    pub async fn import_checkpoint(
        &self,
        archive: &Path,
        new_name: &str,
    ) -> Result<(ContainerId, RestoreReport), CheckpointError> {
        let operation = Operation::Restore;
        let name = reference(operation, new_name)?;
        self.can_checkpoint(operation, name)?;
        let object = || Object::Container(name.to_owned());
        if self.inspect(name).await?.is_some() {
            return Err(CheckpointError::Engine(EngineError::Conflict {
                operation,
                object: object(),
                detail: "a container of that name exists".to_owned(),
            }));
        }
        let failed = |source| CheckpointError::Archive { operation, object: object(), source };
        let file = File::open(archive).await.map_err(failed)?;
        let path = format!("/containers/{name}/restore");
        let request = self
            .http()
            .request(Method::POST, Api::Libpod, &path)
            .query(&[("import", "true"), ("printStats", "true"), ("name", name)])
            .header(reqwest::header::CONTENT_TYPE, "application/x-tar")
            .body(reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024)));
        let done: Result<RestoreBody, _> =
            self.http().json(operation, object(), deadline::CHECKPOINT, request).await;
        match done {
            Ok(body) => {
                let report = body.report();
                Ok((ContainerId::new(body.id), report))
            }
            Err(error) => {
                let error = self.explained(operation, name, RESTORE_LOG, error).await;
                self.discard_unrestored(name).await;
                Err(error)
            }
        }
    }

    /// Whether a container's processes lie on disk, waiting for [`Engine::restore`]. `None` is a
    /// container that does not exist. Deadline: [`deadline::READ`].
    pub async fn is_suspended(
        &self,
        container: impl AsRef<str>,
    ) -> Result<Option<bool>, EngineError> {
        let name = reference(Operation::Inspect, container.as_ref())?;
        if self.info().kind != EngineKind::Podman {
            return Ok(self.inspect(name).await?.map(|_| false));
        }
        match self.suspension(name).await {
            Ok(body) => Ok(Some(body.is_suspended())),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Directory of the image that a checkpoint in place has left beside a container, if there is a
    /// whole one. A restore takes it away. It may be older than what the container did last: an
    /// engine that is cut short in a restore leaves it. Deadline: [`deadline::READ`].
    pub async fn checkpoint_image(
        &self,
        container: impl AsRef<str>,
    ) -> Result<Option<PathBuf>, EngineError> {
        let name = reference(Operation::Inspect, container.as_ref())?;
        if self.info().kind != EngineKind::Podman {
            return Ok(None);
        }
        let directory = match self.suspension(name).await {
            Ok(body) if !body.static_dir.is_empty() => Path::new(&body.static_dir).join(IMAGE),
            Ok(_) | Err(EngineError::Absent { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let inventory = directory.join(INVENTORY);
        let is_whole = blocking::run(move || inventory.is_file()).await;
        Ok(is_whole.then_some(directory))
    }

    pub(super) async fn suspension(&self, name: &str) -> Result<SuspensionBody, EngineError> {
        let path = format!("/containers/{name}/json");
        let request = self.http().request(Method::GET, Api::Libpod, &path);
        let object = Object::Container(name.to_owned());
        self.http().json(Operation::Inspect, object, deadline::READ, request).await
    }

    pub(super) fn can_checkpoint(
        &self,
        operation: Operation,
        name: &str,
    ) -> Result<(), CheckpointError> {
        if self.info().abilities.checkpoint {
            return Ok(());
        }
        Err(CheckpointError::Unsupported {
            operation,
            object: Object::Container(name.to_owned()),
            detail: format!("{} has no checkpoints that belayd uses", self.info().kind),
        })
    }

    /// Gives a failure CRIU's own words, which the engine only points to.
    async fn explained(
        &self,
        operation: Operation,
        name: &str,
        log: &'static str,
        error: EngineError,
    ) -> CheckpointError {
        let EngineError::Unknown { detail, .. } = &error else {
            return CheckpointError::Engine(error);
        };
        let object = Object::Container(name.to_owned());
        match blame(detail) {
            Blame::Other => CheckpointError::Engine(error),
            Blame::Missing => {
                let detail = format!("{detail}; install criu 4.2 or later");
                CheckpointError::Unsupported { operation, object, detail }
            }
            Blame::Criu => {
                let found = match self.suspension(name).await {
                    Ok(body) if !body.static_dir.is_empty() => {
                        let path = Path::new(&body.static_dir).join(log);
                        blocking::run(move || tail(&path)).await.ok()
                    }
                    Ok(_) | Err(_) => None,
                };
                let reason = found.as_deref().and_then(reasons);
                let reason = reason.unwrap_or_else(|| detail.clone());
                CheckpointError::Refused { operation, object, reason }
            }
        }
    }

    /// Removes what a failed import left: a container that never ran.
    async fn discard_unrestored(&self, name: &str) {
        let left = matches!(
            self.inspect(name).await,
            Ok(Some(found)) if found.state == ContainerState::Created
        );
        if left && let Err(error) = self.remove(name, Removal::Stopped).await {
            tracing::warn!(container = name, %error, "the rest of a failed restore stays");
        }
    }
}

/// The end of a file that may be of any size.
fn tail(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
