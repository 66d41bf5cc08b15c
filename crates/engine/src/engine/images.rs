//! Images of registries and of the local store.

use std::collections::BTreeSet;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Engine, fault, image_reference};
use crate::core::image_name::{is_image_reference, split_reference};
use crate::core::pull_fault::pull_fault;
use crate::core::pull_progress::{Advance, PullCount, Told};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};
use crate::image::{Image, ImageEntry, RegistryCredentials};
use crate::pull::{PullError, PullFault, PullPatience, PullProgress};

impl Engine {
    /// Looks an image up in the engine's own store, by reference or id; `None` is an image that is
    /// not there. Deadline: [`deadline::READ`].
    pub async fn image(&self, image: &str) -> Result<Option<Image>, EngineError> {
        let reference = image_reference(Operation::Image, image)?;
        let object = Object::Image(image.to_owned());
        let inspect = self.docker().inspect_image(reference);
        match self.call(Operation::Image, object, deadline::READ, inspect).await {
            Ok(found) => Ok(Some(read(found))),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every image of the engine's store, without the intermediate ones of builds. Deadline:
    /// [`deadline::READ`].
    pub async fn images(&self) -> Result<Vec<ImageEntry>, EngineError> {
        let rows: Vec<ImageRow> = self
            .http()
            .get(Operation::List, Object::Images, deadline::READ, "/images/json", &[])
            .await?;
        Ok(rows.into_iter().map(ImageRow::read).collect())
    }

    /// Ids of the images of all containers, whoever made them and whether or not they run.
    /// Deadline: [`deadline::READ`].
    pub async fn images_in_containers(&self) -> Result<BTreeSet<String>, EngineError> {
        let rows: Vec<UserRow> = self
            .http()
            .get(
                Operation::List,
                Object::Containers,
                deadline::READ,
                "/containers/json",
                &[("all", "true")],
            )
            .await?;
        Ok(rows.into_iter().map(|row| full_id(row.image_id)).collect())
    }

    /// Pulls an image from its registry, whether or not it is in the store. Without a tag or digest
    /// it is `latest`.
    ///
    /// How far it is is shown in `progress`. There is no deadline on the whole, but a pull that gets
    /// nowhere for as long as `patience` says is given up. Dropping the future ends the pull: both
    /// engines take the end of the connection for it.
    pub async fn pull(
        &self,
        image: &str,
        credentials: Option<&RegistryCredentials>,
        patience: PullPatience,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, PullError> {
        let operation = Operation::Pull;
        let object = || Object::Image(image.to_owned());
        if !is_image_reference(image) {
            return Err(PullError::Refused {
                reference: image.chars().take(80).collect(),
                fault: PullFault::Reference,
                detail: "this is not an image reference".to_owned(),
            });
        }
        let (name, tag) = split_reference(image);
        let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
        let credentials = credentials.map(|given| DockerCredentials {
            username: Some(given.username.clone()),
            password: Some(given.password.clone()),
            serveraddress: given.registry.clone(),
            ..DockerCredentials::default()
        });
        let mut steps =
            std::pin::pin!(self.docker().create_image(Some(options), None, credentials));
        let mut count = PullCount::default();
        let mut moved_at = Instant::now();
        loop {
            let after = count.patience(patience);
            let step = tokio::time::timeout_at(moved_at + after, steps.next()).await;
            let Ok(step) = step else {
                return Err(PullError::Stalled { reference: image.to_owned(), after });
            };
            let Some(step) = step else { break };
            let step = step.map_err(|error| refused(image, error))?;
            let bytes = step.progress_detail.as_ref().and_then(|detail| {
                let done = u64::try_from(detail.current?).ok()?;
                Some((done, u64::try_from(detail.total?).ok()?))
            });
            let told = Told { layer: step.id, status: step.status.unwrap_or_default(), bytes };
            if count.take(&told) == Advance::Forward {
                moved_at = Instant::now();
                progress.send_replace(count.progress());
            }
        }
        let found = self.image(image).await?;
        Ok(found.ok_or_else(|| EngineError::Unknown {
            operation,
            object: object(),
            status: None,
            detail: "the engine ended the pull without an error and without an image".to_owned(),
        })?)
    }

    /// Takes one reference of an image away, or the image itself by its id, if nothing uses it.
    /// The image goes with its last reference; its parents stay. What does not exist is gone
    /// already; an image that a container uses is a conflict or busy. Deadline:
    /// [`deadline::REMOVE`].
    pub async fn remove_image(&self, image: &str) -> Result<(), EngineError> {
        let reference = image_reference(Operation::Remove, image)?;
        let object = Object::Image(image.to_owned());
        // Never by force: that removes containers too. Without pruning: an untagged parent may be
        // somebody else's.
        let options = RemoveImageOptionsBuilder::default().force(false).noprune(true).build();
        let remove = self.docker().remove_image(reference, Some(options), None);
        match self.call(Operation::Remove, object, deadline::REMOVE, remove).await {
            Ok(_) | Err(EngineError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a tag away; the image goes when it was the last one and no container uses it. One
    /// that does not exist is gone already.
    pub(crate) async fn untag(&self, image: &str) -> Result<(), EngineError> {
        let reference = image_reference(Operation::Image, image)?;
        let object = Object::Image(image.to_owned());
        let remove = self.docker().remove_image(reference, None::<RemoveImageOptions>, None);
        match self.call(Operation::Image, object, deadline::REMOVE, remove).await {
            Ok(_) | Err(EngineError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives an image one more tag.
    pub(crate) async fn tag(&self, image: &str, tag: &str) -> Result<(), EngineError> {
        let reference = image_reference(Operation::Load, image)?;
        let object = Object::Image(image.to_owned());
        let (repository, version) = split_reference(tag);
        let options = TagImageOptionsBuilder::default().repo(repository).tag(version).build();
        let tag = self.docker().tag_image(reference, Some(options));
        self.call(Operation::Load, object, deadline::CHANGE, tag).await
    }
}

/// A row of the list, as far as it is read. Lists may be null, and Podman writes `<none>` for what
/// is absent.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageRow {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    size: u64,
}

/// A row of the list of containers.
#[derive(Deserialize)]
struct UserRow {
    #[serde(rename = "ImageID", default)]
    image_id: String,
}

/// Podman writes some ids without the kind of digest that they are.
fn full_id(id: String) -> String {
    if id.contains(':') || id.is_empty() { id } else { format!("sha256:{id}") }
}

impl ImageRow {
    fn read(self) -> ImageEntry {
        ImageEntry {
            id: full_id(self.id),
            tags: named(self.repo_tags),
            digests: self.repo_digests.unwrap_or_default(),
            size: self.size,
        }
    }
}

fn named(references: Option<Vec<String>>) -> Vec<String> {
    let references = references.into_iter().flatten();
    references.filter(|reference| !reference.contains("<none>")).collect()
}

/// The words decide: what comes with a status and what comes in the stream is the same.
fn refused(reference: &str, error: bollard::errors::Error) -> PullError {
    let error = fault::from_bollard(Operation::Pull, Object::Image(reference.to_owned()), error);
    let detail = match &error {
        EngineError::Absent { detail, .. }
        | EngineError::Conflict { detail, .. }
        | EngineError::Busy { detail, .. }
        | EngineError::Invalid { detail, .. }
        | EngineError::Denied { detail, .. }
        | EngineError::Unsupported { detail, .. }
        | EngineError::Unknown { detail, .. } => detail.clone(),
        EngineError::Unreachable { .. } | EngineError::TimedOut { .. } => {
            return PullError::Engine(error);
        }
    };
    let fault = match (pull_fault(&detail), &error) {
        (PullFault::Other, EngineError::Denied { .. }) => PullFault::Denied,
        (PullFault::Other, EngineError::Absent { .. }) => PullFault::NotFound,
        (fault, _) => fault,
    };
    PullError::Refused { reference: reference.to_owned(), fault, detail }
}

fn read(found: bollard::models::ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Image {
        id: full_id(found.id.unwrap_or_default()),
        tags: named(found.repo_tags),
        // One without a tag has no repository either: `<none>@sha256:…`.
        digests: found.repo_digests.unwrap_or_default(),
        user: filled(config.user),
        command: config.cmd.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: filled(config.working_dir),
        size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        architecture: found.architecture.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODMAN: &str = include_str!("../../tests/bodies/podman-4.3.1/image.json");

    #[test]
    fn a_captured_image_is_read() {
        let image = read(serde_json::from_str(PODMAN).expect("an image body"));
        assert!(image.id.starts_with("sha256:cfbd30d3"));
        assert_eq!(image.tags, ["localhost/belay/web:0123456789abcdef"]);
        assert_eq!(image.digests.len(), 1);
        assert_eq!((image.user, image.working_dir, image.size), (None, None, 1_997_895));
        assert!(image.command.is_empty() && image.entrypoint.is_empty() && image.env.is_empty());
    }
}
