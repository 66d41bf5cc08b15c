//! Images of registries and of the local store.

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Engine, fault, image_reference};
use crate::core::image_name::split_reference;
use crate::deadline;
use crate::error::{EngineError, Object, Operation};
use crate::image::{Image, PullProgress, RegistryCredentials};

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

    /// Pulls an image from its registry, whether or not it is in the store. Without a tag or digest
    /// it is `latest`.
    ///
    /// Progress is given when there is room in the channel and dropped when there is none; the
    /// image is the same. There is no deadline on the whole, but the engine may not be silent for
    /// longer than [`deadline::PULL_SILENCE`]. Dropping the future ends the wait, not always the
    /// engine's work; pulling again goes on from what it has.
    pub async fn pull(
        &self,
        image: &str,
        credentials: Option<&RegistryCredentials>,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<Image, EngineError> {
        let operation = Operation::Pull;
        let object = || Object::Image(image.to_owned());
        let (name, tag) = split_reference(image_reference(operation, image)?);
        let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
        let credentials = credentials.map(|given| DockerCredentials {
            username: Some(given.username.clone()),
            password: Some(given.password.clone()),
            serveraddress: given.registry.clone(),
            ..DockerCredentials::default()
        });
        let mut steps =
            std::pin::pin!(self.docker().create_image(Some(options), None, credentials));
        loop {
            let step = tokio::time::timeout(deadline::PULL_SILENCE, steps.next()).await;
            let step = step.map_err(|_| EngineError::TimedOut {
                operation,
                object: object(),
                after: deadline::PULL_SILENCE,
            })?;
            let Some(step) = step else { break };
            let step = step.map_err(|error| fault::from_bollard(operation, object(), error))?;
            let bytes = step.progress_detail.as_ref().and_then(|detail| {
                let done = u64::try_from(detail.current?).ok()?;
                Some((done, u64::try_from(detail.total?).ok()?))
            });
            let step =
                PullProgress { layer: step.id, status: step.status.unwrap_or_default(), bytes };
            // Progress is for people; a slow reader must not slow the pull.
            let _ = progress.try_send(step);
        }
        self.image(image).await?.ok_or_else(|| EngineError::Unknown {
            operation,
            object: object(),
            status: None,
            detail: "the engine ended the pull without an error and without an image".to_owned(),
        })
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

fn read(found: bollard::models::ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Image {
        id: found.id.unwrap_or_default(),
        tags: found.repo_tags.unwrap_or_default(),
        digests: found.repo_digests.unwrap_or_default(),
        user: filled(config.user),
        command: config.cmd.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: filled(config.working_dir),
        size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
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
