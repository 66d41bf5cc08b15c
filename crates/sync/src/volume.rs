//! A workload's volumes as held descriptors, and the marks that say what was applied to them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use belay_protocol::{Cid, SyncKey, VolumeName};
use serde::{Deserialize, Serialize};

use crate::beneath::{Dir, Name};
use crate::core::apply::Identity;
use crate::core::ownership::Ids;
use crate::core::path::{ContainerPath, Mounts, PathFault};
use crate::core::record::Order;
use crate::durable;
use crate::layout::SyncLayout;
use crate::stage::Settled;

const MARK: &str = "applied.json";

/// Why a workload's volumes cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumesError {
    #[error("{what} of the workload is not a container path: {source}")]
    Path { what: &'static str, source: PathFault },
    #[error("volume {volume} cannot be used")]
    Open {
        volume: VolumeName,
        #[source]
        source: io::Error,
    },
}

/// The volumes of a workload.
#[derive(Debug)]
pub(crate) struct Volumes {
    pub(crate) mounts: Mounts,
    pub(crate) all: Vec<Volume>,
}

/// One volume.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) name: VolumeName,
    pub(crate) point: ContainerPath,
    /// What holds `data`; outside the container's reach.
    outer: Dir,
    data_name: OsString,
    pub(crate) private: Dir,
    private_path: PathBuf,
    pub(crate) size: u64,
}

/// The mount table of a layout.
pub(crate) fn mount_table(layout: &SyncLayout) -> Result<Mounts, VolumesError> {
    let parse = |what, text: &str| {
        ContainerPath::parse(text).map_err(|source| VolumesError::Path { what, source })
    };
    let points: Result<Vec<_>, _> =
        layout.mounts.iter().map(|mount| parse("a mount point", &mount.container_path)).collect();
    Ok(Mounts::new(points?, parse("the control mount", &layout.control.container_path)?))
}

impl Volumes {
    /// Opens every volume of a layout.
    pub(crate) fn open(layout: &SyncLayout) -> Result<Self, VolumesError> {
        let mounts = mount_table(layout)?;
        let mut all = Vec::new();
        for mount in &layout.mounts {
            let failed = |source| VolumesError::Open { volume: mount.volume.clone(), source };
            let point = ContainerPath::parse(&mount.container_path)
                .map_err(|source| VolumesError::Path { what: "a mount point", source })?;
            let (outer, data_name) = split(&mount.data).map_err(failed)?;
            durable::make_dir(&mount.private).map_err(failed)?;
            all.push(Volume {
                name: mount.volume.clone(),
                point,
                outer: Dir::open(outer).map_err(failed)?,
                data_name,
                private: Dir::open(&mount.private).map_err(failed)?,
                private_path: mount.private.clone(),
                size: mount.size,
            });
        }
        Ok(Self { mounts, all })
    }

    /// What tells these volumes from any others, and from themselves after a reset.
    pub(crate) fn print(&self) -> io::Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        for volume in &self.all {
            let Identity { inode, born } = volume.identity()?;
            let (seconds, nanos) = born.unwrap_or_default();
            for text in [volume.name.as_str(), volume.point.as_str()] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            hasher.update(&inode.to_le_bytes());
            hasher.update(&seconds.to_le_bytes());
            hasher.update(&nanos.to_le_bytes());
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// The index of a volume by its name.
    pub(crate) fn position(&self, name: &VolumeName) -> Option<usize> {
        self.all.iter().position(|volume| volume.name == *name)
    }
}

fn split(path: &Path) -> io::Result<(&Path, OsString)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a volume's data has no parent")),
    }
}

/// What a volume says was applied to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub(crate) key: SyncKey,
    pub(crate) cid: Cid,
    pub(crate) order: Order,
    pub(crate) version: u64,
    /// Volumes that the record's paths reach but of which its tree says nothing.
    pub(crate) untouched: Vec<VolumeName>,
    /// What became of owners and set-id bits; none if the content has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ownership: Option<Settled>,
    /// The directory the container saw as the volume when this was written.
    pub(crate) data: Identity,
    /// The other volumes that were written with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<VolumeName>,
}

impl Volume {
    /// The directory the container sees. Opened anew, since an exchange puts another in its place.
    pub(crate) fn data(&self) -> io::Result<Dir> {
        self.outer.open_dir(self.data_name.as_bytes())
    }

    /// The directory and name of a place below the volume's root; the empty path is the root.
    /// None if a parent is missing.
    pub(crate) fn place<'a>(&'a self, below: &'a str) -> io::Result<Option<(Dir, Name<'a>)>> {
        if below.is_empty() {
            return Ok(Some((self.outer.open_dir(b"")?, self.data_name()?)));
        }
        let (parent, name) = Name::split(below.as_bytes())?;
        match self.data()?.open_dir(parent) {
            Ok(parent) => Ok(Some((parent, name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn data_name(&self) -> io::Result<Name<'_>> {
        Name::new(self.data_name.as_bytes())
    }

    /// Whom the volume's root belongs to, as everything applied does that is of no other owner.
    pub(crate) fn owner(&self) -> io::Result<Ids> {
        let stat = self.data()?.stat_self()?;
        Ok((stat.st_uid, stat.st_gid))
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        self.data()?.identity()
    }

    /// The mark, if there is one that can be read and that is of the directory now in place.
    pub(crate) fn mark(&self) -> io::Result<Option<Mark>> {
        let Ok(Some(mark)) = durable::read_json::<Mark>(&self.private_path.join(MARK)) else {
            // What cannot be read proves nothing, so nothing was applied.
            return Ok(None);
        };
        Ok((mark.data == self.identity()?).then_some(mark))
    }

    pub(crate) fn write_mark(&self, mark: &Mark) -> io::Result<()> {
        durable::write_json(&self.private_path.join(MARK), 0o600, mark)
    }

    pub(crate) fn remove_mark(&self) -> io::Result<()> {
        durable::remove(&self.private_path.join(MARK))
    }

    /// Bytes and inodes that staging may take: what is free, less a fiftieth of the volume so that
    /// the running app is not starved while it is staged.
    pub(crate) fn room(&self) -> io::Result<Room> {
        let found = rustix::fs::fstatvfs(self.private.descriptor())?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(Room {
            bytes: bytes.saturating_sub(self.size / 50),
            // File systems without a fixed number of inodes report none at all.
            inodes: if found.f_files == 0 { u64::MAX } else { found.f_favail },
            block: found.f_frsize,
        })
    }
}

/// Room in a volume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) block: u64,
}
