//! The canonical form of a tree, its content id, and the rules every tree keeps.
//!
//! Entries arrive in canonical order: paths compared part by part as bytes, so that a directory is
//! directly followed by what is in it. That order, held strictly, makes duplicates impossible and
//! lets each parent be checked against the chain of open directories: no entry can lie below a
//! symlink or a file. The form is written down in `docs/sync.md`.

use std::collections::BTreeMap;

use belay_protocol::Cid;

use super::member::{Body, MODE_MASK, Member};
use super::ownership::SET_ID;
use super::path::{ContainerPath, DEPTH_MAX, NAME_MAX, PATH_MAX};

/// Longest target of a symlink, in bytes.
pub(crate) const TARGET_MAX: usize = 4095;
/// Most bytes of names and values of the extended attributes of one entry.
pub(crate) const XATTRS_MAX: usize = 64 * 1024;

/// How much a tree may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) members: u64,
    /// Sum of file sizes, in bytes.
    pub(crate) content: u64,
}

/// Entries no tree may exceed.
pub(crate) const MEMBERS_MAX: u64 = 1_000_000;

/// A tree, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TreeSummary {
    pub(crate) cid: Cid,
    pub(crate) members: u64,
    pub(crate) content: u64,
    /// Whether an entry has an owner or set-id bits of its own.
    pub(crate) owned: bool,
    /// Content id of the tree as it was settled; the same if nothing was altered.
    pub(crate) held: Cid,
}

/// Why a sequence of entries is not a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeFault {
    #[error("{path:?} is not a path within a tree")]
    Path { path: String },
    #[error("{path:?} lies outside the declared paths")]
    Outside { path: String },
    #[error("{path:?} is out of order or named twice")]
    Order { path: String },
    #[error("{path:?} is not in a directory of the tree")]
    Parent { path: String },
    #[error("{path:?} belongs to an id that no file can have")]
    Owner { path: String },
    #[error("{path:?} has a mode, a link or attributes that no tree holds")]
    Attributes { path: String },
    #[error("the tree has more than {limit} entries")]
    TooManyMembers { limit: u64 },
    #[error("the files of the tree hold more than {limit} bytes")]
    TooMuchContent { limit: u64 },
    #[error("the declared path {path} is not in the tree")]
    RootMissing { path: String },
}

/// Checks a tree entry by entry and computes its content id.
#[derive(Debug)]
pub(crate) struct TreeIndex {
    roots: Vec<ContainerPath>,
    unseen: Vec<ContainerPath>,
    limits: Limits,
    hasher: blake3::Hasher,
    /// The same over entries as they were settled, from the first on that was altered.
    held: Option<Box<blake3::Hasher>>,
    owned: bool,
    last: Option<Vec<u8>>,
    /// Directories that hold the place for the next entry, outermost first.
    open: Vec<Vec<u8>>,
    members: u64,
    content: u64,
}

