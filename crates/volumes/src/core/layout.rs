//! Where everything of a volume lies, and which names and mount points are refused.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use belay_protocol::VolumeName;

use super::generation::GenerationName;
use super::spec::{SYSTEM_VOLUME, VolumeId};

/// The directory, within a volume's file system, that the container gets.
pub(crate) const DATA: &str = "data";
/// The directory, within a volume's file system, that stays with root on the host.
pub(crate) const PRIVATE: &str = ".belay";
/// The directories of the system volume that a workload writes requests into.
pub(crate) const CONTROL_DIRECTORIES: [&str; 3] = ["volume-sync", "env-overrides", "reset"];

/// Maps a volume's id to its files. No two ids share a path: both names are DNS labels, so neither
/// holds a slash or begins with a dot, and the names chosen here do begin with a dot or lie one
/// level below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    root: PathBuf,
    images: PathBuf,
}

impl Layout {
    /// Images beside the mounts, in the directory given by configuration.
    pub(crate) fn new(root: PathBuf) -> Self {
        let images = root.join("images");
        Self { root, images }
    }

    /// Images in a pool, which is an image itself.
    pub(crate) fn in_pool(root: PathBuf) -> Self {
        let images = root.join("pool/images");
        Self { root, images }
    }

    /// The image that is the pool.
    pub(crate) fn pool_image(&self) -> PathBuf {
        self.root.join("pool.img")
    }

    /// The pool before it gets its name.
    pub(crate) fn pool_building(&self) -> PathBuf {
        self.root.join(".pool.img.new")
    }

    /// Where the pool is mounted.
    pub(crate) fn pool_mount(&self) -> PathBuf {
        self.root.join("pool")
    }

    /// The directory of images, one directory per workload in it.
    pub(crate) fn images(&self) -> &Path {
        &self.images
    }

    /// The directory of mount points, one directory per workload in it.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// The file whose lock says that this directory has an owner.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The directory of the images of one workload.
    pub(crate) fn workload(&self, id: &VolumeId) -> PathBuf {
        self.images.join(id.workload.as_str())
    }

    /// The directory that is the volume: it holds the image and the metadata, and appears whole.
    pub(crate) fn volume(&self, id: &VolumeId) -> PathBuf {
        self.workload(id).join(id.volume.as_str())
    }

    /// Where a volume is built before it gets its name.
    pub(crate) fn building(&self, id: &VolumeId) -> PathBuf {
        self.workload(id).join(format!(".{}.new", id.volume))
    }

    /// Where a volume waits for its deletion after it lost its name.
    pub(crate) fn removing(&self, id: &VolumeId) -> PathBuf {
        self.workload(id).join(format!(".{}.removed", id.volume))
    }

    /// The image of the volume in this directory.
    pub(crate) fn image_in(directory: &Path) -> PathBuf {
        directory.join("volume.img")
    }

    /// The metadata of the volume in this directory.
    pub(crate) fn metadata_in(directory: &Path) -> PathBuf {
        directory.join("volume.json")
    }

    /// The image.
    pub(crate) fn image(&self, id: &VolumeId) -> PathBuf {
        Self::image_in(&self.volume(id))
    }

    /// The metadata.
    pub(crate) fn metadata(&self, id: &VolumeId) -> PathBuf {
        Self::metadata_in(&self.volume(id))
    }

    /// Where the volume is mounted on the host.
    pub(crate) fn mount(&self, id: &VolumeId) -> PathBuf {
        self.mounts().join(id.workload.as_str()).join(id.volume.as_str())
    }

    /// Where a generation of the volume is mounted to be read. Beside the mounts of volumes: their
    /// names begin with no dot.
    pub(crate) fn generation_mount(&self, id: &VolumeId, name: &GenerationName) -> PathBuf {
        self.mounts().join(id.workload.as_str()).join(format!(".{}.{name}", id.volume))
    }

