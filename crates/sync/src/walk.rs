//! Walks declared paths over a workload's volumes, as its container sees them.

use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Stat};

use crate::beneath::{Dir, Name, file_type, name_bytes};
use crate::core::ownership::{Ids, Owner};
use crate::core::path::{ContainerPath, DEPTH_MAX, Unresolved};
use crate::core::tree::{MEMBERS_MAX, parts};
use crate::volume::Volumes;

/// Something met on a walk.
pub(crate) struct Met<'a> {
    /// Container path without its leading slash.
    pub(crate) path: &'a [u8],
    pub(crate) stat: Stat,
    pub(crate) at: At<'a>,
    /// Index of the volume it lies in.
    pub(crate) mount: usize,
    /// Whom the root of that volume belongs to.
    pub(crate) root: Ids,
}

impl Met<'_> {
    /// Whom it belongs to, by a look at it.
    pub(crate) fn owner(&self, stat: &Stat) -> Owner {
        match self.at {
            At::Root { .. } => Owner::default(),
            At::Entry { .. } => Owner::of((stat.st_uid, stat.st_gid), self.root),
        }
    }
}

/// Where it is.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    /// An entry of this directory.
    Entry { dir: &'a Dir, name: Name<'a> },
    /// The root directory of a volume.
    Root { dir: &'a Dir },
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error("{path} does not exist")]
    Missing { path: String },
    #[error("{path} lies behind something that is no directory; symlinks are not followed")]
    Link { path: String },
    #[error("{path} is a symlink; name the file or directory itself")]
    RootLink { path: String },
    #[error("{path} is neither a file nor a directory")]
    RootSpecial { path: String },
    #[error("{path:?} lies deeper than {DEPTH_MAX} directories")]
    Depth { path: String },
    #[error("a volume is mounted at {path}, which lies in no directory of the volume around it")]
    NestedMissing { path: String },
    #[error("{path:?} could not be read")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// What to do about an entry that vanished between its listing and a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vanished {
    /// The app is running; pass over it.
    Skip,
    /// Nothing should be changing; fail.
    Fail,
}

/// Calls `visit` for every entry under `roots` in canonical order. Where a volume is mounted below
/// a root the walk goes on in that volume, as the container would.
pub(crate) fn walk<E: From<WalkError>>(
    volumes: &Volumes,
    roots: &[ContainerPath],
    vanished: Vanished,
    visit: &mut dyn FnMut(&Met<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let entries = usize::try_from(MEMBERS_MAX).unwrap_or(usize::MAX);
    walk_within(Budget { entries, bytes: NAMES_MAX }, volumes, roots, vanished, visit)
}

fn walk_within<E: From<WalkError>>(
    mut budget: Budget,
    volumes: &Volumes,
    roots: &[ContainerPath],
    vanished: Vanished,
    visit: &mut dyn FnMut(&Met<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut owners = Vec::new();
    for volume in &volumes.all {
        let owner = volume.owner();
        owners.push(owner.map_err(|source| io_fault(volume.point.as_member(), source))?);
    }
    for root in roots {
        let nested = volumes.mounts.nested(root);
        let mut walk = Walk {
            volumes,
            owners: &owners,
            vanished,
            unmet: nested.into_iter().map(|(mount, point)| (mount, point.clone())).collect(),
            visit,
            budget,
        };
        walk.root(root)?;
        budget = walk.budget;
        if let Some((_, point)) = walk.unmet.first() {
            return Err(WalkError::NestedMissing { path: point.to_string() }.into());
        }
    }
    Ok(())
}

struct Walk<'w, E> {
    volumes: &'w Volumes,
    /// By volume: whom its root belongs to.
    owners: &'w [Ids],
    vanished: Vanished,
    /// Volumes mounted below the root that were not come to yet.
    unmet: Vec<(usize, ContainerPath)>,
    visit: &'w mut dyn FnMut(&Met<'_>) -> Result<(), E>,
    budget: Budget,
}

/// Memory for the names in directories that are being walked, the one inside the other.
const NAMES_MAX: usize = 128 * 1024 * 1024;

/// What is left for listings.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Of the whole walk.
    entries: usize,
    /// At one time.
    bytes: usize,
}

