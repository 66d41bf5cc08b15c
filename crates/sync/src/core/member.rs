//! One entry of a tree, as captured, archived and staged.

use std::collections::BTreeMap;

use super::ownership::{Owner, SET_ID};

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Container path without its leading slash.
    pub(crate) path: Vec<u8>,
    /// Permission bits, the sticky bit and the set-id bits; the last of files and directories alone.
    pub(crate) mode: u32,
    /// Whom it belongs to; of another name of a file nobody, since the file says it.
    pub(crate) owner: Owner,
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

/// Mode bits that travel.
pub(crate) const MODE_MASK: u32 = 0o7777;

impl Member {
    /// Makes it another name of an earlier file.
    pub(crate) fn link_to(&mut self, to: Vec<u8>) {
        self.body = Body::HardLink { to };
        self.mode &= !SET_ID;
        self.owner = Owner::default();
    }

    /// Whether it has an owner or set-id bits of its own, which not every reader of trees knows.
    pub(crate) fn is_owned(&self) -> bool {
        self.mode & SET_ID != 0 || !self.owner.is_volumes()
    }
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanos: u32,
}
