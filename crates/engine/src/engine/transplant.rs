//! What it takes to put the image of a checkpoint beside a container that was made for it.
//!
//! Podman's own import makes the container of what the archive says, as root, so an archive can ask
//! for anything. Here the container is made of a spec, and only the image is brought: a restore in
//! place asks for no more than that, and for the runtime's configuration, which Podman writes when
//! it first prepares a container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;

use super::http::Api;
use super::{Engine, reference};
use crate::blocking;
use crate::checkpoint::CheckpointError;
use crate::deadline;
use crate::error::{EngineError, Object, Operation};

/// Where the engine looks for a checkpoint of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointPlace {
    /// Directory of CRIU's image.
    pub image: PathBuf,
    /// Tar of what was in `/dev/shm`.
    pub shm: PathBuf,
}

/// A difference between a container's root file system and its image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeBody {
    path: String,
    kind: u8,
}

/// [`ChangeBody::kind`] of what is there in the image as well.
const MODIFIED: u8 = 0;

/// Body of an inspect, the part about the storage.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StorageBody {
    #[serde(default)]
    graph_driver: DriverBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverBody {
    #[serde(default)]
    data: Option<DriverData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverData {
    /// What the container itself has written, with the overlay driver.
    upper_dir: Option<PathBuf>,
}

impl Engine {
    /// Where the engine looks for a checkpoint of a container, whether there is one or not; `None`
    /// is a container that does not exist. Deadline: [`deadline::READ`].
    pub async fn checkpoint_place(
        &self,
        container: impl AsRef<str>,
    ) -> Result<Option<CheckpointPlace>, CheckpointError> {
        let name = reference(Operation::Inspect, container.as_ref())?;
        self.can_checkpoint(Operation::Restore, name)?;
        match self.suspension(name).await {
            Ok(body) if body.static_dir.is_empty() => Ok(None),
            Ok(body) => {
                let directory = Path::new(&body.static_dir);
                let (image, shm) = (directory.join("checkpoint"), "devshm-checkpoint.tar");
                Ok(Some(CheckpointPlace { image, shm: directory.join(shm) }))
            }
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the runtime prepare a container that was never started, and lets go of it again: from
    /// then on a checkpoint that is put beside it can be restored. No program of the container runs.
    /// Deadlines: [`deadline::START`], and that of a stop.
    pub async fn prepare_restore(&self, container: impl AsRef<str>) -> Result<(), CheckpointError> {
        let operation = Operation::Restore;
        let name = reference(operation, container.as_ref())?;
        self.can_checkpoint(operation, name)?;
        let path = format!("/containers/{name}/init");
        let request = self.http().request(Method::POST, Api::Libpod, &path);
        let object = Object::Container(name.to_owned());
        self.http().open(operation, object, deadline::START, request).await?;
        Ok(self.stop(name, Duration::ZERO).await?)
    }

    /// Paths in a container's root file system that are not as in its image, without the directories
    /// in which something is different and without those that lead to `ignored`, where something is
    /// mounted; in the order of the engine. Deadline: [`deadline::CHANGE`].
    pub async fn changed_paths(
        &self,
        container: impl AsRef<str>,
        ignored: &[String],
    ) -> Result<Vec<String>, EngineError> {
        let operation = Operation::Inspect;
        let name = reference(operation, container.as_ref())?;
        let object = || Object::Container(name.to_owned());
        let get = |path: &str| {
            let path = format!("/containers/{name}/{path}");
            self.http().request(Method::GET, Api::Libpod, &path)
        };
        let storage: StorageBody =
            self.http().json(operation, object(), deadline::READ, get("json")).await?;
        let upper = storage.graph_driver.data.and_then(|data| data.upper_dir);
        let changes: Option<Vec<ChangeBody>> =
            self.http().json(operation, object(), deadline::CHANGE, get("changes")).await?;
        let ignored = ignored.to_vec();
        let look = move || {
            let is_no_matter = |change: &ChangeBody| {
                ignored.iter().any(|path| is_within(path, &change.path))
                    || (change.kind == MODIFIED && is_directory(upper.as_deref(), &change.path))
            };
            let changes = changes.unwrap_or_default().into_iter();
            let counts = changes.filter(|change| !is_no_matter(change));
            counts.map(|change| change.path).collect()
        };
        Ok(blocking::run(look).await)
    }
}

/// Whether `path` is `above`, or below it.
fn is_within(path: &str, above: &str) -> bool {
    Path::new(path).starts_with(above)
}

/// Whether the container's own layer has a directory there. What cannot be told is none.
fn is_directory(upper: Option<&Path>, path: &str) -> bool {
    let found = upper
        .and_then(|upper| std::fs::symlink_metadata(upper.join(path.trim_start_matches('/'))).ok());
    found.is_some_and(|found| found.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_itself_and_what_is_above_it() {
        assert!(is_within("/a/b", "/a"));
        assert!(is_within("/a/b", "/a/b"));
        assert!(!is_within("/a/b", "/a/bc"));
        assert!(!is_within("/a", "/a/b"));
    }

    #[test]
    fn only_a_directory_of_the_layer_is_one() {
        let layer = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(layer.path().join("etc")).expect("made");
        std::fs::write(layer.path().join("etc/passwd"), "x").expect("written");
        std::os::unix::fs::symlink("/etc", layer.path().join("link")).expect("made");
        assert!(is_directory(Some(layer.path()), "/etc"));
        for path in ["/etc/passwd", "/link", "/nothing"] {
            assert!(!is_directory(Some(layer.path()), path), "{path}");
        }
        assert!(!is_directory(None, "/etc"));
    }
}
