//! Container paths, and which volume holds one.

use std::fmt;

use super::tree::is_below;

/// Longest path, in bytes; what the kernel takes, less its final zero.
pub(crate) const PATH_MAX: usize = 4095;
/// Longest name within a path, in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// Most names in a path. Deeper trees are nobody's data and somebody's attack.
pub(crate) const DEPTH_MAX: usize = 128;

/// An absolute path in a container: no empty, `.` or `..` part, no slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ContainerPath(String);

/// Why a text is not a container path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathFault {
    #[error("a path must not be empty")]
    Empty,
    #[error("{found:?} is not absolute")]
    Relative { found: String },
    #[error("{found:?} contains \"..\"")]
    Traversal { found: String },
    #[error("{found:?} contains a zero byte")]
    Zero { found: String },
    #[error("{found:?}... is longer than a path can be")]
    TooLong { found: String },
    #[error("{found:?}... has more than {DEPTH_MAX} parts")]
    TooDeep { found: String },
}

impl ContainerPath {
    /// Parses and normalises: doubled slashes, `.` parts and a final slash go; `..` is refused
    /// rather than resolved.
    pub(crate) fn parse(text: &str) -> Result<Self, PathFault> {
        let found = || text.chars().take(200).collect::<String>();
        if text.is_empty() {
            return Err(PathFault::Empty);
        }
        if text.len() > PATH_MAX {
            return Err(PathFault::TooLong { found: found() });
        }
        if text.contains('\0') {
            return Err(PathFault::Zero { found: found() });
        }
        if text.split('/').any(|part| part == "..") {
            return Err(PathFault::Traversal { found: found() });
        }
        if !text.starts_with('/') {
            return Err(PathFault::Relative { found: found() });
        }
        let parts: Vec<&str> =
            text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(PathFault::TooLong { found: found() });
        }
        if parts.len() > DEPTH_MAX {
            return Err(PathFault::TooDeep { found: found() });
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its leading slash, as archives and indexes name it.
    pub(crate) fn as_member(&self) -> &[u8] {
        &self.0.as_bytes()[1..]
    }

    /// What is left of this path below `ancestor`, without a leading slash; empty when they are
    /// equal, none when it is not below.
    pub(crate) fn below(&self, ancestor: &ContainerPath) -> Option<&str> {
        if ancestor.0 == "/" {
            return Some(&self.0[1..]);
        }
        let rest = self.0.strip_prefix(&ancestor.0)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }
}

/// Part by part as bytes, so that a directory is directly followed by what is in it.
impl Ord for ContainerPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().map(str::as_bytes).cmp(other.parts().map(str::as_bytes))
    }
}

impl PartialOrd for ContainerPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The mount table of a container: where its volumes are, and where its control volume is.
#[derive(Debug, Clone)]
pub(crate) struct Mounts {
    volumes: Vec<ContainerPath>,
    /// None where nothing is exchanged with an app.
    control: Option<ContainerPath>,
}

/// A path as part of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the volume in the table.
    pub(crate) mount: usize,
    /// Path below the volume's root; empty for the root.
    pub(crate) below: String,
}

/// Why a path is in no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unresolved {
    #[error("{path} is in the control volume, or holds it")]
    Control { path: String },
    #[error("{path} is not in a volume of this workload")]
    NoVolume { path: String },
}

impl Mounts {
    pub(crate) fn new(volumes: Vec<ContainerPath>, control: ContainerPath) -> Self {
        Self { volumes, control: Some(control) }
    }

    /// A table in which one volume holds every path, for trees that are read and not applied.
    pub(crate) fn of_everything() -> Self {
        Self { volumes: vec![ContainerPath("/".to_owned())], control: None }
    }

    /// The volume that holds `path`: the one with the longest mount point, as in the container.
    pub(crate) fn resolve(&self, path: &ContainerPath) -> Result<Place, Unresolved> {
        let meets = |control: &ContainerPath| {
            path.below(control).is_some() || control.below(path).is_some()
        };
        if self.control.as_ref().is_some_and(meets) {
            return Err(Unresolved::Control { path: path.to_string() });
        }
        self.volumes
            .iter()
            .enumerate()
            .filter_map(|(mount, point)| Some((mount, point, path.below(point)?)))
            .max_by_key(|(_, point, _)| point.as_str().len())
            .map(|(mount, _, below)| Place { mount, below: below.to_owned() })
            .ok_or_else(|| Unresolved::NoVolume { path: path.to_string() })
    }

    /// The index of the volume that holds what a tree names so, and its place below the volume's root.
    pub(crate) fn holder<'m>(&self, member: &'m [u8]) -> Option<(usize, &'m [u8])> {
        let below = |point: &ContainerPath| {
            let rest = member.strip_prefix(point.as_member())?;
            if rest.is_empty() || point.as_member().is_empty() {
                return Some(rest);
            }
            rest.strip_prefix(b"/")
        };
        let holders = self.volumes.iter().enumerate();
        let holders = holders.filter_map(|(mount, point)| Some((mount, point, below(point)?)));
        let longest = holders.max_by_key(|(_, point, _)| point.as_str().len());
        longest.map(|(mount, _, below)| (mount, below))
    }

    /// Whether what a tree names so has volumes mounted below it and lies in none itself.
    pub(crate) fn is_above(&self, member: &[u8]) -> bool {
        self.holder(member).is_none()
            && self.volumes.iter().any(|point| is_below(point.as_member(), member))
    }

    /// The volumes mounted strictly below `path`, in path order.
    pub(crate) fn nested(&self, path: &ContainerPath) -> Vec<(usize, &ContainerPath)> {
        let mut nested: Vec<_> = self
            .volumes
            .iter()
            .enumerate()
            .filter(|(_, point)| point.below(path).is_some_and(|rest| !rest.is_empty()))
            .collect();
        nested.sort_by(|a, b| a.1.cmp(b.1));
        nested
    }
}

/// The paths in order, without those that lie at or below another.
pub(crate) fn minimal(mut paths: Vec<ContainerPath>) -> Vec<ContainerPath> {
    paths.sort();
    let mut kept: Vec<ContainerPath> = Vec::new();
    for path in paths {
        if kept.last().is_none_or(|last| path.below(last).is_none()) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
