//! One entry of a tree, as captured, archived and staged.

use std::collections::BTreeMap;

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Container path without its leading slash.
    pub(crate) path: Vec<u8>,
    /// Permission bits and the sticky bit; set-id bits are never carried.
    pub(crate) mode: u32,
    pub(crate) mtime: Mtime,
    /// Extended attributes of the `user` namespace, by full name.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) body: Body,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Directory,
    File {
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an earlier file of the same tree.
    HardLink {
        to: Vec<u8>,
    },
}

/// Mode bits that travel: permissions and sticky, which grants nothing.
pub(crate) const MODE_MASK: u32 = 0o1777;

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanos: u32,
}