impl<E: From<WalkError>> Walk<'_, E> {
    fn root(&mut self, root: &ContainerPath) -> Result<(), E> {
        let place = self.volumes.mounts.resolve(root).map_err(WalkError::from)?;
        let volume = &self.volumes.all[place.mount];
        let path = root.as_member();
        if place.below.is_empty() {
            let data = volume.data().map_err(|source| io_fault(path, source))?;
            return self.directory(path, At::Root { dir: &data }, &data, place.mount);
        }
        let shown = || root.to_string();
        let found = volume.place(&place.below).map_err(|source| behind(path, source))?;
        let Some((dir, name)) = found else {
            return Err(WalkError::Missing { path: shown() }.into());
        };
        let stat = dir.stat(name).map_err(|source| io_fault(path, source))?;
        let Some(stat) = stat else {
            return Err(WalkError::Missing { path: shown() }.into());
        };
        match file_type(&stat) {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(WalkError::RootLink { path: shown() }.into()),
            _ => return Err(WalkError::RootSpecial { path: shown() }.into()),
        }
        self.entry(path, &dir, name, stat, place.mount)
    }

    fn entry(
        &mut self,
        path: &[u8],
        dir: &Dir,
        name: Name<'_>,
        stat: Stat,
        mount: usize,
    ) -> Result<(), E> {
        let at = At::Entry { dir, name };
        if file_type(&stat) != FileType::Directory {
            return (self.visit)(&Met { path, stat, at, mount, root: self.owners[mount] });
        }
        match dir.open_child(name) {
            Ok(child) => self.directory(path, at, &child, mount),
            Err(error) if self.may_skip(&error) => Ok(()),
            Err(error) => Err(io_fault(path, error).into()),
        }
    }

    fn directory(&mut self, path: &[u8], at: At<'_>, dir: &Dir, mount: usize) -> Result<(), E> {
        if parts(path).count() > DEPTH_MAX {
            return Err(WalkError::Depth { path: shown(path) }.into());
        }
        let stat = dir.stat_self().map_err(|source| io_fault(path, source))?;
        (self.visit)(&Met { path, stat, at, mount, root: self.owners[mount] })?;
        let Budget { entries, bytes } = self.budget;
        let mut names = dir.names(entries, bytes).map_err(|source| io_fault(path, source))?;
        let held: usize = names.iter().map(|name| name_bytes(name)).sum();
        self.budget = Budget { entries: entries - names.len(), bytes: bytes - held };
        for (_, point) in &self.unmet {
            let point = point.as_member();
            let child = point.strip_prefix(path).and_then(|rest| rest.strip_prefix(b"/"));
            if let Some(child) = child.filter(|child| !child.contains(&b'/')) {
                let child = std::ffi::OsStr::from_bytes(child).to_owned();
                if let Err(position) = names.binary_search(&child) {
                    names.insert(position, child);
                }
            }
        }
        for name in names {
            let child = [path, b"/", name.as_bytes()].concat();
            let mounted = self.unmet.iter().position(|(_, point)| point.as_member() == child);
            if let Some(index) = mounted {
                let (inner, _) = self.unmet.remove(index);
                let data = self.volumes.all[inner].data();
                let data = data.map_err(|source| io_fault(&child, source))?;
                self.directory(&child, At::Root { dir: &data }, &data, inner)?;
                continue;
            }
            let name = Name::new(name.as_bytes()).map_err(|source| io_fault(&child, source))?;
            match dir.stat(name) {
                Ok(Some(stat)) => self.entry(&child, dir, name, stat, mount)?,
                Ok(None) if self.vanished == Vanished::Skip => {}
                Ok(None) => {
                    let source = io::ErrorKind::NotFound.into();
                    return Err(io_fault(&child, source).into());
                }
                Err(source) => return Err(io_fault(&child, source).into()),
            }
        }
        self.budget.bytes += held;
        Ok(())
    }

    fn may_skip(&self, error: &io::Error) -> bool {
        // Gone, or replaced by something that is no directory.
        let gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        self.vanished == Vanished::Skip && (gone || is_loop(error))
    }
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn behind(path: &[u8], source: io::Error) -> WalkError {
    if is_loop(&source) || source.kind() == io::ErrorKind::NotADirectory {
        WalkError::Link { path: format!("/{}", shown(path)) }
    } else {
        io_fault(path, source)
    }
}

pub(crate) fn io_fault(path: &[u8], source: io::Error) -> WalkError {
    WalkError::Io { path: format!("/{}", shown(path)), source }
}

pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clones::NoClones;
    use crate::layout::testing::control_volume;
    use crate::layout::{MountPoint, SyncLayout};

    #[test]
    fn one_budget_holds_for_directories_inside_each_other_and_beside_each_other() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let data = temp.path().join("data");
        for dir in ["deep/a/b", "wide/a/c", "wide/b/d"] {
            fs::create_dir_all(data.join(dir)).expect("creates");
        }
        let layout = SyncLayout {
            mounts: vec![MountPoint {
                volume: "data".parse().expect("a name"),
                container_path: "/data".to_owned(),
                data,
                private: temp.path().join("private"),
                size: 1 << 20,
            }],
            control: control_volume(temp.path().to_owned()),
            clones: std::sync::Arc::new(NoClones),
        };
        let volumes = Volumes::open(&layout).expect("opens");
        let walked = |root: &str, entries, names| {
            let bytes = names * name_bytes(std::ffi::OsStr::new("a"));
            let mut met = 0;
            let mut visit = |_: &Met<'_>| -> Result<(), WalkError> {
                met += 1;
                Ok(())
            };
            let roots = [ContainerPath::parse(root).expect("a path")];
            let budget = Budget { entries, bytes };
            walk_within(budget, &volumes, &roots, Vanished::Fail, &mut visit).map(|()| met)
        };
        assert_eq!(walked("/data/deep", 2, 2).expect("within"), 3);
        walked("/data/deep", 1, 2).expect_err("more entries in all");
        walked("/data/deep", 2, 1).expect_err("the outer list is held while the inner is read");
        // What was read before is let go; what is beside it takes its room.
        assert_eq!(walked("/data/wide", 4, 3).expect("within"), 5);
        walked("/data/wide", 3, 3).expect_err("more entries in all");
    }
}
