//! Which locks there are, in which files, and in which order they are taken.

use std::collections::BTreeSet;
use std::fmt;

/// Longest part of a name that becomes a file name as it is.
const PART_MAX: usize = 63;

/// What is locked.
///
/// The order of the variants, and of the names within one, is the order in which locks are taken:
/// two processes that each hold some and want more can then never wait for one another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockName {
    /// A state directory: one belayd at a time.
    Instance,
    /// The set of lock files: who holds it may delete those that belong to nothing.
    Gc,
    /// One volume.
    Volume {
        /// The workload that it belongs to.
        workload: String,
        /// Its name there.
        volume: String,
    },
    /// One workload.
    Workload(String),
}

impl LockName {
    /// The lock of a workload.
    pub fn workload(name: impl AsRef<str>) -> Self {
        Self::Workload(name.as_ref().to_owned())
    }

    /// The lock of a volume of a workload.
    pub fn volume(workload: impl AsRef<str>, volume: impl AsRef<str>) -> Self {
        Self::Volume { workload: workload.as_ref().to_owned(), volume: volume.as_ref().to_owned() }
    }

    /// The file's name within the folder of its kind.
    ///
    /// A valid id is its own file name. Anything else becomes a hash behind a `_`, which no id
    /// begins with, so that a name can neither leave the folder nor clash with another in case.
    pub fn file(&self) -> String {
        match self {
            Self::Instance => "instance.lock".to_owned(),
            Self::Gc => "gc".to_owned(),
            Self::Volume { workload, volume } if is_id(workload) && is_id(volume) => {
                // No id holds a '.', so the two parts cannot be read in another way.
                format!("{workload}.{volume}")
            }
            Self::Volume { workload, volume } => hashed(&[workload, volume]),
            Self::Workload(name) if is_id(name) => name.clone(),
            Self::Workload(name) => hashed(&[name]),
        }
    }

    /// The workload that the lock is about, if it is about one.
    pub fn about(&self) -> Option<&str> {
        match self {
            Self::Instance | Self::Gc => None,
            Self::Volume { workload, .. } | Self::Workload(workload) => Some(workload),
        }
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("instance"),
            Self::Gc => f.write_str("gc"),
            Self::Volume { workload, volume } => write!(f, "volume {workload}/{volume}"),
            Self::Workload(name) => write!(f, "workload {name}"),
        }
    }
}

/// Locks that are taken together, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockSet(BTreeSet<LockName>);

impl LockSet {
    /// One lock.
    pub fn one(name: LockName) -> Self {
        Self(BTreeSet::from([name]))
    }

    /// In the order in which they are taken.
    pub fn iter(&self) -> impl Iterator<Item = &LockName> {
        self.0.iter()
    }

    /// Whether all of these are among them.
    pub fn covers(&self, wanted: &Self) -> bool {
        wanted.0.is_subset(&self.0)
    }

    /// The last one taken: what the set is mostly about.
    pub fn last(&self) -> Option<&LockName> {
        self.0.last()
    }
}

impl FromIterator<LockName> for LockSet {
    fn from_iter<T: IntoIterator<Item = LockName>>(names: T) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A lock was asked for while one that comes after it was held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lock of {wanted} was asked for while that of {held} is held, which comes after it")]
pub struct OutOfOrder {
    /// Held.
    pub held: LockName,
    /// Asked for.
    pub wanted: LockName,
}

/// Whether locks may be taken by one who holds others. Asking again for one that is held is
/// refused too: it would wait for itself.
pub fn check_order<'a>(
    held: impl IntoIterator<Item = &'a LockName>,
    wanted: &LockSet,
) -> Result<(), OutOfOrder> {
    let Some(first) = wanted.iter().next() else { return Ok(()) };
    match held.into_iter().max() {
        Some(last) if last >= first => {
            Err(OutOfOrder { held: last.clone(), wanted: first.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

/// What a file in the folder of volumes or workloads locks; `None` when its name is a hash.
pub fn of_file(folder: Folder, file: &str) -> Option<LockName> {
    match folder {
        Folder::Volumes => {
            let (workload, volume) = file.split_once('.')?;
            (is_id(workload) && is_id(volume)).then(|| LockName::volume(workload, volume))
        }
        Folder::Workloads => is_id(file).then(|| LockName::workload(file)),
    }
}

/// Where the locks of one kind lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// `v`
    Volumes,
    /// `w`
    Workloads,
}

impl Folder {
    /// Name of the folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volumes => "v",
            Self::Workloads => "w",
        }
    }
}

/// `[a-z0-9][a-z0-9-]{0,62}`
fn is_id(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(|&c| plain(c));
    first && bytes.len() <= PART_MAX && bytes.iter().all(|&c| plain(c) || c == b'-')
}

fn hashed(parts: &[&String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("_{}", &hasher.finalize().to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_with_slash_dots_300_chars_unicode() {
        let long = "x".repeat(300);
        let odd = ["", ".", "..", "../../etc/passwd", "a/b", "a.b", "A", "ä", "-a", "a\0b", &long];
        let mut files = BTreeSet::new();
        for name in odd {
            let file = LockName::workload(name).file();
            assert!(file.starts_with('_') && file.len() == 33, "{name:?}: {file}");
            assert!(files.insert(file), "{name:?} clashes");
        }
        assert_eq!(LockName::workload("web-1").file(), "web-1");
        assert_eq!(LockName::volume("web", "data").file(), "web.data");
        assert!(LockName::volume("web", "../x").file().starts_with('_'));
        assert_ne!(LockName::volume("a", "B").file(), LockName::volume("A", "b").file());
    }

    #[test]
    fn the_order_is_instance_gc_volumes_workloads() {
        let set: LockSet = [
            LockName::workload("a"),
            LockName::volume("b", "x"),
            LockName::Gc,
            LockName::volume("a", "y"),
            LockName::Instance,
        ]
        .into_iter()
        .collect();
        let order: Vec<_> = set.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["instance", "gc", "volume a/y", "volume b/x", "workload a"]);
    }

    #[test]
    fn taking_upwards_is_caught() {
        let held = [LockName::volume("a", "x"), LockName::workload("m")];
        let up = LockSet::one(LockName::volume("b", "x"));
        let refused = check_order(&held, &up).expect_err("upwards");
        assert_eq!(
            refused.to_string(),
            "the lock of volume b/x was asked for while that of workload m is held, which comes \
             after it"
        );
        assert!(check_order(&held, &LockSet::one(LockName::workload("m"))).is_err(), "itself");
        assert_eq!(check_order(&held, &LockSet::one(LockName::workload("n"))), Ok(()));
        assert_eq!(check_order(&[], &up), Ok(()));
    }

    proptest! {
        #[test]
        fn a_file_name_stays_in_its_folder_and_reads_back(workload in ".{0,80}", volume in "[a-z0-9.-]{0,70}") {
            for (folder, name) in [
                (Folder::Workloads, LockName::workload(&workload)),
                (Folder::Volumes, LockName::volume(&workload, &volume)),
            ] {
                let file = name.file();
                prop_assert!(!file.contains('/') && !file.is_empty() && file.len() < 256);
                prop_assert!(file != "." && file != "..");
                match of_file(folder, &file) {
                    Some(read) => prop_assert_eq!(read, name),
                    None => prop_assert!(file.starts_with('_')),
                }
            }
        }
    }
}