impl TreeIndex {
    /// A tree over `roots`, which are minimal and in order.
    pub(crate) fn new(roots: &[ContainerPath], limits: Limits) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"belay tree 1\nowner volume-root\n");
        field(&mut hasher, &(roots.len() as u64).to_le_bytes());
        for root in roots {
            field(&mut hasher, root.as_str().as_bytes());
        }
        let limits = Limits { members: limits.members.min(MEMBERS_MAX), ..limits };
        Self {
            roots: roots.to_vec(),
            unseen: roots.to_vec(),
            limits,
            hasher,
            held: None,
            owned: false,
            last: None,
            open: Vec::new(),
            members: 0,
            content: 0,
        }
    }

    /// Checks the next entry before anything is done with it.
    pub(crate) fn admit(&mut self, member: &Member) -> Result<(), TreeFault> {
        let shown = || String::from_utf8_lossy(&member.path).chars().take(200).collect::<String>();
        if !is_tree_path(&member.path) {
            return Err(TreeFault::Path { path: shown() });
        }
        if self.last.as_ref().is_some_and(|last| !parts(last).lt(parts(&member.path))) {
            return Err(TreeFault::Order { path: shown() });
        }
        while self.open.last().is_some_and(|dir| !is_below(&member.path, dir)) {
            self.open.pop();
        }
        if self.roots.iter().any(|root| root.as_member() == member.path) {
            self.unseen.retain(|root| root.as_member() != member.path);
        } else if !self.roots.iter().any(|root| is_below(&member.path, root.as_member())) {
            return Err(TreeFault::Outside { path: shown() });
        } else if self.open.last().map(Vec::as_slice) != parent(&member.path) {
            return Err(TreeFault::Parent { path: shown() });
        }
        if !member.owner.is_lawful() {
            return Err(TreeFault::Owner { path: shown() });
        }
        if !has_lawful_attributes(member) {
            return Err(TreeFault::Attributes { path: shown() });
        }
        self.members += 1;
        if self.members > self.limits.members {
            return Err(TreeFault::TooManyMembers { limit: self.limits.members });
        }
        if let Body::File { size } = member.body {
            self.content = self.content.saturating_add(size);
            if self.content > self.limits.content {
                return Err(TreeFault::TooMuchContent { limit: self.limits.content });
            }
        }
        if member.body == Body::Directory {
            self.open.push(member.path.clone());
        }
        self.owned |= member.is_owned();
        self.last = Some(member.path.clone());
        Ok(())
    }

    /// Takes an admitted entry into the content id; `digest` is the BLAKE3 of a file's content and
    /// of nothing for other entries.
    pub(crate) fn record(&mut self, member: &Member, digest: &[u8; 32]) {
        self.record_settled(member, member, digest);
    }

    /// The same of an entry that a volume holds in the form `settled`.
    pub(crate) fn record_settled(&mut self, member: &Member, settled: &Member, digest: &[u8; 32]) {
        if self.held.is_none() && settled != member {
            self.held = Some(Box::new(self.hasher.clone()));
        }
        if let Some(held) = &mut self.held {
            record(held, settled, digest);
        }
        record(&mut self.hasher, member, digest);
    }

    /// The whole tree; every declared path must have been seen.
    pub(crate) fn finish(self) -> Result<TreeSummary, TreeFault> {
        if let Some(root) = self.unseen.first() {
            return Err(TreeFault::RootMissing { path: root.to_string() });
        }
        let cid = |hasher: &blake3::Hasher| Cid::from_digest(*hasher.finalize().as_bytes());
        Ok(TreeSummary {
            cid: cid(&self.hasher),
            members: self.members,
            content: self.content,
            owned: self.owned,
            held: cid(self.held.as_deref().unwrap_or(&self.hasher)),
        })
    }
}

fn record(hasher: &mut blake3::Hasher, member: &Member, digest: &[u8; 32]) {
    field(hasher, &member.path);
    if !member.owner.is_volumes() {
        field(hasher, b"owned");
        for id in [member.owner.user, member.owner.group] {
            field(hasher, id.map(u32::to_le_bytes).as_ref().map_or(&[], |id| &id[..]));
        }
    }
    match &member.body {
        Body::Directory => {
            field(hasher, b"directory");
            field(hasher, &member.mode.to_le_bytes());
        }
        Body::File { size } => {
            field(hasher, b"file");
            field(hasher, &member.mode.to_le_bytes());
            field(hasher, &size.to_le_bytes());
            field(hasher, digest);
        }
        Body::Symlink { target } => {
            field(hasher, b"symlink");
            field(hasher, target);
        }
        Body::HardLink { to } => {
            field(hasher, b"hardlink");
            field(hasher, to);
        }
    }
    field(hasher, &(member.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &member.xattrs {
        field(hasher, name);
        field(hasher, value);
    }
}

/// Length first, so that no two sequences of fields share an encoding.
fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

pub(crate) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
}

/// Whether `path` lies strictly below `ancestor`; the empty path is the root of all.
pub(crate) fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    ancestor.is_empty()
        || path.strip_prefix(ancestor).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash])
}

pub(crate) fn is_tree_path(path: &[u8]) -> bool {
    path.len() < PATH_MAX
        && !path.contains(&0)
        && parts(path).count() <= DEPTH_MAX
        && parts(path).all(|part| !matches!(part, b"" | b"." | b"..") && part.len() <= NAME_MAX)
}

/// Whether a symbolic link can lead there. Where that is does not matter: nothing follows it.
pub(crate) fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= TARGET_MAX && !target.contains(&0)
}

/// Whether an entry can have these extended attributes.
pub(crate) fn are_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> bool {
    let size: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let named = xattrs.keys().all(|name| {
        name.starts_with(b"user.") && name.len() > 5 && name.len() <= 255 && !name.contains(&0)
    });
    named && size <= XATTRS_MAX
}

fn has_lawful_attributes(member: &Member) -> bool {
    let body = match &member.body {
        Body::Directory | Body::File { .. } => true,
        Body::Symlink { target } => {
            is_target(target) && member.xattrs.is_empty() && member.mode & SET_ID == 0
        }
        Body::HardLink { to } => {
            is_tree_path(to)
                && parts(to).lt(parts(&member.path))
                && member.xattrs.is_empty()
                && !member.is_owned()
        }
    };
    body && are_xattrs(&member.xattrs)
        && member.mode & !MODE_MASK == 0
        && member.mtime.nanos < 1_000_000_000
}

#[cfg(test)]
mod tests;
