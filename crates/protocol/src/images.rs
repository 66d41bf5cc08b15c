//! Images of a node: what there is, what is on its way, what can be done with one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::WorkloadName;

/// The images of a node (`GET /v1/images`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesStatus {
    /// Directory of the engine's store.
    pub storage: String,
    /// Bytes that can still be written there.
    pub free_bytes: u64,
    /// Bytes of that file system in all.
    pub total_bytes: u64,
    /// Images that belayd brought to this host, longest unused first.
    pub images: Vec<ImageStatus>,
    /// Images of the engine's store that somebody else brought.
    pub foreign: usize,
    /// Pulls under way, and those that failed and wait.
    pub pulls: Vec<PullStatus>,
}

/// One image that belayd brought to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Its id.
    pub id: String,
    /// What specs call it.
    pub sources: Vec<String>,
    /// The names that point at it.
    pub names: Vec<String>,
    /// Its size with the layers that it shares with others, in bytes.
    pub size_bytes: u64,
    /// When it was fetched last.
    pub fetched_at: Timestamp,
    /// When a container was made of it last, or it was fetched.
    pub used_at: Timestamp,
    /// Workloads that used it.
    pub users: Vec<WorkloadName>,
    /// Whether an operator wants it kept.
    pub pinned: bool,
    /// Why it stays; absent when a prune would remove it.
    pub stays: Option<String>,
}

/// A pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullStatus {
    /// What is pulled.
    pub image: String,
    /// Layers that the registry has named.
    pub layers: usize,
    /// Those of them that are on the host.
    pub layers_here: usize,
    /// Bytes that came.
    pub done_bytes: u64,
    /// Bytes in all, as far as known.
    pub total_bytes: u64,
    /// Failed tries in a row.
    pub failures: u32,
    /// When it is tried again at the earliest; absent while it is under way.
    pub next_try_at: Option<Timestamp>,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

/// What can be done with images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageAct {
    /// Load an archive of this host (`POST /v1/images/load`).
    Load(LoadRequest),
    /// Remove what nobody needs (`POST /v1/images/prune`).
    Prune(PruneRequest),
    /// Keep one, whatever becomes of its users (`POST /v1/images/pin`).
    Pin(ImageRequest),
    /// Treat one like any other again (`POST /v1/images/unpin`).
    Unpin(ImageRequest),
    /// Remove one that nothing uses (`POST /v1/images/rm`).
    Remove(ImageRequest),
}

impl ImageAct {
    /// The word that the command and the API use for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Load(_) => "load",
            Self::Prune(_) => "prune",
            Self::Pin(_) => "pin",
            Self::Unpin(_) => "unpin",
            Self::Remove(_) => "rm",
        }
    }

    /// What it is about: a file, an image, or nothing in particular.
    pub fn about(&self) -> &str {
        match self {
            Self::Load(request) => &request.file,
            Self::Prune(_) => "",
            Self::Pin(request) | Self::Unpin(request) | Self::Remove(request) => &request.image,
        }
    }
}

/// Which file is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// Its absolute path on the node.
    pub file: String,
}

/// How a prune is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which image is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// A name, an id, or the beginning of an id of at least 12 digits.
    pub image: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Operation;

    #[test]
    fn acts_on_images_have_the_form_written_down() {
        let image = || ImageRequest { image: "web:1".to_owned() };
        for (act, golden) in [
            (
                ImageAct::Load(LoadRequest { file: "/a.tar".to_owned() }),
                json!({"act": "load", "file": "/a.tar"}),
            ),
            (
                ImageAct::Prune(PruneRequest { dry_run: true }),
                json!({"act": "prune", "dry_run": true}),
            ),
            (ImageAct::Pin(image()), json!({"act": "pin", "image": "web:1"})),
            (ImageAct::Unpin(image()), json!({"act": "unpin", "image": "web:1"})),
            (ImageAct::Remove(image()), json!({"act": "remove", "image": "web:1"})),
        ] {
            let golden = json!({"operation": "image", "act": golden});
            let operation = Operation::Image { act };
            assert_eq!(serde_json::to_value(&operation).expect("serialises"), golden);
            assert_eq!(serde_json::from_value::<Operation>(golden).expect("reads"), operation);
        }
    }
}
