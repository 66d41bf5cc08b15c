//! What images need of the engine, so that a failure can be injected at each step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use belay_engine::{
    Engine, EngineError, Image, ImageEntry, LoadError, PullError, PullPatience, PullProgress,
    RegistryCredentials,
};
use tokio::sync::watch;

use crate::core::images::collection::Space;

/// The engine's store of images.
pub(crate) trait ImageStore: Clone + Send + Sync + 'static {
    /// Looks one up by reference or id.
    fn image(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<Option<Image>, EngineError>> + Send;

    /// All of them.
    fn images(&self) -> impl Future<Output = Result<Vec<ImageEntry>, EngineError>> + Send;

    /// Ids of the images of all containers.
    fn in_containers(&self) -> impl Future<Output = Result<BTreeSet<String>, EngineError>> + Send;

    /// Pulls one.
    fn pull(
        &self,
        reference: &str,
        credentials: Option<&RegistryCredentials>,
        patience: PullPatience,
        progress: &watch::Sender<PullProgress>,
    ) -> impl Future<Output = Result<Image, PullError>> + Send;

    /// Loads one from a file.
    fn load(&self, path: &Path) -> impl Future<Output = Result<Image, LoadError>> + Send;

    /// Takes a name away, or an image by its id.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Where it lies.
    fn directory(&self) -> PathBuf;

    /// The machine's architecture, in Go's words.
    fn architecture(&self) -> String;

    /// How much room it has.
    fn space(&self) -> impl Future<Output = std::io::Result<Space>> + Send;
}

impl ImageStore for Engine {
    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        Engine::image(self, reference).await
    }

    async fn images(&self) -> Result<Vec<ImageEntry>, EngineError> {
        Engine::images(self).await
    }

    async fn in_containers(&self) -> Result<BTreeSet<String>, EngineError> {
        self.images_in_containers().await
    }

    async fn pull(
        &self,
        reference: &str,
        credentials: Option<&RegistryCredentials>,
        patience: PullPatience,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, PullError> {
        Engine::pull(self, reference, credentials, patience, progress).await
    }

    async fn load(&self, path: &Path) -> Result<Image, LoadError> {
        Engine::load(self, path).await
    }

    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.remove_image(name).await
    }

    fn directory(&self) -> PathBuf {
        self.info().storage.clone()
    }

    fn architecture(&self) -> String {
        self.info().architecture.clone()
    }

    async fn space(&self) -> std::io::Result<Space> {
        let directory = self.directory();
        let measured = tokio::task::spawn_blocking(move || {
            let found = nix::sys::statvfs::statvfs(&directory)?;
            let unit: u64 = found.fragment_size();
            Ok(Space {
                free: found.blocks_available().saturating_mul(unit),
                total: found.blocks().saturating_mul(unit),
            })
        });
        measured.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}
