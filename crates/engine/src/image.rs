//! Images.

use std::fmt;

/// An image that is present in the engine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Id: `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// References that point at it.
    pub tags: Vec<String>,
    /// References by registry digest; empty for a loaded image.
    pub digests: Vec<String>,
    /// User that its command runs as; `None` is root.
    pub user: Option<String>,
    /// Default arguments.
    pub command: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Size in bytes, with all layers.
    pub size: u64,
}

/// Name and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryCredentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Registry host these are for; `None` means that of the image reference.
    pub registry: Option<String>,
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials")
            .field("username", &self.username)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// A step of a pull, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// Layer, when the step is about one.
    pub layer: Option<String>,
    /// What happens, in the engine's words.
    pub status: String,
    /// Bytes done and bytes in all, where the engine counts.
    pub bytes: Option<(u64, u64)>,
}
