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
    /// Architecture that its programs are for, in the words of Go: `amd64`, `arm64`; empty when
    /// the image does not say.
    pub architecture: String,
}

/// An image in the list of the engine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Id: `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// References that point at it.
    pub tags: Vec<String>,
    /// References by registry digest.
    pub digests: Vec<String>,
    /// Size in bytes, with the layers that it shares with others.
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