    /// The volume whose directory, building or removing directory or image this path is in.
    pub(crate) fn volume_of(&self, path: &Path) -> Option<(VolumeId, Place)> {
        let mut parts = path.strip_prefix(&self.images).ok()?.components();
        let workload = name(parts.next()?)?;
        let directory = name(parts.next()?)?;
        let (volume, place) = match directory.strip_prefix('.') {
            None => (directory, Place::Volume),
            Some(rest) => match rest.rsplit_once('.')? {
                (volume, "new") => (volume, Place::Building),
                (volume, "removed") => (volume, Place::Removing),
                _ => return None,
            },
        };
        let file = parts.next().and_then(name);
        let place = match file.and_then(GenerationName::of_file) {
            Some(_) if place == Place::Volume => Place::Generation,
            Some(_) | None => place,
        };
        let id = VolumeId { workload: workload.parse().ok()?, volume: volume.parse().ok()? };
        Some((id, place))
    }
}

/// In which of a volume's directories a path lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The volume itself.
    Volume,
    /// A generation kept beside it.
    Generation,
    /// A volume that never got its name.
    Building,
    /// A volume that lost its name.
    Removing,
}

fn name(component: Component<'_>) -> Option<&str> {
    match component {
        Component::Normal(name) => name.to_str(),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            None
        }
    }
}

/// Why a set of volumes of one workload is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountPointFault {
    /// The name is kept for the volume with the control files.
    #[error("volume name {SYSTEM_VOLUME:?} is reserved for the control files; choose another")]
    ReservedName,
    /// The mount point is not an absolute path below `/` without `.` and `..`.
    #[error(
        "volume {volume}: {path:?} is not a mount point: use an absolute path without '.' and \
         '..' that is not '/' itself"
    )]
    NotAPath {
        /// Whose mount point.
        volume: VolumeName,
        /// The path as given, cut to 200 characters.
        path: String,
    },
    /// Two volumes want the same place.
    #[error("volumes {first} and {second} are both mounted at {path}")]
    Duplicate {
        /// One of them.
        first: VolumeName,
        /// The other.
        second: VolumeName,
        /// Where.
        path: String,
    },
    /// A volume would lie within another.
    #[error("volume {inner} at {inner_path} lies within volume {outer} at {outer_path}")]
    Nested {
        /// The volume around.
        outer: VolumeName,
        /// Where it is.
        outer_path: String,
        /// The volume inside.
        inner: VolumeName,
        /// Where it is.
        inner_path: String,
    },
}

/// Checks where the volumes of one workload are mounted in its container, the system volume
/// included under its reserved name. Returns every fault found.
///
/// # Panics
/// Never: the reserved name is a valid one.
pub fn check_mount_points(
    volumes: &[(VolumeName, String)],
    system_mount: Option<&str>,
) -> Vec<MountPointFault> {
    let mut faults = Vec::new();
    let mut taken: BTreeMap<PathBuf, VolumeName> = BTreeMap::new();
    let system = system_mount.map(|path| {
        let name: VolumeName = SYSTEM_VOLUME.parse().expect("the reserved name is a volume name");
        (name, path.to_owned())
    });
    if volumes.iter().any(|(name, _)| name.as_str() == SYSTEM_VOLUME) {
        faults.push(MountPointFault::ReservedName);
    }
    for (name, text) in system.iter().chain(volumes) {
        let Some(path) = container_path(text) else {
            let path = text.chars().take(200).collect();
            faults.push(MountPointFault::NotAPath { volume: name.clone(), path });
            continue;
        };
        if let Some(first) = taken.get(&path) {
            faults.push(MountPointFault::Duplicate {
                first: first.clone(),
                second: name.clone(),
                path: path.display().to_string(),
            });
            continue;
        }
        for (other_path, other) in &taken {
            let (outer, inner) = if path.starts_with(other_path) {
                ((other, other_path), (name, &path))
            } else if other_path.starts_with(&path) {
                ((name, &path), (other, other_path))
            } else {
                continue;
            };
            faults.push(MountPointFault::Nested {
                outer: outer.0.clone(),
                outer_path: outer.1.display().to_string(),
                inner: inner.0.clone(),
                inner_path: inner.1.display().to_string(),
            });
        }
        taken.insert(path, name.clone());
    }
    faults
}

fn container_path(text: &str) -> Option<PathBuf> {
    if !text.starts_with('/') || text.contains('\0') || text.len() > 4096 {
        return None;
    }
    // `components` drops single dots in the middle, so those are looked for in the text.
    if text.split('/').any(|part| part == "." || part == "..") {
        return None;
    }
    let path: PathBuf = Path::new(text).components().collect();
    (path != Path::new("/")).then_some(path)
}

#[cfg(test)]
mod tests;
